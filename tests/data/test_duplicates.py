"""Finding the same picture twice, and not finding it where there is none."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from picture_folders import scene

from pictune.data.duplicates import (
    LEAST_CORRELATION,
    MOST_BITS,
    duplicate_clusters,
    duplicate_findings,
    exact_duplicates,
)
from pictune.data.hashing import appearance
from pictune.data.sample import Dataset, Labels, Sample


def looks(pictures) -> tuple[np.ndarray, np.ndarray]:
    seen = [appearance(np.ascontiguousarray(picture)) for picture in pictures]
    return np.array([look.dhash for look in seen], np.uint64), np.stack([look.thumbnail for look in seen])


def _jpeg(picture, quality):
    return cv2.imdecode(
        cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
    )


COPIES = {
    "half the size": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "twice the size": lambda p: cv2.resize(p, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
    "another shape": lambda p: cv2.resize(p, None, fx=0.7, fy=0.6, interpolation=cv2.INTER_AREA),
    "JPEG of quality 40": lambda p: _jpeg(p, 40),
    "brighter": lambda p: cv2.add(p, np.full_like(p, 20)),
    "less contrast": lambda p: (p * 0.8).astype(np.uint8),
    "gamma": lambda p: (255 * (p / 255) ** 1.3).astype(np.uint8),
    "grey": lambda p: cv2.cvtColor(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
}
OTHERS = {
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "negative": lambda p: 255 - p,
    "half of it": lambda p: p[: p.shape[0] // 2],
}
SCENES = [scene(seed, side=96) for seed in range(12)]


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_copies_are_found(change):
    hashes, thumbnails = looks([*SCENES, *map(change, SCENES)])
    np.testing.assert_array_equal(duplicate_clusters(hashes, thumbnails), [*range(12), *range(12)])


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_pictures_are_not(change):
    hashes, thumbnails = looks([*SCENES, *map(change, SCENES)])
    np.testing.assert_array_equal(duplicate_clusters(hashes, thumbnails), range(24))


def test_pictures_of_one_place_with_another_thing_in_it_are_not_fused():
    """Most of such pictures is equal, and their hashes are near; the thumbnails tell them apart."""
    wall = scene(1, side=96) // 4 + 120
    pictures = []
    for number, (x, y) in enumerate(itertools.product((12, 40, 68), repeat=2)):
        picture = wall.copy()
        cv2.circle(picture, (x + 4, y + 4), 9 + number % 3, (220, 170, 140), -1)
        pictures.append(picture)
    hashes, thumbnails = looks(pictures)
    near = [a for a, b in itertools.combinations(hashes.tolist(), 2) if (a ^ b).bit_count() <= MOST_BITS]
    assert near, "the case is too easy: no two hashes are near"
    np.testing.assert_array_equal(duplicate_clusters(hashes, thumbnails), range(9))


def test_flat_pictures_prove_nothing():
    noise = default_rng(0).integers(-1, 2, (6, 64, 64, 3))
    hashes, thumbnails = looks((noise + 128).astype(np.uint8))
    np.testing.assert_array_equal(duplicate_clusters(hashes, thumbnails), range(6))
    joined = duplicate_clusters(hashes, thumbnails, checksums=["a", "b", "a", "", "", "b"])
    np.testing.assert_array_equal(joined, [0, 1, 0, 3, 4, 1])


def test_a_thousand_copies_are_one_cluster():
    hashes, thumbnails = looks([scene(3)])
    clusters = duplicate_clusters(np.repeat(hashes, 1000), np.repeat(thumbnails, 1000, axis=0))
    assert set(clusters.tolist()) == {0}


def test_nothing_is_nothing():
    clusters = duplicate_clusters(np.zeros(0, np.uint64), np.zeros((0, 16, 16), np.uint8))
    assert clusters.shape == (0,)


def _slow_clusters(hashes, thumbnails) -> list[int]:
    """Every pair, one by one."""
    grey = thumbnails.reshape(len(thumbnails), -1).astype(float)
    cluster = list(range(len(hashes)))
    for a, b in itertools.combinations(range(len(hashes)), 2):
        near = (int(hashes[a]) ^ int(hashes[b])).bit_count() <= MOST_BITS
        same = np.array_equal(thumbnails[a], thumbnails[b])
        if same or (near and np.corrcoef(grey[a], grey[b])[0, 1] >= LEAST_CORRELATION):
            old, new = max(cluster[a], cluster[b]), min(cluster[a], cluster[b])
            cluster = [new if c == old else c for c in cluster]
    return cluster


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_the_quick_way_finds_what_the_slow_way_finds(seed, count):
    random = default_rng(seed)
    originals = random.integers(0, 256, (4, 16, 16), dtype=np.uint8)
    codes = random.integers(0, 2**63, 4, dtype=np.uint64)
    which = random.integers(0, 4, count)
    strength = random.integers(0, 40, count)[:, None, None]
    noise = (random.normal(0, 1, (count, 16, 16)) * strength).astype(int)
    thumbnails = np.clip(originals[which] + noise, 0, 255).astype(np.uint8)
    hashes = codes[which]
    for position, flips in enumerate(random.integers(0, 9, count)):
        for bit in random.choice(64, flips, replace=False):
            hashes[position] ^= np.uint64(1) << np.uint64(bit)
    np.testing.assert_array_equal(duplicate_clusters(hashes, thumbnails), _slow_clusters(hashes, thumbnails))


def _dataset(*rows) -> Dataset:
    samples = tuple(
        Sample(key, Path(key), Labels(labels), checksum=checksum) for key, labels, checksum in rows
    )
    return Dataset(Path("root"), "folders", "classification", ("a", "b"), samples)


def test_40_equal_files_are_reported():
    dataset = _dataset(("a/1", ("a",), "x"), ("a/2", ("a",), "x"), ("a/3", ("a",), ""), ("a/4", ("a",), ""))
    assert exact_duplicates(dataset.samples) == ((0, 1),)
    (finding,) = duplicate_findings(dataset)
    assert (finding.code, str(finding.outcome), finding.where) == ("duplicate", "warn", "a/1")
    assert "a/1, a/2" in finding.message


def test_56_equal_files_with_other_labels_contradict():
    dataset = _dataset(("a/1", ("a",), "x"), ("b/1", ("b",), "x"), ("a/2", ("a", "b"), "y"), ("a/3", (), "y"))
    findings = duplicate_findings(dataset)
    assert [(finding.code, finding.where) for finding in findings] == [
        ("conflicting_label", "a/1"), ("conflicting_label", "a/2"),
    ]  # fmt: skip
    assert "'a' and 'b'" in findings[0].message
    assert "'a, b' and 'no label'" in findings[1].message
