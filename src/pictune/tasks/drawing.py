"""Answers drawn on pictures, for people.

Shapes: h, w pixels of a picture.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.masking import IGNORED

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

RIGHT, WRONG, MISSED = (0, 158, 115), (213, 94, 0), (240, 228, 66)  # told apart by colour-blind eyes, too
_INK = (0, 0, 0)
_SEE_THROUGH = 0.55  # of a class's colour over the picture
_GREY = 128


def draw_boxes(
    pixels: Pixels, boxes: NDArray[np.float64], colours: Sequence[Colour], names: Sequence[str]
) -> Pixels:
    """A copy of a picture with boxes and their names.

    Args:
        pixels: uint8 (h, w, 3).
        boxes: (b, 4) left, top, right, bottom.
        colours: (b) of each box.
        names: (b) written at each box; empty for none.
    """
    drawn = pixels.copy()
    thick = max(1, round(max(pixels.shape[:2]) / 200))
    for box, colour, name in zip(boxes.round().astype(int).tolist(), colours, names, strict=True):
        left, top, right, bottom = box
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, thick)
        if name:
            _write(drawn, name, (left, top), colour, size=max(pixels.shape[:2]) / 1100)
    return drawn


def _write(pixels: Pixels, text: str, at: tuple[int, int], colour: Colour, *, size: float) -> None:
    """A word on a ground of its colour, inside the picture, in place."""
    plain = text.encode("ascii", "replace").decode()  # OpenCV's letters know no others
    (width, height), below = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x = int(np.clip(at[0], 0, max(pixels.shape[1] - width, 0)))
    y = int(np.clip(at[1], height + below, pixels.shape[0]))
    cv2.rectangle(pixels, (x, y - height - below), (x + width, y), colour, -1)
    cv2.putText(pixels, plain, (x, y - below // 2), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)


def class_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) colours that neighbours in the list differ in."""
    found = [
        colorsys.hsv_to_rgb(
            (number * 0.618034) % 1.0, 0.55 + 0.4 * (number % 2), 0.95 - 0.3 * (number % 3 == 2)
        )
        for number in range(count)
    ]
    return (np.array(found).reshape(-1, 3) * 255).astype(np.uint8)


def draw_map(pixels: Pixels, classes: Pixels, *, count: int) -> Pixels:
    """A picture under the colours of its pixels' classes; what is ignored is grey.

    Args:
        pixels: uint8 (h, w, 3).
        classes: uint8 (h, w), 255 where ignored.
        count: How many classes there are.
    """
    palette = np.full((256, 3), _GREY, np.uint8)
    palette[:count] = class_colours(count)
    palette[IGNORED] = _GREY
    blended: Pixels = cv2.addWeighted(palette[classes], _SEE_THROUGH, pixels, 1 - _SEE_THROUGH, 0)
    return blended


def with_legend(picture: Pixels, names: Sequence[str], colours: Sequence[Colour]) -> Pixels:
    """A picture with a strip below that says which colour is which class.

    Args:
        picture: uint8 (h, w, 3).
        names: Of the classes that are there.
        colours: Of each.
    """
    if not names:
        return picture
    size = max(picture.shape[:2]) / 1100
    height = max(round(40 * size), 12)
    plain = [name.encode("ascii", "replace").decode() for name in names]
    widths = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0] + 2 * height for text in plain]
    places, x, row = [], 0, 0
    for width in widths:
        if x and x + width > picture.shape[1]:
            x, row = 0, row + 1
        places.append((x, row))
        x += width
    strip = np.full(((row + 1) * height, picture.shape[1], 3), 255, np.uint8)
    for text, colour, (left, line) in zip(plain, colours, places, strict=True):
        top, edge = line * height, max(height // 5, 2)
        box = (left + edge, top + edge), (left + height - edge, top + height - edge)
        cv2.rectangle(strip, *box, colour, -1)
        at = (left + height, top + height - max(height // 3, 3))
        cv2.putText(strip, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])


def beside(panels: Sequence[Pixels], *, gap: int = 4) -> Pixels:
    """Pictures of one height side by side, with a white gap."""
    height = panels[0].shape[0]
    white = np.full((height, gap, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (panel, white)][:-1]
    joined: Pixels = np.concatenate(parts, axis=1)
    return joined
