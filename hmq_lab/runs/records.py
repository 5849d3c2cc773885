"""Run records: what a search did, in one JSON file. They are written, read and checked here."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hmq_lab import budget
from hmq_lab.budget import Rates
from hmq_lab.data.files import digest, read_json, replacing
from hmq_lab.data.tables import columns
from hmq_lab.placement import placements
from hmq_lab.runs.shapes import misfit
from hmq_lab.settings import complete

# The version of the file format.
SCHEMA = 1
RECORDED = Path(__file__).parent / "recorded"
# The kinds of events.
KINDS = {"step", "tables", "epoch", "repair"}

# What the JSON of a record must hold; a run that is not complete need not have all of it.
TARGET = {"weights": float, "activations": (float, None), "activation_bits": (int, None)}
SPACE = {"bits": [int, ...], "thresholds": int}
RATES = {part.name: float for part in fields(Rates)}
HEADER = {
    "schema": int,
    "model": str,
    "data": str,
    "normalize?": str,
    "target": TARGET,
    "space": SPACE,
    "seed": int,
    "hardware_mode?": bool,
    "settings": dict,
    "picture?": [int, ...],
    "hardware": {...: (str, int, None)},
}
TENSOR = {
    "name": str,
    "kind": str,
    "size": int,
    "signed": bool,
    "bits": int,
    "threshold_exponent": int,
    "space": {"bits": [int, ...], "exponents": [int, ...]},
    "bits_before_repair": int,
}
SHAPE = {
    "header": HEADER,
    "tensors": [TENSOR],
    "floats": [{"name": str, "kind": str, "size": int, "reason": str, "role?": str}],
    "events": [{"kind": str, "step": int}],
    "results": {
        "status": str,
        "target": TARGET,
        "accuracy": {...: (float, None)},
        "rates_before_repair?": RATES,
        "rates": RATES,
    },
    "timing": {"seconds?": float, "epochs?": [dict]},
}

# Below this part of the target, the repair, not the search, chose the bits.
SHORT = 0.9

# Records of earlier versions have no roles. In them these reasons stand for a role.
OLD_ROLES = {
    "output of the network": "output",
    "input picture": "input",
    "input picture: float in the paper's method": "input",
}


@dataclass(frozen=True)
class Accuracy:
    """Accuracies of a run, in percent. None where the run did not come so far.

    Args:
        float_validation: the float network on the validation images.
        float_test: the float network on the test images.
        after_search: the selection at the end of stage 1, on the validation images.
        validation: the fine-tuned network on the validation images.
        test: the fine-tuned network on the test images.
    """

    float_validation: float | None = None
    float_test: float | None = None
    after_search: float | None = None
    validation: float | None = None
    test: float | None = None


@dataclass
class Record:
    """What a run did. All but `timing` repeats for the same configuration on the same machine.

    >>> record = recorded("builtin-tiny_resnet8-w8-a8")
    >>> round(record.rates.weights, 2), record.accuracy.test
    (8.02, 93.85)
    >>> [(t["name"], t["bits"]) for t in record.tensors if t["kind"] == "weight"][0]
    ('conv1.weight', 8)
    >>> record.of("step")[0]["kind"]
    'step'

    Args:
        header: schema, versions, hardware, and the configuration: model, data, target, space,
            settings, seed.
        tensors: one entry for each quantized tensor: name, kind, layer, shape, size, signed, bits,
            threshold_exponent, bits_before_repair, and the `space` (bits, exponents) of its choice.
        floats: one entry for each other tensor: name, kind, size, and the reason.
        events: in order, each with `kind` and `step`, the number of steps before it. The kinds are
            "step" (losses, compressions, temperature), "tables" (the probabilities of every block),
            "epoch" (accuracies and compressions) and "repair".
        results: status, target, accuracy, rates; `rates` and `accuracy` read them.
        timing: when it started, seconds, seconds of each epoch.
    """

    header: dict
    tensors: list[dict] = field(default_factory=list)
    floats: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    results: dict = field(default_factory=dict)
    timing: dict = field(default_factory=dict)

    @property
    def rates(self) -> Rates:
        """What the final selection saves, in the shape of `budget.rates(model)`.

        Raises:
            ValueError: for a run that has no selection yet.
        """
        if "rates" not in self.results:
            raise ValueError(f"a run that is {self.results.get('status')} has no compressions")
        return Rates(**self.results["rates"])

    @property
    def rates_before_repair(self) -> Rates | None:
        """What the selection saved at the end of stage 1; None before that."""
        # Stage 1 may not have ended.
        found = self.results.get("rates_before_repair")
        return None if found is None else Rates(**found)

    @property
    def accuracy(self) -> Accuracy:
        """The accuracies that were measured, in percent."""
        found = self.results.get("accuracy", {})
        # Another version may have measured more.
        known = {part.name for part in fields(Accuracy)}
        return Accuracy(**{key: value for key, value in found.items() if key in known})

    @property
    def is_complete(self) -> bool:
        """Whether the run reached its end."""
        return self.results.get("status") == "complete"

    def of(self, kind: str) -> list[dict]:
        """Return the events of one kind.

        Raises:
            ValueError: for a kind that does not exist.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
        return [event for event in self.events if event["kind"] == kind]


