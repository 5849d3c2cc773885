"""An option for every setting of a search, made from `Settings` itself.

>>> import argparse
>>> parser = argparse.ArgumentParser()
>>> add_settings(parser)
>>> changes(parser.parse_args(["--final-epochs", "3", "--no-refill"]))
{'final_epochs': 3, 'refill': False}
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import Any

from hmq_lab.settings import CHOICES, Settings

# How an option is read, and what its help calls the value.
TYPES: dict[str, tuple[type, str]] = {
    "int": (int, "N"),
    "int | None": (int, "N"),
    "float": (float, "R"),
    "str": (str, "WORD"),
}


def add_settings(command: argparse.ArgumentParser) -> None:
    """Add an option for every field of `Settings`: --final-epochs for final_epochs."""
    group = command.add_argument_group("settings", "numbers of the search (default: the preset's)")
    explained = descriptions()
    for field in dataclasses.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        help = explained[field.name].replace("%", "%%")
        options: dict[str, Any] = {"default": None, "help": help}
        if field.type == "bool":
            options["action"] = argparse.BooleanOptionalAction
        elif field.name in CHOICES:
            options["choices"] = CHOICES[field.name]
        else:
            options["type"], options["metavar"] = TYPES[str(field.type)]
        group.add_argument(option, **options)


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given on the command line, by name."""
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def descriptions() -> dict[str, str]:
    """What each setting is, from the docstring of `Settings`.

    >>> descriptions()["final_epochs"]
    'epochs of stage 2'
    """
    names = "|".join(field.name for field in dataclasses.fields(Settings))
    entry = re.compile(rf"^ {{8}}({names}): (.+(?:\n {{12}}.+)*)", re.MULTILINE)
    found = entry.findall(Settings.__doc__ or "")
    return {name: " ".join(text.split()).rstrip(".") for name, text in found}
