# %% [markdown]
# # Straight-through gradients
#
# A staircase is flat, so its derivative is of no use; one assumption, "rounding has the slope 1", makes weights, step
# and threshold learnable. What the assumption buys, where it departs from the truth, and why a detail at the end
# levels decides whether 1-bit tensors can learn at all.
#
# **Minutes:** 40 (15 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** lessons 01 and 02;
# the chain rule; what `backward()` does
#
# **After this you can**
#
# * say why the true derivative of a quantizer stops learning, and what straight-through puts in its place,
# * write down the derivatives by x, by the step and by the threshold, inside and outside the range,
# * check them against finite differences, and name the two places where they differ,
# * predict what descent does with a step and a threshold that are free, and with ones that a bit-width ties together,
# * explain why the released code gives a 1-bit tensor no gradient, and what inclusive bounds change.
# %% tags=["parameters"] quick={"iterations": 10, "training_steps": 2}
# Parameters: steps of the small descents and of the training, and the seed of the training's pictures.
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

network = models.build("tiny_resnet8").eval()
load_weights(network, SHIPPED / "builtin_tiny_resnet8.safetensors")
weight = network.layer3[0].conv2.weight.detach()
print(f"the layer used here: {weight.numel():,} weights from {weight.min():.3f} to {weight.max():.3f}")
# %% [markdown]
# ## The derivative of a staircase
#
# To train through a quantizer we need to know: if x grows a little, by how much does Q(x) grow?
#
# *Predict:* take 2,000 points between -1.5 and 1.5 and move each by a hundredth. At how many of them does Q(x)
# change? And what is the slope if you move by a whole step instead, half of it to either side?
# %%
scheme = Scheme(bits=3, threshold_exponent=0, signed=True)


def q(x, step=scheme.step, threshold=scheme.threshold):
    return quantize(x, step, threshold, signed=True)


x = torch.linspace(-1.5, 1.5, 2000, dtype=torch.float64)


def difference(width):
    """Slope between two points around x, so far from each other."""
    return (q(x + width / 2) - q(x - width / 2)) / width


narrow, wide = difference(0.01), difference(scheme.step)
inside = (x > -1 + scheme.step) & (x < 0.75 - scheme.step)
print(
    f"moved by 0.01: the slope is 0 at {(narrow == 0).float().mean():.1%} of the points, {narrow.max():,.0f} at "
    "the others"
)
print(
    f"moved by a step: between {wide[inside].min():.3f} and {wide[inside].max():.3f} at all points well inside the "
    "range"
)
# %%
drawing, (left, right) = plots.canvas(1, 2, height=3.4)
left.plot(x, x, color=plots.INK, lw=1, ls=":", label="x")
left.plot(x, q(x), color=plots.BLUE, lw=2, label="Q(x)")
left.set(xlabel="x", ylabel="Q(x)")
left.legend(frameon=False)
points = x.clone().requires_grad_()
q(points).sum().backward()
right.plot(x, narrow.clamp(max=3), color=plots.BLUE, lw=1, label="moved by 0.01 (cut off at 3)")
right.plot(x, wide, color=plots.GREEN, lw=4, alpha=0.5, label="moved by one step")
right.plot(x, points.grad, color=plots.ORANGE, ls="--", label="straight-through")
right.set(xlabel="x", ylabel="slope", ylim=(-0.1, 4.6))
right.legend(frameon=False, loc="upper center")
agree = (wide - points.grad).abs() < 1e-6
plots.show(
    drawing,
    "Seen closely, the staircase is flat almost everywhere and has spikes at the jumps. Seen a step wide its "
    "slope is 1 inside the range and 0 outside; the straight-through gradient is the same at "
    f"{agree.float().mean():.0%} of the points, the others are within half a step of an end.",
)


