"""Batch norm that was folded into weights, taken out again, so that a network can be trained and quantized further.

>>> norms.unfold(model, (x for x, _ in split.batches(50)))  # the same function in evaluation, nearly so in training

Files from TensorFlow Lite and other runtimes hold weights with batch norm folded in. As they are they serve neither
training, where a batch norm divides by the batch's own deviation and would change the function, nor one threshold per
tensor: the gains of batch norm make some channels' weights hundreds of times as large as others'.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hmq_lab.graph.folding import NORMS, pairs
from hmq_lab.graph.tracing import in_mode


def norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms with statistics, scale and shift."""
    return [
        m for m in model.modules() if isinstance(m, NORMS) and m.affine and m.track_running_stats
    ]


def are_folded(model: nn.Module) -> bool:
    """Whether there are batch norms and all they do is to add: no mean is theirs."""
    found = norms(model)
    return bool(found) and not any(norm.running_mean.any() for norm in found)


def unfold(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Statistics for the batch norms (`restate`) and filters of like size (`equalize`); the function stays.

    batches: pictures (B, 3, H, W), some hundreds in all.
    """
    batches = iter(batches)
    first = next(batches)
    restate(model, itertools.chain([first], batches))
    equalize(model, first)


def restate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of its input over these pictures; scale and shift make up for it.

    >>> restate(model, (x for x, _ in split.batches(50)))

    Batch norms that these pictures do not reach are left as they are.
    """
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms(model)}

    def look(norm, inputs):
        x = inputs[0].detach().transpose(0, 1).flatten(1).double()  # (C, B * pixels)
        sums[norm] += torch.stack(
            [torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)]
        ).cpu()

    hooks = [norm.register_forward_pre_hook(look) for norm in sums]
    try:
        with in_mode(model, training=False), torch.no_grad():
            for x in batches:
                model(x)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, (count, total, squares) in sums.items():
        if count.all():
            mean = total / count
            variance = (squares / count - mean.square()).clamp(min=0)
            _set(norm, mean.to(norm.weight), variance.to(norm.weight))


def equalize(model: nn.Module, sample: Tensor) -> None:
    """Scale the filters of each layer before a batch norm to one largest weight; the norm makes up for it.

    >>> equalize(model, sample)

    The median filter stays. So one threshold serves all filters of a tensor about as well.
    """
    for layer, name in pairs(model, sample):
        layer, norm = model.get_submodule(layer), model.get_submodule(name)
        if not norm.affine:
            continue
        largest = layer.weight.detach().abs().flatten(1).amax(1)  # (out,)
        ratio = (
            torch.where(largest > 0, largest[largest > 0].median() / largest, 1.0)
            if largest.any()
            else largest + 1
        )
        with torch.no_grad():
            layer.weight *= ratio.view(-1, *[1] * (layer.weight.dim() - 1))
            if layer.bias is not None:
                layer.bias *= ratio
        _set(norm, norm.running_mean * ratio, norm.running_var * ratio.square(), ratio)


@torch.no_grad()
def _set(norm: nn.Module, mean: Tensor, variance: Tensor, ratio: Tensor | float = 1.0) -> None:
    """New statistics for inputs that are `ratio` times what they were; scale and shift keep the output.

    scale' (r x - mean') / sqrt(var' + eps) + shift'  =  scale (x - mean) / sqrt(var + eps) + shift   for every x
    """
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias += slope * (mean / ratio - norm.running_mean)
    norm.weight.copy_(slope / ratio * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
