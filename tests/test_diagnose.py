"""What went wrong: for each rule a run on purpose that triggers it, and one that does not."""

import copy
import dataclasses
import functools
import os
import signal

import numpy as np
import pytest
import torch

from hmq_lab import SearchSpace, data, models, search
from hmq_lab.data.files import read_tensors, write_tensors
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.network import blocks
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.diagnose import (
    BREAKS,
    CLIPPED,
    MOVED,
    RULES,
    Diagnosis,
    clipped_parts,
    diagnose,
    of_run,
)
from hmq_lab.rivals.material import Material, gather
from hmq_lab.runs import records
from hmq_lab.settings import preset

# A few seconds: 16 steps an epoch.
QUICK = {
    "search_epochs": 2,
    "final_epochs": 1,
    "batch_size": 16,
    "logit_learning_rate": 0.4,
    "cycles": 1,
    "target_steps": 1,
    "calibration_images": 64,
    "compile": "off",
    "log_every": 4,
}


@functools.cache
def few(darker=1.0):
    """The built-in images, few of them; those of training may be darker."""
    full = data.load("builtin")
    train = full.train.subset(range(256))
    if darker != 1.0:
        train = dataclasses.replace(train, images=(train.images * darker).to(train.images.dtype))
    held = full.validation.subset(range(200))
    return dataclasses.replace(full, train=train, validation=held, test=held)


def float_network():
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    return network


def run(folder, target=8.0, space=None, darker=1.0, on_event=None, **changes):
    """A search of the built-in network, written to a folder."""
    settings = preset("quick/builtin", **QUICK | changes)
    return search(
        float_network(),
        few(darker),
        target,
        settings=settings,
        space=space,
        name="tiny_resnet8",
        out=folder,
        progress=False,
        on_event=on_event,
    )


