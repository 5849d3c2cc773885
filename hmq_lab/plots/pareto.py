"""The board of a class: accuracy over compression, a staircase for each player, beside HMQ's
selection and uniform bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from hmq_lab.plots.frame import COLOURS, INK, MARKERS, PALE, STYLE, Artists, Drawing, Look
from hmq_lab.rivals.scores import Board, Outcome, Saved

RATES = (4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
PERCENT = (0, 50, 70, 80, 90, 95, 98, 100)
NAMED = 16  # so many players have a colour and marker of their own, and their name in the legend


def rate_and_accuracy(ax: Axes) -> None:
    """Give axes compressions from 4 to 32 and accuracies from 0 to 100, with more room at 100.

    >>> rate_and_accuracy(ax)
    >>> ax.plot([o.rate for o in outcomes], [o.accuracy for o in outcomes])

    Args:
        ax: where to draw.
    """

    # The height of an accuracy, and back.
    def height(accuracy):
        return -np.log10(np.maximum(102 - accuracy, 1e-3))

    def accuracy_at(height):
        return 102 - 10.0**-height

    ax.set_xscale("log")
    ax.set_yscale("function", functions=(height, accuracy_at))
    ax.set(xlim=(3.8, 34), ylim=(0, 100))
    ax.set(xlabel="compression of the weights", ylabel="held images right (%)")
    # Ticks where readers look for them.
    ax.xaxis.set_major_locator(FixedLocator(RATES))
    ax.yaxis.set_major_locator(FixedLocator(PERCENT))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")


def references(ax: Axes, found: dict[str, Outcome], target: float) -> Artists:
    """Draw what nobody played: the same bits everywhere, HMQ's selection, the target.

    Args:
        ax: where to draw.
        found: outcomes by name, "HMQ" and those that begin with "uniform".
        target: of the weights' compression.

    Returns:
        The artists.
    """
    same = [o for name, o in found.items() if name.startswith("uniform")]
    # Uniform bits as a line, HMQ as a diamond, the target as a line upwards.
    aim = ax.axvline(target, color=INK, ls="--", lw=1.2, label=f"target {target:g}")
    artists: Artists = [aim]
    artists += ax.plot(*_line(same), "s-", color="#999999", ms=4, lw=1, label="uniform bits")
    if "HMQ" in found:
        hmq = found["HMQ"]
        look: Look = {"ls": "none", "mfc": "white", "mec": INK, "mew": 1.8, "ms": 8, "zorder": 5}
        artists += ax.plot(hmq.rate, hmq.accuracy, "D", label="HMQ, not fine-tuned", **look)
    return artists


def _line(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    """Compressions and accuracies."""
    return [o.rate for o in outcomes], [o.accuracy for o in outcomes]


def pareto(board: Board) -> Drawing:
    """Return everybody's best choices in one drawing.

    >>> pareto(game.board("collected")).savefig("board.png")

    A staircase says which accuracy a player reached at a compression or above; its largest marker
    is the score at the target. From the 17th player on, by the score at the target, all are drawn
    alike.

    Args:
        board: of a class.

    Returns:
        The drawing.
    """
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(10, 5), dpi=100, layout="constrained")
        ax = drawing.subplots()
        rate_and_accuracy(ax)
        references(ax, board.references, board.target)
        # The best player is drawn last, above all others.
        ranked = list(enumerate(board.players))
        for rank, player in reversed(ranked):
            _staircase(ax, player, rank, board.target)
        # The legend: what nobody played, then the players from the best on.
        handles, labels = ax.get_legend_handles_labels()
        count = len(labels)
        first = range(3 if "HMQ" in board.references else 2)
        order = [*first, *reversed(range(count))][:count]
        handles = [handles[i] for i in order]
        labels = [labels[i] for i in order]
        ax.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        drawing.sentence = sentence(board)
        return drawing


def _staircase(ax: Axes, player: Saved, rank: int, target: float) -> None:
    """Draw the scores of one player, the best at the target larger."""
    # Those behind the named ones look alike, and have one label together.
    colour = PALE
    marker = "."
    label = "others" if rank == NAMED else None
    if rank < NAMED:
        colour = COLOURS[rank % 4]
        marker = MARKERS[(rank + rank // 4) % 4]
        label = player.player
    line: Look = {"drawstyle": "steps-pre", "lw": 1.4, "ms": 4, "zorder": 3 + 1 / (1 + rank)}
    ax.plot(*_line(player.scores), color=colour, marker=marker, label=label, **line)
    best = player.best(target)
    if best is not None:
        point: Look = {"ms": 10, "mec": INK, "mew": 1, "zorder": 6 - rank / 100}
        ax.plot(best.rate, best.accuracy, color=colour, marker=marker, **point)


def sentence(board: Board) -> str:
    """Return who leads at the target, and by how much.

    Args:
        board: of a class.

    Returns:
        The sentence.
    """
    reached = []
    for player in board.players:
        best = player.best(board.target)
        if best is not None:
            reached.append((player.player, best))
    # What was played, and who leads at the target.
    count = len(board.players)
    target = f"the target compression of {board.target:g}"
    text = f"{count} {'player' if count == 1 else 'players'}, "
    if not reached:
        return text + f"none of them at {target} yet."
    name, best = reached[0]
    text += f"{len(reached)} at {target} or above: the best there is {name} with "
    text += f"{best.accuracy:.1f} % at a compression of {best.rate:.2f}"
    if "HMQ" not in board.references:
        return text + "."
    # How it compares with HMQ.
    hmq = board.references["HMQ"]
    ahead = sum(any(score.beats(hmq) for score in player.scores) for player in board.players)
    text += "; HMQ's selection, not fine-tuned either, has "
    text += f"{hmq.accuracy:.1f} % at {hmq.rate:.2f}. {ahead} of {count} beat it: "
    return text + "no worse in compression and accuracy, better in one."
