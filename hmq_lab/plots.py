"""Figures: what a record holds, drawn panel by panel and said in one sentence; nothing here needs a live search.

>>> record = records.read("runs/builtin")
>>> compression(record)                                # a figure: a cell of a notebook that ends so shows it
>>> print(compression.sentence(record))                # what it shows, without drawing
>>> rates(record, ax)                                  # one panel of it, on your own axes

A *panel* is a function (record, ax) -> artists. A *figure* is the function that writes its sentence, under a decorator
that lays out its panels and makes it return a `Drawing`. Colours are safe for colour-blind readers; a marker, a hatch
or a line style says the same again. Figures are 1000 pixels wide, their text is 9 points or more.
"""

from __future__ import annotations

import base64
import difflib
import functools
import io
import math
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import seaborn as sns
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hmq_lab.files import replacing
from hmq_lab.quantizer import Scheme, quantize
from hmq_lab.records import Record

COLOURS = BLUE, ORANGE, GREEN, RED = sns.color_palette("colorblind").as_hex()[:4]
MARKERS, HATCHES = "osD^", ("", "///", "...", "\\\\\\", "xx", "---", "ooo", "++")
INK, PALE = "#333333", "#c8c8c8"
STYLE = sns.axes_style("whitegrid") | {
    "font.family": "DejaVu Sans", "font.size": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9.5,
    "axes.titlesize": 10, "axes.edgecolor": "#888888", "grid.color": "#dddddd", "hatch.linewidth": 0.6,
    "svg.hashsalt": "hmq_lab",
}  # fmt: skip
FORMATS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # no dates: the same bytes again
NAMES = 64  # so many names fit below a panel 1000 pixels wide


class Drawing(Figure):
    """A matplotlib figure that knows its sentence, and hands it to a notebook as the picture's alternative text.

    >>> drawing = compression(record)
    >>> drawing.savefig("compression.png"), print(drawing.sentence)
    """

    sentence = ""

    def _repr_mimebundle_(self, **_):
        self.savefig(png := io.BytesIO(), format="png")
        data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": self.sentence}
        return data, {"image/png": {"alt": self.sentence}}


def figure(title: str, mosaic: list[list], height: float, ratios=None, shared=()):
    """Make a figure of the function that writes its sentence: called, it draws; `.sentence` writes the sentence alone.

    mosaic: the panels, where they shall be. height: inches. ratios: of the rows. shared: columns with one x axis.
    """

    def decorate(sentence):
        @functools.wraps(sentence)
        def draw(source, **options) -> Drawing:
            with mpl.rc_context(STYLE):
                drawing = Drawing(figsize=(10, height), dpi=100, layout="constrained")
                drawing.sentence = sentence(source, **options)
                model = source.header.get("model") if isinstance(source, Record) else None
                heading = f"{model}: {title}" if model else title.capitalize()
                drawing.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold")
                axes = drawing.subplot_mosaic(mosaic, height_ratios=ratios)
                above = [(axes[panel], axes[column[-1]]) for column in shared for panel in column[:-1]]
                for ax, lowest in above:
                    ax.sharex(lowest)
                for panel, ax in axes.items():
                    ax.set_label(getattr(panel, "func", panel).__name__)  # matplotlib puts repr(panel) there
                    panel(source, ax, **options)
                for ax, _ in above:
                    ax.tick_params(labelbottom=False)
                    ax.set_xlabel("")
                drawing.align_ylabels()
                drawing.draw_without_rendering()  # ticks take the style of whoever looks first: we do
                drawing.set_layout_engine("none")  # everything is in its place; later drawings need not look again
            return drawing

        draw.sentence = sentence
        return draw

    return decorate


# --- the quantizer


def staircase(bits: tuple[int, int], ax: Axes, mass: float = 0.5, signed: bool = True) -> list[Artist]:
    """x -> Q(x) below the threshold 1, with `mass` on the second of two bit-widths; dotted, x itself.

    >>> identity, stairs = staircase((2, 3), ax, mass=0.5)
    """
    x, y, step = _mixed(bits, mass, signed)
    count = len(y.unique())
    ax.set_title(f"{1 - mass:.0%} on {bits[0]} bits,\n{mass:.0%} on {bits[1]} bits:\nstep {step:g}, {count} levels")
    ax.set(xlabel="x", ylabel="Q(x)")
    return ax.plot(x, x, color=INK, lw=1, ls=":") + ax.plot(x, y, color=BLUE, lw=2)


