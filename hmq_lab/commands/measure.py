"""The command `hmq-lab bench`: the cost of a search, and how fast explorers redraw."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmq_lab.commands.frame import FIGURE, add_overwrite, check_output, device, needs, whole


def add(commands: Any, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    command = commands.add_parser(
        "bench", help="measure what a search costs beside float training", formatter_class=formatter
    )
    command.set_defaults(command=measure)
    command.add_argument(
        "--json", action="store_true", help="everything that was measured, as JSON"
    )
    command.add_argument(
        "--compile", choices=("auto", "on", "off"), default="auto", help="the quantizer"
    )
    command.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    # What is measured.
    command.add_argument("--model", default="resnet20", help="whose training step is measured")
    command.add_argument(
        "--batch-size", type=whole(1), default=128, metavar="N", help="images in a step"
    )
    command.add_argument(
        "--image-size",
        "--picture-size",
        type=whole(1),
        default=32,
        metavar="N",
        help="pixels a side",
    )
    command.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the steps"
    )
    command.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw the cost of larger spaces: .png, .svg, .pdf",
    )
    command.add_argument(
        "--explorers", action="store_true", help="how fast the explorers redraw instead"
    )
    command.add_argument(
        "--live", action="store_true", help="what it costs a search to be watched instead"
    )
    add_overwrite(command)


def measure(options: argparse.Namespace) -> int:
    """The command: prints what was measured."""
    if options.live:
        return _watching(options)
    if options.explorers:
        return _explorers(options)

    from hmq_lab import _kernels as kernels
    from hmq_lab.commands import bench

    # All that could be refused is refused before the minutes of measuring.
    compiled = options.compile == "on" or (options.compile == "auto" and kernels.compiler_found())
    draw = _figure(options) if options.figure else None
    where = str(device(options.device))
    work = bench.Work(
        options.model,
        options.batch_size,
        size=options.image_size,
        device=where,
        precision=options.precision,
    )
    # The measurement, as a figure, as JSON or in lines.
    found = bench.report(compiled, options.quick, work)
    if draw:
        draw(found)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print(_text(found, compiled))
    if draw:
        print(f"drawn to {options.figure}")
    return 0


def _text(found: dict[str, Any], compiled: bool) -> str:
    """The report in lines."""
    how = "compiled" if compiled else "no compiler"
    # Ratios first, then what larger spaces cost.
    lines = [
        f"a block over clone():             {found['block_over_clone']:.2f} ({how})",
        f"a block over clone(), eager:      {found['block_eager_over_clone']:.2f}",
        f"a search step over a float step:  {found['step_over_float']:.2f}",
        f"its memory over a float step's:   {found['memory_over_float']:.2f}",
    ]
    for row in found["spaces"]:
        cost = f"{row['seconds'] * 1e3:6.0f} ms, {row['bytes'] / 2**20:5.0f} MiB"
        lines.append(f"a step with {row['schemes']:3d} schemes a tensor: {cost}")
    return "\n".join(lines)


def _watching(options: argparse.Namespace) -> int:
    with needs("lab", "bench --live"):
        from hmq_lab.commands import bench_live

    found = bench_live.report(pairs=3 if options.quick else 8)
    print(json.dumps(found, indent=1) if options.json else bench_live.text(found))
    return 0


def _explorers(options: argparse.Namespace) -> int:
    with needs("lab", "bench --explorers"):
        from hmq_lab.commands import bench_explorers

    found = bench_explorers.report(rounds=5 if options.quick else 15)
    moves = bench_explorers.moves(rounds=3 if options.quick else 9)
    if options.json:
        print(json.dumps(found | {"game": moves}, indent=1))
    else:
        print(f"{bench_explorers.text(found)}\n{bench_explorers.text_of_moves(moves)}")
    return 0


def _figure(options: argparse.Namespace) -> Callable[[dict[str, Any]], None]:
    """A function that draws a report into the file; what is wrong is said before measuring."""
    from hmq_lab.data.files import replacing

    # The file and the library, before the measuring.
    path = options.figure
    check_output(path, FIGURE, options.overwrite, option="--figure")
    with needs("lab", "figures"):
        from hmq_lab.plots.bench import spaces

    def draw(found: dict[str, Any]) -> None:
        with replacing(path) as temporary:
            spaces(found).savefig(temporary, format=path.suffix[1:])

    return draw
