"""Evaluations hold counts, not answers: memory stays small however many pictures there are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictune.data.sample import Boxes, Legend, Mask
from pictune.tasks.detection import Detection
from pictune.tasks.segmentation import Segmentation

IMAGES, SIDE = 400, 160


def peak_of(work) -> int:
    """Bytes at the most while it works, above what there was before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_maps_are_counted_and_let_go(tmp_path: Path) -> None:
    known = np.zeros((SIDE, SIDE), np.uint8)
    known[40:80, 40:80] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), known)
    mask = Mask(tmp_path / "mask.png", Legend({0: "a", 1: "b"}), ("a", "b"))
    alive: list[int] = []

    def answers() -> Iterator[np.ndarray]:
        for number in range(IMAGES):
            alive.append(number)
            yield np.roll(known, number % 5, axis=0)

    keys = [str(number) for number in range(IMAGES)]
    task = Segmentation(("a", "b"))
    peak = peak_of(lambda: task.score(keys, answers(), [mask] * IMAGES, None))
    assert len(alive) == IMAGES
    assert peak < 0.3 * IMAGES * SIDE**2  # all maps together would be IMAGES * SIDE^2 bytes


@pytest.mark.parametrize("images", [200, 2000])
def test_boxes_are_rows_of_arrays(images: int) -> None:
    rows = np.tile(np.array([[0, 0.5, 1, 1, 9, 9]]), (30, 1))
    truth = Boxes(("a",), np.array([[1.0, 1, 9, 9]]))
    task = Detection(("a",), canvas=(32, 32))
    keys = [str(number) for number in range(images)]
    peak = peak_of(lambda: task.score(keys, (rows for _ in keys), [truth] * images, None))
    assert peak < images * 30 * 200  # bytes a box; a Python object for each number would take a thousand
