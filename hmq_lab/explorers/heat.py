"""Tables as heat maps whose colours, numbers and frame can be moved."""

from __future__ import annotations

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from hmq_lab.plots import RED
from hmq_lab.plots.frame import Look

PERCENT: Look = {"vmin": 0, "vmax": 100, "cmap": "cividis"}


def blank(ax: Axes, rows, columns, label: str = "", **style) -> Collection:
    """An empty table with its names, the first row at the bottom.

    >>> mesh = blank(ax, rows=(1, 2, 4, 8), columns=(0, -1, -2), **PERCENT)
    >>> mesh.set_array(100 * table)

    Args:
        ax: where to draw.
        rows: names of the rows.
        columns: exponents or names of the columns.
        label: of a colour bar below; none without it.
        style: options of seaborn's heatmap.

    Returns:
        The cells.
    """
    bar: Look = {"label": label, "location": "bottom", "shrink": 0.9, "aspect": 25}
    bar = {"cbar": bool(label), "cbar_kws": bar}
    zeros = np.zeros((len(rows), len(columns)))
    ticks = {"xticklabels": list(columns), "yticklabels": list(rows)}
    sns.heatmap(zeros, ax=ax, linewidths=0.5, linecolor="#888888", **bar, **ticks, **style)
    ax.invert_yaxis()
    ax.tick_params(axis="both", rotation=0)
    return ax.collections[0]


def frame(ax: Axes, columns: int = 1) -> Rectangle:
    """A frame around one row of so many columns, to be put at (column, row) with `set_xy`.

    Args:
        ax: where to draw.
        columns: how many cells the frame is wide.

    Returns:
        The frame.
    """
    style: Look = {"fill": False, "edgecolor": RED, "lw": 3, "clip_on": False, "zorder": 5}
    box = Rectangle((0, 0), columns, 1, **style)
    ax.add_patch(box)
    return box


def words(ax: Axes, count: int = 12) -> list[Text]:
    """Texts for `write`.

    Args:
        ax: where to draw.
        count: how many texts.

    Returns:
        Empty texts.
    """
    style: Look = {"ha": "center", "va": "center", "fontsize": 9, "zorder": 4}
    return [ax.text(0, 0, "", **style) for _ in range(count)]


def write(texts: list[Text], percent: np.ndarray) -> None:
    """Write the largest entries of a table into their cells, from 1 % on.

    Args:
        texts: from `words`.
        percent: the table (rows, columns), in %.
    """
    # The largest entries first, as many as there are texts.
    order = np.argsort(-percent, axis=None)[: len(texts)]
    for text in texts:
        text.set_text("")
    for text, at in zip(texts, order, strict=False):
        row, column = divmod(int(at), percent.shape[1])
        if (value := percent[row, column]) >= 1:
            colour = "black" if value > 45 else "white"
            text.set(text=f"{value:.0f}", position=(column + 0.5, row + 0.5), color=colour)
