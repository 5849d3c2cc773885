"""`python -m hmq_lab` is `hmq-lab`, also from a checkout that was not installed."""

import sys

from hmq_lab.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
