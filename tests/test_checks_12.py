"""The checks of lesson 12: right answers in any dress pass, wrong ones are named."""

import itertools
import operator

import numpy as np
import pytest
import torch

from hmq_lab.checks import lesson12 as checks
from hmq_lab.rivals.scores import Outcome


def by_ifs(mine, other):
    if mine[0] < other[0] or mine[1] < other[1]:
        return False
    return mine[0] > other[0] or mine[1] > other[1]


def by_library(mine, other):
    mine, other = (Outcome({}, rate, accuracy, 0.0, 0.0, 0) for rate, accuracy in (mine, other))
    return mine.beats(other)


@pytest.mark.parametrize("answer", [
    by_ifs,
    by_library,
    lambda mine, other: mine != other and np.all(np.array(mine) >= other),
    lambda mine, other: (d := torch.tensor(mine) - torch.tensor(other)).min() >= 0 and d.max() > 0,
])  # fmt: skip
def test_right_beats(answer):
    verdict = checks.beats(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda mine, other: all(map(operator.ge, mine, other)), "equal choices do not beat"),
    (lambda mine, other: all(map(operator.gt, mine, other)), "asks for both"),
    (lambda mine, other: any(map(operator.gt, mine, other)), "not comparable"),
    (lambda mine, other: mine[-1] > other[-1], "accuracy alone"),
    (lambda mine, other: mine[0] > other[0], "compression alone"),
    (lambda mine, other: by_ifs(other, mine), "the other one beats yours"),
    (lambda mine, other: by_ifs((-mine[0], mine[1]), (-other[0], other[1])), "compression is reversed"),
])  # fmt: skip
def test_wrong_beats(answer, says):
    verdict = checks.beats(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def by_sorting(changes, sizes):
    return sorted(range(len(sizes)), key=lambda i: changes[i] / sizes[i])[0]


def by_loop(changes, sizes):
    best, price = None, float("inf")
    for i, (change, size) in enumerate(zip(changes, sizes, strict=True)):
        if change / size < price:
            best, price = i, change / size
    return best


@pytest.mark.parametrize("answer", [
    by_sorting,
    by_loop,
    lambda changes, sizes: np.argmin(np.divide(changes, sizes)),
    lambda sizes, changes: np.argmin(np.divide(changes, sizes)),  # its own order, the same names
    lambda loss, numbers: np.argmin(np.divide(loss, numbers)),
    lambda changes, sizes: torch.argmin(torch.tensor(changes) / torch.tensor(sizes)),
])  # fmt: skip
def test_right_cheapest_bits(answer):
    verdict = checks.cheapest_bit(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda changes, sizes: changes.index(min(changes)), "divide by the size"),
    (lambda changes, sizes: by_loop([-c for c in changes], sizes), "dearest"),
    (lambda changes, sizes: by_loop(changes, [1 / n for n in sizes]), "a quotient"),
    (lambda changes, sizes: sizes.index(max(sizes)), "largest layer"),
    (lambda changes, sizes: by_loop([abs(c) for c in changes], sizes), "no absolute values"),
    (lambda changes, sizes: by_loop(changes, sizes) + 1, "counted from 0"),
    (lambda changes, sizes: min(map(operator.truediv, changes, sizes)), "the price itself"),
])  # fmt: skip
def test_wrong_cheapest_bits(answer, says):
    verdict = checks.cheapest_bit(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def one_by_one(macs, weight_bits, input_bits):
    total = 0
    for m, w, i in zip(macs, weight_bits, input_bits, strict=True):
        total += m * w * i
    return total


@pytest.mark.parametrize("answer", [
    one_by_one,
    lambda macs, weight_bits, input_bits: np.sum(np.array(macs) * weight_bits * input_bits),
    lambda **layers: torch.tensor(list(layers.values())).prod(0).sum(),
])  # fmt: skip
def test_right_bit_operations(answer):
    verdict = checks.bit_operations(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda macs, weight_bits, input_bits: sum(map(operator.mul, macs, weight_bits)), "inputs' bits out"),
    (lambda macs, weight_bits, input_bits: sum(map(operator.mul, macs, input_bits)), "weights' bits out"),
    (lambda macs, weight_bits, input_bits: np.dot(macs, weight_bits) + np.dot(macs, input_bits),
     "not added"),
    (lambda macs, weight_bits, input_bits: sum(macs), "multiply-accumulates"),
    (lambda macs, weight_bits, input_bits: one_by_one(macs, weight_bits, input_bits) / 8, "bytes"),
    (lambda macs, weight_bits, input_bits: sum(macs) * sum(weight_bits) * sum(input_bits) / len(macs) ** 2, "own bits"),
    (lambda **layers: list(itertools.accumulate(layers["macs"])), "shape"),
])  # fmt: skip
def test_wrong_bit_operations(answer, says):
    verdict = checks.bit_operations(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


@pytest.mark.parametrize("check", [checks.beats, checks.cheapest_bit, checks.bit_operations])
def test_stubs_broken_answers_and_drawings(check):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda **_: None).message
    assert "KeyError" in check(lambda **_: {}[1]).message
    verdict = check(lambda **_: 0)
    data, metadata = verdict._repr_mimebundle_()
    assert (
        verdict.passed is False
        and data["image/png"]
        and metadata["image/png"]["alt"].startswith(verdict.message)
    )
