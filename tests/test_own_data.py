"""Torch data sets and loaders of one's own, and splits as torch data sets."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torchvision.transforms import v2

from hmq_lab import data
from hmq_lab.data import Data, Images, Items
from hmq_lab.models import training

HALF = (0.5,) * 3


def digits(count=60, channels=1, seed=0):
    """Images whose brightness tells their class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.rand(count, channels, 12, 12, generator=rng) / 4
    return TensorDataset(noise + labels[:, None, None, None], labels)


class Noisy(Dataset):
    """Every item draws from the three kinds of global random numbers."""

    classes = ("a", "b")

    def __len__(self):
        return 12

    def __getitem__(self, index):
        drawn = torch.rand(1, 4, 4) + random.random() + np.random.random()  # noqa: NPY002  transforms do so
        return drawn, index % 2


def network(channels=1, classes=2):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(channels, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
    return nn.Sequential(*layers)


def test_a_data_set_of_one_s_own_is_trained_on():
    own = Data.of(
        digits(seed=0), digits(seed=1), digits(seed=2), classes=["dark", "bright"], name="digits"
    )
    assert (own.name, own.classes, own.train.channels, len(own.test)) == (
        "digits",
        ("dark", "bright"),
        1,
        60,
    )
    net = network()
    training.train(net, own, epochs=10, batch_size=10, learning_rate=0.3)
    assert training.evaluate(net, own.test) == 100


def test_batches_are_the_items_in_the_order_of_the_seed():
    split = Items(digits(count=23))
    x, y = zip(*(split[k] for k in range(23)), strict=True)
    whole = list(split.batches(5))
    assert torch.equal(torch.cat([x for x, _ in whole]), torch.stack(x))
    assert torch.cat([y for _, y in whole]).tolist() == list(y)
    shuffled = list(split.batches(5, seed=3, epoch=1))
    again = list(split.batches(5, seed=3, epoch=1, start=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(shuffled[2:], again, strict=True))
    labelled = Items(TensorDataset(torch.zeros(23, 1, 2, 2), torch.arange(23)))
    orders = [
        torch.cat([y for _, y in labelled.batches(5, seed=3, epoch=e)]).tolist() for e in (0, 1)
    ]
    assert orders[0] != orders[1] and all(sorted(order) == list(range(23)) for order in orders)
    parts = [next(labelled.batches(6, part=(r, 2)))[1].tolist() for r in (0, 1)]
    assert parts == [[0, 1, 2], [3, 4, 5]]
    assert [y.item() for _, y in labelled.subset([4, 2]).batches(1)] == [4, 2]


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"
)  # Python 3.12 and later
def test_random_transforms_depend_on_seed_epoch_and_item_alone():
    options = {"seed": 0, "epoch": 4}
    first = list(Items(Noisy()).batches(4, **options))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for workers in (0, 1):
        again = list(Items(Noisy(), workers).batches(4, **options))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert not torch.equal(first[0][0], next(Items(Noisy()).batches(4, seed=0, epoch=5))[0])
    assert len({x.item() for batch, _ in first for x in batch[:, 0, 0, 0]}) == 12


def test_of_a_loader_the_data_set_is_taken():
    def collate(items):
        x, y = default_collate(items)
        return x + 1, y

    train = DataLoader(Noisy(), batch_size=2, shuffle=True, collate_fn=collate)
    own = Data.of(train, Subset(Noisy(), [0, 1]), Noisy())
    assert own.classes == ("a", "b") and own.train.collate is collate and len(own.validation) == 2
    assert next(own.train.batches(4))[0].shape == (4, 1, 4, 4)
    assert Data.of(Subset(Noisy(), [1]), Noisy(), Noisy()).classes == ("a", "b")
    with pytest.warns(
        UserWarning,
        match="the order of a loader is not used, and this one has a WeightedRandomSampler",
    ):
        Data.of(DataLoader(Noisy(), sampler=WeightedRandomSampler([1.0] * 12, 4)), Noisy(), Noisy())


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (torch.zeros(1, 4, 4), r"must be pairs \(image, label\), got Tensor"),
        (
            (torch.zeros(1, 4, 4, dtype=torch.uint8), 0),
            r"float tensors \(C, H, W\), got torch.uint8 \(1, 4, 4\): give",
        ),
        (
            (np.zeros((4, 4)), 0),
            "got ndarray: give the data set a transform such as torchvision.transforms.ToTensor",
        ),
        ((torch.zeros(4, 4), 0), r"got torch.float32 \(4, 4\)"),
        (
            (torch.zeros(1, 4, 4), torch.zeros(3)),
            r"labels must be whole numbers, got a tensor \(3,\)",
        ),
    ],
)
def test_items_that_are_none_are_refused_with_what_to_add(item, says):
    with pytest.raises(TypeError, match=says):
        Items([item])
    with pytest.raises(TypeError, match="needs a length and items by number, got generator"):
        Items(x for x in ())
    with pytest.raises(ValueError, match="no attribute classes: say classes=10"):
        Data.of(digits(), digits(), digits())


