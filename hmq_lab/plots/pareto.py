"""The board of a class: accuracy over rate, a staircase for each player, beside HMQ's selection and
uniform bits.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from hmq_lab.plots.frame import COLOURS, INK, MARKERS, PALE, STYLE, Drawing
from hmq_lab.rivals.scores import Board, Outcome

RATES = (4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
PERCENT = (0, 50, 70, 80, 90, 95, 98, 100)
NAMED = 16  # so many players have a colour and marker of their own, and their name in the legend


def rate_and_accuracy(ax: Axes) -> None:
    """Axes for rates from 4 to 32 and accuracies from 0 to 100, with more room the better these
    are.

    >>> rate_and_accuracy(ax)
    >>> ax.plot([o.rate for o in outcomes], [o.accuracy for o in outcomes])
    """
    ax.set_xscale("log")
    ax.set_yscale(
        "function",
        functions=(lambda a: -np.log10(np.maximum(102 - a, 1e-3)), lambda v: 102 - 10.0**-v),
    )
    ax.set(
        xlim=(3.8, 34),
        ylim=(0, 100),
        xlabel="rate of the weights",
        ylabel="held images right (%)",
    )
    # Ticks where readers look for them.
    ax.xaxis.set_major_locator(FixedLocator(RATES))
    ax.yaxis.set_major_locator(FixedLocator(PERCENT))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")


def references(ax: Axes, found: dict[str, Outcome], target: float) -> list[Artist]:
    """What nobody played: the same bits everywhere, HMQ's selection, the target."""
    same = [o for name, o in found.items() if name.startswith("uniform")]
    # Uniform bits as a line, HMQ as a diamond, the target as a line upwards.
    at = [o.rate for o in same], [o.accuracy for o in same]
    artists = [ax.axvline(target, color=INK, ls="--", lw=1.2, label=f"target {target:g}")]
    artists += ax.plot(*at, "s-", color="#999999", ms=4, lw=1, label="uniform bits")
    if "HMQ" in found:
        hmq = found["HMQ"]
        style = {"ls": "none", "mfc": "white", "mec": INK, "mew": 1.8, "zorder": 5}
        artists += ax.plot(hmq.rate, hmq.accuracy, "D", ms=8, label="HMQ, not fine-tuned", **style)
    return artists


def pareto(board: Board) -> Drawing:
    """Everybody's best choices on one picture.

    >>> pareto(game.board("collected")).savefig("board.png")

    A staircase says which accuracy a player reached at a rate or above; its largest marker is the
    score at the target. From the 17th player on, by the score at the target, all are drawn alike.
    """
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(10, 5), dpi=100, layout="constrained")
        ax = drawing.subplots()
        rate_and_accuracy(ax)
        references(ax, board.references, board.target)
        for i, player in reversed(list(enumerate(board.players))):
            colour = COLOURS[i % 4] if i < NAMED else PALE
            marker = MARKERS[(i + i // 4) % 4] if i < NAMED else "."
            at = [o.rate for o in player.scores], [o.accuracy for o in player.scores]
            label = None if i > NAMED else player.player if i < NAMED else "others"
            line = {
                "drawstyle": "steps-pre",
                "color": colour,
                "lw": 1.4,
                "ms": 4,
                "zorder": 3 + 1 / (1 + i),
            }
            ax.plot(*at, marker=marker, label=label, **line)
            if (best := player.best(board.target)) is not None:
                style = {"color": colour, "ms": 10, "mec": INK, "mew": 1, "zorder": 6 - i / 100}
                ax.plot(best.rate, best.accuracy, marker=marker, **style)
        handles, labels = ax.get_legend_handles_labels()
        order = [*range(3 if "HMQ" in board.references else 2), *reversed(range(len(labels)))][
            : len(labels)
        ]
        ax.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
        )
        drawing.sentence = sentence(board)
        return drawing


def sentence(board: Board) -> str:
    """Who leads at the target, and by how much."""
    at = [(player.player, player.best(board.target)) for player in board.players]
    at = [(name, best) for name, best in at if best is not None]
    # What was played, and who leads at the target.
    text = f"{len(board.players)} {'player' if len(board.players) == 1 else 'players'}, "
    if not at:
        return text + f"none of them at the target rate of {board.target:g} yet."
    name, best = at[0]
    text += (
        f"{len(at)} at the target rate of {board.target:g} or above: the best there is {name} with "
    )
    text += f"{best.accuracy:.1f} % at a rate of {best.rate:.2f}"
    if "HMQ" not in board.references:
        return text + "."
    hmq = board.references["HMQ"]
    ahead = sum(any(score.beats(hmq) for score in player.scores) for player in board.players)
    text += (
        f"; HMQ's selection, not fine-tuned either, has {hmq.accuracy:.1f} % at {hmq.rate:.2f}. "
    )
    return (
        text
        + f"{ahead} of {len(board.players)} beat it: no worse in rate and accuracy, better in one."
    )
