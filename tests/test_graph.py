"""Reading a network: the same tensor found in training and in evaluation, and what export would freeze refused."""

import copy
import doctest
import importlib
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab.block import SearchSpace
from hmq_lab.graph.checks import check_same
from hmq_lab.graph.naming import matched, numbered
from hmq_lab.graph.tracing import trace
from hmq_lab.placement import attach, blocks, detach, is_attached, placements, switched_off

SPACE = SearchSpace((2, 4, 8), 3)
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(7))


def act(x):
    return F.relu(x)


class Net(nn.Module):
    """A forward pass that says what each ReLU gave, by the name it should have."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu, self.out = nn.ReLU(), nn.Linear(4, 2)

    def head(self, x):
        return self.out(x.mean((2, 3)))


class TrainingOnly(Net):
    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = x - 0.5 * F.relu(-x)
        return self.head(F.relu(self.b(F.relu(x))))

    def wanted(self, x):
        x = self.a(x)
        x = F.relu(x - 0.5 * F.relu(-x)) if self.training else F.relu(x)
        return {"relu": x, "relu:2": F.relu(self.b(x))}


class ThroughAFunction(Net):
    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = x + act(self.c(act(x)))
        return self.head(act(self.b(act(x))))

    def wanted(self, x):
        x = self.a(x)
        x = F.relu(x + F.relu(self.c(F.relu(x)))) if self.training else F.relu(x)
        return {"relu": x, "relu:2": F.relu(self.b(x))}


class OneModule(Net):
    """The module's ReLU, once more in training."""

    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = self.relu(x) - 0.1
        return self.head(self.relu(self.b(self.relu(x))))

    def wanted(self, x):
        x = self.a(x)
        x = F.relu(F.relu(x) - 0.1 if self.training else x)
        return {"relu": x, "relu:2": F.relu(self.b(x))}


class Alternatives(Net):
    """The same tensor on two lines, dropped from in training."""

    def forward(self, x):
        x = self.a(x)
        if self.training:
            x = F.relu(F.dropout(x, 0.0))
        else:
            x = F.relu(x)
        return self.head(F.relu(self.b(x)))

    def wanted(self, x):
        x = F.relu(self.a(x))
        return {"relu": x, "relu:2": F.relu(self.b(x))}


class LongerLoop(Net):
    def forward(self, x):
        x = self.a(x)
        for layer in (self.b, self.c) if self.training else (self.b,):
            x = F.relu(layer(x))
        return self.head(F.relu(x - 0.1))

    def wanted(self, x):
        x = y = F.relu(self.b(self.a(x)))
        y = F.relu(self.c(x)) if self.training else y
        return {"relu": x, "relu:2": F.relu(y - 0.1)}


class EvaluationOnly(Net):
    def forward(self, x):
        x = self.a(x)
        if not self.training:
            x = x - 0.5 * F.relu(x - 0.3)
        return self.head(F.relu(self.b(x)))

    def wanted(self, x):
        x = self.a(x)
        x, early = (
            (x, {}) if self.training else (x - 0.5 * F.relu(x - 0.3), {"relu": F.relu(x - 0.3)})
        )
        return early | {"relu:2": F.relu(self.b(x))}


@pytest.mark.parametrize(
    "make", [TrainingOnly, ThroughAFunction, OneModule, Alternatives, LongerLoop, EvaluationOnly]
)
def test_a_block_stands_on_the_same_tensor_in_both_modes(make):
    model = attach(make(), SPACE, X)
    seen = {}
    for name, block in blocks(model, "activation").items():
        block.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].clone())
        )
    for training in (True, False):
        seen.clear()
        model.train(training)
        with switched_off(model), torch.no_grad():
            model(X)
            wanted = model.wanted(X)
        seen = {name: value for name, value in seen.items() if "relu" in name}
        assert seen.keys() == wanted.keys()
        assert all(torch.allclose(seen[name], wanted[name]) for name in wanted), training


def test_what_one_mode_alone_computes_is_listed_so():
    said = {p.name: (p.quantized, p.reason) for p in placements(attach(TrainingOnly(), SPACE, X))}
    assert said["relu:3"] == (False, "runs in training only") and said["relu"][0]
    said = {p.name: (p.quantized, p.reason) for p in placements(attach(EvaluationOnly(), SPACE, X))}
    assert said["relu"] == (True, "after a non-linearity, in evaluation only")
    assert said["relu:2"] == (True, "after a non-linearity")


def test_rounds_of_a_loop_that_cannot_be_told_apart_are_refused_with_the_line():
    class Rounds(Net):
        def forward(self, x):
            x = self.a(x)
            for shift in (0.3, 0.1, 0.2) if self.training else (0.1, 0.2):
                x = F.relu(x - shift)  # the line
            return self.head(x)

    line = Rounds.forward.__code__.co_firstlineno + 3
    model = Rounds()
    with pytest.raises(
        ValueError, match="called a different number of times in training and in evaluation"
    ) as error:
        attach(model, SPACE, X)
    assert f"relu at {__file__}:{line} " in str(error.value) and not is_attached(model)


