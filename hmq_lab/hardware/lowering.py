"""From a selected network to instructions on integers: one rule for each kind of operation, or a
refusal by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from hmq_lab.block import HMQ
from hmq_lab.budget import original
from hmq_lab.graph.operations import (
    ADAPTIVE_MEAN,
    DROPS,
    LAYERS,
    RANDOM,
    argument,
    aten,
    limits,
    schema_of,
)
from hmq_lab.hardware.arithmetic import (
    INT32,
    exponent_of,
    integers_of,
    region_sums,
    whole_sums,
    window_sums,
)
from hmq_lab.hardware.program import Call, Convolution, Instruction
from hmq_lab.network import attribute_of, blocks, check_attached, fixed_blocks
from hmq_lab.quantizer import codes

IN_HARDWARE_MODE = "hardware mode (hardware=True of search and attach, --hardware)"
UNCHANGED = {*DROPS, "clone", "detach", "alias", "contiguous", "to"} - {"native_dropout"}

SIGNS = {"add": (1, 1), "sub": (1, -1), "rsub": (-1, 1)}


class NoRule(ValueError):
    """An operation that integers cannot do, whatever the schemes."""


def lower(model: nn.Module) -> list[Instruction]:
    """The instructions of an attached network whose schemes are fixed, the network's output last.

    >>> from hmq_lab.placement import attach
    >>> model = attach(models.build("resnet8"), torch.randn(2, 3, 32, 32), hardware=True)
    >>> for block in blocks(model).values(): _ = block.fix()
    >>> [(i.name, i.kind) for i in lower(model)][:4]
    [('x (wide)', 'image'), ('x', 'quantize'), ('conv1', 'layer'), ('relu (wide)', 'clamp')]

    Args:
        model: the attached network.

    Returns:
        Instructions in the order they run in; those that the output does not need are left out.

    Raises:
        ValueError: naming the tensor or layer that has no exact rule, and what would help.
    """
    # Every block has to be on and to have one scheme.
    for name, block in fixed_blocks(model).items():
        if not block.enabled:
            raise ValueError(f"the block of {name} is switched off")

    # One instruction for each node.
    attached = check_attached(model)
    lowering = _Lowering(model)
    for node in attached.graph.nodes:
        if node.op != "output" and node.meta["kind"] != "constant":
            rule = RULES.get(node.meta["kind"], _refuse)
            lowering.of[node] = rule(lowering, node)

    # Only those that the output needs.
    output = attached.output
    needed = {lowering.value(output, output).name}
    for instruction in reversed(lowering.of.values()):
        if instruction.name in needed:
            needed.update(instruction.inputs)
    return [i for i in dict.fromkeys(lowering.of.values()) if i.name in needed]


def unlowered(model: nn.Module) -> str | None:
    """The first operation that no schemes would give instructions, in words.

    >>> from hmq_lab.placement import attach
    >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish()), torch.randn(2, 3, 8, 8)
    >>> unlowered(attach(model, x, hardware=True))
    '1: Hardswish has no rule on integers'

    Args:
        model: an attached network; free blocks are free again afterwards.

    Returns:
        None where there is no such operation, or where the schemes as they are have no instructions
        for a reason of their own.
    """
    # Fix the free blocks for a moment; what schemes they get does not matter.
    free = [block for block in blocks(model).values() if not block.is_fixed]
    try:
        for block in free:
            block.fix()
        lower(model)
    except NoRule as error:
        # Only what no scheme could change counts.
        return str(error)
    except ValueError:  # of these schemes: others may do
        return None
    finally:
        for block in free:
            block.free()
    return None


# ------------------------------------------------------------------------------- what the rules ask


class _Codes(NamedTuple):
    """What a rule has to know of the integers that it reads: the name of their instruction, their
    exponent and their largest magnitude.
    """

    name: str
    exponent: int
    bound: int


@dataclass
class _Lowering:
    """The network that is lowered, and the instructions that hold its nodes' values so far.

    of: by node; a number that the network adds is its own key.
    """

    model: nn.Module
    of: dict[Any, Instruction] = field(default_factory=dict)

    def block(self, node: fx.Node) -> HMQ:
        found = self.model.get_submodule(str(node.target))
        assert isinstance(found, HMQ)
        return found

    def constant(self, node: fx.Node) -> Tensor:
        """The value of what does not depend on the image: a parameter, or computed from some."""
        if node.op == "get_attr":
            return attribute_of(self.model, str(node.target)).detach().cpu()
        # Random numbers are new in every pass, and sizes come with the images.
        sources = node.all_input_nodes
        fixed = all(source.meta["kind"] == "constant" for source in sources)
        if not fixed or aten(node) in RANDOM:
            why = "made anew for each batch or at random"
            raise _no_rule(node, f"{node.meta['layer']}, {why}, has no integers")
        return Call(node)(*map(self.constant, sources))

    def value(self, node: fx.Node, source: Any) -> _Codes:
        """The integers of a tensor, or of a number, that a node reads."""
        # Constants get their integers where they are first read.
        if source not in self.of:
            is_node = isinstance(source, fx.Node)
            value = self.constant(source) if is_node else torch.tensor(source, dtype=torch.float64)
            name = source.meta["name"] if is_node else f"{source:g}"
            self.of[source] = _constant(name, value)
        # A float tensor has no exponent.
        found = self.of[source]
        if found.exponent is None:
            raise _failure(source, f"the input image is float: {IN_HARDWARE_MODE} quantizes it")
        return _Codes(found.name, found.exponent, found.bound)

    def values(self, node: fx.Node) -> list[_Codes]:
        """The integers of all tensors that a node reads."""
        tensors = [n for n in node.all_input_nodes if n.meta["kind"] != "number"]
        return [self.value(node, source) for source in tensors]

    def is_float(self, node: fx.Node) -> bool:
        """Whether a node stands before the image's block, and computes with floats."""
        # Neither sizes nor constants are tensors of the image.
        computed = [n for n in node.all_input_nodes if n.meta["kind"] not in ("number", "constant")]
        return bool(computed) and all(self.of[n].exponent is None for n in computed)


