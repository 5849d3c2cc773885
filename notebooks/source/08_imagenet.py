# %% [markdown]
# # ImageNet
#
# Four networks for large pictures: where their weights and activations are, what a rate asks of them, and a whole
# search of MobileNetV2 on ten of the thousand classes.
#
# **Minutes:** 45 (30 s of them computing) · **Data:** none for the counts; the searches are records that come with the
# package; ImageNet, or a folder of pictures, only for a search of your own · **Know first:** lessons 05 to 07
#
# **After this you can**
#
# * take stock of a network: which tensors are quantized, where its elements are, which of them can pay for a budget,
# * say which weights a rate counts, and what it asks of the others when one layer keeps its bits,
# * compute activation bits from a rate of the largest tensor, and read such a rate beside a histogram of bits,
# * turn a size in bytes into a rate, with what stays float counted,
# * tell in a selection what belongs to depthwise layers and what to small ones.

# %% tags=["parameters"] quick={"names": ["mobilenet_v1", "mobilenet_v2"], "pixels": 128}
# Parameters: the networks, the pictures' size, the rate of the largest activation, and the room on a phone.
names = ["mobilenet_v1", "mobilenet_v2", "resnet50", "efficientnet_b0"]
pixels = 224
activation_rate = 8.0
room = 2.0  # millions of bytes
seed = 0
# For a search of your own: a folder with train/ and val/ (or "imagenet"), a file of weights, and settings.
folder = ""
weights = ""
settings = "quick/imagenette"  # for the whole of ImageNet: "paper/mobilenet_v2"
out = "../runs/imagenet-own"  # where that search keeps its state and its record

# %%
import math
from collections import Counter

import numpy as np
import torch

from hmq_lab import SearchSpace, Target, attach, budget, checks, explorers, models, placements, plots
from hmq_lab.plots import comparison, published
from hmq_lab.runs import records
from hmq_lab.settings import IMAGENET, POINTS, PRESETS

torch.manual_seed(seed)
sample = torch.rand(1, 3, pixels, pixels)
networks = {name: attach(models.build(name, classes=1000), SearchSpace(), sample) for name in names}


def of(network, kind):
    return [p for p in placements(network) if p.kind == kind and p.quantized]


print("networks without trained weights:", ", ".join(networks))

# %% [markdown]
# For counting, a network needs no training, and noise will do for a picture. The blocks are on: everything below is
# counted on the networks' own graphs.
#
# ## Taking stock
#
# *Predict:* ResNet-50 has most weights. Which network has most weight *tensors*, that is, most choices of bits to make?

# %%
print(f"{'':18s}{'weight tensors':>15s}{'elements':>12s}{'activations':>13s}{'largest':>11s}   its place")
for name, network in networks.items():
    sizes, activations = budget.weight_sizes(network), budget.activation_sizes(network)
    largest = max(activations, key=activations.get)
    numbers = f"{len(sizes):15d}{sum(sizes.values()):12,}{len(activations):13d}{activations[largest]:11,}"
    print(f"{name:18s}{numbers}   {largest}")

# %% [markdown]
# Each network is a preset: `paper/mobilenet_v2` holds the settings of the paper for it, and a name like
# `paper/mobilenet_v2-w8-acr8` the targets as well.

# %%
print(f"{'':24s}{'epochs':>9s}{'batch':>7s}{'network rate':>14s}{'logit rate':>12s}{'gamma':>7s}   published near")
for name in names:
    s = PRESETS[f"paper/{name}"]
    numbers = f"{s.batch_size:7d}{s.network_learning_rate:14.0e}{s.logit_learning_rate:12.3f}{s.gamma:7.0f}"
    print(f"paper/{name:18s}{s.search_epochs:4d} + {s.final_epochs}{numbers}   {', '.join(POINTS[name])}")

# %% [markdown]
# ## Where the elements are
#
# *Predict:* the MobileNets and EfficientNet have a depthwise convolution in every block, so about a third of their
# tensors. What share of their *elements*?

# %%
KINDS = ("depthwise", "pointwise", "squeeze and excite", "other convolutions", "fully connected")


