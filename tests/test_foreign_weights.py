"""Weights that other programs wrote: the ways they are wrapped and named, damage, tensors that are no plain ones."""

import pickle
import struct
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hmq_lab import data, models
from hmq_lab.models import training
from hmq_lab.models.foreign import without_prefixes
from hmq_lab.models.weights import load_weights, save_weights


def network(seed=0):
    torch.manual_seed(seed)
    return models.build("tiny_resnet8", classes=3)


def same(ours, theirs):
    return all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


# ------------------------------------------------------------------------------------- wrapped and named in other ways


@pytest.mark.parametrize(
    "name", ["a.pth", "a.pt", "a.ckpt", "a.pkl", "a.th", "a.bin", "a.tar", "a", "weights.best"]
)
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "old"])
def test_the_content_says_what_a_file_is(tmp_path, name, zipped):
    net, other = network(0), network(1)
    torch.save(net.state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    load_weights(other, tmp_path / name)
    assert same(net, other)


def test_safetensors_of_any_name(tmp_path):
    net, other = network(0), network(1)
    save_weights(net, tmp_path / "a.safetensors", {"normalize": "half"})
    (tmp_path / "a.safetensors").rename(tmp_path / "a")
    assert load_weights(other, tmp_path / "a") == {"normalize": "half"} and same(net, other)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"net": s, "acc": 91.2, "epoch": 3},  # kuangliu/pytorch-cifar
        lambda s: {"state_dict": s, "optimizer": {"state": {}}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"model_state_dict": s, "loss": torch.tensor(1.0)},
        lambda s: {"params": s},
        lambda s: {f"module.{k}": t for k, t in s.items()},
        lambda s: {f"_orig_mod.{k}": t for k, t in s.items()},
        lambda s: {f"module._orig_mod.{k}": t for k, t in s.items()},
        lambda s: {
            "state_dict": {f"model.{k}": t for k, t in s.items()},
            "pytorch-lightning_version": "2.5.0",
        },
        lambda s: {"state_dict": {f"model._orig_mod.{k}": t for k, t in s.items()}},
        lambda s: {"net": {f"module.{k}": t for k, t in s.items()}},
        lambda s: {
            k.replace("layer1.", "layer1._orig_mod."): t for k, t in s.items()
        },  # one part was compiled
    ],
)
def test_what_training_programs_put_around_the_tensors_is_taken_off(tmp_path, wrap):
    net, other = network(0), network(1)
    torch.save(wrap(net.state_dict()), tmp_path / "a.ckpt")
    load_weights(other, tmp_path / "a.ckpt")
    assert same(net, other)


