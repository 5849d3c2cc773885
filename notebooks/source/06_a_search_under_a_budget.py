# %% [markdown]
# # A search under a budget
#
# How good is the choice that HMQ makes? On a small network every choice can be tried, so this
# question has an answer.
#
# **Minutes:** 45 (180 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# lessons 04 and 05: the block, its probabilities, the temperature
#
# **After this you can**
#
# * say what a budget is, and what the hinge does with it,
# * find the best bits of a small network by trying all of them, and say when that is impossible,
# * name three rivals of HMQ, what each one looks at, and how often it runs the network,
# * measure a choice by its rank and its regret, over several seeds,
# * say how the expected compression differs from the actual one, and how the repair closes the gap.

# %% tags=["parameters"] quick={"widths": [2, 8], "targets": [8.0], "images": 64, "epochs": 4, "seeds": 1, "first": 3}
# Parameters: all of them are yours to change. There are len(widths) ** 8 choices.
widths = (2, 4, 8)
targets = (6.0, 8.0, 12.0)
target = 8.0  # one of them
images = 512  # of the training set: every way to choose may look at these and no others
epochs = 30  # of a search, over these images
logit_rate = 0.2  # learning rate of the blocks' logits
seeds = 3
first = 0  # the first seed
tested = 1000  # images of the test set, to judge what was chosen

# %%
import dataclasses

import numpy as np

from hmq_lab import SearchSpace, Target, attach, budget, checks, data
from hmq_lab import explorers, models, plots, search
from hmq_lab.graph.folding import fold
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import calibrate
from hmq_lab.plots.lessons import lesson06 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.rivals.landscape import Landscape
from hmq_lab.rivals.methods import alone, exhaustive, greedy, integer_programme, uniform
from hmq_lab.runs import records
from hmq_lab.settings import preset

predict = checks.predictions("06")
builtin = data.load("builtin")

# %%
few = data.Data(
    builtin.name,
    builtin.classes,
    builtin.normalize,
    dataclasses.replace(builtin.train.subset(range(images)), augmentation=None),
    builtin.validation.subset(range(200)),
    builtin.test.subset(range(tested)),
)


# %%
def shipped():
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    fold(network.eval(), builtin.train[0][0][None])  # batch norm into the convolutions
    return network


# %% [markdown]
# ## The budget
#
# The network has eight weight tensors and is trained. From here on its weights do not change. So
# all ways to choose bits face the same problem. Each tensor gets one of `widths`; its threshold is
# the one with the least squared error for these bits (lesson 02). Activations stay at 8 bits.
#
# The **budget** is a compression that the choice must reach, at least: with $n_i$ elements and
# $b_i$ bits of tensor $i$,
#
# $$R = \frac{32 \sum_i n_i}{\sum_i n_i b_i} \ge R_\text{target}$$
#
# *Predict:* the largest tensor has 2 bits and all others 8. Does this reach a target of 8?

# %%
others_eight = predict("others-eight", "yes", "no")

# %%
space = SearchSpace(widths)
x, y = next(few.train.batches(images))
network = attach(shipped(), space, x[:64])
calibrate(network, [x])
sizes = budget.weight_sizes(network)
plots.show(figures.shares(sizes))
largest = max(sizes, key=sizes.get)
most = dict.fromkeys(sizes, max(widths)) | {largest: min(widths)}
print(f"this choice has the compression {budget.compression(most, sizes):.2f}")  # R above
others_eight.result("yes" if budget.compression(most, sizes) >= 8 else "no")

# %% [markdown]
# ## What bits cost, one tensor at a time
#
# `Landscape` is the loss (mean cross-entropy on the images) as a function of the bits alone. First
# we lower the bits of one tensor and keep the others at the most bits.
#
# *Predict:* is the largest tensor the one whose loss rises most?

# %%
largest_costs = predict("largest-costs-most", "yes", "no")

