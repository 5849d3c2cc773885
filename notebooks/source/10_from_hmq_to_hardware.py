# %% [markdown]
# # From HMQ to hardware
#
# A selected network becomes a program of integer sums and shifts. It gives the logits of the
# simulation bit for bit. Then you break it on purpose, pack it into its real bits, and count what it
# costs.
#
# **Minutes:** 60 (35 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# lesson 01: codes, steps, rounding half to even; what a residual network is
#
# **After this you can**
#
# * fold a batch norm into the layer before it, and say what that does to the weights,
# * read an integer program: the exponent of every tensor, and where a shift replaces a
#   multiplication,
# * say why integers and simulation are equal, and show what breaks this,
# * say how wide an accumulator must be, for any image,
# * say why a compression, the bytes of a file, clock cycles and energy are different things.
#
# The sections up to "Break it on purpose" take about 35 minutes; the rest can be a second session.
# %% tags=["parameters"] quick={"images": 60}
# Parameters: how many test images every comparison runs on, and whose bits the network gets.
images = 1000
recorded = "builtin-tiny_resnet8-w8-a8"
# %%
import tempfile
from pathlib import Path

import numpy as np
import torch

from hmq_lab import SearchSpace, attach, budget, checks, data
from hmq_lab import explorers, models, placements, plots, runs
from hmq_lab.graph.folding import fold
from hmq_lab.hardware import arithmetic as fixedpoint
from hmq_lab.hardware import costs, packing
from hmq_lab.hardware import faults as breaking
from hmq_lab.hardware.integer import IntegerNetwork, compare
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, calibrate
from hmq_lab.plots.lessons import lesson10 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.plots.roofline import Costs, roofline
from hmq_lab.rivals.landscape import best_schemes
from hmq_lab.runs import records

predict = checks.predictions("10")
# %%
builtin = data.load("builtin")
test = builtin.test.subset(range(images))
x, y = next(test.batches(images))


def accuracy(logits):
    return 100 * (logits.argmax(1) == y).double().mean().item()


network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
with torch.no_grad():
    logits = network(x)
print(f"the float network: {accuracy(logits):.2f} % of {images:,} test images are right")
# %% [markdown]
# ## Fold the batch norm
#
# In evaluation a batch norm is a fixed map of each channel, $y = g x + h$. The convolution before it
# is linear. So **folding** moves $g$ into the weights and $h$ into the bias:
#
# $$w' = g\,w \qquad b' = g\,b + h$$
#
# Then the batch norm is gone, and with it one multiplication by a real number for every output.
#
# *Predict:* how many of the test images change their class?
# %%
class_changes = predict("class-changes", "none", "a few", "most", "all")
# %%
modules = [(n, m) for n, m in network.named_modules() if hasattr(m, "weight")]
before = {name: module.weight.detach().clone() for name, module in modules}
pairs = fold(network, x)  # w' = g w
with torch.no_grad():
    folded = network(x)
print("folded:", ", ".join(f"{pair.norm} into {pair.layer}" for pair in pairs))
print(f"accuracy {accuracy(logits):.2f} % before, {accuracy(folded):.2f} % after")
largest = (logits - folded).abs().max()
print(f"largest change of a logit {largest:.1e}, of logits up to {logits.abs().max():.1f}")
count = int((logits.argmax(1) != folded.argmax(1)).sum())
class_changes.result(figures.some_of(count, images))
# %%
after = {pair.layer: network.get_submodule(pair.layer).weight.detach() for pair in pairs}
widest = max(after, key=lambda name: figures.spread(after[name]))
plots.show(figures.channels(before[widest], after[widest], widest))
# %% [markdown]
# Folding changes nothing except rounding errors of floats. But it matters for the quantizer: all
# channels share one threshold and one step, and after folding the channels differ in size. So with
# folded weights the same bits give a larger error. The paper leaves batch norm unfolded and float.
#
# ## What else is float
#
# In the paper's method the image, biases and pooled vectors stay float. In hardware mode,
# `attach(..., hardware=True)`, nothing does: it quantizes the image and each mean to 8 bits. It
# rounds each bias to a multiple of $\Delta_w \Delta_x$, the unit of the sum it is added to. (It
# would fold, too; we did that already.)
#
# For the bits we take what a recorded search chose for this network. That search ran in the paper's
# mode, so its thresholds do not fit the folded weights. So we choose the thresholds again, by least
# squared error as in lesson 02. A whole search in hardware mode is `hmq-lab search --hardware`.
#
# *Predict:* the search fine-tuned the network with its schemes; here it is not fine-tuned. How many
# points of accuracy does it lose, compared with the float network?
# %%
points_lost = predict("points-lost", low=0, high=90)
# %%
record = records.recorded(recorded)
attach(network, SearchSpace(), next(builtin.train.batches(64))[0], hardware=True)
calibrate(network, (some for some, _ in builtin.train.subset(range(1024)).batches(128)))
bits = {t["name"]: t["bits"] for t in record.tensors if t["kind"] == "weight"}
for name, block in blocks(network).items():
    if name in bits:
        layer = network.get_submodule(name.removesuffix(".weight"))
        weight = layer.parametrizations.weight.original
        block.fix(best_schemes(block, weight)[bits[name]])
    else:
        block.fix()
