"""Live: a search in a process of its own is drawn while it runs, paused, interrupted and resumed by
buttons.
"""

from __future__ import annotations

import asyncio
import base64
import html
import math
import os
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets
import numpy as np

from hmq_lab.explorers import playback
from hmq_lab.explorers.controls import Choice
from hmq_lab.explorers.frame import DPI, WIDTH, Explorer
from hmq_lab.plots import INK
from hmq_lab.runs import records
from hmq_lab.runs.live import ALIVE, EVENTS, Run, Status, plain, start
from hmq_lab.runs.records import Record

HEIGHT = 4.6
LOOK = 0.5  # seconds between two looks at the folder
# Of one processor, for painting: what a figure costs is paid off before the next one.
SHARE = 0.01
MOST = 0.1  # but for what the first one costs above so many seconds
# For who listens.
UNSEEN = "position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%)"
# One view of a folder is kept fresh.
WATCHED: weakref.WeakValueDictionary[Path, Live] = weakref.WeakValueDictionary()


def live(
    out: Path | str,
    *,
    begin: bool = True,
    layer: str | None = None,
    trust: bool = False,
    **arguments,
) -> Live:
    """Watch the search in a folder while it runs; start it if there is none yet.

    >>> explorers.live("runs/mine", target=8)  # starts the built-in search, and shows it
    >>> explorers.live("runs/w16", model="resnet20", data="cifar10", weights="resnet20.th",
    ...                target=16)  # the same cell again: shows the same search
    >>> explorers.live("runs/mine")  # from another notebook, or another day

    Where the folder holds a run already, it is shown; one that was interrupted waits for the button
    Resume. The search has a process of its own: it goes on when the tab is closed or the kernel is
    shut down.

    Args:
        out: the folder of the run.
        begin: False leaves the start to the button.
        layer: the first to be shown.
        trust: whether Resume may run the code of an own network that the folder names. A cell
            that names the same code needs no trust.
        arguments: those of `hmq_lab.runs.live.start`.

    Raises:
        FileNotFoundError: where there is no run and no argument.
        ValueError: where the run there was started with others, and what `start` raises.
    """
    folder = Path(out).resolve()
    try:
        # A run that is there already must be the one that is asked for.
        run = Run.attach(out, trust)
    except FileNotFoundError:
        if not arguments:
            raise
        # The arguments are checked, also where the button will start the search.
        given = dict(arguments)
        given.pop("resume", None)
        given.pop("overwrite", None)
        plain(**given)
        return Live(folder, start(out, **arguments) if begin else None, arguments, layer)
    if arguments.pop("overwrite", False) and begin and not run.is_alive():
        run = start(out, **arguments, overwrite=True)
    arguments.pop("resume", None)
    _check_same(run, arguments)
    return Live(folder, run, arguments, layer)


def _check_same(run: Run, given: dict) -> None:
    there = run.arguments
    wanted = plain(**given)
    if there is None:
        return
    if other := [key for key in given if wanted[key] != there[key]]:
        said = "; ".join(_difference(key, there[key], wanted[key]) for key in other)
        raise ValueError(
            f"{run.out} holds a search with other arguments ({said}): choose another folder"
        )
    # Who names the code trusts it, where it lies in the same folder.
    if "model" in given and wanted["model_folder"] == there.get("model_folder"):
        run.trust = True


def _difference(key: str, there, here) -> str:
    """
    >>> _difference("space", {"bits": [2, 4], "thresholds": 8}, {"bits": [2, 4], "thresholds": 4})
    'space.thresholds: 8 there, 4 here'
    """
    if isinstance(there, dict) and isinstance(here, dict):
        parts = [part for part in {**there, **here} if there.get(part) != here.get(part)]
        return ", ".join(
            f"{key}.{part}: {there.get(part)} there, {here.get(part)} here" for part in parts
        )
    return f"{key}: {there} there, {here} here"


