"""Networks by name, their weights in files without pickle, float training.

>>> from hmq_lab import models
>>> models.build("tiny_resnet8").fc
Linear(in_features=64, out_features=10, bias=True)
"""

from hmq_lab.models.networks import NETWORKS, CifarResNet, build, names
from hmq_lab.models.weights import SHIPPED, load_weights, save_weights

__all__ = ["NETWORKS", "SHIPPED", "CifarResNet", "build", "load_weights", "names", "save_weights"]