@figure("the quantizer as the mass moves", [[partial(staircase, mass=m) for m in (0, 0.25, 0.5, 0.75, 1)]], 3.6)
def quantizer_as_mass_moves(bits: tuple[int, int], signed: bool = True):
    """The paper's figure 1: what expected step and threshold make of the quantizer between two bit-widths.

    >>> quantizer_as_mass_moves((2, 3))
    """
    cases = [_mixed(bits, mass, signed) for mass in (0, 0.5, 1)]
    (a, first), (half, middle), (b, last) = ((step, len(y.unique())) for _, y, step in cases)
    return (
        f"As the mass moves from {bits[0]} to {bits[1]} bits below the threshold 1, the step goes from {a:g} to {b:g} "
        f"and {first} levels become {last}; half-way, with a step of {half:g}, there are {middle}, and the outermost "
        f"stand less than a step from their neighbours."
    )


def _mixed(bits, mass, signed):
    """x, Q(x) and the expected step."""
    few, many = (Scheme(b, 0, signed).step for b in bits)
    step = (1 - mass) * few + mass * many
    x = torch.linspace(-1.25 if signed else -0.25, 1.25, 4001, dtype=torch.float64)
    return x, quantize(x, step, 1.0, signed), step


# --- compression and training, over the steps


def rates(record: Record, ax: Axes) -> list[Artist]:
    """The rate of the weights: expected at each step, of the selection after each epoch, and the target."""
    steps, targets = _series(record, "step", "target_rate")
    if steps:  # what the search aimed at last holds on
        steps, targets = [*steps, record.events[-1]["step"]], [*targets, targets[-1]]
    artists = ax.plot(steps, targets, color=INK, ls="--", drawstyle="steps-post", label="target") if steps else []
    artists += _curve(record, ax, "step", "expected_rate", color=BLUE, label="expected")
    style = {"ls": "none", "ms": 8, "markeredgecolor": "white"}
    artists += _curve(record, ax, "epoch", "actual_rate", color=ORANGE, marker="o", label="actual, each epoch", **style)
    for e in record.of("repair"):
        if e["moves"]:
            x, before, after = e["step"], e["rate_before"], e["rate_after"]
            artists += ax.plot([x, x], [before, after], color=RED, lw=1.5)
            artists += ax.plot(x, before, color=RED, marker="v", label=f"before the repair: {before:.2f}", **style)
            artists += ax.plot(x, after, color=RED, marker="^", label=f"after it: {after:.2f}", **style)
    return _over_steps(record, ax, artists, "rate of the weights\n32 bits / mean bits")


def temperature(record: Record, ax: Axes) -> list[Artist]:
    """The temperature of the Gumbel-Softmax at each step of the search."""
    artists = _curve(record, ax, "step", "temperature", color=GREEN)
    ax.set_ylim(bottom=0)
    return _over_steps(record, ax, artists, "temperature τ")


@figure("compression of the weights", [[rates], [temperature]], 6, (3, 1), [(rates, temperature)])
def compression(record: Record):
    """The paper's figure 2: expected rate, rate of the selection and target, above the temperature.

    >>> compression(record).savefig("compression.png")
    """
    steps, expected = _series(record, "step", "expected_rate")
    if not steps:
        return "The record holds no step of a search."
    text = f"At step {steps[-1]} the expected rate of the weights is {expected[-1]:.2f}"
    text += f" for a target of {record.results['target']['weights']:g}"
    epochs, selected = _series(record, "epoch", "actual_rate", stage=1)
    text += f", that of the selection {selected[-1]:.2f}" if epochs else ""
    for e in record.of("repair"):
        repaired = f"takes it from {e['rate_before']:.2f} to {e['rate_after']:.2f}, moves: {len(e['moves'])}"
        text += f"; the repair {repaired if e['moves'] else 'has nothing to do'}"
    return text + "."


