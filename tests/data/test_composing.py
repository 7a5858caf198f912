"""One picture made of several, with all that lies on them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data.augmentation import COMPOSITIONS, Composition, Lane, Piece, address
from pictune.errors import RecipeError

# Corners of the colour cube: each is told from all others, and from black, even where it is half blended.
COLOURS = np.array([[255 * (c >> k & 1) for k in range(3)] for c in range(8)], np.uint8)
JOINING = [name for name in COMPOSITIONS if name != "none"]


def painted(
    classes: list[int], *, size=(90, 60), seed: int = 0, crowd: tuple[int, ...] = (), masks=False
) -> Piece:
    """Black, with one box of its own colour for each class; boxes don't touch."""
    rng = np.random.default_rng(seed)
    (width, height), room = size, size[0] // len(classes)
    pixels, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    rows = []
    for number, label in enumerate(classes):
        left = number * room + int(rng.integers(3, 6))
        right = (number + 1) * room - int(rng.integers(3, 6))
        top, bottom = int(rng.integers(3, height // 3)), int(rng.integers(height // 2, height - 3))
        pixels[top:bottom, left:right] = COLOURS[label]
        mask[top:bottom, left:right] = label
        rows.append((label, left, top, right, bottom, label in crowd))
    return Piece(pixels, np.array(rows, np.float32).reshape(-1, 6), mask if masks else None)


def four(seed: int, **given: object) -> list[Piece]:
    sizes = ((90, 60), (70, 80), (60, 60), (120, 50))
    classes = ([1, 2], [3, 4], [5, 6], [7])
    return [
        painted(list(c), size=size, seed=seed + i, **given)
        for i, (c, size) in enumerate(zip(classes, sizes, strict=True))
    ]


def found(pixels: np.ndarray, label: int) -> np.ndarray | None:
    """The box around a colour, where the picture shows it."""
    seen = (((pixels > 127) * 255) == COLOURS[label]).all(axis=-1)
    if not seen.any():
        return None
    rows, columns = np.nonzero(seen)
    return np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))


def same(one: Piece, other: Piece) -> bool:
    masks = [piece.mask is None for piece in (one, other)]
    return (
        np.array_equal(one.pixels, other.pixels)
        and np.array_equal(one.boxes, other.boxes)
        and masks[0] == masks[1]
        and (one.mask is None or np.array_equal(one.mask, other.mask))
    )


# The contract of every part of the table


@pytest.mark.parametrize("name", list(COMPOSITIONS))
@pytest.mark.parametrize("masks", [False, True])
@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_every_composition_keeps_size_and_kinds_and_its_inputs(name, masks, seed):
    part = COMPOSITIONS[name]
    composition = part.make() if name == "none" else part.make(probability=1)
    pieces = four(seed % 97, masks=masks)[: composition.count]
    before = pickle.loads(pickle.dumps(pieces))
    composed = composition(pieces, address(seed, 0, 0, lane=Lane.COMPOSITION))
    assert composed.pixels.shape == (60, 90, 3)
    assert composed.pixels.dtype == np.uint8
    assert composed.boxes.dtype == np.float32
    assert (composed.boxes[:, 1:5] >= 0).all()
    assert (composed.boxes[:, 1:5] <= (90, 60, 90, 60)).all()
    assert (composed.boxes[:, 3:5] - composed.boxes[:, 1:3] >= 1 - 1e-4).all()
    assert (composed.mask is not None) == masks
    if masks:
        assert composed.mask.shape == (60, 90)
        assert composed.mask.dtype == np.uint8
    assert all(same(*pair) for pair in zip(pieces, before, strict=True))
    again = pickle.loads(pickle.dumps(composition))
    assert same(again(pieces, address(seed, 0, 0, lane=Lane.COMPOSITION)), composed)


@pytest.mark.parametrize("name", JOINING)
def test_probability_decides(name):
    never, always = COMPOSITIONS[name].make(probability=0), COMPOSITIONS[name].make(probability=1)
    pieces = four(0)[: always.count]
    rng = address(0, 0, 0)
    assert never(pieces, rng) is pieces[0]
    assert rng.random() == address(0, 0, 0).random()  # the generator was not touched
    assert not np.array_equal(always(pieces, address(0, 0, 0)).pixels, pieces[0].pixels)
    half = COMPOSITIONS[name].make(probability=0.5)
    joined = sum(half(pieces, address(0, 0, i)) is not pieces[0] for i in range(60))
    assert 15 < joined < 45


