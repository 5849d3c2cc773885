"""Lesson 08, ImageNet: weights of an inverted residual, the compression of the rest, activation
bits,
peak memory.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from torch import nn

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points

BLOCKS = Cases("inputs", "outputs", "expansion", "kernel")
BLOCKS.add(2, 3, 2, 1)
BLOCKS.add(8, 4, 1, 3)
BLOCKS.add(16, 24, 6, 3)
BLOCKS.add(32, 16, 1, 3)
BLOCKS.add(40, 80, 6, 5)
BLOCKS.add(160, 320, 6, 3)


@check
def inverted(answer) -> Verdict:
    """Exercise 1: the weights of an inverted residual block: expansion, depthwise convolution,
    projection.

    # lesson 08 has a solution
    >>> checks.inverted(lambda inputs, outputs, expansion, kernel: ...).passed

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # A wrong answer from the weights of the three layers, of i, h (hidden) and o channels.
    def block(layers):
        def made(inputs, outputs, expansion, kernel):
            first, *others = layers(inputs, expansion * inputs, outputs, kernel)
            if expansion == 1:
                first = 0
            return first, *others

        return made

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The first layer, and the depthwise one in the middle.
    @faults.says("With an expansion of 1 there is no first layer: 0 weights.")
    def _(inputs, outputs, expansion, kernel):
        hidden = expansion * inputs
        return inputs * hidden, hidden * kernel**2, hidden * outputs

    @faults.says(
        "That is a full convolution in the middle. A depthwise one has a single filter for each "
        "channel."
    )
    @block
    def _(i, h, o, k):
        return i * h, h * h * k * k, h * o

    @faults.says("A depthwise filter is a square: kernel x kernel weights, not kernel.")
    @block
    def _(i, h, o, k):
        return i * h, h * k, h * o

    # Kernel and channels of the other layers.
    @faults.says(
        "The pointwise layers have 1x1 kernels: `kernel` belongs to the depthwise layer alone."
    )
    @block
    def _(i, h, o, k):
        return i * h * k * k, h * k * k, h * o * k * k

    @faults.says(
        "Depthwise layer and projection work on the expanded channels, expansion x inputs."
    )
    @block
    def _(i, h, o, k):
        return i * h, i * k * k, i * o

    # The right numbers in another order, or with biases.
    @faults.says("The layers are in another order: expansion, depthwise, projection.")
    @block
    def _(i, h, o, k):
        return i * h, h * o, h * k * k

    @faults.says("These convolutions have no biases: batch norm follows each of them.")
    @block
    def _(i, h, o, k):
        return (i + 1) * h, h * (k * k + 1), (h + 1) * o

    # The drawing names each case by its channels.
    def label(case):
        return f"{case['inputs']} to {case['outputs']}, x{case['expansion']}"

    draw = points("weights of the block", label)
    return compare(answer, _inverted, BLOCKS, faults, draw=draw)


def _inverted(inputs, outputs, expansion, kernel) -> tuple[int, int, int]:
    """Counted on PyTorch's own layers."""
    # The meta device holds shapes alone, so that no weight is made.
    hidden = expansion * inputs
    expand = nn.Conv2d(inputs, hidden, 1, device="meta")
    depthwise = nn.Conv2d(hidden, hidden, kernel, groups=hidden, device="meta")
    project = nn.Conv2d(hidden, outputs, 1, device="meta")
    # Without expansion the first layer is not there.
    first = expand.weight.numel() if expansion > 1 else 0
    return first, depthwise.weight.numel(), project.weight.numel()


KEPT = Cases("rate", "elements", "kept", "bits")
KEPT.add(8.0, 1000, 0, 8)
KEPT.add(8.0, 1000, 100, 8)
KEPT.add(8.0, 1000, 500, 4)
KEPT.add(8.0, 1000, 500, 8)
KEPT.add(14.5, 3_469_760, 64_416, 8)
KEPT.add(8.0, 25_502_912, 2_048_000, 32)
KEPT.add(16.0, 25_502_912, 2_048_000, 32)
KEPT.add(4.0, 5_236_192, 1_280_000, 2)


