"""The canvas may have any width and height; a square is what it always was."""

from __future__ import annotations

import hashlib
import platform

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data.augmentation import (
    AUGMENTATIONS,
    DENSE_FILL,
    DENSE_PRESETS,
    PRESETS,
    View,
    address,
    build_augmentation,
    clean_view,
    policies,
    preview_grid,
    warp_points,
)
from pictune.data.augmentation.geometry import placed
from pictune.data.augmentation.steps import Geometric

WIDTH, HEIGHT = 48, 32
FITS = ("crop", "squash", "pad")
GEOMETRIC = [name for name in AUGMENTATIONS if isinstance(AUGMENTATIONS[name].make(), Geometric)]
RIGID = [name for name in GEOMETRIC if AUGMENTATIONS[name].make().rigid]
CORNERS = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)), float)
sides = st.integers(1, 120)


def waves(height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 48
    phases = rng.random((3, 2)) * 6
    waves = [np.sin(3 * x + a) + np.cos(2 * y + b) + 0.4 * x for a, b in phases]
    return np.clip(np.stack(waves, -1) * 35 + 115, 0, 255).astype(np.uint8)


def certain(name: str) -> dict[str, object]:
    return {"name": name, "probability": 1.0}


# Squares are what they were


# Taken from the code as it was before the view became a canvas.
BEFORE = {
    ("none", "crop", 0): "e19daa1b61fde062",
    ("light", "crop", 1): "9394b83006c2cc55",
    ("medium", "pad", 2): "2475c574603337cc",
    ("heavy", "squash", 3): "c1c617eec20cc22f",
    ("heavy", "crop", 4): "735de6a377513b2d",
}
ONE_BEFORE = {
    "rotation": "09e662b6a3e7fa05",
    "shear": "b42be5cd52996efd",
    "quarter_turns": "701b9ec3636e72e6",
    "perspective": "c22ab737938b747c",
    "rand_augment": "f400ce058b92de7a",
    "trivial_augment": "fe82a670c64628fa",
}
MATRIX_BEFORE = [
    [0.5564297736500503, 0.07128180826044922, -4.589264702053004],
    [-0.05125230073452267, 0.7738837060442734, -0.8546577549014494],
    [0.0, 0.0, 1.0],
]

# Other builds of OpenCV round some pixels the other way.
same_build = pytest.mark.skipif(
    not cv2.__version__.startswith("5.0") or platform.machine() != "x86_64",
    reason="the checksums were taken with OpenCV 5.0 on x86-64",
)


def checksum(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


@same_build
@pytest.mark.parametrize(("preset", "fit", "position"), list(BEFORE))
def test_squares_are_byte_for_byte_as_before(preset, fit, position):
    for height in (None, 32):
        augmentation = build_augmentation(PRESETS[preset], 32, fit=fit, height=height)
        assert checksum(augmentation(waves(), address(7, 1, position))) == BEFORE[preset, fit, position]


@same_build
@pytest.mark.parametrize("name", list(ONE_BEFORE))
def test_single_steps_on_squares_are_byte_for_byte_as_before(name):
    augmentation = build_augmentation([certain(name)], 45, height=45)
    assert checksum(augmentation(waves(70, 33), address(7, 1, 9))) == ONE_BEFORE[name]


def test_matrices_on_squares_are_as_before():
    augmentation = build_augmentation(PRESETS["heavy"], 32, fit="squash")
    assert np.allclose(augmentation.matrix(64, 48, address(7, 1, 3)), MATRIX_BEFORE, rtol=0, atol=1e-12)


@given(sides, sides, sides, st.floats(0.1, 1))
def test_extents_on_squares_are_to_the_last_bit_as_before(wide, tall, size, crop):
    for fit, side in (("crop", min(wide, tall)), ("pad", max(wide, tall))):
        extent = View(size, fit=fit, crop=crop).extent(wide, tall)
        assert extent == (wide / (side * crop), tall / (side * crop))


# The clean view


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 9), st.sampled_from(FITS))
def test_a_picture_of_the_canvas_s_shape_has_the_extent_one(width, height, times, fit):
    assert View(width, fit=fit, height=height).extent(width * times, height * times) == (1.0, 1.0)


@given(sides, sides, sides, sides)
def test_crop_covers_the_canvas_pad_stays_inside_and_both_keep_the_shape(width, height, wide, tall):
    for fit in ("crop", "pad"):
        view = View(width, fit=fit, height=height)
        across, down = view.extent(wide, tall)
        assert min(across, down) == 1 if fit == "crop" else max(across, down) == 1
        matrix = view.matrix(wide, tall)
        assert np.isclose(matrix[0, 0], matrix[1, 1])
    corners = np.array([(0, 0), (wide, tall)], float)
    squashed = View(width, fit="squash", height=height).matrix(wide, tall)
    assert np.allclose(warp_points(squashed, corners), [(0, 0), (width, height)])


def test_clean_view_of_the_right_size_is_the_picture_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for fit in FITS:
        assert np.array_equal(clean_view(pixels, WIDTH, fit=fit, height=HEIGHT), pixels)


