"""Weights in their real bit-widths in one file, and back, exactly.

>>> sizes = pack(network, "packed.safetensors", "resnet20")
>>> sizes.file, sizes.counted
>>> network = unpack("packed.safetensors")                  # the same logits, bit for bit
>>> network = unpack("own.safetensors", network=Net())      # of your own module, built as it was before the search

The file is safetensors: "weights" holds the codes of all quantized weights, b bits each, two's
complement, the lowest bit first, each tensor from a new byte on, in the order of the header;
"floats" the other parameters and buffers in float32, in the order of the state dict. The header
says the model and the scheme of every tensor: "conv1 8s<2" among the weights is conv1.weight, 8
bits, signed, below 2^2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from hmq_lab import budget, models
from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.budget import original
from hmq_lab.data.files import check_fields, check_image_shape, read_tensors, write_tensors
from hmq_lab.models.rebuilding import build, fresh
from hmq_lab.network import BiasRounding, check_attached, fixed_blocks, placements
from hmq_lab.placement import detach
from hmq_lab.quantizer import Scheme, codes

FORMAT = "hmq_lab packed 1"
FIELDS = {
    "model": str,
    "classes": int,
    "picture": list,
    "hardware": bool,
    "weights": str,
    "activations": str,
}


@dataclass(frozen=True)
class Sizes:
    """Bytes of a packed network, beside the compression of its weights (WCR).

    file: of the file. weights: of the quantized weights, each bit counted once. floats: of what
    stays float32.
    unpacked: of the same parameters and buffers in float32.
    """

    file: int
    weights: float
    floats: int
    unpacked: int
    rate: float

    @property
    def counted(self) -> float:
        """What the file has to hold: weights and floats; names, schemes and padding are on top."""
        return self.weights + self.floats

    def __str__(self):
        # What names, schemes and padding add, also in percent.
        extra = self.file - self.counted
        percent = 100 * extra / self.counted
        smaller = self.unpacked / self.file
        parts = f"weights {self.weights:,.0f}, the rest in float32 {self.floats:,}"
        return (
            f"{self.file:,} bytes: {parts}, names and schemes {extra:,.0f} (+{percent:.2f} %)\n"
            f"{smaller:.2f} times smaller than {self.unpacked:,} bytes of float32; "
            f"weights alone (WCR) {self.rate:.2f}"
        )


def pack(network: nn.Module, path: Path | str, name: str) -> Sizes:
    """Write an attached network with fixed schemes; `name` is what `models.build` knows it by, or
    any of your own.

    Args:
        network: attached, every scheme fixed, in float32.
        path: of the file to write.
        name: for the header.

    Returns:
        The sizes of the file and its parts, in bytes.

    Raises:
        ValueError: for a network whose schemes are not fixed, and for one that is not in float32:
            the file is.
    """
    # Everything that is not quantized is written as float32.
    for tensor, value in network.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            # The error has the tensor's own name.
            plain = re.sub(r"parametrizations\.(\w+)\.original$", r"\1", tensor)
            why = "a packed network is torch.float32: network.float() first"
            raise ValueError(f"{plain} is {value.dtype}; {why}")
    # A file holds one scheme for each tensor.
    attached, found = check_attached(network), fixed_blocks(network)
    places = {place.name: place for place in placements(network)}
    output = attached.output

    # The codes of each weight, and the scheme of every tensor as text.
    streams, bits, elements = [], 0, 0
    weights, activations = [], []
    for tensor, block in found.items():
        scheme = block.scheme
        # Most weights end with ".weight", which the header leaves out.
        entry = f"{tensor.removesuffix('.weight')} {_text(scheme)}"
        if places[tensor].kind != "weight":
            activations.append(entry)
            continue
        weights.append(entry)
        streams.append(pack_bits(codes(original(network, tensor), scheme), scheme.bits))
        bits += scheme.bits * places[tensor].size
        elements += places[tensor].size

    # The header says all that is needed to build the network again.
    header = {
        "format": FORMAT,
        "model": name,
        "classes": output.meta["shape"][-1],
        "picture": list(attached.image),
        "hardware": any(place.kind == "hardware" for place in places.values()),
        "weights": ",".join(weights),
        "activations": ",".join(activations),
    }
    # Two tensors hold all numbers.
    floats = [tensor.detach().float().flatten().cpu() for tensor in _floats(network)]
    tensors = {"weights": torch.cat(streams), "floats": torch.cat([*floats, torch.zeros(0)])}
    write_tensors(path, tensors, header)

    # Sizes in bytes, also of the same network in float32.
    rest = 4 * len(tensors["floats"])
    return Sizes(
        file=Path(path).stat().st_size,
        weights=bits / 8,
        floats=rest,
        unpacked=4 * elements + rest,
        rate=budget.rates(network).weights,
    )


def unpack(path: Path | str, network: nn.Module | None = None) -> nn.Module:
    """The network of a packed file, in evaluation mode, its blocks on it and its weights quantized
    already.

    >>> unpack("packed.safetensors")(images)

    Args:
        path: of the packed file.
        network: for a packed module of your own, that module, built as it was before the search:
            the blocks go on it and the file's weights into it. None, the default, builds the one of
            `models` that the file names.

    Returns:
        The network.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is truncated, altered, or no packed network, and for a network
            that does not fit, as far as names of tensors and numbers of elements tell; it is left
            without blocks.
    """
    # Check the file before anything is built.
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT:
        found = header.get("format")
        raise ValueError(f"{path} holds no packed network: its format is {found!r}, not {FORMAT!r}")
    check_fields(header, FIELDS, path)
    check_image_shape(header["picture"], path)
    dimensions = {name: tensor.dim() for name, tensor in tensors.items()}
    check_fields(dimensions, {"weights": int, "floats": int}, path)

    # A network of one's own has to be given: its code is not in the file.
    name = header["model"] if network is None else type(network).__name__
    if network is None:
        if name not in models.names():
            how = "give it as network=, as it was built"
            raise ValueError(f"{path} holds your own module {name}: {how}")
        network = fresh(name, header["classes"])
    # The schemes of weights and activations, by name.
    short = _schemes(header["weights"])
    weights = {_full(key, network): scheme for key, scheme in short.items()}
    schemes = weights | _schemes(header["activations"])
    bits = {scheme.bits for scheme in weights.values()}
    largest = {key: scheme.threshold_exponent for key, scheme in schemes.items()}
    # Put the blocks on, with one threshold each.
    space = SearchSpace(tuple(bits), 1)
    build(network, header["picture"], schemes, space, largest, header["hardware"])

    # The file's tensors have to be as long as the network's.
    sizes = {key: original(network, key).numel() for key in weights}
    lengths = {key: -(-scheme.bits * sizes[key] // 8) for key, scheme in weights.items()}
    held = len(tensors["weights"]), len(tensors["floats"])
    needed = sum(lengths.values()), sum(tensor.numel() for tensor in _floats(network))
    if held != needed:
        detach(network)
        raise ValueError(
            f"{path} holds other tensors than {name} has: {held[0]:,} bytes of weights and "
            f"{held[1]:,} floats there, {needed[0]:,} and {needed[1]:,} here"
        )

    # Codes times step are the weights; each tensor begins at a new byte.
    streams = tensors["weights"].split([*lengths.values()])
    floats = _floats(network)
    parts = tensors["floats"].split([tensor.numel() for tensor in floats])
    with torch.no_grad():
        for (key, scheme), stream in zip(weights.items(), streams, strict=True):
            weight = original(network, key)
            integers = unpack_bits(stream, scheme.bits, sizes[key])
            weight.copy_(integers.view(weight.shape) * scheme.step)
        # The floats follow in the order of the state dict.
        for tensor, part in zip(floats, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
    return network


def unpack_weights(path: Path | str, out: Path | str) -> None:
    """Write a packed file's weights as an ordinary float safetensors file, without blocks.

    Args:
        path: of the packed file.
        out: of the file to write.
    """
    # Detaching leaves the quantized values as ordinary weights.
    network = unpack(path)
    write_tensors(out, detach(network).state_dict(), {"unpacked from": Path(path).name})


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Integers as a stream of `bits` bits each, 1 to 16, two's complement, lowest bit first: uint8.

    >>> pack_bits(torch.tensor([1, -1, 0, -2]), 2)               # 01, 11, 00, 10
    tensor([141], dtype=torch.uint8)

    Args:
        codes: integers of any shape.
        bits: of each number.

    Returns:
        A flat stream; the last byte is filled up with zeros.
    """
    # Negative integers wrap: two's complement.
    words = codes.detach().cpu().numpy().reshape(-1, 1).astype(np.uint16)
    matrix = words >> np.arange(bits, dtype=np.uint16) & 1  # (elements, bits)
    stream = np.packbits(matrix.astype(np.uint8), bitorder="little")
    return torch.from_numpy(stream)


