"""What a choice of bits costs: bytes, bit operations, shifts; cycles and energy on a model of an
accelerator.

>>> layers = count(network)                                 # of a selected network, or runs.rebuild(record)
>>> print(table(layers, Accelerator()))
>>> print(table(layers, Accelerator(units=16, bandwidth=32)))     # another machine
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import fx, nn

from hmq_lab.block import HMQ
from hmq_lab.budget import FLOAT_BITS
from hmq_lab.data.tables import columns
from hmq_lab.graph.operations import aten
from hmq_lab.network import attribute_of, blocks, check_attached

WIDTHS = (2, 4, 8, 16)  # that Bit Fusion's units come in


@dataclass(frozen=True)
class Layer:
    """One call of a convolution or linear layer, for one image: elements, bit-widths and
    multiply-accumulates.

    inputs, outputs: elements of the tensors; bits of what is stored, the outputs' after the block
    that follows. float tensors have 32 bits.
    """

    name: str
    macs: int
    weights: int
    weight_bits: int
    inputs: int
    input_bits: int
    outputs: int
    output_bits: int

    @property
    def bit_operations(self) -> int:
        """Multiply-accumulates times the bits of both factors: what a multiplier built of one-bit
        cells does.
        """
        # The additions are not counted.
        return self.macs * self.weight_bits * self.input_bits

    @property
    def weight_bytes(self) -> float:
        return self.weights * self.weight_bits / 8

    @property
    def activation_bytes(self) -> float:
        # Inputs are read, outputs are written.
        return (self.inputs * self.input_bits + self.outputs * self.output_bits) / 8

    @property
    def bytes(self) -> float:
        """Everything once: weights and inputs read, outputs written."""
        return self.weight_bytes + self.activation_bytes

    @property
    def shifts(self) -> int:
        """One for each output that is stored in fewer bits than its accumulator has."""
        # A float output needs no shift.
        return self.outputs if self.output_bits < FLOAT_BITS else 0


@dataclass(frozen=True)
class Accelerator:
    """A model of an accelerator, every number of which can be replaced: Accelerator(units=64,
    bandwidth=16).

    units: multipliers, each of 16 cells of 2 x 2 bits that make one multiplication of 8 x 8 bits a
    cycle, or 4 of 2 x 8, or 16 of 2 x 2; widths are rounded up to one of WIDTHS. Source: Bit
    Fusion, Sharma et al., ISCA 2018.
    bandwidth: bytes that come from memory in a cycle.

    Energy in picojoules, 45 nm, 0.9 V. Source: Horowitz, "Computing's energy problem", ISSCC 2014:
    an 8-bit multiplication 0.2, a 32-bit addition 0.1, a float32 multiplication and addition 3.7 +
    0.9 (float_mac); 64 bits from 1 MB of SRAM 100, from DRAM 1300 to 2600. Read in works that quote
    its table, not in the paper: the arithmetic in three that agree, SRAM of this size and DRAM in
    one. Weights come from DRAM, at 1300, activations from SRAM. Ours, not in the source: a
    multiplication's energy goes with the product of its bits (0.2 for 8 x 8 would be 3.2 for 32 x
    32, where the table has 3.1), and that a transfer's energy goes with its bits.
    """

    units: int = 256
    bandwidth: float = 32.0
    multiply_8x8: float = 0.2
    add_32: float = 0.1
    weight_bit: float = 1300 / 64
    activation_bit: float = 100 / 64
    float_mac: float = 4.6
    widths: tuple[int, ...] = field(default=WIDTHS)

    def __post_init__(self):
        # A machine without units or memory would never end.
        for name in ("units", "bandwidth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        # Energies may be zero, to leave a part out.
        for name in ("multiply_8x8", "add_32", "weight_bit", "activation_bit", "float_mac"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"{name} must be a number of picojoules from 0 on, got {getattr(self, name)!r}"
                )

    def width(self, bits: int) -> int:
        """The width that so many bits take up; more than the widest are done in several rounds of
        it.

        Args:
            bits: of a factor, from 1 on.

        Returns:
            Bits.
        """
        # The narrowest width that holds the bits.
        fitting = [w for w in self.widths if w >= bits]
        return min(fitting) if fitting else max(self.widths) * math.ceil(bits / max(self.widths))

    def macs_per_cycle(self, weight_bits: int, input_bits: int) -> float:
        """At best, by all units together.

        >>> [Accelerator(units=1).macs_per_cycle(w, 8) for w in (1, 2, 3, 4, 8)]
        [4.0, 4.0, 2.0, 2.0, 1.0]

        Args:
            weight_bits: of the weights.
            input_bits: of the activations.

        Returns:
            Multiply-accumulates in one cycle.
        """
        # 64 is 8 x 8: a unit makes one such multiplication a cycle.
        return self.units * 64 / (self.width(weight_bits) * self.width(input_bits))

    def compute_cycles(self, layer: Layer) -> float:
        return layer.macs / self.macs_per_cycle(layer.weight_bits, layer.input_bits)

    def memory_cycles(self, layer: Layer) -> float:
        return layer.bytes / self.bandwidth

    def cycles(self, layer: Layer) -> float:
        """The slower of computing and moving bytes: a roofline.

        Args:
            layer: one call of a layer, for one image.

        Returns:
            Cycles.
        """
        # The machine moves bytes while it computes.
        return max(self.compute_cycles(layer), self.memory_cycles(layer))

    def mac_energy(self, layer: Layer) -> float:
        """Picojoules of the multiply-accumulates.

        Args:
            layer: one call of a layer, for one image.
        """
        # One float factor makes the whole multiplication a float one.
        if FLOAT_BITS in (layer.weight_bits, layer.input_bits):
            return layer.macs * self.float_mac
        # The multiplication goes with its bits; sums have 32 bits.
        return layer.macs * (
            self.multiply_8x8 * layer.weight_bits * layer.input_bits / 64 + self.add_32
        )

    def energy(self, layer: Layer) -> float:
        """Picojoules of multiply-accumulates and memory.

        Args:
            layer: one call of a layer, for one image.
        """
        # Bytes are 8 bits; weights and activations come from other memories.
        memory = 8 * (
            layer.weight_bytes * self.weight_bit + layer.activation_bytes * self.activation_bit
        )
        return self.mac_energy(layer) + memory


def count(model: nn.Module) -> list[Layer]:
    """The layers of an attached network with its present schemes, in the order they run in.

    >>> sum(layer.macs for layer in count(network))

    Args:
        model: an attached network whose blocks have schemes.

    Returns:
        One `Layer` for each call.

    Raises:
        ValueError: for a network without blocks.
    """
    # Schemes are read from the blocks in the graph.
    check_attached(model)
    graph, weights = model.hmq.graph, blocks(model, "weight")

    def block(node: fx.Node) -> HMQ | None:
        return model.get_submodule(node.target) if node.meta.get("kind") == "block" else None

    def read(node: fx.Node) -> int:
        """Bits of the stored tensor that a layer's input is, or comes from by moving it."""
        # Moving a tensor changes no bits.
        while node.meta["kind"] == "pass":
            node = node.args[0]
        return block(node).scheme.bits if block(node) else FLOAT_BITS

    def written(node: fx.Node) -> int:
        """Bits of the first block that the layer's output comes to."""
        # Go along all readers, the nearest ones first.
        seen = [node]
        for at in seen:
            if block(at):
                return block(at).scheme.bits
            seen += [user for user in at.users if user not in seen]
        return FLOAT_BITS

    # One entry for each call, so a shared layer counts every time.
    layers = []
    for node in graph.nodes:
        if (
            aten(node) not in ("conv1d", "conv2d", "conv3d", "linear")
            or node.args[1].op != "get_attr"
        ):
            continue
        # The weight's bits are those of its block, or 32.
        name, source = node.args[1].target, node.args[0]
        weight = attribute_of(model, name)
        bits = weights[name].scheme.bits if name in weights else FLOAT_BITS
        inputs, outputs = _elements(source), _elements(node)
        # Each output is a sum over all inputs of one filter.
        macs = outputs * weight[0].numel()
        layers.append(
            Layer(
                node.meta["name"],
                macs,
                weight.numel(),
                bits,
                inputs,
                read(source),
                outputs,
                written(node),
            )
        )
    return layers


