"""Why has this layer these bits? What is measured on a selection, and a sentence for each weight.

>>> found = of_run("runs/builtin")                                        # doctest: +SKIP
>>> print(found.table())                                                  # doctest: +SKIP
>>> found["conv1.weight"].sentence                                        # doctest: +SKIP
'conv1.weight keeps 8 bits: it has 1.1 % of the weights, and 7 bits would cost 0.2 points ...'

Everything is measured on held images; no weight is trained. So a change of bits shows its cost
before any fine-tuning. A record alone, without weights, still says how much of the network a weight
is, what a bit changes in the compression, and how the search came to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmq_lab import budget
from hmq_lab.data.tables import columns
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.landscape import FLOAT, Choice, Landscape, original
from hmq_lab.rivals.material import Material, gather
from hmq_lab.rivals.sensitivity import change, gradients
from hmq_lab.runs.records import Record

# What is measured of a choice.
Measured = tuple[float, float]  # loss, and accuracy in percent


@dataclass(frozen=True)
class Change:
    """What another bit-width of one weight does; all other weights stay.

    Args:
        bits: the other bit-width, with the threshold that fits it best.
        loss: the change of the loss; None where it is not measured.
        points: the change of the accuracy, in percentage points; None where it is not measured.
        compression: of all quantized weights, after the change.
    """

    bits: int
    loss: float | None
    points: float | None
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

    What needs weights and images is None where they are missing.

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
    alone_on: float | None
    alone_off: float | None
    gradient: float | None
    less: Change | None
    more: Change | None
    formed: Formed | None
    sentence: str = ""


@dataclass(frozen=True)
class Explanation:
    """The reasons of a selection.

    Args:
        reasons: {weight: reason}.
        count: how many images were measured; 0 where nothing could be.
        loss: of the selection.
        accuracy: of the selection, in percent.
        float_loss: of the network with float weights and quantized activations.
        float_accuracy: of that network, in percent.
        compression: of all quantized weights.
        missing: why nothing could be measured; empty where it was.
        is_trained: whether the weights are those after the fine-tuning.
    """

    reasons: Mapping[str, Reason]
    count: int
    loss: float | None
    accuracy: float | None
    float_loss: float | None
    float_accuracy: float | None
    compression: float
    missing: str = ""
    is_trained: bool = True

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
        rows: list[tuple[str, ...]] = [(*titles, "a bit less", "a bit more", "probability")]
        for r in self.reasons.values():
            less = None if r.less is None else r.less.loss
            more = None if r.more is None else r.more.loss
            changes = (r.alone_on, r.gradient, r.alone_off, less, more)
            chance = "-" if r.formed is None else f"{r.formed.probability:.2f}"
            share = f"{100 * r.share:.1f}"
            rows.append((r.name, str(r.bits), share, *map(_signed, changes), chance))
        sentences = [r.sentence for r in self.reasons.values()]
        return "\n".join([columns(rows), "", self.about(), *sentences])

    def about(self) -> str:
        """Return what was measured, or why nothing was, in one line."""
        smaller = f"{self.compression:.2f} times smaller"
        if self.missing:
            return (
                f"{smaller}. What fewer or more bits would do to the loss, alone on, alone off and "
                f"the gradient cannot be measured: {self.missing}."
            )
        which = "" if self.is_trained else " The weights are those before the search."
        return (
            f"On {self.count:,} images, {smaller}: "
            f"loss {self.loss:.4f}, accuracy {self.accuracy:.1f} %; with float weights "
            f"{self.float_loss:.4f}, {self.float_accuracy:.1f} %. The numbers are changes of the "
            f"loss.{which}"
        )


def _signed(change: float | None) -> str:
    """Return a change of the loss for the table.

    >>> _signed(0.25), _signed(None)
    ('+0.2500', '-')
    """
    return "-" if change is None else f"{change:+.4f}"


def explain(model: nn.Module, x: Tensor, y: Tensor, record: Record | None = None) -> Explanation:
    """Return why each weight has the bits it has, measured on images.

    >>> found = gather("builtin-tiny_resnet8-w8-a8", count=50)
    >>> explain(found.model, found.x, found.y, found.record)["linear.weight"].bits
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


def of_record(record: Record, missing: str = "the weights are missing") -> Explanation:
    """Return what a record alone says of each weight; nothing is measured.

    >>> from hmq_lab.runs import records
    >>> found = of_record(records.recorded("cifar10-resnet20-w16-a8"))
    >>> print(found["conv1.weight"].sentence)
    conv1.weight has 8 bits: it has 0.2 % of the weights, and 7 bits would change the compression \
from 16.01 to 16.03. The search ended with a probability of 1.00 for 8 bits, the most probable \
since step 0.

    Args:
        record: of a run that has a selection.
        missing: why nothing is measured, in words.

    Raises:
        ValueError: for a run without a selection.
    """
    # The bits and sizes of the weights.
    weights = [t for t in record.tensors if t["kind"] == "weight"]
    if not weights:
        raise ValueError("the run has no selection yet: there is nothing to explain")
    bits = {t["name"]: t["bits"] for t in weights}
    sizes = {t["name"]: t["size"] for t in weights}
    compression = budget.compression(bits, sizes)
    formed = _formed(record)

    reasons = {}
    for t in weights:
        # The next fewer and the next more bits.
        name, widths = t["name"], sorted(t["space"]["bits"])
        at = widths.index(t["bits"])
        changes: list[Change | None] = [None, None]
        for place, other in ((0, at - 1), (1, at + 1)):
            if 0 <= other < len(widths):
                after = budget.compression(bits | {name: widths[other]}, sizes)
                changes[place] = Change(widths[other], None, None, after)
        reason = Reason(
            name=name,
            bits=t["bits"],
            size=t["size"],
            share=t["size"] / sum(sizes.values()),
            alone_on=None,
            alone_off=None,
            gradient=None,
            less=changes[0],
            more=changes[1],
            formed=formed.get(name),
        )
        reasons[name] = _with_sentence(reason, 0.0, compression)
    return Explanation(reasons, 0, None, None, None, None, compression, missing)


