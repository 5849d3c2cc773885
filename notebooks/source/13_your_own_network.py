# %% [markdown]
# # Your own network
#
# From a folder of pictures and a module of your own to a packed file with few bits: every step, and at every step what
# can go wrong and what is said then.
#
# **Minutes:** 45 (45 s of them computing) · **Data:** a small folder of PNG files, which the lesson draws itself ·
# **Know first:** lessons 00 and 05; how a PyTorch module is written
#
# **After this you can**
#
# * lay out a folder of pictures so that the library reads it, and read its complaint where you did not,
# * write a forward pass that blocks can be put into,
# * tell of every tensor of your network whether it is quantized, and why not,
# * calibrate, search and read the selection on a network that the library has never seen,
# * export it: packed weights, a program of integers, ONNX.
# %% tags=["parameters"] quick={"pictures": 160, "epochs": 2, "search_epochs": 2}
# Parameters: how many training pictures and epochs; the seed is yours to change.
pictures = 1200
epochs = 12  # of float training
search_epochs = 8  # of each of the two stages of the search
seed = 0
# %%
import copy
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from hmq_lab import SearchSpace, Target, attach, checks, data, explorers, placements, plots, runs, search
from hmq_lab.data import builtin as glyphs
from hmq_lab.hardware import packing
from hmq_lab.hardware.integer import IntegerNetwork, compare
from hmq_lab.models import training
from hmq_lab.placement import blocks, calibrate
from hmq_lab.runs import records
from hmq_lab.settings import preset

keep = tempfile.TemporaryDirectory()  # away with everything at the end of the lesson
home = Path(keep.name)


def refused(attempt, *arguments, **options):
    """What an attempt is refused with, without the folders of this machine."""
    try:
        attempt(*arguments, **options)
    except (ValueError, FileNotFoundError) as error:
        said = re.sub(r"/\S+:(\d+)", r"line \1 of your cell", str(error).replace(str(home), "home"))
        print(f"{type(error).__name__}: {said}\n")
    else:
        print("nothing was refused\n")


# %% [markdown]
# ## Pictures in folders
#
# The library reads folders: `train/<class>/<picture>`, and the same under `val/` and `test/`. The names of the folders
# are the classes. If you have pictures of your own, lay them out like that and put the folder's name into `data.load`
# below. Here we draw four kinds of glyph and write them as PNG.
#
# *Predict:* one split may be missing. Which, and where would its pictures come from?
# %%
classes = ("arrow", "heart", "ring", "zigzag")
plain = {"turn": 10, "shift": 1.5, "stretch": 0.1, "shear": 0.1, "contrast": (0.5, 0.9), "noise": 0.04}
plain |= {"clutter": 0, "blot": 0, "grating": 0, "gradient": 0.1}  # easier than the built-in pictures: few do
look = dataclasses.replace(glyphs.LOOK, **plain)


