"""What the game (`game`) is played on: a trained network, held images, the cost of any choice.

>>> arena = Arena(network, x, y, "tiny_resnet8", record)                  # doctest: +SKIP
>>> arena.evaluate(arena.fitting(dict.fromkeys(arena.layers, 4))).accuracy  # doctest: +SKIP
79.0

No weight is trained, neither for a player's choice nor for the record's selection: the game
compares schemes alone.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import budget, rivals
from hmq_lab.block import SearchSpace
from hmq_lab.data.files import digest
from hmq_lab.hardware import costs
from hmq_lab.network import blocks, calibrate
from hmq_lab.placement import attach
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.landscape import Landscape
from hmq_lab.rivals.scores import Outcome
from hmq_lab.runs.records import Record

# {weight: (bits, threshold exponent)}.
Pairs = dict[str, tuple[int, int]]


class Arena:
    """A network and images on which choices of a scheme for every weight are measured.

    >>> arena.evaluate({"conv1.weight": (8, 1), "linear.weight": (4, -1)})  # doctest: +SKIP

    Args:
        network: trained, in float; it is copied.
        x: held images (N, C, H, W).
        y: their classes (N,).
        name: of the network.
        record: of a search that began with these weights. Its selection is the rival, and every
            choice uses the schemes of its activations. Without one, activations have 8 bits,
            calibrated on x, and there is no rival.
        few: how many of the images, evenly spread, hints and the greedy start use.

    Raises:
        ValueError: for a record of other weights or of other tensors, and for a network without a
            quantized weight.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        name: str,
        record: Record | None = None,
        *,
        few: int = 200,
    ):
        # Check, and put blocks on a copy of the network.
        if isinstance(few, bool) or not isinstance(few, int) or few < 1:
            raise ValueError(f"few must be a whole number of images from 1 on, got {few!r}")
        weights = digest({}, network.state_dict())
        # A network may change its input.
        model = _attached(network, x.clone(), record, weights)
        self.sizes = budget.weight_sizes(model)
        if not self.sizes:
            kind = type(network).__name__
            raise ValueError(f"this {kind} has no weight that is quantized: nothing to choose")
        self.layers = tuple(self.sizes)

        # The loss of any choice, on all images and on some.
        self.count, self.few = len(x), min(few, len(x))
        spread = torch.arange(self.few) * len(x) // self.few
        self._landscape = Landscape(model, x, y)
        self._fewer = Landscape(model, x[spread], y[spread])
        # The multiplications of each layer.
        self._calls = costs.count(model)
        self._blocks = self._landscape.blocks
        self.space = next(iter(self._blocks.values())).space

        # The selection of the record, which a player tries to beat.
        self.rival: Pairs | None = None
        if record is not None:
            self.rival = {
                t["name"]: (t["bits"], t["threshold_exponent"])
                for t in record.tensors
                if t["kind"] == "weight"
            }

        # What two games must have in common for their scores to be compared.
        others = [pair for pair in budget.schemes(model) if pair[0].kind != "weight"]
        self.setting = {
            "model": name,
            "sizes": self.sizes,
            "weights": weights,
            "pictures": {"count": len(x), "sha256": digest({}, {"x": x, "y": y})},
            "activations": digest({place.name: str(scheme) for place, scheme in others}),
            "rival": self.rival and digest(self.rival),
        }
        self._outcomes: dict[tuple, Outcome] = {}
        self._references: dict[str, Outcome] = {}

    def exponents(self, layer: str) -> tuple[int, ...]:
        """Return the threshold exponents that a weight can have, the largest first."""
        return tuple(self._blocks[self.named(layer)].exponents.tolist())

    def named(self, layer: str) -> str:
        """Return the name of a weight. Raises ValueError naming those there are."""
        if layer not in self.sizes:
            raise ValueError(f"there is no weight {layer!r}; there are {', '.join(self.layers)}")
        return layer

    def pair(self, layer: str, bits: int, exponent: int | None = None) -> tuple[int, int]:
        """Return (bits, exponent), checked.

        Args:
            layer: the name of a weight.
            bits: its bit-width.
            exponent: of its threshold; None is the one with the least squared error.

        Raises:
            ValueError: for values that the weight cannot have.
        """
        # Bits, then the threshold.
        allowed = self.exponents(layer)
        if isinstance(bits, bool) or bits not in self.space.bits:
            raise ValueError(f"bits of {layer} must be among {self.space.bits}, got {bits!r}")
        if exponent is None:
            return int(bits), self._landscape.schemes[layer][bits].threshold_exponent
        if isinstance(exponent, bool) or exponent not in allowed:
            raise ValueError(
                f"the threshold exponent of {layer} must be a whole number from {allowed[-1]} to "
                f"{allowed[0]}, got {exponent!r}"
            )
        return int(bits), int(exponent)

    def fitting(self, bits: Mapping[str, int]) -> Pairs:
        """Return bits with the threshold of the least squared error each."""
        return {name: self.pair(name, b) for name, b in bits.items()}

    def checked(self, choice: Mapping[str, int | tuple[int, int]]) -> Pairs:
        """Return a choice as pairs.

        Raises:
            ValueError: for weights that are missing or unknown, and values they cannot have.
        """
        # Every weight, and no other name.
        names = [*choice, *self.layers]
        odd = [str(name) for name in names if (name in choice) != (name in self.sizes)]
        if odd:
            said = ", ".join(odd)
            raise ValueError(f"a choice names every weight; missing or unknown: {said}")
        # Bits alone get the threshold that fits them.
        pairs = {}
        for name in self.layers:
            chosen = choice[name]
            pairs[name] = self.pair(name, *(chosen if isinstance(chosen, tuple) else (chosen,)))
        return pairs

    def evaluate(self, choice: Mapping[str, tuple[int, int]]) -> Outcome:
        """Return what a choice costs.

        A choice is measured once, and only from the first layer on that changed since the last.
        """
        # One order of the weights, so that a choice has one key.
        choice = {name: choice[name] for name in self.layers}
        key = tuple(choice.values())
        if key in self._outcomes:
            return self._outcomes[key]

        # What the images say.
        scores, y = self._landscape.scores(_schemes(choice)), self._landscape.y
        right = (scores.argmax(1) == y).sum().item()
        loss = F.cross_entropy(scores, y).item()

        # What the choice costs in memory and work.
        bits = {name: pair[0] for name, pair in choice.items()}
        total = sum(bits[name] * size for name, size in self.sizes.items())
        operations = 0
        for call in self._calls:
            weight_bits = bits.get(_weight(call.name), call.weight_bits)
            operations += replace(call, weight_bits=weight_bits).bit_operations
        self._outcomes[key] = Outcome(
            choice,
            rate=budget.compression(bits, self.sizes),
            accuracy=100 * right / len(y),
            loss=loss,
            weight_bytes=total / 8,
            bit_operations=operations,
        )
        return self._outcomes[key]

    @property
    def tried(self) -> list[Outcome]:
        """Every choice that was measured, in order."""
        return list(self._outcomes.values())

    @property
    def hmq(self) -> Outcome | None:
        """The record's selection on these weights and images, without its fine-tuning."""
        return None if self.rival is None else self.evaluate(self.checked(self.rival))

    @property
    def references(self) -> dict[str, Outcome]:
        """The same bits everywhere, for each bit-width ("uniform 4"), and the selection ("HMQ")."""
        # Measured when first asked for.
        if not self._references:
            for bits in self.space.bits:
                same = self.fitting(dict.fromkeys(self.layers, bits))
                self._references[f"uniform {bits}"] = self.evaluate(same)
            if (hmq := self.hmq) is not None:
                self._references["HMQ"] = hmq
        return self._references

    def use_references(self, references: Mapping[str, Outcome]) -> None:
        """Take references from a file of the same setting, to save measuring them again."""
        self._references = dict(references)

    @property
    def x(self) -> Tensor:
        """The images."""
        return self._landscape.x

    def network(self, choice: Pairs) -> nn.Module:
        """Return a copy of the quantized network with the schemes of a choice fixed."""
        # The landscape's network stays as it is.
        model = copy.deepcopy(self._landscape.model)
        for name, scheme in _schemes(self.checked(choice)).items():
            blocks(model)[name].fix(scheme)
        return model

    def forget(self) -> None:
        """Forget what was measured, but for the references; a benchmark needs this."""
        self._outcomes = {tuple(o.choice.values()): o for o in self.references.values()}

    def greedy(self, target: float) -> Pairs:
        """Return a choice that reaches the target by the cheapest changes, one after the other.

        It is `rivals.greedy` on sums of `rivals.alone`, measured on the few images. Greedy on the
        loss itself would take hundreds of passes.
        """
        # As if the rise of each layer alone added up.
        rises = rivals.alone(self._fewer, self.sizes, self.space)

        def loss(bits: Mapping[str, int]) -> float:
            return sum(rises[name][b] for name, b in bits.items())

        return self.fitting(rivals.greedy(loss, self.sizes, self.space, target))

    def changes(self, choice: Pairs, without: Collection[str] = ()) -> tuple[dict, dict]:
        """Return what one bit-width less and one more do to the loss on the few images.

        Args:
            choice: the choice to change, one weight at a time.
            without: weights to leave out.

        Returns:
            Two dicts {weight: (bits, change of the loss)}, for less and for more bits, without
            the weights that cannot go there.
        """
        base, widths = self._fewer(_schemes(choice)), self.space.bits
        found: dict[int, dict] = {-1: {}, 1: {}}

        # From the end: the results of the layers before a change are still known.
        for name in reversed(self.layers):
            for step, row in found.items():
                at = widths.index(choice[name][0]) + step
                if 0 <= at < len(widths) and name not in without:
                    trial = choice | {name: self.pair(name, widths[at])}
                    row[name] = widths[at], self._fewer(_schemes(trial)) - base
        in_order = []
        for row in found.values():
            in_order.append({name: row[name] for name in self.layers if name in row})
        return in_order[0], in_order[1]


