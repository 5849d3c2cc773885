"""The commands of hmq-lab. Exit code 0 done, 2 bad input (one line), 1 anything else."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import warnings
from pathlib import Path

from hmq_lab.commands import grade, lab, lessons
from hmq_lab.commands import hardware as cli_hardware
from hmq_lab.commands import sweep as cli_sweep
from hmq_lab.recipes import recipe
from hmq_lab.runs.processes import ProcessLost, is_main, start
from hmq_lab.settings import PRESETS, preset, preset_for

SHIPPED = {"builtin": "tiny_resnet8"}  # data: the network whose weights come with the package
NETWORK_FOR = SHIPPED | {"cifar10": "resnet20"}


class BadInput(Exception):
    """What the user gave cannot be used; the message says why, on one line."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise BadInput(message)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    >>> main(["figures", "no/such/folder"])
    2
    """
    try:
        options = parser().parse_args(arguments)
        if hasattr(options, "preset"):
            _fill(options)
        with warnings.catch_warnings(), _Held() as options.warnings:
            return options.command(options)
    except (BadInput, ValueError, OSError) as error:
        print(f"hmq-lab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (FloatingPointError, OverflowError, ProcessLost) as error:
        print(f"hmq-lab: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hmq-lab: interrupted", file=sys.stderr)
        return 1


class _Held:
    """Warnings, kept until the work has begun or is done: bad input is one line on stderr, the error's."""

    def __enter__(self):
        self.messages = []
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_: self.messages.append(message)
        return self

    def say(self, *_):
        while self.messages:
            message = self.messages.pop(0)
            if is_main():
                print(f"hmq-lab: warning: {message}", file=sys.stderr)

    def __exit__(self, kind, *_):
        if kind is None:
            self.say()


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="hmq-lab", description="Search the bit-width and threshold of every tensor of a network.")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    command = commands.add_parser("search", help="search, fine-tune and report", formatter_class=_Help)
    command.set_defaults(command=search)
    _add_data(command, default=None)
    command.add_argument("--model", help="a CIFAR network of ours or any of torchvision's (by default, by data)")
    command.add_argument("--weights", help="of the float network: safetensors or .pth (default: shipped, else random)")
    _add_outputs(command)
    command.add_argument("--target-weights", type=float, metavar="R", help="compression of the weights (default: the "
                         "preset's, else 8)")  # fmt: skip
    either = command.add_mutually_exclusive_group()
    either.add_argument("--target-activations", type=float, metavar="R", help="of the largest activation")
    either.add_argument("--activation-bits", type=_whole(1, 16), metavar="B", help="of every activation (default: the "
                        "preset's, else 8)")  # fmt: skip
    command.add_argument("--hardware", action="store_true", help="fold batch norm, quantize picture, biases and means")
    command.add_argument("--preset", metavar="NAME", help=f"{', '.join(PRESETS)}; also with a target: -w8-a8 is "
                         "weights 8 times smaller and 8-bit activations, -w8-acr8 the largest activation 8 times "
                         "smaller. A network's name: for that one, on ImageNet (default: quick/builtin, quick/cifar10, "
                         "paper for imagenet, quick/folder for other pictures)")  # fmt: skip
    command.add_argument("--search-epochs", type=int, metavar="N", help="epochs of stage 1 (default: the preset's)")
    command.add_argument("--final-epochs", type=int, metavar="N", help="epochs of stage 2 (default: the preset's)")
    command.add_argument("--batch-size", type=int, metavar="N", help="pictures in a step (default: the preset's)")
    command.add_argument("--logit-rate", type=float, metavar="R", help="how far a step moves the probabilities: more "
                         "for fewer steps (default: the preset's)")  # fmt: skip
    command.add_argument("--accumulate", type=_whole(1), default=1, metavar="N",
                         help="parts that a step's pictures go through the network in, one after another")  # fmt: skip
    command.add_argument("--precision", choices=("float32", "bfloat16"), help="of convolutions (default: the preset's)")
    command.add_argument("--compile", choices=("auto", "on", "off"), help="the quantizer (default: the preset's)")
    command.add_argument("--channels-last", action="store_true", default=None, help="the layout GPUs are fastest in")
    command.add_argument("--bits", default="1,2,3,4,5,6,7,8", help="to choose from, for each weight: of 1 to 16")
    command.add_argument("--thresholds", type=int, default=8, metavar="N", help="powers of two to choose from")
    command.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, metavar="N", help="same seed, same run")
    command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes cuda where there is one")
    command.add_argument("--out", type=Path, metavar="DIR", help="for record, network, figures (runs/DATA-MODEL)")
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one")
    again.add_argument("--overwrite", action="store_true", help="begin anew where DIR holds a run already")
    command.add_argument("--no-figures", action="store_true", help="the record alone")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    cli_sweep.add(commands, command, _Help)

    command = commands.add_parser("figures", help="draw the figures of a run", formatter_class=_Help)
    command.set_defaults(command=figures)
    command.add_argument("run", type=Path, nargs="?", metavar="DIR", help="a folder with a record.json, or a record; "
                         "with --all, a folder of such folders (default: the package's records)")  # fmt: skip
    command.add_argument("--all", action="store_true", help="the paper's figures and tables, beside what it published")
    command.add_argument("--out", type=Path, help="where to (default: DIR/figures; with --all docs/figures/paper)")

    command = commands.add_parser("placements", help="list what is quantized in a network", formatter_class=_Help)
    command.set_defaults(command=placements)
    command.add_argument("--model", required=True, help="a CIFAR network of ours or any of torchvision's")
    command.add_argument("--classes", type=_whole(1), help="outputs (default: 10 for ours, 1000 for torchvision's)")
    command.add_argument("--picture-size", type=_whole(1), metavar="N", help="pixels a side (default: 32, or 224)")

    command = commands.add_parser("train", help="train a float network", formatter_class=_Help)
    command.set_defaults(command=train)
    _add_data(command)
    command.add_argument("--model", help="a CIFAR network of ours or any of torchvision's (by default, by data)")
    command.add_argument("--weights", metavar="FILE", help="to begin from: safetensors or .pth (default: random ones)")
    _add_outputs(command)
    command.add_argument("--freeze-norms", action="store_true", help="batch norms keep their statistics: for weights "
                         "into which they were folded")  # fmt: skip
    command.add_argument("--epochs", type=int, default=60, metavar="N", help="passes over the training pictures")
    command.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="its peak")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures in a step")
    command.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, metavar="N", help="same seed, same network")
    command.add_argument("--device", default="auto", help="cpu, cuda, ...; auto takes cuda where there is one")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    command.add_argument("--overwrite", action="store_true", help="replace FILE where it is there already")

    command = commands.add_parser(
        "bench", help="measure what a search costs beside float training", formatter_class=_Help
    )
    command.set_defaults(command=bench)
    command.add_argument("--json", action="store_true", help="everything that was measured, as JSON")
    command.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="the quantizer")
    command.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    command.add_argument("--model", default="resnet20", help="whose training step is measured")
    command.add_argument("--batch-size", type=_whole(1), default=128, metavar="N", help="pictures in a step")
    command.add_argument("--picture-size", type=_whole(1), default=32, metavar="N", help="pixels a side")
    command.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the steps")
    command.add_argument("--figure", type=Path, metavar="FILE", help="draw the cost of larger spaces: .png, .svg, .pdf")

    cli_hardware.add(commands, _Help)
    for teaching in (lessons, lab, grade):
        teaching.add(commands, _Help)
    command.add_argument("--explorers", action="store_true", help="the explorers' new pictures instead")
    command.add_argument("--live", action="store_true", help="what it costs a search to be watched instead")
    return top


