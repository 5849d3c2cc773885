"""A sweep: searches for several targets and seeds one after another, a folder and a record each, and a table of all.

>>> runs = plan("cifar10-resnet20", [Target(8), Target(14)], seeds=(0, 1))
>>> [run.name for run in runs]
['cifar10-resnet20-w8-a8', 'cifar10-resnet20-w8-a8-s1', 'cifar10-resnet20-w14-a8', 'cifar10-resnet20-w14-a8-s1']
>>> rows = sweep(runs, one, "runs/cifar10")            # one(run, folder) searches; see `cli_sweep`
>>> print(table(rows))
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hmq_lab.budget import Target
from hmq_lab.data.files import replacing
from hmq_lab.runs import records
from hmq_lab.runs.records import Record
from hmq_lab.runs.runner import RECORD

SHEET = "sweep.json"
GOOD = ("complete", "recorded")  # the status of a run that leaves nothing to do


@dataclass(frozen=True)
class Run:
    """One search of a sweep; its name is its folder's."""

    name: str
    target: Target
    seed: int


def plan(base: str, targets: Sequence[Target], seeds: Sequence[int] = (0,), hardware: bool = False) -> list[Run]:
    """A run for each target and seed, named as the records that come with the package are.

    >>> plan("builtin-tiny_resnet8", [Target(8, activations=8)], seeds=(3,))[0].name
    'builtin-tiny_resnet8-w8-acr8-s3'

    Raises ValueError where two runs would be the same.
    """
    runs = []
    for target in targets:
        bits, rate = target.activation_bits, target.activations
        name = f"{base}-w{target.weights:g}-" + (f"a{bits}" if rate is None else f"acr{rate:g}")
        for seed in seeds:
            more = (f"-s{seed}" if seed else "") + ("-hardware" if hardware else "")
            runs.append(Run(name + more, target, seed))
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"a sweep takes each target and seed once, got twice: {', '.join(twice)}")
    return runs


def sweep(
    runs: Iterable[Run],
    search: Callable[[Run, Path], bool],
    out: Path,
    options: dict | None = None,
    overwrite: bool = False,
    told: Callable[[str], None] = print,
) -> list[dict]:
    """Do the runs in order, each in the folder of its name in `out`; returns a row for each that was begun.

    search: called with a run and its folder, writes record.json there and returns whether the target was reached;
    where it returns and there is no record, it was interrupted, and the sweep ends. What it raises is the run's
    failure, and the next run follows. A record that is there already is handed to it all the same: that it is of the
    same configuration is for it to say. options: what all runs have in common; a sweep with others is refused in this
    folder. overwrite: these runs
    anew, and rows of a sweep with other options go.

    A row has `name`, `target`, `activation_bits`, `activations`, `seed`, `status` and, from a record, `rates`,
    `accuracy` (test, float_test), `minutes`. The status is complete, recorded (before this sweep), missed (below its
    target), interrupted, or with a `reason` refused (bad input) or failed. All rows, with those of earlier sweeps, are
    in sweep.json after each run. Raises ValueError for other options, and where all runs are refused for one reason.
    """
    out, runs, options = Path(out), list(runs), json.loads(json.dumps(options or {}))
    earlier = _earlier(out / SHEET, options, overwrite)
    measured_before = {row["name"]: row for row in earlier if "rates" in row}
    rows: list[dict] = []
    untold: list[str] = []

    def tell() -> None:
        others = [r for r in earlier if r["name"] not in {row["name"] for row in rows}]
        # A run that is refused or fails leaves the record of an earlier one as it was: its row stays, too.
        stand = [r if "rates" in r or overwrite else measured_before.get(r["name"], r) for r in rows]
        lines = ",\n".join(json.dumps(r) for r in others + stand)
        with replacing(out / SHEET) as temporary:
            temporary.write_text(f'{{"options": {json.dumps(options)},\n"runs": [\n{lines}\n]}}\n', encoding="utf-8")
        while untold:
            told(untold.pop(0))

    for number, run in enumerate(runs, 1):
        rows.append(row := _row(run, search, out / run.name))
        untold.append(f"{number} of {len(runs)}: {run.name}: {_said(row)}")
        if any(row["status"] != "refused" for row in rows):  # else the input may be bad for all: nothing is left behind
            tell()
        if row["status"] == "interrupted":
            break
    if untold and len({row["reason"] for row in rows}) == 1:
        raise ValueError(rows[0]["reason"])
    if untold:
        tell()
    return rows


