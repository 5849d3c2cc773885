# %% [markdown]
# # Power-of-two quantizers
#
# Two numbers, bits and threshold, fix which values a tensor may take, which integers a chip holds for them, and the
# shift that takes the place of a multiplication.
#
# **Minutes:** 40 (10 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** what a convolution
# is, binary numbers, Python
#
# **After this you can**
#
# * work out step, levels and range of any scheme, with and without a sign,
# * turn a tensor into the integers that hardware holds, and back, without loss,
# * say what rounding half to even is for, and measure it,
# * count the levels of the range in the authors' released code, and say what the difference costs,
# * explain why a power-of-two threshold turns a multiplication into a shift.
# %% tags=["parameters"] quick={"pictures": 8}
# Parameters: how many pictures the examples run on.
pictures = 64
# %%
import torch
import torch.nn.functional as F

from hmq_lab import Scheme, checks, data, explorers, models, plots, quantize
from hmq_lab.hardware.arithmetic import accumulate, requantize
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.quantizer import codes

network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(
    f"the layer used here: {tuple(weight.shape)}, {weight.numel():,} weights from {weight.min():.3f} to "
    f"{weight.max():.3f}"
)
# %% [markdown]
# ## Two numbers make a quantizer
#
# A *scheme* says how many **bits** b a tensor gets, and below which **threshold** t = 2^M its values lie. One more
# thing is known from the tensor itself: whether it needs a sign. The **step** between neighbouring values follows:
#
# * signed: 2t / 2^b, for the range from -t to t has to hold 2^b values,
# * unsigned: t / 2^b, for the range is half as long.
#
# *Predict:* which is larger, the step of a signed 4-bit scheme below 1, or that of an unsigned 3-bit scheme below 1?
# %%
print("bits  sign   step     levels  smallest  largest")
for bits in (1, 2, 3, 4):
    for signed in (True, False):
        s = Scheme(bits, threshold_exponent=0, signed=signed)
        print(
            f"{bits:4d}  {'yes' if signed else 'no':5s}  {s.step:<8g} {s.levels:6d} {s.values[0]:9g} {s.values[-1]:8g}"
        )
# %% [markdown]
# They are equal. A sign costs one bit: what is known to be never negative gets twice as many levels for the same
# bits.
#
# Look at the last column: the largest value is always one step *below* the threshold. And look at the signed scheme
# of one bit: it can say "-1" and "0", and nothing positive at all.
#
# ## Two's complement
#
# Hardware does not hold -0.75 but an integer, the *code*, and knows that it counts steps. With b bits the codes go
# from -2^(b-1) to 2^(b-1) - 1. Negative ones are written in two's complement: the pattern of -1 is that of the
# largest unsigned number, all ones.
#
# *Predict:* which value has the bit pattern `100` in a signed 3-bit scheme below 1?
# %%
scheme = Scheme(bits=3, threshold_exponent=0, signed=True)
low, high = scheme.integers
print("pattern  code   value")
for code in range(low, high + 1):
    print(f"{code & 0b111:03b}     {code:4d}  {code * scheme.step:6g}")
