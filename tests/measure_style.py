"""Measure how the package reads: one row for each room, one for the whole.

    python tests/measure_style.py               # every measure as a table
    python tests/measure_style.py --mypy        # with the errors of mypy, which takes a minute
    python tests/measure_style.py --json        # the same as JSON

A reader should meet about as much in a line as in other small model libraries: at most 14 tokens in
a simple statement on average, at least 50 comment lines for 1,000 lines of code. Lines of code hold
neither docstrings nor comments alone.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hmq_lab"
COLUMNS = 100
ROOT_ROOM = "(root)"

# Tokens that carry no meaning of their own for a reader.
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
SIMPLE = (
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.Return,
    ast.Raise,
    ast.Assert,
    ast.Delete,
    ast.Expr,
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass
class Measures:
    """What was counted in some files; `row` turns the counts into the measures."""

    files: int = 0
    lines: int = 0
    filled_lines: int = 0
    code_lines: int = 0
    long_lines: int = 0
    comment_lines: int = 0
    format_skips: int = 0
    conditionals: int = 0
    nested_comprehensions: int = 0
    public_names: int = 0
    public_functions: int = 0
    with_docstring: int = 0
    takes_arguments: int = 0
    with_args: int = 0
    statements: list[int] = field(default_factory=list)
    mypy_errors: int | None = None

    def add(self, other: Measures) -> None:
        for name, value in vars(other).items():
            if value is not None:
                setattr(self, name, (getattr(self, name) or type(value)()) + value)

    def row(self) -> dict[str, float | int | None]:
        """The measures by name, rounded as the table shows them."""
        ordered = sorted(self.statements)
        ninetieth = ordered[int(0.9 * (len(ordered) - 1))] if ordered else 0
        thousands = self.code_lines / 1000 or 1
        return {
            "files": self.files,
            "lines": self.lines,
            "public names": self.public_names,
            "tokens/statement": round(sum(ordered) / max(1, len(ordered)), 1),
            "90th percentile": ninetieth,
            "comments/1000": round(self.comment_lines / thousands, 1),
            "conditionals/1000": round(self.conditionals / thousands, 1),
            "nested/1000": round(self.nested_comprehensions / thousands, 1),
            f"over {COLUMNS} %": round(100 * self.long_lines / max(1, self.filled_lines), 1),
            "fmt: skip": self.format_skips,
            "docstrings %": round(100 * self.with_docstring / max(1, self.public_functions)),
            "Args %": round(100 * self.with_args / max(1, self.takes_arguments)),
            "mypy": self.mypy_errors,
        }


def measure(text: str) -> Measures:
    """What is counted in the text of one module."""
    tree = ast.parse(text)
    lines = text.splitlines()
    found = Measures(files=1, lines=len(lines))
    found.filled_lines = sum(bool(line.strip()) for line in lines)
    found.code_lines = sum(bool(count) for count in tokens_of_lines(text, tree).values())
    found.long_lines = sum(len(line) > COLUMNS for line in lines)
    found.format_skips = len(re.findall(r"#\s*fmt:\s*(?:skip|off)", text))
    found.public_names = len(public_names(tree))
    found.statements = tokens_of_statements(text, tree)
    found.comment_lines = own_line_comments(text)
    for node in ast.walk(tree):
        found.conditionals += isinstance(node, ast.IfExp)
        found.nested_comprehensions += isinstance(node, COMPREHENSIONS) and is_nested(node)
    for function in public_functions(tree):
        docstring = ast.get_docstring(function) or ""
        arguments = argument_count(function)
        found.public_functions += 1
        found.with_docstring += bool(docstring)
        # A function with a docstring of its own and something to pass needs an Args section.
        if docstring and arguments:
            found.takes_arguments += 1
            found.with_args += bool(re.search(r"^\s*Args:", docstring, re.MULTILINE))
    return found


def public_names(tree: ast.Module) -> set[str]:
    """The functions and classes that a module defines and whose names begin with a letter."""
    names = {node.name for node in tree.body if isinstance(node, DEFINITIONS)}
    return {name for name in names if not name.startswith("_")}


def public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions of a module and the methods of its classes, private ones left out."""
    found = []
    for node in tree.body:
        inside = (
            node.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            else [node]
        )
        found += [part for part in inside if isinstance(part, ast.FunctionDef)]
    return [function for function in found if not function.name.startswith("_")]


