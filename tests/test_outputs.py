"""What commands write and what they must not: files that are there, files of a run, their own input, devices."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hmq_lab import data, models, runs, search
from hmq_lab.commands import frame
from hmq_lab.commands.frame import RUN_FILES, BadInput, check_output
from hmq_lab.commands.main import main, parser
from hmq_lab.commands.settings_options import descriptions, given_settings
from hmq_lab.runs import records
from hmq_lab.settings import Settings, preset

SHORT = [
    "--preset",
    "quick/builtin",
    "--search-epochs",
    "1",
    "--final-epochs",
    "0",
    "--batch-size",
    "16",
    "--quiet",
]


def images(root, mode="RGB"):
    """An image folder of two classes, bright and dark."""
    rng = np.random.default_rng(0)
    shape = (16, 16, 3) if mode == "RGB" else (16, 16)
    for split, count in (("train", 20), ("test", 4)):
        for name, level in (("bright", 170), ("dark", 85)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(level, 30, shape), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with photos, and hw: a finished run on them in hardware mode, with its figures."""
    root = tmp_path_factory.mktemp("made")
    images(root / "photos")
    arguments = [
        "--data",
        str(root / "photos"),
        "--model",
        "tiny_resnet8",
        "--hardware",
        "--out",
        str(root / "hw"),
    ]
    assert main(["search", *arguments, *SHORT]) == 0
    return root


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of these, in which the test works."""
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def contents(folder):
    """Every file below a folder, and its bytes; pipes and devices by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def refused(place, capsys, *arguments):
    """The one line on stderr of a command that is refused; it changes nothing."""
    before = contents(place)
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert (
        printed.err.startswith("hmq-lab: error: ")
        and printed.err.count("\n") == 1
        and printed.out == ""
    )
    assert contents(place) == before
    return printed.err


def test_no_command_writes_over_the_files_of_a_run(place, capsys):
    """Whatever the options: the network of a run is the only one."""
    os.link("hw/network.safetensors", "hard.safetensors")
    os.symlink("hw/network.safetensors", "soft.safetensors")
    os.symlink("hw", "link")
    shutil.copytree("hw", "other")
    for network in (
        "hw/network.safetensors",
        "hard.safetensors",
        "soft.safetensors",
        "link/network.safetensors",
    ):
        for more in ([], ["--overwrite"]):
            said = refused(place, capsys, "pack", "hw", network, *more)
            assert f"{network} is what this command reads (hw): choose another file" in said
    for more in ([], ["--overwrite"]):
        assert "is a file of the run in" in refused(
            place, capsys, "pack", "hw", "other/network.safetensors", *more
        )
        assert "must end in .onnx, got hw/record.json" in refused(
            place, capsys, "export", "hw", "hw/record.json", *more
        )
        assert "must end in .safetensors" in refused(
            place, capsys, "pack", "hw", "hw/record.json", *more
        )
        assert "--figure must end in .png, .svg or .pdf" in refused(
            place, capsys, "costs", "hw", "--figure", "hw/record.json", *more
        )
        train = [
            "train",
            "--data",
            "photos",
            "--model",
            "tiny_resnet8",
            "--epochs",
            "1",
            "--batch-size",
            "8",
        ]
        said = refused(place, capsys, *train, "--out", "hw/network.safetensors", *more)
        assert "is a file of the run in" in said


def test_no_command_writes_over_what_it_reads(place, capsys):
    assert main(["pack", "hw", "p.safetensors"]) == 0
    os.link("p.safetensors", "hard.safetensors")
    os.symlink("p.safetensors", "soft.safetensors")
    capsys.readouterr()
    for target in ("p.safetensors", "./p.safetensors", "hard.safetensors", "soft.safetensors"):
        for more in ([], ["--overwrite"]):
            said = refused(place, capsys, "unpack", "p.safetensors", target, *more)
            assert (
                f"{Path(target)} is what this command reads (p.safetensors): choose another file"
                in said
            )
    assert main(["unpack", "p.safetensors", "w.safetensors"]) == 0
    train = [
        "train",
        "--data",
        "photos",
        "--model",
        "tiny_resnet8",
        "--weights",
        "w.safetensors",
        "--overwrite",
    ]
    capsys.readouterr()
    assert "is what this command reads" in refused(place, capsys, *train, "--out", "w.safetensors")
    # A search that begins anew removes the network that it would begin from.
    again = [
        "search",
        "--data",
        "photos",
        "--model",
        "tiny_resnet8",
        "--out",
        "hw",
        "--overwrite",
        *SHORT,
    ]
    said = refused(place, capsys, *again, "--weights", "hw/network.safetensors")
    assert "the weights hw/network.safetensors are a file that the search in hw replaces" in said


