"""Imports point up the list of rooms; each room needs only the libraries that its subject needs."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hmq_lab"
ROOT = "root"
FRONT_DOOR = "hmq_lab"  # hmq_lab/__init__.py

# A room may import itself and the rooms before it.
ORDER = [
    "graph",
    ROOT,
    "data",
    "models",
    "hardware",
    "runs",
    "rivals",
    "plots",
    "explorers",
    "checks",
    "commands",
]

# What a room imports besides Python's own library.
THIRD_PARTY = {
    "graph": {"torch"},
    ROOT: {"torch"},
    "data": {"torch", "torchvision", "numpy", "PIL", "safetensors", "filelock"},
    "models": {"torch", "torchvision", "safetensors"},
    "hardware": {"torch", "numpy", "safetensors", "onnx", "onnxruntime", "onnxscript"},
    "runs": {"torch", "tqdm", "accelerate", "filelock", "psutil"},
    "rivals": {"torch", "numpy", "scipy", "tqdm"},
    "plots": {"torch", "numpy", "pandas", "matplotlib", "seaborn", "IPython"},
    "explorers": {
        "torch",
        "numpy",
        "matplotlib",
        "seaborn",
        "PIL",
        "IPython",
        "ipywidgets",
        "anywidget",
        "traitlets",
        "voila",  # jupyter_client and jupyter_server are what it is made of
        "jupyter_client",
        "jupyter_server",
        "tornado",
        "nbformat",
    },
    "checks": {"torch", "numpy", "matplotlib", "seaborn", "IPython", "ipywidgets"},
    "commands": {"torch", "numpy", "matplotlib", "IPython", "onnxruntime", "jupyter_server"},
}

# Imports that still point down, with the reason. The list only ever shrinks: an entry that is no longer needed fails.
KNOWN_DOWNWARD: dict[tuple[str, str], str] = {}
KNOWN_LIBRARIES: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Import:
    """One imported module: who imports it, on which line, and its full name."""

    importer: str
    line: int
    target: str


def module_name(path: Path) -> str:
    """The name that a file is imported by.

    >>> module_name(PACKAGE / "data" / "__init__.py")
    'hmq_lab.data'
    """
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path) for path in FILES}


def imports(path: Path) -> list[Import]:
    """Every module that a file imports, in functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            # `from hmq_lab import data` imports a module, `from hmq_lab import HMQ` a name of the package.
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        found += [Import(module_name(path), node.lineno, name) for name in sorted(set(names))]
    return found


def room_of(module: str) -> str:
    """The room that a module of the package belongs to."""
    parts = module.split(".")
    # `python -m hmq_lab` is the command line.
    if parts[1:] == ["__main__"]:
        return "commands"
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ROOT


EVERY_IMPORT = [found for path in FILES for found in imports(path)]


def downward() -> dict[tuple[str, str], Import]:
    """The imports of a later room by an earlier one."""
    wrong = {}
    for found in EVERY_IMPORT:
        # The front door offers what the rooms hold; how little it loads is asserted below.
        if found.importer == FRONT_DOOR or found.target.split(".")[0] != "hmq_lab":
            continue
        here, there = room_of(found.importer), room_of(found.target)
        if ORDER.index(there) > ORDER.index(here):
            wrong[found.importer, found.target] = found
    return wrong


def libraries() -> dict[tuple[str, str], Import]:
    """The imports of libraries that are not on the list of their room."""
    wrong = {}
    for found in EVERY_IMPORT:
        library = found.target.split(".")[0]
        if library == "hmq_lab" or library in sys.stdlib_module_names:
            continue
        if library not in THIRD_PARTY[room_of(found.importer)]:
            wrong[found.importer, library] = found
    return wrong


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ORDER) - {ROOT}
    assert THIRD_PARTY.keys() == set(ORDER)


def test_imports_inside_functions_are_seen():
    seen = {(found.importer, found.target) for found in EVERY_IMPORT}
    assert ("hmq_lab.commands.grade_worker", "IPython.core.interactiveshell") in seen
    assert ("hmq_lab.runs.processes", "accelerate") in seen
    assert len(EVERY_IMPORT) > 500


def test_imports_point_up_the_list_of_rooms():
    found = downward()
    new = [
        f"{i.importer}:{i.line} imports {i.target}"
        for key, i in found.items()
        if key not in KNOWN_DOWNWARD
    ]
    assert not new, "\n".join(new)
    assert not [key for key in KNOWN_DOWNWARD if key not in found], (
        "no longer needed: take it off the list"
    )


def test_a_room_needs_only_the_libraries_of_its_subject():
    found = libraries()
    new = [
        f"{i.importer}:{i.line} imports {i.target}"
        for key, i in found.items()
        if key not in KNOWN_LIBRARIES
    ]
    assert not new, "\n".join(new)
    assert not [key for key in KNOWN_LIBRARIES if key not in found], (
        "no longer needed: take it off the list"
    )


@pytest.mark.parametrize("module", ["hmq_lab", "hmq_lab.commands.main"])
def test_an_import_loads_no_library_of_the_lab(module):
    heavy = [
        "matplotlib",
        "seaborn",
        "ipywidgets",
        "anywidget",
        "scipy",
        "pandas",
        "IPython",
        "torchvision",
        "onnx",
    ]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
