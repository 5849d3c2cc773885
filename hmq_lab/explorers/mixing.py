"""The HMQ block: probability moved over bits and thresholds, the quantizer it implies, the gradient
it gets back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.explorers import heat, tensors
from hmq_lab.explorers.controls import Control, Real, Whole, powers
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.modules import Module
from hmq_lab.plots import BLUE, INK, PALE
from hmq_lab.quantizer import Scheme

# Mass of the picked cell: with none, or all of it, the others would lose their proportions.
LEAST = 0.001
MOST = 0.999


@dataclass(frozen=True)
class State:
    """`bits` and `exponent` pick a cell; `mass` is a control for its probability: the others keep
    their proportions.
    """

    bit_widths: tuple[int, ...]  # ascending
    exponents: tuple[int, ...]  # of the thresholds, descending
    table: tuple[tuple[float, ...], ...]  # probabilities over (bits, threshold), which sum to one
    bits: int
    exponent: int
    temperature: float = 1.0
    sample: int = 0  # which sample of the noise; 0: none

    def __post_init__(self):
        table = np.array(self.table, dtype=float)
        shape = (len(self.bit_widths), len(self.exponents))
        # As a module gives it.
        if table.shape == (shape[0] * shape[1],):
            table = table.reshape(shape)
        if table.shape != shape:
            raise ValueError(
                f"table must have the shape {shape} of bits x thresholds, got {table.shape}"
            )
        if (
            not np.isfinite(table).all()
            or table.min() < 0
            or not np.isclose(table.sum(), 1, atol=1e-4)
        ):
            raise ValueError(
                f"table must hold probabilities that sum to one, got a sum of {table.sum():g}"
            )
        table = table if abs(table.sum() - 1) < 1e-12 else table / table.sum()
        object.__setattr__(self, "table", tuple(map(tuple, table.tolist())))

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column of the picked cell."""
        return self.bit_widths.index(self.bits), self.exponents.index(self.exponent)

    @property
    def mass(self) -> float:
        """The probability of the picked cell, within the ends of its slider."""
        row, column = self.cell
        return min(max(self.table[row][column], LEAST), MOST)

    def change(self, mass: float | None = None, **values) -> State:
        """Return the state with other values.

        Args:
            mass: probability of the picked cell; the others keep their proportions.
            values: other fields.

        Returns:
            The new state.
        """
        state = replace(self, **values)
        if mass is None:
            return state
        table: Any = np.array(state.table)
        others = 1 - table[state.cell]
        if others > 1e-12:
            table = table * (1 - mass) / others
        else:
            table = np.full(table.shape, (1 - mass) / (table.size - 1))
        table[state.cell] = mass
        return replace(state, table=table)


@dataclass(frozen=True)
class Result:
    state: State
    # (B, T): what the parameters are mixed with; the table itself at temperature 1 without noise.
    weights: np.ndarray
    step: float  # expected
    threshold: float  # expected
    stairs: tuple[np.ndarray, np.ndarray]
    selected: Scheme
    selected_stairs: tuple[np.ndarray, np.ndarray]
    gradient: np.ndarray  # (B, T): of the error, with respect to the logits
    view: tuple[float, float]
    sentence: str