def kind(name, shape):
    """What a weight belongs to; squeeze and excite is two 1x1 convolutions on pooled vectors."""
    if len(shape) == 2:
        return "fully connected"
    if ".fc1." in name or ".fc2." in name:
        return "squeeze and excite"
    if shape[1] == 1:
        return "depthwise"
    return "pointwise" if math.prod(shape[2:]) == 1 else "other convolutions"


shares = {}  # of tensors and of elements, by network and kind
for name, network in networks.items():
    found = [(kind(p.name, p.shape), p.size) for p in of(network, "weight")]
    every = sum(size for _, size in found)
    tensors = [100 * np.mean([k == wanted for k, _ in found]) for wanted in KINDS]
    elements = [100 * sum(size for k, size in found if k == wanted) / every for wanted in KINDS]
    shares[name] = tensors, elements

drawing, axes = plots.canvas(1, 2, height=3.4, sharey=True)
for ax, which, label in zip(axes, (0, 1), ("tensors", "elements")):
    left = np.zeros(len(names))
    for number, wanted in enumerate(KINDS):
        values = np.array([shares[name][which][number] for name in names])
        style = {"color": [*plots.COLOURS, plots.PALE][number], "hatch": plots.HATCHES[number], "edgecolor": "white"}
        ax.barh(names, values, left=left, lw=0, label=wanted, **style)
        for at, value in enumerate(values):
            if value >= 8:
                box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
                ax.text(left[at] + value / 2, at, f"{value:.0f}", ha="center", va="center", fontsize=9, bbox=box)
        left += values
    ax.set(xlabel=f"share of the weight {label} (%)", xlim=(0, 100))
    ax.grid(False, axis="y")
axes[0].invert_yaxis()
handles, labels = axes[0].get_legend_handles_labels()
drawing.legend(handles, labels, ncols=len(KINDS), loc="outside upper left", frameon=False)
told = "; ".join(
    f"{name} {tensors[0]:.0f} % of the tensors and {elements[0]:.1f} % of the elements"
    for name, (tensors, elements) in shares.items()
    if tensors[0]
)
plots.show(drawing, f"Depthwise convolutions hold: {told}.")

# %% [markdown]
# The budget counts elements. So depthwise layers have hardly anything to pay with, and pointwise ones pay for nearly
# all. Keep this in mind for the paper's observation that pointwise layers get by with fewer bits.
#
# ## Exercise 1 · Weights of an inverted residual (easy, 5 minutes)
#
# The block of MobileNetV2: a pointwise *expansion* to `expansion * inputs` channels, a *depthwise* convolution with
# `kernel` x `kernel` filters, a pointwise *projection* to `outputs` channels. With `expansion` 1 there is no first
# layer. Write `inverted(inputs, outputs, expansion, kernel)`: the weights of the three, in this order, without biases.


# %% tags=["stub"]
def inverted(inputs, outputs, expansion, kernel):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A convolution has outputs x (inputs / groups) x kernel x kernel weights. Depthwise: as many groups as channels.


# %% tags=["solution"]
def inverted(inputs, outputs, expansion, kernel):
    hidden = expansion * inputs
    return inputs * hidden if expansion > 1 else 0, hidden * kernel**2, hidden * outputs


# %% tags=["check"]
checks.inverted(inverted)

# %% [markdown]
# ## Explorer: every tensor, and why some stay float
#
# The last of the networks above, tensor by tensor, on one picture of noise. Three settings worth trying:
#
# * **`show` float.** Most of what is left float are batch norm and biases. Find a product of squeeze and excite and a
#   pooled vector (names with `mul` and `avgpool`): what is said of them?
# * **`show` activations, and go through the first ten.** Which of them are signed, and after what do they stand?
# * **`show` weights.** Where are the small ones? Most are depthwise, or squeeze and excite.

# %%
explored = list(networks)[-1]
largest = max(of(networks[explored], "activation"), key=lambda p: p.size)
explorers.placements(networks[explored], sample, show="activations", tensor=largest.name)

