"""The checks of lesson 03 accept right answers however they are written, and name what is wrong with wrong ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmq_lab import checks, quantize
from hmq_lab.checks.lesson03 import composition


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


@pytest.mark.parametrize("name", ["gradient_x", "gradient_step", "gradient_tied"])
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


def by_autograd(name):
    """The library's own gradient, with a step and a threshold for every element."""

    def answer(x, step, threshold, signed):
        values = {
            "x": x,
            "step": torch.full_like(x, step),
            "threshold": torch.full_like(x, threshold),
        }
        values[name].requires_grad_()
        quantize(**values, signed=signed).sum().backward()
        return values[name].grad

    return answer


def regions(x, step, threshold, signed):
    """NumPy: x / step, its rounding, and where that is below, inside, above."""
    u = np.asarray(x) / step
    r = np.rint(u)
    below, above = r < (-threshold / step if signed else 0), r > threshold / step - 1
    return u, r, below, ~(below | above), above


# the oracle itself: where the true function has the derivatives, finite differences find the same


@given(
    st.floats(-2, 2),
    st.floats(0.05, 1),
    st.floats(1, 8),
    st.booleans(),
)
def test_the_oracle_is_the_true_derivative_but_for_the_slope_of_rounding(x, step, reach, signed):
    threshold, h = step * reach, 1e-7
    u, r, _, inside, _ = regions(x, step, threshold, signed)
    ends = [abs(u - np.floor(u) - 0.5), abs(r - reach + 1), abs(r + reach), abs(r)]
    if min(ends[:2]) < 1e-3 or (signed and ends[2] < 1e-3) or (not signed and r == 0):
        return  # at a jump or an end there is no derivative

    def q(step, threshold):
        return composition(
            *(torch.tensor([v], dtype=torch.float64) for v in (x, step, threshold)), signed
        ).item()

    by_step = (q(step + h, threshold) - q(step - h, threshold)) / (2 * h)
    by_threshold = (q(step, threshold + h) - q(step, threshold - h)) / (2 * h)
    tensor = torch.tensor([x], dtype=torch.float64)
    found = {
        name: by_autograd(name)(tensor.clone(), step, threshold, signed).item()
        for name in ("step", "threshold")
    }
    assert found["threshold"] == pytest.approx(by_threshold, abs=1e-4)
    assert found["step"] + (u if inside else 0) == pytest.approx(by_step, abs=1e-4)


# gradient_x


def x_with_loops(x, step, threshold, signed):
    low, high = (-threshold / step if signed else 0), threshold / step - 1
    return [1.0 if low <= round(v / step) <= high else 0.0 for v in x.tolist()]


X = [
    by_autograd("x"),
    lambda x, step, threshold, signed: regions(x, step, threshold, signed)[3],
    x_with_loops,
    lambda x, step, threshold, signed: torch.where(
        ((x / step).round() * step > threshold - step + 1e-9)
        | ((x / step).round() * step < (-threshold - 1e-9 if signed else 0)),
        0,
        1,
    ),
]


@pytest.mark.parametrize("answer", X)
def test_gradient_x_accepts(answer):
    accepted(checks.gradient_x(answer))


def clamped(x, step, threshold, signed):
    """What torch's clamp with tensor bounds makes of it: the gradient split in half at a tie."""
    x = x.requires_grad_()
    u = x / step
    r = u + (u.round() - u).detach()
    bounds = [
        torch.tensor(v, dtype=x.dtype)
        for v in ((-threshold / step if signed else 0.0), threshold / step - 1)
    ]
    torch.minimum(torch.maximum(r, bounds[0]), bounds[1]).mul(step).sum().backward()
    return x.grad


def between(low, high, of="r", strict=False):
    def answer(x, step, threshold, signed):
        u = x / step
        v = u.round() if of == "r" else u
        a, b = low(step, threshold, signed), high(step, threshold)
        return ((v > a) & (v < b) if strict else (v >= a) & (v <= b)).float()

    return answer


def lower(step, threshold, signed):
    return -threshold / step if signed else 0.0


def upper(step, threshold):
    return threshold / step - 1


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda x, step, threshold, signed: torch.zeros(len(x)), "true derivative, 0"),
        (lambda x, step, threshold, signed: torch.ones(len(x)), "Nothing is clipped"),
        (between(lower, upper, strict=True), "bounds are inclusive"),
        (between(lower, upper, of="u"), "compare round(x / step)"),
        (
            between(lower, lambda step, threshold: threshold / step, of="u"),
            "compare x with the threshold",
        ),
        (
            between(lower, lambda step, threshold: threshold / step),
            "upper bound is threshold / step",
        ),
        (clamped, "half the slope"),
        (between(lambda step, threshold, signed: -threshold / step, upper), "unsigned numbers too"),
        (
            between(
                lambda step, threshold, signed: -round(threshold / step) if signed else 0,
                lambda step, threshold: round(threshold / step) - 1,
            ),
            "real numbers",
        ),
        (lambda **case: ~regions(**case)[3], "reversed"),
        (lambda x, step, threshold, signed: 1.0, "the shape ()"),
    ],
)
def test_gradient_x_rejects(answer, phrase):
    rejected(checks.gradient_x(answer), phrase)


# gradient_step


def step_with_loops(x, step, threshold, signed):
    slopes = []
    for v in x.tolist():
        r = round(v / step)
        if r > threshold / step - 1:
            slopes.append(-1.0)
        elif r < (-threshold / step if signed else 0):
            slopes.append(0.0)
        else:
            slopes.append(r - v / step)
    return slopes


