"""Figures of lesson 06: sizes, costs, the landscape of choices, HMQ and rivals, schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import seaborn as sns

from hmq_lab.plots.frame import BLUE, GREEN, INK, ORANGE, PALE, RED, Drawing, canvas
from hmq_lab.plots.lessons import counted, listed
from hmq_lab.runs.records import Record


def shares(sizes: Mapping[str, int]) -> Drawing:
    """Return the share of the weights that each tensor holds.

    Args:
        sizes: elements of each weight tensor.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One bar for each tensor, the first at the top.
    elements = np.array(list(sizes.values()))
    share = 100 * elements / elements.sum()
    drawing, ax = canvas(height=2.8)
    ax.barh(short(sizes), share, color=BLUE)
    ax.invert_yaxis()
    # Axes and legend.
    ax.set(xlabel="share of the weights (%)")
    # The largest tensor goes into the sentence.
    largest = max(sizes, key=sizes.__getitem__)

    # What the figure shows, with its numbers.
    text = f"{largest} holds {share.max():.0f} % "
    drawing.sentence = f"{text}of the {elements.sum():,} weights."
    return drawing


def costs(
    table: Mapping[str, Mapping[int, float]], sizes: Mapping[str, int], base: float
) -> Drawing:
    """Return how much the loss rises when one tensor alone gets fewer bits.

    Args:
        table: rise of the loss by tensor and bits.
        sizes: elements of each tensor.
        base: the loss with the most bits everywhere.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # A table: tensors by bits.
    widths = list(next(iter(table.values())))
    fewest = min(widths)
    values = np.array([list(row.values()) for row in table.values()])
    drawing, ax = canvas(height=3.4)
    bar = {"label": "rise of the loss"}
    options = {"annot": True, "fmt": ".3f", "cmap": "cividis", "cbar_kws": bar}
    # An empty cell is no reason to warn.
    with np.errstate(all="ignore"):
        sns.heatmap(values, ax=ax, xticklabels=widths, yticklabels=short(sizes), **options)
    # Axes and legend.
    ax.set(xlabel="bits of this tensor")
    # The most sensitive tensor and the largest one.
    worst = max(sizes, key=lambda name: table[name][fewest])
    largest = max(sizes, key=sizes.__getitem__)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"With {max(widths)} bits everywhere the loss is {base:.3f}. {fewest} bits for {worst} "
    )
    drawing.sentence += (
        f"alone add {table[worst][fewest]:.3f}, the most; for the largest tensor alone, {largest}, "
    )
    drawing.sentence += f"they add {table[largest][fewest]:.3f}."
    return drawing


def landscape(
    losses: np.ndarray, compressions: np.ndarray, target: float, best: Mapping[str, int]
) -> Drawing:
    """Return all choices of bits: loss over compression, and the optimum within the budget.

    Args:
        losses: of all choices, the best first.
        compressions: of the same choices.
        target: the compression to reach.
        best: bits of the optimum.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The optimum within the budget.
    within = compressions >= target
    best_loss = losses[within].min()
    at = compressions[within][losses[within].argmin()]
    # From small networks to large ones: the least loss so far.
    order = np.argsort(-compressions, kind="stable")
    least = np.minimum.accumulate(losses[order])
    # A cloud of all choices, and the least loss above it.
    drawing, ax = canvas(height=4.2)
    cloud = {"s": 4, "color": PALE, "label": "a choice of bits", "rasterized": True}
    ax.scatter(compressions, losses, **cloud)
    label = "the best with at least this compression"
    ax.step(compressions[order], least, color=BLUE, lw=2, label=label)
    # The target and the optimum.
    ax.axvline(target, color=INK, ls="--", label="target")
    star = {"ms": 14, "color": RED, "ls": "none"}
    ax.plot(at, best_loss, "*", label="the optimum within the budget", **star)
    # Axes and legend.
    ax.set(xlabel="compression of the weights", ylabel="loss", xscale="log", yscale="log")
    # Few numbers on the axes.
    ticks = [4, 5, 6, 8, 10, 12, 16]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.legend(frameon=False)
    # The optimum's bits, in words.
    named = zip(short(best), best.values(), strict=True)
    chosen = ", ".join(f"{name} {bits}" for name, bits in named)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"Of {len(losses):,} choices {within.sum():,} reach the target. The best of them has the "
    )
    drawing.sentence += f"loss {best_loss:.3f} ({chosen}); half of them have more than "
    drawing.sentence += f"{np.median(losses[within]):.2f}."
    return drawing


