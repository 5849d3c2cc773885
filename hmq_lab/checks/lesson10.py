"""Checks of lesson 10: the requantizing shift, sums of two exponents, the width of an accumulator,
packed codes.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, array, call, check, compare, curve, points

AROUND = torch.arange(-40, 41)  # halves of every kind, on both sides of 0


@check
def requantize(answer) -> Verdict:
    """Judge requantize(sums, places, low, high) -> the codes: sums / 2^places, half to even,
    clipped to low..high.

    >>> requantize(lambda sums, places, low, high: (sums >> places).clamp(low, high)).passed
    False

    sums: int64 tensors. The largest need more than the 53 bits that a float has.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Sums near 2^58: floats cannot hold them.
    near = 2**58
    half = 2**50
    large = torch.tensor([near - half, near + half, near + half + 1, 3 * half - 1])

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("sums", "places", "low", "high")
    for k in (1, 2):
        for n in (1, 2, 3, 5, 6, -1, -3):
            cases.add(torch.tensor([n]), k, -8, 7)
    # Then many sums around 0, with several ranges.
    cases.add(AROUND, 2, 0, 7)
    cases.add(AROUND, 0, -8, 7)
    cases.add(AROUND, 3, -4, 3)
    cases.add(large, 51, 0, 255)
    cases.add(AROUND, 2, -8, 7)

    # An answer with another rounding.
    def shifted(rounding):
        def codes(sums, places, low, high):
            return _clipped([rounding(int(n), places) for n in sums], low, high)

        return codes

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes of the rounding.
    @faults.says("A shift alone rounds down: look at what was shifted out.")
    @shifted
    def _(n, k):
        return n >> k

    @faults.says("You round a half up: a half goes to the even integer.")
    @shifted
    def _(n, k):
        return 2 * n + 2**k >> k + 1

    @faults.says("You round a half away from zero: a half goes to the even integer.")
    @shifted
    def _(n, k):
        size = 2 * abs(n) + 2**k >> k + 1
        return size if n > 0 else -size

    @faults.says("You round towards zero: look at what was shifted out.")
    @shifted
    def _(n, k):
        size = abs(n) >> k
        return size if n > 0 else -size

    # Mistakes of the clipping.
    @faults.says("Nothing is clipped: beyond low and high the codes must stop.")
    def _(sums, places, low, high):
        return _rounded(sums, places)

    @faults.says("You clip before the shift: low and high are codes, and sums are larger.")
    def _(sums, places, low, high):
        return _rounded(_clipped(sums, low, high), places)

    @faults.says("high itself is a code that may occur: clip to low..high, both included.")
    def _(sums, places, low, high):
        return np.clip(_codes(sums, places, low, high), low, high - 1)

    # Floats in the place of integers, or the wrong direction.
    @faults.says("Your sums went through floats, which hold 53 bits: stay with integers.")
    def _(sums, places, low, high):
        rounded = np.rint(sums.numpy() / 2.0**places)
        return np.clip(rounded, low, high)

    @faults.says("Your sums went through float32, which holds 24 bits: stay with integers.")
    def _(sums, places, low, high):
        rounded = np.rint(sums.float().numpy() / 2.0**places)
        return np.clip(rounded, low, high)

    @faults.says("You shift to the left: that multiplies.")
    def _(sums, places, low, high):
        return (sums << places).clamp(low, high)

    # The first difference from the right results is what the message tells.
    return compare(answer, _codes, cases, faults, draw=curve("sums", "code", pick=-1))


