"""Boxes, masks and maps move with the pixels that they lie on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pictune.data.augmentation import (
    AUGMENTATIONS,
    View,
    address,
    build_augmentation,
    geometry,
    move_boxes,
    move_mask,
    restore_boxes,
    restore_map,
    warp_points,
)
from pictune.data.augmentation.moving import around
from pictune.data.augmentation.steps import Geometric

FITS = ("crop", "squash", "pad")
GEOMETRIC = [name for name in AUGMENTATIONS if isinstance(AUGMENTATIONS[name].make(), Geometric)]
FINE = 16  # pixels into which a pixel of the canvas is divided, to measure boxes and not the raster

share = st.floats(0, 1)
# The strengths of every geometric step, over all that a recipe may ask for.
STRENGTHS = {
    "random_resized_crop": st.builds(
        lambda low, narrow: {"scale": (0.1 + 0.9 * low, 1.0), "ratio": (1 / (1 + narrow), 1 + narrow)},
        share,
        share,
    ),
    "iou_safe_crop": st.builds(lambda low: {"sides": (0.2 + 0.8 * low, 1.0)}, share),
    "rotation": st.builds(lambda s: {"degrees": 180 * s}, share),
    "scale": st.builds(lambda s: {"factor": (1 / (1 + 2 * s), 1 + 2 * s)}, share),
    "scale_jitter": st.just({}),
    "translation": st.builds(lambda s: {"fraction": s}, share),
    "shear": st.builds(lambda s: {"degrees": 40 * s}, share),
    "perspective": st.builds(lambda s: {"distortion": 0.3 * s}, share),
    "horizontal_flip": st.just({}),
    "vertical_flip": st.just({}),
    "quarter_turns": st.just({}),
}


@st.composite
def scenes(draw, *, steps: int = 1):
    """A picture's size, a rectangle on it in whole pixels, a canvas, and a random move onto it."""
    width, height = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    left, top = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    right, bottom = draw(st.integers(left + 4, width)), draw(st.integers(top + 4, height))
    canvas = draw(st.sampled_from([(32, 32), (48, 32), (20, 45)]))
    names = draw(st.lists(st.sampled_from(GEOMETRIC), min_size=steps, max_size=steps))
    entries = [{"name": name, "probability": 1.0, **draw(STRENGTHS[name])} for name in names]
    augmentation = build_augmentation(
        entries, canvas[0], height=canvas[1], fit=draw(st.sampled_from(FITS)), fill=(0, 0, 0)
    )
    box = np.array([(left, top, right, bottom)], float)
    matrix = augmentation.matrix(width, height, address(draw(st.integers(0, 9999)), 0, 0), boxes=box)
    return (width, height), box, canvas, matrix


def filled(size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    mask = np.zeros(size[::-1], np.uint8)
    left, top, right, bottom = box[0].astype(int)
    mask[top:bottom, left:right] = 1
    return mask


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask == 1)
    return np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), float)


def thickness(box: np.ndarray, matrix: np.ndarray) -> float:
    """Smallest distance between a moved box's corner and a side that it isn't on, in pixels."""
    left, top, right, bottom = box[0]
    corners = np.array([(left, top, 1), (right, top, 1), (right, bottom, 1), (left, bottom, 1)])
    seen = corners @ matrix.T
    if (seen[:, 2] <= 0).any():
        return 0.0
    flat = seen[:, :2] / seen[:, 2:]
    side = np.roll(flat, -1, axis=0) - flat
    normal = np.stack([-side[:, 1], side[:, 0]], axis=1) / np.linalg.norm(side, axis=1)[:, None]
    distances = np.abs(np.einsum("sk,spk->sp", normal, flat[None] - flat[:, None]))
    return min(distances[i, (i + k) % 4] for i in range(4) for k in (2, 3))


