"""From a selected network to instructions on integers: one rule for each kind of operation, or a
refusal by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from hmq_lab.graph.operations import (
    ADAPTIVE_MEAN,
    DIVIDE,
    GLOBAL_MEAN,
    MULTIPLY,
    POOLED_MEAN,
    SUBTRACT,
    argument,
    aten,
    limits,
)
from hmq_lab.hardware.arithmetic import INT32, exponent_of, region_sums, whole_sums, window_sums
from hmq_lab.hardware.program import Call, Convolution, Instruction
from hmq_lab.network import attribute_of, blocks, check_attached
from hmq_lab.quantizer import codes

IN_HARDWARE_MODE = "hardware mode (hardware=True of search and attach, --hardware)"
LAYERS = ("conv1d", "conv2d", "conv3d", "linear")
UNCHANGED = {
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "clone",
    "detach",
    "alias",
    "contiguous",
    "to",
    "_to_copy",
}
AVERAGE_OPTIONS = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)


class NoRule(ValueError):
    """An operation that integers cannot do, whatever the schemes."""


def lower(model: nn.Module) -> list[Instruction]:
    """The instructions of an attached network whose schemes are fixed, the network's output last.

    Args:
        model: the attached network.

    Returns:
        Instructions in the order they run in; those that the output does not need are left out.

    Raises:
        ValueError: naming the tensor or layer that has no exact rule, and what would help.
    """
    # Every block has to be on and to have one scheme.
    check_attached(model)
    for name, block in blocks(model).items():
        if not block.is_fixed:
            raise ValueError(
                f"{name} has no selected scheme yet: end the search, or call its block's fix()"
            )
        if not block.enabled:
            raise ValueError(f"the block of {name} is switched off")
    # A program ends with one tensor.
    output = model.hmq.output
    if output is None:
        raise ValueError("the network returns several tensors: an integer network has one output")

    # One instruction for each node.
    lowering = Lowering(model)
    for node in model.hmq.graph.nodes:
        if node.op != "output" and node.meta["kind"] != "constant":
            rule = RULES.get(node.meta["kind"], refuse)
            lowering.of[node] = rule(lowering, node)

    # Only those that the output needs.
    needed = {lowering.value(output, output).name}
    for instruction in reversed(lowering.of.values()):
        if instruction.name in needed:
            needed.update(instruction.inputs)
    return [i for i in dict.fromkeys(lowering.of.values()) if i.name in needed]


def unlowered(model: nn.Module) -> str | None:
    """The first operation that no schemes would give instructions, in words; None where there is
    none, or where the schemes as they are have no instructions for a reason of their own.

    >>> unlowered(attach(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish()), space, sample, hardware=True))
    '1: Hardswish has no rule on integers'

    Args:
        model: an attached network; free blocks are free again afterwards.
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


@dataclass
class Lowering:
    """The network that is lowered, and the instructions that hold its nodes' values so far."""

    model: nn.Module
    of: dict[fx.Node, Instruction] = field(default_factory=dict)

    def block(self, node: fx.Node) -> nn.Module:
        return self.model.get_submodule(node.target)

    def constant(self, node: fx.Node) -> Tensor:
        return attribute_of(self.model, node.target).detach().cpu()

    def value(self, node: fx.Node, source: fx.Node) -> Instruction:
        """The integers that a node reads."""
        # A constant of the network was never given integers.
        if source not in self.of:
            raise failure(
                node, f"{node.meta['layer']} reads a constant of the network, which has no integers"
            )
        # A float tensor has no exponent.
        if self.of[source].exponent is None:
            raise failure(source, f"the input picture is float: {IN_HARDWARE_MODE} quantizes it")
        return self.of[source]

    def values(self, node: fx.Node) -> list[Instruction]:
        """The integers of all tensors that a node reads."""
        return [
            self.value(node, source)
            for source in node.all_input_nodes
            if source.meta["kind"] != "number"
        ]

    def is_float(self, node: fx.Node) -> bool:
        """Whether a node stands before the image's block, and computes with floats."""
        # Sizes do not count: they are no tensors.
        sources = [
            self.of[n] for n in node.all_input_nodes if n in self.of and n.meta["kind"] != "number"
        ]
        return bool(sources) and all(source.exponent is None for source in sources)


def name_of(node: fx.Node) -> str:
    # The block itself has the plain name; what it reads is wider.
    wide = node.meta["kind"] != "block" and any(
        user.meta.get("kind") == "block" for user in node.users
    )
    return node.meta["name"] + (" (wide)" if wide else "")


