"""Whether a network can have blocks: what it is, what its sample is, and whether its graph computes
the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from hmq_lab.graph.naming import numbered
from hmq_lab.graph.tracing import Reading, copied, first_line, run, trace, two_of

WRAPPERS = {  # attribute of a wrapper that holds the network: classes of such wrappers
    "module": (
        "DataParallel",
        "DistributedDataParallel",
        "FullyShardedDataParallel",
        "AveragedModel",
    ),
    "_orig_mod": ("OptimizedModule",),
}
CONTAINERS = (list, dict, set)


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
        # A lazy layer has no weights before its first batch.
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise ValueError(f"{where} is lazy and has no weights yet: run the network once first")
        # Blocks are parametrizations themselves.
        if parametrize.is_parametrized(module):
            raise ValueError(f"{where} has parametrizations of its own: remove them first")
        _check_computed(path, module)
        if path and (module._forward_hooks or module._forward_pre_hooks):
            raise ValueError(
                f"{where} has a forward hook, which would run no more: remove it, and register it again after"
            )

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
    # Copies run on one image: the network stays as it was.
    try:
        _outcome_of_second_pass(model, sample[:1], training=False)
    except ValueError:
        raise
    except Exception as error:
        said = f"{type(model).__name__} does not run on a sample of shape {tuple(sample.shape)}"
        raise ValueError(
            f"{said}, with its optional inputs left out: {first_line(error)}"
        ) from error
    return sample


def check_same(model: nn.Module, readings: dict[bool, Reading], sample: Tensor) -> None:
    """Raise ValueError unless the graphs compute exactly what the network does, gradients included.

    Copies of both run on two images of the sample, with the same random numbers. The network has
    run before, on other images: what it keeps from one pass to the next is no part of a graph.

    Args:
        model: the network, without blocks.
        readings: its graphs, by mode (True is training).
        sample: a batch of images (N, C, H, W).

    Raises:
        ValueError: naming the first layer whose output differs, a parameter whose gradient differs,
            or an attribute, no buffer, that forward changes.
    """
    images, name = two_of(sample), type(model).__name__
    for training, reading in readings.items():
        # Run the network and the graph from the same state.
        mode = "training" if training else "evaluation"
        used, (theirs, their_slopes) = _outcome_of_second_pass(model, images, training)
        twin = _with_constants(model, reading, training)
        function = partial(run(reading.graph), twin)
        try:
            ours, our_slopes = _outcome(twin, function, images)
        except RuntimeError as error:
            why = f"does not run in {mode}: {first_line(error)}"
            raise ValueError(f"the graph that torch.export reads of {name} {why}") from error
        # The outputs have to be the same, bit for bit.
        if len(theirs) != len(ours) or not all(map(_equal, theirs, ours)):
            where = _first_difference(model, reading, images, training)
            raise ValueError(
                f"the graph that torch.export reads of {name} computes something else in {mode}{where}"
            )
        # So have the buffers afterwards: an assignment may be lost.
        for (buffer, a), (_, b) in zip(used.named_buffers(), twin.named_buffers(), strict=False):
            if not _equal(a, b):
                raise ValueError(
                    f"the graph that torch.export reads of {name} leaves another value in {buffer} in {mode}: "
                    "change the buffer in place, with copy_, and keep its shape"
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
    attached: Any = model.hmq
    known = ", ".join("x".join(map(str, size)) for size in sorted(attached.sizes))
    got = "x".join(map(str, images.shape[1:]))
    refusal = f"blocks were attached for images of {known}, got {got}: attach them on a sample of that size"

    # Read a copy without blocks on the known size, and on the new one.
    bare = copy.deepcopy(model)
    detach(bare)
    sample = torch.zeros(2, *next(iter(attached.sizes)), dtype=images.dtype, device=images.device)
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


@contextmanager
def kept(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards these buffers and the random state are what they were.

    Args:
        buffers: of the network that runs inside.
    """
    saved = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for buffer, value in saved:
            buffer.data.copy_(value)


