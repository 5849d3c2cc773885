"""Networks by name, weights in files, plain training, and the weights that come with the package."""

import dataclasses
import doctest
import importlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from hmq_lab import data, models
from hmq_lab.data.files import read_tensors
from hmq_lab.data.images import Images
from hmq_lab.models import training
from hmq_lab.models.weights import SHIPPED, load_weights, read_metadata, save_weights

PARAMETERS = {  # those of the papers' tables, with batch norm; resnet18: kuangliu/pytorch-cifar
    "tiny_resnet8": 19_218,
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "cifar_resnet18": 11_173_962,
}


@pytest.fixture(scope="module")
def few():
    full = data.load("builtin")
    return dataclasses.replace(
        full,
        train=full.train.subset(range(192)),
        validation=full.validation.subset(range(40)),
        test=full.test,
    )


# ---------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", PARAMETERS)
def test_cifar_networks(name):
    net = models.build(name).eval()
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        y = net(x)
        torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), y)
    assert y.shape == (2, 10) and y.isfinite().all()


def test_resnet20_has_the_keys_of_published_weights():
    state = models.build("resnet20").state_dict()
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = ["conv1.weight", "conv2.weight", *(f"bn{k}.{n}" for k in (1, 2) for n in norm)]
    keys = {f"layer{s}.{k}.{part}" for s in (1, 2, 3) for k in (0, 1, 2) for part in block}
    assert set(state) == keys | {
        "conv1.weight",
        *(f"bn1.{n}" for n in norm),
        "linear.weight",
        "linear.bias",
    }
    assert state["layer2.0.conv1.weight"].shape == (32, 16, 3, 3) and state[
        "linear.weight"
    ].shape == (10, 64)


def test_a_shortcut_without_weights_slices_and_pads():
    x = torch.randn(2, 16, 8, 8)
    y = models.build("resnet20").layer2[0].shortcut(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and not y[:, :8].any() and not y[:, 24:].any()


def test_mobilenet_v1_with_and_without_batch_norm():
    net = models.build("mobilenet_v1", classes=1000)
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (len(weights), sum(w.numel() for w in weights)) == (28, 4_209_088)
    folded = models.build("mobilenet_v1", classes=1001, norm=False)
    keys = {f"layers.{k}.{p}" for k in range(27) for p in ("weight", "bias")}
    assert set(folded.state_dict()) == keys | {"fc.weight", "fc.bias"}
    strides = [layer.stride[0] for layer in net.layers]
    assert [k for k, s in enumerate(strides) if s == 2] == [0, 3, 7, 11, 23]  # 224 -> 7
    assert torch.fx.symbolic_trace(folded)(torch.randn(1, 3, 64, 64)).shape == (1, 1001)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "googlenet"])
def test_other_names_are_torchvision_s(name):
    net = models.build(name, classes=7).eval()
    assert type(net).__module__.startswith("torchvision.models") and name in models.names()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"no network 'resnet21': did you mean .*resnet20"):
        models.build("resnet21")
    with pytest.raises(
        ValueError, match=r"no network 'qwxyz': there are tiny_resnet8, .* and torchvision's"
    ):
        models.build("qwxyz")
    with pytest.raises(ValueError, match="classes must be a whole number from 1 to 100000, got 0"):
        models.build("resnet8", classes=0)


# ---------------------------------------------------------------------------------------------------- weights


