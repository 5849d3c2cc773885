"""Batch norm folded into the convolution or linear layer before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from hmq_lab.graph.naming import module_path
from hmq_lab.graph.operations import LAYERS, argument, aten
from hmq_lab.graph.tracing import trace

MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # the output is axis 0 of their weights
NORMS = nn.modules.batchnorm._BatchNorm


class Folded:
    """One batch norm and the layer it went into, with all that `undo` needs.

    layer, norm: module paths. before: the layer's weight and bias, and the batch norm.
    """

    def __init__(self, model: nn.Module, layer: str, norm: str):
        self.layer, self.norm = layer, norm
        parent, _, self.name = norm.rpartition(".")
        self.parent = model.get_submodule(parent)
        self.module: Any = model.get_submodule(layer)
        self.before: Any = self.module.weight, self.module.bias, model.get_submodule(norm)

    def do(self) -> None:
        """Put the batch norm into the layer, and an identity into its place.

        Of a norm with layers inside, as timm's norms with an activation, these remain.
        """
        weight, bias, norm = self.before
        inside = OrderedDict(norm.named_children())
        rest = nn.Sequential(inside) if inside else nn.Identity().train(norm.training)
        with torch.no_grad():
            weight, bias = folded(weight, bias, norm)
        self._set(weight, bias, rest)

    def undo(self) -> None:
        """Put back the layer's own parameters and the batch norm."""
        self._set(*self.before)

    def _set(self, weight, bias, norm) -> None:
        self.module.weight, self.module.bias = weight, bias
        setattr(self.parent, self.name, norm)


def fold(model: nn.Module, sample: Tensor) -> list[Folded]:
    """Fold each batch norm that directly follows a convolution or linear layer into it; changes the
    network in place.

    >>> [(pair.layer, pair.norm) for pair in fold(models.build("resnet8"), torch.randn(2, 3, 32, 32))][:2]
    [('conv1', 'bn1'), ('layer1.0.conv1', 'layer1.0.bn1')]

    The batch norm becomes an identity, the layer has a bias from then on. A batch norm stays where
    it is if something else also reads the layer's output, if no layer comes directly before it, or
    if it keeps no running statistics. Computed in float64: in evaluation the network's outputs
    change by rounding alone. Outputs of a linear layer are taken to be (N, features), as batch norm
    sees them.

    Args:
        model: the network, without blocks.
        sample: a batch of images (N, C, H, W); only its shape, type and device matter.

    Returns:
        The folded pairs, in the order of the batch norms; `undo` of each takes it back.

    Raises:
        ValueError: for a network that `tracing.trace` cannot read.
    """
    return fold_with_graphs(model, _graphs(model, sample))


def pairs(model: nn.Module, sample: Tensor) -> list[tuple[str, str]]:
    """The names of (layer, batch norm) that `fold` folds, in both modes.

    Args:
        model: the network, without blocks.
        sample: a batch of images (N, C, H, W).

    Returns:
        Module paths, as ("conv1", "bn1").
    """
    return _pairs_of_all(model, _graphs(model, sample))


def fold_with_graphs(model: nn.Module, graphs: Collection[fx.Graph]) -> list[Folded]:
    """Fold as `fold` does, in the network and in its graphs: they need not be read again.

    Args:
        model: the network, without blocks.
        graphs: of training and of evaluation; changed in place.

    Returns:
        The folded pairs.
    """
    # Find all pairs before the first one changes the network.
    done = [Folded(model, layer, norm) for layer, norm in _pairs_of_all(model, graphs)]
    for pair in done:
        pair.do()
        for graph in graphs:
            _without_norm(graph, pair)
    return done


