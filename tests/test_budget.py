"""Sizes and rates against sums by hand; the hinge; the repair against brute force."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hmq_lab import models
from hmq_lab.block import SearchSpace
from hmq_lab.budget import (
    Target,
    activation_bits,
    activation_sizes,
    compression,
    expected_compression,
    hinge,
    original,
    rates,
    repair,
    schemes,
    weight_bits,
    weight_sizes,
)
from hmq_lab.placement import attach, blocks, detach, placements, set_activation_bits

SPACE = SearchSpace((2, 4, 8), 3)


class Tiny(nn.Module):
    """164 quantized weights, 6 float ones, 17 other parameters, 9 buffers."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = (
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
        )  # 108; 8 and 9 buffers
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)  # 36 and 4
        self.relu, self.linear = nn.ReLU(), nn.Linear(4, 5)  # 20 and 5
        self.table = nn.Parameter(torch.randn(2, 3))  # 6

    def forward(self, x):  # (B, 3, 8, 8)
        x = self.relu(self.bn(self.conv(x)))  # (B, 4, 8, 8)
        x = self.relu(self.depthwise(x))  # (B, 4, 6, 6)
        return self.linear(x.mean((2, 3))) + self.table.sum()


def tiny(**options):
    return attach(Tiny(), SPACE, torch.randn(2, 3, 8, 8), **options)


def choose(model, bits):
    """Put all mass of each weight's table on one bit-width."""
    for name, block in blocks(model, "weight").items():
        with torch.no_grad():
            block.logits.fill_(-30)
            block.logits[block.space.bits.index(bits[name]), 1] = 30


def spread(model, seed=0, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    for block in blocks(model).values():
        with torch.no_grad():
            block.logits.copy_(torch.randn(block.logits.shape, generator=g) * scale)
    return model


CHOICE = {"conv.weight": 2, "depthwise.weight": 4, "linear.weight": 8}
PACKED = 108 * 2 + 36 * 4 + 20 * 8


# ------------------------------------------------------------------------------------- rates


def test_sizes():
    model = tiny()
    assert weight_sizes(model) == {"conv.weight": 108, "depthwise.weight": 36, "linear.weight": 20}
    assert activation_sizes(model) == {"relu": 4 * 8 * 8, "relu:2": 4 * 6 * 6}
    for name, size in weight_sizes(model).items():
        assert size == model.get_submodule(name.removesuffix(".weight")).weight.numel()


def test_rates_three_ways():
    model = tiny()
    set_activation_bits(model, {"relu": 4, "relu:2": 8})
    choose(model, CHOICE)
    found = rates(model)
    # by hand
    rest = 32 * (8 + 4 + 5 + 6) + 32 * 8 + 64
    assert found.weights == 32 * 164 / PACKED
    assert found.all_weights == 32 * 170 / (PACKED + 32 * 6)
    assert found.checkpoint == (32 * 164 + rest) / (PACKED + rest)
    assert found.activations == 32 * 256 / max(
        4 * 256, 8 * 144
    )  # the largest float one over the largest quantized
    # from what is in the placements and the blocks
    bits = {p.name: s.bits for p, s in schemes(model)}
    quantized = [p for p in placements(model) if p.kind == "weight"]
    assert found.weights == pytest.approx(
        32 * sum(p.size for p in quantized) / sum(bits[p.name] * p.size for p in quantized)
    )
    assert found.weights == compression(weight_bits(model), weight_sizes(model))
    assert found.weights == pytest.approx(expected_compression(model).item(), rel=1e-6)
    # from the tensors themselves
    whole = sum(v.numel() * v.element_size() * 8 for v in detach(model).state_dict().values())
    assert found.checkpoint == whole / (whole - 32 * 164 + PACKED)


def test_everything_is_at_eight_bits_before_a_search():
    for model in (
        tiny(),
        attach(models.build("tiny_resnet8"), SearchSpace(), torch.randn(2, 3, 32, 32)),
    ):
        found = rates(model)
        assert found.weights == 4.0 == found.activations
        assert 1 < found.checkpoint < found.all_weights <= 4.0


def test_a_lone_layer():
    model = attach(nn.Linear(3, 4), SPACE, torch.randn(2, 3))
    assert rates(model).weights == rates(model).all_weights == 4.0
    assert rates(model).checkpoint == (32 * 16) / (8 * 12 + 32 * 4)


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 10**6)), min_size=1, max_size=8))
def test_rate_is_thirty_two_over_the_mean_bits(tensors):
    bits, sizes = ({str(i): t[k] for i, t in enumerate(tensors)} for k in (0, 1))
    mean = Fraction(sum(b * n for b, n in tensors), sum(n for _, n in tensors))
    assert compression(bits, sizes) == float(32 / mean)  # Python divides integers exactly rounded
    assert 2 <= compression(bits, sizes) <= 32


