"""Attach and detach: HMQ blocks on the weights and activations of any network, and off again."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hmq_lab import graph as graphs
from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.quantizer import MAX_EXPONENT, check_bits, threshold_exponent

WEIGHTS = {  # layer: names of its quantized parameters
    nn.modules.conv._ConvNd: ("weight",),
    nn.Linear: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}


@dataclass(frozen=True)
class Placement:
    """One tensor of the network: quantized by a block, or float, and why.

    name: "layer1.0.conv1.weight" for a parameter, "layer1.0.relu:2" for the second call of a module.
    kind: "weight", "activation" or "parameter". shape: of an activation, for one picture.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    quantized: bool
    signed: bool
    reason: str
    layer: str  # class of the layer, or name of the operation

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Blocks(nn.Module):
    """What `attach` adds to a network as `network.hmq`: the activations' blocks and the list of all placements."""

    def __init__(self, activations: dict[str, HMQ], placements: tuple[Placement, ...], forward: dict, order: dict):
        super().__init__()
        self.activations = nn.ModuleDict({_slug(name): block for name, block in activations.items()})
        self.placements = placements
        self.forward_in = forward  # {training?: function}
        self.constants = []  # names of the network's attributes that its graphs added
        self.order = order  # {module: its parameters' names}: taking a parametrization off moves a parameter to the end


