"""The quantizer: what bits, threshold and sign do to the values of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hmq_lab.explorers import tensors
from hmq_lab.explorers.controls import Control, Switch, Whole, powers
from hmq_lab.explorers.frame import Explorer, name_only
from hmq_lab.explorers.modules import Module
from hmq_lab.plots import BLUE, INK, ORANGE, RED
from hmq_lab.quantizer import Scheme

OURS = "two's complement"
AUTHORS = "the authors' range"
FLOOR = 1e-4  # percent: where the axis of the errors begins


@dataclass(frozen=True)
class State:
    bits: int = 3
    exponent: int = 0
    signed: bool = True
    authors: bool = False


@dataclass(frozen=True)
class Range:
    """The quantizer with one convention for its ends."""

    levels: np.ndarray  # the values it can give, ascending
    stairs: tuple[np.ndarray, np.ndarray]  # the corners of x -> Q(x)
    loss: tensors.Loss


@dataclass(frozen=True)
class Result:
    scheme: Scheme
    ranges: dict[str, Range]
    values: tensors.Sample  # the tensor's
    view: tuple[float, float]
    sentence: str


def quantizer(tensor=None, *, exponents: tuple[int, ...] | None = None, **initial) -> Explorer:
    """Move bits and threshold of a quantizer on a tensor's values; see its levels, and what it
    rounds and clips.

    >>> weight = torch.randn(100)
    >>> explorer = explorers.quantizer(weight, bits=2)
    >>> explorer.result.ranges["two's complement"].loss
    Loss(rounding=..., clipping=..., clipped=...)

    Args:
        tensor: torch tensor, parameter or array; by default a layer of the network that comes with
            the package.
        exponents: of the thresholds to choose from, descending; by default eight of them, from one
            octave above the tensor's tight one.
        initial: bits, 1 to 8; exponent of the threshold; signed, by default if a value is negative;
            authors: show the range of the authors' code beside two's complement.

    Raises:
        ValueError: for a tensor that is empty or not finite, and for other values.

    Source: HMQ, section 3.1.
    """
    # The values in groups: a move costs the same for large tensors.
    x = tensors.sample(tensor)
    exponents = exponents or tensors.exponents(x.v)
    view = tensors.window(x.v)
    controls: dict[str, Control] = {"bits": Whole("bits", tensors.BITS[0], tensors.BITS[-1])}
    controls["exponent"] = powers("threshold", exponents)
    controls["signed"] = Switch("signed")
    controls["authors"] = Switch("the authors' range, too")
    second = exponents[min(1, len(exponents) - 1)]
    state = State(exponent=second, signed=x.signed)
    # JavaScript computes the same from the same groups.
    data = {"values": x.packed(), "view": list(view)}
    module = Module("quantizer", "quantizer", data, tuple(controls))

    def computed(state: State) -> Result:
        return compute(state, x, view)

    return Explorer(state, computed, draw, move, controls, initial, 4.2, module)


def compute(state: State, x: tensors.Sample, view: tuple[float, float]) -> Result:
    """Levels, staircase and errors in two's complement, and in the authors' range where the state
    asks for it.

    Args:
        state: what the controls are set to.
        x: values of a tensor.
        view: ends of the axis of x.

    Returns:
        What is shown.
    """
    scheme = Scheme(state.bits, state.exponent, state.signed)
    lo, hi = scheme.integers
    # The authors' range is one step higher than two's complement.
    ends = {OURS: (lo, hi)}
    if state.authors:
        ends[AUTHORS] = (lo + 1, hi + 1) if state.signed else (0, hi + 1)
    ranges = {}
    for name, pair in ends.items():
        stairs = tensors.staircase(scheme.step, pair, view)
        lost = tensors.loss(x, scheme.step, pair)
        ranges[name] = Range(np.unique(stairs[1]), stairs, lost)
    return Result(scheme, ranges, x, view, _sentence(scheme, ranges, x))


def _sentence(scheme: Scheme, ranges: dict[str, Range], x: tensors.Sample) -> str:
    sign = "signed" if scheme.signed else "unsigned"
    text = f"{tensors.many(scheme.bits, 'bit')} {sign} below 2^{scheme.threshold_exponent}: "
    text += f"{scheme.levels} levels, {scheme.step:g} apart. "
    if not x.v.any():
        return text + f"The {x.size:,} values are all zero: nothing is lost."
    # What two's complement loses, then what the authors' range does.
    ours = ranges[OURS].loss
    text += (
        f"Of the sum of squares of {x.size:,} values {percent(ours.rounding)} is lost to rounding "
    )
    text += "and "
    text += f"{percent(ours.clipping)} to clipping (clipped values: {ours.clipped:,})"
    if AUTHORS in ranges:
        other = ranges[AUTHORS]
        text += f"; {AUTHORS} has {len(other.levels)} levels from {other.levels[0]:g} to "
        text += f"{other.levels[-1]:g} and loses "
        text += f"{percent(other.loss.rounding)} and {percent(other.loss.clipping)}"
    return text + "."


def percent(share: float) -> str:
    """Return a share as percent.

    Args:
        share: 0 to 1.

    Returns:
        The text, of three digits.
    """
    return f"{100 * share:.3g} %"


def draw(result: Result, figure) -> dict:
    """The staircase; the histogram of the values with the levels on it; the errors.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    mosaic = [["stairs", "values"], ["stairs", "errors"]]
    axes = figure.subplot_mosaic(mosaic, height_ratios=(3, 1.5))
    # Left the staircase of each range, over the line of no quantization.
    stairs = axes["stairs"]
    values = axes["values"]
    errors = axes["errors"]
    stairs.plot(result.view, result.view, color=INK, lw=1, ls=":")
    stairs.set(xlim=result.view, ylim=result.view, xlabel="x", ylabel="Q(x)")
    artists: dict[str, Any] = {"title": stairs.set_title("Qq", loc="left")}
    (artists[OURS],) = stairs.plot([], [], color=BLUE, lw=2, label=OURS)
    (artists[AUTHORS],) = stairs.plot([], [], color=ORANGE, lw=2, ls="--", label=AUTHORS)
    artists["legend"] = stairs.legend(loc="upper left", frameon=False)
    # Right above the values, with a line for each level.
    tensors.histogram(result.values, values, result.view)
    values.set(xlim=result.view, xlabel="", ylabel="values (%)")
    values.set_title("values and levels; shaded: clipped", loc="left")
    values.grid(False, axis="x")
    across = values.get_xaxis_transform()
    (artists["levels"],) = values.plot([], [], color=BLUE, lw=1, alpha=0.8, transform=across)
    style = {"color": RED, "alpha": 0.15, "lw": 0, "hatch": "///"}
    artists["clipped"] = [values.axvspan(0, 1, **style), values.axvspan(0, 1, **style)]
    # Right below what is lost, a pair of bars for each range.
    for shift, name, colour, hatch in ((0, OURS, BLUE, ""), (0.4, AUTHORS, ORANGE, "///")):
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0}
        bars = errors.barh(np.arange(2) + shift, [1, 1], 0.38, left=FLOOR, **style)
        artists[f"loss, {name}"] = list(bars)
        texts = [errors.text(1, y + shift, "", va="center", fontsize=9) for y in range(2)]
        artists[f"loss in words, {name}"] = texts
    errors.set(xscale="log", xlim=(FLOOR, 1e4), ylim=(1.8, -0.4))
    errors.set_xlabel("lost of the sum of squares (%)")
    errors.set_yticks([0.2, 1.2], ["rounding", "clipping"])
    errors.set_xticks([1e-4, 1e-2, 1, 100])
    errors.minorticks_off()
    errors.grid(False, axis="y")
    move(result, artists)
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    scheme = result.scheme
    artists["title"].set_text(f"{scheme.levels} levels, step {scheme.step:g}")
    levels = result.ranges[OURS].levels
    # Many lines would hide the histogram.
    height = 1 if len(levels) <= 32 else 0.12
    heights = np.tile([0, height, np.nan], len(levels))
    artists["levels"].set_data(np.repeat(levels, 3), heights)
    # What lies beyond the outermost levels by half a step is clipped.
    low, high = artists["clipped"]
    ends = levels[0] - scheme.step / 2, levels[-1] + scheme.step / 2
    low.set_x(min(result.view[0], ends[0]))
    low.set_width(ends[0] - low.get_x())
    high.set_x(ends[1])
    high.set_width(max(result.view[1] - ends[1], 0))
    name_only(artists["legend"], result.ranges)
    for name in (OURS, AUTHORS):
        # A range that is not asked for has no staircase and no bars.
        shown = result.ranges.get(name)
        artists[name].set_data(shown.stairs if shown else ([], []))
        losses = (shown.loss.rounding, shown.loss.clipping) if shown else (0, 0)
        words = artists[f"loss in words, {name}"]
        bars = zip(artists[f"loss, {name}"], words, losses, strict=True)
        for bar, text, value in bars:
            bar.set_width(max(100 * value, FLOOR) - FLOOR)
            text.set_text(f" {percent(value)}" if shown else "")
            text.set_x(max(100 * value, FLOOR))