# %% [markdown]
# ## What a rate counts
#
# The authors leave the last layer of ResNet-50 float and do not count it. Their rate of 15.7 is then 7.2 for the whole
# network; lesson 11 has the exercise. Here is the question turned round: a rate is asked of *all* weights, and some
# keep their bits. What do the others have to give?
#
# ## Exercise 2 · The rate of the rest (medium, 6 minutes)
#
# Write `rest_rate(rate, elements, kept, bits)`: all `elements` together must have the rate `rate`, `kept` of them have
# `bits` bits. Which rate do the others need? Where the kept ones take all the room, or more, return `float("inf")`.


# %% tags=["stub"]
def rest_rate(rate, elements, kept, bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Count bits. How many may all elements take together at that rate? How many do the kept ones take, and what is left?


# %% tags=["solution"]
def rest_rate(rate, elements, kept, bits):
    left = 32 * elements / rate - kept * bits  # bits for the others
    return 32 * (elements - kept) / left if left > 0 else float("inf")


# %% tags=["check"]
checks.rest_rate(rest_rate)

# %% [markdown]
# *Predict:* all depthwise layers keep 8 bits. How much more must the others shrink for a rate of 14.4? And what if
# instead the fully connected layer stays float?


# %%
def others(rate, sizes, kept, bits):
    """As in the exercise, so that this page goes on without it."""
    left = 32 * sum(sizes) / rate - kept * bits
    return 32 * (sum(sizes) - kept) / left if left > 0 else np.inf


wanted = (8.0, 14.4)
print(f"{'rate of the others, for all weights at':40s}" + "".join(f"{rate:>8g}" for rate in wanted))
for name, network in networks.items():
    found = [(kind(p.name, p.shape), p.size) for p in of(network, "weight")]
    sizes = [size for _, size in found]
    for what, bits in (("depthwise", 8), ("fully connected", 8), ("fully connected", 32)):
        kept = sum(size for k, size in found if k == what)
        numbers = [others(rate, sizes, kept, bits) for rate in wanted]
        said = "".join(f"{n:8.1f}" if n <= 32 else f"{'none':>8s}" for n in numbers)
        if kept:
            print(f"{name:18s}{what + f' at {bits}':22s}{said}")

# %% [markdown]
# (`none`: not even with 1 bit everywhere else.) Depthwise layers at 8 bits cost the others almost nothing. A float last
# layer of a small network is more than the whole budget. That is why it matters whether a rate counts it.
#
# ## Bits of activations
#
# The bits of activations are not searched. The target is a rate of the *largest* one, the activation compression rate
# (ACR), for the largest one sets the memory. A tensor of n elements gets
#
# $$\text{bits} = \left\lfloor \frac{32\, n_\text{max}}{R\, n} \right\rfloor,\text{ but at least 4 and at most 8.}$$
#
# ## Exercise 3 · Activation bits (medium, 5 minutes)
#
# Write `activation_bits(sizes, rate)`: the bits of each activation, as a list. `sizes` has the elements of each.


# %% tags=["stub"]
def activation_bits(sizes, rate):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `math.floor` and `max(sizes)`; then `min` and `max` to stay between 4 and 8.


# %% tags=["solution"]
def activation_bits(sizes, rate):
    return [min(8, max(4, math.floor(32 * max(sizes) / (rate * size)))) for size in sizes]


# %% tags=["check"]
checks.activation_bits(activation_bits)

# %% [markdown]
# *Predict:* at an ACR of 8, how many of MobileNetV2's activations get 4 bits: all, half of them, a few?

# %%
drawing, axes = plots.canvas(1, len(names), height=3.4, sharey=True)
four = {}
for ax, (name, network) in zip(np.atleast_1d(axes), networks.items()):
    sizes = budget.activation_sizes(network)
    bits = budget.activation_bits(sizes, activation_rate)
    size, width = np.array(list(sizes.values())), np.array([bits[n] for n in sizes])
    place = np.arange(len(size))
    for group, colour, marker in ((width == 8, plots.BLUE, "o"), (width < 8, plots.ORANGE, "s")):
        ax.plot(place[group], size[group], marker, color=colour, ms=5 if marker == "o" else 8)
    ax.axhline(4 * size.max() / activation_rate, color=plots.INK, ls="--", lw=1)
    four[name] = Counter(width.tolist())
    ax.set(title=name, xlabel="activation, in order", yscale="log")
np.atleast_1d(axes)[0].set_ylabel("elements of a picture")
entries = (("o", plots.BLUE, "8 bits"), ("s", plots.ORANGE, "fewer"), ("--", plots.INK, "room for 8 bits"))
lines = [np.atleast_1d(axes)[0].plot([], [], look, color=colour, label=label)[0] for look, colour, label in entries]
drawing.legend(handles=lines, ncols=3, loc="outside upper left", frameon=False)
told = "; ".join(
    f"{name} " + ", ".join(f"{count} of {bits} bits" for bits, count in sorted(counts.items()))
    for name, counts in four.items()
)
plots.show(drawing, f"Activations at an ACR of {activation_rate:g}: {told}.")

# %% [markdown]
# Reports label such a network "W4A4", for 32 / 8 is 4. That misleads: read the histogram beside the rate.
#
# *Predict:* the target goes up to 16. What does the actual ACR do?

# %%
rates = np.arange(4, 33)
drawing, (left, right) = plots.canvas(1, 2, height=3.4)
ends = {}
for number, (name, network) in enumerate(networks.items()):
    sizes = budget.activation_sizes(network)
    tables = [budget.activation_bits(sizes, float(rate)) for rate in rates]
    fewer = [100 * np.mean([b < 8 for b in bits.values()]) for bits in tables]
    actual = [32 * max(sizes.values()) / max(sizes[n] * bits[n] for n in sizes) for bits in tables]
    look = {"color": plots.COLOURS[number], "marker": plots.MARKERS[number], "markevery": (number, 4), "ms": 6}
    left.plot(rates, fewer, label=name, **look)
    right.plot(rates, actual, **look)
    ends[name] = max(actual)
right.plot(rates, rates, color=plots.INK, ls="--", lw=1)
right.text(20, 21, "target", rotation=30, ha="center", fontsize=9)
left.set(xlabel="target ACR", ylabel="activations below 8 bits (%)")
right.set(xlabel="target ACR", ylabel="actual ACR", ylim=(0, 33))
left.legend(frameon=False)
told = ", ".join(f"{end:.1f} for {name}" for name, end in ends.items())
plots.show(
    drawing,
    f"The actual ACR follows the target up to 8 and ends there ({told}), while ever more activations lose bits.",
)

# %% [markdown]
# Nothing goes below 4 bits, so the largest tensor is at most 8 times smaller. A higher target takes bits from others
# and gains nothing by this measure. Is it a good measure? A layer reads one tensor and writes another, and while it
# runs, both are there.
#
# ## Exercise 4 · Peak memory (easy, 5 minutes)
#
# Write `peak_bytes(sizes, bits)` for a chain of layers: layer k reads tensor k and writes tensor k + 1. `sizes` and
# `bits` are of the tensors, in order. How many bytes are needed at the worst moment?


# %% tags=["stub"]
def peak_bytes(sizes, bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First the bits of each tensor, then the sums of neighbours, then the largest.


# %% tags=["solution"]
def peak_bytes(sizes, bits):
    taken = [n * b for n, b in zip(sizes, bits)]
    return max(taken[k] + taken[k + 1] for k in range(len(taken) - 1)) / 8


# %% tags=["check"]
checks.peak_bytes(peak_bytes)

# %% [markdown]
# MobileNetV1 is such a chain. *Predict:* at an ACR of 8, is its peak memory 8 times smaller, too?

# %%
chain = next(iter(networks))
sizes = budget.activation_sizes(networks[chain])
elements = np.array([3 * pixels**2, *sizes.values()])  # the picture first, with 8 bits
print(f"{chain + ', target ACR':26s}{'ACR':>6s}{'peak, bytes':>13s}{'of float':>10s}{'below 8 bits':>14s}")
for rate in (4.0, 8.0, 16.0, 32.0):
    bits = np.array([8, *budget.activation_bits(sizes, rate).values()])
    taken, plain = elements * bits / 8, elements * 4
    peak, before = (taken[1:] + taken[:-1]).max(), (plain[1:] + plain[:-1]).max()
    actual = 4 * elements[1:].max() / taken[1:].max()
    print(f"{rate:<26g}{actual:6.1f}{peak:13,.0f}{f'1 / {before / peak:.1f}':>10s}{(bits < 8).sum():14d}")

# %% [markdown]
# Above 8 the ACR stands still, and the peak still shrinks: its neighbours lose bits. A rate is a stand-in for what you
# want; look at what you want as well.
#
# ## A budget in bytes
#
# A phone has `room` for the network (in the parameters, in millions of bytes). *Predict:* for which of the four is that
# a rate above 16?

# %%
print(f"{'':18s}{'float MB':>9s}{'rate':>7s}{'batch norm, biases MB':>24s}{'the same, folded':>18s}{'rate then':>11s}")
for name, network in networks.items():
    count = sum(budget.weight_sizes(network).values())
    means = sum(b.numel() for n, b in network.named_buffers() if n.endswith("running_mean"))
    left_float = sum(p.size for p in placements(network) if p.kind == "parameter")  # batch norm has two of four here
    stored = 4e-6 * (left_float + 2 * means)
    folded = 4e-6 * (left_float - means)  # a bias for each channel: of weight, bias, mean and variance, one is left
    then = 4e-6 * count / (room - folded) if folded < room else np.inf
    numbers = f"{4e-6 * count:9.1f}{4e-6 * count / room:7.1f}{stored:24.2f}{folded:18.2f}{then:11.1f}"
    print(f"{name:18s}{numbers}")

# %% [markdown]
# What stays float is little beside float weights and a good part beside quantized ones. Folding batch norm into the
# weights (lesson 10) leaves one number for each channel.
#
# *Predict:* which network gives the best published accuracy within that room, its weights alone counted?

# %%
print(f"{'within ' + f'{room:g} MB of weights':22s}{'rate':>7s}{'MB':>7s}{'top-1 %':>9s}   where from")
for name in names:
    found = []
    for v in published.select(data="imagenet", network=comparison.NETWORKS[name], method="HMQ", acr=None):
        # The authors' last layer of ResNet-50 stays float: it is there all the same.
        last = 4e-6 * published.RESNET50_LAST if name == "resnet50" else 0
        found.append((v.size + last, v))
    fits = [(size, v) for size, v in found if size <= room]
    if fits:
        size, best = max(fits, key=lambda pair: pair[1].accuracy)
        print(f"{name:22s}{best.wcr:7.2f}{size:7.2f}{best.accuracy:9.2f}   {published.SOURCES[best.source]}")
    else:
        print(f"{name:22s}none; the smallest published has {min(size for size, _ in found):.1f} MB")

# %% [markdown]
# Lesson 11 draws all published results beside each other, and says what may be compared. None of those accuracies is
# ours: ImageNet was not at hand when this lesson was written. What was run, and the commands for who has the data, are
# on the page `docs/imagenet.md`; in short
#
# ```
# hmq-lab search --root ROOT --preset paper/mobilenet_v2-w8-acr8 --weights FILE
# ```
#
# ## Ten classes
#
# Ten of the thousand classes are enough for a whole search of MobileNetV2 on real pictures: fine-tuned on them in
# float, then searched. This section shows the records of such searches that come with your version of the package, and
# says so where there is none.

# %%
large = {
    name: record
    for name, record in records.matching(
        model=lambda model: model in IMAGENET, data=lambda data: data not in comparison.ELSEWHERE
    ).items()
    if record.results.get("status") == "complete"
}
MISSING = "No record of one of these networks comes with this version of the package: there is nothing to show here."
for name, record in large.items():
    header, results, used = record.header, record.results, record.header["settings"]
    print(f"{name}: {header['model']} on {header['data']}, {header['picture'][-1]} pixels, {records.label(record)}")
    print(f"    {used['search_epochs']} + {used['final_epochs']} epochs, {header['pictures'][0]:,} training pictures")
    rates = results["rates"]
    print(f"    weights {rates['weights']:.2f} / all {rates['all_weights']:.2f} / checkpoint {rates['checkpoint']:.2f}")
    counts = Counter(t["bits"] for t in record.tensors if t["kind"] == "activation")
    said = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(counts.items()))
    print(f"    largest activation {rates['activations']:.2f} times smaller: {said}")
if not large:
    print(MISSING)

# %% [markdown]
# *Predict:* how large must a difference be for 1,000 test pictures to tell it from chance? (Lesson 07 has the formula.)

# %%
for name, record in large.items():
    accuracy, tested = record.results["accuracy"], record.header["pictures"][2]
    own, before = accuracy["test"], accuracy["float_test"]
    error = [(a * (100 - a) / tested) ** 0.5 for a in (own, before)]
    changed = abs(own - before) / 100 * tested
    print(f"{name}, {tested:,} test pictures")
    print(f"    float     {before:.2f} %, standard error {error[1]:.2f}")
    print(f"    searched  {own:.2f} %, standard error {error[0]:.2f}: {own - before:+.2f} points")
    print(f"    the difference is {changed:.0f} pictures, one standard error at least {changed**0.5:.1f} pictures")
if not large:
    print(MISSING)

# %% [markdown]
# The two networks saw the same pictures, so what counts is the pictures on which just one of them is right. If these
# are d, the difference of the counts has a standard error of about the root of d; d is at least the difference itself,
# and the record does not say how much more.
#
# ## Depthwise or small
#
# *Predict:* do the depthwise layers keep more bits than pointwise ones *of the same size*?

# %%
for name, record in large.items():
    found = [t for t in record.tensors if t["kind"] == "weight"]
    drawing, (left, right) = plots.canvas(1, 2, height=3.6, sharey=True)
    groups = {wanted: [t for t in found if kind(t["name"], t["shape"]) == wanted] for wanted in KINDS}
    for number, (wanted, group) in enumerate((k, g) for k, g in groups.items() if g):
        look = {"ls": "none", "color": [*plots.COLOURS, plots.INK][number], "marker": "osD^v"[number], "alpha": 0.8}
        bits = np.array([t["bits_before_repair"] for t in group])
        left.plot([t["size"] for t in group], bits + 0.08 * (number - 1), label=wanted, **look)
        right.plot([found.index(t) for t in group], bits + 0.08 * (number - 1), **look)
    left.set(xscale="log", xlabel="elements", ylabel="bits, as searched", ylim=(0.5, 8.6), yticks=range(1, 9))
    right.set(xlabel="place in the network")
    drawing.legend(ncols=len(KINDS), loc="outside upper left", frameon=False)
    means = ", ".join(f"{w} {np.mean([t['bits_before_repair'] for t in g]):.1f}" for w, g in groups.items() if g)
    told = f"{name}: mean bits of a tensor before the repair: {means}."
    depthwise = groups["depthwise"]
    if depthwise:
        low, high = min(t["size"] for t in depthwise), max(t["size"] for t in depthwise)
        near = [t for t in groups["pointwise"] if low <= t["size"] <= high]
        if near:
            one, two = (np.mean([t["bits_before_repair"] for t in group]) for group in (depthwise, near))
            told += f" The {len(near)} pointwise ones with {low:,} to {high:,} elements, as the depthwise ones have,"
            told += f" have {two:.1f}, the depthwise ones {one:.1f}."
    plots.show(drawing, told)
if not large:
    print(MISSING)

# %% [markdown]
# If the small pointwise layers have as many bits as the depthwise ones, it is the size that speaks, and not the kind of
# layer. The paper's figure 5, by kind of layer, is drawn for the same record in lesson 11; lesson 09 asks the same of
# depth.
#
# ## Explorer: the selection of a large network
#
# Where there is such a record, here is the first one as a map. Three settings worth trying:
#
# * **Drag `step` from the first to the last.** Which part of the network leaves 8 bits first? Compare it with the
#   heights of the bars, its elements.
# * **`layer`: the last one, `classifier.1`, then a depthwise one** (in MobileNetV2 named `....conv.1.0`). Which of the
#   two pays?
# * **`step` repaired.** How many weights did the repair change, and are they large?

# %%
first = next(iter(large.values()), None)
explorers.selection(first, step=first.of("tables")[-1]["step"]) if first else print(MISSING)

# %% [markdown]
# The same search as it went: rates, loss, accuracy, and the table of a layer. Try **play** from the first step, then
# the layer that you found to pay most.

# %%
explorers.replay(first, step=first.of("tables")[-1]["step"]) if first else print(MISSING)

# %% [markdown]
# ## What it costs
#
# *Predict:* a search of 30 + 20 epochs has how many pictures to go through, compared with that of the record?

# %%
EPOCHS = 30 + 20  # the paper's
PICTURES = 1_281_167 - 10_000  # ImageNet's training pictures without the validation split
for name, record in large.items():
    used, minutes = record.header["settings"], record.timing["seconds"] / 60
    seen = record.header["pictures"][0] * (used["search_epochs"] + used["final_epochs"])
    hardware, factor = record.header["hardware"], EPOCHS * PICTURES / seen
    print(
        f"{name}: {minutes:.0f} minutes for {seen:,} pictures, {hardware['processor']}, {hardware['threads']} threads"
    )
    print(f"    ImageNet in full: {factor:,.0f} times as many pictures, {minutes * factor / 60 / 24:,.0f} days of that")
print(f"ImageNet, {EPOCHS} epochs: {EPOCHS * PICTURES:,} pictures")

# %% [markdown]
# So ImageNet is for GPUs: several of them share one search (`accelerate launch`, in the README).
#
# ## A search of your own
#
# Where ImageNet is, or any folder with `train/<class>/` and `val/<class>/`, and `weights` in the parameters names
# weights of MobileNetV2 trained on its classes (`hmq-lab train --data FOLDER --model mobilenet_v2 --weights FILE --out
# FILE` fine-tunes some), this cell starts a search in a process of its own and draws it while it runs. Its buttons
# pause, interrupt and resume it; it outlives this tab, and running the cell again shows the same search.


# %%
def own_or_none():
    if folder and weights:
        own = {"model": "mobilenet_v2", "data": folder, "weights": weights, "settings": settings}
        return explorers.live(out, **own, target=Target(8, activations=activation_rate), seed=seed)
    print("No search was started: `folder` and `weights` in the parameters name no data and no weights.")


own_or_none()

# %% [markdown]
# ## Summary
#
# * A rate counts elements: pointwise and fully connected layers pay, depthwise ones have next to nothing to give.
# * Ask which weights a rate counts. A float last layer of a small network can be more than the whole budget.
# * An ACR of 8 is one tensor of 4 bits, or four; the others have 8. It can rise no further, though a target may.
# * Peak memory is a pair of tensors, or more with shortcuts; and in bytes batch norm counts, too.
# * Ten classes on 1,000 pictures can show that a search works, not what it would be worth on ImageNet.
#
# ## To talk about
#
# * The paper says that depthwise layers need more bits than pointwise ones. Which experiment would tell that from "the
#   budget does not press on them"?
# * MobileNetV2's largest activation is inside a block, between expansion and depthwise convolution. How could a chip
#   avoid storing it at all, and what would be left of the ACR then?
# * ResNet-50 at the size of EfficientNet-B0, or EfficientNet-B0 itself: what beside accuracy and size would you ask?
# * Why does the authors' choice to leave the last layer float matter less in ResNet-50 than it would in MobileNetV2?
#
# **In the paper:** the experiments on ImageNet, figure 4, tables 1 to 3; the activation rate of table 2.
# **Differences:** ImageNet itself was not run here, only ten classes of it; every layer is quantized and counted,
# ResNet-50's last one too; a search on ten classes has few epochs, high learning rates, and a margin above the target.