# %% [markdown]
# It is the one negative value without a positive twin, -t. Reading the pattern as an unsigned number and subtracting
# 8 where the first bit is set gives the code: the first bit weighs -4 instead of 4. That is all two's complement is.
#
# Now the real layer. *Predict:* if we keep only the codes and multiply them by the step, how many of the 9,216 values
# will differ from `quantize`?
# %%
scheme = Scheme(bits=4, threshold_exponent=-1, signed=True)
quantized = quantize(weight, scheme.step, scheme.threshold, scheme.signed)
integers = codes(weight, scheme)
print("the first weights:", [round(w, 3) for w in weight.flatten()[:6].tolist()])
print("their codes:      ", integers.flatten()[:6].tolist())
print("their values:     ", (integers * scheme.step).flatten()[:6].tolist())
print(f"differ: {(integers * scheme.step != quantized).sum()} of {weight.numel():,}")
print(
    f"float32: {weight.numel() * 32 // 8:,} bytes; {scheme.bits}-bit codes: {weight.numel() * scheme.bits // 8:,} bytes"
)
# %% [markdown]
# None. The tensor *is* its integers and one exponent; nothing else has to be stored.
#
# ## A half goes to the even side
#
# Which code does 2.5 get? Schools teach "a half goes up". The quantizer rounds a half to the *even* neighbour: 0.5 to
# 0, 1.5 to 2, 2.5 to 2. With measured numbers a half would hardly ever occur. But quantized numbers are coarse, and
# dropping bits from coarse numbers meets halves all the time.
#
# *Predict:* the 8-bit pixels of the built-in pictures lose their last bit. How large is the mean error of "a half
# goes up", in units of the new step? And when they lose four bits?
# %%
pixels = data.load("builtin").train.images[:pictures].long()
roundings = {
    "down": lambda u: u.floor(),
    "half up": lambda u: (u + 0.5).floor(),
    "half to even": lambda u: u.round(),
}
dropped = range(1, 7)
bias = {name: [] for name in roundings}
for places in dropped:
    exact = pixels.double() / 2**places
    for name, rounding in roundings.items():
        bias[name].append((rounding(exact) - exact).mean().item())
    halves = (exact % 1 == 0.5).double().mean()
    print(f"dropped {places}: {halves:6.1%} halves; mean error", {n: round(b[-1], 4) for n, b in bias.items()})
# %%
drawing, ax = plots.canvas(height=3.2)
for (name, errors), colour, marker, line in zip(bias.items(), plots.COLOURS, plots.MARKERS, (":", "--", "-")):
    ax.plot(dropped, errors, color=colour, marker=marker, ls=line, label=name)
ax.set(xlabel="bits dropped from 8-bit pixels", ylabel="mean error (steps)")
ax.legend(frameon=False)
worst = max(abs(e) for e in bias["half to even"])
plots.show(
    drawing,
    f"With one bit dropped, rounding a half up is wrong by {bias['half up'][0]:+.2f} steps on average and rounding "
    f"down by {bias['down'][0]:+.2f}; rounding half to even stays within {worst:.3f} steps of 0 for any number of "
    "bits dropped.",
)
# %% [markdown]
# An average error matters more than a random one: a convolution adds up hundreds of products, random errors cancel,
# and a common shift adds up with them.
#
# ## Count the levels
#
# The code that the authors of HMQ released rounds in the same way, with the same step, but clips to another range:
# signed to [-t + step, t], unsigned to [0, t].
#
# *Predict:* how many levels is that with 4 bits and no sign?
# %%
drawing, axes = plots.canvas(1, 2, height=3.4)
counts = {}
for ax, signed in zip(axes, (True, False)):
    for bits in (1, 2, 3, 4):
        s = Scheme(bits, 0, signed)
        released = [v + s.step for v in s.values] if signed else [*s.values, s.threshold]
        counts[bits, signed] = len(released)
        for values, style, up in (
            (s.values, {"color": plots.BLUE, "marker": "o", "label": "two's complement"}, 0.13),
            (released, {"color": plots.ORANGE, "marker": "x", "label": "the released range"}, -0.13),
        ):
            (points,) = ax.plot(values, [bits + up] * len(values), ls="none", **style)
            points.set_label(style["label"] if bits == 1 else None)
    ax.set_title(f"{'signed' if signed else 'unsigned'}, threshold 1", loc="left")
    ax.set(xlabel="value", ylabel="bits", yticks=(1, 2, 3, 4), ylim=(0.4, 4.6))
drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
for ax in axes:
    ax.grid(False, axis="y")
plots.show(
    drawing,
    f"Signed, the released range is the mirror image of two's complement: {counts[4, True]} levels with 4 bits, "
    "with 1 bit the two levels 0 and t. Unsigned it has one level more than b bits can number: "
    f"{counts[1, False]}, {counts[2, False]}, {counts[3, False]} and {counts[4, False]} levels with 1 to 4 bits.",
)
# %% [markdown]
# 2^b + 1 values do not fit into b bits: an unsigned "4-bit" tensor with 17 levels needs 5 bits, or one of its levels
# has to go when it is deployed. And the mirrored signed range holds t, for which two's complement of b bits has no
# pattern. So this library is honest to b bits: the released range is for you to look at (below, and in exercise 3),
# not a mode.
#
# *Predict:* on a real activation, how much of the error with 1, 2 and 4 bits does the extra level take away?
# %%
outputs = {}
handle = network.layer2[0].relu1.register_forward_hook(lambda module, inputs, output: outputs.update(relu=output))
with torch.no_grad():
    network(next(data.load("builtin").test.batches(pictures))[0])
