"""Boxes as COCO, Pascal VOC, YOLO or a table, each with sentences on what it cannot hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape as escape_xml

import numpy as np
import yaml
from numpy.typing import NDArray

from pictune.data.formats.layouts import listed, plural
from pictune.data.formats.writing_images import ImageToWrite, by_split, copy_image
from pictune.data.sample import Boxes


def _boxes(image: ImageToWrite) -> Boxes:
    boxes = image.sample.annotation
    assert isinstance(boxes, Boxes)
    return boxes


def _crowd(boxes: Boxes) -> list[bool]:
    return [False] * len(boxes) if boxes.crowd is None else boxes.crowd.tolist()


def _cannot_hold(images: Sequence[ImageToWrite], format: str, *, groups: bool = True) -> list[str]:
    """What only COCO holds, and groups, which only a table holds."""
    sentences = []
    outlines = sum(sum(o is not None for o in _boxes(i).outlines or ()) for i in images)
    if outlines and format != "COCO":
        sentences.append(f"{format} holds boxes only: {plural(outlines, 'outline')} left out.")
    areas = sum(len(_boxes(i)) for i in images if _boxes(i).areas is not None)
    if areas and format != "COCO":
        sentences.append(f"{format} holds no areas of objects: those of {plural(areas, 'object')} left out.")
    grouped = sum(image.sample.group is not None for image in images)
    if grouped and groups:
        sentences.append(f"{format} holds no groups: those of {plural(grouped, 'image')} left out.")
    return sentences


def write_coco(images: Sequence[ImageToWrite], classes: Sequence[str], folder: Path) -> list[str]:
    """``images/`` and ``annotations/instances.json``, or one such file a split; ids count from 1."""
    number_of = {name: number for number, name in enumerate(classes, start=1)}
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    for split, members in by_split(images).items():
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for name, number in number_of.items()],
        }
        for number, image in enumerate(members, start=1):
            copy_image(image, folder / "images")
            entry = {"id": number, "file_name": image.name, "width": image.width, "height": image.height}
            document["images"].append(entry)
            document["annotations"] += _coco_annotations(
                _boxes(image), number, number_of, first=len(document["annotations"]) + 1
            )
        file = folder / "annotations" / (f"instances_{split}.json" if split else "instances.json")
        file.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return _cannot_hold(images, "COCO")


def _coco_annotations(
    boxes: Boxes, image: int, number_of: dict[str, int], *, first: int
) -> list[dict[str, Any]]:
    entries = []
    for row, (label, crowd) in enumerate(zip(boxes.labels, _crowd(boxes), strict=True)):
        left, top, right, bottom = boxes.corners[row].tolist()
        area = (right - left) * (bottom - top) if boxes.areas is None else float(boxes.areas[row])
        outline = boxes.outlines[row] if boxes.outlines is not None else None
        entries.append(
            {
                "id": first + row,
                "image_id": image,
                "category_id": number_of[label],
                "bbox": [left, top, right - left, bottom - top],
                "area": area,
                "iscrowd": int(crowd),
                "segmentation": [] if outline is None else outline,
            }
        )
    return entries


def write_voc(images: Sequence[ImageToWrite], classes: Sequence[str], folder: Path) -> list[str]:
    """``Annotations/``, ``JPEGImages/`` and, where there are splits, the lists in ``ImageSets/Main/``."""
    (folder / "Annotations").mkdir()
    (folder / "JPEGImages").mkdir()
    between = 0
    for image in images:
        copy_image(image, folder / "JPEGImages")
        text = _voc_text(image)
        (folder / "Annotations" / f"{image.stem}.xml").write_text(text, encoding="utf-8")
        corners = _whole(_boxes(image).corners)
        between += int((corners != corners.round()).any(axis=1).sum())
    for split, members in by_split(images).items():
        if split:
            lists = folder / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            names = "".join(f"{image.stem}\n" for image in members)
            (lists / f"{split}.txt").write_text(names, encoding="utf-8")
    sentences = _cannot_hold(images, "Pascal VOC")
    crowds = sum(sum(_crowd(_boxes(image))) for image in images)
    if crowds:
        sentences.append(f"{plural(crowds, 'crowd box', 'crowd boxes')} written as difficult.")
    if between:
        what = plural(between, "box has", "boxes have")
        sentences.append(f"{what} corners between pixels, and some readers of Pascal VOC want whole numbers.")
    return sentences


def _whole(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners a millionth of a pixel from whole ones are those: shares of a side, as in YOLO, round."""
    near: NDArray[np.float64] = corners.round()
    return np.where(np.abs(corners - near) < 1e-6, near, corners)


