from __future__ import annotations

import hashlib
import math
import os
import socket
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image

from pictune.data import ingest as module
from pictune.data.decoding import FileState, Limits, decode
from pictune.data.finding import Outcome
from pictune.data.ingest import ingest, losses
from pictune.data.pixels import shrink
from pictune.data.sample import Dataset
from pictune.errors import DataError


def good_files(count: int = 6) -> dict[str, bytes]:
    """Pictures of two classes, no two alike."""
    return {
        f"{'ab'[i % 2]}/{i:02}.png": pictures.saved(np.roll(pictures.gradient(), 5 * i, 1), "PNG")
        for i in range(count)
    }


def snapshot(root: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return pictures.folder_dataset(tmp_path / "data", good_files())


@pytest.mark.parametrize("threads", [1, 3])
def test_everything_wanted_is_taken_in_one_pass(dataset: Dataset, cache: Path, threads: int):
    before = snapshot(dataset.root)
    ingested = ingest(dataset, cache=cache, side=16, threads=threads)
    assert snapshot(dataset.root) == before
    assert ingested.dataset.findings == ()
    assert ingested.store is not None
    assert len(ingested.store) == len(dataset) == len(ingested.facts.exif)
    for position, sample in enumerate(ingested.dataset.samples):
        data = sample.path.read_bytes()
        assert sample.key == dataset.samples[position].key
        assert sample.checksum == hashlib.sha256(data).hexdigest()
        assert (sample.width, sample.height) == (48, 32)
        assert ingested.facts.bytes[position] == len(data)
        assert ingested.facts.format[position] == "png"
        assert np.array_equal(ingested.store[position], shrink(decode(data).pixels, 16))
    assert len(set(ingested.facts.hash.tolist())) > 1
    assert ingested.facts.thumbnail.shape == (6, 16, 16)
    assert ingested.dataset.fingerprint != dataset.fingerprint


def test_without_a_side_there_is_no_store(dataset: Dataset, cache: Path):
    assert ingest(dataset, cache=cache).store is None
    assert not list(cache.glob("*.bin"))


def test_a_second_pass_opens_nothing(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = ingest(dataset, cache=cache, side=16)
    monkeypatch.setattr(module, "read_bytes", lambda *_, **__: pytest.fail("a file was opened again"))
    steps = []
    second = ingest(dataset, cache=cache, side=16, progress=lambda done, total: steps.append((done, total)))
    assert second.dataset == first.dataset
    assert steps == [(6, 6)]
    for name in ("hash", "thumbnail", "brightness", "contrast", "sharpness", "constant", "bytes"):
        assert np.array_equal(getattr(first.facts, name), getattr(second.facts, name))
    assert (second.facts.exif, second.facts.format) == (first.facts.exif, first.facts.format)
    assert first.store is not None
    assert second.store is not None
    assert all(np.array_equal(one, two) for one, two in zip(first.store, second.store, strict=True))


def changes() -> dict[str, object]:
    return {
        "another side": lambda dataset, cache: ingest(dataset, cache=cache, side=17),
        "other limits": lambda dataset, cache: ingest(
            dataset, cache=cache, side=16, limits=Limits(min_side=9)
        ),
        "a damaged memory": lambda dataset, cache: (
            next(cache.glob("facts-*")).write_bytes(b"PK\x03\x04"),
            ingest(dataset, cache=cache, side=16),
        ),
        "a lost store": lambda dataset, cache: (
            next(cache.glob("*.bin")).unlink(),
            ingest(dataset, cache=cache, side=16),
        ),
        "a touched file": lambda dataset, cache: (
            os.utime(dataset.samples[0].path, (1, 1)),
            ingest(dataset, cache=cache, side=16),
        ),
    }


@pytest.mark.parametrize("change", changes())
def test_whatever_changed_is_noticed(
    dataset: Dataset, cache: Path, change: str, monkeypatch: pytest.MonkeyPatch
):
    ingest(dataset, cache=cache, side=16)
    opened = []
    read = module.read_bytes
    monkeypatch.setattr(module, "read_bytes", lambda path, **k: (opened.append(path), read(path, **k))[1])
    changes()[change](dataset, cache)
    assert len(opened) == len(dataset)


def bitmaps(root: Path, colours: dict[str, int]) -> Dataset:
    """Pictures of one size and, as from an archive, of one time."""
    files = {
        key: pictures.saved(np.full((16, 16, 3), value, np.uint8), "BMP") for key, value in colours.items()
    }
    dataset = pictures.folder_dataset(root, files)
    for key in colours:
        os.utime(root / key, (1, 1))
    return dataset


def shades(dataset: Dataset, cache: Path) -> list[int]:
    store = ingest(dataset, cache=cache, side=16).store
    assert store is not None
    return [int(pixels[0, 0, 0]) for pixels in store]


def test_files_that_only_look_the_same_from_outside_are_told_apart(tmp_path: Path, cache: Path):
    first = bitmaps(tmp_path / "first", {"a/0.bmp": 10, "b/0.bmp": 200})
    second = bitmaps(tmp_path / "second", {"a/0.bmp": 200, "b/0.bmp": 10})
    assert shades(first, cache) == [10, 200]
    assert shades(second, cache) == [200, 10]
    one, two, other = (tmp_path / "first" / name for name in ("a/0.bmp", "b/0.bmp", "other"))
    one.rename(other)  # swapped, which leaves their sizes and times of writing as they were
    two.rename(one)
    other.rename(two)
    assert shades(first, cache) == [200, 10]


def with_bad(tmp_path: Path, bad: dict[str, bytes], good: int = 40) -> Dataset:
    return pictures.folder_dataset(tmp_path / "data", good_files(good) | bad)


def test_unusable_files_are_left_out_listed_and_remembered(tmp_path: Path, cache: Path):
    dataset = with_bad(tmp_path, {"a/00.png": b"", "b/99.jpg": pictures.jpeg()[:300]})
    for _ in range(2):
        ingested = ingest(dataset, cache=cache, side=16)
        left_out = {f.where: (f.code, f.outcome) for f in ingested.dataset.findings}
        assert left_out == {
            "a/00.png": ("empty", Outcome.QUARANTINE),
            "b/99.jpg": ("truncated", Outcome.QUARANTINE),
        }
        assert len(ingested.dataset) == len(ingested.facts.hash) == 39
        assert ingested.store is not None
        assert len(ingested.store) == 39
        assert np.array_equal(ingested.store[0], shrink(decode(ingested.dataset.samples[0].path).pixels, 16))


def test_splits_follow_the_samples_that_stay(tmp_path: Path, cache: Path):
    dataset = with_bad(tmp_path, {"a/00.png": b""})
    given = Dataset(**{**vars(dataset), "splits": {"train": (0, 1, 2), "test": (3,)}})
    assert dict(ingest(given, cache=cache).dataset.splits) == {"train": (0, 1), "test": (2,)}


def test_too_many_bad_files_stop_the_work_and_all_are_named(tmp_path: Path, cache: Path):
    dataset = with_bad(tmp_path, {f"a/x{i}.png": b"" for i in range(60)})
    with pytest.raises(DataError) as caught:
        ingest(dataset, cache=cache)
    assert caught.value.code == "too_many_bad"
    assert "60 of 100" in caught.value.message
    assert len(caught.value.causes) == 51
    assert "a/x0.png" in caught.value.causes[0]
    assert "10 more" in caught.value.causes[-1]
    assert "data.max_bad" in caught.value.instead
    assert len(ingest(dataset, cache=cache, max_bad=0.6).dataset) == 40


def test_losing_a_whole_class_stops_the_work(tmp_path: Path, cache: Path):
    dataset = with_bad(tmp_path, {"c/only.png": b""}, good=60)
    with pytest.raises(DataError, match="'c'") as caught:
        ingest(dataset, cache=cache, max_bad=1.0)
    assert caught.value.code == "class_lost"


def test_25_floats_without_a_range_stop_the_work(tmp_path: Path, cache: Path):
    tiff = pictures.tiff16(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24))
    dataset = with_bad(tmp_path, {"a/f.tif": tiff, "a/empty.png": b""}, good=60)
    with pytest.raises(DataError) as caught:
        ingest(dataset, cache=cache, max_bad=1.0)
    assert caught.value.code == "needs_range"
    assert len(caught.value.causes) == 2
    assert "a/f.tif" in caught.value.causes[0]
    assert len(ingest(dataset, cache=cache, value_range=(0.0, 1.0)).dataset) == 61


def test_whoever_wants_to_see_what_there_is_is_told_every_reason(tmp_path: Path, cache: Path):
    tiff = pictures.tiff16(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24))
    dataset = with_bad(tmp_path, {"a/f.tif": tiff, "c/only.png": b"", "a/empty.png": b""}, good=6)
    opened = ingest(dataset, cache=cache, max_bad=math.inf)
    assert len(opened.dataset) == len(opened.facts.hash) == 6
    found = list(losses(dataset, opened.dataset, 0.05))
    assert [loss.code for loss in found] == ["needs_range", "class_lost", "too_many_bad"]
    assert all(len(loss.causes) == 3 and "a/f.tif" in loss.causes[0] for loss in found)
    assert [loss.code for loss in losses(dataset, opened.dataset, 0.5)] == ["needs_range", "class_lost"]
    with pytest.raises(DataError) as caught:
        ingest(dataset, cache=cache)
    assert str(caught.value) == str(found[0])


