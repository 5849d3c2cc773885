# %% [markdown]
# # Reading the selection
#
# A search gives you a list of bits. What does it say about the network, and what only about this
# one run?
#
# **Minutes:** 40 (50 s of them computing) · **Data:** records that come with the package and
# built-in images, nothing to fetch · **Know first:** lessons 06 and 07
#
# **After this you can**
#
# * draw the bits of a network by layer, and separate early from late and large from small,
# * compare two selections by the weights they agree on and by their order, and with chance,
# * name the tensors that keep many bits in every search, and say why this proves little,
# * compare a selection with each layer's error and rise of the loss,
# * say at which compression a search gains much, and at which it gains nothing.

# %% tags=["parameters"] quick={"images": 64, "shuffles": 200, "seed": 3, "tuned": 1, "examples": 256}
# Parameters: images that the sensitivities are measured on, and shuffles of a list.
images = 512
shuffles = 2000
seed = 0
tuned = 3  # epochs of fine-tuning, in the last section
examples = 8000  # training images of an epoch

# %%
import copy
import dataclasses
import itertools

import numpy as np

from hmq_lab import SearchSpace, Target, attach, budget, checks, data
from hmq_lab import explorers, models, plots
from hmq_lab.graph.folding import fold
from hmq_lab.models.training import evaluate
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, calibrate
from hmq_lab.plots.lessons import lesson09 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.plots.lessons.lesson09 import bits, spearman
from hmq_lab.rivals.landscape import Landscape
from hmq_lab.rivals.methods import alone, integer_programme
from hmq_lab.runs import records
from hmq_lab.settings import preset
from hmq_lab.stages import Search

predict = checks.predictions("09")

# %%


def complete(**header):
    found = records.matching(**header)
    return {name: r for name, r in found.items() if r.results["status"] == "complete"}


found = complete(data="cifar10", model="resnet20")
plain = {}
for name, record in found.items():
    eight = record.header["target"]["activation_bits"] == 8
    if (
        eight
        and not record.header.get("hardware_mode")
        and record.header["settings"]["final_loss"] == "cross-entropy"
        and 1 in record.header["space"]["bits"]
    ):
        plain[name] = record
first = next(iter(plain.values()))
names = [t["name"].removesuffix(".weight") for t in figures.weights(first)]
sizes = [t["size"] for t in figures.weights(first)]
print(f"{len(found)} searches of ResNet-20 on CIFAR10")
print(f"{len(plain)} of them differ by target and seed alone")

# %% [markdown]
# `bits(record)` gives what the search chose: the bits *before* the repair, which gives small tensors
# what is left of the budget.
#
# ## Bits per layer
#
# *Predict:* which layers have 8 bits in every search?

# %%
always_eight = predict(
    "always-eight", "the first and the last", "the whole first stage", "the largest", "none"
)

# %%
plots.show(plots.bits_by_record(found))
always_eight.result(figures.bright_columns(found))

# %% [markdown]
# ## Early against late, large against small
#
# The paper reports that deeper layers need fewer bits. In a ResNet the deeper layers are also the
# larger ones, and the budget pulls down the bits of large tensors first.
#
# *Predict:* the six tensors of layer1 have the same size. Do the later three have fewer bits than
# the first three?

# %%
later_fewer = predict("later-fewer", "yes", "no", "equal")

# %%
plots.show(figures.parts_and_sizes(plain))
mean, groups = figures.same_size(plain)
later_fewer.result(figures.fewer_later(mean, groups[min(groups)]))

# %% [markdown]
# In the left panel, depth and size change together and cannot be separated. In the right panel the
# size is the same.
#
# ## Exercise 1 · The order of the bits (medium, 8 minutes)
#
# Write `rank_correlation(one, two)`: Spearman's **rank correlation** of two lists. Each number is
# replaced by its rank. Equal numbers share the mean of their ranks; bits are often equal. Then take
# the ordinary correlation of the ranks.


