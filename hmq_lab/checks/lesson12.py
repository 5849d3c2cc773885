"""Lesson 12, beat the search: what beating means, the cheapest bit, what bits cost at run time."""

from __future__ import annotations

import numpy as np

from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points

# (compression, accuracy) of one's own choice and of the other.
PAIRS = Cases("mine", "other")
PAIRS.add((8.0, 90.0), (8.0, 90.0))
PAIRS.add((8.5, 90.0), (8.0, 90.0))
PAIRS.add((8.0, 91.0), (8.0, 90.0))
PAIRS.add((8.0, 89.0), (8.0, 90.0))
PAIRS.add((7.9, 90.0), (8.0, 90.0))
PAIRS.add((7.0, 95.0), (8.0, 90.0))
PAIRS.add((9.0, 85.0), (8.0, 90.0))
PAIRS.add((9.0, 95.0), (8.0, 90.0))
PAIRS.add((6.0, 80.0), (8.0, 90.0))


@check
def beats(answer) -> Verdict:
    """Exercise 1: whether a choice is nowhere worse than another, in compression and accuracy, and
    better in one of them.

    >>> checks.beats(lambda mine, other: mine > other).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Equal numbers.
    @faults.says("Two equal choices do not beat each other: one of the two numbers must be better.")
    def _(mine, other):
        return mine[0] >= other[0] and mine[1] >= other[1]

    @faults.says(
        "That asks for both to be better; better in one and equal in the other beats it, too."
    )
    def _(mine, other):
        return mine[0] > other[0] and mine[1] > other[1]

    # One of the two numbers alone.
    @faults.says(
        "Better in one is not enough where the other number is worse: such choices are not "
        "comparable."
    )
    def _(mine, other):
        return mine[0] > other[0] or mine[1] > other[1]

    @faults.says("That looks at the accuracy alone; the compression counts, too.")
    def _(mine, other):
        return mine[1] > other[1]

    @faults.says("That looks at the compression alone; the accuracy counts, too.")
    def _(mine, other):
        return mine[0] > other[0]

    # The direction is reversed.
    @faults.says(
        "The compression is reversed: a higher compression is a smaller network, and better."
    )
    def _(mine, other):
        return mine != other and mine[0] <= other[0] and mine[1] >= other[1]

    @faults.says("That tells whether the other one beats yours.")
    def _(mine, other):
        return _beats(other, mine)

    # The two numbers are added up.
    @faults.says("Compression and accuracy do not add up: compare each with its own.")
    def _(mine, other):
        return sum(mine) > sum(other)

    # The drawing names each case by one's own choice.
    draw = points("beats (1: yes)", lambda case: "{:g}, {:g} %".format(*case["mine"]))
    return compare(answer, _beats, PAIRS, faults, draw=draw)


def _beats(mine, other) -> bool:
    """By the sign of the differences: none negative, not all zero."""
    signs = np.sign(np.subtract(mine, other))
    return bool(signs.min() >= 0 and signs.max() > 0)


CHANGES = Cases("changes", "sizes")
CHANGES.add([0.5, 0.2], [100, 100])
# more in all, and less for each bit
CHANGES.add([0.5, 0.2], [1000, 100])
CHANGES.add([0.06, 0.02, 0.05], [200, 50, 400])
CHANGES.add([0.05, 0.04, 0.2], [10, 50, 1000])
# a change for the better
CHANGES.add([0.1, -0.01, 0.4], [1000, 50, 100])
CHANGES.add([0.3, -0.02, -0.01], [500, 100, 20])
CHANGES.add([0.004, 0.11, 0.02, 0.3], [216, 4608, 576, 9216])


@check
def cheapest_bit(answer) -> Verdict:
    """Exercise 2: the number of the layer in which one bit less costs the least loss for each bit
    it saves.

    >>> checks.cheapest_bit(lambda changes, sizes: changes.index(min(changes))).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # A wrong answer from another price of a bit: the layer with the least of it.
    def least(price):
        def answer(changes, sizes):
            return np.argmin(price(np.array(changes), np.array(sizes)))

        return answer

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Gains are cut off.
    @faults.says(
        "A change below zero is a gain, and a larger gain is cheaper: do not cut it off at 0."
    )
    @least
    def _(changes, sizes):
        return np.maximum(changes, 0) / sizes

    # The size is left out or used in another way.
    @faults.says(
        "That is the layer whose loss rises least; one bit less in a large layer saves more: "
        "divide by the size."
    )
    @least
    def _(changes, sizes):
        return changes

    @faults.says("That is the dearest one: look for the least.")
    @least
    def _(changes, sizes):
        return -changes / sizes

    @faults.says(
        "Multiplied by the size, small layers look cheap; the loss *per bit saved* is a quotient."
    )
    @least
    def _(changes, sizes):
        return changes * sizes

    @faults.says("That is the largest layer; what it costs counts as well.")
    @least
    def _(changes, sizes):
        return -sizes

    @faults.says("A change below zero is a gain and the cheapest of all: no absolute values.")
    @least
    def _(changes, sizes):
        return np.abs(changes) / sizes

    # The right layer in another form.
    @faults.says("That is the price itself, not the number of the layer that has it.")
    def _(changes, sizes):
        return min(np.array(changes) / sizes)

    @faults.says("Layers are counted from 0.")
    def _(changes, sizes):
        return 1 + _cheapest_bit(changes, sizes)

    # The drawing names each case by its number of layers.
    draw = points("layer", lambda case: f"{len(case['sizes'])} layers")
    return compare(answer, _cheapest_bit, CHANGES, faults, draw=draw)


