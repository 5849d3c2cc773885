"""Why has this layer these bits? What is measured on a selection, and a sentence for each weight.

>>> found = of_run("runs/builtin")                                        # doctest: +SKIP
>>> print(found.table())                                                  # doctest: +SKIP
>>> found["conv1.weight"].sentence                                        # doctest: +SKIP
'conv1.weight keeps 8 bits: it has 1.1 % of the weights, and 7 bits would cost 0.2 points ...'

Everything is measured on held images; no weight is trained. So a change of bits shows its cost
before any fine-tuning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import budget, data, runs
from hmq_lab.data.tables import columns
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.game import held_images
from hmq_lab.rivals.landscape import FLOAT, Choice, Landscape, original
from hmq_lab.rivals.sensitivity import change, gradients
from hmq_lab.runs.records import Record

# What is measured of a choice.
Measured = tuple[float, float]  # loss, and accuracy in percent


@dataclass(frozen=True)
class Change:
    """What another bit-width of one weight does; all other weights stay.

    Args:
        bits: the other bit-width, with the threshold that fits it best.
        loss: the change of the loss.
        points: the change of the accuracy, in percentage points.
        compression: of all quantized weights, after the change.
    """

    bits: int
    loss: float
    points: float
    compression: float


@dataclass(frozen=True)
class Formed:
    """How a search came to the bits of a weight.

    Args:
        bits: the most probable bits at the end of stage 1, before the repair.
        probability: that they had then, over all thresholds.
        since: the step of the first table from which on they stayed the most probable.
    """

    bits: int
    probability: float
    since: int


@dataclass(frozen=True)
class Reason:
    """What is known of the bits of one weight. Losses are means over the images.

    Args:
        name: of the weight.
        bits: that it has.
        size: its elements.
        share: its part of all quantized weights, from 0 to 1.
        alone_on: the rise of the loss when this weight alone is quantized.
        alone_off: the fall of the loss when this weight alone is left float.
        gradient: the rise that the gradient predicts for `alone_on`: the sum of the gradient times
            the change of the weight.
        less: the next fewer bits; None where it has the fewest.
        more: the next more bits; None where it has the most.
        formed: how the search came to it; None where no record says it.
        sentence: the reason in words.
    """

    name: str
    bits: int
    size: int
    share: float
    alone_on: float
    alone_off: float
    gradient: float
    less: Change | None
    more: Change | None
    formed: Formed | None
    sentence: str = ""


@dataclass(frozen=True)
class Explanation:
    """The reasons of a selection.

    Args:
        reasons: {weight: reason}.
        count: how many images were measured.
        loss: of the selection.
        accuracy: of the selection, in percent.
        float_loss: of the network with float weights and quantized activations.
        float_accuracy: of that network, in percent.
        compression: of all quantized weights.
    """

    reasons: Mapping[str, Reason]
    count: int
    loss: float
    accuracy: float
    float_loss: float
    float_accuracy: float
    compression: float

    def __getitem__(self, name: str) -> Reason:
        """Return the reason of a weight."""
        if name not in self.reasons:
            said = ", ".join(self.reasons)
            raise KeyError(f"there is no weight {name!r}; there are {said}")
        return self.reasons[name]

    def table(self) -> str:
        """Return the measurements, a line for each weight, and below them the sentences."""
        # The measurements, all of them changes of the loss.
        titles = ("weight", "bits", "share %", "alone on", "gradient", "alone off")
        rows = [(*titles, "a bit less", "a bit more", "probability")]
        for r in self.reasons.values():
            numbers = (f"{r.alone_on:+.4f}", f"{r.gradient:+.4f}", f"{r.alone_off:+.4f}")
            less = "-" if r.less is None else f"{r.less.loss:+.4f}"
            more = "-" if r.more is None else f"{r.more.loss:+.4f}"
            chance = "-" if r.formed is None else f"{r.formed.probability:.2f}"
            rows.append((r.name, str(r.bits), f"{100 * r.share:.1f}", *numbers, less, more, chance))
        # What they are compared with.
        about = (
            f"On {self.count:,} images, {self.compression:.2f} times smaller: "
            f"loss {self.loss:.4f}, accuracy {self.accuracy:.1f} %; with float weights "
            f"{self.float_loss:.4f}, {self.float_accuracy:.1f} %. The numbers are changes of the "
            "loss."
        )
        sentences = [r.sentence for r in self.reasons.values()]
        return "\n".join([columns(rows), "", about, *sentences])


def explain(model: nn.Module, x: Tensor, y: Tensor, record: Record | None = None) -> Explanation:
    """Return why each weight has the bits it has, measured on images.

    >>> network, record = runs.load("runs/builtin")                       # doctest: +SKIP
    >>> x, y = held_images(data.load("builtin"), 500)                     # doctest: +SKIP
    >>> explain(network, x, y, record)["linear.weight"].bits              # doctest: +SKIP
    8

    Args:
        model: an attached network with its selection, as `runs.load` returns it; it is copied.
        x: held images (N, C, H, W).
        y: their classes (N,).
        record: of the search; it knows how the selection formed.

    Raises:
        ValueError: for a network without a quantized weight, and for a record of other weights.
    """
    # The selection, and the record of how it formed.
    sizes = budget.weight_sizes(model)
    if not sizes:
        raise ValueError("the network has no quantized weight: there is nothing to explain")
    schemes = {p.name: scheme for p, scheme in budget.schemes(model) if p.kind == "weight"}
    formed = {} if record is None else _formed(record)
    if record is not None and formed.keys() - sizes.keys():
        said = ", ".join(sorted(formed.keys() - sizes.keys()))
        raise ValueError(f"the record is of a network with other weights: {said}")

    # The selection, and all weights float: what everything else is compared with.
    landscape = Landscape(model, x, y)
    floats: dict[str, int | str | Scheme] = dict.fromkeys(sizes, FLOAT)
    loss, accuracy = _measure(landscape, schemes)
    float_loss, float_accuracy = _measure(landscape, floats)
    gradients = _gradients(landscape, schemes)

    # Each weight alone; and with the next fewer and the next more bits.
    reasons = []
    for name, scheme in schemes.items():
        changes: list[Change | None] = []
        for step in (-1, 1):
            trial = _neighbour(landscape, name, scheme.bits, step)
            if trial is None:
                changes.append(None)
            else:
                changes.append(_change(landscape, schemes, name, trial, (loss, accuracy)))
        on, _ = _measure(landscape, floats | {name: scheme})
        off, _ = _measure(landscape, schemes | {name: FLOAT})
        reasons.append(
            Reason(
                name=name,
                bits=scheme.bits,
                size=sizes[name],
                share=sizes[name] / sum(sizes.values()),
                alone_on=on - float_loss,
                alone_off=loss - off,
                gradient=gradients[name],
                less=changes[0],
                more=changes[1],
                formed=formed.get(name),
            )
        )

    # The sentences compare each weight with the others.
    bits = {name: scheme.bits for name, scheme in schemes.items()}
    compression = budget.compression(bits, sizes)
    usual = _usual_price(reasons)
    named = {r.name: _with_sentence(r, usual, compression) for r in reasons}
    return Explanation(named, len(x), loss, accuracy, float_loss, float_accuracy, compression)


def of_run(
    run: Path | str,
    network: nn.Module | None = None,
    *,
    count: int = 500,
    root: str | os.PathLike | None = None,
) -> Explanation:
    """Return why each weight of a finished run has the bits it has.

    >>> print(of_run("runs/builtin").table())                             # doctest: +SKIP

    Args:
        run: the folder of the run.
        network: as in `runs.load`.
        count: how many images of the validation split.
        root: where data lie.

    Raises:
        FileNotFoundError: for files that are not there.
        ValueError: for a run that is not complete, and what `runs.load` refuses.
    """
    # The record says which data.
    model, record = runs.load(run, network)
    header = record.header
    source = data.load(header["data"], root=root, normalize=header["normalize"])
    x, y = held_images(source, count)
    return explain(model, x, y, record)


def _measure(landscape: Landscape, choice: Choice) -> Measured:
    """Return the loss and the accuracy of a choice."""
    # One pass gives both.
    scores, y = landscape.scores(choice), landscape.y
    right = (scores.argmax(1) == y).sum().item()
    return F.cross_entropy(scores, y).item(), 100 * right / len(y)


def _neighbour(landscape: Landscape, name: str, bits: int, step: int) -> Scheme | None:
    """Return the best scheme of a weight with the next fewer or more bits, where there is one."""
    # The space need not have every width.
    widths = sorted(landscape.schemes[name])
    at = widths.index(bits) + step
    return landscape.schemes[name][widths[at]] if 0 <= at < len(widths) else None


def _change(
    landscape: Landscape, schemes: Mapping[str, Scheme], name: str, trial: Scheme, base: Measured
) -> Change:
    """Return what another scheme of one weight does."""
    # All other weights stay.
    after = {**schemes, name: trial}
    loss, accuracy = _measure(landscape, after)
    bits = {key: scheme.bits for key, scheme in after.items()}
    sizes = {key: original(landscape.model, key).numel() for key in after}
    compression = budget.compression(bits, sizes)
    return Change(trial.bits, loss - base[0], accuracy - base[1], compression)


def _gradients(landscape: Landscape, schemes: Mapping[str, Scheme]) -> dict[str, float]:
    """Return the rise of the loss that the gradient at the float weights predicts for each weight.

    It is the sum over elements of dL/dw * (Q(w) - w), as in a Taylor expansion of first order.
    """
    found = {}
    for name, slope in gradients(landscape).items():
        weight = original(landscape.model, name).detach()
        found[name] = (slope * change(weight, schemes[name])).sum().item()
    return found


def _formed(record: Record) -> dict[str, Formed]:
    """Return how each weight's bits formed, from the tables of a record."""
    # The tables of stage 1: those up to the repair.
    repairs = record.of("repair")
    end = repairs[0]["step"] if repairs else float("inf")
    tables = [event for event in record.of("tables") if event["step"] <= end]
    if not tables:
        return {}

    found = {}
    for t in record.tensors:
        if t["kind"] != "weight":
            continue
        widths = t["space"]["bits"]
        # Over bit-widths, at each table.
        marginals = [torch.tensor(event["tables"][t["name"]]).sum(1) for event in tables]
        best = [widths[int(marginal.argmax())] for marginal in marginals]

        # Go back while the same bits were the most probable.
        bits, first = best[-1], len(best) - 1
        while first > 0 and best[first - 1] == bits:
            first -= 1
        last = marginals[-1] / marginals[-1].sum()
        chance = last[widths.index(bits)].item()
        found[t["name"]] = Formed(bits, chance, tables[first]["step"])
    return found


