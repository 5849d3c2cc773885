"""Blocks on networks and off again: where they stand, that they obey, that they leave no trace."""

import contextlib
import copy
import math
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from hmq_lab import budget, models
from hmq_lab.block import SearchSpace
from hmq_lab.placement import (
    attach,
    blocks,
    calibrate,
    detach,
    is_attached,
    placements,
    resample,
    set_activation_bits,
    switched_off,
)
from hmq_lab.quantizer import Scheme, quantize

SMALL = SearchSpace((2, 4, 8), 3)


class Toy(nn.Module):
    """A ReLU called three times, a residual sum, a linear bottleneck, a branch."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.neck, self.bn3 = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(x)))
        y = self.bn3(self.neck(self.relu(y + x)))
        return self.out(y.mean((2, 3)))


class Noisy(nn.Module):
    """What draws random numbers in training: functional dropout, dropout, stochastic depth, by hand."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 6, 1),
            nn.Conv2d(6, 6, 1),
        )
        self.depth = torchvision.ops.StochasticDepth(0.5, "row")
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(6, 3)

    def forward(self, x):
        x = F.dropout(F.relu(self.conv1(x)), 0.3, self.training)
        x = x + self.depth(self.conv2(x))
        x = F.relu(x + torchvision.ops.stochastic_depth(self.conv3(x), 0.5, "batch", self.training))
        if self.training:
            x = x * torch.rand_like(x)
        return self.out(self.drop(x.mean((2, 3))))


class Attention(nn.Module):
    """A transformer's layer: norms before attention and before the perceptron, sums after; pictures cut into words."""

    def __init__(self, width=12):
        super().__init__()
        self.words = nn.Conv2d(3, width, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, width)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        n = x.shape[0]
        x = self.words(x).reshape(n, 12, -1).permute(0, 2, 1)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.perceptron(self.norm2(x))
        return self.out(self.norm(x)[:, 0])


def googlenet():
    return torchvision.models.googlenet(
        weights=None, num_classes=5, aux_logits=True, init_weights=False
    )


NETWORKS = {
    "toy": (Toy, (4, 3, 8, 8)),
    "noisy": (Noisy, (4, 3, 8, 8)),
    "attention": (Attention, (4, 3, 16, 16)),
    "tiny_resnet8": (lambda: models.build("tiny_resnet8"), (4, 3, 16, 16)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), (2, 3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=5), (2, 3, 32, 32)),
    "mobilenet_v3_small": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
        (2, 3, 64, 64),
    ),
    "googlenet": (googlenet, (2, 3, 64, 64)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def build(name):
    make, shape = NETWORKS[name]
    return make(), torch.randn(shape)


def outputs(y):
    """A network's outputs as one tensor, auxiliary heads and all."""
    return torch.cat(
        [part.flatten() for part in (y if isinstance(y, tuple) else (y,)) if part is not None]
    )


def of_kind(model, kind):
    return [p for p in placements(model) if p.kind == kind]


def standing(model):
    """{name: signed?} of the activations that have a block, in order."""
    return {p.name: p.signed for p in of_kind(model, "activation") if p.quantized}


# ------------------------------------------------------------------------------------- where blocks stand


def test_a_relu_called_three_times_has_three_blocks():
    model = attach(Toy(), SMALL, torch.randn(4, 3, 8, 8))
    assert standing(model) == {"relu": False, "relu:2": False, "relu:3": False, "bn3": True}
    found = blocks(model, "activation")
    assert len({id(b) for b in found.values()}) == 4
    reasons = {p.name: (p.quantized, p.reason) for p in placements(model)}
    assert reasons["relu:2"] == (True, "after a non-linearity")
    assert reasons["bn3"] == (True, "after a linear bottleneck")
    for name, why in (
        ("x", "input"),
        ("mean", "pooled"),
        ("out", "output"),
        ("conv2.bias", "bias"),
        ("bn1.bias", "norm"),
    ):
        assert not reasons[name][0] and why in reasons[name][1]
    weights = ["conv1.weight", "conv2.weight", "neck.weight", "out.weight"]
    assert list(blocks(model, "weight")) == weights and list(blocks(model)) == weights + list(found)
    assert [p.name for p in of_kind(model, "parameter")] == [
        n for n, _ in Toy().named_parameters() if n not in weights
    ]


def test_a_residual_network_has_one_block_after_each_relu_and_none_before_a_sum():
    model = attach(torchvision.models.resnet18(num_classes=5), SMALL, torch.randn(2, 3, 32, 32))
    wanted = ["relu"]
    for layer in (1, 2, 3, 4):
        for k in (0, 1):
            wanted += [f"layer{layer}.{k}.relu", f"layer{layer}.{k}.relu:2"]
    assert standing(model) == dict.fromkeys(wanted, False)
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (
        list(blocks(model, "weight")) == [f"{n}.weight" for n in convolutions]
        and len(convolutions) == 21
    )
    assert [p.name for p in of_kind(model, "activation") if not p.quantized] == [
        "x",
        "avgpool",
        "fc",
    ]


def test_our_residual_networks_too():
    model = attach(models.build("resnet8"), SMALL, torch.randn(2, 3, 32, 32))
    wanted = ["relu", *(f"layer{k}.0.relu{i}" for k in (1, 2, 3) for i in (1, 2))]
    assert standing(model) == dict.fromkeys(wanted, False)
    assert {p.name: p.shape for p in of_kind(model, "activation")}["layer2.0.relu1"] == (32, 16, 16)


def test_inverted_residuals_have_signed_blocks_after_bottleneck_and_sum():
    network = torchvision.models.mobilenet_v2(num_classes=5)
    wanted = {"features.0.2": False}
    for i, block in enumerate(network.features[1:-1], 1):
        wanted |= {f"features.{i}.conv.{k}.2": False for k in range(len(block.conv) - 2)}
        wanted[f"features.{i}.conv.{len(block.conv) - 1}"] = True
        if block.use_res_connect:
            wanted[f"features.{i}.add"] = True
    wanted["features.18.2"] = False
    model = attach(network, SMALL, torch.randn(2, 3, 32, 32))
    assert standing(model) == wanted
    assert [*standing(model)] == [*wanted]
    by_name = {p.name: p for p in placements(model)}
    assert by_name["features.3.add"].reason == "after a residual sum"
    assert by_name["features.3.conv.3"].reason == "after a linear bottleneck"


def test_squeeze_and_excite_products_and_means_stay_float():
    model = attach(
        torchvision.models.mobilenet_v3_small(num_classes=5), SMALL, torch.randn(2, 3, 64, 64)
    )
    layer = {p.name: p.layer for p in placements(model)}
    for name, signed in standing(model).items():
        assert signed == (layer[name] not in ("ReLU", "Hardsigmoid")), name
    assert {"Hardswish", "ReLU", "Hardsigmoid", "BatchNorm2d", "add"} >= {
        layer[name] for name in standing(model)
    }
    floats = [p for p in of_kind(model, "activation") if not p.quantized]
    assert {p.layer for p in floats} == {"x", "AdaptiveAvgPool2d", "mul", "Linear"}
    assert len([p for p in floats if p.layer == "mul"]) == 9


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 1) for i in range(4))
        self.norms, self.out = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4)), nn.Linear(4, 2)

    def forward(self, x):
        x = self.convs[0](x)
        for conv, norm in zip(self.convs[1:], self.norms[:-1], strict=True):
            x = x + conv(F.relu(norm(x)))
        return self.out(F.relu(self.norms[3](x)).mean((2, 3)))