def test_nothing_can_be_used_and_nothing_stops_it(tmp_path: Path, cache: Path):
    dataset = with_bad(tmp_path, {"a/1.png": b"", "b/1.png": b"x"}, good=0)
    opened = ingest(dataset, cache=cache, max_bad=math.inf)
    assert (len(opened.dataset), opened.dataset.classes) == (0, ("a", "b"))


def test_11_and_38_warnings_name_the_file_and_conversions_are_counted(tmp_path: Path, cache: Path):
    files = good_files() | {
        "a/wrong.jpg": pictures.png(),
        "a/right.JPG": pictures.jpeg(),
        "a/no ending": pictures.jpeg(pictures.gradient()[::-1]),
        "a/black.png": pictures.png(rows=bytes(16 * 12 * 3)),
        "b/grey1.png": pictures.png(colour=0),
        "b/grey2.png": pictures.png(20, 20, colour=0),
    }
    ingested = ingest(pictures.folder_dataset(tmp_path / "data", files), cache=cache)
    found = {(f.code, f.outcome, f.where) for f in ingested.dataset.findings}
    assert found == {
        ("wrong_extension", Outcome.WARN, "a/wrong.jpg"),
        ("constant", Outcome.WARN, "a/black.png"),
        ("greyscale", Outcome.NORMALISE, ""),
    }
    assert any(f.message.startswith("2 pictures") for f in ingested.dataset.findings)
    assert ingested.facts.constant.sum() == 1


