"""Files that are whole or not there."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hmq_lab.data import files
from hmq_lab.data.files import check_writable, digest, read_tensors, replacing, the_only, write_tensors


def tensors():
    return {
        "w": torch.randn(3, 4, 2).to(memory_format=torch.contiguous_format),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "wide": torch.randn(2).double(),
        "codes": torch.arange(-3, 3),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "transposed": torch.randn(3, 4).t(),
        "sliced": torch.randn(4, 4)[:, 1:3],
        "learned": torch.nn.Parameter(torch.randn(2)),
    }


HEADER = {"model": "resnet8", "seed": 0, "rate": 0.1, "nested": {"list": [1, None, True, "ü"]}}


# ------------------------------------------------------------------------------------- replacing


def test_a_file_takes_its_place_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "notes.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.parent == path.parent and temporary != path
    assert path.read_text() == "one" and os.listdir(path.parent) == ["notes.txt"]
    with replacing(str(path)) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two" and os.listdir(path.parent) == ["notes.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", (ValueError, OSError, KeyboardInterrupt, SystemExit))
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "notes.txt"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("half")
            raise error
        assert os.listdir(tmp_path) == (["notes.txt"] if old else [])
        assert not old or path.read_text() == "old"


def test_a_place_that_cannot_be_taken_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["folder"]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as two:
        assert one != two
        one.write_text("one"), two.write_text("two")
    assert path.read_text() == "one" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_is_tried_before_a_long_run(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("x")
    check_writable(str(tmp_path / "there"))
    assert os.listdir(tmp_path / "there") == ["file"]
    for path in (tmp_path / "there" / "file", tmp_path / "there" / "file" / "below" / "it"):
        with pytest.raises(OSError, match="cannot write to the folder") as error:
            check_writable(path)
        assert str(path) in str(error.value)
    assert (tmp_path / "there" / "file").read_text() == "x"


@pytest.mark.parametrize("lacks", [None, "locks"])
def test_without_locks_nobody_is_kept_out(lacks, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    if lacks is None:
        monkeypatch.setattr(files, "fcntl", None)
    elif files.fcntl:
        monkeypatch.setattr(files.fcntl, "flock", refuse)
    with the_only(tmp_path / "new", "game"), the_only(tmp_path / "new", "game"):
        (tmp_path / "new" / "score").write_text("1")
    assert os.listdir(tmp_path / "new") == ["score"]


@pytest.mark.skipif(files.fcntl is None, reason="this system has no such locks")
def test_a_folder_is_held_by_one_process_alone_and_left_when_it_dies(tmp_path):
    folder = tmp_path / "new"
    code = "import sys, pathlib; from hmq_lab.data.files import the_only\n"
    code += "with the_only(pathlib.Path(sys.argv[1]), 'run'): "
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print(flush=True); sys.stdin.read()", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        holder.stdout.readline()
        with pytest.raises(BlockingIOError, match=f"another game writes to {folder}"), the_only(folder, "game"):
            pass
        holder.kill()
    with the_only(folder, "game"):
        pass
    assert os.listdir(folder) == []  # it was there before, if empty
    folder.rmdir()
    with the_only(folder / "deep", "game"):
        pass
    assert os.listdir(tmp_path) == []  # nothing was put in
    with the_only(folder, "game"):
        (folder / "score").write_text("1")
    assert os.listdir(folder) == ["score"]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"w": torch.zeros(3)}, {})

    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*w.safetensors: No space left on device"):
        write_tensors(path, {"w": torch.ones(3)}, {})
    assert read_tensors(path)[0]["w"].tolist() == [0, 0, 0] and os.listdir(tmp_path) == [path.name]


# ------------------------------------------------------------------------------------- tensors


def test_round_trip(tmp_path):
    path, kept = tmp_path / "w.safetensors", tensors()
    write_tensors(path, kept, HEADER)
    found, header = read_tensors(path)
    assert header == HEADER and found.keys() == kept.keys()
    for name, tensor in kept.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name
    assert os.listdir(tmp_path) == ["w.safetensors"]
    write_tensors(path, {}, {})
    assert read_tensors(path) == ({}, {})


def test_tensors_that_share_memory(tmp_path):
    w = torch.randn(6)
    kept = {"a": w, "b": w, "c": w[:3], "d": w[2:], "e": w.view(2, 3), "f": w.expand(4, 6)}
    write_tensors(tmp_path / "w", kept, {})
    found, _ = read_tensors(tmp_path / "w")
    assert all(torch.equal(found[n], t) for n, t in kept.items())


def test_special_values(tmp_path):
    x = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    write_tensors(tmp_path / "w", {"x": x}, {"loss": float("inf"), "nan": float("nan")})
    found, header = read_tensors(tmp_path / "w")
    assert torch.equal(found["x"].view(torch.int32), x.view(torch.int32))
    assert header["loss"] == float("inf") and header["nan"] != header["nan"]


def test_headers_are_what_json_can_say(tmp_path):
    write_tensors(tmp_path / "w", {}, {2: "two", 10: "ten", "t": (1, 2)})
    assert read_tensors(tmp_path / "w")[1] == {"2": "two", "10": "ten", "t": [1, 2]}
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(TypeError):
        write_tensors(tmp_path / "w", {}, {"x": torch.zeros(2)})
    assert (tmp_path / "w").read_bytes() == before and os.listdir(tmp_path) == ["w"]


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            read_tensors(path)


@pytest.mark.parametrize("keep", (0, 1, 7, 8, 50, 0.5, -1))
def test_truncated_files_are_refused_by_name(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    write_tensors(path, tensors(), HEADER)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=str(path)):
        read_tensors(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(ValueError, match=str(path)):
        read_tensors(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_altered_files_are_refused_by_name(tmp_path, data):
    """Any byte that is not mere white space in the file's own header."""
    path = tmp_path / "w.safetensors"
    if not path.exists():
        write_tensors(path, tensors(), HEADER)
        (tmp_path / "whole").write_bytes(path.read_bytes())
    whole = bytearray((tmp_path / "whole").read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[at]))
    whole[at] = byte
    path.write_bytes(whole)
    try:
        found, header = read_tensors(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:  # nothing that counts was altered
        assert header == HEADER and all(torch.equal(found[n], t) for n, t in _kept(tmp_path).items())
        assert found.keys() == tensors().keys()


def _kept(folder):
    with safe_open(folder / "whole", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def test_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "w.safetensors"
    for metadata in (None, {"header": "{}"}, {"sha256": "0" * 64}, {"format": "pt"}):
        save_file({"a": torch.ones(2)}, path, metadata)
        with pytest.raises(ValueError, match="was not written by hmq_lab") as error:
            read_tensors(path)
        assert str(path) in str(error.value)
    for said in ("{", "{}", "[1]", "NaN", '{"header": {}}', '{"header": {}, "sha256": 0}'):
        save_file({"a": torch.ones(2)}, path, {"hmq_lab": said})
        with pytest.raises(ValueError, match="was altered") as error:
            read_tensors(path)
        assert str(path) in str(error.value)
    path.write_text("not at all")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        read_tensors(path)


def test_equal_content_makes_equal_bytes(tmp_path):
    for k in range(8):
        write_tensors(tmp_path / f"{k}", {"b": torch.ones(2), "a": torch.zeros(3)}, {"x": 1, "y": [2]})
    assert len({(tmp_path / f"{k}").read_bytes() for k in range(8)}) == 1


def test_digest_tells_everything_apart():
    x = torch.arange(6.0)
    seen = [
        digest({}),
        digest({"a": 1}),
        digest({"a": "1"}),
        digest({"a": 1.0}),
        digest({}, {"x": x}),
        digest({}, {"y": x}),
        digest({}, {"x": x.view(2, 3)}),
        digest({}, {"x": x.view(3, 2)}),
        digest({}, {"x": x.double()}),
        digest({}, {"x": x.view(torch.int32)}),
        digest({}, {"x": x, "y": x}),
        digest({}, {"x": -x}),
    ]
    assert len(set(seen)) == len(seen)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) == digest(json.loads('{"b": 2, "a": 1}'))
    assert digest({}, {"x": x, "y": -x}) == digest({}, {"y": -x, "x": x})
    assert digest({}, {"x": x.view(2, 3).t().contiguous().t()}) == digest({}, {"x": x.view(2, 3)})
