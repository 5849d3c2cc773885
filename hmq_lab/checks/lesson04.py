"""Checks of lesson 04: Gumbel-max, the relaxed sample, the exact gradient of an expectation, the
paper's cycles.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from hmq_lab import plots
from hmq_lab.checks.frame import Cases, Faults, Verdict, array, check, compare

# The paper's cycle of temperatures.
EPOCHS = 5  # of a cycle
UPDATES = 25  # temperatures an epoch
DECAY = 0.01
FLOOR = 0.5


@check
def gumbel_max(answer) -> Verdict:
    """Judge gumbel_max(probabilities, uniform) -> a category for each row of uniform (S, K), from
    0.

    >>> gumbel_max(lambda probabilities, uniform: uniform.argmax(1)).passed
    False

    The oracle is the exponential race: category k arrives at the time -log(u_k) / p_k, and the
    first one wins.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(probabilities, uniform):
        return (-np.log(uniform.numpy()) / probabilities.numpy()).argmin(1)

    # A wrong answer from another score for each category.
    def picks(score):
        return lambda probabilities, uniform: score(probabilities, uniform).argmax(1)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # No noise, or noise of another kind.
    @faults.says("There is no noise in your answer: add Gumbel noise, -log(-log(u)), to log p.")
    @picks
    def _(p, u):
        return p.expand_as(u)

    @faults.says("You add the noise to p: it is added to log p.")
    @picks
    def _(p, u):
        return p - (-u.log()).log()

    @faults.says(
        "Your noise is -log(u), which is exponential: Gumbel noise takes the logarithm twice, "
        "-log(-log(u))."
    )
    @picks
    def _(p, u):
        return p.log() - u.log()

    @faults.says("The sign of your noise is reversed: it is -log(-log(u)).")
    @picks
    def _(p, u):
        return p.log() + (-u.log()).log()

    @faults.says(
        "You add the uniform numbers themselves: make Gumbel noise of them first, -log(-log(u))."
    )
    @picks
    def _(p, u):
        return p.log() + u

    # The right noise, used in another way.
    @faults.says("You multiply noise and log p: they are added.")
    @picks
    def _(p, u):
        return -p.log() * (-u.log()).log()

    @faults.says("You take the smallest entry: it is the arg max.")
    def _(probabilities, uniform):
        noise = -(-uniform.log()).log()
        return (probabilities.log() + noise).argmin(1)

    @faults.says("p is left out of your answer: every category wins equally often.")
    @picks
    def _(p, u):
        return u

    # The same uniform numbers for every reader.
    generator = torch.Generator().manual_seed(4)

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("probabilities", "uniform")

    def draws(count, *p):
        uniform = torch.rand(count, len(p), generator=generator, dtype=torch.float64)
        cases.add(_double(p), uniform)

    draws(1, 0.7, 0.3)
    draws(2, 0.2, 0.8)
    draws(8, 0.6, 0.3, 0.1)
    draws(2000, 0.45, 0.3, 0.2, 0.05)
    return compare(answer, oracle, cases, faults, draw=_shares, right="Right, in all 2011 draws.")


