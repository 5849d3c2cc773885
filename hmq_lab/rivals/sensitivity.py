"""What a bit-width of one weight costs by itself: five measures, for an `integer_programme`.

>>> costs = alone_on(Landscape(network, x, y))                            # doctest: +SKIP
>>> integer_programme(costs, budget.weight_sizes(network), target=14)     # doctest: +SKIP
{'conv1.weight': 8, 'layer1.0.conv1.weight': 6, ...}

Each measure takes a `Landscape` and gives {weight: {bits: cost}}. A programme adds the costs up: it
cannot know what two weights do together. No weight is trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hmq_lab.network import blocks
from hmq_lab.quantizer import Scheme, quantize
from hmq_lab.rivals.landscape import FLOAT, Landscape, original

# {weight: {bits: cost}}
Table = dict[str, dict[int, float]]


def round_off(landscape: Landscape) -> Table:
    """Return the relative squared error of each weight at each bit-width.

        cost = |w - Q(w)|^2 / |w|^2

    It looks at no image. MixQuant (Kloberdanz and Le, 2023) chooses by the round-off error.

    Args:
        landscape: of an attached network.
    """
    # The landscape has measured the errors already.
    costs = {}
    for name, errors in landscape.errors.items():
        power = original(landscape.model, name).detach().double().square().sum().item() or 1.0
        costs[name] = {bits: error / power for bits, error in errors.items()}
    return costs


def alone_on(landscape: Landscape) -> Table:
    """Return the rise of the loss when one weight alone is quantized, all others float.

    Args:
        landscape: of an attached network.
    """
    # From the float network, one weight and bit-width after the other.
    floats: dict[str, int | str] = dict.fromkeys(landscape.blocks, FLOAT)
    base = landscape(floats)
    costs = {}
    for name, schemes in landscape.schemes.items():
        costs[name] = {bits: landscape(floats | {name: bits}) - base for bits in schemes}
    return costs


def alone_off(landscape: Landscape, others: int) -> Table:
    """Return how much the loss falls when one weight alone is left float, all others quantized.

        cost = loss(this weight at its bits) - loss(this weight float),    all others at `others`

    So this measure sees a weight beside others that are wrong, too.

    Args:
        landscape: of an attached network.
        others: the bit-width of all other weights.
    """
    # All at the same bits; then each weight float, and at each of its bit-widths.
    same: dict[str, int | str] = dict.fromkeys(landscape.blocks, others)
    costs = {}
    for name, schemes in landscape.schemes.items():
        base = landscape(same | {name: FLOAT})
        costs[name] = {bits: landscape(same | {name: bits}) - base for bits in schemes}
    return costs


def gradient(landscape: Landscape) -> Table:
    """Return the size of the change of the loss that its gradient predicts.

        cost = |sum of dL/dw * (Q(w) - w)|

    It is a Taylor expansion of first order at the float weights. One backward pass is enough for
    all weights and bit-widths. Its sign counts for nothing: where the network is trained, the
    gradient is noise, and a fall is no merit.

    Args:
        landscape: of an attached network.
    """
    # The same gradients for every bit-width.
    slopes = gradients(landscape)
    costs: Table = {}
    for name, schemes in landscape.schemes.items():
        weight = original(landscape.model, name).detach()
        costs[name] = {}
        for bits, scheme in schemes.items():
            predicted = (slopes[name] * change(weight, scheme)).sum().item()
            costs[name][bits] = abs(predicted)
    return costs


def hessian(landscape: Landscape, probes: int = 16, seed: int = 0) -> Table:
    """Return the mean of the Hessian's diagonal times the squared error.

        cost = trace(H) / n * |w - Q(w)|^2,    n the elements of the weight

    H is the Hessian of the loss at the float weights, in the float network. HAWQ-V2 (Dong et al.,
    2020) chooses so. A negative trace counts as 0.

    Args:
        landscape: of an attached network.
        probes: of `traces`.
        seed: of `traces`.
    """
    # A mean curvature for each weight.
    found = traces(landscape, probes, seed)
    costs = {}
    for name, errors in landscape.errors.items():
        mean = max(found[name], 0.0) / original(landscape.model, name).numel()
        costs[name] = {bits: mean * error for bits, error in errors.items()}
    return costs


def gradients(landscape: Landscape) -> dict[str, Tensor]:
    """Return the gradient of the loss for each float weight; activations are quantized.

    Args:
        landscape: of an attached network.

    Returns:
        {weight: gradient} in the weight's shape; zeros where the loss does not depend on it.
    """
    weights = _float_weights(landscape)
    with torch.enable_grad():
        loss = _loss(landscape)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    # A weight that the loss does not depend on has no gradient.
    slopes = {}
    for (name, weight), slope in zip(weights.items(), found, strict=True):
        slopes[name] = torch.zeros_like(weight) if slope is None else slope
    return slopes


def traces(landscape: Landscape, probes: int = 16, seed: int = 0) -> dict[str, float]:
    """Return the trace of the Hessian of each weight's own block, estimated.

        trace(H) = E[v' H v],    v of random signs

    One probe has signs for all weights at once: products of two different weights have mean 0.
    Source: Hutchinson, 1990.

    Args:
        landscape: of an attached network.
        probes: how many vectors of signs; the error falls with their root.
        seed: of the signs.

    Returns:
        {weight: trace}.

    Raises:
        ValueError: for no probe.
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes must be a whole number from 1 on, got {probes!r}")
    # The float network: a quantizer has no second derivative.
    weights = _float_weights(landscape)
    others = [b for b in blocks(landscape.model).values() if b.enabled]
    for block in others:
        block.enabled = False
    generator = torch.Generator().manual_seed(seed)

    sums = dict.fromkeys(weights, 0.0)
    try:
        with torch.enable_grad():
            slopes = torch.autograd.grad(
                _loss(landscape), list(weights.values()), create_graph=True, materialize_grads=True
            )
            for _ in range(probes):
                signs = []
                for weight in weights.values():
                    drawn = torch.randint(0, 2, weight.shape, generator=generator)
                    signs.append((2 * drawn - 1).to(weight))
                # The Hessian times the signs.
                products = torch.autograd.grad(
                    slopes, list(weights.values()), signs, retain_graph=True, materialize_grads=True
                )
                for name, sign, product in zip(weights, signs, products, strict=True):
                    sums[name] += (sign * product).sum().item()
    finally:
        for block in others:
            block.enabled = True
    return {name: total / probes for name, total in sums.items()}


def change(weight: Tensor, scheme: Scheme) -> Tensor:
    """Return what a scheme adds to each element of a weight.

    >>> change(torch.tensor([0.1, 0.5]), Scheme(bits=2, threshold_exponent=0, signed=True))
    tensor([-0.1000,  0.0000])

    Args:
        weight: any shape.
        scheme: what quantizes it.
    """
    return quantize(weight, scheme.step, scheme.threshold, scheme.signed) - weight


def _float_weights(landscape: Landscape) -> Mapping[str, Tensor]:
    """Return the float weights, after the blocks of weights are switched off."""
    # A call of the landscape switches on those that it needs.
    for block in landscape.blocks.values():
        block.enabled = False
    return {name: original(landscape.model, name) for name in landscape.blocks}


def _loss(landscape: Landscape) -> Tensor:
    """Return the mean cross-entropy of the network as it is, with a graph for its gradients."""
    return F.cross_entropy(landscape.model(landscape.x.clone()), landscape.y)
