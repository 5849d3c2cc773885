"""A selection made by hand: the scheme of every tensor of a network, as plain data."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmq_lab.budget import Target
from hmq_lab.data.files import replacing
from hmq_lab.network import blocks, is_attached, placements
from hmq_lab.placement import attach
from hmq_lab.quantizer import Scheme
from hmq_lab.rivals.landscape import best_schemes

FORMAT = "hmq_lab selection 1"


@dataclass(frozen=True)
class Selection:
    """The schemes of a network's tensors, by the names of `hmq_lab.placements`.

    >>> selection = explorers.network(model, batch).selection             # doctest: +SKIP
    >>> chosen = selection.on(model, batch)                               # doctest: +SKIP
    >>> pack(chosen, "packed.safetensors", "mine")                        # doctest: +SKIP
    >>> IntegerNetwork.from_selected(chosen)                              # doctest: +SKIP
    >>> search(model, data, selection)                                    # doctest: +SKIP

    Args:
        schemes: by name; a tensor that is not among them has 8 bits, and the threshold that fits
        them best.
        sizes: elements of every quantized weight of the network, by name.
        hardware: whether the network was looked at in hardware mode, which `IntegerNetwork` needs.
    """

    schemes: Mapping[str, Scheme]
    sizes: Mapping[str, int] = field(default_factory=dict)
    hardware: bool = False

    @property
    def compression(self) -> float:
        """32 bits over the mean bits of an element of the weights."""
        total = sum(self.sizes.values())
        bits = {n: self.schemes[n].bits if n in self.schemes else 8 for n in self.sizes}
        return 32 * total / sum(bits[name] * size for name, size in self.sizes.items())

    @property
    def target(self) -> Target:
        """What a search must reach to be as small as this selection."""
        activations = set()
        for name, scheme in self.schemes.items():
            if name not in self.sizes:
                activations.add(scheme.bits)
        bits = activations.pop() if len(activations) == 1 else 8
        return Target(weights=min(32.0, self.compression), activation_bits=bits)

    def on(self, network: nn.Module, sample: Tensor) -> nn.Module:
        """A copy of the network with blocks that have these schemes, in evaluation mode.

        Args:
            network: as it was looked at, with or without blocks.
            sample: a batch of its inputs (N, C, H, W), from which a network without blocks is
            calibrated.

        Raises:
            ValueError: for a tensor that the network does not have, and a scheme that a block does
            not choose from.
        """
        model = copy.deepcopy(network)
        if not is_attached(model):
            with torch.no_grad():
                attach(model, sample=sample, hardware=self.hardware)
        found = blocks(model)
        if unknown := sorted(self.schemes.keys() - found.keys()):
            raise ValueError(
                f"this network has no quantized tensor {unknown[0]}: "
                "the selection is another network's"
            )
        # What nobody chose gets the most bits and its best threshold.
        kinds = {place.name: place.kind for place in placements(model)}
        for name, block in found.items():
            if kinds[name] != "weight" and name in self.schemes:
                # An activation has one bit-width, which is set.
                block.bits.fill_(self.schemes[name].bits)
            block.fix(self.schemes.get(name) or default_scheme(model, name, kinds[name]))
        return model.eval()

    def write(self, path: Path | str) -> None:
        """Write the selection as JSON.

        Args:
            path: of the file.
        """
        schemes = {n: [s.bits, s.threshold_exponent, s.signed] for n, s in self.schemes.items()}
        content: dict = {"format": FORMAT, "hardware": self.hardware}
        content |= {"sizes": dict(self.sizes), "schemes": schemes}
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path | str) -> Selection:
        """Read what `write` wrote.

        Raises:
            ValueError: naming the file, for one that is no selection.

        Args:
            path: of the file.

        Returns:
            The selection.

        Raises:
            ValueError: the file holds no selection.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(
                    f"its format is {content['format']!r}, this version reads {FORMAT!r}"
                )
            # A scheme checks its own values.
            schemes = {name: Scheme(*values) for name, values in content["schemes"].items()}
            sizes = {str(name): int(size) for name, size in content["sizes"].items()}
            return cls(schemes, sizes, bool(content["hardware"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is no selection: {error}") from error


def default_scheme(model: nn.Module, name: str, kind: str) -> Scheme:
    """The scheme of a tensor that nobody chose: the most bits it can have, the best threshold.

    For an activation, whose values differ from image to image, the largest threshold is the best
    one.

    Args:
        model: attached network.
        name: of the tensor.
        kind: "weight" or "activation".

    Returns:
        The scheme.
    """
    block = blocks(model)[name]
    if kind != "weight":
        return Scheme(int(block.bits.max()), int(block.exponents[0]), block.signed)
    tensor = original(model, name)
    return best_schemes(block, tensor)[int(block.bits.max())]


def original(model: nn.Module, name: str) -> Tensor:
    """The float parameter that a weight's block reads.

    Args:
        model: attached network.
        name: of the weight.

    Returns:
        The parameter.
    """
    path, _, attribute = name.rpartition(".")
    layer: Any = model.get_submodule(path)
    return layer.parametrizations[attribute].original.detach()
