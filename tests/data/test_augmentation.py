from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data.augmentation import (
    AUGMENTATIONS,
    PRESETS,
    Augmentation,
    Lane,
    View,
    address,
    build_augmentation,
    clean_view,
    colour,
    geometry,
    preview_grid,
    warp_points,
)
from pictune.data.augmentation.steps import Geometric
from pictune.errors import RecipeError

SIZE = 32
GEOMETRIC = [name for name in AUGMENTATIONS if isinstance(AUGMENTATIONS[name].make(), Geometric)]


def smooth(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A picture of gentle waves in muted colours: warps and rounding change it little, steps a lot."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 48
    phases = rng.random((3, 2)) * 6
    waves = [np.sin(3 * x + a) + np.cos(2 * y + b) + 0.4 * x for a, b in phases]
    return np.clip(np.stack(waves, -1) * 35 + 115, 0, 255).astype(np.uint8)


def one(name: str, **given_settings: object) -> Augmentation:
    return build_augmentation([{"name": name, **given_settings}], SIZE)


def difference(one_image: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one_image.astype(float) - other.astype(float)).mean())


# The contract of every part of the table


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 90), (70, 33), (300, 200)])
def test_every_step_takes_every_picture(name, shape):
    rng = np.random.default_rng(1)
    grey = np.repeat(rng.integers(0, 256, (*shape, 1), dtype=np.uint8), 3, axis=2)
    colourful = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    flat = np.full((*shape, 3), 7, np.uint8)
    for fit in ("crop", "squash", "pad"):
        augmentation = build_augmentation([{"name": name, "probability": 1.0}], SIZE, fit=fit)
        for pixels in (grey, colourful, flat):
            before = pixels.copy()
            pixels.flags.writeable = False
            view = augmentation(pixels, address(0, 0, 3))
            assert view.shape == (SIZE, SIZE, 3)
            assert view.dtype == np.uint8
            assert np.array_equal(before, pixels)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_probability_decides(name):
    pixels = (
        smooth() + np.indices((48, 64)).sum(axis=0, dtype=np.uint8)[..., None] % 4 * 5
    )  # with fine texture
    clean = clean_view(pixels, SIZE)
    never, always = one(name, probability=0), one(name, probability=1)
    for position in range(5):
        assert np.array_equal(never(pixels, address(0, 0, position)), clean)
    assert any(difference(always(pixels, address(0, 0, position)), clean) > 0.2 for position in range(5))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_same_address_same_view(name):
    augmentation = one(name, probability=1)
    pixels = smooth()
    views = [augmentation(pixels, address(4, 2, 9)) for _ in range(2)]
    assert np.array_equal(*views)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_step_reaches_a_worker_process(name):
    augmentation = one(name, probability=1)
    copied = pickle.loads(pickle.dumps(augmentation))
    assert np.array_equal(copied(smooth(), address(0, 0, 0)), augmentation(smooth(), address(0, 0, 0)))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_step_has_a_probability_and_says_what_it_does(name):
    part = AUGMENTATIONS[name]
    assert "probability" in part.settings
    assert part.summary.endswith(".")
    for declared, setting, default in part.settings.values():
        assert declared
        assert setting.complaint(default) is None


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_steps_keep_colours(name):
    flat = np.full((40, 50, 3), (10, 120, 250), np.uint8)
    view = one(name, probability=1)(flat, address(0, 0, 0))
    assert (view == (10, 120, 250)).all()


@pytest.mark.parametrize(
    "name", [name for name in AUGMENTATIONS if name not in GEOMETRIC and "augment" not in name]
)
def test_other_steps_keep_places(name):
    matrix = one(name, probability=1).with_matrix(smooth(), address(0, 0, 0))[1]
    assert np.array_equal(matrix, View(SIZE).matrix(64, 48))


# Matrices


@st.composite
def moves(draw):
    """A random composition of geometric steps, with the extent of a picture."""
    names = draw(st.lists(st.sampled_from(GEOMETRIC), min_size=1, max_size=5))
    extent = draw(st.tuples(st.floats(1, 3), st.floats(1, 3)))
    rng = address(draw(st.integers(0, 999)), 0, 0)
    return [AUGMENTATIONS[name].make().draw(rng, extent) for name in names]


