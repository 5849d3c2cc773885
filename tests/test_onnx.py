"""ONNX files against the float32 simulation, run by onnxruntime without optimizations; their types and refusals."""

import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from hmq_lab import Scheme, SearchSpace, attach, models  # noqa: E402
from hmq_lab.hardware.integer import IntegerNetwork  # noqa: E402
from hmq_lab.hardware.onnx_export import export  # noqa: E402
from hmq_lab.placement import blocks  # noqa: E402


def selected(model, x, bits, hardware=True, **options):
    rng = random.Random(0)
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = (
                None  # the statistics of these pictures: no activation dies on the way
            )
    with torch.no_grad():
        model(x)
    attach(model.eval(), SearchSpace(), x, hardware=hardware, **options)
    for block in blocks(model, "weight").values():
        block.fix(Scheme(rng.choice(bits), int(block.exponent) - 1, True))
    for kind in ("activation", "hardware"):
        for block in blocks(model, kind).values():
            block.fix()
    return model


def run(path, x, optimize=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 3, 1, 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("activation_bits", [8, 3])
def test_every_bit_width_equals_the_simulation(native, activation_bits, tmp_path):
    x = torch.randn(8, 3, 32, 32)
    model = selected(models.build("resnet20"), x, range(1, 9), activation_bits=activation_bits)
    assert {b.scheme.bits for b in blocks(model, "weight").values()} >= {2, 3, 4, 5, 6, 7}
    found = export(model, tmp_path / "model.onnx", native=native)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    with torch.no_grad():
        expected = model(x)
    assert not IntegerNetwork.from_selected(model).beyond_float32(x).any()
    assert torch.equal(run(tmp_path / "model.onnx", x), expected)
    assert torch.equal(run(tmp_path / "model.onnx", x[:1]), expected[:1])  # any number of pictures
    assert len(expected.unique(dim=0)) == 8

    types = {onnx.TensorProto.DataType.Name(i.data_type) for i in found.graph.initializer if i.dims}
    integers = {t for t in types if "INT" in t and t not in ("INT32", "INT64")}
    assert integers == ({"INT8", "INT4", "INT2"} if native else {"INT8"})
    assert found.opset_import[0].version == (25 if native else 18)
    scales = [
        i for i in found.graph.initializer if i.data_type == onnx.TensorProto.FLOAT and not i.dims
    ]
    steps = [float(onnx.numpy_helper.to_array(i)) for i in scales]
    used = {
        n.input[1]
        for n in found.graph.node
        if n.op_type.endswith("quantizeLinear") or "Linear" in n.op_type
    }
    assert all(np.frexp(s)[0] == 0.5 for i, s in zip(scales, steps, strict=True) if i.name in used)


def test_codes_and_clips_are_of_the_scheme(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = selected(models.build("tiny_resnet8"), x, (2, 3, 5), activation_bits=5)
    found = export(model, tmp_path / "model.onnx")
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in found.graph.initializer}
    for name, block in blocks(model, "weight").items():
        low, high = block.scheme.integers
        array = arrays[f"{name} INT8"]
        assert array.min() >= low and array.max() <= high
        module = model.get_submodule(name.removesuffix(".weight"))
        assert np.array_equal(array * np.float32(block.scheme.step), module.weight.detach().numpy())
        bias = arrays[f"{name.removesuffix('weight')}bias INT32"]
        assert bias.dtype == np.int32 and bias.any()
    clips = [n for n in found.graph.node if n.op_type == "Clip"]
    assert len(clips) == len(blocks(model, "activation"))
    assert all([int(arrays[i]) for i in n.input[1:]] == [0, 31] for n in clips)


@pytest.mark.parametrize(("name", "size"), [("efficientnet_b0", 32), ("resnet50", 32), ("mobilenet_v2", 32),
                                            ("squeezenet1_1", 48), ("shufflenet_v2_x0_5", 32)])  # fmt: skip
@pytest.mark.parametrize("hardware", [True, False])
def test_networks_of_torchvision(name, size, hardware, tmp_path):
    x = torch.randn(4, 3, size, size)
    model = selected(models.build(name), x, (4, 6, 8), hardware=hardware)
    export(model, tmp_path / "model.onnx")
    x = x[:2]
    with torch.no_grad():
        expected, got = model(x), run(tmp_path / "model.onnx", x)
    if hardware and name != "efficientnet_b0":  # all on integers: exact
        assert torch.equal(got, expected) and not torch.equal(got[0], got[1])
    else:  # a float picture, batch norm or sigmoid rounds differently, and a rounding may then go the other way
        assert (got - expected).abs().mean() <= 0.02 * expected.abs().mean() + 1e-6


class All(nn.Module):
    """Each remaining operation that has a rule."""

    def __init__(self):
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(8, 8, 1, bias=False)
        self.hard, self.swish = nn.Hardsigmoid(), nn.Hardswish()
        self.pool, self.window = (
            nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
            nn.AvgPool2d(2, padding=1),
        )
        self.head, self.last = nn.Linear(4, 6), nn.Linear(6, 5, bias=False)
        self.register_buffer("offset", torch.full((8, 1, 1), 0.25))

    def forward(self, x):
        x = F.silu(self.stem(x)) * self.hard(self.one(self.swish(self.stem(x))))
        x = F.adaptive_avg_pool2d(self.window(self.pool(x)), 2) - 0.5 * torch.tanh(
            self.offset + x.mean((2, 3), True)
        )
        a, b = torch.chunk(F.pad(x, (1, 0, 0, 1)).permute(0, 2, 3, 1), 2, dim=3)
        x = torch.cat([a, b.sigmoid(), (a / 2).clamp(max=1.0)], 1)
        x = self.head(x[:, 1::2])
        return self.last(F.relu(x)).mean((1, 2))


def test_other_operations(tmp_path):
    x = torch.randn(3, 3, 12, 12)
    model = selected(All(), x, (8,), hardware=False)
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(x)
    assert torch.allclose(run(tmp_path / "model.onnx", x), expected, atol=0.02)


def test_the_default_session_is_close(tmp_path):
    """Optimized, onnxruntime computes with fused integer kernels: their results may differ, predictions hardly."""
    x = torch.randn(8, 3, 32, 32)
    model = selected(models.build("tiny_resnet8"), x, (4, 8))
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(x)
    assert torch.allclose(
        run(tmp_path / "model.onnx", x, optimize=True), expected, atol=0.1 * expected.abs().max()
    )


def test_the_default_session_takes_average_pools(tmp_path):
    """It fuses them into a kernel that refuses scales of one dimension."""
    x = torch.randn(8, 3, 16, 16)
    pools = nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *pools, nn.Flatten(), nn.Linear(8, 5)
    )
    model = selected(model, x, (4, 8))
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(run(tmp_path / "model.onnx", x), expected)
    assert torch.allclose(
        run(tmp_path / "model.onnx", x, optimize=True), expected, atol=0.1 * expected.abs().max()
    )


