"""The losses against NumPy, and the teacher against the network it is a copy of."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hmq_lab import SearchSpace, attach, models
from hmq_lab.network import resample
from hmq_lab.runs.runner import teacher_of
from hmq_lab.settings import Settings
from hmq_lab.stages import Loss, distillation


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_distillation_is_the_divergence_of_softened_probabilities(temperature):
    torch.manual_seed(0)
    scores, wanted = torch.randn(5, 7) * 3, torch.randn(5, 7) * 3
    p, q = (
        softmax(wanted.double().numpy() / temperature),
        softmax(scores.double().numpy() / temperature),
    )
    by_hand = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    assert distillation(scores, wanted, temperature).item() == pytest.approx(by_hand, rel=1e-4)
    assert distillation(wanted, wanted, temperature).item() == pytest.approx(0, abs=1e-6)


def test_distillations_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    scores, wanted = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: distillation(s, wanted, 4.0), scores.requires_grad_())


def trained_norms(model):
    """Statistics and gains as training leaves them, so that folding has something to do."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", ["tiny_resnet8", "resnet8"])
def test_a_teacher_computes_what_the_network_did_and_stays_so(name):
    torch.manual_seed(0)
    model = trained_norms(models.build(name))
    before = copy.deepcopy(model).eval()
    mode = model.training
    x = torch.randn(4, 3, 32, 32)
    teacher = teacher_of(model, x)
    assert torch.allclose(teacher(x), before(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert model.training == mode and isinstance(model.bn1, nn.BatchNorm2d)
    with torch.no_grad():  # what becomes of the network does not change its teacher
        for p in model.parameters():
            p.zero_()
    assert torch.allclose(teacher(x), before(x), rtol=1e-4, atol=1e-4)


def test_the_loss_takes_scores_instead_of_labels():
    torch.manual_seed(0)
    x, y, wanted = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]), torch.randn(4, 10)
    model = attach(models.build("tiny_resnet8"), SearchSpace(), x)
    resample(model, torch.Generator().manual_seed(0))
    loss = Loss(model, Settings(distillation_temperature=2.0))
    total, task, _, hinge = loss(x, y, 8.0, wanted)
    scores = model(x).detach()
    assert task.item() == pytest.approx(distillation(scores, wanted, 2.0).item(), rel=1e-4)
    assert total.item() == pytest.approx(task.item() + 32 * hinge.item(), rel=1e-5)
    assert loss(x, y, None, wanted)[0].item() == pytest.approx(task.item(), rel=1e-4)
    assert loss(x, y)[1].item() == pytest.approx(
        nn.functional.cross_entropy(scores, y).item(), rel=1e-4
    )
