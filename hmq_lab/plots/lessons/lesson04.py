"""Figures of lesson 04: draws, samples in a triangle, bias and noise, schedules, restarts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hmq_lab.plots.frame import BLUE, GREEN, INK, ORANGE, PALE, RED, Drawing, canvas

# Corners of the triangle of three probabilities.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])


def draws(p: Tensor, share: Tensor, count: int) -> Drawing:
    """Return how often each category won beside its probability.

    Args:
        p: probabilities (K,).
        share: shares of the draws (K,).
        count: number of draws.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Bars are probabilities, points are shares with their noise.
    error = (p * (1 - p) / count).sqrt()  # standard error of a share
    drawing, ax = canvas(height=3)
    at = np.arange(1, len(p) + 1)
    ax.bar(at, p, 0.7, color=PALE, label="probability")
    label = "share of the draws ± 2 standard errors"
    ax.errorbar(at, share, 2 * error, fmt="o", color=BLUE, capsize=5, label=label)
    # Axes and legend.
    ax.set(xlabel="category", xticks=at, ylabel="share")
    ax.legend(frameon=False)
    # The largest distance, in standard errors.
    far = ((share - p).abs() / error).max().item()
    shares = ", ".join(f"{s:.1%}" for s in share)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"In {count:,} draws the categories win {shares}. The largest distance from a probability "
    )
    drawing.sentence += f"is {far:.1f} standard errors."
    return drawing


def triangles(p: Tensor, samples: Mapping[float, Tensor]) -> Drawing:
    """Return relaxed samples of three categories as points in a triangle, by temperature.

    Args:
        p: the three probabilities.
        samples: (S, 3) by temperature.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One triangle for each temperature.
    drawing, axes = canvas(1, len(samples), height=3.3)
    told = []
    for (temperature, z), ax in zip(samples.items(), axes, strict=True):
        # The cloud of samples, their mean and the true probabilities.
        ax.fill(*CORNERS.T, facecolor="#f7f7f7", edgecolor=INK)
        cloud = {"color": BLUE, "ms": 4, "alpha": 0.3, "mew": 0}
        cloud["label"] = "samples"
        ax.plot(*(z.numpy() @ CORNERS).T, "o", **cloud)
        mean = {"color": ORANGE, "ms": 9, "mec": "white", "label": "their mean"}
        ax.plot(*(z.mean(0).numpy() @ CORNERS), "D", **mean)
        exact = {"color": INK, "ms": 10, "mec": "white", "label": "probabilities"}
        ax.plot(*(p.numpy() @ CORNERS), "^", **exact)
        # The corners are the categories.
        for (x, y), value, side in zip(CORNERS, p, ("left", "right", "center"), strict=True):
            place = (x, y + 0.03 if y else -0.05)
            ax.text(*place, f"{value:.0%}", ha=side, va="bottom" if y else "top")
        limits = {"xlim": (-0.05, 1.05), "ylim": (-0.2, 1.1)}
        ax.set(title=f"τ = {temperature:g}", aspect="equal", **limits)
        ax.axis("off")
        # A sample is nearly hard where one entry has almost everything.
        largest = z.max(1).values
        hard = (largest > 0.95).float().mean().item()
        told.append(f"{hard:.0%} at τ = {temperature:g}")
    # One legend below all triangles.
    handles = axes[0].get_legend_handles_labels()
    drawing.legend(*handles, loc="outside lower center", ncols=3, frameon=False)

    # What the figure shows, with its numbers.
    said = ", ".join(told)
    drawing.sentence = (
        f"Share of the samples with an entry above 0.95, which are nearly hard choices: {said}."
    )
    return drawing


def bias_and_noise(
    temperatures: Sequence[float], found: Mapping[str, Tensor], samples: int
) -> Drawing:
    """Return bias and noise of the gradient over the temperature, for two losses.

    Args:
        temperatures: from low to high.
        found: by loss, a row (bias, noise) for each temperature, relative to the exact gradient.
        samples: how many samples a mean is of.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One panel for each loss.
    drawing, axes = canvas(1, 2, height=3.8, sharey=True)
    for ax, (name, values) in zip(axes, found.items(), strict=True):
        one = {"color": ORANGE, "marker": "s", "label": "noise of one sample"}
        ax.loglog(temperatures, values[:, 1], **one)
        ax.loglog(temperatures, values[:, 0], color=BLUE, marker="o", label="bias")
        # A mean of many samples has less noise.
        limit = values[:, 1] / math.sqrt(samples)
        label = f"noise of the mean of {samples}"
        ax.loglog(temperatures, limit, color=INK, ls=":", label=label)
        ax.set(xlabel="temperature τ", title=name)
        ax.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
        ax.minorticks_off()
    # Labels at the left, the legend at the right.
    axes[0].set_ylabel("of the exact gradient")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    # What the figure shows, with its numbers.
    drawing.sentence = bias_sentence(temperatures, found)
    return drawing


