from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pictune.errors import MachineError
from pictune.training import feature_folder, feature_store
from pictune.training.feature_folder import LIMIT_BYTES, list_entries, remove, room
from pictune.training.feature_store import FeatureEntry, FeatureOverflowError, feature_key

SHAPE = (3, 2)
KEY = feature_key(weights="w", pixels="p", view="clean", dtype="float16")
FACTS = {"network": "toy", "boundary": "layer3", "view": "clean"}


def values_of(rows: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """What every test stores in a row: never zero, another for every row and place, exact in float16."""
    size = int(np.prod(shape))
    flat = 1 + (rows[:, None] * 7 + np.arange(size)) % 1000
    return flat.reshape(len(rows), *shape).astype(np.float32)


def opened(folder: Path, *, rows: int = 40, shape: tuple[int, ...] = SHAPE, dtype="float16") -> FeatureEntry:
    return FeatureEntry.open(folder, KEY, rows=rows, shape=shape, dtype=dtype, facts=FACTS)


def fill(entry: FeatureEntry, rows: list[int] | np.ndarray) -> None:
    rows = np.asarray(rows, np.int64)
    with entry.filling() as filler:
        filler.write(rows, torch.from_numpy(values_of(rows, entry.shape)))


def there(entry: FeatureEntry) -> list[int]:
    every = np.arange(entry.rows)
    return np.setdiff1d(every, entry.missing(every)).tolist()


def check_all(entry: FeatureEntry) -> None:
    """What counts as there is right."""
    rows = np.array(there(entry), np.int64)
    assert np.array_equal(entry.read(rows).numpy(), values_of(rows, entry.shape))


def test_rows_come_back_as_they_were_given(tmp_path: Path):
    entry = opened(tmp_path)
    assert entry.missing(np.array([5, 3, 3])).tolist() == [3, 5]
    fill(entry, [7, 3, 4, 39])
    assert there(entry) == [3, 4, 7, 39]
    assert entry.missing(np.array([3, 9, 39, 8, 9])).tolist() == [8, 9]
    rows = np.array([39, 3, 3, 7])
    found = entry.read(rows)
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (4, *SHAPE))
    assert np.array_equal(found.numpy(), values_of(rows))
    stored = entry.read(rows, as_stored=True)
    assert stored.dtype == torch.float16
    assert torch.equal(stored.float(), found)
    again = opened(tmp_path)
    assert there(again) == [3, 4, 7, 39]
    check_all(again)


def test_what_was_read_is_a_copy(tmp_path: Path):
    entry = opened(tmp_path)
    fill(entry, [1])
    entry.read(np.array([1]), as_stored=True).zero_()
    entry.read(np.array([1])).zero_()
    check_all(entry)
    check_all(opened(tmp_path))


def test_what_is_not_there_cannot_be_read(tmp_path: Path):
    entry = opened(tmp_path)
    fill(entry, [1])
    with pytest.raises(KeyError, match=r"rows \[2\]"):
        entry.read(np.array([1, 2]))
    with pytest.raises(IndexError):
        entry.read(np.array([40]))
    entry.close()
    with pytest.raises(KeyError):
        entry.read(np.array([1]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3, 3)])
def test_every_type_and_shape_rounds_like_torch(tmp_path: Path, dtype: str, shape: tuple[int, ...]):
    entry = opened(tmp_path, dtype=dtype, shape=shape, rows=6)
    values = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * 100
    with entry.filling() as filler:
        filler.write(np.array([4, 0, 5]), values)
    kind = getattr(torch, dtype)
    found = opened(tmp_path, dtype=dtype, shape=shape, rows=6).read(np.array([4, 0, 5]))
    assert torch.equal(found, values.to(kind).float())
    assert entry.nbytes == 6 * int(np.prod(shape)) * kind.itemsize


def test_values_in_any_memory_layout_and_from_numpy(tmp_path: Path):
    entry = opened(tmp_path, shape=(2, 3, 4))
    values = values_of(np.arange(4), (2, 3, 4))
    frozen = values[2:].copy()
    frozen.flags.writeable = False
    with entry.filling() as filler:
        filler.write(np.array([0, 1]), torch.from_numpy(values[:2]).to(memory_format=torch.channels_last))
        filler.write(np.array([2, 3]), frozen)
    assert np.array_equal(entry.read(np.arange(4)).numpy(), values)


