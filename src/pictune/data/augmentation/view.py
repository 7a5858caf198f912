"""The view: how a picture of any shape becomes the square that a network sees, in one warp.

Pixels lie on continuous coordinates: a picture covers 0..width and 0..height, and the centre of its first
pixel is (0.5, 0.5). Points, boxes and masks that follow a picture use the same matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.steps import Extent, Matrix, Pixels

Fit: TypeAlias = Literal["crop", "squash", "pad"]
Fill: TypeAlias = Literal["reflect"] | tuple[int, int, int]
Interpolation: TypeAlias = Literal["nearest", "linear", "cubic"]

_FLAGS = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}

# A warp reads a few pixels around each point. When it shrinks by more than this, it would skip pixels
# and fine patterns would turn into false ones, so the picture is averaged down beforehand.
_SHRINK_LIMIT = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """How pictures are fitted to a square.

    Args:
        size: Side of the square in pixels.
        fit: ``crop`` keeps the shape and cuts the longer side, ``squash`` keeps everything and loses the
            shape, ``pad`` keeps both and fills the rest.
        crop: Which share of the fitted square is kept, about its centre; 1 keeps all, less looks closer.
        fill: What stands where the picture doesn't reach: its mirror image, or one colour (RGB, 0..255).
        interpolation: How pixels are read between pixels.
    """

    size: int
    fit: Fit = "crop"
    crop: float = 1.0
    fill: Fill = "reflect"
    interpolation: Interpolation = "linear"

    def __call__(self, pixels: Pixels) -> Pixels:
        """The clean view: ``uint8 [size, size, 3]``, the same for the same pixels, always."""
        height, width = pixels.shape[:2]
        return self.render(pixels, self.matrix(width, height))

    def extent(self, width: int, height: int) -> Extent:
        """Half the width and height of a picture in units of the view (the view itself is 1, 1)."""
        side = {"crop": min, "squash": min, "pad": max}[self.fit](width, height)
        if self.fit == "squash":
            return 1 / self.crop, 1 / self.crop
        return width / (side * self.crop), height / (side * self.crop)

    def matrix(self, width: int, height: int, step: Matrix | None = None) -> Matrix:
        """The 3x3 matrix from points of the picture to points of the square, both in pixels.

        Args:
            width: The picture's width in pixels.
            height: The picture's height in pixels.
            step: What happens in between, in coordinates of the view (-1..1); nothing when absent.
        """
        across, down = self.extent(width, height)
        half = self.size / 2
        onto_view = np.array(((2 * across / width, 0, -across), (0, 2 * down / height, -down), (0, 0, 1.0)))
        onto_square = np.array(((half, 0, half), (0, half, half), (0, 0, 1.0)))
        whole: Matrix = onto_square @ (onto_view if step is None else step @ onto_view)
        return whole

    def render(self, pixels: Pixels, matrix: Matrix) -> Pixels:
        """Draws a picture moved by a matrix: one warp, and one averaging beforehand if it shrinks a lot.

        Args:
            pixels: ``uint8 [height, width, 3]``, any size from one pixel upwards.
            matrix: From points of the picture to points of the square, in pixels.

        Returns:
            New pixels, ``uint8 [size, size, 3]``.
        """
        assert pixels.dtype == np.uint8, pixels.dtype
        assert pixels.shape[2:] == (3,), pixels.shape
        pixels, matrix = _averaged_down(pixels, matrix)
        # OpenCV counts from the centre of the first pixel, we from its corner.
        matrix = _TO_CENTRES @ matrix @ _TO_CORNERS
        reflect = self.fill == "reflect"
        border = cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_CONSTANT
        colour = (0, 0, 0) if reflect else self.fill
        side = (self.size, self.size)
        flags = _FLAGS[self.interpolation]
        warped: Pixels
        if matrix[2, 0] == 0 and matrix[2, 1] == 0:
            warped = cv2.warpAffine(pixels, matrix[:2], side, None, flags, border, colour)
        else:
            warped = cv2.warpPerspective(pixels, matrix, side, None, flags, border, colour)
        return warped


_TO_CENTRES = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1.0)))
_TO_CORNERS = np.array(((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1.0)))


def _averaged_down(pixels: Pixels, matrix: Matrix) -> tuple[Pixels, Matrix]:
    """Shrinks a picture that the matrix would shrink far, and the matrix's task with it."""
    height, width = pixels.shape[:2]
    (a, b, _), (c, d, _), _ = matrix.tolist()
    across, down = math.hypot(a, c), math.hypot(b, d)
    new_width = max(1, math.ceil(width * across)) if across < _SHRINK_LIMIT else width
    new_height = max(1, math.ceil(height * down)) if down < _SHRINK_LIMIT else height
    if (new_width, new_height) == (width, height):
        return pixels, matrix
    shrunk: Pixels = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_AREA)
    return shrunk, matrix @ np.diag((width / new_width, height / new_height, 1.0))


def clean_view(
    pixels: Pixels,
    size: int,
    *,
    fit: Fit = "crop",
    crop: float = 1.0,
    fill: Fill = "reflect",
    interpolation: Interpolation = "linear",
) -> Pixels:
    """What a network sees of a picture when nothing is left to chance.

    Evaluation, the export check and the server all call this, and an `Augmentation` none of whose steps
    fires gives the same bytes.

    Args:
        pixels: ``uint8 [height, width, 3]``.
        size: Side of the square in pixels.
        fit: ``crop``, ``squash`` or ``pad``; see `View`.
        crop: Which share of the fitted square is kept. The default keeps all: what lies at the edge of a
            picture may be what it is about.
        fill: What stands where the picture doesn't reach.
        interpolation: How pixels are read between pixels.

    Returns:
        ``uint8 [size, size, 3]``.
    """
    return View(size, fit=fit, crop=crop, fill=fill, interpolation=interpolation)(pixels)


def warp_points(matrix: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moves points with a picture.

    Args:
        matrix: 3x3, as `View.matrix` or `Augmentation.with_matrix` gives it.
        points: ``[n, 2]``, x and y.

    Returns:
        ``[n, 2]``.
    """
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    result: NDArray[np.float64] = moved[:, :2] / moved[:, 2:]
    return result