def bias_sentence(temperatures: Sequence[float], found: Mapping[str, Tensor]) -> str:
    """Return what happens to bias and noise from the highest temperature to the lowest.

    Args:
        temperatures: temperatures, the lowest first.
        found: bias and noise by temperature (T, 2), by loss.

    Returns:
        Text in plain English.
    """
    # One part of the sentence for each loss.
    told = []
    for name, values in found.items():
        bias = values[:, 0]
        noise = values[:, 1]
        # The temperature with the least bias.
        least = temperatures[int(bias.argmin())]
        text = f"{name}: the noise of one sample goes from {noise[-1]:.2g} to {noise[0]:.2g} "
        text += f"times the exact gradient, the bias from {bias[-1]:.2f} to {bias[0]:.2f}; "
        text += f"the bias is smallest, {bias.min():.2f}, at τ = {least:g}"
        told.append(text)
    start = f"From τ = {temperatures[-1]:g} down to {temperatures[0]:g}. "
    sentences = [text[0].upper() + text[1:] for text in told]
    return start + ". ".join(sentences) + "."


def smallest_bias_at(temperatures: Sequence[float], values: Tensor) -> str:
    """Return where the bias is smallest: at the lowest temperature, the highest, or between.

    Args:
        temperatures: temperatures, the lowest first.
        values: bias and noise by temperature (T, 2).

    Returns:
        Text in plain English.
    """
    # Its place among the temperatures.
    at = int(values[:, 0].argmin())
    if at == 0:
        return "at the lowest temperature"
    if at == len(temperatures) - 1:
        return "at the highest temperature"
    return "between the two ends"


def schedules(shown: Mapping[str, Callable], per_epoch: int, epochs: int = 15) -> Drawing:
    """Return the temperature over the epochs under several schedules.

    Args:
        shown: schedules by name; the last one is the paper's.
        per_epoch: steps of an epoch.
        epochs: how many to draw.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One curve for each schedule.
    drawing, ax = canvas(height=3)
    at = np.arange(epochs * per_epoch)
    looks = [(GREEN, "--", 2.5), (BLUE, "-", 5)]
    looks.append((ORANGE, ":", 2.5))
    for (name, schedule), (colour, line, width) in zip(shown.items(), looks, strict=True):
        values = [schedule(int(i)) for i in at]
        ax.plot(at / per_epoch, values, color=colour, ls=line, lw=width, label=name)
    # Axes and legend.
    ax.set(xlabel="epoch", ylabel="temperature τ", ylim=(0, 1.05))
    ax.legend(frameon=False, ncols=3, loc="lower left")
    # The paper's schedule is the last; its floor goes into the sentence.
    paper = list(shown.values())[-1]
    first = [paper(i) for i in range(5 * per_epoch)]
    floor = first.index(min(first)) / per_epoch

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The cycles fall to their floor of {min(first):g} within {floor:.2f} epochs, stay there, "
    )
    drawing.sentence += "and begin again at epoch 5."
    return drawing


def restarts(landscape: Tensor, ends: Mapping[str, Tensor]) -> Drawing:
    """Return the errors of the thresholds, and where the runs of each schedule ended.

    Args:
        landscape: error of each threshold; the search starts at the first.
        ends: by schedule, the threshold that each run ended with.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The errors of all thresholds at the left.
    best = int(landscape.argmin())
    drawing, (left, right) = canvas(1, 2, height=3.8, width_ratios=(1, 1.3))
    names = [f"$2^{{{-k}}}$" for k in range(len(landscape))]
    left.plot(landscape, color=BLUE, marker="o")
    # Rings mark the start and the best.
    ring = {"mfc": "none", "mew": 2, "ls": "none"}
    left.plot(0, landscape[0], "s", color=RED, ms=12, label="start", **ring)
    left.plot(best, landscape[best], "D", color=GREEN, ms=13, label="best", **ring)
    # Axes and legend.
    left.set(xlabel="threshold", ylabel="error of the hard choice")
    left.set_xticks(range(len(landscape)), names)
    left.invert_xaxis()  # larger thresholds to the right
    left.legend(frameon=False)

    # The mean error of each schedule at the right, with its noise.
    told = []
    labels = []
    for at, (name, end) in enumerate(ends.items()):
        mean, spread = mean_error(landscape, end)
        hit = (end == best).float().mean().item()
        right.errorbar(mean, at, xerr=spread, fmt="o", color=BLUE, capsize=5)
        labels.append(f"{name} ({hit:.0%})")
        error = f"{mean:.3f} ± {spread:.3f}"
        told.append(f"{name} {error}, {hit:.0%}")
    # The same two lines as at the left.
    right.axvline(landscape[0], color=RED, ls="--", label="start")
    right.axvline(landscape[best], color=GREEN, ls=":", label="best")
    right.set(xlabel=f"error of the selection, mean of {len(end)} runs ± 2 standard errors")
    right.set_yticks(range(len(ends)), labels)
    right.set_title("in brackets: share of the runs that found the best")
    right.invert_yaxis()
    right.legend(frameon=False, loc="lower left", bbox_to_anchor=(1, 0))

    # What the figure shows, with its numbers.
    said = "; ".join(told)
    drawing.sentence = "Mean error ± 2 standard errors, and the share of runs that found the best "
    drawing.sentence += f"threshold: {said}."
    return drawing