def test_names_of_equal_graphs_are_equal():
    model = ThroughAFunction().eval()
    graph, again = trace(model, X, False).graph, trace(model, X, False).graph
    assert list(matched(model, again, graph).values()) == list(numbered(model, graph).values())
    assert len(set(numbered(model, graph).values())) == len(graph.nodes)


# ---------------------------------------------------------------------------------------------------- side effects


class Inner(nn.Module):
    def __init__(self, act_on):
        super().__init__()
        self.calls, self.history, self.table = 0, [1], {"a": 1}
        self.last = None
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("mean", torch.zeros(()))
        self.act_on = act_on

    def forward(self, x):
        self.act_on(self, x)
        return x


def count(module, x):
    module.calls += 1


def remember(module, x):
    module.last = x


def add_in_place(module, x):
    module.seen += 1


def set_item(module, x):
    module.seen[0] = 1


def average(module, x):
    module.mean.mul_(0.9).add_(0.1 * x.mean())


def change_a_view(module, x):
    module.seen[1:].fill_(2)


def write_out(module, x):
    torch.add(module.seen, 1, out=module.seen)


def append(module, x):
    module.history.append(2)


def put(module, x):
    module.table["a"] = 2


def around_setattr(module, x):
    module.__dict__["calls"] = 3


@pytest.mark.parametrize(
    "change", [count, remember, append, put, around_setattr], ids=lambda f: f.__name__
)
def test_attributes_that_forward_changes_are_refused_and_left_alone(change):
    attribute = {
        count: "calls",
        remember: "last",
        append: "history",
        put: "table",
        around_setattr: "calls",
    }[change]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Inner(change), nn.ReLU(), nn.Conv2d(4, 2, 1))
    before, state = copy.deepcopy(vars(model[1])), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"changes 1\.{attribute} in its forward pass"):
        attach(model, SPACE, X)
    assert not is_attached(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    now = vars(model[1])
    assert all(now[key] == before[key] for key in ("calls", "history", "table", "last"))


@pytest.mark.parametrize(
    "change", [add_in_place, set_item, average, change_a_view, write_out], ids=lambda f: f.__name__
)
def test_buffers_that_forward_changes_are_changed_in_every_pass(change):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Inner(change), nn.ReLU(), nn.Conv2d(4, 2, 1))
    twin = copy.deepcopy(model)
    attach(model, SPACE, X)
    assert torch.equal(model[1].seen, twin[1].seen) and torch.equal(model[1].mean, twin[1].mean)
    for training in (True, False):
        model.train(training), twin.train(training)
        with switched_off(model), torch.no_grad():
            assert torch.equal(model(X), twin(X))
        assert torch.equal(model[1].seen, twin[1].seen) and torch.allclose(
            model[1].mean, twin[1].mean
        )
    assert twin[1].seen.any() or twin[1].mean != 0


class Keeping(nn.Module):
    """Keeps what it computes from a parameter until its mode is set again, as LeViT does."""

    def __init__(self):
        super().__init__()
        self.conv, self.bias = nn.Conv2d(3, 4, 1), nn.Parameter(torch.randn(4))
        self.kept: dict = {}

    def train(self, mode=True):
        if self.kept:
            self.kept = {}
        return super().train(mode)

    def forward(self, x):
        if self.training:
            bias = self.bias[[1, 0, 3, 2]]
        else:
            if "bias" not in self.kept:
                self.kept["bias"] = self.bias[[1, 0, 3, 2]]
            bias = self.kept["bias"]
        return F.relu(self.conv(x) + bias.view(4, 1, 1)).mean((2, 3))


@pytest.mark.parametrize("used_before", [False, True])
def test_what_evaluation_keeps_follows_the_parameters(used_before):
    model, x = Keeping().eval(), torch.randn(2, 3, 6, 6)
    before = model(x).detach() if used_before else None
    attach(model, x)
    with torch.no_grad(), switched_off(model):
        assert before is None or torch.equal(model.eval()(x), before)
        model.bias.add_(1)
        found = model(x)
    kept = [*model.kept.values()]
    assert not any(isinstance(value, torch._subclasses.FakeTensor) for value in kept)
    wanted = detach(model).train()(x).detach()
    assert torch.equal(found, wanted) and not (before is not None and torch.equal(found, before))


class Stores(nn.Module):
    """Keeps something in `kept` in its forward pass, in one of the ways below."""

    def __init__(self, way, kept):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.kept, self.way = kept, way

    def forward(self, x):
        return F.relu(self.b(self.way(self, F.relu(self.a(x))))).mean((2, 3))


def keep(m, x):
    m.kept["x"] = x
    return x


def keep_and_read(m, x):
    m.kept["x"] = x
    return m.kept["x"] * 2 + x


def read_of_the_last_pass(m, x):
    last = m.kept.get("x", x)
    m.kept["x"] = x
    return x + last


