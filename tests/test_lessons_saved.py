"""A lesson that is opened in JupyterLab and saved is the same file as before: git stays clean."""

import shutil
from pathlib import Path

import pytest
from test_browser import browser, opened, serving  # noqa: F401  (browser is a fixture)

from hmq_lab.commands.lab import FILES

ROOT = Path(__file__).parents[1]
LESSONS = ("01_power_of_two_quantizers.ipynb", "solutions/09_reading_the_selection.ipynb")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with lessons, as a reader has them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in LESSONS:
        (folder / "notebooks" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "notebooks" / name, folder / "notebooks" / name)
    return folder


def test_opening_and_saving_a_lesson_changes_no_byte(browser, checkout):  # noqa: F811
    root = ("--ServerApp.ip=127.0.0.1", "--ServerApp.allow_root=True", "--ServerApp.root_dir=.")
    files = f"--ServerApp.contents_manager_class={FILES}"
    with serving(checkout, "jupyterlab", files, *root, "--expose-app-in-browser") as (base, token):
        for name in LESSONS:
            path = checkout / "notebooks" / name
            before, written = path.read_bytes(), path.stat().st_mtime_ns
            url = f"{base}/lab/workspaces/{path.stem}/tree/notebooks/{name}?token={token}"
            with opened(browser, url) as page:
                # Its kernel tells JupyterLab what to write about the language.
                page.locator(".jp-KernelName", has_text="Python 3").wait_for()
                page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
                page.wait_for_timeout(1000)
                page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
                for _ in range(300):
                    if path.stat().st_mtime_ns != written:
                        break
                    page.wait_for_timeout(100)
                page.wait_for_timeout(500)
            assert path.stat().st_mtime_ns != written, f"{name} was not saved"
            assert path.read_bytes() == before, f"saving changed {name}"
