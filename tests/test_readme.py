"""The README: its Python runs and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest

from hmq_lab.cli import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands():
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.strip().startswith("hmq-lab")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_parses(command):
    assert parser().parse_args(shlex.split(command)[1:]).command


def test_files_and_pictures_the_readme_names_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_readmes_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