@pytest.mark.parametrize(
    "operation", [nn.GELU(), nn.LayerNorm(6), nn.Softplus()], ids=lambda o: type(o).__name__
)
def test_operations_that_torch_can_write(operation, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.operation, self.out = nn.Conv2d(3, 4, 1), operation, nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.out(self.operation(self.conv(x))).mean((2, 3))

    model = selected(Net(), x := torch.randn(2, 3, 6, 6), (8,))
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(x)
    assert torch.allclose(run(tmp_path / "model.onnx", x), expected, atol=0.02)


def test_refused_by_name(tmp_path):
    class Net(nn.Sequential):
        def forward(self, x):
            return torch.special.bessel_j0(super().forward(x)).mean((2, 3))

    model = selected(Net(nn.Conv2d(3, 4, 1)), torch.randn(2, 3, 6, 6), (8,))
    with pytest.raises(ValueError, match=r"bessel_j0"):
        export(model, tmp_path / "model.onnx")
    blocks(model)["0.weight"].free()
    with pytest.raises(ValueError, match=r"0.weight has no selected scheme"):
        export(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_more_than_eight_bits_are_refused(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = attach(models.build("tiny_resnet8").eval(), SearchSpace((12,)), x, hardware=True)
    for block in blocks(model).values():
        block.fix()
    with pytest.raises(
        ValueError, match=r"conv1.weight: bits must be from 1 to 8 in this ONNX form, got 12"
    ):
        export(model, tmp_path / "model.onnx")


class Split(nn.Module):
    """The way a tensor is cut into parts, which go different ways."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.part, self.out = (nn.Conv2d(i, o, 1) for i, o in ((3, 8), (2, 2), (8, 4)))
        self.way = way

    def forward(self, x):
        first, *others = self.way(F.relu(self.conv(x)))
        return self.out(torch.cat([F.relu(self.part(first)), *others], 1)).mean((2, 3))


@pytest.mark.parametrize(
    "way",
    [
        lambda x: x.split([2, 6], 1),
        lambda x: x.split(2, 1),
        lambda x: x.chunk(4, 1),
        lambda x: x.tensor_split((2, 3), 1),
        lambda x: torch.split(x, (2, 3, 3), dim=-3),
    ],
    ids=["sizes", "one size", "chunk", "places", "an axis from the end"],
)
def test_parts_of_unequal_sizes(way, tmp_path):
    """onnxruntime takes them for one buffer where they come out of a sequence."""
    x = torch.randn(2, 3, 6, 6)
    model = selected(Split(way), x, (4, 8))
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(run(tmp_path / "model.onnx", x), expected)
    codes, exponent = IntegerNetwork.from_selected(model)(x)
    assert torch.equal((codes * 2.0**exponent).float(), expected)


# The comparison of bench/networks.py


def test_each_block_is_judged_from_the_codes_before_it(tmp_path):
    path = Path(__file__).parents[1] / "bench" / "networks.py"
    networks = runpy.run_path(str(path))
    x = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 1)
    )
    model = selected(nn.Sequential(model, nn.Flatten()), x, (8,))
    export(model, tmp_path / "model.onnx")
    names = [name for name in blocks(model) if name not in blocks(model, "weight")]
    wanted = [*(f"{name} quantized" for name in names), "logits"]
    found = networks["onnx_values"](tmp_path / "model.onnx", wanted, x)
    assert networks["check_blocks"](model, found, x) < 0.01

    # A code that the layer does not give, and an output that the codes do not give.
    step = blocks(model)["0.1"].scheme.step
    wrong = found | {"0.1 quantized": found["0.1 quantized"] + step}
    with pytest.raises(AssertionError, match=r"0\.1 differs by more than a rounding"):
        networks["check_blocks"](model, wrong, x)
    with pytest.raises(AssertionError, match="the logits differ by"):
        networks["check_blocks"](model, found | {"logits": 1.01 * found["logits"]}, x)
