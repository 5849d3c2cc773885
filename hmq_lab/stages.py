"""The search: stage 1 trains weights and logits, a repair fixes the schemes, stage 2 trains the weights alone."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hmq_lab import _kernels as kernels
from hmq_lab import budget
from hmq_lab.block import HMQ, SearchSpace, check_space
from hmq_lab.budget import Target
from hmq_lab.data.datasets import Data, load
from hmq_lab.data.files import digest, read_tensors, the_only, write_tensors
from hmq_lab.graph.tracing import in_mode
from hmq_lab.hardware.folding import NORMS
from hmq_lab.hardware.lowering import unlowered
from hmq_lab.loss import Loss, class_scores, first_not_finite, scores_in, teacher_of
from hmq_lab.models.training import evaluate
from hmq_lab.placement import attach, blocks, calibrate, set_activation_bits, switched_off
from hmq_lab.runs import checkpoints, records
from hmq_lab.runs import processes as scale
from hmq_lab.runs.interruption import stop_signals
from hmq_lab.runs.records import Record
from hmq_lab.seeds import generator, stable_hash
from hmq_lab.settings import CHOOSING, Settings, preset, preset_for

CHECKPOINT, RECORD, NETWORK = "checkpoint.safetensors", "record.json", "network.safetensors"
WORTH_COMPILING = 10**10  # elements quantized in a run: saves as much time as compiling takes, about a minute


def search(
    model: nn.Module,
    data: Data | str,
    target: Target | float = 8.0,
    *,
    space: SearchSpace | None = None,
    settings: Settings | str | None = None,
    hardware: bool = False,
    seed: int = 0,
    name: str | None = None,
    device: torch.device | str = "cpu",
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    on_event: Callable[[dict], None] | None = None,
    accumulate: int = 1,
    shared_noise: bool = False,
) -> Record:
    """Search the bit-width and threshold of every tensor of a trained float network, fine-tune, and tell.

    >>> model = models.build("resnet8")
    >>> record = search(model, "builtin", Target(weights=8))
    >>> record.results["rates"]["weights"], record.results["accuracy"]["test"]
    >>> model                                                      # keeps its blocks, with the selected schemes

    data: a `Data`, or what `data.load` takes. target: `Target`, or a number, the rate of the weights.
    settings: `Settings`, or the name of a preset; by default quick/builtin, quick/cifar10, paper for
    imagenet, quick/folder for other pictures (`settings.preset_for`).
    hardware: see `attach`. seed: same seed, same run, on one machine. name: of the network, for the record.
    out: a folder for record.json, network.safetensors and, after each epoch, a checkpoint. resume: go on from it;
    overwrite: begin anew where there is one. The network comes back in training mode, its schemes fixed.
    on_event: called with every event as it happens (see `Record`), in every process.
    accumulate: parts that a step's pictures go through the network in, one after another, where memory is short.

    Under `accelerate launch`, `torchrun` or `notebook_launcher`, one search runs in all the processes together: each
    takes its part of every batch, gradients are averaged by DDP, and all return the same record; the main process
    writes the files, in a folder that all must see. Each process draws Gumbel noise of its own; shared_noise: the noise
    that its pictures would get in one process. How many processes and parts there are is no part of the configuration:
    a run may go on with others. Batch norm sees the pictures of one part of one process at a time, and its statistics
    are the main process's.

    A validation split cut from the training set chooses the epoch of stage 2 that is kept; the test set is looked at
    once, at the end. Ctrl-C finishes the step, saves, and returns a record with status "interrupted"; a signal to one
    process stops all of them after the same step.
    Raises ValueError for bad input, FileExistsError where `out` holds a run, BlockingIOError where another search
    writes to it, FloatingPointError naming the first tensor when a loss is not finite, scale.ProcessLost when another
    process of the search has ended.
    """
    data = data if isinstance(data, Data) else load(data)
    target = target if isinstance(target, Target) else Target(weights=target)
    space = check_space(space)
    if settings is None:
        settings = preset_for(data.name)
    settings = preset(settings) if isinstance(settings, str) else settings
    target.check_reachable(space)
    if len(data.train) < settings.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(data.train)} training pictures, got {settings.batch_size}"
        )
    for split in ("validation", "test"):
        if not len(getattr(data, split)):
            raise ValueError(f"a search needs {split} pictures, got a data set with 0 of them")
    if type(seed) is not int:
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    name, device = name or type(model).__name__, torch.device(device)
    if device.type == "meta":
        raise ValueError("device must be one that computes, such as cpu or cuda, got meta")
    team = scale.start(device)
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate must be a whole number from 1 on, got {accumulate!r}")
    if settings.batch_size % (team.number * accumulate):
        raise ValueError(
            f"batch_size must be a multiple of processes * accumulate, got {settings.batch_size} for "
            f"{team.number} * {accumulate}"
        )
    run = _Run(model, data, target, space, settings, hardware, seed, name, team, on_event, accumulate, shared_noise)
    out = None if out is None else Path(out)
    if out is not None and (out / "train").is_dir():
        raise ValueError(f"out must be a folder for the run, got {out}, which has a folder train, as pictures have")
    with the_only(out, "search") if out is not None and team.is_main else contextlib.nullcontext():
        return _begun(run, out, resume, overwrite, progress)


def _begun(run: _Run, out: Path | None, resume: bool, overwrite: bool, progress: bool) -> Record:
    """What `out` holds decides: begin, go on, or give back what is done."""
    if out is not None:
        there = [name for name in (CHECKPOINT, RECORD) if (out / name).exists()]
        if there and not (resume or overwrite):
            raise FileExistsError(f"{out} holds a run already ({there[0]}): resume it, overwrite it, or choose another")
        if resume and there == [RECORD]:
            return run.already_done(out)
        if not resume and run.team.is_main:
            for name in (RECORD, NETWORK, CHECKPOINT):
                (out / name).unlink(missing_ok=True)
    return run.go(out, resume, progress)


class _Run:
    """One search: what it is to do, and where it stands. All that changes on the way is in a checkpoint."""

    def __init__(
        self, model, data, target, space, settings, hardware, seed, name, team, on_event, accumulate, shared_noise
    ):
        self.model, self.data, self.target, self.space = model, data, target, space
        self.settings, self.seed, self.hardware, self.on_event = settings, seed, hardware, on_event
        self.team, self.device, self.accumulate, self.shared_noise = team, team.device, accumulate, shared_noise
        self.steps_per_epoch = len(data.train) // settings.batch_size
        self.epochs = {1: settings.search_epochs, 2: settings.final_epochs}
        self.configuration = {
            "model": name,
            "data": data.name,
            "weights": digest({}, model.state_dict()),
            "normalize": data.normalize,
            "pictures": [len(split) for split in (data.train, data.validation, data.test)],
            "target": dataclasses.asdict(target),
            "space": {"bits": list(space.bits), "thresholds": space.thresholds},
            "seed": seed,
            "hardware_mode": hardware,
            "settings": dataclasses.asdict(settings),
        }
        self.blocks: dict[str, HMQ] = {}
        self.stage, self.epoch, self.batch = 1, 0, 0  # the next step to take
        self.loss_sum = 0.0  # over this epoch's steps so far
        self.events: list[dict] = []
        self.results: dict = {"status": "running", "target": dataclasses.asdict(target)}
        self.bits_before_repair: dict[str, int] = {}
        self.best: dict[str, Tensor] = {}  # the network of stage 2 that validation prefers
        self.best_accuracy = -1.0
        self.timing: dict = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "seconds": 0.0, "epochs": []}
        self.compiling: bool | None = None  # decided once: compiled and eager sums differ in the last bits
        self.saved_optimizer: dict | None = None

    @property
    def step(self) -> int:
        """Steps taken so far, in both stages."""
        before = self.epochs[1] if self.stage == 2 else 0
        return (before + self.epoch) * self.steps_per_epoch + self.batch

    def go(self, out: Path | None, resume: bool, progress: bool) -> Record:
        try:
            return self.run(out, resume, progress)
        finally:
            self.loss = None  # DDP's hooks end with it
            for block in self.blocks.values():
                block.logits.requires_grad_(True)

    def run(self, out: Path | None, resume: bool, progress: bool) -> Record:
        self.clock = time.perf_counter()
        total = sum(self.epochs.values()) * self.steps_per_epoch
        progress = progress and self.team.is_main
        own = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(own), stop_signals() as stop:
            self.attach()
            if resume and out is not None and (out / CHECKPOINT).exists():
                checkpoints.restore(self, out / CHECKPOINT)
            else:
                self.calibrate()
            if self.compiling is None:
                self.compiling = self.worth_compiling(total)
            if self.compiling and progress:
                print(
                    "compiling the quantizer, which the first steps pay for (compile='off' does without)",
                    file=sys.stderr,
                )
            self.foretell(progress)
            bar = tqdm(total=total, initial=self.step, disable=not progress, unit="step", dynamic_ncols=True)
            with bar, kernels.compiled(self.compiling):
                for stage in (1, 2):
                    if self.stage == stage:
                        self.begin_stage()
                    while self.stage == stage and self.epoch < self.epochs[stage]:
                        self.train_epoch(bar, stop)
                        if self.batch == self.steps_per_epoch:
                            self.end_epoch(bar)
                        if out is not None:
                            self.tick()
                            if self.team.is_main:
                                checkpoints.save(self, out / CHECKPOINT)
                            self.team.wait()
                        if self.team.any(stop.is_set()):
                            return self.record("interrupted")
                    if self.stage == stage == 1:
                        self.select()
                self.finish()
        record = self.record("complete")
        if out is not None and self.team.is_main:
            write_tensors(out / NETWORK, self.model.state_dict(), {"configuration": self.configuration})
            records.write(record, out / RECORD)
            (out / CHECKPOINT).unlink(missing_ok=True)
        self.team.wait()
        return record

    def foretell(self, progress: bool) -> None:
        """What can be known before any step, in words: too few of them, or a network that integers cannot run."""
        if self.hardware and self.team.is_main and (why := unlowered(self.model)):
            warnings.warn(f"hardware mode, but integers alone cannot run this network: {why}", stacklevel=6)
        steps = self.epochs[1] * self.steps_per_epoch
        chooses = self.step == 0 and self.target.weights > budget.rates(self.model).weights
        if progress and chooses and 0 < steps * self.settings.logit_rate < CHOOSING:
            enough = math.ceil(100 * CHOOSING / steps) / 100
            print(
                f"{steps} steps at a logit_rate of {self.settings.logit_rate:g} choose next to nothing, and the repair "
                f"has to: more epochs, a smaller batch, or a logit_rate of {enough:g} or more",
                file=sys.stderr,
            )

    def attach(self) -> None:
        """Blocks on the network, and the activations' bit-widths from the target."""
        self.data = dataclasses.replace(
            self.data, **{split: getattr(self.data, split).to(self.device) for split in ("train", "validation", "test")}
        )
        self.model.to(self.device)
        if self.settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        sample = next(self.data.train.batches(min(self.settings.batch_size, 64), device=self.device))[0]
        self.configuration["picture"] = list(sample.shape[1:])
        self.example = sample[:2], torch.zeros(len(sample[:2]), dtype=torch.int64, device=self.device)
        with in_mode(self.model, training=False), torch.no_grad():
            outputs = class_scores(self.model(sample[:2])).shape[1]
        if outputs != len(self.data.classes):
            raise ValueError(f"the network has {outputs} outputs, the data {len(self.data.classes)} classes")
        losses = (self.settings.search_loss, self.settings.final_loss)
        self.teacher = teacher_of(self.model) if "distillation" in losses else None
        attach(self.model, self.space, sample, hardware=self.hardware, generator=generator(self.seed, "logits"))
        set_activation_bits(self.model, self.target.bits_of(budget.activation_sizes(self.model)))
        self.blocks = blocks(self.model)
        self.float_state = {} if self.settings.final_weights == "searched" else float_state(self.model)
        self.weights = budget.weight_sizes(self.model)
        if not self.weights:
            raise ValueError("the network has no weight of a convolution or fully connected layer: nothing to search")

    def calibrate(self) -> None:
        """The activations' thresholds from the training pictures, and the float network's accuracy to compare with."""
        calibrate(self.model, (x for x, _ in self.calibration_batches()), largest=self.team.largest)
        with switched_off(self.model):
            self.results["accuracy"] = {
                "float_validation": self.accuracy(self.data.validation),
                "float_test": self.accuracy(self.data.test),
            }

    def calibration_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of as many training pictures as the settings say, not augmented."""
        batch_size = self.settings.batch_size
        there = len(self.data.train)
        count = max(1, min(self.settings.calibration_pictures or there, there) // batch_size)
        batches = self.data.train.batches(batch_size, seed=self.seed, device=self.device, part=self.team.part)
        return itertools.islice(batches, count)

    def begin_stage(self) -> None:
        """The optimizer, and the loss as the processes call it: DDP's, made anew for each stage's set of parameters."""
        self.loss = None  # the wrapper of the stage before: parameters must not be frozen under one that lives
        self.optimizer = self.make_optimizer()
        for block in self.blocks.values():
            block.logits.requires_grad_(self.stage == 1)
        self.model.train()
        loss, target_rate = self.new_loss(), self.target.weights
        self.loss = self.team.prepare(loss, *self.example, target_rate if self.stage == 1 else None)

    def new_loss(self) -> Loss:
        settings = self.settings
        return Loss(self.model, settings.gamma, settings.precision, settings.distillation_temperature)

    def make_optimizer(self) -> torch.optim.Optimizer:
        settings, logits = self.settings, [block.logits for block in self.blocks.values()]
        known = set(map(id, logits))
        network = [p for p in self.model.parameters() if id(p) not in known]
        rate = settings.network_rate if self.stage == 1 else settings.final_rate
        groups = [{"params": network, "lr": rate, "weight_decay": settings.weight_decay}]
        if self.stage == 1:
            groups.append({"params": logits, "lr": settings.logit_rate, "weight_decay": 0.0})
        optimizer = torch.optim.RAdam(groups, decoupled_weight_decay=True)
        if self.saved_optimizer is not None:
            optimizer.load_state_dict(self.saved_optimizer)
            self.saved_optimizer = None
        return optimizer

    def train_epoch(self, bar: tqdm, stop: threading.Event) -> None:
        """The steps of this epoch that are left, or those until a signal asks to stop."""
        settings = self.settings
        epoch = self.epoch + (self.epochs[1] if self.stage == 2 else 0)
        batches = self.data.train.batches(
            settings.batch_size,
            seed=self.seed,
            epoch=epoch,
            start=self.batch,
            augment=settings.augment,
            device=self.device,
            drop_last=True,
            part=self.team.part,
        )
        self.model.train()
        for x, y in batches:
            self.train_step(x, y)
            bar.update()
            if self.team.any(stop.is_set()):
                break
        self.team.share_buffers(self.model)

    def train_step(self, x: Tensor, y: Tensor) -> None:
        settings, step = self.settings, self.step
        event = {"kind": "step", "stage": self.stage, "epoch": self.epoch, "step": step}
        torch.manual_seed(stable_hash(self.seed, "step", step, *self.own_label))  # for dropout and its like
        if self.stage == 1:
            if step % max(1, self.epochs[1] * self.steps_per_epoch // settings.snapshots) == 0:
                self.emit(self.tables())
            event |= self.set_search(step)
        else:
            steps = self.epochs[2] * self.steps_per_epoch
            done = self.epoch * self.steps_per_epoch + self.batch
            self.optimizer.param_groups[0]["lr"] = settings.final_rate_at(done, steps)

        self.optimizer.zero_grad()
        losses = self.team.mean(self.add_gradients(x, y, event.get("target_rate"))).tolist()
        event |= dict(zip(("loss", "task_loss", "expected_rate", "hinge"), losses, strict=False))
        event["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if not math.isfinite(event["loss"]):
            raise FloatingPointError(
                f"the loss is {event['loss']} at step {step} (stage {self.stage}, epoch {self.epoch}); "
                f"the first tensor that is not finite: {first_not_finite(self.model, x)}"
            )
        self.optimizer.step()
        self.batch += 1
        self.loss_sum += event["loss"]
        if step % settings.log_every == 0:
            self.emit(event)

    def add_gradients(self, x: Tensor, y: Tensor, target_rate: float | None) -> Tensor:
        """One pass forward and backward for each part of a step; returns what `Loss` does, means over the parts."""
        found = []
        for k, (part, labels) in enumerate(zip(x.chunk(self.accumulate), y.chunk(self.accumulate), strict=True)):
            if self.stage == 1:
                self.set_pictures(k, len(part), len(x))
            last = k == self.accumulate - 1
            wanted = self.teacher_scores(part)
            with contextlib.nullcontext() if last else self.team.only_adding(self.loss), scale.lost_processes():
                losses = self.loss(part, labels, target_rate, wanted)
                (losses[0] / self.accumulate).backward()
            found.append(torch.stack(losses).detach())
        return torch.stack(found).mean(0)

    def teacher_scores(self, x: Tensor) -> Tensor | None:
        """The float network's class scores for a step whose loss is the distance to them, or None."""
        loss = self.settings.search_loss if self.stage == 1 else self.settings.final_loss
        if loss != "distillation":
            return None
        with torch.no_grad():
            return scores_in(self.settings.precision, self.teacher, x)

    def set_pictures(self, k: int, count: int, own: int) -> None:
        """Tell the activations' blocks which pictures of a step come now: `count` of this process's `own`."""
        shared = self.shared_noise and self.team.number > 1
        if shared or self.accumulate > 1:
            before, total = (self.team.rank * own, self.team.number * own) if shared else (0, own)
            for name, block in self.blocks.items():
                if name not in self.weights:
                    block.look_at(before + k * count, count, total)

    @property
    def own_label(self) -> tuple[int, ...]:
        """What tells this process's random numbers from the others'; the main one's are those of a single process."""
        return () if self.team.is_main or self.shared_noise else (self.team.rank,)

    def set_search(self, step: int) -> dict[str, float]:
        """Temperature and noise of a step of stage 1; returns what the schedules say."""
        temperature = self.settings.temperature(self.steps_per_epoch)(step)
        noise = generator(self.seed, "noise", step, *self.own_label)
        for block in self.blocks.values():
            block.temperature.fill_(temperature)
            block.resample(noise)
        target = self.settings.target_rate(step, self.steps_per_epoch, self.target.weights)
        return {"temperature": temperature, "target_rate": target}

    def end_epoch(self, bar: tqdm) -> None:
        event = {"kind": "epoch", "stage": self.stage, "epoch": self.epoch, "step": self.step - 1}
        event["training_loss"] = self.loss_sum / self.steps_per_epoch
        event["validation_accuracy"] = accuracy = self.accuracy(self.data.validation)
        event["expected_rate"] = budget.expected_rate(self.model).item()
        event["actual_rate"] = actual = budget.rates(self.model).weights
        self.emit(event)
        if self.stage == 2 and accuracy >= self.best_accuracy:  # of equals the last: it has trained the longest
            self.best_accuracy = accuracy
            self.best = {key: value.clone() for key, value in self.model.state_dict().items()}
        bar.set_postfix_str(f"stage {self.stage}: {accuracy:.1f} % at rate {actual:.2f}")
        self.timing["epochs"].append({"stage": self.stage, "epoch": self.epoch, "until": self.tick()})
        self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, 0.0

    def select(self) -> None:
        """From stage 1 to stage 2: the selection, repaired where it misses the target, is fixed."""
        before = budget.rates(self.model)
        self.bits_before_repair = budget.weight_bits(self.model)
        self.emit(self.tables())
        self.model.load_state_dict(self.float_state, strict=False)
        moves = budget.repair(self.model, self.target.weights, self.settings.refill)
        event = {"kind": "repair", "step": self.step, "rate_before": before.weights}
        event["rate_after"] = budget.rates(self.model).weights
        self.emit(event | {"moves": [dataclasses.asdict(move) for move in moves]})
        self.results["rates_before_repair"] = dataclasses.asdict(before)
        if self.settings.renew_statistics:
            renew_statistics(self.model, (x for x, _ in self.calibration_batches()))
            self.team.share_buffers(self.model)
        self.results["accuracy"]["after_search"] = self.accuracy(self.data.validation)
        self.stage, self.epoch = 2, 0

    def finish(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best)
        self.results["accuracy"]["validation"] = self.accuracy(self.data.validation)
        self.results["accuracy"]["test"] = self.accuracy(self.data.test)

    def accuracy(self, split) -> float:
        return evaluate(self.model, split, device=self.device, team=self.team)

    def tables(self) -> dict:
        """The probabilities of every block, to three digits: an event."""
        tables = {}
        for name, block in self.blocks.items():
            tables[name] = [[round(p, 3) or 0 for p in row] for row in block.probabilities().tolist()]
        return {"kind": "tables", "step": self.step, "tables": tables}

    def emit(self, event: dict) -> None:
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def tick(self) -> float:
        """Seconds spent on this run so far; those before an interruption count."""
        now = time.perf_counter()
        self.timing["seconds"] += now - self.clock
        self.clock = now
        return round(self.timing["seconds"], 1)

    def worth_compiling(self, steps: int) -> bool:
        choice = self.settings.compile
        if choice != "auto":
            return choice == "on"
        elements = steps * self.settings.batch_size * sum(budget.activation_sizes(self.model).values())
        return elements >= WORTH_COMPILING and kernels.compiler_found()

    def record(self, status: str) -> Record:
        self.tick()
        self.results |= {"status": status, "steps": self.step}
        self.results["rates"] = dataclasses.asdict(budget.rates(self.model))
        tensors, floats = records.describe(self.model)
        for tensor in tensors:
            block = self.blocks[tensor["name"]]
            tensor["space"] = {"bits": block.bits.tolist(), "exponents": block.exponents.tolist()}
            tensor["bits_before_repair"] = self.bits_before_repair.get(tensor["name"], tensor["bits"])
        header = {"schema": records.SCHEMA, **self.configuration}
        how = {"processes": self.team.number, "accumulate": self.accumulate}
        header |= {"versions": records.versions(), "hardware": records.hardware(self.device) | how}
        return Record(header, tensors, floats, self.events, self.results, self.timing)

    def already_done(self, out: Path) -> Record:
        """The record of a run that is complete, its network loaded."""
        record = records.read(out)
        self.attach()
        checkpoints.check_same(self.configuration, record.header, out / RECORD)
        self.model.load_state_dict(read_tensors(out / NETWORK)[0])
        return record


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of an attached network's own parameters and buffers, without its blocks': a part of its state dict.

    >>> model.load_state_dict(float_state(model), strict=False)     # the blocks stay as they are
    """
    own = set()
    for block in blocks(model).values():
        own |= {id(tensor) for tensor in (*block.parameters(), *block.buffers())}
    state = model.state_dict(keep_vars=True)
    return {name: tensor.detach().clone() for name, tensor in state.items() if id(tensor) not in own}


def renew_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean over these batches of each batch's mean and variance.

    >>> renew_statistics(model, (x for x, _ in data.train.subset(range(1024)).batches(128)))

    Statistics that were gathered under other schemes, or under the noise of the search, do not fit the selection.
    Batch norms that these images do not reach keep what they have.
    """
    found = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    before = [(norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in found]
    with in_mode(model, training=False), torch.no_grad():
        for norm in found:
            norm.reset_running_stats()
            norm.momentum = None  # torch's sign for a plain mean over the batches
            norm.train()
        for x in batches:
            model(x)
    for norm, (momentum, buffers) in zip(found, before, strict=True):
        norm.momentum = momentum
        if not norm.num_batches_tracked:
            norm.load_state_dict(buffers, strict=False)
