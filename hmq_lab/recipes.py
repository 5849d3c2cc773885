"""A network, its data, a target and settings under one name: `hmq-lab search --preset paper/mobilenet_v2-w8-a8`.

>>> from hmq_lab import recipes
>>> recipes.recipe("paper/mobilenet_v2-w8-acr8")
Recipe(settings='paper/mobilenet_v2', target=Target(weights=8.0, activations=8.0, ...), model='mobilenet_v2', ...)
"""

from __future__ import annotations

from dataclasses import dataclass

from hmq_lab.budget import Target
from hmq_lab.settings import PRESETS, split_name

IMAGENET = ("mobilenet_v1", "mobilenet_v2", "resnet50", "efficientnet_b0")  # the paper's four networks
POINTS = {  # targets near the rates that the paper published a top-1 accuracy for
    "mobilenet_v1": ("w8-a8", "w10.7-a8", "w14.1-a8"),
    "mobilenet_v2": ("w8-a8", "w8-acr8", "w14.4-a8"),
    "resnet50": ("w9-a8", "w10.9-a8", "w15.7-a8"),
    "efficientnet_b0": ("w4-a8", "w8-a8", "w12-a8", "w14.7-a8"),
}


@dataclass(frozen=True)
class Recipe:
    """What a preset's name says beyond its settings; None where it says nothing."""

    settings: str  # a key of PRESETS
    target: Target | None = None
    model: str | None = None
    data: str | None = None


def recipe(name: str) -> Recipe:
    """What the name of a preset holds.

    >>> recipe("quick/cifar10-w14-a4").target                # any preset takes a target, any rate
    Target(weights=14.0, activations=None, activation_bits=4)
    >>> recipe("paper/resnet50").model, recipe("paper").model
    ('resnet50', None)

    -w8: the weights 8 times smaller. -a4: activations of 4 bits, -acr8: the largest activation 8 times smaller; 8 bits
    where neither stands. A preset with a network's name is for that network on ImageNet, one with
    the name of a data set is for that. Raises ValueError naming the
    near ones for an unknown name, and for rates and bits that are none.
    """
    settings, target = split_name(name)
    model = settings.removeprefix("paper/")
    known = {"model": model, "data": "imagenet"} if model in IMAGENET else {}
    if settings.endswith("/cifar10"):
        known = {"data": "cifar10"}
    if target:
        weights, bits, rate = (None if part is None else float(part) for part in target)
        if bits is not None and bits != int(bits):
            raise ValueError(f"the bits of activations are a whole number, got {name!r}")
        known["target"] = Target(weights, rate, None if bits is None else int(bits))
    return Recipe(settings, **known)


def names() -> list[str]:
    """The presets, and those with a target near the paper's published results."""
    return [*PRESETS, *(f"paper/{model}-{point}" for model, points in POINTS.items() for point in points)]
