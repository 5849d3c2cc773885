"""An integer network with one thing made worse on purpose, to see where the bits part.

>>> from hmq_lab.placement import attach
>>> model, images = models.build("tiny_resnet8"), torch.randn(2, 3, 32, 32)
>>> for block in blocks(attach(model, images, hardware=True)).values(): _ = block.fix()
>>> program = IntegerNetwork.from_selected(model)
>>> shares = parted(program, accumulators(program, 12), images)
>>> shares["x"], shares["conv1"] > 0
(0.0, True)

A program is instructions, plain data: each function here gives another program and leaves its own
as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from hmq_lab.budget import original
from hmq_lab.hardware.arithmetic import requantize
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.program import COMPUTE, Instruction
from hmq_lab.network import blocks

HALF_AN_OCTAVE = 0.5**0.5


def wrap(x: Tensor, bits: int) -> Tensor:
    """What a register of so many bits holds of integers: their lowest bits, in two's complement.

    >>> wrap(torch.tensor([32767, 32768, -32769]), 16)
    tensor([ 32767, -32768,  32767])

    Args:
        x: int64.
        bits: of the register, from 1 on.

    Returns:
        int64 of the shape of x.
    """
    # Shift the range to start at 0, keep the lowest bits, shift back.
    half = 1 << (bits - 1)
    return ((x + half) & (2 * half - 1)) - half


def accumulators(program: IntegerNetwork, bits: int) -> IntegerNetwork:
    """The sums of convolutions, linear layers and residual connections in registers of so many
    bits, which wrap.

    That the partial sums wrap too changes nothing: modulo 2^bits the order does not matter.

    Args:
        program: stays as it is.
        bits: of the registers.

    Returns:
        The changed program.
    """

    # Only accumulators change: codes have few bits anyway.
    def wrapped(i: Instruction) -> Instruction:
        parameters = {"first": i, "bits": bits}
        return replace(i, kind="wrap", parameters=parameters) if i.is_sum else i

    return _changed(program, wrapped)


def truncation(program: IntegerNetwork) -> IntegerNetwork:
    """Shifts to the right that drop what is shifted out, which rounds down.

    Args:
        program: stays as it is.

    Returns:
        The changed program.
    """

    # A shift to the left, or by nothing, drops no bits.
    def drop(i: Instruction) -> Instruction:
        truncates = i.kind == "shift" and i.parameters["places"] > 0
        return replace(i, kind="drop") if truncates else i

    return _changed(program, drop)


def threshold(
    program: IntegerNetwork,
    model: nn.Module,
    layer: str,
    factor: float = HALF_AN_OCTAVE,
    multiplier: int | None = None,
) -> IntegerNetwork:
    """The weights of one layer below `factor` times their threshold, which is no power of two then.

    By default the sums are scaled by the real number; with multiplier=0 by a shift, the nearest
    power of two; with multiplier=8 by an integer of 8 bits, then a shift.

    Weights and bias are rounded to multiples of the new steps; each sum has to be multiplied by
    factor / 2^places before it is rounded to the next layer's codes.

    Args:
        program: stays as it is.
        model: the selected network that the program was made from.
        layer: name of a convolution or linear layer, see `layers`.
        factor: from 0.5 to 1; half an octave by default.
        multiplier: bits of the integer factor; 0 for a shift alone, None for the real factor.

    Returns:
        The changed program.

    Raises:
        ValueError: for a factor out of range, and for a layer whose sums are not shifted next, or
            cut at another number than 0.
    """
    # A factor of the exponent's own range; the layer's sums must allow it.
    if not 0.5 <= factor <= 1:
        allowed = "from 0.5 to 1, as larger and smaller ones move the exponent"
        raise ValueError(f"factor must be {allowed}, got {factor!r}")
    *clamps, block = chain(program, layer)
    if any(c.parameters["smallest"] or c.parameters["largest"] for c in clamps):
        why = "clamped at another number than 0, which is no multiple of new steps"
        raise ValueError(f"the sums of {layer} are {why}")

    # The layer's instruction, and the float weight that it comes from.
    own = next(i for i in program.instructions if i.name == layer)
    path = layer.partition(":")[0]
    scheme = blocks(model, "weight")[f"{path}.weight"].scheme
    # Weights in the new steps.
    scaled = original(model, f"{path}.weight").detach().cpu().double() / (factor * scheme.step)
    weight = scaled.round().clamp(*scheme.integers).long()
    # The bias is in steps of the accumulator, which change alike.
    bias = own.parameters["bias"]
    real = _float_bias(model.get_submodule(path))
    if real is not None:
        unit = math.ldexp(factor, own.exponent or 0)
        bias = (real.detach().cpu().double() / unit).round().long().view(bias.shape)
    changed = {layer: replace(own, parameters=own.parameters | {"weight": weight, "bias": bias})}

    # What turns the sums into codes.
    places = block.parameters["places"]
    kind, parameters = block.kind, dict(block.parameters)
    if multiplier is None:
        # With a real factor: what the hardware should reach.
        kind = "real factor"
        parameters["factor"] = factor * 2.0**-places
        del parameters["places"]
    elif multiplier == 0:
        # With a shift alone: the nearest power of two.
        parameters["places"] = places - round(math.log2(factor))
    else:
        # With an integer factor, and the shift that takes it back.
        kind = "multiply"
        parameters |= {"places": places + multiplier, "by": round(factor * 2**multiplier)}

    # The program with two instructions changed.
    changed[block.name] = replace(block, kind=kind, parameters=parameters)
    return IntegerNetwork(changed.get(i.name, i) for i in program.instructions)


def chain(program: IntegerNetwork, layer: str) -> list[Instruction]:
    """What stands between a layer's sums and the codes that the next one reads: clamps, and the
    shift at the end.

    >>> from hmq_lab.placement import attach
    >>> model, images = models.build("tiny_resnet8"), torch.randn(2, 3, 32, 32)
    >>> for block in blocks(attach(model, images, hardware=True)).values(): _ = block.fix()
    >>> [i.says for i in chain(IntegerNetwork.from_selected(model), "conv1")]
    ['max with 0', 'shift right by ..., saturate to 0..255']

    Args:
        program: an integer network.
        layer: name of a convolution or linear layer.

    Returns:
        The instructions, in the order they run in.

    Raises:
        ValueError: for an unknown layer, and for one whose sums meet others, or are the output.
    """
    # An unknown name gets the list of those that there are.
    if layer not in (known := layers(program, shifted=False)):
        raise ValueError(f"there is no layer {layer!r}; there are {', '.join(known)}")
    # Follow the one reader until it gives codes.
    found: list[Instruction] = []
    name = layer
    while not found or found[-1].scheme is None:
        readers = [i for i in program.instructions if name in i.inputs]
        # Two readers, or a reader of two tensors, need the unshifted sums.
        if len(readers) != 1 or len(readers[0].inputs) != 1 or readers[0].kind not in PASSED:
            met = ", ".join(f"{i.name} ({i.says})" for i in readers)
            what = f"read by {met or 'nothing: they are the output'}"
            raise ValueError(f"the sums of {layer} are not shifted to codes next, but {what}")
        found += readers
        name = readers[0].name
    return found


def layers(program: IntegerNetwork, shifted: bool = True) -> list[str]:
    """The convolutions and linear layers of a program; `shifted`: those alone whose sums are
    shifted to codes next.

    Args:
        program: an integer network.
        shifted: only layers that have a `chain`; the default.

    Returns:
        Names.
    """
    # In the order they run in.
    names = [i.name for i in program.instructions if i.kind == "layer"]
    return [name for name in names if not shifted or _has_chain(program, name)]


def parted(program: IntegerNetwork, other: IntegerNetwork, images: Tensor) -> dict[str, float]:
    """The share of codes in which two versions of a program differ, by tensor, in the order they
    are computed.

    Args:
        program: an integer network.
        other: a changed version of it, with the same tensors.
        images: float images (N, C, H, W).

    Returns:
        Shares from 0 to 1 by tensor.
    """
    found = {}
    # Both programs run side by side on the same images.
    for (i, ours, _), (_, theirs, _) in zip(program.run(images), other.run(images), strict=True):
        if isinstance(ours, Tensor):
            found[i.name] = (ours != theirs).double().mean().item()
    return found


PASSED = ("clamp", "shift")


def _float_bias(module: Any) -> Tensor | None:
    """A layer's bias before it is rounded, if it has one."""
    rounding = getattr(getattr(module, "parametrizations", None), "bias", None)
    return module.bias if rounding is None else rounding.original


def _has_chain(program: IntegerNetwork, layer: str) -> bool:
    try:
        return bool(chain(program, layer))
    except ValueError:
        return False


def _changed(
    program: IntegerNetwork, change: Callable[[Instruction], Instruction]
) -> IntegerNetwork:
    """The program with each instruction as `change` gives it."""
    return IntegerNetwork(map(change, program.instructions))


# ---------------------------------------------------------------------- kinds that hardware has not


def _wrapped(*values: Tensor, first: Instruction, bits: int) -> Tensor:
    return wrap(first.compute(*values), bits)


def _drop(x: Tensor, places: int, smallest: int, largest: int) -> Tensor:
    return (x >> places).clamp(smallest, largest)


def _real_factor(x: Tensor, factor: float, smallest: int, largest: int) -> Tensor:
    return (x.double() * factor).round().clamp(smallest, largest).long()


def _multiply(x: Tensor, by: int, places: int, smallest: int, largest: int) -> Tensor:
    return requantize(x * by, places, smallest, largest)


COMPUTE.update(
    {"wrap": _wrapped, "drop": _drop, "real factor": _real_factor, "multiply": _multiply}
)
