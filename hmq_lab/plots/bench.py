"""What `hmq-lab bench` measured, as a figure: the cost of choosing among more schemes.

>>> found = json.loads(Path("bench.json").read_text())  # hmq-lab bench --json > bench.json
>>> spaces(found)                                                          # a figure
>>> spaces.sentence(found)
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from hmq_lab.plots.frame import BLUE, ORANGE, Artists, Look, figure


def step_time(found: dict, ax: Axes) -> Artists:
    """The median time of a search step over the schemes per tensor, with its quartiles.

    Args:
        found: what `hmq-lab bench --json` writes.
        ax: where to draw.

    Returns:
        The artists.
    """
    rows = found["spaces"]
    # Milliseconds, from quartile to quartile.
    low = 1e3 * np.array([row["low"] for row in rows])
    middle = 1e3 * np.array([row["seconds"] for row in rows])
    high = 1e3 * np.array([row["high"] for row in rows])
    style: Look = {"color": BLUE, "marker": "o", "capsize": 4}
    drawn = ax.errorbar(_schemes(found), middle, [middle - low, high - middle], **style)
    return _finished(found, ax, [drawn], "milliseconds a step", max(high))


def step_memory(found: dict, ax: Axes) -> Artists:
    """The peak memory of a search step over the schemes per tensor.

    Args:
        found: what `hmq-lab bench --json` writes.
        ax: where to draw.

    Returns:
        The artists.
    """
    mebibytes = [row["bytes"] / 2**20 for row in found["spaces"]]
    drawn = ax.plot(_schemes(found), mebibytes, color=ORANGE, marker="s", ls="--")
    return _finished(found, ax, drawn, "MiB at the peak of a step", max(mebibytes))


@figure("the cost of a search step as the space grows", [[step_time, step_memory]], 3.6)
def spaces(found: dict) -> str:
    """Time (median, bars from quartile to quartile) and peak memory of a search step, 8 to 128
    schemes per tensor.

    >>> spaces(found).savefig("spaces.png")

    found: what `bench.report` gives. Only the two parameters of a quantizer are mixed, never
    quantized copies.
    """
    # From the smallest space to the largest.
    first = found["spaces"][0]
    last = found["spaces"][-1]
    spread = max(row["high"] / row["low"] for row in found["spaces"])
    longer = last["seconds"] / first["seconds"]
    memory = last["bytes"] / first["bytes"]
    text = f"With {last['schemes']} schemes per tensor instead of {first['schemes']} a step "
    text += f"takes {longer:.2f} times as long (quartiles of one space are up to a factor of "
    return text + f"{spread:.2f} apart) and {memory:.2f} times the memory."


def _schemes(found: dict) -> list[int]:
    return [row["schemes"] for row in found["spaces"]]


def _finished(found: dict, ax: Axes, artists: Artists, label: str, top: float) -> Artists:
    ax.set(xscale="log", xlabel="schemes per tensor", ylabel=label, ylim=(0, 1.15 * top))
    schemes = _schemes(found)
    ax.set_xticks(schemes, [str(count) for count in schemes])
    ax.minorticks_off()
    return artists
