"""The checks of lesson 01 accept right answers however they are written, and name what is wrong with wrong ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from hmq_lab import Scheme, checks, quantize
from hmq_lab.quantizer import codes


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


@pytest.mark.parametrize("name", ["step", "to_codes", "released", "rescale"])
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


# step


def step_by_levels(bits, threshold, signed):
    """Step from two neighbouring levels, listed."""
    count = len([None for _ in range(2**bits)])
    low = -threshold if signed else 0
    levels = [low + (threshold - low) * i / count for i in range(count)]
    return levels[1] - levels[0]


STEPS = [
    lambda bits, threshold, signed: 2 * threshold / 2**bits if signed else threshold / 2**bits,
    lambda bits, threshold, signed: Scheme(bits, round(math.log2(threshold)), signed).step,
    lambda bits, threshold, signed: np.ldexp(threshold, -bits + int(signed)),
    lambda bits, threshold, signed: torch.tensor(threshold) * 2.0 ** (signed - bits),
    step_by_levels,
]


@pytest.mark.parametrize("answer", STEPS)
def test_step_accepts(answer):
    accepted(checks.step(answer))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda bits, threshold, signed: threshold * 2**-bits, "unsigned step"),
        (lambda bits, threshold, signed: threshold * 2 ** (1 - bits), "signed step"),
        (lambda bits, threshold, signed: (2 if signed else 1) * threshold / (2**bits - 1), "gaps"),
        (lambda bits, threshold, signed: (1 if signed else 2) * threshold / 2**bits, "reversed"),
        (lambda bits, threshold, signed: (2 if signed else 1) / 2**bits, "threshold is missing"),
        (
            lambda bits, threshold, signed: (2 * threshold if signed else threshold) / bits,
            "2^b levels",
        ),
        (lambda bits, threshold, signed: 2**bits / ((2 if signed else 1) * threshold), "inverted"),
        (lambda bits, threshold, signed: 7.0, "you gave 7"),
    ],
)
def test_step_rejects(answer, phrase):
    rejected(checks.step(answer), phrase)


# to_codes


def codes_with_loops(x, bits, threshold, signed):
    unit = Fraction(threshold) * (2 if signed else 1) / 2**bits
    low = -(2 ** (bits - 1)) if signed else 0
    return [min(max(round(Fraction(v) / unit), low), low + 2**bits - 1) for v in x.tolist()]


def codes_by_nearest_level(x, bits, threshold, signed):
    """The nearest level, by distances to all of them; at a tie the even one."""
    low = -(2 ** (bits - 1)) if signed else 0
    levels = torch.arange(low, low + 2**bits)
    unit = threshold / 2 ** (bits - signed)
    distance = (x[:, None].double() / unit - levels).abs() + 1e-9 * (levels % 2)
    return levels[distance.argmin(1)]


CODES = [
    lambda x, bits, threshold, signed: codes(x, Scheme(bits, round(math.log2(threshold)), signed)),
    lambda x, bits, threshold, signed: np.clip(
        np.round(np.asarray(x) / threshold * 2 ** (bits - signed)),
        -(2 ** (bits - 1)) if signed else 0,
        2 ** (bits - signed) - 1,
    ).astype(int),
    codes_with_loops,
    codes_by_nearest_level,
]


@pytest.mark.parametrize("answer", CODES)
def test_to_codes_accepts(answer):
    accepted(checks.to_codes(answer))


def torch_codes(rounding=torch.round, top=-1, bottom=0, sign=None, times_step=False):
    def answer(x, bits, threshold, signed):
        signed = signed if sign is None else sign
        half = 2 ** (bits - 1)
        unit = threshold / half if signed else threshold / (2 * half)
        low, high = (-half + bottom, half + top) if signed else (0, 2 * half + top)
        q = rounding(x / unit).clamp(low, high)
        return q * unit if times_step else q

    return answer


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (torch_codes(torch.floor), "round down"),
        (torch_codes(torch.trunc), "cut off"),
        (torch_codes(lambda u: (u + 0.5).floor()), "half up"),
        (torch_codes(lambda u: u.sign() * (u.abs() + 0.5).floor()), "away from zero"),
        (
            lambda x, bits, threshold, signed: (
                x / step_by_levels(bits, threshold, signed)
            ).round(),
            "clipped",
        ),
        (torch_codes(top=0), "the threshold itself"),
        (torch_codes(bottom=1), "one too large"),
        (torch_codes(top=0, bottom=1), "mirrored"),
        (torch_codes(sign=True), "signed range for unsigned"),
        (torch_codes(sign=False), "unsigned range for signed"),
        (torch_codes(times_step=True), "before they are multiplied"),
        (lambda x, bits, threshold, signed: x[:0], "the shape (0,)"),
        (lambda x, bits, threshold, signed: None, "return"),
        (lambda x, bits, threshold, signed: x.no_such_thing, "AttributeError"),
    ],
)
def test_to_codes_rejects(answer, phrase):
    rejected(checks.to_codes(answer), phrase)


# released


def released(x, bits, threshold, signed):
    """The mirror image of two's complement: negate, quantize, negate."""
    step = threshold / 2 ** (bits - signed)
    if signed:
        return -quantize(-x, step, threshold, True)
    return quantize(x, step, threshold + step, False)


