"""The figure of several selections: what is written in it is what the records say."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")

from hmq_lab import plots
from hmq_lab.runs import records


def test_bits_by_record_writes_what_the_records_say():
    found = records.matching(data="cifar10", model="resnet20")
    drawing = plots.bits_by_record(found)
    (ax,) = drawing.axes
    wanted = [[t["bits"] for t in r.tensors if t["kind"] == "weight"] for r in found.values()]
    assert (
        np.array([int(t.get_text()) for t in ax.texts]).reshape(len(wanted), -1).tolist() == wanted
    )
    assert ax.collections[0].get_array().reshape(len(wanted), -1).tolist() == wanted
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        records.label(r) for r in found.values()
    ]
    same = sum(len({row[i] for row in wanted}) == 1 for i in range(20))
    assert f"{same} of the weights have the same bits in all" in drawing.sentence
    assert f"and in {sum(min(row) == 1 for row in wanted)} of the searches" in drawing.sentence


def test_records_of_one_network_are_needed():
    with pytest.raises(ValueError, match="at least one record"):
        plots.bits_by_record({})
    both = {
        name: records.recorded(name)
        for name in ("cifar10-resnet20-w8-a8", "builtin-tiny_resnet8-w8-a8")
    }
    with pytest.raises(
        ValueError, match="weights of builtin-tiny_resnet8-w8-a8 are not those of cifar10"
    ):
        plots.bits_by_record(both)
