"""Gumbel-Softmax: samples of a relaxed categorical, and the schedules of their temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def gumbel_noise(shape, *, generator: torch.Generator, dtype=torch.float32) -> Tensor:
    """Standard Gumbel noise, -log(-log(U)), on the generator's device.

    >>> gumbel_noise((2, 3), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])

    U is never 0 or 1, so the noise is finite. Mean 0.5772 (Euler's constant), standard deviation pi / sqrt(6).
    """
    exponential = torch.empty(shape, dtype=dtype, device=generator.device).exponential_(generator=generator)
    return -exponential.clamp_min_(torch.finfo(dtype).tiny).log()


def relaxed_categorical(logits: Tensor, temperature, noise: Tensor) -> Tensor:
    """One sample of the relaxed categorical for each leading index of `noise`: softmax((log p + g) / temperature).

    >>> logits = torch.zeros(2, 3)                                               # a table of bits x thresholds
    >>> noise = gumbel_noise((5, 2, 3), generator=torch.Generator().manual_seed(0))
    >>> relaxed_categorical(logits, 0.5, noise).sum((1, 2))                      # five samples, each sums to one
    tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])

    logits: any shape, one categorical over all its entries. noise: logits' shape behind any number of sample axes;
    zeros give the noise-free softmax. temperature > 0, a number or a 0-d tensor: towards 0 a sample tends to the arg
    max of log p + g, which is an exact categorical sample; towards infinity to the uniform table.
    Source: Jang, Gu, Poole (2017); Maddison, Mnih, Teh (2017).
    """
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
    if noise.shape[noise.dim() - logits.dim() :] != logits.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} must end in the logits' shape {tuple(logits.shape)}")
    samples = noise.shape[: noise.dim() - logits.dim()]
    log_p = torch.log_softmax(logits.flatten(), 0)
    relaxed = torch.softmax((log_p + noise.reshape(*samples, logits.numel())) / temperature, -1)
    return relaxed.view(noise.shape)


@dataclass(frozen=True)
class Constant:
    """The same temperature at every step.

    >>> Constant(0.5)(1000)
    0.5
    """

    temperature: float = 1.0

    def __post_init__(self):
        _check(temperature=self.temperature)

    def __call__(self, step: int) -> float:
        return self.temperature


@dataclass(frozen=True)
class Exponential:
    """From 1 downwards, exp(-rate * step), never below the floor.

    >>> schedule = Exponential(rate=0.01, floor=0.5)
    >>> schedule(0), schedule(10), schedule(1000)
    (1.0, 0.9048374180359595, 0.5)
    """

    rate: float = 0.01
    floor: float = 0.5

    def __post_init__(self):
        _check(rate=self.rate, floor=self.floor)
        if self.floor > 1:
            raise ValueError(f"floor must be at most 1, where the schedule starts, got {self.floor!r}")

    def __call__(self, step: int) -> float:
        return max(self.floor, math.exp(-self.rate * step))


@dataclass(frozen=True)
class Cycles:
    """The paper's schedule: an exponential decay to a floor that starts again every few epochs.

    >>> schedule = Cycles(steps_per_epoch=100)
    >>> schedule(0), schedule(250), schedule(499), schedule(500)    # 1 to the floor after 2.78 epochs, 1 again after 5
    (1.0, 0.5379444375946745, 0.5, 1.0)

    With i the step within a cycle and n = steps_per_epoch / updates, it is max(floor, exp(-rate * round(i / n))). A
    cycle of another length than five epochs keeps its shape: it is stretched. Source: the authors' code.
    """

    steps_per_epoch: int
    epochs: float = 5
    rate: float = 0.01
    floor: float = 0.5
    updates: int = 25

    def __post_init__(self):
        _check(**{k: getattr(self, k) for k in ("steps_per_epoch", "epochs", "rate", "floor", "updates")})

    def __call__(self, step: int) -> float:
        length = max(1, round(self.epochs * self.steps_per_epoch))
        per_update = length / (5 * self.updates)  # the paper's n, where a cycle is five epochs
        return max(self.floor, math.exp(-self.rate * round((step % length) / per_update)))


def _check(**numbers):
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
