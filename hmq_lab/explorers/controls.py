"""The controls of an explorer: what a value may be, and the widget that lets a reader choose it."""

from __future__ import annotations

import difflib
import math
import numbers
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np

LAYOUT = {"width": "395px"}  # two in a row beside each other, as wide as the image
STYLE = {"description_width": "130px"}


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`.

    >>> Whole("bits", 1, 8).check("bits", 9)
    Traceback (most recent call last):
    ValueError: bits must be an integer from 1 to 8, got 9
    """

    label: str
    low: int
    high: int
    step: int = 1

    def check(self, name: str, value) -> int:
        """Return a setting as the state keeps it.

        Args:
            name: of the setting.
            value: what was set.

        Returns:
            The value.

        Raises:
            ValueError: the value is not allowed; the message says what is.
        """
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not (whole and self.low <= value <= self.high):
            allowed = f"an integer from {self.low} to {self.high}"
            raise ValueError(f"{name} must be {allowed}, got {value!r}")
        return int(value)

    def described(self) -> dict:
        """The control as a module of JavaScript needs it."""
        ends = {"low": self.low, "high": self.high, "step": self.step}
        return {"kind": "slider", "label": self.label, **ends}

    def widget(self) -> widgets.Widget:
        """Return the widget of the control."""
        return widgets.IntSlider(min=self.low, max=self.high, step=self.step, **_looks(self.label))


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`; `logarithmic`: the slider moves by the step in the exponent of
    ten.
    """

    label: str
    low: float
    high: float
    step: float
    logarithmic: bool = False

    def check(self, name: str, value) -> float:
        """Return a setting as the state keeps it.

        Args:
            name: of the setting.
            value: what was set.

        Returns:
            The value.

        Raises:
            ValueError: the value is not allowed; the message says what is.
        """
        good = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not good or not self.low <= value <= self.high:
            allowed = f"a number from {self.low:g} to {self.high:g}"
            raise ValueError(f"{name} must be {allowed}, got {value!r}")
        return float(value)

    def near(self, value: float, other: float) -> bool:
        """Whether the slider has one place for both: a browser rounds to the slider's steps, and
        sends that back.

        Args:
            value: one setting.
            other: another one.

        Returns:
            True if both have the same place.
        """
        value, other = (math.log10(v) if self.logarithmic else v for v in (value, other))
        return abs(value - other) < 0.499 * self.step

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the slider: of a logarithmic one the exponents of ten, so that 1 is one of its
        steps.
        """
        if not self.logarithmic:
            return self.low, self.high
        low, high = (
            self.step * round(math.log10(end) / self.step) for end in (self.low, self.high)
        )
        return low, high

    def described(self) -> dict:
        """Return the control as a module of JavaScript needs it."""
        low, high = self.ends
        ends = {"low": low, "high": high, "step": self.step, "logarithmic": self.logarithmic}
        return {"kind": "slider", "label": self.label, **ends}

    def widget(self) -> widgets.Widget:
        """Return the widget of the control."""
        low, high = self.ends
        looks = _looks(self.label) | {"readout_format": ".3g", "min": low, "max": high}
        if self.logarithmic:
            return widgets.FloatLogSlider(value=1.0, step=self.step, **looks)
        return widgets.FloatSlider(step=self.step, **looks)


@dataclass(frozen=True)
class Choice:
    """One of `options`, written as `texts`; with `rows`, a list of so many lines to click instead
    of a slider.

    >>> Choice("layer", ("conv1.weight",), ("conv1",)).check("layer", "conv1")
    'conv1.weight'
    """

    label: str
    options: tuple
    texts: tuple[str, ...]
    rows: int = 0

    def check(self, name: str, value):
        """Return a setting as the state keeps it.

        Args:
            name: of the setting.
            value: what was set.

        Returns:
            The value.

        Raises:
            ValueError: the value is not allowed; the message says what is.
        """
        if isinstance(value, str) and value not in self.options and value in self.texts:
            return self.options[self.texts.index(value)]
        if value not in self.options:
            # What is allowed, as short as can be, and what is near.
            few = [repr(option) for option in self.options]
            few = few if len(few) <= 12 else [*few[:5], "...", *few[-5:]]
            strings = [option for option in self.options if isinstance(option, str)]
            words = dict.fromkeys([*self.texts, *strings])
            near = []
            if isinstance(value, str):
                near = difflib.get_close_matches(value, words, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"{name} must be one of {', '.join(few)}, got {value!r}{hint}")
        return self.options[self.options.index(value)]

    def described(self) -> dict:
        """Return the control as a module of JavaScript needs it."""
        kind = "list" if self.rows else "choice"
        options = {"options": list(self.options), "texts": list(self.texts), "rows": self.rows}
        return {"kind": kind, "label": self.label, **options}

    def widget(self) -> widgets.Widget:
        """Return the widget of the control."""
        options = list(zip(self.texts, self.options, strict=True))
        if self.rows:
            looks = {"layout": LAYOUT, "style": STYLE}
            return widgets.Select(options=options, rows=self.rows, description=self.label, **looks)
        return widgets.SelectionSlider(options=options, **_looks(self.label))


@dataclass(frozen=True)
class Switch:
    """True or False."""

    label: str

    def check(self, name: str, value) -> bool:
        """Return a setting as the state keeps it.

        Args:
            name: of the setting.
            value: what was set.

        Returns:
            The value.

        Raises:
            ValueError: the value is not allowed; the message says what is.
        """
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
        return value

    def described(self) -> dict:
        """Return the control as a module of JavaScript needs it."""
        return {"kind": "switch", "label": self.label}

    def widget(self) -> widgets.Widget:
        """Return the widget of the control."""
        return widgets.Checkbox(description=self.label, layout=LAYOUT, style=STYLE)


@dataclass(frozen=True)
class Player(Whole):
    """An integer from `low` to `high` that runs upwards by itself, `milliseconds` for each."""

    milliseconds: int = 400

    def described(self) -> dict:
        """Return the control as a module of JavaScript needs it."""
        return super().described() | {"kind": "play", "milliseconds": self.milliseconds}

    def widget(self) -> widgets.Widget:
        """Return the widget of the control."""
        looks = {"description": self.label, "layout": LAYOUT, "show_repeat": False, "style": STYLE}
        ends = {"min": self.low, "max": self.high, "step": self.step}
        return widgets.Play(interval=self.milliseconds, **ends, **looks)


Control = Whole | Real | Choice | Switch


def powers(label: str, exponents) -> Choice:
    """A choice among powers of two, in ascending order.

    >>> powers("threshold", [0, -1, -2]).texts
    ('2^-2', '2^-1', '2^0')

    Args:
        label: of the control.
        exponents: of the powers, in any order.

    Returns:
        The control.
    """
    exponents = tuple(sorted(int(e) for e in exponents))
    return Choice(label, exponents, tuple(f"2^{e}" for e in exponents))


def _looks(label: str) -> dict:
    return {"description": label, "continuous_update": True, "layout": LAYOUT, "style": STYLE}
