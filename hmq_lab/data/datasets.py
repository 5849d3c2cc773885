"""Data sets: built-in images, CIFAR10, ImageNet, folders of images, your own torch data sets.

>>> from hmq_lab import data
>>> images = data.load("builtin")
>>> len(images.train), len(images.validation), len(images.test), images.classes[:3]
(8000, 2000, 2000, ('arrow', 'cross', 'fork'))
>>> x, y = next(images.train.batches(64, seed=0, augment=True))
>>> x.shape, x.dtype, y.dtype
(torch.Size([64, 3, 32, 32]), torch.float32, torch.int64)

Data sets lie in `root`, else in the folder that the variable HMQ_LAB_DATA names, else in
~/.cache/hmq_lab.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import numbers
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, Subset

from hmq_lab.data import builtin, cifar10, folders
from hmq_lab.data.files import LARGEST
from hmq_lab.data.images import Folder, Images, Items, Split
from hmq_lab.data.reading import check_range, read
from hmq_lab.graph.tracing import in_mode

__all__ = [
    "CIFAR10",
    "NAMES",
    "STATISTICS",
    "Data",
    "Folder",
    "Images",
    "Items",
    "Split",
    "load",
    "sizes",
]

STATISTICS = {  # mean and standard deviation of each channel, of values from 0 to 1
    "builtin": ((0.50, 0.50, 0.50), (0.28, 0.28, 0.28)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "identity": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
CIFAR10 = cifar10.CLASSES
NAMES = ("builtin", "cifar10", "imagenet")
SMALL = 64  # images of up to so many pixels a side are kept in memory
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: its name, the names of its classes, how images are normalized, and three splits.

    Args:
        name: what records call it.
        classes: one name for each output of a network.
        normalize: a key of STATISTICS.
        train, validation, test: the splits.
        folder: the folder of images it was read from, as an absolute path with ~ for
            the home folder; None for the data sets of NAMES.
    """

    name: str
    classes: tuple[str, ...]
    normalize: str
    train: Split
    validation: Split
    test: Split
    folder: str | None = None

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel that images are normalized with, of values from 0 to 1."""
        return STATISTICS[self.normalize][0]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel that images are normalized with."""
        return STATISTICS[self.normalize][1]

    @classmethod
    def of(
        cls,
        train: Dataset[Any] | DataLoader[Any],
        validation: Dataset[Any] | DataLoader[Any],
        test: Dataset[Any] | DataLoader[Any],
        *,
        classes: Sequence[str] | int | None = None,
        name: str = "own",
    ) -> Data:
        """A data set from torch data sets or loaders of your own.

        >>> from torch.utils.data import TensorDataset
        >>> digits = TensorDataset(torch.rand(20, 1, 28, 28), torch.arange(20) % 10)
        >>> Data.of(digits, digits, digits, classes=10).train.channels
        1

        Items are pairs (image, label): a float tensor (C, H, W), normalized as the network was
        trained, and a whole number. Of a loader the data set, the workers and the collate function
        are taken; batch size and order are those of the search. Random transforms of `train` stay
        random, and depend on the seed of the search.

        Args:
            train, validation, test: map-style data sets, loaders of such, or splits of hmq_lab.
            classes: the names of the classes, or how many there are; None takes the names that
                `train` has in an attribute `classes`, as the data sets of torchvision do.
            name: what records call it.

        Raises:
            TypeError: for what holds no such items; the message says what to add.
            ValueError: the classes are not known.
        """
        first, second, third = (_split(part) for part in (train, validation, test))
        return cls(name, _names_of(classes, train), "identity", first, second, third)

    def with_channels(self, channels: int) -> Data:
        """The same images in grey (1) or in RGB (3).

        >>> load("builtin").with_channels(1).test[0][0].shape
        torch.Size([1, 32, 32])

        Raises:
            ValueError: for other numbers of channels.
        """
        changed = {split: getattr(self, split).with_channels(channels) for split in SPLITS}
        return dataclasses.replace(self, **changed)

    def for_network(self, model: nn.Module) -> Data:
        """The data set with the channels that the network takes: grey images if it takes one.

        >>> head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), *head)
        >>> load("builtin").for_network(net).train.channels
        1

        Raises:
            ValueError: the network takes images of neither 1 nor 3 channels, and the data has
                others.
        """
        # Nothing changes for a network that takes the images as they are.
        wanted = input_channels(model)
        channels = self.train.channels
        if wanted is None or wanted == channels or _runs(model, self.train):
            return self
        # Grey instead of RGB, or RGB instead of grey.
        try:
            changed = self.with_channels(wanted)
        except ValueError as error:
            said = f"the network takes images of {wanted} channels, the data {self.name} has {channels}"
            raise ValueError(f"{said}: give the first layer {channels} inputs") from error
        return changed if _runs(model, changed.train) else self


