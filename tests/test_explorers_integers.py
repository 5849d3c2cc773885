"""One picture through one layer: the explorer and the programs made worse on purpose, against
NumPy's integers.
"""

import copy
import html
import io
import math

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

matplotlib.use("agg")

from hmq_lab import Scheme, SearchSpace, attach, explorers
from hmq_lab.explorers import following
from hmq_lab.hardware import faults as breaking
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.placement import blocks

ROOT = 0.5**0.5


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 4, (3, 1), padding=(2, 0), dilation=2, groups=2)
        self.inner, self.head = nn.Conv2d(4, 4, 1), nn.Linear(5, 3)
        self.features = nn.Linear(4, 5)

    def forward(self, x):  # (B, 3, 9, 8)
        x = F.relu(self.bn(self.conv(x)))  # (B, 6, 5, 4)
        x = F.relu(self.grouped(x))  # (B, 4, 5, 4)
        x = F.relu(self.inner(x) + x)
        return self.head(F.relu(self.features(x.mean((2, 3)))))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    model = Small().eval()
    nn.init.uniform_(model.bn.running_mean, -0.3, 0.3)
    with torch.no_grad():
        for layer in (model.conv, model.grouped, model.features):
            layer.weight *= 3
    attach(model, SearchSpace(), torch.randn(16, 3, 9, 8), hardware=True)
    for block, bits in zip(blocks(model, "weight").values(), (8, 5, 4, 8, 6), strict=True):
        block.fix(Scheme(bits, int(block.exponent) - 1, True))
    for block in (blocks(model, "activation") | blocks(model, "hardware")).values():
        block.fix()
    return model


@pytest.fixture(scope="module")
def picture():
    return torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def program(network):
    return IntegerNetwork.from_selected(network)


@pytest.fixture
def explorer(network, picture):
    return explorers.integers(network, picture)


def place_by_place(x, weight, stride, padding, dilation, groups, channel, row, column):
    """The products of one sum of a convolution, with loops over NumPy integers."""
    inputs = weight.shape[1]
    first = channel // (len(weight) // groups) * inputs
    products = []
    for i in range(inputs):
        for p in range(weight.shape[2]):
            for q in range(weight.shape[3]):
                y = row * stride[0] - padding[0] + p * dilation[0]
                z = column * stride[1] - padding[1] + q * dilation[1]
                inside = 0 <= y < x.shape[1] and 0 <= z < x.shape[2]
                products.append(
                    int(x[first + i, y, z]) * int(weight[channel, i, p, q]) if inside else 0
                )
    return products


