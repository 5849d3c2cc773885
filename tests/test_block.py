"""The HMQ block against enumerations of its table."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hmq_lab.block
from hmq_lab.block import HMQ, SearchSpace, check_space, initial_logits
from hmq_lab.gumbel import relaxed_categorical
from hmq_lab.quantizer import Scheme, quantize


def make(bits=(1, 2, 3, 4, 5, 6, 7, 8), thresholds=8, exponent=0, signed=True, **options):
    options.setdefault("generator", torch.Generator().manual_seed(5))
    return HMQ(SearchSpace(bits, thresholds), exponent, signed, **options)


def spread(block, seed=0, scale=1.5):
    """Logits that put mass on every cell."""
    with torch.no_grad():
        block.logits.copy_(
            torch.randn(block.logits.shape, generator=torch.Generator().manual_seed(seed)) * scale
        )
    return block


def cells(block):
    """(row, column, scheme) of the whole table, from the definition."""
    space = block.space
    for (i, b), j in itertools.product(enumerate(space.bits), range(space.thresholds)):
        yield i, j, Scheme(b, int(block.exponent) - j, block.signed)


# ---------------------------------------------------------------------------------------------------- the space


def test_search_space_is_plain_and_sorted():
    assert SearchSpace() == SearchSpace(tuple(range(1, 9)), 8) and SearchSpace().schemes == 64
    assert (
        SearchSpace([8, 2, 4], 3)
        == SearchSpace((2, 4, 8), 3)
        == SearchSpace(range(2, 3), 3).__class__((4, 8, 2), 3)
    )
    assert SearchSpace(range(1, 17)).bits == tuple(range(1, 17))
    with pytest.raises(AttributeError):
        SearchSpace().bits = (1,)


@pytest.mark.parametrize(
    "bits", ((), "48", 4, None, (0, 2), (2.5,), (2, 40), (True, 2), (4, 4), [3, 3.0])
)
def test_spaces_that_are_none_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be") as error:
        SearchSpace(bits)
    assert repr(bits) in str(error.value) or str(bits) in str(error.value)


@pytest.mark.parametrize("thresholds", (0, -1, 33, 2.0, True, None, "8"))
def test_numbers_of_thresholds_are_checked(thresholds):
    with pytest.raises(ValueError, match="from 1 to 32") as error:
        SearchSpace(thresholds=thresholds)
    assert repr(thresholds) in str(error.value)


@pytest.mark.parametrize("exponent, thresholds", ((101, 1), (-100, 2), (-93, 9), (0.5, 1)))
def test_thresholds_that_no_scheme_has_are_refused(exponent, thresholds):
    with pytest.raises(ValueError, match="integer from -100 to 100"):
        make(exponent=exponent, thresholds=thresholds)


@pytest.mark.parametrize("probability", (0, 1, -0.1, 1.5, math.nan))
def test_bad_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match="between 0 and 1") as error:
        make(probability=probability)
    assert repr(probability) in str(error.value)


# ---------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("thresholds", (1, 2, 8, 9, 32))
@pytest.mark.parametrize("bits", ((8,), (2, 4, 8), tuple(range(1, 9)), tuple(range(1, 17))))
def test_the_initial_probability_is_exact(bits, thresholds):
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        block = make(bits, thresholds, generator=g)
        p = torch.softmax(block.logits.detach().double().flatten(), 0).view(len(bits), thresholds)
        if p.numel() == 1:
            assert p.item() == 1
            continue
        assert p[-1, 0].item() == pytest.approx(0.95, abs=1e-6)
        assert block.probabilities()[-1, 0].item() == pytest.approx(0.95, abs=1e-6)
        others = block.logits.detach().clone()
        others[-1, 0] = -0.5
        assert (
            (others <= 0).all()
            and (others >= -1).all()
            and len(others.unique()) >= 0.9 * others.numel()
        )
        assert block.scheme == Scheme(bits[-1], 0, True)
    for probability in (0.05, 0.5, 0.999):
        if len(bits) * thresholds > 1:
            p = make(bits, thresholds, probability=probability).probabilities()
            assert p[-1, 0].item() == pytest.approx(probability, abs=1e-6)


def test_initial_logits_come_from_the_generator():
    seeded = [initial_logits(3, 4, 0.95, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(seeded[0], seeded[1]) and not torch.equal(seeded[0], seeded[2])
    state = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("signed", (True, False))
@pytest.mark.parametrize("exponent", (-92, -3, 0, 4, 100))
def test_steps_and_thresholds_of_the_table(signed, exponent):
    for block in (make(exponent=exponent, signed=signed), make((3, 16), 5, exponent, signed)):
        assert block.exponents.tolist() == [exponent - j for j in range(block.space.thresholds)]
        for i, j, scheme in cells(block):
            assert block.steps[i, j].item() == scheme.step


def test_expected_bits_step_and_threshold_are_enumerations(generator):
    for bits, thresholds, signed in (
        ((1, 2, 3, 4, 5, 6, 7, 8), 8, True),
        ((2, 8), 3, False),
        ((5,), 1, True),
    ):
        block = spread(make(bits, thresholds, 1, signed))
        p = torch.softmax(block.logits.detach().double().flatten(), 0).view_as(block.logits)
        expected = sum(p[i, j].item() * scheme.bits for i, j, scheme in cells(block))
        assert block.expected_bits().item() == pytest.approx(expected, rel=1e-6)
        block.resample(generator)
        for temperature in (1.0, 0.3):
            block.temperature.fill_(temperature)
            noise = block.noise(4).double()
            log_p = torch.log_softmax(block.logits.detach().double().flatten(), 0)
            q = torch.softmax((log_p + noise.flatten(1)) / temperature, 1).view(noise.shape)
            step, threshold = block.sample(4)
            assert step.shape == threshold.shape == (4,)
            for s in range(4):
                wanted = [
                    sum(q[s, i, j].item() * v(c) for i, j, c in cells(block))
                    for v in (_step, _threshold)
                ]
                assert step[s].item() == pytest.approx(wanted[0], rel=1e-5)
                assert threshold[s].item() == pytest.approx(wanted[1], rel=1e-5)


def _step(scheme):
    return scheme.step


def _threshold(scheme):
    return scheme.threshold


# ---------------------------------------------------------------------------------------------------- the selection


def test_selection_is_bits_by_their_marginal_first():
    block = make((2, 4, 8), 3, 2, True).eval()
    p = torch.tensor([[0.30, 0.0, 0.0], [0.16, 0.18, 0.0], [0.12, 0.11, 0.13]]) + 1e-4
    with torch.no_grad():
        block.logits.copy_(p.log())
    assert int(p.argmax()) == 0  # jointly, 2 bits below 2^2
    assert block.scheme == Scheme(8, 0, True)  # marginals 0.30, 0.34, 0.36
    p[1, 2] = 0.05  # now 4 bits have the largest marginal, 0.39, and of them the second threshold
    with torch.no_grad():
        block.logits.copy_(p.log())
    assert block.scheme == Scheme(4, 1, True)
    assert block.select(2) == Scheme(2, 2, True) and block.select(4) == block.scheme
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(block(x), quantize(x, block.scheme.step, block.scheme.threshold, True))


@given(
    st.integers(0, 10**6),
    st.sampled_from([((1, 2, 3, 4, 5, 6, 7, 8), 8), ((2, 4, 8), 3), ((3,), 4), ((1, 8), 1)]),
)
def test_selection_against_enumeration(seed, space):
    block = spread(make(*space, exponent=-1, signed=False), seed)
    p = torch.softmax(block.logits.detach().double().flatten(), 0).view_as(block.logits)
    marginal = {b: p[i].sum().item() for i, b in enumerate(block.space.bits)}
    bits = max(marginal, key=marginal.get)
    row = block.space.bits.index(bits)
    column = max(range(block.space.thresholds), key=lambda j: p[row, j].item())
    assert block.scheme == Scheme(bits, -1 - column, False)
    for b in block.space.bits:
        chosen = block.select(b)
        assert chosen.bits == b
        assert (
            p[block.space.bits.index(b), -1 - chosen.threshold_exponent]
            == p[block.space.bits.index(b)].max()
        )


@pytest.mark.parametrize("signed", (True, False))
def test_evaluation_has_no_more_than_two_to_the_bits_values(signed, generator):
    x = torch.randn(16, 3, 32, 32) * 2
    for bits in range(1, 9):
        block = spread(make((bits,), 4, 0, signed), bits).eval()
        block.resample(generator)
        y = block(x)
        assert len(y.unique()) <= 2**bits
        assert set(y.unique().tolist()) <= set(block.scheme.values)
        assert torch.equal(y, quantize(x, block.scheme.step, block.scheme.threshold, signed))
        block.resample(generator)
        assert torch.equal(block(x), y)  # no noise


def test_selecting_what_is_not_there():
    with pytest.raises(ValueError, match=r"one of \(2, 4\), got 3"):
        make((2, 4)).select(3)


def test_fix_and_free(generator):
    block = spread(make((2, 4, 8), 3, 1, True))
    selected, x = block.scheme, torch.randn(3, 2, 4, 4)
    assert not block.is_fixed
    assert block.fix() == selected == block.scheme and block.is_fixed
    for mode in (True, False):  # in training too
        assert torch.equal(
            block.train(mode)(x), quantize(x, selected.step, selected.threshold, True)
        )
    assert block.expected_bits().item() == selected.bits
    with torch.no_grad():
        block.logits.copy_(-block.logits)  # the logits have no say any more
    block.resample(generator)
    assert block.scheme == selected
    other = Scheme(2, -1, True)
    assert block.fix(other) == other == block.scheme
    assert torch.equal(block.train()(x), quantize(x, other.step, other.threshold, True))
    before = block.logits.detach().clone()
    block.free()
    assert not block.is_fixed and torch.equal(block.logits, before)
    assert not torch.equal(block.train()(x), quantize(x, other.step, other.threshold, True))
    for outside in (
        Scheme(2, -1, False),
        Scheme(3, -1, True),
        Scheme(2, 2, True),
        Scheme(2, -2, True),
    ):
        with pytest.raises(
            ValueError, match=r"bits \(2, 4, 8\) signed below 2\^1 to 2\^-1, got "
        ) as error:
            block.fix(outside)
        assert str(outside) in str(error.value) and not block.is_fixed


def test_a_fixed_block_passes_gradients_to_x_alone():
    block = spread(make((2, 4, 8), 3, 0, True))
    block.fix()
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    block(x).sum().backward()
    lo, hi = block.scheme.integers
    r = (x.detach() / block.scheme.step).round()
    assert torch.equal(x.grad, ((r >= lo) & (r <= hi)).float())
    assert block.logits.grad is None


# ---------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "shape, axis, wanted",
    (
        ((4, 3, 8, 8), 0, (4, 1, 1, 1)),  # activations: one sample per picture
        ((4, 10), 0, (4, 1)),
        ((5, 7, 16), 0, (5, 1, 1)),
        ((16, 8, 3, 3), 1, (1, 8, 1, 1)),  # weights: one per input channel
        ((16, 1, 3, 3), 1, (1, 1, 1, 1)),  # depthwise: one
        ((10, 64), 1, (1, 64)),
        ((0, 3, 8, 8), 0, (0, 1, 1, 1)),
        ((1, 3, 8, 8), 0, (1, 1, 1, 1)),
    ),
)
def test_samples_stand_along_their_axis(shape, axis, wanted, generator):
    block = spread(make(sample_axis=axis))
    block.resample(generator)
    x = torch.randn(shape)
    step, threshold = block.step_and_threshold(x)
    assert step.shape == threshold.shape == wanted
    assert len(step.unique()) == step.numel()
    assert torch.equal(block(x), quantize(x, step, threshold, True))
    for s in range(step.numel()):  # each along its axis as if alone
        part = x.select(axis, s)
        alone = quantize(part, step.flatten()[s].detach(), threshold.flatten()[s].detach(), True)
        assert torch.equal(block(x).select(axis, s), alone)


def test_one_quantization_however_large_the_space(monkeypatch, generator):
    calls = []

    def count(x, step, threshold, signed, check):
        calls.append(step.shape)
        assert not check  # on a GPU a look at the numbers would wait for it
        return quantize(
            x, step, threshold, signed
        )  # which looks: what a block asks for is always in order

    monkeypatch.setattr(hmq_lab.block, "quantize", count)
    x = torch.randn(4, 3, 8, 8)
    for space in (((4,), 1), (tuple(range(1, 17)), 32)):
        block = make(*space)
        block.resample(generator)
        for mode in (True, False):
            calls.clear()
            block.train(mode)(x)
            assert len(calls) == 1


def test_noise_is_drawn_again_by_resample_alone(generator):
    block, x = spread(make()), torch.randn(4, 3, 8, 8)
    block.resample(generator)
    first = block(x).detach()
    block(x[:2]), block(x[:3]), block.noise(7)  # other numbers of samples in between
    repr(block), block.scheme, block.expected_bits(), block.probabilities(), block.select(4)
    block.eval()(x), block.train()
    torch.rand(3), torch.manual_seed(9)
    assert torch.equal(block(x), first)
    block.resample(generator)
    second = block(x).detach()
    assert not torch.equal(second, first)
    same = spread(make())
    g = torch.Generator().manual_seed(0)
    same.resample(g)
    assert torch.equal(same(x), first)
    same.resample(g)
    assert torch.equal(same(x), second)


def test_two_blocks_draw_different_noise(generator):
    a, b = make(), make()
    a.resample(generator), b.resample(generator)
    assert not torch.equal(a.noise(4), b.noise(4))


def test_looking_draws_nothing(generator):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for chosen in (True, False):
        block = spread(make())
        if chosen:
            block.resample(generator)
        state, world = generator.get_state(), torch.get_rng_state()
        before = {name: value.clone() for name, value in block.state_dict().items()}
        for mode in (True, False):
            block.train(mode)
            repr(block), block.scheme, block.expected_bits(), block.select(4), block.step_exponent()
            if chosen:  # the noise of this step is chosen
                block.sample(3)
            if chosen or not mode:
                block(x), block.step_and_threshold(x)
        assert torch.equal(generator.get_state(), state)
        assert torch.equal(torch.get_rng_state(), world)
        assert all(torch.equal(before[name], value) for name, value in block.state_dict().items())


def change(block):
    """What an optimizer does at the end of a step."""
    with torch.no_grad():
        block.logits.mul_(1.0)


def test_a_training_pass_draws_new_noise_by_itself():
    block, x = spread(make()), torch.randn(4, 3, 8, 8)
    torch.manual_seed(3)
    passes = [block(x).detach() for _ in range(4)]
    for one, other in itertools.combinations(passes, 2):
        assert not torch.equal(one, other)
    torch.manual_seed(3)  # which decides it, as it does dropout
    assert all(torch.equal(block(x), before) for before in passes)

    noise = block.noise(4)
    assert block.noise(4) is noise  # looking at it draws none

    block.fix()
    state = torch.get_rng_state()
    assert torch.equal(block(x), block(x)) and torch.equal(torch.get_rng_state(), state)


def test_a_weight_has_one_sample_in_a_step():
    layer = torch.nn.Linear(6, 3)
    block = spread(HMQ.for_weight(layer.weight, SearchSpace()))
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", block, unsafe=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)
    seen = []
    for _ in range(4):
        first = layer.weight.detach()
        loss = layer(torch.randn(2, 6)).square().sum()
        assert torch.equal(layer.weight, first)
        loss.backward()
        assert torch.equal(layer.weight, first)
        seen.append(block.noise(6))
        optimizer.step()
    assert len({tuple(noise.flatten().tolist()) for noise in seen}) == 4
    block.begin_pass()  # what a network may say
    assert not torch.equal(block.noise(6), seen[-1])


@pytest.mark.parametrize("axis", (0, 1))
def test_noise_that_was_given_stays_for_one_step(axis, generator):
    """A loop that calls resample once, in its beginning, still learns from more than one sample."""
    block, x = spread(make(sample_axis=axis)), torch.randn(4, 3, 8, 8)
    block.resample(generator)
    state = torch.get_rng_state()
    first = block(x).detach()
    block.begin_pass()
    assert torch.equal(block(x), first) and torch.equal(torch.get_rng_state(), state)
    change(block)
    second = block(x).detach()
    change(block)
    assert not torch.equal(second, first) and not torch.equal(block(x), second)
    torch.manual_seed(1)
    block.resample()  # of torch's global generator
    third = block(x).detach()
    assert torch.equal(block(x), third)
    torch.manual_seed(1)
    block.resample()
    assert torch.equal(block(x), third)


def test_parts_of_a_batch_without_a_generator():
    block, x = spread(make()), torch.randn(6, 3, 4, 4)
    seen = []
    for first in (0, 2, 4):
        block.set_batch_slice(first, 2, 6)
        block(x[first : first + 2])
        seen.append(block.noise(2))
    block.set_batch_slice(0, 6, 6)
    assert torch.equal(block.noise(6), torch.cat(seen)) and len(block.noise(6).unique()) > 6
    change(block)
    block(x)
    assert not torch.equal(block.noise(6), torch.cat(seen))


def test_a_traced_block_draws_new_noise_too():
    block, x = spread(make((2, 4, 8), 3)), torch.randn(4, 3, 8, 8)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    passes = [compiled(x).detach() for _ in range(3)]
    for one, other in itertools.combinations(passes, 2):
        assert not torch.equal(one, other)


def test_gradient_of_the_expected_step_and_threshold_in_float64():
    block = spread(make((2, 4, 8), 3, 1, True))
    noise = block.noise(3).double()
    steps, thresholds = block.steps.double(), torch.exp2(block.exponents.double())

    def expected(logits):
        p = relaxed_categorical(logits, 0.7, noise)
        return (p * steps).sum((1, 2)), (p * thresholds).sum((1, 2))

    logits = block.logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(expected, logits)
    block.temperature.fill_(0.7)
    for own, reference in zip(block.sample(3), expected(logits), strict=True):
        assert torch.allclose(own.double(), reference, rtol=1e-5)
        a = torch.autograd.grad(own.sum(), block.logits, retain_graph=True)[0]
        b = torch.autograd.grad(reference.sum(), logits, retain_graph=True)[0]
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-6)

    def mean_bits(logits):
        return (
            torch.softmax(logits.flatten(), 0).view(3, 3).sum(1)
            * torch.tensor([2.0, 4.0, 8.0]).double()
        ).sum()

    assert torch.autograd.gradcheck(mean_bits, logits)
    a = torch.autograd.grad(block.expected_bits(), block.logits)[0]
    assert torch.allclose(
        a.double(), torch.autograd.grad(mean_bits(logits), logits)[0], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("signed", (True, False))
def test_gradient_reaches_the_logits_through_step_and_threshold(signed, generator):
    block, x = spread(make(signed=signed)), torch.randn(4, 3, 8, 8, requires_grad=True)
    block.resample(generator)
    weight = torch.randn(4, 3, 8, 8)
    (block(x) * weight).sum().backward()
    step, threshold = block.sample(4)
    leaves = [p.detach().view(4, 1, 1, 1).requires_grad_() for p in (step, threshold)]
    z = x.detach().requires_grad_()
    (quantize(z, *leaves, signed) * weight).sum().backward()
    chained = torch.autograd.grad(
        (step, threshold), block.logits, [p.grad.view(4) for p in leaves]
    )[0]
    assert torch.allclose(block.logits.grad, chained, rtol=1e-4, atol=1e-5)
    assert block.logits.grad.abs().min() > 0  # every cell hears of it
    assert torch.equal(x.grad, z.grad)


def test_bits_can_be_learned():
    """A tensor that 3 bits hold exactly: going from 8 bits to 3 costs nothing, to 2 it costs."""
    x = torch.arange(-4, 4).repeat(64).float().view(16, 4, 2, 4) / 4
    block = make((2, 3), 1, 0, True, probability=0.5)
    g, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(block.parameters(), lr=0.1)
    for _ in range(60):
        block.resample(g)
        loss = ((block(x) - x) ** 2).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert block.scheme == Scheme(3, 0, True) and block.probabilities()[1, 0] > 0.9


def test_enabled_false_lets_the_tensor_through():
    block, x = make(), torch.randn(2, 3)
    block.enabled = False
    assert block(x) is x and block.eval()(x) is x


# ---------------------------------------------------------------------------------------------------- for_weight


@pytest.mark.parametrize(
    "largest, exponent", ((1.0, 1), (1.0001, 2), (0.5, 0), (0.3, 0), (0.26, 0), (0.0, 0), (3.0, 3))
)
def test_the_threshold_of_a_weight_is_an_octave_above_the_tight_one(largest, exponent):
    weight = torch.full((4, 3, 1, 1), -largest)
    weight[0, 0] = largest / 2
    block = HMQ.for_weight(weight, SearchSpace())
    assert int(block.exponent) == exponent and block.signed and block.sample_axis == 1
    assert block.exponents.tolist() == list(range(exponent, exponent - 8, -1))


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_weights_that_are_not_finite_are_refused(bad):
    weight = torch.randn(4, 3)
    weight[2, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        HMQ.for_weight(weight, SearchSpace())


# ---------------------------------------------------------------------------------------------------- keeping


def test_state_dict_round_trip(generator, tmp_path):
    for fixed in (None, Scheme(4, -1, True)):
        block = spread(make((2, 4, 8), 3, 1))
        if fixed:
            block.fix(fixed)
        torch.save(block.state_dict(), tmp_path / "block.pt")
        other = make((2, 4, 8), 3, 7, generator=torch.Generator().manual_seed(9))
        assert other.load_state_dict(torch.load(tmp_path / "block.pt", weights_only=True))
        assert other.is_fixed == (fixed is not None) and other.scheme == block.scheme
        x = torch.randn(3, 4)
        assert torch.equal(other.eval()(x), block.eval()(x))
        (
            block.resample(torch.Generator().manual_seed(1)),
            other.resample(torch.Generator().manual_seed(1)),
        )
        assert torch.equal(other.train()(x), block.train()(x))
        parent = torch.nn.Sequential(make((2, 4, 8), 3))
        parent.load_state_dict({f"0.{k}": v for k, v in block.state_dict().items()})
        assert parent[0].is_fixed == block.is_fixed and parent[0].scheme == block.scheme
    block.load_state_dict(make((2, 4, 8), 3, 1).state_dict())  # and back to one that is free
    assert not block.is_fixed


@pytest.mark.parametrize("signed", (True, False))
def test_the_state_dict_says_whether_there_is_a_sign(signed):
    block, other = spread(make(signed=signed)), make(signed=not signed)
    other.load_state_dict(block.state_dict())
    assert (
        other.signed is signed
        and other.scheme == block.scheme
        and torch.equal(other.steps, block.steps)
    )
    old = {key: value for key, value in block.state_dict().items() if key != "has_sign"}
    assert len(old) == len(block.state_dict()) - 1
    other = make(signed=signed)
    assert (
        other.load_state_dict(old).missing_keys == []
        and other.signed is signed
        and other.scheme == block.scheme
    )
    parent = torch.nn.Sequential(make(signed=signed))
    parent.load_state_dict({f"0.{key}": value for key, value in old.items()})
    assert parent[0].scheme == block.scheme
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_no_message_prints_a_tensor():
    x = torch.randn(100, 100)
    for wrong in (
        lambda: check_space(x),
        lambda: HMQ(x, 0, True),
        lambda: SearchSpace(x),
        lambda: SearchSpace([x]),
        lambda: SearchSpace(thresholds=x),
        lambda: make(probability=[x]),
        lambda: make().select(x[0, :1]),
        lambda: make(exponent=x),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            wrong()
        assert len(str(error.value)) < 420 and "\n" not in str(error.value)


def test_a_space_is_a_search_space():
    assert (
        check_space(None) == SearchSpace() and check_space(space := SearchSpace((2, 4), 3)) is space
    )
    for other in ((2, 4), [2, 4], 8, "2,4", {"bits": (2, 4)}):
        with pytest.raises(TypeError, match="space must be a SearchSpace") as error:
            check_space(other)
        assert repr(other) in str(error.value)


def test_deepcopy_is_independent(generator):
    block, x = spread(make()), torch.randn(4, 3, 2, 2)
    block.resample(generator)
    y = block(x).detach()
    twin = copy.deepcopy(block)
    assert torch.equal(twin(x), y)
    twin.fix(Scheme(2, 0, True))
    twin.resample(generator)
    with torch.no_grad():
        twin.logits.zero_()
    assert not block.is_fixed and torch.equal(block(x), y)


def test_the_space_and_the_parameters():
    block = make((2, 4, 8), 3, -2, False)
    assert block.space == SearchSpace((2, 4, 8), 3)
    assert [n for n, _ in block.named_parameters()] == ["logits"] and block.logits.shape == (3, 3)
    text = repr(block)
    assert (
        "(2, 4, 8)" in text
        and "2^-2..2^-4" in text
        and "searching" in text
        and str(block.scheme) in text
    )
    block.fix(Scheme(4, -3, False))
    assert "fixed: 4 bits unsigned below 2^-3" in repr(block)


# ---------------------------------------------------------------------------------------------------- elsewhere


def test_autocast_changes_nothing(generator):
    block, x = spread(make()), torch.randn(4, 3, 8, 8)
    block.resample(generator)
    for mode in (True, False):
        y = block.train(mode)(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z, bits = block(x), block.expected_bits()
        assert z.dtype == torch.float32 and torch.equal(y, z)
        assert bits.dtype == torch.float32 and torch.equal(bits, block.expected_bits())
    block.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(x).sum().backward()
    assert block.logits.grad.isfinite().all()


def test_a_traced_block_agrees_with_eager(generator):
    """torch.compile without its code generator, which takes seconds and which the quantizer's tests run."""
    block, x = spread(make((2, 4, 8), 3)), torch.randn(4, 3, 8, 8)
    block.resample(generator)
    block(x)  # draws noise, which a graph cannot
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for step in range(3):
        results = []
        for f in (block, compiled):
            block.zero_grad()
            y = f(x)
            y.square().sum().backward()
            results.append((y.detach(), block.logits.grad.clone()))
        for eager, other in zip(*results, strict=True):
            assert torch.allclose(eager, other, rtol=1e-3, atol=1e-3), step
        block.resample(generator)
    block.eval()
    assert torch.equal(compiled(x), block(x))
    block.fix(Scheme(4, -1, True))
    assert torch.equal(compiled(x), block(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    block = spread(make()).cuda()
    block.resample(torch.Generator("cuda").manual_seed(0))
    x = torch.randn(4, 3, 8, 8, device="cuda")
    block(x).sum().backward()
    assert block.logits.grad.isfinite().all()
    assert torch.equal(block.eval()(x).cpu(), block.cpu()(x.cpu()))
