"""The demo's data: handwritten digits drawn onto photographs, made from what scikit-learn brings along.

Every picture is known by construction: a `Placement` says which handwriting lies where, at what angle and
in which colour, and the picture follows from it alone. Nothing is downloaded.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.addressing import Lane, address
from pictune.data.augmentation.geometry import affine, turn, zoom
from pictune.data.augmentation.steps import Matrix, Pixels, between
from pictune.data.drawn_folder import draw_once

PICTURES_EACH = 3  # how many pictures show the same handwriting: the group that a split must not separate

_VERSION = 1
_CELLS = 8  # a bundled digit is 8 x 8 cells, each 0..16
_LUMA = np.array((0.299, 0.587, 0.114))
_OUT_OF_FOCUS = 1 / 48  # blur of the background, as a share of the picture's side
_SHADOW = 0.45  # how much light the shadow takes away

Ink = tuple[float, float, float]
Canvas = NDArray[np.float32]  # [height, width, 3] in 0..255, while it is being painted


@dataclass(frozen=True)
class Sources:
    """What the pictures are drawn from.

    Args:
        digits: ``[n, 8, 8]`` float32 in 0..1, 1 is ink.
        labels: ``[n]`` the digits they show.
        photographs: Each ``uint8 [height, width, 3]``, RGB.
    """

    digits: NDArray[np.float32]
    labels: NDArray[np.int64]
    photographs: tuple[Pixels, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything that decides one picture.

    Args:
        original: Index of the handwriting among scikit-learn's digits; the picture's group.
        matrix: 3x3, from the digit's cells (0..8) to the picture, both in pixels.
        photograph: Which photograph lies behind.
        window: The part of it that is seen: left, top, side, in pixels.
        lightness: How far the ink's brightness is from the background's, 0..255.
        tint: The ink's hue in degrees and how colourful it is, 0..1.
    """

    original: int
    matrix: Matrix
    photograph: int
    window: tuple[int, int, int]
    lightness: float
    tint: tuple[float, float]


def draw_digits(folder: Path, *, images: int = 2000, size: int = 64, seed: int = 0) -> Path:
    """Draws the demo's data set, or finds it drawn already.

    Writes ``images/*.jpg`` and ``labels.csv`` (path, label, group). The group is the handwriting: each lies
    on several pictures, so a split that ignores groups shows a model in training what it is tested on.
    The same arguments give the same bytes. The folder appears complete or not at all.

    Args:
        folder: Where to; must not hold anything else.
        images: How many pictures; classes are equally frequent up to one handwriting.
        size: Their side in pixels, at least 16.
        seed: Other pictures for another seed.

    Returns:
        The folder.

    Raises:
        DataError: When the folder holds something else (``folder_taken``).
        MachineError: When the disk is full or may not be written.
    """
    assert images >= 1, images
    assert size >= 16, size
    mark = {"drawn_by": "pictune", "version": _VERSION, "images": images, "size": size, "seed": seed}
    return draw_once(
        folder, mark, lambda place: _write(place, load_sources(), images=images, size=size, seed=seed)
    )


def _write(folder: Path, sources: Sources, *, images: int, size: int, seed: int) -> None:
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "label", "group"))
        for position, placement in enumerate(placements(sources, images=images, size=size, seed=seed)):
            path = f"images/{position:05d}.jpg"
            write_picture(folder / path, draw(placement, sources, size=size))
            table.writerow((path, sources.labels[placement.original], f"digit-{placement.original:04d}"))


def write_picture(path: Path, pixels: Pixels) -> None:
    """Writes RGB pixels as a JPEG of quality 92."""
    encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 92))[1]
    path.write_bytes(encoded.tobytes())