def _whole(least: int, most: int | None = None):
    """What argparse calls to read a whole number within bounds."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least or (most is not None and number > most):
            bounds = f"from {least} on" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, got {text!r}")
        return number

    return read


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one and the text does not tell it."""

    def _get_help_string(self, action):
        tell = action.default not in (None, False) and "default" not in action.help
        return super()._get_help_string(action) if tell else action.help


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--outputs", type=_numbers, metavar="LIST", help="each class's output in the last layer of "
                         "the weights: 0,217,482 or 1-1000 (default: the class's own number)")  # fmt: skip


def _numbers(text: str) -> list[int]:
    """What argparse calls to read whole numbers and ranges of them."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f"must be whole numbers and ranges of them, as in 0,3,10-20, got {text!r}")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _add_data(command: argparse.ArgumentParser, default: str | None = "builtin") -> None:
    command.add_argument("--data", default=default, help="builtin, cifar10, imagenet, or a folder (default: builtin)")
    command.add_argument("--root", type=Path, help="where data sets lie (default: $HMQ_LAB_DATA or ~/.cache/hmq_lab)")
    command.add_argument("--download", action="store_true", help="let torchvision fetch CIFAR10")
    command.add_argument("--normalize", help="what the weights were trained with: builtin, cifar10, imagenet, half or "
                         "identity (default: what the weights' file says, else the data's)")  # fmt: skip
    command.add_argument("--picture-size", type=_whole(1), metavar="N", help="pixels a side that pictures in files are "
                         "brought to (default: 224, small ones as they are)")  # fmt: skip


def _fill(options: argparse.Namespace) -> None:
    """What was not typed, from the preset's name, or else the defaults."""
    if getattr(options, "targets", None) and options.target_weights is not None:
        raise BadInput("--targets: not allowed with --target-weights")
    known = recipe(options.preset) if options.preset else recipe("paper")
    target = known.target
    if target and options.target_activations is None and options.activation_bits is None:
        options.target_activations, options.activation_bits = target.activations, target.activation_bits
    if options.target_weights is None:
        options.target_weights = target.weights if target else 8.0
    options.data = options.data or known.data or "builtin"
    options.model = options.model or known.model


