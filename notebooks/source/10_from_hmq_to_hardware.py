# %% [markdown]
# # From HMQ to hardware
#
# A selected network becomes a program of integer sums and shifts that gives the simulation's logits bit for bit; then
# you break it on purpose, pack it into its real bits, and count what it costs.
#
# **Minutes:** 50 (25 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** lesson 01:
# codes, steps, rounding half to even; what a residual network is
#
# **After this you can**
#
# * fold a batch norm into the layer before it, and say what that does to the weights,
# * read an integer program: which exponent every tensor has, and where a shift takes the place of a multiplication,
# * say what makes integers and simulation equal, and show what breaks it,
# * tell how wide an accumulator must be, whatever the picture,
# * tell a compression rate from the bytes of a file, and bytes from cycles and energy.
# %% tags=["parameters"] quick={"pictures": 60}
# Parameters: how many test pictures every comparison runs on, and whose bits the network gets.
pictures = 1000
recorded = "builtin-tiny_resnet8-w8-a8"
# %%
import tempfile
from pathlib import Path

import numpy as np
import seaborn as sns
import torch

from hmq_lab import SearchSpace, attach, budget, checks, data, explorers, models, placements, plots, runs
from hmq_lab.hardware import arithmetic as fixedpoint
from hmq_lab.hardware import costs, packing
from hmq_lab.hardware import faults as breaking
from hmq_lab.hardware.folding import fold
from hmq_lab.hardware.integer import IntegerNetwork, compare
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, calibrate
from hmq_lab.rivals.landscape import best_schemes
from hmq_lab.runs import records

builtin = data.load("builtin")
test = builtin.test.subset(range(pictures))
x, y = next(test.batches(pictures))


def accuracy(logits):
    return 100 * (logits.argmax(1) == y).double().mean().item()


network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
with torch.no_grad():
    logits = network(x)
print(f"the float network: {accuracy(logits):.2f} % of {pictures:,} test pictures")
# %% [markdown]
# ## Fold the batch norm
#
# In evaluation a batch norm is a fixed map of each channel, y = g · x + h. The convolution before it is linear, so g
# can go into its weights and h into its bias: w' = g · w. The batch norm is gone, and with it a multiplication by a
# real number for every output.
#
# *Predict:* how many of the pictures change their class? And what happens to the largest weight of each channel?
# %%
before = {name: module.weight.detach().clone() for name, module in network.named_modules() if hasattr(module, "weight")}
pairs = fold(network)
with torch.no_grad():
    folded = network(x)
print("folded:", ", ".join(f"{pair.norm} into {pair.layer}" for pair in pairs))
print(f"accuracy {accuracy(logits):.2f} % before, {accuracy(folded):.2f} % after")
print(f"classes changed: {(logits.argmax(1) != folded.argmax(1)).sum()}; largest change of a logit "
      f"{(logits - folded).abs().max():.1e}, of logits up to {logits.abs().max():.1f}")  # fmt: skip


# %%
def reach(weight):
    """The largest magnitude in each output channel."""
    return weight.detach().abs().flatten(1).amax(1)


def spread(weight):
    """How much farther the largest channel reaches than the smallest."""
    return (reach(weight).max() / reach(weight).min()).item()


