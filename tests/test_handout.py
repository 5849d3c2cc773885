"""The hand-out: a lesson for a class, without solutions and outputs, that `grade` runs with small
parameters.
"""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from hmq_lab.commands import grade
from hmq_lab.commands.grade_worker import QUICK, sources

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted((NOTEBOOKS / "source").glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_handout", NOTEBOOKS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Each source is read once, however many editions are made of it.
    module.jupytext = SimpleNamespace(read=functools.cache(module.jupytext.read))
    return module


@pytest.fixture(scope="module", params=SOURCES, ids=lambda path: path.stem)
def lesson(request, build):
    return request.param, build.edition(request.param, build.HANDOUT)


def test_a_hand_out_has_the_exercises_and_no_solution(build, lesson):
    source, notebook = lesson
    solutions = [
        cell.source
        for cell in build.edition(source, "solutions").cells
        if cell.source not in {other.source for other in build.edition(source, "student").cells}
    ]
    written = "\n".join(cell.source for cell in notebook.cells)
    assert solutions, "the edition with solutions has none"
    assert not [solution for solution in solutions if solution in written]
    assert "<summary>Solution</summary>" not in written and "<summary>Hint</summary>" in written
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("stub") == tags.count("check") == len(grade.exercises(source.stem))


def test_a_hand_out_was_not_run(lesson):
    _, notebook = lesson
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


def test_a_hand_out_is_graded_with_small_parameters(build, lesson):
    source, notebook = lesson
    quick = build.edition(source, "student", quick=True)
    small = [cell.source for cell in quick.cells if cell.cell_type == "code"]
    assert [text for text in sources(notebook) if text] == [text for text in small if text]


def test_the_command_writes_the_lessons_that_it_names(tmp_path):
    command = [sys.executable, str(NOTEBOOKS / "build.py"), "--handout", str(tmp_path), "00", "02"]
    subprocess.run(command, check=True, capture_output=True)
    assert [path.name[:2] for path in sorted(tmp_path.glob("*.ipynb"))] == ["00", "02"]
    parameters = nbformat.read(tmp_path / "02_threshold_and_bits.ipynb", as_version=4).cells[1]
    assert parameters.metadata.tags == ["parameters"] and parameters.metadata.get(QUICK)
