"""Masks as grey PNG files whose values are the places of the classes, and a table of the classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2

from pictune.data.formats.layouts import plural
from pictune.data.formats.writing_images import ImageToWrite, by_split, copy_image
from pictune.data.masking import IGNORED, decode_mask
from pictune.data.sample import Mask


def write_masks(images: Sequence[ImageToWrite], classes: Sequence[str], folder: Path) -> list[str]:
    """``images/``, ``masks/`` (a folder a split in both, where there are splits) and ``classes.csv``.

    Raises:
        DataError: When a mask cannot be read.
    """
    ignored = coloured = False
    for split, members in by_split(images).items():
        place = split or ""
        (folder / "masks" / place).mkdir(parents=True, exist_ok=True)
        for image in members:
            mask = image.sample.annotation
            assert isinstance(mask, Mask)
            copy_image(image, folder / "images" / place)
            indices = decode_mask(mask, classes=classes)
            ignored = ignored or bool((indices == IGNORED).any())
            coloured = coloured or mask.legend.coloured
            code = cv2.imencode(".png", indices)[1]
            (folder / "masks" / place / f"{image.stem}.png").write_bytes(code.tobytes())
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("id", "name", "ignored"))
        table.writerows((number, name, 0) for number, name in enumerate(classes))
        if ignored:
            table.writerow((IGNORED, "ignored", 1))
    sentences = []
    if coloured:
        sentences.append("The masks hold the classes' numbers as grey values; their colours are left out.")
    grouped = sum(image.sample.group is not None for image in images)
    if grouped:
        sentences.append(f"Masks hold no groups: those of {plural(grouped, 'image')} left out.")
    return sentences
