"""Makes small data sets of boxes and masks, in every layout that people use, for tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE = (64, 48)  # width and height, pixels


def image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """A picture of blobs, as PNG or JPEG by its name; another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    code = cv2.imencode(path.suffix, cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))[1]
    path.write_bytes(code.tobytes())
    return path


def text(path: Path, content: str | bytes) -> Path:
    """A file of text, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def annotation(number: int, image_id: Any, box: Any, category: Any = 1, **more: Any) -> dict[str, Any]:
    """One annotation of a COCO file."""
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": box, **more}


def document(
    annotations: Sequence[Mapping[str, Any]] = (),
    *,
    images: Sequence[Mapping[str, Any]] | None = None,
    categories: Sequence[Mapping[str, Any]] | None = None,
    names: Sequence[str] = ("a.png", "b.png"),
) -> dict[str, Any]:
    """A COCO file of two images and two classes, unless told otherwise."""
    if images is None:
        images = [
            {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for number, name in enumerate(names, start=1)
        ]
    if categories is None:
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    whole = {"images": list(images), "annotations": list(annotations), "categories": list(categories)}
    return copy.deepcopy(whole)


GOOD = (annotation(1, 1, [10, 10, 20, 20]), annotation(2, 2, [5, 6, 30, 20], 2))


def coco(root: Path, content: Any = None, *, names: Sequence[str] = ("a.png", "b.png")) -> Path:
    """A folder of images with instances.json in it."""
    for seed, name in enumerate(names):
        image(root / name, seed)
    content = document(GOOD, names=names) if content is None else content
    text(root / "instances.json", content if isinstance(content, str | bytes) else json.dumps(content))
    return root


def voc_xml(boxes: Sequence[Sequence[Any]], *, name: str = "", size: tuple[int, int] = SIZE) -> str:
    """A Pascal VOC file; each box is label, xmin, ymin, xmax, ymax and, if wanted, difficult."""
    objects = "".join(
        f"<object><name>{label}</name><difficult>{difficult[0] if difficult else 0}</difficult><bndbox>"
        f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, left, top, right, bottom, *difficult in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{stated}{objects}</annotation>"


def voc(root: Path, boxes: Mapping[str, Sequence[Sequence[Any]]] | None = None) -> Path:
    """Annotations/ and JPEGImages/ with one image a stem."""
    boxes = boxes if boxes is not None else {"a": [("cat", 10, 10, 30, 30)], "b": [("dog", 5, 6, 35, 26)]}
    for seed, (stem, rows) in enumerate(boxes.items()):
        image(root / "JPEGImages" / f"{stem}.jpg", seed)
        text(root / "Annotations" / f"{stem}.xml", voc_xml(rows, name=f"{stem}.jpg"))
    return root


def yolo(root: Path, labels: Mapping[str, str] | None = None, *, names: str | None = "cat\ndog\n") -> Path:
    """images/ and labels/ with one image a stem, and classes.txt."""
    labels = labels if labels is not None else {"a": "0 0.5 0.5 0.25 0.25\n", "b": "1 0.5 0.5 0.5 0.5\n"}
    for seed, (stem, lines) in enumerate(labels.items()):
        image(root / "images" / f"{stem}.png", seed)
        text(root / "labels" / f"{stem}.txt", lines)
    if names is not None:
        text(root / "classes.txt", names)
    return root


def box_table(
    root: Path, rows: str | None = None, *, header: str = "image,label,xmin,ymin,xmax,ymax"
) -> Path:
    """Two images and boxes.csv."""
    for seed, name in enumerate(("a.png", "b.png")):
        image(root / "pictures" / name, seed)
    rows = rows if rows is not None else "pictures/a.png,cat,10,10,30,30\npictures/b.png,dog,5,6,35,26\n"
    text(root / "boxes.csv", f"{header}\n{rows}")
    return root


def grey(path: Path, values: Any, *, size: tuple[int, int] = SIZE) -> Path:
    """A mask of 8 or 16 bits whose rows, or whose all pixels, have these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(values)
    if pixels.ndim < 2:
        rows = np.resize(pixels, size[1])
        pixels = np.repeat(rows[:, None], size[0], axis=1)
    pixels = pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def masks(root: Path, values: Mapping[str, Any] | None = None, *, names: str | None = "sky\nroad\n") -> Path:
    """images/ and masks/ with one of each a stem, and classes.txt."""
    values = values if values is not None else {"a": [0, 1], "b": [1]}
    for seed, (stem, rows) in enumerate(values.items()):
        image(root / "images" / f"{stem}.jpg", seed)
        grey(root / "masks" / f"{stem}.png", rows)
    if names is not None:
        text(root / "classes.txt", names)
    return root
