"""Integers against Python's fractions, NumPy's sums and the float64 simulation; what is inexact is refused by name."""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hmq_lab import Scheme, SearchSpace, attach, models
from hmq_lab.hardware.arithmetic import (
    check_int32,
    divide,
    exponent_of,
    integers_of,
    region_sums,
    requantize,
    shift_right,
    window_sums,
)
from hmq_lab.hardware.integer import IntegerNetwork, compare
from hmq_lab.hardware.lowering import unlowered
from hmq_lab.placement import blocks


def select(model, x, seed=0, bits=tuple(range(1, 9)), **options):
    """Hardware mode with random schemes: any bits, the largest thresholds or up to two octaves less."""
    rng = random.Random(seed)
    attach(model.eval(), SearchSpace(), x, hardware=True, **options)
    for name, block in blocks(model).items():
        weight = name in blocks(model, "weight")
        chosen = rng.choice(bits) if weight else block.scheme.bits
        block.fix(
            Scheme(
                chosen,
                int(block.exponent) - rng.choice((0, 1, 2) if weight else (0, 0, 1)),
                block.signed,
            )
        )
    return model


def trained(model, x):
    """Batch norms that know the statistics of these pictures, so that no activation dies on the way."""
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over all batches
    with torch.no_grad():
        model(x)
    return model.eval()


def judge(model, x):
    """Logits of the integer network equal the float64 simulation's, and float32's where float32 is exact."""
    found = compare(model, [(x, torch.zeros(len(x), dtype=torch.int64))])
    assert found["differ_float64"] == 0 and found["largest_difference_float64"] == 0
    assert found["unexplained_float32"] == 0
    return found


# Arithmetic


@given(st.integers(-(2**40), 2**40), st.integers(0, 70))
def test_shifts_round_half_to_even(x, places):
    assert shift_right(torch.tensor(x), places).item() == round(Fraction(x, 2**places))


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**20))
def test_division_rounds_half_to_even(x, divisor):
    assert divide(torch.tensor(x), torch.tensor(divisor)).item() == round(Fraction(x, divisor))


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-40, 40), st.integers(1, 16), st.booleans())
def test_requantizing_saturates(x, places, bits, signed):
    low, high = Scheme(bits, 0, signed).integers
    expected = min(max(round(Fraction(x) / Fraction(2) ** places), low), high)
    assert requantize(torch.tensor(x), places, low, high).item() == expected


def test_steps_and_accumulators():
    assert [exponent_of(2.0**k) for k in (-100, -1, 0, 7)] == [-100, -1, 0, 7]
    for step in (0.3, 3, 0, -0.5, float("inf"), float("nan"), "1"):
        with pytest.raises(ValueError, match="a shift needs a power of two, got"):
            exponent_of(step)
    check_int32(torch.tensor([2**31 - 1, -(2**31) + 1]), "conv")
    with pytest.raises(OverflowError, match="conv: an accumulator reaches 2147483648"):
        check_int32(torch.tensor([2**31]), "conv")


