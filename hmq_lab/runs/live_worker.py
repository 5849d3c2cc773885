"""The process of a live search: `python -m hmq_lab.runs.live_worker FOLDER`. `live` starts it; nobody types this.

It searches what search.json in the folder says, writes every event as it happens, and looks five times a second at
what is wished. A pause is an interruption after which the process waits: what a paused search has done is saved.
"""

from __future__ import annotations

import _thread
import dataclasses
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from hmq_lab import data, models
from hmq_lab.block import SearchSpace
from hmq_lab.budget import Target
from hmq_lab.data.files import read_tensors, replacing
from hmq_lab.models.weights import load_weights, read_metadata
from hmq_lab.network import blocks
from hmq_lab.runs import live, records, runner
from hmq_lab.runs.live import Run, Status
from hmq_lab.settings import Settings, complete

LOOK = 0.2  # seconds between two looks at the wish


class Worker:
    """The search in a folder: its state, its events, and whom it listens to."""

    def __init__(self, out: Path):
        self.out, self.run = out, Run(out)
        self.job = self.run.arguments
        self.settings = Settings(**complete(self.job["settings"]))
        self.status = Status("starting", pid=os.getpid(), born=live.born(os.getpid()) or "")
        self.signalled = False  # from outside, when no search listens
        self.asked = False  # this search was asked to stop, because of a wish
        self.model: nn.Module | None = None

    def say(self, state: str, **values) -> None:
        self.status = dataclasses.replace(self.status, state=state, **values)
        live.write(self.out / live.STATUS, dataclasses.asdict(self.status))
        print(time.strftime("%Y-%m-%d %H:%M:%S"), state, self.status.message, flush=True)

    def go(self) -> int:
        """Search, and wait where a pause is wished, until the end. Returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.heard)
        with live.alone(self.out):  # until who started us has said so
            self.say("starting")
        threading.Thread(target=self.listen, daemon=True).start()
        try:
            pictures = self.pictures()
            steps = len(pictures.train) // self.settings.batch_size
            steps *= self.settings.search_epochs + self.settings.final_epochs
            while True:
                self.say("running", steps=steps, since=0.0)
                record = self.search(pictures)
                if record.results["status"] == "complete":
                    self.say("finished")
                    return 0
                stopped, self.asked = not self.asked, False  # by a signal
                if self.run.wish == "pause" and not stopped:
                    self.say("paused")
                    while self.run.wish == "pause" and not self.signalled:
                        time.sleep(LOOK)
                if not (self.out / live.SEARCH).exists():  # the folder was removed: nobody wants this any more
                    return 1
                if self.run.wish == "stop" or stopped or self.signalled:
                    self.say("interrupted")
                    return 1
        except KeyboardInterrupt:  # a second signal
            self.say("interrupted", message="stopped at once: resume goes on from the last checkpoint")
        except Exception as error:
            traceback.print_exc()
            self.say("failed", message=f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1

    def heard(self, number, frame) -> None:
        """A signal from outside while no search handles it."""
        self.signalled = True

    def listen(self) -> None:
        """Ask the search to stop, once, when another thing than going on is wished."""
        while True:
            time.sleep(LOOK)
            if not self.is_ours():
                os._exit(1)  # nobody wants this search any more, and what it would save may be in another one's way
            searching = signal.getsignal(signal.SIGINT) != self.heard  # it has handlers of its own
            if searching and not self.asked and (self.signalled or self.run.wish != "run"):
                self.asked = not self.signalled
                _thread.interrupt_main(signal.SIGINT)
                if self.signalled:
                    return

    def is_ours(self) -> bool:
        """Whether the folder is still this process's: it may have been removed, and used again."""
        with suppress(FileNotFoundError):
            return live.read(self.out / live.STATUS)["pid"] == os.getpid()
        return False

    def search(self, pictures: data.Data) -> records.Record:
        job, self.model = self.job, self.network(len(pictures.classes))
        self.begin_events()
        try:
            return runner.search(
                self.model, pictures, Target(**job["target"]), space=SearchSpace(**job["space"]),
                settings=self.settings, hardware=job["hardware"], seed=job["seed"], name=job["name"] or job["model"],
                device=job["device"], out=self.out, resume=True, progress=False, on_event=self.write_event,
            )  # fmt: skip
        finally:
            self.events.close()

    def pictures(self) -> data.Data:
        job, weights = self.job, self.job["weights"]
        said = read_metadata(weights).get("normalize") if weights else None
        return data.load(
            job["data"], root=job["root"], normalize=job["normalize"] or said, picture_size=job["picture_size"]
        )

    def network(self, classes: int) -> nn.Module:
        name, weights = self.job["model"], self.job["weights"]
        torch.manual_seed(self.job["seed"])
        if ":" not in name:
            model = models.build(name, classes=classes)
        else:
            module, _, function = name.partition(":")
            try:
                model = getattr(importlib.import_module(module), function)(classes=classes)
            except ModuleNotFoundError as error:
                kept = self.job.get("model_folder") or "no folder that was kept"
                said = f"{error} for the model {name}: looked for in {kept} and on the path of who started this process"
                raise ModuleNotFoundError(said) from error
            if not isinstance(model, nn.Module):
                raise ValueError(f"{name} must return a torch.nn.Module, got {type(model).__name__}")
        if weights:
            load_weights(model, weights)
        return model

    def begin_events(self) -> None:
        """The file holds what the checkpoint does: a search that was killed does the steps after that again."""
        saved, path = self.out / runner.CHECKPOINT, self.out / live.EVENTS
        known = read_tensors(saved)[1]["events"] if saved.exists() else []
        text = "".join(_line(event) for event in known)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        self.events, self.described = path.open("a", encoding="utf-8"), False

    def write_event(self, event: dict) -> None:
        if not self.described or event["kind"] == "repair":
            self.describe()
        if not self.status.since:
            self.say("running", first=event["step"], since=time.time())
        self.events.write(_line(event))
        self.events.flush()

    def describe(self) -> None:
        """What the record will say of the tensors."""
        tensors, floats = records.describe(self.model)
        for tensor, block in zip(tensors, blocks(self.model).values(), strict=True):
            tensor["space"] = {"bits": block.bits.tolist(), "exponents": block.exponents.tolist()}
        live.write(self.out / live.TENSORS, {"header": self.job, "tensors": tensors, "floats": floats})
        self.described = True


def _line(event: dict) -> str:
    return json.dumps(event, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    sys.exit(Worker(Path(sys.argv[1])).go())
