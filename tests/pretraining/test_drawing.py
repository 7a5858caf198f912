"""Pictures by address, and whether their labels say what is on them."""

from __future__ import annotations

import numpy as np
import pytest
from pretraining.bank import COLOURS, RENEWAL, Bank
from pretraining.loader import DrawnLoader
from pretraining.scenes import CONTENTS, TEXTURE_COUNTS, Content, colour_kind, draw
from pretraining.shapes import SHAPES
from pretraining.textures import TEXTURES

from pictune.data.augmentation import address
from pretraining import scenes


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank(variants=2, most=2).at(0)


def loader(bank: Bank, *, content: str = "mixture", shared: bool = True, seed: int = 0) -> DrawnLoader:
    return DrawnLoader(bank, CONTENTS[content], 24, 8, lambda epoch: 32 + 16 * epoch, shared, seed)


def test_a_picture_is_known_by_its_address(bank: Bank) -> None:
    drawn = [draw(address(3, 1, 7), bank, size=48, content=Content()) for _ in range(2)]
    other = draw(address(3, 1, 8), bank, size=48, content=Content())
    assert (drawn[0][0] == drawn[1][0]).all()
    assert drawn[0][1] == drawn[1][1]
    assert (drawn[0][0] != other[0]).mean() > 0.5


def test_an_epoch_that_starts_in_its_middle_goes_on_with_the_same_pictures(bank: Bank) -> None:
    whole = list(loader(bank).batches(0))
    rest = list(loader(bank).batches(0, start=2))
    assert len(whole) == len(loader(bank)) == 3
    assert len(rest) == 1
    assert (rest[0].images == whole[2].images).all()
    assert (rest[0].targets == whole[2].targets).all()
    assert rest[0].positions.tolist() == list(range(16, 24))


def test_epochs_and_seeds_show_other_pictures_and_sizes_follow_the_epoch(bank: Bank) -> None:
    first, second = (next(loader(bank).batches(epoch)) for epoch in (0, 1))
    elsewhere = next(loader(bank, seed=1).batches(0))
    assert first.images.shape == (8, 32, 32, 3)
    assert second.images.shape == (8, 48, 48, 3)
    assert (elsewhere.images != first.images).mean() > 0.5
    bank.at(0)


def test_a_bank_is_the_same_whichever_way_an_epoch_is_reached() -> None:
    walked = Bank(variants=2, most=1)
    before = walked.at(0).sprites.copy()
    for epoch in range(1, RENEWAL + 1):
        walked.at(epoch)
    jumped = Bank(variants=2, most=1).at(RENEWAL)
    assert (walked.sprites == jumped.sprites).all()
    assert (walked.textures == jumped.textures).all()
    # All has been drawn anew by then, and looks like its class without being the same.
    changed = (walked.sprites != before).reshape(len(before), 2, -1).any(-1)
    assert changed.mean() > 0.8


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_shape_covers_a_part_and_its_drawings_differ(name: str) -> None:
    family, _ = SHAPES[name]
    first, second = (family(address(0, 0, 4), address(0, 1, n), 64) for n in range(2))
    assert first.shape == (64, 64, 2)
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert 0.02 < first[..., 0].mean() < 0.95
    assert (first != second).any()


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_a_texture_uses_its_range_and_its_drawings_differ(name: str) -> None:
    family, _ = TEXTURES[name]
    first, second = (family(address(0, 0, 4), address(0, 1, n), 64) for n in range(2))
    assert first.shape == (64, 64)
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-6
    assert first.std() > 0.02
    assert (first != second).mean() > 0.05


def test_labels_name_what_may_be_shown_and_its_family(bank: Bank) -> None:
    shapes = len(bank.sprites)
    kinds = {"shapes": set(range(shapes)), "textures": set(range(shapes, len(bank.family)))}
    for content, allowed in kinds.items():
        seen: set[int] = set()
        for number in range(60):
            _, found = draw(address(0, 0, number), bank, size=48, content=CONTENTS[content])
            classes = {n for n in found if n < len(bank.family)}
            assert classes <= allowed
            families = {n for n in found if len(bank.family) <= n < bank.first_colour}
            assert families == {int(bank.family[n]) for n in classes}
            assert all(found[n] == (1.0 if n < shapes else TEXTURE_COUNTS) for n in classes)
            seen |= classes
        assert len(seen) > len(allowed) / 2


def test_what_is_hidden_is_not_named(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture-wide object in front hides all that was placed before it."""
    canvas = scenes._Canvas(address(0, 0, 0), bank, 48, Content(bare=1.0))
    canvas.ground()
    canvas.object(0, 0.8, 0)
    assert 0 in canvas.labels()
    full = np.full((48, 48), 255, np.uint8)
    monkeypatch.setattr(canvas, "posed", lambda kind, span: (full, full))
    canvas.object(3, 0.8, 0)
    assert {n for n in canvas.labels() if n < len(bank.sprites)} == {3}


def test_targets_sum_to_one_where_they_are_shared_and_are_yes_or_no_otherwise(bank: Bank) -> None:
    shared = next(loader(bank).batches(0)).targets
    single = next(loader(bank, shared=False).batches(0)).targets
    assert np.allclose(shared.sum(1), 1)
    assert set(np.unique(single)) == {0.0, 1.0}
    assert ((shared > 0) == (single > 0)).all()


def test_the_colours_of_ground_and_object_are_named_apart(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = scenes._Canvas(address(0, 0, 0), bank, 48, Content(bare=1.0))
    canvas.ground()
    canvas.object(0, 0.8, 0)
    picture = np.full((48, 48, 3), (30, 60, 200), np.uint8)
    picture[canvas.owner > 1] = (220, 30, 40)
    ground, thing = (
        bank.first_colour + n for n in (colour_kind(30, 60, 200), COLOURS + colour_kind(220, 30, 40))
    )
    assert set(canvas.colours(picture)) == {ground, thing}
    assert bank.names[ground].startswith("ground-colour")
    assert bank.names[thing].startswith("object-colour")


def test_kinds_of_colour_are_told_by_hue_and_lightness() -> None:
    told = [colour_kind(*rgb) for rgb in ((20, 20, 25), (120, 120, 120), (250, 250, 250))]
    assert told == [0, 1, 2]
    hues = [
        colour_kind(*rgb) for rgb in ((255, 0, 20), (255, 255, 0), (0, 255, 0), (0, 200, 255), (160, 0, 255))
    ]
    assert len(set(hues)) == 5
    assert colour_kind(200, 20, 30) != colour_kind(255, 150, 155)
    assert all(0 <= colour_kind(*rgb) < COLOURS for rgb in np.random.default_rng(0).uniform(0, 255, (500, 3)))


def test_colour_does_not_give_the_class_away(bank: Bank) -> None:
    """Mean colours tell shapes hardly better than chance."""
    rows, kinds = [], []
    for number in range(700):
        picture, found = draw(address(5, 0, number), bank, size=32, content=CONTENTS["shapes"])
        shapes = [n for n in found if n < len(bank.sprites)]
        if len(shapes) == 1:
            rows.append(picture.reshape(-1, 3).mean(0) / 255)
            kinds.append(shapes[0])
    features, labels = np.array(rows), np.array(kinds)
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert len(labels) > 300
    assert (labels[distance.argmin(1)] == labels).mean() < 0.15  # chance is 0.05
