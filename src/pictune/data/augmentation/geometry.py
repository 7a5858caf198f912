"""Steps that move: crop, turn, scale, shift, slant, tilt, flip. Each answers one 3x3 matrix.

Coordinates are those of the view, -1..1 (see ``steps``); all steps turn, scale and flip about its centre.
Angles are in degrees, clockwise as seen. A step that turns or slants is ``rigid``: on a canvas that is not
a square its matrix is fitted before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.steps import (
    Corners,
    Extent,
    Geometric,
    Matrix,
    Probability,
    Range,
    between,
    require_ascending,
)
from pictune.settings import Search, Setting


def affine(a: float, b: float, x: float, c: float, d: float, y: float) -> Matrix:
    """The matrix that sends (u, v) to (a u + b v + x, c u + d v + y)."""
    return np.array(((a, b, x), (c, d, y), (0.0, 0.0, 1.0)))


def turn(degrees: float) -> Matrix:
    """Rotation about the centre."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return affine(cosine, -sine, 0, sine, cosine, 0)


def zoom(factor: float) -> Matrix:
    """Scaling about the centre; above 1 looks closer."""
    return affine(factor, 0, 0, 0, factor, 0)


def shift(across: float, down: float) -> Matrix:
    """Translation, in units of the view (2 is its whole side)."""
    return affine(1, 0, across, 0, 1, down)


def slant(across: float, down: float) -> Matrix:
    """Shear along x and along y, as tangents."""
    return affine(1, across, 0, down, 1, 0)


def flip_across() -> Matrix:
    """Left becomes right."""
    return affine(-1, 0, 0, 0, 1, 0)


def flip_down() -> Matrix:
    """Up becomes down."""
    return affine(1, 0, 0, 0, -1, 0)