def _outcome_of_second_pass(model: nn.Module, images: Tensor, training: bool):
    """A copy of the network that has run on other images before, and its `_outcome`.

    Raises ValueError for an attribute that forward changes: a graph would not change it. Tables
    that keep tensors to compute them once are allowed: a second pass neither adds to them nor finds
    there what depends on the images of the first one.
    """
    twin = copied(model, training)
    before = _attributes(twin)
    # Other images, without a draw from torch's own generator.
    own = torch.Generator(images.device).manual_seed(0)
    others = torch.rand(images.shape, generator=own, device=images.device, dtype=images.dtype)
    _outcome(twin, twin, others)
    between = _attributes(twin)
    # Buffers may change: the graph changes them as well.
    for module, fresh in zip(twin.modules(), copied(model, training).modules(), strict=False):
        module._buffers = fresh._buffers
    outcome = _outcome(twin, twin, images)
    after = _attributes(twin)

    changed = [name for name in between if not _same(between[name], before.get(name, model))]
    lost = [
        name
        for name in changed
        if not (_has_grown(before.get(name), between[name]) and _same(between[name], after[name]))
    ]
    # What depends on the images of the first pass changes the outputs of the second one.
    if changed and not lost:
        fresh = copied(model, training)
        alike = map(_equal, outcome[0], _outcome(fresh, fresh, images)[0])
        lost = [] if all(alike) else changed
    if lost:
        raise ValueError(
            f"{type(model).__name__} changes {lost[0]} in its forward pass: torch.export would do that once, "
            "as it reads the network, and never again; keep it outside of forward or in a buffer"
        )
    return twin, outcome


def _attributes(model: nn.Module) -> dict[str, Any]:
    """All attributes of all modules by path, but for their buffers; containers are copies."""
    return {
        f"{path}.{name}".lstrip("."): copy.copy(value) if type(value) in CONTAINERS else value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name != "_buffers"
    }


def _has_grown(before: Any, now: Any) -> bool:
    """Whether a value is a table that has only got further tensors."""
    return type(before) is type(now) is dict and all(
        value is before[key] if key in before else isinstance(value, Tensor)
        for key, value in now.items()
    )


def _same(a: Any, b: Any) -> bool:
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


def _with_constants(model: nn.Module, reading: Reading, training: bool) -> nn.Module:
    """A copy of the network that holds the constants of its graph, too."""
    twin = copied(model, training)
    for name, value in reading.constants.items():
        path, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(path), attribute, value.clone())
    return twin


def _outcome(model: nn.Module, function: Callable, images: Tensor):
    """The outputs, and in training the gradients of a sum of them: None where there is none, or for
    all of them.

    Random numbers are the same in every call; attention takes its ordinary path: the fast one of
    evaluation rounds in another way.
    """
    parameters = list(model.parameters())
    with torch.random.fork_rng(), _ordinary_attention(), torch.set_grad_enabled(model.training):
        torch.manual_seed(0)
        results = pytree.tree_leaves(function(images.clone()))
        outputs = [tensor for tensor in results if isinstance(tensor, Tensor)]
        # A sum with squares and means: its gradient depends on the values.
        sums = [t.float().square().mean() + t.float().mean() for t in outputs if t.requires_grad]
        if not sums:
            return outputs, [None] * len(parameters)
        # Gradients are asked for the trained parameters alone.
        wanted = [p for p in parameters if p.requires_grad]
        try:
            total = torch.stack(sums).sum()
            slopes = iter(torch.autograd.grad(total, wanted, allow_unused=True))
        except RuntimeError:  # a change in place that autograd cannot take back
            return outputs, None
    return outputs, [next(slopes) if p.requires_grad else None for p in parameters]


@contextmanager
def _ordinary_attention() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


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
    twin = copied(model, training)
    for path, module in twin.named_modules():
        if path and not list(module.children()):
            module.register_forward_hook(lambda m, i, out, path=path: seen.setdefault(path, out))
    _outcome(twin, twin, images)

    # The same layers in the graph.
    names = {name: node for node, name in numbered(model, reading.graph).items()}
    twin = _with_constants(model, reading, training)
    graph = fx.Interpreter(twin, garbage_collect_values=False, graph=reading.graph)
    _outcome(twin, graph.run, images)
    for path, theirs in seen.items():
        ours = graph.env.get(names[path]) if path in names else None
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor) and not _equal(ours, theirs):
            return f", first in {path}"
    return ""


def _check_computed(path: str, module: nn.Module) -> None:
    """Raise ValueError for a weight that a hook computes anew in every pass: no block could stand
    on it.
    """
    # A weight that is no parameter comes from a hook, or is a plain tensor.
    is_layer = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
    if not is_layer or "weight" in module._parameters:
        return
    if isinstance(getattr(module, "weight", None), Tensor):
        hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}
        by = f"computed by {', '.join(sorted(hooks))}" if hooks else "a plain tensor"
        name = f"{path}.weight".lstrip(".")
        raise ValueError(
            f"weight {name} is no parameter but {by}: make it one again, as remove_weight_norm does"
        )
