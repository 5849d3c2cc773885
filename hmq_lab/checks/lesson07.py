"""Lesson 07, CIFAR10: two compressions from the same tables, how many 1-bit weights a target needs,
what
a test can say.
"""

from __future__ import annotations

import math

import numpy as np

from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points


def _tables(seed: int, tensors: int, bits: tuple[int, ...], thresholds: int = 3) -> dict:
    """Tables (N, B, T) of probabilities, sharp enough that the most probable bits are clear."""
    # The logits spread widely, so that one cell stands out.
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (tensors, len(bits), thresholds))
    shares = np.exp(logits)
    tables = shares / shares.sum((1, 2), keepdims=True)
    # Sizes that differ much: weights and tensors count differently.
    sizes = 100 * random.integers(1, 60, tensors)
    return {"tables": tables, "bits": list(bits), "sizes": sizes.tolist()}


RATES = Cases("tables", "bits", "sizes")
RATES.add(np.array([[[0.25], [0.75]]]), [2, 8], [100])
RATES.add(np.array([[[0.1], [0.9]], [[1.0], [0.0]]]), [2, 4], [100, 900])
# the most probable cell has 8 bits, the most probable bits are 4
RATES.add(np.array([[[0.2, 0.2, 0.2], [0.3, 0.05, 0.05]]]), [4, 8], [10])
RATES.append(_tables(1, 2, (2, 4, 8)))
RATES.append(_tables(2, 5, (1, 2, 3, 4)))
RATES.append(_tables(3, 8, tuple(range(1, 9))))


@check
def both_rates(answer) -> Verdict:
    """Exercise 1: the expected and the actual compression of a network from its blocks' tables.

    >>> checks.both_rates(lambda tables, bits, sizes: ...).passed        # lesson 07 has a solution

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The right numbers in another order, or counted over tensors.
    @faults.says(
        "The two are in the wrong order: first the expected compression, then the actual one."
    )
    @_in_mean_bits
    def _(expected, actual):
        return 32 / actual, 32 / expected

    faults.add(
        "Both compressions count weights, not tensors: multiply the bits of a tensor by its size.",
        _two(counted=np.ones_like),
    )

    # The actual compression of another choice.
    faults.add(
        "The actual compression takes the most probable *bits*: sum over the thresholds before "
        "you look for the largest. The most probable cell may have other bits.",
        _two(choose=_bits_of_best_cell),
    )

    faults.add(
        "The place of the most probable bits is not their number: look it up in `bits`.",
        _two(choose=lambda table, bits: table.sum(1).argmax()),
    )

    # The expected compression from another mean.
    @faults.says(
        "The expected compression is 32 over the mean bits. You averaged 32 / bits, which is "
        "larger."
    )
    def _(tables, bits, sizes):
        compressions = tables.sum(2) @ (32 / np.array(bits))
        _, actual = _two()(tables, bits, sizes)
        return np.average(compressions, weights=sizes), actual

    # The right numbers in another unit.
    @faults.says("That is bits over 32; a compression is 32 over bits.")
    @_in_mean_bits
    def _(expected, actual):
        return expected / 32, actual / 32

    @faults.says("Those are mean bits; the compression is 32 over them.")
    @_in_mean_bits
    def _(expected, actual):
        return expected, actual

    faults.add(
        "Both are the expected compression: the actual one takes for each tensor its most "
        "probable bits alone.",
        _two(choose=lambda table, bits: table.sum(1) @ bits),
    )

    # The drawing names each case by its number of weights.
    def label(case):
        return f"{len(case['sizes'])} weights"

    draw = points("expected compression + actual compression", label)
    return compare(answer, _both_rates, RATES, faults, tolerance=1e-6, draw=draw)


def _both_rates(tables, bits, sizes) -> tuple[float, float]:
    """Cell by cell."""
    expected = actual = 0.0
    for table, size in zip(tables, sizes, strict=True):
        shares = {b: math.fsum(row) for b, row in zip(bits, table, strict=True)}
        expected += size * math.fsum(b * p for b, p in shares.items())
        actual += size * max(shares, key=lambda b: shares[b])
    return 32 * sum(sizes) / expected, 32 * sum(sizes) / actual


def _most_probable_bits(table, bits):
    return bits[table.sum(1).argmax()]


def _bits_of_best_cell(table, bits):
    row, _ = np.unravel_index(table.argmax(), table.shape)
    return bits[row]


def _two(counted=np.asarray, choose=_most_probable_bits):
    """The right answer, with another count of the weights or another choice of bits."""

    def answer(tables, bits, sizes):
        bits = np.array(bits, float)
        weights = counted(np.array(sizes, float))
        chosen = [choose(table, bits) for table in tables]
        expected = np.average(tables.sum(2) @ bits, weights=weights)
        actual = np.average(chosen, weights=weights)
        # The fault that takes a place for bits may find 0 of them.
        with np.errstate(divide="ignore"):
            return 32 / np.array([expected, actual])

    return answer


def _in_mean_bits(function):
    """A wrong answer from the expected and the actual mean bits."""

    def answer(tables, bits, sizes):
        expected, actual = 32 / _two()(tables, bits, sizes)
        return function(expected, actual)

    return answer


@check
def one_bit_share(answer) -> Verdict:
    """Exercise 2: the least share of the weights that must have 1 bit for a target.

    >>> checks.one_bit_share(lambda target: max(0.0, 2 - 32 / target)).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = [{"target": t} for t in (4.0, 8.0, 16.0, 17.3, 19.5, 24.0, 32.0)]

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Limits at 0 and at the other part.
    @faults.says("Up to a compression of 16 no weight needs 1 bit: a share is never negative.")
    def _(target):
        return 2 - 32 / target

    @faults.says("That is the share of the others, with 2 bits.")
    def _(target):
        return min(1.0, 32 / target - 1)

    # Other means of the two parts.
    @faults.says(
        "The *bits* of the two parts average, not their compressions: the mean must come down to "
        "32 / target."
    )
    def _(target):
        return max(0.0, target / 16 - 1)

    # The right share in another unit, or a step on the way to it.
    @faults.says("That is in percent; a share lies from 0 to 1.")
    def _(target):
        return 100 * max(0.0, 2 - 32 / target)

    @faults.says("That takes the rest of the weights to need 0 bits. They have at least 2.")
    def _(target):
        return max(0.0, 1 - 16 / target)

    @faults.says("Those are the mean bits of a target, the first step.")
    def _(target):
        return 32 / target

    @faults.says("Above 16 some need 1 bit, not all of them.")
    def _(target):
        return float(target > 16)

    # The drawing names each case by its target.
    draw = points("share of 1-bit weights", lambda case: f"target {case['target']:g}")
    return compare(answer, _one_bit_share, cases, faults, tolerance=1e-6, draw=draw)


