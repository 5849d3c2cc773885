"""A network built again from what a record or a packed file says: its blocks and their schemes.

>>> fresh("tiny_resnet8", 10).linear
Linear(in_features=32, out_features=10, bias=True)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hmq_lab.block import SearchSpace
from hmq_lab.models import networks
from hmq_lab.network import blocks
from hmq_lab.placement import attach, detach
from hmq_lab.quantizer import Scheme


def fresh(name: str, classes: int) -> nn.Module:
    """Return a network of `models` with random weights, the same every time."""
    # The caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return networks.build(name, classes=classes)


def build(
    network: nn.Module,
    picture: Sequence[int],
    schemes: Mapping[str, Scheme],
    space: SearchSpace,
    largest: Mapping[str, int],
    hardware: bool,
) -> nn.Module:
    """Return the network with blocks on it and the schemes fixed, in evaluation mode.

    Args:
        network: the float network; it is changed in place.
        picture: the shape of an image.
        schemes: {tensor: scheme}.
        space: the search space of the weights.
        largest: {tensor: exponent of the first threshold of its block}.
        hardware: whether to attach in hardware mode.

    Raises:
        ValueError: where the tensors are not those of the network, which is then left without
            blocks.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"network must be a torch.nn.Module, as it was before the search, got {network!r}"
        )
    # Put blocks on the network. Any sample will do, as the thresholds are set below.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        sample = torch.rand(2, *picture).to(device)
        attach(network, space=space, sample=sample, hardware=hardware)

    # The network and the record must have the same tensors.
    found = blocks(network)
    if odd := sorted(found.keys() ^ schemes.keys()):
        detach(network)
        said = [f"{n} only {'there' if n in schemes else 'here'}" for n in odd[:4]]
        said += [f"and {len(odd) - 4} more"] * (len(odd) > 4)
        raise ValueError(
            f"{type(network).__name__} as it is built here does not have the same quantized tensors: {', '.join(said)}"
        )

    # Set the thresholds that a block chooses from, then its choice.
    for tensor, block in found.items():
        scheme = schemes[tensor]
        block.exponent.fill_(largest[tensor])
        # An activation: its bits are given.
        if len(block.bits) == 1:
            block.bits.fill_(scheme.bits)
        block.fix(scheme)
    return network.eval()
