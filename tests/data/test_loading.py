"""Batches: which pictures, in which order, with which randomness; never depending on who prepared them."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data.augmentation import MIXINGS
from pictune.data.loading import Batch, Loader
from pictune.verbs.settling import class_weights, draw_weights

COUNT, SIDE = 20, 5
LABELS = np.array([0] * 14 + [1] * 5 + [2])
TARGETS = np.eye(3, dtype=np.float32)[LABELS]


def jitter(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return (pixels + generator.integers(0, 100, pixels.shape)).astype(np.uint8)


def loader(**changes) -> Loader:
    pictures = [np.full((SIDE, SIDE, 3), number, np.uint8) for number in range(COUNT)]
    whole = Loader(pictures, TARGETS, np.arange(COUNT), jitter, batch_size=6, size=SIDE, workers=0)
    return replace(whole, **changes)


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b)
        for one, two in zip(ours, theirs, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_in_order_every_picture_comes_once():
    batches = list(loader().batches())
    assert [len(batch.images) for batch in batches] == [6, 6, 6, 2]
    assert len(loader()) == 4
    assert np.array_equal(np.concatenate([batch.positions for batch in batches]), np.arange(COUNT))
    assert np.array_equal(np.concatenate([batch.targets for batch in batches]), TARGETS)
    assert batches[0].images.shape == (6, SIDE, SIDE, 3)
    assert batches[0].images.dtype == np.uint8


def test_shuffled_without_the_incomplete_batch_and_anew_each_epoch():
    shuffled = loader(shuffled=True)
    orders = [np.concatenate([batch.positions for batch in shuffled.batches(epoch)]) for epoch in range(3)]
    assert len(shuffled) == 3
    for order in orders:
        assert len(set(order)) == len(order) == 18
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(
        orders[0], np.concatenate([b.positions for b in loader(shuffled=True, seed=1).batches()])
    )


def test_fewer_pictures_than_a_batch_are_one_batch():
    few = loader(shuffled=True, positions=np.array([3, 7]))
    assert len(few) == 1
    assert sorted(next(iter(few.batches())).positions) == [3, 7]
    none = loader(positions=np.array([], np.int64))
    assert len(none) == 0
    assert list(none.batches()) == []


@settings(max_examples=25, deadline=None)
@given(
    workers=st.integers(1, 4),
    batch_size=st.integers(1, 25),
    epoch=st.integers(0, 3),
    shuffled=st.booleans(),
    balanced=st.booleans(),
    mixing=st.sampled_from([None, "mixup", "cutmix"]),
    data=st.data(),
)
def test_workers_and_the_place_of_a_new_start_change_nothing(
    workers, batch_size, epoch, shuffled, balanced, mixing, data
):
    whole = loader(
        batch_size=batch_size,
        shuffled=shuffled,
        weights=draw_weights(TARGETS) if balanced else None,
        mix=MIXINGS[mixing].make() if mixing else None,
    )
    expected = list(whole.batches(epoch))
    start = data.draw(st.integers(0, len(expected)))
    assert same(list(replace(whole, workers=workers).batches(epoch, start=start)), expected[start:])


def test_a_picture_sees_other_randomness_each_epoch_and_seed():
    views = [
        loader(seed=seed, batch_size=COUNT).batches(epoch).__next__().images[4]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert not np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_a_picture_is_varied_alike_wherever_it_stands_in_the_order():
    def views(**changes) -> dict[int, bytes]:
        batches = loader(**changes).batches(2)
        return {
            int(p): i.tobytes()
            for batch in batches
            for i, p in zip(batch.images, batch.positions, strict=True)
        }

    whole = views()
    for changes in ({"batch_size": 3}, {"shuffled": True}, {"positions": np.array([17, 4, 9])}):
        assert views(**changes).items() <= whole.items()


def test_a_picture_drawn_twice_is_varied_twice():
    weights = np.zeros(COUNT)
    weights[5] = 1.0
    batch = next(loader(shuffled=True, weights=weights).batches())
    assert set(batch.positions) == {5}
    assert len({image.tobytes() for image in batch.images}) == 6


def test_balanced_sampling_draws_every_class_alike():
    balanced = loader(shuffled=True, weights=draw_weights(TARGETS))
    drawn = np.concatenate(
        [batch.positions for epoch in range(300) for batch in _bare(balanced).batches(epoch)]
    )
    shares = np.bincount(LABELS[drawn], minlength=3) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def _bare(whole: Loader) -> Loader:
    return replace(whole, view=lambda pixels, _: pixels)


def test_balanced_weights_are_inverse_to_the_counts():
    weights = class_weights(TARGETS)
    assert weights * [14, 5, 1] == pytest.approx([COUNT / 3] * 3)
    assert class_weights(np.eye(3, dtype=np.float32)) == pytest.approx([1, 1, 1])
    assert np.isfinite(class_weights(np.array([[1, 0], [1, 0]], np.float32))).all()


def test_with_several_labels_the_rarest_decides_and_none_is_still_drawn():
    targets = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.float32)
    common, rarest, again, none = draw_weights(targets)
    assert rarest > common == again
    assert none > 0


def test_an_error_of_a_view_reaches_the_caller_and_the_threads_end():
    def fail(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if pixels[0, 0, 0] == 9:
            raise ValueError("picture 9")
        return pixels

    before = threading.active_count()
    with pytest.raises(ValueError, match="picture 9"):
        list(loader(view=fail, workers=3).batches())
    assert threading.active_count() == before


def test_a_loop_that_is_left_early_leaves_no_thread():
    before = threading.active_count()
    batches = loader(workers=2).batches()
    next(batches)
    batches.close()
    assert threading.active_count() == before
