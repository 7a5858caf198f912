"""Tiny datasets made in code: coloured shapes on noise, small enough to learn in a second.

A picture's class is its shape; its colour, place and noise are drawn from its number, so that no two
pictures are alike and every call makes the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "cross", "square")
SIDE = 24  # pixels


def picture(shapes: Sequence[str], number: int, *, side: int = SIDE) -> NDArray[np.uint8]:
    """One picture (side, side, 3) with these shapes on it; another one for every number."""
    generator = np.random.default_rng([number, side])
    pixels = generator.integers(20, 110, (side, side, 3), dtype=np.uint8)
    for shape in shapes:
        colour = [int(c) for c in generator.integers(150, 256, 3)]
        reach = side // 5
        x, y = (int(v) for v in generator.integers(reach + 1, side - reach - 1, 2))
        if shape == "circle":
            cv2.circle(pixels, (x, y), reach, colour, -1)
        elif shape == "square":
            cv2.rectangle(pixels, (x - reach, y - reach), (x + reach, y + reach), colour, -1)
        else:
            cv2.line(pixels, (x - reach, y), (x + reach, y), colour, 2)
            cv2.line(pixels, (x, y - reach), (x, y + reach), colour, 2)
    return pixels


def write_picture(path: Path, shapes: Sequence[str], number: int, *, side: int = SIDE) -> None:
    """Writes one picture as PNG, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.imencode(".png", picture(shapes, number, side=side)[:, :, ::-1])[1]
    path.write_bytes(code.tobytes())


def shape_folders(
    root: Path, *, counts: Mapping[str, int] | None = None, side: int = SIDE, first: int = 0
) -> Path:
    """A folder of class folders; twenty pictures of each shape unless told otherwise.

    Pictures of other numbers than those from ``first`` on are other pictures.
    """
    counts = counts if counts is not None else dict.fromkeys(SHAPES, 20)
    number = first
    for shape, count in counts.items():
        for index in range(count):
            write_picture(root / shape / f"{index:03}.png", [shape], number, side=side)
            number += 1
    return root


def split_folders(root: Path, *, train: int = 8, val: int = 3, test: int = 3) -> Path:
    """Folders ``train``, ``val`` and ``test``, each with one folder a shape."""
    number = 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        for shape in SHAPES:
            for index in range(count):
                write_picture(root / split / shape / f"{index:03}.png", [shape], number)
                number += 1
    return root


def shape_table(root: Path, *, count: int = 60, grouped: bool = False) -> Path:
    """A CSV of path and label beside its pictures; with ``grouped`` a column names groups of three."""
    rows = []
    for number in range(count):
        shape = SHAPES[number % 3] if not grouped else SHAPES[number // 3 % 3]
        write_picture(root / "pictures" / f"{number:03}.png", [shape], number)
        row = {"path": f"pictures/{number:03}.png", "label": shape}
        rows.append({**row, "group": f"part-{number // 3}"} if grouped else row)
    return _write_table(root / "labels.csv", rows)


def many_label_table(root: Path, *, count: int = 60) -> Path:
    """A JSONL of path and a list of labels: every combination of the three shapes, none included."""
    lines = []
    for number in range(count):
        shapes = [shape for bit, shape in enumerate(SHAPES) if number >> bit & 1]
        write_picture(root / "pictures" / f"{number:03}.png", shapes, number)
        lines.append(json.dumps({"path": f"pictures/{number:03}.png", "labels": shapes}))
    path = root / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def scene(
    number: int, *, side: int = 64
) -> tuple[NDArray[np.uint8], list[tuple[str, list[int]]], NDArray[np.uint8]]:
    """A picture with up to three shapes far apart: pixels, (shape, box) of each, and a mask (0 is ground)."""
    generator = np.random.default_rng([number, side, 1])
    pixels = generator.integers(20, 90, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    objects = []
    cells = generator.permutation(4)[: generator.integers(1, 4)]
    for cell in cells:
        kind = int(generator.integers(0, 2))
        reach = int(generator.integers(side // 10, side // 6))
        x = side // 4 + (side // 2) * int(cell % 2)
        y = side // 4 + (side // 2) * int(cell // 2)
        colour = [(220, 60, 60), (60, 80, 230)][kind]
        for canvas, ink in ((pixels, colour), (mask, kind + 1)):
            if kind == 0:
                cv2.circle(canvas, (x, y), reach, ink, -1)
            else:
                cv2.rectangle(canvas, (x - reach, y - reach), (x + reach, y + reach), ink, -1)
        objects.append((("circle", "square")[kind], [x - reach, y - reach, x + reach + 1, y + reach + 1]))
    return pixels, objects, mask


def box_table(root: Path, *, count: int = 36, side: int = 64) -> Path:
    """A CSV of boxes beside its pictures, with splits: two thirds train, the rest val and test."""
    rows = []
    for number in range(count):
        pixels, objects, _ = scene(number, side=side)
        path = root / "pictures" / f"{number:03}.png"
        _save(path, pixels)
        split = ("train", "train", "train", "train", "val", "test")[number % 6]
        for label, (left, top, right, bottom) in objects:
            rows.append(
                {
                    **{"path": f"pictures/{path.name}", "label": label, "split": split},
                    **{"xmin": str(left), "ymin": str(top), "xmax": str(right), "ymax": str(bottom)},
                }
            )
    return _write_table(root / "boxes.csv", rows)


def mask_folders(root: Path, *, count: int = 36, side: int = 64) -> Path:
    """``images`` and ``masks`` with split folders, and the names of the classes."""
    for number in range(count):
        pixels, _, mask = scene(number, side=side)
        split = ("train", "train", "train", "train", "val", "test")[number % 6]
        _save(root / "images" / split / f"{number:03}.png", pixels)
        _save(root / "masks" / split / f"{number:03}.png", mask)
    (root / "classes.txt").write_text("ground\ncircle\nsquare\n", encoding="utf-8")
    return root


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, ::-1])
    path.write_bytes(cv2.imencode(".png", shown)[1].tobytes())