def _elements(node: fx.Node) -> int:
    """Elements of a tensor of the graph for one image."""
    return math.prod(node.meta["shape"])


def in_float(layers: list[Layer]) -> list[Layer]:
    """The same layers with 32 bits everywhere, to compare with.

    Args:
        layers: from `count`.
    """
    return [
        replace(i, weight_bits=FLOAT_BITS, input_bits=FLOAT_BITS, output_bits=FLOAT_BITS)
        for i in layers
    ]


def uniform(layers: list[Layer], bits: int) -> list[Layer]:
    """The same layers with `bits` everywhere but in the network's output.

    Args:
        layers: from `count`.
        bits: of weights and activations.
    """
    # A float output stays float: no block follows it.
    outputs = [FLOAT_BITS if i.output_bits == FLOAT_BITS else bits for i in layers]
    return [
        replace(i, weight_bits=bits, input_bits=bits, output_bits=o)
        for i, o in zip(layers, outputs, strict=True)
    ]


def total(layers: list[Layer], accelerator: Accelerator) -> dict[str, float]:
    """Sums over the layers: macs, weight_bytes, bytes, bit_operations, shifts, cycles, energy in
    microjoules.

    Args:
        layers: from `count`.
        accelerator: the machine.

    Returns:
        Sums by name, for one image.
    """
    # Plain sums first, then what depends on the machine.
    keys = ("macs", "weight_bytes", "bytes", "bit_operations", "shifts")
    sums = {key: sum(getattr(layer, key) for layer in layers) for key in keys}
    sums["cycles"] = sum(map(accelerator.cycles, layers))
    return sums | {"energy_uj": sum(map(accelerator.energy, layers)) / 1e6}