def role(entry: dict) -> str | None:
    """Return the role of a tensor of a record, such as "input" or "output".

    >>> role({"name": "linear", "reason": "output of the network"})
    'output'

    Args:
        entry: one of `tensors` or `floats` of a record.

    Returns:
        The role, also for records of earlier versions; None where neither says it.
    """
    return entry.get("role") or OLD_ROLES.get(entry.get("reason", ""))


def describe(model: nn.Module) -> tuple[list[dict], list[dict]]:
    """Return `tensors` and `floats` of a record, from an attached network."""
    # Quantized tensors, with their schemes.
    tensors = []
    for place, scheme in budget.schemes(model):
        entry = {
            "name": place.name,
            "kind": place.kind,
            "layer": place.layer,
            "shape": list(place.shape),
            "size": place.size,
            "signed": scheme.signed,
            "bits": scheme.bits,
            "threshold_exponent": scheme.threshold_exponent,
        }
        tensors.append(entry | _role_of(place))

    # All other tensors, with the reason.
    floats = []
    for place in placements(model):
        if not place.quantized:
            keys = ("name", "kind", "layer", "size", "reason")
            floats.append({key: getattr(place, key) for key in keys} | _role_of(place))
    return tensors, floats


def _role_of(place) -> dict[str, str]:
    found = getattr(place, "role", None)
    return {"role": found} if found else {}


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    # Python first, then the libraries.
    found = {"python": platform.python_version()}
    for name in ("hmq_lab", "torch", "torchvision", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from a checkout"
    return found


def hardware(device: torch.device | str = "cpu") -> dict:
    """Return what identifies the machine of a result."""
    # A GPU has a name of its own.
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "device": name,
    }


