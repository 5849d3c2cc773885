"""Figures of lesson 02: two errors, tables of bits and thresholds, distributions, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import seaborn as sns
from torch import Tensor

from hmq_lab.plots.frame import BLUE, COLOURS, GREEN, INK, MARKERS, ORANGE, RED, Drawing, canvas
from hmq_lab.plots.lessons import counted, listed
from hmq_lab.quantizer import quantize, threshold_exponent

WIDTHS = tuple(range(1, 9))


@dataclass(frozen=True)
class Surface:
    """What a tensor loses under every pair of a bit-width from 1 to 8 and a threshold.

    Attributes:
        lost: share of the sum of squares, (bits, thresholds).
        exponents: M of the thresholds, the smallest first.
        tight: M of the smallest power of two that no magnitude exceeds.
        signed: whether the schemes have a sign.
    """

    lost: np.ndarray
    exponents: tuple[int, ...]
    tight: int
    signed: bool

    def best(self, bits: int) -> int:
        """The M of the best threshold for a bit-width.

        Args:
            bits: bit-width.

        Returns:
            M of the threshold 2^M.
        """
        return self.exponents[int(self.lost[bits - 1].argmin())]

    def below(self, bits: int) -> int:
        """How many octaves the best threshold is below the tight one.

        Args:
            bits: bit-width.

        Returns:
            Number of octaves.
        """
        return self.tight - self.best(bits)


def surface(x: Tensor, octaves: int = 7) -> Surface:
    """Return what a tensor loses, with thresholds from one octave above the tight one downwards.

    Args:
        x: any shape; it gets a sign if a value is negative.
        octaves: how far below the tight threshold to go.

    Returns:
        The table of lost shares, one row for each bit-width.
    """
    # The sign and the tight threshold come from the tensor itself.
    x = x.detach().double().flatten()
    signed = bool((x < 0).any())
    tight = threshold_exponent(float(x.abs().max()))
    exponents = tuple(range(tight - octaves, tight + 2))
    squares = x.square().sum()
    # One row for each bit-width, one column for each threshold.
    rows = []
    for bits in WIDTHS:
        row = []
        for exponent in exponents:
            # Lost is the share of the sum of squares.
            threshold = 2.0**exponent
            step = threshold / 2 ** (bits - signed)
            error = quantize(x, step, threshold, signed) - x
            row.append((error.square().sum() / squares).item())
        rows.append(row)
    return Surface(np.array(rows), exponents, tight, signed)


def two_errors(
    thresholds: Sequence[float],
    rounding: np.ndarray,
    clipping: np.ndarray,
    powers: Mapping[int, float],
    largest: float,
    bits: int,
) -> Drawing:
    """Return the losses by rounding and by clipping over the threshold.

    Args:
        thresholds: any positive numbers.
        rounding: share of the sum of squares lost to rounding.
        clipping: the same for clipping.
        powers: the whole loss at powers of two, by exponent.
        largest: largest magnitude of the layer.
        bits: of the quantizer.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Three curves: each error alone, and their sum.
    total = rounding + clipping
    drawing, ax = canvas(height=3.6)
    ax.plot(thresholds, 100 * rounding, color=BLUE, ls="--", label="rounding")
    ax.plot(thresholds, 100 * clipping, color=ORANGE, ls=":", lw=2, label="clipping")
    ax.plot(thresholds, 100 * total, color=GREEN, lw=3, alpha=0.6, label="both")
    # A search can choose powers of two alone.
    at = [2.0**e for e in powers]
    values = [100 * lost for lost in powers.values()]
    ax.plot(at, values, "o", color=INK, label="powers of two")
    # The largest weight is the threshold that clips nothing.
    ax.axvline(largest, color=INK, lw=1)
    ax.annotate("largest weight", (largest, 0.08), (4, 0), textcoords="offset points")
    # Axes and legend.
    ax.set(xscale="log", yscale="log", ylim=(0.05, 500))
    ax.set(xlabel="threshold", ylabel="lost of the sum of squares (%)")
    ax.set_xticks(at, [f"$2^{{{e}}}$" for e in powers])
    ax.minorticks_off()
    ax.legend(frameon=False, ncols=4, loc="upper left")
    # The least of the sum is the best threshold.
    best = thresholds[int(total.argmin())]

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"With {bits} bits the threshold {best:.2f} loses least, {100 * total.min():.1f} % of the "
    )
    drawing.sentence += (
        f"sum of squares. It is {best / largest:.0%} of the largest weight. Below it clipping is "
    )
    drawing.sentence += "the larger error, above it rounding."
    return drawing


