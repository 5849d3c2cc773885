"""The explorers, driven from Python: what a control sets is what is computed, drawn and said."""

import base64
import html
import io
import itertools
import json
import math
import re

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

matplotlib.use("agg")

from hmq_lab import HMQ, SearchSpace, explorers, quantize
from hmq_lab.commands import bench_explorers as bench
from hmq_lab.explorers import mixing, modules, sampling, tensors
from hmq_lab.explorers.frame import STRIP
from hmq_lab.gumbel import relaxed_categorical
from hmq_lab.quantizer import Scheme
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

OURS, AUTHORS = "two's complement", "the authors' range"
RECORD = records.recorded("builtin-tiny_resnet8-w8-a8")
WEIGHT = torch.randn(24, 6, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1
MAKE = {
    "quantizer": lambda **initial: explorers.quantizer(WEIGHT, **initial),
    "surface": lambda **initial: explorers.surface(WEIGHT, **initial),
    "gumbel": lambda **initial: explorers.gumbel(**initial),
    "bars": lambda logits=tuple(range(-3, 9)), **initial: explorers.gumbel(logits, **initial),
    "block": lambda **initial: explorers.block(WEIGHT, **initial),
    "replay": lambda **initial: explorers.replay(RECORD, **initial),
}
MOVES = {
    "quantizer": {"bits": 2, "exponent": -3, "signed": False, "authors": True},
    "surface": {"bits": 5, "exponent": -2},
    "gumbel": {
        "epoch": 2.0,
        "temperature": 0.1,
        "category": 1,
        "logit": 2.0,
        "samples": 40,
        "seed": 5,
    },
    "bars": {
        "epoch": 6.0,
        "temperature": 5.0,
        "category": 7,
        "logit": -1.0,
        "samples": 100,
        "seed": 1,
    },
    "block": {"bits": 2, "exponent": -2, "mass": 0.4, "temperature": 0.6, "sample": 3},
    "replay": {"step": 324, "layer": "linear.weight", "play": 30},
}


@pytest.fixture(scope="module", autouse=True)
def core():
    """Core widgets and the picture that Python draws: what is shown where anywidget is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(modules.VARIABLE, "core")
        yield


@pytest.fixture(scope="module")
def made():
    """One explorer of each kind, for tests that set all they look at."""
    return {name: make() for name, make in MAKE.items()}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


# --- the frame


@pytest.mark.parametrize("name", MAKE)
def test_a_moved_control_gives_the_picture_that_a_new_explorer_draws(name):
    explorer = MAKE[name]()
    assert set(MOVES[name]) == set(explorer.controls)
    for control, value in MOVES[name].items():
        before = explorer.view.image.value, explorer.sentence, explorer.result
        explorer.controls[control].value = value
        assert getattr(explorer.state, control) == pytest.approx(value)
        assert explorer.result is not before[2]
        # Which is for the next control.
        assert (explorer.view.image.value != before[0]) == (control != "category")
        assert (
            html.escape(explorer.sentence) in explorer.view.text.value
            and explorer.figure is explorer.picture.figure
        )
    fresh = {field: getattr(explorer.state, field) for field in explorer.state.__dataclass_fields__}
    # Drawn at once, as the static twin is: nothing of the way may be left over.
    other = MAKE[name](**fresh)
    assert other.state == explorer.state and other.sentence == explorer.sentence
    difference = np.abs(pixels(explorer.view.image.value) - pixels(other.view.image.value))
    # A title of another length may shift the layout by a pixel.
    assert (difference.max(2) > 8).mean() < 0.02
    if name in ("surface", "gumbel", "replay"):
        assert difference.max() == 0


@pytest.mark.parametrize("name", MAKE)
def test_what_is_saved_is_what_is_shown(name, made):
    made[name].figure.savefig(saved := io.BytesIO(), format="png")
    difference = np.abs(pixels(saved.getvalue()) - pixels(made[name].view.image.value)).max(2)
    # Frames and ticks lie over what moves, or under it.
    assert (difference > 8).mean() < 0.01


@pytest.mark.parametrize("name", MAKE)
def test_every_text_lies_within_the_picture_and_is_large_enough(name, made):
    figure = made[name].figure
    renderer, (width, height) = made[name].picture.canvas.get_renderer(), figure.bbox.size
    # With controls and sentence it fits a notebook at 1280 x 800.
    assert width <= 820 and height <= 470
    shown = [
        t for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip() and t.get_visible()
    ]
    for text in shown:
        assert text.get_fontsize() >= 9, text
    for ax in figure.axes:
        labels = [ax.xaxis.label, ax.yaxis.label] if ax.axison else []
        for text in [t for t in [*ax.texts, ax.title, ax._left_title, *labels] if t in shown]:
            (x0, y0), (x1, y1) = text.get_window_extent(renderer).get_points()
            assert x0 >= -1 and y0 >= -1 and x1 <= width + 1 and y1 <= height + 1, text


@pytest.mark.parametrize("name", MAKE)
def test_set_sets_all_or_nothing(name):
    explorer = MAKE[name]()
    moves = dict(itertools.islice(MOVES[name].items(), 2))
    moves.pop("epoch", None)
    explorer.set(**moves)
    assert {key: explorer.controls[key].value for key in moves} == moves
    state, picture = explorer.state, explorer.view.image.value
    for control in explorer.controls:
        for bad in (None, "no such thing", math.nan, 10**9, -(10**9)):
            with pytest.raises(ValueError, match=rf"^{control} must be .*got"):
                explorer.set(**moves | {control: bad})
    with pytest.raises(ValueError, match="has no 'speed'; it has " + ", ".join(explorer.controls)):
        explorer.set(speed=1)
    with pytest.raises(ValueError, match="must be"):
        MAKE[name](**{next(iter(explorer.controls)): "no such thing"})
    assert explorer.state == state and explorer.view.image.value == picture


def test_what_does_not_go_together_is_said_and_not_raised():
    explorer = explorers.gumbel([0.0, 1.0, 2.0])
    explorer.set(logits=(0.0, 1.0, 50.0))
    before = explorer.result
    # Whose logit the slider cannot show.
    explorer.controls["category"].value = 2
    assert explorer.controls["category"].value == 0 and explorer.result is before
    assert "logit must be a number from -6 to 6, got 50.0" in explorer.view.text.value


@pytest.mark.parametrize("name", MAKE)
def test_without_a_kernel_the_picture_and_its_sentence_stay(name, made):
    data, metadata = made[name]._repr_mimebundle_(include=None, exclude=None)
    assert data["text/plain"] == metadata["image/png"]["alt"] == made[name].sentence
    assert (
        data["application/vnd.jupyter.widget-view+json"]["model_id"] == made[name].widget.model_id
    )
    saved = pixels(base64.b64decode(data["image/png"]))
    shown = pixels(made[name].view.image.value)
    assert (saved[: len(shown)] == shown).all()
    strip = saved[len(shown) :]  # which says that the controls come with the kernel
    assert len(strip) == STRIP and strip.min() < 100 and strip.max() == 255
    assert len(data["image/png"]) < 150_000
    json.dumps([data, metadata])


@pytest.mark.parametrize("name", MAKE)
def test_controls_are_named_and_their_values_readable(name, made):
    for control in made[name].controls.values():
        assert control.description
        assert getattr(control, "readout", True) and getattr(control, "continuous_update", True)
    assert 'aria-live="polite"' in made[name].view.text.value


def test_a_browsers_rounding_is_no_move():
    """A slider's front end sends back the nearest of its steps, also for what it was told by the
    kernel.
    """
    explorer = explorers.gumbel(temperature=0.9)
    state, picture = explorer.state, explorer.view.image.value
    for control, rounded in (("temperature", 0.912), ("logit", -0.5), ("epoch", 0.01)):
        explorer.controls[control].value = rounded
        assert explorer.state == state and explorer.view.image.value is picture
    # A step further.
    explorer.controls["logit"].value = -0.4
    assert explorer.state.logit == -0.4 and explorer.controls["temperature"].value == 0.9
    log = explorer.controls["temperature"]
    # 1 is one of the steps.
    assert (-log.min / log.step) == pytest.approx(round(-log.min / log.step))


# --- tensors


@pytest.mark.parametrize(
    "make", [explorers.quantizer, explorers.surface, explorers.block, explorers.gumbel]
)
@pytest.mark.parametrize("number", [3, 3.0, np.int64(3), torch.tensor(3)])
def test_a_number_is_no_tensor(make, number):
    with pytest.raises(
        ValueError, match="got the number 3: a setting goes by its name, such as bits=3"
    ):
        make(number)


@pytest.mark.parametrize("make", [explorers.quantizer, explorers.surface, explorers.block])
@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(0, 3), "empty"),
        (torch.tensor([1.0, math.nan, math.inf]), "NaN or infinities in 2 of 3 places"),
        (np.array([1 + 2j]), "real numbers is needed, got complex128"),
        (torch.tensor([True]), "real numbers is needed, got torch.bool"),
        ("weights.pt", "real numbers is needed, got str"),
        (torch.empty(3, device="meta"), "real numbers is needed"),
        (torch.tensor([1e38]), "threshold_exponent must be an integer from -100 to 100, got 12"),
    ],
)
def test_unfit_tensors_are_refused(make, tensor, said):
    with pytest.raises(ValueError, match=said):
        make(tensor)


def test_tensors_of_every_kind_are_taken():
    x = WEIGHT[:2]
    expected = x.double().flatten().numpy()
    for same in (
        x,
        nn.Parameter(x),
        x.numpy(),
        x.double(),
        x.clone().requires_grad_(),
        x[:, :, ::1],
    ):
        assert (tensors.values(same) == expected).all()
    assert explorers.quantizer(np.arange(4)).result.scheme == Scheme(3, 2, False)
    # The layer that comes with the package.
    assert explorers.quantizer().result.values.size == 9216


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_tensors_do(value):
    x = torch.full((5,), value)
    for make in (explorers.quantizer, explorers.surface, explorers.block):
        explorer = make(x)
        for bits in (1, 8):
            explorer.controls["bits"].value = bits
            assert "nan" not in explorer.sentence
        said = {"quantizer": "all zero: nothing is lost", "block": "No gradient reaches the logits"}
        assert value or said.get(make.__name__, "no error at all") in explorer.sentence


def test_of_many_values_some_are_drawn_and_all_are_measured():
    x = torch.zeros(400_001)
    # Not among every eighth value.
    x[1] = 1.0
    x[::8] = 0.25
    explorer = explorers.quantizer(x, bits=1)
    assert explorer.result.values.size == x.numel()
    ax = explorer.figure.axes[1]
    # Percent, and all at 0.25.
    assert sum(p.get_height() for p in ax.patches[:60]) == pytest.approx(100)
    expected = (
        quantize(x, 0.5, 1.0, False) - x
    ).double().square().sum() / x.double().square().sum()
    assert explorer.result.ranges[OURS].loss.total == pytest.approx(float(expected))


# --- the quantizer


def nearest(x: float, levels) -> float:
    """The closest level, by looking at all of them; at a tie the one whose place counts as even, as
    halves round.
    """
    step = levels[1] - levels[0]
    return min(levels, key=lambda level: (abs(level - x), round(level / step) % 2))


@given(
    values=st.lists(
        st.floats(-4, 4, width=32).map(lambda v: v if abs(v) > 1e-6 else 0.0),
        min_size=1,
        max_size=12,
    ),
    bits=st.integers(1, 5),
    octave=st.integers(0, 7),
    signed=st.booleans(),
)
def test_the_error_is_that_of_the_nearest_level(values, bits, octave, signed):
    x = np.array(values, dtype=float)
    exponent = tensors.exponents(x)[octave]
    scheme = Scheme(bits, exponent, signed)
    found = tensors.loss(x, scheme.step, scheme.integers)
    errors = np.array([nearest(v, scheme.values) - v for v in x])
    ours = quantize(torch.tensor(x), scheme.step, scheme.threshold, signed).numpy() - x
    assert np.allclose(np.abs(errors), np.abs(ours))
    energy = np.square(x).sum() or 1.0
    assert found.total == pytest.approx(np.square(errors).sum() / energy, rel=1e-12, abs=1e-300)
    lo, hi = scheme.integers
    # Python's round is half to even, too.
    beyond = [not lo <= round(v / scheme.step) <= hi for v in values]
    assert found.clipped == sum(beyond)
    assert found.clipping == pytest.approx(
        np.square(errors[beyond]).sum() / energy, rel=1e-12, abs=1e-300
    )


def test_the_quantizer_draws_and_says_what_it_computes():
    explorer = explorers.quantizer(WEIGHT)
    x = WEIGHT.double().flatten()
    for bits, octave, signed in (
        (1, 0, True),
        (3, 1, True),
        (3, 2, False),
        (8, 4, True),
        (2, 7, False),
    ):
        exponent = tensors.exponents(x.numpy())[octave]
        explorer.set(bits=bits, exponent=exponent, signed=signed)
        scheme = Scheme(bits, exponent, signed)
        q = quantize(x, scheme.step, scheme.threshold, signed)
        ours = explorer.result.ranges[OURS]
        assert ours.levels.tolist() == list(scheme.values)

        # The drawn staircase is the quantizer itself.
        corners, heights = explorer.artists[OURS].get_data()
        at = np.searchsorted(corners, x.numpy(), side="left").clip(1, len(corners) - 1)
        ties = np.isin(x.numpy(), corners)
        assert (heights[at] == q.numpy())[~ties].all() and not ties.all()

        xs = explorer.artists["levels"].get_xdata()
        assert xs[::3].tolist() == list(scheme.values)
        low, high = explorer.artists["clipped"]
        assert low.get_x() + low.get_width() == scheme.values[0] - scheme.step / 2
        assert high.get_x() == scheme.values[-1] + scheme.step / 2
        shown = [bar.get_width() + 1e-4 for bar in explorer.artists[f"loss, {OURS}"]]
        assert np.allclose(
            shown, np.maximum([100 * ours.loss.rounding, 100 * ours.loss.clipping], 1e-4)
        )
        total = float((q - x).square().sum() / x.square().sum())
        said = [float(v) for v in re.findall(r"([\d.e+-]+) %", explorer.sentence)]
        assert sum(said) / 100 == pytest.approx(total, rel=0.01)
        assert f"{scheme.levels} levels, {scheme.step:g} apart" in explorer.sentence
        assert f"clipped values: {ours.loss.clipped:,})" in explorer.sentence


@pytest.mark.parametrize(
    ("bits", "signed", "levels"),
    [
        (2, True, [-0.5, 0, 0.5, 1]),  # the authors' published picture
        (1, True, [0, 1]),
        (1, False, [0, 0.5, 1]),
        (2, False, [0, 0.25, 0.5, 0.75, 1]),
        (4, False, [k / 16 for k in range(17)]),
    ],
)
def test_the_authors_range(bits, signed, levels):
    explorer = explorers.quantizer(np.array([-0.9, 0.3, 0.8]), bits=bits, exponent=0, signed=signed)
    assert AUTHORS not in explorer.result.ranges and not len(explorer.artists[AUTHORS].get_xdata())
    explorer.controls["authors"].value = True
    theirs = explorer.result.ranges[AUTHORS]
    assert theirs.levels.tolist() == levels
    errors = [min(abs(level - v) for level in levels) for v in (-0.9, 0.3, 0.8)]
    assert theirs.loss.total == pytest.approx(sum(e * e for e in errors) / (0.81 + 0.09 + 0.64))
    assert f"{len(levels)} levels from {levels[0]:g} to 1" in explorer.sentence
    assert set(explorer.artists[AUTHORS].get_ydata()) == set(levels)


# --- the error surface


def test_the_surface_is_what_every_scheme_loses():
    explorer = explorers.surface(WEIGHT)
    surface, x = explorer.result.surface, WEIGHT.double()
    expected = np.empty((8, 8))
    for row, column in np.ndindex(8, 8):
        scheme = Scheme(row + 1, surface.exponents[column], True)
        error = quantize(x, scheme.step, scheme.threshold, True) - x
        expected[row, column] = error.square().sum() / x.square().sum()
    assert np.allclose(surface.total, expected, rtol=1e-12)
    assert surface.exponents[1] == math.ceil(math.log2(WEIGHT.abs().max()))
    assert surface.best == {b: surface.exponents[expected[b - 1].argmin()] for b in range(1, 9)}
    mesh = explorer.figure.axes[0].collections[0].get_array()
    assert np.allclose(mesh, np.log10(np.maximum(100 * expected, 1e-4)))
    circles = explorer.figure.axes[0].lines[0]
    assert [surface.exponents[int(at)] for at in circles.get_xdata()] == list(surface.best.values())
    for bits, exponent in itertools.product((1, 3, 8), surface.exponents[::3]):
        explorer.controls["bits"].value, explorer.controls["exponent"].value = bits, exponent
        row, column = bits - 1, surface.exponents.index(exponent)
        assert explorer.result.loss == pytest.approx(expected[row, column])
        assert explorer.result.least == pytest.approx(expected[row].min())
        assert explorer.artists["picked"].get_xy() == (column, row)
        assert np.allclose(explorer.artists["total"].get_ydata(), 100 * expected[row])
        assert np.allclose(explorer.artists["point"].get_ydata(), 100 * expected[row, column])
        assert f"{100 * expected[row, column]:.3g} % of" in explorer.sentence
        away = surface.exponents[expected[row].argmin()] - exponent
        if away:
            said = f"2^{exponent + away}, {abs(away)} octave{'s' * (abs(away) > 1)} "
            said += f"{'above' if away > 0 else 'below'}"
            assert f"{said}, it is {100 * expected[row].min():.3g} %" in explorer.sentence
        else:
            assert "the least that any threshold here allows" in explorer.sentence


# --- Gumbel-Softmax


@pytest.mark.parametrize("logits", [[0.5, -1.0, 0.0], np.linspace(-2, 1, 7), [0.0, 0.3]])
def test_samples_follow_the_scheme_of_the_paper(logits):
    explorer = explorers.gumbel(logits, samples=200, seed=3)
    g = sampling.noise(3, len(logits)).numpy()[:200]
    score = np.array(logits) + g
    shares = np.bincount(score.argmax(1), minlength=len(logits)) / 200
    for temperature in (0.1, 0.5, 1.0, 10.0):
        explorer.controls["temperature"].value = temperature
        e = np.exp((score - score.max(1, keepdims=True)) / temperature)
        result, expected = explorer.result, e / e.sum(1, keepdims=True)
        assert np.allclose(result.samples, expected) and np.allclose(result.mean, expected.mean(0))
        # Whatever the temperature.
        assert np.allclose(result.chosen, shares)
        assert result.decided == (expected.max(1) > 0.95).mean()
        assert f"{result.decided:.0%} of 200 samples" in explorer.sentence
        heights = [bar.get_height() for bar in explorer.artists["largest"]]
        assert sum(heights) == pytest.approx(100)
        assert heights[-1] == pytest.approx(100 * (expected.max(1) >= 0.95).mean())
        if len(logits) == 3:
            corners = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
            assert np.allclose(
                np.stack(explorer.artists["samples"].get_data(), 1), expected @ corners
            )
            assert np.allclose(
                np.ravel(explorer.artists["mean"].get_data()), expected.mean(0) @ corners
            )
        else:
            p = np.exp(logits) / np.exp(logits).sum()
            assert np.allclose(
                [bar.get_height() for bar in explorer.artists["probabilities"]], 100 * p
            )
            assert np.allclose(explorer.artists["mean"].get_ydata(), 100 * expected.mean(0))
            assert np.allclose(explorer.artists["chosen"].get_ydata(), 100 * shares)
    first = explorer.result.samples[:50]
    explorer.controls["samples"].value = 50
    assert (explorer.result.samples == first).all()
    explorer.controls["seed"].value = 4
    assert not np.allclose(explorer.result.samples, first)


def test_many_samples_fall_as_the_probabilities_say():
    explorer = explorers.gumbel(np.log([0.6, 0.3, 0.1]), samples=1000)
    p = np.array([0.6, 0.3, 0.1])
    assert np.allclose(explorer.result.probabilities, p)
    assert (np.abs(explorer.result.chosen - p) < 4 * np.sqrt(p * (1 - p) / 1000)).all()
    assert "60%, 30% and 10%" in explorer.sentence


def test_the_schedule_sets_the_temperature():
    explorer = explorers.gumbel()
    for epoch in (0.0, 1.0, 2.0, 4.0, 5.0, 7.0):
        explorer.controls["epoch"].value = epoch
        expected = max(0.5, math.exp(-0.01 * round((epoch % 5) * 25)))
        assert explorer.controls["temperature"].value == pytest.approx(expected)
        assert explorer.artists["now"].get_data() == ([epoch], [pytest.approx(expected)])
    explorer.controls["temperature"].value = 3.0
    assert explorer.artists["now"].get_data() == ([7.0], [3.0])
    explorer.controls["category"].value = 2
    assert explorer.controls["logit"].value == pytest.approx(math.log(0.1))
    explorer.controls["logit"].value = 4.0
    assert explorer.state.logits == pytest.approx((math.log(0.6), math.log(0.3), 4.0))


@pytest.mark.parametrize("logits", [[], [1.0], [0.0, math.inf], "abc", [[1.0], [1.0, 2.0]]])
def test_unfit_logits_are_refused(logits):
    with pytest.raises(ValueError):
        explorers.gumbel(logits)


# --- the block


def surrogate(logits, x, steps, thresholds, signed, temperature, noise):
    """The error, by the library's own parts and autograd."""
    p = relaxed_categorical(logits, temperature, noise)
    q = quantize(x, (p * steps).sum(), (p * thresholds).sum(), signed)
    return (q - x).square().sum() / x.square().sum()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("temperature", "sample"), [(1.0, 0), (0.5, 0), (0.7, 4), (5.0, 9)])
