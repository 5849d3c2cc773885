"""Placements: every tensor of a network on a map, quantized or float and why, and the values it
holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from hmq_lab.block import SearchSpace
from hmq_lab.explorers.controls import Choice, Control, Switch
from hmq_lab.explorers.frame import Explorer, name_only
from hmq_lab.explorers.tensors import many
from hmq_lab.graph.tracing import in_mode
from hmq_lab.network import Placement, attribute_of, blocks, is_attached, switched_off
from hmq_lab.network import placements as listed
from hmq_lab.placement import attach
from hmq_lab.plots import BLUE, GREEN, INK, MARKERS, ORANGE, PALE, RED
from hmq_lab.plots.frame import Look

# of a histogram; of the sample that the values are looked at on
BINS = 60
PICTURES = 32
FILTERS: dict[str, Callable[[Placement], bool]] = {"all": lambda p: True}
FILTERS["quantized"] = lambda p: p.quantized
FILTERS["float"] = lambda p: not p.quantized
FILTERS["weights"] = lambda p: p.kind == "weight"
FILTERS["activations"] = lambda p: p.kind == "activation"
# What the map tells apart.
GROUPS: dict[str, Callable[[Placement], bool]] = {}
GROUPS["quantized weight"] = lambda p: p.quantized and p.kind == "weight"
GROUPS["quantized activation"] = lambda p: p.quantized and p.kind != "weight"
GROUPS["float"] = lambda p: not p.quantized


@dataclass(frozen=True)
class Values:
    """What a tensor holds: shares of its values between -1.3 and 1.3 times the largest threshold,
    in percent.
    """

    shares: np.ndarray  # (BINS,)
    low: float
    high: float
    reach: float  # of the axis, to either side


@dataclass(frozen=True)
class Listing:
    """The placements of a network in one mode; the exponents of each block's thresholds; values by
    name.
    """

    places: dict[str, Placement]
    exponents: dict[str, tuple[int, ...]]
    values: dict[str, Values]

    def shown(self, which: str) -> dict[str, Placement]:
        """Return the placements that a filter shows.

        Args:
            which: a key of FILTERS.

        Returns:
            The placements by name.
        """
        return {name: place for name, place in self.places.items() if FILTERS[which](place)}


@dataclass(frozen=True)
class State:
    """Which tensors are shown, and which is looked at. listings: {hardware mode?: Listing}."""

    listings: dict[bool, Listing]
    tensor: str
    show: str = "all"
    hardware: bool = False

    def change(self, **values) -> State:
        """A tensor that is asked for must be there; one that a filter or mode hides gives way to
        the first shown.
        """
        state = replace(self, **values)
        shown = state.listings[state.hardware].shown(state.show)
        if state.tensor in shown:
            return state
        where = f"among {state.show}" + (" in hardware mode" if state.hardware else "")
        if not shown:
            raise ValueError(f"there is no tensor {where}")
        if "tensor" not in values:
            return replace(state, tensor=next(iter(shown)))
        if set(values) == {"tensor"} and state.tensor in state.listings[state.hardware].places:
            # A reader clicked on what the filter hides.
            return replace(state, show="all")
        raise ValueError(f"tensor {state.tensor} is not {where}")


@dataclass(frozen=True)
class Result:
    place: Placement
    at: int  # of the shown tensors
    shown: tuple[Placement, ...]
    values: Values | None
    # Of the thresholds its block may choose, descending; empty for a float tensor.
    exponents: tuple[int, ...]
    largest: int  # size of a tensor in any mode: what the map has room for
    sentence: str


def placements(model: nn.Module | None = None, sample: Tensor | None = None, **initial) -> Explorer:
    """See every tensor of a network, in the order of the network: quantized or float, why, how
    large, what it holds.

    >>> explorers.placements(model, sample, show="float")
    >>> explorer = explorers.placements(torchvision.models.resnet18(), torch.randn(2, 3, 224, 224))
    >>> explorer.result.place.reason, len(explorer.result.shown)

    Args:
        model: any network, by default the small one that comes with the package; it is copied, not
            changed. One that has blocks already is shown as it is, without the switch to hardware
            mode. Further names of a shared parameter are left out.
        sample: a batch of input images (N, C, H, W), by default built-in ones; the first 32 are
            looked at.
        initial: tensor, a name of `hmq_lab.placements`; show, "all", "quantized", "float",
            "weights" or "activations"; hardware, whether to attach in hardware mode.

    Raises:
        ValueError: for other values, for a tensor with NaN or infinity in it, and what `attach`
            raises.
    """
    if model is None:
        model, sample = _example(sample)
    listings, problem = _listings(model, sample)
    # Tensors of both modes, each once.
    names: list[str] = []
    for listing in listings.values():
        names += [name for name in listing.places if name not in names]
    controls: dict[str, Control] = {"show": Choice("show", tuple(FILTERS), tuple(FILTERS))}
    if len(listings) > 1:
        controls["hardware"] = Switch("hardware mode")
    elif initial.get("hardware") and problem:
        raise problem
    # It opens with the first quantized tensor.
    controls["tensor"] = Choice("tensor", tuple(names), tuple(names), rows=6)
    quantized = [p.name for p in listings[False].places.values() if p.quantized]
    state = State(listings, (quantized or names)[0])
    return Explorer(state, compute, draw, move, controls, initial, height=4.6)


def _example(sample: Tensor | None) -> tuple[nn.Module, Tensor]:
    from hmq_lab import models
    from hmq_lab.data import builtin as glyphs
    from hmq_lab.data.datasets import STATISTICS, Images
    from hmq_lab.models.weights import SHIPPED, load_weights

    network = models.build("tiny_resnet8").eval()
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    # Some of the built-in ones, without drawing them all.
    if sample is None:
        images, labels = map(torch.from_numpy, glyphs.make(PICTURES, stream="test"))
        drawn = Images(images, labels, *STATISTICS["builtin"])
        sample, _ = next(drawn.batches(PICTURES))
    return network, sample


def _listings(
    model: nn.Module, sample: Tensor | None
) -> tuple[dict[bool, Listing], Exception | None]:
    """A listing for each mode; what hardware mode cannot have of this network is left out, with the
    error.
    """
    # A network with blocks is shown as it is.
    if is_attached(model):
        if not isinstance(sample, Tensor):
            raise ValueError(f"sample must be a batch of input images, got {type(sample).__name__}")
        return {False: _listing(copy.deepcopy(model), sample)}, None
    # `attach` refuses what is no sample.
    some: Any = sample
    if isinstance(sample, Tensor) and sample.dim():
        some = sample[:PICTURES]
    found = {False: _listing(attach(copy.deepcopy(model), SearchSpace(), some), some)}
    try:
        in_hardware = attach(copy.deepcopy(model), SearchSpace(), some, hardware=True)
        found[True] = _listing(in_hardware, some)
    except ValueError as error:
        return found, error
    return found, None


def _listing(attached: nn.Module, sample: Tensor) -> Listing:
    """attached: a copy, which loses its blocks."""
    # The blocks' thresholds, before they are taken off the copy.
    places = {place.name: place for place in listed(attached) if place.kind != "shared"}
    exponents = {}
    for name, block in blocks(attached).items():
        exponents[name] = tuple(block.exponents.tolist())
    hmq: Any = attached.hmq
    graph = hmq.graph

    class Looking(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            name = node.meta.get("name")
            if (
                isinstance(value, Tensor)
                and name in places
                and name not in found
                and node.meta["kind"] != "block"
            ):
                found[name] = _values(name, value, exponents.get(name))
            return value

    with switched_off(attached), in_mode(attached, training=False), torch.no_grad():
        found = {}
        for name, parameter in _parameters(attached):
            if name in places:
                found[name] = _values(name, parameter, exponents.get(name))
        Looking(attached, graph=graph).run(sample[:PICTURES])
    return Listing(places, exponents, found)


def _parameters(attached: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a network by the names that they have without blocks."""
    for place in listed(attached):
        if place.kind in ("weight", "parameter"):
            yield place.name, attribute_of(attached, place.name)


