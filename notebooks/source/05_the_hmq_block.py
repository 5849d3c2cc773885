# %% [markdown]
# # The HMQ block
#
# A table of probabilities, two expected numbers, one quantization: the block from its first logit to its selection, and
# how to put it on a module of your own.
#
# **Minutes:** 40 (25 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** lessons 03 and 04
#
# **After this you can**
#
# * compute the expected step and threshold of a block, and say why one quantization is enough,
# * tell mixing parameters from mixing outputs, and measure the gap between the mixture and the selection,
# * say why every picture and every input channel has a sample of its own,
# * derive the gradient that reaches each logit, and apply the selection rule,
# * attach blocks to your own module, train it, and take them off.

# %% tags=["parameters"] quick={"pictures": 100, "draws": 8, "training_steps": 2}
# Parameters: the seed is yours to change.
pictures = 1000  # to measure accuracy on
draws = 100  # of the noise, for each number of samples
training_steps = 60  # of the module of your own
seed = 0

# %%
import math

import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.ticker import LogLocator
from torch import nn
from torch.func import functional_call

from hmq_lab import (
    HMQ,
    Scheme,
    SearchSpace,
    attach,
    checks,
    data,
    detach,
    explorers,
    models,
    placements,
    plots,
    quantize,
)
from hmq_lab.budget import expected_rate, hinge, rates
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, calibrate, resample
from hmq_lab.quantizer import threshold_exponent
from hmq_lab.seeds import generator

builtin = data.load("builtin")
network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(weight.shape, f"largest magnitude {weight.abs().max():.3f}")

# %% [markdown]
# ## One table for bits and threshold
#
# A block has one logit for every *pair* of a bit-width and a threshold: here 8 bit-widths times 8 powers of two, from
# one octave above the tight threshold downwards. It is one categorical over 64 schemes, not one for the bits and one
# for the threshold, because the best threshold depends on the bits (lesson 02).

# %%
block = HMQ.for_weight(weight, SearchSpace(), generator=generator(seed, "block"))
print(block)
print("logits", tuple(block.logits.shape), "thresholds 2^", block.exponents.tolist())
print(f"probability of 8 bits below the largest threshold {block.probabilities()[-1, 0]:.3f}")
print(f"expected bits {block.expected_bits():.3f}")

# %% [markdown]
# The search begins where hardly anything is lost: 95 % on the most bits and the largest threshold. The other 63 logits
# are drawn between -1 and 0. What must the first logit be? The released code takes the others to be 0.
#
# *Predict:* does that give more than 95 %, or less?

# %%
others = torch.cat((block.logits.detach().flatten()[:56], block.logits.detach().flatten()[57:]))
released = math.log(0.95 * 63 / (1 - 0.95))
p = torch.softmax(torch.cat((torch.tensor([released]), others)), 0)[0]
print(f"first logit: the block's {block.logits[-1, 0]:.3f}, the released formula's {released:.3f}, which gives {p:.3f}")

# %% [markdown]
# ## Exercise 1 · The first logit (medium, 6 minutes)
#
# Write `first_logit(others, probability)`: the logit that gets exactly this probability beside the other logits (N,).


# %% tags=["stub"]
def first_logit(others, probability):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# With e to the power of the logit called w and the sum of the others' called s, the probability is w / (w + s). Solve
# for w.


# %% tags=["solution"]
def first_logit(others, probability):
    return math.log(probability * others.exp().sum() / (1 - probability))


# %% tags=["check"]
checks.first_logit(first_logit)

# %% [markdown]
# ## Two expected numbers, one quantization
#
# A softmax of logits and noise (lesson 04) gives every scheme a weight. The block takes two means with these weights,
# the **expected step** and the **expected threshold**, and quantizes once. It could instead quantize 64 times and take
# the mean of the results: mix the *outputs*. That is something else.
#
# *Predict:* half of the weight is on 2 bits below 1, half on 3 bits below 1/2. How many levels has each mixture?

