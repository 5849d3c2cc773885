"""The README's images of the explorers: their pages, in headless Chromium.

    python docs/gallery.py docs/gallery

Needs what the browser tests need: the extras lab and test, and a Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from hmq_lab.explorers import pages

WIDTH, HEIGHT = 640, 720
# States in which something is to be seen.
STATES = {
    "gumbel": "temperature=0.5",
    "block": "bits=2&exponent=-3&mass=0.5",
    "replay": "step=280",
    "selection": "step=1404",
}
COLOURS = 64


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        paths = pages.write_static(Path(place))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for path in paths:
            tab.goto(f"{path.as_uri()}#{STATES.get(path.stem, '')}")
            tab.wait_for_timeout(1000)
            image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
            target = folder / f"{path.stem}.png"
            image.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
            print(f"{target}: {target.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