def _values(name: str, tensor: Tensor, exponents: tuple[int, ...] | None) -> Values:
    x = tensor.detach().float().flatten()
    if not x.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values")
    low, high = (float(end) for end in x.aminmax())
    largest = max(abs(low), abs(high)) or 1.0
    reach = 1.3 * (2.0 ** exponents[0] if exponents else largest)
    counts = torch.histc(x.cpu(), BINS, -reach, reach)
    return Values(100 * counts.numpy() / max(x.numel(), 1), low, high, reach)


def compute(state: State) -> Result:
    """The chosen tensor among those that the filter shows.

    Args:
        state: what the controls are set to.

    Returns:
        What is shown.
    """
    listing = state.listings[state.hardware]
    shown = listing.shown(state.show)
    place = shown[state.tensor]
    exponents = listing.exponents.get(place.name, ())
    values = listing.values.get(place.name)
    at = list(shown).index(place.name)
    sentence = f"{_counts(listing)} {_about(place, values, exponents, listing)}"
    sentence += f" Shown: {len(shown)} of {many(len(listing.places), 'tensor')}."
    largest = 0
    for other in state.listings.values():
        largest = max(largest, *(p.size for p in other.places.values()))
    return Result(place, at, tuple(shown.values()), values, exponents, largest, sentence)


def _counts(listing: Listing) -> str:
    places = listing.places.values()
    groups = {name: list(filter(test, places)) for name, test in GROUPS.items()}
    weights, activations, floats = groups.values()
    elements = sum(p.size for p in weights)
    text = f"{many(len(weights), 'weight')} ({elements:,} elements) and "
    text += f"{many(len(activations), 'activation')} are "
    return text + f"quantized, {many(len(floats), 'tensor')} float."