def test_what_is_there_is_replaced_only_if_asked(place, capsys):
    for name in ("w.safetensors", "w.onnx", "w.png"):
        with open(name, "w") as file:
            file.write("mine")
    asked = {
        "w.safetensors": ["pack", "hw", "w.safetensors"],
        "w.onnx": ["export", "hw", "w.onnx"],
        "w.png": ["costs", "hw", "--figure", "w.png"],
    }
    for name, command in asked.items():
        if name == "w.onnx":
            pytest.importorskip("onnx")
        assert f"{name} is there already: --overwrite, or another" in refused(
            place, capsys, *command
        )
        assert main([*command, "--overwrite"]) == 0
        with open(name, "rb") as file:
            assert len(file.read()) > 1000
        capsys.readouterr()
    assert "hw/figures/compression.png is there already: --overwrite" in refused(
        place, capsys, "figures", "hw"
    )
    assert (
        main(["figures", "hw", "--out", "new"]) == 0 and main(["figures", "hw", "--overwrite"]) == 0
    )
    assert (place / "new" / "compression.png").read_bytes() == (
        place / "hw/figures/compression.png"
    ).read_bytes()
    capsys.readouterr()
    assert "bench" not in refused(place, capsys, "bench", "--figure", "w.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_folders_and_devices_are_no_place_for_a_file(place, capsys):
    os.mkfifo("pipe.safetensors")
    os.symlink("/dev/null", "null.safetensors")
    os.mkdir("folder.safetensors")
    for name, says in (
        ("pipe", "a pipe"),
        ("null", "a device"),
        ("folder", "must be a file, got the folder"),
    ):
        for more in ([], ["--overwrite"]):
            assert says in refused(place, capsys, "pack", "hw", f"{name}.safetensors", *more)
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")


def test_a_search_begins_in_no_folder_with_a_network_of_its_own(place, capsys):
    os.mkdir("out")
    shutil.copy("hw/network.safetensors", "out/network.safetensors")
    command = ["search", "--data", "photos", "--model", "tiny_resnet8", "--out", "out", *SHORT]
    said = refused(place, capsys, *command)
    assert "out holds network.safetensors already: --overwrite, or another --out" in said


def test_a_file_that_no_run_has_is_free_in_the_folder_of_a_run(place):
    check_output(place / "hw" / "packed.safetensors", [".safetensors"], False, [place / "hw"])
    (place / "plain").mkdir()
    check_output(place / "plain" / "network.safetensors", [".safetensors"], False)
    for name in RUN_FILES:
        with pytest.raises(BadInput, match="is a file of the run in"):
            check_output(place / "hw" / name, [(place / name).suffix], True)


# ------------------------------------------------------------------------------------- the images of a run


def test_a_run_on_a_folder_remembers_the_folder(place, made, capsys):
    record = records.read("hw")
    assert record.header["data_folder"] == str(made / "photos")
    assert main(["integer", "hw", "--json"]) == 0
    capsys.readouterr()
    if models_onnx():
        assert main(["export", "hw", "w.onnx", "--check"]) == 0
        capsys.readouterr()


def models_onnx():
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return False
    return True


def test_images_that_are_gone_are_asked_for(place, capsys):
    record = records.read("hw")
    record.header["data_folder"] = "/nowhere/photos"
    records.write(record, place / "hw" / "record.json")
    said = refused(place, capsys, "integer", "hw")
    assert (
        "--data is missing: this run is on images called 'photos', which was /nowhere/photos; say where they"
        in said
    )
    assert main(["integer", "hw", "--data", "photos"]) == 0
    assert main(["integer", "hw", "--root", str(place)]) == 0  # a folder of this name
    del record.header["data_folder"]  # a record of an earlier version
    records.write(record, place / "hw" / "record.json")
    capsys.readouterr()
    assert "this run is on images called 'photos'; say where they are" in refused(
        place, capsys, "integer", "hw"
    )


def test_images_in_grey_go_through_search_and_its_commands(tmp_path, capsys, monkeypatch):
    """MNIST is the first thing that a student tries."""

    def one_channel(classes=2, **_):
        layers = (
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return nn.Sequential(*layers, nn.Linear(8, classes))

    monkeypatch.setitem(models.NETWORKS, "one_channel", one_channel)
    images(tmp_path / "digits", "L")
    settings = preset(
        "quick/builtin", search_epochs=1, final_epochs=0, batch_size=16, compile="off"
    )
    options = {"settings": settings, "name": "one_channel", "hardware": True, "progress": False}
    search(one_channel(), data.load(tmp_path / "digits"), out=tmp_path / "run", **options)
    record = records.read(tmp_path / "run")
    assert record.header["picture"] == [1, 16, 16] and record.results["status"] == "complete"
    assert main(["integer", str(tmp_path / "run"), "--json"]) == 0
    network, _ = runs.load(tmp_path / "run")
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2)


# ------------------------------------------------------------------------------------- options from the settings


def test_every_setting_has_an_option():
    options = parser().parse_args(["search"])
    for field in dataclasses.fields(Settings):
        assert getattr(options, field.name) is None, field.name
    assert given_settings(options) == {}
    written = {
        int: ("7", 7), float: ("0.25", 0.25), str: ("cosine", "cosine"),
    }  # fmt: skip
    choices = {"precision": "bfloat16", "compile": "off", "search_loss": "distillation", "final_loss": "distillation",
               "final_weights": "float"}  # fmt: skip
    for field in dataclasses.fields(Settings):
        option, default = "--" + field.name.replace("_", "-"), getattr(Settings(), field.name)
        if isinstance(default, bool):
            for word, value in ((option, True), (f"--no-{option[2:]}", False)):
                assert given_settings(parser().parse_args(["search", word])) == {field.name: value}
            continue
        text, value = written[int if default is None else type(default)]
        text, value = (choices.get(field.name, text), choices.get(field.name, value))
        for command in ("search", "sweep"):
            assert given_settings(parser().parse_args([command, option, text])) == {
                field.name: value
            }


def test_the_options_of_before_still_work():
    for word in ("--logit-rate", "--logit-learning-rate"):
        assert given_settings(parser().parse_args(["search", word, "0.5"])) == {
            "logit_learning_rate": 0.5
        }
    assert given_settings(parser().parse_args(["search", "--channels-last"])) == {
        "channels_last": True
    }


def test_the_help_of_an_option_is_the_docstring_s(capsys):
    told = descriptions(Settings)
    assert told.keys() >= {field.name for field in dataclasses.fields(Settings)}
    with pytest.raises(SystemExit):
        parser().parse_args(["search", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert all(
        told[name].rstrip(".") in printed for name in ("search_epochs", "gamma", "snapshots")
    )


# ------------------------------------------------------------------------------------- extras that are not installed


MISSING = [  # a library that is not installed, a command, and what it says
    (
        "matplotlib",
        ["figures", "hw", "--out", "new"],
        "figures need matplotlib: pip install hmq_lab[lab]",
    ),
    (
        "matplotlib",
        ["costs", "hw", "--figure", "a.png"],
        "figures need matplotlib: pip install hmq_lab[lab]",
    ),
    (
        "matplotlib",
        ["bench", "--figure", "a.png"],
        "figures need matplotlib: pip install hmq_lab[lab]",
    ),
    ("ipywidgets", ["bench", "--live"], "bench --live needs ipywidgets: pip install hmq_lab[lab]"),
    (
        "ipywidgets",
        ["bench", "--explorers"],
        "bench --explorers needs ipywidgets: pip install hmq_lab[lab]",
    ),
    ("onnx", ["export", "hw", "a.onnx"], "the export needs onnx: pip install hmq_lab[export]"),
    (
        "onnxruntime",
        ["export", "hw", "a.onnx", "--check"],
        "--check needs onnxruntime: pip install hmq_lab[export]",
    ),
]


def test_a_missing_extra_is_one_line(place):
    """In a process of its own: in this one the libraries are loaded already."""
    code = "import sys\nfrom hmq_lab.commands.main import main\n"
    for library, arguments, _ in MISSING:
        code += f"sys.modules[{library!r}] = None\nassert main({arguments!r}) == 2\ndel sys.modules[{library!r}]\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("hmq-lab: error")]
    assert (
        lines == [f"hmq-lab: error: {says}" for *_, says in MISSING]
        and "Traceback" not in done.stderr
    )


def test_the_command_that_goes_on_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hmq-lab", "search", "--out", "my runs", "--overwrite"])
    assert frame.typed() == "hmq-lab search --out 'my runs' --overwrite"
    assert frame.typed(without=["--overwrite"]) == "hmq-lab search --out 'my runs'"


def test_a_path_in_a_record_does_not_tell_who_the_user_is(made, monkeypatch):
    monkeypatch.setenv("HOME", str(made))
    assert data.load(made / "photos").folder == os.path.join("~", "photos")
    assert data.load("builtin").folder is None