def failure(node: fx.Node, why: str) -> ValueError:
    return ValueError(f"{node.meta['name']}: {why}")


def no_rule(node: fx.Node, why: str = "") -> NoRule:
    return NoRule(f"{node.meta['name']}: {why or node.meta['layer'] + ' has no rule on integers'}")


def make(
    node: fx.Node,
    kind: str,
    says: str,
    inputs: list[Instruction],
    exponent: int,
    bound: int,
    /,
    **parameters,
) -> Instruction:
    """An instruction, once int32 is known to hold its integers.

    Args:
        node: whose value it computes.
        kind: a key of `program.COMPUTE`.
        says: the kind in words.
        inputs: the instructions that it reads.
        exponent: of its value.
        bound: no code is larger in magnitude.
        parameters: of the kind's function.

    Raises:
        ValueError: if the bound is beyond int32.
    """
    # The bound holds for every image, so one check is enough.
    if bound > INT32:
        raise failure(node, f"its integers may reach {bound}, beyond int32 ({INT32})")
    names = tuple(i.name for i in inputs)
    return Instruction(name_of(node), kind, says, names, exponent, bound, parameters)


def aligned(node: fx.Node, terms: list[Instruction]) -> tuple[int, tuple[int, ...], list[int]]:
    """The smallest exponent, the shifts left that bring the terms to it, and their bounds then.

    Args:
        node: for the error.
        terms: the instructions whose values meet.

    Raises:
        ValueError: if the exponents lie more than 31 apart.
    """
    # Shifts to the left alone: nothing is rounded.
    exponent = min(term.exponent for term in terms)
    shifts = tuple(term.exponent - exponent for term in terms)
    if max(shifts) > 31:
        raise failure(node, f"its terms' exponents lie {max(shifts)} apart, beyond int32")
    return (
        exponent,
        shifts,
        [term.bound << shift for term, shift in zip(terms, shifts, strict=True)],
    )


# ---------------------------------------------------------------------------------------- the rules


def image(lowering: Lowering, node: fx.Node) -> Instruction:
    return Instruction(name_of(node), "image", "the picture, float", (), None)


def size(lowering: Lowering, node: fx.Node) -> Instruction:
    # A size is computed by the operation itself.
    inputs = tuple(lowering.of[source].name for source in node.all_input_nodes)
    return Instruction(
        name_of(node), "size", "a size", inputs, None, parameters={"call": Call(node)}
    )


def in_float(lowering: Lowering, node: fx.Node) -> Instruction:
    """An operation on the float image, before its block."""
    # Constants travel with the instruction, as a mean and a deviation.
    constants = {n: lowering.constant(n) for n in node.all_input_nodes if n.op == "get_attr"}
    inputs = tuple(lowering.of[n].name for n in node.all_input_nodes if n not in constants)
    says = f"{node.meta['layer']} of the picture, float"
    return Instruction(
        name_of(node), "float", says, inputs, None, parameters={"call": Call(node, constants)}
    )


def block(lowering: Lowering, node: fx.Node) -> Instruction:
    # The codes that the block gives lie in the range of its scheme.
    scheme, source = lowering.block(node).scheme, lowering.of[node.args[0]]
    low, high = scheme.integers
    bound = max(-low, high)
    # The image's block reads floats.
    if source.exponent is None:
        says = f"quantize to {scheme.bits} bits"
        made = make(node, "quantize", says, [source], scheme.step_exponent, bound, scheme=scheme)
        return replace(made, scheme=scheme)
    # Any other block shifts from one exponent to another.
    places = scheme.step_exponent - source.exponent
    says = f"shift {'right' if places >= 0 else 'left'} by {abs(places)}, saturate to {low}..{high}"
    options = {"places": places, "smallest": low, "largest": high}
    return replace(
        make(node, "shift", says, [source], scheme.step_exponent, bound, **options), scheme=scheme
    )


def move(lowering: Lowering, node: fx.Node) -> Instruction:
    # What does nothing in evaluation is the tensor itself.
    name = aten(node)
    if name in UNCHANGED:
        return lowering.of[node.args[0]]
    if lowering.is_float(node):
        return in_float(lowering, node)
    # Zero is code 0 at every exponent; no other number is.
    if name in ("pad", "constant_pad_nd") and (padding := argument(node, "value")) not in (0, None):
        raise no_rule(node, f"padding with {padding!r} has no rule on integers; 0 has")
    # Moving changes neither exponent nor bound.
    x = lowering.values(node)[0]
    inputs = [lowering.of[source] for source in node.all_input_nodes]
    return make(node, "move", node.meta["layer"], inputs, x.exponent, x.bound, call=Call(node))


