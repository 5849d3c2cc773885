"""The lessons in JupyterLab: `hmq-lab lab` writes a working copy where there is none and opens
it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from hmq_lab.commands.lessons import copy

FOLDER = Path("hmq-lessons")
FIRST = "00_start_here.ipynb"
FILES = "hmq_lab.commands.lab_files.LessonFiles"  # to open and save a lesson changes nothing


def add(commands, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    made = commands.add_parser(
        "lab",
        help="open the lessons in JupyterLab",
        formatter_class=formatter,
        description="What stands behind -- goes to JupyterLab: hmq-lab lab -- --no-browser",
    )
    made.set_defaults(command=lab)
    made.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=FOLDER,
        metavar="DIR",
        help="of a working copy; the lessons are written there if there are none",
    )
    made.add_argument("jupyter", nargs="*", metavar="-- OPTION", help="options of JupyterLab")


def lab(options: argparse.Namespace) -> int:
    """The command: returns the exit code of JupyterLab when it is closed."""
    if find_spec("jupyterlab") is None:
        raise ValueError("the lessons need jupyterlab: pip install hmq_lab[lab]")
    if not (options.folder / FIRST).exists():
        print(f"{options.folder}: {copy(options.folder)}")
    return subprocess.run(arguments(options.folder, options.jupyter), check=False).returncode


def arguments(folder: Path, more: list[str]) -> list[str]:
    """The command line of JupyterLab: this Python's own, in that folder, with the first lesson
    open.

    >>> arguments(Path("lessons"), ["--no-browser"])[1:3]
    ['-m', 'jupyterlab']
    """
    root = folder.resolve()
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.contents_manager_class={FILES}",
        f"--LabApp.default_url=/lab/tree/{FIRST}",
        *more,
    ]
