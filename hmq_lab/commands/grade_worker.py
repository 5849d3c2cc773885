"""The process that runs one submission: python -m hmq_lab.commands.grade_worker NOTEBOOK NOTES.

It notes one line of JSON for each verdict, at once, so that what was judged before a time limit
counts. A cell that raises an error does not keep the cells below it from running, as a reader would
run them.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TextIO

from hmq_lab import checks
from hmq_lab.commands.grade import CALLED

# Metadata of the cell with parameters: small values that are enough for the checks.
QUICK = "hmq_lab_quick"


def note(file: TextIO, **event) -> None:
    """Write an event as a line, past all buffers."""
    file.write(json.dumps(event) + "\n")
    file.flush()


def listen(file: TextIO) -> None:
    """Note what every check says from now on."""

    def listening(name: str, judge):
        @functools.wraps(judge)
        def judged(*arguments, **options):
            verdict = judge(*arguments, **options)
            note(file, check=name, passed=verdict.passed, message=" ".join(verdict.message.split()))
            return verdict

        return judged

    for name in checks.__all__:
        if name != "Verdict":
            setattr(checks, name, listening(name, getattr(checks, name)))


def sources(notebook: dict) -> list[str]:
    """The code of a notebook, cell by cell, with the quick parameters behind those of the lesson.

    >>> cell = {"cell_type": "code", "source": ["n = 6"], "metadata": {QUICK: {"n": 1}}}
    >>> sources({"cells": [cell]})
    ['n = 6', 'n = 1']
    """
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        found.append("".join(cell["source"]))
        quick = cell["metadata"].get(QUICK)
        if quick:
            found.append("\n".join(f"{name} = {value!r}" for name, value in quick.items()))
    return found


def main(notebook: Path, notes: Path) -> None:
    """Run the cells of a notebook and note the verdicts of its checks."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    with notes.open("a", encoding="utf-8") as file:
        listen(file)
        for source in sources(json.loads(notebook.read_text(encoding="utf-8"))):
            result = shell.run_cell(source)
            error = result.error_before_exec or result.error_in_exec
            called = [name for name in CALLED.findall(source) if name in checks.__all__]
            if error is not None and called:
                note(
                    file,
                    error=f"{type(error).__name__}: {' '.join(str(error).split())}",
                    checks=called,
                )
        note(file, done=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
