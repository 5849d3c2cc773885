"""Run records: what a search did, in one JSON file; written, read, validated."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from hmq_lab import budget
from hmq_lab.data.files import digest, replacing
from hmq_lab.placement import placements
from hmq_lab.settings import complete

SCHEMA = 1
RECORDED = Path(__file__).parent / "recorded"
KINDS = {"step", "tables", "epoch", "repair"}
SHORT = 0.9  # of the target: a search that ends below that has not chosen the bits, its repair has


@dataclass
class Record:
    """What a run did. Everything but `timing` is the same again for the same configuration on the same machine.

    >>> record = read("runs/builtin/record.json")
    >>> record.results["rates"]["weights"], record.results["accuracy"]["test"]
    >>> [(t["name"], t["bits"]) for t in record.tensors if t["kind"] == "weight"]
    >>> steps = record.of("step")                   # [{"kind": "step", "step": 0, "loss": ..., ...}, ...]

    header: schema, versions, hardware, and the configuration: model, data, target, space, settings, seed, ...
    tensors: of each quantized tensor name, kind, layer, shape, size, signed, bits, threshold_exponent, the `space` it
    was chosen from (bits, exponents), bits before the repair.
    floats: of each other tensor name, kind, size and the reason.
    events, in order, each with `kind` and the `step` it stands after: "step" (losses, rates, temperature), "tables"
    (every block's probabilities), "epoch" (accuracies and rates), "repair". results: rates, accuracies, status.
    """

    header: dict
    tensors: list[dict] = field(default_factory=list)
    floats: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)
    results: dict = field(default_factory=dict)
    timing: dict = field(default_factory=dict)

    def of(self, kind: str) -> list[dict]:
        """The events of one kind."""
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
        return [event for event in self.events if event["kind"] == kind]


def describe(model: nn.Module) -> tuple[list[dict], list[dict]]:
    """`tensors` and `floats` of a record, from an attached network."""
    tensors = []
    for place, scheme in budget.schemes(model):
        tensors.append(
            {
                "name": place.name,
                "kind": place.kind,
                "layer": place.layer,
                "shape": list(place.shape),
                "size": place.size,
                "signed": scheme.signed,
                "bits": scheme.bits,
                "threshold_exponent": scheme.threshold_exponent,
            }
        )
    floats = [
        {"name": p.name, "kind": p.kind, "layer": p.layer, "size": p.size, "reason": p.reason}
        for p in placements(model)
        if not p.quantized
    ]
    return tensors, floats


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("hmq_lab", "torch", "torchvision", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from a checkout"
    return found


def hardware(device: torch.device | str = "cpu") -> dict:
    """The machine that a result was made on."""
    found = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    found["threads"] = torch.get_num_threads()
    found["processor"] = _processor()
    device = torch.device(device)
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def write(record: Record, path: Path) -> None:
    """Write a record as JSON, an event to a line, with the SHA-256 of everything but `timing`."""
    parts = asdict(record)
    timing, events = parts.pop("timing"), parts.pop("events")
    sha = digest({**parts, "events": events})
    lines = [f'"{key}": {json.dumps(value)}' for key, value in parts.items() if key not in ("tensors", "floats")]
    for key, rows in (("tensors", parts["tensors"]), ("floats", parts["floats"]), ("events", events)):
        lines.append(f'"{key}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]")
    lines += [f'"timing": {json.dumps(timing)}', f'"sha256": "{sha}"']
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read(path: Path) -> Record:
    """Read a record, or the record.json in a folder.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong: no JSON, another schema, altered.
    """
    path = Path(path)
    path = path / "record.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no record at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    parts = set(Record.__dataclass_fields__)
    if not isinstance(content, dict) or not parts <= content.keys() or not isinstance(content["header"], dict):
        raise ValueError(f"{path} is no record: it must hold {', '.join(sorted(parts))}")
    if content["header"].get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {content['header'].get('schema')!r}, this version reads {SCHEMA}")
    sha = content.pop("sha256", None)
    if sha != digest({key: value for key, value in content.items() if key != "timing"}):
        raise ValueError(f"{path} was altered: its content does not have the SHA-256 it states")
    if "settings" in content["header"]:  # as this version names them
        content["header"]["settings"] = complete(content["header"]["settings"])
    return Record(**{key: content[key] for key in parts})


def names(beginning: str = "") -> tuple[str, ...]:
    """The records that come with the package, by name, sorted.

    >>> names("builtin")
    ('builtin-tiny_resnet8-w8-a8',)
    """
    return tuple(sorted(path.stem for path in RECORDED.glob("*.json") if path.stem.startswith(beginning)))


def recorded(name: str) -> Record:
    """A record that comes with the package.

    >>> recorded("cifar10-resnet20-w16-a8").results["rates"]["weights"]

    Raises ValueError naming those there are.
    """
    there = names()
    if name not in there:
        raise ValueError(f"no record {name!r} comes with hmq_lab: there are {', '.join(there)}")
    return read(RECORDED / f"{name}.json")


def matching(**header) -> dict[str, Record]:
    """The records that come with the package and have these values in their headers, by name; smaller targets first.

    >>> list(matching(data="cifar10", model="resnet20"))
    ['cifar10-resnet20-w8-a8', ..., 'cifar10-resnet20-w16-a8', ...]

    A value may be a function that says whether it fits: matching(model=lambda model: "mobilenet" in model). A key that
    a header does not have counts as None.
    """

    def fits(record: Record) -> bool:
        found = {key: record.header.get(key) for key in header}
        return all(want(found[key]) if callable(want) else found[key] == want for key, want in header.items())

    every = {name: recorded(name) for name in names()}
    order = sorted(every, key=lambda name: (every[name].header["target"]["weights"], every[name].header["seed"], name))
    return {name: every[name] for name in order if fits(every[name])}


def within(folder: Path) -> dict[str, Record]:
    """The records in the folders of a folder, as a sweep leaves them, by name.

    >>> within("runs/sweep-cifar10-resnet20")

    Raises FileNotFoundError where there is none.
    """
    found = {path.parent.name: read(path) for path in sorted(Path(folder).glob("*/record.json"))}
    if not found:
        raise FileNotFoundError(f"no folder in {folder} holds a record.json")
    return found


def label(record: Record) -> str:
    """A record in a few words: its target, and what else tells it from others.

    >>> label(recorded("cifar10-resnet20-w16-a8"))
    'target 16, seed 0'
    """
    target = record.header["target"]
    activations, bits = target["activations"], target["activation_bits"]
    parts = [f"target {target['weights']:g}"]
    parts += [f"{bits}-bit activations"] if bits not in (None, 8) else []
    parts += [f"activation target {activations:g}"] if activations is not None else []
    parts += ["hardware mode"] if record.header.get("hardware_mode") else []
    bits = record.header.get("space", {}).get("bits")
    if bits not in (None, list(range(1, 9))):
        whole = bits == list(range(bits[0], bits[-1] + 1))
        parts += [(f"{bits[0]} to {bits[-1]}" if whole else ", ".join(map(str, bits))) + " bits"]
    return ", ".join([*parts, f"seed {record.header['seed']}"])


def table(record: Record) -> str:
    """The schemes, rates and accuracies of a record as text.

    >>> print(table(record))
    tensor        kind        elements  bits  range
    conv1.weight  weight           216     8  signed below 2^-1
    ...
    """
    rows = [("tensor", "kind", "elements", "bits", "range")]
    for t in record.tensors:
        form = "signed" if t["signed"] else "unsigned"
        bits = f"{t['bits']}" + (f" (was {t['bits_before_repair']})" if t["bits_before_repair"] != t["bits"] else "")
        rows.append((t["name"], t["kind"], f"{t['size']:,}", bits, f"{form} below 2^{t['threshold_exponent']}"))
    return columns(rows) + "\n\n" + summary(record)


def summary(record: Record) -> str:
    """The rates, accuracies and cost of a record in a few lines.

    >>> print(summary(record))
    weights: 8.02 times smaller (target 8); counting all weights 8.02, the whole checkpoint 6.78
    ...

    A search that ended clearly short of its target says so: its bits are the repair's choice, not the search's.
    """
    rates, target, accuracy = (record.results.get(key, {}) for key in ("rates", "target", "accuracy"))
    lines = [
        f"weights: {rates['weights']:.2f} times smaller (target {target['weights']:g}); counting all weights "
        f"{rates['all_weights']:.2f}, the whole checkpoint {rates['checkpoint']:.2f}",
        f"activations: the largest {rates['activations']:.2f} times smaller",
    ]
    before = record.results.get("rates_before_repair", {}).get("weights", math.inf)
    if before < SHORT * target["weights"]:
        steps = record.of("repair")[0]["step"]
        lines.append(
            f"the search ended at rate {before:.2f} after {steps:,} steps; the repair chose the rest: search longer "
            "(more epochs, a smaller batch, or a higher logit_learning_rate)"
        )
    if "test" in accuracy:
        change = accuracy["test"] - accuracy["float_test"]
        lines.append(f"test accuracy: {accuracy['test']:.2f} %, float {accuracy['float_test']:.2f} % ({change:+.2f})")
    if record.timing:
        hardware = record.header["hardware"]
        machine = ", ".join(hardware[key] for key in ("device", "processor") if key in hardware)
        lines.append(f"time: {record.timing['seconds']:.0f} s on {machine}")
    return "\n".join(lines)


def columns(rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as lines of text, the cells of a column under each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
