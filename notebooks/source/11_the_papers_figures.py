# %% [markdown]
# # The paper's figures and tables
#
# Every figure and table of the paper again, from our own records, with the published values beside them.
#
# **Minutes:** 45 (10 s of them computing) · **Data:** none, the records come with the package · **Know first:** lesson
# 06: rates, expected and actual; 07 and 08 say how the records were made
#
# **After this you can**
#
# * say what each figure and table of the paper shows, and what its counterpart here can and cannot tell,
# * compute a compression rate from sizes and bits, and count it again when a layer was left out,
# * compare results of different networks by the distance to their own float networks,
# * name the results that no other one beats,
# * tell a value by where it is from: measured, read off a plot, taken from a table.

# %% tags=["parameters"]
# Parameters: which of our records stands for figures 2 and 5, by its target; the bit-widths of figure 1.
near = 16.0
pair = (2, 3)

# %%
import dataclasses
from collections import Counter

import numpy as np
from IPython.display import Markdown

from hmq_lab import checks, explorers, plots
from hmq_lab.plots import comparison, paper, published
from hmq_lab.runs import records
from hmq_lab.settings import Settings

found = records.matching()  # every record that comes with the package, by name
ours = comparison.ours(found)
print(f"{'record':34s}{'rate':>6s}{'test %':>8s}{'float %':>9s}{'minutes':>9s}{'epochs':>9s}")
for v in ours:
    minutes, used = found[v.run].timing["seconds"] / 60, found[v.run].header["settings"]
    epochs = f"{used['search_epochs']} + {used['final_epochs']}"
    print(f"{v.run:34s}{v.wcr:6.2f}{v.accuracy:8.2f}{v.float_accuracy:9.2f}{minutes:9.1f}{epochs:>9s}")

# %% [markdown]
# More records may have come since this text was written: everything below takes what is there.
#
# ## How exactly do we know the published values?
#
# The paper's text is not part of this package. Its results reached us in two ways: read off plots that the authors
# published, and from tables of later papers that cite them.
#
# *Predict:* suppose that an axis of 300 pixels spans 2 points of accuracy. How exact is a value that is read off it to
# half a pixel?

# %%
print(f"half a pixel: {2 / 300 / 2:.4f} points")
for source, count in Counter(v.source for v in published.VALUES).items():
    print(f"{count} values: {published.SOURCES[source]}")
print("not at hand: the values of HAQ, those of HAWQ on ImageNet, the float accuracy of figure 3's network")

# %% [markdown]
# So reading off is the smaller worry. The larger one: two networks are not the same network. Keep this in mind for
# figure 3.
#
# ## Figure 1: the quantizer as the mass moves
#
# A block mixes step and threshold, never quantized tensors. *Predict:* half-way between 2 and 3 bits, are there 4
# levels, 8, or something between?

# %%
plots.show(plots.quantizer_as_mass_moves(pair))

# %% [markdown]
# The picture that the authors published has the range of their code: mirrored, from -t + step to t. Ours is two's
# complement, from -t to t - step. Lesson 01 counts the levels of both.
#
# ## Figure 2: expected and actual compression
#
# *Predict:* the loss pulls the expected rate to its aim. Does the actual rate, that of the most probable bits, come
# along smoothly?

# %%
name = paper.typical(found, near)
record = found[name]
plots.show(plots.compression(record))

# %% [markdown]
# The expected rate glides, the actual one jumps, because a tensor gives up a bit-width all at once. In the paper the
# aim rises in steps over the first epochs. `quick/cifar10` has the whole aim from the first step, since its search is
# short.
#
# ## Exercise 1 · The rate (easy, 3 minutes)
#
# Write `wcr(sizes, bits)`: the compression rate of the weights, 32 over the mean bits of a *weight*. Both are lists
# with a number for each tensor.


