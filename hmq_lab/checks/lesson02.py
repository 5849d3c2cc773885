"""Checks of lesson 02: rounding and clipping error, the best threshold, the fewest bits."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import torch

from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, in_bits, in_sign, points

EXPONENTS = [1, 0, -1, -2, -3, -4]


@dataclass(frozen=True)
class Quantized:
    """A tensor under one scheme, in NumPy: its errors, and which values are clipped."""

    x: np.ndarray
    error: np.ndarray
    clipped: np.ndarray
    step: float


def quantized(x, bits: int, threshold: float, signed: bool) -> Quantized:
    """Quantize with integers: round half to even, two's complement; clipped is what rounds beyond
    an end code.

    Args:
        x: values, a tensor or array.
        bits: bits, the sign included.
        threshold: the threshold t.
        signed: whether the range has negative values.

    Returns:
        The values, their error, and which of them are clipped.
    """
    x = np.asarray(x, dtype=float)
    step = threshold / 2 ** (bits - signed)
    # The end codes: two's complement, or from 0 on.
    lo = -(2 ** (bits - 1)) if signed else 0
    hi = lo + 2**bits - 1
    code = np.rint(x / step)
    clipped = (code < lo) | (code > hi)
    error = np.clip(code, lo, hi) * step - x
    return Quantized(x, error, clipped, step)


def parts(q: Quantized) -> tuple[float, float]:
    """Return the parts of the mean squared error: by rounding and by clipping.

    Args:
        q: values with their quantization error.

    Returns:
        The errors by rounding and by clipping; they add up to the mean squared error.
    """
    square = q.error**2
    rounding = np.where(q.clipped, 0, square)
    clipping = np.where(q.clipped, square, 0)
    return float(rounding.mean()), float(clipping.mean())


@check
def error_parts(answer) -> Verdict:
    """Judge error_parts(x, bits, threshold, signed) -> (rounding, clipping), parts of the mean
    squared error.

    >>> error_parts(lambda x, bits, threshold, signed: (0.0, 0.0)).passed
    False

    A value is clipped if round(x / step) lies beyond an end code. Each part is a sum of squares
    over all of x's size.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(x, bits, threshold, signed):
        return parts(quantized(x, bits, threshold, signed))

    # A wrong answer from a rule over the quantized values.
    def mistaken(function):
        def answer(x, bits, threshold, signed):
            q = quantized(x, bits, threshold, signed)
            # The smallest value of the range.
            lowest = -threshold if signed else 0
            return function(q, lowest, threshold)

        return answer

    # Both parts from one mask, each over all values.
    def split(square, clipped):
        rounding = square[~clipped].sum()
        clipping = square[clipped].sum()
        return rounding / square.size, clipping / square.size

    def own_means(empty):
        """Each group's own mean; `empty` is that of no values at all, which NumPy and torch call
        NaN.
        """

        def means(q, *_):
            square = q.error**2
            groups = square[~q.clipped], square[q.clipped]
            return tuple(float(group.mean()) if group.size else empty for group in groups)

        return mistaken(means)

    # Two of the mistakes are told in the same words.
    own = (
        "You divide each part by the values of its own group: then they do not add up to the mean "
        "squared error. "
        "Divide both by all values."
    )

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The two parts are right, but not in the form asked for.
    @faults.says("The two are reversed: rounding comes first.")
    @mistaken
    def _(q, *_):
        return parts(q)[::-1]

    @faults.says("These are sums: divide both by the number of values, to have parts of the mean.")
    @mistaken
    def _(q, *_):
        return tuple(p * q.x.size for p in parts(q))

    faults.add(own, own_means(0.0))

    faults.add(own, own_means(math.nan))

    # Another measure than the square.
    @faults.says("You take the errors' magnitudes: square them.")
    @mistaken
    def _(q, *_):
        return split(abs(q.error), q.clipped)

    # Another rule for what is clipped.
    @faults.says(
        "You compare x with the threshold. What rounds beyond the last level, threshold - step, "
        "is clipped too."
    )
    @mistaken
    def _(q, lowest, threshold):
        clipped = (q.x > threshold) | (q.x < lowest)
        return split(q.error**2, clipped)

    @faults.says(
        "You compare |x| with the threshold: the range is not the same on both sides. What "
        "rounds beyond an end level is clipped: below, that is -threshold, or 0 unsigned; above, "
        "threshold - step."
    )
    @mistaken
    def _(q, lowest, threshold):
        return split(q.error**2, abs(q.x) > threshold)

    @faults.says(
        "You call every x beyond the last level clipped. Up to half a step beyond, it is only "
        "rounded."
    )
    @mistaken
    def _(q, lowest, threshold):
        clipped = (q.x > threshold - q.step) | (q.x < lowest)
        return split(q.error**2, clipped)

    @faults.says("A clipped value becomes the last level, threshold - step, not the threshold.")
    @mistaken
    def _(q, lowest, threshold):
        beyond = q.x - np.clip(q.x, lowest, threshold)
        clipping = np.where(q.clipped, beyond**2, 0)
        return parts(q)[0], float(clipping.mean())

    @faults.says("These are roots of the parts: squares add up, roots do not.")
    @mistaken
    def _(q, *_):
        return tuple(np.sqrt(parts(q)))

    # The cases, the simplest first: a few values each, to follow by hand.
    cases = Cases("x", "bits", "threshold", "signed")
    cases.add(torch.tensor([0.3]), 2, 1.0, True)
    cases.add(torch.tensor([0.3, 0.6]), 2, 1.0, True)
    cases.add(torch.tensor([0.9, 0.1]), 2, 1.0, True)
    cases.add(torch.tensor([0.8, -0.2]), 2, 1.0, False)
    cases.add(torch.tensor([-1.5]), 2, 1.0, True)
    # Then whole samples, of both signs.
    cases.add(_sample(200, True), 1, 0.5, True)
    cases.add(_sample(200, True), 3, 0.5, True)
    cases.add(_sample(200, False), 3, 1.0, False)
    cases.add(_sample(200, True), 4, 0.25, True)

    # The drawing names each case by its scheme.
    def label(case):
        return f"{in_bits(case['bits'])} below {case['threshold']:g}"

    draw = points("rounding + clipping", label)
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=draw)


