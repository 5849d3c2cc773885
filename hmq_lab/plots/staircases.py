"""The quantizer as probability moves between two bit-widths."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from hmq_lab.plots.frame import BLUE, INK, figure
from hmq_lab.quantizer import Scheme, quantize


def staircase(
    bits: tuple[int, int], ax: Axes, mass: float = 0.5, signed: bool = True
) -> list[Artist]:
    """x -> Q(x) below the threshold 1, with `mass` on the second of two bit-widths; dotted, x
    itself.

    >>> identity, stairs = staircase((2, 3), ax, mass=0.5)
    """
    x, y, step = _mixed(bits, mass, signed)
    count = len(y.unique())
    ax.set_title(
        f"{1 - mass:.0%} on {bits[0]} bits,\n{mass:.0%} on {bits[1]} bits:\nstep {step:g}, {count} levels"
    )
    ax.set(xlabel="x", ylabel="Q(x)")
    return ax.plot(x, x, color=INK, lw=1, ls=":") + ax.plot(x, y, color=BLUE, lw=2)


@figure(
    "the quantizer as the mass moves",
    [[partial(staircase, mass=m) for m in (0, 0.25, 0.5, 0.75, 1)]],
    3.6,
)
def quantizer_as_mass_moves(bits: tuple[int, int], signed: bool = True):
    """The paper's figure 1: what expected step and threshold make of the quantizer between two
    bit-widths.

    >>> quantizer_as_mass_moves((2, 3))
    """
    # Both ends and the middle.
    cases = [_mixed(bits, mass, signed) for mass in (0, 0.5, 1)]
    (a, first), (half, middle), (b, last) = ((step, len(y.unique())) for _, y, step in cases)
    return (
        f"As the mass moves from {bits[0]} to {bits[1]} bits below the threshold 1, the step goes "
        f"from {a:g} to {b:g} "
        f"and {first} levels become {last}; half-way, with a step of {half:g}, there are "
        f"{middle}, and the two end levels are less than a step away from their neighbours."
    )


def _mixed(bits, mass, signed):
    """x, Q(x) and the expected step."""
    # The expected step is between those of the two schemes.
    few, many = (Scheme(b, 0, signed).step for b in bits)
    step = (1 - mass) * few + mass * many
    x = torch.linspace(-1.25 if signed else -0.25, 1.25, 4001, dtype=torch.float64)
    return x, quantize(x, step, 1.0, signed), step
