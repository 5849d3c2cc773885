"""The loss of a network as a function of its weights' bits alone: what a choice of bits costs before any training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hmq_lab.block import HMQ
from hmq_lab.placement import blocks
from hmq_lab.quantizer import Scheme, quantize


class Landscape:
    """The loss on some pictures for any choice of bits; of the network, nothing is trained or changed.

    >>> loss = Landscape(attach(network, SearchSpace(), x), x, y)
    >>> loss({"conv1.weight": 8, "layer1.0.conv1.weight": 4, ...})
    0.3127
    >>> loss.schemes["conv1.weight"][8]                    # the threshold that fits these bits best
    Scheme(bits=8, threshold_exponent=2, signed=True)

    x (N, C, H, W), y (N,): pictures and their classes. Each weight has, for each bit-width of its block, the threshold
    with the least squared error (`schemes`; the errors are in `errors`); activations have their blocks' selection. The
    loss is the mean cross-entropy.

    Results of layers are kept: where only late tensors changed since the last call, only late layers are computed. So
    an enumeration that changes the last tensor fastest costs little more than its last layer.
    Raises ValueError for a weight or bit-width that is missing or unknown.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor):
        self.model, self.x, self.y = copy.deepcopy(model).eval(), x, y
        self.blocks = blocks(self.model, "weight")
        weights = {name: _original(self.model, name) for name in self.blocks}
        self.schemes = {name: best_schemes(block, weights[name]) for name, block in self.blocks.items()}
        self.errors = {
            name: {bits: squared_error(weights[name], scheme) for bits, scheme in schemes.items()}
            for name, schemes in self.schemes.items()
        }
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # or it would change what is kept
        self.network = _Remembering(self.model, list(self.blocks))

    def scores(self, bits: Mapping[str, int]) -> Tensor:
        """The network's scores for every picture, (N, classes)."""
        for name, block in self.blocks.items():
            if bits.get(name) not in self.schemes[name]:
                raise ValueError(f"bits of {name} must be among {tuple(self.schemes[name])}, got {bits.get(name)!r}")
            block.fix(self.schemes[name][bits[name]])
        self.network.bits = bits
        with torch.no_grad():
            return self.network.run(self.x)

    def __call__(self, bits: Mapping[str, int]) -> float:
        return F.cross_entropy(self.scores(bits), self.y).item()

    def accuracy(self, bits: Mapping[str, int]) -> float:
        """Percent of the pictures in their class."""
        return 100 * (self.scores(bits).argmax(1) == self.y).float().mean().item()


def best_schemes(block: HMQ, tensor: Tensor) -> dict[int, Scheme]:
    """For each bit-width of a block the scheme with the least squared error on a tensor.

    >>> {bits: scheme.threshold_exponent for bits, scheme in best_schemes(block, weight).items()}
    {1: -2, 2: -2, 3: -1, 4: -1, 5: 0, 6: 0, 7: 0, 8: 0}
    """
    exponents = block.exponents.tolist()
    choices = {b: [Scheme(b, e, block.signed) for e in exponents] for b in block.bits.tolist()}
    return {b: min(schemes, key=lambda scheme: squared_error(tensor, scheme)) for b, schemes in choices.items()}


def squared_error(tensor: Tensor, scheme: Scheme) -> float:
    """The sum of squares of what a scheme changes.

    >>> squared_error(torch.tensor([0.1, 0.5, 3.0]), Scheme(bits=2, threshold_exponent=0, signed=True))   # 0, 0.5, 0.5
    6.26
    """
    tensor = tensor.detach().double()
    return (quantize(tensor, scheme.step, scheme.threshold, scheme.signed) - tensor).square().sum().item()


def _original(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path).parametrizations[attribute].original


class _Remembering(fx.Interpreter):
    """Runs a network's graph, and computes a node again only where the bits of a weight before it changed."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__(model, graph=model.hmq.graph)
        self.bits: Mapping[str, int] = {}
        self.before: dict[fx.Node, set[str]] = {}  # the weights on which a node depends
        self.kept: dict[fx.Node, tuple] = {}
        for node in self.graph.nodes:
            own = {name for name in names if node.op in ("call_module", "get_attr") and _holds(str(node.target), name)}
            self.before[node] = own.union(*(self.before[source] for source in node.all_input_nodes))

    def run_node(self, node: fx.Node):
        bits = {name: self.bits[name] for name in self.before[node]}
        kept = self.kept.get(node)
        if kept is None or kept[0] != bits or kept[2] != _version(kept[1]):  # or a later node changed it in place
            value = super().run_node(node)
            self.kept[node] = kept = bits, value, _version(value)
        return kept[1]


def _holds(target: str, name: str) -> bool:
    return name == target or name.startswith(f"{target}.")


def _version(value) -> int:
    return value._version if isinstance(value, Tensor) else 0
