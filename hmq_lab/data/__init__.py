"""Data sets: the built-in images, CIFAR10, ImageNet and folders; files without pickle.

>>> from hmq_lab import data
>>> data.load("builtin").train
"""

from hmq_lab.data.datasets import STATISTICS, Data, Folder, Pictures, load

__all__ = ["STATISTICS", "Data", "Folder", "Pictures", "load"]