@given(moves(), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_matrices_compose_and_turn_back(matrices, seed):
    points = np.random.default_rng(seed).uniform(-0.2, 0.2, (6, 2))
    product, stepwise = np.eye(3), points
    for matrix in matrices:
        product, stepwise = matrix @ product, warp_points(matrix, stepwise)
    assert np.allclose(warp_points(product, points), stepwise, atol=1e-6)
    assert np.allclose(warp_points(np.linalg.inv(product), stepwise), points, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "times"),
    [
        (geometry.flip_across(), 2),
        (geometry.flip_down(), 2),
        (geometry.quarter(1), 4),
        (geometry.quarter(2), 2),
        (geometry.turn(45), 8),
    ],
)
def test_done_often_enough_is_nothing(matrix, times):
    assert np.allclose(np.linalg.matrix_power(matrix, times), np.eye(3))
    assert not np.allclose(np.linalg.matrix_power(matrix, times - 1), np.eye(3))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"name": "horizontal_flip", "probability": 1}, lambda view: view[:, ::-1]),
        ({"name": "vertical_flip", "probability": 1}, lambda view: view[::-1]),
    ],
)
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, 51), (47, 64)])
def test_flips_are_exact(step, expected, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    flipped = build_augmentation([step], SIZE)(pixels, address(0, 0, 0))
    # Between two pixels linear interpolation may round either way.
    assert np.abs(flipped.astype(int) - expected(clean_view(pixels, SIZE)).astype(int)).max() <= 1


def test_quarter_turns_are_exact_and_reach_all_sides():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    step = one("quarter_turns", probability=1)
    seen = set()
    for position in range(30):
        view = step(pixels, address(0, 0, position))
        turns = [k for k in range(4) if np.array_equal(np.rot90(pixels, k), view)]
        assert len(turns) == 1
        seen.update(turns)
    assert seen == {1, 2, 3}


def test_rotation_is_clockwise_as_seen():
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:4, 12:20] = 255  # at the top
    view = View(SIZE)
    turned = view.render(pixels, view.matrix(SIZE, SIZE, geometry.turn(90)))
    assert turned[12:20, -4:].mean() > 250  # now at the right


@given(
    st.integers(2, 400),
    st.integers(2, 400),
    st.floats(0.05, 1),
    st.floats(0.3, 1),
    st.integers(0, 10**6),
    st.sampled_from(["crop", "squash", "pad"]),
)
@settings(max_examples=150, deadline=None)
def test_random_crop_lies_inside_the_picture(width, height, smallest, narrowest, seed, fit):
    view = View(SIZE, fit=fit)
    extent = view.extent(width, height)
    step = AUGMENTATIONS["random_resized_crop"].make(scale=(smallest, 1.0), ratio=(narrowest, 1 / narrowest))
    matrix = view.matrix(width, height, step.draw(address(seed, 0, 0), extent))
    corners = np.array([(0, 0), (SIZE, 0), (SIZE, SIZE), (0, SIZE)], float)
    window = warp_points(np.linalg.inv(matrix), corners)
    slack = 1e-6 * max(width, height)
    assert (window >= -slack).all()
    assert (window <= np.array((width, height)) + slack).all()
    across, down = np.ptp(window, axis=0) / ((width / extent[0]), (height / extent[1]))
    assert narrowest - 1e-6 <= across / down <= 1 / narrowest + 1e-6


def test_random_crop_shows_the_share_asked_for():
    step = AUGMENTATIONS["random_resized_crop"].make(scale=(0.25, 0.25), ratio=(1.0, 1.0))
    matrix = step.draw(address(0, 0, 0), (1.0, 1.0))
    assert np.isclose(1 / np.linalg.det(matrix[:2, :2]), 0.25)


def test_perspective_keeps_the_horizon_out_of_view():
    step = AUGMENTATIONS["perspective"].make(distortion=0.3)
    corners = np.array(((-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1.0)))
    for position in range(200):
        back = np.linalg.inv(step.draw(address(0, 0, position), (1, 1)))
        assert ((corners @ back[2]) / back[2, 2] > 0.2).all()


