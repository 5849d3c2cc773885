"""The commands that take a finished run to hardware: integer, pack, unpack, export, costs."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hmq_lab.commands.frame import FIGURE, BadInput, add_overwrite, check_output, needs
from hmq_lab.runs.records import Record


def add(commands: Any, formatter: type) -> None:
    """Add the subcommands to `commands`, as argparse knows them."""

    def command(
        function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(function.__name__, help=text, formatter_class=formatter)
        made.set_defaults(command=function)
        return made

    # Integers beside the simulation.
    made = command(integer, "run a network on integers and compare with the simulation")
    _add_run(made)
    _add_images(made)
    made.add_argument("--program", action="store_true", help="print the instructions, too")
    made.add_argument("--json", action="store_true", help="the counts as JSON")

    # Files in real bit-widths, and back.
    made = command(pack, "write a network's weights in their real bit-widths")
    _add_run(made)
    made.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file to write")
    made.add_argument("--json", action="store_true", help="the sizes as JSON")
    add_overwrite(made)

    made = command(unpack, "write a packed network's weights as floats")
    made.add_argument("packed", type=Path, metavar="PACKED", help="a file of hmq-lab pack")
    made.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file to write")
    add_overwrite(made)

    # For other programs.
    made = command(export, "write a network as ONNX")
    _add_run(made)
    made.add_argument("file", type=Path, metavar="FILE", help="an .onnx file to write")
    made.add_argument(
        "--native", action="store_true", help="carry 3 and 4 bits in (U)INT4, 1 and 2 in (U)INT2"
    )
    made.add_argument(
        "--check",
        action="store_true",
        help="run it with onnxruntime and compare with the simulation",
    )
    _add_images(made)
    made.add_argument("--json", action="store_true", help="what was written and found as JSON")
    add_overwrite(made)

    made = command(
        costs, "count bytes, bit operations, shifts; cycles and energy on a model of an accelerator"
    )
    _add_run(made, "the folder of a finished run, or a record")
    made.add_argument(
        "--units", type=int, default=256, metavar="N", help="multipliers of 8 x 8 bits"
    )
    made.add_argument(
        "--bandwidth", type=float, default=32.0, metavar="B", help="bytes from memory in a cycle"
    )
    made.add_argument(
        "--figure", type=Path, metavar="FILE", help="draw the roofline, PNG, SVG or PDF"
    )
    made.add_argument("--json", action="store_true", help="the layers and sums as JSON")
    add_overwrite(made)


def _add_run(made: argparse.ArgumentParser, text: str = "the folder of a finished run") -> None:
    made.add_argument("run", type=Path, metavar="RUN", help=text)


def _add_images(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--data", help="builtin, cifar10, imagenet, or a folder of images (default: the run's)"
    )
    made.add_argument(
        "--root", type=Path, help="where data sets lie (default: $HMQ_LAB_DATA or ~/.cache/hmq_lab)"
    )
    made.add_argument(
        "--images",
        "--pictures",
        type=int,
        metavar="N",
        help="the first N test images (default: all)",
    )
    made.add_argument("--batch-size", type=int, default=100, metavar="N", help="images at a time")


def integer(options: argparse.Namespace) -> int:
    """The command. Exit code 0 if the logits equal the simulation's, wherever that is exact."""
    from hmq_lab.hardware.integer import IntegerNetwork, compare

    # The network as it was searched, and the images as it saw them.
    network, record = _load(options.run)
    batches = _test_batches(options, record)
    program = IntegerNetwork.from_selected(network)
    # Every logit is compared.
    found = compare(network, batches)
    found |= {"run": str(options.run), "recorded_accuracy": record.results["accuracy"]["test"]}
    if options.program:
        print(program)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['images']:,} test images, logits in units of 2^{found['exponent']}\n"
            f"against float64: {found['differ_float64']:,} images differ, by at most "
            f"{found['largest_difference_float64']:g}\n"
            f"against float32: {found['differ_float32']:,} images differ, "
            f"{found['unexplained_float32']:,} of them "
            f"without a sum |w a| + |b| beyond 2^24; predictions differ on "
            f"{found['predictions_differ']:,}\n"
            f"sums beyond 2^24: {found['sums_beyond_2_24']:,}, on "
            f"{found['images_beyond_2_24']:,} images\n"
            f"test accuracy: integers {found['accuracy_integer']:.2f} %, float32 "
            f"{found['accuracy_float32']:.2f} %"
        )
    return 0 if found["differ_float64"] == found["unexplained_float32"] == 0 else 1


def pack(options: argparse.Namespace) -> int:
    """The command: prints the sizes."""
    import dataclasses

    from hmq_lab.hardware import packing

    # What could go wrong with the file goes wrong before the work.
    check_output(options.file, [".safetensors"], options.overwrite, [options.run])
    network, record = _load(options.run)
    sizes = packing.pack(network, options.file, record.header["model"])
    if options.json:
        print(json.dumps({**dataclasses.asdict(sizes), "counted": sizes.counted}, indent=1))
    else:
        print(sizes)
    return 0


def unpack(options: argparse.Namespace) -> int:
    """The command: prints the file."""
    from hmq_lab.hardware import packing

    check_output(options.file, [".safetensors"], options.overwrite, [options.packed])
    packing.unpack_weights(options.packed, options.file)
    print(options.file)
    return 0


