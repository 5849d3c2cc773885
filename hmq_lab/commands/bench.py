"""What quantizing costs beside float training: ratios in one run, medians, for a busy machine.

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
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hmq_lab import _kernels as kernels
from hmq_lab import budget, models
from hmq_lab.block import SearchSpace
from hmq_lab.network import resample
from hmq_lab.placement import attach
from hmq_lab.quantizer import quantize
from hmq_lab.runs import records

# Spaces of 8 to 128 schemes for each tensor: bit-widths, and how many thresholds.
EVEN, ALL = (2, 4, 6, 8), tuple(range(1, 9))
SPACES = [(EVEN, 2), (EVEN, 4), (ALL, 4), (ALL, 8), (ALL, 16)]

Step = Callable[[], None]


@dataclass(frozen=True)
class Work:
    """What is measured, and where.

    Args:
        network: the network of the training step.
        batch: images in a step.
        tensor: the shape of the tensor that a block quantizes.
        size: pixels of an image a side.
        device: where it is measured.
        precision: "float32" or "bfloat16", of the network's steps (autocast).
    """

    network: str = "resnet20"
    batch: int = 128
    tensor: tuple[int, ...] = (128, 64, 32, 32)
    size: int = 32
    device: str = "cpu"
    precision: str = "float32"


def times(*functions: Step, rounds: int = 9) -> list[list[float]]:
    """Return the seconds of each function in each round.

    The functions are called in turn, so that a change of the machine's speed affects all of them.

    Args:
        functions: what to measure; each is called without arguments.
        rounds: how often each function is measured.

    Returns:
        For each function its seconds, one number for each round.
    """
    # Warm up caches and compilers.
    for function in functions:
        function()
        function()

    # In turn, round after round.
    found: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, own in zip(functions, found, strict=True):
            _wait_for_gpu()
            start = time.perf_counter()
            function()
            _wait_for_gpu()
            own.append(time.perf_counter() - start)
    return found


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(*functions: Step, rounds: int = 9) -> list[float]:
    """Return the median of `times` for each function.

    Args:
        functions: what to measure; each is called without arguments.
        rounds: how often each function is measured.

    Returns:
        One number for each function, in their order.
    """
    return [statistics.median(own) for own in times(*functions, rounds=rounds)]


def block(compiled: bool, rounds: int = 9, work: Work = Work()) -> dict[str, float]:
    """Return what a quantization costs over `clone()`, forward and backward.

    The tensor is float32 and has a step and a threshold for each image.

    Args:
        compiled: whether the kernels are compiled.
        rounds: of the measurement.
        work: what is measured.

    Returns:
        Seconds of `clone()` and of the block, and their ratio.
    """
    # The same numbers in every run.
    generator = torch.Generator().manual_seed(0)

    # Parameters in a range, ready for a gradient.
    def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        drawn = torch.rand(shape, generator=generator) * (high - low) + low
        return drawn.to(work.device).requires_grad_()

    # A tensor, its gradient, and a step and threshold for each image.
    x = torch.randn(work.tensor, generator=generator).to(work.device).requires_grad_()
    grad = torch.randn(x.shape, generator=generator).to(work.device)
    per_image = (len(x), *[1] * (x.dim() - 1))
    step = uniform(per_image, 0.05, 0.15)
    threshold = uniform(per_image, 1.0, 2.0)

    # Forward and backward, with no gradient left over.
    def run(function: Callable[[], Tensor]) -> None:
        x.grad = step.grad = threshold.grad = None
        function().backward(grad)

    # Both in one run.
    own = functools.partial(quantize, x, step, threshold, True, check=False)
    with kernels.compiled(compiled):
        clone, quantized = seconds(lambda: run(x.clone), lambda: run(own), rounds=rounds)
    return {"clone_seconds": clone, "block_seconds": quantized, "over_clone": quantized / clone}


def training_step(
    searching: bool,
    channels_last: bool,
    space: SearchSpace | None = None,
    work: Work = Work(),
) -> Step:
    """Return a training step as a function to call.

    Args:
        searching: whether it is a step of a search, or of float training.
        channels_last: the memory layout.
        space: of the search.
        work: what is measured.

    Returns:
        A function without arguments that makes one step.
    """
    # A network and a batch, always the same.
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = models.build(work.network).train().to(work.device)
    x = torch.randn(work.batch, 3, work.size, work.size, generator=generator).to(work.device)
    y = torch.randint(10, (work.batch,), generator=generator).to(work.device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    # A search has blocks and the logits' loss, float training has none.
    if searching:
        attach(model, space=space, sample=x[:16])
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-4)
    in_bfloat16 = work.precision == "bfloat16"

    # One step of training, as the searches make it.
    def step() -> None:
        if searching:
            resample(model, generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=in_bfloat16):
            loss = F.cross_entropy(model(x).float(), y)
        if searching:
            loss = loss + 32 * budget.hinge(budget.expected_compression(model), 8.0)
        # The usual end of a step.
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def steps(compiled: bool, rounds: int = 7, work: Work = Work()) -> dict[str, float]:
    """Return what a search step costs over a float step, each in its faster memory layout.

    Args:
        compiled: whether the compiled kernels are used.
        rounds: how often each function is measured.
        work: network, batch and device to measure on.

    Returns:
        Seconds of the float step and of the search step, and their ratio.
    """
    # Float and search, each in both layouts.
    made = []
    for searching in (False, True):
        for channels_last in (False, True):
            made.append(training_step(searching, channels_last, work=work))
    with kernels.compiled(compiled):
        found = seconds(*made, rounds=rounds)
    # The faster layout of each counts.
    fastest, search = min(found[:2]), min(found[2:])
    return {"float_seconds": fastest, "search_seconds": search, "over_float": search / fastest}


def memory(
    searching: bool,
    compiled: bool = False,
    space: SearchSpace | None = None,
    work: Work = Work(),
) -> float:
    """Return the bytes of a training step at its peak, measured in a process of its own.

    What the process held before the step does not count.

    Args:
        searching: whether it is a step of a search, or of float training.
        compiled: whether the compiled kernels are used.
        space: the search space.
        work: network, batch and device to measure on.

    Returns:
        Bytes.
    """
    # A process of its own: memory that other steps took does not count.
    space = space or SearchSpace()
    code = (
        "from hmq_lab.commands.bench import *; "
        f"print(peak({searching}, {compiled}, SearchSpace({space.bits}, {space.thresholds}), "
        f"{work!r}))"
    )
    # The child process prints one number.
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak(searching: bool, compiled: bool, space: SearchSpace, work: Work) -> float:
    """Return the bytes of a step at its peak; `memory` calls it in its process.

    CUDA memory comes from torch, CPU memory from /proc (Linux only).

    Args:
        searching: whether it is a step of a search, or of float training.
        compiled: whether the compiled kernels are used.
        space: the search space.
        work: network, batch and device to measure on.

    Returns:
        Bytes.
    """
    # Measured on the kernels that were asked for.
    with kernels.compiled(compiled):
        # A first step, of another network: what compilers and libraries take once does not count.
        training_step(searching, True, space, work)()
        gc.collect()
        if torch.device(work.device).type == "cuda":
            step = training_step(searching, True, space, work)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            step()
            return float(torch.cuda.max_memory_allocated() - before)

        # Give back what the C library has kept: the step would use it and seem to need less.
        ctypes.CDLL(None).malloc_trim(0)
        step = training_step(searching, True, space, work)
        held = _status("VmRSS:")
        # The peak starts from here.
        Path("/proc/self/clear_refs").write_text("5")
        step()
        step()
        return _status("VmHWM:") - held


def _status(field: str) -> float:
    """Return an entry of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(field))


