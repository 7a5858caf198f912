"""Files written in one step: the order of the calls, and what a failing disk leaves."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pictune import files
from pictune.errors import MachineError
from pictune.files import (
    cache_folder,
    disk_errors,
    replace_file,
    sweep,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)


@pytest.fixture
def calls(monkeypatch):
    """Every fsync and rename, in their order: what, and of which file."""
    recorded: list[tuple[str, Path]] = []
    fsync, rename = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        recorded.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def recorded_replace(self: Path, target: Path) -> Path:
        recorded.append(("replace", Path(target)))
        rename(self, target)
        return Path(target)

    monkeypatch.setattr(files.os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    return recorded


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(path, b"new"),
        lambda path: write_text(path, "new"),
        lambda path: write_json(path, {"new": 1}),
        lambda path: write_tensors(path, {"new": torch.ones(3)}, facts={}),
    ],
)
def test_write_then_fsync_then_replace_then_fsync_of_the_folder(tmp_path, calls, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def written(temporary: Path) -> None:
        calls.append(("write", temporary))

    write(path)
    (first, temporary), (second, target), (third, folder) = calls
    assert (first, second, third) == ("fsync", "replace", "fsync")
    assert temporary.parent == tmp_path
    assert temporary.name.startswith(".tmp-")
    assert (target, folder) == (path, tmp_path)
    assert path.read_bytes() != b"old"
    calls.clear()
    replace_file(path, written)
    assert [call for call, _ in calls] == ["write", "fsync", "replace", "fsync"]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: file could not be written"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.ENOENT, "No such file"),
        (errno.ESTALE, "still connected"),
        (errno.EIO, "still connected"),
    ],
)
def test_what_the_disk_refuses_becomes_one_plain_error(tmp_path, number, words):
    with pytest.raises(MachineError, match=words) as caught, disk_errors(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 3


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(IsADirectoryError), disk_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "x")
    with pytest.raises(ValueError, match="x"), disk_errors(tmp_path):
        raise ValueError("x")


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(MachineError, match="could not be written"):
        write_json(tmp_path / "gone" / "file.json", {})


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from pictune.errors import MachineError
from pictune.files import write_bytes, write_tensors

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (
    lambda path: write_bytes(path, bytes(9000)),
    lambda path: write_tensors(path, {"a": torch.zeros(9000)}, facts={}),
):
    try:
        write(Path(sys.argv[1]))
    except MachineError as error:
        print(error.exit_code, error.message)
"""


def test_a_really_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["3 the disk is full: file could not be written"] * 2, done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict_and_utf8(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"Größe": ["é", 1.5]})
    assert json.loads(path.read_bytes().decode()) == {"Größe": ["é", 1.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_bytes().decode()) == {"Größe": ["é", 1.5]}


def test_tensors_of_any_layout_come_back(tmp_path):
    filters = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"filters": filters, "view": filters[:, 1], "same": filters, "count": torch.tensor(3)}
    write_tensors(tmp_path / "file", tensors, facts={"format": "pt"})
    read = load_file(tmp_path / "file")
    assert set(read) == set(tensors)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_users_file_mode_mask_is_kept(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_sweep_removes_what_a_killed_process_left_and_no_more(tmp_path):
    for name in (".tmp-abc", ".tmpXyZ123", "kept", ".hidden"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".tmp-link").symlink_to("nowhere")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "kept"]


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.setenv("PICTUNE_CACHE", "/here")
    assert cache_folder() == Path("/here")
    monkeypatch.delenv("PICTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_folder() == Path("/there/pictune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/pictune")

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().name == f"pictune-{os.getuid()}"


def test_advice_for_a_place_that_may_not_be_written_to_fits_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("PICTUNE_CACHE", str(tmp_path / "cache"))
    for path, advice in (
        ("cache/pictures/a.bin", "with PICTUNE_CACHE"),
        ("runs/x/model.json", "--runs for runs"),
    ):
        with pytest.raises(MachineError, match=advice), disk_errors(tmp_path / path):
            raise PermissionError(errno.EACCES, "Permission denied")
