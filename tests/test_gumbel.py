"""Gumbel-Softmax samples against the categorical they stand for; the schedules of the temperature; named seeds."""

import itertools
import math

import numpy as np
import pytest
import torch

from hmq_lab.gumbel import Constant, Cycles, Exponential, gumbel_noise, relaxed_categorical
from hmq_lab.seeds import generator as named
from hmq_lab.seeds import stable_hash

CHI_SQUARE = {
    3: 16.266,
    5: 20.515,
    11: 31.264,
}  # exceeded with probability 1e-3, by degrees of freedom


# ---------------------------------------------------------------------------------------------------- noise


def test_noise_has_the_moments_of_gumbel(generator):
    noise = gumbel_noise((1000, 200), generator=generator).double()
    n = noise.numel()
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=5 * 1.2825 / n**0.5)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)
    z = noise.flatten().sort().values  # Kolmogorov-Smirnov against exp(-exp(-g)), p = 1e-3
    cdf = torch.exp(-torch.exp(-z))
    at = torch.arange(n, dtype=torch.float64) / n
    assert torch.maximum((cdf - at).abs(), (cdf - at - 1 / n).abs()).max() < 1.95 / n**0.5
    columns = gumbel_noise((20000, 2), generator=generator).double()
    assert abs(np.corrcoef(columns.T.numpy())[0, 1]) < 0.03


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_noise_is_finite_and_of_the_asked_shape(dtype, generator):
    noise = gumbel_noise((3_000_000,), generator=generator, dtype=dtype)
    assert noise.dtype == dtype and noise.isfinite().all() and len(noise.unique()) > 100_000
    assert gumbel_noise((), generator=generator).shape == ()
    assert gumbel_noise((0, 3), generator=generator).shape == (0, 3)


def test_noise_stays_finite_where_the_uniform_number_is_zero(monkeypatch, generator):
    for value in (0.0, torch.finfo(torch.float32).max):
        monkeypatch.setattr(
            torch.Tensor, "exponential_", lambda x, generator, value=value: x.fill_(value)
        )
        assert gumbel_noise((3,), generator=generator).isfinite().all()


