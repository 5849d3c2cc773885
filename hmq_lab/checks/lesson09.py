"""Lesson 09, reading the selection: how far two selections agree, in bits and in order, and what
none gives up.
"""

from __future__ import annotations

import numpy as np

from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points


def _pair(seed: int, count: int) -> dict:
    random = np.random.default_rng(seed)
    one = random.integers(1, 9, count)
    same = random.random(count) < 0.5
    two = np.where(same, one, random.integers(1, 9, count))
    sizes = 10 * random.integers(1, 90, count)
    return {"one": one.tolist(), "two": two.tolist(), "sizes": sizes.tolist()}


def _order(seed: int, count: int) -> dict:
    pair = _pair(seed, count)
    del pair["sizes"]
    return pair


PAIRS = Cases("one", "two", "sizes")
PAIRS.add([8, 2], [8, 3], [100, 900])
PAIRS.add([8, 2, 2], [8, 3, 2], [100, 700, 200])
PAIRS.add([4, 4], [4, 4], [10, 30])
PAIRS.add([4, 4], [8, 3], [10, 30])
PAIRS.append(_pair(1, 4))
PAIRS.append(_pair(2, 8))
PAIRS.append(_pair(3, 20))


@check
def agreement(answer) -> Verdict:
    """Exercise 1: the share of the weights whose bits two selections agree on.

    >>> checks.agreement(lambda one, two, sizes: ...).passed            # lesson 09 has a solution

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # One truth value for each tensor, and the number of weights in those that agree.
    def same(one, two):
        return np.array(one) == np.array(two)

    def agreeing(one, two, sizes):
        return np.dot(same(one, two), sizes)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Tensors are counted, or what differs is.
    @faults.says("That counts tensors; count weights: each tensor by its size.")
    def _(one, two, sizes):
        return same(one, two).mean()

    @faults.says("That is the share they do not agree on.")
    def _(one, two, sizes):
        return 1 - agreeing(one, two, sizes) / sum(sizes)

    # The right count in another unit.
    @faults.says("That is in percent; a share lies from 0 to 1.")
    def _(one, two, sizes):
        return 100 * agreeing(one, two, sizes) / sum(sizes)

    faults.add("That is a number of weights; divide by all of them.", agreeing)

    # Another rule for what agrees, or for what a tensor counts.
    @faults.says("Bits that are one apart are not the same: ==.")
    def _(one, two, sizes):
        close = np.abs(np.subtract(one, two)) <= 1
        return np.dot(close, sizes) / sum(sizes)

    @faults.says("That weighs by bits and size; a weight counts once whatever bits it has.")
    def _(one, two, sizes):
        total = np.multiply(one, sizes)
        return total[same(one, two)].sum() / total.sum()

    @faults.says("That is the number of tensors that agree.")
    def _(one, two, sizes):
        return same(one, two).sum()

    # The drawing names each case by its number of tensors.
    draw = points("share that agrees", lambda case: f"{len(case['sizes'])} weights")
    return compare(answer, _agreement, PAIRS, faults, tolerance=1e-6, draw=draw)


def _agreement(one, two, sizes) -> float:
    """Weight by weight."""
    first = np.repeat(one, sizes)
    second = np.repeat(two, sizes)
    return float(np.count_nonzero(first == second) / first.size)


ORDERS = Cases("one", "two")
ORDERS.add([1, 2, 3], [1, 2, 3])
ORDERS.add([1, 2, 3], [8, 5, 2])
# the same order, not on a line
ORDERS.add([2, 3, 8], [1, 2, 3])
ORDERS.add([2, 2, 8], [2, 4, 8])
ORDERS.add([8, 3, 3, 2, 2, 1, 8], [8, 4, 2, 2, 2, 2, 8])
ORDERS.append(_order(4, 6))
ORDERS.append(_order(5, 9))
ORDERS.append(_order(6, 20))


@check
def rank_correlation(answer) -> Verdict:
    """Exercise 2: Spearman's rank correlation of two selections, with the mean rank for equal bits.

    >>> from scipy.stats import spearmanr
    >>> checks.rank_correlation(lambda one, two: spearmanr(one, two).statistic).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # No ranks at all.
    @faults.says(
        "That is the correlation of the bits. Of two lists in the same order the rank "
        "correlation is 1, whether or not they lie on a line: put ranks in the place of the bits."
    )
    def _(one, two):
        return _pearson(one, two)

    # Equal bits have other ranks.
    @faults.says(
        "Equal bits have different ranks in your answer: the first comes before the second. Give "
        "all of them the mean of their ranks."
    )
    @_of_ranks
    def _(x):
        return np.argsort(np.argsort(x, kind="stable"))

    @faults.says(
        "The formula with 6 * sum d^2 holds without ties only. The plain way always does: "
        "correlate the ranks."
    )
    def _(one, two):
        n = len(one)
        squares = (_ranks(one) - _ranks(two)) ** 2
        return 1 - 6 * squares.sum() / (n**3 - n)

    @faults.says(
        "All equal bits have the lowest of their ranks in your answer; take the mean of their "
        "ranks."
    )
    @_of_ranks
    def _(x):
        return [sum(b < a for b in x) for a in x]

    @faults.says(
        "You numbered the different bit-widths. A rank says how many are below: equal bits share "
        "the mean rank."
    )
    @_of_ranks
    def _(x):
        _, numbers = np.unique(x, return_inverse=True)
        return numbers

    # The sign, or the order in the place of the ranks.
    @faults.says("The sign is reversed: the same order is +1.")
    def _(one, two):
        return -_pearson(_ranks(one), _ranks(two))

    @faults.says("argsort once gives the order, not the ranks: the place of the smallest first.")
    @_of_ranks
    def _(x):
        return np.argsort(x, kind="stable")

    # The drawing names each case by its number of tensors.
    draw = points("rank correlation", lambda case: f"{len(case['one'])} weights")
    return compare(answer, _rank_correlation, ORDERS, faults, tolerance=1e-6, draw=draw)


