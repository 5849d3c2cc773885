"""Image files of others: what a network gets of each kind of pixel, and what is refused by name."""

import os
import resource
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from hmq_lab import data
from hmq_lab.data.augmentation import grey, middle, random_part
from hmq_lab.data.reading import read
from hmq_lab.seeds import generator

RNG = np.random.default_rng(0)


def folder_of(root, make, end, splits=("train", "val"), count=20, classes=2):
    """A data set: images of class c are `make(c)`."""
    for split in splits:
        for c in range(classes):
            (root / split / str(c)).mkdir(parents=True)
            for i in range(count):
                make(c).save(root / split / str(c) / f"{i}.{end}")
    return root


def means(root):
    """The mean of the values that a network gets of each class, without normalization."""
    x, y = next(data.load(root, normalize="identity").test.batches(1000))
    return [round(x[y == c].mean().item(), 2) for c in (0, 1)]


# ------------------------------------------------------------------------------------- ranges of values


def sixteen_bits(c):
    return Image.fromarray(RNG.integers(0, 32768 * (c + 1), (32, 32), dtype=np.uint16))


def eight_bits(c):
    return Image.fromarray(RNG.integers(0, 128 * (c + 1), (32, 32), dtype=np.uint8))


@pytest.mark.parametrize(
    ("make", "end"), [(sixteen_bits, "png"), (sixteen_bits, "tif"), (eight_bits, "png")]
)
def test_16_bits_are_scaled_to_8(tmp_path, make, end):
    assert means(folder_of(tmp_path, make, end)) == [0.25, 0.5]


def test_every_16_bit_value_is_rounded_to_the_nearest_of_8_bits(tmp_path):
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for end in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"a.{end}")
        found = np.asarray(read(tmp_path / f"a.{end}", channels=1))
        assert (found == np.rint(values / 65535 * 255)).all()
    big = Image.frombytes(
        "I;16B", (256, 256), values.astype(">u2").tobytes()
    )  # the other byte order
    big.save(tmp_path / "b.tif")
    assert (np.asarray(read(tmp_path / "b.tif", channels=1)) == found).all()