@check
def relaxed_sample(answer) -> Verdict:
    """Judge relaxed_sample(logits, noise, temperature) -> rows that sum to one, shaped like noise
    (S, K).

    >>> relaxed_sample(lambda logits, noise, temperature: torch.softmax(noise, 1)).passed
    False

    The oracle has no softmax: it raises p e^g to the power 1 / temperature and divides by the sum.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(logits, noise, temperature):
        p = np.exp(logits.numpy())
        weight = (p * np.exp(noise.numpy())) ** (1 / temperature)
        return weight / weight.sum(1, keepdims=True)

    # A wrong answer from another score below the softmax.
    def softmax(score, axis=1):
        def sample(logits, noise, temperature):
            return torch.softmax(score(logits, noise, temperature), axis)

        return sample

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # The temperature is in the wrong place.
    @faults.says(
        "Your temperature is inverted: divide by it, so that a low one pushes a sample into a "
        "corner."
    )
    @softmax
    def _(l, g, tau):
        return (l + g) * tau

    @faults.says("The noise is not divided by the temperature: divide the sum of both.")
    @softmax
    def _(l, g, tau):
        return l / tau + g

    @faults.says("The logits are not divided by the temperature: divide the sum of both.")
    @softmax
    def _(l, g, tau):
        return l + g / tau

    @faults.says("The temperature does nothing in your answer: divide logits plus noise by it.")
    @softmax
    def _(l, g, tau):
        return l + g

    # The noise is missing or has the wrong sign.
    @faults.says("There is no noise in your answer.")
    @softmax
    def _(l, g, tau):
        return (l / tau).expand_as(g)

    @faults.says("You subtract the noise: it is added to the logits.")
    @softmax
    def _(l, g, tau):
        return (l - g) / tau

    # The softmax is in the wrong place, or runs along the wrong axis.
    @faults.says("You divide after the softmax: divide before it, or the rows do not sum to one.")
    def _(logits, noise, temperature):
        return torch.softmax(logits + noise, 1) / temperature

    faults.add(
        "Your softmax runs over the samples: it runs over the categories, the last axis.",
        softmax(lambda l, g, tau: (l + g) / tau, axis=0),
    )

    @faults.says("That is the hard sample, one-hot: the relaxed one is a softmax.")
    def _(logits, noise, temperature):
        largest = (logits + noise).argmax(1)
        return torch.nn.functional.one_hot(largest, len(logits))

    @faults.says(
        "You take e to the power of the logits before the noise is added: the softmax does that."
    )
    @softmax
    def _(l, g, tau):
        return (l.exp() + g) / tau

    # The same noise for every reader.
    generator = torch.Generator().manual_seed(5)

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("logits", "noise", "temperature")

    def samples(count, temperature, *logits):
        arrivals = torch.empty(count, len(logits), dtype=torch.float64)
        arrivals.exponential_(generator=generator)
        cases.add(_double(logits), -arrivals.log(), temperature)

    samples(1, 1.0, 0.0, 0.0)
    samples(1, 0.5, 1.0, -1.0)
    samples(2, 1.0, 0.0, 1.0, -2.0)
    samples(3, 4.0, 0.5, -0.5, 0.0)
    samples(60, 0.3, 2.0, 0.0, 1.0, -3.0)
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=_largest)


@check
def expected_gradient(answer) -> Verdict:
    """Judge expected_gradient(logits, losses) -> d/dlogits of sum_k p_k losses_k with p =
    softmax(logits), (K,).

    >>> expected_gradient(lambda logits, losses: torch.softmax(logits, 0) * losses).passed
    False

    The oracle is autograd.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # What is right, computed in another way than an answer would.
    def oracle(logits, losses):
        logits.requires_grad_()
        expected = (torch.softmax(logits, 0) * losses).sum()
        expected.backward()
        return logits.grad

    # A wrong answer from a formula of probabilities and losses.
    def of(formula):
        return lambda logits, losses: formula(torch.softmax(logits, 0), losses)

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # A part of the formula is missing or turned round.
    @faults.says(
        "The expectation is missing: a logit gets p_k (loss_k - expected loss), and these sum to "
        "zero."
    )
    @of
    def _(p, L):
        return p * L

    @faults.says("The sign is reversed: the gradient points uphill, and descent subtracts it.")
    @of
    def _(p, L):
        return p * ((p * L).sum() - L)

    @faults.says("p_k is missing as a factor.")
    @of
    def _(p, L):
        return L - (p * L).sum()

    @faults.says("You subtract the plain mean of the losses: it is the mean under p.")
    @of
    def _(p, L):
        return p * (L - L.mean())

    # Another derivative than the one asked for.
    @faults.says(
        "That is the diagonal alone, p_k (1 - p_k) loss_k: raising a logit also lowers all other "
        "probabilities."
    )
    @of
    def _(p, L):
        return p * (1 - p) * L

    @faults.says(
        "That is the derivative by the probabilities: go on, through the softmax, to the logits."
    )
    @of
    def _(p, L):
        return L

    @faults.says("The losses are left out.")
    @of
    def _(p, L):
        return p

    # The cases, the simplest first: a message names the first that is wrong.
    cases = Cases("logits", "losses")
    cases.add(_double([0.0, 0.0]), _double([1.0, 0.0]))
    cases.add(_double([0.0, 0.0]), _double([3.0, 1.0]))
    cases.add(_double([1.0, 0.0, -1.0]), _double([0.2, 0.5, 0.9]))
    cases.add(_double([2.0, -1.0, 0.5, 0.0, 0.0]), _double([0.9, 0.1, 0.4, 0.6, 2.0]))
    return compare(answer, oracle, cases, faults, tolerance=1e-6, draw=_bars)


