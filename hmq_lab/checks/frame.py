"""What every check shares: an answer is compared case by case with an oracle, judged in a sentence, and drawn."""

from __future__ import annotations

import base64
import copy
import functools
import inspect
import io
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch

from hmq_lab import plots

MARKS = {True: "✓", False: "✗", None: "○"}


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a check found: passed is None where there is no attempt yet.

    >>> verdict = checks.step(lambda bits, threshold, signed: 1.0)
    >>> verdict.passed, verdict.message
    (False, 'Not yet. For bits=1, threshold=1, signed=False you gave 1; right is 0.5. ...')

    A cell of a notebook that ends with it shows the message, and below it the drawing if there is one.
    """

    passed: bool | None
    message: str
    drawing: plots.Drawing | None = None

    def __str__(self):
        return f"{MARKS[self.passed]} {self.message}"

    def _ipython_display_(self):
        """In two outputs: of a picture and a text in one, a notebook shows the picture alone."""
        from IPython.display import Markdown, display

        display(Markdown(re.sub(r"([*_`<#])", r"\\\1", str(self))))
        if self.drawing is not None:
            plots.show(self.drawing)

    def _repr_mimebundle_(self, **_):
        data, metadata = {"text/plain": str(self)}, {}
        if self.drawing is not None:
            with mpl.rc_context(plots.STYLE):
                self.drawing.savefig(png := io.BytesIO(), format="png")
            data["image/png"] = base64.b64encode(png.getvalue()).decode()
            metadata["image/png"] = {"alt": f"{self.message} {self.drawing.sentence}".strip()}
        else:
            data["text/markdown"] = str(self)
        return data, metadata


def check(judge: Callable) -> Callable:
    """Make a check of a function that judges an answer: a stub that was not touched is no attempt, not an error.

    Whatever else the answer raises is a verdict too, with the error named, so that a notebook runs on.
    """
    name = judge.__name__

    @functools.wraps(judge)
    def checked(answer, **options) -> Verdict:
        if not callable(answer):
            gave = type(answer).__name__
            message = f"Give the function itself: checks.{name}({name}), without calling it; you gave a value, of type"
            return Verdict(False, f"{message} {gave}.")
        try:
            return judge(answer, **options)
        except NotImplementedError:
            return Verdict(None, "Not attempted yet: replace the line that raises NotImplementedError.")
        except Exception as error:
            return Verdict(False, f"Your answer raised {type(error).__name__}: {error}")

    return checked


@dataclass(frozen=True)
class Fault:
    """A typical wrong answer: what to say of it, and a function that makes the same mistake."""

    says: str
    answer: Callable


def compare(
    answer: Callable,
    oracle: Callable,
    cases: Iterable[dict],
    faults: Iterable[Fault] = (),
    tolerance: float = 0.0,
    draw: Callable | None = None,
    right: str = "Right, in all {count} cases.",
) -> Verdict:
    """Judge a function against an oracle over cases, from the smallest on.

    >>> compare(lambda bits: 2**bits, lambda bits: 2**bits, [{"bits": b} for b in (1, 2, 3)]).passed
    True

    cases: arguments by name, in the order of the stub's signature: an answer that renamed them gets them by position
    (see `call`), oracle and faults by name; tensors, arrays and lists among them are handed over as copies. The results
    may be numbers, booleans, tuples, tensors or arrays; tolerance is relative, with 1 as the least size it relates to.
    faults: the first that gives what the answer gives everywhere is named, or else the first that does so wherever the
    answer is wrong. draw: called with cases, what was wanted and what was given; returns a `Drawing`.
    """
    cases = list(cases)
    wanted = [oracle(**_copied(case)) for case in cases]
    given = []
    for case, want in zip(cases, wanted, strict=True):
        try:
            given.append(call(answer, case))
        except NotImplementedError:
            raise
        except Exception as error:
            message = f"Not yet. For {_named(case)} your answer raised {type(error).__name__}: {error}"
            return Verdict(False, message)
        if (problem := _unlike(given[-1], want)) is not None:
            return Verdict(False, f"Not yet. For {_named(case)} {problem}.")
    drawing = None if draw is None else draw(cases, wanted, given)
    wrong = [i for i in range(len(cases)) if not _close(given[i], wanted[i], tolerance)]
    if not wrong:
        return Verdict(True, right.format(count=len(cases)), drawing)
    first = wrong[0]
    message = f"Not yet. For {_named(cases[first])} {_difference(given[first], wanted[first], tolerance)}."
    mistaken = [(fault.says, [_attempt(fault.answer, case) for case in cases]) for fault in faults]
    for where in (range(len(cases)), wrong):
        for says, made in mistaken:
            if all(made[i] is not None and _close(given[i], made[i], tolerance) for i in where):
                return Verdict(False, f"{message} {says}", drawing)
    return Verdict(False, message, drawing)


def call(answer: Callable, case: dict):
    """The answer to a case, by name where it has these names, else by position: a reader may rename the arguments.

    >>> call(lambda b, t: t / 2**b, {"bits": 2, "threshold": 1.0})
    0.25

    An answer that takes nothing but names (`**case`) gets them by name.
    """
    values = _copied(case)
    try:
        parameters = inspect.signature(answer).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        parameters = {}
    kinds = {p.kind for p in parameters.values()}
    named = kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    if kinds and (named or (values.keys() <= parameters.keys() and inspect.Parameter.POSITIONAL_ONLY not in kinds)):
        return answer(**values)
    return answer(*values.values())


def _copied(case: dict) -> dict:
    """The answer may change what it is given, as by sort(): the case stays as it is for the next one."""

    def copied(value):
        if isinstance(value, torch.Tensor):
            return value.clone()
        return copy.deepcopy(value) if isinstance(value, list | dict | np.ndarray) else value

    return {name: copied(value) for name, value in case.items()}


def _attempt(function: Callable, case: dict):
    try:
        return function(**_copied(case))
    except Exception:
        return None


def _array(value) -> np.ndarray:
    return np.asarray(value.detach().double().numpy() if isinstance(value, torch.Tensor) else value, dtype=float)


def _unlike(given, want) -> str | None:
    """What makes the answer no candidate at all: nothing returned, no numbers, another shape."""
    if given is None:
        return "your function returns nothing: a `return` is missing"
    try:
        shape, right = _array(given).shape, _array(want).shape
    except (TypeError, ValueError):
        return f"you gave {type(given).__name__} {given!r}; expected is {_short(want)}"
    return None if shape == right else f"the result has the shape {shape}; expected is {right}"


def _close(given, want, tolerance: float) -> bool:
    a, b = _array(given), _array(want)
    if a.shape != b.shape:
        return False
    same = np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return bool(same.all())


def _difference(given, want, tolerance: float) -> str:
    """The smallest place where two results part."""
    a, b = _array(given), _array(want)
    if a.ndim == 0:
        return f"you gave {_short(given)}; right is {_short(want)}"
    wrong = np.argwhere(~np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
    at = tuple(int(i) for i in wrong[0])
    where = at[0] if len(at) == 1 else at
    return f"the element {where} of your result is {a[at]:.6g}; right is {b[at]:.6g} ({len(wrong)} of {a.size} differ)"


def _short(value) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int):
        return str(value)
    try:
        array = _array(value)
    except (TypeError, ValueError):  # a table of costs, say
        return repr(value)
    if array.ndim == 0:
        number = array.item()
        return f"{number:.6g}" if math.isfinite(number) else str(number)
    if array.size <= 8:
        return "[" + ", ".join(map(_short, array)) + "]"
    return f"an array of shape {array.shape}"


def _named(case: dict) -> str:
    return ", ".join(f"{name}={_short(v) if not isinstance(v, str) else repr(v)}" for name, v in case.items())


def in_bits(count: int) -> str:
    """
    >>> in_bits(1), in_bits(8)
    ('1 bit', '8 bits')
    """
    return f"{count} bit{'s' * (count != 1)}"


def curve(x: str, y: str, pick: int | None = None) -> Callable:
    """A drawing for `compare`: the results over the case's tensor `x`, what is right below what was given.

    pick: which case to draw; None, the first that is wrong, or else the last.
    """

    def draw(cases, wanted, given) -> plots.Drawing:
        differ = [i for i in range(len(cases)) if not _close(given[i], wanted[i], 1e-6)]
        at = pick if pick is not None else (differ[0] if differ else len(cases) - 1)
        drawing, ax = plots.canvas(height=3.2)
        along = _array(cases[at][x]).ravel()
        order = np.argsort(along, kind="stable")
        ax.plot(along[order], _array(wanted[at]).ravel()[order], color=plots.PALE, lw=5, label="right")
        ax.plot(along[order], _array(given[at]).ravel()[order], color=plots.BLUE, lw=1.6, label="yours")
        rest = {name: value for name, value in cases[at].items() if name != x}
        ax.set(xlabel=x, ylabel=y, title=_named(rest))
        ax.legend(frameon=False)
        drawing.sentence = f"Your {y} over {x} beside the right one, for {_named(rest)}."
        return drawing

    return draw


def points(y: str, label: Callable[[dict], str] | None = None) -> Callable:
    """A drawing for `compare` of numbers: a place per case, rings what is right, crosses what you gave."""

    def draw(cases, wanted, given) -> plots.Drawing:
        drawing, ax = plots.canvas(height=3.2)
        at = np.arange(len(cases))
        ring = {"ls": "none", "marker": "o", "ms": 11, "mfc": "none", "mew": 2}
        ax.plot(at, [_array(w).sum() for w in wanted], color=plots.INK, label="right", **ring)
        ax.plot(at, [_array(g).sum() for g in given], "x", color=plots.BLUE, ms=7, mew=2, label="yours")
        names = [label(case) if label else _named(case) for case in cases]
        every = max(1, math.ceil(len(names) / 16))
        ax.set_xticks(at[::every], names[::every], rotation=30, ha="right")
        ax.set_ylabel(y)
        ax.legend(frameon=False)
        drawing.sentence = f"Your {y} beside the right one in {len(cases)} cases."
        return drawing

    return draw
