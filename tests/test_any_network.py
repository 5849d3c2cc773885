"""Classifiers of many families, torchvision's and a reader's own: attach, train, evaluate, detach."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from hmq_lab import SearchSpace, attach, detach, models, placements
from hmq_lab.budget import expected_compression
from hmq_lab.placement import blocks, resample, switched_off

NETWORKS = {  # name: pixels a side, small to be quick
    "alexnet": 96,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 96,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 96,
    "swin_t": 64,
    "vgg11_bn": 64,
    "vit_b_16": 32,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"vit_b_16": {"image_size": 32}, "googlenet": {"init_weights": False}}.get(name, {})
    model = torchvision.models.get_model(name, num_classes=10, **options)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.any():
            nn.init.normal_(
                module.weight, std=0.02
            )  # ViT starts with a head of zeros, which passes no gradient
        if hasattr(module, "layer_scale"):
            nn.init.ones_(module.layer_scale)
    x = torch.randn(4, 3, NETWORKS[name], NETWORKS[name])
    model.train()
    with torch.no_grad():  # batch norms that have seen pictures, as those of a trained network have
        for _ in range(20):
            model(x)
    return model


def outputs(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for t in result if t is not None]


def equal(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(outputs(one), outputs(two), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_classifier_of_torchvision(name):
    model = build(name)
    original = copy.deepcopy(model)
    x, y = torch.randn(4, 3, NETWORKS[name], NETWORKS[name]), torch.arange(4)
    assert attach(model, SearchSpace(), x) is model

    with switched_off(model):  # the float network, in both modes
        assert equal(model.eval()(x), original.eval()(x))
        torch.manual_seed(1)
        one = model.train()(x)
        torch.manual_seed(1)
        assert equal(one, original.train()(x))

    for module in model.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # it would take the gradient of a few pictures' blocks away by chance
    resample(model, torch.Generator().manual_seed(0))
    results = outputs(model.train()(x))
    loss = (
        sum(F.cross_entropy(result, y) for result in results)
        + (8 - expected_compression(model)).square()
    )
    loss.backward()
    for block_name, block in blocks(model).items():
        grad = block.logits.grad
        assert grad is not None and grad.isfinite().all(), block_name
        assert grad.any(), block_name
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # an untrained EfficientNet's would overflow
    torch.optim.SGD(model.parameters(), lr=1e-3).step()

    model.eval()
    first = model(x)
    assert equal(first, model(x))  # deterministic
    for place in placements(model):
        if place.kind == "weight" and place.quantized:
            module, attribute = place.name.rsplit(".", 1)
            values = getattr(model.get_submodule(module), attribute).unique()
            assert len(values) <= 2 ** blocks(model)[place.name].scheme.bits
    copied = copy.deepcopy(model)
    assert equal(first, copied(x))
    copied.load_state_dict(model.state_dict())
    assert equal(first, copied(x))

    trained = {key.replace("parametrizations.", "").replace(".original", ""): value
               for key, value in model.state_dict().items() if "hmq" not in key}  # fmt: skip
    assert detach(model) is model
    assert type(model) is type(original) and list(model.state_dict()) == list(original.state_dict())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in original.named_modules()]
    assert all(torch.equal(trained[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        original.load_state_dict(model.state_dict())
        assert equal(model(x), original.eval()(x))


@pytest.mark.parametrize("name", ["efficientnet_b0", "swin_t", "convnext_tiny"])
def test_stochastic_in_training_deterministic_in_evaluation(name):
    model = build(name)
    for module in model.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.5
    x = torch.randn(4, 3, NETWORKS[name], NETWORKS[name])
    attach(model, SearchSpace(), x)
    with torch.no_grad():
        model.train()
        assert not equal(model(x), model(x))
        model.eval()
        assert equal(model(x), model(x))


class Own(nn.Module):
    """A functional dropout, one ReLU called three times, a layer of its own class, a parameter at the root."""

    class Scaled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    def __init__(self):
        super().__init__()
        self.first, self.second = (
            self.Scaled(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 5)
        self.gain = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("offset", torch.zeros(8, 1, 1))

    def forward(self, x, scale=1.0):
        a = self.relu(self.first(x) * self.gain + self.offset)
        b = self.relu(self.second(a))
        c = self.relu(F.dropout(a + b, 0.5, self.training) - 0.1)
        return self.head(c.mean((2, 3))) * scale


def test_a_module_of_the_readers_own():
    model = Own()
    original = copy.deepcopy(model)
    x = torch.randn(4, 3, 16, 16)
    attach(model, SearchSpace(bits=(2, 4), thresholds=3), x)
    assert {n for n in blocks(model, "activation")} >= {"relu", "relu:2", "relu:3"}
    with switched_off(model):
        torch.manual_seed(3)
        one = model.train()(x)
        torch.manual_seed(3)
        assert torch.equal(one, original.train()(x))
        assert torch.equal(model.eval()(x), original.eval()(x))
    with pytest.raises(TypeError, match="takes a batch of images alone, got 2 arguments"):
        model(x, scale=2.0)
    model.train()(x).sum().backward()
    assert all(block.logits.grad.any() for block in blocks(model).values())
    detach(model)
    assert list(model.state_dict()) == list(original.state_dict())
    assert torch.equal(model(x), original(x)) or model.training


def test_channels_last_dtype_and_device_moves():
    x = torch.randn(4, 3, 32, 32)
    model = models.build("resnet8").eval()
    attach(model, SearchSpace(), x)
    for block in blocks(model).values():
        block.fix()
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    assert torch.allclose(model(x.to(memory_format=torch.channels_last)), expected, atol=1e-5)
    model.double()
    assert torch.allclose(model(x.double()), expected.double(), atol=1e-4)
    assert all(block.scheme.bits == 8 for block in blocks(model).values())
    if torch.cuda.is_available():
        assert torch.allclose(model.float().cuda()(x.cuda()).cpu(), expected, atol=1e-3)


def test_an_attached_network_at_the_root():
    """A network that is one layer: its class is changed by the parametrization, and given back."""
    model = nn.Linear(6, 3)
    weight = model.weight.detach().clone()
    attach(model, SearchSpace(), torch.randn(5, 6))
    assert [p.name for p in placements(model) if p.quantized] == ["weight"]
    detach(model)
    assert type(model) is nn.Linear and torch.equal(model.weight, weight)
