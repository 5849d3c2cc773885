"""Lesson 00, start here: the largest value of a quantizer, the mean bits of a network."""

from __future__ import annotations

from fractions import Fraction
from statistics import fmean

from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points

# bits and sizes; the smallest cases tell the most
NETWORKS = Cases("bits", "sizes")
NETWORKS.add([4], [10])
NETWORKS.add([2, 8], [100, 100])
NETWORKS.add([8, 2], [1, 99])
NETWORKS.add([3, 5, 8], [70, 20, 10])
NETWORKS.add([8, 8, 4, 3], [216, 576, 4608, 9216])


@check
def largest(answer) -> Verdict:
    """Exercise 1: the largest value of a signed tensor.

    >>> checks.largest(lambda bits, threshold: threshold - 2 * threshold / 2**bits).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = [{"bits": b, "threshold": t} for t in (1.0, 0.25, 8.0) for b in (3, 1, 2, 4, 8)]

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Values that belong to another number: the threshold, the other sign, the other end.
    @faults.says("That is the threshold: two's complement ends one step below it.")
    def _(bits, threshold):
        return threshold

    @faults.says(
        "That is an unsigned tensor's: a signed one has its 2^bits levels over twice the threshold."
    )
    def _(bits, threshold):
        return threshold - threshold / 2**bits

    @faults.says("That is the smallest value; the question is the largest.")
    def _(bits, threshold):
        return -threshold

    # Numbers that are no values: a code, a step.
    @faults.says("That is the integer code. Its value is the code times the step.")
    def _(bits, threshold):
        return 2 ** (bits - 1) - 1

    @faults.says("That is the step, not the largest value.")
    def _(bits, threshold):
        return 2 * threshold / 2**bits

    # The right idea, one step too far.
    @faults.says("That is two steps below the threshold.")
    def _(bits, threshold):
        return threshold - 4 * threshold / 2**bits

    # The drawing names each case by bits and threshold.
    label = "{bits} bits, {threshold:g}"
    draw = points("largest value", lambda case: label.format(**case))
    return compare(answer, _largest, cases, faults, tolerance=1e-9, draw=draw)


def _largest(bits: int, threshold: float) -> float:
    """By counting the levels upwards from -threshold."""
    t = Fraction(threshold)
    levels = [-t + k * 2 * t / 2**bits for k in range(2**bits)]
    return float(max(levels))


@check
def mean_bits(answer) -> Verdict:
    """Exercise 2: how many bits a weight has on average.

    >>> from statistics import fmean
    >>> checks.mean_bits(lambda bits, sizes: fmean(bits, weights=sizes)).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The bits of all weights together.
    def used(bits, sizes):
        return sum(b * n for b, n in zip(bits, sizes, strict=True))

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # What is averaged over the wrong things.
    @faults.says(
        "That counts tensors, not weights: a tensor with more elements has to count for more."
    )
    def _(bits, sizes):
        return fmean(bits)

    faults.add("That is the sum of all bits: divide it by the number of weights.", used)

    @faults.says("That is the compression. It is 32 over the mean; the mean is asked for.")
    def _(bits, sizes):
        return 32 * sum(sizes) / used(bits, sizes)

    @faults.says(
        "That is the bits of a tensor on average: divide by the number of weights, not of tensors."
    )
    def _(bits, sizes):
        return used(bits, sizes) / len(sizes)

    # What is rounded or turned round.
    @faults.says("That is rounded down: the mean need not be whole (// drops what is left over).")
    def _(bits, sizes):
        return used(bits, sizes) // sum(sizes)

    @faults.says("That is the mean rounded to a whole number.")
    def _(bits, sizes):
        return round(used(bits, sizes) / sum(sizes))

    @faults.says("That is reversed: bits over weights.")
    def _(bits, sizes):
        return sum(sizes) / used(bits, sizes)

    # The drawing names each case by its bits.
    draw = points("mean bits", lambda case: " ".join(map(str, case["bits"])))
    return compare(answer, _mean_bits, NETWORKS, faults, tolerance=1e-9, draw=draw)


def _mean_bits(bits: list[int], sizes: list[int]) -> float:
    """Weight by weight, as slowly as it can be done."""
    every = [b for b, n in zip(bits, sizes, strict=True) for _ in range(n)]
    return fmean(every)
