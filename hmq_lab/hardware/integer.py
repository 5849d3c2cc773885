"""The selected network on integers and shifts alone, and how it compares with the simulation in
floats.

>>> from hmq_lab.network import blocks
>>> from hmq_lab.placement import attach
>>> model, images = models.build("tiny_resnet8"), torch.randn(2, 3, 32, 32)
>>> for block in blocks(attach(model.eval(), images, hardware=True)).values(): _ = block.fix()
>>> network = IntegerNetwork.from_selected(model)
>>> codes, exponent = network(images)                       # their value is codes * 2^exponent
>>> codes.dtype, torch.equal(codes * 2.0**exponent, model(images))
(torch.int64, True)
>>> codes, exponent = network.trace(images)["relu"]         # codes and exponent of every tensor
>>> print(network)                                          # what hardware would do
tensor ... exponent  at most
x ... quantize to 8 bits ...
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hmq_lab.data.tables import columns
from hmq_lab.graph.tracing import in_mode
from hmq_lab.hardware.arithmetic import FLOAT32_EXACT, check_int32
from hmq_lab.hardware.lowering import lower
from hmq_lab.hardware.program import Instruction


class IntegerNetwork:
    """A program of `Instruction`s that computes a quantized network's logits with integers.

    The value of a tensor is codes * 2**exponent: codes alone are not the logits. To compare with
    the simulation, `compare` counts over many images where the two differ.

    Every tensor is int64 codes and a power of two. A convolution multiplies and adds integers, and
    the exponents of its step_w and step_x add up; a residual sum shifts one side left until the
    exponents agree; a block shifts right, rounds half to even and saturates. Only the image's block
    reads floats. Runs on the CPU.
    """

    def __init__(self, instructions: Iterable[Instruction]):
        self.instructions = tuple(instructions)

    @classmethod
    def from_selected(cls, model: nn.Module) -> IntegerNetwork:
        """The program of an attached network whose schemes are fixed; later changes of the network
        do not change it.

        Args:
            model: attached with hardware=True, its schemes fixed.

        Returns:
            The program, which no longer needs the network.

        Raises:
            ValueError: naming the tensor or layer, for a scheme that is not selected, a float image
                or mean, a batch norm that is not folded, a bias that is not rounded, a factor that
                is no power of two, an operation without a rule (products, SiLU, attention, ...),
                and sums that int32 may not
                hold: sum |w| max|a| + |b|.
        """
        return cls(lower(model))

    @property
    def exponent(self) -> int:
        """The logits are their codes times 2^exponent."""
        exponent = self.instructions[-1].exponent
        assert exponent is not None  # `lower` ends in integers
        return exponent

    def __call__(self, images: Tensor) -> tuple[Tensor, int]:
        """Logits of float images (N, C, H, W), as int64 codes (N, classes) and their exponent.

        Args:
            images: float32 or float64.

        Raises:
            OverflowError: naming the accumulator that int32 does not hold.
        """
        *_, (_, codes, _) = self.run(images)
        return codes, self.exponent

    def trace(self, images: Tensor) -> dict[str, tuple[Tensor, int | None]]:
        """Codes and exponent of every tensor, by name; see `Instruction`.

        Args:
            images: float images (N, C, H, W).

        Returns:
            {tensor: (int64 codes, exponent)}, in the order they are computed. What is computed from
            the float image, before its block, is floats and None.
        """
        found = {}
        for i, codes, _ in self.run(images):
            # Sizes are plain numbers.
            if isinstance(codes, Tensor):
                found[i.name] = codes, i.exponent
        return found

    def run(self, images: Tensor) -> Iterator[tuple[Instruction, Any, list]]:
        """(instruction, its value, the values it read) one by one; what nothing reads any more is
        forgotten.

        Args:
            images: float images (N, C, H, W).
        """
        # How many readers each value still has.
        left = Counter(name for i in self.instructions for name in i.inputs)
        values: dict[str, Any] = {}
        for i in self.instructions:
            # The program starts with the float images, on the CPU.
            if i.kind == "image":
                values[i.name] = images.detach().cpu()
                continue
            read = [values[name] for name in i.inputs]
            # Keep no_grad off the yield: a caller that abandons this generator would stay inside.
            with torch.no_grad():
                values[i.name] = value = i.compute(*read)
                if i.is_sum:
                    check_int32(value, i.name)
            yield i, value, read
            # A value without further readers is not kept.
            for name in i.inputs:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)

    def beyond_float32(self, images: Tensor) -> Tensor:
        """How many sums of each image exceed 2^24, sum |w a| + |b|: there float32 need not be
        exact. (N,) int64.

        Args:
            images: float images (N, C, H, W).
        """
        # A bound over all images saves looking at most of the sums.
        count = torch.zeros(len(images), dtype=torch.int64)
        for i, _, read in self.run(images):
            if i.is_sum and i.bound > FLOAT32_EXACT:
                large = i.magnitude(*read) > FLOAT32_EXACT
                count += large.flatten(1).sum(1)
        return count

    def __str__(self):
        # Only tensors of integers have a line.
        rows = [("tensor", "from", "operation", "exponent", "at most")]
        for i in self.instructions:
            if i.exponent is not None:
                read = ", ".join(i.inputs)
                rows.append((i.name, read, i.says, f"2^{i.exponent}", f"{i.bound:,}"))
        return columns(rows)


def compare(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict:
    """Count where the integer network and the simulation differ over batches of (images, classes).

    >>> from hmq_lab.network import blocks
    >>> from hmq_lab.placement import attach
    >>> model, images = models.build("tiny_resnet8"), torch.randn(2, 3, 32, 32)
    >>> for block in blocks(attach(model, images, hardware=True)).values(): _ = block.fix()
    >>> compare(model, [(images, torch.tensor([3, 7]))])
    {'images': 2, 'differ_float64': 0, 'differ_float32': 0, ...}

    differ_float64: images with a logit that differs from the simulation run in float64; must be 0.
    differ_float32: from the one in float32; `unexplained_float32` of these images have no sum
    beyond 2^24.
    predictions_differ: from float32's. accuracy_*: percent of images put into their class.

    Args:
        model: an attached network with fixed schemes.
        batches: pairs of float images (N, C, H, W) and classes (N,).

    Returns:
        Counts, percents and the exponent of the logits, by name.

    Raises:
        ValueError: where there are no images, or no integer network.
    """
    # Three versions of one network: integers, float32 and float64.
    network, single = IntegerNetwork.from_selected(model), copy.deepcopy(model).cpu().float()
    double = copy.deepcopy(single).double()
    found: Counter[str] = Counter()
    largest = 0.0
    with in_mode(single, training=False), in_mode(double, training=False), torch.no_grad():
        # All three see the same images, batch by batch.
        for x, y in batches:
            x, y = x.cpu().float(), y.cpu()
            codes, exponent = network(x)
            logits = codes.double() * math.ldexp(1.0, exponent)
            in64, in32 = double(x.double()), single(x)
            largest = max(largest, float((in64 - logits).abs().max()))
            # An image differs if any of its logits does.
            differ64 = (in64 != logits).any(1)
            differ32 = (in32.double() != logits).any(1)
            beyond = network.beyond_float32(x)
            classes, classes32 = codes.argmax(1), in32.argmax(1)
            # Counters add up over the batches.
            found["images"] += len(x)
            found["differ_float64"] += int(differ64.sum())
            found["differ_float32"] += int(differ32.sum())
            found["unexplained_float32"] += int((differ32 & (beyond == 0)).sum())
            found["images_beyond_2_24"] += int((beyond > 0).sum())
            found["sums_beyond_2_24"] += int(beyond.sum())
            found["predictions_differ"] += int((classes32 != classes).sum())
            found["right_integer"] += int((classes == y).sum())
            found["right_float32"] += int((classes32 == y).sum())

    # Shares of nothing would be no numbers.
    images = found["images"]
    if not images:
        raise ValueError("there are no images to compare on")
    # Counts of right predictions become percent.
    accuracy = {how: 100 * found.pop(f"right_{how}") / images for how in ("integer", "float32")}
    return dict(found) | {
        "largest_difference_float64": largest,
        "accuracy_integer": accuracy["integer"],
        "accuracy_float32": accuracy["float32"],
        "exponent": network.exponent,
    }