for place in placements(network):
    if "hardware" in (place.kind, *place.reason.split()):
        print(f"{place.name:22s} {place.reason}")
with torch.no_grad():
    simulated = network(x)
print("\nbits:", ", ".join(f"{n.removesuffix('.weight')} {b}" for n, b in bits.items()))
print(f"accuracy {accuracy(simulated):.2f} %, compression {budget.rates(network).weights:.2f}")
print(f"(the recorded run, on the whole test set: {record.results['accuracy']['test']:.2f} %)")
points_lost.result(f"{accuracy(logits) - accuracy(simulated):.1f} points")
# %% [markdown]
# ## The program
#
# `IntegerNetwork` reads this network and writes down what hardware has to do, one line for each
# tensor. Every tensor is integers and one exponent $e$; it stands for integers · $2^e$.
#
# *Predict:* a convolution multiplies codes with the step $2^a$ and weights with the step $2^b$. What
# is the exponent of its sums?
# %%
sum_exponent = predict("sum-exponent", "a + b", "a · b", "the larger of a and b")
# %%
program = IntegerNetwork.from_selected(network)
print(program)
sum_exponent.result("a + b")
# %% [markdown]
# The exponents of the two factors add up; nothing is computed for this. A line with a shift stands
# for a block: it brings the wide sums (their names have "(wide)") back to codes. No line multiplies
# by a real number. "At most" says how large a number can get, for any image.
#
# *Predict:* the simulation computes in floats. On how many images do its logits differ from those of
# the integers?
# %%
integers_differ = predict("integers-differ", "none", "a few", "most", "all")
# %%
found = compare(network, test.batches(100))
for key in (
    "differ_float64",
    "largest_difference_float64",
    "differ_float32",
    "sums_beyond_2_24",
):
    print(f"{key:28s}{found[key]:g}")
print(f"accuracy of the integers {found['accuracy_integer']:.2f} %")
print(f"accuracy of the simulation {found['accuracy_float32']:.2f} %")
differ = max(found["differ_float64"], found["differ_float32"])
integers_differ.result(figures.some_of(int(differ), images))
# %% [markdown]
# Every number in the simulation is an integer times a power of two. A float64 holds such numbers
# exactly up to $2^{53}$, a float32 up to $2^{24}$. As long as no sum is larger, the two are equal bit
# for bit, and the accuracy of the simulation *is* the accuracy of the hardware.
#
# ## A shift instead of a multiplication
#
# Let us do one line by hand: the sums of a layer become codes.
#
# *Predict:* what share of the sums is exactly on a half, so that the rule "half to even" decides, in
# percent?
# %%
on_half = predict("on-half", low=0, high=100)
# %%
values = program.trace(x)
layer = "layer1.0.conv1"
*_, line = breaking.chain(program, layer)
sums, exponent = values[layer]
places = line.exponent - exponent
low, high = line.scheme.integers
print(f"{line.name}: {line.says}; from 2^{exponent} to 2^{line.exponent}")

shifted = fixedpoint.requantize(sums, places, low, high)
exact = sums.double() * 2.0**exponent / line.scheme.step
divided = exact.round().clamp(low, high)  # as the simulation does
print(f"codes that differ: {(shifted != divided).sum()} of {shifted.numel():,}")
halves = (sums & (2**places - 1)) == 2 ** (places - 1)
on_half.result(f"{100 * halves.double().mean().item():.2f} %")


