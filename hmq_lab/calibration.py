"""The activations' largest thresholds, from what the float network computes on pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hmq_lab.attached import blocks, switched_off
from hmq_lab.graph import in_mode
from hmq_lab.quantizer import MAX_EXPONENT, threshold_exponent


def calibrate(
    model: nn.Module,
    batches: Iterable[Tensor],
    rate: float = 0.9,
    largest: Callable[[Tensor], Tensor] = lambda values: values,
) -> dict[str, float]:
    """Set the activations' largest thresholds from one pass of the float network over batches of pictures.

    Of each tensor a running maximum is kept, theta += rate * (max|x| - theta) from the first batch's maximum, and the
    largest threshold is the smallest power of two not below it. Returns theta by name.
    largest: where several processes see a part of every batch each, what gives the largest of their values, element by
    element; the model's tensors are then measured over the whole batch.
    Raises ValueError naming the first tensor that holds NaN or infinities, and where there are no batches at all.
    Source: HMQ, section 4; the authors' code.

    >>> calibrate(model, (x for x, _ in data.train.batches(256)))
    {'relu': 2.71, 'layer1.0.relu': 3.14, ...}
    """
    activations = blocks(model, "activation") | blocks(model, "hardware")
    ends: dict[str, Tensor] = {}  # of this batch, for each tensor: max|x| and -min|x|
    theta = constant = None

    def watch(name):
        def hook(block, inputs):
            low, high = inputs[0].detach().abs().float().aminmax()
            ends[name] = torch.stack((high, -low))

        return hook

    hooks = [block.register_forward_pre_hook(watch(name)) for name, block in activations.items()]
    try:
        with switched_off(model), in_mode(model, training=False), torch.no_grad():
            count = 0
            for batch in batches:
                model(batch)
                count += 1
                if not ends:
                    continue
                high, low = largest(torch.stack(list(ends.values()))).unbind(1)  # one value per tensor
                theta = high if theta is None else torch.lerp(theta, high, rate)
                constant = (high == -low) & (True if constant is None else constant)
    finally:
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise ValueError("calibration needs at least one batch of pictures, got none")
    found = dict(zip(ends, theta.tolist(), strict=True)) if ends else {}
    constant = dict(zip(ends, constant.tolist(), strict=True)) if ends else {}
    exponents = {}
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"activation {name} holds NaN or infinite values on the pictures of the calibration")
        # A constant that equals its threshold (an untrained gate: 0.5) would be clipped everywhere and learn nothing.
        exponents[name] = threshold_exponent(value) + int(constant[name] and math.frexp(value)[0] == 0.5)
        octaves = len(activations[name].exponents) - 1
        if not octaves - MAX_EXPONENT <= exponents[name] <= MAX_EXPONENT:
            raise ValueError(f"activation {name} reaches {value:g} on the pictures of the calibration: out of range")
    for name, value in found.items():
        if value == 0:
            warnings.warn(f"activation {name} is zero everywhere on the pictures of the calibration", stacklevel=2)
        activations[name].exponent.fill_(exponents[name])
    return found
