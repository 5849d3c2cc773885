"""Every number of a search in one place; presets by name; names that hold a target, too.

>>> preset("quick/cifar10", search_epochs=6).search_epochs
6
>>> recipe("quick/cifar10-w14-a4").target
Target(weights=14.0, activations=None, activation_bits=4)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hmq_lab.budget import Target
from hmq_lab.gumbel import Cycles

# The words that some settings take.
LOSSES = ("cross-entropy", "distillation")
CHOICES = {
    "final_schedule": ("constant", "cosine"),
    "precision": ("float32", "bfloat16"),
    "compile": ("auto", "on", "off"),
    "search_loss": LOSSES,
    "final_loss": LOSSES,
    "final_weights": ("searched", "float"),
}


@dataclass(frozen=True)
class Settings:
    """How a search is run. The defaults are the paper's.

    >>> Settings().search_epochs, Settings().gamma
    (30, 32.0)

    Stage 1, the search, trains weights and logits for `search_epochs`. Stage 2, fine-tuning, trains
    the weights under the selected schemes for `final_epochs`. The temperature goes through `cycles`
    equal cycles in stage 1; the target compression has `target_steps` levels, one for each cycle,
    from `first_target` up to the target.

    Args:
        search_epochs: epochs of stage 1.
        final_epochs: epochs of stage 2.
        batch_size: images of a step; several processes share them (the paper: 256 per process).
        network_learning_rate: of the weights in stage 1.
        final_learning_rate: of the weights in stage 2, where it begins.
        final_schedule: of the learning rate in stage 2: "constant", or "cosine", which ends at 0.
        logit_learning_rate: of the logits, in stage 1.
        weight_decay: decoupled; of the network, never of the logits.
        gamma: the factor of the hinge in the loss.
        cycles: of the temperature.
        target_steps: the number of levels of the target compression, one for each cycle. With 1 the
            whole target holds from the beginning, and `first_target` is not used.
        first_target: the first level.
        temperature_decay: decay of the temperature per update; a cycle has 125 updates.
        temperature_floor: the lowest temperature.
        calibration_images: images that set the activations' thresholds; None: all of training.
        augment: vary the training images.
        precision: "float32" or "bfloat16" (autocast; blocks compute in float32 all the same).
        compile: "on", "off", or "auto": with a compiler, and a run long enough to pay for it.
        channels_last: memory layout of the images.
        log_every: steps between two "step" events.
        snapshots: about how often stage 1 records the probabilities of all blocks, as "tables"
            events; see `runs.records.Record`.

    The following are ours, not the paper's. Their defaults switch them off. They make up for the
    paper's long schedule where there is time for a few epochs only.

    Args:
        margin: a fraction; stage 1 aims at target * (1 + margin), because the pull of the hinge
            vanishes as the target comes near.
        refill: give what a selection saves beyond the target to the weights that gain most by it;
            see `budget.repair`.
        search_loss: task loss of stage 1: "cross-entropy" with the labels, or "distillation": the
            distance from the float network's class scores; see `stages.distillation`.
        final_loss: task loss of stage 2.
        distillation_temperature: divides both networks' class scores in the distillation loss.
        final_weights: stage 2 starts from the "searched" weights, which stage 1 has trained, or
            from the "float" ones, without the noise of the search in them.
        renew_statistics: measure batch norm's statistics again once the schemes are selected.

    Raises:
        ValueError: names the setting and what is allowed.

    Source: HMQ, section 4, and the authors' code.
    """

    search_epochs: int = 30
    final_epochs: int = 20
    batch_size: int = 256
    network_learning_rate: float = 1e-5
    final_learning_rate: float = 1e-5
    final_schedule: str = "constant"
    logit_learning_rate: float = 0.01
    weight_decay: float = 1e-4
    gamma: float = 32.0
    cycles: int = 6
    target_steps: int = 4
    first_target: float = 4.0
    temperature_decay: float = 0.01
    temperature_floor: float = 0.5
    calibration_images: int | None = None
    augment: bool = True
    precision: str = "float32"
    compile: str = "auto"
    channels_last: bool = False
    log_every: int = 10
    snapshots: int = 40

    # Ours, not the paper's.
    margin: float = 0.0
    refill: bool = False
    search_loss: str = "cross-entropy"
    final_loss: str = "cross-entropy"
    distillation_temperature: float = 4.0
    final_weights: str = "searched"
    renew_statistics: bool = False

    def __post_init__(self) -> None:
        # Whole numbers, and the least that each may be.
        least = {"search_epochs": 0, "final_epochs": 0, "batch_size": 1, "cycles": 1}
        least |= {"target_steps": 1, "log_every": 1, "snapshots": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if not _is_whole(value) or value < smallest:
                raise ValueError(f"{name} must be a whole number from {smallest} on, got {value!r}")
        count = self.calibration_images
        if count is not None and (not _is_whole(count) or count < 1):
            raise ValueError(
                "calibration_images must be a whole number from 1 on, or None for all, "
                f"got {count!r}"
            )

        # On or off.
        for name in ("augment", "channels_last", "refill", "renew_statistics"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, got {value!r}")

        # Other numbers.
        learning_rates = ("network_learning_rate", "final_learning_rate", "logit_learning_rate")
        for name in (*learning_rates, "weight_decay", "gamma", "margin"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise ValueError(f"{name} must be a number from 0 on, got {value!r}")
        if self.margin > 1:
            raise ValueError(
                f"margin must be a fraction from 0 to 1, as 0.03 for 3 %, got {self.margin!r}"
            )
        softness = self.distillation_temperature
        if not _is_number(softness) or softness <= 0:
            raise ValueError(f"distillation_temperature must be a number above 0, got {softness!r}")
        first = self.first_target
        if not _is_number(first) or not 1 <= first <= 32:
            raise ValueError(f"first_target must be a compression between 1 and 32, got {first!r}")

        # Words.
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

        # Together.
        if self.search_epochs + self.final_epochs == 0:
            raise ValueError("search_epochs and final_epochs must not both be 0")
        self.temperature(1)  # refuses a decay and a floor that are none

    def cycle_steps(self, steps_per_epoch: int) -> int:
        """The steps of one cycle of the temperature."""
        return max(1, round(self.search_epochs * steps_per_epoch / self.cycles))

    def temperature(self, steps_per_epoch: int) -> Cycles:
        """The schedule of the temperature over the steps of stage 1."""
        epochs = max(self.search_epochs, 1) / self.cycles
        return Cycles(steps_per_epoch, epochs, self.temperature_decay, self.temperature_floor)

    def target_at(self, step: int, steps_per_epoch: int, target: float) -> float:
        """The compression to aim at in a step of stage 1.

        >>> [Settings().target_at(epoch * 100, 100, 16.0) for epoch in (0, 5, 10, 15, 29)]
        [4.0, 8.0, 12.0, 16.0, 16.0]
        """
        target *= 1 + self.margin
        # From the first target to the last in equal steps, one for each cycle.
        first, last = min(self.first_target, target), self.target_steps - 1
        if last == 0:
            return target
        done = min(step // self.cycle_steps(steps_per_epoch), last)
        return first + (target - first) * done / last

    def final_learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step of stage 2, which has so many steps."""
        if self.final_schedule == "constant":
            return self.final_learning_rate
        return self.final_learning_rate * (1 + math.cos(math.pi * step / steps)) / 2


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


