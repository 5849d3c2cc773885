"""Other ways to choose bits from the space of a search.

They are uniform bits, a greedy descent, an integer programme, and all choices there are.

>>> from hmq_lab.block import SearchSpace
>>> loss = lambda bits: 1 / bits["a"] + 9 / bits["b"]        # or a `Landscape`
>>> greedy(loss, {"a": 100, "b": 100}, SearchSpace((2, 4, 8)), target=6)
{'a': 2, 'b': 8}

Each gives {name: bits} whose compression (32 bits over the mean bits of a weight) is at or above
the target, and raises ValueError where no choice from the space reaches it. `sizes` is
{name: elements}, as `budget.weight_sizes(model)` returns it. Thresholds are left to the loss: see
`landscape`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
from tqdm.auto import tqdm

from hmq_lab.block import SearchSpace, check_space
from hmq_lab.budget import FLOAT_BITS, Target, compression

# {name: bits}; a loss of bits; and {name: {bits: cost}}.
Bits = dict[str, int]
Loss = Callable[[Bits], float]
Costs = Mapping[str, Mapping[int, float]]


def uniform(sizes: Mapping[str, int], space: SearchSpace, target: float) -> Bits:
    """Return the same bits for every tensor: the most that reach the target.

    >>> uniform({"a": 100, "b": 900}, SearchSpace((2, 4, 8)), target=8)
    {'a': 4, 'b': 4}

    Args:
        sizes: {name: elements}.
        space: the bit-widths to choose from.
        target: the compression to reach.
    """
    # The fewest bits that the target allows.
    _check(space, target)
    within = [bits for bits in space.bits if FLOAT_BITS / bits >= target]
    return dict.fromkeys(sizes, max(within))


def _check(space: SearchSpace, target: float) -> None:
    check_space(space)
    Target(weights=target).check_reachable(space)


def greedy(loss: Loss, sizes: Mapping[str, int], space: SearchSpace, target: float) -> Bits:
    """Return bits found downwards: always the change that costs the least loss per bit saved.

    >>> loss = lambda bits: 1 / bits["a"] + 9 / bits["b"]
    >>> greedy(loss, {"a": 100, "b": 100}, SearchSpace((2, 4, 8)), target=6)
    {'a': 2, 'b': 8}

    It begins with the most bits. A change takes one tensor to any lower bit-width; of two as good,
    the change of the earlier tensor. No step is taken back.

    Args:
        loss: a function of {name: bits}.
        sizes: {name: elements}.
        space: the bit-widths to choose from.
        target: the compression to reach.
    """
    # Begin with the most bits everywhere.
    _check(space, target)
    bits = dict.fromkeys(sizes, space.bits[-1])
    now = loss(bits)
    while compression(bits, sizes) < target:
        # Measure every change, and its price for a bit that is saved.
        after, price = {}, {}
        for name in sizes:
            for lower in space.bits:
                if lower < bits[name]:
                    change = (name, lower)
                    after[change] = loss(bits | {name: lower})
                    saved = sizes[name] * (bits[name] - lower)
                    price[change] = (after[change] - now) / saved

        # Take the cheapest change.
        best = min(price, key=lambda change: price[change])
        name, lower = best
        bits, now = bits | {name: lower}, after[best]
    return bits


def exhaustive(
    loss: Loss,
    sizes: Mapping[str, int],
    space: SearchSpace,
    target: float = 1.0,
    progress: bool = False,
) -> list[tuple[float, Bits]]:
    """Return every choice that reaches the target with its loss, the best first.

    >>> loss = lambda bits: 1 / bits["a"] + 9 / bits["b"]
    >>> exhaustive(loss, {"a": 100, "b": 100}, SearchSpace((2, 4)), target=10)
    [(2.75, {'a': 2, 'b': 4}), (4.75, {'a': 4, 'b': 2}), (5.0, {'a': 2, 'b': 2})]

    The last tensor changes fastest, which is cheap for a `Landscape`. There are
    len(space.bits) ** len(sizes) choices in all.

    Args:
        loss: a function of {name: bits}.
        sizes: {name: elements}.
        space: the bit-widths to choose from.
        target: the compression to reach.
        progress: whether to show a progress bar.
    """
    # Try all of them.
    _check(space, target)
    count = len(space.bits) ** len(sizes)
    combinations = itertools.product(space.bits, repeat=len(sizes))
    found = []
    for combination in tqdm(combinations, total=count, disable=not progress):
        bits = dict(zip(sizes, combination, strict=True))
        if compression(bits, sizes) >= target:
            found.append((loss(bits), bits))
    return sorted(found, key=lambda choice: choice[0])


def alone(loss: Loss, sizes: Mapping[str, int], space: SearchSpace) -> dict[str, dict[int, float]]:
    """Return the cost of each tensor alone: the rise of the loss when it alone has fewer bits.

    >>> loss = lambda bits: 1 / bits["a"] + 9 / bits["b"]
    >>> alone(loss, {"a": 100, "b": 100}, SearchSpace((2, 8)))
    {'a': {2: 0.375, 8: 0.0}, 'b': {2: 3.375, 8: 0.0}}

    As costs of an `integer_programme` these rises count as independent: how two tensors together
    change the loss is not in them.

    Args:
        loss: a function of {name: bits}.
        sizes: {name: elements}.
        space: the bit-widths; all other tensors have the most bits.
    """
    # The loss with the most bits everywhere is the base.
    check_space(space)
    most = dict.fromkeys(sizes, space.bits[-1])
    base = loss(most)
    rises = {}
    for name in sizes:
        rises[name] = {bits: loss(most | {name: bits}) - base for bits in space.bits}
    return rises


def integer_programme(costs: Costs, sizes: Mapping[str, int], target: float) -> Bits:
    """Return the bits with the least sum of costs, exact to 1e-9 of the largest cost.

    >>> costs = {"a": {2: 0.5, 8: 0.0}, "b": {2: 3.0, 8: 0.0}}
    >>> integer_programme(costs, {"a": 100, "b": 100}, target=6)
    {'a': 2, 'b': 8}

    There is a variable of 0 or 1 for each tensor and bit-width. Each tensor has one bit-width, and
    all bits together are within the budget. HAWQ-V3 (Yao et al., 2021) chooses so, with another
    sensitivity as the cost.

    Args:
        costs: {name: {bits: cost}}, such as `Landscape.errors` or the rises of `alone`.
        sizes: {name: elements}.
        target: the compression to reach.

    Raises:
        ValueError: for a cost that is missing or not finite.
    """
    # Comes with the lab, not the core.
    from scipy.optimize import Bounds, LinearConstraint, milp

    # Each tensor has costs, and they are finite.
    if costs.keys() != sizes.keys():
        wanted, given = ", ".join(sizes), ", ".join(costs) or "none"
        raise ValueError(f"costs are needed for {wanted}, got them for {given}")
    pairs = [(name, b, cost) for name in sizes for b, cost in costs[name].items()]
    for name, b, cost in pairs:
        if not math.isfinite(cost):
            raise ValueError(f"costs must be finite, got {cost!r} for {name} at {b} bits")
    # The fewest bits must be enough.
    fewest = compression({name: min(costs[name]) for name in sizes}, sizes)
    if fewest < target:
        raise ValueError(
            f"a compression of the weights of {target:g} cannot be reached: the largest is {fewest:g}"
        )

    # The tolerances of the solver are absolute: bring the largest cost to 1,000.
    # `needed` are the bits that each pair takes.
    price = np.array([cost for *_, cost in pairs])
    price = price * (1e3 / max(np.abs(price).max(), 1e-300))
    needed = np.array([float(sizes[name] * b) for name, b, _ in pairs])
    rows = [[float(name == pair[0]) for pair in pairs] for name in sizes]
    one_each = LinearConstraint(rows, 1, 1)

    # A solution may exceed the budget by less than the tolerance: then try again with less.
    within = _most_bits(sizes, target)
    budget = within
    while True:
        affordable = LinearConstraint(needed[None] / within, -np.inf, budget / within)
        found = milp(
            price,
            integrality=1,
            bounds=Bounds(0, 1),
            constraints=[one_each, affordable],
            options={"mip_rel_gap": 0},
        )
        if found.x is None:
            raise RuntimeError(f"scipy's milp found nothing: {found.message}")
        chosen = found.x > 0.5
        used = needed[chosen].sum()
        if used <= within:
            picked = itertools.compress(pairs, chosen)
            return {name: b for name, b, _ in picked}
        budget -= used - within


def _most_bits(sizes: Mapping[str, int], target: float) -> int:
    """Return how many bits all weights together may have, exact to the last digit of `compression`."""
    # Round down as `compression` would see it.
    total = FLOAT_BITS * sum(sizes.values())
    within = math.floor(total / target) + 1
    while total / within < target:
        within -= 1
    return within
