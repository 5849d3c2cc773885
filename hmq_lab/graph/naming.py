"""A name for each tensor of a network's graph: the same in training and in evaluation, and in every
record.

>>> reading = trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.randn(4, 3), training=False)
>>> names = numbered(model, reading.graph)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

from torch import fx, nn

# Containers of layers, which have names of their own.
CONTAINERS = (
    "torch.nn.modules.container",
    "torch.nn.modules.transformer",
)
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)


def numbered(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, str]:
    """The name of each node: module path, operation, and which call it is.

    "layer1.0.relu:2" is the second call of a module, "layer1.0.add" the sum in the forward pass of
    layer1.0. A layer of torch, or a subclass of one, gives its path to what it returns.

    Args:
        model: the network that the graph was read from.
        graph: of one mode.

    Returns:
        Names by node, in the order of the graph.
    """
    # Number the calls of each operation in the order they run in.
    count: Counter[str] = Counter()
    names: dict[fx.Node, str] = {}
    for node, operation in operations(model, graph).items():
        if node.op != "get_attr":
            count[operation] += 1
        names[node] = _call(operation, count[operation])
    return names


def matched(
    model: nn.Module, graph: fx.Graph, other: fx.Graph, dropping: Collection[fx.Node] = ()
) -> dict[fx.Node, str]:
    """The names of `numbered(other)` for the nodes of `graph` that are the same calls; new names
    for the rest.

    The graphs are of one network in training and in evaluation. A branch that one of them takes
    shifts the numbers of all later calls, so these do not tell which is which. What tells is the
    line of the code, where it runs equally often in both; or else what the call is applied to.

    Args:
        model: the network that both graphs were read from.
        graph: of training.
        other: of evaluation.
        dropping: nodes of both graphs that do nothing in evaluation (dropout): inputs are looked up
            behind them.

    Returns:
        Names by node. A node that may be one of several calls has none.
    """
    # How often each line of the code runs, in both graphs.
    names = dict(numbered(model, other))
    here, there = operations(model, graph), operations(model, other)
    lines_here = Counter((here[node], _place(node)) for node in here)
    lines_there = Counter((there[node], _place(node)) for node in there)

    # The calls of the other graph that are not yet found in this one.
    free = dict.fromkeys(other.nodes)
    by_line, by_input = defaultdict(list), defaultdict(list)
    for node, operation in there.items():
        by_line[operation, _place(node)].append(node)
        by_input[_applied(node, operation, names, dropping)].append(node)

    # Walk through this graph and look for the same call in the other one.
    count = Counter(there.values())
    found: dict[fx.Node, str] = {}
    for node, operation in here.items():
        line = operation, _place(node)
        same_line = [n for n in by_line[line] if n in free]
        same_input = [n for n in by_input[_applied(node, operation, found, dropping)] if n in free]
        # A line that runs equally often in both modes tells the call.
        if lines_here[line] == lines_there[line]:
            candidates = same_line
        else:
            # Or else calls with the same inputs, of lines that run unequally often.
            candidates = [
                n
                for n in same_input
                if lines_here[there[n], _place(n)] != lines_there[there[n], _place(n)]
            ]
        # A call that is found is used up.
        if candidates:
            found[node] = names[candidates[0]]
            del free[candidates[0]]
        elif not same_line:  # or else it may be one of those
            count[operation] += 1
            found[node] = _call(operation, count[operation])
    return found


def operations(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, str]:
    """Module path and operation of each node, without the number of the call.

    Args:
        model: the network that the graph was read from.
        graph: of one mode.

    Returns:
        Operations by node, as "layer1.0.relu".
    """
    # The last node of a layer's call holds what the layer returns.
    modules = dict(model.named_modules())
    last = {_layer_call(node, modules): node for node in graph.nodes}
    found = {}
    for node in graph.nodes:
        layer = layer_of(node, modules)
        # Inputs, parameters and blocks have names of their own.
        if node.op in ("placeholder", "get_attr", "output", "call_module"):
            found[node] = str(node.target)
        elif layer and last[_layer_call(node, modules)] is node:
            found[node] = layer
        else:
            # Everything else: the path that it runs in, and the function's name.
            inside = layer or module_path(node)
            found[node] = ".".join(filter(None, (inside, function_name(node))))
    return found


def layer_of(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The path of the layer of torch that a node runs in, if it does.

    Args:
        node: of a graph that torch.export made.
        modules: the network's modules by path.

    Returns:
        The path, "" where the network itself is such a layer, None outside of layers.
    """
    call = _layer_call(node, modules)
    if call is not None:
        return call[1]
    return "" if is_layer(modules[""]) and node.op == "call_function" else None


def is_layer(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers, or an own subclass of a convolution, linear or
    norm.

    Args:
        module: any module.
    """
    source = type(module).__module__
    return isinstance(module, LAYERS) or (
        source.startswith("torch.nn.") and source not in CONTAINERS
    )


def label(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The class of the layer that a node runs in, or the name of the function.

    Args:
        node: of a graph.
        modules: the network's modules by path.
    """
    layer = layer_of(node, modules)
    if layer is not None:
        return type(modules[layer]).__name__
    return str(node.target) if node.op != "call_function" else function_name(node)


def function_name(node: fx.Node) -> str:
    """The name of the function or method that the model's code called: "add", "relu", "flatten".

    Args:
        node: a call of the graph.
    """
    # The name in the model's code, or else that of the operation.
    called = (node.meta.get("torch_fn") or ("", ""))[1].rpartition(".")[2]
    if not called:
        called = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
    return called.strip("_")


def module_path(node: fx.Node) -> str:
    """The path of the innermost module that a node runs in, "" for the network itself.

    Args:
        node: of a graph that torch.export made.
    """
    paths = [path for path, _ in _stack(node).values()]
    return paths[-1] if paths else ""


def _stack(node: fx.Node) -> dict[str, tuple[str, Any]]:
    """The calls of modules that a node runs in, outermost first: {key: (path, class)}."""
    return node.meta.get("nn_module_stack") or {}


def _layer_call(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, str] | None:
    """The outermost call of a layer that a node runs in."""
    for key, (path, _) in _stack(node).items():
        if path and path in modules and is_layer(modules[path]):
            return key, path
    return None


def _call(operation: str, count: int) -> str:
    return operation if count == 1 else f"{operation}:{count}"


def _place(node: fx.Node) -> str:
    return node.meta.get("stack_trace") or ""


def _applied(
    node: fx.Node, operation: str, names: dict[fx.Node, str], dropping: Collection[fx.Node]
) -> tuple:
    """The operation and its arguments, tensors among them by name."""

    # Dropout does nothing in evaluation: look at what is behind it.
    def source(argument: fx.Node) -> str:
        while argument in dropping and argument.all_input_nodes:
            argument = argument.all_input_nodes[0]
        return names.get(argument, f"no name: {id(argument)}")

    return operation, repr(fx.node.map_arg((node.args, node.kwargs), source))