@given(st.integers(1, 9), st.integers(1, 9))
def test_regions_of_adaptive_pooling(size, out):
    out = min(size, out)
    x = torch.randint(-200, 200, (2, 3, size, size + 1))
    sums, count = region_sums(x, lambda t: F.adaptive_avg_pool2d(t, (out, out)))
    for i in range(out):
        for j in range(out):
            rows = slice(i * size // out, -(-(i + 1) * size // out))
            columns = slice(j * (size + 1) // out, -(-(j + 1) * (size + 1) // out))
            part = x[:, :, rows, columns]
            assert (
                torch.equal(sums[:, :, i, j], part.sum((2, 3)))
                and (count[..., i, j] == part[0, 0].numel()).all()
            )


@given(st.integers(2, 4), st.integers(1, 3), st.integers(0, 1), st.booleans(), st.booleans())
def test_windows_of_average_pooling(kernel, stride, padding, ceil_mode, include):
    x = torch.randint(-200, 200, (2, 3, 7, 8))
    options = dict(
        kernel_size=kernel,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=include,
    )
    sums, count = window_sums(x, **options)
    assert torch.allclose(sums.double() / count, F.avg_pool2d(x.double(), **options), atol=1e-12)
    if not padding and not ceil_mode:
        assert (count == kernel**2).all()
        assert sums[0, 0, 0, 0] == x[0, 0, :kernel, :kernel].sum()


# Networks


def test_resnet20_of_one_to_eight_bits():
    x = torch.randn(8, 3, 32, 32)
    for activation_bits in (8, 4):
        model = select(trained(models.build("resnet20"), x), x, activation_bits=activation_bits)
        assert {b.scheme.bits for b in blocks(model, "weight").values()} >= {1, 2, 3, 4, 8}
        x = torch.randn(4, 3, 32, 32)
        judge(model, x)
        codes, _ = IntegerNetwork.from_selected(model)(x)
        assert (
            codes.dtype == torch.int64 and len(codes.unique(dim=0)) == 4
        )  # no two pictures give the same


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenet_v1", 32), ("mobilenet_v2", 32), ("cifar_resnet18", 16)]
)
def test_larger_networks(name, size):
    x = torch.randn(4, 3, size, size)
    model = select(trained(models.build(name), x), x, bits=(4, 5, 6, 7, 8))
    judge(model, x[:2])
    codes, _ = IntegerNetwork.from_selected(model)(x[:2])
    assert not torch.equal(codes[0], codes[1])


def test_the_trace_is_what_numpy_computes():
    """A convolution, ReLU, shift and a residual sum written out with NumPy integers."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x):
            y = self.relu(self.stem(x))
            return self.relu(self.conv(y) + y).mean((2, 3))

    x = torch.randn(3, 3, 5, 5)
    model = select(Block(), x, bits=(3, 5))
    found, schemes = (
        IntegerNetwork.from_selected(model).trace(x),
        {n: b.scheme for n, b in blocks(model).items()},
    )
    codes = {name: values.numpy() for name, (values, _) in found.items()}

    def weight(name):
        q = np.rint(
            model.get_submodule(name).weight.detach().double().numpy()
            / schemes[f"{name}.weight"].step
        )
        return q.astype(np.int64)[:, :, 0, 0]

    def bias(name, exponent):
        return np.rint(
            model.get_submodule(name).bias.detach().double().numpy() * 2.0**-exponent
        ).astype(np.int64)

    def shifted(values, scheme, exponent):
        quotient = np.rint(values * 2.0 ** (exponent - scheme.step_exponent)).astype(
            np.int64
        )  # half to even
        return quotient.clip(*scheme.integers)

    exponent = schemes["stem.weight"].step_exponent + schemes["x"].step_exponent
    stem = (
        np.einsum("oi,nihw->nohw", weight("stem"), codes["x"])
        + bias("stem", exponent)[:, None, None]
    )
    assert np.array_equal(stem, codes["stem"]) and found["stem"][1] == exponent
    assert np.array_equal(shifted(np.maximum(stem, 0), schemes["relu"], exponent), codes["relu"])

    exponent = schemes["conv.weight"].step_exponent + schemes["relu"].step_exponent
    conv = (
        np.einsum("oi,nihw->nohw", weight("conv"), codes["relu"])
        + bias("conv", exponent)[:, None, None]
    )
    common = min(exponent, schemes["relu"].step_exponent)
    added = (conv << exponent - common) + (codes["relu"] << schemes["relu"].step_exponent - common)
    assert np.array_equal(added, codes["add"])
    assert np.array_equal(shifted(np.maximum(added, 0), schemes["relu:2"], common), codes["relu:2"])
    assert found["x"][0].abs().max() <= 128 and "shift right" in str(
        IntegerNetwork.from_selected(model)
    )


class Drawn(nn.Module):
    """A network of drawn parts: convolutions of all sorts, residuals, pools, concatenation, a linear end."""

    def __init__(self, parts, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.parts, self.layers, channels = parts, nn.ModuleList(), 4
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        for kind, a, b, c in parts:
            if kind == "conv":
                groups = (1, 2, 4)[a]
                layer = nn.Conv2d(channels, 4, (1, 3, (3, 1))[b], stride=1 + (c == 2), padding=c, dilation=1 + (a == 1),
                                  groups=groups, bias=b != 1)  # fmt: skip
                layer = nn.Sequential(
                    layer, nn.BatchNorm2d(4), (nn.ReLU(), nn.ReLU6(), nn.Identity())[c]
                )
            elif kind == "residual":
                layer = nn.Conv2d(4, 4, 3, padding=1, groups=(1, 2, 4)[a])
            elif kind == "pool":
                layer = (nn.MaxPool2d(2 + a, 1 + b, padding=1), nn.AvgPool2d(2 + a, 1 + b, padding=1, ceil_mode=b == 1),
                         nn.AdaptiveAvgPool2d(2 + b))[c]  # fmt: skip
            else:
                layer = nn.Conv2d(4, 2, 1)
            self.layers.append(layer)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for (kind, a, _, c), layer in zip(self.parts, self.layers, strict=True):
            if kind == "residual":
                y = layer(x)
                x = F.relu(y + x) if a else (x - y if c else y + x)
            elif kind == "concatenate":
                y = layer(x)
                x = torch.cat([y, F.hardtanh(y, -0.5, 0.5) * 0.5], 1)
            else:
                x = layer(x)
        return self.head(x.mean((2, 3)))


part = st.tuples(
    st.sampled_from(["conv", "residual", "pool", "concatenate"]), *[st.integers(0, 2)] * 3
)


@settings(max_examples=15)
@given(st.lists(part, max_size=4), st.integers(0, 1000), st.sampled_from([8, 5, 4, 2]))
@pytest.mark.filterwarnings("ignore:.*is zero everywhere")
def test_random_networks(parts, seed, activation_bits):
    try:
        model = Drawn(parts, seed)
        x = torch.randn(3, 3, 9, 8)
        trained(model, x)
    except RuntimeError:  # a drawn window that does not fit
        return
    select(model, x, seed, activation_bits=activation_bits)
    try:
        IntegerNetwork.from_selected(model)
    except ValueError as error:
        assert (
            "no multiple of" in str(error) or "beyond int32" in str(error) or "apart" in str(error)
        ), str(error)
        return
    judge(model, x)


class Constants(nn.Module):
    """A convolution, a sum with a constant, a convolution, a mean."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.shift = nn.Parameter(torch.randn(4))
        self.register_buffer("whole", torch.tensor([0.5, -1.0, 0.0, 3.0]).view(4, 1, 1))
        self.function = function

    def forward(self, x):
        return self.out(self.function(self, self.conv(x))).mean((2, 3))


CONSTANTS = {
    "zero added": lambda m, x: F.relu(x + 0),
    "a sum that starts at zero": lambda m, x: F.relu(sum([x, F.relu(x)])),
    "a number": lambda m, x: F.relu(x + 1.0) - 0.25,
    "from a number": lambda m, x: F.relu(2 - x),
    "a buffer": lambda m, x: F.relu(x + m.whole),
    "from a buffer": lambda m, x: F.relu(m.whole - x),
    "computed from a buffer": lambda m, x: F.relu(x) + (m.whole * 2).clamp(max=4),
    "one element": lambda m, x: F.relu(x) * (m.whole[:1] * 4),
    "a bias by hand": lambda m, x: F.relu(x + m.shift.view(1, 4, 1, 1)),
    "concatenated": lambda m, x: torch.cat([F.relu(x)[:, 1:], 0 * m.whole[None, :1] + x[:, :1]], 1),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_have_integers(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from hmq_lab.hardware.onnx_export import export, session

    torch.manual_seed(2)
    x = torch.randn(3, 3, 6, 6)
    model = select(Constants(CONSTANTS[name]), x, bits=(6, 7, 8))
    judge(model, x)
    wanted = model(x).detach()
    assert len(wanted.unique(dim=0)) == 3
    export(model, tmp_path / "model.onnx")
    (found,) = session(tmp_path / "model.onnx", optimized=False).run(["logits"], {"x": x.numpy()})
    assert onnxruntime and torch.equal(torch.tensor(found), wanted)


@pytest.mark.parametrize(
    "values", [[0.5, -3.0], [0.0, 0.0], [1e-30, 2e-30], [0.1], [3 * 2.0**40, 2.0**41]]
)
def test_the_integers_of_a_constant(values):
    integers, exponent = integers_of(torch.tensor(values, dtype=torch.float64))
    exact = [Fraction(value) for value in values]
    if max(abs(value) / Fraction(2) ** exponent for value in exact) < 2**62:
        found = [Fraction(n) * Fraction(2) ** exponent for n in integers.tolist()]
        assert found == exact
    # A coarser step does not hold all of them.
    assert not any(exact) or any(n % 2 for n in integers.tolist())


# Refusals


class Through(nn.Module):
    """A convolution, an operation, a mean."""

    def __init__(self, operation):
        super().__init__()
        self.conv, self.operation, self.out = nn.Conv2d(3, 4, 1), operation, nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.out(self.operation(self.conv(x))).mean((2, 3))


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (nn.SiLU(), "operation: SiLU has no rule on integers"),
        (
            nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
            "operation.1: a batch norm or another norm that is not folded",
        ),
        (nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 4, 1)), "ConvTranspose2d has no rule"),
        (
            Apply(lambda m, x: F.relu(x) * F.relu(x).mean((2, 3), keepdim=True)),
            "a product of two tensors",
        ),
        (Apply(lambda m, x: F.relu(x) * 0.3), "a shift needs a power of two, got 0.3"),
        (Apply(lambda m, x: F.relu(x) + 0.3), "its terms' exponents lie .* apart, beyond int32"),
        (Apply(lambda m, x: F.relu(x) + torch.rand(4, 1, 1)), "at random, has no integers"),
        (Apply(lambda m, x: F.relu(x) * m.gain), "has no rule on integers"),
        (Apply(lambda m, x: F.pad(F.relu(x), (1, 1), value=0.5)), "padding with 0.5"),
        (Apply(lambda m, x: x.clamp(-0.3, 0.3)), "it cuts at -0.3, a multiple of no power"),
        (Apply(lambda m, x: torch.add(F.relu(x), x, alpha=2)), "a sum with alpha"),
    ],
)
def test_refused_by_name(operation, says):
    model = select(Through(operation), torch.randn(2, 3, 6, 6))
    with pytest.raises(ValueError, match=says):
        IntegerNetwork.from_selected(model)


