"""The checks of lesson 04 accept right answers however they are written, and name what is wrong with wrong ones."""

import math

import numpy as np
import pytest
import torch

from hmq_lab import checks
from hmq_lab.gumbel import Cycles, relaxed_categorical


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


@pytest.mark.parametrize(
    "name", ["gumbel_max", "relaxed_sample", "expected_gradient", "cycle_temperature"]
)
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


# gumbel_max


def by_loops(probabilities, uniform):
    rows = []
    for row in uniform.tolist():
        scores = [
            math.log(p) - math.log(-math.log(u))
            for p, u in zip(probabilities.tolist(), row, strict=True)
        ]
        rows.append(max(range(len(scores)), key=scores.__getitem__))
    return rows


def by_numpy(probabilities, uniform):
    return np.argmax(np.log(probabilities.numpy()) - np.log(-np.log(uniform.numpy())), axis=-1)


@pytest.mark.parametrize(
    "answer",
    [
        by_loops,
        by_numpy,
        lambda probabilities, uniform: torch.argmax(
            torch.log(probabilities) - torch.log(-torch.log(uniform)), dim=1
        ),
        lambda probabilities, uniform: (
            torch.softmax(probabilities.log() - (-uniform.log()).log(), 1).max(1).indices
        ),
    ],
)
def test_gumbel_max_accepts(answer):
    accepted(checks.gumbel_max(answer))


def numpy_pick(score):
    return lambda probabilities, uniform: np.argmax(
        score(probabilities.numpy(), uniform.numpy()), axis=1
    )


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (numpy_pick(lambda p, u: p + 0 * u), "no noise"),
        (numpy_pick(lambda p, u: p - np.log(-np.log(u))), "to p"),
        (numpy_pick(lambda p, u: np.log(p) - np.log(u)), "exponential"),
        (numpy_pick(lambda p, u: np.log(p) + np.log(-np.log(u))), "reversed"),
        (numpy_pick(lambda p, u: np.log(p) + u), "uniform numbers themselves"),
        (
            lambda probabilities, uniform: by_numpy(1 / probabilities, 0 * uniform + 0.5) * 0,
            "For probabilities",
        ),
        (lambda probabilities, uniform: probabilities, "shape"),
    ],
)
def test_gumbel_max_rejects(answer, phrase):
    rejected(checks.gumbel_max(answer), phrase)


# relaxed_sample


def row_by_row(logits, noise, temperature):
    rows = []
    for g in noise.tolist():
        scores = [(l + n) / temperature for l, n in zip(logits.tolist(), g, strict=True)]
        powers = [math.exp(s - max(scores)) for s in scores]
        rows.append([w / sum(powers) for w in powers])
    return rows


def normalized(logits, noise, temperature):
    score = (torch.log_softmax(logits, 0) + noise) / temperature
    return (score - score.logsumexp(1, keepdim=True)).exp()


@pytest.mark.parametrize(
    "answer",
    [
        row_by_row,
        normalized,
        lambda logits, noise, temperature: relaxed_categorical(logits, temperature, noise),
        lambda logits, noise, temperature: torch.softmax(
            (logits + noise) / temperature, dim=-1
        ).float(),
    ],
)
def test_relaxed_sample_accepts(answer):
    accepted(checks.relaxed_sample(answer))


def soft(score, axis=1):
    def answer(logits, noise, temperature):
        powers = np.exp(score(logits.numpy(), noise.numpy(), temperature))
        return powers / powers.sum(axis, keepdims=True)

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (soft(lambda l, g, tau: (l + g) * tau), "inverted"),
        (soft(lambda l, g, tau: l / tau + g), "noise is not divided"),
        (soft(lambda l, g, tau: l + g / tau), "logits are not divided"),
        (soft(lambda l, g, tau: l + g), "does nothing"),
        (soft(lambda l, g, tau: (l - g) / tau), "subtract the noise"),
        (soft(lambda l, g, tau: l / tau + 0 * g), "no noise"),
        (soft(lambda l, g, tau: (l + g) / tau, axis=0), "over the samples"),
        (
            lambda logits, noise, temperature: (logits + noise).softmax(1) / temperature,
            "divide before it",
        ),
        (
            lambda logits, noise, temperature: (
                1.0 * ((logits + noise) == (logits + noise).amax(1, True))
            ),
            "one-hot",
        ),
    ],
)
def test_relaxed_sample_rejects(answer, phrase):
    rejected(checks.relaxed_sample(answer), phrase)


