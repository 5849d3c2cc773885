"""Options of the command line, made from the settings: every setting has one."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from hmq_lab.settings import CHOICES, Settings

# Options of before -> the setting that they stand for.
OLD_NAMES = {"--logit-rate": "logit_learning_rate"}


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add an option for every setting of a search: `search_epochs` is --search-epochs.

    A setting that is True or False has a pair of options, --augment and --no-augment. What is not
    given is None, so that the preset decides.
    """
    # Names, types and help are those of the dataclass.
    group = command.add_argument_group("settings of the search (defaults: the preset's)")
    told = descriptions(Settings)
    kinds = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        names = [option, *(old for old, name in OLD_NAMES.items() if name == field.name)]
        text = told.get(field.name, field.name.replace("_", " ")).rstrip(".").replace("%", "%%")
        options: dict[str, Any] = {"dest": field.name, "default": None, "help": text}
        # True or false, one of some words, or a number.
        if kinds[field.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif field.name in CHOICES:
            options["choices"] = CHOICES[field.name]
        else:
            kind = _kind(kinds[field.name])
            options["type"], options["metavar"] = kind, {int: "N", float: "R"}.get(kind, "WORD")
        group.add_argument(*names, **options)


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as options, by name."""
    found = {field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)}
    return {name: value for name, value in found.items() if value is not None}


def descriptions(kind: type) -> dict[str, str]:
    """What the docstring of a class says of each argument.

    >>> descriptions(Settings)["search_epochs"]
    'epochs of stage 1.'
    """
    found: dict[str, str] = {}
    # There may be several sections of this name.
    for section in re.split(r"^Args:\n", inspect.getdoc(kind) or "", flags=re.MULTILINE)[1:]:
        name = ""
        for line in section.splitlines():
            if line and not line.startswith(" "):
                break  # the section ends
            started = re.match(r"    (\w+): (.*)", line)
            if started:
                name, found[started[1]] = started[1], started[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found


def _kind(hint: Any) -> type:
    """int, float or str of a type hint, also of one that allows None."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint
