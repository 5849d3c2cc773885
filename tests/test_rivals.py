"""Rival ways to choose bits, against brute force; the landscape, against the network run from its beginning."""

import itertools
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hmq_lab import SearchSpace, attach, budget
from hmq_lab.placement import blocks
from hmq_lab.rivals.landscape import Landscape, best_schemes
from hmq_lab.rivals.methods import alone, exhaustive, greedy, integer_programme, uniform

SPACE = SearchSpace((2, 4, 8), thresholds=4)


@st.composite
def problems(draw, tensors=4, lowest=0.0):
    """(sizes, costs, target): random costs per tensor and bit-width, and a target that can be reached."""
    names = [f"t{i}" for i in range(draw(st.integers(1, tensors)))]
    sizes = {name: draw(st.integers(1, 5000)) for name in names}
    cost = st.floats(lowest, 1.0, allow_nan=False, width=32)
    costs = {name: {b: draw(cost) for b in SPACE.bits} for name in names}
    return sizes, costs, draw(st.floats(1.0, 16.0))


def total(costs, bits):
    return sum(costs[name][b] for name, b in bits.items())


def reach(sizes, target):
    """Every assignment that reaches the target, in exact integers but for the one division."""
    for combination in itertools.product(SPACE.bits, repeat=len(sizes)):
        used = sum(b * n for b, n in zip(combination, sizes.values(), strict=True))
        if 32 * sum(sizes.values()) / used >= target:
            yield dict(zip(sizes, combination, strict=True))


@given(problems(lowest=-1.0))
@settings(max_examples=60)
def test_the_integer_programme_finds_the_cheapest_assignment_there_is(problem):
    sizes, costs, target = problem
    found = integer_programme(costs, sizes, target)
    assert budget.compression(found, sizes) >= target
    cheapest = min(total(costs, bits) for bits in reach(sizes, target))
    assert total(costs, found) == pytest.approx(cheapest, abs=1e-6)


@given(problems(tensors=3))
@settings(max_examples=40)
def test_the_integer_programme_does_not_depend_on_the_unit_of_the_costs(problem):
    sizes, costs, target = problem
    tiny = {name: {b: 1e-12 * cost for b, cost in row.items()} for name, row in costs.items()}
    found = integer_programme(tiny, sizes, target)
    assert total(costs, found) == pytest.approx(
        min(total(costs, bits) for bits in reach(sizes, target)), abs=1e-6
    )


def test_the_integer_programme_keeps_to_the_last_bit_of_a_large_budget():
    sizes = {f"t{i}": 1_000_003 + i for i in range(12)}
    costs = {name: {2: 1.0 + i / 100, 4: 0.3, 8: 0.0} for i, name in enumerate(sizes)}
    for target in (4.0, 5.3, 8.0, 15.99, 16.0):
        assert budget.compression(integer_programme(costs, sizes, target), sizes) >= target


@given(problems())
@settings(max_examples=40)
def test_exhaustive_finds_what_reaches_the_target_and_nothing_else(problem):
    sizes, costs, target = problem
    found = exhaustive(lambda bits: total(costs, bits), sizes, SPACE, target)
    wanted = list(reach(sizes, target))
    assert sorted(tuple(bits.values()) for _, bits in found) == sorted(
        tuple(bits.values()) for bits in wanted
    )
    losses = [loss for loss, _ in found]
    assert losses == sorted(losses)
    assert all(loss == total(costs, bits) for loss, bits in found)


@given(problems())
@settings(max_examples=40)
def test_greedy_takes_the_cheapest_change_per_bit_each_time(problem):
    """Step by step against NumPy: the price of every (tensor, lower bit-width) in one table."""
    sizes, costs, target = problem
    names, n, widths = list(sizes), np.array(list(sizes.values())), np.array(SPACE.bits)
    table = np.array([[costs[name][b] for b in SPACE.bits] for name in names])
    at = np.full(len(names), 2)
    while 32 * n.sum() / (widths[at] * n).sum() < target:
        with np.errstate(divide="ignore", invalid="ignore"):
            price = (table - table[np.arange(len(n)), at][:, None]) / (
                (widths[at][:, None] - widths) * n[:, None]
            )
        price[widths >= widths[at][:, None]] = np.inf
        best = price.min()
        tied = np.argwhere(np.isclose(price, best, rtol=1e-9, atol=1e-12))
        if len(tied) > 1:
            return  # which of two as good is taken depends on the last digit of a sum
        at[tied[0][0]] = tied[0][1]
    assert greedy(lambda bits: total(costs, bits), sizes, SPACE, target) == dict(
        zip(names, widths[at], strict=True)
    )


def test_greedy_can_miss_the_best_choice():
    """After the first change 11 bits are missing; greedy saves 200 of them, where 40 at half the cost would do."""
    sizes, costs = (
        {"a": 10, "b": 100},
        {"a": {2: 0.8, 4: 0.5, 8: 0.0}, "b": {2: 1.0, 4: 0.1, 8: 0.0}},
    )

    def loss(bits):
        return total(costs, bits)

    assert greedy(loss, sizes, SPACE, 7.5) == {"a": 8, "b": 2}
    assert exhaustive(loss, sizes, SPACE, 7.5)[0] == (0.6, {"a": 4, "b": 4})
    assert integer_programme(costs, sizes, 7.5) == {"a": 4, "b": 4}


@pytest.mark.parametrize("target, bits", [(1, 8), (4, 8), (4.01, 4), (8, 4), (8.01, 2), (16, 2)])
def test_uniform_has_the_most_bits_that_reach_the_target(target, bits):
    assert uniform({"a": 3, "b": 5}, SPACE, target) == {"a": bits, "b": bits}