def test_weights_go_to_a_file_and_come_back(tmp_path):
    net, other = models.build("resnet8"), models.build("resnet8")
    sha256 = save_weights(
        net, tmp_path / "new" / "net.safetensors", {"model": "resnet8", "epochs": 3}
    )
    about = load_weights(other, tmp_path / "new" / "net.safetensors")
    assert about == {"model": "resnet8", "epochs": "3"}
    assert (
        read_tensors(tmp_path / "new" / "net.safetensors")[1] == about
    )  # one format for all files of ours
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert os.listdir(tmp_path / "new") == ["net.safetensors"]
    assert save_weights(other, tmp_path / "again.safetensors", about) == sha256


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_weights(models.build("resnet8"), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        save_weights(models.build("resnet8"), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.safetensors"]


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}]
)
def test_files_of_training_scripts(tmp_path, wrap):
    net, other = models.build("resnet8"), models.build("resnet8")
    state = {
        f"module.{key}": t
        for key, t in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(wrap(state), tmp_path / "net.pth")
    assert load_weights(other, tmp_path / "net.pth") == {}
    assert torch.equal(net.linear.weight, other.linear.weight)


def test_rows_of_the_last_layer(tmp_path):
    many, few = models.build("resnet8", classes=20), models.build("resnet8", classes=3)
    save_weights(many, tmp_path / "many.safetensors")
    load_weights(few, tmp_path / "many.safetensors", rows=[4, 0, 19])
    assert torch.equal(few.linear.weight, many.linear.weight[[4, 0, 19]])
    assert torch.equal(few.linear.bias, many.linear.bias[[4, 0, 19]])
    with pytest.raises(ValueError, match=r"rows must be from 0 to 19, .*got \[20, 0, 1\]"):
        load_weights(few, tmp_path / "many.safetensors", rows=[20, 0, 1])


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path):
    net = models.build("resnet8")
    state = net.state_dict()
    state["layer1.0.conv1.weight"] = torch.full((16, 16, 3, 3), float("nan"))
    state["linear.bias"] = torch.zeros(7)
    state["extra"] = state.pop("conv1.weight")
    safetensors.torch.save_file(state, tmp_path / "bad.safetensors")
    before = net.linear.weight.clone()
    with pytest.raises(ValueError) as caught:
        load_weights(net, tmp_path / "bad.safetensors")
    message = str(caught.value)
    assert "bad.safetensors does not fit CifarResNet" in message
    assert "missing: conv1.weight" in message and "unexpected: extra" in message
    assert "linear.bias (7,) (10,)" in message and "not finite: layer1.0.conv1.weight" in message
    assert torch.equal(net.linear.weight, before)


def test_files_that_are_none(tmp_path):
    net = models.build("resnet8")
    with pytest.raises(FileNotFoundError, match=r"no weights file .*nothing\.pth"):
        load_weights(net, tmp_path / "nothing.pth")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(ValueError, match=r"text\.safetensors is no whole safetensors file"):
        load_weights(net, tmp_path / "text.safetensors")
    torch.save({"state_dict": {"a": 3}}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="holds no named tensors"):
        load_weights(net, tmp_path / "numbers.pth")
    torch.save(net, tmp_path / "object.pth")  # a whole model: reading it would run its pickle
    with pytest.raises(ValueError, match=r"object\.pth cannot be read as a file of tensors alone"):
        load_weights(net, tmp_path / "object.pth")