def loss(record: Record, ax: Axes) -> list[Artist]:
    """The loss of each step, total and of the task alone, and the mean of the total over each epoch."""
    artists = _curve(record, ax, "step", "loss", color=ORANGE, lw=4, alpha=0.5, label="total")
    artists += _curve(record, ax, "step", "task_loss", color=BLUE, lw=1.2, label="task alone")
    style = {"color": INK, "ls": "none", "marker": "o", "label": "total, mean of an epoch"}
    artists += _curve(record, ax, "epoch", "training_loss", **style)
    return _over_steps(record, ax, artists, "loss (nats)")


def hinge(record: Record, ax: Axes) -> list[Artist]:
    """The loss term that pays for bits, before its factor: 0 while the expected rate is at its target or above."""
    artists = _curve(record, ax, "step", "hinge", color=GREEN)
    return _over_steps(record, ax, artists, "hinge: squared\nrelative shortfall")


def accuracy(record: Record, ax: Axes) -> list[Artist]:
    """Validation accuracy after each epoch, with lines for the final test and the float network."""
    artists = []
    for stage in (1, 2):
        style = {"color": COLOURS[stage - 1], "marker": MARKERS[stage - 1], "label": f"validation, stage {stage}"}
        artists += _curve(record, ax, "epoch", "validation_accuracy", stage=stage, **style)
    for key, colour, line in (("test", GREEN, "-"), ("float_test", INK, "--"), ("float_validation", INK, ":")):
        value = record.results.get("accuracy", {}).get(key)
        if value is not None:
            label = f"{key.replace('_', ', ')}: {value:.1f} %"
            artists.append(ax.axhline(value, color=colour, ls=line, label=label))
    return _over_steps(record, ax, artists, "accuracy (%)")


@figure("training", [[loss], [hinge], [accuracy]], 8, (3, 1.6, 3), [(loss, hinge, accuracy)])
def training(record: Record):
    """Loss, hinge and accuracy over both stages.

    >>> print(training(record).sentence)
    """
    steps, losses = _series(record, "step", "task_loss")
    if not steps:
        return "The record holds no step of training."
    text = f"From step {steps[0]} to {steps[-1]} the task loss goes from {losses[0]:.2f} to {losses[-1]:.2f}"
    epochs, found = _series(record, "epoch", "validation_accuracy")
    text += f", the validation accuracy from {found[0]:.1f} % to {found[-1]:.1f} %" if epochs else ""
    final = record.results.get("accuracy", {})
    if "test" in final:
        text += f"; the result has {final['test']:.1f} % on the test set, the float network {final['float_test']:.1f} %"
    return text + ("." if record.results.get("status") == "complete" else "; the run was interrupted.")


def _series(record: Record, kind: str, key: str, stage: int | None = None) -> tuple[list[int], list[float]]:
    """Steps and values of the events of one kind, and stage, that say something about `key`."""
    found = [e for e in record.of(kind) if e.get(key) is not None and stage in (None, e.get("stage"))]
    return [e["step"] for e in found], [e[key] for e in found]


def _curve(record, ax, kind, key, stage=None, **style) -> list[Artist]:
    steps, values = _series(record, kind, key, stage)
    return ax.plot(steps, values, **style) if steps else []


def _over_steps(record: Record, ax: Axes, artists: list[Artist], label: str) -> list[Artist]:
    """What the panels over the steps share: labels, the border between the stages, a legend."""
    ax.set(xlabel="training step", ylabel=label)
    ax.margins(x=0.02)
    for e in record.of("repair") if artists else ():
        artists.append(ax.axvline(e["step"], color=INK, lw=1, ls=(0, (1, 2)), label="stage 2 begins"))
    return _finished(ax, artists)


