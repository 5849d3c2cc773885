"""Checks of lesson 05: expected step and threshold, the first logit, the selection, the gradient
of the logits.
"""

from __future__ import annotations

import math

import numpy as np
import seaborn as sns
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, check, compare, in_sign, points
from hmq_lab.quantizer import Scheme


@check
def expected_parameters(answer) -> Verdict:
    """Judge expected_parameters(probabilities, bits, exponents, signed) -> (expected step, expected
    threshold).

    >>> expected_parameters(lambda probabilities, bits, exponents, signed: (0.5, 1.0)).passed
    False

    probabilities (B, T), bits (B,), exponents (T,). The oracle goes through the schemes one by one.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(probabilities, bits, exponents, signed):
        step = threshold = 0.0
        for row, b in enumerate(bits.tolist()):
            for column, exponent in enumerate(exponents.tolist()):
                scheme = Scheme(int(b), int(exponent), signed)
                p = probabilities[row, column].item()
                step += p * scheme.step
                threshold += p * scheme.threshold
        return step, threshold

    # A wrong answer from a formula of the parameters of all schemes.
    def of(formula):
        """A pair from p (B, T), bits (B, 1), thresholds (T,), steps (B, T) and the sign, 1 or 0."""

        def pair(probabilities, bits, exponents, signed):
            b = bits.double()[:, None]
            t = 2.0 ** exponents.double()
            sign = int(signed)
            steps = t / 2.0 ** (b - sign)
            return formula(probabilities, b, t, steps, sign)

        return pair

    # The mean threshold beside the mean of another step.
    def of_step(formula):
        @of
        def pair(p, b, t, s, sign):
            step = formula(p, b, t, sign)
            return step, (p * t).sum()

        return pair

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The means are taken of the wrong things.
    @faults.says("You mix the bits and make a step of the mean: mix the steps themselves.")
    @of_step
    def _(p, b, t, sign):
        bits = (p * b).sum()
        return (p * t).sum() / 2 ** (bits - sign)

    @faults.says(
        "You multiply two means: bits and threshold are drawn together, so average the step of "
        "each pair."
    )
    @of_step
    def _(p, b, t, sign):
        share = p / 2 ** (b - sign)
        return (p * t).sum() * share.sum()

    # The step has the wrong sign or the wrong number of levels.
    @faults.says(
        "You do not look at `signed`: a signed step is t / 2^(b-1), for the sign takes one bit."
    )
    @of_step
    def _(p, b, t, sign):
        return (p * t / 2**b).sum()

    @faults.says("You do not look at `signed`: an unsigned step is t / 2^b.")
    @of_step
    def _(p, b, t, sign):
        return (p * t / 2 ** (b - 1)).sum()

    @faults.says(
        "Signed and unsigned are mixed up: the step is t / 2^(b-1) signed, t / 2^b unsigned."
    )
    @of_step
    def _(p, b, t, sign):
        return (p * t / 2 ** (b - 1 + sign)).sum()

    @faults.says(
        "You divide by the number of gaps, 2^b - 1: with two's complement the range 2t, or t, "
        "has 2^b steps."
    )
    @of_step
    def _(p, b, t, sign):
        ranges = t * (1 + sign)
        return (p * ranges / (2**b - 1)).sum()

    # Means of exponents, the wrong order, or no mean at all.
    @faults.says("You mix the exponents: mix steps and thresholds themselves.")
    @of
    def _(p, b, t, s, sign):
        step = 2 ** (p * s.log2()).sum()
        threshold = 2 ** (p * t.log2()).sum()
        return step, threshold

    @faults.says("The order is step, then threshold.")
    @of
    def _(p, b, t, s, sign):
        return (p * t).sum(), (p * s).sum()

    @faults.says("That is the most probable pair: every pair counts, with its probability.")
    @of
    def _(p, b, t, s, sign):
        best = p.argmax()
        thresholds = t.expand_as(p)
        return s.flatten()[best], thresholds.flatten()[best]

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("probabilities", "bits", "exponents", "signed")

    def table(probabilities, bits, exponents):
        for signed in (True, False):
            cases.add(_double(probabilities), _double(bits), _double(exponents), signed)

    # Tables from one cell to a whole space of 24.
    table([[1.0]], [3], [0])
    table([[0.5], [0.5]], [2, 3], [0])
    table([[0.25, 0.75]], [2], [1, 0])
    table([[0.1, 0.2], [0.3, 0.4]], [2, 4], [0, -1])
    logits = 2 * torch.arange(24.0).sin()
    whole = torch.softmax(logits, 0).view(8, 3)
    table(whole.tolist(), range(1, 9), [-1, -2, -3])

    # The drawing names each case by its size and sign.
    def label(case):
        rows, columns = case["probabilities"].shape
        return f"{rows} x {columns}, {in_sign(case['signed'])}"

    # The first difference from the right results is what the message tells.
    draw = points("step + threshold", label)
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=draw)


@check
def first_logit(answer) -> Verdict:
    """Judge first_logit(others, probability) -> the logit whose softmax beside the others is the
    probability.

    >>> first_logit(lambda others, probability: math.log(probability)).passed
    False

    The oracle finds it by bisection.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(others, probability):
        low = -50.0
        high = 50.0
        for _ in range(80):
            middle = (low + high) / 2
            logits = torch.cat((_double([middle]), others))
            p = torch.softmax(logits, 0)[0]
            if p < probability:
                low = middle
            else:
                high = middle
        return low

    # A wrong answer from the other logits, the sum of their exponentials, and the odds p / (1 - p).
    def of(formula):
        def logit(others, probability):
            total = others.exp().sum().item()
            odds = probability / (1 - probability)
            return formula(others, total, probability, odds)

        return logit

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The sum of the others' exponentials is missing or misplaced.
    @faults.says(
        "You take the other logits to be 0, as the released code does: their exponentials have "
        "to be summed."
    )
    @of
    def _(others, total, p, odds):
        return math.log(odds * len(others))

    @faults.says("The fraction is inverted: p / (1 - p).")
    @of
    def _(others, total, p, odds):
        return math.log(total / odds)

    @faults.says("The others' sum is missing: this is right beside one other logit of 0 alone.")
    @of
    def _(others, total, p, odds):
        return math.log(odds)

    @faults.says("The others' sum is in the denominator: it is a factor.")
    @of
    def _(others, total, p, odds):
        return math.log(odds / total)

    # Another part of the formula is missing.
    @faults.says("1 - p is missing: what the others have is 1 - p, not 1.")
    @of
    def _(others, total, p, odds):
        return math.log(p * total)

    @faults.says("The logarithm is missing: that is e to the power of the logit.")
    @of
    def _(others, total, p, odds):
        return odds * total

    @faults.says(
        "You add the others' logits themselves: their exponentials are what the softmax sums."
    )
    @of
    def _(others, total, p, odds):
        return math.log(odds) + others.sum().item()

    @faults.says("That is log p: the others' logits are given, and need not sum to 1 - p.")
    @of
    def _(others, total, p, odds):
        return math.log(p)

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("others", "probability")
    cases.add(_double([0.0]), 0.5)
    cases.add(_double([-0.5]), 0.95)
    cases.add(_double([0.0, 0.0, 0.0]), 0.25)
    cases.add(_double([-0.2, -0.9, -0.4]), 0.95)
    many = [-((0.37 * k) % 1) for k in range(63)]
    cases.add(_double(many), 0.95)

    # The drawing names each case by the number of others.
    def label(case):
        return f"N = {len(case['others'])}, p = {case['probability']}"

    # The first difference from the right results is what the message tells.
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=points("logit", label))


