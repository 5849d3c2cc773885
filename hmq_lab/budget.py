"""What a choice of bits costs: sizes, compressions, the price of missing the target, the repair.

>>> compression({"a": 8, "b": 2}, {"a": 100, "b": 300})  # a compression: 32 bits over the mean bits
9.142857142857142
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.placement import Placement, blocks, placements
from hmq_lab.quantizer import Scheme, check_bits, quantize

FLOAT_BITS = 32
NO_WEIGHT = (
    "the network has no quantized weight, of a convolution or fully connected layer: no compression"
)


# ------------------------------------------------------------------------------ the target


@dataclass(frozen=True)
class Target:
    """What a search must reach: a compression of the weights, and bits for the activations.

    >>> Target(weights=8)                          # 4 bits a weight on average
    Target(weights=8.0, activations=None, activation_bits=8)
    >>> Target(weights=14, activations=8).activation_bits is None
    True

    Args:
        weights: 32 bits over the mean bits of a quantized weight (the paper's WCR).
        activations: the largest float tensor over the largest quantized one (ACR); the bits of
            each tensor follow from it, see `activation_bits`.
        activation_bits: the bits of every activation; 8 where neither is given.

    Raises:
        ValueError: names the value and what is allowed.
    """

    weights: float = 8.0
    activations: float | None = None
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        # Compressions: from 1 (float) to 32 (one bit).
        given = {"weights": self.weights}
        if self.activations is not None:
            given["activations"] = self.activations
        for name, value in given.items():
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not is_number or not 1 <= value <= FLOAT_BITS:
                raise ValueError(f"a target lies between 1 and {FLOAT_BITS}, got {name}={value!r}")
            object.__setattr__(self, name, float(value))

        # The activations have one or the other.
        if self.activations is not None and self.activation_bits is not None:
            raise ValueError(
                "a target names activations (a compression) or activation_bits, not both: "
                f"got {self.activations!r} and {self.activation_bits!r}"
            )
        if self.activation_bits is not None:
            check_bits(self.activation_bits)
        elif self.activations is None:
            object.__setattr__(self, "activation_bits", 8)

    def check_reachable(self, space: SearchSpace) -> None:
        """Raise ValueError if no choice from the space reaches the compression of the weights."""
        largest = FLOAT_BITS / min(space.bits)
        if self.weights > largest:
            raise ValueError(
                f"a compression of the weights of {self.weights:g} cannot be reached "
                f"with bits {space.bits}: the largest is {largest:g}"
            )

    def reached(self, rates: Mapping[str, float]) -> bool:
        """Whether a selection's compression of the weights is at or above the target's.

        That of the activations is not compared. The paper's rule keeps 4 bits: above 8 it asks for
        ever more tensors of 4 bits (32 makes all of ResNet-20's so), while the largest can shrink
        no further.
        """
        return rates["weights"] >= self.weights

    def bits_of(self, activations: Mapping[str, int]) -> dict[str, int]:
        """The bit-width of each activation tensor, given its elements for one image.

        `runs.runner` calls it once, after `attach`, and hands the result to `set_activation_bits`.
        """
        if self.activations is None:
            assert self.activation_bits is not None
            return dict.fromkeys(activations, self.activation_bits)
        return activation_bits(activations, self.activations)


def activation_bits(sizes: Mapping[str, int], rate: float) -> dict[str, int]:
    """The paper's rule: bits = floor(32 * largest size / (rate * size)), kept within 4 and 8.

    >>> activation_bits({"a": 16384, "b": 8192, "c": 4096}, rate=8)  # ResNet-20's three stages
    {'a': 4, 'b': 8, 'c': 8}
    >>> activation_bits({"a": 16384, "b": 8192, "c": 4096}, rate=32)
    {'a': 4, 'b': 4, 'c': 4}

    Args:
        sizes: the elements of each activation for one image.
        rate: the wanted compression of the activations.

    Only what stands in the way of the peak memory gets fewer bits. So "a compression of 8" is far
    from "4-bit activations": look at the histogram. Source: the authors' code.
    """
    largest = max(sizes.values(), default=1)
    bits = {}
    for name, size in sizes.items():
        wanted = math.floor(FLOAT_BITS * largest / (rate * size))
        bits[name] = min(8, max(4, wanted))
    return bits


# ------------------------------------------------------------------------ sizes and compressions


def weight_sizes(model: nn.Module) -> dict[str, int]:
    """Elements of each quantized weight of an attached network."""
    return _sizes(model, "weight")


def activation_sizes(model: nn.Module) -> dict[str, int]:
    """Elements, for one image, of each quantized activation of an attached network."""
    return _sizes(model, "activation")


def _sizes(model: nn.Module, kind: str) -> dict[str, int]:
    found = (place for place in placements(model) if place.quantized and place.kind == kind)
    return {place.name: place.size for place in found}


def compression(bits: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    """The compression: 32 bits over the mean bits of an element. A tensor if the bits are.

    >>> compression({"a": 8, "b": 2}, {"a": 100, "b": 300})
    9.142857142857142
    """
    packed = sum(bits[name] * size for name, size in sizes.items())
    return FLOAT_BITS * sum(sizes.values()) / packed


def expected_compression(model: nn.Module) -> Tensor:
    """The compression of the weights under the blocks' expected bits, differentiable."""
    found = blocks(model, "weight")
    if not found:
        raise ValueError(NO_WEIGHT)
    expected = {name: block.expected_bits() for name, block in found.items()}
    return compression(expected, weight_sizes(model))


def hinge(compression: Tensor | float, target: float) -> Tensor | float:
    """The price of missing the target: ((target - R) / target)^2 below it, 0 above it.

    >>> hinge(4.0, 8.0), hinge(9.0, 8.0)
    (0.25, 0.0)

    Args:
        compression: R, of the weights.
        target: the compression to reach.
    """
    # Relative to the target, so that gamma serves for all targets.
    short = (target - compression) / target
    if isinstance(short, Tensor):
        return short.clamp(min=0) ** 2
    return max(short, 0.0) ** 2


def weight_bits(model: nn.Module) -> dict[str, int]:
    """The selected bit-width of each weight."""
    return {name: block.scheme.bits for name, block in blocks(model, "weight").items()}


def schemes(model: nn.Module) -> list[tuple[Placement, Scheme]]:
    """Each quantized tensor with its scheme, weights first."""
    found = blocks(model)
    return [(place, found[place.name].scheme) for place in placements(model) if place.quantized]


@dataclass(frozen=True)
class Rates:
    """The compressions of a selection. Say which one you mean: they differ.

    Args:
        weights: of the quantized weights alone (the paper's WCR).
        all_weights: with the weights that stay float.
        checkpoint: with every parameter and buffer of the network.
        activations: of the largest activation (ACR).
    """

    weights: float
    all_weights: float
    checkpoint: float
    activations: float


def rates(model: nn.Module) -> Rates:
    """The compressions of an attached network's selection.

    >>> from hmq_lab import attach, models
    >>> model = attach(models.build("tiny_resnet8"), torch.rand(8, 3, 32, 32))
    >>> rates(model).weights  # before a search all weights have 8 bits
    4.0

    Args:
        model: an attached network.

    Raises:
        ValueError: for a network without a quantized weight.
    """
    # What is quantized.
    sizes, bits = weight_sizes(model), weight_bits(model)
    if not sizes:
        raise ValueError(NO_WEIGHT)
    quantized = sum(sizes.values())
    packed = sum(bits[name] * size for name, size in sizes.items())

    # What is not quantized, in elements and in bits.
    floats = [place for place in placements(model) if place.kind == "parameter"]
    float_weights = sum(place.size for place in floats if len(place.shape) > 1)
    buffer_bits = 0
    for name, buffer in model.named_buffers():
        of_block = name.startswith("hmq.") or "parametrizations" in name
        if not of_block:
            buffer_bits += 8 * buffer.element_size() * buffer.numel()
    rest = FLOAT_BITS * sum(place.size for place in floats) + buffer_bits

    # The largest activation, float and quantized.
    largest = max(activation_sizes(model).values(), default=0)
    peak = 0
    for place, scheme in schemes(model):
        if place.kind == "activation":
            peak = max(peak, scheme.bits * place.size)

    float_bits = FLOAT_BITS * float_weights
    return Rates(
        weights=FLOAT_BITS * quantized / packed,
        all_weights=(FLOAT_BITS * quantized + float_bits) / (packed + float_bits),
        checkpoint=(FLOAT_BITS * quantized + rest) / (packed + rest),
        activations=FLOAT_BITS * largest / peak if peak else 1.0,
    )


# ------------------------------------------------------------------------------ the repair


@dataclass(frozen=True)
class Move:
    """One step of `repair`: a weight gets the next bit-width of its space, fewer bits or more.

    Args:
        name: of the weight.
        before: its bits before the step.
        after: its bits after the step.
        error: how much its relative quantization error rises; negative where it falls.
    """

    name: str
    before: int
    after: int
    error: float


def repair(model: nn.Module, target: float, refill: bool = False) -> list[Move]:
    """Fix every block's scheme: the selection, or fewer bits where it misses the target.

    >>> moves = repair(model, target=14.0)

    The loss acts on expected bits, so the most probable bits can miss the target. While they do,
    one weight goes down to the next bit-width of its space: the one whose quantization error rises
    least for each bit that is still missing:

        (e(b') - e(b)) / min(size * (b - b'), bits still missing)
        e(b) = min over thresholds of |w - Q(w)|^2 / |w|^2

    Then, with `refill`, what is saved beyond the target is given back. As long as one fits within
    the target, the weight whose error falls most for each bit goes up to the next bit-width:

        (e(b) - e(b')) / (size * (b' - b))

    A weight that ends with other bits than the selected ones gets the threshold of the smallest
    error. The logits cannot choose it: the search has long left these bit-widths. Both rules are
    ours; the paper has none.

    Args:
        model: an attached network.
        target: the compression of the weights to reach.
        refill: give back what is saved beyond the target.

    Returns:
        The steps in their order: first those down, then those up.

    Raises:
        ValueError: no weight has a block, or even the fewest bits miss the target; nothing is
            changed then.
    """
    found, sizes = blocks(model, "weight"), weight_sizes(model)
    if not found:
        raise ValueError(NO_WEIGHT)
    selected = {name: block.scheme for name, block in found.items()}
    bits = {name: scheme.bits for name, scheme in selected.items()}
    allowed = FLOAT_BITS * sum(sizes.values()) / target
    smallest = {name: min(block.space.bits) for name, block in found.items()}
    if compression(smallest, sizes) < target:
        largest = compression(smallest, sizes)
        raise ValueError(
            f"a compression of the weights of {target:g} cannot be reached: "
            f"the largest is {largest:g}"
        )

    @functools.cache
    def fit(name: str, width: int) -> tuple[Scheme, float]:
        return closest(found[name], original(model, name), width)

    def steps(direction: int) -> Iterator[Move]:
        # Every weight's next bit-width in this direction, where there is one.
        for name, now in bits.items():
            widths = sorted(found[name].space.bits)
            place = widths.index(now) + direction
            if 0 <= place < len(widths):
                after = widths[place]
                yield Move(name, now, after, fit(name, after)[1] - fit(name, now)[1])

    def cost(move: Move) -> int:
        return sizes[move.name] * (move.after - move.before)

    # Down, until the target is reached. Of two steps as good, the one that saves less.
    moves = []
    while compression(bits, sizes) < target:
        missing = sum(bits[name] * size for name, size in sizes.items()) - allowed
        options = [
            (move.error / min(-cost(move), missing), -cost(move), move) for move in steps(-1)
        ]
        move = min(options, key=lambda option: option[:2])[-1]
        bits[move.name] = move.after
        moves.append(move)

    # Up, as long as a step fits. Of two as good, the one that costs less.
    while refill:
        options = []
        for move in steps(+1):
            if compression(bits | {move.name: move.after}, sizes) >= target:
                options.append((move.error / cost(move), cost(move), move))
        if not options:
            break
        move = min(options, key=lambda option: option[:2])[-1]
        bits[move.name] = move.after
        moves.append(move)

    # Every block is fixed, the activations' too.
    for name, block in blocks(model).items():
        is_changed = name in bits and bits[name] != selected[name].bits
        block.fix(fit(name, bits[name])[0] if is_changed else block.scheme)
    return moves


def closest(block: HMQ, weight: Tensor, bits: int) -> tuple[Scheme, float]:
    """The scheme with so many bits, of a block's, that is closest to a weight.

    Returns:
        The scheme, and its relative error |w - Q(w)|^2 / |w|^2.
    """
    # Relative to the weight's power, so that tensors compare.
    weight = weight.detach().double()
    power = weight.square().sum().item() or 1.0
    # Every threshold of the block is tried.
    options = []
    for exponent in block.exponents.tolist():
        scheme = Scheme(bits, exponent, block.signed)
        quantized = quantize(weight, scheme.step, scheme.threshold, block.signed)
        error = (quantized - weight).square().sum().item()
        options.append((error / power, scheme))
    error, scheme = min(options, key=lambda option: option[0])
    return scheme, error


def original(model: nn.Module, name: str) -> Tensor:
    """The float weight behind the block of that name."""
    module, _, attribute = name.rpartition(".")
    parametrizations: Any = model.get_submodule(module).parametrizations
    return parametrizations[attribute].original