def linear(lowering: Lowering, node: fx.Node) -> Instruction:
    # A transposed convolution and a matrix product have no rule.
    if aten(node) not in LAYERS or node.args[1].op != "get_attr":
        raise no_rule(node)
    x = lowering.value(node, node.args[0])

    # Weight and bias as integers.
    weights, name = blocks(lowering.model, "weight"), node.args[1].target
    if name not in weights:
        raise failure(node, f"its weight {name} is float")
    scheme = weights[name].scheme
    path, _, attribute = name.rpartition(".")
    original = lowering.model.get_submodule(path).parametrizations[attribute].original
    weight = codes(original.detach().cpu(), scheme)  # (out, in, ...)
    exponent = scheme.step_exponent + x.exponent
    bias = _bias(lowering, node, exponent, len(weight))

    # The sum, which int32 has to hold whatever the image is.
    bound = int((weight.abs().flatten(1).sum(1) * x.bound + bias.abs()).max())
    convolve = Convolution(node.target, _convolution_options(node, weight.dim() - 2))
    if aten(node) != "linear":
        bias = bias.view(-1, *[1] * (weight.dim() - 2))  # (out, 1, 1)
    says = f"{node.meta['layer']}, {scheme.bits}-bit weights {tuple(weight.shape)}"
    return make(
        node, "layer", says, [x], exponent, bound, weight=weight, bias=bias, convolve=convolve
    )


def _bias(lowering: Lowering, node: fx.Node, exponent: int, outputs: int) -> Tensor:
    # A layer without bias adds zeros.
    source = node.args[2] if len(node.args) > 2 else None
    if source is None:
        return torch.zeros(outputs, dtype=torch.int64)
    real = lowering.constant(source).double()
    # The bias in steps of the accumulator has to be whole already.
    scaled = torch.ldexp(real, torch.tensor(-exponent, dtype=torch.float64))
    if not torch.equal(scaled, scaled.round()):
        why = f"its bias is no multiple of the accumulator's step 2^{exponent}"
        raise failure(node, f"{why}: {IN_HARDWARE_MODE} rounds it")
    return scaled.long()


def _convolution_options(node: fx.Node, dimensions: int) -> dict:
    """Stride, padding, dilation and groups; empty for a linear layer."""
    if aten(node) == "linear":
        return {}
    # One number stands for all dimensions.
    options = {name: argument(node, name) for name in ("stride", "padding", "dilation", "groups")}
    for name, value in options.items():
        if isinstance(value, list | tuple):
            options[name] = tuple(value) * dimensions if len(value) == 1 else tuple(value)
    return options


def add(lowering: Lowering, node: fx.Node) -> Instruction:
    # alpha would multiply the second term.
    if argument(node, "alpha") not in (1, None):
        raise no_rule(node, f"a sum with alpha={argument(node, 'alpha')} has no rule on integers")
    terms = [lowering.value(node, source) for source in node.args[:2]]
    # Both terms at one exponent; a difference has a negative sign.
    exponent, shifts, bounds = aligned(node, terms)
    signs = (1, -1 if aten(node) in SUBTRACT else 1)
    says = "add, after shifts left by " + ", ".join(map(str, shifts))
    return make(node, "add", says, terms, exponent, sum(bounds), shifts=shifts, signs=signs)


def clamp(lowering: Lowering, node: fx.Node) -> Instruction:
    # Only a clamp with known ends is exact on integers.
    ends = limits(node)
    if ends is None:
        raise no_rule(node)
    (x,) = lowering.values(node)
    # The ends in steps of the tensor.
    low, high = (_whole(node, end, x.exponent) for end in ends)
    says = f"max with {low}" if high is None else f"clamp to {low}..{high}"
    # An open end leaves the bound as it was.
    bound = x.bound if None in (low, high) else max(abs(low), abs(high))
    return make(node, "clamp", says, [x], x.exponent, bound, smallest=low, largest=high)