# %% tags=["stub"]
def rank_correlation(one, two):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A mean rank needs no sorting: count how many are smaller, and add half of the others that are
# equal. `np.corrcoef(a, b)[0, 1]` is the correlation.


# %% tags=["solution"]
def rank_correlation(one, two):
    def ranks(x):
        x = np.asarray(x)
        return [(x < a).sum() + ((x == a).sum() - 1) / 2 for a in x]

    return np.corrcoef(ranks(one), ranks(two))[0, 1]


# %% tags=["check"]
checks.rank_correlation(rank_correlation)

# %%
print("rank correlation of the bits")
print(f"{'':28s}{'with the elements':>20s}{'with the place':>17s}")
for record in plain.values():
    with_elements = spearman(bits(record), sizes)
    with_place = spearman(bits(record), range(len(sizes)))
    print(f"{records.label(record):28s}{with_elements:20.2f}{with_place:17.2f}")

# %% [markdown]
# ## Explorer: two selections as maps
#
# Below are two searches of one target with different seeds, if the package has such records, and
# else two targets. Three settings worth trying:
#
# * **Drag `step` from the first to the last.** When do the maps agree most, apart from the start?
# * **Stop where a triangle appears, choose that `layer`, and look at both tables.** Is the
#   probability split between the two choices, or is each search sure of its own?
# * **`step` repaired.** Which of the triangles come from the repair and not from a search?

# %%
by_target = {}
for record in plain.values():
    by_target.setdefault(record.header["target"]["weights"], []).append(record)
twice = [group[:2] for group in by_target.values() if len(group) > 1]
pair = twice[-1] if twice else list(plain.values())[-2:]
last = pair[0].of("tables")[-1]["step"]
differ = [name for name, a, b in zip(names, bits(pair[0]), bits(pair[1])) if a != b]
explorers.selection(*pair, step=last, layer=f"{differ[0] if differ else names[0]}.weight")

# %% [markdown]
# ## Does a second seed choose the same?
#
# ## Exercise 2 · Agreement (easy, 4 minutes)
#
# Write `agreement(one, two, sizes)`: the share of the weights, from 0 to 1, to which two selections
# give the same bits. `one` and `two` are lists of bits, `sizes` the elements of each tensor.


# %% tags=["stub"]
def agreement(one, two, sizes):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Count weights, not tensors: if both give a tensor the same bits, all of its elements count.


# %% tags=["solution"]
def agreement(one, two, sizes):
    return sum(n for a, b, n in zip(one, two, sizes) if a == b) / sum(sizes)


# %% tags=["check"]
checks.agreement(agreement)

# %% [markdown]
# We need something to compare an agreement with. We call it *chance*: we give the same bits to the
# tensors again, in a random order, but only *among tensors of one size*. So a chance selection
# knows the sizes and nothing else.
#
# *Predict:* do two searches with different seeds agree more than chance?

# %%
above_chance = predict("above-chance", "in all pairs", "in some pairs", "in no pair")

# %%
random = np.random.default_rng(seed)
same_sizes = [np.flatnonzero(np.array(sizes) == size) for size in sorted(set(sizes))]


def shared(one, two):
    return np.average(np.array(one) == np.array(two), weights=sizes)


def dealt(one):
    """The bits in another order, among tensors of one size."""
    one = np.array(one)
    for group in same_sizes:
        one[group] = random.permutation(one[group])
    return one


def compared(one, two, name):
    """Print one line; return whether the agreement is above the mean of chance."""
    one, two = bits(one), bits(two)
    by_chance = np.array([shared(dealt(one), two) for _ in range(shuffles)])
    own = shared(one, two)
    as_good = (by_chance >= own - 1e-12).mean()
    numbers = f"{own:11.0%}{by_chance.mean():11.0%}{as_good:17.0%}{spearman(one, two):8.2f}"
    print(f"{name:40s}{numbers}")
    return own > by_chance.mean()


