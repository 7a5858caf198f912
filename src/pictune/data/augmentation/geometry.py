"""Steps that move: crop, turn, scale, shift, slant, tilt, flip. Each answers one 3x3 matrix.

Coordinates are those of the view, -1..1 (see ``steps``); all steps turn, scale and flip about its centre.
Angles are in degrees, clockwise as seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

import cv2
import numpy as np

from pictune.data.augmentation.steps import (
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


def always(matrix: Matrix) -> Geometric:
    """A step that does the same to every image."""
    return Geometric(1.0, partial(_same, matrix=matrix))


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
    """Shows a random part of the picture, stretched to the square (Szegedy et al. 2015, arXiv 1409.4842).

    The area is drawn evenly, then the ratio evenly on a log scale from those with which the part lies
    inside the picture; when none does, the largest part of an allowed ratio is shown.
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


def rotation(
    *,
    degrees: Annotated[
        float, Setting("largest turn either way, in degrees", low=0, high=180, search=Search(0, 45))
    ] = 15.0,
    probability: Probability = 1.0,
) -> Geometric:
    """Turns the picture about its centre."""
    return Geometric(probability, partial(_turned, degrees=degrees))


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
    return Geometric(probability, partial(_both, effect=slant, reach=math.tan(math.radians(degrees))))


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
    return Geometric(probability, _quartered)


def _quartered(rng: np.random.Generator, _extent: Extent) -> Matrix:
    return quarter(int(rng.integers(1, 4)))
