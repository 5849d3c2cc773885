# %% [markdown]
# # Gumbel-Softmax and temperature
#
# How a choice between quantizers is drawn from noise, how it is softened so that gradients pass, and what the
# temperature trades.
#
# **Minutes:** 30 (20 s of them computing) · **Data:** none but one layer that comes with the package · **Know
# first:** lesson 03; what a softmax and an expectation are
#
# **After this you can**
#
# * draw a category from logits with Gumbel noise and an arg max,
# * say what the temperature does to a relaxed sample, and to its mean,
# * compare the gradient that samples give with the exact one, and read bias and noise off a figure,
# * write the paper's schedule of the temperature, and say what was measured of its restarts.

# %% tags=["parameters"] quick={"draws": 500, "samples": 300, "runs": 6, "steps": 50}
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
from hmq_lab.explorers.sampling import CORNERS
from hmq_lab.gumbel import Constant, Cycles, Exponential, gumbel_noise, relaxed_categorical
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.seeds import generator

network = models.build("tiny_resnet8")
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(weight.shape)

# %% [markdown]
# ## A choice made of noise
#
# A block has a probability for every scheme. To choose one at random you could throw a die with that many unequal
# sides. The **Gumbel-max** way is this: add independent noise `g = -log(-log(u))` to every log-probability, with `u`
# uniform between 0 and 1, and take the arg max. Probabilities go in on one side, noise on the other, and only a sum
# joins them: that is what will let a gradient through.
#
# *Predict:* four categories have 45, 30, 20 and 5 %. How often does the last one win?

# %%
p = torch.tensor([0.45, 0.30, 0.20, 0.05])
noise = gumbel_noise((draws, 4), generator=generator(seed, "draws"))
winners = (p.log() + noise).argmax(1)
share = torch.bincount(winners, minlength=4) / draws
error = (p * (1 - p) / draws).sqrt()  # standard error of a share

drawing, ax = plots.canvas(height=3)
ax.bar(range(1, 5), p, 0.7, color=plots.PALE, label="probability")
ax.errorbar(range(1, 5), share, 2 * error, fmt="o", color=plots.BLUE, capsize=5, label="share of arg max ± 2 s.e.")
ax.set(xlabel="category", xticks=range(1, 5), ylabel="share")
ax.legend(frameon=False)
plots.show(
    drawing,
    f"In {draws} draws the arg max gives {', '.join(f'{s:.1%}' for s in share)}; the largest distance from the "
    f"probability is {((share - p).abs() / error).max():.1f} standard errors.",
)

# %% [markdown]
# The shares are the probabilities, within the error of counting. This is exact, not an approximation.
#
# ## Exercise 1 · Gumbel-max (easy, 5 minutes)
#
# Write `gumbel_max(probabilities, uniform)`: from probabilities (K,) and uniform numbers (S, K) make S choices, each an
# index from 0. Make the Gumbel noise yourself.


# %% tags=["stub"]
def gumbel_max(probabilities, uniform):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Two logarithms and two minus signs make the noise. It is added to the logarithm of the probabilities, not to them.


# %% tags=["solution"]
def gumbel_max(probabilities, uniform):
    noise = -torch.log(-torch.log(uniform))
    return (probabilities.log() + noise).argmax(dim=1)


# %% tags=["check"]
checks.gumbel_max(gumbel_max)

# %% [markdown]
# ## The relaxed sample
#
# An arg max has no useful derivative. Replace it by a softmax at **temperature** τ:
# `z = softmax((log p + g) / τ)`. Now every sample is a mixture: entries between 0 and 1 that sum to one. For three
# categories it is a point in a triangle, whose corners are the hard choices.
#
# *Predict:* at which of the temperatures 0.1, 0.5, 1 and 5 do the samples keep to the corners, and when to the middle?

