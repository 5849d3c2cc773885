"""Bits per layer, by kind of layer, and early against late: the paper's figure 5."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes

from hmq_lab.plots.frame import COLOURS, HATCHES, Artists, Look, figure, finished, of_kind
from hmq_lab.plots.schemes import _groups, bits
from hmq_lab.runs.records import Record


def parts(record: Record, ax: Axes) -> Artists:
    """Mean bits of the weight tensors in the first, middle and last third of the network, by kind
    of layer.

    Args:
        record: of a search.
        ax: where to draw.

    Returns:
        The artists.
    """
    weights = of_kind(record, "weight")
    # The first, middle and last third of the tensors.
    thirds = np.array_split(np.arange(len(weights)), 3)
    groups = _groups(weights)
    artists: Artists = []
    width = 0.8 / max(1, len(groups))
    for k, (name, at) in enumerate(groups.items()):
        means = []
        for third in thirds:
            found = [weights[i]["bits"] for i in at if i in third]
            means.append(np.mean(found or [np.nan]))
        # A bar for each kind, with its mean above it.
        x = np.arange(3) + width * (k - (len(groups) - 1) / 2)
        style: Look = {"color": COLOURS[k % 4], "hatch": HATCHES[k % 4], "label": name}
        artists.append(ax.bar(x, means, 0.92 * width, edgecolor="white", lw=0, **style))
        above: Look = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
        for where, mean in zip(x, means, strict=True):
            if not np.isnan(mean):
                ax.annotate(f"{mean:.1f}", (where, mean), (0, 2), **above)
    ax.set_xticks(range(3), ["first third of the layers", "middle third", "last third"])
    ax.margins(y=0.15)
    ax.set_ylabel("mean bits\nof the tensors")
    ax.grid(False, axis="x")
    return finished(ax, artists)


@figure("bits per layer", [[partial(bits, kind="weight")], [parts]], 6.4, (3, 2))
def bits_per_layer(record: Record) -> str:
    """The paper's figure 5: the bits of each weight tensor, by kind of layer, and early against
    late.

    >>> bits_per_layer(records.recorded("cifar10-resnet20-w16-a8"))

    Args:
        record: of a search.

    Returns:
        The drawing.
    """
    weights = of_kind(record, "weight")
    found = np.array([t["bits"] for t in weights])
    thirds = [f"{bits.mean():.1f}" if len(bits) else "none" for bits in np.array_split(found, 3)]
    first, middle, last = thirds
    # The same means by kind alone.
    groups = _groups(weights)
    said = ", ".join(f"{name} {found[at].mean():.1f}" for name, at in groups.items())
    compression = record.results["rates"]["weights"]
    text = f"At a compression of {compression:.2f} the weight tensors have on average {first} "
    text += f"bits in the first third of the layers, {middle} in the middle, {last} in the last; "
    text += f"by kind: {said}"
    if "depthwise" not in groups:
        text += "; this network has no depthwise convolution"
    return text + "."