def module_codes(module):
    scheme = module.parametrizations.weight[0].scheme
    return np.clip(np.rint(module.parametrizations.weight.original.detach().double().numpy() / scheme.step),
                   *scheme.integers).astype(int)  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "source", "output", "options"),
    [
        ("conv", "x", "relu", ((2, 2), (1, 1), (1, 1), 1)),
        ("grouped", "relu", "relu:2", ((1, 1), (2, 0), (2, 2), 2)),
        ("features", None, "relu:4", None),
    ],
)
def test_every_code_is_that_of_numpys_integers(
    network, picture, program, explorer, layer, source, output, options
):
    values = program.trace(picture[None])
    module = network.get_submodule(layer)
    weight, bias = module_codes(module), module.bias.detach().double().numpy()
    channels, rows, columns = explorer.state.sizes[layer]
    for channel, row, column in {
        (0, 0, 0),
        (channels - 1, rows - 1, columns - 1),
        (channels // 2, rows // 2, 0),
    }:
        explorer.set(layer=layer, channel=channel, row=row, column=column)
        r = explorer.result
        if options:
            products = place_by_place(
                values[source][0][0].numpy(), weight, *options, channel, row, column
            )
        else:
            name = next(i.inputs[0] for i in program.instructions if i.name == layer)
            products = [
                int(a) * int(b) for a, b in zip(values[name][0][0], weight[channel], strict=True)
            ]
        exponent = values[layer][1]
        total = sum(products) + round(bias[channel] / 2.0**exponent)
        assert (r.x * r.weight).ravel().tolist() == products
        assert r.partial.tolist() == [*np.cumsum(products), total] and r.sum == total
        scheme = next(i.scheme for i in program.instructions if i.name == output)
        steps = max(total, 0) * 2.0**exponent / scheme.step
        assert r.code == r.simulated_code == min(round(steps), scheme.integers[1])
        assert r.simulated == total * 2.0**exponent / scheme.step
        assert f"add up to {total:,};" in r.sentence and f"it is the code {r.code}." in r.sentence
        assert r.differ_in_layer == 0 and not r.differ.any() and "0 differ" in r.sentence
        assert (
            r.codes == values[output][0][0].view(channels, rows, columns)[channel].numpy()
        ).all()


def test_the_simulation_is_the_networks_own(network, picture, explorer):
    double, seen = copy.deepcopy(network).double().eval(), {}
    for name, block in blocks(double, "activation").items():
        block.register_forward_hook(
            lambda block, _, out, name=name: seen.update({name: out[0] / block.scheme.step})
        )
    double(picture[None].double())
    for layer, output in (("conv", "relu"), ("grouped", "relu:2"), ("features", "relu:4")):
        explorer.set(layer=layer)
        channels, rows, columns = explorer.state.sizes[layer]
        expected = seen[output].view(channels, rows, columns)
        for channel in range(channels):
            explorer.set(channel=channel)
            assert (explorer.result.codes == expected[channel].detach().numpy()).all()


def test_a_register_that_is_too_narrow_wraps(explorer, network, picture, program):
    sums = program.trace(picture[None])["conv"][0][0].numpy()
    assert np.abs(sums).max() >= 2**11
    explorer.set(layer="conv", register=12)
    # The lowest 12 bits, their first as the sign.
    wrapped = ((sums.astype(np.int64) << 52) >> 52).astype(int)
    chain = breaking.chain(program, "conv")
    places = chain[-1].parameters["places"]
    codes = np.clip(np.rint(np.maximum(wrapped, 0) / 2.0**places), 0, 255)
    right = np.clip(np.rint(np.maximum(sums, 0) / 2.0**places), 0, 255)
    assert explorer.result.differ_in_layer == (codes != right).sum() > 0
    at = tuple(int(i) for i in np.argwhere(codes != right)[0])
    explorer.set(channel=at[0], row=at[1], column=at[2])
    r = explorer.result
    assert (r.sum, r.code, r.simulated_code) == (wrapped[at], codes[at], right[at])
    assert f"of which 12 bits hold {r.sum:,}" in r.sentence and r.differ[at[1:]]
    assert "the two codes differ" in [text.get_text() for text in explorer.artists["words"]]
    limits = [line.get_ydata()[0] * 2**places for line in explorer.artists["limits"]]
    assert limits == [-2048, 2048]
    crosses = np.c_[explorer.artists["parted"].get_data()]
    assert len(crosses) == r.differ.sum()


def test_an_odd_threshold_is_scaled_and_not_shifted(explorer, network, picture, program):
    explorer.set(layer="grouped", odd_threshold=True)
    module, exponent = network.grouped, program.trace(picture[None])["grouped"][1]
    chain = breaking.chain(program, "grouped")
    places = chain[-1].parameters["places"]
    scheme = module.parametrizations.weight[0].scheme
    weight = np.clip(np.rint(module.parametrizations.weight.original.detach().double().numpy() / (ROOT * scheme.step)),
                     *scheme.integers)  # fmt: skip
    unit = ROOT * 2.0**exponent
    bias = np.rint(module.parametrizations.bias.original.detach().double().numpy() / unit)
    x = program.trace(picture[None])["relu"][0].double()
    sums = F.conv2d(x, torch.from_numpy(weight), torch.from_numpy(bias), module.stride, module.padding,
                    module.dilation, module.groups)[0].numpy()  # fmt: skip
    wanted = np.clip(np.rint(np.maximum(sums, 0) * ROOT / 2**places), 0, 255)
    differ = []
    for multiplier in (0, 4, 8, 12):
        explorer.controls["multiplier"].value = multiplier
        by = round(ROOT * 2**multiplier) if multiplier else 1
        got = np.clip(np.rint(np.maximum(sums, 0) * by / 2.0 ** (places + multiplier)), 0, 255)
        differ.append(int((got != wanted).sum()))
        assert explorer.result.differ_in_layer == differ[-1]
        for channel in range(4):
            explorer.controls["channel"].value = channel
            assert (explorer.result.codes == got[channel]).all()
            assert (explorer.result.differ == (got != wanted)[channel]).all()
    assert differ[0] > differ[1] > differ[3]
    assert f"times {round(ROOT * 4096)}, shifted right by {places + 12}" in explorer.sentence
    assert (explorer.result.weight == weight[3].reshape(3, 3)).all()


@given(st.integers(-(2**40), 2**40), st.integers(2, 33))
def test_wrapping_keeps_the_lowest_bits(x, bits):
    held = breaking.wrap(torch.tensor(x), bits).item()
    assert (held - x) % 2**bits == 0 and -(2 ** (bits - 1)) <= held < 2 ** (bits - 1)


def test_programs_made_worse_part_from_there_on(network, program):
    pictures = torch.randn(20, 3, 9, 8, generator=torch.Generator().manual_seed(3))
    same = breaking.parted(program, breaking.accumulators(program, 40), pictures)
    assert set(same.values()) == {0.0} and list(same) == list(program.trace(pictures))
    for worse in (breaking.accumulators(program, 12), breaking.truncation(program)):
        shares = breaking.parted(program, worse, pictures)
        ours, theirs = program.trace(pictures), worse.trace(pictures)
        assert shares == {n: np.mean((ours[n][0] != theirs[n][0]).numpy()) for n in shares}
        assert shares["x"] == 0 and shares["relu"] > 0
    floor = breaking.truncation(program).trace(pictures)
    places = breaking.chain(program, "conv")[-1].parameters["places"]
    assert torch.equal(
        floor["relu"][0],
        (program.trace(pictures)["conv"][0].clamp(min=0) // 2**places).clamp(0, 255),
    )
    assert (
        breaking.truncation(program).trace(pictures)["x"][0] == program.trace(pictures)["x"][0]
    ).all()
    exact, scaled = (breaking.threshold(program, network, "conv", multiplier=m) for m in (None, 16))
    assert breaking.parted(exact, scaled, pictures)["relu"] < 1e-3
    one = breaking.threshold(program, network, "conv", factor=1.0)
    assert set(breaking.parted(program, one, pictures).values()) == {0.0}


def test_what_has_no_shift_of_its_own_is_refused(network, program, picture):
    assert breaking.layers(program, shifted=False) == [
        "conv",
        "grouped",
        "inner",
        "features",
        "head",
    ]
    assert breaking.layers(program) == ["conv", "grouped", "features"]
    with pytest.raises(
        ValueError,
        match=r"the sums of inner are not shifted .* read by add \(add, after shifts left",
    ):
        breaking.chain(program, "inner")
    with pytest.raises(ValueError, match=r"the sums of head .* they are the output"):
        breaking.threshold(program, network, "head")
    with pytest.raises(ValueError, match="there is no layer 'conv9'; there are conv, grouped"):
        breaking.chain(program, "conv9")
    with pytest.raises(ValueError, match=r"factor must be from 0.5 to 1, .*got 2"):
        breaking.threshold(program, network, "conv", factor=2)
    with pytest.raises(
        ValueError, match=r"image must be a float tensor \(C, H, W\), got \(1, 3, 9, 8\)"
    ):
        explorers.integers(network, picture[None])
    with pytest.raises(ValueError, match="has no HMQ blocks"):
        explorers.integers(Small())
    with pytest.raises(
        ValueError, match="layer must be one of 'conv', 'grouped', 'features', got 'inner'"
    ):
        explorers.integers(network, picture, layer="inner")


def test_a_place_must_be_in_the_layer(explorer):
    explorer.set(layer="conv", channel=5, row=4, column=3)
    explorer.controls["layer"].value = "features"  # (5, 1, 1)
    assert (explorer.state.channel, explorer.state.row, explorer.state.column) == (4, 0, 0)
    assert [explorer.controls[name].value for name in ("channel", "row", "column")] == [4, 0, 0]
    state = explorer.state
    with pytest.raises(ValueError, match="row must be from 0 to 0 in features, got 2"):
        explorer.set(row=2)
    explorer.controls["row"].value = 2
    assert (
        explorer.state == state
        and "row must be from 0 to 0 in features" in explorer.view.text.value
    )


def test_what_moves_is_drawn_as_a_new_explorer_draws_it(network, picture, explorer):
    explorer.set(layer="conv", channel=0, row=0, column=0)
    for name, value in (("layer", "grouped"), ("channel", 3), ("row", 1), ("column", 2), ("odd_threshold", True),
                        ("multiplier", 4), ("register", 12)):  # fmt: skip
        before = explorer.view.image.value
        explorer.controls[name].value = value
        assert getattr(explorer.state, name) == value
        assert explorer.view.image.value != before or name == "register"
        assert html.escape(explorer.sentence) in explorer.view.text.value
    given = {name: getattr(explorer.state, name) for name in explorer.controls}
    other = explorers.integers(network, picture, **given)
    assert other.sentence == explorer.sentence

    def pixels(png):
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    difference = np.abs(pixels(explorer.view.image.value) - pixels(other.view.image.value)).max(2)
    assert (difference > 8).mean() < 0.02
    explorer.figure.savefig(saved := io.BytesIO(), format="png")
    assert (
        np.abs(pixels(saved.getvalue()) - pixels(explorer.view.image.value)).max(2) > 8
    ).mean() < 0.01
    renderer, (width, height) = explorer.picture.canvas.get_renderer(), explorer.figure.bbox.size
    assert width <= 820 and height <= 470
    for text in explorer.figure.findobj(matplotlib.text.Text):
        if text.get_text().strip() and text.get_visible():
            assert text.get_fontsize() >= 9
            if text in explorer.artists["words"] or text in [
                ax._left_title for ax in explorer.figure.axes
            ]:
                (x0, y0), (x1, y1) = text.get_window_extent(renderer).get_points()
                assert x0 >= -1 and y0 >= -1 and x1 <= width + 1 and y1 <= height + 1, text


def test_the_words_spell_the_sum_in_binary(explorer):
    explorer.set(layer="conv", channel=1, row=2, column=2)
    for odd in (False, True):
        explorer.set(odd_threshold=odd, multiplier=8)
        r, lines = (
            explorer.result,
            {
                line.split()[0]: line.split()[1:]
                for line in following.words(explorer.result)
                if line
            },
        )
        kept, out = lines["binary"][0].split("|")
        number = r.sum * (round(ROOT * 256) if odd else 1)
        places = r.places + 8 * odd
        assert len(out) == places and int(out, 2) == number % 2**places
        assert (
            int(kept, 2) - (kept[0] == "1") * 2 ** len(kept)
            == number // 2**places
            == math.floor(number / 2**places)
        )
        assert lines["code"] == [str(r.code)]


def test_the_network_that_comes_with_the_package():
    explorer = explorers.integers()
    assert "layer1.0.conv1" in explorer.state.sizes and "layer1.0.conv2" not in explorer.state.sizes
    assert explorer.result.differ_in_layer == 0
    assert explorer.result.code > 0
