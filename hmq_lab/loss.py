"""What a step of the search minimizes, and what to say when it is not finite.

>>> loss = Loss(network, gamma=32.0, precision="float32")           # the network has blocks
>>> total, task, expected_rate, hinge = loss(x, y, target_rate=8.0)  # stage 1
>>> total, task = loss(x, y)                                         # stage 2
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import budget
from hmq_lab.placement import blocks


class Loss(nn.Module):
    """Cross-entropy and, with a target rate, gamma times the hinge of the expected rate: scalars of float32.

    A module, so that DDP sees all that reaches a parameter: the logits of a weight get gradients from both terms.
    """

    def __init__(self, network: nn.Module, gamma: float, precision: str):
        super().__init__()
        self.network, self.gamma, self.precision = network, gamma, precision

    def forward(self, x: Tensor, y: Tensor, target_rate: float | None = None) -> tuple[Tensor, ...]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            task = F.cross_entropy(class_scores(self.network(x)).float(), y)
        if target_rate is None:
            return task, task
        expected = budget.expected_rate(self.network)
        hinge = budget.hinge(expected, target_rate)
        return task + self.gamma * hinge, task, expected, hinge


def class_scores(output) -> Tensor:
    """The class scores (B, classes) of a network, also of one that returns them in a named tuple with auxiliary heads.

    >>> class_scores(network(x)).argmax(1)

    Raises ValueError for what holds none.
    """
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        what = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(output).__name__
        raise ValueError(f"a network must return class scores, (pictures, classes), got {what}")
    return scores


def first_not_finite(model: nn.Module, x: Tensor) -> str:
    """The name of the first weight, or else activation, that holds NaN or infinities."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"parameter {name}"
    found: list[str] = []
    names = {block: name for name, block in blocks(model, "activation").items()}

    def look(block, inputs):
        if not inputs[0].isfinite().all():
            found.append(f"activation {names[block]}")

    hooks = [block.register_forward_pre_hook(look) for block in names]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return (["the input pictures"] if not x.isfinite().all() else found or ["the loss itself"])[0]
