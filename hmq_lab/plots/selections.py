"""The selections of several searches of one network beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import seaborn as sns

from hmq_lab.plots.frame import STYLE, Drawing, canvas, of_kind
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

NUMBERED = 60  # so many numbers fit into a row


def bits_by_record(found: Mapping[str, Record]) -> Drawing:
    """Return the bits of every weight in every record: a row for each record.

    >>> plots.show(bits_by_record(records.matching(data="cifar10", model="resnet20")))

    Args:
        found: records of one network, by name; the rows are in this order.

    Returns:
        The drawing, with a column for each weight.

    Raises:
        ValueError: there are no records, or they are of different networks.
    """
    if not found:
        raise ValueError("at least one record is needed, got none")
    # All records must be of one network.
    weights = {name: of_kind(record, "weight") for name, record in found.items()}
    first, *others = weights
    columns = _names(weights[first])
    for name in others:
        if _names(weights[name]) != columns:
            which = f"the weights of {name} are not those of {first}"
            raise ValueError(f"records of one network are needed: {which}")
    # A row of bits for each record.
    rows = []
    for tensors in weights.values():
        rows.append([t["bits"] for t in tensors])
    table = np.array(rows)
    top = max(8, table.max())
    drawing, ax = canvas(height=1.9 + 0.33 * len(found))
    with mpl.rc_context(STYLE):
        # The colour of a bit-width is the same in every figure.
        palette = sns.color_palette("viridis", top)
        colours = {"cmap": palette, "vmin": 0.5, "vmax": top + 0.5, "cbar": False}
        numbers = {"annot": len(columns) <= NUMBERED, "fmt": "d", "linewidths": 0.5}
        labels = [records.label(record) for record in found.values()]
        every = -(-len(columns) // NUMBERED)
        sns.heatmap(table, ax=ax, yticklabels=labels, xticklabels=every, **colours, **numbers)
        at = np.arange(0, len(columns), every) + 0.5
        ax.set_xticks(at, columns[::every], rotation=90)
        ax.tick_params(axis="y", rotation=0)
    # What the searches agree on, and how many of them used a single bit.
    same = int((table == table[0]).all(axis=0).sum())
    ones = int((table == 1).any(axis=1).sum())
    text = f"The bits of {len(columns)} weights in {len(found)} searches, "
    text += f"from {table.min()} to {table.max()}; {same} of the weights have the same bits in "
    text += f"all of them, and in {ones} of the searches some weight has 1 bit."
    drawing.sentence = text
    return drawing


def _names(tensors: list[dict]) -> list[str]:
    return [t["name"].removesuffix(".weight") for t in tensors]
