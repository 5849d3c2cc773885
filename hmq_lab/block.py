"""The HMQ block: it learns the bit-width and the threshold of one tensor.

    logits over (bits, threshold)  ->  expected step and threshold  ->  one quantization

In evaluation it quantizes with the selected scheme.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hmq_lab.gumbel import Noise, relaxed_categorical
from hmq_lab.quantizer import (
    Scheme,
    check_bits,
    power_of_two,
    quantize,
    shown,
    threshold_exponent,
)

# ---------------------------------------------------------------- the space


@dataclass(frozen=True)
class SearchSpace:
    """What a block chooses from: bit-widths, and powers of two from the largest threshold down.

    >>> SearchSpace()
    SearchSpace(bits=(1, 2, 3, 4, 5, 6, 7, 8), thresholds=8)
    >>> SearchSpace(bits=(2, 4, 8), thresholds=4).schemes
    12

    The defaults are those of the authors' code.

    Args:
        bits: distinct integers from 1 to 16. They are kept in ascending order.
        thresholds: how many thresholds, 1 to 32.

    Raises:
        ValueError: for a value that is out of range; the message names it.
    """

    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    thresholds: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.bits, tuple | list | range) or len(self.bits) == 0:
            allowed = "a non-empty tuple of integers from 1 to 16"
            raise ValueError(f"bits must be {allowed}, got {shown(self.bits)}")
        # Each bit-width by itself, then all of them together.
        for bits in self.bits:
            check_bits(bits, among=self.bits)
        if len(set(self.bits)) < len(self.bits):
            raise ValueError(f"bits must be distinct, got {shown(self.bits)}")
        # The number of thresholds; True is no number.
        count = self.thresholds
        is_whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
        if not is_whole or not 1 <= count <= 32:
            allowed = "how many powers of two to choose from, must be from 1 to 32"
            raise ValueError(f"thresholds, {allowed}, got {shown(count)}")
        # The dataclass is frozen, so this needs object's method.
        object.__setattr__(self, "bits", tuple(sorted(int(bits) for bits in self.bits)))

    @property
    def schemes(self) -> int:
        """The number of pairs of a bit-width and a threshold."""
        return len(self.bits) * self.thresholds


def check_space(space: Any) -> SearchSpace:
    """The space itself, or the default for None. Raises TypeError for anything else.

    >>> check_space(None) == SearchSpace()
    True
    """
    if space is None:
        return SearchSpace()
    if not isinstance(space, SearchSpace):
        allowed = "a SearchSpace, as SearchSpace(bits=(2, 4, 8), thresholds=8)"
        raise TypeError(f"space must be {allowed}, got {shown(space)}")
    return space


# ---------------------------------------------------------------- the block


class HMQ(nn.Module):
    """A quantizer that learns its bit-width and its power-of-two threshold.

    >>> block = HMQ(SearchSpace(), threshold_exponent=0, signed=True)
    >>> block(torch.randn(4, 3, 8, 8)).shape  # training: a step and a threshold for each image
    torch.Size([4, 3, 8, 8])
    >>> print(block.eval().scheme)  # evaluation: the selected scheme
    8 bits signed below 2^0

    The logits (B, T) are one categorical over all pairs of a bit-width of the space and a threshold
    2^M, 2^(M-1), ... Training mixes the two numbers step and threshold with Gumbel-Softmax weights
    and quantizes once; the logits learn through both. Evaluation uses the selected scheme: the most
    probable bit-width, then the most probable threshold given that bit-width. So does training
    after `fix`. Source: HMQ, sections 3.2 to 3.4, and the authors' code.

    Noise comes from torch's global generator, as that of dropout does. A block of an activation
    draws new noise in each call. A block of a weight keeps its noise until the optimizer changes
    the logits, so that reading a weight twice gives the same. In a network, each forward pass in
    training begins with new noise, and all blocks keep it for the pass. `resample` takes the noise
    from a generator instead, and keeps it for all passes of a step.

    Args:
        space: the bit-widths and the number of thresholds to choose from.
        threshold_exponent: M of the largest threshold 2^M.
        signed: whether the range is signed.
        sample_axis: the axis of x along which samples differ: 0, one for each image (activations),
            or 1, one for each input channel of a weight (out, in, ...).
        probability: of (largest bit-width, largest threshold) in the beginning, exactly.
        generator: for the initial logits (see `initial_logits`).

    Raises:
        ValueError: a scheme of the space is out of range, or probability not between 0 and 1.
    """

    # Buffers, of which torch does not know the type.
    bits: Tensor  # (B,)
    exponent: Tensor  # M
    fixed: Tensor  # bits and exponent of the fixed scheme; 0 bits: still searching
    has_sign: Tensor  # `signed`, for the state dict
    temperature: Tensor

    def __init__(
        self,
        space: SearchSpace,
        threshold_exponent: int,
        signed: bool,
        *,
        sample_axis: int = 0,
        probability: float = 0.95,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        space = check_space(space)
        # `Scheme` refuses thresholds that are out of range: try the largest and the smallest.
        for octave in (0, space.thresholds - 1):
            Scheme(space.bits[-1], threshold_exponent - octave, signed)
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie between 0 and 1, got {shown(probability)}")

        self.signed = signed
        self.sample_axis = sample_axis
        # False: each call draws new noise.
        self.keeps_noise = sample_axis == 1
        # False lets a tensor through as it is.
        self.enabled = True
        self.is_fixed = False
        # What is learned.
        shape = (len(space.bits), space.thresholds)
        self.logits = nn.Parameter(initial_logits(*shape, probability, generator))
        self._noise = Noise()

        # With these buffers the state dict says all that evaluation needs.
        self.register_buffer("bits", torch.tensor(space.bits))
        self.register_buffer("exponent", torch.tensor(threshold_exponent))
        self.register_buffer("fixed", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("has_sign", torch.tensor(signed))
        self.register_buffer("temperature", torch.ones(()), persistent=False)
        self.register_load_state_dict_pre_hook(_complete_state)
        self.register_load_state_dict_post_hook(_read_buffers)

    @classmethod
    def for_weight(
        cls, weight: Tensor, space: SearchSpace, generator: torch.Generator | None = None
    ) -> HMQ:
        """A signed block for a weight (out, in, ...): M is one octave above the tight threshold.

        >>> HMQ.for_weight(torch.full((4, 3), 0.3), SearchSpace()).exponents.tolist()
        [0, -1, -2, -3, -4, -5, -6, -7]

        A weight of zeros gets M = 0. Raises ValueError for NaN or infinities in the weight.
        """
        largest = weight.detach().abs().max().item() if weight.numel() else 0.0
        # One octave above the tight threshold, as the authors' code has it: in the beginning
        # nothing is clipped, from 2 bits on.
        exponent = threshold_exponent(largest)
        if largest > 0:
            exponent += 1
        block = cls(space, exponent, True, sample_axis=1, generator=generator)
        return block.to(weight.device)

    # ------------------------------------------------------------ the table

    @property
    def space(self) -> SearchSpace:
        """What the block chooses from."""
        return SearchSpace(tuple(self.bits.tolist()), self.logits.shape[1])

    @property
    def exponents(self) -> Tensor:
        """The exponents of the thresholds, M, M - 1, ... (T,)."""
        return self.exponent - torch.arange(self.logits.shape[1], device=self.logits.device)

    @property
    def steps(self) -> Tensor:
        """The step of every scheme (B, T)."""
        return power_of_two(self.exponents - self.bits[:, None] + int(self.signed))

    def probabilities(self) -> Tensor:
        """The probability of every scheme, without noise and at temperature 1 (B, T)."""
        return torch.softmax(self.logits.flatten().float(), 0).view_as(self.logits)

    def expected_bits(self) -> Tensor:
        """The mean bit-width under `probabilities`, differentiable; the fixed one after `fix`."""
        if self.is_fixed:
            return self.fixed[0].float()
        return (self.probabilities().sum(1) * self.bits).sum()

    # ------------------------------------------------------------ the selection

    def _selected(self) -> tuple[Tensor, Tensor]:
        """Bits and exponent of the fixed scheme, or of the selection.

        They are tensors, so that a GPU is not waited for.
        """
        if self.is_fixed:
            bits, exponent = self.fixed
            return bits, exponent
        # First the bit-width by its marginal, then the threshold given that bit-width.
        row = self.probabilities().sum(1).argmax()
        column = self.logits.index_select(0, row.view(1)).argmax()
        return self.bits.take(row), self.exponent - column

    @property
    def scheme(self) -> Scheme:
        """The fixed scheme, or else the selection."""
        bits, exponent = self._selected()
        return Scheme(int(bits), int(exponent), self.signed)

    def step_exponent(self) -> Tensor:
        """The exponent of the step of `scheme`, as a tensor."""
        bits, exponent = self._selected()
        return exponent - bits + int(self.signed)

    def select(self, bits: int) -> Scheme:
        """The most probable scheme with a given bit-width.

        Raises ValueError for a bit-width that the block does not choose from.
        """
        widths = self.space.bits
        if bits not in widths:
            raise ValueError(f"bits must be one of {widths}, got {shown(bits)}")
        column = int(self.logits[widths.index(bits)].argmax())
        return Scheme(bits, int(self.exponent) - column, self.signed)

    def fix(self, scheme: Scheme | None = None) -> Scheme:
        """Stop the search: quantize with `scheme` from now on, in training too.

        Args:
            scheme: one that the block chooses from; by default the selection.

        Returns:
            The scheme.

        Raises:
            ValueError: the block does not choose from this scheme.
        """
        # Only what the block chooses from.
        scheme = scheme or self.scheme
        bits, exponents = self.bits.tolist(), self.exponents.tolist()
        is_known = scheme.bits in bits and scheme.threshold_exponent in exponents
        if not is_known or scheme.signed != self.signed:
            sign = "signed" if self.signed else "unsigned"
            allowed = f"{tuple(bits)} {sign} below 2^{exponents[0]} to 2^{exponents[-1]}"
            raise ValueError(f"a scheme must be one of the block's, bits {allowed}, got {scheme}")
        # In the buffer for the state dict, in Python for `forward`.
        self.fixed.copy_(torch.tensor([scheme.bits, scheme.threshold_exponent]))
        self.is_fixed = True
        return scheme

    def free(self) -> None:
        """Undo `fix`: search on."""
        self.fixed.zero_()
        self.is_fixed = False

    # ------------------------------------------------------------ the noise, see `gumbel.Noise`

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw the noise of this step from a generator, or from torch's global one.

        It stays, also over several passes, until the optimizer changes the logits.
        """
        self._noise.resample(generator, self.logits)

    def begin_pass(self) -> None:
        """Forget the noise of the pass before, unless `resample` drew it for this step."""
        self._noise.begin_pass(self.logits)

    def set_batch_slice(self, first: int, count: int, total: int) -> None:
        """Say that the next passes see images `first` to `first + count` of the step's `total`.

        They get the noise that they get in one pass over all images. `resample` forgets this.
        """
        self._noise.set_slice(first, count, total, self.logits)

    def noise(self, samples: int) -> Tensor:
        """The noise of this step, (samples, B, T)."""
        return self._noise.draw(samples, self.logits)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        # A copy goes on with the same noise, though its logits count their changes anew.
        self._noise.belong_to(self.logits)

    # ------------------------------------------------------------ the quantization

    def sample(self, samples: int) -> tuple[Tensor, Tensor]:
        """Expected step and threshold under `samples` relaxed samples, (samples,) each."""
        logits = self.logits.float()
        # Samples of the table, (samples, B, T).
        weights = relaxed_categorical(logits, self.temperature, self.noise(samples))
        step = (weights * self.steps).sum((1, 2))
        threshold = (weights * power_of_two(self.exponents)).sum((1, 2))
        return step, threshold

    def step_and_threshold(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` quantizes x with, in shapes that broadcast to x."""
        if self.is_fixed or not self.training:
            bits, exponent = self._selected()
            return power_of_two(exponent - bits + int(self.signed)), power_of_two(exponent)
        # A single number, as a gate of the whole batch, has no axis.
        if x.dim() == 0:
            step, threshold = self.sample(1)
            return step.view(()), threshold.view(())
        # One sample for each index of the sample axis.
        step, threshold = self.sample(x.shape[self.sample_axis])
        shape = [1] * x.dim()
        shape[self.sample_axis] = -1
        return step.view(shape), threshold.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if self.training and not self.is_fixed:
            if self.keeps_noise:
                self._noise.begin_step(self.logits)
            else:
                self.begin_pass()
        step, threshold = self.step_and_threshold(x)
        # Step and threshold are in order by construction.
        return quantize(x, step, threshold, self.signed, check=False)

    def extra_repr(self) -> str:
        exponents = self.exponents.tolist()
        thresholds = f"2^{exponents[0]}..2^{exponents[-1]}"
        state = "fixed" if self.is_fixed else "searching"
        what = f"bits={tuple(self.bits.tolist())}, thresholds={thresholds}, signed={self.signed}"
        return f"{what}, {state}: {self.scheme}"


# ---------------------------------------------------------------- its state and its beginning


def _complete_state(block: HMQ, state: dict, prefix: str, *_: Any) -> None:
    """Before loading: files of earlier versions do not say whether a block is signed."""
    if f"{prefix}fixed" in state:
        state.setdefault(f"{prefix}has_sign", block.has_sign)


def _read_buffers(block: HMQ, _: Any) -> None:
    """After loading: Python knows the sign and whether a scheme is fixed, without the device."""
    block.is_fixed = bool(block.fixed[0])
    block.signed = bool(block.has_sign)


def initial_logits(
    bits: int, thresholds: int, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Logits with exactly `probability` on the last bit-width and the first threshold.

    >>> torch.softmax(initial_logits(8, 8, 0.95).flatten(), 0).view(8, 8)[-1, 0]
    tensor(0.9500)

    The other logits are minus a random number, uniform between 0 and 1. The authors' code reaches
    0.968 where it says 0.95, because it takes the others to be zero.

    Args:
        bits, thresholds: the shape of the table.
        probability: between 0 and 1.
        generator: for the others; None takes torch's global generator.

    Returns:
        A float32 tensor (bits, thresholds) on the CPU.
    """
    device = "cpu" if generator is None else generator.device
    shape = (bits, thresholds)
    logits = -torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    if bits * thresholds == 1:
        return torch.zeros(shape)
    # Solve p = exp(z) / (exp(z) + others) for z.
    others = logits.exp().sum() - logits[-1, 0].exp()
    logits[-1, 0] = math.log(probability * others / (1 - probability))
    return logits.float().cpu()
