"""Lesson 06, a search under a budget: the hinge, the regret of a choice, the best choice by trying
all of them.
"""

from __future__ import annotations

import itertools
import operator

import numpy as np

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, array, check, compare, points

TARGET = 8.0
RATES = [6.0, 8.0, 2.0, 4.0, 7.5, 8.5, 12.0, 16.0, 32.0]


@check
def hinge(answer) -> Verdict:
    """Exercise 1: the loss term of a compression that should reach a target.

    >>> checks.hinge(lambda rate, target: max((target - rate) / target, 0) ** 2).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("rate", "target")
    for target in (8.0, 4.0, 16.0):
        for rate in RATES:
            cases.add(rate, target)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The square and the zero above the target.
    @faults.says(
        "Above the target it must be 0: a compression that is higher than asked for costs nothing."
    )
    def _(rate, target):
        return ((target - rate) / target) ** 2

    @faults.says("The relative shortfall is squared.")
    def _(rate, target):
        return max((target - rate) / target, 0)

    @faults.says("That punishes the compressions above the target and not those below: reversed.")
    def _(rate, target):
        return max((rate - target) / target, 0) ** 2

    # What the shortfall is relative to.
    @faults.says(
        "The shortfall is relative to the target: divide by it, so that the term means the same "
        "for every target."
    )
    def _(rate, target):
        return max(target - rate, 0) ** 2

    @faults.says(
        "That is relative to the compression. Divide by the target: near a compression of 0 the "
        "term must not explode."
    )
    def _(rate, target):
        return max((target - rate) / rate, 0) ** 2

    @faults.says("Divide before squaring: the square is of the whole fraction.")
    def _(rate, target):
        return max(target - rate, 0) ** 2 / target

    # The smaller taken for the larger.
    @faults.says("That is the smaller of the two where it should be the larger: max(shortfall, 0).")
    def _(rate, target):
        return min((target - rate) / target, 0) ** 2

    # The first difference from the right results is what the message tells.
    return compare(answer, _hinge, cases, faults, tolerance=1e-6, draw=_hinges)


def _hinge(rate: float, target: float) -> float:
    """Piece by piece: a parabola that ends at the target."""
    if rate >= target:
        return 0.0
    reached = rate / target
    return 1 - 2 * reached + reached**2


def _hinges(cases, wanted, given) -> plots.Drawing:
    # The cases of one target, from the smallest compression to the largest.
    rows = [row for row in zip(cases, wanted, given, strict=True) if row[0]["target"] == TARGET]
    rows.sort(key=lambda row: row[0]["rate"])
    along = [case["rate"] for case, _, _ in rows]
    right = [float(value) for _, value, _ in rows]
    yours = [float(value) for _, _, value in rows]
    drawing, ax = plots.canvas(height=3.2)
    # The right curve is wide, so that the other one shows on top of it.
    ax.plot(along, right, color=plots.PALE, lw=5, label="right")
    ax.plot(along, yours, color=plots.BLUE, marker="o", lw=1.6, label="yours")
    ax.axvline(TARGET, color=plots.INK, ls="--", label="target")
    ax.set(xlabel="compression", ylabel="hinge")
    ax.legend(frameon=False)
    drawing.sentence = (
        f"Your hinge over the compression beside the right one, for a target of {TARGET:g}."
    )
    return drawing


# losses and compressions of a few choices, which of them was taken, and the target
CHOICES = Cases("losses", "rates", "chosen", "target")
CHOICES.add([0.2, 0.5, 0.9], [4.0, 8.0, 16.0], 2, 8.0)
CHOICES.add([0.2, 0.5, 0.9], [4.0, 8.0, 16.0], 1, 8.0)
CHOICES.add([0.9, 0.3, 0.7, 0.1], [9.0, 8.1, 8.0, 7.9], 0, 8.0)
CHOICES.add([0.4, 0.3, 0.25, 2.0], [16.0, 10.0, 12.0, 16.0], 3, 12.0)
CHOICES.add([1.5, 0.6, 0.8, 0.7, 0.65], [20.0, 5.0, 6.0, 9.0, 7.0], 2, 6.0)


@check
def regret(answer) -> Verdict:
    """Exercise 2: how much more a choice loses than the best one within the budget.

    >>> checks.regret(lambda losses, rates, chosen, target:
    ...     losses[chosen] - min(l for l, r in zip(losses, rates) if r >= target)).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The losses of all choices that reach the target.
    def fit(losses, rates, target):
        reached = np.array(rates) >= target
        return np.array(losses)[reached]

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The choice is compared with another one than the best within the budget.
    @faults.says(
        "The best of all choices is not the one to compare with: take the best that reaches the "
        "target."
    )
    def _(losses, rates, chosen, target):
        return losses[chosen] - min(losses)

    @faults.says("The sign is reversed: a regret is never negative.")
    def _(losses, rates, chosen, target):
        return min(fit(losses, rates, target)) - losses[chosen]

    @faults.says("A choice whose compression is exactly the target reaches it: >=, not >.")
    def _(losses, rates, chosen, target):
        just_above = np.nextafter(target, 99)
        return losses[chosen] - min(fit(losses, rates, just_above))

    @faults.says(
        "That compares with the choices below the target. A higher compression is a smaller "
        "network: rates >= target."
    )
    def _(losses, rates, chosen, target):
        below = fit(losses, -np.array(rates), -target)
        return losses[chosen] - min(below)

    # The right comparison with another result of it.
    @faults.says("That is the loss of the best choice, not what yours loses beyond it.")
    def _(losses, rates, chosen, target):
        return min(fit(losses, rates, target))

    @faults.says(
        "That is how many choices are better, a rank; the regret is a difference of losses."
    )
    def _(losses, rates, chosen, target):
        return sum(fit(losses, rates, target) < losses[chosen])

    @faults.says("That is a quotient; the regret is a difference of losses.")
    def _(losses, rates, chosen, target):
        return losses[chosen] / min(fit(losses, rates, target))

    @faults.says("That compares with the worst choice: regret looks up to the best.")
    def _(losses, rates, chosen, target):
        return losses[chosen] - max(fit(losses, rates, target))

    # The drawing names each case by its choice.
    def label(case):
        return f"choice {case['chosen']} of {len(case['losses'])}"

    draw = points("regret", label)
    return compare(answer, _regret, CHOICES, faults, tolerance=1e-9, draw=draw)


