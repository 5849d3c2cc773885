"""Figures of lesson 08: shares by kind of layer, bits of activations, actual ACR, small layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hmq_lab import budget
from hmq_lab.plots.frame import BLUE, COLOURS, HATCHES, INK, MARKERS, ORANGE, PALE, Drawing, canvas
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

KINDS = ("depthwise", "pointwise", "squeeze and excite", "other convolutions", "fully connected")


def kind(name: str, shape: Sequence[int]) -> str:
    """Return the kind of layer that a weight belongs to.

    >>> kind("features.1.conv.0.weight", (96, 16, 1, 1)), kind("classifier.1.weight", (10, 1280))
    ('pointwise', 'fully connected')

    Squeeze and excite is two 1x1 convolutions on pooled vectors.

    Args:
        name: name of the weight.
        shape: shape of the weight, output channels first.

    Returns:
        Text in plain English.
    """
    # A matrix is a fully connected layer.
    if len(shape) == 2:
        return "fully connected"
    # The shape alone does not show squeeze and excite.
    if ".fc1." in name or ".fc2." in name:
        return "squeeze and excite"
    # One input channel for each filter is depthwise.
    if shape[1] == 1:
        return "depthwise"
    return "pointwise" if math.prod(shape[2:]) == 1 else "other convolutions"


def kind_shares(weights: Sequence[tuple[str, int]]) -> tuple[list[float], list[float]]:
    """Return the shares (%) of the tensors and of the elements that each kind has.

    Args:
        weights: kind and size of each weight tensor.

    Returns:
        Shares of the kinds.
    """
    every = sum(size for _, size in weights)
    tensors = []
    elements = []
    for wanted in KINDS:
        sizes = [size for own, size in weights if own == wanted]
        tensors.append(100 * len(sizes) / len(weights))
        elements.append(100 * sum(sizes) / every)
    return tensors, elements


def shares(found: Mapping[str, tuple[list[float], list[float]]]) -> Drawing:
    """Return the shares of the kinds of layers in tensors and in elements, by network.

    Args:
        found: by network, shares of the tensors and of the elements (%), in the order of KINDS.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Tensors at the left, elements at the right.
    names = list(found)
    drawing, axes = canvas(1, 2, height=3.4, sharey=True)
    colours = [*COLOURS, PALE]
    for ax, which, label in zip(axes, (0, 1), ("tensors", "elements"), strict=True):
        # The shares of a network stand end to end.
        left = np.zeros(len(names))
        for number, wanted in enumerate(KINDS):
            values = np.array([found[name][which][number] for name in names])
            style = {"color": colours[number], "hatch": HATCHES[number], "edgecolor": "white"}
            ax.barh(names, values, left=left, lw=0, label=wanted, **style)
            # A share is written where there is room.
            for at in np.flatnonzero(values >= 8):
                box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
                place = {"ha": "center", "va": "center", "fontsize": 9, "bbox": box}
                middle = left[at] + values[at] / 2
                ax.text(middle, at, f"{values[at]:.0f}", **place)
            left += values
        ax.set(xlabel=f"share of the weight {label} (%)", xlim=(0, 100))
        ax.grid(False, axis="y")
    # One legend above both.
    axes[0].invert_yaxis()
    handles = axes[0].get_legend_handles_labels()
    drawing.legend(*handles, ncols=len(KINDS), loc="outside upper left", frameon=False)
    # The sentence is about depthwise layers.
    told = []
    for name, (tensors, elements) in found.items():
        if tensors[0]:
            text = f"{name} {tensors[0]:.0f} % of the tensors "
            told.append(f"{text}and {elements[0]:.1f} % of the elements")

    # What the figure shows, with its numbers.
    drawing.sentence = f"Depthwise convolutions hold: {'; '.join(told)}."
    return drawing


