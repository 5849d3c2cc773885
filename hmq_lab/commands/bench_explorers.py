"""The time from a moved control to the new image of an explorer, beside the plainest redraw.

>>> report(rounds=3)["quantizer"]["over_bare"]  # doctest: +SKIP
0.7
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hmq_lab.commands import bench

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hmq_lab import explorers
    from hmq_lab.explorers import tensors
    from hmq_lab.explorers.frame import DPI
except ImportError as error:
    raise bench.needs_lab(error, "--explorers") from error

from hmq_lab.rivals import game
from hmq_lab.runs import records

# Two searches of one network.
RECORDS = "cifar10-resnet20-w16-a8", "cifar10-resnet20-w8-a8"


def _replay() -> explorers.Explorer:
    return explorers.replay(records.recorded(RECORDS[0]))


def _selection() -> explorers.Explorer:
    return explorers.selection(*map(records.recorded, RECORDS))


# Each explorer, the control that moves, and the values it takes in turn.
MOVED: dict[str, tuple[Callable[[], Any], str, Sequence[float]]] = {
    "quantizer": (explorers.quantizer, "bits", (2, 4)),
    "surface": (explorers.surface, "bits", (2, 4)),
    "gumbel": (explorers.gumbel, "temperature", (0.2, 2.0)),
    "block": (explorers.block, "mass", (0.3, 0.6)),
    "replay": (_replay, "play", (10, 30)),
    "selection": (_selection, "play", (10, 30)),
}


def bare(inches: tuple[float, float]) -> Callable[[], None]:
    """Return a function that redraws one axes with a staircase and saves it: matplotlib alone.

    Args:
        inches: width and height of the figure.

    Returns:
        The function that redraws.
    """
    # A figure without a window.
    figure = Figure(figsize=inches, dpi=DPI)
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="x", ylabel="Q(x)")
    line = ax.plot([], [])[0]
    steps = itertools.cycle((0.5, 0.125))

    # A new staircase each time, saved as an image.
    def redraw() -> None:
        step = next(steps)
        levels = (-1 / step, 1 / step - 1)
        line.set_data(tensors.staircase(step, levels, (-1, 1)))
        figure.savefig(io.BytesIO(), format="png")

    return redraw


def moved(explorer: explorers.Explorer, name: str, values: Sequence[float]) -> Callable[[], None]:
    """Return a function that moves a control as a reader does; the widget then has its new image.

    Args:
        explorer: the explorer.
        name: of the control.
        values: it takes them in turn.

    Returns:
        The function that moves the control.
    """
    # A value that is set again would change nothing.
    turns = itertools.cycle(values)

    # The explorer draws on every new value.
    def move() -> None:
        explorer.controls[name].value = next(turns)

    return move


def report(rounds: int = 15) -> dict[str, dict[str, float]]:
    """Return the median seconds of a move of each explorer, of the bare redraw, and the ratio.

    The bare redraw has the same size. Both are timed in turn, in one run. A ratio of 2 is the bar.

    Args:
        rounds: how often each function is measured.

    Returns:
        Seconds and ratio of each explorer, by name.
    """
    # The bare redraw at the size of each explorer.
    found = {}
    for name, (make, control, values) in MOVED.items():
        explorer = make()
        width, height = explorer.figure.get_size_inches()
        move = moved(explorer, control, values)
        plain, own = bench.seconds(bare((width, height)), move, rounds=rounds)
        found[name] = {"bare_seconds": plain, "seconds": own, "over_bare": own / plain}
    return found


def moves(images: int = 500, rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of a move of the game, in the first and in the last layer.

    >>> moves()["first_over_forward"]  # doctest: +SKIP
    1.6

    A move is a slider at a value that was not measured before, until the widget has the new image.
    Beside it stands a forward pass of the attached network over the same images, with the schemes
    fixed: a move in the first layer computes all of it, and draws. All are timed in turn.

    Args:
        images: how many images.
        rounds: of the measurement.

    Returns:
        Number of images, seconds, and ratios to a forward pass, by name.
    """
    # A move forgets what was measured, or it would be free.
    with tempfile.TemporaryDirectory() as folder:
        # The shipped game, as a reader has it.
        play = game.shipped(images=images, folder=folder)
        view = explorers.beat(play)
        whole, x = play.arena.network(play.choice), play.arena.x

        # A forward pass is what a move is measured against.
        def forward() -> None:
            with torch.no_grad():
                whole(x)

        # A move forgets, and then sets other bits.
        def mover(layer: str) -> Callable[[], None]:
            turns = itertools.cycle((5, 6))

            def move() -> None:
                play.arena.forget()
                view.set(layer=layer, bits=next(turns))

            return move

        # In turn, in one run.
        first, last = mover(play.layers[0]), mover(play.layers[-1])
        plain, *own = bench.seconds(forward, first, last, rounds=rounds)
    found = {"images": images, "forward_seconds": plain}
    for name, seconds in zip(("first", "last"), own, strict=True):
        found[f"{name}_seconds"] = seconds
        found[f"{name}_over_forward"] = seconds / plain
    return found


def text_of_moves(found: dict[str, float]) -> str:
    """Return what `moves` found, in two lines.

    Args:
        found: what `moves` returned.

    Returns:
        Text in plain English.
    """
    # A line for each layer.
    rows = []
    for name in ("first", "last"):
        milliseconds, ratio = 1e3 * found[f"{name}_seconds"], found[f"{name}_over_forward"]
        rows.append(
            f"a move in the game, {name} layer: {milliseconds:5.0f} ms, {ratio:.2f} times a "
            f"forward pass over its {found['images']} images"
        )
    return "\n".join(rows)


def text(found: dict[str, dict[str, float]]) -> str:
    """Return the report, a line for each explorer.

    Args:
        found: what `report` returned.

    Returns:
        Text in plain English.
    """
    rows = []
    for name, row in found.items():
        milliseconds, ratio = 1e3 * row["seconds"], row["over_bare"]
        rows.append(f"{name:10s} {milliseconds:5.0f} ms, {ratio:.2f} times a bare redraw")
    return "\n".join(rows)
