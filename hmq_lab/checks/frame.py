"""What every check shares: compare an answer with an oracle, judge it in a sentence, draw it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import inspect
import io
import math
import os
import re
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import torch

from hmq_lab import plots
from hmq_lab.checks import progress

MARKS = {True: "✓", False: "✗", None: "○"}
OPEN = "Not attempted yet: replace the line that raises NotImplementedError."

# The relative tolerance for numbers that were computed in a precision, by bytes of a number.
PRECISION = {2: 2e-2, 4: 1e-5, 8: 0.0}

# Whether checks draw: a program that only wants verdicts sets it to False and saves time.
DRAWING = True

# Names of all checks by lesson, filled by the decorator `check`.
REGISTERED: dict[str, list[str]] = {}


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a check found about an answer.

    >>> from hmq_lab import checks
    >>> verdict = checks.step(lambda bits, threshold, signed: 1.0)
    >>> verdict.passed, verdict.lesson, verdict.name
    (False, '01', 'step')

    A cell of a notebook that ends with it shows the message, and below it the drawing if there
    is one; the reader's progress then counts it.

    Args:
        passed: True or False; None where there is no attempt yet.
        message: one or two sentences for the reader.
        drawing: the answer beside what is right, if the check draws.
        lesson: two digits, such as "01".
        name: name of the check.
    """

    passed: bool | None
    message: str
    drawing: plots.Drawing | None = None
    lesson: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{MARKS[self.passed]} {self.message}"

    def _ipython_display_(self) -> None:
        """Display in two outputs: a notebook shows only the image of an output that has both."""
        from IPython.display import Markdown, display

        if self.passed is not None and self.name:
            progress.keep_check(self.lesson, self.name, self.passed)
        display(Markdown(re.sub(r"([*_`<#])", r"\\\1", str(self))))
        if self.drawing is not None:
            plots.show(self.drawing)
        # nbgrader gives the point of a check, unless its cell raises an error.
        if "NBGRADER_EXECUTION" in os.environ and not self.passed:
            raise AssertionError(self.message)

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        # Plain text is always there, for pages that show nothing else.
        data = {"text/plain": str(self)}
        metadata: dict = {}
        if self.drawing is None:
            data["text/markdown"] = str(self)
            return data, metadata
        # The drawing goes along as an image, with its sentence for readers who cannot see it.
        png = io.BytesIO()
        with mpl.rc_context(plots.STYLE):
            self.drawing.savefig(png, format="png")
        data["image/png"] = base64.b64encode(png.getvalue()).decode()
        metadata["image/png"] = {"alt": f"{self.message} {self.drawing.sentence}".strip()}
        return data, metadata


def check(judge: Callable) -> Callable:
    """Return a check made of a function that judges an answer.

    A stub that was not touched is no attempt, and an error in an answer is a verdict that names
    the error, so that a notebook runs on.

    Args:
        judge: takes the reader's function, returns a verdict.

    Returns:
        The check: a function that takes an answer and always returns a verdict.
    """
    # The check is known by its function's name, under the number of its lesson.
    name = judge.__name__
    lesson = judge.__module__.rpartition("lesson")[2]
    REGISTERED.setdefault(lesson, []).append(name)

    # The judge keeps its name and docstring; every way ends in a verdict.
    @functools.wraps(judge)
    def checked(answer, **options) -> Verdict:
        # The usual slip: the reader calls the function instead of handing it over.
        if not callable(answer):
            gave = type(answer).__name__
            call_it = f"Give the function itself: checks.{name}({name}), without calling it"
            return Verdict(
                False, f"{call_it}; you gave a value, of type {gave}.", None, lesson, name
            )
        # Whatever the answer raises becomes a verdict, never a traceback.
        try:
            verdict = judge(answer, **options)
        except NotImplementedError as error:
            verdict = _unwritten(answer, error)
        except Exception as error:
            verdict = Verdict(False, f"Your answer raised {type(error).__name__}: {error}")
        return dataclasses.replace(verdict, lesson=lesson, name=name)

    return checked


