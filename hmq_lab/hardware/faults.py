"""An integer network with one thing made worse on purpose, to see where the bits part.

>>> program = IntegerNetwork.from_selected(network)
>>> parted(program, accumulators(program, 16), pictures)
{'x': 0.0, 'conv1': 0.013, ..., 'linear': 0.31}

A program is instructions, plain data: each function here gives another program and leaves its own as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from hmq_lab.hardware.arithmetic import accumulate, requantize
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.lowering import Instruction

HALF_AN_OCTAVE = 0.5**0.5


def wrap(x: Tensor, bits: int) -> Tensor:
    """What a register of so many bits holds of integers: their lowest bits, in two's complement.

    >>> wrap(torch.tensor([32767, 32768, -32769]), 16)
    tensor([ 32767, -32768,  32767])
    """
    half = 1 << (bits - 1)
    return ((x + half) & (2 * half - 1)) - half


def accumulators(program: IntegerNetwork, bits: int) -> IntegerNetwork:
    """The sums of convolutions, linear layers and residual connections in registers of so many bits, which wrap.

    That the partial sums wrap too changes nothing: modulo 2^bits the order does not matter.
    """
    return _changed(program, lambda i: None if i.magnitude is None else _then(i.compute, partial(wrap, bits=bits)))


def truncation(program: IntegerNetwork) -> IntegerNetwork:
    """Shifts to the right that drop what is shifted out, which rounds down."""

    def drop(i: Instruction) -> Callable | None:
        if i.scheme is None or i.compute.func is not requantize or i.compute.keywords["places"] <= 0:
            return None
        return partial(_drop, **i.compute.keywords)

    return _changed(program, drop)


def threshold(
    program: IntegerNetwork,
    model: nn.Module,
    layer: str,
    factor: float = HALF_AN_OCTAVE,
    multiplier: int | None = None,
) -> IntegerNetwork:
    """The weights of one layer below `factor` times their threshold, which is no power of two then.

    >>> wanted = threshold(program, network, "conv1")                    # scaled by the real number, rounded once
    >>> shifted = threshold(program, network, "conv1", multiplier=0)     # by a shift, the nearest power of two
    >>> scaled = threshold(program, network, "conv1", multiplier=8)      # times an integer of 8 bits, then a shift

    Weights and bias are rounded to multiples of the new steps; each sum has to be multiplied by factor / 2^places
    before it is rounded to the next layer's codes. Raises ValueError for a layer whose sums are not shifted next, or
    cut at another number than 0.
    """
    if not 0.5 <= factor <= 1:
        raise ValueError(f"factor must be from 0.5 to 1, as larger and smaller ones move the exponent, got {factor!r}")
    *clamps, block = chain(program, layer)
    if any(c.compute.keywords["min"] or c.compute.keywords["max"] for c in clamps):
        raise ValueError(f"the sums of {layer} are clamped at another number than 0, which is no multiple of new steps")
    own = next(i for i in program.instructions if i.name == layer)
    module = model.get_submodule(layer.partition(":")[0])
    scheme = module.parametrizations.weight[0].scheme
    original = module.parametrizations.weight.original.detach().cpu().double()
    weight = (original / (factor * scheme.step)).round().clamp(*scheme.integers).long()
    bias = own.compute.keywords["bias"]
    if module.bias is not None:
        unit = factor * math.ldexp(1.0, own.exponent)
        rounding = getattr(module.parametrizations, "bias", None)
        real = module.bias if rounding is None else rounding.original
        bias = (real.detach().cpu().double() / unit).round().long().view(bias.shape)
    convolve = own.compute.keywords["convolve"]
    kept = block.compute.keywords
    places, ends = kept["places"], (kept["smallest"], kept["largest"])
    if multiplier is None:
        scaling = partial(_scaled, factor=factor * 2.0**-places, smallest=ends[0], largest=ends[1])
    elif multiplier == 0:
        scaling = partial(requantize, **kept | {"places": places - round(math.log2(factor))})
    else:
        scaling = partial(_multiplied, by=round(factor * 2**multiplier), **kept | {"places": places + multiplier})
    new = {
        layer: {"compute": partial(accumulate, weight=weight, bias=bias, convolve=convolve),
                "magnitude": partial(accumulate, weight=weight.abs(), bias=bias.abs(), convolve=convolve)},
        block.name: {"compute": scaling},
    }  # fmt: skip
    return IntegerNetwork(replace(i, **new.get(i.name, {})) for i in program.instructions)


def chain(program: IntegerNetwork, layer: str) -> list[Instruction]:
    """What stands between a layer's sums and the codes that the next one reads: clamps, and the shift at the end.

    >>> [i.operation for i in chain(program, "conv1")]
    ['max with 0', 'shift right by 8, saturate to 0..255']

    Raises ValueError for an unknown layer, and for one whose sums meet others, or are the output.
    """
    found, name = [], layer
    if not any(i.name == layer and _is_layer(i) for i in program.instructions):
        raise ValueError(f"there is no layer {layer!r}; there are {', '.join(layers(program, shifted=False))}")
    while not found or found[-1].scheme is None:
        readers = [i for i in program.instructions if name in i.inputs]
        if len(readers) != 1 or len(readers[0].inputs) != 1 or getattr(readers[0].compute, "func", None) not in PASSED:
            met = ", ".join(f"{i.name} ({i.operation})" for i in readers) or "nothing: they are the output"
            raise ValueError(f"the sums of {layer} are not shifted to codes next, but read by {met}")
        found.append(readers[0])
        name = readers[0].name
    return found


def layers(program: IntegerNetwork, shifted: bool = True) -> list[str]:
    """The convolutions and linear layers of a program; `shifted`: those alone whose sums are shifted to codes next."""
    names = [i.name for i in program.instructions if _is_layer(i)]
    return [name for name in names if not shifted or _has_chain(program, name)]


def parted(program: IntegerNetwork, other: IntegerNetwork, pictures: Tensor) -> dict[str, float]:
    """The share of codes in which two versions of a program differ, by tensor, in the order they are computed."""
    found = {}
    for (i, ours, _), (_, theirs, _) in zip(program.run(pictures), other.run(pictures), strict=True):
        if isinstance(ours, Tensor):
            found[i.name] = (ours != theirs).double().mean().item()
    return found


PASSED = (torch.clamp, requantize)


def _is_layer(i: Instruction) -> bool:
    return getattr(i.compute, "func", None) is accumulate


def _has_chain(program: IntegerNetwork, layer: str) -> bool:
    try:
        return bool(chain(program, layer))
    except ValueError:
        return False


def _changed(program: IntegerNetwork, change: Callable[[Instruction], Callable | None]) -> IntegerNetwork:
    """The program with another `compute` wherever `change` gives one."""
    computes = [change(i) or i.compute for i in program.instructions]
    return IntegerNetwork(replace(i, compute=c) for i, c in zip(program.instructions, computes, strict=True))


def _then(first: Callable, second: Callable) -> Callable:
    return lambda *values: second(first(*values))


def _drop(x: Tensor, places: int, smallest: int, largest: int) -> Tensor:
    return (x >> places).clamp(smallest, largest)


def _scaled(x: Tensor, factor: float, smallest: int, largest: int) -> Tensor:
    return (x.double() * factor).round().clamp(smallest, largest).long()


def _multiplied(x: Tensor, by: int, places: int, smallest: int, largest: int) -> Tensor:
    return requantize(x * by, places, smallest, largest)
