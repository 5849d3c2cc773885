"""Unusual but legitimate networks through the whole way: attach, train, hardware mode, files, integers, ONNX, detach.

Each result is equal to the simulation, or refused by name in one line.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from hmq_lab import attach, detach
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.hardware.packing import pack, unpack
from hmq_lab.network import blocks, placements, switched_off


class Net(nn.Module):
    """A convolution, a way of writing the rest, a linear layer."""

    def __init__(self, way, outputs=8, **layers):
        super().__init__()
        self.way, self.stem = way, layers.pop("stem", None) or nn.Conv2d(3, 8, 3, padding=1)
        for name, layer in layers.items():
            if isinstance(layer, torch.Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)
        self.head = nn.Linear(outputs, 5)

    def forward(self, x, second=None):
        return self.head(self.way(self, F.relu(self.stem(x))).flatten(1))


def pooled(x):
    return x.mean(tuple(range(2, x.dim())))


def conv(kernel=1, **options):
    return nn.Conv2d(8, 8, kernel, **options)


def parts(m, x):
    x = x.clone()
    x[:, ::2] += 1
    x[:, 0].mul_(0.5)
    first, second = x.chunk(2, dim=1)
    third, fourth = torch.split(second, [1, 3], 1)
    columns = torch.stack(first.unbind(1)[::-1], dim=1)
    return pooled(F.relu(m.a(torch.cat([columns, fourth, third], 1))))


def again_and_again(m, x):
    for _ in range(2):
        x = F.relu(m.nested["deep"][0](x))
    return pooled(x)


def with_keywords(m, x):
    x = F.conv2d(input=x, weight=m.a.weight, bias=m.a.bias, stride=(1, 1), padding=(0, 0))
    x = F.max_pool2d(input=F.relu(input=x), kernel_size=2)
    return torch.mean(input=x, dim=(2, 3))


class WithArguments(nn.Sequential):
    """A sequence whose forward takes further arguments."""

    def forward(self, x, scale=1.0, *, shift=True):
        for layer in self:
            x = layer(x) * scale
        return x + 0.5 if shift else x


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * torch.empty(len(x), 1, 1, 1).bernoulli_(0.5) / 0.5


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)

    def forward(self, x):
        return self.layer(x.flatten(2).transpose(1, 2)).mean(1)


def by_unfolding(m, x):
    columns = F.unfold(x, 3, padding=1)  # (N, 72, L)
    return pooled(F.relu(m.w.flatten(1) @ columns))


def labels(m, x):
    return {"labels": m.head(pooled(F.relu(m.a(x)))), "features": x}


class Outputs(nn.Module):
    """Several outputs, of which a dict has names."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(8, 2)

    def forward(self, x):
        x = pooled(F.relu(self.stem(x)))
        return {"one": self.one(x), "rest": (x, self.two(x))}


