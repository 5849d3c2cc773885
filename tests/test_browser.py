"""The explorers in a real browser: JupyterLab, and Voila as a second front end. One server, one browser for all.

HMQ_LAB_REQUIRE_BROWSER=1: a missing Chromium fails. HMQ_LAB_SCREENSHOTS=FOLDER: what each explorer looks like.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

CELLS = {
    "quantizer": "explorers.quantizer()",
    "surface": "explorers.surface()",
    "gumbel": "explorers.gumbel()",
    "block": "explorers.block(bits=3, exponent=-2)",
    "integers": "explorers.integers()",
    "replay": "explorers.replay(records.recorded('builtin-tiny_resnet8-w8-a8'))",
}
WORDS = ".widget-html [aria-live=polite]"
READY = 150_000  # milliseconds until a kernel has imported everything, on a busy machine


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    missing = "no Chromium" if found is None else "no playwright"
    if found is None or importlib.util.find_spec("playwright") is None:
        required = os.environ.get("HMQ_LAB_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)(f"{missing} on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        arguments += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # the same with and without a network
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A notebook for each explorer."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, code in CELLS.items():
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.cells = [nbformat.v4.new_code_cell(f"from hmq_lab import explorers, records\n{code}")]
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@contextlib.contextmanager
def serving(folder, *command):
    """A Jupyter server on a free port of this machine alone, with settings and a token of its own; yields its URLs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home, token = folder.with_name(f"{folder.name}-{command[0]}"), secrets.token_hex(16)
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    own |= {"JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(home / "ipython")}
    own |= {"PYTHONPATH": str(Path(__file__).parents[1])}  # a checkout that is not installed does, too
    log = home / "log"
    with log.open("wb") as file:
        line = [sys.executable, "-m", *command, f"--port={port}", "--no-browser"]
        server = subprocess.Popen(line, cwd=folder, env=os.environ | own, stdout=file, stderr=subprocess.STDOUT)
    try:
        base, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.3)
        yield base, token
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def lab(browser, folder):
    root = ("--ServerApp.ip=127.0.0.1", "--ServerApp.allow_root=True", f"--ServerApp.root_dir={folder}")
    with serving(folder, "jupyterlab", *root, "--expose-app-in-browser") as urls:
        yield urls


@contextlib.contextmanager
def opened(browser, url):
    """A page at 1280 x 800, which must close without an error in its console."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(READY)
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(url)
        yield page
    finally:
        page.close()
    said = [text for text in said if "ERR_NAME_NOT_RESOLVED" not in text]  # Voila asks other hosts
    assert not said, "\n".join(said)


def run(page):
    """Run the one cell, once its kernel is there."""
    page.locator(".jp-KernelName", has_text="Python 3").wait_for()  # idle is also said before there is any
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.wait_for_timeout(500)
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
    page.keyboard.press("Control+Enter")


def use(page):
    """Move the first slider by key, then by mouse: the picture, its words and the readout follow both times."""
    picture, words = page.locator("img.widget-image"), page.locator(WORDS)
    slider = page.locator(".widget-slider").first
    handle, readout = slider.locator(".noUi-handle"), slider.locator(".widget-readout")
    picture.wait_for()
    page.wait_for_function("document.querySelector('img.widget-image').naturalWidth == 820")

    def shown():
        return picture.get_attribute("src"), words.inner_text(), readout.inner_text()

    def changed(before):
        deadline = time.monotonic() + 60
        while any(a == b for a, b in zip(before, shown(), strict=True)):
            assert time.monotonic() < deadline, f"{before} is still {shown()}"
            page.wait_for_timeout(50)

    handle.focus()
    before = shown()
    page.keyboard.press("ArrowRight")
    changed(before)
    page.wait_for_timeout(300)

    before = shown()
    box, bar = handle.bounding_box(), slider.locator(".noUi-base").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(bar["x"] + 0.8 * bar["width"], y, steps=4)
    page.mouse.up()
    changed(before)


def look(page, name):
    """Nothing is cut off or shrunk below what its text needs."""
    box = page.locator("img.widget-image").bounding_box()
    assert box["width"] >= 0.97 * 820 and box["x"] >= 0 and box["x"] + box["width"] <= 1280
    top = min(control.bounding_box()["y"] for control in page.locator(".widget-slider").all())
    words = page.locator(".widget-html").last.bounding_box()  # its content is replaced at each move
    assert top >= 0 and words["y"] + words["height"] <= 800 and words["width"] <= 820
    for label in page.locator(".widget-label").all():  # no control's name is cut off by an ellipsis
        assert label.evaluate("e => e.scrollWidth <= e.clientWidth"), label.inner_text()
    if target := os.environ.get("HMQ_LAB_SCREENSHOTS"):
        page.screenshot(path=Path(target) / f"{name}.png")


@pytest.mark.parametrize("name", CELLS)
def test_an_explorer_in_jupyterlab(name, browser, lab):
    base, token = lab
    with opened(browser, f"{base}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}") as page:
        run(page)
        use(page)
        assert page.locator(".jp-RenderedImage").count() == 0  # of the same output, the widget is preferred
        page.locator(".widget-html").last.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        look(page, f"{name}-light")
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        page.wait_for_function("document.body.dataset.jpThemeLight == 'false'")
        page.wait_for_timeout(500)
        look(page, f"{name}-dark")
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText pre").count() == 0
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    ask(base, token)


def ask(base, token):
    """Shut the kernels down: the next notebook gets the memory."""
    headers = {"Authorization": f"token {token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{base}/api/kernels", headers=headers)) as reply:
        kernels = json.load(reply)
    for kernel in kernels:
        url = f"{base}/api/kernels/{kernel['id']}"
        urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="DELETE")).close()


def test_an_explorer_in_voila(browser, folder):
    other = "--VoilaConfiguration.extension_denylist=jupyterlab-jupytext"  # needs what Voila lacks, and says so
    alone = ("--Voila.ip=127.0.0.1", other)
    with serving(folder, "voila", str(folder), *alone) as (base, token):
        with opened(browser, f"{base}/voila/render/quantizer.ipynb?token={token}") as page:
            use(page)
            look(page, "quantizer-voila")


@pytest.mark.skipif(importlib.util.find_spec("notebook") is None, reason="Notebook 7 is not installed")
def test_an_explorer_in_notebook_7(browser, folder):
    root = ("--ServerApp.ip=127.0.0.1", "--ServerApp.allow_root=True", f"--ServerApp.root_dir={folder}")
    with serving(folder, "notebook", *root) as (base, token):
        with opened(browser, f"{base}/notebooks/quantizer.ipynb?token={token}") as page:
            run(page)
            use(page)
            look(page, "quantizer-notebook")
