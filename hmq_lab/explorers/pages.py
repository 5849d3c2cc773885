"""The explorers as web pages for whoever is to move a slider and see no code: `make explore`.

    python -m hmq_lab.explorers.pages runs/explore    # writes the pages; serves this machine alone
    python -m hmq_lab.explorers.pages runs/explore --write-only

A page for each explorer and a front page with their images, all written from `PAGES`. Explorers
that have a module of JavaScript (`STATIC`) are whole by themselves: they need no kernel, and open
from disk. The others are served by Voila (see `server`), with a kernel each. A visitor's browser
shows outputs only; the server takes from it what widgets say, and no code to run.
"""

from __future__ import annotations

import argparse
import html
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

LACKS = "the pages need {}: pip install hmq_lab[lab]\n"
try:
    import nbformat

    from hmq_lab import explorers
    from hmq_lab.data.files import replacing
    from hmq_lab.runs import records  # noqa: F401  the table's code asks for records
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(LACKS.format(error.name))
    sys.exit(2)

PORT = 8866


@dataclass(frozen=True)
class Page:
    """An explorer as a page: what the cell behind it runs."""

    title: str
    sentence: str
    code: str

    def explorer(self) -> explorers.Explorer:
        """The explorer that the cell shows."""
        # Our own table's code.
        return eval(self.code, globals())


RECORD = 'records.recorded("cifar10-resnet20-w16-a8")'
PAGES = {
    "quantizer": Page(
        "Quantizer",
        "What bits, threshold and sign do to the values of a layer.",
        "explorers.quantizer()",
    ),
    "surface": Page(
        "Error surface",
        "The error of a layer for every bit-width and threshold at once.",
        "explorers.surface()",
    ),
    "gumbel": Page(
        "Gumbel-Softmax",
        "Samples, and what the temperature does to them.",
        "explorers.gumbel()",
    ),
    "block": Page(
        "The HMQ block",
        "How the expected step and threshold follow the probabilities.",
        "explorers.block()",
    ),
    "replay": Page(
        "A recorded search",
        "ResNet-20 on CIFAR10: compression, bits and one block's table, step by step.",
        f"explorers.replay({RECORD})",
    ),
    "selection": Page(
        "A selection, read",
        "The bits that a search chose, layer by layer.",
        f"explorers.selection({RECORD})",
    ),
    "network": Page(
        "Your own network",
        "Bits and threshold of any tensor of a network, and what they do to its output.",
        "explorers.network()",
    ),
    "why": Page(
        "Why this layer",
        "What the bits of a weight cost and bring, and how the search came to them.",
        "explorers.why()",
    ),
    "placements": Page(
        "Placements",
        "Every tensor of a network: quantized or float, and why.",
        "explorers.placements()",
    ),
    "integers": Page(
        "Integers",
        "One image through one layer, code by code, beside the simulation.",
        "explorers.integers()",
    ),
    "beat": Page(
        "Beat the search",
        "Choose the bits yourself, and compare with what the search chose.",
        "explorers.beat()",
    ),
}
STATIC = ("quantizer", "surface", "gumbel", "block", "replay", "selection")  # they need no kernel


def pages() -> dict[str, Page]:
    """The pages of the explorers that there are.

    >>> list(pages())[:2]
    ['quantizer', 'surface']
    """
    return {name: page for name, page in PAGES.items() if name in explorers.__all__}


def static(name: str, above: str = "") -> str:
    """The page of an explorer as one HTML file that needs no kernel and no network.

    A state is given in its link: `quantizer.html#bits=3&exponent=-2` takes the names that
    `explorer.set` takes.

    Args:
        name: one of `STATIC`.
        above: HTML that is put before the explorer, such as a link back.

    Raises:
        ValueError: for a name that is not in `STATIC`.
    """
    return _static(name, above)[0]


def _static(name: str, above: str = "") -> tuple[str, explorers.Explorer]:
    """The page, and the explorer that it shows."""
    if name not in STATIC:
        raise ValueError(f"a page without a kernel is one of {', '.join(STATIC)}, got {name!r}")
    page = PAGES[name]
    explorer = page.explorer()
    return explorer.page(page.title, page.sentence, above), explorer


def write_static(folder: Path | str) -> list[Path]:
    """Write the pages of all explorers that need no kernel; returns their paths.

    Args:
        folder: where to write.

    Returns:
        The paths.
    """
    paths = [Path(folder) / f"{name}.html" for name in STATIC]
    for path in paths:
        _save(path, static(path.stem))
    return paths