X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(5))
EXACT = {  # on integers as well
    "parts": lambda: Net(parts, a=conv()),
    "upsampling": lambda: Net(
        lambda m, x: pooled(F.relu(m.a(F.interpolate(F.pixel_shuffle(x, 2), scale_factor=2)))),
        a=nn.Conv2d(2, 8, 3, dilation=2, stride=2),
    ),
    "groups": lambda: Net(
        lambda m, x: pooled(F.relu(m.b(F.relu(m.a(x))))),
        a=conv(3, groups=8, bias=False, padding="same"),
        b=conv(3, groups=4, dilation=(2, 1), padding_mode="zeros"),
    ),
    "one axis": lambda: Net(
        lambda m, x: pooled(F.relu(m.norm(m.a(F.max_pool1d(x, 2))))),
        stem=nn.Conv1d(3, 8, 3, padding=2, dilation=2),
        a=nn.Conv1d(8, 8, 3, groups=2),
        norm=nn.BatchNorm1d(8),
    ),
    "three axes": lambda: Net(
        lambda m, x: m.pool(F.relu(m.norm(m.a(x)))),
        stem=nn.Conv3d(3, 8, 3, padding=1),
        a=nn.Conv3d(8, 8, (1, 3, 3), bias=False),
        norm=nn.BatchNorm3d(8),
        pool=nn.AdaptiveAvgPool3d(1),
    ),
    "a layer again": lambda: Net(
        again_and_again, nested=nn.ModuleDict({"deep": nn.ModuleList([conv(3, padding=1)])})
    ),
    "keywords": lambda: Net(with_keywords, a=conv()),
    "pools": lambda: Net(
        lambda m, x: m.last(F.avg_pool2d(m.first(x), (2, 3), (1, 2), count_include_pad=False)),
        outputs=16,
        first=nn.MaxPool2d((3, 2), (2, 1), 1, ceil_mode=True),
        last=nn.AdaptiveAvgPool2d((2, 1)),
    ),
    "channels last": lambda: Net(
        lambda m, x: pooled(F.relu(m.norm(m.a(x)))), a=conv(3), norm=nn.BatchNorm2d(8)
    ).to(memory_format=torch.channels_last),
    "checkpoints": lambda: Net(
        lambda m, x: pooled(F.relu(checkpoint(m.a, x, use_reentrant=False))), a=conv()
    ),
    "arguments": lambda: Net(
        lambda m, x: pooled(m.a(x, 0.5, shift=False)), a=WithArguments(conv(), nn.ReLU())
    ),
    "cuts": lambda: Net(
        lambda m, x: pooled(m.b(F.relu6(m.a(x)))).clamp(-4, 4), a=conv(), b=nn.Hardtanh(0, 2)
    ),
    "norms without weights": lambda: Net(
        lambda m, x: pooled(F.relu(m.norm(m.a(x)))), a=conv(), norm=nn.BatchNorm2d(8, affine=False)
    ),
    "drops": lambda: Net(
        lambda m, x: pooled(m.drop(x + m.path(F.relu(m.depth(m.a(m.planes(x))))))),
        a=conv(),
        planes=nn.Dropout2d(0.2),
        drop=nn.Dropout(0.1),
        path=DropPath(),
        depth=torchvision.ops.StochasticDepth(0.5, "row"),
    ),
    "positions": lambda: Net(
        lambda m, x: pooled(F.relu(m.a(x + m.table(torch.arange(12))[:, 0]))),
        a=conv(),
        table=nn.Embedding.from_pretrained(torch.arange(-6.0, 6)[:, None] / 8, freeze=False),
    ),
    "padding and flattening": lambda: Net(
        lambda m, x: m.back(m.flat(F.relu(m.a(m.shuffle(m.pad(x)))))).amax((2, 3)),
        a=conv(3),
        pad=nn.ReflectionPad2d(1),
        shuffle=nn.ChannelShuffle(2),
        flat=nn.Flatten(2),
        back=nn.Unflatten(2, (12, 12)),
    ),
}
REFUSED = {  # by integers, in these words; ONNX has them
    "transposed": (
        lambda: Net(
            lambda m, x: pooled(F.relu(m.a(x))), a=nn.ConvTranspose2d(8, 8, 2, 2, groups=2)
        ),
        "a: ConvTranspose2d has no rule",
    ),
    "a kernel in a buffer": (
        lambda: Net(
            lambda m, x: pooled(F.conv2d(x, m.blur, padding=1, groups=8)),
            blur=torch.full((8, 1, 3, 3), 0.125),
        ),
        "its weight blur is float",
    ),
    "einsum": (
        lambda: Net(
            lambda m, x: F.relu(torch.einsum("nchw,kc->nk", x, m.w)),
            w=nn.Parameter(torch.randn(8, 8) / 9),
        ),
        "einsum",
    ),
    "columns": (
        lambda: Net(by_unfolding, w=nn.Parameter(torch.randn(8, 8, 3, 3) / 9)),
        "no rule",
    ),
    "smooth activations": (
        lambda: Net(
            lambda m, x: pooled(F.gelu(m.mish(m.prelu(m.a(x)))) + F.hardswish(F.elu(x))),
            a=conv(),
            prelu=nn.PReLU(8),
            mish=nn.Mish(),
        ),
        "no rule",
    ),
    "norms that stay": (
        lambda: Net(
            lambda m, x: pooled(F.relu(m.two(m.a(m.one(x))))),
            a=conv(),
            one=LayerNorm2d(8),
            two=nn.GroupNorm(2, 8),
        ),
        "norm",
    ),
    "gates": (
        lambda: Net(
            lambda m, x: pooled(x * torch.sigmoid(m.a(x.mean((2, 3), keepdim=True))).expand_as(x)),
            a=conv(),
        ),
        "no rule|product",
    ),
    "a gate of a linear layer": (
        lambda: Net(
            lambda m, x: pooled(F.relu(m.b(x * m.a(pooled(x)).sigmoid()[..., None, None]))),
            a=nn.Linear(8, 8),
            b=conv(),
        ),
        "no rule|product",
    ),
    "bilinear interpolation": (
        lambda: Net(
            lambda m, x: pooled(
                F.relu(m.a(F.interpolate(x, size=(9, 9), mode="bilinear", align_corners=False)))
            ),
            a=conv(),
        ),
        "upsample_bilinear2d|interpolate",
    ),
    "where": (
        lambda: Net(lambda m, x: pooled(torch.where(x > 0.5, m.a(x), x)), a=conv()),
        "where|gt",
    ),
    "a scaled residual": (
        lambda: Net(
            lambda m, x: pooled(F.relu(x + m.gain * m.a(x))),
            a=conv(),
            gain=nn.Parameter(torch.full((8, 1, 1), 0.3)),
        ),
        "no rule|power of two",
    ),
    "attention": (lambda: Net(lambda m, x: m.a(x), a=Attention()), "no rule|product|norm"),
    "a tied weight, transposed": (
        lambda: Net(
            lambda m, x: F.linear(F.relu(m.a(pooled(x))), m.a.weight.t()), a=nn.Linear(8, 8)
        ),
        "no rule",
    ),
    "a standardized weight": (
        lambda: Net(
            lambda m, x: pooled(F.conv2d(x, (m.w - m.w.mean((1, 2, 3), True)) / m.w.std())),
            w=nn.Parameter(torch.randn(8, 8, 1, 1)),
        ),
        "no rule",
    ),
}


