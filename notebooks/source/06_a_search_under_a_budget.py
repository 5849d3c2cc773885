# %% [markdown]
# # A search under a budget
#
# How good is the choice that HMQ makes? On a small network every choice can be tried, so the question has an answer.
#
# **Minutes:** 40 (3 of them computing) · **Data:** built in, nothing to fetch · **Know first:** lessons 04 and
# 05: the block, its probabilities, the temperature
#
# **After this you can**
#
# * say what a budget is, and what the hinge makes of it,
# * find the best bits of a small network by trying all of them, and know when that is out of the question,
# * name three rivals of HMQ, what each one looks at, and how often it runs the network,
# * measure a choice by its rank and its regret, over several seeds,
# * tell the expected rate from the actual one, and say what the repair does about the gap.

# %% tags=["parameters"] quick={"widths": (2, 8), "targets": (8.0,), "pictures": 64, "epochs": 4, "seeds": 1}
# Parameters: widths, targets and seeds are yours to change. The choices to try are len(widths) ** 8.
widths = (2, 4, 8)
targets = (6.0, 8.0, 12.0)
target = 8.0  # one of them
pictures = 512  # of the training set: all that any of the ways to choose may look at
epochs = 30  # of a search, over these pictures
logit_rate = 0.2  # learning rate of the blocks' logits
seeds = 3
tested = 1000  # pictures of the test set, to judge what was chosen

# %%
import dataclasses

import numpy as np
import seaborn as sns

from hmq_lab import SearchSpace, Target, attach, budget, checks, data, explorers, models, plots, search
from hmq_lab.hardware.folding import fold
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import calibrate
from hmq_lab.rivals.landscape import Landscape
from hmq_lab.rivals.methods import alone, exhaustive, greedy, integer_programme, uniform
from hmq_lab.runs import records
from hmq_lab.settings import preset

builtin = data.load("builtin")
few = data.Data(
    builtin.name,
    builtin.classes,
    builtin.normalize,
    dataclasses.replace(builtin.train.subset(range(pictures)), augmentation=None),
    builtin.validation.subset(range(200)),
    builtin.test.subset(range(tested)),
)


def shipped():
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    fold(network.eval())  # batch norm into the convolutions: frozen weights are then a frozen network
    return network


# %% [markdown]
# ## The budget
#
# A network of eight weight tensors, trained, and from here on frozen: no weight changes in this lesson. So all ways to
# choose bits face the same problem. Each tensor gets one of `widths`; its threshold is the one with the least squared
# error for these bits (lesson 02). Activations stay at 8 bits.
#
# The budget is a rate: 32 bits over the mean bits of a *weight*.
#
# *Predict:* at a target of 8, may all tensors but the largest have 8 bits?

# %%
space = SearchSpace(widths)
x, y = next(few.train.batches(pictures))
network = attach(shipped(), space, x[:64])
calibrate(network, [x])
sizes = budget.weight_sizes(network)
short = [name.removesuffix(".weight") for name in sizes]

share = 100 * np.array(list(sizes.values())) / sum(sizes.values())
drawing, ax = plots.canvas(height=2.8)
ax.barh(short, share, color=plots.BLUE)
ax.invert_yaxis()
ax.set(xlabel="share of the weights (%)")
largest = max(sizes, key=sizes.get)
most = dict.fromkeys(sizes, max(widths)) | {largest: min(widths)}
plots.show(
    drawing,
    f"{largest} holds {share.max():.0f} % of the {sum(sizes.values()):,} weights. With {min(widths)} bits for it and "
    f"{max(widths)} for all others the rate is {budget.rate(most, sizes):.2f}.",
)

# %% [markdown]
# ## What bits cost, one tensor at a time
#
# `Landscape` is the loss (mean cross-entropy on the pictures) as a function of the bits alone. First we lower one
# tensor and keep the others at the most bits.
#
# *Predict:* does the largest tensor also cost the most?

# %%
loss = Landscape(network, x, y)
base = loss(dict.fromkeys(sizes, max(widths)))
costs = alone(loss, sizes, space)

table = np.array([list(row.values()) for row in costs.values()])
drawing, ax = plots.canvas(height=3.4)
options = {"annot": True, "fmt": ".3f", "cmap": "cividis", "cbar_kws": {"label": "rise of the loss"}}
with np.errstate(all="ignore"):
    sns.heatmap(table, ax=ax, xticklabels=widths, yticklabels=short, **options)
