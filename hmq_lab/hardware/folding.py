"""Hardware mode: what a network needs besides blocks to run on integers and shifts: folding, and rounded biases.

The paper leaves the picture, batch norm, biases and pooled vectors float. `attach(..., hardware=True)` does not: batch
norm is folded into the convolution before it, the picture and each mean get an 8-bit block, each concatenation one with
the activations' bits, and a bias is rounded to the step of the accumulator it is added to.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from hmq_lab.block import HMQ
from hmq_lab.graph.tracing import trace
from hmq_lab.quantizer import power_of_two

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # the output is axis 0 of their weights
NORMS = nn.modules.batchnorm._BatchNorm


class Folded:
    """One batch norm and the layer it went into, with all that `undo` needs."""

    def __init__(self, model: nn.Module, layer: str, norm: str):
        self.layer, self.norm = layer, norm
        self.parent, _, self.name = norm.rpartition(".")
        self.module, self.parent = model.get_submodule(layer), model.get_submodule(self.parent)
        self.before = self.module.weight, self.module.bias, model.get_submodule(norm)

    def do(self) -> None:
        weight, bias, norm = self.before
        with torch.no_grad():
            weight, bias = folded(weight, bias, norm)
        self._set(weight, bias, nn.Identity().train(norm.training))

    def undo(self) -> None:
        self._set(*self.before)

    def _set(self, weight, bias, norm) -> None:
        self.module.weight, self.module.bias = weight, bias
        setattr(self.parent, self.name, norm)


def fold(model: nn.Module) -> list[Folded]:
    """Fold each batch norm that directly follows a convolution or linear layer into it; changes the network in place.

    >>> [(pair.layer, pair.norm) for pair in fold(models.build("resnet8"))][:2]
    [('conv1', 'bn1'), ('layer1.0.conv1', 'layer1.0.bn1')]

    The batch norm becomes an identity, the layer has a bias from then on. A batch norm stays where it is if something
    else also reads the layer's output, if no layer comes directly before it, or if it keeps no running statistics.
    Computed in float64: in evaluation the network's outputs change by rounding alone. Outputs of a linear layer are
    taken to be (N, features), as batch norm sees them.
    """
    done = [Folded(model, layer, norm) for layer, norm in pairs(model)]
    for pair in done:
        pair.do()
    return done


def pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of (layer, batch norm) that `fold` folds, in both modes."""
    evaluation, training = (_pairs(model, trace(model, mode)) for mode in (False, True))
    return [pair for pair in evaluation if pair in training]


def folded(weight: Tensor, bias: Tensor | None, norm: NORMS) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight (out, in, ...) and bias (out,) of a layer with its batch norm in them.

    weight' = weight * g        bias' = beta + (bias - mean) * g        g = gamma / sqrt(variance + eps)
    """
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = (0 if bias is None else bias.double()) - norm.running_mean.double()
    shift = shift * gain + (0 if norm.bias is None else norm.bias.double())
    scaled = weight.double() * gain.view(-1, *[1] * (weight.dim() - 1))
    return tuple(nn.Parameter(t.to(weight.dtype), weight.requires_grad) for t in (scaled, shift))


def _pairs(model: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """(layer, batch norm) wherever a call of the one feeds a call of the other and nothing else, every time."""
    modules, calls = dict(model.named_modules()), {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(node.target, []).append(node)
    found = []
    for norm, nodes in calls.items():
        if not isinstance(modules[norm], NORMS) or modules[norm].running_mean is None:
            continue
        sources = [node.args[0] if node.args else None for node in nodes]
        source = sources[0]
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        fits = type(modules[source.target]) in LAYERS and set(sources) == set(calls[source.target])
        if fits and len(set(sources)) == len(nodes) and all(len(s.users) == 1 for s in sources):
            found.append((source.target, norm))
    return found


class BiasRounding(nn.Module):
    """A parametrization of a bias: a multiple of the accumulator's step, step_w * step_x, in the simulation too.

    Both steps are those of the selected schemes, in the search as well: noise in a bias would serve nothing. Rounding
    is half to even, its gradient straight-through.
    """

    def __init__(self, weight: HMQ, source: HMQ):
        super().__init__()
        self.blocks = (weight, source)  # a tuple, so that they do not become submodules a second time

    def forward(self, bias: Tensor) -> Tensor:
        if not all(block.enabled for block in self.blocks):
            return bias
        weight, source = (power_of_two(block.step_exponent()).double() for block in self.blocks)
        step = weight * source
        rounded = ((bias.detach().double() / step).round() * step).to(bias.dtype)
        return rounded + (bias - bias.detach())


def sources(model: nn.Module, graph: fx.Graph, passing: set[fx.Node]) -> dict[str, str]:
    """{layer: block} for the layers with a bias whose input comes, perhaps moved (`passing`), from a block's output."""
    modules, found = dict(model.named_modules()), {}
    for node in graph.nodes:
        module = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(module, LAYERS) or module.bias is None:
            continue
        source = node.args[0]
        while source in passing:
            source = source.all_input_nodes[0]
        if source.op == "call_module" and source.target.startswith("hmq.activations."):
            found.setdefault(node.target, source.target.removeprefix("hmq.activations."))
    return found


def round_biases(model: nn.Module, layers: dict[str, str]) -> None:
    """Put a `BiasRounding` on the bias of each of the layers {layer: the block of its input}."""
    for layer, source in layers.items():
        module = model.get_submodule(layer)
        rounding = BiasRounding(module.parametrizations.weight[0], model.hmq.activations[source])
        parametrize.register_parametrization(module, "bias", rounding, unsafe=True)
