"""Integers: one image followed through one layer, code by code, beside a simulation in floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab.explorers.controls import Choice, Control, Switch, Whole
from hmq_lab.explorers.frame import Explorer
from hmq_lab.hardware import faults as breaking
from hmq_lab.hardware.integer import IntegerNetwork
from hmq_lab.plots import BLUE, GREEN, INK, ORANGE, RED
from hmq_lab.plots.frame import Look

REGISTERS = (32, 16, 14, 12)
MULTIPLIERS = (0, 4, 8, 12)
# of a sum in binary that are shown at least; of text
DIGITS = 24
LINES = 8


@dataclass(frozen=True)
class State:
    """Which code is followed, and what is made worse. sizes: of each layer's output, (channels,
    rows, columns).
    """

    sizes: Mapping[str, tuple[int, int, int]]
    layer: str
    channel: int = 0
    row: int = 0
    column: int = 0
    odd_threshold: bool = False
    multiplier: int = 0
    register: int = 32

    def change(self, **values) -> State:
        """A place that is asked for must exist; one that is left from another layer moves to the
        nearest.
        """
        state = replace(self, **values)
        for name, size in zip(("channel", "row", "column"), state.sizes[state.layer], strict=True):
            if name in values and not 0 <= values[name] < size:
                allowed = f"from 0 to {size - 1} in {state.layer}"
                raise ValueError(f"{name} must be {allowed}, got {values[name]}")
            state = replace(state, **{name: min(getattr(state, name), size - 1)})
        return state


@dataclass(frozen=True)
class Result:
    """One code, from the integers it is made of on; and the channel it stands in.

    x, weight: codes (inputs, places of the kernel). partial: the running sum (products + 1,), the
    bias last. sum: what the register holds. simulated: the sum in float64, in steps of the output,
    and simulated_code its code. codes,
    differ: of the channel, (rows, columns).
    """

    state: State
    x: np.ndarray
    weight: np.ndarray
    partial: np.ndarray
    sum: int
    places: int
    ends: tuple[int, int]
    code: int
    simulated: float
    simulated_code: int
    codes: np.ndarray
    differ: np.ndarray
    differ_in_layer: int
    codes_in_layer: int
    sentence: str

    @property
    def step(self) -> float:
        """One step of the output, in units of the sum."""
        return 2.0**self.places / (breaking.HALF_AN_OCTAVE if self.state.odd_threshold else 1.0)


def integers(network: nn.Module | None = None, image: Tensor | None = None, **initial) -> Explorer:
    """Follow one image through one layer in integers: codes in, weights, sum, shift, code out;
    and the simulation.

    >>> explorers.integers(network, image, layer="layer2.0.conv1", channel=3)
    >>> explorer = explorers.integers(odd_threshold=True, multiplier=4)     # where the codes differ
    >>> explorer.result.differ_in_layer

    Args:
        network: attached in hardware mode, its schemes fixed; by default the small network that
            comes with the package, with the bits of its recorded search.
        image: (C, H, W); by default a built-in one.
        initial: layer, one whose sums are shifted to codes next (a sum of a residual connection is
            not); channel, row, column of its output; odd_threshold: the weights below 2^-1/2 times
            their threshold; multiplier: of so many bits, 0, 4, 8 or 12, in place of that factor;
            register: bits of the accumulator, 32, 16, 14 or 12.

    Raises:
        ValueError: for others, and what `IntegerNetwork.from_selected` does.
    """
    network = example() if network is None else network
    program = IntegerNetwork.from_selected(network)
    if image is None:
        from hmq_lab import data

        image = next(data.load("builtin").test.batches(1))[0][0]
    if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image must be a float tensor (C, H, W), got {what}")
    # Every layer's codes for the image, and the layers that can be followed.
    traced = program.trace(image[None])
    values = {name: codes for name, (codes, _) in traced.items()}
    followed = {}
    for name in breaking.layers(program):
        layer = Followed.of(program, name, values)
        if layer is not None:
            followed[name] = layer
    if not followed:
        raise ValueError(
            "no convolution (2d) or linear layer of this network is followed by a shift"
        )
    sizes = {name: layer.size for name, layer in followed.items()}
    # The places of the largest output; a state checks those of its layer.
    most = [max(size[axis] for size in sizes.values()) - 1 for axis in range(3)]
    registers = tuple(f"{bits} bits" for bits in REGISTERS)
    multipliers = ("none", *(f"{bits} bits" for bits in MULTIPLIERS[1:]))
    controls: dict[str, Control] = {}
    controls["layer"] = Choice("layer", tuple(sizes), tuple(sizes))
    controls["register"] = Choice("accumulator", REGISTERS, registers)
    controls["channel"] = Whole("channel", 0, most[0])
    controls["odd_threshold"] = Switch("threshold no power of two")
    controls["row"] = Whole("row", 0, most[1])
    controls["multiplier"] = Choice("multiplier", MULTIPLIERS, multipliers)
    controls["column"] = Whole("column", 0, most[2])
    # It opens at the largest code of the first layer.
    name = next(iter(sizes))
    largest = int(followed[name].codes().argmax())
    channel, row, column = map(int, np.unravel_index(largest, sizes[name]))
    state = State(sizes, name, channel, row, column)

    def follow(state: State) -> Result:
        return compute(state, followed[state.layer], partial(breaking.threshold, program, network))

    def dead(state: State) -> tuple[str, ...]:
        # A power of two needs none.
        return () if state.odd_threshold else ("multiplier",)

    return Explorer(state, follow, draw, move, controls, initial, height=4.5, dead=dead)


def example() -> nn.Module:
    """The small network that comes with the package in hardware mode, with the bits that a recorded
    search chose.
    """
    from hmq_lab import SearchSpace, attach, data, models
    from hmq_lab.explorers.choice import original
    from hmq_lab.models.weights import SHIPPED, load_weights
    from hmq_lab.placement import blocks
    from hmq_lab.rivals.landscape import best_schemes
    from hmq_lab.runs import records

    # The shipped network with blocks in hardware mode.
    network = models.build("tiny_resnet8").eval()
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    sample, _ = next(data.load("builtin").train.batches(256, seed=0))
    attach(network, SearchSpace(), sample, hardware=True)
    # The recorded bits, each with its best threshold.
    record = records.recorded("builtin-tiny_resnet8-w8-a8")
    bits = {t["name"]: t["bits"] for t in record.tensors}
    for name, block in blocks(network).items():
        best = None
        if name in blocks(network, "weight"):
            best = best_schemes(block, original(network, name))[bits[name]]
        block.fix(best)
    return network


@dataclass(frozen=True, eq=False)
class Followed:
    """A layer of a program with the codes that come in for one image, and what leads to the codes
    that go out.
    """

    name: str
    x: Tensor  # (1, channels, rows, columns) or (1, features)
    x_exponent: int
    exponent: int  # of the sums
    own: Any  # the instruction
    chain: tuple
    size: tuple[int, int, int]

    @classmethod
    def of(
        cls, program: IntegerNetwork, name: str, values: Mapping[str, Tensor]
    ) -> Followed | None:
        """None for layers that have no figure to draw.

        Args:
            program: an integer network.
            name: of a layer.
            values: codes of an image by the names of instructions.

        Returns:
            The layer with its inputs, or None.
        """
        by_name: dict[str, Any] = {i.name: i for i in program.instructions}
        own = by_name[name]
        out = values[name]
        source = by_name[own.inputs[0]]
        if out.dim() not in (2, 4) or isinstance(_options(own).get("padding"), str):
            return None
        size = (*out.shape[1:], 1, 1)[:3]
        x = values[source.name]
        chain = tuple(breaking.chain(program, name))
        return cls(name, x, source.exponent, own.exponent, own, chain, size)

    def codes(self) -> Tensor:
        """Return the codes that go out, from the inputs on."""
        codes = self.own.compute(self.x)
        for i in self.chain:
            codes = i.compute(codes)
        return codes

    def window(self, weight: Tensor, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the inputs and weights of one sum, both (inputs, places of the kernel).

        Args:
            weight: codes of the layer's weight.
            state: channel, row and column of the sum.

        Returns:
            The input codes and the weight codes.
        """
        own = weight[state.channel]
        if weight.dim() == 2:
            x = self.x[0]
            return x[:, None].numpy(), own[:, None].numpy()
        options = _options(self.own)
        groups = options.pop("groups")
        # (inputs * places, positions).
        columns = F.unfold(self.x.double(), weight.shape[2:], **options)[0]
        column = state.row * self.size[2] + state.column
        at = columns[:, column].long().view(self.x.shape[1], -1)
        first = state.channel // (self.size[0] // groups) * len(own)
        return at[first : first + len(own)].numpy(), own.flatten(1).numpy()


