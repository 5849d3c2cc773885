"""Why this layer: what is measured of a weight's bits, beside all other weights, and how they formed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hmq_lab.explorers.controls import Choice
from hmq_lab.explorers.frame import Explorer
from hmq_lab.plots import BLUE, INK, ORANGE, PALE
from hmq_lab.rivals.explain import Explanation, Reason, of_material
from hmq_lab.rivals.material import gather
from hmq_lab.runs.records import Record

SHIPPED = "builtin-tiny_resnet8-w8-a8"
# What is measured, as `Reason` and its changes name it, and in words.
MEASURES = {
    "alone_on": "alone on",
    "gradient": "gradient",
    "alone_off": "alone off",
    "less": "a bit less",
    "more": "a bit more",
}


@dataclass(frozen=True)
class State:
    layer: str


@dataclass(frozen=True)
class Result:
    """What is shown of one weight.

    Args:
        layer: the weight.
        changes: of the loss, (weights, measures); NaN where nothing is measured.
        row: which of the weights it is.
        steps: of the tables of the search.
        probabilities: of each bit-width at each step, (steps, widths).
        widths: the bit-widths.
        sentence: the reason in words.
    """

    layer: str
    changes: np.ndarray
    row: int
    steps: np.ndarray
    probabilities: np.ndarray
    widths: tuple[int, ...]
    sentence: str


def why(
    explanation: Explanation | None = None, record: Record | None = None, **initial: Any
) -> Explorer:
    """Choose a weight; see what its bits cost and bring, and how the search came to them.

    >>> found = gather("builtin-tiny_resnet8-w8-a8", count=50)
    >>> why(of_material(found), found.record, layer="conv1.weight").state.layer
    'conv1.weight'

    Args:
        explanation: what `rivals.explain` gives; by default that of the built-in network, on 200
            images.
        record: of the search; without it the right half of the figure is empty.
        initial: layer, the name of a weight; by default the largest one.

    Raises:
        ValueError: for a layer that does not exist.
    """
    if explanation is None:
        found = gather(SHIPPED, count=200)
        explanation, record = of_material(found), found.record
    reasons = explanation.reasons
    names = tuple(reasons)
    texts = tuple(name.removesuffix(".weight") for name in names)
    largest = max(reasons, key=lambda name: reasons[name].size)
    changes = np.array([_changes(reason) for reason in reasons.values()])
    tables = _tables(record, names)

    def compute(state: State) -> Result:
        steps, probabilities, widths = tables[state.layer]
        sentence = reasons[state.layer].sentence
        row = names.index(state.layer)
        return Result(state.layer, changes, row, steps, probabilities, widths, sentence)

    controls: dict[str, Any] = {"layer": Choice("weight", names, texts, rows=min(8, len(names)))}
    return Explorer(State(largest), compute, draw, move, controls, initial, 4.2)


def _changes(reason: Reason) -> list[float]:
    """Return the changes of the loss of a weight, in the order of MEASURES."""
    less = None if reason.less is None else reason.less.loss
    more = None if reason.more is None else reason.more.loss
    found = [reason.alone_on, reason.gradient, reason.alone_off, less, more]
    return [np.nan if value is None else float(value) for value in found]


def _tables(
    record: Record | None, names: tuple[str, ...]
) -> Mapping[str, tuple[np.ndarray, np.ndarray, tuple[int, ...]]]:
    """Return for each weight the steps, the probabilities of its bit-widths, and these."""
    if record is None or not record.of("tables"):
        empty = np.zeros(0), np.zeros((0, 0)), ()
        return dict.fromkeys(names, empty)
    # Over all thresholds, at each table.
    events = record.of("tables")
    steps = np.array([event["step"] for event in events])
    spaces = {t["name"]: tuple(t["space"]["bits"]) for t in record.tensors}
    found = {}
    for name in names:
        marginals = np.array([np.sum(event["tables"][name], axis=1) for event in events])
        found[name] = steps, marginals / marginals.sum(1, keepdims=True), spaces[name]
    return found


def draw(result: Result, figure: Figure) -> dict[str, Any]:
    """Left the changes of the loss, right the probabilities of the bit-widths."""
    left, right = figure.subplots(1, 2)
    # All weights in grey, the chosen one in colour.
    places = np.arange(len(MEASURES))
    for row in result.changes:
        left.plot(row, places, "o", color=PALE, ms=5, zorder=1)
    left.axvline(0, color=INK, lw=1)
    left.set_yticks(places, list(MEASURES.values()))
    left.set(ylim=(len(MEASURES) - 0.5, -0.5), xlabel="change of the loss; grey: all other weights")
    if np.isnan(result.changes).all():
        left.text(0.5, 0.5, "not measured", transform=left.transAxes, ha="center")
    artists: dict[str, Any] = {
        "changes": left.plot([], [], "D", color=ORANGE, ms=9, mec=INK, zorder=3)[0],
        "title": left.set_title("weight", loc="left"),
    }

    # A line for each bit-width, the most probable one at the end stands out.
    count = max(len(result.widths), 8)
    lines = [right.plot([], [], lw=1.5)[0] for _ in range(count)]
    artists["lines"] = lines
    artists["names"] = [right.text(0, 0, "", fontsize=9, va="center") for _ in range(count)]
    last = result.steps[-1] if len(result.steps) else 1
    right.set(xlim=(0, 1.12 * last), ylim=(-0.02, 1.05), xlabel="step of the search")
    right.set_title("probability of each bit-width", loc="left")
    if not len(result.steps):
        right.text(0.5, 0.5, "not in this record", transform=right.transAxes, ha="center")
    move(result, artists)
    return artists


def move(result: Result, artists: dict[str, Any]) -> None:
    """Put the chosen weight on the figure."""
    artists["changes"].set_data(result.changes[result.row], np.arange(len(MEASURES)))
    artists["title"].set_text(result.layer.removesuffix(".weight"))
    best = int(result.probabilities[-1].argmax()) if len(result.steps) else -1
    for place, (line, text) in enumerate(zip(artists["lines"], artists["names"], strict=True)):
        shown = place < len(result.widths)
        column = result.probabilities[:, place] if shown else np.zeros(0)
        line.set_data(result.steps if shown else [], column)
        line.set(color=BLUE if place == best else PALE, zorder=3 if place == best else 1)
        # Only lines that end above the others have a name.
        if shown and column[-1] > 0.05:
            text.set_text(f" {result.widths[place]} bits")
            text.set_position((result.steps[-1], column[-1]))
        else:
            text.set_text("")