handle.remove()
activation = outputs["relu"]
print(f"activation {tuple(activation.shape)}, from {activation.min():.2f} to {activation.max():.2f}")


def least_error(bits, extra):
    """Mean squared error below the best threshold; extra: levels more than 2^bits."""
    schemes = [Scheme(bits, exponent, signed=False) for exponent in range(-1, 4)]
    quantized = [quantize(activation, s.step, s.threshold + extra * s.step, signed=False) for s in schemes]
    return min((q - activation).square().mean().item() for q in quantized)


for bits in (1, 2, 4, 8):
    honest, flattered = least_error(bits, extra=0), least_error(bits, extra=1)
    print(f"{bits} bits: mean squared error {honest:.6f}, with a level more {flattered:.6f} ({flattered / honest:.0%})")
# %% [markdown]
# With 1 and 2 bits a level too many flatters the result a lot, with 4 and 8 hardly. Whoever compares two papers at 1
# or 2 bits had better count the levels first.
#
# ## Why a power of two
#
# A convolution of quantized weights and quantized activations is a sum of products code_w · step_w · code_x · step_x.
# The two steps are the same for all of them and come out of the sum: hardware multiplies and adds *integers*, and the
# value is the integer sum times step_w · step_x.
#
# *Predict:* does the float convolution of the quantized tensors differ from the integer one, and by how much?
# %%
w = Scheme(bits=4, threshold_exponent=-1, signed=True)
x = Scheme(bits=8, threshold_exponent=2, signed=False)
layer = network.layer2[0].conv2
w_codes, x_codes = codes(layer.weight, w), codes(activation, x)


def convolve(pictures, weights):
    return F.conv2d(pictures, weights, padding=1)


sums = accumulate(x_codes, w_codes, bias=0, convolve=convolve)  # integers
floats = convolve(x_codes * x.step, w_codes * w.step).detach()  # float32
print(f"{sums.numel():,} sums from {sums.min()} to {sums.max()}, in units of 2^{w.step_exponent + x.step_exponent}")
print("differ:", int((sums * (w.step * x.step) != floats).sum()))
# %% [markdown]
# Not at all: float32 holds every integer up to 2^24, and a power of two changes the exponent alone.
#
# The next layer wants its input in its own scheme, with a step of its own. So each sum has to be multiplied by step_w
# · step_x / step_y, rounded and clipped. If all three are powers of two, so is the factor, and the multiplication is
# a shift by a number of places that is known before the first picture comes.
#
# *Predict:* with any other threshold the factor is an arbitrary real number. Hardware then multiplies by an integer m
# and shifts: m / 2^n is near the factor. How many bits must m have until all results are right?
# %%
y = Scheme(bits=8, threshold_exponent=2, signed=True)
places = y.step_exponent - w.step_exponent - x.step_exponent
shifted = requantize(sums, places, *y.integers)
wrong = (shifted != codes(sums * w.step * x.step, y)).sum()
print(f"powers of two: shift right by {places}; wrong codes {wrong}")

factor = 2**-0.5 * 2.0**-places  # as if the weights' threshold were half an octave lower
wanted = (sums.double() * factor).round().clamp(*y.integers)
for size in (4, 8, 12, 16, 20):
    n = places + size  # so that m has that many bits
    m = round(factor * 2**n)
    wrong = (requantize(sums * m, n, *y.integers) != wanted).sum()
    print(f"half an octave lower: multiply by {m:6d} ({size} bits), shift right by {n}; wrong codes {wrong}")
# %% [markdown]
# A shift by a fixed number of places needs no multiplier at all. A power-of-two threshold also has its price: the
# best one may lie half an octave away. Lesson 02 measures what that costs.
#
# ## Explore: bits, threshold, sign
#
# Three settings worth trying:
#
# 1. *2 bits, then move the threshold down from 2^-1 to 2^-3.* Watch the shaded regions reach into the histogram, and
#    the bars of rounding and clipping trade places.
# 2. *4 bits, switch "signed" off.* Every negative weight becomes 0: the error of clipping says how much of the layer
#    was negative.
# 3. *1 bit, "the authors' range" on.* Two's complement has -t and 0, the released range 0 and t: which half of the
#    weights each of them gives up.
# %%
explorers.quantizer(weight)


