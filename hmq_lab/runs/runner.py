"""A search with files, signals, a progress bar and several processes around it.

`stages.Search` is the method. `Recorder` keeps what happens, `Runner` saves it and goes on from it.

>>> from hmq_lab import search
>>> record = search(models.build("resnet8"), "builtin", target=8, out="runs/builtin")
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hmq_lab import _kernels as kernels
from hmq_lab import budget
from hmq_lab.block import HMQ, SearchSpace, check_space
from hmq_lab.budget import Target
from hmq_lab.data.datasets import Data, load
from hmq_lab.data.files import digest, exclusive_lock, read_tensors, write_tensors
from hmq_lab.graph.folding import fold
from hmq_lab.graph.tracing import in_mode
from hmq_lab.hardware.lowering import unlowered
from hmq_lab.models.training import evaluate
from hmq_lab.network import blocks
from hmq_lab.placement import attach, calibrate, set_activation_bits, switched_off
from hmq_lab.quantizer import Scheme
from hmq_lab.runs import checkpoints, records
from hmq_lab.runs import processes as scale
from hmq_lab.runs.interruption import stop_signals
from hmq_lab.runs.records import Record
from hmq_lab.seeds import generator
from hmq_lab.settings import CHOOSING, Settings, as_settings
from hmq_lab.stages import Event, Search, class_scores

CHECKPOINT, RECORD = "checkpoint.safetensors", "record.json"
NETWORK = "network.safetensors"
# From so many quantized elements on, compiling (about a minute) saves more time than it takes.
WORTH_COMPILING = 10**10
SPLITS = ("train", "validation", "test")


@runtime_checkable
class Chosen(Protocol):
    """A selection that was made by hand, such as `explorers.Selection`."""

    @property
    def schemes(self) -> Mapping[str, Scheme]:
        """The schemes of the tensors that were chosen, by name."""

    @property
    def target(self) -> Target:
        """What a search must reach to be as small."""


def search(
    model: nn.Module,
    data: Data | str,
    target: Target | Chosen | float = 8.0,
    *,
    space: SearchSpace | None = None,
    settings: Settings | Mapping[str, Any] | str | None = None,
    hardware: bool = False,
    seed: int = 0,
    name: str | None = None,
    device: torch.device | str = "cpu",
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    on_event: Callable[[Event], None] | None = None,
    accumulate: int = 1,
    shared_noise: bool = False,
) -> Record:
    """Search bit-width and threshold of every tensor of a trained float network, then fine-tune.

    >>> model = models.build("resnet8")
    >>> record = search(model, "builtin", Target(weights=8))
    >>> record.results["rates"]["weights"], record.results["accuracy"]["test"]
    >>> model                                  # keeps its blocks, with the selected schemes

    Args:
        model: the float network. It comes back in training mode, with blocks, its schemes fixed.
        data: a `Data`, or what `data.load` takes.
        target: a `Target`, a number (the compression of the weights), or a selection that was made
            by hand (`explorers.Selection`): the search begins at its schemes, and must become as
            small. With the setting search_epochs=0 it keeps them, and trains the weights alone.
        space: the bit-widths and thresholds to choose from.
        settings: `Settings`, the name of a preset, or a dict of changes to the preset of the data
            (see `settings.preset_for`), which is the default. The dict may name another "preset".
        hardware: see `attach`.
        seed: the same seed gives the same run, on one machine.
        name: of the network, for the record.
        device: where to compute.
        out: a folder for record.json, network.safetensors and, after each epoch, a checkpoint.
        resume: go on from the checkpoint in `out`.
        overwrite: begin anew where `out` holds a run.
        progress: show a progress bar.
        on_event: called with every event as it happens (see `Record`), in every process.
        accumulate: in how many parts, one after another, the images of a step go through the
            network; more parts need less memory.
        shared_noise: every process draws the noise that its images would get in one process.

    Returns:
        The record. Its status is "interrupted" after Ctrl-C, which finishes the step and saves.

    Raises:
        ValueError: bad input.
        FileExistsError: `out` holds a run.
        BlockingIOError: another search writes to `out`.
        FloatingPointError: a loss is not finite; names the first such tensor.
        scale.ProcessLost: another process of the search has ended.

    A validation split that is cut from the training set chooses the epoch of stage 2 that is kept.
    The test set is looked at once, at the end.

    Under `accelerate launch`, `torchrun` or `notebook_launcher`, one search runs in all processes
    together. Each takes its part of every batch, DDP averages the gradients, and all return the
    same record; the main process writes the files, in a folder that all must see. The number of
    processes and parts is not in the configuration: a run may go on with others. Batch norm sees
    the images of one part in one process, and its statistics are the main process's. A signal to
    one process stops all of them after the same step.
    """
    # Names become what they name.
    data = data if isinstance(data, Data) else load(data)
    data = data.for_network(model)
    begin_at: Mapping[str, Scheme] = {}
    if isinstance(target, Chosen):
        begin_at, target = target.schemes, target.target
    target = target if isinstance(target, Target) else Target(weights=target)
    space = check_space(space)
    settings = as_settings(settings, data.name)

    # Refuse what cannot work before anything is changed.
    target.check_reachable(space)
    _check_data(data, settings)
    if type(seed) is not int:
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    device = torch.device(device)
    if device.type == "meta":
        raise ValueError("device must be one that computes, such as cpu or cuda, got meta")
    team = scale.start(device)
    _check_parts(accumulate, settings.batch_size, team.number)
    out = None if out is None else Path(out)
    if out is not None and (out / "train").is_dir():
        raise ValueError(
            f"out must be a folder for the run, got {out}, which has a folder train, as images have"
        )

    runner = Runner(
        model,
        data,
        target,
        space,
        settings,
        hardware=hardware,
        seed=seed,
        name=name or type(model).__name__,
        team=team,
        accumulate=accumulate,
        shared_noise=shared_noise,
        out=out,
        progress=progress and team.is_main,
        on_event=on_event,
        begin_at=begin_at,
    )
    # One search at a time writes to a folder.
    alone: contextlib.AbstractContextManager = contextlib.nullcontext()
    if out is not None and team.is_main:
        alone = exclusive_lock(out, "search")
    with alone:
        return runner.start(resume, overwrite)


def _check_data(data: Data, settings: Settings) -> None:
    if len(data.train) < settings.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(data.train)} training images, got {settings.batch_size}"
        )
    for split in ("validation", "test"):
        if not len(getattr(data, split)):
            raise ValueError(f"a search needs {split} images, got a data set with 0 of them")


def _check_parts(accumulate: int, batch_size: int, processes: int) -> None:
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate must be a whole number from 1 on, got {accumulate!r}")
    if batch_size % (processes * accumulate):
        raise ValueError(
            f"batch_size must be a multiple of processes * accumulate, got {batch_size} for {processes} * {accumulate}"
        )


# --------------------------------------------------------------------------------- the recorder


class Recorder:
    """What a run keeps for its record: events, every so-manieth step among them, and times.

    Args:
        log_every: steps between two "step" events.
        on_event: called with each event that is kept.
    """

    def __init__(self, log_every: int, on_event: Callable[[Event], None] | None = None):
        self.log_every, self.on_event = log_every, on_event
        self.events: list[Event] = []
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.timing: dict[str, Any] = {"started": started, "seconds": 0.0, "epochs": []}
        self.clock = time.perf_counter()

    def tick(self) -> float:
        """Seconds spent on this run so far; those before an interruption count."""
        now = time.perf_counter()
        self.timing["seconds"] += now - self.clock
        self.clock = now
        return round(self.timing["seconds"], 1)

    def add(self, event: Event) -> None:
        """Keep an event, and pass it on."""
        # Of the steps only every so-manieth is kept.
        if event["kind"] == "step" and event["step"] % self.log_every:
            return
        self.events.append(event)
        if event["kind"] == "epoch":
            entry = {key: event[key] for key in ("stage", "epoch")}
            self.timing["epochs"].append(entry | {"until": self.tick()})
        if self.on_event is not None:
            self.on_event(event)

    def record(self, search: Search, configuration: dict, machine: dict, status: str) -> Record:
        """The record of the search as it stands."""
        # Results: what the search found, and where it stands.
        self.tick()
        progress, model = search.progress, search.model
        results = {"status": status, "target": configuration["target"], **progress.results}
        results["steps"] = search.steps_done
        results["rates"] = dataclasses.asdict(budget.rates(model))

        # Of each tensor what it was chosen from, and what it had before the repair.
        tensors, floats = records.describe(model)
        for tensor in tensors:
            block = search.blocks[tensor["name"]]
            exponents = block.exponents.tolist()
            tensor["space"] = {"bits": block.bits.tolist(), "exponents": exponents}
            before = progress.bits_before_repair.get(tensor["name"], tensor["bits"])
            tensor["bits_before_repair"] = before

        # The header says what was asked for, and by what it was computed.
        header = {"schema": records.SCHEMA, **configuration}
        header |= {"versions": records.versions(), "hardware": machine}
        return Record(header, tensors, floats, self.events, results, self.timing)


# ----------------------------------------------------------------------------------- the runner


class ParallelSearch(Search):
    """A search in one or several processes, each batch in one or several parts.

    Args:
        team: the processes (see `runs.processes`).
        accumulate: in how many parts a process computes its images.
        shared_noise: draw the noise of a single process.
        example: two images and their labels, for DDP to look at the gradients.
    """

    def __init__(
        self,
        *args: Any,
        team: scale.SingleProcess,
        accumulate: int,
        shared_noise: bool,
        example: tuple[Tensor, Tensor],
        **options: Any,
    ):
        super().__init__(*args, device=team.device, **options)
        self.team, self.accumulate, self.example = team, accumulate, example
        self.shared_noise = shared_noise and team.number > 1
        self.part = team.part
        # The main process draws what a single one draws.
        self.label = () if team.is_main or shared_noise else (team.rank,)

    def wrap(self, loss: nn.Module) -> nn.Module:
        # DDP looks which parameters get a gradient; logits do with a target only.
        target_rate = self.target.weights if self.progress.stage == 1 else None
        return self.team.prepare(loss, *self.example, target_rate)

    def backward(self, images: Tensor, labels: Tensor, target_rate: float | None) -> Tensor:
        assert self.loss is not None
        parts = zip(images.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True)
        found = []
        for k, (part, classes) in enumerate(parts):
            self.choose_noise(k, len(part), len(images))
            is_last = k == self.accumulate - 1
            teacher_scores = self.teacher_scores(part)
            # Gradients are sent once, after the last part.
            sending = contextlib.nullcontext() if is_last else self.team.only_adding(self.loss)
            with sending, scale.lost_processes():
                losses = self.loss(part, classes, target_rate, teacher_scores)
                (losses[0] / self.accumulate).backward()
            found.append(torch.stack(losses).detach())
        return self.team.mean(torch.stack(found).mean(0))

    def choose_noise(self, k: int, count: int, own: int) -> None:
        """Tell the activations' blocks which images come now: `count` of this process's `own`."""
        if self.progress.stage == 2 or not (self.shared_noise or self.accumulate > 1):
            return
        # Which images of how many, in this process or in all.
        before, total = 0, own
        if self.shared_noise:
            before, total = self.team.rank * own, self.team.number * own
        # A weight's samples belong to its channels: they know no images.
        weights = budget.weight_sizes(self.model)
        for name, block in self.blocks.items():
            if name not in weights:
                block.set_batch_slice(before + k * count, count, total)

    def share_buffers(self) -> None:
        self.team.share_buffers(self.model)


class Runner:
    """One run of a search: it attaches blocks, calibrates, goes through the stages and saves.

    The arguments are those of `search`, checked.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        target: Target,
        space: SearchSpace,
        settings: Settings,
        *,
        hardware: bool,
        seed: int,
        name: str,
        team: scale.SingleProcess,
        accumulate: int,
        shared_noise: bool,
        out: Path | None,
        progress: bool,
        on_event: Callable[[Event], None] | None,
        begin_at: Mapping[str, Scheme],
    ):
        self.model, self.data, self.target, self.space = model, data, target, space
        self.settings, self.hardware, self.seed, self.team = settings, hardware, seed, team
        self.accumulate, self.shared_noise = accumulate, shared_noise
        self.out, self.progress = out, progress
        self.begin_at = begin_at
        self.recorder = Recorder(settings.log_every, on_event)
        # Decided once a run: compiled and eager sums differ in the last bits.
        self.compiling: bool | None = None
        self.configuration: dict[str, Any] = {
            "model": name,
            "data": data.name,
            "weights": digest({}, model.state_dict()),
            "normalize": data.normalize,
            "pictures": [len(getattr(data, split)) for split in SPLITS],
            "target": dataclasses.asdict(target),
            "space": {"bits": list(space.bits), "thresholds": space.thresholds},
            "seed": seed,
            "hardware_mode": hardware,
            "settings": dataclasses.asdict(settings),
        }
        if begin_at:
            begun = {name: [s.bits, s.threshold_exponent] for name, s in sorted(begin_at.items())}
            self.configuration["begin_at"] = begun

    def start(self, resume: bool, overwrite: bool) -> Record:
        """Begin, go on, or give back what is done: what `out` holds decides."""
        out = self.out
        if out is not None:
            there = [name for name in (CHECKPOINT, RECORD, NETWORK) if (out / name).exists()]
            # A network alone is nothing that a run could go on from.
            may_resume = resume and there != [NETWORK]
            if there and not (may_resume or overwrite):
                raise FileExistsError(
                    f"{out} holds a run already ({there[0]}): resume it, overwrite it, or choose another"
                )
            if resume and RECORD in there and CHECKPOINT not in there:
                return self.already_done(out)
            if not resume and self.team.is_main:
                for name in (RECORD, NETWORK, CHECKPOINT):
                    (out / name).unlink(missing_ok=True)
        devices = [self.team.device] if self.team.device.type == "cuda" else []
        with torch.random.fork_rng(devices), stop_signals() as stop:
            self.search = self.prepare()
            try:
                return self.go(resume, stop.is_set)
            finally:
                self.search.end()

    def already_done(self, out: Path) -> Record:
        """The record of a run that is complete; its network is loaded."""
        record = records.read(out)
        self.prepare()
        checkpoints.check_same(self.configuration, record.header, out / RECORD)
        self.model.load_state_dict(read_tensors(out / NETWORK)[0])
        return record

    # ---------------------------------------------------------------------------- beginning

    def prepare(self) -> ParallelSearch:
        """Blocks on the network, the activations' bit-widths from the target, a teacher."""
        # Everything moves to the device.
        model, device, settings = self.model, self.team.device, self.settings
        moved = {split: getattr(self.data, split).to(device) for split in SPLITS}
        self.data = dataclasses.replace(self.data, **moved)
        model.to(device)
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)

        # The network must take these images and give a score for each class.
        count = min(settings.batch_size, 64)
        sample = next(self.data.train.batches(count, device=device))[0]
        self.configuration["picture"] = list(sample.shape[1:])
        with in_mode(model, training=False), torch.no_grad():
            outputs = class_scores(model(sample[:2])).shape[1]
        if outputs != len(self.data.classes):
            classes = len(self.data.classes)
            raise ValueError(f"the network has {outputs} outputs, the data {classes} classes")

        # The teacher is a copy of the network as it is now, before any block.
        distils = "distillation" in (settings.search_loss, settings.final_loss)
        teacher = teacher_of(model, sample) if distils else None

        # Blocks, and the activations' bits.
        logits = generator(self.seed, "logits")
        attach(model, self.space, sample, hardware=self.hardware, generator=logits)
        bits = self.target.bits_of(budget.activation_sizes(model))
        set_activation_bits(model, bits)
        set_chosen_bits(model, self.begin_at)
        if not budget.weight_sizes(model):
            raise ValueError(
                "the network has no weight of a convolution or fully connected layer: nothing to search"
            )
        # The search looks at two images where DDP needs an example.
        example = sample[:2]
        return ParallelSearch(
            model,
            self.data,
            self.target,
            settings,
            accuracy=self.accuracy,
            seed=self.seed,
            teacher=teacher,
            team=self.team,
            accumulate=self.accumulate,
            shared_noise=self.shared_noise,
            example=(example, torch.zeros(len(example), dtype=torch.int64, device=device)),
        )

    def calibrate(self) -> None:
        """Thresholds of the activations from training images; the float network's accuracy."""
        # Blocks let everything through in both.
        images = (x for x, _ in self.search.calibration_batches())
        calibrate(self.model, images, largest=self.team.largest)
        for name, scheme in self.begin_at.items():
            prefer(self.search.blocks[name], scheme)
        with switched_off(self.model):
            self.search.progress.results["accuracy"] = {
                "float_validation": self.accuracy(self.model, self.data.validation),
                "float_test": self.accuracy(self.model, self.data.test),
            }

    def accuracy(self, model: nn.Module, split: Any) -> float:
        return evaluate(model, split, device=self.team.device, team=self.team)

    def warn_early(self) -> None:
        """Say before the first step what is known: too few steps, or no network for integers."""
        if self.hardware and self.team.is_main and (why := unlowered(self.model)):
            said = f"hardware mode, but integers alone cannot run this network: {why}"
            warnings.warn(said, stacklevel=5)
        # Steps times learning rate: how far the logits can go.
        settings = self.settings
        steps = settings.search_epochs * self.search.steps_per_epoch
        must_choose = self.target.weights > budget.rates(self.model).weights
        too_few = 0 < steps * settings.logit_learning_rate < CHOOSING
        if self.progress and self.search.steps_done == 0 and must_choose and too_few:
            enough = math.ceil(100 * CHOOSING / steps) / 100
            self.say(
                f"{steps} steps at a logit_learning_rate of {settings.logit_learning_rate:g} "
                "choose next to nothing, and the repair has to: more epochs, a smaller batch, "
                f"or a logit_learning_rate of {enough:g} or more"
            )

    def say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr)

    def worth_compiling(self, steps: int) -> bool:
        # "auto" compares the work of the whole run, also where part of it is done.
        choice = self.settings.compile
        if choice != "auto":
            return choice == "on"
        an_image = sum(budget.activation_sizes(self.model).values())
        elements = steps * self.settings.batch_size * an_image
        return elements >= WORTH_COMPILING and kernels.compiler_found()

    # ----------------------------------------------------------------------------- going on

    def go(self, resume: bool, asked_to_stop: Callable[[], bool]) -> Record:
        """From the first step, or the checkpoint's, to the end or to a signal."""
        # From a checkpoint or from the beginning.
        search, settings = self.search, self.settings
        epochs = settings.search_epochs + settings.final_epochs
        steps = epochs * search.steps_per_epoch
        if resume and self.out is not None and (self.out / CHECKPOINT).exists():
            self.restore(self.out / CHECKPOINT)
        else:
            self.calibrate()
        # What is said before the first step.
        if self.compiling is None:
            self.compiling = self.worth_compiling(steps)
        if self.compiling:
            self.say(
                "compiling the quantizer, which the first steps pay for (compile='off' does without)"
            )
        self.warn_early()

        # The loop is the search's; here it is shown, saved and stopped.
        bar = tqdm(
            total=steps,
            initial=search.steps_done,
            disable=not self.progress,
            unit="step",
            dynamic_ncols=True,
        )
        with bar, kernels.compiled(self.compiling):
            for event in search.run():
                self.recorder.add(event)
                self.show(event, bar)
                if event["kind"] not in ("step", "epoch"):
                    continue
                # One process that is asked to stop stops all after the same step.
                stop = self.team.any(asked_to_stop())
                if stop:
                    search.share_buffers()
                if stop or event["kind"] == "epoch":
                    self.save()
                if stop:
                    return self.record("interrupted")
            return self.finish()

    def show(self, event: Event, bar: tqdm) -> None:
        if event["kind"] == "step":
            bar.update()
        if event["kind"] == "epoch":
            accuracy, compression = event["validation_accuracy"], event["actual_rate"]
            bar.set_postfix_str(
                f"stage {event['stage']}: {accuracy:.1f} % at rate {compression:.2f}"
            )

    def finish(self) -> Record:
        """The one look at the test images, and the files of a complete run."""
        accuracy = self.search.progress.results["accuracy"]
        accuracy["validation"] = self.accuracy(self.model, self.data.validation)
        accuracy["test"] = self.accuracy(self.model, self.data.test)
        # The record is written last: where there is one, the run is complete.
        record = self.record("complete")
        if self.out is not None and self.team.is_main:
            header = {"configuration": self.configuration}
            write_tensors(self.out / NETWORK, self.model.state_dict(), header)
            records.write(record, self.out / RECORD)
            (self.out / CHECKPOINT).unlink(missing_ok=True)
        self.team.wait()
        return record

    def record(self, status: str) -> Record:
        machine = records.hardware(self.team.device)
        machine |= {"processes": self.team.number, "accumulate": self.accumulate}
        record = self.recorder.record(self.search, self.configuration, machine, status)
        record.header["outputs"] = len(self.data.classes)
        if self.data.folder is not None:
            record.header["data_folder"] = self.data.folder
        return record

    def save(self) -> None:
        """Write the checkpoint, where there is a folder for it."""
        if self.out is None:
            return
        # The others wait, so that no one is ahead of the file.
        self.recorder.tick()
        if self.team.is_main:
            kept = {
                "events": self.recorder.events,
                "timing": self.recorder.timing,
                "compiling": self.compiling,
            }
            checkpoints.save(self.search, self.configuration, kept, self.out / CHECKPOINT)
        self.team.wait()

    def restore(self, path: Path) -> None:
        kept = checkpoints.restore(self.search, self.configuration, path)
        self.recorder.events, self.recorder.timing = kept["events"], kept["timing"]
        self.compiling = kept["compiling"]