# %%
p = torch.tensor([0.6, 0.3, 0.1])
temperatures = (0.1, 0.5, 1.0, 5.0)
noise = gumbel_noise((400, 3), generator=generator(seed, "triangle"))
drawing, axes = plots.canvas(1, 4, height=3.3)
told = []
for temperature, ax in zip(temperatures, axes):
    z = relaxed_categorical(p.log(), temperature, noise)  # (400, 3)
    ax.fill(*CORNERS.T, facecolor="#f7f7f7", edgecolor=plots.INK)
    ax.plot(*(z.numpy() @ CORNERS).T, "o", color=plots.BLUE, ms=4, alpha=0.3, mew=0, label="samples")
    ax.plot(*(z.mean(0).numpy() @ CORNERS), "D", color=plots.ORANGE, ms=9, mec="white", label="their mean")
    ax.plot(*(p.numpy() @ CORNERS), "^", color=plots.INK, ms=10, mec="white", label="probabilities")
    for (x, y), name, side in zip(CORNERS, ("60 %", "30 %", "10 %"), ("left", "right", "center")):
        ax.text(x, y + 0.03 if y else -0.05, name, ha=side, va="bottom" if y else "top")
    ax.set(title=f"τ = {temperature:g}", aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.2, 1.0))
    ax.axis("off")
    told.append(f"{(z.max(1).values > 0.95).float().mean():.0%} at {temperature:g}")
drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
plots.show(drawing, f"Share of the samples with an entry above 0.95, as good as one-hot: {', '.join(told)}.")

# %% [markdown]
# A low temperature gives nearly hard choices, a high one nearly the same mixture every time. The largest entry of each
# sample is the same category at every temperature, for dividing by τ changes no order: *which* scheme wins does not
# depend on the temperature, *how much* it wins does. And the mean of the samples is not p, except towards τ = 0.
#
# ## Exercise 2 · The relaxed sample (easy, 5 minutes)
#
# Write `relaxed_sample(logits, noise, temperature)`: logits (K,), noise (S, K), the result (S, K). Logits need not be
# normalized; does it matter?


# %% tags=["stub"]
def relaxed_sample(logits, noise, temperature):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Noise and logits are added first. One division and one softmax along the categories follow. A constant that is added
# to all logits drops out of a softmax.


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
# * *temperature* to 0.1, then up to 5: the cloud leaves the corners for the middle. Watch where its mean goes.
# * *category* 3, *its logit* to 6, *temperature* 5: category 3 is nearly certain; look how far from its corner the
#   samples still stand.
# * *along the schedule* from 0 to 10: the paper's temperature. Where does the histogram jump back?

# %%
explorers.gumbel(temperature=0.5)

# %% [markdown]
# ## A gradient to compare with
#
# What should a gradient of the logits be? If scheme k costs the loss `L_k`, the expected loss is `sum p_k L_k`, and its
# gradient can be written down. It takes a quantization for every scheme, so a network with many tensors cannot have
# it. A small problem can: one tensor, twelve schemes.
#
# ## Exercise 3 · The exact gradient (medium, 8 minutes)
#
# Write `expected_gradient(logits, losses)`: the gradient of `sum p_k losses_k` with respect to the logits, where
# `p = softmax(logits)`. On paper first; autograd is allowed too.


# %% tags=["stub"]
def expected_gradient(logits, losses):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The derivative of p_j with respect to logit k is p_j (1 - p_j) for j = k and -p_j p_k otherwise. Multiply by L_j and
# sum over j: what is left is p_k times a difference.


# %% tags=["solution"]
def expected_gradient(logits, losses):
    p = torch.softmax(logits, 0)
    return p * (losses - (p * losses).sum())


# %% tags=["check"]
checks.expected_gradient(expected_gradient)

# %% [markdown]
# ## Bias and noise against temperature
#
# Now the gradient that relaxed samples give, for two losses of a sample z:
#
# * `sum z_k L_k`: a mixture of the *losses*. It still takes all twelve quantizations.
# * the loss of *one* quantization with the mixed step `sum z_k step_k` and the mixed threshold: what a block of HMQ
#   does.
#
# Each sample gives a gradient. Its **bias** is the distance of their mean from the exact gradient, its **noise** the
# spread of single ones around their mean. Both are divided by the length of the exact gradient.
#
# *Predict:* as the temperature falls, which of the two falls, and which rises?

