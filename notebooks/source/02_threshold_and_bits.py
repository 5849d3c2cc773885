# %% [markdown]
# # Threshold and bits
#
# A quantizer makes two errors: it rounds what lies below its threshold and clips what lies above.
# The best threshold balances the two errors, and it depends on the bits. The threshold with the
# least error does not always give the best accuracy.
#
# **Minutes:** 35 (20 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# lesson 01; mean and standard deviation
#
# **After this you can**
#
# * split the error of a quantizer into rounding and clipping,
# * find the best threshold for a tensor and a bit-width, and say why it falls as bits fall,
# * say what a sign costs, and what a power of two costs,
# * compare real layers with Gaussian and Laplace numbers,
# * say why the error of a layer does not predict the accuracy of the network.
# %% tags=["parameters"] quick={"images": 100, "values": 2000, "seed": 3}
# Parameters: images for the accuracy, random numbers for the distributions, and their seed.
images = 1000
values = 100_000
seed = 0
# %%
import numpy as np
import torch

from hmq_lab import Scheme, checks, data, explorers, models, plots, quantize
from hmq_lab.models.training import evaluate
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.plots.lessons import lesson02 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.quantizer import threshold_exponent

predict = checks.predictions("02")
network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weights = {name: w.detach() for name, w in network.named_parameters() if w.dim() > 1}
weight = weights["layer3.0.conv2.weight"]
print(f"{len(weights)} weight tensors")
print(f"layer3.0.conv2.weight reaches from {weight.min():.3f} to {weight.max():.3f}")


# %% [markdown]
# ## Two errors
#
# With b bits the threshold sets the step. A *large* threshold gives a large step: values are
# rounded to coarse levels. A *small* threshold gives fine levels, but what lies beyond the last
# level is clipped to it. **Clipping** happens to a value that *rounds* to a level that does not
# exist. The squared error is the sum over the two groups of values:
#
# $$\sum_x (Q(x) - x)^2 = \underbrace{\sum_{\text{rounded}} (Q(x) - x)^2}_{\text{rounding}}
# + \underbrace{\sum_{\text{clipped}} (Q(x) - x)^2}_{\text{clipping}}$$
#
# The largest magnitude in this layer is 0.475.
#
# *Predict:* with 3 bits, where is the best threshold?
# %%
best_place = predict("best-place", "above it", "near it", "well below it")


# %%
def errors(x, bits, threshold, signed=True):
    """Shares of x's sum of squares that rounding and clipping lose."""
    step = threshold / 2 ** (bits - signed)
    quantized = quantize(x, step, threshold, signed)
    rounded = (x / step).round() * step
    clipped = (rounded - quantized).abs() > step / 2  # another level than the nearest
    square = (quantized - x).square() / x.square().sum()
    return square[~clipped].sum().item(), square[clipped].sum().item()


thresholds = torch.logspace(-5, 0, 81, base=2).tolist()
rounding, clipping = np.array([errors(weight, 3, t) for t in thresholds]).T
powers = {e: sum(errors(weight, 3, 2.0**e)) for e in range(-5, 1)}
largest = weight.abs().max().item()
plots.show(figures.two_errors(thresholds, rounding, clipping, powers, largest, bits=3))
best = thresholds[int((rounding + clipping).argmin())]
best_place.result(figures.place_of_best(best / largest))
# %% [markdown]
# The best threshold clips some values. There are few values near the largest one and many near 0.
# Finer levels make the error of the many values smaller. This gain is larger than the loss at the
# few clipped values.


