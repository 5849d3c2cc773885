"""A search in a process of its own, which outlives the notebook.

>>> run = start("runs/mine", model="tiny_resnet8", target=8)              # doctest: +SKIP
>>> run.state, run.follow()[-1]["task_loss"]                              # doctest: +SKIP
('running', 0.31)
>>> run.pause(), run.resume(), run.interrupt()                            # doctest: +SKIP
>>> Run.attach("runs/mine").resume()    # from another process, or tomorrow  # doctest: +SKIP

The folder holds plain files, each with one writer, beside the files of `search`. The process
(`live_worker`) writes status.json, events.jsonl (the events of the record, one to a line, as they
happen), tensors.json (the tensors of the network) and log.txt. The viewer writes search.json (the
arguments of the search) and wish (run, pause or stop).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hmq_lab import models
from hmq_lab.block import SearchSpace
from hmq_lab.budget import Target
from hmq_lab.data.datasets import NAMES
from hmq_lab.data.files import (
    check_writable,
    exclusive_lock,
    locked,
    read_json,
    replacing,
)
from hmq_lab.models.weights import SHIPPED
from hmq_lab.runs import records
from hmq_lab.runs.records import Record
from hmq_lab.runs.runner import CHECKPOINT, NETWORK, RECORD
from hmq_lab.runs.shapes import misfit
from hmq_lab.settings import Settings, preset, preset_for

# The files of a folder, beside those of `search`.
SEARCH = "search.json"
STATUS = "status.json"
WISH = "wish"
EVENTS = "events.jsonl"
TENSORS = "tensors.json"
LOG = "log.txt"

WRITTEN = (STATUS, WISH, EVENTS, TENSORS, LOG)
# What any search leaves.
SEARCHED = (CHECKPOINT, RECORD, NETWORK)

# Windows has no sessions: Ctrl-C in the console that started a search must not reach it.
WINDOWS_FLAGS = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
WINDOWS_FLAGS |= getattr(subprocess, "CREATE_NO_WINDOW", 0)

# The states in which there is a process, all states, and all requests.
ALIVE = ("starting", "running", "paused")
STATES = (*ALIVE, "interrupted", "finished", "failed")
WISHES = ("run", "pause", "stop")

# What the files must hold.
STATUS_SHAPE = {
    "state": str,
    "message?": str,
    "pid?": int,
    "start_time?": str,
    "born?": str,
    "steps?": int,
    "first?": int,
    "since?": float,
}
SEARCH_SHAPE = {
    "model": str,
    "model_folder?": (str, None),
    "data": str,
    "weights": (str, None),
    "target": records.TARGET,
    "space": records.SPACE,
    "settings": dict,
    "hardware": bool,
    "seed": int,
    "name": (str, None),
    "device": str,
    "root": (str, None),
    "normalize": (str, None),
    "image_size": (int, None),
}
TENSORS_SHAPE = {
    "header": dict,
    "tensors": [{"name": str, "kind": str, "size": int, "space": records.TENSOR["space"]}],
    "floats": [dict],
}
EVENT_SHAPE = {"kind": str, "step": int}


@dataclass(frozen=True)
class Status:
    """Where a search stands, as its process last said.

    Args:
        state: starting, running, paused, interrupted, finished or failed.
        message: of a failure, or of an end that nobody asked for.
        pid: the number of the process.
        start_time: when the process started; the system uses numbers of processes again.
        steps: steps of the whole search, once the data are loaded.
        first: the first step since the search was started or resumed.
        since: when that step was, in seconds since 1970.
    """

    state: str
    message: str = ""
    pid: int = 0
    start_time: str = ""
    steps: int = 0
    first: int = 0
    since: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Status:
        """Return the status in a file.

        Raises:
            FileNotFoundError: where there is none.
            ValueError: naming the file, for another content.
        """
        content = read(path, STATUS_SHAPE, "status of a search")
        # Earlier versions called the start time so.
        if "born" in content:
            content["start_time"] = content["born"]
        if content["state"] not in STATES:
            said = ", ".join(STATES)
            raise ValueError(f"{path}: state must be one of {said}, got {content['state']!r}")
        known = {part.name for part in fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})


@dataclass(frozen=True)
class Arguments:
    """What is searched; also as JSON has it: a mapping for target, space and settings.

    Args:
        model: a name that `models.build` knows, or "package.module:function" for your own network,
            in a file that can be imported from here. The function is called with classes=N and
            returns the float network. The folder of the import is kept, so that the search can be
            resumed from elsewhere.
        data: as in `data.load`.
        weights: a file for `load_weights`. None takes the file that comes with the package, if
            there is one, else the network as it is built.
        target: as in `search`.
        space: as in `search`.
        settings: as in `search`, or a mapping of changes, "preset" with a name among them.
        hardware: as in `search`.
        seed: as in `search`.
        name: of the network, for the record.
        device: as in `search`.
        root: as in `data.load`.
        normalize: as in `data.load`; the file of the weights may say it.
        image_size: as in `data.load`.
    """

    model: str = "tiny_resnet8"
    data: str = "builtin"
    weights: Path | str | None = None
    target: Target | Mapping | float = 8.0
    space: SearchSpace | Mapping | None = None
    settings: Settings | Mapping | str | None = None
    hardware: bool = False
    seed: int = 0
    name: str | None = None
    device: str = "cpu"
    root: Path | str | None = None
    normalize: str | None = None
    image_size: int | None = None


def start(
    out: Path | str, *, resume: bool = False, overwrite: bool = False, **arguments: Any
) -> Run:
    """Begin a search in a process of its own and return at once.

    >>> start("runs/w16", model="resnet20", data="cifar10", target=16)    # doctest: +SKIP
    >>> start("runs/short", settings={"search_epochs": 2})                # doctest: +SKIP
    >>> start("runs/own", model="package.module:function", data="images/")  # doctest: +SKIP

    Args:
        out: the folder of the run.
        resume: whether to go on from a checkpoint that another program left in `out`.
        overwrite: whether to begin anew where `out` holds a run.
        arguments: see `Arguments`.

    Returns:
        The run. What only the process finds out is in its state: failed, with a message.

    Raises:
        ValueError: for bad input.
        FileNotFoundError: for weights that are not there.
        FileExistsError: where `out` holds a run.
    """
    # Bad input is refused before anything is written.
    job = plain(**arguments)
    out = Path(out).resolve()
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    # The caller named the code.
    run = Run(out, trust=True)
    # Of two programs that start a search here, one is refused.
    with locked(out):
        _check_free(run, resume, overwrite)

        # A search that another program runs here is left alone.
        with exclusive_lock(out, "search"):
            pass

        # Remove the files of the search before, but for what is to be resumed.
        old = WRITTEN if resume else WRITTEN + SEARCHED
        for file in old:
            (out / file).unlink(missing_ok=True)
        # The process reads its arguments from this file.
        write(out / SEARCH, job)
        run.launch()
    return run


def _check_free(run: Run, resume: bool, overwrite: bool) -> None:
    """Raise FileExistsError where a folder holds a run that must stay."""
    # A search that runs is left alone. A file of that name may be anything else.
    out = run.out
    try:
        is_alive = run.is_alive()
    except ValueError:
        is_alive = False
    if is_alive:
        raise FileExistsError(
            f"{out} holds a search that is {run.state} (process {run.status().pid}): attach to it, "
            "or choose another folder"
        )
    # What an earlier run left stays, unless the caller says otherwise.
    there = [file for file in (SEARCH, *SEARCHED, *WRITTEN) if (out / file).exists()]
    # Of another program's run only its own files are taken over.
    may_resume = resume and set(there) <= set(SEARCHED) and there != [NETWORK]
    if there and not (overwrite or may_resume):
        raise FileExistsError(
            f"{out} holds a run already ({there[0]}): attach to it and resume it, overwrite it, or "
            "choose another folder"
        )


def plain(**arguments: Any) -> dict:
    """Return the arguments of a search as JSON has them, so that two searches can be compared.

    >>> plain(target=16)["target"]
    {'weights': 16.0, 'activations': None, 'activation_bits': 8}

    Args:
        arguments: see `Arguments`.

    Returns:
        All arguments, checked, with absolute paths, and the `model_folder` that an own network is
        imported from.

    Raises:
        TypeError: for other names.
        ValueError: for bad values.
        FileNotFoundError: for weights that are not there.
    """
    # Names that a search does not take.
    known = [part.name for part in fields(Arguments)]
    if unknown := sorted(arguments.keys() - set(known)):
        raise TypeError(f"a search takes {', '.join(known)}; got {', '.join(unknown)}")
    given = Arguments(**arguments)
    # A network of ours must exist; an own one is imported by the process.
    model, data = str(given.model), str(given.data)
    is_own = ":" in model
    if not is_own and model not in models.names():
        # Its error says which names are near.
        models.build(model)

    # Without weights, those that come with the package.
    weights = given.weights
    shelf = SHIPPED / f"{data}_{model}.safetensors"
    if weights is None and data in NAMES and shelf.exists():
        weights = shelf
    # Weights must be there.
    if weights is not None and not Path(weights).expanduser().is_file():
        raise FileNotFoundError(f"there is no weights file {weights}")

    # Mappings and names become objects, which check their values.
    target, space = given.target, given.space or SearchSpace()
    if isinstance(target, Mapping):
        target = Target(**target)
    elif not isinstance(target, Target):
        target = Target(weights=target)
    if isinstance(space, Mapping):
        space = SearchSpace(**space)
    target.check_reachable(space)
    settings = _settings(given.settings, preset_for(Path(data).name))

    # All of it as JSON has it, with absolute paths.
    job = vars(given) | {
        "model": model,
        "model_folder": _folder(model) if is_own else None,
        "data": data if data in NAMES else _absolute(data),
        "weights": _absolute(weights),
        "root": _absolute(given.root),
        "target": asdict(target),
        "space": {"bits": list(space.bits), "thresholds": space.thresholds},
        "settings": asdict(settings),
        "device": str(given.device),
    }
    return json.loads(json.dumps(job))


def _settings(given: Settings | Mapping | str | None, fallback: str) -> Settings:
    """Return settings, from a preset's name or from changes of a preset."""
    # Settings are complete, a mapping changes a preset, a name is a preset.
    if isinstance(given, Settings):
        return given
    if isinstance(given, Mapping):
        changes = dict(given)
        return preset(changes.pop("preset", fallback), **changes)
    return preset(given or fallback)


