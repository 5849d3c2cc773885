"""The frame of every explorer: a state, the result computed from it, a figure of that, controls
that change it.

>>> @dataclass(frozen=True)
... class State:
...     bits: int = 3
>>> controls = {"bits": Whole("bits", 1, 8)}
>>> Explorer(State(), compute, draw, move, controls, initial={"bits": 2})       # doctest: +SKIP

compute(state) -> result: plain data, with a `sentence` that says what the figure shows.
draw(result, figure) -> artists: lays the figure out and gives, by name, the artists that a later
result moves. move(result, artists): gives them the data of another result. Everything else on the
figure is drawn once.

An explorer that has a module of JavaScript (`modules.py`) computes and draws in the browser. Where
anywidget is missing, and for all other explorers, core ipywidgets show a still image that Python
draws anew at each move.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
from collections.abc import Callable, Iterable, Mapping

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image, ImageDraw, ImageFont

from hmq_lab.explorers import modules
from hmq_lab.explorers.controls import Control, Real
from hmq_lab.plots import STYLE

# 820 pixels: what a notebook has at 1280, so that the browser need not shrink the text.
WIDTH = 8.2
DPI = 100


class Picture:
    """A figure as PNG, again and again: what stands still is painted once and kept, what moves is
    painted over it.
    """

    def __init__(self, height: float, draw: Callable, result):
        with mpl.rc_context(STYLE):
            self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
            self.canvas = FigureCanvasAgg(self.figure)
            self.artists = draw(result, self.figure)
            groups = [a if isinstance(a, list) else [a] for a in self.artists.values()]
            moving = [artist for group in groups for artist in group]
            self.moving = sorted(moving, key=lambda artist: artist.get_zorder())
            # Ticks take the style of whoever looks first: we do.
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
            for artist in self.moving:
                # Left out when the canvas draws, drawn by savefig.
                artist.set_animated(True)
            self.settle()

    def settle(self) -> None:
        """Paint what stands still, again where it was changed: axes with new ends, in the same
        places.
        """
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
        """The same as a file. compression: 1, quick, to 9, small.

        Args:
            compression: 1, quick, to 9, small.

        Returns:
            The content of a PNG file.
        """
        self.image().save(out := io.BytesIO(), "PNG", compress_level=compression)
        return out.getvalue()


def name_only(legend: Legend, drawn: Iterable[str]) -> None:
    """Leave in a legend the names of what is drawn.

    Args:
        legend: of the axes; its other entries become invisible.
        drawn: labels.
    """
    wanted = set(drawn)
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        shown = text.get_text() in wanted
        text.set_visible(shown)
        if handle is not None:
            handle.set_visible(shown)


STRIP = 22  # pixels below a still image
STILL = "A still image: its controls come when you run this cell."


def still(image: Image.Image) -> bytes:
    """PNG for a notebook without a kernel: a line below it says where the controls are.

    Args:
        image: of an explorer.

    Returns:
        The content of a PNG file.
    """
    page = Image.new("RGB", (image.width, image.height + STRIP), "white")
    page.paste(image, (0, 0))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(page).text((8, image.height + 3), STILL, fill="#333333", font=font)
    page.save(out := io.BytesIO(), "PNG", compress_level=9)
    return out.getvalue()


class CoreView:
    """An explorer in core widgets: its controls, an image that Python draws, its sentence."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        width = f"{WIDTH * DPI:.0f}px"
        self.image = widgets.Image(format="png", layout={"width": width, "max_width": "100%"})
        self.text = widgets.HTML(layout={"max_width": width})
        flow = {"display": "flex", "flex_flow": "row wrap", "max_width": width}

        # Lists are tall: they stand beside all other controls.
        controls = list(explorer.controls.values())
        lists = [one for one in controls if isinstance(one, widgets.Select)]
        others = [one for one in controls if one not in lists]
        placed = [widgets.VBox(others), *lists] if lists else others
        self.widget = widgets.VBox([widgets.Box(placed, layout=flow), self.image, self.text])

    def show(self) -> None:
        """Draw the state of the explorer, and say it."""
        self.image.value = self.explorer.picture.png()
        self.say(self.explorer.sentence, self.explorer.live)

    def say(self, sentence: str, live: str = "polite") -> None:
        """Show a sentence.

        Args:
            sentence: to show.
            live: "polite" or "off": whether a screen reader tells it at once.
        """
        style = f'role="status" aria-live="{live}" style="line-height:1.5"'
        self.text.value = f"<div {style}>{html.escape(sentence)}</div>"