# %% [markdown]
# ## Exercise 1 · Two errors (medium, 6 minutes)
#
# Write `error_parts(x, bits, threshold, signed)`: the two parts of the mean squared error of a
# two's complement quantizer, as a pair (rounding, clipping). A value is clipped if
# `round(x / step)` lies beyond the first or the last code. The two parts add up to the mean squared
# error of the whole tensor.
# %% tags=["stub"]
def error_parts(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Make a mask of the clipped values from the codes *before* they are clipped. Divide both sums by
# `x.numel()`.
# %% tags=["solution"]
def error_parts(x, bits, threshold, signed):
    step = threshold / 2 ** (bits - signed)
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    code = (x / step).round()
    clipped = (code < low) | (code > high)
    square = (code.clamp(low, high) * step - x).square()
    return square[~clipped].sum() / x.numel(), square[clipped].sum() / x.numel()


# %% tags=["check"]
checks.error_parts(error_parts)


# %% [markdown]
# ## Fewer bits, lower threshold
#
# *Predict:* with 8 bits there are 256 levels, with 2 bits only four. For which of the two is the
# best threshold higher?
# %%
higher_threshold = predict("higher-threshold", "8 bits", "2 bits", "both the same")
# %%
activations = {}


def keep(name):
    return lambda module, inputs, output: activations.update({name: output.detach()})


relus = [(n, m) for n, m in network.named_modules() if isinstance(m, torch.nn.ReLU)]
handles = [module.register_forward_hook(keep(name)) for name, module in relus]
with torch.no_grad():
    network(next(data.load("builtin").test.batches(min(images, 128)))[0])
for handle in handles:
    handle.remove()

tables = {
    "conv1.weight": figures.surface(weights["conv1.weight"]),
    "layer3.0.relu1, an activation": figures.surface(activations["layer3.0.relu1"]),
}
plots.show(figures.surfaces(tables))
of_weight = tables["conv1.weight"]
say("conv1.weight:", figures.wrong_octave_sentence(of_weight))
eight, two = of_weight.best(8), of_weight.best(2)
same = "both the same"
higher_threshold.result("8 bits" if eight > two else "2 bits" if two > eight else same)
# %% [markdown]
# Read a column of the figure from the bottom to the top. Right of the circles the step is coarse,
# and more bits help a lot. Far to the left nearly everything is clipped, and more bits do not help
# at all. So bits and threshold must be searched *together*. That is why an HMQ block has a
# probability for every pair of the two.
#
# A threshold is **tight** if it is the smallest power of two that no magnitude exceeds.
#
# *Predict:* the network has 8 weight tensors. In how many of them is the best threshold for 2 bits
# below the tight one?
# %%
below_tight = predict("below-tight", low=0, high=8)
# %%
widths = (8, 6, 4, 3, 2, 1)
print("best threshold, in octaves below the tight one; share lost with 1 bit")
print("bits                    ", *(f"{b:6d}" for b in widths), "  lost")
found = {name: figures.surface(x) for name, x in {**weights, **activations}.items()}
for name, table in found.items():
    below = [f"{table.below(b):6d}" for b in widths]
    print(f"{name:24s}", *below, f"{table.lost[0].min():6.0%}")
count = {b: sum(found[name].below(b) > 0 for name in weights) for b in (8, 2)}
print(f"weight tensors with the best threshold below the tight one: {count[8]} with 8 bits")
below_tight.result(count[2])


# %% [markdown]
# ## Exercise 2 · The best threshold (medium, 5 minutes)
#
# Write `best_exponent(x, bits, signed, exponents)`: the M in the list `exponents` whose threshold
# 2^M gives the least squared error. `quantize` may help.
# %% tags=["stub"]
def best_exponent(x, bits, signed, exponents):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Compute the error for each exponent, then `min(exponents, key=...)`. `Scheme(bits, M, signed)`
# knows step and threshold.
# %% tags=["solution"]
def best_exponent(x, bits, signed, exponents):
    def error(exponent):
        scheme = Scheme(bits, exponent, signed)
        return (quantize(x, scheme.step, scheme.threshold, signed) - x).square().sum()

    return min(exponents, key=error)


# %% tags=["check"]
checks.best_exponent(best_exponent)


# %% [markdown]
# ## Exercise 3 · The fewest bits (harder, 7 minutes)
#
# Write `fewest_bits(x, limit, signed, exponents)`: the smallest number of bits, from 1 to 8, for
# which *some* threshold 2^M, M in `exponents`, loses at most the share `limit` of x's sum of
# squares: squared error / sum of squares <= limit.
# %% tags=["stub"]
def fewest_bits(x, limit, signed, exponents):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# For each bit-width, try the threshold of exercise 2: no other one loses less.
# %% tags=["solution"]
def fewest_bits(x, limit, signed, exponents):
    for bits in range(1, 9):
        scheme = Scheme(bits, best_exponent(x, bits, signed, exponents), signed)
        error = (quantize(x, scheme.step, scheme.threshold, signed) - x).square().sum()
        if error <= limit * x.square().sum():
            return bits


# %% tags=["check"]
checks.fewest_bits(fewest_bits)
# %% [markdown]
# ## Weights and activations
#
# Weights lie on both sides of 0. The output of a ReLU lies on one side, and many of its values
# *are* 0.
#
# *Predict:* quantize an activation with a signed scheme. How many bits more does it need for the
# same result?
# %%
sign_bits = predict("sign-bits", 0, 1, 2)
# %%
activation = activations["layer3.0.relu1"]
names = ("layer3.0.conv2.weight", "layer3.0.relu1")
plots.show(figures.two_histograms(weight, activation, names))
# %%
equal = []
for bits in (1, 2, 3, 4):
    unsigned, signed = Scheme(bits, 1, signed=False), Scheme(bits, 1, signed=True)
    lost = [
        100 * sum(errors(activation, bits, s.threshold, s.signed)) for s in (unsigned, signed)
    ]
    wider = Scheme(bits + 1, 1, signed=True)
    narrow = quantize(activation, unsigned.step, unsigned.threshold, False)
    same = narrow == quantize(activation, wider.step, wider.threshold, True)
    equal.append(bool(same.all()))
    places = f"in {same.float().mean():.0%} of places"
    print(f"bits {bits}: lost unsigned {lost[0]:5.1f} %, signed {lost[1]:5.1f} %")
    print(f"        unsigned equals signed with {bits + 1} bits {places}")
sign_bits.result(1 if all(equal) else "another number")
# %% [markdown]
# If all values are on one side of 0, a signed scheme can use only half of its levels. A signed
# scheme of one bit has no level above 0, so every positive value becomes 0.
#
# Weights have the same problem. One bit gives $-t$ and 0, and all positive weights become 0. This
# is why the numbers in the last column of the table above are so large for weight tensors.
#
# ## How far below? It depends on the distribution
#
# Let the threshold be any real number for a moment, and measure it in standard deviations.
#
# *Predict:* Laplace numbers have longer tails than Gaussian ones: more values far from 0. For which
# of them is the best threshold for 4 bits higher?
# %%
tails = predict("tails", "Gaussian", "Laplace", "both the same")
# %%
rng = np.random.default_rng(seed)
samples = {
    "Gaussian": torch.from_numpy(rng.normal(size=values)),
    "Laplace": torch.from_numpy(rng.laplace(size=values)),
    "layer3.0.conv2.weight": weight.double().flatten(),
    "conv1.weight": weights["conv1.weight"].double().flatten(),
}
bit_widths = range(1, 9)
octave = 2.0 ** torch.linspace(-2, 4, 61)  # in standard deviations, a tenth of an octave apart


def search(x, bits):
    """The best real threshold, in standard deviations, and what it and a power of two lose."""
    lost = [sum(errors(x, bits, float(t * x.std()))) for t in octave]
    powers = [sum(errors(x, bits, 2.0**e)) for e in range(-6, 5)]
    return float(octave[int(np.argmin(lost))]), min(*lost, *powers), min(powers)


found = {name: [search(x, bits) for bits in bit_widths] for name, x in samples.items()}
plots.show(figures.distributions(bit_widths, found))
gauss, laplace = found["Gaussian"][3][0], found["Laplace"][3][0]
tails.result(
    "Laplace" if laplace > gauss else "Gaussian" if gauss > laplace else "both the same"
)
# %% [markdown]
# In the squared error, 10 decibels are a factor of ten, and 3 decibels are a factor of about two.
# How much a power of two costs depends on where the best threshold lies between two powers.
#
# The four curves differ because their tails differ. No formula for one distribution fits all layers:
# HMQ lets each tensor choose.
#
# ## What the error cannot show
#
# We want a small error because we want accuracy. Take the weight tensors one at a time. Quantize
# one to 2 bits with each of four thresholds, leave the others float, and measure the accuracy on
# validation images.
#
# *Predict:* is the threshold with the least error the one with the best accuracy?
# %%
least_is_best = predict(
    "least-is-best", "for every tensor", "for some tensors", "for no tensor"
)
# %%
validation = data.load("builtin").validation.subset(range(images))
whole = evaluate(network, validation)
trials = {}
for name, x in weights.items():
    tight = threshold_exponent(float(x.abs().max()))
    trials[name] = []
    for exponent in range(tight, tight - 4, -1):
        scheme = Scheme(2, exponent, signed=True)
        quantized = quantize(x, scheme.step, scheme.threshold, scheme.signed)
        network.get_parameter(name).data = quantized
        lost = 100 * sum(errors(x, 2, scheme.threshold))
        trials[name].append((lost, evaluate(network, validation)))
    network.get_parameter(name).data = x
plots.show(figures.accuracy_over_error(trials, whole))
agree = figures.agreeing(trials)
some = "for some tensors" if agree else "for no tensor"
least_is_best.result("for every tensor" if agree == len(trials) else some)
# %%
least = {name: min(pairs) for name, pairs in trials.items()}
print("tensor                    lost (%)  accuracy (%)")
for name, (lost, accuracy) in sorted(least.items(), key=lambda item: item[1]):
    print(f"{name:24s} {lost:8.1f} {accuracy:9.1f}")
say(figures.rank_sentence(least))
# %% [markdown]
# In the squared error, every weight counts the same. For the accuracy, some weights matter more
# than others. And after quantization there is training, which may repair one kind of error better
# than another.
#
# So HMQ does not minimize the error of any tensor. The bits and thresholds of all tensors go into
# the *task's* loss, and gradient descent chooses. Lesson 03 shows how a staircase can have a
# gradient.
#
# ## Explore: the error surface
#
# Three settings worth trying:
#
# 1. *8 bits, threshold 2^0, then down octave by octave.* At which threshold does the curve of both
#    errors leave the curve of rounding?
# 2. *2 bits at the best threshold for 8 bits.* The sentence says how many octaves you are off, and
#    what that costs.
# 3. *1 bit.* The whole row has a large error: half of the weights become 0, and the threshold only
#    changes the error of the other half.
#
# Try another tensor: `explorers.surface(weights["conv1.weight"])` or
# `explorers.surface(activations["relu"])`.
# %%
explorers.surface(weight)
# %% [markdown]
# ## Summary
#
# * The squared error is rounding plus clipping. A higher threshold means more rounding error and
#   less clipping error.
# * With few bits, the best threshold often lies below the largest value. With fewer bits it goes
#   down, or stays.
# * A sign costs a tensor on one side of 0 exactly one bit.
# * A power of two costs up to a few decibels, depending on where the best threshold lies.
# * The least error of a tensor need not be the best accuracy of the network.
#
# ## To talk about
#
# * One of the images that you choose thresholds on is very bright. What does it do to a threshold
#   taken from the maximum, and to one of least error?
# * Which other measure could replace the squared error, so that it predicts the accuracy better?
#   What would it cost?
# * Two tensors lose the same share. Which facts about the network help you to guess which of the
#   two lowers the accuracy more?
# * Weights are fixed, activations change with the image. Who should choose the activations'
#   thresholds, and when?
#
# **In the paper:** sections 3.1 and 3.2: the search space is the table of bits and thresholds of
# this lesson, for each tensor; section 4: the activations' thresholds begin at a running maximum.
# **Differences:** the paper has no error surface. Here we choose thresholds by error, to show what
# that does; HMQ chooses them by the task's loss.
