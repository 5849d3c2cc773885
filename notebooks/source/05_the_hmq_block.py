# %% [markdown]
# # The HMQ block
#
# A table of probabilities, two expected numbers, one quantization: the block from its first logit
# to its selection, and how to put it on a module of your own.
#
# **Minutes:** 55 (25 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# lessons 03 and 04
#
# **After this you can**
#
# * compute the expected step and threshold of a block, and say why one quantization is enough,
# * say how mixing parameters differs from mixing outputs, and measure the gap between mixture and
#   selection,
# * say why every image and every input channel has a sample of its own,
# * derive the gradient that reaches each logit, and apply the selection rule,
# * attach blocks to your own module, train it, and take them off.

# %% tags=["parameters"] quick={"images": 100, "draws": 8, "training_steps": 2, "seed": 3}
# Parameters: the seed is yours to change.
images = 1000  # to measure accuracy on
draws = 100  # of the noise, for each number of samples
training_steps = 60  # of the module of your own
seed = 0

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from hmq_lab import HMQ, Scheme, SearchSpace, attach, checks, data, detach
from hmq_lab import explorers, models, placements, plots, quantize
from hmq_lab.budget import expected_compression, hinge, rates
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.placement import blocks, calibrate, resample
from hmq_lab.plots.lessons import lesson05 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.quantizer import threshold_exponent
from hmq_lab.seeds import generator

predict = checks.predictions("05")
builtin = data.load("builtin")
network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(weight.shape, f"largest magnitude {weight.abs().max():.3f}")

# %% [markdown]
# ## One table for bits and threshold
#
# A block has one logit for every *pair* of a bit-width and a threshold: here 8 bit-widths times 8
# powers of two. The largest threshold is one octave above the **tight** threshold, the smallest
# power of two that no value exceeds. The 64 pairs share one softmax. Two softmaxes, one for the
# bits and one for the threshold, would not be enough: the best threshold depends on the bits
# (lesson 02).

# %%
block = HMQ.for_weight(weight, SearchSpace(), generator=generator(seed, "block"))
print(block)
print("logits", tuple(block.logits.shape), "thresholds 2^", block.exponents.tolist())
print(f"probability of 8 bits below the largest threshold {block.probabilities()[-1, 0]:.3f}")
print(f"expected bits {block.expected_bits():.3f}")

# %% [markdown]
# The search begins where hardly any accuracy is lost: 95 % of the probability is on the most bits
# and the largest threshold. The other 63 logits are drawn at random between -1 and 0. What must
# the first logit be? The released code computes it as if the other logits were 0:
# $\log\frac{0.95 \cdot 63}{1 - 0.95}$.
#
# *Predict:* does this give more than 95 %, or less?

# %%
released_share = predict("released-share", "more than 95 %", "exactly 95 %", "less than 95 %")

# %%
logits = block.logits.detach().flatten()
others = torch.cat((logits[:56], logits[57:]))
released = math.log(0.95 * 63 / (1 - 0.95))
p = torch.softmax(torch.cat((torch.tensor([released]), others)), 0)[0].item()
print(f"first logit: the block's {logits[56]:.3f}; the released formula's {released:.3f}")
print(f"the released formula gives the probability {p:.3f}")
released_share.result(f"{'more' if p > 0.95 else 'less'} than 95 %")

# %% [markdown]
# ## Exercise 1 · The first logit (medium, 6 minutes)
#
# Write `first_logit(others, probability)`: the logit that has exactly this probability beside the
# other logits (N,).


# %% tags=["stub"]
def first_logit(others, probability):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Call the exponential of the logit w, and the sum of the exponentials of the others s. The
# probability is w / (w + s). Solve for w.


# %% tags=["solution"]
def first_logit(others, probability):
    return math.log(probability * others.exp().sum() / (1 - probability))


# %% tags=["check"]
checks.first_logit(first_logit)

# %% [markdown]
# ## Two expected numbers, one quantization
#
# A softmax of logits and noise (lesson 04) gives every scheme a weight $\hat p$. The block takes
# two means with these weights, the **expected step** and the **expected threshold**:
#
# $$\bar\Delta = \sum_{t,b} \hat p_{t,b}\,\Delta_{t,b} \qquad
# \bar t = \sum_{t,b} \hat p_{t,b}\,t$$
#
# and quantizes once, with $\bar\Delta$ and $\bar t$. There is another way: quantize 64 times and
# take the mean of the results. This mixes *outputs*, and gives something else.
#
# *Predict:* half of the weight is on 2 bits below 1, half on 3 bits below 1/2. Which mixture has
# more levels?

