"""Every explorer of a record opens every record that comes with the package."""

import dataclasses

import matplotlib
import pytest

matplotlib.use("agg")

from hmq_lab import explorers
from hmq_lab.explorers.watching import Growing, Now
from hmq_lab.runs import records

NAMES = records.names()


@pytest.fixture(scope="module", params=NAMES)
def record(request):
    return records.recorded(request.param)


def test_the_shipped_records_have_hardware_mode_among_them():
    kinds = {t["kind"] for name in NAMES for t in records.recorded(name).tensors}
    assert kinds == {"weight", "activation", "hardware"}


@pytest.mark.parametrize("make", [explorers.replay, explorers.selection])
def test_an_explorer_opens_every_record_and_names_every_tensor(make, record):
    explorer = make(record)
    names = [tensor["name"] for tensor in record.tensors]
    assert list(explorer.allowed["layer"].options) == names
    by_kind = {"weight": "", "activation": " (activation)", "hardware": " (hardware mode)"}
    texts = [t["name"].removesuffix(".weight") + by_kind[t["kind"]] for t in record.tensors]
    assert list(explorer.allowed["layer"].texts) == texts
    last = explorer.allowed["step"].options[-1]
    # One of each kind.
    for tensor in {t["kind"]: t for t in record.tensors}.values():
        explorer.set(layer=tensor["name"], step=last)
        assert tensor["name"].removesuffix(".weight") in explorer.sentence
        final = tensor["bits"] if last == "repaired" else tensor["bits_before_repair"]
        assert f"{final} bit" in explorer.sentence


def test_two_records_of_one_network_are_compared_across_modes():
    pair = [records.recorded(f"cifar10-resnet20-w14-a8{end}") for end in ("", "-hardware")]
    for both in (pair, pair[::-1]):
        explorer = explorers.selection(*both, step="repaired")
        assert "The two agree in" in explorer.sentence
        assert set(explorer.allowed["layer"].options) == {t["name"] for t in pair[0].tensors}


def test_a_live_view_grows_and_ends_in_hardware_mode(record):
    from hmq_lab.explorers.playback import Run

    run = Run.of(record)
    now = Now(
        run,
        run.steps[-1],
        run.steps[-1],
        (run.events["step"], run.events["task_loss"]),
        "Running",
        True,
    )
    view = Growing(now)
    assert list(view.allowed["layer"].texts) == [run.text(name) for name in run.tables]
    view.grow(dataclasses.replace(now, words="Finished", runs=False))
    assert view.sentence.startswith("Finished. At step")
