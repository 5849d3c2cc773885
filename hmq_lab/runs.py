"""A finished run's network: built again from its record, with its blocks, its schemes and its trained weights.

>>> network, record = load("runs/builtin")
>>> IntegerNetwork.from_selected(network)                   # if the search was in hardware mode
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from hmq_lab import models, records
from hmq_lab.attached import blocks
from hmq_lab.block import SearchSpace
from hmq_lab.files import read_tensors
from hmq_lab.placement import attach
from hmq_lab.quantizer import Scheme
from hmq_lab.records import Record

NETWORK = "network.safetensors"  # as `stages` writes it


def load(run: Path | str) -> tuple[nn.Module, Record]:
    """The selected and trained network of the run in a folder, in evaluation mode, and its record.

    Raises FileNotFoundError for what is not there, ValueError for a run that is not complete and for altered files.
    """
    run = Path(run)
    record = records.read(run)
    if record.results.get("status") != "complete":
        raise ValueError(f"{run} holds a run that is {record.results.get('status')}, not complete: resume it first")
    network = rebuild(record)
    network.load_state_dict(read_tensors(run / NETWORK)[0])
    return network, record


def rebuild(record: Record) -> nn.Module:
    """The network that a record describes, with its schemes and random weights: enough for shapes and costs.

    >>> rebuild(records.recorded("cifar10-resnet20-w16-a8"))
    """
    schemes = {t["name"]: Scheme(t["bits"], t["threshold_exponent"], t["signed"]) for t in record.tensors}
    largest = {t["name"]: t["space"]["exponents"][0] for t in record.tensors}
    space = SearchSpace(tuple(record.header["space"]["bits"]), record.header["space"]["thresholds"])
    outputs = [t["size"] for t in record.floats if t["reason"] == "output of the network"]
    if len(outputs) != 1:
        raise ValueError(f"a record says how many outputs its network has, once; this one has {outputs}")
    hardware = record.header.get("hardware_mode", False)
    return build(record.header["model"], outputs[0], _picture(record), schemes, space, largest, hardware)


def _picture(record: Record) -> Sequence[int]:
    """The shape of a picture: written down in hardware mode, else a square with three planes."""
    for t in record.tensors:
        if t["kind"] == "hardware":  # the first of them in the graph
            return t["shape"]
    size = next(t["size"] for t in record.floats if t["reason"].startswith("input picture"))
    side = round((size / 3) ** 0.5)
    if 3 * side * side != size:
        raise ValueError(f"the record's pictures of {size} numbers are no square ones with three planes")
    return 3, side, side


def build(
    name: str,
    classes: int,
    picture: Sequence[int],
    schemes: Mapping[str, Scheme],
    space: SearchSpace,
    largest: Mapping[str, int],
    hardware: bool,
) -> nn.Module:
    """A network of `models` with the schemes fixed on its blocks; its weights are random.

    largest: the exponent of the first threshold of each block. Raises ValueError where the tensors are not those that
    the network has.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.build(name, classes=classes)
        attach(network, space, torch.rand(2, *picture), hardware=hardware)
    found = blocks(network)
    if odd := sorted(found.keys() ^ schemes.keys()):
        raise ValueError(f"{name} as it is built here does not have the same quantized tensors: {', '.join(odd[:4])}")
    for tensor, block in found.items():
        block.exponent.fill_(largest[tensor])
        if len(block.bits) == 1:  # an activation: its bits are given
            block.bits.fill_(schemes[tensor].bits)
        block.fix(schemes[tensor])
    return network.eval()
