"""A sweep: a record for each target and seed; what is recorded is skipped, what was stopped or killed goes on."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from hmq_lab import models
from hmq_lab.budget import Target
from hmq_lab.commands import main as cli
from hmq_lab.commands.main import main
from hmq_lab.runs import records
from hmq_lab.runs.runner import CHECKPOINT, RECORD
from hmq_lab.runs.sweep import SHEET, plan, sweep, table

NAMES = ["pictures-tiny_resnet8-w8-a8", "pictures-tiny_resnet8-w8-a8-s1", "pictures-tiny_resnet8-w12-a8",
         "pictures-tiny_resnet8-w12-a8-s1"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of pictures, bright and dark, 16 pixels a side, and weights to start from."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, level in (("bright", 170), ("dark", 85)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = np.clip(rng.normal(level, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(root / split / name / f"{i}.png")
    torch.manual_seed(0)
    models.save_weights(models.build("tiny_resnet8", classes=2), root.parent / "net.safetensors")
    return root


def arguments(folder, out, *more):
    return ["sweep", "--data", str(folder), "--model", "tiny_resnet8", "--weights",
            str(folder.parent / "net.safetensors"), "--preset", "quick/cifar10", "--search-epochs", "1",
            "--final-epochs", "1", "--batch-size", "8", "--compile", "off", "--quiet", "--no-figures",
            "--out", str(out), "--targets", "8,12", "--seeds", "0,1", *more]  # fmt: skip


def contents(out):
    found = {}
    for path in sorted(out.glob(f"*/{RECORD}")):
        found[path.parent.name] = json.loads(path.read_text())
        found[path.parent.name].pop("timing")
    return found


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The folder of an undisturbed sweep."""
    out = tmp_path_factory.mktemp("whole")
    assert main(arguments(folder, out)) == 0
    return out


def rows(out):
    return json.loads((out / SHEET).read_text())["runs"]


def test_a_record_for_each_target_and_seed_and_a_sheet_of_all(whole):
    assert (
        sorted(contents(whole)) == sorted(NAMES) and [row["name"] for row in rows(whole)] == NAMES
    )
    for row in rows(whole):
        record = records.read(whole / row["name"])
        assert (row["target"], row["seed"]) == (
            record.header["target"]["weights"],
            record.header["seed"],
        )
        assert row["status"] == "complete" and row["rates"] == record.results["rates"]
        assert row["rates"]["weights"] >= row["target"]
        assert row["accuracy"] == {
            key: record.results["accuracy"][key] for key in ("test", "float_test")
        }
        assert row["minutes"] == pytest.approx(record.timing["seconds"] / 60, abs=0.01)


def test_what_is_recorded_is_skipped_and_more_can_be_asked_for(folder, whole, capsys):
    written = {path: path.stat().st_mtime_ns for path in whole.glob(f"*/{RECORD}")}
    assert main(arguments(folder, whole, "--targets", "12,8", "--seeds", "1")) == 0
    printed = capsys.readouterr()
    assert printed.out.count("recorded: weights") == 2 and printed.err == ""
    lines = [line.split() for line in printed.out.splitlines() if line.startswith("pictures-")]
    assert [(line[0], line[-1]) for line in lines] == [
        (NAMES[3], "recorded"),
        (NAMES[1], "recorded"),
    ]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert sorted(row["name"] for row in rows(whole)) == sorted(
        NAMES
    )  # those of the first sweep stay


