"""Packed files: bits against a string of them, exact round trips, sizes counted by hand, damage refused."""

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmq_lab import Scheme, SearchSpace, attach, models
from hmq_lab.commands.main import main
from hmq_lab.data.files import read_tensors, write_tensors
from hmq_lab.hardware.packing import pack, pack_bits, unpack, unpack_bits
from hmq_lab.placement import blocks, placements
from hmq_lab.runs import records
from hmq_lab.runs.loading import load, rebuild


def selected(name, size=32, hardware=True, seed=0):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, x = models.build(name), torch.randn(4, 3, size, size)
    with torch.no_grad():
        for _ in range(3):
            model.train()(x)
    attach(model.eval(), SearchSpace(), x, hardware=hardware)
    for block in blocks(model, "weight").values():
        block.fix(Scheme(rng.randint(1, 8), int(block.exponent) - rng.randint(0, 2), True))
    for kind in ("activation", "hardware"):
        for block in blocks(model, kind).values():
            block.fix()
    return model


@given(st.integers(1, 16), st.data())
def test_bits_against_a_string_of_them(bits, data):
    codes = data.draw(
        st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=1, max_size=40)
    )
    stream = pack_bits(torch.tensor(codes), bits)
    text = "".join(f"{c % 2**bits:0{bits}b}"[::-1] for c in codes)  # lowest bit first
    text += "0" * (-len(text) % 8)
    assert stream.tolist() == [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]
    assert unpack_bits(stream, bits, len(codes)).tolist() == codes


@pytest.mark.parametrize("hardware", [True, False])
def test_a_round_trip_is_exact(hardware, tmp_path):
    model, x = selected("resnet20", hardware=hardware), torch.randn(8, 3, 32, 32)
    sizes = pack(model, tmp_path / "packed.safetensors", "resnet20")
    back = unpack(tmp_path / "packed.safetensors")
    assert torch.equal(back(x), model(x))
    assert {n: b.scheme for n, b in blocks(back).items()} == {
        n: b.scheme for n, b in blocks(model).items()
    }
    for path, module in model.named_modules():
        if (
            hasattr(module, "weight")
            and not path.startswith("hmq")
            and "parametrizations" not in path
        ):
            assert torch.equal(module.weight, back.get_submodule(path).weight), path
    again = pack(back, tmp_path / "again.safetensors", "resnet20")
    assert again == sizes
    assert (tmp_path / "packed.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()


def test_a_module_may_have_any_name(tmp_path):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hmq_head = torch.nn.Linear(12, 3)

        def forward(self, x):
            return self.hmq_head(x.flatten(1))

    x = torch.randn(4, 3, 2, 2)
    model = attach(Own(), SearchSpace(), x).eval()
    for block in blocks(model).values():
        block.fix()
    pack(model, tmp_path / "own.safetensors", "Own")
    assert torch.equal(
        unpack(tmp_path / "own.safetensors", network=Own())(x), model(x)
    )  # its bias, too


class Plain(torch.nn.Module):
    """A convolution with parameters of names of its own; `offset` is its bias, where it has one."""

    def __init__(self, biased: bool):
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.randn(4, 3, 3, 3))
        self.offset = torch.nn.Parameter(torch.randn(4)) if biased else None

    def forward(self, x):
        x = torch.nn.functional.conv2d(x, self.kernel, self.offset)
        return torch.relu(x).sum((2, 3))