def write(folder, count, stream):
    """So many drawn pictures of our classes as PNG files."""
    images, labels = glyphs.make(count * len(glyphs.CLASSES) // len(classes), seed=seed, stream=stream, look=look)
    for number, (image, label) in enumerate(zip(images, labels)):
        if glyphs.CLASSES[label] in classes:
            place = folder / glyphs.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{number:05d}.png")


for split, count in (("train", pictures), ("val", pictures // 4), ("test", pictures // 3)):
    write(home / "photos" / split, count, split)
own = data.load(home / "photos", normalize="half")
for split in ("train", "validation", "test"):
    print(f"{split:11s}{len(getattr(own, split)):5d} pictures")
print("classes:", ", ".join(own.classes))
# %% [markdown]
# Without `val/` a tenth of the training pictures is set aside for validation; with one of `val/` and `test/`, that one
# is the test set. `normalize="half"` brings values from 0..1 to -1..1. If your weights were trained elsewhere, name the
# statistics they were trained with (`data.STATISTICS` lists them): a wrong choice is not refused, it only costs
# accuracy.
#
# *Predict:* three damaged copies follow: no second split; a class that is missing in `val/`; one picture of another
# size. Which of them can be read all the same?
# %%
shutil.copytree(home / "photos" / "train", home / "alone" / "train")
refused(data.load, home / "alone")

shutil.copytree(home / "photos", home / "uneven")
shutil.rmtree(home / "uneven" / "val" / "heart")
refused(data.load, home / "uneven")

shutil.copytree(home / "photos", home / "sizes")
some = sorted((home / "sizes" / "train" / "ring").glob("*.png"))[-1]
Image.open(some).resize((48, 48)).save(some)
refused(data.load, home / "sizes")
print("with picture_size=32:", len(data.load(home / "sizes", picture_size=32).train), "training pictures")
# %% [markdown]
# Each complaint names the folder or the file, and what was expected. Pictures of different sizes are no fault if you
# say which size they shall have.
#
# ## A module of your own
#
# Any module will do that `torch.fx` can read: it runs `forward` once with stand-ins in place of tensors, and notes what
# is done to them. Stand-ins have no values. So a forward pass may do anything but *decide* by the values of tensors.
#
# *Predict:* the class below shall turn dark pictures into bright ones. At which line does reading it stop?


# %%
class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.mean() < 0:
            x = -x
        return self.conv(x).mean((2, 3))


class Counting(Deciding):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x).mean((2, 3))


sample = next(own.train.batches(64, seed=seed))[0]
refused(attach, Deciding(), SearchSpace(), sample)
refused(attach, Counting(), SearchSpace(), sample)
refused(attach, nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), SearchSpace(), sample)
refused(attach, Deciding().conv, SearchSpace(), sample[:, :1])


# %% [markdown]
# Four networks, four complaints: a decision by value, with the line; a forward pass that changes what the network
# holds; a weight that something else computes already; and a sample that does not fit the network.
#
# ## Exercise 1 · Without a decision (medium, 8 minutes)
#
# Write `upright(x)`: of a batch x (N, C, H, W), each picture whose mean over all its values is below 0 is negated, the
# others stay. No `if`, no loop over pictures: `torch.fx` has to be able to follow.
# %% tags=["stub"]
def upright(x):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `torch.where(condition, a, b)` takes values of a where the condition holds, and of b elsewhere. The condition has to
# be one for each picture, of the shape (N, 1, 1, 1): `mean` takes several axes and `keepdim=True`.
# %% tags=["solution"]
def upright(x):
    dark = x.mean((1, 2, 3), keepdim=True) < 0  # (N, 1, 1, 1)
    return torch.where(dark, -x, x)


# %% tags=["check"]
checks.upright(upright)


# %% [markdown]
# ## A network, and its float accuracy
#
# Our network has what many have: a strided stem, a depthwise and a pointwise convolution, a residual sum, a mean.
# %%
class Own(nn.Module):
    def __init__(self, classes=4, width=24):
        super().__init__()
        self.stem = self.layer(3, width, 5, stride=2)
        self.depthwise = self.layer(width, width, 3, groups=width)
        self.pointwise = self.layer(width, width, 1)
        self.deep = self.layer(width, 2 * width, 3, stride=2)
        self.last = self.layer(2 * width, 2 * width, 3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, classes)

    def layer(self, inputs, outputs, kernel, **options):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x):  # (N, 3, 32, 32)
        x = self.stem(x)  # (N, width, 16, 16)
        x = x + self.pointwise(self.depthwise(x))
        x = self.last(self.deep(x))  # (N, 2 width, 4, 4)
        return self.head(self.pool(x).flatten(1))


torch.manual_seed(seed)
network = Own()
history = training.train(network, own, epochs=epochs, learning_rate=0.05, batch_size=32, seed=seed)
print(f"loss {history[0]['loss']:.2f} in the first epoch, {history[-1]['loss']:.2f} in the last")
print(f"float accuracy on the test pictures: {training.evaluate(network, own.test):.1f} %")
# %% [markdown]
# ## What is quantized, and what is not
#
# *Predict:* how many of the network's tensors stay float, and is the largest of them a parameter?
# %%
attached = attach(copy.deepcopy(network), SearchSpace(), sample)
for place in placements(attached):
    if not place.quantized:
        print(f"{place.name:22s}{place.size:6,}  {place.reason}")
# %% [markdown]
# ## Explorer: the placements
#
# The same list as a map. Three settings worth trying:
#
# * **`show` float.** Look for the largest mark. It is no parameter, and no rate counts it: what is it, and would
#   hardware want it in 32 bits?
# * **`hardware mode`, on and off.** Which float tensors are gone, and which came in their place? Batch norm is folded;
#   choose a bias in the list and read its reason.
# * **`show` weights, then `depthwise.0.weight`.** What share of the weights does it hold, and how far do its values
#   reach compared with its largest threshold?
# %%
explorers.placements(network, sample, show="float", tensor="x")