def place_of_best(ratio: float) -> str:
    """Return where the best threshold lies, from its ratio to the largest magnitude.

    Args:
        ratio: best threshold over the largest magnitude.

    Returns:
        Text in plain English.
    """
    if ratio > 1.05:
        return "above it"
    return "near it" if ratio > 0.8 else "well below it"


def surfaces(tables: Mapping[str, Surface]) -> Drawing:
    """Return tables of losses by bits and threshold, with the best threshold of every bit-width.

    Args:
        tables: two of them, by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One table for each tensor.
    drawing, axes = canvas(1, 2, height=4.4)
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        share = 100 * table.lost
        texts = [[_percent(v) for v in row] for row in share]
        columns = [f"$2^{{{e}}}$" for e in table.exponents]
        # Colours follow the logarithm, numbers are percent.
        style = {"cmap": "cividis_r", "cbar": False, "annot": texts, "fmt": ""}
        style |= {"annot_kws": {"fontsize": 9}, "linewidths": 0.5}
        sns.heatmap(np.log10(share), ax=ax, xticklabels=columns, yticklabels=WIDTHS, **style)
        ax.invert_yaxis()
        ax.tick_params(axis="y", rotation=0)
        # A ring marks the best threshold of each row.
        ring = {"ms": 30, "mfc": "none", "mec": RED, "mew": 1.8}
        for row, bits in enumerate(WIDTHS):
            column = table.exponents.index(table.best(bits))
            ax.plot(column + 0.5, row + 0.5, "o", **ring)
        ax.set_title(f"{name}\n{'signed' if table.signed else 'unsigned'}", loc="left")
        ax.set(xlabel="threshold", ylabel="bits")
    # How far the best threshold falls from 8 bits to 1.
    fallen = []
    for name, table in tables.items():
        octaves = table.best(8) - table.best(1)
        fallen.append(f"{counted(octaves, 'octave')} ({name})")

    # What the figure shows, with its numbers.
    drawing.sentence = (
        "Lost share of the sum of squares (%), by bits and threshold. Circles mark the best "
        f"threshold of each bit-width. From 8 bits to 1 bit it falls by {listed(fallen)}."
    )
    return drawing


def _percent(share: float) -> str:
    """Two digits, or whole percents from 100 % on."""
    return f"{share:.2g}" if share < 99.5 else f"{share:.0f}"


def wrong_octave_sentence(table: Surface, widths: Sequence[int] = (8, 2)) -> str:
    """Return what a threshold costs that is one octave too low, or one too high.

    >>> import torch
    >>> wrong_octave_sentence(surface(torch.linspace(-1, 1, 99)), (2,))[:47]
    'With 2 bits, a threshold one octave too low mul'

    Args:
        table: losses by bits and threshold.
        widths: bit-widths to tell of.

    Returns:
        Text in plain English.
    """
    # One part of the sentence for each bit-width.
    told = []
    for bits in widths:
        row = table.lost[bits - 1]
        at = int(row.argmin())
        # The neighbours of the best threshold, below and above.
        low = row[at - 1] / row[at]
        high = row[min(at + 1, len(row) - 1)] / row[at]
        said = f"With {bits} bits, a threshold one octave too low multiplies the lost share by "
        told.append(f"{said}{low:.1f}, and one octave too high by {high:.1f}.")
    return " ".join(told)


def two_histograms(weight: Tensor, activation: Tensor, names: tuple[str, str]) -> Drawing:
    """Return the distributions of a weight, and of an activation without its zeros.

    Args:
        weight: any shape.
        activation: any shape, not negative.
        names: of the two.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Weights at the left.
    drawing, (left, right) = canvas(1, 2, height=3)
    style = {"bins": 60, "stat": "percent", "edgecolor": "white", "lw": 0.3}
    sns.histplot(weight.flatten().numpy(), ax=left, color=BLUE, **style)
    # An activation after ReLU is mostly 0: its zeros would hide the rest.
    positive = activation[activation > 0].numpy()
    sns.histplot(positive, ax=right, color=ORANGE, **style)
    # Axes and legend.
    left.set(xlabel="weight", ylabel="weights (%)")
    right.set(xlabel="activation", ylabel="values above 0 (%)")
    left.set_title(names[0], loc="left")
    right.set_title(f"{names[1]}, without its zeros", loc="left")
    # Two numbers for the sentence.
    zeros = (activation == 0).float().mean()
    spread = weight.std() / weight.abs().max()

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The weights lie around 0; their standard deviation, {weight.std():.3f}, is {spread:.0%} "
    )
    drawing.sentence += (
        f"of the largest weight. {zeros:.0%} of the activation's values are exactly 0, a level "
    )
    drawing.sentence += (
        f"of every scheme. The others are positive and go up to {activation.max():.1f}."
    )
    return drawing


