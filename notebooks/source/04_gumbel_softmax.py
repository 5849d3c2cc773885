# %% [markdown]
# # Gumbel-Softmax and temperature
#
# How to choose a quantizer at random with noise, how to soften the choice so that gradients pass,
# and what the temperature changes.
#
# **Minutes:** 45 (20 s of them computing) · **Data:** one layer that comes with the package ·
# **Know first:** lesson 03; what a softmax and an expectation are
#
# **After this you can**
#
# * draw a category from logits with Gumbel noise and an arg max,
# * say what the temperature does to a relaxed sample, and to its mean,
# * compare the gradient that samples give with the exact one, and read bias and noise off a figure,
# * write the paper's schedule of the temperature, and say what was measured of its restarts.

# %% tags=["parameters"] quick={"draws": 500, "samples": 300, "runs": 6, "steps": 50, "seed": 3}
# Parameters: the seed is yours to change.
draws = 10000  # of a category
samples = 4000  # of the gradient, at each temperature
runs = 64  # of the small search, with each schedule
steps = 400  # of each run
seed = 0

# %%
import math

import torch

from hmq_lab import checks, explorers, models, plots, quantize
from hmq_lab.gumbel import Constant, Cycles, Exponential, gumbel_noise, relaxed_categorical
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.plots.lessons import lesson04 as figures
from hmq_lab.plots.lessons import say
from hmq_lab.seeds import generator

predict = checks.predictions("04")
network = models.build("tiny_resnet8")
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(weight.shape)

# %% [markdown]
# ## A choice made of noise
#
# A block has a **logit** for every scheme: a number that a softmax turns into a probability,
# $p = \operatorname{softmax}(\text{logits})$. To choose a scheme at random, you could throw a die
# with unequal sides, one side for each scheme. The **Gumbel-max** method gives the same shares. Add
# independent **Gumbel noise**
#
# $$g_k = -\log(-\log u_k), \quad u_k \text{ uniform between 0 and 1}$$
#
# to every $\log p_k$ and take the arg max. The probabilities and the noise are only added. This
# matters later: a gradient can pass through a sum.
#
# *Predict:* four categories have 45, 30, 20 and 5 %. In what share of the draws does the last one
# win?

# %%
last_wins = predict("last-wins", low=0, high=100)  # percent

# %%
p = torch.tensor([0.45, 0.30, 0.20, 0.05])
noise = gumbel_noise((draws, 4), generator=generator(seed, "draws"))  # g = -log(-log(u))
winners = (p.log() + noise).argmax(1)
share = torch.bincount(winners, minlength=4) / draws
plots.show(figures.draws(p, share, draws))
last_wins.result(f"{100 * share[3].item():.1f} %")

# %% [markdown]
# The shares are the probabilities, except for the error of a finite number of draws. Gumbel-max is
# exact, not an approximation.
#
# ## Exercise 1 · Gumbel-max (easy, 5 minutes)
#
# Write `gumbel_max(probabilities, uniform)`: from probabilities (K,) and uniform numbers (S, K)
# make S choices, each an index from 0. Make the Gumbel noise yourself.


# %% tags=["stub"]
def gumbel_max(probabilities, uniform):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Two logarithms and two minus signs make the noise. Add it to the logarithm of the probabilities,
# not to the probabilities.


# %% tags=["solution"]
def gumbel_max(probabilities, uniform):
    noise = -torch.log(-torch.log(uniform))
    return (probabilities.log() + noise).argmax(dim=1)


# %% tags=["check"]
checks.gumbel_max(gumbel_max)

# %% [markdown]
# ## The relaxed sample
#
# An arg max has no useful derivative. Gumbel-Softmax replaces it by a softmax at a
# **temperature** $\tau$:
#
# $$z = \operatorname{softmax}\!\left(\frac{\log p + g}{\tau}\right)$$
#
# Now every sample $z$ is a mixture: its entries lie between 0 and 1, and their sum is 1. For three
# categories, $z$ is a point in a triangle. The corners are the hard choices.
#
# *Predict:* at which of these temperatures do the samples stay near the corners?

# %%
corners = predict("corners", "0.1", "0.5", "1", "5")