# %% [markdown]
# Nearly all parameters are in quantized tensors, though most *tensors* are float. That is why rates count numbers and
# not tensors.
#
# ## Exercise 2 · The share that is quantized (easy, 5 minutes)
#
# Write `share(places)`: which share of a network's parameters, counted in numbers, is in quantized tensors. `places` is
# what `placements(model)` gives: each has `kind`, `size` and `quantized`. Kinds: "weight" (quantized), "parameter"
# (float), "activation" (no parameter at all), "shared" (another name of a parameter that is in the list already).
# %% tags=["stub"]
def share(places):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Two sums over sizes. Which of the four kinds belong to the lower one?
# %% tags=["solution"]
def share(places):
    quantized = sum(p.size for p in places if p.kind == "weight")
    return quantized / sum(p.size for p in places if p.kind in ("weight", "parameter"))


# %% tags=["check"]
checks.share(share)
# %% [markdown]
# ## Calibrate
#
# A weight is there to be looked at; an activation has to be watched while pictures go through. `calibrate` keeps a
# running maximum of each, theta += 0.9 · (max|x| - theta) for every batch, and the largest threshold is the power of
# two above it.
#
# *Predict:* does it take one batch, ten, or all of them until the thresholds stand?
# %%
names = list(blocks(attached, "activation"))
batches = [x for x, _ in own.train.batches(32, seed=seed)][:24]
counts = list(range(1, len(batches) + 1))
theta = [calibrate(attached, batches[:count]) for count in counts]
largest = {name: max(calibrate(attached, [batch])[name] for batch in batches) for name in names}

drawing, ax = plots.canvas(height=3.4)
for name, colour, marker in zip(names, (*plots.COLOURS, plots.INK, plots.BLUE), "osD^vP"):
    ax.plot(counts, [found[name] for found in theta], color=colour, marker=marker, ms=4, lw=1.2, label=name)
for exponent in range(4):
    ax.axhline(2.0**exponent, color=plots.INK, lw=0.8, ls="--")
ax.set(xlabel="batches of 32 pictures", ylabel="running maximum", yscale="log")
ax.set_yticks([2.0**e for e in range(4)], [f"$2^{e}$" for e in range(4)])
ax.minorticks_off()
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
moved = [name for name in names if len({torch.tensor(found[name]).log2().ceil().item() for found in theta}) > 1]
above = [name for name in names if largest[name] > 2.0 ** torch.tensor(theta[-1][name]).log2().ceil().item()]
plots.show(
    drawing,
    f"The running maxima of {len(names)} activations over {len(batches)} batches; broken lines are powers of two. "
    f"{len(moved)} of them cross one ({', '.join(moved) or 'none'}). Of {len(above)} the largest value of all lies "
    f"above the final threshold.",
)


# %% [markdown]
# Nine tenths of each new maximum count, so the running maximum is nearly that of the last batch: quick, and it forgets.
# The threshold changes only where a line crosses a power of two; a maximum close to one may fall on either side.
#
# ## Exercise 3 · The largest threshold (medium, 6 minutes)
#
# Write `largest_exponent(maxima)`: the exponent M of an activation's largest threshold 2^M. `maxima` is the list of
# max|x| of each batch, positive numbers, in order. theta begins with the first of them, then moves nine tenths of the
# way to each next one; 2^M is the smallest power of two not below the last theta.
# %% tags=["stub"]
def largest_exponent(maxima):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# A loop over `maxima[1:]`. The smallest power of two not below theta: `math.log2`, rounded up.
# %% tags=["solution"]
def largest_exponent(maxima):
    theta = maxima[0]
    for m in maxima[1:]:
        theta += 0.9 * (m - theta)
    return int(torch.tensor(theta).log2().ceil())


