"""CIFAR10 as torchvision has it: its folder, or the archive that holds it."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


def is_packed(place: Path) -> bool:
    """Whether a folder holds torchvision's folder or its archive."""
    return (place / BATCHES).is_dir() or (place / ARCHIVE).is_file()


def find(places: Sequence[Path], download: bool = False) -> Path:
    """The first folder that holds CIFAR10, packed or as folders of images.

    Args:
        places: where to look.
        download: let torchvision fetch it into the last of them if it is in none.

    Raises:
        FileNotFoundError: it is in none of them, and `download` is not given.
    """
    # Packed, or unpacked into folders.
    for place in places:
        if is_packed(place) or all((place / "train" / name).is_dir() for name in CLASSES):
            return place
    # Only if it was asked for.
    if download:
        from torchvision.datasets import CIFAR10 as Archive  # torchvision takes a second to import

        Archive(places[-1], download=True)
        return places[-1]
    raise FileNotFoundError(
        f"no CIFAR10 in {' or '.join(map(str, places))}: looked for {BATCHES}/, {ARCHIVE} and "
        f"train/<class>/*.png. "
        "Pass the folder that holds one of them (root, --root), or let it be downloaded "
        "(download=True, --download)"
    )


def unpacked(place: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Images, uint8 (N, 3, 32, 32), and labels, int64 (N,), of train and test.

    Through torchvision, which compares every file with its published MD5 before it unpickles it.

    Raises:
        ValueError: a file is missing or is not the published one.
    """
    # The folder, if it is there and whole.
    try:
        return _both(place)
    except RuntimeError as error:  # not there, or not what was published
        if not (place / ARCHIVE).is_file():
            raise ValueError(
                f"{place / BATCHES} is damaged or incomplete: remove it and get CIFAR10 again"
            ) from error
    # Else the archive is unpacked first.
    try:
        with tarfile.open(place / ARCHIVE) as archive:
            archive.extractall(place, filter="data")
        return _both(place)
    except (RuntimeError, EOFError, OSError, tarfile.TarError) as error:
        raise ValueError(
            f"{place / ARCHIVE} is damaged ({error}): remove it and get CIFAR10 again"
        ) from error


def _both(place: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The two splits; RuntimeError for files that torchvision refuses."""
    from torchvision.datasets import CIFAR10 as Archive

    with warnings.catch_warnings():
        # The files name their types as NumPy did in 2009, and NumPy 2.4 says so.
        warnings.filterwarnings("ignore", message=".*align should be passed")
        found = {"train": Archive(place), "test": Archive(place, train=False)}
    return {
        split: (torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets))
        for split, part in found.items()
    }
