"""Checks of lesson 01: the step, integer codes, the released range, dividing by a shift."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from hmq_lab.checks.frame import (
    Cases,
    Faults,
    Verdict,
    check,
    compare,
    curve,
    in_bits,
    in_sign,
    points,
)

SIGNS = (True, False)
# Every multiple of 1/128 from -1.25 to 1.25: ties of all steps down to 1/64.
GRID = torch.arange(-160, 161) / 128


@check
def step(answer) -> Verdict:
    """Judge step(bits, threshold, signed) -> the distance between neighbouring levels.

    >>> step(lambda bits, threshold, signed: threshold / 2 ** (bits - signed)).passed
    True

    Source: HMQ, section 3: 2t / 2^b signed, t / 2^b unsigned.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("bits", "threshold", "signed")
    for threshold in (1.0, 0.25):
        for bits in (1, 2, 3, 8):
            cases.add(bits, threshold, True)
            cases.add(bits, threshold, False)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Signed and unsigned taken for each other.
    @faults.says("That is the unsigned step: a signed range is twice as long.")
    def _(bits, threshold, signed):
        return threshold / 2**bits

    @faults.says("That is the signed step: an unsigned range is half as long.")
    def _(bits, threshold, signed):
        return 2 * threshold / 2**bits

    # Something else than the number of levels below the line.
    @faults.says(
        "You divided by the number of gaps, 2^b - 1: the last level stands one step below the "
        "threshold."
    )
    def _(bits, threshold, signed):
        return threshold * (1 + signed) / (2**bits - 1)

    @faults.says("You gave signed the unsigned step and reversed.")
    def _(bits, threshold, signed):
        return threshold / 2 ** (bits - (not signed))

    @faults.says("You divided by the bits: b bits make 2^b levels.")
    def _(bits, threshold, signed):
        return threshold * (1 + signed) / bits

    # A part of the formula is missing or turned round.
    @faults.says("The threshold is missing: the step grows with it.")
    def _(bits, threshold, signed):
        return 1 / 2 ** (bits - signed)

    @faults.says("That is inverted: the step is the range by the number of levels.")
    def _(bits, threshold, signed):
        return 2 ** (bits - signed) / threshold

    # The drawing names each case by bits, threshold and sign.
    def label(case):
        bits = in_bits(case["bits"])
        return f"{bits} below {case['threshold']:g}, {in_sign(case['signed'])}"

    return compare(answer, _step, cases, faults, tolerance=1e-9, draw=points("step", label))


@check
def to_codes(answer) -> Verdict:
    """Judge to_codes(x, bits, threshold, signed) -> the integers of a two's complement quantizer,
    shaped like x.

    >>> to_codes(lambda x, bits, threshold, signed: x).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes of the rounding.
    faults.add("You round down: round to the nearest integer.", _rounding(np.floor))

    faults.add(
        "You cut off what is behind the point: round to the nearest integer.", _rounding(np.trunc)
    )

    @faults.says("You round a half up: a half goes to the even integer, 0.5 to 0 and 2.5 to 2.")
    @_rounding
    def _(u):
        return np.floor(u + 0.5)

    @faults.says(
        "You round a half away from zero: a half goes to the even integer, 0.5 to 0 and 2.5 to 2."
    )
    @_rounding
    def _(u):
        return np.sign(u) * np.floor(abs(u) + 0.5)

    # Mistakes at the two ends.
    @faults.says("Nothing is clipped: beyond the ends the codes must stop.")
    def _(x, bits, threshold, signed):
        return np.rint(x.numpy() / _step(bits, threshold, signed))

    @faults.says(
        "Your largest code stands for the threshold itself: in two's complement it is one less."
    )
    @_clipping
    def _(lo, hi):
        return lo, hi + 1

    @faults.says("Your smallest code is one too large: two's complement reaches -2^(b-1).")
    @_clipping
    def _(lo, hi):
        return lo + (lo < 0), hi

    @faults.says("Your range is the mirrored one of the released code.")
    @_clipping
    def _(lo, hi):
        return lo + (lo < 0), hi + 1

    # Mistakes of the sign.
    @faults.says("You used the signed range for unsigned numbers too.")
    def _(x, bits, threshold, signed):
        return _codes(x, bits, threshold, True)

    @faults.says("You used the unsigned range for signed numbers too.")
    def _(x, bits, threshold, signed):
        return _codes(x, bits, threshold, False)

    # The right codes, one step too far.
    @faults.says(
        "These are the values: leave the codes as integers, before they are multiplied by the step."
    )
    def _(x, bits, threshold, signed):
        return _codes(x, bits, threshold, signed) * _step(bits, threshold, signed)

    # The first difference from the right results is what the message tells.
    return compare(answer, _codes, _staircases(), faults, draw=curve("x", "code", pick=-1))


@check
def released(answer) -> Verdict:
    """Judge released(x, bits, threshold, signed) -> values quantized with the range of the authors'
    code, like x.

    >>> released(lambda x, bits, threshold, signed: x).passed
    False

    Source: the authors' code: [-t + step, t] signed, [0, t] unsigned; rounding half to even.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # A quantizer from a rule for the ends and a rounding.
    def ends(move, rounding=np.rint):
        def quantize(x, bits, threshold, signed):
            unit = _step(bits, threshold, signed)
            lo, hi = move(*_ends(bits, signed))
            return np.clip(rounding(x.numpy() / unit), lo, hi) * unit

        return quantize

    # The released range: the ends of two's complement, mirrored.
    def mirrored(lo, hi):
        return lo + (lo < 0), hi + 1

    # What is right, from the same parts as the mistakes.
    right = ends(mirrored)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes at the two ends.
    @faults.says("That is two's complement, as in exercise 2: the released range ends at +t.")
    @ends
    def _(*e):
        return e

    @faults.says("You kept -t: with both -t and +t a signed range has one level too many.")
    @ends
    def _(lo, hi):
        return lo, hi + 1

    @faults.says(
        "Your largest value is one step short of the threshold: the released range has +t."
    )
    @ends
    def _(lo, hi):
        return lo + (lo < 0), hi

    @faults.says("Your unsigned range begins at one step: it has 0 as well.")
    @ends
    def _(lo, hi):
        return lo + 1, hi + 1

    # Mistakes of the rounding.
    faults.add("You round down: round to the nearest level.", ends(mirrored, np.floor))

    faults.add(
        "You round a half up: a half goes to the even integer.",
        ends(mirrored, lambda u: np.floor(u + 0.5)),
    )

    @faults.says("Nothing is clipped: beyond the ends the values must stop.")
    @ends
    def _(*_):
        return -np.inf, np.inf

    # The right integers, one step too early.
    @faults.says("These are the codes: multiply by the step.")
    def _(x, bits, threshold, signed):
        return right(x, bits, threshold, signed) / _step(bits, threshold, signed)

    # The first difference from the right results is what the message tells.
    draw = curve("x", "Q(x)", pick=-1)
    return compare(answer, right, _staircases(), faults, tolerance=1e-9, draw=draw)


