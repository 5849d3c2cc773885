"""A search in a process of its own: watched, paused, interrupted, killed and resumed, it ends as if left alone."""

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("agg")

from hmq_lab import SearchSpace, Target, explorers, models, search
from hmq_lab.data.datasets import load
from hmq_lab.explorers import frame, playback, watching
from hmq_lab.runs import live, records
from hmq_lab.runs.live import Run, plain, start, start_time
from hmq_lab.runs.live_worker import Worker
from hmq_lab.settings import Settings

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")

SETTINGS = Settings(
    search_epochs=10, final_epochs=8, batch_size=8, network_learning_rate=1e-3, final_learning_rate=1e-3,
    logit_learning_rate=0.1, cycles=2,
    target_steps=2, calibration_images=32, compile="off", log_every=1, snapshots=10,
)  # fmt: skip
RECORD = records.recorded("builtin-tiny_resnet8-w8-a8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of two classes, bright and dark: 11 steps an epoch."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 50), ("test", 8)):
        for name, level in (("bright", 170), ("dark", 85)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture = np.clip(rng.normal(level, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(root / split / name / f"{i}.png")
    return root


def until(done, seconds=120):
    """Wait, and fail when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, "this took too long"
        time.sleep(0.05)
    return found


def reached(run, step):
    events = run.follow()
    assert run.state != "failed", run.message
    return events and events[-1]["step"] >= step


def content(run):
    parts = dataclasses.asdict(run if isinstance(run, records.Record) else records.read(run))
    parts.pop("timing")
    parts["header"].pop("hardware")
    return json.loads(json.dumps(parts))


# --- processes


@pytest.fixture
def out(tmp_path):
    """Where a search may run; it does not outlive its test."""
    yield tmp_path / "run"
    Run(tmp_path / "run").interrupt()


def test_a_search_that_is_disturbed_ends_as_if_left_alone(folder, out, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = {"data": str(folder), "settings": SETTINGS, "target": Target(12), "seed": 3}
    run = start(out, **arguments)
    with pytest.raises(
        FileExistsError, match=rf"{out} holds a search that is .*process {run.status().pid}"
    ):
        start(out, **arguments, overwrite=True)
    until(lambda: reached(run, 12))
    process = run.status().pid
    run.pause()
    until(lambda: run.state == "paused")
    seen, used = run.follow(), os.times()
    time.sleep(1)
    assert run.follow() == seen and Run.attach(out).state == "paused" and seen[-1]["step"] < 100
    assert start_time(process) and os.times().children_user == used.children_user
    run.resume()
    until(lambda: reached(run, seen[-1]["step"] + 20))
    assert run.status().pid == process  # it had waited
    run.interrupt()
    until(lambda: run.state == "interrupted")
    until(lambda: start_time(process) is None)
    assert run.message == "" and (out / "checkpoint.safetensors").exists()
    seen += run.follow(len(seen))
    assert seen == run.follow()

    other = Run.attach(out)  # as from another notebook
    assert other.state == "interrupted" and other.status().steps == 18 * 11
    other.resume()
    other.pause()  # while it is still starting
    until(lambda: other.state == "paused")
    assert len(other.follow()) <= len(seen) + 4  # a step, what goes with it
    other.resume()
    until(lambda: reached(run, 140))
    os.kill(other.status().pid, signal.SIGKILL)
    until(lambda: other.state == "interrupted")
    assert "is gone (killed" in other.message and "resume" in other.message
    seen += run.follow(len(seen))
    run.resume()
    until(lambda: other.state == "finished")

    torch.manual_seed(3)
    whole = search(models.build("tiny_resnet8", classes=2), load(folder), Target(12), settings=SETTINGS, seed=3,
                   name="tiny_resnet8", progress=False)  # fmt: skip
    seen += run.follow(len(seen))
    lines = [json.loads(line) for line in (out / live.EVENTS).read_text().splitlines()]
    assert (
        seen == lines == other.follow() == json.loads(json.dumps(whole.events))
    )  # no step twice, none missing
    assert content(out) == content(whole) == content(run.record())
    with pytest.raises(ValueError, match="is finished: there is nothing to resume"):
        run.resume()
    run.pause()
    assert run.state == "finished"
    with pytest.raises(FileExistsError, match="holds a run already"):
        start(out, **arguments)


def test_a_search_whose_folder_is_removed_ends(folder, out, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = start(out, data=str(folder), settings=SETTINGS, target=12)
    until(lambda: reached(run, 2))
    process = run.status().pid
    shutil.rmtree(out, ignore_errors=True)
    until(lambda: start_time(process) is None)
    assert run.state == "interrupted" and not (out / live.SEARCH).exists()


def test_what_goes_wrong_in_the_process_is_in_the_state(tmp_path):
    run = start(tmp_path / "run", data="no/such/pictures", settings="quick/builtin")
    until(lambda: run.state == "failed")
    assert (
        run.message.startswith("FileNotFoundError: no data") and "no/such/pictures" in run.message
    )
    assert "Traceback" in (run.out / live.LOG).read_text()


def test_the_process_imports_what_a_notebook_can_after_a_change_of_its_path(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "ownnets.py").write_text("def none(classes): return classes\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = start(tmp_path / "run", model="ownnets:none", data=str(folder), settings=SETTINGS)
    until(lambda: run.state == "failed")
    assert run.message == "ValueError: ownnets:none must return a torch.nn.Module, got int"

    monkeypatch.undo()  # another day, another folder, in which something else has the name
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ownnets.py").write_text("def none(classes): return 0.5\n")
    (tmp_path / "ownnets.py").write_text("def none(classes): return str(classes)\n")
    monkeypatch.syspath_prepend(tmp_path / "other")
    run.resume()
    until(lambda: "got str" in run.message)
    assert run.arguments["model_folder"] == str(tmp_path)


# --- status


def pretend(out, state="running", job=None, **values):
    """A folder as a process in that state has it; the process is this one."""
    out.mkdir(exist_ok=True)
    own = {"pid": os.getpid(), "start_time": start_time(os.getpid())}
    values = own | {"steps": 1750, "since": time.time() - 60} | values
    live.write(out / live.SEARCH, job or plain())
    live.write(out / live.STATUS, dataclasses.asdict(live.Status(state, **values)))
    return Run(out)


@pytest.mark.parametrize("state", live.ALIVE)
def test_a_process_of_the_same_number_is_not_taken_for_the_search(tmp_path, monkeypatch, state):
    assert pretend(tmp_path, state).state == state
    (tmp_path / live.LOG).write_text("Traceback\nImportError: no torch\n\n")
    run = pretend(tmp_path, state, start_time="at another time")
    if state == "starting":
        assert run.state == "failed" and run.message == "the process ended: ImportError: no torch"
    else:
        assert run.state == "interrupted" and f"process {os.getpid()} is gone" in run.message
    assert not run.is_alive()
    if state == "running":  # it said its last word after we had read: what it said counts
        read, words = live.read, iter(["running"])

        def late(path, *of):
            return read(path, *of) | {"state": next(words, "failed"), "message": "no space left"}

        with monkeypatch.context() as patched:
            patched.setattr(live, "read", late)
            assert (run.state, run.message) == ("failed", "no space left")
    (tmp_path / live.RECORD).write_text("{}")  # it ended between its record and its last word
    assert run.state == "finished"


def test_a_process_is_known_by_number_and_start():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(child.pid)
    assert started and started != start_time(os.getpid()) and started == start_time(child.pid)
    child.stdin.close()
    until(lambda: start_time(child.pid) is None)  # a zombie is none
    child.wait()
    assert start_time(child.pid) is None


def test_without_proc_a_process_is_known_too(monkeypatch):
    """As on macOS and Windows: no /proc, and no program is started to find out."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: "proc" not in path.parts and exists(path))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    try:
        started = start_time(child.pid)
        assert started and started != start_time(os.getpid()) and started == start_time(child.pid)
        child.stdin.close()
        until(lambda: start_time(child.pid) is None)  # a zombie is none
    finally:
        child.kill()
        child.wait()
    assert start_time(child.pid) is None
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ImportError, match=r"needs psutil: pip install hmq_lab\[lab\]"):
        start_time(os.getpid())


@pytest.mark.parametrize(
    "name", ["network.safetensors", "log.txt", "wish", "tensors.json", "status.json"]
)
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_there_is_removed_only_if_asked(tmp_path, monkeypatch, name, resume):
    """Also a file of that name that no search wrote."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"already \\({name}\\)"):
        start(tmp_path, resume=resume)
    assert os.listdir(tmp_path) == [name] or set(os.listdir(tmp_path)) == {name, ".lock"}
    assert (tmp_path / name).read_text() == "mine"
    monkeypatch.setattr(Run, "launch", lambda run: None)
    start(tmp_path, overwrite=True)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("rounds", range(3))
def test_of_two_that_start_at_once_one_is_refused(tmp_path, monkeypatch, rounds):
    monkeypatch.setattr(Run, "launch", lambda run: (time.sleep(0.05), pretend(run.out, "starting")))
    said = []

    def one():
        try:
            start(tmp_path)
        except FileExistsError as error:
            said.append(str(error))

    both = [threading.Thread(target=one) for _ in range(2)]
    [thread.start() for thread in both]
    [thread.join() for thread in both]
    assert len(said) == 1 and f"holds a search that is starting (process {os.getpid()})" in said[0]


def test_another_programs_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no search"):
        Run.attach(tmp_path)
    (tmp_path / live.CHECKPOINT).write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"checkpoint\.safetensors"):
        start(tmp_path)
    (tmp_path / live.CHECKPOINT).unlink()
    records.write(RECORD, tmp_path / live.RECORD)
    run = Run.attach(tmp_path)
    assert (
        run.state == "finished" and run.arguments is None and run.record().events == RECORD.events
    )


def test_a_folder_that_was_received_runs_no_code_of_its_own(tmp_path, monkeypatch):
    """Not on resume, not in the process itself, and its folder is not searched for modules."""
    (tmp_path / "evilnets.py").write_text("raise SystemExit('this code ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = pretend(tmp_path / "run", "interrupted", plain(model="evilnets:small"))
    launched = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *command, **how: launched.append((command, how))
    )
    said = (
        rf"^{run.out / live.SEARCH} would run code that is no part of hmq_lab, the function small of the module "
        rf"evilnets, imported from {tmp_path}: resume with trust=True \(--trust\) if you know that code$"
    )
    with pytest.raises(ValueError, match=said):
        Run.attach(run.out).resume()
    with pytest.raises(ValueError, match=said):
        Worker(run.out).network(10)
    assert launched == [] and "evilnets" not in sys.modules and run.state == "interrupted"
    with pytest.raises(SystemExit, match="this code ran"):
        Worker(run.out, trust=True).network(10)
    for run_again in (
        lambda: Run.attach(run.out).resume(trust=True),
        lambda: Run.attach(run.out, trust=True).resume(),
    ):
        with pytest.raises(AttributeError):  # what stands for the process has no number
            run_again()
    ((command,), how), _ = launched
    assert command[-1] == "--trust" and str(tmp_path) in how["env"]["PYTHONPATH"].split(os.pathsep)
    # a network of ours: what the folder says of modules is not used
    live.write(run.out / live.SEARCH, plain() | {"model_folder": "/received"})
    with pytest.raises(AttributeError):
        Run.attach(run.out).resume()
    (command,), how = launched[-1]
    assert command[-1] == str(run.out) and "/received" not in how["env"]["PYTHONPATH"]


def test_a_view_resumes_foreign_code_only_with_trust_or_where_the_cell_names_it(
    tmp_path, monkeypatch
):
    (tmp_path / "othernets.py").write_text("raise SystemExit('this code ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    job, launched = plain(model="othernets:small"), []
    run = pretend(tmp_path / "run", "interrupted", job)
    monkeypatch.setattr(Run, "launch", lambda run: launched.append(run.trust))
    view = explorers.live(run.out)
    view.buttons["go"].click()
    assert launched == [] and "the function small of the module othernets" in view._words.value
    explorers.live(run.out, trust=True).buttons["go"].click()
    explorers.live(run.out, model="othernets:small").buttons["go"].click()
    assert launched == [True, True]
    # the same name from another place is not what the cell names
    live.write(run.out / live.SEARCH, job | {"model_folder": "/received"})
    explorers.live(run.out, model="othernets:small").buttons["go"].click()
    assert launched == [True, True] and "othernets" not in sys.modules


@pytest.mark.parametrize(
    "content", ["null", "[]", "3", '"text"', "{}", "[" * 200_000, '{"a":' * 200_000, "no JSON"]
)
@pytest.mark.parametrize("file", [live.STATUS, live.SEARCH, live.TENSORS, live.EVENTS])
def test_live_files_that_hold_something_else_are_named_in_one_line(tmp_path, file, content):
    run = at(tmp_path, 3)
    (tmp_path / file).write_text(content + "\n")
    calls = {live.STATUS: run.status, live.SEARCH: lambda: run.arguments, live.TENSORS: run.record,
             live.EVENTS: run.follow}  # fmt: skip
    with pytest.raises(ValueError, match=file) as error:
        calls[file]()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "dancing"}, ": state must be one of starting, running, .*got 'dancing'"),
        ({"state": None}, " is no status of a search: state must be a text, got None"),
        ({"pid": "12"}, " is no status of a search: pid must be a whole number, got '12'"),
        ({"pid": None}, " is no status of a search: pid must be a whole number, got None"),
        ({"steps": [1]}, " is no status of a search: steps must be a whole number, got a list"),
        ({"since": True}, " is no status of a search: since must be a finite number, got True"),
    ],
)
def test_a_status_of_other_types_is_named(tmp_path, change, said):
    run = pretend(tmp_path)
    path = tmp_path / live.STATUS
    live.write(path, json.loads(path.read_text()) | change)
    with pytest.raises(ValueError, match=rf"status\.json{said}"):
        run.status()


def test_a_status_of_an_earlier_version_is_read(tmp_path):
    run = pretend(tmp_path, "paused")
    content = json.loads((tmp_path / live.STATUS).read_text())
    content["born"] = content.pop("start_time")
    live.write(tmp_path / live.STATUS, content)
    assert run.status().start_time == start_time(os.getpid()) and run.state == "paused"


def test_another_word_than_a_wish_is_none(tmp_path):
    run = pretend(tmp_path)
    for word in (b"null", b"[]", b"\xff", b"", b"stop now"):
        (tmp_path / live.WISH).write_bytes(word)
        assert run.wish == "run"
    (tmp_path / live.WISH).write_text("stop")
    assert run.wish == "stop"


def test_a_process_whose_search_is_no_search_fails_in_one_line(tmp_path):
    run = pretend(tmp_path, "interrupted")
    live.write(tmp_path / live.SEARCH, plain() | {"settings": {"epochs": 3}})
    run.resume()
    until(lambda: run.state == "failed")
    assert run.message.startswith("TypeError: ") and "epochs" in run.message


# --- events


def test_only_new_events_are_read(tmp_path):
    events = [{"kind": "step", "step": i} for i in range(6)]
    lines = [json.dumps(e) + "\n" for e in events]
    path, run = tmp_path / live.EVENTS, Run(tmp_path)
    assert run.follow() == []
    path.write_text(lines[0] + lines[1] + lines[2][:5])
    assert run.follow() == events[:2]
    with path.open("r+") as file:  # what was read is not read again, or this would be no JSON
        file.write("x" * 5)
    assert run.follow(2) == []
    with path.open("a") as file:
        file.write(lines[2][5:] + lines[3])
    assert run.follow(2) == events[2:4]
    path.unlink()
    (tmp_path / "new").write_text("".join(lines[:3]))
    (tmp_path / "new").rename(path)  # as after a kill: it goes on from fewer
    assert run.follow(4) == [] and run.follow(4) == []
    with path.open("a") as file:
        file.write("".join(lines[3:]))
    assert run.follow(4) == events[4:] and run.follow() == events and run.follow(6) == []


# --- arguments


def test_arguments_as_objects_and_as_json_are_the_same():
    job = plain(
        target=Target(12, activation_bits=4), space=SearchSpace((2, 4, 8), 4), settings=SETTINGS
    )
    same = plain(target={"weights": 12, "activation_bits": 4}, space={"bits": [2, 4, 8], "thresholds": 4},
                 settings=dataclasses.asdict(SETTINGS))  # fmt: skip
    assert job == same == json.loads(json.dumps(job))
    assert (
        plain(settings={"preset": "quick/cifar10", "search_epochs": 7})["settings"]["search_epochs"]
        == 7
    )
    assert (
        plain()["settings"]
        == plain(settings="quick/builtin")["settings"]
        != plain(data="x")["settings"]
    )
    assert (
        plain()["weights"].endswith("builtin_tiny_resnet8.safetensors")
        and plain(data="x")["weights"] is None
    )


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "resnet21"}, ValueError, "no network 'resnet21': did you mean"),
        ({"weights": "no.pth"}, FileNotFoundError, "no weights file no.pth"),
        ({"target": 40}, ValueError, "40"),
        ({"settings": "quick/bultin"}, ValueError, "no preset"),
        ({"settings": {"epochs": 3}}, TypeError, "epochs"),
        ({"bits": 3}, TypeError, "a search takes model, data, .*got bits"),
    ],
)
def test_bad_arguments_are_refused_at_once(tmp_path, arguments, error, said):
    with pytest.raises(error, match=said):
        explorers.live(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_an_own_network_is_named_by_its_function(tmp_path, monkeypatch):
    (tmp_path / "ownnets.py").write_text(
        "from torch import nn\ndef small(classes): return nn.Linear(3, classes)\ndef none(classes): return classes\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pretend(tmp_path, job=plain(model="ownnets:small"))
    assert Worker(tmp_path, trust=True).network(7).out_features == 7
    pretend(tmp_path, job=plain(model="ownnets:none"))
    with pytest.raises(ValueError, match=r"ownnets:none must return a torch.nn.Module, got int"):
        Worker(tmp_path, trust=True).network(7)
    pretend(tmp_path, job=plain(model="gone:none") | {"model_folder": "/old/place"})
    with pytest.raises(
        ModuleNotFoundError,
        match=r"'gone' for the model gone:none: looked for in /old/place and on",
    ):
        Worker(tmp_path, trust=True).network(7)


def test_the_folder_of_an_own_network_is_kept(tmp_path, monkeypatch):
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "nets.py").write_text(
        "raise ImportError('nobody imports this here')\n"
    )
    (tmp_path / "onefile.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for init in (False, True):  # without it, a namespace package
        if init:
            (tmp_path / "ownpackage" / "__init__.py").write_text("")
        assert plain(model="ownpackage.nets:small")["model_folder"] == str(tmp_path)
    assert plain(model="onefile:small")["model_folder"] == str(tmp_path)
    for model in ("nowhere:small", "__main__:small", "sys:small", ":small"):
        assert plain(model=model)["model_folder"] is None
    assert plain()["model_folder"] is None


# --- the view


def at(out, count, state="running", **values):
    """The recorded search when so many of its events had happened."""
    job = plain(
        settings={
            k: v for k, v in RECORD.header["settings"].items() if k in Settings.__dataclass_fields__
        }
    )
    run = pretend(out, state, job, **values)
    live.write(
        out / live.TENSORS, {"header": job, "tensors": RECORD.tensors, "floats": RECORD.floats}
    )
    (out / live.EVENTS).write_text(
        "".join(json.dumps(event) + "\n" for event in RECORD.events[:count])
    )
    return run


def enabled(view):
    return {name for name, button in view.buttons.items() if not button.disabled}


def test_the_view_grows_with_the_search(tmp_path):
    at(tmp_path, 0)
    view = explorers.live(tmp_path)
    assert view.sentence == "Running: calibrating thresholds." and view.explorer is None
    data, _ = view._repr_mimebundle_()
    assert (
        data["text/plain"] == view.sentence and "application/vnd.jupyter.widget-view+json" in data
    )
    with pytest.raises(ValueError, match="nothing to set yet"):
        view.set(layer="linear.weight")
    for count in (1, 3, 60, 150, len(RECORD.events)):
        at(tmp_path, count)
        view.update()
        if count == 3:
            view.controls["layer"].value = "linear.weight"
        partial = records.Record(dict(RECORD.header), RECORD.tensors, [], RECORD.events[:count])
        result, told = view.result, partial.of("step")
        if told:
            assert f"Running, step {told[-1]['step']} of 1750" in view.sentence
            stage = "search" if told[-1]["stage"] == 1 else "fine-tuning"
            assert f"({stage}, epoch {told[-1]['epoch'] + 1} of " in view.sentence
        assert ("left" in view.sentence) == bool(told and told[-1]["step"] >= 20)
        loss = view.explorer.artists["curves"][-1]
        assert loss.get_ydata().tolist() == [e["task_loss"] for e in told]
        assert loss.get_xdata().tolist() == [e["step"] for e in told]
        assert not told or max(loss.get_ydata()) <= loss.axes.get_ylim()[1]
        run = playback.Run.of(partial)
        for line, wanted in zip(
            view.explorer.artists["curves"][:4],
            (
                run.expected_rate,
                run.actual_rate,
                run.events["target_rate"],
                run.events["temperature"],
            ),
            strict=True,
        ):
            assert np.array_equal(line.get_ydata(), wanted)
            low, high = line.axes.get_ylim()
            assert not len(wanted) or low <= wanted.min() <= wanted.max() <= high
        assert result.step == run.steps[-1] and np.array_equal(result.marginals, run.marginals[-1])
        assert view._repr_mimebundle_()[1]["image/png"]["alt"] == view.sentence
    fresh = explorers.live(tmp_path, layer="linear.weight")  # nothing of the way is left over
    assert fresh.sentence == view.sentence and fresh.result.step == view.result.step
    assert [ax.get_ylim() for ax in fresh.figure.axes] == [ax.get_ylim() for ax in view.figure.axes]
    assert (
        "fine-tuning, epoch 8 of 8, compression" in view.sentence
        and "validation accuracy" in view.sentence
    )

    records.write(RECORD, tmp_path / live.RECORD)
    at(tmp_path, len(RECORD.events), "finished")
    view.update()
    assert (
        set(view.controls) == {"step", "layer", "play"}
        and view.explorer.state.layer == "linear.weight"
    )
    assert "test accuracy" in view._words.value and enabled(view) == set()
    view.set(step=324)
    assert view.sentence == playback.compute(view.explorer.state, playback.Run.of(RECORD)).sentence
    assert view.sentence.startswith("Step 324 of ")


def test_nothing_is_painted_where_nothing_is_new(tmp_path, monkeypatch):
    at(tmp_path, 20)
    view = explorers.live(tmp_path)
    painted = []
    show = lambda self: painted.append(self.explorer.sentence)  # noqa: E731
    monkeypatch.setattr(frame.CoreView, "show", show)
    view.update()
    assert painted == []
    at(tmp_path, 25, since=1.0)
    view._due = time.monotonic() + 60  # the last picture is not paid off
    view.update(patient=True)
    assert painted == []
    view._due = 0
    view.update(patient=True)
    assert len(painted) == 1 and view._due > time.monotonic()
    at(tmp_path, 30, "paused")
    view.update(patient=True)  # a new state is shown at once
    assert len(painted) == 2 and painted[1].startswith("Paused, step ")


def test_who_listens_hears_of_a_new_state_alone(tmp_path):
    at(tmp_path, 60)
    view, said = explorers.live(tmp_path), []
    assert "Running.</span>" in view._words.value and 'role="status"' in view._words.value
    view._words.observe(lambda change: said.append(change["new"]), "value")
    for count in (70, 80, 150):
        at(tmp_path, count)
        view.update()
        assert (
            'aria-live="off"' in view.explorer.view.text.value
            and "Running, step" in view.explorer.view.text.value
        )
    assert said == []
    view.run.pause()
    view.update()
    assert len(said) == 1 and "Pausing after this step.</span>" in said[0]
    at(tmp_path, 150, "paused")
    view.update()
    assert (
        said[1:] == [""] and 'aria-live="polite"' in view.explorer.view.text.value
    )  # the sentence itself says it
    assert "Paused, step" in view.explorer.view.text.value


def test_the_buttons_ask_for_what_can_be_had(tmp_path, monkeypatch):
    run = at(tmp_path, 0)
    view = explorers.live(tmp_path)
    assert enabled(view) == {"pause", "interrupt"}
    view.buttons["pause"].click()
    assert run.wish == "pause" and view.sentence.startswith("Pausing after this step")
    assert enabled(view) == {"go", "interrupt"} and view.buttons["go"].description == "Resume"
    view.buttons["go"].click()
    assert run.wish == "run" and view.sentence.startswith("Running")
    view.buttons["pause"].click()
    at(tmp_path, 0, "paused")
    view.update()
    assert enabled(view) == {"go", "interrupt"}
    view.buttons["interrupt"].click()
    assert run.wish == "stop" and view.sentence.startswith("Paused")
    at(tmp_path, 0, "interrupted")
    view.update()
    assert enabled(view) == {"go"} and view.sentence.startswith("Interrupted")
    launched = []
    monkeypatch.setattr(Run, "launch", lambda run: launched.append(run))
    view.buttons["go"].click()
    assert len(launched) == 1
    at(tmp_path, 0, "failed", message="OSError: disk full")
    view.update()
    assert enabled(view) == {"go"} and view.sentence.startswith("Failed (OSError: disk full)")
    (tmp_path / live.SEARCH).unlink()
    view.buttons["go"].click()  # told in words
    assert "does not say what is searched" in view._words.value


def test_a_view_before_there_is_a_run(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="holds no search"):
        explorers.live(tmp_path)
    monkeypatch.setattr(Run, "launch", lambda run: pretend(run.out, "starting", run.arguments))
    view = explorers.live(tmp_path, begin=False, target=9)
    assert view.sentence == "Nothing has been searched here yet: press Start." and enabled(
        view
    ) == {"go"}
    assert list(tmp_path.iterdir()) == []
    view.buttons["go"].click()
    assert view.sentence == "Starting: loading the network and the images."
    assert view.run.arguments["target"]["weights"] == 9
    assert explorers.live(tmp_path, target=9.0).sentence == view.sentence  # the same cell again
    with pytest.raises(
        ValueError, match=r"other arguments \(target\.weights: 9\.0 there, 10\.0 here\)"
    ):
        explorers.live(tmp_path, target=10)


def test_in_a_kernel_the_view_looks_after_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LOOK", 0.01)
    monkeypatch.setattr(watching, "SHARE", 1e9)
    at(tmp_path, 0)

    async def shows(view, text):
        for _ in range(500):
            if text in view.sentence:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(view.sentence)

    async def kernel():
        view = explorers.live(tmp_path)
        at(tmp_path, 30)
        await shows(view, f"step {RECORD.events[29]['step']}")
        at(tmp_path, 0)
        newer = explorers.live(tmp_path)  # the cell was run again
        await asyncio.sleep(0)
        assert view._task.done() and not newer._task.done()
        at(tmp_path, 0, "paused")
        await shows(newer, "Paused")
        at(tmp_path, 0, "interrupted")
        await shows(newer, "Interrupted")
        await asyncio.sleep(0.05)
        assert newer._task.done()  # nothing more will come
        at(tmp_path, 0)
        newer.buttons["pause"].click()  # who presses a button wants to see
        assert not newer._task.done()
        newer.close()
        with contextlib.suppress(asyncio.CancelledError):
            await newer._task
        third = explorers.live(tmp_path)
        (tmp_path / live.EVENTS).write_text("no JSON\n" * 99)
        await asyncio.wait_for(third._task, 5)
        assert "This view has ended" in third._words.value
        run = at(tmp_path, 3)
        fourth = explorers.live(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        fourth.run.follow = lambda since: {}["a mistake of ours"]
        await asyncio.wait_for(fourth._task, 5)
        assert "This view has ended: KeyError: &#x27;a mistake of ours&#x27;" in fourth._words.value
        fourth.buttons["pause"].click()  # asks, and says that what came of it cannot be seen
        assert "Pause: KeyError" in fourth._words.value and run.wish == "pause"
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()} | {
            "wish": before.get("wish")
        }

    asyncio.run(kernel())