def _price(reason: Reason) -> float | None:
    """Return what a bit costs that this weight gives up: the rise of the loss for each bit."""
    # Nothing can be given up.
    if reason.less is None:
        return None
    return reason.less.loss / (reason.size * (reason.bits - reason.less.bits))


def _usual_price(reasons: list[Reason]) -> float:
    """Return the price of a bit where every weight that can gives up bits, each measured alone."""
    # As if the changes added up.
    saved = [(r, r.less) for r in reasons if r.less is not None]
    bits = sum(r.size * (r.bits - less.bits) for r, less in saved)
    return sum(less.loss for _, less in saved) / bits if bits else 0.0


def _with_sentence(reason: Reason, usual: float, compression: float) -> Reason:
    """Return the reason with its sentence.

    Args:
        reason: without a sentence.
        usual: the price of a bit over all weights.
        compression: of the selection.
    """
    share = f"it has {100 * reason.share:.1f} % of the weights"
    has = f"{reason.bits} bit" + ("s" if reason.bits != 1 else "")
    less, more, price = reason.less, reason.more, _price(reason)

    # Dear bits are kept, cheap bits are given up, and some cost nothing at all.
    if less is None or price is None:
        text = f"{reason.name} has the fewest bits, {reason.bits}: {share}"
    elif less.loss <= 0 and less.points >= 0:
        text = (
            f"{reason.name} could have fewer than {has}: {share}, and {_effect(less, compression)}"
        )
    elif price > usual:
        text = f"{reason.name} keeps {has}: {share}, and {_effect(less, compression)}"
    else:
        text = f"{reason.name} gets by with {has}: {share}, and {_effect(less, compression)}"
    # What a bit costs here, and what one more would bring.
    text += "."
    if price is not None and usual > 0 and price > 0:
        text += f" A bit here costs {price / usual:.2g} times the usual."
    if more is not None:
        effect = _effect(more, compression)
        text += f" {effect[0].upper()}{effect[1:]}."

    # What the search thought of it, and what the repair changed.
    formed = reason.formed
    if formed is not None:
        text += (
            f" The search chose {formed.bits} with a probability of {formed.probability:.2f}, the "
            f"most probable since step {formed.since:,}"
        )
        text += "." if formed.bits == reason.bits else f"; the repair made it {reason.bits}."
    # The dataclass is frozen: a new one has the sentence.
    values = {**vars(reason), "sentence": text}
    return Reason(**values)


def _effect(change: Change, compression: float) -> str:
    """Return what a change does, in words.

    >>> _effect(Change(7, 0.0123, -0.4, 8.1), 8.0)
    '7 bits would cost 0.4 points (loss +0.0123) and bring 8.10 instead of 8.00 times smaller'
    """
    # An accuracy is shown with one decimal.
    bits = f"{change.bits} bit" + ("s" if change.bits != 1 else "")
    points = f"{abs(change.points):.1f} points"
    if change.loss == 0:
        does = "change nothing"
    elif points == "0.0 points":
        does = "change the accuracy by less than 0.1 points"
    elif change.points < 0:
        does = f"cost {points}"
    else:
        does = f"gain {points}"
    return (
        f"{bits} would {does} (loss {change.loss:+.4f}) and bring {change.compression:.2f} instead "
        f"of {compression:.2f} times smaller"
    )
