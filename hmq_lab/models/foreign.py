"""Weights of other programs: what kind of file, whether it is whole, its named tensors.

torch reads them with `weights_only=True`, which runs no code from the file. Archives of torch.save
hold a CRC-32 of each entry, which torch does not look at; it is checked here. Files of torch before
1.6 hold no checksum.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "network",
    "net",
    "weights",
    "params",
)
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "network.",
    "net.",
)  # DataParallel, torch.compile, Lightning and others
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
HOW = "torch.save(network.state_dict(), 'weights.pth') makes one"


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file is read as safetensors: by its suffix, else by its first bytes.

    A safetensors file begins with the length of its header in 8 bytes and the brace that opens the
    header.
    """
    if Path(path).suffix == ".safetensors":
        return True
    head = _head(path)
    return head[8:9] == b"{" and not head.startswith((ZIP, PICKLE))


def named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    """The named tensors of a file, without what training programs put around them.

    Args:
        content: what the file holds; None reads a file of torch.save.
        path: the file, for reading and for messages.

    Raises:
        ValueError: the file is damaged, or holds no named tensors, or tensors that are no plain
            ones.
    """
    # Safetensors files were read before, others are read here.
    if content is None:
        content = _loaded(path)
    tensors = _unwrapped(content, path)
    for key, tensor in tensors.items():
        if reason := _not_plain(tensor):
            raise ValueError(
                f"{path} holds {key}, which is {reason}: a plain tensor is needed; {HOW}"
            )
    return tensors


def without_prefixes(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the model's names: common prefixes are taken off if more names fit then.

    >>> without_prefixes({"module.model.a": torch.ones(1)}, {"a": torch.ones(1)})
    {'a': tensor([1.])}

    Args:
        tensors: by their names in the file.
        wanted: by the names in the model.
    """
    # torch.compile puts its name in front of any module, also inside the network.
    plain = {key.replace("_orig_mod.", ""): tensor for key, tensor in tensors.items()}
    candidates = [tensors, plain]
    # One prefix after another, as long as all names have one.
    while True:
        common = [prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in plain)]
        if not common or not plain:
            break
        plain = {key.removeprefix(common[0]): tensor for key, tensor in plain.items()}
        candidates.append(plain)
    return max(
        candidates, key=lambda names: len(names.keys() & wanted.keys())
    )  # the first of equals


def _head(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _loaded(path: Path) -> object:
    """What torch.load finds in a file, without running code from it."""
    # The first bytes tell what it is, whatever its name.
    head = _head(path)
    is_archive, is_tar = head.startswith(ZIP), head[257:262] == b"ustar"
    if not (is_archive or is_tar or head.startswith(PICKLE)):
        raise ValueError(
            f"{path} cannot be read as a file of tensors: it is neither safetensors nor of torch.save; {HOW}"
        )
    if is_archive:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old kinds of tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch.load raises KeyError, IndexError and more on what is no such file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        # torch's own advice for objects is unsafe.
        said = "" if first.startswith("Weights only") else f" ({first})"
        raise ValueError(
            f"{path} cannot be read as a file of tensors alone{said}: {HOW}"
        ) from error


def _check_archive(path: Path) -> None:
    """Raise a ValueError unless each entry of an archive of torch.save has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if any(name.endswith("/constants.pkl") for name in names):
                how = "torch.save(torch.jit.load(path).state_dict(), 'weights.pth') takes its weights out"
                raise ValueError(f"it is a TorchScript program, not a file of tensors: {how}")
            # torch.save does not compress, so an archive that would grow is none of its own.
            grows = sum(entry.file_size for entry in entries) > path.stat().st_size
            if grows or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its entries are compressed, as torch.save never writes them")
            if len(set(names)) < len(names):
                raise ValueError("it holds two entries of one name")
            damaged = archive.testzip()
    except (
        Exception
    ) as error:  # zipfile raises BadZipFile, NotImplementedError, RuntimeError and more
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if damaged is not None:
        raise ValueError(
            f"{path} is damaged: {damaged} in it does not have the checksum that the file states"
        )


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors in what a file holds."""
    # Wrappers may lie in wrappers.
    for _ in range(3):
        inside = [
            key
            for key in WRAPPERS
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
        ]
        if not inside:
            break
        assert isinstance(content, Mapping)
        content = content[inside[0]]
    # What is there must be a mapping with tensors in it,
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no named tensors but {_told(content)}: {HOW}")
    if not any(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(f"{key!r}" for key in list(content)[:8])
        raise ValueError(
            f"{path} holds no named tensors, also not under {', '.join(WRAPPERS)}; its keys are "
            f"{keys}: "
            f"save the part that is the network with torch.save(torch.load(path)[key], "
            f"'weights.pth')"
        )
    others = [
        f"{key!r} ({type(value).__name__})"
        for key, value in content.items()
        if not isinstance(value, Tensor)
    ]
    if others:
        raise ValueError(
            f"{path} holds other things beside named tensors, {', '.join(others[:8])}: {HOW}"
        )
    if not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} holds tensors under keys that are no names: {HOW}")
    return dict(content)


def _told(content: object) -> str:
    return f"a {type(content).__name__}" if not isinstance(content, Mapping) else "an empty mapping"


def _not_plain(tensor: Tensor) -> str | None:
    """Why a tensor is no plain one; None if it is."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"a quantized tensor ({tensor.dtype})"
    if tensor.device.type == "meta":
        return "a tensor without values (on the device meta)"
    if tensor.is_complex():
        return f"of complex numbers ({tensor.dtype})"
    # A view can declare a trillion numbers and hold one.
    there = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > there:
        return f"a view of {tuple(tensor.shape)} that repeats the {there:,} bytes it has"
    return None
