"""The paper's figures 1 to 5 again, from our records, with the published values beside them.

>>> found = records.matching()  # every record that comes with the package, by name
>>> cifar10(comparison.ours(found))                       # figure 3
>>> write_paper(found, "docs/figures/paper")              # all of them, and the tables

Figure 1 is `quantizer_as_mass_moves`, figure 2 `compression`, figure 5 `bits_per_layer`. Ours and
published values never share a look: what was read off a published plot is hollow, what a later
paper's table says is filled, ours has a dark outline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.artist import Artist
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
    Drawing,
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
HOLLOW = {"mfc": "white", "mew": 1.6}
HMQ = {"color": BLUE, "marker": "o", "lw": 1} | HOLLOW
OURS = {"ls": "none", "ms": 9, "mec": INK, "zorder": 5}
LOOKS = ((ORANGE, "D"), (GREEN, "X"), (RED, "*"), (INK, "p"))  # of our networks and modes, in order


def accuracies(found: Sequence[Value], ax: Axes, activation_bits: int = 8) -> list[Artist]:
    """CIFAR10 accuracy over the rate of the weights: the paper's HMQ, its rivals, ours."""
    artists = []
    for method, values in _groups_of(
        select(data="cifar10", activation_bits=activation_bits), "method"
    ).items():
        look = (
            HMQ
            if method == "HMQ"
            else {"color": INK, "ls": "none", "marker": RIVALS[method], "ms": 7, **HOLLOW}
        )
        artists += ax.plot([v.wcr for v in values], [v.accuracy for v in values], **look)
    for _, values, look in _ours(found):
        here = [v for v in values if v.activation_bits == activation_bits]
        artists += _runs(ax, here, "accuracy", look)
        for accuracy in sorted({v.float_accuracy for v in here}):
            artists.append(ax.axhline(accuracy, color=INK, ls="--", lw=1))
    ax.set(ylabel="test accuracy (%)", title=f"{activation_bits}-bit activations")
    return artists


def distances(found: Sequence[Value], ax: Axes, activation_bits: int = 8) -> list[Artist]:
    """Points lost: ours to its own float network; the paper's, whose float network is not known, to
    its best value.
    """
    # The published float network is not known: its best value stands for it.
    published = select(data="cifar10", activation_bits=activation_bits, method="HMQ")
    best = max(v.accuracy for v in published)
    artists = ax.plot([v.wcr for v in published], [v.accuracy - best for v in published], **HMQ)
    for _, values, look in _ours(found):
        here = [v for v in values if v.activation_bits == activation_bits]
        artists += _runs(ax, here, "distance", look)
    ax.axhline(0, color=INK, lw=1)
    ax.set(xlabel=WCR, ylabel=f"points: ours to its float,\npublished to {best:.2f} %")
    return artists


def _runs(ax: Axes, values: Sequence[Value], part: str, look: Mapping) -> list[Artist]:
    """Every run as a point; through the means of each target a line, and the spread of several runs
    as a bar.
    """
    artists = ax.plot([v.wcr for v in values], [getattr(v, part) for v in values], **look)
    # The mean of each target, and its spread where there are several seeds.
    means = []
    for same in _groups_of(values, "target").values():
        found = [getattr(v, part) for v in same]
        x = sum(v.wcr for v in same) / len(same)
        means.append((x, sum(found) / len(found)))
        if len(found) > 1:
            style = {
                "color": look["color"],
                "lw": 5,
                "alpha": 0.4,
                "solid_capstyle": "butt",
                "zorder": 4,
            }
            artists += ax.plot([x, x], [min(found), max(found)], **style)
    if len(means) > 1:
        artists += ax.plot(
            *zip(*sorted(means), strict=True), color=look["color"], lw=1, ls=":", zorder=3
        )
    return artists