def test_names_that_the_network_has_itself_stay():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    wanted = Wrapped().state_dict()
    for state in (
        wanted,
        {f"module.{k}": t for k, t in wanted.items()},
        {f"model.{k}": t for k, t in wanted.items()},
    ):
        assert without_prefixes(state, wanted).keys() == wanted.keys()
    compiled = {f"_orig_mod.{k}": t for k, t in wanted.items()}
    assert without_prefixes(compiled, compiled) is compiled


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"generator": {"a": torch.ones(1)}, "epoch": 3},
            r"its keys are 'generator', 'epoch': save the part that is the",
        ),
        ({"a": torch.ones(1), "epoch": 3}, r"other things beside named tensors, 'epoch' \(int\)"),
        ({"state_dict": {"a": 3}}, "no named tensors, also not under state_dict"),
        ({}, "no named tensors but an empty mapping"),
        ([torch.ones(1)], "no named tensors but a list"),
        (torch.ones(1), "no named tensors but a Tensor"),
        ({3: torch.ones(1)}, "under keys that are no names"),
    ],
)
def test_other_contents_are_refused_with_the_keys_and_what_to_do(tmp_path, content, says):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=rf"a\.ckpt holds .*{says}"):
        load_weights(network(), tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_files_that_are_no_tensors_are_one_line(tmp_path):
    path, net = tmp_path / "a.pkl", network()
    arrays = {key: t.numpy() for key, t in net.state_dict().items()}
    for content in (
        pickle.dumps(arrays),
        pickle.dumps(np.ones(3)),
        b"",
        b"no tensors here",
        b"\x80\x02",
        b"PK\x03\x04",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pkl cannot be read") as error:
            load_weights(net, path)
        assert "\n" not in str(error.value)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    with pytest.raises(
        ValueError,
        match="cannot be read: it is a TorchScript program, not a file of tensors: torch.save",
    ):
        load_weights(net, path)


# ------------------------------------------------------------------------------------- damage


def flipped(content, at, bit=0):
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def test_a_flipped_bit_of_any_tensor_is_found(tmp_path):
    path, net = tmp_path / "a.pth", network()
    torch.save(net.state_dict(), path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    assert len(entries) > 30
    for entry in entries:
        name, extra = struct.unpack(
            "<HH", whole[entry.header_offset + 26 : entry.header_offset + 30]
        )
        begin = entry.header_offset + 30 + name + extra
        path.write_bytes(flipped(whole, begin + entry.file_size // 2, 3))
        with pytest.raises(
            ValueError,
            match=rf"a\.pth is damaged: {entry.filename} in it does not have the checksum",
        ):
            load_weights(network(), path)
    path.write_bytes(whole)
    load_weights(network(), path)


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    path, net = tmp_path / "a.pth", network()
    torch.save(net.state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(
        path, "w", zipfile.ZIP_DEFLATED
    ) as archive:  # a bomb: a kilobyte that grows to a gigabyte
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"a\.pth cannot be read: its entries are compressed"):
        load_weights(net, path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        for name, content in (*entries.items(), next(iter(entries.items()))):
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="two entries of one name"):
        load_weights(net, path)


# ------------------------------------------------------------------------------------- tensors that are no plain ones


@pytest.mark.filterwarnings("ignore")  # torch's, on quantized and sparse tensors
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda t: t.to_sparse(), r"a sparse tensor \(sparse_coo\)"),
        (lambda t: t.flatten(1).to_sparse_csr(), r"a sparse tensor \(sparse_csr\)"),
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            r"a quantized tensor \(torch.qint8\)",
        ),
        (lambda t: torch.empty(t.shape, device="meta"), "a tensor without values"),
        (lambda t: t.to(torch.complex64), "of complex numbers"),
        (
            lambda t: torch.ones(1).expand(10**12),
            r"a view of \(1000000000000,\) that repeats the 4 bytes it has",
        ),
        (lambda t: torch.ones(1).expand(8, 3, 3, 3), "a view of"),
        (lambda t: torch.ones(1).as_strided((10**6, 10**6), (0, 0)), "a view of"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "old"])
def test_tensors_that_are_no_plain_ones_are_one_line(tmp_path, make, says, zipped):
    net = network()
    state = net.state_dict()
    before = state["conv1.weight"].clone()
    state["conv1.weight"] = make(state["conv1.weight"])
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=rf"a\.pth (holds conv1\.weight, which is {says}|cannot be read)"
    ) as error:
        load_weights(net, tmp_path / "a.pth")
    assert "\n" not in str(error.value) and torch.equal(net.conv1.weight, before)


def test_numbers_of_another_kind_and_too_large_ones(tmp_path):
    net = network()
    state = net.state_dict() | {"conv1.weight": torch.ones(8, 3, 3, 3, dtype=torch.int8)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"other kinds of numbers .* conv1\.weight torch\.int8 torch\.float32"
    ):
        load_weights(net, tmp_path / "a.pth")
    torch.save(
        state | {"conv1.weight": torch.full((8, 3, 3, 3), 1e200, dtype=torch.float64)},
        tmp_path / "a.pth",
    )
    with pytest.raises(
        ValueError, match="not finite: conv1.weight"
    ):  # in float32, which the model has
        load_weights(net, tmp_path / "a.pth")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({key: t.to(dtype) if t.is_floating_point() else t for key, t in network(1).state_dict().items()},
                   tmp_path / "a.pth")  # fmt: skip
        load_weights(net, tmp_path / "a.pth")
        assert torch.equal(net.conv1.weight, network(1).conv1.weight.to(dtype).float())


# ------------------------------------------------------------------------------------- networks with several outputs


class Outputs(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = models.build("tiny_resnet8")

    def forward(self, x):
        y = self.net(x)
        return Outputs(y, -y)


def test_a_network_with_named_outputs_is_evaluated_as_it_is_trained():
    full = data.load("builtin")
    few = data.Data(
        "few",
        full.classes,
        "builtin",
        *(s.subset(range(64)) for s in (full.train, full.test, full.test)),
    )
    several = Several()
    history = training.train(several, few, epochs=1, batch_size=16)
    assert (
        history[0]["accuracy"]
        == training.evaluate(several.net, few.validation)
        == training.evaluate(several, few.test)
    )
    with pytest.raises(ValueError, match=r"must return class scores"):
        training.evaluate(Lists(), few.test)


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        return [self.fc(x.mean((2, 3)))]


def test_classes_by_torchvision_s_word():
    assert models.build("resnet8", num_classes=4).linear.out_features == 4
    assert models.build("mobilenet_v2", num_classes=7).classifier[1].out_features == 7
    assert models.build("resnet8", channels=1).conv1.in_channels == 1
    with pytest.raises(
        ValueError, match="classes and num_classes are the same: give one, got 3 and 4"
    ):
        models.build("resnet8", classes=3, num_classes=4)
    with pytest.raises(
        ValueError, match="classes must be a whole number from 1 to 100000, got 1000000000"
    ):
        models.build("resnet8", 10**9)
