"""The commands `hmq-lab explain` and `hmq-lab diagnose`: why these bits, and what went wrong."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hmq_lab.commands.frame import whole

WHAT = {
    "explain": "say why each weight of a run has its bits",
    "diagnose": "say what went wrong in a run",
}


def add(commands: Any, formatter: type) -> None:
    """Add both subcommands to `commands`, as argparse knows them."""
    for name, text in WHAT.items():
        command = commands.add_parser(name, help=text, formatter_class=formatter)
        command.set_defaults(command=explain if name == "explain" else diagnose)
        command.add_argument(
            "run",
            metavar="RUN",
            help="the folder of a run, a record, or the name of one that comes with hmq_lab",
        )
        command.add_argument("--json", action="store_true", help="all numbers, as JSON")
        command.add_argument(
            "--weights",
            type=Path,
            metavar="FILE",
            help="the float weights that the search began with, for a record without a network",
        )
        command.add_argument(
            "--images", type=whole(1), default=500, metavar="N", help="held images to measure on"
        )
        command.add_argument(
            "--root", type=Path, help="where data sets lie (default: $HMQ_LAB_DATA)"
        )


def explain(options: argparse.Namespace) -> int:
    """The command: prints a table, and a sentence for each weight."""
    from hmq_lab.rivals.explain import of_run

    found = of_run(options.run, weights=options.weights, count=options.images, root=options.root)
    print(json.dumps(asdict(found), indent=1) if options.json else found.table())
    return 0


def diagnose(options: argparse.Namespace) -> int:
    """The command: prints a line for each finding, and what could not be checked."""
    from hmq_lab.rivals.diagnose import of_run

    found = of_run(options.run, weights=options.weights, count=options.images, root=options.root)
    print(json.dumps(asdict(found), indent=1) if options.json else found.text())
    return 0