def test_sums_that_wait_for_another_sum_have_blocks():
    """Where norms come first, the stream of residual sums is what lives longest: it must not stay float."""
    model = attach(PreActivation(), SMALL, torch.randn(2, 3, 4, 4))
    found = standing(model)
    assert (
        found["add"] and found["add:2"] and "add:3" not in found
    )  # the last one feeds a norm and a ReLU alone
    assert [n for n in found if n.startswith("relu")] == ["relu", "relu:2", "relu:3", "relu:4"]
    model = attach(Attention(), SMALL, torch.randn(2, 3, 16, 16))
    found = standing(model)
    assert {"words", "norm1", "norm2", "perceptron.1", "norm", "add"} <= found.keys() and all(
        found.values()
    )
    assert [p.layer for p in of_kind(model, "activation") if not p.quantized] == [
        "x",
        "MultiheadAttention",
        "Linear",
    ]
    assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= blocks(
        model, "weight"
    ).keys()


class ReadsShapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2, self.out = (
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        x = self.norm(self.conv1(x))
        n, half = x.size(0), x.shape[1] // 2
        x = F.relu(x)
        x = x.view(n, 2, half, x.size(2), -1).transpose(1, 2)
        x = self.conv2(x.reshape(n, 2 * half, x.size(3), x.size(4)))
        y = x.dim() * F.relu(x)
        return self.out(y.mean((2, 3)).view(x.shape[0], -1))


def test_reading_a_shape_is_no_use_of_a_tensor():
    model = attach(ReadsShapes(), SMALL, torch.randn(2, 3, 4, 4))
    assert [*standing(model)][:2] == ["relu", "relu:2"]
    assert not {"norm", "conv1", "conv2"} & standing(model).keys()
    assert not {p.layer for p in placements(model)} & {
        "size",
        "getattr",
        "floordiv",
        "dim",
        "getitem",
    }


class Signs(nn.Module):
    """One tensor of each sort, summed in pairs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(12))
        self.limit, self.symmetric = nn.Hardtanh(0.0, 6.0), nn.Hardtanh()
        self.shift = nn.Parameter(-torch.ones(3, 1, 1))

    def forward(self, x):
        c = iter(self.conv)
        a, b = F.relu(next(c)(x)), torch.sigmoid(next(c)(x))
        x = next(c)(a + b)  # add: both at least 0
        x = next(c)(a - b + x)  # sub: not
        x = next(c)(F.relu6(x) + F.silu(x))
        x = next(c)(self.limit(x)) + next(c)(self.symmetric(x))
        x = next(c)(torch.clamp(x, 0, 1)) + next(c)(x.clamp(min=-1)) + next(c)(x.clamp(max=3))
        x = next(c)(F.relu(x) + self.shift)  # a parameter may be negative
        x = F.max_pool2d(F.relu(x), 1) + F.dropout(F.relu6(x), 0.0)
        return next(c)(x)


def test_unsigned_only_where_the_range_is():
    model = attach(Signs(), SMALL, torch.randn(2, 3, 4, 4))
    found = standing(model)
    unsigned = {n for n, signed in found.items() if not signed}
    assert {"relu", "sigmoid", "add", "relu6", "limit", "clamp", "relu:2"} <= unsigned
    assert {"sub", "silu", "symmetric", "clamp:2", "clamp:3"} <= found.keys() - unsigned
    last = [p for p in of_kind(model, "activation") if p.quantized][-1]
    assert last.reason == "after a residual sum" and not last.signed


@every_network
def test_every_unsigned_tensor_is_at_least_zero_and_every_shape_is_right(name):
    model, x = build(name)
    parameters = dict(model.named_parameters())
    attach(model, SMALL, x)
    smallest, shapes = {}, {}

    def look(name):
        def hook(block, inputs):
            smallest[name] = min(smallest.get(name, math.inf), inputs[0].min().item())
            shapes[name] = tuple(inputs[0].shape[1:])

        return hook

    for n, block in blocks(model, "activation").items():
        block.register_forward_pre_hook(look(n))
    with torch.no_grad(), switched_off(model):
        for mode in (True, False):
            for scale in (1, 10):
                model.train(mode)(scale * x)
        model(x[:1])  # shapes are for one image
    signed = standing(model)
    assert smallest.keys() == signed.keys()  # every block is reached
    assert all(smallest[n] >= 0 for n in signed if not signed[n])
    for p in of_kind(model, "activation"):
        if p.quantized:
            assert p.shape == shapes[p.name] and p.size == math.prod(p.shape)
    for p in of_kind(model, "weight"):
        assert p.shape == tuple(parameters[p.name].shape)
    names = [p.name for p in placements(model)]
    assert len(set(names)) == len(names) and all(p.reason and p.layer for p in placements(model))


def test_auxiliary_heads_have_no_blocks_that_nothing_calibrates():
    model, x = build("googlenet")
    attach(model, SMALL, x)
    assert not [n for n in standing(model) if n.startswith("aux")]
    assert {p.reason for p in of_kind(model, "activation") if p.name.startswith("aux")} == {
        "runs in training only"
    }
    model.train()(x).logits.sum().backward()


class Alike(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.a_b = nn.ModuleDict({"b_0": nn.ReLU()}), nn.Sequential(nn.ReLU())
        self.c, self.d, self.e = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.e(self.a_b(self.d(self.a["b_0"](self.c(x)))))


def test_names_that_look_alike_have_blocks_of_their_own():
    model = attach(Alike(), SMALL, torch.randn(4, 3))
    found = blocks(model, "activation")
    assert [*found] == ["a.b_0", "a_b.0"] and found["a.b_0"] is not found["a_b.0"]


@pytest.mark.parametrize(
    "model, shape, wanted",
    (
        (nn.Identity(), (2, 3), []),
        (nn.Linear(3, 4), (2, 3), ["weight"]),
        (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.ReLU()), (2, 3), ["0"]),
        (
            nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)),
            (2, 3),
            ["0.weight", "2.weight", "1"],
        ),
        (
            nn.Sequential(nn.Conv1d(3, 4, 1), nn.PReLU(), nn.Conv1d(4, 2, 1)),
            (2, 3, 5),
            ["0.weight", "2.weight", "1"],
        ),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ELU()), (2, 3, 5, 5), ["0.weight"]),
        (
            nn.Sequential(nn.Conv3d(3, 4, 1), nn.Flatten(), nn.Linear(32, 2)),
            (2, 3, 2, 2, 2),
            ["0.weight", "2.weight", "0"],
        ),
    ),
    ids=str,
)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_small_models_and_lone_layers(model, shape, wanted, dtype):
    model, x = copy.deepcopy(model).to(dtype), torch.randn(shape, dtype=dtype)
    y = model(x)
    attach(model, SMALL, x)
    assert [*blocks(model)] == wanted
    assert model.train()(x).dtype == model.eval()(input=x).dtype == dtype
    with switched_off(model):
        assert torch.equal(model(x), y)
    detach(model)
    assert torch.equal(model(x), y)


def test_samples_of_weights_stand_along_the_input_channels():
    model = attach(
        nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4)),
        SMALL,
        torch.randn(2, 3, 5, 5),
    )
    shapes = [
        tuple(b.step_and_threshold(m.parametrizations.weight.original)[0].shape)
        for m, b in (
            (model[0], model[0].parametrizations.weight[0]),
            (model[2], model[2].parametrizations.weight[0]),
        )
    ]
    assert shapes == [(3, 1, 1, 1), (1, 1, 1, 1)]


def test_a_readers_own_layer_is_a_layer():
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    model = attach(
        nn.Sequential(Scaled(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        SMALL,
        torch.randn(2, 3, 4, 4),
    )
    assert [*blocks(model)] == ["0.weight", "2.weight", "1"]


# ------------------------------------------------------------------------------------- that they obey


@every_network
def test_switched_off_is_the_float_network_in_both_modes(name):
    model, x = build(name)
    twin = copy.deepcopy(model)
    attach(model, SMALL, x)
    for mode in (True, False, True):
        model.train(mode), twin.train(mode)
        with switched_off(model), torch.no_grad():
            torch.manual_seed(3)
            ours, after = outputs(model(x)), torch.get_rng_state()
            torch.manual_seed(3)
            torch.backends.mha.set_fastpath_enabled(False)  # attention's fast path rounds otherwise
            assert torch.equal(ours, outputs(twin(x))) and torch.equal(after, torch.get_rng_state())
    for (n, a), b in zip(
        detach(model).state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), n  # running statistics too
    with torch.no_grad():
        attach(model, SMALL, x).eval()
        assert not torch.equal(outputs(model(x)), outputs(twin.eval()(x)))


@pytest.mark.parametrize("name", ("noisy", "attention"))
def test_random_layers_are_off_in_evaluation(name, generator):
    model, x = build(name)
    attach(model, SMALL, x)
    resample(model, generator)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    torch.manual_seed(1)
    first, state = model(x), torch.get_rng_state()
    assert not torch.equal(first, model(x))
    torch.manual_seed(1)
    assert torch.equal(first, model(x)) and torch.equal(state, torch.get_rng_state())


def test_switched_off_restores_what_was():
    model = attach(Toy(), SMALL, torch.randn(2, 3, 8, 8))
    blocks(model)["relu"].enabled = False
    weight = model.conv1.weight
    with pytest.raises(KeyError), switched_off(model):
        assert model.conv1.weight is model.conv1.parametrizations.weight.original
        with switched_off(model):
            pass
        assert not any(b.enabled for b in blocks(model).values())
        raise KeyError
    assert [n for n, b in blocks(model).items() if not b.enabled] == ["relu"]
    assert torch.equal(model.conv1.weight, weight)


def test_evaluation_uses_the_selected_schemes():
    model = attach(Toy(), SMALL, x := torch.randn(2, 3, 8, 8)).eval()
    for module in (model.conv1, model.neck, model.out):
        block, original = module.parametrizations.weight[0], module.parametrizations.weight.original
        s = block.scheme
        assert (
            s.threshold == 2.0 ** (math.ceil(math.log2(original.abs().max().item())) + 1)
            and s.bits == 8
        )
        assert torch.equal(module.weight, quantize(original, s.step, s.threshold, True))
    seen = []
    blocks(model)["relu"].register_forward_hook(lambda m, inputs, output: seen.append(output))
    model(x)
    scheme = blocks(model)["relu"].scheme
    with torch.no_grad():
        y = F.relu(model.bn1(model.conv1(x)))
    assert torch.equal(seen[0], quantize(y, scheme.step, scheme.threshold, False))


def test_looking_at_a_network_draws_nothing(generator):
    toy, x = Toy(), torch.randn(2, 3, 8, 8)
    world = torch.get_rng_state()
    model = attach(toy, SMALL, x, generator=generator)
    assert torch.equal(torch.get_rng_state(), world)
    resample(model, generator)
    state, world = generator.get_state(), torch.get_rng_state()
    first = model(x).detach()
    (
        model.conv1.weight,
        repr(model),
        placements(model),
        model.state_dict(),
        blocks(model)["relu"].scheme,
    )
    stats = copy.deepcopy(
        [m.running_mean for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    )
    assert torch.equal(model.conv1.weight, model.conv1.weight)
    model.eval()(x), model.train()
    for m, mean in zip(
        (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)), stats, strict=True
    ):
        assert torch.equal(m.running_mean, mean)
    assert torch.equal(model(x), first)
    assert torch.equal(generator.get_state(), state) and torch.equal(torch.get_rng_state(), world)
    resample(model, generator)
    assert not torch.equal(model(x), first)


def test_attach_leaves_modes_and_statistics_alone():
    for mode in (True, False):
        model, x = Toy().train(mode), torch.randn(4, 3, 8, 8)
        model.bn2.train(not mode)
        before = copy.deepcopy(model.state_dict())
        modes = {n: m.training for n, m in model.named_modules()}
        attach(model, SMALL, x)
        now = {n: m.training for n, m in model.named_modules()}
        assert all(now[n] == modes[n] for n in modes)
        assert all(b.training == mode for b in blocks(model).values())
        calibrate(model, [x])
        assert all(m.training == now[n] for n, m in model.named_modules())
        after = detach(model).state_dict()
        assert all(torch.equal(before[n], after[n]) for n in before)
        assert all(m.training == modes[n] for n, m in model.named_modules())


def test_the_generator_decides_the_initial_logits():
    tables = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + 5 if len(tables) == 1 else 5)
        model = attach(
            copy.deepcopy(Toy()),
            SMALL,
            torch.randn(2, 3, 8, 8),
            generator=torch.Generator().manual_seed(seed),
        )
        tables.append(torch.cat([b.logits.detach().flatten() for b in blocks(model).values()]))
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


@every_network
def test_training_reaches_every_logit(name, generator):
    model, x = build(name)
    attach(model, SMALL, x).train()
    resample(model, generator)
    outputs(model(x)).square().sum().backward()
    for n, block in blocks(model).items():
        assert block.logits.grad is not None and block.logits.grad.isfinite().all(), n
    for p in model.parameters():
        assert p.grad is None or p.grad.isfinite().all()


# ------------------------------------------------------------------------------------- that they leave no trace


def _hooks(module):
    return {name: len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks")}


def shape_of(model):
    """All of a network but its numbers."""
    return [
        (
            n,
            type(m),
            sorted(vars(m)),
            [*m._parameters],
            [*m._buffers],
            [*m._modules],
            m.training,
            _hooks(m),
        )
        for n, m in model.named_modules()
    ]


@every_network
def test_detach_after_training_leaves_the_float_network_with_its_weights(name, generator):
    model, x = build(name)
    twin = copy.deepcopy(model)
    architecture, keys = shape_of(model), list(model.state_dict())
    identities = {n: id(p) for n, p in model.named_parameters()}
    attach(model, SMALL, x).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        resample(model, generator)
        optimizer.zero_grad(), outputs(model(x)).square().sum().backward(), optimizer.step()
    trained = {
        n.replace("parametrizations.", "").removesuffix(".original"): v.clone()
        for n, v in model.state_dict().items()
    }
    assert detach(model) is model and not is_attached(model)
    assert shape_of(model) == architecture and list(model.state_dict()) == keys
    assert {n: id(p) for n, p in model.named_parameters()} == identities  # an optimizer goes on
    for n, v in model.state_dict().items():
        assert torch.equal(v, trained[n]), n
    assert any(
        not torch.equal(v, w)
        for v, w in zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    )
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(outputs(model.eval()(x)), outputs(twin.eval()(x)))
    attach(model, SMALL, x), detach(model)  # and once more
    assert shape_of(model) == shape_of(twin)


def test_deepcopy_is_independent(generator):
    model = attach(Toy(), SMALL, x := torch.randn(2, 3, 8, 8))
    resample(model, generator)
    y = model(x).detach()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), y) and twin.forward.__self__ is twin
    with torch.no_grad():
        twin.conv1.parametrizations.weight.original.zero_()
    for block in blocks(twin).values():
        block.fix()
    assert not torch.equal(twin(x), y) and torch.equal(model(x), y)
    detach(twin)
    assert is_attached(model) and type(twin.conv1) is nn.Conv2d and torch.equal(model(x), y)


class WithConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(F.relu(self.first(x)) * torch.arange(3.0) + torch.ones(3))


def test_constants_of_the_graph_are_cleared_away():
    model, x = WithConstant(), torch.randn(4, 3)
    before, y = shape_of(model), model(x)
    attach(model, SMALL, x)
    with switched_off(model):
        assert torch.equal(model(x), y)
    twin = copy.deepcopy(model)
    assert shape_of(detach(model)) == shape_of(detach(twin)) == before
    with torch.no_grad():
        model.last.weight[0, 0] = math.nan
    with untouched(model), pytest.raises(ValueError, match=r"weight last\.weight"):
        attach(model, SMALL, x)


def test_load_state_dict(tmp_path, generator):
    model, x = (
        attach(Toy(), SMALL, torch.randn(2, 3, 8, 8), activation_bits=4),
        torch.randn(2, 3, 8, 8),
    )
    with torch.no_grad():
        for block in blocks(model).values():
            block.logits.add_(torch.randn(block.logits.shape, generator=generator) * 3)
    blocks(model)["relu"].fix()
    model.train()(x)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = attach(Toy(), SMALL, torch.randn(2, 3, 8, 8) * 9)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for n, block in blocks(other).items():
        assert block.scheme == blocks(model)[n].scheme and block.is_fixed == (n == "relu")
    assert torch.equal(model.eval()(x), other.eval()(x))
    for m in (model, other):
        resample(m.train(), torch.Generator().manual_seed(4))
    assert torch.equal(model(x), other(x))


def test_frozen_weights_stay_frozen(generator):
    model = Toy()
    model.conv1.weight.requires_grad_(False)
    model.bn1.eval()
    attach(model, SMALL, x := torch.randn(2, 3, 8, 8))
    mean = model.bn1.running_mean.clone()
    resample(model, generator)
    model(x).sum().backward()
    assert torch.equal(model.bn1.running_mean, mean)
    assert model.conv1.parametrizations.weight.original.grad is None
    assert blocks(model)["conv1.weight"].logits.grad is not None
    detach(model)
    assert not model.conv1.weight.requires_grad and model.conv2.weight.requires_grad


def test_a_weight_of_two_layers_has_one_block_and_counts_once(generator):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4)
    model[2].weight = model[0].weight
    attach(model, SMALL, x).train()
    block = blocks(model)["0.weight"]
    assert (
        list(blocks(model, "weight")) == ["0.weight"]
        and model[2].parametrizations.weight[0] is block
    )
    shared = [p for p in placements(model) if p.kind == "shared"]
    assert [(p.name, p.quantized) for p in shared] == [
        ("2.weight", False)
    ] and "as 0.weight" in shared[0].reason
    rates = budget.rates(model)  # 16 weights of 8 bits, 8 biases of 32
    assert rates.weights == rates.all_weights == 4 and rates.checkpoint == (32 * 24) / (
        8 * 16 + 32 * 8
    )

    resample(model, generator)
    assert torch.equal(model[0].weight, model[2].weight)  # one sample, one tensor
    model(x).sum().backward()
    assert (
        block.logits.grad.any() and len(list(model.parameters())) == 5
    )  # a weight, two biases, two tables of logits
    twin = copy.deepcopy(model)
    assert twin[2].parametrizations.weight.original is twin[0].parametrizations.weight.original
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert detach(model)[2].weight is model[0].weight and model[0].weight.grad is not None


class OwnHead(nn.Module):
    """A parameter of its own that a layer shares, and a norm's that two norms share."""

    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 3, bias=False)
        self.fc.weight = self.table
        self.norm1, self.norm2 = nn.LayerNorm(3), nn.LayerNorm(3)
        self.norm2.weight = self.norm1.weight

    def forward(self, x):
        return F.linear(self.norm2(F.relu(self.norm1(self.fc(x)))), self.table)


