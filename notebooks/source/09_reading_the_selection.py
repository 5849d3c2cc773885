# %% [markdown]
# # Reading the selection
#
# A search hands you a list of bits. What does it say about the network, and what only about this one run?
#
# **Minutes:** 40 (20 s of them computing) · **Data:** records that come with the package and built-in pictures, nothing
# to fetch · **Know first:** lessons 06 and 07
#
# **After this you can**
#
# * draw the bits of a network by layer, and tell early from late and large from small,
# * compare two selections by the weights they agree on and by their order, beside what sizes alone would explain,
# * say what no search gave up, and how little that says where it costs nothing,
# * set a selection beside each layer's error and rise of the loss, and read their disagreement.

# %% tags=["parameters"] quick={"pictures": 64}
# Parameters: how many pictures the sensitivities are measured on, and how often a list is shuffled.
pictures = 512
shuffles = 2000
seed = 0

# %%
import itertools

import numpy as np
import seaborn as sns

from hmq_lab import SearchSpace, attach, budget, checks, data, explorers, models, plots
from hmq_lab.hardware.folding import fold
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import calibrate
from hmq_lab.rivals.landscape import Landscape
from hmq_lab.rivals.methods import alone, integer_programme
from hmq_lab.runs import records


def of(record):
    return [t for t in record.tensors if t["kind"] == "weight"]


def bits(record, key="bits_before_repair"):
    """What the search chose: before the repair, which gives small weights what is left of the budget."""
    return [t[key] for t in of(record)]


def complete(**header):
    return {n: r for n, r in records.matching(**header).items() if r.results["status"] == "complete"}


found = complete(data="cifar10", model="resnet20")
plain = {
    n: r
    for n, r in found.items()
    if r.header["target"]["activation_bits"] == 8
    and not r.header.get("hardware_mode")
    and 1 in r.header["space"]["bits"]
}
first = next(iter(plain.values()))
names = [t["name"].removesuffix(".weight") for t in of(first)]
sizes = [t["size"] for t in of(first)]
print(f"{len(found)} complete searches of ResNet-20 on CIFAR10; {len(plain)} differ by target and seed alone")

# %% [markdown]
# ## Bits per layer
#
# *Predict:* which columns of this table are bright in every row, and which get dark first as the target rises?

# %%
plots.show(plots.bits_by_record(found))

# %% [markdown]
# ## Early against late, large against small
#
# The paper reports that deeper layers get by with fewer bits. In a ResNet the deeper layers are also the larger ones,
# and the budget presses on a weight in proportion to its elements. *Predict:* within layer1, where all six weights are
# of one size, do the later ones have fewer bits?

