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
    """The bits of every weight in every record: a row for each record, a column for each weight.

    >>> plots.show(bits_by_record(records.matching(data="cifar10", model="resnet20")))

    The rows are in the mapping's order. Raises ValueError for no records, and for those of
    different networks.
    """
    if not found:
        raise ValueError("at least one record is needed, got none")
    # All records must be of one network.
    names = {name: [t["name"] for t in of_kind(record, "weight")] for name, record in found.items()}
    first, *others = names
    for name in others:
        if names[name] != names[first]:
            raise ValueError(
                f"records of one network are needed: the weights of {name} are not those of {first}"
            )
    # A row of bits for each record.
    table = np.array([[t["bits"] for t in of_kind(record, "weight")] for record in found.values()])
    top = max(8, table.max())
    drawing, ax = canvas(height=1.9 + 0.33 * len(found))
    with mpl.rc_context(STYLE):
        # The colour of a bit-width is the same in every figure.
        style = {
            "cmap": sns.color_palette("viridis", top),
            "vmin": 0.5,
            "vmax": top + 0.5,
            "cbar": False,
        }
        style |= {"annot": table.shape[1] <= NUMBERED, "fmt": "d", "linewidths": 0.5}
        columns = [name.removesuffix(".weight") for name in names[first]]
        every = -(-len(columns) // NUMBERED)
        sns.heatmap(
            table,
            ax=ax,
            yticklabels=[records.label(r) for r in found.values()],
            xticklabels=every,
            **style,
        )
        ax.set_xticks(np.arange(0, len(columns), every) + 0.5, columns[::every], rotation=90)
        ax.tick_params(axis="y", rotation=0)
    # What the searches agree on.
    same = sum(len(set(column)) == 1 for column in table.T)
    # How many searches used a single bit.
    ones = sum(1 in row for row in table)
    drawing.sentence = (
        f"The bits of {len(columns)} weights in {len(found)} searches, from {table.min()} to "
        f"{table.max()}; {same} of "
        f"the weights have the same bits in all of them, and in {ones} of the searches some "
        f"weight has 1 bit."
    )
    return drawing
