"""The bench of rivals as figures: accuracy, and what the choice costs, for each way to choose bits.

>>> found = results.read("rivals")                                        # doctest: +SKIP
>>> rivals(found).savefig("rivals.png")                                   # doctest: +SKIP
>>> print(rivals.sentence(found))                                         # doctest: +SKIP
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from hmq_lab.plots.frame import BLUE, COLOURS, INK, MARKERS, ORANGE, PALE, figure, save
from hmq_lab.rivals import results
from hmq_lab.rivals.results import AT_ONCE, HMQ, Result, Results

ALL = "every choice"
OURS = (HMQ, AT_ONCE)


def means(found: Results, method: str) -> dict[float, float]:
    """Return the mean test accuracy of a method over its seeds, by target.

    Args:
        found: the results of the bench.
        method: one of its methods.
    """
    by_target = {}
    for target in found.targets:
        test = [result.test for result in found.of(method, target)]
        if test:
            by_target[target] = statistics.mean(test)
    return by_target


# ------------------------------------------------------------------------- rivals


def accuracies(found: Results, ax: Axes) -> list[Artist]:
    """Test accuracy over compression, a line for each method, its seeds as a bar."""
    artists: list[Artist] = []
    others = [method for method in found.methods if method not in OURS]
    ours = [method for method in found.methods if method in OURS]
    for place, method in enumerate([*others, *ours]):
        rows = [found.of(method, target) for target in means(found, method)]
        x = [statistics.mean(r.compression for r in row) for row in rows]
        middle = [statistics.mean(r.test for r in row) for row in rows]
        low = [m - min(r.test for r in row) for m, row in zip(middle, rows, strict=True)]
        high = [max(r.test for r in row) - m for m, row in zip(middle, rows, strict=True)]
        style = _style(method, place)
        drawn: Any = ax.errorbar(x, middle, [low, high], capsize=3, label=method, **style)
        artists.append(drawn)
    top = found.header["float_test"]
    artists.append(ax.axhline(top, color=INK, ls=":", lw=1, label="float"))
    # Losses are small at the top and large at the bottom.
    lowest = min(result.test for result in found.results)
    ax.set_yscale("function", functions=(_from_loss, _to_loss))
    ticks = [t for t in (10, 30, 50, 70, 80, 85, 90, 92, 94) if t >= lowest - 10]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.set_ylim(lowest - 5, top + 0.6)
    # The names of the bars below would push a label of the axis far to the left.
    ax.set_xlabel("compression of the weights")
    ax.set_title("test accuracy (%), a bar from seed to seed", loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return artists


def _from_loss(accuracy: Any) -> Any:
    return -np.log10(np.maximum(97 - accuracy, 1e-3))


def _to_loss(height: Any) -> Any:
    return 97 - 10.0**-height


def _style(method: str, place: int) -> dict[str, Any]:
    """Return how a method's line looks: HMQ stands out, colour and marker repeat apart."""
    if method in OURS:
        line = "-" if method == HMQ else "--"
        return {"color": INK, "marker": "*", "ms": 11, "lw": 2, "zorder": 5, "ls": line}
    dashes = ("-", "--")[place // len(COLOURS) % 2]
    marker = MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[place % len(COLOURS)], "marker": marker, "ms": 5, "ls": dashes}


def costs(found: Results, ax: Axes) -> list[Artist]:
    """CPU seconds of one choice, a bar for each method."""
    methods = list(found.methods)
    seconds = []
    for method in methods:
        seconds.append(statistics.median(r.choosing_seconds for r in found.of(method)))
    colours = [INK if method in OURS else ORANGE for method in methods]
    bars = ax.barh(methods, seconds, color=colours)
    labels = ax.bar_label(bars, [f" {value:.1f} s" for value in seconds])
    ax.set(xscale="log", xlabel="CPU seconds of one choice (median)", xlim=(0.1, 4 * max(seconds)))
    ax.invert_yaxis()
    return [*bars, *labels]


@figure("ways to choose bits, all fine-tuned alike", [[accuracies], [costs]], 8.0, [3, 2])
def rivals(found: Results) -> str:
    """Accuracy over compression, and CPU seconds of the choice, for HMQ and its rivals.

    Args:
        found: what `results.read("rivals")` gives.
    """
    # Where HMQ is behind is said first.
    ours = means(found, HMQ)
    behind: list[str] = []
    ahead: list[str] = []
    for target in ours:
        method, best = best_rival(found, target)
        spread = _spread(found.of(HMQ, target)) + _spread(found.of(method, target))
        difference = ours[target] - best
        said = f"at {target:g} by {abs(difference):.2f} points ({method}; spread {spread:.2f})"
        (behind if difference < 0 else ahead).append(said)
    text = "Mean test accuracy against the best rival: "
    text += f"HMQ is behind {'; '.join(behind)}" if behind else "HMQ is behind nowhere"
    text += f". It leads {'; '.join(ahead)}." if ahead else "."
    seconds = statistics.median(r.choosing_seconds for r in found.of(HMQ))
    cheapest = min(r.choosing_seconds for r in found.results)
    return f"{text} Its choice takes {seconds:.0f} CPU seconds, a rival's from {cheapest:.1f} on."


