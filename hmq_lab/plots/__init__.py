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
    """Every figure of a record, by name; `quantizer_as_mass_moves` needs no record and is not among
    them.

    >>> all_figures(record)["compression"].savefig("compression.png")
    """
    return {name: draw(record) for name, draw in FIGURES.items()}


def all_sentences(record: Record) -> dict[str, str]:
    """The sentence of every figure, as alternative text, without drawing.

    >>> all_sentences(record)["compression"]
    """
    return {name: draw.sentence(record) for name, draw in FIGURES.items()}


def write_all(record: Record, folder: Path, formats=("png", "svg")) -> list[Path]:
    """Write every figure of a record, its sentence as the file's title: the same bytes for the same
    record.

    >>> write_all(record, "runs/builtin/figures")
    [PosixPath('runs/builtin/figures/compression.png'),
    PosixPath('runs/builtin/figures/compression.svg'), ...]

    Raises ValueError for a format that is not png, svg or pdf.
    """
    if unknown := set(formats) - FORMATS.keys():
        raise ValueError(
            f"formats must be among {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}"
        )
    # Drawn once, saved in every format.
    drawings = all_figures(record)
    return [
        save(drawing, Path(folder) / f"{name}.{kind}")
        for name, drawing in drawings.items()
        for kind in formats
    ]
