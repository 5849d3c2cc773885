"""Gumbel-Softmax: relaxed samples of a categorical, their noise, and schedules of the temperature.

    softmax((log p + g) / temperature),    g = -log(-log(U)),    U uniform on (0, 1)

Source: Jang, Gu, Poole (2017); Maddison, Mnih, Teh (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hmq_lab.quantizer import shown

# ---------------------------------------------------------------- samples


def gumbel_noise(
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard Gumbel noise, -log(-log(U)).

    >>> gumbel_noise((2, 3), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])

    U is never 0 or 1, so the noise is finite. Its mean is 0.5772 (Euler's constant), its standard
    deviation pi / sqrt(6).

    Args:
        shape: of the result.
        generator: where the random numbers come from; the result is on its device. None: torch's
            global generator, which `torch.manual_seed` sets.
        dtype: of the result.
        device: of the result, where generator is None.
    """
    device = device if generator is None else generator.device
    # -log(U) has the exponential distribution, which torch draws directly.
    exponential = torch.empty(shape, dtype=dtype, device=device).exponential_(generator=generator)
    return -exponential.clamp_min_(torch.finfo(dtype).tiny).log()


def relaxed_categorical(logits: Tensor, temperature: float | Tensor, noise: Tensor) -> Tensor:
    """Samples of the relaxed categorical: softmax((log p + noise) / temperature).

    >>> logits = torch.zeros(2, 3)  # a table of bits x thresholds
    >>> noise = gumbel_noise((5, 2, 3), generator=torch.Generator().manual_seed(0))
    >>> relaxed_categorical(logits, 0.5, noise).sum((1, 2))  # five samples, each sums to 1
    tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])

    Towards temperature 0 a sample tends to the arg max of log p + noise, which is an exact sample
    of the categorical. Towards infinity it tends to the uniform table.

    Args:
        logits: any shape; one categorical over all its entries.
        temperature: > 0, a number or a 0-d tensor.
        noise: the shape of logits behind any number of sample axes. Zeros give the softmax without
            noise.

    Returns:
        A tensor of noise's shape: a sample for each index of the sample axes.

    Raises:
        ValueError: temperature is a number that is not positive, or noise has another shape.
    """
    # A tensor is not looked at, because a GPU would have to be waited for.
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {shown(temperature)}")
    sample_axes = noise.dim() - logits.dim()
    if noise.shape[sample_axes:] != logits.shape:
        wanted = f"must end in the logits' shape {tuple(logits.shape)}"
        raise ValueError(f"noise of shape {tuple(noise.shape)} {wanted}")
    # One categorical over all entries, whatever shape they stand in.
    log_p = torch.log_softmax(logits.flatten(), 0)
    scores = log_p + noise.reshape(*noise.shape[:sample_axes], logits.numel())
    return torch.softmax(scores / temperature, -1).view(noise.shape)


# ---------------------------------------------------------------- the noise of a block


class Noise:
    """The Gumbel noise of one table of logits: the same within a training step, new in the next.

    >>> logits = torch.zeros(2, 3)
    >>> noise = Noise()
    >>> noise.resample(torch.Generator().manual_seed(0), logits)
    >>> noise.draw(4, logits).shape
    torch.Size([4, 2, 3])

    Noise comes from one of two places:

    * `resample` gives a generator. The noise is a function of one number from it, and stays for
      all passes of this step: until the optimizer changes the logits.
    * Otherwise it comes from torch's global generator, as that of dropout does. `begin_step` and
      `begin_pass` say when it is time for new noise.
    """

    def __init__(self) -> None:
        # The seed of this step; None: torch's global generator.
        self._seed: int | None = None
        # Which images of the batch come next, see `set_slice`.
        self._slice: tuple[int, int, int] | None = None
        # What is drawn already.
        self._drawn: Tensor | None = None
        # torch's count of changes to the logits: it goes up at the end of a step.
        self._version: int | None = None

    def resample(self, generator: torch.Generator | None, logits: Tensor) -> None:
        """Start a step with new noise; None takes torch's global generator."""
        device = "cpu" if generator is None else generator.device
        self._seed = int(torch.randint(2**62, (), generator=generator, device=device))
        self._slice = None
        self.belong_to(logits)
        # Draw at once what was drawn before, because a compiled graph cannot.
        if self._drawn is not None:
            self._drawn = self._new(len(self._drawn), logits)

    def set_slice(self, first: int, count: int, total: int, logits: Tensor) -> None:
        """Say that images `first` to `first + count` of a step's `total` come next.

        They get the noise that they get in one pass over all images.
        """
        if self._seed is None:
            self.resample(None, logits)
        self._slice = (first, count, total)
        self._drawn = None

    def belong_to(self, logits: Tensor) -> None:
        """Remember the state of the logits: noise lasts until they change."""
        self._version = _version(logits)

    def begin_step(self, logits: Tensor) -> None:
        """Forget the noise of a step that is over: the optimizer has changed the logits."""
        # Compiled code cannot ask for the version; `begin_pass` and `resample` work in it, too.
        if torch.compiler.is_compiling():
            return
        if self._version != _version(logits):
            self._forget()
            self.belong_to(logits)

    def begin_pass(self, logits: Tensor) -> None:
        """Forget also the noise of the pass before, unless `resample` drew it for this step."""
        self.begin_step(logits)
        if self._seed is None:
            self._forget()

    def _forget(self) -> None:
        self._seed = self._slice = self._drawn = None

    def draw(self, samples: int, logits: Tensor) -> Tensor:
        """The noise of this step, (samples, *logits.shape)."""
        drawn = self._drawn
        if drawn is None or len(drawn) != samples or drawn.device != logits.device:
            drawn = self._drawn = self._new(samples, logits)
        return drawn

    def _new(self, samples: int, logits: Tensor) -> Tensor:
        shape = tuple(logits.shape)
        if self._seed is None:
            return gumbel_noise((samples, *shape), generator=None, device=logits.device)
        # The same seed gives the same noise, however often it is drawn.
        generator = torch.Generator(logits.device).manual_seed(self._seed)
        first, count, total = self._slice or (0, samples, samples)
        if count == 0 or samples % count:
            # The sample axis is not the batch axis (a weight): draw independent noise.
            return gumbel_noise((samples, *shape), generator=generator)
        # An image may be several samples, as one for each window of attention.
        each = samples // count
        # Noise of all images, and from it that of these.
        whole = gumbel_noise((total * each, *shape), generator=generator)
        return whole[first * each :][:samples]


