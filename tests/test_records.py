"""Run records: written, read, and refused when they are not what was written."""

import dataclasses
import json
import os
import random
import re

import pytest
import torch
from torch import nn

from hmq_lab import budget
from hmq_lab.block import SearchSpace
from hmq_lab.budget import schemes
from hmq_lab.data.files import digest
from hmq_lab.placement import attach, placements
from hmq_lab.runs import records, sweep
from hmq_lab.runs.loading import rebuild
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
            {
                "kind": "tables",
                "step": 1,
                "tables": {"conv1.weight": [[0.5, 0.25], [0.125, 0.125]]},
            },
            {"kind": "step", "step": 1, "loss": 1e-300},
            {"kind": "epoch", "step": 2, "accuracy": None, "note": "ü ≤ 2^-3\n"},
        ],
        results={
            "rates": {"weights": 8.0, "all_weights": 8.0, "checkpoint": 7.0, "activations": 4.0},
            "status": "done",
        },
        timing={"seconds": 12.5},
    )


def test_round_trip(tmp_path):
    path, record = tmp_path / "run" / "record.json", example()
    write(record, path)
    assert read(path) == read(str(path)) == read(path.parent) == record
    assert os.listdir(path.parent) == ["record.json"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (
        content.keys() == {*Record.__dataclass_fields__, "sha256"} and len(content["sha256"]) == 64
    )
    write(Record({"schema": records.SCHEMA}), path)
    assert read(path) == Record({"schema": records.SCHEMA})


def test_an_event_has_a_line(tmp_path):
    write(example(), tmp_path / "r.json")
    lines = (tmp_path / "r.json").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith('{"kind":') for line in lines) == 4


def test_what_json_makes_of_it_is_read_back(tmp_path):
    """Keys that are numbers become text, tuples lists: no alteration."""
    record = Record(
        {"schema": records.SCHEMA}, results={"histogram": {2: 1, 10: 3, 8: 0}, "shape": (3, 4)}
    )
    write(record, tmp_path / "r.json")
    assert read(tmp_path / "r.json").results == {
        "histogram": {"2": 1, "10": 3, "8": 0},
        "shape": [3, 4],
    }


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
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    attach(
        model, space=SearchSpace((2, 4, 8), 3), sample=torch.randn(2, 3, 4, 4), activation_bits=6
    )
    tensors, floats = describe(model)
    assert [t["name"] for t in tensors] == ["0.weight", "4.weight", "2"]
    assert {t["name"] for t in tensors} | {f["name"] for f in floats} == {
        p.name for p in placements(model)
    }
    for t, (place, scheme) in zip(tensors, schemes(model), strict=True):
        assert (t["bits"], t["threshold_exponent"], t["signed"]) == (
            scheme.bits,
            scheme.threshold_exponent,
            scheme.signed,
        )
        assert (t["shape"], t["size"], t["kind"], t["layer"]) == (
            [*place.shape],
            place.size,
            place.kind,
            place.layer,
        )
    assert tensors[2]["bits"] == 6 and tensors[2]["shape"] == [4, 4, 4]
    assert all(f["reason"] and f["layer"] for f in floats)
    record = Record({"schema": records.SCHEMA}, tensors, floats)
    write(record, tmp_path / "r.json")
    assert read(tmp_path / "r.json") == record


def test_versions_and_hardware_are_json():
    found = versions()
    assert (
        torch.__version__.startswith(found["torch"])
        and {"python", "numpy", "torchvision", "hmq_lab"} <= found.keys()
    )
    machine = hardware("cpu")
    assert (
        machine["device"] == "cpu"
        and machine["threads"] == torch.get_num_threads()
        and machine["processor"]
    )
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
    first, second = (
        next(line for line in text.splitlines() if line.startswith(n))
        for n in ("conv1.weight", "relu")
    )
    assert first.split() == [
        "conv1.weight",
        "weight",
        "12,345",
        "4",
        "(was",
        "8)",
        "signed",
        "below",
        "2^-1",
    ]
    assert second.split() == ["relu", "weight", "12,345", "4", "unsigned", "below", "2^-1"]
    assert first.index("signed") == second.index("unsigned")
    for said in ("8.12", "target 8", "7.50", "7.00", "4.00", "61 s on cpu"):
        assert said in text
    assert "accuracy" not in text and "accuracy" in records.table(
        Record(
            record.header,
            results={**record.results, "accuracy": {"test": 91.0, "float_test": 92.5}},
        )
    )


