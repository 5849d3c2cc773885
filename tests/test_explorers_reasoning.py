"""The explorer "why this layer": what it shows is what the explanation and the record hold."""

import numpy as np
import pytest

from hmq_lab import explorers
from hmq_lab.rivals.explain import of_material, of_record
from hmq_lab.rivals.material import gather
from hmq_lab.runs import records

FOUND = gather("builtin-tiny_resnet8-w8-a8", count=50)


@pytest.fixture(scope="module")
def explanation():
    return of_material(FOUND)


def test_it_shows_the_numbers_of_the_explanation(explanation):
    explorer = explorers.why(explanation, FOUND.record)
    assert explorer.state.layer == "layer3.0.conv2.weight"
    explorer.controls["layer"].value = "layer3.0.conv1.weight"
    reason = explanation["layer3.0.conv1.weight"]
    shown = explorer.artists["changes"]
    explorer.image()
    assert shown.get_xdata().tolist() == [
        reason.alone_on,
        reason.gradient,
        reason.alone_off,
        reason.less.loss,
        reason.more.loss,
    ]
    assert explorer.sentence == reason.sentence
    assert explorer.artists["title"].get_text() == "layer3.0.conv1"


def test_it_shows_the_probabilities_of_the_record(explanation):
    explorer = explorers.why(explanation, FOUND.record, layer="layer3.0.conv1.weight")
    events = FOUND.record.of("tables")
    expected = [np.sum(event["tables"]["layer3.0.conv1.weight"], axis=1) for event in events]
    expected = np.array([row / row.sum() for row in expected])
    explorer.image()
    for place, line in enumerate(explorer.artists["lines"]):
        assert line.get_ydata() == pytest.approx(expected[:, place])
        assert line.get_xdata().tolist() == [event["step"] for event in events]
    best = int(expected[-1].argmax())
    assert explorer.artists["names"][best].get_text() == f" {best + 1} bits"
    colours = [line.get_color() for line in explorer.artists["lines"]]
    assert colours.count(colours[best]) == 1


def test_a_record_without_weights_says_that_nothing_is_measured():
    record = records.recorded("cifar10-resnet20-w16-a8")
    explorer = explorers.why(of_record(record), record)
    assert np.isnan(explorer.result.changes).all()
    texts = [text.get_text() for text in explorer.figure.axes[0].texts]
    assert "not measured" in texts
    explorer.set(layer="conv1.weight")
    assert "conv1.weight has 8 bits" in explorer.sentence


def test_an_explanation_alone(explanation):
    explorer = explorers.why(explanation)
    explorer.image()
    assert all(len(line.get_xdata()) == 0 for line in explorer.artists["lines"])
    with pytest.raises(ValueError, match="did you mean 'conv1"):
        explorer.set(layer="conv1.wait")
