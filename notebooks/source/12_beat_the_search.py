# %% [markdown]
# # Beat the search
#
# You choose the bits and the threshold of every layer by hand, see at once what they cost, and try
# to do better than HMQ.
#
# **Minutes:** 40 (30 s of them computing) · **Data:** built in, nothing to fetch · **Know first:**
# lessons 02 and 06: what a threshold does, what a budget is
#
# **After this you can**
#
# * say when one choice of bits beats another, and when two cannot be compared,
# * read a hint: what one bit less costs the loss, divided by the bits that it saves,
# * say what a threshold changes that bits do not,
# * say how the bytes of a network differ from its bit operations,
# * play a whole game, keep your scores, and put them on the board of a class.

# %% tags=["parameters"] quick={"images": 60, "few": 20, "moves": 2}
# Parameters: all of them are yours to change. Scores for other images are kept separately.
images = 1000  # held images: a move is judged on them
few = 200  # of these: hints look at them
target = 8.0  # compression to reach
moves = 8  # of each player made of code, below
folder = "beat-the-search"  # where your own scores are kept, from your first move on
player = "you"

# %%
import tempfile
from pathlib import Path

from hmq_lab import checks, explorers, plots
from hmq_lab.plots.lessons import lesson12 as figures
from hmq_lab.plots.lessons import listed, say
from hmq_lab.rivals import game
from hmq_lab.runs import records

predict = checks.predictions("12")
trials = Path(tempfile.mkdtemp())  # for the games that this notebook plays by itself
options = {"few": few, "target": target, "folder": trials, "player": "trial"}
play = game.shipped(images=images, **options)
arena = play.arena
short = [name.removesuffix(".weight") for name in play.layers]

# %% [markdown]
# ## The rules
#
# * The network is trained and stays as it is: neither you nor HMQ changes a weight. You choose 1 to
#   8 bits and one of eight thresholds for each weight tensor. Activations have the schemes of the
#   recorded search.
# * A choice is judged on **held images**: the network was not trained on them. The score is the
#   share of them that is classified right.
# * The target is a compression: 32 bits over the mean bits of a weight.
# * HMQ's selection is from a recorded search, with its thresholds. In that search the weights learned
#   together with the bits and were fine-tuned afterwards. Here they are not, so that both of you play
#   with the same weights. So this is a game about schemes. It cannot say how good HMQ is.
#
# *Predict:* 4 bits everywhere have a compression of 8. By how many points is HMQ's selection better
# than that, on the held images?

# %%
hmq_better = predict("hmq-better", low=-50, high=50)

# %%
record = records.recorded("builtin-tiny_resnet8-w8-a8")
plots.show(figures.references(arena, target, record.results["accuracy"]["test"]))
same, hmq = arena.references["uniform 4"], arena.hmq
hmq_better.result(f"{hmq.accuracy - same.accuracy:+.1f} points")

# %% [markdown]
# The axis of accuracy is stretched near 100 %, because the last points are the hard ones.
#
# ## Exercise 1 · Beating (easy, 5 minutes)
#
# A choice has a compression and an accuracy; more of both is better. Write `beats(mine, other)`, both
# of them pairs `(compression, accuracy)`: True if `mine` is worse in neither and better in at least
# one.


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
# Your scores are your best choices: those that no other choice of yours beats. In the figure they
# form a staircase.
#
# ## One bit less
#
# We start at 4 bits everywhere. Layer by layer, we measure how one bit less or more changes the loss.
#
# *Predict:* which layer should give up a bit: where does one bit less cost the least loss for each
# bit that it saves?

# %%
gives_up = predict("gives-up", *short)

# %%
play.start("uniform")
hint = play.hint()
plots.show(figures.one_bit(hint, arena.sizes, play.outcome.rate))
say(figures.gains_sentence(hint))
gives_up.result(figures.cheapest(hint, arena.sizes))

# %% [markdown]
# The left panel shows the change of the loss. The right panel shows the change for each saved bit:
# this is what counts for a budget. A bar to the left is a gain. One bit *less* can be a gain,
# because it brings another threshold, and because the errors of two layers may cancel.
#
# ## Exercise 2 · The cheapest bit (medium, 8 minutes)
#
# Write `cheapest_bit(changes, sizes)`: the number, from 0, of the layer in which one bit less costs
# the least loss for each bit it saves. `changes` has the change of the loss in each layer, `sizes`
# the layers' weights.


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
# When you change a layer's bits, the game sets the threshold with the least squared error of the
# weights. You may move it: the compression stays as it is, the accuracy does not.
#
# *Predict:* is the threshold with the least squared error also the one with the highest accuracy?

# %%
fitted_is_best = predict("fitted-is-best", "yes", "no")

# %%
layer = "layer1.0.conv2.weight"
fitted = play.choice[layer][1]
exponents = sorted(arena.exponents(layer))
found = []
for exponent in exponents:
    found.append(arena.evaluate(play.choice | {layer: arena.pair(layer, 4, exponent)}))
plots.show(figures.thresholds(exponents, found, fitted, layer.removesuffix(".weight")))
highest = max(o.accuracy for o in found)
fitted_is_best.result("yes" if found[exponents.index(fitted)].accuracy == highest else "no")

