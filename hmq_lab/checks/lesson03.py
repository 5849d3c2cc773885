"""Checks of lesson 03: straight-through derivatives by x, by the step, by a threshold that the
step goes with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, curve

GRID = torch.arange(-300, 301, dtype=torch.float64) / 200  # -1.5 to 1.5 in steps of 1/200


@check
def gradient_x(answer) -> Verdict:
    """Judge gradient_x(x, step, threshold, signed) -> dQ/dx of every element, shaped like x.

    >>> gradient_x(lambda x, step, threshold, signed: torch.zeros_like(x)).passed
    False

    The oracle is autograd on a composition in which only the rounding has a derivative of its own:
    1.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The slope is the same everywhere.
    @faults.says(
        "That is the true derivative, 0: straight-through takes the slope of rounding to be 1."
    )
    def _(x, **_):
        return 0 * x

    @faults.says("Nothing is clipped in your answer: beyond the end levels the slope is 0.")
    def _(x, **_):
        return 0 * x + 1

    # Other rules for which values are inside.
    @faults.says(
        "You leave out what rounds onto an end level: the bounds are inclusive. (The released "
        "code leaves it out.)"
    )
    @_inside
    def _(x, r, lo, hi, step):
        return (r > lo) & (r < hi)

    @faults.says(
        "You compare x itself with the end levels: compare round(x / step) with the bounds."
    )
    @_inside
    def _(x, r, lo, hi, step):
        return (x / step >= lo) & (x / step <= hi)

    @faults.says(
        "You compare x with the threshold: the last level stands one step below it, and rounding "
        "comes first."
    )
    @_inside
    def _(x, r, lo, hi, step):
        return (x / step >= lo) & (x / step <= hi + 1)

    @faults.says("Your upper bound is threshold / step: the last level stands one below it.")
    @_inside
    def _(x, r, lo, hi, step):
        return (r >= lo) & (r <= hi + 1)

    # The slope at the ends, and the bounds themselves.
    @faults.says(
        "You give half the slope at the end levels, as torch.clamp does at a tie: inclusive "
        "means all of it."
    )
    @_inside
    def _(x, r, lo, hi, step):
        inside = (r >= lo) & (r <= hi)
        at_an_end = (r == lo) | (r == hi)
        return inside * (1 - 0.5 * at_an_end)

    @faults.says("Your lower bound is -threshold / step for unsigned numbers too: there it is 0.")
    def _(x, step, threshold, signed):
        return _by("x", x, step, threshold, True)

    @faults.says("You rounded the bounds: they are real numbers, here 2.56.")
    @_inside
    def _(x, r, lo, hi, step):
        return (r >= lo.round()) & (r <= hi.round())

    @faults.says("It is inside and outside reversed.")
    @_inside
    def _(x, r, lo, hi, step):
        return (r < lo) | (r > hi)

    # The first difference from the right results is what the message tells.
    draw = curve("x", "dQ/dx", pick=-1)
    return compare(answer, _oracle("x"), _cases(), faults, tolerance=1e-6, draw=draw)


