"""From a selected network to instructions on integers: one rule for each kind of operation, or a refusal by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map_only

from hmq_lab.block import HMQ
from hmq_lab.graph.naming import numbered
from hmq_lab.graph.operations import (
    ADAPTIVE_POOL,
    AVERAGE_OPTIONS,
    AVERAGE_POOL,
    DIVIDE,
    MEAN,
    MULTIPLY,
    SUBTRACT,
    argument,
    limits,
    pool_options,
)
from hmq_lab.graph.rules import DROP, kinds, label, lookup
from hmq_lab.hardware.arithmetic import INT32, accumulate, add, exponent_of, mean, requantize
from hmq_lab.hardware.folding import LAYERS
from hmq_lab.hardware.pooling import region_sums, whole_sums, window_sums
from hmq_lab.network import blocks, check_attached, slug
from hmq_lab.quantizer import Scheme, codes

IN_HARDWARE_MODE = "hardware mode (hardware=True of search and attach, --hardware)"
CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
UNCHANGED = DROP | {torch.clone, "clone", "detach", "to", "float"}


@dataclass(frozen=True, eq=False)
class Instruction:
    """One line of an integer program: the tensor `name` is compute(*inputs), int64 codes times 2^exponent.

    A tensor with a block has the block's name; what comes before its block is that name with " (wide)".
    bound: no code is larger in magnitude, whatever the picture. magnitude: for sums, sum |term| of absolute inputs.
    exponent: None for the float picture and for sizes. scheme: of a tensor that a block quantizes.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    compute: Callable
    exponent: int | None
    bound: int = 0
    magnitude: Callable | None = None
    scheme: Scheme | None = None


def lower(model: nn.Module) -> list[Instruction]:
    """The instructions of an attached network whose schemes are fixed, the network's output last.

    Raises ValueError naming the tensor or layer that has no exact rule, and what would help.
    """
    check_attached(model)
    for name, block in blocks(model).items():
        if not block.is_fixed:
            raise ValueError(f"{name} has no selected scheme yet: end the search, or call its block's fix()")
        if not block.enabled:
            raise ValueError(f"the block of {name} is switched off")
    return _Lowering(model).run()


def unlowered(model: nn.Module) -> str | None:
    """The first operation that no schemes would give instructions, in words; None where there is none, or where the
    schemes as they are have no instructions for a reason of their own.

    >>> unlowered(attach(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish()), space, sample, hardware=True))
    '1: Hardswish has no rule on integers'
    """
    free = [block for block in blocks(model).values() if not block.is_fixed]
    try:
        for block in free:
            block.fix()
        lower(model)
    except NoRule as error:
        return str(error)
    except ValueError:  # of these schemes: others may do
        return None
    finally:
        for block in free:
            block.free()
    return None


class NoRule(ValueError):
    """An operation that integers cannot do, whatever the schemes."""


