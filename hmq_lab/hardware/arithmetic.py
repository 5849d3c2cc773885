"""Arithmetic of the integer network: shifts and divisions that round half to even, saturation,
exact accumulation.

A tensor is int64 codes and one exponent e for all of them: it stands for codes * 2^e. Each function
takes and gives codes alone; exponents are known before the first image comes (see `integer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

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

    Args:
        step: a positive number, in the units of the tensor.

    Returns:
        The exponent k.

    Raises:
        ValueError: for any number that is no power of two.
    """
    # frexp gives a fraction from 0.5 on: exactly 0.5 for a power of two.
    is_number = isinstance(step, int | float) and math.isfinite(step)
    fraction, exponent = math.frexp(step) if is_number else (0.0, 0)
    if fraction != 0.5:
        raise ValueError(f"a shift needs a power of two, got {step!r}")
    return exponent - 1


def integers_of(x: Tensor) -> tuple[Tensor, int]:
    """The integers n and the largest exponent k with n * 2^k == x.

    >>> integers_of(torch.tensor([0.5, -3.0]))
    (tensor([ 1, -6]), -1)

    Args:
        x: numbers of any type and shape.

    Returns:
        int64 integers, cut at 2^62, and the exponent; it is 0 where all numbers are zero.
    """
    # A float64 is an integer of 53 bits times a power of two.
    x = x.double()
    fraction, exponents = torch.frexp(x)
    mantissa = (fraction * 2**53).long()
    # The lowest bit of that integer tells the coarsest step that holds it.
    _, lowest = torch.frexp((mantissa & -mantissa).double())
    steps = (exponents - 53 + lowest - 1)[x != 0]
    exponent = int(steps.min()) if len(steps) else 0
    scaled = torch.ldexp(x, torch.tensor(-exponent, dtype=torch.float64))
    return scaled.clamp(-(2**62), 2**62).long(), exponent


def shift_right(x: Tensor, places: int) -> Tensor:
    """x / 2^places, rounded half to even: an arithmetic shift, and one more if what was shifted out
    asks for it.

    >>> shift_right(torch.tensor([-6, -2, 2, 3, 6]), 2)          # -1.5, -0.5, 0.5, 0.75, 1.5
    tensor([-2,  0,  0,  1,  2])

    Args:
        x: int64 below 2^62.
        places: from 0 on.

    Returns:
        int64 of the shape of x.
    """
    # Nothing is shifted out.
    if places == 0:
        return x
    places = min(places, 62)  # |x| < 2^61 is 0 by then, and an int64 can be shifted no further
    # The shift rounds down; add one above a half, and at a half if odd.
    floor = x >> places
    rest = x & ((1 << places) - 1)
    half = 1 << (places - 1)
    return floor + _rounds_up(floor, rest, half)


def divide(x: Tensor, divisor: Tensor) -> Tensor:
    """x / divisor, rounded half to even.

    >>> divide(torch.tensor([-7, 7, 21, 24]), torch.tensor(14))      # -0.5, 0.5, 1.5, 1.71
    tensor([0, 0, 2, 2])

    Args:
        x: int64.
        divisor: positive int64, broadcasts to x.

    Returns:
        int64 of the shape of x.
    """
    # Twice the remainder against the divisor tells which side of a half it is.
    floor = torch.div(x, divisor, rounding_mode="floor")
    twice = 2 * (x - floor * divisor)
    return floor + _rounds_up(floor, twice, divisor)


def _rounds_up(floor: Tensor, rest: Tensor, half: Tensor | int) -> Tensor:
    """1 where what is left over is above a half, or is a half and the floor is odd; else 0."""
    is_odd = floor & 1 == 1
    return ((rest > half) | ((rest == half) & is_odd)).long()


def requantize(x: Tensor, places: int, smallest: int, largest: int) -> Tensor:
    """From an accumulator to codes: shift right by `places` (left if negative), saturate.

    >>> requantize(torch.tensor([-300, 5, 6, 900]), places=2, smallest=-8, largest=7)
    tensor([-8,  1,  2,  7])

    Args:
        x: int64 sums.
        places: to shift right by.
        smallest: of the codes.
        largest: of the codes.

    Returns:
        int64 codes of the shape of x.
    """
    # What is beyond the range stays beyond it: clamp first, so that nothing overflows.
    if places < 0:
        x = x.clamp(smallest, largest) << min(-places, 32)
    # Saturation comes last, after the rounding.
    return shift_right(x, max(places, 0)).clamp(smallest, largest)


