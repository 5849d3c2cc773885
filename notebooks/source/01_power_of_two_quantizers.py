# %% [markdown]
# # Power-of-two quantizers
#
# Two numbers, bits and threshold, determine the values that a tensor may have, the integers that a
# chip stores for them, and the shift that replaces a multiplication.
#
# **Minutes:** 40 (10 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# what a convolution is, binary numbers, Python
#
# **After this you can**
#
# * compute step, levels and range of any scheme, with and without a sign,
# * turn a tensor into the integers that hardware stores, and back, without loss,
# * say why we round half to even, and measure what it does,
# * count the levels of the range in the authors' released code, and say what the difference costs,
# * explain why a power-of-two threshold turns a multiplication into a shift.
# %% tags=["parameters"] quick={"images": 8}
# Parameters: how many images the examples run on.
images = 64
# %%
import torch
import torch.nn.functional as F

from hmq_lab import Scheme, checks, data, explorers, models, plots, quantize
from hmq_lab.hardware.arithmetic import accumulate, requantize
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.plots.lessons import lesson01 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.quantizer import codes

predict = checks.predictions("01")
network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(f"the layer used here: {tuple(weight.shape)}, {weight.numel():,} weights")
print(f"they lie between {weight.min():.3f} and {weight.max():.3f}")
# %% [markdown]
# ## Two numbers make a quantizer
#
# A *scheme* says how many **bits** $b$ a tensor gets, and its **threshold** $t = 2^M$: its values
# lie below it. One more thing is known from the tensor itself: whether it needs a sign. The
# **step** $\Delta$ between neighbouring values follows:
#
# $$\Delta = \frac{2t}{2^b} \ \text{(signed)} \qquad \Delta = \frac{t}{2^b} \ \text{(unsigned)}$$
#
# A signed range reaches from $-t$ to $t$; an unsigned one is half as long.
#
# *Predict:* which step is larger, that of a signed 4-bit scheme below 1, or that of an unsigned
# 3-bit scheme below 1?
# %%
larger_step = predict("larger-step", "signed, 4 bits", "unsigned, 3 bits", "both are equal")
# %%
print("bits  sign   step     levels  smallest  largest")
for bits in (1, 2, 3, 4):
    for signed in (True, False):
        s = Scheme(bits, threshold_exponent=0, signed=signed)
        sign = "yes" if signed else "no"
        ends = f"{s.values[0]:9g} {s.values[-1]:8g}"
        print(f"{bits:4d}  {sign:5s}  {s.step:<8g} {s.levels:6d} {ends}")
one, other = Scheme(4, 0, signed=True).step, Scheme(3, 0, signed=False).step
larger_step.result("both are equal" if one == other else "one of them")
# %% [markdown]
# A sign costs one bit. A tensor that is never negative gets twice as many levels for the same bits.
#
# Look at the last column: the largest value is always one step *below* the threshold. And look at
# the signed scheme of one bit: it has "-1" and "0", and no positive value.


