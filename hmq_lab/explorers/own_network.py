"""One's own network: bits and threshold of any of its tensors, and what they do to its output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab.explorers import tensors
from hmq_lab.explorers.choice import Selection, original
from hmq_lab.explorers.controls import Choice, Control, powers
from hmq_lab.explorers.error_surface import surface
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.quantizing import quantizer
from hmq_lab.network import blocks, is_attached, placements, switched_off
from hmq_lab.placement import attach
from hmq_lab.plots import BLUE, INK, ORANGE, PALE
from hmq_lab.quantizer import Scheme

FLOAT = 0  # bits of a tensor that is left as it is
FLOAT_BITS = 32
IMAGES = 32  # of the batch, on which the output is measured
ROWS = 40  # so many bars of tensors are drawn beside each other with a number each
# ends of the axis of the changes, in percent
FLOOR = 1e-4
WHOLE = 100.0
FILE = "selection.json"  # what the button writes

Pairs = Mapping[str, tuple[int, int]]  # bits and threshold exponent, by tensor


@dataclass(frozen=True)
class Effect:
    """What a choice does to the output for the batch, beside the float network.

    Args:
        change: the squared change of the scores over their sum of squares.
        accuracy: percent of the images whose largest score is that of their label; of the float
            network's own answer where there are no labels.
        loss: mean cross-entropy; None without labels.
    """

    change: float
    accuracy: float
    loss: float | None


class Bench:
    """A copy of a network with blocks on it, on which choices are measured."""

    def __init__(self, model: nn.Module, batch: Tensor, labels: Tensor | None, hardware: bool):
        self.batch = batch[:IMAGES]
        self.labels = labels
        self.hardware = hardware
        if labels is not None:
            self.labels = _checked_labels(labels, batch)[:IMAGES]
        self.model = copy.deepcopy(model)
        if is_attached(self.model):
            self.hardware = any(place.kind == "hardware" for place in placements(self.model))
        else:
            attach(self.model, sample=batch, hardware=hardware)
        self.model.eval()
        self.blocks = blocks(self.model)
        self.places = {}
        self.weights = {}
        for place in placements(self.model):
            if place.name in self.blocks:
                self.places[place.name] = place
                if place.kind == "weight":
                    self.weights[place.name] = place.size
        self._values: dict[str, tensors.Sample] = {}
        self._effects: dict[tuple, Effect] = {}
        with torch.no_grad(), switched_off(self.model):
            self.scores = _scores(self.model(self.batch.clone()))
        if self.labels is None:
            self.labels_or_answers = self.scores.argmax(1)
        else:
            self.labels_or_answers = self.labels
        self.float_effect = self._effect(self.scores)

    def bits(self, name: str) -> tuple[int, ...]:
        """What may be chosen for a tensor: an activation's block has one bit-width, which is set as
        one likes.

        Args:
            name: of the tensor.

        Returns:
            The bit-widths.
        """
        is_weight = name in self.weights
        return tuple(self.blocks[name].bits.tolist()) if is_weight else tensors.BITS

    def exponents(self, name: str) -> tuple[int, ...]:
        """The thresholds of a tensor's block, descending.

        Args:
            name: of the tensor.

        Returns:
            The exponents M of the thresholds 2^M.
        """
        return tuple(self.blocks[name].exponents.tolist())

    def values(self, name: str) -> tensors.Sample:
        """A weight's values; an activation's for the batch, from a pass of the float network.

        Args:
            name: of the tensor.

        Returns:
            The values.
        """
        # Looked at once for each tensor.
        if name not in self._values:
            if name in self.weights:
                found = original(self.model, name)
            else:
                found = self._seen(self.blocks[name])
            self._values[name] = tensors.Sample.of(tensors.values(found))
        return self._values[name]

    def _seen(self, block: nn.Module) -> Tensor:
        seen: list[Tensor] = []
        hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        try:
            with torch.no_grad(), switched_off(self.model):
                self.model(self.batch.clone())
        finally:
            hook.remove()
        return torch.cat([values.flatten() for values in seen])

    def best(self, name: str, bits: int) -> int:
        """The exponent of the threshold that loses least of a tensor's values with so many bits.

        Args:
            name: of the tensor.
            bits: of its scheme.

        Returns:
            The exponent.
        """
        sample = self.values(name)
        signed = self.blocks[name].signed
        schemes = [Scheme(bits, exponent, signed) for exponent in self.exponents(name)]
        losses = [tensors.loss(sample, scheme.step, scheme.integers).total for scheme in schemes]
        return self.exponents(name)[int(np.argmin(losses))]

    def effect(self, pairs: Pairs) -> Effect:
        """What these tensors do when they are quantized, all others float. It is measured once.

        Args:
            pairs: bits and exponent by tensor.

        Returns:
            The change of output, accuracy and loss.
        """
        key = tuple(sorted(pairs.items()))
        if not key:
            return self.float_effect
        if key not in self._effects:
            self._effects[key] = self._measured(pairs)
        return self._effects[key]

    def _measured(self, pairs: Pairs) -> Effect:
        with torch.no_grad(), switched_off(self.model):
            for name, (bits, exponent) in pairs.items():
                block = self.blocks[name]
                block.enabled = True
                if name not in self.weights:
                    block.bits.fill_(bits)
                block.fix(Scheme(bits, exponent, block.signed))
            try:
                return self._effect(_scores(self.model(self.batch.clone())))
            finally:
                for name in pairs:
                    self.blocks[name].free()

    def _effect(self, scores: Tensor) -> Effect:
        # Beside the float network's scores for the same batch.
        energy = float(self.scores.double().square().sum()) or 1.0
        change = float((scores.double() - self.scores.double()).square().sum()) / energy
        right = scores.argmax(1) == self.labels_or_answers
        loss = None if self.labels is None else float(F.cross_entropy(scores.float(), self.labels))
        return Effect(change, 100 * float(right.float().mean()), loss)

    def compression(self, pairs: Pairs) -> float:
        """32 bits over the mean bits of an element of the weights; a tensor that is not chosen
        counts 32.

        Args:
            pairs: bits and exponent by tensor.

        Returns:
            The compression of the weights.
        """
        total = sum(self.weights.values())
        bits = {name: pairs[name][0] if name in pairs else FLOAT_BITS for name in self.weights}
        packed = sum(bits[name] * size for name, size in self.weights.items())
        return FLOAT_BITS * total / packed if packed else 1.0


def _scores(output: Any) -> Tensor:
    """The scores (N, classes) of an output: its `logits`, or the first tensor in it."""
    found = getattr(output, "logits", output)
    if isinstance(found, Mapping):
        found = next((value for value in found.values() if isinstance(value, Tensor)), None)
    elif isinstance(found, tuple | list):
        found = next((value for value in found if isinstance(value, Tensor)), None)
    if not isinstance(found, Tensor) or found.dim() < 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(output).__name__
        raise ValueError(f"the network must return scores (N, classes), got {what}")
    return found.detach().flatten(1)


def _checked_labels(labels: Any, batch: Tensor) -> Tensor:
    found = torch.as_tensor(labels)
    if found.dim() != 1 or len(found) != len(batch) or found.is_floating_point():
        raise ValueError(
            f"labels must be {len(batch)} class numbers, one for each image, "
            f"got {tuple(found.shape)}"
        )
    return found.long()


@dataclass(frozen=True)
class State:
    """Which tensor is looked at, and what was chosen so far; tensors that are not in `choice` are
    float.
    """

    bench: Bench
    tensor: str
    choice: Pairs
    last: int = 0  # exponent of the threshold that a float tensor would get

    @property
    def bits(self) -> int:
        """Bits of the chosen tensor; FLOAT where it is not quantized."""
        return self.choice[self.tensor][0] if self.tensor in self.choice else FLOAT

    @property
    def exponent(self) -> int:
        """Exponent of the chosen tensor's threshold, or the last one that was set."""
        return self.choice[self.tensor][1] if self.tensor in self.choice else self.last

    def change(
        self,
        tensor: str | None = None,
        bits: int | None = None,
        exponent: int | None = None,
        **others,
    ):
        """Return the state after a move.

        Args:
            tensor: to be chosen.
            bits: of the chosen tensor; FLOAT leaves it float.
            exponent: of its threshold; None takes the best one.
            others: other fields.

        Returns:
            The new state.

        Raises:
            ValueError: the tensor's block has no such bits or exponent.
        """
        state = replace(self, **others)
        if tensor is not None and tensor != self.tensor:
            state = replace(state, tensor=tensor, last=self.bench.exponents(tensor)[0])
        if bits is None and exponent is None:
            return state
        # A new bit-width keeps the threshold, or takes the best one.
        name = state.tensor
        choice = dict(state.choice)
        if bits == FLOAT:
            choice.pop(name, None)
            return replace(state, choice=choice)
        bits = bits if bits is not None else state.bits or max(self.bench.bits(name))
        if bits not in self.bench.bits(name):
            raise ValueError(f"bits of {name} must be among {self.bench.bits(name)}, got {bits}")
        if exponent is None:
            exponent = choice[name][1] if name in choice else self.bench.best(name, bits)
        if exponent not in self.bench.exponents(name):
            allowed = self.bench.exponents(name)
            raise ValueError(f"exponent of {name} must be among {allowed}, got {exponent}")
        return replace(state, choice=choice | {name: (bits, exponent)}, last=exponent)


