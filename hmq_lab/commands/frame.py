"""What the commands share: a parser, options of several commands, files that are written."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hmq_lab.data.files import check_target, check_writable

# The files of a run or a sweep: no command writes over one of these.
RUN_FILES = (
    "record.json",
    "network.safetensors",
    "checkpoint.safetensors",
    "search.json",
    "status.json",
    "wish",
    "events.jsonl",
    "tensors.json",
    "log.txt",
    "sweep.json",
)
MARKS = (
    "record.json",
    "checkpoint.safetensors",
    "search.json",
    "sweep.json",
)  # one of them tells a run's folder
FIGURE = (".png", ".svg", ".pdf")
# Data set: the network that a command takes if none is named.
SHIPPED = {"builtin": "tiny_resnet8"}  # the weights of these come with the package
NETWORK_FOR = SHIPPED | {"cifar10": "resnet20"}


class BadInput(Exception):
    """What the user gave cannot be used; the message says why, on one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `BadInput`."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only if there is one and the text does not tell it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default in (None, False) or "default" in (action.help or "")
        return action.help if told else super()._get_help_string(action)


# --------------------------------------------------------------- kinds of values


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """What argparse calls to read a whole number within bounds.

    >>> whole(1, 16)("8")
    8
    """

    def read(text: str) -> int:
        # What is no number is out of bounds, too.
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            bounds = f"from {least} on" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, got {text!r}")
        return number

    return read


def numbers(text: str) -> list[int]:
    """What argparse calls to read whole numbers and ranges of them.

    >>> numbers("0,3,10-12")
    [0, 3, 10, 11, 12]
    """
    # Each part is a number, or a first and a last one.
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) < int(first):
            raise argparse.ArgumentTypeError(
                f"must be whole numbers and ranges of them, as in 0,3,10-20, got {text!r}"
            )
        found += range(int(first), int(last or first) + 1)
    return found


def several(kind: type) -> Callable[[str], list[Any]]:
    """What argparse calls to read numbers with commas between them.

    >>> several(float)("8,14.5")
    [8.0, 14.5]
    """

    def read(text: str) -> list[Any]:
        # All of one kind.
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"must be {what} with commas between them, got {text!r}"
            ) from None

    return read


# --------------------------------------------------------------- options


def add_data(command: argparse.ArgumentParser, default: str | None = "builtin") -> None:
    """Add the options that say which images, and how they are read."""
    command.add_argument(
        "--data", default=default, help="builtin, cifar10, imagenet, or a folder (default: builtin)"
    )
    command.add_argument(
        "--root", type=Path, help="where data sets lie (default: $HMQ_LAB_DATA or ~/.cache/hmq_lab)"
    )
    command.add_argument("--download", action="store_true", help="let torchvision fetch CIFAR10")
    # How they are brought to what the network takes.
    command.add_argument(
        "--normalize",
        help="what the weights were trained with: builtin, cifar10, imagenet, half or identity "
        "(default: what the "
        "weights' file says, else the data's)",
    )
    command.add_argument(
        "--image-size",
        "--picture-size",
        type=whole(1),
        metavar="N",
        help="pixels a side that images in files are brought to (default: 224, small ones as they are)",
    )


def add_network(command: argparse.ArgumentParser, start: str) -> None:
    """Add the options that say which network, and the weights that it starts from."""
    command.add_argument(
        "--model", help="a CIFAR network of ours or any of torchvision's (by default, by data)"
    )
    command.add_argument("--weights", metavar="FILE", help=start)
    command.add_argument(
        "--outputs",
        type=numbers,
        metavar="LIST",
        help="each class's output in the last layer of the weights: 0,217,482 or 1-1000 "
        "(default: the class's own "
        "number)",
    )


def add_overwrite(command: argparse.ArgumentParser, what: str = "FILE") -> None:
    """Add the option without which no file is written over."""
    command.add_argument(
        "--overwrite", action="store_true", help=f"replace {what} where it is there already"
    )


def device(name: str) -> Any:
    """The torch.device of an option --device.

    >>> device("cpu")
    device(type='cpu')

    Raises:
        BadInput: this machine has no such device.
    """
    import torch

    # The devices of this machine.
    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    if name == "auto":
        return torch.device("cuda" if "cuda" in found else "cpu")
    if name not in found:
        raise BadInput(f"--device {name}: must be one of auto, {', '.join(found)}")
    return torch.device(name)


def typed(without: Sequence[str] = ()) -> str:
    """The command line that was typed.

    Args:
        without: options to leave out.
    """
    return shlex.join(["hmq-lab", *(word for word in sys.argv[1:] if word not in without)])


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Turn a missing library into `BadInput` that names the extra to install.

    >>> with needs("lab", "figures"):
    ...     import no_such_library
    Traceback (most recent call last):
    hmq_lab.commands.frame.BadInput: figures need no_such_library: pip install hmq_lab[lab]
    """
    try:
        yield
    except ImportError as error:
        library = (error.name or "more libraries").partition(".")[0]
        verb = "need" if what == "figures" else "needs"
        raise BadInput(f"{what} {verb} {library}: pip install hmq_lab[{extra}]") from error


# --------------------------------------------------------------- files that are written


def check_output(
    path: Path,
    suffixes: Sequence[str],
    overwrite: bool,
    inputs: Iterable[Path | None] = (),
    option: str = "the file",
) -> None:
    """Raise `BadInput` unless a command may write this file. Called before any work is done.

    Args:
        path: the file.
        suffixes: those that it may have.
        overwrite: whether an existing file may be replaced; never one of a run, and none that the
            command reads.
        inputs: files that the command reads, and folders of runs.
        option: the word for the file in messages.

    Raises:
        BadInput: the suffix is another, the file is there, is read by the command, or belongs to a
            run.
        OSError: it is a folder, a pipe or a device, or its folder cannot be written to.
    """
    # The kind of file that this command writes.
    if path.suffix not in suffixes:
        allowed = " or ".join(
            [", ".join(suffixes[:-1]), suffixes[-1]] if len(suffixes) > 1 else suffixes
        )
        raise BadInput(f"{option} must end in {allowed}, got {path}")
    if path.is_dir():
        raise BadInput(f"{option} must be a file, got the folder {path}")
    # No pipe and no device.
    check_target(path)
    # Never its own input, and never a file of a run.
    for source in inputs:
        if source is not None and any(same_file(path, read) for read in _read_from(source)):
            raise BadInput(f"{path} is what this command reads ({source}): choose another file")
    if (run := run_of(path)) is not None:
        raise BadInput(f"{path} is a file of the run in {run}: choose another file")
    # Other files only if it was asked for.
    if path.exists() and not overwrite:
        another = option if option.startswith("--") else "file"
        raise BadInput(f"{path} is there already: --overwrite, or another {another}")
    check_writable(path.parent)


def run_of(path: Path) -> Path | None:
    """The folder of the run to which a file belongs; None for any other file."""
    # Links are followed: the file counts, not its name.
    real = Path(os.path.realpath(path))
    folder = real.parent
    if not any((folder / mark).exists() for mark in MARKS):
        return None
    # By its name, or by another name of the same file.
    ours = real.name in RUN_FILES or any(same_file(real, folder / name) for name in RUN_FILES)
    return folder if ours else None


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, also by links and on systems that ignore case."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return os.path.realpath(one) == os.path.realpath(other)


def _read_from(source: Path) -> list[Path]:
    """The files that a command reads from a path: a file, or those of a run's folder."""
    if source.is_dir():
        return [source / name for name in RUN_FILES if (source / name).exists()]
    return [source]