def test_a_weight_shared_with_another_parameter_is_quantized_in_both():
    model, x = OwnHead(), torch.randn(5, 3)
    wanted = model(x)
    attach(model, SearchSpace((2,), 1), x).eval()
    kinds = {p.name: p.kind for p in placements(model)}
    assert kinds["fc.weight"] == "weight" and kinds["table"] == kinds["norm2.weight"] == "shared"
    assert kinds["norm1.weight"] == "parameter"
    assert len(model.table.unique()) <= 4 and torch.equal(model.table, model.fc.weight)
    with switched_off(model):
        assert torch.equal(model(x), wanted)
    assert detach(model).table is model.fc.weight and model.norm1.weight is model.norm2.weight


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("norm", ("weight_norm", "spectral_norm"))
def test_weights_that_a_hook_computes_are_refused(norm):
    model = Toy()
    getattr(nn.utils, norm)(model.neck)
    with pytest.raises(
        ValueError,
        match=r"weight neck\.weight is no parameter but computed by (Weight|Spectral)Norm",
    ):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))
    assert not is_attached(model)
    getattr(nn.utils, f"remove_{norm}")(model.neck)
    assert "neck.weight" in blocks(attach(model, SMALL, torch.randn(2, 3, 8, 8)))


def test_pruned_weights_are_refused_until_the_mask_is_made_permanent():
    from torch.nn.utils import prune

    model = Toy()
    prune.l1_unstructured(model.neck, "weight", amount=0.5)
    with pytest.raises(
        ValueError, match=r"neck\.weight is no parameter but computed by L1Unstructured"
    ):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))
    prune.remove(model.neck, "weight")
    assert "neck.weight" in blocks(attach(model, SMALL, torch.randn(2, 3, 8, 8)))


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # torch hides it itself, unless it is an error
def test_a_compiled_network_agrees_with_eager(generator):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )
    attach(model, SMALL, x := torch.randn(2, 3, 8, 8))
    resample(model, generator)
    model(x)
    compiled = torch.compile(model, backend="eager")
    for mode in (True, False):
        model.train(mode)
        assert torch.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_autocast(generator):
    model = attach(Toy(), SMALL, x := torch.randn(2, 3, 8, 8))
    resample(model, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.conv1.weight.dtype == torch.float32
        model(x).float().sum().backward()
    assert all(b.logits.grad.isfinite().all() for b in blocks(model).values())


# ------------------------------------------------------------------------------------- calibration


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.out = nn.ReLU(), nn.Linear(2, 1)

    def forward(self, x):
        return self.out(self.relu(x))


def test_calibration_is_a_running_maximum():
    model = attach(Gain(), SMALL, torch.tensor([[0.1, 0.2]]))
    assert int(blocks(model)["relu"].exponent) == math.ceil(math.log2(0.2)) == -2
    largest = [3.0, 1.0, 20.0, 0.5]
    batches = [torch.tensor([[m, -50.0], [m / 3, 0.0]]) for m in largest]
    theta = 3.0
    theta += 0.9 * (1.0 - theta)
    theta += 0.9 * (20.0 - theta)
    theta += 0.9 * (0.5 - theta)
    assert calibrate(model, iter(batches)) == {"relu": pytest.approx(theta, rel=1e-6)}
    assert int(blocks(model)["relu"].exponent) == math.ceil(math.log2(theta)) == 2
    assert calibrate(model, batches, rate=0.5)["relu"] == pytest.approx(
        ((3 + 1) / 2 + 20) / 4 + 0.25, rel=1e-6
    )
    assert calibrate(model, batches[:1])["relu"] == 3.0  # a pass forgets the one before
    for value, exponent in ((4.0, 2), (4.0001, 3), (3.9999, 2)):
        calibrate(model, [torch.tensor([[value, 1.0]])])
        assert int(blocks(model)["relu"].exponent) == exponent
    for nothing in ([], iter(())):
        with pytest.raises(ValueError, match="at least one batch"):
            calibrate(model, nothing)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"rate must be from 0 to 1, got {wrong}"):
            calibrate(model, batches, rate=wrong)
    assert int(blocks(model)["relu"].exponent) == 2


