"""A search in a process of its own, which outlives the notebook: start it, look at it, pause, interrupt, resume it.

>>> run = start("runs/mine", model="tiny_resnet8", data="builtin", target=8)      # returns at once
>>> run.state, run.follow()[-1]["task_loss"]
('running', 0.31...)
>>> run.pause(), run.resume(), run.interrupt()
>>> Run.attach("runs/mine").resume()                     # from another process, or tomorrow

Beside what `search` writes, the folder holds plain files, each with one writer. `live_worker` writes status.json,
events.jsonl (the events of the record, a line each, as they happen), tensors.json (what the network's tensors are) and
log.txt; who looks writes search.json (what is searched) and wish (run, pause or stop). Needs a POSIX system.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hmq_lab import models
from hmq_lab.block import SearchSpace
from hmq_lab.budget import Target
from hmq_lab.data.datasets import NAMES
from hmq_lab.data.files import alone, check_writable, replacing, the_only
from hmq_lab.models.weights import SHIPPED
from hmq_lab.runs import records
from hmq_lab.runs.records import Record
from hmq_lab.runs.runner import CHECKPOINT, NETWORK, RECORD
from hmq_lab.settings import Settings, preset, preset_for

SEARCH, STATUS, WISH, EVENTS, TENSORS, LOG = (
    "search.json", "status.json", "wish", "events.jsonl", "tensors.json", "log.txt",
)  # fmt: skip
ALIVE = ("starting", "running", "paused")  # states in which there is a process


@dataclass(frozen=True)
class Status:
    """Where a search stands, as its process last said."""

    state: str  # starting, running, paused, interrupted, finished or failed
    message: str = ""  # of a failure or an end that nobody asked for
    pid: int = 0
    born: str = ""  # when the process started: numbers of processes are used again
    steps: int = 0  # of the whole search, once the data are loaded
    first: int = 0  # the first step since it was started or resumed,
    since: float = 0.0  # and when that was, in seconds since 1970


def start(
    out: Path | str,
    *,
    model: str = "tiny_resnet8",
    data: str = "builtin",
    weights: Path | str | None = None,
    target: Target | Mapping | float = 8.0,
    space: SearchSpace | Mapping | None = None,
    settings: Settings | Mapping | str | None = None,
    hardware: bool = False,
    seed: int = 0,
    name: str | None = None,
    device: str = "cpu",
    root: Path | str | None = None,
    normalize: str | None = None,
    picture_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Begin a search in a process of its own and return at once.

    >>> start("runs/w16", model="resnet20", data="cifar10", weights="resnet20.th", normalize="imagenet", target=16)
    >>> start("runs/short", settings={"preset": "quick/builtin", "search_epochs": 2})
    >>> start("runs/own", model="package.module:function", data="pictures/")

    out, target, space, settings, hardware, seed, name, device: as in `search`, also as JSON has them: a mapping for
    target or space, and for settings a preset's name with changes. data, root, normalize, picture_size: as in
    `data.load`; the weights' file may say how its pictures were normalized.
    model: a name that `models.build` knows, or "package.module:function" for your own, in a file that can be imported
    from here: the function is called with classes=N and returns the float network. The folder it is imported from is
    kept, so that the search can be resumed from elsewhere.
    weights: a file for `load_weights`; None is the one that comes with the package, if it does, else the network as
    it is built. resume: go on from a checkpoint that another program left in `out`; overwrite: begin anew.
    Raises ValueError for bad input, FileNotFoundError for weights that are not there, FileExistsError where `out`
    holds a run. What only the process finds out is in the run's state: failed, with a message.
    """
    job = plain(**{key: value for key, value in locals().items() if key not in ("out", "resume", "overwrite")})
    out = Path(out).resolve()
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out)
    with alone(out):  # who starts a process, and the process before it first says something
        there = [file for file in (SEARCH, CHECKPOINT, RECORD) if (out / file).exists()]
        if run.is_alive():
            raise FileExistsError(f"{out} holds a search that is {run.state} (process {run.status().pid}): "
                                  "attach to it, or choose another folder")  # fmt: skip
        if there and not (overwrite or (resume and SEARCH not in there)):
            raise FileExistsError(f"{out} holds a run already ({there[0]}): attach to it and resume it, overwrite it, "
                                  "or choose another folder")  # fmt: skip
        with the_only(out, "search"):  # one that was not started here is left alone
            pass
        old = (STATUS, WISH, EVENTS, TENSORS, LOG, *(() if resume else (CHECKPOINT, RECORD, NETWORK)))
        for file in old:
            (out / file).unlink(missing_ok=True)
        write(out / SEARCH, job)
        run.launch()
    return run