def block(
    tensor=None, hmq: HMQ | None = None, *, space: SearchSpace | None = None, **initial
) -> Explorer:
    """Move probability from cell to cell of a block's table; see the quantizer, and where the error
    wants it to go.

    >>> explorers.block(bits=2, exponent=-1, mass=0.5)
    >>> explorers.block(conv.weight, blocks(model)["conv.weight"])

    The gradient is that of the squared error of the quantized tensor over its sum of squares,
    through the expected step and threshold, straight-through.

    Args:
        tensor: as for `quantizer`.
        hmq: a block, whose space, sign and probabilities are taken over.
        space: of a new block, where none is given.
        initial: bits and exponent of the cell that `mass`, 0.001 to 0.999, is put on; temperature,
            0.05 to 20; sample of the Gumbel noise, 0 (none) to 50; table.

    Raises:
        ValueError: for a tensor that is empty or not finite, and for other values.

    Source: HMQ, sections 3.2 to 3.4.
    """
    x = tensors.sample(tensor)
    is_new = hmq is None
    if hmq is None:
        space = space or SearchSpace()
        top = tensors.exponents(x.v)[0]
        generator = torch.Generator().manual_seed(0)
        hmq = HMQ(space, top, x.signed, generator=generator)
    elif not isinstance(hmq, HMQ):
        raise ValueError(f"hmq must be an HMQ block, got {type(hmq).__name__}")
    elif space is not None:
        raise ValueError("a block has its space: give hmq or space, not both")
    # The block's own space and probabilities.
    bits = hmq.space.bits
    exponents = tuple(hmq.exponents.tolist())
    if len(bits) * len(exponents) < 2:
        raise ValueError("the block has one scheme only: there is nothing to move")
    probabilities = hmq.probabilities().detach().double()
    table = tuple(map(tuple, probabilities.tolist()))
    selected = hmq.scheme
    state = State(bits, exponents, table, selected.bits, selected.threshold_exponent)
    controls: dict[str, Control] = {"bits": Whole("bits", bits[0], bits[-1])}
    controls["exponent"] = powers("threshold", exponents)
    controls["mass"] = Real("mass on them", LEAST, MOST, 0.001)
    controls["temperature"] = Real("temperature", 0.05, 20.0, 0.02, logarithmic=True)
    controls["sample"] = Whole("noise (0: none)", 0, 50)
    # A slider over what there is, nothing between.
    if bits != tuple(range(bits[0], bits[-1] + 1)):
        controls["bits"] = replace(powers("bits", bits), texts=tuple(map(str, bits)))
    view = tensors.window(x.v)
    signed = hmq.signed
    # A new block is nearly hard: half of its mass is moved, so that there is a mixture.
    if is_new and not initial:
        few = min(bits, key=lambda b: abs(b - 3))
        second = exponents[min(1, len(exponents) - 1)]
        state = replace(state, bits=few, exponent=second).change(mass=0.5)
    data = {"values": x.packed(), "signed": signed}
    data |= {"bits": list(bits), "exponents": list(exponents)}
    fields = ("table", "bits", "exponent", "temperature", "sample")
    module = Module("block", "HMQ block", data | {"view": list(view)}, fields)

    def computed(state: State) -> Result:
        return compute(state, x, signed, view)

    return Explorer(state, computed, draw, move, controls, initial, 4.4, module)


def compute(state: State, x: tensors.Sample, signed: bool, view: tuple[float, float]) -> Result:
    """What a block with the state's table does to x, by the equations of HMQ.

    p = softmax((log table + g) / temperature); step = sum p s and threshold = sum p t, with s and t
    of each cell. By the chain rule the logit of a cell gets p ((s - step) dL/dstep + (t -
    threshold) dL/dthreshold) / temperature.

    Args:
        state: what the controls are set to.
        x: values of a tensor.
        signed: whether the schemes have a sign.
        view: ends of the axis of x.

    Returns:
        What is shown.
    """
    bits = np.array(state.bit_widths)[:, None]
    exponents = np.array(state.exponents)[None]
    # (B, T), (1, T)
    steps = 2.0 ** (exponents - bits + signed)
    thresholds = 2.0**exponents
    # The logarithm of no probability.
    with np.errstate(divide="ignore"):
        score = (np.log(state.table) + noise(state.sample, steps.shape)) / state.temperature
    p = np.exp(score - score.max())
    p /= p.sum()
    step = float((p * steps).sum())
    threshold = float((p * thresholds).sum())
    # The chain rule, from the error to each logit.
    d_step, d_threshold = _slopes(x, step, threshold, signed)
    slope = (steps - step) * d_step + (thresholds - threshold) * d_threshold
    gradient = p * slope / state.temperature

    table = np.array(state.table)
    # The selection: bits by their marginal, then the threshold given them.
    row = int(table.sum(1).argmax())
    column = int(table[row].argmax())
    selected = Scheme(state.bit_widths[row], state.exponents[column], signed)
    ends = _ends(step, threshold, signed)
    stairs = tensors.staircase(step, ends, view)
    # What the mixture loses, and what the selection would.
    soft = tensors.loss(x, step, ends)
    hard = tensors.loss(x, selected.step, selected.integers)

    levels = len(np.unique(stairs[1]))
    text = _sentence(state, gradient, step, threshold, levels, selected, soft, hard)
    selected_stairs = tensors.staircase(selected.step, selected.integers, view)
    return Result(
        state, p, step, threshold, stairs, selected, selected_stairs, gradient, view, text
    )


def _ends(step: float, threshold: float, signed: bool) -> tuple[float, float]:
    """Ends of the mixed quantizer in steps; one that rounding alone keeps from an integer is that
    integer.

    >>> _ends(0.5, 1.0, True), _ends(0.4, 1.0, False)
    ((-2.0, 1.0), (0.0, 1.5))
    """
    ends = (-threshold / step if signed else 0.0, threshold / step - 1)
    low, high = (float(round(end)) if abs(end - round(end)) < 1e-9 else end for end in ends)
    return low, high


