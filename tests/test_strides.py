"""What quantize, its gradients and a block return lies in memory exactly as their input does.

torch's convolutions on the CPU misread weights whose strides are not what their shape suggests: with strides of our
own, training wrote outside of its memory and the process died.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.quantizer import quantize

SHAPES = {
    "3x3": (48, 3, 3, 3),
    "1x1": (128, 48, 1, 1),
    "depthwise": (64, 1, 3, 3),
    "one filter": (1, 8, 3, 3),
    "linear": (10, 64),
    "1d": (12, 6, 5),
    "3d": (6, 4, 3, 3, 3),
    "images": (4, 8, 6, 6),
    "one image": (1, 8, 6, 6),
    "gray images": (4, 1, 6, 6),
    "pooled": (4, 8, 1, 1),
    "videos": (2, 4, 3, 5, 5),
    "blocks": (64, 160, 3, 3),  # more than the kernels take at once
    "large images": (2, 16, 48, 48),
    "no images": (0, 3, 4, 4),
}


def layouts(shape):
    """The same random numbers in many arrangements of memory, by name."""
    x = torch.randn(shape)
    yield "contiguous", x
    yield "transposed", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield (
        "reversed",
        x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))),
    )
    if x.dim() == 4:
        yield "channels last", x.contiguous(memory_format=torch.channels_last)
    if x.dim() == 5:
        yield "channels last", x.contiguous(memory_format=torch.channels_last_3d)
    yield "with gaps", torch.stack((x, -x), -1)[..., 0]
    yield "a chunk", torch.cat((x, x), 1).chunk(2, 1)[1]
    yield "expanded", x[:1].expand(shape)


def sample_sizes(shape):
    """The sizes of a step for the whole tensor, for each image, and for each input channel."""
    yield (1,) * len(shape)
    yield (shape[0], *(1,) * (len(shape) - 1))
    yield (1, shape[1], *(1,) * (len(shape) - 2))


def wanted_strides(x):
    """Those of x; where x has gaps or overlaps, the dense ones that torch itself gives to a result of its shape."""
    spread = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1
    if x.numel() == 0 or spread == x.numel():
        return x.stride()
    return torch.empty_like(x).stride()


def check_strides(function, x):
    """The result and the gradient of x, whatever the layout of the gradient that comes in."""
    wanted = wanted_strides(x)
    x = x.detach().requires_grad_()
    y = function(x)
    assert y.shape == x.shape and y.stride() == wanted
    for grad in (
        torch.ones(y.shape),
        torch.ones(()).expand(y.shape),
        torch.ones(y.shape[::-1]).permute(*range(y.dim())[::-1]),
    ):
        found = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        assert found.shape == x.shape and found.stride() == wanted


@pytest.mark.parametrize("kind", SHAPES)
def test_a_result_and_its_gradient_have_the_strides_of_their_input(kind):
    shape = SHAPES[kind]
    dense = 0
    for (_, x), size in itertools.product(layouts(shape), sample_sizes(shape)):
        dense += wanted_strides(x) == x.stride()
        step, threshold = torch.full(size, 0.3), torch.full(size, 1.0)
        check_strides(lambda x, s=step, t=threshold: quantize(x, s, t, True), x)  # fixed schemes
        step.requires_grad_()
        check_strides(lambda x, s=step, t=threshold: quantize(x, s, t, True), x)  # the search
    assert dense >= 9


def test_other_types_have_the_strides_of_their_input_too():
    for dtype, size in itertools.product(
        (torch.float16, torch.bfloat16, torch.float64), sample_sizes((6, 4, 3, 3))
    ):
        for _, x in layouts((6, 4, 3, 3)):
            check_strides(
                lambda x, size=size: quantize(x, torch.full(size, 0.3), 1.0, True), x.to(dtype)
            )


@st.composite
def arranged(draw):
    """A tensor of up to five axes with any order of them in memory, and the axes along which its step varies."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(shape))))
    x = torch.randn([shape[axis] for axis in order])
    back = [order.index(axis) for axis in range(len(shape))]
    varies = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    return x.permute(back), [n if v else 1 for n, v in zip(shape, varies, strict=True)]


@given(arranged())
def test_strides_of_any_shape_and_order(case):
    x, size = case
    step = (torch.rand(size) * 0.3 + 0.1).requires_grad_()
    assert wanted_strides(x) == x.stride()
    check_strides(lambda x: quantize(x, step, 1.0, True), x)


@pytest.mark.parametrize(
    "kind", ("3x3", "1x1", "depthwise", "linear", "images", "pooled", "videos", "blocks")
)
def test_a_block_returns_the_strides_of_its_input(kind, generator):
    for axis, (_, x) in itertools.product((0, 1), layouts(SHAPES[kind])):
        block = HMQ(SearchSpace((2, 4, 8), 3), 0, True, sample_axis=axis, generator=generator)
        for training, fixed, enabled in itertools.product((True, False), repeat=3):
            block.train(training).enabled = enabled
            block.fix() if fixed else block.free()
            if enabled:
                check_strides(block, x)
            else:
                assert block(x) is x


def test_gradients_of_weights_are_kept_in_their_layout():
    """What the optimizer sees after the backward pass of a convolution."""
    for shape, groups, layout in (
        ((16, 8, 1, 1), 1, torch.contiguous_format),
        ((16, 8, 1, 1), 1, torch.channels_last),
        ((16, 3, 3, 3), 1, torch.contiguous_format),
        ((16, 3, 3, 3), 1, torch.channels_last),
        ((16, 1, 3, 3), 16, torch.contiguous_format),
    ):
        weight = torch.randn(shape).to(memory_format=layout).requires_grad_()
        step = torch.full((1, shape[1], 1, 1), 0.1, requires_grad=True)
        x = torch.randn(2, shape[1] * groups, 12, 12).to(memory_format=layout)
        quantized = quantize(weight, step, 1.0, True)
        torch.nn.functional.conv2d(
            x, quantized, padding=shape[-1] // 2, groups=groups
        ).square().sum().backward()
        assert quantized.stride() == weight.stride() == weight.grad.stride()


@pytest.mark.parametrize("kind", ("3x3", "1x1", "linear", "images"))
def test_a_traced_function_keeps_the_order_of_memory(kind):
    """Within a compiled network the compiler lays out what lies between; axes of one element say nothing to it."""

    def function(x, step):
        return quantize(x, step, 1.0, True)

    for name, x in layouts(SHAPES[kind]):
        torch._dynamo.reset()
        size = (1, x.shape[1], *(1,) * (x.dim() - 2))
        eager = torch.compile(function, backend="eager", fullgraph=True)(x, torch.full(size, 0.3))
        assert eager.stride() == wanted_strides(x), name
        traced = torch.compile(function, backend="aot_eager", fullgraph=True)(
            x, torch.full(size, 0.3)
        )
        pairs = zip(x.shape, traced.stride(), wanted_strides(x), strict=True)
        assert all(found == wanted for n, found, wanted in pairs if n > 1), name
    torch._dynamo.reset()
