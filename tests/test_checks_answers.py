"""Many answers to every exercise: the lesson's solution in ten dresses passes, and mistakes do not.

The solutions are read from the lessons, so that the two cannot part.
"""

import inspect
import math
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from hmq_lab import Scheme, checks, quantize
from hmq_lab.checks import frame

SOURCES = sorted((Path(__file__).parents[1] / "notebooks" / "source").glob("[0-9]*.py"))
NAMES = {"math": math, "np": np, "torch": torch, "Scheme": Scheme, "quantize": quantize}


def solutions():
    """Every exercise's name and its solution, a function that sees the ones before it."""
    for source in SOURCES:
        scope = dict(NAMES)
        for cell in jupytext.read(source, fmt="py:percent").cells:
            if "solution" in cell.metadata.get("tags", []):
                before = set(scope)
                exec(cell.source, scope)
                new = [n for n in scope if n not in before and not n.startswith("__")]
                name = new[-1] if new else cell.source.split("def ")[-1].split("(")[0]
                yield name, scope[name]


SOLUTIONS = dict(solutions())
EXACT = {  # results are whole numbers, places or truth values: another one is wrong, half of one too
    "to_codes", "rescale", "best_exponent", "fewest_bits", "gumbel_max", "selection", "best_bits", "inverted",
    "activation_bits", "kept", "requantize", "aligned_sum", "accumulator_bits", "pack", "pareto", "beats",
    "cheapest_bit", "largest_exponent",
}  # fmt: skip
NO_ARRAYS = {"upright"}  # torch.fx has to follow it: its result is a tensor
WIDE = {"rescale", "requantize"}  # results of more than 24 bits, which float32 does not hold


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(frame, "DRAWING", False)


def mapped(change, value):
    """A result with every part of it changed; tuples and lists stay what they are."""
    if isinstance(value, tuple | list) and not all(isinstance(v, bool) for v in value):
        return type(value)(mapped(change, v) for v in value)
    return change(value)


def tensor(value, dtype=torch.float64):
    return (
        value.to(dtype)
        if isinstance(value, torch.Tensor)
        else torch.tensor(np.asarray(value), dtype=dtype)
    )


def array(value, dtype=float):
    value = value.numpy() if isinstance(value, torch.Tensor) else value
    return np.asarray(value).astype(dtype)


RIGHT = {
    "as it is": lambda v: v,
    "torch float64": tensor,
    "torch float32": lambda v: tensor(v, torch.float32),
    "torch float32, in a graph": lambda v: tensor(v, torch.float32).requires_grad_(),
    "NumPy": array,
    "NumPy float32": lambda v: array(v, np.float32),
    "plain Python": lambda v: array(v).tolist(),
    "plain Python, computed in float32": lambda v: array(v, np.float32).tolist(),
}
WRONG = {
    "nothing": lambda v: None,
    "text": lambda v: "three",
    "one axis more": lambda v: array(v)[None],
    "negated, less one": lambda v: -array(v) - 1,
    "doubled, and one": lambda v: 2 * array(v) + 1,
    "a thousandth more": lambda v: array(v) * 1.001 + 0.001,
    "a tenth less": lambda v: array(v) * 0.9 - 0.1,
    "not a number": lambda v: array(v) * math.nan,
    "all zero": lambda v: array(v) * 0,
}


def dressed(name, change):
    """The solution with its results changed, called as the solution is called."""
    solution = SOLUTIONS[name]

    def answer(*values, **named):
        return mapped(change, solution(*values, **named))

    answer.__signature__ = inspect.signature(solution)
    return answer


def test_every_exercise_has_a_solution():
    assert len(SOLUTIONS) > 40
    assert {name for names in frame.REGISTERED.values() for name in names} == set(SOLUTIONS)


