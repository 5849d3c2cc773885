# %% [markdown]
# # Your own network
#
# From a folder of images and a module of your own to a packed file with few bits: every step, what
# can go wrong there, and what the library then says.
#
# **Minutes:** 40 (50 s of them computing) · **Data:** a small folder of PNG files, which the lesson
# draws itself · **Know first:** lessons 00 and 05; how a PyTorch module is written
#
# **After this you can**
#
# * arrange a folder of images so that the library reads it, and understand its error messages,
# * write a forward pass that blocks can be put into,
# * say of every tensor of your network whether it is quantized, and why not,
# * calibrate, search and read the selection on a network that the library has never seen,
# * export it: packed weights, a program of integers, ONNX.
# %% tags=["parameters"] quick={"images": 160, "epochs": 2, "search_epochs": 2, "seed": 3}
# Parameters: how many training images and epochs; the seed is yours to change.
images = 1200
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

from hmq_lab import SearchSpace, Target, attach, checks, data
from hmq_lab import explorers, placements, plots, runs, search
from hmq_lab.data import builtin as glyphs
from hmq_lab.hardware import packing
from hmq_lab.hardware.integer import IntegerNetwork, compare
from hmq_lab.models import training
from hmq_lab.placement import blocks, calibrate
from hmq_lab.plots.lessons import lesson00
from hmq_lab.plots.lessons import lesson13 as figures
from hmq_lab.runs import records
from hmq_lab.settings import preset

predict = checks.predictions("13")
# %%
keep = tempfile.TemporaryDirectory()  # removed at the end of the lesson
home = Path(keep.name)


# %%
outcomes = []  # of the attempts: True for one that was refused


def refused(attempt, *arguments, **options):
    """Print the error message of an attempt, without the folders of this machine."""
    try:
        attempt(*arguments, **options)
    except (ValueError, FileNotFoundError) as error:
        said = str(error).replace(str(home), "home")
        said = re.sub(r"/\S+:(\d+)", r"line \1 of your cell", said)
        print(f"{type(error).__name__}: {said}\n")
        outcomes.append(True)
    else:
        print("nothing was refused\n")
        outcomes.append(False)


# %% [markdown]
# ## Images in folders
#
# The library reads folders: `train/<class>/<image>`, and the same under `val/` and `test/`. The
# names of the folders are the classes. If you have images of your own, arrange them like this and
# give the folder's name to `data.load` below. Here we draw four kinds of glyph and write them as
# PNG files.

# %%
classes = ("arrow", "heart", "ring", "zigzag")
easy = {"turn": 10, "shift": 1.5, "stretch": 0.1, "shear": 0.1, "contrast": (0.5, 0.9)}
easy |= {"noise": 0.04, "clutter": 0, "blot": 0, "grating": 0, "gradient": 0.1}
look = dataclasses.replace(glyphs.LOOK, **easy)  # easier than the built-in images


def write(folder, count, stream):
    """Draw this many images of our classes and write them as PNG files."""
    every = count * len(glyphs.CLASSES) // len(classes)
    drawn, labels = glyphs.make(every, seed=seed, stream=stream, look=look)
    for number, (image, label) in enumerate(zip(drawn, labels)):
        if glyphs.CLASSES[label] in classes:
            place = folder / glyphs.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{number:05d}.png")


