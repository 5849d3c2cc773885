"""Batch norm folded into the convolution or linear layer before it."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from hmq_lab.graph.operations import aten
from hmq_lab.graph.tracing import trace

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # the output is axis 0 of their weights
NORMS = nn.modules.batchnorm._BatchNorm


class Folded:
    """One batch norm and the layer it went into, with all that `undo` needs."""

    def __init__(self, model: nn.Module, layer: str, norm: str):
        self.layer, self.norm = layer, norm
        parent, _, self.name = norm.rpartition(".")
        self.parent = model.get_submodule(parent)
        self.module = model.get_submodule(layer)
        self.before = self.module.weight, self.module.bias, model.get_submodule(norm)

    def do(self) -> None:
        # The identity keeps the mode of the norm whose place it takes.
        weight, bias, norm = self.before
        with torch.no_grad():
            weight, bias = folded(weight, bias, norm)
        self._set(weight, bias, nn.Identity().train(norm.training))

    def undo(self) -> None:
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
    # Find all pairs before the first one changes the network.
    done = [Folded(model, layer, norm) for layer, norm in pairs(model, sample)]
    for pair in done:
        pair.do()
    return done


def pairs(model: nn.Module, sample: Tensor) -> list[tuple[str, str]]:
    """The names of (layer, batch norm) that `fold` folds, in both modes.

    Args:
        model: the network, without blocks.
        sample: a batch of images (N, C, H, W).

    Returns:
        Module paths, as ("conv1", "bn1").
    """
    # A pair of one mode alone would change the other mode.
    evaluation, training = (
        _pairs(model, trace(model, sample, mode).graph) for mode in (False, True)
    )
    return [pair for pair in evaluation if pair in training]


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
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()

    # What the norm adds to the layer's output.
    shift = (0 if bias is None else bias.double()) - norm.running_mean.double()
    shift = shift * gain + (0 if norm.bias is None else norm.bias.double())

    # The gain goes to axis 0 of the weight, whatever its other axes are.
    scaled = weight.double() * gain.view(-1, *[1] * (weight.dim() - 1))
    return tuple(nn.Parameter(t.to(weight.dtype), weight.requires_grad) for t in (scaled, shift))


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """(layer, batch norm) wherever a call of the one feeds a call of the other and nothing else,
    every time.
    """
    # Collect the calls of each batch norm and of each layer.
    modules = dict(model.named_modules())
    norms: dict[str, list[fx.Node]] = {}  # {path of a batch norm: its calls}
    layers: dict[str, list[fx.Node]] = {}  # {path of a layer: its calls}
    for node in graph.nodes:
        if aten(node) == "batch_norm" and (path := _owner(node, "running_mean", 3)) is not None:
            norms.setdefault(path, []).append(node)
        elif aten(node) in ("conv1d", "conv2d", "conv3d", "linear"):
            layers.setdefault(_owner(node, "weight", 1), []).append(node)

    found = []
    for norm, calls in norms.items():
        # The layer whose calls are exactly the inputs of this norm's calls.
        sources = [call.args[0] for call in calls]
        layer = next((path for path, nodes in layers.items() if set(nodes) == set(sources)), None)
        if (
            layer is None
            or not isinstance(modules.get(norm), NORMS)
            or type(modules.get(layer)) not in LAYERS
        ):
            continue
        # Nothing else may read the layer's output.
        alone = len(set(sources)) == len(calls) and all(
            len(source.users) == 1 for source in sources
        )
        if alone:
            found.append((layer, norm))
    return found


def _owner(node: fx.Node, attribute: str, position: int) -> str | None:
    """The path of the module whose attribute a call reads as its argument at `position`."""
    # Only a parameter or buffer that is read directly tells the module.
    source = node.args[position] if position < len(node.args) else None
    if not isinstance(source, fx.Node) or source.op != "get_attr":
        return None
    path, _, name = source.target.rpartition(".")
    return path if name == attribute else None
