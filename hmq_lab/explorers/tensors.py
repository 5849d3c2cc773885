"""What the explorers ask of a tensor: its values, the thresholds worth trying, what a quantization
loses of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import seaborn as sns
import torch

from hmq_lab.explorers.modules import packed
from hmq_lab.plots import PALE
from hmq_lab.quantizer import threshold_exponent

MOST = 2**16  # so many distinct values are kept; of more, those that lie together are one group
BITS = tuple(range(1, 9))
NETWORK = "explorers.network(model, batch) shows any tensor of it"
SETTING = "a setting goes by its name, such as bits=3"


def sample(tensor) -> Sample:
    """The values of a tensor in groups; a sample stays as it is, None is a layer that comes with
    the package.

    Args:
        tensor: tensor, array, list, `Sample` or None.

    Returns:
        The values in groups.
    """
    if isinstance(tensor, Sample):
        return tensor
    if tensor is None:
        tensor = layer()
    return Sample.of(values(tensor))


def values(tensor) -> np.ndarray:
    """The values of a tensor, parameter or array as float64, flat.

    >>> values(torch.tensor([[1.0, -2.0]]))
    array([ 1., -2.])

    Raises ValueError for what is empty, not finite, a single number or no array of real numbers.

    Args:
        tensor: tensor, parameter, array or list of real numbers.

    Returns:
        The values (n,).

    Raises:
        ValueError: there are no values, or some are no finite real numbers.
    """
    if isinstance(tensor, torch.nn.Module):
        raise ValueError(f"a tensor is needed, got the network {type(tensor).__name__}: {NETWORK}")
    # Real numbers in float64, from torch or from whatever NumPy takes.
    if isinstance(tensor, torch.Tensor):
        unreadable = tensor.is_sparse or tensor.is_meta
        real = not (tensor.is_complex() or tensor.dtype == torch.bool or unreadable)
        x = tensor.detach().to("cpu", torch.float64).numpy() if real else None
    else:
        x = np.asarray(tensor)
        x = x.astype(np.float64) if x.dtype.kind in "iuf" else None
    if x is None:
        what = getattr(tensor, "dtype", type(tensor).__name__)
        raise ValueError(f"a tensor or array of real numbers is needed, got {what}")
    # Something to quantize.
    if x.ndim == 0:
        raise ValueError(
            f"a tensor or array of values is needed, got the number {x.item():g}: {SETTING}"
        )
    if x.size == 0:
        raise ValueError(f"the tensor of shape {x.shape} is empty: there is nothing to quantize")
    if not np.isfinite(x).all():
        count = (~np.isfinite(x)).sum()
        raise ValueError(f"the tensor holds NaN or infinities in {count} of {x.size} places")
    return x.ravel()


def layer() -> torch.Tensor:
    """A real layer, for readers who bring none: a convolution of the small network that comes with
    the package.
    """
    from hmq_lab import models
    from hmq_lab.models.weights import SHIPPED, load_weights

    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    return network.get_parameter("layer3.0.conv2.weight").detach()


def exponents(x: np.ndarray, count: int = 8) -> tuple[int, ...]:
    """M of the thresholds 2^M that a block for x would choose from, descending from one octave
    above the tight one.

    Args:
        x: values of a tensor.
        count: of thresholds.

    Returns:
        The exponents.
    """
    largest = float(np.abs(x).max())
    top = threshold_exponent(largest) + (largest > 0)
    return tuple(top - octave for octave in range(count))


def window(x: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that shows all of x and the tight threshold.

    Args:
        x: values of a tensor.

    Returns:
        The two ends.
    """
    tight = 2.0 ** threshold_exponent(float(np.abs(x).max()))
    return (-1.3 if x.min() < 0 else -0.4) * tight, 1.3 * tight


@dataclass(frozen=True, eq=False)
class Sample:
    """The values of a tensor, ascending, in groups of equal ones; of a large tensor in groups of
    near ones.

    Between the values of one group no scheme of 8 bits or less rounds or clips differently: what is
    computed from the groups is exact, and takes as long for a large tensor as for a small one.
    """

    v: np.ndarray  # mean of each group
    n: np.ndarray  # how many values it has
    s: np.ndarray  # the sum of their squared distances to the mean
    size: int
    energy: float  # the sum of squares of all values; 1 for a tensor of zeros

    @classmethod
    def of(cls, x: np.ndarray | Sample) -> Sample:
        """
        >>> Sample.of(np.array([0.5, -1.0, 0.5])).n
        array([1, 2])

        Args:
            x: values, in any shape.

        Returns:
            The values in groups.
        """
        if isinstance(x, Sample):
            return x
        flat = np.asarray(x, dtype=np.float64).ravel()
        v, n = np.unique(flat, return_counts=True)
        s = np.zeros(v.size)
        if v.size > MOST:
            # All borders between levels are multiples of this width; a value on one is a group of
            # its own.
            width = 2.0 ** (exponents(v)[0] - 16)
            places = v / width
            key = 2 * np.floor(places) + (places != np.floor(places))
            first = np.flatnonzero(np.r_[True, np.diff(key) > 0])
            counts = np.add.reduceat(n, first)
            means = np.add.reduceat(n * v, first) / counts
            own_mean = np.repeat(means, np.diff(np.r_[first, v.size]))
            s = np.add.reduceat(n * np.square(v - own_mean), first)
            v = means
            n = counts
        energy = float((n * v * v + s).sum())
        return cls(v, n, s, int(n.sum()), energy or 1.0)

    @property
    def signed(self) -> bool:
        """Whether a value is negative."""
        return bool(self.v[0] < 0)

    def packed(self) -> dict:
        """The sample as a module of JavaScript unpacks it."""
        found = {"v": packed(self.v), "size": self.size, "energy": self.energy}
        if self.n.max() > 1:
            found["n"] = packed(self.n)
        if self.s.any():
            found["s"] = packed(self.s)
        return found


