"""The published values, ours beside them, and the figures and tables of both."""

import copy
import csv
import io
import itertools

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")

from test_plots import texts

from hmq_lab.commands.main import main
from hmq_lab.plots import comparison, paper, published
from hmq_lab.plots.comparison import UNKNOWN, front, ours, tables
from hmq_lab.plots.published import VALUES, select
from hmq_lab.runs import records

W16 = "cifar10-resnet20-w16-a8"
NETTE = "nette-mobilenet_v2"


def like(record, wcr, accuracy, target=None, **header):
    """A record as another run would leave it."""
    made = copy.deepcopy(record)
    made.header |= header
    made.header["target"] = {"weights": wcr, "activations": None, "activation_bits": 8} | (
        target or {}
    )
    made.results["rates"]["weights"], made.results["accuracy"]["test"] = wcr, accuracy
    return made


@pytest.fixture(scope="module")
def found():
    """A recorded run, and others that may arrive: more rates, a second seed, 4 bits, hardware mode, ten classes."""
    base = records.recorded(W16)
    base.events = [e for e in base.events if e["kind"] != "tables"][:60] + base.events[-1:]
    four = {"activation_bits": 4}
    ten = {"activations": 8.0, "activation_bits": None}
    mobile = like(base, 8.02, 96.2, ten, data="imagenette", model="mobilenet_v2")
    for i, t in enumerate(
        t for t in mobile.tensors if t["kind"] == "weight" and len(t["shape"]) == 4
    ):
        t["shape"] = [t["shape"][0], 1, 3, 3] if i % 2 else [*t["shape"][:2], 1, 1]
        t["bits"] = 7 if i % 2 else 3
    mobile.results["accuracy"]["float_test"] = 97.3
    return {
        W16: base,
        "w10": like(base, 10.51, 91.6),
        "w17": like(base, 17.3, 90.5),
        "w17-s1": like(base, 17.31, 90.4, seed=1),
        "a4": like(base, 13.02, 90.7, four),
        "hw": like(base, 8.01, 91.3, hardware_mode=True),
        NETTE: mobile,
    }


def test_searches_that_distil_are_told_from_others():
    base = records.recorded(W16)
    settings = base.header["settings"] | {"final_loss": "distillation"}
    assert comparison.method(base) == "ours"
    assert comparison.method(like(base, 14.0, 91.0, settings=settings)) == "ours, distilled"
    both = like(base, 14.0, 91.0, settings=settings, hardware_mode=True)
    assert comparison.method(both) == "ours, distilled, hardware mode"
    base.header.pop("settings")
    assert comparison.method(base) == "ours"


@pytest.fixture(scope="module")
def drawings(found):
    values = ours(found)
    return {
        "figure_3_cifar10": paper.cifar10(values),
        "figure_4_imagenet": paper.imagenet(values),
        "figure_5_bits": paper.bits_per_layer(found[W16]),
        f"figure_5_bits-{NETTE}": paper.bits_per_layer(found[NETTE]),
    }


def panels(drawing, name):
    return [ax for ax in drawing.axes if ax.get_label() == name]


def points(ax):
    """Every marker that is drawn: (x, y), to four digits."""
    return {(round(float(x), 4), round(float(y), 4)) for line in ax.lines if line.get_marker() not in ("None", None)
            for x, y in zip(*line.get_data(), strict=True)}  # fmt: skip


# --- the published values


def test_all_published_values_are_there():
    count = {}
    for v in VALUES:
        key = v.data, v.activation_bits or v.acr, v.method
        count[key] = count.get(key, 0) + 1
    assert count == {
        ("cifar10", 8, "HMQ"): 12, ("cifar10", 8, "DNAS"): 2, ("cifar10", 8, "UNIQ"): 2, ("cifar10", 8, "LQ-Nets"): 2,
        ("cifar10", 4, "HMQ"): 6, ("cifar10", 4, "HAWQ"): 1, ("cifar10", 4, "UNIQ"): 2,
        ("imagenet", None, "HMQ"): 12, ("imagenet", 8, "HMQ"): 2, ("imagenet", 8.05, "DQ"): 1,
    }  # fmt: skip
    networks = [v.network for v in VALUES if v.data == "imagenet"]
    assert {n: networks.count(n) for n in set(networks)} == {
        "ResNet-50": 4, "MobileNetV1": 3, "MobileNetV2": 4, "EfficientNet-B0": 4,
    }  # fmt: skip
    assert len(set(VALUES)) == len(VALUES) == 42
    assert {v.source for v in VALUES} == {"plot", "table"} < published.SOURCES.keys()
    for v in VALUES:
        assert 60 < v.accuracy < 95 and (v.wcr is None or 3.9 < v.wcr < 20) and v.run is None


