"""A network with blocks on it: what is quantized, its blocks by name, the thresholds of its
activations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from hmq_lab.block import HMQ
from hmq_lab.graph.tracing import Reading, in_mode
from hmq_lab.quantizer import MAX_EXPONENT, check_bits, power_of_two, threshold_exponent


@dataclass(frozen=True)
class Placement:
    """One tensor of the network: quantized by a block, or float, and why.

    name: "layer1.0.conv1.weight" for a parameter, "layer1.0.relu:2" for the second call of a
    module.
    kind: "weight", "activation", "parameter", "shared" (a further name of one of these parameters),
    or "hardware": an image or mean that hardware mode alone quantizes. shape: of an activation, for
    one image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    quantized: bool
    signed: bool
    reason: str
    layer: str  # class of the layer, or name of the operation
    # "weight", "norm", "bias", "parameter", "shared"; of an activation a key of
    # `graph.sites.REASONS`, or "other".
    role: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Blocks(nn.Module):
    """What `attach` adds to a network as `network.hmq`: the activations' blocks, the placements,
    the graphs.

    graph: of evaluation, with the blocks in it. Each node's `meta` has its "name", "kind", "shape"
    (for a batch of one image) and "layer". sizes: of images that the graphs are known to be right
    for.
    """

    def __init__(
        self,
        activations: dict[str, HMQ],
        placements: tuple[Placement, ...],
        readings: dict[bool, Reading],
        functions: dict[bool, Callable[[nn.Module, Tensor], list[Any]]],
        order: dict[str, tuple[str, ...]],
        own: Callable[..., Any] | None,
    ):
        # Submodules: the blocks, and the constants that the graphs read.
        super().__init__()
        self.activations = nn.ModuleDict({slug(name): block for name, block in activations.items()})
        self.constants = nn.Module()  # tensors that forward makes from Python numbers
        for reading in readings.values():
            for name, value in reading.constants.items():
                self.constants.register_buffer(slug(name), value, persistent=False)
        # What the rest of the package asks for.
        self.placements = placements
        self.graph = readings[False].graph
        self.outputs = {training: reading.outputs for training, reading in readings.items()}
        self.functions = functions  # {training: function of (network, images)}
        # {module: its parameters' names}: taking a parametrization off moves a parameter to the
        # end.
        self.order = order
        self.own_forward = own  # that the network's instance had, if any
        # Sizes are added as images of new ones come and pass the check.
        self.sizes: set[tuple[int, ...]] = set()

    def run(self, network: nn.Module, images: Tensor):
        """What the network returns for images, in its mode; in training with new samples.

        Args:
            network: that these blocks are attached to.
            images: a batch (N, C, H, W) of a size in `sizes`.
        """
        # One pass has one set of samples, even where a block runs twice.
        if network.training:
            for block in blocks(network).values():
                block.begin_pass()
        # An error within no_grad leaves the mode as it was.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            results = self.functions[network.training](network, images)
        return pytree.tree_unflatten(results, self.outputs[network.training])

    @property
    def image(self) -> tuple[int, ...]:
        """The size of one image, as (C, H, W)."""
        return next(
            tuple(node.meta["shape"][1:]) for node in self.graph.nodes if node.op == "placeholder"
        )

    @property
    def output(self) -> fx.Node:
        """The node of the network's output; ValueError for a network that has several."""
        # The output node reads a tuple of tensors.
        values: Any = next(node.args[0] for node in self.graph.nodes if node.op == "output")
        if len(values) != 1:
            raise ValueError("the network returns several tensors: this form has one output")
        return values[0]


class BiasRounding(nn.Module):
    """A parametrization of a bias in hardware mode: a multiple of the accumulator's step, step_w *
    step_x.

    Both steps are those of the selected schemes, in the search as well: noise in a bias would serve
    nothing. Rounding is half to even, its gradient straight-through.
    """

    def __init__(self, weight: HMQ, source: HMQ):
        super().__init__()
        # A tuple, so that they do not become submodules a second time.
        self.blocks = (weight, source)

    def forward(self, bias: Tensor) -> Tensor:
        # The float network has float biases.
        if not all(block.enabled for block in self.blocks):
            return bias
        # In float64, so that the division is exact.
        weight, source = (power_of_two(block.step_exponent()).double() for block in self.blocks)
        step = weight * source
        rounded = ((bias.detach().double() / step).round() * step).to(bias.dtype)
        # The value is the rounded one, the gradient that of the bias.
        return rounded + (bias - bias.detach())