def keep_the_first(m, x):
    if "x" not in m.kept:
        m.kept["x"] = x.mean()
    return x + m.kept["x"]


def append_features(m, x):
    m.kept.append(x)
    return x


def begin_a_list_anew(m, x):
    m.kept = [x]
    return x


def replace_an_item(m, x):
    m.kept[0] = x
    return x


def set_attribute(m, x):
    m.kept = x
    return x


def in_an_object(m, x):
    last, m.kept.x = m.kept.x, x
    return x if last is None else x + last


def position_of_size(m, x):
    size = x.shape[2:]
    if size not in m.kept:
        grid = torch.meshgrid(*(torch.arange(side) / side for side in size), indexing="ij")
        m.kept[size] = sum(grid)
    return x + m.kept[size]


@pytest.mark.parametrize(
    ("way", "kept", "says"),
    [
        (keep, dict, "changes kept in its forward pass"),
        (keep_and_read, dict, "changes kept in its forward pass"),
        (read_of_the_last_pass, dict, "changes kept in its forward pass"),
        (keep_the_first, dict, "changes kept in its forward pass"),
        (append_features, list, "changes kept in its forward pass"),
        (begin_a_list_anew, list, "changes kept in its forward pass"),
        (replace_an_item, lambda: [0], "changes kept in its forward pass"),
        (set_attribute, lambda: None, "changes kept in its forward pass"),
        (in_an_object, lambda: types.SimpleNamespace(x=None), "computes something else"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_pass_leaves_for_the_next_one_is_refused(way, kept, says):
    model = Stores(way, kept())
    before = copy.deepcopy(model.kept)
    with pytest.raises(ValueError, match=says) as error:
        attach(model, X)
    assert "\n" not in str(error.value) and not is_attached(model)
    assert model.kept == before


@pytest.mark.parametrize("used_before", [False, True])
def test_a_table_that_depends_on_the_size_alone_is_no_state(used_before):
    model = Stores(position_of_size, {})
    if used_before:
        model(X[..., :4])
    twin, tables = copy.deepcopy(model), copy.deepcopy(model.kept)
    attach(model, X)
    assert model.kept.keys() == tables.keys()
    for x in (X, X.flip(0)):
        with switched_off(model), torch.no_grad():
            assert torch.equal(model(x), twin(x))
    with pytest.raises(ValueError, match="with whose size its forward computes"):
        model(X[..., :5])


def test_features_that_a_hook_stores_are_said_to_be_lost():
    model, features = Stores(lambda m, x: x, {}), []
    hook = model.a.register_forward_hook(lambda m, i, out: features.append(out))
    with pytest.raises(ValueError, match="^a has a forward hook, which would run no more"):
        attach(model, X)
    hook.remove()
    model.register_forward_hook(lambda m, i, out: features.append(out))  # of the whole network
    attach(model, X)
    del features[:]
    logits = model.eval()(X)
    assert len(features) == 1 and features[0] is logits


def test_a_graph_that_computes_something_else_is_refused_with_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    reading = trace(model, X, False)
    relu = next(node for node in reading.graph.nodes if "relu" in str(node.target))
    relu.target = torch.ops.aten.sigmoid.default
    with pytest.raises(ValueError, match="computes something else in evaluation, first in 1$"):
        check_same(model, {False: reading}, X)


class Normalizing(nn.Module):
    """Divides by a sum that eps keeps from zero, as linear attention does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        q, k = F.relu(self.conv(x)).flatten(2).chunk(2, 1)
        return (q @ k.transpose(1, 2)).flatten(1) / (q.sum((1, 2)) * k.sum((1, 2)) + 1e-5)[:, None]


def test_a_divisor_has_no_block():
    model = attach(Normalizing(), X)
    roles = {place.name: (place.role, place.quantized) for place in placements(model)}
    assert ("divisor", False) in roles.values() and roles["relu"] == ("non-linearity", True)
    assert torch.isfinite(model.eval()(X / 1000)).all()


def test_what_is_made_in_forward_may_be_changed():
    class Makes(Net):
        def forward(self, x):
            mask = torch.zeros(4, 1, 1)
            mask[1:] = 1
            rest = [self.b, self.c]
            rest.append(rest.pop(0))
            y = self.a(x) * mask
            y += 0.5
            for layer in rest:
                y = F.relu(layer(y))
            return self.head(y)

    model = Makes()
    for layer in (model.b, model.c):
        nn.init.ones_(layer.bias)  # no ReLU is dead
    wanted = model(X)
    attach(model, SPACE, X)
    with switched_off(model):
        assert torch.equal(model(X), wanted)


@pytest.mark.parametrize("name", ["graph.tracing", "graph.naming", "graph.sites"])
def test_examples(name):
    module = importlib.import_module(f"hmq_lab.{name}")
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    names = {
        "torch": torch,
        "nn": nn,
        "trace": trace,
        "numbered": numbered,
        "model": model,
        "sample": torch.randn(4, 3),
    }
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0 and result.attempted > 0
