"""Figures of lesson 01: the bias of roundings, the levels of two ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hmq_lab.plots.frame import BLUE, COLOURS, MARKERS, ORANGE, Drawing, canvas
from hmq_lab.quantizer import Scheme


def rounding_bias(dropped: Sequence[int], bias: Mapping[str, Sequence[float]]) -> Drawing:
    """Return the mean error of several roundings over the bits dropped.

    Args:
        dropped: numbers of bits.
        bias: mean errors in units of the new step, by rounding; "down", "half up" and "half to
            even" are in the sentence.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # One curve for each rounding.
    drawing, ax = canvas(height=3.2)
    looks = zip(COLOURS, MARKERS, (":", "--", "-"), strict=False)
    for (name, errors), (colour, marker, line) in zip(bias.items(), looks, strict=True):
        ax.plot(dropped, errors, color=colour, marker=marker, ls=line, label=name)
    # Axes and legend.
    ax.set(xlabel="bits dropped from 8-bit pixels", ylabel="mean error (steps)")
    ax.legend(frameon=False)
    # Half to even is best; how far is it from 0 at worst?
    worst = max(abs(error) for error in bias["half to even"])

    # What the figure shows, with its numbers.
    drawing.sentence = f"With {dropped[0]} bit dropped, the mean error of rounding a half up is "
    drawing.sentence += (
        f"{bias['half up'][0]:+.2f} steps, and that of rounding down is {bias['down'][0]:+.2f}. "
    )
    drawing.sentence += (
        f"Rounding half to even stays within {worst:.3f} steps of 0 for any number of bits."
    )
    return drawing


def released_levels(scheme: Scheme) -> list[float]:
    """Return the levels of the range in the authors' released code.

    >>> released_levels(Scheme(1, 0, True)), released_levels(Scheme(1, 0, False))
    ([0.0, 1.0], [0.0, 0.5, 1.0])

    Args:
        scheme: bits, threshold and sign.

    Returns:
        The levels, the lowest first.
    """
    if scheme.signed:
        return [value + scheme.step for value in scheme.values]
    return [*scheme.values, scheme.threshold]


def two_ranges(widths: Sequence[int] = (1, 2, 3, 4)) -> Drawing:
    """Return the levels of two's complement and of the released range, below the threshold 1.

    Args:
        widths: bit-widths to draw.

    Returns:
        The figure; its sentence says what it shows, with the numbers.
    """
    # The two ranges have different colours and markers.
    drawing, axes = canvas(1, 2, height=3.4)
    ours = {"color": BLUE, "marker": "o", "ls": "none", "label": "two's complement"}
    theirs = {"color": ORANGE, "marker": "x", "ls": "none", "label": "the released range"}
    counts = {}
    # Signed levels at the left, unsigned ones at the right.
    for ax, signed in zip(axes, (True, False), strict=True):
        for bits in widths:
            scheme = Scheme(bits, 0, signed)
            released = released_levels(scheme)
            counts[bits, signed] = len(released)
            for values, style, up in ((scheme.values, ours, 0.13), (released, theirs, -0.13)):
                (points,) = ax.plot(values, [bits + up] * len(values), **style)
                # One entry of the legend is enough for each range.
                if bits != widths[0]:
                    points.set_label(None)
        ax.set_title(f"{'signed' if signed else 'unsigned'}, threshold 1", loc="left")
        ax.set(xlabel="value", ylabel="bits", yticks=widths, ylim=(0.4, max(widths) + 0.6))
        ax.grid(False, axis="y")
    # One legend for both.
    handles = axes[0].get_legend_handles_labels()
    drawing.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    # The counts go into the sentence.
    numbers = ", ".join(str(counts[bits, False]) for bits in widths)

    # What the figure shows, with its numbers.
    drawing.sentence = "Signed, the released range is the mirror image of two's complement: "
    drawing.sentence += (
        f"{counts[max(widths), True]} levels with {max(widths)} bits, and with 1 bit the two "
    )
    drawing.sentence += (
        f"levels 0 and t. Unsigned it has one level too many for b bits: {numbers} levels with "
    )
    drawing.sentence += f"{widths[0]} to {widths[-1]} bits."
    return drawing


def level_sentence(shares: Mapping[int, float]) -> str:
    """Return with which bits one level more changes the error much, and with which little.

    >>> level_sentence({1: 0.4, 2: 0.6, 8: 0.99})
    'One level more takes away 60 % of the error with 1 bit, 40 % with 2 bits, 1 % with 8 bits.'

    Args:
        shares: error with one level more over error without it, by bits.

    Returns:
        Text in plain English.
    """
    told: list[str] = []
    for bits, share in shares.items():
        whole = "" if told else "of the error "
        told.append(f"{100 * (1 - share):.0f} % {whole}with {bits} ")
        told[-1] += "bit" if bits == 1 else "bits"
    return f"One level more takes away {', '.join(told)}."


def share_class(share: float) -> str:
    """Return a share in one of three classes.

    >>> share_class(0.05), share_class(0.3), share_class(0.7)
    ('less than 10 %', '10 to 50 %', 'more than 50 %')

    Args:
        share: share, from 0 to 1.

    Returns:
        The class, in words.
    """
    if share < 0.1:
        return "less than 10 %"
    return "10 to 50 %" if share <= 0.5 else "more than 50 %"
