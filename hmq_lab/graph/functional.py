"""Plain data flow: a graph whose nodes read exactly the values that they name.

Two things in a graph of `torch.export` are not plain. An operation in place changes a tensor that
others hold too; and a region under `no_grad` or autocast is a graph of its own inside. Here
operations in place become ordinary ones, and a region's nodes move into the graph, between two
nodes that switch the mode.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from hmq_lab.graph.operations import argument, kinds, schema_of

_aten = torch.ops.aten
SCATTER = {
    _aten.slice.Tensor: _aten.slice_scatter.default,
    _aten.select.int: _aten.select_scatter.default,
}
RETURNS_ITS_INPUT = {
    "aten::dropout",
    "aten::feature_dropout",
    "aten::alpha_dropout",
    "aten::feature_alpha_dropout",
}


# ------------------------------------------------------------------------------------------ regions


def _set_gradient(enabled: bool) -> bool:
    """Whether gradients were on before; the mode of before is read when the network runs."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    return before


# How to enter a region with its settings, and how to leave it with what entering returned.
MODES: dict[str, tuple[Callable, Callable]] = {
    "wrap_with_set_grad_enabled": (_set_gradient, torch._C._set_grad_enabled),
    "wrap_with_autocast": (
        torch.amp.autocast_mode._enter_autocast,
        torch.amp.autocast_mode._exit_autocast,
    ),
}


def without_regions(graph: fx.Graph, module: torch.nn.Module) -> None:
    """Move the nodes of regions under `no_grad`, `enable_grad` and autocast into the graph itself.

    Other graphs within the graph, as of `torch.cond`, are refused.

    Args:
        graph: changed here.
        module: holds the inner graphs by name.

    Raises:
        ValueError: naming the operator, for an inner graph that is no such region.
    """
    # A region may hold another one: go on until none is left.
    while regions := [
        node for node in graph.nodes if isinstance(node.target, torch._ops.HigherOrderOperator)
    ]:
        for node in regions:
            _inline(graph, node, module)


def _inline(graph: fx.Graph, node: fx.Node, module: torch.nn.Module) -> None:
    """Replace a region by its nodes, between two nodes that switch the mode."""
    called: Any = node.target
    if called.name() not in MODES:
        raise ValueError(
            f"the network uses torch's {called.name()}, whose inner graphs have no place for blocks"
        )
    enter, leave = MODES[called.name()]
    # First the settings of the mode, then the inner graph, then what it reads.
    place = next(i for i, read in enumerate(node.args) if isinstance(read, fx.Node))
    given: Any = node.args
    settings, inner, operands = given[:place], given[place], given[place + 1 :]
    region: Any = module.get_submodule(inner.target).graph
    inputs = [n for n in region.nodes if n.op == "placeholder"]
    with graph.inserting_before(node):
        entered = graph.call_function(enter, settings)
        results = graph.graph_copy(region, dict(zip(inputs, operands, strict=True)))
        graph.call_function(leave, (entered,))

    # The readers of its results read the inlined nodes now.
    values = results if isinstance(results, list | tuple) else (results,)
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise ValueError(
                "a region of the network's graph returns something else than a tuple of tensors"
            )
        index: Any = user.args[1]
        user.replace_all_uses_with(values[index])
        graph.erase_node(user)
    # The call goes, and the inner graph with its last reader.
    graph.erase_node(node)
    if not inner.users:
        graph.erase_node(inner)


# ----------------------------------------------------------------------------------------- in place


def make_functional(graph: fx.Graph, held: Mapping[str, Tensor], name: str) -> None:
    """Replace operations in place by ordinary ones whose result all later readers take.

    What the model holds may be changed in place, as running statistics and counters are; so may a
    tensor that does not depend on the input, as a mask. A part that is changed (`x[:, 1:].relu_()`)
    is put back into its whole.

    Args:
        graph: changed here.
        held: the model's parameters and buffers by name.
        name: of the model, for errors.

    Raises:
        ValueError: for a parameter that forward changes, and a change in place through a view that
            cannot be put back, with the line.
    """
    # What forward computes from the input, and where each node stands.
    depends = {node for node, kind in kinds(graph).items() if kind not in ("constant", "number")}
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        # Only operations that write into a tensor matter here.
        target = _written_to(node)
        if target is None:
            continue
        # The memory behind the tensor decides: a buffer may change.
        root = _root(target)
        if root.op == "get_attr":
            if isinstance(held.get(str(root.target)), torch.nn.Parameter):
                raise ValueError(
                    f"{name} changes its parameter {root.target} in its forward pass{line(node)}"
                )
            continue
        # A tensor that does not depend on the input may change too.
        if root not in depends and not any(source in depends for source in node.all_input_nodes):
            continue
        # The ordinary operation, and its result for all later readers.
        node = _ordinary(graph, node, order)
        depends.add(node)
        _put_back(graph, target, node, order)


