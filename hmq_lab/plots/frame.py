"""What every figure shares: palette, style, a drawing that knows its sentence, and how panels
become a figure.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hmq_lab.data.files import replacing
from hmq_lab.runs.records import Record

# What matplotlib drew: artists, and containers of them.
Artists = list[Any]
# Options of an artist, such as its colour.
Look = dict[str, Any]

COLOURS = BLUE, ORANGE, GREEN, RED = sns.color_palette("colorblind").as_hex()[:4]
MARKERS = "osD^"
HATCHES = ("", "///", "...", "\\\\\\", "xx", "---", "ooo", "++")
# HMQ_LAB_THEME=dark: figures for a dark page.
IS_DARK = os.environ.get("HMQ_LAB_THEME") == "dark"
INK = "#e6e6e6" if IS_DARK else "#333333"
PALE = "#5b6168" if IS_DARK else "#c8c8c8"
STYLE = sns.axes_style("whitegrid") | {"font.family": "DejaVu Sans", "svg.hashsalt": "hmq_lab"}
STYLE |= {"font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9.5}
STYLE |= {"xtick.labelsize": 9, "ytick.labelsize": 9, "hatch.linewidth": 0.6}
STYLE |= {"axes.edgecolor": "#888888", "grid.color": "#dddddd"}
if IS_DARK:
    GROUND = "#16191d"
    STYLE |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), GROUND)
    TEXTS = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    STYLE |= dict.fromkeys(TEXTS, INK) | {"grid.color": "#343a40"}
    # Legends and bars that are added to a canvas later are light, too.
    light: Any = dict.fromkeys(TEXTS, INK)
    mpl.rcParams.update(light)
# No dates: the same bytes again.
FORMATS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


class Drawing(Figure):
    """A matplotlib figure that knows its sentence: a notebook takes it as alternative text.

    >>> drawing = compression(record)
    >>> drawing.savefig("compression.png")
    >>> print(drawing.sentence)
    """

    sentence = ""

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        png = io.BytesIO()
        self.savefig(png, format="png")
        image = base64.b64encode(png.getvalue()).decode()
        data = {"image/png": image, "text/plain": self.sentence}
        return data, {"image/png": {"alt": self.sentence}}


class Plot:
    """A figure of the function that writes its sentence: called, it draws.

    Args:
        sentence: takes the source of the figure and options, returns the sentence.
        title: of the figure.
        mosaic: the panels, where they shall be.
        height: inches; the width is always 10.
        ratios: heights of the rows; None for equal ones.
        shared: columns of panels with one x axis.
    """

    __name__: str

    def __init__(self, sentence: Callable, title: str, mosaic, height: float, ratios, shared):
        functools.update_wrapper(self, sentence)
        self.sentence = sentence
        self.title = title
        self.mosaic = mosaic
        self.height = height
        self.ratios = ratios
        self.shared = shared

    def __call__(self, source, **options) -> Drawing:
        """Return the drawing of a record, or of what else the panels take."""
        with mpl.rc_context(STYLE):
            drawing = Drawing(figsize=(10, self.height), dpi=100, layout="constrained")
            drawing.sentence = self.sentence(source, **options)
            heading = self._heading(source)
            drawing.suptitle(heading, x=0.01, ha="left", fontsize=12, fontweight="bold")
            axes = drawing.subplot_mosaic(self.mosaic, height_ratios=self.ratios)
            above = []
            for *upper, lowest in self.shared:
                above += [axes[panel] for panel in upper]
                for panel in upper:
                    axes[panel].sharex(axes[lowest])
            # Each panel draws on its own axes.
            for panel, ax in axes.items():
                # Matplotlib puts repr(panel) there.
                ax.set_label(getattr(panel, "func", panel).__name__)
                panel(source, ax, **options)
            for ax in above:
                ax.tick_params(labelbottom=False)
                ax.set_xlabel("")
            drawing.align_ylabels()
            # Ticks take the style of whoever looks first: we do.
            drawing.draw_without_rendering()
            # Everything is in its place; later drawings need not look again.
            drawing.set_layout_engine("none")
        return drawing

    def _heading(self, source) -> str:
        # The network's name, where a record has one.
        if isinstance(source, Record) and source.header.get("model"):
            return f"{source.header['model']}: {self.title}"
        return self.title[0].upper() + self.title[1:]


def figure(
    title: str, mosaic: list[list], height: float, ratios=None, shared=()
) -> Callable[[Callable], Plot]:
    """Return a decorator that makes a figure of the function that writes its sentence.

    Args:
        title: of the figure.
        mosaic: the panels, where they shall be.
        height: inches.
        ratios: of the rows.
        shared: columns with one x axis.

    Returns:
        The decorator. What it makes draws when it is called; its `.sentence` writes the sentence
        alone.
    """
    return lambda sentence: Plot(sentence, title, mosaic, height, ratios, shared)


def canvas(rows: int = 1, columns: int = 1, height: float = 3.6, **options) -> tuple[Drawing, Any]:
    """Return an empty drawing in the style of all figures, and its axes.

    >>> drawing, (left, right) = canvas(1, 2)
    >>> lines = left.plot([0, 1], [0, 1])
    >>> show(drawing, "Both axes go from 0 to 1.")

    Args:
        rows: of axes.
        columns: of axes.
        height: inches; the width is always 10.
        options: those of `Figure.subplots`.

    Returns:
        The drawing, and one axes or an array of them.
    """
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(10, height), dpi=100, layout="constrained")
        return drawing, drawing.subplots(rows, columns, **options)


def show(drawing: Drawing, sentence: str | None = None) -> None:
    """Show a drawing in a notebook, and below it the sentence that says what it shows.

    >>> show(compression(record))
    >>> show(drawing, "A sentence, with the numbers that the code found.")

    Args:
        drawing: any.
        sentence: becomes the drawing's own, and the image's alternative text; None keeps its own.

    Raises:
        ValueError: there is no sentence.
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
    """Write a drawing, its sentence as the file's title, and return the path.

    Args:
        drawing: any.
        path: its suffix, one of FORMATS, says how.

    Returns:
        The path.
    """
    kind = path.suffix[1:]
    metadata = {"Title": drawing.sentence} | FORMATS[kind]
    with replacing(path) as temporary, mpl.rc_context(STYLE):
        drawing.savefig(temporary, format=kind, metadata=metadata)
    return path