def load_sources() -> Sources:
    """Scikit-learn's bundled digits (1,797 of 8 x 8 cells) and its two photographs."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    return Sources(
        (digits.images / 16).astype(np.float32),
        digits.target.astype(np.int64),
        tuple(np.ascontiguousarray(photograph) for photograph in load_sample_images().images),
    )


def placements(sources: Sources, *, images: int, size: int, seed: int) -> Iterator[Placement]:
    """What lies where on each picture, in the order of the files."""
    originals = taking_turns(sources.labels, seed)
    for position in range(images):
        rng = address(seed, 0, position, lane=Lane.DRAWING)
        yield _placed(originals[(position // PICTURES_EACH) % len(originals)], sources, size=size, rng=rng)


def taking_turns(labels: NDArray[np.int64], seed: int) -> list[int]:
    """Handwritings in a random order in which the ten digits take turns."""
    rng = address(seed, 0, 0, lane=Lane.ORDER)
    by_class = [rng.permutation(np.flatnonzero(labels == digit)).tolist() for digit in np.unique(labels)]
    return [index for turn_of_all in zip(*by_class, strict=False) for index in turn_of_all]


def _placed(original: int, sources: Sources, *, size: int, rng: np.random.Generator) -> Placement:
    height = size * between(rng, 0.65, 0.9)  # of the digit, in pixels
    # The digit's corners reach beyond its own width when it is turned; some may be cut off, ink hardly.
    slack = (size - height) / 2
    x, y = (size / 2 + between(rng, -slack, slack) for _ in range(2))
    matrix = written(x, y, height, rng)
    photograph = int(rng.integers(len(sources.photographs)))
    rows, columns = sources.photographs[photograph].shape[:2]
    side = round(min(rows, columns) * between(rng, 0.2, 0.7))
    window = (int(rng.integers(columns - side + 1)), int(rng.integers(rows - side + 1)), side)
    return Placement(
        original,
        matrix,
        photograph,
        window,
        lightness=between(rng, 110, 160),
        tint=(between(rng, 0, 360), between(rng, 0.2, 1)),
    )


def written(x: float, y: float, height: float, rng: np.random.Generator) -> Matrix:
    """A digit's cells to a digit of this height around this point, a little turned, stretched and slanted."""
    half = _CELLS / 2
    return (
        affine(1, 0, x, 0, 1, y)
        @ turn(between(rng, -10, 10))
        @ zoom(height / _CELLS)
        @ affine(between(rng, 0.8, 1.15), between(rng, -0.15, 0.15), 0, 0, 1, 0)
        @ affine(1, 0, -half, 0, 1, -half)
    )


def draw(placement: Placement, sources: Sources, *, size: int) -> Pixels:
    """The picture that a placement describes: background, shadow, ink; ``uint8 [size, size, 3]``."""
    left, top, side = placement.window
    part = sources.photographs[placement.photograph][top : top + side, left : left + side]
    picture = background(part, size, size)
    paint(picture, placement, sources)
    return finished(picture)


def background(part: Pixels, width: int, height: int) -> Canvas:
    """A part of a photograph, out of focus, at this size."""
    picture = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    blurred: Canvas = cv2.GaussianBlur(picture, (0, 0), max(width, height) * _OUT_OF_FOCUS)
    return blurred


def paint(picture: Canvas, placement: Placement, sources: Sources) -> None:
    """Puts a digit's shadow and its ink onto the picture."""
    height, width = picture.shape[:2]
    ink = coverage(placement, sources, width=width, height=height)
    behind = cv2.mean(picture, (ink > 0.1).astype(np.uint8))[:3]
    distance = max(1.0, max(width, height) / 32)
    offset = np.array(((1, 0, distance), (0, 1, distance)))
    shadow = cv2.GaussianBlur(cv2.warpAffine(ink, offset, (width, height)), (0, 0), distance)
    picture *= 1 - _SHADOW * shadow[..., None]
    picture += ink[..., None] * (np.array(_ink(placement, np.array(behind)), np.float32) - picture)


def finished(picture: Canvas) -> Pixels:
    """Whole numbers."""
    drawn: Pixels = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    return drawn


def coverage(placement: Placement, sources: Sources, *, width: int, height: int) -> NDArray[np.float32]:
    """How much of each pixel is ink, ``[height, width]`` in 0..1: the digit's soft mask."""
    # Half a cell makes the step from corners, where our coordinates start, to centres, where OpenCV's do.
    matrix = affine(1, 0, -0.5, 0, 1, -0.5) @ placement.matrix @ affine(1, 0, 0.5, 0, 1, 0.5)
    cells = sources.digits[placement.original]
    spread = cv2.warpAffine(cells, matrix[:2], (width, height), flags=cv2.INTER_CUBIC)
    # A cell is grey where a pen passed through a part of it: its middle grey is the stroke's edge.
    edge = np.clip((spread - 0.4) / 0.3, 0, 1)
    soft: NDArray[np.float32] = edge * edge * (3 - 2 * edge)
    return soft


def _ink(placement: Placement, behind: NDArray[np.float64]) -> Ink:
    """A colour of the placement's tint whose brightness is its distance away from what lies behind."""
    luma = float(_LUMA @ behind)
    # Away from the nearer end of the range, where there's room.
    wanted = luma - placement.lightness if luma > 127 else luma + placement.lightness
    hue, colourfulness = placement.tint
    angles = np.radians(hue + np.array((0, 120, 240)))
    chroma = np.cos(angles)
    chroma -= _LUMA @ chroma  # no brightness of its own
    room = min(
        ((255 - wanted) if part > 0 else wanted) / abs(part)
        for part in chroma.tolist()
        if not math.isclose(part, 0)
    )
    red, green, blue = wanted + max(0.0, room) * colourfulness * chroma
    return float(red), float(green), float(blue)
