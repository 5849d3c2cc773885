"""Where each layer stands on a modelled accelerator: bound by its multipliers or by its memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from hmq_lab.hardware.costs import Accelerator, Layer
from hmq_lab.plots.frame import COLOURS, INK, MARKERS, Artists, Look, figure, finished

LINES = ("-", "--", "-.", ":")
RANGES = {
    "1 or 2": range(1, 3),
    "3 or 4": range(3, 5),
    "5 to 8": range(5, 9),
    "more": range(9, 65),
}


@dataclass(frozen=True)
class Costs:
    """What the figure shows: layers (see `costs.count`) on an accelerator."""

    layers: list[Layer]
    accelerator: Accelerator


def layers(source: Costs, ax: Axes) -> Artists:
    """Each layer's multiply-accumulates per cycle over those per byte, under the roofs of its bits.

    >>> layers(Costs(count(network), Accelerator()), ax)

    Args:
        source: layers on an accelerator.
        ax: where to draw.

    Returns:
        The artists.
    """
    machine = source.accelerator
    artists: Artists = []
    # Work per byte: left of the corner a layer waits for memory.
    x = np.array([_per_byte(layer) for layer in source.layers])
    reach = np.geomspace(x.min() / 2, x.max() * 6, 200)
    # A roof for each pair of widths that the machine has.
    peaks: dict[float, tuple[int, int]] = {}
    for layer in source.layers:
        w = machine.width(layer.weight_bits)
        a = machine.width(layer.input_bits)
        peaks.setdefault(machine.macs_per_cycle(w, a), (w, a))
    place: Look = {"textcoords": "offset points", "ha": "right", "fontsize": 9, "color": INK}
    for i, (peak, (w, a)) in enumerate(sorted(peaks.items())):
        roof = np.minimum(peak, machine.bandwidth * reach)
        artists += ax.plot(reach, roof, color=INK, lw=1, ls=LINES[i % 4])
        ax.annotate(f"{w} x {a} bits: {peak:g}", (reach[-1], peak), (-4, 3), **place)
    # A marker for each range of bits.
    for (name, bits), colour, marker in zip(RANGES.items(), COLOURS, MARKERS, strict=True):
        own = [layer for layer in source.layers if layer.weight_bits in bits]
        if own:
            x = np.array([_per_byte(layer) for layer in own])
            y = [layer.macs / machine.cycles(layer) for layer in own]
            label = f"{name} bits a weight ({len(own)})"
            artists += ax.plot(x, y, marker, color=colour, ms=8, mec="white", label=label)
    # Both axes are logarithmic: roofs are straight.
    ax.margins(y=0.1)
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel("multiply-accumulates per byte moved")
    ax.set_ylabel("multiply-accumulates per cycle")
    return finished(ax, artists)


def _per_byte(layer: Layer) -> float:
    return layer.macs / layer.bytes


@figure("layers under the roofs of an accelerator", [[layers]], 4.6)
def roofline(source: Costs) -> str:
    """A roofline: a slope where memory limits, a level for each pair of bit-widths where
    multipliers do.

    >>> roofline(Costs(count(network), Accelerator()))

    Args:
        source: layers on an accelerator.

    Returns:
        The drawing.
    """
    machine = source.accelerator
    bound = 0
    for layer in source.layers:
        bound += machine.memory_cycles(layer) > machine.compute_cycles(layer)
    slowest = max(source.layers, key=machine.cycles)
    cycles = sum(map(machine.cycles, source.layers))
    share = machine.cycles(slowest) / cycles
    text = f"With {machine.units} units and {machine.bandwidth:g} bytes a cycle, {bound} of "
    text += f"{len(source.layers)} layers wait for memory, the others for multipliers; "
    text += f"an image takes {cycles:,.0f} cycles, "
    return text + f"{slowest.name} the most, {share:.0%} of them."
