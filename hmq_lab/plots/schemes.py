"""The schemes that a search selected: bits, thresholds and sizes, tensor by tensor."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from matplotlib.artist import Artist
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
    figure,
    finished,
    of_kind,
)
from hmq_lab.runs.records import Record

NAMES = 64  # so many names fit below a panel 1000 pixels wide


def bits(record: Record, ax: Axes, kind: str = "weight") -> list[Artist]:
    """The bits of each tensor of a kind as bars, with an outline of what they were before the
    repair.
    """
    tensors = of_kind(record, kind)
    artists = []
    for at, style, _, hatch in _styled(tensors):
        artists += ax.bar(
            at,
            [tensors[i]["bits"] for i in at],
            0.84,
            hatch=hatch,
            edgecolor="white",
            lw=0,
            **style,
        )
    # An outline where the repair changed the bits.
    before = {
        i: t["bits_before_repair"]
        for i, t in enumerate(tensors)
        if t["bits_before_repair"] != t["bits"]
    }
    if before:
        style = {
            "label": "before the repair",
            "fill": False,
            "edgecolor": INK,
            "ls": ":",
            "lw": 1.2,
        }
        artists += ax.bar(list(before), list(before.values()), 0.84, **style)
    return _over_tensors(record, ax, kind, artists, "bits", f"bits of each {kind}")


def exponents(record: Record, ax: Axes, kind: str = "weight", legend: bool = True) -> list[Artist]:
    """The exponent M of each tensor's threshold 2^M, on the range that it was chosen from."""
    tensors = of_kind(record, kind)
    # The range of each tensor in grey, its choice as a dot.
    for i, t in enumerate(tensors):
        ends = min(t["space"]["exponents"]), max(t["space"]["exponents"])
        ax.plot([i, i], ends, color=PALE, lw=4, label="" if i else "range of the search")
    artists = _dots(ax, tensors, "threshold_exponent")
    title = f"threshold $2^M$ of each {kind}; grey: its range"
    return _over_tensors(record, ax, kind, artists, "M", title, legend)


def sizes(record: Record, ax: Axes, kind: str = "weight", legend: bool = True) -> list[Artist]:
    """The elements of each tensor, on a logarithmic scale."""
    dots = _dots(ax, of_kind(record, kind), "size")
    artists = _over_tensors(record, ax, kind, dots, "elements", f"size of each {kind}", legend)
    ax.set_yscale("log")
    return artists


def histogram(record: Record, ax: Axes, kind: str = "weight") -> list[Artist]:
    """The share of a kind's tensors, and of their elements, that has so many bits; and the rate
    that makes.
    """
    tensors = of_kind(record, kind)
    artists = []
    found = [t["bits"] for t in tensors]
    size = [t["size"] for t in tensors]
    top = max([8, *found])
    # Two bars a bit-width: tensors and elements.
    looks = (-0.2, "tensors", [1] * len(found), BLUE, ""), (0.2, "elements", size, ORANGE, "///")
    for shift, label, weights, colour, hatch in looks if found else ():
        share = 100 * np.bincount(found, weights, top + 1)[1:] / sum(weights)
        style = {"label": label, "color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0}
        artists.append(ax.bar(np.arange(1, top + 1) + shift, share, 0.4, **style))
    # The compression that this makes, where the record has it.
    rate = record.results.get("rates", {}).get(f"{kind}s")
    counted = "these tensors" if kind == "weight" else "the largest"
    ax.set_xlabel(f"{kind} bits" + (f"; compression of {counted}: {rate:.2f}" if rate else ""))
    ax.set(ylabel="share (%)", xticks=range(1, top + 1))
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
    """Bits and threshold of every tensor; the histogram of the bits beside the rate, as "4 bits"
    may mislead.

    >>> print(scheme_map(record).sentence)
    """
    parts = []
    for kind in ("weight", "activation"):
        tensors = of_kind(record, kind)
        rate = record.results.get("rates", {}).get(f"{kind}s")
        # Mean bits of each kind of layer.
        groups = {name: [tensors[i]["bits"] for i in at] for name, at in _groups(tensors).items()}
        means = ", ".join(f"{name} {np.mean(found):.1f}" for name, found in groups.items())
        parts.append(
            f"the {len(tensors)} {kind}s ({means})"
            + (f" at a compression of {rate:.2f}" if rate else "")
        )
    return f"Mean bits of {' and of '.join(parts)}."


def _groups(tensors: list[dict]) -> dict[str, list[int]]:
    """Which tensors belong together: weights by their layer, activations by their sign."""
    # Each tensor in the first group that fits.
    groups = {}
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
    for (name, at), colour, marker, hatch in zip(
        _groups(tensors).items(), COLOURS, MARKERS, HATCHES, strict=False
    ):
        yield at, {"label": name, "color": colour}, marker, hatch


def _dots(ax: Axes, tensors: list[dict], key: str) -> list[Artist]:
    found = [
        (at, [tensors[i][key] for i in at], marker, style)
        for at, style, marker, _ in _styled(tensors)
    ]
    return [
        ax.plot(at, values, ls="none", marker=marker, **style)[0]
        for at, values, marker, style in found
    ]


def _over_tensors(
    record: Record,
    ax: Axes,
    kind: str,
    artists: list[Artist],
    label: str,
    title: str,
    legend: bool = True,
) -> list[Artist]:
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
