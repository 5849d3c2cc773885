"""The explorer of placements says what attach does, and shows the values that the network has."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import SearchSpace, attach, explorers
from hmq_lab import placements as listed


class Small(nn.Module):
    """A residual sum, a shared weight, a head that runs in training alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 1, bias=False)
        self.twice = nn.Conv2d(4, 4, 1, bias=False)
        self.twice.weight = self.again.weight
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = x + self.twice(self.again(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def sample():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def explorer(network, sample):
    return explorers.placements(network, sample)


def test_the_map_is_what_attach_says(network, sample, explorer):
    for hardware in (False, True):
        attached = attach(copy.deepcopy(network), SearchSpace(), sample, hardware=hardware)
        wanted = [p for p in listed(attached) if p.kind != "shared"]
        explorer.set(show="all", hardware=hardware)
        assert list(explorer.result.shown) == wanted
        tests = {
            "quantized": lambda p: p.quantized,
            "float": lambda p: not p.quantized,
            "weights": lambda p: p.kind == "weight",
            "activations": lambda p: p.kind == "activation",
        }
        for name, test in tests.items():
            explorer.set(show=name)
            assert list(explorer.result.shown) == [p for p in wanted if test(p)]
            drawn = sum(len(explorer.artists[group].get_xdata()) for group in
                        ("quantized weight", "quantized activation", "float"))  # fmt: skip
            assert drawn == len(explorer.result.shown)
            heights = np.concatenate([explorer.artists[group].get_ydata() for group in
                                      ("quantized weight", "quantized activation", "float")])  # fmt: skip
            assert sorted(heights) == sorted(max(p.size, 1) for p in explorer.result.shown)
    explorer.set(show="all", hardware=False)
    assert not hasattr(network, "hmq")  # the reader's network is as it was


def test_values_are_those_of_the_float_network(network, sample, explorer):
    with torch.no_grad():
        relu = F.relu(network.norm(network.conv(sample)))
    for name, wanted in (
        ("conv.weight", network.conv.weight),
        ("relu", relu),
        ("x", sample),
        ("head", network(sample)),
    ):
        explorer.set(show="all", hardware=False, tensor=name)
        found = explorer.result.values
        assert (found.low, found.high) == pytest.approx((wanted.min().item(), wanted.max().item()))
        inside = (wanted.abs() <= found.reach).double().mean().item()
        assert found.shares.sum() == pytest.approx(100 * inside, abs=1e-3)
        counts, _ = np.histogram(wanted.detach().numpy(), 60, (-found.reach, found.reach))
        assert np.abs(found.shares - 100 * counts / wanted.numel()).sum() < 100 * 3 / wanted.numel()
        assert f"from {found.low:.3g} to {found.high:.3g}" in explorer.sentence


def test_the_sentence_counts_and_gives_the_reason(explorer):
    explorer.set(show="all", hardware=False, tensor="conv.weight")
    assert explorer.sentence.startswith(
        "3 weights (132 elements) and 4 activations are quantized, 7 tensors float."
    )
    assert (
        "conv.weight (Conv2d, 4 × 3 × 3 × 3) is quantized, signed: weight of a convolution"
        in explorer.sentence
    )
    assert "81.82% of the quantized weights' elements" in explorer.sentence  # 108 of 132
    assert (
        "thresholds from 2^-1 down to 2^-8" in explorer.sentence
    )  # the largest weight is 0.19: one octave above 2^-2
    explorer.set(tensor="norm.weight")
    assert (
        "norm.weight (BatchNorm2d, 4) is float: norm: float in the paper's method"
        in explorer.sentence
    )
    assert explorer.result.exponents == ()


def test_a_filter_or_mode_that_hides_the_tensor_moves_on(explorer):
    explorer.set(show="all", hardware=False, tensor="norm.weight")
    explorer.controls["show"].value = "weights"
    assert (
        explorer.state.tensor == "conv.weight"
        and explorer.controls["tensor"].value == "conv.weight"
    )
    explorer.controls[
        "tensor"
    ].value = "norm.bias"  # hidden by the filter: a click on it shows all again
    assert explorer.state.show == "all" and explorer.result.place.name == "norm.bias"
    explorer.controls["hardware"].value = True  # batch norm is folded: there is no such tensor
    assert explorer.state.tensor == next(iter(explorer.state.listings[True].places))
    explorer.controls["tensor"].value = "norm.bias"
    assert "tensor norm.bias is not among all in hardware mode" in explorer.view.text.value
    with pytest.raises(ValueError, match=r"tensor conv\.weight is not among float"):
        explorer.set(tensor="conv.weight", show="float")
    with pytest.raises(ValueError, match="show must be one of 'all', 'quantized'"):
        explorer.set(show="everything")
    explorer.set(show="all", hardware=False)


def test_a_network_with_blocks_is_shown_as_it_is(network, sample):
    attached = attach(copy.deepcopy(network), SearchSpace((4, 2), 3), sample)
    explorer = explorers.placements(attached, sample, tensor="conv.weight")
    assert list(explorer.controls) == ["show", "tensor"] and len(explorer.result.exponents) == 3
    assert len(listed(attached)) == len(explorer.result.shown) + 1  # the shared name
    with pytest.raises(ValueError, match="sample must be a batch of input images, got NoneType"):
        explorers.placements(attached)


class Gated(nn.Module):
    """Hardware mode has no rule for its product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        if self.training:
            self.conv.weight.sum()
        y = self.conv(x)
        return self.head((y * torch.sigmoid(y)).mean((2, 3)))


class Deciding(Gated):
    def forward(self, x):
        return self.conv(x if x.mean() > 0 else -x)


def test_what_attach_refuses_is_refused_here(sample):
    with pytest.raises(ValueError, match=r"torch\.export cannot follow Deciding"):
        explorers.placements(Deciding(), sample)
    with pytest.raises(ValueError, match="sample must be a batch"):
        explorers.placements(Gated())
    explorer = explorers.placements(Gated(), sample)
    assert "quantized" in explorer.sentence
    broken = Gated()
    broken.head.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"head\.bias holds NaN or infinite values"):
        explorers.placements(broken, sample)


def test_without_a_network_the_one_of_the_package_is_shown():
    explorer = explorers.placements()
    assert explorer.sentence.startswith(
        "8 weights (18,968 elements) and 7 activations are quantized, 18 tensors float."
    )
