"""Figures of lesson 05: mixtures, mixture against selection, samples, the logits' gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import seaborn as sns
from matplotlib.ticker import LogLocator
from torch import Tensor

from hmq_lab.plots.frame import BLUE, GREEN, INK, ORANGE, Drawing, canvas
from hmq_lab.quantizer import Scheme, quantize


def mixtures(
    x: Tensor, pair: Sequence[Scheme], mixed: Mapping[str, Tensor], step: float, threshold: float
) -> Drawing:
    """Return two mixtures of the same two quantizers, beside the quantizers themselves.

    Args:
        x: values along the axis.
        pair: the two schemes.
        mixed: results by the name of the mixture.
        step: the mixed step.
        threshold: the mixed threshold.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One panel for each mixture.
    drawing, axes = canvas(1, 2, height=3.6, sharey=True)
    counts = {name: len(y.unique()) for name, y in mixed.items()}
    for ax, (name, y) in zip(axes, mixed.items(), strict=True):
        looks = ((ORANGE, "--"), (GREEN, ":"))
        # The two quantizers themselves, below the mixture.
        for scheme, (colour, line) in zip(pair, looks, strict=True):
            hard = quantize(x, scheme.step, scheme.threshold, scheme.signed)
            label = f"{scheme.bits} bits below {scheme.threshold:g}"
            ax.plot(x, hard, color=colour, ls=line, lw=1.5, label=label)
        ax.plot(x, y, color=BLUE, lw=2.5, label=name)
        ax.set(title=f"{name}: {counts[name]} levels", xlabel="x")
        ax.legend(frameon=False, loc="upper left")
    axes[0].set_ylabel("Q(x)")
    # The numbers of levels go into the sentence.
    texts = [f"{name} give {count} levels" for name, count in counts.items()]
    told = " and ".join(texts)

    # What the figure shows, with its numbers.
    drawing.sentence = f"The mixed step is {step:g} and the mixed threshold {threshold:g}: {told}."
    return drawing


def mixture_and_selection(
    masses: Sequence[float], curves: Mapping[str, Sequence[float]], count: int
) -> Drawing:
    """Return the accuracy of the mixtures and of the selection, as the mass moves to 2 bits.

    Args:
        masses: probability on 2 bits, from 0 to 1.
        curves: accuracies (%) of "mixed parameters", "mixed outputs" and "selection".
        count: how many images an accuracy is of.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The three curves by their names.
    soft, outputs, hard = (
        curves[name] for name in ("mixed parameters", "mixed outputs", "selection")
    )
    percent = [100 * mass for mass in masses]
    # The selection jumps at half and half.
    drawing, ax = canvas(height=3.6)
    ax.plot(percent, soft, color=BLUE, marker="o", label="mixed parameters: the block")
    ax.plot(percent, outputs, color=GREEN, marker="D", ls=":", label="mixed outputs")
    jump = [hard[0], hard[0], hard[-1], hard[-1]]
    ax.plot([0, 50, 50, 100], jump, color=ORANGE, ls="--", lw=2.5, label="the selection")
    # Axes and legend.
    ax.set(xlabel="mass on 2 bits (%)", ylabel=f"accuracy (%) on {count:,} images")
    ax.legend(frameon=False)
    # The widest gap between block and selection.
    gaps = [s - h for s, h in zip(soft, hard, strict=True)]
    widest = max(gaps, key=abs)
    wide = gaps.index(widest)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"8 bits have {soft[0]:.1f} %, 2 bits {soft[-1]:.1f} %. The widest gap is with "
    )
    drawing.sentence += (
        f"{masses[wide]:.0%} of the mass on 2 bits: the block has {soft[wide]:.1f} % there, the "
    )
    drawing.sentence += f"selection {hard[wide]:.1f} %, mixed outputs {outputs[wide]:.1f} %."
    return drawing


def gap_sentence(masses: Sequence[float], soft: Sequence[float], hard: Sequence[float]) -> str:
    """Return whether the block or its selection is better on each side of half and half.

    >>> gap_sentence([0, 0.4, 0.6, 1], [90, 80, 60, 20], [90, 90, 20, 20])
    'With less than half of the mass on 2 bits, the block is 5.0 points worse than its selection \
on average; with more than half, it is 20.0 points better.'

    Args:
        masses: mass on 2 bits, from 0 to 1.
        soft: the block's accuracy (%) at each mass.
        hard: the selection's accuracy (%) at each mass.

    Returns:
        Text in plain English.
    """

    # One side in words.
    def side(places: list[int]) -> str:
        gap = sum(soft[i] - hard[i] for i in places) / len(places)
        return f"{abs(gap):.1f} points {'better' if gap > 0 else 'worse'}"

    # The masses on each side of half and half.
    less = [i for i, mass in enumerate(masses) if mass < 0.5]
    more = [i for i, mass in enumerate(masses) if mass > 0.5]
    return (
        f"With less than half of the mass on 2 bits, the block is {side(less)} than its selection "
        f"on average; with more than half, it is {side(more)}."
    )


def where_half_lies(eight: float, half: float, two: float) -> str:
    """Return where the accuracy at half and half lies.

    >>> where_half_lies(90.0, 88.0, 30.0), where_half_lies(90.0, 20.0, 30.0)
    ('near that of 8 bits', 'below both')

    Args:
        eight: accuracy (%) with 8 bits.
        half: accuracy (%) with half of the mass on each.
        two: accuracy (%) with 2 bits.

    Returns:
        Text in plain English.
    """
    # Outside the two ends, or near one of them.
    if half < min(eight, two):
        return "below both"
    share = (half - two) / (eight - two) if eight != two else 1.0
    if share > 0.75:
        return "near that of 8 bits"
    return "between the two" if share > 0.25 else "near that of 2 bits"


def spreads(found: Mapping[str, Mapping[int, tuple[float, float]]], draws: int) -> Drawing:
    """Return the spread of the logits' gradient, and its mean's length, over samples.

    Args:
        found: by tensor, then by number of samples, (spread, length of the mean).
        draws: of the noise, for each number.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One panel for each tensor.
    drawing, axes = canvas(1, 2, height=3.6)
    told = []
    for ax, (name, rows) in zip(axes, found.items(), strict=True):
        numbers = list(rows)
        # Noise and signal over the number of samples.
        noise = [spread for spread, _ in rows.values()]
        signal = [length for _, length in rows.values()]
        # Independent samples would lower the noise like this.
        ideal = [noise[0] / math.sqrt(n) for n in numbers]
        ax.loglog(numbers, noise, color=BLUE, marker="o", label="spread")
        ax.loglog(numbers, ideal, color=INK, ls=":", label="1 / √samples")
        mean = {"color": GREEN, "marker": "D", "ls": "--", "label": "length of the mean"}
        ax.loglog(numbers, signal, **mean)
        ax.set(title=name, xlabel="samples", ylabel="gradient of the logits")
        # Few numbers on the axes.
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks(numbers, numbers)
        ax.minorticks_off()
        tensor, *_ = name.split(":")
        text = f"{tensor}: the spread is {noise[0]:.2g} with one sample "
        told.append(f"{text}and {noise[-1]:.2g} with {numbers[-1]}")
    # One legend at the right.
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    # What the figure shows, with its numbers.
    drawing.sentence = f"Gradient of the logits over {draws} draws of the noise; {'; '.join(told)}."
    return drawing


