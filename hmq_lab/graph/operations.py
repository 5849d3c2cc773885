"""What each operation of a network's graph is: one table for placement, hardware, ONNX and costs.

A graph that `tracing.trace` reads holds aten operations, a few hundred at most, whatever way the
network was written: `nn.ReLU()`, `F.relu(x)`, `x.relu_()` and `torch.clamp_min(x, 0)` differ in the
source and hardly here.

>>> OPERATIONS["relu"]
Operation(kind='non-linearity', non_negative=True, weights=())
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class Operation:
    """What an aten operation does to a tensor of activations.

    kind: one of "linear", "norm", "non-linearity", "sum", "product", "mean", "concatenation",
    "pass" (moves or drops numbers: what was quantized before stays so). non_negative: no result is
    below zero. weights: the positions of the arguments that are weights.
    """

    kind: str
    non_negative: bool = False
    weights: tuple[int, ...] = ()


def _table() -> dict[str, Operation]:
    table: dict[str, Operation] = {}

    def add(kind: str, names: str, **facts) -> None:
        table.update(dict.fromkeys(names.split(), Operation(kind, **facts)))

    # Products of weights and activations, and where the weights stand.
    add("linear", "conv1d conv2d conv3d convolution linear", weights=(1,))
    add("linear", "conv_transpose1d conv_transpose2d conv_transpose3d", weights=(1,))
    add("linear", "bilinear addmm", weights=(2,))
    add("linear", "_native_multi_head_attention", weights=(5, 7))
    # Norms stay float, unless a batch norm is folded.
    add(
        "norm",
        "batch_norm layer_norm group_norm instance_norm rms_norm _weight_norm linalg_vector_norm",
    )
    # Non-linearities; first those whose results are never negative.
    add(
        "non-linearity", "relu relu6 sigmoid hardsigmoid softmax softplus square", non_negative=True
    )
    add(
        "non-linearity",
        "hardswish silu gelu mish elu celu selu leaky_relu prelu rrelu tanh hardtanh softsign",
    )
    add(
        "non-linearity",
        "log_sigmoid hardshrink softshrink threshold clamp clamp_min clamp_max log_softmax",
    )
    add("non-linearity", "erf sign abs exp sqrt pow tanhshrink glu")
    # Two tensors and one result: sums, products, means, concatenations.
    add("sum", "add sub rsub")
    add("product", "mul div matmul einsum scaled_dot_product_attention")
    add("mean", "mean avg_pool1d avg_pool2d avg_pool3d")
    add("mean", "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d")
    add("concatenation", "cat stack slice_scatter select_scatter")
    # What moves, drops or repeats numbers, and computes no new ones.
    add("pass", "max_pool1d max_pool2d max_pool3d adaptive_max_pool2d amax pad")
    add(
        "pass",
        "reflection_pad2d replication_pad2d upsample_nearest2d pixel_shuffle pixel_unshuffle channel_shuffle",
    )
    add(
        "pass",
        "flatten unflatten view reshape view_as reshape_as permute transpose t swapaxes swapdims movedim",
    )
    add(
        "pass",
        "moveaxis numpy_T mT squeeze unsqueeze expand expand_as repeat roll flip narrow slice select unbind",
    )
    add(
        "pass",
        "chunk split split_with_sizes tensor_split index_select unfold to type_as float double",
    )
    add("pass", "contiguous clone alias detach lift_fresh_copy")
    add("pass", " ".join(DROPS))
    return table


# Layers with a weight and a bias that integers can run.
LAYERS = {"conv1d", "conv2d", "conv3d", "linear"}

# They cut a tensor into several along an axis.
SPLITS = {"split", "split_with_sizes", "chunk", "tensor_split"}

# They drop numbers in training and do nothing in evaluation.
DROPS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")

# Other names that aten has for an operation of the table.
SYNONYMS = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "mm": "matmul",
    "bmm": "matmul",
    "concat": "cat",
    "concatenate": "cat",
    "clip": "clamp",
    "constant_pad_nd": "pad",
    "_to_copy": "to",
}
ADAPTIVE_MEAN = {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}

# What cuts a tensor: the smallest and the largest value, as numbers or as names of arguments.
CUTS: dict[str, tuple[float | str, float | str]] = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "hardtanh": ("min_val", "max_val"),
    "clamp": ("min", "max"),
    "clamp_min": ("min", math.inf),
    "clamp_max": (-math.inf, "max"),
}

# Fresh random numbers; and new tensors that take a shape, and no number, from another one.
RANDOM = set("rand randn randint bernoulli rand_like randn_like normal uniform exponential".split())
FRESH = set(
    "new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like".split()
)
FRESH |= {"rand_like", "randn_like", "randint_like"}

OPERATIONS = _table()


def aten(node: fx.Node) -> str:
    """The name of a node's aten operation without its overload, as "conv2d"; "" for anything else.

    Args:
        node: any node of a graph.

    Returns:
        The name, in the spelling of OPERATIONS.
    """
    # Only operations of aten have a schema.
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ""
    name = schema_of(node).name.removeprefix("aten::")
    return SYNONYMS.get(name, name)


def operation(node: fx.Node) -> Operation | None:
    """The entry of a node in the table; None for what has none.

    Args:
        node: any node of a graph.
    """
    return OPERATIONS.get(aten(node))


def schema_of(node: fx.Node) -> torch.FunctionSchema:
    """The names, types and aliases of the arguments that a call of an aten operation takes.

    Args:
        node: a call of an aten operation.
    """
    target: Any = node.target
    return target._schema


def argument(node: fx.Node, name: str) -> Any:
    """What a call gives for one of the operation's arguments, or else the default: its "stride".

    Args:
        node: a call of an aten operation.
        name: of the argument, as the operation's schema has it.

    Raises:
        KeyError: for a name that the schema does not have.
    """
    # The schema has the names, the positions and the defaults.
    for position, known in enumerate(schema_of(node).arguments):
        if known.name == name:
            given = node.args[position:] or [node.kwargs.get(name, known.default_value)]
            return given[0]
    raise KeyError(f"{node.target} has no argument {name}")


def limits(node: fx.Node) -> tuple[float, float] | None:
    """(smallest, largest) value that a non-linearity lets through unchanged, infinite where there
    is no end.

    None for one that does anything else than cut, or cuts at what is no number.

    Args:
        node: a call of the graph.

    Returns:
        Two floats, or None.
    """
    if aten(node) not in CUTS:
        return None
    # An end that is left out is infinite. One that is a tensor is no number.
    given = [argument(node, e) if isinstance(e, str) else e for e in CUTS[aten(node)]]
    low, high = given
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    numbers = isinstance(low, int | float) and isinstance(high, int | float)
    return (float(low), float(high)) if numbers else None


# ----------------------------------------------------------------------------------- what a node is


def kinds(graph: fx.Graph) -> dict[fx.Node, str]:
    """What each node is: a kind of the table, or one of these.

    "scale": a sum or product with a number or a parameter. "input", "output", "block": an HMQ
    block. "constant": does not depend on the values of the input. "number": a size, or what is
    computed from sizes. "other": without a rule.

    Args:
        graph: of one mode, with or without blocks.

    Returns:
        Kinds by node.
    """
    # Each node is judged by those before it, in the order of the graph.
    kind: dict[fx.Node, str] = {}
    random: set[fx.Node] = set()
    for node in graph.nodes:
        kind[node] = _kind(node, kind, random)
        if aten(node).rstrip("_") in RANDOM or any(
            source in random for source in node.all_input_nodes
        ):
            random.add(node)
    return kind


def data_inputs(node: fx.Node, kind: dict[fx.Node, str]) -> list[fx.Node]:
    """The tensors that a node computes with and that depend on the input's values.

    Args:
        node: of a graph.
        kind: from `kinds`, at least of the node's inputs.
    """
    return [source for source in node.all_input_nodes if kind[source] not in ("constant", "number")]


def drops(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that do nothing in evaluation: dropout, and products with random numbers
    (stochastic depth).

    Args:
        graph: of one mode.
    """
    # A product that only passes numbers on was one with random numbers.
    kind = kinds(graph)
    products = {
        node for node in graph.nodes if kind[node] == "pass" and aten(node) in ("mul", "div")
    }
    return products | {node for node in graph.nodes if aten(node) in DROPS}


