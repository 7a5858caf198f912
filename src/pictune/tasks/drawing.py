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
_INK, _WHITE = (0, 0, 0), (255, 255, 255)
_LIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green and blue, to the eye
_GROUND = 0.6  # of a name's ground over the picture, so that what lies below it shows
_NAME_WEIGHT = 3.0  # how much worse it is to hide a name than a line
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
    corners = boxes.round().astype(int).tolist()
    covered = np.zeros(pixels.shape[:2], np.float32)  # what a name should leave free: lines, and other names
    for (left, top, right, bottom), colour in zip(corners, colours, strict=True):
        cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), colour, thick)
        cv2.rectangle(covered, (left, top), (right - 1, bottom - 1), 1.0, thick)
    for box, colour, name in zip(corners, colours, names, strict=True):
        if name:
            _write(drawn, covered, name, box, colour, size=max(pixels.shape[:2]) / 1100)
    return drawn


def _write(
    pixels: Pixels,
    covered: NDArray[np.float32],
    text: str,
    box: Sequence[int],
    colour: Colour,
    *,
    size: float,
) -> None:
    """A word on a ground of its colour where it hides least, in place: above its box, below it or inside.

    Args:
        pixels: uint8 (h, w, 3).
        covered: (h, w) how bad it would be to hide a pixel.
        text: The word.
        box: Left, top, right, bottom.
        colour: Of the box.
        size: Of the letters.
    """
    plain = text.encode("ascii", "replace").decode()  # OpenCV's letters know no others
    (width, height), below = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    edge = max(1, round(max(pixels.shape[:2]) / 200)) // 2 + 1  # of the line around the box
    tall, (left, top, right, bottom) = height + below, box
    if not tall:
        return  # letters would be lower than a pixel
    places = [
        (x, y)
        for y in (top - edge - tall, top + edge, bottom + edge, bottom - edge - tall)
        for x in (left, right - width)
    ]
    inside = [
        (
            int(np.clip(x, 0, max(pixels.shape[1] - width, 0))),
            int(np.clip(y, 0, max(pixels.shape[0] - tall, 0))),
        )
        for x, y in places
    ]
    x, y = min(inside, key=lambda at: float(covered[at[1] : at[1] + tall, at[0] : at[0] + width].sum()))
    covered[y : y + tall, x : x + width] += _NAME_WEIGHT
    ground = pixels[y : y + tall, x : x + width]
    ground[:] = ground * (1 - _GROUND) + np.array(colour) * _GROUND
    ink = _INK if ground.mean(axis=(0, 1)) @ _LIGHTNESS > _GREY else _WHITE
    at = (x, y + height + below // 2)
    cv2.putText(pixels, plain, at, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)


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
