"""Plain float training, and the accuracy of a network: what comes before a search, and what judges it.

>>> from hmq_lab import data, models
>>> from hmq_lab.models import training
>>> pictures = data.load("builtin")
>>> net = models.build("tiny_resnet8")
>>> history = training.train(net, pictures, epochs=2, seed=0)  # doctest: +SKIP
>>> training.evaluate(net, pictures.test)  # doctest: +SKIP
10.9
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import models
from hmq_lab.data.datasets import Data, Folder, Pictures, load
from hmq_lab.graph.tracing import in_mode
from hmq_lab.loss import class_scores
from hmq_lab.models import norms
from hmq_lab.models.weights import load_weights, read_metadata
from hmq_lab.runs.processes import SingleProcess
from hmq_lab.seeds import stable_hash


def evaluate(
    model: nn.Module,
    split: Pictures | Folder,
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    team: SingleProcess | None = None,
) -> float:
    """Percent of a split's pictures that the model puts into their class.

    >>> evaluate(net, pictures.validation)  # doctest: +SKIP
    95.05

    In evaluation mode and without gradients; afterwards every module is back in the mode it was in, also where some are
    frozen. batch_size: None is 500, and 100 of large pictures. device: None is where the model's parameters are.
    team: the processes (see `scale`) that each take their part, batch_size pictures at a time; every picture counts
    once, and all get the same answer. Raises ValueError for an empty split.
    """
    if len(split) == 0:
        raise ValueError("the split is empty: there are no pictures to evaluate the model on")
    device = next(model.parameters()).device if device is None else device
    batch_size = (100 if isinstance(split, Folder) else 500) if batch_size is None else batch_size
    team = team or SingleProcess(device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    with in_mode(model, training=False), torch.no_grad():
        for x, y in split.batches(batch_size * team.number, device=device, part=team.part):
            right += (model(x).argmax(dim=1) == y).sum()
    return 100 * team.total(right).item() / len(split)


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
    progress: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train in place, with momentum and a learning rate that rises for a fifth of the time and falls to zero.

    >>> history = train(model, data, epochs=1, progress=print)  # doctest: +SKIP
    {'epoch': 1, 'loss': 2.2871, 'accuracy': 17.3, 'seconds': 1.9}

    Returns one dict per epoch: its number, the mean training loss, the accuracy on the validation pictures (None
    without any) and the seconds it took; `progress` is given each as it comes. freeze_norms: batch norms go on with the
    statistics they have, as networks do into whose weights batch norm was folded. Same seed and model, same result, on
    one machine and number of threads. Raises ValueError for settings that make no sense and FloatingPointError when the
    loss stops being a number.
    """
    if epochs < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(f"epochs must be 1 or more and learning_rate positive, got {epochs} and {learning_rate}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if len(data.train) < batch_size:
        raise ValueError(f"batch_size must be at most the {len(data.train)} training pictures, got {batch_size}")
    model.to(device, memory_format=torch.channels_last).train()  # the layout convolutions are fastest in
    for norm in norms.norms(model) if freeze_norms else ():
        norm.eval()
    settings = {"lr": learning_rate, "momentum": 0.9, "nesterov": True, "weight_decay": weight_decay}
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    steps = len(data.train) // batch_size  # the last batch, when not full, would weigh its pictures more
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step / (epochs * steps)))
    torch.manual_seed(stable_hash(seed, "dropout"))
    history = []
    for epoch in range(1, epochs + 1):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        order = {"seed": seed, "epoch": epoch, "augment": True, "drop_last": True}
        for x, y in data.train.batches(batch_size, device=device, **order):
            loss = F.cross_entropy(class_scores(model(x)), y, label_smoothing=label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        entry = {"epoch": epoch, "loss": round(total.item() / steps, 4)}
        if not math.isfinite(entry["loss"]):
            raise FloatingPointError(
                f"the loss is {entry['loss']} in epoch {epoch}: lower learning_rate={learning_rate}"
            )
        entry["accuracy"] = evaluate(model, data.validation, device=device) if len(data.validation) else None
        entry["seconds"] = round(time.perf_counter() - started, 2)
        history.append(entry)
        if progress:
            progress(entry)
    model.to(memory_format=torch.contiguous_format)
    return history


def one_cycle(t: float, rise: float = 0.2) -> float:
    """The learning rate's share of its peak at the time t, from 0 to 1: up a straight line, down a cosine.

    >>> [round(one_cycle(t), 2) for t in (0, 0.1, 0.2, 0.6, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return t / rise if t < rise else (1 + math.cos(math.pi * (t - rise) / (1 - rise))) / 2


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

    Batch norm that was folded into the weights leaves norms that only add a bias. It is taken out again, with the
    statistics of a thousand training pictures: see `norms.unfold`.
    """
    load_weights(model, weights, rows=outputs, new_head=new_head)
    if norms.are_folded(model):
        model.to(device)
        batches = data.train.subset(range(min(1000, len(data.train)))).batches(50, device=device)
        norms.unfold(model, (x for x, _ in batches))


def train_weights(
    model: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    root: str | os.PathLike | None = None,
    download: bool = False,
    normalize: str | None = None,
    picture_size: int | None = None,
    weights: str | os.PathLike | None = None,
    outputs: Sequence[int] | None = None,
    command: str = "",
    **options,
) -> dict[str, object]:
    """Build a network, train it on a data set and write its weights to a safetensors file: `hmq-lab train`.

    >>> about = train_weights("tiny_resnet8", "builtin", "weights.safetensors", epochs=60)  # doctest: +SKIP
    >>> about["accuracy"]  # percent of the test pictures  # doctest: +SKIP
    94.1

    weights: begin from this file instead of at random, in the network that `models.build` makes for it; its last layer
    begins anew where the classes are others, unless `outputs` names the one that each class has in it; see `begin_from`
    for batch norm that was folded. options: those of `train`. command: what was typed, to be
    kept with the weights. Returns the file's metadata: what
    it takes to train and to use the weights again. Raises what `load`, `build`, `train` and `save_weights` raise.
    """
    if outputs is not None and weights is None:
        raise ValueError("outputs are those of a file of weights: none is given")
    normalize = normalize or (read_metadata(weights).get("normalize") if weights else None)
    data = load(source, root=root, download=download, normalize=normalize, picture_size=picture_size)
    torch.manual_seed(stable_hash(seed, "init"))
    network = models.build(model, classes=len(data.classes))
    started = time.perf_counter()
    if weights is not None:
        begin_from(network, weights, data, outputs=outputs, new_head=True, device=options.get("device", "cpu"))
    history = train(network, data, seed=seed, **options)
    about = {
        "model": model,
        "data": data.name,
        "classes": " ".join(data.classes),
        "normalize": data.normalize,
        "seed": seed,
        "epochs": len(history),
        "picture_size": data.train.size if isinstance(data.train, Folder) else data.train.images.shape[-1],
        "accuracy": evaluate(network, data.test),
        "seconds": round(time.perf_counter() - started),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "command": command,
    }
    models.save_weights(network, out, about)
    return about