def distributions(
    widths: Sequence[int], found: Mapping[str, Sequence[tuple[float, float, float]]]
) -> Drawing:
    """Return the best real threshold of several tensors, and what a power of two costs.

    Args:
        widths: bit-widths.
        found: by tensor, for each bit-width the best threshold in standard deviations, what it
            loses, and what the best power of two loses.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Best thresholds at the left, the price of powers of two at the right.
    drawing, (left, right) = canvas(1, 2, height=3.8)
    looks = zip(COLOURS, MARKERS, ("-", "--", ":", "-."), strict=True)
    for (name, rows), (colour, marker, line) in zip(found.items(), looks, strict=True):
        style = {"color": colour, "marker": marker, "ls": line, "ms": 5, "label": name}
        left.plot(widths, [row[0] for row in rows], **style)
        right.plot(widths, [price_of_power(row) for row in rows], **style)
    # Axes and legend.
    left.set(xlabel="bits", ylabel="best threshold (standard deviations)", yscale="log")
    left.set_yticks((0.5, 1, 2, 4, 8), ["0.5", "1", "2", "4", "8"])
    left.minorticks_off()
    left.legend(frameon=False)
    right.set(xlabel="bits")
    right.set(ylabel="error of the best power of two,\ndecibels above that of the best")
    # The sentence takes 4 bits as its example.
    at = list(widths).index(4)
    texts = [f"{rows[at][0]:.1f} for {name}" for name, rows in found.items()]
    told = ", ".join(texts)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"With 4 bits the best threshold in standard deviations is {told}. {price_sentence(found)}"
    )
    return drawing


def price_of_power(row: tuple[float, float, float]) -> float:
    """Return by how many decibels the best power of two loses more than the best threshold.

    Args:
        row: best threshold, its error, and the error of the best power of two.

    Returns:
        Decibels.
    """
    return float(10 * np.log10(row[2] / row[1]))


def price_sentence(found: Mapping[str, Sequence[tuple[float, float, float]]]) -> str:
    """Return what a power of two costs beside what one bit gains, in decibels.

    Args:
        found: rows of `price_of_power`, one for each bit-width, by tensor.

    Returns:
        Text in plain English.
    """
    # The price of a power of two, and the gain of one more bit.
    price = [price_of_power(row) for rows in found.values() for row in rows]
    gain = []
    for rows in found.values():
        for few, more in pairwise(rows):
            gain.append(float(10 * np.log10(few[1] / more[1])))
    # Their means are compared.
    compared = "less" if np.mean(price) < np.mean(gain) else "more"
    text = f"The power of two costs {np.mean(price):.1f} decibels on average, between "
    text += f"{min(price):.1f} and {max(price):.1f}. That is {compared} than one bit gains: "
    return text + f"{np.mean(gain):.1f} on average, {min(gain):.1f} at least."


def accuracy_over_error(
    trials: Mapping[str, Sequence[tuple[float, float]]], whole: float
) -> Drawing:
    """Return accuracy over lost share, for one tensor at a time with 2 bits and four thresholds.

    Args:
        trials: by tensor, pairs (lost in %, accuracy in %), from the tight threshold downwards.
        whole: accuracy of the float network (%).

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One small panel for each tensor.
    drawing, axes = canvas(2, 4, height=4.9, sharex=True, sharey=True)
    places = ("tight", "1 octave below", "2 octaves below", "3 octaves below")
    # The float network's accuracy is the line to reach.
    for ax, (name, pairs) in zip(axes.flat, trials.items(), strict=True):
        ax.axhline(whole, color=INK, lw=1, ls=":")
        looks = zip(places, COLOURS, MARKERS, strict=True)
        for (lost, accuracy), (place, colour, marker) in zip(pairs, looks, strict=True):
            style = {"color": colour, "marker": marker, "ls": "none", "ms": 7, "label": place}
            ax.plot(lost, accuracy, **style)
        # A ring marks the least error.
        ring = {"mfc": "none", "mec": INK, "mew": 1.5, "ls": "none"}
        ring["ms"] = 15
        ax.plot(*min(pairs), "o", label="least error", **ring)
        ax.set_title(name.removesuffix(".weight"), loc="left")
    # Labels stand at the outer edges alone.
    for ax in axes[-1]:
        ax.set_xlabel("lost (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy (%)")
    # One legend for all panels.
    handles = axes[0, 0].get_legend_handles_labels()
    drawing.legend(*handles, loc="outside upper center", ncols=5, frameon=False)

    # What the figure shows, with its numbers.
    drawing.sentence = f"Dotted, the float network's {whole:.1f} %. {agreement_sentence(trials)}"
    return drawing


