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
from torch.utils.data import TensorDataset

matplotlib.use("agg")

from hmq_lab import SearchSpace, explorers, quantize, search
from hmq_lab.data import Data
from hmq_lab.explorers import Selection
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.packing import pack, unpack
from hmq_lab.network import blocks, is_attached, placements
from hmq_lab.placement import attach
from hmq_lab.quantizer import Scheme
from hmq_lab.runs import records
from hmq_lab.runs.runner import prefer

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


def pairs(count, seed):
    """Images and labels of four classes, as a torch data set."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 6, 6, generator=rng)
    return TensorDataset(images, torch.arange(count) % 4)


@pytest.mark.parametrize("hardware", [False, True])
def test_a_search_begins_at_a_selection(case, tmp_path, hardware):
    """Without epochs of the search it keeps the bits and thresholds, and trains the weights."""
    network, _, _ = case
    data = Data.of(pairs(40, 0), pairs(20, 1), pairs(20, 2), classes=list("abcd"), name="pairs")
    images = torch.stack([x for x, _ in pairs(40, 0)])
    view = explorers.network(network, images, hardware=hardware)
    view.everything(4)
    view.set(tensor="linear.weight", bits=2)
    exponents = view.bench.exponents("linear.weight")
    view.set(exponent=exponents[1])
    view.set(tensor="relu", bits=3)
    chosen = view.selection
    short = {"search_epochs": 0, "final_epochs": 1, "batch_size": 20, "compile": "off"}
    short |= {"preset": "quick/folder"}
    options = {"settings": short, "hardware": hardware, "progress": False}
    model = copy.deepcopy(network)
    record = search(model, data, chosen, out=tmp_path / "run", **options)
    assert record.is_complete and not record.events[0].get("moves")
    found = {name: block.scheme for name, block in blocks(model).items()}
    for name, scheme in chosen.schemes.items():
        assert found[name].bits == scheme.bits, name
        if name.endswith("weight"):
            assert found[name] == scheme
    assert record.results["rates"]["weights"] == chosen.compression
    assert not torch.equal(model.linear.parametrizations.weight.original, network.linear.weight)

    # The record says what it began at, and another selection is another run.
    begun = record.header["begin_at"]["linear.weight"]
    assert begun == [2, exponents[1]]
    assert records.read(tmp_path / "run").header["begin_at"] == record.header["begin_at"]
    view.set(tensor="conv.weight", bits=3)
    with pytest.raises(ValueError, match="another configuration.*begin_at"):
        search(
            copy.deepcopy(network),
            data,
            view.selection,
            out=tmp_path / "run",
            resume=True,
            **options,
        )


def test_a_search_learns_from_where_a_selection_begins(case):
    """The scheme that was chosen has most of the probability, and the others share the rest."""
    network, batch, _ = case
    model = copy.deepcopy(network)
    attach(model, sample=batch)
    scheme = Scheme(3, 1, True)
    block = blocks(model)["conv.weight"]
    prefer(block, scheme)
    table = torch.softmax(block.logits.detach().double().flatten(), 0)
    assert table.max() == pytest.approx(0.9, abs=1e-6)
    assert table.sort().values[:-1].tolist() == pytest.approx([0.1 / 63] * 63, rel=1e-5)
    assert block.scheme.bits == 3
    # A threshold that the block does not have becomes the nearest that it has.
    nearest = min(block.exponents.tolist(), key=lambda exponent: abs(exponent - 1))
    assert block.scheme.threshold_exponent == nearest


def test_a_selection_that_a_search_cannot_begin_at_is_refused(case):
    network, _, _ = case
    data = Data.of(pairs(40, 0), pairs(20, 1), pairs(20, 2), classes=list("abcd"), name="pairs")
    short = {"batch_size": 20}
    other = Selection({"nowhere.weight": Scheme(2, 0, True)}, {"nowhere.weight": 8})
    with pytest.raises(ValueError, match=r"no quantized tensor nowhere\.weight"):
        search(copy.deepcopy(network), data, other, settings=short, progress=False)
    view = explorers.network(network, torch.randn(20, 3, 6, 6), tensor="conv.weight", bits=3)
    with pytest.raises(ValueError, match=r"gives conv\.weight 3 bits, the search chooses from"):
        search(
            copy.deepcopy(network),
            data,
            view.selection,
            space=SearchSpace(bits=(2, 8)),
            settings=short,
            progress=False,
        )


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
