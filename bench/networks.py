"""Which networks hmq_lab can read: 62 families of timm, one small network each.

    python bench/networks.py                    # all families; writes docs/networks.md
    python bench/networks.py resnet densenet    # some of them; prints the table alone

Every family runs in a child process of one thread: attach, 30 training steps, detach. A
convolutional network is then attached in hardware mode, packed, run on integers and by
onnxruntime. Each of these has to equal the simulation, or has to be refused in a ValueError that
names the reason.

timm is no dependency of hmq_lab: see bench/README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

SIZE = 96  # pixels a side, where the network allows it
STEPS = 30
LIMIT = 1200  # seconds for one family
FLOAT_ERROR = 2.0**-15  # of the largest value: float32 has 24 bits, sums lose some of them

# The module of timm, and its network. These are convolutional:
CONVOLUTIONAL = {
    "byobnet": "mobileone_s0",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "efficientnet": "mobilenetv2_100",
    "fasternet": "fasternet_t0",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "mambaout": "mambaout_femto",
    "mobilenetv3": "mobilenetv3_small_050",
    "nfnet": "nf_regnet_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "tresnet": "tresnet_m",
    "vgg": "vgg11_bn",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41",
}
# These have attention, or mix positions with fully connected layers:
OTHERS = {
    "byoanet": "botnet26t_256",
    "convit": "convit_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "edgenext": "edgenext_xx_small",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "levit": "levit_128s",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "resmlp_12_224",
    "mobilevit": "mobilevit_xxs",
    "nextvit": "nextvit_small",
    "pit": "pit_ti_224",
    "pvt_v2": "pvt_v2_b0",
    "shvit": "shvit_s1",
    "swiftformer": "swiftformer_xs",
    "tiny_vit": "tiny_vit_5m_224",
    "vision_transformer": "test_vit",
    "visformer": "visformer_tiny",
    "xcit": "xcit_nano_12_p16_224",
}
FAMILIES = CONVOLUTIONAL | OTHERS
TRAINING = ("attach", "train", "detach")
HARDWARE = ("hardware mode", "pack", "integers", "ONNX")


# ---------------------------------------------------------------- one family, in a child process


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with ten classes whose batch norms have seen images, and a batch of two images."""
    import timm

    torch.manual_seed(0)
    try:
        model = timm.create_model(name, num_classes=10, img_size=SIZE)
        size = SIZE
    except TypeError:
        # The network has no option for the size: it takes any, or that of its configuration alone.
        model = timm.create_model(name, num_classes=10)
        configuration = model.pretrained_cfg
        size = configuration["input_size"][-1] if configuration.get("fixed_input_size") else SIZE
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(5):
            model.train()(torch.randn(4, 3, size, size, generator=generator))
    return model, torch.randn(2, 3, size, size, generator=generator)