def folded(weight: Tensor, bias: Tensor | None, norm: NORMS) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (out, in, ...) and bias (out,) of a layer with its batch norm in them.

    weight' = weight * g

    bias' = beta + (bias - mean) * g

    g = gamma / sqrt(variance + eps)

    Args:
        weight: (out, in, ...), of a layer whose output is axis 0.
        bias: (out,), or None.
        norm: the batch norm after the layer, with running statistics.

    Returns:
        New parameters of the weight's type and `requires_grad`.
    """
    # The gain of each output channel, with gamma where the norm has one.
    mean: Any = norm.running_mean
    variance: Any = norm.running_var
    gain = (variance.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()

    # What the norm adds to the layer's output.
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    shift = shift * gain
    if norm.bias is not None:
        shift = shift + norm.bias.double()

    # The gain goes to axis 0 of the weight, whatever its other axes are.
    scaled = weight.double() * gain.view(-1, *[1] * (weight.dim() - 1))
    trained = weight.requires_grad
    return (
        nn.Parameter(scaled.to(weight.dtype), trained),
        nn.Parameter(shift.to(weight.dtype), trained),
    )


def _graphs(model: nn.Module, sample: Tensor) -> list[fx.Graph]:
    return [trace(model, sample, training).graph for training in (False, True)]


def _pairs_of_all(model: nn.Module, graphs: Iterable[fx.Graph]) -> list[tuple[str, str]]:
    # A pair of one mode alone would change the other mode.
    first, *others = (_pairs(model, graph) for graph in graphs)
    return [pair for pair in first if all(pair in other for other in others)]


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """(layer, batch norm) wherever a call of the one feeds a call of the other and nothing else,
    every time.
    """
    # Collect the calls of each batch norm and of each layer.
    modules = dict(model.named_modules())
    layers: dict[str, set[fx.Node]] = {}  # {path of a layer: its calls}
    for node in graph.nodes:
        path = _owner(node, "weight", 1) if aten(node) in LAYERS else None
        if path is not None and type(modules.get(path)) in MODULES:
            layers.setdefault(path, set()).add(node)

    found = []
    called = [node for node in graph.nodes if node.op == "call_function"]
    for norm, calls in _calls_of_norms(graph).items():
        # The layer whose calls are exactly the inputs of this norm's calls.
        sources = {call.all_input_nodes[0] for call in calls}
        layer = next((path for path, nodes in layers.items() if nodes == sources), None)
        if layer is None or not isinstance(modules.get(norm), NORMS):
            continue
        # A norm of one's own may do more than a batch norm does.
        if any(module_path(n) == norm and n.users and n not in calls for n in called):
            continue
        # Nothing else may read the layer's output.
        if len(sources) == len(calls) and all(len(source.users) == 1 for source in sources):
            found.append((layer, norm))
    return found


def _calls_of_norms(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """{path of a batch norm: its calls}, of those with running statistics."""
    found: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        path = _owner(node, "running_mean", 3) if aten(node) == "batch_norm" else None
        if path is not None:
            found.setdefault(path, []).append(node)
    return found


def _owner(node: fx.Node, attribute: str, position: int) -> str | None:
    """The path of the module whose attribute a call reads as its argument at `position`."""
    # Only a parameter or buffer that is read directly tells the module.
    source = node.args[position] if position < len(node.args) else None
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    path, _, name = str(source.target).rpartition(".")
    return path if name == attribute else None


def _without_norm(graph: fx.Graph, pair: Folded) -> None:
    """Take the calls of a batch norm out of a graph; its layer reads a bias now."""
    for norm in _calls_of_norms(graph)[pair.norm]:
        # The bias has the shape of the running mean.
        layer, mean = norm.all_input_nodes[0], argument(norm, "running_mean")
        if argument(layer, "bias") is None:
            with graph.inserting_before(layer):
                name = f"{pair.layer}.bias".lstrip(".")
                bias = graph.create_node("get_attr", name)
            bias.meta = dict(mean.meta)
            layer.args = (*layer.args[:2], bias, *layer.args[3:])
        norm.replace_all_uses_with(layer)

    # The calls, the counter and the parameters of the norm, the last ones first.
    for node in reversed(list(graph.nodes)):
        reads = [node, *node.all_input_nodes]
        owners = [str(n.target).rpartition(".")[0] for n in reads if n.op == "get_attr"]
        if pair.norm in owners and not node.users:
            graph.erase_node(node)
