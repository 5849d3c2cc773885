"""Two kinds of split, pictures in memory and pictures in files, with one way to go through them.

>>> import torch
>>> from hmq_lab.data.images import Pictures
>>> images = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
>>> split = Pictures(images, labels=torch.arange(10), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
>>> for x, y in split.batches(4, seed=0, epoch=3, augment=True):
...     print(tuple(x.shape), y)
(4, 3, 32, 32) tensor([4, 9, 6, 7])
(4, 3, 32, 32) tensor([5, 2, 3, 1])
(2, 3, 32, 32) tensor([0, 8])

Going through has no state: batch k of epoch e follows from (seed, e, k). A run that was interrupted goes on with
`start=k`, sees what it would have seen, and reads nothing twice.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hmq_lab.seeds import generator

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Small pictures of one size, all in memory.

    images: uint8 (N, 3, H, W), on any device. labels: int64 (N,). mean, std: per channel, of values from 0 to 1.
    augmentation: "crop_flip" (4 pixels of black around, a random window, a random mirror), "crop" or None.
    Raises ValueError where these do not fit together.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None = "crop_flip"

    def __post_init__(self):
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (N, 3, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 ({len(self.images)},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if self.augmentation not in ("crop_flip", "crop", None):
            raise ValueError(f"augmentation must be 'crop_flip', 'crop' or None, got {self.augmentation!r}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | Tensor) -> Pictures:
        """Some of the pictures, in the order asked for: `split.subset(range(1000))`."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> Pictures:
        """The same pictures held on another device: batches are then cut out, varied and normalized there."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(
        self, batch_size: int, *, seed=None, epoch=0, start=0, augment=False, device="cpu", drop_last=False, part=(0, 1)
    ) -> Batches:
        """Pairs of normalized pictures, float32 (B, 3, H, W), and labels, int64 (B,), on `device`.

        seed: None goes through in order; a number shuffles, every epoch anew. start: the first batch wanted, from 0.
        augment: vary the pictures, which needs a seed. drop_last: leave out a last batch that is not full.
        part: (r, n) gives the r-th of n parts of every batch, as it is in the whole (see `own`); no empty ones.
        Raises ValueError at the call, before the first batch is asked for.
        """
        parts = plan(len(self), batch_size, seed, epoch, start, augment, drop_last)

        def go() -> Batches:
            for k, whole in enumerate(parts, start):
                rows, count = own(len(whole), part), len(whole)
                indices = whole[rows].to(self.images.device)
                if len(indices) == 0:
                    continue
                x = self.images[indices].to(device)
                if augment and self.augmentation:
                    flip = self.augmentation == "crop_flip"
                    x = crop_flip(x, generator(seed, "augment", epoch, k), flip=flip, rows=rows, count=count)
                yield normalize(x, self.mean, self.std), self.labels[indices.to(self.labels.device)].to(device)

        return go()


@dataclass(frozen=True, eq=False)
class Folder:
    """Large pictures, in files, read when their batch is asked for by `workers` processes (0: by this one).

    files: one for each label. size: pixels of the square given out. resize: the shorter side in evaluation, before the
    middle is cut out. Augmented, a random part of the picture is brought to `size` and mirrored half of the time, after
    the Inception networks (Szegedy et al., Going deeper with convolutions, section 6).
    """

    files: tuple[str, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int = 224
    resize: int = 256
    workers: int = min(8, os.cpu_count() or 1)

    def __post_init__(self):
        if not 1 <= self.size <= self.resize:
            raise ValueError(f"size must be from 1 to resize, got size {self.size}, resize {self.resize}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | Tensor) -> Folder:
        """Some of the pictures, in the order asked for."""
        indices = torch.as_tensor(indices, dtype=torch.long)
        return replace(self, files=tuple(self.files[i] for i in indices.tolist()), labels=self.labels[indices])

    def to(self, device: torch.device | str) -> Folder:
        """Itself: pictures in files go to a device batch by batch."""
        return self

    def batches(
        self, batch_size: int, *, seed=None, epoch=0, start=0, augment=False, device="cpu", drop_last=False, part=(0, 1)
    ) -> Batches:
        """As `Pictures.batches`. Raises ValueError naming the file when a picture cannot be read."""
        parts = [p[own(len(p), part)] for p in plan(len(self), batch_size, seed, epoch, start, augment, drop_last)]
        parts = [p for p in parts if len(p)]
        views = _Views(self.files, self.size, self.resize, ("augment", epoch) if augment else None, seed)
        loader = torch.utils.data.DataLoader(
            views,
            batch_sampler=[part.tolist() for part in parts],
            num_workers=min(self.workers, len(parts)),
            collate_fn=_together,
            pin_memory=torch.device(device).type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global numbers, and looking would change a run
        )

        def go() -> Batches:
            for x, indices in zip(loader, parts, strict=True):
                if isinstance(x, str):
                    raise ValueError(x)
                x = x.to(device, non_blocking=True)  # uint8 until here: a quarter of the bytes between processes
                yield normalize(x, self.mean, self.std), self.labels[indices].to(device)

        return go()


def plan(count, batch_size, seed=None, epoch=0, start=0, augment=False, drop_last=False) -> list[Tensor]:
    """The pictures of every batch of an epoch, from batch `start` on.

    >>> plan(5, 2), plan(5, 2, seed=0, start=2)
    ([tensor([0, 1]), tensor([2, 3]), tensor([4])], [tensor([3])])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if augment and seed is None:
        raise ValueError("augment=True needs a seed: random pictures have to come from somewhere")
    order = torch.arange(count) if seed is None else torch.randperm(count, generator=generator(seed, "order", epoch))
    parts = [part for part in order.split(batch_size) if len(part) >= (batch_size if drop_last else 1)]
    if not 0 <= start <= len(parts):
        raise ValueError(f"start must be from 0 to {len(parts)}, the batches of an epoch, got {start}")
    return parts[start:]


