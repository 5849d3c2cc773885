"""A name for each tensor of a network's graph: the same in training and in evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection

from torch import fx


def numbered(graph: fx.Graph) -> dict[fx.Node, str]:
    """Module path, operation, and which call it is: "layer1.0.relu:2" is the second call of a module.

    >>> list(numbered(trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), training=False)).values())
    ['input', '0', '1', 'output']
    """
    count, names = Counter(), {}
    for node in graph.nodes:
        operation = _operation(node)
        count[operation] += 1
        names[node] = _call(operation, count[operation])
    return names


def matched(graph: fx.Graph, other: fx.Graph, dropping: Collection[fx.Node] = ()) -> dict[fx.Node, str]:
    """The names of `numbered(other)` for the nodes of `graph` that are the same calls; new names for the rest.

    The graphs are of one network in training and in evaluation. A branch that one of them takes shifts the numbers of
    all later calls, so that these do not tell which is which. What tells is where in the code a call stands, and what
    it is applied to; `dropping` are nodes to look through there (dropout). Where a line runs a different number of
    times in the two and the inputs do not decide either, a node has no name in the result.
    """
    names = dict(numbered(other))
    free = {node: _applied(node, names, dropping) for node in other.nodes}
    count = Counter(map(_operation, other.nodes))
    here, there = (Counter(map(_call_site, g.nodes)) for g in (graph, other))
    by_site, by_input = defaultdict(list), defaultdict(list)
    for node, applied in free.items():
        by_site[_call_site(node)].append(node)
        by_input[applied].append(node)

    found = {}
    for node in graph.nodes:
        site, applied = _call_site(node), _applied(node, found, dropping)
        same_site = [n for n in by_site[site] if n in free]
        same_input = [n for n in by_input[applied] if n in free]
        both = [n for n in same_site if n in same_input]
        if here[site] != there[site]:
            same_site = []  # a loop of another length: the place alone does not say which round it is
        unclaimed = [n for n in same_input if here[_call_site(n)] != there[_call_site(n)]]
        same = next(iter([*both, *same_site, *unclaimed]), None)
        if same is not None:
            found[node] = names[same]
            del free[same]
        elif not any(n in free for n in by_site[site]):  # or else it may be one of those
            operation = _operation(node)
            count[operation] += 1
            found[node] = _call(operation, count[operation])
    return found


def _operation(node: fx.Node) -> str:
    if node.op in ("call_module", "placeholder", "get_attr"):
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    inside = stack[-1][0] if stack else ""
    return ".".join(filter(None, (inside, str(getattr(node.target, "__name__", node.target)).strip("_"))))


def _call(operation: str, count: int) -> str:
    return operation if count == 1 else f"{operation}:{count}"


def _call_site(node: fx.Node) -> tuple:
    return _operation(node), node.meta.get("place", ())


def _applied(node: fx.Node, names: dict[fx.Node, str], dropping: Collection[fx.Node]) -> tuple:
    """The operation and its arguments, tensors among them by name."""

    def source(argument: fx.Node) -> str:
        while argument in dropping and argument.all_input_nodes:
            argument = argument.all_input_nodes[0]
        return names.get(argument, f"no name: {id(argument)}")

    return _operation(node), repr(fx.node.map_arg((node.args, node.kwargs), source))