@check
def aligned_sum(answer) -> Verdict:
    """Judge aligned_sum(a, a_exponent, b, b_exponent) -> integers of a + b in units of the smaller
    exponent's power.

    >>> aligned_sum(lambda a, a_exponent, b, b_exponent: a + b).passed
    False

    The integers a stand for a * 2^a_exponent, b for b * 2^b_exponent.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("a", "a_exponent", "b", "b_exponent")
    singles = [(1, 0, 1, -1), (1, -3, 1, -1), (5, -2, -7, -2), (3, 1, 2, 4)]
    for a, a_exponent, b, b_exponent in singles:
        cases.add(torch.tensor([a]), a_exponent, torch.tensor([b]), b_exponent)
    cases.add(AROUND, -12, AROUND.flip(0) * 3 + 1, -6)
    cases.add(AROUND, -4, AROUND**2, -7)

    # A wrong answer from another shift of the two exponents.
    def moved(shift):
        """a and b as the faulty `shift` of their exponents brings them together."""

        def total(a, a_exponent, b, b_exponent):
            first, second = shift(a_exponent, b_exponent)
            sums = a.double() * 2.0**first + b.double() * 2.0**second
            return sums.floor().long()

        return total

    # The sum in units of the larger exponent.
    def coarse(a, a_exponent, b, b_exponent):
        unit = max(a_exponent, b_exponent)
        return (a >> (unit - a_exponent)) + (b >> (unit - b_exponent))

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # One side is shifted in the wrong way, or none is.
    @faults.says("The integers count different units: shift one side before you add.")
    @moved
    def _(p, q):
        return 0, 0

    @faults.says(
        "You shift the wrong side: the one with the larger exponent has the larger unit, and "
        "more small units in it."
    )
    @moved
    def _(p, q):
        return max(q - p, 0), max(p - q, 0)

    faults.add(
        "You shift to the right, to the larger unit: bits get lost. To the left, to the smaller "
        "unit, nothing is.",
        coarse,
    )

    # Only one of the two orders is right.
    @faults.says(
        "That is right where a has the larger exponent; where b has it, b must be shifted."
    )
    @moved
    def _(p, q):
        return max(p - q, 0), 0

    @faults.says(
        "That is right where b has the larger exponent; where a has it, a must be shifted."
    )
    @moved
    def _(p, q):
        return 0, max(q - p, 0)

    # The right shift in another form.
    @faults.says("A shift by k places is a multiplication by 2^k, not by k.")
    def _(a, a_exponent, b, b_exponent):
        ahead = a_exponent - b_exponent
        return a * max(ahead, 1) + b * max(-ahead, 1)

    @faults.says(
        "These are the values: give the integers, in units of the smaller exponent's power."
    )
    def _(a, a_exponent, b, b_exponent):
        return a.double() * 2.0**a_exponent + b.double() * 2.0**b_exponent

    @faults.says("The sign of b is reversed: the sum is asked for.")
    def _(a, a_exponent, b, b_exponent):
        return _aligned(a, a_exponent, -b, b_exponent)

    # The first difference from the right results is what the message tells.
    return compare(answer, _aligned, cases, faults, draw=_sums)


@check
def accumulator_bits(answer) -> Verdict:
    """Judge accumulator_bits(weight, bias, largest) -> the fewest bits that hold every sum,
    whatever the image.

    >>> accumulator_bits(lambda weight, bias, largest: 32).passed
    False

    weight: integers (outputs, inputs); bias: (outputs,); inputs are codes from 0 to largest.
    The accumulator is in two's complement.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The same random weights for every reader.
    generator = np.random.default_rng(0)

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("weight", "bias", "largest")

    def layer(weight, bias, largest):
        cases.add(torch.tensor(weight), torch.tensor(bias), largest)

    layer([[1]], [0], 127)
    layer([[1]], [1], 127)
    layer([[-1]], [-1], 127)
    layer([[1, -1]], [0], 127)
    layer([[-2, -2]], [0], 2)
    layer([[7, -8, 1], [1, 1, 1]], [3, 100], 15)
    layer([[1, 0], [0, 1]], [0, 0], 7)
    layer([[6, -5], [0, 0]], [0, 300], 3)
    # Then whole layers, as large as real ones.
    for bits, inputs in ((2, 9), (4, 72), (4, 144), (8, 144), (8, 27)):
        end = 2 ** (bits - 1)
        weight = generator.integers(-end, end, (8, inputs))
        bias = generator.integers(-5000, 5000, 8)
        layer(weight, bias, 255)

    # A wrong answer from other ends of the sums.
    def reach(ends):
        """The bits for the smallest and largest number that `ends` finds."""

        def bits(weight, bias, largest):
            low, high = ends(weight.numpy(), bias.numpy(), largest)
            return _width(int(low), int(high))

        return bits

    # The smallest and largest sum of each output.
    def extremes(w, b, x):
        low = np.minimum(w, 0).sum(1) * x + b
        high = np.maximum(w, 0).sum(1) * x + b
        return low.min(), high.max()

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The width is off by one.
    @faults.says("A bit is missing: two's complement needs one for the sign.")
    def _(weight, bias, largest):
        return _bits(weight, bias, largest) - 1

    @faults.says(
        "One bit too many: -2^(b-1) is still held by b bits, and positive and negative sums "
        "share them."
    )
    def _(weight, bias, largest):
        return _bits(weight, bias, largest) + 1

    # The bias, or the sum that is bounded, is another one.
    @faults.says("The bias is missing.")
    @reach
    def _(w, b, x):
        return extremes(w, 0 * b, x)

    @faults.says(
        "That holds sum |w| * largest + |b|. But no image makes the negative weights count as "
        "positive ones: take the positive and the negative weights apart."
    )
    @reach
    def _(w, b, x):
        largest_sums = abs(w).sum(1) * x + abs(b)
        return -1, largest_sums.max()

    @faults.says("That is for the sum over all outputs: each output has an accumulator of its own.")
    @reach
    def _(w, b, x):
        return extremes(w.reshape(1, -1), b.sum(keepdims=True), x)

    # The bound is safe but too wide.
    @faults.says(
        "That is the bits of a product and log2 of their number: safe, but it assumes the "
        "largest weight everywhere."
    )
    @reach
    def _(w, b, x):
        product = abs(w).max() * x
        end = product * w.shape[1] + abs(b).max()
        return -end, end - 1

    # The bound is too narrow.
    @faults.says("You looked at positive sums alone: a negative one can be the longer.")
    @reach
    def _(w, b, x):
        _, high = extremes(w, b, x)
        return -1, max(high, 0)

    @faults.says(
        "You looked at the image where all inputs are the largest: zeros where a weight is "
        "positive, and the largest where it is negative, make the smallest sum."
    )
    @reach
    def _(w, b, x):
        sums = w.sum(1) * x + b
        return sums.min(), sums.max()

    @faults.says("That holds one product: a sum of them is longer.")
    @reach
    def _(w, b, x):
        products = w * x
        return min(products.min(), 0), max(products.max(), 0)

    # The drawing names each case by the layer's size.
    def label(case):
        outputs, inputs = case["weight"].shape
        return f"{outputs} x {inputs}, to {case['largest']}"

    return compare(answer, _bits, cases, faults, draw=points("bits", label))