def mean_error(landscape: Tensor, end: Tensor) -> tuple[float, float]:
    """Return the mean error of runs by their ends, and two standard errors of it.

    Args:
        landscape: error of each threshold.
        end: threshold that each run ended with.

    Returns:
        The mean, and two standard errors.
    """
    errors = landscape[end]
    two_errors = 2 * errors.std().item() / math.sqrt(len(end))
    return errors.mean().item(), two_errors


def restart_sentences(landscape: Tensor, ends: Mapping[str, Tensor]) -> list[str]:
    """Return what the runs say about cold starts, about restarts, and about the paper's floor.

    Args:
        landscape: error of each threshold; the search starts at the first.
        ends: by schedule; "constant 0.1", "one decay to 0.1", "two cycles to 0.1", "one decay to
            0.5" and "two cycles to 0.5" are compared.

    Returns:
        Lines of text, in order.
    """
    # How many runs leave the start.
    runs = len(ends["constant 0.1"])

    # How many runs of a schedule ended elsewhere.
    def left(name: str) -> int:
        return int((ends[name] != 0).sum())

    # The start is told by counts.
    text = f"Of {runs} runs, {left('constant 0.1')} leave the start at a constant temperature of "
    text += f"0.1, {left('one decay to 0.1')} with one decay to 0.1, "
    text += f"and {left('two cycles to 0.1')} with two cycles to 0.1."
    said = [text]
    # A run that leaves the start need not arrive at a better place.
    end = ends["two cycles to 0.1"]
    missed = end[(end != 0) & (end != int(landscape.argmin()))]
    if len(missed):
        mean = landscape[missed].mean().item()
        start = landscape[0].item()
        compared = "worse" if mean > start else "better"
        text = f"After two cycles to 0.1, {len(missed)} of the runs that left have missed the "
        text += f"best threshold. Their mean error is {mean:.3f}, {compared} than the "
        said.append(f"{text}{start:.3f} they began with.")
    # One decay against two cycles, for each floor.
    for floor in ("0.1", "0.5"):
        one = f"one decay to {floor}"
        two = f"two cycles to {floor}"
        first = landscape[ends[one]]
        second = landscape[ends[two]]
        said.append(compared_sentence(one, two, first, second))
    return said


def compared_sentence(one: str, two: str, errors: Tensor, others: Tensor) -> str:
    """Return whether the mean errors of two schedules differ by more than their noise.

    >>> a, b = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.2, 0.4])
    >>> compared_sentence("A", "B", a, b).endswith("So the difference may be chance.")
    True

    Args:
        one: name of the first schedule.
        two: name of the second schedule.
        errors: errors of the runs of the first.
        others: errors of the runs of the second.

    Returns:
        Text in plain English.
    """
    # The difference of the means beside its standard error.
    difference = (errors.mean() - others.mean()).item()
    variance = errors.var() / len(errors) + others.var() / len(others)
    noise = math.sqrt(variance.item())
    start = f"The mean errors of {one} and {two} differ by {abs(difference):.3f}: "
    # Within two standard errors nothing is said.
    if abs(difference) <= 2 * noise:
        return start + "at most two standard errors. So the difference may be chance."
    better = two if difference > 0 else one
    return start + f"more than two standard errors. Here {better} is better."


def who_leaves(ends: Mapping[str, Tensor]) -> str:
    """Return whether a restart frees runs after cooling to 0.1: "yes", "no" or "hardly".

    Args:
        ends: threshold that each run ended with, by schedule.

    Returns:
        Text in plain English.
    """
    one = (ends["one decay to 0.1"] != 0).float().mean().item()
    two = (ends["two cycles to 0.1"] != 0).float().mean().item()
    if two > one + 0.1:
        return "yes"
    return "hardly" if two > one else "no"


def cosines(gradients: Mapping[float, Tensor], exact: Tensor) -> list[str]:
    """Return a line for each temperature: how well gradients point along the exact one.

    Args:
        gradients: (S, K) by temperature, one row a sample.
        exact: (K,).

    Returns:
        Lines of text, in order.
    """
    # One line for each temperature.
    lines = []
    for temperature, rows in gradients.items():
        # The mean of all samples, and single ones.
        mean = torch.cosine_similarity(rows.mean(0), exact, dim=0).item()
        cosines = torch.cosine_similarity(rows, exact[None], dim=1)
        line = f"τ = {temperature:g}: cosine with the exact gradient {mean:.3f} for the mean, "
        lines.append(f"{line}{cosines.mean().item():.2f} on average for one sample")
    return lines