def _finished(ax: Axes, artists: list[Artist]) -> list[Artist]:
    """The legend above the panel, where no data can be; or a word that there is nothing to see."""
    if not artists:
        return [ax.text(0.5, 0.5, "not in this record", transform=ax.transAxes, ha="center", color=INK)]
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        columns = len(labels) if len("".join(labels)) < 85 else math.ceil(len(labels) / 2)
        place = {"loc": "lower left", "bbox_to_anchor": (-0.005, 1), "borderaxespad": 0, "frameon": False}
        ax.legend(handles, labels, ncols=columns, columnspacing=1.2, handlelength=2.2, **place)
    return artists


# --- one block's probabilities


def bits_over_steps(record: Record, ax: Axes, name: str | None = None, step: int | None = None) -> list[Artist]:
    """A block's marginal over bit-widths against the step, stacked; a line marks the step of `table`."""
    name, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return _finished(ax, [])
    x = steps if len(steps) > 1 else [steps[0], steps[0] + 1]
    marginal = 100 * tables.sum(2).T.repeat(len(x) // len(steps), axis=1)  # (B, K)
    colours = sns.color_palette("viridis", max(8, *space["bits"]))  # a bit-width looks the same in every block
    style = {"colors": [colours[b - 1] for b in space["bits"]], "hatch": [HATCHES[b % 8 - 1] for b in space["bits"]]}
    style |= {"labels": [f"{b} bits" for b in space["bits"]], "edgecolor": "white", "lw": 0.5}
    artists = ax.stackplot(x, marginal, **style)
    artists.append(ax.axvline(steps[at], color=RED, lw=3, ls="--", clip_on=False))
    ax.set(xlabel="training step", ylabel="probability (%)", xlim=(x[0], x[-1]), ylim=(0, 100), title=name)
    ax.legend(reverse=True, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handleheight=1.6)
    return artists


def table(record: Record, ax: Axes, name: str | None = None, step: int | None = None) -> list[Artist]:
    """A block's probabilities over (bits, threshold) at one step, written out from 1 % on; the selection is framed."""
    _, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return _finished(ax, [])
    percent = 100 * tables[at]
    style = {"cmap": "cividis", "vmin": 0, "linewidths": 0.5, "cbar_kws": {"label": "probability (%)"}}
    style |= {"annot": [[f"{p:.0f}" if p >= 1 else "" for p in row] for row in percent], "fmt": ""}
    ticks = {"xticklabels": [f"$2^{{{e}}}$" for e in space["exponents"]], "yticklabels": space["bits"]}
    sns.heatmap(percent, ax=ax, **style, **ticks)
    b, t = _selected(percent)
    frame = ax.add_patch(Rectangle((t, b), 1, 1, fill=False, edgecolor=RED, lw=3, clip_on=False))
    ax.invert_yaxis()
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="threshold", ylabel="bits", title=f"at step {steps[at]}; framed: the selection")
    return [ax.collections[0], frame]


@figure("probabilities of one block", [[bits_over_steps, table]], 5)
def probabilities(record: Record, name: str | None = None, step: int | None = None):
    """One block: its marginal over bit-widths during the search, and its table over (bits, threshold) at one step.

    >>> probabilities(record, name="layer1.0.conv1.weight", step=200)

    name: a tensor of the record; None, the weight with the most elements. step: the last table not after it; None, the
    very last. Raises ValueError for a name that the record does not have.
    """
    name, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return "The record holds no tables of probabilities."
    b, t = _selected(tables[at])
    before, now = tables[0, b].sum(), tables[at, b].sum()
    return (
        f"At step {steps[at]} the block of {name} gives {now:.0%} to {space['bits'][b]} bits, at first {before:.0%}, "
        f"and given these {tables[at, b, t] / now:.0%} to the threshold 2^{space['exponents'][t]}."
    )


def _selected(table: np.ndarray) -> tuple[int, int]:
    b = int(table.sum(1).argmax())  # the most probable bit-width first,
    return b, int(table[b].argmax())  # then the threshold given it, as the block selects


