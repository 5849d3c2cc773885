# %% [markdown]
# # Start here
#
# A tour of what mixed-precision quantization is and what HMQ does about it, with a search you can run yourself.
#
# **Minutes:** 25 (70 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** what a
# convolution is, Python and some PyTorch
#
# **After this you can**
#
# * say what a bit-width and a threshold do to a tensor,
# * put HMQ blocks on a network and take them off again,
# * run a search and read its record: what each layer keeps, and what that costs,
# * tell the expected compression rate from the actual one.
#
# ## How to use the lab
#
# Every lesson goes the same way. *Predict* what a cell will show, run it (Shift+Enter), and read the sentence below the
# figure. An explorer is a figure with sliders. Exercises have a stub for you to fill in and a check that tells you what
# it found; hint and solution are folded away below the check. The first code cell holds the sizes and the seed: change
# them, everything below follows. Nothing needs a network connection or a GPU.
#
# Run the cells from the top; after a restart, Run → Run All Above Selected Cell brings you back to where you were. An
# error says what was wrong in its *last* line. The answers are stored below the cells: Edit → Clear Outputs of All
# Cells where you want to predict without seeing them.
#
# | lesson | what it opens up | in the paper |
# |---|---|---|
# | [01 Power-of-two quantizers](01_power_of_two_quantizers.ipynb) | step, levels, codes, range | section 3.1 |
# | [02 Threshold and bits](02_threshold_and_bits.ipynb) | rounding against clipping | section 3.1 |
# | [03 Straight-through gradients](03_straight_through.ipynb) | learning through a staircase | section 3.1 |
# | [04 Gumbel-Softmax](04_gumbel_softmax.ipynb) | samples, temperature, its cycles | section 3.2 |
# | [05 The HMQ block](05_the_hmq_block.ipynb) | expected step and threshold | sections 3.2 to 3.4, figure 1 |
# | [06 A search under a budget](06_a_search_under_a_budget.ipynb) | how good the choice is | section 4, figure 2 |
# | [07 CIFAR10](07_cifar10.ipynb) | the full search, accuracy against compression | figure 3 |
# | [08 ImageNet](08_imagenet.ipynb) | large networks and pictures | figure 4, tables 1 to 3 |
# | [09 Reading the selection](09_reading_the_selection.ipynb) | which layers give up bits, which refuse | figure 5 |
# | [10 From HMQ to hardware](10_from_hmq_to_hardware.ipynb) | integers and shifts alone, real sizes | section 3.1 |
# | [11 The paper's figures](11_the_papers_figures.ipynb) | each beside ours | figures 1 to 5, tables 1 to 3 |
# | [12 Beat the search](12_beat_the_search.ipynb) | choose the bits by hand | beyond it |
# | [13 Your own network](13_your_own_network.ipynb) | your module, your pictures | beyond it |

# %% tags=["parameters"] quick={"epochs": 1, "pictures": 512, "tested": 200}
# Parameters: the seed is yours to change.
epochs = 6  # of each of the two stages of the search
pictures = 8000  # to train on
tested = 2000  # pictures of the test set
seed = 0

# %%
import torch

from hmq_lab import (
    Scheme,
    SearchSpace,
    Target,
    attach,
    checks,
    data,
    detach,
    explorers,
    models,
    placements,
    plots,
    quantize,
    search,
)
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, resample
from hmq_lab.runs import records
from hmq_lab.settings import preset

builtin = data.load("builtin")


def shipped():
    network = models.build("tiny_resnet8")
    load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
    return network.eval()


print(shipped().layer3[0].conv2.weight.shape, builtin.classes)

# %% [markdown]
# ## A quantizer is two numbers
#
# A scheme says how many **bits** a tensor gets and below which power-of-two **threshold** its values must lie. The two
# give the step between neighbouring values.
#
# *Predict:* a signed 3-bit tensor with threshold 1 has how many levels, and which is the largest?