def measured_and_said(scene) -> tuple[np.ndarray, np.ndarray]:
    """The box around the moved rectangle's pixels, finely measured, and the moved box."""
    size, box, (width, height), matrix = scene
    said, kept = move_boxes(box, matrix, width, height, least_share=0)
    assume(len(kept))
    finer = np.diag((FINE, FINE, 1.0)) @ matrix
    mask = move_mask(filled(size, box), finer, width * FINE, height * FINE)
    return box_of(mask) / FINE, said[0]


# The main promise


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("fit", FITS)
def test_a_moved_box_is_the_box_of_the_moved_mask(name, fit):
    compared = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(30, 160, 2).tolist())
        low = rng.integers(0, np.array(size) - 12)
        box = np.hstack([low, rng.integers(low + 12, np.array(size) + 1)])[None].astype(float)
        width, height = ((64, 64), (96, 64), (40, 80))[seed % 3]
        entry = {"name": name, "probability": 1.0}
        augmentation = build_augmentation([entry], width, height=height, fit=fit)
        matrix = augmentation.matrix(*size, address(seed, 0, 0), boxes=box)
        said, kept = move_boxes(box, matrix, width, height)
        if len(kept) and thickness(box, matrix) >= 3:
            moved = move_mask(filled(size, box), matrix, width, height)
            assert np.abs(box_of(moved) - said[0]).max() <= 1, (seed, box_of(moved), said)
            compared += 1
    assert compared >= 15


@given(scenes())
@settings(max_examples=300, deadline=None)
def test_a_moved_box_is_the_box_of_the_moved_mask_at_every_strength(scene):
    assume(thickness(scene[1], scene[3]) >= 0.5)
    measured, said = measured_and_said(scene)
    assert np.abs(measured - said).max() <= 1


@given(scenes(steps=3))
@settings(max_examples=200, deadline=None)
def test_and_after_several_steps(scene):
    assume(thickness(scene[1], scene[3]) >= 0.5)
    measured, said = measured_and_said(scene)
    assert np.abs(measured - said).max() <= 1.5  # the corners of twice slanted boxes are needles


@given(scenes(steps=3))
@settings(max_examples=200, deadline=None)
def test_boxes_lie_on_the_canvas_around_all_that_is_shown(scene):
    size, box, (width, height), matrix = scene
    said, _ = move_boxes(box, matrix, width, height, least_share=0, least_side=0)
    mask = move_mask(filled(size, box), matrix, width, height)
    if not len(said):
        assert not (mask == 1).any()
        return
    assert (said >= 0).all()
    assert (said <= (width, height, width, height)).all()
    if (mask == 1).any():
        found = box_of(mask)  # of pixels whose centres are in view
        assert (said[0, :2] <= found[:2] + 0.5 + 1e-6).all()
        assert (said[0, 2:] >= found[2:] - 0.5 - 1e-6).all()


def test_a_turned_box_that_is_cut_off_is_as_small_as_what_is_left_of_it():
    turned = geometry.turn(45)
    shift = np.array(((1, 0, 100), (0, 1, 50), (0, 0, 1.0)))
    box = np.array([(-20, -20, 20, 20)], float)
    whole, _ = move_boxes(box, shift @ turned, 200, 100)
    reach = 20 * np.sqrt(2)
    assert np.allclose(whole, [(100 - reach, 50 - reach, 100 + reach, 50 + reach)])
    cut, _ = move_boxes(box, shift @ turned, 80, 100, least_share=0)  # only the left tip, 8.3 wide
    assert np.allclose(cut, [(100 - reach, 50 - (reach - 20), 80, 50 + (reach - 20))])


# What is dropped