def test_another_configuration_in_the_folder_is_refused_before_anything_runs(
    folder, whole, tmp_path, capsys
):
    assert main(arguments(folder, whole, "--targets", "14,8", "--batch-size", "4")) == 2
    printed = capsys.readouterr()
    assert (
        "batch_size: 8 there, 4 here" in printed.err
        and printed.err.count("\n") == 1
        and printed.out == ""
    )
    assert sorted(contents(whole)) == sorted(NAMES)
    # without the sheet, each record is compared: that run alone is refused
    (tmp_path / NAMES[0]).mkdir()
    (tmp_path / NAMES[0] / RECORD).write_bytes((whole / NAMES[0] / RECORD).read_bytes())
    assert main(arguments(folder, tmp_path, "--seeds", "0", "--final-epochs", "0")) == 1
    printed = capsys.readouterr()
    assert (
        f"{NAMES[0]} refused" in printed.err
        and "is of another configuration (settings" in printed.err
    )
    assert [row["status"] for row in rows(tmp_path)] == ["refused", "complete"]


def test_ctrl_c_stops_the_sweep_and_the_same_command_goes_on(
    folder, whole, tmp_path, capsys, monkeypatch
):
    for name in NAMES[:1] + NAMES[3:]:
        shutil.copytree(whole / name, tmp_path / name)

    def interrupt(self, event=None):  # called with every event of every run
        if event and event.get("stage") == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(cli._Held, "say", interrupt)
        assert main(arguments(folder, tmp_path)) == 1
    error = capsys.readouterr().err
    assert (
        "stopped after" in error
        and f"{NAMES[1]} interrupted" in error
        and "2 of 4 runs were not begun" in error
    )
    assert [row["status"] for row in rows(tmp_path)] == ["recorded", "interrupted"]
    assert (tmp_path / NAMES[1] / CHECKPOINT).exists() and not (tmp_path / NAMES[2]).exists()
    assert main(arguments(folder, tmp_path)) == 0
    assert [row["status"] for row in rows(tmp_path)] == [
        "recorded",
        "complete",
        "complete",
        "recorded",
    ]
    assert contents(tmp_path) == contents(whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_killed_sweep_ends_as_if_nothing_had_happened(folder, whole, tmp_path):
    command = arguments(folder, tmp_path, "--targets", "8")
    child = multiprocessing.get_context("fork").Process(target=main, args=(command,))
    child.start()
    deadline = time.monotonic() + 120
    while (
        not (tmp_path / NAMES[1] / CHECKPOINT).exists()
        and child.is_alive()
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert list(contents(tmp_path)) == NAMES[:1]
    assert main(command) == 0
    assert contents(tmp_path) == {name: contents(whole)[name] for name in NAMES[:2]}


def test_it_goes_on_after_one_that_failed_and_says_so(folder, tmp_path, capsys):
    broken = tmp_path / NAMES[0] / CHECKPOINT
    broken.parent.mkdir()
    broken.write_bytes(b"no checkpoint")
    assert main(arguments(folder, tmp_path, "--seeds", "0")) == 1
    printed = capsys.readouterr()
    assert (
        printed.err.count("\n") == 1
        and f"{NAMES[0]} refused: {broken} is no whole safetensors" in printed.err
    )
    assert "1 of 2" in printed.out and [row["status"] for row in rows(tmp_path)] == [
        "refused",
        "complete",
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--targets", "8,40"], "a target lies between 1 and 32, got weights=40.0"),
        (
            ["--targets", "8,8"],
            "once, got twice: pictures-tiny_resnet8-w8-a8, pictures-tiny_resnet8-w8-a8-s1",
        ),
        (["--targets", "8,,9"], "must be numbers with commas between them, got '8,,9'"),
        (
            ["--seeds", "0,-1"],
            "--seeds: must be whole numbers from 0 to 9223372036854775807, got -1",
        ),
        (["--seeds", "0.5"], "must be whole numbers with commas between them, got '0.5'"),
        (["--activations", "8,40"], "bits must be integers from 1 to 16, got 40"),
        (["--activations", "8,4", "--target-activations", "8"], "--activations: not allowed with"),
        (["--seed", "3"], "--seeds: not allowed with --seed"),
        (["--target-weights", "9"], "--targets: not allowed with --target-weights"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--preset", "quik"], "no preset 'quik'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(more, says, folder, tmp_path, capsys):
    assert main(arguments(folder, tmp_path / "deep" / "out", *more)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "deep").exists()


def test_several_processes_are_for_single_searches(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments(folder, tmp_path / "out")) == 2
    assert (
        "a sweep runs in one process" in capsys.readouterr().err and not (tmp_path / "out").exists()
    )


def test_names_say_what_differs():
    targets = [Target(17.3), Target(13, activation_bits=4), Target(8, activations=8)]
    runs = plan("net", targets, seeds=(0, 7), hardware=True)
    assert [run.name for run in runs] == [
        "net-w17.3-a8-hardware", "net-w17.3-a8-s7-hardware", "net-w13-a4-hardware", "net-w13-a4-s7-hardware",
        "net-w8-acr8-hardware", "net-w8-acr8-s7-hardware",
    ]  # fmt: skip


def test_each_status_of_a_run(tmp_path):
    """With a search that copies a record, or does what searches do when they do not end well."""
    source = records.RECORDED / f"{records.names('builtin')[0]}.json"

    def search(run, folder):
        if run.seed == 1:
            raise FloatingPointError("the loss is nan at step 3")
        if run.seed == 2:
            return False  # interrupted: no record
        folder.mkdir()
        (folder / RECORD).write_bytes(source.read_bytes())
        return run.target.weights < 10

    told = []
    runs = plan("net", [Target(8)], (0, 1)) + plan("net", [Target(12)], (0, 2, 5))
    found = sweep(runs, search, tmp_path, told=told.append)
    assert [row["status"] for row in found] == [
        "complete",
        "failed",
        "missed",
        "interrupted",
    ]  # and the last not begun
    assert found[1]["reason"].startswith(
        "the loss is nan at step 3 (FloatingPointError in test_sweep.py, line "
    )
    assert told[1].startswith("2 of 5: net-w8-a8-s1: failed: the loss is nan") and len(told) == 4
    assert rows(tmp_path) == found
    lines = [line.split() for line in table(found).splitlines()]
    assert lines[1][1:] == [
        "8",
        "0",
        "8.02",
        "8.02",
        "6.78",
        "4.00",
        "93.85",
        "94.10",
        "1.1",
        "complete",
    ]
    assert lines[2][1:] == ["8", "1", *"-------", "failed"]


def test_rows_stay_where_records_do(tmp_path):
    """With a repeat that is refused, as for other weights, and with a part of the runs made anew."""
    source = records.RECORDED / f"{records.names('builtin')[0]}.json"

    def search(run, folder):
        folder.mkdir(exist_ok=True)
        (folder / RECORD).write_bytes(source.read_bytes())
        return True

    def refusing(run, folder):
        if run == first:
            raise ValueError("weights of another network")
        return search(run, folder)

    def swept(runs, search, batch=8, **how):
        sweep(runs, search, tmp_path, {"batch": batch}, told=lambda _: None, **how)
        return {row["name"]: row["status"] for row in rows(tmp_path)}

    first, second, third = plan("net", [Target(8), Target(12), Target(14)])
    assert swept([first, second], search) == {first.name: "complete", second.name: "complete"}
    assert swept([first, third], refusing) == {
        run.name: "complete" for run in (first, second, third)
    }
    assert set(swept([second], search, overwrite=True)) == {
        run.name for run in (first, second, third)
    }
    assert set(swept([second], search, batch=4, overwrite=True)) == {second.name}


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"options": {}, "runs": null}', '{"options": [], "runs": []}',
                                  '{"options": {}, "runs": [null]}', '{"options": {}, "runs": [{"name": 3}]}',
                                  "[" * 200_000, "no JSON"])  # fmt: skip
def test_a_sheet_that_is_none_is_named(tmp_path, text):
    (tmp_path / SHEET).write_text(text)
    with pytest.raises(
        ValueError,
        match=r"sweep\.json (is not what a sweep writes|is no JSON|cannot be read as JSON)",
    ):
        sweep(plan("net", [Target(8)]), lambda run, folder: True, tmp_path)