def _regret(losses, rates, chosen, target) -> float:
    """By going down the list of choices, sorted by loss, to the first that fits."""
    by_loss = sorted(zip(losses, rates, strict=True))
    best = next(loss for loss, rate in by_loss if rate >= target)
    return losses[chosen] - best


def _problem(seed: int, tensors: int, target: float) -> dict:
    random = np.random.default_rng(seed)
    sizes = 10 * random.integers(1, 40, tensors)
    scales = random.uniform(0.2, 2.0, tensors)

    # Fewer bits cost more, by about a factor of 2 for each bit.
    def cost(scale, bits):
        return round(scale * 2.0**-bits * random.uniform(0.5, 2), 6)

    costs = []
    for scale in scales:
        costs.append({bits: cost(scale, bits) for bits in (2, 4, 8)})
    return {"costs": costs, "sizes": sizes.tolist(), "target": target}


PROBLEMS = Cases("costs", "sizes", "target")
PROBLEMS.add([{2: 0.3, 4: 0.1, 8: 0.0}], [100], 8.0)
# fewer can be better
PROBLEMS.add([{2: 0.5, 4: 0.2, 8: 0.0}, {2: 0.2, 4: 0.3, 8: 0.1}], [100, 900], 8.0)
# exactly what 2 and 8 reach
PROBLEMS.add([{2: 0.9, 8: 0.0}, {2: 0.8, 8: 0.0}], [10, 10], 6.4)
# the cheapest change per bit, twice, leads past the best: little is missing after the first one
PROBLEMS.add([{2: 0.8, 4: 0.5, 8: 0.0}, {2: 1.0, 4: 0.1, 8: 0.0}], [10, 100], 7.5)
PROBLEMS.append(_problem(1, 3, 6.0))
PROBLEMS.append(_problem(2, 4, 8.0))
PROBLEMS.append(_problem(3, 5, 10.0))