def _tables(record: Record, name: str | None, step: int | None):
    """Name, space, steps (K), tables (K, B, T) of one block, and which of the K is chosen."""
    tensors = {t["name"]: t for t in record.tensors}
    if name is None:
        name = max(_of(record, "weight") or record.tensors, key=lambda t: t["size"])["name"]
    if name not in tensors:
        near = ", ".join(difflib.get_close_matches(name, tensors, cutoff=0))
        raise ValueError(f"the record has no tensor {name!r}; near it are {near}")
    events = [e for e in record.of("tables") if name in e["tables"]]
    steps, tables = [e["step"] for e in events], np.array([e["tables"][name] for e in events])
    tables = tables / tables.sum((1, 2), keepdims=True) if steps else tables  # a record rounds to three digits
    at = len(steps) - 1 if step is None else max(0, int(np.searchsorted(steps, step, side="right")) - 1)
    return name, tensors[name]["space"], steps, tables, at


# --- the selected schemes


def bits(record: Record, ax: Axes, kind: str = "weight") -> list[Artist]:
    """The bits of each tensor of a kind as bars, with an outline where the repair took some away."""
    tensors, artists = _of(record, kind), []
    for at, style, _, hatch in _styled(tensors):
        artists += ax.bar(at, [tensors[i]["bits"] for i in at], 0.84, hatch=hatch, edgecolor="white", lw=0, **style)
    before = {i: t["bits_before_repair"] for i, t in enumerate(tensors) if t["bits_before_repair"] > t["bits"]}
    if before:
        style = {"label": "before the repair", "fill": False, "edgecolor": INK, "ls": ":", "lw": 1.2}
        artists += ax.bar(list(before), list(before.values()), 0.84, **style)
    return _over_tensors(record, ax, kind, artists, "bits")


def exponents(record: Record, ax: Axes, kind: str = "weight") -> list[Artist]:
    """The exponent M of each tensor's threshold 2^M, on the range that it was chosen from."""
    tensors = _of(record, kind)
    for i, t in enumerate(tensors):
        ends = min(t["space"]["exponents"]), max(t["space"]["exponents"])
        ax.plot([i, i], ends, color=PALE, lw=4, label="" if i else "range of the search")
    artists = _dots(ax, tensors, "threshold_exponent")
    return _over_tensors(record, ax, kind, artists, "threshold $2^M$: M")


def sizes(record: Record, ax: Axes, kind: str = "weight") -> list[Artist]:
    """The elements of each tensor, on a logarithmic scale."""
    artists = _over_tensors(record, ax, kind, _dots(ax, _of(record, kind), "size"), "elements")
    ax.set_yscale("log")
    return artists