def test_the_block_mixes_and_learns_as_hmq_does(signed, temperature, sample):
    x = (WEIGHT if signed else WEIGHT.clamp(min=0)).double()
    explorer = explorers.block(x, temperature=temperature, sample=sample)
    exponents = torch.tensor(explorer.state.exponents, dtype=torch.float64)
    thresholds = (2.0**exponents).expand(8, 8)
    steps = thresholds / 2.0 ** (torch.arange(1.0, 9.0)[:, None] - int(signed))
    for bits, octave, mass in ((8, 0, 0.2), (2, 1, 0.4), (3, 3, 0.7), (1, 7, 0.999)):
        explorer.set(bits=bits, exponent=explorer.state.exponents[octave], mass=mass)
        logits = torch.tensor(explorer.state.table, dtype=torch.float64).log().requires_grad_()
        noise = torch.from_numpy(mixing.noise(sample, (8, 8)))
        p = relaxed_categorical(logits, temperature, noise).detach()
        result = explorer.result
        assert np.allclose(result.weights, p, atol=1e-12)
        assert result.step == pytest.approx(float((p * steps).sum()))
        assert result.threshold == pytest.approx(float((p * thresholds).sum()))
        surrogate(logits, x, steps, thresholds, signed, temperature, noise).backward()
        assert logits.grad.abs().max() > 0
        assert np.allclose(
            result.gradient, logits.grad, rtol=1e-9, atol=1e-12 * float(logits.grad.abs().max())
        )
        assert (explorer.artists["weights"].get_array() == 100 * result.weights).all()
        shown = explorer.artists["gradient"].get_array()
        assert (
            np.allclose(shown, result.gradient / np.abs(result.gradient).max())
            and np.abs(shown).max() == 1
        )
        assert explorer.artists["picked"][0].get_xy() == (octave, bits - 1)
        assert np.array_equal(explorer.artists["stairs"].get_data(), result.stairs)
        row, column = np.unravel_index(result.gradient.argmin(), (8, 8))
        name = f"{row + 1} {'bits' if row else 'bit'} below 2^{explorer.state.exponents[column]}"
        assert f"raises the logit of {name} most" in explorer.sentence
        lost = 100 * surrogate(logits, x, steps, thresholds, signed, temperature, noise).item()
        assert f"which lose {lost:.3g} %" in explorer.sentence