@dataclass(frozen=True)
class Result:
    """Effects of the chosen tensor alone and of all choices, and the size of the weights."""

    state: State
    alone: Effect
    all: Effect
    float_effect: Effect
    compression: float
    weight_bytes: float
    sentence: str


class Choosing(Explorer):
    """The explorer of one's own network. Its buttons are methods, too: best(), everything(8),
    clear(), export().

    >>> view = explorers.network(model, batch, labels)            # doctest: +SKIP
    >>> view.set(tensor="layer1.0.conv1.weight", bits=4)          # doctest: +SKIP
    >>> view.best()                                               # doctest: +SKIP
    >>> view.selection.on(model, batch)                           # doctest: +SKIP

    `parts` are a quantizer and an error surface of the chosen tensor: what is picked there is
    chosen here.
    """

    def __init__(self, bench: Bench, initial: dict):
        self.bench = bench
        names = tuple(bench.blocks)
        largest = max(bench.weights or names, key=lambda name: bench.places[name].size)
        exponents = sorted({e for name in names for e in bench.exponents(name)})
        most = sorted({b for name in names for b in bench.bits(name)})
        texts = tuple(f"{name.removesuffix('.weight')}{_kind(bench, name)}" for name in names)
        controls: dict[str, Control] = {"tensor": Choice("tensor", names, texts, rows=6)}
        controls["bits"] = Choice("bits", (FLOAT, *most), ("float", *map(str, most)))
        controls["exponent"] = powers("threshold", exponents)
        state = State(bench, largest, {}, bench.exponents(largest)[0])
        self.parts: dict[str, Explorer] = {}
        self._moving = False
        super().__init__(state, compute, draw, move, controls, initial, height=3.6)
        for name in ("bits", "exponent"):
            # A move is measured.
            self.controls[name].continuous_update = False

        # Buttons, and the two explorers of the chosen tensor, below the controls and the figure.
        does: dict[str, Callable] = {"best threshold": self.best}
        does["all tensors: 8 bits"] = lambda: self.everything(8)
        does["all float"] = self.clear
        does["export"] = lambda: self.export(FILE)
        self.buttons = {}
        for text in does:
            self.buttons[text] = widgets.Button(description=text, layout={"width": "auto"})
        for text, button in self.buttons.items():
            button.on_click(lambda _, do=does[text]: self._pressed(do))
        row = widgets.Box(list(self.buttons.values()), layout={"flex_flow": "row wrap"})
        shown, *rest = self.widget.children
        self._below = widgets.VBox()
        self.widget.children = (shown, row, *rest, self._below)
        self._place_parts()

    @property
    def selection(self) -> Selection:
        """What was chosen so far, as plain data."""
        found = {}
        for name, (bits, exponent) in self.state.choice.items():
            found[name] = Scheme(bits, exponent, self.bench.blocks[name].signed)
        return Selection(found, dict(self.bench.weights), self.bench.hardware)

    def best(self) -> None:
        """Take the threshold that loses least of the tensor's values with its bits; a float tensor
        gets 8 bits.
        """
        name = self.state.tensor
        bits = self.state.bits or max(self.bench.bits(name))
        self.set(bits=bits, exponent=self.bench.best(name, bits))

    def everything(self, bits: int) -> None:
        """Give every tensor so many bits, or the most it can have below that, and its best
        threshold.

        Args:
            bits: for every tensor.
        """
        choice = {}
        for name in self.bench.blocks:
            allowed = self.bench.bits(name)
            most = max(bits, min(allowed))
            own = max(b for b in allowed if b <= most)
            choice[name] = own, self.bench.best(name, own)
        self._show(replace(self.state, choice=choice, last=choice[self.state.tensor][1]))

    def clear(self) -> None:
        """Leave every tensor float again."""
        self._show(replace(self.state, choice={}))

    def export(self, path: Path | str) -> Selection:
        """Write the selection as JSON, for `Selection.read`; returns it.

        Args:
            path: of the file.

        Returns:
            The selection.
        """
        self.selection.write(path)
        left = len(self.bench.blocks) - len(self.state.choice)
        count = tensors.many(left, "tensor")
        self.view.say(f"The selection is in {path}; {count} not chosen: 8 bits.")
        return self.selection

    def _pressed(self, do) -> None:
        try:
            do()
        except (ValueError, OSError) as error:
            self.view.say(str(error))

    def _follow(self) -> None:
        """The sliders have the places that the chosen tensor can have."""
        self._following = True
        name = self.state.tensor
        texts = [("float", FLOAT), *((str(b), b) for b in self.bench.bits(name))]
        places = [(f"2^{e}", e) for e in sorted(self.bench.exponents(name))]
        for control, options in (("bits", texts), ("exponent", places)):
            if list(self.controls[control].options) != options:
                self.controls[control].options = options
        super()._follow()

    def _show(self, state: State) -> None:
        is_other = state.tensor != self.state.tensor
        super()._show(state)
        if is_other:
            self._place_parts()
        elif state.bits and not self._moving:
            self._move_parts()

    def _place_parts(self) -> None:
        """A quantizer and an error surface for the chosen tensor."""
        for part in self.parts.values():
            part.widget.close()
        name = self.state.tensor
        sample = self.bench.values(name)
        given = {"exponents": self.bench.exponents(name)}
        self.parts = {"quantizer": quantizer(sample, **given), "surface": surface(sample, **given)}
        if self.state.bits:
            self._move_parts()
        for part in self.parts.values():
            for control in ("bits", "exponent"):
                part.controls[control].observe(lambda _, part=part: self._taken(part), "value")
        self._below.children = [self.parts["surface"].widget, self.parts["quantizer"].widget]

    def _move_parts(self) -> None:
        self._moving = True
        try:
            for part in self.parts.values():
                part.set(bits=self.state.bits, exponent=self.state.exponent)
        finally:
            self._moving = False

    def _taken(self, part: Explorer) -> None:
        """What is picked on a part is the tensor's choice, and the other part follows."""
        if self._moving:
            return
        self._moving = True
        try:
            self.set(bits=part.state.bits, exponent=part.state.exponent)
            for other in self.parts.values():
                if other is not part:
                    other.set(bits=part.state.bits, exponent=part.state.exponent)
        finally:
            self._moving = False


