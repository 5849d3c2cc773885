"""The shape of what a JSON file must hold, and where a content has another one.

>>> misfit({"bits": [4, "x"]}, {"bits": [int], "seed": int}, "space")
"space.bits.1 must be a whole number, got 'x'"
>>> misfit({"bits": [4]}, {"bits": [int], "seed": int}, "space")
'space.seed is missing'

A shape is

- int, float, str, bool, dict, list or None: a value of that type. A bool is no number, a float is
  a finite number, and a whole number is a float, too.
- (shape, shape): a value of one of these shapes.
- [shape]: a list of such values; [shape, ...] holds at least one.
- {"name": shape}: an object with these names. "name?" may be missing. The name ... stands for all
  names that the shape does not list.
"""

from __future__ import annotations

import math
from typing import Any

# Types in words.
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}


def misfit(value: Any, shape: Any, where: str = "", partial: bool = False) -> str | None:
    """Return in one line where a value has another shape; None where it fits.

    Args:
        value: what JSON gave.
        shape: what it must be.
        where: the name of the value; the content of a file has none.
        partial: whether any name may be missing.
    """
    if isinstance(shape, tuple):
        if any(misfit(value, one, where, partial) is None for one in shape):
            return None
        wanted = " or ".join(_word(one) for one in shape)
        return f"{where or 'it'} must be {wanted}, got {_named(value)}"
    if isinstance(shape, dict) and isinstance(value, dict):
        return _misfit_of_object(value, shape, where, partial)
    if isinstance(shape, list) and isinstance(value, list):
        return _misfit_of_list(value, shape, where, partial)
    if _is_plain(value, shape):
        return None
    return f"{where or 'it'} must be {_word(shape)}, got {_named(value)}"


def _misfit_of_object(value: dict, shape: dict, where: str, partial: bool) -> str | None:
    dot = f"{where}." if where else ""

    # Names of the shape.
    listed = set()
    for key, inner in shape.items():
        if key is ...:
            continue
        name = key.removesuffix("?")
        listed.add(name)
        if name in value:
            said = misfit(value[name], inner, dot + name, partial)
        else:
            said = None if partial or key.endswith("?") else f"{dot}{name} is missing"
        if said:
            return said

    # All other names.
    if ... in shape:
        for name in value.keys() - listed:
            if said := misfit(value[name], shape[...], dot + name, partial):
                return said
    return None


def _misfit_of_list(value: list, shape: list, where: str, partial: bool) -> str | None:
    if len(shape) == 2 and not value:
        return f"{where or 'it'} must hold at least one value"
    for number, one in enumerate(value):
        if said := misfit(one, shape[0], f"{where}.{number}", partial):
            return said
    return None


def _is_plain(value: Any, shape: Any) -> bool:
    """Return whether a value is of the type that the shape is."""
    if shape is None:
        return value is None
    if shape is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(shape, type) and isinstance(value, shape)


def _word(shape: Any) -> str:
    kind = type(shape) if isinstance(shape, dict | list) else shape
    return WORDS[kind]


def _named(value: Any) -> str:
    """Return a value in a few words, however large or deep it is."""
    if isinstance(value, dict | list):
        return WORDS[type(value)]
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 40 else f"{text[:40]}..."