# %%
scheme = Scheme(bits=3, threshold_exponent=0, signed=True)
print(scheme, "| step", scheme.step, "| levels", scheme.levels)
print(scheme.values)

# %% [markdown]
# The largest is one step *below* the threshold: that is two's complement, what integer hardware has.
#
# ## Exercise 1 · The largest value (easy, 3 minutes)
#
# Write `largest(bits, threshold)`: the largest value of a signed tensor with so many bits below this threshold. It
# should hold for 1 bit too.


# %% tags=["stub"]
def largest(bits, threshold):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# There are 2^bits levels. They begin at -threshold, and the step is how far apart they are: with 3 bits, eight levels
# over a range of twice the threshold.


# %% tags=["solution"]
def largest(bits, threshold):
    step = 2 * threshold / 2**bits
    return threshold - step


# %% tags=["check"]
checks.largest(largest)

# %% [markdown]
# ## The best threshold lies below the largest weight
#
# Now a real layer. *Predict:* with 2 bits, is the error smaller with the threshold above the largest weight, or below
# it?

# %%
weight = shipped().layer3[0].conv2.weight.detach()
exponents = (0, -1, -2, -3, -4)
errors = []
for exponent in exponents:
    scheme = Scheme(bits=2, threshold_exponent=exponent, signed=True)
    quantized = quantize(weight, scheme.step, scheme.threshold, scheme.signed)
    errors.append((quantized - weight).square().mean().sqrt().item())

drawing, ax = plots.canvas(height=3.2)
ax.plot(exponents, errors, color=plots.BLUE, marker="o", label="2 bits")
ax.axvline(weight.abs().max().log2(), color=plots.INK, ls="--", label="the largest weight")
ax.set(xlabel="M of the threshold $2^M$", ylabel="root mean square error", xticks=exponents, ylim=(0, None))
ax.legend(frameon=False)
best = exponents[errors.index(min(errors))]
plots.show(
    drawing,
    f"The largest weight of layer3.0.conv2 has the magnitude {weight.abs().max():.2f}; with 2 bits the error is "
    f"smallest, {min(errors):.3f}, below the threshold 2^{best} = {2.0**best:g}.",
)

# %% [markdown]
# A threshold well below the largest weight wins: few bits are better spent on the many small values than on the few
# large ones. So bits and threshold have to be chosen *together*, for each tensor, and that is what HMQ searches.
#
# ## The block moves mass between quantizers
#
# HMQ keeps a probability for every pair of a bit-width and a threshold, and quantizes once, with the *expected* step
# and the *expected* threshold. *Predict:* with half of the mass on 2 bits and half on 3, how many levels are there?

# %%
plots.show(plots.quantizer_as_mass_moves((2, 3)))

# %% [markdown]
# As probability moves from one pair to another the staircase changes smoothly: gradient descent can follow.
#
# ## Blocks on a network
#
# `attach` puts a block on every weight and activation that the method quantizes, and says what stays float and why.
# *Predict:* does the picture that goes into the network get a block?

# %%
network = shipped()
sample = next(builtin.train.batches(64))[0]
attach(network, SearchSpace(), sample, generator=torch.Generator().manual_seed(seed))
for place in placements(network)[-12:]:
    print(f"{place.name:22s} {place.kind:10s} {'quantized' if place.quantized else 'float':9s} {place.reason}")

# %% [markdown]
# One block, as it begins: nearly all of its probability on the most bits and the largest threshold. While it trains,
# every picture and every input channel sees a sample of the step; `detach` takes the blocks off again.

# %%
block = blocks(network)["layer3.0.conv2.weight"]
print(block)
print(f"initial probability of the selected pair: {block.probabilities().max():.4f}")
resample(network, torch.Generator().manual_seed(1))
step, threshold = block.train().sample(samples=5)
print("five samples of the expected step:", [round(s, 4) for s in step.tolist()])
_ = detach(network)

