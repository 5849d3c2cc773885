"""Grade a class: `hmq-lab grade FOLDER` runs every notebook of a folder and writes a table of
verdicts.

Each notebook runs in a process of its own, in an empty folder, with a time limit. Its checks say
what they think of each exercise, as they do in the lesson. Students can change what a check says:
the table is feedback, not an exam.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath

from hmq_lab.commands.lessons import shelf
from hmq_lab.data.files import check_writable, replacing

RIGHT, WRONG, OPEN = "right", "wrong", "not attempted"
CRASHED, ENDLESS, MISSING = "crashed", "time limit", "missing"
WORDS = {True: RIGHT, False: WRONG, None: OPEN}
# What a lesson keeps beside its notebook, when a student predicts a result.
PROGRESS = Path(".hmq_lab") / "progress.json"
PREDICTED = ["folder", "lesson", "name", "prediction", "result"]
CALLED = re.compile(r"\bchecks\.(\w+)\(")  # in a cell that judges an exercise


@dataclass(frozen=True)
class Grade:
    """The verdict on one exercise of one submission: a row of the table."""

    submission: str  # the notebook, as a path inside of the folder
    lesson: str
    exercise: int  # from 1 on
    check: str
    verdict: str  # right, wrong, not attempted, crashed, time limit, missing
    message: str


def exercises(lesson: str) -> list[str]:
    """The checks of a lesson's exercises, in their order.

    >>> exercises("00_start_here")
    ['largest', 'mean_bits']

    Raises:
        FileNotFoundError: there is no such lesson.
    """
    notebook = json.loads((shelf() / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    found: list[str] = []
    for cell in notebook["cells"]:
        if "check" in cell["metadata"].get("tags", []):
            found += CALLED.findall("".join(cell["source"]))
    return found


def lesson_of(submission: PurePath) -> str | None:
    """The lesson that a notebook is a copy of, from its name; None if its name holds no lesson's.

    >>> lesson_of(Path("anna/00_start_here-final (2).ipynb"))
    '00_start_here'
    """
    known = [path.stem for path in shelf().glob("[0-9]*.ipynb")]
    held = [name for name in known if name in submission.stem]
    return held[0] if held else None


def find(folder: Path) -> list[Path]:
    """The submissions in a folder and the folders in it: notebooks whose names hold a lesson's
    name.

    Raises:
        FileNotFoundError: there are none.
    """
    notebooks = [
        path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts
    ]
    submissions = [path for path in notebooks if lesson_of(path)]
    if not submissions:
        raise FileNotFoundError(
            f"no notebook below {folder} has the name of a lesson, such as 00_start_here.ipynb"
        )
    return submissions


def grade(submission: Path, folder: Path, limit: float) -> list[Grade]:
    """Run one notebook and return the verdict on each of its exercises.

    Args:
        submission: the notebook.
        folder: what its name is relative to in the grades.
        limit: seconds that the notebook may take.
    """
    lesson = lesson_of(submission)
    if lesson is None:
        raise ValueError(f"{submission} does not have the name of a lesson")
    events, ended = run(submission, limit)
    verdicts: dict[str, tuple[str, str]] = {}
    for event in events:
        if "check" in event:
            verdicts[event["check"]] = (WORDS[event["passed"]], event["message"])
        elif "error" in event:
            verdicts |= {check: (CRASHED, event["error"]) for check in event["checks"]}

    # What no check has said, for the whole notebook.
    if not ended:
        rest = (ENDLESS, f"the notebook did not end within {limit:g} s")
    elif not any("done" in event for event in events):
        rest = (CRASHED, "the notebook's process ended before its last cell")
    else:
        rest = (MISSING, "no cell of the notebook calls this check")
    name = submission.relative_to(folder).as_posix()
    return [
        Grade(name, lesson, number, check, *verdicts.get(check, rest))
        for number, check in enumerate(exercises(lesson), 1)
    ]


def run(notebook: Path, limit: float) -> tuple[list[dict], bool]:
    """Run a notebook in a process of its own; return what the process noted, and whether it ended
    in time.

    Args:
        notebook: the file; it is not changed.
        limit: seconds.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        work = Path(place) / "work"
        work.mkdir()
        notes = Path(place) / "notes.jsonl"
        notes.touch()
        command = [
            sys.executable,
            "-m",
            "hmq_lab.commands.grade_worker",
            str(notebook.resolve()),
            str(notes),
        ]
        process = subprocess.Popen(
            command,
            cwd=work,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HMQ_LAB_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A group of its own, so that what the notebook starts ends with it.
            start_new_session=True,
        )
        try:
            process.wait(limit)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            end(process)
        # A process that was ended may have been in the middle of its last line.
        complete = notes.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in complete if line.endswith("\n")], ended