def test_the_gradient_is_the_slope_of_the_error_while_the_codes_stay():
    """Finite differences, with each value's rounding error in steps, and on which side it is
    clipped, held fixed.
    """
    x = WEIGHT.double().flatten().numpy()
    explorer = explorers.block(x, bits=3, exponent=-3, mass=0.95)
    state, result = explorer.state, explorer.result
    bits, exponents = np.arange(1, 9)[:, None], np.array(state.exponents)
    steps, thresholds = 2.0 ** (exponents - bits + 1), np.broadcast_to(2.0**exponents, (8, 8))
    u = x / result.step
    r = np.round(u)
    above, below = r > result.threshold / result.step - 1, r < -result.threshold / result.step
    assert above.any() and below.any()

    def error(logits):
        p = np.exp(logits) / np.exp(logits).sum()
        step, threshold = (p * steps).sum(), (p * thresholds).sum()
        q = np.where(above, threshold - step, np.where(below, -threshold, x + (r - u) * step))
        return np.square(q - x).sum() / np.square(x).sum()

    logits = np.log(state.table)
    for cell in ((7, 0), (2, 2), (2, 3), (0, 0)):
        nudge = np.zeros((8, 8))
        nudge[cell] = 1e-4
        slope = (error(logits + nudge) - error(logits - nudge)) / 2e-4
        assert slope == pytest.approx(result.gradient[cell], rel=1e-4, abs=1e-9)