def _kind(bench: Bench, name: str) -> str:
    kind = bench.places[name].kind
    return "" if kind == "weight" else " (hardware mode)" if kind == "hardware" else " (activation)"


def network(
    model: nn.Module | None = None,
    batch: Tensor | None = None,
    labels: Any = None,
    *,
    hardware: bool = False,
    **initial,
) -> Choosing:
    """Choose bits and threshold for any tensor of a network of your own, and see what that does to
    its output.

    >>> view = explorers.network(model, batch, labels)            # doctest: +SKIP
    >>> view.selection.write("mine.json")                         # doctest: +SKIP

    Args:
        model: any network; it is copied, not changed. By default the small one that comes with the
        package.
        batch: its inputs (N, C, H, W). Thresholds are calibrated on all of them; the output is
        measured on the first 32.
        labels: the class of each image; without them, how often the float network's answer stays.
        hardware: look at it in hardware mode, as `IntegerNetwork` needs it: batch norm is folded.
        initial: tensor, a name of `hmq_lab.placements`; bits, of the tensor (0: float); exponent,
        of its threshold.

    Returns:
        An explorer; its `selection` is what was chosen.

    Raises:
        ValueError: for other values, and what `attach` raises.
    """
    if model is None:
        model, batch, labels = _example()
    if not isinstance(model, nn.Module) or not isinstance(batch, Tensor):
        what = f"{type(model).__name__} and {type(batch).__name__}"
        raise ValueError(f"a network and a batch of its inputs are needed, got {what}")
    return Choosing(Bench(model, batch, labels, hardware), initial)


