"""The results of the bench: they fit their own claims, and the figures say what they hold."""

import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from hmq_lab import budget
from hmq_lab.commands.main import main
from hmq_lab.plots import rivals as drawn
from hmq_lab.rivals import results
from hmq_lab.rivals.results import Result, Results

THERE = [kind for kind in results.KINDS if (results.RECORDED / f"{kind}.json").is_file()]


def result(method, target, seed, test, **changes):
    """A result with round numbers."""
    plain = Result(
        method, target, seed, (4, 2), (0, -1), target, 2.0, 2.0**20, 50.0, test, 0.5, test, 1.0
    )
    return dataclasses.replace(plain, **changes)


@pytest.fixture
def invented():
    rows = [result("HMQ", 8.0, 0, 93.0, choosing_seconds=20.0), result("HMQ", 8.0, 1, 94.0)]
    rows += [result("HMQ", 14.0, 0, 90.0), result("HMQ", 14.0, 1, 91.0)]
    rows += [result("alone on", 8.0, 0, 94.0), result("alone on", 8.0, 1, 94.5)]
    rows += [result("alone on", 14.0, 0, 80.0), result("alone on", 14.0, 1, 82.0)]
    rows += [result("random", 8.0, 0, 70.0, choosing_bytes=None)]
    header = {
        "schema": 1,
        "sizes": {"a": 100, "b": 300},
        "float_validation": 95.0,
        "float_test": 95.0,
    }
    return Results(header, rows)


def test_the_shipped_kinds_are_there():
    assert "rivals" in THERE


@pytest.mark.parametrize("kind", THERE)
def test_each_shipped_result_has_the_compression_of_its_bits(kind):
    found = results.read(kind)
    sizes = np.array(list(found.header["sizes"].values()))
    keys = set()
    for one in found.results:
        assert one.compression == pytest.approx(32 * sizes.sum() / (sizes @ np.array(one.bits)))
        assert one.compression >= one.target
        assert len(one.exponents) == len(sizes) and one.choosing_seconds >= 0
        assert max(one.validation, one.test) <= 100 and one.tuning_seconds > 0
        keys.add((one.method, one.target, one.seed, one.bits if kind == "enumeration" else None))
    assert len(keys) == len(found.results)
    assert budget.compression(
        dict(zip(found.header["sizes"], one.bits, strict=True)), found.header["sizes"]
    ) == (pytest.approx(one.compression))


@pytest.mark.parametrize("kind", THERE)
def test_the_files_are_small(kind):
    assert (results.RECORDED / f"{kind}.json").stat().st_size < 250_000


def test_results_are_read_as_they_were_written(invented, tmp_path):
    results.write(invented, tmp_path / "some.json")
    again = results.read(tmp_path / "some.json")
    assert again == invented
    assert again.of("HMQ", 8.0) == invented.results[:2]
    assert again.of(seed=1, target=14.0) == [invented.results[3], invented.results[7]]
    assert again.methods == ("HMQ", "alone on", "random") and again.targets == (8.0, 14.0)


