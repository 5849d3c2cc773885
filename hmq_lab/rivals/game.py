"""Beat the search: set the bits and thresholds of a trained network by hand, and measure them at once.

>>> from hmq_lab.rivals import game
>>> play = game.shipped(player="ada")                        # the shipped network, 1,000 held built-in pictures
>>> play.outcome.rate, play.outcome.accuracy                 # 4 bits everywhere
(8.0, 79.0)
>>> play.play("layer3.0.conv1.weight", bits=3)               # the threshold follows, unless you give one
>>> play.play("conv1.weight", threshold=0).accuracy; play.undo()
>>> print(play.hint().sentence)                              # measured: one bit less or more in every layer
>>> play.arena.hmq.accuracy, play.best.accuracy              # HMQ's selection, not fine-tuned
>>> plots.pareto(game.board("beat-the-search"))              # everybody's files in that folder

No weight is trained, neither for the player nor for HMQ's selection, so that the comparison is about schemes alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hmq_lab import budget, data, models, rivals
from hmq_lab.data.files import alone, digest
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.rivals import scores
from hmq_lab.rivals.arena import Arena, Pairs
from hmq_lab.rivals.hints import Hint, best_change
from hmq_lab.rivals.scores import Outcome, Saved, board
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

__all__ = ["FOLDER", "STARTS", "Arena", "Game", "Hint", "board", "of_run", "on", "shipped"]

FOLDER = "beat-the-search"
STARTS = ("uniform", "greedy", "HMQ", "best")


class Game:
    """A player's choice of a scheme for every weight, and the scores that came of it.

    >>> play = Game(Arena(network, x, y, "resnet20", record), target=8, player="ada")

    target: the rate to reach. folder, player: where scores are kept, from the first move on, and under which name; a
    file that is there goes on. Raises ValueError for a name that is no file's and for a saved file that was altered.
    """

    def __init__(self, arena: Arena, target: float = 8.0, folder: Path | str = FOLDER, player: str = "player"):
        self.arena, self.player = arena, scores.check_player(player)
        goal = budget.Target(weights=target)
        goal.check_reachable(arena.space)
        self.target = goal.weights
        self.file = Path(folder) / f"{player}-{arena.setting['model']}-{digest(arena.setting)[:8]}.json"
        self.scores: tuple[Outcome, ...] = ()
        self.locked: frozenset[str] = frozenset()
        self.choice: Pairs = arena.fitting(rivals.uniform(arena.sizes, arena.space, self.target))
        given: tuple[str, ...] = ()
        if self.file.exists():
            saved = scores.read(self.file)
            scores.check_setting(arena.setting, saved.setting, str(self.file))
            arena.trust(saved.references)
            self.choice, self.scores, self.locked = arena.checked(saved.choice), saved.scores, frozenset(saved.locked)
            given = saved.given
        self._given = {digest(self.choice), *given}  # of choices that were starts: no player's own
        self._past: list[Pairs] = []
        self._future: list[Pairs] = []

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the weights."""
        return self.arena.layers

    @property
    def outcome(self) -> Outcome:
        """What the present choice is worth."""
        return self.arena.evaluate(self.choice)

    def pair(self, layer: str, bits: int | None = None, threshold: int | None = None) -> tuple[int, int]:
        """(bits, exponent) that a layer would have after a move."""
        now = self.choice[self.arena.named(layer)]
        if threshold is None and bits in (None, now[0]):
            return now
        return self.arena.pair(layer, now[0] if bits is None else bits, threshold)

    def play(self, layer: str, bits: int | None = None, threshold: int | None = None) -> Outcome:
        """Give a layer other bits, another threshold 2^threshold, or both; returns what comes of it.

        Other bits without a threshold bring the one with the least squared error for them. Raises ValueError for a
        layer that there is not or that is locked, and for values it cannot have.
        """
        pair = self.pair(layer, bits, threshold)
        if layer in self.locked:
            raise ValueError(f"{layer} is locked: unlock it first")
        return self._move(self.choice | {layer: pair})

    def start(self, what: str | Path | Mapping[str, int | tuple[int, int]]) -> Outcome:
        """Begin from another choice; locked layers keep what they have.

        what: "uniform", the most bits that reach the target; "greedy", see `Arena.greedy`; "HMQ", the record's
        selection; "best", your best score at the target; the path of a saved file, its best; or
        {weight: bits or (bits, exponent)} for every weight. A start is no score of yours, nor is what locks make of it.
        """
        arena = self.arena
        if isinstance(what, Mapping):
            choice = arena.checked(what)
        elif what == "uniform":
            choice = arena.fitting(rivals.uniform(arena.sizes, arena.space, self.target))
        elif what == "greedy":
            choice = arena.greedy(self.target)
        elif what == "HMQ":
            if arena.rival is None:
                raise ValueError("this game has no record of a search to start from")
            choice = arena.checked(arena.rival)
        elif what == "best":
            if self.best is None:
                raise ValueError(f"you have no score at the target {self.target:g} yet to start from")
            choice = arena.checked(self.best.choice)
        elif isinstance(what, Path) or str(what).endswith(".json"):
            saved = scores.read(Path(what))
            scores.check_setting(arena.setting, saved.setting, str(what))
            best = saved.best(self.target)
            choice = arena.checked(saved.choice if best is None else best.choice)
        else:
            raise ValueError(f"a start is one of {', '.join(STARTS)}, a saved .json file or a choice, got {what!r}")
        choice |= {name: self.choice[name] for name in self.locked}
        self._given.add(digest(choice))
        return self._move(choice)

    def undo(self) -> Outcome:
        """Take the last move or start back. Raises ValueError where there is none or it changed what is locked now."""
        return self._step(self._past, self._future, "undo")

    def redo(self) -> Outcome:
        """Make the move again that was taken back last. Raises ValueError as `undo`."""
        return self._step(self._future, self._past, "redo")

    def lock(self, layer: str, locked: bool = True) -> None:
        """Keep a layer as it is, whatever start is chosen; hints leave it out. `locked=False` unlocks it."""
        layer = {self.arena.named(layer)}
        now = self.locked | layer if locked else self.locked - layer
        if now != self.locked:
            self.locked = now
            self._save()

    def hint(self) -> Hint:
        """Measure one bit-width less and one more in every layer that is not locked, and name the best change.

        Below the target: fewer bits, where they cost the least loss for each bit saved. From the target on: more bits,
        where they gain most for each bit spent and stay at the target; where nothing does, fewer, to make room.
        """
        return best_change(self.arena, self.choice, self.locked, self.target)

    @property
    def best(self) -> Outcome | None:
        """Your score with the highest accuracy at or above the target."""
        return self.saved().best()

    @property
    def won(self) -> bool:
        """Whether one of your scores beats HMQ's selection: nowhere worse in rate and accuracy, better in one."""
        hmq = self.arena.hmq
        return hmq is not None and any(score.beats(hmq) for score in self.scores)

    def saved(self) -> Saved:
        """What the player's file holds."""
        return Saved(self.player, self.arena.setting, self.target, self.arena.references, self.scores, self.choice,
                     tuple(sorted(self.locked)), tuple(sorted(self._given)))  # fmt: skip

    def table(self) -> str:
        """Your scores as text, then the present choice and HMQ's selection."""
        rows = [("", "rate", "accuracy %", "bytes", "bit operations", "bits")]
        hmq = self.arena.hmq
        for name, o in [*(("score", s) for s in self.scores), ("now", self.outcome), ("HMQ", hmq)]:
            if o is not None:
                bits = " ".join(str(pair[0]) for pair in o.choice.values())
                numbers = f"{o.rate:.2f}", f"{o.accuracy:.1f}", f"{o.weight_bytes:,.0f}", f"{o.bit_operations:,}"
                rows.append((name, *numbers, bits))
        return records.columns(rows)

    def export(self, path: Path | str) -> Path:
        """Write your scores as a table: .csv or .json by the path's ending."""
        return scores.export(self.saved(), Path(path))

    def _move(self, choice: Pairs) -> Outcome:
        outcome = self.arena.evaluate(choice)
        if choice == self.choice:
            return outcome
        self._past.append(self.choice)
        self._future.clear()
        self.choice = choice
        given = any(choice == o.choice for o in self.arena.references.values()) or digest(choice) in self._given
        if not given:
            self.scores = scores.front([*self.scores, outcome])
        self._save()
        return outcome

    def _step(self, source: list[Pairs], other: list[Pairs], name: str) -> Outcome:
        if not source:
            raise ValueError(f"there is nothing to {name}")
        if kept := [layer for layer in self.layers if layer in self.locked and source[-1][layer] != self.choice[layer]]:
            raise ValueError(f"{name} would change {', '.join(kept)}, locked: unlock it first")
        other.append(self.choice)
        self.choice = source.pop()
        self._save()
        return self.outcome

    def _save(self) -> None:
        """Write the player's file; what another window added to it meanwhile stays in it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with alone(self.file.parent):
            if self.file.exists():
                there = scores.read(self.file)
                self.scores = scores.front([*there.scores, *self.scores])
                self._given.update(there.given)
            scores.write(self.saved(), self.file)


def shipped(pictures: int = 1000, **options) -> Game:
    """The game on the network that comes with the package, on held built-in pictures, against its recorded search.

    >>> play = shipped(player="ada", folder="class-7b")

    options: target, folder and player of `Game`, few of `Arena`.
    """
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    record = records.recorded("builtin-tiny_resnet8-w8-a8")
    return on(network, data.load("builtin"), record, pictures=pictures, **options)


def on(
    network: nn.Module,
    source: data.Data,
    record: Record | None = None,
    *,
    pictures: int = 500,
    few: int = 200,
    name: str | None = None,
    **options,
) -> Game:
    """The game on any network and data: on so many pictures of the validation split, evenly spread.

    >>> play = on(network, data.load("cifar10", normalize="imagenet"), records.recorded("cifar10-resnet20-w16-a8"))

    name: of the network, the record's by default, or its class's. options: target (the record's by default), folder and
    player of `Game`. Raises ValueError for a number of pictures that the split does not have.
    """
    held = source.validation
    if isinstance(pictures, bool) or not isinstance(pictures, int) or not 1 <= pictures <= len(held):
        raise ValueError(f"pictures must be a whole number from 1 to {len(held):,}, got {pictures!r}")
    x, y = next(iter(held.subset(torch.arange(pictures) * len(held) // pictures).batches(pictures)))
    name = name or (type(network).__name__ if record is None else record.header["model"])
    target = {} if record is None else {"target": record.header["target"]["weights"]}
    return Game(Arena(network, x, y, name, record, few=few), **target | options)


def of_run(run: Path | str, weights: Path | str, root: str | os.PathLike | None = None, **options) -> Game:
    """The game against a finished run: its record's network, data and target, with the weights its search began with.

    >>> play = of_run("runs/cifar10-w16", weights="cifar10_resnet20.safetensors", pictures=500)

    run: a folder, or a record. weights: of the float network, as `hmq-lab search --weights` had it; the fine-tuned ones
    in the folder would not be fair. root: where data lie. options: those of `on`.
    """
    record = records.read(Path(run))
    source = data.load(record.header["data"], root=root, normalize=record.header["normalize"])
    network = models.build(record.header["model"], classes=len(source.classes))
    load_weights(network, weights)
    return on(network, source, record, **options)
