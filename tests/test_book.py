"""The book: every lesson as a page, formulas without a network, and a checker that finds what it is there to find."""

import importlib.util
import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytest.importorskip("latex2mathml", reason="the book needs the extra `book`")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_book", NOTEBOOKS / "book" / "make.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lessons(tmp_path):
    """Two small lessons, one of them with a solutions edition, and a teacher's page."""
    first = """# Steps & levels

A step is what the *lesson* is about.

**Minutes:** 12 (3 s of them computing) · **Data:** none

**After this you can**

* say what a step is,
* use `2^b`
  levels.

## A step"""
    figure = new_output("display_data", data={"image/png": PICTURE * 2, "text/plain": "x"},
                        metadata={"image/png": {"alt": 'A "figure" of <steps>.'}})  # fmt: skip
    cells = [
        new_markdown_cell(first),
        new_markdown_cell(
            "The term is $t_i < 2$:\n\n$$s = \\frac{2t}{2^b}$$\n\n## A step\n\nSee [two](02_two.ipynb#more)."
        ),
        new_code_cell("print('<b>')", outputs=[new_output("stream", text="<b>\n"), figure]),
        new_markdown_cell("<details><summary>Hint</summary>\n\n```python\nx = 1\n```\n\n</details>"),
        new_markdown_cell("| a | b |\n|---|---|\n| 1 | 2 |"),
    ]
    folder = tmp_path / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), folder / "01_one.ipynb")
    two = [new_markdown_cell("# Two\n\nIt says.\n\n## More\n\nBack to [one](01_one.ipynb).")]
    nbformat.write(new_notebook(cells=two), folder / "02_two.ipynb")
    nbformat.write(new_notebook(cells=two), folder / "solutions" / "02_two.ipynb")
    nbformat.write(new_notebook(cells=cells), folder / "solutions" / "01_one.ipynb")
    (folder / "README.md").write_text("# Teaching\n\n[one](01_one.ipynb), [the same](README.md)\n", encoding="utf-8")
    return folder


def test_a_lesson_becomes_a_page(make, lessons, tmp_path):
    book = tmp_path / "book"
    pages = make.collect(lessons)
    make.write(pages, book)
    assert make.faults(book) == []
    names = {path.relative_to(book).as_posix() for path in book.rglob("*.html")}
    assert names == {"index.html", "teaching.html", "01_one.html", "02_two.html",
                     "solutions/01_one.html", "solutions/02_two.html"}  # fmt: skip
    one = (book / "01_one.html").read_text(encoding="utf-8")
    assert "<title>Steps &amp; levels</title>" in one and one.count("<h1") == 1
    assert '<h2 id="a-step">' in one and '<h2 id="a-step-2">' in one  # two headings of one name
    assert one.count("<math") == 2 and "<mfrac>" in one and "$" not in one.split("<main")[1]
    assert 'href="02_two.html#more"' in one and "ipynb" not in one
    assert "&lt;b&gt;" in one.split('class="out"')[1]
    assert 'alt="A &quot;figure&quot; of &lt;steps&gt;."' in one
    assert "<summary>Hint</summary>" in one and '<span class="n">x</span>' in one and "<td>2</td>" in one
    assert 'href="02_two.html">Two →' in one and 'href="solutions/01_one.html"' in one
    solved = (book / "solutions" / "01_one.html").read_text(encoding="utf-8")
    assert (
        'href="../style.css"' in solved and 'href="../01_one.html"' in solved and 'href="02_two.html">Two →' in solved
    )
    front = (book / "index.html").read_text(encoding="utf-8")
    for words in ("12 minutes", "say what a step is</li>", "<code>2^b</code> levels</li>", "teaching.html"):
        assert words in front
    script = (book / "index.js").read_text(encoding="utf-8")
    sections = json.loads(script.removeprefix("const SECTIONS = ").rstrip(";\n"))
    assert ["02_two.html", "Two", "more", "More"] in [row[:4] for row in sections]


def test_the_checker_finds_what_is_wrong(make, lessons, tmp_path):
    book = tmp_path / "book"
    make.write(make.collect(lessons), book)
    page = book / "02_two.html"
    right = page.read_text(encoding="utf-8")
    for planted, said in {
        '<a href="03_three.html">3</a>': "02_two.html: the link 03_three.html leads nowhere",
        '<a href="01_one.html#no">1</a>': "02_two.html: the link 01_one.html#no names no heading that is there",
        '<a href="#no">1</a>': "02_two.html: the link #no names no heading that is there",
        '<img src="no.png" alt="No.">': "02_two.html: no.png is missing",
        '<img src="data:image/png;base64," alt="No.">': "02_two.html: a picture is empty",
        f'<img src="data:image/png;base64,{PICTURE}">': "02_two.html: 1 pictures without alternative text",
        '<script src="https://a.test/x.js"></script>': "02_two.html: loads https://a.test/x.js from elsewhere",
        '<p id="more">again</p>': "02_two.html: the id more is there twice",
        '<pre class="out error">no</pre>': "02_two.html: an output is an error",
    }.items():
        page.write_text(right.replace("</main>", f"{planted}</main>"), encoding="utf-8")
        assert make.faults(book) == [said]
    page.write_text(right.replace("</main>", '<a href="https://elsewhere.test/">x</a></main>'), encoding="utf-8")
    assert make.faults(book) == []  # a reader may go elsewhere; a page may not
    page.unlink()
    assert any("leads nowhere" in fault for fault in make.faults(book))


def test_the_book_of_the_lessons_has_no_fault(make, tmp_path, capsys):
    assert make.main([str(tmp_path)]) == 0, capsys.readouterr().err
    lessons = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    for place in ("", "solutions"):
        assert sorted(path.stem for path in (tmp_path / place).glob("[0-9]*.html")) == lessons
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    for lesson in lessons:
        page = (tmp_path / f"{lesson}.html").read_text(encoding="utf-8")
        assert f'href="{lesson}.html"' in front and page.count("data:image/png") >= 3
        assert "<details>" in page and "<details>" not in (tmp_path / "solutions" / f"{lesson}.html").read_text("utf-8")
    assert capsys.readouterr().out.strip().endswith("index.html")


def test_a_folder_without_lessons_is_named(make, tmp_path):
    with pytest.raises(ValueError, match=r"no lesson in .*: a book is made of notebooks"):
        make.collect(tmp_path)
