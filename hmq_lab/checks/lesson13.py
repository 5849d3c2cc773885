"""Lesson 13, your own network: a forward pass without branches, the share that is quantized,
calibrated thresholds.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, call, check, compare, points
from hmq_lab.graph import tracing
from hmq_lab.network import Placement


@check
def upright(answer) -> Verdict:
    """Exercise 1: negate the images whose mean is negative, so that torch.export can follow.

    >>> checks.upright(lambda x: torch.where(x.mean((1, 2, 3), keepdim=True) < 0, -x, x)).passed
    True

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # First the numbers alone, as for every other exercise.
    cases = _images()
    verdict = compare(answer, _upright, cases, UPRIGHT_FAULTS, tolerance=1e-6, draw=_means)
    if not verdict.passed:
        return verdict
    # Read it as a network is read, for any number of images, and run what was read.
    mixed = cases[-1]["x"]
    try:
        reading = tracing.trace(_Calling(answer), mixed, training=False)
    except ValueError as error:
        reason = str(error).replace(_Calling.__name__, "your function")
        said = f"Not yet. The images are right, but {reason}. {BRANCH}"
        return Verdict(False, said, verdict.drawing)
    # The graph needs the constants that the reading found.
    calling = _Calling(answer)
    for name, value in reading.constants.items():
        setattr(calling, name, value)
    run = tracing.run(reading.graph)
    # A second batch of another size shows what was read as a constant.
    two_sizes = [{"x": mixed}, {"x": mixed[:3]}]

    def read(x):
        return run(calling, x)[0]

    with torch.no_grad():
        again = compare(read, _upright, two_sizes, UPRIGHT_FAULTS, tolerance=1e-6)
    # Right when called, wrong when read: say so.
    if not again.passed:
        said = (
            "Not yet. Called, the function is right; read by torch.export, it gives something "
            "else: a number of one batch was written down as a constant. "
        )
        return Verdict(False, said + again.message, verdict.drawing)
    message = f"{verdict.message[:-1]}, and torch.export can follow it."
    return Verdict(True, message, verdict.drawing)


BRANCH = (
    "When a network is read, x has no values and its number of images is open. An `if`, a loop "
    "over images and NumPy ask for what is not there; torch.where does not."
)