@check
def pack(answer) -> Verdict:
    """Judge pack(codes, bits) -> the bytes, integers 0 to 255, of signed codes of so many bits
    each.

    >>> pack(lambda codes, bits: codes).passed
    False

    codes: a list. Two's complement, the first code in the lowest bits of the first byte; zeros fill
    the last byte.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("codes", "bits")
    cases.add([1, 0, 0, 0], 2)
    cases.add([0, 0, 0, 1], 2)
    cases.add([-1], 2)
    cases.add([1, -1, 0, -2], 2)
    cases.add([1, 2, 3], 3)
    cases.add([-4, 3, -1, 0, 1, 2, -2, -3], 3)
    cases.add([-1, 0, -1, 0, 0, 0, 0, -1, -1], 1)
    cases.add([-8, 7, 3], 4)
    cases.add([(7 * i) % 32 - 16 for i in range(21)], 5)
    cases.add([-128, 127, -1], 8)

    # The codes as text, the first one at the left.
    def stream(codes, bits):
        return "".join(f"{c & (2**bits - 1):0{bits}b}" for c in codes)

    # Bytes from such a text, filled up with zeros.
    def bytes_of(text, last_first=False):
        text += "0" * (-len(text) % 8)
        bytes_as_text = [text[i : i + 8] for i in range(0, len(text), 8)]
        if last_first:
            bytes_as_text = [bits[::-1] for bits in bytes_as_text]
        return [int(bits, 2) for bits in bytes_as_text]

    # Two more wrong ways: whole codes in each byte, and mirrored bits.
    def separately(codes, bits):
        fit = 8 // bits
        groups = [codes[i : i + fit] for i in range(0, len(codes), fit)]
        return [_as_one_number(group, bits) for group in groups]

    def mirrored(codes, bits):
        return bytes_of(stream(codes, bits), last_first=True)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes in the order of bits and codes.
    @faults.says("The first code belongs into the lowest bits: yours stands in the highest.")
    def _(codes, bits):
        return bytes_of(stream(codes, bits))

    faults.add("The bits of each code are reversed: its lowest bit comes first.", mirrored)

    @faults.says("The codes come in the wrong order: the first one goes first.")
    def _(codes, bits):
        return _packed(codes[::-1], bits)

    # Mistakes in how codes share a byte.
    @faults.says("That is a byte for each code: with fewer than 8 bits several share one.")
    def _(codes, bits):
        return [c & 255 for c in codes]

    faults.add(
        "Codes may lie across two bytes: with 3 bits, 8 codes fill 3 bytes without a gap.",
        separately,
    )

    # Mistakes of the sign.
    @faults.says(
        "Negative codes reach into their neighbours: keep `bits` bits of each, with & (2**bits - "
        "1)."
    )
    def _(codes, bits):
        number = sum(c << bits * i for i, c in enumerate(codes))
        return _split(number, len(codes), bits)

    @faults.says("The sign is lost: -1 is all ones in two's complement, not 1.")
    def _(codes, bits):
        return _packed([abs(c) for c in codes], bits)

    @faults.says("You moved the codes up to make them positive: two's complement keeps 0 as 0.")
    def _(codes, bits):
        return _packed([c + 2 ** (bits - 1) for c in codes], bits)

    # Mistakes in the order of the bytes.
    @faults.says("The bytes come in the wrong order: the lowest one first.")
    def _(codes, bits):
        return _packed(codes, bits)[::-1]

    # The number of bytes is checked first: the message names it, not a shape.
    for case in cases:
        given = call(answer, case)
        wanted = _packed(**case)
        if hasattr(given, "__len__") and len(given) != len(wanted):
            codes = case["codes"]
            bits = case["bits"]
            says = f"Not yet. For codes={codes}, bits={bits} you gave {len(given)} bytes; "
            says += f"{len(codes)} x {bits} bits are {len(wanted)}."
            named = [f.says for f in faults if _same(f.answer(**case), given)]
            return Verdict(False, " ".join([says, *named[:1]]))

    # The bytes may come as an object of Python's type bytes.
    def listed(**case):
        return _listed(call(answer, case))

    return compare(listed, _packed, cases, faults, draw=_bytes)


def _listed(given):
    """Return the bytes as numbers, not rounded: 1.5 is no byte."""
    if isinstance(given, bytes | bytearray):
        return list(given)
    return array(given).tolist() if hasattr(given, "__iter__") else given


def _same(a, b) -> bool:
    return [int(x) for x in a] == [int(x) for x in b]


def _codes(sums, places, low, high):
    return _clipped(_rounded(sums, places), low, high)


def _rounded(sums, places) -> list[int]:
    """By fractions, which Python rounds half to even."""
    return [round(Fraction(int(n), 2**places)) for n in sums]


def _clipped(numbers, low, high) -> list[int]:
    return [min(max(int(n), low), high) for n in numbers]


def _aligned(a, a_exponent, b, b_exponent):
    unit = Fraction(2) ** min(a_exponent, b_exponent)
    first = Fraction(2) ** a_exponent / unit
    second = Fraction(2) ** b_exponent / unit
    return [int(int(m) * first + int(n) * second) for m, n in zip(a, b, strict=True)]


def _sums(cases, wanted, given) -> plots.Drawing:
    """As a curve over a, of the case in which both sides run through many numbers."""
    pick = 4
    drawing = curve("a", "sum", pick=pick)(cases, wanted, given)
    case = cases[pick]
    exponents = f"a in units of 2^{case['a_exponent']}, b of 2^{case['b_exponent']}"
    drawing.axes[0].set_title(f"{exponents}, b = 1 - 3 a")
    drawing.sentence = f"Your sum over a beside the right one: {exponents}, and b = 1 - 3 a."
    return drawing


def _width(low: int, high: int) -> int:
    """Found by trying: the first two's complement range that holds both."""
    bits = 1
    while not (-(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)):
        bits += 1
    return bits


