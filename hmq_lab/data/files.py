"""Tensors and JSON in files without pickle: written whole, with a SHA-256, checked when read.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "w.safetensors"
>>> sha256 = write_tensors(path, {"w": torch.zeros(3)}, {"model": "resnet8"})
>>> read_tensors(path)
({'w': tensor([0., 0., 0.])}, {'model': 'resnet8'})
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hmq_lab.data.atomic import (
    check_readable,
    check_target,
    check_writable,
    remove_leftovers,
    replacing,
)
from hmq_lab.data.locks import exclusive_lock, locked

__all__ = [
    "LARGEST",
    "METADATA",
    "check_fields",
    "check_image_shape",
    "check_readable",
    "check_target",
    "check_writable",
    "digest",
    "exclusive_lock",
    "locked",
    "read_json",
    "read_tensors",
    "remove_leftovers",
    "replacing",
    "write_tensors",
]

LARGEST = 4096  # pixels a side, and channels, that an image may have
METADATA = "hmq_lab"  # the one entry of a file's metadata


def digest(header: Mapping[Any, Any], tensors: Mapping[str, Tensor] | None = None) -> str:
    """The SHA-256 of a header and of tensors, by name, dtype, shape and bytes.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True

    Args:
        header: anything that JSON can say.
        tensors: named tensors of any dtype and device.

    Raises:
        ValueError: the header is nested too deep to be written.
    """
    try:
        # As it will be read: the keys of JSON are strings.
        header = json.loads(json.dumps(header))
        text = json.dumps(header, sort_keys=True)
    except RecursionError as error:
        raise ValueError("the header is nested too deep for JSON") from error
    # Every tensor with its name, so that none can take the place of another.
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted((tensors or {}).items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> str:
    """Write a safetensors file with a header; return the SHA-256 of both, which the file holds.

    >>> write_tensors("w.safetensors", {"w": torch.zeros(3)}, {"seed": 0})  # doctest: +SKIP
    '0e2d...'

    Args:
        path: the file, which is replaced when the new one is whole.
        tensors: named tensors; they may share memory.
        header: anything that JSON can say.

    Raises:
        OSError: the file cannot be written. What was there before is whole.
    """
    # Tensors may share memory, and safetensors writes none twice.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    sha256 = digest(header, copies)
    # One entry: safetensors writes several in an order that changes, and equal content shall make
    # equal bytes.
    metadata = {METADATA: json.dumps({"header": header, "sha256": sha256})}
    # Whole in memory, then whole on the disk.
    content = save(copies, metadata)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno is None:  # a message of our own
            raise
        whole = "; what was there before is whole" if Path(path).exists() else ""
        raise type(error)(f"cannot write {path}: {error.strerror}{whole}") from error
    return sha256


def read_tensors(
    path: str | os.PathLike, others: bool = False, fields: Mapping[str, type] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file of `write_tensors`.

    Args:
        path: the file.
        others: also read safetensors files that hmq_lab did not write. They state no SHA-256, and
            their metadata, a dict of strings, stand for the header.
        fields: what the header must hold, as for `check_fields`.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it must not be read.
        ValueError: the file is truncated, altered, without a field that it must have or, without
            `others`, not written by hmq_lab; the message names it.
    """
    # safetensors checks the header against the size of the file.
    path = check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {
                name: file.get_tensor(name) for name in file.keys()
            }  # it has no iterator of its own
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error

    # A file of another program has metadata of its own, or none.
    if METADATA not in metadata:
        if others:
            return tensors, metadata
        raise ValueError(
            f"{path} was not written by hmq_lab: its metadata holds {sorted(metadata)}"
        )

    # Ours states the SHA-256 of all it holds.
    try:
        said = json.loads(metadata[METADATA])
        header, sha256 = said["header"], said["sha256"]
        found = digest(header, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} was altered: its metadata are not what hmq_lab writes: {error!r}"
        ) from error
    if found != sha256:
        raise ValueError(f"{path} was altered: its content does not have the SHA-256 it states")
    check_fields(header, {}, path)
    check_fields(header, fields or {}, path)
    return tensors, header


def read_json(
    path: str | os.PathLike, what: str = "file", fields: Mapping[str, type] | None = None
) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        what: the word for it in messages, such as "record".
        fields: what the JSON object must hold, as for `check_fields`; None takes any JSON.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it must not be read.
        ValueError: it is no JSON, it is nested too deep, or a field is missing; the message names
            the file.
    """
    # A pipe would be waited for without end.
    path = check_readable(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read as JSON: it is nested too deep") from error
    except ValueError as error:  # no JSON, no UTF-8, a number of ten thousand digits
        raise ValueError(f"{path} is no JSON: {error}") from error
    if fields is not None:
        check_fields(content, fields, path)
    return content


def check_fields(content: object, fields: Mapping[str, type], path: str | os.PathLike) -> None:
    """Raise a ValueError that names the file, unless it holds a JSON object with these fields.

    >>> check_fields({"classes": "ten"}, {"classes": int}, "net.safetensors")
    Traceback (most recent call last):
    ValueError: net.safetensors is not as hmq_lab writes it: classes must be of type int, got 'ten'

    Args:
        content: what was read.
        fields: the name of each field and the type that it must have. A bool is no int here, an int
            is a float.
        path: the file, for the message.
    """
    # A list or a number is no header.
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is not as hmq_lab writes it: it must hold a JSON object, got {_short(content)}"
        )
    for name, kind in fields.items():
        if name not in content:
            raise ValueError(f"{path} is not as hmq_lab writes it: {name} is missing")
        value = content[name]
        # A bool is an int in Python, and no number here.
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            said = f"{name} must be of type {kind.__name__}, got {_short(value)}"
            raise ValueError(f"{path} is not as hmq_lab writes it: {said}")


def check_image_shape(shape: object, path: str | os.PathLike) -> None:
    """Raise a ValueError that names the file, unless this is the shape of an image (C, H, W),
    or of a row or volume of numbers.

    >>> check_image_shape([3, 10**6, 10**6], "net.safetensors")
    Traceback (most recent call last):
    ValueError: net.safetensors is not as hmq_lab writes it: the shape of an image must be ...

    A file of others could ask for terabytes.
    """
    sizes = shape if isinstance(shape, list) and len(shape) in (1, 2, 3, 4) else [0]
    whole = all(type(n) is int and 1 <= n <= LARGEST for n in sizes)
    if not whole or math.prod(sizes) > LARGEST**3:
        said = f"the shape of an image must be 3 whole numbers from 1 to {LARGEST}"
        said += ", or 1, 2 or 4 for other data"
        raise ValueError(f"{path} is not as hmq_lab writes it: {said}, got {_short(shape)}")


def _short(value: object, most: int = 60) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deep"
    return text if len(text) <= most else f"{text[:most]}..."
