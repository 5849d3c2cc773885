"""`python -m hmq_lab` is `hmq-lab`, also from a checkout that was not installed."""

import sys

from hmq_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
