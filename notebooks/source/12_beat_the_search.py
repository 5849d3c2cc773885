# %% [markdown]
# # Beat the search
#
# You set the bits and the threshold of every layer by hand, see at once what they cost, and try to do better than HMQ.
#
# **Minutes:** 40 (30 s of them computing) · **Data:** built in, nothing to fetch · **Know first:** lessons 02 and 06:
# what a threshold does, what a budget is
#
# **After this you can**
#
# * say when one choice of bits beats another, and when two cannot be compared,
# * read a hint: what one bit less costs, for each bit it saves,
# * tell what a threshold changes that bits do not,
# * tell the bytes of a network from its bit operations,
# * play a whole game, keep your scores, and put them on the board of a class.

# %% tags=["parameters"] quick={"pictures": 60, "few": 20, "moves": 2}
# Parameters: all of them are yours to change; scores are kept apart for other pictures.
pictures = 1000  # held pictures: a move is judged on them
few = 200  # of these: hints look at them
target = 8.0  # rate to reach
moves = 8  # of each player made of code, below
folder = "beat-the-search"  # where your own scores are kept, from your first move on
player = "you"

# %%
import tempfile
from pathlib import Path

import numpy as np

from hmq_lab import checks, explorers, plots
from hmq_lab.plots.pareto import rate_and_accuracy, references
from hmq_lab.rivals import game
from hmq_lab.runs import records

trials = Path(tempfile.mkdtemp())  # for the games that this notebook plays by itself
play = game.shipped(pictures=pictures, few=few, target=target, folder=trials, player="trial")
arena = play.arena
short = [name.removesuffix(".weight") for name in play.layers]

# %% [markdown]
# ## The rules
#
# * The network is trained, and stays as it is: no weight changes, yours or HMQ's. You choose 1 to 8 bits and one of
#   eight thresholds for each weight tensor. Activations have the schemes of the recorded search.
# * A choice is judged on held pictures, which the network was not trained on: how many are right?
# * The target is a rate: 32 bits over the mean bits of a weight.
# * HMQ's selection is the one that a recorded search made, with its thresholds. In that search the weights learned
#   along with the bits and were fine-tuned afterwards. Here they are not, so that both of you play with the same
#   weights. That makes it a game about schemes, and no verdict on HMQ.
#
# *Predict:* with 4 bits everywhere the rate is 8. By how many points is HMQ's selection, at the same rate, better?

# %%
record = records.recorded("builtin-tiny_resnet8-w8-a8")
drawing, ax = plots.canvas(height=3.8)
rate_and_accuracy(ax)
references(ax, arena.references, target)
ax.legend(frameon=False)
same, hmq = arena.references["uniform 4"], arena.hmq
plots.show(
    drawing,
    f"4 bits everywhere: {same.accuracy:.1f} % at a rate of {same.rate:.2f}. HMQ's selection: {hmq.accuracy:.1f} % at "
    f"{hmq.rate:.2f}; fine-tuned, in its record, {record.results['accuracy']['test']:.1f} % of the test pictures.",
)

# %% [markdown]
# The accuracy's axis has more room the better it gets: the last points are the hard ones.
#
# ## Exercise 1 · Beating (easy, 5 minutes)
#
# A choice has a rate and an accuracy; more of both is better. Write `beats(mine, other)`, both of them pairs
# `(rate, accuracy)`: True if `mine` is worse in neither and better in at least one.


# %% tags=["stub"]
def beats(mine, other):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Two conditions: neither number is lower, and the pairs are not equal.


# %% tags=["solution"]
def beats(mine, other):
    return mine[0] >= other[0] and mine[1] >= other[1] and mine != other


# %% tags=["check"]
checks.beats(beats)

# %% [markdown]
# Your scores are those of your choices that no other of your choices beats: a staircase.
#
# ## One bit less
#
# We start at 4 bits everywhere and measure, layer by layer, what one bit less or more does to the loss.
#
# *Predict:* which layer should give up a bit? Which one should get it?

