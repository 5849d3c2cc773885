"""Run records: written, read, and refused when they are not what was written."""

import json
import os
import re

import pytest
import torch
from torch import nn

from hmq_lab.block import SearchSpace
from hmq_lab.budget import schemes
from hmq_lab.placement import attach, placements
from hmq_lab.runs import records
from hmq_lab.runs.records import Record, describe, hardware, read, versions, write


def example():
    return Record(
        header={
            "schema": records.SCHEMA,
            "model": "resnet8",
            "seed": 0,
            "versions": versions(),
            "hardware": hardware(),
        },
        tensors=[{"name": "conv1.weight", "kind": "weight", "shape": [8, 3, 3, 3], "bits": 4}],
        floats=[{"name": "conv1.bias", "size": 8, "reason": "bias: float in the paper's method"}],
        events=[
            {"kind": "step", "step": 0, "loss": 2.302585092994046, "rate": 1 / 3},
            {"kind": "tables", "step": 1, "tables": {"conv1.weight": [[0.5, 0.25], [0.125, 0.125]]}},
            {"kind": "step", "step": 1, "loss": 1e-300},
            {"kind": "epoch", "step": 2, "accuracy": None, "note": "ü ≤ 2^-3\n"},
        ],
        results={"rates": {"weights": 8.0}, "status": "done"},
        timing={"seconds": 12.5},
    )


def test_round_trip(tmp_path):
    path, record = tmp_path / "run" / "record.json", example()
    write(record, path)
    assert read(path) == read(str(path)) == read(path.parent) == record
    assert os.listdir(path.parent) == ["record.json"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.keys() == {*Record.__dataclass_fields__, "sha256"} and len(content["sha256"]) == 64
    write(Record({"schema": records.SCHEMA}), path)
    assert read(path) == Record({"schema": records.SCHEMA})


def test_an_event_has_a_line(tmp_path):
    write(example(), tmp_path / "r.json")
    lines = (tmp_path / "r.json").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"kind":') for line in lines) == 4


def test_what_json_makes_of_it_is_read_back(tmp_path):
    """Keys that are numbers become text, tuples lists: no alteration."""
    record = Record({"schema": records.SCHEMA}, results={"histogram": {2: 1, 10: 3, 8: 0}, "shape": (3, 4)})
    write(record, tmp_path / "r.json")
    assert read(tmp_path / "r.json").results == {"histogram": {"2": 1, "10": 3, "8": 0}, "shape": [3, 4]}


def test_timing_alone_may_differ(tmp_path):
    a, b = example(), example()
    b.timing = {"seconds": 99}
    write(a, tmp_path / "a.json"), write(b, tmp_path / "b.json")
    shas = [json.loads((tmp_path / n).read_text())["sha256"] for n in ("a.json", "b.json")]
    assert shas[0] == shas[1]
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("12.5", "13.5"))
    assert read(tmp_path / "a.json").timing == {"seconds": 13.5}


@pytest.mark.parametrize(
    "before, after",
    (
        ('"loss":2.302585092994046', '"loss":2.302585092994045'),
        ('"seed": 0', '"seed": 1'),
        ('"bits":4', '"bits":3'),
        ('"reason":"bias', '"reason":"Bias'),
        ('"weights": 8.0', '"weights": 9.0'),
        ('{"kind":"step","step":1,"loss":1e-300},\n', ""),
        ('"sha256": "', '"sha256": "0'),
        ('"results": {', '"results": {"more": 1, '),
        ('"timing"', '"extra": 1,\n"timing"'),
    ),
)
def test_altered_records_are_refused_by_name(tmp_path, before, after):
    path = tmp_path / "r.json"
    write(example(), path)
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(ValueError, match="was altered") as error:
        read(path)
    assert str(path) in str(error.value)