def _unwritten(answer: Callable, error: NotImplementedError) -> Verdict:
    """Return the verdict on an answer that is a stub, or that calls another stub."""
    # torch raises the same type where it has no such operation, and then it says which.
    if error.args:
        return Verdict(False, f"Your answer raised NotImplementedError: {error}")
    # The innermost frame tells which function raised.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = None if trace is None else trace.tb_frame.f_code
    # Another function than the answer itself may be the unwritten one.
    own = getattr(inspect.unwrap(answer), "__code__", None)
    if isinstance(own, types.CodeType) and raised_in is not None and raised_in is not own:
        other = raised_in.co_name
        if other.isidentifier():
            says = (
                f"Your answer calls `{other}`, and `{other}` is not written yet: it still raises "
            )
            return Verdict(None, says + "NotImplementedError. Write that function first.")
    return Verdict(None, OPEN)


@dataclass(frozen=True)
class Fault:
    """A typical wrong answer: what to say of it, and a function that makes the same mistake."""

    says: str
    answer: Callable


class Faults(list):
    """Typical wrong answers, the likeliest first.

    >>> faults = Faults()
    >>> @faults.says("That is the threshold itself.")
    ... def _(bits, threshold):
    ...     return threshold
    >>> faults[0].answer(bits=2, threshold=0.5)
    0.5
    """

    def says(self, sentence: str) -> Callable:
        """Return a decorator that adds a function as the wrong answer this sentence is about.

        Args:
            sentence: what the reader is told.

        Returns:
            The decorator; it keeps the function.
        """

        def add(function: Callable) -> Callable:
            self.append(Fault(sentence, function))
            return function

        return add

    def add(self, sentence: str, answer: Callable) -> None:
        """Add a wrong answer that is already a function.

        Args:
            sentence: what the reader is told.
            answer: the wrong answer.
        """
        self.append(Fault(sentence, answer))


class Cases(list):
    """Cases of an exercise, the simplest first: a message names the first that is wrong.

    >>> cases = Cases("bits", "threshold")
    >>> cases.add(2, 0.5)
    >>> cases
    [{'bits': 2, 'threshold': 0.5}]

    Args:
        names: the arguments of the reader's function, in their order.
    """

    def __init__(self, *names: str):
        super().__init__()
        self.names = names

    def add(self, *values) -> None:
        """Add one case.

        Args:
            values: one for each name.
        """
        self.append(dict(zip(self.names, values, strict=True)))


def compare(
    answer: Callable,
    oracle: Callable,
    cases: Iterable[dict],
    faults: Iterable[Fault] = (),
    tolerance: float = 0.0,
    draw: Callable | None = None,
    right: str = "Right, in all {count} cases.",
) -> Verdict:
    """Return the verdict on a function, judged against an oracle over cases.

    >>> cases = [{"bits": b} for b in (1, 2, 3)]
    >>> compare(lambda bits: 2**bits, lambda bits: 2**bits, cases).passed
    True

    The first fault that gives what the answer gives everywhere is named. Else the first one that
    does so wherever the answer is wrong, if these are at least half of the fault's own mistakes.

    Args:
        answer: the reader's function.
        oracle: gives what is right; called by name. Results are numbers, booleans, tuples,
            tensors or arrays.
        cases: arguments by name, the simplest case first, in the order of the stub's signature.
            An answer that renamed them gets them by position (see `call`). Tensors, arrays,
            lists and dicts are handed over as copies.
        faults: typical wrong answers; called by name.
        tolerance: relative, with 1 as the least size it relates to; 0 compares exactly. Answers
            computed in float32 get at least 1e-5, unless it is 0.
        draw: called with cases, what was wanted and what was given; returns a `Drawing`.
        right: the message for a right answer.

    Returns:
        The verdict, with a message that names the first wrong case.

    Raises:
        NotImplementedError: the answer is not written yet; `check` makes a verdict of it.
    """
    # The oracle goes first: its results are what every answer is compared with.
    cases = list(cases)
    wanted = [oracle(**_copied(case)) for case in cases]
    given = []
    for case, want in zip(cases, wanted, strict=True):
        # An answer that fails, or has another shape, ends the comparison: it cannot be drawn.
        try:
            given.append(call(answer, case))
        except NotImplementedError:
            raise
        except Exception as error:
            raised = f"your answer raised {type(error).__name__}: {error}"
            return Verdict(False, f"Not yet. For {_named(case)} {raised}")
        problem = _unlike(given[-1], want)
        if problem is not None:
            return Verdict(False, f"Not yet. For {_named(case)} {problem}.")
    # A drawing is made where one is asked for and somebody looks.
    drawing = draw(cases, wanted, given) if draw is not None and DRAWING else None

    # The tolerance is that of the least precise of all results.
    if tolerance:
        tolerance = max(tolerance, *(precision(value) for value in given))
    everywhere = range(len(cases))
    wrong = [i for i in everywhere if not close(given[i], wanted[i], tolerance)]
    if not wrong:
        return Verdict(True, right.format(count=len(cases)), drawing)

    # The message names the first wrong case, and the typical mistake if it is one.
    first = wrong[0]
    differ = _difference(given[first], wanted[first], tolerance)
    message = f"Not yet. For {_named(cases[first])} {differ}."
    fault = _named_fault(list(faults), cases, wanted, given, wrong, tolerance)
    if fault is not None:
        message = f"{message} {fault.says}"
    return Verdict(False, message, drawing)


