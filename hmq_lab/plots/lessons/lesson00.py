"""Figures of lesson 00: the best threshold for few bits; bits and elements of a search's record."""

from __future__ import annotations

from collections.abc import Sequence

from hmq_lab.plots.frame import BLUE, INK, ORANGE, Drawing, canvas
from hmq_lab.plots.lessons import counted, listed
from hmq_lab.runs.records import Record


def error_by_threshold(
    exponents: Sequence[int], errors: Sequence[float], largest: float, bits: int
) -> Drawing:
    """Return the error of one layer over the threshold, and where its largest weight lies.

    Args:
        exponents: M of the thresholds 2^M.
        errors: root mean square error below each threshold.
        largest: the largest magnitude in the layer.
        bits: bit-width of the quantizer.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    import math

    # The error over the exponent, and a line at the largest weight.
    drawing, ax = canvas(height=3.2)
    ax.plot(exponents, errors, color=BLUE, marker="o", label=f"{bits} bits")
    ax.axvline(math.log2(largest), color=INK, ls="--", label="the largest weight")
    # Axes and legend.
    ax.set(xlabel="M of the threshold $2^M$", ylabel="root mean square error")
    ax.set(xticks=list(exponents), ylim=(0, None))
    ax.legend(frameon=False)
    # The best threshold, and on which side of the line it is.
    least = min(errors)
    best = exponents[list(errors).index(least)]
    side = "below" if 2.0**best < largest else "above"

    # What the figure shows, with its numbers.
    drawing.sentence = (
        f"The largest weight of this layer has the magnitude {largest:.2f}. With {bits} bits the "
    )
    drawing.sentence += (
        f"error is smallest with the threshold 2^{best} = {2.0**best:g}, which is {side} the "
    )
    drawing.sentence += f"largest weight; the error is then {least:.3f}."
    return drawing


def bits_and_elements(record: Record) -> Drawing:
    """Return the bits of every weight tensor beside the number of its elements.

    Args:
        record: of a search.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # Only weights have elements to compare.
    weights = [t for t in record.tensors if t["kind"] == "weight"]
    names = [t["name"].removesuffix(".weight") for t in weights]
    # Two bar charts share the names at the left.
    drawing, (left, right) = canvas(1, 2, height=0.3 * len(names) + 1.1, sharey=True)
    left.barh(names, [t["bits"] for t in weights], color=BLUE)
    right.barh(names, [t["size"] for t in weights], color=ORANGE, hatch="///", ec="white")
    left.invert_yaxis()
    # Axes and legend.
    left.set(xlabel="bits", xlim=(0, 8.4), title="bits after the search")
    right.set(xlabel="elements", title="elements of the tensor")

    # What the figure shows, with its numbers.
    drawing.sentence = kept_sentence(weights)
    return drawing


def kept_sentence(weights: Sequence[dict]) -> str:
    """Return which tensors have the most bits and which the fewest, and their elements.

    >>> kept_sentence([{"name": "a.weight", "bits": 8, "size": 10},
    ...                {"name": "b.weight", "bits": 3, "size": 900}])
    'The most bits, 8, are in a with 10 elements; the fewest, 3, in b with 900 elements.'

    Args:
        weights: name, bits and size of each weight tensor.

    Returns:
        Text in plain English.
    """
    # The two ends of the bits.
    most = max(t["bits"] for t in weights)
    fewest = min(t["bits"] for t in weights)
    if most == fewest:
        return f"Every weight tensor has {counted(most, 'bit')}."

    # One end in words: its tensors and their elements.
    def of(bits: int) -> str:
        found = [t for t in weights if t["bits"] == bits]
        names = [t["name"].removesuffix(".weight") for t in found]
        sizes = sum(t["size"] for t in found)
        together = " together" if len(found) > 1 else ""
        return f"{listed(names)} with {sizes:,} elements{together}"

    # Both ends in one sentence.
    return f"The most bits, {most}, are in {of(most)}; the fewest, {fewest}, in {of(fewest)}."


def small_or_large(record: Record) -> str:
    """Return which tensors kept the most bits: "the small ones", "the large ones" or "all alike".

    Args:
        record: of a search. The mean number of elements decides.

    Returns:
        Text in plain English.
    """
    # The tensors in two groups: the most bits, and fewer.
    weights = [t for t in record.tensors if t["kind"] == "weight"]
    most = max(t["bits"] for t in weights)
    kept = [t["size"] for t in weights if t["bits"] == most]
    lowered = [t["size"] for t in weights if t["bits"] < most]
    if not lowered:
        return "all alike"
    # The group that kept its bits is small or large on average.
    small = sum(kept) / len(kept) < sum(lowered) / len(lowered)
    return "the small ones" if small else "the large ones"