def test_21_sizes_are_those_of_the_upright_picture(tmp_path: Path, cache: Path):
    turned = pictures.with_segment(pictures.jpeg(), 0xE1, pictures.exif_block(6))
    ingested = ingest(pictures.folder_dataset(tmp_path / "data", {"a/1.jpg": turned}), cache=cache, side=16)
    assert (ingested.dataset.samples[0].width, ingested.dataset.samples[0].height) == (32, 48)
    assert ingested.facts.exif[0].date == "2024-05-31"
    assert ingested.store is not None
    assert ingested.store[0].shape == (24, 16, 3)


def test_40_duplicates_share_checksum_and_look(tmp_path: Path, cache: Path):
    image = Image.fromarray(
        np.kron(np.random.default_rng(2).integers(0, 256, (8, 9, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    )
    files = {
        "a/1.png": pictures.saved(image, "PNG"),
        "a/2.png": pictures.saved(image, "PNG"),
        "b/small.jpg": pictures.jpeg(image.resize((120, 107))),
    }
    ingested = ingest(pictures.folder_dataset(tmp_path / "data", files), cache=cache)
    first, second, small = ingested.dataset.samples
    assert first.checksum == second.checksum != small.checksum
    hashes = ingested.facts.hash
    assert hashes[0] == hashes[1]
    assert int(hashes[0] ^ hashes[2]).bit_count() <= 6


def special(kind: str, path: Path) -> Path:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.close()
        case "device":
            return Path("/dev/zero")
        case "folder":
            path.mkdir()
        case "link to a fifo":
            os.mkfifo(path.with_suffix(".fifo"))
            path.symlink_to(path.with_suffix(".fifo").absolute())
    return path


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder", "link to a fifo"])
def test_59_special_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.chdir(tmp_path)  # a socket's name may be 107 bytes long at most
    good = pictures.folder_dataset(Path("data"), good_files(40))
    odd = special(kind, Path("data/a/odd.png"))
    extra = pictures.Sample("a/odd.png", odd, pictures.Labels(("a",)))
    dataset = Dataset(**{**vars(good), "samples": (*good.samples, extra)})
    open_file = os.open

    def watched(path: Path, *rest: int) -> int:
        assert Path(path) != odd, "a special file was opened"
        return open_file(path, *rest)

    monkeypatch.setattr(os, "open", watched)
    ingested = ingest(dataset, cache=tmp_path / "cache")
    assert [(f.code, f.outcome, f.where) for f in ingested.dataset.findings] == [
        ("special_file", Outcome.QUARANTINE, "a/odd.png")
    ]


def test_60_an_unreadable_file_is_left_out(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = with_bad(tmp_path, {})
    closed = dataset.samples[3].path
    closed.chmod(0)
    open_file = os.open

    def guarded(path: Path, *rest: int) -> int:
        # The superuser may read any file; then the refusal is played.
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *rest)

    monkeypatch.setattr(os, "open", guarded)
    found = ingest(dataset, cache=cache).dataset.findings
    assert [(f.code, f.outcome, f.where) for f in found] == [
        ("unreadable", Outcome.QUARANTINE, dataset.samples[3].key)
    ]
    monkeypatch.undo()
    closed.chmod(0o644)
    assert ingest(dataset, cache=cache).dataset.findings == ()


def test_61_a_file_that_vanished_is_left_out(tmp_path: Path, cache: Path):
    dataset = with_bad(tmp_path, {})
    dataset.samples[0].path.unlink()
    ingested = ingest(dataset, cache=cache)
    assert [f.code for f in ingested.dataset.findings] == ["missing"]
    assert len(ingested.dataset) == 39


@pytest.mark.parametrize("content", [b"", pictures.png(30, 30)], ids=["emptied", "replaced"])
def test_61_a_file_that_changes_during_the_pass_is_left_out(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
):
    dataset = with_bad(tmp_path, {})
    victim = dataset.samples[5].path

    def find_then_change(path: Path) -> FileState | None:
        state = FileState.find(path)
        if path == victim:
            path.write_bytes(content)
        return state

    with monkeypatch.context() as patch:
        patch.setattr(module, "FileState", type("Listing", (), {"find": staticmethod(find_then_change)}))
        ingested = ingest(dataset, cache=cache, side=16)
    assert [(f.code, f.where) for f in ingested.dataset.findings] == [("changed", dataset.samples[5].key)]
    assert not list(cache.glob("facts-*")), "a passing trouble must not be remembered"


def test_progress_counts_every_file(dataset: Dataset, cache: Path):
    steps = []
    ingest(dataset, cache=cache, threads=2, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i + 1, 6) for i in range(6)]


def test_an_interrupted_pass_leaves_nothing_half(dataset: Dataset, cache: Path):
    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(dataset, cache=cache, side=16, progress=interrupt)
    assert list(cache.iterdir()) == []
    assert len(ingest(dataset, cache=cache, side=16).dataset) == 6


def test_keys_need_not_be_printable_utf8(tmp_path: Path, cache: Path):
    root = tmp_path / "data"
    dataset = pictures.folder_dataset(root, {"a/-ünï cödé.png": pictures.png(), "a/x\udcff.png": b""})
    for _ in range(2):
        ingested = ingest(dataset, cache=cache, max_bad=0.9)
        assert [f.where for f in ingested.dataset.findings] == ["a/x\udcff.png"]


def test_few_pictures_wait_in_memory(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = pictures.folder_dataset(tmp_path / "data", good_files(120))
    opened, done = [], []
    ahead = []
    original = module._open
    monkeypatch.setattr(module, "_open", lambda *arguments: (opened.append(1), original(*arguments))[1])

    def progress(position: int, _: int) -> None:
        done.append(position)
        ahead.append(len(opened) - len(done))

    ingest(dataset, cache=cache, threads=2, progress=progress)
    assert max(ahead) <= 8 * (2 * 2 + 1)