def train(name: str) -> Iterator[tuple[str, dict]]:
    """Attach, train and detach; yields each stage that has passed, with what was measured."""
    from hmq_lab import attach, detach, placements
    from hmq_lab.network import blocks, switched_off

    model, x = build(name)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model.eval()(x)

    began = time.perf_counter()
    attach(model, sample=x)
    seconds = time.perf_counter() - began
    with torch.no_grad(), switched_off(model):
        if not torch.equal(model(x), expected):
            raise AssertionError("without its blocks the network is not the float network")
    count = sum(place.quantized for place in placements(model))
    yield "attach", {"seconds": round(seconds, 1), "tensors": count, "size": x.shape[-1]}

    # As anyone writes it: no call of resample, because a training pass draws its own noise.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.train()
    began = time.perf_counter()
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(logits(model(x)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = (time.perf_counter() - began) / STEPS
    reached = [block.logits.grad is not None for block in blocks(model).values()]
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise AssertionError("a parameter is not finite after training")
    yield "train", {"seconds_per_step": round(seconds, 3), "with_gradient": sum(reached)}

    detach(model)
    if list(model.state_dict()) != list(original):
        raise AssertionError("detach leaves another state dict")
    yield "detach", {}


def logits(output: object) -> torch.Tensor:
    """The first tensor of what a network returns: distilled networks return two."""
    return output if isinstance(output, torch.Tensor) else logits(output[0])


def deploy(name: str) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The stages of hardware mode; each is a function that returns what was measured."""
    from hmq_lab import attach
    from hmq_lab.hardware.integer import IntegerNetwork
    from hmq_lab.hardware.onnx_export import export
    from hmq_lab.hardware.packing import pack, unpack
    from hmq_lab.network import blocks, switched_off

    model, x = build(name)
    twin = copy.deepcopy(model)
    weights: dict[str, nn.Module] = {}
    folder = Path(tempfile.mkdtemp())

    def hardware_mode() -> dict:
        with torch.no_grad():
            expected = model.eval()(x)
        attach(model, sample=x, hardware=True)
        # Folding a batch norm changes a network by rounding alone.
        with torch.no_grad(), switched_off(model):
            error = float((model(x) - expected).abs().max() / expected.abs().max())
        if error > 1e-3:
            raise AssertionError(f"folding changes the logits by {error:.3g} of the largest")
        for block in blocks(model).values():
            block.fix()
        weights.update(blocks(model, "weight"))
        with torch.no_grad():
            hardware_mode.logits = model(x)
        return {}

    def packed() -> dict:
        sizes = pack(model, folder / "packed", "own")
        again = unpack(folder / "packed", twin).eval()
        with torch.no_grad():
            check_equal(again(x), hardware_mode.logits)
        return {"bytes": sizes.file}

    def integers() -> dict:
        network = IntegerNetwork.from_selected(model)
        codes, exponent = network(x)
        exact = network.beyond_float32(x) == 0  # other sums do not fit into float32
        found = (codes * 2.0**exponent).float()
        check_equal(found[exact], hardware_mode.logits[exact])
        return {"images": int(exact.sum())}

    def onnx() -> dict:
        export(model, folder / "model.onnx")
        names = [f"{name} quantized" for name in blocks(model) if name not in weights]
        found = onnx_values(folder / "model.onnx", [*names, "logits"], x)
        different = check_blocks(model, found, x)
        difference = (found["logits"] - hardware_mode.logits).abs().mean()
        relative = float(difference / hardware_mode.logits.abs().mean().clamp_min(1e-12))
        return {"codes_that_differ": different, "relative_difference": relative}

    yield from zip(HARDWARE, (hardware_mode, packed, integers, onnx), strict=True)


def check_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise AssertionError that says how far two tensors differ."""
    if not torch.equal(found, expected):
        largest = (found - expected).abs().max()
        raise AssertionError(f"differs from the simulation by {largest:.3g} at most")


def onnx_values(path: Path, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors of an ONNX file by name, as onnxruntime computes them node by node."""
    import onnx

    from hmq_lab.hardware.onnx_export import session

    # onnxruntime gives the outputs of a file alone: make all of them outputs.
    file = onnx.load(path)
    outputs = {output.name for output in file.graph.output}
    for name in names:
        if name not in outputs:
            kind = onnx.TensorProto.FLOAT
            file.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    onnx.save(file, path.with_suffix(".all.onnx"))
    running = session(path.with_suffix(".all.onnx"), optimized=False)
    values = running.run(names, {"x": x.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def check_blocks(model: nn.Module, found: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    """The share of codes in which onnxruntime and the simulation differ, from the same codes.

    Two libraries add floats in another order, and have another sigmoid. So a value that lies
    between two codes may be rounded to the one or to the other, and the layers that follow make
    more of it: outputs alone tell little of a deep network. Here every operation of the simulation
    reads the codes that onnxruntime has. AssertionError: a code that differs although its value is
    not near the middle of two codes, or logits that differ by more than floats do.
    """
    from hmq_lab.network import blocks

    counts = {"codes": 0, "different": 0}

    def judge(name: str):
        def hook(block, inputs, ours):
            theirs = found[f"{name} quantized"]
            different = ours != theirs
            counts["codes"] += different.numel()
            counts["different"] += int(different.sum())
            # Values in steps: the middle of two codes is at a half.
            steps = inputs[0] / block.scheme.step
            distance = (steps - steps.floor() - 0.5).abs()[different]
            near = FLOAT_ERROR * float(steps.abs().max())
            if (distance > near).any() or ((ours - theirs).abs() > block.scheme.step).any():
                raise AssertionError(f"{name} differs by more than a rounding")
            return theirs

        return hook

    hooks = [
        block.register_forward_hook(judge(name))
        for name, block in blocks(model).items()
        if f"{name} quantized" in found
    ]
    try:
        with torch.no_grad():
            ours = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    error = float((ours - found["logits"]).abs().max() / ours.abs().max().clamp_min(1e-12))
    if error > FLOAT_ERROR:
        raise AssertionError(f"the logits differ by {error:.3g} of the largest, from equal codes")
    return counts["different"] / max(1, counts["codes"])


def run_one(family: str, path: Path) -> None:
    """All stages of a family; the file is written after each, so that a death can be placed."""
    torch.set_num_threads(1)
    name = FAMILIES[family]
    result: dict = {"family": family, "network": name, "stages": {}}

    def note(stage: str, entry: dict) -> None:
        result["stages"][stage] = entry
        path.write_text(json.dumps(result))

    # Training: the first stage that fails ends it.
    stages = iter(TRAINING)
    running = next(stages)
    try:
        for stage, measured in train(name):
            note(stage, {"result": "passed", **measured})
            running = next(stages, "")
    except Exception as error:
        note(running, failure(error))
    if family not in CONVOLUTIONAL:
        return

    # Hardware mode: without it there is nothing to pack or to export.
    for stage, function in deploy(name):
        try:
            note(stage, {"result": "passed", **function()})
        except Exception as error:
            note(stage, failure(error))
            if stage == "hardware mode":
                return


def failure(error: Exception) -> dict:
    """A refusal is a ValueError of one line; whatever else is raised is an error."""
    message = str(error)
    is_refusal = isinstance(error, ValueError) and "\n" not in message
    kind = "refused" if is_refusal else "error"
    # A refusal is a sentence for readers; of an error its kind matters.
    said = message if is_refusal else f"{type(error).__name__}: {message}"
    return {"result": kind, "message": said[:2000], "traceback": traceback.format_exc()}


# ---------------------------------------------------------------- all families


def run_all(families: list[str], out: Path) -> list[dict]:
    """The results of all families, each from a child process; `out` gets them as they come."""
    results: list[dict] = []
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.json"
            command = [sys.executable, __file__, "--child", str(path), family]
            began = time.perf_counter()
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=LIMIT
                )
                code, said = done.returncode, done.stderr
            except subprocess.TimeoutExpired:
                code, said = -1, f"stopped after {LIMIT} s"
            empty = {"family": family, "network": FAMILIES[family], "stages": {}}
            result = json.loads(path.read_text()) if path.exists() else empty
        # A process that dies has not written what it was doing.
        if code != 0:
            message = f"exit code {code}: {said.strip()[-500:]}"
            died = {"result": "died", "message": message, "traceback": said[-5000:]}
            result["stages"][next_stage(result)] = died
        result["seconds"] = round(time.perf_counter() - began)
        results.append(result)
        print(line(result), flush=True)
        # What there is so far, so that a run which is stopped has not been for nothing.
        (out / "networks.json").write_text(json.dumps(results, indent=1))
        (out / "report.txt").write_text(report(results))
    return results


def next_stage(result: dict) -> str:
    """The first stage that has no entry."""
    return next(stage for stage in (*TRAINING, *HARDWARE, "end") if stage not in result["stages"])


def word(result: dict, stage: str) -> str:
    """What the table says of a stage."""
    entry = result["stages"].get(stage)
    if entry is None:
        return ""
    return "equal" if stage in HARDWARE[1:] and entry["result"] == "passed" else entry["result"]


def line(result: dict) -> str:
    """A row of the table."""
    cells = [result["family"], result["network"]]
    cells += [word(result, stage) for stage in (*TRAINING, *HARDWARE)]
    return "| " + " | ".join(cells) + " |"


def trained(result: dict) -> bool:
    """Whether a family has passed attach, training and detach."""
    return all(word(result, stage) == "passed" for stage in TRAINING)


def table(results: list[dict]) -> str:
    """The page docs/networks.md: a row for each family, then what was refused, in its words."""
    import timm

    passed = sum(map(trained, results))
    versions = f"timm {timm.__version__}, torch {torch.__version__.split('+')[0]}"
    lines = [
        "# Networks that hmq_lab reads",
        "",
        f"{passed} of {len(results)} families of {versions}",
        f"pass attach, {STEPS} training steps and detach. The convolutional ones are also attached",
        "in hardware mode, packed, run on integers and by onnxruntime: *equal* is equal to the",
        "simulation, *refused* is a refusal; its reason is below the table. onnxruntime is compared",
        "block by block, each from the codes before it: floats are added in another order there, and",
        "a value in the middle of two codes may get the other one.",
        "`python bench/networks.py` writes this page; see bench/README.md.",
        f"One thread of {platform.machine()}, Python {platform.python_version()}, "
        f"{sum(result['seconds'] for result in results) / 60:.0f} minutes in all.",
        "",
        "| family | network | " + " | ".join((*TRAINING, *HARDWARE)) + " |",
        "|" + "---|" * (2 + len(TRAINING) + len(HARDWARE)),
    ]
    lines += map(line, results)
    lines += ["", "## What was refused or failed", ""]
    for result in results:
        for stage, entry in result["stages"].items():
            if entry["result"] != "passed":
                message = " ".join(entry["message"].split())[:300]
                lines.append(f"- {result['network']}, {stage}: {entry['result']}: {message}")
    return "\n".join(lines) + "\n"


def report(results: list[dict]) -> str:
    """The tracebacks of all that did not pass, by family."""
    parts = []
    for result in results:
        for stage, entry in result["stages"].items():
            if entry["result"] != "passed":
                title = f"{result['family']} ({result['network']}), {stage}: {entry['result']}"
                parts.append(f"{title}\n{entry['message']}\n\n{entry['traceback']}")
    return f"\n{'-' * 80}\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="modules of timm (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/networks"), help="results, reports")
    parser.add_argument("--table", type=Path, help="the page (default: docs/networks.md for all)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [family for family in options.families if family not in FAMILIES]
    if unknown:
        parser.error(f"no family {unknown[0]!r}: there are {', '.join(FAMILIES)}")
    if options.child is not None:
        run_one(options.families[0], options.child)
        return

    results = run_all(options.families or list(FAMILIES), options.out)
    page = options.table
    if page is None and not options.families:
        page = Path(__file__).parent.parent / "docs" / "networks.md"
    if page is not None:
        page.write_text(table(results))
    print(
        f"{sum(map(trained, results))} of {len(results)} families train; {options.out}/report.txt"
    )


if __name__ == "__main__":
    main()
