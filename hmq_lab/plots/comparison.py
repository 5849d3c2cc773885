"""Ours beside the published: records as values of the same form, and the paper's tables from both.

>>> from hmq_lab.runs import records
>>> found = ours(records.matching())
>>> tables(found)["table_1"].title
'Table 1: weights compressed, beside HAQ'
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
    """Return a complete record as a value: its compression, its accuracy and its float network's.

    >>> from hmq_lab.runs import records
    >>> value("w16", records.recorded("cifar10-resnet20-w16-a8")).distance
    -0.72

    Args:
        name: of the record.
        record: complete.

    Returns:
        The value, of the source "run".
    """
    # What the search was asked for.
    header = record.header
    target = header["target"]
    settings = header.get("settings", {})
    search = settings.get("search_epochs")
    final = settings.get("final_epochs")
    # What it reached.
    accuracy = record.results["accuracy"]
    rates = record.results["rates"]
    sizes = [t["size"] for t in record.tensors if t["kind"] == "weight"]
    return Value(
        data=header["data"],
        network=NETWORKS.get(header["model"], header["model"]),
        method=method(record),
        wcr=rates["weights"],
        accuracy=accuracy["test"],
        source="run",
        activation_bits=target["activation_bits"],
        acr=None if target["activations"] is None else rates["activations"],
        float_accuracy=accuracy["float_test"],
        weights=sum(sizes),
        run=name,
        target=target["weights"],
        epochs=None if None in (search, final) else (search, final),
    )


def method(record: Record) -> str:
    """Return what tells a search of ours from others in figures and tables.

    >>> from hmq_lab.runs import records
    >>> method(records.recorded("cifar10-resnet20-w14-a8-hardware"))
    'ours, hardware mode'

    Args:
        record: of a search.

    Returns:
        "ours", and how the search differs from the paper's, separated by commas.
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
        said = ", ".join(map(str, bits))
        if bits == list(range(bits[0], bits[-1] + 1)):
            said = f"{bits[0]} to {bits[-1]}"
        words.append(f"of {said} bits")
    return ", ".join(words)


def ours(found: Mapping[str, Record]) -> list[Value]:
    """Return the complete ones of some records as values.

    >>> from hmq_lab.runs import records
    >>> {v.network for v in ours(records.matching(data="cifar10", model="resnet20"))}
    {'ResNet-20'}

    Args:
        found: records by name.

    Returns:
        The values by data, network and method, then from low compression to high.
    """
    values = []
    for name, record in found.items():
        if record.results.get("status") == "complete":
            values.append(value(name, record))
    return sorted(values, key=lambda v: (v.data, v.network, v.method, v.wcr, v.run))