def table(layers: list[Layer], accelerator: Accelerator) -> str:
    """A line for each layer, and the sums beside those of float32.

    Args:
        layers: from `count`.
        accelerator: the machine.

    Returns:
        Text in columns, energy in nanojoules.
    """
    # The header, then a row for each layer.
    rows = [
        (
            "layer",
            "bits w x a",
            "MACs",
            "bytes",
            "bit operations",
            "shifts",
            "cycles",
            "bound by",
            "energy nJ",
        )
    ]
    for layer in layers:
        # The slower side is what bounds the layer.
        memory = accelerator.memory_cycles(layer) > accelerator.compute_cycles(layer)
        rows.append(
            (
                layer.name,
                f"{layer.weight_bits} x {layer.input_bits}",
                f"{layer.macs:,}",
                f"{layer.bytes:,.0f}",
                f"{layer.bit_operations:,}",
                f"{layer.shifts:,}",
                f"{accelerator.cycles(layer):,.0f}",
                "memory" if memory else "compute",
                f"{accelerator.energy(layer) / 1e3:,.1f}",
            )
        )

    # The sums, beside those of 8 bits and of float32.
    sums = total(layers, accelerator)
    for name, s in (("all", sums), ("8 bits", total(uniform(layers, 8), accelerator))):
        rows.append(
            (
                name,
                "",
                f"{s['macs']:,}",
                f"{s['bytes']:,.0f}",
                f"{s['bit_operations']:,}",
                f"{s['shifts']:,}",
                f"{s['cycles']:,.0f}",
                "",
                f"{s['energy_uj'] * 1e3:,.1f}",
            )
        )
    # Float32 needs no shifts.
    plain = total(in_float(layers), accelerator)
    rows.append(
        (
            "float32",
            "32 x 32",
            f"{plain['macs']:,}",
            f"{plain['bytes']:,.0f}",
            "",
            "",
            "",
            "",
            f"{plain['energy_uj'] * 1e3:,.1f}",
        )
    )
    return columns(rows)