def best_rival(found: Results, target: float) -> tuple[str, float]:
    """Return the method that is not HMQ with the best mean accuracy at a target, and that mean.

    Args:
        found: the results of the bench.
        target: one of its targets.
    """
    others = {}
    for method in found.methods:
        mean = means(found, method)
        if method not in OURS and target in mean:
            others[method] = mean[target]
    method = max(others, key=lambda name: others[name])
    return method, others[method]


def _spread(rows: Sequence[Result]) -> float:
    """Return the distance from the least to the most accurate seed."""
    test = [row.test for row in rows]
    return max(test) - min(test)


# ------------------------------------------------------------------------- ablations


def changes(found: Results, ax: Axes) -> list[Artist]:
    """Test accuracy with one setting changed, a mark for each seed."""
    methods = list(found.methods)
    artists: list[Artist] = []
    for place, method in enumerate(methods):
        test = [result.test for result in found.of(method)]
        colour = INK if place == 0 else BLUE
        artists += ax.plot(test, [place] * len(test), "o-", color=colour, ms=6, lw=1)
    base = statistics.mean(result.test for result in found.of(methods[0]))
    artists.append(ax.axvline(base, color=PALE, lw=1, ls="--"))
    ax.set_yticks(range(len(methods)), methods)
    ax.set_xlabel("test accuracy (%) at 14 times smaller; a mark for each seed")
    ax.invert_yaxis()
    return artists


@figure("HMQ with one setting changed", [[changes]], 4.6)
def ablations(found: Results) -> str:
    """Accuracy of HMQ with one setting changed, at the same target.

    Args:
        found: what `results.read("ablations")` gives.
    """
    base, *others = found.methods
    middle = statistics.mean(result.test for result in found.of(base))
    differences = {}
    for method in others:
        mean = statistics.mean(result.test for result in found.of(method))
        differences[method] = mean - middle
    worst = min(differences, key=lambda name: differences[name])
    best = max(differences, key=lambda name: differences[name])
    seeds = {result.seed for result in found.results}
    return (
        f"As it is, HMQ has {middle:.2f} %. The change that costs most is '{worst}' "
        f"({differences[worst]:+.2f} points), the one that brings most '{best}' "
        f"({differences[best]:+.2f}); seeds: {len(seeds)}."
    )


# ------------------------------------------------------------------------- enumeration


def ranks(found: Results) -> dict[int, int]:
    """Return the place of HMQ's bits among all choices, by the loss after fine-tuning.

    Args:
        found: what `results.read("enumeration")` gives.

    Returns:
        {seed: place}, from 1 on.
    """
    losses = {result.bits: result.loss for result in found.of(ALL)}
    places = {}
    for result in found.of(HMQ):
        own = losses[result.bits]
        places[result.seed] = 1 + sum(loss < own for loss in losses.values())
    return places


def every_choice(found: Results, ax: Axes) -> list[Artist]:
    """Loss over compression of every choice after fine-tuning, HMQ's among them."""
    rows = found.of(ALL)
    x, y = [r.compression for r in rows], [r.loss for r in rows]
    dots = ax.scatter(x, y, color=PALE, label="every choice", s=12)
    losses = {result.bits: result.loss for result in rows}
    ours = found.of(HMQ)
    x, y = [r.compression for r in ours], [losses[r.bits] for r in ours]
    label = f"HMQ, {len(ours)} seeds"
    stars = ax.scatter(x, y, label=label, marker="*", s=130, color=INK, zorder=3)
    ax.set(xlabel="compression of the weights", ylabel="validation loss after fine-tuning")
    ax.legend(frameon=False)
    return [dots, stars]


@figure("every choice, fine-tuned", [[every_choice]], 4.2)
def enumeration(found: Results) -> str:
    """The loss of every choice that meets the budget, and HMQ's place among them.

    Args:
        found: what `results.read("enumeration")` gives.
    """
    places = ranks(found)
    count = len(found.of(ALL))
    said = ", ".join(str(place) for place in sorted(places.values()))
    seconds = sum(result.tuning_seconds for result in found.of(ALL))
    return (
        f"Of {count} choices that meet the budget, all fine-tuned alike ({seconds:.0f} CPU "
        f"seconds), HMQ's are in place {said} by the validation loss ({len(places)} seeds)."
    )


FIGURES = {"rivals": rivals, "ablations": ablations, "enumeration": enumeration}


def write_rivals(folder: Path) -> list[Path]:
    """Write the figures and tables of all results that come with the package; return their files.

    Args:
        folder: where to.
    """
    paths = []
    for kind, draw in FIGURES.items():
        if not (results.RECORDED / f"{kind}.json").is_file():
            continue
        drawing = draw(results.read(kind))
        paths += [save(drawing, folder / f"{kind}.{suffix}") for suffix in ("png", "svg")]
    return paths