# %%
play.start("uniform")
hint = play.hint()
drawing, (left, right) = plots.canvas(1, 2, height=3.4, sharey=True)
at = np.arange(len(short))
for shift, found, colour, hatch, label in (
    (-0.2, hint.less, plots.ORANGE, "", "one bit less"),
    (0.2, hint.more, plots.BLUE, "///", "one bit more"),
):
    style = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0, "label": label}
    change = np.array([found.get(name, np.nan) for name in play.layers])
    left.barh(at + shift, change, 0.4, **style)
    right.barh(at + shift, 1000 * change / list(arena.sizes.values()), 0.4, **style)
left.set(yticks=at, yticklabels=short, xlabel="change of the loss")
left.invert_yaxis()
right.set(xlabel="change of the loss for 1000 bits saved or spent")
left.legend(frameon=False)
worst = max(hint.less, key=hint.less.get)
plots.show(
    drawing,
    f"At {play.outcome.rate:.2f}: one bit less costs most in {worst} ({hint.less[worst]:+.3f}). {hint.sentence}",
)

# %% [markdown]
# In the left panel layers are compared as they are, in the right one for each bit: that is what a budget asks for. A
# bar to the left is a gain. One bit *less* can be a gain, too: it comes with another threshold, and the errors of two
# layers may cancel.
#
# ## Exercise 2 · The cheapest bit (medium, 8 minutes)
#
# Write `cheapest_bit(changes, sizes)`: the number, from 0, of the layer in which one bit less costs the least loss for
# each bit it saves. `changes` holds the change of the loss in each layer, `sizes` the layers' weights.


# %% tags=["stub"]
def cheapest_bit(changes, sizes):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# One bit less in a layer of n weights saves n bits. A change below zero is a gain.


# %% tags=["solution"]
def cheapest_bit(changes, sizes):
    prices = [change / size for change, size in zip(changes, sizes)]
    return prices.index(min(prices))


# %% tags=["check"]
checks.cheapest_bit(cheapest_bit)

# %% [markdown]
# ## A threshold costs nothing
#
# When you change a layer's bits, the game puts the threshold where the squared error of the weights is least. You may
# move it: the rate stays as it is, the accuracy does not.
#
# *Predict:* is the threshold with the least squared error also the one with the highest accuracy?

# %%
layer = "layer1.0.conv2.weight"
fitted = play.choice[layer][1]
exponents = sorted(arena.exponents(layer))
found = [arena.evaluate(play.choice | {layer: arena.pair(layer, 4, e)}) for e in exponents]
drawing, ax = plots.canvas(height=3)
ax.plot(exponents, [o.accuracy for o in found], "o-", color=plots.BLUE, label="4 bits in every layer")
ax.plot(fitted, found[exponents.index(fitted)].accuracy, "s", ms=12, mfc="none", mec=plots.RED, mew=2,
        label="least squared error")  # fmt: skip
ax.set(xlabel=f"M of the threshold $2^M$ of {layer.removesuffix('.weight')}", ylabel="held pictures right (%)")
ax.legend(frameon=False)
best = max(found, key=lambda o: o.accuracy)
plots.show(
    drawing,
    f"The least squared error is at 2^{fitted}, with {found[exponents.index(fitted)].accuracy:.1f} % right; the "
    f"highest accuracy, {best.accuracy:.1f} %, at 2^{best.choice[layer][1]}. The rate is {best.rate:.2f} for all.",
)

# %% [markdown]
# ## Bytes and bit operations
#
# The rate counts bytes that are stored. What a multiplier has to do is another question: a product of a weight of w
# bits and an input of i bits takes w · i products of single bits.
#
# *Predict:* two choices have the same rate. Have they the same bit operations?

# %%
early = dict.fromkeys(play.layers, 4) | {"layer1.0.conv1.weight": 8, "layer1.0.conv2.weight": 8}
late = dict.fromkeys(play.layers, 4) | {"layer3.0.conv1.weight": 5}
for name, bits in (("8 bits early", early), ("5 bits late", late), ("4 bits", dict.fromkeys(play.layers, 4))):
    o = arena.evaluate(arena.fitting(bits))
    print(f"{name:14s}rate {o.rate:5.2f}{o.weight_bytes:9,.0f} bytes{o.bit_operations / 1e6:7.1f} million operations")

