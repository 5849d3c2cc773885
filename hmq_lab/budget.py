"""Sizes and rates: what a choice of bits costs, the loss term that pays for it, activation bits from a target."""

from __future__ import annotations

import functools
import itertools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.placement import Placement, blocks, placements
from hmq_lab.quantizer import Scheme, check_bits, quantize

FLOAT_BITS = 32


@dataclass(frozen=True)
class Target:
    """What the search must reach: a compression rate of the weights, and one of the activations or their bit-width.

    >>> Target(weights=8)                          # 4 bits a weight on average; activations of 8 bits
    Target(weights=8.0, activations=None, activation_bits=8)
    >>> Target(weights=14, activations=8).activation_bits is None
    True

    weights: 32 bits over the mean bits of a quantized weight (WCR). activations: the largest float tensor over the
    largest quantized one (ACR); the bits of each tensor follow from it, see `activation_bits`.
    Raises ValueError naming the value and what is allowed.
    """

    weights: float = 8.0
    activations: float | None = None
    activation_bits: int | None = None

    def __post_init__(self):
        for name in ("weights", "activations"):
            rate = getattr(self, name)
            if rate is None and name == "activations":
                continue
            if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 1 <= rate <= FLOAT_BITS:
                raise ValueError(f"a target rate lies between 1 and {FLOAT_BITS}, got {name}={rate!r}")
            object.__setattr__(self, name, float(rate))
        if self.activations is not None and self.activation_bits is not None:
            raise ValueError(
                "a target names activations (a rate) or activation_bits, not both: "
                f"got {self.activations!r} and {self.activation_bits!r}"
            )
        if self.activation_bits is not None:
            check_bits(self.activation_bits)
        elif self.activations is None:
            object.__setattr__(self, "activation_bits", 8)

    def check_reachable(self, space: SearchSpace) -> None:
        """Raise ValueError if no choice from the space reaches the rate of the weights."""
        largest = FLOAT_BITS / min(space.bits)
        if self.weights > largest:
            said = f"a weight rate of {self.weights:g} cannot be reached with bits {space.bits}"
            raise ValueError(f"{said}: the largest is {largest:g}")

    def reached(self, rates: Mapping[str, float]) -> bool:
        """Whether the weights' rate of a selection is at or above the target's.

        The activations' rate is not compared: the paper's rule keeps 4 bits, so that above a rate of 8 it asks for ever
        more tensors of 4 bits (32 makes all of ResNet-20's so) while the largest can shrink no further.
        """
        return rates["weights"] >= self.weights

    def bits_of(self, activations: Mapping[str, int]) -> dict[str, int]:
        """The bit-width of each activation tensor, given how many elements of one picture it has."""
        if self.activation_bits is not None:
            return dict.fromkeys(activations, self.activation_bits)
        return activation_bits(activations, self.activations)


def activation_bits(sizes: Mapping[str, int], rate: float) -> dict[str, int]:
    """The paper's rule: bits = floor(32 * largest size / (rate * size)), kept within 4 and 8.

    >>> activation_bits({"a": 16384, "b": 8192, "c": 4096}, rate=8)     # the three stages of ResNet-20
    {'a': 4, 'b': 8, 'c': 8}
    >>> activation_bits({"a": 16384, "b": 8192, "c": 4096}, rate=32)
    {'a': 4, 'b': 4, 'c': 4}

    sizes: elements of one picture. Only what stands in the way of the peak memory gets fewer bits, so "a rate of 8" is
    far from "4-bit activations": look at the histogram. Source: the authors' code.
    """
    largest = max(sizes.values(), default=1)
    return {n: min(8, max(4, math.floor(FLOAT_BITS * largest / (rate * size)))) for n, size in sizes.items()}


def weight_sizes(model: nn.Module) -> dict[str, int]:
    """Elements of each quantized weight of an attached network."""
    return {p.name: p.size for p in placements(model) if p.quantized and p.kind == "weight"}


def activation_sizes(model: nn.Module) -> dict[str, int]:
    """Elements, for one picture, of each quantized activation of an attached network."""
    return {p.name: p.size for p in placements(model) if p.quantized and p.kind == "activation"}