def _name(node: fx.Node) -> str:
    # The block itself has the plain name; what it reads is wider.
    if node.meta["kind"] != "block" and _block_after(node):
        return f"{node.meta['name']} (wide)"
    return node.meta["name"]


def _block_after(node: fx.Node) -> fx.Node | None:
    """The block that stands on a node's value, if there is one."""
    return next((user for user in node.users if user.meta.get("kind") == "block"), None)


def _failure(node: fx.Node, why: str) -> ValueError:
    return ValueError(f"{node.meta['name']}: {why}")


def _no_rule(node: fx.Node, why: str = "") -> NoRule:
    why = why or f"{node.meta['layer']} has no rule on integers"
    return NoRule(f"{node.meta['name']}: {why}")


def _make(
    node: fx.Node,
    kind: str,
    says: str,
    inputs: list[_Codes],
    exponent: int,
    bound: int,
    /,
    **parameters,
) -> Instruction:
    """An instruction of a kind of `program.COMPUTE`, once int32 is known to hold its integers."""
    # The bound holds for every image, so one check is enough.
    if bound > INT32:
        raise _failure(node, f"its integers may reach {bound}, beyond int32 ({INT32})")
    names = tuple(i.name for i in inputs)
    return Instruction(_name(node), kind, says, names, exponent, bound, parameters)


def _in_float(
    lowering: _Lowering, node: fx.Node, kind: str, says: str, **parameters
) -> Instruction:
    """An instruction whose value is no integers."""
    sources = [n for n in node.all_input_nodes if n.meta["kind"] != "constant"]
    inputs = tuple(lowering.of[n].name for n in sources)
    return Instruction(_name(node), kind, says, inputs, None, parameters=parameters)


