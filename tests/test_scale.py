"""One search in two processes: the same gradients, thresholds and accuracies as in one; stopped, killed, resumed."""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from hmq_lab import SearchSpace, attach, models
from hmq_lab.budget import Target
from hmq_lab.commands.main import main
from hmq_lab.data.datasets import load
from hmq_lab.data.images import crop_flip, own
from hmq_lab.models.training import evaluate
from hmq_lab.placement import blocks, calibrate
from hmq_lab.runs import processes as scale
from hmq_lab.runs import records, runner
from hmq_lab.runs.runner import CHECKPOINT, RECORD, search
from hmq_lab.settings import Settings
from hmq_lab.stages import Loss

pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
SETTINGS = Settings(
    search_epochs=2, final_epochs=1, batch_size=32, network_learning_rate=1e-3, final_learning_rate=1e-3,
    logit_learning_rate=0.1, cycles=1,
    target_steps=1, calibration_images=64, compile="off", log_every=1, snapshots=2,
)  # fmt: skip
STEPS = 3 * 4


@pytest.fixture(scope="module")
def pictures():
    full = load("builtin")
    cut = {}
    for name, count in (("train", 128), ("validation", 31), ("test", 33)):
        split = getattr(full, name)
        cut[name] = dataclasses.replace(
            split, images=split.images[:count], labels=split.labels[:count]
        )
    return dataclasses.replace(full, **cut)


def network(still: bool):
    """still: its batch norms stay in evaluation."""
    torch.manual_seed(0)
    model = models.build("tiny_resnet8", width=4)
    for module in model.modules():
        if still and isinstance(module, torch.nn.BatchNorm2d):
            module.training, module.train = False, lambda mode=True, module=module: module
    return model


def run(pictures, still=False, model=None, **options):
    """The record of a short search, and the gradients of its first step."""
    model, gradients, given = (
        model or network(still),
        {},
        options.pop("on_event", lambda event: None),
    )

    def look(event):
        given(event)
        if event["kind"] == "step" and event["step"] == 0:
            gradients.update(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )

    options = {"settings": SETTINGS, "progress": False, "name": "tiny"} | options
    return search(model, pictures, Target(weights=12), on_event=look, **options), gradients


