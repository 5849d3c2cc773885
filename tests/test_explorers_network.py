"""The explorer of one's own network: effects beside a plain forward pass, sizes, and what takes its
selection.
"""

import copy
import json

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from torch import nn

matplotlib.use("agg")

from hmq_lab import explorers, quantize
from hmq_lab.explorers import Selection
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.packing import pack, unpack
from hmq_lab.network import blocks, is_attached, placements

GENERATOR = torch.Generator().manual_seed(0)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(6 * 36, 4)

    def forward(self, x):
        return self.linear(self.relu(self.conv(x)).flatten(1))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(3)
    network = Small().eval()
    batch = torch.randn(20, 3, 6, 6, generator=GENERATOR)
    labels = torch.randint(0, 4, (20,), generator=GENERATOR)
    return network, batch, labels


def by_hand(network, batch, schemes):
    """The scores with some tensors quantized by the plain formula, in a copy without blocks."""
    copied = copy.deepcopy(network)
    for name in ("conv", "linear"):
        if scheme := schemes.get(f"{name}.weight"):
            layer = copied.get_submodule(name)
            layer.weight.data = quantize(
                layer.weight.data, scheme.step, scheme.threshold, scheme.signed
            )
    values = copied.relu(copied.conv(batch))
    if scheme := schemes.get("relu"):
        values = quantize(values, scheme.step, scheme.threshold, scheme.signed)
    return copied.linear(values.flatten(1)).detach()


def test_effects_are_those_of_a_plain_forward_pass(case):
    network, batch, labels = case
    view = explorers.network(network, batch, labels)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    moves = [
        ("conv.weight", 3),
        ("relu", 2),
        ("linear.weight", 2),
        ("linear.weight", 0),
        ("linear.weight", 5),
    ]
    scores = network(batch).detach()
    for tensor, bits in moves:
        view.set(tensor=tensor)
        view.set(bits=bits)
        schemes = view.selection.schemes
        assert (tensor in schemes) == (bits > 0) and (not bits or schemes[tensor].bits == bits)
        alone = {tensor: schemes[tensor]} if bits else {}
        for effect, chosen in ((view.result.alone, alone), (view.result.all, schemes)):
            expected = by_hand(network, batch, chosen)
            change = float((expected - scores).square().sum() / scores.square().sum())
            assert effect.change == pytest.approx(change, rel=1e-4, abs=1e-12)
            assert effect.accuracy == pytest.approx(
                100 * float((expected.argmax(1) == labels).float().mean())
            )
            assert effect.loss == pytest.approx(float(F.cross_entropy(expected, labels)), rel=1e-5)
        assert f"{view.result.all.loss:.3f}" in view.sentence or bits == 0
    sizes = {"conv.weight": 162, "linear.weight": 864}
    bits = {"conv.weight": 3, "linear.weight": 5}
    compression = 32 * sum(sizes.values()) / sum(bits[name] * size for name, size in sizes.items())
    assert view.result.compression == view.selection.compression == pytest.approx(compression)
    assert view.result.weight_bytes == pytest.approx((3 * 162 + 5 * 864) / 8)
    # The reader's own is as it was.
    assert not is_attached(network)
    assert all((network.state_dict()[name] == value).all() for name, value in before.items())


def test_best_is_the_least_error_and_the_parts_move_with_it(case):
    network, batch, _ = case
    view = explorers.network(network, batch, tensor="conv.weight", bits=3)
    weight = network.conv.weight.detach()
    exponents = view.bench.exponents("conv.weight")
    view.set(exponent=exponents[-1])
    view.best()
    found = view.selection.schemes["conv.weight"]
    errors = {}
    for exponent in exponents:
        step = 2.0 ** (exponent - 2)
        errors[exponent] = float(
            (quantize(weight, step, 2.0**exponent, True) - weight).square().sum()
        )
    assert found.threshold_exponent == min(errors, key=errors.get)
    for part in view.parts.values():
        assert (part.state.bits, part.state.exponent) == (3, found.threshold_exponent)
        assert part.allowed["exponent"].options == tuple(sorted(exponents))
    surface = view.parts["surface"]
    # As the browser does.
    surface.widget.state = {"bits": 6, "exponent": exponents[1]}
    assert (
        view.selection.schemes["conv.weight"].bits == 6 and view.parts["quantizer"].state.bits == 6
    )
    assert view.parts["quantizer"].state.exponent == exponents[1]
    # Other values, other parts.
    view.set(tensor="relu")
    assert (
        view.parts["quantizer"].result.values.size == 20 * 6 * 36
        and view.parts["surface"] is not surface
    )
    assert (
        "% of 20 answers stay" in view.sentence.replace("100.0", "") or "is float" in view.sentence
    )