def attach(
    model: nn.Module,
    space: SearchSpace | None = None,
    sample: Tensor | None = None,
    *,
    activation_bits: int | Mapping[str, int] = 8,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put an HMQ block on every weight and activation of a network that the method quantizes; changes it in place.

    >>> model = attach(torchvision.models.resnet18(), SearchSpace(), torch.randn(8, 3, 224, 224))
    >>> model(torch.randn(2, 3, 224, 224)).shape                     # in training mode: two samples of every scheme
    torch.Size([2, 1000])
    >>> for placement in placements(model): print(placement.name, placement.reason)

    space: bit-widths and thresholds of the weights (default: the paper's); activations have the same number of
    thresholds, while their bit-widths are given: one number, or one for each name of `placements` (the paper computes
    them from a target, see `budget.activation_bits`). sample: a batch of input pictures; one pass over it sets the
    activations' largest thresholds, `calibrate` does it over many. generator: for the initial logits.

    Blocks are on weights as parametrizations (`module.weight` goes on working and is the quantized weight) and on
    activations as modules in the network's graph: `model.forward` is replaced until `detach`. A network is traced in
    training and in evaluation, and obeys train() and eval().
    Raises ValueError for what torch.fx cannot follow (with the line), for NaN or infinite weights and activations (with
    the tensor's name), and for a network that has blocks already.
    """
    space = SearchSpace() if space is None else space
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
    try:
        return _attach(model, space, sample, activation_bits, generator)
    finally:  # fx keeps the constants of a graph as attributes of the network
        constants = sorted(set(vars(model)) - own - {"forward"})
        if is_attached(model):
            model.hmq.constants = constants
        else:
            for name in constants:
                delattr(model, name)


def _attach(model, space, sample, activation_bits, generator):
    traced = {training: graphs.trace(model, training) for training in (False, True)}
    shapes = _shapes(model, traced[False], sample)
    activations, listed = {}, {}
    for training, graph in traced.items():  # evaluation first: it decides for the tensors that both have
        for site in graphs.sites(model, graph):
            verdict = site.verdict
            if training and site.name not in listed:  # auxiliary heads: nothing would calibrate or deploy their blocks
                verdict = (False, site.signed, "runs in training only", site.layer)
            place = Placement(site.name, "activation", shapes.get(site.name, ()), *verdict)
            place = listed.setdefault(site.name, place)
            if place.quantized and site.name not in activations:
                bits = activation_bits.get(site.name, 8) if isinstance(activation_bits, Mapping) else activation_bits
                own = SearchSpace((bits,), space.thresholds)
                activations[site.name] = HMQ(own, 0, place.signed, generator=generator).to(sample.device)
            if place.quantized:
                _insert(graph, site.node, f"hmq.activations.{_slug(site.name)}")

    if isinstance(activation_bits, Mapping) and not activation_bits.keys() <= activations.keys():
        unknown = ", ".join(sorted(activation_bits.keys() - activations.keys()))
        raise ValueError(f"activation_bits names what is no quantized activation of this network: {unknown}")

    weights, parameters = _weights(model, space, generator)
    order = {path: tuple(module._parameters) for path, module in model.named_modules()}
    functions = {training: graphs.run(graph) for training, graph in traced.items()}
    model.hmq = Blocks(activations, (*parameters, *listed.values()), functions, order)
    model.forward = types.MethodType(_forward, model)
    try:
        for module, attribute, block in weights:
            parametrize.register_parametrization(module, attribute, block, unsafe=True)
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
    _check_attached(model)
    for module in list(model.modules()):
        for attribute, chain in list(getattr(module, "parametrizations", {}).items()):
            if any(isinstance(p, HMQ) for p in chain):
                _own_class(module)
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    for path, names in model.hmq.order.items():
        module = model.get_submodule(path)
        module._parameters = {name: module._parameters[name] for name in names}
    for name in ("forward", *model.hmq.constants, "hmq"):
        delattr(model, name)
    return model


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class that no deep copy of it shares: torch takes the property off the class."""
    shared = type(module)
    members = {name: v for name, v in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


def is_attached(model: nn.Module) -> bool:
    return isinstance(getattr(model, "hmq", None), Blocks)


def _check_attached(model: nn.Module) -> None:
    if not is_attached(model):
        raise ValueError(f"this {type(model).__name__} has no HMQ blocks: attach(model, space, sample) first")


def placements(model: nn.Module) -> tuple[Placement, ...]:
    """Every tensor of an attached network: quantized, or float and why.

    >>> [p.name for p in placements(model) if not p.quantized]
    ['conv1.bias', ..., 'x', 'avgpool', 'fc']
    """
    _check_attached(model)
    return model.hmq.placements


def blocks(model: nn.Module, kind: str | None = None) -> dict[str, HMQ]:
    """The blocks of an attached network by the names of `placements`: of a kind, "weight" or "activation", or all."""
    found = {}
    for place in placements(model):
        if not place.quantized or kind not in (None, place.kind):
            continue
        if place.kind == "weight":
            module, attribute = place.name.rsplit(".", 1) if "." in place.name else ("", place.name)
            found[place.name] = model.get_submodule(module).parametrizations[attribute][0]
        else:
            found[place.name] = model.hmq.activations[_slug(place.name)]
    return found


def resample(model: nn.Module, generator: torch.Generator) -> None:
    """New noise in every block: call it once per training step, before the forward pass."""
    for block in blocks(model).values():
        block.resample(generator)


@contextmanager
def switched_off(model: nn.Module):
    """The float network inside this context: blocks let their tensors through."""
    found = blocks(model).values()
    before = [block.enabled for block in found]
    try:
        for block in found:
            block.enabled = False
        yield model
    finally:
        for block, enabled in zip(found, before, strict=True):
            block.enabled = enabled


def calibrate(model: nn.Module, batches: Iterable[Tensor], rate: float = 0.9) -> dict[str, float]:
    """Set the activations' largest thresholds from one pass of the float network over batches of pictures.

    Of each tensor a running maximum is kept, theta += rate * (max|x| - theta) from the first batch's maximum, and the
    largest threshold is the smallest power of two not below it. Returns theta by name.
    Raises ValueError naming the first tensor that holds NaN or infinities. Source: HMQ, section 4; the authors' code.
    """
    theta: dict[str, Tensor] = {}
    constant: dict[str, Tensor] = {}
    activations = blocks(model, "activation")

    def watch(name):
        def hook(block, inputs):
            smallest, largest = inputs[0].detach().abs().float().aminmax()
            theta[name] = torch.lerp(theta[name], largest, rate) if name in theta else largest
            constant[name] = constant.get(name, True) & (smallest == largest)

        return hook

    hooks = [block.register_forward_pre_hook(watch(name)) for name, block in activations.items()]
    try:
        with switched_off(model), graphs.in_mode(model, training=False), torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: float(value) for name, value in theta.items()}
    exponents = {}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"activation {name} holds NaN or infinite values on the pictures of the calibration")
        # A constant that equals its threshold (an untrained gate: 0.5) would be clipped everywhere and learn nothing.
        exponents[name] = threshold_exponent(value) + int(bool(constant[name]) and math.frexp(value)[0] == 0.5)
        octaves = len(activations[name].exponents) - 1
        if not octaves - MAX_EXPONENT <= exponents[name] <= MAX_EXPONENT:
            raise ValueError(f"activation {name} reaches {value:g} on the pictures of the calibration: out of range")
    for name, value in found.items():
        if value == 0:
            warnings.warn(f"activation {name} is zero everywhere on the pictures of the calibration", stacklevel=2)
        activations[name].exponent.fill_(exponents[name])
    return found


def set_activation_bits(model: nn.Module, bits: Mapping[str, int]) -> None:
    """Give every activation block its bit-width. Raises ValueError for a name that is missing and for bad bits."""
    for name, block in blocks(model, "activation").items():
        if name not in bits:
            raise ValueError(f"no bits are given for activation {name}")
        check_bits(bits[name])
        block.bits.fill_(bits[name])


def _shapes(model: nn.Module, graph, sample: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the graph for one picture."""
    names, shapes = graphs._names(graph), {}

    class Shapes(torch.fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if isinstance(value, Tensor):
                shapes[names[node]] = tuple(value.shape[1:])
            return value

    try:
        with graphs.in_mode(model, training=False), torch.no_grad():
            Shapes(model, graph=graph).run(sample[:1])
    except RuntimeError as error:
        said = f"{type(model).__name__} does not run on a sample of shape {tuple(sample.shape)}"
        raise ValueError(f"{said}, with its optional inputs left out: {str(error).splitlines()[0]}") from error
    return shapes


def _insert(graph, node, target: str) -> None:
    with graph.inserting_after(node):
        block = graph.create_node("call_module", target, (node,))
    node.replace_all_uses_with(block, delete_user_cb=lambda user: user is not block)


def _weights(model, space, generator):
    """[(module, attribute, block)] of the weights to quantize, and a Placement of every parameter."""
    found, listed = [], []
    for path, module in model.named_modules():
        quantized = {a for layer, names in WEIGHTS.items() if isinstance(module, layer) for a in names}
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            label = type(module).__name__
            if attribute not in quantized:
                norm = any(isinstance(module, layer) for layer in graphs.NORM if isinstance(layer, type))
                reason = "bias" if attribute.endswith("bias") and not norm else "norm" if norm else "other parameter"
                reason = f"{reason}: float in the paper's method"
                listed.append(Placement(name, "parameter", tuple(parameter.shape), False, True, reason, label))
                continue
            if not torch.isfinite(parameter).all():
                raise ValueError(f"weight {name} holds NaN or infinite values")
            if not parameter.any():
                warnings.warn(f"weight {name} is zero everywhere: its largest threshold is 2^0", stacklevel=3)
            try:
                block = HMQ.for_weight(parameter, space, generator)
            except ValueError as error:
                raise ValueError(f"weight {name}: {error}") from error
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                block.sample_axis = 0  # (in, out, ...)
            found.append((module, attribute, block))
            reason = "weight of a convolution or fully connected layer"
            listed.append(Placement(name, "weight", tuple(parameter.shape), True, True, reason, label))
        if parametrize.is_parametrized(module):
            raise ValueError(f"{path or 'the network'} has parametrizations of its own: remove them first")
    return found, listed


def _slug(name: str) -> str:
    """A name as torch allows it for a submodule: without dots, and none of a ModuleDict's own ("keys", "values")."""
    return "/" + name.replace(".", "/")
