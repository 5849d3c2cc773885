"""Data sets: the built-in images, folders, CIFAR10's layouts, and batches that depend on nothing but their names."""

import doctest
import importlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, PngImagePlugin
from torchvision.transforms import v2

from hmq_lab import data
from hmq_lab.data import builtin as glyphs
from hmq_lab.data import folders
from hmq_lab.data.images import (
    Folder,
    Images,
    crop_flip,
    middle,
    normalize,
    plan,
    random_part,
    read,
)
from hmq_lab.seeds import generator

HALF = (0.5, 0.5, 0.5)


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v)
        for (x, y), (u, v) in zip(first, second, strict=True)
    )


@pytest.fixture
def split():
    images = torch.randint(256, (23, 3, 32, 32), dtype=torch.uint8)
    return Images(images, torch.arange(23) % 10, HALF, HALF)


def write_folder(root, counts, size=(32, 32), suffix=".png", seed=0):
    """An image folder with so many pictures per class in each split: {"train": {"cat": 3}}."""
    rng = np.random.default_rng(seed)
    for part, classes in counts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{k}{suffix}")
    return root


# ---------------------------------------------------------------------------------------------------- batches


def test_in_order_batches_are_the_pictures_themselves(split):
    x = torch.cat([x for x, _ in split.batches(5)])
    torch.testing.assert_close(x, (split.images.float() / 255 - 0.5) / 0.5)
    assert torch.equal(torch.cat([y for _, y in split.batches(5)]), split.labels)


def test_a_batch_depends_on_its_name_alone(split):
    options = {"seed": 7, "epoch": 2, "augment": True}
    whole = list(split.batches(4, **options))
    torch.rand(3)  # other random numbers in between change nothing
    assert same(whole, list(split.batches(4, **options)))
    for start in range(len(whole) + 1):
        assert same(whole[start:], list(split.batches(4, start=start, **options)))
    assert not same(whole, list(split.batches(4, seed=7, epoch=3, augment=True)))
    assert not same(whole, list(split.batches(4, seed=8, epoch=2, augment=True)))


def test_an_epoch_visits_every_picture_once(split):
    labelled = replace(split, labels=torch.arange(23))
    for epoch in (0, 1):
        seen = torch.cat([y for _, y in labelled.batches(4, seed=0, epoch=epoch)])
        assert seen.tolist() != list(range(23)) and sorted(seen.tolist()) == list(range(23))
    assert [len(y) for _, y in split.batches(4, drop_last=True)] == [4] * 5
    assert [len(y) for _, y in split.batches(4)] == [4] * 5 + [3]


def test_going_through_draws_no_global_random_numbers(split):
    before = torch.get_rng_state()
    list(split.batches(4, seed=0, augment=True))
    assert torch.equal(before, torch.get_rng_state())


def test_crop_flip_is_a_window_of_the_padded_picture():
    images = torch.randint(1, 256, (64, 3, 8, 8), dtype=torch.uint8)
    moved = crop_flip(images, generator(0, "test"), padding=2)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    seen = set()
    for picture, whole in zip(moved, padded, strict=True):
        windows = {(r, c): whole[:, r : r + 8, c : c + 8] for r in range(5) for c in range(5)}
        hits = [
            (*at, f)
            for at, w in windows.items()
            for f in (0, 1)
            if torch.equal(picture, w.flip(2) if f else w)
        ]
        assert len(hits) == 1
        seen.update(hits)
    assert len(seen) > 25 and {f for *_, f in seen} == {0, 1}  # of 50
    straight = crop_flip(images, generator(0, "test"), padding=0, flip=False)
    assert torch.equal(straight, images)


def test_a_split_may_be_empty(split):
    assert plan(0, 4) == [] and list(split.subset([]).batches(4)) == []
    assert split.subset(range(3)).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"batch_size": 4, "augment": True}, "needs a seed"),
        ({"batch_size": 4, "start": 7}, "start must be from 0 to 6, .*got 7"),
    ],
)
def test_senseless_batches_are_refused_at_the_call(split, options, message):
    with pytest.raises(ValueError, match=message):
        split.batches(**options)


