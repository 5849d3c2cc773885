"""Gumbel-Softmax: what temperature does to samples of a relaxed categorical."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import seaborn as sns
import torch

from hmq_lab.explorers import tensors
from hmq_lab.explorers.controls import Choice, Control, Real, Whole
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.modules import Module
from hmq_lab.gumbel import Cycles, relaxed_categorical
from hmq_lab.plots import BLUE, GREEN, INK, ORANGE, PALE, RED
from hmq_lab.plots.frame import Look

MOST = 1000  # samples
DECIDED = 0.95  # a sample with so large an entry is as good as one-hot
# the paper's, two cycles of it
SCHEDULE = Cycles(steps_per_epoch=100)
EPOCHS = 10
CORNERS = np.array([[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]])  # of the simplex, in the plane
EDGES = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class State:
    """`category` and `logit` are two controls for the many numbers in `logits`; `epoch` is one for
    the temperature.
    """

    logits: tuple[float, ...]
    category: int = 0
    temperature: float = 1.0
    epoch: float = 0.0
    samples: int = 300
    seed: int = 0

    def __post_init__(self):
        logits = tensors.values(self.logits)
        if logits.size < 2:
            raise ValueError(f"logits must be two or more numbers, got {self.logits!r}")
        object.__setattr__(self, "logits", tuple(logits.tolist()))

    @property
    def logit(self) -> float:
        """The logit of the chosen category."""
        return self.logits[self.category]

    def change(self, logit: float | None = None, **values) -> State:
        """Return the state with other values; an epoch sets the temperature of the schedule.

        Args:
            logit: of the chosen category.
            values: other fields.

        Returns:
            The new state.

        Raises:
            ValueError: the number of logits is another one.
        """
        if "epoch" in values and "temperature" not in values:
            values["temperature"] = SCHEDULE(round(values["epoch"] * SCHEDULE.steps_per_epoch))
        state = replace(self, **values)
        if len(state.logits) != len(self.logits):
            count = len(self.logits)
            raise ValueError(f"logits must stay {count} numbers, got {len(state.logits)}")
        if logit is None:
            return state
        before = state.logits[: state.category]
        after = state.logits[state.category + 1 :]
        logits = (*before, logit, *after)
        return replace(state, logits=logits)


@dataclass(frozen=True)
class Result:
    state: State
    probabilities: np.ndarray  # (K,)
    samples: np.ndarray  # (S, K), each sums to one
    chosen: np.ndarray  # (K,) share of the samples whose largest entry it is
    mean: np.ndarray  # (K,) of the samples
    decided: float  # share of the samples that are as good as one-hot
    sentence: str


def gumbel(logits=None, **initial) -> Explorer:
    """Draw samples from softmax((log p + g) / temperature); move the temperature by hand, or along
    the schedule.

    >>> explorers.gumbel()  # three categories: every sample is a point in a triangle
    >>> explorers.gumbel(block.logits, temperature=0.5)     # a block's table, flat: bars

    Args:
        logits: two or more finite numbers, any shape.
        initial: temperature, 0.05 to 20; epoch of the paper's schedule, which sets the temperature;
            samples, 10 to 1000; seed of the noise, 0 to 99; category and its logit.

    Raises:
        ValueError: for anything else.

    Source: HMQ, section 3.3; Jang, Gu, Poole (2017).
    """
    if logits is None:
        logits = [math.log(0.6), math.log(0.3), math.log(0.1)]
    given = tensors.values(logits)
    # The slider of a logit reaches at least from -6 to 6.
    low = min(-6.0, math.floor(given.min()))
    high = max(6.0, math.ceil(given.max()))
    numbers = tuple(range(given.size))
    names = tuple(f"{i + 1}" for i in numbers)
    controls: dict[str, Control] = {}
    controls["temperature"] = Real("temperature", 0.05, 20.0, 0.02, logarithmic=True)
    controls["epoch"] = Real("epoch (schedule)", 0.0, float(EPOCHS), 0.04)
    controls["category"] = Choice("category", numbers, names)
    controls["logit"] = Real("its logit", low, high, 0.1)
    controls["samples"] = Whole("samples", 10, MOST, 10)
    controls["seed"] = Whole("seed of the noise", 0, 99)
    data = {"epochs": EPOCHS, "schedule": _schedule()}
    fields = ("logits", "category", "temperature", "epoch", "samples", "seed")
    module = Module("gumbel", "samples of Gumbel-Softmax", data, fields)
    return Explorer(State(tuple(given)), compute, draw, move, controls, initial, 4.2, module)


def _schedule() -> dict[str, float]:
    """The schedule in numbers: exp(-decay * round(step / update)) within a cycle, never below the
    floor.
    """
    length = round(SCHEDULE.epochs * SCHEDULE.steps_per_epoch)
    update = length / (5 * SCHEDULE.updates)
    steps = SCHEDULE.steps_per_epoch
    times = {"steps": steps, "length": length, "update": update}
    return times | {"decay": SCHEDULE.decay, "floor": SCHEDULE.floor}


def noise(seed: int, categories: int) -> torch.Tensor:
    """All the noise there is for a seed: fewer samples are the first of more.

    Args:
        seed: of the noise.
        categories: how many there are.

    Returns:
        Gumbel noise (samples, categories).
    """
    return torch.from_numpy(tensors.noise(seed, MOST * categories)).view(MOST, categories)


def compute(state: State) -> Result:
    # Samples from the library's own function, with the explorer's noise.
    """Draw the samples of a state.

    Args:
        state: what the controls are set to.

    Returns:
        What is shown.
    """
    logits = torch.tensor(state.logits, dtype=torch.float64)
    gumbel = noise(state.seed, len(logits))[: state.samples]
    drawn = relaxed_categorical(logits, state.temperature, gumbel).numpy()
    p = torch.softmax(logits, 0).numpy()
    # What they choose, and how many are as good as one-hot.
    counts = np.bincount(drawn.argmax(1), minlength=len(p))
    chosen = counts / len(drawn)
    decided = float((drawn.max(1) > DECIDED).mean())
    text = f"At temperature {state.temperature:.3g}, {tensors.percent(decided)} of {len(drawn)} "
    text += f"samples have an entry above {DECIDED}: "
    text += "as good as one-hot. "
    if len(p) <= 4:
        text += (
            f"The largest entry is that of categories 1 to {len(p)} in {_shares(chosen)} of them; "
        )
        text += f"their probabilities are {_shares(p)}."
    else:
        # Of many categories only the most probable is told.
        top = int(p.argmax())
        text += f"Category {top + 1}, the most probable of {len(p)} with "
        text += f"{tensors.percent(p[top], 1)}, has the largest entry in "
        text += f"{tensors.percent(chosen[top], 1)} of them, and "
        text += f"{tensors.percent(drawn[:, top].mean(), 1)} of the mass on "
        text += "average."
    return Result(state, p, drawn, chosen, drawn.mean(0), decided, text)


def _shares(values: np.ndarray) -> str:
    words = [tensors.percent(v) for v in values]
    return ", ".join(words[:-1]) + " and " + words[-1]


def draw(result: Result, figure) -> dict:
    """The samples; how near to one-hot they are; the schedule of the temperature.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    mosaic = [["samples", "largest"], ["samples", "schedule"]]
    axes = figure.subplot_mosaic(mosaic, width_ratios=(1.1, 1))
    # Three categories are the corners of a triangle, more are bars.
    draw_samples = _simplex if len(result.probabilities) == 3 else _bars
    artists = draw_samples(result, axes["samples"])

    # How near to one-hot the samples are.
    largest = axes["largest"]
    # Bars to be moved.
    sns.histplot(x=[0.5], bins=EDGES, ax=largest, color=BLUE, edgecolor="white")
    artists["largest"] = list(largest.patches)
    largest.set(xlim=(0, 1), ylim=(0, 100))
    largest.set(xlabel="largest entry of a sample", ylabel="samples (%)")

    # The temperature over the epochs, and where it stands.
    schedule = axes["schedule"]
    # The third cycle would begin.
    epochs = np.linspace(0, EPOCHS, 501)[:-1]
    steps = [round(e * SCHEDULE.steps_per_epoch) for e in epochs]
    schedule.plot(epochs, [SCHEDULE(s) for s in steps], color=GREEN, label="the paper's schedule")
    artists["cursor"] = schedule.axvline(0, color=PALE, lw=2)
    dot: Look = {"color": RED, "ms": 9, "mec": "white", "clip_on": False}
    (artists["now"],) = schedule.plot([], [], "o", label="now", **dot)
    schedule.set(yscale="log", xlim=(0, EPOCHS), ylim=(0.05, 20))
    schedule.set(xlabel="epoch", ylabel="temperature τ")
    schedule.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    schedule.minorticks_off()
    schedule.legend(loc="upper right", ncols=2)
    move(result, artists)
    return artists


