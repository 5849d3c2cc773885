# %% [markdown]
# # Threshold and bits
#
# A quantizer errs twice: it rounds what lies below its threshold and clips what lies above. The best threshold
# balances the two, it depends on the bits, and the least error is still not the best accuracy.
#
# **Minutes:** 45 (20 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** lesson 01; mean
# and standard deviation
#
# **After this you can**
#
# * take the error of a quantizer apart into rounding and clipping,
# * find the best threshold for a tensor and a bit-width, and say why it falls as bits fall,
# * tell what a sign costs, and what a power of two costs,
# * compare real layers with Gaussian and Laplace numbers,
# * say what the error of a layer does not tell about the accuracy of the network.
# %% tags=["parameters"] quick={"pictures": 100, "values": 2000}
# Parameters: pictures for the accuracy, random numbers for the comparison of distributions, and their seed.
pictures = 1000
values = 100_000
seed = 0
# %%
from itertools import pairwise

import numpy as np
import seaborn as sns
import torch

from hmq_lab import Scheme, checks, data, explorers, models, plots, quantize
from hmq_lab.explorers import error_surface
from hmq_lab.models.training import evaluate
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.quantizer import threshold_exponent

network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weights = {name: w.detach() for name, w in network.named_parameters() if w.dim() > 1}
weight = weights["layer3.0.conv2.weight"]
print(f"{len(weights)} weight tensors; layer3.0.conv2.weight reaches from {weight.min():.3f} to {weight.max():.3f}")


# %% [markdown]
# ## Two errors
#
# With b bits the threshold sets the step. A *large* threshold gives a large step: values are rounded to coarse
# levels. A *small* one gives fine levels, but what lies beyond the last level is clipped to it. We call a value
# clipped if it *rounds* to a level that is not there, and look at the squared error of the two groups apart.
#
# The largest magnitude in this layer is 0.475. *Predict:* with 3 bits, is the best threshold above it, near it, or
# well below?
# %%
def errors(x, bits, threshold, signed=True):
    """Shares of x's sum of squares that rounding and clipping lose."""
    step = threshold / 2 ** (bits - signed)
    quantized = quantize(x, step, threshold, signed)
    clipped = ((x / step).round() * step - quantized).abs() > step / 2  # rounds to another level than it gets
    square = (quantized - x).square() / x.square().sum()
    return square[~clipped].sum().item(), square[clipped].sum().item()


thresholds = torch.logspace(-5, 0, 81, base=2).tolist()
rounding, clipping = np.array([errors(weight, 3, t) for t in thresholds]).T
total = rounding + clipping
best = thresholds[int(total.argmin())]

whole = [(quantize(weight, t / 4, t, True) - weight).square().sum() / weight.square().sum() for t in thresholds]
print(f"rounding + clipping differs from the squared error by at most {abs(total - np.array(whole)).max():.0e}")
# %%
drawing, ax = plots.canvas(height=3.6)
ax.plot(thresholds, 100 * rounding, color=plots.BLUE, ls="--", label="rounding")
ax.plot(thresholds, 100 * clipping, color=plots.ORANGE, ls=":", lw=2, label="clipping")
ax.plot(thresholds, 100 * total, color=plots.GREEN, lw=3, alpha=0.6, label="both")
powers = [2.0**e for e in range(-5, 1)]
ax.plot(powers, [100 * sum(errors(weight, 3, t)) for t in powers], "o", color=plots.INK, label="powers of two")
ax.axvline(weight.abs().max(), color=plots.INK, lw=1)
ax.annotate("largest weight", (weight.abs().max(), 0.08), (4, 0), textcoords="offset points")
ax.set(xscale="log", yscale="log", ylim=(0.05, 500), xlabel="threshold", ylabel="lost of the sum of squares (%)")
ax.set_xticks(powers, [f"$2^{{{e}}}$" for e in range(-5, 1)])
ax.minorticks_off()
ax.legend(frameon=False, ncols=4, loc="upper left")
plots.show(
    drawing,
    f"With 3 bits the threshold that loses least, {100 * total.min():.1f} % of the layer's sum of squares, is "
    f"{best:.2f}, {best / weight.abs().max():.0%} of the largest weight; below it clipping takes over, above it "
    "rounding.",
)
# %% [markdown]
# The best threshold clips on purpose. There are few values near the largest one, and many near 0: finer levels for
# the many are worth the error of the few.
#
# Rounding falls by about a factor of four where the threshold is halved, but only while little is clipped: a clipped
# value is in the other group.
#
# ## Fewer bits, lower threshold
#
# *Predict:* with 8 bits there are plenty of levels; with 2 only four. For which of them is the best threshold higher?
# %%
activations = {}