def quarter(turns: int) -> Matrix:
    """Rotation by so many right angles, exactly."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns % 4]
    return affine(cosine, -sine, 0, sine, cosine, 0)


def always(matrix: Matrix, *, rigid: bool = False) -> Geometric:
    """A step that does the same to every image."""
    return Geometric(1.0, partial(_same, matrix=matrix), rigid=rigid)


def _same(_rng: np.random.Generator, _extent: Extent, *, matrix: Matrix) -> Matrix:
    return matrix


def random_resized_crop(
    *,
    scale: Annotated[Range, Setting("share of the picture's area that is shown", above=0, high=1)] = (
        0.4,
        1.0,
    ),
    ratio: Annotated[Range, Setting("width of the shown part over its height", low=0.1, high=10)] = (
        0.75,
        4 / 3,
    ),
    probability: Probability = 1.0,
) -> Geometric:
    """Shows a random part of the picture, stretched to the canvas (Szegedy et al. 2015, arXiv 1409.4842).

    The area is drawn evenly, then the ratio evenly on a log scale from those with which the part lies
    inside the picture; when none does, the largest part of an allowed ratio is shown. On a canvas that is
    not a square the ratio is relative to the canvas's own, so that 1 never distorts.
    """
    require_ascending("random_resized_crop", scale=scale, ratio=ratio)
    return Geometric(probability, partial(_window, scale=scale, ratio=ratio))


def _window(rng: np.random.Generator, extent: Extent, *, scale: Range, ratio: Range) -> Matrix:
    """The matrix that spreads a random window (half sides `across`, `down`) over the view."""
    area = between(rng, *scale) * extent[0] * extent[1]
    narrowest = max(ratio[0], area / extent[1] ** 2)
    widest = min(ratio[1], extent[0] ** 2 / area)
    chance = rng.random()
    if narrowest <= widest:
        shape = narrowest * (widest / narrowest) ** chance
        across, down = math.sqrt(area * shape), math.sqrt(area / shape)
    else:  # the picture is too long for a part of this area: the part fills its shorter side
        across, down = min(extent[0], extent[1] * ratio[1]), min(extent[1], extent[0] / ratio[0])
    x = between(rng, across - extent[0], extent[0] - across)
    y = between(rng, down - extent[1], extent[1] - down)
    return affine(1 / across, 0, -x / across, 0, 1 / down, -y / down)


_TRIES = 50
_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # 0 asks only for the centre of a box


def iou_safe_crop(
    *,
    sides: Annotated[Range, Setting("shown part's sides as shares of the picture's", above=0, high=1)] = (
        0.3,
        1.0,
    ),
    ratio: Annotated[Range, Setting("width of the shown part over its height", low=0.1, high=10)] = (
        0.5,
        2.0,
    ),
    probability: Probability = 0.85,
) -> Geometric:
    """Shows a random part that keeps an object, stretched (SSD; Liu et al. 2016, arXiv 1512.02325).

    How much of it is drawn for each image: the part has to hold the centre of a box and to overlap with it
    by an IoU of at least 0, 0.1, 0.3, 0.5, 0.7 or 0.9. Of 50 parts drawn the first that does is shown, and
    the whole picture if none does. Without boxes the first of an allowed ratio is shown; as in
    ``random_resized_crop``, ratios are relative to the canvas's.
    """
    require_ascending("iou_safe_crop", sides=sides, ratio=ratio)
    guard = partial(_guarded, sides=sides, ratio=ratio)
    return Geometric(probability, partial(guard, boxes=np.zeros((0, 4))), guard=guard)


def _guarded(
    rng: np.random.Generator, extent: Extent, boxes: Corners, *, sides: Range, ratio: Range
) -> Matrix:
    """The matrix that spreads the first good one of many random windows over the view."""
    least = _OVERLAPS[int(rng.integers(len(_OVERLAPS)))]
    whole = np.array(extent)
    half = whole * (sides[0] + (sides[1] - sides[0]) * rng.random((_TRIES, 2)))
    centre = (whole - half) * (2 * rng.random((_TRIES, 2)) - 1)
    shape = half[:, 0] / half[:, 1]
    good = (shape >= ratio[0]) & (shape <= ratio[1])
    if len(boxes):
        good &= _keeps_one(centre - half, centre + half, boxes, least)
    if not good.any():
        return zoom(1)
    first = int(good.argmax())
    (across, down), (x, y) = half[first], centre[first]
    return affine(1 / across, 0, -x / across, 0, 1 / down, -y / down)


def _keeps_one(
    low: NDArray[np.float64], high: NDArray[np.float64], boxes: Corners, least: float
) -> NDArray[np.bool_]:
    """[t] whether each of t windows, from low to high [t, 2], keeps a box well enough."""
    low, high = low[:, None], high[:, None]
    first, last = boxes[:, :2], boxes[:, 2:]
    centre = (first + last) / 2
    common = np.prod(np.maximum(np.minimum(high, last) - np.maximum(low, first), 0), axis=2)
    union = np.prod(high - low, axis=2) + np.prod(last - first, axis=1) - common
    kept = np.all((low <= centre) & (centre <= high), axis=2) & (common >= least * union)
    result: NDArray[np.bool_] = kept.any(axis=1)
    return result


def rotation(
    *,
    degrees: Annotated[
        float, Setting("largest turn either way, in degrees", low=0, high=180, search=Search(0, 45))
    ] = 15.0,
    probability: Probability = 1.0,
) -> Geometric:
    """Turns the picture about its centre."""
    return Geometric(probability, partial(_turned, degrees=degrees), rigid=True)


def _turned(rng: np.random.Generator, _extent: Extent, *, degrees: float) -> Matrix:
    return turn(between(rng, -degrees, degrees))


def scale(
    *,
    factor: Annotated[
        Range, Setting("smallest and largest magnification; above 1 looks closer", low=0.1, high=10)
    ] = (0.8, 1.25),
    probability: Probability = 1.0,
) -> Geometric:
    """Makes the picture larger or smaller about its centre, evenly on a log scale."""
    require_ascending("scale", factor=factor)
    return Geometric(probability, partial(_zoomed, factor=factor))


def _zoomed(rng: np.random.Generator, _extent: Extent, *, factor: Range) -> Matrix:
    return zoom(math.exp(between(rng, math.log(factor[0]), math.log(factor[1]))))


def scale_jitter(
    *,
    factor: Annotated[
        Range, Setting("smallest and largest magnification; 1 fits the picture as usual", low=0.05, high=10)
    ] = (0.1, 2.0),
    probability: Probability = 1.0,
) -> Geometric:
    """Makes the picture much larger or smaller and puts it anywhere (Ghiasi et al. 2021, arXiv 2012.07177).

    The magnification is drawn evenly on a log scale. A picture smaller than the canvas lies wholly inside
    it, of a larger one the canvas shows a part; each axis for itself. Put it after what turns the picture
    about its centre.
    """
    require_ascending("scale_jitter", factor=factor)
    return Geometric(probability, partial(_jittered, factor=factor))


def _jittered(rng: np.random.Generator, extent: Extent, *, factor: Range) -> Matrix:
    return placed(rng, extent, math.exp(between(rng, math.log(factor[0]), math.log(factor[1]))))


def placed(rng: np.random.Generator, extent: Extent, factor: float) -> Matrix:
    """Scaling, and a shift so that of picture and view the smaller lies in the larger, at random."""
    across, down = (abs(factor * half - 1) for half in extent)
    return affine(factor, 0, between(rng, -across, across), 0, factor, between(rng, -down, down))


def translation(
    *,
    fraction: Annotated[
        float, Setting("largest shift, as a share of the side", low=0, high=1, search=Search(0, 0.3))
    ] = 0.1,
    probability: Probability = 1.0,
) -> Geometric:
    """Shifts the picture across and down."""
    return Geometric(probability, partial(_both, effect=shift, reach=2 * fraction))


def shear(
    *,
    degrees: Annotated[
        float, Setting("largest slant of either axis, in degrees", low=0, high=40, search=Search(0, 25))
    ] = 10.0,
    probability: Probability = 1.0,
) -> Geometric:
    """Slants the picture, each axis by its own angle."""
    reach = math.tan(math.radians(degrees))
    return Geometric(probability, partial(_both, effect=slant, reach=reach), rigid=True)


def _both(
    rng: np.random.Generator, _extent: Extent, *, effect: Callable[[float, float], Matrix], reach: float
) -> Matrix:
    return effect(between(rng, -reach, reach), between(rng, -reach, reach))


_CORNERS = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)), dtype=np.float32)


def perspective(
    *,
    distortion: Annotated[
        float,
        Setting(
            "how far a corner may move, as a share of half the side", low=0, high=0.3, search=Search(0, 0.3)
        ),
    ] = 0.15,
    probability: Probability = 1.0,
) -> Geometric:
    """Tilts the picture out of its plane: every corner moves on its own.

    More than 0.3 is refused: the picture's vanishing line could then cut through the view.
    """
    return Geometric(probability, partial(_tilted, distortion=distortion))


def _tilted(rng: np.random.Generator, _extent: Extent, *, distortion: float) -> Matrix:
    moved = _CORNERS + distortion * (2 * rng.random((4, 2), dtype=np.float32) - 1)
    matrix: Matrix = cv2.getPerspectiveTransform(_CORNERS, moved)
    return matrix


def horizontal_flip(*, probability: Probability = 0.5) -> Geometric:
    """Swaps left and right; wrong where a mirror image means something else, as in text, digits and signs."""
    return Geometric(probability, partial(_same, matrix=flip_across()))


def vertical_flip(*, probability: Probability = 0.5) -> Geometric:
    """Swaps up and down; for pictures taken from above: microscopes, satellites, flat objects."""
    return Geometric(probability, partial(_same, matrix=flip_down()))


def quarter_turns(*, probability: Probability = 0.75) -> Geometric:
    """Turns the picture by 90, 180 or 270 degrees; with 0.75 all four positions are as likely."""
    return Geometric(probability, _quartered, rigid=True)


def _quartered(rng: np.random.Generator, _extent: Extent) -> Matrix:
    return quarter(int(rng.integers(1, 4)))
