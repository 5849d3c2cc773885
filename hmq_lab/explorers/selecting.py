"""Selection: the bits of a whole network as a map, any layer's table, at any step; two searches
beside each other.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from hmq_lab import budget
from hmq_lab.explorers import heat, tensors
from hmq_lab.explorers.controls import Choice, Control, Player
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.modules import Module
from hmq_lab.explorers.playback import Run, State, chosen, moment, short
from hmq_lab.plots import BLUE, INK, ORANGE, RED
from hmq_lab.plots.frame import Look
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

FIXED = "repaired"  # the last moment: the schemes that stage 2 trains with, after the repair


@dataclass(frozen=True)
class Search:
    """A record as arrays, and the schemes it ends with."""

    run: Run
    label: str
    # Bits and exponent after the repair, by tensor; empty for an unfinished search.
    final: dict[str, tuple[int, int]]

    def data(self) -> dict:
        """The search as a module of JavaScript takes it."""
        final = {name: list(pair) for name, pair in self.final.items()}
        return {"run": self.run.data(), "label": self.label, "final": final}

    @classmethod
    def of(cls, record: Record) -> Search:
        """Return what the map needs of a record.

        Args:
            record: of a search, with tables.

        Returns:
            The search.
        """
        run = Run.of(record)
        if not run.weights:
            raise ValueError("the record holds no tables of weights: there is no network to draw")
        final = {}
        if record.of("repair"):
            for t in record.tensors:
                final[t["name"]] = (t["bits"], t["threshold_exponent"])
        return cls(run, records.label(record), final)


@dataclass(frozen=True)
class Side:
    """One search at one moment."""

    search: Search
    step: int
    bits: np.ndarray  # (weights,) of the map
    table: np.ndarray  # (B, T) of the layer
    choice: tuple[int, int]  # of the layer: bits, exponent
    expected_rate: float
    rate: float  # of the bits of all weights


@dataclass(frozen=True)
class Result:
    layer: str
    weights: tuple[str, ...]  # of the map, in order
    sides: tuple[Side, ...]  # one, or two
    differ: np.ndarray  # (weights,): where the two sides have different bits
    sentence: str


def selection(record: Record, other: Record | None = None, **initial) -> Explorer:
    """A recorded search as a map of its network, coloured and numbered by bits; with `other`, two
    searches compared.

    >>> explorers.selection(records.recorded("cifar10-resnet20-w16-a8"))
    >>> explorers.selection(low, high, layer="layer3.0.conv1.weight", step="repaired")

    Args:
        record: of any search.
        other: a record of the same network; it is shown at the same share of its own search, and a
            triangle marks where its bits differ.
        initial: step, one at which the first record holds tables, or "repaired" for the schemes of
            stage 2; or play, its number; layer, the name of a weight or activation, by default the
            weight with the most elements.

    Raises:
        ValueError: for a record without tables, two that share no weight, and other values.
    """
    searches = tuple(Search.of(r) for r in (record, other) if r is not None)
    # The tensors that both searches have.
    runs = [search.run for search in searches]
    shared = set.intersection(*(set(run.tables) for run in runs))
    names = tuple(name for name in runs[0].tables if name in shared)
    weights = tuple(name for name in runs[0].weights if name in names)
    if not weights:
        first, second = (run.weights[0] for run in runs)
        text = f"these share no weight: {first}, ... and {second}, ..."
        raise ValueError(f"two records of one network are needed, {text}")
    # After the last step comes the selection that the repair left.
    steps: tuple = runs[0].steps
    if all(search.final for search in searches):
        steps = (*steps, FIXED)
    texts = [runs[0].text(name) for name in names]
    controls: dict[str, Control] = {}
    controls["step"] = Choice("step", steps, tuple(map(str, steps)))
    controls["layer"] = Choice("layer", names, tuple(texts), rows=4)
    controls["play"] = Player("play", 0, len(steps) - 1)
    largest = max(weights, key=lambda name: runs[0].tensors[name]["size"])
    state = State(steps, largest, steps[0])
    data: dict[str, Any] = {"searches": [search.data() for search in searches]}
    data |= {"weights": list(weights), "steps": list(steps)}
    data["stages"] = [list(stage) for stage in stages(weights)]
    module = Module("selection", "selection of a search", data, ("layer", "step"))

    def computed(state: State) -> Result:
        return compute(state, searches, weights)

    return Explorer(state, computed, draw, move, controls, initial, 4.6, module)


def compute(state: State, searches: tuple[Search, ...], weights: tuple[str, ...]) -> Result:
    """What the records say at a moment.

    Args:
        state: what the controls are set to.
        searches: one or two.
        weights: names of the weights that they share.

    Returns:
        What is shown.
    """
    sides = tuple(_side(state, search, searches[0].run, weights) for search in searches)
    differ = sides[0].bits != sides[-1].bits
    result = Result(state.layer, weights, sides, differ, "")
    text = _sentence(result, state.step == FIXED)
    return Result(state.layer, weights, sides, differ, text)


def _side(state: State, search: Search, first: Run, weights: tuple[str, ...]) -> Side:
    run = search.run
    fixed = state.step == FIXED
    # The same share of its own search, for a second record of other length.
    share = 1.0 if fixed or not first.steps[-1] else state.step / first.steps[-1]
    away = np.abs(np.array(run.steps) - share * run.steps[-1])
    at = int(away.argmin())
    # The tensor's table and selection; after the repair those of the record.
    table = run.tables[state.layer][at]
    if fixed:
        choice = search.final[state.layer]
    else:
        choice = chosen(table, run.tensors[state.layer]["space"])
    now = {}
    for name, selected in zip(run.weights, run.selected[at], strict=True):
        now[name] = search.final[name][0] if fixed else int(selected)
    sizes = {name: run.tensors[name]["size"] for name in run.weights}
    rate = budget.compression(now, sizes)
    # The bits of all weights, in the order of the map.
    bits = np.array([now[name] for name in weights])
    expected = float(run.expected_rate[at])
    return Side(search, run.steps[at], bits, table, choice, expected, rate)


def _sentence(result: Result, fixed: bool) -> str:
    side = result.sides[0]
    layer = result.layer
    run = side.search.run
    if fixed:
        text = "After the repair"
    else:
        text = f"Step {side.step} of {run.steps[-1]}"
        if (now := moment(run, side.step)) is not None:
            text += f" (epoch {now['epoch'] + 1:.0f}, temperature {now['temperature']:.2f})"
    text += f": {short(layer)}, {run.tensors[layer]['size']:,} elements, has "
    texts = []
    for side in result.sides:
        # Each search has its scheme and its compression.
        space = side.search.run.tensors[layer]["space"]
        bits, exponent = side.choice
        share = side.table[space["bits"].index(bits)].sum()
        scheme = f"{tensors.many(bits, 'bit')} below 2^{exponent}"
        searched = (
            f"{tensors.percent(share)} probable{' at the end of the search' if fixed else ''}"
        )
        rates = f"compression of the network {side.rate:.2f}"
        if not fixed:
            rates += f", expected {side.expected_rate:.2f}"
        of = f" for {side.search.label}" if len(result.sides) > 1 else ""
        texts.append(f"{scheme}{of} ({searched}, {rates})")
    text += " and ".join(texts) + "."
    if len(result.sides) > 1:
        # Where two are compared, how much they share.
        sizes = np.array([run.tensors[name]["size"] for name in result.weights])
        same = ~result.differ
        share = sizes[same].sum() / sizes.sum()
        text += f" The two agree in {same.sum()} of {len(same)} weights, {tensors.percent(share)} "
        text += "of their elements."
    elif fixed:
        changed = (side.bits != run.selected[-1]).sum()
        text += f" The repair changed the bits of {changed} of {len(side.bits)} weights."
    return text


def draw(result: Result, figure) -> dict:
    """A map of the network for each search; the layer's table in each; of a single search, the
    layer's bits by step.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    two = len(result.sides) > 1
    artists = {}
    below = [["table", "other"]]
    # A map for each search above, tables below.
    mosaic = [["map", "map"], *below]
    if two:
        mosaic.insert(1, ["second", "second"])
    axes = figure.subplot_mosaic(mosaic, height_ratios=(1, 1, 1.75) if two else (1, 1.5))
    maps = [axes["map"], axes["second"]] if two else [axes["map"]]
    # Both maps have one scale of colours.
    top = max(8, *(b for side in result.sides for b in side.search.run.bits))
    for number, (ax, side) in enumerate(zip(maps, result.sides, strict=True)):
        for part, found in _map(ax, result, side, top).items():
            artists[f"{part} {number}"] = found
        said = f"{side.search.label}: bits of every weight"
        note = "▼: not those above" if number else "height: its elements"
        ax.set_title(f"{said}; {note}", loc="left")
        ax.tick_params(labelbottom=ax is maps[-1])
    # The chosen tensor's table in each search.
    for number, ax in enumerate([axes["table"], axes["other"]] if two else [axes["table"]]):
        for part, found in _table(ax, result.sides[number]).items():
            artists[f"{part} {number}"] = found
    # Of a single search there is room for the tensor's bits over the steps.
    if not two:
        ax = axes["other"]
        run = result.sides[0].search.run
        (artists["history"],) = ax.plot([], [], color=BLUE, label="mean")
        style = {"color": ORANGE, "marker": "o", "ms": 3, "lw": 1}
        (artists["selected"],) = ax.plot([], [], label="selected", **style)
        artists["cursor"] = ax.axvline(0, color=RED, lw=2)
        ax.set(xlabel="training step", ylabel="bits of the layer")
        ax.set(ylim=(0.5, top + 0.5), yticks=range(1, top + 1))
        first = run.steps[0]
        ax.set_xlim(first, max(run.steps[-1], first + 1))
        place: Look = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0}
        ax.legend(ncols=2, frameon=False, **place)
    move(result, artists)
    return artists


