"""Networks by name, their weights in files without pickle, float training.

>>> from hmq_lab import models
>>> models.build("tiny_resnet8").linear
Linear(in_features=32, out_features=10, bias=True)
"""

from hmq_lab.models.networks import (
    NETWORKS,
    CifarResNet,
    MobileNetV1,
    build,
    is_for_small_images,
    names,
)
from hmq_lab.models.weights import SHIPPED, load_weights, save_weights

__all__ = [
    "NETWORKS",
    "SHIPPED",
    "CifarResNet",
    "MobileNetV1",
    "build",
    "is_for_small_images",
    "load_weights",
    "names",
    "save_weights",
]
