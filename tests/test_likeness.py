"""The comparison by which exports are held against runs notices what is not the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from likeness import Likeness, likeness
from odd_files import KINDS, SHAPES, odd_file
from pictune.data.decoding import decode
from pictune.data.sample import Boxes, ClassMap, Labels
from pictune.tasks.task import Prediction

LABELS = Prediction("a", Labels(("cat",)), {"cat": 0.75, "dog": 0.25})
BOXES = Prediction(
    "b",
    Boxes(("cat", "dog", "cat"), np.array([[0.0, 0, 9, 9], [4, 4, 20, 20], [30, 30, 40, 40]])),
    {"cat": 0.9, "dog": 0.8},
    scores=(0.9, 0.8, 0.7),
)
MASK = Prediction("c", ClassMap(("ground", "cat"), np.eye(4, dtype=np.uint8)), {"ground": 0.75, "cat": 0.25})


def compared(one: Prediction, **changed: object) -> Likeness:
    return likeness([one], [replace(one, **changed)])


@pytest.mark.parametrize(("one", "count"), [(LABELS, 1), (BOXES, 3), (MASK, 4)])
def test_the_same_is_the_same(one: Prediction, count: int) -> None:
    found = compared(one)
    assert found.same
    assert (found.pictures, found.compared, found.confidence, found.coordinate) == (1, count, 0, 0)


def test_nothing_is_not_the_same() -> None:
    assert not likeness([], []).same
    nothing = Prediction("a", Boxes((), np.zeros((0, 4))), {})
    assert not compared(nothing).same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LABELS, Labels(("dog",))),
        (BOXES, Boxes(("cat", "dog", "dog"), BOXES.annotation.corners)),
        (BOXES, Boxes(("cat", "dog"), BOXES.annotation.corners[:2])),
        (MASK, ClassMap(("ground", "cat"), 1 - np.eye(4, dtype=np.uint8))),
    ],
)
def test_another_answer_is_told(one: Prediction, other: object) -> None:
    found = compared(one, annotation=other)
    assert not found.same
    assert found.differing == [one.key]


def test_how_far_it_is_apart() -> None:
    found = compared(LABELS, confidences={"dog": 0.5, "cat": 0.5})
    assert found.same
    assert found.confidence == 0.25
    moved = BOXES.annotation.corners + np.array([[0, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]])
    order = [2, 1, 0]
    turned = Boxes(("cat", "dog", "cat"), moved[order])
    found = compared(BOXES, annotation=turned, scores=(0.7, 0.8, 0.9))
    assert found.same
    assert (found.coordinate, found.confidence) == (0.5, 0)


def test_odd_files_are_of_every_kind_and_can_be_read() -> None:
    count = len(KINDS) * len(SHAPES)
    pictures = [decode(odd_file(number)[1]) for number in range(2 * count)]
    codes = {note.code for picture in pictures for note in picture.notes}
    assert {"rotated", "greyscale", "cmyk", "sixteen_bit", "palette", "transparency", "one_bit"} <= codes
    sides = [picture.pixels.shape[:2] for picture in pictures]
    assert any(max(pair) <= 16 for pair in sides)
    assert any(wide >= 5 * tall for tall, wide in sides)
    assert any(tall >= 5 * wide for tall, wide in sides)
    assert [odd_file(7), odd_file(80)] == [odd_file(7), odd_file(80)]