def test_a_constant_gate_is_not_clipped_everywhere():
    model = attach(Gain(), SMALL, torch.full((4, 2), 0.5))
    assert int(blocks(model)["relu"].exponent) == 0
    calibrate(model, [torch.full((4, 2), 0.7)])  # below its threshold anyway
    assert int(blocks(model)["relu"].exponent) == 0


def test_calibration_watches_the_float_network_in_evaluation_mode():
    model = attach(Toy(), SMALL, torch.randn(4, 3, 8, 8)).train()
    twin = detach(copy.deepcopy(model)).eval()
    x = torch.randn(8, 3, 8, 8) * 3
    with torch.no_grad():
        first = F.relu(twin.bn1(twin.conv1(x)))
        second = F.relu(twin.bn2(twin.conv2(first)))
        third = F.relu(first + second)
        wanted = {
            "relu": first,
            "relu:2": second,
            "relu:3": third,
            "bn3": twin.bn3(twin.neck(third)),
        }
    found = calibrate(model, [x])
    assert found == {n: v.abs().max().item() for n, v in wanted.items()} and model.training
    for n, v in wanted.items():
        assert int(blocks(model)[n].exponent) == math.ceil(math.log2(v.abs().max().item()))
    assert not any(b._forward_pre_hooks for b in blocks(model).values())


