"""What holds for every check: answers are called by position, in the order of the stub that the lesson prints."""

import ast
from pathlib import Path

import pytest
import torch

from hmq_lab import checks

SOURCES = sorted((Path(__file__).parents[1] / "notebooks" / "source").glob("[0-9]*.py"))


def exercises():
    """(lesson, name of the check, the stub's arguments) of every exercise whose answer is a function."""
    for source in SOURCES:
        cells = source.read_text(encoding="utf-8").split("\n# %%")
        stubs = {}
        for cell in cells:
            head, _, body = cell.partition("\n")
            if '"stub"' in head:
                for node in ast.parse(body).body:
                    if isinstance(node, ast.FunctionDef):
                        stubs[node.name] = [argument.arg for argument in node.args.args]
            elif '"check"' in head:
                for call in ast.walk(ast.parse(body)):
                    if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("checks."):
                        answer = ast.unparse(call.args[0]) if call.args else ""
                        if answer in stubs:
                            yield (
                                source.stem[:2],
                                ast.unparse(call.func).removeprefix("checks."),
                                stubs[answer],
                            )


EXERCISES = list(exercises())


def test_every_lesson_with_stubs_is_looked_at():
    assert {lesson for lesson, _, _ in EXERCISES} >= {
        "00",
        "01",
        "02",
        "03",
        "04",
        "05",
        "06",
        "10",
    }
    assert len(EXERCISES) >= 27


@pytest.mark.parametrize(
    "lesson, name, arguments", EXERCISES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_arguments_may_have_other_names(lesson, name, arguments):
    """A stub with renamed arguments is no attempt yet, not an error; positions mean what the lesson's stub says."""
    judge, counts, orders = getattr(checks, name), [], []

    def renamed(*values):
        counts.append(len(values))
        raise NotImplementedError

    def by_name(**values):
        orders.append(list(values))
        raise NotImplementedError

    assert judge(renamed).passed is None and set(counts) == {len(arguments)}
    assert judge(by_name).passed is None and orders[0] == arguments

    names = ", ".join(f"other{i}" for i in range(len(arguments)))
    stub = eval(
        f"lambda {names}, /: unwritten()", {"unwritten": lambda: renamed(*range(len(arguments)))}
    )
    assert judge(stub).passed is None
    wrong = judge(eval(f"lambda {names}, /: None")).message
    assert "returns nothing" in wrong and "?." not in wrong and "TypeError" not in wrong


def test_right_answers_with_other_names_are_right():
    assert checks.step(lambda b, t, s, /: t / 2 ** (b - s)).passed is True
    assert checks.relaxed_sample(lambda l, g, tau: torch.softmax((l + g) / tau, 1)).passed is True
    assert checks.hinge(lambda reached, wanted: max(1 - reached / wanted, 0) ** 2).passed is True
    assert checks.pack(bytes_of).passed is True


def bytes_of(numbers, width):
    whole = sum((n % 2**width) << (width * i) for i, n in enumerate(numbers))
    return list(whole.to_bytes(-(-len(numbers) * width // 8), "little"))


@pytest.mark.parametrize("answer", [0.75, None, [1, 2]])
def test_what_is_no_function_is_told_so(answer):
    verdict = checks.largest(answer)
    assert verdict.passed is False and type(answer).__name__ in verdict.message
    assert (
        "Give the function itself: checks.largest(largest), without calling it" in verdict.message
    )


def test_lists_of_a_case_look_like_lists_and_one_bit_is_no_bits():
    assert "For bits=[4], sizes=[10] you gave" in checks.mean_bits(lambda bits, sizes: 1.0).message
    drawing = checks.step(lambda bits, threshold, signed: 1.0).drawing
    labels = [label.get_text() for axes in drawing.axes for label in axes.get_xticklabels()]
    assert "1 bit below 1, signed" in labels and "2 bits below 1, signed" in labels


def test_too_few_arguments_are_named():
    message = checks.step(lambda bits: bits).message
    assert (
        "raised TypeError" in message and "takes 1 positional argument but 3 were given" in message
    )
    assert "takes 0 positional arguments" in checks.step(lambda: 1).message


def test_a_function_without_a_signature_can_be_an_answer():
    assert checks.mean_bits(min).passed is False  # min has none in some versions of Python
