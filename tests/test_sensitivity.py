"""What a bit costs, measured in five ways: each against full passes, formulas, or exact derivatives."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import SearchSpace, attach
from hmq_lab.network import blocks, calibrate
from hmq_lab.rivals import sensitivity
from hmq_lab.rivals.landscape import Landscape, original

SPACE = SearchSpace((1, 2, 4, 8), 4)
NAMES = ("1.weight", "3.weight")


@pytest.fixture(scope="module")
def landscape():
    """Two fully connected layers, an activation of 8 bits between them, in double precision."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 2, 2, 2).double(), torch.arange(40) % 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3)).double()
    model = attach(network, space=SPACE, sample=x)
    calibrate(model, [x])
    for block in blocks(model, "activation").values():
        block.fix()
    return Landscape(model, x, y)


def full_pass(landscape, choice):
    """The loss of a whole forward pass; choice: {weight: bits, or None for float}."""
    model = copy.deepcopy(landscape.model)
    for name, block in blocks(model, "weight").items():
        block.enabled = choice[name] is not None
        if block.enabled:
            block.fix(landscape.schemes[name][choice[name]])
    with torch.no_grad():
        return F.cross_entropy(model(landscape.x), landscape.y).item()


def test_round_off_is_the_relative_squared_error(landscape):
    found = sensitivity.round_off(landscape)
    for name in NAMES:
        w = original(landscape.model, name).detach().numpy()
        for bits in SPACE.bits:
            exponent = landscape.schemes[name][bits].threshold_exponent
            step = 2.0 ** (exponent - bits + 1)
            q = np.clip(np.round(w / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
            assert found[name][bits] == pytest.approx(((q - w) ** 2).sum() / (w**2).sum(), rel=1e-9)


def test_alone_on_is_the_rise_of_one_quantized_weight(landscape):
    found = sensitivity.alone_on(landscape)
    floats = dict.fromkeys(NAMES)
    base = full_pass(landscape, floats)
    for name in NAMES:
        for bits in SPACE.bits:
            rise = full_pass(landscape, floats | {name: bits}) - base
            assert found[name][bits] == pytest.approx(rise, abs=1e-12)


@pytest.mark.parametrize("others", [2, 8])
def test_alone_off_is_the_fall_of_one_float_weight(landscape, others):
    found = sensitivity.alone_off(landscape, others)
    same = dict.fromkeys(NAMES, others)
    for name in NAMES:
        left_float = full_pass(landscape, same | {name: None})
        for bits in SPACE.bits:
            fall = full_pass(landscape, same | {name: bits}) - left_float
            assert found[name][bits] == pytest.approx(fall, abs=1e-12)


def test_the_gradient_score_is_the_slope_towards_the_quantized_weight(landscape):
    """The last layer, against finite differences along the change."""
    found = sensitivity.gradient(landscape)["3.weight"]
    model = copy.deepcopy(landscape.model)
    for block in blocks(model, "weight").values():
        block.enabled = False
    weight = original(model, "3.weight").data
    start = weight.clone()
    for bits in SPACE.bits:
        direction = sensitivity.change(start, landscape.schemes["3.weight"][bits])
        sides = []
        for t in (1e-5, -1e-5):
            weight.copy_(start + t * direction)
            with torch.no_grad():
                sides.append(F.cross_entropy(model(landscape.x), landscape.y).item())
        slope = (sides[0] - sides[1]) / 2e-5
        assert found[bits] == pytest.approx(abs(slope), rel=1e-5)
        assert found[bits] >= 0


def exact_traces(landscape):
    """The trace of each weight's own Hessian, from the whole matrix of second derivatives."""
    x, y = landscape.x.flatten(1), landscape.y
    first, second = landscape.model[1], landscape.model[3]
    weights = [original(landscape.model, name).detach() for name in NAMES]
    traces = {}
    for place, name in enumerate(NAMES):

        def loss(weight, place=place):
            both = [*weights[:place], weight, *weights[place + 1 :]]
            hidden = torch.sigmoid(F.linear(x, both[0], first.bias))
            return F.cross_entropy(F.linear(hidden, both[1], second.bias), y)

        size = weights[place].numel()
        matrix = torch.autograd.functional.hessian(loss, weights[place]).reshape(size, size)
        traces[name] = matrix.trace().item()
    return traces


def test_traces_are_those_of_the_whole_hessian(landscape):
    exact = exact_traces(landscape)
    found = sensitivity.traces(landscape, probes=2000)
    for name in NAMES:
        assert found[name] == pytest.approx(exact[name], rel=0.1), name
    assert sensitivity.traces(landscape, 5, seed=1) == sensitivity.traces(landscape, 5, seed=1)
    assert sensitivity.traces(landscape, 5, seed=1) != sensitivity.traces(landscape, 5, seed=2)


def test_the_hessian_cost_is_mean_curvature_times_error(landscape):
    traces = sensitivity.traces(landscape, 16)
    found = sensitivity.hessian(landscape, 16)
    for name in NAMES:
        size = original(landscape.model, name).numel()
        for bits, error in landscape.errors[name].items():
            expected = max(traces[name], 0) / size * error
            assert found[name][bits] == pytest.approx(expected, rel=1e-9)


def test_measures_leave_the_network_as_it_was(landscape):
    before = {key: value.clone() for key, value in landscape.model.state_dict().items()}
    float_loss = full_pass(landscape, dict.fromkeys(NAMES))
    for measure in (sensitivity.hessian, sensitivity.gradient, sensitivity.alone_on):
        measure(landscape)
        assert all(b.enabled for b in blocks(landscape.model, "activation").values())
    # Schemes are those of the last call; all else is as before.
    after = landscape.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if "fixed" not in key)
    assert full_pass(landscape, dict.fromkeys(NAMES)) == float_loss
    assert all(p.grad is None for p in landscape.model.parameters())


@pytest.mark.parametrize("probes", [0, -1, 2.0, True])
def test_probes_are_counted(landscape, probes):
    with pytest.raises(ValueError, match="probes must be a whole number from 1 on"):
        sensitivity.traces(landscape, probes)
