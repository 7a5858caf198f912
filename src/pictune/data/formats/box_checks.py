"""Arithmetic on all boxes at once: what becomes of each, and what they look like taken together.

Shapes: t boxes of all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.layouts import plural

Form = Literal["corners", "sizes"]  # left, top, right, bottom; or left, top, width, height

ROUNDING = 0.05  # pixels past the edge that come from rounding, and are cut off without a word
_UNIT = 1.01  # the largest number in a box that is given in shares of the image, with some rounding
_LEAST_SIDE = 1.0  # pixels


class Fate(IntEnum):
    """What becomes of a box; all but the first are left out."""

    FINE = 0
    BAD = 1  # no four finite numbers
    EMPTY = 2  # no extent
    OUTSIDE = 3
    THIN = 4  # less than a pixel is left
    DOUBLE = 5


def judge(
    corners: NDArray[np.float64], size: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """What becomes of each box, each box cut at the edges, and by how many pixels it was cut.

    Args:
        corners: (t, 4) left, top, right, bottom.
        size: (t, 2) width and height of each box's image; 0 where unknown.
    """
    known: NDArray[np.bool_] = np.all(size > 0, axis=1)
    edge = np.where(known[:, None], size, np.inf)
    low = np.where(known, 0.0, -np.inf)[:, None]
    limits = np.concatenate([edge, edge], axis=1)
    inside = np.clip(corners, low, limits) + 0.0  # turns -0 into 0
    fates = np.full(len(corners), Fate.FINE, np.int8)
    with np.errstate(invalid="ignore"):
        cut = np.abs(corners - inside).max(axis=1, initial=0)
        extent = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf)
        raw_extent = (corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf)
        outside = (corners[:, 2:] <= low).any(axis=1) | (corners[:, :2] >= edge).any(axis=1)
        fates[extent < _LEAST_SIDE - 1e-9] = Fate.THIN
        fates[outside] = Fate.OUTSIDE
        fates[raw_extent <= 0] = Fate.EMPTY
    fates[~np.isfinite(corners).all(axis=1)] = Fate.BAD
    return fates, inside, cut


def doubles(
    image: NDArray[np.int64], label: NDArray[np.int64], corners: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(t) whether an earlier box of the image has the same class and corners."""
    rows = np.column_stack([image.astype(np.float64), label.astype(np.float64), corners])
    if not len(rows):
        return np.zeros(0, np.bool_)
    # Equal rows have equal sums of their bits times odd numbers; those that have are compared in full.
    factors = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], dtype=np.uint64) | np.uint64(1)
    sums = (np.ascontiguousarray(rows).view(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
    _, first, number = np.unique(sums, return_index=True, return_inverse=True)
    earlier = first[number.reshape(-1)]
    same: NDArray[np.bool_] = (earlier != np.arange(len(rows))) & (rows == rows[earlier]).all(axis=1)
    return same


def doubts(
    form: Form,
    numbers: NDArray[np.float64],
    size: NDArray[np.float64],
    image: NDArray[np.int64],
    inside: NDArray[np.float64],
) -> Iterator[Finding]:
    """What the boxes taken together look like, that no single one shows."""
    ends = numbers[:, 2:] if form == "sizes" else numbers[:, 2:] - numbers[:, :2]
    usable = np.isfinite(numbers).all(axis=1) & (ends > 0).all(axis=1)
    count = int(usable.sum())
    if not count:
        return
    rows, sizes = numbers[usable], size[usable]
    small = (np.abs(rows).max(axis=1) <= _UNIT).sum()
    if small * 2 > count:
        message = (
            f"{small:,} of {count:,} boxes have numbers from 0 to 1, as if in shares of the image; pixels "
            "are wanted here. Multiply them by the images' width and height, or give the data as YOLO."
        )
        yield Finding("normalised_boxes", Outcome.REJECT, "", message)
        return
    known = (sizes > 0).all(axis=1)
    if form == "sizes" and known.any():
        rows, sizes = rows[known], sizes[known]
        leaving = (rows[:, :2] + rows[:, 2:] > sizes + 1).any(axis=1)
        corners_fit = ((rows[:, 2:] > rows[:, :2]) & (rows[:, 2:] <= sizes + 1)).all(axis=1)
        if leaving.sum() * 2 > len(rows) and corners_fit.mean() > 0.9:
            message = (
                f"{int(leaving.sum()):,} of {len(rows):,} boxes leave their image when read as left, top, "
                "width, height, and fit when read as left, top, right, bottom; were corners written?"
            )
            yield Finding("looks_like_corners", Outcome.WARN, "", message)
    covered = ((inside[:, :2] <= 0.01 * size) & (inside[:, 2:] >= 0.99 * size) & (size > 0)).all(axis=1)
    whole, all_images = len(np.unique(image[covered])), len(np.unique(image))
    if whole * 2 > all_images:
        message = (
            f"In {whole:,} of {plural(all_images, 'image')} with boxes, one covers the whole image: are "
            "these labels of images rather than of objects?"
        )
        yield Finding("whole_image_boxes", Outcome.WARN, "", message)
