"""The pages in docs/: their numbers are those of the records, their commands parse, their links
lead somewhere.
"""

import re
import shlex
from pathlib import Path

import pytest

from hmq_lab.commands import grade
from hmq_lab.commands.main import parser
from hmq_lab.runs import records

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
RESULTS = TEXTS["results.md"]


def commands():
    """The command lines of all pages that begin with hmq-lab and can be typed as they are."""
    found = []
    for name, text in TEXTS.items():
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                (name, line.split(" #")[0].strip())
                for line in lines
                if line.strip().startswith("hmq-lab")
            ]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_parses(page, command):
    assert parser().parse_args(shlex.split(command)[1:]).command


def test_there_are_commands_to_parse():
    assert {page for page, _ in commands()} >= {"class.md", "install.md", "imagenet.md"}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page]):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_make_targets_are_there(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\s*make (\w+)", TEXTS[page], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", records.names())
def test_the_table_of_results_says_what_the_record_says(name):
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (.+) \|$", RESULTS, re.MULTILINE))
    record = records.recorded(name)
    rates, accuracy = record.results["rates"], record.results["accuracy"]
    epochs = [record.header["settings"][key] for key in ("search_epochs", "final_epochs")]
    assert rows[name].split(" | ") == [
        f"{record.results['target']['weights']:g}",
        " / ".join(f"{rates[key]:.2f}" for key in ("weights", "all_weights", "checkpoint")),
        f"{rates['activations']:.2f}",
        f"{accuracy['test']:.2f}",
        f"{accuracy['float_test']:.2f}",
        " + ".join(map(str, epochs)),
        f"{record.timing['seconds'] / 60:.1f}",
    ]


def test_the_table_has_no_other_rows():
    assert set(re.findall(r"^\| `([\w.-]+)` \|", RESULTS, re.MULTILINE)) == set(records.names())


def test_the_map_names_every_room_and_every_file_of_the_method():
    package = ROOT / "hmq_lab"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    files = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", TEXTS["map.md"], re.MULTILINE)) - {
        "notebooks",
        "tests",
        "docs",
    }
    assert files == set(re.findall(r"`(\w+\.py)`", TEXTS["map.md"]))


def test_the_page_for_a_class_names_every_verdict():
    words = {grade.RIGHT, grade.WRONG, grade.OPEN, grade.CRASHED, grade.ENDLESS, grade.MISSING}
    row = next(line for line in TEXTS["class.md"].splitlines() if line.startswith("| `verdict`"))
    assert set(re.findall(r"`([\w ]+)`", row)) - {"verdict"} == words


def test_the_page_of_networks_counts_its_rows():
    """The number in its first sentence, and none that died or computed something else."""
    page = (ROOT / "docs" / "networks.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")][1:]
    trained = sum([cell.strip() for cell in row[2:5]] == ["passed"] * 3 for row in rows)
    assert f"{trained} of {len(rows)} families" in page and len(rows) == 62 and trained >= 60
    # What the page of promises says of it.
    trust = (ROOT / "TRUST.md").read_text()
    equal = [sum(row[column].strip() == "equal" for row in rows) for column in (6, 7, 8)]
    refused = sum(row[7].strip() == "refused" for row in rows)
    assert f"{trained} of {len(rows)} attach" in trust
    assert f"{equal[0]} packed files and {equal[2]} ONNX files" in trust
    assert f"on integers {equal[1]} do, and {refused} are refused" in trust
    assert not {cell.strip() for row in rows for cell in row[2:]} & {"error", "died"}