def _whole(node: fx.Node, end: float, exponent: int) -> int | None:
    """Where a clamp cuts, in units of 2^exponent; None for no end."""
    if math.isinf(end):
        return None
    # An end between two codes would cut where the float network does not.
    scaled = math.ldexp(end, -exponent)
    if scaled != int(scaled):
        raise failure(node, f"it cuts at {end:g}, no multiple of its input's step 2^{exponent}")
    return int(scaled)


def scale(lowering: Lowering, node: fx.Node) -> Instruction:
    if lowering.is_float(node):
        return in_float(lowering, node)
    # A constant of one element is as good as a number.
    factor = node.args[1]
    if (
        isinstance(factor, fx.Node)
        and factor.op == "get_attr"
        and lowering.constant(factor).numel() == 1
    ):
        factor = lowering.constant(factor).item()
    # Only a product or quotient with a number may be a shift.
    divides = aten(node) in DIVIDE
    if aten(node) not in MULTIPLY | DIVIDE or not isinstance(factor, int | float) or node.kwargs:
        raise no_rule(
            node, f"{node.meta['layer']} with a number or constant has no rule on integers"
        )
    (x,) = lowering.values(node)
    # A power of two moves the exponent and leaves the codes.
    try:
        power = exponent_of(1 / factor if divides and factor else factor)
    except ValueError as error:
        raise failure(node, str(error)) from None
    return make(
        node, "scale", f"the same integers, times 2^{power}", [x], x.exponent + power, x.bound
    )


def mean(lowering: Lowering, node: fx.Node) -> Instruction:
    (x,) = lowering.values(node)
    # The block that follows gives the exponent of the mean.
    reader = next(iter(node.users))
    if reader.meta.get("kind") != "block":
        raise failure(node, f"a mean that stays float: {IN_HARDWARE_MODE} quantizes it")
    exponent = lowering.block(reader).scheme.step_exponent
    # The difference of exponents goes into the division, which rounds once.
    places = exponent - x.exponent
    if abs(places) > 24:
        raise failure(node, f"the exponents before and after the mean lie {abs(places)} apart")

    # Which numbers are averaged.
    name = aten(node)
    if name in POOLED_MEAN:
        sums = partial(window_sums, **_pool_options(node))
    elif name in ADAPTIVE_MEAN:
        sums = partial(region_sums, call=Call(node))
    elif name in GLOBAL_MEAN and _keeps_batch(node):
        sums = partial(whole_sums, call=Call(node))
    else:
        raise no_rule(node)
    # A mean is no larger than its largest input, but for rounding.
    bound = (x.bound << max(-places, 0) >> max(places, 0)) + 1
    says = f"sum, over count * 2^{places}, rounded half to even"
    return make(
        node, "mean", says, [x], exponent, bound, places=places, sums=sums, name=node.meta["name"]
    )


def _pool_options(node: fx.Node) -> dict:
    options = {name: argument(node, name) for name in AVERAGE_OPTIONS}
    return options | {"stride": options["stride"] or None}


def _keeps_batch(node: fx.Node) -> bool:
    # A mean over the batch would mix images.
    axes = node.args[1] if len(node.args) > 1 else None
    dimensions = len(node.args[0].meta["shape"])
    axes = [axes] if isinstance(axes, int) else axes
    return bool(axes) and 0 not in [axis % dimensions for axis in axes]


def concatenate(lowering: Lowering, node: fx.Node) -> Instruction:
    # All parts have to be at one exponent.
    terms = lowering.values(node)
    exponent, shifts, bounds = aligned(node, terms)
    says = "concatenate, after shifts left by " + ", ".join(map(str, shifts))
    return make(
        node, "concatenate", says, terms, exponent, max(bounds), shifts=shifts, call=Call(node)
    )


def refuse(lowering: Lowering, node: fx.Node) -> Instruction:
    """For kinds without a rule."""
    # A norm of the float image is allowed; any other one is not.
    if node.meta["kind"] == "norm":
        if lowering.is_float(node):
            return in_float(lowering, node)
        raise no_rule(
            node, f"a batch norm or another norm that is not folded, {node.meta['layer']}"
        )
    if node.meta["kind"] == "product":
        raise no_rule(
            node, "a product of two tensors, as of squeeze and excite, has no rule on integers here"
        )
    raise no_rule(node)


RULES: dict[str, Callable] = {
    "input": image,
    "number": size,
    "block": block,
    "pass": move,
    "linear": linear,
    "sum": add,
    "non-linearity": clamp,
    "scale": scale,
    "mean": mean,
    "concatenation": concatenate,
}