# %% [markdown]
# That is the idea. Gradient descent that believes the true derivative, 0, never moves. The *straight-through
# estimator* takes the view from further away: inside the range Q(x) follows x with slope 1, outside it does not
# follow at all.
#
# ## One assumption, three derivatives
#
# Write the quantizer with its parts: with u = x / step and r = round(u),
#
# * Q = r · step where lo <= r <= hi, with lo = -threshold / step (unsigned: 0) and hi = threshold / step - 1,
# * Q = threshold - step where r > hi,
# * Q = -threshold (unsigned: 0) where r < lo.
#
# Assume that round has the slope 1 and let the chain rule do the rest:
#
# | where | dQ/dx | dQ/dstep | dQ/dthreshold |
# |---|---|---|---|
# | inside | 1 | r - x / step | 0 |
# | above | 0 | -1 | 1 |
# | below, signed | 0 | 0 | -1 |
# | below, unsigned | 0 | 0 | 0 |
#
# Two details: the bounds are *inclusive*, and they are real numbers, for an HMQ block mixes steps and thresholds so
# that threshold / step need not be an integer.
#
# *Predict:* with step 0.25 and threshold 1, what are the three derivatives at x = 0.3, at 0.85, at 0.9 and at -2?
# %%
def slopes(x, step, threshold, signed):
    """The derivatives of Q by x, step and threshold for each element: each gets a step and a threshold of its own."""
    values = [x.clone(), torch.full_like(x, step), torch.full_like(x, threshold)]
    for value in values:
        value.requires_grad_()
    quantize(*values, signed).sum().backward()
    return [value.grad for value in values]


print("    x     Q(x)  dQ/dx  dQ/dstep  dQ/dthreshold")
few = torch.tensor([0.3, 0.85, 0.9, -2.0])
for row in zip(few, q(few), *slopes(few, scheme.step, scheme.threshold, signed=True)):
    print("{:6.2f} {:7.2f} {:5.0f} {:9.2f} {:10.0f}".format(*row))
# %% [markdown]
# 0.85 rounds onto the last level, 0.75, and is inside; 0.9 rounds to 1, which is not there: it is clipped.
#
# ## Against finite differences
#
# Now nudge the step and the threshold instead of x, and compare with the true function. We take 1.1 for the
# threshold, as an HMQ block may mix it. (With a threshold of exactly 4 steps all that rounds onto an end level stands
# on a kink: nudged up it is inside, nudged down it is clipped. There the truth has two slopes, and "inclusive" is a
# choice.)
#
# *Predict:* the formulas assume something false about rounding. In which of the four lines below will that show?
# %%
h, step, threshold = 1e-6, 0.25, 1.1
true_step = (q(x, step + h, threshold) - q(x, step - h, threshold)) / (2 * h)
true_threshold = (q(x, step, threshold + h) - q(x, step, threshold - h)) / (2 * h)
_, by_step, by_threshold = slopes(x, step, threshold, signed=True)
u = x / step
calm = (u - u.floor() - 0.5).abs() > 1e-3  # no jump nearby: at one, a difference is no derivative
within = calm & (u.round() >= -threshold / step) & (u.round() <= threshold / step - 1)


def gap(a, b, where):
    return f"{(a - b)[where].abs().max():.2f}"


