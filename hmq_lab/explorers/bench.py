"""How long an explorer takes from a moved control to the new picture, beside the plainest redraw there is.

>>> bench.report(rounds=3)["quantizer"]["over_bare"]                        # doctest: +SKIP
0.7
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hmq_lab import bench, explorers, records
from hmq_lab.explorers import tensors
from hmq_lab.explorers.frame import DPI

MOVED = {  # the control that moves, and the values it takes in turn
    "quantizer": (explorers.quantizer, "bits", (2, 4)),
    "surface": (explorers.surface, "bits", (2, 4)),
    "gumbel": (explorers.gumbel, "temperature", (0.2, 2.0)),
    "block": (explorers.block, "mass", (0.3, 0.6)),
    "replay": (lambda: explorers.replay(records.recorded("cifar10-resnet20-w16-a8")), "play", (10, 30)),
}


def bare(inches) -> Callable[[], None]:
    """A function that redraws one axes with a staircase of another step, and saves it as PNG: matplotlib alone."""
    figure = Figure(figsize=inches, dpi=DPI)
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="x", ylabel="Q(x)")
    line = ax.plot([], [])[0]
    steps = itertools.cycle((0.5, 0.125))

    def redraw():
        step = next(steps)
        line.set_data(tensors.staircase(step, (-1 / step, 1 / step - 1), (-1, 1)))
        figure.savefig(io.BytesIO(), format="png")

    return redraw


def moved(explorer: explorers.Explorer, name: str, values) -> Callable[[], None]:
    """A function that moves a control as a reader does; when it returns, the widget has the new picture."""
    turns = itertools.cycle(values)

    def move():
        explorer.controls[name].value = next(turns)

    return move


def report(rounds: int = 15) -> dict[str, dict[str, float]]:
    """For each explorer the median seconds of a move, of the bare redraw at the same size, and their ratio.

    The bar is a ratio of 2. Both are timed in turn, in one run.
    """
    found = {}
    for name, (make, control, values) in MOVED.items():
        explorer = make()
        size = np.array(explorer.figure.get_size_inches())
        plain, own = bench.seconds(bare(size), moved(explorer, control, values), rounds=rounds)
        found[name] = {"bare_seconds": plain, "seconds": own, "over_bare": own / plain}
    return found


def text(found: dict[str, dict[str, float]]) -> str:
    """The report, a line for each explorer."""
    rows = [
        f"{name:10s} {row['seconds'] * 1e3:5.0f} ms, {row['over_bare']:.2f} times a bare redraw"
        for name, row in found.items()
    ]
    return "\n".join(rows)
