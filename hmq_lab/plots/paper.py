"""The paper's figures 1 to 5 again, from our records, with the published values beside them.

>>> found = records.matching()  # every record that comes with the package, by name
>>> cifar10(comparison.ours(found))                       # figure 3
>>> write_paper(found, "docs/figures/paper")              # all of them, and the tables

Figure 1 is `quantizer_as_mass_moves`, figure 2 `compression`, figure 5 `bits_per_layer`. Ours and
published values never share a look: what was read off a published plot is hollow, what a later
paper's table says is filled, ours has a dark outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes

from hmq_lab.data.files import replacing
from hmq_lab.plots.comparison import ELSEWHERE, ours, tables
from hmq_lab.plots.frame import (
    BLUE,
    COLOURS,
    GREEN,
    INK,
    MARKERS,
    ORANGE,
    PALE,
    RED,
    Artists,
    Drawing,
    Look,
    figure,
    save,
)
from hmq_lab.plots.layers import bits_per_layer
from hmq_lab.plots.published import FLOAT, WEIGHTS, Value, select
from hmq_lab.plots.staircases import quantizer_as_mass_moves
from hmq_lab.plots.steps import compression
from hmq_lab.runs.records import Record

RIVALS = {"DNAS": "v", "UNIQ": "s", "LQ-Nets": "^", "HAWQ": "P"}  # markers
WCR = "compression of the weights (WCR): 32 / mean bits"
HOLLOW: Look = {"mfc": "white", "mew": 1.6}
HMQ: Look = {"color": BLUE, "marker": "o", "lw": 1} | HOLLOW
RIVAL: Look = {"color": INK, "ls": "none", "ms": 7} | HOLLOW
OURS: Look = {"ls": "none", "ms": 9, "mec": INK, "zorder": 5}
SPREAD: Look = {"lw": 5, "alpha": 0.4}  # of several runs
LOOKS = ((ORANGE, "D"), (GREEN, "X"), (RED, "*"), (INK, "p"))  # of our networks and modes, in order


def accuracies(found: Sequence[Value], ax: Axes, activation_bits: int = 8) -> Artists:
    """Draw CIFAR10 accuracy over the compression: the paper's HMQ, its rivals, ours.

    Args:
        found: ours, as `comparison.ours` makes them of records.
        ax: where to draw.
        activation_bits: 8 or 4.

    Returns:
        The artists.
    """
    artists: Artists = []
    published = select(data="cifar10", activation_bits=activation_bits)
    for method, values in _groups_of(published, "method").items():
        look = HMQ if method == "HMQ" else RIVAL | {"marker": RIVALS[method]}
        artists += _plot(ax, values, "wcr", "accuracy", **look)
    for _, values, look in _ours(found):
        here = [v for v in values if v.activation_bits == activation_bits]
        artists += _runs(ax, here, "accuracy", look)
        for accuracy in _floats(here):
            artists.append(ax.axhline(accuracy, color=INK, ls="--", lw=1))
    ax.set(ylabel="test accuracy (%)", title=f"{activation_bits}-bit activations")
    return artists


def distances(found: Sequence[Value], ax: Axes, activation_bits: int = 8) -> Artists:
    """Draw the points lost: ours to its own float network, the paper's to its best value.

    Args:
        found: ours, as `comparison.ours` makes them of records.
        ax: where to draw.
        activation_bits: 8 or 4.

    Returns:
        The artists.
    """
    # The published float network is not known: its best value stands for it.
    published = select(data="cifar10", activation_bits=activation_bits, method="HMQ")
    best = max(v.accuracy for v in published)
    compressions = np.array([v.wcr for v in published])
    lost = [v.accuracy - best for v in published]
    artists: Artists = ax.plot(compressions, lost, **HMQ)
    for _, values, look in _ours(found):
        here = [v for v in values if v.activation_bits == activation_bits]
        artists += _runs(ax, here, "distance", look)
    ax.axhline(0, color=INK, lw=1)
    ax.set(xlabel=WCR, ylabel=f"points: ours to its float,\npublished to {best:.2f} %")
    return artists


def _runs(ax: Axes, values: Sequence[Value], part: str, look: Mapping) -> Artists:
    """Every run as a point; through the means of each target a line, and the spread of several runs
    as a bar.
    """
    artists = _plot(ax, values, "wcr", part, **look)
    colour = look["color"]
    # The mean of each target, and its spread where there are several seeds.
    means = []
    for same in _groups_of(values, "target").values():
        found = [getattr(v, part) for v in same]
        x = fmean(v.wcr for v in same)
        means.append((x, fmean(found)))
        if len(found) > 1:
            bar: Look = {"color": colour, "solid_capstyle": "butt", "zorder": 4} | SPREAD
            artists += ax.plot([x, x], [min(found), max(found)], **bar)
    if len(means) > 1:
        x_and_y = np.array(sorted(means)).T
        artists += ax.plot(*x_and_y, color=colour, lw=1, ls=":", zorder=3)
    return artists


def key(found: Sequence[Value], ax: Axes) -> Artists:
    """Explain the looks of figure 3 in a legend.

    Args:
        found: ours, as `comparison.ours` makes them of records.
        ax: where to draw.

    Returns:
        The artists.
    """
    # Empty lines with the looks of the panels.
    lines: Artists = []

    def explain(label: str, **look) -> None:
        lines.extend(ax.plot([], [], label=label, **look))

    explain("HMQ, published", **HMQ)
    for name, marker in RIVALS.items():
        explain(f"{name}, published", marker=marker, **RIVAL)
    several = False
    for label, values, look in _ours(found):
        explain(label, **look)
        seeds = _groups_of(values, "activation_bits", "target").values()
        several = several or any(len(same) > 1 for same in seeds)
    if several:
        explain("runs with other seeds", color=INK, **SPREAD)
    # The float network is a level, not a point.
    mine = [v for _, values, _ in _ours(found) for v in values]
    if mine:
        accuracies = ", ".join(f"{accuracy:.2f}" for accuracy in _floats(mine))
        explain(f"our float: {accuracies} %", color=INK, ls="--", lw=1)
    ax.axis("off")
    # As many columns as the longest label leaves room for.
    labels = [line.get_label() for line in lines]
    columns = 4 if max(map(len, labels)) < 34 else 3
    ax.legend(lines, labels, loc="center", ncols=columns, frameon=False, columnspacing=1.5)
    return lines


EIGHT = [partial(panel, activation_bits=8) for panel in (accuracies, distances)]
FOUR = [partial(panel, activation_bits=4) for panel in (accuracies, distances)]


@figure(
    "CIFAR10 accuracy against the compression of the weights",
    [[key, key], [EIGHT[0], FOUR[0]], [EIGHT[1], FOUR[1]]],
    8.0,
    (0.8, 3, 2),
    (EIGHT, FOUR),
)
def cifar10(found: Sequence[Value]) -> str:
    """Draw the paper's figure 3: published values, read off its plot, and ours; what each loses.

    >>> cifar10(comparison.ours(records.matching(data="cifar10")))

    Args:
        found: ours, as `comparison.ours` makes them of records.

    Returns:
        The drawing.
    """
    parts = [_said_of_cifar10(found, 8), _said_of_cifar10(found, 4)]
    # Runs that are shorter than the paper's are called so.
    short = set()
    for _, values, _ in _ours(found):
        short |= {v.epochs for v in values if v.epochs and sum(v.epochs) < 50}
    if short:
        runs = " and ".join(f"{search} + {final}" for search, final in sorted(short))
        parts.append(f"runs of {runs} epochs are short, the paper's have 30 + 20")
    text = f"{'; '.join(parts)}; the published float accuracy is not at hand, and the networks "
    text += "are not the same."
    return text[0].upper() + text[1:]


def _said_of_cifar10(found: Sequence[Value], activation_bits: int) -> str:
    """The published values from the least compression to the most, then ours."""
    values = select(data="cifar10", activation_bits=activation_bits, method="HMQ")
    first = values[0]
    last = values[-1]
    text = f"with {activation_bits}-bit activations the published HMQ goes from "
    text += f"{first.accuracy:.2f} % at a compression "
    text += f"of {first.wcr:g} to {last.accuracy:.2f} % at {last.wcr:g}"
    # Ours, with the distance to the own float network.
    recorded = False
    for label, mine, _ in _ours(found):
        here = [v for v in mine if v.activation_bits == activation_bits]
        said = []
        for v in here:
            reached = f"{v.accuracy:.2f} % at {v.wcr:.2f}"
            said.append(f"{reached} ({v.distance:+.2f} to its float network)")
        if len(said) == 1:
            text += f", {label} {said[0]}"
        elif said:
            text += f", {label} ({len(here)} runs) from {said[0]} to {said[-1]}"
        recorded = recorded or bool(said)
    return text if recorded else f"{text}, of ours there is no record"


def accuracy_over_size(found: Sequence[Value], ax: Axes) -> Artists:
    """Draw ImageNet accuracy over the size of the counted weights, for four networks.

    Args:
        found: ours, as `comparison.ours` makes them of records; drawn where they are on ImageNet.
        ax: where to draw.

    Returns:
        The artists.
    """
    artists: Artists = []
    on_imagenet = [v for v in found if v.data == "imagenet" and v.acr is None]
    for (network, elements), colour, marker in zip(WEIGHTS.items(), COLOURS, MARKERS, strict=True):
        values = _by_compression(select(network=network, acr=None))
        look: Look = {"color": colour, "marker": marker}
        (line,) = _plot(ax, values, "size", "accuracy", color=colour, lw=1, label=network)
        artists.append(line)
        for v in values:
            filling = HOLLOW if v.source == "plot" else {}
            _plot(ax, [v], "size", "accuracy", ls="none", ms=7, **look, **filling)
        line.set(marker=marker)
        # The float network, where its accuracy is known.
        if network in FLOAT:
            at = (4e-6 * elements, FLOAT[network])
            ax.plot(*at, ls="none", ms=9, mec=INK, mew=1.6, **look)
            below: Look = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
            ax.annotate("float", at, (0, -17), **below)
        # Ours, where a record is on ImageNet itself.
        mine = [v for v in on_imagenet if v.network == network]
        if mine:
            style = OURS | look | {"ms": 13, "label": f"{network}, ours"}
            artists += _plot(ax, mine, "size", "accuracy", **style)
    ax.set(xscale="log", xlabel="size of the counted weights (MB)", ylabel="ImageNet top-1 (%)")
    # Sizes as numbers a reader expects.
    megabytes = [1, 2, 5, 10, 20, 50, 100]
    ax.set_xticks(megabytes, [str(m) for m in megabytes])
    ax.minorticks_off()
    return _above(ax, artists, 2)


def imagenet_distances(found: Sequence[Value], ax: Axes) -> Artists:
    """Draw the points to the own float network over the compression.

    Args:
        found: ours, as `comparison.ours` makes them of records, on whatever images they are.
        ax: where to draw.

    Returns:
        The artists.
    """
    artists: Artists = []
    # The colours and markers of the left panel.
    colours = dict(zip(WEIGHTS, COLOURS, strict=True))
    markers = dict(zip(WEIGHTS, MARKERS, strict=True))
    for network in FLOAT:
        look: Look = {"color": colours[network], "marker": markers[network], "ms": 7}
        # Weights alone as a line; weights with activations as half-filled markers.
        line = look | {"lw": 1, "label": network}
        alone = select(network=network, acr=None, method="HMQ")
        artists += _distances(ax, alone, line)
        half = look | {"ls": "none", "fillstyle": "left", "label": f"{network}, ACR 8"}
        both = select(network=network, acr=8, method="HMQ")
        artists += _distances(ax, both, half)
    # Ours, on whatever images they are.
    for i, (data, values) in enumerate(_groups_of(_made_for_imagenet(found), "data").items()):
        for (network, mode), here in _groups_of(values, "network", "method").items():
            star = OURS | {"color": colours.get(network, INK), "marker": "*Xph"[i % 4], "ms": 14}
            label = f"{network}, {mode} on {data}"
            artists += _plot(ax, here, "wcr", "distance", label=label, **star)
    ax.axhline(0, color=INK, lw=1)
    ax.set(xlabel=WCR, ylabel="difference to the own\nfloat network (points)")
    return _above(ax, artists, 2)


def _distances(ax: Axes, values: list[Value], look: Look) -> Artists:
    """The distances of values whose compression is known, hollow where they are from a plot."""
    known = _by_compression(v for v in values if v.wcr is not None)
    if not known:
        return []
    artists = _plot(ax, known, "wcr", "distance", **look)
    hollow: Look = {"color": look["color"], "marker": look["marker"], "ms": 7, "ls": "none"}
    for v in known:
        if v.source == "plot":
            _plot(ax, [v], "wcr", "distance", **hollow, **HOLLOW)
    return artists


def markers(found: Sequence[Value], ax: Axes) -> Artists:
    """Explain what hollow, filled and outlined markers mean in figure 4.

    Args:
        found: ours, as `comparison.ours` makes them of records.
        ax: where to draw.

    Returns:
        The artists.
    """
    # One marker for each way to know a value.
    dot: Look = {"color": INK, "ls": "none", "marker": "o", "ms": 7}
    lines: Artists = ax.plot([], [], label="read off a published plot", **dot, **HOLLOW)
    lines += ax.plot([], [], label="from a table of a later paper", **dot)
    outlined = dot | {"color": PALE, "mec": INK, "mew": 1.6, "ms": 9}
    lines += ax.plot([], [], label="float network, dark outline", **outlined)
    if _made_for_imagenet(found):
        star = OURS | {"color": PALE, "marker": "*", "ms": 14}
        lines += ax.plot([], [], label="ours", **star)
    ax.set(xticks=[], yticks=[])
    ax.axis("off")
    labels = [line.get_label() for line in lines]
    ax.legend(lines, labels, loc="center", ncols=4, frameon=False, columnspacing=1.5)
    return lines


@figure(
    "ImageNet accuracy against size",
    [[markers, markers], [accuracy_over_size, imagenet_distances]],
    5.2,
    (0.25, 4),
)
def imagenet(found: Sequence[Value]) -> str:
    """Draw the paper's figure 4: published values of four networks, and ours.

    >>> imagenet(comparison.ours(records.matching()))

    Args:
        found: ours, as `comparison.ours` makes them of records.

    Returns:
        The drawing.
    """
    parts = []
    for network in WEIGHTS:
        values = _by_compression(select(network=network, acr=None))
        low = values[0]
        high = values[-1]
        largest = f"{network} {low.accuracy:g} % at {low.size:.1f} MB"
        parts.append(f"{largest}, {high.accuracy:g} % at {high.size:.1f}")
    # What is published, then what hollow and filled mean, then ours.
    text = f"Published, the largest and the smallest of each network: {'; '.join(parts)}"
    text += "; hollow was read off a plot, filled is from a table, outlined is the float network"
    mine = _made_for_imagenet(found)
    if not any(v.data == "imagenet" for v in mine):
        text += "; no record of ours is on ImageNet itself"
    if mine:
        said = []
        for v in mine:
            reached = f"{v.network} on {v.data} {v.accuracy:.2f} % at a compression of {v.wcr:.2f}"
            said.append(f"{reached} ({v.distance:+.2f})")
        text += f"; ours, with the difference to its float network: {'; '.join(said)}"
    return text + "."


def typical(found: Mapping[str, Record], near: float = 16.0) -> str:
    """Return the name of the record that stands for ours where a figure shows one run.

    >>> from hmq_lab.runs import records
    >>> typical(records.matching())
    'cifar10-resnet20-w16-a8'

    Args:
        found: records by name.
        near: the target that the record's is nearest to.

    Returns:
        The name: on CIFAR10 if there is one, without hardware mode, of 8-bit activations.

    Raises:
        ValueError: there is no complete record at all.
    """

    def distance(name: str) -> tuple:
        # On CIFAR10, plain, 8-bit activations, near the target, the first seed.
        header = found[name].header
        target = header["target"]
        elsewhere = header["data"] != "cifar10"
        hardware = bool(header.get("hardware_mode"))
        other_bits = target["activation_bits"] != 8
        apart = abs(target["weights"] - near)
        return elsewhere, hardware, other_bits, apart, header["seed"], name

    complete = [name for name in found if found[name].results.get("status") == "complete"]
    if not complete:
        raise ValueError("there is no record of a complete run to draw")
    return min(complete, key=distance)


def paper_figures(found: Mapping[str, Record]) -> dict[str, Drawing]:
    """Return the paper's figures by name, from our records.

    Args:
        found: records by name.

    Returns:
        One of each figure, and figure 5 also for every record of a network made for ImageNet.

    Raises:
        ValueError: there is no complete record at all.
    """
    # One record stands for ours where a figure shows one run.
    shown = found[typical(found)]
    values = ours(found)
    # The paper's five figures; the fifth once more for each ImageNet network.
    drawings = {"figure_1_quantizer": quantizer_as_mass_moves((2, 3))}
    drawings["figure_2_compression"] = compression(shown)
    drawings["figure_3_cifar10"] = cifar10(values)
    drawings["figure_4_imagenet"] = imagenet(values)
    drawings["figure_5_bits"] = bits_per_layer(shown)
    for v in _made_for_imagenet(values):
        if v.run is not None:
            drawings[f"figure_5_bits-{v.run}"] = bits_per_layer(found[v.run])
    return drawings


def write_paper(found: Mapping[str, Record], folder: Path, formats=("png", "svg")) -> list[Path]:
    """Write the figures, the tables as Markdown and CSV, and a page of all.

    The same records make the same bytes.

    Args:
        found: records by name.
        folder: where to write.
        formats: of the figures; the page shows the first one.

    Returns:
        The paths of all files.

    Raises:
        ValueError: there is no complete record at all.
    """
    folder = Path(folder)
    page = ["# The paper's figures and tables, from our records", ""]
    paths = []
    # Each figure in all formats, and its place on the page.
    for name, drawing in paper_figures(found).items():
        paths += [save(drawing, folder / f"{name}.{kind}") for kind in formats]
        page += [f"![{drawing.sentence}]({name}.{formats[0]})", "", drawing.sentence, ""]
    # Each table as Markdown, on the page and alone, and as CSV.
    texts = {}
    for name, table in tables(ours(found)).items():
        page.append(table.markdown())
        texts[f"{name}.md"] = table.markdown()
        texts[f"{name}.csv"] = table.csv()
    texts["paper.md"] = "\n".join(page)
    for name, text in texts.items():
        paths.append(folder / name)
        with replacing(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def _plot(ax: Axes, values: Iterable[Value], x: str, y: str, **look) -> Artists:
    """Draw one field of values over another one."""
    values = list(values)
    along = [getattr(v, x) for v in values]
    return ax.plot(along, [getattr(v, y) for v in values], **look)


def _by_compression(values: Iterable[Value]) -> list[Value]:
    return sorted(values, key=lambda v: v.wcr or 0)


def _floats(values: Iterable[Value]) -> list[float]:
    """The different accuracies of the float networks, from low to high."""
    return sorted({v.float_accuracy for v in values if v.float_accuracy is not None})


def _groups_of(values: Sequence[Value], *fields: str) -> dict:
    """The values by what they have in these fields."""
    found: dict = {}
    for v in values:
        have = tuple(getattr(v, name) for name in fields)
        key = have if len(fields) > 1 else have[0]
        found.setdefault(key, []).append(v)
    return found


def _ours(found: Sequence[Value]):
    """Label, values and look of each of our networks and modes on CIFAR10."""
    here = [v for v in found if v.data == "cifar10" and v.activation_bits in (4, 8)]
    groups = _groups_of(here, "method", "network", "epochs")
    for i, ((method, network, epochs), values) in enumerate(groups.items()):
        # 16 pairs.
        count = len(LOOKS)
        colour, _ = LOOKS[i % count]
        _, marker = LOOKS[(i + i // count) % count]
        label = f"{method}, {network}"
        if epochs:
            label += f", {epochs[0]} + {epochs[1]} epochs"
        yield label, values, OURS | {"color": colour, "marker": marker}


def _made_for_imagenet(found: Sequence[Value]) -> list[Value]:
    return [v for v in found if v.data not in ELSEWHERE]


def _above(ax: Axes, artists: Artists, columns: int) -> Artists:
    """The legend above a panel that is half as wide as the figure."""
    place: Look = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1), "borderaxespad": 0}
    spaces: Look = {"columnspacing": 1, "handlelength": 1.6, "handletextpad": 0.5}
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        ax.legend(handles, labels, ncols=columns, frameon=False, **place, **spaces)
    return artists
