"""Boxes with names: no name hides another, and what lies below a name still shows."""

from __future__ import annotations

import numpy as np
import pytest

from pictune.tasks.drawing import draw_boxes

BLUE, RED = (20, 60, 220), (220, 60, 20)


def names_drawn(boxes: list[list[float]], *, height: int = 300, width: int = 400) -> list[np.ndarray]:
    """Where each name lies, each box in a colour of its own, on a white picture."""
    white = np.full((height, width, 3), 255, np.uint8)
    found = []
    for number in range(len(boxes)):
        shown = ["cell 0.50"] * len(boxes)
        whole = draw_boxes(white, np.array(boxes, float), [BLUE] * len(boxes), shown)
        colours = [BLUE] * len(boxes)
        colours[number] = RED
        other = draw_boxes(white, np.array(boxes, float), colours, shown)
        lines = draw_boxes(white, np.array(boxes, float), [BLUE] * len(boxes), [""] * len(boxes))
        found.append((whole != other).any(2) & (lines == 255).all(2))
    return found


@pytest.mark.parametrize(
    "boxes",
    [
        [[100, 100, 200, 200], [110, 104, 210, 204]],
        [[0, 0, 90, 90], [0, 4, 92, 94], [2, 0, 94, 92]],
        [[300, 200, 400, 300], [304, 206, 400, 300]],
    ],
)
def test_no_name_hides_another(boxes: list[list[float]]) -> None:
    found = names_drawn(boxes)
    assert all(name.sum() > 100 for name in found)
    assert np.stack(found).sum(0).max() == 1


def test_a_name_stands_above_its_box_where_there_is_room() -> None:
    rows, columns = np.nonzero(names_drawn([[100, 100, 200, 200]])[0])
    assert rows.max() < 100
    assert columns.min() >= 99


@pytest.mark.parametrize("box", [[0, 0, 400, 300], [-50, -50, 900, 900], [390, 290, 500, 400], [5, 5, 5, 5]])
def test_a_name_stays_in_the_picture(box: list[float]) -> None:
    assert names_drawn([box])[0].sum() > 100


def test_a_line_below_a_name_still_shows() -> None:
    grey = np.full((400, 400, 3), 128, np.uint8)
    boxes = np.array([[0, y, 400, y + 6] for y in range(0, 400, 12)])  # a name must lie on lines
    colours, names = [RED] * len(boxes), [""] * len(boxes)
    colours[15] = BLUE
    lines = draw_boxes(grey, boxes, colours, names)
    names[15] = "cell 0.50"
    named = draw_boxes(grey, boxes, colours, names)
    under = (named != lines).any(2)
    on_lines, between = under & (lines == RED).all(2), under & (lines == 128).all(2)
    assert on_lines.sum() > 20
    assert between.sum() > 20
    assert np.median(named[on_lines], axis=0)[0] > np.median(named[between], axis=0)[0] + 20


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 200), (200, 3)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    assert draw_boxes(picture, np.array([[0, 0, 3, 3]]), [RED], ["a long name"]).shape == picture.shape
    assert not picture.any()
