"""Make the book: lessons, explorers, pages and reference, to be opened from disk or put on any
static host.

    python notebooks/book/make.py build/book    # `make book`; exit code 1 where a page has a fault

No lesson is executed: the pages show what the notebooks of the student edition hold, with hints and
solutions folded away. The pages lie beside each other as the files of the repository do, so that a
link between two files is a link between two pages. Afterwards every page is read again: links,
anchors, alternative texts, and that nothing is loaded from elsewhere.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlencode

from PIL import Image

from hmq_lab.explorers import pages as explorer_pages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LONG = 8  # lines: a cell that draws, and is longer, is folded
STATE = {
    "bits",
    "exponent",
    "signed",
    "temperature",
    "mass",
    "step",
    "layer",
    "tensor",
}  # of an explorer, in a link
# In an explorer's page: tell the page around it how high it is (book.js listens).
TELL_HEIGHT = """<script>
const tell = () => parent.postMessage({explorer: document.body.scrollHeight}, "*");
new ResizeObserver(tell).observe(document.body);
</script>
"""
SEPARATE = {"explorers"}  # folders of pages that are whole by themselves, and not the theme's

# Rooms of the package, in the order of the imports, as pages of the reference.
ROOMS = [
    "graph",
    "",
    "data",
    "models",
    "hardware",
    "runs",
    "rivals",
    "plots",
    "explorers",
    "checks",
    "commands",
]
METHOD = "the method"
READING = [
    "quantizer",
    "gumbel",
    "seeds",
    "block",
    "network",
    "placement",
    "budget",
    "settings",
    "stages",
]


def lesson_titles(folder: Path) -> dict[str, str]:
    """The title of each lesson, by the name of its file."""
    titles = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        titles[path.stem] = first.splitlines()[0].removeprefix("# ").strip()
    if not titles:
        raise ValueError(
            f"no lesson in {folder}: a book is made of notebooks that begin with a number"
        )
    return titles


def collect(source: Path, root: Path = ROOT) -> None:
    """Write what Sphinx reads into a folder: pages, lessons, reference, settings."""
    notebooks = root / "notebooks"
    (source / "notebooks").mkdir()
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        (source / "notebooks" / path.name).write_text(
            json.dumps(lesson(notebook)), encoding="utf-8"
        )
    shutil.copyfile(notebooks / "README.md", source / "notebooks" / "README.md")
    shutil.copytree(
        root / "docs", source / "docs", ignore=shutil.ignore_patterns("*.py", "*.pdf", "bench")
    )
    reference(source / "api", root / "hmq_lab")
    gallery(source / "explorers.md")
    (source / "_static").mkdir()
    for name in ("book.css", "book.js"):
        shutil.copyfile(HERE / name, source / "_static" / name)
    shutil.copyfile(HERE / "conf.py", source / "conf.py")
    (source / "index.md").write_text(front(source, notebooks), encoding="utf-8")


def lesson(notebook: dict) -> dict:
    """A lesson as the book shows it: long plotting cells folded, explorers that work below their
    image.
    """
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and "plots." in text and text.count("\n") >= LONG:
            cell["metadata"].setdefault("tags", []).append("hide-input")
        cells.append(cell)
        if cell["cell_type"] == "code":
            cells += [frame(name, state) for name, state in explorers_in(text)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02d}"
    return notebook | {"cells": cells}


def explorers_in(code: str) -> list[tuple[str, dict]]:
    """The explorers that a cell opens and that work in a page, with the state that the cell gives
    them.

    >>> explorers_in("explorers.quantizer(weight, bits=3, exponent=-2)")
    [('quantizer', {'bits': 3, 'exponent': -2})]
    """
    found = []
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if (
            ast.unparse(node.func.value) != "explorers"
            or node.func.attr not in explorer_pages.STATIC
        ):
            continue
        state = {}
        for keyword in node.keywords:
            try:
                value = ast.literal_eval(keyword.value)
            except ValueError:
                continue
            if keyword.arg in STATE:
                state[keyword.arg] = value
        found.append((node.func.attr, state))
    return found


def frame(name: str, state: dict) -> dict:
    """A cell that shows an explorer's page inside of the lesson."""
    title = explorer_pages.PAGES[name].title
    place = f"../explorers/{name}.html"
    link = f"{place}#{urlencode(state)}" if state else place
    text = (
        f"**Move it here**, on the built-in network and recorded searches "
        f'(<a href="{place}">{title} on a page of its own</a>):\n\n'
        f"{iframe(link, title)}\n"
    )
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def iframe(link: str, title: str) -> str:
    """The element that shows an explorer's page inside of another page."""
    return f'<iframe class="explorer" src="{link}" title="{title}" loading="lazy"></iframe>'


