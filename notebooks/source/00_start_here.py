# %% [markdown]
# # Start here
#
# A tour of mixed-precision quantization and of HMQ, the method of this course. You run a whole
# search yourself.
#
# **Minutes:** 25 (60 s of them computing) · **Data:** built in, nothing to fetch · **Know
# first:** what a convolution is, Python and some PyTorch
#
# **After this you can**
#
# * say what a bit-width and a threshold do to a tensor,
# * put HMQ blocks on a network and take them off again,
# * run a search and read its record: the bits of each layer, and what they cost,
# * say how the expected compression differs from the actual one.
#
# ## How to use the lab
#
# Every lesson has the same form. *Predict* what a cell will show, run it (Shift+Enter), and read
# the sentence below the figure. An explorer is a figure with sliders. An exercise has a stub for
# you to fill in, and a check that tells you what it found. Hint and solution are folded away below
# the check. The first cell of Python holds the sizes and the seed. If you change them, everything
# below is computed with your values. No lesson needs a network connection or a GPU.
#
# A prediction is one click. It is kept in the folder `.hmq_lab` beside the notebook, and you see it
# again beside the result. After you have seen the result, you cannot change the prediction. Delete
# the folder to begin anew.
#
# Run the cells from the top. After a restart, Run → Run All Above Selected Cell brings you back
# to where you were. The *last* line of an error message says what was wrong. The results of our
# own run are stored below the cells. Edit → Clear Outputs of All Cells removes them, if you want
# to predict without seeing them. Numbers that come from training may differ on your machine; the
# sentences below the figures are computed from your own results.
#
# | lesson | what it is about | in the paper |
# |---|---|---|
# | [01 Power-of-two quantizers](01_power_of_two_quantizers.ipynb) | step, levels, codes, range | section 3.1 |
# | [02 Threshold and bits](02_threshold_and_bits.ipynb) | rounding against clipping | section 3.1 |
# | [03 Straight-through gradients](03_straight_through.ipynb) | learning through a staircase | section 3.1 |
# | [04 Gumbel-Softmax](04_gumbel_softmax.ipynb) | samples, temperature, its cycles | section 3.2 |
# | [05 The HMQ block](05_the_hmq_block.ipynb) | expected step and threshold | sections 3.2 to 3.4, figure 1 |
# | [06 A search under a budget](06_a_search_under_a_budget.ipynb) | how good the choice is | section 4, figure 2 |
# | [07 CIFAR10](07_cifar10.ipynb) | the full search, accuracy against compression | figure 3 |
# | [08 ImageNet](08_imagenet.ipynb) | large networks and images | figure 4, tables 1 to 3 |
# | [09 Reading the selection](09_reading_the_selection.ipynb) | which layers give up bits | figure 5 |
# | [10 From HMQ to hardware](10_from_hmq_to_hardware.ipynb) | integers and shifts alone, real sizes | section 3.1 |
# | [11 The paper's figures](11_the_papers_figures.ipynb) | each beside ours | figures 1 to 5, tables 1 to 3 |
# | [12 Beat the search](12_beat_the_search.ipynb) | choose the bits by hand | beyond it |
# | [13 Your own network](13_your_own_network.ipynb) | your module, your images | beyond it |
#
# Words with a special meaning stand in **bold** where they are explained. The glossary,
# `docs/glossary.md`, lists them all.

# %% tags=["parameters"] quick={"epochs": 1, "images": 512, "tested": 200, "seed": 3}
# Parameters: the seed is yours to change.
epochs = 6  # of each of the two stages of the search
images = 8000  # to train on
tested = 2000  # images of the test set
seed = 0

# %%
import torch

from hmq_lab import Scheme, SearchSpace, Target, attach, checks, data, detach
from hmq_lab import explorers, models, placements, plots, quantize, search
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, resample
from hmq_lab.plots.lessons import lesson00 as figures
from hmq_lab.runs import records
from hmq_lab.settings import preset

predict = checks.predictions("00")
builtin = data.load("builtin")


def shipped():
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    return network.eval()


print(shipped().layer3[0].conv2.weight.shape, builtin.classes)

# %% [markdown]
# ## Your progress
#
# This table shows for each lesson how many predictions you made, how many checks you passed, and
# how many minutes you worked. It is kept when you close the lab.

# %%
checks.progress_table()

# %% [markdown]
# ## A quantizer is two numbers
#
# A **quantizer** replaces every value of a tensor by the nearest of a few values, its **levels**.
# A **scheme** says how: with how many **bits** b, and below which **threshold** t. In HMQ the
# threshold is a power of two, $t = 2^M$. Bits and threshold give the **step** $\Delta$, the
# distance between neighbouring levels. For a tensor with a sign it is
#
# $$\Delta = \frac{2t}{2^b}$$
#
# *Predict:* a signed 3-bit tensor has the threshold 1. Which is its largest level?

