"""The two stages of a search, as one loop.

Stage 1 trains the network's weights and the blocks' logits together. A repair then fixes one scheme
for each tensor. Stage 2 trains the weights alone. Files, signals, progress bars and several
processes are not here: `runs.runner` adds them.

>>> search = Search(model, data, Target(weights=14), preset("quick/builtin"), accuracy=evaluate)
>>> for event in search.run():  # the model has blocks, and is calibrated
...     print(event["kind"], event["step"])
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import budget
from hmq_lab.budget import Target
from hmq_lab.graph.tracing import in_mode
from hmq_lab.placement import blocks
from hmq_lab.seeds import generator, stable_hash
from hmq_lab.settings import Settings

Event = dict[str, Any]


@dataclass
class Progress:
    """Where a search stands: all that changes on the way, except tensors. A checkpoint saves it.

    >>> Progress().stage
    1

    Args:
        stage: 1 (search) or 2 (fine-tuning).
        epoch: the epoch of this stage, from 0.
        batch: the batch of this epoch that comes next, from 0.
        loss_sum: the sum of the losses of this epoch so far.
        best_accuracy: of the epochs of stage 2, in percent of the validation images.
        bits_before_repair: the bit-width of each weight at the end of stage 1.
        results: what the record will say: accuracies and compressions.
    """

    stage: int = 1
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    best_accuracy: float = -1.0
    bits_before_repair: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=lambda: {"accuracy": {}})


class Search:
    """One search: the network it works on, what it aims at, and where it stands.

    Args:
        model: the network, with blocks and calibrated.
        data: has `train.batches(...)` and the split `validation` (see `data.Data`).
        target: the compression to reach.
        settings: every number of the search.
        accuracy: `accuracy(model, split)` returns the percent of images in their class.
        seed: the same seed gives the same search.
        teacher: the float network that stage 1 or 2 distils from, where the settings say so.
        device: where the images go.

    `runs.runner.ParallelSearch` overrides `part`, `label`, `wrap`, `backward` and `share_buffers`.
    """

    part = (0, 1)  # which part of each batch is this process's, of how many
    label: tuple[int, ...] = ()  # tells this process's random numbers from those of others

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        target: Target,
        settings: Settings,
        *,
        accuracy: Callable[[nn.Module, Any], float],
        seed: int = 0,
        teacher: nn.Module | None = None,
        device: torch.device | str = "cpu",
    ):
        self.model, self.data, self.target, self.settings = model, data, target, settings
        self.accuracy, self.seed, self.teacher, self.device = accuracy, seed, teacher, device
        self.blocks = blocks(model)
        self.float_state = float_state(model) if settings.final_weights == "float" else {}
        self.steps_per_epoch = len(data.train) // settings.batch_size
        self.epochs = {1: settings.search_epochs, 2: settings.final_epochs}

        self.progress = Progress()
        self.best: dict[str, Tensor] = {}  # state of the network after the best epoch of stage 2
        self.optimizer_state: dict | None = None  # from a checkpoint, for the next optimizer

    # ---------------------------------------------------------------------------- the loop

    def run(self) -> Iterator[Event]:
        """Yield what happens, from where the search stands to its end; see `Record` for events.

        The network may be saved after each event of kind "step" or "epoch".
        """
        if self.progress.stage == 1:
            yield from self.train()
            yield from self.select()
        yield from self.train()
        if self.best:
            self.model.load_state_dict(self.best)

    def train(self) -> Iterator[Event]:
        """The epochs of one stage that are left."""
        progress = self.progress
        self.begin_stage()
        # An epoch that a checkpoint cut short goes on with its next batch.
        while progress.epoch < self.epochs[progress.stage]:
            self.model.train()
            for images, labels in self.batches():
                yield from self.step(images, labels)
            self.share_buffers()
            yield self.end_epoch()

    def begin_stage(self) -> None:
        """The loss, and a new optimizer: of weights and, in stage 1, of logits."""
        searching, settings = self.progress.stage == 1, self.settings
        # Let go of the last stage's loss: DDP must not wrap a parameter that is being frozen.
        self.loss: nn.Module | None = None
        logits = [block.logits for block in self.blocks.values()]
        for parameter in logits:
            parameter.requires_grad_(searching)
        self.loss = self.wrap(Loss(self.model, settings))

        # Weight decay pulls on the network alone: on logits it would pull to equal probabilities.
        ids = set(map(id, logits))
        network = [p for p in self.model.parameters() if id(p) not in ids]
        rate = settings.network_learning_rate if searching else settings.final_learning_rate
        groups = [{"params": network, "lr": rate, "weight_decay": settings.weight_decay}]
        if searching:
            groups.append(
                {"params": logits, "lr": settings.logit_learning_rate, "weight_decay": 0.0}
            )
        self.optimizer = torch.optim.RAdam(groups, decoupled_weight_decay=True)
        # A run that goes on has moments from before.
        if self.optimizer_state is not None:
            self.optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None

    def step(self, images: Tensor, labels: Tensor) -> Iterator[Event]:
        """One step: yields its event; before it, in stage 1, now and then the tables."""
        progress, settings, step = self.progress, self.settings, self.steps_done
        event: Event = {"kind": "step", "stage": progress.stage, "epoch": progress.epoch}
        event["step"] = step
        # Dropout and its like draw from torch's own generator.
        torch.manual_seed(stable_hash(self.seed, "step", step, *self.label))

        # Stage 1 has schedules of temperature and target, stage 2 of the learning rate.
        if progress.stage == 1:
            between = self.epochs[1] * self.steps_per_epoch // settings.snapshots
            if step % max(1, between) == 0:
                yield self.tables()
            self.draw_noise(event)
        else:
            done = progress.epoch * self.steps_per_epoch + progress.batch
            steps = self.epochs[2] * self.steps_per_epoch
            self.optimizer.param_groups[0]["lr"] = settings.final_learning_rate_at(done, steps)

        # Gradients of the loss.
        self.optimizer.zero_grad()
        losses = self.backward(images, labels, event.get("target_rate")).tolist()
        names = ("loss", "task_loss", "expected_rate", "hinge")
        event |= dict(zip(names, losses, strict=False))
        event["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if not math.isfinite(event["loss"]):
            raise FloatingPointError(
                f"the loss is {event['loss']} at step {step} (stage {progress.stage}, epoch "
                f"{progress.epoch}); the first tensor that is not finite: "
                f"{first_not_finite(self.model, images)}"
            )

        # The step itself.
        self.optimizer.step()
        progress.batch += 1
        progress.loss_sum += event["loss"]
        yield event

    def draw_noise(self, event: Event) -> None:
        """Temperature and new Gumbel noise in every block; notes what the schedules say."""
        settings, step = self.settings, event["step"]
        event["temperature"] = settings.temperature(self.steps_per_epoch)(step)
        wanted = self.target.weights
        event["target_rate"] = settings.target_at(step, self.steps_per_epoch, wanted)
        noise = generator(self.seed, "noise", step, *self.label)
        for block in self.blocks.values():
            block.temperature.fill_(event["temperature"])
            block.resample(noise)

    def end_epoch(self) -> Event:
        """The event of an epoch: its mean loss, the accuracy, both compressions."""
        progress = self.progress
        # The accuracy is that of the selection: blocks use no noise in evaluation.
        accuracy = self.accuracy(self.model, self.data.validation)
        event = {"kind": "epoch", "stage": progress.stage, "epoch": progress.epoch}
        event["step"] = self.steps_done - 1
        event["training_loss"] = progress.loss_sum / self.steps_per_epoch
        event["validation_accuracy"] = accuracy
        event["expected_rate"] = budget.expected_compression(self.model).item()
        event["actual_rate"] = budget.rates(self.model).weights

        # Of equally good epochs the last is kept: it has trained the longest.
        if progress.stage == 2 and accuracy >= progress.best_accuracy:
            progress.best_accuracy = accuracy
            state = self.model.state_dict()
            self.best = {key: value.clone() for key, value in state.items()}
        # The next epoch begins.
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        return event

    def select(self) -> Iterator[Event]:
        """From stage 1 to stage 2: the selection, repaired where it misses the target, is fixed."""
        progress, settings = self.progress, self.settings
        # What stage 1 ends with.
        before = budget.rates(self.model)
        progress.bits_before_repair = budget.weight_bits(self.model)
        yield self.tables()

        # With final_weights "float" the weights go back to those of the float network; else this
        # loads nothing. The refill compares errors on the weights that stage 2 starts from.
        self.model.load_state_dict(self.float_state, strict=False)
        moves = budget.repair(self.model, self.target.weights, settings.refill)
        event: Event = {"kind": "repair", "step": self.steps_done}
        event["rate_before"] = before.weights
        event["rate_after"] = budget.rates(self.model).weights
        event["moves"] = [dataclasses.asdict(move) for move in moves]
        yield event

        # What stage 2 begins with.
        if settings.renew_statistics:
            torch.manual_seed(stable_hash(self.seed, "statistics", *self.label))
            batches = self.calibration_batches(augment=settings.augment)
            renew_statistics(self.model, (images for images, _ in batches))
            self.share_buffers()
        progress.results["rates_before_repair"] = dataclasses.asdict(before)
        accuracy = self.accuracy(self.model, self.data.validation)
        progress.results["accuracy"]["after_search"] = accuracy
        progress.stage, progress.epoch = 2, 0

    # ------------------------------------------------------------------------ what it needs

    @property
    def steps_done(self) -> int:
        """Steps taken so far, in both stages."""
        progress = self.progress
        before = self.epochs[1] if progress.stage == 2 else 0
        return (before + progress.epoch) * self.steps_per_epoch + progress.batch

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches of this epoch that are left; the two stages see different orders."""
        progress, settings = self.progress, self.settings
        before = self.epochs[1] if progress.stage == 2 else 0
        return self.data.train.batches(
            settings.batch_size,
            seed=self.seed,
            epoch=before + progress.epoch,
            start=progress.batch,
            augment=settings.augment,
            device=self.device,
            drop_last=True,
            part=self.part,
        )

    def calibration_batches(self, augment: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of as many training images as the settings say.

        Args:
            augment: vary them, as training does. Thresholds are set without. Statistics of batch
                norm need it: they are those of augmented images in the float network, too.
        """
        batch_size, there = self.settings.batch_size, len(self.data.train)
        wanted = min(self.settings.calibration_images or there, there)
        batches = self.data.train.batches(
            batch_size, seed=self.seed, augment=augment, device=self.device, part=self.part
        )
        return islice(batches, max(1, wanted // batch_size))

    def teacher_scores(self, images: Tensor) -> Tensor | None:
        """The float network's class scores (B, classes) where the loss asks for them, or None."""
        settings = self.settings
        loss = settings.search_loss if self.progress.stage == 1 else settings.final_loss
        if loss != "distillation" or self.teacher is None:
            return None
        # The teacher learns nothing.
        with torch.no_grad():
            return scores_in(settings.precision, self.teacher, images)

    def tables(self) -> Event:
        """The probabilities of every block, to three digits."""
        tables = {}
        for name, block in self.blocks.items():
            rows = block.probabilities().tolist()
            tables[name] = [[round(p, 3) or 0 for p in row] for row in rows]
        return {"kind": "tables", "step": self.steps_done, "tables": tables}

    def end(self) -> None:
        """Let go of the loss, and leave the logits as they were found: ready to learn."""
        self.loss = None
        for block in self.blocks.values():
            block.logits.requires_grad_(True)

    # ------------------------------------------------------- what several processes do otherwise

    def wrap(self, loss: nn.Module) -> nn.Module:
        """The loss as a step calls it."""
        return loss

    def backward(self, images: Tensor, labels: Tensor, target_rate: float | None) -> Tensor:
        """Add the gradients of one batch; returns what `Loss` does, as one tensor."""
        assert self.loss is not None
        # The first of the losses is their sum.
        losses = self.loss(images, labels, target_rate, self.teacher_scores(images))
        losses[0].backward()
        return torch.stack(losses).detach()

    def share_buffers(self) -> None:
        """Give every process the main one's statistics of batch norm."""


# ------------------------------------------------------------------------------------ the loss


class Loss(nn.Module):
    """What a step minimizes: the task loss plus, in stage 1, a price for missing the target.

    >>> loss = Loss(network, Settings())                                 # the network has blocks
    >>> total, task, expected_rate, hinge = loss(x, y, target_rate=8.0)  # stage 1
    >>> total, task = loss(x, y)                                         # stage 2

        total = task + gamma * hinge,    hinge = max(0, (target - R) / target)^2

    with R the compression under the expected bits. The task loss is the cross-entropy with the
    labels or, where the class scores of a teacher are given, the `distillation` loss. A module, so
    that DDP sees all that reaches a parameter: logits get gradients from both terms.
    Source: HMQ, section 3.4, and the authors' code.
    """

    def __init__(self, network: nn.Module, settings: Settings):
        super().__init__()
        self.network, self.settings = network, settings

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        target_rate: float | None = None,
        teacher_scores: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        # How wrong the network is.
        scores = scores_in(self.settings.precision, self.network, images)
        if teacher_scores is None:
            task = F.cross_entropy(scores, labels)
        else:
            softness = self.settings.distillation_temperature
            task = distillation(scores, teacher_scores, softness)
        if target_rate is None:
            return task, task
        # How far it is from the target, as far as expected bits say.
        expected = budget.expected_compression(self.network)
        hinge = torch.as_tensor(budget.hinge(expected, target_rate))
        return task + self.settings.gamma * hinge, task, expected, hinge


def distillation(scores: Tensor, teacher_scores: Tensor, temperature: float = 4.0) -> Tensor:
    """How far class probabilities are from a teacher's: a scalar, the mean over images.

        T^2 * sum over classes of p log(p / q)
        p = softmax(teacher_scores / T),  q = softmax(scores / T)

    >>> import torch
    >>> distillation(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
    tensor(0.)

    Args:
        scores: class scores (B, classes) of the network that learns.
        teacher_scores: those of the network it learns from, on the same images.
        temperature: T; the larger it is, the more the less probable classes count.

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015. HMQ does
    not distil: this loss is ours.
    """
    wanted = F.log_softmax(teacher_scores / temperature, dim=1)
    found = F.log_softmax(scores / temperature, dim=1)
    divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def scores_in(precision: str, network: nn.Module, images: Tensor) -> Tensor:
    """Class scores (B, classes) in float32, computed in "float32" or "bfloat16" (autocast)."""
    use_autocast = precision == "bfloat16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=use_autocast):
        return class_scores(network(images)).float()


def class_scores(output: Any) -> Tensor:
    """The class scores (B, classes) of a network, also from a named tuple with auxiliary heads.

    >>> class_scores(network(x)).argmax(1)

    Raises:
        ValueError: the output holds no class scores.
    """
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        what = type(output).__name__
        if isinstance(scores, Tensor):
            what = f"shape {tuple(scores.shape)}"
        raise ValueError(f"a network must return class scores, (images, classes), got {what}")
    return scores


# ------------------------------------------------------------------------- tensors of a network


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers that are not a block's: part of a state dict.

    >>> model.load_state_dict(float_state(model), strict=False)  # the blocks stay as they are
    """
    # A state dict has names only: tell the blocks' tensors by their identity.
    of_blocks: set[int] = set()
    for block in blocks(model).values():
        of_blocks |= {id(tensor) for tensor in (*block.parameters(), *block.buffers())}
    state = model.state_dict(keep_vars=True)
    own = {name: tensor for name, tensor in state.items() if id(tensor) not in of_blocks}
    return {name: tensor.detach().clone() for name, tensor in own.items()}


def renew_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean, over these batches, of each batch's mean and variance.

    >>> batches = data.train.batches(128, seed=0, augment=True)
    >>> renew_statistics(model, (x for x, _ in islice(batches, 40)))

    Statistics that were gathered under other schemes, or under the noise of the search, do not fit
    the selection. The images should vary as they did when the network was trained: with the
    built-in network, statistics of images that do not vary cost 12 points. Batch norms that are
    frozen, or that these images do not reach, keep theirs.
    The network runs as in training: that is where batch norm measures.
    """
    norms: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]

    sums: dict[Any, Tensor] = {}
    measured: list[Any] | None = None
    with in_mode(model, training=True), torch.no_grad():
        for images in batches:
            if measured is None:
                measured = _counting(norms, model, images)
            # From zero, one pass leaves a known part of the batch's own statistics.
            kept = [_buffers_of(norm) for norm in measured]
            for norm in measured:
                for buffer in norm.buffers():
                    buffer.zero_()
            model(images)
            for norm, before in zip(measured, kept, strict=True):
                calls = int(norm.num_batches_tracked)
                part = 1.0 if norm.momentum is None else 1 - (1 - norm.momentum) ** calls
                if calls and part > 0:
                    both = torch.stack([norm.running_mean, norm.running_var]).double() / part
                    sums[norm] = sums.get(norm, 0) + torch.cat([both, torch.ones_like(both[:1])])
                norm.load_state_dict(before, strict=False)

    # The mean over batches, where there were any.
    for norm, (mean, variance, count) in sums.items():
        norm.running_mean.copy_(mean / count)
        norm.running_var.copy_(variance / count)
        norm.num_batches_tracked.fill_(int(count[0]))


def _counting(norms: list[Any], model: nn.Module, images: Tensor) -> list[Any]:
    """The batch norms that one pass over these images measures: they count it.

    A frozen norm computes with its statistics, so it must keep them.
    """
    kept = [_buffers_of(norm) for norm in norms]
    for norm in norms:
        norm.num_batches_tracked.zero_()
    model(images)
    found = [norm for norm in norms if int(norm.num_batches_tracked) > 0]
    for norm, before in zip(norms, kept, strict=True):
        norm.load_state_dict(before, strict=False)
    return found


def _buffers_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def first_not_finite(model: nn.Module, images: Tensor) -> str:
    """The name of the first weight, or else activation, that holds NaN or infinities."""
    # A weight that is not finite spoils everything after it.
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"parameter {name}"
    if not images.isfinite().all():
        return "the input images"

    # Watch the activations of one forward pass.
    names: dict[nn.Module, str] = {}
    for name, block in blocks(model, "activation").items():
        names[block] = name
    found: list[str] = []

    def watch(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not inputs[0].isfinite().all():
            found.append(f"activation {names[block]}")

    hooks = [block.register_forward_pre_hook(watch) for block in names]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found[0] if found else "the loss itself"