def gallery(path: Path) -> None:
    """Write the page of all explorers that need no kernel."""
    parts = [
        "# Explorers",
        "",
        "They work in this book, without Jupyter: move a slider, read the sentence below.",
    ]
    for name in explorer_pages.STATIC:
        page = explorer_pages.PAGES[name]
        parts += [
            "",
            f"## {page.title}",
            "",
            f'{page.sentence} <a href="explorers/{name}.html">On a page of its own.</a>',
            "",
            iframe(f"explorers/{name}.html", page.title),
        ]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def reference(folder: Path, package: Path) -> None:
    """Write a page for each room, with the docstrings of its modules."""
    folder.mkdir()
    for room in ROOMS:
        inside = package / room
        if not inside.is_dir():
            continue
        modules = sorted(
            path.stem for path in inside.glob("*.py") if not path.stem.startswith("__")
        )
        if not room:
            # The method in the order in which one reads it, then what it rests on.
            first = [module for module in READING if module in modules]
            modules = first + [module for module in modules if module not in first]
        name = f"hmq_lab.{room}" if room else "hmq_lab"
        title = f"`{name}`" if room else f"`hmq_lab`: {METHOD}"
        parts = [f"# {title}", "", "```{eval-rst}"]
        if room:
            parts += [f".. automodule:: {name}", ""]
        for module in modules:
            full = f"{name}.{module}"
            parts += [full, "-" * len(full), "", f".. automodule:: {full}", "   :members:", ""]
        parts.append("```")
        (folder / f"{room or 'method'}.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def front(source: Path, notebooks: Path) -> str:
    """The first page: a row for each lesson, and what stands in the contents at the left."""
    titles = lesson_titles(notebooks)
    rows = [f"* [{name[:2]} {title}](notebooks/{name}.ipynb)" for name, title in titles.items()]
    first = ["install.md", "use.md", "class.md", "glossary.md"]
    names = sorted(path.name for path in (source / "docs").glob("*.md"))
    ordered = [name for name in first if name in names] + [
        name for name in names if name not in first
    ]
    rooms = [room or "method" for room in ROOMS]
    written = [room for room in rooms if (source / "api" / f"{room}.md").exists()]
    lists = {
        "LESSONS": rows,
        "STUDENT": [f"{name[:2]} {title} <notebooks/{name}>" for name, title in titles.items()],
        "PAGES": [
            "explorers",
            "For those who teach <notebooks/README>",
            *(f"docs/{name[:-3]}" for name in ordered),
        ],
        "REFERENCE": [f"api/{page}" for page in written],
    }
    text = (HERE / "index.md").read_text(encoding="utf-8")
    for word, lines in lists.items():
        text = re.sub(
            rf"^{word}$", lambda _, lines=lines: "\n".join(lines), text, flags=re.MULTILINE
        )
    return text


class Reader(HTMLParser):
    """What a page refers to."""

    def __init__(self):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []  # images, scripts, styles, frames
        self.without_alt: list[str] = []

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script", "iframe", "source", "video") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and "href" in found and found.get("rel") not in ("canonical", "search"):
            self.loads.append(found["href"])
        if tag == "img" and not found.get("alt", "").strip():
            self.without_alt.append(found.get("src", "")[:60])


def faults(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, one line for each fault.

    Links and anchors that lead nowhere, files that are missing, images without alternative text,
    and anything that a page would load from elsewhere.
    """
    folder = folder.resolve()
    read: dict[Path, Reader] = {}
    for path in sorted(folder.rglob("*.html")):
        read[path] = reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in read.items():
        name = path.relative_to(folder).as_posix()
        found += [f"{name}: the image {src} has no alternative text" for src in page.without_alt]
        found += [f"{name}: {fault}" for url in page.loads if (fault := fault_of_file(url, path))]
        found += [
            f"{name}: {fault}" for url in page.links if (fault := fault_of_link(url, path, read))
        ]
    return found


def fault_of_file(url: str, page: Path) -> str | None:
    """What is wrong with a file that a page loads; None if it lies beside the page."""
    if url.startswith(("data:", "#")):
        return None
    if re.match(r"(https?:)?//", url):
        return f"loads {url} from elsewhere"
    place = re.split(r"[?#]", url)[0]
    return None if (page.parent / unquote(place)).is_file() else f"{url} is missing"


def fault_of_link(url: str, page: Path, read: dict[Path, Reader]) -> str | None:
    """What is wrong with a link; None if it leads to a place that is there, or out of the book."""
    if re.match(r"(https?|mailto):", url):
        return None
    place, _, anchor = url.partition("#")
    target = (page.parent / unquote(place)).resolve() if place else page
    if not target.is_file():
        return f"the link {url} leads nowhere"
    # The anchor of an explorer's page is its state.
    known = target.parent.name in SEPARATE or target not in read
    if anchor and not known and unquote(anchor) not in read[target].ids:
        return f"the link {url} names no heading that is there"
    return None


def build(folder: Path, root: Path = ROOT) -> int:
    """Make the book in a folder, which is emptied before; the number of Sphinx's warnings, which it
    prints.
    """
    with tempfile.TemporaryDirectory() as place:
        source, doctrees, warnings = (
            Path(place) / name for name in ("source", "doctrees", "warnings.txt")
        )
        source.mkdir()
        collect(source, root)
        if folder.exists():
            shutil.rmtree(folder)
        options = ["-q", "-j", "2", "-d", str(doctrees), "-w", str(warnings)]
        subprocess.run(
            [sys.executable, "-m", "sphinx", *options, str(source), str(folder)], check=True
        )
        count = len(re.findall("WARNING|ERROR", warnings.read_text(encoding="utf-8")))
    for path in explorer_pages.write_static(folder / "explorers"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("</body>", f"{TELL_HEIGHT}</body>"), encoding="utf-8")
    # What Sphinx and its theme leave, and no reader's browser asks for.
    shutil.rmtree(folder / "_static" / "locales", ignore_errors=True)
    useless = [
        *folder.glob("_static/*.html"),
        *folder.glob("_static/**/*.map"),
        folder / ".buildinfo",
    ]
    for path in useless:
        path.unlink(missing_ok=True)
    reduce_colours(folder / "_images")
    return count


def reduce_colours(folder: Path) -> None:
    """Write the images of a folder with 256 colours, as the lessons have them: a third of the bytes."""
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            if image.mode == "P":
                continue
            reduced = image.quantize(256)
        reduced.save(path, optimize=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "folder", type=Path, help="where the book is written; what was there is removed"
    )
    options = parser.parse_args(arguments)
    is_book = (options.folder / "searchindex.js").exists() or not options.folder.exists()
    if not is_book and any(options.folder.iterdir()):
        parser.error(f"{options.folder} holds something that is no book: take another folder")
    warnings = build(options.folder)
    wrong = faults(options.folder)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
    pages = len(list(options.folder.rglob("*.html")))
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file()) / 1e6
    print(
        f"{pages} pages, {size:.1f} MB, {warnings} warnings, {len(wrong)} faults; "
        f"open {options.folder}/index.html"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
