"""The checks of lesson 02 accept right answers however they are written, and name what is wrong with wrong ones."""

import math

import numpy as np
import pytest
import torch

from hmq_lab import checks, quantize
from hmq_lab.explorers import tensors


def accepted(verdict):
    assert verdict.passed is True, verdict.message
    assert verdict.drawing.sentence and "image/png" in verdict._repr_mimebundle_()[0]


def rejected(verdict, phrase):
    assert verdict.passed is False
    assert verdict.message.startswith("Not yet. For ") and phrase in verdict.message, (
        verdict.message
    )


def todo(*_, **__):
    raise NotImplementedError


@pytest.mark.parametrize("name", ["error_parts", "best_exponent", "fewest_bits"])
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


def step_of(bits, threshold, signed):
    return threshold / 2 ** (bits - 1 if signed else bits)


def ours(x, bits, threshold, signed):
    """Values, and where they are clipped, with torch: independent of the oracle's NumPy."""
    step = step_of(bits, threshold, signed)
    q = quantize(x, step, threshold, signed)
    return q, ((x / step).round() * step - q).abs() > step / 2


# error_parts


def parts_with_torch(x, bits, threshold, signed):
    q, beyond = ours(x, bits, threshold, signed)
    square = (q - x) ** 2
    return square[~beyond].sum() / x.numel(), square[beyond].sum() / x.numel()


def parts_with_loops(x, bits, threshold, signed):
    step, lost = step_of(bits, threshold, signed), [0.0, 0.0]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    for v in x.tolist():
        code = round(v / step)
        lost[not low <= code <= high] += (min(max(code, low), high) * step - v) ** 2
    return [part / len(x) for part in lost]


def parts_by_difference(x, bits, threshold, signed):
    """The whole error, less what rounding loses inside."""
    q, beyond = ours(x, bits, threshold, signed)
    whole = (q - x).square().mean()
    rounding = ((q - x) * ~beyond).square().mean()
    return np.array([rounding, whole - rounding])


def parts_of_the_library(x, bits, threshold, signed):
    step = step_of(bits, threshold, signed)
    ends = (-threshold / step if signed else 0, threshold / step - 1)
    x = x.double().numpy()
    found = tensors.loss(x, step, ends)
    return found.rounding * np.mean(x**2), found.clipping * np.mean(x**2)


@pytest.mark.parametrize(
    "answer", [parts_with_torch, parts_with_loops, parts_by_difference, parts_of_the_library]
)
def test_error_parts_accepts(answer):
    accepted(checks.error_parts(answer))


def wrong_parts(clipped=None, cost=torch.square, reduce=None, end=None):
    def answer(x, bits, threshold, signed):
        q, beyond = ours(x, bits, threshold, signed)
        if end is not None:
            q = torch.where(beyond, x.clamp(-threshold if signed else 0.0, threshold), q)
        if clipped is not None:
            beyond = clipped(x, threshold, step_of(bits, threshold, signed), signed)
        error = cost(q - x)
        if reduce is not None:
            return tuple(reduce(error[where]) for where in (~beyond, beyond))
        return error[~beyond].sum() / len(x), error[beyond].sum() / len(x)

    return answer


def own_mean(part):
    return part.mean() if len(part) else 0.0


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda **case: parts_with_torch(**case)[::-1], "reversed"),
        (wrong_parts(reduce=torch.sum), "These are sums"),
        (wrong_parts(reduce=own_mean), "own group"),
        (wrong_parts(cost=torch.abs), "magnitudes"),
        (
            wrong_parts(lambda x, t, s, signed: (x > t) | (x < (-t if signed else 0))),
            "compare x with the threshold",
        ),
        (wrong_parts(lambda x, t, s, signed: x.abs() > t), "compare |x| with the threshold"),
        (
            wrong_parts(lambda x, t, s, signed: (x >= t) | (x < (-t if signed else 0))),
            "compare x with the threshold",
        ),
        (wrong_parts(reduce=torch.mean), "own group"),  # NaN of a group without values
        (
            wrong_parts(lambda x, t, s, signed: (x > t - s) | (x < (-t if signed else 0))),
            "half a step beyond",
        ),
        (wrong_parts(end=True), "not the threshold"),
        (lambda **case: [math.sqrt(part) for part in parts_with_torch(**case)], "roots"),
        (lambda **case: sum(parts_with_torch(**case)), "expected is (2,)"),
        (lambda x, bits, threshold, signed: (0.0, 0.0), "element 0"),
    ],
)
def test_error_parts_rejects(answer, phrase):
    rejected(checks.error_parts(answer), phrase)


# best_exponent


def best_with_torch(x, bits, signed, exponents):
    errors = [
        (quantize(x, step_of(bits, 2.0**e, signed), 2.0**e, signed) - x).square().sum().item()
        for e in exponents
    ]
    return exponents[int(np.argmin(errors))]


def best_with_a_loop(x, bits, signed, exponents):
    best, least = None, math.inf
    for exponent in exponents:
        error = sum(parts_with_loops(x, bits, 2.0**exponent, signed))
        if error < least:
            best, least = exponent, error
    return best


def best_with_root_mean_squares(x, bits, signed, exponents):
    return min(
        exponents, key=lambda e: (ours(x, bits, 2.0**e, signed)[0] - x).square().mean().sqrt()
    )