@check
def selection(answer) -> Verdict:
    """Judge selection(probabilities) -> (row, column): the most probable row, then the most
    probable column in it.

    >>> selection(lambda probabilities: (0, 0)).passed
    False

    The oracle compares sums and entries one by one. The cases have no ties.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(probabilities):
        table = probabilities.tolist()
        sums = [sum(row) for row in table]
        row = sums.index(max(sums))
        return row, table[row].index(max(table[row]))

    # The best column of one row.
    def best_in(row, probabilities):
        return row, int(probabilities[row].argmax())

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The order of the two choices is another one.
    @faults.says(
        "That is the most probable pair: first add up each row, and take the row with the "
        "largest sum."
    )
    def _(probabilities):
        return divmod(int(probabilities.argmax()), probabilities.shape[1])

    @faults.says("You choose the threshold before the bits: it is the row first.")
    def _(probabilities):
        column = int(probabilities.sum(0).argmax())
        return int(probabilities[:, column].argmax()), column

    @faults.says("Your column is the best over all rows: look at the chosen row alone.")
    def _(probabilities):
        row = int(probabilities.sum(1).argmax())
        return row, int(probabilities.sum(0).argmax())

    # The right choice in another form, or another choice.
    @faults.says("The order is row (bits), then column (threshold).")
    def _(probabilities):
        return oracle(probabilities)[::-1]

    @faults.says("You round the mean row: the selection is the most probable one.")
    def _(probabilities):
        sums = probabilities.sum(1)
        mean = (sums * torch.arange(len(sums))).sum()
        return best_in(round(float(mean)), probabilities)

    @faults.says("That is the least probable row: take the largest sum.")
    def _(probabilities):
        return best_in(int(probabilities.sum(1).argmin()), probabilities)

    @faults.says("You give the position in the flat table: give row and column.")
    def _(probabilities):
        position = int(probabilities.argmax())
        return position, position

    # Small tables first: each of them catches one mistake.
    cases = Cases("probabilities")
    cases.add(_double([[0.9], [0.1]]))
    cases.add(_double([[0.1, 0.9]]))
    cases.add(_double([[0.4, 0.0], [0.29, 0.31]]))
    cases.add(_double([[0.02, 0.35, 0.0], [0.3, 0.05, 0.28]]))
    cases.add(_double([[0.0, 0.3, 0.08], [0.02, 0.0, 0.2], [0.19, 0.2, 0.01]]))
    # Then random ones of full size.
    generator = torch.Generator().manual_seed(6)
    for _ in range(8):
        logits = 2 * torch.randn(64, generator=generator, dtype=torch.float64)
        cases.add(torch.softmax(logits, 0).view(8, 8))
    return compare(answer, oracle, cases, faults, draw=_table)


@check
def logit_gradient(answer) -> Verdict:
    """Judge logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature) ->
    dL/dlogits, (B, T).

    >>> logit_gradient(lambda sample, *rest: 0 * sample).passed
    False

    sample (B, T): softmax of (log p + g) / temperature. steps (B, T), thresholds (T,): of the
    schemes. d_step, d_threshold: dL/d(expected step) and dL/d(expected threshold), two numbers.
    The oracle is autograd.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(sample, steps, thresholds, d_step, d_threshold, temperature):
        logits = (temperature * sample.log()).requires_grad_()
        p = torch.softmax(logits.flatten() / temperature, 0).view_as(logits)
        step = (p * steps).sum()
        threshold = (p * thresholds).sum()
        (d_step * step + d_threshold * threshold).backward()
        return logits.grad

    # A wrong answer from a formula of the sample and the slopes.
    def of(formula):
        """A gradient from the sample, what each scheme would add to the loss, its mean, and the
        temperature.
        """

        def gradient(sample, steps, thresholds, d_step, d_threshold, temperature):
            slope = d_step * steps + d_threshold * thresholds
            mean = (sample * slope).sum()
            return formula(sample, slope, mean, temperature)

        return gradient

    # The right gradient, for mistakes in what is put into it.
    @of
    def right(p, v, m, tau):
        return p * (v - m) / tau

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # A part of the formula is missing.
    @faults.says(
        "The means are missing: what counts is how far a scheme's step and threshold are from "
        "the expected ones."
    )
    @of
    def _(p, v, m, tau):
        return p * v / tau

    @faults.says("The temperature is missing: the softmax is one of logits / temperature.")
    @of
    def _(p, v, m, tau):
        return p * (v - m)

    # A part of the formula is turned round or replaced.
    @faults.says("The temperature is inverted: divide by it.")
    @of
    def _(p, v, m, tau):
        return p * (v - m) * tau

    @faults.says(
        "The sample is missing as a factor: a scheme that has no weight in it gets no gradient."
    )
    @of
    def _(p, v, m, tau):
        return (v - m) / tau

    @faults.says("You subtract the plain mean over the schemes: it is the mean under the sample.")
    @of
    def _(p, v, m, tau):
        return p * (v - v.mean()) / tau

    @faults.says("The sign is reversed: the gradient points uphill.")
    @of
    def _(p, v, m, tau):
        return p * (m - v) / tau

    # One parameter is left out, or all other schemes are.
    @faults.says("The threshold is left out: the loss depends on the expected threshold too.")
    def _(**case):
        return right(**{**case, "d_threshold": 0.0})

    @faults.says("The step is left out: the loss depends on the expected step too.")
    def _(**case):
        return right(**{**case, "d_step": 0.0})

    @faults.says(
        "That is the diagonal alone, p (1 - p): raising one logit lowers the weight of all other "
        "schemes."
    )
    @of
    def _(p, v, m, tau):
        return p * (1 - p) * v / tau

    # The same samples for every reader.
    generator = torch.Generator().manual_seed(7)

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("sample", "steps", "thresholds", "d_step", "d_threshold", "temperature")

    def space(bits, exponents, *slopes_and_temperature):
        thresholds = 2.0 ** _double(exponents)
        steps = thresholds / 2.0 ** (_double(bits)[:, None] - 1)
        score = torch.randn(steps.numel(), generator=generator, dtype=torch.float64)
        sample = torch.softmax(score, 0).view_as(steps)
        cases.add(sample, steps, thresholds, *slopes_and_temperature)

    space([1, 2], [0], 1.0, 0.0, 1.0)
    space([2], [0, -1], 0.0, 1.0, 1.0)
    space([2, 4], [0, -1], 1.0, -0.5, 1.0)
    space([2, 4], [1, 0], 0.3, 0.2, 0.5)
    space(range(1, 9), range(0, -8, -1), -0.7, 0.4, 0.7)
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=_heat)