def test_pictures_that_do_not_fit_are_refused(split):
    with pytest.raises(ValueError, match=r"images must be uint8 .* got torch.float32"):
        replace(split, images=split.images.float())
    with pytest.raises(ValueError, match=r"labels must be int64 \(23,\), got torch.int64 \(5,\)"):
        replace(split, labels=torch.arange(5))
    with pytest.raises(ValueError, match=r"augmentation must be .* got 'mixup'"):
        replace(split, augmentation="mixup")


# ---------------------------------------------------------------------------------------------------- built in


def test_glyphs_are_the_same_every_time_and_differ_between_streams():
    images, labels = glyphs.make(130, seed=3)
    again, few = glyphs.make(130, seed=3), glyphs.make(7, seed=3)
    assert (images == again[0]).all() and (labels == again[1]).all()
    assert (images[:7] == few[0]).all() and (labels[:7] == few[1]).all()
    assert (glyphs.make(100, seed=3, stream="test")[0] != images[:100]).mean() > 0.9
    assert (
        images.dtype == np.uint8
        and labels.dtype == np.int64
        and len(np.unique(images, axis=0)) == 130
    )


def test_the_builtin_data_set():
    full = data.load("builtin")
    assert [len(s) for s in (full.train, full.validation, full.test)] == [8000, 2000, 2000]
    assert full.classes == tuple(sorted(full.classes)) and len(full.classes) == 10
    for part in (full.train, full.validation, full.test):
        assert (part.labels.bincount() == len(part) // 10).all()
    x = normalize(full.train.images, full.mean, full.std)
    assert (
        x.mean(dim=(0, 2, 3)).abs().max() < 0.05 and (x.std(dim=(0, 2, 3)) - 1).abs().max() < 0.05
    )
    assert data.load("builtin", validation=50).validation.images.equal(full.validation.images[:50])
    assert data.load("builtin", normalize="half").test.std == HALF


def test_glyphs_have_no_shortcut():
    """Neither mean colours nor single pixels tell the class: a linear classifier does hardly better than chance."""
    images, labels = glyphs.make(1500)
    x = torch.from_numpy(images).float().flatten(1) / 255 - 0.5
    y = torch.nn.functional.one_hot(torch.from_numpy(labels)).float()
    weights = torch.linalg.solve(
        x[:1000].T @ x[:1000] + 30 * torch.eye(x.shape[1]), x[:1000].T @ (y[:1000] - 0.1)
    )
    right = (x[1000:] @ weights).argmax(dim=1) == y[1000:].argmax(dim=1)
    assert right.float().mean() < 0.25


# ---------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_small_pictures_is_kept_in_memory(tmp_path):
    write_folder(tmp_path / "pets", {"train": {"cat": 12, "dog": 8}, "val": {"cat": 2, "dog": 2}})
    pets = data.load(tmp_path / "pets", validation=5)
    assert (pets.name, pets.classes, pets.normalize) == ("pets", ("cat", "dog"), "imagenet")
    assert isinstance(pets.train, Images)
    assert pets.train.labels.bincount().tolist() == [
        9,
        6,
    ] and pets.validation.labels.bincount().tolist() == [3, 2]
    assert len(pets.test) == 4
    on_disk = np.asarray(Image.open(tmp_path / "pets/val/dog/1.png")).transpose(2, 0, 1)
    found = [
        y
        for image, y in zip(pets.test.images, pets.test.labels, strict=True)
        if (image.numpy() == on_disk).all()
    ]
    assert found == [1]


def test_val_is_for_validation_where_there_is_test_too(tmp_path):
    write_folder(
        tmp_path, {"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 2}, "test": {"a": 3, "b": 3}}
    )
    loaded = data.load(tmp_path)
    assert [len(s) for s in (loaded.train, loaded.validation, loaded.test)] == [8, 4, 6]


def test_large_pictures_are_read_when_asked_for(tmp_path):
    write_folder(
        tmp_path,
        {"train": {"a": 6, "b": 5}, "val": {"a": 2, "b": 2}},
        size=(90, 70),
        suffix=".JPEG",
    )
    large = data.load(tmp_path, image_size=56, workers=0, validation=2)
    assert isinstance(large.train, Folder) and (large.train.size, large.train.resize) == (56, 64)
    assert data.load(tmp_path, validation=2).train.size == 224
    options = {"seed": 1, "epoch": 4, "augment": True}
    whole = list(large.train.batches(4, **options))
    assert whole[0][0].shape == (4, 3, 56, 56) and whole[0][0].dtype == torch.float32
    assert same(whole[1:], list(large.train.batches(4, start=1, **options)))
    assert not same(whole, list(large.train.batches(4, seed=1, epoch=5, augment=True)))
    ours = next(large.test.batches(1))[0][0]
    theirs = v2.Compose([v2.Resize(64), v2.CenterCrop(56), v2.PILToTensor()])(
        Image.open(large.test.files[0])
    )
    torch.testing.assert_close(ours, normalize(theirs, large.mean, large.std))


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"
)  # Python 3.12 and later
def test_worker_processes_give_the_same_pictures(tmp_path):
    write_folder(tmp_path, {"train": {"a": 5, "b": 5}, "val": {"a": 1, "b": 1}}, size=(70, 90))
    alone = data.load(tmp_path, image_size=28, workers=0, validation=1).train
    before = torch.get_rng_state()
    for epoch in (0, 1):
        options = {"seed": 0, "epoch": epoch, "augment": True}
        assert same(
            list(alone.batches(3, **options)), list(replace(alone, workers=1).batches(3, **options))
        )
    assert torch.equal(before, torch.get_rng_state())


def test_parts_and_middles_have_the_size_asked_for():
    for size in ((300, 20), (20, 300), (31, 33), (1, 1)):
        picture = Image.new("RGB", size)
        assert middle(picture, 24, 28).size == (24, 24)
        assert random_part(picture, 24, generator(0)).size == (24, 24)


def test_validation_is_cut_by_class_and_always_alike():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    rest, held = folders.cut(labels, 20)
    assert labels[held].bincount().tolist() == [12, 6, 2]
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(100))
    torch.manual_seed(99)
    assert torch.equal(folders.cut(labels, 20)[1], held)
    assert len(folders.cut(labels, 0)[1]) == 0
    with pytest.raises(ValueError, match=r"validation must be from 0 to 99, .*got 100"):
        folders.cut(labels, 100)


