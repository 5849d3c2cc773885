"""The command `hmq-lab figures`: figures of a run, or of the paper, from records alone."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hmq_lab.commands.frame import BadInput, add_overwrite, needs


def add(commands: Any, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    command = commands.add_parser(
        "figures", help="draw the figures of a run", formatter_class=formatter
    )
    command.set_defaults(command=figures)
    command.add_argument(
        "run",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="a folder with a record.json, or a record; with --all, a folder of such folders "
        "(default: the package's "
        "records)",
    )
    command.add_argument(
        "--all",
        action="store_true",
        help="the paper's figures and tables, beside what it published",
    )
    command.add_argument(
        "--rivals",
        action="store_true",
        help="ways to choose bits side by side, from the results that come with the package",
    )
    command.add_argument(
        "--out",
        type=Path,
        help="where to (default: DIR/figures; with --all docs/figures/paper, with --rivals "
        "docs/figures/rivals)",
    )
    add_overwrite(command, "figures")


def figures(options: argparse.Namespace) -> int:
    """The command: prints the files that it writes."""
    # One of the three has to be said.
    if options.run is None and not (options.all or options.rivals):
        raise BadInput(
            "figures of what? Name the folder of a run, say --all for the paper's, or --rivals"
        )
    if options.rivals:
        paths = _rivals(options)
    elif options.all:
        paths = _paper(options)
    else:
        paths = draw(options.run, options.out, options.overwrite)
    for path in paths:
        print(path)
    return 0


def draw(run: Path, folder: Path | None = None, overwrite: bool = True) -> list[Path]:
    """Draw the figures of a run, and return their files.

    Args:
        run: the folder of a run, or a record.
        folder: where to; None is the folder `figures` beside the record.
        overwrite: whether figures that are there may be replaced.

    Raises:
        BadInput: figures are there already, or matplotlib is not installed.
    """
    from hmq_lab.runs import records

    # The record alone is enough.
    found = records.read(run)
    folder = folder or (run if run.is_dir() else run.parent) / "figures"
    # The plots are loaded only now: they take seconds.
    with needs("lab", "figures"):
        from hmq_lab.plots import FIGURES, write_all
    if not overwrite:
        _check_free(folder / f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))
    return write_all(found, folder)


def _paper(options: argparse.Namespace) -> list[Path]:
    """The paper's figures and tables from all records."""
    from hmq_lab.runs import records

    # The records of a folder, or those that come with the package.
    found = records.within(options.run) if options.run else records.matching()
    folder = options.out or Path("docs/figures/paper")
    with needs("lab", "figures"):
        from hmq_lab.plots import paper
    # Which figures there will be depends on the records; their names begin alike.
    if not options.overwrite and folder.is_dir():
        _check_free(
            path
            for path in sorted(folder.iterdir())
            if path.name.startswith(("figure_", "table_", "paper.md"))
        )
    return paper.write_paper(found, folder)


def _rivals(options: argparse.Namespace) -> list[Path]:
    """The figures of the bench of rivals."""
    # Neither a run nor the paper has them.
    if options.run is not None or options.all:
        raise BadInput("--rivals draws results of the package: name no run, and not --all")
    folder = options.out or Path("docs/figures/rivals")
    with needs("lab", "figures"):
        from hmq_lab.plots import rivals
    if not options.overwrite:
        kinds = itertools.product(rivals.FIGURES, ("png", "svg"))
        _check_free(folder / f"{name}.{kind}" for name, kind in kinds)
    return rivals.write_rivals(folder)


def _check_free(paths: Iterable[Path]) -> None:
    """Raise `BadInput` that names the first file that is there."""
    for path in paths:
        if path.exists():
            raise BadInput(f"{path} is there already: --overwrite, or another --out")