def _absolute(path: Path | str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path else None


def _folder(model: str) -> str | None:
    """Return the folder from which "package.module:function" is imported here, else None."""
    # Python knows from where it would import the outermost package.
    name = model.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        # No name at all, or a module that was made by hand.
        return None
    if spec is None or name == "__main__":
        return None

    # A package has folders, a module has a file; what is built into Python has neither.
    packages = list(spec.submodule_search_locations or [])
    place = packages[0] if packages else spec.origin if spec.has_location else None
    return None if place is None else str(Path(place).resolve().parent)


def foreign_code(job: Mapping) -> str | None:
    """Return in words which code a search runs that is no part of hmq_lab; None for none.

    >>> foreign_code({"model": "nets:small", "model_folder": "/received"})
    'the function small of the module nets, imported from /received'
    >>> foreign_code({"model": "resnet20"})

    Args:
        job: the arguments of a search, as `plain` returns them.
    """
    # A name without a colon is a network of ours.
    module, colon, function = job["model"].partition(":")
    if not colon:
        return None
    folder = job.get("model_folder") or "the import path"
    return f"the function {function} of the module {module}, imported from {folder}"


class Run:
    """A search in a folder, whoever started it.

    >>> run = Run.attach("runs/mine")                                     # doctest: +SKIP
    >>> run.state, run.message                                            # doctest: +SKIP
    ('failed', 'FileNotFoundError: no CIFAR10 in ...')

    Several programs may look at one search; each request is a word in a file.

    Args:
        out: the folder.
        trust: whether to run the code of an own network that the folder names.
    """

    def __init__(self, out: Path | str, trust: bool = False):
        self.out = Path(out).resolve()
        self.trust = trust
        # Of the events: number of the file, lines read, bytes read.
        self._read = (0, 0, 0)

    @classmethod
    def attach(cls, out: Path | str, trust: bool = False) -> Run:
        """Return the run in a folder; a finished one need not have been started from here.

        Raises:
            FileNotFoundError: where there is none.
        """
        # A run of another program has a record and no arguments.
        run = cls(out, trust)
        if not any((run.out / file).exists() for file in (SEARCH, RECORD)):
            raise FileNotFoundError(f"{out} holds no search: start one there")
        return run

    @property
    def state(self) -> str:
        """The state: starting, running, paused, interrupted, finished or failed."""
        return self.status().state

    @property
    def message(self) -> str:
        """Why it failed or ended, else the empty string."""
        return self.status().message

    @property
    def wish(self) -> str:
        """The last request: run, pause or stop."""
        # Any other word is none.
        with suppress(FileNotFoundError):
            word = (self.out / WISH).read_text(encoding="utf-8", errors="replace")
            if word in WISHES:
                return word
        return "run"

    @property
    def arguments(self) -> dict | None:
        """What is searched, as `plain` returns it; None where another program searched.

        Raises:
            ValueError: naming the file, where it holds something else.
        """
        try:
            return read(self.out / SEARCH, SEARCH_SHAPE, "description of a search")
        except FileNotFoundError:
            return None

    def status(self) -> Status:
        """Return what the process says; where there is no process any more, what that means."""
        # A finished run has a record and no checkpoint.
        done = (self.out / RECORD).exists() and not (self.out / CHECKPOINT).exists()
        try:
            status = Status.read(self.out / STATUS)
        except FileNotFoundError:
            return Status("finished" if done else "interrupted")
        # The process said how it ended, or it is there.
        if status.state not in ALIVE or start_time(status.pid) == status.start_time:
            return status

        # It said more before it ended, or there is another process by now.
        with suppress(FileNotFoundError):
            if Status.read(self.out / STATUS) != status:
                return self.status()

        # It ended without its last word: between its record and that word,
        if done:
            return dataclasses.replace(status, state="finished")
        # or before it could say what was wrong (the log may tell),
        if status.state == "starting":
            text = (self.out / LOG).read_text(encoding="utf-8", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            said = lines[-1] if lines else "nothing in its log"
            message = f"the process ended: {said}"
            return dataclasses.replace(status, state="failed", message=message)
        # or it was killed.
        message = (
            f"process {status.pid} is gone (killed, or the machine was restarted): "
            "resume goes on from what it saved"
        )
        return dataclasses.replace(status, state="interrupted", message=message)

    def is_alive(self) -> bool:
        """Return whether the search has a process."""
        return (self.out / STATUS).exists() and self.state in ALIVE

    def pause(self) -> None:
        """Finish the step, save, and wait: the process keeps its memory and uses no processor."""
        self._ask("pause")

    def interrupt(self) -> None:
        """Finish the step, save, and end the process."""
        self._ask("stop")

    def resume(self, trust: bool = False) -> None:
        """Go on: after a pause in the same process, else in a new one, from what was saved.

        Args:
            trust: whether to run the code of an own network that the folder names. A run that was
                started from here is trusted.

        Raises:
            ValueError: where there is nothing to resume, and for code that is not trusted.
        """
        # Trust holds for this object from now on.
        self.trust = self.trust or trust
        with locked(self.out):
            # A process that waits goes on.
            if self.is_alive():
                self._wish("run")
                return
            # Only an interrupted or failed search can be resumed.
            if self.state == "finished":
                said = f"the search in {self.out} is finished: there is nothing to resume"
                raise ValueError(said)
            job = self.arguments
            if job is None:
                raise ValueError(
                    f"{self.out} does not say what is searched: start it there with resume=True"
                )
            check_trust(job, self.out, self.trust)
            self.launch()

    def follow(self, since: int = 0) -> list[dict]:
        """Return the events from number `since` on; only what is new is read.

        >>> events += run.follow(len(events))                             # doctest: +SKIP

        A search that was killed repeats some steps when it is resumed, and has the same events
        with the same numbers again. Until it is where it was, nothing is new.

        Raises:
            ValueError: naming the file and the line, for a line that is no event.
        """
        # Before the first event there is no file.
        path = self.out / EVENTS
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            # Go on where we stopped, unless the file is another one.
            number = os.fstat(file.fileno()).st_ino
            known, count, place = self._read
            if number != known or count > since:
                count = place = 0
            file.seek(place)
            text = file.read()

        # The last line may be half written.
        text = text[: text.rfind(b"\n") + 1]
        lines = text.splitlines()
        self._read = number, count + len(lines), place + len(text)
        first = max(0, since - count)
        return [_event(line, path, count + i) for i, line in enumerate(lines[first:], first + 1)]

    def record(self, events: list[dict] | None = None) -> Record | None:
        """Return the record of a finished search, before that what is known of it, or None.

        Args:
            events: the events of `follow`, where they are at hand.

        Raises:
            ValueError: naming the file, for a file that is damaged.
        """
        # A finished search has written it.
        if self.state == "finished":
            return records.read(self.out)
        # Before that, the tensors and the events so far.
        try:
            about = read(self.out / TENSORS, TENSORS_SHAPE, "description of tensors")
        except FileNotFoundError:
            return None
        found = self.follow() if events is None else events
        return Record(about["header"], about["tensors"], about["floats"], found)

    def launch(self) -> None:
        """Start the process. The caller holds the lock of the folder and has checked the code."""
        # An old request must not stop the new process.
        self._wish("run")
        job = self.arguments or {}

        # First this package, so that nothing replaces it. Then the folder of an own network,
        # before the path of the caller, where another module may have its name.
        folders = [str(Path(__file__).parents[2])]
        if foreign_code(job) and job.get("model_folder"):
            folders.append(job["model_folder"])
        paths = [str(Path(path).resolve()) for path in folders + sys.path]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

        # In a session of its own, the search survives the end of a notebook's kernel.
        command = [sys.executable, "-m", "hmq_lab.runs.live_worker", str(self.out)]
        command += ["--trust"] if self.trust else []
        with (self.out / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                creationflags=WINDOWS_FLAGS,
                env=environment,
            )
        # Say that it starts, before it can say so itself.
        status = Status("starting", pid=process.pid, start_time=start_time(process.pid) or "")
        write(self.out / STATUS, asdict(status))
        # So that no zombie stays.
        threading.Thread(target=process.wait, daemon=True).start()

    def _ask(self, wish: str) -> None:
        if self.is_alive():
            self._wish(wish)

    def _wish(self, wish: str) -> None:
        with replacing(self.out / WISH) as temporary:
            temporary.write_text(wish, encoding="utf-8")


def _event(line: bytes, path: Path, number: int) -> dict:
    """Return the event on a line of a file."""
    where = f"line {number} of {path}"
    event = records.parse_json(line, where)
    if said := misfit(event, EVENT_SHAPE):
        raise ValueError(f"{where} is no event: {said}")
    return event


def check_trust(job: Mapping, out: Path, trust: bool) -> None:
    """Raise ValueError where a folder names code that is no part of hmq_lab, without trust.

    Args:
        job: the arguments of the search in the folder, as `plain` returns them.
        out: the folder.
        trust: whether that code may run.
    """
    # Say which code would run before it runs.
    code = foreign_code(job)
    if code and not trust:
        raise ValueError(
            f"{out / SEARCH} would run code that is no part of hmq_lab, {code}: resume with "
            "trust=True (--trust) if you know that code"
        )


def start_time(pid: int) -> str | None:
    """Return when a process started, as the system says it; None where there is no process.

    >>> start_time(os.getpid()) == start_time(os.getpid())
    True
    """
    # macOS and Windows have no /proc.
    if not Path("/proc/self/stat").exists():
        return _start_time_elsewhere(pid)
    # Linux counts from the start of the machine, so the start is part of the answer.
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None

    # The name of the process, in brackets, may hold spaces. A zombie counts as gone.
    state, *numbers = text.rpartition(")")[2].split()
    if state in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {numbers[18]}"


def _start_time_elsewhere(pid: int) -> str | None:
    """Return when a process started on a system without /proc; None where there is no process."""
    try:
        import psutil
    except ImportError as error:
        said = "a search in a process of its own needs psutil: pip install hmq_lab[lab]"
        raise ImportError(said, name=error.name) from error
    # A zombie counts as gone.
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return repr(process.create_time())
    except psutil.NoSuchProcess:
        return None


def write(path: Path, content: dict) -> None:
    """Write an object as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path, shape: dict, what: str) -> dict:
    """Return the object in a JSON file.

    Args:
        path: the file.
        shape: what it must hold, see `shapes`.
        what: the word for it in messages.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming the file, for another content.
    """
    content = read_json(path)
    if said := misfit(content, shape):
        raise ValueError(f"{path} is no {what}: {said}")
    return content
