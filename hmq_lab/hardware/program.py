"""One line of an integer program, and how each kind of line computes.

An `Instruction` is plain data: a kind, the tensors it reads, and parameters. `COMPUTE` has a
function for each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from hmq_lab.hardware import arithmetic
from hmq_lab.quantizer import Scheme, codes


@dataclass(frozen=True, eq=False)
class Instruction:
    """The tensor `name` is computed from the tensors `inputs`: int64 codes times 2^exponent.

    A tensor with a block has the block's name; what comes before its block is that name with "
    (wide)".

    kind: a key of COMPUTE, with the `parameters` that its function takes. says: the kind in words.
    exponent: None for the float image and for sizes. bound: no code is larger in magnitude,
    whatever the image. scheme: of a tensor that a block quantizes.
    """

    name: str
    kind: str
    says: str
    inputs: tuple[str, ...]
    exponent: int | None
    bound: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    scheme: Scheme | None = None

    def compute(self, *values):
        """The codes, from those of the inputs.

        Args:
            values: of the inputs, in their order.
        """
        # The kind has one function; the parameters are its arguments.
        return COMPUTE[self.kind](*values, **self.parameters)

    @property
    def is_sum(self) -> bool:
        """Whether this is an accumulator: a sum of products, or of tensors."""
        return self.kind in MAGNITUDE

    def magnitude(self, *values: Tensor) -> Tensor:
        """sum |term| of an accumulator, for each output.

        Args:
            values: codes of the inputs, in their order.

        Returns:
            int64, of the shape of the accumulator.
        """
        # Absolute values of all terms give a sum that no partial sum exceeds.
        return MAGNITUDE[self.kind](*(value.abs() for value in values), **self.parameters)


class Call:
    """An operation of the graph as a function of the tensors and sizes that it reads.

    >>> from torch import nn
    >>> from hmq_lab.graph.tracing import trace
    >>> graph = trace(nn.ReLU(), torch.zeros(1, 2), training=False).graph
    >>> node = next(node for node in graph.nodes if node.op == "call_function")
    >>> Call(node)(torch.tensor([-1, 2]))
    tensor([0, 2])

    constants: values of some of the tensors; the call is given the others, in their order.
    """

    def __init__(self, node: fx.Node, constants: dict[fx.Node, Tensor] | None = None):
        # Keep what the call needs, without the graph.
        # A view of integers may have other strides than that of the floats.
        is_view = node.target is torch.ops.aten.view.default
        self.target: Any = torch.ops.aten.reshape.default if is_view else node.target
        self.args, self.kwargs = node.args, node.kwargs
        self.constants = constants or {}
        # The constants are known already; all other inputs are given later.
        self.sources = [source for source in node.all_input_nodes if source not in self.constants]

    def __call__(self, *values):
        # Put the given values where the nodes stood.
        given = dict(zip(self.sources, values, strict=True)) | self.constants
        args, kwargs = fx.node.map_arg((self.args, self.kwargs), given.__getitem__)
        # The options are in the order of the operation's arguments.
        return self.target(*args, **kwargs)


@dataclass(frozen=True)
class Convolution:
    """A convolution or linear layer without bias, as a function of input and weight."""

    target: Callable
    options: dict[str, Any]  # stride, padding, dilation, groups; empty for a linear layer

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.target(x, weight, None, *self.options.values())


# -------------------------------------------------------------------------- what each kind computes


def _given(x: Tensor) -> Tensor:
    return x


def _called(*values, call: Call):
    return call(*values)


def _quantize(x: Tensor, scheme: Scheme) -> Tensor:
    return codes(x, scheme)


def _clamp(x: Tensor, smallest: int | None, largest: int | None) -> Tensor:
    return torch.clamp(x, smallest, largest)


def _scale(x: Tensor) -> Tensor:
    return x.clone()


def _move(*values, call: Call):
    """On float64, which torch has pooling and padding for and which holds int32 exactly."""
    # There are several tensors where an operation splits one.
    values = tree_map_only(Tensor, Tensor.double, values)
    return tree_map_only(Tensor, Tensor.long, call(*values))


def _concatenate(*terms: Tensor, shifts: tuple[int, ...], call: Call) -> Tensor:
    # The shifts bring all parts to one exponent.
    return call(*(term << shift for term, shift in zip(terms, shifts, strict=True)))


def _layer_of_magnitudes(x: Tensor, weight: Tensor, bias: Tensor, convolve: Callable) -> Tensor:
    return arithmetic.accumulate(x, weight.abs(), bias.abs(), convolve)


def _sum_of_magnitudes(*terms: Tensor, shifts: tuple[int, ...], signs: tuple[int, ...]) -> Tensor:
    return arithmetic.add(*terms, shifts=shifts, signs=(1,) * len(signs))


COMPUTE: dict[str, Callable] = {
    "image": _given,
    "constant": _given,
    "float": _called,  # before the image's block: a normalization
    "size": _called,
    "quantize": _quantize,
    "shift": arithmetic.requantize,
    "layer": arithmetic.accumulate,
    "add": arithmetic.add,
    "clamp": _clamp,
    "scale": _scale,
    "mean": arithmetic.mean,
    "concatenate": _concatenate,
    "move": _move,
}
MAGNITUDE: dict[str, Callable] = {
    "layer": _layer_of_magnitudes,
    "add": _sum_of_magnitudes,
}
