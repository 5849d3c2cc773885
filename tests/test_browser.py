"""The explorers in a real browser: JupyterLab, and Voila as a second front end. One server, one browser for all.

HMQ_LAB_REQUIRE_BROWSER=1: a missing Chromium fails. HMQ_LAB_SCREENSHOTS=FOLDER: what each explorer looks like.
"""

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from hmq_lab.explorers import pages
from hmq_lab.rivals import scores
from hmq_lab.runs.live import Run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

CELLS = {
    "quantizer": "explorers.quantizer()",
    "surface": "explorers.surface()",
    "gumbel": "explorers.gumbel()",
    "block": "explorers.block(bits=3, exponent=-2)",
    "beat": "explorers.beat(images=100, few=50)",
    "integers": "explorers.integers()",
    "placements": "explorers.placements()",
    "replay": "explorers.replay(records.recorded('builtin-tiny_resnet8-w8-a8'))",
    "selection": "explorers.selection(*map(records.recorded, ('cifar10-resnet20-w16-a8', 'cifar10-resnet20-w8-a8')))",
}
MODULES = (
    pages.STATIC
)  # explorers that compute and draw in the browser; the others have core widgets
WORDS = ".widget-html [aria-live]"  # of a search that runs they are off
READY = 150_000  # milliseconds until a kernel has imported everything, on a busy machine