def test_folders_that_are_not_as_they_should_be(tmp_path):
    for name, hint in (
        ("cifar11", "cifar10"),
        ("CIFAR10", "cifar10"),
        ("ImageNet", "imagenet"),
        ("bultin", "builtin"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"no data '{name}': did you mean {hint}\?"):
            data.load(name)
    with pytest.raises(
        FileNotFoundError, match=r"no data 'photos': it is neither builtin, .* nor a folder"
    ):
        data.load("photos")
    with pytest.raises(
        ValueError, match=r"must hold train/ and one of val/ and test/, it holds nothing"
    ):
        data.load(tmp_path)
    root = write_folder(tmp_path, {"train": {"a": 3, "b": 3}, "val": {"a": 1}})
    with pytest.raises(ValueError, match=r"must hold the same classes, they differ in \['b'\]"):
        data.load(root)
    (root / "val" / "b").mkdir()
    with pytest.raises(ValueError, match=r"b holds no images"):
        data.load(root)
    (root / "val" / "b" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(ValueError, match=r"7\.png cannot be read as an image"):
        data.load(root)
    Image.new("RGB", (16, 16)).save(root / "val" / "b" / "7.png")
    with pytest.raises(
        ValueError,
        match=r"7\.png has \(16, 16\) pixels and others \(32, 32\): small images must be of one size",
    ):
        data.load(root)
    assert data.load(root, image_size=24, workers=0, validation=1).test.size == 24
    with pytest.raises(ValueError, match="has 6 training images, at least 10 are needed"):
        data.load(root, image_size=24, workers=0)
    for size in (0, -3, 2.5, "24", 10**9):
        with pytest.raises(
            ValueError,
            match=f"image_size must be a whole number of pixels from 1 to 4096, got {size!r}",
        ):
            data.load(root, image_size=size)
    with pytest.raises(
        ValueError, match=r"image_size is for images in files: the built-in images .* got 64"
    ):
        data.load("builtin", image_size=64)
    with pytest.raises(ValueError, match=r"normalize must be one of .*, got 'cifar'"):
        data.load(root, normalize="cifar")
    with pytest.raises(FileNotFoundError, match="put train/ and val/ into it"):
        data.load("imagenet", root=tmp_path)


@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"
)  # Python 3.12 and later
def test_an_unreadable_picture_is_named_also_when_read_late(tmp_path):
    root = write_folder(
        tmp_path, {"train": {"a": 3, "b": 3}, "val": {"a": 1, "b": 1}}, size=(80, 80)
    )
    broken = root / "val" / "b" / "0.png"
    broken.write_bytes(b"no picture")
    for workers in (0, 1):  # in this process, and in one whose traceback must not be in the message
        with pytest.raises(ValueError) as error:
            list(data.load(root, workers=workers, validation=1).test.batches(2))
        assert str(error.value).startswith(f"{broken} cannot be read as an image: ")
        assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


def test_whatever_pil_says_the_file_is_named(tmp_path, monkeypatch):
    path, about = tmp_path / "a.png", PngImagePlugin.PngInfo()
    about.add_text("comment", "x" * 1000, zip=True)
    Image.new("RGB", (32, 32)).save(path, pnginfo=about)
    assert read(path).size == (32, 32)
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 1000
    )  # 1,024 are more: a warning without a name, and it can be read
    assert read(path).size == (32, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        ValueError, match=rf"{path} cannot be read as an image: .*decompression bomb"
    ):
        read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 100)  # a ValueError of PIL's own
    with pytest.raises(ValueError, match=rf"{path} cannot be read as an image: "):
        read(path)
    with pytest.raises(ValueError, match=rf"{tmp_path} cannot be read as an image"):
        read(tmp_path)


