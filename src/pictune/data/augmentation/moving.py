"""What lies on a picture moves with its pixels, by the same matrix, and what lies on a view moves back.

Shapes: b boxes; corners [b, 4] are left, top, right, bottom in pixels; h, w pixels of the picture, H, W of
the canvas; k classes. A picture covers 0..w and 0..h, as in ``view``; matrices are 3x3, from points of the
picture to points of the canvas.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.steps import Corners, Matrix
from pictune.data.augmentation.view import averaged_down, warp

LEAST_SHARE = 0.2  # of a box's area must stay in view, or the box is dropped
LEAST_SIDE = 1.0  # pixels

Floats = NDArray[np.float64]

_SLACK = 1e-6  # pixels of the picture by which rounding may put a point on the wrong side of a line
_FIRST, _SECOND = np.array(list(combinations(range(8), 2))).T  # the pairs of 8 lines


def move_boxes(
    corners: Corners,
    matrix: Matrix,
    width: int,
    height: int,
    *,
    least_share: float | Floats = LEAST_SHARE,
    least_side: float = LEAST_SIDE,
    from_size: tuple[int, int] | None = None,
) -> tuple[Corners, NDArray[np.int64]]:
    """Boxes in a view of the picture that they lie on.

    A moved box is the smallest upright one around what the canvas shows of the old one. For an object that
    fills its box this is exact, also where a turned box is cut off at an edge; for a round one that was
    turned it is an upper bound. What a tilt puts behind the observer is not shown.

    Args:
        corners: [b, 4] on the picture.
        matrix: 3x3, from points of the picture to points of the canvas.
        width: Of the canvas, pixels.
        height: Of the canvas, pixels.
        least_share: A box of whose area, on the picture, less than this share is shown is dropped; one
            number, or [b] one for each box. A box without area is always dropped.
        least_side: A box with a side shorter than this is dropped, pixels of the canvas.
        from_size: Width and height of the picture: what a box has beyond its edges is cut off beforehand
            and counts nowhere. None leaves boxes as they are.

    Returns:
        [b', 4] on the canvas, and the numbers [b'] of the boxes that were kept.
    """
    if from_size is not None:
        corners = np.clip(corners, 0, np.array(from_size * 2))
    points, shown = _crossings(_sides(corners, matrix, width, height))
    flat = np.concatenate([points, np.ones((*shown.shape, 1))], axis=2) @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not shown may be infinitely far away
        seen = flat[..., :2] / flat[..., 2:]
    low = np.where(shown[..., None], seen, np.inf).min(axis=1)
    high = np.where(shown[..., None], seen, -np.inf).max(axis=1)
    area = np.maximum(corners[:, 2] - corners[:, 0], 0) * np.maximum(corners[:, 3] - corners[:, 1], 0)
    least = np.maximum(area * np.asarray(least_share), np.finfo(np.float64).tiny)
    limits = np.array((width, height), np.float64)
    moved = np.hstack([np.clip(low, 0, limits), np.clip(high, 0, limits)])
    sides = moved[:, 2:] - moved[:, :2]
    kept = (_areas(points, shown) * (1 + 1e-9) >= least) & (sides.min(axis=1) >= least_side - 1e-9)
    return moved[kept], np.flatnonzero(kept)


def _sides(corners: Corners, matrix: Matrix, width: int, height: int) -> Floats:
    """[b, 8, 3] lines on the picture: a point (x, y, 1) is in a box and shown if all products are positive.

    Clipping on the picture instead of on the canvas keeps all lines straight and all points finite, even
    where a tilt sends part of a box to infinity.
    """
    sides = np.zeros((len(corners), 8, 3))
    sides[:, 0, 0] = sides[:, 1, 1] = 1
    sides[:, 2, 0] = sides[:, 3, 1] = -1
    sides[:, :4, 2] = corners * (-1, -1, 1, 1)
    # 0 <= X <= width W and 0 <= Y <= height W; together they say that W is not negative.
    across, down, depth = matrix
    edges = np.stack([across, down, width * depth - across, height * depth - down])
    length = np.hypot(edges[:, 0], edges[:, 1])
    # A line at infinity (the matrix of a picture squeezed to nothing) has no direction to measure along.
    sides[:, 4:] = edges / np.where(length > 0, length, 1)[:, None]
    return sides


def _crossings(sides: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Where any two of the lines cross, [b, 28, 2], and which of these are corners of the shown part."""
    crossing = np.cross(sides[:, _FIRST], sides[:, _SECOND])
    sine = crossing[..., 2:]
    crosses = np.abs(sine) > 1e-12
    points = crossing[..., :2] / np.where(crosses, sine, 1)
    beside = points @ sides[..., :2].swapaxes(1, 2) + sides[:, None, :, 2]
    rows = np.arange(len(_FIRST))
    beside[:, rows, _FIRST] = beside[:, rows, _SECOND] = 0
    return points, crosses[..., 0] & (beside >= -_SLACK).all(axis=2)