@check
def rest_rate(answer) -> Verdict:
    """Exercise 2: the compression that the other weights need where some of them keep their bits.

    >>> checks.rest_rate(lambda rate, elements, kept, bits: rate).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The bits that are left for the other weights.
    def left(rate, elements, kept, bits):
        return 32 * elements / rate - kept * bits

    # Without room no compression is enough.
    def guarded(made):
        return lambda **case: made(**case) if left(**case) > 0 else math.inf

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The given number, or no room at all.
    @faults.says(
        "That is the compression you were given: the kept weights take more or less than it."
    )
    def _(rate, **_):
        return rate

    @faults.says(
        "Where the weights that are kept take all the room, or more, no compression will do: "
        "return infinity."
    )
    def _(rate, elements, kept, bits):
        room = left(rate, elements, kept, bits)
        if room == 0:
            return math.inf
        return 32 * (elements - kept) / room

    # The other weights are counted in another way.
    @faults.says(
        "The room is what is left, but it is for the other weights alone: above, too, take the "
        "kept ones away."
    )
    @guarded
    def _(**case):
        return 32 * case["elements"] / left(**case)

    @faults.says("Those are the mean bits of the other weights; the compression is 32 over them.")
    def _(rate, elements, kept, bits):
        room = left(rate, elements, kept, bits)
        return max(0, room) / (elements - kept)

    @faults.says(
        "Rates do not average like that. Count the bits that all weights may take, then those of "
        "the kept ones."
    )
    def _(rate, elements, kept, bits):
        return (rate * elements - kept * 32 / bits) / (elements - kept)

    # The kept weights are counted in another way.
    @faults.says("Take away the bits of the kept weights: kept x bits, not their number.")
    def _(rate, elements, kept, bits):
        return 32 * (elements - kept) / (32 * elements / rate - kept)

    @faults.says("The kept weights have the number of bits that was given, not always 32.")
    def _(rate, elements, kept, bits):
        return _rest_rate(rate, elements, kept, 32)

    # The first difference from the right results is what the message tells.
    return compare(answer, _rest_rate, KEPT, faults, tolerance=1e-6, draw=_rates)


def _rest_rate(rate, elements, kept, bits) -> float:
    """In whole numbers."""
    room = Fraction(32 * elements) / Fraction(rate) - kept * bits
    return float(32 * (elements - kept) / room) if room > 0 else math.inf


def _rates(cases, wanted, given) -> plots.Drawing:
    """As `points` draws them, with what is infinite at the upper edge."""
    # What is infinite is drawn at an upper edge.
    top = 1.3 * max(w for w in wanted if math.isfinite(w))

    # What is no number is drawn at 0.
    def low(value):
        value = float(value)
        if math.isnan(value):
            return 0.0
        return min(top, max(0.0, value))

    # Then all is drawn as numbers are.
    def label(case):
        return f"{case['kept']:,} at {case['bits']}"

    draw = points(f"compression of the others\n(infinite: {top:.0f})", label)
    right = [low(value) for value in wanted]
    yours = [low(value) for value in given]
    return draw(cases, right, yours)


def _tensors(seed: int, count: int, rate: float) -> dict:
    random = np.random.default_rng(seed)
    sizes = 49 * random.integers(4, 200, count)
    return {"sizes": sizes.tolist(), "rate": rate}


SIZES = Cases("sizes", "rate")
SIZES.add([100], 8.0)
SIZES.add([100, 50], 8.0)
SIZES.add([100], 2.0)
SIZES.add([100], 5.0)
SIZES.add([100], 32.0)
SIZES.add([50, 70, 100, 64], 8.0)
SIZES.add([401_408, 802_816, 200_704, 401_408], 16.0)
SIZES.add([16_384, 16_384, 8192, 4096], 32.0)
SIZES.append(_tensors(1, 8, 8.0))
SIZES.append(_tensors(2, 8, 6.0))
SIZES.append(_tensors(3, 8, 20.0))


@check
def activation_bits(answer) -> Verdict:
    """Exercise 3: the bits of each activation from a target of the largest, by the paper's
    rule.

    >>> checks.activation_bits(lambda sizes, rate: [8] * len(sizes)).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The rule with one of its parts replaced.
    def rule(whole=math.floor, low=4, high=8, reference=max):
        def bits(sizes, rate):
            room = 32 * reference(sizes)
            return [min(high, max(low, whole(room / (rate * size)))) for size in sizes]

        return bits

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes of the rounding.
    faults.add(
        "Round down: half a bit too many is more memory than the target allows.", rule(whole=round)
    )

    faults.add(
        "Round down, not up: one bit too many is more memory than the target allows.",
        rule(whole=math.ceil),
    )

    faults.add("The bits are whole numbers: round down.", rule(whole=float))

    # Mistakes of the limits.
    faults.add("No tensor has more than 8 bits.", rule(high=math.inf))

    faults.add("No tensor has fewer than 4 bits.", rule(low=0))

    faults.add("No tensor has fewer than 4 bits.", rule(low=1))

    # The tensor that sets the room is another one.
    @faults.says(
        "That divides each tensor's own 32 bits by the compression. Only what is large must "
        "shrink: "
        "compare with the largest tensor."
    )
    def _(sizes, rate):
        bits = math.floor(32 / rate)
        return [min(8, max(4, bits))] * len(sizes)

    faults.add(
        "The room is set by the largest tensor, not by all of them together.", rule(reference=sum)
    )

    faults.add("The room is set by the largest tensor, not by their mean.", rule(reference=np.mean))

    faults.add(
        "The room is set by the largest tensor, not by the first.",
        rule(reference=lambda sizes: sizes[0]),
    )

    # A fraction is turned round.
    @faults.says("The compression is inverted: a higher compression leaves less room.")
    def _(sizes, rate):
        room = 32 * max(sizes) * rate
        return [min(8, max(4, math.floor(room / size))) for size in sizes]

    @faults.says("The sizes are inverted: the larger a tensor, the fewer bits.")
    def _(sizes, rate):
        room = rate * max(sizes)
        return [min(8, max(4, math.floor(32 * size / room))) for size in sizes]

    # The drawing names each case by tensors and compression.
    def label(case):
        return f"{len(case['sizes'])} tensors, compression {case['rate']:g}"

    draw = points("bits, all tensors together", label)
    return compare(answer, _activation_bits, SIZES, faults, draw=draw)


