"""Weights in files: safetensors, written in one piece and checked when read. Nothing here unpickles an object.

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
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hmq_lab.data.files import read_tensors, write_tensors

SHIPPED = Path(__file__).parent / "shipped"
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training scripts store the tensors


def save_weights(model: nn.Module, path: str | os.PathLike, metadata: Mapping[str, object] | None = None) -> str:
    """Write the model's parameters and buffers to a safetensors file; returns its SHA-256.

    >>> save_weights(net, "net.safetensors", {"model": "resnet8", "epochs": 40})  # doctest: +SKIP
    'd1b0e8a4...'

    metadata: what `load_weights` gives back, as strings. The file holds the SHA-256 of both (see `files`), it appears
    whole or not at all, and missing folders are made.
    """
    return write_tensors(path, model.state_dict(), {key: str(value) for key, value in (metadata or {}).items()})


def load_weights(
    model: nn.Module, path: str | os.PathLike, *, rows: Sequence[int] | None = None, new_head: bool = False
) -> dict[str, str]:
    """Fill the model from a file, all of it or nothing, and return the file's metadata.

    >>> from hmq_lab import models
    >>> load_weights(models.build("resnet8"), SHIPPED / "builtin_tiny_resnet8.safetensors")
    Traceback (most recent call last):
    ValueError: ...builtin_tiny_resnet8.safetensors does not fit CifarResNet:
      other shapes (the file's, the model's): bn1.bias (8,) (16,); bn1.running_mean (8,) (16,); ...

    path: a safetensors file, or a .pt, .pth, .th or .bin file of tensors, which torch reads without running code from
    it. A "module." in front of every key, and a "state_dict" around them, are taken off.
    rows: the outputs to keep of the last layer, for weights with more classes than the model: with ImageNet's 1,000,
    `rows=[0, 217, 482, ...]` picks a few. A network with 1,001, whose first is the background, meets ImageNet's labels
    by an offset of one: `rows=range(1, 1001)`. new_head: where the last layer has another number of outputs, it alone
    keeps the model's own values, and a warning says so. Batch norm that was folded into the weights of a MobileNetV1
    comes back as one that adds the bias. A safetensors file's metadata are strings; other files have none.
    Raises FileNotFoundError, and ValueError naming the keys that are missing, unexpected, wrongly shaped or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    tensors, metadata = _read(path)
    tensors = _unwrap(tensors, path)
    wanted = model.state_dict()
    if hasattr(model, "unfold"):
        tensors = model.unfold(tensors)
    if rows is not None:
        tensors = _keep_rows(tensors, wanted, list(rows), path)
    elif new_head and (head := _head(tensors, wanted)):
        warnings.warn(
            f"{path.name} has {len(tensors[head[0]])} outputs and the model {len(wanted[head[0]])}: all but "
            f"{' and '.join(head)} are loaded, the last layer begins anew",
            stacklevel=2,
        )
        tensors = tensors | {key: wanted[key] for key in head}
    _check(tensors, wanted, f"{path} does not fit {type(model).__name__}:")
    model.load_state_dict(tensors, strict=False)  # checked above; strict would miss the counters of old files
    return metadata


def _read(path: Path) -> tuple[dict, dict[str, str]]:
    if path.suffix in (".pt", ".pth", ".th", ".bin", ".tar"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True), {}
        except OSError:
            raise
        except Exception as error:  # torch.load raises KeyError, IndexError and more on what is no such file
            first = (str(error).splitlines() or [type(error).__name__])[0]
            said = "" if first.startswith("Weights only") else f" ({first})"  # torch's advice there is unsafe
            how = "torch.save(network.state_dict(), path) makes one"
            raise ValueError(f"{path} cannot be read as a file of tensors alone{said}: {how}") from error
    return read_tensors(path, others=True)


def _unwrap(tensors: object, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(tensors, Mapping) and isinstance(tensors.get(wrapper), Mapping):
            tensors = tensors[wrapper]
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()) or not tensors:
        raise ValueError(f"{path} holds no named tensors, also not under {', '.join(WRAPPERS)}")
    if not all(isinstance(key, str) for key in tensors):
        raise ValueError(f"{path} holds tensors under keys that are no names")
    if all(key.startswith("module.") for key in tensors):  # saved from DataParallel
        tensors = {key.removeprefix("module."): t for key, t in tensors.items()}
    return dict(tensors)


def _keep_rows(tensors, wanted, rows: list[int], path: Path) -> dict[str, Tensor]:
    """Pick rows of the tensors that have the model's shape but for their first dimension, else of the last layer."""
    picked = dict(tensors)
    last = list(wanted)[-1].rpartition(".")[0]
    for key in _other_rows(tensors, wanted) or [k for k in tensors if k.rpartition(".")[0] == last and k in wanted]:
        t = tensors[key]
        if not all(0 <= row < len(t) for row in rows):
            raise ValueError(f"rows must be from 0 to {len(t) - 1}, the outputs of {key} in {path}, got {rows}")
        picked[key] = t[rows]
    return picked


def _head(tensors, wanted) -> list[str]:
    """The weight and bias of the one layer that has another number of outputs; empty where several have."""
    keys = sorted(_other_rows(tensors, wanted), reverse=True)  # the weight before the bias
    return keys if len({key.rpartition(".")[0] for key in keys}) == 1 else []


def _other_rows(tensors, wanted) -> list[str]:
    """The tensors that have the model's shape but for their first dimension."""
    both = ((key, t.shape, wanted[key].shape) for key, t in tensors.items() if key in wanted and t.dim())
    return [key for key, ours, theirs in both if ours != theirs and ours[1:] == theirs[1:]]


def _check(tensors, wanted, sentence: str) -> None:
    shapes = {k: f"{k} {tuple(t.shape)} {tuple(wanted[k].shape)}" for k, t in tensors.items() if k in wanted}
    complaints = {
        # counters of batches came with torch 0.4.1 and change nothing
        "missing": [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in tensors if k not in wanted],
        "other shapes (the file's, the model's)": [s for k, s in shapes.items() if tensors[k].shape != wanted[k].shape],
        "not finite": [k for k, t in tensors.items() if not t.isfinite().all()],
    }
    lines = [f"\n  {what}: {_listed(items)}" for what, items in complaints.items() if items]
    if lines:
        raise ValueError(sentence + "".join(lines))


def _listed(items: list[str], most: int = 12) -> str:
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """A safetensors file's metadata alone; {} for other files, which have none.

    >>> read_metadata(SHIPPED / "builtin_tiny_resnet8.safetensors")["normalize"]
    'builtin'
    """
    return _read(Path(path))[1] if Path(path).suffix == ".safetensors" and Path(path).is_file() else {}
