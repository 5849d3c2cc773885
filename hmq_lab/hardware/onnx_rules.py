"""The rules of the ONNX export: which nodes each operation of a network's graph becomes."""

from __future__ import annotations

import math
import operator

import torch
import torch.nn.functional as F
from onnx import helper
from torch import fx, nn
from torch.nn.utils import parametrize

from hmq_lab.graph.operations import (
    ADAPTIVE_POOL,
    ADD,
    AVERAGE_OPTIONS,
    AVERAGE_POOL,
    DIVIDE,
    MAX_OPTIONS,
    MEAN,
    MULTIPLY,
    SUBTRACT,
    argument,
    limits,
    pool_options,
)
from hmq_lab.graph.rules import DROP, label, lookup

SAME = DROP | {torch.clone, "clone", "contiguous", "detach", "float"}
RESHAPES = {torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, nn.Flatten, nn.Unflatten,
            "flatten", "reshape", "view", "squeeze", "unsqueeze"}  # fmt: skip
BINARY = {"Add": ADD, "Sub": SUBTRACT, "Mul": MULTIPLY, "Div": DIVIDE}
NON_LINEAR = {
    "Sigmoid": {nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"},
    "HardSigmoid": {nn.Hardsigmoid, F.hardsigmoid},
    "HardSwish": {nn.Hardswish, F.hardswish},
    "Tanh": {nn.Tanh, F.tanh, torch.tanh, "tanh", "tanh_"},
    "SiLU": {nn.SiLU, F.silu},
}  # fmt: skip


class Rules:
    """One method for each kind of operation; what they lean on (`add`, `weight`, `of`, ...) is the writer's."""

    def linear(self, node: fx.Node) -> str:
        module, name = self.module(node), self.names[node]
        layer = module and parametrize.type_before_parametrizations(module)
        x = [self.of[node.args[0]]]
        if layer is nn.Linear:
            weight, bias = self.weight(module, f"{name}.weight"), self.bias(module, f"{name}.bias")
            if len(self.shapes[node]) == 2:
                return self.add("Gemm", [*x, weight, *bias], name, transB=1)
            weight = self.add("Transpose", [weight], f"{name}.weight transposed", perm=[1, 0])
            product = self.add("MatMul", [*x, weight], f"{name} product" if bias else name)
            return self.add("Add", [product, *bias], name) if bias else product
        if layer not in (nn.Conv1d, nn.Conv2d, nn.Conv3d) or module.padding_mode != "zeros":
            raise self.no_rule(node)
        weight, bias = self.weight(module, f"{name}.weight"), self.bias(module, f"{name}.bias")
        if isinstance(module.padding, str):
            totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            totals = [0] * len(totals) if module.padding == "valid" else totals
            pads = [t // 2 for t in totals] + [t - t // 2 for t in totals]
        else:
            pads = [*module.padding, *module.padding]
        return self.add("Conv", [*x, weight, *bias], name, strides=list(module.stride), pads=pads,
                        dilations=list(module.dilation), group=module.groups)  # fmt: skip

    def norm(self, node: fx.Node) -> str:
        module, name = self.module(node), self.names[node]
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None:
            raise self.no_rule(node)
        ones = torch.ones_like(module.running_mean)
        parts = {
            "weight": ones if module.weight is None else module.weight,
            "bias": 0 * ones if module.bias is None else module.bias,
            "running_mean": module.running_mean,
            "running_var": module.running_var,
        }
        inputs = [self.of[node.args[0]], *(self.constant(t.float(), f"{name}.{part}") for part, t in parts.items())]
        return self.add("BatchNormalization", inputs, name, epsilon=module.eps)

    def non_linearity(self, node: fx.Node) -> str:
        key, name, x = lookup(node, self.modules), self.names[node], self.of[node.args[0]]
        if ends := limits(node, self.modules):
            if ends == (0.0, math.inf):
                return self.add("Relu", [x], name)
            return self.add("Clip", [x, *(self.number(end) if math.isfinite(end) else "" for end in ends)], name)
        operation = next((op for op, members in NON_LINEAR.items() if key & members), None)
        if operation is None:
            raise self.no_rule(node)
        if operation == "SiLU":
            return self.add("Mul", [x, self.add("Sigmoid", [x], f"{name} gate")], name)
        attributes = {"alpha": 1 / 6, "beta": 0.5} if operation == "HardSigmoid" else {}
        return self.add(operation, [x], name, **attributes)

    def binary(self, node: fx.Node) -> str:
        key = lookup(node, self.modules)
        operation = next((op for op, members in BINARY.items() if key & members), None)
        if operation is None or len(node.args) != 2 or node.kwargs:
            raise self.no_rule(node)
        return self.add(operation, [self.operand(node, a) for a in node.args], self.names[node])

    def operand(self, node: fx.Node, value) -> str:
        if isinstance(value, fx.Node) and value in self.of:
            return self.of[value]
        value = self.shapes[value] if isinstance(value, fx.Node) else value
        if not isinstance(value, int | float):
            raise self.no_rule(node, f" with {value!r}")
        return self.number(value)

    def mean(self, node: fx.Node) -> str:
        """As a sum and a division where the whole plane is averaged: exact, then rounded once, as the simulation is."""
        key, name, x = lookup(node, self.modules), self.names[node], self.of[node.args[0]]
        before, after = self.shapes[node.args[0]], self.shapes[node]
        adaptive = bool(key & ADAPTIVE_POOL)
        if key & MEAN:
            axes = argument(node, 1, "dim")
            axes = range(1, len(before)) if axes is None else [axes] if isinstance(axes, int) else axes
            axes = [a % len(before) for a in axes]
            if 0 in axes or argument(node, 1, "dim") is None:
                raise self.no_rule(node, " over the batch")
            return self.sum_over(x, name, axes, before, keep=len(after) == len(before))
        if adaptive and all(n == 1 for n in after[2:]):
            return self.sum_over(x, name, range(2, len(before)), before, keep=True)
        if adaptive:
            if any(a % b for a, b in zip(before[2:], after[2:], strict=True)):
                raise self.no_rule(node, f" from {before[2:]} to {after[2:]}")
            kernel = [a // b for a, b in zip(before[2:], after[2:], strict=True)]
            return self.add("AveragePool", [x], name, kernel_shape=kernel, strides=kernel)
        if not key & AVERAGE_POOL:
            raise self.no_rule(node)
        options = pool_options(node, self.modules, AVERAGE_OPTIONS)
        if options.pop("divisor_override") is not None or len(before) != 4:
            raise self.no_rule(node)
        include = options.pop("count_include_pad")
        return self.add("AveragePool", [x], name, count_include_pad=int(include), **self.windows(options))

    def sum_over(self, x: str, name: str, axes, before, keep: bool) -> str:
        total = self.add("ReduceSum", [x, self.whole(*axes)], f"{name} sum", keepdims=int(keep))
        return self.add("Div", [total, self.number(math.prod(before[a] for a in axes))], name)

    def windows(self, options: dict) -> dict:
        """ONNX attributes of a pooling window from torch's options."""
        pair = {k: v if isinstance(v, tuple | list) else (v, v) for k, v in options.items() if k != "ceil_mode"}
        found = {"kernel_shape": list(pair["kernel_size"]), "pads": [*pair["padding"], *pair["padding"]]}
        found["strides"] = found["kernel_shape"] if None in pair["stride"] else list(pair["stride"])
        if "dilation" in pair:
            found["dilations"] = list(pair["dilation"])
        return found | {"ceil_mode": int(options["ceil_mode"])}

    def concatenation(self, node: fx.Node) -> str:
        if lookup(node, self.modules) & {torch.stack}:
            raise self.no_rule(node)
        axis = argument(node, 1, "dim", node.kwargs.get("axis", 0))
        return self.add("Concat", [self.of[a] for a in node.args[0]], self.names[node], axis=axis)

    def move(self, node: fx.Node) -> str | list[str]:
        key, name = lookup(node, self.modules), self.names[node]
        x, shape = self.of[node.args[0]], self.shapes[node]
        if key & SAME:
            return x
        if key & RESHAPES:
            if shape[0] != 2:
                raise self.no_rule(node, " that moves the batch")
            return self.add("Reshape", [x, self.whole(-1, *shape[1:])], name)
        if key & {nn.MaxPool2d, F.max_pool2d} or "max_pool2d" in label(node, self.modules):
            options = pool_options(node, self.modules, MAX_OPTIONS)
            if options.pop("return_indices"):
                raise self.no_rule(node, " with indices")
            return self.add("MaxPool", [x], name, **self.windows(options))
        if node.target is F.pad:
            return self.pad(node, x, name)
        if key & {torch.transpose, "transpose", torch.permute, "permute"}:
            order = list(range(len(shape)))
            dims = [*node.args[1:], *node.kwargs.values()]
            dims = dims[0] if len(dims) == 1 else dims
            if key & {torch.transpose, "transpose"}:
                order[dims[0]], order[dims[1]] = order[dims[1]], order[dims[0]]
            else:
                order = [d % len(shape) for d in dims]
            return self.add("Transpose", [x], name, perm=order)
        if key & {torch.chunk, "chunk"}:
            axis, pieces = argument(node, 2, "dim", 0), self.shapes[node]
            outputs = [f"{name} {i}" for i in range(len(pieces))]
            sizes = self.whole(*(piece.shape[axis] for piece in pieces))
            self.nodes.append(helper.make_node("Split", [x, sizes], outputs, name=f"{name} Split", axis=axis))
            return outputs
        if node.target is operator.getitem:
            return x[node.args[1]] if isinstance(x, list) else self.slice(node, x, name)
        raise self.no_rule(node)

    def pad(self, node: fx.Node, x: str, name: str) -> str:
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value", 0)
        if mode != "constant":
            raise self.no_rule(node, f" with mode {mode!r}")
        sides, dims = node.args[1], len(self.shapes[node])
        before, after = [0] * dims, [0] * dims
        for i in range(len(sides) // 2):
            before[-1 - i], after[-1 - i] = sides[2 * i], sides[2 * i + 1]
        return self.add("Pad", [x, self.whole(*before, *after), self.number(value or 0)], name)

    def slice(self, node: fx.Node, x: str, name: str) -> str:
        where = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        if not all(isinstance(s, slice) and (s.step or 1) > 0 for s in where):
            raise self.no_rule(node, f" with {node.args[1]!r}")
        cut = [(axis, s) for axis, s in enumerate(where) if s != slice(None)]
        if not cut:
            return x
        ends = [s.stop if s.stop is not None else 2**62 for _, s in cut]
        parts = [[s.start or 0 for _, s in cut], ends, [axis for axis, _ in cut], [s.step or 1 for _, s in cut]]
        return self.add("Slice", [x, *(self.whole(*part) for part in parts)], name)