# %%
x = weight.double().flatten()[::36]  # 256 weights
bits, exponents = torch.tensor([2.0, 3, 4]).double(), torch.tensor([0.0, -1, -2, -3]).double()
thresholds = (2**exponents).expand(3, 4).flatten()
step_sizes = thresholds / 2 ** (bits - 1).repeat_interleave(4)
relaxed = torch.vmap(relaxed_categorical, in_dims=(0, None, 0))  # a row of logits and of noise for every sample


def quantization_error(step, threshold):
    """Of x, over its sum of squares, for each of S steps and thresholds: (S,)."""
    q = quantize(x.expand(len(step), -1), step[:, None], threshold[:, None], signed=True)
    return (q - x).square().sum(1) / x.square().sum()


losses = quantization_error(step_sizes, thresholds)  # (12,)
logits = torch.zeros(12, dtype=torch.float64, requires_grad=True)
exact = torch.autograd.grad(torch.softmax(logits, 0) @ losses, logits)[0]
noise = gumbel_noise((samples, 12), generator=generator(seed, "gradients"), dtype=torch.float64)
print("losses from", f"{losses.min():.3f} to {losses.max():.3f}; exact gradient of length {exact.norm():.3f}")


# %%
def bias_and_noise(loss, temperature):
    rows = logits.detach().repeat(samples, 1).requires_grad_()  # a copy of the logits for every sample
    loss(relaxed(rows, temperature, noise)).sum().backward()
    mean = rows.grad.mean(0)
    spread = (rows.grad - mean).square().sum(1).mean().sqrt()
    return (mean - exact).norm() / exact.norm(), spread / exact.norm()


temperatures = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
cases = {
    "mixed losses": lambda z: z @ losses,
    "mixed step and threshold, as in HMQ": lambda z: quantization_error(z @ step_sizes, z @ thresholds),
}
found = {name: torch.tensor([bias_and_noise(loss, t) for t in temperatures]) for name, loss in cases.items()}

drawing, axes = plots.canvas(1, 2, height=3.8, sharey=True)
for ax, (name, values) in zip(axes, found.items()):
    ax.loglog(temperatures, values[:, 1], color=plots.ORANGE, marker="s", label="noise of one sample")
    ax.loglog(temperatures, values[:, 0], color=plots.BLUE, marker="o", label="bias")
    limit = values[:, 1] / math.sqrt(samples)
    ax.loglog(temperatures, limit, color=plots.INK, ls=":", label=f"noise of the mean of {samples}")
    ax.set(xlabel="temperature τ", title=name)
    ax.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    ax.minorticks_off()
axes[0].set_ylabel("of the exact gradient")
axes[0].legend(frameon=False)
one, hmq = found.values()
plots.show(
    drawing,
    f"From τ = 10 to 0.1 the noise of one sample grows from {one[-1, 1]:.2g} to {one[0, 1]:.2g} times the exact "
    f"gradient with mixed losses, and from {hmq[-1, 1]:.2g} to {hmq[0, 1]:.2g} times with HMQ's mixed parameters. "
    f"The bias goes from {one[-1, 0]:.2f} to {one[0, 0]:.2f} and from {hmq[-1, 0]:.2f} to {hmq[0, 0]:.2f}; at τ = 0.5 "
    f"it is {one[2, 0]:.2f} and {hmq[2, 0]:.2f}.",
)

# %% [markdown]
# With mixed losses the trade is the textbook one: a low temperature has little bias and much noise, a high one the
# other way round, until it hardly gives any gradient at all. With HMQ's mixed parameters a low temperature does not
# make the bias go away. The loss is no straight line in step and threshold, and the straight-through gradient (lesson
# 03) is not its derivative: as the samples become hard, what is left is the slope *at* a scheme, not the difference
# *between* two schemes. So its best temperature is neither end. How good is the direction?