def rate(bits: Mapping[str, float | Tensor], sizes: Mapping[str, int]):
    """32 bits over the mean bits of an element: a tensor if the bits are.

    >>> rate({"a": 8, "b": 2}, {"a": 100, "b": 300})
    9.142857142857142
    """
    return FLOAT_BITS * sum(sizes.values()) / sum(bits[name] * size for name, size in sizes.items())


def expected_rate(model: nn.Module) -> Tensor:
    """The compression rate of the weights under the blocks' expected bits, differentiable."""
    found = blocks(model, "weight")
    return rate({name: block.expected_bits() for name, block in found.items()}, weight_sizes(model))


def hinge(rate: Tensor | float, target: float) -> Tensor | float:
    """The loss term: ((target - rate) / target)^2 below the target, 0 above it.

    >>> hinge(4.0, 8.0), hinge(9.0, 8.0)
    (0.25, 0.0)
    """
    short = (target - rate) / target
    return (short.clamp(min=0) if isinstance(short, Tensor) else max(short, 0.0)) ** 2


def weight_bits(model: nn.Module) -> dict[str, int]:
    """The selected bit-width of each weight."""
    return {name: block.scheme.bits for name, block in blocks(model, "weight").items()}


@dataclass(frozen=True)
class Rates:
    """What a selection saves. Say which one you mean: they differ.

    weights: the quantized tensors alone (the WCR of the paper). all_weights: with the weights left float.
    checkpoint: with every parameter and buffer of the network. activations: the ACR.
    """

    weights: float
    all_weights: float
    checkpoint: float
    activations: float


def rates(model: nn.Module) -> Rates:
    """The compression rates of an attached network's selection, as `Rates`.

    >>> rates(attach(model, SearchSpace(), sample)).weights       # before a search: everything at 8 bits
    4.0
    """
    sizes, bits = weight_sizes(model), weight_bits(model)
    if not sizes:
        raise ValueError("the network has no quantized weight, of a convolution or fully connected layer: no rate")
    quantized, packed = sum(sizes.values()), sum(bits[name] * size for name, size in sizes.items())
    floats = [p for p in placements(model) if p.kind == "parameter"]
    float_weights = sum(p.size for p in floats if len(p.shape) > 1)
    buffers = [b for name, b in model.named_buffers() if not name.startswith("hmq.") and "parametrizations" not in name]
    rest = FLOAT_BITS * sum(p.size for p in floats) + sum(8 * b.element_size() * b.numel() for b in buffers)
    peak = max((scheme.bits * place.size for place, scheme in schemes(model) if place.kind == "activation"), default=0)
    largest = max(activation_sizes(model).values(), default=0)
    return Rates(
        weights=FLOAT_BITS * quantized / packed,
        all_weights=FLOAT_BITS * (quantized + float_weights) / (packed + FLOAT_BITS * float_weights),
        checkpoint=(FLOAT_BITS * quantized + rest) / (packed + rest),
        activations=FLOAT_BITS * largest / peak if peak else 1.0,
    )


@dataclass(frozen=True)
class Move:
    """One step of `repair`: this weight goes from so many bits to so many others, giving up so much probability."""

    name: str
    before: int
    after: int
    probability: float


