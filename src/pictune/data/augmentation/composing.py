"""Composing: one picture made of several, with all that lies on them.

Goes before the steps that a single picture gets: what is composed is a picture like any other, of the
first one's size.

What is shown must not be taken for background. So an object of which less than a fifth is left becomes a
crowd, which is neither learnt nor held against anybody, and crowds stay while a pixel of them is in view.

Shapes: h, w pixels of a picture; b boxes, rows of class, left, top, right, bottom, crowd (0 or 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.geometry import placed
from pictune.data.augmentation.moving import LEAST_SHARE, LEAST_SIDE, move_boxes, move_mask
from pictune.data.augmentation.steps import Matrix, Pixels, Range, between, require_ascending
from pictune.data.augmentation.view import View
from pictune.settings import Parts, Search, Setting

Rows: TypeAlias = NDArray[np.floating[Any]]  # [b, 6]
Region: TypeAlias = NDArray[np.bool_]  # [h, w]

_IGNORED = 255  # class of the pixels that belong to none


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A picture and what lies on it.

    Args:
        pixels: uint8 [h, w, 3].
        boxes: [b, 6], on this picture's pixels; floating.
        mask: uint8 [h, w], the class of every pixel, 255 for none; None where there are no masks.
    """

    pixels: Pixels
    boxes: Rows
    mask: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Composition:
    """Makes one picture of several.

    Args:
        count: How many pictures it takes; the first is the one that is composed, the others join it.
        probability: Share of the pictures that are composed; the others stay as they are.
        compose: From the pictures and a generator the composed picture; changes none of them.
    """

    count: int
    probability: float
    compose: Callable[[Sequence[Piece], np.random.Generator], Piece]

    def __call__(self, pieces: Sequence[Piece], rng: np.random.Generator) -> Piece:
        """A composed picture, or the first piece itself.

        Args:
            pieces: As many as ``count``, all with a mask or none; asked for only when they are needed.
            rng: The only source of chance; not touched where nothing is ever composed.
        """
        if self.probability == 0 or rng.random() >= self.probability:
            return pieces[0]
        return self.compose(pieces, rng)


ComposeProbability = Annotated[
    float, Setting("share of the pictures that are composed", low=0, high=1, search=Search(0.0, 1.0))
]


def none() -> Composition:
    """Composes nothing."""
    return Composition(1, 0.0, _first)


def _first(pieces: Sequence[Piece], _rng: np.random.Generator) -> Piece:
    return pieces[0]


def mosaic(
    *,
    centre: Annotated[
        Range, Setting("where the four meet, as a share of either side", low=0.05, high=0.95)
    ] = (0.3, 0.7),
    zoom: Annotated[Range, Setting("magnification of each; 1 just fills its quarter", low=1, high=4)] = (
        1.0,
        1.5,
    ),
    probability: ComposeProbability = 0.5,
) -> Composition:
    """Puts four pictures together around a random centre (Bochkovskiy et al. 2020, arXiv 2004.10934).

    Each of them fills one quarter, which one is left to chance, and is cut where it reaches beyond it.
    """
    require_ascending("mosaic", centre=centre, zoom=zoom)
    return Composition(4, probability, partial(_four, centre=centre, zoom=zoom))


def _four(pieces: Sequence[Piece], rng: np.random.Generator, *, centre: Range, zoom: Range) -> Piece:
    height, width = pieces[0].pixels.shape[:2]
    if min(height, width) < 2:
        return pieces[0]
    x, y = (min(max(round(side * between(rng, *centre)), 1), side - 1) for side in (width, height))
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    pixels = np.empty((height, width, 3), np.uint8)
    mask = None if pieces[0].mask is None else np.empty((height, width), np.uint8)
    boxes: list[Rows] = []
    for number, place in enumerate(rng.permutation(4).tolist()):
        left, top, right, bottom = quarters[place]
        part = _filling(pieces[number], rng, right - left, bottom - top, zoom)
        pixels[top:bottom, left:right] = part.pixels
        boxes.append(part.boxes + np.array((0, left, top, left, top, 0), part.boxes.dtype))
        if mask is not None:
            assert part.mask is not None, "all pieces have a mask, or none has"
            mask[top:bottom, left:right] = part.mask
    return Piece(pixels, np.concatenate(boxes), mask)


def _filling(piece: Piece, rng: np.random.Generator, width: int, height: int, zoom: Range) -> Piece:
    """A random part of a piece that fills a canvas of this size."""
    view = View(width, fit="crop", height=height)
    tall, wide = piece.pixels.shape[:2]
    step = placed(rng, view.extent(wide, tall), between(rng, *zoom))
    return moved(piece, view, view.matrix(wide, tall, step))


def moved(piece: Piece, view: View, matrix: Matrix) -> Piece:
    """A view of a piece; an object of which too little is shown becomes a crowd.

    Args:
        piece: What is looked at.
        view: The canvas.
        matrix: 3x3, from points of the piece to points of the canvas.
    """
    (tall, wide), (width, height) = piece.pixels.shape[:2], view.canvas
    move = partial(move_boxes, matrix=matrix, width=width, height=height, from_size=(wide, tall))
    corners, kept = move(piece.boxes[:, 1:5].astype(np.float64), least_share=0.0)
    _, enough = move(piece.boxes[:, 1:5].astype(np.float64), least_share=LEAST_SHARE)
    boxes = piece.boxes[kept]
    boxes[:, 1:5] = corners
    boxes[~np.isin(kept, enough), 5] = 1
    mask = None if piece.mask is None else move_mask(piece.mask, matrix, width, height, outside=_IGNORED)
    return Piece(view.render(piece.pixels, matrix), boxes, mask)


