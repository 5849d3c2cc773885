"""Figures of lesson 07: compressions, what stage 2 gives back, accuracy, 1-bit tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns

from hmq_lab.plots.frame import COLOURS, INK, MARKERS, Drawing, canvas
from hmq_lab.plots.lessons import listed
from hmq_lab.runs import records
from hmq_lab.runs.records import Record


def kind(record: Record) -> str:
    """Return what sets a search apart beside its target and seed.

    Args:
        record: record of one search.

    Returns:
        Text in plain English.
    """
    # A space without 1 bit is the rarer case, and named first.
    if 1 not in record.header["space"]["bits"]:
        return "without 1 bit"
    # Else the activations tell, and how the search was run.
    bits = record.header["target"]["activation_bits"]
    mode = ", hardware mode" if record.header.get("hardware_mode") else ""
    if is_distilled(record):
        mode += ", distilled"
    return f"{bits}-bit activations{mode}"


def is_distilled(record: Record) -> bool:
    """Return whether stage 2 learned from the float network: the recipe of quick/cifar10.

    Args:
        record: record of one search.

    Returns:
        True if it learned from the float network.
    """
    return record.header["settings"]["final_loss"] == "distillation"


def tensors(record: Record, of: str = "weight") -> list[dict]:
    """Return the tensors of a kind: "weight" or "activation".

    Args:
        record: record of one search.
        of: kind of tensor.

    Returns:
        The tensors, as the record has them.
    """
    return [t for t in record.tensors if t["kind"] == of]


def look(number: int) -> dict:
    """Return colour, marker and line of one of many curves.

    Args:
        number: number of the curve, from 0.

    Returns:
        Arguments of a plot, by name.
    """
    line = ("-", "--", ":")[number // 4 % 3]
    markers = MARKERS + "vPX*"
    marker = markers[number % len(markers)]
    return {"color": COLOURS[number % 4], "marker": marker, "ls": line}


def overview(found: Mapping[str, Record]) -> str:
    """Return a line for each search: epochs, compression, accuracies, minutes.

    Args:
        found: records of searches, by name.

    Returns:
        Text in plain English.
    """
    # The head of the table, as wide as the longest name.
    width = max(len(records.label(record)) for record in found.values())
    head = f"{'compr.':>8s}{'test %':>8s}{'float %':>9s}{'minutes':>9s}"
    lines = [f"{'':{width}s}{'epochs':>8s}{head}"]
    # One line for each search.
    for record in found.values():
        settings = record.header["settings"]
        results = record.results
        name = records.label(record)
        # Epochs of both stages, then the numbers.
        epochs = f"{settings['search_epochs']} + {settings['final_epochs']}"
        accuracy = results["accuracy"]
        minutes = record.timing["seconds"] / 60
        numbers = f"{results['rates']['weights']:8.2f}{accuracy['test']:8.2f}"
        numbers += f"{accuracy['float_test']:9.2f}{minutes:9.1f}"
        lines.append(f"{name:{width}s}{epochs:>8s}{numbers}")
    return "\n".join(lines)


def time_to_aim(record: Record, near: float = 0.99) -> float:
    """Return the part of stage 1 after which the expected compression first was near its end.

    Args:
        record: of a search.
        near: how near, as a part of the expected compression at the end.

    Returns:
        Part of stage 1, from 0 to 1.
    """
    steps = [e for e in record.of("step") if "expected_rate" in e]
    end = steps[-1]["expected_rate"]
    first = next(e["step"] for e in steps if e["expected_rate"] >= near * end)
    return first / steps[-1]["step"]


def part_class(part: float) -> str:
    """Return a part of the search in one of four classes.

    Args:
        part: part of the search, from 0 to 1.

    Returns:
        Text in plain English.
    """
    if part < 0.2:
        return "less than a fifth"
    if part < 0.4:
        return "a fifth to two fifths"
    return "two to three fifths" if part < 0.6 else "more than three fifths"


def expected_and_actual(found: Mapping[str, Record]) -> Drawing:
    """Return how far the actual compression is from the expected one, and both from the target.

    Args:
        found: records of searches by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Gaps over the epochs at the left, three ends of each search at the right.
    drawing, (left, right) = canvas(1, 2, height=3.6)
    over = []
    for number, record in enumerate(found.values()):
        gaps = epoch_gaps(record)
        at = range(1, len(gaps) + 1)
        left.plot(at, gaps, label=records.label(record), **look(number))
        # The three ends: expected, selected, repaired.
        repair = record.of("repair")[0]
        target = record.header["target"]["weights"]
        last = [e for e in record.of("epoch") if e["stage"] == 1][-1]
        ends = [last["expected_rate"], repair["rate_before"], repair["rate_after"]]
        over_target = [100 * (end / target - 1) for end in ends]
        right.plot(range(3), over_target, **look(number))
        over.append(100 * (record.results["rates"]["weights"] / target - 1))
    # 0 is the line to reach, on both sides.
    left.axhline(0, color=INK, lw=1)
    # Axes and legend.
    left.set(xlabel="after epoch of stage 1", ylabel="actual over expected (%)")
    most = max(len(epoch_gaps(record)) for record in found.values())
    left.set_xticks(range(1, 1 + most))
    right.axhline(0, color=INK, lw=1)
    right.set_xticks(range(3), ["expected", "selected", "repaired"])
    right.set(ylabel="over the target (%)", xlim=(-0.3, 2.3))
    drawing.legend(loc="outside right center", frameon=False, fontsize=9)
    # The largest gaps of all searches.
    early, late = gap_ends(found)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"After the first epoch the actual compression is up to {early:.0f} % off the expected "
    )
    drawing.sentence += (
        f"one, at the end of stage 1 up to {late:.1f} %. The repair brings every search to at most "
    )
    drawing.sentence += f"{max(over):.1f} % above its target."
    return drawing