def _named_fault(
    faults: list[Fault], cases: list, wanted: list, given: list, wrong: list[int], tolerance: float
) -> Fault | None:
    """Return the fault that explains the answer: everywhere, or else where the answer is wrong."""
    # The first fault that explains every case wins at once.
    partly = None
    for fault in faults:
        made = [_attempt(fault.answer, case) for case in cases]

        def same(i: int, made=made) -> bool:
            return made[i] is not None and close(given[i], made[i], tolerance)

        if all(same(i) for i in range(len(cases))):
            return fault
        # A fault may also explain the wrong cases alone, if it is wrong in few others.
        if partly is None and all(same(i) for i in wrong):
            mistakes = [
                i for i, m in enumerate(made) if m is None or not close(m, wanted[i], tolerance)
            ]
            if 2 * len(wrong) >= len(mistakes):
                partly = fault
    return partly


def call(answer: Callable, case: dict):
    """Return the answer to a case, by name where it has these names, else by position.

    >>> call(lambda b, t: t / 2**b, {"bits": 2, "threshold": 1.0})
    0.25

    An answer that takes nothing but names (`**case`) gets them by name.

    Args:
        answer: the reader's function.
        case: arguments by name.

    Returns:
        Whatever the answer returns.
    """
    # Some callables have no names for their parameters.
    values = _copied(case)
    try:
        parameters = inspect.signature(answer).parameters
    except (TypeError, ValueError):
        parameters = types.MappingProxyType({})  # some functions written in C have no signature
    # By name where the names fit, else in the order of the case.
    kinds = {p.kind for p in parameters.values()}
    only_names = kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    has_names = values.keys() <= parameters.keys()
    if kinds and only_names:
        return answer(**values)
    if kinds and has_names and inspect.Parameter.POSITIONAL_ONLY not in kinds:
        return answer(**values)
    return answer(*values.values())


def _copied(case: dict) -> dict:
    """Return a copy: an answer may change what it is given, as by sort()."""

    # Only what can be changed in place is copied.
    def copied(value):
        if isinstance(value, torch.Tensor):
            return value.clone()
        if isinstance(value, list | dict | np.ndarray):
            return copy.deepcopy(value)
        return value

    return {name: copied(value) for name, value in case.items()}


def _attempt(function: Callable, case: dict):
    try:
        return function(**_copied(case))
    except Exception:
        return None