# %%
pair = Scheme(2, 0, True), Scheme(3, -1, True)
x = torch.linspace(-1.3, 1.3, 2601, dtype=torch.float64)
step, threshold = (sum(getattr(s, name) for s in pair) / 2 for name in ("step", "threshold"))
mixtures = {
    "mixed parameters": quantize(x, step, threshold, signed=True),
    "mixed outputs": sum(quantize(x, s.step, s.threshold, s.signed) for s in pair) / 2,
}
drawing, axes = plots.canvas(1, 2, height=3.6, sharey=True)
for ax, (name, y) in zip(axes, mixtures.items()):
    for scheme, colour, line in zip(pair, (plots.ORANGE, plots.GREEN), ("--", ":")):
        hard = quantize(x, scheme.step, scheme.threshold, scheme.signed)
        ax.plot(x, hard, color=colour, ls=line, lw=1.5, label=f"{scheme.bits} bits below {scheme.threshold:g}")
    ax.plot(x, y, color=plots.BLUE, lw=2.5, label=name)
    ax.set(title=f"{name}: {len(y.unique())} levels", xlabel="x")
    ax.legend(frameon=False, loc="upper left")
axes[0].set_ylabel("Q(x)")
counts = {name: len(y.unique()) for name, y in mixtures.items()}
copies = 64 * 16384 * 64 * 4 / 2**20
plots.show(
    drawing,
    f"The mixed step is {step}, the mixed threshold {threshold}; the result has {counts['mixed parameters']} levels, "
    f"the mean of the two outputs {counts['mixed outputs']}.",
)

# %% [markdown]
# Mixed parameters give a uniform quantizer again, but for the two end levels, which the mixed threshold cuts off where
# they are. Mixed outputs give levels of uneven spacing. And the cost: with mixed outputs the largest activation of
# ResNet-20 (16,384 numbers a picture) would be held 64 times, as the next cell counts. One quantization costs the same
# whatever the size of the space.

# %%
print(f"a batch of 64: {16384 * 64 * 4 / 2**20:.0f} MiB for one copy, {copies:.0f} MiB for one of each scheme")

# %% [markdown]
# ## Exercise 2 · Expected step and threshold (medium, 8 minutes)
#
# Write `expected_parameters(probabilities, bits, exponents, signed)`, which returns the two as a pair. probabilities
# (B, T), bits (B,), exponents (T,) of the thresholds; a signed step is t / 2^(b-1), an unsigned one t / 2^b.