def test_what_is_exported_is_taken(case, tmp_path, monkeypatch):
    network, batch, _ = case
    monkeypatch.chdir(tmp_path)
    view = explorers.network(network, batch, hardware=True)
    view.everything(4)
    view.set(tensor="linear.weight", bits=2)
    view.buttons["export"].click()
    selection = Selection.read("selection.json")
    assert selection == view.selection and "selection.json" in view.view.text.value
    chosen = selection.on(network, batch)
    assert {n: b.scheme for n, b in blocks(chosen).items()} == dict(selection.schemes)
    assert {p.kind for p in placements(chosen) if p.quantized} == {
        "weight",
        "activation",
        "hardware",
    }
    expected = chosen(batch).detach()
    codes, exponent = IntegerNetwork.from_selected(chosen)(batch)
    assert torch.equal(codes.double() * 2.0**exponent, expected.double())
    pack(chosen, "packed.safetensors", "small")
    assert torch.equal(unpack("packed.safetensors", Small())(batch), expected)
    assert selection.target.weights == pytest.approx(view.result.compression)
    assert selection.target.activation_bits == 4
    # What nobody chose has 8 bits.
    free = Selection({}, selection.sizes, True).on(network, batch)
    assert {block.scheme.bits for block in blocks(free).values()} == {8}


def test_a_file_that_is_no_selection_is_named(tmp_path):
    file = tmp_path / "mine.json"
    for content in (
        "",
        "[]",
        "{}",
        '{"format": "other"}',
        "[" * 200_000,
        json.dumps({"format": 3, "schemes": []}),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match="mine.json is no selection"):
            Selection.read(file)


def test_a_selection_of_another_network_is_refused(case):
    network, batch, _ = case
    selection = explorers.network(network, batch, tensor="conv.weight", bits=3).selection
    with pytest.raises(ValueError, match="has no quantized tensor conv.weight"):
        selection.on(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)), batch)


def test_a_network_given_elsewhere_is_answered_with_this_explorer(case):
    network, batch, labels = case
    makers = [
        explorers.quantizer,
        explorers.surface,
        explorers.block,
        explorers.gumbel,
        explorers.replay,
    ]
    for make in [*makers, explorers.selection, explorers.beat]:
        with pytest.raises(ValueError, match=r"explorers\.network\(model, batch\)"):
            make(network)
    for bad in (
        (batch, network),
        (network, None),
        (network, batch, labels[:3]),
        (network, batch, labels.float()),
    ):
        with pytest.raises(ValueError, match="needed, got|must be"):
            explorers.network(*bad)
    with pytest.raises(ValueError, match="tensor must be one of"):
        explorers.network(network, batch, tensor="no such")
    view = explorers.network(network, batch, tensor="conv.weight")
    with pytest.raises(ValueError, match="exponent must be|exponent of conv.weight must be among"):
        view.set(exponent=40)


def test_outputs_that_are_no_tensor_are_measured_by_their_logits(case):
    network, batch, _ = case

    class Dictionary(Small):
        def forward(self, x):
            return {"logits": super().forward(x)}

    other = Dictionary().eval()
    other.load_state_dict(network.state_dict())
    plain = explorers.network(network, batch, tensor="conv.weight", bits=3).result.alone
    assert explorers.network(other, batch, tensor="conv.weight", bits=3).result.alone == plain


def test_the_shipped_network_opens():
    view = explorers.network()
    assert "layer3.0.conv2.weight, 9,216 elements, is float" in view.sentence
    assert view.result.float_effect.accuracy > 90 and view.result.compression == 1
    assert [b.description for b in view.buttons.values()][-1] == "export"
    view.set(bits=4)
    view.clear()
    assert not view.selection.schemes
