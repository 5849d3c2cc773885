"""The quantizer against an integer oracle that knows nothing of it; its gradients against the formulas."""

import doctest
import importlib
import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmq_lab import _kernels as kernels
from hmq_lab.quantizer import (
    Scheme,
    check_bits,
    codes,
    plain_quantize,
    power_of_two,
    quantize,
    shown,
    threshold_exponent,
)

BITS = (*range(1, 9), 12, 16)
EXPONENTS = (-20, -3, 0, 10)
INF, NAN = math.inf, math.nan


# ---------------------------------------------------------------------------------------------------- values


def oracle(x, bits, exponent, signed):
    """Integer codes (int64) of a NumPy array: floor, then the fraction decides, a half goes to the even neighbour."""
    step = 2.0 ** (exponent - bits + (1 if signed else 0))
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    u = np.clip(x.astype(np.float64) / step, lo - 2.0, hi + 2.0)  # a power of two divides exactly
    below = np.floor(u)
    q, fraction = below.astype(np.int64), u - below
    q += (fraction > 0.5) | ((fraction == 0.5) & (q % 2 == 1))
    return np.clip(q, lo, hi)


def hard_inputs(bits, signed, step, total=2**20):
    """Every level, every tie and their neighbours, zeros, denormals, infinities, and noise at all scales (float32)."""
    rng = np.random.default_rng(bits)
    reach = 2 ** (bits - 1) if signed else 2**bits
    grid = (
        np.arange(-2 * reach - 4, 2 * reach + 5, dtype=np.float64) * 0.5
    )  # levels and ties, and some beyond the ends
    exact = (grid * step).astype(np.float32)
    assert np.array_equal(exact.astype(np.float64), grid * step)
    near = [np.nextafter(exact, np.float32(INF)), np.nextafter(exact, np.float32(-INF))]
    tiny = np.float32([0.0, -0.0, 1e-45, -1e-45, 1e-39, -1e-39, 2.0**-126, INF, -INF, 3e38, -3e38])
    anything = rng.integers(0, 2**32, total // 4, dtype=np.uint32).view(np.float32)
    parts = [exact, *near, tiny, anything[~np.isnan(anything)]]
    rest = total - sum(map(len, parts))
    parts.append((rng.uniform(-1.25, 1.25, rest) * reach * step).astype(np.float32))
    return np.concatenate(parts)


@pytest.mark.parametrize("signed", (True, False))
@pytest.mark.parametrize("bits", BITS)
def test_agrees_with_the_integer_oracle_on_a_million_values(bits, signed):
    for exponent in EXPONENTS:
        scheme = Scheme(bits, exponent, signed)
        assert scheme.step == 2.0**exponent / 2 ** (bits - signed)
        x = hard_inputs(bits, signed, scheme.step)
        assert len(x) == 2**20
        expected = oracle(x, bits, exponent, signed)
        y = quantize(torch.from_numpy(x), scheme.step, scheme.threshold, signed)
        assert y.dtype == torch.float32
        assert np.array_equal(y.numpy(), expected * scheme.step), exponent
        # exactly 2^b levels, two's complement ends
        lo, hi = scheme.integers
        used = np.bincount(expected - lo) > 0
        assert used.all() and len(used) == scheme.levels == 2**bits
        assert (y.min().item(), y.max().item()) == (lo * scheme.step, hi * scheme.step)
        assert hi * scheme.step == scheme.threshold - scheme.step
        assert lo * scheme.step == (-scheme.threshold if signed else 0)
    q = codes(torch.from_numpy(x), scheme)
    assert q.dtype == torch.int64 and np.array_equal(q.numpy(), expected)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("signed", (True, False))
def test_half_precision_inputs_exhaustively(dtype, signed):
    x = torch.arange(2**16).to(torch.uint16).view(dtype)
    x = x[~x.isnan()]
    for bits, exponent in itertools.product((1, 3, 8, 16), (-20, 0, 10)):
        scheme = Scheme(bits, exponent, signed)
        y = quantize(x, scheme.step, scheme.threshold, signed)
        assert y.dtype == torch.float32
        assert np.array_equal(
            y.numpy(), oracle(x.float().numpy(), bits, exponent, signed) * scheme.step
        )
        assert np.array_equal(
            codes(x, scheme).numpy(), oracle(x.float().numpy(), bits, exponent, signed)
        )


def test_every_threshold_exponent_is_exact():
    x = torch.tensor([-3.0, -1.0, -0.75, -0.375, -0.1, 0.0, 0.1, 0.375, 0.7, 1.0, 2.0])
    for bits, exponent, signed in itertools.product((1, 8, 16), range(-100, 101), (True, False)):
        scheme = Scheme(bits, exponent, signed)
        scaled = x * scheme.threshold
        assert scheme.step >= torch.finfo(torch.float32).tiny
        y = quantize(scaled, scheme.step, scheme.threshold, signed)
        expected = oracle(scaled.numpy(), bits, exponent, signed)
        assert np.array_equal(y.double().numpy(), expected * scheme.step)
        assert np.array_equal(codes(scaled, scheme).numpy(), expected)


def test_float64_is_computed_in_float64():
    x = torch.tensor([0.25 + 1e-12, 0.25, 0.25 - 1e-12, 0.75 - 1e-12, 1e300], dtype=torch.float64)
    y = quantize(x, 0.5, 1.0, True)
    assert y.dtype == torch.float64
    assert y.tolist() == [0.5, 0.0, 0.0, 0.5, 0.5]
    third = quantize(torch.tensor([1.0], dtype=torch.float64), 1 / 3, 2.0, True)
    assert third.item() == (1 / 3) * 3
    assert codes(x, Scheme(2, 0, True)).tolist() == [1, 0, 0, 1, 1]


def test_autocast_does_not_reach_the_quantizer():
    x = torch.from_numpy(hard_inputs(8, True, 2.0**-7, total=2**14))
    steps = torch.tensor(0.0078125, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = quantize(x, steps, 1.0, True)
        half = quantize(x.bfloat16(), steps, 1.0, True)
    assert y.dtype == half.dtype == torch.float32
    assert torch.equal(y, quantize(x, 2.0**-7, 1.0, True))
    assert torch.equal(half, quantize(x.bfloat16().float(), 2.0**-7, 1.0, True))


def test_nan_propagates_and_has_no_code():
    x = torch.tensor([NAN, 0.3, INF, -INF, NAN])
    y = quantize(x, 0.5, 1.0, True)
    assert y.isnan().tolist() == [True, False, False, False, True]
    assert y[1:4].tolist() == [0.5, 0.5, -1.0]
    assert quantize(torch.full((2**17,), NAN), 0.5, 1.0, False).isnan().all()  # through the blocks
    with pytest.raises(ValueError, match=r"NaN in 2 of 5"):
        codes(x, Scheme(2, 0, True))


@pytest.mark.parametrize("signed", (True, False))
def test_a_scheme_says_all(signed):
    x = torch.randn(1000) * 2
    for bits, exponent in itertools.product((1, 3, 16), (-20, 0, 10)):
        scheme = Scheme(bits, exponent, signed)
        expected = oracle(x.numpy(), bits, exponent, signed) * scheme.step
        assert np.array_equal(quantize(x, scheme).double().numpy(), expected)
        assert torch.equal(quantize(x, scheme), quantize(x, scheme.step, scheme.threshold, signed))
    x.requires_grad_()
    quantize(x, Scheme(2, 0, signed)).sum().backward()
    assert torch.equal(
        x.grad, ((x > (-1.25 if signed else -0.125)) & (x <= (0.75 if signed else 0.875))).float()
    )


def test_what_quantize_is_called_with():
    x, scheme = torch.zeros(3), Scheme(2, 0, True)
    for wrong in ((scheme, 1.0), (scheme, 1.0, True), (scheme, None, True)):
        with pytest.raises(TypeError, match=r"call quantize\(x, scheme\)"):
            quantize(x, *wrong)
    for wrong in ((), (0.5,)):
        with pytest.raises(TypeError, match="quantize"):
            quantize(x, *wrong)
    with pytest.raises(ValueError, match="signed must be True or False, got None"):
        quantize(x, 0.5, 1.0)


def test_messages_show_a_value_in_one_short_line():
    big = torch.randn(64, 64)
    for call in (
        lambda: quantize(big, [big], 1.0, True),
        lambda: quantize(big, 0.1, 1.0, big),
        lambda: quantize(big, 0.1, {"threshold": big}, True),
        lambda: quantize([big], 0.1, 1.0, True),
        lambda: quantize(big, big[:3, :3], 1.0, True),
        lambda: Scheme(big, 0, True),
        lambda: Scheme(2, big.numpy(), True),
        lambda: Scheme(2, 0, big),
        lambda: check_bits(big, among=[big]),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            call()
        assert len(str(error.value)) < 420 and "\n" not in str(error.value)
    assert (
        shown(big) == "a Tensor of shape (64, 64)"
        and shown(big.numpy()) == "a ndarray of shape (64, 64)"
    )
    assert shown(torch.tensor(0.5)) == "a Tensor of shape ()"
    assert (
        shown("a") == "'a'"
        and shown(None) == "None"
        and shown(np.float64(0.5)) == repr(np.float64(0.5))
    )


def test_zeros_of_both_signs_and_one_bit():
    assert quantize(torch.tensor([0.0, -0.0]), 0.5, 1.0, True).tolist() == [0, 0]
    assert Scheme(1, 0, True).values == (-1.0, 0.0)
    assert Scheme(1, 0, False).values == (0.0, 0.5)
    x = torch.tensor([-9.0, -0.51, -0.5, -0.2, 0.2, 9.0])
    assert quantize(x, 1.0, 1.0, True).tolist() == [-1, -1, 0, 0, 0, 0]


def test_the_paper_scheme_table():
    for bits, exponent, signed in itertools.product(BITS, (-100, -7, 0, 3, 100), (True, False)):
        scheme = Scheme(bits, exponent, signed)
        t = 2.0**exponent
        assert scheme.threshold == t
        assert scheme.step == (2 * t if signed else t) / 2**bits == 2.0**scheme.step_exponent
        assert scheme.levels == 2**bits == scheme.integers[1] - scheme.integers[0] + 1
    values = Scheme(3, 1, True).values
    assert values == (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    assert Scheme(3, 1, False).values == tuple(k / 4 for k in range(8))
    assert str(Scheme(8, -3, False)) == "8 bits unsigned below 2^-3"
    assert str(Scheme(1, 2, True)) == "1 bit signed below 2^2"


@pytest.mark.parametrize("bits", (0, -1, 17, 2.5, 40, True, "4", None, NAN))
def test_bits_out_of_range_are_named(bits):
    with pytest.raises(ValueError, match="integers from 1 to 16") as error:
        Scheme(bits, 0, True)
    assert f"got {bits!r}" in str(error.value)
    with pytest.raises(ValueError, match=r"in \(2, "):
        check_bits(bits, among=(2, bits))


@pytest.mark.parametrize("exponent", (101, -101, 0.5, True, 2.0, "1", None))
def test_exponents_out_of_range_are_named(exponent):
    with pytest.raises(ValueError, match="integer from -100 to 100") as error:
        Scheme(4, exponent, True)
    assert f"got {exponent!r}" in str(error.value)


@pytest.mark.parametrize("signed", (1, 0, None, "yes"))
def test_signed_must_be_a_bool(signed):
    with pytest.raises(ValueError, match="True or False") as error:
        Scheme(4, 0, signed)
    assert repr(signed) in str(error.value)
    with pytest.raises(ValueError, match="True or False"):
        quantize(torch.zeros(2), 0.5, 1.0, signed)


def test_schemes_are_plain_values():
    scheme = Scheme(np.int64(4), np.int32(-2), True)
    assert type(scheme.bits) is int and type(scheme.threshold_exponent) is int
    assert scheme == Scheme(4, -2, True) and hash(scheme) == hash(Scheme(4, -2, True))
    with pytest.raises(AttributeError):
        scheme.bits = 3


@pytest.mark.parametrize("value", (0, -1.0, NAN, INF, "1", None, 1e-50, 1e39, 0.5j))
def test_numbers_that_are_no_step_are_refused(value):
    x = torch.ones(3)
    with pytest.raises(ValueError, match="step must be positive") as error:
        quantize(x, value, 1.0, True)
    assert repr(value) in str(error.value)
    with pytest.raises(ValueError, match="threshold must be positive"):
        quantize(x, 1.0, value, True)
    if value in (1e-50, 1e39):  # in float64 they are steps
        assert quantize(x.double(), value, 2 * value, True).isfinite().all()


@pytest.mark.parametrize("value", (0.0, -0.25, NAN, INF, -INF))
def test_tensors_that_are_no_step_are_refused(value):
    x, step, threshold = torch.ones(4, 3), torch.full((4, 1), 0.25), torch.full((4, 1), 1.0)
    assert quantize(x, step, threshold, True).isfinite().all()
    for name, tensor in (("step", step), ("threshold", threshold)):
        tensor[2] = value
        with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {value!r}"):
            quantize(x, step.requires_grad_(), threshold, True)
        tensor.data[2] = 0.25
    threshold[1] = 0.2
    with pytest.raises(
        ValueError, match=r"step must be at most threshold.*got step 0\.25 and threshold 0\.2"
    ):
        quantize(x, step, threshold, True)
    assert (
        quantize(x, 0.25, 0.25, True).tolist() == [[0.0] * 3] * 4
    )  # as a signed tensor of one bit


def test_unchecked_values_are_computed_with():
    """What a block asks for: no look at the numbers, so a GPU is not waited for."""
    assert quantize(torch.ones(2), torch.tensor(NAN), 1.0, True, check=False).isnan().all()


def test_shapes_that_do_not_broadcast_are_named():
    x = torch.zeros(4, 3, 2, 2)
    for shape in ((3,), (4,), (4, 3, 2, 2, 1), (1, 4, 1, 1)):
        with pytest.raises(ValueError, match="does not broadcast") as error:
            quantize(x, torch.ones(shape), 1.0, True)
        assert str(tuple(shape)) in str(error.value) and "(4, 3, 2, 2)" in str(error.value)
    with pytest.raises(ValueError, match="does not broadcast"):  # x must not grow
        quantize(torch.zeros(3, 1), torch.ones(1, 5), 1.0, True)


@pytest.mark.parametrize(
    "x", (torch.arange(3), torch.tensor([True]), [1.0], 2.0, torch.zeros(2).to(torch.complex64))
)
def test_only_floating_tensors(x):
    with pytest.raises(TypeError, match="floating-point tensor"):
        quantize(x, 1.0, 1.0, True)


def test_input_is_left_alone():
    x = torch.randn(5, 3)
    before = x.clone()
    y = quantize(x, 0.5, 1.0, True)
    assert torch.equal(x, before) and y.data_ptr() != x.data_ptr()
    big = torch.randn(2**17)
    before = big.clone()
    quantize(big, 0.5, 1.0, True)
    assert torch.equal(big, before)


positive = st.floats(2**-10, 2**10, allow_nan=False)


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    positive,
    positive,
    st.booleans(),
)
def test_properties_for_any_step_and_threshold(xs, step, threshold, signed):
    x = torch.tensor(xs, dtype=torch.float64)
    if step > threshold:
        for s, t in ((step, threshold), (torch.tensor(step, dtype=torch.float64), threshold)):
            with pytest.raises(ValueError, match="step must be at most threshold") as error:
                quantize(x, s, t, signed)
            assert f"step {step!r} and threshold {threshold!r}" in str(error.value)
        return
    y = quantize(x, step, threshold, signed)
    lo, hi = (-threshold if signed else 0.0), threshold - step
    slack = 1e-9 * (step + threshold)
    assert ((y >= lo - slack) & (y <= hi + slack)).all()
    inside = (x >= lo) & (x <= hi)
    assert ((y - x).abs()[inside] <= step / 2 + slack).all()
    order = x.argsort()
    assert (y[order].diff() >= 0).all()


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    st.sampled_from(BITS),
    st.booleans(),
)
def test_quantizing_twice_changes_nothing(xs, bits, signed):
    scheme = Scheme(bits, 2, signed)
    once = quantize(torch.tensor(xs), scheme.step, scheme.threshold, signed)
    assert torch.equal(quantize(once, scheme.step, scheme.threshold, signed), once)
    assert torch.equal((codes(once, scheme) * scheme.step).float(), once)


def test_power_of_two_and_threshold_exponent_are_exact():
    exponents = torch.arange(-126, 128)
    assert power_of_two(exponents).tolist() == [2.0**e for e in range(-126, 128)]
    assert power_of_two(torch.tensor([[3], [-1]])).tolist() == [[8.0], [0.5]]
    for e in range(-1000, 1000):
        p = 2.0**e
        assert threshold_exponent(p) == e
        assert threshold_exponent(math.nextafter(p, INF)) == e + 1
        assert threshold_exponent(math.nextafter(p, 0)) == e
    assert threshold_exponent(0.0) == 0
    assert threshold_exponent(5e-324) == -1074
    for bad in (NAN, INF, -INF, -1e-30):
        with pytest.raises(ValueError, match="finite and >= 0") as error:
            threshold_exponent(bad)
        assert repr(bad) in str(error.value)


@pytest.mark.parametrize("name", ("quantizer", "gumbel", "block", "seeds"))
def test_the_examples_are_true(name):
    module = importlib.import_module(f"hmq_lab.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0 and result.attempted >= 6


# ---------------------------------------------------------------------------------------------------- gradients


def formulas(x, step, threshold, signed, grad):
    """The gradients of x, step and threshold as the sheet of facts states them, element by element in float64."""
    x, grad = x.detach().double(), grad.double()
    s, t = step.detach().double(), threshold.detach().double()
    lo, hi = (-t / s if signed else 0 * t / s), t / s - 1
    u = (x / s).expand(x.shape)
    r = u.round()
    inside = (lo <= r) & (r <= hi)
    above, below = r > hi, r < lo
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    on_x = torch.where(inside, one, zero)
    on_step = torch.where(inside, r - u, torch.where(above, -one, zero))
    on_threshold = torch.where(above, one, torch.where(below, -one if signed else zero, zero))
    return (
        grad * on_x,
        (grad * on_step).sum_to_size(step.shape),
        (grad * on_threshold).sum_to_size(threshold.shape),
    )


def with_where(x, step, threshold, signed):
    """Straight-through quantization composed from torch.where, for autograd to differentiate; finite x."""
    lo, hi = (-threshold / step if signed else 0 * threshold / step), threshold / step - 1
    u = x / step
    r = u + (u.round() - u).detach()
    d = u.round().detach()
    return torch.where(d > hi, hi, torch.where(d < lo, lo, r)) * step


def check_gradients(x, step, threshold, signed, tolerance=1e-9, composed=True):
    grad = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [
        p.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for p in (step, threshold)
    ]
    x = x.detach().requires_grad_()
    y = quantize(x, *leaves, signed)
    assert y.shape == x.shape
    found = torch.autograd.grad(y, (x, *leaves), grad.to(y.dtype))
    expected = formulas(x, step, threshold, signed, grad)
    scale = 1 + grad.abs().sum().item() if grad.numel() else 1
    for name, a, b in zip(("x", "step", "threshold"), found, expected, strict=True):
        assert a.shape == b.shape, name
        assert a.isfinite().all(), name
        assert torch.allclose(a.double(), b, rtol=tolerance, atol=tolerance * scale), name
    if composed:
        wide = [p.detach().double().requires_grad_() for p in (x, *leaves)]
        z = with_where(*wide, signed)
        assert torch.allclose(y.double(), z, rtol=tolerance, atol=tolerance)
        for a, b in zip(found, torch.autograd.grad(z, wide, grad), strict=True):
            assert torch.allclose(a.double(), b, rtol=tolerance, atol=tolerance * scale)


SHAPES = [  # x, step, threshold
    ((4, 3, 5, 6), (), ()),
    ((4, 3, 5, 6), (4, 1, 1, 1), (4, 1, 1, 1)),
    ((4, 3, 5, 6), (1, 3, 1, 1), (1, 3, 1, 1)),
    ((4, 3, 5, 6), (1, 1, 1, 1), (1,)),
    ((4, 3, 5, 6), (4, 1, 1, 1), ()),
    ((4, 3, 5, 6), (), (1, 3, 1, 1)),
    ((4, 3, 5, 6), (4, 1, 1, 1), (1, 3, 1, 1)),
    ((4, 3, 5, 6), (3, 1, 1), (4, 1, 1, 6)),
    ((4, 3, 5, 6), (4, 3, 5, 6), (6,)),
    ((4, 3, 5, 6), (5, 1), (4, 1, 1, 1)),
    ((4, 1, 3, 3), (1, 1, 1, 1), (1, 1, 1, 1)),  # a depthwise weight
    ((7, 5), (7, 1), (7, 1)),
    ((7, 5), (1, 5), (7, 1)),
    ((7,), (7,), ()),
    ((2, 3, 4, 5, 2), (1, 3, 1, 1, 1), (2, 1, 1, 1, 1)),
    ((), (), ()),
    ((0, 3, 4, 4), (), ()),
    ((0, 3, 4, 4), (0, 1, 1, 1), (0, 1, 1, 1)),
    ((0, 3, 4, 4), (1, 3, 1, 1), ()),
    ((3, 0), (3, 1), (3, 1)),
]


@pytest.mark.parametrize("signed", (True, False))
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_gradients_for_every_shape_of_step_and_threshold(shapes, signed):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(shapes[0], dtype=torch.float64, generator=g) * 1.5
    step = torch.rand(shapes[1], dtype=torch.float64, generator=g) * 0.4 + 0.05  # no powers of two
    threshold = torch.rand(shapes[2], dtype=torch.float64, generator=g) * 1.5 + 0.6
    check_gradients(x, step, threshold, signed)


def ties_and_ends(step, threshold):
    """Every tie and every level well beyond both ends of the grid."""
    reach = round(threshold / step) + 3
    return torch.arange(-2 * reach, 2 * reach + 1) * 0.5 * step


@pytest.mark.parametrize("signed", (True, False))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_gradients_at_every_tie_level_and_end(signed, dtype):
    for bits, exponent in itertools.product((1, 2, 3, 8), (-20, 0, 10)):
        scheme = Scheme(bits, exponent, signed)
        x = ties_and_ends(scheme.step, scheme.threshold).to(dtype)
        step, threshold = (torch.tensor(v, dtype=dtype) for v in (scheme.step, scheme.threshold))
        check_gradients(
            x, step, threshold, signed, tolerance=1e-5 if dtype == torch.float32 else 1e-9
        )


def test_what_rounds_onto_an_end_level_keeps_its_gradient():
    """Unlike the authors' code: a hard 1-bit signed tensor learns."""
    x = torch.tensor([-1.6, -1.5, -1.4, -1.0, -0.6, -0.4, 0.0, 0.5, 0.6], requires_grad=True)
    step, threshold = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    y = quantize(x, step, threshold, True)
    assert y.tolist() == [-1, -1, -1, -1, -1, 0, 0, 0, 0]
    y.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0]  # -1.5 goes to the even -2, 0.5 to 0
    inside = torch.tensor([-1.4, -1.0, -0.6, -0.4, 0.0, 0.5])
    assert step.grad.item() == pytest.approx((inside.round() - inside).sum().item() - 1, abs=1e-6)
    assert threshold.grad.item() == 1 - 2


def test_infinities_give_finite_gradients():
    for signed, dtype in itertools.product((True, False), (torch.float32, torch.float64)):
        x = torch.tensor([INF, -INF, 3e38, -3e38, 0.3, 0.0, -0.2], dtype=dtype)
        for step, threshold in ((0.25, 1.0), (0.3, 1.1), (2.0**-15, 1.0)):
            s, t = torch.tensor(step, dtype=dtype), torch.tensor(threshold, dtype=dtype)
            check_gradients(
                x, s, t, signed, tolerance=1e-5 if dtype == torch.float32 else 1e-9, composed=False
            )
    x = torch.full((3, 70000), INF)  # through the blocks
    check_gradients(
        x, torch.full((3, 1), 0.25), torch.ones(3, 1), True, tolerance=1e-5, composed=False
    )


def layouts(x):
    """The same numbers in every arrangement of memory."""
    yield x.contiguous(memory_format=torch.channels_last)
    yield x.transpose(1, 2).contiguous().transpose(1, 2)
    yield x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    yield torch.stack((x, -x), -1)[..., 0]
    yield torch.cat((x, x), 2)[:, :, : x.shape[2]]
    padded = torch.zeros(x.shape[0], 2 * x.shape[1], x.shape[2], x.shape[3] + 3, dtype=x.dtype)
    padded[:, ::2, :, 1:-2] = x
    yield padded[:, ::2, :, 1:-2]
    yield x.flip(0).flip(0)


@pytest.mark.parametrize("shapes", SHAPES[:6], ids=str)
def test_layouts_of_memory_make_no_difference(shapes):
    x = torch.randn(shapes[0], dtype=torch.float64) * 1.5
    step = torch.rand(shapes[1], dtype=torch.float64) * 0.4 + 0.05
    threshold = torch.rand(shapes[2], dtype=torch.float64) * 1.5 + 0.6
    expected = quantize(x, step, threshold, True)
    for same in layouts(x):
        assert torch.equal(same, x)
        assert torch.equal(quantize(same, step, threshold, True), expected)
        check_gradients(same, step, threshold, True)
    wide = torch.randn(1, 3, 1, 6, dtype=torch.float64).expand(4, 3, 5, 6)
    check_gradients(wide, step, threshold, True)
    backwards = torch.autograd.grad(
        quantize(z := x.clone().requires_grad_(), step, threshold, True),
        z,
        torch.ones(()).double().expand(x.shape),
    )[0]  # a gradient without strides of its own
    assert torch.equal(backwards, formulas(x, step, threshold, True, torch.ones_like(x))[0])


def test_pictures_keep_their_layout():
    for shape, steps in itertools.product(((4, 3, 8, 8), (8, 32, 24, 24)), ((), "pictures")):
        x = torch.randn(shape)
        step = torch.rand((shape[0], 1, 1, 1) if steps else ()) * 0.9 + 0.1
        for layout in (torch.contiguous_format, torch.channels_last):
            z = x.to(memory_format=layout).requires_grad_()
            y = quantize(z, step, 1.0, True)
            assert y.is_contiguous(memory_format=layout)
            assert torch.autograd.grad(y.sum(), z)[0].is_contiguous(memory_format=layout)


LARGE = [
    ((3 * 2**16 + 7,), ()),  # one row, longer than a block
    ((3, 70001), (3, 1)),  # rows longer than a block
    ((2001, 50), (2001, 1)),  # many rows to a block, the last block short
    ((50, 2001), (1, 2001)),
    ((300, 16, 5, 5), (300, 1, 1, 1)),
    ((300, 16, 5, 5), (1, 16, 1, 1)),
    ((2**16 + 1, 1), (2**16 + 1, 1)),  # a step for each element
    ((2, 2**16), (2, 1)),  # rows of exactly a block
]


@pytest.mark.parametrize("signed", (True, False))
@pytest.mark.parametrize("shapes", LARGE, ids=str)
def test_blockwise_kernels(shapes, signed):
    assert math.prod(shapes[0]) > kernels.TILE
    x = torch.randn(shapes[0], dtype=torch.float64) * 1.5
    step = torch.rand(shapes[1], dtype=torch.float64) * 0.4 + 0.05
    threshold = torch.rand(shapes[1], dtype=torch.float64) * 1.5 + 0.6
    check_gradients(x, step, threshold, signed)
    for row in (0, -1):  # one step for each row: a row by itself is the same
        if len(shapes[0]) == 2 and shapes[1][0] > 1:
            alone = quantize(x[row], step[row], threshold[row], signed)
            assert torch.equal(quantize(x, step, threshold, signed)[row], alone)
    if len(shapes[0]) == 4:
        check_gradients(x.contiguous(memory_format=torch.channels_last), step, threshold, signed)
        check_gradients(x[:, ::2], step[:, ::2], threshold[:, ::2], signed)


def test_gradients_in_float32_of_a_large_tensor_are_accurate():
    x = torch.randn(8, 2**15) * 1.5
    check_gradients(x, torch.full((8, 1), 0.25), torch.ones(8, 1), True, tolerance=1e-5)
    check_gradients(x, torch.tensor(0.25), torch.tensor(1.0), False, tolerance=1e-5)


@pytest.mark.parametrize("large", (False, True))
def test_dtypes_of_gradients(large):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.randn(2**17 if large else 10).to(dtype).requires_grad_()
        step = torch.tensor(0.25, requires_grad=True)
        y = quantize(x, step, 1.0, True)
        y.backward(torch.ones_like(y))
        assert x.grad.dtype == dtype and step.grad.dtype == torch.float32
        expected = formulas(x, step, torch.tensor(1.0), True, torch.ones(x.shape))
        assert torch.equal(x.grad.double(), expected[0])
        assert step.grad.item() == pytest.approx(expected[1].item(), rel=1e-4, abs=1e-2)


def test_gradients_are_given_only_where_wanted():
    x = torch.randn(6, requires_grad=True)
    quantize(x, 0.5, 1.0, True).sum().backward()
    assert torch.equal(
        x.grad, formulas(x, torch.tensor(0.5), torch.tensor(1.0), True, torch.ones(6))[0].float()
    )
    step = torch.tensor(0.5, requires_grad=True)
    quantize(x.detach(), step, 1.0, True).sum().backward()
    assert step.grad is not None
    assert not quantize(x.detach(), 0.5, 1.0, True).requires_grad
    with torch.no_grad():
        assert not quantize(x, step, 1.0, True).requires_grad


def test_the_result_may_be_changed_in_place():
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    step = torch.full((4, 1, 1, 1), 0.25, requires_grad=True)
    y = quantize(x, step, 1.0, True)
    y += 0.5  # as in `out += identity`
    torch.relu_(y).sum().backward()
    expected = formulas(
        x, step, torch.tensor(1.0), True, (quantize(x, 0.25, 1.0, True) + 0.5 > 0).double()
    )
    assert torch.equal(x.grad.double(), expected[0])
    assert torch.allclose(step.grad.double(), expected[1], atol=1e-5)


# ---------------------------------------------------------------------------------------------------- compiled

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@compiler
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # torch hides it itself, unless it is an error
def test_compiled_kernels_agree_with_eager():
    x, grad = torch.randn(3, 30011) * 1.5, torch.randn(3, 30011)
    x[0, :7] = torch.tensor([INF, -INF, 0.125, 0.375, -0.125, 1.0, -1.125])
    step, threshold = torch.tensor([[0.25], [0.3], [0.0625]]), torch.tensor([[1.0], [1.3], [1.0]])
    assert x.numel() > kernels.TILE

    def run():
        leaves = [p.clone().requires_grad_() for p in (x, step, threshold)]
        y = quantize(*leaves, True)
        return y.detach(), *torch.autograd.grad(y, leaves, grad)

    eager = run()
    with kernels.compiled():
        compiled = run()
    for a, b in zip(eager, compiled, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=2e-3 if a.shape == step.shape else 1e-6)
    with kernels.compiled():
        with kernels.compiled(False):
            assert not kernels._compiling
        assert kernels._compiling
    assert not kernels._compiling


def check_compiled_quantize(backend):
    def function(x, step, threshold):
        return (quantize(x * 1.0, step, threshold, True) + quantize(x, 0.5, 2.0, False)).sin()

    compiled = torch.compile(function, backend=backend, fullgraph=True)
    x = torch.randn(4, 3, 8, 8) * 1.5
    x.view(-1)[:8] = torch.tensor([INF, -INF, 0.125, 0.375, -0.125, 1.0, -1.125, -1.0])
    step, threshold = torch.rand(4, 1, 1, 1) * 0.3 + 0.1, torch.rand(4, 1, 1, 1) + 0.5
    step[0], threshold[0] = 0.25, 1.0
    results = []
    for f in (function, compiled):
        leaves = [p.clone().requires_grad_() for p in (x, step, threshold)]
        y = f(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.sum(), leaves)])
    for eager, other in zip(*results, strict=True):
        assert eager.isfinite().all()
        assert torch.allclose(eager, other, rtol=1e-4, atol=1e-4)


