"""The checks of lesson 09: right answers in any dress pass, wrong ones are named."""

import numpy as np
import pytest
import torch
from scipy import stats

from hmq_lab.checks import lesson09 as checks


def by_loop(one, two, sizes):
    same = 0
    for a, b, n in zip(one, two, sizes, strict=True):
        if a == b:
            same += n
    return same / sum(sizes)


@pytest.mark.parametrize("answer", [
    by_loop,
    lambda one, two, sizes: np.average(np.equal(one, two), weights=sizes),
    lambda one, two, sizes: torch.tensor(sizes)[torch.tensor(one) == torch.tensor(two)].sum() / sum(sizes),
    lambda one, two, sizes: 1 - by_loop([a != b for a, b in zip(one, two, strict=True)], [True] * len(one), sizes),
])  # fmt: skip
def test_right_agreements(answer):
    verdict = checks.agreement(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda one, two, sizes: by_loop(one, two, [1] * len(sizes)), "counts tensors"),
    (lambda one, two, sizes: 1 - by_loop(one, two, sizes), "do not agree on"),
    (lambda one, two, sizes: 100 * by_loop(one, two, sizes), "in percent"),
    (lambda one, two, sizes: sum(sizes) * by_loop(one, two, sizes), "a number of weights"),
    (lambda one, two, sizes: np.average(np.abs(np.array(one) - two) < 2, weights=sizes), "one apart"),
    (lambda one, two, sizes: by_loop(one, two, [a * n for a, n in zip(one, sizes, strict=True)]), "by bits and size"),
    (lambda one, two, sizes: sum(a == b for a, b in zip(one, two, strict=True)), "number of tensors"),
])  # fmt: skip
def test_wrong_agreements(answer, says):
    verdict = checks.agreement(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def sorted_ranks(x):
    """The mean of the places that a value has in the sorted list."""
    order = sorted(x)
    return [order.index(a) + (order.count(a) - 1) / 2 for a in x]


def by_sorting(one, two):
    a, b = torch.tensor([sorted_ranks(one), sorted_ranks(two)]).double()
    a, b = a - a.mean(), b - b.mean()
    return a @ b / (a.norm() * b.norm())


@pytest.mark.parametrize("answer", [
    by_sorting,
    lambda one, two: stats.spearmanr(one, two).statistic,
    lambda one, two: np.corrcoef(stats.rankdata(one), stats.rankdata(two))[0, 1],
    lambda one, two: stats.pearsonr(sorted_ranks(one), sorted_ranks(two)).statistic,
])  # fmt: skip
def test_right_rank_correlations(answer):
    verdict = checks.rank_correlation(answer)
    assert verdict.passed is True, verdict.message


def of(method):
    return lambda one, two: np.corrcoef(stats.rankdata(one, method), stats.rankdata(two, method))[
        0, 1
    ]


def formula(one, two):
    d = np.subtract(sorted_ranks(one), sorted_ranks(two))
    return 1 - 6 * (d @ d) / (len(d) * (len(d) ** 2 - 1))


@pytest.mark.parametrize("answer, says", [
    (lambda one, two: stats.pearsonr(one, two).statistic, "correlation of the bits"),
    (of("ordinal"), "the first comes before the second"),
    (formula, "without ties only"),
    (of("min"), "lowest of their ranks"),
    (of("dense"), "numbered the different bit-widths"),
    (lambda one, two: -by_sorting(one, two), "sign is reversed"),
    (lambda one, two: np.corrcoef([np.argsort(x, kind="stable") for x in (one, two)])[0, 1], "argsort once"),
])  # fmt: skip
def test_wrong_rank_correlations(answer, says):
    verdict = checks.rank_correlation(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


@pytest.mark.parametrize("answer", [
    lambda selections, least: [all(b >= least for b in bits) for bits in zip(*selections, strict=True)],
    lambda selections, least: np.array(selections).min(0) >= least,
    lambda selections, least: (torch.tensor(selections) >= least).all(0),
    lambda selections, least: [int(min(row[i] for row in selections) >= least) for i in range(len(selections[0]))],
])  # fmt: skip
def test_right_kept(answer):
    verdict = checks.kept(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda selections, least: (np.array(selections) >= least).any(0), "not in any"),
    (lambda selections, least: (np.array(selections) > least).all(0), ">="),
    (lambda selections, least: np.array(selections).mean(0) >= least, "A mean hides"),
    (lambda selections, least: np.array(selections)[0] >= least, "the first selection alone"),
    (lambda selections, least: np.array(selections)[-1] >= least, "the last selection alone"),
    (lambda selections, least: (np.array(selections) < least).any(0), "gave up: the others"),
    (lambda selections, least: (np.array(selections) == least).all(0), "too narrow"),
])  # fmt: skip
def test_wrong_kept(answer, says):
    verdict = checks.kept(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


@pytest.mark.parametrize("check", [checks.agreement, checks.rank_correlation, checks.kept])
def test_stubs_and_broken_answers(check):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda **_: None).message
    assert "KeyError" in check(lambda **_: {}[1]).message


@pytest.mark.parametrize("check, answer", [
    (checks.agreement, by_loop),
    (checks.rank_correlation, lambda one, two: 1.0),
    (checks.kept, lambda selections, least: [True] * len(selections[0])),
])  # fmt: skip
def test_what_was_checked_is_drawn_with_words(check, answer):
    data, metadata = check(answer)._repr_mimebundle_()
    assert data["image/png"] and metadata["image/png"]["alt"].startswith(check(answer).message)
