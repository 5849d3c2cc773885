"""The book: every lesson as a page, formulas without a network, and a checker that finds what it is there to find."""

import dataclasses
import importlib.util
import itertools
import json
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from hmq_lab.explorers import Explorer, frames, pages
from hmq_lab.explorers.controls import Switch, Whole

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
    assert make.main([str(tmp_path), "--no-frames"]) == 0, capsys.readouterr().err
    lessons = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    for place in ("", "solutions"):
        assert sorted(path.stem for path in (tmp_path / place).glob("[0-9]*.html")) == lessons
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    for lesson in lessons:
        page = (tmp_path / f"{lesson}.html").read_text(encoding="utf-8")
        assert f'href="{lesson}.html"' in front and page.count("data:image/png") >= 3
        assert "<details>" in page and "<details>" not in (tmp_path / "solutions" / f"{lesson}.html").read_text("utf-8")
    assert capsys.readouterr().out.strip().endswith("index.html")
    (tmp_path / "14_gone.html").write_text("<h1>of an earlier book</h1>")
    assert make.main([str(tmp_path), "--no-frames"]) == 1
    assert "14_gone.html: no page of this book" in capsys.readouterr().err


def test_a_folder_without_lessons_is_named(make, tmp_path):
    with pytest.raises(ValueError, match=r"no lesson in .*: a book is made of notebooks"):
        make.collect(tmp_path)


# --- the page of the explorers

SMALL = {
    "quantizer": {"bits": (1, 3), "signed": frames.ALL},
    "block": {"bits": (2, 3), "mass": (0.25, 0.75)},  # what a mass does depends on what was done before
    "replay": {"step": (0, 700, 1404), "layer": ("conv1.weight", "layer3.0.conv2.weight")},
}


@pytest.fixture(scope="module")
def drawn(make, tmp_path_factory):
    """A book of nothing but explorers: its folder, and what its script says."""
    folder = tmp_path_factory.mktemp("drawn")
    make.write([make.explorers(folder, SMALL)], folder)
    return folder, said(folder)


def said(folder):
    script = (folder / "frames" / "frames.js").read_text(encoding="utf-8")
    return json.loads(script.removeprefix("const FRAMES = ").rstrip(";\n"))


