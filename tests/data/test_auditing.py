"""The audit's table: true to the data, JSON of its own, and clear about what to do."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_folders import pictures, scene, snapshot
from PIL import Image

from pictune.data.auditing import audit
from pictune.data.duplicates import duplicate_clusters
from pictune.data.facts import Facts
from pictune.data.formats import read_dataset
from pictune.data.ingest import ingest
from pictune.data.sample import Dataset, Labels, Sample
from pictune.data.splitting import split_dataset


def audited(root, cache, *, split=False) -> dict:
    before = snapshot(root)
    opened = ingest(read_dataset(root), cache=cache, max_bad=math.inf)
    checksums = [sample.checksum for sample in opened.dataset.samples]
    clusters = duplicate_clusters(opened.facts.hash, opened.facts.thumbnail, checksums=checksums)
    dataset = split_dataset(opened.dataset, clusters=clusters) if split else opened.dataset
    table = audit(dataset, opened.facts, clusters)
    assert snapshot(root) == before
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    return table


def said(table) -> dict[str, str]:
    return {conclusion["code"]: conclusion["severity"] for conclusion in table["conclusions"]}


def message(table, code) -> str:
    return next(c["message"] for c in table["conclusions"] if c["code"] == code)


def floats() -> bytes:
    """A TIFF of floating-point numbers."""
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24)).save(stream, "TIFF")
    return stream.getvalue()


FLOATS = floats()


@pytest.fixture
def good(tmp_path):
    """Two classes of 24 different pictures."""
    return pictures(tmp_path / "root", *(f"{name}/{n:02}.png" for name in ("cat", "dog") for n in range(24)))


def test_good_data_are_called_good(good, tmp_path):
    table = audited(good, tmp_path / "cache")
    assert table["images"] == 48
    assert table["counts"] == {"cat": {"images": 24}, "dog": {"images": 24}}
    assert table["sizes"] == [{"width": 64, "height": 64, "count": 48}]
    assert table["pixels"]["shorter_side"]["median"] == 64
    assert sum(table["pixels"]["histogram"]["counts"]) == 48
    assert table["formats"] == {"png": 48}
    assert table["bytes"]["total"] == sum(path.stat().st_size for path in good.rglob("*.png"))
    assert table["imbalance"] == {"largest": "cat", "smallest": "cat", "images": [24, 24], "ratio": 1.0}
    assert (table["duplicates"], table["leaks"], table["conflicts"], table["outliers"]) == ([], [], [], [])
    assert said(table) == {"ready": "note"}


def test_counts_by_split(good, tmp_path):
    table = audited(good, tmp_path / "cache", split=True)
    assert table["splits"] == {"train": 34, "val": 7, "test": 7}
    assert {name: sum(counts.values()) for name, counts in table["counts"].items()} == {"cat": 24, "dog": 24}
    assert set(table["counts"]["cat"]) == {"train", "val", "test"}
    assert {row["code"]: row["count"] for row in table["codes"]} == {"split_made": 1}


def test_40_and_56_repeats_and_contradictions(good, tmp_path):
    shutil.copy(good / "cat" / "00.png", good / "cat" / "again.png")
    shutil.copy(good / "cat" / "01.png", good / "dog" / "same.png")
    assert cv2.imwrite(
        str(good / "cat" / "small.png"), cv2.resize(scene(2), (40, 40), interpolation=cv2.INTER_AREA)
    )
    table = audited(good, tmp_path / "cache")
    assert [(row["kind"], row["keys"]) for row in table["duplicates"]] == [
        ("file", ["cat/00.png", "cat/again.png"]),
        ("file", ["cat/01.png", "dog/same.png"]),
        ("look", ["cat/02.png", "cat/small.png"]),
    ]
    assert table["conflicts"] == [{"keys": ["cat/01.png", "dog/same.png"], "labels": [["cat"], ["dog"]]}]
    assert said(table) == {"conflicting_label": "serious", "duplicate": "attention", "near_duplicate": "note"}
    assert "1 file " in message(table, "duplicate"), "the contradiction is told by itself"
    assert "cat/01.png and dog/same.png" in message(table, "conflicting_label")


def test_40_leaks_between_given_splits_do_not_stop_the_audit(tmp_path):
    names = [f"{split}/{name}/{n:02}.png" for split in ("train", "test") for name in "ab" for n in range(22)]
    root = pictures(tmp_path / "root", *names)
    shutil.copy(root / "train/a/00.png", root / "test/a/leak.png")
    assert cv2.imwrite(
        str(root / "test/a/near.png"), cv2.resize(scene(1), (40, 40), interpolation=cv2.INTER_AREA)
    )
    table = audited(root, tmp_path / "cache")
    assert table["leaks"] == [
        {"kind": "file", "keys": ["test/a/leak.png", "train/a/00.png"], "splits": ["test", "train"]},
        {"kind": "look", "keys": ["test/a/near.png", "train/a/01.png"], "splits": ["test", "train"]},
    ]
    assert table["conclusions"][0]["code"] == "leak"
    assert said(table)["leak"] == "serious"
    assert said(table)["near_leak"] == "attention"
    assert table["counts"]["a"] == {"train": 22, "test": 24}


def test_45_46_classes_missing_from_given_splits(tmp_path):
    names = [f"train/{name}/{n:02}.png" for name in "ab" for n in range(20)] + ["val/a/0.png", "test/c/0.png"]
    table = audited(pictures(tmp_path / "root", *names), tmp_path / "cache")
    assert said(table)["class_not_in_train"] == "serious"
    assert "'b'" in message(table, "not_evaluated")


@pytest.mark.parametrize(("rare", "warned"), [(24, False), (5, False), (3, True), (2, True)])
def test_47_imbalance(tmp_path, rare, warned):
    names = [*(f"cat/{n:02}.png" for n in range(30)), *(f"dog/{n:02}.png" for n in range(rare))]
    table = audited(pictures(tmp_path / "root", *names), tmp_path / "cache")
    assert ("imbalance" in said(table)) == warned
    assert ("few_images" in said(table)) == (rare < 20)
    if warned:
        assert f"30 to {rare}" in message(table, "imbalance")


def test_38_odd_pictures_are_named(good, tmp_path):
    rest = {
        "constant": np.full((64, 64, 3), 90, np.uint8),
        "dark": scene(500) // 40,
        "bright": 255 - scene(501) // 40,
        "blurred": cv2.GaussianBlur(scene(502), (0, 0), 25) + np.arange(64, dtype=np.uint8)[:, None, None],
    }
    for name, picture in rest.items():
        assert cv2.imwrite(str(good / "dog" / f"{name}.png"), picture)
    table = audited(good, tmp_path / "cache")
    found = {(row["reason"], row["key"], row["class"]) for row in table["outliers"]}
    assert {(name, f"dog/{name}.png", "dog") for name in rest} <= found
    assert all(key.split("/")[1].split(".")[0] in rest for _, key, _ in found)
    assert {said(table)[name] for name in rest} == {"attention"}


def test_what_was_left_out_is_counted(good, tmp_path):
    (good / "cat" / "broken.png").write_bytes(b"")
    (good / "cat" / "gone.png").symlink_to("nowhere")
    (good / "notes.txt").write_text("text")
    table = audited(good, tmp_path / "cache")
    assert said(table) == {"left_out": "attention", "ignored": "note"}
    assert "2 files" in message(table, "left_out")
    assert all(code in message(table, "left_out") for code in ("empty", "dangling_symlink"))
    assert [row["outcome"] for row in table["codes"]] == ["quarantine", "quarantine", "normalise"]


@pytest.mark.parametrize(
    ("bad", "expected", "words"),
    [
        (
            {"cat/f.tif": FLOATS},
            {"needs_range"},
            ["1 image of floats", "'cat/f.tif'", "data.value_range=[0, 1]"],
        ),
        ({"owl/1.png": b"", "owl/2.png": b"x"}, {"class_lost"}, ["no image of 'owl' can be used", "Repair"]),
        ({"cat/f.tif": FLOATS, "owl/f.tif": FLOATS}, {"needs_range", "class_lost"}, ["2 images", "'owl'"]),
        ({"cat/1.png": b""}, set(), []),
    ],
)
def test_25_43_what_stops_training_stands_in_front(good, tmp_path, bad, expected, words):
    for name, content in bad.items():
        (good / name).parent.mkdir(exist_ok=True)
        (good / name).write_bytes(content)
    table = audited(good, tmp_path / "cache")
    first = table["conclusions"][: len(expected)]
    assert {conclusion["code"] for conclusion in first} == expected
    assert all(conclusion["severity"] == "serious" for conclusion in first)
    assert all(conclusion["message"].startswith("Training would stop: ") for conclusion in first)
    told = " ".join(conclusion["message"] for conclusion in first)
    assert all(word in told for word in words)
    assert "few_images" not in said(table), "a class without any image is told once"
    assert len(table["conclusions"]) > len(expected) or not any(content != FLOATS for content in bad.values())


def test_groups_are_counted(good, tmp_path):
    rows = [
        f"{path.relative_to(good)},{path.parent.name},{path.stem[0]}" for path in sorted(good.rglob("*.png"))
    ]
    (good / "l.csv").write_text("\n".join(["file,label,group", *rows]))
    assert audited(good / "l.csv", tmp_path / "cache")["groups"] == {"count": 3, "largest": 20, "without": 0}


class _Watched(dict):
    """Splits that count how often they are gone through."""

    walks = 0

    def items(self):
        self.walks += 1
        return super().items()


def _leaky(leaks: int) -> tuple[dict, _Watched]:
    """The audit of a hundred pictures of which some of the second half look like one of the first."""
    samples = tuple(
        Sample(f"{n:02}", Path("x"), Labels(("ab"[n % 2],)), checksum=str(n), width=64, height=64)
        for n in range(100)
    )
    splits = _Watched(train=tuple(range(50)), test=tuple(range(50, 100)))
    dataset = Dataset(Path("root"), "folders", "classification", ("a", "b"), samples, splits=splits)
    clusters = np.arange(100)
    clusters[50 : 50 + leaks] = np.arange(leaks)
    ones, looks = np.ones(100, np.float32), np.zeros((100, 16, 16), np.uint8)
    facts = Facts(
        np.zeros(100, np.uint64), looks, ones, ones, ones, ones < 0, ones.astype(np.int64), ("png",) * 100, ()
    )
    return audit(dataset, facts, clusters), splits


def test_many_leaks_go_through_the_splits_no_oftener_than_one():
    (one, few), (all_of_them, many) = _leaky(1), _leaky(50)
    assert (len(one["leaks"]), len(all_of_them["leaks"])) == (1, 50)
    assert all_of_them["leaks"][7] == {"kind": "look", "keys": ["07", "57"], "splits": ["train", "test"]}
    assert few.walks == many.walks