ax.set(xlabel="bits of this tensor")
worst = max(sizes, key=lambda name: costs[name][min(widths)])
plots.show(
    drawing,
    f"With {max(widths)} bits everywhere the loss is {base:.3f}. Taking {worst} alone to {min(widths)} bits adds "
    f"{costs[worst][min(widths)]:.3f}, the largest tensor {costs[largest][min(widths)]:.3f}.",
)

# %% [markdown]
# Size and sensitivity are two things. A tensor is worth lowering where it is large *and* does not mind.
#
# ## The truth, by trying everything
#
# *Predict:* how many choices are there? And with the paper's space, 8 bit-widths and 8 thresholds for each tensor?

# %%
print(f"{len(widths)} widths, {len(sizes)} tensors: {len(widths) ** len(sizes):,} choices of bits")
print(f"the paper's space, {len(sizes)} tensors: {64 ** len(sizes):,} choices of bits and thresholds")

# %%
every = exhaustive(loss, sizes, space)  # all choices: (loss, bits), the best first
losses = np.array([found for found, _ in every])
rates = np.array([budget.rate(bits, sizes) for _, bits in every])
within = rates >= target

# %%
best_loss, best = next((found, bits) for found, bits in every if budget.rate(bits, sizes) >= target)
order = np.argsort(-rates, kind="stable")  # from small networks to large ones: the least loss so far
drawing, ax = plots.canvas(height=4.2)
ax.scatter(rates, losses, s=4, color=plots.PALE, label="a choice of bits", rasterized=True)
ax.step(rates[order], np.minimum.accumulate(losses[order]), c=plots.BLUE, lw=2, label="the best at this rate or above")
ax.axvline(target, color=plots.INK, ls="--", label="target")
ax.plot(budget.rate(best, sizes), best_loss, "*", ms=14, color=plots.RED, label="the optimum within the budget")
ax.set(xlabel="rate of the weights", ylabel="loss", xscale="log", yscale="log")
ax.set_xticks([4, 5, 6, 8, 10, 12, 16], ["4", "5", "6", "8", "10", "12", "16"])
ax.minorticks_off()
ax.legend(frameon=False)
chosen = ", ".join(f"{name} {bits}" for name, bits in zip(short, best.values()))
plots.show(
    drawing,
    f"Of {len(every):,} choices {within.sum():,} reach the target; the best of them has the loss {best_loss:.3f} "
    f"({chosen}), half of them more than {np.median(losses[within]):.2f}.",
)

# %% [markdown]
# ## Exercise 1 · Regret (easy, 5 minutes)
#
# Write `regret(losses, rates, chosen, target)`: how much more the choice number `chosen` loses than the best choice
# that reaches the target. `losses` and `rates` are lists, one number for each choice.


