"""A uniform quantizer whose threshold is a power of two.

`Scheme` says how a tensor is quantized. `plain_quantize` is the definition, in a few lines of
tensor operations. `quantize` computes the same, faster and with less memory (see `_kernels`).
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from hmq_lab import _kernels as kernels

MAX_BITS = 16
# With exponents from -100 to 100 every step of every scheme is a normal float32.
MAX_EXPONENT = 100


# ---------------------------------------------------------------- the scheme


@dataclass(frozen=True)
class Scheme:
    """How one tensor is quantized: a bit-width, a power-of-two threshold, with or without a sign.

    >>> scheme = Scheme(bits=2, threshold_exponent=0, signed=True)
    >>> scheme.threshold, scheme.step, scheme.levels
    (1.0, 0.5, 4)
    >>> scheme.integers, scheme.values
    ((-2, 1), (-1.0, -0.5, 0.0, 0.5))

    The range is two's complement, with 2^bits levels:

        signed     [-threshold, threshold - step]    step = threshold / 2^(bits - 1)
        unsigned   [0, threshold - step]             step = threshold / 2^bits

    Source: HMQ, section 3; two's complement as in hardware.

    Args:
        bits: the bit-width, 1 to 16.
        threshold_exponent: M of the threshold 2^M, -100 to 100.
        signed: True for a signed range, False for an unsigned one.

    Raises:
        ValueError: for a value that is out of range; the message names it.
    """

    bits: int
    threshold_exponent: int
    signed: bool

    def __post_init__(self) -> None:
        check_bits(self.bits)
        exponent = self.threshold_exponent
        if not _is_whole(exponent) or not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
            allowed = f"an integer from -{MAX_EXPONENT} to {MAX_EXPONENT}"
            raise ValueError(f"threshold_exponent must be {allowed}, got {shown(exponent)}")
        _check_signed(self.signed)
        # NumPy's integers become Python's. The dataclass is frozen, so this needs object's method.
        object.__setattr__(self, "bits", int(self.bits))
        object.__setattr__(self, "threshold_exponent", int(exponent))

    @property
    def threshold(self) -> float:
        """The power of two that bounds the range."""
        return math.ldexp(1.0, self.threshold_exponent)

    @property
    def step(self) -> float:
        """The distance between two levels, a power of two."""
        return math.ldexp(1.0, self.step_exponent)

    @property
    def step_exponent(self) -> int:
        """The step is 2 to this power. Hardware shifts by it."""
        # The sign doubles the range, and with it the step.
        return self.threshold_exponent - self.bits + self.signed

    @property
    def levels(self) -> int:
        """The number of levels, 2^bits."""
        return 2**self.bits

    @property
    def integers(self) -> tuple[int, int]:
        """The smallest and the largest integer code."""
        if self.signed:
            return -(self.levels // 2), self.levels // 2 - 1
        return 0, self.levels - 1

    @property
    def values(self) -> tuple[float, ...]:
        """Every value that the quantizer can return, in ascending order."""
        lowest, highest = self.integers
        return tuple(code * self.step for code in range(lowest, highest + 1))

    def __str__(self) -> str:
        bits = "1 bit" if self.bits == 1 else f"{self.bits} bits"
        sign = "signed" if self.signed else "unsigned"
        return f"{bits} {sign} below 2^{self.threshold_exponent}"


# ---------------------------------------------------------------- the function


def plain_quantize(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """The definition of `quantize` as differentiable tensor operations.

    >>> x = torch.tensor([-3.0, 0.2, 0.3, 0.75])
    >>> plain_quantize(x, torch.tensor(0.5), torch.tensor(1.0), signed=True)
    tensor([-1.0000,  0.0000,  0.5000,  0.5000])
    >>> ties = torch.tensor([0.5, 1.5, 2.5])
    >>> plain_quantize(ties, torch.tensor(1.0), torch.tensor(8.0), signed=True)
    tensor([0., 2., 2.])

    `quantize` returns the same values bit for bit, and gradients that are equal up to rounding: it
    adds up those of step and threshold in another order. Inside a network that is compiled as a
    whole this function is used, because a compiler fuses it with what stands around it.

    Args:
        x: a float32 or float64 tensor.
        step, threshold: tensors of x's dtype that broadcast to x, 0 < step <= threshold.
        signed: True for [-threshold, threshold - step], False for [0, threshold - step].
    """
    # The bounds in units of the step. They are real numbers: step and threshold are mixtures.
    low, high = kernels.bounds(step, threshold, signed)
    # One step beyond the bounds changes no result, and makes infinities finite.
    u = x.clamp(((low - 1) * step).detach(), ((high + 1) * step).detach()) / step
    # Rounding is half to even.
    rounded = u.round().detach()
    # The value of rounded with the gradient of u.
    straight_through = u + (rounded - u).detach()
    # Clipping by comparison: clamp would split the gradient where a value meets a bound.
    clipped = torch.where(rounded < low, low, straight_through)
    clipped = torch.where(rounded > high, high, clipped)
    return clipped * step


@overload
def quantize(x: Tensor, step: Scheme, *, check: bool = True) -> Tensor: ...


@overload
def quantize(
    x: Tensor,
    step: float | Tensor,
    threshold: float | Tensor,
    signed: bool,
    *,
    check: bool = True,
) -> Tensor: ...


def quantize(
    x: Tensor,
    step: Scheme | float | Tensor,
    threshold: float | Tensor | None = None,
    signed: bool | None = None,
    *,
    check: bool = True,
) -> Tensor:
    """`x` rounded to multiples of a step and clipped to a range: `plain_quantize`, made fast.

    >>> x = torch.tensor([-3.0, 0.2, 0.3, 0.75])
    >>> quantize(x, Scheme(bits=2, threshold_exponent=0, signed=True))
    tensor([-1.0000,  0.0000,  0.5000,  0.5000])
    >>> quantize(x, step=0.5, threshold=1.0, signed=True)
    tensor([-1.0000,  0.0000,  0.5000,  0.5000])

    Rounding is half to even; its gradient is straight-through. With r = round(x / step),
    low = -threshold / step (unsigned: 0) and high = threshold / step - 1, all of them real numbers:

        low <= r <= high   d/dx = 1   d/dstep = r - x / step   d/dthreshold = 0
        r > high           d/dx = 0   d/dstep = -1             d/dthreshold = 1
        r < low            d/dx = 0   d/dstep = 0              d/dthreshold = -1 (unsigned: 0)

    Args:
        x: any floating-point tensor. Infinities saturate, NaN stays NaN.
        step: a `Scheme`, which says all. Or the step: a number for the whole tensor, or a tensor
            that broadcasts to x, as (N, 1, 1, 1) for one step per image. It need not be a power
            of two, because an HMQ block mixes several.
        threshold: as step, 0 < step <= threshold. Left out beside a scheme.
        signed: True for [-threshold, threshold - step], False for [0, threshold - step]. Left out
            beside a scheme.
        check: False skips the check of the values in step and threshold, for which the processor
            would have to wait for a GPU.

    Returns:
        A tensor of x's shape. It is float32 (float64 for a float64 x), also under autocast. It and
        the gradient of x have the strides of x, or those of `torch.empty_like(x)` where x has gaps
        or overlaps in memory.

    Raises:
        TypeError: x is no floating-point tensor, or threshold and signed do not fit to step.
        ValueError: a step or threshold is not positive and finite, does not broadcast to x, or
            step > threshold; the message names the value.
    """
    # A scheme stands for step, threshold and signed.
    if isinstance(step, Scheme):
        if threshold is not None or signed is not None:
            raise TypeError("a scheme says threshold and signed: call quantize(x, scheme)")
        scheme = step
        step, threshold, signed = scheme.step, scheme.threshold, scheme.signed
    elif threshold is None and signed is None:
        raise TypeError("call quantize(x, scheme) or quantize(x, step, threshold, signed)")
    # Types, then shapes and values.
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"x must be a floating-point tensor, got {found}")
    signed = _check_signed(signed)

    # Half precision is computed in float32.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    step = _parameter(step, "step", x, dtype)
    threshold = _parameter(threshold, "threshold", x, dtype)
    # A compiler cannot look at values, and fuses plain operations best.
    if torch.compiler.is_compiling():
        return kernels.with_strides(plain_quantize(x.to(dtype), step, threshold, signed), x)
    # On a GPU this waits for the values.
    if check:
        _check_values(step.detach(), threshold.detach())

    # The kernels see a matrix with one step for each row.
    rows = kernels.Rows(x, step, threshold)
    y = _Quantize.apply(x, rows.column(step), rows.column(threshold), signed, rows)
    return kernels.with_strides(rows.tensor(y), x)


class _Quantize(torch.autograd.Function):
    """The fast `plain_quantize` of the rows of x.

    It saves x, step and threshold alone and computes the rest again in the backward pass: here
    memory matters more than time.
    """

    @staticmethod
    def forward(ctx, x, step, threshold, signed, rows):
        ctx.save_for_backward(x, step, threshold)
        ctx.signed = signed
        ctx.rows = rows
        return kernels.forward(rows.matrix(x), step, threshold, signed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, step, threshold = ctx.saved_tensors
        matrix = ctx.rows.matrix(x)
        # Fine-tuning with fixed schemes wants the gradient of x alone.
        parameters = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        gradients = kernels.backward(grad, matrix, step, threshold, ctx.signed, parameters)
        on_x, on_step, on_threshold = gradients
        on_x = kernels.with_strides(ctx.rows.tensor(on_x), x)
        return on_x, on_step, on_threshold, None, None


# ---------------------------------------------------------------- integers and powers of two


def codes(x: Tensor, scheme: Scheme) -> Tensor:
    """The integers that hardware holds for `x`: codes * scheme.step == quantize(x, scheme).

    >>> codes(torch.tensor([-3.0, 0.2, 0.3, 0.75]), Scheme(2, 0, signed=True))
    tensor([-2,  0,  1,  1])

    Args:
        x: any floating-point tensor.
        scheme: how x is quantized.

    Returns:
        An int64 tensor of x's shape.

    Raises:
        ValueError: x holds NaN, which no integer stands for.
    """
    count = int(x.isnan().sum())
    if count:
        raise ValueError(f"x holds NaN in {count} of {x.numel()} places: no integer stands for it")
    # A power-of-two step divides without rounding.
    return (quantize(x.detach(), scheme) / scheme.step).long()


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float32, exactly: the exponent is written into the bits of the float.

    >>> power_of_two(torch.tensor([-7, 0, 3]))
    tensor([7.8125e-03, 1.0000e+00, 8.0000e+00])

    Args:
        exponent: a tensor of integers from -126 to 127.
    """
    # A float32 holds its exponent plus 127 in bits 23 to 30, and no other bit in a power of two.
    return (exponent.to(torch.int32) + 127 << 23).view(torch.float32)


