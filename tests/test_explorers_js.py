"""The modules of JavaScript compute what Python computes: hundreds of states each, numbers and
sentences, in node.
"""

import base64
import dataclasses
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from hmq_lab import SearchSpace, explorers
from hmq_lab.explorers import modules, tensors
from hmq_lab.explorers.frame import changed
from hmq_lab.runs import records

NODE = shutil.which("node")
HARNESS = Path(__file__).with_name("explorers_node.mjs")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(24, 6, 3, 3, generator=GENERATOR) * 0.1
HALVES = torch.arange(-9, 9) / 4  # values on the borders between levels
MIXED = [records.recorded(f"cifar10-resnet20-w14-a8{end}") for end in ("", "-hardware")]


def asked(explorer, states, keys, moves=()) -> dict:
    """What the harness needs to compute the states."""
    module = explorer.module
    data = modules.data_of(module, explorer.allowed)
    sent = [module.state(state) for state in states]
    return {
        "source": modules.source(module.name),
        "data": data,
        "states": sent,
        "keys": keys,
        "moves": list(moves),
    }


def answered(tmp_path, *questions) -> list[dict]:
    """What node says to each question."""
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(questions, default=lambda data: base64.b64encode(data).decode()))
    run = subprocess.run([NODE, HARNESS, file], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def over(explorer, **values) -> list:
    """The states with each of these values, as a reader reaches them."""
    chosen = itertools.product(*values.values())
    return [
        changed(explorer.state, explorer.allowed, dict(zip(values, one, strict=True)))
        for one in chosen
    ]


def agree(explorer, states, found, pairs) -> None:
    """Python says and computes the same for each state. pairs: (result of Python, result of
    JavaScript) -> values.
    """
    assert len(states) == len(found["results"])
    for state, theirs in zip(states, found["results"], strict=True):
        ours = explorer._compute(state)
        assert theirs["sentence"] == ours.sentence
        for mine, other in pairs(ours, theirs):
            assert np.allclose(
                np.ravel(np.array(mine, dtype=float)), np.ravel(other), rtol=1e-9, atol=1e-12
            )


def test_the_quantizer(tmp_path):
    questions, made = [], []
    for tensor in (WEIGHT, WEIGHT.abs(), HALVES, torch.zeros(4)):
        explorer = explorers.quantizer(tensor)
        exponents = explorer.allowed["exponent"].options
        states = over(
            explorer,
            bits=range(1, 9),
            exponent=exponents,
            signed=(True, False),
            authors=(True, False),
        )
        made.append((explorer, states))
        questions.append(asked(explorer, states, ["sentence", "step", "ranges"]))
    total = 0
    for (explorer, states), found in zip(made, answered(tmp_path, *questions), strict=True):

        def pairs(ours, theirs):
            assert list(ours.ranges) == list(theirs["ranges"])
            for name, one in ours.ranges.items():
                lost = theirs["ranges"][name]["loss"]
                yield (
                    dataclasses.astuple(one.loss),
                    [lost["rounding"], lost["clipping"], lost["clipped"]],
                )
                yield one.levels[[0, -1]], np.array(theirs["ranges"][name]["ends"]) * theirs["step"]

        agree(explorer, states, found, pairs)
        total += len(states)
    assert total >= 1000


def test_the_surface(tmp_path):
    made = [explorers.surface(tensor) for tensor in (WEIGHT, WEIGHT.abs(), HALVES, torch.zeros(4))]
    states = [over(one, bits=range(1, 9), exponent=one.allowed["exponent"].options) for one in made]
    questions = [
        asked(one, few, ["sentence", "loss", "least", "best"])
        for one, few in zip(made, states, strict=True)
    ]
    for explorer, few, found in zip(made, states, answered(tmp_path, *questions), strict=True):
        best = list(explorer.result.surface.best.values())
        agree(
            explorer,
            few,
            found,
            lambda a, b, best=best: [(a.loss, b["loss"]), (a.least, b["least"]), (best, b["best"])],
        )
    assert sum(map(len, states)) >= 256


def test_gumbel(tmp_path):
    temperatures = (0.05, 0.2, 0.5, 1.0, 3.0, 20.0)
    made = [
        explorers.gumbel(),
        explorers.gumbel([0.0, 0.3]),
        explorers.gumbel(np.linspace(-2, 1, 7)),
    ]
    states = [
        over(one, temperature=temperatures, seed=(0, 1, 77), samples=(10, 130, 1000))
        for one in made
    ]
    states = [
        few + over(one, category=(1,), logit=(-2.0, 0.0, 5.5))
        for one, few in zip(made, states, strict=True)
    ]
    states = [
        few + over(one, epoch=np.arange(0, 10.001, 0.4).tolist())
        for one, few in zip(made, states, strict=True)
    ]
    moves = [
        ("category", 1),
        ("logit", 2.5),
        ("epoch", 3.04),
        ("epoch", 5.0),
        ("temperature", 0.3),
        ("seed", 4),
    ]
    keys = ["sentence", "probabilities", "chosen", "mean", "decided"]
    questions = [asked(one, few, keys, moves) for one, few in zip(made, states, strict=True)]
    for explorer, few, found in zip(made, states, answered(tmp_path, *questions), strict=True):
        agree(explorer, few, found, lambda a, b: [(getattr(a, key), b[key]) for key in keys[1:]])
        follows(explorer, few[0], moves, found["path"])
    assert sum(map(len, states)) >= 200


def follows(explorer, state, moves, path) -> None:
    """The same moves lead to the same states in Python, which takes each of the browser's states."""
    for (name, value), there in zip(moves, path, strict=True):
        state = changed(state, explorer.allowed, {name: value})
        heard = changed(state, explorer.allowed, there, derive=False)
        assert explorer.module.state(heard).keys() == there.keys()
        for field, mine in explorer.module.state(state).items():
            other = there[field]
            assert mine == other or np.allclose(mine, other, rtol=1e-9, atol=1e-12), (name, field)


def test_the_block(tmp_path):
    few = SearchSpace(bits=(2, 4, 8), thresholds=3)
    made = [
        explorers.block(WEIGHT),
        explorers.block(WEIGHT.abs(), bits=2),
        explorers.block(HALVES, space=few),
    ]
    moves = [
        ("bits", 4),
        ("mass", 0.3),
        ("temperature", 0.6),
        ("sample", 3),
        ("mass", 0.999),
        ("mass", 0.001),
    ]
    questions, states = [], []
    for explorer in made:
        bits, exponents = explorer.state.bit_widths, explorer.state.exponents
        some = over(explorer, bits=bits, exponent=exponents[::2], mass=(0.05, 0.5, 0.95))
        some += over(
            explorer,
            bits=bits[:2],
            mass=(0.4,),
            temperature=(0.05, 0.5, 3.0, 20.0),
            sample=(0, 1, 17, 50),
        )
        states.append(some)
        questions.append(
            asked(explorer, some, ["sentence", "p", "step", "threshold", "gradient"], moves)
        )
    for explorer, some, found in zip(made, states, answered(tmp_path, *questions), strict=True):
        agree(
            explorer,
            some,
            found,
            lambda a, b: [
                (a.weights, b["p"]),
                (a.step, b["step"]),
                (a.threshold, b["threshold"]),
                (a.gradient, b["gradient"]),
            ],
        )
        follows(explorer, some[0], moves, found["path"])
    assert sum(map(len, states)) >= 200


def test_replay_and_selection(tmp_path):
    names = (
        "builtin-tiny_resnet8-w8-a8",
        "cifar10-resnet20-w13-a4-hardware",
        "imagenette160-mobilenet_v2-w8-acr8",
    )
    shown = [records.recorded(name) for name in names]
    made = [explorers.replay(record) for record in shown] + [
        explorers.selection(record) for record in shown
    ]
    made += [explorers.selection(*MIXED), explorers.selection(*MIXED[::-1])]
    moves = [("play", 3), ("layer", None), ("step", None), ("play", 0)]
    questions, states = [], []
    for explorer in made:
        steps, layers = explorer.allowed["step"].options, explorer.allowed["layer"].options
        states.append(
            over(explorer, step=steps[::3] + steps[-2:], layer=layers[:: max(1, len(layers) // 12)])
        )
        moves[1:3] = [("layer", layers[-1]), ("step", steps[-1])]
        keys = (
            ["sentence", "choice", "table", "expected", "actual"]
            if "replay" == explorer.module.name
            else ["sentence"]
        )
        questions.append(asked(explorer, states[-1], keys, moves))
    for explorer, some, found in zip(made, states, answered(tmp_path, *questions), strict=True):

        def pairs(ours, theirs):
            if "table" in theirs:
                yield ours.choice, [theirs["choice"]["bits"], theirs["choice"]["exponent"]]
                yield ours.table, theirs["table"]
                yield [ours.expected_rate, ours.actual_rate], [theirs["expected"], theirs["actual"]]

        agree(explorer, some, found, pairs)
        steps, layers = explorer.allowed["step"].options, explorer.allowed["layer"].options
        path = [("play", 3), ("layer", layers[-1]), ("step", steps[-1]), ("play", 0)]
        follows(explorer, some[0], path, found["path"])
    kinds = [sum(len(few) for one, few in zip(made, states, strict=True) if one.module.name == name)
             for name in ("replay", "selection")]  # fmt: skip
    assert min(kinds) >= 200


def test_many_values_cost_little_and_nothing_is_lost(tmp_path):
    x = torch.randn(6_400_000, generator=torch.Generator().manual_seed(1)).relu()
    explorer = explorers.quantizer(x)
    sample = explorer.result.values
    assert sample.size == x.numel() and len(sample.v) < 70_000
    schemes = [(3, 2), (8, 4), (8, -3), (1, 0), (5, 1)]
    states = [
        changed(explorer.state, explorer.allowed, {"bits": b, "exponent": e}) for b, e in schemes
    ]
    states += over(explorer, bits=(2, 4), signed=(True,), authors=(True, False))
    (found,) = answered(tmp_path, asked(explorer, states, ["sentence", "ranges"]))
    assert found["milliseconds"] < 20
    values = x.double().numpy()
    for state, theirs in zip(states, found["results"], strict=True):
        ours = explorer._compute(state)
        assert theirs["sentence"] == ours.sentence
        # Beside the plain formula over all values.
        low, high = ours.scheme.integers
        codes = np.round(values / ours.scheme.step)
        beyond = (codes < low) | (codes > high)
        square = np.square(np.clip(codes, low, high) * ours.scheme.step - values)
        lost = theirs["ranges"]["two's complement"]["loss"]
        assert lost["clipped"] == beyond.sum()
        assert lost["rounding"] == pytest.approx(
            square[~beyond].sum() / np.square(values).sum(), rel=1e-9
        )
        assert lost["clipping"] == pytest.approx(
            square[beyond].sum() / np.square(values).sum(), rel=1e-9
        )


def test_numbers_are_written_as_python_writes_them(tmp_path):
    values = [
        0.0,
        1.0,
        -2.5,
        0.125,
        0.375,
        2.5,
        3.5,
        0.045,
        0.3125,
        0.03125,
        99.95,
        99.949,
        1234.5,
        123456,
        1e6,
        1234567,
    ]
    values += [
        1e-4,
        0.00012345,
        9.9999e-5,
        1.25e-7,
        1 / 3,
        2 / 3,
        1e21,
        12.25,
        0.5,
        1.5,
        1e-300,
        6.25,
        0.28125,
    ]
    values += torch.randn(400, generator=GENERATOR).double().exp().pow(3).tolist()
    common = (modules.FOLDER / "common.js").read_text()
    source = (
        common
        + """
export const prepare = (data) => data;
export const compute = (_, { x }) => ({ said: [
  ...[1, 2, 3, 4, 6].map((digits) => general(x, digits)), ...[0, 1, 2].map((decimals) => fixed(x, decimals)),
  percent(x), percent(x, 1), commas(Math.trunc(x)), rint(x)] });
export default { module: {} };"""
    )
    # Beyond 1e21 a count is no longer written in digits, as none is.
    shown = [x for x in values if x < 1e20]
    question = {
        "source": source,
        "data": {},
        "states": [{"x": x} for x in shown],
        "keys": ["said"],
        "moves": [],
    }
    (found,) = answered(tmp_path, question)
    for x, result in zip(shown, found["results"], strict=True):
        said = [f"{x:.{digits}g}" for digits in (1, 2, 3, 4, 6)] + [
            f"{x:.{decimals}f}" for decimals in (0, 1, 2)
        ]
        said += [tensors.percent(x), tensors.percent(x, 1), f"{int(x):,}"]
        assert result["said"][:-1] == said, x
        assert result["said"][-1] == np.round(x)


def test_noise_is_that_of_numpy(tmp_path):
    common = (modules.FOLDER / "common.js").read_text()
    source = (
        common
        + """
export const prepare = (data) => data;
export const compute = (_, { seed, count }) => ({ noise: Array.from(gumbelNoise(seed, count)) });
export default { module: {} };"""
    )
    states = [{"seed": seed, "count": count} for seed, count in ((0, 3), (1, 700), (99, 3000))]
    question = {"source": source, "data": {}, "states": states, "keys": ["noise"], "moves": []}
    (found,) = answered(tmp_path, question)
    for state, result in zip(states, found["results"], strict=True):
        expected = tensors.noise(state["seed"], state["count"])
        assert np.allclose(result["noise"], expected, rtol=1e-13, atol=1e-14)
    assert abs(tensors.noise(5, 20_000).mean() - np.euler_gamma) < 0.03