# %%
print(f"{'':40s}{'agreement':>11s}{'chance':>11s}{'chance as good':>17s}{'order':>8s}")
better = []
for one, two in twice:
    seeds = f"seeds {one.header['seed']} and {two.header['seed']}"
    better.append(compared(one, two, f"target {one.header['target']['weights']:g}, {seeds}"))
targets = [group[0] for group in by_target.values()]
for one, two in itertools.pairwise(targets):
    pair_of = [r.header["target"]["weights"] for r in (one, two)]
    compared(one, two, f"targets {pair_of[0]:g} and {pair_of[1]:g}")
some = "in some pairs" if any(better) else "in no pair"
above_chance.result("in all pairs" if all(better) else some)

# %%
plots.show(figures.correlations(plain))

# %% [markdown]
# Two searches may agree on the *order* of the layers, from the most bits to the fewest, and still
# give many weights other bits. You may read the order in a selection. One bit more or less in one
# layer of one run means nothing.
#
# ## What no search gives up
#
# ## Exercise 3 · Kept in every search (easy, 4 minutes)
#
# Write `kept(selections, least)`: for each tensor, whether it has at least `least` bits in *every*
# selection. `selections` is a list of lists of bits. Return a list of True and False.


# %% tags=["stub"]
def kept(selections, least):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `zip(*selections)` goes through the tensors: for each, its bits in all selections.


# %% tags=["solution"]
def kept(selections, least):
    return [min(chosen) >= least for chosen in zip(*selections)]


# %% tags=["check"]
checks.kept(kept)

# %% [markdown]
# *Predict:* what share of all weights do the tensors hold that have 8 bits in every search, in
# percent?

# %%
held_share = predict("held-share", low=0, high=100)

# %%
selections = np.array([bits(r) for r in found.values()])
shares = {}
for least in (8, 4, 3, 2):
    held = selections.min(0) >= least
    shares[least] = np.dot(held, sizes) / sum(sizes)
    said = ", ".join(name for name, keeps in zip(names, held) if keeps) or "none"
    said = said if held.sum() <= 8 else f"{held.sum()} tensors"
    print(
        f"at least {least} bits in all searches: {shares[least]:6.1%} of the weights: {said}"
    )
held_share.result(f"{100 * shares[8]:.1f} %")

# %% [markdown]
# Lowering the bits of such a tensor would save next to nothing, so the budget hardly acts on it.
# Perhaps the network needs these bits. Perhaps the budget only did not ask for them. Both look the
# same in a selection. To see which of the two is true, lower the bits of this tensor alone, and
# look at the loss.
#
# ## Sensitivity
#
# The **sensitivity** of a tensor is the rise of the loss when this tensor alone has fewer bits. We
# measure it on the small network of the package, as in lesson 06: one tensor at 3 bits, all others
# at 8. Beside it we set the tensor's squared error at 3 bits, and what a recorded search chose.
#
# *Predict:* which of these goes best with the selected bits?

# %%
goes_with = predict(
    "goes-with", "elements", "error", "rise of the loss", "rise per 1,000 elements"
)

# %%
recorded = records.recorded("builtin-tiny_resnet8-w8-a8")
space = SearchSpace()
builtin = data.load("builtin")
x, y = next(builtin.train.subset(range(images)).batches(images))
network = models.build("tiny_resnet8")
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
fold(network.eval(), x)
attach(network, space, x[:64])
calibrate(network, [x])
loss = Landscape(network, x, y)
small = budget.weight_sizes(network)
rises = alone(loss, small, space)  # by tensor and bits

# %%
asked = 3  # bits
chosen = {t["name"]: t["bits_before_repair"] for t in figures.weights(recorded)}
measures = {"elements": [small[name] for name in chosen]}
measures["error"], measures["rise of the loss"], measures["rise per 1,000 elements"] = (
    [],
    [],
    [],
)
for name in chosen:
    layer = network.get_submodule(name.removesuffix(".weight"))
    squares = layer.parametrizations.weight.original.detach().double().square().sum().item()
    measures["error"].append(100 * loss.errors[name][asked] / squares)
    measures["rise of the loss"].append(rises[name][asked])
    measures["rise per 1,000 elements"].append(1000 * rises[name][asked] / small[name])