def key(found: Sequence[Value], ax: Axes) -> list[Artist]:
    """What the looks of figure 3 mean."""
    # Empty lines with the looks of the panels.
    lines = [ax.plot([], [], label="HMQ, published", **HMQ)[0]]
    for name, marker in RIVALS.items():
        lines += ax.plot(
            [], [], color=INK, ls="none", marker=marker, ms=7, label=f"{name}, published", **HOLLOW
        )
    for label, _, look in _ours(found):
        lines += ax.plot([], [], label=label, **look)
    groups = [
        _groups_of(values, "activation_bits", "target").values() for _, values, _ in _ours(found)
    ]
    if any(len(same) > 1 for group in groups for same in group):
        lines += ax.plot([], [], color=INK, lw=5, alpha=0.4, label="runs with other seeds")
    # The float network is a level, not a point.
    floats = sorted({v.float_accuracy for _, values, _ in _ours(found) for v in values})
    if floats:
        label = f"our float: {', '.join(f'{accuracy:.2f}' for accuracy in floats)} %"
        lines += ax.plot([], [], color=INK, ls="--", lw=1, label=label)
    ax.axis("off")
    labels = [line.get_label() for line in lines]
    # As many columns as the longest label leaves room for.
    columns = 4 if max(map(len, labels)) < 34 else 3
    ax.legend(lines, labels, loc="center", ncols=columns, frameon=False, columnspacing=1.5)
    return lines


EIGHT, FOUR = (
    [partial(panel, activation_bits=b) for panel in (accuracies, distances)] for b in (8, 4)
)


@figure(
    "CIFAR10 accuracy against the compression of the weights",
    [[key, key], [EIGHT[0], FOUR[0]], [EIGHT[1], FOUR[1]]],
    8.0,
    (0.8, 3, 2),
    (EIGHT, FOUR),
)
def cifar10(found: Sequence[Value]) -> str:
    """The paper's figure 3: published values, read off its plot, and ours; below, what each loses.

    >>> cifar10(comparison.ours(records.matching(data="cifar10")))
    """
    parts = []
    for activation_bits in (8, 4):
        values = select(data="cifar10", activation_bits=activation_bits, method="HMQ")
        # From the least compression to the most.
        first = values[0]
        last = values[-1]
        text = f"with {activation_bits}-bit activations the published HMQ goes from "
        text += f"{first.accuracy:.2f} % at a compression "
        text += f"of {first.wcr:g} to {last.accuracy:.2f} % at {last.wcr:g}"
        # Ours, with the distance to the own float network.
        for label, mine, _ in _ours(found):
            here = [v for v in mine if v.activation_bits == activation_bits]
            said = [
                f"{v.accuracy:.2f} % at {v.wcr:.2f} ({v.distance:+.2f} to its float network)"
                for v in here
            ]
            if said:
                text += f", {label} " + (
                    f"({len(here)} runs) from {said[0]} to {said[-1]}" if said[1:] else said[0]
                )
        parts.append(text + ("" if "ours" in text else ", of ours there is no record"))
    # Runs that are shorter than the paper's are called so.
    short = sorted(
        {
            v.epochs
            for _, values, _ in _ours(found)
            for v in values
            if v.epochs and sum(v.epochs) < 50
        }
    )
    if short:
        runs = " and ".join(f"{search} + {final}" for search, final in short)
        parts.append(f"runs of {runs} epochs are short, the paper's have 30 + 20")
    text = f"{'; '.join(parts)}; the published float accuracy is not at hand, and the networks "
    text += "are not the same."
    return text[0].upper() + text[1:]