def _aligned(node: fx.Node, terms: list[_Codes]) -> tuple[int, tuple[int, ...], list[int]]:
    """The smallest exponent, the shifts left that bring the terms to it, and their bounds then."""
    # Shifts to the left alone: nothing is rounded. Zeros are zeros at every exponent.
    exponent = min((term.exponent for term in terms if term.bound), default=0)
    shifts = tuple(max(term.exponent - exponent, 0) for term in terms)
    if max(shifts) > 31:
        raise _failure(node, f"its terms' exponents lie {max(shifts)} apart, beyond int32")
    bounds = [term.bound << shift for term, shift in zip(terms, shifts, strict=True)]
    return exponent, shifts, bounds


def _after(shifts: tuple[int, ...]) -> str:
    return f"after shifts left by {', '.join(map(str, shifts))}"


# ---------------------------------------------------------------------------------------- the rules


def _image(lowering: _Lowering, node: fx.Node) -> Instruction:
    return _in_float(lowering, node, "image", "the image, float")


def _size(lowering: _Lowering, node: fx.Node) -> Instruction:
    # A size is computed by the operation itself.
    return _in_float(lowering, node, "size", "a size", call=Call(node))


def _of_image(lowering: _Lowering, node: fx.Node) -> Instruction:
    """An operation on the float image, before its block."""
    # Constants travel with the instruction, as a mean and a deviation.
    constants = [n for n in node.all_input_nodes if n.meta["kind"] == "constant"]
    call = Call(node, {n: lowering.constant(n) for n in constants})
    says = f"{node.meta['layer']} of the image, float"
    return _in_float(lowering, node, "float", says, call=call)


def _constant(name: str, value: Tensor) -> Instruction:
    # The coarsest step that holds all of its numbers exactly.
    integers, exponent = integers_of(value)
    bound = int(integers.abs().max())
    return Instruction(name, "constant", "a constant", (), exponent, bound, {"x": integers})


def _block(lowering: _Lowering, node: fx.Node) -> Instruction:
    # The codes that the block gives lie in the range of its scheme.
    scheme = lowering.block(node).scheme
    source = lowering.of[node.all_input_nodes[0]]
    low, high = scheme.integers
    options: dict[str, Any]
    if source.exponent is None:
        # The image's block reads floats.
        kind, says = "quantize", f"quantize to {scheme.bits} bits"
        options = {"scheme": scheme}
    else:
        # Any other block shifts from one exponent to another.
        places = scheme.step_exponent - source.exponent
        way = "right" if places >= 0 else "left"
        kind, says = "shift", f"shift {way} by {abs(places)}, saturate to {low}..{high}"
        options = {"places": places, "smallest": low, "largest": high}
    exponent, bound = scheme.step_exponent, max(-low, high)
    read = _Codes(source.name, exponent, source.bound)
    return replace(_make(node, kind, says, [read], exponent, bound, **options), scheme=scheme)


def _move(lowering: _Lowering, node: fx.Node) -> Instruction:
    # What does nothing in evaluation is the tensor itself.
    name = aten(node)
    if name in UNCHANGED:
        return lowering.of[node.all_input_nodes[0]]
    if lowering.is_float(node):
        return _of_image(lowering, node)
    # Zero is code 0 at every exponent; no other number is.
    if name == "pad" and argument(node, "value") not in (0, None):
        padding = argument(node, "value")
        raise _no_rule(node, f"padding with {padding!r} has no rule on integers; 0 has")
    # Moving changes neither exponent nor bound.
    x = lowering.values(node)[0]
    made = _make(node, "move", node.meta["layer"], [x], x.exponent, x.bound, call=Call(node))
    # Sizes are inputs as well.
    return replace(made, inputs=tuple(lowering.of[n].name for n in node.all_input_nodes))


