"""Files that are whole or not there."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from hmq_lab.data import atomic
from hmq_lab.data.files import (
    check_fields,
    check_readable,
    check_target,
    check_writable,
    digest,
    exclusive_lock,
    locked,
    read_json,
    read_tensors,
    remove_leftovers,
    replacing,
    write_tensors,
)


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


def test_on_windows_files_are_closed_before_they_are_renamed_and_readers_are_waited_for(
    tmp_path, monkeypatch
):
    """As there: no open file is renamed, none that was opened for reading is flushed to the disk."""
    replace, fsync, refusals = os.replace, os.fsync, iter([True, True, False])

    def renamed(source, target):
        links = [
            os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{name}")
        ]
        assert str(source) not in links
        if next(refusals):
            raise PermissionError(errno.EACCES, "in use by another process")
        replace(source, target)

    def flushed(handle):
        os.write(handle, b"")  # fails on a handle for reading alone
        fsync(handle)

    monkeypatch.setattr(atomic, "fcntl", None)
    monkeypatch.setattr(atomic, "WINDOWS", True)
    monkeypatch.setattr(atomic, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", flushed)
    (tmp_path / "status.json").write_text("old")
    with replacing(tmp_path / "status.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "status.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["status.json"]

    # A reader that never closes the file: the error comes, the old file stays, nothing is left.
    refusals = iter([True] * 9)
    with pytest.raises(PermissionError, match="in use"):
        with replacing(tmp_path / "status.json") as temporary:
            temporary.write_text("newer")
    assert (tmp_path / "status.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["status.json"]


def test_elsewhere_a_rename_that_is_refused_is_not_tried_again(tmp_path, monkeypatch):
    tried = []

    def renamed(source, target):
        tried.append(source)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", renamed)
    with pytest.raises(PermissionError):
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("b")
    assert len(tried) == 1


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


@pytest.mark.parametrize("error", [OSError("no locks here"), NotImplementedError("no locks here")])
def test_without_locks_nobody_is_kept_out(error, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass
    with exclusive_lock(tmp_path / "new", "game"), exclusive_lock(tmp_path / "new", "game"):
        (tmp_path / "new" / "score").write_text("1")
    assert os.listdir(tmp_path / "new") == ["score"]


def test_a_folder_is_held_by_one_process_alone_and_left_when_it_dies(tmp_path):
    folder = tmp_path / "new"
    code = "import sys, pathlib; from hmq_lab.data.files import exclusive_lock\n"
    code += "with exclusive_lock(pathlib.Path(sys.argv[1]), 'run'): "
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print(flush=True); sys.stdin.read()", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        holder.stdout.readline()
        with (
            pytest.raises(BlockingIOError, match=f"another game writes to {folder}"),
            exclusive_lock(folder, "game"),
        ):
            pass
        holder.kill()
    with exclusive_lock(folder, "game"):
        pass
    assert os.listdir(folder) == []  # it was there before, if empty
    folder.rmdir()
    with exclusive_lock(folder / "deep", "game"):
        pass
    assert os.listdir(tmp_path) == []  # nothing was put in
    with exclusive_lock(folder, "game"):
        (folder / "score").write_text("1")
    assert os.listdir(folder) == ["score"]


def test_one_at_a_time(tmp_path):
    """Four threads add 20 each to a number in a file; without the lock some additions are lost."""
    file = tmp_path / "number"
    file.write_text("0")

    def add():
        for _ in range(20):
            with locked(tmp_path):
                number = int(file.read_text())
                time.sleep(0.001)
                file.write_text(str(number + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "80"


# ------------------------------------------------------------------------------------- what is in the way


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_that_the_umask_asks_for(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
        write_tensors(tmp_path / "w.safetensors", {"w": torch.ones(2)}, {})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "w.safetensors")}
    assert modes == {0o666 & ~mask}


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    target, link, loose = (
        tmp_path / "there" / "real.txt",
        tmp_path / "link.txt",
        tmp_path / "loose.txt",
    )
    target.write_text("old")
    link.symlink_to(target)
    loose.symlink_to("there/new.txt")
    for path, text in ((link, "new"), (loose, "made")):
        with replacing(path) as temporary:
            temporary.write_text(text)
        assert path.is_symlink() and path.read_text() == text
    assert target.read_text() == "new" and (tmp_path / "there" / "new.txt").read_text() == "made"
    assert sorted(os.listdir(tmp_path / "there")) == ["new.txt", "real.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_and_devices_are_neither_replaced_nor_opened(tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path, kind in ((pipe, r"a pipe \(FIFO\)"), ("/dev/null", "a device")):
        with (
            pytest.raises(OSError, match=f"cannot write {path}: it is {kind}, no ordinary file"),
            replacing(path),
        ):
            pass
        for read in (check_readable, read_tensors, read_json):
            with pytest.raises(ValueError, match=f"{path} is {kind}, no ordinary file"):
                read(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == [pipe.name]
    with pytest.raises(IsADirectoryError, match="as a file: it is a folder"):
        check_target(tmp_path)
    check_target(tmp_path / "new"), check_target(pipe / "below")


@pytest.fixture
def as_another_user():
    """A folder for this test, which runs without the rights of root."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield Path(folder)
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_permission_denied_is_not_no_such_file(as_another_user):
    path = as_another_user / "closed" / "w.safetensors"
    write_tensors(path, {"w": torch.ones(2)}, {})
    path.chmod(0o000)
    for read in (check_readable, read_tensors, read_json):
        with pytest.raises(PermissionError, match=f"cannot read {path}: Permission denied"):
            read(path)
    path.chmod(0o444)
    with (
        pytest.raises(PermissionError, match=f"cannot write {path}: Permission denied"),
        replacing(path),
    ):
        pass
    path.parent.chmod(0o000)
    for read in (check_readable, read_tensors, read_json):
        with pytest.raises(PermissionError, match=f"cannot read {path}: Permission denied"):
            read(path)
    path.parent.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_what_a_killed_writer_left_is_removed_by_the_next_start(tmp_path):
    code = "import sys, time\nfrom hmq_lab.data.files import replacing\n"
    code += "with replacing(sys.argv[1]) as temporary:\n"
    code += "    temporary.write_text('half'); print(flush=True); time.sleep(60)\n"
    path = tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        (left,) = os.listdir(tmp_path)
        assert remove_leftovers(tmp_path) == [] and os.listdir(tmp_path) == [
            left
        ]  # its writer lives
        writer.kill()
    assert os.listdir(tmp_path) == [left]
    kept = [".checkpoint.safetensors.20241128", ".checkpoint.safetensors.backup", ".notes.abcdef1"]
    for name in kept:  # hidden files of other programs
        (tmp_path / name).write_text("mine")
    with exclusive_lock(tmp_path, "search"):
        assert left not in os.listdir(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.kill()
    with replacing(tmp_path / "other.txt") as temporary:  # any next write in the folder
        temporary.write_text("x")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "other.txt"])


