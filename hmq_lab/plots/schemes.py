"""The schemes that a search selected: bits, thresholds and sizes, tensor by tensor."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hmq_lab.plots.frame import (
    BLUE,
    COLOURS,
    HATCHES,
    INK,
    MARKERS,
    ORANGE,
    PALE,
    Artists,
    Look,
    figure,
    finished,
    of_kind,
)
from hmq_lab.runs.records import Record

NAMES = 64  # so many names fit below a panel 1000 pixels wide


def bits(record: Record, ax: Axes, kind: str = "weight") -> Artists:
    """Draw the bits of each tensor of a kind as bars, outlined where the repair changed them.

    Args:
        record: of a search.
        ax: where to draw.
        kind: "weight" or "activation".

    Returns:
        The artists.
    """
    tensors = of_kind(record, kind)
    artists: Artists = []
    for at, style, _, hatch in _styled(tensors):
        heights = [tensors[i]["bits"] for i in at]
        artists += ax.bar(at, heights, 0.84, hatch=hatch, edgecolor="white", lw=0, **style)
    # An outline where the repair changed the bits.
    before = {}
    for i, t in enumerate(tensors):
        if t["bits_before_repair"] != t["bits"]:
            before[i] = t["bits_before_repair"]
    if before:
        outline: Look = {"fill": False, "edgecolor": INK, "ls": ":", "lw": 1.2}
        heights = list(before.values())
        artists += ax.bar(list(before), heights, 0.84, label="before the repair", **outline)
    return _over_tensors(record, ax, kind, artists, "bits", f"bits of each {kind}")


def exponents(record: Record, ax: Axes, kind: str = "weight", legend: bool = True) -> Artists:
    """Draw the exponent M of each tensor's threshold 2^M, on the range that it was chosen from.

    Args:
        record: of a search.
        ax: where to draw.
        kind: "weight" or "activation".
        legend: whether the panel has a legend.

    Returns:
        The artists.
    """
    tensors = of_kind(record, kind)
    # The range of each tensor in grey, its choice as a dot.
    for i, t in enumerate(tensors):
        allowed = t["space"]["exponents"]
        label = "" if i else "range of the search"
        ax.plot([i, i], [min(allowed), max(allowed)], color=PALE, lw=4, label=label)
    artists = _dots(ax, tensors, "threshold_exponent")
    title = f"threshold $2^M$ of each {kind}; grey: its range"
    return _over_tensors(record, ax, kind, artists, "M", title, legend)


def sizes(record: Record, ax: Axes, kind: str = "weight", legend: bool = True) -> Artists:
    """Draw the elements of each tensor, on a logarithmic scale.

    Args:
        record: of a search.
        ax: where to draw.
        kind: "weight" or "activation".
        legend: whether the panel has a legend.

    Returns:
        The artists.
    """
    dots = _dots(ax, of_kind(record, kind), "size")
    artists = _over_tensors(record, ax, kind, dots, "elements", f"size of each {kind}", legend)
    ax.set_yscale("log")
    return artists


def histogram(record: Record, ax: Axes, kind: str = "weight") -> Artists:
    """Draw the share of tensors, and of their elements, that has so many bits.

    Args:
        record: of a search.
        ax: where to draw; its label says the compression that the bits make.
        kind: "weight" or "activation".

    Returns:
        The artists.
    """
    tensors = of_kind(record, kind)
    artists: Artists = []
    found = [t["bits"] for t in tensors]
    top = max([8, *found])

    # Two bars a bit-width: tensors and elements.
    def draw(shift: float, weights: list[int], **look) -> None:
        share = 100 * np.bincount(found, weights, top + 1)[1:] / sum(weights)
        x = np.arange(1, top + 1) + shift
        artists.append(ax.bar(x, share, 0.4, edgecolor="white", lw=0, **look))

    if found:
        draw(-0.2, [1] * len(found), label="tensors", color=BLUE, hatch="")
        size = [t["size"] for t in tensors]
        draw(0.2, size, label="elements", color=ORANGE, hatch="///")
    # The compression that this makes, where the record has it.
    label = f"{kind} bits"
    rate = record.results.get("rates", {}).get(f"{kind}s")
    if rate:
        counted = "these tensors" if kind == "weight" else "the largest"
        label += f"; compression of {counted}: {rate:.2f}"
    ax.set(xlabel=label, ylabel="share (%)", xticks=range(1, top + 1))
    ax.grid(False, axis="x")
    return finished(ax, artists, f"{kind}s by their bits")


def _column(kind: str) -> list[partial]:
    """The panels of one kind of tensors, from above; the colours of the first one hold for those
    below it.
    """
    below = [partial(panel, kind=kind, legend=False) for panel in (exponents, sizes)]
    return [partial(bits, kind=kind), *below, partial(histogram, kind=kind)]


WEIGHTS = _column("weight")
ACTIVATIONS = _column("activation")
ROWS = [list(row) for row in zip(WEIGHTS, ACTIVATIONS, strict=True)]


@figure("the selected schemes", ROWS, 7.8, (4, 3, 3, 3), (WEIGHTS[:-1], ACTIVATIONS[:-1]))
def scheme_map(record: Record):
    """Draw bits and threshold of every tensor, and the histogram of the bits.

    >>> print(scheme_map(record).sentence)

    Args:
        record: of a search.

    Returns:
        The drawing.
    """
    parts = []
    for kind in ("weight", "activation"):
        tensors = of_kind(record, kind)
        # Mean bits of each kind of layer.
        means = []
        for name, at in _groups(tensors).items():
            mean = np.mean([tensors[i]["bits"] for i in at])
            means.append(f"{name} {mean:.1f}")
        text = f"the {len(tensors)} {kind}s ({', '.join(means)})"
        rate = record.results.get("rates", {}).get(f"{kind}s")
        if rate:
            text += f" at a compression of {rate:.2f}"
        parts.append(text)
    return f"Mean bits of {' and of '.join(parts)}."


def _groups(tensors: list[dict]) -> dict[str, list[int]]:
    """Which tensors belong together: weights by their layer, activations by their sign."""
    # Each tensor in the first group that fits.
    groups: dict[str, list[int]] = {}
    for i, t in enumerate(tensors):
        # The kind of a layer follows from the shape of its weight.
        channels, *kernel = t["shape"][1:] or [0]
        if t["kind"] == "activation":
            name = "signed" if t["signed"] else "unsigned"
        elif not kernel:
            name = "linear"
        # Not the first convolution, which has one input channel for grey images.
        elif channels == 1 and i:
            name = "depthwise"
        else:
            name = "pointwise" if math.prod(kernel) == 1 else "convolution"
        groups.setdefault(name, []).append(i)
    return groups


def _styled(tensors: list[dict]):
    """Indices, label and colour, marker, hatch of each group."""
    groups = _groups(tensors).items()
    looks = zip(groups, COLOURS, MARKERS, HATCHES, strict=False)
    for (name, at), colour, marker, hatch in looks:
        yield at, {"label": name, "color": colour}, marker, hatch


def _dots(ax: Axes, tensors: list[dict], key: str) -> Artists:
    artists: Artists = []
    for at, style, marker, _ in _styled(tensors):
        values = [tensors[i][key] for i in at]
        artists += ax.plot(at, values, ls="none", marker=marker, **style)
    return artists


def _over_tensors(
    record: Record,
    ax: Axes,
    kind: str,
    artists: Artists,
    label: str,
    title: str,
    legend: bool = True,
) -> Artists:
    """What the panels over the tensors share: names below, as many as fit; labels, a title, a
    legend.
    """
    # Names without what all of them end in.
    names = [t["name"].removesuffix(".weight") for t in of_kind(record, kind)]
    # As many names as fit below a panel of this width.
    fit = NAMES * ax.get_position().width / 0.775
    every = max(1, math.ceil(len(names) / fit))
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=90)
    ax.set(xlim=(-0.7, max(1, len(names)) - 0.3), ylabel=f"{kind}\n{label}")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.margins(y=0.12)
    ax.grid(False, axis="x")
    return finished(ax, artists, title, legend)