class _Lowering:
    def __init__(self, model: nn.Module):
        self.graph, self.modules = model.hmq.graph, dict(model.named_modules())
        self.kind, self.names = kinds(model, self.graph), numbered(self.graph)
        self.tensor_of = {f"hmq.activations.{slug(name)}": name for name in blocks(model)}
        self.of: dict[fx.Node, Instruction] = {}  # what holds the node's value
        self.rules = {
            "input": self.picture, "number": self.number, "pass": self.move, "linear": self.linear, "sum": self.sum,
            "non-linearity": self.cut, "scale": self.scale, "mean": self.mean, "concatenation": self.concatenate,
        }  # fmt: skip

    def run(self) -> list[Instruction]:
        for node in self.graph.nodes:
            if node.op == "output":
                return self.finish(node)
            if self.kind[node] != "constant":
                rule = self.block if self.block_of(node) else self.rules.get(self.kind[node], self.refuse)
                self.of[node] = rule(node)

    def finish(self, node: fx.Node) -> list[Instruction]:
        if not isinstance(node.args[0], fx.Node):
            raise ValueError("the network returns several tensors: an integer network has one output")
        last = self.value(node, node.args[0])
        needed = {last.name}
        for instruction in reversed(self.of.values()):
            if instruction.name in needed:
                needed.update(instruction.inputs)
        return [i for i in dict.fromkeys(self.of.values()) if i.name in needed]

    # what the rules ask

    def block_of(self, node: fx.Node) -> HMQ | None:
        module = self.modules.get(node.target) if node.op == "call_module" else None
        return module if isinstance(module, HMQ) else None

    def name(self, node: fx.Node) -> str:
        if self.block_of(node):
            return self.tensor_of[node.target]
        return self.names[node] + (" (wide)" if any(map(self.block_of, node.users)) else "")

    def fail(self, node: fx.Node, why: str) -> ValueError:
        return ValueError(f"{self.names[node]}: {why}")

    def no_rule(self, node: fx.Node, why: str) -> NoRule:
        return NoRule(f"{self.names[node]}: {why}")

    def refuse(self, node: fx.Node) -> Instruction:
        """For kinds without a rule."""
        why = {
            "norm": f"a batch norm or another norm that is not folded, {label(node, self.modules)}",
            "product": "a product of two tensors, as of squeeze and excite, has no rule on integers here",
        }
        raise self.no_rule(node, why.get(self.kind[node], f"{label(node, self.modules)} has no rule on integers"))

    def value(self, node: fx.Node, source: fx.Node) -> Instruction:
        """The integers that a node reads."""
        if source not in self.of:
            raise self.fail(node, f"{label(node, self.modules)} reads a constant of the network, which has no integers")
        if self.of[source].exponent is None:
            raise self.fail(source, f"the input picture is float: {IN_HARDWARE_MODE} quantizes it")
        return self.of[source]

    def tensors(self, node: fx.Node) -> list[Instruction]:
        return [self.value(node, source) for source in node.all_input_nodes if self.kind[source] != "number"]

    def make(self, node, operation, inputs, compute, exponent, bound, **more) -> Instruction:
        if bound > INT32:
            raise self.fail(node, f"its integers may reach {bound}, beyond int32 ({INT32})")
        return Instruction(self.name(node), operation, tuple(i.name for i in inputs), compute, exponent, bound, **more)

    def function(self, node: fx.Node) -> Callable:
        """The node's own operation as a function of the values of `node.all_input_nodes`."""

        def call(*values):
            given = dict(zip(node.all_input_nodes, values, strict=True))
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
            if node.op == "call_module":
                return self.modules[node.target](*args, **kwargs)
            return (
                getattr(args[0], node.target)(*args[1:], **kwargs)
                if node.op == "call_method"
                else node.target(*args, **kwargs)
            )

        return call

    # the rules

    def picture(self, node: fx.Node) -> Instruction:
        return Instruction(self.name(node), "the picture, float", (), None, None)

    def number(self, node: fx.Node) -> Instruction:
        inputs = tuple(self.of[source].name for source in node.all_input_nodes)
        return Instruction(self.name(node), "a size", inputs, self.function(node), None)

    def block(self, node: fx.Node) -> Instruction:
        scheme, source = self.block_of(node).scheme, self.of[node.args[0]]
        low, high = scheme.integers
        if source.exponent is None:
            how, compute = f"quantize to {scheme.bits} bits", partial(codes, scheme=scheme)
        else:
            places = scheme.step_exponent - source.exponent
            how = f"shift {'right' if places >= 0 else 'left'} by {abs(places)}, saturate to {low}..{high}"
            compute = partial(requantize, places=places, smallest=low, largest=high)
        return self.make(node, how, [source], compute, scheme.step_exponent, max(-low, high), scheme=scheme)

    def move(self, node: fx.Node) -> Instruction:
        (x, *_), key = self.tensors(node), lookup(node, self.modules)
        if nn.MultiheadAttention in key:
            self.refuse(node)
        if key & UNCHANGED:
            return x
        if node.target is F.pad and (padding := argument(node, 3, "value")) not in (0, None):
            raise self.no_rule(node, f"padding with {padding!r} has no rule on integers; 0 has")
        inputs = [self.of[source] for source in node.all_input_nodes]
        compute = partial(_on_float64, call=self.function(node))
        return self.make(node, label(node, self.modules), inputs, compute, x.exponent, x.bound)

    def linear(self, node: fx.Node) -> Instruction:
        module = self.modules.get(node.target) if node.op == "call_module" else None
        layer = module and parametrize.type_before_parametrizations(module)
        if layer not in LAYERS:
            raise self.no_rule(node, f"{label(node, self.modules)} has no rule on integers")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise self.no_rule(node, f"padding_mode {module.padding_mode!r} has no rule on integers; zeros has")
        (x,) = self.tensors(node)
        scheme = module.parametrizations.weight[0].scheme
        weight = codes(module.parametrizations.weight.original.detach().cpu(), scheme)  # (out, in, ...)
        exponent = scheme.step_exponent + x.exponent
        bias = torch.zeros(len(weight), dtype=torch.int64)
        if module.bias is not None:
            scaled = torch.ldexp(module.bias.detach().cpu().double(), torch.tensor(-exponent, dtype=torch.float64))
            if not torch.equal(scaled, scaled.round()):
                why = f"its bias is no multiple of the accumulator's step 2^{exponent}"
                raise self.fail(node, f"{why}: {IN_HARDWARE_MODE} rounds it")
            bias = scaled.long()
        bound = int((weight.abs().flatten(1).sum(1) * x.bound + bias.abs()).max())
        convolve = F.linear
        if layer is not nn.Linear:
            bias = bias.view(-1, *[1] * (weight.dim() - 2))  # (out, 1, 1)
            convolve = partial(CONVOLUTIONS[layer], stride=module.stride, padding=module.padding,
                               dilation=module.dilation, groups=module.groups)  # fmt: skip
        how = f"{layer.__name__}, {scheme.bits}-bit weights {tuple(weight.shape)}"
        magnitude = partial(accumulate, weight=weight.abs(), bias=bias.abs(), convolve=convolve)
        compute = partial(accumulate, weight=weight, bias=bias, convolve=convolve)
        return self.make(node, how, [x], compute, exponent, bound, magnitude=magnitude)

    def sum(self, node: fx.Node) -> Instruction:
        if node.kwargs:
            raise self.no_rule(node, f"a sum with {', '.join(node.kwargs)} has no rule on integers")
        terms = [self.value(node, source) for source in node.args]
        subtracts = lookup(node, self.modules) & SUBTRACT
        exponent, shifts, bound = self.aligned(node, terms)
        compute = partial(add, shifts=shifts, signs=(1, -1 if subtracts else 1))
        how = "add, after shifts left by " + ", ".join(map(str, shifts))
        return self.make(node, how, terms, compute, exponent, sum(bound),
                         magnitude=partial(add, shifts=shifts, signs=(1, 1)))  # fmt: skip

    def aligned(self, node: fx.Node, terms: list[Instruction]) -> tuple[int, tuple[int, ...], list[int]]:
        """The smallest exponent, the shifts left that bring the terms to it, and their bounds then."""
        exponent = min(term.exponent for term in terms)
        shifts = tuple(term.exponent - exponent for term in terms)
        if max(shifts) > 31:
            raise self.fail(node, f"its terms' exponents lie {max(shifts)} apart, beyond int32")
        return exponent, shifts, [term.bound << shift for term, shift in zip(terms, shifts, strict=True)]

    def cut(self, node: fx.Node) -> Instruction:
        (x,) = self.tensors(node)
        ends = limits(node, self.modules)
        if ends is None:
            raise self.no_rule(node, f"{label(node, self.modules)} has no rule on integers")
        low, high = (self.whole(node, end, x.exponent) for end in ends)
        how = f"max with {low}" if high is None else f"clamp to {low}..{high}"
        bound = x.bound if None in (low, high) else max(abs(low), abs(high))
        return self.make(node, how, [x], partial(torch.clamp, min=low, max=high), x.exponent, bound)

    def whole(self, node: fx.Node, end: float, exponent: int) -> int | None:
        """Where a clamp cuts, in units of 2^exponent; None for no end."""
        if math.isinf(end):
            return None
        scaled = math.ldexp(end, -exponent)
        if scaled != int(scaled):
            raise self.fail(node, f"it cuts at {end:g}, no multiple of its input's step 2^{exponent}")
        return int(scaled)

    def scale(self, node: fx.Node) -> Instruction:
        number = next((a for a in node.args if isinstance(a, int | float)), None)
        divides = lookup(node, self.modules) & DIVIDE
        times = divides or lookup(node, self.modules) & MULTIPLY
        if number is None or not times or (divides and node.args[0] is number) or node.kwargs:
            raise self.no_rule(node, f"{label(node, self.modules)} with a number or constant has no rule on integers")
        (x,) = self.tensors(node)
        try:
            power = exponent_of(1 / number if divides and number else number)
        except ValueError as error:
            raise self.fail(node, str(error)) from None
        how = f"the same integers, times 2^{power}"
        return self.make(node, how, [x], torch.clone, x.exponent + power, x.bound)

    def mean(self, node: fx.Node) -> Instruction:
        (x,), key = self.tensors(node), lookup(node, self.modules)
        block = self.block_of(next(iter(node.users)))
        if block is None:
            raise self.fail(node, f"a mean that stays float: {IN_HARDWARE_MODE} quantizes it")
        places = block.scheme.step_exponent - x.exponent
        if abs(places) > 24:
            raise self.fail(node, f"the exponents before and after the mean lie {abs(places)} apart")
        if key & AVERAGE_POOL:
            sums = partial(window_sums, **pool_options(node, self.modules, AVERAGE_OPTIONS))
        elif key & (ADAPTIVE_POOL | MEAN):
            sums = partial(region_sums if key & ADAPTIVE_POOL else whole_sums, call=self.function(node))
        else:
            self.refuse(node)
        compute = partial(mean, places=places, sums=sums, name=self.names[node])
        bound = (x.bound << max(-places, 0) >> max(places, 0)) + 1
        how = f"sum, over count * 2^{places}, rounded half to even"
        return self.make(node, how, [x], compute, block.scheme.step_exponent, bound)

    def concatenate(self, node: fx.Node) -> Instruction:
        terms = self.tensors(node)
        exponent, shifts, bounds = self.aligned(node, terms)
        compute = partial(_shifted, shifts=shifts, call=self.function(node))
        how = "concatenate, after shifts left by " + ", ".join(map(str, shifts))
        return self.make(node, how, terms, compute, exponent, max(bounds))


def _on_float64(*values, call: Callable):
    """`call` on integers, as float64, which torch has pooling and padding for and which holds int32 exactly."""
    values = tree_map_only(Tensor, Tensor.double, values)
    return tree_map_only(Tensor, Tensor.long, call(*values))


def _shifted(*terms: Tensor, shifts: tuple[int, ...], call: Callable) -> Tensor:
    return call(*(term << shift for term, shift in zip(terms, shifts, strict=True)))
