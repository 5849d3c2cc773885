"""Weights in safetensors files, written whole and checked when read; nothing is unpickled.

>>> from hmq_lab import models
>>> from hmq_lab.models.weights import SHIPPED, load_weights
>>> net = models.build("tiny_resnet8")
>>> about = load_weights(net, SHIPPED / "builtin_tiny_resnet8.safetensors")
>>> about["data"], about["model"], about["normalize"]
('builtin', 'tiny_resnet8', 'builtin')
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmq_lab.data.files import check_readable, read_tensors, write_tensors
from hmq_lab.models.foreign import is_safetensors, named_tensors, without_prefixes

SHIPPED = Path(__file__).parent / "shipped"


def save_weights(
    model: nn.Module, path: str | os.PathLike, metadata: Mapping[str, object] | None = None
) -> str:
    """Write the model's parameters and buffers to a safetensors file, and return its SHA-256.

    >>> save_weights(net, "net.safetensors", {"model": "resnet8", "epochs": 40})  # doctest: +SKIP
    'd1b0e8a4...'

    The file holds the SHA-256 of both, it appears whole or not at all, and missing folders are
    made.

    Args:
        metadata: what `load_weights` gives back, as strings.
    """
    strings = {key: str(value) for key, value in (metadata or {}).items()}
    return write_tensors(path, model.state_dict(), strings)


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    rows: Sequence[int] | None = None,
    new_head: bool = False,
) -> dict[str, str]:
    """Fill the model from a file, all of it or nothing, and return the file's metadata.

    >>> from hmq_lab import models
    >>> load_weights(models.build("resnet8"), SHIPPED / "builtin_tiny_resnet8.safetensors")
    Traceback (most recent call last):
    ValueError: ...builtin_tiny_resnet8.safetensors does not fit CifarResNet:
      other shapes (the file's, the model's): bn1.bias (8,) (16,); bn1.running_mean (8,) (16,); ...

    Batch norm that was folded into the weights of a MobileNetV1 comes back as one that adds the
    bias.

    Args:
        model: the network to fill.
        path: a safetensors file, or one of torch.save, whatever its name. torch reads it without
            running code from it. Wrappers that training programs put around the tensors
            ("state_dict", "net" and others) and in front of their names ("module.", "_orig_mod.",
            "model." and others) are taken off.
        rows: the outputs to keep of the last layer, for weights with more classes than the model:
            with ImageNet's 1,000, `rows=[0, 217, 482, ...]` picks a few. A network with 1,001,
            whose first is the background, meets ImageNet's labels by an offset of one:
            `rows=range(1, 1001)`.
        new_head: if the last layer has another number of outputs, it alone keeps the model's own
            values, and a warning says so.

    Returns:
        A safetensors file's metadata, which are strings; other files have none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or its tensors do not fit; the message names the keys that are
            missing, unexpected, wrongly shaped or not finite.
    """
    # The file's tensors, by the model's names.
    path = check_readable(path, "weights file")
    tensors, metadata = _read(path)
    wanted = model.state_dict()
    tensors = without_prefixes(tensors, wanted)
    unfold: Any = getattr(model, "unfold", None)
    if unfold is not None:
        tensors = unfold(tensors)

    # The last layer may have other outputs.
    if rows is not None:
        tensors = _keep_rows(tensors, wanted, list(rows), path)
    elif new_head and (head := _head(tensors, wanted)):
        warnings.warn(
            f"{path.name} has {len(tensors[head[0]])} outputs and the model "
            f"{len(wanted[head[0]])}: all but "
            f"{' and '.join(head)} are loaded, the last layer begins anew",
            stacklevel=2,
        )
        tensors = tensors | {key: wanted[key] for key in head}

    _check(tensors, wanted, f"{path} does not fit {type(model).__name__}:")
    # Checked above; `strict` would miss the counters of old files.
    model.load_state_dict(tensors, strict=False)
    return metadata


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """A safetensors file's metadata alone; {} for other files, which have none.

    >>> read_metadata(SHIPPED / "builtin_tiny_resnet8.safetensors")["normalize"]
    'builtin'
    """
    path = Path(path)
    if not path.is_file() or not is_safetensors(check_readable(path, "weights file")):
        return {}
    return read_tensors(path, others=True)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file of any kind."""
    if is_safetensors(path):
        tensors, metadata = read_tensors(path, others=True)
        return named_tensors(tensors, path), metadata
    return named_tensors(None, path), {}


def _keep_rows(
    tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], rows: list[int], path: Path
) -> dict[str, Tensor]:
    """Pick rows of the tensors whose first dimension differs, else of the last layer."""
    # The tensors to pick from: those with other outputs, else the last layer's.
    keys = _other_rows(tensors, wanted)
    if not keys:
        last = list(wanted)[-1].rpartition(".")[0]
        keys = [key for key in tensors if key.rpartition(".")[0] == last and key in wanted]
    # The rows that are asked for.
    picked = dict(tensors)
    for key in keys:
        t = tensors[key]
        if not all(0 <= row < len(t) for row in rows):
            raise ValueError(
                f"rows must be from 0 to {len(t) - 1}, the outputs of {key} in {path}, got {rows}"
            )
        picked[key] = t[rows]
    return picked


def _head(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """The weight and bias of the one layer with other outputs; empty if there are several."""
    keys = sorted(_other_rows(tensors, wanted), reverse=True)  # the weight before the bias
    layers = {key.rpartition(".")[0] for key in keys}
    return keys if len(layers) == 1 else []


def _other_rows(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """The tensors that have the model's shape but for their first dimension."""
    found = []
    for key, t in tensors.items():
        if key not in wanted or not t.dim():
            continue
        ours, theirs = t.shape, wanted[key].shape
        if ours != theirs and ours[1:] == theirs[1:]:
            found.append(key)
    return found


def _check(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], sentence: str) -> None:
    """Raise a ValueError that lists all that does not fit."""
    # Values are looked at only where the shape fits.
    shapes, kinds, broken = [], [], []
    for key, t in tensors.items():
        if key not in wanted:
            continue
        ours = wanted[key]
        if t.shape != ours.shape:
            shapes.append(f"{key} {tuple(t.shape)} {tuple(ours.shape)}")
        elif t.is_floating_point() != ours.is_floating_point() and not _is_counter(key):
            kinds.append(f"{key} {t.dtype} {ours.dtype}")
        elif not _is_finite(t, ours.dtype):
            broken.append(key)
    # All that is wrong, so that a user mends it in one go.
    complaints = {
        "missing": [key for key in wanted if key not in tensors and not _is_counter(key)],
        "unexpected": [key for key in tensors if key not in wanted],
        "other shapes (the file's, the model's)": shapes,
        "other kinds of numbers (the file's, the model's)": kinds,
        "not finite": broken,
    }
    lines = [f"\n  {what}: {_listed(items)}" for what, items in complaints.items() if items]
    if lines:
        raise ValueError(sentence + "".join(lines))


def _is_counter(key: str) -> bool:
    """Whether it counts batches: such counters came with torch 0.4.1 and change nothing."""
    return key.endswith("num_batches_tracked")


def _is_finite(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether every value is finite, also in the model's own type."""
    return bool(t.to(dtype).isfinite().all())


def _listed(items: Iterable[str], most: int = 12) -> str:
    """The first of the items, and how many more there are."""
    every = list(items)
    more = f"; and {len(every) - most} more" if len(every) > most else ""
    return "; ".join(every[:most]) + more