# ---------------------------------------------------------------------------------- presets


PAPER = Settings()

# The recipe of short searches: ours, not the paper's.
QUICK = Settings(
    final_schedule="cosine",
    cycles=1,
    target_steps=1,
    margin=0.03,
    refill=True,
)

PRESETS = {
    # The paper's, and its networks.
    "paper": PAPER,
    "paper/mobilenet_v1": dataclasses.replace(
        PAPER,
        network_learning_rate=5e-6,
        final_learning_rate=5e-6,
        gamma=64.0,
        logit_learning_rate=0.005,
    ),
    "paper/mobilenet_v2": PAPER,
    "paper/resnet50": PAPER,
    "paper/efficientnet_b0": PAPER,
    # The built-in images: a minute or two.
    "quick/builtin": dataclasses.replace(
        QUICK,
        search_epochs=6,
        final_epochs=8,
        batch_size=64,
        network_learning_rate=1e-3,
        final_learning_rate=1e-3,
        logit_learning_rate=0.05,
        cycles=3,
        target_steps=2,
        calibration_images=1024,
    ),
    # CIFAR10: a quarter of an hour on two cores.
    "quick/cifar10": dataclasses.replace(
        QUICK,
        search_epochs=3,
        final_epochs=5,
        batch_size=128,
        network_learning_rate=1e-3,
        final_learning_rate=3e-3,
        logit_learning_rate=0.05,
        final_loss="distillation",
        final_weights="float",
        renew_statistics=True,
        calibration_images=5120,
        precision="bfloat16",
        log_every=20,
    ),
    # Ten classes of ImageNet, some 1,500 training images.
    "quick/imagenette": dataclasses.replace(
        QUICK,
        search_epochs=4,
        final_epochs=8,
        batch_size=32,
        network_learning_rate=5e-5,
        final_learning_rate=1e-4,
        logit_learning_rate=0.4,
        cycles=2,
        calibration_images=640,
        channels_last=True,
        log_every=5,
    ),
    # Other people's images, a few hundred or thousand: few steps, so long ones.
    "quick/folder": dataclasses.replace(
        QUICK,
        search_epochs=20,
        final_epochs=20,
        batch_size=16,
        network_learning_rate=5e-4,
        final_learning_rate=5e-4,
        logit_learning_rate=0.2,
        cycles=2,
        calibration_images=640,
        log_every=5,
    ),
}
# The logits' learning rate times steps: with less, the logits hardly leave where they begin.
CHOOSING = 25.0


