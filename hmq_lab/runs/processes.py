"""One process or several: the few collective operations of a search, done by Accelerate.

>>> team = start("cpu")           # this process, or the team that `accelerate launch` started
>>> team.rank, team.number, team.is_main
(0, 1, True)
>>> team.mean(torch.tensor([1.0, 2.0]))                                  # over the processes
tensor([1., 2.])

One process neither needs nor imports Accelerate.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor, nn

# A collective operation waits no longer for the others.
PATIENCE = timedelta(minutes=10)

# Words in the errors of gloo and NCCL when another process is gone.
LOST = ("gloo", "NCCL", "Connection closed", "Connection reset")


class ProcessLost(RuntimeError):
    """Another process of this search has ended."""


class SingleProcess:
    """One process: every collective operation returns its input.

    It is also the interface of `SeveralProcesses`.

    >>> SingleProcess("cpu").part
    (0, 1)

    Args:
        device: the device of this process.

    Attributes:
        rank: the number of this process, from 0 on.
        number: how many processes there are.
        is_main: whether this process writes files and messages.
    """

    # `SeveralProcesses` sets its own.
    rank, number, is_main = 0, 1, True

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    @property
    def part(self) -> tuple[int, int]:
        """The share of every batch: (rank, number), see `images.own`."""
        return self.rank, self.number

    def prepare(self, module: nn.Module, *example) -> nn.Module:
        """Return the module to call in training; its gradients are means over the processes.

        Args:
            module: it returns a tuple of tensors. The backward pass begins at the first one.
            example: arguments of a call.
        """
        return module

    def only_adding(self, module: nn.Module) -> contextlib.AbstractContextManager:
        """Inside, a backward pass only adds to the gradients of this process.

        The next backward pass outside sends them to the other processes.
        """
        return contextlib.nullcontext()

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the processes."""
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the maximum over the processes, element by element."""
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true in any process."""
        return flag

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the buffers of the main process to all, such as the statistics of batch norm."""

    def main_first(self) -> contextlib.AbstractContextManager:
        """Inside, the first process of each machine goes before the others, for a download."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """Wait until all processes are here."""

    def end(self) -> None:
        """Leave the team, at the end of a program."""


class SeveralProcesses(SingleProcess):
    """One of the processes that `accelerate launch` started.

    The library gloo connects processes on CPUs, NCCL those on GPUs.

    Args:
        device: the kind of device. On GPUs, each process has its own.

    Raises:
        ImportError: where Accelerate is not installed.
        ProcessLost: from every method, when another process has ended.
    """

    def __init__(self, device: torch.device | str):
        try:
            from accelerate import (
                Accelerator,
                DistributedDataParallelKwargs,
                InitProcessGroupKwargs,
            )
            from accelerate.utils import broadcast
        except ImportError as error:
            said = "several processes need accelerate: pip install hmq_lab[scale]"
            raise ImportError(said, name=error.name) from error

        # Meet the other processes.
        device = torch.device(device)
        self._options = DistributedDataParallelKwargs()
        handlers = [self._options, InitProcessGroupKwargs(timeout=PATIENCE)]
        with lost_processes():
            self._accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=handlers)
        # The import is kept for later.
        self._broadcast = broadcast

        # Which process is this, and where does it compute?
        super().__init__(device if device.type == "cpu" else self._accelerator.device)
        self.rank = self._accelerator.process_index
        self.number = self._accelerator.num_processes
        self.is_main = self._accelerator.is_main_process

    def prepare(self, module: nn.Module, *example) -> nn.Module:
        # Forget the module that was prepared before: its hooks would average gradients, too.
        self._accelerator.free_memory()

        # DDP waits for the gradient of every parameter. Where some get none, it must search for
        # them in every step, which is slow: so only there.
        unused = not_reached(module, *example)
        self._options.find_unused_parameters = bool(unused)
        with lost_processes():
            return self._accelerator.prepare_model(module)

    def only_adding(self, module: nn.Module) -> contextlib.AbstractContextManager:
        return self._accelerator.no_sync(module)

    def mean(self, tensor: Tensor) -> Tensor:
        with lost_processes():
            return self._accelerator.reduce(tensor, "mean")

    def total(self, tensor: Tensor) -> Tensor:
        with lost_processes():
            return self._accelerator.reduce(tensor, "sum")

    def largest(self, tensor: Tensor) -> Tensor:
        with lost_processes():
            return self._accelerator.gather(tensor[None]).amax(0)

    def any(self, flag: bool) -> bool:
        count = self.total(torch.tensor(int(flag), device=self.device))
        return count.item() > 0

    def share_buffers(self, module: nn.Module) -> None:
        with lost_processes():
            # In place.
            self._broadcast(dict(module.named_buffers()))

    def main_first(self) -> contextlib.AbstractContextManager:
        return self._accelerator.local_main_process_first()

    def wait(self) -> None:
        with lost_processes():
            self._accelerator.wait_for_everyone()

    def end(self) -> None:
        self._accelerator.end_training()


def not_reached(module: nn.Module, *example) -> list[str]:
    """Return the names of the parameters that a step does not reach, as in auxiliary heads.

    The module stays as it was: its buffers and torch's random numbers are put back.

    Args:
        module: it returns a tuple of tensors. The backward pass begins at the first one.
        example: arguments of a call.
    """
    # A forward pass changes buffers: keep them.
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    # A parameter without a gradient is not reached.
    with torch.random.fork_rng(devices):
        loss = module(*example)[0]
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    # Put the buffers back.
    with torch.no_grad():
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
    pairs = zip(parameters, gradients, strict=True)
    return [name for name, gradient in pairs if gradient is None]


def start(device: torch.device | str) -> SingleProcess:
    """Return the team of this process: itself, or the processes that a launcher started.

    Args:
        device: the kind of device to compute on.

    Raises:
        ImportError: where there are several processes and no Accelerate.
    """
    # A launcher sets RANK and WORLD_SIZE.
    if launched():
        return SeveralProcesses(device)
    # These variables without RANK: Accelerate's launcher for CPUs, and one process.
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        warnings.warn(
            "accelerate launch started a single process, as it does on CPUs: for several of them "
            "say `accelerate launch --multi_gpu --num_processes N -m hmq_lab search --device cpu`",
            stacklevel=2,
        )
    return SingleProcess(device)


def launched() -> bool:
    """Return whether a launcher started this process together with others.

    Launchers are `accelerate launch`, `torchrun` and `notebook_launcher`.
    """
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_main() -> bool:
    """Return whether this process writes files and messages; known before the processes meet."""
    return not launched() or int(os.environ["RANK"]) == 0


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Turn the errors of gloo and NCCL for a process that is gone into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        # Errors of torch's own class, and errors known by their words only.
        has_distributed = torch.distributed.is_available()
        distributed = has_distributed and isinstance(error, torch.distributed.DistError)
        if distributed or any(word in str(error) for word in LOST):
            said = "another process of this search ended: run the same command with --resume"
            raise ProcessLost(said) from error
        raise