def keep(name):
    return lambda module, inputs, output: activations.update({name: output.detach()})


relus = [(n, m) for n, m in network.named_modules() if isinstance(m, torch.nn.ReLU)]
handles = [module.register_forward_hook(keep(name)) for name, module in relus]
with torch.no_grad():
    network(next(data.load("builtin").test.batches(min(pictures, 128)))[0])
for handle in handles:
    handle.remove()

tensors = {"conv1.weight": weights["conv1.weight"], "layer3.0.relu1, an activation": activations["layer3.0.relu1"]}
surfaces = {name: error_surface.measured(x.double().numpy().ravel()) for name, x in tensors.items()}
# %%
drawing, axes = plots.canvas(1, 2, height=4.4)
for ax, (name, surface) in zip(axes, surfaces.items()):
    share = 100 * surface.total
    texts = [[f"{v:.2g}" if v < 99.5 else f"{v:.0f}" for v in row] for row in share]
    columns = [f"$2^{{{e}}}$" for e in surface.exponents]
    style = {"cmap": "cividis_r", "cbar": False, "annot": texts, "fmt": "", "annot_kws": {"fontsize": 9}}
    sns.heatmap(np.log10(share), ax=ax, xticklabels=columns, yticklabels=range(1, 9), linewidths=0.5, **style)
    ax.invert_yaxis()
    ax.tick_params(axis="y", rotation=0)
    for row, exponent in enumerate(surface.best.values()):
        ax.plot(surface.exponents.index(exponent) + 0.5, row + 0.5, "o", ms=30, mfc="none", mec=plots.RED, mew=1.8)
    ax.set_title(f"{name}\n{'signed' if surface.signed else 'unsigned'}", loc="left")
    ax.set(xlabel="threshold", ylabel="bits")
fallen = {name: s.best[8] - s.best[1] for name, s in surfaces.items()}
plots.show(
    drawing,
    "The share of the sum of squares that is lost (%), by bits and threshold; circles mark the best threshold for "
    "each bit-width. From 8 bits to 1 it falls by "
    + ", ".join(f"{octaves} octave{'s' * (octaves > 1)} ({name})" for name, octaves in fallen.items())
    + ".",
)
# %% [markdown]
# Read a column: left of the circles more bits help a lot; far to the right, where nearly all is clipped, they do not
# help at all. Read a row: with 8 bits an octave too low costs much more than an octave too high; with 2 bits it does
# not. So bits and threshold must be searched *together*, and that is why an HMQ block has one logit for every pair of
# the two.
#
# *Predict:* of the 8 weight tensors, how many have their best 2-bit threshold below the tight one, the smallest power
# of two that nothing exceeds? And how many of the 8-bit ones?
# %%
widths = (8, 6, 4, 3, 2, 1)
print("best threshold, in octaves below the tight one; share lost with 1 bit")
print("tensor                  ", *(f"{b} bits" for b in widths), "  lost")
below = {}
for name, x in {**weights, **activations}.items():
    surface = error_surface.measured(x.double().numpy().ravel())
    tight = threshold_exponent(float(x.abs().max()))
    below[name] = {b: tight - e for b, e in surface.best.items()}
    lost = surface.total[0].min()
    print(f"{name:24s}", *(f"{below[name][b]:6d}" for b in widths), f"{lost:6.0%}")
