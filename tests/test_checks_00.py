"""The checks of lesson 00: right answers in any dress pass, wrong ones are named."""

import numpy as np
import pytest
import torch

from hmq_lab.checks import lesson00 as checks


def by_levels(bits, threshold):
    return np.linspace(-threshold, threshold, 2**bits, endpoint=False)[-1]


def by_torch(bits, threshold):
    return torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).max() * (threshold / 2 ** (bits - 1))


def by_adding(bits, threshold):
    value = -threshold
    for _ in range(2**bits - 1):
        value = value + threshold / 2 ** (bits - 1)
    return value


@pytest.mark.parametrize(
    "answer",
    [by_levels, by_torch, by_adding, lambda bits, threshold: threshold * (1 - 2 / 2**bits)],
)
def test_right_answers_for_the_largest_value(answer):
    assert checks.largest(answer).passed is True


@pytest.mark.parametrize("answer, says", [
    (lambda bits, threshold: threshold, "one step below it"),
    (lambda bits, threshold: threshold * (2**bits - 1) / 2**bits, "unsigned"),
    (lambda bits, threshold: -threshold, "smallest"),
    (lambda bits, threshold: 2 ** (bits - 1) - 1, "integer code"),
    (lambda bits, threshold: threshold / 2 ** (bits - 1), "the step"),
    (lambda bits, threshold: threshold - 2 * threshold / 2 ** (bits - 1), "two steps"),
])  # fmt: skip
def test_wrong_answers_for_the_largest_value(answer, says):
    verdict = checks.largest(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message
    assert verdict.message.startswith("Not yet. For bits=")


def by_loop(bits, sizes):
    stored = weights = 0
    for i in range(len(bits)):
        stored += bits[i] * sizes[i]
        weights += sizes[i]
    return stored / weights


@pytest.mark.parametrize("answer", [
    by_loop,
    lambda bits, sizes: np.average(bits, weights=sizes),
    lambda bits, sizes: torch.dot(torch.tensor(bits).double(), torch.tensor(sizes).double()) / sum(sizes),
    lambda bits, sizes: np.dot(bits, np.array(sizes) / np.sum(sizes)),
])  # fmt: skip
def test_right_answers_for_the_mean_bits(answer):
    assert checks.mean_bits(answer).passed is True


@pytest.mark.parametrize("answer, says", [
    (lambda bits, sizes: sum(bits) / len(bits), "counts tensors, not weights"),
    (lambda bits, sizes: np.dot(bits, sizes), "divide it by the number of weights"),
    (lambda bits, sizes: 32 / by_loop(bits, sizes), "compression"),
    (lambda bits, sizes: np.multiply(bits, sizes).mean(), "not of tensors"),
    (lambda bits, sizes: int(by_loop(bits, sizes)), "rounded down"),
    (lambda bits, sizes: np.sum(sizes) / np.dot(bits, sizes), "reversed"),
])  # fmt: skip
def test_wrong_answers_for_the_mean_bits(answer, says):
    verdict = checks.mean_bits(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


@pytest.mark.parametrize(
    "check, names", [(checks.largest, ("bits", "threshold")), (checks.mean_bits, ("bits", "sizes"))]
)
def test_stubs_and_broken_answers(check, names):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda **_: None).message
    assert "ZeroDivisionError" in check(lambda **_: 1 / 0).message


def test_what_was_checked_is_drawn_with_words():
    for verdict in (
        checks.largest(by_levels),
        checks.mean_bits(by_loop),
        checks.mean_bits(lambda bits, sizes: 1.0),
    ):
        data, metadata = verdict._repr_mimebundle_()
        assert data["image/png"] and metadata["image/png"]["alt"].startswith(verdict.message)