def test_expected_rate_is_an_enumeration_and_differentiable():
    model = spread(tiny())
    found = blocks(model, "weight")
    logits = {n: b.logits.detach().double().requires_grad_() for n, b in found.items()}

    def by_hand(*tables):
        mean = {n: (torch.softmax(t.flatten(), 0).view(3, 3).sum(1) * torch.tensor([2.0, 4, 8]).double()).sum()
                for n, t in zip(logits, tables, strict=True)}  # fmt: skip
        return 32 * 164 / sum(mean[n] * size for n, size in weight_sizes(model).items())

    tables = list(logits.values())
    assert torch.autograd.gradcheck(by_hand, tables)
    own = expected_compression(model)
    assert own.item() == pytest.approx(by_hand(*tables).item(), rel=1e-6)
    gradients = torch.autograd.grad(own, [found[n].logits for n in logits])
    for a, b in zip(gradients, torch.autograd.grad(by_hand(*tables), tables), strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-7)


def test_expected_rate_of_fixed_blocks_is_the_rate():
    model = spread(tiny())
    for name, block in blocks(model, "weight").items():
        block.fix(block.select(CHOICE[name]))
    assert (
        rates(model).weights
        == 32 * 164 / PACKED
        == pytest.approx(float(expected_compression(model)), rel=1e-6)
    )


def test_schemes_are_in_order_of_the_placements():
    model = tiny(activation_bits=6)
    found = schemes(model)
    assert [p.name for p, _ in found] == [
        "conv.weight",
        "depthwise.weight",
        "linear.weight",
        "relu",
        "relu:2",
    ]
    assert [(s.bits, s.signed) for _, s in found] == [(8, True)] * 3 + [(6, False)] * 2


# ------------------------------------------------------------------------------------- the loss term


def test_hinge():
    assert (hinge(4.0, 8.0), hinge(9.0, 8.0), hinge(8.0, 8.0), hinge(1.0, 8.0)) == (
        0.25,
        0.0,
        0.0,
        49 / 64,
    )
    for r in (1.0, 4.0, 7.999, 8.0, 8.001, 30.0):
        t = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        loss = hinge(t, 8.0)
        loss.backward()
        assert (
            loss.item() == pytest.approx(hinge(r, 8.0)) == pytest.approx(max((8 - r) / 8, 0) ** 2)
        )
        assert t.grad.item() == pytest.approx(-2 * (8 - r) / 64 if r < 8 else 0.0)
    points = torch.linspace(1, 16, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: hinge(r, 9.3), points)


def test_descent_on_the_hinge_reaches_the_target():
    model = tiny()
    tables = [b.logits for b in blocks(model, "weight").values()]
    optimizer = torch.optim.Adam(tables, lr=0.1)
    for _ in range(200):
        loss = 32 * hinge(expected_compression(model), 8.0)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert expected_compression(model).item() > 7.9


# ------------------------------------------------------------------------------------- bits of activations