@pytest.mark.parametrize(
    ("where", "wcr", "accuracy", "source"),
    [
        ({"data": "cifar10", "activation_bits": 8, "method": "HMQ"}, 17.31, 92.50, "plot"),
        ({"data": "cifar10", "activation_bits": 8, "method": "HMQ"}, 19.80, 91.56, "plot"),
        ({"data": "cifar10", "activation_bits": 4, "method": "HMQ"}, 13.07, 92.36, "plot"),
        ({"data": "cifar10", "method": "DNAS"}, 16.60, 92.00, "plot"),
        ({"network": "ResNet-20", "method": "HAWQ"}, 13.10, 92.22, "plot"),
        ({"activation_bits": 4, "method": "UNIQ"}, 8, 89.49, "plot"),
        ({"network": "ResNet-50", "acr": None}, 15.7, 75.0, "table"),
        ({"network": "ResNet-50", "acr": None}, 10.9, 76.1, "plot"),
        (
            {"network": "ResNet-50", "acr": 8},
            None,
            75.45,
            "table",
        ),  # its rate is known from memory alone
        ({"network": "MobileNetV1"}, 14.1, 68.35, "plot"),
        ({"network": "MobileNetV2", "acr": None}, 14.4, 65.7, "table"),
        ({"network": "MobileNetV2", "acr": 8.05, "method": "DQ"}, 8.54, 69.74, "table"),
        ({"network": "EfficientNet-B0"}, 14.69, 71.54, "plot"),
    ],
)
def test_published_values(where, wcr, accuracy, source):
    assert (wcr, accuracy, source) in [(v.wcr, v.accuracy, v.source) for v in select(**where)]


def test_distances_and_sizes_of_published_values():
    (v,) = [v for v in select(network="ResNet-50") if v.wcr == 15.7]
    assert v.distance == -1.15 and v.size == pytest.approx(23_454_912 * 32 / 15.7 / 8 / 1e6)
    assert {v.network for v in VALUES if v.distance is not None} == {"ResNet-50", "MobileNetV2"}
    (v,) = select(network="ResNet-50", acr=8)
    assert v.size is None and v.distance == -0.7


# --- ours


def test_records_become_values(found):
    values = {v.run: v for v in ours(found)}
    assert set(values) == set(found)
    v, record = values[W16], found[W16]
    assert (v.data, v.network, v.method, v.source) == ("cifar10", "ResNet-20", "ours", "run")
    assert v.wcr == record.results["rates"]["weights"] and v.distance == pytest.approx(
        91.01 - 91.73
    )
    assert v.weights == sum(t["size"] for t in record.tensors if t["kind"] == "weight")
    assert values["hw"].method == "ours, hardware mode" and values["a4"].activation_bits == 4
    nette = values[NETTE]
    assert nette.network == "MobileNetV2" and nette.acr == record.results["rates"]["activations"]
    assert nette.activation_bits is None and comparison.classes(found[NETTE]) == 10


def test_what_is_not_complete_is_left_out(found):
    stopped = copy.deepcopy(found["w10"])
    stopped.results = {"status": "interrupted", "rates": stopped.results["rates"]}
    assert [v.run for v in ours({"a": stopped, "b": found["w17"]})] == ["b"]


@pytest.mark.parametrize("where", [{"data": "cifar10"}, {"data": "cifar10", "activation_bits": 8}])
def test_the_front_by_enumeration(where):
    values = select(**where)
    beaten = {
        a
        for a, b in itertools.permutations(values, 2)
        if b.wcr >= a.wcr and b.accuracy >= a.accuracy
    }
    assert front(values) == sorted(
        set(values) - beaten, key=lambda v: v.wcr
    )  # no two are equal here
    twins = [values[0], values[0]]
    assert front(twins) == twins and front(select(network="ResNet-50", acr=8)) == []


# --- the tables