def _options(own) -> dict:
    """Stride, padding, dilation, groups of a convolution; empty for a linear layer."""
    return dict(own.parameters["convolve"].options)


def compute(state: State, layer: Followed, odd) -> Result:
    """The sums, shifts and codes of a layer in integers, and the codes of the same layer in
    float64.

    Args:
        state: what the controls are set to.
        layer: that is followed.
        odd: makes the network with another threshold of a layer: (layer, factor, multiplier).

    Returns:
        What is shown.
    """
    own = layer.own
    chain = layer.chain
    # A threshold that is no power of two changes the layer's codes and its shift.
    factor = breaking.HALF_AN_OCTAVE if state.odd_threshold else 1.0
    if state.odd_threshold:
        changed = {i.name: i for i in odd(state.layer, factor, state.multiplier).instructions}
        own = changed[own.name]
        chain = tuple(changed[i.name] for i in chain)
    weight = own.parameters["weight"]
    bias = own.parameters["bias"]
    convolve = own.parameters["convolve"]
    # In integers: sums, what the register holds of them, codes.
    exact = own.compute(layer.x)
    codes = sums = breaking.wrap(exact, state.register)
    for i in chain:
        codes = i.compute(codes)

    # In float64: the same layer in the values that the codes stand for.
    unit = factor * 2.0**layer.exponent
    step = 2.0 ** chain[-1].exponent
    values = layer.x.double() * 2.0**layer.x_exponent
    scaled = weight.double() * (unit / 2.0**layer.x_exponent)
    values = convolve(values, scaled) + bias.double() * unit
    steps = values / step
    for i in chain[:-1]:
        low = i.parameters["smallest"]
        high = i.parameters["largest"]
        least = -math.inf if low is None else low * unit
        most = math.inf if high is None else high * unit
        values = values.clamp(least, most)
    ends = chain[-1].scheme.integers
    simulated = (values / step).round().clamp(*ends).long()

    # The one sum that is followed, product by product.
    at = (0, state.channel, state.row, state.column)[: codes.dim()]
    x, own_weight = layer.window(weight, state)
    products = (x * own_weight).ravel()
    running = np.append(np.cumsum(products), int(exact[at]))
    places = chain[-1].exponent - layer.exponent
    differ = (codes != simulated)[0].view(layer.size).numpy()
    # Where the two part, in the channel and in the layer.
    found = Result(
        state,
        x,
        own_weight,
        running,
        int(sums[at]),
        places,
        ends,
        int(codes[at]),
        float(steps[at]),
        int(simulated[at]),
        codes[0].view(layer.size)[state.channel].numpy(),
        differ[state.channel],
        int(differ.sum()),
        differ.size,
        "",
    )
    return replace(found, sentence=_sentence(found))