for split, count in (("train", images), ("val", images // 4), ("test", images // 3)):
    write(home / "photos" / split, count, split)
own = data.load(home / "photos", normalize="half")
for split in ("train", "validation", "test"):
    print(f"{split:11s}{len(getattr(own, split)):5d} images")
print("classes:", ", ".join(own.classes))
# %% [markdown]
# Without `val/`, a tenth of the training images is used for validation. With only one of `val/` and
# `test/`, that one is the test set. `normalize="half"` maps values from 0..1 to -1..1. If your
# weights were trained elsewhere, name the statistics they were trained with (`data.STATISTICS`
# lists them). The library cannot detect a wrong choice; you only see a lower accuracy.
#
# *Predict:* three damaged copies follow: one without a second split; one where a class is missing in
# `val/`; one with an image of another size. How many of them does `data.load` refuse, with no further
# options?
# %%
how_many = predict("refused-folders", 0, 1, 2, 3)
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
how_many.result(sum(outcomes))
resized = data.load(home / "sizes", image_size=32)
print(f"with a size of 32 given: {len(resized.train)} training images")
# %% [markdown]
# Each message names the folder or the file, and what was expected. Images of different sizes are
# allowed if you name one size for all of them.
#
# ## A module of your own
#
# You can use any module that `torch.export` can read. It runs `forward` once with placeholders
# instead of tensors, and notes what is done to them. Placeholders have no values. So a forward pass
# may do anything except *decide* by the values of tensors.
#
# *Predict:* the class `Deciding` below turns dark images into bright ones. Which line of its
# `forward` does the error message name?
# %%
stops_at = predict("stops-at", "if x.mean() < 0", "x = -x", "return self.conv(x)...")


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


# %%
sample = next(own.train.batches(64, seed=seed))[0]
named = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
refused(attach, Deciding(), SearchSpace(), sample)
refused(attach, Counting(), SearchSpace(), sample)
refused(attach, named, SearchSpace(), sample)
refused(attach, Deciding().conv, SearchSpace(), sample[:, :1])
try:
    attach(Deciding(), SearchSpace(), sample)
except ValueError as error:
    decision = "if x.mean() < 0" in str(error)
    stops_at.result("if x.mean() < 0" if decision else "another line")


# %% [markdown]
# There were four networks and four messages. The first network decides by a value; the message
# names the line. The second changes its own state in the forward pass. In the third, something else
# already computes a weight. In the fourth, the images do not fit the network.
#
# ## Exercise 1 · Without a decision (medium, 8 minutes)
#
# Write `upright(x)` for a batch x (N, C, H, W): it negates each image whose mean over all its values
# is below 0, and leaves the others as they are. Use no `if` and no loop over images: `torch.export` has to
# be able to read it.
# %% tags=["stub"]
def upright(x):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# `torch.where(condition, a, b)` takes values of a where the condition is true, and of b elsewhere. The
# condition must have one entry for each image, shape (N, 1, 1, 1): `mean` takes several axes and
# `keepdim=True`.
# %% tags=["solution"]
def upright(x):
    dark = x.mean((1, 2, 3), keepdim=True) < 0  # (N, 1, 1, 1)
    return torch.where(dark, -x, x)


# %% tags=["check"]
checks.upright(upright)


# %% [markdown]
# ## A network, and its float accuracy
#
# Our network has what many networks have: a strided first layer, a depthwise and a pointwise
# convolution, a residual sum, a mean.
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


# %%
torch.manual_seed(seed)
network = Own()
options = {"epochs": epochs, "learning_rate": 0.05, "batch_size": 32, "seed": seed}
history = training.train(network, own, **options)
print(
    f"loss {history[0]['loss']:.2f} in the first epoch, {history[-1]['loss']:.2f} in the last"
)
print(f"float accuracy on the test images: {training.evaluate(network, own.test):.1f} %")
# %% [markdown]
# ## What is quantized, and what is not
#
# *Predict:* is the largest tensor that stays float a parameter or an activation?
# %%
largest_float = predict("largest-float", "a parameter", "an activation")
# %%
attached = attach(copy.deepcopy(network), SearchSpace(), sample)
floats = [place for place in placements(attached) if not place.quantized]
for place in floats:
    print(f"{place.name:22s}{place.size:6,}  {place.reason}")
largest = max(floats, key=lambda place: place.size)
largest_float.result("an activation" if largest.kind == "activation" else "a parameter")
# %% [markdown]
# ## Explorer: the placements
#
# The same list as a map. Three settings worth trying:
#
# * **`show` float.** Look for the largest mark. No compression counts it. What is it, and would
#   hardware want it in 32 bits?
# * **`hardware mode`, on and off.** Which float tensors disappear, and which ones come in their place?
#   Batch norm is folded. Choose a bias in the list and read its reason.
# * **`show` weights, then `depthwise.0.weight`.** What share of the weights does it hold? How far do
#   its values reach, compared with its largest threshold?
# %%
explorers.placements(network, sample, show="float", tensor="x")


# %% [markdown]
# Most *tensors* are float, but nearly all parameters are in quantized tensors. Therefore compression
# counts numbers and not tensors.
#
# ## Exercise 2 · The share that is quantized (easy, 5 minutes)
#
# Write `share(places)`: which share of a network's parameters, counted in numbers, is in quantized
# tensors. `places` is what `placements(model)` gives: each has `kind`, `size` and `quantized`. The
# kinds are "weight" (quantized), "parameter" (float), "activation" (no parameter at all) and "shared"
# (another name of a parameter that is in the list already).
# %% tags=["stub"]
def share(places):
    raise NotImplementedError


# %% [markdown] tags=["hint"]
# Divide one sum of sizes by another. Which of the four kinds belong to the sum below the line?
# %% tags=["solution"]
def share(places):
    quantized = sum(p.size for p in places if p.kind == "weight")
    return quantized / sum(p.size for p in places if p.kind in ("weight", "parameter"))


# %% tags=["check"]
checks.share(share)
# %% [markdown]
# ## Calibrate
#
# The values of a weight are known. The values of an activation are only seen while images go through
# the network. `calibrate` keeps a running maximum of each activation,
#
# $$\theta \leftarrow \theta + 0.9 \cdot (\max|x| - \theta)$$
#
# once for every batch. The largest threshold is the power of two above it.
#
# *Predict:* after how many batches of 32 images does no threshold change any more?
# %%
batches_needed = predict("batches-needed", low=1, high=24)
# %%
names = list(blocks(attached, "activation"))
batches = [x for x, _ in own.train.batches(32, seed=seed)][:24]
counts = list(range(1, len(batches) + 1))
after = [calibrate(attached, batches[:count]) for count in counts]
theta = {name: [found[name] for found in after] for name in names}
of_batch = [calibrate(attached, [batch]) for batch in batches]
largest = {name: max(found[name] for found in of_batch) for name in names}
plots.show(figures.running_maxima(counts, theta, largest))
batches_needed.result(figures.settled_after(counts, theta))


# %% [markdown]
# Each new maximum counts for nine tenths, so the running maximum is nearly that of the last batch.
# This is fast, but earlier batches are soon forgotten. The threshold changes only where a line
# crosses a power of two. A maximum close to a power of two may end on either side of it.
#
# ## Exercise 3 · The largest threshold (medium, 6 minutes)
#
# Write `largest_exponent(maxima)`: the exponent M of an activation's largest threshold 2^M. `maxima`
# is the list of max|x| of each batch, positive numbers, in order. theta begins with the first of
# them, then moves nine tenths of the way to each next one. 2^M is the smallest power of two not below
# the last theta.
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
# ## Choose by hand
#
# `explorers.network` takes a network, a batch and, if you have them, its labels. Choose a tensor,
# then its bits and its threshold. The figure shows what this choice alone changes in the output, and
# what all choices change together. "export" writes the choices to a file.
# %%
x, y = next(own.test.batches(32))
explorers.network(network, x, y, tensor="last.0.weight", bits=2)
# %% [markdown]
# If you give the explorer a name, `view = explorers.network(...)`, then `view.selection` has the same
# choices in Python. Give it to `search` in place of a target: the search begins there.
# `view.selection.on(network, x)` is a network that has these schemes. You can pack it and run it on
# integers, like the one below.
#
# ## Search
#
# `search` attaches, calibrates, searches and fine-tunes. Give it the float network. For the export
# below we search in hardware mode: then integers and shifts can do everything.
#
# First four calls that are refused. What is wrong with each of them?
# %%
short = {"search_epochs": search_epochs, "final_epochs": search_epochs}
settings = preset("quick/builtin", batch_size=32, cycles=2, **short)
quick = {"settings": settings, "seed": seed, "progress": False}
fresh = copy.deepcopy(network)
refused(Target, weights=40)
refused(search, fresh, own, Target(weights=20), space=SearchSpace((2, 4, 8)), **quick)
refused(search, Own(classes=7), own, Target(weights=8), **quick)
refused(search, fresh, own, Target(weights=8), **quick | {"settings": "quick/does-not-exist"})
# %% [markdown]
# A compression of 40 would need less than one bit a weight. One of 20 would need less than two bits,
# the fewest that were allowed. A network needs as many outputs as there are classes. A preset must
# exist, or you write `Settings(...)`. Now the call that works.
#
# *Predict:* the target is 8, on average 4 bits. Which layers keep the most bits?
# %%
keepers = predict("own-keep-bits", "the small ones", "the large ones", "all alike")
# %%
selected = copy.deepcopy(network)
run = home / "run"
record = search(selected, own, Target(weights=8), hardware=True, name="own", out=run, **quick)
print(records.table(record).rsplit("\n", 1)[0])  # without the time, which differs between runs
plots.show(plots.compression(record))
# %%
plots.show(lesson00.bits_and_elements(record))
keepers.result(lesson00.small_or_large(record))
# %% [markdown]
# How to read your own selection: compare bits with elements first. If a layer has many elements and
# many bits, the network may need these bits. A layer with few elements says little, because its bits
# cost next to nothing. One search with one seed is one answer. Run it again with another seed before
# you draw conclusions.
#
# ## Save and export
#
# The folder of the run has everything: the record, and the network's weights. Your module's code is in
# no file. Give the module, built as it was before the search.
#
# *Predict:* what is refused: to give no module, or to give one of another width?
# %%
refused_modules = predict("refused-modules", "neither", "no module", "another width", "both")
# %%
refused(runs.load, run)
refused(runs.load, run, network=Own(width=16))
none, other = outcomes[-2:]
told = {(False, False): "neither", (True, False): "no module", (False, True): "another width"}
refused_modules.result(told.get((none, other), "both"))
loaded, _ = runs.load(run, network=Own())

sizes = packing.pack(loaded, home / "own.packed", "own")
floats = 4 * sum(p.numel() for p in network.parameters())
print(f"packed file: {sizes.file:,} bytes; the float parameters: {floats:,}")
again = packing.unpack(home / "own.packed", network=Own())
x, y = next(own.test.batches(100))
with torch.no_grad():
    differ = int((again(x) != loaded(x)).sum())
print(f"logits that differ after unpacking: {differ} of {again(x).numel()}")
# %%
program = IntegerNetwork.from_selected(loaded)
found = compare(loaded, own.test.batches(100))
bound = max(line.bound for line in program.instructions if line.is_sum)
print(f"{len(program.instructions)} instructions")
print(f"no sum needs more than {1 + bound.bit_length()} bits")
wrong, count = found["differ_float64"], found["images"]
print(f"images with a logit that differs from the simulation: {wrong} of {count}")
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
    print(f"onnxruntime: logits of {answer['differ']} of {answer['images']} images differ")
keep.cleanup()
# %% [markdown]
# ## Summary
#
# * You need a folder `train/<class>/...` and a module that decides nothing by values.
# * `placements` says of every tensor what becomes of it. Nearly all numbers are in few quantized
#   tensors.
# * Activations get their thresholds from images: calibrate on images like those that will come.
# * `search(..., out=folder)` leaves a record and a network. `runs.load(folder, network=...)` brings it
#   back, to be packed, run on integers and exported.
#
# ## To talk about
#
# * Your images at work are darker than those you calibrated on. What goes wrong, and where would you
#   see it?
# * Think of a network that you know. Which part of it would `torch.export` refuse? Can it be
#   written without a decision, or be kept outside of the module?
# * The mean of 64 values is exact in shifts, a mean of 49 is not. What could one do about a 7x7 mean?
#
# **In the paper:** thresholds of activations and the order of the two stages are section 4; which
# tensors are quantized follows its section 3 and the released code. **Differences:** the released
# code lists its networks by hand; here `torch.export` reads any. Hardware mode, packed files and the
# integer program are not in the paper.