def test_calibration_of_nan_names_the_tensor_and_changes_nothing():
    model = attach(Toy(), SMALL, x := torch.randn(4, 3, 8, 8))
    before = {n: int(b.exponent) for n, b in blocks(model).items()}
    with torch.no_grad():
        model.neck.bias[0] = math.nan
    with pytest.raises(ValueError, match="activation bn3 holds NaN"):
        calibrate(model, [64 * x])
    assert {n: int(b.exponent) for n, b in blocks(model).items()} == before
    assert not any(b._forward_pre_hooks for b in blocks(model).values()) and model.training


def test_a_batch_that_fails_leaves_the_network_as_it_was():
    model = attach(Toy(), SMALL, torch.randn(4, 3, 8, 8)).train()
    with pytest.raises(ValueError, match="attached for images of 3x8x8, got 7x8x8"):
        calibrate(model, [torch.randn(2, 7, 8, 8)])
    assert model.training and not any(b._forward_pre_hooks for b in blocks(model).values())
    assert all(b.enabled for b in blocks(model).values())


def test_activation_bits(generator):
    x = torch.randn(4, 3, 8, 8)
    bits = lambda m: {n: b.scheme.bits for n, b in blocks(m, "activation").items()}  # noqa: E731
    model = attach(Toy(), SMALL, x, activation_bits=5)
    assert set(bits(model).values()) == {5}
    set_activation_bits(model, {"relu": 2, "relu:2": 3, "relu:3": 4, "bn3": 6})
    assert bits(model) == {"relu": 2, "relu:2": 3, "relu:3": 4, "bn3": 6}
    seen = []
    blocks(model)["relu"].register_forward_hook(lambda m, inputs, output: seen.append(output))
    model.eval()(x)
    assert len(seen[0].unique()) <= 4
    with pytest.raises(ValueError, match="1 to 16, got 0"):
        set_activation_bits(model, {"relu": 0, "relu:2": 3, "relu:3": 4, "bn3": 6})
    assert bits(attach(Toy(), SMALL, x, activation_bits={"relu": 4})) == {
        "relu": 4,
        "relu:2": 8,
        "relu:3": 8,
        "bn3": 8,
    }
    with pytest.raises(ValueError, match="rleu"):
        attach(Toy(), SMALL, x, activation_bits={"rleu": 4})
    with pytest.raises(ValueError, match="1 to 16, got 17"):
        attach(Toy(), SMALL, x, activation_bits=17)


