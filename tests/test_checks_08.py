"""The checks of lesson 08: right answers in any dress pass, wrong ones are named."""

import itertools
import math

import numpy as np
import pytest
import torch

from hmq_lab import SearchSpace, attach, budget, models
from hmq_lab.checks import lesson08 as checks


def judged(check, answer, says):
    verdict = check(answer)
    assert verdict.passed is False and says in verdict.message, verdict.message


# --- 1: an inverted residual


def inverted(inputs, outputs, expansion, kernel):
    wide = inputs * expansion
    return (0 if expansion == 1 else inputs * wide, wide * kernel**2, wide * outputs)


def inverted_by_arrays(inputs, outputs, expansion, kernel):
    wide = inputs * expansion
    shapes = [(wide, inputs, 1, 1), (wide, 1, kernel, kernel), (outputs, wide, 1, 1)]
    return np.array([np.prod(shape) for shape in shapes]) * [expansion > 1, 1, 1]


def inverted_by_layers(inputs, outputs, expansion, kernel):
    wide = inputs * expansion
    layers = [torch.nn.Conv2d(inputs, wide, 1)] if expansion > 1 else [torch.nn.Identity()]
    layers += [torch.nn.Conv2d(wide, wide, kernel, groups=wide), torch.nn.Conv2d(wide, outputs, 1)]
    return torch.tensor(
        [sum(p.numel() for p in layer.parameters() if p.dim() > 1) for layer in layers]
    )


@pytest.mark.parametrize("answer", [inverted, inverted_by_arrays, inverted_by_layers])
def test_right_counts(answer):
    verdict = checks.inverted(answer)
    assert verdict.passed is True, verdict.message


def no_first(i, e):
    return 0 if e == 1 else i * i * e


@pytest.mark.parametrize("answer, says", [
    (lambda i, o, e, k: (i * i * e, i * e * k * k, i * e * o), "no first layer"),
    (lambda i, o, e, k: (no_first(i, e), (i * e) ** 2 * k * k, i * e * o), "full convolution"),
    (lambda i, o, e, k: (no_first(i, e), i * e * k, i * e * o), "is a square"),
    (lambda i, o, e, k: (no_first(i, e) * k * k, i * e * k * k, i * e * o * k * k), "1x1 kernels"),
    (lambda i, o, e, k: (no_first(i, e), i * k * k, i * o), "expanded channels"),
    (lambda i, o, e, k: (no_first(i, e), i * e * o, i * e * k * k), "another order"),
    (lambda i, o, e, k: (no_first(i, e) + (e > 1) * i * e, i * e * k * k + i * e, i * e * o + o), "no biases"),
])  # fmt: skip
def test_wrong_counts(answer, says):
    judged(checks.inverted, answer, says)


def test_one_number_is_no_triple():
    judged(checks.inverted, lambda *case: sum(inverted(*case)), "shape")


# --- 2: the rate of the rest


def rest_by_bits(rate, elements, kept, bits):
    room = 32 * elements / rate - kept * bits
    return 32 * (elements - kept) / room if room > 0 else float("inf")


def rest_by_mean_bits(rate, elements, kept, bits):
    share = kept / elements
    mean = (32 / rate - share * bits) / (1 - share)
    return np.float64(32 / mean) if mean > 0 else np.inf


def rest_by_harmonic_mean(rate, elements, kept, bits):
    inverse = torch.tensor(
        (elements / rate - kept * bits / 32) / (elements - kept), dtype=torch.float64
    ).clamp(min=0)
    return 1 / inverse


def rest_by_bisection(rate, elements, kept, bits):
    sizes = {"kept": kept, "rest": elements - kept}
    low, high = 0.0, 1e3  # mean bits of the rest
    for _ in range(200):
        middle = (low + high) / 2
        enough = budget.compression({"kept": bits, "rest": middle}, sizes) >= rate
        low, high = (middle, high) if enough else (low, middle)
    return 32 / low if low > 1e-9 else math.inf


@pytest.mark.parametrize(
    "answer", [rest_by_bits, rest_by_mean_bits, rest_by_harmonic_mean, rest_by_bisection]
)
def test_right_rests(answer):
    verdict = checks.rest_rate(answer)
    assert verdict.passed is True, verdict.message


def unguarded(rate, elements, kept, bits):
    with np.errstate(divide="ignore"):
        return np.divide(32 * (elements - kept), 32 * elements / rate - kept * bits)


@pytest.mark.parametrize("answer, says", [
    (lambda rate, elements, kept, bits: rate, "the compression you were given"),
    (unguarded, "return infinity"),
    (lambda rate, elements, kept, bits: rest_by_bits(rate, elements, kept, bits) * elements / (elements - kept),
     "for the other weights alone"),
    (lambda rate, elements, kept, bits: 32 / rest_by_bits(rate, elements, kept, bits), "mean bits of the other"),
    (lambda rate, elements, kept, bits: (rate - kept / elements * 32 / bits) / (1 - kept / elements), "do not average"),
    (lambda rate, elements, kept, bits: rest_by_bits(rate, elements, kept, 1), "kept x bits"),
    (lambda rate, elements, kept, bits: rest_by_bits(rate, elements, kept, 32), "not always 32"),
])  # fmt: skip
def test_wrong_rests(answer, says):
    judged(checks.rest_rate, answer, says)


def test_a_division_by_nothing_is_named():
    judged(
        checks.rest_rate,
        lambda r, n, k, b: 32 * (n - k) / (32 * n / r - k * b),
        "ZeroDivisionError",
    )


# --- 3: activation bits


def bits_by_loop(sizes, rate):
    found = []
    for size in sizes:
        bits = 8
        while bits > 4 and bits * size * rate > 32 * max(sizes):
            bits -= 1
        found.append(bits)
    return found


