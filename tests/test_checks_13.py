"""The checks of lesson 13 accept right answers however they are written, and name what is wrong with wrong ones."""

import math

import numpy as np
import pytest
import torch

from hmq_lab import checks


def accepted(verdict):
    assert verdict.passed is True, verdict.message
    assert verdict.drawing.sentence and "image/png" in verdict._repr_mimebundle_()[0]


def rejected(verdict, phrase):
    assert verdict.passed is False
    assert verdict.message.startswith("Not yet. ") and phrase in verdict.message, verdict.message


def todo(*_, **__):
    raise NotImplementedError


@pytest.mark.parametrize("name", ["upright", "share", "largest_exponent"])
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


def by_a_factor(x):
    return x * (1 - 2 * (x.mean((1, 2, 3)) < 0).float())[:, None, None, None]


def by_a_mask(x):
    dark = (x.sum([1, 2, 3], keepdim=True) < 0).to(x.dtype)
    return x * (1 - dark) + -x * dark


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) < 0, -x, x),
        lambda x: torch.where(x.flatten(1).mean(1).view(-1, 1, 1, 1) < 0, x.neg(), x),
        by_a_factor,
        by_a_mask,
        lambda x: (
            torch.where(x.mean((1, 2, 3), keepdim=True) < 0, -x.new_ones(x.shape[0], 1, 1, 1), 1)
            * x
        ),
        lambda *, x: by_a_mask(x),
    ],
)
def test_upright_accepts(answer):
    accepted(checks.upright(answer))


def with_a_loop(x):
    return torch.stack([-picture if picture.mean() < 0 else picture for picture in x])


def with_an_if_for_one(x):
    if len(x) == 1:
        return -x if x.mean() < 0 else x
    return torch.where(x.mean((1, 2, 3), keepdim=True) < 0, -x, x)


def by_numpy(x):
    y = np.asarray(x).copy()
    y[y.mean((1, 2, 3)) < 0] *= -1
    return torch.from_numpy(y)


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (with_a_loop, "torch.export cannot follow your function"),
        (by_numpy, "torch.export cannot follow your function"),
        (lambda x: -x if x.mean() < 0 else x, "mean of the whole batch"),
        (
            lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) < 0, x, -x),
            "negates the other ones",
        ),
        (torch.abs, "the magnitude of each value"),
        (lambda x: torch.sign(x.mean((1, 2, 3), keepdim=True)) * x, "which is 0 for a mean of 0"),
        (lambda x: torch.where(x.mean((2, 3), keepdim=True) < 0, -x, x), "for each channel"),
        (lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) > 0, x, -x), "negates a mean of 0"),
        (torch.neg, "negates every image"),
        (lambda x: x + 0, "as they came"),
        (lambda x: x.mean((1, 2, 3)), "has the shape"),
        (lambda x: None, "returns nothing"),
    ],
)
def test_upright_rejects(answer, phrase):
    rejected(checks.upright(answer), phrase)


def with_new_ones(x):
    factor = torch.ones(x.shape[0], 1, 1, 1)
    return torch.where(x.mean((1, 2, 3), keepdim=True) < 0, -factor, factor) * x


def with_a_range(x):
    return torch.stack([torch.where(x[i].mean() < 0, -x[i], x[i]) for i in range(x.shape[0])])


def with_an_if_on_the_shape(x):
    return with_a_loop(x) if x.shape[0] == 1 else by_a_mask(x)


def with_an_assignment(x):
    y = x.clone()
    y[x.mean((1, 2, 3)) < 0] *= -1
    return y


@pytest.mark.parametrize(
    "answer", [with_new_ones, with_an_if_for_one, with_an_if_on_the_shape, with_an_assignment]
)
def test_upright_takes_what_export_can_follow(answer):
    assert checks.upright(answer).passed is True


def test_upright_says_that_the_number_of_images_is_open():
    rejected(checks.upright(with_a_range), "its number of images is open")
    rejected(checks.upright(with_a_loop), "its number of images is open")


def share_in_numpy(places):
    size = np.array([p.size for p in places])
    weight = np.array([p.kind == "weight" for p in places])
    return (size * weight).sum() / (
        size * [p.kind in ("weight", "parameter") for p in places]
    ).sum()


