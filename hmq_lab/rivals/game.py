"""Beat the search: set the bits and thresholds of a trained network by hand, and measure them.

>>> play = shipped(player="ada")            # the shipped network, 1,000 held images
>>> play.outcome.rate, play.outcome.accuracy                              # 4 bits everywhere
(8.0, 79.0)
>>> play.play("layer3.0.conv1.weight", bits=3).accuracy                   # doctest: +SKIP
>>> play.play("conv1.weight", threshold=0).accuracy                       # doctest: +SKIP
>>> play.undo(); print(play.hint().sentence)                              # doctest: +SKIP
>>> play.arena.hmq.accuracy, play.best.accuracy                           # doctest: +SKIP
>>> plots.pareto(board("beat-the-search"))                                # doctest: +SKIP

A threshold follows the bits, unless you give one. No weight is trained, neither for the player nor
for HMQ's selection: the game compares schemes alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmq_lab import budget, data, models, rivals
from hmq_lab.data.files import digest, locked
from hmq_lab.data.tables import columns
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.rivals import scores
from hmq_lab.rivals.arena import Arena, Pairs
from hmq_lab.rivals.hints import Hint, best_change
from hmq_lab.rivals.scores import Outcome, Saved, board
from hmq_lab.runs import records
from hmq_lab.runs.records import Record

__all__ = ["FOLDER", "STARTS", "Arena", "Game", "Hint", "board", "of_run", "on", "shipped"]

FOLDER = "beat-the-search"
# What a game can start from, and how the explorer calls it.
STARTS = {
    "uniform": "uniform bits",
    "greedy": "greedy choice",
    "HMQ": "HMQ's bits",
    "best": "my best score",
}


class Game:
    """A player's choice of a scheme for every weight, and the scores that came of it.

    >>> play = Game(Arena(network, x, y, "resnet20", record), player="ada")  # doctest: +SKIP

    Args:
        arena: what is played on.
        target: the compression to reach.
        folder: where scores are kept, from the first move on.
        player: the name they are kept under; a file that is there goes on.

    Raises:
        ValueError: for a name that is not allowed, and for a saved file that was altered.
    """

    def __init__(
        self,
        arena: Arena,
        target: float = 8.0,
        folder: Path | str = FOLDER,
        player: str = "player",
    ):
        # Check the player and the target.
        self.arena, self.player = arena, scores.check_player(player)
        goal = budget.Target(weights=target)
        goal.check_reachable(arena.space)
        self.target = goal.weights
        name = f"{player}-{arena.setting['model']}-{digest(arena.setting)[:8]}.json"
        self.file = Path(folder) / name

        # Begin with the same bits everywhere, or where the player's file stands.
        start = rivals.uniform(arena.sizes, arena.space, self.target)
        self.choice: Pairs = arena.fitting(start)
        self.scores: tuple[Outcome, ...] = ()
        self.locked: frozenset[str] = frozenset()
        # Of choices that were starts, no player's own.
        self._given = {digest(self.choice)}
        if self.file.exists():
            saved = scores.read(self.file)
            scores.check_setting(arena.setting, saved.setting, str(self.file))
            arena.use_references(saved.references)
            self.choice = arena.checked(saved.choice)
            self.scores = saved.scores
            self.locked = frozenset(saved.locked)
            self._given = {digest(self.choice), *saved.given}
        self._past: list[Pairs] = []
        self._future: list[Pairs] = []

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the weights."""
        return self.arena.layers

    @property
    def outcome(self) -> Outcome:
        """What the present choice costs."""
        return self.arena.evaluate(self.choice)

    def pair(
        self, layer: str, bits: int | None = None, threshold: int | None = None
    ) -> tuple[int, int]:
        """Return (bits, exponent) that a weight would have after a move."""
        # Nothing changes without another value.
        now = self.choice[self.arena.named(layer)]
        if threshold is None and bits in (None, now[0]):
            return now
        return self.arena.pair(layer, now[0] if bits is None else bits, threshold)

    def play(self, layer: str, bits: int | None = None, threshold: int | None = None) -> Outcome:
        """Change the scheme of a weight, and return what comes of it.

        Args:
            layer: the name of the weight.
            bits: the new bit-width; None keeps it.
            threshold: the new exponent. Other bits without a threshold bring the threshold with
                the least squared error for them.

        Raises:
            ValueError: for a weight that does not exist or is locked, and values it cannot have.
        """
        # Bad values are named before a lock is.
        pair = self.pair(layer, bits, threshold)
        if layer in self.locked:
            raise ValueError(f"{layer} is locked: unlock it first")
        return self._move(self.choice | {layer: pair})

    def start(self, what: str | Path | Mapping[str, int | tuple[int, int]]) -> Outcome:
        """Begin from another choice; locked weights keep their schemes.

        Neither a start nor what locks make of it counts as a score of yours.

        Args:
            what: "uniform", the most bits that reach the target; "greedy", see `Arena.greedy`;
                "HMQ", the record's selection; "best", your best score at the target; the path of
                a saved file, its best; or {weight: bits or (bits, exponent)} for every weight.

        Raises:
            ValueError: for another start, and one that this game does not have.
        """
        # Locks hold in every start.
        choice = self._start(what)
        choice |= {name: self.choice[name] for name in self.locked}
        self._given.add(digest(choice))
        return self._move(choice)

    def _start(self, what: str | Path | Mapping[str, int | tuple[int, int]]) -> Pairs:
        """Return the choice of a start."""
        # A choice of one's own.
        arena = self.arena
        if isinstance(what, Mapping):
            return arena.checked(what)
        # A computed choice.
        if what == "uniform":
            return arena.fitting(rivals.uniform(arena.sizes, arena.space, self.target))
        if what == "greedy":
            return arena.greedy(self.target)
        # The search's choice.
        if what == "HMQ":
            if arena.rival is None:
                raise ValueError("this game has no record of a search to start from")
            return arena.checked(arena.rival)
        # The player's best one.
        if what == "best":
            if self.best is None:
                said = f"you have no score at the target {self.target:g} yet to start from"
                raise ValueError(said)
            return arena.checked(self.best.choice)
        # The best one of a file.
        if isinstance(what, Path) or str(what).endswith(".json"):
            saved = scores.read(Path(what))
            scores.check_setting(arena.setting, saved.setting, str(what))
            best = saved.best(self.target)
            return arena.checked(saved.choice if best is None else best.choice)
        said = ", ".join(STARTS)
        raise ValueError(f"a start is one of {said}, a saved .json file or a choice, got {what!r}")

    def undo(self) -> Outcome:
        """Take the last move or start back.

        Raises:
            ValueError: where there is none, or where it changed a weight that is locked now.
        """
        return self._step(self._past, self._future, "undo")

    def redo(self) -> Outcome:
        """Repeat the move that was taken back last. Raises ValueError as `undo`."""
        return self._step(self._future, self._past, "redo")

    def lock(self, layer: str, locked: bool = True) -> None:
        """Keep the scheme of a weight in every start, and leave the weight out of hints.

        Args:
            layer: the name of the weight.
            locked: False unlocks it.
        """
        # Save only what is new.
        names = {self.arena.named(layer)}
        now = self.locked | names if locked else self.locked - names
        if now != self.locked:
            self.locked = now
            self._save()

    def hint(self) -> Hint:
        """Measure one bit-width less and one more in every free weight; return the best change.

        Below the target: fewer bits, where they cost the least loss for each bit saved. From the
        target on: more bits, where they gain most for each bit spent and stay at the target. Where
        nothing does, fewer bits, to make room.
        """
        return best_change(self.arena, self.choice, self.locked, self.target)

    @property
    def best(self) -> Outcome | None:
        """Your score with the highest accuracy at or above the target."""
        return self.saved().best()

    @property
    def won(self) -> bool:
        """Whether one of your scores beats HMQ's selection, see `Outcome.beats`."""
        hmq = self.arena.hmq
        return hmq is not None and any(score.beats(hmq) for score in self.scores)

    def saved(self) -> Saved:
        """Return what the player's file holds."""
        return Saved(
            player=self.player,
            setting=self.arena.setting,
            target=self.target,
            references=self.arena.references,
            scores=self.scores,
            choice=self.choice,
            locked=tuple(sorted(self.locked)),
            given=tuple(sorted(self._given)),
        )

    def table(self) -> str:
        """Return your scores as text, then the present choice and HMQ's selection."""
        # Scores, the present choice, the rival.
        lines = [("score", score) for score in self.scores]
        lines.append(("now", self.outcome))
        if (hmq := self.arena.hmq) is not None:
            lines.append(("HMQ", hmq))
        rows = [("", "rate", "accuracy %", "bytes", "bit operations", "bits")]
        for name, outcome in lines:
            bits = " ".join(str(pair[0]) for pair in outcome.choice.values())
            numbers = (
                f"{outcome.rate:.2f}",
                f"{outcome.accuracy:.1f}",
                f"{outcome.weight_bytes:,.0f}",
                f"{outcome.bit_operations:,}",
            )
            rows.append((name, *numbers, bits))
        return columns(rows)

    def export(self, path: Path | str) -> Path:
        """Write your scores as a table, .csv or .json by the path's ending; return the path."""
        return scores.export(self.saved(), path)

    def _move(self, choice: Pairs) -> Outcome:
        """Make a choice the present one, and keep its outcome as a score."""
        # A move to where one stands is none.
        outcome = self.arena.evaluate(choice)
        if choice == self.choice:
            return outcome
        self._past.append(self.choice)
        self._future.clear()
        self.choice = choice

        # A reference and a start are no scores of the player.
        is_reference = any(choice == one.choice for one in self.arena.references.values())
        if not is_reference and digest(choice) not in self._given:
            self.scores = scores.front([*self.scores, outcome])
        self._save()
        return outcome

    def _step(self, source: list[Pairs], other: list[Pairs], name: str) -> Outcome:
        """Go to the last choice of one list, and put the present one on the other."""
        # A step back must leave locked weights as they are.
        if not source:
            raise ValueError(f"there is nothing to {name}")
        then = source[-1]
        locked = [layer for layer in self.layers if layer in self.locked]
        if kept := [layer for layer in locked if then[layer] != self.choice[layer]]:
            said = ", ".join(kept)
            raise ValueError(f"{name} would change {said}, locked: unlock it first")
        # The present choice can be had again.
        other.append(self.choice)
        self.choice = source.pop()
        self._save()
        return self.outcome

    def _save(self) -> None:
        """Write the player's file; what another window added meanwhile stays in it."""
        # Two windows of one player save one after the other.
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file.parent):
            if self.file.exists():
                there = scores.read(self.file)
                self.scores = scores.front([*there.scores, *self.scores])
                self._given.update(there.given)
            scores.write(self.saved(), self.file)