def copy_paste(
    *,
    share: Annotated[
        float, Setting("share of the other picture's objects that are pasted", above=0, high=1)
    ] = 0.5,
    factor: Annotated[
        Range,
        Setting("magnification of what is pasted; 1 shows it as its own picture would", low=0.1, high=4),
    ] = (0.5, 2.0),
    largest: Annotated[
        float, Setting("share of the picture that a pasted object may cover", above=0, high=1)
    ] = 0.3,
    probability: ComposeProbability = 0.5,
) -> Composition:
    """Pastes objects of another picture, at another size and place (Ghiasi et al. 2021, arXiv 2012.07177).

    Objects are boxes with all that is in them, or, where there are masks and no boxes, connected pixels of
    one class; what is larger than ``largest`` is taken for background. An object of which over half lies in
    a pasted box comes along. What is covered is cut.
    """
    require_ascending("copy_paste", factor=factor)
    return Composition(2, probability, partial(_pasted, share=share, factor=factor, largest=largest))


def _pasted(
    pieces: Sequence[Piece], rng: np.random.Generator, *, share: float, factor: Range, largest: float
) -> Piece:
    below, other = pieces[0], pieces[1]
    (height, width), (tall, wide) = below.pixels.shape[:2], other.pixels.shape[:2]
    view = View(width, fit="pad", height=height)
    size = math.exp(between(rng, math.log(factor[0]), math.log(factor[1])))
    step = placed(rng, view.extent(wide, tall), size)
    above = moved(other, view, view.matrix(wide, tall, step))
    most = largest * height * width
    if len(above.boxes) or above.mask is None:
        rows, region = _boxed(above, rng, share, most)
    else:
        rows, region = above.boxes, _connected(above.mask, rng, share, most)
    pixels = np.where(region[..., None], above.pixels, below.pixels)
    boxes = np.concatenate([_uncovered(below.boxes, region), rows.astype(below.boxes.dtype)])
    if below.mask is None:
        return Piece(pixels, boxes)
    assert above.mask is not None, "all pieces have a mask, or none has"
    return Piece(pixels, boxes, np.where(region, above.mask, below.mask))


def _boxed(piece: Piece, rng: np.random.Generator, share: float, most: float) -> tuple[Rows, Region]:
    """A random part of the objects, and the pixels of their boxes."""
    low, high = piece.boxes[:, 1:3].astype(np.float64), piece.boxes[:, 3:5].astype(np.float64)
    area = np.prod(high - low, axis=1)
    chosen = (rng.random(len(area)) < share) & (area <= most) & (piece.boxes[:, 5] == 0)
    overlap = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    inside = np.prod(np.maximum(overlap, 0), axis=2) > 0.5 * area[:, None]
    for _ in range(len(area)):  # what comes along may bring something else along
        chosen = chosen | inside[:, chosen].any(axis=1)
    region = np.zeros(piece.pixels.shape[:2], np.bool_)
    for left, top, right, bottom in _pixels_of(piece.boxes[chosen]):
        region[top:bottom, left:right] = True
    return piece.boxes[chosen], region


def _connected(mask: NDArray[np.uint8], rng: np.random.Generator, share: float, most: float) -> Region:
    """The pixels of a random part of the connected areas."""
    region = np.zeros(mask.shape, np.bool_)
    for label in np.unique(mask[mask != _IGNORED]).tolist():
        count, numbers, facts, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))
        chosen = (rng.random(count) < share) & (facts[:, cv2.CC_STAT_AREA] <= most)
        chosen[0] = False  # all other classes
        region |= chosen[numbers]
    return region


def _uncovered(boxes: Rows, region: Region) -> Rows:
    """The boxes around what a region leaves of them; those of which it leaves too little become crowds."""
    rows = boxes.copy()
    kept = np.ones(len(rows), np.bool_)
    for number, (left, top, right, bottom) in enumerate(_pixels_of(rows)):
        visible = ~region[top:bottom, left:right]
        if visible.all():
            continue
        across, down = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
        if not len(across):
            kept[number] = False
            continue
        if visible.mean() < LEAST_SHARE:
            rows[number, 5] = 1
        low, high = (left + across[0], top + down[0]), (left + across[-1] + 1, top + down[-1] + 1)
        rows[number, 1:3] = np.maximum(rows[number, 1:3], low)
        rows[number, 3:5] = np.minimum(rows[number, 3:5], high)
        kept[number] = (rows[number, 3:5] - rows[number, 1:3]).min() >= LEAST_SIDE
    return rows[kept]


def _pixels_of(boxes: Rows) -> list[list[int]]:
    """For each box the range of pixels that it touches: left, top, right, bottom."""
    low, high = np.floor(boxes[:, 1:3]), np.ceil(boxes[:, 3:5])
    pixels: list[list[int]] = np.hstack([np.maximum(low, 0), high]).astype(np.int64).tolist()
    return pixels


COMPOSITIONS: Parts[Composition] = Parts("composition", (none, mosaic, copy_paste))
