"""The process of a live search: `python -m hmq_lab.runs.live_worker FOLDER [--trust]`.

`live` starts it; nobody types this. It runs the search that search.json in the folder describes,
writes every event as it happens, and reads the wish five times a second. A pause is an
interruption after which the process waits: the steps of a paused search are saved.
"""

from __future__ import annotations

import _thread
import dataclasses
import functools
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
from hmq_lab.data.files import locked, read_tensors, replacing
from hmq_lab.models.weights import load_weights, read_metadata
from hmq_lab.network import blocks
from hmq_lab.runs import live, records, runner
from hmq_lab.runs.live import Run, Status
from hmq_lab.settings import Settings, complete

# Seconds between two looks at the wish.
LOOK = 0.2


class Worker:
    """The search in a folder: its state, its events, and the requests to it.

    Args:
        out: the folder.
        trust: whether to run the code of an own network that the folder names.
    """

    def __init__(self, out: Path, trust: bool = False):
        # What is searched, and who this process is.
        self.out, self.trust = out, trust
        self.run = Run(out)
        pid = os.getpid()
        self.status = Status("starting", pid=pid, start_time=live.start_time(pid) or "")
        # A signal came from outside, when no search handled it.
        self.signalled = False
        # This search was asked to stop, because of a wish.
        self.asked = False
        # The file tensors.json is written.
        self.described = False
        self.model: nn.Module | None = None

    @functools.cached_property
    def job(self) -> dict:
        """The arguments of the search."""
        # The folder may have been changed since.
        job = self.run.arguments
        if job is None:
            raise FileNotFoundError(f"{self.out} holds no {live.SEARCH}")
        return job

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings of the search."""
        return Settings(**complete(self.job["settings"]))

    def say(self, state: str, **values) -> None:
        """Write the state for the viewers, and a line for the log."""
        # The file is for viewers, the line for the log.
        self.status = dataclasses.replace(self.status, state=state, **values)
        live.write(self.out / live.STATUS, dataclasses.asdict(self.status))
        print(time.strftime("%Y-%m-%d %H:%M:%S"), state, self.status.message, flush=True)

    def go(self) -> int:
        """Search, and wait where a pause is wished, until the end; return the exit code."""
        # A signal outside of a search is noted; a search has its own handlers.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.heard)

        # Wait until the program that started this process has written its status.
        with locked(self.out):
            self.say("starting")
        # Requests are heard while the search runs.
        threading.Thread(target=self.listen, daemon=True).start()
        try:
            return self.search_until_done()
        except KeyboardInterrupt:
            # A second signal.
            message = "stopped at once: resume goes on from the last checkpoint"
            self.say("interrupted", message=message)
        except Exception as error:
            traceback.print_exc()
            message = " ".join(str(error).split())
            self.say("failed", message=f"{type(error).__name__}: {message}")
        return 1

    def search_until_done(self) -> int:
        """Search and pause by turns, until the end; return the exit code."""
        # The number of steps is known once the data are loaded.
        images = self.images()
        epochs = self.settings.search_epochs + self.settings.final_epochs
        steps = epochs * (len(images.train) // self.settings.batch_size)
        while True:
            self.say("running", steps=steps, since=0.0)
            record = self.search(images)
            if record.is_complete:
                self.say("finished")
                return 0

            # Without a wish, a signal from outside stopped the search.
            by_signal = not self.asked
            self.asked = False
            if self.run.wish == "pause" and not by_signal:
                self.say("paused")
                while self.run.wish == "pause" and not self.signalled:
                    time.sleep(LOOK)

            # The folder was removed: nobody wants this search any more.
            if not (self.out / live.SEARCH).exists():
                return 1
            if self.run.wish == "stop" or by_signal or self.signalled:
                self.say("interrupted")
                return 1

    def heard(self, number, frame) -> None:
        """Note a signal from outside while no search handles it."""
        self.signalled = True

    def listen(self) -> None:
        """Ask the search to stop, once, when something else than going on is wished."""
        while True:
            time.sleep(LOOK)

            # The folder now belongs to another run: exit without saving over it.
            if not self.is_ours():
                os._exit(1)

            # A search that runs has replaced our handlers of signals by its own.
            is_searching = signal.getsignal(signal.SIGINT) != self.heard
            is_wished = self.signalled or self.run.wish != "run"
            if is_searching and is_wished and not self.asked:
                self.asked = not self.signalled
                _thread.interrupt_main(signal.SIGINT)
                if self.signalled:
                    return

    def is_ours(self) -> bool:
        """Return whether the folder still belongs to this process, and not to another run."""
        with suppress(FileNotFoundError):
            return Status.read(self.out / live.STATUS).pid == os.getpid()
        return False

    def search(self, images: data.Data) -> records.Record:
        """Search until the end or an interruption; return the record."""
        # Each attempt begins with a new network; the search restores the checkpoint.
        job = self.job
        self.model = self.network(len(images.classes))
        self.begin_events()
        try:
            return runner.search(
                self.model,
                images,
                Target(**job["target"]),
                space=SearchSpace(**job["space"]),
                settings=self.settings,
                hardware=job["hardware"],
                seed=job["seed"],
                name=job["name"] or job["model"],
                device=job["device"],
                out=self.out,
                resume=True,
                progress=False,
                on_event=self.write_event,
            )
        finally:
            self.events.close()

    def images(self) -> data.Data:
        """Return the data of the search."""
        # The file of the weights may say how their images were normalized.
        job = self.job
        normalize = job["normalize"]
        if normalize is None and job["weights"]:
            normalize = read_metadata(job["weights"]).get("normalize")
        return data.load(
            job["data"],
            root=job["root"],
            normalize=normalize,
            image_size=job["image_size"],
        )

    def network(self, classes: int) -> nn.Module:
        """Return the float network, with its weights.

        Raises:
            ValueError: for code that is not trusted, and for a function that returns no network.
            ModuleNotFoundError: for an own network whose file is not found.
        """
        # Code of others runs only with trust.
        name = self.job["model"]
        live.check_trust(self.job, self.out, self.trust)
        torch.manual_seed(self.job["seed"])
        if ":" in name:
            model = self.own_network(name, classes)
        else:
            model = models.build(name, classes=classes)
        # The trained float weights.
        if self.job["weights"]:
            load_weights(model, self.job["weights"])
        return model

    def own_network(self, name: str, classes: int) -> nn.Module:
        """Return the network that "package.module:function" makes."""
        # The module is looked for in the kept folder first.
        module, _, function = name.partition(":")
        try:
            make = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            kept = self.job.get("model_folder") or "no folder that was kept"
            raise ModuleNotFoundError(
                f"{error} for the model {name}: looked for in {kept} and on the path of the "
                "program that started this process"
            ) from error
        # The function must return a network.
        model = make(classes=classes)
        if not isinstance(model, nn.Module):
            kind = type(model).__name__
            raise ValueError(f"{name} must return a torch.nn.Module, got {kind}")
        return model

    def begin_events(self) -> None:
        """Open the file of events, with the events of the checkpoint in it.

        A search that was killed repeats the steps after its checkpoint.
        """
        # The events up to the checkpoint.
        saved, path = self.out / runner.CHECKPOINT, self.out / live.EVENTS
        known = read_tensors(saved)[1]["events"] if saved.exists() else []
        text = "".join(_line(event) for event in known)
        # Replace the file only where it differs: viewers read on.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        self.events = path.open("a", encoding="utf-8")
        self.described = False

    def write_event(self, event: dict) -> None:
        """Write an event as it happens."""
        # The repair changes schemes: describe the tensors again.
        if not self.described or event["kind"] == "repair":
            self.describe()
        # The first step since the start tells the pace.
        if not self.status.since:
            self.say("running", first=event["step"], since=time.time())
        self.events.write(_line(event))
        self.events.flush()

    def describe(self) -> None:
        """Write what the record will say of the tensors."""
        # The space of a tensor is in its block.
        assert self.model is not None
        tensors, floats = records.describe(self.model)
        for tensor, block in zip(tensors, blocks(self.model).values(), strict=True):
            space = {"bits": block.bits.tolist(), "exponents": block.exponents.tolist()}
            tensor["space"] = space
        content = {"header": self.job, "tensors": tensors, "floats": floats}
        live.write(self.out / live.TENSORS, content)
        self.described = True


def _line(event: dict) -> str:
    return json.dumps(event, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    sys.exit(Worker(Path(sys.argv[1]), trust="--trust" in sys.argv[2:]).go())
