"""The selection explorer against what the records' tables and schemes say, counted anew."""

import base64
import copy
import html
import io
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

matplotlib.use("agg")

from hmq_lab import explorers
from hmq_lab.explorers import modules, selecting
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

LOW, HIGH = (records.recorded(f"cifar10-resnet20-w{target}-a8") for target in (8, 16))
SMALL = records.recorded("builtin-tiny_resnet8-w8-a8")
MOVES = {"step": LOW.of("tables")[7]["step"], "layer": "layer2.0.conv1.weight", "play": 30}


@pytest.fixture(scope="module", autouse=True)
def core():
    """Core widgets and the picture that Python draws: what is shown where anywidget is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(modules.VARIABLE, "core")
        yield


@pytest.fixture(scope="module")
def made():
    """One explorer of each kind, for tests that set all they look at."""
    return {1: explorers.selection(SMALL), 2: explorers.selection(HIGH, LOW)}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def weights(record) -> list[dict]:
    return [t for t in record.tensors if t["kind"] == "weight"]


def most_probable(t: dict, table) -> tuple[int, int]:
    """Bits, then exponent, by going through the cells."""
    by_bits = {b: sum(row) for b, row in zip(t["space"]["bits"], table, strict=True)}
    bits = max(by_bits, key=by_bits.get)
    row = dict(zip(t["space"]["exponents"], table[t["space"]["bits"].index(bits)], strict=True))
    return bits, max(row, key=row.get)


def rate(record, bits) -> float:
    sizes = [t["size"] for t in weights(record)]
    return 32 * sum(sizes) / sum(b * n for b, n in zip(bits, sizes, strict=True))


def check_side(explorer, number, record, bits, table, choice):
    """What is computed, drawn and said of one search."""
    side, artists = explorer.result.sides[number], explorer.artists
    assert side.bits.tolist() == bits and side.choice == choice
    assert side.rate == pytest.approx(rate(record, bits))
    assert artists[f"bars {number}"].get_array().tolist() == bits
    assert [text.get_text() for text in artists[f"bits {number}"]] == [str(b) for b in bits]
    shown = np.ma.filled(artists[f"table {number}"].get_array(), 0)
    t = next(t for t in record.tensors if t["name"] == explorer.state.layer)
    rows = [
        sorted({b for u in record.tensors for b in u["space"]["bits"]}).index(b)
        for b in t["space"]["bits"]
    ]
    assert np.allclose(shown[rows], 100 * np.array(table) / np.sum(table))
    column, row = artists[f"choice {number}"].get_xy()
    assert (t["space"]["exponents"][column], row) == (
        choice[1],
        rows[t["space"]["bits"].index(choice[0])],
    )
    said = f"{choice[0]} bit{'' if choice[0] == 1 else 's'} below 2^{choice[1]}"
    assert (
        said in explorer.sentence
        and f"compression of the network {rate(record, bits):.2f}" in explorer.sentence
    )


@pytest.mark.parametrize("layer", [None, "conv1.weight", "layer2.0.relu1"])
def test_every_step_shows_what_the_record_says(made, layer):
    explorer = made[1]
    layer = layer or max(weights(SMALL), key=lambda t: t["size"])["name"]
    t = next(t for t in SMALL.tensors if t["name"] == layer)
    explorer.set(layer=layer)
    for event in SMALL.of("tables")[::9]:
        explorer.controls["step"].value = event["step"]
        bits = [most_probable(u, event["tables"][u["name"]])[0] for u in weights(SMALL)]
        check_side(
            explorer,
            0,
            SMALL,
            bits,
            event["tables"][layer],
            most_probable(t, event["tables"][layer]),
        )
        assert explorer.sentence.startswith(f"Step {event['step']} of 750")
        assert list(explorer.artists["cursor"].get_xdata()) == [event["step"]] * 2
    assert explorer.artists["layer 0"].get_visible() == (t["kind"] == "weight")
    if t["kind"] == "weight":
        assert (
            explorer.artists["layer 0"].get_x()
            == [u["name"] for u in weights(SMALL)].index(layer) - 0.5
        )
    history = explorer.artists["history"].get_ydata()
    for mean, selected, event in zip(
        history, explorer.artists["selected"].get_ydata(), SMALL.of("tables"), strict=True
    ):
        table = np.array(event["tables"][layer])
        wanted = sum(b * table[i].sum() for i, b in enumerate(t["space"]["bits"])) / table.sum()
        assert mean == pytest.approx(wanted) and selected == most_probable(t, table.tolist())[0]


def test_the_last_moment_is_what_stage_2_trains_with(made):
    explorer = made[2]
    for name in ("layer1.0.conv2.weight", "layer3.2.conv2.weight", "layer1.1.relu2"):
        explorer.set(step="repaired", layer=name)
        for number, record in enumerate((HIGH, LOW)):
            t = next(t for t in record.tensors if t["name"] == name)
            last = record.of("tables")[-1]["tables"][name]
            bits = [u["bits"] for u in weights(record)]
            check_side(explorer, number, record, bits, last, (t["bits"], t["threshold_exponent"]))
            assert explorer.result.sides[number].rate == pytest.approx(
                record.results["rates"]["weights"]
            )
    assert explorer.controls["play"].value == len(HIGH.of("tables"))
    own = explorers.selection(HIGH, step="repaired")
    moved = sum(t["bits"] != t["bits_before_repair"] for t in weights(HIGH))
    assert moved and f"The repair changed the bits of {moved} of 20 weights." in own.sentence
    before = next(
        t["bits_before_repair"] for t in HIGH.tensors if t["name"] == "layer1.0.conv2.weight"
    )
    own.set(step=HIGH.of("tables")[-1]["step"], layer="layer1.0.conv2.weight")
    assert own.result.sides[0].choice[0] == before


def test_where_two_searches_differ_is_marked_and_counted(made):
    explorer = made[2]
    for at in (0, 10, len(HIGH.of("tables"))):
        explorer.set(play=at)
        first, second = (side.bits.tolist() for side in explorer.result.sides)
        unlike = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
        assert explorer.artists["differ 1"].get_xdata().tolist() == unlike
        assert not len(explorer.artists["differ 0"].get_xdata())
        sizes = [t["size"] for t in weights(HIGH)]
        share = 1 - sum(sizes[i] for i in unlike) / sum(sizes)
        words = f"The two agree in {20 - len(unlike)} of 20 weights, {share:.0%} of their elements."
        assert explorer.sentence.endswith(words)
    same = explorers.selection(HIGH, HIGH, step="repaired")
    assert same.sentence.endswith("The two agree in 20 of 20 weights, 100% of their elements.")


def test_searches_of_other_lengths_are_shown_at_the_same_share():
    longer = copy.deepcopy(SMALL)
    for event in longer.events:
        event["step"] *= 3
    explorer = explorers.selection(SMALL, longer)
    for event in SMALL.of("tables")[::20]:
        explorer.set(step=event["step"])
        assert [side.step for side in explorer.result.sides] == [event["step"], 3 * event["step"]]
        assert not explorer.result.differ.any()


@pytest.mark.parametrize("number", [1, 2])
def test_a_moved_control_gives_the_picture_that_a_new_explorer_draws(number):
    pair = (SMALL,) if number == 1 else (HIGH, LOW)
    moves = MOVES | {"step": pair[0].of("tables")[7]["step"]}
    explorer = explorers.selection(*pair)
    for control, value in moves.items():
        before = explorer.view.image.value, explorer.sentence
        explorer.controls[control].value = value
        assert explorer.view.image.value != before[0] and explorer.sentence != before[1]
        assert html.escape(explorer.sentence) in explorer.view.text.value
    other = explorers.selection(*pair, step=explorer.state.step, layer=explorer.state.layer)
    assert other.sentence == explorer.sentence
    assert (pixels(other.view.image.value) == pixels(explorer.view.image.value)).all()
    explorer.figure.savefig(saved := io.BytesIO(), format="png")
    difference = np.abs(pixels(saved.getvalue()) - pixels(explorer.view.image.value)).max(2)
    # Frames and ticks lie over what moves, or under it.
    assert (difference > 8).mean() < 0.01
    data, metadata = explorer._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == explorer.sentence
    assert (pixels(base64.b64decode(data["image/png"])) == pixels(explorer.view.image.value)).all()


@pytest.mark.parametrize("number", [1, 2])
def test_texts_are_whole_and_large_enough(number, made):
    figure = made[number].figure
    renderer, (width, height) = made[number].picture.canvas.get_renderer(), figure.bbox.size
    # With controls and sentence it fits a notebook at 1280 x 800.
    assert width <= 820 and height <= 470
    shown = [
        t for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip() and t.get_visible()
    ]
    assert min(text.get_fontsize() for text in shown) >= 9
    for ax in figure.axes:
        for text in [*ax.texts, ax._left_title, ax.xaxis.label, ax.yaxis.label]:
            if text in shown:
                (x0, y0), (x1, y1) = text.get_window_extent(renderer).get_points()
                assert x0 >= -1 and y0 >= -1 and x1 <= width + 1 and y1 <= height + 1, text
    for control in made[number].controls.values():
        assert control.description


def test_set_sets_all_or_nothing(made):
    explorer = made[2]
    state, picture = explorer.state, explorer.view.image.value
    for control in explorer.controls:
        for bad in (None, "no such thing", math.nan, 10**9, -1):
            with pytest.raises(ValueError, match=rf"^{control} must be .*got"):
                explorer.set(**{"layer": "conv1.weight", control: bad})
    with pytest.raises(ValueError, match="has no 'speed'; it has step, layer, play"):
        explorer.set(speed=1)
    assert explorer.state == state and explorer.view.image.value == picture


def test_a_search_that_was_interrupted_has_no_last_moment():
    half = Record(
        HIGH.header, HIGH.tensors, events=[e for e in HIGH.events if e["kind"] != "repair"][:40]
    )
    explorer = explorers.selection(LOW, half)
    assert explorer.state.steps == tuple(e["step"] for e in LOW.of("tables"))
    with pytest.raises(ValueError, match="step must be one of"):
        explorer.set(step="repaired")
    assert not selecting.Search.of(half).final and selecting.Search.of(LOW).final


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ((Record({}),), "no tables of probabilities"),
        (("runs/builtin",), "a record is needed.*got str"),
        ((HIGH, Record(HIGH.header, HIGH.tensors, events=HIGH.of("step"))), "no tables of probabilities"),
        (
            (HIGH, Record(HIGH.header, [{**t, "name": f"{t['name']}x"} for t in HIGH.tensors],
                          events=[{**e, "tables": {f"{n}x": v for n, v in e["tables"].items()}}
                                  for e in HIGH.of("tables")])),
            r"share no weight: conv1\.weight, \.\.\. and conv1\.weightx",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(pair, said):
    with pytest.raises(ValueError, match=said):
        explorers.selection(*pair)


def test_stages_are_the_parts_that_a_reader_knows():
    names = [t["name"] for t in weights(HIGH)]
    assert selecting.stages(names) == [
        (0, 1, "conv1"), (1, 6, "layer1"), (7, 6, "layer2"), (13, 6, "layer3"), (19, 1, "linear")
    ]  # fmt: skip
    mobile = [
        "features.0.0.weight",
        "features.1.conv.0.weight",
        "features.1.conv.1.weight",
        "classifier.1.weight",
    ]
    assert selecting.stages(mobile) == [(0, 1, "0"), (1, 2, "1"), (3, 1, "classifier")]
    assert sum(count for _, count, _ in selecting.stages(names * 3)) == 60


def test_records_are_found_and_named_by_their_headers():
    found = records.matching(data="cifar10", model="resnet20")
    assert {"cifar10-resnet20-w8-a8", "cifar10-resnet20-w16-a8"} <= found.keys()
    order = [(r.header["target"]["weights"], r.header["seed"]) for r in found.values()]
    assert order == sorted(order) and "builtin-tiny_resnet8-w8-a8" not in found
    tiny = records.matching(model=lambda model: "tiny" in model, absent=None)
    assert list(tiny) == ["builtin-tiny_resnet8-w8-a8"]
    assert records.label(HIGH) == "target 16, seed 0"
    target = {"weights": 17.3, "activations": None, "activation_bits": 4}
    header = {"target": target, "seed": 1, "hardware_mode": True, "space": {"bits": [2, 4, 8]}}
    told = "target 17.3, 4-bit activations, hardware mode, 2, 4, 8 bits, seed 1"
    assert records.label(Record(header)) == told
    target |= {"activations": 8.0, "activation_bits": None}
    header = {"target": target, "seed": 0, "space": {"bits": [2, 3, 4]}}
    assert records.label(Record(header)) == "target 17.3, activation target 8, 2 to 4 bits, seed 0"
