"""What a picture looks like in a few numbers: for duplicates, odd pictures and drift."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.pixels import Pixels, shrink

THUMBNAIL_SIDE = 16
_GREY_SIDE = 128  # Sharpness depends on scale, so all pictures are measured at one.


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """A picture in a few numbers, all taken from its grey version.

    Args:
        dhash: Difference hash, 64 bits: pictures that look alike differ in few bits.
        thumbnail: uint8 [16, 16].
        brightness: Mean grey level, 0 to 255.
        contrast: Standard deviation of the grey levels, 0 to 127.5.
        sharpness: Variance of the Laplacian with the shorter side at most 128 pixels; 0 and up.
        constant: Whether all pixels are of one colour.
    """

    dhash: int
    thumbnail: Pixels
    brightness: float
    contrast: float
    sharpness: float
    constant: bool


def appearance(pixels: Pixels) -> Appearance:
    """Measures a picture.

    Args:
        pixels: uint8 [height, width, 3], RGB.
    """
    whole = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grey = shrink(whole, min(_GREY_SIDE, *whole.shape))
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return Appearance(
        dhash=difference_hash(grey),
        thumbnail=cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA),
        brightness=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        sharpness=float(edges[0, 0] ** 2),
        # Comparing every pixel costs time; it is done only where the grey version has no contrast.
        constant=bool(deviation[0, 0] < 1 and (pixels == pixels[0, 0]).all()),
    )


def difference_hash(grey: NDArray[np.uint8]) -> int:
    """Whether each cell of a 9 x 8 reduction is brighter than its right neighbour, as 64 bits.

    Args:
        grey: uint8 [height, width].
    """
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes(), "big")