def export(options: argparse.Namespace) -> int:
    """The command: prints what was written and how it compares with the simulation."""
    check_output(options.file, [".onnx"], options.overwrite, [options.run])
    with needs("export", "the export"):
        from hmq_lab.hardware import onnx_export
    network, record = _load(options.run)
    batches = None
    if options.check:
        with needs("export", "--check"):
            import onnxruntime  # noqa: F401
        batches = _test_batches(options, record)

    # Written, then compared.
    written = onnx_export.export(network, options.file, native=options.native)
    size, opset = options.file.stat().st_size, written.opset_import[0].version
    about = {
        "file": str(options.file),
        "bytes": size,
        "nodes": len(written.graph.node),
        "opset": opset,
    }
    if batches is not None:
        about |= onnx_export.compare(network, options.file, batches)
    if options.json:
        print(json.dumps(about, indent=1))
        return 0
    print(f"{options.file}: {size:,} bytes, {about['nodes']} nodes, opset {opset}")
    if batches is not None:
        print(_comparison(about))
    return 0


def _comparison(about: dict[str, Any]) -> str:
    """How an ONNX file compares with the simulation, in lines."""
    # Without and with the optimizations of onnxruntime.
    lines = []
    for which, said in (
        ("", "onnxruntime, optimizations off"),
        ("default_", "onnxruntime as it is by default"),
    ):
        lines.append(
            f"{said}: of {about['images']:,} test images the logits of "
            f"{about[which + 'differ']:,} differ from "
            f"the simulation's, by at most {about[which + 'largest_difference']:g}, the "
            f"predictions of "
            f"{about[which + 'predictions_differ']:,}; test accuracy "
            f"{about[which + 'accuracy']:.2f} %"
        )
    if about["unexplained"] is not None:
        lines.append(
            f"differing without a sum beyond 2^24, optimizations off: {about['unexplained']:,}"
        )
    return "\n".join(lines)


def costs(options: argparse.Namespace) -> int:
    """The command: prints the layers and their sums."""
    import dataclasses

    from hmq_lab import runs
    from hmq_lab.hardware import costs
    from hmq_lab.runs import records

    if options.figure:
        check_output(options.figure, FIGURE, options.overwrite, [options.run], option="--figure")
    # The counts, and what they mean on this accelerator.
    machine = costs.Accelerator(units=options.units, bandwidth=options.bandwidth)
    layers = costs.count(runs.rebuild(_known(records.read(options.run))))
    if options.json:
        found = {
            "accelerator": dataclasses.asdict(machine),
            "layers": [dataclasses.asdict(layer) for layer in layers],
            "total": costs.total(layers, machine),
            "float32": costs.total(costs.in_float(layers), machine),
        }
        print(json.dumps(found, indent=1))
    else:
        print(costs.table(layers, machine))
    if options.figure:
        _draw_roofline(layers, machine, options.figure)
    return 0


def _draw_roofline(layers: Any, machine: Any, path: Path) -> None:
    """Write the roofline into a file, and print what it shows."""
    from hmq_lab.data.files import replacing

    with needs("lab", "figures"):
        from hmq_lab.plots.roofline import Costs, roofline
    # Drawn into a file that appears whole.
    drawing = roofline(Costs(layers, machine))
    with replacing(path) as temporary:
        drawing.savefig(temporary, format=path.suffix[1:])
    print(drawing.sentence)


def _load(run: Path) -> tuple[nn.Module, Record]:
    """The network of a run, and its record."""
    from hmq_lab import runs
    from hmq_lab.runs import records

    _known(records.read(run))
    return runs.load(run)


def _known(record: Record) -> Record:
    """The record, if a command can build its network again."""
    from hmq_lab import runs

    # Only networks with a name can be built again.
    if name := runs.own_module(record):
        raise ValueError(
            f"this run is of your own module {name}: in Python, IntegerNetwork.from_selected, "
            f"packing.pack, "
            f"onnx_export.export and costs.count take it, from runs.load(folder, "
            f"network={name}(...))"
        )
    return record


def _test_batches(options: argparse.Namespace, record: Record) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of the first test images. What is wrong is said at the call."""
    import dataclasses

    from hmq_lab import data

    for name in ("images", "batch_size"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise BadInput(f"--{name.replace('_', '-')} must be from 1 on, got {number}")

    # The images as the search had them.
    source, normalize = _source(options, record), record.header["normalize"]
    loaded = data.load(source, root=options.root, normalize=normalize)
    shape = record.header.get("picture", [3])
    test = loaded.with_channels(shape[0]).test
    if isinstance(test, data.Folder) and len(shape) > 1:
        test = dataclasses.replace(test, **data.sizes(shape[-1]))  # type: ignore[arg-type]

    def go(left: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in test.batches(min(options.batch_size, left)):
            yield x[:left], y[:left]
            left -= len(x)
            if left <= 0:
                return

    return go(min(options.images or len(test), len(test)))


def _source(options: argparse.Namespace, record: Record) -> str:
    """The images of a run for `data.load`: what was named, else what the run remembers."""
    from hmq_lab import data

    if options.data:
        return options.data
    # A data set with a name, or the folder that the run was on.
    name, remembered = record.header["data"], record.header.get("data_folder")
    if name in data.NAMES:
        return name
    for place in (remembered, options.root and os.path.join(options.root, name)):
        if place and os.path.isdir(os.path.expanduser(place)):
            return os.path.expanduser(place)
    where = f", which was {remembered}" if remembered else ""
    raise BadInput(
        f"--data is missing: this run is on images called {name!r}{where}; say where they are: --data FOLDER"
    )
