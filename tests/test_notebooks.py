"""The lessons: one form for all, two editions from one source, fit to be read where there is no kernel."""

import ast
import base64
import functools
import importlib.util
import io
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import numpy as np
import pytest
import torch
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import get_kernel_dict
from nbformat.v4 import new_output
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted((NOTEBOOKS / "source").glob("[0-9]*.py"))
EDITIONS = ("student", "solutions")
ROUNDED = re.compile(r"[^\w]+")


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_lessons", NOTEBOOKS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request):
    return request.param


@pytest.fixture(params=EDITIONS)
def which(request):
    return request.param


@pytest.fixture
def built(build, source, which):
    return nbformat.read(build.EDITIONS[which] / f"{source.stem}.ipynb", as_version=4)


def markdown(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def text_of(node) -> str:
    return "".join(node) if isinstance(node, list) else node


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


# The sources


def test_there_are_lessons_in_order():
    numbers = [int(path.name[:2]) for path in SOURCES]
    assert numbers == sorted(set(numbers)) and set(range(7)) <= set(numbers)


def test_a_lesson_has_its_parts(build, source):
    notebook = build.edition(source, "solutions")
    text = markdown(notebook)
    headings = [
        (len(marks), name) for marks, name in re.findall(r"^(#+) (.*)$", text, re.MULTILINE)
    ]
    assert (
        notebook.cells[0].source.startswith("# ") and [depth for depth, _ in headings].count(1) == 1
    )
    for (before, _), (depth, name) in itertools.pairwise(headings):
        assert depth <= before + 1, f"{name} skips a level"
    lines = notebook.cells[0].source
    first = " ".join(lines.split())
    assert re.search(
        r"\*\*Minutes:\*\* \d+ \((\d+|less than one) ?s? of them computing\)", first
    ), first[:200]
    for part in ("**Data:**", "**Know first:**", "**After this you can**"):
        assert part in first
    objectives = lines.split("**After this you can**")[1].split("\n## ")[0]
    assert 3 <= len(re.findall(r"^\* ", objectives, re.MULTILINE)) <= 5
    names = [name for _, name in headings]
    assert "Summary" in names and "To talk about" in names
    assert "**In the paper:**" in text and "**Differences:**" in text
    exercises = [name for name in names if name.startswith("Exercise")]
    assert 2 <= len(exercises) <= 4
    for number, name in enumerate(exercises, 1):
        assert re.fullmatch(
            rf"Exercise {number} · .+ \((easy|medium|harder?), \d+ minutes\)", name
        ), name
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "explorers." in code


def test_teachers_are_told_the_minutes_that_the_lesson_says(source):
    said = re.search(r"\*\*Minutes:\*\* (\d+) \((\d+) s of them", prose(source)[0])
    notes = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    number, exercises = source.name[:2], len(re.findall("^## Exercise", markdown_of(source), re.M))
    row = f"({source.stem}.ipynb) | {said[1]} | {said[2]} | {exercises} |"
    assert row in notes, row
    # A question to begin with, mistakes to expect, and answers.
    assert re.search(rf"^\| {number} \| .+\? \|$", notes, re.MULTILINE)
    section = re.search(rf"^### {number} .*?(?=^###? |\Z)", notes, re.MULTILINE | re.DOTALL)[0]
    before, after = section.split("To talk about")
    assert len(re.findall(r'^\* \*"', before, re.MULTILINE)) >= 3
    asked = re.search(r"^## To talk about$(.*?)\*\*In the paper", markdown_of(source), re.M | re.S)[
        1
    ]
    assert len(re.findall(r"^\* ", after, re.MULTILINE)) >= len(re.findall(r"^\* ", asked, re.M))


def test_a_lesson_begins_with_its_parameters(build, source):
    notebook = build.edition(source, "student")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells[0].metadata.tags == ["parameters"]
    assigned = {target.id for node in ast.parse(cells[0].source).body for target in node.targets}
    quick = next(
        c
        for c in jupytext.read(source, fmt="py:percent").cells
        if "parameters" in c.metadata.get("tags", [])
    )
    assert quick.metadata.get("quick", {}).keys() <= assigned


def test_every_exercise_has_a_stub_a_solution_and_a_check(source):
    cells = jupytext.read(source, fmt="py:percent").cells
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", []) if tag != "parameters"]
    exercises = sum(
        cell.source.count("## Exercise ") for cell in cells if cell.cell_type == "markdown"
    )
    assert " ".join(tags).split("check")[:-1] and tags.count("check") == exercises
    order = {"stub": 0, "hint": 1, "solution": 2, "check": 3}
    group = []
    for tag in tags:
        group.append(tag)
        if tag == "check":
            assert group.count("stub") == group.count("solution") == 1 and "hint" in group
            assert group == sorted(group, key=order.__getitem__)
            group = []
    for cell in cells:
        if "stub" in cell.metadata.get("tags", []):
            assert "raise NotImplementedError" in cell.source


# How they read

LINE, CELL = 95, 25
WRONG_WORDS = {  # word: what to say instead
    r"\bpictures?\b": "image",
    r"(?<!learning )(?<!compression )\brates?\b": "compression, learning rate or decay",
    r"\bin the run shown\b": "a sentence that is computed",
    r"\bin this run\b": "a sentence that is computed",
    r"\bclever|\bobviously|\bof course\b": "nothing",
}


@functools.cache
def read(source):
    """The cells of a lesson's source; reading takes time, and many tests look at them."""
    return jupytext.read(source, fmt="py:percent").cells


def markdown_of(source):
    return "\n\n".join(cell.source for cell in read(source) if cell.cell_type == "markdown")


def code_cells(source):
    return [cell for cell in read(source) if cell.cell_type == "code"]


@functools.cache
def prose(source):
    """The Markdown cells of a lesson as flowing text: no tables, formulas, code or links."""
    texts = []
    for cell in read(source):
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```|^\|.*$", " ", cell.source, flags=re.DOTALL | re.MULTILINE)
            text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.DOTALL)
            texts.append(" ".join(text.split()))
    return texts


def test_code_needs_no_scrollbar_and_a_cell_fits_on_a_screen(source):
    for cell in code_cells(source):
        lines = cell.source.split("\n")
        assert max(map(len, lines)) <= LINE, max(lines, key=len)
        # A longer cell says why in its first line.
        assert len(lines) <= CELL or lines[0].startswith("# Long: "), (len(lines), lines[0])


def test_prose_uses_one_word_for_one_thing_and_tells_no_result_of_one_machine(source):
    for text in prose(source):
        for word, better in WRONG_WORDS.items():
            found = re.search(word, text, re.IGNORECASE)
            assert not found, (
                f"...{text[max(0, found.start() - 40) : found.end() + 40]}...: say {better}"
            )


def test_every_prediction_is_asked_kept_and_compared(source):
    """The question is in Markdown, the next cell asks for the answer, and a later one shows the result."""
    cells = read(source)
    asked = {}
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            for question in re.findall(r"\*Predict:\*", cell.source):
                following = [
                    c.source for c in cells[number + 1 : number + 4] if c.cell_type == "code"
                ]
                match = next(
                    (
                        m
                        for c in following
                        if (m := re.search(r"^(\w+) = predict\(\s*\"([\w-]+)\"", c, re.M))
                    ),
                    None,
                )
                assert match, f"no prediction behind {question} in {cell.source[-120:]!r}"
                assert match[1] not in asked and match[2] not in asked.values(), "a name is taken"
                asked[match[1]] = match[2]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert len(asked) >= 3
    for name in asked:
        assert re.search(rf"\b{name}\.result\(", code), f"no result of {name}"
    assert len(re.findall(r"= predict\(", code)) == len(asked)
    assert f'predict = checks.predictions("{source.name[:2]}")' in code


GLOSSARY = NOTEBOOKS.parent / "docs" / "glossary.md"
TERMS = re.findall(
    r"^\| ([^|]+) \| [^|]+ \| (\d\d) \|$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE
)


def test_the_glossary_has_the_words_that_readers_asked_for():
    assert {"octave", "tight", "aim", "margin", "repair", "selection", "compression"} <= {
        t for t, _ in TERMS
    }


@pytest.mark.parametrize(("term", "lesson"), TERMS, ids=[term for term, _ in TERMS])
def test_a_term_is_explained_where_it_first_stands(term, lesson):
    """It is bold in the first cell that has it, title and objectives aside, and this is in its lesson."""
    used = re.compile(rf"(?<![\w-]){re.escape(term)}(e?s|ed)?(?![\w-])", re.IGNORECASE)
    bold = re.compile(rf"\*\*[\w (]*{re.escape(term)}[\w )]*\*\*", re.IGNORECASE)
    for source in SOURCES:
        first, *cells = prose(source)
        for text in [first.partition("## ")[2], *cells]:
            if used.search(text):
                assert source.name[:2] == lesson and bold.search(text), (source.name, text[:200])
                return
    pytest.fail(f"no lesson uses {term}")


# Another machine: other seeds, another number of threads


def run_cells(source, wanted, **parameters):
    """The namespace after the cells of a lesson that contain one of these texts, with small parameters."""
    scope = {}
    cells = code_cells(source)
    quick = next(c for c in cells if "parameters" in c.metadata.get("tags", [])).metadata["quick"]
    for cell in cells:
        if "parameters" in cell.metadata.get("tags", []) or any(
            text in cell.source for text in wanted
        ):
            exec(cell.source, scope)
        if "parameters" in cell.metadata.get("tags", []):
            scope |= quick | parameters
    return scope


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (5, 2)])
def test_what_lesson_04_says_of_restarts_is_what_happened(seed, threads, monkeypatch):
    monkeypatch.setenv("HMQ_LAB_PROGRESS", "off")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wanted = (
            "import math",
            "def quantization_error",
            "restart_helps = ",
            "def learn",
            "ends = {",
        )
        source = next(path for path in SOURCES if path.name.startswith("04"))
        scope = run_cells(source, wanted, seed=seed, runs=4, steps=20)
    finally:
        torch.set_num_threads(before)
    ends, landscape = scope["ends"], scope["landscape"].tolist()
    said = scope["figures"].restart_sentences(scope["landscape"], ends)
    counts = [int(n) for n in re.findall(r"\b(\d+) (?:leave|with)", said[0])]
    names = ("constant 0.1", "one decay to 0.1", "two cycles to 0.1")
    assert counts == [sum(end != 0 for end in ends[name].tolist()) for name in names]
    for floor in ("0.1", "0.5"):
        one, two = (
            [landscape[end] for end in ends[f"{way} to {floor}"].tolist()]
            for way in ("one decay", "two cycles")
        )
        noise = math.sqrt(np.var(one, ddof=1) / len(one) + np.var(two, ddof=1) / len(two))
        told = next(text for text in said if f"one decay to {floor} and" in text)
        assert ("cannot be told apart" in told) == (abs(np.mean(one) - np.mean(two)) <= 2 * noise)


# The editions as they are kept


def test_an_edition_is_built_from_its_source(build, source, which, built):
    wanted = build.edition(source, which)
    behind = f"{source.name} has changed since: run `python notebooks/build.py {source.name[:2]}`"
    assert [(c.id, c.cell_type, c.source) for c in built.cells] == [
        (c.id, c.cell_type, c.source) for c in wanted.cells
    ], behind
    assert [c.metadata for c in built.cells] == [c.metadata for c in wanted.cells], behind


def test_an_edition_ran_from_top_to_bottom(built):
    counts = [cell.execution_count for cell in built.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for output in outputs(built):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


def test_an_edition_is_stored_as_jupyterlab_stores_it(build, source, which, built):
    path = build.EDITIONS[which] / f"{source.stem}.ipynb"
    assert nbformat.writes(built) + "\n" == path.read_text(encoding="utf-8")
    # JupyterLab takes both from the kernel.
    assert built.metadata.language_info == IPythonKernel.language_info | {"version": "3"}
    assert built.metadata.kernelspec.display_name == get_kernel_dict()["display_name"]


def test_jupyterlab_writes_a_short_version_into_lessons_alone():
    settings = NOTEBOOKS.parent / "jupyter_server_config.py"
    scope = {"c": SimpleNamespace(FileContentsManager=SimpleNamespace())}
    exec(settings.read_text(encoding="utf-8"), scope)
    hook = scope["c"].FileContentsManager.pre_save_hook
    for path, version in (("notebooks/00.ipynb", "3"), ("own.ipynb", "3.12.4")):
        content = {"metadata": {"language_info": {"name": "python", "version": "3.12.4"}}}
        hook(model={"type": "notebook", "content": content}, path=path, contents_manager=None)
        assert content["metadata"]["language_info"] == {"name": "python", "version": version}
    hook(model={"type": "file", "content": "text"}, path="notebooks/README.md")


def test_an_edition_needs_no_kernel_to_be_read(built):
    nbformat.validate(built)
    assert built.metadata.kernelspec.name == "python3" and "widgets" not in built.metadata
    for output in outputs(built):
        assert not any("widget" in mime for mime in output.get("data", {}))


def test_every_figure_has_a_sentence(built):
    figures = 0
    for cell in built.cells:
        seen = ROUNDED.sub(" ", " ".join(text_of(o.data["text/markdown"]) for o in cell.get("outputs", [])
                                         if "text/markdown" in o.get("data", {})))  # fmt: skip
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                figures += 1
                alt = output.metadata["image/png"]["alt"]
                assert len(alt) > 20 and alt.rstrip().endswith("."), alt
                assert ROUNDED.sub(" ", alt).strip() in seen, f"not below its figure: {alt}"
    assert figures >= 3


def test_an_edition_is_small_and_names_no_place_on_a_machine(built):
    written = nbformat.writes(built)
    assert len(written.encode()) < 600_000
    said = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs(built)]
    prose = "\n".join([*(cell.source for cell in built.cells), *said])
    for place in (
        str(Path.home()) + "/",
        str(NOTEBOOKS.parent),
        "/tmp/",
        "site-packages",
        "ipykernel",
    ):
        assert place not in prose, place
    assert not re.search(r"0x[0-9a-f]{6,}", prose), "an address in memory"


def test_links_between_lessons_lead_somewhere(built, build, which):
    for target in re.findall(r"\]\(([^)#]+\.ipynb)\)", markdown(built)):
        assert (build.EDITIONS[which] / target).is_file(), target


def test_exercises_are_open_for_students_and_solved_in_the_other_edition(built, which):
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    stubs = [cell for cell in code if "stub" in cell.metadata.get("tags", [])]
    checks = [cell for cell in code if "check" in cell.metadata.get("tags", [])]
    said = [str(cell.outputs) for cell in checks]
    if which == "student":
        assert len(stubs) == len(checks) and all("Not attempted yet" in text for text in said)
        assert markdown(built).count("<details><summary>Solution</summary>") == len(checks)
    else:
        assert not stubs and all("✓" in text for text in said)
        assert "<details>" not in markdown(built)


# How they are built

SOURCE = """# %% [markdown]
# # A lesson
# %% tags=["parameters"] quick={"epochs": 1, "name": "a"}
epochs, name = 6, "b"
# %% tags=["stub"]
def f(x):
    raise NotImplementedError
# %% [markdown] tags=["hint"]
# Add one.
# %% tags=["solution"]
def f(x):
    return x + 1
# %% tags=["check"]
print(f(1))
# %% tags=["other"]
epochs
"""


@pytest.fixture
def lesson(tmp_path):
    path = tmp_path / "00_a.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_students_get_the_stub_and_the_rest_folded_below_the_check(build, lesson):
    cells = build.edition(lesson, "student").cells
    assert [(cell.cell_type, cell.metadata.get("tags")) for cell in cells] == [
        ("markdown", None), ("code", ["parameters"]), ("code", ["stub"]), ("code", ["check"]),
        ("markdown", None), ("markdown", None), ("code", None),
    ]  # fmt: skip
    assert cells[4].source == "<details><summary>Hint</summary>\n\nAdd one.\n\n</details>"
    assert cells[5].source.startswith(
        "<details><summary>Solution</summary>\n\n```python\ndef f(x):\n    return x + 1\n"
    )


