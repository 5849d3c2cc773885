"""Why a layer has its bits: every number against a full pass, the sentences against the numbers."""

import copy
import dataclasses
import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import SearchSpace, attach, data, models
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.network import blocks
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.arena import Arena
from hmq_lab.rivals.explain import Change, Explanation, explain, of_record, of_run
from hmq_lab.rivals.game import held_images
from hmq_lab.rivals.landscape import original
from hmq_lab.runs import records
from hmq_lab.runs.records import RECORDED, Record

RECORD = records.recorded("builtin-tiny_resnet8-w8-a8")
X, Y = held_images(data.load("builtin"), 200)


@pytest.fixture(scope="module")
def model():
    """The built-in network with the float weights and the recorded search's schemes."""
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    arena = Arena(network, X, Y, "tiny_resnet8", RECORD)
    return arena.network(arena.rival)


@pytest.fixture(scope="module")
def found(model):
    return explain(model, X, Y, RECORD)


def full_pass(model, choice):
    """Loss and accuracy of a whole forward pass; choice: {weight: (bits, exponent) or None}."""
    model = copy.deepcopy(model).eval()
    for name, block in blocks(model, "weight").items():
        if name in choice and choice[name] is None:
            block.enabled = False
        elif name in choice:
            block.fix(Scheme(*choice[name], True))
    with torch.no_grad():
        scores = model(X)
    right = (scores.argmax(1) == Y).double().mean().item()
    return F.cross_entropy(scores, Y).item(), 100 * right