def bits_by_arrays(sizes, rate):
    sizes = np.array(sizes)
    return np.clip(np.floor(32 * sizes.max() / (rate * sizes)), 4, 8)


def bits_by_tensors(sizes, rate):
    sizes = torch.tensor(sizes, dtype=torch.float64)
    return (32 * sizes.max() / (rate * sizes)).floor().clamp(4, 8).int()


def bits_of_the_library(sizes, rate):
    return tuple(budget.activation_bits(dict(enumerate(sizes)), rate).values())


@pytest.mark.parametrize(
    "answer", [bits_by_loop, bits_by_arrays, bits_by_tensors, bits_of_the_library]
)
def test_right_activation_bits(answer):
    verdict = checks.activation_bits(answer)
    assert verdict.passed is True, verdict.message


def ruled(make, low=4, high=8):
    return lambda sizes, rate: np.clip(make(np.array(sizes, float), rate), low, high)


@pytest.mark.parametrize("answer, says", [
    (ruled(lambda n, r: np.rint(32 * n.max() / (r * n))), "half a bit too many"),
    (ruled(lambda n, r: np.ceil(32 * n.max() / (r * n))), "not up"),
    (ruled(lambda n, r: 32 * n.max() / (r * n)), "whole numbers"),
    (ruled(lambda n, r: np.floor(32 * n.max() / (r * n)), high=np.inf), "more than 8"),
    (ruled(lambda n, r: np.floor(32 * n.max() / (r * n)), low=0), "fewer than 4"),
    (ruled(lambda n, r: np.floor(32 * n.max() / (r * n)), low=1), "fewer than 4"),
    (ruled(lambda n, r: np.floor(32 / r) + 0 * n), "each tensor's own 32 bits"),
    (ruled(lambda n, r: np.floor(32 * n.sum() / (r * n))), "all of them together"),
    (ruled(lambda n, r: np.floor(32 * n[0] / (r * n))), "not by the first"),
    (ruled(lambda n, r: np.floor(32 * n.max() * r / n)), "compression is inverted"),
    (ruled(lambda n, r: np.floor(32 * n / (r * n.max()))), "sizes are inverted"),
])  # fmt: skip
def test_wrong_activation_bits(answer, says):
    judged(checks.activation_bits, answer, says)


# --- 4: peak memory


def peak_by_pairs(sizes, bits):
    taken = [n * b for n, b in zip(sizes, bits, strict=True)]
    return max(a + b for a, b in itertools.pairwise(taken)) / 8


def peak_by_arrays(sizes, bits):
    taken = np.array(sizes) * np.array(bits) / 8
    return (taken[1:] + taken[:-1]).max()


def peak_by_convolution(sizes, bits):
    taken = torch.tensor(sizes, dtype=torch.float64) * torch.tensor(bits) / 8
    return taken.unfold(0, 2, 1).sum(1).max()


@pytest.mark.parametrize("answer", [peak_by_pairs, peak_by_arrays, peak_by_convolution])
def test_right_peaks(answer):
    verdict = checks.peak_bytes(answer)
    assert verdict.passed is True, verdict.message


@pytest.mark.parametrize("answer, says", [
    (lambda sizes, bits: np.multiply(sizes, bits).max() / 8, "largest tensor alone"),
    (lambda sizes, bits: 8 * peak_by_pairs(sizes, bits), "Those are bits"),
    (lambda sizes, bits: np.convolve(np.multiply(sizes, bits), np.ones(3))[min(2, len(sizes) - 1):].max() / 8,
     "three tensors"),
    (lambda sizes, bits: np.multiply(sizes, bits).sum() / 8, "every tensor to the end"),
    (lambda sizes, bits: np.sort(np.multiply(sizes, bits))[-2:].sum() / 8, "at the same time"),
    (lambda sizes, bits: peak_by_pairs(sizes, [8] * len(bits)), "8-bit one"),
    (lambda sizes, bits: peak_by_pairs(sizes, [32] * len(bits)), "float one"),
    (lambda sizes, bits: peak_by_pairs(*(values[(k := int(np.convolve(sizes, [1, 1], "valid").argmax())):k + 2]
                                         for values in (sizes, bits))),
     "most elements"),
])  # fmt: skip
def test_wrong_peaks(answer, says):
    judged(checks.peak_bytes, answer, says)


@pytest.mark.parametrize(
    "check", [checks.inverted, checks.rest_rate, checks.activation_bits, checks.peak_bytes]
)
def test_stubs_and_broken_answers(check):
    def stub(*_, **__):
        raise NotImplementedError

    assert check(stub).passed is None and "Not attempted yet" in check(stub).message
    assert "returns nothing" in check(lambda *_, **__: None).message
    assert "KeyError" in check(lambda *_, **__: {}[1]).message


def test_what_was_checked_is_drawn_with_words():
    for verdict in (
        checks.inverted(inverted),
        checks.rest_rate(unguarded),
        checks.activation_bits(bits_by_loop),
    ):
        data, metadata = verdict._repr_mimebundle_()
        assert data["image/png"] and "beside the right one" in metadata["image/png"]["alt"]


def test_the_rule_on_a_network_is_what_the_check_wants():
    """The oracle of exercise 3 against the library's rule, on the sizes of a real network."""
    model = attach(
        models.build("mobilenet_v1", classes=10), SearchSpace(), torch.rand(1, 3, 64, 64)
    )
    sizes = budget.activation_sizes(model)
    for rate in (2.0, 5.5, 8.0, 16.0, 32.0):
        wanted = checks._activation_bits(list(sizes.values()), rate)
        assert wanted == bits_by_loop(list(sizes.values()), rate)
        assert wanted == list(budget.activation_bits(sizes, rate).values())
