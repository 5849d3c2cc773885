"""The loss of a network as a function of its weights' schemes alone, before any training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hmq_lab.block import HMQ
from hmq_lab.network import attribute_of, blocks, check_attached
from hmq_lab.quantizer import Scheme, quantize

FLOAT = "float"  # in a choice: this weight is not quantized

# Of every weight: its bits, with the threshold that fits them best, or a scheme, or FLOAT.
Choice = Mapping[str, int | str | Scheme]


class Landscape:
    """The loss on some images for any choice of bits or schemes; the network stays as it is.

    >>> loss = Landscape(attach(network, x), x, y)                        # doctest: +SKIP
    >>> loss({"conv1.weight": 8, "layer1.0.conv1.weight": 4})             # doctest: +SKIP
    0.3127
    >>> loss.schemes["conv1.weight"][8]                                   # doctest: +SKIP
    Scheme(bits=8, threshold_exponent=2, signed=True)

    The loss is the mean cross-entropy. Each weight has, for each bit-width of its block, the
    threshold with the least squared error (`schemes`; the errors are in `errors`). Activations
    have the selection of their blocks.

    The input of every layer with weights is kept: of ResNet-20, 1.1 MB for an image. Where only
    late tensors changed since the last call, only late layers are computed. So an enumeration that
    changes the last tensor fastest costs little more than its last layer.

    Args:
        model: an attached network; it is copied.
        x: images (N, C, H, W).
        y: their classes (N,).

    Raises:
        ValueError: when called with a weight, bit-width or scheme that is missing or unknown.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor):
        # Nothing of the caller's network changes.
        self.model, self.x, self.y = copy.deepcopy(model).eval(), x, y
        self.blocks = blocks(self.model, "weight")

        # For each weight and bit-width, the best scheme and its error.
        self.schemes: dict[str, dict[int, Scheme]] = {}
        self.errors: dict[str, dict[int, float]] = {}
        for name, block in self.blocks.items():
            weight = original(self.model, name)
            schemes = best_schemes(block, weight)
            self.schemes[name] = schemes
            self.errors[name] = {b: squared_error(weight, s) for b, s in schemes.items()}

        # A layer that works in place would change what is kept.
        for module in self.model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self.network = _Remembering(self.model, list(self.blocks))

    def scores(self, choice: Choice) -> Tensor:
        """Return the network's scores for every image, (N, classes)."""
        # Fix the schemes, then run what they change.
        schemes = {name: self._scheme(name, choice.get(name)) for name in self.blocks}
        for name, block in self.blocks.items():
            scheme = schemes[name]
            block.enabled = isinstance(scheme, Scheme)
            if isinstance(scheme, Scheme):
                block.fix(scheme)
        self.network.schemes = schemes
        with torch.no_grad():
            # A network may change its input in place.
            return self.network.run(self.x.clone())

    def __call__(self, choice: Choice) -> float:
        """Return the mean cross-entropy."""
        return F.cross_entropy(self.scores(choice), self.y).item()

    def accuracy(self, choice: Choice) -> float:
        """Return the percentage of images in their class."""
        right = self.scores(choice).argmax(1) == self.y
        return 100 * right.float().mean().item()

    def _scheme(self, name: str, chosen: int | str | Scheme | None) -> Scheme | str:
        # A scheme stands for itself, bits for the scheme that fits best.
        if isinstance(chosen, Scheme) or chosen == FLOAT:
            return chosen
        schemes = self.schemes[name]
        if not isinstance(chosen, int) or chosen not in schemes:
            raise ValueError(f"bits of {name} must be among {tuple(schemes)}, got {chosen!r}")
        return schemes[chosen]


def best_schemes(block: HMQ, tensor: Tensor) -> dict[int, Scheme]:
    """Return for each bit-width of a block the scheme with the least squared error on a tensor.

    >>> from hmq_lab.block import SearchSpace
    >>> block = HMQ(SearchSpace((2, 8), 2), threshold_exponent=0, signed=True)
    >>> {b: s.threshold_exponent for b, s in best_schemes(block, torch.tensor([0.1, 0.3])).items()}
    {2: -1, 8: -1}
    """
    # Try every threshold of the block.
    best = {}
    for bits in block.bits.tolist():
        schemes = [Scheme(bits, e, block.signed) for e in block.exponents.tolist()]
        best[bits] = min(schemes, key=lambda scheme: squared_error(tensor, scheme))
    return best


