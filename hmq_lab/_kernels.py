"""The arithmetic of `quantizer.plain_quantize`, fast: in tiles that fit the cache, or compiled.

The time goes into memory traffic. A plain composition of tensor operations reads and writes the
whole tensor once per operation, which costs as much as copying it 7 to 17 times. Tiles keep what
lies between in the cache; a compiler keeps it in registers. Both see a tensor as a matrix with one
row for each step. A compiler then meets one shape, and not a shape for each layer.
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = 2**16  # elements in a tile: 256 KiB of float32, a part of any second-level cache


def bounds(step: Tensor, threshold: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """The ends of the grid in units of the step; they are real numbers.

    >>> bounds(torch.tensor(0.5), torch.tensor(1.0), signed=True)
    (tensor(-2.), tensor(1.))
    """
    reach = threshold / step
    low = -reach if signed else torch.zeros_like(reach)
    return low, reach - 1


# ---------------------------------------------------------------- the formulas


def values(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """What `plain_quantize` returns for x (R, K) with step and threshold (R, 1)."""
    low, high = bounds(step, threshold, signed)
    u = x.to(step.dtype) / step
    return u.round_().clamp_(low, high).mul_(step)


def gradient(
    grad: Tensor, x: Tensor, step: Tensor, threshold: Tensor, signed: bool
) -> tuple[Tensor]:
    """The gradient of x alone: all that fine-tuning with fixed schemes needs."""
    low, high = bounds(step, threshold, signed)
    rounded = (x.to(step.dtype) / step).round_()
    outside = (rounded < low) | (rounded > high)
    return (grad.masked_fill(outside, 0),)


def gradients(
    grad: Tensor, x: Tensor, step: Tensor, threshold: Tensor, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x (R, K), and of step and threshold (R, 1), each summed over its row.

    The table is in the docstring of `quantizer.quantize`.
    """
    low, high = bounds(step, threshold, signed)
    # One step beyond the bounds changes nothing, and infinity - infinity does not arise below.
    u = (x.to(step.dtype) / step).clamp_(low - 1, high + 1)
    rounded = u.round()
    above = rounded > high
    below = rounded < low

    inner = grad.masked_fill(above | below, 0)
    on_step = (inner * rounded.sub_(u)).sum(1, keepdim=True)
    over = (grad * above).sum(1, keepdim=True)
    under = (grad * below).sum(1, keepdim=True) if signed else torch.zeros_like(over)
    return inner, on_step - over, over - under


# ---------------------------------------------------------------- a whole matrix


