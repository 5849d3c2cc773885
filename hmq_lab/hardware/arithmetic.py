"""Arithmetic of the integer network: shifts and divisions that round half to even, saturation, exact accumulation.

A tensor is int64 codes and one exponent e for all of them: it stands for codes * 2^e. Each function takes and gives
codes alone; exponents are known before the first picture comes (see `integer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

INT32 = 2**31 - 1
FLOAT32_EXACT = 2**24  # up to here float32 holds every integer


def exponent_of(step: float) -> int:
    """The k with 2^k == step.

    >>> exponent_of(0.125), exponent_of(4.0)
    (-3, 2)
    >>> exponent_of(0.3)
    Traceback (most recent call last):
    ValueError: a shift needs a power of two, got 0.3
    """
    fraction, exponent = (
        math.frexp(step) if isinstance(step, int | float) and math.isfinite(step) else (0, 0)
    )
    if fraction != 0.5:
        raise ValueError(f"a shift needs a power of two, got {step!r}")
    return exponent - 1


def shift_right(x: Tensor, places: int) -> Tensor:
    """x / 2^places, rounded half to even: an arithmetic shift, and one more if what was shifted out asks for it.

    >>> shift_right(torch.tensor([-6, -2, 2, 3, 6]), 2)          # -1.5, -0.5, 0.5, 0.75, 1.5
    tensor([-2,  0,  0,  1,  2])

    x: int64 below 2^62. places: from 0 on.
    """
    if places == 0:
        return x
    places = min(places, 62)  # |x| < 2^61 is 0 by then, and an int64 can be shifted no further
    floor, rest, half = x >> places, x & ((1 << places) - 1), 1 << (places - 1)
    return floor + ((rest > half) | ((rest == half) & (floor & 1 == 1))).long()


def divide(x: Tensor, divisor: Tensor) -> Tensor:
    """x / divisor, rounded half to even. divisor: positive integers that broadcast to x.

    >>> divide(torch.tensor([-7, 7, 21, 24]), torch.tensor(14))      # -0.5, 0.5, 1.5, 1.71
    tensor([0, 0, 2, 2])
    """
    floor = torch.div(x, divisor, rounding_mode="floor")
    twice = 2 * (x - floor * divisor)
    return floor + ((twice > divisor) | ((twice == divisor) & (floor & 1 == 1))).long()


def requantize(x: Tensor, places: int, smallest: int, largest: int) -> Tensor:
    """From an accumulator to codes: shift right by `places` (left if negative), saturate.

    >>> requantize(torch.tensor([-300, 5, 6, 900]), places=2, smallest=-8, largest=7)
    tensor([-8,  1,  2,  7])
    """
    if (
        places < 0
    ):  # what is beyond the range stays beyond it: clamp first, so that nothing overflows
        x = x.clamp(smallest, largest) << min(-places, 32)
    return shift_right(x, max(places, 0)).clamp(smallest, largest)


def accumulate(
    x: Tensor, weight: Tensor, bias: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The integers of a convolution or linear layer, plus a bias that broadcasts to them.

    `convolve` runs on float64, which holds every integer up to 2^53. No sum, whole or partial, reaches that:
    `IntegerNetwork` has checked sum |w a| + |b| against int32.
    """
    return convolve(x.double(), weight.double()).long() + bias


def add(*terms: Tensor, shifts: tuple[int, ...], signs: tuple[int, ...]) -> Tensor:
    """A sum of tensors with different exponents: those with larger ones are shifted left first, exactly."""
    return sum(
        sign * (term << shift) for term, shift, sign in zip(terms, shifts, signs, strict=True)
    )


def mean(
    x: Tensor, places: int, sums: Callable[[Tensor], tuple[Tensor, Tensor]], name: str
) -> Tensor:
    """The exact quotient of a sum by a count, times 2^-places, rounded once, half to even.

    sums: gives the sums over windows, and how many numbers are in each.
    """
    total, count = sums(x)
    check_int32(total, name)
    return divide(total << max(-places, 0), count << max(places, 0))


def check_int32(x: Tensor, name: str) -> None:
    """Raise OverflowError naming the accumulator unless int32 holds x."""
    if x.numel() and (largest := int(x.abs().max())) > INT32:
        raise OverflowError(f"{name}: an accumulator reaches {largest}, int32 only {INT32}")


# -------------------------------------------------------------------------- averages, as exact sums and counts


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
        count = count.unsqueeze(-1) * ((i + 1) * size - 1).div(out, rounding_mode="floor").add(
            1
        ).sub(i * size // out)
    return (means * count).round().long(), count


def window_sums(x: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Sums and counts of average pooling; the counts, which padding and ceil_mode change, from pooling ones."""
    ones = torch.ones(1, 1, *x.shape[-2:], dtype=torch.float64)
    sums = partial(F.avg_pool2d, **options | {"divisor_override": 1})
    count = (sums(ones) / F.avg_pool2d(ones, **options)).round().long()
    return sums(x.double()).round().long(), count
