# %% [markdown]
# # CIFAR10
#
# A whole search on real images, from the float network to the test accuracy: what each part of it
# did, and what it cost.
#
# **Minutes:** 40 (15 s of them computing) · **Data:** records that come with the package, nothing
# to fetch; CIFAR10 itself only for a search of your own · **Know first:** lessons 04 to 06
#
# **After this you can**
#
# * follow a two-stage search through its record: what stage 1, the repair and stage 2 did,
# * compute the expected and the actual compression of a network from its blocks' probabilities,
# * say how many weights must have 1 bit for a given target, and which layers have them,
# * decide whether a difference between two accuracies is more than the noise of a test set,
# * start a search of ResNet-20 where CIFAR10 is, stop it and go on with it.
#
# All numbers of this lesson are from records: searches that ran on our machine. The sentences are
# computed from the records of your version of the package.

# %% tags=["parameters"] quick={}
# Parameters: the targets of the two recorded searches that are looked at closely.
close = 16.0
beside = 8.0
seed = 0
# For your own search: the file of a trained ResNet-20. The last section then starts it.
weights = ""
normalize = None  # the statistics these weights were trained with; None: as their file says
out = "../runs/cifar10-own"  # where that search keeps its state and its record

# %%
import numpy as np

from hmq_lab import checks, explorers, plots
from hmq_lab.plots.lessons import lesson07 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.runs import records

predict = checks.predictions("07")
matching = records.matching(data="cifar10", model="resnet20")
found = {n: r for n, r in matching.items() if r.results["status"] == "complete"}
plain = {n: r for n, r in found.items() if figures.kind(r) == "8-bit activations"}
print(f"{len(found)} records of ResNet-20 on CIFAR10, {len(plain)} with 8-bit activations")


def at(target):
    """The record of a target: 8-bit activations, the seed from above or else the first."""
    fits = [r for r in plain.values() if r.header["target"]["weights"] == target]
    if not fits:
        targets = sorted({r.header["target"]["weights"] for r in plain.values()})
        raise ValueError(f"no record of a target of {target:g}; there are {targets}")
    return next((r for r in fits if r.header["seed"] == seed), fits[0])


# %% [markdown]
# ## What was run
#
# ResNet-20 has 20 weight tensors with 268,336 elements. It was trained elsewhere in float. Each
# search starts from it, with all tensors at 8 bits. **Stage 1** trains weights and probabilities
# together. The repair then fixes the schemes, and **stage 2** trains the weights alone, which is
# called **fine-tuning**. There are few epochs, because the searches ran on two CPU cores. The paper
# has 30 and 20.
#
# In the table below, activations have 8 bits where a line says nothing else. Two words need an
# explanation. With **distillation**, stage 2 does not learn from the labels: the network learns to
# give the outputs of the float network. Such a search is called *distilled*. In **hardware mode**
# batch norm is folded, and the image, pooled vectors and biases are quantized, too; then integers
# and shifts can compute the whole network (lesson 10).
#
# *Predict:* the target goes from 8 to 16. How many points of test accuracy does that cost?

# %%
points = predict("points-8-to-16", low=0, high=10)

# %%
print(figures.overview(found))
accuracies = [at(target).results["accuracy"]["test"] for target in (beside, close)]
points.result(f"{accuracies[0] - accuracies[1]:.2f} points")

# %% [markdown]
# ## Stage 1: the compression
#
# The loss pulls the *expected* compression to its **aim**: the target and a **margin** of a few
# percent above it.
#
# *Predict:* after which part of stage 1 has the expected compression arrived?

# %%
arrives = predict(
    "arrives",
    "less than a fifth",
    "a fifth to two fifths",
    "two to three fifths",
    "more than three fifths",
)

# %%
plots.show(plots.compression(at(close)))
arrives.result(figures.part_class(figures.time_to_aim(at(close))))

# %% [markdown]
# Press play. Look at the rows of layer3 on the left, where most weights are, and at the task loss,
# at the bottom right.

# %%
explorers.replay(at(close), play=4)

# %% [markdown]
# ## Exercise 1 · Two compressions from the same tables (medium, 8 minutes)
#
# Write `both_rates(tables, bits, sizes)`: the expected compression and the actual one, in this
# order. `tables` is an array (weights, bits, thresholds) of probabilities, `bits` has the bit-width
# of each row of a table, `sizes` has the elements of each weight tensor. For the actual compression,
# each tensor has its most probable bits.


# %% tags=["stub"]
def both_rates(tables, bits, sizes):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum over the thresholds first: for each tensor, a probability for each bit-width is left. Their
# mean bits give one compression, the bits with the largest probability the other. A compression is
# 32 over the mean bits of an element.


# %% tags=["solution"]
def both_rates(tables, bits, sizes):
    marginals = tables.sum(2)  # (weights, bits)
    bits, sizes = np.array(bits), np.array(sizes)
    mean, chosen = marginals @ bits, bits[marginals.argmax(1)]
    return 32 * sizes.sum() / (mean @ sizes), 32 * sizes.sum() / (chosen @ sizes)


