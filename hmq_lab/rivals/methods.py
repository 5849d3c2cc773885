"""Other ways to choose bits, over the same space as a search: uniform, greedy, an integer programme, all of them.

>>> sizes = budget.weight_sizes(model)                     # {name: elements} of an attached network
>>> loss = Landscape(model, x, y)                          # or any function of {name: bits}
>>> greedy(loss, sizes, SearchSpace((2, 4, 8)), target=8)
{'conv1.weight': 8, 'layer1.0.conv1.weight': 8, ..., 'layer3.0.conv2.weight': 2, 'linear.weight': 8}

Each gives {name: bits} whose rate (32 bits over the mean bits of a weight) is at or above the target, and raises
ValueError where no choice from the space reaches it. Thresholds are left to the loss: see `landscape`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
from tqdm.auto import tqdm

from hmq_lab.block import SearchSpace, check_space
from hmq_lab.budget import FLOAT_BITS, Target, rate

Bits = dict[str, int]
Loss = Callable[[Bits], float]
Costs = Mapping[str, Mapping[int, float]]


def uniform(sizes: Mapping[str, int], space: SearchSpace, target: float) -> Bits:
    """The same bits for every tensor: the most that reach the target.

    >>> uniform({"a": 100, "b": 900}, SearchSpace((2, 4, 8)), target=8)
    {'a': 4, 'b': 4}
    """
    check_space(space)
    Target(weights=target).check_reachable(space)
    return dict.fromkeys(sizes, max(b for b in space.bits if FLOAT_BITS / b >= target))


def greedy(loss: Loss, sizes: Mapping[str, int], space: SearchSpace, target: float) -> Bits:
    """From the most bits downwards: always the change that costs the least loss for each bit saved.

    >>> greedy(lambda bits: 1 / bits["a"] + 9 / bits["b"], {"a": 100, "b": 100}, SearchSpace((2, 4, 8)), target=6)
    {'a': 2, 'b': 8}

    A change takes one tensor to any lower bit-width. Of two as good, the earlier tensor's; no step is taken back.
    """
    check_space(space)
    Target(weights=target).check_reachable(space)
    bits = dict.fromkeys(sizes, space.bits[-1])
    now = loss(bits)
    while rate(bits, sizes) < target:
        changes = [(name, lower) for name in sizes for lower in space.bits if lower < bits[name]]
        after = {change: loss(bits | dict([change])) for change in changes}
        name, lower = min(changes, key=lambda c: (after[c] - now) / (sizes[c[0]] * (bits[c[0]] - c[1])))
        bits, now = bits | {name: lower}, after[name, lower]
    return bits


def exhaustive(
    loss: Loss, sizes: Mapping[str, int], space: SearchSpace, target: float = 1.0, progress: bool = False
) -> list[tuple[float, Bits]]:
    """Every choice that reaches the target with its loss, the best first: the truth, where it can be afforded.

    >>> exhaustive(lambda bits: 1 / bits["a"] + 9 / bits["b"], {"a": 100, "b": 100}, SearchSpace((2, 4)), target=10)
    [(2.75, {'a': 2, 'b': 4}), (4.75, {'a': 4, 'b': 2}), (5.0, {'a': 2, 'b': 2})]

    The last tensor changes fastest, as `Landscape` likes it. There are len(space.bits) ** len(sizes) choices in all.
    """
    check_space(space)
    Target(weights=target).check_reachable(space)
    count = len(space.bits) ** len(sizes)
    found = []
    for combination in tqdm(itertools.product(space.bits, repeat=len(sizes)), total=count, disable=not progress):
        bits = dict(zip(sizes, combination, strict=True))
        if rate(bits, sizes) >= target:
            found.append((loss(bits), bits))
    return sorted(found, key=lambda choice: choice[0])


def alone(loss: Loss, sizes: Mapping[str, int], space: SearchSpace) -> dict[str, dict[int, float]]:
    """What each tensor costs by itself: the rise of the loss with this tensor at so many bits, the others at the most.

    >>> alone(lambda bits: 1 / bits["a"] + 9 / bits["b"], {"a": 100, "b": 100}, SearchSpace((2, 8)))
    {'a': {2: 0.375, 8: 0.0}, 'b': {2: 3.375, 8: 0.0}}

    As costs of an `integer_programme` these take the rises for independent: that two tensors spoil each other's work,
    or make up for it, is not in them.
    """
    check_space(space)
    most = dict.fromkeys(sizes, space.bits[-1])
    base = loss(most)
    return {name: {b: loss(most | {name: b}) - base for b in space.bits} for name in sizes}


def integer_programme(costs: Costs, sizes: Mapping[str, int], target: float) -> Bits:
    """The bits with the least sum of costs, one for each tensor and bit-width: exact to 1e-9 of the largest cost.

    >>> integer_programme({"a": {2: 0.5, 8: 0.0}, "b": {2: 3.0, 8: 0.0}}, {"a": 100, "b": 100}, target=6)
    {'a': 2, 'b': 8}

    costs: {name: {bits: cost}}, finite: a squared error (`Landscape.errors`), or the loss's rise (`alone`). A variable
    of 0 or 1 for each pair; one pair per tensor; the bits of all weights together within the budget. HAWQ-V3 (Yao et
    al., 2021) chooses so, with a sensitivity of its own. Raises ValueError for a cost that is missing or not finite.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # scipy comes with the lab, not with the core

    if costs.keys() != sizes.keys():
        raise ValueError(f"costs are needed for {', '.join(sizes)}, got them for {', '.join(costs) or 'none'}")
    pairs = [(name, b, cost) for name in sizes for b, cost in costs[name].items()]
    for name, b, cost in pairs:
        if not math.isfinite(cost):
            raise ValueError(f"costs must be finite, got {cost!r} for {name} at {b} bits")
    fewest = rate({name: min(costs[name]) for name in sizes}, sizes)
    if fewest < target:
        raise ValueError(f"a weight rate of {target:g} cannot be reached: the largest is {fewest:g}")
    within = math.floor(FLOAT_BITS * sum(sizes.values()) / target) + 1
    while FLOAT_BITS * sum(sizes.values()) / within < target:  # as `rate` has it, to the last digit
        within -= 1
    needed = np.array([float(sizes[name] * b) for name, b, _ in pairs])
    one_each = LinearConstraint([[float(name == pair[0]) for pair in pairs] for name in sizes], 1, 1)
    price = np.array([cost for *_, cost in pairs])
    price = price * (1e3 / max(np.abs(price).max(), 1e-300))  # the solver's tolerances are absolute
    budget = within
    while True:
        constraints = [one_each, LinearConstraint(needed[None] / within, -np.inf, budget / within)]
        options = {"mip_rel_gap": 0}
        found = milp(price, integrality=1, bounds=Bounds(0, 1), constraints=constraints, options=options)
        if found.x is None:
            raise RuntimeError(f"scipy's milp found nothing: {found.message}")
        chosen = found.x > 0.5
        if needed[chosen].sum() <= within:
            return {name: b for (name, b, _), picked in zip(pairs, chosen, strict=True) if picked}
        budget -= needed[chosen].sum() - within  # over the budget, by less than its tolerance
