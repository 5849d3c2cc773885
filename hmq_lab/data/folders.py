"""Images in folders: found, read, put in an order of their own, and a validation set cut from them.

>>> from hmq_lab.data import folders
>>> classes, splits = folders.scan("photos")  # doctest: +SKIP
>>> classes, list(splits), splits["train"].files[0]  # doctest: +SKIP
(('cat', 'dog'), ['train', 'val'], 'photos/train/dog/17.png')

The folder photos holds train/cat/1.png, train/dog/17.png and so on, and the same under val.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmq_lab.data.reading import read
from hmq_lab.seeds import generator

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
SYSTEM_FILES = ("desktop.ini", "thumbs.db")  # what file managers leave, beside hidden files


class Files(NamedTuple):
    """Image files and the number of each one's class: int64 (N,)."""

    files: tuple[str, ...]
    labels: Tensor


def scan(folder: str | os.PathLike) -> tuple[tuple[str, ...], dict[str, Files]]:
    """The classes, sorted by name, and the files of train/, val/ and test/, if they are there.

    The files of a split stand in an order that mixes the classes and is always the same. A warning
    names files that are left out, because their names are not those of images.

    Raises:
        ValueError: train/ is missing, or both val/ and test/; no classes; a class without images;
            classes that differ.
    """
    folder = Path(folder)
    found = {
        split: folder / split for split in ("train", "val", "test") if (folder / split).is_dir()
    }
    if "train" not in found or len(found) < 2:
        raise ValueError(
            f"{folder} must hold train/ and one of val/ and test/, it holds {_listing(folder)}"
        )

    # Each split has the same classes.
    left_out: list[Path] = []
    scanned = {split: _classes(path, left_out) for split, path in found.items()}
    classes = tuple(scanned["train"])
    for split, path in found.items():
        if tuple(scanned[split]) != classes:
            differ = sorted(set(classes) ^ set(scanned[split]))
            raise ValueError(
                f"{found['train']} and {path} must hold the same classes, they differ in {differ}"
            )
    if left_out:
        warnings.warn(_said_of(left_out), stacklevel=3)
    return classes, {split: _mixed(list(by_class.values())) for split, by_class in scanned.items()}


def decode(files: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Small images of one size: uint8 (N, 3, height, width).

    A plain loop: one image takes 0.1 ms, and threads take longer, because they wait for each other,
    not for the disk.

    Args:
        files: image files.
        size: (width, height) of all of them.

    Raises:
        ValueError: a file of another size, or one that cannot be read, by name.
    """
    # Room for all, then one after another.
    pixels = np.empty((len(files), 3, size[1], size[0]), np.uint8)
    for k, file in enumerate(files):
        image = read(file)
        if image.size != size:
            raise ValueError(
                f"{file} has {image.size} pixels and others {size}: small images must be of one "
                f"size; "
                "pass an image_size to have all brought to one"
            )
        pixels[k] = np.asarray(image).transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def by_content(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, C, H, W), and their labels in the order of the images' digests.

    CIFAR10 in torchvision's files and CIFAR10 as PNG files come in different orders. In this one
    they are the same, a seed shuffles them alike, and the validation set is the same. It also mixes
    the classes.
    """
    digests = [
        hashlib.blake2b(image.data, digest_size=8).digest() for image in images.contiguous().numpy()
    ]
    numbers = np.frombuffer(b"".join(digests), ">u8")
    order = np.lexsort((labels.numpy(), numbers))  # by digest, then by label
    return images[order], labels[order]


def cut(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split positions in two, the second part of `count`, with its share of each class.

    >>> rest, held = cut(torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1]), 3)
    >>> len(rest), sorted([0, 0, 0, 0, 0, 0, 1, 1, 1][k] for k in held)
    (6, [0, 0, 1])

    The same labels are always cut in the same way: no run's seed changes it. Both parts keep the
    order they had.

    Raises:
        ValueError: unless 0 <= count < len(labels).
    """
    if not 0 <= count < len(labels):
        raise ValueError(
            f"validation must be from 0 to {len(labels) - 1}, one less than the images, got {count}"
        )
    shuffled = torch.randperm(len(labels), generator=generator(0, "validation"))

    # The place of each image within its class, from 0 to 1.
    place = torch.empty(len(labels))
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        place[members] = (torch.arange(len(members)) + 0.5) / len(members)

    # The first n in the order of these places hold n / N of each class.
    order = place.argsort(stable=True)
    return order[count:].sort().values, order[:count].sort().values


def _mixed(by_class: list[list[str]]) -> Files:
    """The files of all classes in an order that mixes the classes."""
    # All classes behind each other, then shuffled.
    files = [file for files in by_class for file in files]
    labels = torch.repeat_interleave(torch.tensor([len(files) for files in by_class]))
    order = torch.randperm(len(files), generator=generator(0, "folder"))
    return Files(tuple(files[k] for k in order.tolist()), labels[order])


def _classes(folder: Path, left_out: list[Path]) -> dict[str, list[str]]:
    """Class -> its files, both sorted. What is no image file is added to `left_out`."""
    # Folders are classes; files beside them belong to none.
    classes = {}
    for sub in sorted(folder.iterdir()):
        if _is_hidden(sub.name):
            continue
        if not sub.is_dir():
            left_out.append(sub)
            continue
        # The files of a class, as far as their names are those of images.
        names = sorted(name for name in os.listdir(sub) if not _is_hidden(name))
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        if not images:
            raise ValueError(
                f"{sub} holds no images ({' '.join(SUFFIXES)}), it holds {_listing(sub)}"
            )
        classes[sub.name] = [os.path.join(sub, name) for name in images]
        left_out += [sub / name for name in names if not name.lower().endswith(SUFFIXES)]
    if not classes:
        raise ValueError(
            f"{folder} must hold one folder for each class, it holds {_listing(folder)}"
        )
    return classes


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _said_of(left_out: list[Path]) -> str:
    """What is left out, in words: how many of each kind, and the first."""
    # How many there are of each suffix.
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in left_out)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    taken = " ".join(SUFFIXES)
    return f"left out of the images: {counted} (the first is {left_out[0]}); taken are {taken}"


def _listing(folder: Path, most: int = 6) -> str:
    """What a folder holds, in words."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing"
