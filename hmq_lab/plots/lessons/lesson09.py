"""Figures of lesson 09: bits by part and by size, agreement, sensitivities, what a search buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns

from hmq_lab.plots import published
from hmq_lab.plots.frame import (
    BLUE,
    COLOURS,
    GREEN,
    MARKERS,
    ORANGE,
    PALE,
    RED,
    Drawing,
    canvas,
)
from hmq_lab.plots.lessons import listed
from hmq_lab.runs import records
from hmq_lab.runs.records import Record


def weights(record: Record) -> list[dict]:
    """Return the weight tensors of a record.

    Args:
        record: record of one search.

    Returns:
        The tensors, as the record has them.
    """
    return [t for t in record.tensors if t["kind"] == "weight"]


def bits(record: Record, key: str = "bits_before_repair") -> list[int]:
    """Return what the search chose, before the repair: it gives small tensors what is left.

    Args:
        record: record of one search.
        key: which number of a tensor to read.

    Returns:
        One number for each weight tensor.
    """
    return [t[key] for t in weights(record)]


def spearman(one: Sequence[float], two: Sequence[float]) -> float:
    """Return Spearman's rank correlation; NaN where a list is constant.

    >>> spearman([1, 2, 2], [3, 5, 5])
    1.0

    Args:
        one: first list of values.
        two: second list of values, in the same order.

    Returns:
        The correlation, from -1 to 1.
    """
    # Signs of all differences give the ranks, ties included.
    ranks = []
    for values in (one, two):
        signs = np.sign(np.subtract.outer(values, values))
        ranks.append(signs.sum(1).astype(float))
    # Ranks around 0: their cosine is the correlation.
    first, second = ranks
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale else float("nan")


def parts_and_sizes(found: Mapping[str, Record]) -> Drawing:
    """Return mean bits by part of the network, and by place among tensors of one size.

    Args:
        found: records of the same network, by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The parts of the network, in order.
    first = next(iter(found.values()))
    parts = [t["name"].split(".")[0] for t in weights(first)]
    order = list(dict.fromkeys(parts))
    # Mean bits by part at the left, one curve for each search.
    drawing, (left, right) = canvas(1, 2, height=3.8)
    for number, record in enumerate(found.values()):
        means = part_means(bits(record), parts, order)
        look = {"color": COLOURS[number % 4], "marker": MARKERS[number % 4]}
        look["ls"] = ("-", "--", ":")[number // 4 % 3]
        left.plot(range(len(order)), means, label=records.label(record), **look)
    left.set_xticks(range(len(order)), order)
    left.set(ylabel="mean bits of the part's tensors", ylim=(0.5, 8.5))

    # Mean bits by place at the right, one curve for each size.
    mean, groups = same_size(found)
    looks = zip(COLOURS, MARKERS, strict=True)
    for (size, places), (colour, marker) in zip(groups.items(), looks, strict=False):
        at = range(1, len(places) + 1)
        right.plot(at, mean[places], color=colour, marker=marker, label=f"{size:,} elements")
    right.set(xlabel="place among the tensors of one size")
    right.set(ylabel="mean bits over the searches", ylim=(0.5, 8.5))
    # Legends above and at the side.
    style = {"frameon": False, "fontsize": 9, "borderaxespad": 0}
    left.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.1, 1), **style)
    right.legend(**style)
    # Two lists of numbers for the sentence.
    means = part_means(mean.tolist(), parts, order)
    texts = [f"{part} {m:.1f}" for part, m in zip(order, means, strict=True)]
    by_part = ", ".join(texts)
    texts = []
    for size, places in groups.items():
        early, late = halves(mean, places)
        texts.append(f"{size:,}: {early:.1f} for the earlier half, {late:.1f} for the later")
    told = "; ".join(texts)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"Mean bits over the searches: {by_part}. Among tensors of one size, in elements: {told}."
    )
    return drawing


def part_means(values: Sequence[float], parts: Sequence[str], order: Sequence[str]) -> list[float]:
    """Return the mean of the values of each part.

    Args:
        values: the values, in order.
        parts: part that each value belongs to.
        order: the parts, in order.

    Returns:
        One mean for each part.
    """
    pairs = list(zip(values, parts, strict=True))
    means = []
    for wanted in order:
        own = [value for value, part in pairs if part == wanted]
        means.append(float(np.mean(own)))
    return means


