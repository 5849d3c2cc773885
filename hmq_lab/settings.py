"""Every number of a search in one place, and presets by name."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass

from hmq_lab.gumbel import Cycles

LOSSES = ("cross-entropy", "distillation")


@dataclass(frozen=True)
class Settings:
    """How a search is run; the defaults are the paper's.

    >>> Settings().search_epochs, Settings().gamma
    (30, 32.0)
    >>> preset("quick/cifar10", search_epochs=6).search_epochs
    6

    Stage 1, the search, trains weights and logits for search_epochs; stage 2, fine-tuning, trains the weights with the
    selected schemes for final_epochs. Cycles of the temperature and steps of the target scale with search_epochs: there
    are `cycles` equal cycles, and the target rises from first_target in target_steps steps of a cycle each.
    batch_size is that of a step: with several processes each takes its part of it (the paper's is 256 per process).
    Raises ValueError naming the setting and what is allowed. Source: HMQ, section 4, and the authors' code.
    """

    search_epochs: int = 30
    final_epochs: int = 20
    batch_size: int = 256
    network_rate: float = 1e-5  # learning rate of the network in stage 1,
    final_rate: float = 1e-5  # and in stage 2
    final_schedule: str = "constant"  # or "cosine": from final_rate to 0
    logit_rate: float = 0.01
    weight_decay: float = 1e-4  # decoupled; of the network, never of the logits
    gamma: float = 32.0  # of the loss term
    cycles: int = 6
    target_steps: int = 4
    first_target: float = 4.0
    margin: float = 0.0  # the loss aims at target * (1 + margin): its pull vanishes as the rate comes near the aim
    refill: bool = False  # what a selection saves beyond the target is given back: see budget.repair
    # Ours, not the paper's: what a short search needs most.
    search_loss: str = "cross-entropy"  # task loss of stage 1,
    final_loss: str = "cross-entropy"  # and of stage 2; or "distillation": from the float network's class scores
    distillation_temperature: float = 4.0  # both networks' class scores are divided by it
    final_weights: str = "searched"  # stage 2 starts from the weights of stage 1, or from the "float" ones
    renew_statistics: bool = False  # of batch norm, once the schemes are selected, before stage 2
    temperature_rate: float = 0.01
    temperature_floor: float = 0.5
    calibration_pictures: int | None = None  # None: all of the training set
    augment: bool = True
    precision: str = "float32"  # or "bfloat16": autocast; blocks compute in float32 all the same
    compile: str = "auto"  # "on", "off", or "auto": with a compiler and a run long enough to pay for it
    channels_last: bool = False
    log_every: int = 10  # steps between two "step" events
    snapshots: int = 40  # about so many "tables" events over the search

    def __post_init__(self):
        whole = {"search_epochs": 0, "final_epochs": 0, "batch_size": 1, "cycles": 1, "target_steps": 1,
                 "log_every": 1, "snapshots": 1}  # fmt: skip
        for name, least in whole.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        for name in ("network_rate", "final_rate", "logit_rate", "weight_decay", "gamma", "margin"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number from 0 on, got {value!r}")
        choices = {"final_schedule": ("constant", "cosine"), "precision": ("float32", "bfloat16"),
                   "compile": ("auto", "on", "off"), "final_weights": ("searched", "float"),
                   "search_loss": LOSSES, "final_loss": LOSSES}  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        softness = self.distillation_temperature
        if not (isinstance(softness, int | float) and 0 < softness < math.inf):
            raise ValueError(f"distillation_temperature must be a number above 0, got {softness!r}")
        if not (isinstance(self.first_target, int | float) and 1 <= self.first_target <= 32):
            raise ValueError(f"first_target must be a rate between 1 and 32, got {self.first_target!r}")
        count = self.calibration_pictures
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"calibration_pictures must be a whole number from 1 on, or None for all, got {count!r}")
        if self.search_epochs + self.final_epochs == 0:
            raise ValueError("search_epochs and final_epochs must not both be 0")
        self.temperature(1)  # refuses rates and floors that are none

    def cycle_steps(self, steps_per_epoch: int) -> int:
        return max(1, round(self.search_epochs * steps_per_epoch / self.cycles))

    def temperature(self, steps_per_epoch: int) -> Cycles:
        """The schedule of the temperature over the steps of stage 1."""
        epochs = max(self.search_epochs, 1) / self.cycles
        return Cycles(steps_per_epoch, epochs, self.temperature_rate, self.temperature_floor)

    def target_rate(self, step: int, steps_per_epoch: int, target: float) -> float:
        """The rate to aim at in a step of stage 1.

        >>> [Settings().target_rate(epoch * 100, 100, 16.0) for epoch in (0, 5, 10, 15, 29)]
        [4.0, 8.0, 12.0, 16.0, 16.0]
        """
        target *= 1 + self.margin
        first, last = min(self.first_target, target), self.target_steps - 1
        done = min(step // self.cycle_steps(steps_per_epoch), last)
        return first + (target - first) * done / last if last else target

    def final_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step of stage 2."""
        if self.final_schedule == "constant":
            return self.final_rate
        return self.final_rate * (1 + math.cos(math.pi * step / steps)) / 2


PRESETS = {
    "paper": Settings(),
    "paper/mobilenet_v1": Settings(network_rate=5e-6, final_rate=5e-6, gamma=64.0, logit_rate=0.005),
    "paper/mobilenet_v2": Settings(),
    "paper/resnet50": Settings(),
    "paper/efficientnet_b0": Settings(),
    "quick/builtin": Settings(
        search_epochs=6, final_epochs=8, batch_size=64, network_rate=1e-3, final_rate=1e-3, final_schedule="cosine",
        logit_rate=0.05, cycles=3, target_steps=2, margin=0.03, refill=True, calibration_pictures=1024,
    ),
    "quick/cifar10": Settings(
        search_epochs=3, final_epochs=5, batch_size=128, network_rate=1e-3, final_rate=3e-3, final_schedule="cosine",
        logit_rate=0.05, cycles=1, target_steps=1, margin=0.03, refill=True, final_loss="distillation",
        final_weights="float", renew_statistics=True, calibration_pictures=5120, precision="bfloat16", log_every=20,
    ),
    "quick/imagenette": Settings(  # ten classes of ImageNet, some 1,500 training pictures
        search_epochs=4, final_epochs=8, batch_size=32, network_rate=5e-5, final_rate=1e-4, final_schedule="cosine",
        logit_rate=0.4, cycles=2, target_steps=1, margin=0.03, refill=True, calibration_pictures=640,
        channels_last=True, log_every=5,
    ),
    "quick/folder": Settings(  # other people's pictures, a few hundred or thousand: few steps, so long ones
        search_epochs=20, final_epochs=20, batch_size=16, network_rate=5e-4, final_rate=5e-4, final_schedule="cosine",
        logit_rate=0.2, cycles=2, target_steps=1, margin=0.03, refill=True, calibration_pictures=640, log_every=5,
    ),
}  # fmt: skip
CHOOSING = 25.0  # logit rate times steps: with less, the logits hardly leave where they begin


def preset_for(data: str) -> str:
    """The preset that a search on a data set takes where none is named.

    >>> preset_for("cifar10"), preset_for("imagenet"), preset_for("my_pictures")
    ('quick/cifar10', 'paper', 'quick/folder')
    """
    return f"quick/{data}" if f"quick/{data}" in PRESETS else "paper" if data == "imagenet" else "quick/folder"


def preset(name: str, **changes) -> Settings:
    """A preset by name, with changes.

    A target in the name, as in paper/mobilenet_v2-w8-a8, changes no setting: see `recipes`. Raises ValueError for an
    unknown name and TypeError for an unknown setting, naming the near ones.
    """
    name = split_name(name)[0]
    known = [f.name for f in dataclasses.fields(Settings)]
    for change in changes:
        if change not in known:
            near = difflib.get_close_matches(change, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"no setting {change!r}: {hint}")
    return dataclasses.replace(PRESETS[name], **changes)


def split_name(name: str) -> tuple[str, tuple[str | None, str | None, str | None] | None]:
    """A preset, and the numbers of the target that its name goes on with: of weights, of activation bits or rate.

    >>> split_name("paper/resnet50-w15.7-a8"), split_name("paper")
    (('paper/resnet50', ('15.7', '8', None)), ('paper', None))

    Raises ValueError naming the near ones for an unknown name.
    """
    number = r"\d+(?:\.\d+)?"
    found = re.fullmatch(rf"(.+?)-w({number})(?:-a({number})|-acr({number}))?", name)
    base = found[1] if found else name
    if base not in PRESETS:
        near = difflib.get_close_matches(base, PRESETS, n=3, cutoff=0.3) or list(PRESETS)
        raise ValueError(f"no preset {name!r}: did you mean {' or '.join(near)}?")
    return base, found.groups()[1:] if found else None