def agreeing(trials: Mapping[str, Sequence[tuple[float, float]]]) -> int:
    """Return for how many tensors the threshold with the least error has the best accuracy.

    Args:
        trials: pairs of loss (%) and accuracy (%), one for each threshold, by tensor.

    Returns:
        Number of tensors.
    """
    count = 0
    for pairs in trials.values():
        _, accuracy = min(pairs)
        count += accuracy == max(other for _, other in pairs)
    return count


def agreement_sentence(trials: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return how often the least error is the best accuracy, and where they differ most.

    >>> agreement_sentence({"a": [(1.0, 90.0), (2.0, 80.0)], "b": [(1.0, 70.0), (3.0, 75.0)]})
    'The threshold with the least error is also the best for accuracy in 1 of 2 tensors. In b it \
gives 70.0 %; another one gives 75.0 % although it loses 3 instead of 1 % of the squares.'

    Args:
        trials: pairs of loss (%) and accuracy (%), one for each threshold, by tensor.

    Returns:
        Text in plain English.
    """
    # How often the two agree.
    start = (
        "The threshold with the least error is also the best for accuracy in "
        f"{agreeing(trials)} of {len(trials)} tensors."
    )
    if agreeing(trials) == len(trials):
        return start
    # The tensor in which they differ most.
    highest = {}
    gained = {}
    for name, pairs in trials.items():
        highest[name] = max(pairs, key=lambda pair: pair[1])
        _, accuracy = min(pairs)
        gained[name] = highest[name][1] - accuracy
    gap = max(gained, key=lambda name: gained[name])
    lost, accuracy = min(trials[gap])
    other, best = highest[gap]
    text = (
        f"{start} In {gap} it gives {accuracy:.1f} %; another one gives {best:.1f} % although it "
    )
    return text + f"loses {other:.0f} instead of {lost:.0f} % of the squares."


def rank_sentence(pairs: Mapping[str, tuple[float, float]]) -> str:
    """Return whether the tensors that lose most are also those with the lowest accuracy.

    Args:
        pairs: by tensor (lost, accuracy).

    Returns:
        Text in plain English.
    """
    # Losses and accuracies, tensor by tensor.
    lost = [pair[0] for pair in pairs.values()]
    accuracy = [pair[1] for pair in pairs.values()]
    # Ranks, and how they go together.
    ranks = np.argsort(np.argsort([lost, accuracy], axis=1), axis=1).astype(float)
    correlation = float(np.corrcoef(ranks)[0, 1])
    start = f"The rank correlation of error and accuracy over the tensors is {correlation:+.2f}"
    if correlation < -0.6:
        return f"{start}: here the tensors that lose most do hurt most."
    return f"{start}: a tensor that loses much need not hurt much."
