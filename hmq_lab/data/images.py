"""Splits of a data set, in memory, in files or your own, and one way to go through them.

>>> import torch
>>> from hmq_lab.data.images import Images
>>> images = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
>>> split = Images(images, labels=torch.arange(10), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
>>> for x, y in split.batches(4, seed=0, epoch=3, augment=True):
...     print(tuple(x.shape), y)
(4, 3, 32, 32) tensor([4, 9, 6, 7])
(4, 3, 32, 32) tensor([5, 2, 3, 1])
(2, 3, 32, 32) tensor([0, 8])
>>> x, y = split[7]  # a split is a torch Dataset: an image and its label
>>> x.shape, y
(torch.Size([3, 32, 32]), 7)

Going through has no state: batch k of epoch e follows from (seed, e, k). A run that was interrupted
goes on with `start=k`, gets the batches that it would have got, and reads nothing twice.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from hmq_lab.data.augmentation import crop_flip, grey, middle, normalize, random_part
from hmq_lab.data.reading import MODES, read
from hmq_lab.seeds import generator, stable_hash

__all__ = [
    "Batches",
    "Folder",
    "Images",
    "Items",
    "Split",
    "crop_flip",
    "middle",
    "normalize",
    "own",
    "plan",
    "random_part",
    "read",
]

Batches = Iterator[tuple[Tensor, Tensor]]


class Split(Dataset[tuple[Tensor, int]]):
    """A torch Dataset of images, float32 (C, H, W), with labels; it also gives batches."""

    channels: int

    def __len__(self) -> int:
        raise NotImplementedError

    def subset(self, indices: Sequence[int] | Tensor) -> Split:
        """Some of the images, in the order of the indices: `split.subset(range(1000))`."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Split:
        """The same images held on a device, where they are held at all: else the split itself."""
        return self

    def with_channels(self, channels: int) -> Split:
        """The same images in grey (1) or in RGB (3). ValueError for other numbers of channels."""
        if channels == self.channels:
            return self
        raise ValueError(f"images of {self.channels} channels cannot be brought to {channels}")

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        augment: bool = False,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Pairs of normalized images, float32 (B, C, H, W), and labels, int64 (B,), on `device`.

        Args:
            batch_size: images in a batch.
            seed: None goes through in order; a number shuffles, each epoch in its own order.
            epoch: its number.
            start: the first batch wanted, from 0.
            augment: vary the images, which needs a seed.
            device: where the batches are wanted.
            drop_last: leave out a last batch that is not full.
            part: (r, n) gives the r-th of n parts of every batch, as it is in the full one; empty
                parts are left out.

        Raises:
            ValueError: at the call, for arguments that make no sense; on the way, naming a file
                that cannot be read.
        """
        raise NotImplementedError

    def _number(self, index: int) -> int:
        """The index from 0 on; IndexError ends a loop over the split."""
        number = int(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        return number % len(self)


@dataclass(frozen=True, eq=False)
class Images(Split):
    """Small images of one size, all in memory.

    Args:
        images: uint8 (N, C, H, W), on any device; C is 3 for RGB, 1 for grey.
        labels: int64 (N,).
        mean, std: a number for each channel, of values from 0 to 1.
        augmentation: "crop_flip" (4 pixels of black around, a random window, a random mirror),
            "crop" or None.

    Raises:
        ValueError: these do not fit together.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None = "crop_flip"

    def __post_init__(self) -> None:
        # Images of bytes, with a mean and a deviation for each channel.
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {shape}")
        if not len(self.mean) == len(self.std) == shape[1]:
            said = f"{shape[1]} channels, mean {len(self.mean)} numbers and std {len(self.std)}"
            raise ValueError(f"mean and std must have a number for each channel, got {said}")
        # A label for each image.
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            said = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64 ({len(self.images)},), got {said}")
        if self.augmentation not in ("crop_flip", "crop", None):
            raise ValueError(
                f"augmentation must be 'crop_flip', 'crop' or None, got {self.augmentation!r}"
            )

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Channels of an image: 3 for RGB, 1 for grey."""
        return self.images.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = self._number(index)
        return normalize(self.images[number], self.mean, self.std), int(self.labels[number])

    def subset(self, indices: Sequence[int] | Tensor) -> Images:
        """Some of the images, in the order of the indices: `split.subset(range(1000))`."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def to(self, device: torch.device | str) -> Images:
        """The same images held on another device, where batches are then made."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def with_channels(self, channels: int) -> Images:
        """The same images in grey (1) or in RGB (3). ValueError for other numbers of channels."""
        if channels == self.channels:
            return self
        images = _with_channels(self.images, channels)
        return replace(
            self, images=images, mean=_spread(self.mean, channels), std=_spread(self.std, channels)
        )

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        augment: bool = False,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Pairs of normalized images and labels: see `Split.batches`."""
        # The arguments are checked here, before the first batch is asked for.
        parts = plan(len(self), batch_size, seed, epoch, start, augment, drop_last)

        def go() -> Batches:
            for k, whole in enumerate(parts, start):
                # The own part of the full batch.
                rows, count = own(len(whole), part), len(whole)
                indices = whole[rows].to(self.images.device)
                if len(indices) == 0:
                    continue
                # Varied as in the full batch, so that processes see what one would see.
                x = self.images[indices].to(device)
                if augment and self.augmentation:
                    assert seed is not None  # `plan` has refused it
                    rng, flip = (
                        generator(seed, "augment", epoch, k),
                        self.augmentation == "crop_flip",
                    )
                    x = crop_flip(x, rng, flip=flip, rows=rows, count=count)
                yield (
                    normalize(x, self.mean, self.std),
                    self.labels[indices.to(self.labels.device)].to(device),
                )

        return go()