after = {pair.layer: network.get_submodule(pair.layer).weight.detach() for pair in pairs}
widest = max(after, key=lambda name: spread(after[name]))
drawing, axes = plots.canvas(1, 2, height=3.2)
for ax, weight, title in zip(axes, (before[widest], after[widest]), ("before folding", "after folding")):
    sns.boxplot([w.flatten().numpy() for w in weight], ax=ax, color=plots.PALE, linecolor=plots.INK, fliersize=2)
    limit = reach(weight).max()
    ax.axhspan(-limit / 8, limit / 8, color=plots.ORANGE, alpha=0.3, lw=0)
    ax.set(title=f"{widest}, {title}", xlabel="output channel", ylabel="weights")
    ax.set_xticks(range(0, len(weight), max(1, len(weight) // 8)), range(0, len(weight), max(1, len(weight) // 8)))
inside = (reach(after[widest]) < limit / 8).sum()
plots.show(
    drawing,
    f"In {widest} the largest channel reaches {spread(before[widest]):.1f} times as far as the smallest before "
    f"folding, and {spread(after[widest]):.3g} times after it. The band is an eighth of the largest weight to either "
    f"side: after folding {inside} of {len(reach(after[widest]))} channels lie within it altogether.",
)
# %% [markdown]
# Folding changes nothing but rounding errors of floats. For the quantizer it does change something: one threshold and
# one step serve all channels, and after folding the channels are of different size. That is the price of hardware
# mode in the bits of weights; the paper leaves batch norm unfolded and float.
#
# ## What else is float
#
# In the paper's method the picture, biases and pooled vectors stay float. `attach(..., hardware=True)` quantizes the
# picture and each mean to 8 bits and rounds each bias to a multiple of step_w · step_x, the unit of the sum it is
# added to. (It would fold, too; we did that already.)
#
# For the bits we take what a recorded search chose for this network. That search was in the paper's mode, so its
# thresholds do not fit the folded weights: we choose them again, by the least squared error of lesson 02. A whole
# search in hardware mode is `hmq-lab search --hardware`.
#
# *Predict:* the search fine-tuned the network with its schemes. How much accuracy is lost here, without that?
# %%
record = records.recorded(recorded)
attach(network, SearchSpace(), next(builtin.train.batches(64))[0], hardware=True)
calibrate(network, (some for some, _ in builtin.train.subset(range(1024)).batches(128)))
bits = {t["name"]: t["bits"] for t in record.tensors if t["kind"] == "weight"}
for name, block in blocks(network).items():
    if name in bits:
        weight = network.get_submodule(name.removesuffix(".weight")).parametrizations.weight.original
        block.fix(best_schemes(block, weight)[bits[name]])
    else:
        block.fix()
for place in placements(network):
    if "hardware" in (place.kind, *place.reason.split()):
        print(f"{place.name:22s} {place.reason}")
with torch.no_grad():
    simulated = network(x)
print("\nbits:", ", ".join(f"{name.removesuffix('.weight')} {b}" for name, b in bits.items()))
print(f"accuracy {accuracy(simulated):.2f} %, weights {budget.rates(network).weights:.2f} times smaller")
print(f"(the recorded run, on all of the test set: {record.results['accuracy']['test']:.2f} %)")
# %% [markdown]
# ## The program
#
# `IntegerNetwork` reads this network and writes down what hardware has to do, a line for each tensor. Every tensor is
# integers and one exponent e; it stands for integers · 2^e.
#
# *Predict:* a convolution multiplies codes of step 2^a and weights of step 2^b. What is the exponent of its sums?
# %%
program = IntegerNetwork.from_selected(network)
print(program)
# %% [markdown]
# The exponents of a convolution's two factors add up; nothing is computed for it. A line that shifts is where a block
# stands: it brings the wide sums (the name has "(wide)") back to codes. No line multiplies by a real number, and "at
# most" says how large a number can get whatever the picture shows: that is known before the first one comes.
#
# *Predict:* the simulation computes in floats. On how many pictures do its logits differ from the integers', in
# float64 and in float32?
# %%
found = compare(network, test.batches(100))
for key in ("pictures", "differ_float64", "largest_difference_float64", "differ_float32", "sums_beyond_2_24"):
    print(f"{key:28s}{found[key]:g}")
print(
    f"accuracy of the integers {found['accuracy_integer']:.2f} %, of the simulation {found['accuracy_float32']:.2f} %"
)
# %% [markdown]
# On none, not even in the last bit. This is not luck. Every number in the simulation is an integer times a power of
# two; a float64 holds such numbers exactly up to 2^53, a float32 up to 2^24, and no sum is beyond that. So the
# accuracy you measure in the simulation *is* the hardware's.
#
# ## A shift instead of a multiplication
#
# Let us do one line by hand: the sums of a layer become codes.
#
# *Predict:* what share of the sums lies exactly on a half, so that the rule "half to even" decides?
# %%
values = program.trace(x)
layer = "layer1.0.conv1"
*_, line = breaking.chain(program, layer)
sums, exponent = values[layer]
places = line.exponent - exponent
low, high = line.scheme.integers
print(f"{line.name}: {line.operation}; from 2^{exponent} to 2^{line.exponent}")

shifted = fixedpoint.requantize(sums, places, low, high)
divided = (sums.double() * 2.0**exponent / line.scheme.step).round().clamp(low, high)  # as the simulation does
print(f"codes that differ between shift and division: {(shifted != divided).sum()} of {shifted.numel():,}")
halves = (sums & (2**places - 1)) == 2 ** (places - 1)
print(f"sums exactly on a half: {halves.sum():,} of {sums.numel():,}, {halves.double().mean():.2%}")


# %% [markdown]
# A half occurs about once in 2^places sums, and the network has thousands of sums for each picture. One rule for both
# sides, or the bits part.
#
# ## Exercise 1 · The shift that requantizes (medium, 8 minutes)
#
# Write `requantize(sums, places, low, high)`: each integer of the int64 tensor `sums` divided by 2^places, rounded
# half to even, clipped to low..high. Integers alone: some sums need more bits than a float has. `places` is 0 or
# more.
# %% tags=["stub"]
def requantize(sums, places, low, high):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `sums >> places` rounds down. What was shifted out is `sums & (2**places - 1)`; twice that, compared with 2^places,
# says less than half, half, or more. Comparisons of tensors give tensors, which `|`, `&` and `+` combine.
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
# The two sides of a residual sum come with different exponents. In floats one just adds. In integers 5 and 3 mean
# nothing until both count the same unit.
#
# *Predict:* which side is shifted, and in which direction, if nothing may be lost?
# %%
line = next(i for i in program.instructions if i.name == "layer1.0.add")
print(f"{line.name} of {line.inputs[0]} and {line.inputs[1]}: {line.operation}")
(a, a_exponent), (b, b_exponent) = (values[name] for name in line.inputs)
at = tuple(int(i) for i in np.unravel_index(int(a[0].abs().argmax()), a[0].shape))
total = values[line.name][0][0][at]
print(f"at {at}: {a[0][at]} * 2^{a_exponent} + {b[0][at]} * 2^{b_exponent} = {total} * 2^{line.exponent}")


# %% [markdown]
# ## Exercise 2 · Align and add (easy, 5 minutes)
#
# Write `aligned_sum(a, a_exponent, b, b_exponent)`: the integers `a` stand for a · 2^a_exponent, `b` for b ·
# 2^b_exponent (int64 tensors of one shape; either exponent may be the smaller). Return the integers of the sum in
# units of 2^min(a_exponent, b_exponent).
# %% tags=["stub"]
def aligned_sum(a, a_exponent, b, b_exponent):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# How many small units are in a large one? That side gets a shift to the left; a shift by 0 places changes nothing.
# %% tags=["solution"]
def aligned_sum(a, a_exponent, b, b_exponent):
    unit = min(a_exponent, b_exponent)
    return (a << (a_exponent - unit)) + (b << (b_exponent - unit))


# %% tags=["check"]
checks.aligned_sum(aligned_sum)
# %% [markdown]
# ## The accumulator
#
# Products are added up in a register. Chips have 32 bits for that, cheap ones 16 or 24. Wide is safe, narrow is
# small.
#
# *Predict:* is 16 bits enough for this network, on the pictures we have? Which layer needs the most?
# %%
lines = [i for i in program.instructions if i.magnitude is not None]
seen = [1 + int(values[i.name][0].abs().max()).bit_length() for i in lines]
bound = [1 + i.bound.bit_length() for i in lines]
drawing, ax = plots.canvas(height=3.4)
ax.plot(bound, "s", color=plots.ORANGE, ms=9, mfc="none", mew=2, label="for every picture")
ax.plot(seen, "o", color=plots.BLUE, ms=8, label=f"on {pictures:,} pictures")
for register, style in ((16, "--"), (32, "-")):
    ax.axhline(register, color=plots.RED, lw=1.2, ls=style, label=f"{register} bits")
ax.set_xticks(range(len(lines)), [i.name for i in lines], rotation=30, ha="right")
ax.set(ylabel="bits of the sum", ylim=(10, 34))
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
beyond = [i.name for i, b in zip(lines, seen) if b > 16]
plots.show(
    drawing,
    f"The sums need {min(seen)} to {max(seen)} bits on these pictures, and at most {max(bound)} on any. More than 16 "
    f"are needed in {', '.join(beyond) or 'no layer'}.",
)


# %% [markdown]
# The squares come from the weights alone: the sum of |w| times the largest input, plus the bias. That is what
# `IntegerNetwork` checks against int32 when it is made. It is safe, and a little too careful, since inputs that are
# never negative cannot make positive and negative weights pull the same way.
#
# ## Exercise 3 · As narrow as possible (medium, 8 minutes)
#
# Write `accumulator_bits(weight, bias, largest)`: the fewest bits of a two's complement accumulator that holds the
# final sum of every output, whatever the inputs are. `weight`: int64 tensor (outputs, inputs); `bias`: (outputs,);
# each input is a code from 0 to `largest`. (Partial sums do not count: where they wrap around, the rest of the sum
# wraps them back.)
# %% tags=["stub"]
def accumulator_bits(weight, bias, largest):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which inputs make the sum of one output as large as it can get? Which make it as small? b bits hold -2^(b-1) to
# 2^(b-1) - 1.
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
# What is equality worth if you do not know what it hangs on? First ask the library for what it refuses. *Predict:*
# what is missing if the same network is attached in the paper's mode?
# %%
paper = models.build("tiny_resnet8").eval()
attach(paper, SearchSpace(), x[:1])
for block in blocks(paper).values():
    block.fix()
for attempt in (lambda: IntegerNetwork.from_selected(paper), lambda: fixedpoint.exponent_of(0.7)):
    try:
        attempt()
    except ValueError as error:
        print("refused:", error)
# %% [markdown]
# Now put faults into the program itself. It is a list of instructions, so a fault is another list:
#
# * shifts that drop what they shift out, instead of rounding,
# * accumulators of 16 and of 14 bits, which wrap around,
# * one layer, `layer1.0.conv1`, whose weights have a threshold half an octave lower, 2^-1/2 · t. Its sums have to be
#   multiplied by 2^-1/2 / 2^places. We compare with that real number: a shift alone, and the multiplication by an
#   integer of 8 bits before the shift.
#
# *Predict:* which fault changes the most codes? Which costs the most accuracy?
# %%
real = breaking.threshold(program, network, layer)
faults = {
    "shifts that drop": (program, breaking.truncation(program)),
    "16-bit accumulators": (program, breaking.accumulators(program, 16)),
    "14-bit accumulators": (program, breaking.accumulators(program, 14)),
    "odd threshold, shift alone": (real, breaking.threshold(program, network, layer, multiplier=0)),
    "odd threshold, 8-bit multiplier": (real, breaking.threshold(program, network, layer, multiplier=8)),
}
quantized = [i.name for i in program.instructions if i.scheme is not None] + [program.instructions[-1].name]
shares = {}
print(f"{'':34s}accuracy   logits that differ")
print(f"{'exact':34s}{accuracy(program(x)[0]):8.2f} %")
for name, (right, wrong) in faults.items():
    found = breaking.parted(right, wrong, x)
    shares[name] = [100 * found[tensor] for tensor in quantized]
    print(f"{name:34s}{accuracy(wrong(x)[0]):8.2f} %   {shares[name][-1]:6.1f} %")
print(f"(the network with the odd threshold, in real numbers: {accuracy(real(x)[0]):.2f} %)")
# %%
drawing, ax = plots.canvas(height=3.8)
colours = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.INK)
for (name, share), colour, marker, style in zip(shares.items(), colours, "osD^v", ("-", "--", ":", "-.", (0, (6, 2)))):
    ax.plot(share, color=colour, marker=marker, ls=style, label=name)
ax.set_yscale("symlog", linthresh=0.01)
ax.set_yticks([0, 0.01, 0.1, 1, 10, 100], ["0", "0.01", "0.1", "1", "10", "100"])
ax.minorticks_off()
ax.set(ylabel="codes that differ (%)", ylim=(-0.002, 150))
ax.set_xticks(range(len(quantized)), quantized, rotation=30, ha="right")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
first = {name: next((t for t, s in zip(quantized, share) if s), None) for name, share in shares.items()}
parted = ", ".join(f"{name} at {tensor or 'no tensor'}" for name, tensor in first.items())
plots.show(drawing, f"The bits part first: {parted}. From there on the difference spreads to the logits.")
# %% [markdown]
# Dropping bits makes many codes wrong by one, all in the same direction, and the network hardly minds. With 16 bits few
# sums of the first layer wrap, but these are wrong by the whole range, and the accuracy is gone. And the multiplier of
# 8 bits misses few codes of its own layer; yet most logits differ in the end.
#
# So how *many* codes differ says little about the accuracy. But zero is the only count that is easy to test: where a
# difference of one here and there is allowed, nobody can tell an error of the hardware from another rounding.
#
# ## Explore: one picture, one layer
#
# Three settings worth trying:
#
# 1. *As it opens, with an accumulator of 14 bits; then 16 and 32.* Follow the running sum over the broken line: it
#    comes back in from the other side. With 32 bits all crosses in the channel are gone.
# 2. *32 bits; move channel, row and column.* Look at the sum in binary: left of the bar is what stays, right of it what
#    decides the rounding.
# 3. *Switch "threshold no power of two" on, then give the multiplier 4, 8 and 12 bits.* The crosses thin out, and the
#    count in the sentence goes down: to 0?
# %%
explorers.integers(network, x[0], layer="conv1", channel=1, register=14)
# %% [markdown]
# ## In its real bits
#
# The weights lie about in the memory of this notebook as float32. `packing.pack` writes the codes with b bits each
# and everything else in float32.
#
# *Predict:* the weights' compression rate is about 8. How many times smaller is the file than float32? And for the
# larger ResNet-20?
# %%
resnet20 = runs.rebuild(records.recorded("cifar10-resnet20-w8-a8"))
with tempfile.TemporaryDirectory() as folder:
    for name, packed in (("tiny_resnet8", network), ("resnet20", resnet20)):
        sizes = packing.pack(packed, Path(folder) / name, name)
        print(f"{name}\n{sizes}\n")
    again = packing.unpack(Path(folder) / "tiny_resnet8")
with torch.no_grad():
    print(f"logits that differ after unpacking: {(again(x) != simulated).sum()} of {simulated.numel():,}")


# %% [markdown]
# A rate speaks of what it counts. What does not shrink, biases and the names of the tensors, is a larger part of a
# small file: compare the last percentages of the two. (The rebuilt ResNet-20 has the recorded schemes and random
# weights, which take as many bytes.)
#
# ## Exercise 4 · Pack the bits (harder, 10 minutes)
#
# Write `pack(codes, bits)`: a list of signed integers of `bits` bits each as a list of bytes, integers from 0 to 255.
# Two's complement; the first code goes into the lowest bits of the first byte, the next follows without a gap, over
# the edge of a byte if need be; the last byte is filled up with zeros. `bits` is 1 to 8.
# %% tags=["stub"]
def pack(codes, bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Python's integers have no end. Put all codes into one large number, code i at bit position bits · i, each of them
# masked with `& (2**bits - 1)`; then take bytes off its low end.
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
# ## ONNX: somebody else's arithmetic
#
# Others will run the network with tools of their own. The ONNX export writes the codes, power-of-two scales, and
# pairs of QuantizeLinear and DequantizeLinear where blocks stand.
#
# *Predict:* onnxruntime computes in float32 here, or fuses layers into integer kernels of its own. On how many
# pictures do its logits differ from ours?
# %%
try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from hmq_lab.hardware import onnx_export
except ImportError as error:
    print(f"{error.name} is not installed here, so there is no ONNX to look at: pip install hmq_lab[export] brings it")
else:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        written = onnx_export.export(network, path)
        size = path.stat().st_size
        answer = onnx_export.compare(network, path, test.batches(100))
    print(f"{size:,} bytes, {len(written.graph.node)} nodes; each weight takes a byte there, whatever its bits")
    for which, said in (("", "optimizations off"), ("default_", "as it is by default")):
        print(
            f"onnxruntime, {said}: logits of {answer[which + 'differ']} of {answer['pictures']:,} pictures differ, by "
            f"at most {answer[which + 'largest_difference']:g}; accuracy {answer[which + 'accuracy']:.2f} %"
        )
# %% [markdown]
# With optimizations off it computes what the simulation does, and the same argument about 2^24 holds. Fused kernels
# may scale and round in an order of their own; what they do is in the second line.
#
# ## What it costs
#
# Fewer bits are fewer bytes, always. Whether they are also fewer cycles depends on the machine. `costs` counts
# exactly what can be counted, and puts it on a *model* of an accelerator: multipliers made of 2-bit cells (Bit
# Fusion, ISCA 2018), memory that moves so many bytes a cycle, energies from a published table at 45 nm (Horowitz,
# ISSCC 2014).
#
# *Predict:* ResNet-20, weights 16 times smaller than float32, against 8 bits everywhere. What falls by half or more:
# bytes, bit operations, cycles, energy?
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
# %%
from hmq_lab.plots.roofline import Costs, roofline

plots.show(roofline(Costs(layers, machine)))
# %% [markdown]
# Each mark is a layer. On the slope it waits for bytes, on a level for multipliers; fewer bits of the weights lift
# the level.
#
# *Predict:* on which of these machines do the fewer bits pay most: one whose memory is slow, or one that has few
# multipliers?
# %%
for name, other in (
    ("256 units, 32 bytes a cycle", machine),
    ("256 units, 4 bytes a cycle", costs.Accelerator(bandwidth=4.0)),
    ("4096 units, 32 bytes a cycle", costs.Accelerator(units=4096)),
    ("16 units, 32 bytes a cycle", costs.Accelerator(units=16)),
):
    mixed, eight = costs.total(layers, other)["cycles"], costs.total(costs.uniform(layers, 8), other)["cycles"]
    print(f"{name:30s} {mixed:12,.0f} cycles mixed, {eight:12,.0f} with 8 bits: {eight / mixed:.2f} times as fast")
# %% [markdown]
# Where the multipliers are the bottleneck the cycles follow the bits of the weights. Where memory is, they follow the
# bytes, and of those the activations, which stayed at 8 bits, are the larger part. To know what bits are worth one
# has to know the machine.
# %% [markdown]
# ## Summary
#
# * Folding a batch norm is exact up to float rounding, but spreads the channels' sizes, and one threshold serves them
#   all.
# * With power-of-two steps a convolution is integers, and its exponent is a sum of two; requantizing is a shift with
#   rounding and saturation, a residual sum is a shift to the left and an addition.
# * Simulation and integers are equal bit for bit as long as floats hold every sum. The bound on a sum is known from
#   the weights, before any picture.
# * A threshold that is no power of two needs a multiplier and is never exact; an accumulator that is too narrow is
#   wrong seldom and grossly; a shift that drops is wrong often and slightly.
# * The rate of the weights, the bytes of a file, bit operations, cycles and energy are five different numbers.
#
# ## To talk about
#
# * A chip has 16-bit accumulators. Would you let them wrap, let them saturate, or take bits from the weights? How
#   would you prove that it is enough?
# * Where does the paper's own setting, float biases and unfolded batch norm, leave integer arithmetic? What would you
#   have to say in a paper that claims "integer only"?
# * One threshold for each output channel would undo what folding spoils. Which lines of the program would change?
# * Your accelerator is bound by its memory. Would you rather take bits from weights or from activations, and in which
#   layers?
#
# **In the paper:** the uniform quantizer with power-of-two thresholds is section 3.1, meant for hardware; integer
# execution, files and costs are not measured there. **Differences:** hardware mode folds batch norm, quantizes the
# picture and means to 8 bits and rounds biases, all of which the paper leaves float; the range is two's complement.