def activation_bits(sizes: Mapping[str, Mapping[str, int]], acr: float) -> Drawing:
    """Return the size of every activation, and which ones get fewer than 8 bits.

    Args:
        sizes: elements of each activation, by network.
        acr: target compression of the largest activation.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One panel for each network.
    drawing, axes = canvas(1, len(sizes), height=3.4, sharey=True)
    axes = np.atleast_1d(axes)
    for ax, (name, own) in zip(axes, sizes.items(), strict=True):
        # The paper's rule gives the bits.
        bits = budget.activation_bits(own, acr)
        size = np.array(list(own.values()))
        width = np.array([bits[n] for n in own])
        place = np.arange(len(size))
        # Two marks: 8 bits, and fewer.
        full = width == 8
        ax.plot(place[full], size[full], "o", color=BLUE, ms=5)
        ax.plot(place[~full], size[~full], "s", color=ORANGE, ms=8)
        # What is above the line has no room for 8 bits.
        room = 4 * size.max() / acr
        ax.axhline(room, color=INK, ls="--", lw=1)
        ax.set(title=name, xlabel="activation, in order", yscale="log")
    # The legend is made by hand: a panel may lack one of the marks.
    axes[0].set_ylabel("elements of an image")
    entries = [("o", BLUE, "8 bits"), ("s", ORANGE, "fewer")]
    entries.append(("--", INK, "room for 8 bits"))
    lines = []
    for look, colour, text in entries:
        lines += axes[0].plot([], [], look, color=colour, label=text)
    drawing.legend(handles=lines, ncols=3, loc="outside upper left", frameon=False)
    # The counts go into the sentence.
    texts = []
    for name, own in sizes.items():
        bits = budget.activation_bits(own, acr)
        texts.append(f"{name} {bit_counts(bits)}")
    told = "; ".join(texts)

    # What the figure shows, with its numbers.
    drawing.sentence = f"Activations at an ACR of {acr:g}: {told}."
    return drawing


def bit_counts(bits: Mapping[str, int]) -> str:
    """Return how many tensors have each bit-width.

    >>> bit_counts({"a": 8, "b": 4, "c": 8})
    '1 of 4 bits, 2 of 8 bits'

    Args:
        bits: bits of each tensor, by name.

    Returns:
        Text in plain English.
    """
    counts = Counter(bits.values())
    texts = [f"{counts[width]} of {width} bits" for width in sorted(counts)]
    return ", ".join(texts)


def four_bit_class(bits: Mapping[str, int]) -> str:
    """Return how many tensors have 4 bits: "one", "a few", "about half" or "nearly all".

    Args:
        bits: bits of each tensor, by name.

    Returns:
        Text in plain English.
    """
    # Their share puts them in one of four classes.
    four = sum(width == 4 for width in bits.values())
    share = four / len(bits)
    if four == 1:
        return "one"
    if share < 0.3:
        return "a few"
    return "about half" if share < 0.7 else "nearly all"


def times_class(factor: float) -> str:
    """Return how many times more: "below 100", "100 to 1,000", "1,000 to 10,000" or "more".

    >>> times_class(3923.4)
    '1,000 to 10,000'

    Args:
        factor: a number above 0.

    Returns:
        Text in plain English.
    """
    names = ("below 100", "100 to 1,000", "1,000 to 10,000", "more")
    return names[sum(factor >= end for end in (100, 1000, 10_000))]


def actual_acr(sizes: Mapping[str, int], bits: Mapping[str, int]) -> float:
    """Return the compression of the largest activation: float over quantized.

    Args:
        sizes: elements of each tensor, by name.
        bits: bits of each tensor, by name.

    Returns:
        The compression, 1 or more.
    """
    largest = max(sizes[name] * bits[name] for name in sizes)
    return 32 * max(sizes.values()) / largest


def acr_curves(sizes: Mapping[str, Mapping[str, int]], targets: Sequence[int]) -> Drawing:
    """Return, over the target, how many activations lose bits and what the actual ACR is.

    Args:
        sizes: elements of each activation, by network.
        targets: of the ACR.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One curve for each network, in both panels.
    drawing, (left, right) = canvas(1, 2, height=3.4)
    ends = {}
    for number, (name, own) in enumerate(sizes.items()):
        # Bits, their share below 8, and the actual ACR.
        tables = [budget.activation_bits(own, float(target)) for target in targets]
        fewer = [100 * np.mean([b < 8 for b in bits.values()]) for bits in tables]
        actual = [actual_acr(own, bits) for bits in tables]
        look = {"color": COLOURS[number], "marker": MARKERS[number]}
        look |= {"markevery": (number, 4), "ms": 6}
        left.plot(targets, fewer, label=name, **look)
        right.plot(targets, actual, **look)
        ends[name] = max(actual)
    # The diagonal: as much as was asked for.
    right.plot(targets, targets, color=INK, ls="--", lw=1)
    right.text(20, 21, "target", rotation=30, ha="center", fontsize=9)
    # Axes and legend.
    left.set(xlabel="target ACR", ylabel="activations below 8 bits (%)")
    right.set(xlabel="target ACR", ylabel="actual ACR", ylim=(0, 33))
    left.legend(frameon=False)
    # The largest actual ACR of each network.
    texts = [f"{end:.1f} for {name}" for name, end in ends.items()]
    told = ", ".join(texts)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The largest actual ACR of each network is {told}. Above it a higher target only takes "
        "bits from more and more activations."
    )
    return drawing


