"""Reading a network: the graph of its forward pass, in training and in evaluation, by
`torch.export`.

>>> model, sample = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(4, 3)
>>> function = run(trace(model, sample, training=False).graph)
>>> torch.equal(function(model, sample)[0], model(sample))
True

`torch.export` runs the forward pass once on tensors without values, and writes down the aten
operations that PyTorch really carries out: in which order, on which tensors, with which sizes. So
operations in place, shared tensors, `no_grad` and arguments by name are what they are. What cannot
be written down is refused here, with the line of the model's code.
"""

from __future__ import annotations

import builtins
import copy
import io
import logging
import os
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hmq_lab.graph.functional import make_functional, without_regions

TORCH = str(Path(torch.__file__).parent) + os.sep


@dataclass
class Reading:
    """The graph of a forward pass in one mode.

    graph: nodes are the aten operations; `get_attr` nodes name the model's parameters and buffers,
    or `constants`. Their `meta["val"]` has the shape, the first axis being a symbol for the batch.
    constants: tensors that forward makes from Python numbers. outputs: how the results are put
    together (a tensor, a tuple, a named tuple).
    """

    graph: fx.Graph
    outputs: pytree.TreeSpec
    constants: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[nn.Module]:
    """The network in training or evaluation inside this context; afterwards every module is in the
    mode it was in.

    A network that is in training already keeps those of its modules in evaluation that are: frozen
    batch norms.

    Args:
        model: the network; yielded as it is.
        training: the mode inside the context.
    """
    # Each module's own mode, since frozen ones may differ.
    modes = {module: module.training for module in model.modules()}
    try:
        yield model if training and model.training else model.train(training)
    finally:
        for module, mode in modes.items():
            module.training = mode


def copied(model: nn.Module, training: bool) -> nn.Module:
    """A copy of the network in training or in evaluation, as `in_mode` sets it.

    Args:
        model: the network, without blocks.
        training: the mode of the copy.

    Raises:
        ValueError: for a network that Python cannot copy.
    """
    with in_mode(model, training=True):
        pass  # a network that keeps tensors for evaluation forgets them
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error
    return twin if training and twin.training else twin.train(training)


def two_of(sample: Tensor) -> Tensor:
    """Two images: export takes a batch of one for a fixed size, and batch norm needs several.

    Args:
        sample: a batch of at least one image.
    """
    return torch.cat([sample, sample])[:2]


def trace(model: nn.Module, sample: Tensor, training: bool) -> Reading:
    """The model's graph as it runs in training or in evaluation, for any number of images of the
    sample's size.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> [node.name for node in trace(model, torch.randn(4, 3), training=False).graph.nodes]
    ['_0_weight', '_0_bias', 'input_1', 'linear', 'relu', 'output']

    A network needs a graph for each mode: stochastic depth, dropout, batch norm and auxiliary heads
    differ.

    Args:
        model: the network, without blocks.
        sample: a batch of images (N, C, H, W); only its shape, type and device matter.
        training: the mode.

    Returns:
        The graph in plain form, how its outputs are put together, and its constants.

    Raises:
        ValueError: naming the line of the model's code that torch.export cannot follow (a branch on
            the values of tensors), an `autograd.Function` of one's own, or random numbers that
            Python or NumPy draws: export would write down one of them for ever.
    """
    # A copy: whatever the export does to it, the network itself stays as it is.
    name, twin = type(model).__name__, copied(model, training)
    cumulative = _prepare(twin)
    drawn = _random_state()
    # Gradients are on, so that no_grad in forward can be seen.
    with (
        torch.enable_grad(),
        quiet(),
        _replaced(torch.autograd.Function, "apply", classmethod(_apply)),
        _replaced(builtins, "len", _length),
    ):
        try:
            exported, module = _export(twin, two_of(sample))
        except _OwnFunction as error:
            # Say in one line what export cannot follow, and where.
            raise ValueError(
                f"{name} uses {error}, an autograd.Function of its own{_line(error)}: "
                "torch.export would lose its backward pass; write it with operations of torch"
            ) from None
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(
                f"torch.export cannot follow {name}{_line(error)} ({why}); "
                "a forward pass must not branch or loop on the values of its tensors"
            ) from error

    # Numbers that Python drew would stand in the graph as constants.
    if drawn != _random_state():
        raise ValueError(
            f"{name} draws random numbers by Python or NumPy: torch.export would draw them once; "
            "draw them with torch, as torch.rand or dropout do"
        )

    # The graph alone, in plain form.
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    _drop_assertions(graph)
    without_regions(graph, module)
    _restore_cumulative_averages(graph, cumulative)

    # All names of parameters and buffers, shared ones as well.
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )
    make_functional(graph, held, name)
    # What the graph reads and the model does not hold.
    constants = {
        node.target: fx.graph_module._get_attr(module, node.target)
        for node in graph.nodes
        if node.op == "get_attr" and node.target not in held
    }
    for value in constants.values():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} uses a {type(value).__name__} in its forward pass, which a graph cannot hold"
            )
    _check_any_batch(graph, name)
    return Reading(graph, exported.call_spec.out_spec, constants)