def argument_count(function: ast.FunctionDef) -> int:
    """How many arguments a caller may pass; self and cls are not counted."""
    given = function.args
    names = [argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
    return len([name for name in names if name not in ("self", "cls")])


def is_nested(comprehension: ast.expr) -> bool:
    """Whether a comprehension has a second `for`, or another comprehension inside."""
    inside = [node for node in ast.walk(comprehension) if isinstance(node, COMPREHENSIONS)]
    return len(inside) > 1 or len(comprehension.generators) > 1


def own_line_comments(text: str) -> int:
    """How many lines hold a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(
        token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
        for token in tokens
    )


def tokens_of_lines(text: str, tree: ast.Module) -> Counter[int]:
    """How many tokens begin on each line; comments, layout and docstrings are left out."""
    tokens: Counter[int] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            tokens[token.start[0]] += (
                tokens_of_fstring(token.string) if token.type == tokenize.STRING else 1
            )
    for node in ast.walk(tree):
        if is_docstring(node):
            for line in range(node.lineno, node.end_lineno + 1):
                tokens[line] = 0
    return tokens


def tokens_of_fstring(text: str) -> int:
    """How many tokens a string is: 1, or those inside of an f-string, which Python counts from 3.12
    on.
    """
    try:
        string = ast.parse(text, mode="eval").body
    except SyntaxError:
        return 1
    if not isinstance(string, ast.JoinedStr):
        return 1
    count = 2  # its beginning and its end
    for part in string.values:
        if isinstance(part, ast.Constant):
            count += 1
            continue
        # Two braces, the expression, and the format behind a colon.
        inside = tokenize.generate_tokens(io.StringIO(ast.unparse(part.value)).readline)
        count += 2 + sum(token.type not in LAYOUT for token in inside)
        count += 2 * (part.format_spec is not None)
    return count


def is_docstring(node: ast.AST) -> bool:
    """Whether a statement is a text alone."""
    if not isinstance(node, ast.Expr):
        return False
    return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def tokens_of_statements(text: str, tree: ast.Module) -> list[int]:
    """How many tokens each simple statement has; docstrings and imports are left out."""
    tokens = tokens_of_lines(text, tree)
    # Two statements seldom share a line: ruff keeps one a line.
    sizes = []
    for node in ast.walk(tree):
        if isinstance(node, SIMPLE) and not is_docstring(node):
            sizes.append(sum(tokens[line] for line in range(node.lineno, node.end_lineno + 1)))
    return sizes


def mypy_errors() -> Counter[str]:
    """How many errors mypy finds in each room, with the settings of pyproject.toml but in every
    module.
    """
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["mypy"]
    lines = [
        "[mypy]",
        f"python_version = {settings['python_version']}",
        "check_untyped_defs = True",
    ]
    for override in settings["overrides"]:
        # Modules whose errors are let pass are left out of this configuration, so that they count.
        if override.get("ignore_missing_imports"):
            for module in override["module"]:
                lines += [f"[mypy-{module}]", "ignore_missing_imports = True"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mypy.ini"
        config.write_text("\n".join(lines), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(config),
            "--no-error-summary",
            "hmq_lab",
        ]
        done = subprocess.run(
            command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False
        )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"mypy did not run: {done.stdout}{done.stderr}")
    errors = re.findall(r"^(hmq_lab/\S+?):\d+: error", done.stdout.replace("\\", "/"), re.MULTILINE)
    return Counter(room_of(Path(name).relative_to("hmq_lab")) for name in errors)


def room_of(path: Path) -> str:
    """The room of a module, from its path inside the package."""
    return path.parts[0] if len(path.parts) > 1 else ROOT_ROOM


def report(package: Path = PACKAGE, with_mypy: bool = False) -> dict[str, dict]:
    """The measures of each room and of all together."""
    rooms: dict[str, Measures] = {}
    everything = Measures()
    errors = mypy_errors() if with_mypy else None
    for path in sorted(package.rglob("*.py")):
        room = rooms.setdefault(room_of(path.relative_to(package)), Measures())
        found = measure(path.read_text(encoding="utf-8"))
        room.add(found)
        everything.add(found)
    if errors is not None:
        for name, room in rooms.items():
            room.mypy_errors = errors[name]
        everything.mypy_errors = errors.total()
    return {name: room.row() for name, room in (rooms | {"all": everything}).items()}


def table(rows: dict[str, dict]) -> str:
    """The report as text: one line for each measure, one column for each room."""
    names = list(rows)
    lines = [["", *names]]
    for measured in rows["all"]:
        values = [rows[name][measured] for name in names]
        lines.append([measured, *("-" if value is None else f"{value:g}" for value in values)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mypy", action="store_true", help="count the errors of mypy, too")
    parser.add_argument("--json", action="store_true", help="the measures as JSON")
    parser.add_argument(
        "--package", type=Path, default=PACKAGE, help="the folder to measure (default: hmq_lab)"
    )
    options = parser.parse_args()
    rows = report(options.package, options.mypy)
    print(json.dumps(rows, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main()