def spread_sentences(found: Mapping[str, Mapping[int, tuple[float, float]]]) -> list[str]:
    """Return, for each tensor, noise against signal with one sample, and what more samples gain.

    >>> spread_sentences({"weight: by channels": {1: (4.0, 1.0), 4: (2.0, 1.0)}})[0]
    'Weight: with one shared sample the noise is 4.0 times the signal. With 4 samples it is 2.0 \
times smaller; 4 independent gradients would make it 2.0 times smaller.'

    Args:
        found: spread and length of the mean by number of samples, by tensor.

    Returns:
        Lines of text, in order.
    """
    # One part for each tensor.
    said = []
    for name, rows in found.items():
        # One shared sample, and the most samples.
        noise, signal = rows[1]
        most = max(rows)
        gain = noise / rows[most][0]
        tensor = name.partition(":")[0].capitalize()
        text = f"{tensor}: with one shared sample the noise is {noise / signal:.1f} times the "
        text += f"signal. With {most} samples it is {gain:.1f} times smaller; {most} independent "
        text += f"gradients would make it {math.sqrt(most):.1f} times smaller."
        said.append(text)
    return said


def logit_gradient(gradient: Tensor, exponents: Sequence[int], title: str) -> Drawing:
    """Return the gradient by each logit as a table of bits and thresholds.

    Args:
        gradient: (bits, thresholds).
        exponents: M of the thresholds 2^M.
        title: what the gradient is of.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Colours are even on both sides of 0.
    drawing, ax = canvas(height=3.8)
    reach = gradient.abs().max().item()
    # Right is larger, whatever the order of the block.
    order = sorted(range(len(exponents)), key=exponents.__getitem__)
    names = [f"$2^{{{exponents[column]}}}$" for column in order]
    style = {"cmap": "vlag", "vmin": -reach, "vmax": reach, "linewidths": 0.5}
    bar = {"label": "gradient"}
    rows = range(1, len(gradient) + 1)
    # More bits stand higher.
    labels = {"xticklabels": names, "yticklabels": rows}
    sns.heatmap(gradient[:, order].numpy(), ax=ax, cbar_kws=bar, **labels, **style)
    ax.invert_yaxis()
    ax.tick_params(axis="y", rotation=0)
    # Axes and legend.
    ax.set(xlabel="threshold", ylabel="bits", title=title)
    # Descent raises the logit with the least gradient most.
    row, column = divmod(int(gradient.argmin()), gradient.shape[1])

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"Descent raises most the logit of {row + 1} bits below 2^{exponents[column]}; the "
    )
    drawing.sentence += f"largest gradient has the magnitude {reach:.2g}."
    return drawing