def test_partners_are_asked_for_only_when_they_are_needed():
    class Asked(list):
        def __getitem__(self, place):
            seen.append(place)
            return super().__getitem__(place)

    seen: list[int] = []
    for name in COMPOSITIONS:
        part = COMPOSITIONS[name]
        composition = part.make() if name == "none" else part.make(probability=0)
        composition(Asked(four(0)), address(0, 0, 0))
    assert set(seen) == {0}


def test_none_is_one_picture_and_settings_are_checked():
    none = COMPOSITIONS["none"].make()
    assert isinstance(none, Composition)
    assert none.count == 1
    for name, settings_given in (("mosaic", {"centre": (0.7, 0.3)}), ("copy_paste", {"factor": (2, 1)})):
        with pytest.raises(RecipeError, match="cannot be made"):
            COMPOSITIONS[name].make(**settings_given)


@pytest.mark.parametrize("name", JOINING)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_tiny_pictures_and_pictures_without_boxes_are_taken(name, size):
    composition = COMPOSITIONS[name].make(probability=1)
    bare = Piece(np.full((size[1], size[0], 3), 9, np.uint8), np.zeros((0, 6), np.float32))
    for position in range(5):
        for pieces in ([bare] * 4, [bare, *four(0)[1:]], [four(0)[0], bare, bare, bare]):
            composed = composition(pieces[: composition.count], address(0, 0, position))
            assert composed.pixels.shape == pieces[0].pixels.shape
            assert composed.boxes.shape[1] == 6


# Boxes match pixels


@pytest.mark.parametrize("name", JOINING)
@given(st.integers(0, 10**6))
@settings(max_examples=120, deadline=None)
def test_every_box_is_around_its_colour(name, seed):
    composition = COMPOSITIONS[name].make(probability=1)
    composed = composition(four(seed % 31)[: composition.count], address(seed, 0, 0))
    labels = composed.boxes[:, 0].astype(int).tolist()
    assert len(set(labels)) == len(labels)
    for label, *corners, _ in composed.boxes.tolist():
        seen = found(composed.pixels, int(label))
        assert seen is not None
        assert np.abs(seen - corners).max() <= 1
    if name == "mosaic":  # in whose pictures nothing is shown but what is in a box
        for label in set(range(1, 8)) - set(labels):
            seen = found(composed.pixels, label)
            assert seen is None or (seen[2:] - seen[:2]).min() <= 2


@pytest.mark.parametrize("name", JOINING)
@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_masks_match_pixels(name, seed):
    composition = COMPOSITIONS[name].make(probability=1)
    pieces = [Piece(p.pixels, np.zeros((0, 6), np.float32), p.mask) for p in four(seed % 31, masks=True)]
    composed = composition(pieces[: composition.count], address(seed, 0, 0))
    shown = (composed.pixels > 127) @ np.array((1, 2, 4))
    assert (shown != composed.mask).mean() < 0.04  # along the borders linear and nearest differ
    assert (composed.mask < 8).all()


def test_mosaic_shows_all_four_in_every_order():
    pieces = [Piece(np.full((40, 60, 3), 50 * (i + 1), np.uint8), np.zeros((0, 6))) for i in range(4)]
    mosaic, orders, centres = COMPOSITIONS["mosaic"].make(probability=1), set(), set()
    for position in range(80):
        pixels = mosaic(pieces, address(0, 0, position)).pixels[..., 0]
        corners = (pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1])
        assert sorted(corners) == [50, 100, 150, 200]
        assert np.isin(pixels, corners).all()
        orders.add(corners)
        centres.add((int((pixels[0] == pixels[0, 0]).sum()), int((pixels[:, 0] == pixels[0, 0]).sum())))
    assert len(orders) > 15
    across, down = np.array(sorted(centres)).T
    assert 18 <= across.min() < 24 < 36 < across.max() <= 42
    assert 12 <= down.min() < 16 < 24 < down.max() <= 28


def test_an_object_of_which_little_is_shown_becomes_a_crowd():
    whole = painted([1], size=(60, 60))
    half = COMPOSITIONS["mosaic"].make(probability=1, centre=(0.5, 0.5), zoom=(4, 4))
    kinds = set()
    for position in range(40):
        composed = half([whole] * 4, address(0, 0, position))
        kinds |= set(composed.boxes[:, 5].tolist())
        left, top, right, bottom = whole.boxes[0, 1:5]
        shown = np.prod(composed.boxes[:, 3:5] - composed.boxes[:, 1:3], axis=1) / 4
        share = shown / ((right - left) * (bottom - top))  # a quarter is magnified four times half the size
        assert ((share < 0.2 + 1e-4) == (composed.boxes[:, 5] == 1)).all()
    assert kinds <= {0.0, 1.0}
    assert 1.0 in kinds


# Crowds, companions, background