# %% [markdown]
# Early layers have few weights and use each of them at many places: their bits are cheap to store and dear to compute.
#
# ## Exercise 3 · Bit operations (easy, 5 minutes)
#
# Write `bit_operations(macs, weight_bits, input_bits)`: the sum over the layers. The arguments are lists, a number for
# each layer: its multiply-accumulates for a picture, the bits of its weights, the bits of its inputs.


# %% tags=["stub"]
def bit_operations(macs, weight_bits, input_bits):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `zip` goes through the three lists at once.


# %% tags=["solution"]
def bit_operations(macs, weight_bits, input_bits):
    return sum(m * w * i for m, w, i in zip(macs, weight_bits, input_bits))


# %% tags=["check"]
checks.bit_operations(bit_operations)

# %% [markdown]
# ## Play
#
# Three settings worth trying:
#
# * **Choose layer3.0.conv2 and take its bits down to 2, one by one.** The largest layer: watch the red dot. Does the
#   accuracy fall with every bit? Then move `threshold` at 2 bits. `undo` takes all of it back.
# * **Start from HMQ's bits** and look for a bit it spent for nothing: the diamonds mark its choice. Press `hint` when
#   you are stuck, and spend what you saved elsewhere.
# * **Choose conv1, tick `keep this layer`, start from the greedy choice.** Greedy may not touch what you keep. Is the
#   rate still at the target?
#
# Scores are kept in a file in `folder`; run the cell again, today or tomorrow, and you go on where you were.

# %%
explorers.beat(game.Game(arena, target=target, folder=folder, player=player))

# %% [markdown]
# On a real network, the game takes the float weights, the data and a record: for ResNet-20 on CIFAR10, of which records
# come with the package, `record = records.RECORDED / "cifar10-resnet20-w16-a8.json"` and then
# `explorers.beat(game.of_run(record, weights="cifar10_resnet20.safetensors"))`.
#
# ## The board of a class
#
# Each file holds a player's scores. Collect the files, and `game.board` puts them side by side. Here are three players
# made of code, all of them allowed `moves` moves:
#
# * *hints* starts at the same bits everywhere and does what the hint says,
# * *greedy* starts at the greedy choice, then does the same,
# * *thrift* starts at HMQ's selection, then does the same.
#
# *Predict:* who is ahead at the target?

# %%
for name, start in (("hints", "uniform"), ("greedy", "greedy"), ("thrift", "HMQ")):
    one = game.Game(arena, target=target, folder=trials / "class", player=name)
    one.start(start)
    for _ in range(moves):
        found = one.hint()
        one.play(found.layer, bits=found.bits)
board = game.board(trials / "class")
print(board.table())
plots.show(plots.pareto(board))

# %% [markdown]
# With your class: everybody plays with a `player` name of their own and hands in the file from `folder`. Then
# `plots.show(plots.pareto(game.board("collected")))`. A file of another network, of other pictures, or one that was
# altered is refused by name.
#
# The digest in a file tells damage, not cheating: who writes a score by hand can write its digest, too. Whoever keeps
# the board measures again: `game.board("collected", arena=arena)` refuses a file whose choices do not give its scores.
#
# ## Summary
#
# * One choice beats another if it is worse in neither rate nor accuracy and better in one; many cannot be compared.
# * For a budget, what a layer loses counts for each bit it saves.
# * The threshold is free: it changes the accuracy and not the rate, and the least squared error is not always best.
# * Bytes and bit operations reward different choices.
# * All of this is about schemes on weights that stand still. A search lets the weights follow.
#
# ## To talk about
#
# * You looked at the held pictures at every move. What is your best score worth on pictures nobody has seen?
# * HMQ's selection was made for weights that went on learning. Name a reason why it may look bad here, and one why it
#   may look good.
# * The hint changes one bit in one layer. Which better choices can it never find?
# * How would the board change if it counted bit operations instead of bytes?
#
# **In the paper:** its tables compare HMQ with other ways to choose bits by rate and accuracy, after fine-tuning.
# **Differences:** here nothing is fine-tuned, the network is small, and the rival's selection was made by a record's
# short search with our repair.