def epoch_gaps(record: Record) -> list[float]:
    """Return actual over expected compression (%) after each epoch of stage 1.

    Args:
        record: record of one search.

    Returns:
        One gap (%) for each epoch.
    """
    epochs = [e for e in record.of("epoch") if e["stage"] == 1]
    return [100 * (e["actual_rate"] / e["expected_rate"] - 1) for e in epochs]


def gap_ends(found: Mapping[str, Record]) -> tuple[float, float]:
    """Return the largest gaps of all searches after the first and after the last epoch.

    Args:
        found: records of searches, by name.

    Returns:
        The largest gap (%) after the first epoch and after the last.
    """
    gaps = [epoch_gaps(record) for record in found.values()]
    first = max(abs(gap[0]) for gap in gaps)
    last = max(abs(gap[-1]) for gap in gaps)
    return first, last


def moves(record: Record) -> list[str]:
    """Return a line for each move of the repair, under a line for the search.

    Args:
        record: record of one search.

    Returns:
        Lines of text.
    """
    # The repair's move needs the tensor's size.
    sizes = {t["name"]: t["size"] for t in tensors(record)}
    repair = record.of("repair")[0]
    before = repair["rate_before"]
    after = repair["rate_after"]
    # One line for the search, one for each move.
    lines = [f"{records.label(record)}: {before:.2f} to {after:.2f}"]
    for move in repair["moves"]:
        name = move["name"].removesuffix(".weight")
        bits = f"{move['before']} to {move['after']} bits"
        lines.append(f"    {name:18s}{bits}, {sizes[move['name']]:,} elements")
    return lines


def repair_gives_to(found: Mapping[str, Record]) -> str:
    """Return to which tensors the repairs gave bits: "small ones" or "large ones".

    The mean size of the raised tensors is compared with the mean size of all tensors.

    Args:
        found: records of searches, by name.

    Returns:
        Text in plain English.
    """
    # The sizes of all tensors, and of those with more bits than before.
    raised: list[int] = []
    every: list[int] = []
    for record in found.values():
        sizes = {t["name"]: t["size"] for t in tensors(record)}
        every += sizes.values()
        more = [m for m in record.of("repair")[0]["moves"] if m["after"] > m["before"]]
        raised += [sizes[m["name"]] for m in more]
    # The two means are compared.
    if not raised:
        return "to none"
    return "to small ones" if np.mean(raised) < np.mean(every) else "to large ones"


