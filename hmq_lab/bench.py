"""What quantizing costs beside float training: ratios in one run, medians, so that they hold on a busy machine.

>>> from hmq_lab import bench
>>> bench.block(compiled=False)["over_clone"]  # doctest: +SKIP
4.1
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from hmq_lab import budget, kernels, models, records
from hmq_lab.block import SearchSpace
from hmq_lab.placement import attach, resample
from hmq_lab.quantizer import quantize

SPACES = [((2, 4, 6, 8), 2), ((2, 4, 6, 8), 4), (range(1, 9), 4), (range(1, 9), 8), (range(1, 9), 16)]


def seconds(*functions: Callable[[], None], rounds: int = 9) -> list[float]:
    """The median time of each function, called in turn so that a change of the machine's speed meets all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:  # warm up: caches, compilers
        function()
        function()
    for _ in range(rounds):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def block(compiled: bool, rounds: int = 9) -> dict[str, float]:
    """A quantization, forward and backward, over `clone()`: 128x64x32x32 float32, a step and threshold per picture."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 64, 32, 32, generator=generator).requires_grad_()
    grad = torch.randn(x.shape, generator=generator)
    step = (torch.rand(128, 1, 1, 1, generator=generator) * 0.1 + 0.05).requires_grad_()
    threshold = (torch.rand(128, 1, 1, 1, generator=generator) + 1).requires_grad_()

    def run(function):
        x.grad = step.grad = threshold.grad = None
        function().backward(grad)

    with kernels.compiled(compiled):
        own = functools.partial(quantize, x, step, threshold, True)
        clone, own = seconds(lambda: run(x.clone), lambda: run(own), rounds=rounds)
    return {"clone_seconds": clone, "block_seconds": own, "over_clone": own / clone}


def training_step(searching: bool, channels_last: bool, space: SearchSpace | None = None) -> Callable[[], None]:
    """A training step of ResNet-20 at batch 128, float or searching, as a function to call."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = models.build("resnet20").train()
    x = torch.randn(128, 3, 32, 32, generator=generator)
    y = torch.randint(10, (128,), generator=generator)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if searching:
        attach(model, space, x[:16])
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-4)

    def step():
        loss = F.cross_entropy(model(x), y)
        if searching:
            resample(model, generator)
            loss = loss + 32 * budget.hinge(budget.expected_rate(model), 8.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def steps(compiled: bool, rounds: int = 7) -> dict[str, float]:
    """A search step over the fastest float training step, each in its better memory layout."""
    made = [training_step(searching, last) for searching in (False, True) for last in (False, True)]
    with kernels.compiled(compiled):
        times = seconds(*made, rounds=rounds)
    fastest, search = min(times[:2]), min(times[2:])
    return {"float_seconds": fastest, "search_seconds": search, "over_float": search / fastest}


def memory(searching: bool, compiled: bool = False, space: SearchSpace | None = None) -> float:
    """Bytes a training step needs at its peak above what its process held before it; in a process of its own."""
    space = space or SearchSpace()
    code = (
        "from hmq_lab import SearchSpace, bench; "
        f"print(bench.peak({searching}, {compiled}, SearchSpace({space.bits}, {space.thresholds})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak(searching: bool, compiled: bool, space: SearchSpace) -> float:
    """What `memory` runs in its process. Linux counts the pages for us; other systems do not let the peak be reset."""
    with kernels.compiled(compiled):
        if compiled:  # compiling takes memory of its own, which is not the step's
            training_step(searching, True, space)()
        step = training_step(searching, True, space)
        before = _status("VmRSS:")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts from here
        step()
        step()
        return _status("VmHWM:") - before


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith(field))


def spaces(compiled: bool, rounds: int = 5) -> list[dict[str, float]]:
    """Time and memory of a search step as the space grows from 8 to 128 schemes per tensor."""
    found = [SearchSpace(*space) for space in SPACES]
    with kernels.compiled(compiled):
        times = seconds(*(training_step(True, True, space) for space in found), rounds=rounds)
    return [
        {"schemes": space.schemes, "seconds": time, "bytes": memory(True, compiled, space)}
        for space, time in zip(found, times, strict=True)
    ]


def report(compiled: bool, quick: bool = False) -> dict:
    """Everything `hmq-lab bench` says. The keys other programs may rely on are the first four."""
    rounds = 3 if quick else 9
    eager = block(False, rounds)
    fast = block(True, rounds) if compiled else None
    step = steps(compiled, rounds)
    bytes_float, bytes_search = memory(False), memory(True, compiled)
    return {
        "block_over_clone": (fast or eager)["over_clone"],
        "block_eager_over_clone": eager["over_clone"],
        "step_over_float": step["over_float"],
        "memory_over_float": bytes_search / bytes_float,
        "compiled": compiled,
        "block": fast,
        "block_eager": eager,
        "step": step,
        "memory": {"float_bytes": bytes_float, "search_bytes": bytes_search},
        "spaces": spaces(compiled, rounds),
        "versions": records.versions(),
        "hardware": records.hardware(),
    }
