"""Figures of lesson 13: running maxima of activations while calibration goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import seaborn as sns

from hmq_lab.plots.frame import COLOURS, INK, Drawing, canvas
from hmq_lab.plots.lessons import listed

PINK = sns.color_palette("colorblind").as_hex()[4]


def running_maxima(
    counts: Sequence[int], theta: Mapping[str, Sequence[float]], largest: Mapping[str, float]
) -> Drawing:
    """Return the running maximum of each activation over the number of batches.

    Args:
        counts: numbers of batches.
        theta: running maxima after that many batches, by activation.
        largest: the largest value of all batches, by activation.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One curve for each activation; the first ones are thicker, to be seen below others.
    drawing, ax = canvas(height=3.4)
    looks = zip((*COLOURS, INK, PINK), "osD^vP", (3.0, 2.4, 2.4, 1.2, 1.2, 1.2), strict=True)
    for (name, values), (colour, marker, width) in zip(theta.items(), looks, strict=False):
        ax.plot(counts, values, color=colour, marker=marker, ms=4, lw=width, label=name)
    # Broken lines at the powers of two that the curves come near.
    ends = [value for values in theta.values() for value in (min(values), max(values))]
    exponents = range(exponent_of(min(ends)) - 1, exponent_of(max(ends)) + 1)
    for exponent in exponents:
        ax.axhline(2.0**exponent, color=INK, lw=0.8, ls="--")
    # Axes and legend.
    ax.set(xlabel="batches of 32 images", ylabel="running maximum", yscale="log")
    ax.set_yticks([2.0**e for e in exponents], [f"$2^{{{e}}}$" for e in exponents])
    ax.minorticks_off()
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # Which thresholds change, and which stay below the largest value.
    moved = crossing(theta)
    above = [name for name in theta if largest[name] > 2.0 ** exponent_of(theta[name][-1])]

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The running maxima of {len(theta)} activations over {counts[-1]} batches; broken lines "
    )
    drawing.sentence += (
        f"are powers of two. The threshold changes on the way for {len(moved)} of them "
    )
    drawing.sentence += (
        f"({listed(moved)}). For {len(above)} the largest value of all is above the final "
    )
    drawing.sentence += "threshold."
    return drawing


def exponent_of(theta: float) -> int:
    """Return M of the smallest power of two not below a running maximum.

    >>> exponent_of(1.0), exponent_of(1.1)
    (0, 1)

    Args:
        theta: running maximum.

    Returns:
        The exponent M.
    """
    return math.ceil(math.log2(theta))


def crossing(theta: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the activations whose threshold changes with the number of batches.

    Args:
        theta: running maxima of each activation, by name, one for each number of batches.

    Returns:
        Names of the activations.
    """
    moved = []
    for name, values in theta.items():
        exponents = {exponent_of(value) for value in values}
        if len(exponents) > 1:
            moved.append(name)
    return moved


def settled_after(counts: Sequence[int], theta: Mapping[str, Sequence[float]]) -> int:
    """Return the number of batches after which no threshold changes any more.

    Args:
        counts: numbers of batches, in order.
        theta: running maxima of each activation, by name, one for each number of batches.

    Returns:
        One of the numbers of batches.
    """
    last = [exponent_of(values[-1]) for values in theta.values()]
    # From the last number backwards, until a threshold is another one.
    for at in reversed(range(len(counts))):
        if [exponent_of(values[at]) for values in theta.values()] != last:
            return counts[at + 1]
    return counts[0]