def test_the_rule_on_the_stages_of_resnet20():
    sizes = {"a": 16 * 32 * 32, "b": 32 * 16 * 16, "c": 64 * 8 * 8}
    assert activation_bits(sizes, 8) == {"a": 4, "b": 8, "c": 8}
    assert activation_bits(sizes, 32) == {"a": 4, "b": 4, "c": 4}
    assert activation_bits(sizes, 4) == {"a": 8, "b": 8, "c": 8}
    assert activation_bits(sizes, 5) == {"a": 6, "b": 8, "c": 8}
    assert activation_bits(sizes, 12) == {"a": 4, "b": 5, "c": 8}
    assert activation_bits(sizes, 1) == {"a": 8, "b": 8, "c": 8}
    assert activation_bits({}, 8) == {}


def test_the_rule_on_an_attached_resnet20():
    model = attach(models.build("resnet20"), SPACE, torch.randn(1, 3, 32, 32))
    sizes = activation_sizes(model)
    assert len(sizes) == 19 and sorted(set(sizes.values())) == [4096, 8192, 16384]
    bits = Target(weights=8, activations=8).bits_of(sizes)
    for name, b in bits.items():
        assert b == (4 if sizes[name] == 16384 else 8)
    assert not name.startswith(("relu", "layer1")) and bits["relu"] == 4
    set_activation_bits(model, bits)
    assert rates(model).activations == 8.0
    assert set(Target(activation_bits=3).bits_of(sizes).values()) == {3}
    assert set(Target().bits_of(sizes).values()) == {8}


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=8), st.integers(4, 128))
def test_the_rule_in_exact_arithmetic(sizes, quarters):
    wanted = [
        min(8, max(4, math.floor(Fraction(32 * max(sizes) * 4, quarters * n)))) for n in sizes
    ]
    assert [
        *activation_bits({str(i): n for i, n in enumerate(sizes)}, quarters / 4).values()
    ] == wanted


# ------------------------------------------------------------------------------------- targets


def test_targets():
    assert Target() == Target(weights=8.0, activation_bits=8) and Target().activations is None
    assert Target(weights=14, activations=8).activation_bits is None
    assert (
        type(Target(weights=14).weights) is float and Target(activation_bits=4).activation_bits == 4
    )
    assert Target(1).weights == 1.0 and Target(32).weights == 32.0
    with pytest.raises(AttributeError):
        Target().weights = 3


@pytest.mark.parametrize("bad", (0, 0.99, 32.1, -8, math.nan, math.inf, True, "8", None, 8j))
def test_rates_that_are_none(bad):
    with pytest.raises(ValueError, match="between 1 and 32") as error:
        Target(weights=bad)
    assert f"weights={bad!r}" in str(error.value)
    if bad is not None:
        with pytest.raises(ValueError, match="between 1 and 32") as error:
            Target(activations=bad)
        assert f"activations={bad!r}" in str(error.value)


def test_other_bad_targets():
    with pytest.raises(ValueError, match="not both"):
        Target(activations=8, activation_bits=4)
    for bad in (0, 17, 2.5, True):
        with pytest.raises(ValueError, match=f"from 1 to 16, got {bad}"):
            Target(activation_bits=bad)


def test_unreachable_targets_say_the_largest():
    with pytest.raises(
        ValueError, match=r"17 cannot be reached with bits \(2, 4, 8\): the largest is 16"
    ):
        Target(weights=17).check_reachable(SPACE)
    for weights, space in ((16, SPACE), (32, SearchSpace()), (4, SearchSpace((8,)))):
        Target(weights=weights).check_reachable(space)
    with pytest.raises(ValueError, match="4"):
        Target(weights=4.1).check_reachable(SearchSpace((8, 16)))


# ------------------------------------------------------------------------------------- the repair