def best_with_a_table(x, bits, signed, exponents):
    """All thresholds at once: they broadcast."""
    thresholds = torch.tensor([2.0**e for e in exponents], dtype=x.dtype)[:, None]
    steps = thresholds / 2 ** (bits - signed)
    q = quantize(x.expand(len(exponents), -1), steps, thresholds, signed)
    return torch.tensor(exponents)[(q - x).norm(dim=1).argmin()]


RIGHT = [best_with_torch, best_with_a_loop, best_with_root_mean_squares, best_with_a_table]


@pytest.mark.parametrize("answer", RIGHT)
def test_best_exponent_accepts(answer):
    accepted(checks.best_exponent(answer))


def least(cost, sign=None):
    def answer(x, bits, signed, exponents):
        signed = signed if sign is None else sign
        return min(exponents, key=lambda e: cost(ours(x, bits, 2.0**e, signed)[0] - x))

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda x, bits, signed, exponents: exponents[0], "always take the largest"),
        (
            lambda x, bits, signed, exponents: math.ceil(math.log2(x.abs().max())),
            "largest magnitude does not exceed",
        ),
        (least(lambda e: e.abs().max()), "largest error to be least"),
        (least(lambda e: e.abs().sum()), "magnitudes"),
        (least(lambda e: e.sum().abs()), "cancel"),
        (least(lambda e: e.square().sum(), sign=False), "without a sign"),
        (least(lambda e: e.square().sum(), sign=True), "where there is none"),
        (least(lambda e: -e.square().sum()), "not the least"),
        (
            lambda x, bits, signed, exponents: exponents.index(
                best_with_torch(x, bits, signed, exponents)
            ),
            "place",
        ),
        (
            lambda x, bits, signed, exponents: 2.0 ** best_with_torch(x, bits, signed, exponents),
            "That is the threshold",
        ),
        (
            lambda x, bits, signed, exponents: min(
                exponents, key=lambda e: parts_with_torch(x, bits, 2.0**e, signed)[0]
            ),
            "rounding error alone",
        ),
        (lambda x, bits, signed, exponents: "-1 or 0", "expected"),
    ],
)
def test_best_exponent_rejects(answer, phrase):
    rejected(checks.best_exponent(answer), phrase)


# fewest_bits


def share(x, bits, exponent, signed):
    q, _ = ours(x, bits, 2.0**exponent, signed)
    return ((q - x).square().sum() / x.square().sum()).item()


def fewest_from_below(x, limit, signed, exponents):
    bits = 1
    while min(share(x, bits, e, signed) for e in exponents) > limit:
        bits += 1
    return bits


def fewest_from_above(x, limit, signed, exponents):
    fits = [b for b in range(8, 0, -1) if any(share(x, b, e, signed) <= limit for e in exponents)]
    return fits[-1]


def fewest_with_decibels(x, limit, signed, exponents):
    for bits in range(1, 9):
        if max(-10 * math.log10(share(x, bits, e, signed)) for e in exponents) >= -10 * math.log10(
            limit
        ):
            return bits
    return None


def fewest_with_numpy(x, limit, signed, exponents):
    table = np.array([[share(x, b, e, signed) for e in exponents] for b in range(1, 9)])
    return 1 + int((table.min(1) <= limit).argmax())


FEWEST = [fewest_from_below, fewest_from_above, fewest_with_decibels, fewest_with_numpy]


@pytest.mark.parametrize("answer", FEWEST)
def test_fewest_bits_accepts(answer):
    accepted(checks.fewest_bits(answer))


def search(fits, exponents_of=lambda e: e):
    def answer(x, limit, signed, exponents):
        for bits in range(1, 9):
            if any(fits(x, ours(x, bits, 2.0**e, signed), limit) for e in exponents_of(exponents)):
                return bits
        return 9

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda **case: fewest_from_below(**case) + 1, "one bit more"),
        (lambda **case: fewest_from_above(**case) - 1, "one bit too few"),
        (
            search(
                lambda x, q, limit: (q[0] - x).square().sum() <= limit * x.square().sum(),
                lambda e: e[:1],
            ),
            "largest threshold only",
        ),
        (search(lambda x, q, limit: (q[0] - x).square().sum() <= limit), "plain squared error"),
        (search(lambda x, q, limit: (q[0] - x).square().mean() <= limit), "mean square"),
        (search(lambda x, q, limit: (q[0] - x).norm() <= limit * x.norm()), "roots"),
        (
            search(
                lambda x, q, limit: (q[0] - x)[~q[1]].square().sum() <= limit * x.square().sum()
            ),
            "values that are clipped",
        ),
        (
            search(lambda x, q, limit: (q[0] - x).square().sum() < limit * x.square().sum()),
            "at most means <=",
        ),
        (lambda x, limit, signed, exponents: 8, "always give 8"),
        (lambda x, limit, signed, exponents: 4, "you gave 4"),
    ],
)
def test_fewest_bits_rejects(answer, phrase):
    rejected(checks.fewest_bits(answer), phrase)


def test_the_fewest_bits_of_the_check_are_from_one_to_eight():
    found = []

    def spy(**case):
        found.append(fewest_with_numpy(**case))
        return found[-1]

    assert checks.fewest_bits(spy).passed
    assert min(found) == 1 and 5 <= max(found) <= 8