# %%
for temperature in (0.5, 1.0):
    rows = logits.detach().repeat(samples, 1).requires_grad_()
    cases["mixed step and threshold, as in HMQ"](relaxed(rows, temperature, noise)).sum().backward()
    mean = rows.grad.mean(0)
    single = torch.cosine_similarity(rows.grad, exact[None], dim=1)
    print(
        f"τ = {temperature}: cosine with the exact gradient {torch.cosine_similarity(mean, exact, dim=0):.3f} "
        f"for the mean, {single.mean():.2f} on average for one sample"
    )

# %% [markdown]
# ## Schedules
#
# A search can begin warm, to see far, and end cool, to see what a hard choice is like. The paper lets the temperature
# fall from 1 to a floor of 0.5 and starts again every five epochs: `τ = max(0.5, exp(-0.01 round(i / n)))`, where `i`
# is the step within the cycle and `n` a 25th of the steps of an epoch.

# %%
per_epoch = 100
shown = {
    "constant": Constant(0.75),
    "exponential with a floor": Exponential(rate=0.01 * 25 / per_epoch, floor=0.5),
    "the paper's cycles": Cycles(per_epoch),
}
drawing, ax = plots.canvas(height=3)
epochs = torch.arange(15 * per_epoch) / per_epoch
for (name, schedule), colour, line in zip(shown.items(), (plots.GREEN, plots.BLUE, plots.ORANGE), ("--", "-", ":")):
    width = 5 if line == "-" else 2.5
    ax.plot(epochs, [schedule(i) for i in range(15 * per_epoch)], color=colour, ls=line, lw=width, label=name)
ax.set(xlabel="epoch", ylabel="temperature τ", ylim=(0, 1.05))
ax.legend(frameon=False, ncols=3, loc="lower left")
floor = next(i for i in range(5 * per_epoch) if Cycles(per_epoch)(i) == 0.5) / per_epoch
plots.show(
    drawing, f"The cycles fall to their floor of 0.5 within {floor:.2f} epochs, stay there, and begin again at 5."
)

# %% [markdown]
# ## Exercise 4 · The paper's cycles (medium, 8 minutes)
#
# Write `cycle_temperature(step, steps_per_epoch)`: the temperature at a step, counted from 0.


# %% tags=["stub"]
def cycle_temperature(step, steps_per_epoch):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The remainder of a division gives the step within the cycle. A cycle has 5 * 25 updates of the temperature.


# %% tags=["solution"]
def cycle_temperature(step, steps_per_epoch):
    i = step % (5 * steps_per_epoch)
    n = steps_per_epoch / 25
    return max(0.5, math.exp(-0.01 * round(i / n)))


# %% tags=["check"]
checks.cycle_temperature(cycle_temperature)

# %% [markdown]
# ## What a restart buys
#
# The paper gives no measurement of its restarts, so here is a small one. A made-up tensor has one large weight and 511
# small ones. With 2 bits, a threshold that keeps the large weight loses the small ones, and the other way round: two
# valleys. We start like the paper, with 95 % on the largest threshold, in the wrong valley, and let the block learn its
# logits under seven schedules.
#
# *Predict:* which schedules get out? Does a restart help one that has cooled down?

# %%
quantiles = (torch.arange(511) + 0.5) / 511
small = 0.05 * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)  # the quantiles of a normal distribution
x = torch.cat((small, torch.tensor([-1.0])))
thresholds = 2.0 ** -torch.arange(8)
step_sizes = thresholds / 2
landscape = quantization_error(step_sizes, thresholds)
best = int(landscape.argmin())
print("error below 2^0, 2^-1, ...:", [round(v, 3) for v in landscape.tolist()])


def learn(schedule):
    """Thresholds that `runs` searches end with, as octaves below the largest."""
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


