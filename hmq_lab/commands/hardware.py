"""The commands that take a finished run to hardware: integer, pack, unpack, export, costs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add(commands, formatter: type) -> None:
    """Add the subcommands to `commands`, as argparse knows them."""

    def command(function, help: str, **arguments):
        made = commands.add_parser(function.__name__, help=help, formatter_class=formatter)
        made.set_defaults(command=function)
        for name, options in arguments.items():
            made.add_argument(name, **options)
        return made

    def add_pictures(made) -> None:
        made.add_argument("--data", help="builtin, cifar10, imagenet, or a folder of pictures (default: the run's)")
        made.add_argument("--root", type=Path, help="where data sets lie (default: $HMQ_LAB_DATA or ~/.cache/hmq_lab)")
        made.add_argument("--pictures", type=int, metavar="N", help="the first N test pictures (default: all)")
        made.add_argument("--batch-size", type=int, default=100, metavar="N", help="pictures at a time")

    run = {"type": Path, "metavar": "RUN", "help": "the folder of a finished run"}
    made = command(integer, "run a network on integers and compare with the simulation", run=run)
    add_pictures(made)
    made.add_argument("--program", action="store_true", help="print the instructions, too")
    made.add_argument("--json", action="store_true", help="the counts as JSON")

    made = command(pack, "write a network's weights in their real bit-widths", run=run)
    made.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file to write")
    made.add_argument("--json", action="store_true", help="the sizes as JSON")

    packed = {"type": Path, "metavar": "PACKED", "help": "a file of hmq-lab pack"}
    made = command(unpack, "write a packed network's weights as floats", packed=packed)
    made.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file to write")

    made = command(export, "write a network as ONNX", run=run)
    made.add_argument("file", type=Path, metavar="FILE", help="an .onnx file to write")
    made.add_argument("--native", action="store_true", help="carry 3 and 4 bits in (U)INT4, 1 and 2 in (U)INT2")
    made.add_argument("--check", action="store_true", help="run it with onnxruntime and compare with the simulation")
    add_pictures(made)
    made.add_argument("--json", action="store_true", help="what was written and found as JSON")

    made = command(costs, "count bytes, bit operations, shifts; cycles and energy on a model of an accelerator",
                   run={**run, "help": "the folder of a finished run, or a record"})  # fmt: skip
    made.add_argument("--units", type=int, default=256, metavar="N", help="multipliers of 8 x 8 bits")
    made.add_argument("--bandwidth", type=float, default=32.0, metavar="B", help="bytes from memory in a cycle")
    made.add_argument("--figure", type=Path, metavar="FILE", help="draw the roofline, PNG, SVG or PDF")
    made.add_argument("--json", action="store_true", help="the layers and sums as JSON")


def integer(options: argparse.Namespace) -> int:
    """Exit code 0 if every logit equals the float64 simulation's, and float32's wherever float32 is exact."""
    from hmq_lab.hardware.integer import IntegerNetwork, compare

    network, record = _load(options.run)
    program = IntegerNetwork.from_selected(network)
    found = compare(network, _test_batches(options, record))
    found |= {"run": str(options.run), "recorded_accuracy": record.results["accuracy"]["test"]}
    if options.program:
        print(program)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['pictures']:,} test pictures, logits in units of 2^{found['exponent']}\n"
            f"against float64: {found['differ_float64']:,} pictures differ, by at most "
            f"{found['largest_difference_float64']:g}\n"
            f"against float32: {found['differ_float32']:,} pictures differ, {found['unexplained_float32']:,} of them "
            f"without a sum |w a| + |b| beyond 2^24; predictions differ on {found['predictions_differ']:,}\n"
            f"sums beyond 2^24: {found['sums_beyond_2_24']:,}, on {found['pictures_beyond_2_24']:,} pictures\n"
            f"test accuracy: integers {found['accuracy_integer']:.2f} %, float32 {found['accuracy_float32']:.2f} %"
        )
    return 0 if found["differ_float64"] == found["unexplained_float32"] == 0 else 1


def pack(options: argparse.Namespace) -> int:
    import dataclasses

    from hmq_lab.hardware import packing

    network, record = _load(options.run)
    sizes = packing.pack(network, options.file, record.header["model"])
    print(json.dumps({**dataclasses.asdict(sizes), "counted": sizes.counted}, indent=1) if options.json else sizes)
    return 0


def unpack(options: argparse.Namespace) -> int:
    from hmq_lab.hardware import packing

    packing.unpack_weights(options.packed, options.file)
    print(options.file)
    return 0


def export(options: argparse.Namespace) -> int:
    try:
        from hmq_lab.hardware import onnx_export
    except ImportError as error:
        raise ValueError(f"the export needs {error.name}: pip install hmq_lab[export]") from error
    network, record = _load(options.run)
    written = onnx_export.export(network, options.file, native=options.native)
    size, opset = options.file.stat().st_size, written.opset_import[0].version
    about = {"file": str(options.file), "bytes": size, "nodes": len(written.graph.node), "opset": opset}
    if options.check:
        about |= onnx_export.compare(network, options.file, _test_batches(options, record))
    if options.json:
        print(json.dumps(about, indent=1))
        return 0
    print(f"{options.file}: {size:,} bytes, {about['nodes']} nodes, opset {opset}")
    if options.check:
        for which, said in (("", "onnxruntime, optimizations off"), ("default_", "onnxruntime as it is by default")):
            print(
                f"{said}: of {about['pictures']:,} test pictures the logits of {about[which + 'differ']:,} differ from "
                f"the simulation's, by at most {about[which + 'largest_difference']:g}, the predictions of "
                f"{about[which + 'predictions_differ']:,}; test accuracy {about[which + 'accuracy']:.2f} %"
            )
        if about["unexplained"] is not None:
            print(f"differing without a sum beyond 2^24, optimizations off: {about['unexplained']:,}")
    return 0


def _load(run: Path):
    """The network of a run, and its record."""
    from hmq_lab import runs
    from hmq_lab.runs import records

    _known(records.read(run))
    return runs.load(run)


def _known(record):
    """The record, if a command can build its network again."""
    from hmq_lab import runs

    if name := runs.own_module(record):
        raise ValueError(
            f"this run is of your own module {name}: in Python, IntegerNetwork.from_selected, packing.pack, "
            f"onnx_export.export and costs.count take it, from runs.load(folder, network={name}(...))"
        )
    return record


def _test_batches(options: argparse.Namespace, record):
    """(pictures, classes) of the first of the test pictures, as many as asked for."""
    import dataclasses

    from hmq_lab import data

    for name in ("pictures", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be from 1 on, got {getattr(options, name)}")
    source, normalize = options.data or record.header["data"], record.header["normalize"]
    test = data.load(source, root=options.root, normalize=normalize).test
    if isinstance(test, data.Folder) and "picture" in record.header:
        test = dataclasses.replace(test, **data.sizes(record.header["picture"][-1]))  # as large as in the search
    left = min(options.pictures or len(test), len(test))
    for x, y in test.batches(min(options.batch_size, left)):
        yield x[:left], y[:left]
        left -= len(x)
        if left <= 0:
            return


def costs(options: argparse.Namespace) -> int:
    import dataclasses

    from hmq_lab import runs
    from hmq_lab.hardware import costs
    from hmq_lab.runs import records

    machine = costs.Accelerator(units=options.units, bandwidth=options.bandwidth)
    layers = costs.count(runs.rebuild(_known(records.read(options.run))))
    if options.json:
        found = {"accelerator": dataclasses.asdict(machine), "layers": [dataclasses.asdict(i) for i in layers],
                 "total": costs.total(layers, machine),
                 "float32": costs.total(costs.in_float(layers), machine)}  # fmt: skip
        print(json.dumps(found, indent=1))
    else:
        print(costs.table(layers, machine))
    if options.figure:
        try:
            from hmq_lab.plots.roofline import Costs, roofline
        except ImportError as error:
            raise ValueError(f"figures need {error.name}: pip install hmq_lab[lab]") from error
        drawing = roofline(Costs(layers, machine))
        drawing.savefig(options.figure)
        print(drawing.sentence)
    return 0