def test_boxes_of_which_little_is_left_are_dropped():
    boxes = np.array([(0, 0, 10, 10), (5, 0, 15, 10), (19, 0, 29, 10), (30, 0, 40, 10), (8, 8, 8, 9)], float)
    identity = np.eye(3)
    for least, expected in ((0.2, [0, 1]), (0.5, [0, 1]), (0.51, [0]), (0.1, [0, 1, 2]), (0, [0, 1, 2])):
        width = 20 if least < 0.2 else 10
        corners, kept = move_boxes(boxes, identity, width, 20, least_share=least)
        assert kept.tolist() == expected
        assert np.array_equal(corners[:, 2], np.minimum(boxes[kept, 2], width))
    shares = np.array([0.9, 0.9, 0.0, 0.0, 0.0])
    assert move_boxes(boxes, identity, 20, 20, least_share=shares)[1].tolist() == [0, 1, 2]
    assert move_boxes(boxes, identity, 20, 20, least_side=1.01, least_share=0)[1].tolist() == [0, 1]
    assert move_boxes(boxes, np.diag((0.1, 0.1, 1)), 20, 20)[1].tolist() == [0, 1, 2, 3]
    assert move_boxes(boxes, np.diag((0.09, 0.1, 1)), 20, 20)[1].tolist() == []


def test_what_lies_beyond_the_picture_counts_only_where_its_size_is_unknown():
    box = np.array([(-30, 0, 10, 10)], float)
    assert move_boxes(box, np.eye(3), 20, 20, least_share=0.5)[1].tolist() == []
    corners, kept = move_boxes(box, np.eye(3), 20, 20, least_share=0.5, from_size=(20, 20))
    assert kept.tolist() == [0]
    assert np.array_equal(corners, [(0, 0, 10, 10)])


def test_no_boxes_stay_no_boxes():
    corners, kept = move_boxes(np.zeros((0, 4)), np.eye(3), 9, 9)
    assert corners.shape == (0, 4)
    assert kept.shape == (0,)
    assert kept.dtype == np.int64
    assert restore_boxes(np.zeros((0, 4)), np.eye(3), 9, 9).shape == (0, 4)


# Identity, inverse, composition


@st.composite
def rectangles(draw, width: int = 60, height: int = 40):
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    low = rng.uniform(0, (width - 2, height - 2), (draw(st.integers(1, 6)), 2))
    high = low + rng.uniform(1, np.maximum((width, height) - low, 1))
    return np.hstack([low, np.minimum(high, (width, height))])


@given(rectangles())
def test_nothing_moves_nothing(boxes):
    corners, kept = move_boxes(boxes, np.eye(3), 60, 40, least_side=0)
    assert np.array_equal(corners, boxes)
    assert np.array_equal(kept, np.arange(len(boxes)))
    assert np.array_equal(restore_boxes(boxes, np.eye(3), 60, 40), boxes)


@given(rectangles(), st.floats(0.2, 4), st.floats(0.2, 4), st.sampled_from(FITS))
def test_boxes_of_a_clean_view_come_back(boxes, wider, taller, fit):
    width, height = max(round(60 * wider), 1), max(round(40 * taller), 1)
    matrix = View(width, fit=fit, height=height).matrix(60, 40)
    corners, kept = move_boxes(boxes, matrix, width, height, least_share=0, least_side=0)
    back = restore_boxes(corners, matrix, 60, 40)
    shown = restore_boxes(np.array([(0, 0, width, height)], float), matrix, 60, 40)[0]
    expected = np.clip(boxes[kept], np.tile(shown[:2], 2), np.tile(shown[2:], 2))
    assert np.allclose(back, expected, rtol=0, atol=1e-9)


@given(scenes(steps=2))
@settings(deadline=None)
def test_boxes_that_come_back_hold_what_was_shown(scene):
    size, box, (width, height), matrix = scene
    assume(abs(np.linalg.det(matrix)) > 1e-6 and thickness(box, matrix) > 0)
    canvas = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1.0)])
    assume((canvas @ np.linalg.inv(matrix)[2] > 1e-3).all())
    corners, kept = move_boxes(box, matrix, width, height, least_share=0.999)
    if len(kept):
        back = restore_boxes(corners, matrix, *size)[0]
        assert (back[:2] <= box[0, :2] + 0.1).all()
        assert (back[2:] >= box[0, 2:] - 0.1).all()