def _earlier(sheet: Path, options: dict, overwrite: bool = False) -> list[dict]:
    """The rows of sweeps before this one, which must have had the same options; overwrite: those with others go."""
    if not sheet.exists():
        return []
    try:
        found = json.loads(sheet.read_text(encoding="utf-8"))
        before, rows = found["options"], found["runs"]
        different = sorted(key for key in before.keys() | options.keys() if before.get(key) != options.get(key))
        _ = [row["name"] for row in rows]
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{sheet} is not what a sweep writes: {error!r}") from error
    if different and overwrite:
        return []
    if different:
        said = "; ".join(f"{key}: {before.get(key)} there, {options.get(key)} here" for key in different)
        raise ValueError(f"{sheet} is of a sweep of another configuration ({said}): choose another folder for this one")
    return rows


def _row(run: Run, search: Callable[[Run, Path], bool], folder: Path) -> dict:
    target = run.target
    row = {"name": run.name, "target": target.weights, "activation_bits": target.activation_bits}
    row |= {"activations": target.activations, "seed": run.seed}
    there = (folder / RECORD).exists()
    try:
        reached = search(run, folder)
        if not (folder / RECORD).exists():
            return row | {"status": "interrupted"}
        record = records.read(folder)
    except (ValueError, OSError) as error:
        return row | {"status": "refused", "reason": " ".join(str(error).split())}
    except Exception as error:  # whatever it is, the runs that are left may still do
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}"
        return row | {"status": "failed", "reason": " ".join(f"{error} ({place})".split())}
    return row | measured(record) | {"status": "missed" if not reached else "recorded" if there else "complete"}


def measured(record: Record) -> dict:
    """Of a record what a sweep's table shows: rates, test accuracy beside the float network's, minutes."""
    accuracy = {key: record.results["accuracy"].get(key) for key in ("test", "float_test")}
    return {
        "rates": record.results["rates"],
        "accuracy": accuracy,
        "minutes": round(record.timing.get("seconds", 0) / 60, 2),
    }


def _said(row: dict) -> str:
    if "rates" not in row:
        return f"{row['status']}: {row['reason']}" if "reason" in row else row["status"]
    found = row["accuracy"]
    text = f"{row['status']}: weights {row['rates']['weights']:.2f} times smaller"
    return text + f", test accuracy {found['test']:.2f} %, float {found['float_test']:.2f} %"


def table(rows: Sequence[dict]) -> str:
    """The rows of a sweep as text.

    >>> print(table(rows))
    run                     target  seed  weights  all weights  checkpoint  activations  test %  float %  minutes  ...
    cifar10-resnet20-w8-a8  8       0     8.00     8.00         7.46        4.00         91.54   91.73    18.3     ...
    """
    names = ("weights", "all_weights", "checkpoint", "activations")
    lines = [("run", "target", "seed", *(n.replace("_", " ") for n in names), "test %", "float %", "minutes", "status")]
    for row in rows:
        cells = ["-"] * 7
        if "rates" in row:
            cells = [f"{row['rates'][name]:.2f}" for name in names]
            cells += [f"{row['accuracy'][key]:.2f}" for key in ("test", "float_test")] + [f"{row['minutes']:.1f}"]
        lines.append((row["name"], f"{row['target']:g}", str(row["seed"]), *cells, row["status"]))
    return records.columns(lines)