def test_a_table_has_means_spreads_and_costs(invented):
    lines = [line.split("  ") for line in invented.table().splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["method", "8 times", "14 times", "CPU seconds", "MiB"]
    assert cells[1] == ["HMQ", "93.50 (93.00 to 94.00)", "90.50 (90.00 to 91.00)", "2.0", "1"]
    assert cells[3] == ["random", "70.00 (70.00 to 70.00)", "-", "2.0", "-"]


@pytest.mark.parametrize("kind", ["rivals", "ablations"])
def test_the_page_has_the_tables_of_the_results(kind):
    page = (Path(__file__).parents[1] / "docs" / "rivals.md").read_text(encoding="utf-8")
    assert kind not in THERE or results.read(kind).markdown() in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["results"][0].pop("bits"), "results.0.bits is missing"),
        (lambda c: c["results"][0].update(test="high"), "results.0.test must be a finite number"),
        (lambda c: c["header"].update(schema=2), "has schema 2, this version reads 1"),
        (lambda c: c.pop("header"), "header is missing"),
    ],
)
def test_files_that_hold_no_results(invented, tmp_path, change, says):
    results.write(invented, path := tmp_path / "some.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=says):
        results.read(path)
    with pytest.raises(FileNotFoundError, match="no results at"):
        results.read(tmp_path / "none.json")


def test_the_sentence_says_first_where_hmq_is_behind(invented):
    said = drawn.rivals.sentence(invented)
    # 93.5 against 94.25; 90.5 against 81.
    assert said.startswith(
        "Mean test accuracy against the best rival: HMQ is behind at 8 by 0.75 points (alone on; "
        "spread 1.50). It leads at 14 by 9.50 points (alone on; spread 3.00)."
    )


def test_the_figure_has_a_line_for_each_method(invented):
    drawing = drawn.rivals(invented)
    ax = next(a for a in drawing.axes if a.get_label() == "accuracies")
    labels = ax.get_legend_handles_labels()[1]
    assert set(labels) == {"HMQ", "alone on", "random", "float"}
    line = next(c for c in ax.containers if c.get_label() == "HMQ")
    assert line[0].get_ydata() == pytest.approx([93.5, 90.5])
    # The scale of the axis goes there and back.
    assert drawn._to_loss(drawn._from_loss(np.array([10.0, 90.0, 94.0]))) == pytest.approx(
        [10, 90, 94]
    )


def test_the_place_of_hmq_among_all_choices():
    header = {"schema": 1, "sizes": {"a": 1, "b": 1}, "float_validation": 9.0, "float_test": 9.0}
    bits = [(2, 2), (2, 4), (4, 2), (4, 4)]
    rows = [
        result(drawn.ALL, 8.0, 0, 90.0, bits=b, loss=loss)
        for b, loss in zip(bits, [0.4, 0.1, 0.3, 0.2], strict=True)
    ]
    rows += [result("HMQ", 8.0, seed, 90.0, bits=b) for seed, b in enumerate([(2, 4), (4, 2)])]
    found = Results(header, rows)
    assert drawn.ranks(found) == {0: 1, 1: 3}
    assert "Of 4 choices" in drawn.enumeration.sentence(found)
    assert "in place 1, 3 by" in drawn.enumeration.sentence(found)


def test_the_command_draws_what_the_package_holds(tmp_path, capsys):
    assert main(["figures", "--rivals", "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == set(THERE)
    assert main(["figures", "--rivals", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["figures", "--rivals", "--all"]) == 2
    title = (tmp_path / "rivals.svg").read_text()
    found = results.read("rivals")
    assert drawn.rivals.sentence(found)[:60] in title
    ours = statistics.mean(r.test for r in found.of("HMQ", 8.0))
    assert drawn.means(found, "HMQ")[8.0] == pytest.approx(ours)


# ------------------------------------------------------------------------- explain and diagnose


def test_explain_and_diagnose_of_shipped_records(capsys):
    assert main(["explain", "cifar10-resnet20-w16-a8"]) == 0
    printed = capsys.readouterr().out
    assert "conv1.weight has 8 bits: it has 0.2 % of the weights" in printed
    assert "cannot be measured: the weights are missing" in printed
    assert main(["diagnose", "cifar10-resnet20-w16-a8", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["findings"] == [] and set(content["unchecked"]) == {
        "one bit",
        "clipped",
        "statistics",
    }
    arguments = ["explain", "builtin-tiny_resnet8-w8-a8", "--images", "50", "--json"]
    assert main(arguments) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["count"] == 50 and content["is_trained"] is False
    assert content["reasons"]["linear.weight"]["less"]["bits"] == 7


def test_explain_of_what_is_no_run(capsys, tmp_path):
    assert main(["explain", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("hmq-lab: error: no record at")
    assert main(["diagnose", "builtin-tiny_resnet8-w8-a8", "--images", "0"]) == 2
    assert "must be a whole number from 1 on" in capsys.readouterr().err
