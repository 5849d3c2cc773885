"""The commands as a user types them: exit codes, what is printed, what is written and what is not."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hmq_lab import records
from hmq_lab.cli import main

SHORT = ["--search-epochs", "1", "--final-epochs", "1", "--batch-size", "16", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of two classes, bright and dark, 32 pixels a side."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 8)):
        for name, level in (("bright", 170), ("dark", 85)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = np.clip(rng.normal(level, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(root / split / name / f"{i}.png")
    return root


def search(folder, out, *more):
    return main(["search", "--data", str(folder), "--model", "tiny_resnet8", "--preset", "quick/cifar10",
                 "--out", str(out), *SHORT, *more])  # fmt: skip


@pytest.mark.filterwarnings("ignore:no --weights")
def test_a_search_from_a_folder_of_pictures(folder, tmp_path, capsys):
    assert search(folder, tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert "conv1.weight" in printed.out and "test accuracy" in printed.out
    assert "starts from random" in printed.err
    record = records.read(tmp_path / "run")
    assert record.results["rates"]["weights"] >= 8
    assert record.header["model"] == "tiny_resnet8"
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"record.json", "network.safetensors", "figures"}
    assert {p.suffix for p in (tmp_path / "run" / "figures").iterdir()} == {".png", ".svg"}

    assert search(folder, tmp_path / "run") == 2  # it holds a run already
    assert "--resume, --overwrite" in capsys.readouterr().err
    assert search(folder, tmp_path / "run", "--resume", "--no-figures") == 0
    assert search(folder, tmp_path / "run", "--resume", "--seed", "5") == 2
    assert "seed: 0 there, 5 here" in capsys.readouterr().err
    assert main(["figures", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0
    again = (tmp_path / "again" / "compression.svg").read_text()
    assert again == (tmp_path / "run" / "figures" / "compression.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target-weights", "40"], "a target rate lies between 1 and 32, got weights=40.0"),
        (["--target-weights", "9", "--bits", "4,8"], "the largest is 8"),
        (["--target-weights", "nan"], "got weights=nan"),
        (["--bits", "0,2,4"], "bits must be integers from 1 to 16, got 0 in (0, 2, 4)"),
        (["--bits", "2.5"], "got 2.5"),
        (["--bits", "two"], "--bits must be numbers"),
        (["--thresholds", "0"], "from 1 to 32, got 0"),
        (["--activation-bits", "40"], "bits must be integers from 1 to 16, got 40"),
        (["--activation-bits", "8", "--target-activations", "8"], "not allowed with"),
        (["--preset", "quik/cifar10"], "did you mean quick/cifar10"),
        (["--model", "resnet21"], "resnet20"),
        (["--data", "no/such/folder"], "no data 'no/such/folder'"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--normalize", "cifar"], "normalize must be one of"),
        (["--search-epochs", "-1"], "search_epochs must be a whole number from 0 on, got -1"),
        (["--search-epochs", "some"], "invalid int value"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--device", "abacus"], "--device abacus"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HMQ_LAB_DATA", str(tmp_path / "none"))
    out = tmp_path / "deep" / "run"
    assert main(["search", "--out", str(out), *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1 and printed.err.startswith("hmq-lab: error: ")
    assert "Traceback" not in printed.err and printed.out == ""
    assert not (tmp_path / "deep").exists()


def test_weights_that_do_not_fit_are_listed(tmp_path, capsys):
    from hmq_lab import models

    path = tmp_path / "other.pth"
    torch.save(models.build("resnet8").state_dict(), path)
    assert main(["search", "--weights", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "conv1.weight" in error and "(16, 3, 3, 3)" in error and error.count("\n") == 1


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert main(["search", "--out", str(tmp_path / "file" / "run")]) == 2
    assert str(tmp_path / "file" / "run") in capsys.readouterr().err


def test_figures_of_what_is_no_record(tmp_path, capsys):
    assert main(["figures", str(tmp_path)]) == 2
    assert "no record at" in capsys.readouterr().err
    (tmp_path / "record.json").write_text(json.dumps({"header": {}}))
    assert main(["figures", str(tmp_path)]) == 2
    assert "is no record" in capsys.readouterr().err


def test_placements_lists_every_tensor(capsys):
    assert main(["placements", "--model", "resnet20"]) == 0
    printed = capsys.readouterr().out
    assert "20 weight tensors quantized, 270,896 elements" in printed or "20 weight tensors" in printed
    assert "19 activation tensors quantized" in printed
    assert "linear.bias" in printed and "output of the network" in printed


def test_the_module_runs_and_the_core_stays_light():
    code = (
        "import sys, hmq_lab; "
        "print(sorted({'matplotlib', 'seaborn', 'ipywidgets', 'torchvision', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run([sys.executable, "-m", "hmq_lab", "search", "--seed", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