# %% [markdown]
# ## Exercise 1 · The step (easy, 3 minutes)
#
# Write `step(bits, threshold, signed)`: the distance between neighbouring levels. `bits` is an
# integer from 1, `threshold` a positive number, `signed` True or False.
# %% tags=["stub"]
def step(bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# How long is the range, and into how many equal pieces is it cut? Compare with the first table.
# %% tags=["solution"]
def step(bits, threshold, signed):
    length = 2 * threshold if signed else threshold
    return length / 2**bits


# %% tags=["check"]
checks.step(step)


# %% [markdown]
# ## Two's complement
#
# Hardware does not store -0.75. It stores integers, the **codes**: a value is its code times the
# step. With a sign, codes go from $-2^{b-1}$ to $2^{b-1} - 1$; without one, from 0 to $2^b - 1$.
# The code of a value $x$ is
#
# $$c = \operatorname{clip}\!\left(\operatorname{round}\!\left(\tfrac{x}{\Delta}\right),\
# -2^{b-1},\ 2^{b-1}-1\right), \qquad Q(x) = \Delta \cdot c$$
#
# Negative codes are written in **two's complement**: the first of the b bits counts $-2^{b-1}$ and
# not $2^{b-1}$. So -1 is all ones.
#
# *Predict:* which value has the bit pattern `100` in a signed 3-bit scheme below 1?
# %%
pattern = predict("pattern-100", "-1", "-0.75", "0.5", "1")
# %%
scheme = Scheme(bits=3, threshold_exponent=0, signed=True)
low, high = scheme.integers
print("pattern  code   value")
for code in range(low, high + 1):
    print(f"{code & 0b111:03b}     {code:4d}  {code * scheme.step:6g}")
pattern.result(f"{low * scheme.step:g}")
# %% [markdown]
# The pattern `100` stands for $-t$. There is no pattern for $+t$.
#
# Now the real layer. *Predict:* we keep only the codes and multiply them by the step. How many of
# the 9,216 values differ from `quantize`?
# %%
differ = predict("codes-differ", "none", "a few", "most")
# %%
scheme = Scheme(bits=4, threshold_exponent=-1, signed=True)
quantized = quantize(weight, scheme.step, scheme.threshold, scheme.signed)
integers = codes(weight, scheme)  # clip(round(x / Δ))
print("the first weights:", [round(w, 3) for w in weight.flatten()[:6].tolist()])
print("their codes:      ", integers.flatten()[:6].tolist())
print("their values:     ", (integers * scheme.step).flatten()[:6].tolist())
count = int((integers * scheme.step != quantized).sum())  # Δ · c against Q(x)
print(f"float32: {weight.numel() * 4:,} bytes; 4-bit codes: {weight.numel() // 2:,} bytes")
differ.result("none" if count == 0 else f"{count}")
# %% [markdown]
# The tensor *is* its integers and one exponent. Nothing else has to be stored.


# %% [markdown]
# ## Exercise 2 · The codes (medium, 6 minutes)
#
# Write `to_codes(x, bits, threshold, signed)`: the integers that hardware stores for the tensor
# `x`, in two's complement, rounded half to even. The result has the shape of x; a torch tensor, a
# NumPy array or a list will do.
# %% tags=["stub"]
def to_codes(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Divide by the step, round (`torch.round` already rounds half to even), then clip to the smallest
# and the largest code.
# %% tags=["solution"]
def to_codes(x, bits, threshold, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    return (x / step(bits, threshold, signed)).round().clamp(low, high)


# %% tags=["check"]
checks.to_codes(to_codes)


# %% [markdown]
# ## Round half to even
#
# Which code does 2.5 get? At school you learn to round a half up. The quantizer rounds a half to
# the *even* neighbour: 0.5 to 0, 1.5 to 2, 2.5 to 2. A measured number is hardly ever exactly on a
# half. But quantized numbers are coarse. When a coarse number loses its last bits, halves are
# common.
#
# *Predict:* the 8-bit pixels of the built-in images lose their last bit. How large is the mean
# error of rounding a half up, in units of the new step?
# %%
half_up = predict("half-up", "0", "0.1", "0.25", "0.5")
# %%
pixels = data.load("builtin").train.images[:images].long()
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
    print(f"dropped {places}: {halves:6.1%} of the numbers are halves")
plots.show(figures.rounding_bias(dropped, bias))
half_up.result(f"{bias['half up'][0]:.2f}")
# %% [markdown]
# If the mean of an error is not zero, it does more harm than a random error. A convolution adds
# hundreds of products: random errors cancel, errors with the same sign add up.
#
# ## Count the levels
#
# The code that the authors of HMQ released rounds in the same way, with the same step. But it clips
# to another range: signed to $[-t + \Delta,\ t]$, unsigned to $[0,\ t]$.
#
# *Predict:* how many levels are there with 4 bits and no sign?
# %%
released_count = predict("released-levels", 15, 16, 17)
# %%
plots.show(figures.two_ranges())
released_count.result(len(figures.released_levels(Scheme(4, 0, signed=False))))
# %% [markdown]
# Now $2^b + 1$ values do not fit into b bits. An unsigned "4-bit" tensor with 17 levels needs 5
# bits, or it loses one level when it is deployed. And the mirrored signed range contains $t$, for
# which two's complement of b bits has no pattern. So this library uses two's complement. You can
# look at the released range here and in exercise 3; no search of this package uses it.


# %% [markdown]
# ## Exercise 3 · The released range (medium, 4 minutes)
#
# Write `released(x, bits, threshold, signed)`: the *values* to which the authors' code would
# quantize `x`. Step and rounding are as in exercise 2. The range is [-t + step, t] signed and
# [0, t] unsigned.
# %% tags=["stub"]
def released(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Signed: both ends are one step higher than in two's complement. Unsigned: only the upper end is.
# %% tags=["solution"]
def released(x, bits, threshold, signed):
    unit = step(bits, threshold, signed)
    low = unit - threshold if signed else 0
    return ((x / unit).round() * unit).clamp(low, threshold)


# %% tags=["check"]
checks.released(released)


# %% [markdown]
# *Predict:* we quantize a real activation with 1 bit. How much of its error does one more level
# remove?
# %%
level_more = predict("level-more", "less than 10 %", "10 to 50 %", "more than 50 %")
# %%
outputs = {}
handle = network.layer2[0].relu1.register_forward_hook(
    lambda module, inputs, output: outputs.update(relu=output)
)
with torch.no_grad():
    network(next(data.load("builtin").test.batches(images))[0])
handle.remove()
activation = outputs["relu"]
print(f"activation {tuple(activation.shape)}, from 0 to {activation.max():.2f}")


def least_error(bits, extra):
    """Mean squared error with the best threshold; extra: levels more than 2^bits."""
    errors = []
    for exponent in range(-1, 4):
        s = Scheme(bits, exponent, signed=False)
        q = quantize(activation, s.step, s.threshold + extra * s.step, signed=False)
        errors.append((q - activation).square().mean().item())
    return min(errors)


left = {b: least_error(b, extra=1) / least_error(b, extra=0) for b in (1, 2, 4, 8)}
say(figures.level_sentence(left))
level_more.result(figures.share_class(1 - left[1]))
# %% [markdown]
# If you compare two papers at 1 or 2 bits, count the levels first.
#
# ## Why a power of two
#
# A convolution of quantized weights and quantized activations is a sum of products of codes and
# steps. The two steps are the same in every product:
#
# $$\sum_i (\Delta_w c_i)(\Delta_x d_i) = \Delta_w \Delta_x \sum_i c_i d_i$$
#
# Hardware multiplies and adds the *integers* $c_i$ and $d_i$.
#
# *Predict:* does the float convolution of the quantized tensors differ from the integer one?
# %%
sums_differ = predict("sums-differ", "no sum differs", "some sums differ", "most sums differ")
# %%
w = Scheme(bits=4, threshold_exponent=-1, signed=True)
x = Scheme(bits=8, threshold_exponent=2, signed=False)
layer = network.layer2[0].conv2
w_codes, x_codes = codes(layer.weight, w), codes(activation, x)


def convolve(inputs, weights):
    return F.conv2d(inputs, weights, padding=1)


sums = accumulate(x_codes, w_codes, bias=0, convolve=convolve)  # Σ c d, integers
floats = convolve(x_codes * x.step, w_codes * w.step).detach()  # float32
unit = w.step_exponent + x.step_exponent
print(f"{sums.numel():,} sums from {sums.min()} to {sums.max()}, in units of 2^{unit}")
count = int((sums * (w.step * x.step) != floats).sum())
sums_differ.result("no sum differs" if count == 0 else f"{count:,} sums differ")
# %% [markdown]
# The reason: float32 holds every integer up to $2^{24}$ exactly, and a factor that is a power of
# two changes only the exponent.
#
# The next layer has a scheme of its own for its input, with a step $\Delta_y$. So each sum is
# multiplied by $\Delta_w \Delta_x / \Delta_y$, rounded and clipped. If all three steps are powers
# of two, so is the factor. Then the multiplication is a shift. The number of places is known before
# any image is seen.
#
# With any other threshold the factor is a real number. Hardware then multiplies by an integer $m$
# and shifts by $n$ places, with $m / 2^n$ near the factor.
#
# *Predict:* how many bits must $m$ have until all results are right?
# %%
m_bits = predict("multiplier-bits", 4, 8, 12, 16, 20, "more than 20")
# %%
y = Scheme(bits=8, threshold_exponent=2, signed=True)
places = y.step_exponent - w.step_exponent - x.step_exponent
shifted = requantize(sums, places, *y.integers)
wrong = int((shifted != codes(sums * w.step * x.step, y)).sum())
print(f"powers of two: shift right by {places}; wrong codes {wrong}")

factor = 2**-0.5 * 2.0**-places  # as if the weights' threshold were half an octave lower
wanted = (sums.double() * factor).round().clamp(*y.integers)
enough = "more than 20"
for size in (20, 16, 12, 8, 4):
    n = places + size  # so that m has that many bits
    m = round(factor * 2**n)
    wrong = int((requantize(sums * m, n, *y.integers) != wanted).sum())
    enough = size if wrong == 0 else enough
    print(f"another threshold: times {m} ({size} bits), shift by {n}; wrong codes {wrong}")
m_bits.result(enough)
# %% [markdown]
# (An **octave** is a factor of two. Half an octave is a factor of $\sqrt 2$.)
#
# A shift by a fixed number of places needs no multiplier. But powers of two have a price, too: the
# best threshold may be half an octave away from the nearest one. Lesson 02 measures what that costs.


# %% [markdown]
# ## Exercise 4 · Divide by shifting (harder, 8 minutes)
#
# Write `rescale(accumulator, places)`: the Python integer `accumulator` divided by 2^places,
# rounded half to even. Use only integers (`>>`, `&`, `+`, comparisons): the numbers may be too
# large for a float. `places` is 0 or more.
# %% tags=["stub"]
def rescale(accumulator, places):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `accumulator >> places` rounds down, for negative numbers, too. What was shifted out is
# `accumulator & (2**places - 1)`: compare it with a half. At exactly a half, the result goes up
# only if it would be odd otherwise.
# %% tags=["solution"]
def rescale(accumulator, places):
    down = accumulator >> places
    rest = accumulator & (2**places - 1)
    up = 2 * rest > 2**places or (2 * rest == 2**places and down % 2 == 1)
    return down + up


# %% tags=["check"]
checks.rescale(rescale)
# %% [markdown]
# ## Explore: bits, threshold, sign
#
# Three settings worth trying:
#
# 1. *2 bits, then move the threshold from 2^-1 down to 2^-3.* The shaded regions grow into the
#    histogram. Which error gets larger, which smaller?
# 2. *4 bits, switch "signed" off.* Every negative weight becomes 0. Which of the two errors shows
#    how much of the layer was negative?
# 3. *1 bit, "the authors' range" on.* Two's complement has -t and 0, the released range has 0 and
#    t. Which half of the weights is lost in each of them?
# %%
explorers.quantizer(weight)
# %% [markdown]
# ## Summary
#
# * A scheme is bits, threshold and sign. The step is 2t / 2^b signed, t / 2^b unsigned: a sign costs
#   one bit.
# * Two's complement has 2^b levels, from -t to one step below t. A signed tensor of one bit has no
#   positive value.
# * A quantized tensor is integers and one exponent, exactly.
# * Rounding half to even keeps the mean error near 0 where numbers are coarse.
# * The released code's unsigned range has 2^b + 1 levels: count before you compare.
# * With powers of two, a shift takes the integers of one layer to those of the next.
#
# ## To talk about
#
# * Weights are distributed about evenly around 0. Would a symmetric range with 2^b - 1 levels be a
#   better choice? For which bit-widths?
# * Why does a ReLU's output get an unsigned scheme? What would you do with the output of a function
#   that is sometimes slightly negative, such as SiLU?
# * Suppose that a chip has a 32-bit multiplier for every output. Are thresholds that are powers of
#   two still useful?
# * One threshold for each output channel would fit the weights better. What would it do to the
#   shift?
#
# **In the paper:** section 3.1, the quantizer. **Differences:** two's complement here; the released
# code mirrors the signed range and has 2^b + 1 unsigned levels.
