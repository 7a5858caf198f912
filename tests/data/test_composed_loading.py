"""A loader that composes pictures: targets follow, and nothing but the address decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pictune.data.augmentation import COMPOSITIONS, Augmentation, build_augmentation
from pictune.data.loading import Batch, Loader
from pictune.data.truths import NOBODY, BoxTruths, ClassTruths, MaskTruths

COUNT, SIDE = 12, 48
COLOURS = np.array(((250, 20, 20), (20, 250, 20), (20, 20, 250)), np.uint8)


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of its class's colour on grey, and its box."""
    rng = np.random.default_rng(number)
    pixels = np.full((SIDE, SIDE, 3), 120, np.uint8)
    left, top, side = rng.integers(4, 20), rng.integers(4, 20), 20
    label = number % 3
    pixels[top : top + side, left : left + side] = COLOURS[label]
    return pixels, np.array([[label, left, top, left + side, top + side, 0]], np.float32)


MADE = [picture(number) for number in range(COUNT)]
PICTURES = [pixels for pixels, _ in MADE]


class Masks:
    """Masks in memory, as those of files behave."""

    def __init__(self) -> None:
        self.moves = True
        self._masks = []
        for pixels in PICTURES:
            far = np.abs(pixels[None].astype(int) - COLOURS[:, None, None]).sum(-1)
            self._masks.append(np.where(far.min(0) < 40, far.argmin(0) + 1, 0).astype(np.uint8))

    def __getitem__(self, position: int) -> np.ndarray:
        return self._masks[position]


def masks():
    made, memory = MaskTruths([None] * COUNT, ("ground", "a", "b", "c"), [(SIDE, SIDE)] * COUNT), Masks()

    class Known(MaskTruths):
        def __getitem__(self, position: int) -> np.ndarray:
            return memory[position]

    return Known(made.masks, made.classes, made.sizes)


def plain() -> Augmentation:
    return build_augmentation([], SIDE, fit="pad", height=SIDE, fill=(124, 116, 104))


def loader(truths=None, **changes) -> Loader:
    given = {"batch_size": 5, "shuffled": True, "seed": 3, "workers": 0, **changes}
    whole = truths or BoxTruths([rows for _, rows in MADE])
    return Loader(PICTURES, whole, np.arange(COUNT), given.pop("look", plain()), **given)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("name", ["mosaic", "copy_paste"])
@pytest.mark.parametrize("balanced", [False, True])
def test_workers_and_the_place_of_a_new_start_change_nothing(name, balanced):
    whole = loader(
        compose=COMPOSITIONS[name].make(probability=0.7), weights=np.ones(COUNT) if balanced else None
    )
    expected = list(whole.batches(1))
    assert same(list(replace(whole, workers=3).batches(1, start=1)), expected[1:])
    assert not same(list(whole.batches(2)), expected)
    assert not same(list(replace(whole, compose=None).batches(1)), expected)


@pytest.mark.parametrize("name", ["mosaic", "copy_paste"])
def test_every_box_shows_the_colour_of_its_class(name):
    near: list[float] = []
    for batch in loader(compose=COMPOSITIONS[name].make(probability=1.0)).batches(0):
        for image, rows in zip(batch.images, batch.targets, strict=True):
            for label, left, top, right, bottom, crowd in rows:
                if label == NOBODY or crowd or min(right - left, bottom - top) < 6:
                    continue
                inside = image[int(top) + 1 : int(bottom) - 1, int(left) + 1 : int(right) - 1].reshape(-1, 3)
                alike = np.abs(inside.astype(int) - COLOURS[int(label)]).sum(-1) < 120
                near.append(float(alike.mean()))
    assert len(near) > COUNT
    assert np.mean(np.array(near) > 0.5) > 0.85  # a few are half hidden behind something pasted
    assert min(near) > 0.05


@pytest.mark.parametrize("name", ["mosaic", "copy_paste"])
def test_every_pixel_of_a_mask_shows_the_colour_of_its_class(name):
    known = np.concatenate([[(120, 120, 120)], COLOURS]).astype(int)
    for batch in loader(masks(), compose=COMPOSITIONS[name].make(probability=1.0)).batches(0):
        counted = batch.targets != 255
        far = np.abs(batch.images.astype(int) - known[np.minimum(batch.targets, 3)]).sum(-1)
        assert (far[counted] < 150).mean() > 0.97
        assert {0, 1, 2, 3} <= set(np.unique(batch.targets[counted]).tolist())


def test_pictures_that_are_not_composed_are_as_before():
    composed = loader(compose=COMPOSITIONS["mosaic"].make(probability=0.5))
    whole = list(composed.batches(0))
    alone = list(replace(composed, compose=None).batches(0))
    equal = [
        np.array_equal(one, other)
        for x, y in zip(whole, alone, strict=True)
        for one, other in zip(x.images, y.images, strict=True)
    ]
    assert 0 < sum(equal) < len(equal)


def test_crops_that_mind_boxes_are_told_of_them():
    look = build_augmentation(
        [{"name": "iou_safe_crop", "probability": 1.0, "sides": [0.2, 0.4]}],
        SIDE,
        fit="pad",
        height=SIDE,
        fill=(124, 116, 104),
    )
    for epoch in range(8):
        for batch in loader(look=look).batches(epoch):
            assert (batch.targets[:, :, 0] != NOBODY).any(1).all()
    unknown = loader(ClassTruths(np.zeros((COUNT, 3), np.float32)), look=look)
    shown = [image for epoch in range(8) for batch in unknown.batches(epoch) for image in batch.images]
    lost = [np.abs(image[None].astype(int) - COLOURS[:, None, None]).sum(-1).min() > 150 for image in shown]
    assert any(lost)