def test_clean_view_crops_the_middle_and_pads_beside_it():
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT + 20, WIDTH, 3), dtype=np.uint8)
    assert np.array_equal(clean_view(pixels, WIDTH, height=HEIGHT), pixels[10:-10])
    narrow = np.full((HEIGHT, WIDTH - 20, 3), 200, np.uint8)
    padded = clean_view(narrow, WIDTH, fit="pad", fill=DENSE_FILL, height=HEIGHT)
    assert (padded[:, 10:-10] == 200).all()
    assert (padded[:, :10] == DENSE_FILL).all()
    assert (padded[:, -10:] == DENSE_FILL).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (40, 1), (2, 3)])
def test_thin_pictures_are_read_with_every_interpolation(shape):
    pixels = np.full((*shape, 3), 90, np.uint8)
    for interpolation in ("nearest", "linear", "cubic"):
        for fit in FITS:
            view = clean_view(pixels, WIDTH, fit=fit, interpolation=interpolation, height=HEIGHT)
            assert (view == 90).all()


# Every step, on every canvas


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_step_fills_every_canvas_and_knows_its_matrix_without_pixels(name):
    boxes = np.array([(2.0, 3.0, 20.0, 25.0), (30.0, 5.0, 33.0, 60.0)])
    for shape in ((1, 1), (3, 50), (70, 33)):
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for width, height in ((WIDTH, HEIGHT), (31, 64), (24, 24)):
            for fit in FITS:
                augmentation = build_augmentation([certain(name)], width, fit=fit, height=height)
                assert (augmentation.size, augmentation.height) == (width, height)
                for known in (None, boxes):
                    view, matrix = augmentation.with_matrix(pixels, address(3, 1, 4), boxes=known)
                    assert view.shape == (height, width, 3)
                    again = augmentation.matrix(shape[1], shape[0], address(3, 1, 4), boxes=known)
                    assert np.array_equal(again, matrix)


@pytest.mark.parametrize("preset", [*PRESETS, *DENSE_PRESETS])
def test_presets_know_their_matrix_without_pixels(preset):
    for table in (PRESETS, DENSE_PRESETS):
        augmentation = build_augmentation(table[preset], WIDTH, fit="pad", height=HEIGHT)
        for position in range(8):
            view, matrix = augmentation.with_matrix(waves(), address(1, 2, position))
            assert np.array_equal(augmentation.matrix(64, 48, address(1, 2, position)), matrix)
            assert np.array_equal(augmentation(waves(), address(1, 2, position)), view)


def test_what_turns_or_slants_is_marked():
    assert set(RIGID) == {"rotation", "shear", "quarter_turns"}
    for reach in (policies.STANDARD, policies.WIDE):
        for operation in policies.operations(reach):
            step = operation(0.5)
            if isinstance(step, Geometric):
                matrix = step.draw(address(0, 0, 0), (1.0, 1.0))
                assert step.rigid == bool(matrix[0, 1] or matrix[1, 0])


@pytest.mark.parametrize("name", RIGID)
@pytest.mark.parametrize(("width", "height"), [(64, 32), (20, 50)])
def test_turns_and_slants_look_on_every_canvas_as_on_a_square(name, width, height):
    square = build_augmentation([certain(name)], 40, fit="pad")
    canvas = build_augmentation([certain(name)], width, fit="pad", height=height)
    for position in range(5):
        asked, got = (a.matrix(33, 70, address(0, 0, position)) for a in (square, canvas))
        scales = [a.view.matrix(33, 70)[0, 0] for a in (square, canvas)]
        assert np.allclose(asked[:2, :2] / scales[0], got[:2, :2] / scales[1])
        centre = warp_points(got, np.array([(16.5, 35.0)]))
        assert np.allclose(centre, [(width / 2, height / 2)])


@pytest.mark.parametrize("preset", list(DENSE_PRESETS))
def test_dense_presets_keep_shapes_and_vary(preset):
    steps = DENSE_PRESETS[preset]
    augmentation = build_augmentation(steps, WIDTH, fit="pad", height=HEIGHT, fill=DENSE_FILL)
    views = set()
    for position in range(12):
        view, matrix = augmentation.with_matrix(waves(), address(0, 0, position))
        views.add(view.tobytes())
        squares = matrix[:2, :2] @ matrix[:2, :2].T
        assert np.allclose(squares, squares[0, 0] * np.eye(2))
    assert len(views) == (1 if preset == "none" else 12)
    mirrored = any("flip" in entry["name"] for entry in steps)
    assert mirrored == (preset in ("medium", "heavy"))


def test_presets_have_the_same_names():
    assert list(PRESETS) == list(DENSE_PRESETS)


@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip"])
def test_flips_are_exact_on_every_canvas(name):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    flipped = build_augmentation([certain(name)], WIDTH, height=HEIGHT)(pixels, address(0, 0, 0))
    expected = pixels[:, ::-1] if name == "horizontal_flip" else pixels[::-1]
    assert np.abs(flipped.astype(int) - expected.astype(int)).max() <= 1