def _map(ax: Axes, result: Result, side: Side, top: int) -> dict:
    """A bar for each weight in order, as high as it has elements; what shows its bits moves."""
    # A bar for each weight; its colour and number move.
    sizes = np.array([side.search.run.tensors[name]["size"] for name in result.weights])
    places = np.arange(len(sizes))
    floor = sizes.min() / 3
    boxes = [Rectangle((i - 0.43, floor), 0.86, size - floor) for i, size in enumerate(sizes)]
    # A bit-width looks the same in every figure.
    colours = ListedColormap(sns.color_palette("viridis", top))
    collection = PatchCollection(boxes, cmap=colours, clim=(0.5, top + 0.5), zorder=2)
    bars = ax.add_collection(collection)
    above: Look = {"ha": "center", "va": "bottom", "fontsize": 9}
    texts = [ax.text(i, 1.15 * size, "8", **above) for i, size in enumerate(sizes)]
    # A frame for the chosen weight, and marks where two searches differ.
    across = ax.get_xaxis_transform()
    edge: Look = {"fill": False, "edgecolor": RED, "lw": 2.5, "clip_on": False, "zorder": 5}
    frame = Rectangle((0, 0), 1, 1, transform=across, **edge)
    (differ,) = ax.plot([], [], "v", color=INK, ms=5, transform=across, zorder=4)
    ax.set_yscale("log")
    # Room above the bars for their numbers.
    ends = np.log10(floor), np.log10(sizes.max())
    low, high = ends
    ax.set_xlim(-0.7, len(sizes) - 0.3)
    ax.set_ylim(floor, 10 ** (high + 0.6 * (high - low)))
    ax.set_yticks(10.0 ** np.arange(math.ceil(low), math.floor(high) + 1))
    ax.minorticks_off()
    ax.grid(False, axis="x")
    # The names of the network's parts, where they fit.
    groups = stages(result.weights)
    # Of the axis: nine points in some 700 pixels.
    per_letter = 0.0105 * (len(sizes) + 0.4)
    kept = []
    for i, n, text in groups:
        if per_letter * len(text) <= 1.3 * n:
            kept.append((places[i : i + n].mean(), text))
    ax.set_xticks([place for place, _ in kept], [text for _, text in kept])
    for i, _, _ in groups[1:]:
        ax.axvline(i - 0.5, color=INK, lw=0.6, ls=":")
    return {"bars": bars, "bits": texts, "layer": ax.add_patch(frame), "differ": differ}