# %%
more_levels = predict("more-levels", "mixed parameters", "mixed outputs", "both the same")

# %%
pair = Scheme(2, 0, True), Scheme(3, -1, True)
x = torch.linspace(-1.3, 1.3, 2601, dtype=torch.float64)
step = sum(scheme.step for scheme in pair) / 2  # the expected step
threshold = sum(scheme.threshold for scheme in pair) / 2  # the expected threshold
outputs = [quantize(x, s.step, s.threshold, s.signed) for s in pair]
mixed = {
    "mixed parameters": quantize(x, step, threshold, signed=True),
    "mixed outputs": sum(outputs) / 2,
}
plots.show(figures.mixtures(x, pair, mixed, step, threshold))
counts = {name: len(y.unique()) for name, y in mixed.items()}
same = len(set(counts.values())) == 1
more_levels.result("both the same" if same else max(counts, key=counts.get))

# %% [markdown]
# Mixed parameters give a uniform quantizer again. Only its two end levels are special: the mixed
# threshold is no multiple of the mixed step, so the distance to their neighbours is less than a
# step. Mixed outputs give levels at uneven distances. Mixed outputs also need memory: the largest
# activation of ResNet-20 has 16,384 numbers for each image, and they would be stored 64 times. One
# quantization costs the same however many schemes there are.

# %%
batch = 16384 * 64 * 4 / 2**20
print(
    f"a batch of 64: {batch:.0f} MiB for one copy, {64 * batch:.0f} MiB for one of each scheme"
)

# %% [markdown]
# ## Exercise 2 · Expected step and threshold (medium, 8 minutes)
#
# Write `expected_parameters(probabilities, bits, exponents, signed)`, which returns the two as a
# pair. Shapes: probabilities (B, T), bits (B,), exponents of the thresholds (T,). A signed step is
# $t / 2^{b-1}$, an unsigned one $t / 2^b$.