def _processor() -> str:
    # Linux knows the name of the processor, other systems perhaps.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def write(record: Record, path: Path) -> None:
    """Write a record as JSON, an event to a line, with the SHA-256 of all but `timing`.

    Args:
        record: the record.
        path: the file; it is whole or as it was before.
    """
    # The timing differs from run to run: it has no part in the digest.
    parts = asdict(record)
    timing = parts.pop("timing")
    sha = digest(parts)

    # The long lists have an entry to a line, so that a difference of two records can be read.
    lines = []
    for key in ("header", "results"):
        lines.append(f'"{key}": {json.dumps(parts[key])}')
    for key in ("tensors", "floats", "events"):
        rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in parts[key])
        lines.append(f'"{key}": [\n{rows}\n]')
    lines.append(f'"timing": {json.dumps(timing)}')
    lines.append(f'"sha256": "{sha}"')

    # Write all or nothing.
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes, where: Path | str) -> Any:
    """Return what a JSON text says.

    >>> parse_json("[" * 200_000, "notes.json")
    Traceback (most recent call last):
    ValueError: notes.json is no JSON: it is nested too deep

    Args:
        text: the text.
        where: what the error calls it.

    Raises:
        ValueError: in one line, for what is no JSON or is nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} is no JSON: it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error


def read(path: Path | str) -> Record:
    """Return the record in a file, or in the record.json of a folder.

    Raises:
        FileNotFoundError: where there is no record.
        ValueError: naming the file and the fault: no JSON, another schema, altered.
    """
    # A folder stands for the record in it.
    path = Path(path)
    path = path / "record.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no record at {path}")
    content = read_json(path)

    # The parts are there and the schema is known.
    parts = {part.name for part in fields(Record)}
    is_record = isinstance(content, dict) and parts <= content.keys()
    if not is_record or not isinstance(content["header"], dict):
        raise ValueError(f"{path} is no record: it must hold {', '.join(sorted(parts))}")
    schema = content["header"].get("schema")
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, this version reads {SCHEMA}")

    # All but the timing is what was written; the timing has no digest.
    sha = content.pop("sha256", None)
    if sha != digest({key: value for key, value in content.items() if key != "timing"}):
        raise ValueError(f"{path} was altered: its content does not have the SHA-256 it states")
    results = content["results"]
    is_complete = isinstance(results, dict) and results.get("status") == "complete"
    if said := misfit(content, SHAPE, partial=not is_complete):
        raise ValueError(f"{path} is no record: {said}")

    # Settings of earlier versions have other names.
    if "settings" in content["header"]:
        content["header"]["settings"] = complete(content["header"]["settings"])
    return Record(**{key: content[key] for key in parts})


def names(beginning: str = "") -> tuple[str, ...]:
    """Return the names of the records that come with the package, sorted.

    >>> names("builtin")
    ('builtin-tiny_resnet8-w8-a8',)
    """
    found = (path.stem for path in RECORDED.glob("*.json"))
    return tuple(sorted(name for name in found if name.startswith(beginning)))


def recorded(name: str) -> Record:
    """Return a record that comes with the package.

    >>> round(recorded("cifar10-resnet20-w16-a8").rates.weights, 3)
    16.014

    Raises:
        ValueError: naming the records there are.
    """
    # Only names, so that no path leads out of the package.
    there = names()
    if name not in there:
        said = ", ".join(there)
        raise ValueError(f"no record {name!r} comes with hmq_lab: there are {said}")
    return read(RECORDED / f"{name}.json")


def matching(**header) -> dict[str, Record]:
    """Return the records of the package with these values in their headers, by name.

    >>> list(matching(data="cifar10", model="resnet20"))[0]
    'cifar10-resnet20-w8-a8'
    >>> list(matching(model=lambda model: "mobilenet" in model))
    ['imagenette160-mobilenet_v2-w8-acr8']

    Args:
        header: a key and its value, or a function that says whether the value fits. A key that a
            header does not have counts as None.

    Returns:
        {name: record}, smaller targets first.
    """

    def fits(record: Record) -> bool:
        # A function decides by itself, any other value must be equal.
        for key, want in header.items():
            found = record.header.get(key)
            if not (want(found) if callable(want) else found == want):
                return False
        return True

    def place(name: str) -> tuple:
        # Smaller targets first, then seeds.
        about = every[name].header
        return about["target"]["weights"], about["seed"], name

    every = {name: recorded(name) for name in names()}
    return {name: every[name] for name in sorted(every, key=place) if fits(every[name])}


def within(folder: Path | str) -> dict[str, Record]:
    """Return the records in the folders of a folder, as a sweep leaves them, by name.

    >>> within("runs/sweep-cifar10-resnet20")                        # doctest: +SKIP

    Raises:
        FileNotFoundError: where no folder holds a record.
    """
    # A sweep has a folder for each run.
    paths = sorted(Path(folder).glob("*/record.json"))
    if not paths:
        raise FileNotFoundError(f"no folder in {folder} holds a record.json")
    return {path.parent.name: read(path) for path in paths}


def label(record: Record) -> str:
    """Return a record in a few words: its target, and what else tells it from others.

    >>> label(recorded("cifar10-resnet20-w16-a8"))
    'target 16, seed 0'
    >>> label(recorded("cifar10-resnet20-w14-a8-bits2to8"))
    'target 14, 2 to 8 bits, seed 0'
    >>> label(recorded("cifar10-resnet20-w14-a8-recipe"))
    'target 14, distilled, seed 0'
    """
    # The target is always said.
    target = record.header["target"]
    parts = [f"target {target['weights']:g}"]

    # What differs from 8-bit activations, the paper's method, and 1 to 8 bits.
    if target["activation_bits"] not in (None, 8):
        parts.append(f"{target['activation_bits']}-bit activations")
    if target["activations"] is not None:
        parts.append(f"activation target {target['activations']:g}")
    if record.header.get("hardware_mode"):
        parts.append("hardware mode")
    if record.header.get("settings", {}).get("final_loss") == "distillation":
        parts.append("distilled")
    bits = record.header.get("space", {}).get("bits")
    if bits is not None and bits != list(range(1, 9)):
        is_whole = bits == list(range(bits[0], bits[-1] + 1))
        widths = f"{bits[0]} to {bits[-1]}" if is_whole else ", ".join(map(str, bits))
        parts.append(f"{widths} bits")
    parts.append(f"seed {record.header['seed']}")
    return ", ".join(parts)


def table(record: Record) -> str:
    """Return the schemes, compressions and accuracies of a record as text.

    >>> print(table(recorded("builtin-tiny_resnet8-w8-a8")))         # doctest: +ELLIPSIS
    tensor                 kind        elements  bits  range
    conv1.weight           weight      216       8     signed below 2^2
    ...
    """
    # A row for each quantized tensor.
    rows = [("tensor", "kind", "elements", "bits", "range")]
    for t in record.tensors:
        form = "signed" if t["signed"] else "unsigned"
        bits = str(t["bits"])
        if t["bits_before_repair"] != t["bits"]:
            bits += f" (was {t['bits_before_repair']})"
        limit = f"{form} below 2^{t['threshold_exponent']}"
        rows.append((t["name"], t["kind"], f"{t['size']:,}", bits, limit))
    return columns(rows) + "\n\n" + summary(record)


def summary(record: Record) -> str:
    """Return the compressions, accuracies and cost of a record in a few lines.

    >>> print(summary(recorded("builtin-tiny_resnet8-w8-a8")))       # doctest: +ELLIPSIS
    weights: 8.02 times smaller (target 8); counting all weights 8.02, the whole checkpoint 6.78
    largest activation: 4.00 times smaller
    test accuracy: 93.85 %, float 94.10 % (-0.25)
    time: ...

    A search that ended clearly below its target says so: the repair chose its bits.
    """
    # The compressions of the final selection.
    rates, accuracy = record.rates, record.accuracy
    target = record.results["target"]["weights"]
    lines = [
        f"weights: {rates.weights:.2f} times smaller (target {target:g}); counting all weights "
        f"{rates.all_weights:.2f}, the whole checkpoint {rates.checkpoint:.2f}",
        f"largest activation: {rates.activations:.2f} times smaller",
    ]

    # Of a search that chose next to nothing, say what to change.
    before = record.rates_before_repair
    if before is not None and before.weights < SHORT * target:
        steps = record.of("repair")[0]["step"]
        lines.append(
            f"the search ended at a compression of {before.weights:.2f} after {steps:,} steps; the "
            "repair chose the rest: search longer (more epochs, a smaller batch, or a higher "
            "logit_learning_rate)"
        )

    # Accuracy and time, where they are known.
    if accuracy.test is not None and accuracy.float_test is not None:
        change = accuracy.test - accuracy.float_test
        lines.append(
            f"test accuracy: {accuracy.test:.2f} %, float {accuracy.float_test:.2f} % ({change:+.2f})"
        )
    seconds = record.timing.get("seconds", math.nan)
    if not math.isnan(seconds):
        found = record.header["hardware"]
        machine = ", ".join(str(found[key]) for key in ("device", "processor") if key in found)
        lines.append(f"time: {seconds:.0f} s on {machine}")
    return "\n".join(lines)