def input_channels(model: nn.Module) -> int | None:
    """The input channels of the network's first convolution; None for a network without one.

    >>> input_channels(nn.Sequential(nn.Conv2d(1, 8, 3)))
    1
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


def _runs(model: nn.Module, split: Split) -> bool:
    """Whether the network takes the images of a split."""
    if not len(split):
        return False
    # One image tells.
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = next(split.subset(range(1)).batches(1, device=device))[0]
    try:
        with in_mode(model, training=False), torch.no_grad():
            model(x)
    except Exception:  # whatever it is, `search` and `train` meet it again and say it
        return False
    return True


def load(
    source: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    download: bool = False,
    normalize: str | None = None,
    validation: int | None = None,
    image_size: int | None = None,
    workers: int | None = None,
) -> Data:
    """The data set of that name, or in that folder.

    >>> load("cifar10", root="nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no CIFAR10 in nowhere/cifar10 or nowhere: looked for cifar-10-batches-py/,
    ...

    Args:
        source: "builtin", "cifar10", "imagenet" (the folder of that name in `root`), or a folder,
            also one in `root`, that holds train/<class>/<image> and the same under val/ and test/;
            where one of these is missing, the other is the test set.
        root: the folder where data sets lie.
        download: let torchvision fetch CIFAR10. Nothing is fetched without it, and nothing else
            ever.
        normalize: a key of STATISTICS, the one that the weights were trained with; None is the data
            set's own, and ImageNet's for other folders.
        validation: how many training images to set aside for it, each class its share and the same
            ones every time. None is 5,000 of CIFAR10 and a tenth of others, at most 10,000. The
            built-in ones are drawn for it, 2,000.
        image_size: pixels a side that images in files are brought to, 224 if None. Images of at
            most 64 pixels a side stay as they are, in memory, unless it is given.
        workers: processes that read large images.

    Raises:
        FileNotFoundError: nothing is found.
        ValueError: naming what is not as it should be.
    """
    _check_options(normalize, image_size)
    if source == "builtin":
        _check_no_size(image_size, "the built-in images")
        return _builtin(normalize or "builtin", 2000 if validation is None else validation)

    # What lies where: torchvision's CIFAR10, or folders of images.
    home = root or os.environ.get("HMQ_LAB_DATA") or "~/.cache/hmq_lab"
    place = _find(source, Path(home).expanduser(), download)
    classes: tuple[str, ...]
    splits: dict[str, tuple[Any, Tensor]]
    if cifar10.is_packed(place):
        _check_no_size(image_size, "CIFAR10 in its own format")
        classes, splits = CIFAR10, cifar10.unpacked(place)
    else:
        classes, scanned = folders.scan(place)
        splits = dict(scanned)

    # What it is called, and how its images are normalized.
    if classes == CIFAR10:
        name = "cifar10"
    else:
        name = "imagenet" if source == "imagenet" else place.resolve().name
    folder = None if name in NAMES else _without_home(place.resolve())
    normalize = normalize or ("cifar10" if name == "cifar10" else "imagenet")
    ready = _in_memory_or_not(splits, normalize, image_size, workers)

    # Three splits, the validation set cut from the training set where it has no folder.
    train, test = ready["train"], ready.get("test", ready.get("val"))
    assert test is not None  # `scan` has refused a folder without both
    if len(ready) == 3 and validation is None:
        return Data(name, classes, normalize, train, ready["val"], test, folder)
    rest, held = _cut(train, classes, name, validation, place)
    return Data(name, classes, normalize, rest, held, test, folder)


def sizes(image_size: int) -> dict[str, int]:
    """How a `Folder` brings images to so many pixels a side: 224 out of 256, others in proportion.

    >>> sizes(224)
    {'size': 224, 'resize': 256}
    """
    return {"size": image_size, "resize": image_size * 8 // 7}


def _without_home(place: Path) -> str:
    """A path with ~ for the home folder, so that a record does not tell a user's name."""
    home = Path.home()
    return str(Path("~") / place.relative_to(home)) if place.is_relative_to(home) else str(place)


def _check_options(normalize: str | None, image_size: int | None) -> None:
    # The statistics have names.
    if normalize is not None and normalize not in STATISTICS:
        raise ValueError(f"normalize must be one of {', '.join(STATISTICS)}, got {normalize!r}")
    # A size that a memory can hold.
    if image_size is None:
        return
    if not isinstance(image_size, numbers.Integral) or not 1 <= image_size <= LARGEST:
        raise ValueError(
            f"image_size must be a whole number of pixels from 1 to {LARGEST}, got {image_size!r}"
        )


def _check_no_size(image_size: int | None, what: str) -> None:
    if image_size is not None:
        raise ValueError(
            f"image_size is for images in files: {what} have 32 pixels a side, got {image_size}"
        )


def _find(source: str | os.PathLike, root: Path, download: bool) -> Path:
    """The folder that holds the data set."""
    # The data sets with a name lie in the root.
    if source == "cifar10":
        return cifar10.find([root / "cifar10", root], download)
    if source == "imagenet":
        place = root / "imagenet"
        if not place.is_dir():
            said = f"no folder {place}: put train/ and val/ into it, or pass the folder it is in (root, --root)"
            raise FileNotFoundError(said)
        return place
    # A folder of images, by its path or in the root.
    for place in (Path(source).expanduser(), root / source):
        if place.is_dir():
            return place
    # A name with a typing error.
    near = difflib.get_close_matches(str(source).lower(), NAMES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it is neither {', '.join(NAMES)} nor a folder"
    raise FileNotFoundError(f"no data {str(source)!r}: {hint}")


def _builtin(normalize: str, validation: int) -> Data:
    """The built-in images, drawn."""
    mean, std = STATISTICS[normalize]
    train = Images(*_drawn(8000, "train"), mean, std)
    held = Images(*_drawn(validation, "validation"), mean, std)
    test = Images(*_drawn(2000, "test"), mean, std)
    return Data("builtin", builtin.CLASSES, normalize, train, held, test)


@functools.lru_cache(
    maxsize=8
)  # drawing takes a second or two, and a notebook loads more than once
def _drawn(count: int, stream: str) -> tuple[Tensor, Tensor]:
    images, labels = builtin.make(count, stream=stream)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _in_memory_or_not(
    splits: dict[str, tuple[Any, Tensor]],
    normalize: str,
    image_size: int | None,
    workers: int | None,
) -> dict[str, Split]:
    """Splits as (images or files, labels) -> splits to go through."""
    # Names of files are strings, images are tensors.
    mean, std = STATISTICS[normalize]
    first = splits["train"][0][0]
    if isinstance(first, str):
        # The first image tells the size of all that are kept in memory.
        pixels = read(first).size
        check_range([file for files, _ in splits.values() for file in files])
        # Large images stay in their files.
        if image_size is not None or max(pixels) > SMALL:
            options = sizes(image_size or 224)
            if workers is not None:
                options["workers"] = workers
            return {
                name: Folder(files, labels, mean, std, **options)
                for name, (files, labels) in splits.items()
            }
        splits = {
            name: (folders.decode(files, pixels), labels)
            for name, (files, labels) in splits.items()
        }
    return {name: Images(*folders.by_content(*both), mean, std) for name, both in splits.items()}


def _cut(
    train: Split, classes: Sequence[str], name: str, validation: int | None, place: Path
) -> tuple[Split, Split]:
    """The training set without the images that are set aside for validation, and these."""
    labels = train.labels  # type: ignore[attr-defined]
    # As many as were asked for.
    if validation is not None:
        rest, held = folders.cut(labels, validation)
        return train.subset(rest), train.subset(held)
    if len(train) < 10:
        raise ValueError(
            f"{place} has {len(train)} training images, at least 10 are needed: a tenth is set aside for validation"
        )
    # Else a tenth, and of CIFAR10 what is usual.
    count = 5000 if name == "cifar10" and len(train) == 50_000 else min(10_000, len(train) // 10)
    rest, held = folders.cut(labels, count)

    # A class of a few images may have none to spare.
    there, kept = (
        labels.bincount(minlength=len(classes)),
        labels[held].bincount(minlength=len(classes)),
    )
    missing = [f"{classes[k]} ({there[k]})" for k in range(len(classes)) if kept[k] == 0]
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        warnings.warn(
            f"the {count} validation images hold none of the classes "
            f"{', '.join(missing[:6])}{more}, in brackets "
            "the training images of each: add images, or a folder val/",
            stacklevel=3,
        )
    return train.subset(rest), train.subset(held)


def _split(part: Dataset[Any] | DataLoader[Any]) -> Split:
    """A data set or a loader as a split."""
    # A split of hmq_lab is one already.
    if isinstance(part, Split):
        return part
    if not isinstance(part, DataLoader):
        return Items(part)
    # An order of its own would be lost without a word.
    if not isinstance(part.sampler, SequentialSampler | RandomSampler):
        said = (
            f"the order of a loader is not used, and this one has a {type(part.sampler).__name__}"
        )
        warnings.warn(f"{said}: pass a data set whose items occur as often as wanted", stacklevel=3)
    return Items(part.dataset, part.num_workers, part.collate_fn)


def _names_of(
    classes: Sequence[str] | int | None, train: Dataset[Any] | DataLoader[Any]
) -> tuple[str, ...]:
    """The names of the classes, as given or as the data set has them."""
    # Their number is enough.
    if isinstance(classes, int):
        return tuple(map(str, range(classes)))
    found: Any = classes
    # The data set may lie in a loader, and in subsets of subsets.
    holder: Any = train.dataset if isinstance(train, DataLoader) else train
    while found is None and holder is not None:
        found = getattr(holder, "classes", None)
        holder = holder.dataset if isinstance(holder, Subset) else None
    if found is None:
        raise ValueError(
            "the data set has no attribute classes: say classes=10, or the names of the classes"
        )
    return tuple(map(str, found))
