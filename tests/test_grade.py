"""A class is graded: each submission in its own process, with a time limit, a verdict for each
exercise.
"""

import csv
import json
import subprocess
import time
from dataclasses import asdict, fields
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from hmq_lab.commands import grade, grade_worker
from hmq_lab.commands.main import main

IMPORTS = "from hmq_lab import checks"
LARGEST = "def largest(bits, threshold):\n    return threshold - 2 * threshold / 2**bits"
STUB = "def mean_bits(sizes, bits):\n    raise NotImplementedError"
CHECKS = ("checks.largest(largest)", "checks.mean_bits(mean_bits)")
WRONG = "def largest(bits, threshold):\n    return threshold"


def submit(folder, student, *cells):
    """A notebook of a student, with the name of lesson 00."""
    path = folder / student / "00_start_here.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in (IMPORTS, *cells)]), path)
    return path


def verdicts(grades):
    return [row.verdict for row in grades]


def test_the_exercises_of_a_lesson_are_known():
    assert grade.exercises("00_start_here") == ["largest", "mean_bits"]
    assert grade.exercises("01_power_of_two_quantizers") == [
        "step",
        "to_codes",
        "released",
        "rescale",
    ]


def test_a_submission_is_found_by_the_lesson_in_its_name(tmp_path):
    for name in ("anna/00_start_here.ipynb", "00_start_here-ben.ipynb", "notes.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    checkpoint = tmp_path / "anna" / ".ipynb_checkpoints" / "00_start_here-checkpoint.ipynb"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in grade.find(tmp_path)]
    assert found == ["00_start_here-ben.ipynb", "anna/00_start_here.ipynb"]


def test_a_class_is_graded(tmp_path, capsys):
    folder = tmp_path / "class"
    submit(folder, "a_right", LARGEST, CHECKS[0], STUB, CHECKS[1])
    # An error in one cell does not hide the verdict on the next exercise.
    submit(folder, "b_wrong_and_crashing", WRONG, CHECKS[0], "def mean_bits(:", CHECKS[1])
    submit(folder, "c_gone", LARGEST, CHECKS[0], "import os; os._exit(3)", STUB, CHECKS[1])
    assert (
        main(
            [
                "grade",
                str(folder),
                "--out",
                str(tmp_path / "grades.csv"),
                "--jobs",
                "2",
                "--limit",
                "120",
            ]
        )
        == 0
    )
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["submission"].split("/")[0], row["check"]): row["verdict"] for row in rows}
    assert found == {
        ("a_right", "largest"): "right",
        ("a_right", "mean_bits"): "not attempted",
        ("b_wrong_and_crashing", "largest"): "wrong",
        ("b_wrong_and_crashing", "mean_bits"): "crashed",
        ("c_gone", "largest"): "right",
        ("c_gone", "mean_bits"): "crashed",
    }
    assert [row["exercise"] for row in rows] == ["1", "2"] * 3
    messages = {row["submission"].split("/")[0] + row["check"]: row["message"] for row in rows}
    assert messages["b_wrong_and_crashingmean_bits"] == "NameError: name 'mean_bits' is not defined"
    assert messages["c_gonemean_bits"] == "the notebook's process ended before its last cell"
    assert "6 verdicts written to" in capsys.readouterr().out


def test_a_submission_without_end_is_ended_and_keeps_what_was_judged(tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    endless = f"from pathlib import Path\nPath({str(begun)!r}).touch()\nwhile True: pass"
    path = submit(tmp_path, "endless", LARGEST, CHECKS[0], endless)
    processes, wait = [], subprocess.Popen.wait

    def impatient(process, timeout=None):
        """The limit passes when the endless cell has begun, however busy this machine is."""
        if timeout is None:
            return wait(process)
        processes.append(process)
        while not begun.exists() and process.poll() is None:
            time.sleep(0.1)
        return wait(process, 0.1)

    monkeypatch.setattr(subprocess.Popen, "wait", impatient)
    grades = grade.grade(path, tmp_path, limit=20)
    assert verdicts(grades) == ["right", "time limit"]
    assert grades[1].message == "the notebook did not end within 20 s"
    assert processes[0].poll() is not None


def test_on_windows_a_process_ends_with_those_that_it_started(monkeypatch):
    asked, waited = [], []
    process = SimpleNamespace(pid=4711, wait=lambda: waited.append(True))
    monkeypatch.setattr(grade.sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: asked.append(command))
    grade.end(process)
    assert asked == [["taskkill", "/F", "/T", "/PID", "4711"]] and waited == [True]


def test_a_check_that_was_deleted_is_missing(tmp_path, monkeypatch):
    path = submit(tmp_path, "anna")
    monkeypatch.setattr(grade, "run", lambda notebook, limit: ([{"done": True}], True))
    assert verdicts(grade.grade(path, tmp_path, 1)) == ["missing", "missing"]


def test_the_last_verdict_of_an_exercise_counts(tmp_path, monkeypatch):
    path = submit(tmp_path, "anna")
    said = [
        {"check": "largest", "passed": passed, "message": "."} for passed in (None, False, True)
    ]
    monkeypatch.setattr(grade, "run", lambda notebook, limit: ([*said, {"done": True}], True))
    assert verdicts(grade.grade(path, tmp_path, 1)) == ["right", "missing"]


def test_a_table_is_no_program_for_a_spreadsheet(tmp_path):
    row = grade.Grade(
        "=1+1/00_start_here.ipynb", "00_start_here", 1, "largest", "wrong", 'x, "y"\nz'
    )
    grade.write(
        [asdict(row)], [column.name for column in fields(grade.Grade)], tmp_path / "grades.csv"
    )
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        read = next(csv.DictReader(file))
    assert read["submission"] == "'=1+1/00_start_here.ipynb" and read["message"] == 'x, "y"\nz'


def test_predictions_are_collected(tmp_path, monkeypatch, capsys):
    submit(tmp_path / "class", "anna")
    for student, text in (
        (
            "anna",
            json.dumps(
                {"00": {"predictions": {"levels": {"prediction": "7", "result": "8"}, "best": {}}}}
            ),
        ),
        ("ben", "{ damaged"),
        ("eve", json.dumps({"00": 3})),
        ("kim", json.dumps({"00": {"predictions": ["x"]}})),
        ("leo", json.dumps({"00": {"predictions": {"levels": "7"}}})),
    ):
        path = tmp_path / "class" / student / grade.PROGRESS
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(grade, "run", lambda notebook, limit: ([{"done": True}], True))
    monkeypatch.chdir(tmp_path)
    assert main(["grade", "class", "--predictions", "predictions.csv"]) == 0
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines() == [
        "folder,lesson,name,prediction,result",
        "anna,00,levels,7,8",
        "anna,00,best,,",
    ]
    assert "2 predictions written to predictions.csv" in capsys.readouterr().out


def test_small_parameters_stand_behind_those_of_the_lesson():
    cells = [
        new_code_cell("n = 6", metadata={grade_worker.QUICK: {"n": 1, "name": "a"}}),
        new_code_cell("n"),
    ]
    assert grade_worker.sources({"cells": cells}) == ["n = 6", "n = 1\nname = 'a'", "n"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no folder nowhere"),
        ([".", "--jobs", "0"], "--jobs must be from 1 on, got 0"),
        ([".", "--limit", "0"], "--limit must be more than 0 seconds, got 0"),
        (["."], "no notebook below . has the name of a lesson"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["grade", *arguments]) == 2
    assert words in capsys.readouterr().err
