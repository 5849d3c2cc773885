"""The error surface: what a tensor loses under every bit-width and threshold, and the best
threshold for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import seaborn as sns
from matplotlib.patches import Rectangle

from hmq_lab.explorers import tensors
from hmq_lab.explorers.controls import Control, Whole, powers
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.modules import Module
from hmq_lab.plots import BLUE, GREEN, INK, ORANGE, RED
from hmq_lab.plots.frame import Look
from hmq_lab.quantizer import Scheme

FLOOR = 1e-4  # percent: where the axis of the errors begins


@dataclass(frozen=True)
class State:
    bits: int = 3
    exponent: int = 0


@dataclass(frozen=True)
class Surface:
    """What a tensor loses under every scheme: the same for every state."""

    exponents: tuple[int, ...]  # descending
    signed: bool
    rounding: np.ndarray  # (bits, thresholds), shares of the tensor's sum of squares
    clipping: np.ndarray
    size: int

    @property
    def total(self) -> np.ndarray:
        """Rounding and clipping together."""
        return self.rounding + self.clipping

    @property
    def best(self) -> dict[int, int]:
        """The exponent of the threshold that loses least, for each bit-width; the larger one at a
        tie.
        """
        found = {}
        for bits, row in zip(tensors.BITS, self.total, strict=True):
            found[bits] = self.exponents[int(row.argmin())]
        return found


@dataclass(frozen=True)
class Result:
    surface: Surface
    picked: tuple[int, int]  # bits, exponent
    loss: float  # there
    least: float  # with the best threshold for these bits
    sentence: str


def surface(tensor=None, *, exponents: tuple[int, ...] | None = None, **initial) -> Explorer:
    """Pick a bit-width and a threshold by hand on the map of what all of them lose.

    >>> weight = torch.randn(100)
    >>> explorer = explorers.surface(weight, bits=2)
    >>> list(explorer.result.surface.best)
    [1, 2, 3, 4, 5, 6, 7, 8]

    Args:
        tensor: as for `quantizer`; signed if one of its values is negative.
        exponents: of the thresholds, descending; by default eight of them, from one octave above
            the tight one.
        initial: bits, 1 to 8; exponent of the threshold.

    Raises:
        ValueError: for a tensor that is empty or not finite, and for other values.
    """
    x = tensors.sample(tensor)
    # All schemes are measured once, at the start.
    found = measured(x, exponents)
    controls: dict[str, Control] = {"bits": Whole("bits", tensors.BITS[0], tensors.BITS[-1])}
    controls["exponent"] = powers("threshold", found.exponents)
    state = State(exponent=found.exponents[min(1, len(found.exponents) - 1)])
    data = {"values": x.packed(), "exponents": list(found.exponents)}
    module = Module("surface", "error surface", data, tuple(controls))

    def computed(state: State) -> Result:
        return compute(state, found)

    return Explorer(state, computed, draw, move, controls, initial, module=module)


def measured(x: np.ndarray | tensors.Sample, exponents: tuple[int, ...] | None = None) -> Surface:
    """Quantize x with every bit-width and threshold; exponents: of the thresholds, descending.

    Args:
        x: values of a tensor.
        exponents: of the thresholds, descending; None takes those of a block for x.

    Returns:
        The losses for every bit-width and threshold.
    """
    x = tensors.Sample.of(x)
    exponents = exponents or tensors.exponents(x.v)
    signed = x.signed
    shape = len(tensors.BITS), len(exponents)
    rounding = np.zeros(shape)
    clipping = np.zeros(shape)
    for row, bits in enumerate(tensors.BITS):
        for column, exponent in enumerate(exponents):
            scheme = Scheme(bits, exponent, signed)
            lost = tensors.loss(x, scheme.step, scheme.integers)
            rounding[row, column] = lost.rounding
            clipping[row, column] = lost.clipping
    return Surface(exponents, signed, rounding, clipping, x.size)


def compute(state: State, surface: Surface) -> Result:
    """The loss at the picked point beside the least that its bits allow.

    Args:
        state: what the controls are set to.
        surface: of the tensor.

    Returns:
        What is shown.
    """
    row = tensors.BITS.index(state.bits)
    column = surface.exponents.index(state.exponent)
    loss = surface.total[row, column]
    least = surface.total[row].min()
    best = surface.best
    text = f"{tensors.many(state.bits, 'bit')} below 2^{state.exponent}: "
    text += f"{100 * loss:.3g} % of the tensor's sum of squares is lost"
    # Beside the best threshold for these bits.
    if not loss and not least:
        text += ": no error at all."
    elif loss == least:
        text += ", the least that any threshold here allows with as many bits."
    else:
        octaves = tensors.many(abs(best[state.bits] - state.exponent), "octave")
        where = "below" if best[state.bits] < state.exponent else "above"
        text += f"; with the best threshold, 2^{best[state.bits]}, {octaves} {where}, it is "
        text += f"{100 * least:.3g} %."
    text += f" From 8 bits to 1 the best threshold goes from 2^{best[8]} to 2^{best[1]}."
    return Result(surface, (state.bits, state.exponent), float(loss), float(least), text)


def _percent(share: float) -> str:
    """Two digits, or whole percents from 100 % on."""
    return f"{100 * share:.2g}" if share < 0.995 else f"{100 * share:.0f}"


def draw(result: Result, figure) -> dict:
    """The map of the losses; beside it the row of the picked bits, split into rounding and
    clipping.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    surface = result.surface
    chart, row = figure.subplots(1, 2, width_ratios=(1.25, 1))
    # Left the map: colour by the logarithm of the loss, its value as a word.
    shown = np.log10(np.maximum(100 * surface.total, FLOOR))
    words = [[_percent(share) for share in row] for row in surface.total]
    columns = [f"$2^{{{e}}}$" for e in surface.exponents]
    ticks = {"xticklabels": columns, "yticklabels": tensors.BITS}
    style: Look = {"cmap": "cividis_r", "annot": words, "fmt": "", "cbar": False}
    style["annot_kws"] = {"fontsize": 9}
    sns.heatmap(shown, ax=chart, linewidths=0.5, **style, **ticks)
    chart.invert_yaxis()
    # Larger thresholds at the right, as on the slider.
    chart.invert_xaxis()
    chart.tick_params(axis="y", rotation=0)
    chart.set(xlabel="threshold", ylabel="bits")
    chart.set_title("lost of the sum of squares (%)\ncircle: the best threshold", loc="left")
    # A ring on the best threshold of each bit-width, a frame on what is picked.
    best = [surface.exponents.index(e) + 0.5 for e in surface.best.values()]
    ring: Look = {"ms": 27, "mfc": "none", "mec": RED, "mew": 1.5, "clip_on": False}
    chart.plot(best, np.arange(8) + 0.5, "o", **ring)
    style = {"fill": False, "edgecolor": INK, "lw": 3, "clip_on": False, "zorder": 5}
    artists = {"picked": chart.add_patch(Rectangle((0, 0), 1, 1, **style))}

    # Right one row of the map as curves.
    for name, colour, marker, line in (
        ("rounding", BLUE, "o", "-"),
        ("clipping", ORANGE, "s", "--"),
    ):
        (artists[name],) = row.plot([], [], color=colour, marker=marker, ls=line, label=name)
    (artists["total"],) = row.plot([], [], color=GREEN, lw=4, alpha=0.4, label="both")
    style = {"color": INK, "marker": "s", "ms": 14, "mfc": "none", "mew": 2.5}
    style |= {"ls": "none", "label": "picked"}
    artists["point"] = row.plot([], [], **style)[0]
    exponents = surface.exponents
    row.set(yscale="log", ylim=(FLOOR, 1e3), xlabel="threshold")
    row.set_xlim(exponents[-1] - 0.5, exponents[0] + 0.5)
    # Thresholds as powers of two.
    row.set_xticks(exponents, [f"$2^{{{e}}}$" for e in exponents])
    row.set_ylabel("lost (%)")
    artists["title"] = row.set_title("with 8 bits\n", loc="left")
    above: Look = {"loc": "lower right", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
    above["frameon"] = False
    row.legend(ncols=2, columnspacing=1, markerscale=0.7, **above)
    move(result, artists)
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    surface, (bits, exponent) = result.surface, result.picked
    at = tensors.BITS.index(bits)
    column = surface.exponents.index(exponent)
    # The frame on the map, the curves of its row, a square on the picked threshold.
    artists["picked"].set_xy((column, at))
    for name in ("rounding", "clipping", "total"):
        artists[name].set_data(surface.exponents, 100 * getattr(surface, name)[at])
    artists["point"].set_data([exponent], [100 * result.loss])
    artists["title"].set_text(f"with {tensors.many(bits, 'bit')}\n")