# ------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "content", ["[" * 200_000 + "]" * 200_000, '{"a":' * 200_000 + "0" + "}" * 200_000]
)
def test_json_that_is_nested_too_deep_is_one_line(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=f"{path} cannot be read as JSON: it is nested too deep"
    ) as error:
        read_json(path)
    assert "\n" not in str(error.value)
    save_file({"a": torch.ones(2)}, path, {"hmq_lab": '{"header": ' + content + "}"})
    with pytest.raises(ValueError, match=f"{path} was altered"):
        read_tensors(path)


def test_json_files_that_are_none(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"", b"{", b"\xff\xfe", b"1" * 10_000, b"{'a': 1}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is no JSON: "):
            read_json(path)
    with pytest.raises(FileNotFoundError, match=f"there is no record {tmp_path / 'none.json'}"):
        read_json(tmp_path / "none.json", "record")
    path.write_text('{"steps": 3, "since": 1, "state": "running"}')
    fields = {"steps": int, "since": float, "state": str}
    assert read_json(path, fields=fields) == {"steps": 3, "since": 1, "state": "running"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1], r"it must hold a JSON object, got \[1\]"),
        (None, "it must hold a JSON object, got None"),
        ({}, "classes is missing"),
        ({"classes": "10"}, "classes must be of type int, got '10'"),
        ({"classes": True}, "classes must be of type int, got True"),
        ({"classes": None}, "classes must be of type int, got None"),
        ({"classes": 1.5}, "classes must be of type int, got 1.5"),
        ({"classes": ["x" * 1000]}, r"classes must be of type int, got \['x{50,60}\.\.\."),
    ],
)
def test_fields_of_a_wrong_type_are_named(tmp_path, content, says):
    with pytest.raises(ValueError, match=f"a.json is not as hmq_lab writes it: {says}"):
        check_fields(content, {"classes": int}, "a.json")
    path = tmp_path / "w.safetensors"  # a forged header, with the SHA-256 that fits
    metadata = json.dumps({"header": content, "sha256": digest(content, {"a": torch.ones(2)})})
    save_file({"a": torch.ones(2)}, path, {"hmq_lab": metadata})
    with pytest.raises(ValueError, match=f"{path} is not as hmq_lab writes it: {says}"):
        read_tensors(path, fields={"classes": int})


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"w": torch.zeros(3)}, {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OSError,
        match=r"cannot write .*w.safetensors: No space left on device; what was there before",
    ):
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
        assert header == HEADER and all(
            torch.equal(found[n], t) for n, t in _kept(tmp_path).items()
        )
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
        write_tensors(
            tmp_path / f"{k}", {"b": torch.ones(2), "a": torch.zeros(3)}, {"x": 1, "y": [2]}
        )
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
    assert (
        digest({"a": 1, "b": 2})
        == digest({"b": 2, "a": 1})
        == digest(json.loads('{"b": 2, "a": 1}'))
    )
    assert digest({}, {"x": x, "y": -x}) == digest({}, {"y": -x, "x": x})
    assert digest({}, {"x": x.view(2, 3).t().contiguous().t()}) == digest({}, {"x": x.view(2, 3)})
