"""Attach and detach: HMQ blocks on the weights and activations of any network, and off again."""

from __future__ import annotations

import types
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from hmq_lab.block import HMQ, SearchSpace, check_space
from hmq_lab.graph.checks import check_model, check_same, check_sample, check_size, kept
from hmq_lab.graph.folding import fold_with_graphs
from hmq_lab.graph.naming import label, matched, numbered
from hmq_lab.graph.operations import drops, kinds
from hmq_lab.graph.operations import shape as shape_of
from hmq_lab.graph.sites import Site, layer_inputs, sites, weight_readers
from hmq_lab.graph.tracing import Reading, run, trace
from hmq_lab.network import (
    BiasRounding,
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
    "Placement",
    "attach",
    "blocks",
    "calibrate",
    "detach",
    "is_attached",
    "placements",
    "resample",
    "set_activation_bits",
    "switched_off",
]

# A weight that several modules share is named after one of these.
LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.MultiheadAttention,
)
INPUTS_FIRST = ("conv_transpose", "matmul")  # their weights are (in, out, ...)


def attach(
    model: nn.Module,
    space: SearchSpace | Tensor | None = None,
    sample: Tensor | None = None,
    *,
    activation_bits: int | Mapping[str, int] = 8,
    hardware: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put an HMQ block on every weight and activation of a network that the method quantizes;
    changes it in place.

    >>> from hmq_lab import models, placements
    >>> model = attach(models.build("tiny_resnet8"), torch.rand(8, 3, 32, 32))
    >>> model(torch.rand(2, 3, 32, 32)).shape  # in training each image has its own noise
    torch.Size([2, 10])
    >>> found = [placement.name for placement in placements(model) if placement.quantized]
    >>> found[:2], found[-2:]
    (['conv1.weight', 'layer1.0.conv1.weight'], ['layer3.0.relu1', 'layer3.0.relu2'])

    Blocks are on weights as parametrizations (`module.weight` goes on working and is the quantized
    weight) and on activations in the network's graph: `model.forward` is replaced until `detach`.
    The graph is read in training and in evaluation, and the network obeys train() and eval(). A
    parameter that several layers share has one block.

    Args:
        model: a float network whose forward takes a batch of images; other arguments keep their
            defaults.
        space: bit-widths and thresholds of the weights; the paper's by default. May be left out:
            `attach(model, x)`. Activations have the same number of thresholds, while their
            bit-widths are given.
        sample: a batch of input images (N, C, H, W). One pass over it sets the activations' largest
            thresholds; `calibrate` does it over many batches.
        activation_bits: one number, or numbers by the names of `placements`, 8 where a name is left
            out. (The paper computes them from a target, see `budget.activation_bits`.)
        hardware: prepare what `hardware.integer.IntegerNetwork` needs. Batch norm is folded, and
            stays so after `detach`. The image and means (pooled tensors) get blocks of 8 bits.
            Concatenations get blocks with the activations' bits. Biases are rounded to multiples of
            step_w * step_x.
        generator: draws the initial logits.

    Returns:
        The model.

    Raises:
        ValueError: for what torch.export cannot follow (with the line), for a graph that does not
            compute what the network computes, NaN or infinite weights and activations (with the
            tensor's name), weights that a hook computes (weight norm), wrappers such as DDP, half
            precision, and a network that has blocks already.
        TypeError: for a space that is none.
    """
    # The space may be left out, or stand after the sample.
    if isinstance(space, Tensor) and (sample is None or isinstance(sample, SearchSpace)):
        space, sample = sample, space  # attach(model, sample, space)
    space = check_space(space)
    # Refuse what cannot have blocks before anything changes.
    if is_attached(model):
        raise ValueError(f"this {type(model).__name__} has HMQ blocks already: detach(model) first")
    check_model(model)
    sample = check_sample(model, sample)

    # Read the network in both modes. Batch norms are put back if attaching fails.
    readings = {training: trace(model, sample, training) for training in (False, True)}
    graphs = [reading.graph for reading in readings.values()]
    pairs = fold_with_graphs(model, graphs) if hardware else []
    try:
        return _attach(model, readings, space, sample, activation_bits, hardware, generator)
    except Exception:
        for pair in pairs:
            pair.undo()
        raise


def _attach(model, readings, space, sample, activation_bits, hardware, generator) -> nn.Module:
    # The same tensor has the same name in both modes.
    check_same(model, readings, sample)
    evaluation, in_training = readings[False].graph, readings[True].graph
    names = {False: numbered(model, evaluation)}
    names[True] = matched(model, in_training, evaluation, drops(evaluation) | drops(in_training))

    # Where blocks stand. Evaluation decides for the tensors that both modes have.
    found = {
        training: sites(model, readings[training].graph, names[training], hardware)
        for training in readings
    }
    listed = _listed(found, set(names[True].values()))
    activations = {
        place.name: _activation_block(place, space, activation_bits, generator).to(sample.device)
        for place in listed
        if place.quantized
    }
    if isinstance(activation_bits, Mapping) and not activation_bits.keys() <= activations.keys():
        unknown = ", ".join(sorted(activation_bits.keys() - activations.keys()))
        raise ValueError(
            f"activation_bits names what is no quantized activation of this network: {unknown}"
        )

    # The functions that the network runs from now on.
    readers = {
        name: by
        for reading in readings.values()
        for name, by in weight_readers(reading.graph).items()
    }
    rounded = layer_inputs(evaluation, names[False]) if hardware else {}
    for training, reading in readings.items():
        _annotate(model, reading.graph, names[training])
        _insert(reading, found[training], activations)
    weights, parameters = _weights(model, space, generator, readers, rounded)

    # Remember what `detach` has to put back.
    own_forward, own_buffers = vars(model).get("forward"), list(model.buffers())
    order = {path: tuple(module._parameters) for path, module in model.named_modules()}
    functions = {training: run(reading.graph) for training, reading in readings.items()}
    model.hmq = Blocks(activations, (*parameters, *listed), readings, functions, order, own_forward)
    model.hmq.sizes = {tuple(sample.shape[1:])}
    model.forward = types.MethodType(_forward, model)
    # The blocks go on; any failure from here on takes them off again.
    try:
        for module, attribute, block in weights:
            parametrize.register_parametrization(module, attribute, block, unsafe=True)
        _round_biases(model, rounded, {place.name for place in listed if place.quantized})
        model.hmq.train(model.training)
        # Calibration runs the network: its own buffers stay as they were.
        with kept(own_buffers):
            calibrate(model, [sample])
    except Exception:
        detach(model)
        raise
    return model


def _forward(self, *args, **kwargs):
    """What `model.forward` is while blocks are attached."""
    # The graph takes images alone.
    images = [*args, *kwargs.values()]
    if len(images) != 1 or not isinstance(images[0], Tensor):
        raise TypeError(
            f"a network with blocks takes a batch of images alone, got {len(images)} arguments"
        )
    # A new size is checked once.
    if tuple(images[0].shape[1:]) not in self.hmq.sizes:
        check_size(self, images[0], detach)
        self.hmq.sizes.add(tuple(images[0].shape[1:]))
    return self.hmq.run(self, images[0])


def detach(model: nn.Module) -> nn.Module:
    """Take the blocks off: the network as it was, with its current float weights.

    >>> from hmq_lab import models
    >>> model = models.build("tiny_resnet8")
    >>> detach(attach(model, torch.rand(8, 3, 32, 32))) is model
    True

    Args:
        model: an attached network; changed in place.

    Returns:
        The model.

    Raises:
        ValueError: for a network without blocks.
    """
    # Take off our own parametrizations; others stay.
    attached = check_attached(model)
    for module in list(model.modules()):
        for attribute, chain in list(getattr(module, "parametrizations", {}).items()):
            if any(isinstance(p, HMQ | BiasRounding) for p in chain):
                _own_class(module)
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)

    # Parameters in their old order, and the forward pass that was there.
    for path, attributes in attached.order.items():
        module = model.get_submodule(path)
        module._parameters = {name: module._parameters[name] for name in attributes}

    # A forward that the instance had comes back.
    del model.forward
    if attached.own_forward is not None:
        model.forward = attached.own_forward  # type: ignore[method-assign]
    del model.hmq
    return model


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class that no deep copy of it shares: torch takes the property
    off the class.
    """
    # The new class has the same members as the old one.
    shared = type(module)
    members = {
        name: v for name, v in vars(shared).items() if name not in ("__dict__", "__weakref__")
    }
    module.__class__ = type(shared.__name__, shared.__bases__, members)


# -------------------------------------------------------------------------------------- activations


def _listed(found: dict[bool, list[Site]], in_training: set[str]) -> list[Placement]:
    """A placement of every activation of both modes."""
    # Evaluation first: its tensors are the ones that are deployed.
    listed: dict[str, Placement] = {}
    for site in found[False]:
        reason = site.reason
        if site.quantized and site.name not in in_training:
            reason = f"{reason}, in evaluation only"
        listed[site.name] = _placement(site, site.quantized, reason)
    for site in found[True]:
        # Auxiliary heads: nothing would calibrate or deploy their blocks.
        if site.name not in listed:
            listed[site.name] = _placement(site, False, "runs in training only")
    return list(listed.values())


def _placement(site: Site, quantized: bool, reason: str) -> Placement:
    # The first axis is the batch.
    shape = shape_of(site.node.meta["val"])[1:]
    kind = "hardware" if quantized and site.role in ("input", "mean") else "activation"
    return Placement(site.name, kind, shape, quantized, site.signed, reason, site.layer, site.role)


def _activation_block(place: Placement, space: SearchSpace, activation_bits, generator) -> HMQ:
    # Means and images always have 8 bits.
    bits = activation_bits
    if place.kind == "hardware":
        bits = 8
    elif isinstance(activation_bits, Mapping):
        bits = activation_bits.get(place.name, 8)
    block = HMQ(SearchSpace((bits,), space.thresholds), 0, place.signed, generator=generator)
    # The network begins each pass with new noise, see `Blocks.run`.
    block.keeps_noise = True
    return block


def _annotate(model: nn.Module, graph: fx.Graph, names: dict[fx.Node, str]) -> None:
    """Keep of each node what others need: name, kind, shape for a batch of one image, layer."""
    # Everything else that the export wrote on a node is dropped.
    modules, kind = dict(model.named_modules()), kinds(graph)
    for node in graph.nodes:
        value = node.meta.get("val")
        values = value if isinstance(value, list | tuple) else [value]
        shapes = [shape_of(v) if isinstance(v, Tensor) else None for v in values]
        node.meta = {
            "name": names.get(node, node.name),
            "kind": kind[node],
            "shape": shapes if isinstance(value, list | tuple) else shapes[0],
            "layer": label(node, modules),
        }


def _insert(reading: Reading, found: list[Site], activations: dict[str, HMQ]) -> None:
    """Let the readers of each quantized tensor read its block's output."""
    # Constants move to `hmq`, where the model can hold them.
    graph = reading.graph
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in reading.constants:
            node.target = f"hmq.constants.{slug(node.target)}"
    # One call of the block after each quantized tensor.
    for site in found:
        if site.name not in activations:
            continue
        with graph.inserting_after(site.node):
            block = graph.create_node(
                "call_module", f"hmq.activations.{slug(site.name)}", (site.node,)
            )
        # The block has the name and the shape of its tensor.
        block.meta = {
            "name": site.name,
            "kind": "block",
            "shape": site.node.meta["shape"],
            "layer": "HMQ",
        }
        # All readers but the block itself read the block.
        readers = [user for user in site.node.users if user is not block]
        for reader in readers:
            reader.replace_input_with(site.node, block)


# ------------------------------------------------------------------------------------------ weights


def _weights(model, space, generator, readers: dict[str, str], rounded: dict[str, tuple]):
    """[(module, attribute, block)] of the weights to quantize, and a Placement of every
    parameter.
    """
    # (module, its name, the parameter's name) of all that hold it.
    held: dict[nn.Parameter, list[tuple]] = {}
    # A shared parameter has several holders.
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            held.setdefault(parameter, []).append((module, attribute, name))

    # A parameter is quantized where a layer reads it as it is.
    found, listed, computed = [], [], []
    for parameter, places in held.items():
        read_by = {name: readers[name] for _, _, name in places if name in readers}
        quantized = any(by != "computed" for by in read_by.values())
        # The name of a layer is better known than that of a container.
        module, attribute, name = min(places, key=lambda place: not isinstance(place[0], LAYERS))
        # One block for the parameter, registered with every holder.
        if quantized:
            reader = next(by for by in read_by.values() if by != "computed")
            block = _weight_block(parameter, name, reader, space, generator)
            found += [(module, attribute, block) for module, attribute, _ in places]
            role, reason = "weight", "weight of a convolution or fully connected layer"
        elif read_by:
            # A weight that forward works on first has no block.
            role, reason = "weight", "float: forward computes from it what the layer reads"
            computed.append(name)
        else:
            role, reason = _parameter_reason(module, attribute, name in rounded)
        # Its line in the list of placements.
        kind = "weight" if quantized else "parameter"
        shape, layer = tuple(parameter.shape), type(module).__name__
        listed.append(Placement(name, kind, shape, quantized, True, reason, layer, role))

        # Further names of the same tensor.
        for module, _, other in places:
            if other != name:
                how = "quantized" if quantized else "float"
                reason = f"the same tensor as {name}: {how} and counted there"
                listed.append(
                    Placement(
                        other, "shared", shape, False, True, reason, type(module).__name__, "shared"
                    )
                )
    # Said once: a network of standardized weights has a hundred of them.
    if computed:
        names = ", ".join(computed[:4]) + (", ..." if len(computed) > 4 else "")
        warnings.warn(
            f"forward computes from these parameters what the layers read, so they stay float: {names}",
            stacklevel=4,
        )
    return found, listed


def _parameter_reason(module: nn.Module, attribute: str, rounded: bool) -> tuple[str, str]:
    """Role and reason of a parameter that has no block."""
    if rounded:
        return "bias", "bias: rounded, hardware mode"
    # First norms: their biases have this role as well.
    role = "bias" if attribute.endswith("bias") else "parameter"
    if "Norm" in type(module).__name__:
        role = "norm"
    what = "other parameter" if role == "parameter" else role
    return role, f"{what}: float in the paper's method"


def _weight_block(
    parameter: nn.Parameter, name: str, reader: str, space: SearchSpace, generator
) -> HMQ:
    # NaN has no threshold; zero has none of its own.
    if not torch.isfinite(parameter).all():
        raise ValueError(f"weight {name} holds NaN or infinite values")
    if not parameter.any():
        warnings.warn(
            f"weight {name} is zero everywhere: its largest threshold is 2^0", stacklevel=5
        )
    # An error of the block gets the name of its weight.
    try:
        block = HMQ.for_weight(parameter, space, generator)
    except ValueError as error:
        raise ValueError(f"weight {name}: {error}") from error
    # Weights with their inputs first, and vectors.
    if reader.startswith(INPUTS_FIRST) or parameter.dim() < 2:
        block.sample_axis = 0
    return block


def _round_biases(
    model: nn.Module, rounded: dict[str, tuple[str, str]], quantized: set[str]
) -> None:
    """Put a `BiasRounding` on each bias whose layer reads a quantized tensor: {bias: (weight, name
    of the input)}.
    """
    # A bias is rounded where both of its layer's factors are quantized.
    found = blocks(model)
    for bias, (weight, source) in rounded.items():
        if source in quantized and weight in found:
            path, _, attribute = bias.rpartition(".")
            module, rounding = model.get_submodule(path), BiasRounding(found[weight], found[source])
            if attribute in module._parameters:
                parametrize.register_parametrization(module, attribute, rounding, unsafe=True)
