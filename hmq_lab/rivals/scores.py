"""The scores of the game (`game`): a file for each player, exports, and the board of a class.

The SHA-256 of a file tells damage, not cheating: who writes a score can also write its digest.
`board(files, arena=arena)` measures every score again.

>>> saved = read("beat-the-search/ada-tiny_resnet8-5f0c1e2a.json")        # doctest: +SKIP
>>> saved.best(8.0).accuracy              # of her choices at 8 times smaller  # doctest: +SKIP
94.5
>>> print(board(["ada.json", "ben.json"]).table())                        # doctest: +SKIP
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmq_lab.block import SearchSpace
from hmq_lab.budget import Target
from hmq_lab.data.files import digest, read_json, replacing
from hmq_lab.data.tables import columns
from hmq_lab.quantizer import check_bits
from hmq_lab.runs.shapes import misfit

if TYPE_CHECKING:
    from hmq_lab.rivals.arena import Arena

# Files of schema 1 have no `given`.
SCHEMA = 2
# A legend leaves out names that begin with _.
PLAYER = re.compile(r"[^\W_][\w .-]{0,39}")
# A spreadsheet computes a text that begins so.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
# Of accuracy, in percent: another machine may round otherwise.
MORE_POINTS = 0.5

# What is said of two games that differ in an entry of the setting.
DIFFERENT = {
    "weights": "other trained weights",
    "pictures": "other images",
    "activations": "other activations",
    "rival": "another selection to beat",
}


@dataclass(frozen=True)
class Outcome:
    """A choice and its cost.

    Args:
        choice: {weight: (bits, threshold exponent)}.
        rate: the compression of the weights: 32 over the mean bits of a weight.
        accuracy: percent of the held images.
        loss: the mean cross-entropy.
        weight_bytes: of all quantized weights.
        bit_operations: for one image, see `costs.Layer`.
    """

    # The order of the fields is the order of the columns of a table.
    choice: Mapping[str, tuple[int, int]]
    rate: float
    accuracy: float
    loss: float
    weight_bytes: float
    bit_operations: int

    def beats(self, other: Outcome) -> bool:
        """Return whether it is nowhere worse in compression and accuracy, and better in one."""
        # Equal outcomes do not beat each other.
        mine, others = (self.rate, self.accuracy), (other.rate, other.accuracy)
        nowhere_worse = mine[0] >= others[0] and mine[1] >= others[1]
        return nowhere_worse and mine != others


# The fields of an outcome that are numbers, and what the file of a player must hold.
NUMBERS = ("rate", "accuracy", "loss", "weight_bytes", "bit_operations")
CHOICE = {...: [int]}
OUTCOME = {"choice": CHOICE} | dict.fromkeys(NUMBERS, float)
SHAPE = {
    "player": str,
    "setting": {"sizes": {...: int}},
    "target": float,
    "references": {...: OUTCOME},
    "scores": [OUTCOME],
    "choice": CHOICE,
    "locked": [str],
    "given": [str],
}


@dataclass(frozen=True)
class Saved:
    """The file of a player.

    Args:
        player: the name.
        setting: what makes outcomes comparable: the model, the sizes, and digests of the weights,
            the images, the activations' schemes and the selection to beat.
        target: the compression to reach.
        references: {"uniform 4": Outcome, ..., "HMQ": Outcome}; no player's own.
        scores: the player's outcomes, none beaten by another of them.
        choice: where the player stands.
        locked: the weights that stay as they are.
        given: digests of the choices that were starts, no player's own.
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
        """Return the score with the highest accuracy at or above a compression.

        Args:
            target: the compression; None is the file's own.
        """
        # Only scores that reach the target count.
        target = self.target if target is None else target
        within = [score for score in self.scores if score.rate >= target]
        return max(within, key=lambda score: score.accuracy, default=None)