def test_tables_hold_every_value_once_and_say_what_is_missing(found):
    made = tables(ours(found))
    lines = {name: list(csv.reader(io.StringIO(table.csv()))) for name, table in made.items()}
    for name, table in made.items():
        assert lines[name] == [list(table.columns), *map(list, table.rows)]
        assert (
            table.markdown().count("\n| ") == len(lines[name]) + 1
            and table.title in table.markdown()
        )
    all_rows = [row for found in lines.values() for row in found[1:]]
    known = [row for row in all_rows if row[-1]]
    assert len(known) == len(VALUES) + len(found)
    for v in VALUES:
        assert sum(row[0] == v.network and row[5] == f"{v.accuracy:.2f}" and row[2] == v.method
                   and row[3] == (UNKNOWN if v.wcr is None else f"{v.wcr:g}") for row in known) >= 1  # fmt: skip
    rivals = [row for row in all_rows if not row[-1]]
    assert {row[2] for row in rivals} == {"HAQ", "HAWQ"} and {
        cell for row in rivals for cell in row[3:7]
    } == {UNKNOWN}
    assert [row for row in lines["table_2"] if row[-1] == f"record {NETTE}"] == [
        ["MobileNetV2", "imagenette", "ours", "8.02", "ACR 4", "96.20", "-1.10", f"record {NETTE}"]
    ]
    assert (
        "other images than ImageNet" in made["table_2"].note
        and "no record of ours" in made["table_3"].note
    )
    assert {row[-1] for row in lines["figure_3"] if row[2].startswith("ours")} == {
        f"record {name}" for name in found if name != NETTE
    }


# --- the figures


def test_figure_3_draws_every_value_where_it_belongs(found, drawings):
    for ax, bits in zip(panels(drawings["figure_3_cifar10"], "accuracies"), (8, 4), strict=True):
        mine = [v for v in ours(found) if v.data == "cifar10" and v.activation_bits == bits]
        values = [*select(data="cifar10", activation_bits=bits), *mine]
        assert points(ax) == {(round(v.wcr, 4), v.accuracy) for v in values}
        floats = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert {float(line.get_ydata()[0]) for line in floats} == {91.73}
    for ax, bits, best in zip(
        panels(drawings["figure_3_cifar10"], "distances"), (8, 4), (92.9, 92.55), strict=True
    ):
        mine = {(round(v.wcr, 4), v.distance) for v in ours(found) if v.activation_bits == bits}
        theirs = select(data="cifar10", activation_bits=bits, method="HMQ")
        assert points(ax) == mine | {(v.wcr, round(v.accuracy - best, 4)) for v in theirs}
    sentence = drawings["figure_3_cifar10"].sentence
    assert (
        "ours, ResNet-20, 4 + 4 epochs (4 runs) from 91.60 % at 10.51 (-0.13 to its float network) to 90.40 % at 17.31"
        in sentence
    )
    assert (
        "ours, hardware mode, ResNet-20, 4 + 4 epochs 91.30 % at 8.01" in sentence
        and sentence.endswith("not the same.")
    )


def test_figure_3_without_records_of_ours():
    drawing = paper.cifar10([])
    assert drawing.sentence.count("of ours there is no record") == 2
    labels = [text.get_text() for text in panels(drawing, "key")[0].get_legend().get_texts()]
    assert labels == [
        "HMQ, published",
        *(f"{name}, published" for name in ("DNAS", "UNIQ", "LQ-Nets", "HAWQ")),
    ]


def test_figure_4_draws_published_sizes_and_says_that_ours_is_of_other_pictures(found, drawings):
    (left,), (right,) = (
        panels(drawings["figure_4_imagenet"], n)
        for n in ("accuracy_over_size", "imagenet_distances")
    )
    theirs = {(round(v.size, 4), v.accuracy) for v in select(data="imagenet", acr=None)}
    floats = {
        (round(4e-6 * published.WEIGHTS[n], 4), accuracy) for n, accuracy in published.FLOAT.items()
    }
    assert points(left) == theirs | floats
    known = select(data="imagenet", method="HMQ")
    expected = {
        (float(v.wcr), v.distance) for v in known if v.distance is not None and v.wcr is not None
    }
    assert points(right) == expected | {(8.02, -1.1)}
    sentence = drawings["figure_4_imagenet"].sentence
    assert "no record of ours is on ImageNet itself" in sentence
    assert "MobileNetV2 on imagenette 96.20 % at a compression of 8.02 (-1.10)" in sentence
    real = like(found[NETTE], 8.0, 71.0, data="imagenet")
    drawing = paper.imagenet(ours({"real": real}))
    size = 4e-6 * sum(t["size"] for t in real.tensors if t["kind"] == "weight") / 8
    assert (round(size, 4), 71.0) in points(panels(drawing, "accuracy_over_size")[0])
    assert "no record of ours" not in drawing.sentence and "on imagenet 71.00 %" in drawing.sentence


def test_hollow_marks_are_the_values_that_were_read_off_a_plot(drawings):
    (ax,) = panels(drawings["figure_4_imagenet"], "accuracy_over_size")
    hollow = {(round(float(x), 4), float(y)) for line in ax.lines if line.get_markerfacecolor() == "white"
              for x, y in zip(*line.get_data(), strict=True)}  # fmt: skip
    plain = select(data="imagenet", acr=None)
    assert hollow == {(round(v.size, 4), v.accuracy) for v in plain if v.source == "plot"}


