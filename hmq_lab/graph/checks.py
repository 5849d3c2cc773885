"""Whether a network can have blocks: what it is, what its sample is, and whether its graph computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

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
    """Raise ValueError for a network that cannot have blocks as it is, saying what to give instead."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    name = type(model).__name__
    for attribute, classes in WRAPPERS.items():
        if name in classes:
            raise ValueError(
                f"a {name} only wraps the network: attach blocks to .{attribute} of it"
            )
    if hasattr(model, "hmq"):
        raise ValueError(
            f"this {name} has an attribute hmq of its own, where the blocks go: rename it"
        )
    for path, module in model.named_modules():
        where = path or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is a scripted module ({module.original_name}): use the module it was made from"
            )
        if parametrize.is_parametrized(module):
            raise ValueError(f"{where} has parametrizations of its own: remove them first")
        if (
            path
            and (module._forward_hooks or module._forward_pre_hooks)
            and not _computes_weight(module)
        ):
            raise ValueError(
                f"{where} has a forward hook, which would run no more: remove it, and register it again after"
            )
        _check_computed(path, module)
    for parameter, value in model.named_parameters():
        if value.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{parameter} is {value.dtype}: blocks need float32 or float64, call .float() first"
            )


def check_sample(model: nn.Module, sample: Tensor) -> None:
    """Raise ValueError for what is no batch of images that the network takes."""
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
            f"sample must be a batch of input pictures, a float tensor (N, C, H, W), got {what}"
        )
    if not torch.isfinite(sample).all():
        raise ValueError("sample must be finite, got NaN or infinite pictures")
    try:
        with kept(model), in_mode(model, training=False), torch.no_grad():
            model(sample[:1].clone())
    except (RuntimeError, IndexError) as error:
        said = f"{type(model).__name__} does not run on a sample of shape {tuple(sample.shape)}"
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{said}, with its optional inputs left out: {first}") from error


def check_same(model: nn.Module, readings: dict[bool, Reading], sample: Tensor) -> None:
    """Raise ValueError unless the graphs compute exactly what the network does, gradients included.

    Both run on two images of the sample, with the same random numbers; buffers are put back afterwards.
    """
    images = torch.cat([sample, sample])[:2]
    for training, reading in readings.items():
        function = _function(reading)
        mode = "training" if training else "evaluation"
        with kept(model), in_mode(model, training):
            theirs, their_slopes = _outcome(model, model, images.clone())
        with kept(model), in_mode(model, training):
            ours, our_slopes = _outcome(model, lambda x, f=function: f(model, x), images.clone())
        name = type(model).__name__
        if len(theirs) != len(ours) or not all(
            _equal(a, b) for a, b in zip(theirs, ours, strict=True)
        ):
            where = _first_difference(model, reading, images, training)
            raise ValueError(
                f"the graph that torch.export reads of {name} computes something else in {mode}{where}"
            )
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

    The graph holds the sizes that forward computes with, such as the window of a pool. Whether they change with the
    image's size is found by reading the network, without its blocks, a second time.
    """
    known = ", ".join("x".join(map(str, size)) for size in sorted(model.hmq.sizes))
    got = "x".join(map(str, images.shape[1:]))
    refusal = f"blocks were attached for images of {known}, got {got}: attach them on a sample of that size"
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
        if codes[0] != codes[1]:
            raise ValueError(f"{refusal}, with whose size its forward computes")


# --------------------------------------------------------------------------------------------------------- helpers


def _function(reading: Reading) -> Callable:
    """The graph as a function (model, x), its constants bound."""
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
    """The same random numbers inside; afterwards buffers, attributes and the random state are what they were.

    Attention takes its ordinary path: the fast one of evaluation without gradients rounds otherwise. Raises ValueError
    for an attribute, no buffer, that forward changes: a graph would not change it.

    Args:
        buffers: those to put back; all by default.
    """
    saved = [
        (buffer, buffer.clone()) for buffer in (model.buffers() if buffers is None else buffers)
    ]
    attributes = [
        (m, name, value, _copied(value)) for m in model.modules() for name, value in vars(m).items()
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        changed = _restore(attributes)
        with torch.no_grad():
            for buffer, value in saved:
                buffer.detach_().copy_(value)
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
        now = vars(module).get(name)
        if name != "_buffers" and not (_same(now, value) and _same(value, copied)):
            changed = changed or (module, name)
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
    """The outputs, and in training the gradients of a sum of them: None where there is none, or for all of them."""
    parameters = list(model.parameters())
    wanted = [p for p in parameters if p.requires_grad]
    with torch.set_grad_enabled(model.training):
        outputs = [t for t in pytree.tree_leaves(function(images)) if isinstance(t, Tensor)]
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
    """Whether a hook of a layer computes its weight, which `_check_computed` refuses by the weight's name."""
    return (
        isinstance(getattr(module, "weight", None), Tensor) and "weight" not in module._parameters
    )


def _check_computed(path: str, module: nn.Module) -> None:
    """Raise ValueError for a weight that a hook computes anew in every pass: no block could stand on it."""
    if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        return
    if "weight" not in module._parameters and isinstance(getattr(module, "weight", None), Tensor):
        hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}
        by = f"computed by {', '.join(sorted(hooks))}" if hooks else "a plain tensor"
        name = f"{path}.weight" if path else "weight"
        raise ValueError(
            f"weight {name} is no parameter but {by}: make it one again, as remove_weight_norm does"
        )