@dataclass(frozen=True)
class Loss:
    """What a quantization loses: squared errors as shares of the tensor's sum of squares; values
    clipped, a count.
    """

    rounding: float
    clipping: float
    clipped: int

    @property
    def total(self) -> float:
        """Rounding and clipping together."""
        return self.rounding + self.clipping


def loss(x: np.ndarray | Sample, step: float, ends: tuple[float, float]) -> Loss:
    """Round x to multiples of step and clip to `ends`, in steps: the error within the ends, and
    beyond them.

    >>> loss(np.array([0.2, 0.9]), 0.5, (-2, 1))  # 0.9 rounds to 1, which is clipped
    Loss(rounding=0.047..., clipping=0.188..., clipped=1)

    A tensor of zeros loses nothing.

    Args:
        x: values of a tensor.
        step: of the quantizer.
        ends: the smallest and largest code.

    Returns:
        Shares of the sum of squares of x.
    """
    x = Sample.of(x)
    # Rounding is half to even, as the quantizer rounds.
    codes = np.round(x.v / step)
    beyond = (codes < ends[0]) | (codes > ends[1])
    error = np.clip(codes, *ends) * step - x.v
    square = x.n * np.square(error) + x.s
    rounding = float(square[~beyond].sum() / x.energy)
    clipping = float(square[beyond].sum() / x.energy)
    return Loss(rounding, clipping, int(x.n[beyond].sum()))


def staircase(
    step: float, ends: tuple[float, float], view: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The corners of x -> Q(x) from view[0] to view[1].

    >>> x, y = staircase(0.5, (-1, 0), (-1, 1))
    >>> x.tolist()
    [-1.0, -0.75, -0.75, -0.25, -0.25, 0.25, 0.25, 1.0]
    >>> y.tolist()
    [-0.5, -0.5, -0.5, -0.5, 0.0, 0.0, 0.0, 0.0]

    Args:
        step: of the quantizer.
        ends: the smallest and largest code; no integers in general, as HMQ mixes them.
        view: ends of the axis of x.

    Returns:
        x and Q(x) of the corners.
    """
    # What rounding gives, and one more at either end.
    r = np.arange(np.ceil(ends[0]) - 1, np.floor(ends[1]) + 2)
    rises = (r[:-1] + 0.5) * step
    x = np.r_[min(view[0], rises[0]), np.repeat(rises, 2), max(view[1], rises[-1])]
    return x, np.repeat(np.clip(r, *ends) * step, 2)


def many(count: int, word: str) -> str:
    """
    >>> many(1, "bit"), many(8, "bit")
    ('1 bit', '8 bits')

    Args:
        count: how many.
        word: in the singular.

    Returns:
        The number with its noun.
    """
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def histogram(x: Sample, ax, view: tuple[float, float]) -> None:
    """The distribution of the values.

    Args:
        x: values of a tensor.
        ax: where to draw.
        view: ends of the axis.
    """
    style = {"color": PALE, "edgecolor": "white", "lw": 0.3}
    sns.histplot(x=x.v, weights=x.n, bins=60, binrange=view, stat="percent", ax=ax, **style)


def percent(share: float, decimals: int = 0) -> str:
    """A share as percent. It is rounded to 9 digits first, so that sums in any order agree.

    >>> percent(0.125), percent(0.1254, 1)
    ('12%', '12.5%')

    Args:
        share: 0 to 1.
        decimals: digits behind the point.

    Returns:
        The text.
    """
    return f"{100 * round(share, 9):.{decimals}f}%"


@functools.lru_cache(maxsize=64)
def noise(seed: int, count: int) -> np.ndarray:
    """Standard Gumbel noise, -log(-log(U)): the same for a seed on every machine, and in the
    browser.

    >>> noise(3, 2).shape, bool((noise(3, 2) == noise(3, 3)[:2]).all())
    ((2,), True)

    Args:
        seed: of the noise.
        count: of numbers.

    Returns:
        The noise (count,).
    """
    uniform = np.random.RandomState(seed).random_sample(count)
    return -np.log(-np.log(np.where(uniform == 0, 2.0**-54, uniform)))