def run(graph: fx.Graph) -> Callable:
    """The function (model, x) -> list of outputs that a graph describes.

    Args:
        graph: of a `Reading`.

    Returns:
        The function; the model gives it parameters and buffers by name.
    """
    # The graph as Python source, compiled once.
    code = graph.python_code(root_module="self")
    scope = dict(code.globals)
    exec(compile(code.src, "<graph of hmq_lab>", "exec"), scope)
    return scope["forward"]


# --------------------------------------------------------------------------------------- the export


def _export(model: nn.Module, sample: Tensor):
    from torch.export import (  # not at the top: it takes a second to import
        Dim,
        ShapesCollection,
        export,
    )

    # Autograd counts the devices at its first backward pass. Export knows a device more, for which
    # autograd would start a thread; and a process with such threads cannot fork.
    number = torch.zeros((), requires_grad=True)
    torch.autograd.grad(number * 1, [number])

    # The first axis may have any size, the others are fixed.
    shapes = ShapesCollection()
    shapes[sample] = {0: Dim.AUTO}
    exported = export(model, (sample,), dynamic_shapes=shapes, strict=False)
    return exported, exported.module()


def _drop_assertions(graph: fx.Graph) -> None:
    """Take out what only checks shapes and types: `_forward` checks the size of an image itself."""
    for node in list(graph.nodes):
        # Only nodes that nothing reads: the others compute.
        target = str(node.target)
        if not node.users and ("_guards_fn" in target or "_assert" in target):
            graph.erase_node(node)


def _check_any_batch(graph: fx.Graph, name: str) -> None:
    # The first axis is a symbol, unless forward fixes the batch size.
    image = next(node for node in graph.nodes if node.op == "placeholder")
    count = image.meta["val"].shape[0]
    if isinstance(count, int) or not count.node.expr.free_symbols:
        raise ValueError(f"{name} runs on {count} images alone: its forward fixes the batch size")


class _Table(dict):
    """A table of a module during the export, which looks only at tables of Python's own class."""


def _prepare(twin: nn.Module) -> set[str]:
    """Make a copy of a network ready for the export: paths of the batch norms with momentum None.

    Its averages weigh all batches alike: such a norm computes 1 / (number of batches) as a number,
    which export cannot follow. It is read with another momentum.
    """
    # The hooks of the network itself are its caller's: they run around the forward pass.
    twin._forward_hooks.clear()
    twin._forward_pre_hooks.clear()
    cumulative = set()
    for path, module in twin.named_modules():
        # What forward keeps in a table to compute it once, the graph computes in every pass.
        for name, value in vars(module).items():
            if type(value) is dict and name not in vars(nn.Module()):
                vars(module)[name] = _Table(value)
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is None:
            module.momentum = 0.1
            cumulative.add(path)
    return cumulative


def _restore_cumulative_averages(graph: fx.Graph, paths: set[str]) -> None:
    """Let these batch norms compute their momentum from the number of batches."""
    # The graph's nodes that read the numbers of batches.
    counts = {node.target: node for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        if "batch_norm" not in str(node.target) or not isinstance(node.args[3], fx.Node):
            continue
        # The running mean tells which batch norm this is.
        path = str(node.args[3].target).rpartition(".")[0]
        count = counts.get(f"{path}.num_batches_tracked".lstrip("."))
        if path in paths and count is not None and node.args[5]:
            with graph.inserting_before(node):
                momentum = graph.call_function(_reciprocal, (count,))
            node.update_arg(6, momentum)


def _reciprocal(count: Tensor) -> float:
    return 1.0 / float(count)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, the log and the output of torch's exporters: an error that they raise
    says it in one line.
    """
    # The level of the log is put back afterwards.
    logger, output = logging.getLogger("torch"), io.StringIO()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(output), redirect_stderr(output):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# ------------------------------------------------------------------------- what export does not see


class _OwnFunction(Exception):
    """An autograd.Function was called that is not torch's own."""


APPLY = vars(torch.autograd.Function)["apply"]  # a classmethod


def _apply(cls, *args, **kwargs):
    """What a call of an autograd.Function does: functions of torch go on."""
    if not cls.__module__.startswith("torch."):
        raise _OwnFunction(cls.__name__)
    return APPLY.__get__(None, cls)(*args, **kwargs)


LENGTH = len


def _length(values) -> int | torch.SymInt:
    """What `len` gives: Python's own makes a fixed number of the size of a batch."""
    return values.shape[0] if isinstance(values, Tensor) and values.dim() else LENGTH(values)


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Another value of an attribute inside."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _random_state() -> tuple:
    """Where Python's and NumPy's random numbers stand."""
    # Compare the state as bytes: arrays have no plain equality.
    numpy = sys.modules.get("numpy")  # if it is not loaded it draws nothing
    if numpy is None:
        return (random.getstate(),)
    _, keys, position, *_ = numpy.random.get_state()
    return random.getstate(), keys.tobytes(), position


def first_line(error: BaseException) -> str:
    """The first line of an error of torch, or else its class: the rest is torch's own code.

    Args:
        error: any exception.
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _line(error: Exception) -> str:
    """Where in the model's code an error arose, as far as that can be told."""
    # The last frame that is neither torch's nor of this file.
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if not f.filename.startswith(TORCH) and f.filename != __file__ and f.line
    ]
    return f' at {own[-1].filename}:{own[-1].lineno}: "{own[-1].line}"' if own else ""