for bits in (8, 2):
    print(
        f"{bits} bits: below the tight one in {sum(below[n][bits] > 0 for n in weights)} of {len(weights)} weight "
        "tensors"
    )
# %% [markdown]
# ## Weights and activations
#
# Weights lie on both sides of 0, the output of a ReLU on one side, and many of its values *are* 0.
#
# *Predict:* quantize an activation with a signed scheme all the same. How many bits more does it need for the same
# result?
# %%
activation = activations["layer3.0.relu1"]
drawing, (left, right) = plots.canvas(1, 2, height=3)
sns.histplot(weight.flatten().numpy(), bins=60, stat="percent", ax=left, color=plots.BLUE, edgecolor="white", lw=0.3)
positive = activation[activation > 0].numpy()
sns.histplot(positive, bins=60, stat="percent", ax=right, color=plots.ORANGE, edgecolor="white", lw=0.3)
left.set(xlabel="weight", ylabel="weights (%)")
right.set(xlabel="activation", ylabel="values above 0 (%)")
left.set_title("layer3.0.conv2.weight", loc="left")
right.set_title("layer3.0.relu1, without its zeros", loc="left")
zeros = (activation == 0).float().mean()
plots.show(
    drawing,
    f"The weights lie around 0 with a standard deviation of {weight.std():.3f}, "
    f"{weight.std() / weight.abs().max():.0%} of the largest; {zeros:.0%} of the activation's values are exactly "
    f"0, which every scheme has, the others lie on one side and fall off up to {activation.max():.1f}.",
)
# %%
for bits in (1, 2, 3, 4):
    unsigned, signed = Scheme(bits, 1, signed=False), Scheme(bits, 1, signed=True)
    lost = [100 * sum(errors(activation, bits, s.threshold, s.signed)) for s in (unsigned, signed)]
    wider = Scheme(bits + 1, 1, signed=True)
    same = quantize(activation, unsigned.step, unsigned.threshold, False) == quantize(
        activation, wider.step, wider.threshold, True
    )
    print(
        f"{bits} bits: lost unsigned {lost[0]:5.1f} %, signed {lost[1]:5.1f} %; "
        f"signed with {bits + 1} bits is the same in {same.float().mean():.0%} of places"
    )
# %% [markdown]
# Exactly one. A sign halves the levels that a one-sided tensor can use; a signed scheme of one bit has none above 0
# and loses everything.
#
# Weights fare badly for the same reason: one bit gives -t and 0, so that all positive weights become 0. That is why
# the last column of the table above shows half and more for every weight tensor.
#
# ## How far below? It depends on the distribution
#
# Let the threshold be any real number for a moment, and measure it in standard deviations.
#
# *Predict:* Laplace numbers have longer tails than Gaussian ones. For which of them is the best threshold higher? And
# is a real layer more like the one or the other?
# %%
rng = np.random.default_rng(seed)
samples = {
    "Gaussian": torch.from_numpy(rng.normal(size=values)),
    "Laplace": torch.from_numpy(rng.laplace(size=values)),
    "layer3.0.conv2.weight": weight.double().flatten(),
    "conv1.weight": weights["conv1.weight"].double().flatten(),
}
bit_widths = range(1, 9)
octave = 2.0 ** torch.linspace(-2, 4, 61)  # thresholds in standard deviations: a tenth of an octave apart


def search(x, bits):
    """The best real threshold, in standard deviations of x, and what it and the best power of two lose."""
    lost = [sum(errors(x, bits, float(t * x.std()))) for t in octave]
    powers = [sum(errors(x, bits, 2.0**e)) for e in range(-6, 5)]
    return float(octave[int(np.argmin(lost))]), min(*lost, *powers), min(powers)


found = {name: [search(x, bits) for bits in bit_widths] for name, x in samples.items()}
# %%
drawing, (left, right) = plots.canvas(1, 2, height=3.8)
for (name, rows), colour, marker, line in zip(found.items(), plots.COLOURS, plots.MARKERS, ("-", "--", ":", "-.")):
    style = {"color": colour, "marker": marker, "ls": line, "ms": 5, "label": name}
    left.plot(bit_widths, [row[0] for row in rows], **style)
    right.plot(bit_widths, [10 * np.log10(row[2] / row[1]) for row in rows], **style)
