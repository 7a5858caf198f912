from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictune.data import digits
from pictune.data.augmentation import warp_points
from pictune.data.digits import PICTURES_EACH, draw_digits
from pictune.errors import DataError


@pytest.fixture(scope="module")
def sources():
    return digits.load_sources()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw_digits(tmp_path_factory.mktemp("drawn") / "digits", images=90, size=32)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_table_names_every_picture(drawn):
    table = rows(drawn)
    assert list(table[0]) == ["path", "label", "group"]
    assert sorted(row["path"] for row in table) == sorted(
        f"images/{path.name}" for path in (drawn / "images").iterdir()
    )
    assert Counter(row["label"] for row in table) == {str(digit): 9 for digit in range(10)}
    for row in table[::7]:
        assert cv2.imread(str(drawn / row["path"])).shape == (32, 32, 3)


def test_a_group_is_one_handwriting_of_one_digit(drawn):
    table = rows(drawn)
    assert set(Counter(row["group"] for row in table).values()) == {PICTURES_EACH}
    assert len({(row["group"], row["label"]) for row in table}) == len({row["group"] for row in table})


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(drawn, tmp_path):
    again = draw_digits(tmp_path / "again", images=90, size=32)
    assert contents(again) == contents(drawn)
    other = draw_digits(tmp_path / "other", images=90, size=32, seed=1)
    assert not set(contents(other).values()) & {v for k, v in contents(drawn).items() if k.endswith("jpg")}


def test_it_is_drawn_once(drawn, monkeypatch):
    def refuse() -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(digits, "load_sources", refuse)
    assert draw_digits(drawn, images=90, size=32) == drawn


@pytest.mark.parametrize(
    "other", [{"images": 91, "size": 32}, {"images": 90, "size": 33}, {"images": 90, "size": 32, "seed": 1}]
)
def test_other_digits_are_not_passed_off_as_these(drawn, other):
    with pytest.raises(DataError, match="holds something else") as caught:
        draw_digits(drawn, **other)
    assert caught.value.code == "folder_taken"


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(DataError):
        draw_digits(tmp_path, images=10, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_digits(tmp_path / "digits", images=10, size=32)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    assert len(rows(draw_digits(tmp_path, images=5, size=16))) == 5


def test_the_ink_lies_where_the_placement_says(sources):
    for placement in digits.placements(sources, images=30, size=64, seed=2):
        ink = digits.coverage(placement, sources, width=64, height=64)
        assert ink.min() >= 0
        assert ink.max() > 0.9
        y, x = (np.mgrid[0:64, 0:64] + 0.5) * ink
        seen = np.array((x.sum(), y.sum())) / ink.sum()
        cells = sources.digits[placement.original]
        rows_, columns = (np.mgrid[0:8, 0:8] + 0.5) * cells
        centre = np.array([(columns.sum(), rows_.sum())]) / cells.sum()
        assert np.linalg.norm(warp_points(placement.matrix, centre)[0] - seen) < 5
        assert (ink[[0, -1]] > 0.5).mean() < 0.2  # hardly anything is cut off


def test_every_digit_stands_out_from_what_lies_behind(sources):
    luma = np.array((0.299, 0.587, 0.114))
    for placement in digits.placements(sources, images=60, size=48, seed=0):
        ink = digits.coverage(placement, sources, width=48, height=48)
        brightness = digits.draw(placement, sources, size=48) @ luma
        around = (cv2.dilate(ink, np.ones((5, 5))) > 0.05) & (ink < 0.05)
        assert abs(brightness[ink > 0.9].mean() - brightness[around].mean()) > 25


def test_more_pictures_than_handwritings_are_still_drawn(sources):
    many = 3 * 1797 + 50
    last = list(digits.placements(sources, images=many, size=16, seed=0))
    assert len(last) == many
    assert len({placement.original for placement in last}) <= 1797
