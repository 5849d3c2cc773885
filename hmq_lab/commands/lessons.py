"""The lessons as a working copy: `hmq-lab lessons DIR` writes them, `hmq-lab lab DIR` opens them.

A file that the reader has changed is never written over. The folder remembers what it was given, so
that an update replaces only lessons that nobody has touched, and puts the new text of the others
beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from hmq_lab.data.files import check_writable, replacing

PACKAGE = Path(__file__).parents[1]
MEMORY = (
    ".hmq_lab_lessons.json"  # in the reader's folder: the SHA-256 of each lesson as it was given
)
NEW = ".new.ipynb"  # the end of a name: the new text of a lesson that the reader has changed


@dataclass
class Copied:
    """What `copy` did with each lesson, by name."""

    written: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.written)} written", f"{len(self.same)} already there"]
        if self.kept:
            parts.append(f"{len(self.kept)} with your changes left alone ({', '.join(self.kept)})")
        if self.beside:
            parts.append(
                f"{len(self.beside)} new beside your changed ones ({', '.join(self.beside)})"
            )
        return "; ".join(parts)


def shelf(solutions: bool = False) -> Path:
    """The folder that the lessons are copied from: inside of an installed package, or notebooks/ of
    a checkout.

    >>> (shelf() / "00_start_here.ipynb").is_file()
    True

    Args:
        solutions: whether the exercises are solved.

    Raises:
        FileNotFoundError: there are no lessons at either place.
    """
    places = [PACKAGE / "lessons", PACKAGE.parent / "notebooks"]
    for place in places:
        folder = place / "solutions" if solutions else place
        if list(folder.glob("[0-9]*.ipynb")):
            return folder
    raise FileNotFoundError(
        f"this installation of hmq_lab has no lessons: none in {' or '.join(map(str, places))}"
    )


def copy(target: Path, solutions: bool = False, update: bool = False) -> Copied:
    """Write a working copy of the lessons into a folder, and say what was done.

    Args:
        target: the folder; it is made if needed.
        solutions: whether the exercises are solved.
        update: bring lessons that are there to this version. One that the reader has changed is
            kept, and the new one is written beside it, as NAME.new.ipynb.

    Raises:
        FileExistsError: the folder holds other versions of lessons, and update is False.
    """
    check_writable(target)
    memory = _read_memory(target)
    result = Copied()
    to_write: dict[Path, bytes] = {}
    for lesson in sorted(shelf(solutions).glob("[0-9]*.ipynb")):
        name, new = lesson.name, lesson.read_bytes()
        there = target / name
        given = memory.get(name)
        if not there.exists():
            to_write[there] = new
            result.written.append(name)
        elif _digest(there.read_bytes()) == _digest(new):
            result.same.append(name)
        elif given == _digest(new):
            # The reader has changed the lesson that we would write again.
            result.kept.append(name)
        elif not update:
            raise FileExistsError(
                f"{there} is another version of the lesson: --update, or another folder"
            )
        elif given == _digest(there.read_bytes()):
            to_write[there] = new
            result.written.append(name)
        else:
            beside = target / f"{lesson.stem}{NEW}"
            to_write[beside] = new
            result.beside.append(beside.name)
        memory[name] = _digest(new)

    # Only now that nothing is refused: all lessons are written, or none.
    for path, content in to_write.items():
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    with replacing(target / MEMORY) as temporary:
        temporary.write_text(json.dumps(memory, indent=1), encoding="utf-8")
    return result


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_memory(folder: Path) -> dict[str, str]:
    """What each lesson was when it was given, by name; a file that cannot be read is as none."""
    try:
        found = json.loads((folder / MEMORY).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def add(commands, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    made = commands.add_parser(
        "lessons",
        help="write a working copy of the lessons into a folder",
        formatter_class=formatter,
    )
    made.set_defaults(command=lessons)
    made.add_argument(
        "folder", type=Path, metavar="DIR", help="where to; what you have changed there is kept"
    )
    made.add_argument("--solutions", action="store_true", help="the edition with solutions")
    made.add_argument(
        "--update",
        action="store_true",
        help="bring them to this version; a new one is written beside one that you have changed",
    )


def lessons(options: argparse.Namespace) -> int:
    """The command: exit code 0, and a line that says what was done."""
    print(f"{options.folder}: {copy(options.folder, options.solutions, options.update)}")
    print(f"to open them: hmq-lab lab {options.folder}")
    return 0
