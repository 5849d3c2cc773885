"""Where each layer stands on a modelled accelerator: bound by its multipliers or by its memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from hmq_lab.hardware.costs import Accelerator, Layer
from hmq_lab.plots.frame import COLOURS, INK, MARKERS, figure, finished


@dataclass(frozen=True)
class Costs:
    """What the figure shows: layers (see `costs.count`) on an accelerator."""

    layers: list[Layer]
    accelerator: Accelerator


def layers(source: Costs, ax: Axes) -> list[Artist]:
    """Each layer's multiply-accumulates per cycle over those per byte, under the roofs of its bits.

    >>> layers(Costs(count(network), Accelerator()), ax)
    """
    machine = source.accelerator
    artists = []
    # Work per byte: left of the corner a layer waits for memory.
    x = np.array([layer.macs / layer.bytes for layer in source.layers])
    reach = np.geomspace(x.min() / 2, x.max() * 6, 200)
    # A roof for each pair of widths that the machine has.
    peaks = {}
    for layer in source.layers:
        key = machine.width(layer.weight_bits), machine.width(layer.input_bits)
        peaks.setdefault(machine.macs_per_cycle(*key), key)
    for i, (peak, (w, a)) in enumerate(sorted(peaks.items())):
        roof = np.minimum(peak, machine.bandwidth * reach)
        artists += ax.plot(reach, roof, color=INK, lw=1, ls=("-", "--", "-.", ":")[i % 4])
        ax.annotate(
            f"{w} x {a} bits: {peak:g}",
            (reach[-1], peak),
            (-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=INK,
        )
    # A marker for each range of bits.
    groups = [("1 or 2", 0, 2), ("3 or 4", 2, 4), ("5 to 8", 4, 8), ("more", 8, 64)]
    for (name, above, upto), colour, marker in zip(groups, COLOURS, MARKERS, strict=True):
        own = [layer for layer in source.layers if above < layer.weight_bits <= upto]
        if own:
            at = (
                [layer.macs / layer.bytes for layer in own],
                [layer.macs / machine.cycles(layer) for layer in own],
            )
            artists += ax.plot(
                *at,
                marker,
                color=colour,
                ms=8,
                mec="white",
                label=f"{name} bits a weight ({len(own)})",
            )
    # Both axes are logarithmic: roofs are straight.
    ax.margins(y=0.1)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="multiply-accumulates per byte moved",
        ylabel="multiply-accumulates per cycle",
    )
    return finished(ax, artists)


@figure("layers under the roofs of an accelerator", [[layers]], 4.6)
def roofline(source: Costs) -> str:
    """A roofline: a slope where memory limits, a level for each pair of bit-widths where
    multipliers do.

    >>> roofline(Costs(count(network), Accelerator()))
    """
    machine = source.accelerator
    bound = [
        layer
        for layer in source.layers
        if machine.memory_cycles(layer) > machine.compute_cycles(layer)
    ]
    slowest = max(source.layers, key=machine.cycles)
    cycles = sum(map(machine.cycles, source.layers))
    return (
        f"With {machine.units} units and {machine.bandwidth:g} bytes a cycle, {len(bound)} of "
        f"{len(source.layers)} "
        f"layers wait for memory, the others for multipliers; a picture takes {cycles:,.0f} "
        f"cycles, {slowest.name} the "
        f"most, {machine.cycles(slowest) / cycles:.0%} of them."
    )