# A search that reaches its target by itself, in 96 steps.
WELL = {"search_epochs": 6, "network_learning_rate": 1e-4, "gamma": 128.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run that went well enough."""
    folder = tmp_path_factory.mktemp("good")
    run(folder, 6.0, **WELL)
    return folder


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A run whose logits stood still, and whose stage 2 did, too."""
    folder = tmp_path_factory.mktemp("still")
    # Its statistics are those of the selection from the first: stage 2 changes nothing at all.
    options = {"logit_learning_rate": 0.0, "final_learning_rate": 0.0, "final_weights": "float"}
    run(folder, 16.0, renew_statistics=True, **options)
    return folder


def test_nothing_is_found_in_a_run_that_went_well(good):
    found = of_run(good, count=200)
    assert found.findings == () and found.unchecked == {}
    assert set(found.checked) == set(RULES)
    assert found.text().startswith("Nothing was found by 7 rules: logits, repair, one bit")


def test_logits_that_never_moved_and_a_target_that_the_repair_reached(still, good):
    found = of_run(still, count=100)
    (logits,) = found.of("logits")
    assert logits.measured == pytest.approx(0, abs=2e-3) and logits.limit == MOVED
    assert "logit_learning_rate, now 0" in logits.sentence
    (repair,) = found.of("repair")
    record = records.read(still)
    assert repair.measured == pytest.approx(4.0 / 16.0) == record.rates_before_repair.weights / 16
    moves = len(record.of("repair")[0]["moves"])
    assert (
        f"a compression of 4.00, the target is 16: the repair took the rest in {moves} moves"
        in (repair.sentence)
    )
    # The distance of the tables, from the record itself.
    tables = [event["tables"] for event in records.read(good).of("tables")]
    weights = [t["name"] for t in records.read(good).tensors if t["kind"] == "weight"]
    moved = max(
        np.abs(np.array(tables[-1][name]) - np.array(tables[0][name])).sum() / 2 for name in weights
    )
    assert moved > MOVED


def test_a_target_that_asks_for_no_choice_needs_no_logits_that_move(tmp_path):
    run(tmp_path, 4.0, logit_learning_rate=0.0, search_epochs=1, final_epochs=0)
    found = of_run(tmp_path, count=50)
    assert found.of("logits") == [] and "logits" in found.checked


def test_a_learning_rate_too_low_to_recover(still, good):
    (finding,) = of_run(still, count=50).of("recovery")
    record = records.read(still)
    lost = record.accuracy.float_validation - record.accuracy.after_search
    best = max(e["validation_accuracy"] for e in record.of("epoch") if e["stage"] == 2)
    assert lost > 20 and finding.measured == (best - record.accuracy.after_search) / lost < 0.1
    assert "final_learning_rate, now 0" in finding.sentence
    # With a learning rate, what was lost comes back.
    accuracy = records.read(good).accuracy
    assert accuracy.float_validation - accuracy.after_search > 2
    assert of_run(good, count=50).of("recovery") == []


def test_stage_2_that_began_with_statistics_of_the_float_network(tmp_path):
    options = WELL | {"final_weights": "float", "search_epochs": 8}
    run(tmp_path / "old", 9.0, **options)
    (finding,) = of_run(tmp_path / "old", count=50).of("statistics")
    accuracy = records.read(tmp_path / "old").accuracy
    assert finding.measured == accuracy.float_validation - accuracy.after_search > 10
    assert "float network's statistics of batch norm" in finding.sentence
    run(tmp_path / "new", 9.0, renew_statistics=True, **options)
    assert of_run(tmp_path / "new", count=50).of("statistics") == []


def test_statistics_of_another_network_in_the_file(good, tmp_path):
    tensors, header = read_tensors(good / "network.safetensors")
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("running_mean"):
            tensors[name] = tensor + torch.randn_like(tensor)
    (tmp_path / "record.json").write_bytes((good / "record.json").read_bytes())
    write_tensors(tmp_path / "network.safetensors", tensors, header)
    found = of_run(tmp_path, count=200)
    (finding,) = found.of("statistics")
    assert finding.measured > 2 and "statistics of another network" in finding.sentence
    # The gain is that of the network whose statistics fit, nearly.
    material = gather(good, count=200)
    right = (material.model(material.x).argmax(1) == material.y).double().mean().item()
    said = float(finding.sentence.split("from ")[1].split(" %")[0])
    assert said + finding.measured == pytest.approx(100 * right, abs=6)


def test_a_weight_of_1_bit_that_breaks_the_accuracy(good):
    material = gather(good, count=200)
    model = copy.deepcopy(material.model)
    first, last = blocks(model)["layer1.0.conv1.weight"], blocks(model)["layer3.0.conv2.weight"]
    for block in (first, last):
        block.fix(Scheme(1, int(block.exponents[2]), True))

    def accuracy(**off):
        trial = copy.deepcopy(model)
        for name in off.values():
            blocks(trial)[name].enabled = False
        with torch.no_grad():
            right = trial(material.x).argmax(1) == material.y
        return 100 * right.double().mean().item()

    found = diagnose(dataclasses.replace(material, model=model)).of("one bit")
    base = accuracy()
    gains = {}
    for name in ("layer1.0.conv1.weight", "layer3.0.conv2.weight"):
        gains[name] = accuracy(off=name) - base
    # Float is one of the trials: no finding gains less than it does.
    assert {finding.tensor for finding in found} >= {n for n, g in gains.items() if g > BREAKS}
    assert found and all(finding.measured >= gains[finding.tensor] for finding in found)
    assert f"from {base:.1f} %" in found[0].sentence


def test_a_search_of_1_and_8_bits_names_the_weights_of_1_bit_only(tmp_path):
    run(tmp_path, 26.0, SearchSpace((1, 8)), final_epochs=0)
    found = of_run(tmp_path, count=200)
    bits = {t["name"]: t["bits"] for t in records.read(tmp_path).tensors}
    named = {finding.tensor for finding in found.of("one bit")}
    assert named and all(bits[name] == 1 for name in named)


def test_thresholds_at_the_end_of_their_range(good, tmp_path):
    run(tmp_path, 16.0, SearchSpace((2,), thresholds=2), final_epochs=0)
    found = of_run(tmp_path, count=50).of("thresholds")
    smallest = {
        t["name"]
        for t in records.read(tmp_path).tensors
        if t["threshold_exponent"] == t["space"]["exponents"][-1]
        and len(t["space"]["exponents"]) > 1
    }
    assert smallest and {finding.tensor for finding in found} == smallest
    assert "Search with more thresholds than 2" in found[0].sentence
    assert of_run(good, count=50).of("thresholds") == []


def test_activations_that_are_clipped(good, tmp_path):
    # Training images are nearly black: thresholds fit them and not the others.
    run(tmp_path, darker=0.02, final_epochs=0, search_epochs=1)
    found = of_run(tmp_path, count=100)
    clipped = found.of("clipped")
    assert clipped and all(finding.measured > CLIPPED for finding in clipped)
    assert "is clipped:" in clipped[0].sentence
    assert of_run(good, count=100).of("clipped") == []


def test_the_part_that_is_clipped_is_that_of_a_count():
    x = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    material = gather("builtin-tiny_resnet8-w8-a8", count=20)
    model = material.model
    block = blocks(model)["relu"]
    block.fix(Scheme(8, -1, False))
    with torch.no_grad():
        values = torch.relu(model.bn1(model.conv1(x))).double().numpy()
    # 8 bits below 1/2: the largest level is 255/512, and 255.5/512 rounds to it.
    counted = (values > 255.5 / 512).sum() / (values != 0).sum()
    assert 0.01 < counted == pytest.approx(clipped_parts(model, x)["relu"], abs=1e-9)
    assert set(clipped_parts(model, x)) == set(blocks(model, "activation"))


def stopped(folder, step, **changes):
    """A run that gets Ctrl-C in a step."""

    def interrupt(event):
        if event["kind"] == "step" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return run(folder, 16.0, on_event=interrupt, **changes)


def test_a_run_that_was_stopped(tmp_path):
    record = stopped(tmp_path / "late", 28, logit_learning_rate=0.0, snapshots=8)
    assert record.results["status"] == "interrupted"
    found = of_run(tmp_path / "late")
    assert [finding.rule for finding in found.findings] == ["logits"]
    assert found.checked == ("logits",)
    assert found.unchecked["repair"] == "the run has not come to the repair"
    assert found.unchecked["thresholds"] == "the run has not come to a selection"
    assert "the run was stopped: resume it" in found.unchecked["clipped"]
    stopped(tmp_path / "early", 8, logit_learning_rate=0.0, snapshots=8)
    early = of_run(tmp_path / "early")
    assert early.findings == () and "of 32 of stage 1" in early.unchecked["logits"]


@pytest.mark.parametrize("name", records.names())
def test_every_shipped_record_can_be_diagnosed(name):
    record = records.recorded(name)
    found = diagnose(Material(record, missing="the weights are missing"))
    assert set(found.checked) >= {"logits", "repair", "thresholds", "recovery"}
    ends = {
        t["name"]
        for t in record.tensors
        if len(t["space"]["exponents"]) > 1
        and t["threshold_exponent"] == min(t["space"]["exponents"])
    }
    assert {finding.tensor for finding in found.findings} == ends
    assert "not checked: one bit, clipped, statistics: the weights are missing" in found.text()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        of_run(tmp_path)
    with pytest.raises(ValueError, match="rule must be one of logits, repair"):
        Diagnosis((), ()).of("luck")
