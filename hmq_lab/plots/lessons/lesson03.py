"""Figures of lesson 03: slopes of a staircase, true and straight-through derivatives, descents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hmq_lab.plots.frame import BLUE, GREEN, INK, ORANGE, RED, Drawing, canvas


def staircase_and_slopes(
    x: Tensor, stairs: Tensor, narrow: Tensor, wide: Tensor, straight: Tensor
) -> Drawing:
    """Return a staircase, and its slope seen from near, from far and by straight-through.

    Args:
        x: points along the axis.
        stairs: Q(x).
        narrow: slopes over a small width.
        wide: slopes over one step.
        straight: straight-through gradients.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The staircase at the left.
    drawing, (left, right) = canvas(1, 2, height=3.4)
    left.plot(x, x, color=INK, lw=1, ls=":", label="x")
    left.plot(x, stairs, color=BLUE, lw=2, label="Q(x)")
    # Axes and legend.
    left.set(xlabel="x", ylabel="Q(x)")
    left.legend(frameon=False)
    # Jumps are cut off: they would hide the rest.
    near = narrow.clamp(max=3)
    right.plot(x, near, color=BLUE, lw=1, label="moved by 0.01 (cut off at 3)")
    right.plot(x, wide, color=GREEN, lw=4, alpha=0.5, label="moved by one step")
    right.plot(x, straight, color=ORANGE, ls="--", label="straight-through")
    right.set(xlabel="x", ylabel="slope", ylim=(-0.1, 4.6))
    right.legend(frameon=False, loc="upper center")
    # Where the slope from far is that of straight-through.
    agree = ((wide - straight).abs() < 1e-6).float().mean()

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"Moved by 0.01, the slope is 0 at {(narrow == 0).float().mean():.0%} of the points; the "
    )
    drawing.sentence += (
        "others are at the jumps. Moved by one step, it is 1 inside the range and 0 outside. The "
    )
    drawing.sentence += (
        f"straight-through gradient is equal to that at {agree:.0%} of the points; the others are "
    )
    drawing.sentence += "within half a step of an end."
    return drawing


def derivatives(
    x: Tensor,
    calm: Tensor,
    within: Tensor,
    by_step: tuple[Tensor, Tensor],
    by_threshold: tuple[Tensor, Tensor],
) -> Drawing:
    """Return true and straight-through derivatives by the step and by the threshold.

    Args:
        x: points along the axis.
        calm: where no jump is near, so that the truth has a derivative.
        within: where x is inside the range, too.
        by_step: straight-through and true.
        by_threshold: straight-through and true.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Derivatives by the step at the left.
    drawing, (left, right) = canvas(1, 2, height=3.4)
    straight, true = by_step
    gaps = torch.where(calm, true, math.nan)  # holes where there is no derivative
    left.plot(x, gaps, color=BLUE, lw=2, label="true derivative: r inside")
    line = {"color": ORANGE, "ls": "--", "lw": 1.6}
    left.plot(x, straight, label="straight-through: r - x / step", **line)
    # Axes and legend.
    left.set(xlabel="x", ylabel="dQ/dstep", ylim=(-4.6, 5.6))
    left.legend(frameon=False, loc="upper left")
    # The largest values inside, for the sentence.
    most = true[within].abs().max()
    least = straight[within].abs().max()
    # Derivatives by the threshold at the right.
    straight, true = by_threshold
    gaps = torch.where(calm, true, math.nan)
    right.plot(x, gaps, color=BLUE, lw=4, alpha=0.5, label="true derivative")
    right.plot(x, straight, label="straight-through", **line)
    right.set(xlabel="x", ylabel="dQ/dthreshold", ylim=(-1.5, 2))
    right.legend(frameon=False, loc="upper left")

    # What the figure shows, with its numbers.
    drawing.sentence = (
        "By the threshold the two agree. By the step they agree outside the range. Inside, the "
    )
    drawing.sentence += (
        f"true derivative is r, here up to {most:.0f}, and straight-through gives r - x / step, "
    )
    drawing.sentence += f"here at most {least:.2f}."
    return drawing


def slopes_of_error(steps: Tensor, true: np.ndarray, straight: np.ndarray) -> Drawing:
    """Return the slope of a layer's squared error by the step, true and estimated.

    Args:
        steps: from fine to coarse.
        true: change of the error for a relative change of the step.
        straight: the straight-through estimate of it.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Both slopes over the step.
    drawing, ax = canvas(height=3.4)
    ax.plot(steps, 100 * true, color=BLUE, marker="o", ms=4, label="true, over 4 %")
    ax.plot(steps, 100 * straight, color=ORANGE, ls="--", label="straight-through")
    # Axes and legend.
    ax.set(xscale="log", yscale="log", xlabel="step")
    ax.set(ylabel="change of the error (% of the squares)\nfor a relative change of the step")
    # Ticks at powers of two.
    exponents = range(-7, -1)
    ax.set_xticks([2.0**e for e in exponents], [f"$2^{{{e}}}$" for e in exponents])
    ax.minorticks_off()
    ax.legend(frameon=False)
    # How far apart they are, and whether they point the same way.
    fine, coarse = ratios(steps, true, straight)
    same = np.mean(np.sign(straight) == np.sign(true))

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"For steps up to 2^-5 straight-through is {fine:.2f} times the true slope in the median, "
    )
    drawing.sentence += (
        f"from 2^-3 on {coarse:.2f} times. Both have the same sign at {same:.0%} of the steps."
    )
    return drawing


