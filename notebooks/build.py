"""Make the lessons: from one Python file each, the student edition and the one with solutions,
executed and cleaned.

    python notebooks/build.py                # all of them, in full: what `make notebooks` does
    python notebooks/build.py 01 05          # those whose names begin so
    python notebooks/build.py --quick DIR    # not executed, with small parameters: for tests
    python notebooks/build.py --handout DIR  # for a class: no solutions and no outputs
    python notebooks/build.py --text 01      # only what is not code: no lesson is executed

A source is a Python file in jupytext's percent format, `notebooks/source/NN_name.py`. The tags of
its cells:

    parameters   the sizes and the seed; its metadata `quick` says what the quick profile puts in
                 their place, and `hmq-lab grade` in the place of those of a hand-out
    stub         an exercise as the student finds it
    solution     what the edition with solutions has in its place; the student edition folds it
                 away below the check, the hand-out has none
    hint         a Markdown cell, folded away in the student edition, left out of the other
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import sys
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import zip_longest
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from PIL import Image

from hmq_lab.commands.grade import CALLED
from hmq_lab.commands.grade_worker import QUICK
from hmq_lab.data.files import replacing

HERE = Path(__file__).parent
EDITIONS = {"student": HERE, "solutions": HERE / "solutions"}
HANDOUT = "handout"  # an edition that is made for a class and not kept here
AT_ONCE = 2  # kernels; each may need 2 GB
WIDGET = "application/vnd.jupyter.widget-view+json"
# What JupyterLab writes when it saves a notebook; hmq_lab/commands/lab_files.py keeps the version short.
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
    "version": "3",
}
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
    "language_info": LANGUAGE,
}


def sources(prefixes: list[str]) -> list[Path]:
    """The sources whose names begin with one of the prefixes; without any, all."""
    found = sorted((HERE / "source").glob("[0-9]*.py"))
    chosen = [path for path in found if not prefixes or path.name.startswith(tuple(prefixes))]
    if not chosen:
        sys.exit(
            f"no lesson begins with {' or '.join(prefixes)}; "
            f"there are {', '.join(path.stem for path in found)}"
        )
    return chosen


def edition(source: Path, which: str, quick: bool = False) -> NotebookNode:
    """A lesson, not executed: as students get it, with the solutions in the place of the stubs, or
    as a hand-out.
    """
    written = jupytext.read(source, fmt="py:percent")
    cells, folded = [], []
    for cell in written.cells:
        tags = cell.metadata.get("tags", [])
        if which == HANDOUT and "solution" in tags:
            continue
        if which == "student" and "solution" in tags:
            folded.append(fold("Solution", f"```python\n{cell.source}\n```"))
        elif which != "solutions" and "hint" in tags:
            folded.append(fold("Hint", cell.source))
        elif which == "solutions" and ("stub" in tags or "hint" in tags):
            continue
        else:
            cells.append(fresh(cell))
            if which == HANDOUT and "quick" in cell.metadata:
                cells[-1].metadata[QUICK] = cell.metadata["quick"]
            if "check" in tags:
                cells += [new_markdown_cell(text) for text in folded]
                folded = []
        if quick and "parameters" in tags:
            values = cell.metadata.get("quick", {})
            cells.append(
                new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items()))
            )
    if folded:
        raise ValueError(f"{source.name}: a hint or solution stands after the last check")
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02d}"  # the same in every build
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    if which == HANDOUT:
        add_points(notebook)
    nbformat.validate(notebook)
    return notebook


def add_points(notebook: NotebookNode) -> None:
    """Tell nbgrader and otter of the checks of a hand-out: a point for each.

    A stub gets no mark: nbgrader would put an empty cell in its place.
    """
    tests = {}
    for cell in notebook.cells:
        if "check" not in cell.metadata.get("tags", []):
            continue
        (name,) = CALLED.findall(cell.source)
        cell.metadata["nbgrader"] = {
            "schema_version": 3,
            "grade_id": name,
            "grade": True,
            "locked": True,
            "solution": False,
            "task": False,
            "points": 1,
        }
        cell.metadata["otter"] = {"tests": [name]}
        # A doctest that shows what the check says, where it is not satisfied.
        code = f">>> verdict = {cell.source}\n>>> verdict.passed or print(verdict)\nTrue"
        case = {"code": code, "hidden": False, "locked": False}
        suite = {"cases": [case], "scored": True, "setup": "", "teardown": "", "type": "doctest"}
        tests[name] = {"name": name, "points": 1, "suites": [suite]}
    notebook.metadata["otter"] = {"OK_FORMAT": True, "tests": tests}


def write_tests(notebook: NotebookNode, folder: Path) -> None:
    """Write the checks of a hand-out as the files that `otter generate` packs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, test in notebook.metadata["otter"]["tests"].items():
        with replacing(folder / f"{name}.py") as temporary:
            temporary.write_text(f"OK_FORMAT = True\n\ntest = {test!r}\n", encoding="utf-8")