def _voc_text(image: ImageToWrite) -> str:
    boxes = _boxes(image)
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape_xml(image.name)}</filename>",
        f"  <size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>",
    ]
    for label, corners, crowd in zip(
        boxes.labels, _whole(boxes.corners).tolist(), _crowd(boxes), strict=True
    ):
        left, top, right, bottom = (int(value) if value == int(value) else value for value in corners)
        lines += [
            "  <object>",
            f"    <name>{escape_xml(label)}</name>",
            "    <pose>Unspecified</pose>",
            "    <truncated>0</truncated>",
            f"    <difficult>{int(crowd)}</difficult>",
            "    <bndbox>",
            f"      <xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>",
            "    </bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def write_yolo(images: Sequence[ImageToWrite], classes: Sequence[str], folder: Path) -> list[str]:
    """``images/``, ``labels/`` and ``data.yaml``; a folder a split in both, where there are splits."""
    number_of = {name: number for number, name in enumerate(classes)}
    places: dict[str, str] = {}
    crowds, emptied = 0, []
    for split, members in by_split(images).items():
        place = Path(split or "")
        places[split or "train"] = (Path("images") / place).as_posix()
        (folder / "labels" / place).mkdir(parents=True, exist_ok=True)
        (folder / "images" / place).mkdir(parents=True, exist_ok=True)
        for image in members:
            boxes = _boxes(image)
            crowd = _crowd(boxes)
            crowds += sum(crowd)
            if crowd and all(crowd):
                emptied.append(image.sample.key)
                continue
            copy_image(image, folder / "images" / place)
            lines = [
                _yolo_line(number_of[label], corners, image.width, image.height)
                for label, corners, many in zip(boxes.labels, boxes.corners.tolist(), crowd, strict=True)
                if not many
            ]
            text = "".join(f"{line}\n" for line in lines)
            (folder / "labels" / place / f"{image.stem}.txt").write_text(text, encoding="utf-8")
    description = {**places, "names": dict(enumerate(classes))}
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    sentences = _cannot_hold(images, "YOLO")
    if crowds:
        sentences.append(f"YOLO holds no crowds: {plural(crowds, 'box', 'boxes')} left out.")
    if emptied:
        what = f"{plural(len(emptied), 'image')} with nothing but crowds left out"
        sentences.append(f"{what}, because it would count as showing nothing: {listed(emptied)}.")
    return sentences


def _yolo_line(number: int, corners: Sequence[float], width: int, height: int) -> str:
    left, top, right, bottom = corners
    shares = (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )
    return " ".join([str(number), *(f"{share:.10g}" for share in shares)])


def write_box_table(images: Sequence[ImageToWrite], classes: Sequence[str], folder: Path) -> list[str]:
    """``boxes.csv`` and ``images/``; columns for crowds, splits and groups where there are any."""
    (folder / "images").mkdir()
    columns = ["image", "label", "xmin", "ymin", "xmax", "ymax", "width", "height"]
    columns += ["crowd"] if any(any(_crowd(_boxes(image))) for image in images) else []
    columns += ["split"] if any(image.split for image in images) else []
    columns += ["group"] if any(image.sample.group for image in images) else []
    with (folder / "boxes.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for image in images:
            copy_image(image, folder / "images")
            boxes = _boxes(image)
            of_image = {
                "image": f"images/{image.name}",
                "width": image.width,
                "height": image.height,
                "split": image.split,
                "group": image.sample.group,
            }
            rows = [
                {
                    **of_image,
                    "label": label,
                    "crowd": int(crowd),
                    **dict(zip(columns[2:6], corners, strict=True)),
                }
                for label, corners, crowd in zip(
                    boxes.labels, boxes.corners.tolist(), _crowd(boxes), strict=True
                )
            ]
            table.writerows(rows or [of_image])
    return _cannot_hold(images, "A table of boxes", groups=False)
