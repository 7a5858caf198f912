"""Batches: which pictures, in which order, with which randomness; never depending on who prepared them."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looks import Look
from pictune.data.augmentation import MIXINGS
from pictune.data.loading import Batch, Growing, Loader
from pictune.data.truths import ClassTruths
from pictune.verbs.weighing import class_weights, draw_weights

COUNT, SIDE = 20, 5
LABELS = np.array([0] * 14 + [1] * 5 + [2])
TARGETS = np.eye(3, dtype=np.float32)[LABELS]


def jitter(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return (pixels + generator.integers(0, 100, pixels.shape)).astype(np.uint8)


def loader(**changes) -> Loader:
    pictures = [np.full((SIDE, SIDE, 3), number, np.uint8) for number in range(COUNT)]
    whole = Loader(pictures, ClassTruths(TARGETS), np.arange(COUNT), Look(jitter), batch_size=6, workers=0)
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
    return replace(whole, look=Look())


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
        list(loader(look=Look(fail), workers=3).batches())
    assert threading.active_count() == before


def test_a_loop_that_is_left_early_leaves_no_thread():
    before = threading.active_count()
    batches = loader(workers=2).batches()
    next(batches)
    batches.close()
    assert threading.active_count() == before


# ---------------------------------------------------------------- views that take turns


def seen_by_position(whole: Loader, epoch: int) -> dict[int, bytes]:
    return {
        int(position): image.tobytes()
        for batch in whole.batches(epoch)
        for image, position in zip(batch.images, batch.positions, strict=True)
    }


@pytest.mark.parametrize("views", [1, 2, 4])
def test_views_take_turns_and_are_the_same_whatever_the_seed(views):
    first = [seen_by_position(loader(views=views), epoch) for epoch in range(views)]
    for position in range(COUNT):
        assert len({seen[position] for seen in first}) == views, "every view is another look"
    for seed in (0, 7):
        for epoch in range(views, 3 * views):
            again = seen_by_position(loader(views=views, seed=seed), epoch)
            assert again == first[epoch % views]
    for changes in ({"batch_size": 3, "workers": 2}, {"shuffled": True, "seed": 5}):
        found = seen_by_position(loader(views=views, **changes), 2 * views)
        assert found.items() <= first[0].items()


def test_without_views_every_epoch_and_seed_shows_another_look():
    looks = [seen_by_position(loader(seed=seed), epoch)[4] for seed in (0, 1) for epoch in range(4)]
    assert len(set(looks)) == 8


def test_views_are_not_the_looks_of_epochs():
    """View 0 has an address of its own: with seed 0 it would else be the look of the first epoch."""
    ours, theirs = seen_by_position(loader(views=3), 0), seen_by_position(loader(), 0)
    assert all(ours[position] != theirs[position] for position in ours)


def test_with_views_the_order_still_changes_with_seed_and_epoch():
    orders = {
        tuple(np.concatenate([b.positions for b in loader(views=2, shuffled=True, seed=seed).batches(epoch)]))
        for seed in (0, 1)
        for epoch in (0, 2, 4)
    }
    assert len(orders) == 6


def test_a_picture_that_is_drawn_twice_shows_the_same_view_twice():
    """Unlike with a new look at every time: what is cached is there once a view."""
    weights = np.zeros(COUNT)
    weights[5] = 1.0
    for views, looks in ((2, 1), (0, 6)):
        batch = next(loader(shuffled=True, weights=weights, views=views).batches(3))
        assert len({image.tobytes() for image in batch.images}) == looks


# ---------------------------------------------------------------- pictures that grow


def grown(side: int, **changes) -> Loader:
    def view(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return jitter(np.full((side, side, 3), pixels[0, 0, 0], np.uint8), generator)

    return loader(look=Look(view), shuffled=True, **changes)


@pytest.mark.parametrize(
    ("starts", "sides"),
    [
        ((0, 2, 5), [2, 2, 3, 3, 3, 5, 5, 5]),
        ((0, 1, 2), [2, 3, 5, 5]),
        ((0, 0, 1), [3, 5, 5]),  # so few epochs that the smallest size has none
    ],
)
def test_pictures_grow_from_the_epoch_that_was_said(starts, sides):
    growing = Growing([grown(2), grown(3), grown(5)], starts)
    for epoch, side in enumerate(sides):
        batches = list(growing.batches(epoch))
        assert {batch.images.shape for batch in batches} == {(6, side, side, 3)}
        assert same(batches, list(grown(side).batches(epoch)))


@pytest.mark.parametrize("epoch", [0, 1, 2, 9])
def test_growing_pictures_go_on_in_the_middle_of_an_epoch(epoch):
    growing = Growing([grown(2), grown(3)], (0, 2))
    whole = list(growing.batches(epoch))
    assert len(whole) == len(growing) == 3
    for start in range(4):
        assert same(list(growing.batches(epoch, start=start)), whole[start:])


def test_growing_pictures_are_those_of_each_loader():
    positions = np.array([4, 9, 1, 17, 3, 8, 0])
    growing = Growing([grown(2, positions=positions), grown(3, positions=positions)], (0, 1))
    assert np.array_equal(growing.positions, positions)
    for epoch in range(2):
        found = np.concatenate([batch.positions for batch in growing.batches(epoch)])
        assert set(found) <= set(positions)
        assert len(found) == 6