@check
def best_exponent(answer) -> Verdict:
    """Judge best_exponent(x, bits, signed, exponents) -> the M of the threshold 2^M with the least
    squared error.

    >>> best_exponent(lambda x, bits, signed, exponents: max(exponents)).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # What is right: the least sum of squares.
    oracle = _chosen(_squares)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Another loss than the sum of squares.
    @faults.says("You always take the largest threshold: with few bits it makes the step too wide.")
    @_chosen
    def _(q):
        return 0.0

    @faults.says("You look for the least rounding error alone.")
    @_chosen
    def _(q):
        return np.where(q.clipped, 0, q.error**2).sum()

    @faults.says("You look for the largest error to be least: square the errors and add them up.")
    @_chosen
    def _(q):
        return abs(q.error).max()

    @faults.says("You add up the errors' magnitudes: square them first.")
    @_chosen
    def _(q):
        return abs(q.error).sum()

    @faults.says("You add up errors with their signs: they cancel.")
    @_chosen
    def _(q):
        return abs(q.error.sum())

    # No search at all.
    faults.add(
        "You take the smallest power of two that the largest magnitude does not exceed: a "
        "smaller one can lose less.",
        _tight,
    )

    # The wrong sign.
    @faults.says("You quantize without a sign.")
    def _(x, bits, signed, exponents):
        return oracle(x, bits, False, exponents)

    @faults.says("You quantize with a sign where there is none.")
    def _(x, bits, signed, exponents):
        return oracle(x, bits, True, exponents)

    # The right search, with another result of it.
    @faults.says("You look for the largest error, not the least.")
    @_chosen
    def _(q):
        return -_squares(q)

    @faults.says("You give the place in the list: return the exponent that stands there.")
    def _(x, bits, signed, exponents):
        return exponents.index(oracle(x, bits, signed, exponents))

    @faults.says("That is the threshold, 2^M: return its exponent M.")
    def _(x, bits, signed, exponents):
        return 2.0 ** oracle(x, bits, signed, exponents)

    cases = Cases("x", "bits", "signed", "exponents")

    # Each sample with few and with many bits.
    def sample(x, signed):
        for bits in (1, 2, 3, 4, 6, 8):
            cases.add(x, bits, signed, EXPONENTS)

    # Two small samples to follow by hand, then two large ones.
    sample(torch.tensor([0.3, -0.2, 0.1]), True)
    sample(torch.tensor([0.9, 0.2, 0.0]), False)
    sample(_sample(400, True), True)
    sample(_sample(400, False), False)

    # The drawing names each case by bits and sign.
    def label(case):
        return f"{in_bits(case['bits'])}, {in_sign(case['signed'])}"

    return compare(answer, oracle, cases, faults, draw=points("exponent", label))


@check
def fewest_bits(answer) -> Verdict:
    """Judge fewest_bits(x, limit, signed, exponents) -> the fewest bits, 1 to 8, that lose at most
    that share.

    >>> fewest_bits(lambda x, limit, signed, exponents: 8).passed
    False

    The share is the squared error with the best threshold by the sum of squares of x.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The search with one of its parts replaced.
    def search(
        cost=_squares, whole=lambda x: (x**2).sum(), allowed=lambda e: e, most=8, enough=operator.le
    ):
        def found(x, limit, signed, exponents):
            for bits in range(1, most + 1):
                schemes = [quantized(x, bits, 2.0**e, signed) for e in allowed(exponents)]
                least = min(cost(q) for q in schemes)
                if enough(least, limit * whole(np.asarray(x, dtype=float))):
                    return bits
            return 9

        return found

    # What is right: the search with all its parts.
    oracle = search()

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Another total than the plain sum of squares.
    faults.add(
        "You subtract the mean: that is the variance. The limit is a share of the plain sum of "
        "squares of x.",
        search(whole=lambda x: x.size * x.var()),
    )

    # The count is off by one.
    @faults.says("That is one bit more than needed: is the count off by one?")
    def _(**case):
        return oracle(**case) + 1

    @faults.says("That is one bit too few: is the count off by one?")
    def _(**case):
        return oracle(**case) - 1

    # The search leaves out thresholds.
    faults.add(
        "You try the largest threshold only: give every bit-width its best one.",
        search(allowed=lambda e: [max(e)]),
    )

    # The loss and the limit are in different units.
    faults.add(
        "You compare the plain squared error with the limit: divide it by the sum of squares of x.",
        search(whole=lambda x: 1.0),
    )

    faults.add(
        "You compare the mean squared error with the limit: divide it by the mean square of x.",
        search(whole=lambda x: x.size),
    )

    faults.add(
        "You compare roots: the limit is a share of the sum of squares.",
        search(cost=lambda q: np.sqrt(_squares(q)), whole=lambda x: np.sqrt((x**2).sum())),
    )

    # The loss or the comparison is not quite the one asked for.
    faults.add(
        "You leave out the values that are clipped: their error counts too.",
        search(cost=lambda q: np.where(q.clipped, 0, q.error**2).sum()),
    )

    faults.add(
        "A share that is exactly the limit is allowed: at most means <=, not <.",
        search(enough=operator.lt),
    )

    @faults.says("You always give 8 bits: begin with 1.")
    def _(**_):
        return 8

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("x", "limit", "signed", "exponents")
    # 1 bit below 1 has the levels -1 and 0: the squared error is 1 of 4, exactly the limit. With
    # 2 left out, it is never 0 whatever the bits, so that an answer may take its logarithm.
    equal = torch.tensor([-1.0, -1.0, -1.0, 1.0])
    cases.add(equal, 0.25, True, EXPONENTS[1:])
    # Limits from generous to strict.
    for signed in (True, False):
        for limit in (0.5, 0.1, 0.03, 0.01, 0.002, 0.0005):
            cases.add(_sample(400, signed), limit, signed, EXPONENTS)

    # The drawing names each case by limit and sign.
    def label(case):
        return f"{case['limit']:.2%}, {in_sign(case['signed'])}"

    return compare(answer, oracle, cases, faults, draw=points("bits", label))


def _sample(count: int, signed: bool) -> torch.Tensor:
    """Laplace's distribution, as layers have it roughly: many small values, few large ones."""
    random = np.random.default_rng(count)
    x = random.laplace(scale=0.2, size=count).round(4)
    return torch.from_numpy(x if signed else np.abs(x))


def _squares(q: Quantized) -> float:
    return float((q.error**2).sum())


def _chosen(cost):
    """The exponent with the least cost, the largest of them at a tie."""

    def choice(x, bits, signed, exponents):
        def loss(exponent):
            return cost(quantized(x, bits, 2.0**exponent, signed))

        # Of equal losses min takes the first.
        return min(sorted(exponents, reverse=True), key=loss)

    return choice


def _tight(x, bits, signed, exponents):
    largest = float(abs(x).max())
    return min(e for e in exponents if 2.0**e >= largest)
