"""What a search did over its steps: compression, temperature, loss, accuracy."""

from __future__ import annotations

from matplotlib.axes import Axes

from hmq_lab.plots.frame import (
    BLUE,
    COLOURS,
    GREEN,
    INK,
    MARKERS,
    ORANGE,
    RED,
    Artists,
    Look,
    figure,
    finished,
)
from hmq_lab.runs.records import Record


def rates(record: Record, ax: Axes) -> Artists:
    """Draw the compression of the weights: expected, of the selection, and what the loss aims at.

    Args:
        record: of a search.
        ax: where to draw.

    Returns:
        The artists.
    """
    # What the search aimed at last holds on to its end.
    artists: Artists = []
    steps, targets = _series(record, "step", "target_rate")
    if steps:
        steps = [*steps, record.events[-1]["step"]]
        targets = [*targets, targets[-1]]
        aim: Look = {"color": INK, "ls": "--", "drawstyle": "steps-post"}
        artists += ax.plot(steps, targets, label="aim of the loss", **aim)
    # Expected at each step, actual after each epoch.
    artists += _curve(record, ax, "step", "expected_rate", color=BLUE, label="expected")
    dots: Look = {"ls": "none", "ms": 8, "markeredgecolor": "white"}
    actual: Look = {"color": ORANGE, "marker": "o", "label": "actual, each epoch"} | dots
    artists += _curve(record, ax, "epoch", "actual_rate", **actual)
    # Where the repair moved bits: from the compression before it to that after it.
    for e in record.of("repair"):
        if e["moves"]:
            x = e["step"]
            before = e["rate_before"]
            after = e["rate_after"]
            artists += ax.plot([x, x], [before, after], color=RED, lw=1.5)
            label = f"before the repair: {before:.2f}"
            artists += ax.plot(x, before, color=RED, marker="v", label=label, **dots)
            label = f"after it: {after:.2f}"
            artists += ax.plot(x, after, color=RED, marker="^", label=label, **dots)
    return _over_steps(record, ax, artists, "compression of the weights\n32 bits / mean bits")


def temperature(record: Record, ax: Axes) -> Artists:
    """Draw the temperature of the Gumbel-Softmax at each step of the search.

    Args:
        record: of a search.
        ax: where to draw.

    Returns:
        The artists.
    """
    artists = _curve(record, ax, "step", "temperature", color=GREEN)
    ax.set_ylim(bottom=0)
    return _over_steps(record, ax, artists, "temperature τ")


@figure("compression of the weights", [[rates], [temperature]], 6, (3, 1), [(rates, temperature)])
def compression(record: Record) -> str:
    """Draw the paper's figure 2: the compression and its target, above the temperature.

    >>> compression(record).savefig("compression.png")

    Args:
        record: of a search.

    Returns:
        The drawing.
    """
    # Where the search ends, and what the repair does then.
    steps, expected = _series(record, "step", "expected_rate")
    if not steps:
        return "The record holds no step of a search."
    target = record.results["target"]["weights"]
    text = f"At step {steps[-1]} the expected compression of the weights is {expected[-1]:.2f}"
    text += f" for a target of {target:g}"
    epochs, selected = _series(record, "epoch", "actual_rate", stage=1)
    if epochs:
        text += f", that of the selection {selected[-1]:.2f}"
    for e in record.of("repair"):
        if e["moves"]:
            text += f"; the repair takes it from {e['rate_before']:.2f} to {e['rate_after']:.2f}, "
            down = sum(move["after"] < move["before"] for move in e["moves"])
            text += f"moves down: {down}, up: {len(e['moves']) - down}"
        else:
            text += "; the repair has nothing to do"
    return text + "."


