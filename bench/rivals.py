"""Ways to choose bits, side by side: the same images, float network, and fine-tuning for all.

    python bench/rivals.py                                        # all that is not measured yet
    python bench/rivals.py rivals --method HMQ --target 14 --seed 0        # one result
    python bench/rivals.py enumeration                            # every choice of a small network

Results go to hmq_lab/rivals/recorded, one line each, as soon as they are there: a run that is
stopped goes on where it was. See bench/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import functools
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import SearchSpace, attach, budget, data, models
from hmq_lab.budget import Target
from hmq_lab.data.files import digest
from hmq_lab.models.training import evaluate, train
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.network import blocks, calibrate, switched_off
from hmq_lab.placement import set_activation_bits
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals import results, sensitivity
from hmq_lab.rivals.landscape import Landscape, best_schemes
from hmq_lab.rivals.methods import integer_programme, uniform
from hmq_lab.rivals.results import Result, Results
from hmq_lab.runs import records
from hmq_lab.seeds import generator, stable_hash
from hmq_lab.settings import Settings, preset
from hmq_lab.stages import Search, renew_statistics

# Every method starts stage 2 from the float weights, and with batch-norm statistics of its own
# selection: the selections are compared and nothing else.
SETTINGS = preset(
    "quick/builtin",
    final_epochs=3,
    final_weights="float",
    renew_statistics=True,
    compile="off",
)
TARGETS = (8.0, 10.5, 14.0, 16.0)
SEEDS = (0, 1)
IMAGES = 512  # training images that a rival looks at
ROOM = 1.05  # a random selection is at most so much smaller than the target asks

# A choice of a scheme for each weight.
Choice = dict[str, Scheme]


# ------------------------------------------------------------------------- the network and its data


@functools.cache
def images() -> data.Data:
    """The built-in images."""
    return data.load("builtin")


def shipped() -> nn.Module:
    """The built-in float network."""
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    return network


class Small(nn.Module):
    """Three convolutions and a linear layer: four weights, so that all choices can be tried."""

    def __init__(self) -> None:
        super().__init__()
        # Half the pixels a side after each convolution.
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.conv3 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm2d(32)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.linear = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        return self.linear(x.flatten(1))


@functools.cache
def small_state() -> dict[str, Tensor]:
    """The float weights of the small network, trained from seed 0."""
    torch.manual_seed(0)
    network = Small()
    train(network, images(), epochs=30, learning_rate=0.03, seed=0)
    return network.state_dict()


def small() -> nn.Module:
    """The small float network."""
    network = Small()
    network.load_state_dict(small_state())
    return network


@dataclass
class Case:
    """One network with blocks, ready to be searched or to be fine-tuned with a given choice.

    Args:
        search: the two stages.
        space: what a weight chooses from.
    """

    search: Search
    space: SearchSpace

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.search.model


def case(
    network: nn.Module, target: float, seed: int, settings: Settings, space: SearchSpace
) -> Case:
    """Return a case: blocks on the network, activations of 8 bits, calibrated."""
    # As `hmq_lab.search` does it.
    sample = next(images().train.batches(64))[0]
    attach(network, space, sample, generator=generator(seed, "logits"))
    set_activation_bits(network, dict.fromkeys(budget.activation_sizes(network), 8))
    search = Search(
        network, images(), Target(weights=target), settings, accuracy=evaluate, seed=seed
    )
    calibrate(network, (x for x, _ in search.calibration_batches()))
    return Case(search, space)


# ------------------------------------------------------------------------- the rivals


@dataclass
class Rival:
    """What a rival may look at: some training images, and the loss of any choice on them.

    Args:
        landscape: the loss; activations have thresholds of the least squared error.
        sizes: {weight: elements}.
        space: what a weight chooses from.
        target: the compression to reach.
        seed: of random choices.
    """

    landscape: Landscape
    sizes: dict[str, int]
    space: SearchSpace
    target: float
    seed: int

    def fitting(self, bits: Mapping[str, int]) -> Choice:
        """Return bits with the threshold of the least squared error each."""
        return {name: self.landscape.schemes[name][b] for name, b in bits.items()}


def rival(ready: Case, target: float, seed: int) -> Rival:
    """Return what a rival sees; the activations of the case get their schemes."""
    # A part of the training images, without augmentation.
    count = len(images().train)
    drawn = torch.randperm(count, generator=generator(seed, "rival"))[:IMAGES]
    x, y = next(images().train.subset(drawn.tolist()).batches(IMAGES))
    fit_activations(ready.model, x)
    landscape = Landscape(ready.model, x, y)
    return Rival(landscape, budget.weight_sizes(ready.model), ready.space, target, seed)


def fit_activations(model: nn.Module, x: Tensor) -> None:
    """Give each activation the threshold of the least squared error on these images."""
    # The float network's activations, as the blocks see them.
    seen: dict[str, Tensor] = {}
    found = blocks(model, "activation")

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].detach()

        return keep

    hooks = [block.register_forward_pre_hook(watch(name)) for name, block in found.items()]
    model.eval()
    with torch.no_grad(), switched_off(model):
        model(x)
    for hook in hooks:
        hook.remove()
    for name, block in found.items():
        schemes = best_schemes(block, seen[name])
        block.fix(schemes[max(schemes)])


def uniform_bits(on: Rival) -> Choice:
    """The same bits everywhere; thresholds one after the other by the loss."""
    choice = on.fitting(uniform(on.sizes, on.space, on.target))
    # Each weight's threshold, while all others stay.
    for name, block in on.landscape.blocks.items():
        bits = choice[name].bits
        tried = [Scheme(bits, exponent, True) for exponent in block.exponents.tolist()]
        losses = [on.landscape(choice | {name: scheme}) for scheme in tried]
        choice[name] = tried[int(np.argmin(losses))]
    return choice


def uniform_by_error(on: Rival) -> Choice:
    """The same bits everywhere; thresholds by the squared error, as HPTQ chooses them."""
    return on.fitting(uniform(on.sizes, on.space, on.target))


def random_bits(on: Rival) -> Choice:
    """Bits drawn at random until they meet the budget and use nearly all of it."""
    drawing = np.random.default_rng([on.seed, int(100 * on.target)])
    while True:
        drawn = drawing.choice(on.space.bits, len(on.sizes))
        bits = dict(zip(on.sizes, drawn.tolist(), strict=True))
        if on.target <= budget.compression(bits, on.sizes) <= ROOM * on.target:
            return on.fitting(bits)


def programme(measure: Callable[[Landscape], sensitivity.Table]) -> Callable[[Rival], Choice]:
    """Return a method: the bits with the least sum of a measure, solved exactly."""

    def choose(on: Rival) -> Choice:
        return on.fitting(integer_programme(measure(on.landscape), on.sizes, on.target))

    return choose


def alone_off(on: Rival) -> Choice:
    """The least sum of what is lost beside others of the same bits each, solved exactly."""
    others = max(uniform(on.sizes, on.space, on.target).values())
    costs = sensitivity.alone_off(on.landscape, others)
    return on.fitting(integer_programme(costs, on.sizes, on.target))


# The names are those of the tables and figures.
RIVALS: dict[str, Callable[[Rival], Choice]] = {
    "uniform, thresholds by loss": uniform_bits,
    "uniform, thresholds by error": uniform_by_error,
    "random": random_bits,
    "round-off error": programme(sensitivity.round_off),
    "alone on": programme(sensitivity.alone_on),
    "alone off": alone_off,
    "gradient": programme(sensitivity.gradient),
    "Hessian trace": programme(sensitivity.hessian),
}
# HMQ as the preset has it, and with the whole target from the first step on.
OURS: dict[str, dict[str, Any]] = {"HMQ": {}, results.AT_ONCE: {"target_steps": 1}}
METHODS = (*OURS, *RIVALS)

# One setting of HMQ changed.
ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bits 2 to 8": {"bits": tuple(range(2, 9))},
    "one threshold": {"thresholds": 1},
    "stage 2 from the searched weights": {"final_weights": "searched"},
    "temperature always 1": {"temperature_floor": 1.0},
    "temperature falls once, target at once": {"cycles": 1, "target_steps": 1},
    "target at once": {"target_steps": 1},
    "gamma 4": {"gamma": 4.0},
    "gamma 128": {"gamma": 128.0},
    "logits ten times slower": {"logit_learning_rate": 0.005},
    "no margin, no refill": {"margin": 0.0, "refill": False},
    "statistics not renewed": {"renew_statistics": False},
}


# ------------------------------------------------------------------------- one result


class Cost:
    """CPU seconds, and what the process takes at its peak beyond what it held (Linux only)."""

    def __init__(self) -> None:
        self.held: float | None = None
        if PEAK.exists():
            # Give back what the C library keeps: it would be used and not be seen.
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            self.held = _status("VmRSS:")
            PEAK.write_text("5")
        self.began = time.process_time()

    def stop(self) -> tuple[float, float | None]:
        """Return seconds and bytes since the beginning; None for bytes where Linux is not."""
        seconds = time.process_time() - self.began
        return seconds, None if self.held is None else _status("VmHWM:") - self.held


# Writing here begins the measurement of a peak anew.
PEAK = Path("/proc/self/clear_refs")


def _status(entry: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(entry))


def measured(method: str, ready: Case, target: float, seed: int) -> Result:
    """Return the result of a method: the choice, then the same stage 2 for all."""
    search, model = ready.search, ready.model
    if method in RIVALS:
        # The rival chooses, then its schemes are fixed.
        cost = Cost()
        choice = RIVALS[method](rival(ready, target, seed))
        seconds, taken = cost.stop()
        begin_tuning(search, choice)
        before = evaluate(model, images().validation)
        began = time.process_time()
        events: Iterator[dict] = search.run()
    else:
        # HMQ: stage 1 up to the repair is the choice.
        cost = Cost()
        events = search.run()
        for event in events:
            if event["kind"] == "repair":
                break
        seconds, taken = cost.stop()
        began = time.process_time()
    # Stage 2.
    for _ in events:
        pass
    tuning = time.process_time() - began
    if method not in RIVALS:
        before = search.progress.results["accuracy"]["after_search"]
    return finished(method, model, target, seed, seconds, taken, before, tuning)


def begin_tuning(search: Search, choice: Choice) -> None:
    """Fix a choice, and bring a search to stage 2 as HMQ's own stage 1 does."""
    for name, block in blocks(search.model, "weight").items():
        block.fix(choice[name])
    torch.manual_seed(stable_hash(search.seed, "statistics"))
    batches = search.calibration_batches(augment=search.settings.augment)
    renew_statistics(search.model, (x for x, _ in batches))
    search.progress.stage = 2