# ------------------------------------------------------------------------------------- what is refused


@contextlib.contextmanager
def untouched(model):
    before, numbers = shape_of(model), copy.deepcopy(model.state_dict())
    yield
    assert shape_of(model) == before and not is_attached(model)
    for (n, a), b in zip(model.state_dict().items(), numbers.values(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), n


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_bad_weight_is_named(bad):
    model = Toy()
    with torch.no_grad():
        model.neck.weight[1, 2] = bad
    with (
        untouched(model),
        pytest.raises(ValueError, match=r"weight neck\.weight holds NaN or infinite"),
    ):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))


def test_weights_no_threshold_fits_are_named():
    model = Toy()
    with torch.no_grad():
        model.conv2.weight.mul_(1e-36)
    with untouched(model), pytest.raises(ValueError, match=r"weight conv2\.weight"):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))
    model = Gain()
    with untouched(model), pytest.raises(ValueError, match="activation relu"):
        attach(model, SMALL, torch.full((2, 2), 1e-33))


def test_a_bad_activation_is_named_and_the_network_released():
    model = Toy()
    with torch.no_grad():
        model.bn2.bias[3] = math.inf
    with (
        untouched(model),
        pytest.raises(ValueError, match="activation relu:2 holds NaN or infinite"),
    ):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        if x.sum() > 0:  # the line
            x = -x
        return x


