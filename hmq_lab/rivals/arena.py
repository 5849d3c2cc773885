"""What the game (`game`) is played on: a trained network, held pictures, and what any choice of schemes is worth there.

>>> arena = Arena(network, x, y, "tiny_resnet8", record)
>>> arena.evaluate(arena.fitting(dict.fromkeys(arena.layers, 4))).accuracy
79.0

No weight is trained, neither for a player's choice nor for the record's selection: schemes alone are compared.
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
from hmq_lab.placement import attach, blocks, calibrate
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.landscape import Landscape
from hmq_lab.rivals.scores import Outcome
from hmq_lab.runs.records import Record

Pairs = dict[str, tuple[int, int]]  # {weight: (bits, threshold exponent)}


class Arena:
    """A network and pictures on which choices of a scheme for every weight are measured.

    >>> arena.evaluate({"conv1.weight": (8, 1), "layer1.0.conv1.weight": (4, -1), ...})

    network: trained, in float; it is copied. x (N, C, H, W), y (N,): held pictures and their classes. name: of the
    network. record: of a search that began with these weights; its selection is the rival, its activations' schemes are
    used for every choice. Without one, activations have 8 bits, calibrated on x, and there is no rival.
    few: so many of the pictures, evenly spread, are what hints and the greedy start look at.

    Raises ValueError for a record of other weights or of other tensors, and for a network without a quantized weight.
    """

    def __init__(
        self, network: nn.Module, x: Tensor, y: Tensor, name: str, record: Record | None = None, *, few: int = 200
    ):
        if isinstance(few, bool) or not isinstance(few, int) or few < 1:
            raise ValueError(f"few must be a whole number of pictures from 1 on, got {few!r}")
        weights = digest({}, network.state_dict())
        model = _attached(network, x.clone(), record, weights)  # a network may change its input in place
        self.sizes = budget.weight_sizes(model)
        if not self.sizes:
            raise ValueError(f"this {type(network).__name__} has no weight that is quantized: nothing to choose")
        self.layers = tuple(self.sizes)
        self.count, self.few = len(x), min(few, len(x))
        self._landscape = Landscape(model, x, y)
        spread = torch.arange(self.few) * len(x) // self.few
        self._fewer = Landscape(model, x[spread], y[spread])
        self._calls = costs.count(model)
        self._blocks = self._landscape.blocks
        self.space = next(iter(self._blocks.values())).space
        activations = {place.name: str(scheme) for place, scheme in budget.schemes(model) if place.kind != "weight"}
        pictures = {"count": len(x), "sha256": digest({}, {"x": x, "y": y})}
        self.rival: Pairs | None = None if record is None else {
            t["name"]: (t["bits"], t["threshold_exponent"]) for t in record.tensors if t["kind"] == "weight"
        }  # fmt: skip
        self.setting = {"model": name, "sizes": self.sizes, "weights": weights, "pictures": pictures,
                        "activations": digest(activations), "rival": self.rival and digest(self.rival)}  # fmt: skip
        self._outcomes: dict[tuple, Outcome] = {}
        self._references: dict[str, Outcome] = {}

    def exponents(self, layer: str) -> tuple[int, ...]:
        """The threshold exponents that a layer can have, the largest first."""
        return tuple(self._blocks[self.named(layer)].exponents.tolist())

    def named(self, layer: str) -> str:
        """The layer, if there is one of that name; else ValueError names those there are."""
        if layer not in self.sizes:
            raise ValueError(f"there is no weight {layer!r}; there are {', '.join(self.layers)}")
        return layer

    def pair(self, layer: str, bits: int, exponent: int | None = None) -> tuple[int, int]:
        """(bits, exponent), checked; without an exponent the one with the least squared error for these bits."""
        allowed = self.exponents(layer)
        if isinstance(bits, bool) or bits not in self.space.bits:
            raise ValueError(f"bits of {layer} must be among {self.space.bits}, got {bits!r}")
        if exponent is None:
            return int(bits), self._landscape.schemes[layer][bits].threshold_exponent
        if isinstance(exponent, bool) or exponent not in allowed:
            said = f"from {allowed[-1]} to {allowed[0]}"
            raise ValueError(f"the threshold exponent of {layer} must be a whole number {said}, got {exponent!r}")
        return int(bits), int(exponent)

    def fitting(self, bits: Mapping[str, int]) -> Pairs:
        """Bits with the threshold of the least squared error each."""
        return {name: self.pair(name, b) for name, b in bits.items()}

    def checked(self, choice: Mapping[str, int | tuple[int, int]]) -> Pairs:
        """A choice as pairs. Raises ValueError for weights that are missing or unknown, and values they cannot have."""
        if odd := [str(name) for name in [*choice, *self.layers] if (name in choice) != (name in self.sizes)]:
            raise ValueError(f"a choice names every weight; missing or unknown: {', '.join(odd)}")
        pairs = {name: choice[name] if isinstance(choice[name], tuple) else (choice[name],) for name in self.layers}
        return {name: self.pair(name, *pair) for name, pair in pairs.items()}

    def evaluate(self, choice: Mapping[str, tuple[int, int]]) -> Outcome:
        """What comes of a choice. Measured once, and computed from the first layer on that changed since the last."""
        choice = {name: choice[name] for name in self.layers}
        key = tuple(choice.values())
        if key not in self._outcomes:
            logits, y = self._landscape.scores(_schemes(choice)), self._landscape.y
            bits = {name: pair[0] for name, pair in choice.items()}
            calls = (replace(i, weight_bits=bits.get(_weight(i.name), i.weight_bits)) for i in self._calls)
            self._outcomes[key] = Outcome(
                choice,
                rate=budget.rate(bits, self.sizes),
                accuracy=100 * (logits.argmax(1) == y).sum().item() / len(y),
                loss=F.cross_entropy(logits, y).item(),
                weight_bytes=sum(bits[name] * size for name, size in self.sizes.items()) / 8,
                bit_operations=sum(i.bit_operations for i in calls),
            )
        return self._outcomes[key]

    @property
    def tried(self) -> list[Outcome]:
        """Every choice that was measured, in order."""
        return list(self._outcomes.values())

    @property
    def hmq(self) -> Outcome | None:
        """The record's selection on these weights and pictures: its bits and thresholds, without its fine-tuning."""
        return None if self.rival is None else self.evaluate(self.checked(self.rival))

    @property
    def references(self) -> dict[str, Outcome]:
        """The same bits everywhere, for each bit-width ("uniform 4"), and HMQ's selection ("HMQ")."""
        if not self._references:
            found = {f"uniform {b}": self.evaluate(self.fitting(dict.fromkeys(self.layers, b)))
                     for b in self.space.bits}  # fmt: skip
            self._references = found | ({"HMQ": self.hmq} if self.rival else {})
        return self._references

    def trust(self, references: Mapping[str, Outcome]) -> None:
        """Take references from a file of the same setting, which saves measuring them again."""
        self._references = dict(references)

    @property
    def x(self) -> Tensor:
        """The pictures."""
        return self._landscape.x

    def network(self, choice: Pairs) -> nn.Module:
        """A copy of the quantized network with a choice's schemes fixed: to look at, or to measure otherwise."""
        model = copy.deepcopy(self._landscape.model)
        for name, scheme in _schemes(self.checked(choice)).items():
            blocks(model)[name].fix(scheme)
        return model

    def forget(self) -> None:
        """Measure every choice anew, though from the first changed layer on: for those who measure the measuring."""
        self._outcomes = {tuple(o.choice.values()): o for o in self.references.values()}

    def greedy(self, target: float) -> Pairs:
        """The cheapest change per bit, one after the other, as if the rises each layer causes alone added up.

        `rivals.greedy` on sums of `rivals.alone`, measured on the few pictures: greedy on the loss itself would take
        hundreds of passes.
        """
        rises = rivals.alone(self._fewer, self.sizes, self.space)
        bits = rivals.greedy(lambda bits: sum(rises[n][b] for n, b in bits.items()), self.sizes, self.space, target)
        return self.fitting(bits)

    def changes(self, choice: Pairs, without: Collection[str] = ()) -> tuple[dict, dict]:
        """What the next lower and the next higher bit-width do to the loss on the few pictures, weight by weight.

        Each as {weight: (bits, change of the loss)}, but for the weights that cannot go there and those in `without`.
        """
        base, widths = self._fewer(_schemes(choice)), self.space.bits
        found = {-1: {}, 1: {}}
        for name in reversed(self.layers):  # from the end: what comes before a change is still known
            for step, row in found.items():
                at = widths.index(choice[name][0]) + step
                if 0 <= at < len(widths) and name not in without:
                    trial = choice | {name: self.pair(name, widths[at])}
                    row[name] = widths[at], self._fewer(_schemes(trial)) - base
        less, more = ({name: row[name] for name in self.layers if name in row} for row in found.values())
        return less, more


