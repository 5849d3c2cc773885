"""A reader's progress through the lessons: predictions, checks and minutes, kept in one file.

The file is `.hmq_lab/progress.json` in the folder of the notebook. The folder ignores itself in
git. Set the environment variable HMQ_LAB_PROGRESS to "off" and nothing is read or written.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from hmq_lab.data.files import replacing

FOLDER = ".hmq_lab"
PAUSE = 600.0  # seconds: after a longer gap the reader was away


def switched_on() -> bool:
    """Return whether progress is kept: yes, unless HMQ_LAB_PROGRESS is "off".

    Returns:
        True if progress is kept.
    """
    return os.environ.get("HMQ_LAB_PROGRESS", "") != "off"


def path() -> Path:
    """Return the file of the working folder, whether it exists or not.

    Returns:
        Path of the file.
    """
    return Path.cwd() / FOLDER / "progress.json"


def read() -> dict[str, dict]:
    """Return what is kept, by lesson; empty where nothing is kept or the file is damaged.

    A lesson has `predictions` (by name: prediction, before, result), `checks` (by name: passed,
    attempts), `seconds` and `last`, the time of the last event.

    Returns:
        Predictions, checks and seconds of each lesson.
    """
    # A reader may switch this off.
    if not switched_on():
        return {}
    # A missing or damaged file counts as an empty one.
    try:
        kept = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(kept: dict) -> None:
    try:
        path().parent.mkdir(exist_ok=True)
        # Version control leaves the folder alone.
        (path().parent / ".gitignore").write_text("*\n", encoding="utf-8")
        # A whole file or none: it is replaced at once.
        with replacing(path()) as temporary:
            temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    except OSError:
        return  # a folder that cannot be written, as in a class: the lesson goes on


def _change(lesson: str, part: str, name: str, **facts) -> None:
    """Add facts about a prediction or check, and the time since the lesson's last event."""
    # Nothing is written where it is switched off.
    if not switched_on():
        return
    # A lesson that is new starts with nothing.
    kept = read()
    entry = kept.setdefault(lesson, {"predictions": {}, "checks": {}, "seconds": 0.0, "last": 0.0})
    # A long pause does not count as time spent.
    now = time.time()
    passed = now - entry["last"]
    if 0 < passed < PAUSE:
        entry["seconds"] += passed
    entry["last"] = now
    # The facts join those that are there already.
    entry[part].setdefault(name, {}).update(facts)
    _write(kept)


def prediction(lesson: str, name: str) -> dict:
    """Return what is kept of a prediction: an empty dict, or prediction, before and result.

    Args:
        lesson: number of the lesson, such as "06".
        name: name of the prediction.

    Returns:
        What is kept of it, by name.
    """
    return dict(read().get(lesson, {}).get("predictions", {}).get(name, {}))


def keep_prediction(lesson: str, name: str, value: str) -> bool:
    """Keep a prediction unless its result was shown before; return whether it was kept.

    Args:
        lesson: number of the lesson, such as "06".
        name: name of the prediction.
        value: what the reader predicts.

    Returns:
        False if the result was shown before.
    """
    # A prediction after the result is none.
    if "result" in prediction(lesson, name):
        return False
    _change(lesson, "predictions", name, prediction=value)
    return True


def keep_result(lesson: str, name: str, value: str) -> None:
    """Keep the result that a prediction is compared with: from now on it cannot be changed.

    Args:
        lesson: number of the lesson, such as "06".
        name: name of the prediction.
        value: what came out.
    """
    _change(lesson, "predictions", name, result=value)


def keep_check(lesson: str, name: str, passed: bool) -> None:
    """Keep what a check found; a check that was passed once stays passed.

    Args:
        lesson: number of the lesson, such as "06".
        name: name of the check.
        passed: whether it was passed.
    """
    # Attempts are counted, and success stays.
    before = read().get(lesson, {}).get("checks", {}).get(name, {})
    attempts = before.get("attempts", 0) + 1
    ever = bool(before.get("passed", False)) or passed
    _change(lesson, "checks", name, passed=ever, attempts=attempts)


def summary(exercises: dict[str, list[str]]) -> list[dict]:
    """Return one row a lesson: its number, predictions made, checks passed, exercises, minutes.

    Args:
        exercises: names of the checks by lesson.

    Returns:
        A dict for each lesson, in the order of their numbers.
    """
    # One row for each lesson that has exercises, begun or not.
    kept = read()
    rows = []
    for lesson in sorted(exercises):
        entry = kept.get(lesson, {})
        # Count what was predicted and what was passed.
        made = [p for p in entry.get("predictions", {}).values() if "prediction" in p]
        passed = [name for name, c in entry.get("checks", {}).items() if c.get("passed")]
        row = {
            "lesson": lesson,
            "predictions": len(made),
            "passed": len(passed),
            "exercises": len(exercises[lesson]),
            "minutes": round(entry.get("seconds", 0.0) / 60),
        }
        rows.append(row)
    return rows
