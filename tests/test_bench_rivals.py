"""The bench of rivals: every method keeps the budget, all are tuned alike, and a run goes on."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from hmq_lab import SearchSpace, budget
from hmq_lab.network import blocks
from hmq_lab.rivals import results
from hmq_lab.settings import preset

PATH = Path(__file__).parents[1] / "bench" / "rivals.py"


@pytest.fixture(scope="module")
def bench():
    """The script as a module, on few images and with one epoch a stage."""
    spec = importlib.util.spec_from_file_location("bench_rivals", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_rivals"] = module
    spec.loader.exec_module(module)
    full = module.images()
    splits = {"train": 256, "validation": 100, "test": 100}
    few = {name: getattr(full, name).subset(range(count)) for name, count in splits.items()}
    cut = dataclasses.replace(full, **few)
    module.images = lambda: cut
    module.SETTINGS = preset(
        "quick/builtin",
        search_epochs=1,
        final_epochs=1,
        final_weights="float",
        renew_statistics=True,
        calibration_images=64,
        compile="off",
    )
    module.IMAGES = 64
    return module


@pytest.fixture(scope="module")
def seen(bench):
    """What rivals see at 10.5 times."""
    ready = bench.case(bench.shipped(), 10.5, 0, bench.SETTINGS, SearchSpace())
    return bench.rival(ready, 10.5, 0)


def test_every_rival_keeps_the_budget(bench, seen):
    chosen = {name: choose(seen) for name, choose in bench.RIVALS.items()}
    for name, choice in chosen.items():
        bits = {weight: scheme.bits for weight, scheme in choice.items()}
        assert budget.compression(bits, seen.sizes) >= 10.5, name
        for weight, scheme in choice.items():
            assert scheme.threshold_exponent in seen.landscape.blocks[weight].exponents.tolist()
    same = [
        {s.bits for s in chosen[f"uniform, thresholds by {by}"].values()}
        for by in ("loss", "error")
    ]
    assert same == [{3}, {3}]
    # Thresholds by the loss lose no more than those by the error, on the same images.
    by_loss, by_error = (
        seen.landscape(chosen[f"uniform, thresholds by {by}"]) for by in ("loss", "error")
    )
    assert by_loss <= by_error


def test_random_bits_depend_on_the_seed_and_use_the_budget(bench, seen):
    bits = []
    for seed in (0, 0, 1):
        choice = bench.random_bits(dataclasses.replace(seen, seed=seed))
        bits.append({name: scheme.bits for name, scheme in choice.items()})
    assert bits[0] == bits[1] != bits[2]
    assert all(10.5 <= budget.compression(b, seen.sizes) <= 1.05 * 10.5 for b in bits)


def test_activations_get_the_threshold_of_the_least_squared_error(bench):
    torch.manual_seed(0)
    ready = bench.case(bench.shipped(), 8.0, 0, bench.SETTINGS, SearchSpace())
    x, _ = next(bench.images().train.batches(16))
    bench.fit_activations(ready.model, x)
    float_network = bench.shipped().eval()
    with torch.no_grad():
        values = torch.relu(float_network.bn1(float_network.conv1(x))).double().numpy()
    block = blocks(ready.model)["relu"]
    errors = {}
    for exponent in block.exponents.tolist():
        step = 2.0 ** (exponent - 8)
        levels = (values / step).round().clip(0, 255) * step
        errors[exponent] = ((levels - values) ** 2).sum()
    assert block.scheme.threshold_exponent == min(errors, key=errors.get)


def test_results_of_a_rival_and_of_hmq_and_a_run_that_goes_on(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for method in ("round-off error", "HMQ"):
        line = ["rivals.py", "rivals", "--method", method, "--target", "8", "--seed", "0"]
        monkeypatch.setattr(sys, "argv", [*line, "--out", str(tmp_path)])
        bench.main()
    found = results.read(tmp_path / "rivals.json")
    assert found.methods == ("round-off error", "HMQ")
    sizes = found.header["sizes"]
    for one in found.results:
        bits = dict(zip(sizes, one.bits, strict=True))
        assert one.compression == pytest.approx(budget.compression(bits, sizes)) and one.target == 8
    # Once more: nothing is measured again.
    monkeypatch.setattr(bench, "measured", None)
    bench.main()
    assert results.read(tmp_path / "rivals.json") == found