@check
def gradient_step(answer) -> Verdict:
    """Judge gradient_step(x, step, threshold, signed) -> dQ/dstep of every element, shaped like x.

    >>> gradient_step(lambda x, step, threshold, signed: torch.round(x / step) - x / step).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # A derivative from its formula inside and its value above.
    def middle(inside, above=-1.0):
        def derivative(x, step, threshold, signed):
            r, lo, hi = _rounded(x, step, threshold, signed)
            found = inside(r, x / step, step)
            found = torch.where(r < lo, 0.0, found)
            return torch.where(r > hi, above, found)

        return derivative

    # Two more wrong rules: no ends at all, and ends that are excluded.
    def unclipped(x, step, threshold, signed):
        return (x / step).round() - x / step

    # The bounds are exclusive.
    def strict(x, step, threshold, signed):
        r, lo, hi = _rounded(x, step, threshold, signed)
        inside = (r > lo) & (r < hi)
        found = torch.where(inside, r - x / step, 0.0)
        return torch.where(r >= hi, -1.0, found)

    # What is right: rounded minus unrounded inside, -1 above, 0 below.
    right = middle(lambda r, u, step: r - u)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Mistakes inside the range.
    @faults.says(
        "That is the true derivative inside, r: straight-through adds what rounding would move, "
        "-x / step."
    )
    @middle
    def _(r, u, step):
        return r

    @faults.says("Inside, the sign is reversed: it is r - x / step.")
    @middle
    def _(r, u, step):
        return u - r

    @faults.says(
        "Inside that is the error Q(x) - x: the derivative is the error by the step, r - x / step."
    )
    @middle
    def _(r, u, step):
        return (r - u) * step

    # Mistakes above the last level.
    faults.add(
        "Above the last level it is -1: that level is threshold - step, which falls as the step "
        "grows.",
        middle(lambda r, u, step: r - u, above=0.0),
    )

    faults.add(
        "Above the last level it is -1, not 1: that level is threshold - step.",
        middle(lambda r, u, step: r - u, above=1.0),
    )

    # Mistakes in where the range ends.
    faults.add(
        "Nothing is clipped in your answer: beyond the end levels it is -1 above and 0 below.",
        unclipped,
    )

    faults.add("You leave out what rounds onto an end level: the bounds are inclusive.", strict)

    @faults.says(
        "Below the lowest level it is 0: that level is -threshold, or 0, whatever the step."
    )
    def _(x, step, threshold, signed):
        r, lo, _ = _rounded(x, step, threshold, signed)
        return torch.where(r < lo, -1.0, right(x, step, threshold, signed))

    @faults.says("Inside it is 0 in your answer: there it is r - x / step.")
    @middle
    def _(r, u, step):
        return 0 * r

    @faults.says("Your lower bound is -threshold / step for unsigned numbers too: there it is 0.")
    def _(x, step, threshold, signed):
        return right(x, step, threshold, True)

    # The drawing shows the last case, a whole grid.
    draw = curve("x", "dQ/dstep", pick=-1)
    return compare(answer, _oracle("step"), _cases(), faults, tolerance=1e-6, draw=draw)


@check
def gradient_tied(answer) -> Verdict:
    """Judge gradient_tied(x, bits, threshold, signed) -> dQ/dthreshold where the step goes with the
    threshold.

    >>> gradient_tied(lambda x, bits, threshold, signed: torch.ones_like(x)).passed
    False

    step = 2t / 2^b signed, t / 2^b unsigned, as for every scheme of b bits.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(x, bits, threshold, signed):
        t = torch.full_like(x, threshold, requires_grad=True)
        step = t / 2 ** (bits - signed)
        composition(x, step, t, signed).sum().backward()
        return t.grad

    # The three factors of the chain rule.
    def pieces(x, bits, threshold, signed):
        step = threshold / 2 ** (bits - signed)
        on_threshold = _by("threshold", x, step, threshold, signed)
        on_step = _by("step", x, step, threshold, signed)
        return on_threshold, on_step, step / threshold

    # A wrong answer from a mix of these factors.
    def mixed(function):
        return lambda **case: function(*pieces(**case))

    # Two mistakes that no mix of the factors makes.
    def true(x, bits, threshold, signed):
        step = threshold / 2 ** (bits - signed)
        r, lo, hi = _rounded(x, step, threshold, signed)
        return r.clamp(lo, hi) * step / threshold

    # Signed and unsigned are mixed up in one factor.
    def other_sign(x, bits, threshold, signed):
        on_threshold, on_step, _ = pieces(x, bits, threshold, signed)
        return on_threshold + on_step / 2 ** (bits - (not signed))

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # A term or a factor is missing.
    @faults.says("The step moves with the threshold: add dQ/dstep times dstep/dthreshold.")
    @mixed
    def _(t, s, k):
        return t

    @faults.says("Where it clips, Q changes with the threshold itself too: add dQ/dthreshold.")
    @mixed
    def _(t, s, k):
        return s * k

    @faults.says("dQ/dstep has to be multiplied by dstep/dthreshold = step / threshold.")
    @mixed
    def _(t, s, k):
        return t + s

    # The terms are there, but combined in another way.
    @faults.says("dstep/dthreshold is inverted: it is step / threshold.")
    @mixed
    def _(t, s, k):
        return t + s / k

    @faults.says("The two terms add up; you subtract one from the other.")
    @mixed
    def _(t, s, k):
        return t - s * k

    # Another derivative, or another sign of the numbers.
    faults.add(
        "That is the true derivative, Q(x) / threshold, with slope 0 for rounding; "
        "straight-through takes 1.",
        true,
    )

    faults.add(
        "Your dstep/dthreshold has signed and unsigned mixed up: 2 / 2^b signed, 1 / 2^b unsigned.",
        other_sign,
    )

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("x", "bits", "threshold", "signed")
    for value, bits in ((0.3, 2), (2.0, 2), (-2.0, 2), (0.3, 1)):
        cases.add(_one(value), bits, 1.0, True)
        cases.add(_one(value), bits, 1.0, False)
    # Then whole grids, of both signs and several widths.
    cases.add(GRID, 1, 1.0, True)
    cases.add(GRID, 2, 1.0, False)
    cases.add(GRID, 4, 0.5, True)
    cases.add(GRID, 3, 0.9, True)
    draw = curve("x", "dQ/dthreshold", pick=-1)
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=draw)