@pytest.mark.parametrize("value", [65520.0, -1e30, float("inf"), float("nan")])
def test_what_float16_cannot_hold_is_refused_whole(tmp_path: Path, value: float):
    entry = opened(tmp_path)
    values = torch.ones(2, *SHAPE)
    values[1, 2, 1] = value
    with entry.filling() as filler:
        filler.write(np.array([8]), values_of(np.array([8])))
        with pytest.raises(FeatureOverflowError):
            filler.write(np.array([1, 2]), values)
    assert there(opened(tmp_path)) == [8], "what was written before is kept"
    check_all(entry)
    wide = opened(tmp_path / "wide", dtype="bfloat16")
    with wide.filling() as filler:
        filler.write(np.array([1]), torch.full((1, *SHAPE), 65520.0))
    assert wide.read(np.array([1])).min() == 65536.0


def test_a_row_that_is_there_never_changes(tmp_path: Path):
    entry = opened(tmp_path)
    fill(entry, [1])
    with entry.filling() as filler:
        filler.write(np.array([1, 2, 2]), values_of(np.array([9, 2, 3])))
        filler.write(np.array([2]), values_of(np.array([5])))
        filler.write(np.array([], np.int64), values_of(np.array([], np.int64)))
        assert filler.missing(np.array([1, 2, 3])).tolist() == [3]
    check_all(opened(tmp_path))
    assert there(entry) == [1, 2]


def test_keys_depend_on_everything():
    given = [
        dict(zip(("weights", "pixels", "view", "dtype"), words, strict=True))
        for words in (
            ("a", "b", "c", "float16"),
            ("ab", "", "c", "float16"),
            ("a", "b", "c", "bfloat16"),
            ("a", "bc", "", "float16"),
            ("b", "a", "c", "float16"),
        )
    ]
    keys = {feature_key(**words) for words in given}
    assert len(keys) == len(given)
    assert all(len(key) == 40 and set(key) <= set("0123456789abcdef") for key in keys)


def test_the_file_has_its_full_size_but_takes_only_what_is_written(tmp_path: Path):
    entry = opened(tmp_path, rows=1000, shape=(4096,))
    assert (tmp_path / f"{KEY}.bin").stat().st_size == entry.nbytes == 1000 * 8192
    assert entry.used_bytes == 0
    fill(entry, [10, 500])
    assert 2 * 8192 <= entry.used_bytes < 100 * 8192


def test_a_reader_sees_what_others_added_meanwhile(tmp_path: Path):
    reader, writer = opened(tmp_path), opened(tmp_path)
    assert len(reader.missing(np.arange(3))) == 3
    with writer.filling() as filler:
        filler.write(np.arange(3), values_of(np.arange(3)))
        assert len(reader.missing(np.arange(3))) == 3, "not synced yet"
        assert len(writer.missing(np.arange(3))) == 0
        filler.commit()
        assert np.array_equal(reader.read(np.arange(3)).numpy(), values_of(np.arange(3)))


def test_rows_are_committed_after_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_store, "COMMIT_BYTES", 2 * 12)
    with opened(tmp_path).filling() as filler:
        filler.write(np.array([1]), values_of(np.array([1])))
        assert there(opened(tmp_path)) == []
        filler.write(np.array([2]), values_of(np.array([2])))
        assert there(opened(tmp_path)) == [1, 2]


def test_the_bytes_are_synced_before_the_rows_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = opened(tmp_path)
    steps: list[str] = []
    write, sync, replace = os.pwrite, os.fsync, Path.replace
    monkeypatch.setattr(os, "pwrite", lambda *given: (steps.append("write"), write(*given))[1])

    def synced(number: int) -> None:
        steps.append(f"sync {Path('/proc/self/fd', str(number)).readlink().suffix}")
        sync(number)

    def replaced(old: Path, new: Path) -> Path:
        steps.append(f"replace {new.name.partition('.')[2]}")
        return replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    fill(entry, [1, 2, 5])
    assert steps[:3] == ["write", "write", "sync .bin"]
    assert steps[3].startswith("sync"), "the new file of rows"
    assert steps[4] == "replace rows.npz"