def search(options: argparse.Namespace) -> int:
    import torch

    from hmq_lab import data, models
    from hmq_lab.block import SearchSpace
    from hmq_lab.budget import Target
    from hmq_lab.data.files import check_writable
    from hmq_lab.models.training import begin_from
    from hmq_lab.models.weights import SHIPPED as SHELF
    from hmq_lab.models.weights import read_metadata
    from hmq_lab.runs import records
    from hmq_lab.stages import CHECKPOINT, RECORD
    from hmq_lab.stages import search as run

    name = options.model or NETWORK_FOR.get(options.data, "mobilenet_v2")
    source = Path(options.data).name
    out = options.out or Path("runs") / f"{source}-{name}"
    target = Target(options.target_weights, options.target_activations, options.activation_bits)
    try:
        bits = tuple(int(b) if b.strip().isdigit() else float(b) for b in options.bits.split(","))
    except ValueError:
        raise BadInput(f"--bits must be numbers with commas between them, got {options.bits!r}") from None
    space = SearchSpace(bits, options.thresholds)
    target.check_reachable(space)
    changes = ("search_epochs", "final_epochs", "batch_size", "logit_rate", "precision", "compile", "channels_last")
    settings = preset(
        options.preset or preset_for(source), **{key: v for key in changes if (v := getattr(options, key)) is not None}
    )
    device = _device(options.device)
    if is_main():
        check_writable(out)
    if any((out / name).exists() for name in (CHECKPOINT, RECORD)) and not (options.resume or options.overwrite):
        kind = "a run that has not ended" if (out / CHECKPOINT).exists() else "a run"
        raise BadInput(f"{out} holds {kind} already: --resume, --overwrite, or another --out")

    weights = options.weights
    if weights is None and SHIPPED.get(options.data) == name:
        weights = SHELF / f"{options.data}_{name}.safetensors"
    said = read_metadata(weights).get("normalize") if weights else None
    try:
        team = start(device)
    except ImportError as error:
        raise BadInput(str(error)) from error
    with team.main_first() if options.download else contextlib.nullcontext():
        pictures = data.load(
            options.data, root=options.root, download=options.download, normalize=options.normalize or said,
            picture_size=options.picture_size,
        )  # fmt: skip
    torch.manual_seed(options.seed)
    model = models.build(name, classes=len(pictures.classes))
    if weights:
        begin_from(model, weights, pictures, outputs=options.outputs, device=device)
    else:
        warnings.warn("no --weights: the search starts from random ones, which is not what it is for", stacklevel=1)
    record = run(
        model, pictures, target, space=space, settings=settings, hardware=options.hardware, seed=options.seed,
        name=name, device=device, out=out, resume=options.resume,
        overwrite=options.overwrite, progress=not options.quiet, on_event=options.warnings.say,
        accumulate=options.accumulate,
    )  # fmt: skip
    team.end()
    if not team.is_main:  # the main process has the last word, the exit code too
        return 0
    if record.results["status"] == "interrupted":
        again = shlex.join(["hmq-lab", *_typed(options)]) if team.number == 1 else "the same command with --resume"
        print(f"stopped after {record.results['steps']} steps; to go on: {again}", file=sys.stderr)
        return 1
    print(records.table(record))
    if not options.no_figures:
        try:
            figures(argparse.Namespace(run=out, out=None, all=False))
        except BadInput as error:  # no matplotlib: the search is done all the same
            warnings.warn(str(error), stacklevel=1)
    print(f"written to {out}")
    return 0 if target.reached(record.results["rates"]) else 1