plots.show(figures.sensitivities(chosen, measures))
correlation = figures.measured(chosen, measures)
say(figures.measures_sentence(correlation))
goes_with.result(max(correlation, key=lambda what: abs(correlation[what])))

# %% [markdown]
# Eight points are few. And the sensitivities belong to the network before the search; the search
# changed the weights, too. Two of these measures are related: few elements make a large rise per
# element.
#
# An integer programme can choose with these rises as its costs.
#
# *Predict:* for what share of the weights does it choose the bits that the search chose, in percent?

# %%
programme_agrees = predict("programme-agrees", low=0, high=100)

# %%
target = recorded.header["target"]["weights"]
programmes = {
    "rise": integer_programme(rises, small, target),
    "error": integer_programme(loss.errors, small, target),
}
print(f"{'':24s}{'elements':>10s}{'search':>8s}{'by rise':>9s}{'by error':>10s}")
for name, b in chosen.items():
    both = f"{programmes['rise'][name]:9d}{programmes['error'][name]:10d}"
    print(f"{name.removesuffix('.weight'):24s}{small[name]:10,}{b:8d}{both}")
same, losses = {}, {}
for way, choice in programmes.items():
    equal = [choice[name] == b for name, b in chosen.items()]
    same[way] = np.average(equal, weights=list(small.values()))
    losses[way] = loss(choice)
losses["search"] = loss(chosen)
say(figures.programmes_sentence(same, losses))
programme_agrees.result(f"{100 * same['rise']:.0f} %")

# %% [markdown]
# Both programmes find the exact minimum of a sum of costs of single tensors. The loss shows how
# good this choice is when all tensors have fewer bits together. The rises were measured on these
# frozen weights, and the search trained the weights as well. So the programme on the rises may have
# the lower loss here.
#
# ## Depthwise against pointwise
#
# The paper's figure 5: in MobileNets, pointwise convolutions need fewer bits than depthwise ones.
#
# *Predict:* which of the two kinds holds more of the weights?

# %%
holds_most = predict("holds-most", "depthwise", "pointwise")

# %%
mobile = {name: r for name, r in complete().items() if figures.has_depthwise(r)}
for record in mobile.values():
    plots.show(figures.kinds(record, seed))
    of_kind = figures.kind_shares(record)
    holds_most.result(max(("depthwise", "pointwise"), key=lambda kind: of_kind.get(kind, 0)))
if not mobile:
    print("No search of a network with depthwise convolutions is among the records.")

# %% [markdown]
# Where a kind holds a percent of the weights, its bits cost nearly nothing. So if depthwise
# convolutions keep more bits, this alone does not show that they need them. It is the same question
# as above: lower their bits alone, and look at the loss.
#
# ## What a search buys
#
# A search takes minutes. What do you get for them? First the built-in network, with 8-bit
# activations and no folding. We compare three ways to choose bits:
#
# * *uniform*: the same bits everywhere, and no training,
# * *by error*: the bits of an integer programme on the squared errors, and no training,
# * *trained uniform*: the same bits everywhere, then `tuned` epochs of fine-tuning.
#
# In all three, each threshold is the power of two with the least squared error. (The programme on
# the errors, above, worked on folded weights. Folding changes how large the weights of a layer are,
# so here it chooses other bits.) We compare them with the recorded search of above: HMQ, with
# fine-tuning, at a compression of 8.
#
# *Predict:* at a compression of 8, how many points is HMQ above the better of the two ways without
# training?

# %%
points_at_8 = predict("points-at-8", low=-10, high=90)