def _example() -> tuple[nn.Module, Tensor, Tensor]:
    """The small network that comes with the package, and held images with their labels."""
    from hmq_lab.data import builtin
    from hmq_lab.explorers.placing import _example as small

    model, batch = small(None)
    labels = torch.from_numpy(np.array(builtin.make(len(batch), stream="test")[1]))
    return model, batch, labels


def compute(state: State) -> Result:
    """Measure the chosen tensor alone, and all choices together.

    Args:
        state: what the controls are set to.

    Returns:
        What is shown.
    """
    bench = state.bench
    name = state.tensor
    # Measured, if they were not before.
    own = {name: state.choice[name]} if name in state.choice else {}
    alone = bench.effect(own)
    together = bench.effect(state.choice)
    compression = bench.compression(state.choice)
    size = sum(bench.weights.values()) * FLOAT_BITS / 8 / compression
    # The tensor first, then all choices, then the size.
    place = bench.places[name]
    text = f"{name}, {place.size:,} elements, "
    if own:
        text += f"{tensors.many(state.bits, 'bit')} below 2^{state.exponent}: alone it changes "
        text += f"{_said(bench, alone)} "
    else:
        text += "is float. "
    count = len(state.choice)
    if count > 1:
        text += f"All {tensors.many(count, 'choice')} together: {_said(bench, together)} "
    text += f"The weights take {size:,.0f} bytes, {compression:.2f} times fewer than in float."
    return Result(state, alone, together, bench.float_effect, compression, size, text)


