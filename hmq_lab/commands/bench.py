"""What quantizing costs beside float training: ratios in one run, medians, so that they hold on a busy machine.

>>> from hmq_lab.commands import bench
>>> bench.block(compiled=False)["over_clone"]  # doctest: +SKIP
4.1
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hmq_lab import _kernels as kernels
from hmq_lab import budget, models
from hmq_lab.block import SearchSpace
from hmq_lab.placement import attach, resample
from hmq_lab.quantizer import quantize
from hmq_lab.runs import records

SPACES = [((2, 4, 6, 8), 2), ((2, 4, 6, 8), 4), (range(1, 9), 4), (range(1, 9), 8), (range(1, 9), 16)]


@dataclass(frozen=True)
class Work:
    """What is measured, and where: a network's training step on a batch of square pictures, and a block on a tensor.

    precision: "float32" or "bfloat16", of the network's steps (autocast).
    """

    network: str = "resnet20"
    batch: int = 128
    tensor: tuple[int, ...] = (128, 64, 32, 32)
    size: int = 32
    device: str = "cpu"
    precision: str = "float32"


def times(*functions: Callable[[], None], rounds: int = 9) -> list[list[float]]:
    """Seconds of each function, called in turn so that a change of the machine's speed meets all of them."""
    found: list[list[float]] = [[] for _ in functions]
    for function in functions:  # warm up: caches, compilers
        function()
        function()
    for _ in range(rounds):
        for function, own in zip(functions, found, strict=True):
            _finished()
            start = time.perf_counter()
            function()
            _finished()
            own.append(time.perf_counter() - start)
    return found


def _finished() -> None:
    """Wait for what a GPU was given to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(*functions: Callable[[], None], rounds: int = 9) -> list[float]:
    """The median of `times` for each function."""
    return [statistics.median(own) for own in times(*functions, rounds=rounds)]


def block(compiled: bool, rounds: int = 9, work: Work = Work()) -> dict[str, float]:
    """A quantization, forward and backward, over `clone()`: float32, a step and threshold per picture."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(work.tensor, generator=generator).to(work.device).requires_grad_()
    grad = torch.randn(x.shape, generator=generator).to(work.device)
    per_picture = (len(x), *[1] * (x.dim() - 1))
    step = (torch.rand(per_picture, generator=generator) * 0.1 + 0.05).to(work.device).requires_grad_()
    threshold = (torch.rand(per_picture, generator=generator) + 1).to(work.device).requires_grad_()

    def run(function):
        x.grad = step.grad = threshold.grad = None
        function().backward(grad)

    with kernels.compiled(compiled):
        own = functools.partial(quantize, x, step, threshold, True, check=False)
        clone, own = seconds(lambda: run(x.clone), lambda: run(own), rounds=rounds)
    return {"clone_seconds": clone, "block_seconds": own, "over_clone": own / clone}


def training_step(
    searching: bool, channels_last: bool, space: SearchSpace | None = None, work: Work = Work()
) -> Callable[[], None]:
    """A training step, float or searching, as a function to call."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = models.build(work.network).train().to(work.device)
    x = torch.randn(work.batch, 3, work.size, work.size, generator=generator).to(work.device)
    y = torch.randint(10, (work.batch,), generator=generator).to(work.device)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if searching:
        attach(model, space, x[:16])
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-4)

    def step():
        if searching:
            resample(model, generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=work.precision == "bfloat16"):
            loss = F.cross_entropy(model(x).float(), y)
        if searching:
            loss = loss + 32 * budget.hinge(budget.expected_rate(model), 8.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def steps(compiled: bool, rounds: int = 7, work: Work = Work()) -> dict[str, float]:
    """A search step over the fastest float training step, each in its better memory layout."""
    made = [training_step(searching, last, work=work) for searching in (False, True) for last in (False, True)]
    with kernels.compiled(compiled):
        found = seconds(*made, rounds=rounds)
    fastest, search = min(found[:2]), min(found[2:])
    return {"float_seconds": fastest, "search_seconds": search, "over_float": search / fastest}


def memory(searching: bool, compiled: bool = False, space: SearchSpace | None = None, work: Work = Work()) -> float:
    """Bytes a training step needs at its peak above what its process held before it; in a process of its own."""
    space = space or SearchSpace()
    code = (
        "from hmq_lab.commands.bench import *; "
        f"print(peak({searching}, {compiled}, SearchSpace({space.bits}, {space.thresholds}), {work!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak(searching: bool, compiled: bool, space: SearchSpace, work: Work) -> float:
    """What `memory` runs in its process. A GPU's memory torch counts, a CPU's Linux, in pages; no other system does.

    A first network's step comes before: what compilers and libraries take once is not the step's. What the C library
    has kept of that for later is given back, or the step would use it and seem to need less.
    """
    with kernels.compiled(compiled):
        training_step(searching, True, space, work)()
        gc.collect()
        if torch.device(work.device).type == "cuda":
            step = training_step(searching, True, space, work)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            step()
            return float(torch.cuda.max_memory_allocated() - before)
        ctypes.CDLL(None).malloc_trim(0)
        step = training_step(searching, True, space, work)
        before = _status("VmRSS:")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts from here
        step()
        step()
        return _status("VmHWM:") - before


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith(field))


def spaces(compiled: bool, rounds: int = 5, work: Work = Work()) -> list[dict[str, float]]:
    """What a search step costs as the space grows from 8 to 128 schemes per tensor.

    For each space its schemes, the median seconds of a step with its quartiles (low, high), and bytes as of `memory`.
    """
    found = [SearchSpace(*space) for space in SPACES]
    with kernels.compiled(compiled):
        measured = times(*(training_step(True, True, space, work) for space in found), rounds=rounds)
    rows = []
    for space, own in zip(found, measured, strict=True):
        low, middle, high = statistics.quantiles(own, n=4, method="inclusive")
        row = {"schemes": space.schemes, "seconds": middle, "low": low, "high": high}
        rows.append(row | {"bytes": memory(True, compiled, space, work)})
    return rows


def report(compiled: bool, quick: bool = False, work: Work = Work()) -> dict:
    """Everything `hmq-lab bench` says. The keys other programs may rely on are the first six."""
    rounds = 3 if quick else 9
    eager = block(False, rounds, work)
    fast = block(True, rounds, work) if compiled else None
    step = steps(compiled, rounds, work)
    bytes_float, bytes_search = memory(False, work=work), memory(True, compiled, work=work)
    rows = spaces(compiled, rounds, work)
    return {
        "block_over_clone": (fast or eager)["over_clone"],
        "block_eager_over_clone": eager["over_clone"],
        "step_over_float": step["over_float"],
        "memory_over_float": bytes_search / bytes_float,
        "time_over_smallest_space": max(row["seconds"] for row in rows) / rows[0]["seconds"],
        "memory_over_smallest_space": max(row["bytes"] for row in rows) / rows[0]["bytes"],
        "compiled": compiled,
        "block": fast,
        "block_eager": eager,
        "step": step,
        "memory": {"float_bytes": bytes_float, "search_bytes": bytes_search},
        "spaces": rows,
        "versions": records.versions(),
        "work": dataclasses.asdict(work) | {"tensor": list(work.tensor)},
        "hardware": records.hardware(work.device),
    }