# %% [markdown]
# About one sum in $2^{places}$ is on a half, and the network has thousands of sums for each image. So
# hardware and simulation need the same rule, or they differ.
#
# ## Exercise 1 · The shift that requantizes (medium, 8 minutes)
#
# To **requantize** is to bring sums back to codes. Write `requantize(sums, places, low, high)`: each
# integer of the int64 tensor `sums` divided by 2^places, rounded half to even, clipped to low..high.
# Use only integers: some sums need more bits than a float has. `places` is 0 or more.
# %% tags=["stub"]
def requantize(sums, places, low, high):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `sums >> places` rounds down. What was shifted out is `sums & (2**places - 1)`. Twice that, compared
# with 2^places, says less than half, half, or more. Comparisons of tensors give tensors, which `|`,
# `&` and `+` combine.
# %% tags=["solution"]
def requantize(sums, places, low, high):
    down = sums >> places
    twice = 2 * (sums & (2**places - 1))
    up = (twice > 2**places) | ((twice == 2**places) & (down % 2 == 1))
    return (down + up).clamp(low, high)


# %% tags=["check"]
checks.requantize(requantize)
# %% [markdown]
# ## A residual sum
#
# The two sides of a residual sum have different exponents. In integers, 5 and 3 can only be added
# when both count the same unit.
#
# *Predict:* which side is shifted, and in which direction, if nothing may be lost?
# %%
shifted_side = predict(
    "shifted-side",
    "the larger exponent, to the left",
    "the larger exponent, to the right",
    "the smaller exponent, to the left",
    "the smaller exponent, to the right",
)
# %%
line = next(i for i in program.instructions if i.name == "layer1.0.add")
print(f"{line.name} of {line.inputs[0]} and {line.inputs[1]}: {line.says}")
(a, a_exponent), (b, b_exponent) = (values[name] for name in line.inputs)
at = tuple(int(i) for i in np.unravel_index(int(a[0].abs().argmax()), a[0].shape))
total = values[line.name][0][0][at]
sides = f"{a[0][at]} * 2^{a_exponent} + {b[0][at]} * 2^{b_exponent}"
print(f"at {at}: {sides} = {total} * 2^{line.exponent}")
small_unit = line.exponent == min(a_exponent, b_exponent)
shifted_side.result("the larger exponent, to the left" if small_unit else "another")


# %% [markdown]
# ## Exercise 2 · Align and add (easy, 5 minutes)
#
# Write `aligned_sum(a, a_exponent, b, b_exponent)`. The integers `a` stand for a · 2^a_exponent, `b`
# for b · 2^b_exponent (int64 tensors of one shape; either exponent may be the smaller one). Return the
# integers of the sum in units of 2^min(a_exponent, b_exponent).
# %% tags=["stub"]
def aligned_sum(a, a_exponent, b, b_exponent):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# How many small units are in a large one? That side is shifted to the left. A shift by 0 places
# changes nothing.
# %% tags=["solution"]
def aligned_sum(a, a_exponent, b, b_exponent):
    unit = min(a_exponent, b_exponent)
    return (a << (a_exponent - unit)) + (b << (b_exponent - unit))


# %% tags=["check"]
checks.aligned_sum(aligned_sum)
# %% [markdown]
# ## The accumulator
#
# Products are added up in a register, the **accumulator**. Chips have 32 bits for it, cheap ones 16
# or 24. A wide accumulator is safe, a narrow one is small.
#
# *Predict:* are 16 bits enough for this network, on our images?
# %%
sixteen_enough = predict("sixteen-enough", "yes", "no")
# %%
lines = [i for i in program.instructions if i.is_sum]
seen = [1 + int(values[i.name][0].abs().max()).bit_length() for i in lines]
bound = [1 + i.bound.bit_length() for i in lines]
plots.show(figures.accumulators([i.name for i in lines], seen, bound, images))
sixteen_enough.result("yes" if max(seen) <= 16 else "no")