def accumulate(
    x: Tensor, weight: Tensor, bias: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The integers of a convolution or linear layer, plus a bias that broadcasts to them.

    `convolve` runs on float64, which holds every integer up to 2^53. No sum, whole or partial,
    reaches that: `IntegerNetwork` has checked sum |w a| + |b| against int32.

    Args:
        x: int64 codes of the input (N, C, ...).
        weight: int64 codes (out, in, ...).
        bias: int64, in units of the accumulator.
        convolve: the layer without bias, as a function of input and weight.

    Returns:
        int64 sums.
    """
    return convolve(x.double(), weight.double()).long() + bias


def add(*terms: Tensor, shifts: tuple[int, ...], signs: tuple[int, ...]) -> Tensor:
    """A sum of tensors with different exponents: those with larger ones are shifted left first,
    exactly.

    Args:
        terms: int64 codes of one shape.
        shifts: places to the left, one for each term.
        signs: 1 or -1, one for each term.
    """
    # The shifts bring all terms to the smallest exponent.
    shifted = (term << shift for term, shift in zip(terms, shifts, strict=True))
    first, *others = (sign * term for term, sign in zip(shifted, signs, strict=True))
    return sum(others, start=first)


def mean(
    x: Tensor, places: int, sums: Callable[[Tensor], tuple[Tensor, Tensor]], name: str
) -> Tensor:
    """The exact quotient of a sum by a count, times 2^-places, rounded once, half to even.

    Args:
        x: int64 codes.
        places: of the shift; negative ones go to the left.
        sums: gives the sums over windows, and how many numbers are in each.
        name: of the accumulator, for the error.

    Raises:
        OverflowError: if int32 does not hold a sum.
    """
    # The sum has to fit into the accumulator before it is divided.
    total, count = sums(x)
    check_int32(total, name)
    return divide(total << max(-places, 0), count << max(places, 0))


def check_int32(x: Tensor, name: str) -> None:
    """Raise OverflowError naming the accumulator unless int32 holds x.

    Args:
        x: int64, of any shape.
        name: of the accumulator.

    Raises:
        OverflowError: with the largest magnitude.
    """
    # An empty tensor has no largest number.
    if x.numel() and (largest := int(x.abs().max())) > INT32:
        raise OverflowError(f"{name}: an accumulator reaches {largest}, int32 only {INT32}")


# --------------------------------------------------------------- averages, as exact sums and counts


def whole_sums(x: Tensor, call: Callable) -> tuple[Tensor, Tensor]:
    """Sums and counts of torch.mean: the mean in float64, times its count, is the sum but for a
    rounding below 1/2.

    Args:
        x: int64 codes.
        call: the mean, as a function of x.

    Returns:
        int64 sums, and the one count of all of them.
    """
    # PyTorch averages exactly what it averages in the network.
    means = call(x.double())
    count = torch.tensor(x.numel() // means.numel())
    # The rounding takes away the error of float64.
    return (means * count).round().long(), count


def region_sums(x: Tensor, call: Callable) -> tuple[Tensor, Tensor]:
    """Sums and counts of adaptive pooling: output i of n sees the inputs from floor(i N / n) to
    ceil((i + 1) N / n).

    Args:
        x: int64 codes (N, C, ...).
        call: the pooling, as a function of x.

    Returns:
        int64 sums, and counts that broadcast to them.
    """
    # Each axis of the output gives its factor of the count.
    means = call(x.double())
    count = torch.ones((), dtype=torch.int64)
    for size, out in zip(x.shape, means.shape, strict=True):
        # Output i of this axis sees the inputs from `first` to before `end`.
        i = torch.arange(out)
        first = i * size // out
        end = ((i + 1) * size - 1) // out + 1
        count = count.unsqueeze(-1) * (end - first)
    return (means * count).round().long(), count


def window_sums(x: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Sums and counts of average pooling; the counts, which padding and ceil_mode change, from
    pooling ones.

    Args:
        x: int64 codes (N, C, H, W).
        options: of `avg_pool2d`.

    Returns:
        int64 sums, and counts that broadcast to them.
    """
    # Pool a tensor of ones: its sums over its means are the counts.
    ones = torch.ones(1, 1, *x.shape[-2:], dtype=torch.float64)
    pool: Callable[..., Tensor] = F.avg_pool2d
    undivided = options | {"divisor_override": 1}
    count = pool(ones, **undivided) / pool(ones, **options)
    sums = pool(x.double(), **undivided)
    return sums.round().long(), count.round().long()