@pytest.fixture(scope="module")
def browser():
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    missing = "no Chromium" if found is None else "no playwright"
    if found is None or importlib.util.find_spec("playwright") is None:
        required = os.environ.get("HMQ_LAB_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)(f"{missing} on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        arguments += [
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]  # no network
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A notebook for each explorer."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name, code in CELLS.items():
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        notebook.cells = [
            nbformat.v4.new_code_cell(
                f"from hmq_lab import explorers\nfrom hmq_lab.runs import records\n{code}"
            )
        ]
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@contextlib.contextmanager
def serving(folder, *command):
    """A Jupyter server on a free port of this machine alone, with settings and a token of its own; yields its URLs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home, token = folder.with_name(f"{folder.name}-{command[0]}"), secrets.token_hex(16)
    quiet = (
        home
        / "settings"
        / "@jupyterlab"
        / "apputils-extension"
        / "notification.jupyterlab-settings"
    )
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    own = {
        f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    own |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    own |= {"JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(home / "ipython")}
    own |= {
        "PYTHONPATH": str(Path(__file__).parents[1])
    }  # a checkout that is not installed does, too
    log = home / "log"
    with log.open("wb") as file:
        line = [sys.executable, "-m", *command, f"--port={port}", "--no-browser"]
        server = subprocess.Popen(
            line, cwd=folder, env=os.environ | own, stdout=file, stderr=subprocess.STDOUT
        )
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
    root = (
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.allow_root=True",
        f"--ServerApp.root_dir={folder}",
    )
    with serving(folder, "jupyterlab", *root, "--expose-app-in-browser") as urls:
        yield urls


@contextlib.contextmanager
def opened(browser, url, known="ERR_NAME_NOT_RESOLVED"):
    """A page at 1280 x 800, which must close without an error in its console but the known one: Voila asks hosts."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(READY)
    said = []
    page.on(
        "console", lambda message: said.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(url)
        yield page
    finally:
        page.close()
    said = [text for text in said if known not in text]
    assert not said, "\n".join(said)


def run(page):
    """Run the one cell, once its kernel is there."""
    page.locator(
        ".jp-KernelName", has_text="Python 3"
    ).wait_for()  # idle is also said before there is any
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    prompt = page.locator(".jp-InputPrompt").first
    for _ in range(20):  # a page that is still being built forgets a key now and then
        page.wait_for_timeout(500)
        if prompt.inner_text().strip() not in ("", "[ ]:"):
            return
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)


def keep(page, name):
    """Screenshots for who asks for them, of a laptop and of a projector."""
    target = os.environ.get("HMQ_LAB_SCREENSHOTS")
    if target is None:
        return
    usual = page.viewport_size
    for width, height in ((1280, 800), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(500)
        page.screenshot(path=Path(target) / f"{name}-{width}.png")
    page.set_viewport_size(usual)
    page.wait_for_timeout(500)


def use(page, key="ArrowRight"):
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
    page.keyboard.press(key)
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


def use_module(page, key="ArrowRight"):
    """Move the first slider of a module by key, then by mouse: figure, words and readout follow both times."""
    root = page.locator(".hmq")
    root.locator("svg").first.wait_for()
    slider, readout = root.locator("input[type=range]").first, root.locator("output").first

    def shown():
        return (
            root.locator(".panels").inner_html(),
            root.locator(".said").inner_text(),
            readout.inner_text(),
        )

    before = shown()
    slider.focus()
    page.keyboard.press(key)
    moved = shown()
    assert all(a != b for a, b in zip(before, moved, strict=True))
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    assert all(a != b for a, b in zip(moved, shown(), strict=True))


def look_module(page, name):
    """Nothing sticks out of a page or over its neighbour, and every control and part of the figure has a name."""
    root = page.locator(".hmq")
    box = root.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
    for control in root.locator("input, select, button").all():
        name_of = "e => (e.labels && e.labels.length ? e.labels[0].innerText : e.innerText).trim()"
        assert control.evaluate(name_of)
    assert all(part.get_attribute("aria-label") for part in root.locator("svg").all())
    keep(page, name)


def look(page, name):
    """Nothing is cut off or shrunk below what its text needs."""
    box = page.locator("img.widget-image").bounding_box()
    assert box["width"] >= 0.97 * 820 and box["x"] >= 0 and box["x"] + box["width"] <= 1280
    top = min(c.bounding_box()["y"] for c in page.locator(".widget-slider, .widget-select").all())
    words = page.locator(".widget-html").last.bounding_box()  # its content is replaced at each move
    assert top >= 0 and words["y"] + words["height"] <= 800 and words["width"] <= 820
    for label in page.locator(".widget-label").all():  # no control's name is cut off by an ellipsis
        assert label.evaluate("e => e.scrollWidth <= e.clientWidth"), label.inner_text()
    keep(page, name)


@pytest.mark.parametrize("name", CELLS)
def test_an_explorer_in_jupyterlab(name, browser, lab):
    base, token = lab
    is_module = name in MODULES
    with opened(browser, f"{base}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}") as page:
        run(page)
        (use_module if is_module else use)(page)
        assert (
            page.locator(".jp-RenderedImage").count() == 0
        )  # of the same output, the widget is preferred
        page.locator(
            ".hmq .said" if is_module else ".widget-html"
        ).last.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        (look_module if is_module else look)(page, f"{name}-light")
        page.evaluate(
            "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
        )
        page.wait_for_function("document.body.dataset.jpThemeLight == 'false'")
        page.wait_for_timeout(500)
        (look_module if is_module else look)(page, f"{name}-dark")
        assert (
            not is_module or page.locator(".hmq.dark").count() == 1
        )  # it takes the page's theme by itself
        assert (
            page.locator(
                "[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText pre"
            ).count()
            == 0
        )
        page.evaluate(
            "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})"
        )
    ask(base, token)


def test_a_visitor_plays_a_whole_game(browser, lab, folder):
    """50 moves by keys and mouse; then the page is loaded again, the cell run again, and the score is there."""
    base, token = lab
    notebook = nbformat.read(folder / "beat.ipynb", as_version=4)
    code = "explorers.beat(images=100, few=50, folder='visitor', player='visitor')"
    notebook.cells[0].source = f"from hmq_lab import explorers\n{code}"
    nbformat.write(notebook, folder / "game.ipynb")
    with opened(browser, f"{base}/lab/workspaces/game/tree/game.ipynb?token={token}") as page:
        page.on("dialog", lambda dialog: dialog.accept())  # of a page that is left with changes
        run(page)
        words, picture = page.locator(WORDS), page.locator("img.widget-image")
        picture.wait_for()
        bits, threshold = (page.locator(".widget-slider").nth(i) for i in (0, 1))
        layers = page.locator(".widget-select select")
        names = layers.locator("option").all_inner_texts()
        moves = 0

        def change(do, *given, drawn=True):
            before = words.inner_text(), picture.get_attribute("src")
            do(*given)
            deadline = time.monotonic() + 60
            while words.inner_text() == before[0] or (
                drawn and picture.get_attribute("src") == before[1]
            ):
                assert time.monotonic() < deadline, f"nothing came after {before[0]}"
                page.wait_for_timeout(20)

        def drag(slider, to):
            box, bar = (
                slider.locator(part).bounding_box() for part in (".noUi-handle", ".noUi-base")
            )
            y = box["y"] + box["height"] / 2
            page.mouse.move(box["x"] + box["width"] / 2, y)
            page.mouse.down()
            page.mouse.move(bar["x"] + to * bar["width"], y, steps=3)
            change(page.mouse.up)

        change(layers.select_option, names[-1])
        for name in names:
            change(layers.select_option, name)
            for slider, key in ((bits, "Left"), (bits, "Left"), (threshold, "Left"), (threshold, "Right"),
                                (bits, "Right"), (bits, "Right")):  # fmt: skip
                slider.locator(".noUi-handle").focus()
                change(page.keyboard.press, f"Arrow{key}")
                moves += 1
        for slider, to in ((bits, 0.9), (threshold, 0.3)):
            drag(slider, to)
            moves += 1
        assert moves == 50
        for name in ("undo", "redo", "hint"):
            change(page.get_by_role("button", name=name, exact=True).click, drawn=name != "hint")
        best = re.search(r"Your best at the target: ([\d.]+) %", words.inner_text())
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)

        (file,) = (folder / "visitor").glob("visitor-tiny_resnet8-*.json")
        saved = scores.read(file)
        assert f"{saved.best().accuracy:.1f}" == best[1] and saved.best().rate >= 8
        assert saved.choice["linear.weight"][0] > 4  # where the mouse left it

        page.reload()
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.wait_for()
        page.locator(".jp-KernelName", has_text="Python 3").wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        prompt, deadline = page.locator(".jp-InputPrompt").first, time.monotonic() + 120
        while not re.search(r"\[[2-9]\]", said := prompt.inner_text()):
            assert time.monotonic() < deadline, f"the cell did not run again: {said}"
            if (
                dialog := page.locator(".jp-Dialog button")
            ).count():  # the page has not found its kernel yet
                dialog.last.click()
            elif "*" not in said:
                page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
                page.keyboard.press("Control+Enter")
            page.wait_for_timeout(1000)
        picture.wait_for()
        assert best[0] in words.inner_text()
        change(page.get_by_role("button", name="undo", exact=True).click, drawn=False)
        assert (
            "nothing to undo" in words.inner_text()
        )  # it is another game, and has the scores of the first
        assert scores.read(file).scores == saved.scores
    ask(base, token)


def ask(base, token):
    """Shut the kernels down: the next notebook gets the memory."""
    headers = {"Authorization": f"token {token}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{base}/api/kernels", headers=headers)
    ) as reply:
        kernels = json.load(reply)
    for kernel in kernels:
        url = f"{base}/api/kernels/{kernel['id']}"
        urllib.request.urlopen(
            urllib.request.Request(url, headers=headers, method="DELETE")
        ).close()