def array(value) -> np.ndarray:
    """Return a result as an array of float64.

    Args:
        value: number, tensor, array or a group of them.

    Returns:
        The array; a group of numbers has one axis more.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().double().cpu().numpy()
    elif isinstance(value, list | tuple):
        value = [array(item) for item in value]
    return np.asarray(value, dtype=float)


def precision(value) -> float:
    """Return the relative tolerance that the precision of a result asks for.

    >>> precision(0.1), precision(torch.tensor(0.1)), precision(torch.tensor(0.1).item())
    (0.0, 1e-05, 1e-05)

    A Python number that float32 holds exactly may have been computed in float32: its tolerance
    is the same.

    Args:
        value: number, tensor, array or a group of them.

    Returns:
        The tolerance: the larger, the fewer bits the result has.
    """
    # A group is as precise as its least precise member.
    if isinstance(value, list | tuple):
        return max((precision(item) for item in value), default=0.0)
    # A type with few bits tells its precision itself.
    if isinstance(value, torch.Tensor | np.ndarray | np.floating):
        whole = isinstance(value, torch.Tensor) and not value.dtype.is_floating_point
        size = 8 if whole else value.dtype.itemsize
        if size < 8:
            return PRECISION.get(size, PRECISION[2])
    # Plain floats: those that float32 holds exactly may come from it.
    numbers = array(value)
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    return PRECISION[4] if np.array_equal(single, numbers, equal_nan=True) else PRECISION[8]


def _unlike(given, want) -> str | None:
    """Return what makes the answer no candidate: nothing returned, no numbers, another shape."""
    # A forgotten `return` is the most frequent slip.
    if given is None:
        return "your function returns nothing: a `return` is missing"
    # What is no number has no shape.
    try:
        shape = array(given).shape
        right = array(want).shape
    except (TypeError, ValueError):
        return f"you gave {type(given).__name__} {given!r}; expected is {short(want)}"
    # Both are numbers: only the shape can differ.
    if shape == right:
        return None
    return f"the result has the shape {shape}; expected is {right}"


def close(given, want, tolerance: float) -> bool:
    """Return whether two results are equal within a relative tolerance.

    Args:
        given: what the answer returned.
        want: what is right.
        tolerance: relative, with 1 as the least size it relates to.

    Returns:
        True if every element is close enough and the shapes are equal.
    """
    a = array(given)
    b = array(want)
    if a.shape != b.shape:
        return False
    return bool(np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True).all())


def _difference(given, want, tolerance: float) -> str:
    """Return the first place where two results differ, in words."""
    # Single numbers are told without a place.
    a = array(given)
    b = array(want)
    if a.ndim == 0:
        if isinstance(given, bool | np.bool_) or isinstance(want, bool | np.bool_):
            return f"you gave {short(given)}; right is {short(want)}"
        yours, right = apart(a.item(), b.item())
        return f"you gave {yours}; right is {right}"
    # Of an array the first wrong element is told, and how many there are.
    same = np.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    wrong = np.argwhere(~same)
    at = tuple(int(i) for i in wrong[0])
    where = at[0] if len(at) == 1 else at
    yours, right = apart(float(a[at]), float(b[at]))
    count = f"{len(wrong)} of {a.size} differ"
    return f"the element {where} of your result is {yours}; right is {right} ({count})"


def apart(given: float, right: float) -> tuple[str, str]:
    """Return two different numbers with the fewest digits, from 4, that tell them apart.

    >>> apart(-2.77556e-16, 0.325564), apart(2.060001, 2.06)
    (('0', '0.3256'), ('2.060001', '2.06'))

    Args:
        given: the answer's number.
        right: the right number.

    Returns:
        Both numbers as text.
    """
    # What rounding left of a zero is shown as 0.
    if abs(given) < 1e-12 < abs(right):
        given = 0.0
    if abs(right) < 1e-12 < abs(given):
        right = 0.0
    # More digits, until the two texts differ.
    for digits in (4, 6, 7, 9, 12, 17):
        pair = f"{given:.{digits}g}", f"{right:.{digits}g}"
        if pair[0] != pair[1]:
            break
    return plain(pair[0], given), plain(pair[1], right)


def plain(text: str, value: float) -> str:
    """Return a whole number without exponent, such as 23454912 and not 2.345e+07.

    Args:
        text: the number as it was formatted.
        value: the number itself.

    Returns:
        The number as text.
    """
    if math.isfinite(value) and value == round(value) and abs(value) < 1e15:
        return str(round(value))
    return text


def short(value) -> str:
    """Return a value in a few characters.

    >>> short(-2.77556e-16), short(np.float64(0.325564)), short({2: np.float64(0.25), 8: 0.0})
    ('0', '0.33', '{2: 0.25, 8: 0}')

    Args:
        value: any value.

    Returns:
        The value as text, shortened where it is long.
    """
    # Simple values are their own text.
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | str):
        return str(value)
    # Groups are written item by item.
    if isinstance(value, dict):
        return "{" + ", ".join(f"{short(key)}: {short(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list) and any(isinstance(item, dict | tuple) for item in value):
        return "[" + ", ".join(map(short, value)) + "]"
    if isinstance(value, tuple) and all(isinstance(item, int | float) for item in value):
        return "(" + ", ".join(map(short, value)) + ")"
    # All else is read as numbers, if it can be.
    try:
        numbers = array(value)
    except (TypeError, ValueError):
        return repr(value)  # something else, which says itself what it is
    # A long array is told by its shape alone.
    if numbers.ndim == 0:
        return _few_digits(numbers.item())
    if numbers.size <= 8:
        return "[" + ", ".join(map(short, numbers)) + "]"
    return f"an array of shape {numbers.shape}"


def _few_digits(number: float) -> str:
    """Return a number as it is if 5 digits hold it, else with two digits."""
    if not math.isfinite(number):
        return str(number)
    if abs(number) < 1e-12:
        return "0"
    exact = f"{number:.5g}"
    text = exact if float(exact) == number else f"{number:.2g}"
    return plain(text, number)


def _named(case: dict) -> str:
    texts = []
    for name, value in case.items():
        text = repr(value) if isinstance(value, str) else short(value)
        texts.append(f"{name}={text}")
    return ", ".join(texts)


def in_bits(count: int) -> str:
    """Return a number of bits in words.

    >>> in_bits(1), in_bits(8)
    ('1 bit', '8 bits')

    Args:
        count: number of bits.

    Returns:
        The number with its noun.
    """
    return f"{count} bit{'s' * (count != 1)}"


def in_sign(signed: bool) -> str:
    """Return the word for a range with or without negative values.

    >>> in_sign(True), in_sign(False)
    ('signed', 'unsigned')

    Args:
        signed: whether the range has negative values.

    Returns:
        The word.
    """
    return "signed" if signed else "unsigned"


def curve(x: str, y: str, pick: int | None = None) -> Callable:
    """Return a drawing for `compare`: results over the tensor `x` of a case.

    Args:
        x: name of the argument along the axis.
        y: what the results are.
        pick: which case to draw; None takes the first wrong one, or else the last.

    Returns:
        The drawing function.
    """

    # The drawing is made when the answer is known.
    def draw(cases, wanted, given) -> plots.Drawing:
        # The case to draw: the one asked for, else the first wrong one, else the last.
        differ = [i for i in range(len(cases)) if not close(given[i], wanted[i], 1e-6)]
        at = len(cases) - 1
        if pick is not None:
            at = pick
        elif differ:
            at = differ[0]
        drawing, ax = plots.canvas(height=3.2)
        # Both curves run from the smallest x to the largest.
        along = array(cases[at][x]).ravel()
        order = np.argsort(along, kind="stable")
        right = array(wanted[at]).ravel()[order]
        yours = array(given[at]).ravel()[order]
        ax.plot(along[order], right, color=plots.PALE, lw=5, label="right")
        ax.plot(along[order], yours, color=plots.BLUE, lw=1.6, label="yours")
        # The other arguments of the case are the title.
        rest = {name: value for name, value in cases[at].items() if name != x}
        ax.set(xlabel=x, ylabel=y, title=_named(rest))
        ax.legend(frameon=False)
        drawing.sentence = f"Your {y} over {x} beside the right one, for {_named(rest)}."
        return drawing

    return draw


def points(y: str, label: Callable[[dict], str] | None = None) -> Callable:
    """Return a drawing for `compare` of numbers: rings for what is right, crosses for the answer.

    Args:
        y: what the numbers are.
        label: gives the text below a case; None writes its arguments.

    Returns:
        The drawing function.
    """

    # The drawing is made when the answer is known.
    def draw(cases, wanted, given) -> plots.Drawing:
        # Each case is one place on the axis; an array counts by its sum.
        drawing, ax = plots.canvas(height=3.2)
        at = np.arange(len(cases))
        right = [array(w).sum() for w in wanted]
        yours = [array(g).sum() for g in given]
        ring = {"ls": "none", "marker": "o", "ms": 11, "mfc": "none", "mew": 2}
        ax.plot(at, right, color=plots.INK, label="right", **ring)
        ax.plot(at, yours, "x", color=plots.BLUE, ms=7, mew=2, label="yours")
        # At most 16 names fit below the axis.
        names = [label(case) if label else _named(case) for case in cases]
        every = max(1, math.ceil(len(names) / 16))
        ax.set_xticks(at[::every], names[::every], rotation=30, ha="right")
        ax.set_ylabel(y)
        ax.legend(frameon=False)
        drawing.sentence = f"Your {y} beside the right one in {len(cases)} cases."
        return drawing

    return draw
