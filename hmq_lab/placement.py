"""Attach and detach: HMQ blocks on the weights and activations of any network, and off again."""

from __future__ import annotations

import dataclasses
import types
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hmq_lab.block import HMQ, SearchSpace, check_space
from hmq_lab.graph.naming import matched, numbered
from hmq_lab.graph.rules import NORM, drops, kinds, sites
from hmq_lab.graph.tracing import in_mode, run, trace
from hmq_lab.hardware.folding import BiasRounding, fold, round_biases, sources
from hmq_lab.network import (
    Blocks,
    Placement,
    blocks,
    calibrate,
    check_attached,
    is_attached,
    placements,
    resample,
    set_activation_bits,
    slug,
    switched_off,
)

__all__ = [
    "Placement", "attach", "blocks", "calibrate", "detach", "is_attached", "placements", "resample",
    "set_activation_bits", "switched_off",
]  # fmt: skip

WEIGHTS = {  # layer: names of its quantized parameters
    nn.modules.conv._ConvNd: ("weight",),
    nn.Linear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}


def attach(
    model: nn.Module,
    space: SearchSpace | None = None,
    sample: Tensor | None = None,
    *,
    activation_bits: int | Mapping[str, int] = 8,
    hardware: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put an HMQ block on every weight and activation of a network that the method quantizes; changes it in place.

    >>> model = attach(torchvision.models.resnet18(), SearchSpace(), torch.randn(8, 3, 224, 224))
    >>> model(torch.randn(2, 3, 224, 224)).shape                     # in training mode: two samples of every scheme
    torch.Size([2, 1000])
    >>> for placement in placements(model): print(placement.name, placement.reason)

    space: bit-widths and thresholds of the weights (default: the paper's); activations have the same number of
    thresholds, while their bit-widths are given: one number, or numbers by the names of `placements`, 8 where a name
    is left out (the paper computes them from a target, see `budget.activation_bits`). sample: a batch of input
    pictures; one pass over it sets the activations' largest thresholds, `calibrate` does it over many. generator: for
    the initial logits.
    hardware: also what `IntegerNetwork` needs: batch norm folded (which `detach` leaves so), blocks of 8 bits on the
    picture and on means, of the activations' bits on concatenations, biases rounded to step_w * step_x.

    Blocks are on weights as parametrizations (`module.weight` goes on working and is the quantized weight) and on
    activations as modules in the network's graph: `model.forward` is replaced until `detach`. A network is traced in
    training and in evaluation, and obeys train() and eval(). A parameter that several layers share has one block.
    Raises ValueError for what torch.fx cannot follow (with the line), for NaN or infinite weights and activations (with
    the tensor's name), for weights that a hook computes (weight norm), and for a network that has blocks already;
    TypeError for a space that is none.
    """
    space = check_space(space)
    if is_attached(model):
        raise ValueError(f"this {type(model).__name__} has HMQ blocks already: detach(model) first")
    if hasattr(model, "hmq"):
        raise ValueError(f"this {type(model).__name__} has an attribute hmq of its own, where the blocks go: rename it")
    if not isinstance(sample, Tensor) or sample.dim() < 2 or len(sample) == 0 or not sample.is_floating_point():
        what = f"{tuple(sample.shape)} {sample.dtype}" if isinstance(sample, Tensor) else type(sample).__name__
        raise ValueError(f"sample must be a batch of input pictures, a float tensor (N, C, H, W), got {what}")
    if not torch.isfinite(sample).all():
        raise ValueError("sample must be finite, got NaN or infinite pictures")

    own = set(vars(model))
    pairs = fold(model) if hardware else []
    try:
        return _attach(model, space, sample, activation_bits, hardware, generator)
    except Exception:
        for pair in pairs:
            pair.undo()
        raise
    finally:  # fx keeps the constants of a graph as attributes of the network
        constants = sorted(set(vars(model)) - own - {"forward"})
        if is_attached(model):
            model.hmq.constants = constants
        else:
            for name in constants:
                delattr(model, name)


def _attach(model, space, sample, activation_bits, hardware, generator):
    traced = {training: trace(model, training) for training in (False, True)}
    names = {False: numbered(traced[False])}
    names[True] = matched(traced[True], traced[False], drops(model, traced[False]) | drops(model, traced[True]))
    shapes = _shapes(model, traced[False], names[False], sample)
    passing = {node for node, kind in kinds(model, traced[False]).items() if kind == "pass"}
    activations, listed = {}, {}
    for training, graph in traced.items():  # evaluation first: it decides for the tensors that both have
        for site in sites(model, graph, names[training], hardware):
            verdict = site.verdict
            if training and site.name not in listed:  # auxiliary heads: nothing would calibrate or deploy their blocks
                verdict = (False, site.signed, "runs in training only", site.layer)
            place = Placement(site.name, site.kind, shapes.get(site.name, ()), *verdict)
            place = listed.setdefault(site.name, place)
            if place.quantized and site.name not in activations:
                bits = activation_bits if site.kind == "activation" else 8
                bits = activation_bits.get(site.name, 8) if isinstance(activation_bits, Mapping) else bits
                own = SearchSpace((bits,), space.thresholds)
                activations[site.name] = HMQ(own, 0, place.signed, generator=generator).to(sample.device)
            if place.quantized:
                _insert(graph, site.node, f"hmq.activations.{slug(site.name)}")

    trained = set(names[True].values())
    for place in [p for p in listed.values() if p.quantized and p.name not in trained]:
        listed[place.name] = dataclasses.replace(place, reason=f"{place.reason}, in evaluation only")
    if isinstance(activation_bits, Mapping) and not activation_bits.keys() <= activations.keys():
        unknown = ", ".join(sorted(activation_bits.keys() - activations.keys()))
        raise ValueError(f"activation_bits names what is no quantized activation of this network: {unknown}")

    rounded = sources(model, traced[False], passing) if hardware else {}
    weights, parameters = _weights(model, space, generator, rounded)
    order = {path: tuple(module._parameters) for path, module in model.named_modules()}
    functions = {training: run(graph) for training, graph in traced.items()}
    model.hmq = Blocks(activations, (*parameters, *listed.values()), functions, order)
    model.hmq.graph = traced[False]
    model.forward = types.MethodType(_forward, model)
    try:
        for module, attribute, block in weights:
            parametrize.register_parametrization(module, attribute, block, unsafe=True)
        round_biases(model, rounded)
        model.hmq.train(model.training)
        calibrate(model, [sample])
    except Exception:
        detach(model)
        raise
    return model


def _forward(self, *args, **kwargs):
    return self.hmq.forward_in[self.training](self, *args, **kwargs)


def detach(model: nn.Module) -> nn.Module:
    """Take the blocks off: the network as it was, with its current float weights.

    >>> detach(attach(model, SearchSpace(), sample)) is model
    True
    """
    check_attached(model)
    for module in list(model.modules()):
        for attribute, chain in list(getattr(module, "parametrizations", {}).items()):
            if any(isinstance(p, HMQ | BiasRounding) for p in chain):
                _own_class(module)
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    for path, attributes in model.hmq.order.items():
        module = model.get_submodule(path)
        module._parameters = {name: module._parameters[name] for name in attributes}
    for name in ("forward", *model.hmq.constants, "hmq"):
        delattr(model, name)
    return model


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class that no deep copy of it shares: torch takes the property off the class."""
    shared = type(module)
    members = {name: v for name, v in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


def _shapes(model: nn.Module, graph, names: dict, sample: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the graph for one picture."""
    shapes = {}

    class Shapes(torch.fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if isinstance(value, Tensor):
                shapes[names[node]] = tuple(value.shape[1:])
            return value

    try:
        with in_mode(model, training=False), torch.no_grad():
            Shapes(model, graph=graph).run(sample[:1])
    except RuntimeError as error:
        said = f"{type(model).__name__} does not run on a sample of shape {tuple(sample.shape)}"
        raise ValueError(f"{said}, with its optional inputs left out: {str(error).splitlines()[0]}") from error
    return shapes


def _insert(graph, node, target: str) -> None:
    with graph.inserting_after(node):
        block = graph.create_node("call_module", target, (node,))
    node.replace_all_uses_with(block, delete_user_cb=lambda user: user is not block)


def _weights(model, space, generator, rounded=()):
    """[(module, attribute, block)] of the weights to quantize, and a Placement of every parameter.

    rounded: the layers whose bias hardware mode rounds.
    """
    held = {}  # parameter: (module, its name, the parameter's attribute and name) of every layer that holds it
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(f"{path or 'the network'} has parametrizations of its own: remove them first")
        _check_computed(path, module)
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            held.setdefault(parameter, []).append((module, attribute, name))

    found, listed = [], []
    for parameter, places in held.items():
        quantized = [place for place in places if place[1] in _quantized(place[0])]
        first = (quantized or places)[0]
        shape, label = tuple(parameter.shape), type(first[0]).__name__
        if quantized:
            block = _block(parameter, first, space, generator)
            found += [(module, attribute, block) for module, attribute, _ in places]
            reason = "weight of a convolution or fully connected layer"
            listed.append(Placement(first[2], "weight", shape, True, True, reason, label))
        else:
            norm = isinstance(first[0], tuple(layer for layer in NORM if isinstance(layer, type)))
            reason = "norm" if norm else "bias" if first[1].endswith("bias") else "other parameter"
            exact = reason == "bias" and first[2].rpartition(".")[0] in rounded
            reason = f"{reason}: rounded, hardware mode" if exact else f"{reason}: float in the paper's method"
            listed.append(Placement(first[2], "parameter", shape, False, True, reason, label))
        for module, _, name in places:
            if name != first[2]:
                how = "quantized" if quantized else "float"
                reason = f"the same tensor as {first[2]}: {how} and counted there"
                listed.append(Placement(name, "shared", shape, False, True, reason, type(module).__name__))
    return found, listed


def _quantized(module: nn.Module) -> set[str]:
    """Names of a layer's parameters that are quantized."""
    return {name for layer, names in WEIGHTS.items() if isinstance(module, layer) for name in names}


def _block(parameter: nn.Parameter, place: tuple, space: SearchSpace, generator) -> HMQ:
    module, _, name = place
    if not torch.isfinite(parameter).all():
        raise ValueError(f"weight {name} holds NaN or infinite values")
    if not parameter.any():
        warnings.warn(f"weight {name} is zero everywhere: its largest threshold is 2^0", stacklevel=4)
    try:
        block = HMQ.for_weight(parameter, space, generator)
    except ValueError as error:
        raise ValueError(f"weight {name}: {error}") from error
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        block.sample_axis = 0  # (in, out, ...)
    return block


def _check_computed(path: str, module: nn.Module) -> None:
    """Raise ValueError for a weight that a hook computes anew in every pass: no block could stand on it."""
    for attribute in sorted(_quantized(module) - module._parameters.keys()):
        if isinstance(getattr(module, attribute, None), Tensor):
            hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}
            by = f"computed by {', '.join(sorted(hooks))}" if hooks else "a plain tensor"
            name = f"{path}.{attribute}" if path else attribute
            raise ValueError(f"weight {name} is no parameter but {by}: make it one again, as remove_weight_norm does")