# %% tags=["stub"]
def expected_parameters(probabilities, bits, exponents, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Make the table of all steps (B, T) first: bits along the rows, thresholds along the columns. `bits[:, None]` helps,
# and `int(signed)`: torch does not subtract a truth value.


# %% tags=["solution"]
def expected_parameters(probabilities, bits, exponents, signed):
    thresholds = 2.0**exponents  # (T,)
    steps = thresholds / 2.0 ** (bits[:, None] - int(signed))  # (B, T)
    return (probabilities * steps).sum(), (probabilities * thresholds).sum()


# %% tags=["check"]
checks.expected_parameters(expected_parameters)

# %% [markdown]
# ## The gap between the mixture and the selection
#
# The expected step is no power of two, and no hardware has it. While the search runs, the network is judged with the
# mixture; in the end it gets one scheme. How far are these apart? Take the network that comes with the package, and
# for every weight two schemes, 8 bits and 2 bits, each with its best threshold. Move the mass from one to the other,
# the same in all layers, without noise and without training.
#
# *Predict:* at half and half, is the accuracy near that of 8 bits, near that of 2 bits, or below both?

# %%
batches = list(builtin.validation.subset(range(pictures)).batches(500))
weights = {
    f"{name}.weight": m.weight.detach() for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
}


def accuracy(weights):
    with torch.no_grad():
        right = sum((functional_call(network, weights, x).argmax(1) == y).sum().item() for x, y in batches)
    return 100 * right / pictures


def best_scheme(w, bits):
    top = threshold_exponent(w.abs().max().item())
    schemes = [Scheme(bits, top - octave, True) for octave in range(8)]
    return min(schemes, key=lambda s: (quantize(w, s.step, s.threshold, True) - w).square().sum())


eight, two = ({name: best_scheme(w, bits) for name, w in weights.items()} for bits in (8, 2))


def mixed_parameters(mass):
    """Every weight with the expected step and threshold, `mass` on 2 bits."""
    result = {}
    for name, w in weights.items():
        a, b = eight[name], two[name]
        step, threshold = (1 - mass) * a.step + mass * b.step, (1 - mass) * a.threshold + mass * b.threshold
        result[name] = quantize(w, step, threshold, True)
    return result


def mixed_outputs(mass):
    few, many = ({n: quantize(w, s[n].step, s[n].threshold, True) for n, w in weights.items()} for s in (two, eight))
    return {name: (1 - mass) * many[name] + mass * few[name] for name in weights}


# %%
masses = [i / 10 for i in range(11)]
soft = [accuracy(mixed_parameters(m)) for m in masses]
outputs = [accuracy(mixed_outputs(m)) for m in masses]
hard = [soft[0] if m < 0.5 else soft[-1] for m in masses]  # the more probable scheme

drawing, ax = plots.canvas(height=3.6)
percent = [100 * m for m in masses]
ax.plot(percent, soft, color=plots.BLUE, marker="o", label="mixed parameters: the block")
ax.plot(percent, outputs, color=plots.GREEN, marker="D", ls=":", label="mixed outputs")
ax.plot(
    [0, 50, 50, 100], [soft[0], soft[0], soft[-1], soft[-1]], color=plots.ORANGE, ls="--", lw=2.5, label="the selection"
)
ax.set(xlabel="mass on 2 bits (%)", ylabel=f"accuracy (%) on {pictures} pictures")
ax.legend(frameon=False)
gaps = [s - h for s, h in zip(soft, hard)]
wide = max(range(11), key=lambda i: abs(gaps[i]))
plots.show(
    drawing,
    f"8 bits have {soft[0]:.1f} %, 2 bits {soft[-1]:.1f} %. With {masses[wide]:.0%} of the mass on 2 bits the block "
    f"has {soft[wide]:.1f} % and the selection {hard[wide]:.1f} %, the widest gap; mixed outputs have "
    f"{outputs[wide]:.1f} % there.",
)

# %% [markdown]
# The mixture is a worse network than its selection on one side of the middle and a better one on the other: it goes
# from one scheme to the other gradually, and the selection jumps. So the accuracy of the mixture is not the accuracy of
# what will be deployed. That is why the search watches the *selection* on the validation pictures, and why a second
# stage trains the weights with the schemes fixed. Training may also suit the weights to the mixture; here they were
# left alone.
#
# ## A sample for every picture and every input channel
#
# While training, noise is added to the logits. One sample could serve a whole tensor. The block draws more: an
# activation has a sample for every picture of the batch, a weight one for every *input* channel. The scheme that is
# selected belongs to the tensor all the same. Why then? Each sample pulls the logits its own way, and a mean of many is
# less noisy.
#
# *Predict:* 64 pictures with one shared sample, or 64 samples: how much smaller is the spread of the gradient?

# %%
x, y = next(builtin.validation.batches(64))
with torch.no_grad():
    before = network.layer1(network.relu(network.bn1(network.conv1(x))))
    h = network.layer2(before)  # (64, C, H, W), after a ReLU


def loss_of_activation(step, threshold):
    q = quantize(h, step.view(-1, 1, 1, 1), threshold.view(-1, 1, 1, 1), signed=False)
    return F.cross_entropy(network.linear(network.pool(network.layer3(q)).flatten(1)), y)


def loss_of_weight(step, threshold):
    q = quantize(weight, step.view(1, -1, 1, 1), threshold.view(1, -1, 1, 1), signed=True)
    out = functional_call(network.layer3, {"0.conv2.weight": q}, h)
    return F.cross_entropy(network.linear(network.pool(out).flatten(1)), y)


activation_block = HMQ(SearchSpace((4,), 8), threshold_exponent(h.max().item()), signed=False)
weight_block = HMQ.for_weight(weight, SearchSpace((4,), 8))
tensors = {
    "activation: samples shared by pictures": (activation_block, loss_of_activation, 64),
    "weight: by input channels": (weight_block, loss_of_weight, weight.shape[1]),
}


def spread(block, loss, count, samples):
    """Of the logits' gradient over draws of the noise: its spread around the mean, and the length of the mean."""
    nn.init.zeros_(block.logits)  # every threshold as probable as the others
    block.temperature.fill_(0.5)
    found = []
    for number in range(draws):
        block.resample(generator(seed, "spread", samples, number))
        step, threshold = (v.repeat_interleave(count // samples) for v in block.sample(samples))
        found.append(torch.autograd.grad(loss(step, threshold), block.logits)[0].flatten())
    found = torch.stack(found)
    mean = found.mean(0)
    return (found - mean).square().sum(1).mean().sqrt().item(), mean.norm().item()


# %%
drawing, axes = plots.canvas(1, 2, height=3.6)
told = []
for ax, (name, (unit, loss, count)) in zip(axes, tensors.items()):
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= count]
    noise, signal = zip(*[spread(unit, loss, count, n) for n in numbers])
    ax.loglog(numbers, noise, color=plots.BLUE, marker="o", label="spread")
    ax.loglog(numbers, [noise[0] / math.sqrt(n) for n in numbers], color=plots.INK, ls=":", label="1 / √samples")
    ax.loglog(numbers, signal, color=plots.GREEN, marker="D", ls="--", label="length of the mean")
    ax.set(title=name, xlabel="samples", ylabel="gradient of the logits")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xticks(numbers, numbers)
    ax.minorticks_off()
    ax.legend(frameon=False)
    told.append(
        f"for the {name.split(':')[0]} the spread goes from {noise[0]:.2g} with one sample to {noise[-1]:.2g} with "
        f"{count}, the length of the mean from {signal[0]:.2g} to {signal[-1]:.2g}"
    )
plots.show(drawing, f"The logits' gradient over {draws} draws of the noise: {'; '.join(told)}.")

# %% [markdown]
# With one shared sample the noise is larger than the signal. More samples calm it, for the cost of the same one
# quantization. A mean of n independent gradients would follow the dotted line. The pictures of a batch come near it,
# for their losses are averaged. The input channels of a weight act together in every picture, so that their gain is
# smaller and ends sooner.
#
# ## The gradient of each logit
#
# The loss sees the block through two numbers only, the expected step and the expected threshold. So backpropagation
# brings two numbers back, dL/dstep and dL/dthreshold (lesson 03), and the block hands them on to its logits. With z the
# sample, s and t step and threshold of a scheme, and a bar for the expected ones, the logit of that scheme gets
#
# z / τ · ( dL/dstep · (s - s̄) + dL/dthreshold · (t - t̄) )
#
# *Predict:* a loss wants a larger threshold. Which logits does it raise, and why not all of them by the same amount?

# %%
block = HMQ.for_weight(weight, SearchSpace(), generator=generator(seed, "block"))
nn.init.zeros_(block.logits)
block.resample(generator(seed, "gradient"))
step, threshold = block.sample(1)
step.retain_grad(), threshold.retain_grad()
error = (quantize(weight, step, threshold, signed=True) - weight).square().sum() / weight.square().sum()
error.backward()

drawing, ax = plots.canvas(height=3.8)
reach = block.logits.grad.abs().max().item()
names = [f"$2^{{{e}}}$" for e in block.exponents.tolist()]
style = {"cmap": "vlag", "vmin": -reach, "vmax": reach, "linewidths": 0.5, "cbar_kws": {"label": "gradient"}}
sns.heatmap(block.logits.grad.numpy(), ax=ax, xticklabels=names, yticklabels=range(1, 9), **style)
ax.invert_yaxis()
ax.set(xlabel="threshold", ylabel="bits", title="gradient of the error by each logit, in one sample")
low = divmod(int(block.logits.grad.argmin()), 8)
plots.show(
    drawing,
    f"dL/dstep is {step.grad.item():.3g} at an expected step of {step.item():.3g}, dL/dthreshold "
    f"{threshold.grad.item():.3g} at {threshold.item():.3g}. Descent raises most the logit of {low[0] + 1} bits below "
    f"2^{block.exponents[low[1]].item()}.",
)

# %% [markdown]
# Two numbers for 64 logits: whatever the loss, with the same sample every gradient lies in the same plane. Try it with
# twenty random losses.

# %%
rows = []
for number in range(20):
    step, threshold = block.sample(1)
    direction = torch.randn(weight.shape, generator=generator(seed, "loss", number))
    out = (quantize(weight, step, threshold, signed=True) * direction).sum()
    rows.append(torch.autograd.grad(out, block.logits)[0].flatten())
values = torch.linalg.svdvals(torch.stack(rows).double())
print("singular values, of the largest:", [f"{v:.1e}" for v in (values / values[0])[:4].tolist()])

# %% [markdown]
# From the third on they are rounding errors: the rank is two. It takes many samples, and a spread-out table, to tell
# 64 schemes apart.
#
# ## Exercise 3 · The gradient of the logits (medium, 10 minutes)
#
# Write `logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature)`, shape (B, T): sample (B, T) sums
# to one, steps (B, T), thresholds (T,), the rest are numbers.


# %% tags=["stub"]
def logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The formula above, term by term; the expected step is the sum of sample times steps. For the proof: exercise 3 of
# lesson 04, with a linear loss in place of the losses, and a temperature.


# %% tags=["solution"]
def logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature):
    step, threshold = (sample * steps).sum(), (sample * thresholds).sum()
    return sample * (d_step * (steps - step) + d_threshold * (thresholds - threshold)) / temperature


# %% tags=["check"]
checks.logit_gradient(logit_gradient)

# %% [markdown]
# ## Explorer
#
# The table of the same layer. Three settings worth trying:
#
# * *bits* 2, *mass on them* from 0.001 up to 0.999: the staircase coarsens long before the selection, the grey line,
#   changes. Where does it jump?
# * *bits* 8, *threshold* the smallest, *mass* 0.5: which end does the threshold of the mixture keep to, and which
#   logits does the gradient raise?
# * *mass* 0.5, then *noise* from 1 to 10 at *temperature* 0.1: a sample is nearly one scheme, another one each time.

# %%
explorers.block(weight, bits=2, exponent=-3, mass=0.5)

# %% [markdown]
# ## The selection
#
# For evaluation, and for all of the second stage, each block takes one scheme: first the bit-width with the largest
# probability, summed over its thresholds, then the most probable threshold *given* that bit-width. No noise. That need
# not be the most probable pair.
#
# *Predict:* what does the rule take from this table?

# %%
table = torch.tensor([[0.05, 0.30, 0.02], [0.24, 0.22, 0.17]])  # 2 and 4 bits; 2^0, 2^-1, 2^-2
example = HMQ(SearchSpace((2, 4), 3), threshold_exponent=0, signed=True)
example.logits.data = table.log()
row, column = divmod(int(table.argmax()), 3)
print("most probable pair:", (2, 4)[row], "bits below", f"2^{-column}")
print("bits alone:", [round(v, 2) for v in table.sum(1).tolist()])
print("the block selects:", example.scheme)
print(f"expected bits: {example.expected_bits():.2f}")

# %% [markdown]
# The **expected bits**, the mean bit-width under the table without noise and at temperature 1, are what the compression
# term of the loss counts: differentiable, and between two bit-widths while a block is undecided. Lesson 06 shows how
# far they can be from the bits that are selected.
#
# ## Exercise 4 · The selection (easy, 5 minutes)
#
# Write `selection(probabilities)`: row and column of the selected scheme in a table (B, T), as two integers from 0.


# %% tags=["stub"]
def selection(probabilities):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum along the thresholds, take the arg max, then look at that row alone.


# %% tags=["solution"]
def selection(probabilities):
    row = int(probabilities.sum(dim=1).argmax())
    return row, int(probabilities[row].argmax())


# %% tags=["check"]
checks.selection(selection)

# %% [markdown]
# ## Blocks on a module of your own
#
# `attach` works on any module whose forward pass torch.fx can read. It puts a block on every weight of a convolution or
# fully connected layer, and on activations after non-linearities, linear bottlenecks and residual sums. The batch you
# pass sets the activations' largest thresholds; `calibrate` does it over many.


# %%
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, len(builtin.classes))

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.pointwise(F.relu(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


torch.manual_seed(seed)
own = Own()
x, y = next(builtin.train.batches(64, seed=seed))
attach(own, SearchSpace(bits=(2, 4, 8), thresholds=4), x, generator=generator(seed, "attach"))
for place in placements(own):
    print(f"{place.name:17s} {place.kind:10s} {'quantized' if place.quantized else 'float':10s}{place.reason}")

# %% [markdown]
# The list says of every tensor what became of it, and why. Check it before you train. Then calibrate on more than one
# batch and train in a loop of your own, with two additions: new noise before every step, and the compression term in
# the loss. Logits learn faster than weights.

# %%
found = calibrate(own, (x for x, _ in builtin.train.subset(range(512)).batches(64)))
print("largest magnitudes:", {name: round(value, 2) for name, value in found.items()})

logits = [b.logits for b in blocks(own).values()]
rest = [p for p in own.parameters() if all(p is not l for l in logits)]
optimizer = torch.optim.RAdam([{"params": logits, "lr": 0.3}, {"params": rest, "lr": 0.01}])
noise = generator(seed, "noise")
own.train()
for _, (x, y) in zip(range(training_steps), builtin.train.batches(64, seed=seed)):
    resample(own, noise)
    loss = F.cross_entropy(own(x), y) + 32 * hinge(expected_rate(own), 8.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"expected rate {expected_rate(own):.2f}, of the selection {rates(own.eval()).weights:.2f}")
for name, b in blocks(own, "weight").items():
    print(f"{name:17s} {b.scheme}, expected bits {b.expected_bits():.2f}")

# %% [markdown]
# The expected rate is what the loss can see; that of the selection can lie far from it while blocks are undecided.
# `own.eval()` gives the selection. `block.fix()` keeps a block at its scheme, for a second stage; `hmq_lab.search` does
# all of this for you. `detach` takes the blocks off and leaves the trained float weights.

# %%
detach(own)
print(type(own).__name__, [name for name, _ in own.named_parameters()])

# %% [markdown]
# What torch.fx cannot read is refused, with the line: above all a branch on the *values* of a tensor. Write it as a
# module of its own, or as an operation (`torch.where`).


# %%
class Branching(Own):
    def forward(self, x):
        if x.mean() > 0:
            x = -x
        return super().forward(x)


try:
    attach(Branching(), SearchSpace(), x)
except ValueError as error:
    print("refused:", str(error).partition(": ")[2])

# %% [markdown]
# ## Summary
#
# * A block is one table over pairs of bits and threshold; it starts with exactly 95 % on the largest of both.
# * It mixes two parameters and quantizes once; the cost does not grow with the space.
# * What is searched with is a mixture. What is deployed is the selection: bits by their sum first, then the threshold.
# * The logits learn through two numbers alone. Many samples, one for every picture or input channel, calm them.
# * `attach`, `placements`, `calibrate`, `resample`, `detach` do this on any module that torch.fx reads.
#
# ## To talk about
#
# * A search could mix outputs, as others do. What would you gain, and what would it cost with 64 schemes?
# * Why does a weight draw its samples along the *input* channels, when hardware would rather have a scale for each
#   *output* channel? Which of the two would the selection allow?
# * The selection takes bits before the threshold. Think of a table where that is a bad choice.
#
# **In the paper:** sections 3.2 to 3.4; the quantizer on its way from one bit-width to another is figure 1.
# **Differences:** the initial probability is exactly 0.95 where the released formula gives more; the range is two's
# complement, so that b bits have 2^b levels.
