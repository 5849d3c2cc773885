"""The loss of a network as a function of its weights' schemes alone: what a choice of bits costs before training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hmq_lab.block import HMQ
from hmq_lab.placement import blocks
from hmq_lab.quantizer import Scheme, quantize

Choice = Mapping[str, int | Scheme]  # of every weight: bits, with the threshold that fits them best, or a scheme


class Landscape:
    """The loss on some pictures for any choice of bits or schemes; of the network, nothing is trained or changed.

    >>> loss = Landscape(attach(network, SearchSpace(), x), x, y)
    >>> loss({"conv1.weight": 8, "layer1.0.conv1.weight": 4, ...})
    0.3127
    >>> loss.schemes["conv1.weight"][8]                    # the threshold that fits these bits best
    Scheme(bits=8, threshold_exponent=2, signed=True)
    >>> loss({"conv1.weight": Scheme(8, 1, True), "layer1.0.conv1.weight": 4, ...})     # another threshold

    x (N, C, H, W), y (N,): pictures and their classes. Each weight has, for each bit-width of its block, the threshold
    with the least squared error (`schemes`; the errors are in `errors`); activations have their blocks' selection. The
    loss is the mean cross-entropy.

    Results of layers are kept: where only late tensors changed since the last call, only late layers are computed. So
    an enumeration that changes the last tensor fastest costs little more than its last layer. What is kept is the input
    of every layer with weights: of ResNet-20, 1.1 MB for a picture.
    Raises ValueError for a weight, bit-width or scheme that is missing or unknown.
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

    def scores(self, choice: Choice) -> Tensor:
        """The network's scores for every picture, (N, classes)."""
        schemes = {name: self._scheme(name, choice.get(name)) for name in self.blocks}
        for name, block in self.blocks.items():
            block.fix(schemes[name])
        self.network.schemes = schemes
        with torch.no_grad():
            return self.network.run(self.x.clone())  # a network may change its input in place

    def __call__(self, choice: Choice) -> float:
        return F.cross_entropy(self.scores(choice), self.y).item()

    def accuracy(self, choice: Choice) -> float:
        """Percent of the pictures in their class."""
        return 100 * (self.scores(choice).argmax(1) == self.y).float().mean().item()

    def _scheme(self, name: str, chosen: int | Scheme | None) -> Scheme:
        if isinstance(chosen, Scheme):
            return chosen
        if chosen not in self.schemes[name]:
            raise ValueError(f"bits of {name} must be among {tuple(self.schemes[name])}, got {chosen!r}")
        return self.schemes[name][chosen]


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
    """Runs a network's graph, and computes only what lies between a weight whose scheme changed and the output.

    A value is kept where a further weight comes in behind it, or where the network ends; what lies between two such
    places is computed again together.
    """

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__(model, graph=model.hmq.graph)
        self.schemes: Mapping[str, Scheme] = {}
        self.before: dict[fx.Node, set[str]] = {}  # the weights on which a node depends
        self.kept: dict[fx.Node, tuple] = {}
        self.wanted: set[fx.Node] = set()
        for node in self.graph.nodes:
            own = {name for name in names if node.op in ("call_module", "get_attr") and _holds(str(node.target), name)}
            self.before[node] = own.union(*(self.before[source] for source in node.all_input_nodes))
        self.keeping = {
            node for node in self.graph.nodes
            if any(user.op == "output" or self.before[user] != self.before[node] for user in node.users)
        }  # fmt: skip

    def run(self, *args):
        self.wanted = {node for node in self.graph.nodes if node.op == "output"}
        for node in reversed(self.graph.nodes):
            if node in self.wanted and not self._is_kept(node):
                self.wanted.update(node.all_input_nodes)
        return pytree.tree_unflatten(super().run(*args), self.module.hmq.outputs[False])

    def run_node(self, node: fx.Node):
        if node not in self.wanted:
            return None
        if self._is_kept(node):
            return self.kept[node][1]
        value = super().run_node(node)
        if node in self.keeping:
            self.kept[node] = self._own(node), value, _version(value)
        return value

    def _own(self, node: fx.Node) -> dict[str, Scheme]:
        return {name: self.schemes[name] for name in self.before[node]}

    def _is_kept(self, node: fx.Node) -> bool:
        """Whether its value is there, from the same schemes, and no later node changed it in place."""
        schemes, value, version = self.kept.get(node, (None, None, None))
        return schemes == self._own(node) and _version(value) == version


def _holds(target: str, name: str) -> bool:
    return name == target or name.startswith(f"{target}.")


def _version(value) -> int:
    return value._version if isinstance(value, Tensor) else 0
