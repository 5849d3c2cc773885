"""The network of a finished run, built again: with its blocks, its schemes and its weights.

>>> network, record = load("runs/builtin")                                 # doctest: +SKIP
>>> network, record = load("runs/own", network=Net())                      # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from hmq_lab import models
from hmq_lab.block import SearchSpace
from hmq_lab.data.files import read_tensors
from hmq_lab.models.rebuilding import build, fresh
from hmq_lab.placement import detach
from hmq_lab.quantizer import Scheme
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

# The file of the weights in a run's folder.
NETWORK = "network.safetensors"
# A record that says more would ask for more memory than any of its networks needs.
MOST_OUTPUTS, MOST_VALUES = 1_000_000, 2**26


def load(run: Path | str, network: nn.Module | None = None) -> tuple[nn.Module, Record]:
    """Return the selected and trained network of a run, in evaluation mode, and its record.

    >>> network, record = load("runs/builtin")                             # doctest: +SKIP

    Args:
        run: the folder of the run.
        network: for a run of your own module, that module, built as before the search. It gets the
            blocks and the weights of the run. None builds the network of `models` that the record
            names.

    Raises:
        FileNotFoundError: for files that are not there.
        ValueError: for a run that is not complete, for altered files, and for a network that does
            not fit. That network is left without blocks (in hardware mode its batch norm stays
            folded).
    """
    # Only a run that has ended has a network.
    run = Path(run)
    record = records.read(run)
    if not record.is_complete:
        status = record.results.get("status")
        raise ValueError(f"{run} holds a run that is {status}, not complete: resume it first")
    # Read the weights first: a damaged file must leave the network alone.
    tensors, _ = read_tensors(run / NETWORK)
    network = rebuild(record, network)
    try:
        _check_shapes(network, tensors, run / NETWORK)
    except ValueError:
        detach(network)
        raise
    network.load_state_dict(tensors)
    return network, record


def own_module(record: Record) -> str | None:
    """Return what the record calls a module that is none of `models`, else None.

    >>> own_module(records.recorded("cifar10-resnet20-w16-a8")) is None
    True
    """
    name = record.header["model"]
    return None if name in models.names() else name


def rebuild(record: Record, network: nn.Module | None = None) -> nn.Module:
    """Return the network that a record describes, with its schemes and random weights.

    >>> type(rebuild(records.recorded("cifar10-resnet20-w16-a8"))).__name__
    'CifarResNet'

    That is enough for shapes and costs.

    Args:
        record: the record of a run.
        network: see `load`; it keeps its weights.

    Raises:
        ValueError: for what is no record, and for a network that does not have its tensors.
    """
    # A path here is the usual mistake.
    if not isinstance(record, Record):
        raise ValueError(
            f"a record is needed, as `records.read(path)` gives it, got {type(record).__name__} "
            f"{record!r}; `runs.load(folder)` takes the folder of a run"
        )
    if network is None:
        network = _model(record)

    # What each block has: its scheme, and the threshold that its search began with.
    schemes, largest = {}, {}
    for t in record.tensors:
        schemes[t["name"]] = Scheme(t["bits"], t["threshold_exponent"], t["signed"])
        largest[t["name"]] = t["space"]["exponents"][0]
    about = record.header["space"]
    space = SearchSpace(tuple(about["bits"]), about["thresholds"])
    hardware = record.header.get("hardware_mode", False)
    return build(network, _image_shape(record), schemes, space, largest, hardware)


def _model(record: Record) -> nn.Module:
    """Return the network of `models` that a record names, with random weights."""
    if name := own_module(record):
        raise ValueError(
            f"this run is of your own module {name}: give it as network=, as before the search"
        )
    # The number of outputs is the number of classes. Records of earlier versions have it among the tensors.
    outputs = [t["size"] for t in record.floats if records.role(t) == "output"]
    if "outputs" in record.header:
        outputs = [record.header["outputs"]]
    if len(outputs) != 1:
        raise ValueError(
            f"a record says how many outputs its network has, once; this one has {outputs}"
        )
    if not 1 <= outputs[0] <= MOST_OUTPUTS:
        raise ValueError(
            f"a network has from 1 to {MOST_OUTPUTS:,} outputs, the record says {outputs[0]:,}"
        )
    return fresh(record.header["model"], outputs[0])


def _image_shape(record: Record) -> Sequence[int]:
    """Return the shape of an image: (channels, height, width).

    Records of earlier versions do not state it. It is the shape of the first tensor in hardware
    mode, else it follows from the number of input values of a square image with three channels.
    """
    # Records of this version, and those in hardware mode.
    stated = [t["shape"] for t in record.tensors if t["kind"] == "hardware"]
    shape = record.header.get("picture", stated[0] if stated else None)
    if shape is not None:
        if min(shape) < 1 or math.prod(shape) > MOST_VALUES:
            raise ValueError(
                f"an image has at most {MOST_VALUES:,} values, the record says {shape}"
            )
        return shape
    # The number of values of an image.
    size = next((t["size"] for t in record.floats if records.role(t) == "input"), 0)
    side = round((max(size, 0) / 3) ** 0.5)
    if 3 * side * side != size or not 1 <= size <= MOST_VALUES:
        raise ValueError(
            f"the record's images of {size} values are not square images with three channels"
        )
    return 3, side, side


def _check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError where a file's tensors are not those of the network."""
    # Names on one side only, then other shapes.
    wanted = network.state_dict()
    said = []
    for name in sorted(wanted.keys() ^ tensors.keys()):
        said.append(f"{name} only {'in the file' if name in tensors else 'here'}")
    for name in sorted(wanted.keys() & tensors.keys()):
        there, here = tuple(tensors[name].shape), tuple(wanted[name].shape)
        if there != here:
            said.append(f"{name} is {there} in the file, {here} here")
    # Say the first three.
    if said:
        more = f" and {len(said) - 3} more" if len(said) > 3 else ""
        fault = "; ".join(said[:3]) + more
        raise ValueError(f"{path} does not fit {type(network).__name__}: {fault}")