def pair(work, folder, number=2):
    """What `work(rank)` returns in each of two processes that a launcher could have started, and their exit codes."""
    fork = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)

    def child(rank):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")  # fmt: skip
        torch.save(work(rank), folder / f"{rank}.pt")

    started = [fork.Process(target=child, args=(rank,)) for rank in range(number)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
    paths = [folder / f"{rank}.pt" for rank in range(number)]
    found = [torch.load(path, weights_only=False) if path.exists() else None for path in paths]
    return found, [process.exitcode for process in started]


def content(record):
    """All of a record that must be the same again."""
    parts = dataclasses.asdict(record)
    parts.pop("timing")
    return json.loads(json.dumps(parts))


def selection(record):
    return {
        t["name"]: (t["bits"], t["threshold_exponent"], t["space"]["exponents"])
        for t in record.tensors
    }


def losses(record):
    return [event["loss"] for event in record.of("step")]


class FirstPixel(torch.nn.Module):
    """Says class 0 for pictures that are bright in a corner, else class 1, and counts those it was shown."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        bright = (x[:, 0, 0, 0] > 0).float()
        return torch.stack([bright, 1 - bright], 1)


@pytest.fixture(scope="module")
def single(pictures):
    """In one process: batch norm in evaluation."""
    return run(pictures, still=True)


@pytest.fixture(scope="module")
def both(pictures, tmp_path_factory):
    """In two processes: the same search, once with two parts a step; an evaluation; a calibration."""

    def work(rank):
        found = {"run": run(pictures, still=True, shared_noise=True)}
        found["parts"] = run(pictures, still=True, shared_noise=True, accumulate=2)
        team = scale.start("cpu")
        found["team"] = (team.rank, team.number, team.is_main)
        found["right"], found["seen"] = [], []
        for count in (33, 1, 32):
            model = FirstPixel()
            found["right"].append(
                evaluate(model, pictures.test.subset(range(count)), batch_size=5, team=team)
            )
            found["seen"].append(model.seen)
        found["theta"] = thresholds(pictures, team)
        found["unused"] = with_a_layer_that_nothing_uses(pictures)
        return found

    (first, second), codes = pair(work, tmp_path_factory.mktemp("both"))
    assert codes == [0, 0]
    return first, second


def with_a_layer_that_nothing_uses(pictures):
    """Also in bfloat16, channels-last: the record, the state afterwards, whether all parameters can still learn."""
    model = network(still=False)
    model.extra = torch.nn.Linear(8, 2)
    settings = dataclasses.replace(
        SETTINGS, search_epochs=1, precision="bfloat16", channels_last=True
    )
    record, _ = run(pictures, model=model, settings=settings)
    return record, model.state_dict(), all(p.requires_grad for p in model.parameters())


def thresholds(pictures, team):
    model = attach(network(still=False), SearchSpace(), next(pictures.train.batches(8))[0])
    batches = pictures.train.batches(32, seed=3, part=team.part)
    return calibrate(model, (x for x, _ in batches), largest=team.largest)


def test_two_processes_take_the_step_that_one_takes(single, both):
    for found in both:
        for name in ("run", "parts"):
            record, gradients = found[name]
            assert gradients.keys() == single[1].keys() and any(
                "logits" in name for name in gradients
            )
            for key, gradient in gradients.items():
                torch.testing.assert_close(gradient, single[1][key], rtol=1e-5, atol=1e-5, msg=key)
            assert selection(record) == selection(single[0])
            assert losses(record) == pytest.approx(losses(single[0]), rel=1e-3)
            assert record.results["rates"] == single[0].results["rates"]
    assert content(both[0]["run"][0]) == content(both[1]["run"][0])
    assert [found["team"] for found in both] == [(0, 2, True), (1, 2, False)]


def test_the_record_says_how_many_processes_took_part(single, both):
    hardware = [r.header["hardware"] for r in (single[0], both[0]["run"][0], both[0]["parts"][0])]
    assert [(h["processes"], h["accumulate"]) for h in hardware] == [(1, 1), (2, 1), (2, 2)]
    different = {
        key for key in single[0].header if single[0].header[key] != both[0]["run"][0].header[key]
    }
    assert different == {"hardware"}


def test_a_layer_that_nothing_uses_bfloat16_and_channels_last_go_together(both):
    records_, states, free = zip(*(found["unused"] for found in both), strict=True)
    assert records_[0].results["status"] == "complete" and content(records_[0]) == content(
        records_[1]
    )
    assert all(math.isfinite(loss) for loss in losses(records_[0])) and all(free)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), (
            name
        )  # the processes hold one network, batch norm's statistics too


def test_every_picture_is_evaluated_once(pictures, both):
    for k, count in enumerate((33, 1, 32)):
        split = pictures.test.subset(range(count))
        x, y = next(split.batches(count))
        right = sum(
            int((x[i, 0, 0, 0] <= 0) == bool(y[i])) if y[i] < 2 else 0 for i in range(count)
        )
        assert both[0]["right"][k] == both[1]["right"][k] == pytest.approx(100 * right / count)
        assert both[0]["seen"][k] + both[1]["seen"][k] == count


def test_thresholds_are_calibrated_on_the_pictures_of_all_processes(pictures, both):
    alone = thresholds(pictures, scale.start("cpu"))
    assert both[0]["theta"] == both[1]["theta"] == pytest.approx(alone, rel=1e-6)


def test_parts_of_a_step_add_up_to_it(pictures, single):
    record, gradients = run(pictures, still=True, accumulate=4)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, single[1][key], rtol=1e-5, atol=1e-5, msg=key)
    assert selection(record) == selection(single[0])
    with pytest.raises(ValueError, match=r"multiple of processes \* accumulate, got 32 for 1 \* 5"):
        run(pictures, accumulate=5)


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """An undisturbed search in two processes, as it comes: noise of each one's own, batch norm in training."""
    found, codes = pair(lambda rank: run(pictures)[0], tmp_path_factory.mktemp("whole"))
    assert codes == [0, 0] and content(found[0]) == content(found[1])
    return found[0]


def test_two_processes_end_where_seeds_end(pictures, whole):
    seeds = [run(pictures, seed=seed)[0] for seed in range(3)]
    for of in (
        lambda r: r.of("epoch")[1]["expected_rate"],
        lambda r: r.of("epoch")[-1]["training_loss"],
    ):
        found = [of(record) for record in seeds]
        spread = max(found) - min(found)
        assert min(found) - spread <= of(whole) <= max(found) + spread
    assert whole.results["rates"]["weights"] >= 12
    assert losses(whole) != losses(seeds[0])


def test_a_signal_to_one_stops_both_after_the_same_step_and_one_process_goes_on(
    pictures, single, tmp_path
):
    out = tmp_path / "run"

    def work(rank):
        def interrupt(event):
            if rank == 1 and event["kind"] == "step" and event["step"] == 5:
                signal.raise_signal(signal.SIGTERM)

        return run(pictures, still=True, shared_noise=True, out=out, on_event=interrupt)[0]

    found, codes = pair(work, tmp_path / "stopped")
    assert codes == [0, 0]
    assert [(r.results["status"], r.results["steps"]) for r in found] == [("interrupted", 6)] * 2
    assert (out / CHECKPOINT).exists()
    resumed, _ = run(pictures, still=True, out=out, resume=True)
    assert selection(resumed) == selection(single[0])
    assert (
        losses(resumed) == pytest.approx(losses(single[0]), rel=1e-3)
        and len(losses(resumed)) == STEPS
    )
    assert resumed.header["hardware"]["processes"] == 1


def folder_of_pictures(place):
    rng = np.random.default_rng(0)
    for split, count in (("train", 36), ("test", 9)):
        for name, level in (("bright", 170), ("dark", 85)):
            (place / split / name).mkdir(parents=True)
            for i in range(count):
                picture = np.clip(rng.normal(level, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(picture).save(place / split / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`hmq-lab search` on an image folder: 4 steps an epoch."""
    data = folder_of_pictures(tmp_path_factory.mktemp("data"))
    weights = tmp_path_factory.mktemp("weights") / "net.safetensors"
    torch.manual_seed(0)
    models.save_weights(models.build("tiny_resnet8", classes=2), weights, {"model": "tiny_resnet8"})
    return ["search", "--data", str(data), "--model", "tiny_resnet8", "--weights", str(weights), "--batch-size", "16",
            "--preset", "quick/cifar10", "--search-epochs", "2", "--final-epochs", "1", "--device", "cpu", "--quiet",
            "--no-figures", "--precision", "float32", "--compile", "off"]  # fmt: skip


def told(arguments, die_at=None):
    """The exit code of a command and what it said; with die_at, the process is killed as that step begins."""
    step = runner.ParallelSearch.step

    def dying(self, x, y):
        if self.steps_done == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, x, y)

    runner.ParallelSearch.step = dying
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        code = main(arguments)
    return code, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """What the command leaves and says in two processes."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    found, codes = pair(lambda rank: told([*command, "--out", str(out)]), out.parent / "found")
    assert codes == [0, 0]
    return records.read(out), found


def test_the_main_process_alone_talks(undisturbed):
    (code, out, error), other = undisturbed[1]
    assert code == 0 and "test accuracy" in out and error == "" and other == (0, "", "")


@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_is_killed_the_other_says_so_and_the_relaunched_run_ends_as_if_nothing_had_happened(
    dies, command, undisturbed, tmp_path
):
    out = tmp_path / "run"
    started = time.perf_counter()
    found, codes = pair(
        lambda rank: told([*command, "--out", str(out)], 6 if rank == dies else None),
        tmp_path / "a",
    )
    assert codes[dies] == -signal.SIGKILL and codes[1 - dies] == 0
    assert time.perf_counter() - started < 60
    code, _, error = found[1 - dies]
    assert code == 1
    assert (
        error
        == "hmq-lab: stopped: another process of this search ended: run the same command with --resume\n"
    )
    assert (out / CHECKPOINT).exists() and not (out / RECORD).exists()

    again = [*command, "--out", str(out), "--resume"]
    found, codes = pair(lambda rank: told(again), tmp_path / "b")
    assert codes == [0, 0] and [result[0] for result in found] == [0, 0]
    assert content(records.read(out)) == content(undisturbed[0])


def test_accelerate_launches_a_search(command, tmp_path):
    """As docs/devices.md says it for CPUs."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
              "-m", "hmq_lab", *command, "--out", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    record = records.read(tmp_path / "run")
    assert record.header["hardware"]["processes"] == 2 and record.results["status"] == "complete"


def test_accelerates_cpu_launcher_starts_one_process_and_is_told_on(monkeypatch):
    for name, value in (("ACCELERATE_USE_CPU", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="--multi_gpu --num_processes N"):
        assert scale.start("cpu").number == 1


def test_several_processes_need_accelerate_one_does_not(monkeypatch):
    code = "import sys, hmq_lab, hmq_lab.commands.main; sys.exit('accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert scale.start("cpu").number == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not scale.is_main()
    with pytest.raises(ImportError, match=r"pip install hmq_lab\[scale\]"):
        scale.start("cpu")


def test_parts_of_a_batch_are_the_batch(pictures):
    for count, number in itertools.product((0, 1, 7, 32), (1, 2, 3, 5)):
        parts = [range(count)[own(count, (rank, number))] for rank in range(number)]
        assert [i for part in parts for i in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=r"got \(2, 2\)"):
        own(8, (2, 2))
    options = {"seed": 1, "epoch": 2, "augment": True}
    whole = list(pictures.train.batches(50, **options))
    parts = [list(pictures.train.batches(50, **options, part=(rank, 3))) for rank in range(3)]
    for k, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([part[k][0] for part in parts]), x)
        assert torch.equal(torch.cat([part[k][1] for part in parts]), y)


def test_rows_of_a_varied_batch(generator):
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    whole = crop_flip(images, torch.Generator().manual_seed(1))
    some = crop_flip(images[2:5], torch.Generator().manual_seed(1), rows=slice(2, 5), count=6)
    assert torch.equal(some, whole[2:5])


def test_noise_of_some_pictures_is_theirs_in_the_whole_batch():
    sample = torch.randn(4, 3, 8, 8)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3)
    )
    model = attach(layers, SearchSpace(), sample)
    block = next(iter(blocks(model, "activation").values()))
    block.resample(torch.Generator().manual_seed(1))
    whole = block.noise(12)
    block.set_batch_slice(4, 3, 12)
    assert torch.equal(block.noise(3), whole[4:7])
    block.set_batch_slice(2, 2, 6)
    assert torch.equal(block.noise(4), whole[4:8])  # two samples a picture
    block.set_batch_slice(2, 3, 6)
    assert block.noise(4).shape[0] == 4  # not the pictures' axis
    block.resample(torch.Generator().manual_seed(1))
    assert torch.equal(block.noise(12), whole)


def test_parameters_that_a_step_does_not_reach_are_found():
    class Unused(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = torch.nn.Conv2d(3, 2, 3), torch.nn.Conv2d(3, 2, 3)
            self.norm = torch.nn.BatchNorm2d(2)

        def forward(self, x):
            return self.norm(self.conv(x)).mean((2, 3))

    x, y = torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
    model = attach(Unused(), SearchSpace(), x).train()
    before, drawn = {n: b.clone() for n, b in model.named_buffers()}, torch.get_rng_state()
    loss = Loss(model, Settings())
    found = scale.not_reached(loss, x, y, 8.0)
    assert found == ["network.other.weight", "network.other.bias"]
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    assert torch.equal(drawn, torch.get_rng_state()) and model.conv.bias.grad is None