def best_exponent(model, name, bits):
    """The threshold with the least squared error, by the plain formula in double precision."""
    weight = original(model, name).detach().double()
    errors = {}
    for exponent in blocks(model)[name].exponents.tolist():
        step = 2.0 ** (exponent - bits + 1)
        levels = (weight / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        errors[exponent] = (levels * step - weight).square().sum().item()
    return min(errors, key=errors.get)


def test_every_number_is_that_of_a_full_pass(model, found):
    names = list(blocks(model, "weight"))
    sizes = {name: original(model, name).numel() for name in names}
    bits = {t["name"]: t["bits"] for t in RECORD.tensors if t["kind"] == "weight"}
    loss, accuracy = full_pass(model, {})
    floats = dict.fromkeys(names)
    float_loss, float_accuracy = full_pass(model, floats)
    assert (found.loss, found.accuracy) == pytest.approx((loss, accuracy), abs=1e-6)
    assert (found.float_loss, found.float_accuracy) == pytest.approx(
        (float_loss, float_accuracy), abs=1e-6
    )
    assert found.compression == pytest.approx(RECORD.rates.weights) and found.count == 200
    assert list(found.reasons) == names

    for name in names:
        reason = found[name]
        assert (reason.bits, reason.size) == (bits[name], sizes[name])
        assert reason.share == sizes[name] / sum(sizes.values())
        alone = {key: value for key, value in floats.items() if key != name}
        assert reason.alone_on == pytest.approx(full_pass(model, alone)[0] - float_loss, abs=1e-6)
        assert reason.alone_off == pytest.approx(loss - full_pass(model, {name: None})[0], abs=1e-6)
        for change, other in ((reason.less, bits[name] - 1), (reason.more, bits[name] + 1)):
            assert (change is None) == (other not in range(1, 9))
            if change is None:
                continue
            after = full_pass(model, {name: (other, best_exponent(model, name, other))})
            used = sum((bits | {name: other})[key] * sizes[key] for key in names)
            assert change.bits == other
            assert change.loss == pytest.approx(after[0] - loss, abs=1e-6)
            assert change.points == pytest.approx(after[1] - accuracy, abs=1e-9)
            assert change.compression == pytest.approx(32 * sum(sizes.values()) / used)


def test_the_sentences_say_what_a_full_pass_measures(model, found):
    loss, accuracy = full_pass(model, {})
    prices, free = {}, {}
    for name, reason in found.reasons.items():
        fewer = reason.bits - 1
        after = full_pass(model, {name: (fewer, best_exponent(model, name, fewer))})
        points, rise = after[1] - accuracy, after[0] - loss
        prices[name], free[name] = rise / reason.size, rise <= 0 and points >= 0
        said = re.search(
            rf"(\d+\.\d) % of the weights, and {fewer} bits? would (cost|gain|change) .*?"
            r"\(loss ([+-]\d\.\d{4})\) and change the compression from 8.02 to (\d+\.\d\d)",
            reason.sentence,
        )
        assert said, reason.sentence
        assert float(said[1]) == pytest.approx(100 * reason.size / 18968, abs=0.051)
        assert float(said[3]) == pytest.approx(rise, abs=6e-5)
        word = "change" if abs(points) < 0.05 else "cost" if points < 0 else "gain"
        assert said[2] == word and ("change nothing (loss +0.0000)" in reason.sentence) == (
            rise == 0
        )
        if word != "change":
            assert f"would {word} {abs(points):.1f} points" in reason.sentence
    usual = sum(price * found[name].size for name, price in prices.items()) / 18968
    for name, reason in found.reasons.items():
        price = prices[name]
        kept = "keeps" if price > usual else "gets by with"
        word = "could have fewer than" if free[name] else kept
        assert reason.sentence.startswith(f"{name} {word} {reason.bits} bit"), reason.sentence
        times = re.search(r"A bit here costs (\S+) times the usual", reason.sentence)
        assert bool(times) == (price > 0 and usual > 0)
        assert not times or float(times[1]) == pytest.approx(price / usual, rel=0.06)
    assert {r.sentence.split()[1] for r in found.reasons.values()} >= {"keeps", "could"}


def test_the_way_of_the_search_is_that_of_the_record(found):
    repair = RECORD.of("repair")[0]["step"]
    tables = [e for e in RECORD.of("tables") if e["step"] <= repair]
    for t in RECORD.tensors:
        if t["kind"] != "weight":
            continue
        formed = found[t["name"]].formed
        rows = [
            [sum(row) / sum(map(sum, e["tables"][t["name"]])) for row in e["tables"][t["name"]]]
            for e in tables
        ]
        best = [row.index(max(row)) + 1 for row in rows]
        assert formed.bits == t["bits_before_repair"] == best[-1]
        assert formed.probability == pytest.approx(max(rows[-1]), abs=1e-6)
        at = [e["step"] for e in tables].index(formed.since)
        assert set(best[at:]) == {formed.bits} and (at == 0 or best[at - 1] != formed.bits)
        plural = "" if formed.bits == 1 else "s"
        said = f"a probability of {formed.probability:.2f} for {formed.bits} bit{plural}, the most"
        assert said in found[t["name"]].sentence
        assert ("the repair made it" in found[t["name"]].sentence) == (
            t["bits"] != t["bits_before_repair"]
        )


@pytest.mark.parametrize("name", records.names())
def test_every_record_of_the_package_is_explained(name):
    """What a record says without weights: each sentence against the file's own bits and sizes."""
    content = json.loads((RECORDED / f"{name}.json").read_text())
    weights = [t for t in content["tensors"] if t["kind"] == "weight"]
    used = sum(t["bits"] * t["size"] for t in weights)
    total = sum(t["size"] for t in weights)
    explanation = of_record(records.recorded(name))
    assert list(explanation.reasons) == [t["name"] for t in weights]
    for t in weights:
        sentence = explanation[t["name"]].sentence
        assert sentence.startswith(f"{t['name']} has ")
        share = float(re.search(r"it has (\d+\.\d) % of the weights", sentence)[1])
        assert share == pytest.approx(100 * t["size"] / total, abs=0.051)
        # Both neighbours, where the space has them, with what they do to the compression.
        effects = re.findall(
            r"(\d) bits? would change the compression from (\d+\.\d+) to (\d+\.\d+)", sentence
        )
        widths = sorted(t["space"]["bits"])
        near = {b for b in widths if abs(widths.index(b) - widths.index(t["bits"])) == 1}
        assert {int(bits) for bits, _, _ in effects} == near
        for bits, before, after in effects:
            changed = used + (int(bits) - t["bits"]) * t["size"]
            assert before != after
            assert float(before) == pytest.approx(32 * total / used, abs=0.0051)
            assert float(after) == pytest.approx(32 * total / changed, abs=0.0051)


def test_the_gradient_score_is_the_slope_towards_the_quantized_weight():
    """Against finite differences, on a network without quantized activations between."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 3, 4, 4), torch.arange(30) % 5
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double()
    model = attach(network, space=SearchSpace((2, 4, 8), 4), sample=x.double())
    for block in blocks(model).values():
        block.fix(block.select(4) if len(block.bits) > 1 else None)
    found = explain(model, x.double(), y)
    reason = found["1.weight"]
    weight, bias = original(model, "1.weight").detach(), network[1].bias.detach()
    block = blocks(model)["1.weight"]
    with torch.no_grad():
        direction = network[1].eval().weight.detach() - weight

    def loss(t):
        return F.cross_entropy(x.double().flatten(1) @ (weight + t * direction).T + bias, y).item()

    assert block.scheme.bits == 4 and direction.abs().max() > 0
    assert reason.gradient == pytest.approx((loss(1e-4) - loss(-1e-4)) / 2e-4, rel=1e-5)
    assert reason.alone_on == pytest.approx(loss(1.0) - loss(0.0), rel=1e-9)
    assert reason.formed is None and "The search" not in reason.sentence
    assert (reason.less.bits, reason.more.bits) == (2, 8)


def test_a_weight_of_the_fewest_bits_can_only_have_more(model):
    model = copy.deepcopy(model)
    block = blocks(model)["linear.weight"]
    block.fix(block.select(1))
    reason = explain(model, X[:50], Y[:50])["linear.weight"]
    assert reason.less is None and reason.more.bits == 2
    assert reason.sentence.startswith(
        "linear.weight has the fewest bits, 1: it has 1.7 % of the weights. 2 bits would"
    )


def test_the_network_stays_as_it_was(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explain(model, X[:20], Y[:20])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(block.enabled for block in blocks(model).values())
    assert all(p.grad is None for p in model.parameters())


def test_a_table_for_people(found):
    lines = found.table().splitlines()
    assert lines[0].split()[:3] == ["weight", "bits", "share"]
    assert lines[1].split()[:2] == ["conv1.weight", "8"] and len(lines) == 2 * 8 + 3
    assert lines[-8:] == [reason.sentence for reason in found.reasons.values()]
    assert f"loss {found.loss:.4f}" in found.table()


def test_what_cannot_be_explained_is_named(model, found):
    with pytest.raises(KeyError, match=r"no weight 'conv9\.weight'; there are conv1\.weight"):
        found["conv9.weight"]
    with pytest.raises(ValueError, match=r"of a network with other weights: conv9\.weight"):
        odd = Record(
            RECORD.header,
            [{"name": "conv9.weight", "kind": "weight", "space": {"bits": [1, 2]}}],
            events=[{"kind": "tables", "step": 1, "tables": {"conv9.weight": [[0.5], [0.5]]}}],
        )
        explain(model, X, Y, odd)
    with pytest.raises(FileNotFoundError):
        of_run("nowhere")


def test_a_finished_run_is_explained_from_its_folder(tmp_path):
    from hmq_lab import search
    from hmq_lab.settings import preset

    torch.manual_seed(0)
    settings = preset(
        "quick/builtin", search_epochs=1, final_epochs=0, compile="off", calibration_images=64
    )
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    full = data.load("builtin")
    splits = {"train": 256, "validation": 64, "test": 64}
    few = {name: getattr(full, name).subset(range(n)) for name, n in splits.items()}
    cut = dataclasses.replace(full, **few)
    search(
        network,
        cut,
        8.0,
        settings=settings,
        name="tiny_resnet8",
        hardware=True,
        out=tmp_path,
        progress=False,
    )
    found = of_run(tmp_path, count=100)
    assert isinstance(found, Explanation) and found.count == 100
    assert found.compression == pytest.approx(records.read(tmp_path).rates.weights)
    assert all(isinstance(r.less or r.more, Change) and r.formed for r in found.reasons.values())