@given(st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_no_crowd_is_lost_while_it_is_in_view(seed):
    pieces = four(seed % 31, crowd=(1, 3, 5, 7))
    for name in JOINING:
        composition = COMPOSITIONS[name].make(probability=1)
        composed = composition(pieces[: composition.count], address(seed, 0, 0))
        kept = {int(row[0]): bool(row[5]) for row in composed.boxes}
        assert all(crowd for label, crowd in kept.items() if label % 2 == 1)
        for label in (1, 3, 5, 7):
            seen = found(composed.pixels, label)
            if seen is not None and (seen[2:] - seen[:2] >= 3).all():
                assert label in kept
        if name == "copy_paste":
            assert 3 not in kept  # a crowd is not an object to paste


def test_what_lies_in_a_pasted_box_comes_along_and_what_reaches_into_it_does_not():
    other = painted([2])
    _, left, top, right, bottom, _ = other.boxes[0].tolist()
    rows = [
        (2, left, top, right, bottom, 0),
        (3, left + 2, top + 2, left + 8, top + 8, 1),  # a crowd inside
        (4, left - 3, top, left + 2, bottom, 0),  # mostly outside
    ]
    crowded = Piece(other.pixels, np.array(rows, np.float32))
    paste = COMPOSITIONS["copy_paste"].make(probability=1, share=0.5, largest=1)
    seen = set()
    for position in range(60):
        composed = paste([painted([1]), crowded], address(0, 0, position))
        labels = composed.boxes[:, 0].astype(int).tolist()
        if 2 in labels and 3 in labels:
            row = {label: composed.boxes[labels.index(label)] for label in (2, 3)}
            assert (row[3][1:3] >= row[2][1:3] - 1e-3).all()
            assert (row[3][3:5] <= row[2][3:5] + 1e-3).all()
            assert row[3][5] == 1
        seen.add(frozenset(labels) - {1})
    assert {2, 3} in seen
    assert {2, 3, 4} in seen
    assert {3} not in seen
    assert {3, 4} not in seen


def test_background_is_not_pasted():
    other = painted([2, 3], masks=True)
    for largest in (0.01, 1.0):
        paste = COMPOSITIONS["copy_paste"].make(probability=1, largest=largest, share=1, factor=(1, 1))
        below = painted([1], masks=True)
        composed = paste([below, other], address(0, 0, 0))
        assert set(composed.boxes[:, 0].astype(int)) == ({1} if largest < 1 else {1, 2, 3})
    regions = Piece(other.pixels, np.zeros((0, 6), np.float32), other.mask)
    bare = Piece(below.pixels, np.zeros((0, 6), np.float32), np.ones_like(below.mask))
    paste = COMPOSITIONS["copy_paste"].make(probability=1, largest=0.4, share=1, factor=(1, 1))
    assert set(np.unique(paste([bare, regions], address(0, 0, 0)).mask)) == {
        1,
        2,
        3,
    }  # without black, class 0


def test_pixels_of_no_class_are_not_pasted():
    other, below = painted([2, 3], masks=True), painted([1], masks=True)
    nobody = np.where(other.mask == 0, 255, other.mask).astype(np.uint8)
    none = np.zeros((0, 6), np.float32)
    paste = COMPOSITIONS["copy_paste"].make(probability=1, largest=1, share=1, factor=(1, 1))
    pieces = [Piece(below.pixels, none, below.mask), Piece(other.pixels, none, nobody)]
    composed = paste(pieces, address(0, 0, 0))
    assert set(np.unique(composed.mask)) == {0, 1, 2, 3}
    kept = ~np.isin(composed.mask, (2, 3))
    assert np.array_equal(composed.pixels[kept], below.pixels[kept])


def test_what_is_covered_is_cut_and_becomes_a_crowd_where_too_little_is_left():
    def box_on_black(box: tuple[int, ...], label: int) -> Piece:
        pixels = np.zeros((60, 90, 3), np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = COLOURS[label]
        return Piece(pixels, np.array([(label, *box, 0)], np.float32))

    paste = COMPOSITIONS["copy_paste"].make(probability=1, share=1, factor=(1, 1), largest=1)
    above = box_on_black((30, 0, 90, 60), 2)
    for box, expected in (
        ((10, 10, 40, 20), (10, 10, 30, 20, 0)),  # cut at the right
        ((10, 10, 29, 20), (10, 10, 29, 20, 0)),  # beside it
        ((26, 10, 86, 20), (26, 10, 30, 20, 1)),  # too little is left
        ((30, 10, 86, 20), None),
    ):
        composed = paste([box_on_black(box, 1), above], address(0, 0, 0))
        left = composed.boxes[composed.boxes[:, 0] == 1, 1:]
        assert left.tolist() == ([] if expected is None else [list(map(float, expected))])