# %% [markdown]
# ## A search
#
# Stage 1 trains weights and probabilities together. The loss is the task's plus a hinge that pulls the *expected*
# compression rate of the weights up to the target. Then the most probable scheme of every tensor is fixed, and stage 2
# trains the weights.
#
# *Predict:* with an average of 4 bits a weight, which layers will keep 8, and which get by with fewer?
#
# The next cell computes for about a minute; `[*]` stands beside it meanwhile.

# %%
small = data.Data(
    builtin.name,
    builtin.classes,
    builtin.normalize,
    builtin.train.subset(range(pictures)),
    builtin.validation.subset(range(1000)),
    builtin.test.subset(range(tested)),
)
cycles = min(3, epochs)  # of the temperature
settings = preset("quick/builtin", search_epochs=epochs, final_epochs=epochs, cycles=cycles)
network = shipped()
record = search(
    network,
    small,
    Target(weights=8),
    settings=settings,
    seed=seed,
    name="tiny_resnet8",
    progress=False,
)
print(records.summary(record).rsplit("\n", 1)[0])  # without the time: it differs between runs

# %%
plots.show(plots.compression(record))

# %% [markdown]
# The line is the *expected* rate, under the probabilities as they stand; the dots are the *actual* rate, of the most
# probable bits. The loss sees the expected one. What a chip has to store is the actual one.

# %%
plots.show(plots.scheme_map(record))

# %% [markdown]
# The panel of the elements tells why: bits are cheap where weights are few. A layer of a few hundred weights can keep
# 8 bits at nearly no cost, and the largest layer decides what the whole network weighs.
#
# ## Exercise 2 · The mean bits of a weight (easy, 5 minutes)
#
# Write `mean_bits(bits, sizes)`: how many bits a weight has on average, over the whole network. `bits` and `sizes` are
# lists of the same length: of each tensor its bits and its elements.


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
# The compression rate is 32 over this mean, for a float weight has 32 bits.
#
# ## Explorer: ResNet-20 on CIFAR10, a recorded search
#
# The one picture worth staying for. The record of a search on real pictures comes with the package, made with 16 as the
# target rate of the weights: 2 bits a weight on average. The record says its seed, configuration, versions, hardware
# and time.

# %%
recorded = records.recorded("cifar10-resnet20-w16-a8")
print(records.summary(recorded))

# %% [markdown]
# Three settings worth trying:
#
# * **Drag `step` from the first to the last, or press play.** All rows start at 8 bits. Look for the rows that leave
#   them first, and compare with the number of weights: which stage of the network do they belong to?
# * **Choose `layer` linear.** Few weights, and all of them next to the scores. Does its dot move at all?
# * **Choose `layer` layer3.2.conv1 and stop at step 245**, in the first fifth of the search. Look at its table: 1 bit
#   and 2 bits share the probability. That is when the expected rate and the actual one (line and dots on the right) are
#   furthest apart. By the middle of the search this layer has decided.

# %%
last = recorded.of("tables")[-1]["step"]
explorers.replay(recorded, step=last, layer="layer3.2.conv1.weight")

# %% [markdown]
# ## Summary
#
# * A scheme is a bit-width and a power-of-two threshold; the best threshold for few bits lies below the largest value.
# * HMQ mixes the two *parameters* of the quantizer, so that one quantization is enough and the choice is
#   differentiable.
# * The hinge acts on the expected rate; the selection has the actual one. A stated repair closes what gap is left.
# * Rates count weights, not tensors: bits are cheap where weights are few.
#
# ## To talk about
#
# * Why may the most probable bit-widths miss a target that the expected rate has reached?
# * Which tensors does the rate count, and what would change if it counted the whole checkpoint?
#   (`record.results["rates"]`)
# * The input picture, biases and batch norm stay float here. What would a chip need instead?
#
# **In the paper:** the quantizer is section 3.1, the block 3.2 to 3.4, the two stages section 4. **Differences:** two's
# complement instead of the mirrored range of the released code, and a repair of the selection, which the paper does not
# have.
