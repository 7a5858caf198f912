"""Outlines of objects as COCO files hold them: polygons, and run lengths of a mask's pixels.

Nothing is learnt from them; they are kept as they stand for `convert`, or left out where no program could
read them. A polygon that crosses itself or leaves the image is kept: the box around it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LEAST_NUMBERS = 6  # three points
_TOO_LARGE = 2.0**53


def outline_complaint(outline: Any, width: int, height: int) -> str | None:
    """What is wrong with an outline, as a phrase; None when nothing is, or when there is no outline.

    Args:
        outline: What stands under ``segmentation``.
        width: The image's width as stated, pixels; 0 where unknown.
        height: The image's height as stated, pixels; 0 where unknown.
    """
    if outline is None or outline == []:
        return None
    if isinstance(outline, dict):
        return _run_length_complaint(outline, width, height)
    if not isinstance(outline, list):
        return "has an outline that is neither polygons nor run lengths"
    return next((complaint for part in outline if (complaint := polygon_complaint(part))), None)


def of_another_image(outline: Any, width: int, height: int) -> str | None:
    """Says so, as a phrase, where run lengths are of another size than their image.

    Args:
        outline: What stands under ``segmentation``.
        width: The image's width as stated, pixels; 0 where unknown.
        height: The image's height as stated, pixels; 0 where unknown.
    """
    size = outline.get("size") if isinstance(outline, dict) else None
    if not isinstance(size, list) or len(size) != 2 or min(width, height) <= 0 or size == [height, width]:
        return None
    return f"has run lengths for {str(size)[:40]} (height, width), but its image has {[height, width]}"


def polygon_complaint(numbers: Any) -> str | None:
    """What is wrong with one polygon x, y, x, y, ..., as a phrase; None when nothing is."""
    if not isinstance(numbers, list):
        return "has an outline that is no list of numbers"
    if len(numbers) % 2:
        return f"has an outline of {len(numbers):,} numbers, so that an x is without its y"
    if len(numbers) < _LEAST_NUMBERS:
        return f"has an outline of {len(numbers) // 2} points; a polygon needs three"
    if not _are_finite(numbers):
        return "has an outline with something that is no finite number"
    return None


def _are_finite(numbers: list[Any]) -> bool:
    """Whether all are finite numbers, and none so large that no image could hold it."""
    # A file has millions of them: a set of types and a sum are ten times quicker than a look at each.
    return set(map(type, numbers)) <= {int, float} and abs(sum(numbers)) < _TOO_LARGE


def _run_length_complaint(outline: dict[str, Any], width: int, height: int) -> str | None:
    size, counts = outline.get("size"), outline.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, str | list):
        return "has run lengths without size or counts"
    runs = counts if isinstance(counts, list) else _decompressed(counts)
    if runs is None or not all(type(run) is int and run >= 0 for run in runs):
        return "has run lengths that cannot be read"
    if min(width, height) > 0 and sum(runs) != width * height:
        return f"has run lengths that add up to {sum(runs):,} pixels of {width * height:,}"
    return None


def _decompressed(text: str) -> list[int] | None:
    """Run lengths from COCO's compressed text; None where it is no such text.

    Each number is written in groups of five bits, the lowest first, as characters from ``0`` on; a sixth bit
    says that more follow. From the fourth number on, what is written is the difference to the one two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return None if shift else runs


def box_around(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Left, top, right, bottom of the smallest box that holds all polygons."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))]