class _Calling(nn.Module):
    """A network that does nothing but call the function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return call(self.function, {"x": x})


def _images() -> list[dict]:
    cases = Cases("x")
    # One image, whose mean is -1.
    cases.add(torch.tensor([[[[1.0, -3.0]]]]))
    # Two images: a mean of 0 is not negative.
    zero = torch.tensor([[2.0, -2.0], [-1.0, -1.0]])
    cases.add(zero.view(2, 1, 1, 2))
    # One channel is negative, or the other two are.
    channels = torch.tensor([1.0, 0.5, -0.6]).view(1, 3, 1, 1)
    image = channels.expand(1, 3, 2, 2)
    cases.add(torch.cat([image, -image]))
    # Images at random, two of them with a negative mean.
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([1.0, -0.6, -0.8, 0.3]).view(4, 1, 1, 1)
    cases.add(torch.randn(4, 3, 5, 5, generator=generator) + means)
    return cases


def _upright(x: torch.Tensor) -> np.ndarray:
    """Image by image, as a loop does it."""
    return np.stack([-image if image.mean() < 0 else image for image in x.numpy()])


def _where(x, negative):
    return torch.where(negative, -x, x)


UPRIGHT_FAULTS = Faults()


@UPRIGHT_FAULTS.says(
    "That lets the mean of the whole batch decide: each image has to decide for itself."
)
def _(x):
    return _where(x, x.mean() < 0)


@UPRIGHT_FAULTS.says("That negates the other ones, whose mean is not negative.")
def _(x):
    return _where(x, x.mean((1, 2, 3), keepdim=True) >= 0)


@UPRIGHT_FAULTS.says(
    "That takes the magnitude of each value; the image is to be negated as a whole."
)
def _(x):
    return x.abs()


@UPRIGHT_FAULTS.says(
    "That multiplies by the sign of the mean, which is 0 for a mean of 0: such an image is lost."
)
def _(x):
    return x * x.mean((1, 2, 3), keepdim=True).sign()


@UPRIGHT_FAULTS.says(
    "That decides for each channel: keep one mean for an image, over channels, rows and columns."
)
def _(x):
    return _where(x, x.mean((2, 3), keepdim=True) < 0)


@UPRIGHT_FAULTS.says("That negates every image.")
def _(x):
    return -x


@UPRIGHT_FAULTS.says("That gives the images back as they came.")
def _(x):
    return x


@UPRIGHT_FAULTS.says("That negates a mean of 0, too: it is not negative.")
def _(x):
    return _where(x, x.mean((1, 2, 3), keepdim=True) <= 0)


def _means(cases, wanted, given) -> plots.Drawing:
    """The mean of every image before and after."""

    # One mean for each image of all cases.
    def means(batches):
        found = [torch.as_tensor(batch).detach().mean((1, 2, 3)) for batch in batches]
        return torch.cat(found).numpy()

    # Dashes are before, rings are right, crosses are the answer's.
    drawing, ax = plots.canvas(height=3.0)
    before = means(case["x"] for case in cases)
    ax.plot(before, "_", color=plots.ORANGE, ms=14, mew=2, label="before")
    ring = {"ms": 11, "mfc": "none", "mew": 2}
    ax.plot(means(wanted), "o", color=plots.INK, label="right", **ring)
    ax.plot(means(given), "x", color=plots.BLUE, ms=7, mew=2, label="yours")
    ax.set(xlabel="image", ylabel="mean of the image", xticks=range(len(before)))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.sentence = (
        f"The means of {len(before)} images: before, as they should be, and as you make them."
    )
    return drawing


class Places(tuple):
    """Placements that say themselves in a few words."""

    def __repr__(self):
        texts = []
        for place in self:
            note = "" if place.quantized else " (float)"
            texts.append(f"{place.kind} of {place.size}{note}")
        return f"[{', '.join(texts)}]"


def _places(*named_sizes: str) -> Places:
    """Placements from texts such as "weight 90"."""
    places = []
    for text in named_sizes:
        kind, size = text.split()
        quantized = kind in ("weight", "activation")
        reason = "for an exercise"
        places.append(
            Placement(f"{kind}{size}", kind, (int(size),), quantized, True, reason, "Conv2d")
        )
    return Places(places)


NETWORKS = Cases("places")
NETWORKS.add(_places("weight 90", "parameter 10"))
NETWORKS.add(_places("weight 60", "parameter 20", "activation 300"))
NETWORKS.add(_places("weight 50", "shared 50", "parameter 30", "activation 10"))
# Two weights and two parameters that stay float, in a network with a shared tensor.
NETWORKS.add(
    _places("weight 27", "weight 400", "parameter 8", "parameter 8", "activation 64", "shared 400")
)


@check
def share(answer) -> Verdict:
    """Exercise 2: which share of a network's parameters is quantized.

    >>> checks.share(lambda places: 0.9).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Other tensors are counted.
    @faults.says("That counts tensors; a tensor of 400 numbers counts 400 times.")
    def _(places):
        return _ratio(places, False)

    @faults.says("That counts activations, too: they are no parameters, and nothing stores them.")
    def _(places):
        return _ratio(places, kinds=("weight", "parameter", "activation"))

    @faults.says(
        'That counts a "shared" tensor below the line once more: it is another name for one '
        "that is counted."
    )
    def _(places):
        return _ratio(places, kinds=("weight", "parameter", "shared"))

    @faults.says("That is over all placements, activations and shared names included.")
    def _(places):
        return _ratio(places, kinds=("weight", "parameter", "activation", "shared"))

    # The right share in another form.
    @faults.says("That is the share that stays float.")
    def _(places):
        return 1 - _share(places)

    @faults.says("That is in percent: a share goes from 0 to 1.")
    def _(places):
        return 100 * _share(places)

    @faults.says("That is quantized over float; divide by all parameters.")
    def _(places):
        return _share(places) / (1 - _share(places))

    # The numerator has too much in it.
    @faults.says("Your numerator has the activations in it: they are quantized, but no parameters.")
    def _(places):
        quantized = sum(p.size for p in places if p.quantized)
        return quantized / sum(p.size for p in places if p.kind in ("weight", "parameter"))

    # The drawing names each case by its number of tensors.
    draw = points("share of the parameters", lambda case: f"{len(case['places'])} tensors")
    return compare(answer, _share, NETWORKS, faults, tolerance=1e-9, draw=draw)