def test_reflected_padding_is_exact():
    reflected = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    model = select(Through(reflected), x := torch.randn(2, 3, 6, 6))
    judge(model, x)


def test_powers_of_two_are_not_refused():
    judge(
        select(Through(Apply(lambda m, x: F.relu(x) * 0.25 / 2)), x := torch.randn(2, 3, 6, 6)), x
    )


def test_refused_unselected_default_mode_and_unrounded():
    x = torch.randn(2, 3, 32, 32)
    model = trained(models.build("tiny_resnet8"), x)
    with pytest.raises(ValueError, match="has no HMQ blocks"):
        IntegerNetwork.from_selected(model)
    attach(model, SearchSpace(), x, hardware=True)
    with pytest.raises(ValueError, match=r"conv1.weight has no selected scheme yet"):
        IntegerNetwork.from_selected(model)

    model = attach(trained(models.build("tiny_resnet8"), x), SearchSpace(), x)
    for block in blocks(model).values():
        block.fix()
    with pytest.raises(ValueError, match=r"^x: the input image is float: hardware mode"):
        IntegerNetwork.from_selected(model)

    model = select(trained(models.build("tiny_resnet8"), x), x)
    nn.utils.parametrize.remove_parametrizations(model.linear, "bias", leave_parametrized=False)
    with torch.no_grad():
        model.linear.bias.add_(1e-6)
    with pytest.raises(
        ValueError, match="linear: its bias is no multiple of the accumulator's step"
    ):
        IntegerNetwork.from_selected(model)