def _linear(lowering: _Lowering, node: fx.Node) -> Instruction:
    # A transposed convolution and a matrix product have no rule.
    operands: Any = node.args
    if aten(node) not in LAYERS or operands[1].op != "get_attr":
        raise _no_rule(node)
    x = lowering.value(node, operands[0])

    # Weight and bias as integers.
    weights, name = blocks(lowering.model, "weight"), operands[1].target
    if name not in weights:
        raise _failure(node, f"its weight {name} is float")
    scheme = weights[name].scheme
    weight = codes(original(lowering.model, name).detach().cpu(), scheme)  # (out, in, ...)
    exponent = scheme.step_exponent + x.exponent
    bias = torch.zeros(len(weight), dtype=torch.int64)
    if argument(node, "bias") is not None:
        bias = _bias(lowering, node, exponent)

    # The sum, which int32 has to hold whatever the image is.
    magnitudes = weight.abs().flatten(1).sum(1) * x.bound + bias.abs()
    options = _options(node, 3)  # none of a fully connected layer
    bias = bias.view(-1, *[1] * (weight.dim() - 2))  # (out, 1, 1)
    target: Any = node.target
    parameters = {"weight": weight, "bias": bias, "convolve": Convolution(target, options)}
    says = f"{node.meta['layer']}, {scheme.bits}-bit weights {tuple(weight.shape)}"
    return _make(node, "layer", says, [x], exponent, int(magnitudes.max()), **parameters)


def _bias(lowering: _Lowering, node: fx.Node, exponent: int) -> Tensor:
    # The bias in steps of the accumulator has to be whole already.
    real = lowering.constant(argument(node, "bias")).double()
    scaled = torch.ldexp(real, torch.tensor(-exponent, dtype=torch.float64))
    if not torch.equal(scaled, scaled.round()):
        why = f"its bias is no multiple of the accumulator's step 2^{exponent}"
        raise _failure(node, f"{why}: {IN_HARDWARE_MODE} rounds it")
    return scaled.long()


def _options(node: fx.Node, first: int) -> dict[str, Any]:
    """The arguments of a call from one position on, by name."""
    names = [known.name for known in schema_of(node).arguments[first:]]
    return {name: argument(node, name) for name in names}


def _add(lowering: _Lowering, node: fx.Node) -> Instruction:
    # alpha would multiply the second term.
    if argument(node, "alpha") not in (1, None):
        raise _no_rule(node, f"a sum with alpha={argument(node, 'alpha')} has no rule on integers")
    first, second = node.args[:2]
    if second == 0 and aten(node) != "rsub":
        return lowering.of[first]

    # Both terms at one exponent; a difference has a negative sign.
    terms = [lowering.value(node, first), lowering.value(node, second)]
    exponent, shifts, bounds = _aligned(node, terms)
    options = {"shifts": shifts, "signs": SIGNS[aten(node)]}
    says = f"add, {_after(shifts)}"
    return _make(node, "add", says, terms, exponent, sum(bounds), **options)


def _clamp(lowering: _Lowering, node: fx.Node) -> Instruction:
    # Only a clamp with known ends is exact on integers.
    ends = limits(node)
    if ends is None:
        raise _no_rule(node)
    (x,) = lowering.values(node)
    # The ends in steps of the tensor.
    low, high = (_whole(node, end, x.exponent) for end in ends)
    says = f"max with {low}" if high is None else f"clamp to {low}..{high}"
    # An open end leaves the bound as it was, unless the other end is beyond it.
    bound = max(abs(end) for end in (low, high) if end is not None)
    if low is None or high is None:
        bound = max(bound, x.bound)
    return _make(node, "clamp", says, [x], x.exponent, bound, smallest=low, largest=high)


def _whole(node: fx.Node, end: float, exponent: int) -> int | None:
    """Where a clamp cuts, in units of 2^exponent; None for no end."""
    if math.isinf(end):
        return None
    # An end between two codes would cut where the float network does not.
    scaled = math.ldexp(end, -exponent)
    if scaled != int(scaled):
        # No step of any scheme has a multiple like 0.3.
        if not math.ldexp(end, 31).is_integer():
            raise _no_rule(node, f"it cuts at {end:g}, a multiple of no power of two")
        raise _failure(node, f"it cuts at {end:g}, no multiple of its input's step 2^{exponent}")
    return int(scaled)