# %% tags=["check"]
checks.both_rates(both_rates)

# %% [markdown]
# ## Expected against actual, in all searches
#
# *Predict:* when are the two compressions further apart?

# %%
apart = predict("apart", "after the first epoch", "at the end of stage 1")

# %%
plots.show(figures.expected_and_actual(plain))
first, last = figures.gap_ends(plain)
apart.result("after the first epoch" if first > last else "at the end of stage 1")

# %% [markdown]
# While a block is undecided between two bit-widths, the mean of them is not what it would select. At
# the end nearly all probability is on one scheme, and the two compressions are nearly equal.
#
# ## What the repair did
#
# The search aims above the target, so the selection usually saves more bits than the target asks
# for. The repair gives these bits back, as far as they fit within the target. Records of today give
# each bit to the tensor whose quantization error falls most for it. Older records gave many bits to
# one tensor. Where a selection misses the target, the repair first takes bits away.
#
# *Predict:* to which tensors does the repair give bits?

# %%
gives_to = predict("gives-to", "to large ones", "to small ones")

# %%
for record in plain.values():
    print("\n".join(figures.moves(record)))
gives_to.result(figures.repair_gives_to(plain))

# %% [markdown]
# The rest is often too small for a large tensor: one more bit for 36,864 elements costs as much as
# four more for 9,216. So small tensors get bits that the search did not choose. Keep this in mind
# when you read a selection. The records keep the bits before the repair (`bits_before_repair`).
#
# ## What stage 2 gains
#
# *Predict:* with the schemes fixed and the weights free, what part of the missing validation
# accuracy does stage 2 win back, on average, in percent?

# %%
wins_back = predict("wins-back", low=0, high=100)

# %%
plots.show(figures.stage_two(plain))
_, shares = figures.given_back(plain)
wins_back.result(f"{100 * np.mean(shares):.0f} %")

# %% [markdown]
# A warning: the validation images are a part of the images that the float network was trained on.
# So all these accuracies are too high. They still show which epoch is the best one. The final
# accuracy of the network is measured once, on the test set.
#
# ## Explorer: two searches beside each other
#
# The network as a map: one bar for each weight tensor, in order. Its height is its elements, its
# colour and number are its bits. Below are the tables of the layer in the red frame, one for each
# search. Three settings worth trying:
#
# * **`step` repaired, then one step back.** Which bars change? The repair changed these. Compare with
#   the list above.
# * **`layer` layer3.2.conv2, and drag `step` from the first to the last.** Watch how its probability
#   moves through the table in the two searches: to fewer bits *and* to a smaller threshold.
# * **`layer` linear.** It has very few weights, and it computes the scores. Does it leave 8 bits at
#   any target?

# %%
explorers.selection(at(close), at(beside), step="repaired", layer="layer3.2.conv2.weight")

# %% [markdown]
# ## Accuracy against compression
#
# *Predict:* how does the accuracy fall as the compression rises?

# %%
falls = predict("falls", "steadily", "mostly at the end", "mostly early")

# %%
plots.show(figures.accuracy_over_compression(found, plain))
falls.result(figures.how_it_falls(figures.changes(plain)))

# %% [markdown]
# Lesson 11 shows the published results beside ours. Their network is another one, so we compare the
# distance to each one's own float network.
#
# ## Exercise 2 · What a test set can show (easy, 4 minutes)
#
# Write `standard_error(accuracy, images)`: the standard error of an accuracy, in points.
# `accuracy` is in percent, `images` is the number of test images. Each image is right or wrong,
# independently of the others.


# %% tags=["stub"]
def standard_error(accuracy, images):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# One image that is right with probability p has the variance p (1 - p). What is the variance of the
# mean of n such images?


# %% tags=["solution"]
def standard_error(accuracy, images):
    return (accuracy * (100 - accuracy) / images) ** 0.5


# %% tags=["check"]
checks.standard_error(standard_error)

# %% [markdown]
# Two networks classify mostly the *same* images right. So the difference of their accuracies has
# less noise than each accuracy: only the images count on which the two networks differ. Two
# searches also differ by their seeds. Where a target was searched twice, the records show it:

# %%
by_target = {}
for record in plain.values():
    accuracy = record.results["accuracy"]["test"]
    by_target.setdefault(record.header["target"]["weights"], []).append(accuracy)
for target, values in by_target.items():
    if len(values) > 1:
        numbers = ", ".join(f"{v:.2f}" for v in values)
        distance = max(values) - min(values)
        print(f"target {target:g}: {numbers} %, {distance:.2f} points apart")

# %% [markdown]
# ## 8-bit against 4-bit activations
#
# The bits of activations are not searched, only their thresholds.
#
# *Predict:* what costs more accuracy: the weights from a compression of 10.5 to 14, or the
# activations from 8 bits to 4?

# %%
costs_more = predict("costs-more", "the weights", "the activations")

# %%
say(figures.four_bits_sentence(found, plain))
costs_more.result(figures.what_costs_more(found, plain))