def test_the_line_that_fx_cannot_follow_is_named():
    model = nn.Sequential(Branching(), nn.ReLU()).train()
    model[1].eval()
    with untouched(model), pytest.raises(ValueError, match="cannot follow Sequential") as error:
        attach(model, SMALL, torch.randn(2, 3, 4, 4))
    assert "if x.sum() > 0:" in str(error.value) and "test_placement.py:" in str(error.value)


def test_random_numbers_of_torch_are_drawn_anew_and_others_refused():
    class Random(WithConstant):
        def forward(self, x):
            return self.last(F.relu(self.first(x)) * self.draw())

    x = torch.randn(4, 3)
    model = Random()
    model.draw = lambda: torch.rand(3)
    attach(model, SMALL, x)
    with switched_off(model):
        assert not torch.equal(model(x), model(x))

    for draw in (random.random, lambda: np.random.rand()):  # noqa: NPY002
        model = Random()
        model.draw = draw
        with (
            untouched(model),
            pytest.raises(ValueError, match="Random draws random numbers by Python or NumPy"),
        ):
            attach(model, SMALL, x)


@pytest.mark.parametrize(
    "sample",
    (
        None,
        "pictures",
        [1.0],
        torch.randint(9, (2, 3, 8, 8)),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(5),
        torch.tensor(1.0),
    ),
    ids=("none", "text", "list", "integers", "empty", "flat", "scalar"),
)
def test_samples_that_are_no_pictures(sample):
    model = Toy()
    with untouched(model), pytest.raises(ValueError, match="sample must be a batch"):
        attach(model, SMALL, sample)