@pytest.fixture
def out(tmp_path):
    """Where a search may run; it does not outlive its test."""
    yield tmp_path / "run"
    Run(tmp_path / "run").interrupt()


def test_a_live_search_is_watched_paused_its_tab_closed_reopened_and_finished(
    browser, lab, folder, out
):
    base, token = (
        lab  # 500 steps: about 30 seconds of an idle machine; a slow browser must come to pressing Pause
    )
    short = {
        "preset": "quick/builtin",
        "search_epochs": 1,
        "final_epochs": 3,
        "cycles": 1,
        "log_every": 5,
    }
    notebook = nbformat.read(folder / "quantizer.ipynb", 4)
    # painted more often than for readers: a slow machine would show one picture before the search is over
    often = "from hmq_lab.explorers import live, watching; watching.SHARE = 0.1"
    notebook.cells[0].source = f"{often}\nlive({str(out)!r}, settings={short})"
    nbformat.write(notebook, folder / "live.ipynb")

    def press(page, name, then):
        button = page.get_by_role("button", name=name, exact=True).last
        assert Run.attach(out).state != "finished", (
            f"the search was over before {name} could be pressed"
        )
        page.wait_for_function("b => !b.disabled", arg=button.element_handle())
        button.focus()
        page.keyboard.press("Enter")
        page.locator(WORDS, has_text=then).wait_for()

    with opened(browser, f"{base}/lab/workspaces/live/tree/live.ipynb?token={token}") as page:
        run(page)
        page.locator(WORDS, has_text="Running, step").wait_for()
        page.wait_for_function("document.querySelector('img.widget-image').naturalWidth == 820")
        before = (
            page.locator("img.widget-image").get_attribute("src"),
            page.locator(WORDS).inner_text(),
        )
        page.wait_for_function(
            "([picture, words]) => document.querySelector('img.widget-image').src != picture "
            f"&& document.querySelector('{WORDS}').innerText != words",
            arg=before,
        )
        hidden = page.locator(
            "[role=status]:not([aria-live])", has_text="Running."
        )  # for who listens: the state alone
        hidden.wait_for(state="attached")
        assert hidden.count() == 1 and page.locator(WORDS).get_attribute("aria-live") == "off"
        press(page, "Pause", "Paused, step")
        assert page.locator(WORDS).get_attribute("aria-live") == "polite" and hidden.count() == 0
        look(page, "live-light")
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    assert Run.attach(out).state == "paused"
    ask(base, token)  # the kernel goes, the search does not
    assert Run.attach(out).state == "paused"
    done = len(Run.attach(out).follow())

    again = f"{base}/lab/workspaces/live-again/tree/live.ipynb?token={token}"
    with opened(browser, again, known="widget model not found") as page:
        page.locator(
            ".jp-OutputArea-output"
        ).first.wait_for()  # saved with the page before; it has no model any more
        page.locator(".jp-KernelName", has_text="Python 3").wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.locator(WORDS, has_text="Paused, step").wait_for()
        press(page, "Resume", "Running, step")
        page.locator("pre", has_text="Finished: run").wait_for(timeout=2 * READY)
        page.locator("input[type=range]").first.wait_for()  # the replay's
        assert "test accuracy" in page.locator("pre", has_text="Finished: run").inner_text()
        keep(page, "live-finished")
    found = Run.attach(out)
    assert found.follow() == found.record().events and len(found.follow()) > done
    ask(base, token)