def test_truncated_records_are_refused_by_name(tmp_path):
    path = tmp_path / "r.json"
    write(example(), path)
    whole = path.read_bytes()
    for keep in (0, 1, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read(path)
    path.write_bytes(b"\xff\xfe" + whole)
    with pytest.raises(ValueError, match="is no JSON"):
        read(path)


@pytest.mark.parametrize(
    "content",
    ([], 3, None, {}, {"header": {}}, "text", {key: [] for key in Record.__dataclass_fields__}),
    ids=("list", "number", "null", "empty", "header", "text", "a list for a header"),
)
def test_other_json_is_refused_by_name(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is no record") as error:
        read(path)
    assert str(path) in str(error.value)


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "r.json"
    for schema in (records.SCHEMA + 1, None, "1"):
        write(Record({"schema": schema}), path)
        with pytest.raises(ValueError, match="schema") as error:
            read(path)
        assert repr(schema) in str(error.value) and str(path) in str(error.value)


def test_records_that_are_not_there(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            read(path)


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "r.json"
    write(example(), path)
    whole, bad = path.read_bytes(), example()
    bad.events.append({"kind": "step", "loss": torch.tensor(1.0)})
    with pytest.raises(TypeError):
        write(bad, path)
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ["r.json"]


def test_events_of_one_kind():
    record = example()
    assert [e["step"] for e in record.of("step")] == [0, 1] and record.of("repair") == []
    with pytest.raises(ValueError, match="got 'steps'"):
        record.of("steps")


def test_two_records_share_nothing():
    a, b = Record({}), Record({})
    a.events.append({"kind": "step"})
    assert b.events == []


def test_describe_says_every_tensor_once(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    attach(model, SearchSpace((2, 4, 8), 3), torch.randn(2, 3, 4, 4), activation_bits=6)
    tensors, floats = describe(model)
    assert [t["name"] for t in tensors] == ["0.weight", "4.weight", "2"]
    assert {t["name"] for t in tensors} | {f["name"] for f in floats} == {p.name for p in placements(model)}
    for t, (place, scheme) in zip(tensors, schemes(model), strict=True):
        assert (t["bits"], t["threshold_exponent"], t["signed"]) == (
            scheme.bits,
            scheme.threshold_exponent,
            scheme.signed,
        )
        assert (t["shape"], t["size"], t["kind"], t["layer"]) == ([*place.shape], place.size, place.kind, place.layer)
    assert tensors[2]["bits"] == 6 and tensors[2]["shape"] == [4, 4, 4]
    assert all(f["reason"] and f["layer"] for f in floats)
    record = Record({"schema": records.SCHEMA}, tensors, floats)
    write(record, tmp_path / "r.json")
    assert read(tmp_path / "r.json") == record


def test_versions_and_hardware_are_json():
    found = versions()
    assert (
        torch.__version__.startswith(found["torch"]) and {"python", "numpy", "torchvision", "hmq_lab"} <= found.keys()
    )
    machine = hardware("cpu")
    assert machine["device"] == "cpu" and machine["threads"] == torch.get_num_threads() and machine["processor"]
    json.dumps([found, machine])


def test_a_table_for_people():
    tensor = {
        "name": "conv1.weight",
        "kind": "weight",
        "size": 12345,
        "signed": True,
        "bits": 4,
        "threshold_exponent": -1,
    }
    record = Record(
        {"schema": records.SCHEMA, "hardware": {"device": "cpu"}},
        tensors=[
            {**tensor, "bits_before_repair": 8},
            {**tensor, "name": "relu", "signed": False, "bits_before_repair": 4},
        ],
        results={
            "rates": {"weights": 8.125, "all_weights": 7.5, "checkpoint": 7.0, "activations": 4.0},
            "target": {"weights": 8.0, "activations": None, "activation_bits": 8},
        },
        timing={"seconds": 61.4},
    )
    text = records.table(record)
    first, second = (next(line for line in text.splitlines() if line.startswith(n)) for n in ("conv1.weight", "relu"))
    assert first.split() == ["conv1.weight", "weight", "12,345", "4", "(was", "8)", "signed", "below", "2^-1"]
    assert second.split() == ["relu", "weight", "12,345", "4", "unsigned", "below", "2^-1"]
    assert first.index("signed") == second.index("unsigned")
    for said in ("8.12", "target 8", "7.50", "7.00", "4.00", "61 s on cpu"):
        assert said in text
    assert "accuracy" not in text and "accuracy" in records.table(
        Record(record.header, results={**record.results, "accuracy": {"test": 91.0, "float_test": 92.5}})
    )


def test_a_search_that_ended_short_of_its_target_says_so():
    def summary(before, target=8.0, rate=8.01):
        results = {
            "rates": {"weights": rate, "all_weights": rate, "checkpoint": 6.5, "activations": 4.0},
            "target": {"weights": target},
        }
        events = [] if before is None else [{"kind": "repair", "step": 24, "rate_before": before, "moves": []}]
        if before is not None:
            results["rates_before_repair"] = {"weights": before}
        return records.summary(Record({}, events=events, results=results)).splitlines()

    said = "the search ended at rate 4.10 after 24 steps; the repair chose the rest: search longer (more epochs, a "
    assert summary(4.1)[2] == said + "smaller batch, or a higher logit_learning_rate)"
    assert len(summary(7.1)) == 3 and len(summary(7.19)) == 3
    for before in (7.3, 8.0, 12.0, None):  # from nine tenths of the target on, or before there was a repair
        assert len(summary(before)) == 2, before


@pytest.mark.parametrize("name", records.names())
def test_the_searches_of_the_records_that_come_along_chose_their_bits(name):
    assert "search longer" not in records.summary(records.recorded(name))