def of_run(
    run: Path | str,
    network: nn.Module | None = None,
    *,
    weights: Path | str | None = None,
    count: int = 500,
    root: str | os.PathLike | None = None,
) -> Explanation:
    """Return why each weight of a finished run has the bits it has.

    >>> print(of_run("runs/builtin").table())                             # doctest: +SKIP
    >>> of_run("cifar10-resnet20-w16-a8").missing
    'the weights are missing: give the folder of the run, or the float weights that it began with'

    Args:
        run: the folder of a run, a record, or the name of a record that comes with the package.
        network: for a run of your own module, that module, as in `runs.load`.
        weights: of the float network, as the search had them, for a record without a network.
        count: how many images of the validation split.
        root: where data lie.

    Raises:
        FileNotFoundError: for files that are not there.
        ValueError: for a run without a selection, and what `runs.load` refuses.
    """
    return of_material(gather(run, network, weights=weights, count=count, root=root))


def of_material(found: Material) -> Explanation:
    """Return why each weight has the bits it has, measured as far as the material goes.

    Args:
        found: what `material.gather` gives.
    """
    if found.model is None or found.x is None or found.y is None:
        return of_record(found.record, found.missing)
    measured = explain(found.model, found.x, found.y, found.record)
    return replace(measured, is_trained=found.is_trained)


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
    # Nothing can be given up, or nothing is measured.
    if reason.less is None or reason.less.loss is None:
        return None
    return reason.less.loss / (reason.size * (reason.bits - reason.less.bits))


def _usual_price(reasons: list[Reason]) -> float:
    """Return the price of a bit where every weight that can gives up bits, each measured alone."""
    # As if the changes added up.
    bits, rise = 0, 0.0
    for r in reasons:
        if r.less is not None and r.less.loss is not None:
            bits += r.size * (r.bits - r.less.bits)
            rise += r.less.loss
    return rise / bits if bits else 0.0


def _with_sentence(reason: Reason, usual: float, compression: float) -> Reason:
    """Return the reason with its sentence.

    Args:
        reason: without a sentence.
        usual: the price of a bit over all weights.
        compression: of the selection.
    """
    share = f"it has {100 * reason.share:.1f} % of the weights"
    has = _in_bits(reason.bits)
    less, more, price = reason.less, reason.more, _price(reason)

    # Dear bits are kept, cheap bits are given up, and some cost nothing at all.
    if less is None:
        text = f"{reason.name} has the fewest bits, {reason.bits}: {share}"
    elif price is None:
        text = f"{reason.name} has {has}: {share}, and {_effect(less, compression)}"
    elif price <= 0 and (less.points or 0.0) >= 0:
        text = (
            f"{reason.name} could have fewer than {has}: {share}, and {_effect(less, compression)}"
        )
    elif price > usual or price <= 0:  # fewer bits cost accuracy, though the loss falls
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
            f" The search ended with a probability of {formed.probability:.2f} for "
            f"{_in_bits(formed.bits)}, the most probable since step {formed.since:,}"
        )
        text += "." if formed.bits == reason.bits else f"; the repair made it {reason.bits}."
    return replace(reason, sentence=text)


def _effect(change: Change, compression: float) -> str:
    """Return what a change does, in words.

    >>> _effect(Change(7, 0.0123, -0.4, 8.1), 8.0)
    '7 bits would cost 0.4 points (loss +0.0123) and change the compression from 8.00 to 8.10'
    """
    # With as many digits as tell the two apart.
    before, after = f"{compression:.2f}", f"{change.compression:.2f}"
    if before == after:
        before, after = f"{compression:.4f}", f"{change.compression:.4f}"
    size = f"change the compression from {before} to {after}"
    # A record alone knows the sizes.
    bits = _in_bits(change.bits)
    if change.loss is None or change.points is None:
        return f"{bits} would {size}"

    # An accuracy is shown with one decimal.
    points = f"{abs(change.points):.1f} points"
    if change.loss == 0:
        does = "change nothing"
    elif points == "0.0 points":
        does = "change the accuracy by less than 0.1 points"
    elif change.points < 0:
        does = f"cost {points}"
    else:
        does = f"gain {points}"
    return f"{bits} would {does} (loss {change.loss:+.4f}) and {size}"


def _in_bits(count: int) -> str:
    """Return a number of bits in words: 1 bit, 2 bits."""
    return f"{count} bit" + ("s" if count != 1 else "")