def set_chosen_bits(model: nn.Module, schemes: Mapping[str, Scheme]) -> None:
    """Give the blocks of activations the bits of these schemes; weights choose among theirs.

    Args:
        model: an attached network.
        schemes: by the names of its tensors.

    Raises:
        ValueError: a tensor is not there, or a weight does not choose from these bits.
    """
    found = blocks(model)
    weights = budget.weight_sizes(model)
    for name, scheme in schemes.items():
        if name not in found:
            raise ValueError(
                f"this network has no quantized tensor {name}: the selection is another network's"
            )
        block = found[name]
        if name not in weights:
            block.bits.fill_(scheme.bits)
        elif scheme.bits not in block.space.bits:
            raise ValueError(
                f"the selection gives {name} {scheme.bits} bits, the search chooses from "
                f"{block.space.bits}"
            )


def prefer(block: HMQ, scheme: Scheme, probability: float = 0.9) -> None:
    """Give a scheme of a block so much probability, and the same share of the rest to the others.

    >>> block = HMQ.for_weight(torch.tensor([0.3, -1.2]), SearchSpace())
    >>> prefer(block, Scheme(3, 0, signed=True))
    >>> block.scheme, round(block.probabilities().max().item(), 3)
    (Scheme(bits=3, threshold_exponent=0, signed=True), 0.9)

    Args:
        block: not fixed; it chooses from these bits.
        scheme: of its thresholds the nearest is taken.
        probability: between 0 and 1.
    """
    row = block.bits.tolist().index(scheme.bits)
    distances = (block.exponents - scheme.threshold_exponent).abs()
    column = int(distances.argmin())
    # Of n schemes, p = exp(z) / (exp(z) + n - 1).
    others = block.logits.numel() - 1
    with torch.no_grad():
        block.logits.zero_()
        if others:
            block.logits[row, column] = math.log(probability * others / (1 - probability))


def teacher_of(model: nn.Module, sample: Tensor) -> nn.Module:
    """A frozen copy of a float network, in evaluation, batch norm folded: the same, but faster.

    >>> teacher = teacher_of(models.build("resnet8"), torch.randn(2, 3, 32, 32))

    Args:
        model: a float network; it stays as it is.
        sample: images (B, C, H, W) that it takes.
    """
    teacher = copy.deepcopy(model)
    fold(teacher, sample)
    return teacher.eval().requires_grad_(False)
