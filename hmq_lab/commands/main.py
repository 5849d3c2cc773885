"""The commands of hmq-lab. Exit code 0 done, 2 bad input (one line), 1 anything else."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from typing import Any

from hmq_lab.commands import (
    figures,
    grade,
    hardware,
    lab,
    lessons,
    measure,
    placements,
    reasons,
    search,
    sweep,
    train,
)
from hmq_lab.commands.frame import BadInput, Help, Parser
from hmq_lab.runs.processes import ProcessLost, is_main

# Each adds its command, in this order; `sweep` takes the options of `search`.
GROUPS = (figures, placements, train, measure, reasons, hardware, lessons, lab, grade)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    >>> main(["figures", "no/such/folder"])
    2

    Args:
        arguments: the command and its options; None takes those of the process.
    """
    # On Windows a pipe takes 256 characters: another one in a name becomes a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options = parser().parse_args(arguments)
        # A preset's name says what was not typed.
        if hasattr(options, "preset"):
            search.fill(options)
        with warnings.catch_warnings(), _Held() as options.warnings:
            return options.command(options)
    except (BadInput, ValueError, OSError) as error:
        print(f"hmq-lab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (FloatingPointError, OverflowError, ProcessLost) as error:
        print(f"hmq-lab: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hmq-lab: interrupted", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The parser of all commands.

    >>> parser().parse_args(["search", "--log-every", "5"]).log_every
    5
    """
    top = Parser(
        prog="hmq-lab",
        description="Search the bit-width and threshold of every tensor of a network.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    command = search.add(commands, Help)
    sweep.add(commands, command, Help)
    for group in GROUPS:
        group.add(commands, Help)
    return top


class _Held:
    """Keeps warnings until the work has begun, so that bad input is one line on stderr."""

    def __enter__(self) -> _Held:
        self.messages: list[Any] = []
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: self.messages.append(message)
        return self

    def say(self, *_: object) -> None:
        """Print what was kept, in the main process; also called with every event of a search."""
        while self.messages:
            message = self.messages.pop(0)
            if is_main():
                print(f"hmq-lab: warning: {message}", file=sys.stderr)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.say()