def test_the_explorers_without_a_kernel_in_voila(browser, folder):
    """Each page is driven by key and by mouse, and looked at."""
    lacking = [
        "jupyterlab-jupytext",
        "@jupyter-notebook/lab-extension",
    ]  # they need what Voila lacks, and say so
    alone = ("--Voila.ip=127.0.0.1", f"--VoilaConfiguration.extension_denylist={lacking}")
    with serving(folder, "voila", str(folder), *alone) as (base, token):
        for name in MODULES:
            with opened(browser, f"{base}/voila/render/{name}.ipynb?token={token}") as page:
                use_module(page)
                look_module(page, f"{name}-voila")


@pytest.mark.skipif(
    importlib.util.find_spec("notebook") is None, reason="Notebook 7 is not installed"
)
def test_an_explorer_in_notebook_7(browser, folder):
    root = (
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.allow_root=True",
        f"--ServerApp.root_dir={folder}",
    )
    with serving(folder, "notebook", *root) as (base, token):
        own = "reading 'schema'"  # its settings registry, as soon as a page loads
        with opened(browser, f"{base}/notebooks/quantizer.ipynb?token={token}", own) as page:
            run(page)
            use_module(page)
            look_module(page, "quantizer-notebook")


ASK = """code => new Promise(done => {
  const id = JSON.parse(document.getElementById("jupyter-config-data").textContent).kernelId;
  const header = {msg_id: "a", msg_type: "execute_request", session: "b", username: "", version: "5.3", date: ""};
  const content = {code, silent: false, store_history: false, user_expressions: {}, allow_stdin: false};
  const socket = new WebSocket(`ws://${location.host}/api/kernels/${id}/channels`);
  const message = {channel: "shell", header, parent_header: {}, metadata: {}, content};
  socket.onopen = () => socket.send(JSON.stringify(message));
  setTimeout(() => { socket.close(); done(); }, 2000);
})"""  # what a visitor would send to run code


def test_the_explorers_as_pages(browser, tmp_path):
    """From the front page to two explorers: each has a picture that moves, no code, and runs none from a visitor."""
    folder, stolen = tmp_path / "pages", tmp_path / "stolen"
    folder.mkdir()
    with serving(
        folder, "hmq_lab.explorers.pages", str(folder), "--only", "quantizer", "placements"
    ) as (base, _):
        with opened(browser, f"{base}/") as page:
            pictures = page.locator("li img")
            assert pictures.count() == 2
            assert all(
                p.evaluate("e => e.naturalWidth") == 820 and p.get_attribute("alt")
                for p in pictures.all()
            )
            keep(page, "front-light")
            page.emulate_media(color_scheme="dark")
            page.reload()
            keep(page, "front-dark")
            for title in ("Quantizer", "Placements"):
                page.get_by_role("link", name=title).click()
                if title == "Quantizer":  # needs no kernel
                    use_module(page)
                    look_module(page, f"page-{title}")
                    page.get_by_role("link", name="All explorers").click()
                    continue
                page.locator(".widget-select select").select_option("layer3.0.conv2.weight")
                page.locator(WORDS, has_text="layer3.0.conv2.weight").wait_for()
                assert (
                    page.locator(".jp-CodeCell .jp-InputArea, .cm-content, .highlight").count() == 0
                )
                assert "import explorers" not in page.content()
                look(page, f"page-{title}")
                page.evaluate(ASK, f"open({str(stolen)!r}, 'w')")
                page.get_by_role("link", name="All explorers").click()
                page.wait_for_url(f"{base}/*")
        log = (folder.with_name("pages-hmq_lab.explorers.pages") / "log").read_text()
        assert "execute_request" in log and not stolen.exists()  # it arrived, and was refused
        with pytest.raises(
            urllib.error.HTTPError
        ) as refused:  # under another name than this machine's own
            urllib.request.urlopen(
                urllib.request.Request(f"{base}/voila/tree", headers={"Host": "elsewhere.test"})
            )
        assert refused.value.code == 403
        refused.value.close()