# %%
fresh = models.build("tiny_resnet8")
load_weights(fresh, SHIPPED / "builtin_tiny_resnet8.safetensors")
attach(fresh.eval(), space, x[:64])
calibrate(fresh, [x])
unseen, labels = next(builtin.test.batches(len(builtin.test)))
judge = Landscape(fresh, unseen, labels)
ways = {"uniform": {}, "by error": {}, "trained uniform": {}}
for b in (8, 6, 5, 4, 3, 2):
    chosen_bits = integer_programme(judge.errors, small, 32 / b)
    ways["uniform"][32 / b] = judge.accuracy(dict.fromkeys(small, b))
    ways["by error"][32 / b] = judge.accuracy(chosen_bits)

# %% [markdown]
# The next cell trains three networks: about half a minute.

# %%
few = dataclasses.replace(builtin, train=builtin.train.subset(range(examples)))
settings = preset("quick/builtin", final_epochs=tuned)


def fine_tuned(bits):
    """The test accuracy after stage 2 alone, all weights with these bits."""
    network = copy.deepcopy(fresh)
    for name, block in blocks(network).items():
        block.fix(judge.schemes[name][bits] if name in small else None)
    target = Target(weights=32 / bits)
    stage = Search(network, few, target, settings, accuracy=evaluate, seed=seed)
    stage.progress.stage = 2
    for _ in stage.run():
        pass
    return evaluate(network, builtin.test)


for b in (4, 3, 2):
    ways["trained uniform"][32 / b] = fine_tuned(b)

# %%
hmq = recorded.results["accuracy"]["test"]
plots.show(figures.ways_to_compress(ways, (recorded.results["rates"]["weights"], hmq)))
at_8 = {name: found[8.0] for name, found in ways.items()}
say(figures.gain_sentence(at_8, hmq, len(builtin.test)), figures.training_sentence(ways))
points_at_8.result(f"{hmq - max(at_8['uniform'], at_8['by error']):.1f}")

# %% [markdown]
# The record's search has more epochs than `tuned`. If a way without training is as good as the
# search, you need no search at this compression. Then compare the curves at their right end.
#
# The next figure is of ResNet-20 on CIFAR10. It reads the records of our machine. It also shows two
# accuracies *without* training. They were measured beforehand on the same network, with another
# library: Sony's Model Compression Toolkit 2.6.1, one run each. That library needed 48 seconds at a
# compression of 8. It has one threshold for each channel, which need not be a power of two. HMQ has
# one power of two for each tensor.
#
# *Predict:* at a compression of 10.5, how many points does a search gain?

# %%
points_at_10 = predict("points-at-10", low=-10, high=90)

# %%
plots.show(figures.what_a_search_buys(plain))
gains = figures.search_gains(plain)
without, searched, _ = gains[10.5]
points_at_10.result(f"{searched - without:.1f}")

# %% [markdown]
# At a compression where little is lost without training, a search gains little, and it costs
# minutes instead of seconds. Where much is lost, these minutes are well spent. In between, measure
# both.
#
# ## Summary
#
# * A selection follows the budget first: tensors with more elements have fewer bits. Only what this
#   does not explain says something about the network.
# * Compare selections by the order of their bits and by the weights that agree, and always with
#   chance.
# * Read what the searches chose before the repair. The repair gives small tensors bits that the
#   search did not choose.
# * A tensor that has many bits in every search may need them, or may only be cheap. Sensitivities
#   can show which of the two is true, one tensor at a time.
# * At a low compression, bits chosen by error without any training can be as good as a search. At a
#   high one, the network has to be trained.
#
# ## To talk about
#
# * Two searches with different seeds end with nearly the same accuracy and other bits. What may a
#   paper write about "the bits a network needs"?
# * Many methods fix the first and the last layer at 8 bits from the start. Do these records support
#   that?
# * How would you design a budget that shows whether a tensor needs its bits, or whether the budget
#   only did not ask for them?
# * The sensitivities were measured on float-trained weights. Why might they mislead about a network
#   whose weights train, too?
#
# **In the paper:** figure 5 shows bits per layer for MobileNets. **Differences:** here several
# records stand beside each other, some with a second seed. What the search chose is read before our
# repair, which the paper does not have.
