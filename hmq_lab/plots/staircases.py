"""The quantizer as probability moves between two bit-widths."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.axes import Axes

from hmq_lab.plots.frame import BLUE, INK, Artists, figure
from hmq_lab.quantizer import Scheme, quantize


def staircase(bits: tuple[int, int], ax: Axes, mass: float = 0.5, signed: bool = True) -> Artists:
    """Draw x -> Q(x) below the threshold 1, between two bit-widths, and return x and Q(x).

    >>> identity, stairs = staircase((2, 3), ax, mass=0.5)

    Args:
        bits: the two bit-widths.
        ax: where to draw.
        mass: probability of the second one.
        signed: whether the range has negative values.

    Returns:
        The dotted line of x itself, and the staircase.
    """
    x, y, step = _mixed(bits, mass, signed)
    few, many = bits
    title = f"{1 - mass:.0%} on {few} bits,\n{mass:.0%} on {many} bits:\n"
    ax.set_title(title + f"step {step:g}, {len(y.unique())} levels")
    ax.set(xlabel="x", ylabel="Q(x)")
    identity = ax.plot(x, x, color=INK, lw=1, ls=":")
    stairs = ax.plot(x, y, color=BLUE, lw=2)
    return identity + stairs


@figure(
    "the quantizer as the mass moves",
    [[partial(staircase, mass=m) for m in (0, 0.25, 0.5, 0.75, 1)]],
    3.6,
)
def quantizer_as_mass_moves(bits: tuple[int, int], signed: bool = True):
    """Draw the paper's figure 1: the quantizer of the expected step and threshold.

    >>> quantizer_as_mass_moves((2, 3)).sentence[:43]
    'As the mass moves from 2 to 3 bits below th'

    Args:
        bits: two bit-widths; the probability moves from the first to the second.
        signed: whether the range has negative values.

    Returns:
        The drawing.
    """
    # Both ends and the middle.
    _, first, few_step = _mixed(bits, 0, signed)
    _, middle, half_step = _mixed(bits, 0.5, signed)
    _, last, many_step = _mixed(bits, 1, signed)
    few, many = bits
    text = f"As the mass moves from {few} to {many} bits below the threshold 1, the step goes "
    text += f"from {few_step:g} to {many_step:g} and {len(first.unique())} levels become "
    text += f"{len(last.unique())}; half-way, with a step of {half_step:g}, there are "
    text += f"{len(middle.unique())}, and the two end levels are less than a step away "
    return text + "from their neighbours."


def _mixed(bits, mass, signed):
    """x, Q(x) and the expected step."""
    # The expected step is between those of the two schemes.
    few, many = (Scheme(b, 0, signed).step for b in bits)
    step = (1 - mass) * few + mass * many
    lowest = -1.25 if signed else -0.25
    x = torch.linspace(lowest, 1.25, 4001, dtype=torch.float64)
    return x, quantize(x, step, 1.0, signed), step
