"""The HMQ block: logits over (bits, threshold) -> expected step and threshold -> one quantization; the selection."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hmq_lab.gumbel import gumbel_noise, relaxed_categorical
from hmq_lab.quantizer import Scheme, check_bits, power_of_two, quantize, threshold_exponent


@dataclass(frozen=True)
class SearchSpace:
    """What may be chosen for each tensor: bit-widths, and so many powers of two downwards from the tensor's largest.

    >>> SearchSpace()
    SearchSpace(bits=(1, 2, 3, 4, 5, 6, 7, 8), thresholds=8)
    >>> SearchSpace(bits=(2, 4, 8), thresholds=4).schemes
    12

    bits: distinct integers from 1 to 16, kept in ascending order. thresholds: how many, 1 to 32.
    The defaults are those of the authors' code. Raises ValueError naming the value and what is allowed.
    """

    bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    thresholds: int = 8

    def __post_init__(self):
        if not isinstance(self.bits, tuple | list | range) or len(self.bits) == 0:
            raise ValueError(f"bits must be a non-empty tuple of integers from 1 to 16, got {self.bits!r}")
        for b in self.bits:
            check_bits(b, among=self.bits)
        if len(set(self.bits)) < len(self.bits):
            raise ValueError(f"bits must be distinct, got {self.bits!r}")
        n = self.thresholds
        if isinstance(n, bool) or not isinstance(n, numbers.Integral) or not 1 <= n <= 32:
            raise ValueError(f"thresholds, how many powers of two to choose from, must be from 1 to 32, got {n!r}")
        object.__setattr__(self, "bits", tuple(sorted(int(b) for b in self.bits)))

    @property
    def schemes(self) -> int:
        return len(self.bits) * self.thresholds


def check_space(space: SearchSpace | None) -> SearchSpace:
    """The space, the default for None. Raises TypeError naming SearchSpace for anything else, as for (2, 4)."""
    if space is not None and not isinstance(space, SearchSpace):
        raise TypeError(f"space must be a SearchSpace, as SearchSpace(bits=(2, 4, 8), thresholds=8), got {space!r}")
    return SearchSpace() if space is None else space


class HMQ(nn.Module):
    """A quantizer that learns its bit-width and its power-of-two threshold.

    >>> block = HMQ(SearchSpace(), threshold_exponent=0, signed=True)
    >>> block.resample(torch.Generator().manual_seed(0))             # new noise: once per training step
    >>> block(torch.randn(4, 3, 8, 8)).shape                         # a sample of (step, threshold) per picture
    torch.Size([4, 3, 8, 8])
    >>> print(block.eval().scheme)                                   # the selection
    8 bits signed below 2^0

    logits (B, T): one categorical over all pairs of a bit-width of `space.bits` and a threshold 2^M, 2^(M-1), ...,
    with M = threshold_exponent. Training mixes the two *parameters* step and threshold with Gumbel-Softmax weights and
    quantizes once; the logits learn through both. Evaluation, and training once `fix` was called, uses the selected
    scheme: the most probable bit-width, then the most probable threshold given that bit-width; no noise.

    sample_axis: the axis of x along which samples differ: 0, one per picture (activations); 1, one per input channel
    (weights). probability: of (largest bits, largest threshold) in the beginning, exact; the other cells get logits
    drawn from -U(0, 1) with `generator`. Source: HMQ, sections 3.2 to 3.4, and the authors' code.
    """

    def __init__(
        self,
        space: SearchSpace,
        threshold_exponent: int,
        signed: bool,
        *,
        sample_axis: int = 0,
        probability: float = 0.95,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for octave in (0, space.thresholds - 1):
            Scheme(space.bits[-1], threshold_exponent - octave, signed)  # refuses what no scheme can be
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie between 0 and 1, got {probability!r}")
        self.signed = signed
        self.sample_axis = sample_axis
        self.enabled = True
        self.logits = nn.Parameter(initial_logits(len(space.bits), space.thresholds, probability, generator))
        self.register_buffer("bits", torch.tensor(space.bits))
        self.register_buffer("exponent", torch.tensor(threshold_exponent))
        self.register_buffer("fixed", torch.zeros(2, dtype=torch.int64))  # bits and exponent; 0 bits: still searching
        self.register_buffer("has_sign", torch.tensor(signed))  # what `signed` says, for the state dict
        self.register_buffer("temperature", torch.ones(()), persistent=False)
        self.is_fixed = False
        self._seed, self._noise, self._pictures = 0, None, None
        self.register_load_state_dict_pre_hook(_complete)
        self.register_load_state_dict_post_hook(_read_buffers)

    @classmethod
    def for_weight(cls, weight: Tensor, space: SearchSpace, generator: torch.Generator | None = None) -> HMQ:
        """A signed block for a weight (out, in, ...), with M one octave above the tightest threshold.

        Raises ValueError if the weight holds NaN or infinities; a weight of zeros gets M = 0.
        """
        largest = weight.detach().abs().max().item() if weight.numel() else 0.0
        exponent = threshold_exponent(largest) + (largest > 0)
        block = cls(space, exponent, True, sample_axis=1, generator=generator)
        return block.to(weight.device)

    @property
    def space(self) -> SearchSpace:
        return SearchSpace(tuple(self.bits.tolist()), self.logits.shape[1])

    @property
    def exponents(self) -> Tensor:
        """M, M - 1, ...: the exponents of the thresholds (T,)."""
        return self.exponent - torch.arange(self.logits.shape[1], device=self.logits.device)

    @property
    def steps(self) -> Tensor:
        """The step of every scheme (B, T)."""
        return power_of_two(self.exponents - self.bits[:, None] + int(self.signed))

    def probabilities(self) -> Tensor:
        """The table over (bits, threshold): noise-free softmax at temperature 1, (B, T)."""
        return torch.softmax(self.logits.flatten().float(), 0).view_as(self.logits)

    def expected_bits(self) -> Tensor:
        """The mean bit-width under `probabilities`, differentiable; the fixed bit-width once there is one."""
        if self.is_fixed:
            return self.fixed[0].float()
        return (self.probabilities().sum(1) * self.bits).sum()

    @property
    def scheme(self) -> Scheme:
        """The fixed scheme, or else the selection."""
        bits, exponent = self.fixed if self.is_fixed else self._selected()
        return Scheme(int(bits), int(exponent), self.signed)

    def _selected(self) -> tuple[Tensor, Tensor]:
        """Bits and exponent of the selection, found without asking the device for a number."""
        b = self.probabilities().sum(1).argmax()  # marginal over thresholds first,
        t = self.logits.index_select(0, b.view(1)).argmax()  # then the threshold given the bits
        return self.bits.take(b), self.exponent - t

    def select(self, bits: int) -> Scheme:
        """The most probable scheme with the given bit-width."""
        if bits not in self.space.bits:
            raise ValueError(f"bits must be one of {self.space.bits}, got {bits!r}")
        row = self.space.bits.index(bits)
        return Scheme(bits, int(self.exponent) - int(self.logits[row].argmax()), self.signed)

    def fix(self, scheme: Scheme | None = None) -> Scheme:
        """Stop searching: from now on quantize with `scheme` (default: the selection), in training too.

        Raises ValueError for a scheme that the block does not choose from.
        """
        scheme = scheme or self.scheme
        bits, exponents = self.bits.tolist(), self.exponents.tolist()
        chosen_from = scheme.bits in bits and scheme.threshold_exponent in exponents and scheme.signed == self.signed
        if not chosen_from:
            raise ValueError(
                f"a scheme must be one of the block's, bits {tuple(bits)} {'signed' if self.signed else 'unsigned'} "
                f"below 2^{exponents[0]} to 2^{exponents[-1]}, got {scheme}"
            )
        self.fixed.copy_(torch.tensor([scheme.bits, scheme.threshold_exponent]))
        self.is_fixed = True
        return scheme

    def free(self) -> None:
        """Search on."""
        self.fixed.zero_()
        self.is_fixed = False

    def resample(self, generator: torch.Generator) -> None:
        """Draw new noise, to be called once per training step: until then every forward pass sees the same samples."""
        self._seed, self._pictures = int(torch.randint(2**62, (), generator=generator, device=generator.device)), None
        if self._noise is not None:
            self._noise = self._draw(len(self._noise))

    def look_at(self, first: int, count: int, total: int) -> None:
        """Say that the next passes see pictures `first` to `first + count` of the `total` of this step.

        They get the noise that they would get in a pass over all `total` pictures; `resample` forgets it.
        """
        self._pictures, self._noise = (first, count, total), None

    def _draw(self, samples: int) -> Tensor:
        generator = torch.Generator(self.logits.device).manual_seed(self._seed)
        first, count, total = self._pictures or (0, samples, samples)
        if count == 0 or samples % count:  # no pictures, or an axis of samples that is not theirs
            return gumbel_noise((samples, *self.logits.shape), generator=generator)
        each = samples // count  # a picture may be several samples: its windows of attention
        return gumbel_noise((total * each, *self.logits.shape), generator=generator)[first * each :][:samples]

    def noise(self, samples: int) -> Tensor:
        """The noise of this step, (samples, B, T)."""
        if self._noise is None or len(self._noise) != samples or self._noise.device != self.logits.device:
            self._noise = self._draw(samples)
        return self._noise

    def sample(self, samples: int) -> tuple[Tensor, Tensor]:
        """Expected step and threshold under `samples` relaxed samples, (samples,) each."""
        p = relaxed_categorical(self.logits.float(), self.temperature, self.noise(samples))  # (S, B, T)
        step = (p * self.steps).sum((1, 2))
        threshold = (p * power_of_two(self.exponents)).sum((1, 2))
        return step, threshold

    def step_exponent(self) -> Tensor:
        """The power of two that the selected, or fixed, scheme's step is, as a tensor: the device is not asked."""
        bits, exponent = self.fixed if self.is_fixed else self._selected()
        return exponent - bits + int(self.signed)

    def step_and_threshold(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` quantizes x with: shapes that broadcast to x."""
        if self.is_fixed or not self.training:
            bits, exponent = self.fixed if self.is_fixed else self._selected()
            return power_of_two(exponent - bits + int(self.signed)), power_of_two(exponent)
        shape = [1] * x.dim()
        shape[self.sample_axis] = -1
        step, threshold = self.sample(x.shape[self.sample_axis])
        return step.view(shape), threshold.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        return quantize(x, *self.step_and_threshold(x), self.signed, check=False)  # they are right by construction

    def extra_repr(self):
        exponents = self.exponents.tolist()
        state = "fixed" if self.is_fixed else "searching"
        return (
            f"bits={tuple(self.bits.tolist())}, thresholds=2^{exponents[0]}..2^{exponents[-1]}, "
            f"signed={self.signed}, {state}: {self.scheme}"
        )


def _complete(block: HMQ, state: dict, prefix: str, *_) -> None:
    """Before loading: files of earlier versions do not say whether a block is signed."""
    if f"{prefix}fixed" in state:
        state.setdefault(f"{prefix}has_sign", block.has_sign)


def _read_buffers(block: HMQ, _) -> None:
    """After loading: Python knows the sign and whether a scheme is fixed, so that no forward pass asks the device."""
    block.is_fixed, block.signed = bool(block.fixed[0]), bool(block.has_sign)


def initial_logits(bits: int, thresholds: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Logits (bits, thresholds) with exactly `probability` on the last bit-width and the first threshold.

    >>> torch.softmax(initial_logits(8, 8, 0.95).flatten(), 0).view(8, 8)[-1, 0]
    tensor(0.9500)

    The others are -U(0, 1). The authors' code reaches 0.968 where it says 0.95, for it takes the others to be zero.
    """
    device = "cpu" if generator is None else generator.device
    logits = -torch.rand(bits, thresholds, dtype=torch.float64, generator=generator, device=device)
    others = logits.exp().sum() - logits[-1, 0].exp()
    logits[-1, 0] = math.log(probability * others / (1 - probability)) if bits * thresholds > 1 else 0.0
    return logits.float().cpu()
