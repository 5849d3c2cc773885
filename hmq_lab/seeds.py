"""Random numbers by name: a seed and a few labels give a generator of their own.

>>> from hmq_lab.seeds import generator
>>> epoch, batch = 3, 17
>>> torch.randint(100, (5,), generator=generator(0, "augment", epoch, batch))
tensor([49, 98, 69, 56, 92])

If one generator were handed from step to step, batch 17 would depend on all that was drawn before
it, and a run could go on after a stop only with the state of the generator. Numbers that depend on
their name alone are drawn again instead.
"""

from __future__ import annotations

import hashlib
import json

import torch

from hmq_lab.quantizer import shown


def stable_hash(seed: int, *labels: str | int) -> int:
    """A number from 0 to 2^63 - 1 that depends on the seed and the labels alone.

    >>> stable_hash(0, "order", 1) == stable_hash(0, "order", 1)
    True
    >>> stable_hash(0, "order", 1) == stable_hash(0, "order", 2)
    False

    It is the same in every process and on every machine. Python's `hash` is not: that of a string
    differs from process to process.

    Args:
        seed: any integer.
        labels: integers and strings, as the name of what is drawn and the number of a step.

    Raises:
        TypeError: the seed or a label has another type.
    """
    # True is an int to isinstance, and 1 to JSON it is not.
    if type(seed) is not int or any(type(label) not in (int, str) for label in labels):
        given = ", ".join(map(shown, (seed, *labels)))
        raise TypeError(f"the seed must be an int and its labels int or str, got {given}")
    # JSON tells 1 from "1", and ("a", "b") from ("ab",).
    name = json.dumps([seed, *labels]).encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    # 63 bits: a seed of torch has to fit into a signed integer.
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *labels: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new torch.Generator whose seed is `stable_hash(seed, *labels)`.

    >>> torch.randperm(4, generator=generator(0, "order", 1))
    tensor([3, 0, 2, 1])

    Args:
        seed, labels: see `stable_hash`.
        device: where the generator draws. Other devices draw other numbers from the same seed.
    """
    return torch.Generator(device).manual_seed(stable_hash(seed, *labels))