# %%
largest_level = predict("largest-level", "1", "0.875", "0.75", "0.5")

# %%
scheme = Scheme(bits=3, threshold_exponent=0, signed=True)
print(scheme, "| step", scheme.step, "| levels", scheme.levels)
print(scheme.values)
largest_level.result(f"{scheme.values[-1]:g}")

# %% [markdown]
# The lowest level is -t, and the largest is one step *below* t. The integers of hardware have such
# a range, too: it is called **two's complement**.
#
# ## Exercise 1 · The largest value (easy, 3 minutes)
#
# Write `largest(bits, threshold)`: the largest level of a signed tensor with this many bits and
# this threshold. It must be right for 1 bit, too.


# %% tags=["stub"]
def largest(bits, threshold):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# There are 2^bits levels, and the lowest is -threshold. With 3 bits, eight levels cover a range
# of twice the threshold. How far apart are they?


# %% tags=["solution"]
def largest(bits, threshold):
    step = 2 * threshold / 2**bits
    return threshold - step


# %% tags=["check"]
checks.largest(largest)

# %% [markdown]
# ## The best threshold
#
# Now a real layer. *Predict:* with 2 bits, where is the threshold with the smallest error: above
# the largest weight, or below it?

# %%
side = predict("threshold-side", "above the largest weight", "below the largest weight")

# %%
weight = shipped().layer3[0].conv2.weight.detach()
exponents = (0, -1, -2, -3, -4)
errors = []
for exponent in exponents:
    scheme = Scheme(bits=2, threshold_exponent=exponent, signed=True)
    quantized = quantize(weight, scheme.step, scheme.threshold, scheme.signed)
    errors.append((quantized - weight).square().mean().sqrt().item())

largest_weight = weight.abs().max().item()
plots.show(figures.error_by_threshold(exponents, errors, largest_weight, bits=2))
best = 2.0 ** exponents[errors.index(min(errors))]
side.result(f"{'below' if best < largest_weight else 'above'} the largest weight")

# %% [markdown]
# There are only four levels. Most weights are small, so levels close to 0 reduce the error of many
# weights. So bits and threshold have to be chosen *together*, for each tensor. HMQ searches both.
#
# ## A block moves probability between quantizers
#
# An HMQ **block** belongs to one tensor. It keeps a probability for every pair of a bit-width and
# a threshold. It quantizes once, with the *expected* step and the *expected* threshold: the means
# under these probabilities.
#
# *Predict:* half of the probability is on 2 bits, half on 3 bits, both with the threshold 1. How
# many levels does the block's quantizer have?

# %%
levels = predict("levels-half-way", 4, 6, 8, 12)

# %%
plots.show(plots.quantizer_as_mass_moves((2, 3)))
two, three = Scheme(2, 0, True), Scheme(3, 0, True)
expected_step = (two.step + three.step) / 2
line = torch.linspace(-1.2, 1.2, 1000)
levels.result(len(quantize(line, expected_step, 1.0, True).unique()))

# %% [markdown]
# As probability moves from one pair to another, the staircase changes gradually. Gradient descent
# can follow such a change.
#
# ## Blocks on a network
#
# `attach` puts a block on every weight and activation that the method quantizes. `placements` lists
# every tensor and says whether it is quantized, and why.
#
# *Predict:* does the input image of the network get a block?

# %%
image_block = predict("image-block", "yes", "no")

# %%
network = shipped()
sample = next(builtin.train.batches(64))[0]
attach(network, SearchSpace(), sample, generator=torch.Generator().manual_seed(seed))
for place in placements(network)[-12:]:
    state = "quantized" if place.quantized else "float"
    print(f"{place.name:22s} {place.kind:10s} {state:9s} {place.reason}")
image = next(place for place in placements(network) if place.name == "x")
image_block.result("yes" if image.quantized else "no")

# %% [markdown]
# Look at one block before the training begins. Nearly all of its probability is on the most bits
# and the largest threshold. In training, a block draws **samples**. For a **sample** it changes the
# probabilities by random noise, and then takes the mean step and the mean threshold. Every image
# and every input channel gets its own sample. `detach` takes the blocks off again.

# %%
block = blocks(network)["layer3.0.conv2.weight"]
print(block)
print(f"initial probability of the most probable pair: {block.probabilities().max():.4f}")
resample(network, torch.Generator().manual_seed(1))
step, threshold = block.train().sample(samples=5)
print("five samples of the expected step:", [round(s, 4) for s in step.tolist()])
_ = detach(network)