# %%
loss = Landscape(network, x, y)
base = loss(dict.fromkeys(sizes, max(widths)))
costs = alone(loss, sizes, space)  # rises of the loss, by tensor and bits
plots.show(figures.costs(costs, sizes, base))
dearest = max(sizes, key=lambda name: costs[name][min(widths)])
largest_costs.result("yes" if dearest == largest else "no")

# %% [markdown]
# How large a tensor is, and how much its bits matter, are two different things. The best tensors to
# lower are those that are large *and* raise the loss little.
#
# ## The truth, by trying everything
#
# *Predict:* how many choices are there with three widths and eight tensors?

# %%
choices = predict("choices", "24", "512", "6,561")

# %%
print(f"the paper's space, {len(sizes)} tensors: {64 ** len(sizes):,} choices")
choices.result(f"{len(widths) ** len(sizes):,}")

# %% [markdown]
# The next cell runs the network once for every choice: about half a minute.

# %%
every = exhaustive(loss, sizes, space)  # all choices: (loss, bits), the best first
losses = np.array([found for found, _ in every])
compressions = np.array([budget.compression(bits, sizes) for _, bits in every])
best = next(bits for _, bits in every if budget.compression(bits, sizes) >= target)
plots.show(figures.landscape(losses, compressions, target, best))

# %% [markdown]
# ## Exercise 1 · Regret (easy, 5 minutes)
#
# The **regret** of a choice is how much more it loses than the best choice within the budget. Write
# `regret(losses, rates, chosen, target)`: the regret of the choice number `chosen`. `losses` and
# `rates` are lists with one number for each choice: its loss and its compression.