@pytest.mark.parametrize("dress", RIGHT)
@pytest.mark.parametrize("name", SOLUTIONS)
def test_right_answers_pass_in_any_dress(name, dress):
    if name in NO_ARRAYS and dress != "as it is":
        pytest.skip("torch.fx reads this answer")
    if name in WIDE and "float" in dress:
        pytest.skip("these integers need 64 bits")
    verdict = getattr(checks, name)(dressed(name, RIGHT[dress]))
    assert verdict.passed is True, verdict.message
    assert verdict.name == name and verdict.lesson.isdigit()


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("name", SOLUTIONS)
def test_wrong_answers_do_not_pass(name, change):
    verdict = getattr(checks, name)(dressed(name, WRONG[change]))
    assert verdict.passed is False, f"{name}: {change} passed"


@pytest.mark.parametrize("name", SOLUTIONS)
def test_no_message_shows_two_equal_numbers(name):
    for change in ("a thousandth more", "a tenth less", "doubled, and one", "all zero"):
        message = getattr(checks, name)(dressed(name, WRONG[change])).message
        assert "np." not in message and "e-16" not in message and "e-17" not in message
        if "right is" in message:
            before, after = message.split("; right is ")
            given = before.split()[-1]
            assert given != after.split()[0].rstrip(".") and given != "-0", message


@pytest.mark.parametrize("name", SOLUTIONS)
def test_an_answer_may_be_written_later_than_the_one_it_calls(name):
    """A call of an exercise that is still open is named; the answer itself is not blamed."""

    def earlier():
        raise NotImplementedError

    def answer(*values, **named):
        return earlier()

    answer.__signature__ = inspect.signature(SOLUTIONS[name])
    verdict = getattr(checks, name)(answer)
    assert verdict.passed is None and "calls `earlier`" in verdict.message


def test_an_operation_that_torch_lacks_is_an_error_and_no_stub():
    def answer(bits, threshold, signed):
        raise NotImplementedError("'round' is not implemented for 'Byte'")

    verdict = checks.step(answer)
    assert verdict.passed is False and "not implemented for 'Byte'" in verdict.message


# Mistakes that once passed, or got the wrong diagnosis


def test_a_whole_number_of_steps_between_updates_is_not_enough():
    def answer(step, steps_per_epoch):
        n = steps_per_epoch // 25
        return max(0.5, math.exp(-0.01 * round(step % (5 * steps_per_epoch) / n)))

    verdict = checks.cycle_temperature(answer)
    assert verdict.passed is False and "with 391 steps an epoch, n is 391 / 25" in verdict.message


def test_a_product_of_the_arguments_works_as_it_stands():
    def answer(probabilities, bits, exponents, signed):
        thresholds = 2.0**exponents
        steps = thresholds / 2 ** (bits[:, None] - int(signed))
        return (probabilities * steps).sum(), probabilities.sum(0) @ thresholds

    assert checks.expected_parameters(answer).passed is True


def test_gains_that_were_cut_off_are_called_so():
    def answer(changes, sizes):
        prices = [max(change, 0) / size for change, size in zip(changes, sizes, strict=True)]
        return prices.index(min(prices))

    assert "do not cut it off at 0" in checks.cheapest_bit(answer).message


def test_a_variance_is_called_a_variance():
    def answer(x, limit, signed, exponents):
        for bits in range(1, 9):
            lost = []
            for exponent in exponents:
                scheme = Scheme(bits, exponent, signed)
                q = quantize(x, scheme.step, scheme.threshold, signed)
                lost.append((q - x).square().sum())
            if min(lost) <= limit * x.var(correction=0) * x.numel():
                return bits
        return 8

    message = checks.fewest_bits(answer).message
    assert "that is the variance" in message and "off by one" not in message


def test_numbers_are_short():
    verdict = checks.largest(lambda bits, threshold: -2.77556e-16)
    assert "you gave 0; right is 0.75" in verdict.message
    costs = [{2: np.float64(0.325564), 8: 0.0}]
    assert frame.short(costs) == "[{2: 0.33, 8: 0}]"
    assert frame.apart(2.060001, 2.06) == ("2.060001", "2.06")