# %%
parts = [name.split(".")[0] for name in names]
order = list(dict.fromkeys(parts))
drawing, (left, right) = plots.canvas(1, 2, height=3.8)
for number, record in enumerate(plain.values()):
    means = [np.mean([b for b, part in zip(bits(record), parts) if part == p]) for p in order]
    look = {"color": plots.COLOURS[number % 4], "marker": plots.MARKERS[number % 4]}
    left.plot(range(len(order)), means, label=records.label(record), ls=("-", "--", ":")[number // 4 % 3], **look)
left.set(xticks=range(len(order)), xticklabels=order, ylabel="mean bits of the part's tensors", ylim=(0.5, 8.5))
mean = np.mean([bits(r) for r in plain.values()], axis=0)
within = {size: [i for i, n in enumerate(sizes) if n == size] for size in sorted(set(sizes))}
for (size, places), colour, marker in zip(
    [(s, p) for s, p in within.items() if len(p) > 2], plots.COLOURS, plots.MARKERS
):
    right.plot(range(1, len(places) + 1), mean[places], color=colour, marker=marker, label=f"{size:,} elements")
right.set(xlabel="place among the tensors of one size", ylabel="mean bits over the searches", ylim=(0.5, 8.5))
left.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(-0.1, 1), borderaxespad=0)
right.legend(frameon=False, fontsize=9)
by_part = ", ".join(f"{p} {np.mean([m for m, part in zip(mean, parts) if part == p]):.1f}" for p in order)
told = "; ".join(
    f"{size:,}: {mean[places[0]]:.1f} for the first, {mean[places[-1]]:.1f} for the last"
    for size, places in within.items()
    if len(places) > 2
)
plots.show(drawing, f"Mean bits over the searches: {by_part}. Among tensors of one size, in elements: {told}.")

# %% [markdown]
# On the left, depth and size fall together and cannot be told apart. On the right the size stands still.
#
# ## Exercise 1 · The order of the bits (medium, 8 minutes)
#
# Write `rank_correlation(one, two)`: Spearman's rank correlation of two lists. Each number is replaced by its rank;
# equal numbers share the mean of their ranks, as bits are full of ties; then it is the ordinary correlation of the
# ranks.


# %% tags=["stub"]
def rank_correlation(one, two):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A mean rank needs no sorting: how many are smaller, plus half of the others that are equal. `np.corrcoef(a, b)[0, 1]`
# is the correlation.


# %% tags=["solution"]
def rank_correlation(one, two):
    def ranks(x):
        x = np.asarray(x)
        return [(x < a).sum() + ((x == a).sum() - 1) / 2 for a in x]

    return np.corrcoef(ranks(one), ranks(two))[0, 1]


# %% tags=["check"]
checks.rank_correlation(rank_correlation)


# %%
def spearman(one, two):
    """As in the exercise, so that this page goes on without it; NaN where a list is constant."""
    one, two = (np.sign(np.subtract.outer(x, x)).sum(1).astype(float) for x in (np.array(one), np.array(two)))
    scale = np.sqrt((one @ one) * (two @ two))
    return one @ two / scale if scale else np.nan


print("rank correlation of the bits")
print(f"{'':28s}{'with the elements':>20s}{'with the place':>17s}")
for record in plain.values():
    with_elements, with_place = (spearman(bits(record), other) for other in (sizes, range(len(sizes))))
    print(f"{records.label(record):28s}{with_elements:20.2f}{with_place:17.2f}")

# %% [markdown]
# ## Explorer: two selections as maps
#
# Below stand two searches of one target with different seeds, if the package has such records, and else two targets.
# Three settings worth trying:
#
# * **Drag `step` from the first to the last.** When do the maps agree most: before the search has begun, of course; and
#   after that?
# * **Stop where a triangle appears, choose that `layer`, and look at both tables.** Is the probability split between
#   the two choices, or is each search sure of its own?
# * **`step` repaired.** Which of the triangles were made by the repair and not by a search?

# %%
by_target = {}
for record in plain.values():
    by_target.setdefault(record.header["target"]["weights"], []).append(record)
twice = [group[:2] for group in by_target.values() if len(group) > 1]
pair = twice[-1] if twice else list(plain.values())[-2:]
last = pair[0].of("tables")[-1]["step"]
differ = [t["name"] for t, a, b in zip(of(pair[0]), bits(pair[0]), bits(pair[1])) if a != b]
explorers.selection(*pair, step=last, layer=differ[0] if differ else of(pair[0])[0]["name"])

# %% [markdown]
# ## Does a second seed choose the same?
#
# ## Exercise 2 · Agreement (easy, 4 minutes)
#
# Write `agreement(one, two, sizes)`: the share of the weights, from 0 to 1, to which two selections give the same bits.
# `one` and `two` are lists of bits, `sizes` the elements of each tensor.


# %% tags=["stub"]
def agreement(one, two, sizes):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Count weights, not tensors: a tensor on whose bits both agree counts with all of its elements.


# %% tags=["solution"]
def agreement(one, two, sizes):
    return sum(n for a, b, n in zip(one, two, sizes) if a == b) / sum(sizes)


# %% tags=["check"]
checks.agreement(agreement)

# %% [markdown]
# A number for agreement needs something to compare it with. Here: the same bits dealt out anew, at random, *among
# tensors of one size*. So the sizes, which explain much, are left to work as they do. *Predict:* do two searches agree
# more than two that know nothing but the sizes?

# %%
random = np.random.default_rng(seed)
groups = [np.flatnonzero(np.array(sizes) == size) for size in sorted(set(sizes))]


def shared(one, two):
    return np.average(np.array(one) == np.array(two), weights=sizes)


def dealt(one):
    """The bits in another order, among tensors of one size."""
    one = np.array(one)
    for group in groups:
        one[group] = random.permutation(one[group])
    return one


def compare(one, two):
    by_chance = np.array([shared(dealt(one), two) for _ in range(shuffles)])
    own = shared(one, two)
    return own, by_chance.mean(), (by_chance >= own - 1e-12).mean(), spearman(one, two)


def line(one, two, name):
    own, chance, as_good, order = compare(bits(one), bits(two))
    print(f"{name:40s}{own:11.0%}{chance:11.0%}{as_good:17.0%}{order:8.2f}")


print(f"{'':40s}{'agreement':>11s}{'dealt out':>11s}{'as good or more':>17s}{'order':>8s}")
for one, two in twice:
    seeds = f"seeds {one.header['seed']} and {two.header['seed']}"
    line(one, two, f"target {one.header['target']['weights']:g}, {seeds}")
targets = [group[0] for group in by_target.values()]
for one, two in itertools.pairwise(targets):
    line(one, two, f"targets {one.header['target']['weights']:g} and {two.header['target']['weights']:g}")
if not twice:
    print("No target was searched with a second seed in these records: only targets can be compared.")

# %%
labels = [records.label(r) for r in plain.values()]
table = np.array([[spearman(bits(a), bits(b)) for b in plain.values()] for a in plain.values()])
drawing, ax = plots.canvas(height=1.6 + 0.42 * len(labels))
style = {"cmap": "cividis", "vmin": 0, "vmax": 1, "annot": True, "fmt": ".2f", "linewidths": 0.5}
sns.heatmap(table, ax=ax, xticklabels=labels, yticklabels=labels, cbar_kws={"label": "rank correlation"}, **style)
ax.tick_params(axis="x", rotation=20)
off = table[~np.eye(len(labels), dtype=bool)]
plots.show(
    drawing,
    f"The order of the bits over the {len(names)} weights, every search against every other: the rank correlations lie "
    f"from {off.min():.2f} to {off.max():.2f}.",
)

# %% [markdown]
# Two searches may agree on the *order* of the layers, who has more bits and who has fewer, and still give many weights
# other bits. The order is what one may read in a selection; a bit more or less in one layer of one run is not.
#
# ## What the network refuses to give up
#
# ## Exercise 3 · Kept in every search (easy, 4 minutes)
#
# Write `kept(selections, least)`: for each tensor whether it has at least `least` bits in *every* selection.
# `selections` is a list of lists of bits; return a list of True and False.


# %% tags=["stub"]
def kept(selections, least):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `zip(*selections)` goes through the tensors: of each, its bits in all selections.


# %% tags=["solution"]
def kept(selections, least):
    return [min(chosen) >= least for chosen in zip(*selections)]


# %% tags=["check"]
checks.kept(kept)

# %% [markdown]
# *Predict:* which tensors have 8 bits in every search, and what share of all weights do they hold?

# %%
selections = np.array([bits(r) for r in found.values()])
for least in (8, 4, 3, 2):
    held = selections.min(0) >= least
    share = np.dot(held, sizes) / sum(sizes)
    said = ", ".join(name for name, keeps in zip(names, held) if keeps) or "none"
    said = said if held.sum() <= 8 else f"{held.sum()} tensors"
    print(f"at least {least} bits in all {len(selections)} searches: {share:6.1%} of the weights: {said}")

# %% [markdown]
# What keeps 8 bits everywhere holds hardly any weights: it would save next to nothing to lower it, so the budget
# hardly presses on it. "The network refuses" and "nobody asked" look the same in a selection. To tell them apart one
# has to ask: lower the tensor alone, and see what the loss does.
#
# ## Sensitivity
#
# On the small network that comes with the package we can ask, as in lesson 06: the rise of the loss with one tensor at
# 3 bits and all others at 8, and the tensor's squared error at 3 bits as a share of its squares. Beside them, what a
# recorded search chose.
#
# *Predict:* which goes with the selected bits: the error, the rise of the loss, or the number of elements?

# %%
recorded = records.recorded("builtin-tiny_resnet8-w8-a8")
space = SearchSpace()
builtin = data.load("builtin")
x, y = next(builtin.train.subset(range(pictures)).batches(pictures))
network = models.build("tiny_resnet8")
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
fold(network.eval())
attach(network, space, x[:64])
calibrate(network, [x])
loss = Landscape(network, x, y)
small = budget.weight_sizes(network)
rises = alone(loss, small, space)

# %%
asked = 3  # bits
chosen = {t["name"]: t["bits_before_repair"] for t in of(recorded)}
weights = {name: network.get_submodule(name.removesuffix(".weight")).parametrizations.weight.original for name in small}
energy = {name: weight.detach().double().square().sum().item() for name, weight in weights.items()}
measures = {
    "elements": [small[name] for name in chosen],
    f"error at {asked} bits (%)": [100 * loss.errors[name][asked] / energy[name] for name in chosen],
    f"rise of the loss at {asked} bits": [rises[name][asked] for name in chosen],
    "rise per 1,000 elements": [1000 * rises[name][asked] / small[name] for name in chosen],
}
drawing, axes = plots.canvas(1, 4, height=3.4, sharey=True)
for ax, (what, values), colour, marker in zip(axes, measures.items(), plots.COLOURS, plots.MARKERS):
    ax.plot(values, list(chosen.values()), ls="none", marker=marker, color=colour, ms=8)
    ax.set(xlabel=what, ylim=(0.5, 8.5))
    ax.margins(x=0.12)
axes[0].set_xscale("log")
for ax, values in zip(axes[2:], list(measures.values())[2:]):  # most rises are small, some may be below 0, one is large
    ax.set_xscale("symlog", linthresh=0.01)
    ax.set_xticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    ax.set_xlim(2 * min(0, *values) - 0.004, 2 * max(values))
axes[0].set_ylabel("selected bits")
told = ", ".join(f"{spearman(list(chosen.values()), values):+.2f} with {what}" for what, values in measures.items())
plots.show(drawing, f"The selected bits of {len(chosen)} tensors; rank correlation {told}.")

# %% [markdown]
# Eight points are few, and the sensitivities are those of the network before the search, which trained the weights
# along. In the run shown two measures go with the selected bits: the elements, as the budget counts them, and the rise
# for each element, what a bit is worth there. The two are no strangers: few elements make a large rise for each. A
# tensor's error, for which the network is not asked, says little.
#
# An integer programme may choose with these rises as its costs. *Predict:* will it choose what the search chose?

# %%
target = recorded.header["target"]["weights"]
by_rise = integer_programme(rises, small, target)
by_error = integer_programme(loss.errors, small, target)
print(f"{'':24s}{'elements':>10s}{'search':>8s}{'by rise':>9s}{'by error':>10s}")
for name, b in chosen.items():
    print(f"{name.removesuffix('.weight'):24s}{small[name]:10,}{b:8d}{by_rise[name]:9d}{by_error[name]:10d}")
for way, choice in (("rise", by_rise), ("error", by_error)):
    same = np.average([choice[n] == b for n, b in chosen.items()], weights=list(small.values()))
    order = spearman(list(chosen.values()), list(choice.values()))
    print(f"by {way}: the same bits for {same:.0%} of the weights, order {order:.2f}, loss {loss(choice):.3f}")
print(f"the search's bits on these frozen weights: loss {loss(chosen):.3f}, rate {budget.rate(chosen, small):.2f}")

# %% [markdown]
# Both programmes minimize a sum exactly, of what single tensors cost; the last number of their lines says what that is
# worth when all tensors are lowered together. In the run shown, costs that the network was asked for lead near the
# search's choice, squared errors far from it and to a loss ten times as large. That the rises may beat the search here
# is no wonder: they were measured on these frozen weights, and the search trained them along.
#
# ## Depthwise against pointwise
#
# The paper's figure 5: in MobileNets pointwise convolutions get by with fewer bits than depthwise ones. *Predict:*
# which of the two kinds holds nearly all of the weights?


# %%
def layer_kind(t, number):
    if len(t["shape"]) == 2:
        return "linear"
    if t["shape"][1] == 1 and number:  # one input channel; the first convolution may see grey pictures
        return "depthwise"
    return "pointwise" if t["shape"][2:] == [1, 1] else "convolution"


def has_depthwise(record):
    return any(layer_kind(t, number) == "depthwise" for number, t in enumerate(of(record)))


mobile = {name: record for name, record in complete().items() if has_depthwise(record)}
if not mobile:
    print("No search of a network with depthwise convolutions is among the records: nothing to compare here.")
for record in mobile.values():
    tensors = of(record)
    kinds = [layer_kind(t, number) for number, t in enumerate(tensors)]
    order = sorted(set(kinds))
    halves = ["early" if 2 * number < len(tensors) else "late" for number in range(len(tensors))]
    drawing, (left, right) = plots.canvas(1, 2, height=3.6)
    aside = np.random.default_rng(seed).uniform(-0.12, 0.12, len(tensors))
    for half, colour, marker, shift in (("early", plots.BLUE, "o", -0.18), ("late", plots.ORANGE, "s", 0.18)):
        chosen_here = [i for i in range(len(tensors)) if halves[i] == half]
        places = [order.index(kinds[i]) + shift + aside[i] for i in chosen_here]
        values = [bits(record)[i] for i in chosen_here]
        left.plot(places, values, ls="none", color=colour, marker=marker, ms=5, alpha=0.8, label=f"{half} half")
    left.set_xticks(range(len(order)), order)
    left.set(xlabel="", ylabel="selected bits", ylim=(0.5, 8.5))
    left.legend(frameon=False, loc="lower right")
    total = sum(t["size"] for t in tensors)
    share = [100 * sum(t["size"] for t, k in zip(tensors, kinds) if k == o) / total for o in order]
    right.bar(order, share, color=plots.BLUE)
    right.set(ylabel="share of the weights (%)")
    told = ", ".join(
        f"{o} {np.mean([b for b, k in zip(bits(record), kinds) if k == o]):.1f} ({s:.1f} % of the weights)"
        for o, s in zip(order, share)
    )
    plots.show(drawing, f"{record.header['model']}, {records.label(record)}: mean bits of the tensors: {told}.")

# %% [markdown]
# Where a kind holds a percent of the weights, its bits are nearly free. So that depthwise convolutions keep more bits
# does not show by itself that they need them: it is the same question as above, and has the same answer: ask.
#
# ## Summary
#
# * A selection answers the budget first: bits fall with elements. What is left after that is about the network.
# * Compare selections by the order of their bits and by the weights that agree, and always beside chance.
# * Read what the searches chose before the repair; small weights get bits from it that no gradient asked for.
# * What keeps its bits in every search may be needed, or may only be cheap. Sensitivities tell, as far as single
#   tensors go.
#
# ## To talk about
#
# * Two searches with different seeds end with nearly the same accuracy and other bits. What may a paper write about
#   "the bits a network needs"?
# * Many recipes fix the first and the last layer at 8 bits from the start. Which of these records support that?
# * How would you design a budget under which "refuses to give up" can be told from "nobody asked"?
# * The sensitivities were measured on float-trained weights. Why might they mislead about a network that trains along?
#
# **In the paper:** figure 5 shows bits per layer for MobileNets. **Differences:** more than one record stands beside
# another here, also with a second seed where there is one; and what the search chose is read before our repair, which
# the paper does not have.
