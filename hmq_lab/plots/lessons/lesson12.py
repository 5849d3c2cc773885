"""Figures of lesson 12: references of the game, what one bit costs, a threshold that is moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hmq_lab.plots.frame import BLUE, ORANGE, RED, Drawing, canvas
from hmq_lab.plots.pareto import rate_and_accuracy
from hmq_lab.plots.pareto import references as draw_references
from hmq_lab.rivals.arena import Arena
from hmq_lab.rivals.hints import Hint
from hmq_lab.rivals.scores import Outcome


def references(arena: Arena, target: float, fine_tuned: float) -> Drawing:
    """Return uniform bits and HMQ's selection by compression and accuracy.

    Args:
        arena: where choices are judged.
        target: compression to reach.
        fine_tuned: test accuracy of HMQ's network in its record (%).

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The axes and references are those of the game.
    drawing, ax = canvas(height=3.8)
    rate_and_accuracy(ax)
    draw_references(ax, arena.references, target)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # The two points that the sentence compares.
    same = arena.references["uniform 4"]
    hmq = arena.hmq
    assert hmq is not None

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"4 bits everywhere: {same.accuracy:.1f} % at a compression of {same.rate:.2f}. HMQ's "
    )
    drawing.sentence += (
        f"selection: {hmq.accuracy:.1f} % at {hmq.rate:.2f}. Fine-tuned, in its record, it has "
    )
    drawing.sentence += f"{fine_tuned:.1f} % on the test images."
    return drawing


def one_bit(hint: Hint, sizes: Mapping[str, int], compression: float) -> Drawing:
    """Return what one bit less or more changes in each layer, as it is and for each bit.

    Args:
        hint: changes of the loss by layer.
        sizes: elements of each layer.
        compression: of the choice that the changes are from.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Total changes at the left, changes for each bit at the right.
    layers = list(sizes)
    at = np.arange(len(layers))
    drawing, (left, right) = canvas(1, 2, height=3.4, sharey=True)
    # Less and more stand side by side.
    looks = (
        (-0.2, hint.less, ORANGE, "", "one bit less"),
        (0.2, hint.more, BLUE, "///", "one bit more"),
    )
    for shift, found, colour, hatch, label in looks:
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0, "label": label}
        change = np.array([found.get(name, np.nan) for name in layers])
        left.barh(at + shift, change, 0.4, **style)
        elements = np.array(list(sizes.values()))
        right.barh(at + shift, 1000 * change / elements, 0.4, **style)
    # The first layer stands at the top.
    left.set_yticks(at, [name.removesuffix(".weight") for name in layers])
    # Axes and legend.
    left.set(xlabel="change of the loss")
    left.invert_yaxis()
    right.set(xlabel="change of the loss for 1,000 bits saved or spent")
    right.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # The layer that suffers most.
    worst = max(hint.less, key=hint.less.__getitem__)

    # What the figure shows, with its numbers.
    drawing.sentence = f"At a compression of {compression:.2f}, one bit less costs most in {worst} "
    drawing.sentence += f"({hint.less[worst]:+.3f}). {hint.sentence}"
    return drawing


def cheapest(hint: Hint, sizes: Mapping[str, int]) -> str:
    """Return the layer in which one bit less costs the least loss for each bit saved.

    Args:
        hint: what one bit less or more changes in each layer.
        sizes: elements of each tensor, by name.

    Returns:
        Text in plain English.
    """
    prices = {name: change / sizes[name] for name, change in hint.less.items()}
    return min(prices, key=prices.__getitem__).removesuffix(".weight")


def gains_sentence(hint: Hint) -> str:
    """Return in which layers one bit less lowers the loss, and in which one bit more raises it.

    Args:
        hint: what one bit less or more changes in each layer.

    Returns:
        Text in plain English.
    """

    # The layers whose change is as wanted.
    def names(found: Mapping[str, float], wanted) -> str:
        chosen = [n.removesuffix(".weight") for n, change in found.items() if wanted(change)]
        return ", ".join(chosen) or "no layer"

    # Both lists go into one sentence.
    less = names(hint.less, lambda change: change < 0)
    more = names(hint.more, lambda change: change > 0)
    return f"One bit less lowers the loss in {less}; one bit more raises it in {more}."


def thresholds(
    exponents: Sequence[int], outcomes: Sequence[Outcome], fitted: int, layer: str
) -> Drawing:
    """Return the accuracy over the threshold of one layer.

    Args:
        exponents: M of the thresholds 2^M, ascending.
        outcomes: of the choices with these thresholds.
        fitted: M of the threshold with the least squared error.
        layer: name of the layer.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One point for each threshold.
    drawing, ax = canvas(height=3)
    accuracies = [o.accuracy for o in outcomes]
    ax.plot(exponents, accuracies, "o-", color=BLUE, label="4 bits in every layer")
    # A square marks the least squared error.
    at = accuracies[list(exponents).index(fitted)]
    ring = {"ms": 12, "mfc": "none", "mec": RED, "mew": 2, "ls": "none"}
    ax.plot(fitted, at, "s", label="least squared error", **ring)
    # Axes and legend.
    ax.set(xlabel=f"M of the threshold $2^M$ of {layer}", ylabel="held images right (%)")
    ax.legend(frameon=False)
    # The best accuracy may be elsewhere.
    best = int(np.argmax(accuracies))

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The least squared error is at 2^{fitted}, with {at:.1f} % right. The highest accuracy, "
    )
    drawing.sentence += f"{accuracies[best]:.1f} %, is at 2^{exponents[best]}. The compression is "
    drawing.sentence += f"{outcomes[best].rate:.2f} for all of them."
    return drawing
