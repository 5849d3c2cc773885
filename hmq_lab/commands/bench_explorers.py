"""How long an explorer takes from a moved control to the new picture, beside the plainest redraw there is.

>>> bench.report(rounds=3)["quantizer"]["over_bare"]                        # doctest: +SKIP
0.7
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hmq_lab import explorers
from hmq_lab.commands import bench
from hmq_lab.explorers import tensors
from hmq_lab.explorers.frame import DPI
from hmq_lab.rivals import game
from hmq_lab.runs import records

RECORDS = "cifar10-resnet20-w16-a8", "cifar10-resnet20-w8-a8"
MOVED = {  # the control that moves, and the values it takes in turn
    "quantizer": (explorers.quantizer, "bits", (2, 4)),
    "surface": (explorers.surface, "bits", (2, 4)),
    "gumbel": (explorers.gumbel, "temperature", (0.2, 2.0)),
    "block": (explorers.block, "mass", (0.3, 0.6)),
    "replay": (lambda: explorers.replay(records.recorded("cifar10-resnet20-w16-a8")), "play", (10, 30)),
    "selection": (lambda: explorers.selection(*map(records.recorded, RECORDS)), "play", (10, 30)),
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


def moves(pictures: int = 500, rounds: int = 5) -> dict[str, float]:
    """Median seconds of a move of the game, in the first and in the last layer, and of the network's forward pass.

    >>> bench.moves()["first_over_forward"]                                 # doctest: +SKIP
    1.6

    A move is a slider moved to a value that was not measured before, until the widget has the new picture. The forward
    pass is the attached network's over the same pictures, with the schemes fixed: a move computes all of it for the
    first layer, and draws. Measured in turn, in one run.
    """
    with tempfile.TemporaryDirectory() as folder:
        play = game.shipped(pictures=pictures, folder=folder)
        view = explorers.beat(play)
        whole, x = play.arena.network(play.choice), play.arena.x

        def forward():
            with torch.no_grad():
                whole(x)

        def mover(layer):
            turns = itertools.cycle((5, 6))

            def move():
                play.arena.forget()
                view.set(layer=layer, bits=next(turns))

            return move

        first, last = play.layers[0], play.layers[-1]
        plain, *own = bench.seconds(forward, mover(first), mover(last), rounds=rounds)
    found = {"pictures": pictures, "forward_seconds": plain}
    for name, seconds in zip(("first", "last"), own, strict=True):
        found |= {f"{name}_seconds": seconds, f"{name}_over_forward": seconds / plain}
    return found


def text_of_moves(found: dict[str, float]) -> str:
    """What `moves` found, in two lines."""
    rows = [
        f"a move in the game, {name} layer: {found[f'{name}_seconds'] * 1e3:5.0f} ms, "
        f"{found[f'{name}_over_forward']:.2f} times a forward pass over its {found['pictures']} pictures"
        for name in ("first", "last")
    ]
    return "\n".join(rows)


def text(found: dict[str, dict[str, float]]) -> str:
    """The report, a line for each explorer."""
    rows = [
        f"{name:10s} {row['seconds'] * 1e3:5.0f} ms, {row['over_bare']:.2f} times a bare redraw"
        for name, row in found.items()
    ]
    return "\n".join(rows)