class ModuleView:
    """An explorer as a module of JavaScript in anywidget: it moves without the kernel, and tells it
    the state.
    """

    def __init__(self, explorer: Explorer, module: modules.Module):
        self.explorer = explorer
        self.module = module
        self.widget = modules.view(module, explorer.allowed, explorer.state)
        self.widget.observe(lambda change: explorer._heard(change["new"]), "state")

    def show(self) -> None:
        """Hand the state of the explorer to the module."""
        self.widget.state = self.module.state(self.explorer.state)

    def say(self, sentence: str, live: str = "polite") -> None:
        """A module says what it shows by itself.

        Args:
            sentence: is not used.
            live: is not used.
        """


class Explorer:
    """A figure with controls; what a cell shows when it ends with one.

    >>> explorer = explorers.quantizer(weight)                  # doctest: +SKIP
    >>> explorer.set(bits=2, signed=True)                       # doctest: +SKIP
    >>> explorer.state, explorer.result, explorer.sentence      # doctest: +SKIP
    >>> explorer.figure.savefig("quantizer.png")                # doctest: +SKIP
    >>> explorer.controls["bits"].value = 4                     # doctest: +SKIP
    >>> ipywidgets.HBox([explorer.widget, other.widget])        # doctest: +SKIP

    `controls` are ipywidgets, by the name of what they set; `widget` is what is shown, to be placed
    beside others. Two explorers of one kind move together by `jslink((a.widget, "state"),
    (b.widget, "state"))`. Without a kernel a notebook keeps the image of the state it was
    displayed in, with the sentence as its alternative text. `set` raises ValueError naming the
    value and what is allowed, and then nothing has changed.

    Args:
        state: a frozen dataclass, what the explorer opens with.
        compute, draw, move: see above.
        controls: what each control may be set to, by the name of what it sets.
        initial: values of the state that differ from `state`.
        height: of the figure that Python draws, in inches.
        module: what JavaScript shows; None where only Python draws.
        dead: from a state the names of the controls that have no effect in it: they are greyed.
    """

    def __init__(
        self,
        state,
        compute: Callable,
        draw: Callable,
        move: Callable,
        controls: Mapping[str, Control],
        initial: dict | None = None,
        height: float = 4.0,
        module: modules.Module | None = None,
        dead: Callable[..., tuple[str, ...]] = lambda state: (),
    ):
        self._compute = compute
        self._draw = draw
        self._move = move
        self._allowed = controls
        # What Python draws is made when somebody looks at it.
        self._height = height
        self._dead = dead
        self.module = module
        self.state = changed(state, controls, initial or {})
        self._result = compute(self.state)
        self._picture: Picture | None = None
        # The result that the image shows.
        self._drawn = None
        self.controls = {name: control.widget() for name, control in controls.items()}
        self._follow()
        self.view: ModuleView | CoreView
        if module is not None and modules.are_used():
            self.view = ModuleView(self, module)
        else:
            self.view = CoreView(self)
        if not isinstance(self.view, ModuleView):
            self.view.show()
        for name, widget in self.controls.items():
            widget.observe(lambda change, name=name: self._changed(name, change["new"]), "value")

    @property
    def widget(self) -> widgets.Widget:
        """What is shown: an ipywidget, to be placed beside others or linked with them."""
        return self.view.widget

    @property
    def live(self) -> str:
        """Whether a screen reader tells each new sentence at once: "polite" or "off"."""
        return "polite"

    @property
    def result(self):
        """What was computed for the state."""
        if self._result is None:
            self._result = self._compute(self.state)
        return self._result

    @property
    def sentence(self) -> str:
        """What the figure shows, in words."""
        return self.result.sentence

    @property
    def picture(self) -> Picture:
        """The figure that Python draws, as it is now."""
        if self._picture is None:
            self._picture = Picture(self._height, self._draw, self.result)
        elif self._drawn is not self.result:
            self._move(self.result, self._picture.artists)
        self._drawn = self.result
        return self._picture

    @property
    def figure(self) -> Figure:
        """The matplotlib figure."""
        return self.picture.figure

    @property
    def artists(self) -> dict:
        """What moves on the figure, by name."""
        return self.picture.artists

    @property
    def allowed(self) -> dict[str, Control]:
        """What each control may be set to, by the name of what it sets."""
        return dict(self._allowed)

    def image(self) -> Image.Image:
        """The figure as pixels: `explorer.image().save("quantizer.png")`."""
        return self.picture.image()

    def fragment(self) -> str:
        """An HTML element that is this explorer without a kernel, to be put into a page.

        Raises:
            ValueError: for an explorer that needs Python at every move.
        """
        return modules.fragment(self._needed_module(), self._allowed, self.state)

    def page(self, title: str | None = None, about: str = "", above: str = "") -> str:
        """This explorer as a whole HTML page that needs no kernel and no network; its state is kept
        in the link.

        >>> Path("mine.html").write_text(explorers.quantizer(weight).page())    # doctest: +SKIP

        Args:
            title: by default what the figure is called.
            about: a sentence below it.
            above: HTML before the explorer.

        Raises:
            ValueError: for an explorer that needs Python at every move.
        """
        module = self._needed_module()
        body = modules.fragment(module, self._allowed, self.state, linked=True)
        return modules.page(title or module.title, about, above + body)

    def _needed_module(self) -> modules.Module:
        if self.module is None:
            raise ValueError(
                "this explorer needs Python at every move: it has no page without a kernel"
            )
        return self.module

    def set(self, **values) -> None:
        """Change any part of the state; the controls follow."""
        self._show(changed(self.state, self._allowed, values))

    def _show(self, state) -> None:
        # Nothing is changed where computing fails.
        result = self._compute(state)
        self.state = state
        self._result = result
        self._follow()
        self.view.show()

    def _heard(self, fields: dict) -> None:
        """A reader moved a control in the browser: the figure there has moved already."""
        assert self.module is not None
        if fields == self.module.state(self.state):
            return
        try:
            state = changed(self.state, self._allowed, fields, derive=False)
        except ValueError:
            return self.view.show()
        self.state = state
        self._result = None
        self._follow()

    def _changed(self, name: str, value) -> None:
        """A reader moved a control. What does not go together is said in words: nobody reads a
        kernel's traceback.
        """
        control = self._allowed[name]
        now = getattr(self.state, name)
        if self._following or (isinstance(control, Real) and control.near(value, now)):
            return
        try:
            self.set(**{name: value})
        except ValueError as error:
            self._follow()
            self.view.say(str(error))

    def _follow(self) -> None:
        self._following = True
        try:
            dead = self._dead(self.state)
            for name, widget in self.controls.items():
                widget.value = getattr(self.state, name)
                widget.disabled = name in dead
        finally:
            self._following = False

    def _repr_mimebundle_(self, **_):
        # The still image is for a notebook without a kernel.
        png = base64.b64encode(still(self.image())).decode()
        # Anywidget gives the metadata, too.
        found = self.widget._repr_mimebundle_()
        shown = found[0] if isinstance(found, tuple) else found
        data = {**shown, "image/png": png, "text/plain": self.sentence}
        if self.module is not None and os.environ.get(modules.VARIABLE) == "html":
            data["text/html"] = self.fragment()
        return data, {"image/png": {"alt": self.sentence}}


def changed(state, allowed: Mapping[str, Control], values: dict, derive: bool = True):
    """The state with some of its values changed, each checked.

    Args:
        state: a frozen dataclass. One that is more than its fields has a method `change` that takes
        what its controls
            set.
        allowed: what each control may be set to, by name.
        values: by name.
        derive: False changes the fields alone, without `change`.

    Raises:
        ValueError: naming what is not there or not allowed.
    """
    # What can be changed: controls, and fields that have none.
    names = [*allowed, *(f.name for f in dataclasses.fields(state) if f.name not in allowed)]
    checked = {}
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"this explorer has no {name!r}; it has {', '.join(names)}")
        checked[name] = allowed[name].check(name, value) if name in allowed else value
    change = getattr(state, "change", None) if derive else None
    state = change(**checked) if change else dataclasses.replace(state, **checked)
    # What follows from the values has its limits, too.
    for name, control in allowed.items():
        control.check(name, getattr(state, name))
    return state
