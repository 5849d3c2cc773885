# %% [markdown]
# # CIFAR10
#
# A whole search on real pictures, from the float network to the test accuracy: what each part of it did, and what it
# cost.
#
# **Minutes:** 45 (20 s of them computing) · **Data:** records that come with the package, nothing to fetch; CIFAR10
# itself only for a search of your own · **Know first:** lessons 04 to 06
#
# **After this you can**
#
# * follow a two-stage search through its record: what stage 1, the repair and stage 2 each did,
# * compute the expected and the actual rate of a network from its blocks' probabilities,
# * say how many weights must have 1 bit for a given target, and which layers have them,
# * tell a difference between two accuracies from the noise of a test set,
# * start a search of ResNet-20 where CIFAR10 is, stop it and go on with it.

# %% tags=["parameters"] quick={}
# Parameters: which two recorded searches are looked at closely, by their targets. The last two are for your own search.
close = 16.0
beside = 8.0
seed = 0
weights = ""  # the file of a trained ResNet-20: with it, and with CIFAR10 there, the last section starts a search
normalize = None  # the pictures as those weights know them: None, as their file says; else imagenet, cifar10, ...
out = "../runs/cifar10-own"  # where that search keeps its state and its record

# %%
import numpy as np
import seaborn as sns

from hmq_lab import checks, explorers, plots
from hmq_lab.runs import records

found = {
    name: record
    for name, record in records.matching(data="cifar10", model="resnet20").items()
    if record.results["status"] == "complete"
}


def kind(record):
    """What sets a search apart beside its target and seed."""
    if 1 not in record.header["space"]["bits"]:
        return "without 1 bit"
    activations = f"{record.header['target']['activation_bits']}-bit activations"
    return activations + (", hardware mode" if record.header.get("hardware_mode") else "")


def of(record, kind="weight"):
    return [t for t in record.tensors if t["kind"] == kind]


