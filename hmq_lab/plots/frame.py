"""What every figure shares: palette, style, a drawing that knows its sentence, and how panels
become a figure.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmq_lab.data.files import replacing
from hmq_lab.runs.records import Record

COLOURS = BLUE, ORANGE, GREEN, RED = sns.color_palette("colorblind").as_hex()[:4]
MARKERS = "osD^"
HATCHES = ("", "///", "...", "\\\\\\", "xx", "---", "ooo", "++")
# HMQ_LAB_THEME=dark: figures for a dark page.
IS_DARK = os.environ.get("HMQ_LAB_THEME") == "dark"
INK = "#e6e6e6" if IS_DARK else "#333333"
PALE = "#5b6168" if IS_DARK else "#c8c8c8"
STYLE = sns.axes_style("whitegrid") | {
    "font.family": "DejaVu Sans", "font.size": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "axes.titlesize": 10, "axes.edgecolor": "#888888", "grid.color": "#dddddd",
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "hmq_lab",
}  # fmt: skip
if IS_DARK:
    GROUND = "#16191d"
    STYLE |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), GROUND)
    TEXTS = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    STYLE |= dict.fromkeys(TEXTS, INK) | {"grid.color": "#343a40"}
# No dates: the same bytes again.
FORMATS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


class Drawing(Figure):
    """A matplotlib figure that knows its sentence, and hands it to a notebook as the picture's
    alternative text.

    >>> drawing = compression(record)
    >>> drawing.savefig("compression.png"), print(drawing.sentence)
    """

    sentence = ""

    def _repr_mimebundle_(self, **_):
        self.savefig(png := io.BytesIO(), format="png")
        data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": self.sentence}
        return data, {"image/png": {"alt": self.sentence}}


def figure(title: str, mosaic: list[list], height: float, ratios=None, shared=()):
    """Make a figure of the function that writes its sentence: called, it draws; `.sentence` writes
    the sentence alone.

    mosaic: the panels, where they shall be. height: inches. ratios: of the rows. shared: columns
    with one x axis.
    """

    def decorate(sentence):
        @functools.wraps(sentence)
        def draw(source, **options) -> Drawing:
            with mpl.rc_context(STYLE):
                drawing = Drawing(figsize=(10, height), dpi=100, layout="constrained")
                drawing.sentence = sentence(source, **options)
                model = source.header.get("model") if isinstance(source, Record) else None
                heading = f"{model}: {title}" if model else title[0].upper() + title[1:]
                # The network's name, where a record has one.
                drawing.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold")
                axes = drawing.subplot_mosaic(mosaic, height_ratios=ratios)
                above = [
                    (axes[panel], axes[column[-1]]) for column in shared for panel in column[:-1]
                ]
                for ax, lowest in above:
                    ax.sharex(lowest)
                # Each panel draws on its own axes.
                for panel, ax in axes.items():
                    # Matplotlib puts repr(panel) there.
                    ax.set_label(getattr(panel, "func", panel).__name__)
                    panel(source, ax, **options)
                for ax, _ in above:
                    ax.tick_params(labelbottom=False)
                    ax.set_xlabel("")
                drawing.align_ylabels()
                # Ticks take the style of whoever looks first: we do.
                drawing.draw_without_rendering()
                # Everything is in its place; later drawings need not look again.
                drawing.set_layout_engine("none")
            return drawing

        draw.sentence = sentence
        return draw

    return decorate


def canvas(rows: int = 1, columns: int = 1, height: float = 3.6, **options) -> tuple[Drawing, Any]:
    """An empty drawing in the style of all figures, and its axes: for a figure that only one lesson has.

    >>> drawing, (left, right) = canvas(1, 2)
    >>> left.plot([0, 1], [0, 1])
    >>> show(drawing, "Both axes go from 0 to 1.")

    height: inches; the width is always 10. options: those of `Figure.subplots`.
    """
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(10, height), dpi=100, layout="constrained")
        return drawing, drawing.subplots(rows, columns, **options)


def show(drawing: Drawing, sentence: str | None = None) -> None:
    """Show a drawing in a notebook, and below it the sentence that says what it shows.

    >>> show(compression(record))
    >>> show(drawing, "A sentence, with the numbers that the code found.")

    sentence: becomes the drawing's own, and the picture's alternative text. Raises ValueError where
    there is none.
    """
    drawing.sentence = sentence or drawing.sentence
    if not drawing.sentence:
        raise ValueError("a figure is shown with a sentence that says what it shows, got none")
    # Here, so that figures can be written without IPython.
    from IPython.display import Markdown, display

    with mpl.rc_context(STYLE):
        display(drawing)
    display(Markdown(f"*{drawing.sentence}*"))


def save(drawing: Drawing, path: Path) -> Path:
    """Write a drawing, its sentence as the file's title; the suffix, one of FORMATS, says how."""
    kind = path.suffix[1:]
    with replacing(path) as temporary, mpl.rc_context(STYLE):
        drawing.savefig(
            temporary, format=kind, metadata={"Title": drawing.sentence} | FORMATS[kind]
        )
    return path


LETTERS = 118  # of a legend that fit above a panel as wide as the figure
LINE = 16.0  # points that a line of a legend takes


def finished(ax: Axes, artists: list[Artist], title: str = "", legend: bool = True) -> list[Artist]:
    """The title and the legend above the panel, where no data can be; or a word that there is
    nothing to see.
    """
    lines = 0
    # What the panel has to explain.
    handles, labels = ax.get_legend_handles_labels()
    if legend and len(labels) > 1:
        # As many columns as the panel is wide enough for.
        letters = sum(len(label) + 6 for label in labels)
        lines = math.ceil(letters / (LETTERS * ax.get_position().width / 0.775))
        columns = math.ceil(len(labels) / lines)
        place = {
            "loc": "lower left",
            "bbox_to_anchor": (-0.005, 1),
            "borderaxespad": 0,
            "frameon": False,
        }
        ax.legend(handles, labels, ncols=columns, columnspacing=1.2, handlelength=2.2, **place)
    if title:
        ax.set_title(title, loc="left", pad=6 + LINE * lines)
    if not artists:
        return [
            ax.text(0.5, 0.5, "not in this record", transform=ax.transAxes, ha="center", color=INK)
        ]
    return artists


def of_kind(record: Record, kind: str) -> list[dict]:
    """The tensors of a record that are weights, or activations."""
    return [t for t in record.tensors if t["kind"] == kind]
