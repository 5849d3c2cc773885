"""The hand-out: a lesson for a class, without solutions and outputs, that `grade` runs with small
parameters.
"""

import doctest
import functools
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import nbformat
import pytest

from hmq_lab import checks
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


# nbgrader's published schema of a cell's metadata, version 3.
NBGRADER = {
    "type": "object",
    "properties": {
        "schema_version": {"type": "integer", "minimum": 3, "maximum": 3},
        "grade": {"type": "boolean"},
        "locked": {"type": "boolean"},
        "solution": {"type": "boolean"},
        "task": {"type": "boolean"},
        "grade_id": {"type": "string", "pattern": "^[a-zA-Z0-9_\\-]*$"},
        "points": {"type": "number", "minimum": 0},
    },
    "required": ["schema_version", "grade", "locked", "solution"],
    "additionalProperties": False,
}


def test_nbgrader_gives_a_point_for_each_check_and_leaves_the_stubs(lesson):
    source, notebook = lesson
    marked = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
    for cell in marked:
        found = cell.metadata["nbgrader"]
        jsonschema.validate(found, NBGRADER)
        # A cell of tests: its text is put back before it is run. nbgrader empties "solution" cells.
        assert (
            found["grade"]
            and found["locked"]
            and not found["solution"]
            and cell.cell_type == "code"
        )
        assert "check" in cell.metadata["tags"]
    assert [cell.metadata["nbgrader"]["grade_id"] for cell in marked] == grade.exercises(
        source.stem
    )


def test_under_nbgrader_a_check_that_is_not_satisfied_raises(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setenv("HMQ_LAB_PROGRESS", "off")
    right = checks.largest(lambda bits, threshold: threshold - 2 * threshold / 2**bits)
    wrong = checks.largest(lambda bits, threshold: threshold)
    missing = checks.largest(stub)
    for verdict in (right, wrong, missing):
        verdict._ipython_display_()
    before = len(shown)
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    right._ipython_display_()
    for verdict in (wrong, missing):
        with pytest.raises(AssertionError) as raised:
            verdict._ipython_display_()
        assert str(raised.value) == verdict.message
    # What is said is shown all the same.
    assert len(shown) == 2 * before > 0


def stub(bits, threshold):
    raise NotImplementedError


def test_otter_runs_the_check_behind_its_cell_and_shows_what_it_says(build, tmp_path):
    notebook = build.edition(SOURCES[0], build.HANDOUT)
    tests = notebook.metadata["otter"]["tests"]
    assert notebook.metadata["otter"]["OK_FORMAT"] is True
    asked = [cell.metadata["otter"]["tests"] for cell in notebook.cells if "otter" in cell.metadata]
    assert asked == [[name] for name in grade.exercises(SOURCES[0].stem)] == [[n] for n in tests]
    # The files that `otter generate` packs say the same.
    build.write_tests(notebook, tmp_path)
    for name, test in tests.items():
        scope = {}
        exec((tmp_path / f"{name}.py").read_text(encoding="utf-8"), scope)
        assert scope["OK_FORMAT"] is True and scope["test"] == test
        assert test["name"] == name and test["points"] == 1 and len(test["suites"]) == 1

    # Otter runs a case as a doctest among the names of the notebook.
    code = tests["largest"]["suites"][0]["cases"][0]["code"]
    answers = {
        "right": lambda bits, threshold: threshold - 2 * threshold / 2**bits,
        "wrong": lambda bits, threshold: threshold,
    }
    failed = {}
    for word, answer in answers.items():
        said = io.StringIO()
        names = {"checks": checks, "largest": answer}
        example = doctest.DocTestParser().get_doctest(code, names, "largest", None, None)
        failed[word] = doctest.DocTestRunner().run(example, out=said.write).failed
    assert failed == {"right": 0, "wrong": 1}
    assert checks.largest(answers["wrong"]).message.split(":")[0] in said.getvalue()


def test_the_command_writes_the_lessons_that_it_names(tmp_path):
    command = [sys.executable, str(NOTEBOOKS / "build.py"), "--handout", str(tmp_path), "00", "02"]
    subprocess.run(command, check=True, capture_output=True)
    assert [path.name[:2] for path in sorted(tmp_path.glob("*.ipynb"))] == ["00", "02"]
    packed = tmp_path / "otter" / "02_threshold_and_bits"
    assert {path.stem for path in packed.iterdir()} == set(grade.exercises(packed.name))
    parameters = nbformat.read(tmp_path / "02_threshold_and_bits.ipynb", as_version=4).cells[1]
    assert parameters.metadata.tags == ["parameters"] and parameters.metadata.get(QUICK)