def test_mass_moves_and_the_others_keep_their_proportions():
    explorer = explorers.block(WEIGHT, bits=4, exponent=-1)
    before = np.array(explorer.state.table)
    for mass in (0.3, 0.999, 0.001, 0.5):
        explorer.controls["mass"].value = mass
        table = np.array(explorer.state.table)
        assert table.sum() == pytest.approx(1) and table[explorer.state.cell] == pytest.approx(mass)
        others = np.ones((8, 8), bool)
        others[explorer.state.cell] = False
        assert np.allclose(table[others] / before[others], (table[others] / before[others]).mean())
    explorer.set(bits=8, exponent=explorer.state.exponents[0])
    assert explorer.controls["mass"].value == pytest.approx(table[7, 0])
    assert "50.0%" not in explorer.sentence


def test_the_selection_and_the_space_are_those_of_the_readers_block():
    hmq = HMQ(SearchSpace((2, 4, 8), 3), threshold_exponent=1, signed=True)
    hmq.logits.data = torch.randn(3, 3)
    explorer = explorers.block(WEIGHT, hmq)
    assert explorer.result.selected == hmq.eval().scheme
    assert np.allclose(explorer.state.table, hmq.probabilities().detach())
    assert explorer.state.bit_widths == (2, 4, 8) and explorer.state.exponents == (1, 0, -1)
    assert [value for _, value in explorer.controls["bits"].options] == [2, 4, 8]
    explorer.controls["bits"].value = 4
    with pytest.raises(ValueError, match="bits must be one of 2, 4, 8, got 3"):
        explorer.set(bits=3)
    with pytest.raises(ValueError, match="sum to one"):
        explorer.set(table=np.ones((3, 3)))
    for bad in ({"hmq": 3}, {"hmq": hmq, "space": SearchSpace()}, {"space": SearchSpace((4,), 1)}):
        with pytest.raises(ValueError):
            explorers.block(WEIGHT, **bad)