LETTERS = 118  # of a legend that fit above a panel as wide as the figure
LINE = 16.0  # points that a line of a legend takes


def finished(ax: Axes, artists: Artists, title: str = "", legend: bool = True) -> Artists:
    """Put title and legend above a panel, where no data can be, and return its artists.

    A panel without artists gets a word that there is nothing to see.

    Args:
        ax: the panel.
        artists: what is drawn on it.
        title: of the panel.
        legend: whether it gets a legend where it has more than one label.

    Returns:
        The artists.
    """
    lines = 0
    # What the panel has to explain.
    handles, labels = ax.get_legend_handles_labels()
    if legend and len(labels) > 1:
        # As many columns as the panel is wide enough for.
        letters = sum(len(label) + 6 for label in labels)
        fit = LETTERS * ax.get_position().width / 0.775
        lines = math.ceil(letters / fit)
        columns = math.ceil(len(labels) / lines)
        place: Look = {"loc": "lower left", "bbox_to_anchor": (-0.005, 1), "borderaxespad": 0}
        spaces: Look = {"columnspacing": 1.2, "handlelength": 2.2, "frameon": False}
        ax.legend(handles, labels, ncols=columns, **place, **spaces)
    if title:
        ax.set_title(title, loc="left", pad=6 + LINE * lines)
    if not artists:
        style: Look = {"transform": ax.transAxes, "ha": "center", "color": INK}
        return [ax.text(0.5, 0.5, "not in this record", **style)]
    return artists


def of_kind(record: Record, kind: str) -> list[dict]:
    """Return the tensors of a record that are weights, or activations.

    Args:
        record: of a search.
        kind: "weight" or "activation".

    Returns:
        Entries of `record.tensors`.
    """
    return [t for t in record.tensors if t["kind"] == kind]