def pixels(image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", SMALL)
def test_a_frame_is_what_the_explorer_shows(name, drawn):
    folder, found = drawn
    controls, shown = found[name]["controls"], found[name]["frames"]
    values = [(False, True) if v is frames.ALL else v for v in SMALL[name].values()]
    assert [c["name"] for c in controls] == list(SMALL[name])
    assert [len(c["texts"]) for c in controls] == [len(v) for v in values]
    assert len(shown) == len(values[0]) * len(values[1]) and len({words for _, words in shown}) == len(shown)
    explorer = pages.PAGES[name].explorer()
    for i, j in itertools.product(*(range(len(v)) for v in values)):
        if name == "block":
            explorer = pages.PAGES[name].explorer()  # as a reader opens it
        explorer.set(**dict(zip(SMALL[name], (values[0][i], values[1][j]), strict=True)))
        number, words = shown[i * len(values[1]) + j]
        assert words == explorer.sentence
        with Image.open(folder / "frames" / name / f"{number}.webp") as picture:
            drawn_then, now = pixels(picture), pixels(explorer.image())
        assert np.abs(drawn_then - now).max() <= 255 / 31 / 2 + 0.5
        assert (drawn_then[now.min(2) == 255] == 255).all()  # white stays white


@dataclasses.dataclass(frozen=True)
class Few:
    bits: int = 2
    signed: bool = True

    def __post_init__(self):
        if self.bits == 3 and not self.signed:
            raise ValueError("3 bits must be <signed>")


def few() -> Explorer:
    """An explorer that draws its bits, refuses one state and looks the same whether signed or not."""

    def draw(result, figure):
        axes = figure.subplots()
        axes.set(xlim=(0, 5), ylim=(0, 1))
        return {"bits": axes.axvline(result.bits)}

    def compute(state):
        return type("Result", (), {"bits": state.bits, "sentence": f"{state.bits} bits, {state.signed}."})

    controls = {"bits": Whole("bits", 1, 3), "signed": Switch("signed")}
    return Explorer(Few(), compute, draw, lambda r, artists: artists["bits"].set_xdata([r.bits] * 2), controls)


def test_a_refused_state_has_its_words_and_equal_frames_one_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(pages.PAGES, "few", type("Page", (), {"title": "Few", "sentence": "", "explorer": few}))
    found = frames.write(tmp_path, {"few": {"bits": frames.ALL, "signed": frames.ALL}})["few"]
    assert said(tmp_path)["few"] == found
    assert found["frames"] == [
        [0, "1 bits, False."], [0, "1 bits, True."], [1, "2 bits, False."], [1, "2 bits, True."],
        [None, "3 bits must be <signed>"], [2, "3 bits, True."],
    ]  # fmt: skip
    assert [control["start"] for control in found["controls"]] == [1, 1]
    assert sorted(path.name for path in (tmp_path / "frames" / "few").iterdir()) == ["0.webp", "1.webp", "2.webp"]
    assert frames.faults(tmp_path) == []
    html = frames.section("few", found)
    assert (
        'src="frames/few/1.webp" width="820" height="400" alt="2 bits, True."' in html
        and " checked>" in html
        and 'value="1"' in html
    )
    found["controls"][0]["start"], found["controls"][1]["start"] = 2, 0
    with pytest.raises(ValueError, match="few starts with a state that it refuses: 3 bits must be"):
        frames.section("few", found)
    frames.write(tmp_path, {"few": {"bits": (2,)}})
    assert [path.name for path in (tmp_path / "frames" / "few").iterdir()] == ["0.webp"]  # no other is left over


def test_the_page_of_the_explorers(make, drawn):
    folder, found = drawn
    assert make.faults(folder) == []
    page, front = ((folder / f"{name}.html").read_text(encoding="utf-8") for name in ("explorers", "index"))
    assert 'href="explorers.html"' in front and page.count("data-explorer=") == len(SMALL) == page.count("<img ")
    for name in SMALL:
        assert f'<h2 id="{name}">{pages.PAGES[name].title}</h2>' in page and f'href="#{name}"' in page
        for control in found[name]["controls"]:
            assert page.count(f'<label for="{name}-{control["name"]}">{control["label"]}</label>') == 1
    assert 'type="range" id="quantizer-bits" autocomplete="off" min="0" max="1" value="1" aria-valuetext="3"' in page
    assert 'type="checkbox" id="quantizer-signed" autocomplete="off" checked' in page
    assert '<select id="replay-layer"' in page and '<option value="1" selected>layer3.0.conv2</option>' in page
    assert page.count("<button") == 1 and 'data-plays="replay-step"' in page
    script = (folder / "index.js").read_text(encoding="utf-8")
    rows = json.loads(script.removeprefix("const SECTIONS = ").rstrip(";\n"))
    assert ["explorers.html", "Explorers", "block", "The HMQ block"] in [row[:4] for row in rows]


def test_a_missing_frame_is_a_fault(make, drawn):
    folder, found = drawn
    unused = next(
        n for n, _ in found["block"]["frames"] if f"block/{n}.webp" not in (folder / "explorers.html").read_text()
    )
    picture = folder / "frames" / "block" / f"{unused}.webp"
    data = picture.read_bytes()
    picture.unlink()
    assert make.faults(folder) == [f"frames: block/{unused}.webp is missing"]
    picture.write_bytes(b"")
    assert make.faults(folder) == [f"frames: block/{unused}.webp is missing"]
    picture.write_bytes(data)
    script = folder / "frames" / "frames.js"
    right = script.read_text(encoding="utf-8")
    for change, fault in (
        (lambda shown: shown.pop(), "frames: replay has 5 frames for 6 choices"),
        (lambda shown: shown[2].__setitem__(1, " "), "frames: a frame of replay has no words"),
    ):
        wrong = json.loads(right.removeprefix("const FRAMES = ").rstrip(";\n"))
        change(wrong["replay"]["frames"])
        script.write_text(f"const FRAMES = {json.dumps(wrong)};\n", encoding="utf-8")
        assert make.faults(folder) == [fault]
    script.unlink()
    assert make.faults(folder) == ["explorers.html: frames/frames.js is missing"]
    script.write_text(right, encoding="utf-8")
    page = folder / "explorers.html"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(' alt="', ' title="', 1), encoding="utf-8")
    assert make.faults(folder) == ["explorers.html: 1 pictures without alternative text"]
    page.write_text(text, encoding="utf-8")
    assert make.faults(folder) == []


@pytest.mark.parametrize("name", frames.TABLE)
def test_the_table_of_the_book_fits_its_explorers(name):
    explorer = pages.PAGES[name].explorer()
    values, controls = frames.planned(explorer, frames.TABLE[name])
    explorer.set(**{c["name"]: values[c["name"]][c["start"]] for c in controls})  # what the page begins with
    assert 30 <= np.prod([len(v) for v in values.values()]) <= 200
    plays = [c["name"] for c in controls if c["milliseconds"]]
    assert plays == (["step"] if name in ("replay", "selection") else [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": (1,)}, "this explorer has no control 'colour'; it has bits, signed"),
        ({"bits": (1, 4)}, "bits must be an integer from 1 to 3, got 4"),
        ({"signed": (False,)}, "signed is True when the explorer is opened: the table must have a frame of that"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(given, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        frames.made(few(), given, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_number_needs_its_values():
    with pytest.raises(ValueError, match="temperature is a number: the table must say which values of it"):
        frames.planned(pages.PAGES["gumbel"].explorer(), {"temperature": frames.ALL})