@given(ratio=st.floats(1.0, 40.0), step=st.floats(0.01, 2.0), signed=st.booleans())
def test_the_staircase_between_schemes_is_the_quantizer(ratio, step, signed):
    """Ends that are no multiples of the step, as the block has them."""
    ratio = ratio if signed else ratio + 1
    ends = (-ratio if signed else 0.0, ratio - 1)
    x, y = tensors.staircase(step, ends, (-3.0, 3.0))
    middle, inside = (x[:-1] + x[1:]) / 2, np.diff(x) > 1e-9
    q = quantize(torch.from_numpy(middle), step, ratio * step, signed).numpy()
    assert (np.diff(x) >= 0).all() and x[0] <= -3 and x[-1] >= 3
    assert np.allclose(q[inside], y[:-1][inside]) and np.allclose(y[:-1][inside], y[1:][inside])


# --- replay


def test_replay_shows_what_the_record_says():
    explorer = explorers.replay(RECORD)
    weights = [t for t in RECORD.tensors if t["kind"] == "weight"]
    assert explorer.state.layer == max(weights, key=lambda t: t["size"])["name"]
    recorded = {e["step"]: e for e in RECORD.of("step") if e["stage"] == 1}
    for i, event in enumerate(RECORD.of("tables")[::6]):
        explorer.controls["step"].value = event["step"]
        assert explorer.controls["play"].value == 6 * i
        mean = actual = 0.0
        for row, t in enumerate(weights):
            table = np.array(event["tables"][t["name"]])
            marginal = table.sum(1) / table.sum()
            bits = t["space"]["bits"]
            assert np.allclose(explorer.result.marginals[row], marginal)
            assert explorer.result.selected[row] == bits[marginal.argmax()]
            mean += t["size"] * sum(b * p for b, p in zip(bits, marginal, strict=True))
            actual += t["size"] * bits[marginal.argmax()]
        size = sum(t["size"] for t in weights)
        assert explorer.result.expected_rate == pytest.approx(32 * size / mean)
        assert explorer.result.actual_rate == pytest.approx(32 * size / actual)
        # The tables are rounded to three digits.
        if event["step"] in recorded:
            expected = recorded[event["step"]]["expected_rate"]
            assert explorer.result.expected_rate == pytest.approx(expected, rel=0.02)
        assert np.allclose(explorer.artists["map"].get_array(), 100 * explorer.result.marginals)
        assert all(
            list(line.get_xdata()) == [event["step"]] * 2 for line in explorer.artists["cursor"]
        )
        dots = np.array(explorer.artists["selected"].get_xdata()) + 0.5
        assert dots.tolist() == explorer.result.selected.tolist()
        assert (
            f"is {32 * size / mean:.2f}, that of the selection {32 * size / actual:.2f}"
            in explorer.sentence
        )
        assert explorer.sentence.startswith(f"Step {event['step']} of 750")