def preset_for(data: str) -> str:
    """The preset that a search on a data set takes where none is named.

    >>> preset_for("cifar10"), preset_for("imagenet"), preset_for("my_pictures")
    ('quick/cifar10', 'paper', 'quick/folder')
    """
    if f"quick/{data}" in PRESETS:
        return f"quick/{data}"
    return "paper" if data == "imagenet" else "quick/folder"


def preset(name: str, **changes: Any) -> Settings:
    """A preset by name, with changes.

    >>> preset("paper", batch_size=64).batch_size
    64

    A target in the name, as in paper/mobilenet_v2-w8-a8, changes no setting: see `recipe`.

    Raises:
        ValueError: an unknown name; names the near ones.
        TypeError: an unknown setting; names the near ones.
    """
    base, _ = split_name(name)
    # A misspelt setting is refused with those that are spelt like it.
    known = [field.name for field in dataclasses.fields(Settings)]
    for change in changes:
        if change not in known:
            near = difflib.get_close_matches(change, known, n=3, cutoff=0.5)
            others = f"there are {', '.join(known)}"
            hint = f"did you mean {' or '.join(near)}?" if near else others
            raise TypeError(f"no setting {change!r}: {hint}")
    return dataclasses.replace(PRESETS[base], **changes)


def as_settings(given: Settings | Mapping[str, Any] | str | None, data: str) -> Settings:
    """Settings from what `search` takes: settings, a preset's name, changes, or nothing.

    >>> as_settings({"final_epochs": 3}, "cifar10") == preset("quick/cifar10", final_epochs=3)
    True
    >>> as_settings({"preset": "paper", "gamma": 8.0}, "cifar10").gamma
    8.0

    Args:
        given: a dict holds changes to the preset it names as "preset", or else to the data set's.
        data: the name of the data set, which has a preset of its own: see `preset_for`.

    Raises:
        TypeError: another type, or an unknown setting.
        ValueError: an unknown preset, or a value that is not allowed.
    """
    # Settings are taken as they are, names looked up, changes made.
    if isinstance(given, Settings):
        return given
    if given is None or isinstance(given, str):
        return preset(given or preset_for(data))
    if isinstance(given, Mapping):
        changes = dict(given)
        return preset(changes.pop("preset", preset_for(data)), **changes)
    kind = type(given).__name__
    raise TypeError(f"settings must be Settings, a preset's name or a dict of changes, got {kind}")


# Settings of earlier versions, as records and checkpoints name them.
RENAMED = {
    "network_rate": "network_learning_rate",
    "final_rate": "final_learning_rate",
    "logit_rate": "logit_learning_rate",
    "temperature_rate": "temperature_decay",
    "calibration_pictures": "calibration_images",
}


