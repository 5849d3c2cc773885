"""The command `hmq-lab search`: search, fine-tune, write and report."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any

from hmq_lab.commands import figures
from hmq_lab.commands.frame import (
    NETWORK_FOR,
    RUN_FILES,
    SHIPPED,
    BadInput,
    add_data,
    add_network,
    device,
    run_of,
    same_file,
    typed,
    whole,
)
from hmq_lab.commands.settings_options import add_settings, given_settings
from hmq_lab.runs.processes import is_main, start
from hmq_lab.settings import PRESETS, preset, preset_for, recipe


def add(commands: Any, formatter: type) -> argparse.ArgumentParser:
    """Add the subcommand, and return its parser: `sweep` takes the same options."""
    command = commands.add_parser(
        "search", help="search, fine-tune and report", formatter_class=formatter
    )
    command.set_defaults(command=search)
    add_data(command, default=None)
    add_network(
        command, "of the float network: safetensors or .pth (default: shipped, else random)"
    )

    # What is searched for.
    command.add_argument(
        "--target-weights",
        type=float,
        metavar="R",
        help="compression of the weights (default: the preset's, else 8)",
    )
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--target-activations", type=float, metavar="R", help="of the largest activation"
    )
    either.add_argument(
        "--activation-bits",
        type=whole(1, 16),
        metavar="B",
        help="of every activation (default: the preset's, else 8)",
    )
    command.add_argument(
        "--hardware", action="store_true", help="fold batch norm, quantize images, biases and means"
    )
    command.add_argument(
        "--bits", default="1,2,3,4,5,6,7,8", help="to choose from, for each weight: of 1 to 16"
    )
    command.add_argument(
        "--thresholds", type=int, default=8, metavar="N", help="powers of two to choose from"
    )
    command.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(PRESETS)}; also with a target: -w8-a8 is weights 8 times smaller "
        "and 8-bit activations, "
        "-w8-acr8 the largest activation 8 times smaller. A network's name: for that one, on "
        "ImageNet (default: quick/DATA where there is one, paper for imagenet, else quick/folder)",
    )
    add_settings(command)

    # How and where it runs.
    command.add_argument(
        "--accumulate",
        type=whole(1),
        default=1,
        metavar="N",
        help="parts that a step's images go through the network in, one after another",
    )
    command.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="same seed, same run"
    )
    command.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, ...; auto takes cuda where there is one",
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="for record, network, figures (runs/DATA-MODEL)"
    )
    again = command.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one"
    )
    again.add_argument(
        "--overwrite", action="store_true", help="begin anew where DIR holds a run already"
    )
    command.add_argument("--no-figures", action="store_true", help="the record alone")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    return command


def fill(options: argparse.Namespace) -> None:
    """Fill missing options from the preset's name, then from the defaults."""
    # A sweep has targets of its own.
    if getattr(options, "targets", None) and options.target_weights is not None:
        raise BadInput("--targets: not allowed with --target-weights")
    # The name of a preset may hold a target, a network and a data set.
    known = recipe(options.preset or "paper")
    target = known.target
    if target and options.target_activations is None and options.activation_bits is None:
        options.target_activations, options.activation_bits = (
            target.activations,
            target.activation_bits,
        )
    if options.target_weights is None:
        options.target_weights = target.weights if target else 8.0
    options.data = options.data or known.data or "builtin"
    options.model = options.model or known.model