def accuracy_over_size(found: Sequence[Value], ax: Axes) -> list[Artist]:
    """ImageNet accuracy over the size of the counted weights, four networks; ours where a record is
    on ImageNet.
    """
    artists = []
    for (network, elements), colour, marker in zip(WEIGHTS.items(), COLOURS, MARKERS, strict=True):
        values = sorted(select(network=network, acr=None), key=lambda v: v.wcr)
        artists += ax.plot(
            [v.size for v in values],
            [v.accuracy for v in values],
            color=colour,
            lw=1,
            label=network,
        )
        for v in values:
            ax.plot(
                v.size,
                v.accuracy,
                marker,
                color=colour,
                ms=7,
                **(HOLLOW if v.source == "plot" else {}),
            )
        artists[-1].set(marker=marker)
        # The float network, where its accuracy is known.
        if network in FLOAT:
            size = 4e-6 * elements
            ax.plot(size, FLOAT[network], marker, color=colour, ms=9, mec=INK, mew=1.6)
            ax.annotate(
                "float",
                (size, FLOAT[network]),
                (0, -17),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        # Ours, where a record is on ImageNet itself.
        mine = [v for v in found if v.data == "imagenet" and v.network == network and v.acr is None]
        if mine:
            style = OURS | {
                "color": colour,
                "marker": marker,
                "ms": 13,
                "label": f"{network}, ours",
            }
            artists += ax.plot([v.size for v in mine], [v.accuracy for v in mine], **style)
    ax.set(xscale="log", xlabel="size of the counted weights (MB)", ylabel="ImageNet top-1 (%)")
    # Sizes as numbers a reader expects.
    at = [1, 2, 5, 10, 20, 50, 100]
    ax.set_xticks(at, [str(m) for m in at])
    ax.minorticks_off()
    return _above(ax, artists, 2)


def imagenet_distances(found: Sequence[Value], ax: Axes) -> list[Artist]:
    """Points to the own float network over the rate, where the float accuracy is known; ours on
    whatever images.
    """
    artists = []
    # The colours and markers of the left panel.
    looks = dict(zip(WEIGHTS, zip(COLOURS, MARKERS, strict=True), strict=True))
    for network in FLOAT:
        colour, marker = looks[network]
        # Weights alone, and weights with activations: half-filled markers.
        for acr in (None, 8):
            values = [
                v for v in select(network=network, acr=acr, method="HMQ") if v.wcr is not None
            ]
            values.sort(key=lambda v: v.wcr)
            if values:
                label = network if acr is None else f"{network}, ACR {acr}"
                style = {"color": colour, "marker": marker, "ms": 7, "label": label} | (
                    {"lw": 1} if not acr else {}
                )
                style |= {"ls": "none", "fillstyle": "left"} if acr else {}
                artists += ax.plot([v.wcr for v in values], [v.distance for v in values], **style)
                for v in values:
                    if v.source == "plot":
                        ax.plot(v.wcr, v.distance, marker, color=colour, ms=7, **HOLLOW)
    # Ours, on whatever images they are.
    for i, (data, values) in enumerate(_groups_of(_made_for_imagenet(found), "data").items()):
        for (network, mode), here in _groups_of(values, "network", "method").items():
            colour = looks.get(network, (INK,))[0]
            style = OURS | {
                "color": colour,
                "marker": "*Xph"[i % 4],
                "ms": 14,
                "label": f"{network}, {mode} on {data}",
            }
            artists += ax.plot([v.wcr for v in here], [v.distance for v in here], **style)
    ax.axhline(0, color=INK, lw=1)
    ax.set(xlabel=WCR, ylabel="difference to the own\nfloat network (points)")
    return _above(ax, artists, 2)


def markers(found: Sequence[Value], ax: Axes) -> list[Artist]:
    """What hollow, filled and outlined markers mean in figure 4."""
    # One marker for each way to know a value.
    style = {"color": INK, "ls": "none", "marker": "o", "ms": 7}
    lines = ax.plot([], [], label="read off a published plot", **style, **HOLLOW)
    lines += ax.plot([], [], label="from a table of a later paper", **style)
    lines += ax.plot(
        [],
        [],
        label="float network, dark outline",
        **style | {"color": PALE, "mec": INK, "mew": 1.6, "ms": 9},
    )
    if _made_for_imagenet(found):
        lines += ax.plot([], [], label="ours", **OURS | {"color": PALE, "marker": "*", "ms": 14})
    ax.set(xticks=[], yticks=[])
    ax.axis("off")
    ax.legend(
        lines,
        [line.get_label() for line in lines],
        loc="center",
        ncols=4,
        frameon=False,
        columnspacing=1.5,
    )
    return lines


@figure(
    "ImageNet accuracy against size",
    [[markers, markers], [accuracy_over_size, imagenet_distances]],
    5.2,
    (0.25, 4),
)
def imagenet(found: Sequence[Value]) -> str:
    """The paper's figure 4: published values of four networks, and ours where there is a record.

    >>> imagenet(comparison.ours(records.matching()))
    """
    parts = []
    for network in WEIGHTS:
        values = sorted(select(network=network, acr=None), key=lambda v: v.wcr)
        low = values[0]
        high = values[-1]
        parts.append(
            f"{network} {low.accuracy:g} % at {low.size:.1f} MB, {high.accuracy:g} % at {high.size:.1f}"
        )
    # What is published, then what hollow and filled mean, then ours.
    text = f"Published, the largest and the smallest of each network: {'; '.join(parts)}"
    text += "; hollow was read off a plot, filled is from a table, outlined is the float network"
    mine = _made_for_imagenet(found)
    if not any(v.data == "imagenet" for v in mine):
        text += "; no record of ours is on ImageNet itself"
    said = [
        f"{v.network} on {v.data} {v.accuracy:.2f} % at a compression of {v.wcr:.2f} ({v.distance:+.2f})"
        for v in mine
    ]
    return text + (
        f"; ours, with the difference to its float network: {'; '.join(said)}." if said else "."
    )


def typical(found: Mapping[str, Record], near: float = 16.0) -> str:
    """The name of the record that stands for ours where a figure shows one run: on CIFAR10, its
    target nearest to 16.

    >>> typical(records.matching())
    'cifar10-resnet20-w16-a8'

    Raises ValueError where there is no complete record at all.
    """

    def key(name: str):
        # On CIFAR10, plain, 8-bit activations, near the target, the first seed.
        header = found[name].header
        target = header["target"]
        other = (
            header["data"] != "cifar10",
            bool(header.get("hardware_mode")),
            target["activation_bits"] != 8,
        )
        return *other, abs(target["weights"] - near), header["seed"], name

    complete = [
        name for name, record in found.items() if record.results.get("status") == "complete"
    ]
    if not complete:
        raise ValueError("there is no record of a complete run to draw")
    return min(complete, key=key)


def paper_figures(found: Mapping[str, Record]) -> dict[str, Drawing]:
    """The figures by name: one of each, and figure 5 also for every record of a network made for
    ImageNet.
    """
    # One record stands for ours where a figure shows one run.
    name = typical(found)
    values = ours(found)
    # The paper's five figures; the fifth once more for each ImageNet network.
    drawings = {
        "figure_1_quantizer": quantizer_as_mass_moves((2, 3)),
        "figure_2_compression": compression(found[name]),
        "figure_3_cifar10": cifar10(values),
        "figure_4_imagenet": imagenet(values),
        "figure_5_bits": bits_per_layer(found[name]),
    }
    for v in _made_for_imagenet(values):
        drawings[f"figure_5_bits-{v.run}"] = bits_per_layer(found[v.run])
    return drawings


def write_paper(found: Mapping[str, Record], folder: Path, formats=("png", "svg")) -> list[Path]:
    """Write the figures, the tables as Markdown and CSV, and a page of all: the same bytes for the
    same records.
    """
    folder = Path(folder)
    page = ["# The paper's figures and tables, from our records", ""]
    drawings = paper_figures(found)
    paths = []
    # Each figure in all formats, and its place on the page.
    for name, drawing in drawings.items():
        paths += [save(drawing, folder / f"{name}.{kind}") for kind in formats]
        page += [f"![{drawing.sentence}]({name}.{formats[0]})", "", drawing.sentence, ""]
    for name, table in tables(ours(found)).items():
        page.append(table.markdown())
        for kind, text in (("md", table.markdown()), ("csv", table.csv())):
            paths.append(folder / f"{name}.{kind}")
            with replacing(paths[-1]) as temporary:
                temporary.write_text(text, encoding="utf-8")
    with replacing(folder / "paper.md") as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")
    return [*paths, folder / "paper.md"]


def _groups_of(values: Sequence[Value], *fields: str) -> dict:
    """The values by what they have in these fields."""
    found: dict = {}
    for v in values:
        have = tuple(getattr(v, name) for name in fields)
        found.setdefault(have if len(fields) > 1 else have[0], []).append(v)
    return found


def _ours(found: Sequence[Value]):
    """Label, values and look of each of our networks and modes on CIFAR10."""
    here = [v for v in found if v.data == "cifar10" and v.activation_bits in (4, 8)]
    groups = _groups_of(here, "method", "network", "epochs")
    for i, ((method, network, epochs), values) in enumerate(groups.items()):
        # 16 pairs.
        colour = LOOKS[i % len(LOOKS)][0]
        marker = LOOKS[(i + i // len(LOOKS)) % len(LOOKS)][1]
        label = f"{method}, {network}" + (f", {epochs[0]} + {epochs[1]} epochs" if epochs else "")
        yield label, values, OURS | {"color": colour, "marker": marker}


def _made_for_imagenet(found: Sequence[Value]) -> list[Value]:
    return [v for v in found if v.data not in ELSEWHERE]


def _above(ax: Axes, artists: list[Artist], columns: int) -> list[Artist]:
    """The legend above a panel that is half as wide as the figure."""
    place = {
        "loc": "lower left",
        "bbox_to_anchor": (-0.01, 1),
        "borderaxespad": 0,
        "frameon": False,
    }
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        ax.legend(
            handles,
            labels,
            ncols=columns,
            columnspacing=1,
            handlelength=1.6,
            handletextpad=0.5,
            **place,
        )
    return artists
