"""The figures: what they draw is what the record says, and nothing lies over anything else."""

import math
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg

from hmq_lab import plots
from hmq_lab.budget import compression, hinge
from hmq_lab.gumbel import Cycles
from hmq_lab.plots import schemes
from hmq_lab.quantizer import Scheme
from hmq_lab.runs.records import Record

BITS = list(range(1, 9))
EPOCHS, STEPS = 10, 20  # of stage 1; steps in an epoch; stage 2 has half as many epochs


def synthetic_record(layers: int = 20, seed: int = 0) -> Record:
    """What a search of 10 and 5 epochs leaves: a mobile network that loses bits as the target rises from 4 to 8."""
    g = torch.Generator().manual_seed(seed)
    tensors = []
    for i in range(layers):
        c, place, last = (
            16 * 2 ** (4 * i // layers),
            f"features.{i // 3}.conv.{i % 3}",
            i == layers - 1,
        )
        shape = (
            [[2 * c, c, 1, 1], [2 * c, 1, 3, 3], [c, 2 * c, 1, 1]][i % 3] if i else [16, 3, 3, 3]
        )
        name, shape = ("classifier.1.weight", [10, c]) if last else (f"{place}.0.weight", shape)
        exponents = [1 - i % 4 - k for k in range(8)]
        row = {
            "name": name,
            "kind": "weight",
            "layer": "Linear" if last else "Conv2d",
            "shape": shape,
            "signed": True,
        }
        tensors.append(
            row
            | {
                "space": {"bits": BITS, "exponents": exponents},
                "threshold_exponent": exponents[i % 3],
            }
        )
    for i in range(layers + layers // 6):
        name, kind = (
            (f"features.{i // 3}.add", "add")
            if i % 4 == 3
            else (f"features.{i // 3}.conv.{i % 3}.2", "ReLU")
        )
        row = {
            "name": name + ":2" * (i % 8 == 7),
            "kind": "activation",
            "layer": kind,
            "shape": [16, 32, 32],
        }
        row |= {
            "signed": kind == "add",
            "bits": 8,
            "bits_before_repair": 8,
            "threshold_exponent": 2 - i % 5,
        }
        tensors.append(row | {"space": {"bits": [8], "exponents": [3 - k for k in range(8)]}})
    for t in tensors:
        t["size"] = math.prod(t["shape"])
    weights = [t for t in tensors if t["kind"] == "weight"]
    sizes = {t["name"]: t["size"] for t in weights}
    whole = {
        t["name"]: int(torch.randint(3, 7, (), generator=g)) - 2 * i // layers
        for i, t in enumerate(weights)
    }
    final = {
        name: b - 0.4 for name, b in whole.items()
    }  # whose most probable bits are the whole ones: too many
    target = round(0.99 * compression(final, sizes), 1)

    def tables(done: float) -> dict:
        """Mass that moves from (8 bits, largest threshold) towards the final ones."""
        found = {}
        for t in tensors:
            b = torch.tensor(t["space"]["bits"])[:, None]
            centre = 8 + (final.get(t["name"], 8) - 8) * done
            best = t["space"]["exponents"].index(t["threshold_exponent"]) * done
            p = torch.softmax(
                (-2 * (b - centre).abs() - 1.5 * (torch.arange(8) - best).abs()).flatten(), 0
            )
            found[t["name"]] = [[round(v, 3) for v in row] for row in p.view(len(b), 8).tolist()]
        return found

    def selected(table: dict) -> dict:
        return {name: BITS[int(np.sum(table[name], 1).argmax())] for name in sizes}

    temperature, events = Cycles(STEPS, epochs=5), []
    for step in range(EPOCHS * STEPS):
        done = min(1.0, step / (0.8 * EPOCHS * STEPS))
        if step % 10 == 0:
            table = tables(done)
            events.append({"kind": "tables", "step": step, "tables": table})
        bits = {name: 8 + (final[name] - 8) * done for name in sizes}
        goal, expected = 4 + (target - 4) * min(3, step // 50) / 3, compression(bits, sizes)
        task = 0.4 + math.exp(-step / 60) + 0.1 * torch.rand((), generator=g).item()
        event = {
            "kind": "step",
            "stage": 1,
            "epoch": step // STEPS,
            "step": step,
            "task_loss": task,
        }
        event |= {
            "loss": task + 32 * hinge(expected, goal),
            "hinge": hinge(expected, goal),
            "learning_rate": 1e-3,
        }
        event |= {"temperature": temperature(step), "target_rate": goal, "expected_rate": expected}
        events.append(event)
        if step % STEPS == STEPS - 1:
            event = {
                "kind": "epoch",
                "stage": 1,
                "epoch": step // STEPS,
                "step": step,
                "training_loss": event["loss"],
            }
            event |= {
                "validation_accuracy": 80 + 8 * done - 6 * (step % 40 == 39),
                "expected_rate": expected,
            }
            events.append(event | {"actual_rate": compression(selected(table), sizes)})
    before = selected(table)
    bits, moves = dict(before), []
    while compression(bits, sizes) < target:
        name = max(bits, key=lambda n: (bits[n], sizes[n]))
        moves.append(
            {"name": name, "before": bits[name], "after": bits[name] - 1, "probability": 0.1}
        )
        bits[name] -= 1
    reached = compression(bits, sizes)
    event = {
        "kind": "repair",
        "step": EPOCHS * STEPS,
        "rate_before": compression(before, sizes),
        "rate_after": reached,
    }
    events += [
        {"kind": "tables", "step": EPOCHS * STEPS, "tables": table},
        event | {"moves": moves},
    ]
    for step in range(EPOCHS * STEPS, 3 * EPOCHS * STEPS // 2):
        task = (
            0.35
            + 0.2 * math.exp((EPOCHS * STEPS - step) / 40)
            + 0.1 * torch.rand((), generator=g).item()
        )
        event = {
            "kind": "step",
            "stage": 2,
            "epoch": step // STEPS - EPOCHS,
            "step": step,
            "task_loss": task,
        }
        events.append(event | {"loss": task, "learning_rate": 1e-3})
        if step % STEPS == STEPS - 1:
            event = {
                "kind": "epoch",
                "stage": 2,
                "epoch": step // STEPS - EPOCHS,
                "step": step,
                "training_loss": task,
            }
            event |= {
                "validation_accuracy": 90 + step / 200,
                "expected_rate": reached,
                "actual_rate": reached,
            }
            events.append(event)
    for t in weights:
        t |= {"bits": bits[t["name"]], "bits_before_repair": before[t["name"]]}
    results = {
        "status": "complete",
        "target": {"weights": target, "activations": None, "activation_bits": 8},
        "rates": {
            "weights": reached,
            "all_weights": reached - 0.1,
            "checkpoint": reached - 0.5,
            "activations": 4.0,
        },
        "accuracy": {
            "float_validation": 92.3,
            "float_test": 91.9,
            "after_search": 82,
            "validation": 91.5,
            "test": 91.1,
        },
    }
    return Record(
        {"schema": 1, "model": "mobile", "data": "glyphs", "seed": seed},
        tensors,
        [],
        events,
        results,
    )


@pytest.fixture(scope="module")
def record() -> Record:
    return synthetic_record()


@pytest.fixture(scope="module")
def drawings(record) -> dict[str, plots.Drawing]:
    return plots.all_figures(record) | {"masses": plots.quantizer_as_mass_moves((2, 3))}


def panels(drawing) -> list:
    """The panels of a drawing, with their function's name as label; no colour bars."""
    return [ax for ax in drawing.axes if hasattr(plots, ax.get_label())]


def panel(drawing, name: str):
    return next(ax for ax in drawing.axes if ax.get_label() == name)


def line(ax, label: str) -> tuple[np.ndarray, np.ndarray]:
    found = next(artist for artist in ax.lines if str(artist.get_label()).startswith(label))
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def events(record, kind: str, key: str, **where) -> tuple[list, list]:
    found = [e for e in record.of(kind) if key in e and all(e[k] == v for k, v in where.items())]
    return [e["step"] for e in found], [e[key] for e in found]


def interrupted(record: Record, step: int) -> Record:
    """The record of a run that was stopped before `step`."""
    kept = [e for e in record.events if e["step"] < step]
    results = {
        "status": "interrupted",
        "target": record.results["target"],
        "rates": record.results["rates"],
    }
    tensors = [t | {"bits_before_repair": t["bits"]} for t in record.tensors]
    return Record(record.header, tensors, [], kept, results)


# --- what is drawn is what the record says


def test_the_staircases_end_in_the_two_schemes(drawings):
    stairs = panels(drawings["masses"])
    assert len(stairs) == 5
    for ax, bits in ((stairs[0], 2), (stairs[-1], 3)):
        x, y = ax.lines[1].get_data()
        assert set(np.asarray(y).tolist()) == set(
            Scheme(bits, 0, True).values
        )  # two's complement: -1 yes, 1 no
    steps = [0.5, 0.4375, 0.375, 0.3125, 0.25]
    for ax, step in zip(stairs, steps, strict=True):
        x, y = map(np.asarray, ax.lines[1].get_data())
        np.testing.assert_array_equal(
            y, np.clip(np.round(x / step), -1 / step, 1 / step - 1) * step
        )
        assert f"step {step:g}" in ax.get_title()


def test_unsigned_staircases_start_at_zero():
    drawing = plots.quantizer_as_mass_moves((1, 2), signed=False)
    y = [np.asarray(ax.lines[1].get_ydata()) for ax in panels(drawing)]
    assert set(y[0]) == {0, 0.5} and set(y[-1]) == {0, 0.25, 0.5, 0.75}


@pytest.mark.parametrize(
    "name, label, kind, key, stage",
    [
        ("rates", "expected", "step", "expected_rate", 1),
        ("rates", "actual", "epoch", "actual_rate", None),
        ("temperature", "_", "step", "temperature", 1),
        ("loss", "total", "step", "loss", None),
        ("loss", "task alone", "step", "task_loss", None),
        ("loss", "total, mean", "epoch", "training_loss", None),
        ("hinge", "_", "step", "hinge", 1),
        ("accuracy", "validation, stage 1", "epoch", "validation_accuracy", 1),
        ("accuracy", "validation, stage 2", "epoch", "validation_accuracy", 2),
    ],
)
def test_curves_over_the_steps(record, drawings, name, label, kind, key, stage):
    drawing = drawings["compression" if name in ("rates", "temperature") else "training"]
    x, y = line(panel(drawing, name), label)
    steps, values = events(record, kind, key, **({"stage": stage} if stage else {}))
    assert steps and x.tolist() == steps and y.tolist() == values


def test_target_repair_and_stage_boundary(record, drawings):
    ax = panel(drawings["compression"], "rates")
    repair = record.of("repair")[0]
    assert (
        repair["moves"]
        and repair["rate_before"] < record.results["target"]["weights"] <= repair["rate_after"]
    )
    for label, key in (("before the repair", "rate_before"), ("after it", "rate_after")):
        x, y = line(ax, label)
        assert (x.tolist(), y.tolist()) == ([repair["step"]], [repair[key]])
    x, y = line(ax, "aim of the loss")
    steps, targets = events(record, "step", "target_rate")
    assert x.tolist() == [*steps, 299] and y.tolist() == [
        *targets,
        record.results["target"]["weights"],
    ]
    for name in ("compression", "training"):
        for ax in panels(drawings[name]):
            assert set(line(ax, "stage 2 begins")[0]) == {repair["step"]}
            assert ax.get_xlim() == panels(drawings[name])[0].get_xlim()


def test_accuracy_lines_are_those_of_the_results(record, drawings):
    ax = panel(drawings["training"], "accuracy")
    for label, key in (
        ("test", "test"),
        ("float, test", "float_test"),
        ("float, validation", "float_validation"),
    ):
        assert set(line(ax, label)[1]) == {record.results["accuracy"][key]}


def test_stacked_areas_are_the_marginal_over_bits(record, drawings):
    ax = panel(drawings["probabilities"], "bits_over_steps")
    name = max((t for t in record.tensors if t["kind"] == "weight"), key=lambda t: t["size"])[
        "name"
    ]
    assert ax.get_title() == name
    tables = np.array([e["tables"][name] for e in record.of("tables")])
    steps = [e["step"] for e in record.of("tables")]
    edges = (tables.sum(2) / tables.sum((1, 2))[:, None]).cumsum(1) * 100  # (K, B)
    for row, area in enumerate(ax.collections):
        vertices = area.get_paths()[0].vertices
        assert area.get_label() == f"{BITS[row]} bits"
        for k, step in enumerate(steps):
            assert vertices[vertices[:, 0] == step, 1].max() == pytest.approx(
                edges[k, row], abs=1e-6
            )


def test_the_heat_map_is_the_table_at_the_step(record):
    name = "features.1.conv.1.0.weight"
    drawing = plots.probabilities(record, name=name, step=57)  # there are tables at 50 and 60
    ax = panel(drawing, "table")
    table = np.array(next(e for e in record.of("tables") if e["step"] == 50)["tables"][name])
    np.testing.assert_allclose(ax.collections[0].get_array(), 100 * table / table.sum())
    b = table.sum(1).argmax()
    assert ax.patches[0].get_xy() == (table[b].argmax(), b)
    space = next(t for t in record.tensors if t["name"] == name)["space"]
    assert [t.get_text() for t in ax.get_yticklabels()] == [str(b) for b in space["bits"]]
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        f"$2^{{{e}}}$" for e in space["exponents"]
    ]
    assert set(panel(drawing, "bits_over_steps").lines[-1].get_xdata()) == {50}
    assert "step 50" in ax.get_title() and f"the block of {name}" in drawing.sentence


def test_an_unknown_tensor_is_named_with_its_neighbours(record):
    with pytest.raises(
        ValueError, match=r"no tensor 'classifier'; near it are .*classifier\.1\.weight"
    ):
        plots.probabilities(record, name="classifier")


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_bars_and_dots_of_every_tensor(record, drawings, kind):
    tensors = [t for t in record.tensors if t["kind"] == kind]
    axes = [ax for ax in panels(drawings["scheme_map"]) if ax.get_ylabel().startswith(kind)]
    axes = {ax.get_label(): ax for ax in axes}
    bars = {
        round(b.get_x() + b.get_width() / 2): b.get_height()
        for b in axes["bits"].patches
        if b.get_fill()
    }
    assert bars == {i: t["bits"] for i, t in enumerate(tensors)}
    outlines = {
        round(b.get_x() + 0.42): b.get_height() for b in axes["bits"].patches if not b.get_fill()
    }
    lowered = {
        i: t["bits_before_repair"]
        for i, t in enumerate(tensors)
        if t["bits_before_repair"] != t["bits"]
    }
    assert outlines == lowered and bool(lowered) == (kind == "weight")
    for name, key in (("exponents", "threshold_exponent"), ("sizes", "size")):
        if name in axes:
            lines = [artist for artist in axes[name].lines if artist.get_linestyle() == "None"]
            dots = dict(pair for artist in lines for pair in zip(*artist.get_data(), strict=True))
            assert dots == {i: t[key] for i, t in enumerate(tensors)}
    below = axes["sizes"]
    assert [t.get_text() for t in below.get_xticklabels()] == [
        t["name"].removesuffix(".weight") for t in tensors
    ]


def test_layers_are_told_apart_by_their_shape(drawings):
    labels = {
        artist.get_label() for ax in panels(drawings["scheme_map"]) for artist in ax.containers
    }
    assert {"convolution", "depthwise", "pointwise", "linear", "signed", "unsigned"} <= labels
    grey = {"kind": "weight", "shape": [16, 1, 3, 3]}
    assert schemes._groups([grey, grey]) == {"convolution": [0], "depthwise": [1]}


def test_histograms_add_up_and_stand_beside_the_rate(record, drawings):
    for ax in panels(drawings["scheme_map"]):
        if ax.get_label() == "histogram":
            kind = ax.get_xlabel().split()[0]
            tensors = [t for t in record.tensors if t["kind"] == kind]
            assert ax.get_xlabel().startswith(f"{kind} bits; compression of ")
            assert ax.get_xlabel().endswith(f": {record.results['rates'][kind + 's']:.2f}")
            for container, key in zip(ax.containers, ("one", "size"), strict=True):
                shares = [sum(t.get(key, 1) for t in tensors if t["bits"] == b) for b in BITS]
                heights = [bar.get_height() for bar in container]
                np.testing.assert_allclose(heights, 100 * np.array(shares) / sum(shares))


# --- the sentences


def test_sentences_hold_the_numbers_of_the_record(record, drawings):
    sentences = plots.all_sentences(record)
    assert sentences == {name: drawings[name].sentence for name in sentences}
    for text in (*sentences.values(), drawings["masses"].sentence):
        assert text.endswith(".") and "\n" not in text and text.count(". ") == 0  # one sentence
    repair, results = record.of("repair")[0], record.results
    assert (
        f"takes it from {repair['rate_before']:.2f} to {repair['rate_after']:.2f}"
        in sentences["compression"]
    )
    assert f"target of {results['target']['weights']:g}" in sentences["compression"]
    assert "91.1 % on the test set, the float network 91.9 %" in sentences["training"]
    assert f"compression of {results['rates']['weights']:.2f}" in sentences["scheme_map"]
    assert (
        "from 0.5 to 0.25 and 4 levels become 8; half-way, with a step of 0.375"
        in drawings["masses"].sentence
    )


# --- nothing lies over anything else, nothing is cut off


def texts(drawing):
    """Every text that is drawn, with its box in pixels: ticks, labels, titles, legends."""
    renderer = FigureCanvasAgg(drawing).get_renderer()
    lists = [[drawing._suptitle]]
    for ax in drawing.axes:
        for axis in (ax.xaxis, ax.yaxis):  # the ticks in view
            low, high = sorted(axis.get_view_interval())
            shown = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            lists.append([tick.label1 for tick in shown if tick.label1.get_visible()])
        lists += [[ax.title, ax.xaxis.label, ax.yaxis.label], ax.texts]
        lists.append(ax.get_legend().get_texts() if ax.get_legend() else [])
    for artist in (artist for found in lists for artist in found):
        if artist.get_visible() and artist.get_text():
            yield artist, artist.get_window_extent(renderer)


@pytest.mark.parametrize("layers", [20, 53, 82])
def test_texts_are_legible_and_apart(layers, drawings):
    if layers != 20:
        drawings = {"scheme_map": plots.scheme_map(synthetic_record(layers))}
    for name, drawing in drawings.items():
        found = list(texts(drawing))
        width, height = drawing.get_size_inches() * drawing.dpi
        assert width == 1000 and height <= 1080
        for artist, box in found:
            assert artist.get_fontsize() >= 9, (name, artist)
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, (
                name,
                artist,
            )
        for i, (one, a) in enumerate(found):
            for other, b in found[i + 1 :]:
                over = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
                assert min(over) < 1, (name, one, other)  # pixels


def test_legends_name_everything_once_and_stand_outside(drawings):
    for drawing in drawings.values():
        for ax in panels(drawing):
            legend = ax.get_legend()
            if legend is not None:
                labels = [text.get_text() for text in legend.get_texts()]
                assert len(labels) == len(set(labels)) > 1
                a, b = legend.get_window_extent(), ax.get_window_extent()
                assert (
                    min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1
                )


# --- incomplete records


@pytest.mark.parametrize("step", [0, 5, 210])  # nothing; no epoch and one table; in stage 2
def test_interrupted_records_are_drawn(record, step):
    part = interrupted(record, step)
    drawings = {name: draw(part) for name, draw in plots.FIGURES.items() if name != "scheme_map"}
    if step == 0:
        assert (
            "no step" in drawings["compression"].sentence
            and "no tables" in drawings["probabilities"].sentence
        )
        assert [t.get_text() for t in panel(drawings["compression"], "rates").texts] == [
            "not in this record"
        ]
    else:
        assert drawings["training"].sentence.endswith("interrupted.")
        assert len(line(panel(drawings["compression"], "rates"), "expected")[0]) == min(step, 200)


def test_a_repair_without_moves_has_no_markers(record):
    idle = [e | {"moves": []} if e["kind"] == "repair" else e for e in record.events]
    drawing = plots.compression(Record(record.header, record.tensors, [], idle, record.results))
    assert not [a for a in panel(drawing, "rates").lines if "repair" in str(a.get_label())]
    assert "the repair has nothing to do" in drawing.sentence


def test_tensors_of_one_kind_alone_are_drawn(record):
    weights = [t for t in record.tensors if t["kind"] == "weight"]
    plots.scheme_map(Record(record.header, weights, [], record.events, {}))


# --- files, notebooks, styles


def test_files_are_whole_and_the_same_again(record, drawings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # they are drawn already
        patch.setattr(
            plots, "all_figures", lambda record: {name: drawings[name] for name in plots.FIGURES}
        )
        paths = plots.write_all(record, tmp_path / "a")
    assert [p.name for p in paths] == [
        f"{name}.{kind}" for name in plots.FIGURES for kind in ("png", "svg")
    ]
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        p.name for p in paths
    }  # nothing temporary is left
    svg = (tmp_path / "a" / "training.svg").read_text()
    assert "<title>From step 0" in svg and "dc:date" not in svg

    monkeypatch.setattr(
        plots, "FIGURES", {name: plots.FIGURES[name] for name in ("compression", "probabilities")}
    )
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "xtick.labelsize": 30}):
        for path in plots.write_all(
            synthetic_record(), tmp_path / "b"
        ):  # another style and hash salt do not show
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name


def test_unknown_formats_are_refused_before_anything_is_written(record, tmp_path):
    with pytest.raises(ValueError, match="formats must be among png, svg, pdf, got bmp"):
        plots.write_all(record, tmp_path, formats=("png", "bmp"))
    assert not list(tmp_path.iterdir())


def test_a_notebook_gets_the_picture_and_its_alternative_text(drawings):
    data, metadata = drawings["masses"]._repr_mimebundle_()
    assert (
        data["image/png"].startswith("iVBOR") and data["text/plain"] == drawings["masses"].sentence
    )
    assert metadata["image/png"]["alt"] == drawings["masses"].sentence


def test_a_panel_draws_on_anyones_axes(record):
    ax = matplotlib.figure.Figure().subplots()
    artists = plots.rates(record, ax)
    assert all(artist.axes is ax for artist in artists) and ax.get_xlabel() == "training step"


def test_the_package_alone_loads_no_matplotlib():
    code = "import sys, hmq_lab; assert not {'matplotlib', 'seaborn', 'hmq_lab.plots'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


DARK = """
import io, matplotlib, sys
matplotlib.use("agg")
from hmq_lab import plots
from hmq_lab.runs import records
drawing = plots.compression(records.recorded("builtin-tiny_resnet8-w8-a8"))
drawing.savefig(sys.argv[1])
drawing.canvas.draw()
from matplotlib.colors import to_rgb
from matplotlib.text import Text
import torch
from hmq_lab.plots.lessons import lesson05, lesson13
table = lesson05.logit_gradient(torch.eye(2), [0, -1], "a loss")  # it has a bar
curves = lesson13.running_maxima([1, 2], {"relu": [1.5, 2.5]}, {"relu": 5.0})  # it has a legend
for one in (drawing, table, curves):
    one.canvas.draw()
    ink = [to_rgb(text.get_color()) for text in one.findobj(Text) if text.get_text().strip()]
    assert min(sum(rgb) / 3 for rgb in ink) > 0.8, ink
"""


def test_figures_for_dark_pages(tmp_path):
    """Dark ground, light texts: asked for by the environment, as colours are constants."""
    file = tmp_path / "dark.png"
    environment = os.environ | {"HMQ_LAB_THEME": "dark"}
    done = subprocess.run(
        [sys.executable, "-c", DARK, file], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]
    pixels = np.asarray(Image.open(file).convert("L"))
    assert np.median(pixels) < 40 and pixels.max() > 200
