"""Figures of lesson 10: channels after folding, bits of accumulators, faults on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hmq_lab.plots.frame import BLUE, GREEN, INK, ORANGE, PALE, RED, Drawing, canvas
from hmq_lab.plots.lessons import listed


def reach(weight: Tensor) -> Tensor:
    """Return the largest magnitude in each output channel.

    Args:
        weight: weight, output channels first.

    Returns:
        One number for each channel.
    """
    return weight.detach().abs().flatten(1).amax(1)


def spread(weight: Tensor) -> float:
    """Return how many times further the largest channel reaches than the smallest.

    Args:
        weight: weight, output channels first.

    Returns:
        The ratio, 1 or more.
    """
    channels = reach(weight)
    return (channels.max() / channels.min()).item()


def channels(before: Tensor, after: Tensor, name: str) -> Drawing:
    """Return the weights of each output channel, before and after folding.

    Args:
        before: (outputs, ...).
        after: the same weights, folded.
        name: of the layer.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One panel before folding, one after it.
    drawing, axes = canvas(1, 2, height=3.2)
    titles = ("before folding", "after folding")
    for ax, weight, title in zip(axes, (before, after), titles, strict=True):
        values = [w.flatten().numpy() for w in weight]
        line = {"color": INK}
        style = {"boxprops": {"facecolor": PALE}, "medianprops": line}
        dots = {"marker": ".", "markersize": 3, "markeredgecolor": INK}
        # One box for each channel.
        boxes = {"widths": 0.7, "patch_artist": True, "flierprops": dots} | style
        ax.boxplot(values, positions=range(len(values)), **boxes)
        # The band is an eighth of the largest weight.
        limit = reach(weight).max()
        ax.axhspan(-limit / 8, limit / 8, color=ORANGE, alpha=0.3, lw=0)
        ax.set(title=f"{name}, {title}", xlabel="output channel", ylabel="weights")
        # About eight numbers on the axis.
        ticks = range(0, len(weight), max(1, len(weight) // 8))
        ax.set_xticks(ticks, ticks)
    # How many channels lie within the band.
    inside = int((reach(after) < limit / 8).sum())

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"In {name} the largest channel reaches {spread(before):.1f} times as far as the smallest "
    )
    drawing.sentence += (
        f"before folding, and {spread(after):.3g} times after it. The band is an eighth of the "
    )
    drawing.sentence += (
        f"largest weight on either side. After folding, {inside} of {len(after)} channels lie "
    )
    drawing.sentence += "completely inside it."
    return drawing


def accumulators(
    names: Sequence[str], seen: Sequence[int], bound: Sequence[int], count: int
) -> Drawing:
    """Return the bits that the sums of each layer need, on some images and on any.

    Args:
        names: of the layers.
        seen: bits on these images.
        bound: bits on any image.
        count: number of images.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Squares are bounds, points are what was seen.
    drawing, ax = canvas(height=3.4)
    square = {"color": ORANGE, "ms": 9, "mfc": "none", "mew": 2, "ls": "none"}
    ax.plot(bound, marker="s", label="for any image", **square)
    ax.plot(seen, "o", color=BLUE, ms=8, label=f"on {count:,} images")
    # The two usual registers.
    for register, style in ((16, "--"), (32, "-")):
        ax.axhline(register, color=RED, lw=1.2, ls=style, label=f"{register} bits")
    # Names of the layers below, the legend at the side.
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    ax.set(ylabel="bits of the sum", ylim=(10, 34))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # Layers that need more than the smaller register.
    beyond = [name for name, bits in zip(names, seen, strict=True) if bits > 16]

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The sums need {min(seen)} to {max(seen)} bits on these images, and at most {max(bound)} "
    )
    drawing.sentence += f"on any image. More than 16 are needed in {listed(beyond, 'no layer')}."
    return drawing


def faults(shares: Mapping[str, Sequence[float]], tensors: Sequence[str]) -> Drawing:
    """Return how many codes each fault changes, tensor by tensor.

    Args:
        shares: codes that differ (%), by fault, in the order of the tensors.
        tensors: their names.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One curve for each fault.
    drawing, ax = canvas(height=3.8)
    colours = (BLUE, ORANGE, GREEN, RED, INK)
    looks = zip(colours, "osD^v", ("-", "--", ":", "-.", (0, (6, 2))), strict=True)
    for (name, share), (colour, marker, line) in zip(shares.items(), looks, strict=True):
        ax.plot(share, color=colour, marker=marker, ls=line, label=name)
    # Shares go from 0 to 100, most of them small.
    ax.set_yscale("symlog", linthresh=0.01)
    ticks = [0, 0.01, 0.1, 1, 10, 100]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    # Names of the tensors below, the legend at the side.
    ax.set(ylabel="codes that differ (%)", ylim=(-0.002, 150))
    ax.set_xticks(range(len(tensors)), tensors, rotation=30, ha="right")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # Where each fault shows first.
    told = []
    for name, share in shares.items():
        first = next((t for t, s in zip(tensors, share, strict=True) if s), "no tensor")
        told.append(f"{name} at {first}")

    # What the figure shows, with its numbers.
    said = ", ".join(told)
    drawing.sentence = f"The first tensor with a wrong code: {said}. "
    drawing.sentence += "From there the difference spreads to the logits."
    return drawing


def fault_sentences(
    exact: float, accuracies: Mapping[str, float], shares: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return which fault costs the most accuracy, which changes the most codes, and if they differ.

    >>> fault_sentences(94.0, {"a": 93.0, "b": 10.0}, {"a": [9.0, 90.0], "b": [0.1, 80.0]})
    ['a changes the most codes on average, and costs 1.0 points of accuracy.', 'b costs the most \
accuracy, 84.0 points.', 'So the number of wrong codes says little about the accuracy.']

    Args:
        exact: accuracy without a fault (%).
        accuracies: by fault (%).
        shares: codes that differ (%), by fault.

    Returns:
        Lines of text, in order.
    """
    # The fault with the most wrong codes, and the dearest one.
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    most = max(means, key=means.__getitem__)
    worst = min(accuracies, key=accuracies.__getitem__)
    lost = exact - accuracies[most]
    said = [f"{most} changes the most codes on average, and costs {lost:.1f} points of accuracy."]
    lost = exact - accuracies[worst]
    said.append(f"{worst} costs the most accuracy, {lost:.1f} points.")
    # They need not be the same.
    if most != worst:
        said.append("So the number of wrong codes says little about the accuracy.")
    return said


def some_of(count: int, every: int) -> str:
    """Return a count in one of four classes.

    >>> some_of(0, 100), some_of(3, 100), some_of(90, 100), some_of(100, 100)
    ('none', 'a few', 'most', 'all')

    Args:
        count: how many of them.
        every: how many there are.

    Returns:
        Text in plain English.
    """
    if count == 0:
        return "none"
    if count == every:
        return "all"
    return "most" if count > every / 2 else "a few"


def machine_sentence(gains: Mapping[str, float]) -> str:
    """Return on which machine fewer bits save most cycles, and on which least.

    Args:
        gains: cycles with 8 bits over cycles with mixed bits, by machine.

    Returns:
        Text in plain English.
    """
    # The two ends of the gains.
    most = max(gains, key=gains.__getitem__)
    least = min(gains, key=gains.__getitem__)
    text = f"Fewer bits save most with {most} ({gains[most]:.2f} times as fast) and least with "
    return text + f"{least} ({gains[least]:.2f} times)."