# %% [markdown]
# ## 1-bit tensors
#
# Two bits for every weight are a compression of 16. For more, some weights must have 1 bit.
#
# ## Exercise 3 · How many weights must have 1 bit (easy, 5 minutes)
#
# Write `one_bit_share(target)`: the least share of the weights that must have 1 bit for a
# compression of `target`, if all others have 2 bits. It lies from 0 to 1. Targets go up to 32.


# %% tags=["stub"]
def one_bit_share(target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which mean bits does the target ask for? With a share s at 1 bit and the rest at 2 bits, what are
# the mean bits?


# %% tags=["solution"]
def one_bit_share(target):
    return max(0.0, 2 - 32 / target)


# %% tags=["check"]
checks.one_bit_share(one_bit_share)

# %%
one_bit = {}  # the searches that gave 1 bit to some tensor
for name, record in found.items():
    if any(t["bits"] == 1 for t in figures.tensors(record)):
        one_bit[name] = record
plots.show(plots.bits_by_record(one_bit))

# %%
print("share of the weights with 1 bit, and the least share that the compression asks for")
print("\n".join(figures.one_bit_lines(one_bit)))

# %% [markdown]
# If more weights have 1 bit than the target needs, other layers have 3 bits or more in return.
#
# A signed tensor of 1 bit has two values, $-t$ and 0 (lesson 01): all weights above a level become
# 0, the others become $-t$.
#
# *Predict:* where does a search put the threshold of such a tensor, compared with tensors of more
# bits?

# %%
one_bit_place = predict("one-bit-threshold", "lower", "about equal", "higher")

# %%
plots.show(figures.thresholds_by_bits(found))
one_bit_place.result(figures.one_bit_threshold(found))

# %% [markdown]
# With many bits the threshold may be above all weights. With 1 bit, $-t$ is the *only* value other
# than 0, so it has to be where many weights are. Such a tensor still learns: our bounds are
# inclusive (lesson 03). With the strict bounds of the released code, no weight of a 1-bit tensor has
# a gradient.
#
# How much are 1-bit tensors worth? To answer this, compare at targets that can be reached without
# them:

# %%
print("\n".join(figures.without_one_bit(found, plain)))

# %% [markdown]
# ## What it costs
#
# *Predict:* which epoch takes longer?

# %%
longer = predict("longer-epoch", "one of stage 1", "one of stage 2")

# %%
lines, ratios = figures.cost_lines(found)
print("\n".join(lines))
hardware = record.header["hardware"]
print(f"on {hardware['processor']}, {hardware['threads']} threads")
longer.result(f"one of stage {1 if np.median(ratios) > 1 else 2}")

# %% [markdown]
# Other programs ran on the same two cores, so the minutes are not exact. The ratios within one run
# are more reliable. A training step of stage 1 draws noise for every block and trains the logits,
# too. Apart from that it does what a training step of stage 2 does.
#
# ## A search of your own
#
# You need CIFAR10 (`docs/use.md` says in which folders it is looked for) and the file of a trained
# ResNet-20: `hmq-lab train --data cifar10 --model resnet20 --out FILE` makes one. Put its name into
# `weights` in the parameters. This cell then starts a search in a process of its own and draws it
# while it runs: compression, loss, temperature, the map of bits. Buttons pause it, interrupt it and
# continue it. The search goes on when you close this page; run the cell again to see it. The table
# above says how long it takes.


# %%
def own_or_recorded():
    if weights:
        own = {
            "model": "resnet20",
            "data": "cifar10",
            "weights": weights,
            "normalize": normalize,
        }
        return explorers.live(out, **own, target=close, seed=seed)
    print("No search was started: `weights` in the parameters names no file.")
    print("Below is the record at the same target.")
    return explorers.replay(at(close), step=at(close).of("tables")[-1]["step"])


own_or_recorded()

# %% [markdown]
# ## Summary
#
# * Stage 1 brings the expected compression to its aim. The actual one is equal to it when nearly all
#   probability is on one scheme.
# * The repair closes the rest of the gap, and may give small tensors bits that no gradient asked for.
# * Stage 2, a few epochs with fixed schemes, wins back a part of what stage 1 lost.
# * Above a compression of 16 some weights must have 1 bit.
# * A test set of 10,000 images has a standard error of about a quarter of a point: a difference of
#   one point shows, one of a quarter hardly does.
#
# ## To talk about
#
# * The searches aim 3 % above the target and give the rest back by a rule. What else could one do
#   with the rest?
# * The validation accuracy of the float network is nearly 100 %. Why is it still useful, and what
#   would you do instead?
# * Why can a layer of the last stage have 1 bit, and why does the last layer keep 8?
# * The paper trains 30 + 20 epochs. Which numbers in this lesson would change with as many?
#
# **In the paper:** figure 3 is accuracy against compression on CIFAR10, figure 2 expected and actual
# compression during training. **Differences:** another float network of the same class (91.73 %),
# few epochs at higher learning rates, a margin above the target, and a repair with refill, which the
# paper does not have.