def _about(
    place: Placement, values: Values | None, exponents: tuple[int, ...], listing: Listing
) -> str:
    shape = " × ".join(map(str, place.shape)) or "one number"
    form = (
        "float"
        if not place.quantized
        else "quantized, signed"
        if place.signed
        else "quantized, unsigned"
    )
    text = f"{place.name} ({place.layer}, {shape}) is {form}: {place.reason}."
    if place.kind == "weight":
        weights = filter(GROUPS["quantized weight"], listing.places.values())
        share = place.size / sum(p.size for p in weights)
        text += f" It holds {share:.2%} of the quantized weights' elements."
    if values is not None:
        text += f" Its values go from {values.low:.3g} to {values.high:.3g}"
        if exponents:
            text += f"; thresholds from 2^{exponents[0]} down to 2^{exponents[-1]}"
        text += "."
    return text


def draw(result: Result, figure) -> dict:
    """Above the map, a mark for each tensor; below the values of the chosen one with its
    thresholds.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    sizes, held = figure.subplots(2, 1, height_ratios=(1.5, 1))
    artists = {}
    for (name, _), marker, colour in zip(
        GROUPS.items(), MARKERS, (BLUE, GREEN, ORANGE), strict=False
    ):
        style: Look = {"ls": "none", "ms": 6, "alpha": 0.85, "mew": 1.4}
        style["mfc"] = "none" if name == "float" else colour
        (artists[name],) = sizes.plot([], [], marker=marker, color=colour, label=name, **style)
    # A ring on the chosen tensor, a logarithmic axis for the elements.
    ring = {"marker": "o", "ms": 14, "mfc": "none", "mec": RED, "mew": 2}
    (artists["chosen"],) = sizes.plot([], [], ls="none", **ring)
    sizes.set(xticks=[], xlim=(-0.03, 1.03))
    sizes.set(yscale="log", ylabel="elements")
    sizes.set_xlabel(
        "tensors in the order of the network's list: parameters, then activations", loc="left"
    )
    sizes.set_ylim(0.5, 2.0 * result.largest + 1)
    place: Look = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0}
    artists["legend"] = sizes.legend(ncols=3, frameon=False, **place)
    # Below its values as bars, in units of its largest threshold.
    edges = np.linspace(-1.3, 1.3, BINS + 1)
    style = {"color": PALE, "edgecolor": "white", "lw": 0.3}
    bars = held.bar(edges[:-1], np.ones(BINS), np.diff(edges), align="edge", **style)
    artists["shares"] = list(bars)
    # Broken lines for the thresholds that its block chooses from.
    upright: Look = {"color": RED, "lw": 1.2, "ls": "--"}
    across = held.get_xaxis_transform()
    (artists["thresholds"],) = held.plot([], [], transform=across, **upright)
    artists["none"] = held.text(0, 50, "", ha="center", va="center", color=INK)
    artists["title"] = held.set_title("Qq", loc="left")
    held.set(xlim=(-1.3, 1.3), ylim=(0, 100))
    held.set(ylabel="% of the highest", yticks=[0, 50, 100])
    # The ticks have the tensor's own numbers.
    ticks = [-1, -0.5, 0, 0.5, 1]
    below: Look = {"ha": "center", "va": "top", "fontsize": 9}
    artists["x"] = [held.text(x, -6, "", **below) for x in ticks]
    held.set_xticks(ticks, [" "] * 5)
    held.grid(False, axis="x")
    move(result, artists)
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    count = max(len(result.shown) - 1, 1)
    drawn = [name for name, test in GROUPS.items() if any(map(test, result.shown))]
    name_only(artists["legend"], drawn)
    for name, test in GROUPS.items():
        # Each group has its marks, at its places among what is shown.
        points = {at: p for at, p in enumerate(result.shown) if test(p)}
        x = [at / count for at in points]
        artists[name].set_data(x, [max(p.size, 1) for p in points.values()])
    artists["chosen"].set_data([result.at / count], [max(result.place.size, 1)])
    values = result.values
    # Bars in percent of the highest one.
    top = values.shares.max() if values is not None and values.shares.any() else 1.0
    for bar, share in zip(
        artists["shares"], values.shares if values is not None else np.zeros(BINS), strict=True
    ):
        bar.set_height(100 * share / top)
    artists["none"].set_text(
        "" if values is not None else "no values: it is not computed in evaluation"
    )
    ends = []
    for e in result.exponents:
        end = 2.0 ** (e - result.exponents[0])
        ends += [-end, end]
    # Those below the largest are close together.
    lows = [0.0 if abs(end) == 1 else 0.8 for end in ends]
    heights = []
    for low in lows:
        heights += [low, 1, np.nan]
    artists["thresholds"].set_data(np.repeat(ends, 3), heights)
    unit = values.reach / 1.3 if values is not None else 0.0
    for text in artists["x"]:
        text.set_text(f"{text.get_position()[0] * unit:.3g}" if values is not None else "")
    what = "; broken: the thresholds to choose from" if result.exponents else ""
    artists["title"].set_text(f"values of {result.place.name}{what}")
