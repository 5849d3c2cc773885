"""The command `hmq-lab sweep`: several targets and seeds, with every option of `search`."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
from pathlib import Path
from typing import Any

from hmq_lab.commands.frame import NETWORK_FOR, BadInput, several

# Of the options of `search`, those that differ between the runs of a sweep or say where and how a
# run is shown. What weights and images hold is checked by each run itself, wherever they lie.
OWN = {
    "command",
    "warnings",
    "targets",
    "seeds",
    "activations",
    "target_weights",
    "target_activations",
    "activation_bits",
    "seed",
    "hardware",
    "data",
    "model",
    "weights",
    "root",
    "download",
    "device",
    "out",
    "resume",
    "overwrite",
    "no_figures",
    "quiet",
    "accumulate",
    "search",
}
WHY = {
    "missed": "the rate of the weights is below its target",
    "interrupted": "the same command goes on (without --overwrite)",
}


def add(commands: Any, search: argparse.ArgumentParser, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them.

    Args:
        search: the parser of the command `search`, whose options are taken.
    """
    # All options of a search.
    made = commands.add_parser(
        "sweep",
        parents=[search],
        add_help=False,
        formatter_class=formatter,
        help="search for several targets and seeds, one after another",
        description="Every option of search, and three that take several values. "
        "A run that is recorded is skipped, "
        "one that was interrupted goes on; --resume is implied. Ctrl-C stops the sweep, the same "
        "command goes on.",
    )
    made.set_defaults(command=sweep, search=search.get_default("command"))
    # And those that take several values.
    for name, kind, one in (
        ("--targets", float, "--target-weights"),
        ("--activations", int, "--activation-bits"),
        ("--seeds", int, "--seed"),
    ):
        made.add_argument(name, type=several(kind), metavar="A,B,...", help=f"several of {one}")


def sweep(options: argparse.Namespace) -> int:
    """Exit code 0 if every run is complete and reaches its target."""
    from hmq_lab.budget import Target
    from hmq_lab.data.files import check_writable
    from hmq_lab.runs import sweep as sweeps
    from hmq_lab.runs.processes import launched

    if launched():
        raise ValueError(
            "a sweep runs in one process: start each search by itself with accelerate launch"
        )
    if options.activations and (options.activation_bits or options.target_activations):
        raise ValueError(
            "--activations: not allowed with --activation-bits, --target-activations or a preset's target"
        )
    if options.seeds and options.seed:
        raise ValueError("--seeds: not allowed with --seed")
    if bad := [seed for seed in options.seeds or () if not 0 <= seed < 2**63]:
        raise ValueError(
            f"--seeds: must be whole numbers from 0 to 9223372036854775807, got {bad[0]}"
        )

    # The runs, and what they have in common.
    targets = [
        Target(rate, options.target_activations, bits)
        for rate in options.targets or [options.target_weights]
        for bits in options.activations or [options.activation_bits]
    ]
    network = options.model or NETWORK_FOR.get(options.data, "mobilenet_v2")
    base = f"{Path(options.data).name}-{network}"
    out = options.out or Path("runs") / f"sweep-{base}"
    runs = sweeps.plan(base, targets, options.seeds or [options.seed], options.hardware)
    common = {key: value for key, value in vars(options).items() if key not in OWN}
    check_writable(out)

    def search(run: sweeps.Run, folder: Path) -> bool:
        try:
            # The table of a run is not shown; the sweep has one of its own.
            with contextlib.redirect_stdout(io.StringIO()):
                return options.search(_options_of(run, folder, options)) == 0
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


def _options_of(run: Any, folder: Path, options: argparse.Namespace) -> argparse.Namespace:
    """The options of one run of a sweep."""
    one = copy.copy(options)
    one.out, one.seed = folder, run.seed
    one.target_weights = run.target.weights
    one.target_activations = run.target.activations
    one.activation_bits = run.target.activation_bits if run.target.activations is None else None
    one.resume = not options.overwrite
    # Figures that are there are of this run.
    drawn = (folder / "figures").exists() and not options.overwrite
    one.no_figures = options.no_figures or drawn
    return one