def test_an_altered_file_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(models.build("resnet8"), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was altered"):
        load_weights(models.build("resnet8"), path)


def test_safetensors_of_others_are_read_with_their_metadata(tmp_path):
    path, net, other = (
        tmp_path / "net.safetensors",
        models.build("resnet8"),
        models.build("resnet8"),
    )
    safetensors.torch.save_file(net.state_dict(), path, {"normalize": "half"})
    assert load_weights(other, path) == read_metadata(path) == {"normalize": "half"}
    assert torch.equal(net.linear.weight, other.linear.weight)
    with pytest.raises(ValueError, match="was not written by hmq_lab"):
        read_tensors(path)


# ---------------------------------------------------------------------------------------------------- training


def test_shipped_weights_have_the_accuracy_they_state():
    path = SHIPPED / "builtin_tiny_resnet8.safetensors"
    net = models.build("tiny_resnet8")
    about = load_weights(net, path)
    assert (about["data"], about["model"], about["normalize"]) == (
        "builtin",
        "tiny_resnet8",
        "builtin",
    )
    pictures = data.load(about["data"], normalize=about["normalize"])
    assert training.evaluate(net, pictures.test) == pytest.approx(float(about["accuracy"]), abs=0.3)
    assert 85 <= float(about["accuracy"]) <= 97 and path.stat().st_size < 400_000


def test_evaluate_counts_and_restores_every_mode():
    class Says(nn.Module):  # the class is written in the first pixel
        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()
            return nn.functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 10).float()

    images = torch.zeros(40, 3, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(40) % 10
    labels = torch.arange(40) % 10
    labels[:4] = 9
    split = Images(images, labels, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    net = nn.Sequential(Says(), nn.BatchNorm1d(10, affine=False).eval())
    assert training.evaluate(net, split, batch_size=7, device="cpu") == 90
    assert net.training and net[0].training and not net[1].training
    with pytest.raises(ValueError, match="the split is empty"):
        training.evaluate(net, split.subset([]), device="cpu")


def test_training_can_be_repeated(few):
    def run(seed):
        torch.manual_seed(0)
        net = models.build("tiny_resnet8")
        told = []
        history = training.train(net, few, epochs=2, batch_size=32, seed=seed, progress=told.append)
        assert (
            told == history
            and [e["epoch"] for e in history] == [1, 2]
            and all(e["seconds"] >= 0 for e in history)
        )
        return net.state_dict(), [e["loss"] for e in history]

    first, again, other = run(0), run(0), run(1)
    assert first[1] == again[1] and all(
        torch.equal(first[0][key], again[0][key]) for key in first[0]
    )
    assert first[1] != other[1] and all(t.is_contiguous() for t in first[0].values())


def test_training_learns(few):
    """Two colours are learnt in a few steps."""
    labels = torch.arange(192) % 2
    images = (labels * 200)[:, None, None, None].expand(192, 3, 32, 32).to(torch.uint8).contiguous()
    easy = Images(images, labels, few.mean, few.std)
    net = models.build("tiny_resnet8", classes=2)
    pictures = dataclasses.replace(few, train=easy, validation=easy, test=easy)
    history = training.train(net, pictures, epochs=3, batch_size=16, learning_rate=0.02)
    assert history[-1]["accuracy"] == 100 and history[-1]["loss"] < history[0]["loss"]


def test_senseless_training_is_refused(few):
    net = models.build("tiny_resnet8")
    with pytest.raises(
        ValueError, match="epochs must be 1 or more and learning_rate positive, got 0"
    ):
        training.train(net, few, epochs=0)
    with pytest.raises(
        ValueError, match="batch_size must be at most the 192 training images, got 500"
    ):
        training.train(net, few, epochs=1, batch_size=500)
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1: lower learning_rate"):
        training.train(net, few, epochs=1, learning_rate=1e30)


def test_train_weights_writes_a_file_that_says_how_it_came_about(few, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "load", lambda source, **options: few)
    about = training.train_weights(
        "tiny_resnet8", "builtin", tmp_path / "w.safetensors", epochs=1, command="hmq-lab"
    )
    net = models.build("tiny_resnet8")
    read = load_weights(net, tmp_path / "w.safetensors")
    assert {key: str(value) for key, value in about.items()}.items() <= read.items()
    assert training.evaluate(net, few.test) == about["accuracy"]


@pytest.mark.parametrize("name", ["models.networks", "models.training", "models.weights"])
def test_examples(name):
    options = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    assert (
        doctest.testmod(importlib.import_module(f"hmq_lab.{name}"), optionflags=options).failed == 0
    )


def test_rows_put_as_many_outputs_in_another_order(tmp_path):
    theirs, ours = (models.build("tiny_resnet8", classes=3) for _ in range(2))
    models.save_weights(theirs, tmp_path / "net.safetensors")
    models.load_weights(ours, tmp_path / "net.safetensors", rows=[2, 0, 1])
    assert torch.equal(ours.linear.weight, theirs.linear.weight[[2, 0, 1]])
    assert torch.equal(ours.linear.bias, theirs.linear.bias[[2, 0, 1]])
    with pytest.raises(ValueError, match="rows must be from 0 to 2"):
        models.load_weights(ours, tmp_path / "net.safetensors", rows=[3, 0, 1])