# %%
p = torch.tensor([0.6, 0.3, 0.1])
noise = gumbel_noise((400, 3), generator=generator(seed, "triangle"))
clouds = {}
for temperature in (0.1, 0.5, 1.0, 5.0):
    # softmax((log p + g) / τ), a row for each sample: (400, 3)
    clouds[temperature] = relaxed_categorical(p.log(), temperature, noise)
plots.show(figures.triangles(p, clouds))
hard = {t: (z.max(1).values > 0.95).float().mean().item() for t, z in clouds.items()}
corners.result(f"{max(hard, key=hard.get):g}")

# %% [markdown]
# A low temperature gives nearly hard choices, a high one gives nearly the same mixture every time.
# The largest entry of a sample is the same category at every temperature: dividing by $\tau$ does
# not change the order. So the temperature does not change *which* scheme wins; it changes *how
# much* it wins. The mean of the samples is $p$ only in the limit $\tau \to 0$.
#
# ## Exercise 2 · The relaxed sample (easy, 5 minutes)
#
# Write `relaxed_sample(logits, noise, temperature)`: logits (K,), noise (S, K), the result (S, K).
# The logits need not be normalized. Does it matter?


# %% tags=["stub"]
def relaxed_sample(logits, noise, temperature):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# First add noise and logits. Then divide once, and take one softmax along the categories. A
# constant that is added to all logits does not change a softmax.


# %% tags=["solution"]
def relaxed_sample(logits, noise, temperature):
    return torch.softmax((logits + noise) / temperature, dim=1)


# %% tags=["check"]
checks.relaxed_sample(relaxed_sample)

# %% [markdown]
# ## Explorer
#
# Three settings worth trying:
#
# * *temperature* to 0.1, then up to 5: the cloud moves from the corners to the middle. Where does
#   its mean go?
# * *category* 3, *its logit* to 6, *temperature* 5: category 3 is nearly certain. How far from its
#   corner are the samples?
# * *along the schedule* from 0 to 10: the **schedule** says how the temperature changes during a
#   search, here the paper's. Where does the histogram jump back?

# %%
explorers.gumbel(temperature=0.5)

# %% [markdown]
# ## A gradient to compare with
#
# What is the right gradient of the logits? If scheme $k$ has the loss $L_k$, the expected loss is
#
# $$L = \sum_k p_k L_k$$
#
# and its gradient is a formula. It needs one quantization for every scheme. A network with many
# tensors cannot afford that; a small problem can: one tensor, twelve schemes.
#
# ## Exercise 3 · The exact gradient (medium, 8 minutes)
#
# Write `expected_gradient(logits, losses)`: the gradient of $\sum_k p_k L_k$ with respect to the
# logits, where $p = \operatorname{softmax}(\text{logits})$. Try it on paper first; autograd is
# allowed, too.


# %% tags=["stub"]
def expected_gradient(logits, losses):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The derivative of p_j with respect to logit k is p_j (1 - p_j) for j = k, and -p_j p_k otherwise.
# Multiply by L_j and sum over j. What is left is p_k times a difference.


# %% tags=["solution"]
def expected_gradient(logits, losses):
    p = torch.softmax(logits, 0)
    return p * (losses - (p * losses).sum())


# %% tags=["check"]
checks.expected_gradient(expected_gradient)

# %% [markdown]
# ## Bias and noise against temperature
#
# Now the gradient from relaxed samples $z$, for two losses:
#
# * $\sum_k z_k L_k$, a mixture of the *losses*. It still takes all twelve quantizations.
# * the loss of *one* quantization, with the mixed step $\sum_k z_k \Delta_k$ and the mixed threshold
#   $\sum_k z_k t_k$. This is what a block of HMQ does.
#
# Each sample gives a gradient. The **bias** is the distance from their mean to the exact gradient.
# The **noise** is the spread of single gradients around their mean. Both are divided by the length
# of the exact gradient.
#
# *Predict:* at which temperature is the bias of HMQ's mixed parameters smallest?

# %%
least_bias = predict(
    "least-bias",
    "at the lowest temperature",
    "between the two ends",
    "at the highest temperature",
)

# %%
x = weight.double().flatten()[::36]  # 256 weights
bits = torch.tensor([2.0, 3, 4]).double()
exponents = torch.tensor([0.0, -1, -2, -3]).double()
thresholds = (2**exponents).expand(3, 4).flatten()
step_sizes = thresholds / 2 ** (bits - 1).repeat_interleave(4)
relaxed = torch.vmap(relaxed_categorical, in_dims=(0, None, 0))  # one row of noise per sample


