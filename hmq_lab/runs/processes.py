"""One process or several: the few things that a search asks of the others. Hugging Face Accelerate does them.

>>> from hmq_lab.runs import processes as scale
>>> team = scale.start("cpu")                  # this process alone, or those that `accelerate launch` started
>>> team.rank, team.number, team.is_main
(0, 1, True)
>>> team.mean(torch.tensor([1.0, 2.0]))        # over the processes
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

PATIENCE = timedelta(minutes=10)  # how long the others may keep a process waiting


class ProcessLost(RuntimeError):
    """Another process of this search has ended."""


class Alone:
    """The only process: all that is asked of the others is answered at once. Also what `Several` must answer.

    rank, number: which process this is, of how many. part: its share of every batch, see `pictures.own`.
    is_main: whether it is the one that writes files and talks. device: where it computes.
    """

    rank, number, is_main = 0, 1, True

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    @property
    def part(self) -> tuple[int, int]:
        return self.rank, self.number

    def prepare(self, module: nn.Module, *example) -> nn.Module:
        """The module to call in training, its gradients the means over the processes; example: what it is called with.

        The first of the tensors that it returns is the one to go backward from.
        """
        return module

    def only_adding(self, module: nn.Module) -> contextlib.AbstractContextManager:
        """Inside, a backward pass of a prepared module adds to this process's gradients; the next one sends them."""
        return contextlib.nullcontext()

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Element by element."""
        return tensor

    def any(self, flag: bool) -> bool:
        return flag

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the main one's buffers, batch norm's statistics among them."""

    def main_first(self) -> contextlib.AbstractContextManager:
        """Inside, the first process of each machine goes before the others, as for a download."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """Until all processes are here."""

    def end(self) -> None:
        """Part from the others, at the end of a program."""


class Several(Alone):
    """One of the processes that `accelerate launch` started: gloo connects those on CPUs, NCCL those on GPUs.

    Raises ImportError where there is no Accelerate, and from every method ProcessLost when another process has ended.
    """

    def __init__(self, device: torch.device | str):
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
            from accelerate.utils import broadcast
        except ImportError as error:
            said = "several processes need accelerate: pip install hmq_lab[scale]"
            raise ImportError(said, name=error.name) from error
        self._options = DistributedDataParallelKwargs()
        device = torch.device(device)
        with lost_processes():
            self._accelerator = Accelerator(
                cpu=device.type == "cpu", kwargs_handlers=[self._options, InitProcessGroupKwargs(timeout=PATIENCE)]
            )
        self._broadcast = broadcast
        super().__init__(device if device.type == "cpu" else self._accelerator.device)
        self.rank, self.number = self._accelerator.process_index, self._accelerator.num_processes
        self.is_main = self._accelerator.is_main_process

    def prepare(self, module: nn.Module, *example) -> nn.Module:
        self._accelerator.free_memory()  # lets go of what was prepared before: its hooks would average, too
        # DDP waits for every gradient, unless it looks in every step which will come: slow, so only where some do not.
        self._options.find_unused_parameters = bool(not_reached(module, *example))
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
        return self.total(torch.tensor(int(flag), device=self.device)).item() > 0

    def share_buffers(self, module: nn.Module) -> None:
        with lost_processes():
            self._broadcast(dict(module.named_buffers()))  # in place

    def main_first(self) -> contextlib.AbstractContextManager:
        return self._accelerator.local_main_process_first()

    def wait(self) -> None:
        with lost_processes():
            self._accelerator.wait_for_everyone()

    def end(self) -> None:
        self._accelerator.end_training()


def not_reached(module: nn.Module, *example) -> list[str]:
    """Names of the parameters that a step does not reach, as those of auxiliary heads; leaves the module as it was."""
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices):
        gradients = torch.autograd.grad(module(*example)[0], list(parameters.values()), allow_unused=True)
    with torch.no_grad():
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
    return [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def start(device: torch.device | str) -> Alone:
    """This process's team on that kind of device: itself, or with those that a launcher started beside it."""
    if launched():
        return Several(device)
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        warnings.warn(
            "accelerate launch started a single process, as it does on CPUs: for several of them say "
            "`accelerate launch --multi_gpu --num_processes N -m hmq_lab search --device cpu`",
            stacklevel=2,
        )
    return Alone(device)


def launched() -> bool:
    """Whether a launcher (`accelerate launch`, `torchrun`, `notebook_launcher`) started this process with others."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_main() -> bool:
    """Whether this process writes files and talks; known before the processes have met."""
    return not launched() or int(os.environ["RANK"]) == 0


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Turn what gloo and NCCL say when another process is gone into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        distributed = torch.distributed.is_available() and isinstance(error, torch.distributed.DistError)
        if distributed or any(word in str(error) for word in ("gloo", "NCCL", "Connection closed", "Connection reset")):
            raise ProcessLost("another process of this search ended: run the same command with --resume") from error
        raise
