"""What is done to images before a network sees them: normalized, cut to size, varied at random.

Random numbers come from a generator that is passed in, so a batch depends on its seed, its epoch
and its number only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

LONGEST = 8  # sides to a side: images up to this shape are resized whole


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Values from 0 to 255 as float32 (value / 255 - mean) / std, channel by channel.

    >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    >>> normalize(white, (0.5,) * 3, (0.25,) * 3).flatten()
    tensor([2., 2., 2.])

    Args:
        images: uint8 (..., C, H, W).
        mean, std: C numbers each, of values from 0 to 1.
    """
    middle, scale = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    return images.float().div_(255).sub_(middle).div_(scale)


def grey(images: Tensor) -> Tensor:
    """The brightness of RGB images, rounded as Pillow does: uint8 (N, 3, H, W) -> (N, 1, H, W).

    >>> grey(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).item()
    76

    Source: ITU-R BT.601-2, 0.299 R + 0.587 G + 0.114 B.
    """
    # The weights in units of 2^-16, so that the sum is a whole number.
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=images.device)
    total = (images.int() * weights.view(3, 1, 1)).sum(1, keepdim=True)
    return ((total + 2**15) >> 16).to(torch.uint8)


def crop_flip(
    images: Tensor,
    rng: torch.Generator,
    padding: int = 4,
    flip: bool = True,
    rows: slice = slice(None),
    count: int | None = None,
) -> Tensor:
    """Every image moved by up to `padding` pixels, and mirrored half of the time.

    Args:
        images: (B, C, H, W) of any type and device.
        rng: a CPU generator, so that every device gives the same images.
        padding: pixels of black around each image.
        flip: whether images are mirrored.
        count: the size of the full batch; None means that `images` is the full batch.
        rows: which of its images these are; they vary as they do in the full batch.

    Returns:
        (B, C, H, W).

    Source: He et al., Deep Residual Learning, section 4.2.
    """
    b, _, h, w = images.shape
    device = images.device
    count = b if count is None else count

    # Where the window begins, and so which lines and columns of the padded image it shows.
    steps = 2 * padding + 1
    down = torch.randint(steps, (count, 1), generator=rng)[rows]
    right = torch.randint(steps, (count, 1), generator=rng)[rows]
    lines = down.to(device) + torch.arange(h, device=device)  # (B, H)
    columns = right.to(device) + torch.arange(w, device=device)  # (B, W)
    if flip:
        drawn = torch.rand(count, 1, generator=rng)[rows]
        mirrored = (drawn < 0.5).to(device)
        columns = torch.where(mirrored, columns.flip(1), columns)

    # Every pixel of the window in one gather.
    padded = F.pad(images, (padding,) * 4)
    number = torch.arange(b, device=device)[:, None, None]
    moved = padded[number, :, lines[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2)


def middle(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The middle `size` x `size` pixels of the image, its shorter side brought to `resize`.

    >>> middle(Image.new("RGB", (1, 60_000)), 224, 256).size
    (224, 224)
    """
    # The size of the whole image, resized, and where its middle begins.
    w, h = image.size
    short = min(w, h)
    wide = int(resize * w / short)
    high = int(resize * h / short)
    left = round((wide - size) / 2)
    top = round((high - size) / 2)
    if max(w, h) <= LONGEST * short:
        whole = image.resize((wide, high), Image.Resampling.BILINEAR)
        return whole.crop((left, top, left + size, top + size))
    # A very long image would need gigabytes: only the part that is kept is resized.
    box = (left * w / wide, top * h / high, (left + size) * w / wide, (top + size) * h / high)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def random_part(image: Image.Image, size: int, rng: torch.Generator) -> Image.Image:
    """A random part of the image, brought to `size` x `size`; half of the time mirrored.

    It has 8 to 100 % of the image's area, and a shape from 3:4 to 4:3.

    Source: Szegedy et al., Going deeper with convolutions, section 6.
    """
    w, h = image.size
    # Ten tries to find a part that fits into the image.
    for share, form, x, y in torch.rand(10, 4, generator=rng).tolist():
        area = (0.08 + 0.92 * share) * w * h
        shape = (3 / 4) ** (1 - 2 * form)  # uniform in the logarithm
        width = round(math.sqrt(area * shape))
        height = round(math.sqrt(area / shape))
        if 0 < width <= w and 0 < height <= h:
            left = int(x * (w - width + 1))
            top = int(y * (h - height + 1))
            break
    else:
        # A very long image: its middle.
        width = min(w, h * 4 // 3)
        height = min(h, w * 4 // 3)
        left = (w - width) // 2
        top = (h - height) // 2
    # Cut out and resized in one step, so that only this part is worked on.
    box = (left, top, left + width, top + height)
    part = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    mirrored = bool(torch.rand((), generator=rng) < 0.5)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part
