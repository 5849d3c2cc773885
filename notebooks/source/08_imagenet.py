# %% [markdown]
# # ImageNet
#
# Four networks for large images: where their weights and activations are, what a compression
# requires of each layer, and a whole search of MobileNetV2 on ten of the thousand classes.
#
# **Minutes:** 50 (30 s of them computing) · **Data:** none for the counts; the searches are records
# that come with the package; ImageNet, or a folder of images, only for a search of your own ·
# **Know first:** lessons 05 to 07
#
# **After this you can**
#
# * list what a network has: which tensors are quantized, where its elements are, which of them can
#   save bits,
# * say which weights a compression counts, and what the others must reach when one layer keeps its
#   bits,
# * compute activation bits from a compression of the largest tensor, and read it with a histogram of
#   bits,
# * turn a size in bytes into a compression, and count what stays float,
# * say whether a layer keeps many bits because it is depthwise or because it is small.

# %% tags=["parameters"] quick={"names": ["mobilenet_v1", "mobilenet_v2"], "pixels": 128}
# Parameters: the networks, the size of the images, the target ACR, and the room on a phone.
names = ["mobilenet_v1", "mobilenet_v2", "resnet50", "efficientnet_b0"]
pixels = 224
activation_target = 8.0
room = 2.0  # millions of bytes
seed = 0
# For a search of your own: a folder with train/ and val/ (or "imagenet"), a file of weights.
folder = ""
weights = ""
settings = "quick/imagenette"  # for the whole of ImageNet: "paper/mobilenet_v2"
out = "../runs/imagenet-own"  # where that search keeps its state and its record

# %%
import math

import numpy as np
import torch

from hmq_lab import SearchSpace, Target, attach, budget, checks
from hmq_lab import explorers, models, placements, plots
from hmq_lab.plots import comparison, published
from hmq_lab.plots.lessons import lesson08 as figures
from hmq_lab.runs import records
from hmq_lab.settings import IMAGENET, POINTS, PRESETS

predict = checks.predictions("08")

# %%
torch.manual_seed(seed)
sample = torch.rand(1, 3, pixels, pixels)
networks = {}
for name in names:
    networks[name] = attach(models.build(name, classes=1000), SearchSpace(), sample)
print("networks without trained weights:", ", ".join(networks))


def of(network, kind):
    return [p for p in placements(network) if p.kind == kind and p.quantized]


def kinds_and_sizes(network):
    return [(figures.kind(p.name, p.shape), p.size) for p in of(network, "weight")]


# %% [markdown]
# To count weights, we need no trained network, and an image of noise is enough. The blocks are
# attached, so everything below is counted on the networks' own graphs.
#
# ## What the networks have
#
# *Predict:* ResNet-50 has the most weights. Which network has the most weight *tensors*: the most
# choices of bits to make?

# %%
most_tensors = predict("most-tensors", *names)

# %%
head = f"{'weight tensors':>15s}{'elements':>12s}{'activations':>13s}{'largest':>11s}"
print(f"{'':18s}{head}   its place")
activation_sizes, tensors = {}, {}
for name, network in networks.items():
    sizes = budget.weight_sizes(network)
    activations = activation_sizes[name] = budget.activation_sizes(network)
    tensors[name] = len(sizes)
    largest = max(activations, key=activations.get)
    numbers = f"{len(sizes):15d}{sum(sizes.values()):12,}{len(activations):13d}"
    print(f"{name:18s}{numbers}{activations[largest]:11,}   {largest}")
most_tensors.result(max(tensors, key=tensors.get))

# %% [markdown]
# A **preset** is a set of settings with a name. `paper/mobilenet_v2` has the settings of the paper
# for this network. A **recipe** is a preset together with its targets: the name
# `paper/mobilenet_v2-w8-acr8` adds a compression of 8 for the weights and of 8 for the largest
# activation.

# %%
head = f"{'epochs':>9s}{'batch':>7s}{'network l.r.':>14s}{'logit l.r.':>12s}{'gamma':>7s}"
print(f"{'':24s}{head}   published near")
for name in names:
    s = PRESETS[f"paper/{name}"]
    rates = f"{s.network_learning_rate:14.0e}{s.logit_learning_rate:12.3f}"
    numbers = f"{s.batch_size:7d}{rates}{s.gamma:7.0f}"
    epochs = f"{s.search_epochs:4d} + {s.final_epochs}"
    print(f"paper/{name:18s}{epochs}{numbers}   {', '.join(POINTS[name])}")

