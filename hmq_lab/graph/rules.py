"""Which tensors of a network's graph are quantized: what an operation is, and where a block stands."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from hmq_lab.graph.naming import numbered

# What an operation is. Modules are looked up by class, functions by themselves, tensor methods by name; what is
# torchvision's own by name too, so that nothing here imports torchvision.
NON_NEGATIVE = {
    nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softplus,
    F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, F.sigmoid, torch.sigmoid, F.hardsigmoid, F.softmax,
    torch.softmax, F.softplus, "relu", "relu_", "sigmoid", "sigmoid_", "softmax",
}  # fmt: skip
NON_LINEARITY = NON_NEGATIVE | {
    nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Tanh,
    nn.Hardtanh, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink, nn.Threshold,
    F.hardswish, F.silu, F.gelu, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.prelu, F.tanh, torch.tanh, F.hardtanh,
    torch.clamp, "tanh", "tanh_", "clamp", "clamp_",
}  # fmt: skip
NORM = {
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d,
    nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm, F.batch_norm, F.layer_norm, F.group_norm,
    F.instance_norm, F.normalize,
}  # fmt: skip
LINEAR = {
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.linear,
    "torchvision.shifted_window_attention",
}  # fmt: skip; attention ends in a projection
SUM = {operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "add_", "sub", "sub_"}
PRODUCT = {
    operator.mul, operator.imul, operator.truediv, operator.matmul, torch.mul, torch.div, torch.matmul, torch.bmm,
    torch.einsum, "mul", "mul_", "div", "div_", "matmul", "bmm", F.scaled_dot_product_attention,
}  # fmt: skip
MEAN = {
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    torch.mean, "mean",
}  # fmt: skip
CONCAT = {torch.cat, torch.concat, torch.stack}
DROP = {  # drops numbers in training, and does nothing in evaluation
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout,
    "torchvision.StochasticDepth", "torchvision.stochastic_depth",
}  # fmt: skip
PASS = DROP | {  # moves or drops numbers: whatever was quantized before stays so
    nn.Flatten, nn.Unflatten,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.ChannelShuffle, nn.MultiheadAttention, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.UpsamplingNearest2d,
    "torchvision.Permute", F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool2d, F.pad, F.pixel_shuffle,
    F.channel_shuffle, torch.flatten, torch.reshape, torch.permute, torch.transpose,
    torch.squeeze, torch.unsqueeze, torch.chunk, torch.split, torch.roll, torch.clone, torch.channel_shuffle,
    operator.getitem, getattr, "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze",
    "contiguous", "chunk", "split", "expand", "clone", "to", "float", "roll", "repeat", "detach",
}  # fmt: skip
HARDWARE = {  # what else has a block in hardware mode, and why
    "input": "input picture: hardware mode",
    "mean": "pooled: hardware mode",
    "concatenation": "concatenation: hardware mode",
}
NUMBERS = {"size", "dim", "ndimension", "numel", "stride", "shape", "ndim", "dtype", "device"}  # they read no element

KINDS = {
    "non-linearity": NON_LINEARITY,
    "norm": NORM,
    "linear": LINEAR,
    "sum": SUM,
    "product": PRODUCT,
    "mean": MEAN,
    "concatenation": CONCAT,
    "pass": PASS,
}


@dataclass(frozen=True)
class Site:
    """A tensor of the graph: quantized or, with the reason, not. layer: class or name of the operation behind it."""

    node: fx.Node
    name: str
    quantized: bool
    signed: bool
    reason: str
    layer: str

    @property
    def kind(self) -> str:
        """Of its placement: hardware mode gives 8 bits to what the paper leaves float, and no rate counts that."""
        return "hardware" if self.reason in (HARDWARE["input"], HARDWARE["mean"]) else "activation"

    @property
    def verdict(self) -> tuple[bool, bool, str, str]:
        return self.quantized, self.signed, self.reason, self.layer


def sites(
    model: nn.Module, graph: fx.Graph, names: Mapping[fx.Node, str] | None = None, hardware: bool = False
) -> list[Site]:
    """Every activation tensor of the graph that a block could stand on, in order.

    >>> graph = trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)), training=False)
    >>> [(site.name, site.quantized, site.reason) for site in sites(model, graph)]
    [('input', False, ...), ('1', True, 'after a non-linearity'), ('2', False, 'output of the network')]

    A block goes after each non-linearity, after a linear bottleneck (a linear layer, with its norm, that no
    non-linearity follows) and after a residual sum; a sum or bottleneck that feeds only a non-linearity gets it after
    that, once. hardware: also on the input, after each mean and each concatenation. names: of the nodes, `numbered` by
    default. Raises ValueError with the line for a tensor to quantize that has no name, since training and evaluation
    call it differently often. Source: the authors' code.
    """
    modules, kind = dict(model.named_modules()), kinds(model, graph)
    names = numbered(graph) if names is None else names

    @functools.cache
    def consumers(node):
        """Who computes with this tensor, looking through what only moves it."""
        found = []
        for user in node.users:
            found += consumers(user) if kind[user] == "pass" else [user] if kind[user] != "number" else []
        return found

    @functools.cache
    def absorbed(node):
        """Whether the tensor never stands by itself: it feeds non-linearities and norms, or one sum of that sort."""
        users = set(consumers(node))  # a tensor that waits for a sum while others use it does stand by itself
        one_sum = len(users) == 1 and kind[next(iter(users))] == "sum" and absorbed(next(iter(users)))
        return one_sum or (bool(users) and all(kind[u] in ("non-linearity", "norm", "scale") for u in users))

    @functools.cache
    def non_negative(node):
        if kind[node] == "non-linearity":
            return lookup(node, modules) & NON_NEGATIVE != set() or _clamped_at_zero(node, modules)
        inputs = [n for n in node.all_input_nodes if kind[n] not in ("constant", "number")]
        passes = kind[node] in ("pass", "mean", "concatenation", "product")
        subtracts = lookup(node, modules) & {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
        adds = kind[node] == "sum" and not subtracts and "alpha" not in node.kwargs
        if _may_bring_negatives(node, modules):
            return False
        constants = any(kind[n] == "constant" for n in node.all_input_nodes)
        return (passes or adds) and not constants and bool(inputs) and all(non_negative(n) for n in inputs)

    found = []
    for node in graph.nodes:
        k, users = kind[node], [kind[u] for u in consumers(node)]
        if k in ("output", "constant", "pass", "number") or not users:
            continue
        if hardware and k in HARDWARE and not (k == "input" and node.args):  # an input with a default is an option
            quantized, reason = True, HARDWARE[k]
        elif k != "input" and all(u == "output" for u in users):
            quantized, reason = False, "output of the network"
        elif k == "non-linearity":
            quantized, reason = True, "after a non-linearity"
        elif k in ("linear", "norm", "scale", "sum"):
            if absorbed(node):
                continue  # a sum inside an accumulator, not a tensor
            quantized = True
            reason = "after a residual sum" if k == "sum" else "after a linear bottleneck"
        else:
            quantized = False
            reason = {
                "input": "input picture: float in the paper's method",
                "mean": "pooled: float in the paper's method",
                "product": "product, as of squeeze and excite: float in the paper's method",
                "concatenation": "concatenation: its parts are quantized where they arise",
            }.get(k, f"{label(node, modules)}: an operation without a rule")
        if node not in names:
            if quantized:
                raise ValueError(_untold(node, label(node, modules)))
            continue  # evaluation lists it
        found.append(Site(node, names[node], quantized, not non_negative(node), reason, label(node, modules)))
    return found


def kinds(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, str]:
    """What each node is: a key of KINDS, "scale", "input", "output", "constant", "number" or "other"."""
    modules, kind = dict(model.named_modules()), {}
    for node in graph.nodes:
        kind[node] = "number" if _is_number(node, kind) else _kind(node, modules, kind)
        if node.all_input_nodes and all(kind[n] in ("constant", "number") for n in node.all_input_nodes):
            kind[node] = kind[node] if kind[node] == "number" else "constant"  # a table of biases, looked up
    return kind


def drops(model: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """The nodes that do nothing in evaluation."""
    modules = dict(model.named_modules())
    return {node for node in graph.nodes if lookup(node, modules) & DROP}


def _untold(node: fx.Node, label: str) -> str:
    file, line = node.meta["place"][0][:2] if node.meta["place"] else ("?", "?")
    return (
        f"{label} at {file}:{line} is called a different number of times in training and in evaluation, and which of "
        "the calls are the same cannot be told: write them on lines of their own, or as modules"
    )


def lookup(node: fx.Node, modules: dict) -> set:
    """What to look the operation up by."""
    if node.op == "call_module":
        found = type(modules[node.target])
        keys = set(found.__mro__)
    elif node.op in ("call_function", "call_method"):
        found = node.target
        keys = {found}
    else:
        return set()
    from_torchvision = str(getattr(found, "__module__", "")).startswith("torchvision.")
    return keys | {f"torchvision.{found.__name__}"} if from_torchvision else keys


def label(node: fx.Node, modules: dict) -> str:
    if node.op == "call_module":
        return type(modules[node.target]).__name__
    return str(getattr(node.target, "__name__", node.target))


def _is_number(node: fx.Node, kind: dict) -> bool:
    """Whether a node reads a shape or the like, or reckons with what was so read: no tensor is computed with."""
    if node.op == "call_method" or node.target is getattr:
        return (node.args[1] if node.target is getattr else node.target) in NUMBERS
    plain = node.op == "call_function" and getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
    return plain and bool(node.all_input_nodes) and all(kind[n] == "number" for n in node.all_input_nodes)


def _kind(node: fx.Node, modules: dict, before: dict) -> str:
    if node.op in ("placeholder", "output", "get_attr"):
        return {"placeholder": "input", "output": "output", "get_attr": "constant"}[node.op]
    key = lookup(node, modules)
    kind = next((kind for kind, members in KINDS.items() if key & members), "other")
    if node.target is operator.getitem and node.args[1] == 0 and nn.MultiheadAttention in lookup(node.args[0], modules):
        return "linear"  # attention gives a pair, whose first part comes from a projection
    if isinstance(node.target, type) and issubclass(node.target, tuple):
        return "pass"  # outputs in a named tuple
    if kind in ("sum", "product") and sum(before[n] not in ("constant", "number") for n in node.all_input_nodes) < 2:
        return "scale"  # by a number or a parameter
    return kind


def _may_bring_negatives(node: fx.Node, modules: dict) -> bool:
    """Whether an operation that passes numbers on may add negative ones of its own."""
    if node.target is F.pad:
        value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
        return value is not None and not (isinstance(value, int | float) and value >= 0)
    return node.op == "call_module" and isinstance(modules[node.target], nn.AlphaDropout)


def _clamped_at_zero(node: fx.Node, modules: dict) -> bool:
    if node.op == "call_module" and isinstance(modules[node.target], nn.Hardtanh):
        return modules[node.target].min_val >= 0
    low = node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None)
    named = node.target in (torch.clamp, "clamp", "clamp_")
    return named and isinstance(low, int | float) and math.isfinite(low) and low >= 0
