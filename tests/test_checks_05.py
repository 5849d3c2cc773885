"""The checks of lesson 05 accept right answers however they are written, and name what is wrong with wrong ones."""

import math

import numpy as np
import pytest
import torch

from hmq_lab import HMQ, SearchSpace, checks


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
    "name", ["expected_parameters", "first_logit", "selection", "logit_gradient"]
)
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


# expected_parameters


def by_numpy(probabilities, bits, exponents, signed):
    p, b, e = probabilities.numpy(), bits.int().numpy()[:, None], exponents.int().numpy()[None, :]
    return float(np.sum(p * np.ldexp(1.0, e - b + signed))), float(
        p.sum(0) @ np.ldexp(1.0, exponents.int().numpy())
    )


def by_block(probabilities, bits, exponents, signed):
    """The library's own samples, noise-free: temperature 1 and Gumbel noise of zeros."""
    widths = tuple(int(b) for b in bits)
    block = HMQ(SearchSpace(widths, len(exponents)), int(exponents[0]), signed)
    block.logits.data = probabilities.log().float()
    block.noise = lambda samples: torch.zeros(samples, *probabilities.shape)
    step, threshold = block.sample(1)
    return step.item(), threshold.item()


def by_torch(probabilities, bits, exponents, signed):
    thresholds = 2.0 ** exponents.double()
    scale = 0.5 ** (bits.double() - 1 if signed else bits.double())
    return scale @ probabilities @ thresholds, (probabilities @ thresholds).sum()


@pytest.mark.parametrize("answer", [by_numpy, by_block, by_torch])
def test_expected_parameters_accepts(answer):
    accepted(checks.expected_parameters(answer))


def numpy_pair(formula):
    def answer(probabilities, bits, exponents, signed):
        return formula(
            probabilities.numpy(), bits.numpy()[:, None], 2.0 ** exponents.numpy(), int(signed)
        )

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (
            numpy_pair(
                lambda p, b, t, s: ((p * t).sum() * 2.0 ** (s - (p * b).sum()), (p * t).sum())
            ),
            "mix the bits",
        ),
        (
            numpy_pair(
                lambda p, b, t, s: ((p * t).sum() * (p * 2.0 ** (s - b)).sum(), (p * t).sum())
            ),
            "two means",
        ),
        (
            numpy_pair(lambda p, b, t, s: ((p * t * 2.0 ** (1 - s - b)).sum(), (p * t).sum())),
            "mixed up",
        ),
        (
            numpy_pair(lambda p, b, t, s: ((p * t * 2.0**-b).sum(), (p * t).sum())),
            "do not look at `signed`: a signed",
        ),
        (
            numpy_pair(lambda p, b, t, s: ((p * t * 2.0 ** (1 - b)).sum(), (p * t).sum())),
            "an unsigned step",
        ),
        (
            numpy_pair(lambda p, b, t, s: ((p * t * 2**s / (2.0**b - 1)).sum(), (p * t).sum())),
            "number of gaps",
        ),
        (
            numpy_pair(lambda p, b, t, s: ((p * t).sum(), (p * t * 2.0 ** (s - b)).sum())),
            "order is step",
        ),
        (numpy_pair(lambda p, b, t, s: (p * t * 2.0 ** (s - b)).sum()), "shape"),
    ],
)
def test_expected_parameters_rejects(answer, phrase):
    rejected(checks.expected_parameters(answer), phrase)


# first_logit


def by_odds(others, probability):
    odds = probability / (1 - probability)
    return math.log(odds) + math.log(sum(math.exp(o) for o in others.tolist()))


def by_newton(others, probability):
    logit = 0.0
    for _ in range(100):
        rest = float(torch.logsumexp(others, 0))
        p = 1 / (1 + math.exp(rest - logit))
        logit += max(-1.0, min(1.0, (probability - p) / (p * (1 - p))))
    return logit


@pytest.mark.parametrize(
    "answer",
    [
        by_odds,
        by_newton,
        lambda others, probability: np.log(
            probability * np.exp(others.numpy()).sum() / (1 - probability)
        ),
        lambda others, probability: (
            torch.logsumexp(others, 0) + torch.logit(torch.tensor(probability).double())
        ),
    ],
)
def test_first_logit_accepts(answer):
    accepted(checks.first_logit(answer))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (
            lambda others, probability: np.log(probability * others.numel() / (1 - probability)),
            "released code",
        ),
        (lambda others, probability: by_odds(others, 1 - probability), "inverted"),
        (
            lambda others, probability: np.log(probability / (1 - probability)),
            "others' sum is missing",
        ),
        (
            lambda others, probability: np.log(probability * np.exp(others.numpy()).sum()),
            "1 - p is missing",
        ),
        (lambda others, probability: np.exp(by_odds(others, probability)), "logarithm is missing"),
        (lambda others, probability: np.log(probability), "log p"),
    ],
)
def test_first_logit_rejects(answer, phrase):
    rejected(checks.first_logit(answer), phrase)


# selection


