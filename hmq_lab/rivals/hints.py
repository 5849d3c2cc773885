"""Hints for the game (`game`): what fewer or more bits would change, measured layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hmq_lab import budget
from hmq_lab.rivals.arena import Arena, Pairs


@dataclass(frozen=True)
class Hint:
    """What the next lower and the next higher bit-width cost in each layer that is not locked, on the few pictures.

    less, more: {weight: change of the loss}, without the layers that cannot have fewer, or more, bits.
    layer, bits: the change that promises most; None where everything is locked. sentence: says it, and why.
    """

    less: dict[str, float]
    more: dict[str, float]
    layer: str | None
    bits: int | None
    sentence: str


def best_change(arena: Arena, choice: Pairs, locked: Collection[str], target: float) -> Hint:
    """The change by one bit-width that promises most, by the rule of `Game.hint`.

    >>> best_change(arena, choice, locked=(), target=8.0).layer
    'layer2.0.conv1.weight'
    """
    sizes, now = arena.sizes, {name: pair[0] for name, pair in choice.items()}
    less, more = arena.changes(choice, locked)
    price = {name: change / sizes[name] / (now[name] - bits) for name, (bits, change) in less.items()}
    gain = {
        name: -change / sizes[name] / (bits - now[name]) for name, (bits, change) in more.items()
        if change < 0 and budget.rate(now | {name: bits}, sizes) >= target
    }  # fmt: skip
    changes = [{name: change for name, (_, change) in row.items()} for row in (less, more)]
    few = f"the loss on {arena.few} of the pictures"
    if gain:
        name = max(gain, key=gain.get)
        bits, change = more[name]
        text = f"Most to gain: {bits} instead of {now[name]} bits for {name} takes {-change:.4f} off {few}, "
        return Hint(*changes, name, bits, text + "the most for each bit spent within the target.")
    if not price:
        text = "Every layer is locked." if set(locked) >= set(arena.layers) else "No layer can give up a bit."
        return Hint(*changes, None, None, text)
    name = min(price, key=price.get)
    bits, change = less[name]
    why = "to make room for others" if budget.rate(now, sizes) >= target else "towards the target"
    effect = f"adds {change:.4f} to" if change >= 0 else f"even takes {-change:.4f} off"
    text = f"Least to lose: {bits} instead of {now[name]} bits for {name}, {why}, {effect} {few}, "
    return Hint(*changes, name, bits, text + "the best for each bit saved.")
