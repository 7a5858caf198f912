"""Drawings take the place of drawings, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pictune.errors import DataError, RunError
from pictune.verbs.drawings import Drawings

RED = np.full((4, 6, 3), (255, 0, 0), np.uint8)


def test_names_numbers_and_pixels(tmp_path: Path) -> None:
    drawings = Drawings.into(tmp_path / "a" / "drawn", untouched=[], names=["a.jpg", "a.png"])
    for name in ("a.jpg", "a.png", "x" * 200 + ".jpg"):
        drawings.add(name, RED)
    assert [path.name for path in drawings.paths] == [
        "00001-a.png",
        "00002-a.png",
        f"00003-{'x' * 80}.png",
    ]
    found = cv2.imread(str(drawings.paths[0]))
    assert found is not None
    assert found.tolist() == RED[..., ::-1].tolist()


def test_drawings_of_an_earlier_time_are_replaced(tmp_path: Path) -> None:
    Drawings.into(tmp_path, untouched=[], names=["a.jpg"]).add("a.jpg", RED)
    again = Drawings.into(tmp_path, untouched=[], names=["a.jpg"])
    again.add("a.jpg", 255 - RED)
    assert cv2.imread(str(again.paths[0])).tolist() == (255 - RED)[..., ::-1].tolist()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["text", "picture", "folder"])
def test_what_is_no_drawing_is_left_alone(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "00001-a.png"
    if kind == "folder":
        place.mkdir()
    elif kind == "text":
        place.write_text("mine")
    else:
        cv2.imwrite(str(place), RED)
    with pytest.raises(RunError, match=r"00001-a\.png would be replaced"):
        Drawings.into(tmp_path, untouched=[], names=["a.jpg"])
    assert Drawings.into(tmp_path, untouched=[], names=["b.jpg"]).paths == []


def test_not_among_the_pictures_nor_beside_one_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture = tmp_path / "photos" / "a.jpg"
    picture.write_bytes(b"")
    for folder in ("photos", "photos/drawn"):
        with pytest.raises(DataError, match="would lie inside") as refused:
            Drawings.into(tmp_path / folder, untouched=[tmp_path / "photos"], names=["a.jpg"])
        assert refused.value.code == "inside_data"
    with pytest.raises(DataError, match=r"photos holds a\.jpg") as refused:
        Drawings.into(tmp_path / "photos", untouched=[picture], names=["a.jpg"])
    assert refused.value.code == "inside_data"
    Drawings.into(tmp_path, untouched=[tmp_path / "photos"], names=["a.jpg"])  # beside a folder they may be
    Drawings.into(tmp_path / "photos" / "drawn", untouched=[picture], names=["a.jpg"])
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a.jpg", "drawn"]