def test_the_solutions_stand_where_the_stubs_were(build, lesson):
    cells = build.edition(lesson, "solutions").cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert code == ['epochs, name = 6, "b"', "def f(x):\n    return x + 1", "print(f(1))", "epochs"]
    assert len(cells) == 5


def test_the_quick_profile_sets_its_values_behind_the_parameters(build, lesson):
    cells = [
        cell
        for cell in build.edition(lesson, "solutions", quick=True).cells
        if cell.cell_type == "code"
    ]
    assert cells[1].source == "epochs = 1\nname = 'a'"
    scope = {}
    for cell in cells[:2]:
        exec(cell.source, scope)
    assert (scope["epochs"], scope["name"]) == (1, "a")


@pytest.mark.parametrize("which", EDITIONS)
def test_a_build_is_the_same_again(build, lesson, which):
    first, second = (nbformat.writes(build.edition(lesson, which)) for _ in range(2))
    assert first == second and '"id": "cell-00"' in first


def test_text_is_renewed_without_executing_a_lesson(build, lesson):
    built = build.edition(lesson, "solutions")
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count, cell.outputs = number, [new_output("stream", text=f"{number}\n")]
    lesson.write_text(SOURCE.replace("# # A lesson", "# # Another title"), encoding="utf-8")
    renewed = build.reworded(built, build.edition(lesson, "solutions"))
    assert renewed.cells[0].source == "# Another title"
    kept = [cell for cell in renewed.cells if cell.cell_type == "code"]
    assert [cell.outputs[0].text for cell in kept] == ["1\n", "2\n", "3\n", "4\n"]
    assert [cell.execution_count for cell in kept] == [1, 2, 3, 4]
    for changed in (SOURCE.replace("x + 1", "1 + x"), SOURCE + "# %%\nmore\n"):
        lesson.write_text(changed, encoding="utf-8")
        with pytest.raises(ValueError, match="code has changed, build it: '(def f|more)"):
            build.reworded(built, build.edition(lesson, "solutions"))


