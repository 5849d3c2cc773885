"""The checks of lesson 07: right answers in any dress pass, wrong ones are named."""

import math

import numpy as np
import pytest
import torch

from hmq_lab import budget
from hmq_lab.checks import lesson07 as checks


def by_loop(tables, bits, sizes):
    mean = chosen = 0
    for table, size in zip(tables, sizes, strict=True):
        marginal = [sum(row) for row in table]
        mean += size * sum(b * p for b, p in zip(bits, marginal, strict=True))
        chosen += size * bits[marginal.index(max(marginal))]
    return 32 * sum(sizes) / mean, 32 * sum(sizes) / chosen


def by_torch(tables, bits, sizes):
    marginals, b, n = (
        torch.tensor(tables).sum(2),
        torch.tensor(bits).double(),
        torch.tensor(sizes).double(),
    )
    found = torch.stack([marginals @ b, b[marginals.argmax(1)]])
    return 32 * n.sum() / (found @ n)


def by_budget(tables, bits, sizes):
    names = dict(enumerate(sizes))
    marginals = np.asarray(tables).sum(2)
    expected = budget.compression(dict(enumerate(marginals @ np.array(bits))), names)
    return [
        expected,
        budget.compression({i: bits[m.argmax()] for i, m in enumerate(marginals)}, names),
    ]


@pytest.mark.parametrize("answer", [by_loop, by_torch, by_budget])
def test_right_rates(answer):
    verdict = checks.both_rates(answer)
    assert verdict.passed is True, verdict.message


def cellwise(tables, bits, sizes):
    rows = [int(np.asarray(table).argmax()) // np.asarray(table).shape[1] for table in tables]
    actual = sum(bits[r] * n for r, n in zip(rows, sizes, strict=True))
    return by_loop(tables, bits, sizes)[0], 32 * sum(sizes) / actual


def places(tables, bits, sizes):
    rows = [np.asarray(table).sum(1).argmax() for table in tables]
    with np.errstate(divide="ignore"):
        return by_loop(tables, bits, sizes)[0], 32 * sum(sizes) / np.dot(rows, sizes)


def of_rates(tables, bits, sizes):
    each = [sum(32 / b * sum(row) for b, row in zip(bits, table, strict=True)) for table in tables]
    return np.average(each, weights=sizes), by_loop(tables, bits, sizes)[1]


@pytest.mark.parametrize("answer, says", [
    (lambda **case: by_loop(**case)[::-1], "wrong order"),
    (lambda tables, bits, sizes: by_loop(tables, bits, [1] * len(sizes)), "not tensors"),
    (cellwise, "sum over the thresholds"),
    (places, "look it up"),
    (of_rates, "averaged 32 / bits"),
    (lambda **case: [1 / rate for rate in by_loop(**case)], "bits over 32"),
    (lambda **case: [32 / rate for rate in by_loop(**case)], "Those are mean bits"),
    (lambda **case: [by_loop(**case)[0]] * 2, "Both are the expected compression"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")  # of the fault that has 0 bits
def test_wrong_rates(answer, says):
    verdict = checks.both_rates(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def searched(target):
    low, high = 0.0, 1.0  # halve the interval until the mean bits fit
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if 32 / (middle + 2 * (1 - middle)) >= target else (middle, high)
    return high if high > 1e-12 else 0.0


@pytest.mark.parametrize("answer", [
    lambda target: max(0, 2 - 32 / target),
    lambda target: np.clip(2 - 32 / target, 0, 1),
    lambda target: torch.relu(torch.tensor(2 - 32 / target)),
    searched,
])  # fmt: skip
def test_right_shares(answer):
    verdict = checks.one_bit_share(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda target: 2 - 32 / target, "never negative"),
    (lambda target: np.clip(32 / target - 1, None, 1), "share of the others"),
    (lambda target: np.clip((target - 16) / 16, 0, None), "not their compressions"),
    (lambda target: np.clip(200 - 3200 / target, 0, None), "in percent"),
    (lambda target: np.clip((target - 16) / target, 0, None), "need 0 bits"),
    (lambda target: 32 / target, "mean bits"),
    (lambda target: 1 if target > 16 else 0, "not all of them"),
])  # fmt: skip
def test_wrong_shares(answer, says):
    verdict = checks.one_bit_share(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def from_pictures(accuracy, images):
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def from_numpy(accuracy, images):
    right = np.arange(100_000) < 1000 * accuracy
    return 100 * right.std() / np.sqrt(images)


@pytest.mark.parametrize("answer", [
    from_pictures,
    from_numpy,
    lambda accuracy, images: (accuracy * (100 - accuracy) / images) ** 0.5,
    lambda accuracy, images: torch.tensor(accuracy * (100 - accuracy) / images).sqrt(),
])  # fmt: skip
def test_right_errors(answer):
    verdict = checks.standard_error(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda accuracy, images: from_pictures(accuracy, images) ** 2, "the variance"),
    (lambda accuracy, images: from_pictures(accuracy, images) / 100, "a fraction"),
    (lambda accuracy, images: from_pictures(accuracy, 1), "a single image"),
    (lambda accuracy, images: from_pictures(accuracy, images**2), "under the root"),
    (lambda accuracy, images: 1.96 * from_pictures(accuracy, images), "95 %"),
    (lambda accuracy, images: 2 * from_pictures(accuracy, images), "twice"),
    (lambda accuracy, images: from_pictures(50, images), "where it is largest"),
    (lambda accuracy, images: (accuracy * (accuracy - 1) / images) ** 0.5, "100 - accuracy"),
])  # fmt: skip
def test_wrong_errors(answer, says):
    verdict = checks.standard_error(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


def test_the_rates_of_a_recorded_search():
    """The exercise's answer on a record gives the rates that the record states."""
    from hmq_lab.runs import records

    record = records.recorded("builtin-tiny_resnet8-w8-a8")
    weights = [t for t in record.tensors if t["kind"] == "weight"]
    last = np.array([record.of("tables")[-1]["tables"][t["name"]] for t in weights])
    last /= last.sum((1, 2), keepdims=True)
    _, actual = by_loop(last, weights[0]["space"]["bits"], [t["size"] for t in weights])
    assert actual == pytest.approx(record.results["rates_before_repair"]["weights"])


@pytest.mark.parametrize("check", [checks.both_rates, checks.one_bit_share, checks.standard_error])
def test_stubs_and_broken_answers(check):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda **_: None).message
    assert "KeyError" in check(lambda **_: {}[1]).message
    drawn = check(lambda **_: (1.0, 1.0) if check is checks.both_rates else 1.0)
    data, metadata = drawn._repr_mimebundle_()
    assert data["image/png"] and metadata["image/png"]["alt"].startswith(drawn.message)
