# %% [markdown]
# # Straight-through gradients
#
# A quantizer is a staircase. It is flat almost everywhere, so its derivative is 0, and gradient
# descent cannot use it. One assumption, "rounding has the slope 1", makes weights, step and
# threshold learnable. This lesson shows what the assumption makes possible, where it differs from
# the truth, and why the end levels decide whether a 1-bit tensor can learn.
#
# **Minutes:** 40 (20 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# lessons 01 and 02; the chain rule; what `backward()` does
#
# **After this you can**
#
# * say why the true derivative of a quantizer stops learning, and what straight-through uses,
# * write down the derivatives by x, by the step and by the threshold, inside and outside the range,
# * check them against finite differences, and name the two places where they differ,
# * predict what descent does with step and threshold, free or tied together by a bit-width,
# * explain why the released code gives a 1-bit tensor no gradient, and what inclusive bounds change.
# %% tags=["parameters"] quick={"iterations": 10, "training_steps": 2, "seed": 3}
# Parameters: steps of the small descents and of the training, and the seed of its images.
iterations = 200
training_steps = 60
seed = 0
# %%
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from hmq_lab import Scheme, checks, data, explorers, models, plots, quantize
from hmq_lab.models.weights import SHIPPED, load_weights
from hmq_lab.plots.lessons import lesson03 as figures

predict = checks.predictions("03")
network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(f"the layer used here: {weight.numel():,} weights")
print(f"they lie between {weight.min():.3f} and {weight.max():.3f}")
# %% [markdown]
# ## The derivative of a staircase
#
# To train through a quantizer we need to know: if x grows a little, by how much does Q(x) grow?
#
# *Predict:* take 2,000 points between -1.5 and 1.5 and move each of them by a hundredth. At what
# share of them does Q(x) change, in percent?
# %%
changed = predict("changed", low=0, high=100)
# %%
scheme = Scheme(bits=3, threshold_exponent=0, signed=True)


def q(x, step=scheme.step, threshold=scheme.threshold):
    return quantize(x, step, threshold, signed=True)


x = torch.linspace(-1.5, 1.5, 2000, dtype=torch.float64)


def difference(width):
    """Slope between two points at this distance, x in the middle."""
    return (q(x + width / 2) - q(x - width / 2)) / width


narrow, wide = difference(0.01), difference(scheme.step)
points = x.clone().requires_grad_()
q(points).sum().backward()
plots.show(figures.staircase_and_slopes(x, q(x), narrow, wide, points.grad))
changed.result(f"{100 * (narrow != 0).float().mean():.1f} %")
# %% [markdown]
# Gradient descent with the true derivative, 0, never moves. The **straight-through estimator** uses
# the slope seen from further away: inside the range it is 1, outside it is 0.
#
# ## One assumption, three derivatives
#
# Write the quantizer with its parts. Let $u = x / \Delta$ and $r = \operatorname{round}(u)$, and let
# the bounds be $lo = -t / \Delta$ (unsigned: 0) and $hi = t / \Delta - 1$. Then
#
# $$Q(x) = \begin{cases} r\,\Delta & lo \le r \le hi \quad \text{(inside)} \\
# t - \Delta & r > hi \quad \text{(above)} \\
# -t \ \text{(unsigned: 0)} & r < lo \quad \text{(below)} \end{cases}$$
#
# Assume that round has the slope 1, and use the chain rule for the rest:
#
# | where | $\partial Q / \partial x$ | $\partial Q / \partial \Delta$ | $\partial Q / \partial t$ |
# |---|---|---|---|
# | inside | 1 | $r - x / \Delta$ | 0 |
# | above | 0 | -1 | 1 |
# | below, signed | 0 | 0 | -1 |
# | below, unsigned | 0 | 0 | 0 |
#
# Two details. The bounds are *inclusive*. And they are real numbers: an HMQ block mixes steps and
# thresholds, so $t / \Delta$ need not be an integer.
#
# *Predict:* with step 0.25 and threshold 1, what is $\partial Q / \partial x$ at x = 0.85 and at
# x = 0.9?
# %%
two_slopes = predict("two-slopes", "1 and 1", "1 and 0", "0 and 0")