def _areas(points: Floats, shown: NDArray[np.bool_]) -> Floats:
    """[b] area of the convex figures whose corners are among the points."""
    if not len(points):
        return np.zeros(0)
    some = np.take_along_axis(points, shown.argmax(axis=1)[:, None, None], axis=1)
    corners = np.where(shown[..., None], points, some)
    corners = corners - corners.mean(axis=1, keepdims=True)
    order = np.argsort(np.arctan2(corners[..., 1], corners[..., 0]), axis=1)
    x, y = np.moveaxis(np.take_along_axis(corners, order[..., None], axis=1), 2, 0)
    twice = np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1))
    result: Floats = np.where(shown.any(axis=1), twice / 2, 0)
    return result


def around(corners: Corners, matrix: Matrix) -> Corners:
    """[b, 4] the smallest upright boxes around moved ones, not cut off anywhere."""
    across, down = corners[:, [0, 2, 2, 0]], corners[:, [1, 1, 3, 3]]
    points = np.stack([across, down, np.ones_like(across)], axis=-1) @ matrix.T
    flat = points[..., :2] / points[..., 2:]
    return np.hstack([flat.min(axis=1), flat.max(axis=1)])


def restore_boxes(corners: Corners, matrix: Matrix, width: int, height: int) -> Corners:
    """Boxes of a view, back on the picture; cut off at its edges.

    None is dropped: a box that lies wholly beyond the picture comes back without area, at its edge. The
    canvas must not show the picture's horizon, which no tilt does unless the picture is then made smaller.

    Args:
        corners: [b, 4] on the canvas.
        matrix: 3x3, from points of the picture to points of the canvas.
        width: Of the picture, pixels.
        height: Of the picture, pixels.

    Returns:
        [b, 4] on the picture.
    """
    limits = np.array((width, height) * 2, np.float64)
    return np.clip(around(corners, _inverse(matrix)), 0, limits)


def _inverse(matrix: Matrix) -> Matrix:
    return np.linalg.inv(matrix).astype(np.float64)


def move_mask(
    mask: NDArray[np.uint8], matrix: Matrix, width: int, height: int, *, outside: int = 255
) -> NDArray[np.uint8]:
    """The class of every pixel of a view.

    A pixel of the canvas gets the class of the picture's pixel in which its centre lies, whatever the
    matrix does to sizes: nothing between two classes is ever made up, and where the picture is made much
    smaller than it was, things thinner than a pixel of the canvas may be missed.

    Args:
        mask: uint8 [h, w], of the picture's size.
        matrix: 3x3, from points of the picture to points of the canvas.
        width: Of the canvas, pixels.
        height: Of the canvas, pixels.
        outside: What stands where the picture doesn't reach, even if its pixels are mirrored there.

    Returns:
        uint8 [H, W], new.
    """
    assert mask.dtype == np.uint8, mask.dtype
    border = (outside, outside, outside)
    moved: NDArray[np.uint8] = warp(mask, matrix, (width, height), "nearest", cv2.BORDER_CONSTANT, border)
    back = _inverse(matrix)[2]
    corners = np.array(((0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)))
    if (corners @ back <= 0).any():  # the picture's horizon is in view, and above it a ghost of the picture
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        moved[back[0] * x + (back[1] * y + back[2])[:, None] <= 0] = outside
    return moved


def restore_map(values: NDArray[Any], matrix: Matrix, width: int, height: int) -> NDArray[Any]:
    """What a network said of every pixel of a view, back on the picture's own pixels.

    Classes are taken from the nearest pixel; scores are read between pixels, and averaged beforehand where
    the picture is less than half as large as it is on the canvas. Where the canvas doesn't show the
    picture (``fit="crop"``), the nearest pixel that it shows answers. Scores of many classes on a large
    picture take much memory: one class at a time does not.

    Args:
        values: Classes, uint8 [H, W]; or scores, float32 [H, W] or [k, H, W].
        matrix: 3x3, from points of the picture to points of the values' pixels: the view's own, unless the
            network answers at a coarser step.
        width: Of the picture, pixels.
        height: Of the picture, pixels.

    Returns:
        uint8 [h, w], float32 [h, w] or [k, h, w], new.
    """
    back, size = _inverse(matrix), (width, height)
    if values.dtype == np.uint8:
        return warp(values, back, size, "nearest", cv2.BORDER_REPLICATE)
    assert values.dtype == np.float32, values.dtype
    if values.ndim == 2:
        return warp(*averaged_down(values, back), size, "linear", cv2.BORDER_REPLICATE)
    restored = np.empty((len(values), height, width), np.float32)
    for row, scores in zip(restored, values, strict=True):
        row[:] = warp(*averaged_down(scores, back), size, "linear", cv2.BORDER_REPLICATE)
    return restored
