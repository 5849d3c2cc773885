"""The frame of every explorer: a state, the result computed from it, a picture of that, widgets that change it.

>>> @dataclass(frozen=True)
... class State:
...     bits: int = 3
>>> Explorer(State(), compute, draw, move, {"bits": Whole("bits", 1, 8)}, initial={"bits": 2})

compute(state) -> result: plain data, with a `sentence` that says what the picture shows.
draw(result, figure) -> artists: lays the figure out and gives, by name, the artists that a later result moves.
move(result, artists): gives them the data of another result. Everything else on the figure is drawn once.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hmq_lab.explorers.controls import Control, Real
from hmq_lab.plots import STYLE

WIDTH, DPI = 8.2, 100  # 820 pixels: what a notebook has at 1280, so that the browser need not shrink the text


class Picture:
    """A figure as PNG, again and again: what stands still is painted once and kept, what moves is painted over it."""

    def __init__(self, height: float, draw: Callable, result):
        with mpl.rc_context(STYLE):
            self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
            self.canvas = FigureCanvasAgg(self.figure)
            self.artists = draw(result, self.figure)
            moving = [a for found in self.artists.values() for a in (found if isinstance(found, list) else [found])]
            self.moving = sorted(moving, key=lambda artist: artist.get_zorder())
            self.figure.draw_without_rendering()  # ticks take the style of whoever looks first: we do
            self.figure.set_layout_engine("none")
            for artist in self.moving:
                artist.set_animated(True)  # left out when the canvas draws, drawn by savefig
            self.settle()

    def settle(self) -> None:
        """Paint what stands still, again where it was changed: axes with new ends, in the same places."""
        with mpl.rc_context(STYLE):
            self.canvas.draw()
            self.still = self.canvas.copy_from_bbox(self.figure.bbox)

    def image(self) -> Image.Image:
        """The figure with its artists as they are now."""
        self.canvas.restore_region(self.still)
        renderer = self.canvas.get_renderer()
        for artist in self.moving:
            artist.draw(renderer)
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        return Image.fromarray(np.ascontiguousarray(pixels))

    def png(self, compression: int = 1) -> bytes:
        """The same as a file. compression: 1, quick, to 9, small."""
        self.image().save(out := io.BytesIO(), "PNG", compress_level=compression)
        return out.getvalue()


class Explorer:
    """A picture with controls; what a cell shows when it ends with one.

    >>> explorer = explorers.quantizer(weight)
    >>> explorer.set(bits=2, signed=True)          # as the sliders do: one new picture for all of them
    >>> explorer.result, explorer.sentence         # what was computed, and said
    >>> explorer.figure.savefig("quantizer.png")   # the matplotlib figure that is shown
    >>> explorer.controls["bits"].value = 4        # the widgets, by the name of what they set

    Without a kernel a notebook keeps the picture of the state it was displayed in, with the sentence as its
    alternative text. `set` raises ValueError naming the value and what is allowed, and then nothing has changed.
    """

    def __init__(
        self,
        state,
        compute: Callable,
        draw: Callable,
        move: Callable,
        controls: dict[str, Control],
        initial: dict | None = None,
        height: float = 4.0,
    ):
        self._compute, self._move, self._allowed = compute, move, controls
        self.state = changed(state, controls, initial or {})
        self.result = compute(self.state)
        self._picture = Picture(height, draw, self.result)
        self.controls = {name: control.widget() for name, control in controls.items()}
        self._image = widgets.Image(format="png", layout={"width": f"{WIDTH * DPI:.0f}px", "max_width": "100%"})
        self._text = widgets.HTML(layout={"max_width": f"{WIDTH * DPI:.0f}px"})
        flow = {"display": "flex", "flex_flow": "row wrap", "max_width": f"{WIDTH * DPI:.0f}px"}
        lists = [w for w in self.controls.values() if isinstance(w, widgets.Select)]  # tall: beside all others
        others = [w for w in self.controls.values() if w not in lists]
        controls = widgets.Box([widgets.VBox(others), *lists] if lists else others, layout=flow)
        self._box = widgets.VBox([controls, self._image, self._text])
        self._follow()
        self._paint()
        for name, widget in self.controls.items():
            widget.observe(lambda change, name=name: self._changed(name, change["new"]), "value")

    @property
    def sentence(self) -> str:
        return self.result.sentence

    @property
    def figure(self) -> Figure:
        return self._picture.figure

    @property
    def artists(self) -> dict:
        """What moves on the figure, by name."""
        return self._picture.artists

    @property
    def allowed(self) -> dict[str, Control]:
        """What each control may be set to, by the name of what it sets."""
        return dict(self._allowed)

    def image(self) -> Image.Image:
        """The picture as it is shown, for whoever keeps it: `explorer.image().save("quantizer.png")`."""
        return self._picture.image()

    def set(self, **values) -> None:
        """Change any part of the state; the controls follow."""
        self._show(changed(self.state, self._allowed, values))

    def _show(self, state) -> None:
        result = self._compute(state)
        self.state, self.result = state, result
        self._move(result, self.artists)
        self._follow()
        self._paint()

    def _changed(self, name: str, value) -> None:
        """A reader moved a control. What does not go together is said in words: nobody reads a kernel's traceback."""
        control, now = self._allowed[name], getattr(self.state, name)
        if self._following or (isinstance(control, Real) and control.near(value, now)):
            return
        try:
            self.set(**{name: value})
        except ValueError as error:
            self._follow()
            self._say(str(error))

    def _follow(self) -> None:
        self._following = True
        try:
            for name, widget in self.controls.items():
                widget.value = getattr(self.state, name)
        finally:
            self._following = False

    def _paint(self) -> None:
        self._image.value = self._picture.png()
        self._say(self.sentence)

    def _say(self, sentence: str) -> None:
        style = 'role="status" aria-live="polite" style="line-height:1.5"'
        self._text.value = f"<div {style}>{html.escape(sentence)}</div>"

    def _repr_mimebundle_(self, **_):
        png = base64.b64encode(self._picture.png(9)).decode()
        data = self._box._repr_mimebundle_() | {"image/png": png, "text/plain": self.sentence}
        return data, {"image/png": {"alt": self.sentence}}


def changed(state, allowed: dict[str, Control], values: dict):
    """The state with some of its values changed, each checked.

    A state that is more than its fields has a method `change` that takes what its controls set.
    """
    names = [*allowed, *(f.name for f in dataclasses.fields(state) if f.name not in allowed)]
    for name in values:
        if name not in names:
            raise ValueError(f"this explorer has no {name!r}; it has {', '.join(names)}")
    checked = {name: allowed[name].check(name, value) if name in allowed else value for name, value in values.items()}
    change = getattr(state, "change", None)
    state = change(**checked) if change else dataclasses.replace(state, **checked)
    for name, control in allowed.items():  # what follows from the values has its limits, too
        control.check(name, getattr(state, name))
    return state