def record_lines(found: Mapping[str, Record]) -> list[str]:
    """Return a few lines for each record: data, epochs, compression, bits of activations.

    Args:
        found: records by name.

    Returns:
        Lines of text, in order.
    """
    # Four lines for each record.
    lines = []
    for name, record in found.items():
        header = record.header
        results = record.results
        used = record.header["settings"]
        pixels = header["picture"][-1]
        lines.append(f"{name}: {header['model']} on {header['data']}, {pixels} pixels")
        # How it was searched.
        epochs = f"{used['search_epochs']} + {used['final_epochs']} epochs"
        lines.append(f"    {epochs}, {header['pictures'][0]:,} training images")
        # What came out.
        rates = results["rates"]
        told = f"weights {rates['weights']:.2f} / all {rates['all_weights']:.2f}"
        lines.append(f"    compression: {told} / checkpoint {rates['checkpoint']:.2f}")
        bits = {t["name"]: t["bits"] for t in record.tensors if t["kind"] == "activation"}
        lines.append(f"    ACR {rates['activations']:.2f}: {bit_counts(bits)}")
    return lines


def accuracy_lines(record: Record) -> tuple[list[str], float]:
    """Return accuracies with their standard errors, and two standard errors of the larger one.

    Args:
        record: record of one search.

    Returns:
        The lines, and two standard errors (points).
    """
    # Both accuracies and their standard errors.
    accuracy = record.results["accuracy"]
    tested = record.header["pictures"][2]
    own = accuracy["test"]
    before = accuracy["float_test"]
    error = [(a * (100 - a) / tested) ** 0.5 for a in (own, before)]
    # The difference as a number of images.
    changed = abs(own - before) / 100 * tested
    lines = [f"{tested:,} test images"]
    lines.append(f"    float     {before:.2f} %, standard error {error[1]:.2f}")
    searched = f"    searched  {own:.2f} %, standard error {error[0]:.2f}"
    lines.append(f"{searched}: {own - before:+.2f} points")
    least = f"its standard error is at least {changed**0.5:.1f} images"
    lines.append(f"    the difference is {changed:.0f} images; {least}")
    return lines, 2 * max(error)


