"""What a format read, held against the picture once that is open: its size, and how it lies in the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.box_checks import ROUNDING, Fate, judge
from pictune.data.formats.boxes import SAID
from pictune.data.formats.layouts import plural
from pictune.data.masking import check_mask
from pictune.data.sample import Boxes, Mask, Sample


def fit_sample(
    sample: Sample, *, width: int, height: int, orientation: int = 1
) -> tuple[Sample | None, list[Finding]]:
    """A sample as a format read it, with its true size and its annotation fitted to that.

    Args:
        sample: Its size is that which its annotation states, or 0.
        width: Of the upright picture, pixels.
        height: Of the upright picture, pixels.
        orientation: The file's EXIF orientation, 1 to 8.

    Returns:
        The sample, or None when it is left out, and what was noticed; ``size_differs`` rejects.
    """
    annotation = sample.annotation
    findings: list[Finding] = []
    if isinstance(annotation, Mask):
        finding = check_mask(sample, width, height)
        if finding is not None:
            return None, [finding]
    elif isinstance(annotation, Boxes):
        stated = (sample.width, sample.height)
        fitted, findings = fit_boxes(
            annotation, stated, (width, height), orientation=orientation, where=sample.key
        )
        if len(annotation) and not len(fitted):
            message = f"{sample.key} lost all its boxes; it is left out."
            return None, [*findings, Finding("no_box_left", Outcome.QUARANTINE, sample.key, message)]
        annotation = fitted
    return replace(sample, annotation=annotation, width=width, height=height), findings


def fit_boxes(
    boxes: Boxes,
    stated_size: tuple[int, int],
    true_size: tuple[int, int],
    *,
    orientation: int = 1,
    where: str = "",
) -> tuple[Boxes, list[Finding]]:
    """Boxes on the upright picture, from the size that the annotation file states to the true one.

    Where the two are equal but for a quarter turn, and the file's EXIF field asks for one, the boxes were
    drawn on the picture as stored, and are turned with it.

    Args:
        boxes: As a format read them.
        stated_size: Width and height that the annotation file states, pixels; 0 for none.
        true_size: Width and height of the upright picture, pixels.
        orientation: The file's EXIF orientation, 1 to 8.
        where: The sample's key.

    Returns:
        The boxes and what was noticed; ``size_differs`` rejects.
    """
    findings: list[Finding] = []
    turned = stated_size == true_size[::-1] != true_size and orientation >= 5
    if turned:
        boxes = _turned(boxes, stated_size, orientation)
        message = f"The boxes of {where} were drawn on the picture as stored and were turned upright with it."
        findings.append(Finding("turned_boxes", Outcome.NORMALISE, where, message))
    elif stated_size != true_size and min(stated_size) > 0:
        message = (
            f"{where} has {true_size[0]} x {true_size[1]} pixels, but its annotations speak of "
            f"{stated_size[0]} x {stated_size[1]}; was it resized after it was annotated?"
        )
        return boxes, [Finding("size_differs", Outcome.REJECT, where, message)]
    if not len(boxes) or (stated_size == true_size and not turned):
        return boxes, findings  # the format has cut them to that size already
    size = np.tile(np.array(true_size, dtype=np.float64), (len(boxes), 1))
    fates, inside, cut = judge(boxes.corners, size)
    for row in np.flatnonzero(fates != Fate.FINE).tolist():
        code, what = SAID[Fate(fates[row])]
        message = f"Box {row + 1} of {where} {what}; it is left out."
        findings.append(Finding(code, Outcome.QUARANTINE, where, message))
    if (over := int(((cut > ROUNDING) & (fates == Fate.FINE)).sum())) > 0:
        message = f"{plural(over, 'box', 'boxes')} of {where} cut off at the edge of the picture."
        findings.append(Finding("clipped_box", Outcome.NORMALISE, where, message))
    return _chosen(boxes, np.flatnonzero(fates == Fate.FINE), inside), findings


def _chosen(boxes: Boxes, rows: NDArray[np.int64], corners: NDArray[np.float64]) -> Boxes:
    return Boxes(
        tuple(boxes.labels[row] for row in rows),
        corners[rows],
        None if boxes.crowd is None else boxes.crowd[rows],
        None if boxes.areas is None else boxes.areas[rows],
        None if boxes.outlines is None else tuple(boxes.outlines[row] for row in rows),
    )


def _turned(boxes: Boxes, stored: tuple[int, int], orientation: int) -> Boxes:
    """Boxes and polygons from the picture as stored to the upright one; run lengths are given up."""
    width, height = stored

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[..., 0], points[..., 1]
        to = {5: (y, x), 6: (height - y, x), 7: (height - y, width - x), 8: (y, width - x)}
        return np.stack(to[orientation], axis=-1)

    ends = move(boxes.corners.reshape(-1, 2, 2))
    corners = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
    outlines = boxes.outlines and tuple(
        [move(np.array(polygon, dtype=np.float64).reshape(-1, 2)).reshape(-1).tolist() for polygon in outline]
        if isinstance(outline, list)
        else None
        for outline in boxes.outlines
    )
    return Boxes(boxes.labels, corners, boxes.crowd, boxes.areas, outlines)