def ratios(steps: Tensor, true: np.ndarray, straight: np.ndarray) -> tuple[float, float]:
    """Return the median ratio of estimate to truth for fine steps and for coarse ones.

    Args:
        steps: steps of the layer.
        true: true slope at each step.
        straight: straight-through slope at each step.

    Returns:
        The ratio for fine steps, and that for coarse ones.
    """
    ratio = straight / true
    fine = (steps <= 2**-5).numpy()
    coarse = (steps >= 2**-3).numpy()
    return float(np.median(ratio[fine])), float(np.median(ratio[coarse]))


def better_where(fine: float, coarse: float) -> str:
    """Return for which steps the ratio is nearer to 1: "fine steps" or "coarse steps".

    Args:
        fine: median ratio for fine steps.
        coarse: median ratio for coarse steps.

    Returns:
        Text in plain English.
    """
    return "fine steps" if abs(fine - 1) < abs(coarse - 1) else "coarse steps"


def descents(
    levels: np.ndarray,
    tied: Mapping[tuple[int, float], np.ndarray],
    best: Mapping[int, float],
) -> Drawing:
    """Return bits over a descent with free step and threshold, and thresholds over tied ones.

    Args:
        levels: log2 of the number of levels at each iteration.
        tied: the threshold at each iteration, by (bits, start).
        best: the best threshold of a scan, by bits.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Bits of the free descent at the left.
    drawing, (left, right) = canvas(1, 2, height=3.6)
    left.plot(levels, color=BLUE)
    # Axes and legend.
    left.set(xlabel="iteration", ylabel="bits, log2(2 threshold / step)")
    left.set_title("step and threshold free", loc="left")
    # Thresholds of the tied descents at the right, by bits.
    looks = {2: (ORANGE, "--", "o"), 4: (GREEN, "-", "s")}
    named = set()
    for (bits, _), reached in tied.items():
        colour, line, _ = looks[bits]
        label = None if bits in named else f"{bits} bits"
        named.add(bits)
        right.plot(reached, color=colour, ls=line, label=label)
    # Rings mark the best threshold of a scan.
    for bits, threshold in best.items():
        ring = {"color": INK, "mfc": "none", "ms": 10, "ls": "none"}
        ring["marker"] = looks[bits][2]
        right.plot(len(reached) - 1, threshold, label=f"best, {bits} bits", **ring)
    right.set(xlabel="iteration", ylabel="threshold", yscale="log")
    # Ticks at powers of two.
    exponents = range(-6, 1)
    right.set_yticks([2.0**e for e in exponents], [f"$2^{{{e}}}$" for e in exponents])
    right.minorticks_off()
    right.set_title("the step tied to the threshold", loc="left")
    right.legend(frameon=False, loc="lower right")

    # What the figure shows, with its numbers.
    drawing.sentence = f"Free: from {levels[0]:.1f} to {levels[-1]:.1f} bits. "
    drawing.sentence += arrival_sentence(tied, best)
    return drawing


def arrival_sentence(
    tied: Mapping[tuple[int, float], np.ndarray], best: Mapping[int, float]
) -> str:
    """Return where the tied descents end, beside the best threshold of a scan.

    Args:
        tied: thresholds over the iterations, by bits and start.
        best: best threshold of a scan, by bits.

    Returns:
        Text in plain English.
    """
    told = []
    for bits, threshold in best.items():
        last = [reached[-1] for (own, _), reached in tied.items() if own == bits]
        ends = " and ".join(f"{threshold:.3f}" for threshold in last)
        told.append(f"with {bits} bits the threshold ends at {ends}; a scan finds {threshold:.3f}")
    return f"Tied, {'; '.join(told)}."


def how_many_arrive(tied: Mapping[tuple[int, float], np.ndarray], best: Mapping[int, float]) -> str:
    """Return which descents end within a quarter of an octave of the best threshold.

    Returns:
        "all of them", "those from above", "those from below", "some of them" or "none".

    Args:
        tied: thresholds over the iterations, by bits and start.
        best: best threshold of a scan, by bits.
    """
    # Which descents end near the best threshold.
    arrived = {}
    for (bits, start), reached in tied.items():
        octaves = math.log2(reached[-1] / best[bits])
        arrived[bits, start] = abs(octaves) <= 0.25
    # All or none of them.
    if all(arrived.values()):
        return "all of them"
    if not any(arrived.values()):
        return "none"
    # Else the side on which a descent starts may tell.
    above = {key: key[1] > best[key[0]] for key in arrived}
    if arrived == above:
        return "those from above"
    if arrived == {key: not high for key, high in above.items()}:
        return "those from below"
    return "some of them"


def one_bit_training(
    shares: Mapping[int, tuple[float, float]],
    runs: Mapping[str, tuple[Sequence[float], float, float]],
    count: int,
) -> Drawing:
    """Return the weights with a gradient under two rules, and the training of a 1-bit layer.

    Args:
        shares: by bits, the share of weights with a gradient, inclusive and strict.
        runs: "inclusive" and "strict": losses, share of weights that moved, accuracy (%).
        count: images that an accuracy is of.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Weights with a gradient at the left, under both rules.
    drawing, (left, right) = canvas(1, 2, height=3.4)
    bits = list(shares)
    inclusive = [100 * a for a, _ in shares.values()]
    strict = [100 * b for _, b in shares.values()]
    left.plot(bits, inclusive, color=BLUE, marker="o", label="inclusive")
    left.plot(bits, strict, color=RED, marker="x", ls="--", label="strict")
    # Axes and legend.
    left.set(xlabel="bits", ylabel="weights with a gradient (%)", ylim=(-5, 105))
    left.legend(frameon=False, loc="lower right")
    # Losses of the training at the right.
    right.plot(runs["inclusive"][0], color=BLUE, label="inclusive")
    right.plot(runs["strict"][0], color=RED, ls="--", label="strict")
    right.set(xlabel="training step", ylabel="loss", ylim=(0, None))
    right.legend(frameon=False)
    # One part of the sentence for each rule.
    told = []
    for rule, (_, moved, accuracy) in runs.items():
        text = f"under the {rule} rule {moved:.0%} of the weights have moved "
        told.append(f"{text}and {accuracy:.1f} % of {count:,} test images are right")
    steps = len(runs["strict"][0])

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"With 1 bit, {shares[1][0]:.0%} of the weights have a gradient under the inclusive rule "
    )
    drawing.sentence += (
        f"and {shares[1][1]:.0%} under the strict one. After {steps} training steps, "
    )
    drawing.sentence += f"{'; '.join(told)}."
    return drawing


def loss_goes(losses: Sequence[float], part: int = 5) -> str:
    """Return what a loss does from its first steps to its last: "it falls", "it stays", "it rises".

    >>> loss_goes([2.0, 2.1, 1.0, 0.9], part=2), loss_goes([2.0, 2.0], part=1)
    ('it falls', 'it stays')

    Args:
        losses: of the steps; they differ by their batches, so 10 % count as staying.
        part: how many steps the two means are of.

    Returns:
        Text in plain English.
    """
    first = np.mean(losses[:part])
    last = np.mean(losses[-part:])
    if last < 0.9 * first:
        return "it falls"
    return "it rises" if last > 1.1 * first else "it stays"