def test_a_search_that_ended_short_of_its_target_says_so():
    def summary(before, target=8.0, rate=8.01):
        results = {
            "rates": {"weights": rate, "all_weights": rate, "checkpoint": 6.5, "activations": 4.0},
            "target": {"weights": target},
        }
        events = (
            []
            if before is None
            else [{"kind": "repair", "step": 24, "rate_before": before, "moves": []}]
        )
        if before is not None:
            results["rates_before_repair"] = results["rates"] | {"weights": before}
        return records.summary(Record({}, events=events, results=results)).splitlines()

    said = "the search ended at a compression of 4.10 after 24 steps; the repair chose the rest: search longer "
    assert (
        summary(4.1)[2] == said + "(more epochs, a smaller batch, or a higher logit_learning_rate)"
    )
    assert len(summary(7.1)) == 3 and len(summary(7.19)) == 3
    for before in (
        7.3,
        8.0,
        12.0,
        None,
    ):  # from nine tenths of the target on, or before there was a repair
        assert len(summary(before)) == 2, before


@pytest.mark.parametrize("timing", [[], None, 3, "fast", {"seconds": "12"}, {"seconds": None}, {"seconds": True},
                                    {"seconds": 1.0, "epochs": 3}, {"epochs": [1]}])  # fmt: skip
def test_a_timing_of_another_type_is_refused_by_name(tmp_path, timing):
    """It has no digest: anything may stand there."""
    path = tmp_path / "record.json"
    write(example(), path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"timing": timing}))
    with pytest.raises(ValueError, match="timing") as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.write_text(json.dumps(content | {"timing": {}}))
    assert read(path).timing == {}


DEEP = "[" * 200_000


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 200_000, f'{{"header": {DEEP}{"]" * 200_000}}}'])
def test_a_file_that_is_nested_too_deep_is_refused_by_name(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"record\.json cannot be read as JSON: it is nested too deep$"
    ):
        read(path)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("events", [None], "events.0 must be an object, got None"),
        ("events", [{"kind": 3}], "events.0.kind must be a text, got 3"),
        ("tensors", {}, "tensors must be a list, got an object"),
        ("tensors", [{"bits": True}], "tensors.0.bits must be a whole number, got True"),
        ("floats", None, "floats must be a list, got None"),
        ("results", [], "results must be an object, got a list"),
        ("results", {"status": "complete"}, "header.model is missing"),
        (
            "results",
            {"rates": {"weights": float("nan")}},
            "results.rates.weights must be a finite number, got nan",
        ),
    ],
)
def test_parts_of_another_type_with_the_right_digest_are_refused(tmp_path, part, value, said):
    path = tmp_path / "record.json"
    write(Record({"schema": records.SCHEMA}), path)
    content = json.loads(path.read_text()) | {part: value}
    sha = digest({key: content[key] for key in content if key not in ("timing", "sha256")})
    path.write_text(json.dumps(content | {"sha256": sha}))
    with pytest.raises(ValueError, match=rf"record\.json is no record: {said}"):
        read(path)