def search(options: argparse.Namespace) -> int:
    """The command. Exit code 0 if the target is reached, 1 if not, or if interrupted."""
    import torch

    from hmq_lab import data, models
    from hmq_lab.block import SearchSpace
    from hmq_lab.budget import Target
    from hmq_lab.data.files import check_writable
    from hmq_lab.models.training import begin_from
    from hmq_lab.models.weights import read_metadata
    from hmq_lab.runs import records
    from hmq_lab.runs.runner import search as run

    # All that can be refused without the data is refused first.
    name = options.model or NETWORK_FOR.get(options.data, "mobilenet_v2")
    source = Path(options.data).name
    out = options.out or Path("runs") / f"{source}-{name}"
    target = Target(options.target_weights, options.target_activations, options.activation_bits)
    space = SearchSpace(_bits(options.bits), options.thresholds)
    target.check_reachable(space)
    settings = preset(options.preset or preset_for(source), **given_settings(options))
    where = device(options.device)
    if is_main():
        check_writable(out)
    weights = _weights(options, name)
    _check_folder(out, options, weights)

    try:
        team = start(where)
    except ImportError as error:
        raise BadInput(str(error)) from error
    said = read_metadata(weights).get("normalize") if weights else None
    with team.main_first() if options.download else contextlib.nullcontext():
        images = data.load(
            options.data,
            root=options.root,
            download=options.download,
            normalize=options.normalize or said,
            image_size=options.image_size,
        )

    # The float network, with its weights.
    torch.manual_seed(options.seed)
    model = models.build(name, classes=len(images.classes))
    if weights:
        begin_from(model, weights, images, outputs=options.outputs, device=where)
    else:
        warnings.warn(
            "no --weights: the search starts from random ones, which is not what it is for",
            stacklevel=1,
        )
    # The search itself, with its files.
    record = run(
        model,
        images,
        target,
        space=space,
        settings=settings,
        hardware=options.hardware,
        seed=options.seed,
        name=name,
        device=where,
        out=out,
        resume=options.resume,
        overwrite=options.overwrite,
        progress=not options.quiet,
        on_event=options.warnings.say,
        accumulate=options.accumulate,
    )
    team.end()
    # The main process has the last word, the exit code too.
    if not team.is_main:
        return 0
    if record.results["status"] == "interrupted":
        again = _again() if team.number == 1 else "the same command with --resume"
        print(f"stopped after {record.results['steps']} steps; to go on: {again}", file=sys.stderr)
        return 1
    # The result, and its figures.
    print(records.table(record))
    if not options.no_figures:
        try:
            figures.draw(out)
        except BadInput as error:  # no matplotlib: the search is done all the same
            warnings.warn(str(error), stacklevel=1)
    print(f"written to {out}")
    return 0 if target.reached(record.results["rates"]) else 1


def _bits(text: str) -> tuple[Any, ...]:
    """The bit-widths of an option --bits; `SearchSpace` says which are none."""
    try:
        return tuple(
            int(part) if part.strip().isdigit() else float(part) for part in text.split(",")
        )
    except ValueError:
        raise BadInput(f"--bits must be numbers with commas between them, got {text!r}") from None


def _weights(options: argparse.Namespace, name: str) -> Path | None:
    """The weights' file: the one that is named, else the one that comes with the package."""
    from hmq_lab.models.weights import SHIPPED as SHELF

    # A file that is named, else the one that fits.
    if options.weights is not None:
        return Path(options.weights)
    if SHIPPED.get(options.data) == name:
        return SHELF / f"{options.data}_{name}.safetensors"
    return None


def _check_folder(out: Path, options: argparse.Namespace, weights: Path | None) -> None:
    """Raise `BadInput` where a search would write over files that are not its own to replace."""
    # The weights must not be among the files that are replaced.
    mine = [out / file for file in RUN_FILES]
    if (
        weights is not None
        and any(same_file(weights, file) for file in mine)
        and not options.resume
    ):
        raise BadInput(
            f"the weights {weights} are a file that the search in {out} replaces: choose another --out"
        )
    # Nothing is there, or it was said what to do with it.
    there = [file for file in mine if file.exists()]
    if options.resume or options.overwrite or not there:
        return
    if run_of(out / "record.json") is None:
        raise BadInput(f"{out} holds {there[0].name} already: --overwrite, or another --out")
    kind = "a run that has not ended" if (out / "checkpoint.safetensors").exists() else "a run"
    raise BadInput(f"{out} holds {kind} already: --resume, --overwrite, or another --out")


def _again() -> str:
    """The command that goes on with this search."""
    again = typed(without=["--overwrite"])
    return again if "--resume" in sys.argv else f"{again} --resume"
