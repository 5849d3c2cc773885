"""A run of a module of one's own: read again with `network=`, packed and unpacked, refused by the commands."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from hmq_lab import runs, search
from hmq_lab.commands.main import main
from hmq_lab.data.datasets import Data, load
from hmq_lab.data.files import read_tensors
from hmq_lab.hardware.costs import count
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.packing import pack, unpack
from hmq_lab.placement import attach, blocks, is_attached
from hmq_lab.runs import records
from hmq_lab.settings import preset


class Net(nn.Module):
    def __init__(self, width=6, norm=True, layer="conv"):
        super().__init__()
        self.add_module(layer, nn.Conv2d(3, width, 3, 2, 1, bias=not norm))
        self.layer, self.norm = layer, nn.BatchNorm2d(width) if norm else nn.Identity()
        self.relu, self.pool, self.out = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(width, 10)

    def forward(self, x):
        x = self.relu(self.norm(getattr(self, self.layer)(x)))
        return self.out(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def pictures() -> Data:
    full = load("builtin")
    cut = {name: getattr(full, name).subset(range(64)) for name in ("train", "validation", "test")}
    return dataclasses.replace(full, **cut)


@pytest.fixture(scope="module", params=[False, True], ids=["paper", "hardware"])
def run(request, tmp_path_factory, pictures):
    """The folder of a short run, the network as it left it, and the mode."""
    torch.manual_seed(1)
    net, folder = Net(), tmp_path_factory.mktemp("own") / "run"
    settings = preset(
        "quick/builtin", search_epochs=2, final_epochs=1, batch_size=16, compile="off"
    )
    record = search(
        net, pictures, 8.0, settings=settings, hardware=request.param, out=folder, progress=False
    )
    assert record.header["model"] == "Net" and runs.own_module(record) == "Net"
    return folder, net.eval(), request.param


def test_a_short_search_says_that_it_was_too_short(run):
    said = records.summary(records.read(run[0]))
    assert re.search(
        r"the search ended at a compression of 4\.\d\d after 8 steps; the repair chose the rest",
        said,
    )


def test_load_puts_blocks_and_weights_on_the_network_that_is_given(run, tmp_path):
    folder, searched, hardware = run
    x = torch.randn(4, 3, 32, 32)
    given = Net()
    network, record = runs.load(folder, network=given)
    assert network is given and not network.training
    assert torch.equal(network(x), searched(x))
    assert {n: b.scheme for n, b in blocks(network).items()} == {
        n: b.scheme for n, b in blocks(searched).items()
    }
    assert [layer.name for layer in count(runs.rebuild(record, Net()))] == [
        layer.name for layer in count(network)
    ]
    if hardware:
        codes, exponent = IntegerNetwork.from_selected(network)(x)
        assert torch.equal((codes * 2.0**exponent).float(), network(x))

    sizes = pack(network, tmp_path / "packed.safetensors", "Net")
    back = unpack(tmp_path / "packed.safetensors", network=Net())
    assert torch.equal(back(x), network(x))
    assert pack(back, tmp_path / "again.safetensors", "Net") == sizes
    assert (tmp_path / "packed.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda: Net(width=7),
            r"network.safetensors does not fit Net: .*conv.* is \(6, 3, 3, 3\) in the file, \(7, ",
        ),
        (
            lambda: Net(layer="first"),
            r"Net as it is built here does not have the same .*: conv.weight only there, ",
        ),
        (lambda: Net(norm=False), "does not fit Net: .* only (here|in the file)"),
        (lambda: nn.Linear(5, 5), "Linear does not run on a sample of shape"),
        (
            lambda: attach(Net(), sample=torch.rand(2, 3, 32, 32)),
            r"has HMQ blocks already: detach\(model\) first",
        ),
        (lambda: Net, "network must be a torch.nn.Module, as it was before the search, got <class"),
    ],
)
def test_load_refuses_a_network_that_does_not_fit(run, made, said):
    folder, _, hardware = run
    network = made()
    had = isinstance(network, nn.Module) and is_attached(network)
    if hardware and getattr(network, "norm", None).__class__ is nn.Identity:
        return  # with batch norm folded, a convolution with a bias is the same network
    with pytest.raises(ValueError, match=said):
        runs.load(folder, network=network)
    if isinstance(network, nn.Module):
        assert is_attached(network) == had


def test_unpack_refuses_a_network_that_does_not_fit(run, tmp_path):
    _, searched, _ = run
    path = tmp_path / "packed.safetensors"
    pack(searched, path, "Net")
    wide = Net(width=7)
    with pytest.raises(
        ValueError,
        match=r"holds other tensors than Net has: .* bytes of weights and .* floats there",
    ):
        unpack(path, network=wide)
    assert not is_attached(wide)
    with pytest.raises(
        ValueError, match=r"does not have the same quantized tensors: conv.weight only there"
    ):
        unpack(path, network=Net(layer="first"))
    with pytest.raises(ValueError, match=r"holds your own module Net: give it as network="):
        unpack(path)


def test_without_the_network_python_asks_for_it(run):
    with pytest.raises(
        ValueError, match=r"this run is of your own module Net: give it as network="
    ):
        runs.load(run[0])


@pytest.mark.parametrize("path", ["runs/builtin", None])
def test_rebuild_says_what_it_wants(path):
    with pytest.raises(
        ValueError,
        match=rf"a record is needed, as `records.read\(path\)` gives it, got .* {path!r}; ",
    ):
        runs.rebuild(path)


@pytest.mark.parametrize("command", ["integer", "pack", "export", "costs"])
def test_the_commands_send_an_own_module_to_python(run, command, tmp_path, capsys):
    files = {"pack": "file.safetensors", "export": "file.onnx"}
    file = [str(tmp_path / files[command])] if command in files else []
    if command == "export":
        pytest.importorskip("onnx")
    assert main([command, str(run[0]), *file]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert (
        "this run is of your own module Net: in Python, IntegerNetwork.from_selected, packing.pack, "
        "onnx_export.export and costs.count take it" in said.err
    )
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_known_network_can_be_given_its_network_too(pictures, tmp_path):
    from hmq_lab import models

    settings = preset(
        "quick/builtin", search_epochs=1, final_epochs=0, batch_size=32, compile="off"
    )
    search(
        models.build("tiny_resnet8"),
        pictures,
        settings=settings,
        name="tiny_resnet8",
        out=tmp_path,
        progress=False,
    )
    one, _ = runs.load(tmp_path)
    other, _ = runs.load(tmp_path, models.build("tiny_resnet8"))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(x), other(x))
    assert read_tensors(tmp_path / "network.safetensors")[0].keys() == one.state_dict().keys()
