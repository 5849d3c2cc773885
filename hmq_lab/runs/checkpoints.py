"""A checkpoint: all that a search in another process needs to go on as if nothing had happened.

Random numbers are functions of the seed and the step, so that no generator's state is in it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hmq_lab.data.files import read_tensors, write_tensors
from hmq_lab.settings import Settings

STATE = (
    "stage", "epoch", "batch", "loss_sum", "events", "results", "bits_before_repair", "best_accuracy", "timing",
    "compiling",
)  # fmt: skip


def save(run, path: Path) -> None:
    """Write network, best network, optimizer and progress of a run (`stages._Run`), atomically, with a SHA-256."""
    tensors = {f"model/{key}": value for key, value in run.model.state_dict().items()}
    tensors |= {f"best/{key}": value for key, value in run.best.items()}
    optimizer = run.optimizer.state_dict()
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    header = {"configuration": run.configuration, "groups": optimizer["param_groups"]}
    write_tensors(path, tensors, header | {name: getattr(run, name) for name in STATE})


def restore(run, path: Path) -> None:
    """Put a run where the checkpoint was written. Raises ValueError for one that is damaged or of another run."""
    tensors, header = read_tensors(path)
    check_same(run.configuration, header["configuration"], path)
    for name in STATE:
        setattr(run, name, header[name])
    parts: dict[str, dict] = {"model": {}, "best": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, name = key.split("/", 1)
        parts[part][name] = value if part == "optimizer" else value.to(run.device)
    run.model.load_state_dict(parts["model"])
    run.best = parts["best"]
    state: dict[int, dict] = {}
    for key, value in parts["optimizer"].items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    run.saved_optimizer = {"state": state, "param_groups": header["groups"]}


def check_same(wanted: dict, found: dict, path: Path) -> None:
    """Raises ValueError naming what differs between the configuration of a run and that of a file."""
    there = {key: found.get(key) for key in wanted}
    if there.get("settings"):  # a file that is older than a setting was written by its default
        there["settings"] = dataclasses.asdict(Settings()) | there["settings"]
    here, there = _flat(wanted), _flat(there)
    different = [key for key in here | there if here.get(key, ...) != there.get(key, ...)]
    if different:
        said = "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in different)
        raise ValueError(f"{path} is of another configuration ({said})")


def _flat(values: dict) -> dict:
    """Of settings within settings one entry each, so that what differs can be named alone."""
    flat = {}
    for key, value in values.items():
        flat |= {f"{key}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {key: value}
    return flat