def _kind(node: fx.Node, kind: dict[fx.Node, str], random: set[fx.Node]) -> str:
    # Nodes that are no operations.
    simple = {
        "placeholder": "input",
        "output": "output",
        "get_attr": "constant",
        "call_module": "block",
    }
    if node.op in simple:
        return simple[node.op]
    name = aten(node)
    data = data_inputs(node, kind)

    # Sizes and what is reckoned with them; what is made without the input's values.
    if not holds_tensors(node.meta.get("val")) and node.target is not operator.getitem:
        return "number"
    if not data or name in FRESH:
        return "constant"
    if node.target is operator.getitem:
        return kind[data[0]] if kind[data[0]] in ("linear", "norm", "other") else "pass"

    # Operations of the table; a product of two tensors may be a gate.
    known = operation(node)
    if known is None:
        return "other"
    operands = [
        a for a in node.args if isinstance(a, fx.Node) and kind[a] not in ("constant", "number")
    ]
    if known.kind not in ("sum", "product") or len(operands) != 1:
        return _gate(node, data, kind) or known.kind

    # One tensor and a constant: a layer by hand, stochastic depth, or a scale and shift.
    constants = [source for source in node.all_input_nodes if source not in data]
    if name == "matmul":
        return "linear"
    if known.kind == "product" and any(source in random for source in constants):
        return "pass"
    return "scale"