def test_samples_must_be_finite_and_are_needed():
    x = torch.randn(2, 3, 8, 8)
    x[0, 0, 0, 0] = math.nan
    for arguments in ((SMALL, x), (SMALL,), ()):
        model = Toy()
        with untouched(model), pytest.raises(ValueError, match="sample must be"):
            attach(model, *arguments)


def test_a_space_that_is_none():
    for space in ((2, 4), [8], "small"):
        model = Toy()
        with untouched(model), pytest.raises(TypeError, match="space must be a SearchSpace"):
            attach(model, space, torch.randn(2, 3, 8, 8))


def test_attached_twice_and_not_at_all():
    model = attach(Toy(), SMALL, x := torch.randn(2, 3, 8, 8))
    with pytest.raises(ValueError, match="Toy has HMQ blocks already"):
        attach(model, SMALL, x)
    assert is_attached(model) and not is_attached(Toy())
    for function in (
        detach,
        placements,
        blocks,
        lambda m: resample(m, None),
        lambda m: calibrate(m, [x]),
    ):
        with pytest.raises(ValueError, match="Toy has no HMQ blocks"):
            function(Toy())
    owner = Toy()
    owner.hmq = nn.Linear(2, 2)
    with untouched(owner), pytest.raises(ValueError, match="attribute hmq"):
        attach(owner, SMALL, x)


def test_parametrizations_of_ones_own_are_refused():
    model = Toy()
    nn.utils.parametrizations.weight_norm(model.neck)
    with untouched(model), pytest.raises(ValueError, match="neck has parametrizations"):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))


def test_zeros_warn():
    model = Toy()
    nn.init.zeros_(model.neck.weight)
    with pytest.warns(UserWarning, match=r"weight neck\.weight is zero everywhere"):
        attach(model, SMALL, torch.randn(2, 3, 8, 8))
    assert int(blocks(model)["neck.weight"].exponent) == 0
    with pytest.warns(UserWarning, match="activation relu is zero everywhere"):
        calibrate(attach(Gain(), SMALL, torch.ones(2, 2)), [-torch.ones(2, 2)])
    model = Toy()
    with warnings.catch_warnings():  # a warning made an error leaves nothing behind either
        warnings.simplefilter("error")
        nn.init.zeros_(model.bn1.weight), nn.init.zeros_(model.bn1.bias)
        with untouched(model), pytest.raises(UserWarning):
            attach(model, SMALL, torch.randn(2, 3, 8, 8))


def test_a_scheme_can_be_given_to_one_tensor():
    model = attach(Toy(), SMALL, torch.randn(2, 3, 8, 8))
    block = blocks(model)["conv1.weight"]
    scheme = Scheme(2, int(block.exponent) - 1, True)
    block.fix(scheme)
    assert set(model.conv1.weight.unique().tolist()) <= set(scheme.values)


class Transposed(nn.Module):
    """Two layers with one weight that stores its inputs first."""

    def __init__(self):
        super().__init__()
        self.first = nn.ConvTranspose2d(4, 4, 3, padding=1)
        self.second = nn.ConvTranspose2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x))).mean((2, 3))


def test_a_pass_has_one_set_of_samples_whatever_the_layout_of_a_weight():
    """What the two layers read in one pass is the same; the next pass reads something else."""
    model = attach(Transposed(), torch.randn(4, 4, 8, 8)).train()
    for block in blocks(model).values():
        nn.init.zeros_(block.logits)
    (weight,) = blocks(model, "weight").values()
    seen = []
    hook = weight.register_forward_hook(lambda *call: seen.append(call[-1].detach().clone()))
    x = torch.randn(4, 4, 8, 8)
    first, second = model(x), model(x)
    hook.remove()
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2]) and not torch.equal(first, second)