def line(node: fx.Node) -> str:
    """Where in the model's code a node comes from, such as " at net.py:12", as far as known.

    Args:
        node: of a graph that torch.export made.

    Returns:
        The place of the last call outside of torch, or "" where no place is known.
    """
    # The frames of the stack trace that torch kept, outermost first.
    frames = [
        part.strip()
        for part in (node.meta.get("stack_trace") or "").splitlines()
        if part.strip().startswith("File")
    ]
    own = [frame for frame in frames if f"site-packages{'/'}torch/" not in frame] or frames
    if not own:
        return ""
    # A frame reads: File "NAME", line NUMBER, in FUNCTION.
    _, file, rest = own[-1].split('"', 2)
    return f" at {file}:{rest.split(',')[1].strip().removeprefix('line ')}"


def _written_to(node: fx.Node) -> fx.Node | None:
    """The tensor that an operation changes in place, or writes its result to."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    # The schema of the operation says which argument it writes to.
    for known in schema_of(node).arguments:
        writes = known.alias_info is not None and known.alias_info.is_write
        if writes and isinstance(argument(node, known.name), fx.Node):
            return argument(node, known.name)
    return None


def _is_view(node: fx.Node) -> bool:
    """Whether a node's result shares memory with its first argument."""
    # One of several results is a view where the whole is one.
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and _is_view(node.args[0])
    if not isinstance(node.target, torch._ops.OpOverload) or node.meta.get("ordinary"):
        return False
    # The schema tells, but for dropout, which may return its input.
    schema = schema_of(node)
    shares = any(result.alias_info is not None for result in schema.returns)
    return bool(node.args) and (shares or schema.name in RETURNS_ITS_INPUT)


def _root(node: fx.Node) -> fx.Node:
    """The tensor whose memory a view looks at."""
    while _is_view(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _ordinary(graph: fx.Graph, node: fx.Node, order: dict[fx.Node, int]) -> fx.Node:
    """The node's operation without the change in place, in the node's stead."""
    # The ordinary operation has the same name without the underscore.
    schema = schema_of(node)
    short = schema.name.removeprefix("aten::").removesuffix("_")
    packet = getattr(_aten, short, None)
    target = getattr(packet, schema.overload_name or "default", None)
    with graph.inserting_before(node):
        if short == "copy":  # x[...] = y
            like, source = node.args[:2]
            new = graph.call_function(_aten.expand_as.default, (source, like))
        elif target is None or schema.overload_name == "out":
            raise ValueError(
                f"{schema.name} changes a tensor in place{line(node)}: write the operation without it"
            )
        else:
            new = graph.call_function(target, node.args, node.kwargs)

    # The new node stands where the old one stood.
    new.meta = dict(node.meta, ordinary=True)
    order[new] = order[node]
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def _put_back(graph: fx.Graph, target: fx.Node, new: fx.Node, order: dict[fx.Node, int]) -> None:
    """Let every later reader of the memory behind `target` read the new value.

    Where the tensor that `target` is a slice of is read later, the new value is put into that, and
    read from there.
    """

    def replace_later(old: fx.Node, value: fx.Node) -> None:
        old.replace_all_uses_with(
            value, delete_user_cb=lambda user: order.get(user, 0) > order[new]
        )

    # Other names of the same memory that are read afterwards.
    root = _root(target)
    stale = {
        alias
        for alias in graph.nodes
        if order.get(alias, 0) < order[new]
        and alias is not target
        and _root(alias) is root
        and any(order.get(u, 0) > order[new] for u in alias.users)
    }
    replace_later(target, new)

    # One slice after the other, up to the largest tensor that is read.
    part, value = target, new
    while stale:
        # Only a slice or a selected index can be put back.
        operation: Any = part.target
        if operation not in SCATTER:
            what = f"a tensor is changed in place{line(new)} while a view of it is read later"
            raise ValueError(
                f"{what}: copy it first, or write the operation without the change in place"
            )
        # Put the new value into the whole, and read the part from there.
        base, where = part.all_input_nodes[0], part.args[1:]
        with graph.inserting_after(value):
            whole = graph.call_function(SCATTER[operation], (base, value, *where))
        with graph.inserting_after(whole):
            again = graph.call_function(operation, (whole, *where))
        # The new nodes have the shapes of the nodes that they stand for.
        for made, like in ((whole, base), (again, part)):
            made.meta = dict(new.meta, val=like.meta.get("val"), ordinary=made is whole)
            order[made] = order[new]
        replace_later(value, again)
        replace_later(base, whole)
        stale.discard(base)
        part, value = base, whole
