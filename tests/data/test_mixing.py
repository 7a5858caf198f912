from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data.augmentation import MIXINGS, Lane, address
from pictune.errors import RecipeError


def batch(n: int = 8, size: int = 12, k: int = 5, dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, 3)).astype(dtype)
    return images, np.eye(k, dtype=np.float32)[np.arange(n) % k]


@pytest.mark.parametrize("name", list(MIXINGS))
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_every_mixing_keeps_shapes_sums_and_its_inputs(name, dtype, seed, n):
    images, targets = batch(n, dtype=dtype)
    kept = images.copy(), targets.copy()
    mixed, soft = MIXINGS[name].make()(images, targets, address(seed, 0, 0, lane=Lane.BATCH))
    assert (mixed.shape, mixed.dtype) == (images.shape, images.dtype)
    assert (soft.shape, soft.dtype) == (targets.shape, targets.dtype)
    assert np.allclose(soft.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(soft.sum(), targets.sum(), atol=1e-4)
    assert soft.min() >= 0
    slack = 0 if dtype == np.uint8 else 1e-3
    assert mixed.min() >= images.min() - slack
    assert mixed.max() <= images.max() + slack
    assert np.array_equal(kept[0], images)
    assert np.array_equal(kept[1], targets)


@pytest.mark.parametrize("name", list(MIXINGS))
def test_same_address_same_batch(name):
    images, targets = batch()
    first, again = (
        MIXINGS[name].make()(images, targets, address(1, 2, 3, lane=Lane.BATCH)) for _ in range(2)
    )
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_probability_decides(name):
    images, targets = batch()
    never = MIXINGS[name].make(probability=0)(images, targets, address(0, 0, 0))
    assert np.array_equal(never[0], images)
    assert np.array_equal(never[1], targets)
    always = MIXINGS[name].make(alpha=5)(images, targets, address(0, 0, 0))
    assert not np.array_equal(always[0], images)
    assert not np.array_equal(always[1], targets)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_mixup_blends_images_as_it_blends_targets(dtype):
    # Image i is of colour 20 i and of class i, so the blended target foretells the blended colour.
    n = 10
    images = np.ones((n, 4, 4, 3), dtype) * np.arange(0, 20 * n, 20).astype(dtype)[:, None, None, None]
    for seed in range(10):
        mixed, soft = MIXINGS["mixup"].make(alpha=1)(images, np.eye(n), address(seed, 0, 0))
        assert np.abs(mixed - (soft @ np.arange(0, 20 * n, 20))[:, None, None, None]).max() <= (
            0.501 if dtype == np.uint8 else 1e-6
        )


def test_mixup_of_white_with_white_is_white():
    white = np.full((4, 3, 3, 3), 255, np.uint8)
    for seed in range(20):
        assert (MIXINGS["mixup"].make(alpha=1)(white, np.eye(4), address(seed, 0, 0))[0] == 255).all()


def test_cutmix_shares_targets_by_the_area_really_pasted():
    n, size = 6, 20
    images = np.ones((n, size, size, 3), np.uint8) * np.arange(n, dtype=np.uint8)[:, None, None, None]
    shares = []
    for seed in range(40):
        mixed, soft = MIXINGS["cutmix"].make()(images, np.eye(n), address(seed, 0, 0))
        for row in range(n):
            area = np.bincount(mixed[row, ..., 0].ravel(), minlength=n) / size**2
            assert np.allclose(area, soft[row])
        shares.append(soft.max(axis=1).mean())
    assert np.std(shares) > 0.02


def test_multilabel_targets_are_blended_too():
    images, _ = batch(2)
    targets = np.array([[1, 1, 0], [0, 0, 0]], np.float32)
    _, soft = MIXINGS["mixup"].make(alpha=5)(images, targets, address(3, 0, 0))
    assert np.allclose(soft.sum(axis=0), [1, 1, 0])


def test_impossible_alpha_is_refused():
    with pytest.raises(RecipeError, match="greater than 0"):
        MIXINGS["mixup"].make(alpha=0)