def images(name):
    shape = {"one axis": (4, 3, 24), "three axes": (4, 3, 4, 6, 6)}.get(name, X.shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


# Standardized: its weight stays float.
pytestmark = pytest.mark.filterwarnings("ignore:forward computes from these parameters")


def build(name):
    torch.manual_seed(0)
    made = EXACT[name]() if name in EXACT else REFUSED[name][0]()
    with torch.no_grad():
        for _ in range(3):
            made.train()(images(name))  # statistics
    return made


every = pytest.mark.parametrize("name", EXACT | REFUSED)


@pytest.fixture
def ordinary_attention():
    """Its fast path of evaluation rounds in another way."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@every
@pytest.mark.usefixtures("ordinary_attention")
def test_two_steps_and_back(name):
    model, x = build(name), images(name)
    twin = copy.deepcopy(model)
    attach(model, x)
    for training in (True, False):
        model.train(training), twin.train(training)
        with switched_off(model), torch.no_grad():
            torch.manual_seed(1)
            found = model(x)
            torch.manual_seed(1)
            assert torch.equal(found, twin(x))
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(4)).backward()
        optimizer.step()
    assert model.head.parametrizations.weight[0].logits.grad.any()
    with switched_off(model), torch.no_grad():
        wanted = model.eval()(x)
    assert wanted.isfinite().all() and not torch.equal(wanted, twin(x))
    assert list(detach(model).state_dict()) == list(twin.state_dict())
    with torch.no_grad():  # attention has a fast path here, which rounds in another way
        torch.testing.assert_close(
            model(x), wanted, rtol=0, atol=1e-5 if name == "attention" else 0
        )


@every
def test_hardware_mode_and_its_files(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from hmq_lab.hardware.onnx_export import export, session

    assert onnxruntime
    model, x = build(name).eval(), images(name)
    own = copy.deepcopy(model)
    attach(model, x, hardware=True)
    for block in blocks(model).values():
        block.fix()
    with torch.no_grad():
        wanted = model(x)
    assert len(wanted.unique(dim=0)) == 4
    # The packed file.
    pack(model, tmp_path / "packed", "own")
    with torch.no_grad():
        assert torch.equal(unpack(tmp_path / "packed", own)(x), wanted)
    # Integers, or a refusal in one line.
    if name in EXACT:
        codes, exponent = IntegerNetwork.from_selected(model)(x)
        assert torch.equal((codes * 2.0**exponent).float(), wanted)
    else:
        with pytest.raises(ValueError, match=REFUSED[name][1]) as error:
            IntegerNetwork.from_selected(model)
        assert "\n" not in str(error.value)
    # ONNX, where floats may be rounded in another way.
    export(model, tmp_path / "model.onnx")
    got = torch.tensor(
        session(tmp_path / "model.onnx", optimized=False).run(["logits"], {"x": x.numpy()})[0]
    )
    if name in EXACT:
        assert torch.equal(got, wanted)
    else:
        assert (got - wanted).abs().mean() <= 0.02 * wanted.abs().mean()


def test_several_outputs_train_and_have_no_file(tmp_path):
    from hmq_lab.hardware.onnx_export import export

    model = Outputs()
    twin = copy.deepcopy(model)
    attach(model, X, hardware=True)
    for block in blocks(model).values():
        block.fix()
    with switched_off(model):
        found, wanted = model(X), twin(X)
        assert torch.equal(found["one"], wanted["one"])
        assert torch.equal(found["rest"][1], wanted["rest"][1])
    for use in (
        IntegerNetwork.from_selected,
        lambda m: pack(m, tmp_path / "packed", "own"),
        lambda m: export(m, tmp_path / "model.onnx"),
    ):
        with pytest.raises(ValueError, match="returns several tensors: this form has one output"):
            use(model)


SEVERAL_RESULTS = {
    "recurrent": lambda: Net(
        lambda m, x: m.a(x.flatten(2).transpose(1, 2))[0][:, -1],
        a=nn.GRU(8, 8, batch_first=True),
    ),
    "largest": lambda: Net(lambda m, x: x.flatten(2).topk(3).values.mean(-1)),
}


@pytest.mark.parametrize("name", SEVERAL_RESULTS)
def test_an_operation_of_several_results_without_a_rule(name):
    torch.manual_seed(0)
    model = SEVERAL_RESULTS[name]()
    wanted = model(X)
    attach(model, X, hardware=True)
    reasons = [place.reason for place in placements(model) if place.role == "other"]
    assert reasons and all("an operation without a rule" in reason for reason in reasons)
    with switched_off(model):
        assert torch.equal(model(X), wanted)
    for block in blocks(model).values():
        block.fix()
    with pytest.raises(ValueError, match="has no rule on integers"):
        IntegerNetwork.from_selected(model)


def test_a_weight_that_is_computed_is_said_to_stay_float():
    model = build("a standardized weight")
    with pytest.warns(
        UserWarning, match="^forward computes from these parameters what .* stay float: w$"
    ):
        attach(model, X)
    (place,) = [place for place in placements(model) if place.name == "w"]
    assert not place.quantized and place.reason.startswith("float: forward computes from it")
    assert "w" not in blocks(model)


class TwoInputs(nn.Conv2d):
    def forward(self, x, scale):
        return super().forward(x) * scale


class Growing(nn.Linear):
    """Keeps what it has read in a buffer of another shape."""

    def __init__(self):
        super().__init__(8, 8)
        self.register_buffer("last", torch.zeros(8))

    def forward(self, x):
        found = super().forward(x + self.last)
        self.last = found.detach()
        return found


def loop_over_images(m, x):
    return torch.stack([pooled(m.a(x[i : i + 1])) for i in range(len(x))])


NAMED = {  # refused by attach
    "two inputs": (
        lambda: TwoInputs(3, 8, 1),
        "optional inputs left out: .* missing 1 required positional argument: 'scale'",
    ),
    "a buffer that grows": (
        lambda: Net(lambda m, x: m.a(pooled(x)), a=Growing()),
        "graph that torch.export reads of Net leaves another value in a.last in evaluation: change",
    ),
    "a generator": (
        lambda: Net(
            lambda m, x: pooled(x + torch.rand(8, 1, 1, generator=m.own)), own=torch.Generator()
        ),
        "^Net uses a Generator in its forward pass, which a graph cannot hold",
    ),
    "a loop over images": (
        lambda: Net(loop_over_images, a=conv()),
        "^Net runs on 2 images alone: its forward fixes the batch size",
    ),
    "a lazy layer": (
        lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU()),
        "^0 is lazy and has no weights yet: run the network once first",
    ),
    "a weight norm": (
        lambda: Net(lambda m, x: pooled(m.a(x)), a=nn.utils.parametrizations.weight_norm(conv())),
        "^a has parametrizations of its own: remove them first",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_refused_by_name(name):
    make, says = NAMED[name]
    with pytest.raises(ValueError, match=says) as error:
        attach(make(), X)
    assert "\n" not in str(error.value)


def test_a_lazy_layer_that_has_run_is_a_layer():
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    model(X)
    assert [*blocks(attach(model, X), "weight")] == ["0.weight", "3.weight"]