def finished(
    method: str,
    model: nn.Module,
    target: float,
    seed: int,
    seconds: float,
    taken: float | None,
    before: float,
    tuning: float,
) -> Result:
    """Return the result of a network that is fine-tuned."""
    schemes = {place.name: s for place, s in budget.schemes(model) if place.kind == "weight"}
    return Result(
        method=method,
        target=target,
        seed=seed,
        bits=tuple(scheme.bits for scheme in schemes.values()),
        exponents=tuple(scheme.threshold_exponent for scheme in schemes.values()),
        compression=budget.rates(model).weights,
        choosing_seconds=round(seconds, 2),
        choosing_bytes=taken,
        before=before,
        validation=evaluate(model, images().validation),
        loss=round(mean_loss(model), 5),
        test=evaluate(model, images().test),
        tuning_seconds=round(tuning, 2),
    )


def mean_loss(model: nn.Module) -> float:
    """Return the mean cross-entropy on the validation images."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for x, y in images().validation.batches(500):
            total += F.cross_entropy(model(x), y, reduction="sum").item()
    return total / len(images().validation)


# ------------------------------------------------------------------------- the three kinds


def header(network: nn.Module, name: str, settings: Settings) -> dict[str, Any]:
    """Return what all results of a kind have in common."""
    float_accuracy = {}
    for split in ("validation", "test"):
        float_accuracy[f"float_{split}"] = evaluate(network, getattr(images(), split))
    weights = digest({}, network.state_dict())
    ready = case(network, 8.0, 0, settings, SearchSpace())
    return {
        "schema": results.SCHEMA,
        "model": name,
        "data": "builtin",
        "weights": weights,
        "sizes": budget.weight_sizes(ready.model),
        **float_accuracy,
        "settings": dataclasses.asdict(settings),
        "images": IMAGES,
        "versions": records.versions(),
        "hardware": records.hardware(),
    }


@dataclass
class Sheet:
    """A file of results that is filled.

    Args:
        path: the file.
        found: what it holds.
    """

    path: Path
    found: Results

    @classmethod
    def open(cls, kind: str, folder: Path, begin: Callable[[], dict[str, Any]]) -> Sheet:
        """Return the sheet of a kind: what is there already, or a new one."""
        path = folder / f"{kind}.json"
        found = results.read(path) if path.exists() else Results(begin())
        return cls(path, found)

    def add(self, result: Result) -> None:
        """Keep a result, and write the file."""
        self.found.results.append(result)
        results.write(self.found, self.path)
        about = f"{result.method}, {result.target:g} times, seed {result.seed}"
        cost = f"{result.choosing_seconds:.1f} + {result.tuning_seconds:.1f} s"
        print(f"{about}: {result.before:.2f} -> {result.test:.2f} % ({cost})", flush=True)

    def has(self, method: str, target: float, seed: int) -> bool:
        """Whether a result is there."""
        return bool(self.found.of(method, target, seed))


def run_rivals(options: argparse.Namespace) -> None:
    """All methods at all targets, with every seed."""
    sheet = Sheet.open("rivals", options.out, lambda: header(shipped(), "tiny_resnet8", SETTINGS))
    # Seed by seed, so that a run which is stopped has whole comparisons.
    for seed, target, method in itertools.product(SEEDS, TARGETS, METHODS):
        if is_wanted(options, method, target, seed) and not sheet.has(method, target, seed):
            settings = dataclasses.replace(SETTINGS, **OURS.get(method, {}))
            ready = case(shipped(), target, seed, settings, SearchSpace())
            sheet.add(measured(method, ready, target, seed))


def run_ablations(options: argparse.Namespace) -> None:
    """HMQ with one setting changed, at 14 times, with every seed."""
    begin = functools.partial(header, shipped(), "tiny_resnet8", SETTINGS)
    sheet = Sheet.open("ablations", options.out, begin)
    for seed, (method, changes) in itertools.product(SEEDS, ABLATIONS.items()):
        if not is_wanted(options, method, 14.0, seed) or sheet.has(method, 14.0, seed):
            continue
        # Bits and the number of thresholds are those of the space.
        rest = dict(changes)
        bits, thresholds = rest.pop("bits", tuple(range(1, 9))), rest.pop("thresholds", 8)
        settings = dataclasses.replace(SETTINGS, **rest)
        ready = case(shipped(), 14.0, seed, settings, SearchSpace(bits, thresholds))
        sheet.add(measured(method, ready, 14.0, seed))


SMALL_SPACE = SearchSpace((2, 3, 4, 8))
SMALL_TARGET = 10.0
SMALL_SETTINGS = dataclasses.replace(SETTINGS, final_epochs=1)
SMALL_SEEDS = range(5)


def run_enumeration(options: argparse.Namespace) -> None:
    """Every choice of the small network that meets the budget, and HMQ with five seeds."""
    sheet = Sheet.open("enumeration", options.out, lambda: header(small(), "small", SMALL_SETTINGS))
    sizes = sheet.found.header["sizes"]
    done = {result.bits for result in sheet.found.of("every choice")}
    # The same seed for all: only the bits differ.
    for bits in itertools.product(SMALL_SPACE.bits, repeat=len(sizes)):
        named = dict(zip(sizes, bits, strict=True))
        if bits in done or budget.compression(named, sizes) < SMALL_TARGET:
            continue
        ready = case(small(), SMALL_TARGET, 0, SMALL_SETTINGS, SMALL_SPACE)
        sheet.add(fixed(ready, named))
    for seed in SMALL_SEEDS:
        if not sheet.has("HMQ", SMALL_TARGET, seed):
            ready = case(small(), SMALL_TARGET, seed, SMALL_SETTINGS, SMALL_SPACE)
            sheet.add(measured("HMQ", ready, SMALL_TARGET, seed))


def fixed(ready: Case, bits: dict[str, int]) -> Result:
    """Return the result of given bits, after the same stage 2."""
    on = rival(ready, SMALL_TARGET, 0)
    begin_tuning(ready.search, on.fitting(bits))
    before = evaluate(ready.model, images().validation)
    began = time.process_time()
    for _ in ready.search.run():
        pass
    tuning = time.process_time() - began
    return finished("every choice", ready.model, SMALL_TARGET, 0, 0.0, None, before, tuning)


def is_wanted(options: argparse.Namespace, method: str, target: float, seed: int) -> bool:
    """Whether the options ask for a result; what they do not name is wanted."""
    asked = ((options.method, method), (options.target, target), (options.seed, seed))
    return all(wanted is None or wanted == value for wanted, value in asked)


RUNS = {"rivals": run_rivals, "enumeration": run_enumeration, "ablations": run_ablations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[[], *RUNS], help="default: all")
    parser.add_argument("--method", help="one of the methods or ablations alone")
    parser.add_argument("--target", type=float, help="one target alone")
    parser.add_argument("--seed", type=int, help="one seed alone")
    parser.add_argument("--out", type=Path, default=results.RECORDED, help="the files of results")
    options = parser.parse_args()
    # One thread: CPU seconds are then the same on a busy machine.
    torch.set_num_threads(1)
    for kind in options.kinds or RUNS:
        RUNS[kind](options)
        print(results.read(options.out / f"{kind}.json").table())


if __name__ == "__main__":
    main()