# %% [markdown]
# ## A search
#
# The **compression** of a network is 32 over the mean bits of a weight, because a float weight
# has 32 bits. A search gets a compression as its **target**. It has two **stages**:
#
# 1. Stage 1 trains weights and probabilities together. In each **training step** the network sees
#    one batch of images, and the optimizer changes weights and probabilities once. The loss is the
#    loss of the task, plus a term that grows while the *expected* compression is below the target.
# 2. Then every tensor gets its most probable scheme, the **selection**. Stage 2 trains the
#    weights alone.
#
# *Predict:* the target is 8, on average 4 bits a weight. Which layers keep the most bits?

# %%
keepers = predict("keep-bits", "the small ones", "the large ones", "all alike")

# %% [markdown]
# The next cell computes for about a minute. While it computes, you see `[*]` beside it.

# %%
small = data.Data(
    builtin.name,
    builtin.classes,
    builtin.normalize,
    builtin.train.subset(range(images)),
    builtin.validation.subset(range(1000)),
    builtin.test.subset(range(tested)),
)
short = {"search_epochs": epochs, "final_epochs": epochs, "cycles": min(3, epochs)}
settings = preset("quick/builtin", **short)
run = {"settings": settings, "seed": seed, "name": "tiny_resnet8", "progress": False}
record = search(shipped(), small, Target(weights=8), **run)
print(records.summary(record).rsplit("\n", 1)[0])  # without the time: it differs between runs

# %%
plots.show(plots.compression(record))

# %% [markdown]
# The line is the **expected compression**: it is computed with the probabilities at that step. The
# dots are the **actual compression**: it is computed with the most probable bits. The loss uses the
# expected one. A chip stores the actual one.

# %%
plots.show(figures.bits_and_elements(record))
keepers.result(figures.small_or_large(record))

# %% [markdown]
# Many bits cost little where a tensor has few weights. The largest layer decides how large the
# whole network is.
#
# ## Exercise 2 · The mean bits of a weight (easy, 5 minutes)
#
# Write `mean_bits(bits, sizes)`: how many bits a weight has on average, over the whole network.
# `bits` and `sizes` are lists of the same length, with one entry for each tensor: its bits and its
# number of elements.


# %% tags=["stub"]
def mean_bits(bits, sizes):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# How many bits does it take to store all the weights? How many weights are there?


# %% tags=["solution"]
def mean_bits(bits, sizes):
    return sum(b * n for b, n in zip(bits, sizes)) / sum(sizes)


# %% tags=["check"]
checks.mean_bits(mean_bits)

# %% [markdown]
# The compression is 32 over this mean.
#
# ## Explorer: ResNet-20 on CIFAR10, a recorded search
#
# A **record** is the file that a search leaves. It has every training step, the result, the seed,
# the settings, the versions, the hardware and the time. The record below comes with the package. It
# is from a search on real images; the target is 16, on average 2 bits for each weight.

# %%
recorded = records.recorded("cifar10-resnet20-w16-a8")
print(records.summary(recorded))

# %% [markdown]
# Three settings worth trying:
#
# * **Drag `step` from the first to the last, or press play.** All rows start at 8 bits. Which rows
#   leave 8 bits first? To which part of the network do these rows belong, and how many weights do
#   they have?
# * **Choose `layer` linear.** It has few weights, and it computes the scores. Does its dot move?
# * **Choose `layer` layer3.2.conv1 and stop at step 245**, in the first fifth of the search. Look
#   at its table: 1 bit and 2 bits share the probability. In this record, the expected and the
#   actual compression (line and dots on the right) are then furthest apart. In the middle of the
#   search, nearly all probability of this layer is on 2 bits.

# %%
last = recorded.of("tables")[-1]["step"]
explorers.replay(recorded, step=last, layer="layer3.2.conv1.weight")

# %% [markdown]
# ## Summary
#
# * A scheme is a bit-width and a power-of-two threshold. With few bits, the best threshold is often
#   below the largest value.
# * HMQ mixes the two *parameters* of the quantizer. So one quantization is enough, and gradient
#   descent can learn the choice.
# * The loss pulls the expected compression to the target. The selection has the actual
#   compression. A **repair** closes the gap between the two: it changes the bits of a few
#   tensors by a fixed rule, until the target is reached.
# * Compression counts weights, not tensors: many bits cost little where weights are few.
#
# ## To talk about
#
# * Why may the most probable bit-widths miss a target that the expected compression has reached?
# * Which tensors does the compression count? What changes if it counts the whole checkpoint?
#   (`record.results["rates"]`)
# * The input image, biases and batch norm stay float here. What does a chip need instead?
#
# **In the paper:** the quantizer is section 3.1, the block 3.2 to 3.4, the two stages section 4.
# **Differences:** two's complement instead of the mirrored range of the released code, and a
# repair of the selection, which the paper does not have.