def test_the_last_step_of_a_replay_is_the_selection_of_the_search():
    explorer = explorers.replay(RECORD)
    explorer.controls["play"].value = len(explorer.state.steps) - 1
    for t in RECORD.tensors:
        explorer.controls["layer"].value = t["name"]
        assert explorer.result.choice == (t["bits_before_repair"], t["threshold_exponent"])
        column, row = explorer.artists["choice"].get_xy()
        shown = explorer.artists["table"].get_array()
        assert shown[row, column] == pytest.approx(100 * explorer.result.table.max())
        assert np.ma.count(shown) == explorer.result.table.size
        texts = [text.get_text() for text in explorer.artists["exponents"]]
        assert texts[: len(t["space"]["exponents"])] == [str(e) for e in t["space"]["exponents"]]
        assert (
            t["name"] in explorer.sentence and f"2^{t['threshold_exponent']}." in explorer.sentence
        )
        assert explorer.artists["layer"].get_visible() == (t["kind"] == "weight")
    assert explorer.result.actual_rate == pytest.approx(
        RECORD.results["rates_before_repair"]["weights"]
    )


def test_the_sentence_says_how_the_aim_follows_from_the_target():
    """RECORD aims at 4 in its first cycle, then at 8 and a margin of 3 %."""
    explorer = explorers.replay(RECORD)
    aims = {e["step"]: e["target_rate"] for e in RECORD.of("step") if e["stage"] == 1}
    assert RECORD.header["settings"]["margin"] == 0.03 and RECORD.header["target"]["weights"] == 8
    first, last = min(aims), max(aims)
    assert aims[last] == pytest.approx(8.24)
    explorer.set(step=first)
    assert (
        f", the aim {aims[first]:.2f} (on its way to the target 8 and a margin of 3 %)."
        in explorer.sentence
    )
    explorer.set(step=explorer.state.steps[-1])
    assert ", the aim 8.24 (the target 8 and a margin of 3 %)." in explorer.sentence

    def said(target, margin, rate):
        header = {"target": {"weights": target}, "settings": {"margin": margin}} if target else {}
        events = [e | {"target_rate": rate} if e["kind"] == "step" else e for e in RECORD.events]
        return explorers.replay(Record(header, RECORD.tensors, events=events)).sentence

    assert ", the target 8." in said(8.0, 0.0, 8.0)
    assert ", the aim 6.00 (on its way to the target 8)." in said(8.0, 0.0, 6.0)
    assert ", the aim 6.00." in said(None, None, 6.0)