# %%
def slopes(x, step, threshold, signed):
    """The derivatives of Q by x, step and threshold, for each element of x."""
    parts = [x.clone(), torch.full_like(x, step), torch.full_like(x, threshold)]
    for part in parts:
        part.requires_grad_()
    quantize(*parts, signed).sum().backward()
    return [part.grad for part in parts]


print("    x     Q(x)  dQ/dx  dQ/dstep  dQ/dthreshold")
few = torch.tensor([0.3, 0.85, 0.9, -2.0])
by_x, by_step, by_threshold = slopes(few, scheme.step, scheme.threshold, signed=True)
for row in zip(few, q(few), by_x, by_step, by_threshold):
    print("{:6.2f} {:7.2f} {:5.0f} {:9.2f} {:10.0f}".format(*row))
two_slopes.result(f"{by_x[1]:.0f} and {by_x[2]:.0f}")
# %% [markdown]
# 0.85 is rounded to the last level, 0.75, and is inside. 0.9 is rounded to 1, which does not exist:
# it is clipped.


# %% [markdown]
# ## Exercise 1 · By x (easy, 4 minutes)
#
# Write `gradient_x(x, step, threshold, signed)`: the straight-through derivative dQ/dx of every
# element of the tensor `x`, in its shape. The bounds are real numbers and inclusive. Do not call
# `quantize`.
# %% tags=["stub"]
def gradient_x(x, step, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Compare `round(x / step)`, not x, with lo and hi above.
# %% tags=["solution"]
def gradient_x(x, step, threshold, signed):
    r = (x / step).round()
    low = -threshold / step if signed else 0
    return ((r >= low) & (r <= threshold / step - 1)).double()


# %% tags=["check"]
checks.gradient_x(gradient_x)


# %% [markdown]
# ## Exercise 2 · By the step (medium, 5 minutes)
#
# Write `gradient_step(x, step, threshold, signed)`: the straight-through derivative dQ/dstep of
# every element.
# %% tags=["stub"]
def gradient_step(x, step, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Three cases: inside, above, below. One `torch.where` may stand in another.
# %% tags=["solution"]
def gradient_step(x, step, threshold, signed):
    r = (x / step).round()
    low = -threshold / step if signed else 0
    inside = torch.where(r < low, 0.0, r - x / step)
    return torch.where(r > threshold / step - 1, -1.0, inside)


# %% tags=["check"]
checks.gradient_step(gradient_step)


# %% [markdown]
# ## Against finite differences
#
# Now move the step and the threshold a little instead of x, and compare with the true function. We
# take 1.1 for the threshold, as an HMQ block may mix it. (If the threshold is exactly 4 steps, a
# value that rounds to an end level is at a kink. It is inside if the threshold grows, and clipped
# if the threshold falls. So the true function has two slopes there, and "inclusive" is a choice.)
#
# *Predict:* the formulas assume something false about rounding. Where do they differ from the truth?
# %%
false_where = predict(
    "false-where", "by the threshold", "by the step, where x is clipped", "by the step, inside"
)
# %%
h, step, threshold = 1e-6, 0.25, 1.1
true_step = (q(x, step + h, threshold) - q(x, step - h, threshold)) / (2 * h)
true_threshold = (q(x, step, threshold + h) - q(x, step, threshold - h)) / (2 * h)
_, by_step, by_threshold = slopes(x, step, threshold, signed=True)
u = x / step
calm = (u - u.floor() - 0.5).abs() > 1e-3  # no jump nearby: at one, a difference is no slope
within = calm & (u.round() >= -threshold / step) & (u.round() <= threshold / step - 1)


def gap(a, b, where):
    return (a - b)[where].abs().max().item()


gaps = {
    "by the threshold": gap(by_threshold, true_threshold, calm),
    "by the step, where x is clipped": gap(by_step, true_step, calm & ~within),
    "by the step, inside": gap(by_step, true_step, within),
    "by the step, inside, x / step added": gap(by_step + u, true_step, within),
}
for name, largest in gaps.items():
    print(f"largest gap {name:36s}{largest:.2f}")
pair, other = (by_step, true_step), (by_threshold, true_threshold)
plots.show(figures.derivatives(x, calm, within, pair, other))
false_where.result(max(gaps, key=gaps.get))
# %% [markdown]
# Where no rounding takes part, the formulas are true. They differ from the truth in two places, both
# because of the same assumption: dQ/dx inside is 1 and not 0, and dQ/dstep inside is
# $r - x / \Delta$ and not $r$.
#
# Why is the second one useful? Let the step grow by 1 %. If no value crosses a jump, every level
# moves away from 0 by 1 %; this gives the true derivative, $r$. But in a tensor some values *do*
# cross a jump, to a level nearer to 0, and this works in the other direction. The derivative at one
# point does not see these jumps; the straight-through derivative includes their mean effect.
#
# ## Does the slope point downhill?
#
# Take the squared error of the layer and its derivative by the step. We get the true value by moving
# the step by 2 % to either side.
#
# *Predict:* for which steps is the straight-through slope nearer to the true one?
# %%
nearer = predict("nearer-for", "fine steps", "coarse steps")
# %%
reach = 0.5  # the threshold; nothing in the layer exceeds it


def error(step):
    quantized = quantize(weight.double(), step, reach, True)
    return (quantized - weight).square().sum() / weight.square().sum()


steps = torch.logspace(-7, -2, 51, base=2, dtype=torch.float64)
straight, true = [], []
for size in steps:
    s = size.clone().requires_grad_()
    error(s).backward()
    straight.append((s.grad * size).item())  # times the step: for a relative change of it
    true.append(((error(size * 1.02) - error(size / 1.02)) / (2 * math.log(1.02))).item())
straight, true = np.array(straight), np.array(true)
plots.show(figures.slopes_of_error(steps, true, straight))
nearer.result(figures.better_where(*figures.ratios(steps, true, straight)))


# %% [markdown]
# It is an estimate: good for fine steps, rough for coarse ones. Above all, descent needs the right
# sign.
#
# ## Descent that learns both
#
# Let descent choose step and threshold so that the layer's squared error becomes small. It learns
# their logarithms, so that both stay positive.
#
# *Predict:* start with 3 bits and the threshold 1/2, and leave *both* free. What happens to the
# number of levels?
# %%
free_levels = predict("free-levels", "it grows", "it stays", "it falls")


# %%
def descend(threshold, bits, free):
    """Learn the threshold, and the step if it is free; give both and the error."""
    logs = torch.tensor([math.log2(threshold / 2 ** (bits - 1)), math.log2(threshold)])
    logs.requires_grad_()
    optimizer = torch.optim.Adam([logs], lr=0.05)
    path = []
    for _ in range(iterations):
        t = 2 ** logs[1]
        s = 2 ** logs[0] if free else t / 2 ** (bits - 1)
        quantized = quantize(weight, s, t, signed=True)
        loss = (quantized - weight).square().sum() / weight.square().sum()
        path.append((s.item(), t.item(), loss.item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(path).T


# %%
free = descend(0.5, bits=3, free=True)
levels = np.log2(2 * free[1] / free[0])
print(f"step {free[0][0]:.4f} -> {free[0][-1]:.4f}")
print(f"threshold {free[1][0]:.3f} -> {free[1][-1]:.3f}")
print(f"bits, log2(2 threshold / step): {levels[0]:.1f} -> {levels[-1]:.1f}")
print(f"error {free[2][0]:.2%} -> {free[2][-1]:.4%}")
grown = levels[-1] - levels[0]
free_levels.result("it grows" if grown > 0.05 else "it falls" if grown < -0.05 else "it stays")
# %% [markdown]
# The error alone always wants more levels: inside the range its derivative by the step is never
# negative. The error does not know that bits cost something. HMQ adds this price. Step and threshold
# are expected values over a table of schemes, and a second term of the loss counts the bits.
#
# Now tie the step to the threshold with a fixed number of bits, $\Delta = t / 2^{b-1}$, as in every
# signed scheme.
#
# *Predict:* start once far above and once far below the best threshold of lesson 02, with 2 and with
# 4 bits. Which descents end near the best threshold?
# %%
arriving = predict("arriving", "all of them", "those from above", "those from below", "none")
# %%
starts = (2.0**0, 2.0**-6)
tied = {}
for bits in (2, 4):
    for start in starts:
        _, tied[bits, start], _ = descend(start, bits, free=False)
grid = torch.logspace(-7, 0, 281, base=2)
best = {}
for bits in (2, 4):
    lost = []
    for t in grid:
        quantized = quantize(weight, t / 2 ** (bits - 1), t, True)
        lost.append((quantized - weight).square().sum().item())
    best[bits] = grid[int(np.argmin(lost))].item()
plots.show(figures.descents(levels, tied, best))
arriving.result(figures.how_many_arrive(tied, best))


# %% [markdown]
# Clipped values pull the threshold up, rounded values push it down. Descent stops where the two
# effects are equal. This may differ from the best threshold, because the slopes are estimates. With
# fewer bits the estimate is rougher.


# %% [markdown]
# ## Exercise 3 · By a threshold that takes the step with it (harder, 7 minutes)
#
# Write `gradient_tied(x, bits, threshold, signed)`: the straight-through derivative of Q by the
# threshold of every element. The bits are fixed and the step follows: 2 threshold / 2^bits signed,
# threshold / 2^bits unsigned.
# %% tags=["stub"]
def gradient_tied(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The chain rule: dQ/dthreshold + dQ/dstep · dstep/dthreshold. Exercise 2 gives dQ/dstep.
# %% tags=["solution"]
def gradient_tied(x, bits, threshold, signed):
    step = threshold / 2 ** (bits - signed)
    r = (x / step).round()
    above = r > threshold / step - 1
    below = r < (-threshold / step if signed else 0)
    by_threshold = above.double() - (below.double() if signed else 0)
    return by_threshold + gradient_step(x, step, threshold, signed) * step / threshold


# %% tags=["check"]
checks.gradient_tied(gradient_tied)
# %% [markdown]
# ## A weight that cannot rest
#
# Let one number x learn so that Q(x) = 0.3. The levels are 0.25 apart, so 0.3 is none of them.
#
# *Predict:* where does x end?
# %%
ends_where = predict("ends-where", "where Q(x) = 0.25", "where Q(x) = 0.5", "it never rests")
# %%
number = torch.tensor(0.6, requires_grad=True)
visited = []
for _ in range(max(iterations, 100)):
    value = q(number)
    visited.append(value.item())
    (value - 0.3).square().backward()
    with torch.no_grad():
        number -= 0.1 * number.grad
        number.grad = None
last = visited[-100:]
jump = (math.floor(number.item() / 0.25) + 0.5) * 0.25
print(f"x is {number.item():.3f}; the nearest jump of Q is at {jump:.3f}")
print("the last ten values of Q:", [round(v, 2) for v in visited[-10:]])
print(
    f"levels in the last 100 iterations: {sorted(set(last))}, their mean {np.mean(last):.3f}"
)
ends_where.result(f"where Q(x) = {last[0]:g}" if len(set(last)) == 1 else "it never rests")


# %% [markdown]
# Below the jump the gradient moves x up, above the jump it moves x down. So x swings around the
# place where Q jumps. The *mean* of Q over many iterations is near 0.3. This is the price of an
# assumed slope. With a smaller learning rate the swings are shorter; they do not end.
#
# ## One bit, and the end levels
#
# The released code differs in one point: a value that rounds *to* an end level gets no gradient. It
# asks $lo < r < hi$ where we ask $lo \le r \le hi$.
#
# *Predict:* what share of the layer's weights gets no gradient under this strict rule with 1 bit, in
# percent?
# %%
without_gradient = predict("without-gradient", low=0, high=100)


# %%
def kept(bits, exponent, strict):
    """The weights that get a gradient."""
    s = Scheme(bits, exponent, signed=True)
    low, high = s.integers
    r = (weight / s.step).round()
    return (r > low) & (r < high) if strict else (r >= low) & (r <= high)


# %%
# The best ones, lesson 02.
exponents = {8: -1, 7: -1, 6: -1, 5: -2, 4: -2, 3: -2, 2: -2, 1: -3}
shares = {}
for bits, exponent in exponents.items():
    rules = [kept(bits, exponent, strict).float().mean().item() for strict in (False, True)]
    shares[bits] = tuple(rules)
print("bits        ", *(f"{b:6d}" for b in shares))
print("inclusive   ", *(f"{ours:6.1%}" for ours, _ in shares.values()))
print("strict      ", *(f"{theirs:6.1%}" for _, theirs in shares.values()))
without_gradient.result(f"{100 * (1 - shares[1][1]):.1f} %")
# %% [markdown]
# With one bit, *both* levels are end levels: under the strict rule no weight has a gradient. If a
# search gives a weight tensor one bit, the tensor does not change any more, whatever the loss says.
# (The same holds for the released range: its two 1-bit levels, 0 and $t$, are its ends.)
#
# Does it matter? Give the network's last layer one bit, leave everything else float, and train only
# this layer, once with each rule. The forward pass is the same; only the gradient differs.
#
# *Predict:* what does the loss do under the strict rule?
# %%
strict_loss = predict("strict-loss", "it falls", "it stays", "it rises")
# %%
name = "linear.weight"
builtin = data.load("builtin")
one_bit = Scheme(bits=1, threshold_exponent=-1, signed=True)  # the best threshold, lesson 02


def one_bit_weight(w, strict):
    """One bit forwards; backwards the slope is 1 where the rule allows it."""
    quantized = quantize(w, one_bit.step, one_bit.threshold, signed=True)
    if not strict:
        return quantized
    r = (w.detach() / one_bit.step).round()
    low, high = one_bit.integers
    through = ((r > low) & (r < high)).float()
    return quantized.detach() + through * (w - w.detach())


def outputs(w, strict, inputs):
    return functional_call(network, {name: one_bit_weight(w, strict)}, (inputs,))


# %%
def train(strict):
    """Losses of the steps, share of weights that moved, test accuracy."""
    start = network.get_parameter(name).detach()
    w = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.01)
    batches = builtin.train.batches(128, seed=seed)
    losses = []
    for _ in range(training_steps):
        inputs, classes = next(batches)
        loss = F.cross_entropy(outputs(w, strict, inputs), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    test, labels = next(builtin.test.batches(1000))
    with torch.no_grad():
        right = outputs(w, strict, test).argmax(1) == labels
    moved = (w.detach() != start).float().mean().item()
    return losses, moved, 100 * right.float().mean().item()


# %%
for parameter in network.parameters():
    parameter.requires_grad_(False)
runs = {"inclusive": train(strict=False), "strict": train(strict=True)}
plots.show(figures.one_bit_training(shares, runs, 1000))
strict_loss.result(figures.loss_goes(runs["strict"][0]))
# %% [markdown]
# ## Explore: who gets a gradient
#
# The shaded parts of the histogram are the clipped values. They get no gradient themselves, and only
# they pull the threshold up.
#
# Three settings worth trying:
#
# 1. *8 bits, threshold 2^-1.* Nothing is shaded: every weight has slope 1, and nothing pulls the
#    threshold up.
# 2. *3 bits, threshold down to 2^-4.* More and more is shaded. The error of clipping is what pulls
#    the threshold up again.
# 3. *1 bit, threshold 2^-3.* Weights that round to more than 0 are shaded: weights above half of
#    the threshold get no gradient. Which of the negative weights get none?
# %%
explorers.quantizer(weight, bits=3, exponent=-2)
# %% [markdown]
# ## Summary
#
# * The true derivative of a quantizer by x is 0 almost everywhere: with it, descent does not move.
# * Straight-through assumes that rounding has the slope 1. Inside the range dQ/dx is 1 and dQ/dstep
#   is r - x / step; all other derivatives are exact.
# * For a whole tensor the estimate is good for fine steps and rough for coarse ones.
# * Squared error alone always wants more levels: bits need a price. With the bits fixed, descent
#   comes near the best threshold.
# * Bounds must be inclusive: a strict test leaves a 1-bit tensor without any gradient.
#
# ## To talk about
#
# * The gradient by the step is a sum over a whole tensor, that by x is not. What does this mean for
#   the sizes of the two, and for the learning rates?
# * Clipped weights get no gradient from the loss. What else moves them in training? Is that good or
#   bad?
# * A weight swings around a jump. Would you lower its learning rate, freeze it, or leave it? What
#   does the mean over the swings mean for a network that is deployed?
# * Could one use noise instead: add random numbers before rounding, and take the derivative of the
#   mean?
#
# **In the paper:** section 3.1 has the quantizer and its straight-through gradient. The block learns
# step and threshold, lesson 05. **Differences:** the bounds are inclusive here; the released code
# compares the rounded value strictly with the end levels.