def quantization_error(step, threshold):
    """Of x, over its sum of squares, for each of S steps and thresholds: (S,)."""
    q = quantize(x.expand(len(step), -1), step[:, None], threshold[:, None], signed=True)
    return (q - x).square().sum(1) / x.square().sum()


losses = quantization_error(step_sizes, thresholds)  # (12,)
logits = torch.zeros(12, dtype=torch.float64, requires_grad=True)
exact = torch.autograd.grad(torch.softmax(logits, 0) @ losses, logits)[0]
noise = gumbel_noise(
    (samples, 12), generator=generator(seed, "gradients"), dtype=torch.float64
)
print(f"losses from {losses.min():.3f} to {losses.max():.3f}")
print(f"exact gradient of length {exact.norm():.3f}")


# %%
def gradients(loss, temperature):
    """The gradient that each sample gives: (samples, 12)."""
    rows = logits.detach().repeat(samples, 1).requires_grad_()
    loss(relaxed(rows, temperature, noise)).sum().backward()
    return rows.grad


def bias_and_noise(loss, temperature):
    rows = gradients(loss, temperature)
    mean = rows.mean(0)
    spread = (rows - mean).square().sum(1).mean().sqrt()
    return (mean - exact).norm() / exact.norm(), spread / exact.norm()


temperatures = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
losses_of = {
    "mixed losses": lambda z: z @ losses,
    "mixed parameters, as in HMQ": lambda z: quantization_error(
        z @ step_sizes, z @ thresholds
    ),
}

# %%
found = {}
for name, loss in losses_of.items():
    found[name] = torch.tensor([bias_and_noise(loss, t) for t in temperatures])
plots.show(figures.bias_and_noise(temperatures, found, samples))
least_bias.result(figures.smallest_bias_at(temperatures, found["mixed parameters, as in HMQ"]))

# %% [markdown]
# For mixed losses the theory is known: a low temperature has little bias and much noise, a high one
# has little noise and much bias, until hardly any gradient is left. For HMQ's mixed parameters the
# bias does not go to zero at low temperatures. There are two reasons. The loss is not linear in
# step and threshold. And the straight-through gradient (lesson 03) is an estimate. When the samples
# become hard, a gradient sees the slope *at* one scheme, not the difference *between* two schemes.
# How good is the direction of the gradient?

# %%
hmq_loss = losses_of["mixed parameters, as in HMQ"]
rows = {temperature: gradients(hmq_loss, temperature) for temperature in (0.5, 1.0)}
print("\n".join(figures.cosines(rows, exact)))

# %% [markdown]
# ## Schedules
#
# At a high temperature a search compares many schemes at once. At a low one it sees what a hard
# choice does. The paper's schedule falls from 1 to a floor of 0.5 and starts again every five
# epochs. The part from one start to the next is a **cycle**:
#
# $$\tau_i = \max\left(0.5,\ e^{-0.01\,\operatorname{round}(i / n)}\right)$$
#
# Here $i$ counts the training steps within the cycle, and $n$ is the number of training steps of an
# epoch divided by 25.
#
# *Predict:* after how many epochs does the temperature reach its floor for the first time?

# %%
floor_epoch = predict("floor-epoch", low=0, high=5)

# %%
per_epoch = 100
shown = {
    "constant": Constant(0.75),
    "exponential with a floor": Exponential(decay=0.01 * 25 / per_epoch, floor=0.5),
    "the paper's cycles": Cycles(per_epoch),
}
plots.show(figures.schedules(shown, per_epoch))
first = [Cycles(per_epoch)(i) for i in range(5 * per_epoch)]
floor_epoch.result(first.index(0.5) / per_epoch)

# %% [markdown]
# ## Exercise 4 · The paper's cycles (medium, 8 minutes)
#
# Write `cycle_temperature(step, steps_per_epoch)`: the temperature at a training step, counted from
# 0. The number of training steps of an epoch need not be a multiple of 25.


# %% tags=["stub"]
def cycle_temperature(step, steps_per_epoch):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The remainder of a division, %, gives the step within the cycle. n may be 15.64: divide with /.


# %% tags=["solution"]
def cycle_temperature(step, steps_per_epoch):
    i = step % (5 * steps_per_epoch)
    n = steps_per_epoch / 25
    return max(0.5, math.exp(-0.01 * round(i / n)))