def _cheapest_bit(changes, sizes) -> int:
    """By cross-multiplication, two layers at a time: no quotient is formed."""
    best = 0
    for i in range(1, len(sizes)):
        if changes[i] * sizes[best] < changes[best] * sizes[i]:
            best = i
    return best


LAYERS = Cases("macs", "weight_bits", "input_bits")
LAYERS.add([1000], [8], [8])
LAYERS.add([1000], [2], [8])
LAYERS.add([1000, 500], [8, 4], [32, 8])
LAYERS.add([200, 3000, 50], [8, 3, 1], [32, 8, 4])
LAYERS.add([500, 1400, 64], [8, 4, 6], [32, 8, 8])


@check
def bit_operations(answer) -> Verdict:
    """Exercise 3: multiply-accumulates times the bits of both factors, over all layers.

    >>> checks.bit_operations(lambda macs, weight_bits, input_bits: sum(
    ...     m * w * i for m, w, i in zip(macs, weight_bits, input_bits))).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Bits of one factor are left out.
    @faults.says(
        "That leaves the inputs' bits out: a product of a w-bit and an i-bit number takes w "
        "times i bit products."
    )
    def _(macs, weight_bits, input_bits):
        return np.dot(macs, weight_bits)

    @faults.says("That leaves the weights' bits out.")
    def _(macs, weight_bits, input_bits):
        return np.dot(macs, input_bits)

    # The factors are combined in another way.
    @faults.says("The bits of the two factors are multiplied, not added.")
    def _(macs, weight_bits, input_bits):
        return np.dot(macs, np.add(weight_bits, input_bits))

    @faults.says(
        "That multiplies sums or means over the layers; each layer has its own bits: sum the "
        "products."
    )
    def _(macs, weight_bits, input_bits):
        return sum(macs) * np.mean(weight_bits) * np.mean(input_bits)

    # The right numbers in another form.
    @faults.says("Those are the multiply-accumulates; each counts as often as its bits say.")
    def _(macs, weight_bits, input_bits):
        return sum(macs)

    @faults.says("That is one number for each layer; add them up.")
    def _(macs, weight_bits, input_bits):
        return np.array(macs) * weight_bits * input_bits

    @faults.says("That counts bytes: nothing is divided by 8 here.")
    def _(macs, weight_bits, input_bits):
        return _bit_operations(macs, weight_bits, input_bits) / 8

    # The drawing names each case by its layers.
    draw = points("bit operations", lambda case: " + ".join(map(str, case["macs"])))
    return compare(answer, _bit_operations, LAYERS, faults, tolerance=1e-9, draw=draw)


def _bit_operations(macs, weight_bits, input_bits) -> int:
    """One-bit cells counted as a multiplier has them: w rows of i cells for each multiplication."""
    return int(np.einsum("i,i,i", macs, weight_bits, input_bits))