# %% [markdown]
# The squares come from the weights alone: the sum of $|w|$ times the largest input, plus the bias.
# `IntegerNetwork` checks this bound against int32 when it is made. The bound is safe, and a little
# too large: it takes the magnitudes of all weights together, but inputs that are never negative
# cannot reach both the positive and the negative part at once.
#
# ## Exercise 3 · As narrow as possible (medium, 8 minutes)
#
# Write `accumulator_bits(weight, bias, largest)`: the fewest bits of a two's complement accumulator
# that holds the final sum of every output, for any inputs. `weight`: int64 tensor (outputs, inputs);
# `bias`: (outputs,); each input is a code from 0 to `largest`. (Partial sums do not count: where they
# wrap around, the rest of the sum wraps them back.)
# %% tags=["stub"]
def accumulator_bits(weight, bias, largest):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which inputs make the sum of one output as large as possible? Which make it as small as possible? b
# bits hold -2^(b-1) to 2^(b-1) - 1.
# %% tags=["solution"]
def accumulator_bits(weight, bias, largest):
    high = (weight.clamp(min=0).sum(1) * largest + bias).max()
    low = (weight.clamp(max=0).sum(1) * largest + bias).min()
    width = 1
    while low < -(2 ** (width - 1)) or high > 2 ** (width - 1) - 1:
        width += 1
    return width


# %% tags=["check"]
checks.accumulator_bits(accumulator_bits)
# %% [markdown]
# ## Break it on purpose
#
# To know what equality depends on, break it. First, what does the library refuse? We give it the same
# network, attached in the paper's mode, and a threshold that is no power of two.
# %%
paper = models.build("tiny_resnet8").eval()
attach(paper, SearchSpace(), x[:1])
for block in blocks(paper).values():
    block.fix()
for attempt in (
    lambda: IntegerNetwork.from_selected(paper),
    lambda: fixedpoint.exponent_of(0.7),
):
    try:
        attempt()
    except ValueError as error:
        print("refused:", error)
# %% [markdown]
# Now put faults into the program. It is a list of instructions, so a fault is another list:
#
# * shifts that drop what they shift out, instead of rounding,
# * accumulators of 16 and of 14 bits, which wrap around,
# * one layer, `layer1.0.conv1`, whose weights have a threshold half an octave lower,
#   $2^{-1/2} \cdot t$. Its sums have to be multiplied by $2^{-1/2} / 2^{places}$. We compare this real
#   number with two approximations: a shift alone, and a multiplication by an integer of 8 bits before
#   the shift.
#
# *Predict:* which fault costs the most accuracy?
# %%
names = (
    "shifts that drop",
    "16-bit accumulators",
    "14-bit accumulators",
    "odd threshold, shift alone",
    "odd threshold, 8-bit multiplier",
)
worst_fault = predict("worst-fault", *names)
# %%
real = breaking.threshold(program, network, layer)
broken = (
    (program, breaking.truncation(program)),
    (program, breaking.accumulators(program, 16)),
    (program, breaking.accumulators(program, 14)),
    (real, breaking.threshold(program, network, layer, multiplier=0)),
    (real, breaking.threshold(program, network, layer, multiplier=8)),
)
tensors = [i.name for i in program.instructions if i.scheme is not None]
tensors.append(program.instructions[-1].name)
shares, accuracies, exact = {}, {}, accuracy(program(x)[0])
print(f"{'':34s}accuracy   logits that differ")
print(f"{'exact':34s}{exact:8.2f} %")
for name, (right, wrong) in zip(names, broken):
    found = breaking.parted(right, wrong, x)
    shares[name] = [100 * found[tensor] for tensor in tensors]
    accuracies[name] = accuracy(wrong(x)[0])
    print(f"{name:34s}{accuracies[name]:8.2f} %   {shares[name][-1]:6.1f} %")
