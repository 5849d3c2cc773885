"""Hardware mode: folding against the network it came from; what is quantized; biases on the accumulator's grid."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import SearchSpace, attach, detach, models, placements
from hmq_lab.graph.folding import fold
from hmq_lab.placement import blocks, resample, set_activation_bits, switched_off


def trained(model, x):
    """Batch norms that have seen pictures, and gains that are not one."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return model.eval()


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", ["tiny_resnet8", "mobilenet_v1", "cifar_resnet18"])
def test_folding_changes_the_outputs_by_rounding_alone(name):
    x = torch.randn(4, 3, 32, 32)
    model = trained(models.build(name), x).double()
    before, count = model(x.double()), len(norms(model))
    pairs = fold(model, x)
    assert len(pairs) == count and not norms(model)
    assert torch.allclose(model(x.double()), before, rtol=1e-9, atol=1e-9)
    for pair in pairs:
        pair.undo()
    assert len(norms(model)) == count and torch.equal(model(x.double()), before)


class Awkward(nn.Module):
    """One batch norm that can be folded, and four that cannot."""

    def __init__(self):
        super().__init__()
        self.good, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.first = nn.BatchNorm2d(4)  # before its convolution
        self.read_twice, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.own, self.norm3 = Doubling(4, 4, 1), nn.BatchNorm2d(4)
        self.plain, self.batch_only = (
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4, track_running_stats=False),
        )

    def forward(self, x):
        x = F.relu(self.first(F.relu(self.norm(self.good(x)))))
        y = self.read_twice(x)
        y = F.relu(self.norm2(y) + y)
        return self.batch_only(self.plain(F.relu(self.norm3(self.own(y)))))


class Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_cannot_be_folded_stays():
    x = torch.randn(4, 3, 8, 8)
    model = trained(Awkward(), x)
    before = model(x)
    assert [(p.layer, p.norm) for p in fold(model, x)] == [("good", "norm")]
    assert torch.allclose(model(x), before, atol=1e-5) and len(norms(model)) == 4


class NormAndLayer(nn.BatchNorm2d):
    """A norm with an activation inside, as timm has them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class NormAndFunction(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


@pytest.mark.parametrize(("norm", "count"), [(NormAndLayer, 1), (NormAndFunction, 0)])
def test_an_activation_inside_a_norm_stays(norm, count):
    x = torch.randn(4, 3, 8, 8)
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 2, 1)), x)
    before = model(x)
    attach(model, SearchSpace(), x, hardware=True)
    with switched_off(model):
        assert torch.allclose(model(x), before, atol=1e-5)
    assert [p.role for p in placements(model)].count("non-linearity") == 1
    assert torch.allclose(detach(model)(x), before, atol=1e-5)
    assert len(norms(model)) == 1 - count


def test_what_hardware_mode_quantizes_and_detaching():
    x = torch.randn(4, 3, 32, 32)
    model = trained(models.build("tiny_resnet8"), x)
    before = model(x)
    attach(model, SearchSpace(), x, hardware=True, activation_bits=4)
    found = {p.name: p for p in placements(model)}
    assert (found["x"].kind, found["x"].signed) == ("hardware", True)
    assert (found["pool"].kind, found["pool"].signed) == ("hardware", False)
    assert blocks(model)["x"].scheme.bits == blocks(model)["pool"].scheme.bits == 8
    assert all(b.scheme.bits == 4 for b in blocks(model, "activation").values())
    set_activation_bits(model, dict.fromkeys(blocks(model, "activation"), 6))
    assert blocks(model)["x"].scheme.bits == 8 and blocks(model)["relu"].scheme.bits == 6
    assert [p.name for p in found.values() if not p.quantized and p.kind == "activation"] == [
        "linear"
    ]
    with switched_off(model):
        assert torch.allclose(model(x), before, atol=1e-5)
    detach(model)
    assert torch.allclose(model(x), before, atol=1e-5) and not norms(model)
    assert not any("parametrizations" in key or "hmq" in key for key in model.state_dict())


def test_the_default_mode_is_the_papers():
    x = torch.randn(4, 3, 32, 32)
    model = trained(models.build("tiny_resnet8"), x)
    attach(model, SearchSpace(), x)
    assert norms(model) and not blocks(model, "hardware")
    assert {p.reason for p in placements(model) if p.name in ("x", "pool")} == {
        "input image: float in the paper's method", "pooled: float in the paper's method"}  # fmt: skip


def test_a_network_that_is_refused_keeps_its_batch_norm():
    model = trained(models.build("tiny_resnet8"), torch.randn(4, 3, 32, 32))
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="does not run on a sample"):
        attach(model, SearchSpace(), torch.randn(2, 5, 32, 32), hardware=True)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


def test_biases_lie_on_the_grid_of_the_accumulator_and_learn():
    x = torch.randn(4, 3, 32, 32)
    model = attach(trained(models.build("tiny_resnet8"), x), SearchSpace(), x, hardware=True)
    sources = {
        "conv1": "x",
        "layer1.0.conv1": "relu",
        "layer1.0.conv2": "layer1.0.relu1",
        "linear": "pool",
    }
    for mode in (True, False):
        model.train(mode)
        for layer, source in sources.items():
            module = model.get_submodule(layer)
            step = blocks(model)[f"{layer}.weight"].scheme.step * blocks(model)[source].scheme.step
            original = module.parametrizations.bias.original
            assert torch.equal(
                module.bias / step, (original / step).round()
            )  # exact: powers of two
    resample(model.train(), torch.Generator().manual_seed(0))
    model(x).square().sum().backward()
    for layer in sources:
        grad = model.get_submodule(layer).parametrizations.bias.original.grad
        assert grad is not None and grad.any()

    copied = copy.deepcopy(model).eval()
    assert torch.equal(copied(x), model.eval()(x))
    block = copied.conv1.parametrizations.weight[0]
    assert (
        copied.conv1.parametrizations.bias[0].blocks[0]
        is block
        is not model.conv1.parametrizations.weight[0]
    )
    assert sum("conv1.parametrizations.weight.0.logits" == key for key in copied.state_dict()) == 1


def test_concatenations_have_the_bits_of_the_activations():
    class Fire(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(3, 4, 3, padding=1),
                nn.Conv2d(8, 5, 1),
            )

        def forward(self, x):
            return self.c(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)).mean((2, 3))

    model = attach(Fire(), SearchSpace(), torch.randn(2, 3, 8, 8), hardware=True, activation_bits=5)
    found = {p.name: p for p in placements(model)}
    assert found["cat"].kind == "activation" and not found["cat"].signed
    assert blocks(model)["cat"].scheme.bits == 5
    assert found["mean"].quantized and found["mean"].signed  # although it is the network's output
