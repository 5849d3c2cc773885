"""Data sets: built-in images, CIFAR10, ImageNet, folders, torch data sets; files without pickle.

>>> from hmq_lab import data
>>> data.load("builtin").train
Images(mean=(0.5, 0.5, 0.5), std=(0.28, 0.28, 0.28), augmentation='crop_flip')
"""

from hmq_lab.data.datasets import (
    CIFAR10,
    NAMES,
    STATISTICS,
    Data,
    Folder,
    Images,
    Items,
    Split,
    load,
    sizes,
)

__all__ = [
    "CIFAR10",
    "NAMES",
    "STATISTICS",
    "Data",
    "Folder",
    "Images",
    "Items",
    "Split",
    "load",
    "sizes",
]