def look(number):
    """Colour, marker and line of one of many curves."""
    return {
        "color": plots.COLOURS[number % 4],
        "marker": plots.MARKERS[number % 4],
        "ls": ("-", "--", ":")[number // 4 % 3],
    }


def at(target):
    """The record of a target: 8-bit activations, the seed from above or else the first."""
    fits = [r for r in plain.values() if r.header["target"]["weights"] == target]
    if not fits:
        targets = sorted({r.header["target"]["weights"] for r in plain.values()})
        raise ValueError(f"no record of a target of {target:g}; there are {targets}")
    return next((r for r in fits if r.header["seed"] == seed), fits[0])


plain = {name: record for name, record in found.items() if kind(record) == "8-bit activations"}
print(f"{len(found)} records of ResNet-20 on CIFAR10, {len(plain)} of them with 8-bit activations")

# %% [markdown]
# ## What was run
#
# ResNet-20, 20 weight tensors with 268,336 elements, trained elsewhere in float. Each search starts from it with all
# tensors at 8 bits. Stage 1 trains weights and probabilities together, the repair fixes the schemes, stage 2 trains the
# weights alone. The epochs are few, because two CPU cores had to do; the paper's are 30 and 20.
#
# *Predict:* from 8 to 16 times smaller, how many points of accuracy does that cost?

# %%
print(f"{'':42s}{'epochs':>8s}{'rate':>8s}{'test %':>8s}{'float %':>9s}{'minutes':>9s}")
for record in found.values():
    settings, results = record.header["settings"], record.results
    name = records.label(record) + (", 8-bit activations" if kind(record) == "8-bit activations" else "")
    epochs = f"{settings['search_epochs']} + {settings['final_epochs']}"
    accuracy, minutes = results["accuracy"], record.timing["seconds"] / 60
    numbers = f"{results['rates']['weights']:8.2f}{accuracy['test']:8.2f}{accuracy['float_test']:9.2f}{minutes:9.1f}"
    print(f"{name:42s}{epochs:>8s}{numbers}")

# %% [markdown]
# ## Stage 1: the rates
#
# The loss pulls the *expected* rate to its aim, the target and a margin of a few percent. *Predict:* how long does
# that take: a tenth of the search, half of it, all of it?

# %%
plots.show(plots.compression(at(close)))

# %% [markdown]
# Play the search. Look at the rows of layer3 on the left, where most weights are, and at the accuracy they pay with:
# the task loss, at the bottom right.

# %%
explorers.replay(at(close), play=4)

# %% [markdown]
# ## Exercise 1 · Two rates from the same tables (medium, 8 minutes)
#
# Write `both_rates(tables, bits, sizes)`: the expected rate and the actual one, in this order. `tables` is an array
# (weights, bits, thresholds) of probabilities, `bits` says which bit-width each row of a table stands for, `sizes` has
# the elements of each weight. The actual rate takes for each weight its most probable bits.


# %% tags=["stub"]
def both_rates(tables, bits, sizes):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum over the thresholds first: that leaves, for each weight, a probability for each bit-width. The mean of the bits
# under it gives one rate, the bits with the largest probability the other. A rate is 32 over mean bits of an element.


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
# *Predict:* when are the two rates further apart, early in a search or at its end? And on which side is the actual one?

# %%
drawing, (left, right) = plots.canvas(1, 2, height=3.6)
gaps = {}
for number, (name, record) in enumerate(plain.items()):
    epochs = [e for e in record.of("epoch") if e["stage"] == 1]
    gaps[name] = [100 * (e["actual_rate"] / e["expected_rate"] - 1) for e in epochs]
    left.plot(range(1, len(epochs) + 1), gaps[name], label=records.label(record), **look(number))
    repair = record.of("repair")[0]
    target = record.header["target"]["weights"]
    ends = [epochs[-1]["expected_rate"], repair["rate_before"], repair["rate_after"]]
    right.plot(range(3), [100 * (end / target - 1) for end in ends], **look(number))
left.axhline(0, color=plots.INK, lw=1)
left.set(
    xlabel="after epoch of stage 1",
    ylabel="actual over expected rate (%)",
    xticks=range(1, 1 + max(map(len, gaps.values()))),
)
right.axhline(0, color=plots.INK, lw=1)
right.set(
    xticks=range(3), xticklabels=["expected", "selected", "repaired"], ylabel="over the target (%)", xlim=(-0.3, 2.3)
)
left.legend(frameon=False, fontsize=9)
first, last = max(abs(g[0]) for g in gaps.values()), max(abs(g[-1]) for g in gaps.values())
plots.show(
    drawing,
    f"After the first epoch the actual rate is up to {first:.0f} % off the expected one, at the end of stage 1 up to "
    f"{last:.1f} %; the repair brings every search to within "
    f"{max(100 * (r.results['rates']['weights'] / r.header['target']['weights'] - 1) for r in plain.values()):.1f} % "
    f"above its target.",
)

# %% [markdown]
# While a block stands between two bit-widths, the mean of them is not what it would select. At the end the
# probabilities are nearly all on one scheme, and the two rates meet.
#
# ## What the repair did
#
# The search aims above the target, so the selection usually saves more than was asked for. The repair gives the rest
# back: the weight that can have more bits within the target, at the least loss of probability for each bit. Where a
# selection misses the target, it first takes bits away by the same rule.
#
# *Predict:* will the bits go to large weights or to small ones?

# %%
for record in plain.values():
    sizes = {t["name"]: t["size"] for t in of(record)}
    repair = record.of("repair")[0]
    print(f"{records.label(record)}: {repair['rate_before']:.2f} to {repair['rate_after']:.2f}")
    for move in repair["moves"]:
        elements = f"{sizes[move['name']]:,} elements"
        print(f"    {move['name'].removesuffix('.weight'):18s}{move['before']} to {move['after']} bits, {elements}")

# %% [markdown]
# What is left to give is often too little for a large weight: one more bit for 36,864 elements costs as much as four
# more for 9,216. So small weights get bits that nobody chose for them. Keep that in mind when you read a selection: the
# records say what each weight had before (`bits_before_repair`).
#
# ## What stage 2 gives back
#
# *Predict:* with the schemes fixed and the weights free, how much of the validation accuracy comes back in stage 2?

# %%
drawing, ax = plots.canvas(height=3.6)
back, share = {}, []
for number, (name, record) in enumerate(plain.items()):
    epochs = record.of("epoch")
    accuracies = [e["validation_accuracy"] for e in epochs]
    ax.plot(range(1, len(epochs) + 1), accuracies, label=records.label(record), **look(number))
    first = [a for a, e in zip(accuracies, epochs) if e["stage"] == 1]
    ax.plot(range(1, len(first) + 1), first, **look(number) | {"ls": "none", "mfc": "white"})
    own = record.results["accuracy"]
    back[name] = own["validation"] - own["after_search"]
    share.append(back[name] / (own["float_validation"] - own["after_search"]))
ax.axhline(record.results["accuracy"]["float_validation"], color=plots.INK, ls="--", label="float network")
ax.set(xlabel="after epoch (hollow: of stage 1)", ylabel="validation accuracy (%)")
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
plots.show(
    drawing,
    f"From the repaired selection at the end of stage 1, stage 2 gives back {min(back.values()):.1f} to "
    f"{max(back.values()):.1f} points of validation accuracy, {min(share):.0%} to {max(share):.0%} of what was missing "
    f"to the float network's.",
)

# %% [markdown]
# A word of warning: the float network was trained on the same pictures that the validation split was cut from. So all
# these accuracies are too good. They still say which epoch to keep; what the network is worth, the test set says, once.
#
# ## Explorer: two searches beside each other
#
# The network as a map: a bar for each weight, in order, as high as it has elements, coloured and numbered by its bits.
# Below, the table of the layer in the red frame, in either search. Three settings worth trying:
#
# * **`step` repaired, then one step back.** Which bars change? Those are the repair's; compare with the list above.
# * **`layer` layer3.2.conv2, and drag `step` from the first to the last.** Watch how its probability crosses the table
#   in the two searches: fewer bits *and* a smaller threshold at the same time.
# * **`layer` linear.** Very few weights, next to the scores. Does any target make it leave 8 bits?

# %%
explorers.selection(at(close), at(beside), step="repaired", layer="layer3.2.conv2.weight")

# %% [markdown]
# ## Accuracy against rate
#
# *Predict:* is the fall from the float network's accuracy steady, or does it come at the end?

# %%
drawing, ax = plots.canvas(height=4)
kinds = sorted({kind(r) for r in found.values()}, key=lambda k: (k != "8-bit activations", k))
tested = record.header["pictures"][2]
for name, colour, marker in zip(kinds, [*plots.COLOURS, plots.INK, plots.PALE], plots.MARKERS + "vP"):
    group = [r for r in found.values() if kind(r) == name]
    x = [r.results["rates"]["weights"] for r in group]
    y = [r.results["accuracy"]["test"] for r in group]
    error = [(a * (100 - a) / tested) ** 0.5 for a in y]
    style = {"ls": "none", "color": colour, "marker": marker, "ms": 8, "capsize": 4, "lw": 1.2}
    ax.errorbar(x, y, yerr=error, label=name, **style)
floats = sorted({r.results["accuracy"]["float_test"] for r in found.values()})
for value in floats:
    ax.axhline(value, color=plots.INK, ls="--", label="float network" if value == floats[0] else None)
ax.set(xlabel="rate of the weights (32 bits / mean bits)", ylabel="test accuracy (%)")
ax.legend(frameon=False)
change = {r.results["rates"]["weights"]: r.results["accuracy"]["test"] - r.results["accuracy"]["float_test"]
          for r in plain.values()}  # fmt: skip
low, high = min(change), max(change)
plots.show(
    drawing,
    f"With 8-bit activations the test accuracy changes by {change[low]:+.2f} points at a rate of {low:.2f} and by "
    f"{change[high]:+.2f} at {high:.2f}; the bars are one standard error of an accuracy on {tested:,} pictures.",
)

# %% [markdown]
# The published results stand beside ours in lesson 11. Their network is another one, so what can be compared is the
# distance to its own float network.
#
# ## Exercise 2 · What a test set can tell (easy, 4 minutes)
#
# Write `standard_error(accuracy, pictures)`: the standard error of an accuracy, in points. `accuracy` is in percent.
# Each picture is right or wrong, independently.


# %% tags=["stub"]
def standard_error(accuracy, pictures):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# One picture that is right with probability p has the variance p (1 - p). What is the variance of the mean of n such
# pictures?


# %% tags=["solution"]
def standard_error(accuracy, pictures):
    return (accuracy * (100 - accuracy) / pictures) ** 0.5


# %% tags=["check"]
checks.standard_error(standard_error)

# %% [markdown]
# Differences between networks on the *same* pictures are less noisy than this, for most pictures are right for both:
# what counts is the pictures on which the two differ. Differences between searches have another noise as well, the
# seed's: where a target was searched twice, the records show it.

# %%
by_target = {}
for record in plain.values():
    by_target.setdefault(record.header["target"]["weights"], []).append(record.results["accuracy"]["test"])
twice = {target: values for target, values in by_target.items() if len(values) > 1}
for target, values in twice.items():
    numbers = ", ".join(f"{v:.2f}" for v in values)
    print(f"target {target:g}: {numbers} % with {len(values)} seeds, {max(values) - min(values):.2f} points apart")
if not twice:
    print("No target was searched with a second seed in these records.")

# %% [markdown]
# ## 8-bit against 4-bit activations
#
# The bits of activations are not searched, only their thresholds. *Predict:* what costs more accuracy, the weights from
# 10 to 14 times smaller, or the activations from 8 bits to 4?

# %%
for record in found.values():
    bits = sorted({t["bits"] for t in of(record, "activation")})
    if max(bits) >= 8:
        continue
    wanted, own = record.header["target"]["weights"], record.results
    print(
        f"{records.label(record)}: {own['accuracy']['test']:.2f} % at {own['rates']['weights']:.2f}, activations {bits}"
    )
    targets = {r.header["target"]["weights"] for r in plain.values()}
    for near in sorted(targets, key=lambda target: abs(target - wanted))[:2]:
        results = at(near).results
        name = f"    8-bit activations, {records.label(at(near))}"
        print(f"{name}: {results['accuracy']['test']:.2f} % at {results['rates']['weights']:.2f}")
if all(max(t["bits"] for t in of(r, "activation")) >= 8 for r in found.values()):
    print("No search with activations below 8 bits is among these records.")

# %% [markdown]
# ## 1-bit tensors
#
# Two bits for every weight is a rate of 16. *Predict:* what must a search do that has to reach 17.3?
#
# ## Exercise 3 · How many weights must have 1 bit (easy, 5 minutes)
#
# Write `one_bit_share(target)`: the least share of the weights that must have 1 bit for a rate of `target`, if all
# others have 2. It lies from 0 to 1; targets go up to 32.


# %% tags=["stub"]
def one_bit_share(target):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Which mean bits does the target ask for? With a share s at 1 bit and the rest at 2, what are the mean bits?


# %% tags=["solution"]
def one_bit_share(target):
    return max(0.0, 2 - 32 / target)


# %% tags=["check"]
checks.one_bit_share(one_bit_share)

# %%
plots.show(plots.bits_by_record(found))

# %%
for record in found.values():
    ones = [t for t in of(record) if t["bits"] == 1]
    share = sum(t["size"] for t in ones) / sum(t["size"] for t in of(record))
    least = max(0.0, 2 - 32 / record.results["rates"]["weights"])
    where = ", ".join(f"{t['name'].removesuffix('.weight')} below 2^{t['threshold_exponent']}" for t in ones) or "none"
    print(f"{records.label(record)}: {share:.0%} of the weights have 1 bit, at least {least:.0%} must.\n    {where}")

# %% [markdown]
# Where more weights have 1 bit than must, other layers have 3 bits or more in return.
#
# A signed tensor of 1 bit holds two values, -t and 0 (lesson 01): half of the weights are cut to nothing, the others
# are all the same. *Predict:* where will a search put the threshold t of such a tensor, compared with one of more bits?

# %%
every = [t for record in found.values() for t in of(record)]
octaves = [t["space"]["exponents"][0] - t["threshold_exponent"] for t in every]
widths = [t["bits"] for t in every]
counts = np.zeros((max(octaves) + 1, max(widths)), int)
np.add.at(counts, (octaves, np.array(widths) - 1), 1)
drawing, ax = plots.canvas(height=3.6)
style = {"annot": np.where(counts, counts.astype(str), ""), "fmt": "", "cmap": "cividis", "linewidths": 0.5}
sns.heatmap(counts, ax=ax, xticklabels=range(1, 1 + max(widths)), cbar_kws={"label": "weights"}, **style)
ax.tick_params(axis="y", rotation=0)
ax.set(xlabel="selected bits", ylabel="octaves below the\nhighest threshold")
mean = {b: np.mean([o for o, w in zip(octaves, widths) if w == b]) for b in sorted(set(widths))}
told = ", ".join(f"{m:.1f} at {b} bit{'s' if b > 1 else ''}" for b, m in mean.items())
plots.show(
    drawing,
    f"The {len(every)} weights of {len(found)} searches: how far their thresholds lie below the highest that a search "
    f"could choose, the second power of two above the largest weight. In the mean {told}.",
)

# %% [markdown]
# With many bits the threshold may cover all weights. With 1 bit it *is* the only value other than 0: it has to sit
# where many weights are, far below the largest of them. Such a tensor still learns: the gradient is that of lesson 03,
# inclusive at the end levels, while the released code's, strict at both ends, is zero for every weight of a hard 1-bit
# tensor.
#
# What 1-bit tensors are worth can only be told at targets that can be reached without them:

# %%
without = {n: r for n, r in found.items() if 1 not in r.header["space"]["bits"]}
for record in without.values():
    target = record.header["target"]["weights"]
    others = [r for r in plain.values() if r.header["target"]["weights"] == target and r is not record]
    told = ", ".join(f"{r.results['accuracy']['test']:.2f} % ({records.label(r)})" for r in others) or "no record"
    print(f"{records.label(record)}, without 1 bit: {record.results['accuracy']['test']:.2f} %; with it: {told}")
if not without:
    uses = [records.label(r) for r in plain.values()
            if r.results["rates"]["weights"] < 16.5 and any(t["bits"] == 1 for t in of(r))]  # fmt: skip
    print("All of these searches could choose 1 bit, so there is none without it to compare with.")
    print(
        "Near or below 16, where nothing forces them, 1-bit tensors were chosen all the same in:",
        *uses or ["none"],
        sep="\n    ",
    )

# %% [markdown]
# ## What it costs
#
# *Predict:* which epoch takes longer, one of stage 1 or one of stage 2?

# %%
print(f"{'':42s}{'minutes':>9s}{'s an epoch, stage 1':>22s}{'stage 2':>9s}{'ratio':>8s}")
for record in found.values():
    ends = [0.0, *(e["until"] for e in record.timing["epochs"])]
    seconds = {1: [], 2: []}
    for event, begin, end in zip(record.timing["epochs"], ends, ends[1:]):
        seconds[event["stage"]].append(end - begin)
    first, second = (np.median(seconds[stage]) for stage in (1, 2))
    minutes = record.timing["seconds"] / 60
    print(f"{records.label(record):42s}{minutes:9.1f}{first:22.0f}{second:9.0f}{first / second:8.2f}")
hardware = record.header["hardware"]
print(f"on {hardware['processor']}, {hardware['threads']} threads, torch {record.header['versions']['torch']}")

# %% [markdown]
# The minutes are those of runs with other work on the same two cores; the ratios within one run say more. A step of
# stage 1 draws noise for every block and trains the logits too, and that is all it does beside what stage 2 does.
#
# ## A search of your own
#
# Where CIFAR10 is (the README says in which folders it is looked for) and `weights` in the parameters names a trained
# ResNet-20 (`hmq-lab train --data cifar10 --model resnet20 --out FILE` makes one), this cell starts a search in a
# process of its own and draws it while it runs: rates, loss, temperature, the map of bits. Its buttons pause it,
# interrupt it and go on; it outlives this tab. Running the cell again shows the same search. It takes as long as the
# table above says.


# %%
def own_or_recorded():
    if weights:
        own = {"model": "resnet20", "data": "cifar10", "weights": weights, "normalize": normalize}
        return explorers.live(out, **own, target=close, seed=seed)
    print("No search was started: `weights` in the parameters names no file. Below, the record at the same target.")
    return explorers.replay(at(close), step=at(close).of("tables")[-1]["step"])


own_or_recorded()

# %% [markdown]
# ## Summary
#
# * Stage 1 brings the expected rate to its aim early; the actual rate meets it when the probabilities are sharp.
# * The repair closes the rest, and may give small weights bits that no gradient asked for.
# * Stage 2, a few epochs with fixed schemes, gives back a good part of what stage 1 lost.
# * Above a rate of 16 some weights must have 1 bit; those that have it have low thresholds, too.
# * A test set of 10,000 pictures tells a difference of a point, hardly one of a quarter.
#
# ## To talk about
#
# * The searches aim 3 % above the target and give the rest back by a rule. What else could one do with it?
# * The validation accuracy of the float network is nearly 100 %. Why is it still of use, and what would you do instead?
# * Why can a layer of the last stage live with 1 bit, and the last layer not with fewer than 8?
# * The paper trains 30 + 20 epochs. Which of the numbers in this lesson would you expect to change with as many?
#
# **In the paper:** figure 3 is accuracy against rate on CIFAR10, figure 2 expected and actual compression over
# training. **Differences:** another float network of the same class (91.73 %), few epochs at higher learning rates, a
# margin above the target, and a repair with refill, which the paper does not have.