def _typed(options: argparse.Namespace) -> list[str]:
    typed = [a for a in sys.argv[1:] if a != "--overwrite"]
    return typed if "--resume" in typed else [*typed, "--resume"]


def figures(options: argparse.Namespace) -> int:
    from hmq_lab.runs import records

    if options.run is None and not options.all:
        raise BadInput("figures of what? Name the folder of a run, or say --all for the paper's")
    if not options.all:
        found = records.read(options.run)
        folder = options.out or (options.run if options.run.is_dir() else options.run.parent) / "figures"
    else:
        found = records.within(options.run) if options.run else records.matching()
        folder = options.out or Path("docs/figures/paper")
    try:
        from hmq_lab.plots import paper, write_all
    except ImportError as error:
        raise BadInput(f"figures need {error.name}: pip install hmq_lab[lab]") from error
    for path in (paper.write_paper if options.all else write_all)(found, folder):
        print(path)
    return 0


def placements(options: argparse.Namespace) -> int:
    import torch

    from hmq_lab import models
    from hmq_lab.placement import attach
    from hmq_lab.placement import placements as listed
    from hmq_lab.runs import records

    ours = options.model in models.NETWORKS and options.model != "mobilenet_v1"
    classes = options.classes or (10 if ours else 1000)
    size = options.picture_size or (32 if ours else 224)
    torch.manual_seed(0)
    model = models.build(options.model, classes=classes)
    attach(model, sample=torch.randn(2, 3, size, size))
    rows = [("tensor", "kind", "elements", "", "why")]
    for p in listed(model):
        form = "float" if not p.quantized else "signed" if p.signed else "unsigned"
        rows.append((p.name, p.kind, f"{p.size:,}", form, p.reason))
    print(records.columns(rows))
    quantized = [p for p in listed(model) if p.quantized]
    for kind in ("weight", "activation"):
        of = [p for p in quantized if p.kind == kind]
        print(f"{len(of)} {kind} tensors quantized, {sum(p.size for p in of):,} elements")
    return 0


