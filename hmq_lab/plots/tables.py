"""The probabilities of one block: over the steps, and as a table at one of them."""

from __future__ import annotations

import difflib

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hmq_lab.plots.frame import HATCHES, RED, figure, finished, of_kind
from hmq_lab.runs.records import Record


def bits_over_steps(
    record: Record, ax: Axes, name: str | None = None, step: int | None = None
) -> list[Artist]:
    """A block's marginal over bit-widths against the step, stacked; a line marks the step of
    `table`.
    """
    name, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return finished(ax, [])
    x = steps if len(steps) > 1 else [steps[0], steps[0] + 1]
    # Probabilities of the bits, stacked; a single table is drawn as a band.
    marginal = 100 * tables.sum(2).T.repeat(len(x) // len(steps), axis=1)  # (B, K)
    # A bit-width looks the same in every block.
    colours = sns.color_palette("viridis", max(8, *space["bits"]))
    # One scale for all tables.
    style = {
        "colors": [colours[b - 1] for b in space["bits"]],
        "hatch": [HATCHES[b % 8 - 1] for b in space["bits"]],
    }
    style |= {"labels": [f"{b} bits" for b in space["bits"]], "edgecolor": "white", "lw": 0.5}
    artists = ax.stackplot(x, marginal, **style)
    artists.append(ax.axvline(steps[at], color=RED, lw=3, ls="--", clip_on=False))
    ax.set(
        xlabel="training step",
        ylabel="probability (%)",
        xlim=(x[0], x[-1]),
        ylim=(0, 100),
        title=name,
    )
    ax.legend(
        reverse=True, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handleheight=1.6
    )
    return artists


def table(
    record: Record, ax: Axes, name: str | None = None, step: int | None = None
) -> list[Artist]:
    """A block's probabilities over (bits, threshold) at one step, written out from 1 % on; the
    selection is framed.
    """
    _, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return finished(ax, [])
    percent = 100 * tables[at]
    style = {
        "cmap": "cividis",
        "vmin": 0,
        "linewidths": 0.5,
        "cbar_kws": {"label": "probability (%)"},
    }
    style |= {"annot": [[f"{p:.0f}" if p >= 1 else "" for p in row] for row in percent], "fmt": ""}
    ticks = {
        "xticklabels": [f"$2^{{{e}}}$" for e in space["exponents"]],
        "yticklabels": space["bits"],
    }
    sns.heatmap(percent, ax=ax, **style, **ticks)
    # A frame around the selection.
    b, t = _selected(percent)
    frame = ax.add_patch(Rectangle((t, b), 1, 1, fill=False, edgecolor=RED, lw=3, clip_on=False))
    ax.invert_yaxis()
    # Larger thresholds at the right.
    ax.invert_xaxis()
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="threshold", ylabel="bits", title=f"at step {steps[at]}; framed: the selection")
    return [ax.collections[0], frame]


@figure("probabilities of one block", [[bits_over_steps, table]], 5)
def probabilities(record: Record, name: str | None = None, step: int | None = None):
    """One block: its marginal over bit-widths during the search, and its table over (bits,
    threshold) at one step.

    >>> probabilities(record, name="layer1.0.conv1.weight", step=200)

    name: a tensor of the record; None, the weight with the most elements. step: the last table not
    after it; None, the very last. Raises ValueError for a name that the record does not have.
    """
    name, space, steps, tables, at = _tables(record, name, step)
    if not steps:
        return "The record holds no tables of probabilities."
    b, t = _selected(tables[at])
    before = tables[0, b].sum()
    now = tables[at, b].sum()
    return (
        f"At step {steps[at]} the block of {name} gives {now:.0%} to {space['bits'][b]} bits, at "
        f"first {before:.0%}, "
        f"and given these {tables[at, b, t] / now:.0%} to the threshold 2^{space['exponents'][t]}."
    )


def _selected(table: np.ndarray) -> tuple[int, int]:
    # The most probable bit-width first,.
    b = int(table.sum(1).argmax())
    # Then the threshold given it, as the block selects.
    return b, int(table[b].argmax())


def _tables(record: Record, name: str | None, step: int | None):
    """Name, space, steps (K), tables (K, B, T) of one block, and which of the K is chosen."""
    tensors = {t["name"]: t for t in record.tensors}
    if name is None:
        name = max(of_kind(record, "weight") or record.tensors, key=lambda t: t["size"])["name"]
    if name not in tensors:
        # The nearest names, for who mistyped one.
        near = ", ".join(difflib.get_close_matches(name, tensors, cutoff=0))
        raise ValueError(f"the record has no tensor {name!r}; near it are {near}")
    # The tables that have this tensor.
    events = [e for e in record.of("tables") if name in e["tables"]]
    steps = [e["step"] for e in events]
    tables = np.array([e["tables"][name] for e in events])
    # A record rounds to three digits.
    tables = tables / tables.sum((1, 2), keepdims=True) if steps else tables
    at = (
        len(steps) - 1
        if step is None
        else max(0, int(np.searchsorted(steps, step, side="right")) - 1)
    )
    return name, tensors[name]["space"], steps, tables, at