def test_rotation_is_clockwise_as_seen_and_keeps_the_shape():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:14, 36:44] = 255  # 8 wide and 4 high, above the centre
    view = View(80, height=40, fill=(0, 0, 0))
    quarter = build_augmentation([certain("quarter_turns")], 80, height=40).steps[0]
    turns = (quarter.draw(address(0, 0, position), (1.0, 1.0)) for position in range(30))
    clockwise = next(turn for turn in turns if turn[1, 0] == 1)
    turned = view.render(pixels, view.matrix(80, 40, view.fitted(clockwise)))
    rows, columns = np.nonzero(turned[..., 0] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 23, 46, 49)


def test_preview_has_room_for_every_canvas():
    augmentation = build_augmentation(PRESETS["medium"], WIDTH, height=HEIGHT)
    sheet = preview_grid([waves(), waves(70, 33)], augmentation, views=2, seed=5)
    assert np.array_equal(sheet[:HEIGHT, :WIDTH], clean_view(waves(), WIDTH, height=HEIGHT))
    assert np.array_equal(sheet[-HEIGHT:, -WIDTH:], augmentation(waves(70, 33), address(5, 1, 1)))


# Steps for what lies on pictures


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0.05, 4), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_of_picture_and_view_the_smaller_lies_in_the_larger(across, down, factor, seed):
    matrix = placed(address(seed, 0, 0), (across, down), factor)
    seen = warp_points(matrix, CORNERS * (across, down))
    for axis in range(2):
        low, high = seen[:, axis].min(), seen[:, axis].max()
        inside, covered = low >= -1 - 1e-9 and high <= 1 + 1e-9, low <= -1 + 1e-9 and high >= 1 - 1e-9
        assert inside or covered


def test_scale_jitter_reaches_all_sizes_evenly_on_a_log_scale():
    step = AUGMENTATIONS["scale_jitter"].make()
    factors = [step.draw(address(0, 0, i), (1.0, 1.0))[0, 0] for i in range(400)]
    assert 0.1 <= min(factors) < 0.11
    assert 1.8 < max(factors) <= 2
    assert np.isclose(np.median(factors), np.sqrt(0.2), rtol=0.25)


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from(FITS), st.sampled_from([(64, 40), (33, 70)]))
@settings(max_examples=150, deadline=None)
def test_safe_crop_keeps_an_object_and_lies_inside_the_picture(seed, count, fit, size):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random((2, count, 2)) * size, axis=0)
    boxes = np.hstack([low, high])
    steps = [certain("horizontal_flip"), certain("iou_safe_crop")]
    augmentation = build_augmentation(steps, WIDTH, fit=fit, height=HEIGHT)
    matrix = augmentation.matrix(*size, address(seed, 0, 0), boxes=boxes)
    canvas = (CORNERS + 1) / 2 * (WIDTH, HEIGHT)
    window = warp_points(np.linalg.inv(matrix), canvas)
    untouched = build_augmentation(steps[:1], WIDTH, fit=fit, height=HEIGHT)
    if np.allclose(matrix, untouched.matrix(*size, address(seed, 0, 0))):
        return  # no window was good
    assert (window >= -1e-6).all()
    assert (window <= np.array(size) + 1e-6).all()
    centres = (low + high) / 2
    assert ((window.min(0) <= centres) & (centres <= window.max(0))).all(axis=1).any()


@given(st.integers(0, 10**6), st.integers(1, 5), st.tuples(st.floats(0.5, 3), st.floats(0.5, 3)))
@settings(max_examples=100, deadline=None)
def test_safe_crop_overlaps_with_the_object_as_much_as_was_drawn(seed, count, extent):
    low, high = np.sort(np.random.default_rng(seed).uniform(-1, 1, (2, count, 2)) * extent, axis=0)
    step = AUGMENTATIONS["iou_safe_crop"].make(sides=(0.1, 1.0))
    matrix = step.guard(address(seed, 0, 0), extent, np.hstack([low, high]))
    if np.array_equal(matrix, np.eye(3)):
        return
    least = (0, 0.1, 0.3, 0.5, 0.7, 0.9)[int(address(seed, 0, 0).integers(6))]
    window = warp_points(np.linalg.inv(matrix), CORNERS[[0, 2]])
    common = np.maximum(np.minimum(high, window[1]) - np.maximum(low, window[0]), 0).prod(axis=1)
    union = (high - low).prod(axis=1) + (window[1] - window[0]).prod() - common
    assert (common / union).max() >= least - 1e-9


def test_safe_crop_shows_all_where_no_part_keeps_an_object():
    step = AUGMENTATIONS["iou_safe_crop"].make(sides=(0.3, 0.3))
    matrices = [
        step.guard(address(0, 0, i), (1.0, 1.0), np.array([(0.0, 0.0, 1e-3, 1e-3)])) for i in range(60)
    ]
    shown = [np.array_equal(matrix, np.eye(3)) for matrix in matrices]
    assert 40 < sum(shown) < 60  # but for the draws that ask for no more than the centre of a box