def _attached(network: nn.Module, x: Tensor, record: Record | None, weights: str) -> nn.Module:
    """A copy of the network with blocks, the activations' schemes fixed."""
    network = copy.deepcopy(network).eval()
    if record is None:
        model = attach(network, SearchSpace(), x[:2])
        calibrate(model, [x])
        for block in blocks(model, "activation").values():
            block.fix()
        return model.eval()
    if record.header.get("weights") != weights:
        raise ValueError("the record is of a search that began with other weights than this network's")
    space = SearchSpace(tuple(record.header["space"]["bits"]), record.header["space"]["thresholds"])
    model = attach(network, space, x[:2], hardware=record.header.get("hardware_mode", False))
    found, described = blocks(model), {t["name"]: t for t in record.tensors}
    if odd := sorted(found.keys() ^ described.keys()):
        raise ValueError(f"record and network do not have the same quantized tensors: {', '.join(odd[:4])}")
    for name, t in described.items():
        if t["kind"] != "weight":
            found[name].exponent.fill_(t["space"]["exponents"][0])
            found[name].bits.fill_(t["bits"])
            found[name].fix(Scheme(t["bits"], t["threshold_exponent"], t["signed"]))
    return model.eval()


def _schemes(choice: Mapping[str, tuple[int, int]]) -> dict[str, Scheme]:
    return {name: Scheme(bits, exponent, True) for name, (bits, exponent) in choice.items()}


def _weight(call: str) -> str:
    """The weight of a layer's call: "conv1.weight" of "conv1" and of "conv1:2"."""
    return f"{call.split(':')[0]}.weight"
