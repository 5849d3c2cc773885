"""Lesson 06, a search under a budget: the hinge, the regret of a choice, the best choice by trying
all of them.
"""

from __future__ import annotations

import numpy as np

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, points

TARGET = 8.0
RATES = np.array([6.0, 8.0, 2.0, 4.0, 7.5, 8.5, 12.0, 16.0, 32.0])


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
    cases = [{"rate": float(r), "target": t} for t in (8.0, 4.0, 16.0) for r in RATES]

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
    return 0.0 if rate >= target else 1 - 2 * rate / target + (rate / target) ** 2


def _hinges(cases, wanted, given) -> plots.Drawing:
    # The cases of one target, from the smallest compression to the largest.
    at = sorted((case["rate"], i) for i, case in enumerate(cases) if case["target"] == TARGET)
    drawing, ax = plots.canvas(height=3.2)
    along = [rate for rate, _ in at]
    # The right curve is wide, so that the other one shows on top of it.
    ax.plot(along, [wanted[i] for _, i in at], color=plots.PALE, lw=5, label="right")
    ax.plot(
        along, [float(given[i]) for _, i in at], color=plots.BLUE, marker="o", lw=1.6, label="yours"
    )
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
        return np.array(losses)[np.array(rates) >= target]

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
        return losses[chosen] - min(fit(losses, rates, np.nextafter(target, 99)))

    @faults.says(
        "That compares with the choices below the target. A higher compression is a smaller "
        "network: rates >= target."
    )
    def _(losses, rates, chosen, target):
        return losses[chosen] - min(fit(losses, -np.array(rates), -target))

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
    draw = points("regret", lambda case: f"choice {case['chosen']} of {len(case['losses'])}")
    return compare(answer, _regret, CHOICES, faults, tolerance=1e-9, draw=draw)


def _regret(losses, rates, chosen, target) -> float:
    """By going down the list of choices, sorted by loss, to the first that fits."""
    best = next(loss for loss, rate in sorted(zip(losses, rates, strict=True)) if not rate < target)
    return losses[chosen] - best


def _problem(seed: int, tensors: int, target: float) -> dict:
    random = np.random.default_rng(seed)
    sizes = (10 * random.integers(1, 40, tensors)).tolist()
    scale = random.uniform(0.2, 2.0, tensors)
    costs = [{b: round(s * 2.0**-b * random.uniform(0.5, 2), 6) for b in (2, 4, 8)} for s in scale]
    return {"costs": costs, "sizes": sizes, "target": target}


PROBLEMS = Cases("costs", "sizes", "target")
PROBLEMS.add([{2: 0.3, 4: 0.1, 8: 0.0}], [100], 8.0)
# fewer can be better
PROBLEMS.add([{2: 0.5, 4: 0.2, 8: 0.0}, {2: 0.2, 4: 0.3, 8: 0.1}], [100, 900], 8.0)
# exactly what 2 and 8 reach
PROBLEMS.add([{2: 0.9, 8: 0.0}, {2: 0.8, 8: 0.0}], [10, 10], 6.4)
# the cheapest change per bit, twice, leads past the best: little is missing after the first one
PROBLEMS.add([{2: 0.8, 4: 0.5, 8: 0.0}, {2: 1.0, 4: 0.1, 8: 0.0}], [10, 100], 7.5)
PROBLEMS += [
    _problem(seed, tensors, target)
    for seed, tensors, target in ((1, 3, 6.0), (2, 4, 8.0), (3, 5, 10.0))
]


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
    def _(rate, target):
        return True

    faults.add(
        "That reaches the target counted over tensors: a compression of the weights counts "
        "weights, so multiply "
        "bits by sizes.",
        _fault(counted=lambda sizes: np.ones_like(sizes)),
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
    def sums(results):
        return [
            sum(row.get(b, np.nan) for row, b in zip(c["costs"], bits, strict=True))
            for c, bits in zip(cases, results, strict=True)
        ]

    # The names of the cases count the problems.
    number = {id(case): i for i, case in enumerate(cases, 1)}
    draw = points("sum of costs", lambda case: f"problem {number[id(case)]}: {len(case['sizes'])}")
    drawing = draw(cases, sums(map(_listed, wanted)), sums(map(_listed, given)))
    drawing.axes[0].set_xlabel("problem and its number of tensors; below the ring: over the budget")
    return drawing


def _listed(bits) -> list:
    return np.asarray(bits).tolist()


def _table(costs, sizes, counted=np.asarray):
    """Of every choice its bits (N, T), its sum of costs (N,), its compression (N,)."""
    grid = np.meshgrid(*[np.array(list(row)) for row in costs], indexing="ij")
    bits = np.stack([g.ravel() for g in grid], 1)
    cost = sum(
        np.vectorize(row.__getitem__)(column) for row, column in zip(costs, bits.T, strict=True)
    )
    weight = counted(np.array(sizes))
    return bits, cost, 32 * weight.sum() / (bits @ weight)


def _best_bits(costs, sizes, target) -> list[int]:
    bits, cost, rate = _table(costs, sizes)
    return bits[np.where(rate >= target, cost, np.inf).argmin()].tolist()


def _fault(fits=lambda rate, target: rate >= target, counted=np.asarray, sign=1):
    def answer(costs, sizes, target):
        bits, cost, rate = _table(costs, sizes, counted)
        return bits[np.where(fits(rate, target), sign * cost, np.inf).argmin()].tolist()

    return answer


def _fewest(costs, sizes, target) -> list[int]:
    return [min(row) for row in costs]


def _uniform(costs, sizes, target) -> list[int]:
    bits, cost, rate = _table(costs, sizes)
    same = (bits == bits[:, :1]).all(1)
    return bits[np.where(same & (rate >= target), cost, np.inf).argmin()].tolist()


def _greedy(costs, sizes, target) -> list[int]:
    # From the most bits downwards, until the target is reached.
    bits = [max(row) for row in costs]
    while 32 * sum(sizes) / np.dot(bits, sizes) < target:
        changes = [(i, b) for i, row in enumerate(costs) for b in row if b < bits[i]]
        # The cheapest change: the rise of the cost for each bit saved.
        i, b = min(
            changes,
            key=lambda c: (
                (costs[c[0]][c[1]] - costs[c[0]][bits[c[0]]]) / sizes[c[0]] / (bits[c[0]] - c[1])
            ),
        )
        bits[i] = b
    return bits