def _ratio(
    places: tuple, by_size: bool = True, kinds: tuple[str, ...] = ("weight", "parameter")
) -> float:
    """Quantized over all, of these kinds."""
    quantized = 0
    total = 0
    for place in places:
        if place.kind in kinds:
            count = place.size if by_size else 1
            total += count
            quantized += count * place.quantized
    return quantized / total


def _share(places: tuple) -> float:
    """Number by number, into two boxes."""
    boxes = {"weight": 0, "parameter": 0}
    for place in places:
        if place.kind in boxes:
            boxes[place.kind] += math.prod(place.shape)
    return float(Fraction(boxes["weight"], sum(boxes.values())))


@check
def largest_exponent(answer) -> Verdict:
    """Exercise 3: the exponent of an activation's largest threshold, from the maxima of the
    batches.

    >>> checks.largest_exponent(lambda maxima: 0).passed
    False

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """
    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("maxima")
    cases.add([1.5])
    cases.add([1.0])
    cases.add([1.05])
    cases.add([8.0, 1.0])
    cases.add([1.0, 8.0, 1.0])
    cases.add([8.0, 1.0, 1.0])
    cases.add([0.3, 0.2, 0.25])
    cases.add([3.0, 5.0, 4.6])

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Another number than the running maximum.
    @faults.says("That starts from 0: the first batch's maximum is where theta begins.")
    def _(maxima):
        return _up(_run(maxima, start=0.0))

    @faults.says("That is the largest maximum of all; the running one forgets.")
    def _(maxima):
        return _up(max(maxima))

    @faults.says("That is the mean of the maxima.")
    def _(maxima):
        return _up(sum(maxima) / len(maxima))

    # The running maximum with another weight.
    @faults.says("That moves a tenth of the way to each new maximum: nine tenths it is.")
    def _(maxima):
        return _up(_run(maxima, rate=0.1))

    # Mistakes of the rounding.
    @faults.says("That rounds the logarithm down: the threshold would lie below theta.")
    def _(maxima):
        return math.floor(math.log2(_run(maxima)))

    @faults.says("That rounds the logarithm to the nearest: the threshold may lie below theta.")
    def _(maxima):
        return round(math.log2(_run(maxima)))

    # Another octave, or another batch.
    @faults.says("That is one octave above: weights have that, activations do not.")
    def _(maxima):
        return _up(_run(maxima)) + 1

    @faults.says("That is the last batch's maximum alone.")
    def _(maxima):
        return _up(maxima[-1])

    # The right number in another form.
    @faults.says("That is theta itself; asked is the exponent of the power of two not below it.")
    def _(maxima):
        return _run(maxima)

    @faults.says("That is the threshold; asked is its exponent.")
    def _(maxima):
        return 2.0 ** _up(_run(maxima))

    # The drawing names each case by its maxima.
    def label(case):
        return ", ".join(f"{largest:g}" for largest in case["maxima"])

    draw = points("exponent", label)
    return compare(answer, _largest_exponent, cases, faults, tolerance=1e-9, draw=draw)


def _largest_exponent(maxima: list[float]) -> int:
    """In fractions, and the power of two found by doubling and halving."""
    # The running maximum, in fractions.
    theta = Fraction(maxima[0])
    for largest in maxima[1:]:
        theta = theta / 10 + Fraction(largest) * Fraction(9, 10)
    # The smallest power of two that is not below it.
    exponent = 0
    while 2**exponent < theta:
        exponent += 1
    while Fraction(2) ** (exponent - 1) >= theta:
        exponent -= 1
    return exponent


def _run(maxima: list[float], rate: float = 0.9, start: float | None = None) -> float:
    theta = maxima[0] if start is None else start
    for largest in maxima[1:] if start is None else maxima:
        theta += rate * (largest - theta)
    return theta


def _up(value: float) -> int:
    return math.ceil(math.log2(value))
