"""The notebooks: they run from top to bottom, and are fit to be read where there is no kernel."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
QUICK = {"epochs": 1, "pictures": 512}  # of the parameters cell, where a notebook has them


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_a_notebook_runs(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HMQ_LAB_DATA", str(tmp_path))  # nothing but what comes with the package
    parameters = next(c for c in notebook.cells if c.cell_type == "code")
    for name, value in QUICK.items():
        parameters.source = re.sub(rf"^{name} = .*$", f"{name} = {value}", parameters.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute(cwd=os.fspath(tmp_path))


def test_a_notebook_is_fit_to_be_read(notebook):
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata and notebook.metadata.kernelspec.name == "python3"
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    headings = re.findall(r"^(#+) ", text, re.MULTILINE)
    assert headings[0] == "#" and headings.count("#") == 1
    assert "**Minutes:**" in text and "After this you can" in text
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            if "image/png" in output.get("data", {}):
                assert output.metadata["image/png"]["alt"]
    assert len(nbformat.writes(notebook)) < 600_000
    assert f"{Path.home()}{os.sep}" not in nbformat.writes(notebook)