def loss(record: Record, ax: Axes) -> Artists:
    """Draw the loss of each step, total and of the task alone, and the mean total of each epoch.

    Args:
        record: of a search.
        ax: where to draw.

    Returns:
        The artists.
    """
    artists = _curve(record, ax, "step", "loss", color=ORANGE, lw=4, alpha=0.5, label="total")
    artists += _curve(record, ax, "step", "task_loss", color=BLUE, lw=1.2, label="task alone")
    dots: Look = {"color": INK, "ls": "none", "marker": "o", "label": "total, mean of an epoch"}
    artists += _curve(record, ax, "epoch", "training_loss", **dots)
    return _over_steps(record, ax, artists, "loss (nats)")


def hinge(record: Record, ax: Axes) -> Artists:
    """Draw the loss term that pays for bits, before its factor.

    It is 0 while the expected compression is at its target or above.

    Args:
        record: of a search.
        ax: where to draw.

    Returns:
        The artists.
    """
    artists = _curve(record, ax, "step", "hinge", color=GREEN)
    return _over_steps(record, ax, artists, "hinge: squared\nrelative shortfall")


def accuracy(record: Record, ax: Axes) -> Artists:
    """Draw the validation accuracy after each epoch, with lines for the test and the float network.

    Args:
        record: of a search.
        ax: where to draw.

    Returns:
        The artists.
    """
    artists: Artists = []
    for stage in (1, 2):
        look: Look = {"color": COLOURS[stage - 1], "marker": MARKERS[stage - 1]}
        look["label"] = f"validation, stage {stage}"
        artists += _curve(record, ax, "epoch", "validation_accuracy", stage=stage, **look)
    # Each level that the record has.
    found = record.results.get("accuracy", {})
    looks = {"test": (GREEN, "-"), "float_test": (INK, "--"), "float_validation": (INK, ":")}
    for key, (colour, line) in looks.items():
        if found.get(key) is not None:
            label = f"{key.replace('_', ', ')}: {found[key]:.1f} %"
            artists.append(ax.axhline(found[key], color=colour, ls=line, label=label))
    return _over_steps(record, ax, artists, "accuracy (%)")


@figure("training", [[loss], [hinge], [accuracy]], 8, (3, 1.6, 3), [(loss, hinge, accuracy)])
def training(record: Record) -> str:
    """Draw loss, hinge and accuracy over both stages.

    >>> print(training(record).sentence)

    Args:
        record: of a search.

    Returns:
        The drawing.
    """
    steps, losses = _series(record, "step", "task_loss")
    if not steps:
        return "The record holds no step of training."
    text = f"From step {steps[0]} to {steps[-1]} the task loss goes from {losses[0]:.2f} to "
    text += f"{losses[-1]:.2f}"
    # From the first step to the last, then the test.
    epochs, found = _series(record, "epoch", "validation_accuracy")
    if epochs:
        text += f", the validation accuracy from {found[0]:.1f} % to {found[-1]:.1f} %"
    # The test, where the run came so far.
    final = record.results.get("accuracy", {})
    if "test" in final:
        text += f"; the result has {final['test']:.1f} % on the test set, the float network "
        text += f"{final['float_test']:.1f} %"
    if record.results.get("status") != "complete":
        text += "; the run was interrupted"
    return text + "."


def _series(
    record: Record, kind: str, key: str, stage: int | None = None
) -> tuple[list[int], list[float]]:
    """Steps and values of the events of one kind, and stage, that say something about `key`."""
    steps = []
    values = []
    for e in record.of(kind):
        if e.get(key) is not None and stage in (None, e.get("stage")):
            steps.append(e["step"])
            values.append(e[key])
    return steps, values


def _curve(record, ax, kind, key, stage=None, **style) -> Artists:
    steps, values = _series(record, kind, key, stage)
    return ax.plot(steps, values, **style) if steps else []


def _over_steps(record: Record, ax: Axes, artists: Artists, label: str) -> Artists:
    """What the panels over the steps share: labels, the border between the stages, a legend."""
    ax.set(xlabel="training step", ylabel=label)
    ax.margins(x=0.02)
    border: Look = {"color": INK, "lw": 1, "ls": (0, (1, 2)), "label": "stage 2 begins"}
    for e in record.of("repair") if artists else ():
        artists.append(ax.axvline(e["step"], **border))
    return finished(ax, artists)
