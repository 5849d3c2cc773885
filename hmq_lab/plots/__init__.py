"""Figures: what a record holds, drawn panel by panel and said in one sentence; nothing here needs a
live search.

>>> record = records.read("runs/builtin")
>>> compression(record)  # a figure: a cell of a notebook that ends so shows it
>>> print(compression.sentence(record))                # what it shows, without drawing
>>> rates(record, ax)                                  # one panel of it, on your own axes

A *panel* is a function (record, ax) -> artists. A *figure* is the function that writes its
sentence, under a decorator that lays out its panels and makes it return a `Drawing`. Colours are
safe for colour-blind readers; a marker, a hatch or a line style says the same again. Figures are
1000 pixels wide, their text is 9 points or more.
"""

from __future__ import annotations

from pathlib import Path

from hmq_lab.plots.frame import (
    BLUE,
    COLOURS,
    FORMATS,
    GREEN,
    HATCHES,
    INK,
    MARKERS,
    ORANGE,
    PALE,
    RED,
    STYLE,
    Drawing,
    canvas,
    figure,
    save,
    show,
)
from hmq_lab.plots.pareto import pareto
from hmq_lab.plots.schemes import bits, exponents, histogram, scheme_map, sizes
from hmq_lab.plots.selections import bits_by_record
from hmq_lab.plots.staircases import quantizer_as_mass_moves, staircase
from hmq_lab.plots.steps import accuracy, compression, hinge, loss, rates, temperature, training
from hmq_lab.plots.tables import bits_over_steps, probabilities, table
from hmq_lab.runs.records import Record

__all__ = [
    "BLUE",
    "COLOURS",
    "FIGURES",
    "GREEN",
    "HATCHES",
    "INK",
    "MARKERS",
    "ORANGE",
    "PALE",
    "RED",
    "STYLE",
    "Drawing",
    "accuracy",
    "all_figures",
    "all_sentences",
    "bits",
    "bits_by_record",
    "bits_over_steps",
    "canvas",
    "compression",
    "exponents",
    "figure",
    "hinge",
    "histogram",
    "loss",
    "pareto",
    "probabilities",
    "quantizer_as_mass_moves",
    "rates",
    "scheme_map",
    "show",
    "sizes",
    "staircase",
    "table",
    "temperature",
    "training",
    "write_all",
]

FIGURES = {draw.__name__: draw for draw in (compression, probabilities, scheme_map, training)}


def all_figures(record: Record) -> dict[str, Drawing]:
    """Return every figure of a record, by name.

    `quantizer_as_mass_moves` needs no record and is not among them.

    >>> all_figures(record)["compression"].savefig("compression.png")

    Args:
        record: of a search.

    Returns:
        The drawings.
    """
    return {name: draw(record) for name, draw in FIGURES.items()}


def all_sentences(record: Record) -> dict[str, str]:
    """Return the sentence of every figure, as alternative text, without drawing.

    >>> all_sentences(record)["compression"]

    Args:
        record: of a search.

    Returns:
        The sentences by the names of the figures.
    """
    return {name: draw.sentence(record) for name, draw in FIGURES.items()}


def write_all(record: Record, folder: Path, formats=("png", "svg")) -> list[Path]:
    """Write every figure of a record, its sentence as the file's title, and return the paths.

    The same record makes the same bytes.

    >>> from hmq_lab.runs import records
    >>> paths = write_all(records.recorded("builtin-tiny_resnet8-w8-a8"), "figures")
    >>> [path.name for path in paths][:2]
    ['compression.png', 'compression.svg']

    Args:
        record: of a search.
        folder: where to write.
        formats: some of png, svg and pdf.

    Returns:
        The paths: every figure in every format.

    Raises:
        ValueError: a format is not png, svg or pdf.
    """
    unknown = set(formats) - FORMATS.keys()
    if unknown:
        allowed = ", ".join(FORMATS)
        raise ValueError(f"formats must be among {allowed}, got {', '.join(sorted(unknown))}")
    # Drawn once, saved in every format.
    paths = []
    for name, drawing in all_figures(record).items():
        paths += [save(drawing, Path(folder) / f"{name}.{kind}") for kind in formats]
    return paths