def _pearson(a, b) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _of_ranks(ranks):
    return lambda one, two: _pearson(ranks(one), ranks(two))


def _ranks(x) -> np.ndarray:
    """How many are smaller, and half of the others that are equal."""
    differences = np.subtract.outer(x, x)
    smaller = (differences > 0).sum(1)
    equal = (differences == 0).sum(1)
    return smaller + (equal - 1) / 2


def _rank_correlation(one, two) -> float:
    """From pairs: with s = sign(a_i - a_j), a centred rank is the sum of s over j, halved."""
    a = _centred_ranks(one)
    b = _centred_ranks(two)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _centred_ranks(x) -> np.ndarray:
    signs = np.sign(np.subtract.outer(x, x))
    return signs.sum(1).astype(float)


SELECTIONS = Cases("selections", "least")
SELECTIONS.add([[8, 2, 4]], 4)
SELECTIONS.add([[8, 2, 8], [8, 2, 3]], 8)
SELECTIONS.add([[2, 8, 8], [3, 8, 5]], 8)
SELECTIONS.add([[8, 5, 3, 2], [8, 6, 2, 1], [7, 5, 4, 2]], 5)
SELECTIONS.add([[8, 5, 3, 2], [8, 6, 2, 1], [7, 5, 4, 2]], 6)
SELECTIONS.add(np.random.default_rng(7).integers(3, 9, (3, 12)).tolist(), 5)


@check
def kept(answer) -> Verdict:
    """Exercise 3: which tensors have at least so many bits in every selection.

    >>> checks.kept(lambda selections, least: [b >= least for b in selections[0]]).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # A wrong answer from a rule for the bits that one tensor has in all selections.
    def each(rule):
        def answer(selections, least):
            return [rule(bits, least) for bits in zip(*selections, strict=True)]

        return answer

    # Another rule over the selections.
    @faults.says("In *every* selection, not in any: one search that gave the bits up is enough.")
    @each
    def _(bits, least):
        return max(bits) >= least

    @faults.says("At least: >=, so that exactly so many bits count.")
    @each
    def _(bits, least):
        return min(bits) > least

    @faults.says("A mean hides the search that gave the bits up: ask of each one.")
    @each
    def _(bits, least):
        return np.mean(bits) >= least

    # Only one of the selections is looked at.
    @faults.says("You looked at the first selection alone.")
    @each
    def _(bits, least):
        return bits[0] >= least

    @faults.says("You looked at the last selection alone.")
    @each
    def _(bits, least):
        return bits[-1] >= least

    # The other tensors, or too few of them.
    @faults.says("Those are the tensors that some search gave up: the others are asked for.")
    @each
    def _(bits, least):
        return min(bits) < least

    @faults.says("Exactly so many bits in every selection is too narrow: more are as good.")
    @each
    def _(bits, least):
        return set(bits) == {least}

    # The drawing names each case by its searches and bits.
    def label(case):
        return f"{len(case['selections'])} searches, {case['least']} bits"

    return compare(answer, _kept, SELECTIONS, faults, draw=points("tensors kept", label))


def _kept(selections, least) -> list[bool]:
    """Cross out what any selection gave up."""
    found = [True] * len(selections[0])
    for bits in selections:
        for place, b in enumerate(bits):
            found[place] &= not b < least
    return found