# %% tags=["stub"]
def expected_parameters(probabilities, bits, exponents, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First make the table of all steps (B, T): bits along the rows, thresholds along the columns.
# `bits[:, None]` helps. Write `int(signed)`: torch does not subtract True or False.


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
# The expected step is no power of two, so no hardware has it. While the search runs, the network
# computes with the mixture. In the end every block gets one scheme. How far apart are the two? Take
# the network that comes with the package. Give every weight two schemes, 8 bits and 2 bits, each
# with its best threshold. Move the probability mass from 8 bits to 2 bits, the same in all layers,
# without noise and without training.
#
# *Predict:* half of the mass is on each scheme. Where is the accuracy of the mixture?

# %%
half_way = predict(
    "half-way", "near that of 8 bits", "between the two", "near that of 2 bits", "below both"
)

# %%
batches = list(builtin.validation.subset(range(images)).batches(500))
layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
weights = {f"{name}.weight": module.weight.detach() for name, module in layers}


def accuracy(weights):
    with torch.no_grad():
        hits = [functional_call(network, weights, x).argmax(1) == y for x, y in batches]
    return 100 * torch.cat(hits).double().mean().item()


def best_scheme(w, bits):
    top = threshold_exponent(w.abs().max().item())
    schemes = [Scheme(bits, top - octave, True) for octave in range(8)]
    return min(
        schemes, key=lambda s: (quantize(w, s.step, s.threshold, True) - w).square().sum()
    )


eight = {name: best_scheme(w, 8) for name, w in weights.items()}
two = {name: best_scheme(w, 2) for name, w in weights.items()}


# %%
def mixed_parameters(mass):
    """Every weight with the expected step and threshold, `mass` being on 2 bits."""
    result = {}
    for name, w in weights.items():
        a, b = eight[name], two[name]
        step = (1 - mass) * a.step + mass * b.step
        threshold = (1 - mass) * a.threshold + mass * b.threshold
        result[name] = quantize(w, step, threshold, True)
    return result


def mixed_outputs(mass):
    """Every weight as the mean of two quantized weights."""
    result = {}
    for name, w in weights.items():
        many = quantize(w, eight[name].step, eight[name].threshold, True)
        few = quantize(w, two[name].step, two[name].threshold, True)
        result[name] = (1 - mass) * many + mass * few
    return result


# %%
masses = [i / 10 for i in range(11)]
curves = {
    "mixed parameters": [accuracy(mixed_parameters(m)) for m in masses],
    "mixed outputs": [accuracy(mixed_outputs(m)) for m in masses],
}
soft = curves["mixed parameters"]
curves["selection"] = [soft[0] if m < 0.5 else soft[-1] for m in masses]
plots.show(figures.mixture_and_selection(masses, curves, images))
say(figures.gap_sentence(masses, soft, curves["selection"]))
half_way.result(figures.where_half_lies(soft[0], soft[5], soft[-1]))

# %% [markdown]
# The mixture goes from one scheme to the other gradually; the selection jumps. So the accuracy of
# the mixture is not the accuracy of the network that will be deployed. Therefore the search measures
# the *selection* on the validation images. And a second stage trains the weights with the schemes
# fixed. (Training may also adapt the weights to the mixture. Here they were not trained.)
#
# ## A sample for every image and every input channel
#
# During training, noise is added to the logits. One sample could serve a whole tensor, but the
# block draws more. An activation has one sample for every image of the batch. A weight has one for
# every *input* channel. The selected scheme still belongs to the whole tensor. Why so many samples?
# Each sample gives its own gradient, and a mean of many gradients is less noisy.
#
# *Predict:* one sample for 64 images, or 64 samples: how many times smaller is the spread of the
# gradient?

# %%
smaller_spread = predict("smaller-spread", low=1, high=64)

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


# %%
space = SearchSpace((4,), 8)
activation_block = HMQ(space, threshold_exponent(h.max().item()), signed=False)
weight_block = HMQ.for_weight(weight, space)
tensors = {
    "activation: samples shared by images": (activation_block, loss_of_activation, 64),
    "weight: samples by input channels": (weight_block, loss_of_weight, weight.shape[1]),
}


def spread(block, loss, count, samples):
    """The spread of the logits' gradient around its mean, and the length of the mean."""
    nn.init.zeros_(block.logits)  # every threshold as probable as the others
    block.temperature.fill_(0.5)
    found = []
    for number in range(draws):
        block.resample(generator(seed, "spread", samples, number))
        step, threshold = (
            v.repeat_interleave(count // samples) for v in block.sample(samples)
        )
        found.append(torch.autograd.grad(loss(step, threshold), block.logits)[0].flatten())
    found = torch.stack(found)
    mean = found.mean(0)
    return (found - mean).square().sum(1).mean().sqrt().item(), mean.norm().item()


# %%
rows = {}
for name, (unit, loss, count) in tensors.items():
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= count]
    rows[name] = {n: spread(unit, loss, count, n) for n in numbers}
plots.show(figures.spreads(rows, draws))
say(*figures.spread_sentences(rows))
of_activation = rows["activation: samples shared by images"]
smaller_spread.result(of_activation[1][0] / of_activation[64][0])

# %% [markdown]
# More samples calm the noise, and still there is one quantization. The mean of n independent
# gradients would follow the dotted line. The losses of two images depend little on each other. The
# input channels of a weight are different: they act together in every image, so their samples help
# less.
#
# ## The gradient of each logit
#
# The loss depends on the block through two numbers only, $\bar\Delta$ and $\bar t$. So
# backpropagation brings back two numbers, $\partial L / \partial \bar\Delta$ and
# $\partial L / \partial \bar t$ (lesson 03). From these the block computes the gradient of each
# logit $\pi$:
#
# $$\frac{\partial L}{\partial \pi_{t,b}} = \frac{\hat p_{t,b}}{\tau} \left(
# \frac{\partial L}{\partial \bar\Delta}(\Delta_{t,b} - \bar\Delta)
# + \frac{\partial L}{\partial \bar t}(t - \bar t) \right)$$
#
# *Predict:* a loss becomes smaller when the expected threshold grows. Which logits does descent
# raise?

# %%
raised = predict(
    "raised-logits",
    "all of them",
    "those with more bits than the mean",
    "those with a threshold above the expected one",
)

# %%
block = HMQ.for_weight(weight, SearchSpace(), generator=generator(seed, "block"))
nn.init.zeros_(block.logits)
block.resample(generator(seed, "gradient"))
_, threshold = block.sample(1)
gradient = torch.autograd.grad(-threshold.sum(), block.logits)[0]  # the loss is -threshold
above = 2.0 ** block.exponents.double() > threshold.item()
agree = ((gradient < 0) == above).all()
plots.show(
    figures.logit_gradient(gradient, block.exponents.tolist(), "loss: minus the threshold")
)
raised.result("those with a threshold above the expected one" if agree else "others")

# %% [markdown]
# The formula shows why descent does not raise them all by the same amount. The factor $t - \bar t$
# is larger for larger thresholds, and $\hat p$ is larger for the schemes that have more weight in
# this sample.
#
# Now the squared error of the layer as the loss:

# %%
step, threshold = block.sample(1)
step.retain_grad(), threshold.retain_grad()
quantized = quantize(weight, step, threshold, signed=True)
error = (quantized - weight).square().sum() / weight.square().sum()
error.backward()
print(f"dL/dstep {step.grad.item():.3g} at an expected step of {step.item():.3g}")
print(f"dL/dthreshold {threshold.grad.item():.3g} at a threshold of {threshold.item():.3g}")
exponents = block.exponents.tolist()
plots.show(figures.logit_gradient(block.logits.grad, exponents, "loss: the squared error"))

# %% [markdown]
# Two numbers for 64 logits: with the same sample, the gradients of all losses lie in one plane.
# Try it with twenty random losses.

# %%
rows = []
for number in range(20):
    step, threshold = block.sample(1)
    direction = torch.randn(weight.shape, generator=generator(seed, "loss", number))
    out = (quantize(weight, step, threshold, signed=True) * direction).sum()
    rows.append(torch.autograd.grad(out, block.logits)[0].flatten())
values = torch.linalg.svdvals(torch.stack(rows).double())
relative = [f"{v:.1e}" for v in (values / values[0])[:4].tolist()]
print("singular values, divided by the largest:", relative)

# %% [markdown]
# All values after the second are rounding errors, so the rank is two. One sample says little about
# 64 schemes; many samples are needed to see which scheme is better.
#
# ## Exercise 3 · The gradient of the logits (medium, 10 minutes)
#
# Write `logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature)`, shape (B, T).
# The sample (B, T) sums to one; steps (B, T), thresholds (T,); the others are numbers.


# %% tags=["stub"]
def logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Take the formula above, term by term. The expected step is the sum of sample times steps. For the
# proof: exercise 3 of lesson 04, with a linear loss and a temperature.


# %% tags=["solution"]
def logit_gradient(sample, steps, thresholds, d_step, d_threshold, temperature):
    step, threshold = (sample * steps).sum(), (sample * thresholds).sum()
    slope = d_step * (steps - step) + d_threshold * (thresholds - threshold)
    return sample * slope / temperature


# %% tags=["check"]
checks.logit_gradient(logit_gradient)

# %% [markdown]
# ## Explorer
#
# The table of the same layer. Three settings worth trying:
#
# * *bits* 2, *mass on them* from 0.001 up to 0.999: the steps of the staircase grow long before
#   the selection, the grey line, changes. Where does the selection jump?
# * *bits* 8, *threshold* the smallest, *mass* 0.5: is the threshold of the mixture near the large
#   or the small one? Which logits does the gradient raise?
# * *mass* 0.5, then *noise* from 1 to 10 at *temperature* 0.1: a sample is nearly one scheme, and
#   each time another one.

# %%
explorers.block(weight, bits=2, exponent=-3, mass=0.5)

# %% [markdown]
# ## The selection
#
# For evaluation, and in all of the second stage, each block has one scheme, the **selection**.
# First comes the bit-width. Its **marginal** probability is the sum of its probabilities over all
# thresholds; the bit-width with the largest marginal is selected. Then comes the most probable
# threshold for this bit-width. There is no noise:
#
# $$b^* = \arg\max_b \sum_t p_{t,b} \qquad t^* = \arg\max_t\, p_{t,b^*}$$
#
# This need not be the most probable pair.
#
# *Predict:* what does the rule select from this table?
#
# | | below $2^0$ | below $2^{-1}$ | below $2^{-2}$ |
# |---|---|---|---|
# | 2 bits | 0.05 | 0.30 | 0.02 |
# | 4 bits | 0.24 | 0.22 | 0.17 |

# %%
selected = predict("selected", "2 bits below 0.5", "4 bits below 1", "4 bits below 0.25")

# %%
table = torch.tensor([[0.05, 0.30, 0.02], [0.24, 0.22, 0.17]])
example = HMQ(SearchSpace((2, 4), 3), threshold_exponent=0, signed=True)
example.logits.data = table.log()
row, column = divmod(int(table.argmax()), 3)
print("most probable pair:", (2, 4)[row], "bits below", f"2^{-column}")
print("bits alone:", [round(v, 2) for v in table.sum(1).tolist()])
print(f"expected bits: {example.expected_bits():.2f}")
selected.result(f"{example.scheme.bits} bits below {example.scheme.threshold:g}")

# %% [markdown]
# The **expected bits** are the mean bit-width under the table, without noise and at temperature 1:
#
# $$\mathbb E[b] = \sum_{t,b} p_{t,b}\, b$$
#
# The compression term of the loss counts them. They are differentiable, and lie between two
# bit-widths while a block is undecided. Lesson 06 shows how far they can be from the selected bits.
#
# ## Exercise 4 · The selection (easy, 5 minutes)
#
# Write `selection(probabilities)`: row and column of the selected scheme in a table (B, T), as two
# integers from 0.


# %% tags=["stub"]
def selection(probabilities):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Sum along the thresholds, take the arg max, then look only at that row.


# %% tags=["solution"]
def selection(probabilities):
    row = int(probabilities.sum(dim=1).argmax())
    return row, int(probabilities[row].argmax())


# %% tags=["check"]
checks.selection(selection)

# %% [markdown]
# ## Blocks on a module of your own
#
# `attach` works on any module whose forward pass torch.export can read. It puts a block on every
# weight of a convolution or fully connected layer, and on activations after non-linearities, linear
# bottlenecks and residual sums. The largest thresholds of activations come from the batch that you
# pass. Setting them from many batches is called **calibration**; `calibrate` does it.


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
space = SearchSpace(bits=(2, 4, 8), thresholds=4)
attach(own, space, x, generator=generator(seed, "attach"))
for place in placements(own):
    state = "quantized" if place.quantized else "float"
    print(f"{place.name:17s} {place.kind:10s} {state:10s}{place.reason}")

# %% [markdown]
# The list says for every tensor whether it is quantized, and why. Read it before you train. Then
# calibrate on more than one batch, and train in a loop of your own. The loop has two additions: new
# noise before every training step, and the compression term in the loss,
#
# $$L = L_\text{task} + \gamma \cdot \max\left(\frac{R_\text{target} - R}{R_\text{target}},
# 0\right)^2, \qquad R = \frac{32 \sum_i n_i}{\sum_i n_i\, \mathbb E[b_i]}$$
#
# with $n_i$ the number of elements of weight tensor $i$. The factor **gamma**, $\gamma$, says how
# strongly the compression counts beside the task. The logits have a larger learning rate than the
# weights.

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
    missing = hinge(expected_compression(own), 8.0)
    loss = F.cross_entropy(own(x), y) + 32 * missing  # L above, γ = 32
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
expected = expected_compression(own).item()
print(f"expected compression {expected:.2f}, actual {rates(own.eval()).weights:.2f}")
for name, b in blocks(own, "weight").items():
    print(f"{name:17s} {b.scheme}, expected bits {b.expected_bits():.2f}")

# %% [markdown]
# The loss sees the expected compression. The actual one, of the selection, can be far from it while
# blocks are undecided. `own.eval()` computes with the selection. `block.fix()` keeps a block at its
# scheme, for a second stage. `hmq_lab.search` does all of this for you. `detach` takes the blocks
# off and leaves the trained float weights.

# %%
detach(own)
print(type(own).__name__, [name for name, _ in own.named_parameters()])

# %% [markdown]
# `attach` refuses what torch.export cannot read, and names the line. The most common case is an
# `if` on the *values* of a tensor. Write it as a module of its own, or as an operation
# (`torch.where`).


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
# * A block is one table over pairs of bits and threshold. At its start exactly 95 % are on the
#   largest of both.
# * It mixes two parameters and quantizes once. The cost does not grow with the number of schemes.
# * The search computes with a mixture; the selection is deployed. It takes the bits first, by their
#   sum, and then the threshold.
# * The logits learn through two numbers alone. Many samples, one for every image or input channel,
#   make their gradient less noisy.
# * `attach`, `placements`, `calibrate`, `resample`, `detach` work on any module that torch.export
#   reads.
#
# ## To talk about
#
# * A search could mix outputs, as others do. What would you gain, and what would it cost with 64
#   schemes?
# * A weight draws its samples along the *input* channels, although hardware would rather have a
#   scale for each *output* channel. Why? Which of the two would the selection allow?
# * The selection takes bits before the threshold. Think of a table where that is a bad choice.
#
# **In the paper:** sections 3.2 to 3.4; the quantizer between two bit-widths is figure 1.
# **Differences:** the initial probability is exactly 0.95, where the released formula gives more.
# The range is two's complement, so that b bits have 2^b levels.
