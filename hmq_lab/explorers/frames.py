"""The explorers as frames, for a page that has no kernel: what they show for every choice of a few of their controls.

>>> frames.write("build/book", {"quantizer": {"bits": (1, 2, 3), "signed": ALL}})    # six frames and their sentences
>>> frames.faults("build/book")
[]

`TABLE` says which controls the book gives and over which values. A frame is what `explorer.set(...)` shows, started
each time from the state in which the explorer is opened; what the explorer refuses has its words and no picture.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from hmq_lab.data.files import replacing
from hmq_lab.explorers import Explorer, pages
from hmq_lab.explorers.controls import Choice, Control, Player, Real, Switch, Whole

FOLDER, SCRIPT = "frames", "frames.js"
ALL = ...  # every value that the control allows
LEVELS = 32  # of red, green and blue: nobody sees the difference, and the files are a third smaller
PLAYED = "step"  # what the player of an explorer moves on

LAYERS = ("conv1.weight", "layer3.0.conv2.weight", "layer3.2.conv1.weight", "linear.weight")  # the last two: lesson 00
TABLE = {
    "quantizer": {"bits": ALL, "exponent": ALL, "signed": ALL},
    "surface": {"bits": ALL, "exponent": ALL},
    "gumbel": {
        "temperature": (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20),
        "samples": (30, 300),
        "seed": (0, 1, 2),
    },
    "block": {"bits": ALL, "exponent": (-3, -2, -1, 0), "mass": (0.05, 0.25, 0.5, 0.75, 0.95)},
    "replay": {"step": ALL, "layer": LAYERS},
    "selection": {"step": ALL, "layer": LAYERS},
    "integers": {"layer": ALL, "register": (12, 14, 32), "odd_threshold": ALL, "multiplier": (0, 8)},
}


def write(folder: Path | str, table: Mapping[str, Mapping] = TABLE) -> dict[str, dict]:
    """Write the frames of every explorer in the table below `folder`, and a script that says which is which.

    >>> write("build/book")["quantizer"]["frames"][0]
    [0, '1 bit signed below 2^-7: 2 levels, ...']

    Returns what the script holds, by explorer: `controls` (name, label, texts of the values, start), the `size` of a
    picture in pixels and `frames`: a picture's number, or None for a state that is refused, and the words; the last
    control changes fastest. Frames that look the same share a picture. Raises ValueError for a control or a value that
    the explorer does not have.
    """
    folder = Path(folder) / FOLDER
    found = {name: made(pages.PAGES[name].explorer(), given, folder / name) for name, given in table.items()}
    with replacing(folder / SCRIPT) as temporary:
        temporary.write_text(f"const FRAMES = {json.dumps(found, ensure_ascii=False)};\n", encoding="utf-8")
    return found


def made(explorer: Explorer, given: Mapping, folder: Path) -> dict:
    """The frames of one explorer: pictures into the folder, the rest as plain data."""
    values, described = planned(explorer, given)
    opened, numbers, shown = explorer.state, {}, []
    folder.mkdir(parents=True, exist_ok=True)
    for chosen in itertools.product(*values.values()):
        explorer.state = opened
        try:
            explorer.set(**dict(zip(values, chosen, strict=True)))
        except ValueError as refused:
            shown.append([None, str(refused)])
            continue
        data = encoded(explorer.image())
        if data not in numbers:
            numbers[data] = len(numbers)
            (folder / f"{numbers[data]}.webp").write_bytes(data)
        shown.append([numbers[data], explorer.sentence])
    for old in folder.glob("*.webp"):
        if old.stem.isdecimal() and int(old.stem) >= len(numbers):
            old.unlink()  # of a table that had more
    return {"controls": described, "frames": shown, "size": list(explorer.image().size)}


def planned(explorer: Explorer, given: Mapping) -> tuple[dict[str, tuple], list[dict]]:
    """The values of each control, by name, and the controls as the page needs them; nothing is drawn."""
    controls = {name: _control(explorer, name) for name in given}
    values = {name: _values(name, controls[name], given[name]) for name in given}
    return values, [_described(explorer, name, controls[name], values[name]) for name in given]


def encoded(image: Image.Image) -> bytes:
    """A picture as a small file, no pixel further from it than half a level."""
    levels = [round(round(v * (LEVELS - 1) / 255) * 255 / (LEVELS - 1)) for v in range(256)]
    image.point(levels * 3).save(out := io.BytesIO(), "WEBP", lossless=True, method=2, quality=50)
    return out.getvalue()


def _control(explorer: Explorer, name: str) -> Control:
    if name not in explorer.allowed:
        raise ValueError(f"this explorer has no control {name!r}; it has {', '.join(explorer.allowed)}")
    return explorer.allowed[name]


def _values(name: str, control: Control, given) -> tuple:
    if given is not ALL:
        return tuple(control.check(name, value) for value in given)
    if isinstance(control, Switch):
        return False, True
    if isinstance(control, Choice):
        return control.options
    if isinstance(control, Real):
        raise ValueError(f"{name} is a number: the table must say which values of it there are frames for")
    return tuple(range(control.low, control.high + 1, control.step))


def _described(explorer: Explorer, name: str, control: Control, values: tuple) -> dict:
    """A control for the page: `start` is the place of the value that the explorer is opened with, or the nearest."""
    now = getattr(explorer.state, name)
    if isinstance(control, Choice):
        texts, kind = [control.texts[control.options.index(v)] for v in values], "list" if control.rows else "slider"
    else:
        texts, kind = [f"{v:g}" for v in values], "switch" if isinstance(control, Switch) else "slider"
    if isinstance(control, Whole | Real):
        start = min(range(len(values)), key=lambda i: abs(values[i] - now))
    elif now in values:
        start = values.index(now)
    else:
        raise ValueError(f"{name} is {now!r} when the explorer is opened: the table must have a frame of that")
    player = next((c for c in explorer.allowed.values() if isinstance(c, Player)), None)
    milliseconds = player.milliseconds if player and name == PLAYED else 0
    found = {"name": name, "label": control.label, "kind": kind, "texts": texts, "start": start}
    return found | {"milliseconds": milliseconds}


def section(name: str, found: Mapping) -> str:
    """An explorer as part of a page: its controls and the frame that it starts with."""
    at = 0
    for control in found["controls"]:
        at = at * len(control["texts"]) + control["start"]
    number, words = found["frames"][at]
    if number is None:
        raise ValueError(f"{name} starts with a state that it refuses: {words}")
    page, words, (width, height) = pages.PAGES[name], html.escape(words), found["size"]
    return (
        f'<section class="explorer" data-explorer="{name}">\n'
        f'<h2 id="{name}">{html.escape(page.title)}</h2>\n<p>{html.escape(page.sentence)}</p>\n'
        f'<div class="controls">{"".join(_widget(name, control) for control in found["controls"])}</div>\n'
        f'<img src="{FOLDER}/{name}/{number}.webp" width="{width}" height="{height}" alt="{words}">\n'
        f'<p class="words" role="status" aria-live="polite">{words}</p>\n</section>'
    )


def _widget(name: str, control: Mapping) -> str:
    at, texts, start = f"{name}-{control['name']}", [html.escape(t) for t in control["texts"]], control["start"]
    label = f'<label for="{at}">{html.escape(control["label"])}</label>'
    if control["kind"] == "switch":
        checked = " checked" if start else ""
        return f'<p><input type="checkbox" id="{at}" autocomplete="off"{checked}> {label}</p>'
    if control["kind"] == "list":
        options = [f'<option value="{i}"{" selected" * (i == start)}>{text}</option>' for i, text in enumerate(texts)]
        return f'<p>{label} <select id="{at}" autocomplete="off">{"".join(options)}</select></p>'
    play = f'<button type="button" data-plays="{at}">Play</button>' if control["milliseconds"] else ""
    room = f"{max(map(len, control['texts']))}ch"  # so that the slider stays as long as it is
    wide = ' class="wide"' if play else ""
    return (
        f'<p{wide}>{label} <input type="range" id="{at}" autocomplete="off" min="0" max="{len(texts) - 1}" '
        f'value="{start}" aria-valuetext="{texts[start]}"> '
        f'<output for="{at}" style="width: {room}">{texts[start]}</output>{play}</p>'
    )


def faults(folder: Path | str) -> list[str]:
    """What is missing of the frames below a folder, a line for each; nothing where there are no frames."""
    folder = Path(folder) / FOLDER
    if not (folder / SCRIPT).is_file():
        return []
    text, wrong = (folder / SCRIPT).read_text(encoding="utf-8"), []
    for name, found in json.loads(text.removeprefix("const FRAMES = ").rstrip(";\n")).items():
        frames, choices = found["frames"], math.prod(len(control["texts"]) for control in found["controls"])
        if len(frames) != choices:
            wrong.append(f"{FOLDER}: {name} has {len(frames)} frames for {choices} choices")
        wrong += [f"{FOLDER}: a frame of {name} has no words"] * any(not words.strip() for _, words in frames)
        for number in sorted({number for number, _ in frames if number is not None}):
            picture = folder / name / f"{number}.webp"
            if not picture.is_file() or not picture.stat().st_size:
                wrong.append(f"{FOLDER}: {name}/{picture.name} is missing")
    return wrong
