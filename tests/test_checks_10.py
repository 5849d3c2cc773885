"""The checks of lesson 10 accept right answers however they are written, and name what is wrong with wrong ones."""

import itertools

import numpy as np
import pytest
import torch

from hmq_lab import checks
from hmq_lab.hardware import arithmetic as fixedpoint
from hmq_lab.hardware import packing


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


@pytest.mark.parametrize("name", ["requantize", "aligned_sum", "accumulator_bits", "pack"])
def test_a_stub_is_no_attempt(name):
    assert getattr(checks, name)(todo).passed is None


# requantize


def requantize_with_masks(sums, places, low, high):
    if not places:
        return sums.clamp(low, high)
    floor, rest = sums >> places, sums & (2**places - 1)
    up = (2 * rest > 2**places) | ((2 * rest == 2**places) & (floor % 2 == 1))
    return (floor + up).clip(low, high)


def requantize_with_divmod(sums, places, low, high):
    found = []
    for n in sums.tolist():
        q, rest = divmod(n, 2**places)
        q += 2 * rest > 2**places or (2 * rest == 2**places and q % 2)
        found.append(max(low, min(high, q)))
    return found


def requantize_in_numpy(sums, places, low, high):
    n = sums.numpy()
    add = (
        2 ** (places - 1) - 1 + (n >> places & 1) if places else 0
    )  # a half goes up where the result would be odd
    return np.clip(n + add >> places, low, high)


@pytest.mark.parametrize(
    "answer",
    [
        lambda sums, places, low, high: fixedpoint.requantize(sums, places, low, high),
        requantize_with_masks,
        requantize_with_divmod,
        requantize_in_numpy,
    ],
)
def test_requantize_accepts(answer):
    accepted(checks.requantize(answer))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda sums, places, low, high: (sums // 2**places).clamp(low, high), "rounds down"),
        (
            lambda sums, places, low, high: (sums + (1 << places) // 2 >> places).clamp(low, high),
            "half up",
        ),
        (
            lambda sums, places, low, high: (
                sums.sign() * (sums.abs() + (1 << places) // 2 >> places)
            ).clamp(low, high),
            "away from zero",
        ),
        (
            lambda sums, places, low, high: torch.div(sums, 2**places, rounding_mode="trunc").clamp(
                low, high
            ),
            "towards zero",
        ),
        (
            lambda sums, places, low, high: requantize_with_masks(sums, places, -(2**62), 2**62),
            "clipped",
        ),
        (
            lambda sums, places, low, high: requantize_with_masks(
                sums.clamp(low, high), places, low, high
            ),
            "before",
        ),
        (
            lambda sums, places, low, high: requantize_with_masks(sums, places, low, high - 1),
            "both included",
        ),
        (
            lambda sums, places, low, high: (sums.double() / 2**places).round().clamp(low, high),
            "53 bits",
        ),
        (lambda sums, places, low, high: (sums << places).clamp(low, high), "left"),
        (lambda sums, places, low, high: sums[:0], "the shape (0,)"),
        (lambda sums, places, low, high: None, "return"),
    ],
)
def test_requantize_rejects(answer, phrase):
    rejected(checks.requantize(answer), phrase)


# aligned_sum


def sum_with_torch(a, a_exponent, b, b_exponent):
    unit = min(a_exponent, b_exponent)
    return (a << (a_exponent - unit)) + (b << (b_exponent - unit))


def sum_case_by_case(a, a_exponent, b, b_exponent):
    if a_exponent < b_exponent:
        return (a + b * 2 ** (b_exponent - a_exponent)).numpy()
    return [
        x * 2 ** (a_exponent - b_exponent) + y for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "answer",
    [
        sum_with_torch,
        sum_case_by_case,
        lambda a, a_exponent, b, b_exponent: (
            (a.double() * 2.0**a_exponent + b.double() * 2.0**b_exponent)
            / 2.0 ** min(a_exponent, b_exponent)
        ),
        lambda a, a_exponent, b, b_exponent: fixedpoint.add(
            a,
            b,
            shifts=(max(a_exponent - b_exponent, 0), max(b_exponent - a_exponent, 0)),
            signs=(1, 1),
        ),
    ],
)
def test_aligned_sum_accepts(answer):
    accepted(checks.aligned_sum(answer))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda a, a_exponent, b, b_exponent: a + b, "different units"),
        (
            lambda a, a_exponent, b, b_exponent: sum_with_torch(a, b_exponent, b, a_exponent),
            "wrong side",
        ),
        (
            lambda a, a_exponent, b, b_exponent: (
                (a >> max(b_exponent - a_exponent, 0)) + (b >> max(a_exponent - b_exponent, 0))
            ),
            "bits get lost",
        ),
        (
            lambda a, a_exponent, b, b_exponent: (a << max(a_exponent - b_exponent, 0)) + b,
            "b must be shifted",
        ),
        (
            lambda a, a_exponent, b, b_exponent: a + (b << max(b_exponent - a_exponent, 0)),
            "a must be shifted",
        ),
        (
            lambda a, a_exponent, b, b_exponent: (
                a * max(1, a_exponent - b_exponent) + b * max(1, b_exponent - a_exponent)
            ),
            "not by k",
        ),
        (
            lambda a, a_exponent, b, b_exponent: a * 2.0**a_exponent + b * 2.0**b_exponent,
            "the values",
        ),
        (
            lambda a, a_exponent, b, b_exponent: sum_with_torch(a, a_exponent, -b, b_exponent),
            "reversed",
        ),
        (
            lambda a, a_exponent, b, b_exponent: [
                n << (a_exponent - b_exponent) for n in a.tolist()
            ],
            "negative shift count",
        ),
    ],
)
def test_aligned_sum_rejects(answer, phrase):
    rejected(checks.aligned_sum(answer), phrase)