def unpack_bits(stream: Tensor, bits: int, count: int) -> Tensor:
    """The signed integers of `pack_bits`, int64.

    >>> unpack_bits(torch.tensor([141], dtype=torch.uint8), 2, 4)
    tensor([ 1, -1,  0, -2])

    Args:
        stream: uint8, flat.
        bits: of each number.
        count: of numbers.

    Returns:
        (count,) int64.
    """
    # One row of bits for each number.
    flat = np.unpackbits(stream.numpy(), count=bits * count, bitorder="little")
    matrix = flat.reshape(count, bits)
    # The highest bit counts negative: two's complement.
    place_values = 2 ** np.arange(bits)
    place_values[-1] *= -1
    return torch.from_numpy(matrix.astype(np.int64) @ place_values)


def _floats(network: nn.Module) -> list[Tensor]:
    """What is not a quantized weight: biases, norms and their statistics; the tensors
    themselves.
    """
    # Walk through the modules in the order of the state dict.
    found = []
    for path, module in network.named_modules():
        # The blocks of activations; a module of one's own may be called hmq_head.
        if path.split(".")[0] == "hmq":
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        # Neither a block nor the weight it quantizes.
        is_quantized = isinstance(module, ParametrizationList) and isinstance(module[-1], HMQ)
        if is_quantized or isinstance(module, HMQ | BiasRounding):
            continue
        found += [tensor for name, tensor in own if name != "num_batches_tracked"]
    return found


def _text(scheme: Scheme) -> str:
    return f"{scheme.bits}{'s' if scheme.signed else 'u'}<{scheme.threshold_exponent}"


def _full(name: str, network: nn.Module) -> str:
    """A weight's name from its short one: that of a layer is its `weight`, all others are whole."""
    is_module = isinstance(network, nn.Module)
    parameters = dict(network.named_parameters(remove_duplicate=False)) if is_module else {}
    return name if name in parameters else f"{name}.weight"


def _schemes(text: str) -> dict[str, Scheme]:
    """{tensor: scheme} of "conv1 8s<2,..."."""
    # An entry is a name, bits, a sign and an exponent.
    found = {}
    # A network of one layer has no activation that is quantized.
    for entry in text.split(",") if text else ():
        # The name may hold spaces: the last word is the scheme.
        match = re.fullmatch(r"(.+) (\d+)([su])<(-?\d+)", entry)
        if not match:
            raise ValueError(f"a scheme is written as 'conv1 8s<2', got {entry!r}")
        found[match[1]] = Scheme(int(match[2]), int(match[4]), match[3] == "s")
    return found