def shipped(images: int = 1000, **options: Any) -> Game:
    """Return the game on the network of the package, against its recorded search.

    >>> shipped(player="ada", folder="class-7b").target
    8.0

    Args:
        images: how many of the held built-in images.
        options: target, folder and player of `Game`, few of `Arena`.
    """
    # Everything is in the package.
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    record = records.recorded("builtin-tiny_resnet8-w8-a8")
    return on(network, data.load("builtin"), record, images=images, **options)


def on(
    network: nn.Module,
    source: data.Data,
    record: Record | None = None,
    *,
    images: int = 500,
    few: int = 200,
    name: str | None = None,
    **options: Any,
) -> Game:
    """Return the game on any network and data.

    >>> record = records.recorded("cifar10-resnet20-w16-a8")              # doctest: +SKIP
    >>> play = on(network, data.load("cifar10", normalize="imagenet"), record)  # doctest: +SKIP

    Args:
        network: trained, in float.
        source: the data; the game uses images of the validation split, evenly spread.
        record: of a search that began with these weights, the one to beat.
        images: how many images.
        few: as in `Arena`.
        name: of the network; None is the record's, or the class's.
        options: target (None is the record's), folder and player of `Game`.

    Raises:
        ValueError: for a number of images that the split does not have.
    """
    x, y = held_images(source, images)

    # The record knows the name and the target.
    if record is not None:
        name = name or record.header["model"]
        options = {"target": record.header["target"]["weights"]} | options
    arena = Arena(network, x, y, name or type(network).__name__, record, few=few)
    return Game(arena, **options)