def same_size(found: Mapping[str, Record]) -> tuple[np.ndarray, dict[int, list[int]]]:
    """Return mean bits over searches, and the places of tensors that share their size with two.

    Args:
        found: records of searches, by name.

    Returns:
        The means, and the places of the tensors by their size.
    """
    # Means over the searches, tensor by tensor.
    mean = np.mean([bits(r) for r in found.values()], axis=0)
    # Three tensors or more of one size make a group.
    sizes = [t["size"] for t in weights(next(iter(found.values())))]
    groups = {}
    for size in sorted(set(sizes)):
        places = [i for i, n in enumerate(sizes) if n == size]
        if len(places) > 2:
            groups[size] = places
    return mean, groups


def halves(mean: np.ndarray, places: Sequence[int]) -> tuple[float, float]:
    """Return the mean bits of the earlier half of some tensors and of the later half.

    >>> halves(np.array([8.0, 4.0, 3.0, 2.0, 1.0]), [0, 1, 2, 3, 4])
    (6.0, 1.5)

    Args:
        mean: mean bits of each tensor.
        places: places of the tensors, in order; one in the middle counts for neither half.

    Returns:
        The two means.
    """
    half = len(places) // 2
    return float(mean[places[:half]].mean()), float(mean[places[-half:]].mean())


def fewer_later(mean: np.ndarray, places: Sequence[int]) -> str:
    """Return whether the later half of some tensors has fewer bits: "yes", "no" or "equal".

    Args:
        mean: mean bits of each tensor.
        places: places of the tensors, in order.

    Returns:
        Text in plain English.
    """
    early, late = halves(mean, places)
    if abs(early - late) < 0.25:
        return "equal"
    return "yes" if late < early else "no"


def bright_columns(found: Mapping[str, Record], least: int = 8) -> str:
    """Return the tensors with at least this many bits in every search.

    Args:
        found: records of searches, by name.
        least: bits that a tensor needs in every search.

    Returns:
        Text in plain English.
    """
    first = next(iter(found.values()))
    lowest = np.min([bits(r, "bits") for r in found.values()], axis=0)
    pairs = zip(weights(first), lowest, strict=True)
    return listed(t["name"].removesuffix(".weight") for t, low in pairs if low >= least)


def correlations(found: Mapping[str, Record]) -> Drawing:
    """Return the rank correlation of the bits of every search with every other one.

    Args:
        found: records of the same network, by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Every search against every other one.
    labels = [records.label(r) for r in found.values()]
    selections = [bits(record) for record in found.values()]
    rows = [[spearman(one, other) for other in selections] for one in selections]
    table = np.array(rows)
    # A table with the number in each cell.
    drawing, ax = canvas(height=1.6 + 0.42 * len(labels))
    style = {"cmap": "cividis", "vmin": 0, "vmax": 1, "annot": True, "fmt": ".2f"}
    bar = {"label": "rank correlation"}
    names = {"xticklabels": labels, "yticklabels": labels}
    sns.heatmap(table, ax=ax, cbar_kws=bar, linewidths=0.5, **names, **style)
    ax.tick_params(axis="x", rotation=20)
    # The diagonal is always 1, and left out.
    off = table[~np.eye(len(labels), dtype=bool)]

    # What the figure shows, with its numbers.
    drawing.sentence = (
        "The order of the bits over the weight tensors, every search against every other: the "
    )
    drawing.sentence += f"rank correlations are {off.min():.2f} to {off.max():.2f}."
    return drawing


def sensitivities(chosen: Mapping[str, int], measures: Mapping[str, Sequence[float]]) -> Drawing:
    """Return the selected bits over four measures of a tensor.

    Args:
        chosen: bits by tensor.
        measures: by name, a number for each tensor in the same order. The last two are rises of
            the loss.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One panel for each measure.
    drawing, axes = canvas(1, 4, height=3.4, sharey=True)
    looks = zip(axes, COLOURS, MARKERS, strict=True)
    for (what, values), (ax, colour, marker) in zip(measures.items(), looks, strict=True):
        heights = list(chosen.values())
        ax.plot(values, heights, ls="none", marker=marker, color=colour, ms=8)
        ax.set(xlabel=what, ylim=(0.5, 8.5))
        ax.margins(x=0.12)
    # Sizes differ by powers of ten.
    axes[0].set_xscale("log")
    # Most rises are small, some may be below 0, one is large.
    for ax, values in zip(axes[2:], list(measures.values())[2:], strict=True):
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        ax.set_xlim(2 * min(0, *values) - 0.004, 2 * max(values))
    # One label at the left, one number for each measure.
    axes[0].set_ylabel("selected bits")
    correlations = measured(chosen, measures)
    told = ", ".join(f"{c:+.2f} with {what}" for what, c in correlations.items())

    # What the figure shows, with its numbers.
    drawing.sentence = f"The selected bits of {len(chosen)} tensors: rank correlation {told}."
    return drawing


