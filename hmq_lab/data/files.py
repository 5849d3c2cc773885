"""Files that are whole or not there: written beside their place and moved into it, with a SHA-256 of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

try:
    import fcntl
except ImportError:
    fcntl = None

METADATA = "hmq_lab"  # the one entry of a file's metadata


@contextmanager
def replacing(path: Path):
    """A temporary path in the same folder that takes `path`'s place when the block ends without an error.

    >>> with replacing(Path("notes.txt")) as temporary: temporary.write_text("all or nothing")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path):
    """One at a time among all processes and threads that ask for this folder; the others wait.

    >>> with alone(folder): write(change(read(folder / "scores.json")))

    Leaves a file .lock. Where the system has no such locks (Windows), nobody waits.
    """
    with (Path(folder) / ".lock").open("wb") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def the_only(folder: Path, what: str):
    """Nobody else may do so in this folder meanwhile, in whichever process: BlockingIOError says `what` goes on there.

    >>> with the_only(Path("runs/mine"), "search"): write(checkpoint)

    Makes the folder, and takes it away again if nothing was put in. The system lets go when its processes end, however
    they end. Where it has no such locks (Windows, some network drives), nobody is kept out.
    """
    folder = Path(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    with ExitStack() as held:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(folder, os.O_RDONLY) if fcntl else None
            except OSError as error:
                raise type(error)(f"cannot write to the folder {folder}: {error.strerror or error}") from error
            if handle is None:
                break
            held.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"another {what} writes to {folder}: wait for it, or take another") from error
            except OSError:  # a drive without locks
                break
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                break  # and not one that was taken away meanwhile
        try:
            check_writable(folder)
            yield
        finally:
            with suppress(OSError):  # not empty
                for p in made:
                    p.rmdir()


def digest(header: dict, tensors: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 of a header (what JSON can say) and of tensors, by name, dtype, shape and bytes."""
    header = json.loads(json.dumps(header))  # as it will be read: the keys of JSON are strings
    h = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted((tensors or {}).items()):
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        h.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict) -> str:
    """A safetensors file with a header (any JSON) and the SHA-256 of both, which it returns, in its metadata.

    >>> write_tensors("w.safetensors", {"w": torch.zeros(3)}, {"model": "resnet8"})
    '0e2d...'
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sha = digest(header, tensors)
    # One entry: safetensors writes several in an order that changes, and equal content shall make equal bytes.
    metadata = {METADATA: json.dumps({"header": header, "sha256": sha})}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # a full disk
            whole = "; what was there before is whole" if Path(path).exists() else ""
            raise OSError(f"cannot write {path}: {error}{whole}") from error
    return sha


def read_tensors(path: Path, others: bool = False) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a file of `write_tensors`.

    others: also safetensors files that we did not write; they state no SHA-256, and their metadata, a dict of strings,
    stand for the header. Raises FileNotFoundError, or ValueError naming a file that is truncated, altered or, without
    `others`, none of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # it has no iterator of its own
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    if METADATA not in metadata:
        if others:
            return tensors, metadata
        raise ValueError(f"{path} was not written by hmq_lab: its metadata holds {sorted(metadata)}")
    try:
        said = json.loads(metadata[METADATA])
        header, sha = said["header"], said["sha256"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was altered: its metadata are not what hmq_lab writes: {error!r}") from error
    if digest(header, tensors) != sha:
        raise ValueError(f"{path} was altered: its content does not have the SHA-256 it states")
    return tensors, header


def check_writable(folder: Path) -> None:
    """Raise PermissionError, NotADirectoryError or the like, naming the folder, unless files can be made in it.

    >>> check_writable("runs/new")      # leaves nothing behind, not even the folder
    """
    folder = Path(folder)
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(f"cannot write to the folder {folder}: {error.strerror or error}") from error
    finally:
        for made in missing:
            if made.is_dir():
                made.rmdir()