def _activation_bits(sizes, rate) -> list[int]:
    """By trying them: the most bits from 4 to 8 with which a tensor takes no more than the largest
    may; else 4.
    """
    room = Fraction(32 * max(sizes)) / Fraction(rate)
    found = []
    for size in sizes:
        fitting = [bits for bits in range(4, 9) if bits * size <= room]
        found.append(max(fitting, default=4))
    return found


CHAINS = Cases("sizes", "bits")
CHAINS.add([8, 8], [8, 8])
CHAINS.add([100, 200, 100], [8, 4, 8])
CHAINS.add([100, 400, 50, 300, 300], [8, 4, 8, 4, 4])
CHAINS.add([400, 500, 10, 300, 300], [4, 4, 8, 8, 8])
CHAINS.add([1000, 10, 800, 800, 20], [8, 8, 4, 8, 8])
CHAINS.add([64, 512, 512, 64, 900, 16], [8, 4, 6, 8, 4, 8])
CHAINS.add([150_528, 401_408, 401_408, 802_816, 200_704], [8, 8, 8, 4, 8])


@check
def peak_bytes(answer) -> Verdict:
    """Exercise 4: the bytes that the activations of a chain of layers need, input and output of a
    layer at once.

    >>> checks.peak_bytes(lambda sizes, bits: max(n * b for n, b in zip(sizes, bits)) / 8).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The largest sum of neighbours, with another count or unit.
    def spans(count, unit=8, width=None):
        def made(sizes, bits):
            taken = np.multiply(sizes, bits if width is None else width) / unit
            starts = range(max(1, len(taken) - count + 1))
            return max(sum(taken[k : k + count]) for k in starts)

        return made

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Other tensors are taken to be there at the same time.
    faults.add(
        "That is the largest tensor alone. While a layer runs, its input and output are both "
        "there.",
        spans(1),
    )

    faults.add("Those are bits; a byte has 8 of them.", spans(2, unit=1))

    faults.add(
        "That keeps three tensors at a time. In a chain, what came before a layer's input is "
        "needed no more.",
        spans(3),
    )

    @faults.says(
        "That keeps every tensor to the end. Only the input and the output of the layer that "
        "runs are needed."
    )
    def _(sizes, bits):
        return np.dot(sizes, bits) / 8

    @faults.says(
        "The two largest tensors need not be there at the same time: take neighbours, output k "
        "is input k + 1."
    )
    def _(sizes, bits):
        taken = np.sort(np.multiply(sizes, bits))
        return taken[-2:].sum() / 8

    # The bits or the order of the steps are other ones.
    faults.add("That takes every tensor for an 8-bit one.", spans(2, width=8))

    faults.add("That takes every tensor for a float one.", spans(2, width=32))

    @faults.says(
        "First bytes, then the largest: the pair with the most elements need not be that with "
        "the most bytes."
    )
    def _(sizes, bits):
        pairs = np.add(sizes[:-1], sizes[1:])
        k = int(pairs.argmax())
        return np.dot(sizes[k : k + 2], bits[k : k + 2]) / 8

    # The drawing names each case by its length.
    draw = points("bytes", lambda case: f"{len(case['sizes'])} tensors")
    return compare(answer, _peak_bytes, CHAINS, faults, tolerance=1e-9, draw=draw)


def _peak_bytes(sizes, bits) -> float:
    """Run the chain: write an output, look how much is there, free the input."""
    there = 0
    peak = 0
    for k, (size, width) in enumerate(zip(sizes, bits, strict=True)):
        there += size * width
        peak = max(peak, there) if k else 0
        if k:
            there -= sizes[k - 1] * bits[k - 1]
    return peak / 8
