"""Networks as people write them: what symbolic tracing misread, read rightly or refused by name."""

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import SearchSpace, attach, detach, models, placements
from hmq_lab.hardware import packing
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.network import blocks, switched_off

X = torch.randn(4, 3, 14, 14, generator=torch.Generator().manual_seed(3))


class Way(nn.Module):
    """A convolution, a way of writing something, a linear layer."""

    def __init__(self, way, outputs=8):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(outputs, 5)
        self.w = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.45))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))
        self.way = way

    def forward(self, x):
        return self.fc(self.way(self, x).flatten(1))


def pooled(x):
    return x.mean((2, 3))


def in_place_first(m, x):
    x = m.a(x)
    return pooled(x + m.b(F.relu(x, inplace=True)))


def alias(m, x):
    x = m.a(x)
    skip = x
    x += m.b(F.relu(x))
    return pooled(F.relu(skip + x))


def part_in_place(m, x):
    x = m.b(m.a(x))
    x[:, :4].mul_(0.5)
    return pooled(m.b(x))


def method_in_place(m, x):
    x = m.a(x)
    y = x.relu_()
    return pooled(m.b(y) + x)


def swish_by_hand(m, x):
    x = m.a(x)
    return pooled(m.b(x * torch.sigmoid(x)))


def shuffle(m, x):
    x = F.relu(m.a(x))
    n, c, h, w = x.size()
    return pooled(m.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


def squeeze_and_excite(m, x):
    x = F.relu(m.a(x))
    gate = F.avg_pool2d(x, x.size()[2:])
    return pooled(m.b(x * torch.sigmoid(F.conv2d(gate, m.w[:, :, :1, :1]))))


def asserting(m, x):
    assert x.shape[1] == 3
    x = F.relu(m.a(x))
    if x.shape[2] != 14:
        x = x[:, :, :14]
    return pooled(m.b(x))


EXACT = {  # in hardware mode: integers and ONNX give the simulation's numbers
    "in place first": in_place_first,
    "alias": alias,
    "method in place": method_in_place,
    "a pool as large as its input": lambda m, x: F.avg_pool2d(F.relu(m.a(x)), x.size()[3]),
    "a pool over shape": lambda m, x: F.max_pool2d(F.relu(m.a(x)), x.shape[2:]),
    "padding that is computed": lambda m, x: pooled(
        F.pad(F.relu(m.a(x)), (0, 16 - x.size(3), 0, 0))
    ),
    "a slice that is computed": lambda m, x: pooled(F.relu(m.a(x))[:, :, : x.size(2) // 2]),
    "keywords": lambda m, x: torch.flatten(
        input=pooled(m.b(input=F.relu(input=m.a(x)))), start_dim=1
    ),
    "tensors=": lambda m, x: pooled(torch.cat(tensors=[y := F.relu(m.a(x)), y], dim=1))[:, :8],
    "clip": lambda m, x: pooled(m.a(x).clip(min=0)),
    "clamp_min": lambda m, x: pooled(torch.clamp_min(m.a(x), 0)),
    "concatenate": lambda m, x: pooled(
        m.b(torch.concatenate([(y := F.relu(m.a(x)))[:, :4], y[:, 4:]], 1))
    ),
    "a weight of forward": lambda m, x: pooled(F.conv2d(F.relu(m.a(x)), m.w, padding=1)),
    "channel shuffle": shuffle,
    "sizes": asserting,
}
FLOAT = {
    "a part in place": part_in_place,
    "swish by hand": swish_by_hand,
    "squeeze and excite": squeeze_and_excite,
    "a gate of one number": lambda m, x: pooled(m.b((y := m.a(x)) * torch.sigmoid(y.mean()))),
    "normalization inside": lambda m, x: pooled(F.relu(m.a((x - m.mean) / m.std))),
    "log_softmax": lambda m, x: F.log_softmax(pooled(F.relu(m.a(x))), 1),
}


def fixed(model):
    for block in blocks(model).values():
        block.fix()
    return model.eval()


@pytest.mark.parametrize("name", EXACT | FLOAT)
def test_blocks_off_is_the_network_in_both_modes_and_a_step_trains(name):
    torch.manual_seed(0)
    model = Way((EXACT | FLOAT)[name])
    twin = copy.deepcopy(model)
    attach(model, X)
    for training in (True, False):
        model.train(training), twin.train(training)
        with switched_off(model), torch.no_grad():
            assert torch.equal(model(X), twin(X))
    model.train()(X).square().sum().backward()
    assert model.a.parametrizations.weight[0].logits.grad.any()
    assert torch.equal(detach(model).eval()(X), twin.eval()(X))


@pytest.mark.parametrize("name", EXACT)
def test_integers_and_onnx_equal_the_simulation(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from hmq_lab.hardware.onnx_export import export

    torch.manual_seed(1)
    model = fixed(attach(Way(EXACT[name]).eval(), X, hardware=True))
    with torch.no_grad():
        wanted = model(X)
    codes, exponent = IntegerNetwork.from_selected(model)(X)
    assert torch.equal(codes * 2.0**exponent, wanted) and wanted.unique(dim=0).shape[0] == 4
    export(model, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    assert torch.equal(torch.tensor(session.run(["logits"], {"x": X.numpy()})[0]), wanted)


# ------------------------------------------------------------------------------------------------------ gradients


class Frozen(nn.Module):
    def __init__(self, without):
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(8, 5)
        self.without = without

    def forward(self, x):
        with self.without():
            x = self.backbone(x)
        return self.head(pooled(x))


@pytest.mark.parametrize(
    "without", [torch.no_grad, lambda: torch.set_grad_enabled(False)], ids=["no_grad", "set"]
)
def test_what_has_no_gradient_has_none(without):
    model = attach(Frozen(without), X)
    model(X).sum().backward()
    assert (
        model.backbone[0].parametrizations.weight.original.grad is None
        and model.backbone[0].bias.grad is None
    )
    assert model.head.parametrizations.weight.original.grad.any()
    with torch.no_grad():
        assert not model(X).requires_grad
    assert torch.is_grad_enabled()


def test_an_error_in_a_region_leaves_the_mode_as_it_was():
    model = attach(Frozen(torch.no_grad), X)
    with pytest.raises(ValueError, match="attached for images of 3x14x14, got 4x14x14"):
        model(torch.randn(2, 4, 14, 14))
    assert torch.is_grad_enabled()


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def counted(m, x):
    m.calls = getattr(m, "calls", 0) + 1
    return pooled(m.a(x))


REFUSED = {
    "inference_mode": (
        lambda: Frozen(torch.inference_mode),
        "another gradient in training: inference_mode",
    ),
    "own function": (
        lambda: Way(lambda m, x: pooled(Sign.apply(m.a(x)))),
        "uses Sign, an autograd.Function of its own",
    ),
    "half": (
        lambda: Way(lambda m, x: pooled(m.a(x))).half(),
        r"torch.float16: blocks need float32 or float64",
    ),
    "bfloat16": (
        lambda: Way(lambda m, x: pooled(m.a(x))).bfloat16(),
        r"torch.bfloat16: blocks need float32",
    ),
    "DataParallel": (
        lambda: nn.DataParallel(nn.Conv2d(3, 8, 3)),
        r"only wraps the network: attach blocks to .module",
    ),
    "averaged": (
        lambda: torch.optim.swa_utils.AveragedModel(nn.Conv2d(3, 8, 3)),
        r"attach blocks to .module of it",
    ),
    "compiled": (lambda: torch.compile(nn.Conv2d(3, 8, 3)), r"attach blocks to ._orig_mod of it"),
    "values": (
        lambda: Way(lambda m, x: pooled(m.a(x)) if x.sum() > 0 else pooled(x)),
        "must not branch or loop on the",
    ),
    "a counter": (lambda: Way(counted), "changes calls in its forward pass"),
    "a fixed batch": (
        lambda: Way(lambda m, x: pooled(m.a(x)).view(2, -1), 8),
        "does not run|fixes the batch size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    make, says = REFUSED[name]
    model = make()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=says) as error:
        attach(model, X[:2])
    assert "\n" not in str(error.value) and list(model.state_dict()) == keys


def test_a_scripted_part_and_a_hook_are_named():
    with pytest.warns(FutureWarning, match="deprecated"):
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
    with pytest.raises(ValueError, match=r"^1 is a scripted module"):
        attach(nn.Sequential(nn.Conv2d(3, 8, 3), scripted), X)
    model = Way(lambda m, x: pooled(m.a(x)))
    model.b.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^b has a forward hook"):
        attach(model, X)


# --------------------------------------------------------------------------------------------------- what it says


def activations(model):
    return {
        p.name: p.role for p in placements(model) if p.kind != "parameter" and p.role != "weight"
    }


def test_an_own_forward_of_the_instance_is_read_and_given_back():
    model = models.build("tiny_resnet8")

    def shorter(self, x):
        return self.linear(
            F.adaptive_avg_pool2d(self.layer3(self.layer2(self.layer1(self.conv1(x)))), 1).flatten(
                1
            )
        )

    model.forward = types.MethodType(shorter, model)
    model.eval()
    with torch.no_grad():
        wanted = model(X)
        attach(model, X)
        with switched_off(model):
            assert torch.equal(model(X), wanted)
        assert torch.equal(detach(model)(X), wanted) and model.forward.__func__ is shorter


def test_other_names_of_one_operation_are_one_operation():
    for way in (
        lambda x: x.clamp(min=0),
        lambda x: x.clip(min=0),
        lambda x: torch.clamp_min(x, 0),
        F.relu,
        F.relu6,
    ):
        model = attach(Way(lambda m, x, way=way: pooled(m.b(way(m.a(x))))), X)
        (place,) = [p for p in placements(model) if p.role == "non-linearity"]
        assert place.quantized and not place.signed


def test_a_swish_by_hand_has_one_block_after_the_product():
    model = attach(Way(swish_by_hand), X)
    assert [p.name for p in placements(model) if p.role == "non-linearity"] == ["mul"]
    assert [*blocks(model, "activation")] == ["mul", "b"]


def test_outputs_and_normalized_images_stay_float():
    roles = activations(attach(Way(FLOAT["normalization inside"]), X))
    assert roles == {"div": "input", "relu": "non-linearity", "mean": "mean", "fc": "output"}
    model = attach(
        nn.Sequential(
            nn.Conv2d(3, 8, 14), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.LogSoftmax(1)
        ),
        X,
    )
    assert activations(model) == {"input": "input", "1": "non-linearity", "4": "output"}


def test_a_weight_that_forward_computes_is_said_to_be_float():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    model = nn.Sequential(
        Standardized(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.warns(UserWarning, match="forward computes from these .* float: 0.weight"):
        attach(model, SearchSpace((2,), 4), X)
    place = next(p for p in placements(model) if p.name == "0.weight")
    assert (
        not place.quantized
        and place.reason == "float: forward computes from it what the layer reads"
    )
    assert [*blocks(model, "weight")] == ["2.weight"]


@pytest.mark.parametrize("hardware", [False, True])
def test_a_network_that_ends_in_a_mean_is_packed(hardware, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    build = copy.deepcopy(model)
    fixed(attach(model.eval(), X, hardware=hardware))
    packing.pack(model, tmp_path / "p.safetensors", "mine")
    again = packing.unpack(tmp_path / "p.safetensors", network=build)
    with torch.no_grad():
        assert torch.equal(again(X), model(X))


def test_a_batch_norm_whose_eps_is_a_whole_number_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    from hmq_lab.hardware.onnx_export import export

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 5)
    )
    fixed(attach(model, X))
    export(model, tmp_path / "model.onnx")


# ---------------------------------------------------------------------------------------------------------- sizes


def test_other_sizes_where_the_network_allows_them():
    model = attach(models.build("tiny_resnet8"), X).eval()
    assert model(torch.randn(2, 3, 20, 20)).shape == (2, 10) and (3, 20, 20) in model.hmq.sizes
    fixed_pool = attach(Way(EXACT["a pool as large as its input"]), X).eval()
    with pytest.raises(
        ValueError,
        match=r"for images of 3x14x14, got 3x20x20: attach them on a sample of that size",
    ):
        fixed_pool(torch.randn(2, 3, 20, 20))


def test_the_sample_may_come_first_and_no_tensor_is_printed():
    model = attach(nn.Sequential(nn.Conv2d(3, 8, 3)), X, SearchSpace((4,), 2))
    assert blocks(model)["0.weight"].space == SearchSpace((4,), 2)
    with pytest.raises(TypeError) as error:
        attach(nn.Sequential(nn.Conv2d(3, 8, 3)), X, X)
    assert len(str(error.value)) < 300