print("largest gap by the threshold, everywhere:        ", gap(by_threshold, true_threshold, calm))
print("largest gap by the step, where x is clipped:     ", gap(by_step, true_step, calm & ~within))
print("largest gap by the step, inside:                 ", gap(by_step, true_step, within))
print("largest gap by the step, inside, x / step added: ", gap(by_step + u, true_step, within))
# %%
drawing, (left, right) = plots.canvas(1, 2, height=3.4)
gaps = torch.where(calm, true_step, math.nan)  # a line with holes where there is no derivative
left.plot(x, gaps, color=plots.BLUE, lw=2, label="true derivative: r inside")
left.plot(x, by_step, color=plots.ORANGE, ls="--", lw=1.6, label="straight-through: r - x / step")
left.set(xlabel="x", ylabel="dQ/dstep", ylim=(-4.6, 5.6))
left.legend(frameon=False, loc="upper left")
right.plot(x, torch.where(calm, true_threshold, math.nan), color=plots.BLUE, lw=4, alpha=0.5, label="true derivative")
right.plot(x, by_threshold, color=plots.ORANGE, ls="--", label="straight-through")
right.set(xlabel="x", ylabel="dQ/dthreshold", ylim=(-1.5, 2))
right.legend(frameon=False, loc="upper left")
plots.show(
    drawing,
    "By the threshold the two agree; by the step they agree outside the range. Inside, the true derivative is r, "
    f"up to {true_step[within].abs().max():.0f} here, and straight-through gives r - x / step, at most "
    f"{by_step[within].abs().max():.2f}.",
)
# %% [markdown]
# Where no rounding is involved, the formulas are the plain truth. They differ from it in two places, both by the same
# assumption: dQ/dx inside is 1 and not 0, dQ/dstep inside is r - x / step and not r.
#
# Why is the second one sensible? If the step grows by 1 % and no value crosses a jump, every level moves away from 0
# by 1 %: that is the true derivative, r. But in a tensor some values *do* cross, to a level nearer to 0, and make up
# for it. The derivative at one point does not see them; straight-through counts them in.
#
# ## Does the slope point downhill?
#
# Take the squared error of the layer and the derivative of that by the step. Its true value we get by moving the step
# by 2 % to either side.
#
# *Predict:* will the two curves agree better for fine steps (many levels) or for coarse ones?
# %%
reach = 0.5  # the threshold; nothing in the layer exceeds it


def error(step):
    return (quantize(weight.double(), step, reach, True) - weight).square().sum() / weight.square().sum()


steps = torch.logspace(-7, -2, 51, base=2, dtype=torch.float64)
straight, true = [], []
for size in steps:
    s = size.clone().requires_grad_()
    error(s).backward()
    straight.append((s.grad * size).item())  # times the step: per relative change of it
    true.append(((error(size * 1.02) - error(size / 1.02)) / (2 * math.log(1.02))).item())
straight, true = np.array(straight), np.array(true)
# %%
drawing, ax = plots.canvas(height=3.4)
ax.plot(steps, 100 * true, color=plots.BLUE, marker="o", ms=4, label="true, over 4 %")
ax.plot(steps, 100 * straight, color=plots.ORANGE, ls="--", label="straight-through")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="step",
    ylabel="change of the error (% of the squares)\nper relative change of the step",
)
ax.set_xticks([2.0**e for e in range(-7, -1)], [f"$2^{{{e}}}$" for e in range(-7, -1)])
ax.minorticks_off()
ax.legend(frameon=False)
fine, coarse = (steps <= 2**-5).numpy(), (steps >= 2**-3).numpy()
ratio = straight / true
plots.show(
    drawing,
    f"Steps up to 2^-5: straight-through is {np.median(ratio[fine]):.2f} times the true slope in the median; from "
    f"2^-3 on {np.median(ratio[coarse]):.2f} times. Both have the same sign at "
    f"{np.mean(np.sign(straight) == np.sign(true)):.0%} of the steps.",
)