# expected_gradient


def by_differences(logits, losses, h=1e-6):
    def expected(logits):
        p = np.exp(logits) / np.exp(logits).sum()
        return (p * losses.numpy()).sum()

    basis = np.eye(len(logits)) * h
    return np.array(
        [expected(logits.numpy() + e) - expected(logits.numpy() - e) for e in basis]
    ) / (2 * h)


def by_jacobian(logits, losses):
    p = torch.softmax(logits, 0)
    return (torch.diag(p) - torch.outer(p, p)) @ losses


def by_formula(logits, losses):
    p = [math.exp(l) for l in logits.tolist()]
    p = [w / sum(p) for w in p]
    mean = sum(w * loss for w, loss in zip(p, losses.tolist(), strict=True))
    return [w * (loss - mean) for w, loss in zip(p, losses.tolist(), strict=True)]


@pytest.mark.parametrize("answer", [by_differences, by_jacobian, by_formula])
def test_expected_gradient_accepts(answer):
    accepted(checks.expected_gradient(answer))


def numpy_gradient(formula):
    def answer(logits, losses):
        p = np.exp(logits.numpy())
        return formula(p / p.sum(), losses.numpy())

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (numpy_gradient(lambda p, loss: p * loss), "expectation is missing"),
        (numpy_gradient(lambda p, loss: -p * (loss - p @ loss)), "reversed"),
        (numpy_gradient(lambda p, loss: loss - p @ loss), "p_k is missing"),
        (numpy_gradient(lambda p, loss: p * (loss - loss.mean())), "plain mean"),
        (numpy_gradient(lambda p, loss: p * (1 - p) * loss), "diagonal alone"),
        (numpy_gradient(lambda p, loss: loss), "by the probabilities"),
    ],
)
def test_expected_gradient_rejects(answer, phrase):
    rejected(checks.expected_gradient(answer), phrase)


# cycle_temperature


def by_decimals(step, steps_per_epoch):
    while step >= 5 * steps_per_epoch:
        step -= 5 * steps_per_epoch
    return float(np.maximum(0.5, np.exp(-0.01 * np.rint(step / (steps_per_epoch / 25)))))


@pytest.mark.parametrize(
    "answer",
    [
        by_decimals,
        lambda step, steps_per_epoch: Cycles(steps_per_epoch)(step),
        lambda step, steps_per_epoch: max(
            0.5, math.e ** (-0.01 * round(step % (5 * steps_per_epoch) * 25 / steps_per_epoch))
        ),
    ],
)
def test_cycle_temperature_accepts(answer):
    accepted(checks.cycle_temperature(answer))


def decay(position, sign=-1):
    return lambda step, steps_per_epoch: math.exp(sign * 0.01 * position(step, steps_per_epoch))


def kept(position, sign=-1):
    return lambda step, steps_per_epoch: max(0.5, decay(position, sign)(step, steps_per_epoch))


def update(step, n):
    return round(step % (5 * n) / (n / 25))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (decay(update), "no floor"),
        (
            lambda step, steps_per_epoch: min(0.5, decay(update)(step, steps_per_epoch)),
            "smaller of floor",
        ),
        (kept(lambda i, n: round(25 * i / n)), "no restart"),
        (kept(lambda i, n: i % (5 * n)), "every step"),
        (kept(lambda i, n: update(i % n, n)), "one epoch"),
        (kept(lambda i, n: i % (5 * n) * 25 // n), "round down"),
        (kept(lambda i, n: i % (5 * n) * 25 / n), "do not round"),
        (kept(update, +1), "minus sign"),
    ],
)
def test_cycle_temperature_rejects(answer, phrase):
    rejected(checks.cycle_temperature(answer), phrase)