# %% tags=["check"]
checks.cycle_temperature(cycle_temperature)

# %% [markdown]
# ## What a restart does
#
# The paper gives no measurement of its restarts, so here is a small one. A made-up tensor has one
# large weight and 511 small ones. We quantize it with 2 bits. A threshold that fits the large
# weight loses the small ones, and the other way round: the error has two valleys. We start like
# the paper, with 95 % of the probability on the largest threshold. This is the wrong valley. The
# block then learns its logits under seven schedules.
#
# *Predict:* a schedule cools down to 0.1. Does a restart help the runs that are still at the start?

# %%
restart_helps = predict("restart-helps", "yes", "hardly", "no")

# %%
quantiles = (torch.arange(511) + 0.5) / 511
small = 0.05 * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)  # a normal distribution's
x = torch.cat((small, torch.tensor([-1.0])))
thresholds = 2.0 ** -torch.arange(8)
step_sizes = thresholds / 2
landscape = quantization_error(step_sizes, thresholds)
print("error below 2^0, 2^-1, ...:", [round(v, 3) for v in landscape.tolist()])


def learn(schedule):
    """The thresholds that `runs` searches end with, in octaves below the largest."""
    noisy = generator(seed, "search")  # the same noise for every schedule
    logits = -torch.rand(runs, 8, generator=noisy)
    logits[:, 0] = torch.log(0.95 * logits[:, 1:].exp().sum(1) / 0.05)
    logits.requires_grad_()
    optimizer = torch.optim.RAdam([logits], lr=0.05)
    for step in range(steps):
        z = relaxed(logits, schedule(step), gumbel_noise((runs, 8), generator=noisy))
        optimizer.zero_grad()
        quantization_error(z @ step_sizes, z @ thresholds).sum().backward()
        optimizer.step()
    return logits.argmax(1)


# %% [markdown]
# (An **octave** is a factor of two: one octave below a threshold is half of it.)

# %%
per_epoch = steps / 10  # ten epochs
schedules = {
    "constant 0.1": Constant(0.1),
    "constant 0.5": Constant(0.5),
    "constant 1": Constant(1.0),
    "one decay to 0.5": Exponential(decay=0.25 / per_epoch, floor=0.5),
    "two cycles to 0.5": Cycles(round(per_epoch)),
    "one decay to 0.1": Exponential(decay=0.5 / per_epoch, floor=0.1),
    "two cycles to 0.1": Cycles(round(per_epoch), decay=0.02, floor=0.1),
}
ends = {name: learn(schedule) for name, schedule in schedules.items()}
plots.show(figures.restarts(landscape, ends))
restart_helps.result(figures.who_leaves(ends))

# %% [markdown]
# What your runs show:

# %%
say(*figures.restart_sentences(landscape, ends))

# %% [markdown]
# At a temperature of 0.1 nearly every sample *is* the most probable scheme, so the others get no
# gradient: the search is frozen. A restart can undo a freeze. The paper's schedule never goes below
# 0.5. There a sample is a softer mixture, and the other schemes still get a gradient. So this
# tensor cannot show whether the paper's schedule needs its restarts.
#
# ## Summary
#
# * The arg max of log-probability plus Gumbel noise is an exact draw. The softmax at a temperature
#   is its soft version.
# * The temperature changes how hard a sample is. It never changes which category is largest.
# * A low temperature gives noisy gradients. A high one gives biased gradients, and mixtures that no
#   hardware has. With HMQ's mixed parameters some bias is left at every temperature.
# * The paper's schedule falls from 1 to 0.5 and starts again every five epochs.
#
# ## To talk about
#
# * Evaluation uses no noise at all. Why does training need noise, when the softmax alone is
#   differentiable?
# * A block has 64 pairs, here there were 12 or 8. What does that do to how hard a sample at
#   $\tau = 0.5$ is? (The explorer takes any logits.)
# * The restarts were tried on one made-up tensor. Which measurement on a network would convince
#   you, in either direction?
#
# **In the paper:** the relaxation is part of sections 3.2 to 3.4. The schedule belongs to the
# search of section 4; its exact form is from the authors' code. **Differences:** none in the
# sampling. The comparison with the exact gradient and the measurement of the restarts are ours.