def stage_two(found: Mapping[str, Record]) -> Drawing:
    """Return the validation accuracy over the epochs of both stages.

    Args:
        found: records of searches by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One curve for each search.
    drawing, ax = canvas(height=3.6)
    for number, record in enumerate(found.values()):
        epochs = record.of("epoch")
        accuracies = [e["validation_accuracy"] for e in epochs]
        at = range(1, len(epochs) + 1)
        ax.plot(at, accuracies, label=records.label(record), **look(number))
        # Epochs of stage 1 are hollow.
        first = [a for a, e in zip(accuracies, epochs, strict=True) if e["stage"] == 1]
        hollow = look(number) | {"ls": "none", "mfc": "white"}
        ax.plot(range(1, len(first) + 1), first, **hollow)
    # The float network is the line to reach.
    level = record.results["accuracy"]["float_validation"]
    ax.axhline(level, color=INK, ls="--", label="float network")
    # Axes and legend.
    ax.set(xlabel="after epoch (hollow: of stage 1)", ylabel="validation accuracy (%)")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    # What stage 2 gives back.
    back, share = given_back(found)

    # What the figure shows, with its numbers.
    drawing.sentence = "Compared with the repaired selection at the end of stage 1, stage 2 gains "
    drawing.sentence += (
        f"{min(back):.1f} to {max(back):.1f} points of validation accuracy. That is "
    )
    drawing.sentence += (
        f"{min(share):.0%} to {max(share):.0%} of what was missing to the float network."
    )
    return drawing


def given_back(found: Mapping[str, Record]) -> tuple[list[float], list[float]]:
    """Return what stage 2 gains in each search: points, and as a share of what was missing.

    Args:
        found: records of searches, by name.

    Returns:
        Points and shares, one for each search.
    """
    # Points gained, and their share of what was missing.
    back = []
    share = []
    for record in found.values():
        own = record.results["accuracy"]
        gained = own["validation"] - own["after_search"]
        back.append(gained)
        share.append(gained / (own["float_validation"] - own["after_search"]))
    return back, share


def accuracy_over_compression(found: Mapping[str, Record], plain: Mapping[str, Record]) -> Drawing:
    """Return test accuracy over compression of all searches, by their kind.

    Args:
        found: all of them.
        plain: those with 8-bit activations, for the sentence.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # A colour for the bits of activations, a marker for the rest; the plain ones come first.
    drawing, ax = canvas(height=4)
    names = {kind(r) for r in found.values()}
    kinds = sorted(names, key=lambda name: (name != "8-bit activations", name))
    tested = next(iter(found.values())).header["pictures"][2]
    parts = [name.partition("activations") for name in kinds]
    bits = list(dict.fromkeys(before for before, _, _ in parts))
    modes = list(dict.fromkeys(after for _, _, after in parts))
    colours = [COLOURS[bits.index(before) % 4] for before, _, _ in parts]
    markers = [MARKERS[modes.index(after) % 4] for _, _, after in parts]
    # One group of points for each kind, with standard errors.
    for name, colour, marker in zip(kinds, colours, markers, strict=False):
        group = [r for r in found.values() if kind(r) == name]
        x = [r.results["rates"]["weights"] for r in group]
        y = [r.results["accuracy"]["test"] for r in group]
        error = [(a * (100 - a) / tested) ** 0.5 for a in y]
        style = {"ls": "none", "color": colour, "marker": marker, "ms": 8, "capsize": 4, "lw": 1.2}
        ax.errorbar(x, y, yerr=error, label=name, **style)
    # One line for each float network.
    floats = sorted({r.results["accuracy"]["float_test"] for r in found.values()})
    for value in floats:
        label = "float network" if value == floats[0] else None
        ax.axhline(value, color=INK, ls="--", label=label)
    # Axes and legend.
    ax.set(xlabel="compression of the weights (32 / mean bits)", ylabel="test accuracy (%)")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    # The two ends of the plain searches.
    change = changes(plain)
    low = min(change)
    high = max(change)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"With 8-bit activations the test accuracy changes by {change[low]:+.2f} points at a "
    )
    drawing.sentence += (
        f"compression of {low:.2f} and by {change[high]:+.2f} at {high:.2f}. The bars are one "
    )
    drawing.sentence += f"standard error of an accuracy on {tested:,} images."
    return drawing


def changes(found: Mapping[str, Record]) -> dict[float, float]:
    """Return the change of the test accuracy against the float network, by compression.

    Args:
        found: records of searches, by name.

    Returns:
        Change (points) by compression.
    """
    told = {}
    for record in found.values():
        accuracy = record.results["accuracy"]
        told[record.results["rates"]["weights"]] = accuracy["test"] - accuracy["float_test"]
    return dict(sorted(told.items()))


def how_it_falls(change: Mapping[float, float]) -> str:
    """Return how accuracy falls with compression: "steadily", "mostly at the end", "mostly early".

    >>> how_it_falls({8.0: 0.0, 12.0: -0.1, 16.0: -1.0})
    'mostly at the end'

    The two halves of the range are compared by a straight line between measured points.

    Args:
        change: change of the accuracy (points), by compression.

    Returns:
        Text in plain English.
    """
    # The change half way between the two ends.
    x = np.array(list(change))
    y = np.array(list(change.values()))
    middle = np.interp((x[0] + x[-1]) / 2, x, y)
    # The falls before and after it are compared.
    first = y[0] - middle
    second = middle - y[-1]
    if second > 2 * first:
        return "mostly at the end"
    return "mostly early" if first > 2 * second else "steadily"