def test_16_bit_tiff_that_counts_from_white_and_portable_grey_maps(tmp_path):
    values = np.array([[0, 65535, 257 * 100]], np.uint16)
    Image.fromarray(values).save(tmp_path / "white.tif", tiffinfo={262: 0})
    assert np.asarray(read(tmp_path / "white.tif", channels=1)).tolist() == [[255, 0, 155]]
    (tmp_path / "a.ppm").write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    assert np.asarray(read(tmp_path / "a.ppm", channels=1)).tolist() == [[0, 255, 100]]
    (tmp_path / "b.ppm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert np.asarray(read(tmp_path / "b.ppm", channels=1)).tolist() == [[0, 255]]


def test_12_bits_in_16_would_be_black_and_are_refused(tmp_path):
    def twelve_bits(c):
        return Image.fromarray(RNG.integers(0, 2048 * (c + 1), (32, 32), dtype=np.uint16))

    with pytest.raises(
        ValueError,
        match=r"\.png and the others are 16-bit images \(mode I;16\) with values up to 409",
    ):
        data.load(folder_of(tmp_path, twelve_bits, "png"))


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (RNG.random((32, 32), dtype=np.float32), "F"),
        (RNG.random((32, 32), dtype=np.float32) * 255, "F"),
        (RNG.integers(0, 2**31, (32, 32), dtype=np.int32), "I"),
        (RNG.integers(0, 255, (32, 32), dtype=np.int32), "I"),
    ],
)
def test_values_without_a_defined_range_are_refused_by_name_and_mode(tmp_path, pixels, mode):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError,
        match=rf"a\.tif cannot be read as an image: its mode is {mode} \(.*save it with 8",
    ):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_other_modes_are_what_pillow_makes_of_them(tmp_path, mode):
    colours = Image.fromarray(RNG.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    path = tmp_path / "a.tif"
    colours.convert(mode).save(path)
    with Image.open(path) as theirs:
        assert theirs.mode == mode
        for channels, ours in ((3, "RGB"), (1, "L")):
            assert read(path, channels).mode == ours
        assert (np.asarray(read(path)) == np.asarray(theirs.convert("RGB"))).all()


# ------------------------------------------------------------------------------------- upright, on white


@pytest.mark.parametrize("end", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, end, orientation):
    """The upright image is white at its top left; the file holds it turned, as a camera stores it."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    upright[16:, :16] = 128
    undo = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
            8: lambda a: np.rot90(a, -1)}  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{end}", exif=exif)
    found = np.asarray(read(tmp_path / f"a.{end}")).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).mean() < 4  # JPEG and WebP lose a little


def test_16_bit_images_are_turned_too_and_a_damaged_exif_block_is_no_reason_to_refuse(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert np.asarray(read(tmp_path / "a.png", channels=1)).tolist() == [[0], [255]]
    Image.new("RGB", (3, 2), "red").save(
        tmp_path / "b.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f"
    )
    assert read(tmp_path / "b.jpg").size == (3, 2)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    """A black pixel, a transparent black pixel, and half-transparent black where the mode has such."""
    path = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        pixels = Image.new(mode, (3, 1))
        for x, alpha in enumerate((255, 0, 51)):
            pixels.putpixel((x, 0), (0,) * (len(mode) - 1) + (alpha,))
        pixels.save(path)
        expected = [0, 255, 204]
    elif mode == "P":
        pixels = Image.new("P", (3, 1))
        pixels.putpalette([0, 0, 0] * 2 + [255, 255, 255])
        pixels.putdata([0, 1, 2])
        pixels.save(path, transparency=1)
        expected = [0, 255, 255]
    else:  # one colour counts as transparent
        pixels = Image.new(mode, (3, 1))
        for x, level in enumerate((7, 0, 9)):
            pixels.putpixel((x, 0), level if mode == "L" else (level,) * 3)
        pixels.save(path, transparency=0 if mode == "L" else (0, 0, 0))
        expected = [7, 255, 9]
    assert np.asarray(read(path)).tolist() == [[[level] * 3 for level in expected]]
    assert np.asarray(read(path, channels=1)).tolist() == [expected]


# ------------------------------------------------------------------------------------- sizes, pipes, other formats


def test_the_middle_of_an_ordinary_image_is_torchvision_s():
    for size in ((300, 200), (77, 600), (256, 256), (1000, 130)):
        image = Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        theirs = v2.Compose([v2.Resize(64), v2.CenterCrop(56)])(image)
        assert (np.asarray(middle(image, 56, 64)) == np.asarray(theirs)).all()


def test_absurd_sizes_need_no_absurd_work():
    """An image of one pixel by 60,000 would be brought to 256 by 15 million: 12 gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((1, 60_000), (60_000, 1), (3, 50_000)):
        image = Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        assert middle(image, 224, 256).size == (224, 224)
        assert random_part(image, 224, generator(0)).size == (224, 224)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (
        1 if sys.platform == "darwin" else 1024
    )
    assert grown < 200 * 2**20
    # What the middle shows: the tone of the place that it is cut from.
    ramp = Image.fromarray(
        np.repeat(np.linspace(0, 255, 9000).astype(np.uint8)[:, None], 1, 1)
    ).convert("RGB")
    assert np.abs(np.asarray(middle(ramp, 224, 256)).astype(float) - 127.5).max() < 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    root = folder_of(tmp_path, eight_bits, "png")
    os.mkfifo(root / "train" / "1" / "pipe.png")
    with pytest.raises(
        ValueError,
        match=r"pipe\.png cannot be read as an image: .* is a pipe \(FIFO\), no ordinary",
    ):
        data.load(root)
    with pytest.raises(
        ValueError, match=r"/dev/zero cannot be read as an image: /dev/zero is a device"
    ):
        read("/dev/zero")


def test_the_content_counts_and_formats_that_are_programs_are_not_run(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    assert read(tmp_path / "a.png").size == (5, 4)
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(
        ValueError, match=r"b\.png cannot be read as an image: cannot identify image file"
    ):
        read(tmp_path / "b.png")


def test_files_that_are_left_out_are_said(tmp_path):
    root = folder_of(tmp_path, eight_bits, "png")
    for name in (".DS_Store", "Thumbs.db"):  # not these
        (root / "train" / "0" / name).write_bytes(b"")
    data.load(root)
    Image.new("L", (32, 32)).save(root / "train" / "1" / "a.gif")
    (root / "train" / "1" / "notes.txt").write_text("x")
    (root / "val" / "loose.png").write_bytes(b"")
    with pytest.warns(
        UserWarning,
        match=r"left out of the images: 1 \.gif, 1 \.png, 1 \.txt \(the first is .*a\.gif",
    ):
        assert len(data.load(root).train) == 36
    (root / "val" / "2").mkdir()
    (root / "val" / "2" / "b.gif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 holds no images \(\.bmp .*\), it holds b\.gif"):
        data.load(root)


def test_a_class_without_images_for_validation_is_said(tmp_path):
    root = folder_of(tmp_path, eight_bits, "png")
    for k in range(1, 20):
        (root / "train" / "1" / f"{k}.png").unlink()
    with pytest.warns(
        UserWarning, match=r"the 2 validation images hold none of the classes 1 \(1\), in brackets"
    ):
        loaded = data.load(root)
    assert loaded.validation.labels.tolist() == [0, 0] and 1 in loaded.train.labels


# ------------------------------------------------------------------------------------- channels


def test_brightness_is_pillow_s():
    colours = RNG.integers(0, 256, (4, 3, 9, 9), dtype=np.uint8)
    theirs = [
        np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in colours
    ]
    assert (grey(torch.from_numpy(colours))[:, 0].numpy() == np.stack(theirs)).all()


@pytest.mark.parametrize("size", [None, 40])
def test_grey_images_for_a_network_with_one_channel(tmp_path, size):
    root = folder_of(tmp_path, eight_bits, "png")
    colour = data.load(root, image_size=size, workers=0, normalize="half")
    one = colour.with_channels(1)
    x, y = next(one.test.batches(100))
    full, same_y = next(colour.test.batches(100))
    assert x.shape[1] == 1 and torch.equal(y, same_y)
    torch.testing.assert_close(
        x.expand(-1, 3, -1, -1), full
    )  # grey as RGB has three equal channels
    assert one.with_channels(3).test.channels == 3 and torch.equal(
        next(one.with_channels(3).test.batches(100))[0], full
    )
    assert torch.equal(one.test[3][0], x[3]) and one.test[3][1] == y[3]
    for split in (one.train, colour.train):
        with pytest.raises(ValueError, match=r"images of . channels cannot be brought to 2"):
            split.with_channels(2)


def test_the_normalization_of_grey_is_the_mean_of_the_channels(tmp_path):
    one = data.load(folder_of(tmp_path, eight_bits, "png")).with_channels(1)
    assert one.train.mean == (pytest.approx(0.449, abs=1e-3),) and one.train.std == (
        pytest.approx(0.226, abs=1e-3),
    )
