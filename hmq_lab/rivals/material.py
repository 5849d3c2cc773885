"""What is at hand of a run: its record, its network, images to measure it on; and what is missing.

>>> found = gather("builtin-tiny_resnet8-w8-a8", count=50)
>>> found.can_measure, found.is_trained       # the shipped float weights, with the run's schemes
(True, False)
>>> gather("cifar10-resnet20-w16-a8").missing
'the weights are missing: give the folder of the run, or the float weights that it began with'
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hmq_lab import data, models, runs
from hmq_lab.data.files import digest, read_tensors
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.rivals.arena import Arena
from hmq_lab.rivals.game import held_images
from hmq_lab.runs import records
from hmq_lab.runs.loading import NETWORK, own_module
from hmq_lab.runs.records import Record
from hmq_lab.settings import complete

CHECKPOINT = "checkpoint.safetensors"
NO_WEIGHTS = (
    "the weights are missing: give the folder of the run, or the float weights that it began with"
)
# Training images from which statistics of batch norm are measured.
TRAINING = 512


@dataclass(frozen=True)
class Material:
    """What is at hand of a run.

    Args:
        record: of the run; of a stopped run, as far as it came.
        model: the network with its selection, in evaluation; None where it is missing.
        x: held images (N, C, H, W).
        y: their classes (N,).
        training: training images, augmented where the run's were: batch norm knows no others.
        is_trained: whether the weights are those after the fine-tuning, not the float ones that
            the search began with.
        missing: why nothing can be measured, in words; empty where it can.
    """

    record: Record
    model: nn.Module | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    training: Tensor | None = None
    is_trained: bool = False
    missing: str = ""

    @property
    def can_measure(self) -> bool:
        """Whether there are a network and images."""
        return self.model is not None


def gather(
    run: Path | str,
    network: nn.Module | None = None,
    *,
    weights: Path | str | None = None,
    count: int = 500,
    root: str | os.PathLike | None = None,
) -> Material:
    """Return what is at hand of a run.

    >>> gather("runs/builtin").is_trained                                 # doctest: +SKIP
    True

    Args:
        run: the folder of a run, a record, or the name of a record that comes with the package.
        network: for a run of your own module, that module, as in `runs.load`.
        weights: of the float network, as the search had them, for a record without a network.
        count: how many images of the validation split.
        root: where data lie.

    Raises:
        FileNotFoundError: where there is no run.
        ValueError: for files that are damaged, and for weights of another network.
    """
    # A name of the package, a folder of a run that ended, or one that was stopped.
    path = Path(run)
    if str(run) in records.names():
        return _began(records.recorded(str(run)), network, weights, count, root)
    if (path / CHECKPOINT).is_file() and not (path / "record.json").is_file():
        said = "the run was stopped: resume it, then its network can be measured"
        return Material(_stopped(path / CHECKPOINT), missing=said)
    record = records.read(path)
    if not (path / NETWORK).is_file():
        return _began(record, network, weights, count, root)

    # The network as the run left it.
    if network is None and own_module(record):
        said = f"the run is of your own module {record.header['model']}: give it as network="
        return Material(record, missing=said)
    model, record = runs.load(path, network)
    found = _with_images(Material(record), count, root)
    return found if found.missing else replace(found, model=model, is_trained=True)


def _began(
    record: Record,
    network: nn.Module | None,
    weights: Path | str | None,
    count: int,
    root: str | os.PathLike | None,
) -> Material:
    """Return a record with the float network that its search began with, if there is one."""
    # Weights of the package may be those of the record.
    header = record.header
    if weights is None and network is None:
        weights = _shipped(record)
    if (weights is None and network is None) or not record.is_complete:
        return Material(record, missing=NO_WEIGHTS)
    found = _with_images(Material(record), count, root)
    if found.missing:
        return found
    if network is None:
        network = models.build(header["model"], classes=header.get("outputs", 10))
    if weights is not None:
        load_weights(network, weights)

    # The selection of the record on these weights.
    assert found.x is not None and found.y is not None
    arena = Arena(network, found.x, found.y, header["model"], record)
    assert arena.rival is not None
    return replace(found, model=arena.network(arena.rival))


def _shipped(record: Record) -> Path | None:
    """Return the file of the package with the weights that a record's search began with."""
    if own_module(record):
        return None
    for path in SHIPPED.glob("*.safetensors"):
        tensors, _ = read_tensors(path)
        if digest({}, tensors) == record.header.get("weights"):
            return path
    return None


def _with_images(found: Material, count: int, root: str | os.PathLike | None) -> Material:
    """Return the material with images, or with the reason why there are none."""
    # The record says which data.
    header = found.record.header
    source: Any = header["data"]
    try:
        images = data.load(source, root=root, normalize=header.get("normalize"))
    except FileNotFoundError as error:
        return replace(found, missing=f"the images are missing: {error}")
    x, y = held_images(images, min(count, len(images.validation)))
    few = min(TRAINING, len(images.train))
    augment = header["settings"]["augment"]
    training, _ = next(iter(images.train.batches(few, seed=0, augment=augment)))
    return replace(found, x=x, y=y, training=training)


def _stopped(path: Path) -> Record:
    """Return the record of a run that was stopped, from its checkpoint."""
    # It has the same parts; the schemes are not selected yet.
    _, header = read_tensors(path)
    configuration = dict(header["configuration"])
    configuration["settings"] = complete(configuration["settings"])
    results = {"status": "interrupted", "target": configuration["target"], **header["results"]}
    return Record(configuration, events=header["events"], results=results, timing=header["timing"])
