"""How the package reads: what `measure_style.py` counts is right, and the package keeps to the
limits.
"""

import ast
import textwrap

import measure_style
import pytest

MODULE = textwrap.dedent(
    '''\
    """A module."""

    # One comment line.
    LIMIT = 3  # not a line of its own


    def double(x: float, scale=2) -> float:
        """Return twice x.

        Args:
            x: any number.
        """
        return x * scale if x else f"{x:g}"


    def triple(x):
        """Return three times x."""
        rows = [[a for a in b] for b in x]  # fmt: skip
        return rows


    class _Private:
        def method(self):
            pass


    class Public:
        def method(self):
            return [a for b in self for a in b]
    '''
)

# The most (or, of comments and docstrings, the least) that the whole package may have. Only ever
# tighten these.
MOST = {
    "tokens/statement": 14,
    "90th percentile": 25,
    "conditionals/1000": 25,
    "nested/1000": 2.5,
    "over 100 %": 0.5,
    "fmt: skip": 0,
}
LEAST = {"comments/1000": 90, "docstrings %": 95, "Args %": 75}


@pytest.fixture(scope="module")
def rows():
    return measure_style.report()


def test_a_module_is_measured():
    found = measure_style.measure(MODULE)
    # Counted by hand.
    assert found.public_names == 3  # double, triple, Public
    assert (found.comment_lines, found.format_skips) == (1, 1)
    assert (found.conditionals, found.nested_comprehensions) == (1, 2)
    assert (found.public_functions, found.with_docstring) == (3, 2)
    assert (found.takes_arguments, found.with_args) == (2, 1)
    assert found.code_lines == 12
    # LIMIT = 3 | return x * scale if x else f"{x:g}" | rows = ... | return rows | return [...]
    # The f-string has a beginning, an end, two braces, a name, a colon and a format.
    assert sorted(found.statements) == sorted([3, 7 + 7, 15, 2, 12])


def test_lines_are_as_long_as_they_are():
    found = measure_style.measure("x = 1\n\n" + "y = 2" + " " * 90 + "# long\n")
    assert (found.lines, found.filled_lines, found.long_lines) == (3, 2, 1)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [('"text"', 1), ("'a' 'b'", 1), ('f"a"', 3), ('f"{a}"', 5), ('f"a{a + 1}b"', 9)],
)
def test_a_string_counts_for_what_is_in_it(text, tokens):
    assert measure_style.tokens_of_fstring(text) == tokens


def test_a_docstring_is_no_statement():
    tree = ast.parse('"""Text."""\nx = 1\n')
    assert [measure_style.is_docstring(node) for node in tree.body] == [True, False]


def test_every_room_has_a_row(rows):
    assert {"(root)", "graph", "hardware", "runs", "explorers", "all"} <= rows.keys()
    parts = [row for name, row in rows.items() if name != "all"]
    for counted in ("files", "lines", "fmt: skip", "public names"):
        assert sum(row[counted] for row in parts) == rows["all"][counted]
    assert measure_style.table(rows).count("\n") == len(rows["all"])


@pytest.mark.parametrize("measured", [*MOST, *LEAST])
def test_the_package_keeps_to_the_limits(rows, measured):
    value = rows["all"][measured]
    limit = MOST.get(measured, LEAST.get(measured))
    assert value <= limit if measured in MOST else value >= limit