@pytest.mark.parametrize("name", records.names())
def test_every_record_of_the_package_reads_like_its_network(name):
    """Its compressions are those of the network with these schemes; and it is what was written."""
    record = records.recorded(name)
    network = rebuild(record)
    assert dataclasses.asdict(record.rates) == pytest.approx(
        dataclasses.asdict(budget.rates(network)), rel=1e-12
    )
    assert (
        record.rates.weights
        == record.results["rates"]["weights"]
        >= record.header["target"]["weights"]
    )
    assert record.rates_before_repair.weights == record.results["rates_before_repair"]["weights"]
    assert dataclasses.asdict(record.accuracy) == record.results["accuracy"] and record.is_complete
    assert [records.role(f) for f in record.floats].count("output") == 1
    hardware = record.header.get("hardware_mode", False)
    assert [records.role(f) for f in record.floats].count("input") == (0 if hardware else 1)
    assert records.table(record).count("\n") >= len(record.tensors)


def test_what_a_run_has_not_measured_is_none():
    record = Record(
        {}, results={"status": "interrupted", "accuracy": {"float_test": 91.5, "later": 1}}
    )
    assert (
        record.accuracy == records.Accuracy(float_test=91.5) and record.rates_before_repair is None
    )
    assert not record.is_complete and Record({}).accuracy == records.Accuracy()


def test_roles_of_placements_are_kept_and_old_reasons_stand_for_them():
    assert records.role({"role": "mean", "reason": "output of the network"}) == "mean"
    assert (
        records.role({"reason": "norm: float in the paper's method"}) is None
        and records.role({}) is None
    )


@pytest.mark.parametrize("name", records.names())
def test_the_searches_of_the_records_that_come_along_chose_their_bits(name):
    assert "search longer" not in records.summary(records.recorded(name))


VALUES = (None, [], {}, "x", -1, 0, 1.5, True, 10**12, [None], {"a": None}, float("nan"))


def places(node, at=()):
    """The way to every value in what JSON holds; of long lists the first two."""
    if at:
        yield at
    inner = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node[:2])
        if isinstance(node, list)
        else ()
    )
    for key, value in inner:
        yield from places(value, (*at, key))


def mutated(content, rng):
    """A copy in which one value is another one, or gone, with the SHA-256 of what it is now."""
    content = json.loads(json.dumps(content))
    *way, last = rng.choice(list(places(content)))
    node = content
    for key in way:
        node = node[key]
    if rng.random() < 0.25 and isinstance(node, dict):
        del node[last]
    else:
        node[last] = rng.choice(VALUES)
    sha = digest({key: content[key] for key in content if key != "timing"})
    return content | {"sha256": sha}


def test_a_record_with_one_other_value_is_refused_in_a_line_or_can_be_shown(tmp_path):
    """Anybody can write a file with the right digest."""
    content = json.loads((records.RECORDED / "builtin-tiny_resnet8-w8-a8.json").read_text())
    del content["sha256"]
    kinds = ("epoch", "repair", "step")
    content["events"] = [next(e for e in content["events"] if e["kind"] == kind) for kind in kinds]
    rng, refused = random.Random(0), 0
    for _ in range(250):
        (tmp_path / "record.json").write_text(json.dumps(mutated(content, rng)))
        try:
            record = read(tmp_path)
            assert records.table(record) and records.label(record) and sweep.measured(record)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400
    assert 50 < refused < 250


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda r: r.header.update(picture=[3, 10**5, 10**5]),
            r"at most 67,108,864 values, the record says \[3, 1",
        ),
        (lambda r: r.header.update(picture=[3, 0, 32]), r"the record says \[3, 0, 32\]"),
        (
            lambda r: r.floats[-1].update(size=10**9),
            "from 1 to 1,000,000 outputs, the record says 1,000,000,000",
        ),
        (
            lambda r: r.floats[-1].update(reason="other"),
            r"how many outputs its network has, once; this one has \[\]",
        ),
        (
            lambda r: r.header["space"].update(bits=[99]),
            "bits must be integers from 1 to 16, got 99",
        ),
        (lambda r: r.tensors[0].update(bits=99), "bits must be integers from 1 to 16, got 99"),
    ],
)
def test_a_record_that_asks_for_too_much_is_refused(change, said):
    record = records.recorded("builtin-tiny_resnet8-w8-a8")
    change(record)
    with pytest.raises(ValueError, match=said):
        rebuild(record)
