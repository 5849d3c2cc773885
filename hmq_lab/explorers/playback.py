"""Replay: a recorded search, step by step, so that the selection can be watched as it forms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from hmq_lab import budget
from hmq_lab.explorers import heat, tensors
from hmq_lab.explorers.controls import Choice, Control, Player
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.modules import Module, packed
from hmq_lab.plots import BLUE, GREEN, INK, ORANGE, RED
from hmq_lab.plots.frame import Look
from hmq_lab.runs.records import Record

ROWS = 24  # so many names of layers fit beside the map
# Of a sum of probabilities: of equal ones the first is the selection, whatever rounding does.
DIGITS = 9
# In words, of tensors that are quantized in hardware mode alone.
KINDS = {"hardware": "hardware mode"}


@dataclass(frozen=True)
class Run:
    """The search of a record as arrays: what its tables and its steps say."""

    steps: tuple[int, ...]  # K, at which there are tables
    tables: dict[str, np.ndarray]  # by tensor (K, B, T), which sum to one
    tensors: dict[str, dict]  # by name, as in the record
    weights: tuple[str, ...]  # the names of the weights among them, in order
    bits: tuple[int, ...]  # the columns of `marginals`
    marginals: np.ndarray  # (K, weights, bits)
    selected: np.ndarray  # (K, weights): the most probable bits
    expected_rate: np.ndarray  # (K,): of the mean bits
    actual_rate: np.ndarray  # (K,): of the most probable bits
    # Step, epoch, temperature, target_rate, task_loss of the steps of the search.
    events: dict[str, np.ndarray]
    target: float  # the compression asked for; NaN where the record's header does not say
    margin: float  # the search aims at target * (1 + margin)
    raw: dict[str, np.ndarray]  # the tables as the record has them, for `data`

    @property
    def rows(self) -> tuple[int, ...]:
        """Every bit-width that some tensor chose from."""
        found: set[int] = set()
        for name in self.tables:
            found |= set(self.tensors[name]["space"]["bits"])
        return tuple(sorted(found))

    def text(self, name: str) -> str:
        """A tensor as a list names it: a weight by its layer, any other with its kind.

        Args:
            name: of the tensor.

        Returns:
            Its text.
        """
        kind = self.tensors[name]["kind"]
        return short(name) + ("" if kind == "weight" else f" ({KINDS.get(kind, kind)})")

    def data(self) -> dict:
        """The record as a module of JavaScript takes it; a table's probabilities are thousandths,
        as in the record.
        """
        found = []
        for name in self.tables:
            # What the module needs of each tensor.
            tensor = self.tensors[name]
            space = self.tensors[name]["space"]
            told = {"name": name, "kind": tensor["kind"], "size": tensor["size"]}
            told["tables"] = packed(self.raw[name])
            told["bits"] = list(space["bits"])
            told["exponents"] = list(space["exponents"])
            found.append(told)
        events = {}
        for key, values in self.events.items():
            events[key] = [None if math.isnan(v) else v for v in values.tolist()]
        # JSON has no NaN: what is not known is null.
        target = None if math.isnan(self.target) else self.target
        run = {"steps": list(self.steps), "tensors": found, "events": events}
        return run | {"target": target, "margin": self.margin}

    @classmethod
    def of(cls, record: Record) -> Run:
        """Return what the replay needs of a record.

        Args:
            record: of a search, with tables.

        Returns:
            The run.

        Raises:
            ValueError: it is no record, or has no tables.
        """
        if not isinstance(record, Record):
            hint = f": {tensors.NETWORK}" if isinstance(record, nn.Module) else ""
            what = type(record).__name__
            raise ValueError(f"a record is needed, as `records.read` gives it, got {what}{hint}")
        # The tensors that every table has.
        found = record.of("tables")
        names = [t["name"] for t in record.tensors if all(t["name"] in e["tables"] for e in found)]
        if not found or not names:
            raise ValueError(
                "the record holds no tables of probabilities: there is nothing to replay"
            )
        described = {t["name"]: t for t in record.tensors}
        raw = {}
        for name in names:
            raw[name] = np.array([e["tables"][name] for e in found], dtype=float)
        # They are rounded.
        tables = {name: t / t.sum((1, 2), keepdims=True) for name, t in raw.items()}
        raw = {name: _thousandths(t) for name, t in raw.items()}
        # Marginals over bits for the weights, as the map shows them.
        weights = tuple(name for name in names if described[name]["kind"] == "weight")
        widths: set[int] = set()
        for name in weights:
            widths |= set(described[name]["space"]["bits"])
        bits = tuple(sorted(widths))
        marginals = np.zeros((len(found), len(weights), len(bits)))
        for i, name in enumerate(weights):
            columns = [bits.index(b) for b in described[name]["space"]["bits"]]
            marginals[:, i, columns] = tables[name].sum(2).round(DIGITS)
        selected = np.zeros((len(found), 0), int)
        if weights:
            selected = np.array(bits)[marginals.argmax(2)]
        # Compression at each step: of the mean bits, and of the selection.
        sizes = {name: described[name]["size"] for name in weights}
        mean = marginals @ np.array(bits)
        expected_rate = np.array([_compression(row, sizes) for row in mean])
        actual_rate = np.array([_compression(row, sizes) for row in selected])
        # The steps of stage 1, as arrays; what a step does not say is NaN.
        searching = [e for e in record.of("step") if e["stage"] == 1]
        keys = ("step", "epoch", "temperature", "target_rate", "task_loss")
        events = {}
        for key in keys:
            events[key] = np.array([e.get(key, math.nan) for e in searching], dtype=float)
        steps = tuple(e["step"] for e in found)
        target = record.header.get("target", {}).get("weights", math.nan)
        margin = record.header.get("settings", {}).get("margin", 0.0)

        return cls(
            steps,
            tables,
            described,
            weights,
            bits,
            marginals,
            selected,
            expected_rate,
            actual_rate,
            events,
            target,
            margin,
            raw,
        )


def _thousandths(tables: np.ndarray) -> np.ndarray:
    """Tables as whole thousandths, if that is what a record holds; others as they are."""
    whole = np.round(1000 * tables)
    return whole.astype(np.uint16) if np.allclose(whole, 1000 * tables, atol=1e-6) else tables


def short(name: str) -> str:
    """
    >>> short("layer1.0.conv1.weight")
    'layer1.0.conv1'

    Args:
        name: of a weight.

    Returns:
        The name of its layer.
    """
    return name.removesuffix(".weight")


def _compression(bits, sizes: dict[str, int]) -> float:
    if not sizes:
        return math.nan
    return budget.compression(dict(zip(sizes, bits, strict=True)), sizes)


@dataclass(frozen=True)
class State:
    """`play`, the number of the step, is the control that runs by itself."""

    steps: tuple[int, ...]
    layer: str
    step: int

    @property
    def play(self) -> int:
        """Number of the step, for the player."""
        return self.steps.index(self.step)

    def change(self, play: int | None = None, **values) -> State:
        """Return the state with other values.

        Args:
            play: number of the step.
            values: other fields.

        Returns:
            The new state.
        """
        state = replace(self, **values)
        return state if play is None else replace(state, step=self.steps[play])


@dataclass(frozen=True)
class Result:
    run: Run
    step: int
    layer: str
    marginals: np.ndarray  # (weights, bits) at this step
    selected: np.ndarray  # (weights,)
    table: np.ndarray  # (B, T), of the layer
    choice: tuple[int, int]  # the layer's selection: bits, exponent
    expected_rate: float
    actual_rate: float
    sentence: str


def replay(record: Record, **initial) -> Explorer:
    """Play a recorded search: every layer's probabilities, compression, temperature and loss; any
    layer's table.

    >>> explorers.replay(records.recorded("cifar10-resnet20-w16-a8"))
    >>> explorers.replay(record, layer="layer3.0.conv1.weight", step=324)

    Args:
        record: of any search, as `records.read` gives it.
        initial: step, one at which the record holds tables, or play, its number; layer, the name of
            a weight or activation, by default the weight with the most elements.

    Raises:
        ValueError: for a record without tables, and other values.
    """
    run = Run.of(record)
    names = tuple(run.tables)
    texts = tuple(run.text(name) for name in names)
    controls: dict[str, Control] = {}
    controls["step"] = Choice("step", run.steps, tuple(map(str, run.steps)))
    controls["layer"] = Choice("layer", names, texts, rows=4)
    controls["play"] = Player("play", 0, len(run.steps) - 1)
    # It opens with the largest weight.
    first = max(run.weights or names, key=lambda name: run.tensors[name]["size"])
    state = State(run.steps, first, run.steps[0])
    module = Module("replay", "recorded search", {"run": run.data()}, ("layer", "step"))

    def computed(state: State) -> Result:
        return compute(state, run)

    return Explorer(state, computed, draw, move, controls, initial, 4.6, module)


def compute(state: State, run: Run) -> Result:
    """What the record says at a step.

    Args:
        state: what the controls are set to.
        run: the recorded search.

    Returns:
        What is shown.
    """
    at = run.steps.index(state.step)
    table = run.tables[state.layer][at]
    space = run.tensors[state.layer]["space"]
    # The tensor's marginal and selection at this step.
    marginal = table.sum(1)
    choice = chosen(table, space)
    row = space["bits"].index(choice[0])
    text = f"Step {state.step} of {run.steps[-1]}"
    if (now := moment(run, state.step)) is not None:
        text += f" (epoch {now['epoch'] + 1:.0f}, temperature {now['temperature']:.2f})"
    # What all weights together have at this step.
    expected = float(run.expected_rate[at])
    actual = float(run.actual_rate[at])
    if run.weights:
        text += f": the expected compression of the weights is {expected:.2f}, that of the "
        text += f"selection {actual:.2f}"
        text += f", {_aim(now['target_rate'], run)}" if now is not None else ""
    text += f". {state.layer} has {tensors.percent(marginal[row])} on "
    text += f"{tensors.many(choice[0], 'bit')}, and given "
    given = table[row].max() / marginal[row]
    text += f"these {tensors.percent(given)} on the threshold 2^{choice[1]}."
    marginals = run.marginals[at]
    selected = run.selected[at]
    return Result(
        run, state.step, state.layer, marginals, selected, table, choice, expected, actual, text
    )


def chosen(table: np.ndarray, space: dict) -> tuple[int, int]:
    """The selection of a table (B, T): the most probable bits, then the most probable exponent
    given them.

    Args:
        table: probabilities (B, T).
        space: bits and exponents of the table, by these names.

    Returns:
        Bits and exponent.
    """
    row = int(table.sum(1).round(DIGITS).argmax())
    return space["bits"][row], space["exponents"][int(table[row].argmax())]


def moment(run: Run, step: int) -> dict[str, float] | None:
    """The last step that the record describes, up to this one.

    Args:
        run: the recorded search.
        step: of the search.

    Returns:
        What the record says of it; None before the first step.
    """
    at = int(np.searchsorted(run.events["step"], step, side="right")) - 1
    if at < 0:
        return None
    return {key: values[at] for key, values in run.events.items()}


def _aim(compression: float, run: Run) -> str:
    """What the loss pulls the expected compression to, and how that follows from the target.

    >>> from hmq_lab.runs import records
    >>> run = Run.of(records.recorded("cifar10-resnet20-w16-a8"))
    >>> _aim(12.0, run)
    'the aim 12.00 (on its way to the target 16...)'
    """
    if math.isnan(run.target):
        return f"the aim {compression:.2f}"
    target = f"the target {run.target:g}"
    if run.margin:
        target += f" and a margin of {100 * run.margin:g} %"
    if math.isclose(compression, run.target * (1 + run.margin), rel_tol=1e-6):
        return f"the aim {compression:.2f} ({target})" if run.margin else target
    return f"the aim {compression:.2f} (on its way to {target})"


def draw(result: Result, figure) -> dict:
    """The map of all weights; the layer's table; compression, temperature, loss with a cursor.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    run = result.run
    events = result.run.events
    artists: dict[str, Any] = {}
    # Three columns; the third one has three curves below each other.
    mosaic = [["map", "table", "rate"], ["map", "table", "temperature"], ["map", "table", "loss"]]
    heights = (1.6, 1.15, 1.15)
    axes = figure.subplot_mosaic(mosaic, width_ratios=(0.9, 1, 1.1), height_ratios=heights)
    chart = axes["map"]
    table = axes["table"]
    curves = [axes[name] for name in ("rate", "temperature", "loss")]
    chart.axis("on" if run.weights else "off")
    if run.weights:
        # The map of all weights: a row for each, named as far as names fit.
        every = math.ceil(len(run.weights) / ROWS)
        names = [name.removesuffix(".weight") for name in run.weights]
        names = [name if i % every == 0 else "" for i, name in enumerate(names)]
        artists["map"] = heat.blank(chart, names, run.bits, **heat.PERCENT)
        artists["layer"] = heat.frame(chart, len(run.bits))
        # The first layer on top.
        chart.invert_yaxis()
        chart.set_xlabel("bits")
        chart.set_title("every weight's bits;\ndots: the selection", loc="left")
        style = {"ls": "none", "mfc": "white", "mec": INK, "zorder": 6}
        size = 5 if every == 1 else 3
        (artists["selected"],) = chart.plot([], [], "o", ms=size, **style)

    # The table of the chosen tensor; its numbers, frame and axis move.
    columns = max(t.shape[2] for t in run.tables.values())
    artists["table"] = heat.blank(table, run.rows, [""] * columns, label="p (%)", **heat.PERCENT)
    artists["choice"], artists["words"] = heat.frame(table), heat.words(table)
    below = {"transform": table.get_xaxis_transform(), "ha": "center", "va": "top", "fontsize": 9}
    artists["exponents"] = [table.text(i + 0.5, -0.015, "-0", **below) for i in range(columns)]
    artists["title"] = table.set_title("name,\nframe: the selection", loc="left")
    table.set_xlabel("\nM of the threshold $2^M$")
    # Larger thresholds at the right, as on the slider.
    table.invert_xaxis()
    table.set_ylabel("bits")

    # The curves stand still: only a cursor moves over them.
    compression, temperature, loss = curves
    compression.plot(run.steps, run.expected_rate, color=BLUE, label="expected")
    dots: Look = {"color": ORANGE, "marker": "o", "ms": 3, "lw": 1}
    compression.plot(run.steps, run.actual_rate, label="of the selection", **dots)
    aim: Look = {"color": INK, "ls": "--", "drawstyle": "steps-post"}
    compression.plot(events["step"], events["target_rate"], label="aim", **aim)
    place: Look = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0}
    compression.legend(ncols=2, frameon=False, columnspacing=1, **place)
    temperature.plot(events["step"], events["temperature"], color=GREEN)
    temperature.set_ylim(bottom=0)
    loss.plot(events["step"], events["task_loss"], color=BLUE, lw=1)
    loss.set(xlabel="training step")
    # All three have one axis of steps, written below the lowest.
    for ax, label in zip(curves, ("compression", "temperature", "task loss"), strict=True):
        last = max(run.steps[-1], run.steps[0] + 1)
        ax.set(ylabel=label, xlim=(run.steps[0], last))
        ax.tick_params(labelbottom=ax is loss)
    artists["cursor"] = [ax.axvline(0, color=RED, lw=2) for ax in curves]
    figure.align_ylabels(curves)
    move(result, artists)
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    run = result.run
    if run.weights:
        artists["map"].set_array(100 * result.marginals)
        # A dot on the selected bits of each weight.
        columns = [run.bits.index(b) + 0.5 for b in result.selected]
        artists["selected"].set_data(columns, np.arange(len(columns)) + 0.5)
        artists["layer"].set_visible(result.layer in run.weights)
        if result.layer in run.weights:
            artists["layer"].set_xy((0, run.weights.index(result.layer)))
    # The tensor's table on the rows and columns that all tensors need.
    space = run.tensors[result.layer]["space"]
    shown = np.full((len(run.rows), len(artists["exponents"])), np.nan)
    for b, row in zip(space["bits"], result.table, strict=True):
        shown[run.rows.index(b), : len(row)] = 100 * row
    artists["table"].set_array(np.ma.masked_invalid(shown))
    heat.write(artists["words"], shown)
    bits, exponent = result.choice
    corner = space["exponents"].index(exponent), run.rows.index(bits)
    artists["choice"].set_xy(corner)
    for i, text in enumerate(artists["exponents"]):
        text.set_text(f"{space['exponents'][i]}" if i < len(space["exponents"]) else "")
    # A long name keeps its end.
    name = result.layer.removesuffix(".weight")
    if len(name) >= 28:
        name = f"…{name[-26:]}"
    artists["title"].set_text(f"{name};\nframe: the selection")
    for cursor in artists["cursor"]:
        cursor.set_xdata([result.step] * 2)
