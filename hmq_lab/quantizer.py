"""A uniform quantizer whose threshold is a power of two: scheme -> step, levels, codes; values and gradients."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from hmq_lab import _kernels as kernels

MAX_BITS = 16
MAX_EXPONENT = 100  # keeps every step of every scheme a normal float32


@dataclass(frozen=True)
class Scheme:
    """How one tensor is quantized: so many bits, below such a power-of-two threshold, with or without a sign.

    >>> scheme = Scheme(bits=2, threshold_exponent=0, signed=True)
    >>> scheme.threshold, scheme.step, scheme.levels
    (1.0, 0.5, 4)
    >>> scheme.integers, scheme.values
    ((-2, 1), (-1.0, -0.5, 0.0, 0.5))

    bits: 1 to 16. threshold_exponent: M of the threshold 2^M, -100 to 100. The range is two's complement:
    signed [-t, t - step] with step = t / 2^(b-1), unsigned [0, t - step] with step = t / 2^b; 2^b levels either way.
    Raises ValueError naming the value and what is allowed. Source: HMQ, section 3; two's complement as in hardware.
    """

    bits: int
    threshold_exponent: int
    signed: bool

    def __post_init__(self):
        check_bits(self.bits)
        e = self.threshold_exponent
        if isinstance(e, bool) or not isinstance(e, numbers.Integral) or not -MAX_EXPONENT <= e <= MAX_EXPONENT:
            raise ValueError(f"threshold_exponent must be an integer from -{MAX_EXPONENT} to {MAX_EXPONENT}, got {e!r}")
        if not isinstance(self.signed, bool):
            raise ValueError(f"signed must be True or False, got {self.signed!r}")
        object.__setattr__(self, "bits", int(self.bits))
        object.__setattr__(self, "threshold_exponent", int(e))

    @property
    def threshold(self) -> float:
        return math.ldexp(1.0, self.threshold_exponent)

    @property
    def step(self) -> float:
        return math.ldexp(1.0, self.step_exponent)

    @property
    def step_exponent(self) -> int:
        """The step is 2 to this power: what a shift needs to know."""
        return self.threshold_exponent - self.bits + self.signed

    @property
    def levels(self) -> int:
        return 2**self.bits

    @property
    def integers(self) -> tuple[int, int]:
        """The smallest and the largest integer code."""
        return (-(self.levels // 2), self.levels // 2 - 1) if self.signed else (0, self.levels - 1)

    @property
    def values(self) -> tuple[float, ...]:
        """Every value the quantizer can give, in order."""
        lo, hi = self.integers
        return tuple(q * self.step for q in range(lo, hi + 1))

    def __str__(self):
        count = f"{self.bits} bit{'' if self.bits == 1 else 's'}"
        return f"{count} {'signed' if self.signed else 'unsigned'} below 2^{self.threshold_exponent}"


def check_bits(bits, among=None):
    """Raise ValueError unless `bits` is an integer from 1 to 16; `among` is the list it stands in, for the message."""
    if isinstance(bits, bool) or not isinstance(bits, numbers.Integral) or not 1 <= bits <= MAX_BITS:
        where = "" if among is None else f" in {among!r}"
        raise ValueError(f"bits must be integers from 1 to {MAX_BITS}, got {bits!r}{where}")


def quantize(x: Tensor, step, threshold, signed: bool, *, check: bool = True) -> Tensor:
    """Round `x` to a multiple of `step`, clip to [-threshold, threshold - step]; unsigned, to [0, threshold - step].

    >>> quantize(torch.tensor([-3.0, 0.2, 0.3, 0.75]), step=0.5, threshold=1.0, signed=True)
    tensor([-1.0000,  0.0000,  0.5000,  0.5000])

    x: any floating tensor. step, threshold: 0 < step <= threshold, numbers or tensors that broadcast to x: a scalar for
    the whole tensor, shape (N, 1, 1, 1) for one per picture. Neither has to be a power of two: HMQ mixes them. The
    result has x's shape, float32 (float64 for float64 x), also under autocast. Infinities saturate, NaN propagates.
    check: False does not look at the values of tensors, for which a GPU would have to be waited for.

    Rounding is half to even; its gradient is straight-through. With r = round(x / step), lo = -threshold / step (or 0)
    and hi = threshold / step - 1, all real-valued:

        lo <= r <= hi   d/dx = 1   d/dstep = r - x / step   d/dthreshold = 0
        r > hi          d/dx = 0   d/dstep = -1             d/dthreshold = 1
        r < lo          d/dx = 0   d/dstep = 0              d/dthreshold = -1 (signed), 0 (unsigned)

    Raises TypeError for an x that is no floating tensor, ValueError naming a step or threshold that is not as above.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if not isinstance(signed, bool):
        raise ValueError(f"signed must be True or False, got {signed!r}")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    step, threshold = (_parameter(p, name, x, dtype) for p, name in ((step, "step"), (threshold, "threshold")))
    if torch.compiler.is_compiling():  # someone compiles a whole model: a composition fuses, a Function would not
        return kernels.composition(x.to(dtype), step, threshold, signed)
    if check:
        _check_values(step.detach(), threshold.detach())
    rows = kernels.Rows(x, step, threshold)
    y = _Quantize.apply(rows.matrix(x), rows.column(step), rows.column(threshold), signed)
    return rows.tensor(y)