def error_by_hand(weight, bits, exponents):
    """The smallest relative error of two's complement codes over the thresholds, and its threshold."""
    w = weight.detach().double().numpy()
    found = []
    for exponent in exponents:
        step = 2.0 ** (exponent - bits + 1)
        codes = np.clip(np.rint(w / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        found.append((((codes * step - w) ** 2).sum() / (w**2).sum(), exponent))
    return min(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("target", (4.5, 6.0, 8.0, 12.0, 15.9, 16.0))
@pytest.mark.parametrize("seed", range(6))
def test_repair_takes_the_next_bits_from_what_loses_least(seed, target):
    torch.manual_seed(seed)
    model = spread(tiny(), seed)
    sizes, bits = weight_sizes(model), weight_bits(model)
    found = blocks(model, "weight")
    errors = {
        (n, b): error_by_hand(original(model, n), b, found[n].exponents.tolist())
        for n in sizes
        for b in (2, 4, 8)
    }
    wanted, before = [], dict(bits)
    while (total := sum(bits[n] * sizes[n] for n in bits)) > 32 * 164 / target:  # brute force
        missing = total - 32 * 164 / target
        price = {}
        for n, now in bits.items():
            lower = {8: 4, 4: 2}.get(now)
            if lower:
                saved = sizes[n] * (now - lower)
                rise = errors[n, lower][0] - errors[n, now][0]
                price[n, lower] = (rise / min(saved, missing), saved)
        name, fewer = min(price, key=price.get)
        wanted.append((name, bits[name], fewer))
        bits[name] = fewer
    activations = {n: b.scheme for n, b in blocks(model, "activation").items()}
    selected = {n: b.scheme for n, b in found.items()}
    moves = repair(model, target)
    assert [(m.name, m.before, m.after) for m in moves] == wanted
    for m in moves:
        rise = errors[m.name, m.after][0] - errors[m.name, m.before][0]
        assert m.error == pytest.approx(rise, rel=1e-9)
    assert weight_bits(model) == bits and rates(model).weights >= target
    assert all(b.is_fixed for b in blocks(model).values())
    assert {n: b.scheme for n, b in blocks(model, "activation").items()} == activations
    for n, block in found.items():
        if bits[n] == before[n]:  # as the search left it
            assert block.scheme == selected[n]
        else:
            assert block.scheme.threshold_exponent == errors[n, bits[n]][1]
    if moves:  # one move less would miss the target
        last = moves[-1]
        assert compression({**bits, last.name: last.before}, sizes) < target


@pytest.mark.parametrize("target", (4.0, 4.5, 6.0, 8.0, 12.0, 16.0))
@pytest.mark.parametrize("seed", range(6))
def test_refill_gives_the_next_bits_to_what_gains_most(seed, target):
    torch.manual_seed(seed)
    model = spread(tiny(), seed)
    plain = copy.deepcopy(model)
    sizes, start = weight_sizes(model), weight_bits(model)
    kept = {n: b.scheme for n, b in blocks(model, "weight").items()}
    lowered = repair(plain, target)
    found = blocks(plain, "weight")
    floats = {n: original(plain, n) for n in sizes}
    bits, wanted = weight_bits(plain), []
    while True:  # brute force
        spare = 32 * 164 / target - sum(bits[n] * sizes[n] for n in bits)
        gain = {}
        for n, now in bits.items():
            higher = {2: 4, 4: 8}.get(now)
            if higher and sizes[n] * (higher - now) <= spare:
                exponents = found[n].exponents.tolist()
                fall = (
                    error_by_hand(floats[n], now, exponents)[0]
                    - error_by_hand(floats[n], higher, exponents)[0]
                )
                gain[n, higher] = fall / (sizes[n] * (higher - now))
        if not gain:
            break
        name, more = max(gain, key=gain.get)
        wanted.append((name, bits[name], more))
        bits[name] = more
    moves = repair(model, target, refill=True)
    assert moves[: len(lowered)] == lowered
    assert sorted((m.name, m.before, m.after) for m in moves[len(lowered) :]) == sorted(wanted)
    assert weight_bits(model) == bits and target <= rates(model).weights <= rates(plain).weights
    for n, block in blocks(model, "weight").items():
        if bits[n] == start[n]:  # as the search left it
            assert block.scheme == kept[n]
        elif n in {name for name, *_ in wanted}:  # the search knows nothing of this row
            exponents = block.exponents.tolist()
            assert (
                block.scheme.threshold_exponent == error_by_hand(floats[n], bits[n], exponents)[1]
            )


def test_refill_takes_no_octave_too_wide():
    """A row that the search has left still says "the widest threshold", which wastes an octave or more."""
    model = tiny()
    choose(model, dict.fromkeys(CHOICE, 4))
    block = blocks(model, "weight")["linear.weight"]
    with torch.no_grad():
        block.logits[-1] = torch.tensor([-30.0, -40.0, -50.0])
    room_for_linear = 32 * 164 / (164 * 4 + 20 * 4)
    (move,) = repair(model, room_for_linear, refill=True)
    assert (move.name, move.before, move.after) == ("linear.weight", 4, 8)
    largest = original(model, "linear.weight").abs().max()
    assert (
        block.scheme.threshold / 2 < largest <= block.scheme.threshold
    )  # of 8 bits, none is wasted
    assert block.scheme.threshold_exponent < block.exponents.max()


def test_refill_where_nothing_is_to_spare_or_everything_is():
    on_target = tiny()
    choose(on_target, dict.fromkeys(CHOICE, 4))
    assert repair(on_target, 8.0, refill=True) == []
    free = spread(tiny())
    repair(free, 1.0, refill=True)
    assert set(weight_bits(free).values()) == {8}


def test_a_small_gap_costs_no_large_weight_its_bits():
    """What is missing counts, not what a step saves: a larger saving is no reason to take it."""
    model = tiny()
    choose(model, dict.fromkeys(CHOICE, 8))
    missing = 164 * 8 - 32 * 164 / 4.0001
    assert missing < 1
    errors = {}
    for name, block in blocks(model, "weight").items():
        four, eight = (
            error_by_hand(original(model, name), b, block.exponents.tolist())[0] for b in (4, 8)
        )
        errors[name] = four - eight
    (move,) = repair(model, 4.0001)
    assert (move.name, move.after) == (min(errors, key=errors.get), 4)


def test_of_steps_as_good_the_repair_takes_the_one_that_saves_least():
    """All weights are 0 and have no error; what is missing is less than any step saves."""
    model = tiny()
    choose(model, dict.fromkeys(CHOICE, 8))
    with torch.no_grad():
        for name in CHOICE:
            original(model, name).zero_()
    (move,) = repair(model, 4.0001)
    assert (move.name, move.after) == ("linear.weight", 4)  # 80 bits; of conv.weight 432 at least


def test_repair_of_what_is_on_target_only_fixes():
    model = spread(tiny())
    before = {n: b.scheme for n, b in blocks(model).items()}
    assert repair(model, 1.0) == []
    assert {n: b.scheme for n, b in blocks(model).items()} == before
    assert all(b.is_fixed for b in blocks(model).values())


def test_repair_stops_exactly_on_the_target():
    model = tiny()
    choose(model, dict.fromkeys(CHOICE, 4))
    assert repair(model, 8.0) == [] and rates(model).weights == 8.0
    three = attach(Tiny(), SearchSpace((3, 8), 2), torch.randn(2, 3, 8, 8))
    assert len(repair(three, 32 / 3)) == 3 and rates(three).weights == 32 / 3


def test_without_a_quantized_weight_there_is_no_compression():
    class Computed(nn.Module):
        """The weight is computed in forward, so it stays float."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3, 3, 3))

        def forward(self, x):
            return nn.functional.conv2d(x, self.w - self.w.mean()).relu().mean((2, 3))

    with pytest.warns(UserWarning, match="float"):
        model = attach(Computed(), torch.randn(2, 3, 8, 8))
    assert not blocks(model, "weight")
    for asked in (lambda: repair(model, 8.0), lambda: expected_compression(model)):
        with pytest.raises(ValueError, match="no quantized weight"):
            asked()


def test_repair_of_what_cannot_be_reached_changes_nothing():
    model = spread(tiny())
    with pytest.raises(ValueError, match="17 cannot be reached: the largest is 16"):
        repair(model, 17)
    with pytest.raises(ValueError, match="16 cannot be reached"):
        repair(model, math.nextafter(16, math.inf))
    assert not any(b.is_fixed for b in blocks(model).values())
