"""Built-in pictures: ten kinds of glyph, drawn by code, 32x32 RGB. Nothing is downloaded and no file is read.

>>> from hmq_lab.data import builtin as glyphs
>>> images, labels = glyphs.make(200, seed=0, stream="test")
>>> images.shape, images.dtype, [glyphs.CLASSES[k] for k in labels[:4]]
((200, 3, 32, 32), dtype('uint8'), ['cross', 'triangle', 'arrow', 'square'])

A glyph is a list of strokes and a stroke a polyline. Every picture turns, stretches, bends and moves the corners of its
glyph, and a pixel's ink follows from its distance to the nearest stroke, so edges come out smooth without drawing at a
higher resolution. Ground, clutter, a blot, blur and noise make it hard enough that two bits are too few.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from hmq_lab.seeds import stable_hash

SIZE = 32
CHUNK = 100  # pictures drawn at a time: the arrays stay in the cache. It is part of the pictures' identity.


def _arc(start: float, end: float, corners: int, radius: float = 0.8) -> list[tuple[float, float]]:
    """Corners along a circle, from one angle to another, in degrees; 90 points down."""
    return [(radius * np.cos(a), radius * np.sin(a)) for a in np.radians(np.linspace(start, end, corners + 1))]


_HALF_HEART = [(0.0, 0.85), (0.8, 0.0), (0.85, -0.45), (0.5, -0.75), (0.15, -0.65), (0.0, -0.3)]

# x to the right, y down, about one unit from the centre. None of them becomes another one in a mirror.
GLYPHS = {
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
SEGMENTS = [  # per class (K, 2 ends, 2 coordinates)
    np.array([ends for stroke in strokes for ends in itertools.pairwise(stroke)], np.float32)
    for strokes in GLYPHS.values()
]


@dataclass(frozen=True)
class Look:
    """How far the pictures vary; lengths in pixels, colours from 0 to 1. `dataclasses.replace(LOOK, noise=0.2)`."""

    turn: float = 40.0  # degrees to either side
    scale: tuple[float, float] = (8.0, 12.5)  # pixels to a unit
    stretch: float = 0.2
    shear: float = 0.2
    bend: float = 0.1
    shift: float = 3.5
    half_width: tuple[float, float] = (0.7, 1.6)  # of the strokes
    contrast: tuple[float, float] = (0.3, 0.8)  # distance of the glyph's colour from the ground's
    gradient: float = 0.3
    grating: float = 0.08
    clutter: int = 3  # stray strokes, each there half of the time
    clutter_length: float = 5.0
    blot: float = 0.5  # how often a blot covers a part
    blot_radius: float = 3.5
    blur: float = 1.0
    noise: float = 0.09


LOOK = Look()


def make(count: int, seed: int = 0, stream: str = "train", look: Look = LOOK) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures and their labels, as many of one class as of another.

    >>> few, many = make(30, seed=1)[0], make(300, seed=1)[0]
    >>> bool((few == many[:30]).all())  # a picture depends on its number, not on how many are asked for
    True

    stream: "train", "validation" and "test" are different pictures of one kind. Returns uint8 (count, 3, 32, 32) and
    int64 (count,) arrays. Raises ValueError for a negative count.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, got {count}")
    images, labels = np.empty((count, 3, SIZE, SIZE), np.uint8), np.empty(count, np.int64)
    for start in range(0, count, CHUNK):
        rng = np.random.Generator(np.random.PCG64(stable_hash(seed, "glyphs", stream, start // CHUNK)))
        kinds = rng.permutation(CHUNK) % len(CLASSES)
        here = slice(start, min(start + CHUNK, count))
        images[here] = draw(kinds, rng, look)[: here.stop - start]
        labels[here] = kinds[: here.stop - start]
    return images, labels


def draw(labels: np.ndarray, rng: np.random.Generator, look: Look = LOOK) -> np.ndarray:
    """One picture for each label: uint8 (N, 3, 32, 32). Layers from back to front: ground, clutter, glyph, blot.

    >>> draw(np.array([0, 5]), np.random.default_rng(0)).shape
    (2, 3, 32, 32)
    """

    def uniform(low, high, *shape):
        return rng.uniform(low, high, (len(labels), *shape)).astype(np.float32)

    def stroke(middle, half, half_width):  # straight, from middle - half to middle + half
        return ink(np.stack([middle - half, middle + half], axis=1)[:, None], half_width)

    glyph, centre = _glyphs(labels, uniform, look)
    ground = uniform(0, 1, 3)
    towards = uniform(0, 1, 3) - ground
    towards /= np.linalg.norm(towards, axis=1, keepdims=True) + 1e-6
    colour = ground + towards * uniform(*look.contrast, 1)

    picture = ground[:, :, None, None] + _ramp(uniform) * uniform(-look.gradient, look.gradient, 3, 1, 1)
    waves = np.sin(_ramp(uniform) * uniform(6, 30, 1, 1, 1) + uniform(0, 2 * np.pi, 1, 1, 1))
    picture += waves * uniform(-look.grating, look.grating, 3, 1, 1)  # (N, 3, 32, 32)
    for _ in range(look.clutter):
        half = uniform(-look.clutter_length, look.clutter_length, 2)
        there = uniform(0, 1, 1, 1, 1) < 0.5
        same = uniform(0, 1, 1) < 0.5  # in the glyph's own colour, so colour alone does not give the glyph away
        paint = np.where(same, colour, uniform(0, 1, 3))
        _cover(picture, there * stroke(uniform(-15, 15, 2), half, uniform(0.4, 1.4)), paint)
    _cover(picture, glyph, colour)
    there = uniform(0, 1, 1, 1, 1) < look.blot
    _cover(picture, there * stroke(centre + uniform(-7, 7, 2), 0, uniform(1, look.blot_radius)), uniform(0, 1, 3))

    amount = uniform(0, look.blur / 4, 1, 1, 1)
    for axis in (2, 3):  # each pixel mixes with its two neighbours
        before = np.take(picture, np.r_[0, : SIZE - 1], axis)
        after = np.take(picture, np.r_[1:SIZE, SIZE - 1], axis)
        picture += amount * (before + after - 2 * picture)
    picture += rng.standard_normal(picture.shape, np.float32) * uniform(0.02, look.noise, 1, 1, 1)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def ink(segments: np.ndarray, half_width: np.ndarray) -> np.ndarray:
    """How far each pixel is covered by strokes: 1 inside, 0 outside, in between over one pixel along the edge.

    >>> across = np.array([[[[-20, 0], [20, 0]]]], np.float32)  # one picture, one segment
    >>> ink(across, np.array([1.0], np.float32))[0, 0, 13:19, 16]
    array([0., 0., 1., 1., 0., 0.], dtype=float32)

    segments: float32 (N, K, 2 ends, 2 coordinates) in pixels from the middle of the picture. half_width: (N,).
    Returns float32 (N, 1, 32, 32).
    """
    x, y = _pixels()
    nearest = np.full((len(segments), SIZE, SIZE), np.inf, np.float32)  # squared distance
    for k in range(segments.shape[1]):
        (ax, ay), (bx, by) = segments[:, k, :, :, None, None].transpose(1, 2, 0, 3, 4)
        ux, uy = bx - ax, by - ay
        squared = ux * ux + uy * uy + 1e-6  # a stroke of length 0 is a dot
        px, py = x - ax, y - ay
        along = np.clip(px * (ux / squared) + py * (uy / squared), 0, 1)  # the nearest point of the segment
        np.minimum(nearest, (px - along * ux) ** 2 + (py - along * uy) ** 2, out=nearest)
    return np.clip(0.5 + half_width[:, None, None] - np.sqrt(nearest), 0, 1)[:, None]


def _glyphs(labels, uniform, look):
    """The ink of every picture's glyph, (N, 1, 32, 32), and where its middle is, (N, 2)."""
    turn, shear = np.radians(uniform(-look.turn, look.turn)), uniform(-look.shear, look.shear)
    stretch = np.exp(uniform(-look.stretch, look.stretch))
    mirror = np.sign(uniform(-1, 1))
    c, s, o = np.cos(turn), np.sin(turn), np.zeros_like(turn)
    rotation = np.array([[c, -s], [s, c]])
    shape = np.array([[stretch * mirror, shear], [o, 1 / stretch]]) * uniform(*look.scale)
    matrix = np.einsum("ijn,jkn->nik", rotation, shape)  # (N, 2, 2)
    centre, half_width = uniform(-look.shift, look.shift, 2), uniform(*look.half_width)
    bend = uniform(-2 * look.bend, 2 * look.bend, 4, 1, 1)
    covered = np.empty((len(labels), 1, SIZE, SIZE), np.float32)
    for label, segments in enumerate(SEGMENTS):
        at = np.flatnonzero(labels == label)
        x, y = segments[..., 0], segments[..., 1]  # (K, 2)
        a, b, c, d = bend[at].swapaxes(0, 1)  # the same bend for ends that touch, so they go on touching
        bent = np.stack([x + a * np.sin(2 * y) + b * x * y, y + c * np.sin(2 * x) + d * x * y], axis=-1)  # (n, K, 2, 2)
        placed = np.einsum("nij,nkej->nkei", matrix[at], bent) + centre[at, None, None]
        covered[at] = ink(placed.astype(np.float32), half_width[at])
    return covered, centre


def _pixels():
    """x (1, 32) and y (32, 1) of the pixels' middles, from the middle of the picture."""
    line = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    return line[None, :], line[:, None]


def _ramp(uniform):
    """-0.5 to 0.5 across the picture in a random direction, (N, 1, 32, 32)."""
    x, y = _pixels()
    angle = uniform(0, 2 * np.pi, 1, 1, 1)
    return (np.cos(angle) * x + np.sin(angle) * y) / (SIZE - 1)


def _cover(picture, mask, colour):
    picture += mask * (colour[:, :, None, None] - picture)