def _simplex(result: Result, ax) -> dict:
    ax.fill(*CORNERS.T, facecolor="#f7f7f7", edgecolor=INK, lw=1)
    for i, ((x, y), side) in enumerate(zip(CORNERS, ("right", "left", "center"), strict=True)):
        height = y + 0.03 if y else -0.03
        where = "bottom" if y else "top"
        ax.text(x, height, f"category {i + 1}", ha=side, va=where, fontsize=10)
    # The lower two begin and end with the triangle.
    ax.texts[0].set_ha("left")
    ax.texts[1].set_ha("right")
    ax.set(xlim=(-0.04, 1.04), ylim=(-0.2, 0.97), aspect="equal")
    ax.axis("off")
    # Samples, their mean and the probabilities have a marker each.
    style = {"ls": "none", "clip_on": False}
    artists = {}

    def mark(name: str, label: str, **look) -> None:
        (artists[name],) = ax.plot([], [], label=label, **look, **style)

    mark("samples", "samples", marker="o", ms=4.5, color=BLUE, alpha=0.35, mew=0)
    mark("mean", "their mean", marker="D", ms=9, color=ORANGE, mec="white")
    mark("probabilities", "probabilities", marker="^", ms=11, color=INK, mec="white")
    ax.legend(loc="lower center", ncols=3, frameon=False, handletextpad=0.2, columnspacing=1)
    return artists