def scaling(state: State, places: int) -> str:
    """What is done to a sum, in words.

    Args:
        state: what the controls are set to.
        places: of the shift.

    Returns:
        The words.
    """
    if state.odd_threshold and state.multiplier:
        by = round(breaking.HALF_AN_OCTAVE * 2**state.multiplier)
        return f"times {by}, shifted right by {places + state.multiplier}"
    return f"shifted {'right' if places >= 0 else 'left'} by {abs(places)}"


def _sentence(r: Result) -> str:
    s = r.state
    text = f"{s.layer}, channel {s.channel} at ({s.row}, {s.column}): "
    text += f"{r.x.size:,} products and a "
    text += "bias add up to "
    text += f"{r.partial[-1]:,}"
    if r.sum != r.partial[-1]:
        text += f", of which {s.register} bits hold {r.sum:,}"
    text += f"; {scaling(s, r.places)}, rounded half to even and clipped to "
    text += f"{r.ends[0]}..{r.ends[1]} it is the code "
    text += (
        f"{r.code}. The simulation has {r.simulated:.6g} steps and the code {r.simulated_code}. "
    )
    return text + f"Of the layer's {r.codes_in_layer:,} codes {r.differ_in_layer:,} differ."


def draw(r: Result, figure) -> dict:
    """Above the codes that come in, the weights and the channel; below the running sum, and the sum
    in binary.

    Args:
        r: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    mosaic = [["x", "weight", "codes"], ["sum", "sum", "bits"]]
    widths = (1, 1, 1.45)
    axes = figure.subplot_mosaic(mosaic, height_ratios=(1, 1.05), width_ratios=widths)
    artists = {}
    # Above: codes that come in, weights, and the channel that goes out.
    for name, cmap, low in (("x", "cividis", 0), ("weight", "PuOr", -1), ("codes", "cividis", 0)):
        ax = axes[name]
        place: Look = {"aspect": "auto", "extent": (0, 1, 1, 0)}
        artists[name] = ax.imshow(np.zeros((1, 1)), cmap=cmap, vmin=low, vmax=1, **place)
        artists[f"title {name}"] = ax.set_title("Qq", loc="left")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    axes["x"].set(xlabel="places of the kernel", ylabel="input channels")
    axes["weight"].set(xlabel="places of the kernel")
    axes["codes"].set(xlabel="columns", ylabel="rows")
    style = {"ls": "none", "transform": axes["codes"].transData}
    codes = axes["codes"]
    (artists["parted"],) = codes.plot([], [], "x", color=RED, ms=6, mew=1.6, **style)
    square: Look = {"mec": ORANGE, "mfc": "none", "ms": 11, "mew": 2}
    (artists["frame"],) = codes.plot([], [], "s", **square, **style)
    # Below: the running sum, with the ends of the codes and of the register.
    ax = axes["sum"]
    ax.set(xlim=(-0.02, 1.02), xticks=[], ylim=(-1, 1))
    ax.set_title("running sum, the bias last (steps of the output)", loc="left")
    artists["range"] = ax.axhspan(0, 1, color=GREEN, alpha=0.15, lw=0, label="codes")
    limit: Look = {"color": RED, "ls": "--", "lw": 1.2}
    artists["limits"] = [ax.axhline(0, **limit), ax.axhline(0, **limit)]
    artists["limits"][0].set_label("its ends")
    (artists["partial"],) = ax.plot([], [], color=INK, lw=1.2, label="exact")
    (artists["wrapped"],) = ax.plot([], [], ".", color=ORANGE, ms=5, label="in the register")
    (artists["end"],) = ax.plot([], [], "D", color=BLUE, ms=7, clip_on=False)
    artists["ticks"] = ax.yaxis
    ax.yaxis.set_tick_params(labelsize=9)
    # As much room as the ticks may need.
    ax.set_yticks([-1, 1], ["-88888", "88888"])
    handles = [artists["partial"], artists["wrapped"]]
    handles += [artists["limits"][0], artists["range"]]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "frameon": False, "ncols": 4}
    ax.legend(handles=handles, columnspacing=1, handlelength=1.2, handletextpad=0.5, **place)
    # Beside it the sum in binary, line by line.
    ax = axes["bits"]
    ax.set_axis_off()
    style = {"family": "monospace", "fontsize": 9, "transform": ax.transAxes, "va": "center"}
    artists["words"] = [ax.text(0, 0.95 - 0.13 * line, "", **style) for line in range(LINES)]
    for text in artists["words"]:
        text.set_in_layout(False)
    move(r, artists)
    return artists


def move(r: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        r: what `compute` returned.
        artists: from `draw`.
    """
    s = r.state
    low, high = r.ends
    largest = {"x": abs(r.x).max(), "weight": abs(r.weight).max(), "codes": r.codes.max()}
    largest = {name: max(value, 1) for name, value in largest.items()}
    for name, data in (("x", r.x), ("weight", r.weight), ("codes", r.codes)):
        artists[name].set_data(data / largest[name])
    artists["x"].set_clim(-1 if r.x.min() < 0 else 0, 1)
    artists["title x"].set_text(f"input codes, {r.x.min()}..{r.x.max()}")
    artists["title weight"].set_text(f"weight codes, {r.weight.min()}..{r.weight.max()}")
    differ = f"{r.differ.sum()} of {r.differ.size} differ"
    artists["title codes"].set_text(f"codes out, channel {s.channel}: {differ}")
    # Marks on the channel: the followed code, and where codes differ.
    rows, columns = r.codes.shape
    x = (s.column + 0.5) / columns
    y = (s.row + 0.5) / rows
    artists["frame"].set_data([x], [y])
    at = np.argwhere(r.differ)
    down, across = at.T
    artists["parted"].set_data((across + 0.5) / columns, (down + 0.5) / rows)

    steps = r.partial / r.step
    wrapped = breaking.wrap(torch.from_numpy(r.partial), s.register)
    held = wrapped.numpy() / r.step
    along = np.linspace(0, 1, len(steps))
    differ = held != steps
    artists["partial"].set_data(along, steps)
    artists["wrapped"].set_data(along[differ], held[differ])
    artists["end"].set_data([1], [held[-1]])
    # Axes as far as the sum goes, with three round ticks.
    reach = 1.15 * max(np.abs(steps).max(), np.abs(held).max(), 4)
    limit = 2.0 ** (s.register - 1) / r.step
    for line, y in zip(artists["limits"], (-limit, limit), strict=True):
        line.set_ydata([y, y])
    artists["range"].set_y(max(low, -reach))
    artists["range"].set_height(min(high, reach) - max(low, -reach))
    ax = artists["ticks"].axes
    ax.set_ylim(-reach, reach)
    tick = 10.0 ** math.floor(math.log10(reach))
    tick *= 5 if reach / tick >= 5 else 2 if reach / tick >= 2 else 1
    ax.set_yticks([-tick, 0, tick], [f"{y:g}" for y in (-tick, 0, tick)])
    for text, line in zip(artists["words"], words(r), strict=True):
        text.set_text(line)


