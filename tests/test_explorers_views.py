"""Explorers as modules of JavaScript: the widget, its state, HTML; core widgets where anywidget is
missing.
"""

import importlib.util
import json
import re

import ipywidgets as widgets
import matplotlib
import pytest
import torch

matplotlib.use("agg")

from hmq_lab import explorers
from hmq_lab.explorers import modules
from hmq_lab.explorers.frame import CoreView, ModuleView
from hmq_lab.runs import records

WEIGHT = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.1
RECORD = records.recorded("builtin-tiny_resnet8-w8-a8")
MAKE = {
    "quantizer": lambda: explorers.quantizer(WEIGHT),
    "surface": lambda: explorers.surface(WEIGHT),
    "gumbel": lambda: explorers.gumbel(),
    "block": lambda: explorers.block(WEIGHT),
    "replay": lambda: explorers.replay(RECORD),
    "selection": lambda: explorers.selection(RECORD),
}
MOVES = {
    "quantizer": {"bits": 2},
    "surface": {"bits": 5},
    "gumbel": {"temperature": 0.3},
    "block": {"mass": 0.25},
    "replay": {"play": 3},
    "selection": {"play": 3},
}


@pytest.mark.parametrize("name", MAKE)
def test_browser_and_kernel_keep_one_state(name):
    explorer, other = MAKE[name](), MAKE[name]()
    # Nothing is drawn by Python.
    assert isinstance(explorer.view, ModuleView) and explorer._picture is None
    other.set(**MOVES[name])
    seen = []
    explorer.widget.observe(lambda change: seen.append(change["new"]), "state")
    # From the kernel to the browser.
    explorer.set(**MOVES[name])
    assert seen == [explorer.widget.state] and explorer.widget.state == other.widget.state

    fresh = MAKE[name]()
    heard = []
    control = next(iter(MOVES[name]))
    fresh.controls[control].observe(lambda change: heard.append(change["new"]), "value")
    # From the browser to the kernel.
    fresh.widget.state = json.loads(json.dumps(other.widget.state))
    assert fresh.state == other.state and fresh.sentence == other.sentence
    assert heard == [getattr(other.state, control)] and fresh.controls[control].value == heard[0]
    fresh.widget.state = fresh.widget.state | {next(iter(fresh.widget.state)): "no such thing"}
    # What cannot be is undone.
    assert fresh.state == other.state and fresh.widget.state == other.widget.state


@pytest.mark.parametrize("name", MAKE)
def test_the_frame_around_a_module_is_ipywidgets(name):
    first, second = MAKE[name](), MAKE[name]()
    widgets.HBox([first.widget, second.widget], layout={"border": "1px solid"})
    # As jslink does in the browser.
    widgets.link((first.widget, "state"), (second.widget, "state"))
    first.set(**MOVES[name])
    assert second.state == first.state
    first.controls[next(iter(MOVES[name]))].layout.width = "200px"
    data, about = first._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == first.widget.model_id
    assert (
        data["text/plain"] == about["image/png"]["alt"] == first.sentence
        and "text/html" not in data
    )


@pytest.mark.parametrize("name", MAKE)
def test_a_module_is_one_file_with_names_for_all_controls(name, monkeypatch):
    explorer = MAKE[name]()
    source = modules.source(name)
    assert source.count("export default") == 1 and not re.search(r"^import ", source, re.MULTILINE)
    controls = explorer.widget.data["controls"]
    assert [control["name"] for control in controls] == list(explorer.controls)
    assert all(control["label"] for control in controls) and explorer.widget.data["title"]
    monkeypatch.setenv(modules.VARIABLE, "html")
    html = explorer._repr_mimebundle_()[0]["text/html"]
    assert html.startswith("<div id=") and "mount(view" in html
    first, second = (re.search(r'id="([^"]+)"', explorer.fragment())[1] for _ in range(2))
    # Two on one page.
    assert first != second
    state = json.loads(re.search(r'-data">(.*?)</script>', html)[1])["state"]
    assert state == explorer.widget.state


@pytest.mark.parametrize("how", ["missing", "asked for"])
def test_core_widgets_remain(how, monkeypatch):
    if how == "missing":
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == "anywidget" else found(name, *a),
        )
    else:
        monkeypatch.setenv(modules.VARIABLE, "core")
    explorer = explorers.gumbel()
    assert isinstance(explorer.view, CoreView)
    before = explorer.view.image.value
    explorer.controls["temperature"].value = 0.2
    assert explorer.view.image.value != before and explorer.sentence in explorer.view.text.value
    assert "<input" not in explorer.view.text.value and explorer.page().count("<script") == 2


def test_what_needs_python_has_no_page_without_it():
    with pytest.raises(ValueError, match="needs Python at every move"):
        explorers.integers().page()


def test_controls_without_effect_are_greyed():
    explorer = explorers.integers()
    assert explorer.controls["multiplier"].disabled
    explorer.set(odd_threshold=True)
    assert not explorer.controls["multiplier"].disabled
