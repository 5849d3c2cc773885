"""Batch norm that was folded into weights, taken out again, to train and quantize a network further.

>>> norms.unfold(model, (x for x, _ in split.batches(50)))  # the same function in evaluation, nearly so in training

Files from TensorFlow Lite and other runtimes hold weights with batch norm folded in. As they are
they do not serve training: a batch norm divides by the batch's own deviation and would change the
function. Nor do they serve one threshold per tensor: the gains of batch norm make some channels'
weights hundreds of times as large as others'.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hmq_lab.graph.folding import NORMS, pairs
from hmq_lab.graph.tracing import in_mode


def norms(model: nn.Module) -> list[Any]:
    """The batch norms with statistics, scale and shift.

    Args:
        model: network whose norms are meant.

    Returns:
        The modules, in the order of the network.
    """
    return [
        m for m in model.modules() if isinstance(m, NORMS) and m.affine and m.track_running_stats
    ]


def are_folded(model: nn.Module) -> bool:
    """Whether there are batch norms and all they do is to add: no mean is theirs.

    Args:
        model: network whose norms are meant.

    Returns:
        True if every mean is 0.
    """
    found = norms(model)
    return bool(found) and not any(norm.running_mean.any() for norm in found)


def unfold(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give the batch norms statistics and filters of like size; the function stays the same.

    `restate` makes the statistics, `equalize` the filters.

    Args:
        model: network to change.
        batches: images (B, 3, H, W), some hundreds in all.
    """
    batches = iter(batches)
    first = next(batches)
    restate(model, itertools.chain([first], batches))
    equalize(model, first)


def restate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of its input over these images.

    Scale and shift make up for it.

    >>> restate(model, (x for x, _ in split.batches(50)))

    Batch norms that these images do not reach are left as they are.

    Args:
        model: network to change.
        batches: images (B, 3, H, W), some hundreds in all.
    """
    # Count, sum and sum of squares of each channel, in double precision.
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms(model)}

    # A hook adds what a norm sees.
    def look(norm, inputs):
        x = inputs[0].detach().transpose(0, 1).flatten(1).double()  # (C, B * pixels)
        sums[norm] += torch.stack(
            [torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)]
        ).cpu()

    # The network runs in evaluation mode, so that the norms do not move.
    hooks = [norm.register_forward_pre_hook(look) for norm in sums]
    try:
        with in_mode(model, training=False), torch.no_grad():
            for x in batches:
                model(x)
    finally:
        # The hooks go, whatever happens.
        for hook in hooks:
            hook.remove()
    # A norm that saw nothing keeps its statistics.
    for norm, (count, total, squares) in sums.items():
        if count.all():
            mean = total / count
            variance = (squares / count - mean.square()).clamp(min=0)
            _set(norm, mean.to(norm.weight), variance.to(norm.weight))


def equalize(model: nn.Module, sample: Tensor) -> None:
    """Scale the filters of each layer before a batch norm to one largest weight.

    The norm makes up for it.

    >>> equalize(model, sample)

    The median filter stays. So one threshold serves all filters of a tensor about as well.

    Args:
        model: network to change.
        sample: images (B, 3, H, W) that show which layers follow each other.
    """
    # Each layer together with the norm behind it.
    for path, name in pairs(model, sample):
        layer: Any = model.get_submodule(path)
        norm: Any = model.get_submodule(name)
        if not norm.affine:
            continue
        # Every filter gets the median of the largest weights as its own largest.
        largest = layer.weight.detach().abs().flatten(1).amax(1)  # (out,)
        ratio = torch.ones_like(largest)
        if largest.any():
            median = largest[largest > 0].median()
            ratio = torch.where(largest > 0, median / largest, 1.0)
        # The filters get the factor, and the norm takes it back.
        with torch.no_grad():
            layer.weight *= ratio.view(-1, *[1] * (layer.weight.dim() - 1))
            if layer.bias is not None:
                layer.bias *= ratio
        _set(norm, norm.running_mean * ratio, norm.running_var * ratio.square(), ratio)


@torch.no_grad()
def _set(norm: Any, mean: Tensor, variance: Tensor, ratio: Tensor | float = 1.0) -> None:
    """New statistics for inputs that are `ratio` times what they were.

    Scale and shift keep the output: for every x,

    scale' (r x - mean') / sqrt(var' + eps) + shift'  =  scale (x - mean) / sqrt(var + eps) + shift
    """
    # The inputs keep their slope, and the shift takes what the mean lost.
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias += slope * (mean / ratio - norm.running_mean)
    # Scale and statistics go together.
    norm.weight.copy_(slope / ratio * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
