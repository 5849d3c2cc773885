"""Lesson 11, the paper's figures and tables: a compression, a compression counted again, a fair
comparison, a
Pareto front.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points

LAYERS = Cases("sizes", "bits")
LAYERS.add([100], [4])
LAYERS.add([100, 300], [8, 2])
LAYERS.add([432, 2304, 36864, 640], [8, 3, 1, 8])
LAYERS.add([10, 10, 10], [1, 1, 1])
LAYERS.add([27, 9, 64, 1000, 50], [7, 5, 6, 2, 8])


@check
def wcr(answer) -> Verdict:
    """Exercise 1: the compression of the weights from the tensors' sizes and bits.

    >>> checks.wcr(lambda sizes, bits: 32 / max(bits)).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Tensors are counted, not weights.
    @faults.says(
        "That counts tensors: a tensor of 36,864 weights must weigh more than one of 432. "
        "Multiply bits by sizes."
    )
    def _(sizes, bits):
        return 32 / np.mean(bits)

    # The right number in another unit.
    faults.add("Those are the mean bits of a weight; the compression is 32 over them.", _mean_bits)

    @faults.says("That is inverted: the float size over the quantized one.")
    def _(sizes, bits):
        return _mean_bits(sizes, bits) / 32

    # A mean of compressions.
    @faults.says(
        "That is the mean of the tensors' own compressions. Add up the bits of all weights "
        "first, and divide once."
    )
    def _(sizes, bits):
        return np.average(32 / np.array(bits), weights=sizes)

    @faults.says("That is the plain mean of the tensors' compressions.")
    def _(sizes, bits):
        return np.mean(32 / np.array(bits))

    # Another number of bits of a float weight.
    @faults.says("A float weight has 32 bits, not 8.")
    def _(sizes, bits):
        return 8 / _mean_bits(sizes, bits)

    @faults.says("A float weight has 32 bits, not 16.")
    def _(sizes, bits):
        return 16 / _mean_bits(sizes, bits)

    # The drawing names each case by its number of tensors.
    draw = points("compression of the weights", lambda case: f"{len(case['sizes'])} tensors")
    return compare(answer, _wcr, LAYERS, faults, tolerance=1e-6, draw=draw)


def _wcr(sizes, bits) -> float:
    """In whole numbers."""
    written = sum(n * b for n, b in zip(sizes, bits, strict=True))
    return float(Fraction(32 * sum(sizes), written))


def _mean_bits(sizes, bits):
    return np.dot(sizes, bits) / np.sum(sizes)


COUNTS = Cases("rate", "quantized", "left_float")
COUNTS.add(8.0, 1000, 0)
COUNTS.add(8.0, 1000, 1000)
COUNTS.add(15.7, 23_454_912, 2_048_000)
COUNTS.add(9.0, 23_454_912, 2_048_000)
COUNTS.add(4.0, 5_236_192, 42_000)