def holds_tensors(value) -> bool:
    """Whether a node's value is a tensor or several, and no size.

    Args:
        value: what a node's `meta["val"]` holds.
    """
    return isinstance(value, Tensor) or (
        isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value)
    )


def _gate(node: fx.Node, data: list[fx.Node], kind: dict[fx.Node, str]) -> str | None:
    """ "non-linearity" for a product of functions of one tensor, as x * sigmoid(x): a swish written
    by hand.
    """
    # All factors have to come from one tensor.
    if aten(node) != "mul":
        return None
    origins = [_elementwise_origin(source, kind) for source in data]
    if len(data) == 1 or len(set(origins)) > 1:
        return None
    return "non-linearity" if set(data) != set(origins) else None


def _elementwise_origin(node: fx.Node, kind: dict[fx.Node, str]) -> fx.Node:
    """The tensor that a chain of non-linearities and scales begins from."""
    # Walk back as long as there is one input alone.
    while kind[node] in ("non-linearity", "scale"):
        sources = data_inputs(node, kind)
        if len(sources) != 1:
            break
        node = sources[0]
    return node


def gate_parts(node: fx.Node, kind: dict[fx.Node, str]) -> set[fx.Node]:
    """What stands inside a product that is a non-linearity by hand: its factors but for the tensor
    itself.

    Args:
        node: of a graph.
        kind: from `kinds`.

    Returns:
        The nodes, an empty set for every other node.
    """
    # Walk back from each factor to the tensor that all come from.
    if kind[node] != "non-linearity" or aten(node) != "mul":
        return set()
    parts: set[fx.Node] = set()
    origin = _elementwise_origin(data_inputs(node, kind)[0], kind)
    for source in data_inputs(node, kind):
        while source is not origin:
            parts.add(source)
            source = data_inputs(source, kind)[0]
    return parts


def shape(value: Tensor) -> tuple[int, ...]:
    """The shape of a node's value for a batch of one image, as numbers.

    Args:
        value: a tensor whose first axis may be a symbol.

    Returns:
        Numbers; a symbol counts as 1.
    """
    return tuple(size if isinstance(size, int) else _for_one_image(size) for size in value.shape)


def _for_one_image(size: torch.SymInt) -> int:
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