def _slopes(x: tensors.Sample, step: float, threshold: float, signed: bool) -> tuple[float, float]:
    """d error / d step and d threshold, straight-through, of the squared error over the sum of
    squares.
    """
    r = np.round(x.v / step)
    low, high = _ends(step, threshold, signed)
    below = r < low
    above = r > high
    within = ~(below | above)

    # Above, Q(x) = threshold - step; below, -threshold (signed) or 0; within, r step.
    errors = x.n * (threshold - step - x.v)
    error_above = float(errors[above].sum())
    error_below = 0.0
    if signed:
        errors = x.n * (-threshold - x.v)
        error_below = float(errors[below].sum())
    squares = x.n * np.square(r * step - x.v) + x.s
    square_within = float(squares[within].sum())
    d_step = square_within / step - error_above
    d_threshold = error_above - error_below
    return 2 * d_step / x.energy, 2 * d_threshold / x.energy


def noise(sample: int, shape: tuple[int, int]) -> np.ndarray:
    """Gumbel noise, the same again for the same number; none for 0.

    Args:
        sample: number of the sample.
        shape: of the table.

    Returns:
        The noise, in the shape of the table.
    """
    if sample == 0:
        return np.zeros(shape)
    return tensors.noise(sample, shape[0] * shape[1]).reshape(shape)


def _sentence(state, gradient, step, threshold, levels, selected, mixed, hard) -> str:
    text = f"With {tensors.percent(np.array(state.table)[state.cell], 1)} on "
    text += f"{_name(state.bits, state.exponent)} the expected step is "
    text += f"{step:.3g}, the expected threshold {threshold:.3g}: {levels} levels, which lose "
    text += f"{100 * mixed.total:.3g} % of the sum of squares; the selection, "
    text += f"{_name(selected.bits, selected.threshold_exponent)}, loses {100 * hard.total:.3g} %."
    if not gradient.any():
        return text + " No gradient reaches the logits."

    # The cells whose logits the gradient moves most.
    def named(at) -> str:
        row, column = np.unravel_index(at, gradient.shape)
        return _name(state.bit_widths[row], state.exponents[column])

    raised = named(gradient.argmin())
    lowered = named(gradient.argmax())
    text += f" To lose less, the gradient raises the logit of {raised} most "
    return text + f"and lowers that of {lowered} most."


def _name(bits: int, exponent: int) -> str:
    return f"{tensors.many(bits, 'bit')} below 2^{exponent}"


def draw(result: Result, figure) -> dict:
    """The table of probabilities; the gradient of each logit; the staircase.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    state = result.state
    # Two tables with frames, and a staircase.
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    style: dict[str, Any] = {"label": "of the largest", "vmin": -1, "vmax": 1, "cmap": "vlag"}
    rows = state.bit_widths, state.exponents
    artists: dict[str, Any] = {}
    artists["weights"] = heat.blank(left, *rows, label="p (%)", **heat.PERCENT)
    artists["gradient"] = heat.blank(middle, *rows, **style)
    artists["picked"] = [heat.frame(left), heat.frame(middle)]
    artists["words"] = heat.words(left)
    for ax in (left, middle):
        ax.set(xlabel="M of the threshold $2^M$", ylabel="bits")
        # Larger thresholds at the right, as on the slider.
        ax.invert_xaxis()
    # Titles say the numbers; they are as long from the start as they will be.
    artists["titles"] = [left.set_title("probabilities;\nframe: picked", loc="left")]
    artists["titles"] += [middle.set_title("gradient of the logits,\nlargest 0.0000", loc="left")]
    artists["titles"] += [right.set_title("step 0.0000,\nthreshold 0.0000", loc="left")]
    # The mixture over the selection, and the line of no quantization.
    right.plot(result.view, result.view, color=INK, lw=1, ls=":")
    (artists["selected"],) = right.plot([], [], color=PALE, lw=4, label="the selection")
    (artists["stairs"],) = right.plot([], [], color=BLUE, lw=2, label="the mixture")
    right.set(xlim=result.view, ylim=result.view, xlabel="x", ylabel="Q(x)")
    right.legend(loc="upper left")
    move(result, artists)
    return artists


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    state = result.state
    percent = 100 * result.weights
    largest = np.abs(result.gradient).max()
    artists["weights"].set_array(percent)
    artists["gradient"].set_array(result.gradient / (largest or 1.0))
    # The picked cell is framed in both tables.
    row, column = state.cell
    for picked in artists["picked"]:
        picked.set_xy((column, row))
    heat.write(artists["words"], percent)
    # Without noise at temperature 1 the mixture is the table itself.
    mixed = state.temperature != 1 or state.sample > 0
    title, gradient, quantizer = artists["titles"]
    title.set_text(f"{'a relaxed sample' if mixed else 'probabilities'};\nframe: picked")
    gradient.set_text(f"gradient of the logits,\nlargest {largest:.2g}")
    quantizer.set_text(f"step {result.step:.3g},\nthreshold {result.threshold:.3g}")
    artists["stairs"].set_data(result.stairs)
    artists["selected"].set_data(result.selected_stairs)