def fresh(cell: NotebookNode) -> NotebookNode:
    if cell.cell_type == "markdown":
        return new_markdown_cell(cell.source)
    tags = [tag for tag in cell.metadata.get("tags", []) if tag in ("parameters", "stub", "check")]
    return new_code_cell(cell.source, metadata={"tags": tags} if tags else {})


def fold(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def execute(notebook: NotebookNode) -> None:
    """Run it in its own folder, and keep of the outputs what a reader without a kernel can see.

    Its kernel computes in one thread: sums in another order would end a search, and the lesson,
    otherwise.
    """
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", record_timing=False, store_widget_state=False
    )
    client.execute(
        cwd=str(HERE), env=os.environ | {"OMP_NUM_THREADS": "1", "HMQ_LAB_PROGRESS": "off"}
    )
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
        if "outputs" in cell:
            cell.outputs = merged(
                [still for output in cell.outputs for still in without_kernel(output)]
            )


def without_kernel(output: NotebookNode) -> list[NotebookNode]:
    """What is left of an output without its widget, a blank box then: an explorer's picture, and
    its sentence.
    """
    if WIDGET not in output.get("data", {}):
        return [output]
    if "image/png" not in output.data:
        return []
    sentence = output.metadata["image/png"]["alt"]
    picture = {mime: value for mime, value in output.data.items() if mime != WIDGET}
    alt = {"image/png": output.metadata["image/png"]}
    return [
        new_output("display_data", data=picture, metadata=alt),
        new_output("display_data", data={"text/markdown": f"*{sentence}*", "text/plain": sentence}),
    ]


def smaller(picture: str) -> str:
    """A PNG in base64 with 256 colours: a figure looks the same in a third of the bytes."""
    pixels = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    few = pixels.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(out := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: how a kernel cuts its text changes from run to
    run.
    """
    result: list[NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else None
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def reworded(built: NotebookNode, wanted: NotebookNode) -> NotebookNode:
    """The edition that is wanted, with the outputs of one that was built from the same code.

    Raises:
        ValueError: the code is another; names the first cell that is.
    """
    old, new = ([c for c in n.cells if c.cell_type == "code"] for n in (built, wanted))
    for before, after in zip_longest(old, new):
        if before is None or after is None or before.source != after.source:
            changed = after or before
            raise ValueError(f"its code has changed, build it: {changed.source[:60]!r}")
    for before, after in zip(old, new, strict=True):
        after.outputs, after.execution_count = before.outputs, before.execution_count
    return wanted


def write(notebook: NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        nbformat.write(notebook, temporary)
    print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("lessons", nargs="*", help="how their names begin; all by default")
    parser.add_argument(
        "--quick",
        type=Path,
        metavar="DIR",
        help="write both editions there, quick and not executed",
    )
    parser.add_argument(
        "--handout",
        type=Path,
        metavar="DIR",
        help="write the edition for a class there, not executed",
    )
    parser.add_argument(
        "--text", action="store_true", help="renew the text of built lessons, execute nothing"
    )
    options = parser.parse_args()
    if options.handout is not None:
        for source in sources(options.lessons):
            notebook = edition(source, HANDOUT)
            write(notebook, options.handout / f"{source.stem}.ipynb")
            write_tests(notebook, options.handout / "otter" / source.stem)
        return
    both = [(source, which) for source in sources(options.lessons) for which in EDITIONS]
    if options.text:
        for source, which in both:
            path = EDITIONS[which] / f"{source.stem}.ipynb"
            try:
                write(reworded(nbformat.read(path, 4), edition(source, which)), path)
            except ValueError as error:
                print(f"{path.name}, {which}: {error}", file=sys.stderr)
        return
    if options.quick is not None:
        for source, which in both:
            write(
                edition(source, which, quick=True), options.quick / f"{source.stem}_{which}.ipynb"
            )
        return
    with ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool:
        made = [pool.submit(make, *one) for one in both]
        try:
            wait(made, return_when=FIRST_EXCEPTION)
        finally:  # after one that fails no other is begun
            pool.shutdown(cancel_futures=True)
        for one in made:
            if not one.cancelled():
                one.result()


def make(source: Path, which: str) -> None:
    notebook = edition(source, which)
    execute(notebook)
    write(notebook, EDITIONS[which] / f"{source.stem}.ipynb")


if __name__ == "__main__":
    main()
