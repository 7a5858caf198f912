"""The quick search for near-duplicates against the search through all pairs, and what it costs."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, default_rng

from pictune.data import duplicates
from pictune.data.duplicates import LEAST_CONTRAST, LEAST_CORRELATION, MOST_BITS, duplicate_clusters

BAND = int(duplicates._BANDS[0])
TOP_ROWS = 0xFFFF << 48
FEW_BITS = 0x00FF_0000_3C00_00F0  # as on a white ground: all other bits are zero in every picture


def _smooth(random: Generator, count: int) -> np.ndarray:
    """Pictures as different as photos are, as floats of [count, 16, 16]."""
    coarse = random.normal(128, 45, (count, 5, 5))
    weight = np.maximum(0, 1 - abs(np.arange(16)[:, None] / 15 * 4 - np.arange(5)))
    return weight @ coarse @ weight.T


def _noisy(random: Generator, pictures: np.ndarray) -> np.ndarray:
    """Up to eight grey levels of noise; at about five and a half copies stop to correlate enough."""
    strength = random.uniform(0, 8, (len(pictures), 1, 1))
    return np.clip(pictures + strength * random.normal(0, 1, pictures.shape), 0, 255).astype(np.uint8)


def _flipped(random: Generator, hashes: np.ndarray, most: int, among: int = 2**64 - 1) -> np.ndarray:
    """Each hash with up to `most` bits flipped, all of them ones that are set in `among`."""
    bits = np.array([bit for bit in range(64) if among >> bit & 1], dtype=np.uint64)
    chosen = random.random((len(hashes), len(bits))).argsort(axis=1)[:, :most]
    wanted = np.arange(most) < random.integers(0, most + 1, len(hashes))[:, None]
    flips = np.where(wanted, np.uint64(1) << bits[chosen], np.uint64(0))
    return hashes ^ np.bitwise_or.reduce(flips, axis=1)


def _any(random: Generator, count: int) -> np.ndarray:
    return random.integers(0, 2**64, count, dtype=np.uint64)


def _copies(random: Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Originals with zero to several copies each, some of them just too far away."""
    which = random.integers(0, max(1, count // 3), count)
    hashes = _any(random, count)[which]
    return _flipped(random, hashes, 6), _noisy(random, _smooth(random, count)[which])


def _frames(random: Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All alike, and all hashes near: bands propose every pair several times."""
    hashes = np.full(count, _any(random, 1)[0])
    return _flipped(random, hashes, 4), _noisy(random, np.repeat(_smooth(random, 1), count, axis=0))


def _faint(random: Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of less and less contrast, down to what proves nothing."""
    which = random.integers(0, max(1, count // 4), count)
    pictures = 128 + (_smooth(random, count)[which] - 128) * random.uniform(0.03, 0.25, (count, 1, 1))
    return _any(random, count)[which], pictures.round().astype(np.uint8)


def _video(random: Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A slow change, in which a frame is near to the next ones only: long chains."""
    scenes = _smooth(random, count // 20 + 2)
    place = np.arange(count) / 20
    share = (place % 1)[:, None, None]
    pictures = scenes[place.astype(int)] * (1 - share) + scenes[place.astype(int) + 1] * share
    bit = np.uint64(1) << (np.arange(count) // 3 % 64).astype(np.uint64)
    order = random.permutation(count)
    return np.bitwise_xor.accumulate(bit)[order], _noisy(random, pictures)[order]


def _sharing(mask: int):
    """Most pictures have zeros in all bits of the mask, their copies differ in the others or anywhere."""

    def make(random: Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        hashes, thumbnails = _copies(random, count)
        hashes[: count * 4 // 5] &= np.uint64(2**64 - 1 - mask)
        some = slice(0, count // 5)
        hashes[some] = _flipped(random, hashes[some], MOST_BITS, among=mask)
        return hashes, thumbnails

    return make


KINDS = {
    "copies": _copies,
    "frames": _frames,
    "faint": _faint,
    "video": _video,
    "a flat margin": _sharing(TOP_ROWS),
    "a whole band": _sharing(BAND),
    "few bits": _sharing(2**64 - 1 - FEW_BITS),
    "no bits": _sharing(2**64 - 1),
}
BANDS, EVERYTHING = 0, 1
"""As the cost of each comparison these decide which way is the cheaper one."""


def _exhaustive(hashes: np.ndarray, thumbnails: np.ndarray, checksums=()) -> list[int]:
    """All pairs, and then the least number of all neighbours, until no number changes."""
    grey = thumbnails.reshape(len(thumbnails), -1).astype(float)
    textured = grey.std(axis=1) >= LEAST_CONTRAST
    with np.errstate(invalid="ignore"):
        alike = np.corrcoef(grey) >= LEAST_CORRELATION
    alike &= np.bitwise_count(hashes[:, None] ^ hashes) <= MOST_BITS
    alike |= (grey[:, None] == grey).all(axis=2)
    alike &= textured[:, None] & textured
    if len(checksums):
        alike |= np.array([[bool(one) and one == other for other in checksums] for one in checksums])
    np.fill_diagonal(alike, val=True)
    cluster = np.arange(len(hashes))
    while not np.array_equal(cluster, least := np.where(alike, cluster, len(hashes)).min(axis=1)):
        cluster = least
    return cluster.tolist()


@contextmanager
def _small(*, side: int, large: int, cost: int | None):
    """The search with such small pieces that a few pictures go every way; no cost means the true one."""
    with mock.patch.multiple(
        duplicates, _SIDE=side, _LARGE=large, _PAIRS_AT_ONCE=64, _THUMBNAILS_AT_ONCE=8, _LINKS_AT_ONCE=5
    ):
        if cost is None:
            yield
        else:
            with mock.patch.object(duplicates._Meetings, "cost", cost):
                yield


@contextmanager
def _counted():
    """How many thumbnails are compared."""
    count = [0]
    agree = duplicates._Search._agree

    def counting(self, products, left, right):
        count[0] += products.size
        return agree(self, products, left, right)

    with mock.patch.object(duplicates._Search, "_agree", counting):
        yield count


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10_000),
    count=st.integers(2, 150),
    side=st.sampled_from([1, 3, 16, 512]),
    large=st.sampled_from([0, 4, 100, 10**9]),
    cost=st.sampled_from([None, BANDS, EVERYTHING]),
    equal=st.floats(0, 0.9),
)
def test_every_way_finds_what_all_pairs_give(kind, seed, count, side, large, cost, equal):
    """A share of the files is equal, so that large clusters are known before anything is compared."""
    random = default_rng(seed)
    hashes, thumbnails = KINDS[kind](random, count)
    checksums = ["same" if yes else "" for yes in random.random(count) < equal]
    with _small(side=side, large=large, cost=cost):
        found = duplicate_clusters(hashes, thumbnails, checksums=checksums)
    assert found.tolist() == _exhaustive(hashes, thumbnails, checksums)


@pytest.mark.parametrize("cost", [BANDS, EVERYTHING], ids=["bands", "everything"])
def test_a_large_cluster_hides_no_single_link(cost):
    """Ninety files are equal and look like nothing else; each of the other ten is a copy of one of them."""
    random = default_rng(6)
    which = np.concatenate([np.arange(90), random.choice(90, 10, replace=False)])
    order = random.permutation(100)
    hashes = _flipped(random, _any(random, 90)[which], 3)[order]
    thumbnails = np.clip(_smooth(random, 90)[which] + random.normal(0, 1, (100, 16, 16)), 0, 255)
    checksums = ["same" if position < 90 else "" for position in order]
    with _small(side=8, large=0, cost=cost):
        found = duplicate_clusters(hashes, thumbnails[order].astype(np.uint8), checksums=checksums)
    assert set(found.tolist()) == {0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cost", [None, BANDS, EVERYTHING], ids=["free", "bands", "everything"])
def test_eight_hundred_pictures_of_each_kind(kind, cost):
    hashes, thumbnails = KINDS[kind](default_rng(5), 800)
    with _small(side=32, large=40, cost=cost):
        found = duplicate_clusters(hashes, thumbnails)
    expected = _exhaustive(hashes, thumbnails)
    assert 1 < len(set(expected)) < 800, "the case is too easy"
    assert found.tolist() == expected


def test_bands_share_all_bits_and_leave_one_with_at_most_one_difference():
    bands = [int(band) for band in duplicates._BANDS]
    assert sum(bands) == 2**64 - 1 == bands[0] | bands[1] | bands[2] | bands[3]
    assert len(bands) * 2 > MOST_BITS
    for row in range(8):
        assert {(band >> 8 * row & 0xFF).bit_count() for band in bands} == {2}
    column = sum(1 << 8 * row for row in range(8))
    assert {(band >> c & column).bit_count() for band in bands for c in range(8)} == {2}


def _hardest(random: Generator) -> list[int]:
    """For each bit seven that differ: this one, and two of each of the three bands without it."""
    bits = [[bit for bit in range(64) if int(band) >> bit & 1] for band in duplicates._BANDS]
    return [
        sum(
            1 << int(b)
            for band in bits
            for b in ([bit] if bit in band else random.choice(band, 2, replace=False))
        )
        for bit in range(64)
    ]


def test_every_near_pair_is_proposed():
    random = default_rng(1)
    flips = np.array(_hardest(random) * 4, dtype=np.uint64)
    count = len(flips)
    hashes = _any(random, count)
    hashes = np.concatenate([hashes, hashes ^ flips])
    proposed = set()
    for band in duplicates._BANDS:
        meetings = duplicates._meetings(hashes, np.arange(2 * count), band)
        for left, right in meetings.small():
            proposed |= set(zip(left.tolist(), right.tolist(), strict=True))
    assert all((a, a + count) in proposed or (a + count, a) in proposed for a in range(count))


@pytest.mark.parametrize("count", [20, 2000])
def test_what_is_known_to_be_equal_is_not_compared(count):
    with _counted() as compared:
        clusters = duplicate_clusters(*_frames(default_rng(0), count), checksums=["same"] * count)
    assert set(clusters.tolist()) == {0}
    assert compared == [0]


def test_links_that_stand_there_many_times_hold():
    clusters = duplicates._Clusters(4)
    for repeats in (256, 65_536):
        clusters.join(np.full(repeats, 3), np.full(repeats, 1))
        clusters.merge()
        assert clusters.of[3] == clusters.of[1] != clusters.of[0]


def test_limits_are_decided_in_whole_numbers():
    """The brightest thumbnails give the greatest sums; both ways of adding them give each exactly."""
    grey = default_rng(0).integers(252, 256, (64, 256), dtype=np.uint8)
    table = grey.astype(np.float32) @ grey.astype(np.float32).T
    whole = grey.astype(np.int64) @ grey.astype(np.int64).T
    np.testing.assert_array_equal(table, whole)
    rows = np.einsum("pc,pc->p", grey.astype(np.float32), grey[::-1].astype(np.float32))
    np.testing.assert_array_equal(rows, whole[np.arange(64), np.arange(64)[::-1]])


def _peak(hashes, thumbnails) -> int:
    """Bytes that the search has at most at a time."""
    tracemalloc.start()
    try:
        duplicate_clusters(hashes, thumbnails)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_of_pictures_that_are_all_alike_few_are_compared():
    """Once they are known to belong together, comparing two of them could change nothing."""
    random = default_rng(2)
    pictures = np.repeat(_smooth(random, 1), 6000, axis=0) + random.normal(0, 2, (6000, 16, 16))
    hashes = _flipped(random, np.full(6000, _any(random, 1)[0]), 3)
    with _counted() as compared:
        clusters = duplicate_clusters(hashes, np.clip(pictures, 0, 255).astype(np.uint8))
    assert set(clusters.tolist()) == {0}
    assert compared[0] < 6000**2 / 2 / 3


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_pairs(kind):
    """Two bytes for each of the pairs would already be too much; eight thousand thumbnails are 2 MiB."""
    assert _peak(*KINDS[kind](default_rng(3), 8000)) < 64 * 2**20


def test_a_flat_margin_doesnt_make_all_pairs():
    hashes = _any(default_rng(4), 8000)
    hashes[:6400] &= np.uint64(2**64 - 1 - TOP_ROWS)
    meetings = [duplicates._meetings(hashes, np.arange(8000), band) for band in duplicates._BANDS]
    assert sum(int(some.pairs.sum()) for some in meetings) < 8000**2 / 2 / 20