def bits_by_size(record: Record) -> Drawing:
    """Return the searched bits of every weight over its elements and over its place.

    Args:
        record: of a search.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One mark for each kind of layer.
    found = [t for t in record.tensors if t["kind"] == "weight"]
    drawing, (left, right) = canvas(1, 2, height=3.6, sharey=True)
    groups = grouped(record)
    colours = [*COLOURS, INK]
    for number, (wanted, group) in enumerate((k, g) for k, g in groups.items() if g):
        look = {"color": colours[number], "marker": "osD^v"[number]}
        look |= {"ls": "none", "alpha": 0.8}
        # Marks of different kinds are moved apart a little.
        bits = np.array([t["bits_before_repair"] for t in group])
        bits = bits + 0.08 * (number - 1)
        left.plot([t["size"] for t in group], bits, label=wanted, **look)
        right.plot([found.index(t) for t in group], bits, **look)
    # Axes and legend.
    left.set(xscale="log", xlabel="elements", ylabel="bits, as searched")
    left.set(ylim=(0.5, 8.6), yticks=range(1, 9))
    right.set(xlabel="place in the network")
    drawing.legend(ncols=len(KINDS), loc="outside upper left", frameon=False)
    # The means go into the sentence.
    texts = [f"{wanted} {mean_bits(group):.1f}" for wanted, group in groups.items() if group]
    means = ", ".join(texts)
    name = f"{record.header['model']}, {records.label(record)}"

    # What the figure shows, with its numbers.
    drawing.sentence = f"{name}: mean bits of a tensor before the repair: {means}. "
    drawing.sentence += same_size_sentence(groups)
    return drawing


def grouped(record: Record) -> dict[str, list[dict]]:
    """Return the weight tensors of a record by kind.

    Args:
        record: record of one search.

    Returns:
        Weight tensors by kind.
    """
    found = [t for t in record.tensors if t["kind"] == "weight"]
    groups: dict[str, list[dict]] = {wanted: [] for wanted in KINDS}
    for t in found:
        groups[kind(t["name"], t["shape"])].append(t)
    return groups


def mean_bits(group: Sequence[dict]) -> float:
    """Return the mean bits of some tensors, before the repair.

    Args:
        group: weight tensors of a record.

    Returns:
        The mean number of bits.
    """
    return float(np.mean([t["bits_before_repair"] for t in group]))


def pointwise_of_same_size(groups: Mapping[str, Sequence[dict]]) -> list[dict]:
    """Return the pointwise tensors that are as small as the depthwise ones.

    Args:
        groups: weight tensors by kind.

    Returns:
        The tensors, as the record has them.
    """
    sizes = [t["size"] for t in groups["depthwise"]]
    if not sizes:
        return []
    return [t for t in groups["pointwise"] if min(sizes) <= t["size"] <= max(sizes)]


def same_size_sentence(groups: Mapping[str, Sequence[dict]]) -> str:
    """Return the mean bits of depthwise tensors beside pointwise ones of the same size.

    Args:
        groups: weight tensors by kind.

    Returns:
        Text in plain English.
    """
    # Only tensors of the same size are compared.
    near = pointwise_of_same_size(groups)
    if not near:
        return "No pointwise tensor is as small as the depthwise ones."
    text = f"The {len(near)} pointwise tensors that are as small as the depthwise ones have "
    return (
        text
        + f"{mean_bits(near):.1f} bits, the depthwise ones {mean_bits(groups['depthwise']):.1f}."
    )


def depthwise_more(groups: Mapping[str, Sequence[dict]]) -> str:
    """Return whether depthwise tensors have more bits than pointwise ones of the same size.

    Args:
        groups: weight tensors by kind.

    Returns:
        Text in plain English.
    """
    # Only tensors of the same size are compared.
    near = pointwise_of_same_size(groups)
    if not near:
        return "nothing to compare"
    # A quarter of a bit is no difference.
    difference = mean_bits(groups["depthwise"]) - mean_bits(near)
    if abs(difference) < 0.25:
        return "about the same"
    return "more" if difference > 0 else "fewer"
