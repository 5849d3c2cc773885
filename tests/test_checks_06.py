"""The checks of lesson 06: right answers in any dress pass, wrong ones are named."""

import itertools

import numpy as np
import pytest
import torch

from hmq_lab import budget
from hmq_lab.checks import lesson06 as checks


def piecewise(rate, target):
    if rate >= target:
        return 0
    return (1 - rate / target) ** 2


@pytest.mark.parametrize("answer", [
    piecewise,
    budget.hinge,
    lambda rate, target: torch.relu(torch.tensor((target - rate) / target)) ** 2,
    lambda rate, target: np.clip(1 - rate / target, 0, None) ** 2,
])  # fmt: skip
def test_right_hinges(answer):
    assert checks.hinge(answer).passed is True


@pytest.mark.parametrize("answer, says", [
    (lambda rate, target: (1 - rate / target) ** 2, "Above the target"),
    (lambda rate, target: np.clip(1 - rate / target, 0, None), "is squared"),
    (lambda rate, target: np.clip(rate / target - 1, 0, None) ** 2, "reversed"),
    (lambda rate, target: np.clip(target - rate, 0, None) ** 2, "relative to the target"),
    (lambda rate, target: np.clip(target / rate - 1, 0, None) ** 2, "relative to the compression"),
    (lambda rate, target: np.clip(target - rate, 0, None) ** 2 / target, "before squaring"),
])  # fmt: skip
def test_wrong_hinges(answer, says):
    verdict = checks.hinge(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def by_tensors(losses, rates, chosen, target):
    losses, rates = torch.tensor(losses, dtype=torch.float64), torch.tensor(rates)
    return losses[chosen] - losses[rates >= target].min()


def by_loop(losses, rates, chosen, target):
    best = float("inf")
    for loss, rate in zip(losses, rates, strict=True):
        if rate >= target and loss < best:
            best = loss
    return losses[chosen] - best


@pytest.mark.parametrize("answer", [
    by_tensors,
    by_loop,
    lambda losses, rates, chosen, target: losses[chosen] - np.min(np.where(np.array(rates) < target, 9, losses)),
])  # fmt: skip
def test_right_regrets(answer):
    assert checks.regret(answer).passed is True


@pytest.mark.parametrize("answer, says", [
    (lambda losses, rates, chosen, target: losses[chosen] - sorted(losses)[0], "best that reaches the target"),
    (lambda *a, **k: -by_loop(*a, **k), "sign is reversed"),
    (lambda losses, rates, chosen, target: by_loop(losses, [r - 1e-9 for r in rates], chosen, target), ">=, not >"),
    (lambda losses, rates, chosen, target: losses[chosen] - by_loop(losses, rates, chosen, target), "the best choice"),
    (lambda losses, rates, chosen, target: losses[chosen] / (losses[chosen] - by_loop(losses, rates, chosen, target)),
     "quotient"),
    (lambda losses, rates, chosen, target: np.sum((np.array(rates) >= target) & (np.array(losses) < losses[chosen])),
     "a rank"),
])  # fmt: skip
def test_wrong_regrets(answer, says):
    verdict = checks.regret(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def by_product(costs, sizes, target):
    found = None
    for bits in itertools.product(*costs):
        rate = 32 * sum(sizes) / sum(b * n for b, n in zip(bits, sizes, strict=True))
        cost = sum(row[b] for row, b in zip(costs, bits, strict=True))
        if rate >= target and (found is None or cost < found[0]):
            found = cost, bits
    return found[1]


def by_recursion(costs, sizes, target):
    affordable = 32 * sum(sizes) / target

    def best(i, left):
        if i == len(costs):
            return 0.0, ()
        options = []
        for b, cost in costs[i].items():
            rest = best(i + 1, left - b * sizes[i]) if left - b * sizes[i] > -1e-6 else None
            if rest is not None:
                options.append((cost + rest[0], (b, *rest[1])))
        return min(options) if options else None

    return best(0, affordable)[1]


def by_rivals(costs, sizes, target):
    from hmq_lab.rivals.methods import integer_programme

    found = integer_programme(dict(enumerate(costs)), dict(enumerate(sizes)), target)
    return torch.tensor([found[i] for i in range(len(sizes))])


@pytest.mark.parametrize(
    "answer", [by_product, by_recursion, by_rivals, lambda **case: np.array(by_product(**case))]
)
def test_right_best_bits(answer):
    verdict = checks.best_bits(answer)
    assert verdict.passed is True, verdict.message


def cheapest(costs, sizes, target):
    return [min(row, key=row.get) for row in costs]


def over_tensors(costs, sizes, target):
    return by_product(costs, [1] * len(sizes), target)


def strictly(costs, sizes, target):
    return by_product(costs, sizes, target * (1 + 1e-9))


def dearest(costs, sizes, target):
    return by_product([{b: -cost for b, cost in row.items()} for row in costs], sizes, target)


def fewest(costs, sizes, target):
    return [2] * len(sizes)


def one_by_one(costs, sizes, target):
    bits = [8] * len(sizes)
    while 32 * sum(sizes) / sum(b * n for b, n in zip(bits, sizes, strict=True)) < target:
        prices = {}
        for i, row in enumerate(costs):
            for b in row:
                if b < bits[i]:
                    prices[i, b] = (row[b] - row[bits[i]]) / ((bits[i] - b) * sizes[i])
        i, b = min(prices, key=prices.get)
        bits[i] = b
    return bits


@pytest.mark.parametrize("answer, says", [
    (cheapest, "does not reach the target"),
    (over_tensors, "counts weights"),
    (strictly, ">=, not >"),
    (dearest, "look for the cheapest"),
    (fewest, "fewest bits everywhere"),
    (one_by_one, "greedy"),
])  # fmt: skip
def test_wrong_best_bits(answer, says):
    verdict = checks.best_bits(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


@pytest.mark.parametrize("check", [checks.hinge, checks.regret, checks.best_bits])
def test_stubs_and_broken_answers(check):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda **_: None).message
    assert "KeyError" in check(lambda **_: {}[1]).message


def test_what_was_checked_is_drawn_with_words():
    wrong = lambda losses, rates, chosen, target: 1.0  # noqa: E731
    for verdict in (checks.hinge(piecewise), checks.regret(wrong), checks.best_bits(by_product)):
        data, metadata = verdict._repr_mimebundle_()
        assert data["image/png"] and metadata["image/png"]["alt"].startswith(verdict.message)
