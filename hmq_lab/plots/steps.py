"""What a search did over its steps: rates, temperature, loss, accuracy."""

from __future__ import annotations

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from hmq_lab.plots.frame import BLUE, COLOURS, GREEN, INK, MARKERS, ORANGE, RED, figure, finished
from hmq_lab.runs.records import Record


def rates(record: Record, ax: Axes) -> list[Artist]:
    """The rate of the weights: expected at each step, of the selection after each epoch, and what
    the loss aims at.
    """
    # The aim, the expected compression, and that of the selection.
    steps, targets = _series(record, "step", "target_rate")
    # What the search aimed at last holds on.
    if steps:
        steps = [*steps, record.events[-1]["step"]]
        targets = [*targets, targets[-1]]
    style = {"color": INK, "ls": "--", "drawstyle": "steps-post", "label": "aim of the loss"}
    artists = ax.plot(steps, targets, **style) if steps else []
    artists += _curve(record, ax, "step", "expected_rate", color=BLUE, label="expected")
    style = {"ls": "none", "ms": 8, "markeredgecolor": "white"}
    artists += _curve(
        record,
        ax,
        "epoch",
        "actual_rate",
        color=ORANGE,
        marker="o",
        label="actual, each epoch",
        **style,
    )
    for e in record.of("repair"):
        if e["moves"]:
            x = e["step"]
            before = e["rate_before"]
            after = e["rate_after"]
            artists += ax.plot([x, x], [before, after], color=RED, lw=1.5)
            artists += ax.plot(
                x, before, color=RED, marker="v", label=f"before the repair: {before:.2f}", **style
            )
            artists += ax.plot(
                x, after, color=RED, marker="^", label=f"after it: {after:.2f}", **style
            )
    return _over_steps(record, ax, artists, "compression of the weights\n32 bits / mean bits")


def temperature(record: Record, ax: Axes) -> list[Artist]:
    """The temperature of the Gumbel-Softmax at each step of the search."""
    artists = _curve(record, ax, "step", "temperature", color=GREEN)
    ax.set_ylim(bottom=0)
    return _over_steps(record, ax, artists, "temperature τ")


@figure("compression of the weights", [[rates], [temperature]], 6, (3, 1), [(rates, temperature)])
def compression(record: Record):
    """The paper's figure 2: expected rate, rate of the selection and target, above the temperature.

    >>> compression(record).savefig("compression.png")
    """
    # Where the search ends, and what the repair does then.
    steps, expected = _series(record, "step", "expected_rate")
    if not steps:
        return "The record holds no step of a search."
    text = f"At step {steps[-1]} the expected compression of the weights is {expected[-1]:.2f}"
    text += f" for a target of {record.results['target']['weights']:g}"
    epochs, selected = _series(record, "epoch", "actual_rate", stage=1)
    text += f", that of the selection {selected[-1]:.2f}" if epochs else ""
    for e in record.of("repair"):
        repaired = f"takes it from {e['rate_before']:.2f} to {e['rate_after']:.2f}, moves: "
        repaired += f"{len(e['moves'])}"
        text += f"; the repair {repaired if e['moves'] else 'has nothing to do'}"
    return text + "."


def loss(record: Record, ax: Axes) -> list[Artist]:
    """The loss of each step, total and of the task alone, and the mean of the total over each
    epoch.
    """
    artists = _curve(record, ax, "step", "loss", color=ORANGE, lw=4, alpha=0.5, label="total")
    artists += _curve(record, ax, "step", "task_loss", color=BLUE, lw=1.2, label="task alone")
    style = {"color": INK, "ls": "none", "marker": "o", "label": "total, mean of an epoch"}
    artists += _curve(record, ax, "epoch", "training_loss", **style)
    return _over_steps(record, ax, artists, "loss (nats)")


def hinge(record: Record, ax: Axes) -> list[Artist]:
    """The loss term that pays for bits, before its factor: 0 while the expected rate is at its
    target or above.
    """
    artists = _curve(record, ax, "step", "hinge", color=GREEN)
    return _over_steps(record, ax, artists, "hinge: squared\nrelative shortfall")


def accuracy(record: Record, ax: Axes) -> list[Artist]:
    """Validation accuracy after each epoch, with lines for the final test and the float network."""
    artists = []
    for stage in (1, 2):
        style = {
            "color": COLOURS[stage - 1],
            "marker": MARKERS[stage - 1],
            "label": f"validation, stage {stage}",
        }
        artists += _curve(record, ax, "epoch", "validation_accuracy", stage=stage, **style)
    for key, colour, line in (
        ("test", GREEN, "-"),
        ("float_test", INK, "--"),
        ("float_validation", INK, ":"),
    ):
        value = record.results.get("accuracy", {}).get(key)
        if value is not None:
            label = f"{key.replace('_', ', ')}: {value:.1f} %"
            artists.append(ax.axhline(value, color=colour, ls=line, label=label))
    return _over_steps(record, ax, artists, "accuracy (%)")


@figure("training", [[loss], [hinge], [accuracy]], 8, (3, 1.6, 3), [(loss, hinge, accuracy)])
def training(record: Record):
    """Loss, hinge and accuracy over both stages.

    >>> print(training(record).sentence)
    """
    steps, losses = _series(record, "step", "task_loss")
    if not steps:
        return "The record holds no step of training."
    text = f"From step {steps[0]} to {steps[-1]} the task loss goes from {losses[0]:.2f} to "
    text += f"{losses[-1]:.2f}"
    # From the first step to the last, then the test.
    epochs, found = _series(record, "epoch", "validation_accuracy")
    text += (
        f", the validation accuracy from {found[0]:.1f} % to {found[-1]:.1f} %" if epochs else ""
    )
    # The test, where the run came so far.
    final = record.results.get("accuracy", {})
    if "test" in final:
        text += f"; the result has {final['test']:.1f} % on the test set, the float network "
        text += f"{final['float_test']:.1f} %"
    return text + (
        "." if record.results.get("status") == "complete" else "; the run was interrupted."
    )


def _series(
    record: Record, kind: str, key: str, stage: int | None = None
) -> tuple[list[int], list[float]]:
    """Steps and values of the events of one kind, and stage, that say something about `key`."""
    found = [
        e for e in record.of(kind) if e.get(key) is not None and stage in (None, e.get("stage"))
    ]
    return [e["step"] for e in found], [e[key] for e in found]


def _curve(record, ax, kind, key, stage=None, **style) -> list[Artist]:
    steps, values = _series(record, kind, key, stage)
    return ax.plot(steps, values, **style) if steps else []


def _over_steps(record: Record, ax: Axes, artists: list[Artist], label: str) -> list[Artist]:
    """What the panels over the steps share: labels, the border between the stages, a legend."""
    ax.set(xlabel="training step", ylabel=label)
    ax.margins(x=0.02)
    for e in record.of("repair") if artists else ():
        artists.append(
            ax.axvline(e["step"], color=INK, lw=1, ls=(0, (1, 2)), label="stage 2 begins")
        )
    return finished(ax, artists)
