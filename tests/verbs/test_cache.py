from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import toys
from pictune.data.formats import read_dataset
from pictune.data.ingest import ingest
from pictune.data.pixels import PixelStore, PixelWriter
from pictune.errors import InputError
from pictune.files import cache_folder
from pictune.training.feature_store import FeatureEntry, feature_key
from pictune.verbs.cache import cache

DAY = 86400
PIXELS = "pixels-" + "a" * 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("PICTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "pictures").mkdir(parents=True)
    return tmp_path / "cache"


def entry(home: Path, view: str, *, age: float = 0, rows: int = 10) -> str:
    """A closed entry of 4 kB a row, last opened so many days ago."""
    key = feature_key(weights="w", pixels="p", view=view, dtype="float16")
    facts = {"network": "toy", "view": view}
    with (
        FeatureEntry.open(
            home / "features", key, rows=100, shape=(2048,), dtype="float16", facts=facts
        ) as made,
        made.filling() as filler,
    ):
        filler.write(np.arange(rows), np.ones((rows, 2048), np.float32))
    made_at(home / "features" / f"{key}.json", age)
    return key


def pixels(home: Path, name: str = PIXELS, *, age: float = 0) -> PixelStore:
    with PixelWriter(home / "pictures") as writer:
        for value in range(3):
            writer.add(np.full((96, 128, 3), value, np.uint8))
        store = writer.commit(name)
    for suffix in (".bin", ".npz"):
        made_at(home / "pictures" / f"{name}{suffix}", age)
    return store


def made_at(path: Path, age: float) -> None:
    moment = time.time() - age * DAY
    os.utime(path, (moment, moment))


def files(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file() and path.name != ".lock")


def test_an_empty_cache_is_said_to_be_empty(home: Path):
    listing = cache()
    assert listing.rows() == []
    assert listing.summary() == f"{home} holds nothing."
    assert cache(clear=True).items == ()
    home.joinpath("pictures").rmdir()
    home.rmdir()
    assert cache(clear=True).items == ()
    assert not home.exists(), "looking makes no folder"


def test_everything_is_listed_with_size_kind_and_last_use(home: Path):
    key = entry(home, "clean", age=3)
    pixels(home, age=1)
    ingest(read_dataset(toys.shape_folders(home.parent / "toy")), cache=home / "pictures", side=16)
    listing = cache()
    assert {item.kind for item in listing.items[:2]} == {"pixels", "facts"}
    assert not any(item.in_use or item.removed for item in listing.items)
    found = {item.name: item for item in listing.items}
    assert found[key].description == "network toy, view clean (10 of 100 rows)"
    assert 10 * 4096 <= found[key].bytes < 20 * 4096, "what is really taken, not the file's size"
    assert found[PIXELS].description == "3 pictures, shorter side 96 pixels"
    assert found[PIXELS].bytes >= 3 * 96 * 128 * 3
    ingested = next(item for item in listing.items if item.kind == "pixels" and item.name != PIXELS)
    assert ingested.description == "60 pictures, shorter side 16 pixels"
    assert [item.name for item in listing.items[2:]] == [PIXELS, key], "the last used first"
    assert listing.bytes == sum(item.bytes for item in listing.items)
    again = {item.name: item for item in cache().items}
    assert {name: item.last_used for name, item in again.items()} == {
        name: item.last_used for name, item in found.items()
    }, "looking counts as no use"


def test_the_summary_is_a_table_and_the_rows_are_json(home: Path):
    key = entry(home, "clean", age=3)
    pixels(home, age=1.5)
    header, first, second, total = cache().summary().splitlines()
    assert header.split() == ["kind", "size", "last", "used", "what"]
    assert first.startswith("pixels    ")
    assert first.endswith("  yesterday   3 pictures, shorter side 96 pixels")
    assert " kB  3 days ago  network toy, view clean (10 of 100 rows)" in second
    assert total.startswith(f"{home} holds ")
    assert total.endswith(" kB in 2 items.")
    rows = json.loads(json.dumps(cache().rows()))
    assert set(rows[0]) == {"kind", "name", "description", "bytes", "last_used", "in_use", "removed"}
    assert [row["name"] for row in rows] == [PIXELS, key]
    assert "Removed 2 items, " in cache(clear=True).summary()


def test_what_was_not_used_for_long_goes(home: Path):
    old, young = entry(home, "old", age=31), entry(home, "young", age=29)
    pixels(home, age=31)
    pixels(home, PIXELS.replace("a", "b"), age=29)
    listing = cache(older_than=30)
    assert {item.name for item in listing.removed} == {old, PIXELS}
    assert {item.name for item in listing.kept} == {young, PIXELS.replace("a", "b")}
    assert {item.name for item in cache().items} == {item.name for item in listing.kept}
    assert len(cache(older_than=1e300).removed) == 0
    assert len(cache(older_than=0).removed) == 2
    assert files(home) == []


def test_the_least_recently_used_goes_first_until_little_enough_is_left(home: Path):
    keys = [entry(home, str(age), age=age) for age in (5, 1, 9, 3)]
    sizes = {item.name: item.bytes for item in cache().items}
    assert [item.name for item in cache().items] == [keys[1], keys[3], keys[0], keys[2]]
    listing = cache(keep=(sizes[keys[1]] + sizes[keys[3]]) / 1e9)
    assert [item.name for item in listing.kept] == [keys[1], keys[3]]
    assert listing.bytes == sizes[keys[1]] + sizes[keys[3]]
    assert len(cache(keep=10).removed) == 0
    assert len(cache(keep=0).kept) == 0


def test_both_wishes_are_granted(home: Path):
    old, young, new = (entry(home, str(age), age=age) for age in (20, 5, 1))
    size = cache().items[0].bytes
    listing = cache(older_than=10, keep=1.5 * size / 1e9)
    assert [item.name for item in listing.kept] == [new]
    assert {item.name for item in listing.removed} == {old, young}


def test_clearing_leaves_what_is_not_ours(home: Path):
    entry(home, "clean")
    pixels(home)
    strangers = [home / "thesis.txt", home / "features" / "notes.json", home / "pictures" / "cat.bin"]
    strangers += [home / "features" / ".hidden", home / "pictures" / "facts-of-life.npz"]
    for path in strangers:
        path.write_text("mine")
    assert len(cache(clear=True).removed) == 2
    assert files(home) == sorted(path.name for path in strangers)


def test_features_that_are_open_stay(home: Path):
    key = entry(home, "clean", age=40)
    entry(home, "other", age=40)
    facts = {"network": "toy"}
    with FeatureEntry.open(
        home / "features", key, rows=100, shape=(2048,), dtype="float16", facts=facts
    ) as held:
        for wish in ({"clear": True}, {"older_than": 0}, {"keep": 0}):
            listing = cache(**wish)
            assert [(item.name, item.in_use) for item in listing.kept] == [(key, True)]
        assert listing.summary().splitlines()[1].endswith("(10 of 100 rows) [in use]")
        assert held.read(np.arange(10)).eq(1).all()
    assert len(cache(clear=True).removed) == 1


def test_stored_pixels_that_are_mapped_may_go_and_stay_readable(home: Path):
    store = pixels(home)
    assert [item.name for item in cache(clear=True).removed] == [PIXELS]
    assert files(home) == []
    assert [int(picture.max()) for picture in store] == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        PixelStore(home / "pictures", PIXELS)


def test_a_store_that_is_being_written_stays(home: Path):
    with PixelWriter(home / "pictures") as writer:
        writer.add(np.ones((4, 5, 3), np.uint8))
        (item,) = cache(clear=True).kept
        assert (item.kind, item.in_use, item.description) == ("unfinished", True, "being written")
        store = writer.commit(PIXELS)
        assert [item.in_use for item in cache(clear=True).kept] == [True]
    assert store[0].max() == 1
    assert len(cache(clear=True).removed) == 1


def test_what_dead_processes_left_goes_and_what_living_ones_write_stays(home: Path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = process.pid
    entry(home, "clean")
    for folder in (home / "features", home / "pictures"):
        (folder / f".tmp-{dead}-abc").write_text("half")
        (folder / f".tmp-{os.getpid()}-abc").write_text("half")
    (home / "pictures" / ".part-abc").write_text("half")
    (home / "pictures" / f"{PIXELS}.bin").write_text("without an index")
    described = {item.name: item.description for item in cache().items}
    assert described[PIXELS] == "incomplete"
    assert (
        described["pictures/.part-abc"]
        == described[f"features/.tmp-{dead}-abc"]
        == ("left by a process that died")
    )
    cache(clear=True)
    assert files(home) == [f".tmp-{os.getpid()}-abc"] * 2


def test_pictures_are_opened_anew_after_clearing(home: Path):
    dataset = read_dataset(toys.shape_folders(home.parent / "toy", counts={"circle": 2, "cross": 2}))
    before = ingest(dataset, cache=home / "pictures", side=16).store
    assert len(cache(clear=True).removed) == 2
    after = ingest(dataset, cache=home / "pictures", side=16).store
    assert before is not None
    assert after is not None
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"older_than": -1}, ["older_than is -1"]),
        ({"keep": math.nan, "older_than": math.inf}, ["keep is nan", "older_than is inf"]),
        ({"clear": True, "keep": 3}, ["clear removes everything"]),
    ],
)
def test_wishes_that_make_no_sense_remove_nothing(home: Path, wish: dict[str, float], told: list[str]):
    entry(home, "clean", age=400)
    with pytest.raises(InputError) as caught:
        cache(**wish)
    assert all(sentence in str(caught.value) for sentence in told)
    assert len(cache().kept) == 1


def test_listing_needs_no_torch():
    code = "import sys, pictune.verbs.cache; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_is_the_cache_that_everything_uses(home: Path):
    assert cache().folder == cache_folder() == home
    entry(home, "clean")
    assert cache().items[0].last_used.utcoffset() == timedelta(0)