def measured(
    chosen: Mapping[str, int], measures: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Return the rank correlation of the selected bits with each measure.

    Args:
        chosen: selected bits, by tensor.
        measures: values of each measure, one for each tensor.

    Returns:
        Rank correlation by measure.
    """
    bits = list(chosen.values())
    return {what: spearman(bits, values) for what, values in measures.items()}


def measures_sentence(correlation: Mapping[str, float], strong: float = 0.7) -> str:
    """Return which measures go with the selected bits, and which do not.

    >>> measures_sentence({"elements": -0.9, "error": 0.1})
    'elements goes with the selected bits (at least 0.7 in magnitude); error says less.'

    Args:
        correlation: rank correlation with the bits, by measure.
        strong: least magnitude that counts as strong.

    Returns:
        Text in plain English.
    """
    # The measures in two groups: strong and weak.
    good = [what for what, c in correlation.items() if abs(c) >= strong]
    rest = [what for what in correlation if what not in good]
    if not good:
        return f"No measure has a rank correlation of {strong:g} or more in magnitude."
    # Singular or plural.
    verb = "goes" if len(good) == 1 else "go"
    end = "."
    if rest:
        says = "says" if len(rest) == 1 else "say"
        end = f"; {listed(rest)} {says} less."
    told = f"{verb} with the selected bits (at least {strong:g} in magnitude)"
    return f"{listed(good)} {told}{end}"


def programmes_sentence(same: Mapping[str, float], losses: Mapping[str, float]) -> str:
    """Return which programme comes nearer to the search's choice, and what their losses are.

    >>> programmes_sentence({"rise": 0.9, "error": 0.1}, {"rise": 0.2, "error": 2.0, "search": 0.3})
    'The programme on the rise agrees with the search for more weights. Loss on these frozen \
weights: rise 0.200, error 2.000, search 0.300; the least is that of the rise.'

    Args:
        same: share of the weights with the same bits, by programme.
        losses: on the frozen weights, by programme, and of the search.

    Returns:
        Text in plain English.
    """
    # The programme that agrees more, and the one that loses less.
    nearer = max(same, key=same.__getitem__)
    least = min(losses, key=losses.__getitem__)
    texts = [f"{name} {loss:.3f}" for name, loss in losses.items()]
    told = ", ".join(texts)
    agrees = f"The programme on the {nearer} agrees with the search for more weights."
    # Equal shares are said to be equal.
    if max(same.values()) - min(same.values()) < 1e-9:
        agrees = "Both programmes agree with the search for the same share of the weights."
    end = f"Loss on these frozen weights: {told}; the least is that of the {least}."
    return f"{agrees} {end}"


def layer_kind(tensor: dict, number: int) -> str:
    """Return the kind of layer that a weight belongs to.

    Args:
        tensor: of a record.
        number: its place; the first convolution may have one input channel and be no depthwise one.

    Returns:
        Text in plain English.
    """
    if len(tensor["shape"]) == 2:
        return "linear"
    if tensor["shape"][1] == 1 and number:
        return "depthwise"
    return "pointwise" if tensor["shape"][2:] == [1, 1] else "convolution"


def has_depthwise(record: Record) -> bool:
    """Return whether a network has a depthwise convolution.

    Args:
        record: record of one search.

    Returns:
        True if one of its weights is depthwise.
    """
    return "depthwise" in [layer_kind(t, n) for n, t in enumerate(weights(record))]


def kinds(record: Record, seed: int) -> Drawing:
    """Return selected bits by the kind of layer, and what share of the weights a kind holds.

    Args:
        record: of a search.
        seed: of the small sideways shifts that separate equal points.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The kinds of layers, in the order of their names.
    tensors = weights(record)
    of = [layer_kind(t, number) for number, t in enumerate(tensors)]
    order = sorted(set(of))
    drawing, (left, right) = canvas(1, 2, height=3.6)
    # A mark is moved aside a little, so that equal ones do not hide each other.
    aside = np.random.default_rng(seed).uniform(-0.12, 0.12, len(tensors))
    late = np.arange(len(tensors)) >= len(tensors) / 2
    looks = ((False, "early", BLUE, "o", -0.18), (True, "late", ORANGE, "s", 0.18))
    # Early and late layers have their own marks.
    for is_late, half, colour, marker, shift in looks:
        chosen = np.flatnonzero(late == is_late)
        places = [order.index(of[i]) + shift + aside[i] for i in chosen]
        values = [bits(record)[i] for i in chosen]
        style = {"ls": "none", "color": colour, "marker": marker, "ms": 5, "alpha": 0.8}
        left.plot(places, values, label=f"{half} half", **style)
    left.set_xticks(range(len(order)), order)
    # Axes and legend.
    left.set(xlabel="", ylabel="selected bits", ylim=(0.5, 8.5))
    left.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # The weights that each kind holds, at the right.
    share = kind_shares(record)
    right.bar(order, [100 * share[o] for o in order], color=BLUE)
    right.set(ylabel="share of the weights (%)")
    # Mean bits and share of each kind, for the sentence.
    told = []
    for o in order:
        own = [b for b, k in zip(bits(record), of, strict=True) if k == o]
        told.append(f"{o} {np.mean(own):.1f} ({share[o]:.1%} of the weights)")
    name = f"{record.header['model']}, {records.label(record)}"

    # What the figure shows, with its numbers.
    drawing.sentence = f"{name}: mean bits of the tensors: {', '.join(told)}."
    return drawing


def kind_shares(record: Record) -> dict[str, float]:
    """Return the share of the weights that each kind of layer holds.

    Args:
        record: record of one search.

    Returns:
        Shares of the kinds.
    """
    # Sizes add up by kind, over all weights.
    tensors = weights(record)
    total = sum(t["size"] for t in tensors)
    shares: dict[str, float] = {}
    for number, t in enumerate(tensors):
        name = layer_kind(t, number)
        shares[name] = shares.get(name, 0.0) + t["size"] / total
    return shares


def ways_to_compress(
    ways: Mapping[str, Mapping[float, float]], searched: tuple[float, float]
) -> Drawing:
    """Return accuracy over compression for several ways to choose bits, and for one search.

    Args:
        ways: test accuracy (%) by way and compression.
        searched: compression and test accuracy (%) of HMQ's selection.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # A curve for each way.
    drawing, ax = canvas(height=3.8)
    looks = zip((ORANGE, GREEN, RED), "s^D", ("--", ":", "-"), strict=True)
    for (name, found), (colour, marker, line) in zip(ways.items(), looks, strict=False):
        style = {"color": colour, "marker": marker, "ls": line, "ms": 7}
        ax.plot(list(found), list(found.values()), label=name, **style)
    # The search is one point.
    star = {"color": BLUE, "marker": "*", "ms": 20, "mfc": "none", "mew": 2, "ls": "none"}
    ax.plot(*searched, label="HMQ, a recorded search", **star)
    ax.set(xlabel="compression", ylabel="test accuracy (%)")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # The two ends of each curve, for the sentence.
    told = []
    for name, found in ways.items():
        first, last = min(found), max(found)
        start = f"{name} {found[first]:.1f} % at {first:.3g}"
        told.append(f"{start} and {found[last]:.1f} % at {last:.3g}")

    # What the figure shows, with its numbers.
    drawing.sentence = f"Test accuracy by compression: {'; '.join(told)}. "
    drawing.sentence += f"HMQ's search has {searched[1]:.1f} % at {searched[0]:.3g}."
    return drawing


def gain_sentence(
    others: Mapping[str, float], hmq: float, images: int, compression: float = 8.0
) -> str:
    """Return what a search gains over other ways at one compression; where it loses comes first.

    >>> print(gain_sentence({"uniform": 80.0, "by error": 94.0}, hmq=93.5, images=2000))
    At a compression of 8 HMQ is 0.5 points below by error. It gains 13.5 points over uniform. \
Two standard errors of a difference are 1.6 points: the difference of HMQ and by error may be chance.

    Args:
        others: test accuracy (%) by way.
        hmq: test accuracy (%) of the search.
        images: how many test images there were.
        compression: of all of them.

    Returns:
        Text in plain English.
    """
    # Below comes first.
    below = {name: value - hmq for name, value in others.items() if value > hmq}
    above = {name: hmq - value for name, value in others.items() if value <= hmq}
    lost = [f"{points:.1f} points below {name}" for name, points in below.items()]
    gained = [f"{points:.1f} points over {name}" for name, points in above.items()]
    said = f"At a compression of {compression:.3g} HMQ is {listed(lost, 'below none of them')}."
    if gained:
        said += f" It gains {listed(gained)}."
    # The noise of a difference, as if the two were on different images.
    noise = 2 * (2 * hmq * (100 - hmq) / images) ** 0.5
    close = [name for name, value in others.items() if abs(value - hmq) <= noise]
    said += f" Two standard errors of a difference are {noise:.1f} points: "
    if not close:
        return said + "all differences are larger."
    return said + f"the difference of HMQ and {listed(close)} may be chance."


def training_sentence(ways: Mapping[str, Mapping[float, float]]) -> str:
    """Return what training changes for uniform bits, at the compressions where it was done.

    >>> training_sentence({"uniform": {8.0: 80.0, 16.0: 17.5}, "trained uniform": {16.0: 80.5}})
    'Training takes uniform bits from 17.5 % to 80.5 % at 16.'

    Args:
        ways: test accuracy (%) by way and compression; has "uniform" and "trained uniform".

    Returns:
        Text in plain English.
    """
    told = []
    for compression, after in ways["trained uniform"].items():
        before = ways["uniform"][compression]
        told.append(f"from {before:.1f} % to {after:.1f} % at {compression:.3g}")
    return f"Training takes uniform bits {listed(told)}."


def search_gains(found: Mapping[str, Record]) -> dict[float, tuple[float, float, float]]:
    """Return what searches gain over a network without training, by compression.

    Args:
        found: records of ResNet-20 on CIFAR10 with 8-bit activations, by name.

    Returns:
        {compression: (accuracy without training, mean of the searches, mean of their minutes)}.
        Compressions that no search had as its target are left out.
    """
    # The searches of each target that was measured without training, too.
    gains = {}
    for value in published.WITHOUT_TRAINING:
        same = [r for r in found.values() if r.header["target"]["weights"] == value.wcr]
        if same and value.wcr is not None:
            searched = float(np.mean([r.results["accuracy"]["test"] for r in same]))
            minutes = float(np.mean([r.timing["seconds"] for r in same])) / 60
            gains[value.wcr] = (value.accuracy, searched, minutes)
    return gains


def what_a_search_buys(found: Mapping[str, Record]) -> Drawing:
    """Return the accuracies of recorded searches beside a library that trains nothing.

    Args:
        found: records of ResNet-20 on CIFAR10 with 8-bit activations, by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One point for each search.
    drawing, ax = canvas(height=3.8)
    reached = [r.results["rates"]["weights"] for r in found.values()]
    accuracies = [r.results["accuracy"]["test"] for r in found.values()]
    searches = {"color": BLUE, "marker": "o", "ls": "none", "ms": 8}
    ax.plot(reached, accuracies, label="HMQ, recorded searches", **searches)
    # The library's points, and the float network.
    other = published.WITHOUT_TRAINING
    places = [v.wcr for v in other], [v.accuracy for v in other]
    style = {"color": ORANGE, "marker": "s", "ls": "--", "ms": 8}
    ax.plot(*places, label=f"{other[0].method}, no training", **style)
    floats = next(iter(found.values())).results["accuracy"]["float_test"]
    ax.axhline(floats, color=PALE, label="float network")
    ax.set(xlabel="compression", ylabel="test accuracy (%)")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    # What the figure shows, with its numbers.
    told = []
    for compression, (without, searched, minutes) in search_gains(found).items():
        told.append(
            f"at {compression:g} a search gains {searched - without:.1f} points "
            f"({searched:.1f} % instead of {without:.1f} %) in {minutes:.0f} minutes"
        )
    drawing.sentence = f"ResNet-20 on CIFAR10, float {floats:.2f} %: {'; '.join(told)}."
    return drawing
