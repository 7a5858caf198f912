"""The demo's scenes: several handwritten digits in one photograph, with boxes or masks by construction.

What is true of a scene follows from what it was drawn from: a digit's pixels are those that are mostly ink,
and its box is the smallest one around them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.addressing import Lane, address
from pictune.data.augmentation.steps import Pixels, between
from pictune.data.digits import (
    Placement,
    Sources,
    background,
    coverage,
    finished,
    load_sources,
    paint,
    taking_turns,
    write_picture,
    written,
)
from pictune.data.drawn_folder import draw_once

SIZE = (160, 120)  # width and height of a scene, pixels
SCENES_EACH = 4  # how many scenes share their handwritings: the group that a split must not separate
POOL = 10  # handwritings of a group, one of each digit
MOST = 5  # digits in one scene

NAMES = ("background", *(str(digit) for digit in range(10)))  # by the number in the masks

_VERSION = 1
_TRIES = 60  # to find a free place for a digit


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides one picture.

    Args:
        group: Number of the handwritings' pool.
        digits: What lies where; all on the same part of the same photograph.
    """

    group: int
    digits: tuple[Placement, ...]


def draw_boxes(folder: Path, *, images: int, seed: int = 0) -> Path:
    """Draws scenes with a box around every digit, or finds them drawn already.

    Writes ``images/*.jpg`` and ``boxes.csv``: path, left, top, right, bottom (pixels), label, group. The
    same arguments give the same bytes.

    Args:
        folder: Where to; must not hold anything else.
        images: How many scenes.
        seed: Other scenes for another seed.

    Raises:
        DataError: When the folder holds something else (``folder_taken``).
        MachineError: When the disk is full or may not be written.
    """
    return draw_once(folder, _mark("boxes", images, seed), lambda place: _write_boxes(place, images, seed))


def draw_masks(folder: Path, *, images: int, seed: int = 0) -> Path:
    """Draws scenes with the digit of every pixel, or finds them drawn already.

    Writes ``images/*.jpg``, ``masks/*.png`` and ``classes.txt``; files of scenes that share handwritings
    begin alike (``g0012_``). Arguments and errors as in `draw_boxes`.
    """
    return draw_once(folder, _mark("masks", images, seed), lambda place: _write_masks(place, images, seed))


def _mark(truths: str, images: int, seed: int) -> dict[str, object]:
    return {"drawn_by": "pictune", "version": _VERSION, "truths": truths, "images": images, "seed": seed}


def _write_boxes(folder: Path, images: int, seed: int) -> None:
    sources = load_sources()
    (folder / "images").mkdir()
    with (folder / "boxes.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("path", "left", "top", "right", "bottom", "label", "group"))
        for position, scene in enumerate(scenes(sources, images=images, seed=seed)):
            path = f"images/{position:05d}.jpg"
            write_picture(folder / path, draw_scene(scene, sources))
            for placement in scene.digits:
                box = box_of(pixels_of(placement, sources))
                table.writerow((path, *box, sources.labels[placement.original], f"pool-{scene.group:04d}"))


def _write_masks(folder: Path, images: int, seed: int) -> None:
    sources = load_sources()
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    for position, scene in enumerate(scenes(sources, images=images, seed=seed)):
        name = f"g{scene.group:04d}_{position:05d}"
        write_picture(folder / f"images/{name}.jpg", draw_scene(scene, sources))
        encoded = cv2.imencode(".png", mask_of(scene, sources))[1]
        (folder / f"masks/{name}.png").write_bytes(encoded.tobytes())


def scenes(sources: Sources, *, images: int, seed: int) -> Iterator[Scene]:
    """What lies where on each picture, in the order of the files."""
    originals = taking_turns(sources.labels, seed)
    groups = len(originals) // POOL
    for position in range(images):
        group = position // SCENES_EACH % groups
        pool = originals[group * POOL : (group + 1) * POOL]
        rng = address(seed, 0, position, lane=Lane.DRAWING)
        yield Scene(group, tuple(_placed(pool, sources, rng)))


def _placed(pool: list[int], sources: Sources, rng: np.random.Generator) -> Iterator[Placement]:
    """Two to five digits of a pool, none on another, on one part of one photograph."""
    width, height = SIZE
    photograph = int(rng.integers(len(sources.photographs)))
    rows, columns = sources.photographs[photograph].shape[:2]
    wide = round(min(columns, rows * width / height) * between(rng, 0.3, 1))
    deep = wide * height // width
    window = (int(rng.integers(columns - wide + 1)), int(rng.integers(rows - deep + 1)), wide)
    taken: list[tuple[float, float, float]] = []
    for original in rng.permutation(pool)[: rng.integers(2, MOST + 1)].tolist():
        tall = height * between(rng, 0.25, 0.42)
        spot = _free_spot(tall, taken, rng)
        if spot is None:
            continue  # the first always finds a place
        taken.append((*spot, tall))
        yield Placement(
            original,
            written(*spot, tall, rng),
            photograph,
            window,
            lightness=between(rng, 110, 160),
            tint=(between(rng, 0, 360), between(rng, 0.2, 1)),
        )


def _free_spot(
    tall: float, taken: list[tuple[float, float, float]], rng: np.random.Generator
) -> tuple[float, float] | None:
    """A middle for a digit of this height where it touches neither another nor the edge, if one is found."""
    width, height = SIZE
    reach = 0.6 * tall  # a turned and slanted digit is a little larger than it is tall
    for _ in range(_TRIES):
        x, y = between(rng, reach, width - reach), between(rng, reach, height - reach)
        if all(max(abs(x - left), abs(y - top)) > reach + 0.6 * other for left, top, other in taken):
            return x, y
    return None


def draw_scene(scene: Scene, sources: Sources) -> Pixels:
    """The picture: photograph, shadows, ink; ``uint8 [height, width, 3]``."""
    width, height = SIZE
    first = scene.digits[0]
    left, top, wide = first.window
    part = sources.photographs[first.photograph][top : top + wide * height // width, left : left + wide]
    picture = background(part, width, height)
    for placement in scene.digits:
        paint(picture, placement, sources)
    return finished(picture)


def pixels_of(placement: Placement, sources: Sources) -> NDArray[np.bool_]:
    """``[height, width]`` the pixels of which a digit covers more than half."""
    width, height = SIZE
    return coverage(placement, sources, width=width, height=height) > 0.5


def box_of(pixels: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the smallest box around these pixels; there must be some."""
    across, down = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def mask_of(scene: Scene, sources: Sources) -> NDArray[np.uint8]:
    """``uint8 [height, width]``: 0 is background, 1 to 10 are the digits 0 to 9."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    for placement in scene.digits:
        mask[pixels_of(placement, sources)] = sources.labels[placement.original] + 1
    return mask