def _one_bit_share(target: float) -> float:
    """By counting: of 64,000 weights at 2 bits, one after another comes down to 1 until the bits
    fit the budget.
    """
    weights = 64_000
    over = 2 * weights - 32 * weights / target
    return min(max(over, 0.0), weights) / weights


@check
def standard_error(answer) -> Verdict:
    """Exercise 3: the standard error of an accuracy, in points.

    >>> checks.standard_error(lambda accuracy, count: (accuracy / count) ** 0.5).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: accuracies in percent and numbers of images.
    cases = Cases("accuracy", "images")
    cases.add(50.0, 100)
    cases.add(90.0, 100)
    cases.add(90.0, 10_000)
    cases.add(91.73, 10_000)
    cases.add(91.01, 10_000)
    cases.add(99.86, 5000)
    cases.add(10.0, 400)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # A power or a unit is missing.
    @faults.says("That is the variance: take its square root.")
    def _(accuracy, images):
        return _variance(accuracy, images)

    @faults.says("That is a fraction: in points it is 100 times as much.")
    def _(accuracy, images):
        return math.sqrt(_variance(accuracy, images)) / 100

    # The number of images is in the wrong place.
    @faults.says(
        "That is the spread of a single image, right or wrong: the mean of many has a smaller one."
    )
    def _(accuracy, images):
        return math.sqrt(accuracy * (100 - accuracy))

    @faults.says(
        "The spread falls with the square root of the number of images: the division belongs "
        "under the root."
    )
    def _(accuracy, images):
        return math.sqrt(accuracy * (100 - accuracy)) / images

    # Another number than one standard error.
    @faults.says(
        "That estimates the spread from the images, over n - 1. Here it is known: accuracy x "
        "(100 - accuracy), over n."
    )
    def _(accuracy, images):
        return math.sqrt(_variance(accuracy, images - 1))

    @faults.says("That is half of a 95 % interval; the standard error itself is asked for.")
    def _(accuracy, images):
        return 1.96 * math.sqrt(_variance(accuracy, images))

    @faults.says("That is twice the standard error: one is asked for.")
    def _(accuracy, images):
        return 2 * math.sqrt(_variance(accuracy, images))

    # Another accuracy in the formula.
    @faults.says("That is for an accuracy of 50 %, where it is largest: put in the accuracy.")
    def _(accuracy, images):
        return 50 / math.sqrt(images)

    @faults.says("The accuracy is in percent: what is wrong is 100 - accuracy.")
    def _(accuracy, images):
        return math.sqrt(abs(accuracy * (1 - accuracy)) / images)

    # The drawing names each case by accuracy and number of images.
    def label(case):
        return f"{case['accuracy']:g} % of {case['images']:,}"

    draw = points("standard error (points)", label)
    return compare(answer, _standard_error, cases, faults, tolerance=1e-3, draw=draw)


def _variance(accuracy: float, images: int) -> float:
    return accuracy * (100 - accuracy) / images


def _standard_error(accuracy: float, images: int) -> float:
    """From the images: so many hundreds and zeros, their standard deviation, over the root of
    their number.
    """
    right = accuracy * images / 100
    mean = 100 * right / images
    squares = right * (100 - mean) ** 2 + (images - right) * mean**2
    return math.sqrt(squares / images) / math.sqrt(images)