def threshold_exponent(largest: float) -> int:
    """The smallest M with 2^M >= `largest`, exactly: ceil(log2(largest)) without a logarithm.

    >>> threshold_exponent(1.0), threshold_exponent(1.0000001), threshold_exponent(0.3)
    (0, 1, -1)

    Args:
        largest: the largest magnitude of a tensor. A tensor of zeros gets M = 0.

    Raises:
        ValueError: largest is negative, infinite or NaN.
    """
    if not math.isfinite(largest) or largest < 0:
        allowed = "the largest magnitude of a tensor must be finite and >= 0"
        raise ValueError(f"{allowed}, got {shown(largest)}")
    if largest == 0:
        return 0
    # largest = fraction * 2^exponent with 1/2 <= fraction < 1
    fraction, exponent = math.frexp(largest)
    return exponent - 1 if fraction == 0.5 else exponent


# ---------------------------------------------------------------- checks and messages


def check_bits(bits: Any, among: Any = None) -> None:
    """Raise ValueError unless `bits` is an integer from 1 to 16.

    >>> check_bits(17)
    Traceback (most recent call last):
    ValueError: bits must be integers from 1 to 16, got 17

    Args:
        bits: what should be a bit-width.
        among: the list that holds it, for the message.
    """
    if not _is_whole(bits) or not 1 <= bits <= MAX_BITS:
        where = "" if among is None else f" in {shown(among)}"
        raise ValueError(f"bits must be integers from 1 to {MAX_BITS}, got {shown(bits)}{where}")