def complete(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a record or a checkpoint, as this version names them, none missing.

    >>> complete({"final_rate": 0.001})["final_learning_rate"]
    0.001

    A file that is older than a setting was written by what is the setting's default.
    """
    named = {RENAMED.get(name, name): value for name, value in saved.items()}
    return dataclasses.asdict(Settings()) | named


# ---------------------------------------------------------------------------------- recipes


# The paper's four networks on ImageNet, and targets near those it published an accuracy for.
POINTS = {
    "mobilenet_v1": ("w8-a8", "w10.7-a8", "w14.1-a8"),
    "mobilenet_v2": ("w8-a8", "w8-acr8", "w14.4-a8"),
    "resnet50": ("w9-a8", "w10.9-a8", "w15.7-a8"),
    "efficientnet_b0": ("w4-a8", "w8-a8", "w12-a8", "w14.7-a8"),
}
IMAGENET = tuple(POINTS)


@dataclass(frozen=True)
class Recipe:
    """What a preset's name says; None where it says nothing.

    Args:
        settings: a key of PRESETS.
        target: the compression to reach.
        model: the name of a network.
        data: the name of a data set.
    """

    settings: str
    target: Target | None = None
    model: str | None = None
    data: str | None = None


def recipe(name: str) -> Recipe:
    """What the name of a preset holds: `hmq-lab search --preset paper/mobilenet_v2-w8-a8`.

    >>> recipe("quick/cifar10-w14-a4").target                # any preset takes a target
    Target(weights=14.0, activations=None, activation_bits=4)
    >>> recipe("paper/resnet50").model, recipe("paper").model
    ('resnet50', None)

    -w8: the weights 8 times smaller. -a4: activations of 4 bits; -acr8: the largest activation 8
    times smaller; 8 bits where neither stands. A preset with a network's name is for that network
    on ImageNet; one that ends in /cifar10 is for that data set.

    Raises:
        ValueError: an unknown name (names the near ones), a bad compression, bad bits.
    """
    settings, numbers = split_name(name)
    # The part after the slash is a network of ImageNet's, or a data set.
    model: str | None = settings.removeprefix("paper/")
    data: str | None = "imagenet"
    if model not in POINTS:
        model, data = None, None
    if settings.endswith("/cifar10"):
        data = "cifar10"

    # The target follows, if there is one.
    target = None
    if numbers:
        weights, bits, activations = (float(part) if part else None for part in numbers)
        if bits is not None and bits != int(bits):
            raise ValueError(f"the bits of activations are a whole number, got {name!r}")
        whole_bits = None if bits is None else int(bits)
        target = Target(weights or 0.0, activations, whole_bits)
    return Recipe(settings, target, model, data)


def recipe_names() -> list[str]:
    """The presets, and those with a target near the paper's published results.

    >>> recipe_names()[-1]
    'paper/efficientnet_b0-w14.7-a8'
    """
    published = [f"paper/{model}-{point}" for model, points in POINTS.items() for point in points]
    return [*PRESETS, *published]


def split_name(name: str) -> tuple[str, tuple[str | None, ...] | None]:
    """A preset, and the numbers of the target that its name goes on with.

    >>> split_name("paper/resnet50-w15.7-a8"), split_name("paper")
    (('paper/resnet50', ('15.7', '8', None)), ('paper', None))

    Returns:
        The preset; then the compression of the weights, the bits of the activations and their
        compression, or None for a name without a target.

    Raises:
        ValueError: an unknown name; names the near ones.
    """
    # name-w14-a4 or name-w14-acr8.
    number = r"\d+(?:\.\d+)?"
    found = re.fullmatch(rf"(.+?)-w({number})(?:-a({number})|-acr({number}))?", name)
    base = found[1] if found else name
    if base not in PRESETS:
        near = difflib.get_close_matches(base, PRESETS, n=3, cutoff=0.3) or list(PRESETS)
        raise ValueError(f"no preset {name!r}: did you mean {' or '.join(near)}?")
    return base, found.groups()[1:] if found else None
