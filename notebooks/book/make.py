"""Make the book: the lessons as pages that open from disk, without a server, a kernel or a network.

    python notebooks/book/make.py build/book       # what `make book` does; exit code 1 where a page has a fault

No notebook is executed: the pages show what they hold, in both editions. Formulas become MathML, pictures are in their
page, code is coloured here, and the search goes through an index that is a script beside the pages. Only the page of
the explorers is computed: a picture for each place of their controls, about a minute; `--no-frames` leaves it out.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from string import Template
from urllib.parse import unquote

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from hmq_lab.data.files import replacing
from hmq_lab.explorers import frames
from hmq_lab.explorers.pages import PAGES

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent
LIGHT, DARK = "default", "github-dark"  # styles of pygments whose comments can be read on white and on black
EDITIONS = {"": "with open exercises", "solutions/": "with solutions"}
TEACHING, EXPLORERS = "teaching.html", "explorers.html"
OTHERS = {EXPLORERS: "Explorers", TEACHING: "For those who teach"}  # pages that are no lessons


@dataclass
class Page:
    """A page of the book: its place in the folder, title, body, and what the index and the search know of it."""

    place: str  # "01_name.html", "solutions/01_name.html"
    title: str
    body: str
    sections: list[tuple[str, str, str]] = field(default_factory=list)  # (id, heading, text below it)
    about: str = ""  # one sentence
    minutes: str = ""
    objectives: list[str] = field(default_factory=list)


class Renderer(IPythonRenderer):
    """Markdown as in a notebook, with links to pages in place of notebooks, formulas as MathML, short headings' names.

    sections: (id, heading) of all that was rendered so far, so that no id is there twice.
    """

    def __init__(self):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.sections: list[tuple[str, str]] = []

    def heading(self, text, level, **_):
        words = re.sub(r"<[^>]+>", "", text)
        name = "-".join(re.findall(r"\w+", html.unescape(words).lower())) or "section"
        taken = {at for at, _ in self.sections}
        at = next(n for n in (name, *(f"{name}-{k}" for k in range(2, 1000))) if n not in taken)
        self.sections.append((at, html.unescape(words)))
        return f'<h{level} id="{at}">{text}</h{level}>\n'

    def link(self, text, url, title=None):
        if not re.match(r"[a-z]+:", url):
            url = re.sub(r"\.ipynb(?=#|$)", ".html", url)
            url = re.sub(r"^(\.\./)?(notebooks/)?README\.md$", rf"\g<1>{TEACHING}", url)
        return super().link(text, url, title)

    def inline_math(self, body):
        return mathml(body.strip())

    def block_math(self, body):
        return mathml(body.strip(), display="block")

    def latex_environment(self, name, body):
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


def lesson(path: Path, place: str) -> Page:
    """A notebook, executed or not, as a page."""
    notebook, renderer = nbformat.read(path, as_version=4), Renderer()
    markdown = MarkdownWithMath(renderer=renderer).render
    parts, texts = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(markdown(cell.source))
            if renderer.sections:
                at = renderer.sections[-1][0]
                texts[at] = texts.get(at, "") + " " + plain(parts[-1])
        elif cell.cell_type == "code":
            parts.append(f'<div class="code">{highlight(cell.source, PythonLexer(), HtmlFormatter())}</div>')
            parts += [output(out, markdown) for out in cell.outputs]
    if not renderer.sections:
        raise ValueError(f"{path.name} has no heading")
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    minutes = re.search(r"\*\*Minutes:\*\*\s*(\d+)", first)
    goals = re.search(r"\*\*After this you can\*\*\s*\n(.*?)(?=\n\s*\n[^*\s]|\Z)", first, re.S)
    items = re.findall(r"^\* (.*?)(?=^\* |\Z)", goals.group(1), re.S | re.M) if goals else []
    return Page(
        place, renderer.sections[0][1], "\n".join(parts),
        [(at, heading, texts.get(at, "")) for at, heading in renderer.sections],
        " ".join(first.split("\n\n")[1].split()) if "\n\n" in first else "",
        minutes.group(1) if minutes else "", [" ".join(item.split()).rstrip(",.") for item in items],
    )  # fmt: skip


def output(out: NotebookNode, markdown) -> str:
    """An output of a cell, the richest form of it that a page can show."""
    if out.output_type == "stream":
        return f'<pre class="out">{ansi2html(out.text)}</pre>'
    if out.output_type == "error":
        trace = "\n".join(out.traceback)
        return f'<pre class="out error">{ansi2html(trace)}</pre>'
    data = out.data
    if "image/png" in data:
        alt = html.escape(out.metadata.get("image/png", {}).get("alt", ""))
        return f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="{alt}">'
    if "text/html" in data:
        return data["text/html"]
    if "text/markdown" in data:
        return f'<div class="said">{markdown(data["text/markdown"])}</div>'
    return f'<pre class="out">{ansi2html(data.get("text/plain", ""))}</pre>'


def plain(text: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))).strip()


def collect(folder: Path = NOTEBOOKS) -> list[Page]:
    """All pages: the lessons in both editions, as far as they are there, and the page for who teaches."""
    pages = [
        lesson(path, f"{edition}{path.stem}.html")
        for edition in EDITIONS
        for path in sorted((folder / edition).glob("[0-9]*.ipynb"))
    ]
    if not pages:
        raise ValueError(f"no lesson in {folder}: a book is made of notebooks that begin with a number")
    readme = folder / "README.md"
    if readme.exists():
        renderer = Renderer()
        body = MarkdownWithMath(renderer=renderer).render(readme.read_text(encoding="utf-8"))
        sections = [(at, heading, "") for at, heading in renderer.sections]
        pages.append(Page(TEACHING, OTHERS[TEACHING], body, sections))
    return pages


def explorers(folder: Path, table: Mapping[str, Mapping] = frames.TABLE) -> Page:
    """The page on which explorers work without a kernel; draws their frames into the folder."""
    found = frames.write(folder, table)
    parts = [frames.section(name, data) for name, data in found.items()]
    scripts = [f'<script defer src="{src}"></script>' for src in (f"{frames.FOLDER}/{frames.SCRIPT}", "explorers.js")]
    sections = [(name, PAGES[name].title, PAGES[name].sentence) for name in found]
    body = [(HERE / "explorers.html").read_text(encoding="utf-8"), *parts, *scripts]
    return Page(EXPLORERS, OTHERS[EXPLORERS], "\n".join(body), [("top", OTHERS[EXPLORERS], ""), *sections])


def write(pages: list[Page], folder: Path) -> list[Path]:
    """Write pages, index, style and search into a folder; the template puts navigation around each page."""
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    index = Page("index.html", "hmq_lab: the lessons", front(pages), [])
    written = []
    for page in (index, *pages):
        root = "../" * page.place.count("/")
        text = template.substitute(
            title=html.escape(page.title), body=page.body, root=root,
            lessons=navigation(pages, page, root), here=contents(page), other=other_edition(pages, page, root),
            turn=turning(pages, page),
        )  # fmt: skip
        written.append(save(folder / page.place, text))
    entries = [[page.place, page.title, *section] for page in pages for section in page.sections]
    written.append(save(folder / "index.js", f"const SECTIONS = {json.dumps(entries, ensure_ascii=False)};\n"))
    for script in ("search.js", *["explorers.js"] * any(page.place == EXPLORERS for page in pages)):
        written.append(save(folder / script, (HERE / script).read_text(encoding="utf-8")))
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in (LIGHT, DARK))
    style = (HERE / "style.css").read_text(encoding="utf-8")
    written.append(save(folder / "style.css", f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{style}"))
    return written


def save(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    return path


def students(pages: list[Page]) -> list[Page]:
    return [page for page in pages if "/" not in page.place and page.place not in OTHERS]


def front(pages: list[Page]) -> str:
    """The body of the first page: every lesson with its minutes and what one can do after it."""
    markdown, there, items = MarkdownWithMath(renderer=Renderer()).render, {page.place for page in pages}, []
    for page in students(pages):
        goals = "".join(
            f"<li>{markdown(goal).removeprefix('<p>').strip().removesuffix('</p>')}</li>" for goal in page.objectives
        )
        solved = f"solutions/{page.place}"
        links = f' · <a href="{solved}">with solutions</a>' if solved in there else ""
        minutes = f"{page.minutes} minutes" if page.minutes else ""
        items.append(
            f'<section class="lesson"><h2><a href="{page.place}">{html.escape(page.title)}</a></h2>'
            f'<p class="small">{minutes}{links}</p>{markdown(page.about)}<ul>{goals}</ul></section>'
        )
    teach = f'<p><a href="{TEACHING}">For those who teach with these lessons</a></p>' if TEACHING in there else ""
    explore = (
        f'<p><a href="{EXPLORERS}">Explorers that work in this book, without Jupyter</a></p>'
        if EXPLORERS in there
        else ""
    )
    return f"{(HERE / 'front.html').read_text(encoding='utf-8')}\n{explore}\n{''.join(items)}\n{teach}"


def navigation(pages: list[Page], now: Page, root: str) -> str:
    """Links to all lessons in the edition of this page."""
    edition = "solutions/" if now.place.startswith("solutions/") else ""
    there = {page.place for page in pages}
    rows = []
    for page in students(pages):
        place = edition + page.place if edition + page.place in there else page.place
        mark = ' aria-current="page"' if place == now.place else ""
        rows.append(f'<li><a href="{root}{place}"{mark}>{page.place[:2]} {html.escape(page.title)}</a></li>')
    for place in OTHERS:
        if place in there:
            mark = ' aria-current="page"' if now.place == place else ""
            rows.append(f'<li><a href="{root}{place}"{mark}>{OTHERS[place]}</a></li>')
    return "\n".join(rows)


def contents(page: Page) -> str:
    return "\n".join(f'<li><a href="#{at}">{html.escape(heading)}</a></li>' for at, heading, _ in page.sections[1:])


def other_edition(pages: list[Page], now: Page, root: str) -> str:
    """A link to the same lesson in the other edition."""
    inside = now.place.startswith("solutions/")
    other = now.place.removeprefix("solutions/") if inside else f"solutions/{now.place}"
    if other == now.place or other not in {page.place for page in pages}:
        return ""
    return f'<a href="{root}{other}">this lesson {EDITIONS["" if inside else "solutions/"]}</a>'


def turning(pages: list[Page], now: Page) -> str:
    """Links to the lesson before and the one after."""
    edition = [p for p in pages if p.place.count("/") == now.place.count("/") and p.place not in OTHERS]
    if now not in edition:
        return ""
    at = edition.index(now)
    before, after = edition[at - 1] if at else None, edition[at + 1] if at + 1 < len(edition) else None
    found = [(f"← {before.title}", before)] if before else []
    found += [(f"{after.title} →", after)] if after else []
    return " ".join(f'<a href="{p.place.rpartition("/")[2]}">{html.escape(text)}</a>' for text, p in found)


class Reader(HTMLParser):
    """What a page refers to."""

    def __init__(self):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []  # pictures, scripts, styles
        self.without_alt = 0
        self.errors = 0

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a" and found.get("href") is not None:
            self.links.append(found["href"])
        if tag in ("img", "script", "iframe", "source", "video") and "src" in found:
            self.loads.append(found["src"] or "")
        if tag == "link" and found.get("href"):
            self.loads.append(found["href"])
        if tag == "img" and not (found.get("alt") or "").strip():
            self.without_alt += 1
        if "error" in (found.get("class") or "").split() and tag == "pre":
            self.errors += 1


def faults(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, a line for each fault; an empty list is what one wants.

    Links and anchors that lead nowhere, pictures that are missing or have no alternative text, anything a page would
    load from elsewhere, an id that is there twice, an output that is an error, explorers that lack a frame.
    """
    read = {}
    for path in sorted(folder.rglob("*.html")):
        read[path.resolve()] = reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in read.items():
        name = path.relative_to(folder.resolve()).as_posix()
        twice = sorted({at for at in page.ids if page.ids.count(at) > 1})
        found += [f"{name}: the id {at} is there twice" for at in twice]
        found += [f"{name}: {page.without_alt} pictures without alternative text"] * bool(page.without_alt)
        found += [f"{name}: an output is an error"] * bool(page.errors)
        for url in page.loads:
            if re.match(r"(https?:)?//", url):
                found.append(f"{name}: loads {url} from elsewhere")
            elif not url.startswith("data:") and not (path.parent / unquote(url)).is_file():
                found.append(f"{name}: {url} is missing")
            elif url.startswith("data:image") and len(url) < 100:
                found.append(f"{name}: a picture is empty")
        for url in page.links:
            if re.match(r"(https?|mailto):", url):
                continue
            place, _, at = url.partition("#")
            target = (path.parent / unquote(place)).resolve() if place else path
            if not target.is_file():
                found.append(f"{name}: the link {url} leads nowhere")
            elif at and target in read and unquote(at) not in read[target].ids:
                found.append(f"{name}: the link {url} names no heading that is there")
    return found + frames.faults(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where the book is written")
    parser.add_argument("--no-frames", action="store_true", help="without the page of explorers: in seconds")
    options = parser.parse_args(arguments)
    pages = collect()
    if not options.no_frames:
        began = time.perf_counter()
        print(f"drawing every frame of {len(frames.TABLE)} explorers, about a minute", flush=True)
        pages.append(explorers(options.folder))
        drawn = list((options.folder / frames.FOLDER).rglob("*.webp"))
        size = sum(path.stat().st_size for path in drawn) / 1e6
        print(f"{len(drawn)} frames, {size:.1f} MB, in {time.perf_counter() - began:.0f} s")
    written = write(pages, options.folder)
    others = sorted(set(options.folder.rglob("*.html")) - set(written))  # nobody's lesson any more, or not ours at all
    wrong = [f"{path.relative_to(options.folder)}: no page of this book: take it away" for path in others]
    wrong += faults(options.folder)
    print("\n".join(wrong), file=sys.stderr) if wrong else None
    print(f"{len(pages) + 1} pages, {len(wrong)} faults; open {options.folder / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