def _bars(result: Result, ax) -> dict:
    count = len(result.probabilities)
    at = np.arange(1, count + 1)
    bars = ax.bar(at, 1, 0.84, color=PALE, label="probability")
    artists: dict[str, Any] = {"probabilities": list(bars)}
    (artists["mean"],) = ax.plot([], [], "D", color=ORANGE, ms=6, label="mean of the samples")
    dash: Look = {"color": BLUE, "ms": 12, "mew": 2.5}
    (artists["chosen"],) = ax.plot([], [], "_", label="share of arg max", **dash)
    ax.set(xlim=(0.3, count + 0.7), ylim=(0, 100))
    ax.set(xlabel="category", ylabel="%")
    ax.set_xticks(at[:: max(1, math.ceil(count / 12))])
    ax.grid(False, axis="x")
    place: Look = {"loc": "upper left", "bbox_to_anchor": (0, 1.2), "frameon": False}
    ax.legend(ncols=2, columnspacing=1, handletextpad=0.4, **place)
    return artists


def move(result: Result, artists: dict) -> None:
    # Points of the simplex are mixtures of its corners.
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    if "samples" in artists:
        for name in ("samples", "mean", "probabilities"):
            points = np.atleast_2d(getattr(result, name)) @ CORNERS
            artists[name].set_data(points.T)
    else:
        at = np.arange(1, len(result.probabilities) + 1)
        for bar, p in zip(artists["probabilities"], result.probabilities, strict=True):
            bar.set_height(100 * p)
        artists["mean"].set_data(at, 100 * result.mean)
        artists["chosen"].set_data(at, 100 * result.chosen)
    # The histogram of the largest entries.
    counts = np.histogram(result.samples.max(1), EDGES)[0]
    for bar, count in zip(artists["largest"], counts, strict=True):
        bar.set_height(100 * count / len(result.samples))
    artists["cursor"].set_xdata([result.state.epoch] * 2)
    artists["now"].set_data([result.state.epoch], [result.state.temperature])