left.set(xlabel="bits", ylabel="best threshold (standard deviations)", yscale="log", yticks=(0.5, 1, 2, 4, 8))
left.set_yticklabels(["0.5", "1", "2", "4", "8"])
left.minorticks_off()
left.legend(frameon=False)
right.set(xlabel="bits", ylabel="error of the best power of two,\ndecibels above that of the best")
gain = [10 * np.log10(few[1] / more[1]) for rows in found.values() for few, more in pairwise(rows)]
price = [10 * np.log10(row[2] / row[1]) for rows in found.values() for row in rows]
plots.show(
    drawing,
    f"With 4 bits the best threshold is {found['Gaussian'][3][0]:.1f} standard deviations for Gaussian and "
    f"{found['Laplace'][3][0]:.1f} for Laplace numbers, {found['layer3.0.conv2.weight'][3][0]:.1f} for the real "
    f"layer. The power of two costs {np.mean(price):.1f} decibels on average and {max(price):.1f} at most; one bit "
    f"more gains {np.mean(gain):.1f} on average, {min(gain):.1f} at least.",
)
# %% [markdown]
# Ten decibels are a factor of ten in the squared error, three a factor of two. What the power of two costs is less
# than what one bit gains, and with luck it is nothing.
#
# The four curves differ by what is in their tails. No formula for one distribution serves all layers: HMQ lets each
# tensor choose.
#
# ## What the error does not tell
#
# A small error is a means, accuracy the end. Take the weight tensors one at a time, quantize one of them to 2 bits
# with each of four thresholds, leave the others float, and count the validation pictures that are still recognized.
#
# *Predict:* is the threshold with the least error the one with the best accuracy, for each tensor?
# %%
validation = data.load("builtin").validation.subset(range(pictures))
whole = evaluate(network, validation)
trials = {}
for name, x in weights.items():
    tight = threshold_exponent(float(x.abs().max()))
    trials[name] = []
    for exponent in range(tight, tight - 4, -1):
        scheme = Scheme(2, exponent, signed=True)
        network.get_parameter(name).data = quantize(x, scheme.step, scheme.threshold, scheme.signed)
        trials[name].append((100 * sum(errors(x, 2, scheme.threshold)), evaluate(network, validation)))
    network.get_parameter(name).data = x
least = {name: min(t) for name, t in trials.items()}
highest = {name: max(t, key=lambda pair: pair[1]) for name, t in trials.items()}
# %%
drawing, axes = plots.canvas(2, 4, height=4.9, sharex=True, sharey=True)
places = ("tight", "1 octave below", "2 octaves below", "3 octaves below")
for ax, (name, pairs) in zip(axes.flat, trials.items()):
    ax.axhline(whole, color=plots.INK, lw=1, ls=":")
    for place, (lost, accuracy), colour, marker in zip(places, pairs, plots.COLOURS, plots.MARKERS):
        ax.plot(lost, accuracy, color=colour, marker=marker, ls="none", ms=7, label=place)
    ax.plot(*least[name], "o", ms=15, mfc="none", mec=plots.INK, mew=1.5, ls="none", label="least error")
    ax.set_title(name.removesuffix(".weight"), loc="left")
for ax in axes[-1]:
    ax.set_xlabel("lost (%)")
for ax in axes[:, 0]:
    ax.set_ylabel("accuracy (%)")
drawing.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
agree = [name for name in trials if least[name][1] == highest[name][1]]
gap = max(trials, key=lambda name: highest[name][1] - least[name][1])
plots.show(
    drawing,
    f"Accuracy over error for one tensor at a time with 2 bits; dotted, the float network's {whole:.1f} %. The "
    f"threshold with the least error is also the best for accuracy in {len(agree)} of {len(trials)} tensors; in "
    f"{gap} it gives {least[gap][1]:.1f} %, another one {highest[gap][1]:.1f} % though it loses "
    f"{highest[gap][0]:.0f} instead of {least[gap][0]:.0f} % of the squares.",
)
# %%
order = sorted(least, key=lambda name: least[name][0])
print("tensor                    lost (%)  accuracy (%)")
for name in order:
    print(f"{name:24s} {least[name][0]:8.1f} {least[name][1]:9.1f}")