# ---------------------------------------------------------------------------------------------------- CIFAR10


def test_cifar10_is_the_same_as_an_image_folder_and_as_torchvision_has_it(tmp_path, monkeypatch):
    """torchvision's own files are 170 MB, so a stand-in takes the place of its class: other order, same pictures."""
    counts = {"train": dict.fromkeys(data.CIFAR10, 6), "test": dict.fromkeys(data.CIFAR10, 2)}
    write_folder(tmp_path / "a" / "cifar10", counts)
    from_folder = data.load("cifar10", root=tmp_path / "a", validation=10)

    class Packed:
        def __init__(self, root, train=True, download=False):
            assert root == tmp_path / "b" and not download
            _, splits = folders.scan(tmp_path / "a" / "cifar10")
            files, labels = splits["train" if train else "test"]
            self.data = folders.decode(files, (32, 32)).permute(0, 2, 3, 1).flip(0).numpy()
            self.targets = labels.flip(0).tolist()

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Packed)
    (tmp_path / "b" / "cifar-10-batches-py").mkdir(parents=True)
    packed = data.load("cifar10", root=tmp_path / "b", validation=10)
    for loaded in (
        packed,
        data.load(tmp_path / "b", validation=10),
        data.load(tmp_path / "a/cifar10", validation=10),
    ):
        assert (loaded.name, loaded.classes, loaded.normalize) == (
            "cifar10",
            data.CIFAR10,
            "cifar10",
        )
        for part in ("train", "validation", "test"):
            ours, theirs = getattr(loaded, part), getattr(from_folder, part)
            assert torch.equal(ours.images, theirs.images) and torch.equal(
                ours.labels, theirs.labels
            )
    assert (from_folder.validation.labels.bincount() == 1).all()


def test_cifar10_that_is_missing_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("HMQ_LAB_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=f"no CIFAR10 in {tmp_path}/cifar10 or {tmp_path}: .*--root.*--down"
    ):
        data.load("cifar10")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged or incomplete"):
        data.load("cifar10")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is damaged"):
        data.load("cifar10")


# ---------------------------------------------------------------------------------------------------- the modules


def test_importing_loads_no_matplotlib():
    code = "import sys, hmq_lab.data, hmq_lab.models, hmq_lab.models.training; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name", ["data.datasets", "data.folders", "data.builtin", "data.images", "seeds"]
)
def test_examples(name):
    options = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    assert (
        doctest.testmod(importlib.import_module(f"hmq_lab.{name}"), optionflags=options).failed == 0
    )