def test_alone_moves_one_tensor_at_a_time():
    asked = []

    def loss(bits):
        asked.append(tuple(bits.values()))
        return bits["a"] * 10 + bits["b"]

    assert alone(loss, {"a": 1, "b": 1}, SPACE) == {
        "a": {2: -60, 4: -40, 8: 0},
        "b": {2: -6, 4: -4, 8: 0},
    }
    assert all(8 in bits for bits in asked)


@pytest.mark.parametrize("choose", [
    lambda target: uniform({"a": 1}, SPACE, target),
    lambda target: greedy(lambda bits: 0.0, {"a": 1}, SPACE, target),
    lambda target: exhaustive(lambda bits: 0.0, {"a": 1}, SPACE, target),
    lambda target: integer_programme({"a": {2: 0.0, 4: 0.0}}, {"a": 1}, target),
])  # fmt: skip
def test_a_target_out_of_reach_is_refused(choose):
    with pytest.raises(ValueError, match=r"of 17 cannot be reached.*the largest is 16"):
        choose(17)


def test_bad_costs_and_spaces_are_refused():
    with pytest.raises(ValueError, match="costs are needed for a, b, got them for a"):
        integer_programme({"a": {2: 0.0}}, {"a": 1, "b": 1}, 1)
    with pytest.raises(ValueError, match="got nan for a at 4 bits"):
        integer_programme({"a": {2: 0.0, 4: float("nan")}}, {"a": 1}, 1)
    with pytest.raises(TypeError, match="SearchSpace"):
        uniform({"a": 1}, (2, 4), 8)


def test_scipy_is_loaded_by_the_integer_programme_alone():
    import subprocess

    code = "import sys, hmq_lab.rivals, hmq_lab.rivals.landscape; assert not {'scipy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The landscape


class Net(nn.Module):
    """A shortcut with a weight of its own and an addition in place: what a careless cache gets wrong."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.side, self.relu, self.fc = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.a(x))
        y = self.b(x)
        y = y.add_(self.side(x))
        return self.fc(self.relu(y).mean((2, 3)))


@pytest.fixture
def attached(generator):
    x, y = torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6) % 3
    return attach(Net(), SPACE, x, generator=generator), x, y


def test_the_landscape_is_the_loss_of_the_network_with_these_schemes(attached):
    model, x, y = attached
    loss, found = Landscape(model, x, y), blocks(model, "weight")
    model.eval()
    order = torch.randperm(81, generator=torch.Generator().manual_seed(3)).tolist()
    choices = list(itertools.product(SPACE.bits, repeat=4))
    losses = set()
    for index in [*range(12), *order[:40]]:  # in the order of an enumeration, then in any
        bits = dict(zip(found, choices[index], strict=True))
        for name, block in found.items():
            block.fix(loss.schemes[name][bits[name]])
        with torch.no_grad():
            scores = model(x)
        assert torch.equal(loss.scores(bits), scores)
        assert loss(bits) == F.cross_entropy(scores, y).item()
        assert loss.accuracy(bits) == pytest.approx(
            100 * (scores.argmax(1) == y).double().mean().item()
        )
        losses.add(loss(bits))
    assert len(losses) > 30


def test_the_landscape_leaves_the_network_alone(attached):
    model, x, y = attached
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Landscape(model, x, y)(dict.fromkeys(blocks(model, "weight"), 2))
    assert model.training and not any(block.is_fixed for block in blocks(model).values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def computed_layers(monkeypatch) -> list[str]:
    """The layers that a landscape computes from now on, in order."""
    calls, run_node = [], torch.fx.Interpreter.run_node

    def remember(self, node):
        if node.meta["kind"] == "linear":
            calls.append(node.meta["name"])
        return run_node(self, node)

    monkeypatch.setattr(torch.fx.Interpreter, "run_node", remember)
    return calls


def test_only_what_lies_behind_a_change_is_computed(attached, monkeypatch):
    model, x, y = attached
    loss = Landscape(model, x, y)
    calls = computed_layers(monkeypatch)
    bits = dict.fromkeys(blocks(model, "weight"), 8)
    loss(bits)
    assert calls == ["a", "b", "side", "fc"]
    calls.clear()
    loss(bits | {"fc.weight": 2})
    assert calls == ["fc"]
    calls.clear()
    loss(bits | {"fc.weight": 2, "side.weight": 4})
    assert calls == ["side", "fc"]


def test_best_schemes_have_the_least_squared_error(attached):
    model, _, _ = attached
    for name, block in blocks(model, "weight").items():
        module = model.get_submodule(name.removesuffix(".weight"))
        w = module.parametrizations.weight.original.detach().double().numpy()
        best = best_schemes(block, module.parametrizations.weight.original)
        errors = Landscape(model, *attached[1:]).errors[name]
        for bits in SPACE.bits:
            tried = {}
            for exponent in range(int(block.exponent) - 3, int(block.exponent) + 1):
                step = 2.0 ** (exponent - bits + 1)
                q = np.clip(np.round(w / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
                tried[exponent] = ((q - w) ** 2).sum()
            assert tried[best[bits].threshold_exponent] == min(tried.values())
            assert errors[bits] == pytest.approx(min(tried.values()), rel=1e-9)


def test_a_landscape_asks_for_every_tensor_and_for_bits_it_has(attached):
    model, x, y = attached
    loss = Landscape(model, x, y)
    with pytest.raises(ValueError, match=r"bits of b.weight must be among \(2, 4, 8\), got 3"):
        loss({"a.weight": 2, "b.weight": 3, "side.weight": 2, "fc.weight": 2})
    with pytest.raises(ValueError, match=r"bits of a.weight must be among .* got None"):
        loss({})