@check
def rescale(answer) -> Verdict:
    """Judge rescale(accumulator, places) -> accumulator / 2^places, rounded half to even, for
    Python integers.

    >>> rescale(lambda accumulator, places: round(Fraction(accumulator, 2**places))).passed
    True

    The largest accumulators have more than 53 bits, so that a detour through floats shows.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Small numbers can be checked by hand, from 0 outwards.
    cases = Cases("accumulator", "places")
    for places in (1, 2, 3):
        for accumulator in range(-12, 13):
            cases.add(accumulator, places)
    cases.sort(key=lambda case: abs(case["accumulator"]))
    cases.add(5, 0)
    # Large ones do not fit into a float.
    for large in (2**59 + 2**39, 2**59 + 2**39 + 1):
        cases.add(large, 40)
        cases.add(-large, 40)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes of the rounding.
    @faults.says("A shift alone rounds down: look at the bits that were shifted out.")
    def _(accumulator, places):
        return accumulator >> places

    @faults.says("You round towards zero: look at the bits that were shifted out.")
    def _(accumulator, places):
        size = abs(accumulator) >> places
        return size if accumulator > 0 else -size

    @faults.says("You round a half up: a half goes to the even integer.")
    def _(accumulator, places):
        return 2 * accumulator + 2**places >> places + 1

    @faults.says("You round a half away from zero: a half goes to the even integer.")
    def _(accumulator, places):
        size = 2 * abs(accumulator) + 2**places >> places + 1
        return size if accumulator > 0 else -size

    @faults.says("You round a half down: a half goes to the even integer.")
    def _(accumulator, places):
        return -(2**places - 2 * accumulator >> places + 1)

    # The right idea with the wrong operation.
    @faults.says("Your numbers went through floats, which hold 53 bits: stay with integers.")
    def _(accumulator, places):
        return round(accumulator / 2**places)

    @faults.says("You shift to the left: that multiplies.")
    def _(accumulator, places):
        return accumulator << places

    # The first difference from the right results is what the message tells.
    return compare(answer, _quotient, cases, faults, draw=_quotients)


def _quotient(accumulator: int, places: int) -> int:
    return round(Fraction(accumulator, 2**places))


def _quotients(cases, wanted, given):
    # The cases of two places, in the order of their numbers.
    rows = [row for row in zip(cases, wanted, given, strict=True) if row[0]["places"] == 2]
    rows.sort(key=lambda row: row[0]["accumulator"])
    draw = points("quotient", lambda case: f"{case['accumulator']} / 4")
    return draw(*zip(*rows, strict=True))


def _step(bits: int, threshold: float, signed: bool) -> float:
    return (2 if signed else 1) * threshold / 2**bits


def _ends(bits: int, signed: bool) -> tuple[int, int]:
    if not signed:
        return 0, 2**bits - 1
    half = 2 ** (bits - 1)
    return -half, half - 1


def _rounding(function):
    """The codes with another rounding."""

    def codes(x, bits, threshold, signed):
        rounded = function(x.numpy() / _step(bits, threshold, signed))
        return np.clip(rounded, *_ends(bits, signed))

    return codes


_codes = _rounding(np.rint)


def _clipping(move):
    """The codes with other ends."""

    def codes(x, bits, threshold, signed):
        rounded = np.rint(x.numpy() / _step(bits, threshold, signed))
        return np.clip(rounded, *move(*_ends(bits, signed)))

    return codes


def _staircases() -> list[dict]:
    """Single numbers first, so that what fails is easy to follow by hand; then whole staircases."""
    cases = Cases("x", "bits", "threshold", "signed")

    # A value for both signs.
    def single(value, bits):
        cases.add(torch.tensor([value]), bits, 1.0, True)
        cases.add(torch.tensor([value]), bits, 1.0, False)

    # Values and bits that reach a level, a half, and both ends.
    single(0.25, 2)
    single(0.75, 2)
    single(0.3, 2)
    single(-0.3, 2)
    single(0.9, 2)
    single(1.5, 1)
    single(-0.8, 2)
    single(-1.5, 2)
    single(-3.0, 1)
    # Then whole staircases, of both signs and several widths.
    cases.add(GRID, 1, 1.0, True)
    cases.add(GRID * 0.25, 4, 0.25, False)
    cases.add(GRID * 0.5, 4, 0.5, True)
    cases.add(GRID * 4.0, 3, 4.0, False)
    cases.add(GRID, 3, 1.0, True)
    return cases