def four_bits_sentence(found: Mapping[str, Record], plain: Mapping[str, Record]) -> str:
    """Return what activations of fewer than 8 bits cost, beside searches of a similar target.

    Args:
        found: records of searches, by name.
        plain: records of the searches with 8-bit activations, by name.

    Returns:
        Text in plain English.
    """
    # One sentence for each search with fewer bits.
    told = []
    for record in found.values():
        bits = sorted({t["bits"] for t in tensors(record, "activation")})
        # The searches beside it learned from labels.
        if max(bits) >= 8 or is_distilled(record):
            continue
        # What the plain searches have at the same compression.
        own = record.results
        there = own["rates"]["weights"]
        straight = accuracy_at(plain, there)
        accuracy = own["accuracy"]["test"]
        text = f"{records.label(record)} has {accuracy:.2f} % at {there:.2f}; with 8-bit "
        text += "activations a straight line between the nearest searches gives "
        told.append(f"{text}{straight:.2f} %.")
    return " ".join(told) or "No search with activations below 8 bits is among these records."


def accuracy_at(plain: Mapping[str, Record], compression: float) -> float:
    """Return the test accuracy at a compression, on a straight line between searches.

    Args:
        plain: records of the searches with 8-bit activations, by name.
        compression: compression of the weights.

    Returns:
        Accuracy (%).
    """
    points = []
    for record in plain.values():
        found = record.results
        points.append((found["rates"]["weights"], found["accuracy"]["test"]))
    points.sort()
    x, y = zip(*points, strict=True)
    return float(np.interp(compression, x, y))


def what_costs_more(found: Mapping[str, Record], plain: Mapping[str, Record]) -> str:
    """Return which costs more: weights from 10 to 14, or activations from 8 bits to 4.

    Args:
        found: records of searches, by name.
        plain: records of the searches with 8-bit activations, by name.

    Returns:
        Text in plain English.
    """
    # The price of the weights is the fall from 10.5 to 14.
    weights = accuracy_at(plain, 10.5) - accuracy_at(plain, 14.0)
    # The price of the activations, search by search.
    losses = []
    for record in found.values():
        four = max(t["bits"] for t in tensors(record, "activation")) == 4
        if four and not record.header.get("hardware_mode") and not is_distilled(record):
            there = record.results["rates"]["weights"]
            losses.append(accuracy_at(plain, there) - record.results["accuracy"]["test"])
    # The two prices are compared.
    if not losses:
        return "no record of 4-bit activations"
    return "the activations" if np.mean(losses) > weights else "the weights"


def one_bit_lines(found: Mapping[str, Record]) -> list[str]:
    """Return for each search the share of weights with 1 bit, the least share, and where.

    Args:
        found: records of searches, by name.

    Returns:
        Lines of text, in order.
    """
    # Two lines for each search.
    lines = []
    for record in found.values():
        # The share of 1-bit weights, and the least share that its compression needs.
        ones = [t for t in tensors(record) if t["bits"] == 1]
        every = sum(t["size"] for t in tensors(record))
        share = sum(t["size"] for t in ones) / every
        least = max(0.0, 2 - 32 / record.results["rates"]["weights"])
        where = listed(t["name"].removesuffix(".weight") for t in ones)
        lines.append(f"{records.label(record)}: {share:.0%} of the weights, at least {least:.0%}")
        lines.append(f"    {where}")
    return lines


def octaves_below(found: Mapping[str, Record]) -> dict[int, list[int]]:
    """Return how many octaves below the highest choice the thresholds are, by selected bits.

    Args:
        found: records of searches, by name.

    Returns:
        Octaves of the tensors, by bits.
    """
    # Count octaves from the highest threshold of each tensor's own space.
    told: dict[int, list[int]] = {}
    for record in found.values():
        for t in tensors(record):
            octaves = t["space"]["exponents"][0] - t["threshold_exponent"]
            told.setdefault(t["bits"], []).append(octaves)
    return dict(sorted(told.items()))


