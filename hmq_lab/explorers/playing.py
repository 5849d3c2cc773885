"""Beat the search: sliders for the bits and threshold of every layer of a real network, measured at
each move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import ipywidgets as widgets
from torch import nn

from hmq_lab.explorers.controls import Choice, Control, Switch, powers
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.tensors import NETWORK, many
from hmq_lab.plots import BLUE, GREEN, INK, PALE, RED
from hmq_lab.plots.frame import Look
from hmq_lab.plots.pareto import rate_and_accuracy, references
from hmq_lab.rivals import game as rules
from hmq_lab.rivals.game import Game
from hmq_lab.rivals.scores import Outcome, front

ROWS = 24  # so many names of layers fit beside their bars


@dataclass(frozen=True)
class State:
    """Where a player stands: the layer in view, the choice of all layers, what is locked; `note` is
    said first.
    """

    game: Game
    layer: str
    choice: dict[str, tuple[int, int]]
    kept: frozenset[str]
    note: str = ""

    @classmethod
    def of(cls, game: Game, layer: str, note: str = "") -> State:
        """Return the state of a game.

        Args:
            game: that is played.
            layer: in view.
            note: a sentence to begin with.

        Returns:
            The state.
        """
        return cls(game, layer, game.choice, game.locked, note)

    @property
    def bits(self) -> int:
        """Bits of the layer in view."""
        return self.choice[self.layer][0]

    @property
    def exponent(self) -> int:
        """Exponent of the threshold of the layer in view."""
        return self.choice[self.layer][1]

    @property
    def locked(self) -> bool:
        """Whether the layer in view is locked."""
        return self.layer in self.kept

    def change(self, layer=None, bits=None, exponent=None, locked=None, **others) -> State:
        """Return the state after a move.

        Args:
            layer: to be in view.
            bits: of that layer.
            exponent: of its threshold.
            locked: whether hints leave it alone.
            others: must be empty.

        Returns:
            The new state.

        Raises:
            ValueError: another field is set, or the layer is locked.
        """
        if others:
            raise ValueError(
                f"a move sets layer, bits, exponent or locked, got {', '.join(others)}"
            )
        layer = layer or self.layer
        kept = self.kept
        if locked is not None:
            kept = kept | {layer} if locked else kept - {layer}
        state = replace(self, layer=layer, kept=kept, note="")
        if exponent is None and bits in (None, state.bits):
            return state
        pair = self.game.arena.pair(layer, state.bits if bits is None else bits, exponent)
        if layer in self.kept and layer in kept and pair != self.choice[layer]:
            raise ValueError(f"{layer} is locked: unlock it first")
        return replace(state, choice=state.choice | {layer: pair})


@dataclass(frozen=True)
class Result:
    state: State
    outcome: Outcome
    hmq: Outcome | None
    scores: tuple[Outcome, ...]
    tried: tuple[tuple[float, float], ...]  # (compression, accuracy)
    sentence: str


class Playing(Explorer):
    """The explorer of a game. Its buttons are methods, too: undo(), redo(), hint(), start("HMQ"),
    export().

    >>> view = explorers.beat()
    >>> view.set(layer="conv1.weight", bits=4); view.undo()
    >>> view.start("greedy"); view.hint(); print(view.sentence)
    >>> view.game.best
    """

    def __init__(self, game: Game, layer: str):
        self.game = game
        arena = game.arena
        # The controls of the layer in view.
        exponents = sorted({e for name in arena.layers for e in arena.exponents(name)})
        names = tuple(name.removesuffix(".weight") for name in arena.layers)
        widths = arena.space.bits
        controls: dict[str, Control] = {"layer": Choice("layer", arena.layers, names, rows=5)}
        controls["bits"] = Choice("bits", widths, tuple(map(str, widths)))
        controls["exponent"] = powers("threshold", exponents)
        controls["locked"] = Switch("locked")
        super().__init__(State.of(game, layer), compute, draw, move, controls, height=4.1)
        for name in ("bits", "exponent"):
            # A move is measured: not at every place that is dragged over.
            self.controls[name].continuous_update = False
        # Starts, and what else can be done, as buttons.
        options = [
            (text, what) for what, text in rules.STARTS.items() if what != "HMQ" or arena.rival
        ]
        looks = {"layout": {"width": "250px"}, "style": {"description_width": "80px"}}
        self._start = widgets.Dropdown(options=options, description="start from", **looks)
        does = {"start": lambda: self.start(self._start.value)}
        does |= {"undo": self.undo, "redo": self.redo}
        does |= {"hint": self.hint, "export": self.export}
        self.buttons = {}
        for name in does:
            self.buttons[name] = widgets.Button(description=name, layout={"width": "80px"})
        for name, button in self.buttons.items():
            button.on_click(lambda _, do=does[name]: self._pressed(do))
        layout = {"display": "flex", "flex_flow": "row wrap"}
        row = widgets.Box([self._start, *self.buttons.values()], layout=layout)
        controls, *shown = self.widget.children
        self.widget.children = (controls, row, *shown)

    def undo(self) -> None:
        """Take the last move back. Raises ValueError where there is none, as `redo` does."""
        self._do(self.game.undo)

    def redo(self) -> None:
        """Take the last undo back."""
        self._do(self.game.redo)

    def start(self, what) -> None:
        """Begin from another choice, as `Game.start`; a start is no move, and no score.

        Args:
            what: as `Game.start` takes it.
        """
        self._do(lambda: self.game.start(what), said="A start does not count: make a move. ")

    def hint(self) -> None:
        """Measure, say which layer promises most, and bring it into view."""
        found = self.game.hint()
        super()._show(State.of(self.game, found.layer or self.state.layer, f"{found.sentence} "))

    def export(self) -> None:
        """Write the scores as .csv beside the player's file."""
        table = self.game.file.with_suffix(".csv")
        self.game.export(table)
        note = f"{len(self.game.scores)} scores are in {table}. "
        super()._show(State.of(self.game, self.state.layer, note))

    def _show(self, state: State) -> None:
        """A control was moved: make the move, then show what came of it."""

        def do():
            # Before the move: what is unlocked with it can be moved.
            for name in self.game.locked - state.kept:
                self.game.lock(name, False)
            if state.choice != self.game.choice:
                self.game.play(state.layer, *state.choice[state.layer])
            for name in state.kept - self.game.locked:
                self.game.lock(name)

        self._do(do, state.layer)

    def _do(self, do: Callable, layer: str | None = None, said: str = "") -> None:
        note = said
        before = self.game.choice
        locked = self.game.locked
        try:
            do()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and (before, locked) == (
                self.game.choice,
                self.game.locked,
            ):
                # No move.
                raise
            # The move is made, and can be made again; the reader must know that it is not kept.
            note = f"Your scores could not be saved: {error}. "
        moved = [name for name, pair in self.game.choice.items() if pair != before[name]]
        # An undone move is looked at.
        layer = layer or (moved[0] if len(moved) == 1 else self.state.layer)
        super()._show(State.of(self.game, layer, note))

    def _pressed(self, do: Callable) -> None:
        try:
            do()
        except (ValueError, OSError) as error:
            self.view.say(f"{error}")

    def _follow(self) -> None:
        """The threshold's slider has the places that the layer in view can have."""
        self._following = True
        exponents = sorted(self.game.arena.exponents(self.state.layer))
        places = [(f"2^{e}", e) for e in exponents]
        if list(self.controls["exponent"].options) != places:
            self.controls["exponent"].options = places
        super()._follow()


