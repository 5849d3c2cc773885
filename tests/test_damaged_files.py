"""1,500 damaged files: none is accepted with another content, none is a traceback, none takes long.

Files that state a checksum (our own, and archives of torch.save) are refused, or hold what they held. Files without
one (old files of torch, safetensors of others, images) are refused with a ValueError, or read.
"""

import random
import resource
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from hmq_lab import SearchSpace, attach, models
from hmq_lab.data.files import read_tensors, write_tensors
from hmq_lab.data.reading import read
from hmq_lab.hardware.packing import pack, unpack
from hmq_lab.models.weights import load_weights, save_weights
from hmq_lab.network import blocks
from hmq_lab.runs import records

BLOCK, BLOCKS = (
    300,
    5,
)  # damaged files in a test, and how many tests there are; the first is in `make test`
SLOW, LARGE = 20, 2**30  # seconds that a file may take on a busy machine; bytes that all may need


def network():
    torch.manual_seed(0)
    return models.build("tiny_resnet8", classes=3, width=2)


def damage(content, rng):
    """The content with one of the ways in which files go bad."""
    at = rng.randrange(len(content))
    length = rng.choice([1, 1, 4, 64, 1000])
    some = bytes(rng.randrange(256) for _ in range(length))
    return rng.choice(
        [
            content[:at]
            + bytes([content[at] ^ 1 << rng.randrange(8)])
            + content[at + 1 :],  # a bit
            content[:at] + some + content[at + length :],  # other bytes
            content[:at] + bytes(length) + content[at + length :],  # zeros
            content[:at],  # cut off
            content[:at] + content[at + length :],  # a part is missing
            content[:at] + some + content[at:],  # a part too much
            content[:at] + content[at : at + length] + content[at:],  # a part twice
            content[at:],  # the beginning is missing
            content + some,  # more behind the end
        ]
    )


def weights_of(path):
    net = network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7)
    about = load_weights(net, path)
    return about, {
        key: t.clone()
        for key, t in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def packed_of(path):
    return unpack(path, network=network()).state_dict()


def record_of(path):
    record = records.read(path)
    return {
        "header": record.header,
        "tensors": record.tensors,
        "events": record.events,
        "results": record.results,
    }


def pixels_of(path):
    return np.asarray(read(path))


KINDS = {  # name: what writes a file, what reads it, and whether the file states a checksum
    "ours.safetensors": (
        lambda path: save_weights(network(), path, {"normalize": "half"}),
        weights_of,
        True,
    ),
    "archive.pth": (lambda path: torch.save(network().state_dict(), path), weights_of, True),
    "checkpoint.safetensors": (
        lambda path: write_tensors(
            path, {"model/a": torch.arange(200.0)}, {"configuration": {"seed": 0}, "step": 3}
        ),
        read_tensors,
        True,
    ),
    "packed.safetensors": (lambda path: pack(selected(), path, "tiny"), packed_of, True),
    "record.json": (
        lambda path: records.write(records.recorded("builtin-tiny_resnet8-w8-a8"), path),
        record_of,
        True,
    ),
    "old.pth": (
        lambda path: torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False),
        weights_of,
        False,
    ),
    "others.safetensors": (
        lambda path: safetensors.torch.save_file(network().state_dict(), path),
        weights_of,
        False,
    ),
    "a.png": (lambda path: drawn().save(path), pixels_of, False),
    "a.jpg": (lambda path: drawn().save(path), pixels_of, False),
    "a.tif": (lambda path: drawn().save(path), pixels_of, False),
    "a.webp": (lambda path: drawn().save(path), pixels_of, False),
}


def selected():
    net = attach(
        network(),
        SearchSpace(),
        torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    )
    for block in blocks(net).values():
        block.fix()
    return net.eval()


def drawn():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a whole file of each kind, and what is read from it."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for name, (write, read_it, _) in KINDS.items():
        write(folder / name)
        found[name] = (folder / name).read_bytes(), read_it(folder / name)
    return found


def same(one, other):
    """Whether two contents are equal, tensors and arrays by their bytes."""
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.filterwarnings("ignore")  # of torch, on what a damaged file asks for
@pytest.mark.parametrize(
    "block", [0, *(pytest.param(k, marks=pytest.mark.long) for k in range(1, BLOCKS))]
)
def test_damaged_files_are_refused_in_one_line_or_are_what_they_were(whole, tmp_path, block):
    rng, refused = random.Random(block), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(BLOCK):
        name = list(KINDS)[number % len(KINDS)]
        content, expected = whole[name]
        path = tmp_path / name
        path.write_bytes(damage(content, rng))
        started = time.perf_counter()
        try:
            found = KINDS[name][1](path)
        except (ValueError, FileNotFoundError) as error:  # what the command line says in one line
            refused += 1
            assert str(path) in str(error) or KINDS[name][1] is packed_of, (number, str(error))
        else:
            checked = KINDS[name][2]
            assert not checked or same(found, expected), (
                f"{name}, mutation {number} of block {block}: accepted"
            )
        assert time.perf_counter() - started < SLOW, f"{name}, mutation {number} of block {block}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < LARGE
    assert refused > BLOCK // 2  # the damage is damage
    print(f"{refused} of {BLOCK} refused")


# ------------------------------------------------------------------------------------- forged on purpose


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": 10**9}, "classes must be a whole number from 1 to 100000, got 1000000000"),
        ({"classes": "10"}, "classes must be of type int, got '10'"),
        ({"classes": None}, "classes must be of type int, got None"),
        (
            {"picture": [3, 10**6, 10**6]},
            "the shape of an image must be 3 whole numbers from 1 to 4096",
        ),
        ({"picture": [3, -1, 32]}, "the shape of an image must be"),
        ({"picture": "3x32x32"}, "picture must be of type list"),
        ({"weights": 7}, "weights must be of type str, got 7"),
        ({"weights": "conv1 8s"}, "a scheme is written as"),
        ({"weights": "conv1 99s<2"}, "99"),
        ({"activations": []}, r"activations must be of type str, got \[\]"),
        ({"model": ["tiny_resnet8"]}, "model must be of type str"),
        ({"hardware": "yes"}, "hardware must be of type bool"),
        ({"model": "of nobody"}, "your own module of nobody"),
    ],
)
def test_a_forged_header_with_the_checksum_that_fits_is_one_line(whole, tmp_path, changes, says):
    path = tmp_path / "packed.safetensors"
    path.write_bytes(whole[path.name][0])
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header | {"model": "tiny_resnet8"} | changes)
    with pytest.raises(ValueError, match=says) as error:
        unpack(path)
    assert "\n" not in str(error.value)
