"""A search killed at 20 random moments, some of them while a checkpoint is written, ends as if nothing had happened."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from hmq_lab import models
from hmq_lab.budget import Target
from hmq_lab.data.datasets import load
from hmq_lab.data.files import write_tensors
from hmq_lab.runs import checkpoints, records
from hmq_lab.runs.runner import CHECKPOINT, RECORD, search
from hmq_lab.settings import Settings

SETTINGS = Settings(
    search_epochs=3, final_epochs=3, batch_size=32, network_learning_rate=1e-3, final_learning_rate=1e-3,
    logit_learning_rate=0.1, cycles=2,
    target_steps=2, calibration_images=32, compile="off", log_every=1, snapshots=4,
)  # fmt: skip


def pictures():
    full = load("builtin")
    cut = {}
    for name, count in (("train", 128), ("validation", 30), ("test", 30)):
        split = getattr(full, name)
        cut[name] = dataclasses.replace(
            split, images=split.images[:count], labels=split.labels[:count]
        )
    return dataclasses.replace(full, **cut)


def run(data, out, slow_writing=False):
    torch.manual_seed(0)
    if slow_writing:  # long enough in the middle of a checkpoint that kills meet it there
        checkpoints.write_tensors = _write_slowly
    model = models.build("tiny_resnet8", width=4)
    search(model, data, Target(weights=12), settings=SETTINGS, out=out, resume=True, progress=False)


def _write_slowly(path, tensors, header):
    write_tensors(path, tensors, header)
    partial = path.with_name(f".{path.name}.half")
    partial.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    time.sleep(0.15)
    partial.unlink()


def content(path):
    parts = json.loads((path / RECORD).read_text())
    parts.pop("timing")
    return parts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_search_killed_at_twenty_random_moments_ends_with_the_same_record(tmp_path):
    data, fork, rng = pictures(), multiprocessing.get_context("fork"), random.Random(0)
    start = time.perf_counter()
    whole = fork.Process(target=run, args=(data, tmp_path / "whole"))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    length = time.perf_counter() - start

    out, kills, writing, attempts = tmp_path / "killed", 0, 0, 0
    while kills < 20:
        attempts += 1
        assert attempts < 80, f"{kills} kills in {attempts} attempts"
        child = fork.Process(target=run, args=(data, out, kills % 2 == 1))
        child.start()
        child.join(timeout=rng.uniform(0.05, 0.9) * length)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            writing += (
                any(p.name.startswith(f".{CHECKPOINT}") for p in out.iterdir())
                if out.exists()
                else 0
            )
        else:
            assert child.exitcode == 0
        if (out / RECORD).exists():  # this one ended: it must be right, and the next begins anew
            assert content(out) == content(tmp_path / "whole")
            for path in out.iterdir():
                path.unlink()
    last = fork.Process(target=run, args=(data, out))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert content(out) == content(tmp_path / "whole")
    assert records.read(out).results["status"] == "complete"
