"""What the operations of a network's graph are told: limits of a clamp, windows of a pool, which way a sum goes.

Modules, functions and tensor methods say the same in three ways; here it becomes plain data.
"""

from __future__ import annotations

import math
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from hmq_lab.graph.rules import lookup

ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
SUBTRACT = {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
MULTIPLY = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
DIVIDE = {operator.truediv, torch.div, "div", "div_"}
RELU = {nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
AVERAGE_POOL = {nn.AvgPool2d, F.avg_pool2d}
ADAPTIVE_POOL = {nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
                 F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d}  # fmt: skip
MEAN = {torch.mean, "mean"}
POOL_DEFAULTS = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False,
                 "count_include_pad": True, "divisor_override": None}  # fmt: skip
MAX_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")  # in the functions' order
AVERAGE_OPTIONS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def argument(node: fx.Node, position: int, name: str, default=None):
    """What a call gives for an argument, by position or by name."""
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def limits(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[float, float] | None:
    """(smallest, largest) value that a non-linearity lets through unchanged, infinite where there is no end.

    None for one that does anything else than cut, or cuts at what is no number.
    """
    key = lookup(node, modules)
    if key & RELU:
        return 0.0, math.inf
    if nn.Hardtanh in key:  # ReLU6 is one
        return float(modules[node.target].min_val), float(modules[node.target].max_val)
    if F.relu6 in key:
        return 0.0, 6.0
    if not key & {torch.clamp, "clamp", "clamp_", F.hardtanh}:
        return None
    names, ends = ("min", "max"), (-math.inf, math.inf)
    if F.hardtanh in key:
        names, ends = ("min_val", "max_val"), (-1.0, 1.0)
    given = [argument(node, 1 + i, name) for i, name in enumerate(names)]
    if not all(end is None or isinstance(end, int | float) for end in given):
        return None
    low, high = (float(end if got is None else got) for got, end in zip(given, ends, strict=True))
    return low, high


def pool_options(node: fx.Node, modules: dict[str, nn.Module], names: tuple[str, ...]) -> dict:
    """The options of a pool by name; names: MAX_OPTIONS or AVERAGE_OPTIONS."""
    if node.op == "call_module":
        return {name: getattr(modules[node.target], name) for name in names}
    return {name: argument(node, 1 + i, name, POOL_DEFAULTS.get(name)) for i, name in enumerate(names)}