def shown(value: Any) -> str:
    """A value in one short line, for an error message: a tensor or array as its shape.

    >>> shown(0.5), shown(torch.zeros(2, 3)), shown("a" * 1000)[-5:]
    ('0.5', 'a Tensor of shape (2, 3)', 'aa...')
    """
    shape = getattr(value, "shape", ())
    if isinstance(value, Tensor) or shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    # One line, and no more than fits into it.
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number: True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_signed(signed: Any) -> bool:
    if not isinstance(signed, bool):
        raise ValueError(f"signed must be True or False, got {shown(signed)}")
    return signed


def _parameter(value: Any, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` as a tensor on x's device that broadcasts to x; a number has to be positive."""
    if isinstance(value, Tensor):
        # Shapes are compared from their last axis on; x itself must not grow.
        pairs = zip(value.shape[::-1], x.shape[::-1], strict=False)
        fits = all(size in (1, wanted) for size, wanted in pairs)
        if value.dim() > x.dim() or not fits:
            shapes = f"shape {tuple(value.shape)} does not broadcast to x of {tuple(x.shape)}"
            raise ValueError(f"{name} of {shapes}")
        return value.to(dtype)
    # What is no number is refused as NaN is; so is a number that the dtype rounds to 0 or infinity.
    number = float(value) if isinstance(value, numbers.Real) else math.nan
    tensor = torch.tensor(number, dtype=dtype)
    if not 0 < tensor.item() < math.inf:
        raise ValueError(f"{name} must be positive and finite in {dtype}, got {shown(value)}")
    return tensor.to(x.device)


def _check_values(step: Tensor, threshold: Tensor) -> None:
    """Raise ValueError that names the first value which is not as 0 < step <= threshold asks."""
    for name, value in (("step", step), ("threshold", threshold)):
        # NaN is neither above 0 nor below infinity.
        good = (value > 0) & (value < math.inf)
        if not good.all():
            first = value[~good][0].item()
            raise ValueError(f"{name} must be positive and finite, got {first!r}")
    # The two may have different shapes.
    if not (step <= threshold).all():
        wide, reach = torch.broadcast_tensors(step, threshold)
        first = wide > reach
        pair = f"step {wide[first][0].item()!r} and threshold {reach[first][0].item()!r}"
        raise ValueError(f"step must be at most threshold, or there is no level, got {pair}")