def front(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """Return the outcomes that no other beats, by compression; of equals the first.

    >>> rows = [(8.1, 94.5), (8.3, 94.1), (8.2, 94.0)]
    >>> outcomes = [Outcome({}, *row, loss=1, weight_bytes=1, bit_operations=1) for row in rows]
    >>> [(outcome.rate, outcome.accuracy) for outcome in front(outcomes)]
    [(8.1, 94.5), (8.3, 94.1)]
    """
    # The sort is stable: the first of equals stays the first.
    kept: list[Outcome] = []
    for one in sorted(outcomes, key=lambda outcome: (-outcome.rate, -outcome.accuracy)):
        if not kept or one.accuracy > kept[-1].accuracy:
            kept.append(one)
    return tuple(reversed(kept))


def write(saved: Saved, path: Path) -> None:
    """Write a player's file atomically, with the SHA-256 of what it holds."""
    # The digest is over everything else.
    content = {"schema": SCHEMA} | asdict(saved)
    text = json.dumps(content | {"sha256": digest(content)}, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(path: Path | str) -> Saved:
    """Return a player's file.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: naming the file and the fault: no JSON, no saved game, another schema, altered,
            a field of another type.
    """
    # A saved game has a schema and a digest.
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no saved game at {path}")
    content = read_json(path)
    parts = sorted(part.name for part in fields(Saved))
    needed = f"{path} is no saved game: it must hold schema, sha256, {', '.join(parts)}"
    if not isinstance(content, dict) or not {"schema", "sha256"} <= content.keys():
        raise ValueError(needed)

    # The file is of a known schema, and as it was written.
    schema, sha = content["schema"], content.pop("sha256")
    if schema not in (1, SCHEMA):
        raise ValueError(f"{path} has schema {schema!r}, this version reads 1 and {SCHEMA}")
    if sha != digest(content):
        raise ValueError(f"{path} was altered: its content does not have the SHA-256 it states")
    del content["schema"]
    if schema == 1:
        content.setdefault("given", [])
    if sorted(content) != parts:
        raise ValueError(needed)

    # Anybody can write a file with the right digest: check every field.
    if said := misfit(content, SHAPE):
        raise ValueError(f"{path} is no saved game: {said}")
    try:
        return _saved(content)
    except ValueError as error:
        raise ValueError(f"{path} is no saved game: {error}") from error


def _saved(content: dict) -> Saved:
    """Return the saved game of a JSON object. Raises ValueError for values that cannot be."""
    sizes = content["setting"]["sizes"]
    references = content["references"]
    if not references:
        raise ValueError("references must hold an outcome, got none")
    return Saved(
        player=check_player(content["player"]),
        setting=content["setting"],
        target=Target(weights=content["target"]).weights,
        references={name: _outcome(row, sizes) for name, row in references.items()},
        scores=tuple(_outcome(row, sizes) for row in content["scores"]),
        choice=_choice(content["choice"], sizes),
        locked=tuple(content["locked"]),
        given=tuple(content["given"]),
    )


def _outcome(row: dict, sizes: dict) -> Outcome:
    return Outcome(_choice(row["choice"], sizes), **{key: row[key] for key in NUMBERS})


def _choice(pairs: dict, sizes: dict) -> dict[str, tuple[int, int]]:
    """Return a choice of JSON: a pair for each weight and no other."""
    if pairs.keys() != sizes.keys():
        raise ValueError("a choice must name each weight of the setting")
    found = {}
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise ValueError(f"a choice must give {name} bits and an exponent, got {pair}")
        bits, exponent = pair
        check_bits(bits)
        found[name] = (bits, exponent)
    return found


def check_player(name: str) -> str:
    """Return a player's name. Raises ValueError for a name that is not allowed.

    >>> check_player("=1+1")
    Traceback (most recent call last):
    ValueError: a player's name is a letter or digit, then up to 39 letters, digits, blanks, \
dots, - and _, got '=1+1'
    """
    if not isinstance(name, str) or not PLAYER.fullmatch(name):
        raise ValueError(
            f"a player's name is a letter or digit, then up to 39 letters, digits, blanks, dots, - and _, got {name!r}"
        )
    return name


def check_setting(setting: dict, other: dict, where: str) -> None:
    """Raise ValueError naming what differs, unless two settings are the same.

    Args:
        setting: the setting of the game.
        other: the setting of a file.
        where: the file.
    """
    # The model explains all other differences.
    differ = [key for key in setting if setting[key] != other.get(key)]
    if not differ:
        return
    if "model" in differ:
        what = f"the model {other.get('model')!r}, not {setting['model']!r}"
    else:
        what = DIFFERENT.get(differ[0], differ[0])
    raise ValueError(f"{where} is a game on {what}: its scores cannot be compared")


def export(saved: Saved, path: Path | str) -> Path:
    """Write the scores of a player as a table, .csv or .json, and return its path.

    >>> export(read("ada.json"), "scores.csv")                            # doctest: +SKIP
    PosixPath('scores.csv')

    In a .csv no text begins as a formula does, and none has several lines.

    Raises:
        ValueError: for another ending, and for the path of a saved game, which would be lost.
    """
    # Only a table, and not over a saved game.
    path = Path(path)
    if path.suffix not in (".csv", ".json"):
        raise ValueError(f"scores are exported to .csv or .json, got {path}")
    if _is_game(path):
        raise ValueError(f"{path} is a saved game: export to another file")

    # A column for each number, and two for each weight.
    header = ["player", *NUMBERS]
    for name in saved.setting["sizes"]:
        header += [f"{name} bits", f"{name} exponent"]
    rows = []
    for score in saved.scores:
        row: list[Any] = [saved.player, *(getattr(score, key) for key in NUMBERS)]
        for name in saved.setting["sizes"]:
            row += score.choice[name]
        rows.append(row)

    with replacing(path) as temporary:
        if path.suffix == ".json":
            named = [dict(zip(header, row, strict=True)) for row in rows]
            temporary.write_text(json.dumps(named, indent=1), encoding="utf-8")
        else:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(map(cell, header))
                for row in rows:
                    writer.writerow(map(cell, row))
    return path


def _is_game(path: Path) -> bool:
    try:
        read(path)
    except (OSError, ValueError):
        return False
    return True


def cell(value: Any) -> Any:
    """Return a value for a table that a spreadsheet opens: no text in it is a formula.

    >>> cell("=1+1"), cell("two\\nlines"), cell(-3)
    ("'=1+1", 'two lines', -3)
    """
    # Numbers stay numbers.
    if not isinstance(value, str):
        return value
    text = " ".join(value.splitlines())
    return f"'{text}" if text.startswith(FORMULA) else text


@dataclass(frozen=True)
class Board:
    """The files of a class, the best first: by accuracy at or above the target.

    Args:
        target: the compression to rank at.
        players: the files.
        skipped: {file: why it is left out}.
    """

    target: float
    players: tuple[Saved, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def references(self) -> dict[str, Outcome]:
        """Outcomes that are no player's own, such as HMQ's."""
        return self.players[0].references

    def table(self) -> str:
        """Return a line for each player and HMQ's selection, and one for each file left out.

        HMQ's selection is not fine-tuned here either.
        """
        # Players in order, then HMQ.
        lines = []
        for place, player in enumerate(self.players, 1):
            lines.append((str(place), player.player, player.best(self.target)))
        if "HMQ" in self.references:
            lines.append(("", "HMQ, not fine-tuned", self.references["HMQ"]))

        # A line of numbers, or that there are none at the target.
        rows = [["", "player", "accuracy %", "rate", "bytes", "bit operations"]]
        for number, name, outcome in lines:
            numbers = ["not at the target", "", "", ""]
            if outcome is not None:
                numbers = [
                    f"{outcome.accuracy:.1f}",
                    f"{outcome.rate:.2f}",
                    f"{outcome.weight_bytes:,.0f}",
                    f"{outcome.bit_operations:,}",
                ]
            rows.append([number, name, *numbers])
        left_out = [f"\nleft out: {said}" for said in self.skipped.values()]
        return columns(rows) + "".join(left_out)


def measured(saved: Saved, arena: Arena, where: str) -> Saved:
    """Return a file with its scores and the references as the arena measures them.

    Args:
        saved: the file.
        arena: what is played on.
        where: what errors call the file.

    Raises:
        ValueError: for a choice that cannot be, and for a score that its choice does not give. An
            accuracy may differ by one image or by 0.5 points, as another machine may round
            otherwise.
    """
    # Measure each score again.
    found = []
    for score in saved.scores:
        try:
            again = arena.evaluate(arena.checked(score.choice))
        except ValueError as error:
            raise ValueError(f"{where} holds a score that cannot be: {error}") from error

        # Compression and costs follow from the choice, the accuracy nearly.
        exact = ("rate", "weight_bytes", "bit_operations")
        is_exact = all(getattr(score, key) == getattr(again, key) for key in exact)
        allowed = max(MORE_POINTS, 100 / arena.count) + 1e-9
        if not is_exact or abs(score.accuracy - again.accuracy) > allowed:
            raise ValueError(
                f"{where} holds a score of {score.accuracy:.1f} % at {score.rate:.2f} times "
                f"smaller that its choice does not give: measured again, {again.accuracy:.1f} % at "
                f"{again.rate:.2f}"
            )
        found.append(again)
    return replace(saved, scores=front(found), references=arena.references)


def board(
    files: Path | str | Sequence[Path | str],
    target: float | None = None,
    arena: Arena | None = None,
) -> Board:
    """Return the scores of several saved files, or of every .json in a folder, side by side.

    >>> board("collected", arena=game.shipped().arena)      # as a teacher does  # doctest: +SKIP

    A file that is no saved game, of another game, or with scores that its choices do not give is
    left out; the board says which and why, and goes on.

    Args:
        files: the files, or a folder of them.
        target: the compression to rank at; None is the first file's.
        arena: what is played on. Scores and references are then measured on it, see `measured`;
            without it, the game of most files counts.

    Raises:
        ValueError: where no file is left, and for a target that cannot be reached.
    """
    # The files: a list of them, those of a folder, or one.
    if not isinstance(files, str | Path):
        found = [Path(file) for file in files]
    elif Path(files).is_dir():
        found = sorted(Path(files).glob("*.json"))
    else:
        found = [Path(files)]
    if not found:
        raise ValueError(f"a board needs at least one saved file, got none in {files!r}")

    # Leave out what cannot be read.
    skipped: dict[str, str] = {}
    games: list[tuple[Path, Saved]] = []
    for file in found:
        try:
            games.append((file, read(file)))
        except (ValueError, OSError) as error:
            skipped[str(file)] = str(error)

    # Leave out what cannot be compared, or is not measured so.
    kept: list[Saved] = []
    setting = arena.setting if arena else _most_common([saved.setting for _, saved in games])
    for file, saved in games:
        try:
            check_setting(setting, saved.setting, str(file))
            kept.append(measured(saved, arena, str(file)) if arena else saved)
        except ValueError as error:
            skipped[str(file)] = str(error)
    if not kept:
        raise ValueError(f"a board needs at least one saved game: {'; '.join(skipped.values())}")

    # Rank at the target.
    goal = Target(weights=kept[0].target if target is None else target)
    goal.check_reachable(SearchSpace(_widths(kept[0])))

    def height(one: Saved) -> float:
        best = one.best(goal.weights)
        return -1.0 if best is None else best.accuracy

    players = sorted(_numbered(kept), key=height, reverse=True)
    return Board(goal.weights, tuple(players), skipped)


def _most_common(settings: list[dict]) -> dict:
    """Return the setting that most files have; of equals the first."""
    # Count equal settings.
    counts = Counter(digest(setting) for setting in settings)
    return max(settings, key=lambda setting: counts[digest(setting)], default={})


def _widths(saved: Saved) -> tuple[int, ...]:
    """Return all bit-widths of a game; the "uniform" references have every one."""
    bits = {pair[0] for outcome in saved.references.values() for pair in outcome.choice.values()}
    return tuple(sorted(bits))


def _numbered(files: list[Saved]) -> list[Saved]:
    """Return the files; those of one name get a number behind it."""
    # Count equal names.
    counts = Counter(saved.player for saved in files)
    seen: Counter[str] = Counter()
    numbered = []
    for saved in files:
        name = saved.player
        seen[name] += 1
        if counts[name] > 1:
            saved = replace(saved, player=f"{name} ({seen[name]})")
        numbered.append(saved)
    return numbered