def repair(model: nn.Module, target: float, refill: bool = False) -> list[Move]:
    """Fix every block's scheme: the selection, with bits taken from the weights where it misses the target rate.

    The loss acts on expected bits, so the most probable bits can miss the target. While they do, the weight and the
    lower bit-width are taken that give up the least probability per bit gained,

        (p(b) - p(b')) / min(size * (b - b'), bits still missing)

    with p the marginal over bit-widths; of two as good the one that saves less. The threshold is the most probable one
    given the bits. With `refill`, what is then saved beyond the target is given back, one bit-width at a time: see
    `refill`. Returns the moves, in order. Raises ValueError if even the fewest bits miss the target.
    The rule is ours; the paper has none.
    """
    found, sizes = blocks(model, "weight"), weight_sizes(model)
    marginals = {
        name: dict(zip(block.bits.tolist(), block.probabilities().sum(1).tolist(), strict=True))
        for name, block in found.items()
    }
    bits = {name: block.scheme.bits for name, block in found.items()}
    moves = []

    while rate(bits, sizes) < target:
        # Every weight may go down to every lower bit-width: its price, what it saves, the move.
        missing = sum(bits[name] * size for name, size in sizes.items()) - FLOAT_BITS * sum(sizes.values()) / target
        options = []
        for name, now in bits.items():
            for lower in (b for b in marginals[name] if b < now):
                saved = sizes[name] * (now - lower)
                move = Move(name, now, lower, marginals[name][now] - marginals[name][lower])
                options.append((move.probability / min(saved, missing), saved, move))
        if not options:
            raise ValueError(f"a weight rate of {target:g} cannot be reached: the largest is {rate(bits, sizes):g}")
        # The least probability per bit; of two as good, the one that saves less.
        move = min(options, key=lambda option: option[:2])[2]
        moves.append(move)
        bits[move.name] = move.after
    chosen = {name: block.select(bits[name]) for name, block in found.items()}

    # What is saved beyond the target goes to the weights that gain most by it.
    if refill:
        for name, scheme in refilled(model, bits, target).items():
            steps = [b for b in marginals[name] if bits[name] <= b <= scheme.bits]
            for now, higher in itertools.pairwise(steps):
                moves.append(Move(name, now, higher, marginals[name][now] - marginals[name][higher]))
            chosen[name] = scheme

    for name, block in blocks(model).items():
        changed = name in chosen and chosen[name].bits != block.scheme.bits
        block.fix(chosen[name] if changed else block.scheme)
    return moves


def refilled(model: nn.Module, bits: Mapping[str, int], target: float) -> dict[str, Scheme]:
    """Schemes with more bits, for the weights that gain most by what a selection saves beyond the target.

    As long as one fits within the target, the weight whose quantization error falls most per bit gets the next
    bit-width of its space:

        (e(b) - e(b')) / (size * (b' - b)),    e(b) = min over thresholds of |w - Q(w)|^2 / |w|^2

    Its threshold is the one of the smallest error, for the search has long left these bit-widths: their logits say
    nothing. Returns the schemes of the weights that got more bits. The rule is ours; the paper has none.

    >>> refilled(model, weight_bits(model), target=14.0)
    {'layer1.0.conv1.weight': Scheme(bits=3, threshold_exponent=-1, signed=True)}
    """
    sizes, bits = weight_sizes(model), dict(bits)
    given: dict[str, Scheme] = {}
    found = blocks(model, "weight")
    fits = {name: functools.cache(functools.partial(closest, block, original(model, name)))
            for name, block in found.items()}  # fmt: skip
    while True:
        options = []
        for name, now in bits.items():
            higher = min((b for b in found[name].space.bits if b > now), default=None)
            if higher is None or rate(bits | {name: higher}, sizes) < target:
                continue
            cost = sizes[name] * (higher - now)
            gain = fits[name](now)[1] - fits[name](higher)[1]
            options.append((gain / cost, -cost, name, higher))
        if not options:
            return given
        _, _, name, higher = max(options, key=lambda option: option[:2])
        bits[name], given[name] = higher, fits[name](higher)[0]


def closest(block: HMQ, weight: Tensor, bits: int) -> tuple[Scheme, float]:
    """The scheme with so many bits, of a block's, that is closest to a weight, and its |w - Q(w)|^2 / |w|^2."""
    weight = weight.detach().double()
    power = weight.square().sum().item() or 1.0
    options = []
    for exponent in block.exponents.tolist():
        scheme = Scheme(bits, exponent, block.signed)
        quantized = quantize(weight, scheme.step, scheme.threshold, block.signed)
        options.append(((quantized - weight).square().sum().item() / power, scheme))
    error, scheme = min(options, key=lambda option: option[0])
    return scheme, error


def original(model: nn.Module, name: str) -> Tensor:
    """The float weight behind the block of that name."""
    module, _, attribute = name.rpartition(".")
    return model.get_submodule(module).parametrizations[attribute].original


def schemes(model: nn.Module) -> list[tuple[Placement, Scheme]]:
    """Each quantized tensor with its scheme, weights first."""
    found = blocks(model)
    return [(place, found[place.name].scheme) for place in placements(model) if place.quantized]