@pytest.mark.parametrize("seed", range(8))
def test_one_warp_equals_the_warps_one_after_another(seed):
    side = 64
    pixels = smooth(side, side, seed)
    names = ("rotation", "scale", "shear", "translation", "perspective")
    rng = address(seed, 0, 0)
    view = View(side)
    drawn = [AUGMENTATIONS[name].make().draw(rng, (1.0, 1.0)) for name in names]
    product, stepwise = np.eye(3), pixels
    for matrix in drawn:
        product = matrix @ product
        stepwise = view.render(stepwise, view.matrix(side, side, matrix))
    at_once = view.render(pixels, view.matrix(side, side, product))
    # Compared where neither warp ever had to invent what lies beyond the picture's edge.
    known = np.full((side, side, 3), 255, np.uint8)
    dark = View(side, fill=(0, 0, 0))
    for matrix in drawn:
        known = dark.render(known, dark.matrix(side, side, matrix))
    inside = cv2.erode((known > 250).astype(np.uint8), np.ones((5, 5)))[..., 0] > 0
    assert inside.mean() > 0.3
    assert np.abs(at_once.astype(int) - stepwise.astype(int))[inside].max() <= 6


def test_points_follow_the_pixels():
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:24, 50:54] = 255  # a spot about (52, 22)
    augmentation = build_augmentation(
        [{"name": "rotation"}, {"name": "scale"}, {"name": "perspective"}, {"name": "horizontal_flip"}],
        64,
        fit="pad",
        fill=(0, 0, 0),
    )
    for position in range(10):
        view, matrix = augmentation.with_matrix(pixels, address(0, 0, position))
        light = view[..., 0].astype(float)
        y, x = (np.mgrid[0:64, 0:64] + 0.5) * light
        seen = np.array((x.sum(), y.sum())) / light.sum()
        assert np.allclose(warp_points(matrix, np.array([(52.0, 22.0)]))[0], seen, atol=0.5)


# The clean view


def test_clean_view_of_the_right_size_is_the_picture_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert np.array_equal(clean_view(pixels, SIZE), pixels)


