"""Ours beside the published: records as values of the same form, and the paper's tables from both.

>>> found = ours({name: records.recorded(name) for name in records.names()})
>>> print(tables(found)["table_1"].markdown())
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hmq_lab.plots.published import WEIGHTS, Value, select
from hmq_lab.runs.records import Record, role

NETWORKS = {
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "resnet50": "ResNet-50",
    "efficientnet_b0": "EfficientNet-B0",
    "resnet20": "ResNet-20",
    "resnet18": "ResNet-18",
}
UNKNOWN = "not at hand"
ELSEWHERE = ("builtin", "cifar10")  # the data of records that are none of ImageNet's networks


def value(name: str, record: Record) -> Value:
    """A complete record as a value: its actual rate, its test accuracy and its own float network's.

    >>> value("w16", records.recorded("cifar10-resnet20-w16-a8")).distance
    -0.72
    """
    target = record.header["target"]
    accuracy = record.results["accuracy"]
    settings = record.header.get("settings", {})
    epochs = settings.get("search_epochs"), settings.get("final_epochs")
    return Value(
        data=record.header["data"],
        network=NETWORKS.get(record.header["model"], record.header["model"]),
        method=method(record),
        wcr=record.results["rates"]["weights"],
        accuracy=accuracy["test"],
        source="run",
        activation_bits=target["activation_bits"],
        acr=None if target["activations"] is None else record.results["rates"]["activations"],
        float_accuracy=accuracy["float_test"],
        weights=sum(t["size"] for t in record.tensors if t["kind"] == "weight"),
        run=name,
        target=target["weights"],
        epochs=None if None in epochs else epochs,
    )


def method(record: Record) -> str:
    """What tells a search of ours from others in figures and tables.

    >>> method(records.recorded("cifar10-resnet20-w14-a8-hardware"))
    'ours, hardware mode'
    """
    words = ["ours"]
    # Stage 2 learns from the float network: the recipe of quick/cifar10.
    if record.header.get("settings", {}).get("final_loss") == "distillation":
        words.append("distilled")
    if record.header.get("hardware_mode"):
        words.append("hardware mode")
    # Other bit-widths than the paper's 1 to 8.
    bits = record.header.get("space", {}).get("bits")
    if bits not in (None, list(range(1, 9))):
        is_whole = bits == list(range(bits[0], bits[-1] + 1))
        said = f"{bits[0]} to {bits[-1]}" if is_whole else ", ".join(map(str, bits))
        words.append(f"of {said} bits")
    return ", ".join(words)


def ours(found: Mapping[str, Record]) -> list[Value]:
    """The complete ones of some records as values, by network, then from low rates to high."""
    complete = [
        value(name, r) for name, r in found.items() if r.results.get("status") == "complete"
    ]
    return sorted(complete, key=lambda v: (v.data, v.network, v.method, v.wcr, v.run))


def classes(record: Record) -> int:
    """How many classes the network of a record tells apart."""
    return next(t["size"] for t in record.floats if role(t) == "output")


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns, and a note on what they are and what is missing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def markdown(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join(
            [
                f"**{self.title}**",
                "",
                *(f"| {' | '.join(line)} |" for line in lines),
                "",
                self.note,
                "",
            ]
        )

    def csv(self) -> str:
        writer = csv.writer(text := io.StringIO(), lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return text.getvalue()


COLUMNS = (
    "network",
    "data",
    "method",
    "WCR",
    "activations",
    "top-1 %",
    "to its float network",
    "from",
)


def row(v: Value) -> tuple[str, ...]:
    """A value as cells; what is not known is said to be not at hand."""
    if v.acr is not None:
        activations = f"ACR {v.acr:.4g}"
    else:
        activations = UNKNOWN if v.activation_bits is None else f"{v.activation_bits} bits"
    return (
        v.network,
        v.data,
        v.method,
        UNKNOWN if v.wcr is None else f"{v.wcr:.2f}" if v.source == "run" else f"{v.wcr:g}",
        activations,
        f"{v.accuracy:.2f}",
        UNKNOWN if v.distance is None else f"{v.distance:+.2f}",
        f"record {v.run}" if v.run else v.source,
    )


def missing(network: str, method: str, data: str = "imagenet") -> tuple[str, ...]:
    """The row of a rival whose values are not known."""
    return (network, data, method, *[UNKNOWN] * 4, "")


def tables(found: Sequence[Value]) -> dict[str, Table]:
    """The paper's tables 1 to 3 and the numbers of its figure 3, by name, with ours where `found`
    has them.

    >>> list(tables([]))
    ['table_1', 'table_2', 'table_3', 'figure_3']
    """
    # Ours in the table that has their network and their targets.
    imagenet = [v for v in found if v.data not in ELSEWHERE and v.network in WEIGHTS]
    three = [v for v in imagenet if v.network == "EfficientNet-B0"]
    two = [v for v in imagenet if v.acr is not None and v not in three]
    one = [v for v in imagenet if v not in two + three]
    # The published values, by what was compressed.
    plain = [v for v in select(data="imagenet", acr=None) if v.network != "EfficientNet-B0"]
    peak = [v for v in select(data="imagenet") if v.acr is not None]
    cifar10 = [v for v in found if v.data == "cifar10"]
    return {
        "table_1": _table(
            "Table 1: weights compressed, beside HAQ",
            plain,
            one,
            "Which of these values the paper's table 1 holds is not known here, and the values "
            "of HAQ are not at hand.",
            [missing(network, "HAQ") for network in ("MobileNetV1", "MobileNetV2", "ResNet-50")],
        ),
        "table_2": _table(
            "Table 2: weights and activations compressed (ACR 8), beside DQ and HAWQ",
            peak,
            two,
            "The values of HAWQ on ImageNet are not at hand; one on CIFAR10 is in figure 3.",
            [missing("ResNet-50", "HAWQ")],
        ),
        "table_3": _table(
            "Table 3: EfficientNet-B0",
            select(network="EfficientNet-B0"),
            three,
            "Its float accuracy is not at hand.",
        ),
        "figure_3": _table(
            "The numbers of figure 3: CIFAR10",
            select(data="cifar10"),
            cifar10,
            "The published network is a narrow one of the class of ResNet-20; its float accuracy "
            "is not at hand.",
        ),
    }


def _table(
    title: str, published: Iterable[Value], mine: Sequence[Value], note: str, more: Sequence = ()
) -> Table:
    # Published rows first, then rivals without values, then ours.
    rows = [*map(row, published), *more, *map(row, mine)]
    # A network's rows stand together.
    order = {name: i for i, name in enumerate(dict.fromkeys(line[0] for line in rows))}
    # A network's rows together, published ones first.
    rows.sort(key=lambda line: order[line[0]])
    note += (
        " plot: read off a published plot, to half a pixel; table: from a table of a later paper."
    )
    note += (
        " Ours: each by the record that is named."
        if mine
        else " There is no record of ours for this one."
    )
    if any(v.data not in (*ELSEWHERE, "imagenet") for v in mine):
        note += " Ours are on other images than ImageNet's thousand classes: compare the "
        note += "distances at most."
    return Table(title, COLUMNS, tuple(rows), note)


def front(values: Iterable[Value]) -> list[Value]:
    """The values that no other one beats: none has both a rate and an accuracy at least as high,
    and one higher.

    >>> [v.wcr for v in front(select(data="cifar10", activation_bits=4))][:2]
    [4.01, 8.09]
    """
    known = [v for v in values if v.wcr is not None]

    def beaten(v: Value) -> bool:
        return any(
            o.wcr >= v.wcr
            and o.accuracy >= v.accuracy
            and (o.wcr, o.accuracy) != (v.wcr, v.accuracy)
            for o in known
        )

    return sorted((v for v in known if not beaten(v)), key=lambda v: v.wcr)


def counted_with_last(wcr: float, quantized: int, left_float: int) -> float:
    """A rate that counts `quantized` weights only, counted again with the weights that stayed
    float.

    >>> round(counted_with_last(15.7, WEIGHTS["ResNet-50"], RESNET50_LAST), 1)
    7.2
    """
    return (quantized + left_float) / (quantized / wcr + left_float)