def own(count: int, part: tuple[int, int]) -> slice:
    """Which pictures of a batch of `count` are the r-th of n parts: in a row, as equally many as can be.

    >>> [own(7, (r, 3)) for r in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    r, n = part
    if not 0 <= r < n:
        raise ValueError(f"part must be (r, n) with r from 0 to n - 1, got {part}")
    return slice(count * r // n, count * (r + 1) // n)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 0 to 255 -> float32 (value / 255 - mean) / std, channel by channel.

    >>> normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), (0.5,) * 3, (0.25,) * 3).flatten()
    tensor([2., 2., 2.])
    """
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    return images.float().div_(255).sub_(mean).div_(std)


def crop_flip(
    images: Tensor,
    rng: torch.Generator,
    padding: int = 4,
    flip: bool = True,
    rows: slice = slice(None),
    count: int | None = None,
) -> Tensor:
    """Every picture moved by up to `padding` pixels, and mirrored half of the time; the whole batch in one gather.

    images: (B, C, H, W) of any type and device; rng: a CPU generator, so every device gives the same pictures.
    rows, count: the images are these of a batch of so many, and vary as they do in it.
    Returns (B, C, H, W). Source: He et al., Deep Residual Learning, section 4.2.
    """
    (b, _, h, w), device = images.shape, images.device
    count = b if count is None else count
    down = torch.randint(2 * padding + 1, (count, 1), generator=rng)[rows].to(device)
    right = torch.randint(2 * padding + 1, (count, 1), generator=rng)[rows].to(device)
    lines, columns = (shift + torch.arange(n, device=device) for shift, n in ((down, h), (right, w)))  # (B, H), (B, W)
    if flip:
        mirrored = (torch.rand(count, 1, generator=rng) < 0.5)[rows].to(device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    picture = torch.arange(b, device=device)[:, None, None]
    moved = padded[picture, :, lines[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2)


def read(file: str | os.PathLike) -> Image.Image:
    """A picture as RGB. Raises ValueError naming a file that is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what can be read is read; warnings of PIL do not say of which file
            with Image.open(file) as picture:
                return picture.convert("RGB")
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error and more for broken files
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error


def middle(picture: Image.Image, size: int, resize: int) -> Image.Image:
    """The shorter side brought to `resize`, then the `size` x `size` pixels in the middle."""
    w, h = picture.size
    short = min(w, h)
    w, h = int(resize * w / short), int(resize * h / short)
    left, top = round((w - size) / 2), round((h - size) / 2)
    return picture.resize((w, h), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def random_part(picture: Image.Image, size: int, rng: torch.Generator) -> Image.Image:
    """8 to 100 % of the picture's area, 3:4 to 4:3 in shape, somewhere, brought to `size` x `size`; mirrored or not."""
    w, h = picture.size
    for area, shape, x, y in torch.rand(10, 4, generator=rng).tolist():
        area = (0.08 + 0.92 * area) * w * h
        shape = (3 / 4) ** (1 - 2 * shape)  # uniform in the logarithm
        width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < width <= w and 0 < height <= h:
            left, top = int(x * (w - width + 1)), int(y * (h - height + 1))
            break
    else:  # a very long picture: its middle
        width, height = min(w, h * 4 // 3), min(h, w * 4 // 3)
        left, top = (w - width) // 2, (h - height) // 2
    part = picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand((), generator=rng) < 0.5 else part


@dataclass(frozen=True)
class _Views(torch.utils.data.Dataset):
    """What a worker process does: file -> uint8 (3, size, size). Each picture has random numbers of its own.

    For a picture that cannot be read it gives the reason, a string: an exception would come out of the worker with a
    traceback in its message.
    """

    files: tuple[str, ...]
    size: int
    resize: int
    labels: tuple[str | int, ...] | None  # of the generator; None: no augmentation
    seed: int | None

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            picture = read(self.files[index])
        except ValueError as error:
            return str(error)
        if self.labels is None:
            picture = middle(picture, self.size, self.resize)
        else:
            picture = random_part(picture, self.size, generator(self.seed, *self.labels, index))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def __len__(self) -> int:
        return len(self.files)


def _together(views: list[Tensor | str]) -> Tensor | str:
    """uint8 (B, 3, size, size), or why one of the pictures could not be read."""
    return next((view for view in views if isinstance(view, str)), None) or torch.stack(views)