# %% [markdown]
# ## Bytes and bit operations
#
# The compression counts the bytes that are stored. The work of a multiplier is another matter. A
# weight of $w$ bits times an input of $i$ bits takes $w \cdot i$ products of single bits, its bit
# operations.
#
# *Predict:* two choices have the same compression. Do they have the same bit operations?

# %%
same_operations = predict("same-operations", "yes", "no")

# %%
four = dict.fromkeys(play.layers, 4)
early = four | {"layer1.0.conv1.weight": 8, "layer1.0.conv2.weight": 8}
late = four | {"layer3.0.conv1.weight": 5}
operations = []
for name, bits in (("8 bits early", early), ("5 bits late", late), ("4 bits", four)):
    o = arena.evaluate(arena.fitting(bits))
    operations.append(o.bit_operations)
    numbers = (
        f"{o.weight_bytes:9,.0f} bytes{o.bit_operations / 1e6:7.1f} million bit operations"
    )
    print(f"{name:14s}compression {o.rate:5.2f}{numbers}")
same_operations.result("yes" if operations[0] == operations[1] else "no")

# %% [markdown]
# Early layers have few weights and use each of them at many places. Their bits need little memory
# and many operations.
#
# ## Exercise 3 · Bit operations (easy, 5 minutes)
#
# Write `bit_operations(macs, weight_bits, input_bits)`: the sum over the layers. The arguments are
# lists with one number a layer: its multiply-accumulates for an image, the bits of its weights, the
# bits of its inputs.


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
# * **Choose layer3.0.conv2 and lower its bits to 2, one by one.** It is the largest layer. Watch the
#   red dot. Does the accuracy fall with every bit? Then move `threshold` at 2 bits. `undo` takes it
#   back.
# * **Start from HMQ's bits.** The diamonds mark its choice. Look for a bit that you can take away
#   at no cost, and give the saved bits to another layer. Press `hint` if you want help.
# * **Choose conv1, lock it, start from the greedy choice.** Greedy may not change a locked layer. Is
#   the target still reached?
#
# Scores are kept in a file in `folder`. Run the cell again, today or tomorrow, and you continue where
# you were.

# %%
explorers.beat(game.Game(arena, target=target, folder=folder, player=player))

# %% [markdown]
# For a real network, the game takes float weights, the data and a record. For ResNet-20 on CIFAR10,
# whose records come with the package: `record = records.RECORDED / "cifar10-resnet20-w16-a8.json"`,
# then `explorers.beat(game.of_run(record, weights="cifar10_resnet20.safetensors"))`.
#
# ## The board of a class
#
# Each file holds a player's scores. Collect the files, and `game.board` shows them together. Here are
# three players made of code, each with `moves` moves:
#
# * *hints* starts with the same bits everywhere and follows the hint,
# * *greedy* starts with the greedy choice, then does the same,
# * *thrift* starts with HMQ's selection, then does the same.
#
# *Predict:* who has the highest accuracy at the target?

# %%
ahead = predict("ahead", "hints", "greedy", "thrift")

# %%
scores = {}
for name, start in (("hints", "uniform"), ("greedy", "greedy"), ("thrift", "HMQ")):
    one = game.Game(arena, target=target, folder=trials / "class", player=name)
    one.start(start)
    for _ in range(moves):
        found = one.hint()
        one.play(found.layer, bits=found.bits)
    scores[name] = 0.0 if one.best is None else one.best.accuracy
board = game.board(trials / "class")
print(board.table())
plots.show(plots.pareto(board))
ahead.result(listed(n for n, score in scores.items() if score == max(scores.values())))

# %% [markdown]
# With your class: everybody plays with a `player` name of their own and hands in the file from
# `folder`. Then `plots.show(plots.pareto(game.board("collected")))`. The board refuses a file of
# another network or of other images, and a damaged file, and says which.
#
# The digest in a file shows damage, not cheating: someone who writes a score by hand can write its
# digest, too. To be sure, measure again: `game.board("collected", arena=arena)` refuses a file whose
# choices do not give its scores.
#
# ## Summary
#
# * One choice beats another if it is worse in neither compression nor accuracy and better in one.
#   Many choices cannot be compared.
# * For a budget, compare what a layer loses for each bit it saves.
# * The threshold is free: it changes the accuracy and not the compression. The one with the least
#   squared error is not always the best.
# * Bytes and bit operations favour different choices.
# * All of this is about schemes on weights that do not change. In a search the weights learn, too.
#
# ## To talk about
#
# * You looked at the held images at every move. Would your best score be the same on images that
#   nobody has seen?
# * HMQ's selection was made for weights that went on learning. Name a reason why it may look bad
#   here, and one why it may look good.
# * The hint changes one bit in one layer. Which better choices can it never find?
# * How would the board change if it counted bit operations instead of bytes?
#
# **In the paper:** its tables compare HMQ with other ways to choose bits by compression and accuracy,
# after fine-tuning. **Differences:** here nothing is fine-tuned, the network is small, and HMQ's
# selection is from a short recorded search with our repair.