def write(folder: Path | str, names: list[str] | None = None) -> Path:
    """Write a page and an image for each explorer, and index.html with links to all; returns the
    folder.

    Args:
        folder: made where it is not there.
        names: of the pages; None, all.

    Raises:
        ValueError: for a page that does not exist.
    """
    chosen = _chosen(names)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A page, an image and an entry of the front page for each.
    entries = []
    for name, page in chosen.items():
        # One file, or a notebook that Voila runs.
        if name in STATIC:
            text, explorer = _static(name, BACK)
            _save(folder / f"{name}.html", text)
            link = f"{name}.html"
        else:
            explorer = page.explorer()
            nbformat.write(notebook(page), folder / f"{name}.ipynb")
            link = f"/voila/render/{name}.ipynb"
        explorer.image().save(folder / f"{name}.png")
        texts = [html.escape(text) for text in (explorer.sentence, page.title, page.sentence)]
        about = {"alt": texts[0], "title": texts[1], "sentence": texts[2]}
        entries.append(ENTRY.format(name=name, link=link, **about))
    _save(folder / "index.html", FRONT.replace("ENTRIES", "\n".join(entries)))
    return folder


def _save(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _chosen(names: list[str] | None) -> dict[str, Page]:
    there = pages()
    if unknown := set(names or ()) - there.keys():
        raise ValueError(
            f"no explorer page {', '.join(sorted(unknown))}: there are {', '.join(there)}"
        )
    return {name: page for name, page in there.items() if names is None or name in names}


def notebook(page: Page) -> nbformat.NotebookNode:
    """The page as Voila takes it: a heading, and a cell of which only the output is shown.

    Args:
        page: of an explorer.

    Returns:
        The notebook.
    """
    code = f"from hmq_lab import explorers\nfrom hmq_lab.runs import records\n\n{page.code}"
    cells = [
        nbformat.v4.new_markdown_cell(f"# {page.title}\n\n{page.sentence} [All explorers](/)"),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


BACK = '<p><a href="index.html">All explorers</a></p>'
ENTRY = """<li><a href="{link}"><img src="{name}.png" alt="{alt}">
<h2>{title}</h2></a><p>{sentence}</p></li>"""
FRONT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hmq_lab: explorers</title><link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --ground: #ffffff; --ink: #222222; --line: #cccccc;
  --link: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --ground: #16191d; --ink: #e6e6e6; --line: #444444;
  --link: #7db8f5 } }
body { margin: 0 auto; max-width: 80rem; padding: 1rem 2rem; background: var(--ground);
  color: var(--ink);
  font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)) }
li { border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.8rem }
img { width: 100%; background: #ffffff; border-radius: 0.3rem }
h2 { font-size: 1.15rem; margin: 0.5rem 0 0 }
p { margin: 0.3rem 0 }
a { color: var(--link) }
a:focus-visible { outline: 3px solid var(--link); outline-offset: 3px }
</style></head><body>
<h1>hmq_lab: explorers</h1>
<p>Move a slider, see what changes, read the sentence below the figure.
Pages that need Python take some seconds to start, and stop when nobody touches them for 15 minutes:
then load the page again.</p>
<ul>
ENTRIES
</ul>
<script>
if (matchMedia("(prefers-color-scheme: dark)").matches)
  for (const link of document.querySelectorAll("li a")) link.href += "?theme=dark";
</script>
</body></html>
"""


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is an integer from 1 to 65535, got {text}")
    return int(text)


def _kernels(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"kernels must be an integer from 1 to 1000, got {text}")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command; None takes those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hmq_lab.explorers.pages", description="The explorers as web pages."
    )
    parser.add_argument("folder", type=Path, help="where the pages are written")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"some of {', '.join(pages())}; all by default"
    )
    parser.add_argument(
        "--write-only", action="store_true", help="write the pages and do not serve them"
    )
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"by default {PORT}, or one near it that is free"
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="an address of this machine that others may reach, who then need the token that is "
        "printed; by default 127.0.0.1, which only this machine reaches",
    )
    parser.add_argument(
        "--kernels",
        type=_kernels,
        default=8,
        help="pages with Python that are open at a time, by default 8; each takes about 0.8 GB",
    )
    # What is missing is said before anything is drawn.
    options = parser.parse_args(arguments)
    if not options.write_only and find_spec("voila") is None:
        parser.exit(2, LACKS.format("voila"))
    try:
        if not options.write_only:
            from hmq_lab.explorers import server

            server.check_address(options.address)
        count = len(_chosen(options.only))
        print(f"drawing {count} image{'s' * (count > 1)} ...", flush=True)
        write(options.folder, options.only)
    except ValueError as error:
        parser.error(str(error))
    if not options.write_only:
        browser = not options.no_browser
        server.serve(options.folder, options.port, browser, options.address, options.kernels)


if __name__ == "__main__":
    main()