def _version(logits: Tensor) -> int:
    """How often torch has changed a tensor in place; tensors of inference mode do not count it."""
    return 0 if logits.is_inference() else logits._version


# ---------------------------------------------------------------- schedules of the temperature
# A search uses `Cycles`, see `Settings.temperature`. `Constant` and `Exponential` are for comparison.


@dataclass(frozen=True)
class Constant:
    """The same temperature at every step.

    >>> Constant(0.5)(1000)
    0.5
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(temperature=self.temperature)

    def __call__(self, step: int) -> float:
        return self.temperature


@dataclass(frozen=True)
class Exponential:
    """From 1 downwards: max(floor, exp(-decay * step)).

    >>> schedule = Exponential(decay=0.01, floor=0.5)
    >>> schedule(0), schedule(10), schedule(1000)
    (1.0, 0.9048374180359595, 0.5)

    Args:
        decay: the decay per step, > 0.
        floor: the lowest temperature, > 0 and at most 1.

    Raises:
        ValueError: for a value that is out of range.
    """

    decay: float = 0.01
    floor: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(decay=self.decay, floor=self.floor)
        if self.floor > 1:
            start = "where the schedule starts"
            raise ValueError(f"floor must be at most 1, {start}, got {self.floor!r}")

    def __call__(self, step: int) -> float:
        return max(self.floor, math.exp(-self.decay * step))


@dataclass(frozen=True)
class Cycles:
    """The paper's schedule: an exponential decay to a floor that starts again every few epochs.

    >>> schedule = Cycles(steps_per_epoch=100)
    >>> schedule(0), schedule(250), schedule(499)  # from 1 to the floor after 2.78 epochs
    (1.0, 0.5379444375946745, 0.5)
    >>> schedule(500)  # 1 again after 5 epochs
    1.0

    With i the step within a cycle and n the steps between two changes of the temperature, it is
    max(floor, exp(-decay * round(i / n))), n = epochs * steps_per_epoch / (5 * updates). For the
    paper's cycles of five epochs n is steps_per_epoch / updates. Source: the authors' code.

    Args:
        steps_per_epoch: steps of training in an epoch.
        epochs: the length of a cycle. Another length than five epochs stretches the same curve.
        decay: the decay per update.
        floor: the lowest temperature.
        updates: how often the temperature changes in an epoch, for cycles of five epochs.

    Raises:
        ValueError: for a value that is no positive number.
    """

    steps_per_epoch: int
    epochs: float = 5
    decay: float = 0.01
    floor: float = 0.5
    updates: int = 25

    def __post_init__(self) -> None:
        _check_positive(**vars(self))

    def __call__(self, step: int) -> float:
        length = max(1, round(self.epochs * self.steps_per_epoch))
        # The paper's n where a cycle has five epochs.
        steps_per_update = length / (5 * self.updates)
        update = round((step % length) / steps_per_update)
        return max(self.floor, math.exp(-self.decay * update))


def _check_positive(**numbers: float) -> None:
    """Raise ValueError that names the first argument which is no positive number."""
    for name, value in numbers.items():
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not is_number or value <= 0:
            raise ValueError(f"{name} must be a positive number, got {shown(value)}")