def _parameter(value, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` as a tensor on x's device that broadcasts to x; numbers are checked to be positive."""
    if not isinstance(value, Tensor):
        number = torch.tensor(float(value) if isinstance(value, numbers.Real) else math.nan, dtype=dtype)
        if not 0 < number.item() < math.inf:
            raise ValueError(f"{name} must be positive and finite in {dtype}, got {value!r}")
        return number.to(x.device)
    if value.dim() > x.dim() or any(p not in (1, n) for p, n in zip(value.shape[::-1], x.shape[::-1], strict=False)):
        raise ValueError(f"{name} of shape {tuple(value.shape)} does not broadcast to x of shape {tuple(x.shape)}")
    return value.to(dtype)


def _check_values(step: Tensor, threshold: Tensor) -> None:
    for name, value in (("step", step), ("threshold", threshold)):
        good = (value > 0) & (value < math.inf)  # NaN is neither
        if not good.all():
            raise ValueError(f"{name} must be positive and finite, got {value[~good][0].item()!r}")
    if not (step <= threshold).all():
        wide, reach = torch.broadcast_tensors(step, threshold)
        at = wide > reach
        pair = f"step {wide[at][0].item()!r} and threshold {reach[at][0].item()!r}"
        raise ValueError(f"step must be at most threshold, or there is no level, got {pair}")


class _Quantize(torch.autograd.Function):
    """Keeps x, step and threshold alone for the backward pass and computes the rest again: memory is the dearer."""

    @staticmethod
    def forward(ctx, x, step, threshold, signed):
        ctx.save_for_backward(x, step, threshold)
        ctx.signed = signed
        return kernels.forward(x, step, threshold, signed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, step, threshold = ctx.saved_tensors
        parameters = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        return *kernels.backward(grad, x, step, threshold, ctx.signed, parameters), None


def codes(x: Tensor, scheme: Scheme) -> Tensor:
    """The integers that hardware would hold: `codes * scheme.step == quantize(x, ...)`.

    >>> codes(torch.tensor([-3.0, 0.2, 0.3, 0.75]), Scheme(bits=2, threshold_exponent=0, signed=True))
    tensor([-2,  0,  1,  1])

    Returns int64 of x's shape. Raises ValueError when x holds NaN, which no integer stands for.
    """
    if x.isnan().any():
        raise ValueError(f"x holds NaN in {int(x.isnan().sum())} of {x.numel()} places: no integer stands for it")
    q = quantize(x.detach(), scheme.step, scheme.threshold, scheme.signed)
    return (q / scheme.step).long()


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float32, exactly, for integers from -126 to 127: the exponent is written into the float's bits.

    >>> power_of_two(torch.tensor([-7, 0, 3]))
    tensor([7.8125e-03, 1.0000e+00, 8.0000e+00])
    """
    return (exponent.to(torch.int32) + 127 << 23).view(torch.float32)


def threshold_exponent(largest: float) -> int:
    """The smallest M with 2^M >= `largest`, exactly: ceil(log2(largest)) without the rounding of a logarithm.

    >>> threshold_exponent(1.0), threshold_exponent(1.0000001), threshold_exponent(0.3), threshold_exponent(0.0)
    (0, 1, -1, 0)

    A tensor of zeros gets 0. Raises ValueError for NaN, infinities and negative numbers.
    """
    if not math.isfinite(largest) or largest < 0:
        raise ValueError(f"the largest magnitude of a tensor must be finite and >= 0, got {largest!r}")
    if largest == 0:
        return 0
    fraction, exponent = math.frexp(largest)  # largest = fraction * 2^exponent, 1/2 <= fraction < 1
    return exponent - (fraction == 0.5)
