"""Averages as exact sums and counts of integers: what a mean, a pool with windows, an adaptive pool add up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def whole_sums(x: Tensor, call: Callable) -> tuple[Tensor, Tensor]:
    """Sums and counts of torch.mean: the mean in float64, times its count, is the sum but for a rounding below 1/2."""
    means = call(x.double())
    count = torch.tensor(x.numel() // means.numel())
    return (means * count).round().long(), count


def region_sums(x: Tensor, call: Callable) -> tuple[Tensor, Tensor]:
    """Sums and counts of adaptive pooling: output i of n sees the inputs from floor(i N / n) to ceil((i + 1) N / n)."""
    means = call(x.double())
    count = torch.ones((), dtype=torch.int64)
    for size, out in zip(x.shape, means.shape, strict=True):
        i = torch.arange(out)
        count = count.unsqueeze(-1) * ((i + 1) * size - 1).div(out, rounding_mode="floor").add(1).sub(i * size // out)
    return (means * count).round().long(), count


def window_sums(x: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Sums and counts of average pooling; the counts, which padding and ceil_mode change, from pooling ones."""
    ones = torch.ones(1, 1, *x.shape[-2:], dtype=torch.float64)
    sums = partial(F.avg_pool2d, **options | {"divisor_override": 1})
    count = (sums(ones) / F.avg_pool2d(ones, **options)).round().long()
    return sums(x.double()).round().long(), count
