"""What players of the game (`game`) reached: kept in a file each, exported, and put beside each other.

A file's SHA-256 has no key: it tells damage, not cheating, as whoever writes a score can write its digest.
`board(files, arena)` measures again.

>>> saved = read("beat-the-search/ada-tiny_resnet8-5f0c1e2a.json")
>>> saved.best(8.0).accuracy                        # of her choices that reach a rate of 8
94.5
>>> print(board(["ada.json", "ben.json"]).table())  # plots.pareto draws it
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hmq_lab.block import SearchSpace
from hmq_lab.budget import Target
from hmq_lab.data.files import digest, replacing
from hmq_lab.runs.records import columns

if TYPE_CHECKING:
    from hmq_lab.rivals.arena import Arena

SCHEMA = 2  # 1 did not know what was given
PLAYER = re.compile(r"[^\W_][\w .-]{0,39}")  # a legend leaves out what begins with _


@dataclass(frozen=True)
class Outcome:
    """A choice and what came of it. choice: {weight: (bits, threshold exponent)}.

    rate: 32 over the mean bits of a weight. accuracy: percent of the held pictures. loss: mean cross-entropy.
    weight_bytes: of all quantized weights. bit_operations: for one picture, see `costs.Layer`.
    """

    choice: Mapping[str, tuple[int, int]]
    rate: float
    accuracy: float
    loss: float
    weight_bytes: float
    bit_operations: int

    def beats(self, other: Outcome) -> bool:
        """Whether it is nowhere worse, in rate and accuracy, and better in one of them."""
        mine, others = (self.rate, self.accuracy), (other.rate, other.accuracy)
        return mine != others and all(a >= b for a, b in zip(mine, others, strict=True))


@dataclass(frozen=True)
class Saved:
    """The file of a player.

    setting: what makes outcomes comparable: model, sizes, digests of the weights, the
    pictures, the activations' schemes and the selection to beat.
    references: {"uniform 4": Outcome, ..., "HMQ": Outcome}, of nobody. scores: the player's, none beaten by another of
    them. choice, locked: where the player stands. given: digests of the choices that were starts, no player's own.
    """

    player: str
    setting: dict
    target: float
    references: dict[str, Outcome]
    scores: tuple[Outcome, ...] = ()
    choice: dict[str, tuple[int, int]] = field(default_factory=dict)
    locked: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def best(self, target: float | None = None) -> Outcome | None:
        """The score with the highest accuracy at or above a rate, the file's own target by default."""
        target = self.target if target is None else target
        within = [score for score in self.scores if score.rate >= target]
        return max(within, key=lambda score: score.accuracy, default=None)


def front(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes that no other beats, by rate; of those that are equal in both numbers the first.

    >>> [(round(o.rate, 2), o.accuracy) for o in front(outcomes)]
    [(8.09, 94.5), (8.14, 94.4), (8.27, 94.1)]
    """
    kept: list[Outcome] = []
    for one in sorted(outcomes, key=lambda o: (-o.rate, -o.accuracy)):  # stable: the first of equals stays the first
        if not kept or one.accuracy > kept[-1].accuracy:
            kept.append(one)
    return tuple(reversed(kept))


def write(saved: Saved, path: Path) -> None:
    """Write a player's file, whole or not at all, with the SHA-256 of what it holds."""
    content = {"schema": SCHEMA} | asdict(saved)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content | {"sha256": digest(content)}, indent=1), encoding="utf-8")


def read(path: Path) -> Saved:
    """Read a player's file.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong: no JSON, none of these files, another
    schema, altered.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no saved game at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    parts = {part.name for part in fields(Saved)}
    if not isinstance(content, dict) or not {"schema", "sha256"} <= content.keys():
        raise ValueError(f"{path} is no saved game: it must hold schema, sha256, {', '.join(sorted(parts))}")
    if content["schema"] not in (1, SCHEMA):
        raise ValueError(f"{path} has schema {content['schema']!r}, this version reads 1 and {SCHEMA}")
    sha = content.pop("sha256")
    if sha != digest(content):
        raise ValueError(f"{path} was altered: its content does not have the SHA-256 it states")
    if content.pop("schema") == 1:
        content.setdefault("given", [])
    if content.keys() != parts:
        raise ValueError(f"{path} is no saved game: it must hold schema, sha256, {', '.join(sorted(parts))}")
    try:
        content["references"] = {name: _outcome(row) for name, row in content["references"].items()}
        content["scores"] = tuple(_outcome(row) for row in content["scores"])
        content["choice"] = _choice(content["choice"])
        content["locked"], content["given"] = tuple(content["locked"]), tuple(content["given"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no saved game: {error}") from error
    return Saved(**content)


def _is_game(path: Path) -> bool:
    try:
        read(path)
    except (OSError, ValueError):
        return False
    return True


def _outcome(row: dict) -> Outcome:
    return Outcome(**row | {"choice": _choice(row["choice"])})


def _choice(pairs: dict) -> dict[str, tuple[int, int]]:
    return {name: (bits, exponent) for name, (bits, exponent) in pairs.items()}


def check_player(name: str) -> str:
    if not isinstance(name, str) or not PLAYER.fullmatch(name):
        raise ValueError(
            f"a player's name is a letter or digit, then up to 39 letters, digits, blanks, dots, - and _, got {name!r}"
        )
    return name


def check_setting(setting: dict, other: dict, where: str) -> None:
    """Raise ValueError naming what differs, unless two settings are the same."""
    differ = [key for key in setting if setting[key] != other.get(key)]
    if not differ:
        return
    key = "model" if "model" in differ else differ[0]
    said = {"weights": "other trained weights", "pictures": "other pictures", "activations": "other activations",
            "rival": "another selection to beat"}  # fmt: skip
    what = f"the model {other.get('model')!r}, not {setting['model']!r}" if key == "model" else said.get(key, key)
    raise ValueError(f"{where} is a game on {what}: its scores cannot be compared")


def export(saved: Saved, path: Path) -> Path:
    """Write the scores of a player as a table, for others to read: .csv or .json by the path's ending.

    >>> export(read("ada.json"), "scores.csv")
    PosixPath('scores.csv')

    Raises ValueError for another ending, and for the place of a saved game, which would be lost.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".json"):
        raise ValueError(f"scores are exported to .csv or .json, got {path}")
    if _is_game(path):
        raise ValueError(f"{path} is a saved game: export to another file")
    numbers = [part.name for part in fields(Outcome) if part.name != "choice"]
    names = list(saved.setting["sizes"])
    rows = [
        {"player": saved.player} | {key: getattr(score, key) for key in numbers}
        | {f"{name} {what}": score.choice[name][i] for name in names for i, what in enumerate(("bits", "exponent"))}
        for score in saved.scores
    ]  # fmt: skip
    header = ["player", *numbers, *(f"{name} {what}" for name in names for what in ("bits", "exponent"))]
    with replacing(path) as temporary:
        if path.suffix == ".json":
            temporary.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        else:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, header)
                writer.writeheader()
                writer.writerows(rows)
    return path