def regrets(
    rivals: Mapping[float, Mapping[str, float]],
    hmq: Mapping[float, Sequence[float]],
    half: Mapping[float, float],
) -> Drawing:
    """Return the regret of HMQ, for each seed, and of its rivals, by target.

    Args:
        rivals: regret by target and name.
        hmq: regrets of the seeds by target.
        half: the regret that half of all choices exceed, by target.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One group of marks for each target.
    drawing, ax = canvas(height=3.8)
    names = list(next(iter(rivals.values())))
    colours, markers = cycle((ORANGE, GREEN, RED, INK)), cycle("sD^vPX")
    looks = [{"color": next(colours), "marker": next(markers)} for _ in names]
    for place, target in enumerate(rivals):
        first = place == 0
        # The rivals stand side by side.
        for shift, (name, look) in enumerate(zip(names, looks, strict=True)):
            at = place + 0.12 * (shift - 1)
            label = name if first else None
            ax.plot(at, rivals[target][name], label=label, ms=8, ls="none", **look)
        # The seeds stand beside each other, so that equal ones do not hide one another.
        found = hmq[target]
        beside = place - 0.3 + 0.06 * np.arange(len(found))
        ring = {"color": BLUE, "ms": 9, "mfc": "none", "mew": 2, "ls": "none"}
        ax.plot(beside, found, "o", label="HMQ, each seed" if first else None, **ring)
        # A short line: the median of all choices.
        label = "half of all choices are worse" if first else None
        ends = [place - 0.38, place + 0.38]
        ax.plot(ends, [half[target]] * 2, color=PALE, label=label)
    # Regrets near 0 need a linear scale.
    ax.set_yscale("symlog", linthresh=0.01)
    names = [f"target {target:g}" for target in rivals]
    ax.set_xticks(range(len(rivals)), names)
    ax.set(ylabel="regret", ylim=(-0.002, None))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # One part of the sentence for each target.
    told = []
    for target, found in hmq.items():
        least = min(rivals[target], key=rivals[target].__getitem__)
        regret = " to ".join(dict.fromkeys(f"{value:.3f}" for value in (min(found), max(found))))
        text = f"at the target {target:g}, HMQ's regret is {regret} and the least of the rivals', "
        told.append(f"{text}{least}, is {rivals[target][least]:.3f}")

    # What the figure shows, with its numbers.
    drawing.sentence = "; ".join(told).replace("at", "At", 1) + "."
    return drawing


def choice_sentences(
    rivals: Mapping[float, Mapping[str, int]], hmq: Mapping[float, Sequence[int]]
) -> list[str]:
    """Return who finds the optimum, by target.

    >>> choice_sentences({8.0: {"greedy": 1, "uniform": 40}}, {8.0: [1, 5, 1]})
    ['At the target 8, HMQ finds the optimum with 2 of 3 seeds (ranks 1, 5, 1); of the rivals, \
greedy finds it.']

    Args:
        rivals: rank by target and name; the optimum has rank 1.
        hmq: rank of each seed by target.

    Returns:
        Lines of text, in order.
    """
    # One sentence for each target.
    said = []
    for target, ranks in hmq.items():
        # Which rivals have rank 1, and with how many seeds HMQ has.
        found = [name for name, rank in rivals[target].items() if rank == 1]
        hits = sum(rank == 1 for rank in ranks)
        verb = "finds" if len(found) <= 1 else "find"
        others = f"{listed(found)} {verb} it" if found else "none finds it"
        listed_ranks = ", ".join(map(str, ranks))
        text = f"At the target {target:g}, HMQ finds the optimum with {hits} of "
        text += f"{counted(len(ranks), 'seed')} (ranks {listed_ranks}); of the rivals, "
        said.append(f"{text}{others}.")
    return said


def how_often(ranks: Sequence[int]) -> str:
    """Return with how many seeds the rank is 1: "with every seed", "with some", "with none".

    Args:
        ranks: rank of HMQ's choice with each seed.

    Returns:
        Text in plain English.
    """
    hits = sum(rank == 1 for rank in ranks)
    if hits == len(ranks):
        return "with every seed"
    return "with some" if hits else "with none"


def schedules(
    records: Mapping[str, Sequence[Record]], lost: Mapping[str, Sequence[float]]
) -> Drawing:
    """Return temperature, regret and test accuracy of searches under several schedules.

    Args:
        records: by schedule, one a seed.
        lost: regret of the bits, by schedule.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Temperatures at the left.
    drawing, (left, middle, right) = canvas(1, 3, height=3.4)
    looks = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))
    for (name, found), (colour, line) in zip(records.items(), looks, strict=True):
        steps = found[0].of("step")
        at = [e["step"] for e in steps]
        values = [e["temperature"] for e in steps]
        left.plot(at, values, color=colour, ls=line, label=name, lw=2)
    # Axes and legend.
    left.set(xlabel="training step", ylabel="temperature τ", ylim=(0, 1.1))
    left.legend(frameon=False, loc="lower left")
    # Regrets in the middle, accuracies at the right.
    accuracies = own_accuracies(records)
    panels = (
        (middle, dict(lost), "regret of the bits"),
        (right, accuracies, "test accuracy, own thresholds (%)"),
    )
    for ax, numbers_of, label in panels:
        # One dot for each search, in its schedule's colour.
        names = [name for name in numbers_of for _ in numbers_of[name]]
        numbers = [number for row in numbers_of.values() for number in row]
        palette = [colour for colour, _ in looks]
        options = {"hue": names, "palette": palette, "size": 8, "legend": False}
        sns.swarmplot(x=names, y=numbers, ax=ax, **options)
        ax.set(xlabel="", ylabel=label)
    middle.set_ylim(bottom=-0.005)
    # One part of the sentence for each schedule.
    said = []
    for name, own in accuracies.items():
        right_share = f"{np.mean(own):.1f} % ({min(own):.1f} to {max(own):.1f})"
        loss = np.mean(lost[name])
        said.append(f"{name} {loss:.3f} and {right_share}")
    seeds = counted(len(next(iter(lost.values()))), "seed")

    # What the figure shows, with its numbers.
    drawing.sentence = f"Mean regret, and test accuracy with its range, of {seeds}: "
    drawing.sentence += "; ".join(said) + "."
    return drawing