print(f"(the odd threshold in real numbers: {accuracy(real(x)[0]):.2f} %)")
plots.show(figures.faults(shares, tensors))
say(*figures.fault_sentences(exact, accuracies, shares))
worst_fault.result(min(accuracies, key=accuracies.get))
# %% [markdown]
# A dropped bit makes a code wrong by one, always in the same direction. A sum that wraps is wrong
# by the whole range. How *many* codes differ and how *much* they differ are two questions. But only
# "no code differs" is easy to test. If a test allows a difference of one here and there, it cannot
# find out whether the hardware has an error or only another rounding rule.
#
# ## Explore: one image, one layer
#
# Three settings worth trying:
#
# 1. *As it opens, with an accumulator of 14 bits; then 16 and 32.* Follow the running sum across the
#    broken line: it comes back in from the other side. With 32 bits, no cross is left in the channel.
# 2. *32 bits; move channel, row and column.* Look at the sum in binary. Left of the bar is what
#    stays, right of it what decides the rounding.
# 3. *Switch "threshold no power of two" on, then give the multiplier 4, 8 and 12 bits.* There are
#    fewer crosses, and the count in the sentence falls. Does it reach 0?
# %%
explorers.integers(network, x[0], layer="conv1", channel=1, register=14)
# %% [markdown]
# ## In its real bits
#
# In the memory of this notebook the weights are float32. `packing.pack` writes their codes with b bits
# each, and everything else in float32.
#
# *Predict:* the compression of the weights is about 8. How many times smaller than float32 is the
# file of this small network?
# %%
file_smaller = predict("file-smaller", low=1, high=16)
# %%
resnet20 = runs.rebuild(records.recorded("cifar10-resnet20-w8-a8"))
written = {}
with tempfile.TemporaryDirectory() as folder:
    for name, packed in (("tiny_resnet8", network), ("resnet20", resnet20)):
        written[name] = packing.pack(packed, Path(folder) / name, name)
        print(f"{name}\n{written[name]}\n")
    again = packing.unpack(Path(folder) / "tiny_resnet8")
with torch.no_grad():
    differ = int((again(x) != simulated).sum())
print(f"logits that differ after unpacking: {differ} of {simulated.numel():,}")
small = written["tiny_resnet8"]
file_smaller.result(f"{small.unpacked / small.file:.1f}")


