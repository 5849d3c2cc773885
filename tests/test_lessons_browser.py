"""Every lesson as a student meets it in JupyterLab: predict, run, answer wrong and right, press the explorers.

The student edition with small parameters, from the top. The runs take minutes: `make test-long` with a browser.
"""

import importlib.util
import json
from pathlib import Path

import jupytext
import nbformat
import pytest
from test_browser import browser, opened, serving  # noqa: F401  (browser is a fixture)

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted((NOTEBOOKS / "source").glob("[0-9]*.py"))
RUN = """async index => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = index;
    await notebook.scrollToItem(index, 'smart');
    await window.jupyterapp.commands.execute('notebook:run-cell');
    return notebook.widgets[index].model.outputs.toJSON();
}"""
WRITE = """([index, source]) => window.jupyterapp.shell.currentWidget
    .content.widgets[index].model.sharedModel.setSource(source)"""
NODE = "index => window.jupyterapp.shell.currentWidget.content.widgets[index].node"
READY = """() => {
    const panel = window.jupyterapp?.shell?.currentWidget;
    return panel?.content?.widgets?.length > 9 && panel.sessionContext?.session?.kernel?.status === 'idle';
}"""
SLIDERS = "input[type=range], .noUi-handle"

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """A folder with every lesson as students get it, and small parameters."""
    spec = importlib.util.spec_from_file_location("build_lessons", NOTEBOOKS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = tmp_path_factory.mktemp("classroom")
    for source in SOURCES:
        nbformat.write(
            build.edition(source, "student", quick=True), folder / f"{source.stem}.ipynb"
        )
    return folder


@pytest.fixture(scope="module")
def school(browser, classroom):  # noqa: F811
    root = ("--ServerApp.ip=127.0.0.1", "--ServerApp.allow_root=True", "--ServerApp.root_dir=.")
    with serving(classroom, "jupyterlab", *root, "--expose-app-in-browser") as urls:
        yield urls


def said(outputs):
    """The text of a cell's outputs; an error is a failure."""
    texts = []
    for output in outputs:
        assert output["output_type"] != "error", output["evalue"]
        data = output.get("data", {})
        texts += [data[kind] for kind in ("text/markdown", "text/plain") if kind in data]
        texts.append(output.get("text", ""))
    return "\n".join("".join(text) for text in texts)


def predict(page, index):
    """Choose the first answer, or keep the number that is there."""
    node = page.evaluate_handle(NODE, index).as_element()
    button = node.wait_for_selector("button.jupyter-button")
    button.click()
    page.wait_for_function("node => node.innerText.includes('Your prediction')", arg=node)


def press(page, index):
    """Move the first slider of an explorer: its sentence is there and follows."""
    node = page.evaluate_handle(NODE, index).as_element()
    slider = node.wait_for_selector(SLIDERS)
    before = node.inner_text()
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):
        slider.press(key)
        page.wait_for_timeout(300)
        if node.inner_text() != before:
            return
    pytest.fail(f"no slider moves anything: {before[:200]}")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_student_works_through_a_lesson(source, browser, school, classroom):  # noqa: F811
    base, token = school
    wanted = nbformat.read(classroom / f"{source.stem}.ipynb", as_version=4)
    written = jupytext.read(source, fmt="py:percent").cells
    solutions = [c.source for c in written if "solution" in c.metadata.get("tags", [])]
    asked = sum(" = predict(" in cell.source for cell in wanted.cells if cell.cell_type == "code")
    told, solved = [], 0
    url = f"{base}/lab/workspaces/{source.stem}/tree/{source.name[:-3]}.ipynb?token={token}"
    with opened(browser, url) as page:
        page.set_default_timeout(600_000)  # of a busy machine, too
        page.wait_for_function(READY)
        stub = None
        for index, cell in enumerate(wanted.cells):
            if cell.cell_type != "code":
                continue
            tags = cell.metadata.get("tags", [])
            outputs = page.evaluate(RUN, index)
            text = said(outputs)
            told.append(text)
            if " = predict(" in cell.source:
                predict(page, index)
            if "stub" in tags:
                stub = index, cell.source
            if "check" in tags:
                assert "Not attempted yet" in text
                # Nothing right, then the solution.
                head = stub[1].split("def ")[1].split("(")[0]
                for answer, mark in (
                    (f"def {head}(*_):\n    return 0", "✗"),
                    (solutions[solved], "✓"),
                ):
                    page.evaluate(WRITE, [stub[0], answer])
                    said(page.evaluate(RUN, stub[0]))
                    verdict = said(page.evaluate(RUN, index))
                    assert mark in verdict, verdict
                solved += 1
            if cell.source.startswith("explorers.") and "live(" not in cell.source:
                press(page, index)
        page.evaluate("window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    compared = "\n".join(told).count("You predicted: ")
    assert asked >= 3 and compared >= asked - 2, f"{compared} of {asked} predictions are compared"
    kept = json.loads((classroom / ".hmq_lab" / "progress.json").read_text(encoding="utf-8"))
    assert source.name[:2] in json.dumps(kept)
