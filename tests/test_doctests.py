"""The examples of every docstring run, and print what the docstring says."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "hmq_lab"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ROOMS = ("checks", "data", "explorers", "hardware", "models", "plots", "rivals", "runs")

# Modules with an example that does not run yet. The list only ever shrinks.
UNFINISHED: set[str] = set()


def module_names() -> list[str]:
    """Every module of the package; `python -m hmq_lab` is no module to import."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def examples(module) -> list[doctest.DocTest]:
    """The docstrings of a module that state an output."""
    # What an example may use without importing it: torch and the rooms, as a reader of the lessons
    # has them.
    shared = {room: importlib.import_module(f"hmq_lab.{room}") for room in ROOMS}
    names = {"torch": torch} | shared | vars(module)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__, globs=names)
    return [test for test in found if any(example.want for example in test.examples)]


@pytest.mark.parametrize("name", module_names())
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch, request):
    if name in UNFINISHED:
        request.applymarker(pytest.mark.xfail(strict=False, reason="examples to be mended"))
    monkeypatch.chdir(tmp_path)
    faults: list[str] = []
    for test in examples(importlib.import_module(name)):
        torch.manual_seed(0)
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test, out=faults.append)
    assert not faults, "\n".join(faults)


def test_a_wrong_output_is_found():
    module = type(doctest)("hmq_lab.invented")
    module.__doc__ = ">>> 1 + 1\n3\n"
    faults: list[str] = []
    for test in examples(module):
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=faults.append)
    assert len(faults) == 1 and "Got:\n    2" in faults[0]