# %% [markdown]
# A compression says something only about the tensors that it counts. Biases and the names of the
# tensors do not shrink, and they are a larger part of a small file: compare the last percentages of
# the two. (The rebuilt ResNet-20 has the recorded schemes and random weights, which take as many
# bytes.)
#
# ## Exercise 4 · Pack the bits (harder, 10 minutes)
#
# Write `pack(codes, bits)`: a list of signed integers of `bits` bits each as a list of bytes, integers
# from 0 to 255. Use two's complement. The first code goes into the lowest bits of the first byte. The
# next follows without a gap, across the edge of a byte if necessary. Zeros fill the last byte. `bits`
# is 1 to 8.
# %% tags=["stub"]
def pack(codes, bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Python's integers can be as long as you like. Put all codes into one large number, code i at bit
# position bits · i, each masked with `& (2**bits - 1)`. Then take bytes from its low end.
# %% tags=["solution"]
def pack(codes, bits):
    number = 0
    for i, code in enumerate(codes):
        number |= (code & (2**bits - 1)) << (bits * i)
    count = (len(codes) * bits + 7) // 8
    return [(number >> (8 * k)) & 255 for k in range(count)]


# %% tags=["check"]
checks.pack(pack)
# %% [markdown]
# ## ONNX: another program's arithmetic
#
# Others will run the network with their own tools. The ONNX export writes the codes, power-of-two
# scales, and pairs of QuantizeLinear and DequantizeLinear in place of the blocks.
#
# *Predict:* with its optimizations off, on how many images do onnxruntime's logits differ from ours?
# %%
onnx_differ = predict("onnx-differ", "none", "a few", "most", "all")
# %%
try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from hmq_lab.hardware import onnx_export
except ImportError as error:
    print(f"{error.name} is not installed here: pip install hmq_lab[export] brings it")
else:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        graph = onnx_export.export(network, path).graph
        size = path.stat().st_size
        answer = onnx_export.compare(network, path, test.batches(100))
    print(f"{size:,} bytes, {len(graph.node)} nodes; each weight takes a byte there")
    for which, said in (("", "optimizations off"), ("default_", "as it is by default")):
        differ, most = answer[which + "differ"], answer[which + "largest_difference"]
        print(f"onnxruntime, {said}: logits of {differ} images differ, by at most {most:g}")
    onnx_differ.result(figures.some_of(answer["differ"], answer["images"]))
# %% [markdown]
# With optimizations off, onnxruntime computes what the simulation does, and the same argument about
# $2^{24}$ holds. Otherwise it may combine layers into integer kernels of its own, which may scale and
# round in another order; the second line shows what they do.
#
# ## What it costs
#
# Fewer bits are fewer bytes, always. They are fewer **bit operations**, too: a weight of $w$ bits
# times an input of $i$ bits takes $w \cdot i$ products of single bits. Whether they are also fewer
# clock cycles depends on the machine. `costs` counts exactly what can be counted, and applies it to
# a *model* of an accelerator: multipliers made of 2-bit cells (Bit Fusion, ISCA 2018), memory that
# moves a number of bits in each clock cycle, energies from a published table at 45 nm (Horowitz,
# ISSCC 2014).
#
# *Predict:* ResNet-20 with a compression of 16, against 8 bits everywhere. What falls most?
# %%
falls_most = predict("falls-most", "bytes", "bit operations", "cycles", "energy")
# %%
layers = costs.count(runs.rebuild(records.recorded("cifar10-resnet20-w16-a8")))
machine = costs.Accelerator()
mixed = costs.total(layers, machine)
eight = costs.total(costs.uniform(layers, 8), machine)
plain = costs.total(costs.in_float(layers), machine)
print(f"{'':18s}{'mixed':>15s}{'8 bits':>15s}{'ratio':>8s}{'float32':>15s}")
for key in ("macs", "weight_bytes", "bytes", "bit_operations", "cycles", "energy_uj"):
    row = f"{key:18s}{mixed[key]:15,.0f}{eight[key]:15,.0f}{mixed[key] / eight[key]:8.2f}"
    print(row + (f"{plain[key]:15,.0f}" if key not in ("bit_operations", "cycles") else ""))
keys = {"bytes": "bytes", "bit operations": "bit_operations", "cycles": "cycles"}
keys["energy"] = "energy_uj"
falls_most.result(min(keys, key=lambda name: mixed[keys[name]] / eight[keys[name]]))
# %%
plots.show(roofline(Costs(layers, machine)))
# %% [markdown]
# Each mark is a layer. On the slope it waits for bytes, on a level it waits for multipliers. Fewer bits
# of the weights raise the level.
#
# *Predict:* on which of these machines do fewer bits save most cycles?
# %%
machines = {
    "256 units, 32 bytes a cycle": machine,
    "256 units, 4 bytes a cycle": costs.Accelerator(bandwidth=4.0),
    "4096 units, 32 bytes a cycle": costs.Accelerator(units=4096),
    "16 units, 32 bytes a cycle": costs.Accelerator(units=16),
}
best_machine = predict("best-machine", *machines)
# %%
gains = {}
for name, other in machines.items():
    mixed = costs.total(layers, other)["cycles"]
    eight = costs.total(costs.uniform(layers, 8), other)["cycles"]
    gains[name] = eight / mixed
    print(f"{name:30s} {mixed:12,.0f} cycles mixed, {eight:12,.0f} with 8 bits")
say(figures.machine_sentence(gains))
best_machine.result(max(gains, key=gains.get))
# %% [markdown]
# Where the multipliers are the bottleneck, the cycles follow the bits of the weights. Where memory
# is, they follow the bytes, also those of the activations, which stayed at 8 bits. So how much is
# gained by fewer bits depends on the machine.
#
# ## Summary
#
# * Folding a batch norm is exact up to float rounding. But the channels then differ in size, and one
#   threshold serves them all.
# * With power-of-two steps a convolution is integers, and its exponent is a sum of two exponents.
#   Requantizing is a shift with rounding and clipping; a residual sum is a shift to the left and an
#   addition.
# * Simulation and integers are equal bit for bit as long as floats hold every sum. The bound on a sum
#   is known from the weights, before any image.
# * A threshold that is no power of two needs a multiplier and is never exact. An accumulator that is
#   too narrow makes few and large errors, a shift that drops makes many and small ones.
# * The compression of the weights, the bytes of a file, bit operations, cycles and energy are five
#   different numbers.
#
# ## To talk about
#
# * A chip has 16-bit accumulators. Would you let them wrap, let them saturate, or take bits from the
#   weights? How would you prove that it is enough?
# * The paper's own setting has float biases and unfolded batch norm. Where does a chip need real
#   numbers for it? What would you have to say in a paper that claims "integer only"?
# * One threshold for each output channel would undo the harm of folding. Which lines of the program
#   would change?
# * Your accelerator waits for its memory most of the time. Would you rather take bits from weights
#   or from activations, and in which layers?
#
# **In the paper:** the uniform quantizer with power-of-two thresholds is section 3.1, meant for
# hardware. Integer execution, files and costs are not measured there. **Differences:** hardware mode
# folds batch norm, quantizes the image and means to 8 bits and rounds biases; the paper leaves all of
# these float. The range is two's complement.