RELEASED = [
    released,
    lambda x, bits, threshold, signed: (
        np.clip(
            np.round(np.asarray(x) * 2 ** (bits - signed) / threshold),
            1 - 2 ** (bits - 1) if signed else 0,
            2 ** (bits - signed),
        )
        * threshold
        / 2 ** (bits - signed)
    ),
    lambda x, bits, threshold, signed: [
        float(
            min(
                max(round(Fraction(v) / s), 1 - 2 ** (bits - 1) if signed else 0),
                2 ** (bits - 1) * (2 - signed),
            )
            * s
        )
        for s in [Fraction(threshold) / 2 ** (bits - signed)]
        for v in x.tolist()
    ],
    lambda x, bits, threshold, signed: torch.clamp(
        torch.round(x / (s := threshold / 2 ** (bits - signed))) * s,
        s - threshold if signed else 0.0,
        threshold,
    ),
]


@pytest.mark.parametrize("answer", RELEASED)
def test_released_accepts(answer):
    accepted(checks.released(answer))


def torch_released(rounding=torch.round, bottom=None, top=None, unit=None):
    def answer(x, bits, threshold, signed):
        step = threshold / 2 ** (bits - signed)
        low = (
            (step - threshold if signed else 0.0)
            if bottom is None
            else bottom(step, threshold, signed)
        )
        high = threshold if top is None else top(step, threshold)
        return (rounding(x / step) * step).clamp(low, high) / (step if unit else 1)

    return answer


def whole_bottom(step, threshold, signed):
    return -threshold if signed else 0.0


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (torch_released(bottom=whole_bottom, top=lambda s, t: t - s), "two's complement"),
        (torch_released(bottom=whole_bottom), "one level too many"),
        (torch_released(top=lambda s, t: t - s), "one step short"),
        (torch_released(bottom=lambda s, t, signed: s - t if signed else s), "it has 0 as well"),
        (torch_released(torch.floor), "round down"),
        (torch_released(lambda u: (u + 0.5).floor()), "half up"),
        (torch_released(bottom=lambda *_: -1e6, top=lambda *_: 1e6), "clipped"),
        (torch_released(unit=True), "multiply by the step"),
    ],
)
def test_released_rejects(answer, phrase):
    rejected(checks.released(answer), phrase)


@pytest.mark.parametrize(
    ("bits", "signed", "count"), [(1, True, 2), (4, True, 16), (1, False, 3), (4, False, 17)]
)
def test_the_released_range_has_a_level_too_many_without_a_sign(bits, signed, count):
    x = torch.linspace(-2, 2, 4001)
    assert len(released(x, bits, 1.0, signed).unique()) == count


# rescale


def rescale_by_bits(accumulator, places):
    if places == 0:
        return accumulator
    floor, rest, half = accumulator >> places, accumulator & (2**places - 1), 2 ** (places - 1)
    return floor + (rest > half or (rest == half and floor % 2 == 1))


def rescale_by_divmod(accumulator, places):
    floor, rest = divmod(accumulator, 2**places)
    if 2 * rest == 2**places:
        return floor + floor % 2
    return floor + (2 * rest > 2**places)


RESCALES = [
    rescale_by_bits,
    rescale_by_divmod,
    lambda accumulator, places: round(Fraction(accumulator) / 2**places),
    # the classic trick: half minus one, and one more where the result would be odd
    lambda accumulator, places: (
        (accumulator + 2**places // 2 - 1 + ((accumulator >> places) & 1)) >> places
        if places
        else accumulator
    ),
]


@pytest.mark.parametrize("answer", RESCALES)
def test_rescale_accepts(answer):
    accepted(checks.rescale(answer))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda accumulator, places: accumulator // 2**places, "rounds down"),
        (
            lambda accumulator, places: int(
                math.copysign(abs(accumulator) // 2**places, accumulator)
            ),
            "towards zero",
        ),
        (lambda accumulator, places: (accumulator + 2**places // 2) // 2**places, "half up"),
        (
            lambda accumulator, places: (
                int(math.copysign(1, accumulator))
                * ((abs(accumulator) + 2**places // 2) // 2**places)
            ),
            "away from zero",
        ),
        (lambda accumulator, places: -((2**places // 2 - accumulator) // 2**places), "half down"),
        (lambda accumulator, places: int(np.rint(accumulator / 2.0**places)), "floats"),
        (lambda accumulator, places: accumulator * 2**places, "left"),
        (lambda accumulator, places: (accumulator + 2 ** (places - 1)) // (1 << places), "half up"),
        (
            lambda accumulator, places: (accumulator + (1 << (places - 1))) >> places,
            "negative shift count",
        ),
    ],
)
def test_rescale_rejects(answer, phrase):
    rejected(checks.rescale(answer), phrase)
