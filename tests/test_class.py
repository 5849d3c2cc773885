"""A class: a lesson is handed out, the copies come back right, wrong, crashing, endless and damaged,
and `hmq-lab grade` writes a table that is right in every row.

Six short copies are an ordinary test. A class of sixty with the whole lesson takes minutes:

    pytest -m long -s tests/test_class.py
"""

import copy
import csv
import importlib.util
import re
import time
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
import pytest

from hmq_lab.commands.main import main

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSON = "01_power_of_two_quantizers"
CLASS, JOBS = 60, 2  # students, notebooks at a time
PATIENCE = 600  # seconds for a notebook that ends, however busy the machine is


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    """The lesson as a class gets it: written to a file and read again."""
    spec = importlib.util.spec_from_file_location("build_class", NOTEBOOKS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    path = tmp_path_factory.mktemp("handout") / f"{LESSON}.ipynb"
    build.write(build.edition(NOTEBOOKS / "source" / f"{LESSON}.py", build.HANDOUT), path)
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def solutions():
    cells = jupytext.read(NOTEBOOKS / "source" / f"{LESSON}.py", fmt="py:percent").cells
    return [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def body(stub, line):
    """The reader's function with another body."""
    return stub.replace("raise NotImplementedError", line)


# What a student wrote in place of the last two exercises of four, and the four verdicts. The first
# two are solved, or else it is said below.
KINDS = {
    "right": (None, ["right"] * 4),
    "wrong": (lambda stub: body(stub, "return 0"), ["right", "right", "wrong", "wrong"]),
    "raising": (lambda stub: body(stub, "return 1 / 0"), ["right", "right", "wrong", "wrong"]),
    "open": (lambda stub: stub, ["right", "right", "not attempted", "not attempted"]),
    "no Python": (lambda stub: "def (:", ["right", "right", "crashed", "crashed"]),
    "exiting": (lambda stub: "import os; os._exit(3)", ["right", "right", "crashed", "crashed"]),
    "endless": (
        lambda stub: body(stub, "while True: __import__('time').sleep(1)"),
        ["right", "right", "time limit", "time limit"],
    ),
    "busy": (
        lambda stub: body(stub, "while True: pass"),
        ["right", "right", "time limit", "time limit"],
    ),
    "deleted": (None, ["right", "missing", "right", "right"]),
    "cut off": (None, ["crashed"] * 4),
}
SIX = ("right", "wrong", "no Python", "exiting", "endless", "deleted")
# Endless ones are few: each of them takes the whole limit.
SIXTY = {
    "right": 18,
    "wrong": 9,
    "raising": 7,
    "open": 6,
    "no Python": 5,
    "exiting": 5,
    "endless": 3,
}
SIXTY |= {"busy": 1, "deleted": 3, "cut off": 3}


def hand_in(folder, handout, solutions, kind):
    """Write the copy of one student into a folder."""
    notebook = copy.deepcopy(handout)
    change, _ = KINDS[kind]
    for number, stub in enumerate(tagged(notebook, "stub")):
        is_changed = change is not None and number >= 2
        stub.source = change(stub.source) if is_changed else solutions[number]
    if kind == "deleted":
        notebook.cells.remove(tagged(notebook, "check")[1])
    text = nbformat.writes(notebook)
    folder.mkdir(parents=True)
    written = text[: len(text) // 2] if kind == "cut off" else text
    (folder / f"{LESSON}.ipynb").write_text(written, encoding="utf-8")


def graded(folder, table, limit):
    """Grade a folder by the command; the verdicts of each student, in the order of the exercises."""
    command = ["grade", str(folder), "--out", str(table), "--limit", f"{limit:.0f}"]
    assert main([*command, "--jobs", str(JOBS)]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        assert row["lesson"] == LESSON and row["message"]
        verdicts = found.setdefault(row["submission"].partition("/")[0], [])
        verdicts.append(row["verdict"])
        assert int(row["exercise"]) == len(verdicts)
    return found


def enough(handout, solutions, folder):
    """Seconds that are enough for a notebook which ends: four times what a right one takes now."""
    hand_in(folder / "first" / "right", handout, solutions, "right")
    began = time.monotonic()
    assert graded(folder / "first", folder / "first.csv", PATIENCE) == {"right": ["right"] * 4}
    return 20 + 4 * (time.monotonic() - began)


def short(handout):
    """A hand-out with nothing but what it imports, its exercises and their checks."""
    notebook = copy.deepcopy(handout)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = code[:2] + [cell for cell in code[2:] if cell.metadata.get("tags")]
    return notebook


@pytest.mark.timeout(600)
def test_six_copies_of_a_hand_out(handout, solutions, tmp_path):
    limit = enough(short(handout), solutions, tmp_path)
    for kind in SIX:
        hand_in(tmp_path / "class" / kind, short(handout), solutions, kind)
    found = graded(tmp_path / "class", tmp_path / "grades.csv", limit)
    assert found == {kind: KINDS[kind][1] for kind in SIX}


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_class_of_sixty(handout, solutions, tmp_path):
    students = [f"{kind}-{n}" for kind, count in SIXTY.items() for n in range(count)]
    assert len(students) == CLASS
    for student in students:
        kind = re.sub(r"-\d+$", "", student)
        hand_in(tmp_path / "class" / student, handout, solutions, kind)
    limit = enough(handout, solutions, tmp_path)
    began = time.monotonic()
    found = graded(tmp_path / "class", tmp_path / "grades.csv", limit)
    seconds = time.monotonic() - began
    assert found == {student: KINDS[re.sub(r"-\d+$", "", student)][1] for student in students}
    verdicts = Counter(verdict for four in found.values() for verdict in four)
    print(f"{CLASS} copies, {verdicts.total()} verdicts in {seconds:.0f} s: {dict(verdicts)}")
    print(f"{JOBS} notebooks at a time, a limit of {limit:.0f} s for each")