def train(options: argparse.Namespace) -> int:
    from hmq_lab.data.files import check_writable
    from hmq_lab.models.training import train_weights

    name = options.model or NETWORK_FOR.get(options.data, "mobilenet_v2")
    check_writable(options.out.parent)
    if options.out.suffix != ".safetensors":
        raise BadInput(f"--out must end in .safetensors, got {options.out}")
    if options.out.is_dir():
        raise BadInput(f"--out must be a file, got the folder {options.out}")
    if options.out.exists() and not options.overwrite:
        raise BadInput(f"{options.out} is there already: --overwrite, or another --out")
    about = train_weights(
        name, options.data, options.out, seed=options.seed, root=options.root, download=options.download,
        normalize=options.normalize, picture_size=options.picture_size, epochs=options.epochs,
        weights=options.weights, outputs=options.outputs, freeze_norms=options.freeze_norms,
        command=shlex.join(["hmq-lab", *sys.argv[1:]]),
        learning_rate=options.learning_rate, batch_size=options.batch_size, device=_device(options.device),
        progress=print,
    )  # fmt: skip
    print(f"{about['accuracy']:.2f} % on the test pictures; written to {options.out}")
    return 0


def bench(options: argparse.Namespace) -> int:
    import json

    from hmq_lab import _kernels as kernels
    from hmq_lab.commands import bench

    if options.live:
        from hmq_lab.commands import bench_live as watching_bench

        found = watching_bench.report(pairs=3 if options.quick else 8)
        print(json.dumps(found, indent=1) if options.json else watching_bench.text(found))
        return 0
    if options.explorers:
        from hmq_lab.commands import bench_explorers as pictures

        found = pictures.report(rounds=5 if options.quick else 15)
        moves = pictures.moves(rounds=3 if options.quick else 9)
        text = f"{pictures.text(found)}\n{pictures.text_of_moves(moves)}"
        print(json.dumps(found | {"game": moves}, indent=1) if options.json else text)
        return 0
    compiled = options.compile == "on" or (options.compile == "auto" and kernels.compiler_found())
    draw = _space_figure(options.figure) if options.figure else None
    work = bench.Work(
        options.model, options.batch_size, size=options.picture_size, device=str(_device(options.device)),
        precision=options.precision,
    )  # fmt: skip
    found = bench.report(compiled, options.quick, work)
    if draw:
        draw(found)
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    how = "compiled" if compiled else "no compiler"
    print(f"a block over clone():             {found['block_over_clone']:.2f} ({how})")
    print(f"a block over clone(), eager:      {found['block_eager_over_clone']:.2f}")
    print(f"a search step over a float step:  {found['step_over_float']:.2f}")
    print(f"its memory over a float step's:   {found['memory_over_float']:.2f}")
    for row in found["spaces"]:
        cost = f"{row['seconds'] * 1e3:6.0f} ms, {row['bytes'] / 2**20:5.0f} MiB"
        print(f"a step with {row['schemes']:3d} schemes a tensor: {cost}")
    if draw:
        print(f"drawn to {options.figure}")
    return 0


def _space_figure(path: Path):
    """What draws the report of a bench into a file; all that could go wrong goes wrong now, before the measuring."""
    from hmq_lab.data.files import check_writable, replacing

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise BadInput(f"--figure must end in .png, .svg or .pdf, got {path}")
    check_writable(path.parent)
    try:
        from hmq_lab.plots.bench import spaces
    except ImportError as error:
        raise BadInput(f"figures need {error.name}: pip install hmq_lab[lab]") from error

    def draw(found: dict) -> None:
        with replacing(path) as temporary:
            spaces(found).savefig(temporary, format=path.suffix[1:])

    return draw


def _device(name: str):
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    if name == "auto":
        return torch.device("cuda" if "cuda" in found else "cpu")
    if name not in found:
        raise BadInput(f"--device {name}: must be one of auto, {', '.join(found)}")
    return torch.device(name)