def test_a_layer_may_be_named_as_its_control_writes_it():
    explorer = explorers.replay(RECORD)
    explorer.set(layer="layer3.0.conv1")
    assert explorer.state.layer == "layer3.0.conv1.weight"
    activation = next(t["name"] for t in RECORD.tensors if t["kind"] == "activation")
    explorer.set(layer=f"{activation} (activation)")
    assert explorer.state.layer == explorer.controls["layer"].value == activation
    with pytest.raises(
        ValueError,
        match=r"layer must be one of .*, got 'layer3.0.conv'; did you mean .*'layer3.0.conv1'",
    ):
        explorer.set(layer="layer3.0.conv")
    with pytest.raises(ValueError, match=r"got 'qqqq'$"):
        explorer.set(layer="qqqq")
    with pytest.raises(ValueError, match=r"got 3$"):
        explorer.set(layer=3)
    assert explorer.state.layer == activation


def test_a_record_of_one_table_and_no_weights_can_be_replayed():
    tensors_ = [t for t in RECORD.tensors if t["kind"] == "activation"]
    event = RECORD.of("tables")[0]
    explorer = explorers.replay(Record({}, tensors_, events=[event]))
    assert explorer.sentence.startswith("Step 0 of 0. ") and explorer.controls["play"].max == 0


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (Record({}), "no tables of probabilities"),
        ("runs/builtin", "a record is needed.*got str"),
        (Record({}, RECORD.tensors, events=RECORD.of("step")), "no tables of probabilities"),
    ],
)
def test_what_cannot_be_replayed_is_refused(record, said):
    with pytest.raises(ValueError, match=said):
        explorers.replay(record)


# --- the bench


def test_the_bench_measures_moves():
    assert set(bench.MOVED) <= set(explorers.__all__)
    found = bench.report(rounds=1)
    for name, row in found.items():
        assert (
            0 < row["seconds"] < 30 and row["over_bare"] == row["seconds"] / row["bare_seconds"]
        ), name
    assert len(bench.text(found).splitlines()) == len(found)