# %%
per_epoch = steps / 10  # ten epochs
schedules = {
    "constant 0.1": Constant(0.1),
    "constant 0.5": Constant(0.5),
    "constant 1": Constant(1.0),
    "one decay to 0.5": Exponential(rate=0.25 / per_epoch, floor=0.5),
    "two cycles to 0.5": Cycles(round(per_epoch)),
    "one decay to 0.1": Exponential(rate=0.5 / per_epoch, floor=0.1),
    "two cycles to 0.1": Cycles(round(per_epoch), rate=0.02, floor=0.1),
}
ends = {name: learn(schedule) for name, schedule in schedules.items()}

drawing, (left, right) = plots.canvas(1, 2, height=3.8, width_ratios=(1, 1.3))
names = [f"$2^{{{-k}}}$" for k in range(8)]
left.plot(range(8), landscape, color=plots.BLUE, marker="o")
left.plot(0, landscape[0], "s", color=plots.RED, ms=12, mfc="none", mew=2, label="start")
left.plot(best, landscape[best], "D", color=plots.GREEN, ms=13, mfc="none", mew=2, label="best")
left.set(xlabel="threshold", ylabel="error of the hard choice", xticks=range(8), xticklabels=names)
left.legend(frameon=False)
told, labels = [], []
for at, (name, end) in enumerate(ends.items()):
    errors, hit = landscape[end], (end == best).float().mean()
    spread = 2 * errors.std() / math.sqrt(runs)
    right.errorbar(errors.mean(), at, xerr=spread, fmt="o", color=plots.BLUE, capsize=5)
    labels.append(f"{name} ({hit:.0%})")
    told.append(f"{name} {errors.mean():.3f} ± {spread:.3f} and {hit:.0%}")
right.axvline(landscape[0], color=plots.RED, ls="--", label="start")
right.axvline(landscape[best], color=plots.GREEN, ls=":", label="best")
right.set(xlabel=f"error of the selection, mean of {runs} runs ± 2 s.e.", yticks=range(7), yticklabels=labels)
right.set_title("in brackets: share of the runs that found the best")
right.invert_yaxis()
right.legend(frameon=False)
plots.show(drawing, f"Mean error ± 2 standard errors, and share of runs that found the best: {'; '.join(told)}.")

# %% [markdown]
# What these runs show, with the seed as it is: at a constant 0.1 no run leaves its start, for nearly every sample *is*
# the start. Cooled down to 0.1 once, few get away. A restart sets many of them free; but those that miss the best
# threshold end, on average, in a worse place than they began, and the mean error stays within the error bars of the one
# decay. With the paper's floor of 0.5 nothing freezes, and one decay and two cycles cannot be told apart. So a restart
# undoes a freeze; that the paper's schedule, which stays warm, needs its restarts is not shown by this tensor.
#
# ## Summary
#
# * Arg max of log-probability plus Gumbel noise is an exact draw; the softmax at a temperature is its soft version.
# * The temperature changes how hard a sample is, never which category leads it.
# * Low: noisy gradients. High: biased ones, and mixtures that no hardware has. With HMQ's mixed parameters some bias
#   stays at every temperature, though the mean gradient points much the same way as the exact one.
# * The paper's schedule falls from 1 to 0.5 and starts again every five epochs. A restart undoes a freeze; at a floor
#   of 0.5 there was none to undo.
#
# ## To talk about
#
# * Evaluation uses no noise at all. Why is noise needed in training, when the softmax alone is differentiable?
# * A block has 64 cells, here there were 12 or 8. What does that do to how hard a sample at τ = 0.5 is? (The explorer
#   takes any logits.)
# * The restarts were tried on one made-up tensor. Which measurement on a network would convince you, either way?
#
# **In the paper:** the relaxation is part of sections 3.2 to 3.4; the schedule belongs to the search of section 4, its
# exact form to the authors' code. **Differences:** none in the sampling. The comparison with the exact gradient and the
# measurement of the restarts are ours.
