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

from hmq_lab.budget import FLOAT_BITS
from hmq_lab.data.tables import columns
from hmq_lab.graph.operations import LAYERS, aten
from hmq_lab.network import attribute_of, blocks, check_attached

WIDTHS = (2, 4, 8, 16)  # that Bit Fusion's units come in
COLUMNS = (
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
        """Bytes of the layer's weights."""
        return self.weights * self.weight_bits / 8

    @property
    def activation_bytes(self) -> float:
        """Bytes of the input and the output together."""
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
        # The narrowest width that holds the bits, or rounds of the widest.
        fitting = [width for width in self.widths if width >= bits]
        widest = max(self.widths)
        return min(fitting, default=widest * math.ceil(bits / widest))

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
        """Cycles of the multiplications alone.

        Args:
            layer: one call of a layer, for one image.
        """
        return layer.macs / self.macs_per_cycle(layer.weight_bits, layer.input_bits)

    def memory_cycles(self, layer: Layer) -> float:
        """Cycles of moving the layer's bytes alone.

        Args:
            layer: one call of a layer, for one image.
        """
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
        multiply = self.multiply_8x8 * layer.weight_bits * layer.input_bits / 64
        return layer.macs * (multiply + self.add_32)

    def energy(self, layer: Layer) -> float:
        """Picojoules of multiply-accumulates and memory.

        Args:
            layer: one call of a layer, for one image.
        """
        # Bytes are 8 bits; weights and activations come from other memories.
        weights = 8 * layer.weight_bytes * self.weight_bit
        activations = 8 * layer.activation_bytes * self.activation_bit
        return self.mac_energy(layer) + weights + activations


def count(model: nn.Module) -> list[Layer]:
    """The layers of an attached network with its present schemes, in the order they run in.

    >>> from hmq_lab.placement import attach
    >>> network = attach(models.build("tiny_resnet8"), torch.randn(2, 3, 32, 32))
    >>> sum(layer.macs for layer in count(network))
    792896

    Args:
        model: an attached network whose blocks have schemes.

    Returns:
        One `Layer` for each call.

    Raises:
        ValueError: for a network without blocks.
    """
    # Schemes are read from the blocks in the graph.
    attached, weights = check_attached(model), blocks(model, "weight")
    found = blocks(model)

    def bits_of(node: fx.Node) -> int:
        """Bits of a tensor on which a block stands; of any other one 32."""
        is_block = node.meta.get("kind") == "block"
        return found[node.meta["name"]].scheme.bits if is_block else FLOAT_BITS

    def written(node: fx.Node) -> int:
        """Bits of the first block that the layer's output comes to."""
        # Go along all readers, the nearest ones first.
        seen = [node]
        for at in seen:
            if at.meta.get("kind") == "block":
                return bits_of(at)
            seen += [user for user in at.users if user not in seen]
        return FLOAT_BITS

    # One entry for each call, so a shared layer counts every time.
    layers = []
    for node in attached.graph.nodes:
        if aten(node) not in LAYERS:
            continue
        source, weight, *_ = node.all_input_nodes
        if weight.op != "get_attr":
            continue
        # The weight's bits are those of its block, or 32.
        name = str(weight.target)
        values = attribute_of(model, name)
        weight_bits = weights[name].scheme.bits if name in weights else FLOAT_BITS
        # The input is stored as it was before it was moved.
        stored = source
        while stored.meta["kind"] == "pass":
            stored = stored.all_input_nodes[0]
        # Each output is a sum over all inputs of one filter.
        outputs = _elements(node)
        layer = Layer(
            name=node.meta["name"],
            macs=outputs * values[0].numel(),
            weights=values.numel(),
            weight_bits=weight_bits,
            inputs=_elements(source),
            input_bits=bits_of(stored),
            outputs=outputs,
            output_bits=written(node),
        )
        layers.append(layer)
    return layers


def _elements(node: fx.Node) -> int:
    """Elements of a tensor of the graph for one image."""
    return math.prod(node.meta["shape"])


def in_float(layers: list[Layer]) -> list[Layer]:
    """The same layers with 32 bits everywhere, to compare with.

    Args:
        layers: from `count`.
    """
    return uniform(layers, FLOAT_BITS)


def uniform(layers: list[Layer], bits: int) -> list[Layer]:
    """The same layers with `bits` everywhere but in the network's output.

    Args:
        layers: from `count`.
        bits: of weights and activations.
    """
    changed = []
    for layer in layers:
        # A float output stays float: no block follows it.
        output = FLOAT_BITS if layer.output_bits == FLOAT_BITS else bits
        changed.append(replace(layer, weight_bits=bits, input_bits=bits, output_bits=output))
    return changed


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
    rows: list[tuple[str, ...]] = [COLUMNS]
    for layer in layers:
        # The slower side is what bounds the layer.
        memory = accelerator.memory_cycles(layer) > accelerator.compute_cycles(layer)
        bound = "memory" if memory else "compute"
        sums = total([layer], accelerator)
        rows.append(_row(layer.name, f"{layer.weight_bits} x {layer.input_bits}", sums, bound))

    # The sums, beside those of 8 bits and of float32.
    rows.append(_row("all", "", total(layers, accelerator)))
    rows.append(_row("8 bits", "", total(uniform(layers, 8), accelerator)))
    # Of float32 only what does not depend on the units.
    plain = _row("float32", "32 x 32", total(in_float(layers), accelerator))
    rows.append((*plain[:4], *[""] * 4, plain[-1]))
    return columns(rows)


def _row(name: str, bits: str, sums: dict[str, float], bound: str = "") -> tuple[str, ...]:
    """The cells of a line of the table, from what `total` gives."""
    return (
        name,
        bits,
        f"{sums['macs']:,}",
        f"{sums['bytes']:,.0f}",
        f"{sums['bit_operations']:,}",
        f"{sums['shifts']:,}",
        f"{sums['cycles']:,.0f}",
        bound,
        f"{sums['energy_uj'] * 1e3:,.1f}",
    )