def thresholds_by_bits(found: Mapping[str, Record]) -> Drawing:
    """Return how often each bit-width was selected with each threshold.

    Args:
        found: records of searches by name.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # A table of counts: octaves by bits.
    by_bits = octaves_below(found)
    deepest = max(max(values) for values in by_bits.values())
    counts = np.zeros((deepest + 1, max(by_bits)), int)
    for bits, values in by_bits.items():
        for octaves in values:
            counts[octaves, bits - 1] += 1
    # Empty cells have no number.
    drawing, ax = canvas(height=3.6)
    texts = np.where(counts, counts.astype(str), "")
    style = {"annot": texts, "fmt": "", "cmap": "cividis", "linewidths": 0.5}
    bar = {"label": "weight tensors"}
    columns = range(1, 1 + max(by_bits))
    sns.heatmap(counts, ax=ax, xticklabels=columns, cbar_kws=bar, **style)
    ax.tick_params(axis="y", rotation=0)
    # Axes and legend.
    ax.set(xlabel="selected bits", ylabel="octaves below the\nhighest threshold")
    # The mean of each column goes into the sentence.
    means = [f"{np.mean(values):.1f} with {bits}" for bits, values in by_bits.items()]
    told = ", ".join(means)

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The {counts.sum()} weight tensors of {len(found)} searches: how far their thresholds are "
    )
    drawing.sentence += (
        "below the highest one that a search could choose. On average, in octaves by bits: "
    )
    drawing.sentence += f"{told}."
    return drawing


def one_bit_threshold(found: Mapping[str, Record]) -> str:
    """Return where 1-bit tensors have their threshold, beside tensors of more bits.

    Args:
        found: records of searches, by name.

    Returns:
        Text in plain English.
    """
    # 1-bit tensors in one group, all others in the second.
    by_bits = octaves_below(found)
    one = by_bits.pop(1, [])
    rest = [octaves for values in by_bits.values() for octaves in values]
    if not one:
        return "no 1-bit tensor"
    # A quarter of an octave is no difference.
    difference = np.mean(one) - np.mean(rest)
    if abs(difference) < 0.25:
        return "about equal"
    return "lower" if difference > 0 else "higher"


def without_one_bit(found: Mapping[str, Record], plain: Mapping[str, Record]) -> list[str]:
    """Return what 1-bit tensors are worth, at targets that were also searched without them.

    Args:
        found: records of searches, by name.
        plain: records of the searches with 8-bit activations, by name.

    Returns:
        Lines of text, in order.
    """
    # One line for each search without 1 bit.
    lines = []
    for record in found.values():
        if 1 in record.header["space"]["bits"]:
            continue
        # Those beside it have the same target.
        target = record.header["target"]["weights"]
        others = [r for r in plain.values() if r.header["target"]["weights"] == target]
        told = listed(f"{r.results['accuracy']['test']:.2f} %" for r in others)
        own = record.results["accuracy"]["test"]
        lines.append(f"target {target:g}: {own:.2f} % without 1 bit, with it {told}")
    return lines or ["No search without 1 bit is among these records."]


def cost_lines(found: Mapping[str, Record]) -> tuple[list[str], list[float]]:
    """Return a line for each search with minutes and seconds an epoch, and stage 1 over stage 2.

    Args:
        found: records of searches, by name.

    Returns:
        The lines, and one ratio for each search.
    """
    # One line below the head for each search.
    width = max(len(records.label(record)) for record in found.values())
    head = f"{'minutes':>9s}{'s an epoch, stage 1':>21s}{'stage 2':>9s}{'ratio':>8s}"
    lines = [f"{'':{width}s}{head}"]
    ratios = []
    for record in found.values():
        # A teacher's forward passes would count as stage 2's.
        if is_distilled(record):
            continue
        # The median epoch of each stage.
        first, second = (float(np.median(epoch_seconds(record, stage))) for stage in (1, 2))
        ratios.append(first / second)
        minutes = record.timing["seconds"] / 60
        numbers = f"{minutes:9.1f}{first:21.0f}{second:9.0f}{ratios[-1]:8.2f}"
        lines.append(f"{records.label(record):{width}s}{numbers}")
    return lines, ratios


def epoch_seconds(record: Record, stage: int) -> list[float]:
    """Return the seconds of each epoch of a stage.

    Args:
        record: record of one search.
        stage: stage of the search, 1 or 2.

    Returns:
        One number for each epoch.
    """
    ends = [0.0, *(e["until"] for e in record.timing["epochs"])]
    pairs: Sequence = list(zip(record.timing["epochs"], ends[:-1], ends[1:], strict=True))
    return [end - begin for event, begin, end in pairs if event["stage"] == stage]
