"""The quantizer's arithmetic: three formulas, run in blocks that fit the cache, or compiled.

It is all memory traffic. A plain composition of tensor operations goes through the whole tensor once per operation and
costs 7 to 17 copies of it; blocks keep what lies between in the cache; a compiler keeps it in registers. Both see every
tensor as a matrix with one row for each step, so that a compiler meets one shape and not one for each layer.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**16  # elements in a block: 256 KiB of float32, a part of any second-level cache


def bounds(step: Tensor, threshold: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """The ends of the grid in units of the step: real numbers, integers once step and threshold are powers of two."""
    reach = threshold / step
    return (-reach if signed else torch.zeros_like(reach)), reach - 1


def values(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    lo, hi = bounds(step, threshold, signed)
    return (x.to(step.dtype) / step).round_().clamp_(lo, hi).mul_(step)


def gradient(grad: Tensor, x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> tuple[Tensor]:
    """The gradient of x alone: all that fine-tuning with fixed schemes needs."""
    lo, hi = bounds(step, threshold, signed)
    r = (x.to(step.dtype) / step).round_()
    return (grad.masked_fill((r < lo) | (r > hi), 0),)


def gradients(grad: Tensor, x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x (R, K), and of step and threshold (R, 1), each summed over the row that shares it."""
    lo, hi = bounds(step, threshold, signed)
    u = (x.to(step.dtype) / step).clamp_(lo - 1, hi + 1)  # finite: infinity - infinity must not arise below
    r = u.round()
    above, below = r > hi, r < lo
    inner = grad.masked_fill(above | below, 0)
    on_step = (inner * r.sub_(u)).sum(1, keepdim=True)
    over = (grad * above).sum(1, keepdim=True)
    under = (grad * below).sum(1, keepdim=True) if signed else torch.zeros_like(over)
    return inner, on_step - over, over - under


def composition(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """The same function from differentiable parts: for torch.compile over a whole model."""
    lo, hi = bounds(step, threshold, signed)
    u = x.clamp(((lo - 1) * step).detach(), ((hi + 1) * step).detach()) / step  # finite, as in `gradients`
    r = u.round().detach()
    inside = u + (r - u).detach()  # r, with the gradient of u
    return torch.where(r > hi, hi, torch.where(r < lo, lo, inside)) * step


def forward(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """`values` of a matrix x (R, K) with steps and thresholds (R, 1)."""
    if _whole(x):
        return _fastest(values, x)(x, step, threshold, signed)
    out = torch.empty_like(x, dtype=step.dtype)
    for at, row in _blocks(x):
        out[at] = values(x[at], step[row], threshold[row], signed)
    return out


def backward(grad: Tensor, x: Tensor, step: Tensor, threshold: Tensor, signed: bool, parameters: bool):
    """The gradients of x, step and threshold, the last two None without `parameters`."""
    function = gradients if parameters else gradient
    if _whole(x):
        on_x, *sums = _fastest(function, x)(grad, x, step, threshold, signed)
    else:
        on_x, sums = torch.empty_like(x), [torch.zeros_like(step) for _ in range(2 * parameters)]
        for at, row in _blocks(x):
            on_x[at], *parts = function(grad[at], x[at], step[row], threshold[row], signed)
            for total, part in zip(sums, parts, strict=True):
                total[row] += part
    return on_x.to(x.dtype), *(sums or (None, None))


def _blocks(x: Tensor) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """(where in the matrix, which rows) for one block after another."""
    rows, columns = x.shape
    height, width = max(1, BLOCK // columns), min(columns, BLOCK)
    for top in range(0, rows, height):
        row = slice(top, top + height)
        for left in range(0, columns, width):
            yield (row, slice(left, left + width)), row


class Rows:
    """Any tensor x, with the steps and thresholds that broadcast to it, seen as a matrix with a step for each row.

    Axes along which the step varies come first, the others in the order of memory. That is a view for pictures with a
    step each (contiguous or channels-last) and for one step, a copy for weights with a step per input channel: small.
    """

    def __init__(self, x: Tensor, step: Tensor, threshold: Tensor):
        shape = torch.broadcast_shapes(step.shape, threshold.shape)
        self.shape = (1,) * (x.dim() - len(shape)) + tuple(shape)
        varies = [a for a, n in enumerate(self.shape) if n > 1]
        shared = sorted((a for a in range(x.dim()) if a not in varies), key=x.stride, reverse=True)
        self.order = varies + shared
        self.back_order = sorted(range(x.dim()), key=self.order.__getitem__)
        self.permuted = [x.shape[a] for a in self.order]
        self.rows = math.prod(self.shape)
        self.columns = x.numel() // max(self.rows, 1)

    def matrix(self, x: Tensor) -> Tensor:
        return x.permute(self.order).reshape(self.rows, self.columns)

    def column(self, parameter: Tensor) -> Tensor:
        return parameter.expand(self.shape).reshape(self.rows, 1)

    def tensor(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.permuted).permute(self.back_order)


_compiling = False


@contextlib.contextmanager
def compiled(enable: bool = True):
    """Run the formulas compiled inside this context, for tensors large enough to gain by it.

    >>> with compiled():
    ...     model(pictures).sum().backward()
    """
    global _compiling
    before, _compiling = _compiling, enable
    # One formula has a dozen variants (sign, dtype, one row or many, with gradients or without), none of them by shape.
    try:
        with torch._dynamo.config.patch(recompile_limit=64) if enable else contextlib.nullcontext():
            yield
    finally:
        _compiling = before


def compiler_found() -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler, or Triton's own for CUDA."""
    return torch.cuda.is_available() or any(map(shutil.which, ("c++", "g++", "clang++", "cl")))


def _whole(x: Tensor) -> bool:
    return _compiling or x.is_cuda or x.numel() <= BLOCK


def _fastest(function, x: Tensor):
    return _compile(function) if _compiling and x.numel() > BLOCK else function


@functools.cache
def _compile(function):
    return torch.compile(function, dynamic=True)