def beat(game: Game | None = None, layer: str | None = None, **options) -> Playing:
    """Set bits and thresholds by hand on a real network, and try to beat HMQ's selection.

    >>> explorers.beat()  # the shipped network, on held built-in images
    >>> explorers.beat(player="ada", folder="class-7b")  # scores of their own, in a folder you name
    >>> explorers.beat(game.of_run("runs/cifar10-w16", weights="cifar10_resnet20.safetensors"))

    Args:
        game: None is `game.shipped(**options)`.
        layer: in view first, by default the largest.
        options: of the shipped game.

    Raises:
        ValueError: for options beside a game, and for a layer that it has not.
    """
    if game is not None and (options or not isinstance(game, Game)):
        hint = f": {NETWORK}" if isinstance(game, nn.Module) else ""
        what = f"a {type(game).__name__}{hint}" if hint else f"{game!r} and {options}"
        raise ValueError(f"beat takes a Game, or the options of game.shipped; got {what}")
    game = game or rules.shipped(**options)
    sizes = game.arena.sizes
    largest = max(sizes, key=lambda name: sizes[name])
    return Playing(game, game.arena.named(layer or largest))


def compute(state: State) -> Result:
    """What the choice is worth: measured, if it was not before.

    Args:
        state: what the controls are set to.

    Returns:
        What is shown.
    """
    game = state.game
    arena = state.game.arena
    outcome = arena.evaluate(state.choice)
    hmq = arena.hmq
    tried = tuple((o.rate, o.accuracy) for o in arena.tried)
    text = f"{state.note}{state.layer}: {many(state.bits, 'bit')} below 2^{state.exponent}. All "
    text += "weights take "
    text += f"{outcome.weight_bytes:,.0f} bytes, {outcome.rate:.2f} times fewer than in float; an "
    text += "image takes "
    text += (
        f"{outcome.bit_operations / 1e6:,.1f} million bit operations; {outcome.accuracy:.1f} % of "
    )
    text += f"{arena.count:,} held images are right. "
    short = game.target - outcome.rate
    if short >= 0.005:
        text += f"The compression is {short:.2f} below the target. "
    if hmq is not None:
        apart = outcome.accuracy - hmq.accuracy
        text += f"HMQ's selection, not fine-tuned, on the same images: compression {hmq.rate:.2f}, "
        text += f"{hmq.accuracy:.1f} %; "
        where = "above" if apart > 0 else "below"
        text += f"you are {abs(apart):.1f} points {where}, " if apart else "you equal it, "
        text += f"your compression {abs(outcome.rate - hmq.rate):.2f} "
        text += f"{'higher' if outcome.rate >= hmq.rate else 'lower'}. "
    if (best := game.best) is not None:
        text += f"Your best at the target: {best.accuracy:.1f} %" + (
            ", and you beat HMQ." if game.won else "."
        )
    return Result(state, outcome, hmq, front(game.scores), tried, text.strip())


