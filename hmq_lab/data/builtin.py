"""Built-in images: ten kinds of glyph, drawn by code, 32x32 RGB. No file is read.

>>> from hmq_lab.data import builtin as glyphs
>>> images, labels = glyphs.make(200, seed=0, stream="test")
>>> images.shape, images.dtype, [glyphs.CLASSES[k] for k in labels[:4]]
((200, 3, 32, 32), dtype('uint8'), ['cross', 'triangle', 'arrow', 'square'])

A glyph is a list of strokes, and a stroke is a polyline. Every image turns, stretches, bends and
moves the corners of its glyph. A pixel's ink follows from its distance to the nearest stroke, so
edges are smooth without drawing at a higher resolution. Ground, clutter, a blot, blur and noise
make it hard enough that two bits are too few.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hmq_lab.seeds import stable_hash

Array = NDArray[np.float32]
Uniform = Callable[..., Array]  # (low, high, *shape) -> random numbers, (N, *shape)
Stroke = list[tuple[float, float]]

SIZE = 32
# Images drawn at a time: the arrays stay in the cache. Another number would give other images.
CHUNK = 100


def _arc(start: float, end: float, corners: int, radius: float = 0.8) -> Stroke:
    """Corners along a circle, from one angle to another, in degrees; 90 points down."""
    angles = np.radians(np.linspace(start, end, corners + 1))
    return [(radius * np.cos(angle), radius * np.sin(angle)) for angle in angles]


_HALF_HEART: Stroke = [
    (0.0, 0.85),
    (0.8, 0.0),
    (0.85, -0.45),
    (0.5, -0.75),
    (0.15, -0.65),
    (0.0, -0.3),
]

# x to the right, y down, about one unit from the centre. None of them becomes another one in a
# mirror.
GLYPHS: dict[str, list[Stroke]] = {
    "arrow": [[(0, 0.9), (0, -0.9)], [(-0.6, -0.25), (0, -0.9), (0.6, -0.25)]],
    "cross": [[(-0.75, -0.75), (0.75, 0.75)], [(-0.75, 0.75), (0.75, -0.75)]],
    "fork": [[(0, 0.9), (0, -0.9)], [(-0.6, -0.9), (-0.5, -0.2), (0, 0), (0.5, -0.2), (0.6, -0.9)]],
    "heart": [_HALF_HEART, [(-x, y) for x, y in _HALF_HEART]],
    "horseshoe": [_arc(130, 410, 9)],
    "ring": [_arc(0, 360, 12)],
    "square": [[(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7)]],
    "star": [[*_arc(a, a, 0, 1.0), *_arc(a + 180, a + 180, 0, 1.0)] for a in (30, 90, 150)],
    "triangle": [_arc(-90, 270, 3, 0.95)],
    "zigzag": [[(-1, 0.45), (-0.5, -0.45), (0, 0.45), (0.5, -0.45), (1, 0.45)]],
}
CLASSES = tuple(GLYPHS)


def _segments(strokes: list[Stroke]) -> Array:
    """The straight parts of strokes: (K, 2 ends, 2 coordinates)."""
    ends = [pair for stroke in strokes for pair in itertools.pairwise(stroke)]
    return np.array(ends, np.float32)


SEGMENTS = [_segments(strokes) for strokes in GLYPHS.values()]


@dataclass(frozen=True)
class Look:
    """How far the images vary; lengths in pixels, colours from 0 to 1.

    >>> import dataclasses
    >>> dataclasses.replace(LOOK, noise=0.2).noise
    0.2

    Args:
        turn: degrees to either side.
        scale: pixels to a unit, least and most.
        stretch: logarithm of the largest ratio of width to height.
        shear: share of the height by which the top moves sideways.
        bend: how far straight strokes are bent.
        shift: pixels from the middle.
        half_width: of the strokes, least and most.
        contrast: distance of the glyph's colour from the ground's, least and most.
        gradient: change of the ground's colour across the image.
        grating: height of waves on the ground.
        clutter: stray strokes, each there half of the time.
        clutter_length: their largest half length in each direction.
        blot: how often a blot covers a part.
        blot_radius: its largest radius.
        blur: share of its neighbours in a pixel.
        noise: its largest standard deviation.
    """

    turn: float = 40.0
    scale: tuple[float, float] = (8.0, 12.5)
    stretch: float = 0.2
    shear: float = 0.2
    bend: float = 0.1
    shift: float = 3.5
    half_width: tuple[float, float] = (0.7, 1.6)
    contrast: tuple[float, float] = (0.3, 0.8)
    gradient: float = 0.3
    grating: float = 0.08
    clutter: int = 3
    clutter_length: float = 5.0
    blot: float = 0.5
    blot_radius: float = 3.5
    blur: float = 1.0
    noise: float = 0.09


LOOK = Look()


def make(
    count: int, seed: int = 0, stream: str = "train", look: Look = LOOK
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`count` images and their labels, as many of one class as of another.

    >>> few, many = make(30, seed=1)[0], make(300, seed=1)[0]
    >>> bool((few == many[:30]).all())  # an image depends on its number only
    True

    Args:
        count: images to draw.
        seed: other seeds give other images.
        stream: "train", "validation" and "test" are different images of one kind.
        look: how far they vary.

    Returns:
        uint8 (count, 3, 32, 32) and int64 (count,).

    Raises:
        ValueError: the count is negative.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, got {count}")
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    labels = np.empty(count, np.int64)
    for start in range(0, count, CHUNK):
        number = stable_hash(seed, "glyphs", stream, start // CHUNK)
        rng = np.random.Generator(np.random.PCG64(number))
        kinds = rng.permutation(CHUNK) % len(CLASSES)
        # Of the last chunk some may not be wanted.
        here = slice(start, min(start + CHUNK, count))
        images[here] = draw(kinds, rng, look)[: here.stop - start]
        labels[here] = kinds[: here.stop - start]
    return images, labels


def draw(
    labels: NDArray[np.int64], rng: np.random.Generator, look: Look = LOOK
) -> NDArray[np.uint8]:
    """One image for each label, in layers from back to front: ground, clutter, glyph, blot.

    >>> draw(np.array([0, 5]), np.random.default_rng(0)).shape
    (2, 3, 32, 32)

    Args:
        labels: (N,), numbers of classes.
        rng: where the random numbers come from. Their order is part of what the images are.
        look: how far images vary.

    Returns:
        uint8 (N, 3, 32, 32).
    """

    def uniform(low: float, high: float, *shape: int) -> Array:
        return rng.uniform(low, high, (len(labels), *shape)).astype(np.float32)

    glyph, centre = _glyphs(labels, uniform, look)

    # The colour of the glyph lies at a distance from the colour of the ground.
    ground = uniform(0, 1, 3)
    towards = uniform(0, 1, 3) - ground
    towards /= np.linalg.norm(towards, axis=1, keepdims=True) + 1e-6
    colour = ground + towards * uniform(*look.contrast, 1)

    # The layers.
    image = _ground(ground, uniform, look)  # (N, 3, 32, 32)
    for _ in range(look.clutter):
        _add_clutter(image, colour, uniform, look)
    _cover(image, glyph, colour)
    there = uniform(0, 1, 1, 1, 1) < look.blot
    blot = _straight(centre + uniform(-7, 7, 2), 0, uniform(1, look.blot_radius))
    _cover(image, there * blot, uniform(0, 1, 3))

    # Blur: each pixel mixes with its two neighbours, along both axes.
    amount = uniform(0, look.blur / 4, 1, 1, 1)
    for axis in (2, 3):
        before = np.take(image, np.r_[0, : SIZE - 1], axis)
        after = np.take(image, np.r_[1:SIZE, SIZE - 1], axis)
        image += amount * (before + after - 2 * image)

    noise = rng.standard_normal(image.shape, np.float32)
    image += noise * uniform(0.02, look.noise, 1, 1, 1)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def ink(segments: Array, half_width: Array) -> Array:
    """How far strokes cover each pixel: 1 inside, 0 outside, in between along the edge.

    >>> across = np.array([[[[-20, 0], [20, 0]]]], np.float32)  # one image, one segment
    >>> ink(across, np.array([1.0], np.float32))[0, 0, 13:19, 16]
    array([0., 0., 1., 1., 0., 0.], dtype=float32)

    Args:
        segments: float32 (N, K, 2 ends, 2 coordinates), pixels from the middle of the image.
        half_width: (N,), in pixels.

    Returns:
        float32 (N, 1, 32, 32).
    """
    x, y = _pixels()
    nearest = np.full((len(segments), SIZE, SIZE), np.inf, np.float32)  # squared distance
    for k in range(segments.shape[1]):
        (ax, ay), (bx, by) = segments[:, k, :, :, None, None].transpose(1, 2, 0, 3, 4)
        ux, uy = bx - ax, by - ay
        # A stroke of length 0 is a dot.
        squared = ux * ux + uy * uy + 1e-6
        px, py = x - ax, y - ay
        # The nearest point of the segment.
        along = np.clip(px * (ux / squared) + py * (uy / squared), 0, 1)
        distance = (px - along * ux) ** 2 + (py - along * uy) ** 2
        np.minimum(nearest, distance, out=nearest)
    return np.clip(0.5 + half_width[:, None, None] - np.sqrt(nearest), 0, 1)[:, None]


def _glyphs(labels: NDArray[np.int64], uniform: Uniform, look: Look) -> tuple[Array, Array]:
    """The ink of every image's glyph, (N, 1, 32, 32), and where its middle is, (N, 2)."""
    turn = np.radians(uniform(-look.turn, look.turn))
    shear = uniform(-look.shear, look.shear)
    stretch = np.exp(uniform(-look.stretch, look.stretch))
    mirror = np.sign(uniform(-1, 1))

    # Turned, stretched and scaled, by one matrix for each image.
    c, s, o = np.cos(turn), np.sin(turn), np.zeros_like(turn)
    rotation = np.array([[c, -s], [s, c]])
    form = np.array([[stretch * mirror, shear], [o, 1 / stretch]])
    shape = form * uniform(*look.scale)
    matrix = np.einsum("ijn,jkn->nik", rotation, shape)  # (N, 2, 2)
    centre, half_width = uniform(-look.shift, look.shift, 2), uniform(*look.half_width)
    bend = uniform(-2 * look.bend, 2 * look.bend, 4, 1, 1)

    covered = np.empty((len(labels), 1, SIZE, SIZE), np.float32)
    for label, segments in enumerate(SEGMENTS):
        at = np.flatnonzero(labels == label)
        x, y = segments[..., 0], segments[..., 1]  # (K, 2)
        # The same bend for ends that touch, so they go on touching.
        a, b, c, d = bend[at].swapaxes(0, 1)
        bent_x = x + a * np.sin(2 * y) + b * x * y
        bent_y = y + c * np.sin(2 * x) + d * x * y
        bent = np.stack([bent_x, bent_y], axis=-1)  # (n, K, 2, 2)
        placed = np.einsum("nij,nkej->nkei", matrix[at], bent) + centre[at, None, None]
        covered[at] = ink(placed.astype(np.float32), half_width[at])
    return covered, centre


