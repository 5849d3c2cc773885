"""Random numbers by name: a seed and a few labels give a generator of their own.

>>> import torch
>>> from hmq_lab.seeds import generator
>>> epoch, batch = 3, 17
>>> torch.randint(100, (5,), generator=generator(0, "augment", epoch, batch))  # the same, whenever it is asked for
tensor([49, 98, 69, 56, 92])

One generator handed from step to step makes batch 17 depend on all that was drawn before it, and a run that stops can
go on only if the generator's state was kept. Numbers that depend on their name alone are drawn again instead.
"""

from __future__ import annotations

import hashlib
import json

import torch


def stable_hash(seed: int, *labels: str | int) -> int:
    """A number from 0 to 2^63 - 1 that depends on the seed and the labels alone.

    >>> stable_hash(0, "order", 1) == stable_hash(0, "order", 1)
    True
    >>> stable_hash(0, "order", 1) == stable_hash(0, "order", 2)
    False

    Python's `hash` will not do: that of a string differs from process to process. Raises TypeError for other types.
    """
    if type(seed) is not int or any(type(label) not in (int, str) for label in labels):
        raise TypeError(f"the seed must be an int and its labels int or str, got {(seed, *labels)!r}")
    digest = hashlib.blake2b(json.dumps([seed, *labels]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *labels: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch.Generator, seeded by the hash of a seed and labels.

    >>> torch.randperm(4, generator=generator(0, "order", 1))
    tensor([3, 0, 2, 1])
    """
    return torch.Generator(device).manual_seed(stable_hash(seed, *labels))
