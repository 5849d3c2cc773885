"""Reading a network: the graph of its forward pass, in training and in evaluation."""

from __future__ import annotations

import copy
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

TORCH = str(Path(torch.__file__).parent) + os.sep


class Tracer(fx.Tracer):
    """fx's tracer, which leaves the reader's own subclasses of torch's layers whole, and notes where each call stands.

    node.meta["place"]: the calls in the model's code that lead to the node, innermost first, as (file, line, function,
    instruction). Two calls on one line differ in the instruction, and so does one function called from two lines.
    """

    def is_leaf_module(self, module, qualified_name):
        own_layer = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm))
        return own_layer or super().is_leaf_module(module, qualified_name)

    def create_node(self, *args, **kwargs):
        node = super().create_node(*args, **kwargs)
        frame, place = sys._getframe(1), []
        while frame is not None and frame.f_code is not trace.__code__:
            code = frame.f_code
            if not code.co_filename.startswith(TORCH) and code.co_filename != __file__:
                place.append((code.co_filename, frame.f_lineno, code.co_name, frame.f_lasti))
            frame = frame.f_back
        node.meta["place"] = tuple(place)
        return node


@contextmanager
def in_mode(model: nn.Module, training: bool):
    """The network in training or evaluation inside this context; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.train(training)
    finally:
        for module, mode in modes.items():
            module.training = mode


def trace(model: nn.Module, training: bool) -> fx.Graph:
    """The model's graph as it runs in training or in evaluation.

    >>> [node.name for node in trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), training=False).nodes]
    ['input_1', '_0', '_1', 'output']

    fx writes `self.training` down as a constant while it traces, so a network needs a graph for each mode: stochastic
    depth, functional dropout, attention over windows and auxiliary heads differ between the two.
    Raises ValueError naming the line of the model's code that fx cannot follow or that changes what the model holds (a
    counter, a buffer), and for random numbers drawn without a tensor at hand (`torch.rand(3)`, not
    `torch.rand_like(x)`): fx would count once, or draw once, and write the result down.
    """
    drawn = torch.get_rng_state(), random.getstate()
    name = type(model).__name__
    try:
        with in_mode(model, training), _refusing_changes(model):
            graph = Tracer().trace(model)
    except _Change as change:
        raise ValueError(f"{name} changes {change} in its forward pass{_line(change)}: {CHANGE}") from None
    except Exception as error:
        raise ValueError(
            f"torch.fx cannot follow {name}{_line(error)} ({type(error).__name__}: {error}); "
            "a forward pass must not branch or loop on the values of its tensors"
        ) from error
    if not torch.equal(drawn[0], torch.get_rng_state()) or drawn[1] != random.getstate():
        raise ValueError(
            f"{name} draws random numbers that do not depend on a tensor, as torch.rand(3) does: "
            "torch.fx would draw them once; use torch.rand_like, Tensor.bernoulli_ or dropout"
        )
    in_place = {
        n for n in graph.nodes if n.op == "call_module" and getattr(model.get_submodule(n.target), "inplace", 0)
    }
    _follow_changes_in_place(graph, in_place)
    return graph


def _line(error: Exception) -> str:
    """Where in the model's code an error arose, as far as that can be told."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(TORCH) and f.filename != __file__ and f.line]
    frame = (own or frames or [None])[-1]
    return f' at {frame.filename}:{frame.lineno}: "{frame.line}"' if frame and frame.filename != __file__ else ""


CHANGE = "torch.fx would do that once, as it reads the network, and never again; keep it outside of forward"


class _Change(Exception):
    """The forward pass changed something that the model holds."""


class _InPlace(TorchFunctionMode):
    """Refuses operations that change a tensor of the model in place, before they do."""

    def __init__(self, held: dict[int, str]):
        super().__init__()
        self.held = held  # {storage: name}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        changes = name in IN_PLACE or (name.endswith("_") and not name.startswith("_"))
        changed = args[:1] if changes else (kwargs.get("out"),)
        for tensor in changed:
            if type(tensor) in (Tensor, nn.Parameter) and (key := tensor.untyped_storage()._cdata) in self.held:
                raise _Change(self.held[key])
        return func(*args, **kwargs)


IN_PLACE = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__",
            "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}  # fmt: skip


@contextmanager
def _refusing_changes(model: nn.Module) -> Iterator[None]:
    """Raise _Change where the model's own code sets an attribute or changes a tensor or a container of the model."""
    modules = {module: path for path, module in model.named_modules()}
    attributes = [(m, name, value, _copied(value)) for m in modules for name, value in vars(m).items()]
    tensors = [(f"{modules[m]}.{name}".lstrip("."), value) for m, name, value, _ in attributes]
    tensors += [*model.named_parameters(), *model.named_buffers()]
    held = {value.untyped_storage()._cdata: name for name, value in tensors if type(value) in (Tensor, nn.Parameter)}
    set_attribute = nn.Module.__setattr__

    def checked(module, name, value):
        if module in modules and not sys._getframe(1).f_code.co_filename.startswith(TORCH):
            raise _Change(f"{modules[module]}.{name}".lstrip("."))
        set_attribute(module, name, value)

    nn.Module.__setattr__ = checked
    try:
        with _InPlace(held):
            yield
    finally:
        nn.Module.__setattr__ = set_attribute
    for module, name, value, copied in attributes:  # what went past `__setattr__`: the line is not known any more
        now = vars(module).get(name)
        if now is not value or _identities(value) != _identities(copied):
            vars(module)[name] = value
            if copied is not value:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(copied)
            raise _Change(f"{modules[module]}.{name}".lstrip("."))


def _copied(value):
    return copy.copy(value) if type(value) in (list, dict, set) else value


def _identities(value):
    if type(value) is dict:
        return [(key, id(element)) for key, element in value.items()]
    return [id(element) for element in value] if type(value) in (list, set) else id(value)


def _follow_changes_in_place(graph: fx.Graph, in_place: set[fx.Node]) -> None:
    """After `y.add_(x)` whose result nobody takes, who reads y reads the sum: let the graph say so."""
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        changes = name.endswith("_") and not name.startswith("_") and node.op in ("call_method", "call_function")
        changes = changes or node.kwargs.get("inplace") is True or node in in_place
        if changes and not node.users and node.args and isinstance(node.args[0], fx.Node):
            node.args[0].replace_all_uses_with(node, lambda user, here=node: order[user] > order[here])


def run(graph: fx.Graph) -> Callable:
    """The function (self, *inputs) that a graph describes."""
    code = graph.python_code(root_module="self")
    scope = dict(code.globals)
    exec(compile(code.src, "<graph of hmq_lab>", "exec"), scope)
    return scope["forward"]
