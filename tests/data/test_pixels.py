from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data import pixels as module
from pictune.data.hashing import appearance
from pictune.data.pixels import PixelStore, PixelWriter, shrink, store_name
from pictune.errors import MachineError


def random_pictures(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def written(folder: Path, arrays: list[np.ndarray], name: str = "pixels-a") -> PixelStore:
    with PixelWriter(folder) as writer:
        for array in arrays:
            writer.add(array)
        return writer.commit(name)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
@settings(deadline=None)
def test_shrink_fits_the_shorter_side_and_keeps_the_shape(height: int, width: int, side: int):
    pixels = np.full((height, width, 3), 77, np.uint8)
    small = shrink(pixels, side)
    assert min(small.shape[:2]) == side
    assert abs(small.shape[0] * width - small.shape[1] * height) <= max(height, width)
    assert (small == 77).all()
    assert small.shape[2] == 3


def test_shrink_leaves_what_fits_untouched():
    pixels = pictures.gradient(48, 32)
    assert shrink(pixels, 32) is pixels


@pytest.mark.parametrize("side", [300, 200, 128, 100, 64, 33])
def test_shrink_is_close_to_averaging_and_does_not_shift(side: int):
    height, width = 480, 640
    down, across = np.mgrid[0:height, 0:width]
    waves = 128 + 90 * np.sin(across / 17) * np.cos(down / 23)
    pixels = np.repeat(waves.astype(np.uint8)[..., None], 3, axis=2)
    small = shrink(pixels, side).astype(int)
    averaged = cv2.resize(pixels, small.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(small - averaged).mean() < 1
    assert np.abs((small - averaged).mean()) < 0.5


def test_shrink_does_not_alias_noise():
    noise = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    assert shrink(noise, 64).std() < 10  # taking every 16th pixel would keep the noise's 74


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8))
@settings(deadline=None, max_examples=25)
def test_store_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]
):
    arrays = random_pictures(sizes)
    folder = tmp_path_factory.mktemp("store")
    written(folder, arrays)
    store = PixelStore(folder, "pixels-a")
    assert len(store) == len(arrays)
    assert store.nbytes == sum(array.nbytes for array in arrays)
    assert store.sizes.tolist() == [list(size) for size in sizes]
    for position, array in enumerate(arrays):
        assert np.array_equal(store[position], array)
        assert np.array_equal(store[position - len(arrays)], array)
    with pytest.raises(IndexError):
        store[len(arrays)]


def test_store_is_read_only_and_makes_no_copies(tmp_path: Path):
    store = written(tmp_path, random_pictures([(4, 5), (6, 7)]))
    assert not store[0].flags.writeable
    assert np.shares_memory(store[1], store[1])
    assert [part.shape for part in store[0:2]] == [(4, 5, 3), (6, 7, 3)]
    assert [part.shape for part in store] == [(4, 5, 3), (6, 7, 3)]


def test_nothing_is_seen_before_commit_and_nothing_stays_behind(tmp_path: Path):
    with PixelWriter(tmp_path) as writer:
        writer.add(pictures.gradient())
        with pytest.raises(FileNotFoundError):
            PixelStore(tmp_path, "pixels-a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", ["data cut", "index cut", "no data", "no index", "index is text", "data longer"]
)
def test_half_a_store_is_never_read(tmp_path: Path, damage: str):
    written(tmp_path, random_pictures([(8, 9)]))
    data, index = tmp_path / "pixels-a.bin", tmp_path / "pixels-a.npz"
    match damage:
        case "data cut":
            data.write_bytes(data.read_bytes()[:-1])
        case "data longer":
            data.write_bytes(data.read_bytes() + b"x")
        case "index cut":
            index.write_bytes(index.read_bytes()[:-30])
        case "index is text":
            index.write_text("hello")
        case "no data":
            data.unlink()
        case "no index":
            index.unlink()
    with pytest.raises(FileNotFoundError, match="pixels-a"):
        PixelStore(tmp_path, "pixels-a")


def test_two_writers_at_once_do_no_harm(tmp_path: Path):
    arrays = random_pictures([(20, 30)] * 20)
    with PixelWriter(tmp_path) as first, PixelWriter(tmp_path) as second:
        for array in arrays:
            first.add(array)
            second.add(array)
        early = first.commit("pixels-a")
        late = second.commit("pixels-a")
    for store in (early, late, PixelStore(tmp_path, "pixels-a")):
        assert all(np.array_equal(stored, array) for stored, array in zip(store, arrays, strict=True))
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: written(tmp_path, arrays), range(8)))) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pixels-a.bin", "pixels-a.npz"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path):
    (tmp_path / ".part-dead").write_bytes(b"half")
    with PixelWriter(tmp_path) as living:
        living.add(pictures.gradient())
        assert not (tmp_path / ".part-dead").exists()
        with PixelWriter(tmp_path):
            pass
        assert len(living.commit("pixels-a")) == 1


def test_a_full_disk_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(MachineError, match="disk is full"):
        written(tmp_path, random_pictures([(8, 9)]))
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_synced_before_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("sync"), sync(number))[1])
    monkeypatch.setattr(
        Path, "replace", lambda old, new: (steps.append(Path(new).suffix), replace(old, new))[1]
    )
    written(tmp_path, random_pictures([(8, 9)]))
    assert steps == ["sync", ".bin", "sync", ".npz", "sync"]


def test_names_depend_on_content_side_and_decoder():
    names = {
        store_name(checksums, side=side, decoder=decoder)
        for checksums in (["aa", "bb"], ["bb", "aa"], ["aabb"], [])
        for side in (64, 65)
        for decoder in ("1", "2")
    }
    assert len(names) == 16


def test_appearance_of_known_pictures():
    flat = appearance(np.full((40, 30, 3), 200, np.uint8))
    assert (flat.brightness, flat.contrast, flat.sharpness, flat.constant) == (200, 0, 0, True)
    assert flat.thumbnail.tolist() == [[200] * 16] * 16
    almost = np.full((40, 30, 3), 200, np.uint8)
    almost[7, 7, 1] = 201
    assert not appearance(almost).constant
    darker_to_the_right = (
        np.repeat(np.linspace(255, 0, 90)[None, :, None], 80, 0).repeat(3, 2).astype(np.uint8)
    )
    assert appearance(darker_to_the_right).dhash == 2**64 - 1
    assert appearance(darker_to_the_right[:, ::-1].copy()).dhash == 0
    assert darker_to_the_right.mean() == pytest.approx(appearance(darker_to_the_right).brightness, abs=1)


def test_blur_lowers_sharpness_and_40_near_duplicates_have_near_hashes():
    generator = np.random.default_rng(5)
    picture = cv2.resize(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8), (320, 240))
    other = cv2.resize(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8), (320, 240))
    same, smaller = appearance(picture), appearance(cv2.resize(picture, (200, 150)))
    assert (same.dhash ^ smaller.dhash).bit_count() <= 4
    assert (same.dhash ^ appearance(other).dhash).bit_count() > 16
    assert appearance(cv2.GaussianBlur(picture, (0, 0), 6)).sharpness < same.sharpness / 2
