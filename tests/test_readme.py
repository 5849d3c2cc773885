"""The README and docs/use.md: their Python runs and their commands parse."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

import hmq_lab
from hmq_lab import data, models, settings
from hmq_lab.commands.main import parser
from hmq_lab.explorers import Selection
from hmq_lab.models.weights import save_weights
from hmq_lab.runs import records

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOTH = README + (ROOT / "docs" / "use.md").read_text(encoding="utf-8")


def commands():
    text = "\n".join(re.findall(r"```bash\n(.*?)```", BOTH, re.DOTALL)).replace("\\\n", " ")
    return [
        line.split("#")[0].strip()
        for line in text.splitlines()
        if line.strip().startswith("hmq-lab")
    ]


@pytest.mark.parametrize("command", commands())
def test_a_command_parses(command):
    assert parser().parse_args(shlex.split(command)[1:]).command


PYTHON = re.findall(r"```python\n(.*?)```", BOTH, re.DOTALL)


@pytest.fixture
def shortened(monkeypatch):
    """A search of a few steps in the place of one of minutes; the presets' settings with their epochs cut."""
    short = {"search_epochs": 1, "final_epochs": 1, "batch_size": 8, "compile": "off"}
    monkeypatch.setattr(
        settings, "preset", lambda name, **changes: PRESET(name, **(changes | short))
    )

    def search(network, pictures, target, **options):
        if pictures == "builtin":
            full = data.load("builtin")
            few = {
                name: getattr(full, name).subset(range(24))
                for name in ("train", "validation", "test")
            }
            pictures = dataclasses.replace(full, **few)
        options = {"settings": settings.preset("quick/builtin"), "progress": False} | options
        return SEARCH(network, pictures, target, **options)

    monkeypatch.setattr(hmq_lab, "search", search)


PRESET, SEARCH = settings.preset, hmq_lab.search


def photos(folder: Path) -> None:
    """What docs/use.md says one has: photos/ with two classes, and the weights of a network trained on them."""
    from PIL import Image

    for split, count in (("train", 20), ("val", 4)):
        for level, name in enumerate(("dark", "light")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                picture = (torch.rand(40, 48, 3) * 100 + 120 * level).byte().numpy()
                Image.fromarray(picture).save(folder / "photos" / split / name / f"{i}.png")
    save_weights(models.build("resnet8", classes=2), folder / "photos.safetensors")


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_runs_when_pasted(number, shortened, tmp_path, monkeypatch, capsys):
    """Each block by itself, nothing imported before it."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path)
    names = {}
    exec(compile(PYTHON[number], f"Python block {number + 1}", "exec"), names)
    if "record" in names:
        assert (
            names["record"].results["status"] == "complete"
            and names["record"].results["rates"]["weights"] >= 8
        )
        assert ("test" in capsys.readouterr().out) == ("print" in PYTHON[number])
        assert (tmp_path / "runs" / "photos" / "record.json").exists() == (
            "photos" in PYTHON[number]
        )
    elif "view" in names:
        chosen = Selection.read("selection.json")
        assert chosen == names["view"].selection and len(chosen.sizes) == 21
    else:
        assert names["loss"].isfinite() and hmq_lab.placements(names["model"])


def test_there_is_python_for_a_search_a_folder_and_a_loop_of_ones_own():
    assert len(PYTHON) >= 3
    for wanted in ('search(network, "builtin"', 'data.load("photos"', "resample(model, generator)"):
        assert sum(wanted in block for block in PYTHON) == 1, wanted


def test_files_and_pictures_the_readme_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_every_record_has_its_figures():
    for name in records.names():
        found = {path.name for path in (ROOT / "docs" / "figures" / name).glob("*.png")}
        assert found == {
            f"{figure}.png" for figure in ("compression", "probabilities", "scheme_map", "training")
        }, name


def test_the_readmes_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