@pytest.mark.parametrize("hardware", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_bias_of_any_name_is_packed_and_none_is_needed(biased, hardware, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = attach(Plain(biased), x, hardware=hardware).eval()
    for block in blocks(model).values():
        block.fix()
    pack(model, tmp_path / "packed.safetensors", "plain")
    other = Plain(biased)  # other weights than the packed ones
    with torch.no_grad():
        assert torch.equal(unpack(tmp_path / "packed.safetensors", other)(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_only_float32_is_packed(dtype, tmp_path):
    model = selected("tiny_resnet8", hardware=False)
    model.linear.bias.data = model.linear.bias.data.to(dtype)
    with pytest.raises(
        ValueError, match=rf"linear.bias is {dtype}; a packed network is torch.float32"
    ):
        pack(model, tmp_path / "packed.safetensors", "tiny_resnet8")
    with pytest.raises(
        ValueError, match=rf"conv1.weight is {dtype}; a packed network is torch.float32"
    ):
        pack(model.to(dtype), tmp_path / "packed.safetensors", "tiny_resnet8")
    assert not list(tmp_path.iterdir())
    pack(model.float(), tmp_path / "packed.safetensors", "tiny_resnet8")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(unpack(tmp_path / "packed.safetensors")(x), model(x))


def test_sizes_counted_by_hand(tmp_path):
    model = selected("resnet20")
    sizes = pack(model, tmp_path / "packed.safetensors", "resnet20")
    weights = {p.name: p.size for p in placements(model) if p.kind == "weight"}
    bits = sum(blocks(model)[name].scheme.bits * size for name, size in weights.items())
    biases = sum(
        m.bias.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    )
    assert sizes.weights == bits / 8 and sizes.floats == 4 * biases
    assert sizes.file == (tmp_path / "packed.safetensors").stat().st_size
    assert sizes.unpacked == 4 * (sum(weights.values()) + biases)
    assert sizes.rate == pytest.approx(32 * sum(weights.values()) / bits)
    assert sizes.counted < sizes.file < 1.02 * sizes.counted
    assert f"{sizes.file:,} bytes" in str(sizes) and f"WCR) {sizes.rate:.2f}" in str(sizes)


def test_what_is_damaged_or_not_selected_is_refused(tmp_path):
    model, path = selected("tiny_resnet8"), tmp_path / "packed.safetensors"
    pack(model, path, "tiny_resnet8")
    whole = path.read_bytes()
    for damaged in (
        whole[:-1],
        whole[: len(whole) // 2],
        b"",
        whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"packed.safetensors (is no whole safetensors file|was altered)"
        ):
            unpack(path)
    path.write_bytes(whole.replace(b"s<", b"u<", 1))  # the sign of the first weight
    with pytest.raises(ValueError, match="was altered"):
        unpack(path)

    path.write_bytes(whole)
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header | {"format": "another"})
    with pytest.raises(ValueError, match="its format is 'another'"):
        unpack(path)
    write_tensors(
        path, tensors, header | {"weights": header["weights"].replace("conv1 ", "conv9 ", 1)}
    )
    with pytest.raises(
        ValueError, match=r"does not have the same quantized tensors: conv1.weight only here, conv9"
    ):
        unpack(path)
    write_tensors(
        path, tensors, header | {"activations": header["activations"].replace("<", "=", 1)}
    )
    with pytest.raises(ValueError, match="a scheme is written as"):
        unpack(path)
    write_tensors(path, tensors | {"floats": torch.zeros(len(tensors["floats"]) + 1)}, header)
    with pytest.raises(ValueError, match="holds other tensors than tiny_resnet8 has"):
        unpack(path)
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "nowhere")
    blocks(model)["conv1.weight"].free()
    with pytest.raises(ValueError, match=r"conv1.weight has no selected scheme"):
        pack(model, path, "tiny_resnet8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short search in hardware mode on a folder of two kinds of pictures."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("hardware")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 8)):
        for name, level in (("bright", 170), ("dark", 85)):
            (folder / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                picture = np.clip(rng.normal(level, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(folder / "data" / split / name / f"{i}.png")
    arguments = ["search", "--data", str(folder / "data"), "--model", "tiny_resnet8", "--preset", "quick/builtin",
                 "--search-epochs", "1", "--final-epochs", "1", "--batch-size", "16", "--quiet", "--no-figures",
                 "--hardware", "--out", str(folder / "run")]  # fmt: skip
    assert main(arguments) == 0
    return folder


def test_a_run_in_hardware_mode_and_its_commands(run, tmp_path, capsys):
    record = records.read(run / "run")
    assert record.header["hardware_mode"] is True
    assert {t["name"] for t in record.tensors if t["kind"] == "hardware"} == {"x", "pool"}
    network, _ = load(run / "run")
    assert torch.equal(
        rebuild(record).conv1.weight != 0, rebuild(record).conv1.weight != 0
    )  # the same each time

    capsys.readouterr()
    assert main(["integer", str(run / "run"), "--data", str(run / "data"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 16 and found["differ_float64"] == 0 == found["unexplained_float32"]
    assert found["accuracy_float32"] == found["recorded_accuracy"]
    assert main(["integer", str(run / "run"), "--data", str(run / "data"), "--images", "5", "--batch-size", "3",
                 "--program"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "5 test images" in printed and "shift right by" in printed
    assert main(["integer", str(run / "run"), "--images", "0"]) == 2
    assert "--images must be from 1 on, got 0" in capsys.readouterr().err

    assert main(["pack", str(run / "run"), str(tmp_path / "packed.safetensors")]) == 0
    assert "WCR" in capsys.readouterr().out
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(unpack(tmp_path / "packed.safetensors")(x), network(x))
    assert (
        main(["unpack", str(tmp_path / "packed.safetensors"), str(tmp_path / "floats.safetensors")])
        == 0
    )
    tensors, _ = read_tensors(tmp_path / "floats.safetensors")
    assert torch.equal(tensors["conv1.weight"], network.conv1.weight) and "conv1.bias" in tensors

    pytest.importorskip("onnxruntime")
    arguments = [
        "export",
        str(run / "run"),
        str(tmp_path / "model.onnx"),
        "--data",
        str(run / "data"),
        "--check",
    ]
    assert main(arguments) == 0
    assert "of 16 test images the logits of 0 differ" in capsys.readouterr().out
    assert main([*arguments, "--json", "--images", "3", "--overwrite"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["differ"], found["unexplained"], found["opset"]) == (
        3,
        0,
        0,
        18,
    )

    assert main(["costs", str(run / "run"), "--figure", str(tmp_path / "roofline.png")]) == 0
    printed = capsys.readouterr().out
    assert "bit operations" in printed and "layers wait for memory" in printed
    assert (tmp_path / "roofline.png").stat().st_size > 1000


def test_commands_refuse_by_name(run, tmp_path, capsys):
    assert main(["integer", str(tmp_path)]) == 2
    assert "no record at" in capsys.readouterr().err
    (tmp_path / "record.json").write_bytes((run / "run" / "record.json").read_bytes())
    assert main(["pack", str(tmp_path), str(tmp_path / "p.safetensors")]) == 2
    assert "network.safetensors" in capsys.readouterr().err
    network = (run / "run" / "network.safetensors").read_bytes()
    (tmp_path / "network.safetensors").write_bytes(network[:-3])
    assert main(["pack", str(tmp_path), str(tmp_path / "p.safetensors")]) == 2
    assert "is no whole safetensors file" in capsys.readouterr().err


def test_the_schemes_of_a_recorded_run():
    """Records of the paper's mode, made before there was a hardware mode, build their networks too."""
    record = records.recorded("cifar10-resnet20-w16-a8")
    network = rebuild(record)
    found = {name: block.scheme.bits for name, block in blocks(network).items()}
    assert found == {t["name"]: t["bits"] for t in record.tensors}