def _said(bench: Bench, effect: Effect) -> str:
    text = f"{100 * effect.change:.3g} % of the output's sum of squares; "
    if bench.labels is None:
        return text + f"{effect.accuracy:.1f} % of {len(bench.batch)} answers stay."
    before = bench.float_effect
    text += f"{effect.accuracy:.1f} % of {len(bench.batch)} images are right (float "
    text += f"{before.accuracy:.1f} %), "
    return text + f"the loss is {effect.loss:.3f} (float {before.loss:.3f})."


def draw(result: Result, figure) -> dict:
    """Left the bits of every tensor, right what they do to the output.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    bench = result.state.bench
    bars, effects = figure.subplots(1, 2, width_ratios=(1.5, 1))
    names = list(bench.blocks)
    at = np.arange(len(names))
    # Weights and activations have a colour and a hatch each.
    kinds = np.array([name in bench.weights for name in names])
    artists: dict[str, Any] = {"view": bars.axvspan(0, 1, color=PALE, alpha=0.6, lw=0, zorder=0.5)}
    for label, shown, colour, hatch in (
        ("weights", kinds, BLUE, ""),
        ("activations", ~kinds, ORANGE, "///"),
    ):
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0, "label": label}
        artists[label] = list(bars.bar(at[shown], np.ones(shown.sum()), 0.82, **style))
    # Numbers on the bars, as far as there is room.
    few = len(names) <= ROWS
    artists["words"] = [bars.text(i, 0.2, "", ha="center", fontsize=9) for i in at] if few else []
    bars.set(ylim=(0, 9.5), yticks=range(1, 9), xlim=(-0.7, len(names) - 0.3), xticks=[])
    bars.set(xlabel="tensors in the order of the network", ylabel="bits; no bar: float")
    bars.grid(False, axis="x")
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0, "frameon": False}
    bars.legend(ncols=2, **place)

    # What the choices change, on a logarithmic axis.
    drawn = effects.barh([0, 1], [1, 1], 0.5, left=FLOOR, color=[BLUE, INK])
    artists["changes"] = list(drawn)
    artists["numbers"] = [effects.text(1, y, "", va="center", fontsize=9) for y in (0, 1)]
    effects.set(xscale="log", xlim=(FLOOR, 1e5), ylim=(1.6, -0.6))
    effects.set_xlabel("change of the output (%)")
    effects.set_yticks([0, 1], ["this tensor", "all choices"])
    effects.set_xticks([1e-4, 1e-2, 1, 100])
    effects.minorticks_off()
    effects.grid(False, axis="y")
    artists["title"] = effects.set_title("Qq", loc="left")
    move(result, artists)
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    state = result.state
    names = list(state.bench.blocks)
    bits = {name: state.choice[name][0] if name in state.choice else FLOAT for name in names}
    # The bars, in the order in which they were drawn.
    weights = [name for name in names if name in state.bench.weights]
    others = [name for name in names if name not in state.bench.weights]
    for label, shown in (("weights", weights), ("activations", others)):
        for bar, name in zip(artists[label], shown, strict=True):
            bar.set_height(bits[name])
    for text, name in zip(artists["words"], names, strict=bool(artists["words"])):
        text.set_text(f"{bits[name]}" if bits[name] else "")
        text.set_y(bits[name] + 0.15)
    artists["view"].set_x(names.index(state.tensor) - 0.5)
    artists["view"].set_width(1)
    # Changes beyond the axis end at its end; the number says what they are.
    effects = zip(artists["changes"], artists["numbers"], (result.alone, result.all), strict=True)
    for bar, text, effect in effects:
        value = min(max(100 * effect.change, FLOOR), WHOLE)
        bar.set_width(value - FLOOR)
        text.set_text(f" {100 * effect.change:.3g} %")
        text.set_x(value)
    artists["title"].set_text(f"compression of the weights {result.compression:.2f}")