@check
def recount(answer) -> Verdict:
    """Exercise 4: a compression that counts the quantized weights alone, counted over all weights.

    >>> checks.recount(lambda rate, quantized, left_float:
    ...     (quantized + left_float) / (quantized / rate + left_float)).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The compression as given, or a mean of compressions.
    @faults.says("That is the compression you were given: the float weights are not counted yet.")
    def _(rate, quantized, left_float):
        return rate

    @faults.says("Compressions do not average like that. Add up the sizes, then divide once.")
    def _(rate, quantized, left_float):
        return (rate * quantized + left_float) / (quantized + left_float)

    # The float weights are counted on one side only.
    @faults.says(
        "The float weights are in the size now, but not among all weights: add them above, too."
    )
    def _(rate, quantized, left_float):
        return quantized / (quantized / rate + left_float)

    @faults.says(
        "The float weights are among the weights now, but take no room: add them below, too."
    )
    def _(rate, quantized, left_float):
        return (quantized + left_float) / (quantized / rate)

    # The float weights have other bits, or the fraction is inverted.
    @faults.says(
        "That takes the weights that were left float for 8-bit ones. They have 32 bits, as before."
    )
    def _(rate, quantized, left_float):
        return (quantized + left_float) / (quantized / rate + left_float / 4)

    @faults.says("That is inverted: the float size over the new size.")
    def _(rate, quantized, left_float):
        return (quantized / rate + left_float) / (quantized + left_float)

    # The drawing names each case by its compression and float weights.
    def label(case):
        return f"{case['rate']:g}, {case['left_float']:,} float"

    draw = points("compression over all weights", label)
    return compare(answer, _recount, COUNTS, faults, tolerance=1e-6, draw=draw)


def _recount(rate, quantized, left_float) -> float:
    """As one more tensor of 32 bits beside those of 32 / compression."""
    bits = Fraction(32) / Fraction(rate)
    before = 32 * (quantized + left_float)
    after = bits * quantized + 32 * left_float
    return float(before / after)


# (compression, accuracy, accuracy of the own float network): quarters of a point, so that sums
# are exact
RESULTS = Cases("results", "points")
RESULTS.add([(8.0, 91.5, 91.75)], 0.5)
RESULTS.add([(8.0, 91.5, 91.75), (16.0, 91.0, 91.75)], 0.5)
RESULTS.add([(10.5, 92.75, 93.0), (17.5, 92.5, 93.5), (14.0, 91.5, 91.5)], 0.5)
RESULTS.add([(16.0, 70.0, 72.0), (8.0, 71.5, 72.0), (9.0, 76.0, 75.0)], 0.5)
RESULTS.add([(16.0, 70.0, 72.0), (12.0, 60.0, 61.0)], 0.25)
RESULTS.add([(4.0, 93.0, 93.0), (8.0, 49.5, 50.0), (12.0, 49.25, 50.0)], 0.75)


@check
def best_rate(answer) -> Verdict:
    """Exercise 2: the highest compression at which a result loses at most so many points to its own
    float network.

    >>> checks.best_rate(lambda results, points: max(r for r, a, f in results)).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The right answer, with one of its parts replaced.
    def fault(fits, pick=max, of=0):
        def made(results, points):
            chosen = [row[of] for row in results if fits(*row, results, points)]
            return pick(chosen) if chosen else 0

        return made

    # The right rule: points below the own float network.
    def within(rate, accuracy, own, results, points):
        return own - accuracy <= points

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The float accuracy of another network.
    @faults.says(
        "That compares with the highest accuracy of the list: each result has a float network of "
        "its own."
    )
    @fault
    def _(rate, accuracy, own, results, points):
        highest = max(a for _, a, _ in results)
        return highest - accuracy <= points

    @faults.says(
        "That compares with the best float network of the list: each result has one of its own."
    )
    @fault
    def _(rate, accuracy, own, results, points):
        highest = max(f for _, _, f in results)
        return highest - accuracy <= points

    # The comparison or the unit is another one.
    @faults.says("A loss of exactly so many points is still allowed: <=, not <.")
    @fault
    def _(rate, accuracy, own, results, points):
        return own - accuracy < points

    @faults.says("The sign is reversed: float accuracy minus quantized accuracy is what was lost.")
    @fault
    def _(rate, accuracy, own, results, points):
        return accuracy - own <= points

    @faults.says("A result above its float network has lost nothing: no absolute value.")
    @fault
    def _(rate, accuracy, own, results, points):
        return abs(own - accuracy) <= points

    @faults.says("Points are differences of percentages, not a share of the float accuracy.")
    @fault
    def _(rate, accuracy, own, results, points):
        return 100 * (own - accuracy) / own <= points

    # The right results, but another number of them.
    faults.add(
        "That is the lowest compression that fits; the highest was asked for.", fault(within, min)
    )

    faults.add("That is an accuracy; a compression was asked for.", fault(within, of=1))

    @faults.says("That ignores what was lost: the compression must be of a result that fits.")
    @fault
    def _(*_):
        return True

    # The drawing names each case by its results and points.
    def label(case):
        return f"{len(case['results'])} results, {case['points']:g} points"

    draw = points("compression", label)
    return compare(answer, _best_rate, RESULTS, faults, tolerance=1e-9, draw=draw)


def _best_rate(results, points) -> float:
    """From the highest compression downwards, the first that fits."""
    for rate, accuracy, own in sorted(results, reverse=True):
        if not accuracy + points < own:
            return rate
    return 0.0


def _scatter(seed: int, count: int) -> dict:
    random = np.random.default_rng(seed)
    rates = random.integers(8, 40, count) / 2
    points = []
    for rate in rates:
        lost = rate / 16 + random.integers(0, 8) / 4
        points.append((float(rate), float(93 - lost)))
    return {"points": points}


CLOUDS = Cases("points")
CLOUDS.add([(8.0, 91.5)])
CLOUDS.add([(8.0, 91.5), (16.0, 91.0)])
CLOUDS.add([(8.0, 91.0), (16.0, 91.5)])
CLOUDS.add([(8.0, 91.5), (8.0, 91.0), (16.0, 91.0)])
CLOUDS.add([(8.0, 91.5), (16.0, 91.5), (12.0, 92.0), (10.0, 91.25)])
CLOUDS.add([(8.0, 92.0), (8.0, 92.0), (16.0, 90.0), (4.0, 90.0)])
CLOUDS += [_scatter(seed, 12) for seed in (1, 2, 3)]