class Live:
    """What a cell shows of a search: buttons, and below them first words, then the growing figure,
    then its replay.

    >>> view = explorers.live("runs/mine", target=8)
    >>> view.buttons["pause"].click()
    >>> view.update()                               # as a notebook does by itself, twice a second
    >>> print(view.sentence)
    >>> view.explorer  # the figure of the moment; None before there is anything to draw

    In a notebook the view looks after itself until the search has ended or `close` is called; of
    two views of one folder the newer one does. `set`, `controls`, `figure` and `result` are those
    of the explorer.
    """

    def __init__(self, out: Path, run: Run | None, arguments: dict, layer: str | None = None):
        self.out = out
        self.run = run
        self.arguments = arguments
        self.explorer: Explorer | None = None
        self.events: list[dict] = []
        self._layer = layer
        # State and number of events that are shown.
        self._shown: tuple | None = None
        self._due = 0.0
        self._task: asyncio.Task | None = None
        # The state that was last said to who listens.
        self._told: str | None = None
        self._words = widgets.HTML(layout={"max_width": f"{WIDTH * DPI:.0f}px"})
        go = _button("Start", "start the search, or go on with it", self._go)
        pause = _button("Pause", "finish the step, save, and wait", self._pause)
        end = "finish the step, save, and end the process"
        interrupt = _button("Interrupt", end, self._interrupt)
        self.buttons = {"go": go, "pause": pause, "interrupt": interrupt}
        for button in self.buttons.values():
            button.on_click(self._pressed)
        self._body = widgets.VBox([self._words])
        self._box = widgets.VBox([widgets.HBox(list(self.buttons.values())), self._body])
        self.update()
        if (older := WATCHED.get(out)) is not None:
            older._stop()
        WATCHED[out] = self
        self._watch()

    @property
    def sentence(self) -> str:
        """What the view says."""
        return self.explorer.sentence if self.explorer else self._said

    @property
    def controls(self) -> dict:
        """The controls of the explorer; none before there is one."""
        return self.explorer.controls if self.explorer else {}

    @property
    def figure(self):
        """The figure of the explorer; None before there is one."""
        return self.explorer and self.explorer.figure

    @property
    def result(self):
        """The result of the explorer; None before there is one."""
        return self.explorer and self.explorer.result

    def set(self, **values) -> None:
        """As `Explorer.set`: layer, and when the search is finished step, too. ValueError before
        there is a figure.
        """
        if self.explorer is None:
            raise ValueError(f"there is nothing to set yet: {self.sentence}")
        self.explorer.set(**values)

    def close(self) -> None:
        """Stop looking and close the widgets. The search goes on."""
        self._stop()
        for widget in (*self.buttons.values(), self._words, self._body, self._box):
            widget.close()

    def update(self, patient: bool = False) -> None:
        """Look at the folder, and show what is new.

        Args:
            patient: whether to leave new steps for later while the last drawing is not paid off;
                a new state is shown at once.
        """
        status = self.run.status() if self.run else None
        wish = self.run.wish if self.run else ""
        # A new state is shown at once, new steps when the last figure is paid off.
        state = status and (status.state, status.message, wish)
        if patient and self._shown and state == self._shown[0] and time.monotonic() < self._due:
            return
        begun = time.thread_time()
        if self.run is not None and status:
            self.events += self.run.follow(len(self.events))
        if (state, len(self.events)) != self._shown:
            self._shown = state, len(self.events)
            self._follow(status, wish)
            self._show(status, wish)
        cost = min(time.thread_time() - begun, MOST)
        self._due = time.monotonic() + cost / SHARE

    def _follow(self, status: Status | None, wish: str) -> None:
        """The buttons say what can be asked for."""
        state = status.state if status else ""
        waits = state in ("", "paused", "interrupted", "failed")
        self.buttons["go"].description = "Resume" if state else "Start"
        self.buttons["go"].disabled = not waits and not (state in ALIVE and wish != "run")
        self.buttons["pause"].disabled = state not in ("starting", "running") or wish != "run"
        self.buttons["interrupt"].disabled = state not in ALIVE or wish == "stop"

    def _show(self, status: Status | None, wish: str) -> None:
        # Before the first table there are only words.
        record = None
        if self.run is not None and status is not None:
            record = self.run.record(self.events)
        if status is None or record is None or not record.of("tables"):
            self._say(html.escape(_waiting(status, wish)))
            self._said = _waiting(status, wish)
            return
        layer = self.explorer.state.layer if self.explorer else self._layer
        # In the end the replay takes the figure's place.
        if status.state == "finished":
            self._replace(playback.replay(record, **({"layer": layer} if layer else {})))
            about = f"Finished: {self.out.name}\n{records.summary(record)}"
            self._say(
                f'<pre style="line-height:1.4; white-space:pre-wrap">{html.escape(about)}</pre>'
            )
            return
        # While it runs the figure grows; it is told in words that something is new.
        now = Now.of(record, status, wish, self.out)
        if isinstance(self.explorer, Growing):
            self.explorer.grow(now)
        else:
            self._replace(Growing(now, layer))
            self._told = None
        if (told := _doing(status, wish) if now.runs else "") != self._told:
            self._told = told
            self._say(told and f'<span style="{UNSEEN}">{html.escape(told)}.</span>')

    def _replace(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._body.children = [self._words, explorer.widget]

    def _say(self, text: str) -> None:
        self._words.value = text and f'<div role="status" style="line-height:1.5">{text}</div>'

    def _go(self) -> None:
        if self.run is None:
            self.run = start(self.out, **self.arguments)
        else:
            self.run.resume()

    def _pause(self) -> None:
        if self.run is not None:
            self.run.pause()

    def _interrupt(self) -> None:
        if self.run is not None:
            self.run.interrupt()

    def _pressed(self, button: widgets.Button) -> None:
        try:
            button.does()
            self.update()
        # Nobody reads a kernel's traceback.
        except (OSError, ValueError) as error:
            self._say(html.escape(str(error)))
        except Exception as error:
            self._say(html.escape(f"{button.description}: {type(error).__name__}: {error}"))
        else:
            self._watch()

    def _watch(self) -> None:
        """Look again and again in the kernel's loop; a program without one calls `update`."""
        if self._task is None or self._task.done():
            with suppress(RuntimeError):
                self._task = asyncio.get_running_loop().create_task(self._look())

    def _is_alive(self) -> bool:
        """Whether the state that is shown is one of a search that runs."""
        if self._shown is None or not self._shown[0]:
            return False
        return self._shown[0][0] in ALIVE

    async def _look(self) -> None:
        while self._box.comm is not None and self._is_alive():
            await asyncio.sleep(LOOK)
            try:
                self.update(patient=True)
            # The folder was removed, holds another run's files by now, or a mistake of ours.
            except Exception as error:
                said = f"This view has ended: {type(error).__name__}: {error}"
                self._say(
                    html.escape(
                        f"{said}. The search was left alone; run the cell again to look at it."
                    )
                )
                return

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _repr_mimebundle_(self, **_):
        data = self._box._repr_mimebundle_() | {"text/plain": self.sentence}
        if self.explorer is None:
            return data, {}
        data |= {"image/png": base64.b64encode(self.explorer.picture.png(9)).decode()}
        return data, {"image/png": {"alt": self.sentence}}


def _button(text: str, tip: str, does) -> widgets.Button:
    button = widgets.Button(description=text, tooltip=tip, layout={"width": "120px"})
    button.does = does
    return button


@dataclass(frozen=True)
class Now:
    """A search at a moment: the arrays of its replay so far, and how far it is."""

    run: playback.Run
    steps: int  # of the whole search
    search_steps: int  # of those, in stage 1
    loss: tuple[np.ndarray, np.ndarray]  # steps and task losses, of both stages
    words: str  # state, step, time left
    runs: bool  # whether new words come by themselves

    @classmethod
    def of(cls, record: Record, status: Status, wish: str, out: Path) -> Now:
        # The curve of the loss, and the words about state and time.
        """Return what is known of a search that runs.

        Args:
            record: of the events so far.
            status: of its process.
            wish: what its process was asked for.
            out: its folder.

        Returns:
            The moment.
        """
        steps = record.of("step")
        settings = record.header["settings"]
        loss = np.array([e["step"] for e in steps]), np.array([e["task_loss"] for e in steps])
        per_epoch = status.steps // (settings["search_epochs"] + settings["final_epochs"])
        words = _doing(status, wish)
        if steps:
            words += f", step {steps[-1]['step']} of {status.steps} ({_stage(record, steps[-1])})"
        if status.state == "running" and steps and (left := _left(status, steps[-1]["step"], out)):
            words += f", {left} left"
        search_steps = per_epoch * settings["search_epochs"]
        runs = status.state in ("starting", "running")
        return cls(playback.Run.of(record), status.steps, search_steps, loss, words, runs)


def _waiting(status: Status | None, wish: str) -> str:
    if status is None:
        return "Nothing has been searched here yet: press Start."
    more = {
        "starting": ": loading the network and the images",
        "running": ": calibrating thresholds",
    }
    return _doing(status, wish) + more.get(status.state, "") + "."


def _doing(status: Status, wish: str) -> str:
    if status.state in ("starting", "running") and wish != "run":
        return {"pause": "Pausing after this step", "stop": "Stopping after this step"}[wish]
    return status.state.capitalize() + (f" ({status.message})" if status.message else "")


def _stage(record: Record, step: dict) -> str:
    """Where in the two stages a step is."""
    settings = record.header["settings"]
    epochs = record.of("epoch")
    if step["stage"] == 1:
        epoch = f"search, epoch {step['epoch'] + 1} of {settings['search_epochs']}"
        return f"{epoch}, temperature {step['temperature']:.2f}"
    text = f"fine-tuning, epoch {step['epoch'] + 1} of {settings['final_epochs']}"
    if repairs := record.of("repair"):
        text += f", compression {repairs[-1]['rate_after']:.2f}"
    return text + (
        f", validation accuracy {epochs[-1]['validation_accuracy']:.1f} %" if epochs else ""
    )


def _left(status: Status, step: int, out: Path) -> str:
    """How long it will take at the pace since the search was last started or resumed; "" before
    that can be said.
    """
    if not status.since or step - status.first < 20:
        return ""
    pace = (os.path.getmtime(out / EVENTS) - status.since) / (step - status.first)
    minutes = pace * (status.steps - step) / 60
    return (
        "less than a minute"
        if minutes < 1
        else f"about {minutes:.0f} minute{'s' if minutes >= 1.5 else ''}"
    )


@dataclass(frozen=True)
class Result(playback.Result):
    now: Now


class Growing(Explorer):
    """The figure of a search that runs; `grow` shows a later moment of it. Its one control is the
    layer.
    """

    def __init__(self, now: Now, layer: str | None = None):
        self.now = now
        names = tuple(now.run.tables)
        run = now.run
        texts = tuple(run.text(name) for name in names)
        first = max(run.weights or names, key=lambda name: run.tensors[name]["size"])
        state = playback.State(run.steps, first, run.steps[-1])
        controls = {"layer": Choice("layer", names, texts, rows=4)}
        initial = {"layer": layer} if layer else {}
        super().__init__(
            state, lambda state: compute(state, self.now), draw, move, controls, initial, HEIGHT
        )

    def grow(self, now: Now) -> None:
        """The layer stays; the map is that of the newest step that has one.

        Args:
            now: the events so far.
        """
        room = limits(self.now)
        self.now = now
        # Axes stand still, so that little is painted again: now and then they must give.
        if limits(now) != room:
            fit(now, self.artists)
            self.picture.settle()
        self._show(playback.State(now.run.steps, self.state.layer, now.run.steps[-1]))

    @property
    def live(self) -> str:
        """Nobody can listen to a sentence twice a second: while it grows by itself, `Live` tells
        the state alone.
        """
        return "off" if self.now.runs else "polite"


def compute(state: playback.State, now: Now) -> Result:
    """What the events so far say, as `playback.compute` of a whole record.

    Args:
        state: what the controls are set to.
        now: the events so far.

    Returns:
        What is shown.
    """
    found = vars(playback.compute(state, now.run))
    # After the step and what goes with it.
    _, _, said = found["sentence"].partition(": ")
    return Result(**found | {"sentence": f"{now.words}. At step {state.step} {said}"}, now=now)


def limits(now: Now) -> tuple[float, float, float]:
    """Ends of the axes of compression (low, high) and loss (high), with room to grow.

    Args:
        now: the events so far.

    Returns:
        The three ends.
    """
    run = now.run
    rates = np.r_[
        run.expected_rate, run.actual_rate, run.events["target_rate"], run.target * (1 + run.margin)
    ]
    loss = np.nanmax(now.loss[1], initial=0.1)
    return (
        np.nanmin(rates) // 1,
        2 * math.ceil(0.52 * np.nanmax(rates)),
        1.5 ** math.ceil(math.log(1.02 * loss, 1.5)),
    )


def draw(result: Result, figure) -> dict:
    """The replay's figure with axes for the whole search, on which the curves grow.

    Args:
        result: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    now = result.now
    artists = playback.draw(result, figure)
    rate, temperature, loss = (cursor.axes for cursor in artists["cursor"])
    # They grow.
    artists["curves"] = [*rate.lines[:3], temperature.lines[0], loss.lines[0]]
    temperature.set_ylim(0, 1.1 * max(1, np.nanmax(now.run.events["temperature"], initial=0)))
    for ax in (rate, temperature, loss):
        ax.set_xlim(0, max(now.steps, 1))
        if now.search_steps < now.steps:
            ax.axvline(now.search_steps, color=INK, lw=1, ls=":")
    fit(now, artists)
    move(result, artists)
    return artists


def fit(now: Now, artists: dict) -> None:
    """Give the axes of compression and loss room for what there is.

    Args:
        now: the events so far.
        artists: from `draw`.
    """
    low, high, most = limits(now)
    # Axes give only now and then, so that little is painted again.
    rate, _, loss = (cursor.axes for cursor in artists["cursor"])
    rate.set_ylim(low, high)
    loss.set_ylim(0, most)


def move(result: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        result: what `compute` returned.
        artists: from `draw`.
    """
    playback.move(result, artists)
    run = result.run
    events = result.run.events
    # Each curve gets the steps that there are by now.
    step = events["step"]
    series = (
        (run.steps, run.expected_rate),
        (run.steps, run.actual_rate),
        (step, events["target_rate"]),
    )
    for line, xy in zip(
        artists["curves"], (*series, (step, events["temperature"]), result.now.loss), strict=True
    ):
        line.set_data(*xy)