def by_block_selection(probabilities):
    """What the library selects, read off its scheme."""
    bits, thresholds = probabilities.shape
    block = HMQ(SearchSpace(tuple(range(1, bits + 1)), thresholds), 0, True)
    block.logits.data = probabilities.clamp(min=1e-12).log().float()
    return block.scheme.bits - 1, -block.scheme.threshold_exponent


@pytest.mark.parametrize(
    "answer",
    [
        by_block_selection,
        lambda probabilities: torch.stack(
            (r := probabilities.sum(1).argmax(), probabilities[r].argmax())
        ),
        lambda probabilities: [
            row := max(range(len(probabilities)), key=lambda i: sum(probabilities[i].tolist())),
            int(np.argmax(probabilities.numpy()[row])),
        ],
    ],
)
def test_selection_accepts(answer):
    accepted(checks.selection(answer))


def numpy_selection(row, column):
    return lambda probabilities: (
        r := int(row(probabilities.numpy())),
        int(column(probabilities.numpy(), r)),
    )


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda probabilities: np.unravel_index(probabilities.numpy().argmax(), probabilities.shape), "probable pair"),
        (numpy_selection(lambda p: p[:, p.sum(0).argmax()].argmax(), lambda p, r: p.sum(0).argmax()), "before the b"),
        (numpy_selection(lambda p: p.sum(1).argmax(), lambda p, r: p.sum(0).argmax()), "over all rows"),
        (lambda probabilities: (int(probabilities[probabilities.sum(1).argmax()].argmax()),
                                int(probabilities.sum(1).argmax())), "order is row"),
        (numpy_selection(lambda p: p.sum(1).argmin(), lambda p, r: p[r].argmax()), "least probable"),
        (numpy_selection(lambda p: round(p.sum(1) @ np.arange(len(p))), lambda p, r: p[r].argmax()), "mean row"),
        (lambda probabilities: int(probabilities.argmax()), "shape"),
    ],
)  # fmt: skip
def test_selection_rejects(answer, phrase):
    rejected(checks.selection(answer), phrase)


# logit_gradient


def loss_of(logits, temperature, steps, thresholds, d_step, d_threshold):
    p = np.exp(logits / temperature)
    p /= p.sum()
    return d_step * (p * steps).sum() + d_threshold * (p * thresholds).sum()


def by_differences(sample, steps, thresholds, d_step, d_threshold, temperature, h=1e-5):
    logits, found = temperature * np.log(sample.numpy()), np.zeros(sample.shape)
    for at in np.ndindex(*sample.shape):
        moved = np.zeros(sample.shape)
        moved[at] = h
        ends = [loss_of(logits + s * moved, temperature, steps.numpy(), thresholds.numpy(), d_step, d_threshold)
                for s in (1, -1)]  # fmt: skip
        found[at] = (ends[0] - ends[1]) / (2 * h)
    return found


def by_jacobian(sample, steps, thresholds, d_step, d_threshold, temperature):
    p = sample.flatten()
    slope = (d_step * steps + d_threshold * thresholds).flatten()
    return ((torch.diag(p) - torch.outer(p, p)) @ slope / temperature).view(sample.shape)


def by_loops(sample, steps, thresholds, d_step, d_threshold, temperature):
    p, s, t = sample.tolist(), steps.tolist(), thresholds.tolist()
    mean_step = sum(p[b][k] * s[b][k] for b in range(len(p)) for k in range(len(t)))
    mean_threshold = sum(p[b][k] * t[k] for b in range(len(p)) for k in range(len(t)))
    return [
        [p[b][k] * ((s[b][k] - mean_step) * d_step + (t[k] - mean_threshold) * d_threshold) / temperature
         for k in range(len(t))]
        for b in range(len(p))
    ]  # fmt: skip


@pytest.mark.parametrize("answer", [by_differences, by_jacobian, by_loops])
def test_logit_gradient_accepts(answer):
    accepted(checks.logit_gradient(answer))


def numpy_gradient(formula):
    def answer(sample, steps, thresholds, d_step, d_threshold, temperature):
        p, slope = sample.numpy(), d_step * steps.numpy() + d_threshold * thresholds.numpy()
        return formula(p, slope, (p * slope).sum(), temperature)

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (numpy_gradient(lambda p, v, m, tau: p * v / tau), "means are missing"),
        (numpy_gradient(lambda p, v, m, tau: p * (v - m)), "temperature is missing"),
        (numpy_gradient(lambda p, v, m, tau: p * (v - m) * tau), "inverted"),
        (numpy_gradient(lambda p, v, m, tau: (v - m) / tau), "missing as a factor"),
        (numpy_gradient(lambda p, v, m, tau: p * (v - v.mean()) / tau), "plain mean"),
        (numpy_gradient(lambda p, v, m, tau: p * (m - v) / tau), "reversed"),
        (lambda sample, steps, thresholds, d_step, d_threshold, temperature: by_jacobian(
            sample, steps, thresholds, d_step, 0.0, temperature), "threshold is left out"),
        (lambda sample, steps, thresholds, d_step, d_threshold, temperature: by_jacobian(
            sample, steps, thresholds, 0.0, d_threshold, temperature), "step is left out"),
    ],
)  # fmt: skip
def test_logit_gradient_rejects(answer, phrase):
    rejected(checks.logit_gradient(answer), phrase)