def test_the_same_seed_gives_the_same_noise():
    a, b, c = (
        gumbel_noise((4, 5), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    state = torch.get_rng_state()
    gumbel_noise((4,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("shape", ((4,), (2, 3), (3, 2, 2)))
def test_arg_max_has_the_frequencies_of_the_categorical(shape, generator):
    logits = torch.randn(shape, generator=generator) + 3
    p = torch.softmax(logits.double().flatten(), 0)
    samples = 200_000
    for temperature in (0.3, 2.0):  # the temperature moves no arg max
        noise = gumbel_noise((samples, *shape), generator=generator)
        relaxed = relaxed_categorical(logits, temperature, noise)
        assert relaxed.shape == noise.shape
        counts = torch.bincount(relaxed.flatten(1).argmax(1), minlength=logits.numel())
        statistic = ((counts - samples * p) ** 2 / (samples * p)).sum().item()
        assert statistic < CHI_SQUARE[logits.numel() - 1]


def test_relaxed_samples_are_softmaxes_of_log_p_plus_noise(generator):
    logits = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    noise = gumbel_noise((5, 4, 2, 3), generator=generator, dtype=torch.float64)
    for temperature in (0.5, 1, torch.tensor(2.0)):
        p = relaxed_categorical(logits, temperature, noise)
        assert p.dtype == torch.float64
        weights = np.exp(
            (logits.numpy() - np.log(np.exp(logits.numpy()).sum()) + noise.numpy())
            / float(temperature)
        )
        assert np.allclose(p.numpy(), weights / weights.sum((2, 3), keepdims=True), rtol=1e-12)
    shifted = relaxed_categorical(logits + 7, 0.5, noise)
    assert torch.allclose(shifted, relaxed_categorical(logits, 0.5, noise))
    nothing = relaxed_categorical(logits, 1.0, torch.zeros(2, 3, dtype=torch.float64))
    assert torch.allclose(nothing, torch.softmax(logits.flatten(), 0).view(2, 3))


def test_towards_zero_a_sample_tends_to_the_arg_max_of_the_same_noise(generator):
    logits = torch.randn(3, 4, generator=generator)
    noise = gumbel_noise((1000, 3, 4), generator=generator)
    scores = (torch.log_softmax(logits.flatten(), 0).view(3, 4) + noise).flatten(1)
    hard = torch.nn.functional.one_hot(scores.argmax(1), 12).float()
    top = scores.topk(2, 1).values
    clear = top[:, 0] - top[:, 1] > 1e-3
    assert clear.sum() > 950
    before = 2.0
    for temperature in (1.0, 0.1, 0.01, 1e-5):
        away = (
            (relaxed_categorical(logits, temperature, noise).flatten(1) - hard)[clear].abs().sum(1)
        )
        assert away.isfinite().all() and away.mean() < before
        before = away.mean()
    assert away.max() < 1e-6
    uniform = relaxed_categorical(logits, 1e6, noise)
    assert torch.allclose(uniform, torch.full_like(uniform, 1 / 12), atol=1e-5)


def test_no_samples_and_one_cell(generator):
    logits = torch.randn(2, 3)
    assert relaxed_categorical(logits, 1.0, torch.zeros(0, 2, 3)).shape == (0, 2, 3)
    assert (
        relaxed_categorical(torch.zeros(1, 1), 0.5, gumbel_noise((4, 1, 1), generator=generator))
        .eq(1)
        .all()
    )


def test_gradient_of_a_sample(generator):
    logits = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    noise = gumbel_noise((4, 2, 3), generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: relaxed_categorical(z, 0.7, noise), logits)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [0.0, 1e4]])
    p = relaxed_categorical(logits, 0.5, torch.zeros(1, 2, 2))
    assert p.isfinite().all() and p.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("temperature", (0, 0.0, -1, math.nan))
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive") as error:
        relaxed_categorical(torch.zeros(2), temperature, torch.zeros(1, 2))
    assert repr(temperature) in str(error.value)


@pytest.mark.parametrize("shape", ((3, 2), (2,), (), (2, 3, 1), (6,)))
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"must end in the logits' shape \(2, 3\)"):
        relaxed_categorical(torch.zeros(2, 3), 1.0, torch.zeros(shape))


# ---------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("steps_per_epoch", (25, 100, 196, 1000, 5005))
def test_the_cycles_of_the_paper(steps_per_epoch):
    """tau = max(0.5, exp(-0.01 round(i / n))), n = iterations per epoch / 25, restarted every five epochs."""
    schedule = Cycles(steps_per_epoch)
    n = steps_per_epoch / 25
    cycle = [schedule(i) for i in range(5 * steps_per_epoch)]
    assert cycle == pytest.approx(
        [max(0.5, math.exp(-0.01 * round(i / n))) for i in range(5 * steps_per_epoch)]
    )
    assert cycle[0] == 1.0 and min(cycle) == 0.5 == cycle[-1]
    assert all(a >= b for a, b in itertools.pairwise(cycle))
    floor = cycle.index(0.5) / steps_per_epoch
    assert floor == pytest.approx(2.78, abs=1.01 / steps_per_epoch)
    for restart in (1, 2, 5):
        start = 5 * restart * steps_per_epoch
        assert schedule(start) == 1.0 and schedule(start - 1) == 0.5
        assert schedule(start + 2 * steps_per_epoch) == cycle[2 * steps_per_epoch]


def test_cycles_of_another_length_are_stretched():
    paper, half = Cycles(100), Cycles(100, epochs=2.5)
    assert [half(i) for i in range(250)] == [paper(2 * i) for i in range(250)]
    assert half(250) == 1.0
    assert Cycles(1, epochs=1)(0) == Cycles(1, epochs=1)(17) == 1.0
    assert min(Cycles(100, floor=0.1, decay=0.1)(i) for i in range(500)) == 0.1


def test_constant_and_exponential():
    assert {Constant(0.7)(i) for i in (0, 1, 10**6)} == {0.7} and Constant()(5) == 1.0
    schedule = Exponential(decay=0.1, floor=0.25)
    assert [schedule(i) for i in range(14)] == pytest.approx(
        [math.exp(-0.1 * i) for i in range(14)]
    )
    assert schedule(14) == schedule(10**6) == 0.25 and schedule(0) == 1.0


@pytest.mark.parametrize("floor", (math.nextafter(1, 2), 1.5, 2, 3))
def test_a_floor_above_the_start_is_refused(floor):
    assert Exponential(floor=1.0)(5) == 1.0
    with pytest.raises(ValueError, match="floor must be at most 1, where the schedule starts"):
        Exponential(floor=floor)


@pytest.mark.parametrize("bad", (0, -1, math.nan, math.inf, "1", None))
def test_schedules_refuse_what_is_no_positive_number(bad):
    for make, name in (
        (Constant, "temperature"),
        (Exponential, "decay"),
        (Exponential, "floor"),
        (Cycles, "steps_per_epoch"),
        (lambda **k: Cycles(10, **k), "epochs"),
        (lambda **k: Cycles(10, **k), "decay"),
        (lambda **k: Cycles(10, **k), "floor"),
        (lambda **k: Cycles(10, **k), "updates"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a positive number") as error:
            make(**{name: bad})
        assert repr(bad) in str(error.value)


# ---------------------------------------------------------------------------------------------------- seeds


def test_named_generators():
    draw = lambda *name: torch.rand(3, generator=named(*name)).tolist()  # noqa: E731
    assert draw(0, "order", 1) == draw(0, "order", 1)
    others = [
        draw(0, "order", 1),
        draw(1, "order", 1),
        draw(0, "order", 2),
        draw(0, "order"),
        draw(0, "order", "1"),
    ]
    others += [draw(0), draw(0, 1), draw(1, 0), draw(0, "a", "b"), draw(0, "ab"), draw(-1)]
    assert len({tuple(d) for d in others}) == len(others)
    hashes = {stable_hash(s, "x", k) for s in range(100) for k in range(100)}
    assert len(hashes) == 10**4 and min(hashes) >= 0 and max(hashes) < 2**63
    assert stable_hash(0, "order", 1) == 116889601432050504  # in every process, on every machine


@pytest.mark.parametrize("name", ((0.0,), (True,), (0, 1.5), (0, None), (0, True), ("0",)))
def test_names_are_integers_and_strings(name):
    with pytest.raises(TypeError, match="int"):
        stable_hash(*name)