def is_attached(model: nn.Module) -> bool:
    """Whether a network has HMQ blocks.

    Args:
        model: any module.
    """
    return isinstance(getattr(model, "hmq", None), Blocks)


def check_attached(model: nn.Module) -> Blocks:
    """The blocks and the graph of an attached network.

    Args:
        model: any module.

    Returns:
        What `attach` put at `model.hmq`.

    Raises:
        ValueError: for a network without blocks, saying how to attach them.
    """
    found = getattr(model, "hmq", None)
    if not isinstance(found, Blocks):
        raise ValueError(
            f"this {type(model).__name__} has no HMQ blocks: attach(model, space, sample) first"
        )
    return found


def placements(model: nn.Module) -> tuple[Placement, ...]:
    """Every tensor of an attached network: quantized, or float and why.

    >>> from hmq_lab import attach, models, placements
    >>> model = attach(models.build("tiny_resnet8"), torch.rand(8, 3, 32, 32))
    >>> [placement.name for placement in placements(model) if not placement.quantized]
    ['bn1.weight', 'bn1.bias', ..., 'linear.bias', 'x', 'pool', 'linear']

    Args:
        model: an attached network.

    Returns:
        Placements of parameters, then of activations.

    Raises:
        ValueError: for a network without blocks.
    """
    return check_attached(model).placements


def blocks(model: nn.Module, kind: str | None = None) -> dict[str, HMQ]:
    """The blocks of an attached network by the names of `placements`: of a kind (see `Placement`),
    or all.

    Args:
        model: an attached network.
        kind: "weight", "activation" or "hardware"; None for all, the default.

    Returns:
        {name: block}, in the order of `placements`.

    Raises:
        ValueError: for a network without blocks.
    """
    attached = check_attached(model)
    # Blocks of weights are parametrizations, those of activations modules.
    found: dict[str, Any] = {}
    for place in attached.placements:
        if not place.quantized or kind not in (None, place.kind):
            continue
        if place.kind == "weight":
            module, attribute = place.name.rsplit(".", 1) if "." in place.name else ("", place.name)
            chains: Any = model.get_submodule(module).parametrizations
            found[place.name] = chains[attribute][0]
        else:
            found[place.name] = attached.activations[slug(place.name)]
    return found


def fixed_blocks(model: nn.Module) -> dict[str, HMQ]:
    """All blocks of an attached network by name, each with its selected scheme.

    Args:
        model: an attached network, after its search.

    Returns:
        {name: block}, in the order of `placements`.

    Raises:
        ValueError: for a network without blocks, or naming a block that has no selected scheme.
    """
    found = blocks(model)
    for name, block in found.items():
        if not block.is_fixed:
            raise ValueError(
                f"{name} has no selected scheme yet: end the search, or call its block's fix()"
            )
    return found


def resample(model: nn.Module, generator: torch.Generator) -> None:
    """New noise in every block: call it once per training step, before the forward pass.

    Args:
        model: an attached network.
        generator: draws the noise.
    """
    for block in blocks(model).values():
        block.resample(generator)


@contextmanager
def switched_off(model: nn.Module):
    """The float network inside this context: blocks let their tensors through.

    Args:
        model: an attached network; yielded as it is.
    """
    # A block that was off already stays off afterwards.
    found = blocks(model).values()
    before = [block.enabled for block in found]
    try:
        for block in found:
            block.enabled = False
        yield model
    finally:
        for block, enabled in zip(found, before, strict=True):
            block.enabled = enabled


def set_activation_bits(model: nn.Module, bits: Mapping[str, int]) -> None:
    """Give every activation block its bit-width.

    Args:
        model: an attached network.
        bits: bit-widths by the names of `placements`; further names are ignored.

    Raises:
        ValueError: naming the activation without bits, or for bits that are not allowed.
    """
    # Every activation needs its bits: none keeps an old number.
    for name, block in blocks(model, "activation").items():
        if name not in bits:
            raise ValueError(f"no bits are given for activation {name}")
        check_bits(bits[name])
        block.bits.fill_(bits[name])