ranks = [np.argsort(np.argsort([least[n][k] for n in order])) for k in (0, 1)]
print(f"rank correlation of error and accuracy over the tensors: {np.corrcoef(*ranks)[0, 1]:.2f}")
# %% [markdown]
# Across tensors the error says little: the tensors that lose most are not those that hurt most. The error counts
# every weight alike, the network does not. Layers differ in how much of their output the next ones use; and after
# quantization there is training, which may repair one kind of damage better than another.
#
# So HMQ does not minimize the error of any tensor. It takes bits and thresholds of all tensors into the *task's*
# loss, and lets gradient descent choose. How a staircase can have a gradient is the subject of lesson 03.
#
# ## Explore: the error surface
#
# Three settings worth trying:
#
# 1. *8 bits, threshold 2^0, then down octave by octave.* Where does the curve of both stop following rounding?
# 2. *2 bits at the best threshold for 8 bits.* The sentence says how many octaves you are off, and what that costs.
# 3. *1 bit.* The whole row is bad: with half of the weights at 0, the threshold can save only the other half.
#
# Put any tensor in its place: `explorers.surface(weights["conv1.weight"])`, `explorers.surface(activations["relu"])`.
# %%
explorers.surface(weight)


# %% [markdown]
# ## Exercise 1 · Two errors (medium, 6 minutes)
#
# Write `error_parts(x, bits, threshold, signed)`: the two parts of the mean squared error of a two's complement
# quantizer, as a pair (rounding, clipping). A value is clipped if `round(x / step)` lies beyond the first or the last
# code. The two parts add up to the mean squared error of the whole tensor.
# %% tags=["stub"]
def error_parts(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Make a mask of the clipped values from the codes *before* they are clipped. Both sums are divided by `x.numel()`.
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
# ## Exercise 2 · The best threshold (medium, 5 minutes)
#
# Write `best_exponent(x, bits, signed, exponents)`: the M in the list `exponents` whose threshold 2^M gives the least
# squared error. `quantize` may help.
# %% tags=["stub"]
def best_exponent(x, bits, signed, exponents):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Compute the error for each exponent, then `min(exponents, key=...)`. `Scheme(bits, M, signed)` knows step and
# threshold.
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
# Write `fewest_bits(x, limit, signed, exponents)`: the smallest number of bits, from 1 to 8, for which *some*
# threshold 2^M, M in `exponents`, loses at most the share `limit` of x's sum of squares: squared error / sum of
# squares <= limit.
# %% tags=["stub"]
def fewest_bits(x, limit, signed, exponents):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# For each bit-width the threshold of exercise 2 is the one to try: no other loses less.
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
# ## Summary
#
# * The squared error is rounding plus clipping. The first falls with the threshold, the second rises.
# * The best threshold lies below the largest value, and the lower the fewer the bits.
# * A sign costs a one-sided tensor exactly one bit.
# * A power of two costs less than a bit gains, and how much is a matter of luck.
# * The least error of a tensor is not the best accuracy of the network, neither for one tensor nor across tensors.
#
# ## To talk about
#
# * Your calibration pictures have one very bright one among them. What does it do to a threshold taken from the
#   maximum, and to one of least error?
# * Which other measure could replace the squared error, so that it tells more about accuracy, at what price?
# * Two tensors lose the same share. Which facts about the network would let you guess which one hurts more?
# * Weights are fixed, activations change with the picture. Who should choose the activations' thresholds, and when?
#
# **In the paper:** sections 3.1 and 3.2: the search space is the table of bits and thresholds of this lesson, for
# each tensor; section 4: the activations' thresholds begin at a running maximum. **Differences:** the paper has no
# error surface; the thresholds here are chosen by error to show what that does, while HMQ chooses them by the task's
# loss.
