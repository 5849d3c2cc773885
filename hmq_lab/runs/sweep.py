"""A sweep: searches for several targets and seeds, one after another, and a table of them.

>>> runs = plan("cifar10-resnet20", [Target(8), Target(14)], seeds=(0, 1))
>>> [run.name for run in runs][:3]
['cifar10-resnet20-w8-a8', 'cifar10-resnet20-w8-a8-s1', 'cifar10-resnet20-w14-a8']
>>> rows = sweep(runs, one, "runs/cifar10")             # doctest: +SKIP
>>> print(table(rows))                                  # doctest: +SKIP

`one(run, folder)` is a function that searches; see `hmq_lab.commands.sweep`.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hmq_lab.budget import Target
from hmq_lab.data.files import read_json, replacing
from hmq_lab.data.tables import columns
from hmq_lab.runs import records
from hmq_lab.runs.records import Record
from hmq_lab.runs.runner import RECORD
from hmq_lab.runs.shapes import misfit

SHEET = "sweep.json"
# The status of a run that leaves nothing to do.
GOOD = ("complete", "recorded")
# Of `Rates`, in the table.
COLUMNS = ("weights", "all_weights", "checkpoint", "activations")


@dataclass(frozen=True)
class Run:
    """One search of a sweep.

    Args:
        name: the name of its folder.
        target: what it must reach.
        seed: its seed.
    """

    name: str
    target: Target
    seed: int


def plan(
    base: str, targets: Sequence[Target], seeds: Sequence[int] = (0,), hardware: bool = False
) -> list[Run]:
    """Return a run for each target and seed, named like the records of the package.

    >>> plan("builtin-tiny_resnet8", [Target(8, activations=8)], seeds=(3,))[0].name
    'builtin-tiny_resnet8-w8-acr8-s3'

    Args:
        base: the beginning of every name.
        targets: the targets, in order.
        seeds: the seeds of each target.
        hardware: whether the searches are in hardware mode.

    Raises:
        ValueError: where two runs would be the same.
    """
    # A name says what differs from run to run.
    runs = []
    for target in targets:
        activations = f"a{target.activation_bits}"
        if target.activations is not None:
            activations = f"acr{target.activations:g}"
        for seed in seeds:
            name = f"{base}-w{target.weights:g}-{activations}"
            name += f"-s{seed}" if seed else ""
            name += "-hardware" if hardware else ""
            runs.append(Run(name, target, seed))

    # Two runs of one name would be the same run.
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        said = ", ".join(twice)
        raise ValueError(f"a sweep takes each target and seed once, got twice: {said}")
    return runs


def sweep(
    runs: Iterable[Run],
    search: Callable[[Run, Path], bool],
    out: Path | str,
    options: dict | None = None,
    overwrite: bool = False,
    told: Callable[[str], None] = print,
) -> list[dict]:
    """Do the runs in order, each in the folder of its name, and return a row for each.

    All rows, with those of earlier sweeps, are in sweep.json after each run.

    Args:
        runs: the runs.
        search: called with a run and its folder; it writes record.json there and returns whether
            the target was reached. Where it returns and there is no record, it was interrupted and
            the sweep ends. Where it raises, the run failed and the next run follows. It is called
            also where a record is there: it must compare the configurations.
        out: the folder of all runs.
        options: what all runs have in common. A sweep with others is refused in this folder.
        overwrite: whether to do these runs anew; rows of a sweep with other options are removed.
        told: called with a line after each run.

    Returns:
        A row for each run that began: `name`, `target`, `activation_bits`, `activations`, `seed`,
        `status` and, from a record, `rates`, `accuracy` (test, float_test) and `minutes`. The
        status is complete, recorded (before this sweep), missed (below its target), interrupted,
        or with a `reason` refused (bad input) or failed.

    Raises:
        ValueError: for other options, and where all runs are refused for one reason.
    """
    # As JSON has the options: a later sweep compares them with the file.
    out = Path(out)
    runs = list(runs)
    options = json.loads(json.dumps(options or {}))
    sheet = _Sheet(out / SHEET, options, overwrite)
    rows: list[dict] = []
    untold: list[str] = []

    # A line is told when its row is in the file.
    for number, run in enumerate(runs, 1):
        row = _row(run, search, out / run.name)
        rows.append(row)
        untold.append(f"{number} of {len(runs)}: {run.name}: {_said(row)}")

        # Where all runs so far are refused, the input may be bad for all: write nothing yet.
        if any(row["status"] != "refused" for row in rows):
            sheet.write(rows)
            _tell(told, untold)
        if row["status"] == "interrupted":
            break

    # All runs were refused: for one reason that is an error, for several a result.
    if untold:
        if len({row["reason"] for row in rows}) == 1:
            raise ValueError(rows[0]["reason"])
        sheet.write(rows)
        _tell(told, untold)
    return rows


def _tell(told: Callable[[str], None], lines: list[str]) -> None:
    """Call `told` with each line, and forget it."""
    while lines:
        told(lines.pop(0))


class _Sheet:
    """The file of all rows, those of earlier sweeps among them.

    Args:
        path: the file.
        options: what all runs have in common.
        overwrite: whether rows of other options, and measured rows of repeated runs, are removed.

    Raises:
        ValueError: for a file of other options, or that no sweep wrote.
    """

    def __init__(self, path: Path, options: dict, overwrite: bool):
        self.path, self.options, self.overwrite = path, options, overwrite
        self.earlier = _earlier(path, options, overwrite)

    def write(self, rows: list[dict]) -> None:
        """Write the earlier rows of other runs, then these rows."""
        names = {row["name"] for row in rows}
        others = [row for row in self.earlier if row["name"] not in names]

        # A run that is refused or fails leaves the record of an earlier one: so its row stays.
        measured_before = {row["name"]: row for row in self.earlier if "rates" in row}
        kept = []
        for row in rows:
            replaces = "rates" in row or self.overwrite
            kept.append(row if replaces else measured_before.get(row["name"], row))

        # One row to a line.
        lines = ",\n".join(json.dumps(row) for row in others + kept)
        text = f'{{"options": {json.dumps(self.options)},\n"runs": [\n{lines}\n]}}\n'
        with replacing(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _earlier(sheet: Path, options: dict, overwrite: bool) -> list[dict]:
    """Return the rows of earlier sweeps with the same options."""
    # A first sweep has nothing before it.
    if not sheet.exists():
        return []
    # What a sweep writes has options, and rows with names.
    found = read_json(sheet)
    if said := misfit(found, {"options": dict, "runs": [{"name": str}]}):
        raise ValueError(f"{sheet} is not what a sweep writes: {said}")
    before, rows = found["options"], found["runs"]

    # Runs of other options cannot stand in one table with these.
    keys = sorted(before.keys() | options.keys())
    different = [key for key in keys if before.get(key) != options.get(key)]
    if different and overwrite:
        return []
    if different:
        parts = [f"{key}: {before.get(key)} there, {options.get(key)} here" for key in different]
        said = "; ".join(parts)
        raise ValueError(
            f"{sheet} is of a sweep of another configuration ({said}): choose another folder for this one"
        )
    return rows


def _row(run: Run, search: Callable[[Run, Path], bool], folder: Path) -> dict:
    """Do one run and return its row."""
    # What was asked for is in every row.
    row = {
        "name": run.name,
        "target": run.target.weights,
        "activation_bits": run.target.activation_bits,
        "activations": run.target.activations,
        "seed": run.seed,
    }
    # Bad input is refused, a fault of the search is a failure.
    was_there = (folder / RECORD).exists()
    try:
        reached = search(run, folder)
        if not (folder / RECORD).exists():
            return row | {"status": "interrupted"}
        record = records.read(folder)
    except (ValueError, OSError) as error:
        return row | {"status": "refused", "reason": " ".join(str(error).split())}
    except Exception as error:
        # Whatever it is, the other runs may still succeed.
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}"
        reason = " ".join(f"{error} ({place})".split())
        return row | {"status": "failed", "reason": reason}

    # The search returned and there is a record.
    row |= measured(record)
    if not reached:
        return row | {"status": "missed"}
    return row | {"status": "recorded" if was_there else "complete"}


def measured(record: Record) -> dict:
    """Return what a sweep's table shows of a record.

    >>> measured(records.recorded("builtin-tiny_resnet8-w8-a8"))["accuracy"]
    {'test': 93.85, 'float_test': 94.1}

    Returns:
        `rates`, `accuracy` (test, float_test), and `minutes`.
    """
    # A sweep's table shows minutes.
    accuracy = record.accuracy
    minutes = record.timing.get("seconds", 0) / 60
    return {
        "rates": asdict(record.rates),
        "accuracy": {"test": accuracy.test, "float_test": accuracy.float_test},
        "minutes": round(minutes, 2),
    }


def _said(row: dict) -> str:
    """Return a row in a line."""
    # Without a record there is only the status.
    if "reason" in row:
        return f"{row['status']}: {row['reason']}"
    if "rates" not in row:
        return row["status"]
    found = row["accuracy"]
    return (
        f"{row['status']}: weights {row['rates']['weights']:.2f} times smaller, "
        f"test accuracy {found['test']:.2f} %, float {found['float_test']:.2f} %"
    )


def table(rows: Sequence[dict]) -> str:
    """Return the rows of a sweep as text.

    >>> row = {"name": "net-w8-a8", "target": 8.0, "seed": 0, "status": "interrupted"}
    >>> print(table([row]))                                # doctest: +ELLIPSIS
    run        target  seed  weights  all weights  checkpoint  activations  test %  float %  ...
    net-w8-a8  8       0     -        -            -           -            -       -        ...
    """
    # The four compressions, then accuracies and time.
    titles = [name.replace("_", " ") for name in COLUMNS]
    lines = [("run", "target", "seed", *titles, "test %", "float %", "minutes", "status")]
    for row in rows:
        # A run without a record has a row, too.
        cells = ["-"] * 7
        if "rates" in row:
            cells = [f"{row['rates'][name]:.2f}" for name in COLUMNS]
            cells += [f"{row['accuracy'][key]:.2f}" for key in ("test", "float_test")]
            cells += [f"{row['minutes']:.1f}"]
        lines.append((row["name"], f"{row['target']:g}", str(row["seed"]), *cells, row["status"]))
    return columns(lines)
