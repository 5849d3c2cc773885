"""Data sets by name: built-in pictures, CIFAR10, ImageNet, and any folder of pictures.

>>> from hmq_lab import data
>>> pictures = data.load("builtin")
>>> len(pictures.train), len(pictures.validation), len(pictures.test), pictures.classes[:3]
(8000, 2000, 2000, ('arrow', 'cross', 'fork'))
>>> x, y = next(pictures.train.batches(64, seed=0, augment=True))
>>> x.shape, x.dtype, y.dtype
(torch.Size([64, 3, 32, 32]), torch.float32, torch.int64)

Data sets lie in `root`, else in the folder that the variable HMQ_LAB_DATA names, else in ~/.cache/hmq_lab.
"""

from __future__ import annotations

import difflib
import functools
import numbers
import os
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hmq_lab.data import builtin as glyphs
from hmq_lab.data import folders
from hmq_lab.data.images import Folder, Pictures, read

__all__ = ["STATISTICS", "Data", "Folder", "Pictures", "load"]

STATISTICS = {  # mean and standard deviation of each channel, of values from 0 to 1
    "builtin": ((0.50, 0.50, 0.50), (0.28, 0.28, 0.28)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "identity": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = ("builtin", "cifar10", "imagenet")
SMALL = 64  # pictures of up to so many pixels a side are kept in memory


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: names of the classes, how pictures are normalized (a key of STATISTICS), and three splits."""

    name: str
    classes: tuple[str, ...]
    normalize: str
    train: Pictures | Folder
    validation: Pictures | Folder
    test: Pictures | Folder

    @property
    def mean(self) -> tuple[float, ...]:
        return STATISTICS[self.normalize][0]

    @property
    def std(self) -> tuple[float, ...]:
        return STATISTICS[self.normalize][1]


def load(
    source: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    download: bool = False,
    normalize: str | None = None,
    validation: int | None = None,
    picture_size: int | None = None,
    workers: int | None = None,
) -> Data:
    """The data set of that name, or in that folder.

    >>> load("cifar10", root="nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no CIFAR10 in nowhere/cifar10 or nowhere: looked for cifar-10-batches-py/, ...

    source: "builtin", "cifar10", "imagenet" (the folder of that name in `root`), or a folder, also one in `root`, that
    holds train/<class>/<picture> and the same under val/ and test/; where one is missing, the other is the test set.
    download: let torchvision fetch CIFAR10. Nothing is fetched without it, and nothing else ever.
    normalize: a key of STATISTICS, the one that the weights were trained with; None is the data set's own, and
    ImageNet's for other folders.
    validation: how many training pictures to set aside for it, each class its share and the same ones every time. None
    is 5,000 of CIFAR10 and a tenth of others, at most 10,000. The built-in ones are drawn for it, 2,000.
    picture_size: pixels a side that pictures in files are brought to, 224 if None. Pictures of at most 64 pixels a side
    stay as they are, in memory, unless it is given. workers: processes that read large pictures.
    Raises FileNotFoundError where nothing is found, ValueError naming what is not as it should be.
    """
    if normalize is not None and normalize not in STATISTICS:
        raise ValueError(f"normalize must be one of {', '.join(STATISTICS)}, got {normalize!r}")
    if picture_size is not None and (not isinstance(picture_size, numbers.Integral) or picture_size < 1):
        raise ValueError(f"picture_size must be a whole number of pixels from 1 on, got {picture_size!r}")
    if source == "builtin":
        _check_no_size(picture_size, "the built-in pictures")
        return _builtin(normalize or "builtin", 2000 if validation is None else validation)
    root = Path(root or os.environ.get("HMQ_LAB_DATA") or "~/.cache/hmq_lab").expanduser()
    if source == "cifar10":
        place = _find_cifar10([root / "cifar10", root], download)
    elif source == "imagenet":
        place = root / "imagenet"
        if not place.is_dir():
            raise FileNotFoundError(
                f"no folder {place}: put train/ and val/ into it, or pass the folder it is in (root, --root)"
            )
    else:
        place = Path(source).expanduser()
        place = place if place.is_dir() else root / source
        if not place.is_dir():
            near = difflib.get_close_matches(str(source).lower(), NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it is neither {', '.join(NAMES)} nor a folder"
            raise FileNotFoundError(f"no data {str(source)!r}: {hint}")
    if _is_packed(place):
        _check_no_size(picture_size, "CIFAR10 in its own format")
        classes, splits = CIFAR10, _unpacked_cifar10(place)
    else:
        classes, splits = folders.scan(place)
    name = "cifar10" if classes == CIFAR10 else "imagenet" if source == "imagenet" else place.resolve().name
    normalize = normalize or ("cifar10" if name == "cifar10" else "imagenet")
    splits = _in_memory_or_not(splits, normalize, picture_size, workers)

    train, test = splits["train"], splits.get("test", splits.get("val"))
    if len(splits) == 3 and validation is None:
        return Data(name, classes, normalize, train, splits["val"], test)
    if validation is None and len(train) < 10:
        raise ValueError(
            f"{place} has {len(train)} training pictures, at least 10 are needed: a tenth is set aside for validation"
        )
    if validation is None:
        validation = 5000 if name == "cifar10" and len(train) == 50_000 else min(10_000, len(train) // 10)
    rest, held = folders.cut(train.labels, validation)
    return Data(name, classes, normalize, train.subset(rest), train.subset(held), test)


def sizes(picture_size: int) -> dict[str, int]:
    """How a `Folder` brings pictures to so many pixels a side: 224 out of 256, others in proportion."""
    return {"size": picture_size, "resize": picture_size * 8 // 7}


def _check_no_size(picture_size: int | None, what: str) -> None:
    if picture_size is not None:
        raise ValueError(f"picture_size is for pictures in files: {what} have 32 pixels a side, got {picture_size}")


def _builtin(normalize: str, validation: int) -> Data:
    counts = {"train": 8000, "validation": validation, "test": 2000}
    splits = {s: Pictures(*_drawn(count, s), *STATISTICS[normalize]) for s, count in counts.items()}
    return Data("builtin", glyphs.CLASSES, normalize, **splits)


@functools.lru_cache(maxsize=8)  # drawing takes a second or two, and a notebook loads more than once
def _drawn(count: int, stream: str) -> tuple[Tensor, Tensor]:
    images, labels = glyphs.make(count, stream=stream)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _in_memory_or_not(splits: dict, normalize: str, picture_size, workers) -> dict[str, Pictures | Folder]:
    """Splits as (pictures or files, labels) -> splits to go through."""
    mean, std = STATISTICS[normalize]
    first = splits["train"][0][0]
    if isinstance(first, str):
        pixels = read(first).size
        if picture_size is not None or max(pixels) > SMALL:
            options = {} if workers is None else {"workers": workers}
            options |= sizes(picture_size or 224)
            return {s: Folder(files, labels, mean, std, **options) for s, (files, labels) in splits.items()}
        splits = {s: (folders.decode(files, pixels), labels) for s, (files, labels) in splits.items()}
    return {s: Pictures(*folders.by_content(*both), mean, std) for s, both in splits.items()}


# CIFAR10 comes as torchvision's folder, as the archive that holds it, or as an image folder.
BATCHES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


def _is_packed(place: Path) -> bool:
    return (place / BATCHES).is_dir() or (place / ARCHIVE).is_file()


def _find_cifar10(places: list[Path], download: bool) -> Path:
    for place in places:
        if _is_packed(place) or all((place / "train" / name).is_dir() for name in CIFAR10):
            return place
    if download:
        from torchvision.datasets import CIFAR10 as Archive  # torchvision takes a second to import

        Archive(places[-1], download=True)
        return places[-1]
    raise FileNotFoundError(
        f"no CIFAR10 in {' or '.join(map(str, places))}: looked for {BATCHES}/, {ARCHIVE} and train/<class>/*.png. "
        "Pass the folder that holds one of them (root, --root), or let it be downloaded (download=True, --download)"
    )


def _unpacked_cifar10(place: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Through torchvision, which compares every file with its published MD5 before it unpickles it."""

    from torchvision.datasets import CIFAR10 as Archive

    def both():
        with warnings.catch_warnings():  # the files name their types as numpy did in 2009, and numpy 2.4 says so
            warnings.filterwarnings("ignore", message=".*align should be passed")
            found = {
                "train": Archive(place),
                "test": Archive(place, train=False),
            }
        return {s: (torch.from_numpy(d.data).permute(0, 3, 1, 2), torch.tensor(d.targets)) for s, d in found.items()}

    try:
        return both()
    except RuntimeError as error:  # not there, or not what was published
        if not (place / ARCHIVE).is_file():
            raise ValueError(f"{place / BATCHES} is damaged or incomplete: remove it and get CIFAR10 again") from error
    try:
        with tarfile.open(place / ARCHIVE) as archive:
            archive.extractall(place, filter="data")
        return both()
    except (RuntimeError, EOFError, tarfile.TarError) as error:
        raise ValueError(f"{place / ARCHIVE} is damaged ({error}): remove it and get CIFAR10 again") from error