def test_clean_view_crops_the_middle():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE + 20, 3), dtype=np.uint8)
    assert np.array_equal(clean_view(pixels, SIZE), pixels[:, 10:-10])
    larger = np.random.default_rng(0).integers(0, 256, (2 * SIZE, 2 * SIZE, 3), dtype=np.uint8)
    assert np.array_equal(
        clean_view(larger, SIZE, crop=0.5), larger[SIZE // 2 : -SIZE // 2, SIZE // 2 : -SIZE // 2]
    )


def test_clean_view_pads_and_squashes():
    white = np.full((SIZE // 2, SIZE, 3), 255, np.uint8)
    padded = clean_view(white, SIZE, fit="pad", fill=(1, 2, 3))
    quarter = SIZE // 4
    assert (padded[quarter + 1 : -quarter - 1] == 255).all()
    assert (padded[: quarter - 1] == (1, 2, 3)).all()
    assert (padded[-quarter + 1 :] == (1, 2, 3)).all()
    left_dark = np.full((SIZE, 2 * SIZE, 3), 200, np.uint8)
    left_dark[:, :SIZE] = 50
    squashed = clean_view(left_dark, SIZE, fit="squash")
    assert np.array_equal(np.unique(squashed[:, : SIZE // 2 - 1]), [50])
    assert np.array_equal(np.unique(squashed[:, SIZE // 2 + 1 :]), [200])


def test_far_too_large_pictures_are_averaged_and_not_thinned_out():
    stripes = np.zeros((SIZE * 8, SIZE * 8, 3), np.uint8)
    stripes[:, ::2] = 200
    for step in ([], [{"name": "rotation", "degrees": 10}]):
        view = build_augmentation(step, SIZE)(stripes, address(0, 0, 1))
        assert np.abs(view[4:-4, 4:-4].astype(int) - 100).max() <= 12


def test_memory_mapped_pictures_are_taken_as_they_are(tmp_path):
    path = tmp_path / "store.bin"
    smooth(48, 64).tofile(path)
    store = np.memmap(path, np.uint8, mode="r", shape=(48, 64, 3))
    expected = build_augmentation(PRESETS["heavy"], SIZE)(smooth(48, 64), address(0, 0, 0))
    assert np.array_equal(build_augmentation(PRESETS["heavy"], SIZE)(store, address(0, 0, 0)), expected)


# Colours


def test_colour_steps_as_one_matrix_equal_the_steps_one_by_one():
    pixels = smooth()
    mean = np.array(cv2.mean(pixels)[:3])
    effects = [(colour.brighten, 1.1), (colour.spread, 0.8), (colour.saturate, 1.3), (colour.rotate_hue, 8.0)]
    together, stepwise = np.eye(4), pixels
    for effect, amount in effects:
        together = effect(together[:3, :3] @ mean + together[:3, 3], amount) @ together
        stepwise = cv2.transform(stepwise, effect(np.array(cv2.mean(stepwise)[:3]), amount)[:3])
    assert np.abs(cv2.transform(pixels, together[:3]).astype(int) - stepwise.astype(int)).max() <= 4


@pytest.mark.parametrize(
    ("effect", "amount"),
    [
        (colour.brighten, 1.0),
        (colour.spread, 1.0),
        (colour.saturate, 1.0),
        (colour.rotate_hue, 0.0),
        (colour.rotate_hue, 360),
    ],
)
def test_colour_effects_have_a_neutral_amount(effect, amount):
    assert np.allclose(effect(np.array((10.0, 20.0, 30.0)), amount), np.eye(4), atol=1e-12)


@given(st.floats(-180, 180), st.floats(0, 2), st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_hue_and_saturation_keep_greys_and_brightness(degrees, factor, grey):
    luma = np.array((0.299, 0.587, 0.114))
    for matrix in (colour.rotate_hue(np.zeros(3), degrees), colour.saturate(np.zeros(3), factor)):
        assert np.allclose(matrix[:3, :3] @ np.full(3, float(grey)), grey)
        assert np.allclose(luma @ matrix[:3, :3], luma)


def test_contrast_keeps_the_mean_and_grayscale_removes_colour():
    pixels = smooth()
    flatter = cv2.transform(pixels, colour.spread(np.array(cv2.mean(pixels)[:3]), 0.5)[:3])
    luma = np.array((0.299, 0.587, 0.114))
    assert np.isclose((flatter @ luma).mean(), (pixels @ luma).mean(), atol=0.6)
    assert np.isclose(flatter.std(axis=(0, 1)).mean(), pixels.std(axis=(0, 1)).mean() / 2, rtol=0.05)
    grey = one("grayscale", probability=1)(pixels, address(0, 0, 0))
    assert np.ptp(grey.astype(int), axis=2).max() <= 1


def test_noise_has_the_strength_asked_for():
    flat = np.full((200, 200, 3), 128, np.uint8)
    step = AUGMENTATIONS["noise"].make(sigma=0.1, probability=1)
    drawn = max(float(step.draw(address(0, 0, i), flat).astype(float).std()) for i in range(40))
    assert 22 < drawn <= 25.5 + 0.5


def test_erasing_covers_the_area_asked_for():
    flat = np.full((100, 100, 3), 50, np.uint8)
    step = AUGMENTATIONS["erasing"].make(area=(0.1, 0.1), ratio=(1.0, 1.0), probability=1)
    covered = (step.draw(address(0, 0, 1), flat) != 50).any(axis=2)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    assert 30 <= len(rows) <= 32
    assert 30 <= len(columns) <= 32


def test_tone_steps_do_what_they_are_named_for():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    rng = address(0, 0, 0)
    assert len(np.unique(AUGMENTATIONS["posterize"].make(bits=3).draw(rng, pixels))) == 8
    solarized = AUGMENTATIONS["solarize"].make(threshold=200).draw(rng, pixels)
    assert np.array_equal(solarized[pixels < 200], pixels[pixels < 200])
    assert np.array_equal(solarized[pixels >= 200], 255 - pixels[pixels >= 200])
    stretched = AUGMENTATIONS["autocontrast"].make().draw(rng, pixels // 2 + 50)
    assert (stretched.min(), stretched.max()) == (0, 255)


# Recipes, presets, addresses


def test_all_mistakes_of_a_recipe_come_at_once():
    entries = [
        {"name": "rotaton"},
        {"name": "rotation", "degres": 3},
        {"name": "random_resized_crop", "scale": [0.9, 0.2]},
        {"degrees": 4},
        {"name": "blur", "probability": 2},
        {"name": "hue"},
    ]
    with pytest.raises(RecipeError) as caught:
        build_augmentation(entries, SIZE)
    assert len(caught.value.causes) == 5
    for number, words in enumerate(
        ("did you mean rotation?", "did you mean degrees?", "comes first", "needs a name", "at most 1")
    ):
        assert f"step {number + 1}: " in caught.value.causes[number]
        assert words in caught.value.causes[number]


def test_order_of_geometry_does_not_depend_on_what_stands_between():
    pixels = smooth()
    plain = [{"name": "rotation"}, {"name": "shear"}]
    matrices = []
    for steps in (plain, [*plain, {"name": "noise", "probability": 1}]):
        rng = address(0, 0, 0)
        rng.random(3 - len(steps))  # one chance is drawn for every step before any matrix
        matrices.append(build_augmentation(steps, SIZE).with_matrix(pixels, rng)[1])
    assert np.allclose(*matrices)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_valid_and_vary(name):
    augmentation = build_augmentation(PRESETS[name], SIZE)
    pixels = smooth()
    views = {augmentation(pixels, address(0, epoch, 0)).tobytes() for epoch in range(6)}
    assert len(views) == (1 if name == "none" else 6)


def test_presets_grow_stronger_and_light_keeps_meaning():
    pixels = smooth(60, 60)
    clean = clean_view(pixels, SIZE)
    strength = {
        name: np.mean(
            [difference(build_augmentation(steps, SIZE)(pixels, address(0, 0, i)), clean) for i in range(60)]
        )
        for name, steps in PRESETS.items()
    }
    assert strength["none"] == 0 < strength["light"] < strength["medium"] < strength["heavy"]
    mirrored = {name: any("flip" in entry["name"] for entry in steps) for name, steps in PRESETS.items()}
    assert mirrored == {"none": False, "light": False, "medium": True, "heavy": True}
    for position in range(30):
        matrix = build_augmentation(PRESETS["light"], SIZE).with_matrix(pixels, address(0, 0, position))[1]
        assert np.linalg.det(matrix) > 0


@given(
    st.lists(
        st.tuples(*[st.integers(0, 2**40)] * 3, st.sampled_from(Lane)), min_size=2, max_size=6, unique=True
    )
)
@settings(max_examples=50, deadline=None)
def test_addresses_are_told_apart_and_found_again(places):
    draws = [address(s, e, p, lane=lane).random(4).tolist() for s, e, p, lane in places]
    assert (
        draws == [address(s, e, p, lane=lane).random(4).tolist() for s, e, p, lane in reversed(places)][::-1]
    )
    assert len({tuple(numbers) for numbers in draws}) == len(places)


def test_neighbouring_addresses_look_independent():
    for axis in range(3):
        first = [address(*[i if axis == k else 5 for k in range(3)]).random() for i in range(2000)]
        assert abs(np.mean(first) - 0.5) < 0.03
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
def test_policies_use_all_their_operations(name):
    pixels = smooth()
    step = AUGMENTATIONS[name].make()
    steps = [s for i in range(300) for s in step.draw(address(0, 0, i))]
    assert len({type(s) for s in steps}) == 3
    views = {one(name)(pixels, address(0, 0, i)).tobytes() for i in range(60)}
    assert len(views) > 25


def test_policies_leave_the_image_alone_at_no_strength():
    step = AUGMENTATIONS["rand_augment"].make(magnitude=0)
    pixels = smooth()
    untouched = 0
    for position in range(40):
        view = Augmentation((step,), View(SIZE))(pixels, address(0, 0, position))
        untouched += difference(view, clean_view(pixels, SIZE)) < 0.5
    # Autocontrast and equalize have no strength: 2 of 14 operations, two drawn an image.
    assert 20 <= untouched < 40


def test_preview_shows_the_clean_view_and_then_the_epochs():
    augmentation = build_augmentation(PRESETS["medium"], SIZE)
    pictures = [smooth(40, 60, 1), smooth(70, 33, 2)]
    sheet = preview_grid(pictures, augmentation, views=3, seed=5)
    assert sheet.dtype == np.uint8
    assert np.array_equal(sheet[:SIZE, :SIZE], clean_view(pictures[0], SIZE))
    assert np.array_equal(sheet[-SIZE:, -SIZE:], augmentation(pictures[1], address(5, 2, 1)))
    assert (sheet[SIZE] == 255).all()
    assert np.array_equal(sheet, preview_grid(pictures, augmentation, views=3, seed=5))
