"""A checkpoint: all that a search in another process needs to go on as if nothing had happened.

Random numbers are functions of the seed and the step: no generator has a state to save.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from hmq_lab.data.files import read_tensors, write_tensors
from hmq_lab.settings import complete
from hmq_lab.stages import Progress, Search


def save(search: Search, configuration: dict, kept: dict[str, Any], path: Path) -> None:
    """Write network, best network, optimizer and progress of a search, atomically.

    Args:
        search: a search between two steps.
        configuration: what the run is asked to do; a checkpoint of another one is refused.
        kept: further plain data, which `restore` returns.
        path: of the file, which ends with a SHA-256.
    """
    # Networks first, then what the optimizer remembers of each parameter.
    tensors = {f"model/{key}": value for key, value in search.model.state_dict().items()}
    tensors |= {f"best/{key}": value for key, value in search.best.items()}
    optimizer = search.optimizer.state_dict()
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    header = {"configuration": configuration, "groups": optimizer["param_groups"]}
    write_tensors(path, tensors, header | kept | dataclasses.asdict(search.progress))


def restore(search: Search, configuration: dict, path: Path) -> dict[str, Any]:
    """Put a search where the checkpoint was written; returns the header, with what was `kept`.

    Raises:
        ValueError: the file is damaged, or of another configuration.
    """
    tensors, header = read_tensors(path)
    check_same(configuration, header["configuration"], path)
    # Where it stands.
    names = [field.name for field in dataclasses.fields(Progress)]
    search.progress = Progress(**{name: header[name] for name in names})

    # Tensors are named part/name: of the network, of the best one, of the optimizer.
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, name = key.split("/", 1)
        parts[part][name] = value if part == "optimizer" else value.to(search.device)
    search.model.load_state_dict(parts["model"])
    search.best = parts["best"]

    # The optimizer is built when its stage begins.
    state: dict[int, dict] = {}
    for key, value in parts["optimizer"].items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    search.optimizer_state = {"state": state, "param_groups": header["groups"]}
    return header


def check_same(wanted: dict, found: dict, path: Path) -> None:
    """Refuse a file of another configuration than that of a run.

    A file that is older than a setting was written by what is the setting's default.

    Raises:
        ValueError: names what differs.
    """
    # Compare what this run says of itself; the file may know more.
    there = {key: found.get(key) for key in wanted}
    settings = found.get("settings")
    if settings:
        there["settings"] = complete(settings)
    flat_here, flat_there = _flat(wanted), _flat(there)
    different = [
        key for key in flat_here | flat_there if flat_here.get(key, ...) != flat_there.get(key, ...)
    ]
    if different:
        said = "; ".join(
            f"{key}: {flat_there.get(key)} there, {flat_here.get(key)} here" for key in different
        )
        raise ValueError(f"{path} is of another configuration ({said})")


def _flat(values: dict) -> dict:
    """Flatten nested dicts to dotted keys, so that a difference can be named."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{part}": one for part, one in value.items()}
        else:
            flat[key] = value
    return flat
