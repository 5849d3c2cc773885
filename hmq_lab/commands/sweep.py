"""The command that searches for several targets and seeds: sweep. It takes every option of `search`."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
from pathlib import Path

# Of the options of `search`, those that differ between the runs of a sweep or say where and how a run is shown. What
# weights and pictures hold is checked by each run itself, wherever they lie.
OWN = {
    "command", "warnings", "targets", "seeds", "activations", "target_weights", "target_activations",
    "activation_bits", "seed", "hardware", "data", "model", "weights", "root", "download", "device", "out", "resume",
    "overwrite", "no_figures", "quiet", "accumulate",
}  # fmt: skip
WHY = {
    "missed": "the rate of the weights is below its target",
    "interrupted": "the same command goes on (without --overwrite)",
}


def add(commands, search: argparse.ArgumentParser, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them; search: the parser of that subcommand."""
    made = commands.add_parser(
        "sweep", parents=[search], add_help=False, formatter_class=formatter,
        help="search for several targets and seeds, one after another",
        description="Every option of search, and three that take several values. A run that is recorded is skipped, "
        "one that was interrupted goes on; --resume is implied. Ctrl-C stops the sweep, the same command goes on.",
    )  # fmt: skip
    made.set_defaults(command=sweep, search=search.get_default("command"))
    several = {"metavar": "A,B,...", "default": None}
    made.add_argument("--targets", type=_several(float), help="several of --target-weights", **several)
    made.add_argument("--activations", type=_several(int), help="several of --activation-bits", **several)
    made.add_argument("--seeds", type=_several(int), help="several of --seed", **several)


def _several(kind: type):
    """What argparse calls to read numbers with commas between them."""

    def read(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(f"must be {what} with commas between them, got {text!r}") from None

    return read


def sweep(options: argparse.Namespace) -> int:
    """Exit code 0 if every run is complete and reaches its target."""
    from hmq_lab.budget import Target
    from hmq_lab.commands.main import NETWORK_FOR, BadInput
    from hmq_lab.data.files import check_writable
    from hmq_lab.runs import sweep as sweeps
    from hmq_lab.runs.processes import launched

    if launched():
        raise ValueError("a sweep runs in one process: start each search by itself with accelerate launch")
    if options.activations and (options.activation_bits or options.target_activations):
        raise ValueError("--activations: not allowed with --activation-bits, --target-activations or a preset's target")
    if options.seeds and options.seed:
        raise ValueError("--seeds: not allowed with --seed")
    if bad := [seed for seed in options.seeds or () if not 0 <= seed < 2**63]:
        raise ValueError(f"--seeds: must be whole numbers from 0 to 9223372036854775807, got {bad[0]}")
    targets = [
        Target(rate, options.target_activations, bits)
        for rate in options.targets or [options.target_weights]
        for bits in options.activations or [options.activation_bits]
    ]
    base = f"{Path(options.data).name}-{options.model or NETWORK_FOR.get(options.data, 'mobilenet_v2')}"
    out = options.out or Path("runs") / f"sweep-{base}"
    runs = sweeps.plan(base, targets, options.seeds or [options.seed], options.hardware)
    common = {key: value for key, value in vars(options).items() if key not in OWN | {"search"}}
    check_writable(out)

    def search(run: sweeps.Run, folder: Path) -> bool:
        one = copy.copy(options)
        one.target_weights, one.seed, one.out = run.target.weights, run.seed, folder
        one.target_activations, one.activation_bits = run.target.activations, run.target.activation_bits
        if run.target.activations is not None:
            one.activation_bits = None
        one.resume, one.no_figures = not options.overwrite, options.no_figures
        one.no_figures |= (folder / "figures").exists() and not options.overwrite  # drawn already, of this run
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # its table; the sweep has one of its own
                return options.search(one) == 0
        except BadInput as error:
            raise ValueError(error) from error

    rows = sweeps.sweep(runs, search, out, common, options.overwrite)
    print(f"\n{sweeps.table(rows)}\nwritten to {out / sweeps.SHEET}")
    for row in rows:
        if row["status"] not in sweeps.GOOD:
            why = row.get("reason") or WHY[row["status"]]
            print(f"hmq-lab: {row['name']} {row['status']}: {why}", file=sys.stderr)
    left = len(runs) - len(rows)
    if left:
        print(f"hmq-lab: {left} of {len(runs)} runs were not begun", file=sys.stderr)
    return 0 if not left and all(row["status"] in sweeps.GOOD for row in rows) else 1