@check
def best_bits(answer) -> Verdict:
    """Exercise 3: the bits with the least sum of costs that reach the target, by trying every
    choice.

    >>> checks.best_bits(lambda costs, sizes, target: ...).passed        # lesson 06 has a solution

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The target is left out or counted in another way.
    @faults.says("That has the least cost of all but does not reach the target.")
    @_fault
    def _(compression, target):
        return True

    faults.add(
        "That reaches the target counted over tensors: a compression of the weights counts "
        "weights, so multiply bits by sizes.",
        _fault(counted=np.ones_like),
    )

    # The comparison with the target is another one.
    @faults.says("The sign of the target is reversed: rate >= target.")
    @_fault
    def _(rate, target):
        return rate <= target

    @faults.says("A compression equal to the target reaches it: >=, not >.")
    @_fault
    def _(rate, target):
        return rate > target

    faults.add(
        "That is the dearest choice that reaches the target; look for the cheapest.",
        _fault(sign=-1),
    )

    # No search through all choices.
    faults.add("Those are the fewest bits everywhere, more than the target asks for.", _fewest)

    faults.add(
        "That is what a greedy choice gives, the cheapest change per bit first. It reaches the "
        "target, but trying all choices finds a cheaper one.",
        _greedy,
    )

    faults.add("That gives every tensor the same bits; tensors may differ.", _uniform)

    # The first difference from the right results is what the message tells.
    return compare(
        answer, _best_bits, PROBLEMS, faults, draw=_sums, right="Right, in all {count} problems."
    )


def _sums(cases, wanted, given) -> plots.Drawing:
    # The sum of costs of each answer; bits that a problem does not have give no number.
    def total(case, bits):
        rows = zip(case["costs"], array(bits), strict=True)
        return sum(row.get(b, np.nan) for row, b in rows)

    # The names of the cases count the problems.
    def label(case):
        number = 1 + next(i for i, other in enumerate(cases) if other is case)
        return f"problem {number}: {len(case['sizes'])}"

    draw = points("sum of costs", label)
    right = [total(case, bits) for case, bits in zip(cases, wanted, strict=True)]
    yours = [total(case, bits) for case, bits in zip(cases, given, strict=True)]
    drawing = draw(cases, right, yours)
    drawing.axes[0].set_xlabel("problem and its number of tensors; below the ring: over the budget")
    return drawing


def _table(costs, sizes, counted=np.asarray):
    """Of every choice its bits (N, T), its sum of costs (N,), its compression (N,)."""
    bits = np.array(list(itertools.product(*costs)))
    cost = [sum(row[b] for row, b in zip(costs, choice, strict=True)) for choice in bits]
    weight = counted(np.array(sizes))
    compression = 32 * weight.sum() / (bits @ weight)
    return bits, np.array(cost), compression


def _cheapest(bits, cost, allowed) -> list[int]:
    """The bits of the allowed choice with the least cost."""
    best = np.where(allowed, cost, np.inf).argmin()
    return bits[best].tolist()


def _best_bits(costs, sizes, target) -> list[int]:
    bits, cost, compression = _table(costs, sizes)
    return _cheapest(bits, cost, compression >= target)


def _fault(fits=operator.ge, counted=np.asarray, sign=1):
    def answer(costs, sizes, target):
        bits, cost, compression = _table(costs, sizes, counted)
        return _cheapest(bits, sign * cost, fits(compression, target))

    return answer


def _fewest(costs, sizes, target) -> list[int]:
    return [min(row) for row in costs]


def _uniform(costs, sizes, target) -> list[int]:
    bits, cost, compression = _table(costs, sizes)
    same = (bits == bits[:, :1]).all(1)
    return _cheapest(bits, cost, same & (compression >= target))


def _greedy(costs, sizes, target) -> list[int]:
    # From the most bits downwards, until the target is reached.
    bits = [max(row) for row in costs]
    while 32 * sum(sizes) / np.dot(bits, sizes) < target:
        # The cheapest change: the rise of the cost for each bit saved.
        changes = []
        for i, row in enumerate(costs):
            for fewer in (b for b in row if b < bits[i]):
                rise = row[fewer] - row[bits[i]]
                saved = sizes[i] * (bits[i] - fewer)
                changes.append((rise / saved, i, fewer))
        _, i, fewer = min(changes)
        bits[i] = fewer
    return bits
