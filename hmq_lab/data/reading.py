"""One image file as 8-bit RGB or grey, upright, on white; or one line why it cannot be read.

>>> import tempfile
>>> path = tempfile.mkdtemp() + "/a.png"
>>> Image.new("RGB", (3, 2)).save(path)
>>> read(path).size, read(path, channels=1).mode
((3, 2), 'L')
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from hmq_lab.data.atomic import check_readable

# The formats that are tried, whatever the name of the file says: only those that are pixels. EPS or
# WMF start programs.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}  # Pillow's mode for each number of channels
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
TURNS = {  # the value of the EXIF orientation tag -> what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC = 0x0112, 258, 262  # numbers of TIFF tags
EXAMINED = 64  # files of a data set whose range of values is looked at


def read(file: str | os.PathLike, channels: int = 3) -> Image.Image:
    """The image in a file, in 8 bits a channel.

    16-bit grey is scaled to 8 bits. The EXIF orientation is applied. What is transparent lies on
    white. Of an animation or a stack of images it is the first.

    Args:
        file: BMP, GIF, JPEG, PNG, PPM, TIFF or WebP, whatever its name.
        channels: 3 for RGB, 1 for grey.

    Raises:
        ValueError: the file is missing, damaged or a pipe, or its pixels have no defined range
            (floats, 32 bits).
    """
    try:
        check_readable(file, "image")
        with warnings.catch_warnings():
            # What can be read is read; Pillow's warnings do not name the file.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as opened:
                opened.load()
                turn = TURNS.get(_orientation(opened))
                image = _on_white(_in_8_bits(opened))
        upright = image if turn is None else image.transpose(turn)
        return upright.convert(MODES[channels])
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file} cannot be read as an image: {reason}") from error


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; other modes as they are, if they have 8 bits or fewer."""
    if image.mode == "F":
        raise ValueError(
            "its mode is F (floats), which have no defined range: save it with 8 or 16 bits"
        )
    # Portable grey maps of more than 8 bits are 16-bit values in mode I; so are 16-bit PNGs in
    # older versions.
    sixteen = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    if image.mode == "I" and not sixteen:
        raise ValueError(
            "its mode is I (32-bit integers), which have no defined range: save it with 8 or 16 bits"
        )
    if not sixteen:
        return image
    # Scaled so that the largest value becomes 255, and rounded to the nearest.
    values = np.asarray(image).astype(np.int64)
    largest = _largest(image)
    scaled = (values * 255 + largest // 2) // largest
    # Some TIFF files count from white to black.
    if _tag(image, PHOTOMETRIC) == 0:
        scaled = 255 - scaled
    return Image.fromarray(scaled.astype(np.uint8))


def _largest(image: Image.Image) -> int:
    """The largest value that a pixel of more than 8 bits can have."""
    # TIFF files may have 10, 12 or 14 bits a pixel.
    bits = _tag(image, BITS_PER_SAMPLE)
    first = bits[0] if isinstance(bits, tuple) and bits else bits
    return 2**first - 1 if isinstance(first, int) and 8 < first < 16 else 2**16 - 1


def _tag(image: Image.Image, number: int):
    """A tag of a TIFF file; None for other formats."""
    return getattr(image, "tag_v2", {}).get(number)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, from 1 (upright) to 8."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing, and the pixels are whole
        return 1


def _on_white(image: Image.Image) -> Image.Image:
    """The image without transparency, as it looks on a white page."""
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image
    # A white page, and the image laid on it.
    colours = image.convert("RGBA")
    page = Image.new("RGBA", colours.size, "white")
    page.alpha_composite(colours)
    return page.convert("RGB")


def check_range(files: Sequence[str]) -> None:
    """Raise a ValueError if 16-bit images use at most 12 bits: they would be nearly black.

    Cameras and scanners often write 12-bit values into 16-bit files. The range of the values is
    then not known, and fewer than 16 of 256 levels would be left.

    Args:
        files: image files. Of many, 64 are looked at, spread over all; those that cannot be read
            are left out.
    """
    # The largest value of those that are looked at.
    largest, example = 0, ""
    for file in files[:: max(1, len(files) // EXAMINED)]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check_readable(file)
                with Image.open(file, formats=FORMATS) as image:
                    if not image.mode.startswith("I;16") or _largest(image) != 2**16 - 1:
                        continue
                    found = int(np.asarray(image).max())
        except Exception:  # `read` says what is wrong with it
            continue
        example = example or file
        largest = max(largest, found)
    if example and largest < 2**12:
        raise ValueError(
            f"{example} and the others are 16-bit images (mode I;16) with values up to {largest} "
            f"of 65535, so nearly "
            "black: multiply the values to fill the 16 bits, or save 8 bits"
        )
