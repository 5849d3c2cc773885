"""The explorers as pages: one table, a page, a picture and a link for each; a browser looks at them elsewhere."""

import re
import runpy
import sys

import nbformat
import pytest
from PIL import Image

from hmq_lab import explorers
from hmq_lab.explorers import pages


def test_every_explorer_of_the_package_that_needs_no_run_has_a_page():
    needs_more = {"Explorer", "Selection", "live"}  # the frame, plain data, a view of a run
    assert set(explorers.__all__) - needs_more - set(pages.PAGES) == set()
    assert set(pages.pages()) == set(pages.PAGES) & set(explorers.__all__)


def test_pages_are_written_from_the_table(tmp_path):
    names = ["quantizer", "placements"]
    pages.write(tmp_path, names)
    files = ["index.html", "placements.ipynb", "placements.png", "quantizer.html", "quantizer.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'href="([^"]+)"', front)[1:] == [
        "quantizer.html",
        "/voila/render/placements.ipynb",
    ]
    for name in names:
        page = pages.PAGES[name]
        assert page.title in front and page.sentence in front
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size[0] == 820
    notebook = nbformat.read(tmp_path / "placements.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"]
    page = pages.PAGES["placements"]
    assert page.title in notebook.cells[0].source and page.code in notebook.cells[1].source
    assert not notebook.cells[1].outputs
    alts = re.findall(r'alt="([^"]+)"', front)
    assert len(alts) == 2 and all(alt.endswith(".") and len(alt) > 20 for alt in alts)
    assert not re.findall(r'(?:src|href)="https?:', front)


def test_a_page_without_a_kernel_is_one_file(tmp_path):
    paths = pages.write_static(tmp_path)
    assert [path.stem for path in paths] == list(pages.STATIC)
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert pages.PAGES[path.stem].title in text and text.count("<script") == 2
        assert not re.findall(
            r'(?:src|href)="(?!data:)|@import|import\(|from "', text
        )  # nothing is loaded
        assert len(text) < 300_000
    assert sum(path.stat().st_size for path in paths) < 900_000  # of the book's ten megabytes
    with pytest.raises(ValueError, match="one of quantizer, .*, got 'placements'"):
        pages.static("placements")


def test_what_is_no_page_is_named(tmp_path, capsys):
    with pytest.raises(ValueError, match="no explorer page nothing: there are quantizer, "):
        pages.write(tmp_path, ["nothing"])
    with pytest.raises(SystemExit):
        pages.main([str(tmp_path), "--only", "nothing", "--write-only"])
    assert "no explorer page nothing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_cannot_be_is_named(port, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        pages.main([str(tmp_path), f"--port={port}"])
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert (
        f"argument --port: a port is an integer from 1 to 65535, got {port}"
        in capsys.readouterr().err
    )


def test_what_will_be_drawn_is_said_before(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pages, "write", lambda folder, names: print("written"))
    pages.main([str(tmp_path), "--only", "gumbel", "quantizer", "--write-only"])
    assert capsys.readouterr().out == "drawing 2 images ...\nwritten\n"


@pytest.mark.parametrize("package", ["nbformat", "voila"])
def test_a_package_that_is_missing_is_named_in_one_line(package, tmp_path, capsys, monkeypatch):
    """As `python -m hmq_lab.explorers.pages` meets it, where the extra `lab` is not installed."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", ["pages", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(pages.__file__, run_name="__main__")
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == f"the pages need {package}: pip install hmq_lab[lab]\n"
