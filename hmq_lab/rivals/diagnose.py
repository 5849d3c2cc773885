"""What went wrong in a run? Rules that look at its record, and at its network where it is at hand.

>>> found = of_run("builtin-tiny_resnet8-w8-a8", count=100)
>>> found.findings
()
>>> print(found.text())                                                   # doctest: +ELLIPSIS
Nothing was found by 6 rules: ...
not checked: statistics: ...

A rule measures one number, compares it with one limit, and says what to change.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hmq_lab.block import HMQ
from hmq_lab.network import blocks
from hmq_lab.rivals.landscape import FLOAT, Choice, Landscape
from hmq_lab.rivals.material import Material, gather
from hmq_lab.runs.records import SHORT, Record
from hmq_lab.stages import renew_statistics

# The limits of the rules.
MOVED = 0.1  # probability that the most changed table has moved, at least
SEARCHED = 0.5  # part of stage 1 that must be done before logits are judged
STATISTICS = 2.0  # points that renewed statistics of batch norm may bring
COLLAPSED = 10.0  # points lost right after the selection
BREAKS = 2.0  # points that a tensor of 1 bit may cost
CLIPPED = 0.05  # part of the values that are not 0 that may be clipped
GAP = 2.0  # points below the float network that need no recovery
RECOVERED = 0.1  # part of the lost points that stage 2 must bring back
BATCH = 64  # images in a batch from which batch norm measures


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong.

    Args:
        rule: the name of the rule.
        tensor: what it is about; None where it is about the run.
        measured: what the rule measured.
        limit: what it compares with.
        sentence: what is wrong, and what to change.
    """

    rule: str
    tensor: str | None
    measured: float
    limit: float
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """What the rules found.

    Args:
        findings: in the order of the rules.
        checked: the rules that could be checked.
        unchecked: {rule: why it could not be checked}.
    """

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    unchecked: dict[str, str] = field(default_factory=dict)

    def of(self, rule: str) -> list[Finding]:
        """Return the findings of a rule. Raises ValueError for a rule that does not exist."""
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        return [finding for finding in self.findings if finding.rule == rule]

    def text(self) -> str:
        """Return a line for each finding, then what could not be checked."""
        # Findings first.
        lines = [f"{finding.rule}: {finding.sentence}" for finding in self.findings]
        if not lines:
            count = len(self.checked)
            rules_there = f"{count} rule" + ("s" if count != 1 else "")
            lines.append(f"Nothing was found by {rules_there}: {', '.join(self.checked)}")
        # Several rules may need the same.
        for why in dict.fromkeys(self.unchecked.values()):
            rules = [rule for rule, reason in self.unchecked.items() if reason == why]
            lines.append(f"not checked: {', '.join(rules)}: {why}")
        return "\n".join(lines)


class _Unknown(Exception):
    """A rule cannot be checked; the message says why."""


def diagnose(material: Material) -> Diagnosis:
    """Return what went wrong in a run.

    >>> diagnose(gather("cifar10-resnet20-w16-a8")).checked
    ('logits', 'repair', 'thresholds', 'recovery')

    Args:
        material: what is at hand of the run; see `material.gather`.
    """
    # Each rule by itself.
    findings: list[Finding] = []
    checked, unchecked = [], {}
    for name, rule in RULES.items():
        try:
            findings += rule(material)
            checked.append(name)
        except _Unknown as error:
            unchecked[name] = str(error)
    return Diagnosis(tuple(findings), tuple(checked), unchecked)


def of_run(
    run: Path | str,
    network: nn.Module | None = None,
    *,
    weights: Path | str | None = None,
    count: int = 500,
    root: str | os.PathLike | None = None,
) -> Diagnosis:
    """Return what went wrong in a run, finished or stopped.

    >>> print(of_run("runs/builtin").text())                              # doctest: +SKIP

    Args:
        run: the folder of a run, a record, or the name of a record that comes with the package.
        network: for a run of your own module, that module, as in `runs.load`.
        weights: of the float network, for a record without a network.
        count: how many images of the validation split.
        root: where data lie.

    Raises:
        FileNotFoundError: where there is no run.
        ValueError: for files that are damaged.
    """
    return diagnose(gather(run, network, weights=weights, count=count, root=root))


# ------------------------------------------------------------------------- rules of the record


def _logits(found: Material) -> list[Finding]:
    """The probabilities at the end of stage 1 are those of its beginning."""
    record = found.record
    settings, target = record.header["settings"], record.header["target"]["weights"]
    _check_searched(record)
    # Every weight may keep the most bits: then there is nothing to choose.
    most = max(record.header["space"]["bits"])
    if 32 / most >= target:
        return []

    # How much probability has moved, in the table that changed the most.
    first, last = record.of("tables")[0]["tables"], _last_tables(record)
    moved = 0.0
    for name, table in last.items():
        # The bits of an activation are given.
        if len(table) > 1:
            moved = max(moved, _distance(first[name], table))
    if moved >= MOVED:
        return []
    sentence = (
        f"the logits hardly moved: of no weight has more than {100 * moved:.1f} % of the "
        "probability changed its place. Search longer (more epochs, a smaller batch), or raise "
        f"logit_learning_rate, now {settings['logit_learning_rate']:g}"
    )
    return [Finding("logits", None, moved, MOVED, sentence)]