def forward(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """`values` of a matrix x (R, K), computed in the fastest way."""
    if _at_once(x):
        return _fastest(values, x)(x, step, threshold, signed)
    out = torch.empty_like(x, dtype=step.dtype)
    for place, row in _tiles(x):
        out[place] = values(x[place], step[row], threshold[row], signed)
    return out


def backward(
    grad: Tensor, x: Tensor, step: Tensor, threshold: Tensor, signed: bool, parameters: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of a matrix x, of step and of threshold, computed in the fastest way.

    Args:
        grad, x: matrices (R, K).
        step, threshold: (R, 1).
        signed: as for `values`.
        parameters: whether the gradients of step and threshold are wanted; else they are None.
    """
    function = gradients if parameters else gradient
    if _at_once(x):
        on_x, *sums = _fastest(function, x)(grad, x, step, threshold, signed)
    else:
        on_x = torch.empty_like(x)
        sums = [torch.zeros_like(step), torch.zeros_like(step)] if parameters else []
        for place, row in _tiles(x):
            parts = function(grad[place], x[place], step[row], threshold[row], signed)
            on_x[place] = parts[0]
            # A row longer than a block adds up the sums of its blocks.
            for total, part in zip(sums, parts[1:], strict=True):
                total[row] += part
    on_step, on_threshold = sums if parameters else (None, None)
    return on_x.to(x.dtype), on_step, on_threshold


def _tiles(x: Tensor) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """(the block's place in the matrix, its rows), one block after another."""
    rows, columns = x.shape
    height = max(1, TILE // columns)
    width = min(columns, TILE)
    for top in range(0, rows, height):
        row = slice(top, top + height)
        for left in range(0, columns, width):
            yield (row, slice(left, left + width)), row


# ---------------------------------------------------------------- tensors as matrices


class Rows:
    """How a tensor x is seen as a matrix: one row for each step and threshold that broadcast to it.

    Axes along which the step varies come first, the others follow in the order of memory. The
    matrix is a view for images with a step each (contiguous or channels-last) and for one step. It
    is a copy for weights with a step per input channel, which are small.
    """

    def __init__(self, x: Tensor, step: Tensor, threshold: Tensor):
        # The shape of step and threshold together, with as many axes as x.
        shape = torch.broadcast_shapes(step.shape, threshold.shape)
        self.shape = (1,) * (x.dim() - len(shape)) + tuple(shape)

        # The order of axes in the matrix, and the way back.
        varies = [axis for axis, size in enumerate(self.shape) if size > 1]
        shared = [axis for axis in range(x.dim()) if axis not in varies]
        self.order = varies + sorted(shared, key=x.stride, reverse=True)
        self.back_order = sorted(range(x.dim()), key=self.order.__getitem__)
        self.permuted = [x.shape[axis] for axis in self.order]

        self.rows = math.prod(self.shape)
        self.columns = x.numel() // max(self.rows, 1)

    def matrix(self, x: Tensor) -> Tensor:
        """x as a matrix (R, K)."""
        return x.permute(self.order).reshape(self.rows, self.columns)

    def column(self, parameter: Tensor) -> Tensor:
        """A step or threshold as a column (R, 1)."""
        return parameter.expand(self.shape).reshape(self.rows, 1)

    def tensor(self, matrix: Tensor) -> Tensor:
        """A matrix as a tensor of x's shape; its strides need not be those of x."""
        return matrix.view(self.permuted).permute(self.back_order)


def with_strides(y: Tensor, x: Tensor) -> Tensor:
    """`y` with exactly the strides of `x`: `y` itself where they are equal, else a copy.

    torch's CPU convolutions misread some weights whose strides are not what their shape suggests,
    as (16, 3, 1, 1) with strides (1, 48, 48, 48) in place of (3, 1, 1, 1): they write outside of
    their memory in training, and the process dies. `contiguous` does not help.
    """
    if y.stride() == x.stride():
        return y
    # empty_like keeps the strides of a tensor without gaps and overlaps.
    return torch.empty_like(x, dtype=y.dtype).copy_(y)


# ---------------------------------------------------------------- compiled or not

_compiling = False


@contextlib.contextmanager
def compiled(enable: bool = True) -> Iterator[None]:
    """Run the formulas compiled inside this context, for tensors large enough to gain by it.

    >>> x = torch.randn(4, 3)
    >>> with compiled():
    ...     y = values(x, torch.tensor(0.5), torch.tensor(1.0), signed=True)

    Args:
        enable: False runs them as they are.
    """
    global _compiling
    before = _compiling
    _compiling = enable
    # A formula has a dozen variants: sign, dtype, one row or many, with gradients or without. None
    # of them depends on the shape.
    limit = torch._dynamo.config.patch(recompile_limit=64) if enable else contextlib.nullcontext()
    try:
        with limit:
            yield
    finally:
        _compiling = before


def compiler_found() -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler, or Triton's own for CUDA."""
    # Triton comes with torch for CUDA.
    if torch.cuda.is_available():
        return True
    return any(map(shutil.which, ("c++", "g++", "clang++", "cl")))


def _at_once(x: Tensor) -> bool:
    """Whether a matrix is computed as a whole and not block by block."""
    return _compiling or x.is_cuda or x.numel() <= TILE


def _fastest(function: Callable, x: Tensor) -> Callable:
    """The compiled function where that pays, else the function itself."""
    return _compile(function) if _compiling and x.numel() > TILE else function


@functools.cache
def _compile(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)