# %% tags=["stub"]
def wcr(sizes, bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# How many bits did all weights have together before, how many do they have now?


# %% tags=["solution"]
def wcr(sizes, bits):
    return 32 * sum(sizes) / sum(n * b for n, b in zip(sizes, bits))


# %% tags=["check"]
checks.wcr(wcr)

# %% [markdown]
# ## Figure 3: CIFAR10
#
# The claim to look at: how little accuracy goes while the weights shrink. *Predict:* our float network has 91.73 %, the
# paper's network has 92.90 % when it is quantized already. What may you compare in the upper row, what in the lower?

# %%
plots.show(paper.cifar10(ours))

# %% [markdown]
# The upper row compares networks as much as methods. In the lower row each one is compared with itself: ours with its
# float network. The float accuracy of the paper's network is not at hand, so its best value in the same plot stands in.
# If the float network is better than that, the published loss is larger than it looks here.

# %%
theirs = published.select(data="cifar10", activation_bits=8, method="HMQ")
best = max(v.accuracy for v in theirs)
rates = [v.wcr for v in theirs]
print(f"{'record':34s}{'rate':>6s}{'ours':>8s}{'published':>11s}   points, 8-bit activations")
for v in ours:
    if v.data == "cifar10" and v.activation_bits == 8:
        there = np.interp(v.wcr, rates, [t.accuracy - best for t in theirs])  # a straight line between two points
        within = rates[0] <= v.wcr <= rates[-1]
        print(f"{v.run:34s}{v.wcr:6.2f}{v.distance:+8.2f}{f'{there:+.2f}' if within else 'none':>11s}")

# %% [markdown]
# (`none`: the plot has no values on both sides of that rate.) A rate above 16 needs tensors of 1 bit. Which records
# have them?

# %%
for v in ours:
    weights = [t for t in found[v.run].tensors if t["kind"] == "weight"]
    one = [t for t in weights if t["bits"] == 1]
    share = 100 * sum(t["size"] for t in one) / sum(t["size"] for t in weights)
    print(f"{v.run:34s}{v.wcr:6.2f}  {len(one)} of {len(weights)} tensors with 1 bit, {share:.0f} % of the weights")

# %% [markdown]
# ## Exercise 2 · A fair comparison (easy, 5 minutes)
#
# Write `best_rate(results, points)`: the highest rate at which a result loses at most `points` to *its own* float
# network. `results` is a list of (rate, accuracy, accuracy of the float network). If no result does, return 0.


# %% tags=["stub"]
def best_rate(results, points):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# What was lost is float accuracy minus accuracy. It may be negative.


# %% tags=["solution"]
def best_rate(results, points):
    return max((rate for rate, accuracy, own in results if own - accuracy <= points), default=0)


# %% tags=["check"]
checks.best_rate(best_rate)

# %% [markdown]
# ## Exercise 3 · The Pareto front (medium, 8 minutes)
#
# One point *beats* another if rate and accuracy are both at least as high, and one of them is higher. The points that
# no other point beats are the front. Write `pareto(points)`: for a list of (rate, accuracy) a list of True and False,
# in the same order.


# %% tags=["stub"]
def pareto(points):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# For each point, go through all points and look for one that beats it. Equal points do not beat each other.


# %% tags=["solution"]
def pareto(points):
    def beaten(rate, accuracy):
        return any(r >= rate and a >= accuracy and (r, a) != (rate, accuracy) for r, a in points)

    return [not beaten(*point) for point in points]


# %% tags=["check"]
checks.pareto(pareto)

# %% [markdown]
# *Predict:* of all published values with 8-bit activations, does any rival of HMQ lie on the front?

# %%
values = published.select(data="cifar10", activation_bits=8)
drawing, ax = plots.canvas(height=3.4)
on = comparison.front(values)
for method, marker in zip(("HMQ", "DNAS", "UNIQ", "LQ-Nets"), "ovs^"):
    own = [v for v in values if v.method == method]
    style = {"color": plots.BLUE if method == "HMQ" else plots.INK, "mfc": "white", "ls": "none", "label": method}
    ax.plot([v.wcr for v in own], [v.accuracy for v in own], marker, **style)
ax.step([v.wcr for v in on], [v.accuracy for v in on], where="pre", color=plots.ORANGE, lw=1.2, label="front")
ax.set(xlabel="rate of the weights (WCR)", ylabel="test accuracy (%)")
ax.legend(frameon=False)
methods = Counter(v.method for v in on)
said = ", ".join(f"{count} of {method}" for method, count in methods.items())
plots.show(drawing, f"On the front of the {len(values)} published values with 8-bit activations lie {said}.")

# %% [markdown]
# Two cautions. The plot is by the authors of HMQ, so which rivals are in it was their choice; and a front says nothing
# of how many runs stand behind a point, nor of the spread over seeds.
#
# ## Figure 4: ImageNet, four networks
#
# *Predict:* ResNet-50, MobileNetV1, MobileNetV2, EfficientNet-B0: which one loses most from its largest to its smallest
# published size?

# %%
plots.show(paper.imagenet(ours))

# %% [markdown]
# Nothing here was trained on the whole of ImageNet. Where a record of ours is on other pictures, its accuracy has no
# place in the left panel, and only its distance to its own float network stands in the right one. (The published plot
# repeats the accuracies of MobileNetV1 for MobileNetV2. That series is not used: MobileNetV2's values are from a
# table.)
#
# ## Exercise 4 · 15.7 is 7.2 (medium, 5 minutes)
#
# A rate says little before you know which weights it counts. The authors' ResNet-50 leaves its last layer float, and
# their rate does not count it. Write `recount(rate, quantized, left_float)`: the rate over *all* weights, where
# `quantized` weights have the rate `rate` and `left_float` weights stayed float.


# %% tags=["stub"]
def recount(rate, quantized, left_float):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Count sizes in units of a float weight: what did all weights take before, what do both parts take now?


# %% tags=["solution"]
def recount(rate, quantized, left_float):
    return (quantized + left_float) / (quantized / rate + left_float)


# %% tags=["check"]
checks.recount(recount)

# %%
counted, last = published.WEIGHTS["ResNet-50"], published.RESNET50_LAST
print(f"ResNet-50: {counted:,} weights counted, {last:,} left float")
for v in published.select(network="ResNet-50", acr=None):
    again = comparison.counted_with_last(v.wcr, counted, last)
    print(f"{v.accuracy:.1f} % at a rate of {v.wcr:g}: {again:.1f} with all weights counted")
print("\nours, quantized weights / all weights / whole checkpoint:")
for v in ours:
    rates = found[v.run].results["rates"]
    print(f"{v.run:34s}{rates['weights']:7.2f}{rates['all_weights']:7.2f}{rates['checkpoint']:7.2f}")

# %% [markdown]
# ## Figure 5: bits per layer
#
# The paper's observation: pointwise convolutions get by with fewer bits than depthwise ones, and deeper layers with
# fewer than early ones. *Predict:* in a ResNet-20, which has no depthwise convolutions, what is left of this?

# %%
plots.show(paper.bits_per_layer(record))

# %%
others = [v.run for v in ours if v.data not in comparison.ELSEWHERE]
for run in others:
    print(run)
    plots.show(paper.bits_per_layer(found[run]))
if not others:
    print("No record of a network made for ImageNet comes with this version.")

# %% [markdown]
# Read such a picture with care: large layers pay for the budget, and in most networks the large layers are late. "Deep"
# and "large" are hard to tell apart here. Lesson 09 tries.
#
# ## Tables 1 to 3
#
# What is not known is said to be not at hand. Nothing is filled in.

# %%
tables = comparison.tables(ours)
Markdown(tables["table_1"].markdown())

# %%
Markdown(tables["table_2"].markdown())

# %%
Markdown(tables["table_3"].markdown())

# %% [markdown]
# ACR 8 does not mean 4-bit activations: only the tensors that set the peak memory get fewer than 8 bits.
#
# ## Explorer: the search behind figures 2 and 5
#
# Three settings worth trying:
#
# * **Drag `step` from the first table to the last.** When had each layer the bits that figure 5 shows? Which ones
#   changed late?
# * **Choose `layer` linear, then the last convolution.** One has 640 weights, the other 36,864. Which one can pay for
#   the budget, and which one has no reason to?
# * **Set `step` to repaired.** What did the repair change? Find the same tensor in figure 5.

# %%
explorers.selection(record, step=record.of("tables")[-1]["step"])

# %% [markdown]
# ## What is different from the paper, read from the record
#
# The defaults of `Settings` are the paper's. These are the settings in which the record differs:

# %%
standard = dataclasses.asdict(Settings())
used = record.header["settings"]
print(f"{'setting':22s}{'paper':>12s}  {name}")
for key, value in used.items():
    if key in standard and value != standard[key]:
        print(f"{key:22s}{standard[key]!s:>12s}  {value}")
hardware = record.header["hardware"]
print(f"\n{hardware['device']}, {hardware['processor']}, {hardware['threads']} threads", end="; ")
print(f"{record.timing['seconds'] / 60:.1f} minutes; float network {record.results['accuracy']['float_test']:.2f} %")

# %% [markdown]
# ## Summary
#
# * A published value comes with its source: a plot read to half a pixel, or a later paper's table.
# * Between different networks, compare the distance to the own float network; and say so where that is not known.
# * A rate is a number of bits over a number of weights: always ask which weights.
# * A front shows which results are not beaten, not which method is better.
# * On CIFAR10 we have our own points. On ImageNet itself there are published values alone, unless figure 4 says else.
#
# ## To talk about
#
# * Our float network is 1.2 points below the paper's best quantized one. Would a better float network lose more or
#   less at a rate of 16? How would you find out?
# * Figure 3 has one run per point. How many seeds would you need to believe a difference of 0.2 points on 10,000 test
#   pictures?
# * Which rate would you report for ResNet-50 if you were selling a chip, and which if you were buying one?
# * The released code picks its best epoch on the test set. What does that do to the points of a figure like this one?
#
# **In the paper:** figures 1 to 5, tables 1 to 3.
# **Differences:** another float network (91.73 %, ResNet-20 trained elsewhere); a few epochs instead of 30 and 20, on a
# CPU; higher learning rates, and the whole target from the first step; two's complement ranges; the conventional
# straight-through gradient, so that tensors of 1 bit train; a repair that makes the actual rate reach the target; a
# validation split chooses the epoch, and the test set is looked at once per network.