def squared_error(tensor: Tensor, scheme: Scheme) -> float:
    """Return the sum of squares of what a scheme changes.

    >>> scheme = Scheme(bits=2, threshold_exponent=0, signed=True)        # it gives 0, 0.5, 0.5
    >>> round(squared_error(torch.tensor([0.1, 0.5, 3.0]), scheme), 4)
    6.26
    """
    # In double precision, so that ties are ties.
    tensor = tensor.detach().double()
    rounded = quantize(tensor, scheme.step, scheme.threshold, scheme.signed)
    return (rounded - tensor).square().sum().item()


def original(model: nn.Module, name: str) -> Tensor:
    """Return the float weight of an attached network, by its name, before quantization."""
    # torch keeps the float weight beside its parametrization.
    path, _, attribute = name.rpartition(".")
    parametrizations: Any = model.get_submodule(path).parametrizations
    return parametrizations[attribute].original


class _Remembering(fx.Interpreter):
    """Runs a network's graph; computes only what lies between a changed weight and the output.

    A value is kept where a further weight comes in behind it, and where the network ends. What
    lies between two such places is computed again together.

    Args:
        model: an attached network.
        names: of its weights.
    """

    def __init__(self, model: nn.Module, names: list[str]):
        graph: Any = model.hmq.graph  # type: ignore[union-attr]
        super().__init__(model, graph=graph)
        self.schemes: Mapping[str, Scheme | str] = {}
        self.kept: dict[fx.Node, tuple] = {}
        self.wanted: set[fx.Node] = set()

        # The weights on which each node depends.
        self.before: dict[fx.Node, set[str]] = {}
        for node in self.graph.nodes:
            own = set()
            if node.op in ("call_module", "get_attr"):
                own = {name for name in names if _holds(str(node.target), name)}
            sources = (self.before[source] for source in node.all_input_nodes)
            self.before[node] = own.union(*sources)
        self.keeping = {node for node in self.graph.nodes if self._is_place(node)}

    def _is_place(self, node: fx.Node) -> bool:
        """Return whether a user of the node is the output or depends on another weight, too."""
        before = self.before[node]
        return any(user.op == "output" or self.before[user] != before for user in node.users)

    def run(self, *args, **options) -> Any:
        """Return the output; nodes whose value is kept, and what is only for them, are left out."""
        # From the output backward: what is not kept needs its inputs.
        self.wanted = {node for node in self.graph.nodes if node.op == "output"}
        for node in reversed(self.graph.nodes):
            if node in self.wanted and not self._is_kept(node):
                self.wanted.update(node.all_input_nodes)
        values = super().run(*args, **options)
        outputs = check_attached(self.module).outputs[False]
        return pytree.tree_unflatten(values, outputs)

    def run_node(self, node: fx.Node):
        """Return the value of a node, kept or computed."""
        # Nobody asks for it.
        if node not in self.wanted:
            return None
        if self._is_kept(node):
            return self.kept[node][1]
        # Keep it where a further weight comes in.
        value = super().run_node(node)
        if node in self.keeping:
            self.kept[node] = self._own(node), value, _version(value)
        return value

    def get_attr(self, target, args, kwargs):
        """Return a parameter, read once: a weight is quantized each time that it is read."""
        return attribute_of(self.module, target)

    def _own(self, node: fx.Node) -> dict[str, Scheme | str]:
        """Return the schemes on which a node's value depends."""
        return {name: self.schemes[name] for name in self.before[node]}

    def _is_kept(self, node: fx.Node) -> bool:
        """Return whether the kept value has these schemes, and no later node changed it."""
        # Other schemes, or a change in place, make it worthless.
        schemes, value, version = self.kept.get(node, (None, None, None))
        return schemes == self._own(node) and _version(value) == version


def _holds(target: str, name: str) -> bool:
    return name == target or name.startswith(f"{target}.")


def _version(value) -> int:
    """Return how often a tensor was changed in place."""
    return value._version if isinstance(value, Tensor) else 0
