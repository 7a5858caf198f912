"""The view: how a picture of any shape becomes the canvas that a network sees, in one warp.

Pixels lie on continuous coordinates: a picture covers 0..width and 0..height, and the centre of its first
pixel is (0.5, 0.5). Points, boxes and masks that follow a picture use the same matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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
    """How pictures are fitted to a canvas.

    Args:
        size: Width of the canvas in pixels.
        fit: ``crop`` keeps the shape and cuts what reaches beyond the canvas, ``squash`` keeps everything
            and loses the shape, ``pad`` keeps both and fills the rest.
        crop: Which share of the fitted canvas is kept, about its centre; 1 keeps all, less looks closer.
        fill: What stands where the picture doesn't reach: its mirror image, or one colour (RGB, 0..255).
            Where objects are to be found it has to be a colour: a mirror image shows objects that nobody
            marked.
        interpolation: How pixels are read between pixels.
        height: Of the canvas in pixels; None for a square.
    """

    size: int
    fit: Fit = "crop"
    crop: float = 1.0
    fill: Fill = "reflect"
    interpolation: Interpolation = "linear"
    height: int | None = None

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the canvas in pixels."""
        return self.size, self.size if self.height is None else self.height

    def __call__(self, pixels: Pixels) -> Pixels:
        """The clean view: ``uint8`` of the canvas's size, the same for the same pixels, always."""
        height, width = pixels.shape[:2]
        return self.render(pixels, self.matrix(width, height))

    def extent(self, width: int, height: int) -> Extent:
        """Half the width and height of a picture in units of the view (the view itself is 1, 1)."""
        if self.fit == "squash":
            return 1 / self.crop, 1 / self.crop
        # Whole numbers, so that a picture of the canvas's own shape has the extent 1, 1 exactly.
        common = math.gcd(*self.canvas)
        across, down = width * (self.canvas[1] // common), height * (self.canvas[0] // common)
        side = min(across, down) if self.fit == "crop" else max(across, down)
        return across / (side * self.crop), down / (side * self.crop)

    def fitted(self, step: Matrix) -> Matrix:
        """A step's matrix for units as long across as down, in coordinates of the view.

        A turn drawn as for a square would slant things on a canvas that is not one.
        """
        width, height = self.canvas
        if width == height:
            return step
        stretch = np.array((width, height, 1.0))
        result: Matrix = step * stretch / stretch[:, None]
        return result

    def matrix(self, width: int, height: int, step: Matrix | None = None) -> Matrix:
        """The 3x3 matrix from points of the picture to points of the canvas, both in pixels.

        Args:
            width: The picture's width in pixels.
            height: The picture's height in pixels.
            step: What happens in between, in coordinates of the view (-1..1); nothing when absent.
        """
        across, down = self.extent(width, height)
        half_width, half_height = self.canvas[0] / 2, self.canvas[1] / 2
        onto_view = np.array(((2 * across / width, 0, -across), (0, 2 * down / height, -down), (0, 0, 1.0)))
        onto_canvas = np.array(((half_width, 0, half_width), (0, half_height, half_height), (0, 0, 1.0)))
        whole: Matrix = onto_canvas @ (onto_view if step is None else step @ onto_view)
        return whole

    def render(self, pixels: Pixels, matrix: Matrix) -> Pixels:
        """Draws a picture moved by a matrix: one warp, and one averaging beforehand if it shrinks a lot.

        Args:
            pixels: ``uint8 [height, width, 3]``, any size from one pixel upwards.
            matrix: From points of the picture to points of the canvas, in pixels.

        Returns:
            New pixels, ``uint8 [height, width, 3]`` of the canvas's size.
        """
        assert pixels.dtype == np.uint8, pixels.dtype
        assert pixels.shape[2:] == (3,), pixels.shape
        pixels, matrix = averaged_down(pixels, matrix)
        if self.fill != "reflect":
            return warp(pixels, matrix, self.canvas, self.interpolation, cv2.BORDER_CONSTANT, self.fill)
        # OpenCV 5.0 never returns from a cubic warp of one row or column with the other way of mirroring:
        # https://github.com/opencv/opencv/pull/29867
        hangs = self.interpolation == "cubic" and min(pixels.shape[:2]) == 1
        border = cv2.BORDER_REFLECT if hangs else cv2.BORDER_REFLECT_101
        return warp(pixels, matrix, self.canvas, self.interpolation, border)


_TO_CENTRES = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1.0)))
_TO_CORNERS = np.array(((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1.0)))


def warp(
    values: NDArray[Any],
    matrix: Matrix,
    canvas: tuple[int, int],
    interpolation: Interpolation,
    border: int,
    colour: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[Any]:
    """Pixels, or what else lies on a picture, moved by a matrix.

    Args:
        values: ``[height, width]`` or ``[height, width, 3]``, uint8 or float32.
        matrix: 3x3, from points of the picture to points of the canvas, in pixels.
        canvas: Width and height of the result in pixels.
        interpolation: How values are read between pixels.
        border: One of OpenCV's ``BORDER_...``: what stands where the picture doesn't reach.
        colour: Stands there when the border is constant.

    Returns:
        ``[height, width]`` or ``[height, width, 3]`` of the canvas's size, new.
    """
    # OpenCV counts from the centre of the first pixel, we from its corner.
    matrix = _TO_CENTRES @ matrix @ _TO_CORNERS
    flags = _FLAGS[interpolation]
    warped: NDArray[Any]
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        warped = cv2.warpAffine(values, matrix[:2], canvas, None, flags, border, colour)
    else:
        warped = cv2.warpPerspective(values, matrix, canvas, None, flags, border, colour)
    return warped


def averaged_down(values: NDArray[Any], matrix: Matrix) -> tuple[NDArray[Any], Matrix]:
    """Shrinks a picture that the matrix would shrink far, and the matrix's task with it."""
    height, width = values.shape[:2]
    (a, b, _), (c, d, _), _ = matrix.tolist()
    across, down = math.hypot(a, c), math.hypot(b, d)
    new_width = max(1, math.ceil(width * across)) if across < _SHRINK_LIMIT else width
    new_height = max(1, math.ceil(height * down)) if down < _SHRINK_LIMIT else height
    if (new_width, new_height) == (width, height):
        return values, matrix
    shrunk: NDArray[Any] = cv2.resize(values, (new_width, new_height), interpolation=cv2.INTER_AREA)
    return shrunk, matrix @ np.diag((width / new_width, height / new_height, 1.0))


def clean_view(
    pixels: Pixels,
    size: int,
    *,
    fit: Fit = "crop",
    crop: float = 1.0,
    fill: Fill = "reflect",
    interpolation: Interpolation = "linear",
    height: int | None = None,
) -> Pixels:
    """What a network sees of a picture when nothing is left to chance.

    Evaluation, the export check and the server all call this, and an `Augmentation` none of whose steps
    fires gives the same bytes.

    Args:
        pixels: ``uint8 [height, width, 3]``.
        size: Width of the canvas in pixels.
        fit: ``crop``, ``squash`` or ``pad``; see `View`.
        crop: Which share of the fitted canvas is kept. The default keeps all: what lies at the edge of a
            picture may be what it is about.
        fill: What stands where the picture doesn't reach.
        interpolation: How pixels are read between pixels.
        height: Of the canvas in pixels; None for a square.

    Returns:
        ``uint8 [height, size, 3]``.
    """
    return View(size, fit=fit, crop=crop, fill=fill, interpolation=interpolation, height=height)(pixels)


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
