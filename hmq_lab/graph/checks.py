"""Whether a network can have blocks: what it is, what its sample is, and whether its graph computes
the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from hmq_lab.graph.naming import numbered
from hmq_lab.graph.tracing import Reading, in_mode, run, trace

WRAPPERS = {  # attribute of a wrapper that holds the network: classes of such wrappers
    "module": (
        "DataParallel",
        "DistributedDataParallel",
        "FullyShardedDataParallel",
        "AveragedModel",
    ),
    "_orig_mod": ("OptimizedModule",),
}


def check_model(model: nn.Module) -> None:
    """Raise ValueError for a network that cannot have blocks as it is, saying what to give instead.

    Args:
        model: the network, before blocks are on it.

    Raises:
        TypeError: for what is no `torch.nn.Module`.
        ValueError: for a wrapper, an attribute `hmq` of its own, a scripted module,
            parametrizations, forward hooks, a computed weight and half precision.
    """
    # The type first: everything below asks for modules.
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    # A wrapper hides the network: its forward is no forward of the network.
    name = type(model).__name__
    for attribute, classes in WRAPPERS.items():
        if name in classes:
            raise ValueError(
                f"a {name} only wraps the network: attach blocks to .{attribute} of it"
            )
    # The blocks go to this attribute later, so it must be free.
    if hasattr(model, "hmq"):
        raise ValueError(
            f"this {name} has an attribute hmq of its own, where the blocks go: rename it"
        )

    # What a single module may have that blocks cannot stand beside.
    for path, module in model.named_modules():
        where = path or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is a scripted module ({module.original_name}): use the module it was made from"
            )
        # Blocks are parametrizations themselves.
        if parametrize.is_parametrized(module):
            raise ValueError(f"{where} has parametrizations of its own: remove them first")
        # A hook that computes the weight has an error of its own, further below.
        if (
            path
            and (module._forward_hooks or module._forward_pre_hooks)
            and not _computes_weight(module)
        ):
            raise ValueError(
                f"{where} has a forward hook, which would run no more: remove it, and register it again after"
            )
        _check_computed(path, module)

    # Blocks compute in single or double precision.
    for parameter, value in model.named_parameters():
        if value.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{parameter} is {value.dtype}: blocks need float32 or float64, call .float() first"
            )


def check_sample(model: nn.Module, sample: Any) -> Tensor:
    """The sample, if it is a batch of images that the network takes.

    Args:
        model: the network, which runs once on the first image, in evaluation.
        sample: a finite float batch of images (N, C, H, W), N at least 1.

    Returns:
        The sample itself.

    Raises:
        ValueError: with the shape and type of what is no such batch, or with the network's own
            error.
    """
    # A batch has an axis of images and at least one more axis.
    if (
        not isinstance(sample, Tensor)
        or sample.dim() < 2
        or len(sample) == 0
        or not sample.is_floating_point()
    ):
        what = (
            f"{tuple(sample.shape)} {sample.dtype}"
            if isinstance(sample, Tensor)
            else type(sample).__name__
        )
        raise ValueError(
            f"sample must be a batch of input images, a float tensor (N, C, H, W), got {what}"
        )
    # NaN would make every threshold NaN.
    if not torch.isfinite(sample).all():
        raise ValueError("sample must be finite, got NaN or infinite images")
    # Run one image, and keep the network as it was.
    try:
        with kept(model), in_mode(model, training=False), torch.no_grad():
            model(sample[:1].clone())
    except (RuntimeError, IndexError) as error:
        # Only the first line of torch's error: the rest is its own code.
        said = f"{type(model).__name__} does not run on a sample of shape {tuple(sample.shape)}"
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{said}, with its optional inputs left out: {first}") from error
    return sample


def check_same(model: nn.Module, readings: dict[bool, Reading], sample: Tensor) -> None:
    """Raise ValueError unless the graphs compute exactly what the network does, gradients included.

    Both run on two images of the sample, with the same random numbers; buffers are put back
    afterwards.

    Args:
        model: the network, without blocks.
        readings: its graphs, by mode (True is training).
        sample: a batch of images (N, C, H, W).

    Raises:
        ValueError: naming the first layer whose output differs, or a parameter whose gradient
            differs.
    """
    # Two images: batch norm in training needs more than one.
    images = torch.cat([sample, sample])[:2]
    for training, reading in readings.items():
        # Run the network and the graph from the same state.
        function = _function(reading)
        mode = "training" if training else "evaluation"
        with kept(model), in_mode(model, training):
            theirs, their_slopes = _outcome(model, model, images.clone())
        with kept(model), in_mode(model, training):
            ours, our_slopes = _outcome(model, lambda x, f=function: f(model, x), images.clone())
        # The outputs have to be the same, bit for bit.
        name = type(model).__name__
        if len(theirs) != len(ours) or not all(
            _equal(a, b) for a, b in zip(theirs, ours, strict=True)
        ):
            where = _first_difference(model, reading, images, training)
            raise ValueError(
                f"the graph that torch.export reads of {name} computes something else in {mode}{where}"
            )
        # Gradients have to agree as well, as far as autograd gives them.
        if their_slopes is None or our_slopes is None:
            continue
        for (parameter, _), a, b in zip(
            model.named_parameters(), their_slopes, our_slopes, strict=True
        ):
            if (a is None) != (b is None) or (a is not None and not _close(a, b)):
                raise ValueError(
                    f"the graph that torch.export reads of {name} gives {parameter} another gradient in {mode}: "
                    "inference_mode, .data or hooks on tensors in its forward are lost; use no_grad or detach"
                )


def check_size(model: nn.Module, images: Tensor, detach: Callable) -> None:
    """Raise ValueError unless the network's graphs are the same for images of this size.

    The graph holds the sizes that forward computes with, such as the window of a pool. Whether they
    change with the image's size is found by reading the network, without its blocks, a second time.

    Args:
        model: the attached network.
        images: a batch (N, C, H, W) of a size that is not yet known.
        detach: the function that takes blocks off; only a copy is detached.

    Raises:
        ValueError: with the known sizes, where the graphs change with the size.
    """
    # The error, in case the graphs differ.
    known = ", ".join("x".join(map(str, size)) for size in sorted(model.hmq.sizes))
    got = "x".join(map(str, images.shape[1:]))
    refusal = f"blocks were attached for images of {known}, got {got}: attach them on a sample of that size"

    # Read a copy without blocks on the known size, and on the new one.
    bare = copy.deepcopy(model)
    detach(bare)
    sample = torch.zeros(2, *next(iter(model.hmq.sizes)), dtype=images.dtype, device=images.device)
    for training in (False, True):
        try:
            codes = [
                trace(bare, x, training).graph.python_code("self").src for x in (sample, images)
            ]
        except ValueError as error:
            raise ValueError(refusal) from error
        # The code of both graphs is text: equal text is an equal computation.
        if codes[0] != codes[1]:
            raise ValueError(f"{refusal}, with whose size its forward computes")


# ------------------------------------------------------------------------------------------ helpers


def _function(reading: Reading) -> Callable:
    """The graph as a function (model, x), its constants bound."""
    # A graph without constants reads the model alone.
    function = run(reading.graph)
    if not reading.constants:
        return function

    def call(model, x):
        return function(_WithConstants(model, reading.constants), x)

    return call


class _WithConstants:
    """A model, and constants of its graph beside its attributes."""

    def __init__(self, model: nn.Module, constants: dict[str, Tensor]):
        self._model, self._constants = model, constants

    def __getattr__(self, name: str):
        if name in self._constants:
            return self._constants[name]
        return getattr(self._model, name)


@contextmanager
def kept(model: nn.Module, buffers: Iterable[Tensor] | None = None) -> Iterator[None]:
    """The same random numbers inside; afterwards buffers, attributes and the random state are what
    they were.

    Attention takes its ordinary path: the fast one of evaluation without gradients rounds
    otherwise.

    Args:
        model: the network.
        buffers: those to put back; all by default.

    Raises:
        ValueError: for an attribute, no buffer, that forward changes: a graph would not change it.
    """
    # Remember the buffers and all attributes of every module.
    saved = [
        (buffer, buffer.clone()) for buffer in (model.buffers() if buffers is None else buffers)
    ]
    attributes = [
        (m, name, value, _copied(value)) for m in model.modules() for name, value in vars(m).items()
    ]
    # The fast path of attention rounds in another way.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        # Put everything back, whether or not the run failed.
        torch.backends.mha.set_fastpath_enabled(fast)
        changed = _restore(attributes)
        with torch.no_grad():
            for buffer, value in saved:
                if buffer.requires_grad:
                    buffer.detach_()
                buffer.copy_(value)
    # A change of an attribute would be lost in the graph: say which one it is.
    if changed:
        paths = {module: path for path, module in model.named_modules()}
        module, name = changed
        raise ValueError(
            f"{type(model).__name__} changes {f'{paths[module]}.{name}'.lstrip('.')} in its forward pass: torch.export "
            "would do that once, as it reads the network, and never again; keep it outside of forward or in a buffer"
        )


def _copied(value):
    return copy.copy(value) if type(value) in (list, dict, set) else value


def _restore(before: list[tuple]) -> tuple[nn.Module, str] | None:
    """Undo changes of attributes; the first one that was changed."""
    changed = None
    for module, name, value, copied in before:
        # The table of buffers may change: buffers are put back apart.
        now = vars(module).get(name)
        if name != "_buffers" and not (_same(now, value) and _same(value, copied)):
            changed = changed or (module, name)
        # Containers get their old elements, so that other holders see them too.
        vars(module)[name] = value
        if copied is not value:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(copied)
    return changed


def _same(a, b) -> bool:
    """Whether two values of an attribute are one, containers element by element."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool | int | float | str | set) and a == b