def _double(numbers) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _plain(value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach()
    return np.asarray(value, dtype=float)


def _table(cases, wanted, given) -> plots.Drawing:
    """The first table where the answer is wrong, or the fourth: a frame on what is right, a cross
    on the answer.
    """
    # The case to draw.
    pairs = zip(given, wanted, strict=True)
    wrong = [i for i, (yours, right) in enumerate(pairs) if (_plain(yours) != right).any()]
    at = wrong[0] if wrong else 3
    table = cases[at]["probabilities"].numpy()
    drawing, ax = plots.canvas(height=3.2)
    # Numbers are written into small tables only.
    sns.heatmap(
        100 * table,
        ax=ax,
        linewidths=0.5,
        cmap="cividis",
        annot=table.size <= 12,
        fmt=".0f",
        cbar_kws={"label": "probability (%)"},
    )
    # A frame is right.
    row, column = wanted[at]
    frame = {"fill": False, "ec": plots.RED, "lw": 3, "clip_on": False}
    ax.add_patch(Rectangle((column, row), 1, 1, label="right", **frame))
    # A cross is the answer's.
    r, c = _plain(given[at])
    cross = {"ms": 13, "color": plots.BLUE, "mec": "white", "clip_on": False}
    ax.plot(c + 0.8, r + 0.25, "X", label="yours", **cross)
    ax.set(xlabel="column: threshold", ylabel="row: bits")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    # The sentence has both choices.
    size = f"{table.shape[0]} x {table.shape[1]}"
    drawing.sentence = f"A table of {size}: right is ({row}, {column}), yours ({r:g}, {c:g})."
    return drawing


def _heat(cases, wanted, given) -> plots.Drawing:
    """The right gradient of the last case and the answer's, one beside the other."""
    # Both tables have the same colours for the same numbers.
    right = _plain(wanted[-1])
    yours = _plain(given[-1])
    drawing, axes = plots.canvas(1, 2, height=3.2)
    reach = np.abs(right).max()
    # One heat map each.
    colours = {"cmap": "vlag", "vmin": -reach, "vmax": reach}
    tables = {"right": right, "yours": yours}
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        sns.heatmap(table, ax=ax, linewidths=0.5, yticklabels=range(1, 9), **colours)
        ax.invert_yaxis()
        ax.set(xlabel="octaves below the largest threshold", ylabel="bits")
        ax.set_title(f"gradient of the logits: {title}")
    # The sentence compares the largest magnitudes.
    most = np.abs(yours).max()
    drawing.sentence = (
        f"The right gradient of 64 logits, at most {reach:.2g}, and yours, at most {most:.2g}."
    )
    return drawing