def classes(record: Record) -> int:
    """Return how many classes the network of a record tells apart.

    >>> from hmq_lab.runs import records
    >>> classes(records.recorded("cifar10-resnet20-w16-a8"))
    10

    Args:
        record: of a search.

    Returns:
        The size of the network's output.
    """
    return next(t["size"] for t in record.floats if role(t) == "output")


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns, and a note on what they are and what is missing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def markdown(self) -> str:
        """Return the table as Markdown, with its title above and its note below."""
        ruler = ("---",) * len(self.columns)
        lines = [f"**{self.title}**", ""]
        for cells in (self.columns, ruler, *self.rows):
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", self.note, ""]
        return "\n".join(lines)

    def csv(self) -> str:
        """Return the columns and rows as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return text.getvalue()


COLUMNS: tuple[str, ...] = ("network", "data", "method", "WCR", "activations", "top-1 %")
COLUMNS += ("to its float network", "from")


def row(v: Value) -> tuple[str, ...]:
    """Return a value as the cells of a table; what is not known is said to be not at hand.

    >>> row(select(network="MobileNetV2", method="DQ")[0])
    ('MobileNetV2', 'imagenet', 'DQ', '8.54', 'ACR 8.05', '69.74', '-2.14', 'table')

    Args:
        v: published or ours.

    Returns:
        A text for each of COLUMNS.
    """
    # Ours has two digits, a published compression those that were published.
    compression = UNKNOWN
    if v.wcr is not None:
        compression = f"{v.wcr:.2f}" if v.source == "run" else f"{v.wcr:g}"
    # Activations have a target for the largest, or the same bits everywhere.
    activations = UNKNOWN
    if v.acr is not None:
        activations = f"ACR {v.acr:.4g}"
    elif v.activation_bits is not None:
        activations = f"{v.activation_bits} bits"
    # What comes last depends on where the value is from.
    distance = UNKNOWN if v.distance is None else f"{v.distance:+.2f}"
    source = f"record {v.run}" if v.run else v.source
    accuracy = f"{v.accuracy:.2f}"
    return v.network, v.data, v.method, compression, activations, accuracy, distance, source


def missing(network: str, method: str, data: str = "imagenet") -> tuple[str, ...]:
    """Return the row of a rival whose values are not known.

    >>> missing("ResNet-50", "HAWQ")[:4]
    ('ResNet-50', 'imagenet', 'HAWQ', 'not at hand')

    Args:
        network: its name.
        method: the rival.
        data: the data set.

    Returns:
        A text for each of COLUMNS.
    """
    return network, data, method, *[UNKNOWN] * 4, ""


def tables(found: Sequence[Value]) -> dict[str, Table]:
    """Return the paper's tables 1 to 3 and the numbers of its figure 3, with ours beside them.

    >>> list(tables([]))
    ['table_1', 'table_2', 'table_3', 'figure_3']

    Args:
        found: ours, as `ours` makes them of records.

    Returns:
        The tables by name.
    """
    # Ours in the table that has their network and their targets.
    imagenet = [v for v in found if v.data not in ELSEWHERE and v.network in WEIGHTS]
    three = [v for v in imagenet if v.network == "EfficientNet-B0"]
    others = [v for v in imagenet if v.network != "EfficientNet-B0"]
    two = [v for v in others if v.acr is not None]
    one = [v for v in others if v.acr is None]
    # The published values, by what was compressed.
    plain = [v for v in select(data="imagenet", acr=None) if v.network != "EfficientNet-B0"]
    peak = [v for v in select(data="imagenet") if v.acr is not None]
    haq = [missing(network, "HAQ") for network in ("MobileNetV1", "MobileNetV2", "ResNet-50")]
    made = {}
    made["table_1"] = _table(
        "Table 1: weights compressed, beside HAQ",
        plain,
        one,
        "Which of these values the paper's table 1 holds is not known here, and the values "
        "of HAQ are not at hand.",
        haq,
    )
    made["table_2"] = _table(
        "Table 2: weights and activations compressed (ACR 8), beside DQ and HAWQ",
        peak,
        two,
        "The values of HAWQ on ImageNet are not at hand; one on CIFAR10 is in figure 3.",
        [missing("ResNet-50", "HAWQ")],
    )
    made["table_3"] = _table(
        "Table 3: EfficientNet-B0",
        select(network="EfficientNet-B0"),
        three,
        "Its float accuracy is not at hand.",
    )
    made["figure_3"] = _table(
        "The numbers of figure 3: CIFAR10",
        select(data="cifar10"),
        [v for v in found if v.data == "cifar10"],
        "The published network is a narrow one of the class of ResNet-20; its float accuracy "
        "is not at hand.",
    )
    return made


def _table(
    title: str, published: Iterable[Value], mine: Sequence[Value], note: str, more: Sequence = ()
) -> Table:
    # Published rows first, then rivals without values, then ours.
    rows = [*map(row, published), *more, *map(row, mine)]
    # A network's rows stand together, published ones first.
    networks = list(dict.fromkeys(line[0] for line in rows))
    rows.sort(key=lambda line: networks.index(line[0]))
    # The note says where the values are from.
    note += " plot: read off a published plot, to half a pixel;"
    note += " table: from a table of a later paper."
    if mine:
        note += " Ours: each by the record that is named."
    else:
        note += " There is no record of ours for this one."
    if any(v.data not in (*ELSEWHERE, "imagenet") for v in mine):
        note += " Ours are on other images than ImageNet's thousand classes: compare the "
        note += "distances at most."
    return Table(title, COLUMNS, tuple(rows), note)


def front(values: Iterable[Value]) -> list[Value]:
    """Return the values that no other one beats.

    One value beats another if its compression and its accuracy are at least as high, and one of
    them is higher.

    >>> [v.wcr for v in front(select(data="cifar10", activation_bits=4))][:2]
    [4.01, 8.09]

    Args:
        values: published ones, ours, or both; those without a compression are left out.

    Returns:
        The values on the Pareto front, from the lowest compression to the highest.
    """
    known = [(v.wcr, v.accuracy, v) for v in values if v.wcr is not None]

    def beaten(wcr: float, accuracy: float) -> bool:
        for other_wcr, other_accuracy, _ in known:
            as_good = other_wcr >= wcr and other_accuracy >= accuracy
            if as_good and (other_wcr, other_accuracy) != (wcr, accuracy):
                return True
        return False

    best = [row for row in known if not beaten(*row[:2])]
    best.sort(key=lambda row: row[0])
    return [value for _, _, value in best]
