"""Float training, which comes before a search, and the accuracy of a network, which judges it.

>>> from hmq_lab import data, models
>>> from hmq_lab.models import training
>>> images = data.load("builtin")
>>> net = models.build("tiny_resnet8")
>>> history = training.train(net, images, epochs=2, seed=0)  # doctest: +SKIP
>>> training.evaluate(net, images.test)  # doctest: +SKIP
10.9
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import models
from hmq_lab.data.datasets import Data, load
from hmq_lab.data.images import Folder, Split
from hmq_lab.graph.tracing import in_mode
from hmq_lab.models import norms
from hmq_lab.models.weights import load_weights, read_metadata
from hmq_lab.seeds import stable_hash
from hmq_lab.stages import class_scores


class Team(Protocol):
    """What `evaluate` needs of several processes: see `hmq_lab.runs.processes`."""

    number: int

    @property
    def part(self) -> tuple[int, int]:
        """Which process this is, of how many."""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    team: Team | None = None,
) -> float:
    """Percent of a split's images that the model puts into their class.

    >>> evaluate(net, images.validation)  # doctest: +SKIP
    95.05

    In evaluation mode and without gradients. Afterwards every module is in the mode it was in
    before.

    Args:
        model: returns class scores (B, classes), or a named tuple with `logits`.
        split: images and labels.
        batch_size: images at a time in each process; None is 500, and 100 of images in files.
        device: where to compute; None is where the model's parameters are.
        team: the processes that each take their part; all get the same answer. None is this process
            alone.

    Raises:
        ValueError: the split is empty, or the model returns no class scores.
    """
    if len(split) == 0:
        raise ValueError("the split is empty: there are no images to evaluate the model on")
    device = next(model.parameters()).device if device is None else device
    batch_size = (100 if isinstance(split, Folder) else 500) if batch_size is None else batch_size
    processes, part = (1, (0, 1)) if team is None else (team.number, team.part)

    # The right answers of this process, then of all.
    right = torch.zeros((), dtype=torch.int64, device=device)
    with in_mode(model, training=False), torch.no_grad():
        for x, y in split.batches(batch_size * processes, device=device, part=part):
            right += (class_scores(model(x)).argmax(dim=1) == y).sum()
    total = right if team is None else team.total(right)
    return 100 * total.item() / len(split)


def train(
    model: nn.Module,
    data: Data,
    *,
    epochs: int = 60,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    label_smoothing: float = 0.0,
    freeze_norms: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train in place, with momentum and a learning rate that rises, then falls to zero.

    >>> history = train(model, data, epochs=1, progress=print)  # doctest: +SKIP
    {'epoch': 1, 'loss': 2.2871, 'accuracy': 17.3, 'seconds': 1.9}

    Same seed and model, same result, on one machine and number of threads.

    Args:
        model: the network.
        data: images, which are brought to the channels that the network takes.
        epochs: passes over the training images.
        learning_rate: its peak.
        weight_decay: added to the gradient, times the weight.
        batch_size: images in a step.
        label_smoothing: share of the target that is spread over all classes.
        freeze_norms: batch norms keep the statistics they have, as for weights into which batch
            norm was folded.
        seed: of the order of the images, of their augmentation and of dropout.
        device: where to compute.
        progress: called with the entry of each epoch as it comes.

    Returns:
        One dict for each epoch: its number, the mean training loss, the accuracy on the validation
        images (None without any) and the seconds it took.

    Raises:
        ValueError: for settings that make no sense.
        FloatingPointError: the loss is no number any more.
    """
    _check(data, epochs, learning_rate, batch_size)
    data = data.for_network(model)
    # Convolutions are fastest in this layout.
    model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for norm in norms.norms(model) if freeze_norms else ():
        norm.eval()

    # The optimizer, and its learning rate step by step. A last batch that is not full would weigh
    # its images more.
    steps = len(data.train) // batch_size
    optimizer = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step / (epochs * steps))
    )
    torch.manual_seed(stable_hash(seed, "dropout"))

    history: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        batches = data.train.batches(
            batch_size, seed=seed, epoch=epoch, augment=True, device=device, drop_last=True
        )
        # One step for each batch.
        for x, y in batches:
            loss = F.cross_entropy(class_scores(model(x)), y, label_smoothing=label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()

        # What the epoch came to.
        mean = round(total.item() / steps, 4)
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss is {mean} in epoch {epoch}: lower learning_rate={learning_rate}"
            )
        accuracy = evaluate(model, data.validation, device=device) if len(data.validation) else None
        seconds = round(time.perf_counter() - started, 2)
        history.append({"epoch": epoch, "loss": mean, "accuracy": accuracy, "seconds": seconds})
        if progress:
            progress(history[-1])
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return history