@given(st.integers(0, 9999), st.lists(st.sampled_from(GEOMETRIC), min_size=2, max_size=4))
@settings(deadline=None)
def test_points_move_at_once_as_one_after_the_other_and_back(seed, names):
    rng = address(seed, 0, 0)
    view = View(48, height=32)
    points = np.random.default_rng(seed).uniform((20, 12), (28, 20), (6, 2))
    product, stepwise = np.eye(3), points
    for name in names:
        step = AUGMENTATIONS[name].make()
        drawn = step.draw(rng, (1.0, 1.0))
        matrix = view.matrix(48, 32, view.fitted(drawn) if step.rigid else drawn)
        assume((np.c_[stepwise, np.ones(6)] @ matrix[2] > 0.05).all())  # before the horizon
        product, stepwise = matrix @ product, warp_points(matrix, stepwise)
    size = max(1, np.abs(stepwise).max())
    assert np.allclose(warp_points(product, points), stepwise, rtol=0, atol=1e-9 * size)
    assume(np.linalg.cond(product) < 1e6)
    assert np.allclose(warp_points(np.linalg.inv(product), stepwise), points, rtol=0, atol=1e-7)


@given(rectangles(), st.integers(0, 999))
def test_boxes_move_at_once_as_one_after_the_other(boxes, seed):
    rng = np.random.default_rng(seed)
    first = np.array(((rng.uniform(0.5, 2), 0, 5), (0, rng.uniform(0.5, 2), 3), (0, 0, 1.0)))
    second = np.array(((0, -rng.uniform(0.5, 2), 200), (rng.uniform(0.5, 2), 0, 9), (0, 0, 1.0)))
    once, _ = move_boxes(boxes, second @ first, 1000, 1000, least_side=0)
    between, _ = move_boxes(boxes, first, 1000, 1000, least_side=0)
    twice, _ = move_boxes(between, second, 1000, 1000, least_side=0)
    assert np.allclose(once, twice, rtol=0, atol=1e-9)
    assert np.allclose(once, around(boxes, second @ first), rtol=0, atol=1e-9)


def blobs(height: int = 60, width: int = 90) -> np.ndarray:
    noise = np.random.default_rng(0).random((height, width)).astype(np.float32)
    return np.digitize(cv2.GaussianBlur(noise, (0, 0), 8), (0.48, 0.5, 0.52)).astype(np.uint8)


def far_from_borders(mask: np.ndarray, pixels: int) -> np.ndarray:
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    inside = cv2.erode(mask, kernel) == cv2.dilate(mask, kernel)
    inside[:pixels] = inside[-pixels:] = inside[:, :pixels] = inside[:, -pixels:] = False
    return inside


@pytest.mark.parametrize("seed", range(10))
def test_masks_move_at_once_as_one_after_the_other(seed):
    rng = address(seed, 0, 0)
    view = View(90, height=60)
    names = ("rotation", "scale", "perspective")
    steps = [AUGMENTATIONS[name].make() for name in names]
    drawn = [step.draw(rng, (1.0, 1.0)) for step in steps]
    matrices = [
        view.matrix(90, 60, view.fitted(matrix) if step.rigid else matrix)
        for step, matrix in zip(steps, drawn, strict=True)
    ]
    stepwise, product = blobs(), np.eye(3)
    for matrix in matrices:
        stepwise, product = move_mask(stepwise, matrix, 90, 60), matrix @ product
    at_once = move_mask(blobs(), product, 90, 60)
    inside = far_from_borders(stepwise, 2) & (stepwise != 255)
    assert inside.mean() > 0.2
    assert np.array_equal(at_once[inside], stepwise[inside])


# Masks