def test_a_traced_function_that_quantizes_agrees_with_eager():
    check_compiled_quantize("aot_eager")


@compiler
def test_a_compiled_function_that_quantizes_agrees_with_eager():
    check_compiled_quantize("inductor")


@pytest.mark.parametrize("signed", (True, False))
def test_the_plain_definition_is_the_same_function(signed):
    for bits, exponent in itertools.product((1, 2, 8), (-20, 0, 10)):
        scheme = Scheme(bits, exponent, signed)
        x = torch.from_numpy(hard_inputs(bits, signed, scheme.step, total=2**13))
        y = plain_quantize(x, torch.tensor(scheme.step), torch.tensor(scheme.threshold), signed)
        assert torch.equal(y, quantize(x, scheme.step, scheme.threshold, signed))
    x = torch.cat(
        (torch.randn(1000, dtype=torch.float64) * 2, torch.tensor([INF, -INF], dtype=torch.float64))
    )
    for step, threshold in ((0.3, 1.1), (0.25, 1.0), (0.5, 0.6), (0.7, 0.8)):
        results = []
        for f in (quantize, plain_quantize):
            leaves = [x.clone(), torch.tensor(step).double(), torch.tensor(threshold).double()]
            leaves = [p.requires_grad_() for p in leaves]
            y = f(*leaves, signed)
            results.append([y, *torch.autograd.grad(y.sum(), leaves)])
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9), (step, threshold)
    for shapes in (*SHAPES, *LARGE):
        x = torch.randn(shapes[0], dtype=torch.float64) * 1.5
        step = torch.rand(shapes[1], dtype=torch.float64) * 0.4 + 0.05
        threshold = torch.rand(shapes[-1], dtype=torch.float64) * 1.5 + 0.6
        singles = [p.float() for p in (x, step, threshold)]
        assert torch.equal(plain_quantize(*singles, signed), quantize(*singles, signed))
        grad, results = torch.randn(shapes[0], dtype=torch.float64), []
        for f in (quantize, plain_quantize):
            leaves = [p.clone().requires_grad_() for p in (x, step, threshold)]
            y = f(*leaves, signed)
            results.append([y, *torch.autograd.grad(y, leaves, grad)])
        (y, *found), (z, *plain) = results
        assert torch.equal(y, z)
        scale = 1 + grad.abs().sum().item()
        for a, b in zip(found, plain, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-15 * scale), shapes
    assert (
        plain_quantize(torch.tensor([NAN]), torch.tensor(0.5), torch.tensor(1.0), signed)
        .isnan()
        .all()
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_oracle():
    for bits, signed in itertools.product((1, 3, 8, 16), (True, False)):
        scheme = Scheme(bits, 0, signed)
        x = hard_inputs(bits, signed, scheme.step)
        y = quantize(torch.from_numpy(x).cuda(), scheme.step, scheme.threshold, signed)
        assert np.array_equal(y.cpu().numpy(), oracle(x, bits, 0, signed) * scheme.step)
    x = torch.randn(4, 3, 5, 5).cuda().requires_grad_()
    step = torch.rand(4, 1, 1, 1).cuda() * 0.9 + 0.1
    quantize(x, step, 1.0, True).sum().backward()
    expected = formulas(x.cpu(), step.cpu(), torch.tensor(1.0), True, torch.ones(x.shape))[0]
    assert torch.equal(x.grad.cpu().double(), expected)