# %% tags=["stub"]
def regret(losses, rates, chosen, target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which choices may you compare with? A higher compression is a smaller network.


# %% tags=["solution"]
def regret(losses, rates, chosen, target):
    best = min(loss for loss, rate in zip(losses, rates) if rate >= target)
    return losses[chosen] - best


# %% tags=["check"]
checks.regret(regret)

# %% [markdown]
# ## Rivals
#
# Nobody can try everything on a large network. Four ways need less:
#
# * *uniform*: the same bits everywhere;
# * *greedy*: begins with the most bits; each time, it makes the change that costs the least loss
#   for each bit it saves;
# * *programme, errors*: an integer programme that minimizes the sum of the tensors' squared errors;
#   it never runs the network;
# * *programme, loss*: an integer programme that minimizes the sum of the rises in the table above,
#   as if the rises simply added up.
#
# *Predict:* which of them comes closest to the optimum?

# %%
closest = predict("closest-rival", "uniform", "greedy", "programme, errors", "programme, loss")

# %%
runs = 0


def counted(bits):
    global runs
    runs += 1
    return loss(bits)


ways = {
    "uniform": lambda target: uniform(sizes, space, target),
    "greedy": lambda target: greedy(counted, sizes, space, target),
    "programme, errors": lambda target: integer_programme(loss.errors, sizes, target),
    "programme, loss": lambda target: integer_programme(
        alone(counted, sizes, space), sizes, target
    ),
}


# %%
def judged(bits, target):
    """Regret and rank among all choices that reach the target."""
    allowed = losses[compressions >= target]
    return loss(bits) - allowed.min(), 1 + int((allowed < loss(bits)).sum())


HEADER = f"{'':18s}{'loss':>8s}{'regret':>8s}{'rank':>6s}{'compr.':>8s}   bits"


def line(name, bits, target):
    lost, rank = judged(bits, target)
    numbers = f"{loss(bits):8.3f}{lost:8.3f}{rank:6d}{budget.compression(bits, sizes):8.2f}"
    return f"{name:18s}{numbers}   {' '.join(map(str, bits.values()))}"


rivals = {}
print(HEADER)
for name, choose in ways.items():
    runs = 0
    rivals[name] = choose(target)
    print(line(name, rivals[name], target), f"  after {runs} runs")
print(line("the optimum", best, target), f"  after {len(every)} runs")
closest.result(figures.least({n: judged(bits, target)[0] for n, bits in rivals.items()}))

# %% [markdown]
# The rises of single tensors need not add up. The errors of two layers may cancel, or the second
# layer may amplify the error of the first. A programme that adds the rises cannot see this.
#
# ## Exercise 2 · The cheapest bits (medium, 10 minutes)
#
# Write `best_bits(costs, sizes, target)`: the bits with the least *sum* of costs among those that
# reach the target, by trying every choice. `costs` is a list of dictionaries {bits: cost}, one for
# each tensor; `sizes` is the list of their elements. Return the bits as a list or tuple. (The
# integer programme finds the same without trying them all.)


# %% tags=["stub"]
def best_bits(costs, sizes, target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `itertools.product(*costs)` goes through every choice: iterating over a dictionary gives its keys,
# the bits. The compression is 32 * (all weights) / (bits of all weights).


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
# HMQ does not try choices one by one. It gives each tensor probabilities over its bits and learns
# all of them together, by gradient descent. The budget is a term of the loss, the **hinge**:
#
# $$L = L_\text{task} + \gamma \cdot \max\!\left(\frac{R_\text{target} - R}{R_\text{target}},
# 0\right)^2$$
#
# Here $R$ is the compression with the *expected* bits of each tensor. Above the target the hinge is
# zero and pulls no longer.
#
# ## Exercise 3 · The hinge (easy, 3 minutes)
#
# Write `hinge(rate, target)`, the term without its factor gamma, γ. `rate` is the compression R.


# %% tags=["stub"]
def hinge(rate, target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First how much is missing, relative to the target; then nothing below 0; then the square.


# %% tags=["solution"]
def hinge(rate, target):
    return max((target - rate) / target, 0) ** 2


# %% tags=["check"]
checks.hinge(hinge)

# %% [markdown]
# ## HMQ's choice
#
# We run searches in which the network's learning rate is 0: only the logits of the blocks learn,
# from the same images. Everything else is the search of the package: expected step and threshold,
# one sample per image and per input channel, the temperature in cycles, the hinge, the selection,
# the repair. In practice the weights learn at the same time. Here they do not, so that all ways to
# choose bits are judged on the same network.
#
# *Predict:* at the target 8, does HMQ find the optimum?

# %%
hmq_finds = predict("hmq-finds", "with every seed", "with some", "with none")

# %%
schedules = {
    "cycles": {"cycles": 4},  # the paper's way: the temperature falls, and starts again
    "one decay": {"cycles": 1},
    "constant": {"cycles": 1, "temperature_decay": 1e-9},
}
common = {
    "search_epochs": epochs,
    "final_epochs": 0,
    "network_learning_rate": 0.0,
    "logit_learning_rate": logit_rate,
    "target_steps": 1,
    "augment": False,
    "compile": "off",
    "log_every": 4,
    "calibration_images": None,
}


# %%
def hmq(target, seed, schedule="cycles"):
    settings = preset("quick/builtin", **common, **schedules[schedule])
    options = {"space": space, "settings": settings, "name": "tiny_resnet8", "progress": False}
    return search(shipped(), few, Target(weights=target), seed=seed, **options)


def bits_of(record, key="bits"):
    return {t["name"]: t[key] for t in record.tensors if t["kind"] == "weight"}


# %% [markdown]
# The next cell runs a search for every target and seed: about one and a half minutes.

# %%
numbers = range(first, first + seeds)
searches = {at: [hmq(at, seed) for seed in numbers] for at in targets}

# %%
print(f"{'target, seed':18s}{HEADER[18:]}")
for at in targets:
    for seed, record in zip(numbers, searches[at]):
        print(line(f"{at:g}, {seed}", bits_of(record), at))

# %%
of_rivals = {at: {n: judged(choose(at), at) for n, choose in ways.items()} for at in targets}
of_hmq = {at: [judged(bits_of(record), at) for record in searches[at]] for at in targets}
half = {}
for at in targets:
    allowed = losses[compressions >= at]
    half[at] = np.median(allowed) - allowed.min()
lost = {at: {n: value for n, (value, _) in row.items()} for at, row in of_rivals.items()}
hmq_lost = {at: [value for value, _ in row] for at, row in of_hmq.items()}
plots.show(figures.regrets(lost, hmq_lost, half))
ranks = {at: {n: rank for n, (_, rank) in row.items()} for at, row in of_rivals.items()}
hmq_ranks = {at: [rank for _, rank in row] for at, row in of_hmq.items()}
say(*figures.choice_sentences(ranks, hmq_ranks))
hmq_finds.result(figures.how_often(hmq_ranks[target]))

# %% [markdown]
# The costs differ, too. A search goes through the images `epochs` times, forward and backward. This
# does not depend on the number of tensors and widths. The rivals need more runs, in the table
# above, the more tensors and widths there are.
#
# (The learning rate of the logits matters. Set `logit_rate` to 0.05, run this section again, and
# look at the next figure. Are there enough steps to move the probability away from 8 bits?)
#
# ## Expected and actual
#
# *Predict:* the hinge pulls the expected compression to the target. At the end of the search and
# before the repair, where is the actual compression?

# %%
actual_side = predict("actual-side", "above the target", "below the target")

# %%
plots.show(plots.compression(searches[target][0]))
before = searches[target][0].of("repair")[0]["rate_before"]
actual_side.result(f"{'above' if before >= target else 'below'} the target")

# %%
print(f"{'target, seed':14s}{'expected':>10s}{'selected':>10s}{'repaired':>10s}   the repair")
for at in targets:
    for seed, record in zip(numbers, searches[at]):
        expected = record.of("step")[-1]["expected_rate"]
        repair = record.of("repair")[0]
        moves = [f"{m['name']} {m['before']} to {m['after']}" for m in repair["moves"]]
        values = f"{expected:10.2f}{repair['rate_before']:10.2f}{repair['rate_after']:10.2f}"
        print(f"{f'{at:g}, {seed}':14s}{values}   {', '.join(moves) or 'no moves'}")

# %% [markdown]
# The loss never sees the selection. A tensor with half of its probability on 8 bits and half on 2
# bits counts as 5, and is selected as one of the two. So the expected compression changes gradually
# and the actual one jumps. The actual one may end on either side of the target.
#
# The **repair** is a rule of this package. While the target is missed, it takes one bit after
# another. Each time it takes the bit from the tensor whose quantization error rises least for the
# bits that are still missing. When the target is reached, it gives back what is saved too much:
# each bit goes to the tensor whose error falls most for it (the setting `refill`).
#
# ## What a restart does
#
# The paper lets the temperature fall from 1 to 0.5 and start again, several times. We compare with
# one long decay, and with a temperature that stays at 1. The bits are judged as before. The search
# chooses thresholds, too. So we also look at the accuracy of the network with the thresholds of the
# search, on test images.
#
# *Predict:* which schedule has the least regret? A difference counts only if it is larger than the
# differences between seeds.

# %%
best_schedule = predict("best-schedule", "cycles", "one decay", "constant", "no difference")

# %% [markdown]
# The next cell runs six more searches: about a minute.

# %%
by_schedule = {"cycles": searches[target]}
for name in ("one decay", "constant"):
    by_schedule[name] = [hmq(target, seed, name) for seed in numbers]

# %%
schedule_lost = {
    name: [judged(bits_of(r), target)[0] for r in found] for name, found in by_schedule.items()
}
plots.show(figures.schedules(by_schedule, schedule_lost))
say(
    figures.schedule_sentence(schedule_lost),
    figures.accuracy_sentence(figures.own_accuracies(by_schedule)),
)
best_schedule.result(figures.least_regret(schedule_lost))

# %% [markdown]
# Three seeds, short searches, weights that do not change: longer searches of larger networks may
# give another result. Always compare the difference between two schedules with the spread over
# seeds.
#
# ## On images that nobody saw
#
# All these choices looked at the same few images. *Predict:* on the test images, is the order of
# the choices by their loss the same?

# %%
same_order = predict("same-order", "the same order", "another order")

# %%
unseen, labels = next(few.test.batches(tested))
test_loss = Landscape(network, unseen, labels)
rows = {"the optimum": best, f"HMQ, seed {first}": bits_of(searches[target][0]), **rivals}
print(f"{'':18s}{'compr.':>7s}{'loss seen':>11s}{'unseen':>8s}{'test accuracy %':>17s}")
for name, bits in {**rows, "most bits": dict.fromkeys(sizes, max(widths))}.items():
    values = f"{budget.compression(bits, sizes):7.2f}{loss(bits):11.3f}{test_loss(bits):8.3f}"
    print(f"{name:18s}{values}{test_loss.accuracy(bits):17.1f}")
seen_order = sorted(rows, key=lambda name: loss(rows[name]))
unseen_order = sorted(rows, key=lambda name: test_loss(rows[name]))
same_order.result("the same order" if seen_order == unseen_order else "another order")

# %% [markdown]
# In a real search the weights learn together with the bits, and **fine-tuning** follows: training
# with the schemes fixed. Then the loss of the chosen bits falls. The rivals above do not train
# anything.
#
# ## Explorer: two searches, step by step
#
# First the recorded search of lesson 00's network, with all 8 bit-widths. Here the weights learned,
# too.

# %%
recorded = records.recorded("builtin-tiny_resnet8-w8-a8")
print(records.summary(recorded).splitlines()[2])
explorers.replay(recorded, step=recorded.of("tables")[-1]["step"])

# %% [markdown]
# Then the first search of this lesson, in which no weight changes. Three settings worth trying:
#
# * **Drag `step` to the first table, then press play.** Which rows leave the most bits first?
#   Compare with the shares in the first figure of this lesson.
# * **Choose `layer` layer1.0.conv1** and compare its row in the two searches. It has few weights.
#   Compare with its row in the table of rises.
# * **Stop where the temperature jumps back to 1** (the middle panel on the right). Do the
#   probabilities move after a restart, or were they decided before?

# %%
own_search = searches[target][0]
explorers.replay(own_search, step=own_search.of("tables")[-1]["step"])

# %% [markdown]
# ## Summary
#
# * A budget counts weights. A choice of bits is judged by its loss among all choices that reach
#   the target.
# * Trying every choice is possible for eight tensors and three widths, and for hardly more.
# * Rivals differ in what they look at: sizes alone, errors, single rises of the loss, or the loss
#   step by step.
# * HMQ learns the bits of all tensors together, by gradient descent. Its choice may differ from
#   seed to seed, so report a rank together with its spread over seeds.
# * The loss pulls the expected compression; the repair closes the gap to the actual one.
#
# ## To talk about
#
# * How many times did greedy run the network? How many times would it for 50 tensors with 8 widths?
#   And what does one training step of HMQ cost then?
# * The rises of single tensors do not add up. Where in a network would you expect that most?
# * HMQ's choice is judged here on weights that do not change, which it was not made for. What would
#   a fairer comparison need, and what would it cost?
# * Suppose two searches with different seeds give different bits and nearly the same loss. Someone
#   reads the bits per layer as a property of the network. Is this good news or bad news?
#
# **In the paper:** the loss and the two stages are section 4; figure 2 compares expected and actual
# compression. **Differences:** the paper trains weights and logits together and fine-tunes
# afterwards. Here the weights do not change, batch norm is folded, each tensor chooses among
# `widths`, and the repair is ours. The paper's target rises in steps; here it is the same from the
# start.