@check
def cycle_temperature(answer) -> Verdict:
    """Judge cycle_temperature(step, steps_per_epoch) -> the paper's temperature at a step, cycles
    of five epochs.

    >>> cycle_temperature(lambda step, steps_per_epoch: max(0.5, math.exp(-0.01 * step))).passed
    False

    The oracle rounds in integers. The cases have no step half-way between two
    updates. With 40 or 391 steps an epoch, n is no whole number.

    Args:
        answer: the reader's function.

    Returns:
        The verdict: whether the answer passes, what is wrong first, and a drawing.
    """

    # The number of updates so far: round(i / (n / UPDATES)), in integers.
    def count(i, n):
        return (2 * UPDATES * i + n) // (2 * n)

    # The temperature after so many updates.
    def decayed(updates):
        return max(FLOOR, math.exp(-DECAY * updates))

    # What is right, computed in another way than an answer would.
    def oracle(step, steps_per_epoch):
        in_cycle = step % (EPOCHS * steps_per_epoch)
        return decayed(count(in_cycle, steps_per_epoch))

    # A wrong answer from the step, that within its cycle, and the steps an epoch.
    def of(formula):
        def temperature(step, steps_per_epoch):
            in_cycle = step % (EPOCHS * steps_per_epoch)
            return formula(step, in_cycle, steps_per_epoch)

        return temperature

    # Typical mistakes, the likeliest first.
    faults = Faults()

    # Floor and restart.
    @faults.says("There is no floor in your answer: the temperature stays at 0.5 or above.")
    @of
    def _(step, i, n):
        return math.exp(-DECAY * count(i, n))

    @faults.says("There is no restart: after five epochs the cycle begins again.")
    @of
    def _(step, i, n):
        return decayed(count(step, n))

    @faults.says(
        "You take the smaller of floor and decay: a floor is what it does not fall below, so "
        "take the larger."
    )
    @of
    def _(step, i, n):
        return min(FLOOR, math.exp(-DECAY * count(i, n)))

    @faults.says("Your cycle is one epoch long: it is five.")
    @of
    def _(step, i, n):
        return decayed(count(step % n, n))

    # The count of updates.
    @faults.says(
        "You decay at every step: there are 25 updates an epoch, so it is round(i / n) that counts."
    )
    @of
    def _(step, i, n):
        return decayed(i)

    @faults.says(
        "You drop a part of n: with 391 steps an epoch, n is 391 / 25 = 15.64 and not 15. Divide "
        "with /, not with //."
    )
    @of
    def _(step, i, n):
        return decayed(round(i / (n // UPDATES)))

    @faults.says("You round down: it is round(i / n).")
    @of
    def _(step, i, n):
        return decayed(UPDATES * i // n)

    @faults.says("You do not round: the temperature changes 25 times an epoch, not at every step.")
    @of
    def _(step, i, n):
        return decayed(UPDATES * i / n)

    # The sign of the exponent.
    @faults.says("The exponent has no minus sign: the temperature falls.")
    @of
    def _(step, i, n):
        return decayed(-count(i, n))

    cases = Cases("step", "steps_per_epoch")

    def steps(steps_per_epoch, numbers):
        for step in numbers:
            cases.add(step, steps_per_epoch)

    # Steps to check by hand.
    steps(25, [0, 1, 10, 100, 125])
    steps(75, [2, 75, 80])
    # Here a 25th of an epoch is no whole number of steps.
    steps(40, [1, 3, 10, 35, 50, 205])
    steps(391, [15, 100, 391, 900, 2000])
    # Two cycles and a bit, for the drawing.
    steps(125, range(0, 2 * EPOCHS * 125 + 126, 9))
    return compare(answer, oracle, cases, faults, tolerance=1e-9, draw=_over_epochs)


def _double(numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _shares(cases, wanted, given) -> plots.Drawing:
    """How often each category was drawn in the last case, beside its probability."""
    p = cases[-1]["probabilities"].numpy()
    drawn = array(given[-1]).ravel()
    share = np.array([(drawn == k).mean() for k in range(len(p))])
    title = f"{len(drawn)} draws"
    return _pairs(p, share, "probability", "share of your draws", "category", title)


def _bars(cases, wanted, given) -> plots.Drawing:
    right = array(wanted[-1])
    yours = array(given[-1])
    return _pairs(right, yours, "right", "yours", "logit", "gradient of the expected loss")


def _pairs(right, yours, name: str, other: str, x: str, title: str) -> plots.Drawing:
    # Wide bars are right, crosses are the answer's.
    drawing, ax = plots.canvas(height=3.2)
    at = np.arange(len(right))
    ax.bar(at, right, 0.7, color=plots.PALE, label=name)
    ax.plot(at, yours, "x", color=plots.BLUE, ms=9, mew=2.5, label=other)
    ax.set(xlabel=x, title=title)
    ax.set_xticks(at)
    ax.grid(False, axis="x")
    ax.legend(frameon=False)
    # The sentence has every pair of numbers.
    numbers = [f"{a:.3g} and {b:.3g}" for a, b in zip(right, yours, strict=True)]
    listed = ", ".join(numbers)
    drawing.sentence = f"{title}; {name} and {other} for each {x}: {listed}."
    return drawing


def _largest(cases, wanted, given) -> plots.Drawing:
    """The largest entry of every sample of the last case: yours over the right one."""
    # One number a sample: its largest entry.
    right = array(wanted[-1]).max(1)
    yours = array(given[-1]).max(1)
    # On the diagonal both are the same.
    drawing, ax = plots.canvas(height=3.2)
    ax.plot([0, 1], [0, 1], color=plots.PALE, lw=3)
    ax.plot(right, yours, "o", color=plots.BLUE, ms=6)
    ax.set(xlabel="largest entry of the right sample", ylabel="of yours")
    ax.set_title("on the line: the same")
    drawing.sentence = f"The largest entries of {len(right)} samples, "
    drawing.sentence += f"the right ones from {right.min():.2f} on."
    return drawing


def _over_epochs(cases, wanted, given) -> plots.Drawing:
    # Only the cases of the longest epoch make a curve.
    longest = cases[-1]["steps_per_epoch"]
    at = [i for i, case in enumerate(cases) if case["steps_per_epoch"] == longest]
    epochs = [cases[i]["step"] / longest for i in at]
    # The right curve is wide, so that the other one shows on top of it.
    drawing, ax = plots.canvas(height=3.2)
    right = [wanted[i] for i in at]
    yours = [float(given[i]) for i in at]
    ax.plot(epochs, right, color=plots.PALE, lw=6, label="right")
    ax.plot(epochs, yours, color=plots.BLUE, lw=1.6, label="yours")
    ax.set(xlabel="epoch", ylabel="temperature τ", title=f"{longest} steps an epoch")
    ax.legend(frameon=False)
    drawing.sentence = (
        f"Your temperature over {epochs[-1]:.0f} epochs of {longest} steps, beside the right one."
    )
    return drawing