def held_images(source: data.Data, count: int) -> tuple[Tensor, Tensor]:
    """Return images of the validation split, evenly spread, and their classes.

    >>> x, y = held_images(data.load("builtin"), 100)
    >>> x.shape, y.shape
    (torch.Size([100, 3, 32, 32]), torch.Size([100]))

    Args:
        source: the data.
        count: how many images.

    Raises:
        ValueError: for a number of images that the split does not have.
    """
    held = source.validation
    is_whole = isinstance(count, int) and not isinstance(count, bool)
    if not is_whole or not 1 <= count <= len(held):
        said = f"images must be a whole number from 1 to {len(held):,}, got {count!r}"
        raise ValueError(said)
    spread = torch.arange(count) * len(held) // count
    return next(iter(held.subset(spread).batches(count)))


def of_run(
    run: Path | str,
    weights: Path | str,
    root: str | os.PathLike | None = None,
    **options: Any,
) -> Game:
    """Return the game against a finished run: its record's network, data and target.

    >>> play = of_run("runs/cifar10-w16", weights="resnet20.safetensors")  # doctest: +SKIP

    Args:
        run: a folder, or a record.
        weights: of the float network, as the search had them. The fine-tuned weights in the folder
            would not be fair.
        root: where data lie.
        options: those of `on`.
    """
    # The record says which data and network.
    record = records.read(Path(run))
    header = record.header
    source = data.load(header["data"], root=root, normalize=header["normalize"])
    network = models.build(header["model"], classes=len(source.classes))
    load_weights(network, weights)
    return on(network, source, record, **options)