def _check_searched(record: Record) -> None:
    """Raise `_Unknown` for a run that has seen too little of stage 1."""
    # Where there is a repair, stage 1 has ended.
    if len(record.of("tables")) < 2:
        raise _Unknown("the record has no tables of probabilities before and after the search")
    if record.of("repair"):
        return
    settings = record.header["settings"]
    images = record.header.get("pictures", [0])[0]
    steps = settings["search_epochs"] * (images // settings["batch_size"])
    done = record.of("tables")[-1]["step"]
    if done < SEARCHED * steps:
        raise _Unknown(f"the run was stopped in step {done:,} of {steps:,} of stage 1")


def _last_tables(record: Record) -> dict[str, list[list[float]]]:
    """Return the probabilities at the end of stage 1, or the last ones before a stop."""
    # Tables are written in stage 1 alone, the last one just before the repair.
    return record.of("tables")[-1]["tables"]


def _distance(before: list[list[float]], after: list[list[float]]) -> float:
    """Return the total variation distance of two tables of probabilities.

    >>> _distance([[1.0, 0.0]], [[0.25, 0.75]])
    0.75
    """
    # Tables are rounded to three digits: bring each to a sum of 1.
    first, second = torch.tensor(before).double(), torch.tensor(after).double()
    difference = first / first.sum() - second / second.sum()
    return difference.abs().sum().item() / 2


def _repair(found: Material) -> list[Finding]:
    """The repair, not the search, reached the target."""
    record = found.record
    before, target = record.rates_before_repair, record.header["target"]["weights"]
    if before is None:
        raise _Unknown("the run has not come to the repair")
    reached = before.weights / target
    if reached >= SHORT:
        return []
    # Steps up are the refill's.
    every = [move for event in record.of("repair") for move in event["moves"]]
    moves = sum(move["after"] < move["before"] for move in every)
    sentence = (
        f"the search ended at a compression of {before.weights:.2f}, the target is {target:g}: the "
        f"repair took the rest in {moves} moves, without seeing the loss. Raise gamma or "
        "logit_learning_rate, or search longer"
    )
    return [Finding("repair", None, reached, SHORT, sentence)]


def _thresholds(found: Material) -> list[Finding]:
    """A weight or an activation has the smallest threshold that it could have."""
    record = found.record
    if not record.tensors:
        raise _Unknown("the run has not come to a selection")
    findings = []
    for t in record.tensors:
        exponents = t["space"]["exponents"]
        if len(exponents) < 2 or t["threshold_exponent"] > min(exponents):
            continue
        sentence = (
            f"{t['name']} has the smallest threshold of its range, 2^{t['threshold_exponent']}: a "
            f"smaller one may be better. Search with more thresholds than {len(exponents)}"
        )
        smallest = float(min(exponents))
        findings.append(
            Finding("thresholds", t["name"], t["threshold_exponent"], smallest, sentence)
        )
    return findings


def _recovery(found: Material) -> list[Finding]:
    """Stage 2 brings back next to nothing of the accuracy that the selection lost."""
    record = found.record
    accuracy = record.accuracy
    epochs = [event for event in record.of("epoch") if event["stage"] == 2]
    start, goal = accuracy.after_search, accuracy.float_validation
    if not epochs or start is None or goal is None:
        raise _Unknown("the run has no epoch of stage 2")
    # What is lost, and what comes back.
    lost = goal - start
    best = max(event["validation_accuracy"] for event in epochs)
    if lost < GAP or goal - best < GAP:
        return []
    regained = (best - start) / lost
    if regained >= RECOVERED:
        return []
    settings = record.header["settings"]
    sentence = (
        f"stage 2 brought back {100 * max(regained, 0):.0f} % of what the selection lost: "
        f"{start:.1f} % after it, {best:.1f} % at best, float {goal:.1f} %. Raise "
        f"final_learning_rate, now {settings['final_learning_rate']:g}, or train for more than "
        f"{len(epochs)} epochs"
    )
    return [Finding("recovery", None, regained, RECOVERED, sentence)]


# ------------------------------------------------------------------------- rules of the network


def _statistics(found: Material) -> list[Finding]:
    """Batch norm has statistics of another network than the one that it is in."""
    # Of the float network, stage 2 knows how it began.
    findings = _began_with_float_statistics(found.record)
    if not found.is_trained:
        if findings:
            return findings
        raise _Unknown(found.missing or "the network of the run is missing, only float weights are")

    # Of the network as the run left it, both accuracies can be measured.
    model, x, y = _measurable(found)
    training = found.training
    assert training is not None
    before = _accuracy(model, x, y)
    renewed = copy.deepcopy(model)
    renew_statistics(renewed, training.split(BATCH))
    gained = _accuracy(renewed, x, y) - before
    if gained > STATISTICS:
        sentence = (
            "batch norm has statistics of another network: measured again on "
            f"{len(training):,} training images they bring {gained:.1f} points, from "
            f"{before:.1f} %. Call stages.renew_statistics, or set renew_statistics"
        )
        findings.append(Finding("statistics", None, gained, STATISTICS, sentence))
    return findings


def _began_with_float_statistics(record: Record) -> list[Finding]:
    """Return the finding of a stage 2 that began with the float network's statistics, if it did."""
    settings, accuracy = record.header["settings"], record.accuracy
    if settings["final_weights"] != "float" or settings["renew_statistics"]:
        return []
    start, goal = accuracy.after_search, accuracy.float_validation
    epochs = [event for event in record.of("epoch") if event["stage"] == 2]
    if not epochs or start is None or goal is None or goal - start < COLLAPSED:
        return []
    # A first epoch brings back what was never lost in the weights.
    after = epochs[0]["validation_accuracy"]
    part = (after - start) / (goal - start)
    if part < 0.5:
        return []
    sentence = (
        f"stage 2 began with the float network's statistics of batch norm: {start:.1f} % right "
        f"after the selection, {after:.1f} % an epoch later. Set renew_statistics"
    )
    return [Finding("statistics", None, goal - start, COLLAPSED, sentence)]


def _one_bit(found: Material) -> list[Finding]:
    """A weight of 1 bit costs accuracy by itself."""
    model, x, y = _measurable(found)
    landscape = Landscape(model, x, y)
    schemes = {name: block.scheme for name, block in landscape.blocks.items()}
    suspects = [name for name, scheme in schemes.items() if scheme.bits == 1]
    if not suspects:
        return []
    # With each one float, or with more bits, and all others as they are.
    base = landscape.accuracy(schemes)
    findings = []
    for name in suspects:
        trials: list[Choice] = [schemes | {name: FLOAT}]
        trials += [schemes | {name: bits} for bits in landscape.schemes[name] if bits > 1]
        gained = max(landscape.accuracy(trial) for trial in trials) - base
        if gained <= BREAKS:
            continue
        sentence = (
            f"{name} has 1 bit, and that breaks the accuracy: with more bits for it alone the "
            f"network gains {gained:.1f} points, from {base:.1f} %. Search without 1 bit, or for "
            "a smaller compression"
        )
        findings.append(Finding("one bit", name, gained, BREAKS, sentence))
    return findings


def _clipped(found: Material) -> list[Finding]:
    """The threshold of an activation cuts off many of its values."""
    model, x, _ = _measurable(found)
    parts = clipped_parts(model, x)
    findings = []
    for name, part in parts.items():
        if part <= CLIPPED:
            continue
        scheme = blocks(model)[name].scheme
        sentence = (
            f"{name} is clipped: {100 * part:.0f} % of its values that are not 0 lie beyond the "
            f"threshold 2^{scheme.threshold_exponent}. Calibrate on more images, or check that "
            "they are normalized as in training"
        )
        findings.append(Finding("clipped", name, part, CLIPPED, sentence))
    return findings


def clipped_parts(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Return for each activation the part of its values that are not 0 and that its scheme clips.

    Args:
        model: an attached network with its selection.
        x: images (N, C, H, W).

    Returns:
        {activation: from 0 to 1}.
    """
    parts = {}

    # A block sees its tensor before it is quantized.
    def watch(name: str) -> Callable[[HMQ, tuple[Tensor, ...]], None]:
        def look(block: HMQ, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].detach()
            scheme = block.scheme
            # The largest level lies a step below the threshold, half a step rounds to it.
            beyond = values > scheme.threshold - scheme.step / 2
            if scheme.signed:
                beyond |= values < -scheme.threshold - scheme.step / 2
            others = (values != 0).sum().item()
            parts[name] = beyond.sum().item() / others if others else 0.0

        return look

    # One pass over all images.
    hooks = []
    for name, block in blocks(model, "activation").items():
        hooks.append(block.register_forward_pre_hook(watch(name)))
    try:
        with torch.no_grad():
            model(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return parts


def _measurable(found: Material) -> tuple[nn.Module, Tensor, Tensor]:
    """Return network, images and classes. Raises `_Unknown` where they are not at hand."""
    if found.model is None or found.x is None or found.y is None:
        raise _Unknown(found.missing)
    return found.model, found.x, found.y


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the percentage of images in their class."""
    with torch.no_grad():
        right = model.eval()(x.clone()).argmax(1) == y
    return 100 * right.double().mean().item()


# In the order in which a run goes.
RULES: dict[str, Callable[[Material], list[Finding]]] = {
    "logits": _logits,
    "repair": _repair,
    "one bit": _one_bit,
    "thresholds": _thresholds,
    "clipped": _clipped,
    "statistics": _statistics,
    "recovery": _recovery,
}