def share_in_a_loop(places):
    quantized = stored = 0
    for place in places:
        if place.kind in ("weight", "parameter"):
            stored += math.prod(place.shape)
            quantized += place.quantized * math.prod(place.shape)
    return quantized / stored


@pytest.mark.parametrize(
    "answer",
    [
        share_in_numpy,
        share_in_a_loop,
        lambda places: torch.tensor(share_in_a_loop(places), dtype=torch.float64),
        lambda places: 1 - sum(p.size for p in places if p.kind == "parameter")
        / sum(p.size for p in places if p.kind not in ("activation", "shared")),
    ],
)  # fmt: skip
def test_share_accepts(answer):
    accepted(checks.share(answer))


def total(places, *kinds):
    return sum(p.size for p in places if p.kind in kinds)


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (
            lambda ps: (
                sum(p.kind == "weight" for p in ps)
                / sum(p.kind in ("weight", "parameter") for p in ps)
            ),
            "counts tensors",
        ),
        (
            lambda ps: (
                total(ps, "weight", "activation") / total(ps, "weight", "activation", "parameter")
            ),
            "activations",
        ),
        (
            lambda ps: total(ps, "weight") / total(ps, "weight", "parameter", "shared"),
            '"shared" tensor',
        ),
        (
            lambda ps: sum(p.size for p in ps if p.quantized) / sum(p.size for p in ps),
            "all placements",
        ),
        (lambda ps: total(ps, "parameter") / total(ps, "parameter", "weight"), "stays float"),
        (lambda ps: 100 * share_in_a_loop(ps), "in percent"),
        (lambda ps: total(ps, "weight") / total(ps, "parameter"), "quantized over float"),
        (
            lambda ps: total(ps, "weight", "activation") / total(ps, "weight", "parameter"),
            "Your numerator",
        ),
    ],
)
def test_share_rejects(answer, phrase):
    rejected(checks.share(answer), phrase)


def exponent_by_frexp(maxima):
    theta = maxima[0]
    for m in maxima[1:]:
        theta = 0.1 * theta + 0.9 * m
    mantissa, exponent = math.frexp(theta)
    return exponent - (mantissa == 0.5)


def exponent_in_torch(maxima):
    theta = torch.tensor(maxima[0], dtype=torch.float64)
    for m in maxima[1:]:
        theta = torch.lerp(theta, torch.tensor(m, dtype=torch.float64), 0.9)
    return theta.log2().ceil()


def exponent_by_weights(maxima):
    weights = [0.9 * 0.1 ** (len(maxima) - 1 - i) for i in range(len(maxima))]
    weights[0] /= 0.9
    return np.ceil(np.log2(np.dot(weights, maxima)))


@pytest.mark.parametrize("answer", [exponent_by_frexp, exponent_in_torch, exponent_by_weights])
def test_largest_exponent_accepts(answer):
    accepted(checks.largest_exponent(answer))


def theta_of(maxima, keep=0.1, first=None):
    theta, rest = (maxima[0], maxima[1:]) if first is None else (first, maxima)
    for m in rest:
        theta = keep * theta + (1 - keep) * m
    return theta


def up(x):
    return int(np.ceil(np.log2(x)))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda maxima: up(theta_of(maxima, first=0.0)), "starts from 0"),
        (lambda maxima: up(max(maxima)), "the largest maximum of all"),
        (lambda maxima: up(np.mean(maxima)), "the mean of the maxima"),
        (lambda maxima: up(theta_of(maxima, keep=0.9)), "a tenth of the way"),
        (lambda maxima: int(np.floor(np.log2(theta_of(maxima)))), "rounds the logarithm down"),
        (lambda maxima: int(np.log2(theta_of(maxima)).round()), "to the nearest"),
        (lambda maxima: up(theta_of(maxima)) + 1, "one octave above"),
        (lambda maxima: up(maxima[-1]), "the last batch's maximum"),
        (theta_of, "theta itself"),
        (lambda maxima: 2 ** up(theta_of(maxima)) if up(theta_of(maxima)) >= 0 else 0.5 ** -up(theta_of(maxima)),
         "the threshold; asked is its exponent"),
    ],
)  # fmt: skip
def test_largest_exponent_rejects(answer, phrase):
    rejected(checks.largest_exponent(answer), phrase)