def _outcome(model: nn.Module, function: Callable, images: Tensor):
    """The outputs, and in training the gradients of a sum of them: None where there is none, or for
    all of them.
    """
    # Gradients are asked for the trained parameters alone.
    parameters = list(model.parameters())
    wanted = [p for p in parameters if p.requires_grad]
    with torch.set_grad_enabled(model.training):
        outputs = [t for t in pytree.tree_leaves(function(images)) if isinstance(t, Tensor)]
        # A sum with squares and means: its gradient depends on the values.
        sums = [t.float().square().mean() + t.float().mean() for t in outputs if t.requires_grad]
        if not sums:
            return outputs, [None] * len(parameters)
        try:
            slopes = iter(torch.autograd.grad(sum(sums), wanted, allow_unused=True))
        except RuntimeError:  # a change in place that autograd cannot take back
            return outputs, None
    return outputs, [next(slopes) if p.requires_grad else None for p in parameters]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two gradients are the same but for the order of sums."""
    a, b = a.nan_to_num(), b.nan_to_num()
    return torch.allclose(a, b, rtol=1e-2, atol=1e-4 * max(a.abs().max().item(), 1e-6))


def _first_difference(model: nn.Module, reading: Reading, images: Tensor, training: bool) -> str:
    """ ", first in NAME": the first layer whose output differs, as far as layers tell."""
    # Record the first output of each layer in the network itself.
    seen: dict[str, Tensor] = {}
    layers = {
        path: module
        for path, module in model.named_modules()
        if path and not list(module.children())
    }
    hooks = [
        module.register_forward_hook(lambda m, i, out, path=path: seen.setdefault(path, out))
        for path, module in layers.items()
    ]

    # One run fills the record.
    with kept(model), in_mode(model, training), torch.no_grad():
        model(images.clone())
    for hook in hooks:
        hook.remove()

    # The same layers in the graph.
    names = {name: node for node, name in numbered(model, reading.graph).items()}
    for path, value in seen.items():
        if path not in names or not isinstance(value, Tensor):
            continue
        with kept(model), in_mode(model, training), torch.no_grad():
            ours = _value_of(reading, names[path], model, images)
        if ours is None or not _equal(ours, value):
            return f", first in {path}"
    return ""


def _value_of(reading: Reading, wanted, model: nn.Module, images: Tensor):
    """The value of one node of the graph."""
    # Copy the graph up to the wanted node, and return that.
    graph = fx.Graph()
    values: dict = {}
    for node in reading.graph.nodes:
        if node.op == "output":
            return None
        values[node] = graph.node_copy(node, values.__getitem__)
        if node is wanted:
            break
    graph.output(values[wanted])
    return run(graph)(_WithConstants(model, reading.constants), images)


def _computes_weight(module: nn.Module) -> bool:
    """Whether a hook of a layer computes its weight, which `_check_computed` refuses by the
    weight's name.
    """
    return (
        isinstance(getattr(module, "weight", None), Tensor) and "weight" not in module._parameters
    )


def _check_computed(path: str, module: nn.Module) -> None:
    """Raise ValueError for a weight that a hook computes anew in every pass: no block could stand
    on it.
    """
    if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        return
    # A weight that is no parameter comes from a hook, or is a plain tensor.
    if "weight" not in module._parameters and isinstance(getattr(module, "weight", None), Tensor):
        hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}
        by = f"computed by {', '.join(sorted(hooks))}" if hooks else "a plain tensor"
        name = f"{path}.weight" if path else "weight"
        raise ValueError(
            f"weight {name} is no parameter but {by}: make it one again, as remove_weight_norm does"
        )
