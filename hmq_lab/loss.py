"""What a step of the search minimizes, and what to say when it is not finite.

>>> loss = Loss(network, gamma=32.0, precision="float32")           # the network has blocks
>>> total, task, expected_rate, hinge = loss(x, y, target_rate=8.0)  # stage 1
>>> total, task = loss(x, y)                                         # stage 2
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import budget
from hmq_lab.hardware.folding import fold
from hmq_lab.placement import blocks


class Loss(nn.Module):
    """The task loss and, with a target rate, gamma times the hinge of the expected rate: scalars of float32.

    The task loss is the cross-entropy with the labels or, where the class scores of a teacher are given, the
    `distillation` loss. A module, so that DDP sees all that reaches a parameter: the logits of a weight get gradients
    from both terms.
    """

    def __init__(self, network: nn.Module, gamma: float, precision: str, softness: float = 4.0):
        super().__init__()
        self.network, self.gamma, self.precision, self.softness = network, gamma, precision, softness

    def forward(
        self, x: Tensor, y: Tensor, target_rate: float | None = None, teacher_scores: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        scores = scores_in(self.precision, self.network, x)
        if teacher_scores is None:
            task = F.cross_entropy(scores, y)
        else:
            task = distillation(scores, teacher_scores, self.softness)
        if target_rate is None:
            return task, task
        expected = budget.expected_rate(self.network)
        hinge = budget.hinge(expected, target_rate)
        return task + self.gamma * hinge, task, expected, hinge


def distillation(scores: Tensor, teacher_scores: Tensor, temperature: float = 4.0) -> Tensor:
    """How far a network's class probabilities are from its teacher's: a scalar, the mean over images.

        T^2 * sum over classes of p log(p / q),    p = softmax(teacher_scores / T),  q = softmax(scores / T)

    >>> distillation(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
    tensor(0.)

    Args:
        scores: class scores (B, classes) of the network that learns.
        teacher_scores: those of the network it learns from, on the same images.
        temperature: T; the larger it is, the more the less probable classes count.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    wanted = F.log_softmax(teacher_scores / temperature, dim=1)
    found = F.log_softmax(scores / temperature, dim=1)
    divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def teacher_of(model: nn.Module) -> nn.Module:
    """A frozen copy of a float network, in evaluation, with batch norm folded: it computes the same, faster.

    >>> teacher = teacher_of(models.build("resnet8"))
    """
    teacher = copy.deepcopy(model)
    fold(teacher)
    return teacher.eval().requires_grad_(False)


def scores_in(precision: str, network: nn.Module, x: Tensor) -> Tensor:
    """Class scores (B, classes) in float32, computed in float32 or under autocast in bfloat16."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return class_scores(network(x)).float()


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