# Damage: what is not whole is made anew, and never read.


def damage_bin_cut(path: Path) -> None:
    os.truncate(path.with_suffix(".bin"), path.with_suffix(".bin").stat().st_size - 1)


def damage_bin_emptied(path: Path) -> None:
    size = path.with_suffix(".bin").stat().st_size
    os.truncate(path.with_suffix(".bin"), 0)
    os.truncate(path.with_suffix(".bin"), size)


def damage_bin_gone(path: Path) -> None:
    path.with_suffix(".bin").unlink()


def damage_json_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_json_is_a_list(path: Path) -> None:
    path.write_text("[1]")


def damage_json_tells_texts(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": "40"}))


def damage_json_lacks_a_field(path: Path) -> None:
    path.write_text(json.dumps({"token": "x", "shape": [3, 2]}))


def damage_json_is_older(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "token": "another"}))


def damage_rows_cut(path: Path) -> None:
    rows = path.with_suffix(".rows.npz")
    rows.write_bytes(rows.read_bytes()[:-30])


def damage_rows_gone(path: Path) -> None:
    path.with_suffix(".rows.npz").unlink()


DAMAGES = [
    damage_bin_cut,
    damage_bin_emptied,
    damage_bin_gone,
    damage_json_cut,
    damage_json_is_a_list,
    damage_json_tells_texts,
    damage_json_lacks_a_field,
    damage_json_is_older,
    damage_rows_cut,
    damage_rows_gone,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_counts_as_absent_and_is_made_anew(tmp_path: Path, damage):
    with opened(tmp_path) as entry:
        fill(entry, range(10))
    damage(tmp_path / f"{KEY}.json")
    list_entries(tmp_path)
    with opened(tmp_path) as entry:
        assert there(entry) == []
        fill(entry, [2, 3])
        assert there(entry) == [2, 3]
    with opened(tmp_path) as entry:
        assert there(entry) == [2, 3]
        check_all(entry)


def test_another_shape_under_the_same_name_is_made_anew(tmp_path: Path):
    fill(opened(tmp_path), [1])
    for change in ({"rows": 41}, {"shape": (2, 3)}, {"dtype": "bfloat16"}):
        with opened(tmp_path, **change) as entry:
            assert there(entry) == []
            fill(entry, [1])


def test_whoever_has_a_damaged_entry_open_goes_on_and_harms_nobody(tmp_path: Path):
    old = opened(tmp_path)
    fill(old, [1])
    (tmp_path / f"{KEY}.json").write_text("damaged")
    new = opened(tmp_path)
    check_all(old)
    assert there(old) == [1]
    fill(new, [2])
    assert there(old) == [1], "the rows of the new files are not in the old ones"
    with old.filling() as filler:
        assert filler.missing(np.arange(4)).tolist() == [0, 1, 3], "filling goes into the new files"
        filler.write(np.array([3]), values_of(np.array([3])))
    assert there(new) == there(old) == [2, 3]
    check_all(new)
    check_all(old)


def test_files_that_vanish_while_they_are_filled_lose_only_themselves(tmp_path: Path, caplog):
    entry = opened(tmp_path)
    with entry.filling() as filler:
        filler.write(np.array([1]), values_of(np.array([1])))
        for path in tmp_path.iterdir():
            path.unlink()
        assert there(opened(tmp_path)) == []
    assert "replaced while they were written" in caplog.text
    check_all(entry)
    assert there(opened(tmp_path)) == []
    fill(entry, [2])
    assert there(opened(tmp_path)) == [2]


# The disk: what it refuses is said plainly, and nothing is lost.


def refusing(number: int):
    def refuse(*given: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("call", ["pwrite", "fsync", "truncate"])
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    entry = opened(tmp_path)
    fill(entry, [1])

    def work() -> None:
        if call == "truncate":
            opened(tmp_path / "other")
        fill(entry, [2, 3])

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing(errno.ENOSPC))
        with pytest.raises(MachineError, match="disk is full"):
            work()
    assert there(entry) == [1], "what could not be synced is not there in this process either"
    fill(entry, [3])
    for reader in (entry, opened(tmp_path)):
        assert there(reader) == [1, 3]
        check_all(reader)
    assert not list(tmp_path.glob(".tmp*"))


def test_a_disk_that_fills_up_midway_keeps_what_was_written_whole(tmp_path, monkeypatch):
    entry = opened(tmp_path)
    write, left = os.pwrite, 18

    def little_room(number: int, content: memoryview, position: int) -> int:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = content[: min(left, 5)]
        left -= len(part)
        return write(number, part, position)

    monkeypatch.setattr(os, "pwrite", little_room)

    def work() -> None:
        with entry.filling() as filler:
            for row in range(4):
                filler.write(np.array([row]), values_of(np.array([row])))

    with pytest.raises(MachineError, match="disk is full"):
        work()
    assert there(entry) == there(opened(tmp_path)) == [0]
    check_all(opened(tmp_path))


def test_a_folder_that_cannot_be_written_is_said_plainly(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="could not be written"):
        opened(tmp_path / "file" / "features")


def test_an_error_while_filling_keeps_what_was_written(tmp_path: Path):
    def work() -> None:
        with opened(tmp_path).filling() as filler:
            filler.write(np.array([4]), values_of(np.array([4])))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert there(opened(tmp_path)) == [4]


# Two at once.


def test_the_second_filler_waits_and_then_computes_nothing_twice(tmp_path: Path):
    first, second = opened(tmp_path), opened(tmp_path)
    waited, got = threading.Event(), []

    def follow() -> None:
        with second.filling(waiting=waited.set) as filler:
            got.extend(filler.missing(np.arange(6)).tolist())
            filler.write(np.arange(6), values_of(np.arange(6)))

    with first.filling() as filler:
        thread = threading.Thread(target=follow)
        thread.start()
        assert waited.wait(20)
        assert len(second.missing(np.arange(6))) == 6, "reading goes on meanwhile"
        filler.write(np.arange(4), values_of(np.arange(4)))
    thread.join()
    assert got == [4, 5]
    check_all(first)
    assert there(first) == there(second) == list(range(6))


def test_waiting_can_be_given_up(tmp_path: Path):
    first, second = opened(tmp_path), opened(tmp_path)

    def stop() -> None:
        raise InterruptedError

    with first.filling(), pytest.raises(InterruptedError), second.filling(waiting=stop):
        pytest.fail("two fill at once")
    fill(second, [1])
    assert there(first) == [1]


# The folder.


def test_entries_are_listed_with_what_they_are(tmp_path: Path):
    folder = tmp_path / "features"
    assert list_entries(folder) == []
    entry = opened(folder, rows=50, shape=(2048,))
    fill(entry, range(20))
    other = feature_key(weights="other", pixels="p", view="clean", dtype="float32")
    FeatureEntry.open(folder, other, rows=5, shape=(2,), dtype="float32", facts={}).close()
    (folder / f"{other}.json").write_text("damaged")
    (folder / "notes.json").write_text("not ours")
    os.utime(folder / f"{KEY}.json", (1e9, 1e9))
    listed = {facts.key: facts for facts in list_entries(folder)}
    assert set(listed) == {KEY, other}
    mine = listed[KEY]
    assert (mine.rows, mine.rows_there, mine.in_use) == (50, 20, True)
    assert mine.description == "network toy, boundary layer3, view clean"
    assert 20 * 4096 <= mine.bytes < 30 * 4096
    assert mine.last_used.timestamp() == 1e9, "looking counts as no use"
    assert mine.made is not None
    assert (listed[other].description, listed[other].made, listed[other].in_use) == ("damaged", None, False)
    opened(folder, rows=50, shape=(2048,)).close()
    assert list_entries(folder)[[*sorted(listed)].index(KEY)].last_used.timestamp() > 1e9


def test_what_is_open_is_not_removed(tmp_path: Path):
    entry = opened(tmp_path)
    fill(entry, [1])
    again = opened(tmp_path)
    assert not remove(tmp_path, KEY)
    check_all(entry)
    entry.close()
    assert not remove(tmp_path, KEY)
    del again
    assert remove(tmp_path, KEY)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert remove(tmp_path, KEY), "what is absent is gone"
    assert there(opened(tmp_path)) == []


def test_a_closed_entry_opens_again_to_be_filled(tmp_path: Path):
    entry = opened(tmp_path)
    fill(entry, [1])
    entry.close()
    assert remove(tmp_path, KEY)
    fill(entry, [2])
    assert there(entry) == [2]


def test_room_is_what_limit_and_disk_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    free = 10**12
    usage = type("Usage", (), {"free": property(lambda self: free)})
    monkeypatch.setattr(feature_folder.shutil, "disk_usage", lambda place: usage())
    folder = tmp_path / "not" / "there"
    assert room(folder) == LIMIT_BYTES
    entry = opened(folder, rows=100, shape=(2048,))
    fill(entry, range(50))
    held = sum(facts.bytes for facts in list_entries(folder))
    assert held >= 50 * 4096
    assert room(folder, limit_bytes=10**6) == 10**6 - held
    assert room(folder, limit_bytes=1000) == 0
    free = 500_000
    assert room(folder) == (500_000 - held) // 2
    free = 1000
    assert room(folder) == 0


# Random interleavings against a model that is a set.


class Interleavings(RuleBasedStateMachine):
    """Two entries open on the same files, filled, read, closed, opened, committed and broken off."""

    rows = st.lists(st.integers(0, 39), min_size=1, max_size=9)
    which = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.entries = [opened(self.folder), opened(self.folder)]
        self.safe: set[int] = set()

    @rule(which=which, rows=rows, breaks=st.booleans())
    def fills(self, which: int, rows: list[int], breaks: bool) -> None:
        positions = np.array(rows)
        try:
            with self.entries[which].filling() as filler:
                assert set(filler.missing(positions).tolist()) == set(rows) - self.safe
                filler.write(positions, values_of(positions))
                if breaks:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert breaks
        self.safe |= set(rows)

    @rule(which=which, rows=rows)
    def loses_what_cannot_be_synced(self, which: int, rows: list[int]) -> None:
        if not set(rows) - self.safe:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", refusing(errno.EIO))
            with pytest.raises(MachineError):
                fill(self.entries[which], rows)

    @rule(which=which)
    def reopens(self, which: int) -> None:
        self.entries[which].close()
        self.entries[which] = opened(self.folder)

    @precondition(lambda self: self.safe)
    @rule(which=which, data=st.data())
    def reads(self, which: int, data: st.DataObject) -> None:
        rows = np.array(data.draw(st.lists(st.sampled_from(sorted(self.safe)), min_size=1, max_size=6)))
        assert np.array_equal(self.entries[which].read(rows).numpy(), values_of(rows))

    @rule()
    def removes(self) -> None:
        assert not remove(self.folder, KEY)
        for entry in self.entries:
            entry.close()
        assert remove(self.folder, KEY)
        self.entries = [opened(self.folder), opened(self.folder)]
        self.safe = set()

    @invariant()
    def agree(self) -> None:
        for entry in self.entries:
            assert there(entry) == sorted(self.safe)

    def teardown(self) -> None:
        for entry in self.entries:
            entry.close()
        self.place.cleanup()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


# Kills. A process with one thread imports everything, and forks a child for every kill.

FEW = 14
CHILDREN = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from pictune.training import feature_store
from pictune.training.feature_store import FeatureEntry

feature_store.COMMIT_BYTES = 4 * 12  # a commit every few rows
# Without PyTorch, whose many mappings make every fork slow; kills are about the disk.
feature_store._to_bits = lambda values, shape, dtype: (
    values.astype(np.float16).view(np.int16).reshape(shape[0], 6)
)
os.fsync = lambda number: None  # a moment to be killed at; what a process wrote survives its kill anyway

def values_of(rows):
    return (1 + (rows[:, None] * 7 + np.arange(6)) % 1000).reshape(len(rows), 3, 2).astype(np.float32)

def strike_at(number, half):
    left = number
    def wrap(call, name):
        def wrapped(*given, **named):
            nonlocal left
            left -= 1
            if left == 0:
                if half and name == "pwrite":
                    call(given[0], given[1][: len(given[1]) // 2], given[2])
                elif half:
                    try:
                        call(*given, **named)
                    except OSError:
                        pass
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)
        return wrapped
    for name in ("pwrite", "fsync", "replace", "unlink", "truncate"):
        setattr(os, name, wrap(getattr(os, name), name))

def fill(folder, key, pause):
    entry = FeatureEntry.open(Path(folder), key, rows=14, shape=(3, 2), dtype="float16", facts={})
    generator = np.random.default_rng()
    with entry.filling() as filler:
        absent = filler.missing(generator.permutation(14))
        for rows in np.array_split(generator.permutation(absent), 6):
            filler.write(rows, values_of(rows))
            time.sleep(pause)

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            if order["after"]:
                signal.setitimer(signal.ITIMER_REAL, order["after"])  # SIGALRM kills as SIGKILL does
            if order["strike"]:
                strike_at(order["strike"], order["half"])
            fill(order["folder"], order["key"], order["pause"])
            code = 0
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def children() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", CHILDREN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run_child(process, folder: Path, *, strike=0, half=False, after=0.0, pause=0.0) -> int:
    order = {
        "folder": str(folder),
        "key": KEY,
        "strike": strike,
        "half": half,
        "after": after,
        "pause": pause,
    }
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.parametrize("half", [False, True], ids=["before", "during or after"])
def test_killed_at_any_call_that_changes_the_disk_every_row_that_counts_is_right(tmp_path, children, half):
    kills, partly = 0, 0
    for strike in range(1, 200):
        folder = tmp_path / str(strike)
        code = run_child(children, folder, strike=strike, half=half)
        if code == 0:
            break
        assert code == -9
        kills += 1
        with opened(folder, rows=FEW) as entry:
            partly += 0 < len(there(entry)) < FEW
            check_all(entry)
        if strike % 3 == 0:  # a second kill on top of the first one must do no harm either
            run_child(children, folder, strike=strike, half=not half)
            with opened(folder, rows=FEW) as entry:
                check_all(entry)
        assert run_child(children, folder) == 0
        with opened(folder, rows=FEW) as entry:
            assert there(entry) == list(range(FEW))
            check_all(entry)
        assert not list(folder.glob(".tmp*"))
    assert code == 0, "the child never came to its end"
    assert kills > 25
    assert partly > 5


def test_killed_at_random_moments_every_row_that_counts_is_right(tmp_path, children):
    generator = np.random.default_rng(0)
    kills, partly, longest = 0, 0, 0.02
    for number in range(200):
        folder = tmp_path / str(number // 2)  # the second kill strikes while the next process goes on
        code = run_child(children, folder, after=longest * generator.uniform(0.05, 1), pause=0.002)
        kills += code == -14
        with opened(folder, rows=FEW) as entry:
            partly += 0 < len(there(entry)) < FEW
            check_all(entry)
        longest *= 0.9 if code == 0 else 1.05  # whatever else the machine is doing
        if kills >= 15 and partly >= 5:
            return
    pytest.fail("the kills came too late, or never in the middle")


HOLDER = """
import sys
from pathlib import Path
from pictune.training.feature_store import FeatureEntry

entry = FeatureEntry.open(Path(sys.argv[1]), sys.argv[2], rows=40, shape=(3, 2), dtype="float16", facts={})
with entry.filling():
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_living_process_holds_is_free_once_it_is_killed(tmp_path: Path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path), KEY]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        assert list_entries(tmp_path)[0].in_use
        assert not remove(tmp_path, KEY)

        def kill_it() -> None:
            holder.kill()

        with opened(tmp_path) as entry, entry.filling(waiting=kill_it) as filler:
            filler.write(np.array([1]), values_of(np.array([1])))
    assert there(opened(tmp_path)) == [1]
    assert remove(tmp_path, KEY)


def test_locks_are_not_left_to_programs_that_are_started(tmp_path: Path):
    with opened(tmp_path) as entry, entry.filling():
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "input(1)"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
    try:
        assert sleeper.stdout is not None
        assert sleeper.stdout.read(1) == b"1"
        with (tmp_path / f"{KEY}.json").open("rb+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert remove(tmp_path, KEY)
    finally:
        sleeper.communicate(b"\n")