def _bits(weight, bias, largest) -> int:
    lows = []
    highs = []
    for row, b in zip(weight.tolist(), bias.tolist(), strict=True):
        lows.append(b + largest * sum(w for w in row if w < 0))
        highs.append(b + largest * sum(w for w in row if w > 0))
    return _width(min(lows), max(highs))


def _packed(codes, bits) -> list[int]:
    """By one large integer."""
    return _split(_as_one_number(codes, bits), len(codes), bits)


def _as_one_number(codes, bits) -> int:
    """Code i weighs 2^(bits * i)."""
    return sum((c % 2**bits) << (bits * i) for i, c in enumerate(codes))


def _split(number: int, count: int, bits: int) -> list[int]:
    length = -(-count * bits // 8)
    return list((number % 256**length).to_bytes(length, "little"))


def _bytes(cases, wanted, given) -> plots.Drawing:
    """The bits of the packed bytes of one case, the lowest first, what is right above what was
    given.
    """
    # The case to draw: the first wrong one, else one with 3 bits.
    wrong = [i for i in range(len(cases)) if not _same(wanted[i], given[i])]
    at = wrong[0] if wrong else 5
    bits = cases[at]["bits"]
    # The right bits stand above those of the answer.
    drawing, axes = plots.canvas(2, 1, height=2.4)
    rows = {"right": wanted[at], "yours": given[at]}
    for ax, (name, numbers) in zip(axes, rows.items(), strict=True):
        row = []
        for n in numbers:
            row += [(int(n) >> place) & 1 for place in range(8)]
        ax.imshow([row], cmap="Greys", vmin=0, vmax=3, aspect="auto")
        # Lines separate the bytes, broken lines the codes.
        for edge in range(0, 8 * len(numbers) + 1, 8):
            ax.axvline(edge - 0.5, color=plots.BLUE, lw=3)
        for edge in range(0, bits * len(cases[at]["codes"]) + 1, bits):
            ax.axvline(edge - 0.5, color=plots.ORANGE, lw=1.2, ls="--")
        # Each bit is written into its cell.
        for place, bit in enumerate(row):
            ax.text(place, 0, str(bit), ha="center", va="center", fontsize=9)
        ax.set(xticks=[], yticks=[], title=name)
        ax.grid(False)
    drawing.sentence = (
        f"The bits of the bytes for codes {cases[at]['codes']} of {bits} bits, the lowest first: "
        "the right ones above, yours below. Lines separate the bytes, broken lines the codes."
    )
    return drawing
