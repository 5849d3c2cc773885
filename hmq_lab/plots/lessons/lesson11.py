"""Figures of lesson 11: our losses beside the published ones, the front of the published values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hmq_lab import budget
from hmq_lab.plots import comparison
from hmq_lab.plots.frame import BLUE, INK, ORANGE, Drawing, canvas, of_kind
from hmq_lab.plots.lessons import listed
from hmq_lab.plots.published import Value
from hmq_lab.runs.records import Record


def selected_compressions(record: Record) -> list[float]:
    """Return the actual compression at every moment of stage 1 that a record has tables of.

    Args:
        record: of a search.

    Returns:
        32 over the mean of the most probable bits, one for each moment.
    """
    weights = of_kind(record, "weight")
    sizes = {t["name"]: t["size"] for t in weights}
    found = []
    for event in record.of("tables"):
        # The most probable bits, summed over the thresholds.
        bits = {}
        for t in weights:
            marginal = np.sum(event["tables"][t["name"]], axis=1)
            bits[t["name"]] = t["space"]["bits"][int(marginal.argmax())]
        found.append(budget.compression(bits, sizes))
    return found


def way_of_change(values: Sequence[float]) -> tuple[str, str]:
    """Return whether a compression changes "in jumps" or "gradually", and a sentence with numbers.

    >>> way_of_change([4.0, 4.0, 4.0, 9.0])
    ('in jumps', 'Among 4 moments the actual compression changes 1 time, by up to 5.0.')

    Args:
        values: at moments that follow each other.

    Returns:
        The class, and the sentence.
    """
    steps = np.abs(np.diff(values))
    changes = int((steps > 0).sum())
    # It jumps where it mostly rests.
    way = "in jumps" if changes < len(steps) / 2 else "gradually"
    times = f"{changes} time{'s' * (changes != 1)}"
    said = f"Among {len(values)} moments the actual compression changes {times}, "
    return way, f"{said}by up to {steps.max():.1f}."


def beside_published(ours: Sequence[Value], theirs: Sequence[Value]) -> list[str]:
    """Return a line for each of our records: what it loses, and what the published ones lose.

    Args:
        ours: values of our records.
        theirs: published values of one method, by compression; the loss of one is its distance
            to the best of them.

    Returns:
        Lines of text, in order.
    """
    # What each published value loses to the best of them.
    best = max(v.accuracy for v in theirs)
    rates = [compression(v) for v in theirs]
    losses = [v.accuracy - best for v in theirs]
    # One line below the head for each comparable record.
    lines = [f"{'record':34s}{'compr.':>7s}{'ours':>8s}{'published':>11s}   points"]
    for v in ours:
        if v.data != "cifar10" or v.activation_bits != 8:
            continue
        # A straight line between two published points.
        there = np.interp(compression(v), rates, losses)
        within = rates[0] <= compression(v) <= rates[-1]
        told = f"{there:+.2f}" if within else "none"
        numbers = f"{v.wcr:7.2f}{v.distance:+8.2f}"
        lines.append(f"{v.run:34s}{numbers}{told:>11s}")
    return lines


def compression(value: Value) -> float:
    """Return the compression of the weights of a value, 0 where it is not known.

    Args:
        value: one published value, or one of ours.

    Returns:
        The compression.
    """
    return value.wcr or 0.0


def front(values: Sequence[Value]) -> Drawing:
    """Return published values by method, and the front: those that no other one beats.

    Args:
        values: published values of one data set and bits of activations.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One mark for each method, HMQ in colour.
    drawing, ax = canvas(height=3.4)
    on = comparison.front(values)
    methods = list(dict.fromkeys(v.method for v in values))
    for method, marker in zip(methods, "ovs^D", strict=False):
        own = [v for v in values if v.method == method]
        style = {"color": BLUE if method == "HMQ" else INK, "mfc": "white"}
        style |= {"ls": "none", "label": method, "marker": marker}
        compressions = [v.wcr for v in own]
        ax.plot(compressions, [v.accuracy for v in own], **style)
    # A step line joins the values on the front.
    line = {"where": "pre", "color": ORANGE, "lw": 1.2, "label": "front"}
    ax.step([v.wcr for v in on], [v.accuracy for v in on], **line)
    # Axes and legend.
    ax.set(xlabel="compression of the weights (WCR)", ylabel="test accuracy (%)")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # The sentence counts them by method.
    counts = Counter(v.method for v in on)
    said = listed(f"{count} of {method}" for method, count in counts.items())

    # What the figure shows, with its numbers.
    drawing.sentence = f"On the front of the {len(values)} published values: {said}."
    return drawing


def rivals_on_front(values: Sequence[Value]) -> str:
    """Return whether a method other than HMQ is on the front: "yes" or "no".

    Args:
        values: published values.

    Returns:
        Text in plain English.
    """
    return "yes" if any(v.method != "HMQ" for v in comparison.front(values)) else "no"


def loses_most(values: Sequence[Value]) -> str:
    """Return the network that loses most from its largest to its smallest published size.

    Args:
        values: published values of HMQ on ImageNet.

    Returns:
        Text in plain English.
    """
    losses = {}
    for network in dict.fromkeys(v.network for v in values):
        own = sorted((v for v in values if v.network == network), key=compression)
        losses[network] = own[0].accuracy - own[-1].accuracy
    return max(losses, key=losses.__getitem__)
