"""The probabilities of one block: over the steps, and as a table at one of them."""

from __future__ import annotations

import difflib

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hmq_lab.plots.frame import HATCHES, RED, Artists, Look, figure, finished, of_kind
from hmq_lab.runs.records import Record


def bits_over_steps(
    record: Record, ax: Axes, name: str | None = None, step: int | None = None
) -> Artists:
    """Draw a block's probabilities of bit-widths over the steps, stacked.

    Args:
        record: of a search.
        ax: where to draw.
        name: a tensor of the record; None, the weight with the most elements.
        step: a line marks the last table not after it; None, the very last.

    Returns:
        The artists.
    """
    name, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return finished(ax, [])
    x = steps if len(steps) > 1 else [steps[0], steps[0] + 1]
    # Probabilities of the bits, stacked; a single table is drawn as a band.
    marginal = 100 * tables.sum(2).T.repeat(len(x) // len(steps), axis=1)  # (B, K)
    # A bit-width looks the same in every block.
    widths = space["bits"]
    colours = sns.color_palette("viridis", max(8, *widths))
    look: Look = {"colors": [colours[b - 1] for b in widths]}
    look["hatch"] = [HATCHES[b % 8 - 1] for b in widths]
    look["labels"] = [f"{b} bits" for b in widths]
    artists: Artists = list(ax.stackplot(x, marginal, edgecolor="white", lw=0.5, **look))
    # The step of the table.
    artists.append(ax.axvline(steps[at], color=RED, lw=3, ls="--", clip_on=False))
    ax.set(xlim=(x[0], x[-1]), ylim=(0, 100), title=name)
    ax.set(xlabel="training step", ylabel="probability (%)")
    place: Look = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
    ax.legend(reverse=True, handleheight=1.6, **place)
    return artists


def table(record: Record, ax: Axes, name: str | None = None, step: int | None = None) -> Artists:
    """Draw a block's probabilities over (bits, threshold) at one step; the selection is framed.

    Args:
        record: of a search.
        ax: where to draw; numbers from 1 % on are written out.
        name: a tensor of the record; None, the weight with the most elements.
        step: the last table not after it; None, the very last.

    Returns:
        The heat map and the frame.
    """
    _, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return finished(ax, [])
    percent = 100 * tables[at]
    numbers = [[f"{p:.0f}" if p >= 1 else "" for p in row] for row in percent]
    look: Look = {"cmap": "cividis", "vmin": 0, "linewidths": 0.5, "annot": numbers, "fmt": ""}
    look["cbar_kws"] = {"label": "probability (%)"}
    look["xticklabels"] = [f"$2^{{{e}}}$" for e in space["exponents"]]
    sns.heatmap(percent, ax=ax, yticklabels=space["bits"], **look)
    # A frame around the selection.
    b, t = _selected(percent)
    edge: Look = {"fill": False, "edgecolor": RED, "lw": 3, "clip_on": False}
    frame = ax.add_patch(Rectangle((t, b), 1, 1, **edge))
    ax.invert_yaxis()
    # Larger thresholds at the right.
    ax.invert_xaxis()
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="threshold", ylabel="bits", title=f"at step {steps[at]}; framed: the selection")
    return [ax.collections[0], frame]


@figure("probabilities of one block", [[bits_over_steps, table]], 5)
def probabilities(record: Record, name: str | None = None, step: int | None = None) -> str:
    """Draw one block: its bits during the search, and its table at one step.

    >>> probabilities(record, name="layer1.0.conv1.weight", step=200)

    Args:
        record: of a search.
        name: a tensor of the record; None, the weight with the most elements.
        step: the last table not after it; None, the very last.

    Returns:
        The drawing.

    Raises:
        ValueError: the record has no tensor of that name.
    """
    name, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return "The record holds no tables of probabilities."
    b, t = _selected(tables[at])
    before = tables[0, b].sum()
    now = tables[at, b].sum()
    given = tables[at, b, t] / now
    text = f"At step {steps[at]} the block of {name} gives {now:.0%} to {space['bits'][b]} bits, "
    text += f"at first {before:.0%}, and given these {given:.0%} to the threshold "
    return text + f"2^{space['exponents'][t]}."


def _selected(table: np.ndarray) -> tuple[int, int]:
    # The most probable bit-width first, then the threshold given it, as the block selects.
    b = int(table.sum(1).argmax())
    return b, int(table[b].argmax())


def _tables(record: Record, name: str | None, step: int | None):
    """Name, space, steps (K), tables (K, B, T) of one block, and which of the K is chosen."""
    tensors = {t["name"]: t for t in record.tensors}
    if name is None:
        candidates = of_kind(record, "weight") or record.tensors
        name = max(candidates, key=lambda t: t["size"])["name"]
    if name not in tensors:
        # The nearest names, for who mistyped one.
        near = ", ".join(difflib.get_close_matches(name, tensors, cutoff=0))
        raise ValueError(f"the record has no tensor {name!r}; near it are {near}")
    # The tables that have this tensor.
    events = [e for e in record.of("tables") if name in e["tables"]]
    steps = [e["step"] for e in events]
    tables = np.array([e["tables"][name] for e in events])
    # A record rounds to three digits.
    if steps:
        tables = tables / tables.sum((1, 2), keepdims=True)
    # The last table that is not after the step.
    at = len(steps) - 1
    if step is not None:
        at = max(0, int(np.searchsorted(steps, step, side="right")) - 1)
    return name, tensors[name]["space"], steps, tables, at