@check
def pareto(answer) -> Verdict:
    """Exercise 3: which points no other point beats, as a list of True and False.

    >>> checks.pareto(lambda points: [
    ...     not any(r >= rate and a >= accuracy and (r, a) != (rate, accuracy) for r, a in points)
    ...     for rate, accuracy in points]).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # A front from another rule for "beats".
    def fault(beats, keep=False):
        return lambda points: [any(beats(o, p) for o in points) == keep for p in points]

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The right points, turned round.
    @faults.says("Those are the points that are beaten: turn True and False round.")
    def _(points):
        return ~_pareto(points)

    # Another rule for "beats".
    @faults.says(
        "To be beaten it is enough to be lower in one and equal in the other: >= in both, and "
        "not the same point."
    )
    @fault
    def _(o, p):
        return o[0] > p[0] and o[1] > p[1]

    @faults.says(
        "Every point is at least as good as itself, and so beats itself there: leave out equal "
        "points."
    )
    @fault
    def _(o, p):
        return o[0] >= p[0] and o[1] >= p[1]

    @faults.says(
        "A point is beaten by one that is as good in both and better in one; better in one of "
        "them alone does not."
    )
    @fault
    def _(o, p):
        return o[0] > p[0] or o[1] > p[1]

    # The wrong direction, or one of the two numbers alone.
    @faults.says(
        "That is the front towards low compressions. A higher compression is a smaller network: "
        "more of both "
        "is better."
    )
    @fault
    def _(o, p):
        return o[0] <= p[0] and o[1] >= p[1] and (o != p)

    @faults.says(
        "That finds the highest accuracy alone; a lower one at a higher compression may lie on "
        "the front, too."
    )
    def _(points):
        highest = max(accuracy for _, accuracy in points)
        return [accuracy == highest for _, accuracy in points]

    # Each point is compared with too few others.
    @faults.says("Two equal points do not beat each other: both lie on the front, or neither.")
    def _(points):
        front = _pareto(points)
        first = [points.index(p) == i for i, p in enumerate(points)]
        return front & first

    @faults.says(
        "That compares each point with the next one of the list alone; compare it with all."
    )
    def _(points):
        following = [*points[1:], points[-1]]
        return [not _beats(n, p) for n, p in zip(following, points, strict=True)]

    # The first difference from the right results is what the message tells.
    right = "Right, for all {count} sets of points."
    return compare(answer, _pareto, CLOUDS, faults, draw=_cloud, right=right)


def _beats(other, point) -> bool:
    """As good in both numbers, and another point."""
    return other[0] >= point[0] and other[1] >= point[1] and other != point


def _pareto(points) -> np.ndarray:
    """From the highest compression downwards: on the front is what is higher than all before it."""
    on = np.zeros(len(points), bool)
    best = -np.inf
    for rate in sorted({r for r, _ in points}, reverse=True):
        highest = max(a for r, a in points if r == rate)
        if highest > best:
            on |= [p == (rate, highest) for p in points]
            best = highest
    return on


def _cloud(cases, wanted, given) -> plots.Drawing:
    # The case to draw: the first wrong one, else the last.
    at = len(cases) - 1
    for i, (yours, right) in enumerate(zip(given, wanted, strict=True)):
        if (_truths(yours) != right).any():
            at = i
            break
    cloud = np.array(cases[at]["points"])
    drawing, ax = plots.canvas(height=3.2)
    # Rings are right, crosses are the answer's.
    front = cloud[wanted[at]]
    named = cloud[_truths(given[at])]
    ring = {"marker": "o", "ms": 13, "mfc": "none", "mec": plots.INK, "mew": 1.6}
    ax.plot(*cloud.T, "o", color=plots.PALE, ms=7, label="points")
    ax.plot(*front.T, ls="none", label="on the front", **ring)
    ax.plot(*named.T, "x", color=plots.BLUE, ms=7, mew=2, label="yours")
    ax.set(xlabel="compression", ylabel="accuracy (%)")
    ax.legend(frameon=False)
    # The sentence has both counts.
    counts = f"{len(front)} of {len(cloud)} points lie on the front"
    drawing.sentence = f"{counts}; you named {len(named)}."
    return drawing


def _truths(answers) -> np.ndarray:
    return np.array([bool(on) for on in answers])