# %% [markdown]
# ## Where the elements are
#
# A **depthwise** convolution has one filter for each channel; a **pointwise** one is a 1x1
# convolution over all channels. The MobileNets and EfficientNet have a depthwise convolution in
# every block: about a third of their tensors.
#
# *Predict:* what share of the *elements* of MobileNetV2 is in depthwise convolutions, in percent?

# %%
depthwise_share = predict("depthwise-share", low=0, high=100)

# %%
shares = {name: figures.kind_shares(kinds_and_sizes(net)) for name, net in networks.items()}
plots.show(figures.shares(shares))
depthwise_share.result(f"{shares['mobilenet_v2'][1][0]:.1f} %")

# %% [markdown]
# The budget counts elements. So depthwise layers can save hardly anything, and pointwise layers save
# nearly everything. Remember this when you read the paper's observation that pointwise layers need
# fewer bits.
#
# ## Exercise 1 · Weights of an inverted residual (easy, 5 minutes)
#
# The block of MobileNetV2 has a pointwise *expansion* to `expansion * inputs` channels, a *depthwise*
# convolution with `kernel` x `kernel` filters, and a pointwise *projection* to `outputs` channels.
# With `expansion` 1 there is no first layer. Write `inverted(inputs, outputs, expansion, kernel)`:
# the weights of the three layers, in this order, without biases.


# %% tags=["stub"]
def inverted(inputs, outputs, expansion, kernel):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A convolution has outputs x (inputs / groups) x kernel x kernel weights. A depthwise one has as many
# groups as channels.


# %% tags=["solution"]
def inverted(inputs, outputs, expansion, kernel):
    hidden = expansion * inputs
    return inputs * hidden if expansion > 1 else 0, hidden * kernel**2, hidden * outputs


# %% tags=["check"]
checks.inverted(inverted)

# %% [markdown]
# ## Explorer: every tensor, and why some stay float
#
# The last of the networks above, tensor by tensor, on one image of noise. Three settings worth
# trying:
#
# * **`show` float.** Most of these are batch norm and biases. Find a product of squeeze and excite
#   and a pooled vector (names with `mul` and `avgpool`). Which reasons are given?
# * **`show` activations, and go through the first ten.** Which of them are signed, and after what do
#   they stand?
# * **`show` weights.** Where are the small ones? Most are depthwise, or squeeze and excite.

# %%
explored = list(networks)[-1]
largest = max(of(networks[explored], "activation"), key=lambda p: p.size)
explorers.placements(networks[explored], sample, show="activations", tensor=largest.name)

# %% [markdown]
# ## What a compression counts
#
# The authors leave the last layer of ResNet-50 float and do not count it. Their compression of 15.7
# is 7.2 for the whole network; lesson 11 has the exercise. Here is the opposite question. *All*
# weights together must reach a compression, and some of them keep their bits. Which compression
# must the others reach?
#
# ## Exercise 2 · The compression of the rest (medium, 6 minutes)
#
# Write `rest_rate(rate, elements, kept, bits)`: all `elements` together must have the compression
# `rate`, and `kept` of them have `bits` bits. Which compression do the others need? If the kept
# ones take all bits of the budget, or more, return `float("inf")`.