# %% tags=["check"]
checks.largest_exponent(largest_exponent)
# %% [markdown]
# ## Search
#
# `search` attaches, calibrates, searches and fine-tunes; give it the float network. For the export below we search in
# hardware mode, where integers and shifts can do everything.
#
# *Predict:* first four that do not begin. What is wrong with each?
# %%
settings = preset("quick/builtin", search_epochs=search_epochs, final_epochs=search_epochs, batch_size=32, cycles=2)
quick = {"settings": settings, "seed": seed, "progress": False}
refused(Target, weights=40)
refused(search, copy.deepcopy(network), own, Target(weights=20), space=SearchSpace((2, 4, 8)), **quick)
refused(search, Own(classes=7), own, Target(weights=8), **quick)
refused(search, copy.deepcopy(network), own, Target(weights=8), **quick | {"settings": "quick/mine"})
# %% [markdown]
# A rate of 40 would need less than one bit a weight, and one of 20 less than the two bits that were allowed at least; a
# network needs as many outputs as there are classes; a preset has to exist, or you write `Settings(...)`. Now the one
# that works.
#
# *Predict:* 8 times smaller weights are 4 bits on average. Which of the six layers gets the fewest, which the most?
# %%
selected = copy.deepcopy(network)
record = search(selected, own, Target(weights=8), hardware=True, name="own", out=home / "run", **quick)
print(records.table(record).rsplit("\n", 1)[0])  # without the time, which differs from run to run
plots.show(plots.compression(record))
# %%
plots.show(plots.scheme_map(record))
# %% [markdown]
# How to read your own selection: compare bits with elements first. A layer with many elements and many bits is one that
# the network could not do without; a layer with few elements says little, for its bits cost next to nothing. One search
# with one seed is one answer, and not the only one: run it again with another seed before you draw conclusions.
#
# ## Take it away
#
# The folder of the run has everything: the record, and the network's weights. What no file holds is your module's code:
# hand over the module, built as it was before the search.
#
# *Predict:* what is refused if you hand over none, or another one?
# %%
refused(runs.load, home / "run")
refused(runs.load, home / "run", network=Own(width=16))
loaded, _ = runs.load(home / "run", network=Own())

sizes = packing.pack(loaded, home / "own.packed", "own")
floats = 4 * sum(p.numel() for p in network.parameters())
print(f"packed file: {sizes.file:,} bytes; the float parameters: {floats:,}")
again = packing.unpack(home / "own.packed", network=Own())
x, y = next(own.test.batches(100))
with torch.no_grad():
    print(f"logits that differ after unpacking: {int((again(x) != loaded(x)).sum())} of {again(x).numel()}")
# %%
program = IntegerNetwork.from_selected(loaded)
found = compare(loaded, own.test.batches(100))
bound = max(line.bound for line in program.instructions if line.magnitude is not None)
print(f"{len(program.instructions)} instructions; no sum needs more than {1 + bound.bit_length()} bits")
print(f"pictures with a logit that differs from the simulation: {found['differ_float64']} of {found['pictures']}")
refused(IntegerNetwork.from_selected, attached)
# %%
try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from hmq_lab.hardware import onnx_export
except ImportError as missing:
    print(f"{missing.name} is not installed: pip install hmq_lab[export]")
else:
    refused(onnx_export.export, attached, home / "own.onnx")
    onnx_export.export(loaded, home / "own.onnx")
    answer = onnx_export.compare(loaded, home / "own.onnx", own.test.batches(100))
    print(f"onnxruntime: logits of {answer['differ']} of {answer['pictures']} pictures differ from the simulation")
keep.cleanup()
# %% [markdown]
# ## Summary
#
# * A folder `train/<class>/...` and a module that decides nothing by values are all that is asked of you.
# * `placements` says of every tensor what becomes of it; nearly all numbers are in few quantized tensors.
# * Activations get their thresholds from pictures: calibrate on pictures like those that will come.
# * `search(..., out=folder)` leaves a record and a network; `runs.load(folder, network=...)` brings it back, to be
#   packed, run on integers and exported.
#
# ## To talk about
#
# * Your pictures at work are darker than those you calibrated on. What goes wrong, and where would you see it?
# * Which part of a network you know would `torch.fx` refuse? Can it be written without a decision, or kept outside?
# * The mean of 64 values is exact in shifts, a mean of 49 is not. What could one do about a 7x7 mean?
#
# **In the paper:** thresholds of activations and the order of the two stages are section 4; which tensors are quantized
# follows its section 3 and the released code. **Differences:** the released code lists its networks by hand; here
# `torch.fx` reads any. Hardware mode, packed files and the integer program are not in the paper.
