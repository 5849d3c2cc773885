"""The commands as a user types them: exit codes, what is printed, what is written and what is not."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hmq_lab import models
from hmq_lab.commands.main import main
from hmq_lab.data.files import write_tensors
from hmq_lab.runs import records

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
        (["--target-weights", "40"], "a target lies between 1 and 32, got weights=40.0"),
        (["--target-weights", "9", "--bits", "4,8"], "the largest is 8"),
        (["--target-weights", "nan"], "got weights=nan"),
        (["--bits", "0,2,4"], "bits must be integers from 1 to 16, got 0 in (0, 2, 4)"),
        (["--bits", "2.5"], "got 2.5"),
        (["--bits", "2,40"], "bits must be integers from 1 to 16, got 40 in (2, 40)"),
        (["--bits", "two"], "--bits must be numbers"),
        (["--bits", ""], "--bits must be numbers with commas between them, got ''"),
        (["--thresholds", "0"], "from 1 to 32, got 0"),
        (["--activation-bits", "40"], "must be a whole number from 1 to 16, got '40'"),
        (["--activation-bits", "4.5"], "must be a whole number from 1 to 16, got '4.5'"),
        (["--activation-bits", "8", "--target-activations", "8"], "not allowed with"),
        (["--preset", "quik/cifar10"], "did you mean quick/cifar10"),
        (["--model", "resnet21"], "resnet20"),
        (["--data", "no/such/folder"], "no data 'no/such/folder'"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--normalize", "cifar"], "normalize must be one of"),
        (["--search-epochs", "-1"], "search_epochs must be a whole number from 0 on, got -1"),
        (["--search-epochs", "some"], "invalid int value"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--device", "abacus"], "--device abacus: must be one of auto, cpu"),
        (["--device", "meta"], "--device meta: must be one of auto, cpu"),
        (
            ["--seed", "-1"],
            "--seed: must be a whole number from 0 to 9223372036854775807, got '-1'",
        ),
        (["--seed", "9223372036854775808"], "got '9223372036854775808'"),
        (["--seed", "1.5"], "got '1.5'"),
        (["--data", "CIFAR10"], "no data 'CIFAR10': did you mean cifar10?"),
        (["--data", "imagnet"], "did you mean imagenet?"),
        (["--image-size", "0"], "--picture-size: must be a whole number from 1 on, got '0'"),
        (["--image-size", "64"], "the built-in images have 32 pixels a side, got 64"),
        (
            ["--model", "resnet8", "--batch-size", "9000"],
            "batch_size must be at most the 8000 training images",
        ),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    arguments, says, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HMQ_LAB_DATA", str(tmp_path / "none"))
    out = tmp_path / "deep" / "run"
    assert main(["search", "--out", str(out), *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1 and printed.err.startswith("hmq-lab: error: ")
    assert "Traceback" not in printed.err and printed.out == ""
    assert not (tmp_path / "deep").exists()


def refused(capsys, out, *arguments) -> str:
    """The one line on stderr of a search that bad input stops; nothing may be left in `out`."""
    assert search(*arguments[:1], out, *arguments[1:]) == 2
    printed = capsys.readouterr()
    assert (
        printed.err.count("\n") == 1
        and printed.err.startswith("hmq-lab: error: ")
        and printed.out == ""
    )
    assert not out.exists()
    return printed.err


def test_folders_of_pictures_that_are_not_as_they_should_be(folder, tmp_path, capsys):
    out, root = tmp_path / "out", tmp_path / "pictures"
    root.mkdir()
    assert "must hold train/ and one of val/ and test/, it holds nothing" in refused(
        capsys, out, root
    )
    shutil.copytree(folder, root, dirs_exist_ok=True)
    for k in range(4, 30):
        for name in ("bright", "dark"):
            (root / "train" / name / f"{k}.png").unlink()
    assert "has 8 training images, at least 10 are needed" in refused(capsys, out, root)
    broken = root / "train" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert f"{broken} cannot be read as an image" in refused(capsys, out, root)
    shutil.rmtree(root / "test" / "dark")
    assert "must hold the same classes, they differ in ['dark']" in refused(capsys, out, root)


def test_a_broken_large_picture_is_one_line_though_another_process_reads_it(folder, tmp_path):
    root = tmp_path / "pictures"
    shutil.copytree(folder, root)
    broken = root / "test" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = ["search", "--data", root, "--image-size", "16", "--model", "tiny_resnet8",
                 "--preset", "quick/cifar10", "--out", tmp_path / "out", *SHORT]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "hmq_lab", *map(str, arguments)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.startswith(f"hmq-lab: error: {broken} cannot be read as an image")
    assert done.stderr.count("\n") == 1


def test_weights_and_activations_that_are_not_finite(folder, tmp_path, capsys):
    out, path = tmp_path / "out", tmp_path / "net.safetensors"
    net = models.build("tiny_resnet8", classes=2)
    with torch.no_grad():
        net.bn1.weight.fill_(1e38)  # finite, and what it gives is not
        net.bn1.bias.fill_(3e38)
    models.save_weights(net, path)
    assert "activation relu holds NaN or infinite values" in refused(
        capsys, out, folder, "--weights", str(path)
    )
    with torch.no_grad():
        net.linear.weight[0, 0] = float("nan")
    models.save_weights(net, path)
    said = refused(capsys, out, folder, "--weights", str(path))
    assert "does not fit CifarResNet: not finite: linear.weight" in said
    models.save_weights(models.build("tiny_resnet8", classes=7), path)
    assert "linear.weight (7, 32) (2, 32)" in refused(capsys, out, folder, "--weights", str(path))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert f"{path} was altered" in refused(capsys, out, folder, "--weights", str(path))


@pytest.mark.filterwarnings("ignore:no --weights")
def test_tensors_of_zeros_are_a_warning(folder, tmp_path, capsys):
    path, net = tmp_path / "net.safetensors", models.build("tiny_resnet8", classes=2)
    torch.nn.init.zeros_(net.linear.weight)
    models.save_weights(net, path)
    assert search(folder, tmp_path / "out", "--weights", str(path), "--no-figures") == 0
    assert "hmq-lab: warning: weight linear.weight is zero everywhere" in capsys.readouterr().err


class Branching(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = torch.nn.Linear(3, classes)

    def forward(self, x):
        x = self.fc(x.mean((2, 3)))
        return -x if x.sum() > 0 else x


def test_a_network_that_cannot_be_traced_names_the_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(models.NETWORKS, "branching", Branching)
    said = refused(capsys, tmp_path / "out", folder, "--model", "branching")
    assert (
        "torch.export cannot follow Branching at" in said
        and "return -x if x.sum() > 0 else x" in said
    )
    monkeypatch.setitem(
        models.NETWORKS, "seven", lambda classes: models.CifarResNet((1,), classes=7)
    )
    assert "the network has 7 outputs, the data 2 classes" in refused(
        capsys, tmp_path / "out", folder, "--model", "seven"
    )


def test_checkpoints_of_another_run_truncated_and_altered(folder, tmp_path, capsys):
    out = tmp_path / "run"
    path = out / "checkpoint.safetensors"
    write_tensors(
        path, {"model/a": torch.ones(9)}, {"configuration": {"model": "resnet8", "seed": 3}}
    )
    whole = path.read_bytes()
    for content, says in (
        (whole, "is of another configuration (model: resnet8 there, tiny_resnet8 here"),
        (whole[:-1], "is no whole safetensors file"),
        (whole[:-1] + b"!", "was altered"),
        (b"", "is no whole safetensors file"),
    ):
        path.write_bytes(content)
        assert search(folder, out, "--resume") == 2
        error = capsys.readouterr().err
        assert f"hmq-lab: error: {path} {says}" in error and error.count("\n") == 1
        assert [p.name for p in out.iterdir()] == [path.name] and path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["placements", "--model", "resnet20", "--image-size", "-4"],
            "must be a whole number from 1 on, got '-4'",
        ),
        (
            ["placements", "--model", "resnet20", "--classes", "0"],
            "must be a whole number from 1 on, got '0'",
        ),
        (["placements", "--model", "resnet19"], "did you mean resnet1"),
        (["train", "--batch-size", "0"], "batch_size must be 1 or more, got 0"),
        (["train", "--learning-rate", "inf"], "learning_rate positive, got 60 and inf"),
        (["train", "--epochs", "0"], "epochs must be 1 or more"),
        (["train", "--data", "Builtin"], "did you mean builtin?"),
        (["train", "--device", "abacus"], "must be one of auto, cpu"),
        (["train", "--seed", "-2"], "--seed: must be a whole number"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "required: COMMAND"),
    ],
)
def test_the_other_commands_refuse_in_one_line_too(arguments, says, tmp_path, capsys):
    out = tmp_path / "deep" / "net.safetensors"
    assert main([*arguments, *(["--out", str(out)] if "train" in arguments else [])]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not out.parent.exists()


def test_train_writes_over_nothing_unless_asked(folder, tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    short = [
        "train",
        "--data",
        str(folder),
        "--model",
        "tiny_resnet8",
        "--epochs",
        "1",
        "--batch-size",
        "16",
    ]
    assert main([*short, "--out", str(tmp_path / "net.pth")]) == 2
    assert "--out must end in .safetensors, got" in capsys.readouterr().err
    assert main([*short, "--out", str(path)]) == 0
    before = path.read_bytes()
    assert main([*short, "--out", str(path), "--seed", "1"]) == 2
    assert f"{path} is there already: --overwrite, or another --out" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert (
        main([*short, "--out", str(path), "--seed", "1", "--overwrite"]) == 0
        and path.read_bytes() != before
    )


def test_weights_that_do_not_fit_are_listed(tmp_path, capsys):
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
    assert (
        "20 weight tensors quantized, 270,896 elements" in printed or "20 weight tensors" in printed
    )
    assert "19 activation tensors quantized" in printed
    assert "linear.bias" in printed and "output of the network" in printed


def test_the_module_runs_and_the_core_stays_light():
    code = (
        "import sys, hmq_lab; "
        "print(sorted({'matplotlib', 'seaborn', 'ipywidgets', 'torchvision', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-m", "hmq_lab", "search", "--seed", "x"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
