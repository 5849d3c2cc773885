"""Pictures in folders: found, read, put in an order of their own, and a validation set cut from them.

>>> from hmq_lab.data import folders
>>> classes, splits = folders.scan("photos")  # photos/train/cat/1.png, photos/train/dog/..., photos/val/cat/...
... # doctest: +SKIP
>>> classes, list(splits), splits["train"].files[0]  # doctest: +SKIP
(('cat', 'dog'), ['train', 'val'], 'photos/train/dog/17.png')
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmq_lab.data.images import read
from hmq_lab.seeds import generator

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Files(NamedTuple):
    """Picture files and the number of each one's class: int64 (N,)."""

    files: tuple[str, ...]
    labels: Tensor


def scan(folder: str | os.PathLike) -> tuple[tuple[str, ...], dict[str, Files]]:
    """The classes, sorted by name, and the files of train/, val/ and test/, as far as there are such.

    The files of a split stand in an order that mixes the classes and is always the same. Raises ValueError for a folder
    without train/ or without both val/ and test/, without classes, a class without pictures, classes that differ.
    """
    folder = Path(folder)
    found = {split: folder / split for split in ("train", "val", "test") if (folder / split).is_dir()}
    if "train" not in found or len(found) < 2:
        raise ValueError(f"{folder} must hold train/ and one of val/ and test/, it holds {_listing(folder)}")
    scanned = {split: _classes(path) for split, path in found.items()}
    classes = tuple(scanned["train"])
    for split, path in found.items():
        if tuple(scanned[split]) != classes:
            differ = sorted(set(classes) ^ set(scanned[split]))
            raise ValueError(f"{found['train']} and {path} must hold the same classes, they differ in {differ}")
    return classes, {split: _mixed(list(by_class.values())) for split, by_class in scanned.items()}


def decode(files: tuple[str, ...], size: tuple[int, int]) -> Tensor:
    """Small pictures of one size, (width, height): uint8 (N, 3, height, width). ValueError names one that differs.

    A plain loop: one picture takes 0.1 ms, and threads take longer: they wait for each other, not for the disk.
    """
    pixels = np.empty((len(files), 3, size[1], size[0]), np.uint8)
    for k, file in enumerate(files):
        picture = read(file)
        if picture.size != size:
            raise ValueError(
                f"{file} has {picture.size} pixels and others {size}: small pictures must be of one size; "
                "pass a picture_size to have all brought to one"
            )
        pixels[k] = np.asarray(picture).transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def by_content(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures in the order of their pixels' digests.

    CIFAR10 in torchvision's files and CIFAR10 as PNG files come in different orders; in this one they are the same,
    a seed shuffles them alike, and the validation set is the same. It also mixes the classes.
    """
    digests = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images.contiguous().numpy()]
    order = np.lexsort((labels.numpy(), np.frombuffer(b"".join(digests), ">u8")))  # by digest, then by label
    return images[order], labels[order]


def cut(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split positions in two, the second part of `count`, with each class's share of it as near as can be.

    >>> rest, held = cut(torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1]), 3)
    >>> len(rest), sorted([0, 0, 0, 0, 0, 0, 1, 1, 1][k] for k in held)
    (6, [0, 0, 1])

    The same labels are always cut in the same way: no run's seed has a say. Both parts keep the order they had.
    Raises ValueError unless 0 <= count < len(labels).
    """
    if not 0 <= count < len(labels):
        raise ValueError(f"validation must be from 0 to {len(labels) - 1}, one less than the pictures, got {count}")
    shuffled = torch.randperm(len(labels), generator=generator(0, "validation"))
    place = torch.empty(len(labels))  # of each picture within its class, from 0 to 1
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        place[members] = (torch.arange(len(members)) + 0.5) / len(members)
    order = place.argsort(stable=True)  # the first n of it hold n / N of each class
    return order[count:].sort().values, order[:count].sort().values


def _mixed(by_class: list[list[str]]) -> Files:
    files = [file for files in by_class for file in files]
    labels = torch.repeat_interleave(torch.tensor([len(files) for files in by_class]))
    order = torch.randperm(len(files), generator=generator(0, "folder"))
    return Files(tuple(files[k] for k in order.tolist()), labels[order])


def _classes(folder: Path) -> dict[str, list[str]]:
    """Class -> its files, both sorted."""
    classes = {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        names = sorted(n for n in os.listdir(sub) if n.lower().endswith(SUFFIXES) and not n.startswith("."))
        if not names:
            raise ValueError(f"{sub} holds no pictures ({' '.join(SUFFIXES)})")
        classes[sub.name] = [os.path.join(sub, n) for n in names]
    if not classes:
        raise ValueError(f"{folder} must hold one folder for each class, it holds {_listing(folder)}")
    return classes


def _listing(folder: Path, most: int = 6) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