def test_figure_5_has_the_bits_of_every_layer_and_their_means_by_third_and_kind(found, drawings):
    drawing = drawings[f"figure_5_bits-{NETTE}"]
    weights = [t for t in found[NETTE].tensors if t["kind"] == "weight"]
    (top,), (below,) = panels(drawing, "bits"), panels(drawing, "parts")
    heights = {
        round(b.get_x() + b.get_width() / 2): b.get_height() for b in top.patches if b.get_fill()
    }
    assert heights == {i: t["bits"] for i, t in enumerate(weights)}
    bars = {c.get_label(): [bar.get_height() for bar in c] for c in below.containers}
    cut = [weights[:7], weights[7:14], weights[14:]]
    kind = {"pointwise": (1, 1), "depthwise": (3, 3)}
    for name, kernel in kind.items():
        own = [[t["bits"] for t in third if tuple(t["shape"][2:]) == kernel] for third in cut]
        np.testing.assert_allclose(bars[name], [np.mean(b) for b in own])
    assert (
        "depthwise 7.0" in drawing.sentence and "no depthwise" in drawings["figure_5_bits"].sentence
    )


def test_the_typical_record_is_chosen_by_its_header(found):
    assert paper.typical(found) == W16
    assert paper.typical({name: r for name, r in found.items() if name != W16}) == "w17"
    with pytest.raises(ValueError, match="no record of a complete run"):
        paper.typical({})


def test_texts_are_legible_and_apart(drawings):
    for name, drawing in drawings.items():
        boxes = list(texts(drawing))
        width, height = drawing.get_size_inches() * drawing.dpi
        assert width == 1000 and height <= 1080
        for artist, box in boxes:
            assert artist.get_fontsize() >= 9, (name, artist)
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, (
                name,
                artist,
            )
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            over = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(over) < 1, (name, one, other)


def test_every_figure_of_the_paper_has_its_counterpart(found, monkeypatch):
    for name in ("quantizer_as_mass_moves", "compression", "cifar10", "imagenet", "bits_per_layer"):
        monkeypatch.setattr(paper, name, lambda source, name=name: (name, source))
    made, values = paper.paper_figures(found), ours(found)
    assert made == {
        "figure_1_quantizer": ("quantizer_as_mass_moves", (2, 3)),
        "figure_2_compression": ("compression", found[W16]),
        "figure_3_cifar10": ("cifar10", values),
        "figure_4_imagenet": ("imagenet", values),
        "figure_5_bits": ("bits_per_layer", found[W16]),
        f"figure_5_bits-{NETTE}": ("bits_per_layer", found[NETTE]),
    }


# --- the files


def test_the_command_writes_figures_tables_and_a_page(
    found, drawings, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        paper, "paper_figures", lambda found: {"figure_3_cifar10": drawings["figure_3_cifar10"]}
    )
    for name in (W16, "a4"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        records.write(found[name], tmp_path / "runs" / name / "record.json")
    assert main(["figures", "--all", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.split()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.rsplit("/", 1)[1] for p in printed} == {
        "figure_3_cifar10.png", "figure_3_cifar10.svg", "paper.md",
        *(f"{name}.{kind}" for name in ("table_1", "table_2", "table_3", "figure_3") for kind in ("md", "csv")),
    }  # fmt: skip
    page = (tmp_path / "out" / "paper.md").read_text()
    assert (
        drawings["figure_3_cifar10"].sentence in page
        and f"record {W16}" in page
        and "record w17" not in page
    )
    assert main(["figures", "--all", str(tmp_path / "none"), "--out", str(tmp_path / "other")]) == 2
    assert main(["figures"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert (
        "no folder in" in errors[0] and "--all" in errors[1] and not (tmp_path / "other").exists()
    )


def test_without_a_folder_it_takes_the_records_of_the_package(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        paper, "write_paper", lambda found, folder: taken.append((list(found), folder)) or []
    )
    assert main(["figures", "--all", "--overwrite"]) == 0
    ((names, folder),) = taken
    assert set(names) == set(records.names()) and folder.as_posix() == "docs/figures/paper"


def test_bits_per_layer_of_a_network_with_two_weights():
    record = records.recorded(W16)
    record.tensors = [t for t in record.tensors if t["kind"] == "weight"][-2:]
    assert "in the middle, none in the last" in paper.bits_per_layer(record).sentence