# %% [markdown]
# ## Exercise 1 · The step (easy, 3 minutes)
#
# Write `step(bits, threshold, signed)`: the distance between neighbouring levels. `bits` is an integer from 1,
# `threshold` a positive number, `signed` True or False.
# %% tags=["stub"]
def step(bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# How long is the range, and how many equal pieces is it cut into? Compare with the first table.
# %% tags=["solution"]
def step(bits, threshold, signed):
    length = 2 * threshold if signed else threshold
    return length / 2**bits


# %% tags=["check"]
checks.step(step)


# %% [markdown]
# ## Exercise 2 · The codes (medium, 6 minutes)
#
# Write `to_codes(x, bits, threshold, signed)`: the integers that hardware holds for the tensor `x`, in two's
# complement, rounded half to even. The result has x's shape; a torch tensor, a NumPy array or a list will do.
# %% tags=["stub"]
def to_codes(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Divide by the step, round (`torch.round` rounds half to even already), then clip to the smallest and the largest
# code.
# %% tags=["solution"]
def to_codes(x, bits, threshold, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    return (x / step(bits, threshold, signed)).round().clamp(low, high)


# %% tags=["check"]
checks.to_codes(to_codes)


# %% [markdown]
# ## Exercise 3 · The released range (medium, 4 minutes)
#
# Write `released(x, bits, threshold, signed)`: the *values* to which the authors' code would quantize `x`. The step
# and the rounding are as in exercise 2; the range is [-t + step, t] signed and [0, t] unsigned.
# %% tags=["stub"]
def released(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Both ends are one step higher than in two's complement, but for one of them.
# %% tags=["solution"]
def released(x, bits, threshold, signed):
    unit = step(bits, threshold, signed)
    low = unit - threshold if signed else 0
    return ((x / unit).round() * unit).clamp(low, threshold)


# %% tags=["check"]
checks.released(released)


# %% [markdown]
# ## Exercise 4 · Divide by shifting (harder, 8 minutes)
#
# Write `rescale(accumulator, places)`: the Python integer `accumulator` divided by 2^places, rounded half to even.
# Use integers alone (`>>`, `&`, `+`, comparisons): accumulators may be too large for a float. `places` is 0 or more.
# %% tags=["stub"]
def rescale(accumulator, places):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `accumulator >> places` rounds down, for negative numbers too. What was shifted out is `accumulator & (2**places -
# 1)`: compare it with a half. At exactly a half the result goes up only if it would be odd.
# %% tags=["solution"]
def rescale(accumulator, places):
    down = accumulator >> places
    rest = accumulator & (2**places - 1)
    up = 2 * rest > 2**places or (2 * rest == 2**places and down % 2 == 1)
    return down + up


# %% tags=["check"]
checks.rescale(rescale)
# %% [markdown]
# ## Summary
#
# * A scheme is bits, threshold and sign. The step is 2t / 2^b signed, t / 2^b unsigned: a sign costs one bit.
# * Two's complement has 2^b levels, from -t to one step below t. A signed tensor of one bit has no positive value.
# * A quantized tensor is integers and one exponent, exactly.
# * Rounding half to even keeps the mean error near 0 where numbers are coarse.
# * The released code's unsigned range has 2^b + 1 levels: count before you compare.
# * With powers of two the passage from one layer's integers to the next one's is a shift.
#
# ## To talk about
#
# * Weights are spread about evenly around 0. Would a range that is symmetric, with 2^b - 1 levels, be the better
#   choice? For which bit-widths?
# * Why does a ReLU's output get an unsigned scheme, and what would you do with the output of a function that is
#   slightly negative at times, such as SiLU?
# * A chip offers a 32-bit multiplier for every output anyway. Does it still pay to keep thresholds to powers of two?
# * One threshold for each output channel would fit the weights better. What would it do to the shift?
#
# **In the paper:** section 3.1, the quantizer. **Differences:** two's complement here; the released code mirrors the
# signed range and has 2^b + 1 unsigned levels.