def own_accuracies(records: Mapping[str, Sequence[Record]]) -> dict[str, list[float]]:
    """Return the test accuracies of searches with their own thresholds, by schedule.

    Args:
        records: records of searches, by schedule.

    Returns:
        Accuracies (%) by schedule.
    """
    accuracies = {}
    for name, found in records.items():
        accuracies[name] = [record.results["accuracy"]["test"] for record in found]
    return accuracies


def schedule_sentence(lost: Mapping[str, Sequence[float]]) -> str:
    """Return whether schedules differ by more than their seeds do.

    >>> schedule_sentence({"a": [0.1, 0.3], "b": [0.2, 0.25]})
    'The mean regrets of the schedules differ by 0.025 at most; the seeds of one schedule differ \
by up to 0.200. So these searches show no difference between the schedules.'

    Args:
        lost: regrets of the searches, by schedule.

    Returns:
        Text in plain English.
    """
    # How much schedules differ, and how much seeds do.
    means = [float(np.mean(values)) for values in lost.values()]
    between = max(means) - min(means)
    within = max(max(values) - min(values) for values in lost.values())
    start = (
        f"The mean regrets of the schedules differ by {between:.3f} at most; the seeds of one "
        f"schedule differ by up to {within:.3f}. "
    )
    # Within the noise of seeds nothing is said.
    if between <= within:
        return start + "So these searches show no difference between the schedules."
    best = min(lost, key=lambda name: float(np.mean(lost[name])))
    return start + f"So the difference is larger than the seeds': {best} is best here."


def accuracy_sentence(accuracies: Mapping[str, Sequence[float]], points: float = 5.0) -> str:
    """Return which searches lie far below the best one in accuracy.

    >>> accuracy_sentence({"cycles": [80.0, 79.0], "constant": [60.0, 78.0]})
    'More than 5 points below the best search: 1 of 2 with constant.'

    Args:
        accuracies: by schedule (%).
        points: how far below counts as far.

    Returns:
        Text in plain English.
    """
    # Count the searches far below the best one.
    best = max(max(values) for values in accuracies.values())
    told = []
    for name, values in accuracies.items():
        low = sum(value < best - points for value in values)
        if low:
            told.append(f"{low} of {len(values)} with {name}")
    # None, or a list by schedule.
    if not told:
        return f"No search lies more than {points:g} points below the best one."
    return f"More than {points:g} points below the best search: {listed(told)}."


def least_regret(lost: Mapping[str, Sequence[float]]) -> str:
    """Return the schedule with the least mean regret, or "no difference" within the seeds.

    Args:
        lost: regrets of the searches, by schedule.

    Returns:
        Text in plain English.
    """
    means = {name: float(np.mean(values)) for name, values in lost.items()}
    within = max(max(values) - min(values) for values in lost.values())
    if max(means.values()) - min(means.values()) <= within:
        return "no difference"
    return min(means, key=means.__getitem__)


def short(names) -> list[str]:
    """Return the names of weight tensors without their ending.

    Args:
        names: names of weight tensors.

    Returns:
        The value as text, shortened where it is long.
    """
    return [name.removesuffix(".weight") for name in names]


def least(values: Mapping[str, float]) -> str:
    """Return the name with the least value, or the names where several have it.

    >>> least({"a": 0.2, "b": 0.1}), least({"a": 0.1, "b": 0.1})
    ('b', 'a and b')

    Args:
        values: numbers by name.

    Returns:
        Text in plain English.
    """
    lowest = min(values.values())
    return listed(name for name, value in values.items() if value <= lowest + 1e-12)
