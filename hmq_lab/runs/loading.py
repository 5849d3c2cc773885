"""A finished run's network: built again from its record, with its blocks, its schemes and its trained weights.

>>> network, record = load("runs/builtin")
>>> IntegerNetwork.from_selected(network)                   # if the search was in hardware mode
>>> network, record = load("runs/own", network=Net())       # of your own module, built as it was before the search
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hmq_lab import models
from hmq_lab.block import SearchSpace
from hmq_lab.data.files import read_tensors
from hmq_lab.network import blocks
from hmq_lab.placement import attach, detach
from hmq_lab.quantizer import Scheme
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

NETWORK = "network.safetensors"  # as `stages` writes it


def load(run: Path | str, network: nn.Module | None = None) -> tuple[nn.Module, Record]:
    """The selected and trained network of the run in a folder, in evaluation mode, and its record.

    >>> network, record = load("runs/builtin")

    network: for a run of your own module, that module, built as it was before the search: the blocks go on it and the
    run's weights into it. None builds the one of `models` that the record names.
    Raises FileNotFoundError for what is not there, ValueError for a run that is not complete, for altered files, and
    for a network that does not fit, which is left without blocks (in hardware mode its batch norm stays folded).
    """
    run = Path(run)
    record = records.read(run)
    if record.results.get("status") != "complete":
        raise ValueError(f"{run} holds a run that is {record.results.get('status')}, not complete: resume it first")
    tensors = read_tensors(run / NETWORK)[0]
    network = rebuild(record, network)
    try:
        _check_shapes(network, tensors, run / NETWORK)
    except ValueError:
        detach(network)
        raise
    network.load_state_dict(tensors)
    return network, record


def own_module(record: Record) -> str | None:
    """What the record calls a module that is none of `models`, so that it cannot be built again from its name.

    >>> own_module(records.recorded("cifar10-resnet20-w16-a8")) is None
    True
    """
    name = record.header["model"]
    return None if name in models.names() else name


def rebuild(record: Record, network: nn.Module | None = None) -> nn.Module:
    """The network that a record describes, with its schemes and random weights: enough for shapes and costs.

    >>> rebuild(records.recorded("cifar10-resnet20-w16-a8"))

    network: see `load`; it keeps its weights. Raises ValueError for what is no record, and for a network that does not
    have the record's tensors.
    """
    if not isinstance(record, Record):
        raise ValueError(
            f"a record is needed, as `records.read(path)` gives it, got {type(record).__name__} {record!r}; "
            "`runs.load(folder)` takes the folder of a run"
        )
    schemes = {t["name"]: Scheme(t["bits"], t["threshold_exponent"], t["signed"]) for t in record.tensors}
    largest = {t["name"]: t["space"]["exponents"][0] for t in record.tensors}
    space = SearchSpace(tuple(record.header["space"]["bits"]), record.header["space"]["thresholds"])
    hardware = record.header.get("hardware_mode", False)
    if network is None:
        if name := own_module(record):
            raise ValueError(f"this run is of your own module {name}: give it as network=, as before the search")
        outputs = [t["size"] for t in record.floats if t["reason"] == "output of the network"]
        if len(outputs) != 1:
            raise ValueError(f"a record says how many outputs its network has, once; this one has {outputs}")
        network = fresh(record.header["model"], outputs[0])
    return build(network, _picture(record), schemes, space, largest, hardware)


def _picture(record: Record) -> Sequence[int]:
    """The shape of a picture: in the header, or of the first tensor in hardware mode, else a square in three planes."""
    if "picture" in record.header:
        return record.header["picture"]
    for t in record.tensors:
        if t["kind"] == "hardware":  # the first of them in the graph
            return t["shape"]
    size = next(t["size"] for t in record.floats if t["reason"].startswith("input picture"))
    side = round((size / 3) ** 0.5)
    if 3 * side * side != size:
        raise ValueError(f"the record's pictures of {size} numbers are no square ones with three planes")
    return 3, side, side


def fresh(name: str, classes: int) -> nn.Module:
    """A network of `models` with weights that are random, and the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.build(name, classes=classes)


def build(
    network: nn.Module,
    picture: Sequence[int],
    schemes: Mapping[str, Scheme],
    space: SearchSpace,
    largest: Mapping[str, int],
    hardware: bool,
) -> nn.Module:
    """The network, with blocks on it and the schemes fixed; in evaluation mode.

    largest: the exponent of the first threshold of each block. Raises ValueError where the tensors are not those that
    the network has; it is then without blocks again.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be a torch.nn.Module, as it was before the search, got {network!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        attach(network, space, torch.rand(2, *picture).to(device), hardware=hardware)
    found = blocks(network)
    if odd := sorted(found.keys() ^ schemes.keys()):
        detach(network)
        name = type(network).__name__
        said = [f"{n} {'there' if n in schemes else 'here'} alone" for n in odd[:4]]
        said += [f"and {len(odd) - 4} more"] * (len(odd) > 4)
        raise ValueError(f"{name} as it is built here does not have the same quantized tensors: {', '.join(said)}")
    for tensor, block in found.items():
        block.exponent.fill_(largest[tensor])
        if len(block.bits) == 1:  # an activation: its bits are given
            block.bits.fill_(schemes[tensor].bits)
        block.fix(schemes[tensor])
    return network.eval()


def _check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = network.state_dict()
    said = [f"{name} is {'in the file' if name in tensors else 'here'} alone"
            for name in sorted(wanted.keys() ^ tensors.keys())]  # fmt: skip
    said += [
        f"{name} is {tuple(tensor.shape)} in the file, {tuple(wanted[name].shape)} here"
        for name, tensor in sorted(tensors.items())
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if said:
        more = f" and {len(said) - 3} more" if len(said) > 3 else ""
        raise ValueError(f"{path} does not fit {type(network).__name__}: {'; '.join(said[:3])}{more}")
