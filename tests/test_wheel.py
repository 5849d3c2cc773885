"""What is published: sdist and wheel are built from the tracked files, and the wheel alone is
enough to learn.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TAKEN = (
    "hmq_lab",
    "tests",
    "notebooks",
    "docs",
)  # the folders; beside them all files of the repository's root
CACHES = shutil.ignore_patterns("__pycache__", ".*", "figures")


def run(*command, cwd=None, **variables):
    """Run a command, which sees no checkout on PYTHONPATH, and return what it says."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment | variables,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Build with the setuptools that is installed: nothing is fetched."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    return target / run(sys.executable, "-c", code, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    place = tmp_path_factory.mktemp("sdist")
    tree = place / "tree"
    for name in TAKEN:
        shutil.copytree(ROOT / name, tree / name, ignore=CACHES)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copyfile(path, tree / path.name)
    return build("sdist", tree, place)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """A wheel built from the sdist, so that the sdist is complete."""
    place = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    return build("wheel", place / sdist.name.removesuffix(".tar.gz"), place)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel in it, which sees the libraries of this one, but not its
    hmq_lab.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    scripts = place / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / Path(sys.executable).name
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        wheel,
    )
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A folder that a .pth file names is searched, but its own .pth files, such as that of a
    # checkout, are not read.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return scripts


@pytest.fixture
def anywhere(tmp_path, monkeypatch):
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_wheel_holds_what_one_learns_with(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    records = [name for name in names if name.startswith("hmq_lab/runs/recorded/")]
    lessons = [
        name for name in names if name.startswith("hmq_lab/lessons/") and name.endswith(".ipynb")
    ]
    assert len(records) == len(list((ROOT / "hmq_lab" / "runs" / "recorded").glob("*.json")))
    assert len(lessons) == 2 * len(list((ROOT / "notebooks" / "source").glob("[0-9]*.py")))
    assert "hmq_lab/models/shipped/builtin_tiny_resnet8.safetensors" in names
    assert "hmq_lab/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "docs"))]
    assert wheel.stat().st_size < 20_000_000


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = [
        path
        for path in (ROOT / "hmq_lab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= names


def test_the_sdist_holds_tests_and_the_sources_of_the_lessons(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "tests/test_wheel.py",
        "notebooks/build.py",
        "notebooks/source/00_start_here.py",
        "Makefile",
    } <= names


def test_the_installed_package_is_the_wheels(installed, anywhere):
    code = "import hmq_lab; print(hmq_lab.__version__, hmq_lab.__file__)"
    version, _, place = run(installed / "python", "-c", code).strip().partition(" ")
    assert version[0].isdigit() and "checkout" not in version
    assert Path(place).is_relative_to(installed.parent)


def test_a_lesson_runs_from_the_wheel_alone(installed, anywhere):
    said = run(installed / "hmq-lab", "lessons", "mine")
    assert "14 written" in said
    # Only the cells up to the first check, with small parameters: that is quick.
    path = anywhere / "mine" / "01_power_of_two_quantizers.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tags = [cell["metadata"].get("tags", []) for cell in notebook["cells"]]
    first = next(number for number, found in enumerate(tags) if "check" in found)
    notebook["cells"] = notebook["cells"][: first + 1]
    parameters = next(
        cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])
    )
    parameters["metadata"]["hmq_lab_quick"] = {"pictures": 8}
    (anywhere / "class").mkdir()
    (anywhere / "class" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    run(
        installed / "hmq-lab",
        "grade",
        "class",
        "--limit",
        "200",
        OMP_NUM_THREADS="1",
    )
    rows = (anywhere / "grades.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].split(",")[3:5] == ["step", "not attempted"]