def draw(r: Result, figure) -> dict:
    """Left every layer's bits beside HMQ's; right accuracy over compression, with all tries.

    Args:
        r: what `compute` returned.
        figure: an empty figure.

    Returns:
        The artists that `move` changes, by name.
    """
    arena = r.state.game.arena
    place: Look
    bars, ax = figure.subplots(1, 2, width_ratios=(1, 1.25))
    # Left a bar for each layer, over a band that marks the one in view.
    every = -(-len(arena.layers) // ROWS)
    at = range(len(arena.layers))
    artists = {"view": bars.axhspan(0, 1, color=PALE, alpha=0.6, lw=0, zorder=0.5)}
    drawn = bars.barh(at, [1] * len(at), 0.72, color=BLUE, zorder=2)
    artists["bars"] = list(drawn)
    style: Look = {"ls": "none", "marker": "D", "mfc": "white", "mec": INK, "mew": 1.5}
    style["ms"] = 6 if every == 1 else 3
    # HMQ's choice beside the player's.
    if r.hmq is not None:
        widths = [bits for bits, _ in r.hmq.choice.values()]
        hmq = bars.plot(widths, at, label="HMQ's bits", zorder=4, **style)
        # Painted again at each move, over the bars.
        artists["hmq"] = hmq
        place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0}
        bars.legend(frameon=False, handletextpad=0.3, **place)
    # Thresholds in words, at the right of the bars.
    top = max(arena.space.bits)
    words = {"va": "center", "fontsize": 9, "color": INK, "clip_on": False}
    words["in_layout"] = False  # what they say changes, and the axes stay where they are
    rows = [i for i in at if i % every == 0]
    artists["words"] = [bars.text(top + 0.7, i, "2^-8 locked", **words) for i in rows]
    names = [""] * len(at)
    for i in rows:
        names[i] = arena.layers[i].removesuffix(".weight")
    bars.set(yticks=list(at), yticklabels=names, ylim=(len(at) - 0.4, -0.6))
    ticks = [bits for bits in arena.space.bits if bits <= top]
    bars.set(xlim=(0, top + 3.8), xticks=ticks, xlabel="bits; right of them the threshold")
    bars.grid(False, axis="y")

    # Right everything that was measured, the scores, and where the player stands.
    rate_and_accuracy(ax)
    (artists["tried"],) = ax.plot([], [], ".", color="#888888", ms=4, label="tried")
    still = references(ax, arena.references, r.state.game.target)
    line = {"color": GREEN, "lw": 1.8, "drawstyle": "steps-pre", "marker": "^", "ms": 6}
    (artists["scores"],) = ax.plot([], [], label="your scores", **line)
    dot: Look = {"color": RED, "ms": 10, "mec": "white", "zorder": 7}
    (artists["now"],) = ax.plot([], [], "o", label="now", **dot)
    handles = [*still, artists["tried"], artists["scores"], artists["now"]]
    place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0.2}
    spaces: Look = {"columnspacing": 1, "handlelength": 1.4, "handletextpad": 0.5}
    ax.legend(handles=handles, ncols=3, frameon=False, **place, **spaces)
    move(r, artists)
    return artists


def move(r: Result, artists: dict) -> None:
    """Put a result on the artists of `draw`.

    Args:
        r: what `compute` returned.
        artists: from `draw`.
    """
    s = r.state
    layers = s.game.arena.layers
    every = -(-len(layers) // ROWS)
    for bar, name in zip(artists["bars"], layers, strict=True):
        bar.set_width(s.choice[name][0])
    for text, name in zip(artists["words"], layers[::every], strict=True):
        text.set_text(f"2^{s.choice[name][1]}" + (" locked" if name in s.kept else ""))
    # The band, then the points of the right panel.
    artists["view"].set_y(layers.index(s.layer) - 0.5)
    artists["view"].set_height(1)
    compressions = [compression for compression, _ in r.tried]
    artists["tried"].set_data(compressions, [accuracy for _, accuracy in r.tried])
    artists["scores"].set_data([o.rate for o in r.scores], [o.accuracy for o in r.scores])
    artists["now"].set_data([r.outcome.rate], [r.outcome.accuracy])