# ------------------------------------------------------------------------------------- splits as data sets


def test_a_split_is_a_torch_data_set():
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    split = Images(images, torch.arange(10), HALF, HALF)
    loaded = list(DataLoader(split, batch_size=4))
    ours = list(split.batches(4))
    assert all(
        torch.equal(a, b)
        for both in zip(loaded, ours, strict=True)
        for a, b in zip(*both, strict=True)
    )
    assert split[-1][1] == 9 and [y for _, y in split] == list(range(10))
    assert Subset(split, [3])[0][1] == 3
    for index in (10, -11):
        with pytest.raises(IndexError, match=f"index must be from 0 to 9, got {index}"):
            split[index]
    ready = Items(split)  # a split is a data set of one's own, too
    assert torch.equal(next(ready.batches(10))[0], next(split.batches(10))[0])


def test_images_in_any_number_of_channels_and_their_statistics():
    one = Images(
        torch.zeros(9, 1, 28, 28, dtype=torch.uint8),
        torch.zeros(9, dtype=torch.int64),
        (0.1,),
        (0.3,),
    )
    assert one[0][0].shape == (1, 28, 28) and one[0][0].unique().item() == pytest.approx(-1 / 3)
    with pytest.raises(
        ValueError, match="mean and std must have a number for each channel, got 1 channels, mean 3"
    ):
        Images(one.images, one.labels, HALF, HALF)


# ------------------------------------------------------------------------------------- the channels that are expected


class Later(nn.Module):
    """A network whose first convolution by name is not the first that runs."""

    def __init__(self):
        super().__init__()
        self.a, self.stem, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 1), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc((self.a(self.stem(x)[:, :1])).mean((2, 3)))


def test_data_for_a_network_has_the_channels_that_it_takes():
    full = data.load("builtin")
    assert full.for_network(network(channels=3, classes=10)) is full
    assert full.for_network(Later()) is full
    one = full.for_network(network(channels=1, classes=10))
    assert [part.channels for part in (one.train, one.validation, one.test)] == [1, 1, 1]
    assert one.for_network(network(channels=3, classes=10)).train.channels == 3
    with pytest.raises(
        ValueError,
        match="takes images of 4 channels, the data builtin has 3: give the first layer 3",
    ):
        full.for_network(network(channels=4, classes=10))
    own = Data.of(*[digits(channels=3)] * 3, classes=2)
    with pytest.raises(
        ValueError,
        match="takes images of 1 channels, the data own has 3: give the first layer 3 inputs",
    ):
        own.for_network(network())


def test_training_takes_the_channels_that_the_network_expects():
    net, full = network(classes=10), data.load("builtin")
    small = Data(
        full.name,
        full.classes,
        full.normalize,
        *(s.subset(range(40)) for s in (full.train, full.test, full.test)),
    )
    assert len(training.train(net, small, epochs=1, batch_size=20)) == 1
    assert 0 <= training.evaluate(net, small.for_network(net).test) <= 100


def test_transforms_of_torchvision_go_through():
    class Drawn(Dataset):
        transform = v2.Compose(
            [v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        )
        classes = range(3)

        def __len__(self):
            return 6

        def __getitem__(self, index):
            pixels = np.full((5, 5, 3), index * 40, np.uint8)
            return self.transform(pixels), index % 3

    x, y = next(Items(Drawn()).batches(6))
    assert x.shape == (6, 3, 5, 5) and y.tolist() == [0, 1, 2, 0, 1, 2]
    assert x[:, 0, 0, 0].tolist() == pytest.approx([k * 40 / 255 for k in range(6)])
