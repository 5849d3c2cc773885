"""The book: what its pages show, and that its check finds every fault."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest

from hmq_lab.explorers import pages

ROOT = Path(__file__).parents[1]
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
SENTENCE = "A single red pixel, which says nothing."


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location(
        "make_book", ROOT / "notebooks" / "book" / "make.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(text, *outputs, **metadata):
    return {
        "cell_type": "code",
        "source": text,
        "metadata": metadata,
        "outputs": list(outputs),
        "execution_count": 1,
    }


def prose(text):
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def notebook(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


FIGURE = {
    "output_type": "display_data",
    "data": {"image/png": PIXEL, "text/plain": "Drawing"},
    "metadata": {"image/png": {"alt": SENTENCE}},
}
LONG_PLOT = "\n".join(["drawing, ax = plots.canvas()", *["ax.plot([1, 2])"] * 9])


@pytest.fixture(scope="module")
def book(make, tmp_path_factory):
    """A book of one lesson, two pages, and the reference of two modules."""
    root = tmp_path_factory.mktemp("repository")
    for folder in ("notebooks", "docs", "hmq_lab/graph"):
        (root / folder).mkdir(parents=True)
    lesson = notebook(
        prose(
            "# Two numbers\n\nThe step is $2t / 2^b$. "
            "See [what scheme means](../docs/glossary.md#scheme)."
        ),
        code("explorers.quantizer(weight, bits=3, exponent=-2)", FIGURE),
        code(LONG_PLOT, FIGURE),
        prose("<details><summary>Hint</summary>\n\nHalve it.\n\n</details>"),
    )
    (root / "notebooks" / "00_two_numbers.ipynb").write_text(json.dumps(lesson), encoding="utf-8")
    (root / "notebooks" / "README.md").write_text(
        "# For those who teach\n\n[00](00_two_numbers.ipynb)\n"
    )
    (root / "docs" / "glossary.md").write_text("# Glossary\n\n## Scheme\n\nBits and threshold.\n")
    long = "a_name.that_no_phone.is_wide_enough.for_and_that_has_no_space"
    words = f"# Install\n\n`pip install {long}`\n\n* see {long}\n\n## {long}\n\nYes.\n"
    (root / "docs" / "install.md").write_text(words)
    (root / "hmq_lab" / "seeds.py").touch()
    (root / "hmq_lab" / "graph" / "naming.py").touch()
    folder = root / "build" / "book"
    make.build(folder, root)
    return folder


def page(book, place):
    return (book / place).read_text(encoding="utf-8")


def test_a_book_has_no_faults(make, book):
    assert make.faults(book) == []


def test_a_figure_keeps_its_sentence(book):
    assert page(book, "notebooks/00_two_numbers.html").count(f'alt="{SENTENCE}"') == 2


def test_a_formula_needs_no_script(make, book):
    text = page(book, "notebooks/00_two_numbers.html")
    reader = make.Reader()
    reader.feed(text)
    assert "<math" in text and not [url for url in reader.loads if "mathjax" in url.lower()]


def test_a_hint_stays_folded(book):
    assert "<details><summary>Hint</summary>" in page(book, "notebooks/00_two_numbers.html")


def test_a_long_plotting_cell_is_folded_and_a_short_one_is_not(make):
    shown = make.lesson(notebook(code(LONG_PLOT), code("plots.x")))
    tags = [cell["metadata"].get("tags") for cell in shown["cells"]]
    assert tags == [["hide-input"], None]


def test_an_explorer_stands_below_its_cell_with_its_state(book):
    text = page(book, "notebooks/00_two_numbers.html")
    assert 'src="../explorers/quantizer.html#bits=3&amp;exponent=-2"' in text.replace(
        "&exponent", "&amp;exponent"
    )
    assert (book / "explorers" / "quantizer.html").is_file()
    assert all(
        f'src="explorers/{name}.html"' in page(book, "explorers.html") for name in pages.STATIC
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "explorers.block(weight, bits=2, mass=0.5, layer=name)",
            [("block", {"bits": 2, "mass": 0.5})],
        ),
        ("explorers.gumbel(temperature=0.5, colour='red')", [("gumbel", {"temperature": 0.5})]),
        ("explorers.integers(network, x)", []),  # needs a kernel
        ("plots.quantizer(weight)\nquantizer(weight)", []),
    ],
)
def test_explorers_are_found_in_code(make, text, found):
    assert make.explorers_in(text) == found


def test_the_reference_shows_docstrings(book):
    assert "hmq_lab.seeds" in page(book, "api/method.html")
    assert "hmq_lab.graph.naming" in page(book, "api/graph.html")


def test_the_first_page_leads_everywhere(book):
    text = page(book, "index.html")
    for place in ("notebooks/00_two_numbers.html", "docs/install.html", "docs/glossary.html"):
        assert f'href="{place}"' in text


@pytest.fixture(scope="module")
def chromium():
    """A browser without a network."""
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None or importlib.util.find_spec("playwright") is None:
        required = os.environ.get("HMQ_LAB_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)("no Chromium or no playwright on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def broken(book, tmp_path):
    """A copy of the book, to break."""
    return Path(shutil.copytree(book, tmp_path / "book"))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('alt="A single', 'title="A single', "the image ../_images/"),
        (
            "../docs/glossary.html#scheme",
            "../docs/glossary.html#schema",
            "names no heading that is there",
        ),
        (
            'href="../docs/install.html"',
            'href="../docs/instal.html"',
            "the link ../docs/instal.html leads nowhere",
        ),
        (
            "../explorers/quantizer.html#",
            "../explorers/quantiser.html#",
            "quantiser.html#bits=3&exponent=-2 is missing",
        ),
        (
            'src="../_static/documentation_options.js',
            'src="//cdn.example/d.js',
            "loads //cdn.example/d.js",
        ),
    ],
)
def test_a_fault_is_found(make, broken, old, new, fault):
    path = broken / "notebooks" / "00_two_numbers.html"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    found = make.faults(broken)
    assert (
        len(found) == 1
        and found[0].startswith("notebooks/00_two_numbers.html: ")
        and fault in found[0]
    )


def test_an_image_that_is_missing_is_found(make, broken):
    for image in (broken / "_images").iterdir():
        image.unlink()
    assert {fault.rsplit(" ", 2)[1:] == ["is", "missing"] for fault in make.faults(broken)} == {
        True
    }


def test_a_folder_that_is_no_book_is_not_emptied(make, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit):
        make.main([str(tmp_path)])
    assert "holds something that is no book" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_book_needs_lessons(make, tmp_path):
    with pytest.raises(ValueError, match="no lesson in"):
        make.lesson_titles(tmp_path)


def test_every_room_is_in_the_reference(make):
    folders = {path.parent.name for path in (ROOT / "hmq_lab").glob("*/__init__.py")}
    assert folders == set(make.ROOMS) - {""}


def test_the_method_is_read_in_an_order_that_names_each_of_its_files(make):
    files = {path.stem for path in (ROOT / "hmq_lab").glob("[!_]*.py")}
    assert set(make.READING) == files and len(make.READING) == len(files)


@pytest.mark.browser
def test_a_phone_shows_the_book_from_disk(book, chromium):
    """Nothing is wider than the screen, no script fails, nothing comes from a network."""
    context = chromium.new_context(viewport={"width": 390, "height": 800}, offline=True)
    tab = context.new_page()
    wrong = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url),
    )
    for place in (
        "index.html",
        "notebooks/00_two_numbers.html",
        "api/method.html",
        "api/graph.html",
        "docs/install.html",
        "explorers.html",
    ):
        tab.goto((book / place).as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, place
    # The button above the page opens the contents, which lead to every page.
    tab.locator("button.primary-toggle:visible").click()
    tab.locator("dialog[open]").get_by_role("link", name="Glossary").click()
    tab.wait_for_url("**/docs/glossary.html")
    context.close()
    assert wrong == []


@pytest.mark.browser
def test_an_explorer_in_a_lesson_is_as_high_as_what_it_shows(book, chromium):
    context = chromium.new_context(viewport={"width": 1200, "height": 800}, offline=True)
    tab = context.new_page()
    tab.goto((book / "notebooks" / "00_two_numbers.html").as_uri())
    frame = tab.locator("iframe.explorer")
    frame.scroll_into_view_if_needed()
    inside = tab.frame_locator("iframe.explorer")
    assert inside.get_by_label("bits").first.input_value() == "3"
    # The style is set when the page inside has said its height.
    tab.wait_for_function("document.querySelector('iframe.explorer').style.height != ''")
    tab.wait_for_timeout(300)
    assert inside.locator("html").evaluate("e => e.scrollHeight - e.clientHeight") <= 2
    context.close()


@pytest.mark.browser
def test_the_search_works_from_disk(book, chromium):
    context = chromium.new_context(viewport={"width": 1200, "height": 800}, offline=True)
    tab = context.new_page()
    tab.goto(f"{(book / 'search.html').as_uri()}?q=glossary")
    tab.get_by_role("link", name="Glossary").last.wait_for()
    assert tab.locator("#search-results li").count() >= 1
    context.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_book_has_no_fault_and_stays_below_ten_megabytes(make, tmp_path, capfd):
    folder = tmp_path / "book"
    code = make.main([str(folder)])
    said = capfd.readouterr()
    assert code == 0, said.err
    assert ", 0 warnings, 0 faults;" in said.out
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10_000_000
