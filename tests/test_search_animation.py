"""The README's animated image shows what its record says, and is small."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmq_lab.runs import records

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def animation():
    spec = importlib.util.spec_from_file_location("search_animation", DOCS / "search_animation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bits_are_those_of_the_record(animation):
    record = records.recorded(animation.RECORD)
    steps, bits, names = animation.bits_over_time(record)
    assert bits.shape == (len(steps), len(names)) and names[0] == "conv1.weight"
    # A search begins with 95 % of the probability on 8 bits; the rest is spread evenly over bits 1
    # to 8.
    assert np.allclose(bits[0], 0.95 * 8 + 0.05 * 4.5, atol=0.15)
    # At its end it has chosen: bits are nearly whole numbers.
    assert np.abs(bits[-1] - bits[-1].round()).max() < 0.2
    assert bits[-1].round().min() < 3 < bits[-1].round().max()


def test_the_bars_move_through_the_recorded_bits(animation):
    steps, bits = np.array([0, 100, 400]), np.array([[8.0, 8.0], [8.0, 4.0], [2.0, 4.0]])
    times, between = animation.in_between(steps, bits)
    assert len(times) == animation.EARLY + animation.LATE and times[0] == 0 and times[-1] == 400
    assert np.array_equal(between[0], bits[0]) and np.array_equal(between[-1], bits[-1])
    assert np.all(np.diff(times) > 0) and np.abs(np.diff(between, axis=0)).max() < 0.5


def test_the_image_that_is_kept_moves_and_is_small():
    path = DOCS / "search.gif"
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as image:
        assert image.n_frames >= 40
        assert image.info["loop"] == 0
        first = np.asarray(image.convert("L")).astype(int)
        image.seek(image.n_frames - 1)
        last = np.asarray(image.convert("L")).astype(int)
    assert np.abs(first - last).mean() > 5