def _check(data: Data, epochs: int, learning_rate: float, batch_size: int) -> None:
    """Raise a ValueError for settings that make no sense."""
    # Numbers that no training can use.
    if epochs < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(
            f"epochs must be 1 or more and learning_rate positive, got {epochs} and {learning_rate}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    # Batches that are not full are left out, so one must be full.
    if len(data.train) < batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(data.train)} training images, got {batch_size}"
        )


def one_cycle(t: float, rise: float = 0.2) -> float:
    """The learning rate at the time t, from 0 to 1, over its peak: up a line, down a cosine.

    >>> [round(one_cycle(t), 2) for t in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if t < rise:
        return t / rise
    return (1 + math.cos(math.pi * (t - rise) / (1 - rise))) / 2


def begin_from(
    model: nn.Module,
    weights: str | os.PathLike,
    data: Data,
    *,
    outputs: Sequence[int] | None = None,
    new_head: bool = False,
    device: torch.device | str = "cpu",
) -> None:
    """Load weights to train on with: `load_weights`, and statistics for batch norms that have none.

    >>> begin_from(net, "mobilenet_v2.safetensors", data, outputs=[0, 217, 482])  # doctest: +SKIP

    Batch norm that was folded into the weights leaves norms that only add a bias. It is taken out
    again, with the statistics of a thousand training images: see `norms.unfold`.

    Args:
        outputs: the rows of `load_weights`.
        weights, new_head: see `load_weights`.
        data: the training images.
        device: where to compute.
    """
    # All weights first, then statistics where there are none.
    load_weights(model, weights, rows=outputs, new_head=new_head)
    if norms.are_folded(model):
        model.to(device)
        some = data.train.subset(range(min(1000, len(data.train))))
        norms.unfold(model, (x for x, _ in some.batches(50, device=device)))


def train_weights(
    model: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    root: str | os.PathLike | None = None,
    download: bool = False,
    normalize: str | None = None,
    image_size: int | None = None,
    weights: str | os.PathLike | None = None,
    outputs: Sequence[int] | None = None,
    command: str = "",
    **options: Any,
) -> dict[str, object]:
    """Build a network, train it and write its weights to a safetensors file: `hmq-lab train`.

    >>> about = train_weights("tiny_resnet8", "builtin", "w.safetensors")  # doctest: +SKIP
    >>> about["accuracy"]  # percent of the test images  # doctest: +SKIP
    94.1

    Args:
        model: a name that `models.build` knows.
        source, root, download, normalize, image_size: see `data.load`.
        out: the file to write.
        seed: of the initial weights and of the training.
        weights: begin from this file instead of at random. The last layer begins anew where the
            classes are others, unless `outputs` names the output that each class has in it. See
            `begin_from` for folded batch norm.
        outputs: see `begin_from`.
        command: what was typed, to be kept with the weights.
        options: those of `train`.

    Returns:
        The file's metadata: what it takes to train and to use the weights again.

    Raises:
        ValueError: and whatever `load`, `build`, `train` and `save_weights` raise.
    """
    # Outputs name rows of a file.
    if outputs is not None and weights is None:
        raise ValueError("outputs are those of a file of weights: none is given")
    # Images are normalized as the weights were trained.
    normalize = normalize or (read_metadata(weights).get("normalize") if weights else None)
    data = load(source, root=root, download=download, normalize=normalize, image_size=image_size)

    # Weights at random, or from a file.
    torch.manual_seed(stable_hash(seed, "init"))
    network = models.build(model, classes=len(data.classes))
    started = time.perf_counter()
    if weights is not None:
        device = options.get("device", "cpu")
        begin_from(network, weights, data, outputs=outputs, new_head=True, device=device)

    history = train(network, data, seed=seed, **options)
    # What it takes to train and to use the weights again.
    about: dict[str, object] = {
        "model": model,
        "data": data.name,
        "classes": " ".join(data.classes),
        "normalize": data.normalize,
        "seed": seed,
        "epochs": len(history),
        "image_size": data.train[0][0].shape[-1],
        "accuracy": evaluate(network, data.test),
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "command": command,
    }
    models.save_weights(network, out, about)
    return about