@dataclass(frozen=True, eq=False)
class Folder(Split):
    """Large images in files, read by `workers` processes when their batch is asked for.

    Augmented, a random part of the image is brought to `size` and mirrored half of the time: see
    `random_part`.

    Args:
        files: one for each label.
        labels: int64 (N,).
        mean, std: a number for each channel, of values from 0 to 1.
        size: pixels a side of the square given out.
        resize: pixels of the shorter side in evaluation, before the middle is cut out.
        workers: processes that read images.
        channels: 3 for RGB, 1 for grey.
    """

    files: tuple[str, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = 224
    resize: int = 256
    workers: int = min(8, os.cpu_count() or 1)
    channels: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(
                f"size must be from 1 to resize, got size {self.size}, resize {self.resize}"
            )
        if self.channels not in MODES:
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = self._number(index)
        view = _Views(self.files, self.size, self.resize, None, None, self.channels)[number]
        if isinstance(view, str):
            raise ValueError(view)
        return normalize(view, self.mean, self.std), int(self.labels[number])

    def subset(self, indices: Sequence[int] | Tensor) -> Folder:
        """Some of the images, in the order of the indices."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return replace(
            self, files=tuple(self.files[i] for i in chosen.tolist()), labels=self.labels[chosen]
        )

    def with_channels(self, channels: int) -> Folder:
        """The same images in grey (1) or in RGB (3). ValueError for other numbers of channels."""
        if channels == self.channels:
            return self
        if channels not in MODES:
            raise ValueError(f"images of {self.channels} channels cannot be brought to {channels}")
        mean, std = _spread(self.mean, channels), _spread(self.std, channels)
        return replace(self, channels=channels, mean=mean, std=std)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        augment: bool = False,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Pairs of normalized images and labels: see `Split.batches`."""
        parts = _parts(len(self), batch_size, seed, epoch, start, augment, drop_last, part)
        labels = ("augment", epoch) if augment else None
        views = _Views(self.files, self.size, self.resize, labels, seed, self.channels)
        loader = _loader(views, parts, self.workers, _together, device)

        def go() -> Batches:
            for x, indices in zip(loader, parts, strict=True):
                if isinstance(x, str):
                    raise ValueError(x)
                # uint8 until here: a quarter of the bytes between processes.
                moved = x.to(device, non_blocking=True)
                yield normalize(moved, self.mean, self.std), self.labels[indices].to(device)

        return go()


@dataclass(frozen=True, eq=False)
class Items(Split):
    """A torch data set of your own. Its items are (image, label), as the network takes them.

    Random transforms draw from the seed, the epoch and the number of the item: a run with the same
    seed is the same run, also when it was interrupted.

    Args:
        items: any map-style torch Dataset of pairs, a float Tensor (C, H, W) and a whole number.
        workers: processes that make the items (0: this one).
        collate: what makes a batch of a list of items.

    Raises:
        TypeError: the first item is none of that kind; the message says what to add.
    """

    items: Dataset[Any] = field(repr=False)
    workers: int = 0
    collate: Callable[[list[Any]], Any] = field(default=default_collate, repr=False)

    def __post_init__(self) -> None:
        if not (hasattr(self.items, "__len__") and hasattr(self.items, "__getitem__")):
            raise TypeError(
                f"a data set needs a length and items by number, got {type(self.items).__name__}"
            )
        if len(self):
            _check_item(self._first())

    @property
    def channels(self) -> int:  # type: ignore[override]
        """Channels of the first image."""
        return self._first()[0].shape[0]

    def _first(self) -> Any:
        """The first item; looking at it changes no random numbers."""
        with _random_numbers(0):
            return self.items[0]

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.items[self._number(index)]
        return x.float(), int(y)

    def subset(self, indices: Sequence[int] | Tensor) -> Items:
        """Some of the items, in the order of the indices."""
        chosen = torch.as_tensor(indices, dtype=torch.long).tolist()
        return replace(self, items=Subset(self.items, chosen))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        augment: bool = False,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Batches:
        """Pairs of images and labels: see `Split.batches`. The data set decides how items vary."""
        parts = _parts(len(self), batch_size, seed, epoch, start, augment, drop_last, part)
        # Each item draws its own random numbers, whoever makes it.
        seeded = _Seeded(self.items, seed or 0, epoch)
        loader = _loader(seeded, parts, self.workers, self.collate, device)

        def go() -> Batches:
            for x, y in loader:
                yield x.float().to(device, non_blocking=True), y.long().to(device)

        return go()


def plan(
    count: int,
    batch_size: int,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    augment: bool = False,
    drop_last: bool = False,
) -> list[Tensor]:
    """The images of every batch of an epoch, from batch `start` on.

    >>> plan(5, 2), plan(5, 2, seed=0, start=2)
    ([tensor([0, 1]), tensor([2, 3]), tensor([4])], [tensor([3])])

    Args:
        count: images there are. The others are those of `Split.batches`.

    Raises:
        ValueError: naming the argument that makes no sense.
    """
    # Arguments that make no sense.
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if augment and seed is None:
        raise ValueError("augment=True needs a seed: random images have to come from somewhere")
    order = (
        torch.arange(count)
        if seed is None
        else torch.randperm(count, generator=generator(seed, "order", epoch))
    )
    least = batch_size if drop_last else 1
    parts = [part for part in order.split(batch_size) if len(part) >= least]
    if not 0 <= start <= len(parts):
        raise ValueError(
            f"start must be from 0 to {len(parts)}, the batches of an epoch, got {start}"
        )
    return parts[start:]


def own(count: int, part: tuple[int, int]) -> slice:
    """Which images of a batch of `count` are the r-th of n parts, of nearly equal sizes.

    >>> [own(7, (r, 3)) for r in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    r, n = part
    if not 0 <= r < n:
        raise ValueError(f"part must be (r, n) with r from 0 to n - 1, got {part}")
    return slice(count * r // n, count * (r + 1) // n)


def _parts(count, batch_size, seed, epoch, start, augment, drop_last, part) -> list[Tensor]:
    """The batches of `plan`, of each the own part, without empty ones."""
    # Several processes each take a part of every batch.
    whole = plan(count, batch_size, seed, epoch, start, augment, drop_last)
    mine = [batch[own(len(batch), part)] for batch in whole]
    return [batch for batch in mine if len(batch)]


def _loader(
    views: Dataset[Any], parts: list[Tensor], workers: int, collate, device
) -> DataLoader[Any]:
    """A torch loader of these batches."""
    return DataLoader(
        views,
        batch_sampler=[part.tolist() for part in parts],
        num_workers=min(workers, len(parts)),
        collate_fn=collate,
        pin_memory=torch.device(device).type == "cuda",
        # Without a generator of its own it would draw from the global numbers, and looking would
        # change a run.
        generator=torch.Generator(),
    )


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 (N, C, H, W) in grey or RGB."""
    if (images.shape[1], channels) == (3, 1):
        return grey(images)
    if (images.shape[1], channels) == (1, 3):
        return images.expand(-1, 3, -1, -1).contiguous()
    raise ValueError(f"images of {images.shape[1]} channels cannot be brought to {channels}")


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """The mean of the channels' numbers, for each channel."""
    return (sum(values) / len(values),) * channels


def _check_item(item: object) -> None:
    """Raise a TypeError that says what is wrong with an item of a data set, and what to do."""
    # A pair of an image and a label.
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(
            f"items of a data set must be pairs (image, label), got {type(item).__name__}"
        )
    x, y = item
    # Transforms are the user's: bytes could mean any range.
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 3:
        said = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        how = "give the data set a transform such as torchvision.transforms.ToTensor(), with Normalize behind it"
        raise TypeError(f"images must be float tensors (C, H, W), got {said}: {how}")
    if isinstance(y, Tensor) and y.dim():
        raise TypeError(f"labels must be whole numbers, got a tensor {tuple(y.shape)}")


@dataclass(frozen=True)
class _Views(Dataset[Any]):
    """What a worker process does: file -> uint8 (C, size, size), with own random numbers.

    For an image that cannot be read it gives the reason, a string: an exception would come out of
    the worker with a traceback in its message.
    """

    files: tuple[str, ...]
    size: int
    resize: int
    labels: tuple[str | int, ...] | None  # of the generator; None: no augmentation
    seed: int | None
    channels: int = 3

    def __getitem__(self, index: int) -> Tensor | str:
        # A reason instead of an exception, for the main process to raise.
        try:
            image = read(self.files[index], self.channels)
        except ValueError as error:
            return str(error)
        # The middle in evaluation, a random part in training.
        if self.labels is None or self.seed is None:
            view = middle(image, self.size, self.resize)
        else:
            view = random_part(image, self.size, generator(self.seed, *self.labels, index))
        # Grey images have no axis of channels in Pillow.
        pixels = np.array(view).reshape(self.size, self.size, self.channels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def __len__(self) -> int:
        return len(self.files)


def _together(views: list[Tensor | str]) -> Tensor | str:
    """uint8 (B, C, size, size), or why one of the images could not be read."""
    for view in views:
        if isinstance(view, str):
            return view
    return torch.stack([view for view in views if isinstance(view, Tensor)])


@dataclass(frozen=True)
class _Seeded(Dataset[Any]):
    """Items of a data set, each made with random numbers of its own: of torch, NumPy and Python."""

    items: Dataset[Any]
    seed: int
    epoch: int

    def __getitem__(self, index: int) -> Any:
        with _random_numbers(stable_hash(self.seed, "item", self.epoch, index)):
            return self.items[index]

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]


@contextmanager
def _random_numbers(seed: int) -> Iterator[None]:
    """Seed the global random numbers inside this context; afterwards they are as before."""
    # The three kinds of numbers that transforms draw from.
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002