@given(scenes(steps=2))
@settings(max_examples=80, deadline=None)
def test_a_pixel_gets_the_class_of_the_pixel_in_which_its_centre_lies(scene):
    (wide, tall), _, (width, height), matrix = scene
    assume(abs(np.linalg.det(matrix)) > 1e-9)
    mask = np.random.default_rng(0).integers(0, 250, (tall, wide), dtype=np.uint8)
    moved = move_mask(mask, matrix, width, height, outside=251)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    seen = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(matrix).T
    before = seen[..., 2] > 0
    place = seen[..., :2] / np.where(before, seen[..., 2], 1)[..., None]
    sure = (np.abs(place - np.round(place)) > 1e-4).all(axis=-1)  # not between two pixels
    column, row = np.moveaxis(np.floor(place).astype(int), -1, 0)
    known = before & (column >= 0) & (column < wide) & (row >= 0) & (row < tall)
    expected = np.full((height, width), 251)
    expected[known] = mask[row[known], column[known]]
    assert np.array_equal(moved[sure], expected[sure])


def test_where_pixels_are_mirrored_the_mask_knows_nothing():
    view = View(40, fit="pad", fill="reflect", height=40)
    matrix = view.matrix(40, 20)
    pixels = np.full((20, 40, 3), 7, np.uint8)
    assert (view.render(pixels, matrix) == 7).all()
    moved = move_mask(np.zeros((20, 40), np.uint8), matrix, 40, 40)
    assert (moved[10:30] == 0).all()
    assert (moved[:10] == 255).all()
    assert (moved[30:] == 255).all()
    assert (move_mask(np.zeros((20, 40), np.uint8), matrix, 40, 40, outside=3)[:10] == 3).all()


def test_behind_the_horizon_nothing_is_shown():
    matrix = np.array(((1, 0, 0), (0, 1, 0), (0, 0.05, 0.5)))  # the horizon is 10 above the picture
    boxes = np.array([(0, 0, 20, 20), (0, -40, 20, 20), (0, -40, 20, -12)], float)
    corners, kept = move_boxes(boxes, matrix, 60, 60, least_share=0)
    assert kept.tolist() == [0, 1]
    assert np.isfinite(corners).all()
    moved = move_mask(np.ones((20, 20), np.uint8), matrix, 60, 60)
    assert np.allclose(box_of(moved), corners[0], atol=1)
    # Made small enough, the picture shows its horizon, and above it would stand a ghost of its lower part.
    small = np.array(((0.2, 0, 20), (0, 0.2, 30), (0, 0, 1.0))) @ np.array(
        ((1, 0, 0), (0, 1, 0), (0, -0.1, 1))
    )
    ghost = View(60, height=60, fill=(0, 0, 0)).render(np.full((20, 20, 3), 255, np.uint8), small)
    moved = move_mask(np.ones((20, 20), np.uint8), small, 60, 60)
    assert (ghost[:28, :20] > 0).any()
    assert not (moved[:28, :20] == 1).any()