def _ground(colour: Array, uniform: Uniform, look: Look) -> Array:
    """The ground of every image, (N, 3, 32, 32): its colour, a gradient and waves."""
    ramp = _ramp(uniform)
    image = colour[:, :, None, None] + ramp * uniform(-look.gradient, look.gradient, 3, 1, 1)
    phase = _ramp(uniform) * uniform(6, 30, 1, 1, 1)
    waves = np.sin(phase + uniform(0, 2 * np.pi, 1, 1, 1))
    image += waves * uniform(-look.grating, look.grating, 3, 1, 1)
    return image


def _add_clutter(image: Array, colour: Array, uniform: Uniform, look: Look) -> None:
    """Draw a stray stroke into half of the images."""
    half = uniform(-look.clutter_length, look.clutter_length, 2)
    there = uniform(0, 1, 1, 1, 1) < 0.5
    # Half of them have the glyph's own colour, so that colour alone does not tell the class.
    same = uniform(0, 1, 1) < 0.5
    paint = np.where(same, colour, uniform(0, 1, 3))
    stroke = _straight(uniform(-15, 15, 2), half, uniform(0.4, 1.4))
    _cover(image, there * stroke, paint)


def _straight(middle: Array, half: Array | int, half_width: Array) -> Array:
    """The ink of a straight stroke from middle - half to middle + half."""
    return ink(np.stack([middle - half, middle + half], axis=1)[:, None], half_width)


def _pixels() -> tuple[Array, Array]:
    """x (1, 32) and y (32, 1) of the pixels' middles, from the middle of the image."""
    line = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    return line[None, :], line[:, None]


def _ramp(uniform: Uniform) -> Array:
    """-0.5 to 0.5 across the image in a random direction, (N, 1, 32, 32)."""
    x, y = _pixels()
    angle = uniform(0, 2 * np.pi, 1, 1, 1)
    along = np.cos(angle) * x + np.sin(angle) * y
    return (along / (SIZE - 1)).astype(np.float32, copy=False)


def _cover(image: Array, mask: Array, colour: Array) -> None:
    """Paint over an image, as far as the mask says."""
    image += mask * (colour[:, :, None, None] - image)