def spaces(compiled: bool, rounds: int = 5, work: Work = Work()) -> list[dict[str, float]]:
    """Return what a search step costs as the space grows from 8 to 128 schemes per tensor.

    Returns:
        For each space its schemes, the median seconds of a step with its quartiles (low, high),
        and the bytes of `memory`.

    Args:
        compiled: whether the compiled kernels are used.
        rounds: how often each function is measured.
        work: network, batch and device to measure on.
    """
    # All spaces in turn, in one run.
    found = [SearchSpace(*space) for space in SPACES]
    made = [training_step(True, True, space, work) for space in found]
    with kernels.compiled(compiled):
        measured = times(*made, rounds=rounds)
    # One row for each space: quartiles and memory.
    rows = []
    for space, own in zip(found, measured, strict=True):
        low, middle, high = statistics.quantiles(own, n=4, method="inclusive")
        needed = memory(True, compiled, space, work)
        row = {"schemes": space.schemes, "seconds": middle, "low": low, "high": high}
        rows.append(row | {"bytes": needed})
    return rows


def report(compiled: bool, quick: bool = False, work: Work = Work()) -> dict:
    """Return everything that `hmq-lab bench` says.

    Other programs may rely on the first six keys.

    Args:
        compiled: whether the kernels are compiled.
        quick: 3 rounds instead of 9.
        work: what is measured.

    Returns:
        Ratios, and how they were measured, by name.
    """
    # Measure.
    rounds = 3 if quick else 9
    eager = block(False, rounds, work)
    fast = block(True, rounds, work) if compiled else None
    step = steps(compiled, rounds, work)
    bytes_float, bytes_search = memory(False, work=work), memory(True, compiled, work=work)
    rows = spaces(compiled, rounds, work)
    return {
        # These six keys stay.
        "block_over_clone": (fast or eager)["over_clone"],
        "block_eager_over_clone": eager["over_clone"],
        "step_over_float": step["over_float"],
        "memory_over_float": bytes_search / bytes_float,
        "time_over_smallest_space": max(row["seconds"] for row in rows) / rows[0]["seconds"],
        "memory_over_smallest_space": max(row["bytes"] for row in rows) / rows[0]["bytes"],
        # How it was measured.
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


def needs_lab(error: ImportError, option: str) -> ValueError:
    """Return the error, in one line, of a benchmark whose libraries are not installed.

    >>> needs_lab(ImportError("no", name="matplotlib.backends"), "--explorers")
    ValueError('bench --explorers needs matplotlib: pip install hmq_lab[lab]')

    Args:
        error: of the import.
        option: of `hmq-lab bench`.

    Returns:
        The error, ready to raise.
    """
    # The library, not a module in it.
    library = (error.name or "more libraries").partition(".")[0]
    return ValueError(f"bench {option} needs {library}: pip install hmq_lab[lab]")
