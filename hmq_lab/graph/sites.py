"""Where blocks stand: which tensors of a network's graph the method quantizes, and why the others
stay float.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from hmq_lab.graph.functional import line
from hmq_lab.graph.naming import label
from hmq_lab.graph.operations import (
    LAYERS,
    OPERATIONS,
    argument,
    aten,
    data_inputs,
    gate_parts,
    kinds,
    limits,
    operation,
)

REASONS = {
    "non-linearity": "after a non-linearity",
    "sum": "after a residual sum",
    "linear": "after a linear bottleneck",
    "input": "input image: float in the paper's method",
    "mean": "pooled: float in the paper's method",
    "product": "product, as of squeeze and excite: float in the paper's method",
    "concatenation": "concatenation: its parts are quantized where they arise",
    "divisor": "divisor: float, because a code of it may be zero",
    "output": "output of the network",
}
HARDWARE = {  # what else has a block in hardware mode
    "input": "input image: hardware mode",
    "mean": "pooled: hardware mode",
    "concatenation": "concatenation: hardware mode",
}
SIGN_KEPT = {"pass", "mean", "concatenation", "product", "sum"}


@dataclass(frozen=True)
class Site:
    """A tensor of the graph: quantized or, with the reason, not.

    role: what the tensor is, a key of REASONS or "other". layer: class of the layer or name of the
    function behind it.
    """

    node: fx.Node
    name: str
    role: str
    quantized: bool
    signed: bool
    reason: str
    layer: str


def sites(
    model: nn.Module, graph: fx.Graph, names: Mapping[fx.Node, str], hardware: bool = False
) -> list[Site]:
    """Every activation tensor of the graph that a block could stand on, in order.

    >>> from hmq_lab.graph.naming import numbered
    >>> from hmq_lab.graph.tracing import trace
    >>> model, sample = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)
    >>> graph = trace(model, sample, training=False).graph
    >>> [(site.name, site.quantized, site.reason) for site in sites(model, graph, numbered(model, graph))]
    [('input', False, ...), ('1', True, 'after a non-linearity'), ('2', False, 'output of the network')]

    A block goes after each non-linearity, after a linear bottleneck (a linear layer, with its norm,
    that no non-linearity follows) and after a residual sum. A sum or bottleneck that feeds only a
    non-linearity gets it after that, once. Source: the authors' code.

    Args:
        model: the network, without blocks.
        graph: of one mode.
        names: of the nodes, as `naming.numbered` gives them.
        hardware: also on the input, after each mean and each concatenation.

    Returns:
        Sites in the order of the graph, those without a block with their reason.

    Raises:
        ValueError: with the line, for a tensor to quantize that has no name, since training and
            evaluation call it a different number of times.
    """
    # What every node is; parts of a gate by hand get no block.
    modules, kind = dict(model.named_modules()), kinds(graph)
    inside = set().union(*(gate_parts(node, kind) for node in graph.nodes))

    @functools.cache
    def consumers(node: fx.Node) -> tuple[fx.Node, ...]:
        """Who computes with this tensor, looking through what only moves it."""
        # Sizes and constants are no readers of the numbers.
        found: list[fx.Node] = []
        for user in node.users:
            if kind[user] == "pass":
                found += consumers(user)
            elif kind[user] not in ("number", "constant"):
                found.append(user)
        return tuple(found)

    @functools.cache
    def is_input(node: fx.Node) -> bool:
        """Whether this is the image, perhaps normalized inside the network."""
        # A normalized image is still an image: it has no block of its own.
        if kind[node] == "input":
            return True
        return kind[node] in ("scale", "norm") and all(
            is_input(origin(n)) for n in data_inputs(node, kind)
        )

    def origin(node: fx.Node) -> fx.Node:
        while kind[node] == "pass":
            node = data_inputs(node, kind)[0]
        return node

    def divides(user: fx.Node, node: fx.Node) -> bool:
        divisor = user.args[1] if aten(user) == "div" else None
        return isinstance(divisor, fx.Node) and origin(divisor) is node

    @functools.cache
    def absorbed(node: fx.Node) -> bool:
        """Whether the tensor never stands by itself: it feeds non-linearities and norms, or one sum
        of that sort.
        """
        # A tensor that waits for a sum while others use it does stand by itself.
        users = set(consumers(node))
        one_sum = (
            len(users) == 1 and kind[next(iter(users))] == "sum" and absorbed(next(iter(users)))
        )
        return one_sum or (
            bool(users) and all(kind[u] in ("non-linearity", "norm", "scale") for u in users)
        )

    @functools.cache
    def non_negative(node: fx.Node) -> bool:
        # The table knows it, or the lower end of a clamp tells it.
        if kind[node] == "non-linearity":
            known, ends = operation(node), limits(node)
            is_known = known is not None and known.non_negative
            return is_known or (ends is not None and ends[0] >= 0)
        # A sum, mean or product of what is not negative is not negative.
        if kind[node] not in SIGN_KEPT or _may_bring_negatives(node):
            return False
        # A constant of any sign may make the result negative.
        reads_constant = any(kind[source] == "constant" for source in node.all_input_nodes)
        if reads_constant and kind[node] != "pass":
            return False
        inputs = data_inputs(node, kind)
        return bool(inputs) and all(non_negative(source) for source in inputs)

    def role_of(node: fx.Node) -> str | None:
        """None for what is no tensor of its own."""
        # Of several results each is a tensor of its own.
        if isinstance(node.meta.get("val"), list | tuple):
            return None
        # No tensor of activations, or one that nobody reads.
        users = [kind[user] for user in consumers(node)]
        if (
            kind[node] in ("output", "constant", "pass", "number", "block")
            or not users
            or node in inside
        ):
            return None
        # The image counts once, where the first layer reads it.
        if is_input(node):
            return None if all(is_input(user) for user in consumers(node)) else "input"
        if all(divides(user, node) for user in consumers(node)):
            return "divisor"
        # What leaves the network stays float.
        if all(user == "output" for user in users) and not (hardware and kind[node] in HARDWARE):
            return "output"
        # A sum or bottleneck counts where no non-linearity takes it up.
        if kind[node] in ("linear", "norm", "scale", "sum"):
            bottleneck = "sum" if kind[node] == "sum" else "linear"
            return None if absorbed(node) else bottleneck
        return kind[node] if kind[node] in REASONS else "other"

    # One site for each tensor that has a role.
    found = []
    for node in graph.nodes:
        role = role_of(node)
        if role is None:
            continue
        # The paper's places, and in hardware mode some more.
        quantized = role in ("non-linearity", "linear", "sum") or (hardware and role in HARDWARE)
        # A tensor without a name could not have one block in both modes.
        if node not in names and quantized:
            raise ValueError(
                f"{label(node, modules)}{line(node)} is called a different number of times in training and in "
                "evaluation, and which of the calls are the same cannot be told: write them on lines of their own, or "
                "as modules"
            )
        if node in names:  # or else evaluation lists it
            # The reason is a field for people; code reads the role.
            reason = HARDWARE[role] if hardware and role in HARDWARE else REASONS.get(role)
            reason = reason or f"{label(node, modules)}: an operation without a rule"
            signed = not non_negative(node)
            found.append(
                Site(node, names[node], role, quantized, signed, reason, label(node, modules))
            )
    return found


def weight_readers(graph: fx.Graph) -> dict[str, str]:
    """The parameters that are weights of convolutions and linear layers, and the operation that
    reads each of them.

    "computed" stands for the operation where forward works on the parameter first, as weight
    standardization does, and the layer reads the result.

    Args:
        graph: of one mode, without blocks.

    Returns:
        {parameter: aten operation, or "computed"}.
    """
    # Look at the weights of each linear operation.
    found: dict[str, str] = {}
    kind = kinds(graph)
    for node in graph.nodes:
        if kind[node] != "linear" or not aten(node):
            continue
        # The table says which arguments are weights; of x @ self.weight all may be.
        positions = OPERATIONS[aten(node)].weights or range(len(node.args))
        sources = [node.args[i] for i in positions if i < len(node.args)]
        for source in sources:
            if not isinstance(source, fx.Node) or kind[source] != "constant":
                continue
            # A block can stand on a parameter that is read as it is.
            plain = _plain_source(source)
            if plain is not None:
                found[str(plain.target)] = aten(node)
                continue
            # Forward computes the weight: the parameter itself stays float.
            for parameter in _parameters_behind(source):
                found.setdefault(str(parameter.target), "computed")
    return found


def layer_inputs(graph: fx.Graph, names: Mapping[fx.Node, str]) -> dict[str, tuple[str, str]]:
    """{bias: (weight, name of the tensor that its layer reads)} of the layers that integers can
    run.

    A parameter that is added to what a layer returns is a bias as well.

    Args:
        graph: of evaluation, without blocks.
        names: of its nodes, from `naming.numbered`.

    Returns:
        Names as in the model; the tensor's is "" where it has none.
    """
    kind = kinds(graph)
    found: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        # The layer has the bias as an argument, or it is added next.
        layer, bias = node, None
        if aten(node) in LAYERS:
            bias = argument(node, "bias")
        elif kind[node] == "scale" and aten(node) in ("add", "sub"):
            layer = data_inputs(node, kind)[0]
            bias = next((n for n in node.all_input_nodes if kind[n] == "constant"), None)
        if bias is None or aten(layer) not in LAYERS:
            continue
        source, weight, *_ = layer.all_input_nodes
        plain = _plain_source(bias)
        if weight.op != "get_attr" or plain is None:
            continue
        # The tensor before it was moved is the one that has a block.
        while kind[source] == "pass":
            source = data_inputs(source, kind)[0]
        found.setdefault(str(plain.target), (str(weight.target), names.get(source, "")))
    return found


def _plain_source(node: fx.Node) -> fx.Node | None:
    """The parameter that a weight is, perhaps moved (transposed, split)."""
    while node.op != "get_attr":
        known = operation(node)
        # Go back through what only moves numbers.
        moves = (known is not None and known.kind == "pass") or (
            node.op == "call_function" and not aten(node)
        )
        if not moves or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return node


def _parameters_behind(node: fx.Node) -> set[fx.Node]:
    """The parameters that a weight is computed from."""
    if node.op == "get_attr":
        return {node}
    return set().union(*(_parameters_behind(source) for source in node.all_input_nodes))


def _may_bring_negatives(node: fx.Node) -> bool:
    """Whether an operation that passes numbers on may add negative ones of its own."""
    name = aten(node)
    # Padding adds a constant, which is 0 by default.
    if name == "pad":
        value = argument(node, "value")
        return value is not None and value < 0
    if name in ("sub", "rsub"):
        return True
    # A sum with alpha may subtract; alpha dropout shifts what it drops.
    scaled = name == "add" and argument(node, "alpha") not in (1, None)
    return scaled or name in ("alpha_dropout", "feature_alpha_dropout")