def plain(**arguments) -> dict:
    """The arguments of a search as JSON has them, checked, with absolute paths: two searches can be compared.

    >>> plain(target=16)["target"]
    {'weights': 16, 'activations': None, 'activation_bits': None}

    Takes what `start` takes; raises TypeError for other names.
    """
    defaults = {p.name: p.default for p in inspect.signature(start).parameters.values()}
    for key in ("out", "resume", "overwrite"):
        del defaults[key]
    if unknown := arguments.keys() - defaults.keys():
        raise TypeError(f"a search takes {', '.join(defaults)}; got {', '.join(sorted(unknown))}")
    job = defaults | arguments
    model, data, weights = str(job["model"]), str(job["data"]), job["weights"]
    if ":" not in model and model not in models.NETWORKS and model not in models.names():
        models.build(model)  # says which names are near
    shelf = SHIPPED / f"{data}_{model}.safetensors"
    weights = shelf if weights is None and data in NAMES and shelf.exists() else weights
    if weights is not None and not Path(weights).expanduser().is_file():
        raise FileNotFoundError(f"there is no weights file {weights}")
    target, space, settings = job["target"], job["space"] or SearchSpace(), job["settings"]
    target = Target(**target) if isinstance(target, Mapping) else target
    target = target if isinstance(target, Target) else Target(weights=target)
    space = SearchSpace(**space) if isinstance(space, Mapping) else space
    target.check_reachable(space)
    fallback = preset_for(Path(data).name)
    if not isinstance(settings, Settings):
        changes = dict(settings) if isinstance(settings, Mapping) else {"preset": settings or fallback}
        settings = preset(changes.pop("preset", fallback), **changes)
    job |= {
        "model": model,
        "model_folder": _folder(model) if ":" in model else None,
        "data": data if data in NAMES else str(Path(data).expanduser().resolve()),
        "weights": weights and str(Path(weights).expanduser().resolve()),
        "root": job["root"] and str(Path(job["root"]).expanduser().resolve()),
        "target": dataclasses.asdict(target),
        "space": {"bits": list(space.bits), "thresholds": space.thresholds},
        "settings": dataclasses.asdict(settings),
        "device": str(job["device"]),
    }
    return json.loads(json.dumps(job))


def _folder(model: str) -> str | None:
    """The folder from which "package.module:function" is imported here; None where it cannot be found."""
    name = model.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # no name at all, or a module that was made by hand
        return None
    if name == "__main__" or spec is None or not (spec.submodule_search_locations or spec.has_location):
        return None
    packages = list(spec.submodule_search_locations or [])
    return str(Path(packages[0] if packages else spec.origin).resolve().parent)


