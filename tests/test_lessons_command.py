"""A working copy of the lessons is written, updated, and never over what the reader wrote."""

import io
import json
import subprocess
import sys

import pytest

from hmq_lab.commands import lab, lessons
from hmq_lab.commands.main import main


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package with two lessons, in place of the real ones."""
    folder = tmp_path / "package" / "lessons"
    (folder / "solutions").mkdir(parents=True)
    for name in ("00_a", "01_b"):
        (folder / f"{name}.ipynb").write_text(f"{name} version 1", encoding="utf-8")
    (folder / "solutions" / "00_a.ipynb").write_text("solved", encoding="utf-8")
    monkeypatch.setattr(lessons, "PACKAGE", tmp_path / "package")
    return folder


def texts(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.ipynb")}


def test_the_real_lessons_are_there():
    names = [path.name for path in sorted(lessons.shelf().glob("[0-9]*.ipynb"))]
    assert len(names) >= 14 and names[0] == lab.FIRST
    assert len(list(lessons.shelf(solutions=True).glob("[0-9]*.ipynb"))) == len(names)


def test_a_copy_is_written(shelf, tmp_path, capsys):
    target = tmp_path / "mine"
    assert main(["lessons", str(target)]) == 0
    assert texts(target) == {"00_a.ipynb": "00_a version 1", "01_b.ipynb": "01_b version 1"}
    assert "2 written; 0 already there" in capsys.readouterr().out


def test_the_solutions_are_written_when_asked_for(shelf, tmp_path):
    lessons.copy(tmp_path / "mine", solutions=True)
    assert texts(tmp_path / "mine") == {"00_a.ipynb": "solved"}


def test_a_name_that_the_terminal_cannot_write_stops_nothing(shelf, tmp_path, monkeypatch):
    """Python writes into a pipe on Windows in an old encoding of 256 characters."""
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="cp1252"))
    assert main(["lessons", str(tmp_path / "Łódź")]) == 0
    sys.stdout.flush()
    assert "?ód?: 2 written" in said.getvalue().decode("cp1252")
    assert (tmp_path / "Łódź" / "00_a.ipynb").exists()


def test_a_second_copy_changes_nothing(shelf, tmp_path):
    target = tmp_path / "mine"
    lessons.copy(target)
    (target / "00_a.ipynb").write_text("my answer", encoding="utf-8")
    done = lessons.copy(target)
    assert (done.written, done.same, done.kept) == ([], ["01_b.ipynb"], ["00_a.ipynb"])
    assert texts(target)["00_a.ipynb"] == "my answer"


def test_a_new_version_needs_update_and_nothing_is_written_without(shelf, tmp_path, capsys):
    target = tmp_path / "mine"
    lessons.copy(target)
    (target / "00_a.ipynb").unlink()
    (shelf / "01_b.ipynb").write_text("01_b version 2", encoding="utf-8")
    assert main(["lessons", str(target)]) == 2
    assert "01_b.ipynb is another version of the lesson: --update" in capsys.readouterr().err
    assert texts(target) == {"01_b.ipynb": "01_b version 1"}


def test_an_update_replaces_the_untouched_and_writes_beside_the_changed(shelf, tmp_path):
    target = tmp_path / "mine"
    lessons.copy(target)
    (target / "00_a.ipynb").write_text("my answer", encoding="utf-8")
    for name in ("00_a", "01_b"):
        (shelf / f"{name}.ipynb").write_text(f"{name} version 2", encoding="utf-8")
    done = lessons.copy(target, update=True)
    assert (done.written, done.beside) == (["01_b.ipynb"], ["00_a.new.ipynb"])
    assert texts(target) == {
        "00_a.ipynb": "my answer",
        "00_a.new.ipynb": "00_a version 2",
        "01_b.ipynb": "01_b version 2",
    }
    # Once more: nothing is new, and the answer still stands.
    again = lessons.copy(target, update=True)
    assert (again.written, again.beside, again.kept) == ([], [], ["00_a.ipynb"])


def test_a_folder_that_forgot_what_it_was_given_keeps_all_that_differs(shelf, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "00_a.ipynb").write_text("from somewhere", encoding="utf-8")
    (target / lessons.MEMORY).write_text("{ not JSON", encoding="utf-8")
    done = lessons.copy(target, update=True)
    assert (done.written, done.beside) == (["01_b.ipynb"], ["00_a.new.ipynb"])
    assert texts(target)["00_a.ipynb"] == "from somewhere"
    assert json.loads((target / lessons.MEMORY).read_text(encoding="utf-8")).keys() == {
        "00_a.ipynb",
        "01_b.ipynb",
    }


def test_an_installation_without_lessons_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "PACKAGE", tmp_path / "package")
    with pytest.raises(FileNotFoundError, match="this installation of hmq_lab has no lessons"):
        lessons.copy(tmp_path / "mine")


def test_lab_writes_a_copy_and_opens_it(shelf, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(lab, "FIRST", "00_a.ipynb")
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, check: started.append(command) or subprocess.CompletedProcess(command, 7),
    )
    target = tmp_path / "mine"
    assert main(["lab", str(target), "--", "--no-browser"]) == 7
    assert texts(target).keys() == {"00_a.ipynb", "01_b.ipynb"}
    assert started[0][:3] == [sys.executable, "-m", "jupyterlab"]
    assert (
        f"--ServerApp.root_dir={target.resolve()}" in started[0]
        and f"--ServerApp.contents_manager_class={lab.FILES}" in started[0]
        and started[0][-1] == "--no-browser"
    )
    (target / "00_a.ipynb").write_text("my answer", encoding="utf-8")
    assert main(["lab", str(target)]) == 7
    assert texts(target)["00_a.ipynb"] == "my answer"


def test_lab_without_jupyterlab_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    assert main(["lab", str(tmp_path / "mine")]) == 2
    assert "pip install hmq_lab[lab]" in capsys.readouterr().err
