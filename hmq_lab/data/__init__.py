"""Data sets: the built-in images, CIFAR10, ImageNet and folders; files without pickle.

>>> from hmq_lab import data
>>> data.load("builtin").train
"""

from hmq_lab.data.datasets import CIFAR10, STATISTICS, Data, Folder, Pictures, load, sizes

__all__ = ["CIFAR10", "STATISTICS", "Data", "Folder", "Pictures", "load", "sizes"]