class Run:
    """A search in a folder, whoever started it. Two may look at one; each request is a word in a file.

    >>> run = Run.attach("runs/mine")
    >>> run.state, run.message
    ('failed', 'FileNotFoundError: no CIFAR10 in ...')
    """

    def __init__(self, out: Path | str):
        self.out = Path(out).resolve()
        self._read = (0, 0, 0)  # of the events: which file, how many, how many bytes

    @classmethod
    def attach(cls, out: Path | str) -> Run:
        """The run in a folder; a finished one need not have been started from here. Raises FileNotFoundError."""
        run = cls(out)
        if not any((run.out / file).exists() for file in (SEARCH, RECORD)):
            raise FileNotFoundError(f"{out} holds no search: start one there")
        return run

    @property
    def state(self) -> str:
        """starting, running, paused, interrupted, finished or failed."""
        return self.status().state

    @property
    def message(self) -> str:
        return self.status().message

    @property
    def wish(self) -> str:
        """What was asked for last: run, pause or stop."""
        with suppress(FileNotFoundError):
            return (self.out / WISH).read_text(encoding="utf-8")
        return "run"

    @property
    def arguments(self) -> dict | None:
        """What is searched, as `plain` gives it; None where another program searched."""
        with suppress(FileNotFoundError):
            return read(self.out / SEARCH)

    def status(self) -> Status:
        """What the process says; where there is none any more, what that means."""
        done = (self.out / RECORD).exists() and not (self.out / CHECKPOINT).exists()
        try:
            status = Status(**read(self.out / STATUS))
        except FileNotFoundError:
            return Status("finished" if done else "interrupted")
        if status.state not in ALIVE or born(status.pid) == status.born:
            return status
        with suppress(FileNotFoundError):
            if Status(**read(self.out / STATUS)) != status:  # it said more before it ended, or there is another one
                return self.status()
        if done:
            return dataclasses.replace(status, state="finished")
        if status.state == "starting":  # it did not come to saying what was wrong
            lines = (self.out / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
            said = next((line for line in reversed(lines) if line.strip()), "nothing in its log")
            return dataclasses.replace(status, state="failed", message=f"the process ended: {said.strip()}")
        gone = f"process {status.pid} is gone (killed, or the machine was restarted): resume goes on from what it saved"
        return dataclasses.replace(status, state="interrupted", message=gone)

    def is_alive(self) -> bool:
        """Whether the search has a process."""
        return (self.out / STATUS).exists() and self.state in ALIVE

    def pause(self) -> None:
        """Finish the step, save, and wait; memory is kept, the processor is free. Nothing where nothing runs."""
        self._ask("pause")

    def interrupt(self) -> None:
        """Finish the step, save, and end the process."""
        self._ask("stop")

    def resume(self) -> None:
        """Go on: after a pause in the same process, else in a new one, from what was saved."""
        with alone(self.out):
            if self.is_alive():
                self._wish("run")
            elif self.state == "finished":
                raise ValueError(f"the search in {self.out} is finished: there is nothing to resume")
            elif self.arguments is None:
                raise ValueError(f"{self.out} does not say what is searched: start it there with resume=True")
            else:
                self.launch()

    def follow(self, since: int = 0) -> list[dict]:
        """The events from number `since` on; only what is new is read.

        >>> events += run.follow(len(events))

        A search that was killed does some steps again when it is resumed, and has the same events again, with the same
        numbers: until it is where it was, nothing is new.
        """
        try:
            file = (self.out / EVENTS).open("rb")
        except FileNotFoundError:
            return []
        with file:
            number = os.fstat(file.fileno()).st_ino
            known, count, place = self._read
            if number != known or count > since:
                count = place = 0
            file.seek(place)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        lines = text.splitlines()
        self._read = number, count + len(lines), place + len(text)
        return [json.loads(line) for line in lines[max(0, since - count) :]]

    def record(self, events: list[dict] | None = None) -> Record | None:
        """The record of a finished search; before that what of it is there, None before there is anything.

        events: those of `follow`, if they are at hand.
        """
        if self.state == "finished":
            return records.read(self.out)
        with suppress(FileNotFoundError):
            return Record(**read(self.out / TENSORS), events=self.follow() if events is None else events)

    def launch(self) -> None:
        """Start the process; the caller is `alone`."""
        self._wish("run")
        kept = self.arguments.get("model_folder")  # before the path of who resumes, on which another may have the name
        folders = (Path(__file__).parents[2], *filter(None, [kept]), *sys.path)
        paths = [str(Path(path).resolve()) for path in folders]
        with (self.out / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hmq_lab.runs.live_worker", str(self.out)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # the end of a notebook's kernel is not the end of its searches
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )  # fmt: skip
        write(self.out / STATUS, dataclasses.asdict(Status("starting", pid=process.pid, born=born(process.pid) or "")))
        threading.Thread(target=process.wait, daemon=True).start()  # so that no zombie stays

    def _ask(self, wish: str) -> None:
        if self.is_alive():
            self._wish(wish)

    def _wish(self, wish: str) -> None:
        with replacing(self.out / WISH) as temporary:
            temporary.write_text(wish, encoding="utf-8")


def born(pid: int) -> str | None:
    """When a process started, as the system tells it; None where there is no such process.

    >>> born(os.getpid()) == born(os.getpid())
    True
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()  # a name may hold spaces
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout.strip() or None


def write(path: Path, content: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