def words(r: Result) -> list[str]:
    """The sum in binary, cut where it is shifted, and what becomes of it.

    Args:
        r: what `compute` returned.

    Returns:
        Lines of text.
    """
    s = r.state
    # A multiplier makes the number longer, and the shift with it.
    by = 1
    if s.odd_threshold and s.multiplier:
        by = round(breaking.HALF_AN_OCTAVE * 2**s.multiplier)
    places = r.places + (s.multiplier if by > 1 else 0)
    number = r.sum * by
    # Two's complement, cut where it is shifted.
    digits = max(DIGITS, number.bit_length() + 1, places + 1)
    binary = f"{number & (2**digits - 1):0{digits}b}"
    kept, out = (binary[:-places], binary[-places:]) if places > 0 else (binary, "")
    # What becomes of the sum, one thing a line.
    lines = [f"sum         {r.partial[-1]:,}"]
    if r.sum != r.partial[-1]:
        lines.append(f"in {s.register} bits  {r.sum:,}")
    if by > 1:
        lines.append(f"times       {by}, {s.multiplier} bits")
    lines.append(f"binary      {kept}|{out}")
    if places > 0:
        rest = number & (2**places - 1)
        half = 2 ** (places - 1)
        how = "a half" if rest == half else "up" if rest > half else "down"
        lines.append(f"shift       by {places}, out {rest}/{2 * half}: {how}")
    else:
        lines.append(f"shift       left by {-places}")
    lines.append(f"code        {r.code}")
    lines.append(f"simulation  {r.simulated:.6g}, code {r.simulated_code}")
    lines.append("" if r.code == r.simulated_code else "the two codes differ")
    return lines + [""] * (LINES - len(lines))