# %% tags=["stub"]
def regret(losses, rates, chosen, target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which choices may you compare with? A higher rate is a smaller network.


# %% tags=["solution"]
def regret(losses, rates, chosen, target):
    best = min(loss for loss, rate in zip(losses, rates) if rate >= target)
    return losses[chosen] - best


# %% tags=["check"]
checks.regret(regret)

# %% [markdown]
# ## Rivals
#
# Nobody tries everything on a real network. Four ways that need less:
#
# * *uniform*: the same bits everywhere;
# * *greedy*: from the most bits downwards, always the change that costs the least loss for each bit it saves;
# * *integer programme on errors*: the least sum of the tensors' squared errors; it never runs the network;
# * *integer programme on the loss*: the least sum of the rises in the table above, as if they simply added up.
#
# *Predict:* which of them comes closest to the optimum? Which one runs the network most often?

# %%
runs = 0


def counted(bits):
    global runs
    runs += 1
    return loss(bits)


def judged(bits, target):
    """Regret and rank among all choices that reach the target."""
    allowed = losses[rates >= target]
    return loss(bits) - allowed.min(), 1 + (allowed < loss(bits)).sum()


def line(name, bits, target):
    regret, rank = judged(bits, target)
    numbers = f"{loss(bits):8.3f}{regret:8.3f}{rank:6d}{budget.rate(bits, sizes):8.2f}"
    return f"{name:18s}{numbers}   {' '.join(map(str, bits.values()))}"


ways = {
    "uniform": lambda target: uniform(sizes, space, target),
    "greedy": lambda target: greedy(counted, sizes, space, target),
    "programme, errors": lambda target: integer_programme(loss.errors, sizes, target),
    "programme, loss": lambda target: integer_programme(alone(counted, sizes, space), sizes, target),
}
rivals, needed = {}, {}
for name, choose in ways.items():
    runs = 0
    rivals[name] = choose(target)
    needed[name] = runs
print(f"{'':18s}{'loss':>8s}{'regret':>8s}{'rank':>6s}{'rate':>8s}   bits")
for name, bits in rivals.items():
    print(line(name, bits, target), f"  after {needed[name]} runs")
print(line("the optimum", best, target), f"  after {len(every)} runs")

# %% [markdown]
# Where the rises of single tensors do not add up, a programme that assumes it cannot see the optimum: the errors of two
# layers may cancel, or the second may amplify what the first one spoils.
#
# ## Exercise 2 · The cheapest bits (medium, 10 minutes)
#
# Write `best_bits(costs, sizes, target)`: the bits with the least *sum* of costs among those that reach the target, by
# trying every choice. `costs` is a list of dictionaries {bits: cost}, one for each tensor; `sizes` a list of their
# elements. Return the bits as a list or tuple. (The integer programme finds the same without trying them all.)


# %% tags=["stub"]
def best_bits(costs, sizes, target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `itertools.product(*costs)` goes through every choice: the keys of a dictionary are what you iterate over. The rate is
# 32 * (all weights) / (bits of all weights).


# %% tags=["solution"]
def best_bits(costs, sizes, target):
    import itertools

    def cost(bits):
        return sum(row[b] for row, b in zip(costs, bits))

    def reaches(bits):
        return 32 * sum(sizes) / sum(b * n for b, n in zip(bits, sizes)) >= target

    return min(filter(reaches, itertools.product(*costs)), key=cost)


# %% tags=["check"]
checks.best_bits(best_bits)

# %% [markdown]
# ## The hinge
#
# HMQ does not try choices one by one. It gives each tensor probabilities over its bits and learns them by gradient
# descent, all at once. The budget comes in through the loss:
#
# $$\text{task loss} + \gamma \cdot \max\!\left(\frac{R_\text{target} - R}{R_\text{target}},\, 0\right)^2$$
#
# with $R$ the rate under the *expected* bits of each tensor.
#
# ## Exercise 3 · The hinge (easy, 3 minutes)
#
# Write `hinge(rate, target)`, the term without its factor γ.


# %% tags=["stub"]
def hinge(rate, target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First the relative shortfall, then nothing below 0, then the square.


# %% tags=["solution"]
def hinge(rate, target):
    return max((target - rate) / target, 0) ** 2


# %% tags=["check"]
checks.hinge(hinge)

# %% [markdown]
# ## HMQ's choice
#
# A search with the network's learning rate at 0: only the logits of the blocks learn, from the same pictures.
# Everything else is the package's search: expected step and threshold, one sample per picture and per input channel, a
# temperature that falls and starts again, the hinge, the selection, the repair. In practice the weights learn at the
# same time; here they may not, so that the landscape stands still.
#
# *Predict:* over several seeds, does HMQ find the optimum? Does it find the same bits every time?

# %%
schedules = {
    "cycles": {"cycles": 4},  # the paper's way: the temperature falls, and starts again
    "one decay": {"cycles": 1},
    "constant": {"cycles": 1, "temperature_decay": 1e-9},
}


def hmq(target, seed, schedule="cycles"):
    settings = preset(
        "quick/builtin",
        search_epochs=epochs,
        final_epochs=0,
        network_learning_rate=0.0,
        logit_learning_rate=logit_rate,
        target_steps=1,
        augment=False,
        compile="off",
        log_every=4,
        calibration_pictures=None,
        **schedules[schedule],
    )
    options = {"space": space, "settings": settings, "name": "tiny_resnet8", "progress": False}
    return search(shipped(), few, Target(weights=target), seed=seed, **options)


def bits_of(record, key="bits"):
    return {t["name"]: t[key] for t in record.tensors if t["kind"] == "weight"}


# %%
searches = {at: [hmq(at, seed) for seed in range(seeds)] for at in targets}

# %%
print(f"{'target, seed':18s}{'loss':>8s}{'regret':>8s}{'rank':>6s}{'rate':>8s}   bits")
for at in targets:
    for seed, record in enumerate(searches[at]):
        print(line(f"{at:g}, {seed}", bits_of(record), at))

# %%
drawing, ax = plots.canvas(height=3.8)
looks = dict(zip(ways, zip((plots.ORANGE, plots.GREEN, plots.RED, plots.INK), "sD^v")))
for place, at in enumerate(targets):
    for shift, name in enumerate(ways):
        colour, marker = looks[name]
        regret, _ = judged(rivals[name] if at == target else ways[name](at), at)
        label = name if place == 0 else None
        ax.plot(place + 0.12 * (shift - 1), regret, marker, color=colour, ms=8, ls="none", label=label)
    found = [judged(bits_of(record), at)[0] for record in searches[at]]
    label = "HMQ, each seed" if place == 0 else None
    ax.plot([place - 0.24] * seeds, found, "o", color=plots.BLUE, ms=9, mfc="none", mew=2, ls="none", label=label)
    ax.plot(
        [place - 0.35, place + 0.35], [np.median(losses[rates >= at]) - losses[rates >= at].min()] * 2, color=plots.PALE
    )
ax.plot([], [], color=plots.PALE, label="half of all choices are worse")
ax.set_yscale("symlog", linthresh=0.01)
ax.set(
    xticks=range(len(targets)), xticklabels=[f"target {at:g}" for at in targets], ylabel="regret", ylim=(-0.002, None)
)
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
sentences = []
for at in targets:
    ranks = [judged(bits_of(record), at)[1] for record in searches[at]]
    span = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"
    sentences.append(f"{span} of {(rates >= at).sum():,} at {at:g}")
plots.show(drawing, f"HMQ's rank over {seeds} seeds, by target: {', '.join(sentences)}.")

# %% [markdown]
# In the run shown, HMQ finds the optimum at the target 6 with every seed, which no rival does. At 8 the programme on
# the loss comes closer; at 12 that programme and greedy find the optimum, and HMQ does not. What each one paid: a
# search goes through the pictures `epochs` times, forward and backward, however many tensors and widths there are; the
# rivals' runs, in the table above, grow with both.
#
# (The learning rate of the logits matters. With the preset's 0.05 instead of `logit_rate`, 240 steps are too few to
# carry the probability from 8 bits to where it has to go: try it, and look at the next figure.)
#
# ## Expected and actual
#
# *Predict:* the hinge pulls the expected rate to the target. Is the actual rate, that of the most probable bits, above
# the target or below?

# %%
plots.show(plots.compression(searches[target][0]))

# %%
print(f"{'target, seed':14s}{'expected':>10s}{'selected':>10s}{'repaired':>10s}   moves of the repair")
for at in targets:
    for seed, record in enumerate(searches[at]):
        expected = record.of("step")[-1]["expected_rate"]
        repair = record.of("repair")[0]
        moves = [f"{m['name'].removesuffix('.weight')} {m['before']} to {m['after']}" for m in repair["moves"]]
        numbers = f"{expected:10.2f}{repair['rate_before']:10.2f}{repair['rate_after']:10.2f}"
        print(f"{f'{at:g}, {seed}':14s}{numbers}   {', '.join(moves) or 'none'}")

# %% [markdown]
# The loss never sees the selection. A tensor that stands half on 8 and half on 2 bits counts as 5, and is selected as
# one of the two. So the actual rate jumps where the expected one glides, and may end on either side of the target. The
# repair is this package's own rule: while the target is missed, it lowers the tensor that gives up the least
# probability for each bit; then what is saved beyond the target is given back by the same rule turned round (`refill`).
#
# ## What a restart buys
#
# The paper lets the temperature fall from 1 to 0.5 and start again, several times. *Predict:* do the restarts help
# here, against one long decay, and against a temperature that stays at 1?
#
# Two things may differ: the bits, judged in the landscape as before; and the thresholds, which the search chooses as
# well. So we also look at the accuracy of the searched network, with its own thresholds, on test pictures.

# %%
by_schedule = {"cycles": searches[target]}
for name in ("one decay", "constant"):
    by_schedule[name] = [hmq(target, seed, name) for seed in range(seeds)]

# %%
regrets = {name: [judged(bits_of(r), target)[0] for r in found] for name, found in by_schedule.items()}
own = {name: [r.results["accuracy"]["test"] for r in found] for name, found in by_schedule.items()}
drawing, (left, middle, right) = plots.canvas(1, 3, height=3.4)
styles = dict(zip(by_schedule, zip((plots.BLUE, plots.ORANGE, plots.GREEN), ("-", "--", ":"))))
for name, (colour, style) in styles.items():
    steps = by_schedule[name][0].of("step")
    left.plot([e["step"] for e in steps], [e["temperature"] for e in steps], color=colour, ls=style, label=name, lw=2)
left.set(xlabel="training step", ylabel="temperature τ", ylim=(0, 1.1))
left.legend(frameon=False, loc="lower left")
for ax, values, label in ((middle, regrets, "regret of the bits"), (right, own, "test accuracy, own thresholds (%)")):
    names = [name for name in values for _ in values[name]]
    options = {"hue": names, "palette": [colour for colour, _ in styles.values()], "size": 8, "legend": False}
    sns.swarmplot(x=names, y=[value for found in values.values() for value in found], ax=ax, **options)
    ax.set(xlabel="", ylabel=label)
middle.set_ylim(bottom=-0.005)
said = [
    f"{name} {np.mean(regrets[name]):.3f} and {np.mean(own[name]):.1f} % ({min(own[name]):.1f} to {max(own[name]):.1f})"
    for name in by_schedule
]
plots.show(drawing, f"Mean regret, and test accuracy with its range, over {seeds} seeds: {'; '.join(said)}.")

# %% [markdown]
# Compare the spread of one schedule over its seeds with the difference between two schedules before you believe a
# difference. In the run shown, the regrets differ by about a hundredth: no gain by a restart can be seen here. One of
# the searches at a constant temperature of 1 ended with thresholds that cost it much accuracy; those that end cool did
# not. Three seeds, short searches, frozen weights: longer searches of larger networks may tell another story.
#
# ## On pictures that nobody saw
#
# All these choices looked at the same few pictures. *Predict:* does the order hold on the test set?

# %%
unseen, labels = next(few.test.batches(tested))
test_loss = Landscape(network, unseen, labels)
rows = {"the optimum": best, "HMQ, seed 0": bits_of(searches[target][0]), **rivals}
rows["most bits"] = dict.fromkeys(sizes, max(widths))
print(f"{'':18s}{'rate':>6s}{'loss seen':>11s}{'unseen':>8s}{'test accuracy %':>17s}")
for name, bits in rows.items():
    numbers = f"{budget.rate(bits, sizes):6.2f}{loss(bits):11.3f}{test_loss(bits):8.3f}{test_loss.accuracy(bits):17.1f}"
    print(f"{name:18s}{numbers}")

# %% [markdown]
# Whoever chooses, a frozen network at this rate loses accuracy. In a real search the weights learn along with the bits,
# and fine-tuning follows: then the landscape itself moves towards the choice, which no rival above can use.
#
# ## Explorer: two searches, step by step
#
# First the recorded search of lesson 00's network with all 8 bit-widths, weights learning along.

# %%
recorded = records.recorded("builtin-tiny_resnet8-w8-a8")
print(records.summary(recorded).splitlines()[2])
explorers.replay(recorded, step=recorded.of("tables")[-1]["step"])

# %% [markdown]
# Then the search of this lesson, seed 0, with frozen weights. Three settings worth trying:
#
# * **Drag `step` to the first table, then press play.** Which rows leave the most bits first? Compare with the shares
#   in the first figure of this lesson.
# * **Choose `layer` layer1.0.conv1** and compare its row in the two searches: few weights, and one of the dearest
#   tensors in the table of rises.
# * **Stop where the temperature jumps back to 1** (the middle panel on the right). Do the probabilities move
#   after a restart, or were they decided?

# %%
own_search = searches[target][0]
explorers.replay(own_search, step=own_search.of("tables")[-1]["step"])

# %% [markdown]
# ## Summary
#
# * A budget counts weights; a choice of bits is judged by its loss among all choices that reach the target.
# * Trying everything gives the truth for eight tensors and three widths, and for hardly more than that.
# * Rivals differ in what they look at: sizes alone, errors, single rises of the loss, or the loss step by step.
# * HMQ learns all tensors' bits at once by gradient; its choice differs from seed to seed, so tell a rank with its
#   spread.
# * The loss pulls the expected rate; the repair closes the gap to the actual one.
#
# ## To talk about
#
# * Greedy ran the network so many times. How many times would it for 50 tensors with 8 widths? And what does a search
#   step of HMQ cost then?
# * The rises of single tensors do not add up. Where in a network would you expect that most?
# * HMQ's choice is judged here on frozen weights, for which it was not made. What would a fairer comparison need, and
#   what would it cost?
# * Two searches with different seeds give different bits and nearly the same loss. Is that good news or bad news for
#   someone who reads bits per layer as a property of the network?
#
# **In the paper:** the loss and the two stages are section 4; figure 2 compares expected and actual compression.
# **Differences:** the paper trains weights and logits together and fine-tunes afterwards; here the weights are frozen,
# batch norm is folded, each tensor chooses among `widths`, and the repair is ours. The paper's target rises in steps;
# here it stands from the start.