# %% tags=["stub"]
def rest_rate(rate, elements, kept, bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Count bits. How many may all elements take together? How many do the kept ones take, and what is
# left?


# %% tags=["solution"]
def rest_rate(rate, elements, kept, bits):
    left = 32 * elements / rate - kept * bits  # bits for the others
    return 32 * (elements - kept) / left if left > 0 else float("inf")


# %% tags=["check"]
checks.rest_rate(rest_rate)

# %% [markdown]
# *Predict:* in MobileNetV2, all depthwise layers keep 8 bits. Which compression do the others need,
# for 14.4 over all weights?

# %%
others_need = predict("others-need", low=14, high=32)


# %%
def others(rate, sizes, kept, bits):
    """As in the exercise, so that this page goes on without it."""
    left = 32 * sum(sizes) / rate - kept * bits
    return 32 * (sum(sizes) - kept) / left if left > 0 else math.inf


wanted = (8.0, 14.4)
print(f"{'the others, for all weights at':40s}" + "".join(f"{rate:>8g}" for rate in wanted))
for name, network in networks.items():
    found = kinds_and_sizes(network)
    sizes = [size for _, size in found]
    for what, bits in (("depthwise", 8), ("fully connected", 8), ("fully connected", 32)):
        kept = sum(size for k, size in found if k == what)
        numbers = [others(rate, sizes, kept, bits) for rate in wanted]
        said = "".join(f"{n:8.1f}" if n <= 32 else f"{'none':>8s}" for n in numbers)
        if kept:
            print(f"{name:18s}{what + f' at {bits}':22s}{said}")
        if (name, what) == ("mobilenet_v2", "depthwise"):
            others_need.result(f"{numbers[1]:.1f}")

# %% [markdown]
# (`none`: not even with 1 bit everywhere else.) Depthwise layers at 8 bits cost the others almost
# nothing. A float last layer of a small network takes more than the whole budget. So it matters
# whether a compression counts it.
#
# ## Bits of activations
#
# The bits of activations are not searched. Their target is the compression of the *largest*
# activation, the **activation compression rate (ACR)**, because the largest activation sets the
# memory. A tensor of $n$ elements gets
#
# $$b = \left\lfloor \frac{32\, n_\text{max}}{R\, n} \right\rfloor
# \quad \text{bits, but at least 4 and at most 8.}$$
#
# ## Exercise 3 · Activation bits (medium, 5 minutes)
#
# Write `activation_bits(sizes, rate)`: the bits of each activation, as a list. `sizes` has the
# elements of each activation, `rate` is the ACR.


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
# *Predict:* at an ACR of 8, how many of MobileNetV2's activations get 4 bits?

# %%
four_bits = predict("four-bits", "one", "a few", "about half", "nearly all")

# %%
plots.show(figures.activation_bits(activation_sizes, activation_target))
bits = budget.activation_bits(activation_sizes["mobilenet_v2"], 8.0)
four_bits.result(figures.four_bit_class(bits))

# %% [markdown]
# Reports call such a network "W4A4", because 32 / 8 is 4. The name misleads: most activations have
# 8 bits. Look at the histogram, too.
#
# *Predict:* the target ACR goes up to 16. What does the actual ACR do?

# %%
acr_at_16 = predict("acr-at-16", "it follows to 16", "it stays near 8", "it falls")

# %%
plots.show(figures.acr_curves(activation_sizes, range(4, 33)))
sizes = activation_sizes["mobilenet_v2"]
actual = figures.actual_acr(sizes, budget.activation_bits(sizes, 16.0))
near_8 = "it stays near 8" if actual > 7 else "it falls"
acr_at_16.result("it follows to 16" if actual > 12 else near_8)

# %% [markdown]
# No tensor has fewer than 4 bits, so the largest tensor is at most 8 times smaller. A higher target
# takes bits from the others and gains nothing by this measure. Is it a good measure? A layer reads
# one tensor and writes another; while it runs, both are in memory.
#
# ## Exercise 4 · Peak memory (easy, 5 minutes)
#
# Write `peak_bytes(sizes, bits)` for a chain of layers: layer k reads tensor k and writes tensor
# k + 1. `sizes` and `bits` belong to the tensors, in order. How many bytes are needed at the worst
# moment?


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
# MobileNetV1 is such a chain. *Predict:* at an ACR of 8, how many times smaller is its peak memory?

# %%
peak_smaller = predict("peak-smaller", low=1, high=16)

# %%
chain = next(iter(networks))
sizes = activation_sizes[chain]
elements = np.array([3 * pixels**2, *sizes.values()])  # the image first, with 8 bits
head = f"{'ACR':>6s}{'peak, bytes':>13s}{'of float':>10s}{'below 8 bits':>14s}"
print(f"{chain + ', target ACR':26s}{head}")
for rate in (4.0, 8.0, 16.0, 32.0):
    table = budget.activation_bits(sizes, rate)
    bits = np.array([8, *table.values()])
    taken, floats = elements * bits / 8, elements * 4
    peak, before = (taken[1:] + taken[:-1]).max(), (floats[1:] + floats[:-1]).max()
    part = f"1 / {before / peak:.1f}"
    actual = figures.actual_acr(sizes, table)
    print(f"{rate:<26g}{actual:6.1f}{peak:13,.0f}{part:>10s}{(bits < 8).sum():14d}")
    if rate == 8.0:
        peak_smaller.result(f"{before / peak:.1f}")

# %% [markdown]
# Above 8 the ACR does not change, and the peak still falls: the neighbours of the largest tensor
# lose bits. The ACR is only a substitute for the memory that you want to save. So compute that
# memory as well.
#
# ## A budget in bytes
#
# A phone has `room` for the network (in the parameters, in millions of bytes). *Predict:* for how
# many of the networks is that a compression above 16?

# %%
above_16 = predict("above-16", low=0, high=4)

# %%
head = f"{'float MB':>9s}{'compr.':>8s}{'batch norm, biases':>20s}"
head += f"{'folded':>8s}{'compr. then':>13s}"
print(f"{'':18s}{head}")
needed = []
for name, network in networks.items():
    count = sum(budget.weight_sizes(network).values())
    buffers = network.named_buffers()
    means = sum(b.numel() for n, b in buffers if n.endswith("running_mean"))
    left_float = sum(p.size for p in placements(network) if p.kind == "parameter")
    stored = 4e-6 * (left_float + 2 * means)  # batch norm has two more numbers a channel
    folded = 4e-6 * (left_float - means)  # one of four is left: a bias
    then = 4e-6 * count / (room - folded) if folded < room else math.inf
    needed.append(4e-6 * count / room)
    numbers = f"{4e-6 * count:9.1f}{needed[-1]:8.1f}{stored:20.2f}"
    print(f"{name:18s}{numbers}{folded:8.2f}{then:13.1f}")
above_16.result(sum(compression > 16 for compression in needed))

# %% [markdown]
# Compared with float weights, the tensors that stay float are small. Compared with quantized
# weights, they are a large part. **Folding** moves a batch norm into the weights and bias of the
# layer before it (lesson 10); one number for each channel is left.
#
# *Predict:* which network has the best published accuracy within this room, counting its weights
# alone?

# %%
best_published = predict("best-published", *names)

# %%
within = f"within {room:g} MB of weights"
print(f"{within:22s}{'compr.':>7s}{'MB':>7s}{'top-1 %':>9s}   source")
best = {}
for name in names:
    # The authors' last layer of ResNet-50 stays float; it takes room all the same.
    last = 4e-6 * published.RESNET50_LAST if name == "resnet50" else 0
    chosen = {"network": comparison.NETWORKS[name], "method": "HMQ", "acr": None}
    found = [(v.size + last, v) for v in published.select(data="imagenet", **chosen)]
    fits = [(size, v) for size, v in found if size <= room]
    if not fits:
        least = min(size for size, _ in found)
        print(f"{name:22s}none; the smallest published has {least:.1f} MB")
        continue
    size, v = max(fits, key=lambda pair: pair[1].accuracy)
    best[name] = v.accuracy
    print(
        f"{name:22s}{v.wcr:7.2f}{size:7.2f}{v.accuracy:9.2f}   {published.SOURCES[v.source]}"
    )
best_published.result(max(best, key=best.get) if best else "none")

# %% [markdown]
# Lesson 11 draws all published results, and says what may be compared. None of these accuracies is
# ours: we did not have ImageNet when this lesson was written. The page `docs/imagenet.md` says what
# was run, and which commands to use if you have the data. In short:
#
# ```
# hmq-lab search --root ROOT --preset paper/mobilenet_v2-w8-acr8 --weights FILE
# ```
#
# ## Ten classes
#
# Ten of the thousand classes are enough for a whole search of MobileNetV2 on real images: fine-tuned
# on them in float, then searched. This section shows the records of such searches that come with your
# version of the package, and says so if there is none.

# %%
matching = records.matching(
    model=lambda model: model in IMAGENET,
    data=lambda data: data not in comparison.ELSEWHERE,
)
large = {n: r for n, r in matching.items() if r.results.get("status") == "complete"}
missing = "No record of one of these networks comes with this version of the package."
print("\n".join(figures.record_lines(large)) if large else missing)
first = next(iter(large.values()), None)

# %% [markdown]
# *Predict:* how many points are two standard errors of such an accuracy? (Lesson 07 has the formula.)

# %%
two_errors = predict("two-errors", low=0, high=10)

# %%
for name, record in large.items():
    lines, twice = figures.accuracy_lines(record)
    print(f"{name}:", "\n".join(lines))
    two_errors.result(f"{twice:.1f} points")

# %% [markdown]
# The two networks saw the same images, so only the images count on which just one of them is right.
# If there are d of them, the difference of the counts has a standard error of about $\sqrt d$. d is
# at least the difference itself; the record does not say how much larger it is.
#
# ## Depthwise or small
#
# *Predict:* compared with pointwise layers *of the same size*, do depthwise layers keep more bits?

# %%
keep_more = predict("depthwise-keep", "more", "about the same", "fewer")

# %%
for record in large.values():
    plots.show(figures.bits_by_size(record))
    keep_more.result(figures.depthwise_more(figures.grouped(record)))
if not large:
    print(missing)

# %% [markdown]
# If small pointwise layers have as many bits as depthwise ones, the size decides, not the kind of
# layer. Lesson 11 draws the paper's figure 5, by kind of layer, for the same record. Lesson 09 asks
# the same about depth.
#
# ## Explorer: the selection of a large network
#
# The first of these records as a map. Three settings worth trying:
#
# * **Drag `step` from the first to the last.** Which part of the network leaves 8 bits first? Compare
#   it with the heights of the bars, the elements.
# * **`layer`: the last one, `classifier.1`, then a depthwise one** (in MobileNetV2 its name ends in
#   `.conv.1.0`). Which of the two loses bits?
# * **`step` repaired.** How many tensors did the repair change, and are they large?

# %%
last = first.of("tables")[-1]["step"] if large else None
explorers.selection(first, step=last) if large else print(missing)

# %% [markdown]
# The same search, step by step: compression, loss, accuracy, and the table of a layer. Press
# **play** from the first step, then choose the layer that lost the most bits.

# %%
explorers.replay(first, step=last) if large else print(missing)

# %% [markdown]
# ## What it costs
#
# *Predict:* a search of 30 + 20 epochs on the whole of ImageNet goes through how many times as many
# images as this record's search?

# %%
times_more = predict("times-more", "below 100", "100 to 1,000", "1,000 to 10,000", "more")

# %%
epochs = 30 + 20  # the paper's
training = 1_281_167 - 10_000  # ImageNet's training images without the validation split
print(f"ImageNet, {epochs} epochs: {epochs * training:,} images")
for name, record in large.items():
    used, minutes = record.header["settings"], record.timing["seconds"] / 60
    seen = record.header["pictures"][0] * (used["search_epochs"] + used["final_epochs"])
    hardware, factor = record.header["hardware"], epochs * training / seen
    print(f"{name}: {minutes:.0f} minutes for {seen:,} images")
    print(f"    on {hardware['processor']}, {hardware['threads']} threads")
    print(f"    all of ImageNet at this speed: {minutes * factor / 60 / 24:,.0f} days")
    print(f"    all of ImageNet has {factor:,.0f} times as many images")
    times_more.result(figures.times_class(factor))

# %% [markdown]
# So ImageNet needs GPUs. Several of them can share one search (`accelerate launch`, see `docs/devices.md`).
#
# ## A search of your own
#
# You need ImageNet, or any folder with `train/<class>/` and `val/<class>/`, and a file of MobileNetV2
# weights trained on its classes. (`hmq-lab train --data FOLDER --model mobilenet_v2 --weights FILE
# --out FILE` fine-tunes some.) Put both into the parameters. This cell then starts a search in a
# process of its own and draws it while it runs. Buttons pause, interrupt and continue it. The search
# goes on when you close this page; run the cell again to see it.


# %%
def own_or_none():
    if folder and weights:
        own = {
            "model": "mobilenet_v2",
            "data": folder,
            "weights": weights,
            "settings": settings,
        }
        wanted = Target(8, activations=activation_target)
        return explorers.live(out, **own, target=wanted, seed=seed)
    print("No search was started: `folder` and `weights` name no data and no weights.")


own_or_none()

# %% [markdown]
# ## Summary
#
# * Compression counts elements: pointwise and fully connected layers save bits, depthwise layers have
#   next to nothing to save.
# * Ask which weights a compression counts. A float last layer of a small network can be more than the
#   whole budget.
# * At an ACR of 8, few activations have 4 bits; the others have 8. The ACR cannot rise above 8,
#   even if its target does.
# * Peak memory is the sum of two neighbouring tensors, or of more where there are shortcuts. In
#   bytes, batch norm counts, too.
# * Ten classes and 1,000 images can show that a search works. They cannot show how good it is on
#   ImageNet.
#
# ## To talk about
#
# * The paper says that depthwise layers need more bits than pointwise ones. Which experiment would
#   show that this is not only "the budget does not act on them"?
# * MobileNetV2's largest activation is inside a block, between expansion and depthwise convolution.
#   How could a chip avoid storing it? Would the ACR still be a useful measure then?
# * You can choose between two networks of one size: a compressed ResNet-50, and EfficientNet-B0.
#   What would you ask, besides accuracy and size?
# * The authors leave the last layer float. Why does this matter less in ResNet-50 than it would in
#   MobileNetV2?
#
# **In the paper:** the experiments on ImageNet, figure 4, tables 1 to 3; the ACR of table 2.
# **Differences:** ImageNet itself was not run here, only ten classes of it. Every layer is quantized
# and counted, ResNet-50's last one, too. A search on ten classes has few epochs, high learning rates,
# and a margin above the target.