def test_flipped_pictures_have_flipped_targets():
    width, height = 60, 40
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:15, 10:30] = 255
    mask, box = (pixels[..., 0] // 255), np.array([(10, 5, 30, 15)], float)
    for name, expected, flipped in (
        ("horizontal_flip", (30, 5, 50, 15), mask[:, ::-1]),
        ("vertical_flip", (10, 25, 30, 35), mask[::-1]),
    ):
        augmentation = build_augmentation([{"name": name, "probability": 1}], width, height=height)
        view, matrix = augmentation.with_matrix(pixels, address(0, 0, 0))
        assert np.array_equal(view[..., 0] > 127, flipped)
        assert np.array_equal(move_mask(mask, matrix, width, height), flipped)
        assert np.allclose(move_boxes(box, matrix, width, height)[0], [expected])


@given(st.integers(0, 9999), st.sampled_from(FITS))
@settings(max_examples=40, deadline=None)
def test_boxes_and_masks_follow_the_pixels(seed, fit):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:40, 30:60] = 255
    steps = [{"name": "rotation"}, {"name": "scale"}, {"name": "perspective"}, {"name": "horizontal_flip"}]
    augmentation = build_augmentation(steps, 96, height=64, fit=fit, fill=(0, 0, 0))
    view, matrix = augmentation.with_matrix(pixels, address(seed, 0, 0))
    seen = (view[..., 0] > 127).astype(np.uint8)
    mask = move_mask(pixels[..., 0] // 255, matrix, 96, 64, outside=0)
    assert (mask != seen).sum() <= 0.02 * seen.sum()  # along the borders linear and nearest differ
    said, _ = move_boxes(np.array([(30, 20, 60, 40)], float), matrix, 96, 64)
    assert np.abs(said[0] - box_of(seen)).max() <= 1


# Maps on their way back


def test_maps_of_the_picture_itself_come_back_unchanged():
    classes = blobs()
    scores = np.random.default_rng(0).random((3, 60, 90)).astype(np.float32)
    assert np.array_equal(restore_map(classes, np.eye(3), 90, 60), classes)
    assert np.allclose(restore_map(scores, np.eye(3), 90, 60), scores, atol=1e-6)
    assert np.allclose(restore_map(scores[1], np.eye(3), 90, 60), scores[1], atol=1e-6)


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_masks_come_back(fit):
    classes = blobs()
    matrix = View(200, fit=fit, height=160).matrix(90, 60)
    moved = move_mask(classes, matrix, 200, 160)
    assert np.array_equal(restore_map(moved, matrix, 90, 60), classes)


def test_a_flipped_and_turned_view_s_map_comes_back():
    classes = blobs()
    steps = [{"name": "horizontal_flip", "probability": 1}, {"name": "rotation", "degrees": 20}]
    augmentation = build_augmentation(steps, 300, height=240, fit="pad")
    matrix = augmentation.matrix(90, 60, address(0, 0, 3))
    moved = move_mask(classes, matrix, 300, 240)
    back = restore_map(moved, matrix, 90, 60)
    seen = move_mask(np.ones_like(classes), matrix, 300, 240)
    whole = restore_map(seen, matrix, 90, 60) == 1
    assert (back != classes)[whole].mean() < 0.01


def test_scores_are_read_between_pixels():
    ramp = np.tile(np.linspace(0, 1, 24, dtype=np.float32), (16, 1))
    matrix = View(24, height=16).matrix(240, 160)
    back = restore_map(ramp, matrix, 240, 160)
    assert back.shape == (160, 240)
    expected = np.interp((np.arange(240) + 0.5) / 10 - 0.5, np.arange(24), ramp[0])
    assert np.allclose(back, expected, atol=1e-5)
    both = restore_map(np.stack([ramp, 1 - ramp]), matrix, 240, 160)
    assert np.array_equal(both[0], back)
    assert np.allclose(both.sum(axis=0), 1, atol=1e-5)


def test_scores_of_a_small_picture_are_averaged():
    stripes = np.tile(np.array([0, 0, 0, 1, 1, 0, 0, 0], np.float32), (64, 8))
    matrix = View(64).matrix(8, 8)
    assert np.allclose(restore_map(stripes, matrix, 8, 8), 0.25, atol=1e-5)
    assert np.allclose(restore_map(stripes[None], matrix, 8, 8), 0.25, atol=1e-5)


def test_what_the_canvas_does_not_show_gets_the_nearest_answer():
    matrix = View(20, fit="crop", height=20).matrix(60, 20)
    classes = np.tile(np.arange(20, dtype=np.uint8), (20, 1))
    back = restore_map(classes, matrix, 60, 20)
    assert np.array_equal(back[:, 20:40], classes)
    assert (back[:, :20] == 0).all()
    assert (back[:, 40:] == 19).all()


def test_boxes_beyond_the_picture_come_back_without_area():
    matrix = View(40, fit="pad", height=40).matrix(40, 20)
    boxes = np.array([(5, 0, 15, 8), (5, 2, 15, 20)], float)
    back = restore_boxes(boxes, matrix, 40, 20)
    assert np.array_equal(back, [(5, 0, 15, 0), (5, 0, 15, 10)])