def numpy_step(inside=lambda r, u, s: r - u, above=-1.0, below=0.0):
    def answer(x, step, threshold, signed):
        u, r, under, _, over = regions(x, step, threshold, signed)
        return np.select([over, under], [above, below], inside(r, u, step))

    return answer


STEP = [
    by_autograd("step"),
    step_with_loops,
    numpy_step(),
    # the error by the step inside; where Q(x) clips, minus one above
    lambda x, step, threshold, signed: (
        torch.tensor(regions(x, step, threshold, signed)[3])
        * ((x / step).round() * step - x)
        / step
        - torch.tensor(regions(x, step, threshold, signed)[4]).double()
    ),
]


@pytest.mark.parametrize("answer", STEP)
def test_gradient_step_accepts(answer):
    accepted(checks.gradient_step(answer))


def strict_step(x, step, threshold, signed):
    u, r, *_ = regions(x, step, threshold, signed)
    low, high = (-threshold / step if signed else 0), threshold / step - 1
    return np.select([r >= high, r <= low], [-1.0, 0.0], r - u)


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (numpy_step(lambda r, u, s: r), "true derivative inside"),
        (numpy_step(lambda r, u, s: u - r), "reversed"),
        (numpy_step(lambda r, u, s: (r - u) * s), "the error Q(x) - x"),
        (numpy_step(above=0.0), "which falls as the step grows"),
        (numpy_step(above=1.0), "-1, not 1"),
        (
            lambda x, step, threshold, signed: (x / step).numpy().round() - x.numpy() / step,
            "Nothing is clipped",
        ),
        (strict_step, "bounds are inclusive"),
        (numpy_step(below=-1.0), "whatever the step"),
        (numpy_step(lambda r, u, s: 0 * r), "Inside it is 0 in your answer"),
        (
            lambda x, step, threshold, signed: step_with_loops(x, step, threshold, True),
            "unsigned numbers too",
        ),
        (lambda **case: sum(step_with_loops(**case)), "the shape ()"),
    ],
)
def test_gradient_step_rejects(answer, phrase):
    rejected(checks.gradient_step(answer), phrase)


# gradient_tied


def tied_by_autograd(x, bits, threshold, signed):
    t = torch.full_like(x, threshold, requires_grad=True)
    step = 2 * t / 2**bits if signed else t / 2**bits
    quantize(x, step, t, signed).sum().backward()
    return t.grad


def tied_by_cases(x, bits, threshold, signed):
    k = 2.0 ** (signed - bits)
    u, r, below, _inside, above = regions(x, k * threshold, threshold, signed)
    return np.select([above, below], [1 - k, -1.0 if signed else 0.0], (r - u) * k)


def tied_as_a_share(x, bits, threshold, signed):
    """Inside the error by the threshold, outside the level by the threshold."""
    step = threshold / 2 ** (bits - signed)
    q = quantize(x, step, threshold, signed)
    beyond = ((x / step).round() * step - q).abs() > step / 2
    return torch.where(beyond, q, q - x) / threshold


def tied_by_chain(x, bits, threshold, signed):
    step = threshold / 2 ** (bits - signed)
    on_step = by_autograd("step")(x.clone(), step, threshold, signed)
    on_threshold = by_autograd("threshold")(x.clone(), step, threshold, signed)
    return on_threshold + on_step * step / threshold


@pytest.mark.parametrize(
    "answer", [tied_by_autograd, tied_by_cases, tied_as_a_share, tied_by_chain]
)
def test_gradient_tied_accepts(answer):
    accepted(checks.gradient_tied(answer))


def numpy_tied(total):
    """total(dQ/dthreshold, dQ/dstep, dstep/dthreshold)."""

    def answer(x, bits, threshold, signed):
        k = 2.0 ** (signed - bits)
        u, r, below, _, above = regions(x, k * threshold, threshold, signed)
        by_threshold = np.select([above, below], [1.0, -1.0 if signed else 0.0], 0.0)
        by_step = np.select([above, below], [-1.0, 0.0], r - u)
        return total(by_threshold, by_step, k)

    return answer


def true_slope(x, bits, threshold, signed):
    h = 1e-7
    up, down = (
        quantize(x, t / 2 ** (bits - signed), t, signed) for t in (threshold + h, threshold - h)
    )
    # between the jumps: where the two sides round alike
    middle = quantize(x, threshold / 2 ** (bits - signed), threshold, signed)
    return torch.where((up - down).abs() < 1e-5, (up - down) / (2 * h), middle / threshold).round(
        decimals=6
    )


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (numpy_tied(lambda t, s, k: t), "The step moves with the threshold"),
        (numpy_tied(lambda t, s, k: k * s), "add dQ/dthreshold"),
        (numpy_tied(lambda t, s, k: t + s), "has to be multiplied"),
        (numpy_tied(lambda t, s, k: t + s / k), "inverted"),
        (numpy_tied(lambda t, s, k: t - s * k), "subtract"),
        (true_slope, "true derivative"),
        (
            lambda x, bits, threshold, signed: numpy_tied(
                lambda t, s, k: t + s * (k / 2 if signed else 2 * k),
            )(x, bits, threshold, signed),
            "mixed up",
        ),
        (lambda x, bits, threshold, signed: x, "element"),
    ],
)
def test_gradient_tied_rejects(answer, phrase):
    rejected(checks.gradient_tied(answer), phrase)
