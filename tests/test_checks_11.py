"""The checks of lesson 11: right answers in any dress pass, wrong ones are named."""

import numpy as np
import pytest
import torch

from hmq_lab import budget
from hmq_lab.checks import lesson11 as checks
from hmq_lab.plots import comparison
from hmq_lab.plots.published import Value


def judged(check, answer, says):
    verdict = check(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


# --- 1: a rate


def wcr_by_loop(sizes, bits):
    total = 0
    for n, b in zip(sizes, bits, strict=True):
        total += n * b
    return 32 * sum(sizes) / total


@pytest.mark.parametrize("answer", [
    wcr_by_loop,
    lambda sizes, bits: 32 / np.average(bits, weights=sizes),
    lambda sizes, bits: 32 * torch.tensor(sizes).sum() / (torch.tensor(sizes) * torch.tensor(bits)).sum(),
    lambda sizes, bits: budget.compression(dict(enumerate(bits)), dict(enumerate(sizes))),
])  # fmt: skip
def test_right_rates(answer):
    assert checks.wcr(answer).passed is True


@pytest.mark.parametrize("answer, says", [
    (lambda sizes, bits: 32 * len(bits) / sum(bits), "counts tensors"),
    (lambda sizes, bits: 32 / wcr_by_loop(sizes, bits), "mean bits of a weight"),
    (lambda sizes, bits: 1 / wcr_by_loop(sizes, bits), "inverted"),
    (lambda sizes, bits: sum(n * 32 / b for n, b in zip(sizes, bits, strict=True)) / sum(sizes), "tensors' own compressions"),
    (lambda sizes, bits: sum(32 / b for b in bits) / len(bits), "plain mean"),
    (lambda sizes, bits: wcr_by_loop(sizes, bits) / 4, "not 8"),
])  # fmt: skip
def test_wrong_rates(answer, says):
    judged(checks.wcr, answer, says)


# --- 2: the distance to the own float network


def rate_by_loop(results, points):
    best = 0
    for rate, accuracy, own in results:
        if accuracy >= own - points and rate > best:
            best = rate
    return best


def rate_by_arrays(results, points):
    rate, accuracy, own = np.array(results).T
    return np.where(own - accuracy <= points, rate, 0).max()


def rate_by_sorting(results, points):
    fits = sorted(row[0] for row in results if row[2] - row[1] <= points)
    return torch.tensor(fits[-1] if fits else 0.0)


@pytest.mark.parametrize("answer", [rate_by_loop, rate_by_arrays, rate_by_sorting])
def test_right_best_rates(answer):
    assert checks.best_rate(answer).passed is True


def chosen(test, pick=max, column=0):
    def answer(results, points):
        rows = [row[column] for row in results if test(np.array(row), np.array(results), points)]
        return pick(rows) if rows else 0

    return answer


@pytest.mark.parametrize("answer, says", [
    (chosen(lambda row, every, points: row[1] >= every[:, 1].max() - points), "highest accuracy of the list"),
    (chosen(lambda row, every, points: row[1] >= every[:, 2].max() - points), "best float network of the list"),
    (chosen(lambda row, every, points: row[2] - row[1] < points), "<=, not <"),
    (chosen(lambda row, every, points: row[1] - row[2] <= points), "sign is reversed"),
    (chosen(lambda row, every, points: abs(row[1] - row[2]) <= points), "no absolute value"),
    (chosen(lambda row, every, points: 1 - row[1] / row[2] <= points / 100), "not a share"),
    (chosen(lambda row, every, points: row[2] - row[1] <= points, min), "the highest was asked for"),
    (chosen(lambda row, every, points: row[2] - row[1] <= points, max, 1), "a compression was asked for"),
])  # fmt: skip
def test_wrong_best_rates(answer, says):
    judged(checks.best_rate, answer, says)


# --- 3: the front


def front_by_pairs(points):
    on = [True] * len(points)
    for i, (r, a) in enumerate(points):
        for s, b in points:
            if (s > r and b >= a) or (s >= r and b > a):
                on[i] = False
    return on


def front_by_arrays(points):
    p = np.array(points)
    at_least = (p[None] >= p[:, None]).all(2)
    better = (p[None] > p[:, None]).any(2)
    return ~(at_least & better).any(1)


def front_of_the_library(points):
    values = [Value("d", "n", "m", rate, accuracy, "run") for rate, accuracy in points]
    return torch.tensor([v in comparison.front(values) for v in values])


@pytest.mark.parametrize("answer", [front_by_pairs, front_by_arrays, front_of_the_library])
def test_right_fronts(answer):
    verdict = checks.pareto(answer)
    assert verdict.passed is True, verdict.message


def unless(beats):
    return lambda points: np.array([not any(beats(*p, *o) for o in points) for p in points])


@pytest.mark.parametrize("answer, says", [
    (lambda points: ~front_by_arrays(points), "turn True and False round"),
    (unless(lambda r, a, s, b: s > r and b > a), ">= in both"),
    (unless(lambda r, a, s, b: s >= r and b >= a), "beats itself"),
    (unless(lambda r, a, s, b: s > r or b > a), "in one of them alone"),
    (unless(lambda r, a, s, b: (s < r and b >= a) or (s <= r and b > a)), "towards low compressions"),
    (lambda points: np.array(points)[:, 1] == np.max(points, axis=0)[1], "highest accuracy alone"),
    (lambda points: [front_by_pairs(points)[i] and points.index(p) == i for i, p in enumerate(points)],
     "both lie on the front"),
])  # fmt: skip
def test_wrong_fronts(answer, says):
    judged(checks.pareto, answer, says)


# --- 4: a rate counted again


@pytest.mark.parametrize("answer", [
    lambda rate, quantized, left_float: (quantized + left_float) / (quantized / rate + left_float),
    lambda rate, quantized, left_float: 1 / np.average([1 / rate, 1], weights=[quantized, left_float]),
    lambda rate, quantized, left_float: wcr_by_loop([quantized, left_float], [32 / rate, 32]),
])  # fmt: skip
def test_right_recounts(answer):
    assert (
        checks.recount(
            lambda rate, quantized, left_float: answer(rate, quantized, left_float)
        ).passed
        is True
    )


@pytest.mark.parametrize("answer, says", [
    (lambda rate, quantized, left_float: rate, "not counted yet"),
    (lambda rate, quantized, left_float: np.average([rate, 1], weights=[quantized, left_float]), "do not average"),
    (lambda rate, quantized, left_float: quantized / (quantized / rate + left_float), "add them above"),
    (lambda rate, quantized, left_float: rate * (1 + left_float / quantized), "add them below"),
    (lambda rate, quantized, left_float: wcr_by_loop([quantized, left_float], [32 / rate, 8]), "8-bit ones"),
    (lambda rate, quantized, left_float: np.average([1 / rate, 1], weights=[quantized, left_float]), "inverted"),
])  # fmt: skip
def test_wrong_recounts(answer, says):
    judged(checks.recount, answer, says)


@pytest.mark.parametrize("check", [checks.wcr, checks.best_rate, checks.pareto, checks.recount])
def test_stubs_and_broken_answers(check):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda *_, **__: None).message
    assert "KeyError" in check(lambda *_, **__: {}[1]).message


def test_what_was_checked_is_drawn_with_words():
    for verdict in (
        checks.wcr(wcr_by_loop),
        checks.pareto(unless(lambda r, a, s, b: s > r and b > a)),
    ):
        data, metadata = verdict._repr_mimebundle_()
        assert data["image/png"] and metadata["image/png"]["alt"].startswith(verdict.message)
    assert "lie on the front; you named" in verdict.drawing.sentence


def test_an_answer_that_sorts_its_points_is_judged_alike_every_time():
    def sorts(points):
        points.sort(reverse=True)
        return [not any(r >= p[0] and a >= p[1] and (r, a) != p for r, a in points) for p in points]

    first, second = checks.pareto(sorts), checks.pareto(sorts)
    assert first.passed is False and second.passed is False and first.message == second.message