def test_a_solution_without_a_check_is_refused(build, lesson):
    lesson.write_text(SOURCE.replace('tags=["check"]', 'tags=["other"]'), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"00_a\.py: a hint or solution stands after the last check"
    ):
        build.edition(lesson, "student")


def test_an_unknown_lesson_is_named(build):
    with pytest.raises(SystemExit, match="no lesson begins with 99; there are 00_start_here"):
        build.sources(["99"])
    assert [path.name[:2] for path in build.sources(["00", "06"])] == ["00", "06"]


def test_of_a_widget_the_picture_and_its_sentence_stay(build):
    data = {build.WIDGET: {"model_id": "1"}, "image/png": "aaaa", "text/plain": "Four levels."}
    widget = new_output("display_data", data=data, metadata={"image/png": {"alt": "Four levels."}})
    picture, sentence = build.without_kernel(widget)
    assert picture.data == {"image/png": "aaaa", "text/plain": "Four levels."}
    assert picture.metadata == {"image/png": {"alt": "Four levels."}}
    assert sentence.data["text/markdown"] == "*Four levels.*"
    bar = new_output("display_data", data={build.WIDGET: {"model_id": "1"}, "text/plain": "Box()"})
    assert build.without_kernel(bar) == []
    plain = new_output("stream", name="stdout", text="1\n")
    assert build.without_kernel(plain) == [plain]


def test_a_smaller_picture_looks_the_same(build):
    grey = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    colour = np.stack([grey, grey[::-1, ::-1], np.full_like(grey, 90)], 2)
    Image.fromarray(colour).save(out := io.BytesIO(), "PNG", compress_level=0)
    small = base64.b64decode(build.smaller(base64.b64encode(out.getvalue()).decode()))
    again = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert len(small) < len(out.getvalue()) / 3 and np.abs(again - colour).max() <= 8
    assert build.smaller(base64.b64encode(small).decode()) == base64.b64encode(small).decode()


def test_pieces_of_a_stream_are_joined(build):
    pieces = [new_output("stream", name="stdout", text=t) for t in ("a\n", "b\n")]
    error = new_output("stream", name="stderr", text="c\n")
    assert [(o.name, o.text) for o in build.merged([*pieces, error])] == [
        ("stdout", "a\nb\n"),
        ("stderr", "c\n"),
    ]


def test_an_execution_keeps_what_the_cells_said(build, lesson):
    notebook = build.edition(lesson, "solutions")
    build.execute(notebook)
    said = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert [o.text for o in said[2]] == ["2\n"] and said[3][0].data["text/plain"] == "6"
    assert notebook.metadata == build.METADATA