def _table(ax: Axes, side: Side) -> dict:
    run = side.search.run
    columns = max(t.shape[2] for t in run.tables.values())
    artists: dict[str, Any] = {}
    artists["table"] = heat.blank(ax, run.rows, [""] * columns, **heat.PERCENT)
    artists |= {"choice": heat.frame(ax), "words": heat.words(ax)}
    below: Look = {"ha": "center", "va": "top", "fontsize": 9}
    below["transform"] = ax.get_xaxis_transform()
    artists["exponents"] = [ax.text(i + 0.5, -0.03, "-0", **below) for i in range(columns)]
    artists["title"] = ax.set_title("name", loc="left")
    ax.set_xlabel("\nM of the threshold $2^M$")
    # Larger thresholds at the right, as on the slider.
    ax.invert_xaxis()
    ax.set_ylabel("bits")
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    for number, side in enumerate(result.sides):
        artists[f"bars {number}"].set_array(side.bits)
        for text, bits in zip(artists[f"bits {number}"], side.bits, strict=True):
            text.set_text(f"{bits}")
        # The frame is hidden for an activation, which has no bar.
        frame = artists[f"layer {number}"]
        frame.set_visible(result.layer in result.weights)
        if result.layer in result.weights:
            frame.set_x(result.weights.index(result.layer) - 0.5)
        places = np.flatnonzero(result.differ).tolist() if number else []
        artists[f"differ {number}"].set_data(places, [0.92] * len(places))
        parts = {part: artists[f"{part} {number}"] for part in TABLE}
        _move_table(result.layer, side, parts, len(result.sides) > 1)
    if "history" in artists:
        run = result.sides[0].search.run
        # (K, B)
        space = run.tensors[result.layer]["space"]
        found = run.tables[result.layer].sum(2)
        artists["history"].set_data(run.steps, found @ np.array(space["bits"]))
        selected = np.array(space["bits"])[found.argmax(1)]
        artists["selected"].set_data(run.steps, selected)
        artists["cursor"].set_xdata([result.sides[0].step] * 2)


