"""The README's picture of the lab: an explorer in JupyterLab, in headless Chromium.

    python docs/lab.py docs/lab.png

Needs what the browser tests need: the extras lab and test, and a Chromium.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from test_browser import opened, run, serving  # noqa: E402  the same server, settings and waits as in the tests

CODE = """from hmq_lab import explorers, records

recorded = records.recorded("cifar10-resnet20-w16-a8")
explorers.replay(recorded, step=recorded.of("tables")[-1]["step"], layer="layer3.2.conv1.weight")"""


def main(target: Path) -> None:
    cells = [nbformat.v4.new_code_cell(CODE)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        folder = Path(home) / "notebooks"
        folder.mkdir()
        nbformat.write(notebook, folder / "explorer.ipynb")
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=arguments
        )
        root = (
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.allow_root=True",
            f"--ServerApp.root_dir={folder}",
        )
        with serving(folder, "jupyterlab", *root) as (base, token):
            with opened(browser, f"{base}/lab/tree/explorer.ipynb?token={token}") as page:
                run(page)
                page.locator("img.widget-image").wait_for()
                page.wait_for_timeout(2000)
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    few = picture.quantize(128, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