def composition(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """The quantizer from differentiable parts: round has the derivative 1, all else its own.

    Where, and not minimum or clamp: those split the derivative in half at a tie, and an end level
    is a tie.

    Args:
        x: values to quantize.
        step: step, one number or one for each value.
        threshold: threshold, one number or one for each value.
        signed: whether the range has negative values.

    Returns:
        The quantized values, ready for a gradient.
    """
    reach = threshold / step
    lo = -reach if signed else 0 * reach
    hi = reach - 1
    u = x / step
    r = u + (u.round() - u).detach()
    clipped = torch.where(r < lo, lo, r)
    clipped = torch.where(r > hi, hi, clipped)
    return clipped * step


def _by(name: str, x: Tensor, step: float, threshold: float, signed: bool) -> Tensor:
    """The derivative by x, step or threshold for every element: each gets a step and a threshold
    of its own.
    """
    # Each element has its own copy of the parameter, and so its own derivative.
    values = {
        "x": x.clone(),
        "step": torch.full_like(x, step),
        "threshold": torch.full_like(x, threshold),
    }
    # Only the one asked for collects a gradient.
    values[name].requires_grad_()
    total = composition(**values, signed=signed).sum()
    return torch.autograd.grad(total, values[name])[0]


def _oracle(name: str):
    return lambda x, step, threshold, signed: _by(name, x, step, threshold, signed)


def _rounded(
    x: Tensor, step: float, threshold: float, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x in steps, rounded, and the bounds of its range."""
    reach = torch.tensor(threshold / step, dtype=x.dtype)
    lowest = -reach if signed else 0 * reach
    return (x / step).round(), lowest, reach - 1


def _inside(test):
    """A derivative by x that is 1, or a share of it, where the test of (x, r, lo, hi, step) says
    so.
    """

    def derivative(x, step, threshold, signed):
        r, lo, hi = _rounded(x, step, threshold, signed)
        return test(x, r, lo, hi, step).to(x.dtype)

    return derivative


def _cases() -> list[dict]:
    """Single numbers first: inside, on an end level, above, below; then whole curves, the last
    with real bounds.
    """
    cases = Cases("x", "step", "threshold", "signed")

    def single(value, step):
        cases.add(_one(value), step, 1.0, True)
        cases.add(_one(value), step, 1.0, False)

    # A value and a step for each place on the staircase.
    single(0.2, 0.25)
    single(0.6, 0.5)
    single(0.9, 0.5)
    single(2.0, 0.5)
    single(-0.9, 0.5)
    single(-2.0, 0.5)
    # Then whole grids, one of them with a step that is no power of two.
    cases.add(GRID, 1.0, 1.0, True)
    cases.add(GRID, 0.25, 1.0, False)
    cases.add(GRID, 0.125, 0.5, True)
    cases.add(GRID, 0.28125, 1.0, True)
    return cases


def _one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)
