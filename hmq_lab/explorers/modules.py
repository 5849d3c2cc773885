"""Explorers as modules of JavaScript: the same file in a notebook, in the book and on a page
without a kernel.

Each module in `js/` computes and draws by itself from data that Python prepared once. `source` puts
a module and what it imports into one file, `ModuleView` shows it with anywidget, `page` and
`fragment` write it into HTML.
"""

from __future__ import annotations

import base64
import functools
import html
import importlib.util
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "js"
IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./(\w+)\.js";\n', re.MULTILINE)
# "core": never anywidget; "html": outputs hold the explorer as HTML, too.
VARIABLE = "HMQ_LAB_EXPLORERS"
COUNTER = itertools.count()


@dataclass(frozen=True)
class Module:
    """What an explorer needs to be shown by JavaScript.

    Args:
        name: of the file in `js/`.
        title: what a screen reader calls the figure.
        data: what the module computes from; arrays in it come from `packed`.
        fields: the fields of the explorer's state that the module reads and changes.
    """

    name: str
    title: str
    data: dict[str, Any]
    fields: tuple[str, ...]

    def state(self, state: object) -> dict[str, Any]:
        """The explorer's state as the module takes it: tuples and tables become flat lists.

        Args:
            state: of an explorer.

        Returns:
            Its fields, ready for JSON.
        """
        found = {name: getattr(state, name) for name in self.fields}
        return {n: np.ravel(v).tolist() if isinstance(v, tuple) else v for n, v in found.items()}


def are_used() -> bool:
    """Whether explorers are shown by modules: anywidget is there, and the environment does not ask
    for core widgets.
    """
    return os.environ.get(VARIABLE) != "core" and importlib.util.find_spec("anywidget") is not None


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as a module unpacks it, in the smallest type that loses nothing.

    >>> packed(np.array([0.5, 2.0]))["dtype"], packed(np.array([0.1, 2.0]))["dtype"]
    ('float32', 'float64')

    Args:
        array: numbers of any shape; it is sent flat.
    """
    # The first type that holds every value exactly.
    for dtype in (np.uint8, np.uint16, np.uint32) if array.dtype.kind in "iu" else (np.float32,):
        small = array.astype(dtype)
        if (small == array).all():
            array = small
            break
    return {"dtype": array.dtype.name, "data": np.ascontiguousarray(array).tobytes()}


@functools.cache
def source(name: str) -> str:
    """A module and all it imports as one file: what anywidget loads and a page holds.

    >>> source("quantizer").count("import "), source("quantizer").count("export default")
    (0, 1)

    Args:
        name: of the module, without its suffix.

    Returns:
        JavaScript.
    """
    text = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    parts: dict[str, str] = {}
    _collect(text, parts)
    return "\n".join([*parts.values(), IMPORT.sub("", text)])


def _collect(text: str, parts: dict[str, str]) -> None:
    """Add what a text imports to `parts`, each file once and after those it needs itself."""
    for name in IMPORT.findall(text):
        if name not in parts:
            needed = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
            _collect(needed, parts)
            parts[name] = re.sub(r"^export ", "", IMPORT.sub("", needed), flags=re.MULTILINE)


def data_of(module: Module, controls: Mapping) -> dict[str, Any]:
    """The module's data with its title and its controls, by name and in order.

    Args:
        module: of an explorer.
        controls: of the same explorer, by name.

    Returns:
        What the module takes, ready for JSON.
    """
    described = [{"name": name, **control.described()} for name, control in controls.items()]
    return {"title": module.title, "controls": described, **module.data}


def view(module: Module, controls: Mapping, state: object):
    """The widget that shows a module; its trait `state` follows the reader, and the reader sees
    what it is set to.

    Args:
        module: of an explorer.
        controls: of the same explorer, by name.
        state: of the explorer.

    Returns:
        The widget.
    """
    import anywidget
    import traitlets

    class ModuleView(anywidget.AnyWidget):
        data = traitlets.Dict().tag(sync=True)
        state = traitlets.Dict().tag(sync=True)

    data = data_of(module, controls)
    return ModuleView(_esm=source(module.name), data=data, state=module.state(state))


def fragment(module: Module, controls: Mapping, state: object, linked: bool = False) -> str:
    """An element with its script, to be put into a page; it takes the page's colours.

    Args:
        module: what is shown.
        controls: the explorer's controls, by name.
        state: the state that it opens with.
        linked: keep the state in the page's address.
    """
    # Text in a script must not end the script.
    shown = {"data": data_of(module, controls), "state": module.state(state)}
    text = json.dumps(shown, default=_text, separators=(",", ":"), ensure_ascii=False)
    place = f"hmq-{module.name}-{next(COUNTER)}"
    options = json.dumps(linked)
    # Nothing in data or source may end the script that holds them.
    data = text.replace("<", "\\u003c")
    code = source(module.name).replace("</", "<\\/")
    mount = f'mount(view, document.getElementById("{place}"), shown, {options});'
    return FRAGMENT.format(place=place, data=data, source=code, mount=mount)


def page(title: str, about: str, body: str) -> str:
    """A whole page around fragments: it opens from disk, in light and dark, on a phone.

    Args:
        title: of the page.
        about: one sentence for search engines.
        body: fragments of HTML.

    Returns:
        HTML.
    """
    return PAGE.format(title=html.escape(title), about=html.escape(about), body=body)


def _text(value: object) -> str:
    """Bytes in JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is no JSON")


FRAGMENT = """<div id="{place}"></div>
<script type="application/json" id="{place}-data">{data}</script>
<script type="module">
{source}
const shown = JSON.parse(document.getElementById("{place}-data").textContent);
{mount}
</script>
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0 auto; max-width: 64rem; padding: 0.6rem 1rem; background: Canvas;
  color: CanvasText;
  font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif }}
h1 {{ font-size: 1.3rem; margin: 0.2rem 0 }}
h1 + p {{ margin: 0 0 0.6rem }}
</style></head><body>
<h1>{title}</h1>
<p>{about}</p>
{body}
</body></html>
"""