@dataclass(frozen=True)
class Board:
    """The files of a class, the best first: by accuracy at or above the target."""

    target: float
    players: tuple[Saved, ...]

    @property
    def references(self) -> dict[str, Outcome]:
        return self.players[0].references

    def table(self) -> str:
        """A line for each player and for HMQ's selection, which has no fine-tuning here either."""
        rows = [("", "player", "accuracy %", "rate", "bytes", "bit operations")]
        lines = [(f"{i}", p.player, p.best(self.target)) for i, p in enumerate(self.players, 1)]
        if "HMQ" in self.references:
            lines.append(("", "HMQ, not fine-tuned", self.references["HMQ"]))
        for place, name, o in lines:
            numbers = ("not at the target", "", "", "") if o is None else (
                f"{o.accuracy:.1f}", f"{o.rate:.2f}", f"{o.weight_bytes:,.0f}", f"{o.bit_operations:,}")  # fmt: skip
            rows.append((place, name, *numbers))
        return columns(rows)


def measured(saved: Saved, arena: Arena, where: str) -> Saved:
    """The file with its scores as the arena measures them, and the arena's references.

    Another machine may round a picture or two otherwise: an accuracy may be off by one picture or by 0.5 points. Raises
    ValueError naming `where` the file is and a score that its choice does not give, or a choice that cannot be.
    """
    found = []
    for score in saved.scores:
        try:
            again = arena.evaluate(arena.checked(score.choice))
        except ValueError as error:
            raise ValueError(f"{where} holds a score that cannot be: {error}") from error
        exact = ("rate", "weight_bytes", "bit_operations")
        near = abs(score.accuracy - again.accuracy) <= max(0.5, 100 / arena.count) + 1e-9  # not so for NaN
        if not near or any(getattr(score, key) != getattr(again, key) for key in exact):
            raise ValueError(
                f"{where} holds a score of {score.accuracy:.1f} % at a rate of {score.rate:.2f} that its choice does "
                f"not give: measured again, {again.accuracy:.1f} % at {again.rate:.2f}"
            )
        found.append(again)
    return replace(saved, scores=front(found), references=arena.references)


def board(files: Path | str | Sequence[Path | str], target: float | None = None, arena: Arena | None = None) -> Board:
    """The scores of several saved files, or of every .json in a folder, side by side.

    >>> plots.pareto(board("collected"))
    >>> board("collected", arena=game.shipped().arena)         # as a teacher does: every score is measured again

    target: the rate to rank at; None is the first file's. Two files of one name get their place behind the name.
    arena: what is played on; scores and references are then those measured on it, see `measured`.
    Raises ValueError where there are no files, for a target that cannot be reached, for a file that is none (see
    `read`), for one of another network, other pictures or other activations, and for one that `measured` refuses.
    """
    if isinstance(files, str | Path):
        found = sorted(Path(files).glob("*.json")) if Path(files).is_dir() else [Path(files)]
    else:
        found = [Path(file) for file in files]
    if not found:
        raise ValueError(f"a board needs at least one saved file, got none in {files!r}")
    saved = [read(file) for file in found]
    for i, file in enumerate(found):
        check_setting(arena.setting if arena else saved[0].setting, saved[i].setting, str(file))
        saved[i] = measured(saved[i], arena, str(file)) if arena else saved[i]
    names = [one.player for one in saved]
    for i, name in enumerate(names):
        if names.count(name) > 1:
            saved[i] = replace(saved[i], player=f"{name} ({1 + names[:i].count(name)})")
    goal = Target(weights=saved[0].target if target is None else target)
    bits = {pair[0] for outcome in saved[0].references.values() for pair in outcome.choice.values()}
    goal.check_reachable(SearchSpace(tuple(bits)))  # "uniform" references have every width

    def height(one: Saved) -> float:
        best = one.best(goal.weights)
        return -1.0 if best is None else best.accuracy

    return Board(goal.weights, tuple(sorted(saved, key=height, reverse=True)))