TABLE = ("table", "choice", "words", "exponents", "title")


def _move_table(layer: str, side: Side, artists: dict, two: bool) -> None:
    run = side.search.run
    space = run.tensors[layer]["space"]
    shown = np.full((len(run.rows), len(artists["exponents"])), np.nan)
    for b, row in zip(space["bits"], side.table, strict=True):
        shown[run.rows.index(b), : len(row)] = 100 * row
    artists["table"].set_array(np.ma.masked_invalid(shown))
    heat.write(artists["words"], shown)
    bits, exponent = side.choice
    corner = space["exponents"].index(exponent), run.rows.index(bits)
    artists["choice"].set_xy(corner)
    for i, text in enumerate(artists["exponents"]):
        text.set_text(f"{space['exponents'][i]}" if i < len(space["exponents"]) else "")
    name = short(layer)
    name = name if len(name) < 25 else "…" + name[-23:]
    what = side.search.label if two else "probabilities (%)"
    artists["title"].set_text(f"{name}: {what}")


def stages(names: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """The parts of a network for the axis of a map: of each the first place, how many tensors, its
    name.

    >>> stages(("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "linear.weight"))
    [(0, 1, 'conv1'), (1, 2, 'layer1'), (3, 1, 'linear')]

    By the first component of the names; by the second one within a component that has more than
    half of the tensors, as torchvision's `features` do.

    Args:
        names: of the weights, in the network's order.

    Returns:
        First place, number of tensors and name of each part.
    """
    paths = [short(name).split(".") for name in names]
    heads = [path[0] for path in paths]
    counts = Counter(heads)
    large = {head for head, n in counts.items() if n > 1 and 2 * n > len(heads)}
    keys = []
    for head, *rest in paths:
        keys.append(rest[0] if head in large and rest else head)
    found = []
    at = 0
    for key, group in groupby(keys):
        count = len(list(group))
        found.append((at, count, key))
        at += count
    return found
