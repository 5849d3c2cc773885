"""Costs counted by hand for a small network; the accelerator's model at points where the answer is known."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmq_lab import Scheme, SearchSpace, attach, models
from hmq_lab.hardware.costs import Accelerator, Layer, count, in_float, table, total
from hmq_lab.placement import blocks
from hmq_lab.runs import records
from hmq_lab.runs.loading import rebuild


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.depthwise, self.head = nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 5)

    def forward(self, x):  # (B, 3, 8, 8)
        x = F.relu(self.bn(self.conv(x)))  # (B, 4, 4, 4)
        x = F.relu(self.depthwise(F.max_pool2d(x, 3, 1, padding=1)))  # (B, 4, 2, 2)
        return self.head(x.mean((2, 3)))


def small(hardware):
    x = torch.randn(2, 3, 8, 8)
    model = attach(Small().eval(), SearchSpace(), x, hardware=hardware, activation_bits=6)
    for block, bits in zip(blocks(model, "weight").values(), (8, 3, 1), strict=True):
        block.fix(Scheme(bits, int(block.exponent), True))
    return model


@pytest.mark.parametrize(("hardware", "picture", "pooled"), [(True, 8, 8), (False, 32, 32)])
def test_counted_by_hand(hardware, picture, pooled):
    conv, depthwise, head = count(small(hardware))
    assert conv == Layer("conv", 4 * 16 * 27, 108, 8, 192, picture, 64, 6)
    assert depthwise == Layer("depthwise", 16 * 9, 36, 3, 64, 6, 16, 6)
    assert head == Layer("head", 20, 20, 1, 4, pooled, 5, 32)
    assert depthwise.bit_operations == 144 * 18
    assert (depthwise.weight_bytes, depthwise.activation_bytes) == (36 * 3 / 8, (64 + 16) * 6 / 8)
    assert (depthwise.shifts, head.shifts) == (16, 0)
    assert [i.weight_bits for i in in_float([conv, head])] == [32, 32]


def test_known_networks():
    """Multiply-accumulates as published: ResNet-20 40.6 million, MobileNetV1 and V2 569 and 300 million."""
    resnet = count(rebuild(records.recorded("cifar10-resnet20-w16-a8")))
    assert sum(i.macs for i in resnet) == pytest.approx(40.6e6, rel=0.01)
    assert sum(i.weights for i in resnet) == 268_336
    record = records.recorded("cifar10-resnet20-w16-a8")
    bits = sum(t["bits"] * t["size"] for t in record.tensors if t["kind"] == "weight")
    assert sum(i.weight_bytes for i in resnet) == bits / 8
    for name, macs in (("mobilenet_v1", 569e6), ("mobilenet_v2", 300e6)):
        model = attach(
            models.build(name, classes=1000).eval(), SearchSpace(), torch.randn(1, 3, 224, 224)
        )
        assert sum(i.macs for i in count(model)) == pytest.approx(macs, rel=0.01)


def test_the_accelerator():
    machine = Accelerator(units=2, bandwidth=4.0)
    assert [machine.macs_per_cycle(w, a) for w, a in ((8, 8), (4, 8), (3, 4), (2, 2), (1, 1), (16, 16), (32, 8))] == [
        2, 4, 8, 32, 32, 0.5, 0.5]  # fmt: skip
    layer = Layer(
        "conv",
        macs=6400,
        weights=100,
        weight_bits=4,
        inputs=64,
        input_bits=8,
        outputs=64,
        output_bits=8,
    )
    assert machine.compute_cycles(layer) == 1600 and machine.memory_cycles(layer) == (50 + 128) / 4
    assert machine.cycles(layer) == 1600
    starved = dataclasses.replace(machine, bandwidth=0.01)
    assert starved.cycles(layer) == starved.memory_cycles(layer) == 17800
    assert machine.mac_energy(layer) == pytest.approx(6400 * (0.2 * 32 / 64 + 0.1))
    assert machine.energy(layer) == pytest.approx(
        6400 * 0.2 + 8 * (50 * 1300 / 64 + 128 * 100 / 64)
    )
    assert machine.mac_energy(in_float([layer])[0]) == pytest.approx(6400 * 4.6)
    free = dataclasses.replace(machine, weight_bit=0.0, activation_bit=0.0)
    assert free.energy(layer) == free.mac_energy(layer)
    assert total([layer, layer], machine)["cycles"] == 3200
    with pytest.raises(ValueError, match="units must be positive, got 0"):
        Accelerator(units=0)
    with pytest.raises(ValueError, match="add_32 must be a number of picojoules from 0 on, got -1"):
        Accelerator(add_32=-1)


def test_fewer_bits_never_cost_more():
    machine = Accelerator()
    layers = [Layer("conv", 10_000, 500, bits, 300, 8, 300, 8) for bits in range(1, 17)]
    for key in (machine.cycles, machine.energy, lambda i: i.bytes, lambda i: i.bit_operations):
        values = [key(layer) for layer in layers]
        assert values == sorted(values)


def test_the_table_and_the_figure():
    layers = count(small(True))
    text = table(layers, Accelerator())
    assert "8 x 8" in text and "3 x 6" in text and "float32" in text
    assert f"{sum(i.macs for i in layers):,}" in text

    pytest.importorskip("matplotlib")
    from hmq_lab.plots.roofline import Costs, roofline

    machine = Accelerator(units=4, bandwidth=2.0)
    drawing = roofline(Costs(layers, machine))
    (ax,) = drawing.axes
    drawn = {
        (x, y)
        for line in ax.lines
        if line.get_marker() not in ("None", None, "")
        for x, y in line.get_xydata()
    }
    assert drawn == {(i.macs / i.bytes, i.macs / machine.cycles(i)) for i in layers}
    waiting = sum(machine.memory_cycles(i) > machine.compute_cycles(i) for i in layers)
    assert f"{waiting} of 3 layers wait for memory" in drawing.sentence