# %% [markdown]
# It is an estimate: good where steps are fine, rough where they are coarse. What descent needs is the sign, above
# all.
#
# ## Descent that learns both
#
# Let descent choose step and threshold, to make the layer's squared error small. To keep both positive it learns
# their logarithms.
#
# *Predict:* start with 3 bits, threshold 1/2, and leave *both* free. Where do they go?
# %%
def descend(threshold, bits, free):
    """Learn the threshold, and the step too if it is free; give step, threshold and error at every iteration."""
    logs = torch.tensor([math.log2(threshold / 2 ** (bits - 1)), math.log2(threshold)], requires_grad=True)
    optimizer = torch.optim.Adam([logs], lr=0.05)
    path = []
    for _ in range(iterations):
        t = 2 ** logs[1]
        s = 2 ** logs[0] if free else t / 2 ** (bits - 1)
        loss = (quantize(weight, s, t, signed=True) - weight).square().sum() / weight.square().sum()
        path.append((s.item(), t.item(), loss.item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(path).T


free = descend(0.5, bits=3, free=True)
levels = np.log2(2 * free[1] / free[0])
print(f"step {free[0][0]:.4f} -> {free[0][-1]:.4f}, threshold {free[1][0]:.3f} -> {free[1][-1]:.3f}")
print(
    f"bits, log2(2 threshold / step): {levels[0]:.1f} -> {levels[-1]:.1f}; error {free[2][0]:.2%} -> {free[2][-1]:.4%}"
)
# %% [markdown]
# The error alone wants ever more levels: inside the range its derivative by the step is never negative. Nothing in it
# says that bits cost anything. HMQ adds that price: step and threshold are expected values over a table of schemes,
# and a second term of the loss counts the bits.
#
# Now tie the step to the threshold with a fixed number of bits, step = threshold / 2^(b-1). Every scheme does that.
#
# *Predict:* start once far above and once far below the best threshold of lesson 02. Do both arrive there?
# %%
starts = (2.0**0, 2.0**-6)
tied = {(bits, start): descend(start, bits, free=False) for bits in (2, 4) for start in starts}
grid = torch.logspace(-7, 0, 281, base=2)
best = {}
for bits in (2, 4):
    lost = [(quantize(weight, t / 2 ** (bits - 1), t, True) - weight).square().sum().item() for t in grid]
    best[bits] = grid[int(np.argmin(lost))].item()
# %%
drawing, (left, right) = plots.canvas(1, 2, height=3.6)
left.plot(levels, color=plots.BLUE, label="bits")
left.set(xlabel="iteration", ylabel="bits, log2(2 threshold / step)")
left.set_title("step and threshold free", loc="left")
for (bits, start), (_, reached, _) in tied.items():
    colour, line = {2: (plots.ORANGE, "--"), 4: (plots.GREEN, "-")}[bits]
    right.plot(reached, color=colour, ls=line, label=f"{bits} bits" if start == starts[0] else None)
for bits, marker in ((2, "o"), (4, "s")):
    right.plot(
        iterations - 1, best[bits], marker, color=plots.INK, mfc="none", ms=10, ls="none", label=f"best, {bits} bits"
    )
right.set(xlabel="iteration", ylabel="threshold", yscale="log")
right.set_yticks([2.0**e for e in range(-6, 1)], [f"$2^{{{e}}}$" for e in range(-6, 1)])
right.minorticks_off()
right.set_title("the step tied to the threshold", loc="left")
right.legend(frameon=False, loc="lower right")
ends = {bits: [tied[bits, start][1][-1] for start in starts] for bits in (2, 4)}
plots.show(
    drawing,
    f"Free, step and threshold drift apart, from {levels[0]:.1f} to {levels[-1]:.1f} bits. Tied, the threshold "
    f"ends at {ends[2][0]:.3f} and {ends[2][1]:.3f} with 2 bits, where a scan finds {best[2]:.3f}, and at "
    f"{ends[4][0]:.3f} and {ends[4][1]:.3f} with 4 bits, where a scan finds {best[4]:.3f}.",
)
# %% [markdown]
# Clipped values pull the threshold up, rounded ones push it down, and descent stops where the two balance. That point
# is near the best one, and it is not the best one exactly: the balance is struck with estimated slopes. With fewer
# bits the estimate is rougher.
#
# ## A weight that cannot rest
#
# Let one number x learn so that Q(x) = 0.3. The levels are 0.25 apart: 0.3 is none of them.
#
# *Predict:* where does x end?
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
print(
    f"x is {number.item():.3f}, beside the jump at 0.375; the last ten values of Q:",
    [round(v, 2) for v in visited[-10:]],
)
print(f"levels visited in the last 100 iterations: {sorted(set(last))}, their mean {np.mean(last):.3f}")


# %% [markdown]
# It does not end. Below the jump the slope says "up", above it "down"; x swings around the place where Q jumps, and
# is on either side so often that the *mean* of Q is about right. That is the price of pretending to have a slope. The
# smaller the learning rate, the shorter the swings; they do not end.
#
# ## One bit, and the end levels
#
# The released code decides otherwise at one place: a value that rounds *onto* an end level gets no gradient, for it
# asks lo < r < hi where we ask lo <= r <= hi.
#
# *Predict:* what share of the layer's weights loses its gradient by that with 8, with 2 and with 1 bit?
# %%
def kept(bits, exponent, strict):
    """The weights that get a gradient."""
    s = Scheme(bits, exponent, signed=True)
    low, high = s.integers
    r = (weight / s.step).round()
    return (r > low) & (r < high) if strict else (r >= low) & (r <= high)


exponents = {8: -1, 7: -1, 6: -1, 5: -2, 4: -2, 3: -2, 2: -2, 1: -3}  # the best ones, lesson 02
shares = {b: [kept(b, e, strict).float().mean().item() for strict in (False, True)] for b, e in exponents.items()}
print("bits        ", *(f"{b:6d}" for b in shares))
print("inclusive   ", *(f"{ours:6.1%}" for ours, _ in shares.values()))
print("strict      ", *(f"{theirs:6.1%}" for _, theirs in shares.values()))
# %% [markdown]
# With one bit *both* levels are end levels: under the strict rule nothing is left. A weight tensor that a search
# gives one bit would be frozen from then on, whatever the loss says. (That holds for the released range as well: its
# two 1-bit levels, 0 and t, are its ends.)
#
# Does it matter? Give the network's last layer one bit, leave all else float, and train this layer alone, once with
# each rule. The values of the forward pass follow from the weights in the same way; only the gradient differs.
#
# *Predict:* what will the loss do under the strict rule?
# %%
name = "linear.weight"
builtin = data.load("builtin")
one_bit = Scheme(bits=1, threshold_exponent=-1, signed=True)  # the best threshold, lesson 02


def one_bit_weight(w, strict):
    """One bit forwards; backwards slope 1 where the rule lets it through."""
    quantized = quantize(w, one_bit.step, one_bit.threshold, signed=True)
    if not strict:
        return quantized
    r = (w.detach() / one_bit.step).round()
    low, high = one_bit.integers
    through = ((r > low) & (r < high)).float()
    return quantized.detach() + through * (w - w.detach())


def train(strict):
    start = network.get_parameter(name).detach()
    w = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.01)
    batches = builtin.train.batches(128, seed=seed)
    losses = []
    for _ in range(training_steps):
        pictures, classes = next(batches)
        outputs = functional_call(network, {name: one_bit_weight(w, strict)}, (pictures,))
        loss = F.cross_entropy(outputs, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved = (w.detach() != start).float().mean().item()
    test, labels = next(builtin.test.batches(1000))
    with torch.no_grad():
        right = functional_call(network, {name: one_bit_weight(w, strict)}, (test,)).argmax(1) == labels
    return losses, moved, 100 * right.float().mean().item()


for parameter in network.parameters():
    parameter.requires_grad_(False)
runs = {"inclusive": train(strict=False), "strict": train(strict=True)}
# %%
drawing, (left, right) = plots.canvas(1, 2, height=3.4)
bits = list(shares)
left.plot(bits, [100 * a for a, _ in shares.values()], color=plots.BLUE, marker="o", label="inclusive")
left.plot(bits, [100 * b for _, b in shares.values()], color=plots.RED, marker="x", ls="--", label="strict")
left.set(xlabel="bits", ylabel="weights with a gradient (%)", ylim=(-5, 105))
left.legend(frameon=False, loc="lower right")
right.plot(runs["inclusive"][0], color=plots.BLUE, label="inclusive")
right.plot(runs["strict"][0], color=plots.RED, ls="--", label="strict")
right.set(xlabel="training step", ylabel="loss", ylim=(0, None))
right.legend(frameon=False)
(_, moved, accuracy), (_, stuck, other) = runs["inclusive"], runs["strict"]
plots.show(
    drawing,
    f"Under the strict rule {shares[2][1]:.0%} of the weights have a gradient with 2 bits and {shares[1][1]:.0%} "
    f"with 1 bit, under the inclusive one {shares[1][0]:.0%}. After {training_steps} steps {moved:.0%} of the "
    f"1-bit layer's weights have moved and {accuracy:.1f} % of 1,000 test pictures are recognized; under the "
    f"strict rule {stuck:.0%} have moved, {other:.1f} % are recognized.",
)
# %% [markdown]
# ## Explore: who gets a gradient
#
# The shaded parts of the histogram are the clipped values: they get no gradient themselves, and they alone pull at
# the threshold.
#
# Three settings worth trying:
#
# 1. *8 bits, threshold 2^-1.* Nothing is shaded: every weight has slope 1, and nothing asks for a larger threshold.
# 2. *3 bits, threshold down to 2^-4.* More and more is shaded; the bar of clipping is what pulls the threshold up
#    again.
# 3. *1 bit, threshold 2^-3.* Shaded is what rounds beyond 0: weights above half a threshold get no gradient. Which of
#    the negative ones get none?
# %%
explorers.quantizer(weight, bits=3, exponent=-2)


# %% [markdown]
# ## Exercise 1 · By x (easy, 4 minutes)
#
# Write `gradient_x(x, step, threshold, signed)`: the straight-through derivative dQ/dx of every element of the tensor
# `x`, in its shape. The bounds are real numbers and inclusive. Do not call `quantize`.
# %% tags=["stub"]
def gradient_x(x, step, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Compare `round(x / step)`, and not x, with lo and hi of the section "One assumption, three derivatives".
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
# Write `gradient_step(x, step, threshold, signed)`: the straight-through derivative dQ/dstep of every element.
# %% tags=["stub"]
def gradient_step(x, step, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Three cases: inside, above, below. `torch.where` nests; the last level is threshold - step.
# %% tags=["solution"]
def gradient_step(x, step, threshold, signed):
    r = (x / step).round()
    low = -threshold / step if signed else 0
    inside = torch.where(r < low, 0.0, r - x / step)
    return torch.where(r > threshold / step - 1, -1.0, inside)


# %% tags=["check"]
checks.gradient_step(gradient_step)


# %% [markdown]
# ## Exercise 3 · By a threshold that takes the step with it (harder, 7 minutes)
#
# Write `gradient_tied(x, bits, threshold, signed)`: the straight-through derivative of Q by the threshold of every
# element, where the bits are fixed and the step follows: 2 threshold / 2^bits signed, threshold / 2^bits unsigned.
# %% tags=["stub"]
def gradient_tied(x, bits, threshold, signed):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# The chain rule: dQ/dthreshold + dQ/dstep · dstep/dthreshold. Exercise 2 has one of the three factors.
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
# ## Summary
#
# * The true derivative of a quantizer by x is 0 almost everywhere: descent would stand still.
# * Straight-through assumes that rounding has the slope 1. Inside the range dQ/dx is 1 and dQ/dstep is r - x / step;
#   all the rest is the truth.
# * For a whole tensor the estimate is good where steps are fine, and rough where they are coarse.
# * Squared error alone drives step and threshold apart: bits need a price. With the bits fixed, descent comes near
#   the best threshold.
# * Bounds must be inclusive: a strict test leaves a 1-bit tensor without any gradient.
#
# ## To talk about
#
# * The gradient by the step sums over a whole tensor, that by x does not. What does that mean for the sizes of the
#   two, and for the learning rates?
# * Clipped weights get no gradient from the loss. What else moves them in training, and is that good or bad?
# * A weight swings around a jump. Would you lower the rate, freeze it, or leave it? What does the mean over the
#   swings mean for a network that is deployed?
# * Could one use noise instead: add random numbers before rounding, and take the derivative of the mean?
#
# **In the paper:** section 3.1 has the quantizer and its straight-through gradient; step and threshold are learned
# through the block, lesson 05. **Differences:** the bounds are inclusive here; the released code tests the rounded
# value strictly against the end levels.