def attribute_of(model: nn.Module, name: str) -> Tensor:
    """A parameter, buffer or constant of the graph by its name: "layer1.0.conv1.weight".

    Args:
        model: the network.
        name: a path with dots.
    """
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def slug(name: str) -> str:
    """A name as torch allows it for a submodule: without dots, and none of a ModuleDict's own
    ("keys", "values").

    Args:
        name: of a tensor, with dots.
    """
    return "/" + name.replace(".", "/")


def calibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    rate: float = 0.9,
    largest: Callable[[Tensor], Tensor] = lambda values: values,
) -> dict[str, float]:
    """Set the activations' largest thresholds from one pass of the float network over batches of
    images.

    Of each tensor a running maximum is kept, theta += rate * (max|x| - theta) from the first
    batch's maximum, and the largest threshold is the smallest power of two not below it.
    Source: HMQ, section 4; the authors' code.

    >>> from hmq_lab import attach, models
    >>> model = attach(models.build("tiny_resnet8"), torch.rand(8, 3, 32, 32))
    >>> batches = [torch.rand(8, 3, 32, 32) for _ in range(4)]
    >>> list(calibrate(model, batches))
    ['relu', 'layer1.0.relu1', 'layer1.0.relu2', ..., 'layer3.0.relu2']

    Args:
        model: an attached network.
        batches: float images (N, C, H, W) each.
        rate: the weight of a new batch in the running maximum, from 0 to 1; 0.9 by default.
        largest: where several processes see a part of every batch each, what gives the largest of
            their values (tensors, 2), element by element; the values as they are by default.

    Returns:
        {activation: theta}, in the units of the tensor.

    Raises:
        ValueError: naming the first tensor that holds NaN or infinities or is out of range, where
            there are no batches at all, and for a rate that is not from 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be from 0 to 1, got {rate!r}")
    # The means and images of hardware mode are calibrated, too.
    activations = blocks(model, "activation") | blocks(model, "hardware")
    # Extremes of the present batch, and the running ones.
    ends: dict[str, Tensor] = {}  # of this batch, for each tensor: max|x| and -min|x|
    theta = same = None

    # The block's input is the float tensor.
    def watch(name):
        def hook(block, inputs):
            low, high = inputs[0].detach().abs().float().aminmax()
            ends[name] = torch.stack((high, -low))

        return hook

    # Hooks on the blocks see each tensor as the float network runs.
    hooks = [block.register_forward_pre_hook(watch(name)) for name, block in activations.items()]
    try:
        with switched_off(model), in_mode(model, training=False), torch.no_grad():
            count = 0
            for batch in batches:
                model(batch)
                count += 1
                # Nothing to measure in a network without activations.
                if not ends:
                    continue
                # One value for each tensor, in the order of `ends`.
                high, low = largest(torch.stack(list(ends.values()))).unbind(1)
                # The first batch's maxima are the start. Each further batch pulls them towards its
                # own, by the part `rate`.
                theta = high if theta is None else torch.lerp(theta, high, rate)
                # Constant means that one value filled every batch.
                filled = high == -low
                same = filled if same is None else same & filled
    finally:
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise ValueError("calibration needs at least one batch of images, got none")

    # One value for each tensor, as Python numbers.
    found, constant = {}, {}
    if theta is not None and same is not None:
        found = dict(zip(ends, theta.tolist(), strict=True))
        constant = dict(zip(ends, same.tolist(), strict=True))
    exponents = {}
    for name, value in found.items():
        # No threshold is above NaN or infinity.
        if not math.isfinite(value):
            raise ValueError(
                f"activation {name} holds NaN or infinite values on the images of the calibration"
            )
        # A constant that equals its threshold (an untrained gate: 0.5) would be clipped everywhere
        # and learn nothing.
        exponents[name] = threshold_exponent(value) + int(
            constant[name] and math.frexp(value)[0] == 0.5
        )
        # All thresholds of the block have to lie in the range of exponents.
        octaves = len(activations[name].exponents) - 1
        if not octaves - MAX_EXPONENT <= exponents[name] <= MAX_EXPONENT:
            raise ValueError(
                f"activation {name} reaches {value:g} on the images of the calibration: out of range"
            )

    # Every tensor is valid: now write the thresholds.
    for name, value in found.items():
        if value == 0:
            warnings.warn(
                f"activation {name} is zero everywhere on the images of the calibration",
                stacklevel=2,
            )
        activations[name].exponent.fill_(exponents[name])
    return found