def end(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False
        )
    else:
        import signal

        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def grade_all(folder: Path, limit: float, jobs: int = 1, say=print) -> list[Grade]:
    """The grades of all submissions in a folder, in the order of their names.

    Args:
        folder: with the notebooks, or with one folder for each student.
        limit: seconds for each notebook.
        jobs: how many notebooks run at a time.
        say: called with a line for each notebook that is done.
    """
    found: list[Grade] = []
    submissions = find(folder)
    with ThreadPoolExecutor(jobs) as pool:
        for grades in pool.map(lambda path: grade(path, folder, limit), submissions):
            found += grades
            counts = Counter(row.verdict for row in grades)
            words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            say(f"{grades[0].submission if grades else 'a lesson without exercises'}: {words}")
    return found


def predictions(folder: Path) -> list[dict[str, str]]:
    """What students predicted before a result showed, from the files that their lessons kept.

    Returns:
        A row for each prediction: folder, lesson, name, prediction, result. A prediction that was
        not made is empty.
    """
    rows = []
    for path in sorted(folder.rglob(PROGRESS.as_posix())):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            lessons = {lesson: entry["predictions"] for lesson, entry in kept.items()}
            found = []
            for lesson, named in sorted(lessons.items()):
                for name, facts in named.items():
                    row = {"folder": path.parent.parent.relative_to(folder).as_posix()}
                    row |= {"lesson": lesson, "name": name}
                    row |= {key: facts.get(key, "") for key in ("prediction", "result")}
                    found.append(row)
        except (ValueError, KeyError, TypeError, AttributeError):
            # A file that a student has damaged does not keep the others from being read.
            continue
        rows += found
    return rows


def write(rows: list[dict], columns: list[str], path: Path) -> None:
    """Write rows as CSV with a line of headings."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        # A spreadsheet would compute what begins like a formula.
        table.writerow(
            {
                name: f"'{v}" if str(v).startswith(("=", "+", "-", "@")) else v
                for name, v in row.items()
            }
        )
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def add(commands, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    made = commands.add_parser(
        "grade",
        help="run the submissions of a class and write a verdict for each exercise",
        formatter_class=formatter,
        description="Runs the code of the notebooks: use it for people whom you trust.",
    )
    made.set_defaults(command=main)
    made.add_argument(
        "folder", type=Path, metavar="FOLDER", help="of notebooks, or of a folder for each student"
    )
    made.add_argument(
        "--out", type=Path, default=Path("grades.csv"), metavar="FILE", help="the table to write"
    )
    made.add_argument(
        "--predictions", type=Path, metavar="FILE", help="write what the students predicted, too"
    )
    made.add_argument(
        "--limit", type=float, default=600, metavar="S", help="seconds for each notebook"
    )
    made.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="notebooks that run at a time"
    )


def main(options: argparse.Namespace) -> int:
    """The command: exit code 0 when the table is written, whatever its verdicts are."""
    if options.jobs < 1:
        raise ValueError(f"--jobs must be from 1 on, got {options.jobs}")
    if not options.limit > 0:
        raise ValueError(f"--limit must be more than 0 seconds, got {options.limit:g}")
    if not options.folder.is_dir():
        raise ValueError(f"no folder {options.folder}")
    for path in (options.out, options.predictions or options.out):
        check_writable(path.parent)
    grades = grade_all(options.folder, options.limit, options.jobs)
    write([asdict(row) for row in grades], [column.name for column in fields(Grade)], options.out)
    print(f"{len(grades)} verdicts written to {options.out}")
    if options.predictions:
        made = predictions(options.folder)
        write(made, PREDICTED, options.predictions)
        print(f"{len(made)} predictions written to {options.predictions}")
    return 0
