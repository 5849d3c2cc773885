"""Files that appear whole or not at all, and one-line reasons why a file cannot be used.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> with replacing(folder / "notes.txt") as temporary:
...     _ = temporary.write_text("all or nothing")
>>> (folder / "notes.txt").read_text()
'all or nothing'
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Windows replaces no file that another program has open. Readers are done in a moment: these are
# the seconds between two attempts.
WINDOWS = os.name == "nt"
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# A temporary file of `replacing`: a dot, the name of the file, and seven digits of its own with a
# mark behind them.
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{7}_")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path, which takes the place of `path` if the block ends without an error.

    >>> with replacing("notes.txt") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("all or nothing")

    The file gets the mode that the umask asks for. A symbolic link stays, and the file that it
    leads to is replaced. Temporary files that killed processes left in the folder are removed
    first.

    Args:
        path: the file to write. Missing folders are made.

    Raises:
        OSError: `path` is a folder, a pipe or a device, or it must not be written.
    """
    # The file that a symbolic link leads to is the one that is written.
    target = Path(os.path.realpath(path))
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)

    temporary, handle = _new_temporary(target)
    try:
        yield temporary
        # On the disk before it has the name: a loss of power leaves the old file or the new one.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        _take_place(temporary, target)
    finally:
        if handle is not None:
            os.close(handle)
        temporary.unlink(missing_ok=True)


def _take_place(temporary: Path, target: Path) -> None:
    """Give a file the name of another one, which is gone then."""
    for pause in PAUSES if WINDOWS else ():
        try:
            os.replace(temporary, target)
            return
        except PermissionError:
            time.sleep(pause)
    os.replace(temporary, target)


def _new_temporary(target: Path) -> tuple[Path, int | None]:
    """A new empty file beside the target, and the open handle that holds its lock, if any."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)[:7]}_")
        # 0o666 less the umask is the mode of any new file; tempfile.mkstemp would make it private.
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            continue
        # Windows renames no open file.
        if fcntl is None:
            os.close(handle)
            return temporary, None
        # A drive without locks: the file is used without one.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Another process may have removed the file in the moment before it was locked.
        if temporary.exists():
            return temporary, handle
        os.close(handle)


def remove_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Remove the temporary files of `replacing` whose process was killed, and return their paths.

    A living writer holds a lock on its temporary file, and the system releases it when the process
    ends. Where the system has no such locks (Windows), the files stay.

    Args:
        folder: where to look. Folders inside it are left alone.
    """
    removed: list[Path] = []
    if fcntl is None:
        return removed
    # Names that only `replacing` gives.
    for name in os.listdir(folder):
        if not TEMPORARY.fullmatch(name):
            continue
        path = Path(folder) / name
        with suppress(OSError):  # another process was faster, or its writer lives
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed.append(path)
            finally:
                os.close(handle)
    return removed


def check_target(path: str | os.PathLike) -> None:
    """Raise an OSError that names the path, unless it is free or a file that may be replaced.

    >>> check_target("/")
    Traceback (most recent call last):
    IsADirectoryError: cannot write / as a file: it is a folder
    """
    path = Path(path)
    # What is not there is free.
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
    # Only an ordinary file may be replaced, and only where its rights allow it.
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"cannot write {path} as a file: it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(f"cannot write {path}: it is {_kind(mode)}, no ordinary file")
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(f"cannot write {path}: Permission denied")


def check_readable(path: str | os.PathLike, what: str = "file") -> Path:
    """The path, if it leads to a file that may be read; a pipe or a device is never opened.

    >>> check_readable("nowhere.json", "record")
    Traceback (most recent call last):
    FileNotFoundError: there is no record nowhere.json

    Args:
        path: the file.
        what: the word for it in the message.

    Raises:
        FileNotFoundError: nothing is there, or a folder.
        PermissionError: the file, or a folder on the way to it, must not be read.
        ValueError: the path leads to a pipe, a socket or a device.
    """
    path = Path(path)
    # The kind is looked at before the file is opened.
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(f"there is no {what} {path}: it is a folder")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is {_kind(mode)}, no ordinary file: a {what} is needed")
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        if error.errno is None:
            raise
        raise FileNotFoundError(f"there is no {what} {path}") from error
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror or error}") from error
    return path


def _kind(mode: int) -> str:
    """What a path that is no ordinary file leads to, in words."""
    if stat.S_ISFIFO(mode):
        return "a pipe (FIFO)"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def check_writable(folder: str | os.PathLike) -> None:
    """Raise an OSError that names the folder, unless files can be made in it.

    >>> check_writable("runs/new")  # leaves nothing behind, not even the folder

    Raises:
        OSError: PermissionError, NotADirectoryError or the like, as the system says.
    """
    folder = Path(folder)
    # Folders that are made for the test go again.
    missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(
            f"cannot write to the folder {folder}: {error.strerror or error}"
        ) from error
    finally:
        for made in missing:
            if made.is_dir():
                made.rmdir()