def _attached(network: nn.Module, x: Tensor, record: Record | None, weights: str) -> nn.Module:
    """Return a copy of the network with blocks, the activations' schemes fixed."""
    # Without a record, activations of 8 bits.
    network = copy.deepcopy(network).eval()
    if record is None:
        model = attach(network, space=SearchSpace(), sample=x[:2])
        calibrate(model, [x])
        for block in blocks(model, "activation").values():
            block.fix()
        return model.eval()

    # The record must be of this network.
    if record.header.get("weights") != weights:
        said = "the record is of a search that began with other weights than this network's"
        raise ValueError(said)
    about = record.header["space"]
    space = SearchSpace(tuple(about["bits"]), about["thresholds"])
    hardware = record.header.get("hardware_mode", False)
    model = attach(network, space=space, sample=x[:2], hardware=hardware)
    found, described = blocks(model), {t["name"]: t for t in record.tensors}
    if odd := sorted(found.keys() ^ described.keys()):
        said = ", ".join(odd[:4])
        raise ValueError(f"record and network do not have the same quantized tensors: {said}")

    # Its activations, with the threshold that the search began with and the one it chose.
    for name, t in described.items():
        if t["kind"] != "weight":
            found[name].exponent.fill_(t["space"]["exponents"][0])
            found[name].bits.fill_(t["bits"])
            found[name].fix(Scheme(t["bits"], t["threshold_exponent"], t["signed"]))
    return model.eval()


def _schemes(choice: Mapping[str, tuple[int, int]]) -> dict[str, Scheme]:
    return {name: Scheme(bits, exponent, True) for name, (bits, exponent) in choice.items()}


def _weight(call: str) -> str:
    """Return the weight of a layer's call: "conv1.weight" of "conv1" and of "conv1:2"."""
    return f"{call.split(':')[0]}.weight"
