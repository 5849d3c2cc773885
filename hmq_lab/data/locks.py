"""Locks on a folder: one process at a time, the others wait or are refused.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> with exclusive_lock(folder, "search"):
...     with exclusive_lock(folder, "search"):
...         pass
Traceback (most recent call last):
BlockingIOError: another search writes to ...: wait for it, or take another folder

The library filelock asks the system for the locks, so the system releases them however a process
ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from hmq_lab.data.atomic import check_writable, remove_leftovers

LOCKED, EXCLUSIVE = ".lock", ".exclusive.lock"


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Let one process or thread at a time into the block; the others wait.

    >>> with locked(folder):  # doctest: +SKIP
    ...     write(change(read(folder / "scores.json")))

    Leaves a file .lock in the folder. Where the system has no locks, nobody waits.
    """
    # Waits until the others are done.
    lock = FileLock(Path(folder) / LOCKED)
    with suppress(NotImplementedError, OSError):  # a drive without locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive_lock(folder: str | os.PathLike, what: str) -> Iterator[None]:
    """Keep every other process out of this folder until the block ends.

    >>> with exclusive_lock("runs/mine", "search"):  # doctest: +SKIP
    ...     write(checkpoint)

    Makes the folder, removes what killed writers left in it, and takes the folder away again if
    nothing was put in. Where the system has no locks (some network drives), nobody is kept out.

    Args:
        folder: the folder to hold.
        what: the word for what goes on there, for the message.

    Raises:
        BlockingIOError: another process holds the folder.
        OSError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    # Folders that are not there are taken away again at the end, if empty.
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    check_writable(folder)
    lock = _acquired(folder, what)
    try:
        remove_leftovers(folder)
        yield
    finally:
        _release(lock)
        with suppress(OSError):  # not empty
            for p in made:
                p.rmdir()


def _acquired(folder: Path, what: str) -> BaseFileLock:
    """The lock of the folder, held if the drive has locks at all."""
    # Does not wait: the lock is free or the folder is busy.
    lock = FileLock(folder / EXCLUSIVE)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise BlockingIOError(
                f"another {what} writes to {folder}: wait for it, or take another folder"
            ) from error
        except FileNotFoundError:
            continue  # the process before took the folder away in this moment
        except (NotImplementedError, OSError):
            pass  # a drive without locks
        return lock


def _release(lock: BaseFileLock) -> None:
    """Release the lock and remove its file."""
    if not lock.is_locked:
        return
    # While the lock is held, nobody else has a lock on this file that would lose its name.
    with suppress(OSError):
        os.unlink(lock.lock_file)
    lock.release()
    # Windows removes no open file, and refuses if another process has opened it meanwhile.
    if os.name == "nt":
        with suppress(OSError):
            os.unlink(lock.lock_file)