# accumulator_bits


def bits_by_log(weight, bias, largest):
    high = int((weight.clamp(min=0).sum(1) * largest + bias).max())
    low = int((weight.clamp(max=0).sum(1) * largest + bias).min())
    return 1 + max(high.bit_length() if high > 0 else 0, (-low - 1).bit_length() if low < 0 else 0)


def bits_by_all_corners(weight, bias, largest):
    """Tries 0 and the largest on every input where there are few; else the picture that suits the signs."""
    sums = []
    for row, b in zip(weight.tolist(), bias.tolist(), strict=True):
        if len(row) <= 9:
            corners = itertools.product((0, largest), repeat=len(row))
        else:
            corners = ([largest * (w > 0) for w in row], [largest * (w < 0) for w in row])
        sums += [sum(w * x for w, x in zip(row, corner, strict=True)) + b for corner in corners]
    return next(
        k for k in itertools.count(1) if all(-(2 ** (k - 1)) <= s < 2 ** (k - 1) for s in sums)
    )


def bits_in_numpy(weight, bias, largest):
    w, b = weight.numpy(), bias.numpy()
    ends = np.array(
        [np.where(w > 0, w, 0).sum(1) * largest + b, ~(np.where(w < 0, w, 0).sum(1) * largest + b)]
    )
    return int(ends.max().clip(0)).bit_length() + 1


@pytest.mark.parametrize("answer", [bits_by_log, bits_by_all_corners, bits_in_numpy])
def test_accumulator_bits_accepts(answer):
    accepted(checks.accumulator_bits(answer))


def holding(low, high):
    return next(k for k in itertools.count(1) if -(2 ** (k - 1)) <= low and high < 2 ** (k - 1))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda weight, bias, largest: bits_by_log(weight, bias, largest) - 1, "for the sign"),
        (lambda weight, bias, largest: bits_by_log(weight, bias, largest) + 1, "One bit too many"),
        (lambda weight, bias, largest: bits_by_log(weight, 0 * bias, largest), "bias is missing"),
        (
            lambda weight, bias, largest: (
                int((weight.abs().sum(1) * largest + bias.abs()).max()).bit_length() + 1
            ),
            "positive and the negative weights apart",
        ),
        (
            lambda weight, bias, largest: bits_by_log(
                weight.view(1, -1), bias.sum(0, keepdim=True), largest
            ),
            "own",
        ),
        (
            lambda weight, bias, largest: holding(
                -1, max(int((weight.clamp(min=0).sum(1) * largest + bias).max()), 0)
            ),
            "positive sums alone",
        ),
        (
            lambda weight, bias, largest: holding(
                *[int(f(weight.sum(1) * largest + bias)) for f in (min, max)]
            ),
            "all inputs are the largest",
        ),
        (
            lambda weight, bias, largest: holding(
                min(int(weight.min()) * largest, 0), max(int(weight.max()) * largest, 0)
            ),
            "one product",
        ),
        (lambda weight, bias, largest: 32, "you gave 32"),
    ],
)
def test_accumulator_bits_rejects(answer, phrase):
    rejected(checks.accumulator_bits(answer), phrase)


# pack


def pack_bit_by_bit(codes, bits):
    out = bytearray(-(-len(codes) * bits // 8))
    for i, code in enumerate(codes):
        for j in range(bits):
            at = i * bits + j
            out[at // 8] |= (code >> j & 1) << at % 8
    return out


def pack_by_text(codes, bits):
    text = "".join(format(c % 2**bits, f"0{bits}b")[::-1] for c in codes)
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]


def pack_in_numpy(codes, bits):
    matrix = np.array(codes)[:, None] >> np.arange(bits) & 1
    return np.packbits(matrix.astype(np.uint8).ravel(), bitorder="little")


@pytest.mark.parametrize(
    "answer",
    [
        pack_bit_by_bit,
        pack_by_text,
        pack_in_numpy,
        lambda codes, bits: packing.pack_bits(torch.tensor(codes), bits),
        lambda codes, bits: bytes(pack_bit_by_bit(codes, bits)),
    ],
)
def test_pack_accepts(answer):
    accepted(checks.pack(answer))


@pytest.mark.parametrize(
    ("answer", "phrase"),
    [
        (lambda codes, bits: np.packbits((np.array(codes)[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)),
         "yours stands in the highest"),
        (lambda codes, bits: np.packbits((np.array(codes)[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8),
                                         bitorder="little"), "reversed"),
        (lambda codes, bits: pack_by_text(codes[::-1], bits), "wrong order"),
        (lambda codes, bits: [c % 256 for c in codes], "a byte for each code"),
        (lambda codes, bits: [b for i in range(0, len(codes), 8 // bits)
                              for b in pack_by_text(codes[i : i + 8 // bits], bits)], "across two bytes"),
        (lambda codes, bits: [(sum(c << (bits * i) for i, c in enumerate(codes)) >> 8 * k) % 256
                              for k in range(-(-len(codes) * bits // 8))], "reach into their neighbours"),
        (lambda codes, bits: pack_by_text([abs(c) for c in codes], bits), "sign is lost"),
        (lambda codes, bits: pack_by_text([c + 2 ** (bits - 1) for c in codes], bits), "to make them positive"),
        (lambda codes, bits: pack_by_text(codes, bits)[::-1], "bytes come in the wrong order"),
        (lambda codes, bits: None, "return"),
    ],
)  # fmt: skip
def test_pack_rejects(answer, phrase):
    rejected(checks.pack(answer), phrase)