def test_refused_beyond_int32():
    x = torch.randn(2, 2**17)
    model = nn.Sequential(nn.Linear(2**17, 16), nn.ReLU(), nn.Linear(16, 2))
    attach(model, SearchSpace((16,), 2), x, hardware=True)
    for block in blocks(model).values():
        block.fix()
    with pytest.raises(ValueError, match=r"0: its integers may reach \d+, beyond int32"):
        IntegerNetwork.from_selected(model)


def test_float32_is_counted_where_it_is_not_exact():
    """16-bit weights, 8-bit activations, 1000 inputs: beyond 2^24, where float32 rounds."""
    x = torch.rand(4, 1000) * 4
    model = nn.Sequential(nn.Linear(1000, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.uniform_(-1, 1)
    attach(model, SearchSpace((16,), 1), x, hardware=True)
    for block in blocks(model).values():
        block.fix()
    found = judge(model, x)
    assert found["sums_beyond_2_24"] > 0 and found["images_beyond_2_24"] == 4
    network = IntegerNetwork.from_selected(model)
    codes = network.trace(x)["input"][0].numpy().astype(object)
    weight = np.rint(
        model[0].weight.detach().double().numpy() / blocks(model)["0.weight"].scheme.step
    )
    weight = weight.astype(np.int64).astype(object)
    sums = codes @ weight.T
    assert max(abs(int(s)) for s in sums.ravel()) < 2**31
    magnitude = abs(codes) @ abs(weight).T
    exponent = (
        blocks(model)["0.weight"].scheme.step_exponent + blocks(model)["input"].scheme.step_exponent
    )
    bias = (model[0].bias.detach().double() * 2.0**-exponent).abs().long().numpy().astype(object)
    assert network.beyond_float32(x).sum() >= sum(
        int(m) > 2**24 for m in (magnitude + bias).ravel()
    )


def test_a_comparison_without_pictures():
    model = select(nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)), torch.randn(3, 4))
    with pytest.raises(ValueError, match="no images"):
        compare(model, [])


def test_who_stops_in_the_middle_may_train_afterwards():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    model = select(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), x)
    with torch.no_grad():
        running = IntegerNetwork.from_selected(model).run(x)
        next(running)
        next(running)
    running.close()
    assert torch.is_grad_enabled()


class _Then(nn.Module):
    """A convolution, and then a function of its output."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x):
        return self.function(torch.relu(self.conv(x)))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: x * 0.3, "a shift needs a power of two, got 0.3"),
        (lambda x: x / 3, "a shift needs a power of two, got 0.333333"),
        (lambda x: x.clamp(-0.3, 0.3), "it cuts at -0.3, a multiple of no power of two"),
        (lambda x: x * 0.25, None),
        (lambda x: x.clamp(0, 6), None),
    ],
)
def test_what_no_scheme_could_change_is_told_before_the_search(function, told):
    said = unlowered(attach(_Then(function), torch.randn(2, 3, 8, 8), hardware=True))
    assert said is None if told is None else told in said
