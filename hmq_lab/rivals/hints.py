"""Hints for the game (`game`): what fewer or more bits would change, measured layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hmq_lab import budget
from hmq_lab.rivals.arena import Arena, Pairs


@dataclass(frozen=True)
class Hint:
    """What one bit-width less and one more do in each weight that is not locked.

    Args:
        less: {weight: change of the loss on the few images}, without weights that cannot have
            fewer bits.
        more: the same for more bits.
        layer: the weight whose change promises most; None where everything is locked.
        bits: its new bit-width.
        sentence: says the change, and why.
    """

    less: dict[str, float]
    more: dict[str, float]
    layer: str | None
    bits: int | None
    sentence: str


def best_change(arena: Arena, choice: Pairs, locked: Collection[str], target: float) -> Hint:
    """Return the change by one bit-width that promises most, by the rule of `Game.hint`.

    >>> best_change(arena, choice, locked=(), target=8.0).layer           # doctest: +SKIP
    'layer2.0.conv1.weight'

    Args:
        arena: what is played on.
        choice: where the player stands.
        locked: weights that stay as they are.
        target: the compression to reach.
    """
    # Measure.
    sizes = arena.sizes
    now = {name: pair[0] for name, pair in choice.items()}
    few = f"the loss on {arena.few} of the images"
    less, more = arena.changes(choice, locked)
    changes = [{name: change for name, (_, change) in row.items()} for row in (less, more)]

    # What a bit that is saved costs, and what a bit that is spent within the target gains.
    price, gain = {}, {}
    for name, (bits, change) in less.items():
        price[name] = change / sizes[name] / (now[name] - bits)
    for name, (bits, change) in more.items():
        reaches = budget.compression(now | {name: bits}, sizes) >= target
        if change < 0 and reaches:
            gain[name] = -change / sizes[name] / (bits - now[name])

    # The most for each bit spent.
    if gain:
        name = max(gain, key=lambda name: gain[name])
        bits, change = more[name]
        text = (
            f"Most to gain: {bits} instead of {now[name]} bits for {name} takes {-change:.4f} off "
            f"{few}, the most for each bit spent within the target."
        )
        return Hint(changes[0], changes[1], name, bits, text)
    # Nothing can change.
    if not price:
        is_locked = set(locked) >= set(arena.layers)
        text = "Every layer is locked." if is_locked else "No layer can give up a bit."
        return Hint(changes[0], changes[1], None, None, text)

    # Nothing to gain: the change that costs least.
    name = min(price, key=lambda name: price[name])
    bits, change = less[name]
    reaches = budget.compression(now, sizes) >= target
    why = "to make room for others" if reaches else "towards the target"
    effect = f"adds {change:.4f} to" if change >= 0 else f"even takes {-change:.4f} off"
    text = (
        f"Least to lose: {bits} instead of {now[name]} bits for {name}, {why}, {effect} {few}, the "
        "best for each bit saved."
    )
    return Hint(changes[0], changes[1], name, bits, text)