def _scale(lowering: _Lowering, node: fx.Node) -> Instruction:
    """A sum or product with a number or a constant."""
    name = aten(node)
    if lowering.is_float(node):
        return _of_image(lowering, node)
    if name in SIGNS:
        return _add(lowering, node)
    # A constant of one element is as good as a number.
    factor: Any = node.args[1]
    if isinstance(factor, fx.Node) and factor.meta["kind"] == "constant":
        value = lowering.constant(factor)
        factor = value.item() if value.numel() == 1 else value
    # Only a product or quotient with a number may be a shift.
    is_number = isinstance(factor, int | float)
    if name not in ("mul", "div") or not is_number or node.kwargs:
        why = f"{node.meta['layer']} with a number or constant has no rule on integers"
        raise _no_rule(node, why)
    (x,) = lowering.values(node)[:1]
    # A power of two moves the exponent and leaves the codes.
    if name == "div" and factor:
        factor = 1 / factor
    try:
        power = exponent_of(factor)
    except ValueError as error:
        raise _no_rule(node, str(error)) from None
    says = f"the same integers, times 2^{power}"
    return _make(node, "scale", says, [x], x.exponent + power, x.bound)


def _mean(lowering: _Lowering, node: fx.Node) -> Instruction:
    (x,) = lowering.values(node)
    # The block that follows gives the exponent of the mean.
    reader = _block_after(node)
    if reader is None:
        raise _failure(node, f"a mean that stays float: {IN_HARDWARE_MODE} quantizes it")
    exponent = lowering.block(reader).scheme.step_exponent
    # The difference of exponents goes into the division, which rounds once.
    places = exponent - x.exponent
    if abs(places) > 24:
        raise _failure(node, f"the exponents before and after the mean lie {abs(places)} apart")

    # Which numbers are averaged.
    name = aten(node)
    if name == "avg_pool2d":
        options = _options(node, 1)
        options["stride"] = options["stride"] or None
        sums = partial(window_sums, **options)
    elif name in ADAPTIVE_MEAN:
        sums = partial(region_sums, call=Call(node))
    elif name == "mean" and _keeps_batch(node):
        sums = partial(whole_sums, call=Call(node))
    else:
        raise _no_rule(node)
    # A mean is no larger than its largest input, but for rounding.
    bound = (x.bound << max(-places, 0) >> max(places, 0)) + 1
    says = f"sum, over count * 2^{places}, rounded half to even"
    options = {"places": places, "sums": sums, "name": node.meta["name"]}
    return _make(node, "mean", says, [x], exponent, bound, **options)


def _keeps_batch(node: fx.Node) -> bool:
    # A mean over the batch would mix images.
    axes = argument(node, "dim") if len(node.args) > 1 else None
    axes = [axes] if isinstance(axes, int) else axes or []
    dimensions = len(node.all_input_nodes[0].meta["shape"])
    return bool(axes) and 0 not in [axis % dimensions for axis in axes]


def _concatenate(lowering: _Lowering, node: fx.Node) -> Instruction:
    # All parts have to be at one exponent.
    terms = lowering.values(node)
    exponent, shifts, bounds = _aligned(node, terms)
    says = f"concatenate, {_after(shifts)}"
    options = {"shifts": shifts, "call": Call(node)}
    return _make(node, "concatenate", says, terms, exponent, max(bounds), **options)


def _refuse(lowering: _Lowering, node: fx.Node) -> Instruction:
    """For kinds without a rule."""
    # A norm of the float image is allowed; any other one is not.
    kind, layer = node.meta["kind"], node.meta["layer"]
    if kind == "norm" and lowering.is_float(node):
        return _of_image(lowering, node)
    why = {
        "norm": f"a batch norm or another norm that is not folded, {layer}",
        "product": "a product of two tensors, as of squeeze and excite, has no rule on integers here",
    }
    raise _no_rule(node, why.get(kind, ""))


RULES: dict[str, Callable[[_Lowering, fx.Node], Instruction]] = {
    "input": _image,
    "number": _size,
    "block": _block,
    "pass": _move,
    "linear": _linear,
    "sum": _add,
    "non-linearity": _clamp,
    "scale": _scale,
    "mean": _mean,
    "concatenation": _concatenate,
}