def histogram(record: Record, ax: Axes, kind: str = "weight") -> list[Artist]:
    """The share of a kind's tensors, and of their elements, that has so many bits; and the rate that makes."""
    tensors, artists = _of(record, kind), []
    found, size = [t["bits"] for t in tensors], [t["size"] for t in tensors]
    top = max([8, *found])
    looks = (-0.2, "tensors", [1] * len(found), BLUE, ""), (0.2, "elements", size, ORANGE, "///")
    for shift, label, weights, colour, hatch in looks if found else ():
        share = 100 * np.bincount(found, weights, top + 1)[1:] / sum(weights)
        style = {"label": label, "color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0}
        artists.append(ax.bar(np.arange(1, top + 1) + shift, share, 0.4, **style))
    rate = record.results.get("rates", {}).get(f"{kind}s")
    counted = "these tensors" if kind == "weight" else "the largest"
    ax.set_xlabel(f"{kind} bits" + (f"; rate of {counted}: {rate:.2f}" if rate else ""))
    ax.set(ylabel="share (%)", xticks=range(1, top + 1))
    ax.grid(False, axis="x")
    return _finished(ax, artists)


WEIGHTS = [partial(panel, kind="weight") for panel in (bits, exponents, sizes, histogram)]
ACTIVATIONS = [partial(panel, kind="activation") for panel in (bits, exponents, histogram)]
COLUMNS = WEIGHTS[:-1], ACTIVATIONS[:-1]
ROWS = [[p, p] for column in COLUMNS for p in column] + [[WEIGHTS[-1], ACTIVATIONS[-1]]]


@figure("the selected schemes", ROWS, 10.5, (4, 4, 3, 3, 4, 4), COLUMNS)
def scheme_map(record: Record):
    """Bits and threshold of every tensor; the histogram of the bits beside the rate, as "4 bits" may mislead.

    >>> print(scheme_map(record).sentence)
    """
    parts = []
    for kind in ("weight", "activation"):
        tensors, rate = _of(record, kind), record.results.get("rates", {}).get(f"{kind}s")
        groups = {name: [tensors[i]["bits"] for i in at] for name, at in _groups(tensors).items()}
        means = ", ".join(f"{name} {np.mean(found):.1f}" for name, found in groups.items())
        parts.append(f"the {len(tensors)} {kind}s ({means})" + (f" at a rate of {rate:.2f}" if rate else ""))
    return f"Mean bits of {' and of '.join(parts)}."


def _of(record: Record, kind: str) -> list[dict]:
    return [t for t in record.tensors if t["kind"] == kind]


def _groups(tensors: list[dict]) -> dict[str, list[int]]:
    """Which of the tensors belong together: by the layer for weights, by the sign for activations."""
    groups = {}
    for i, t in enumerate(tensors):
        channels, *kernel = t["shape"][1:] or [0]
        if t["kind"] == "activation":
            name = "signed" if t["signed"] else "unsigned"
        elif not kernel:
            name = "linear"
        elif channels == 1 and i:  # not the first convolution, which has one input channel for grey pictures
            name = "depthwise"
        else:
            name = "pointwise" if math.prod(kernel) == 1 else "convolution"
        groups.setdefault(name, []).append(i)
    return groups


def _styled(tensors: list[dict]):
    """Indices, label and colour, marker, hatch of each group."""
    for (name, at), colour, marker, hatch in zip(_groups(tensors).items(), COLOURS, MARKERS, HATCHES, strict=False):
        yield at, {"label": name, "color": colour}, marker, hatch


def _dots(ax: Axes, tensors: list[dict], key: str) -> list[Artist]:
    found = [(at, [tensors[i][key] for i in at], marker, style) for at, style, marker, _ in _styled(tensors)]
    return [ax.plot(at, values, ls="none", marker=marker, **style)[0] for at, values, marker, style in found]


def _over_tensors(record: Record, ax: Axes, kind: str, artists: list[Artist], label: str) -> list[Artist]:
    """What the panels over the tensors share: names below, as many as fit; labels, a legend."""
    names = [t["name"].removesuffix(".weight") for t in _of(record, kind)]
    every = max(1, math.ceil(len(names) / NAMES))
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=90)
    ax.set(xlim=(-0.7, max(1, len(names)) - 0.3), ylabel=f"{kind}\n{label}")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.margins(y=0.12)
    ax.grid(False, axis="x")
    return _finished(ax, artists)


# --- all of them

FIGURES = {draw.__name__: draw for draw in (compression, probabilities, scheme_map, training)}


def all_figures(record: Record) -> dict[str, Drawing]:
    """Every figure of a record, by name; `quantizer_as_mass_moves` needs no record and is not among them.

    >>> all_figures(record)["compression"].savefig("compression.png")
    """
    return {name: draw(record) for name, draw in FIGURES.items()}


def all_sentences(record: Record) -> dict[str, str]:
    """The sentence of every figure, as alternative text, without drawing.

    >>> all_sentences(record)["compression"]
    """
    return {name: draw.sentence(record) for name, draw in FIGURES.items()}


def write_all(record: Record, folder: Path, formats=("png", "svg")) -> list[Path]:
    """Write every figure of a record, its sentence as the file's title: the same bytes for the same record.

    >>> write_all(record, "runs/builtin/figures")
    [PosixPath('runs/builtin/figures/compression.png'), PosixPath('runs/builtin/figures/compression.svg'), ...]

    Raises ValueError for a format that is not png, svg or pdf.
    """
    if unknown := set(formats) - FORMATS.keys():
        raise ValueError(f"formats must be among {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}")
    paths = []
    for name, drawing in all_figures(record).items():
        for kind in formats:
            paths.append(Path(folder) / f"{name}.{kind}")
            with replacing(paths[-1]) as temporary, mpl.rc_context(STYLE):
                drawing.savefig(temporary, format=kind, metadata={"Title": drawing.sentence} | FORMATS[kind])
    return paths
