"""Boxes as annotation files give them, checked all at once, and what is right or wrong with them.

What happens to a box, in this order: numbers that are no four finite numbers, no extent, no pixel inside
the image: left out; reaching past the edge: cut off there; thinner than a pixel then: left out; the same
class and corners as another box of the image: left out as its double.

Shapes: n images, t boxes of all images, b boxes of one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.box_checks import ROUNDING, Fate, Form, doubles, doubts, judge
from pictune.data.formats.layouts import plural
from pictune.data.sample import Boxes, Dataset
from pictune.data.scanning import escape
from pictune.errors import DataError

#: The codes of findings that each stand for one box left out, not for an image.
LOST_BOXES = frozenset({"bad_box", "empty_box", "outside_box", "unknown_image"})
#: The codes of further findings about annotations that lose nothing a model learns from.
HARMLESS = frozenset({"duplicate_box", "bad_outline"})

_MOST_SHOWN = 50
_NOTHING = (math.nan,) * 4
_TOO_LARGE = 2.0**53

#: The code of each fate, and what is said of such a box.
SAID = {
    Fate.BAD: ("bad_box", "has numbers that are not finite"),
    Fate.EMPTY: (
        "empty_box",
        "has no extent: its right or bottom edge does not lie beyond the left or top one",
    ),
    Fate.OUTSIDE: ("outside_box", "lies outside its image"),
    Fate.THIN: ("empty_box", "is less than one pixel wide or high"),
    Fate.DOUBLE: ("duplicate_box", "repeats another box of the image"),
}


class Place(NamedTuple):
    """Where a box stands: in words, the two together, such as ``a.txt:`` and ``3``."""

    file: str
    item: object

    def __str__(self) -> str:
        text = escape(str(self.item))
        return f"{self.file}{text if len(text) <= 80 else f'{text[:77]}...'}"


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """The boxes of every image after the checks.

    Args:
        boxes: (n) of each image.
        emptied: The images that had boxes and lost them all.
        findings: What was left out and changed.
    """

    boxes: list[Boxes]
    emptied: list[int]
    findings: list[Finding]


class BoxSheet:
    """Collects the boxes of all images, one row a box, and checks them.

    Args:
        form: What the four numbers of a box mean.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._images: list[int] = []
        self._labels: list[str] = []
        self._numbers: list[Sequence[float]] = []
        self._places: list[Place] = []
        self._crowds: list[bool] = []
        self._areas: list[float] = []
        self._outlines: list[Any] = []
        self._broken: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def add(
        self,
        image: int,
        label: str,
        numbers: object,
        place: Place,
        *,
        crowd: bool = False,
        area: object = None,
        outline: Any = None,
        complaint: str = "",
    ) -> None:
        """One box as it stands in a file.

        Args:
            image: Its image's number, from 0.
            label: Its class, as written; empty, with a complaint, where that is not known.
            numbers: Four numbers in pixels, or whatever stands in their place.
            place: Where it stands.
            crowd: See `Boxes`.
            area: Pixels of the object, if a positive number.
            outline: See `Boxes`.
            complaint: What the format found wrong with the box already; it is then left out.
        """
        if complaint or not _are_four(numbers):
            self._broken[len(self._labels)] = (
                complaint or f"is no four finite numbers (found {_shown(numbers)})"
            )
            numbers = _NOTHING
        self._images.append(image)
        self._labels.append(label)
        self._numbers.append(numbers)  # type: ignore[arg-type]  # `_are_four` has looked
        self._places.append(place)
        self._crowds.append(crowd)
        self._areas.append(area if _is_positive(area) else math.nan)  # type: ignore[arg-type]
        self._outlines.append(outline)

    def images_of_labels(self) -> Counter[str]:
        """In how many images each class occurs, boxes left out included; in the order of first occurrence."""
        pairs = dict.fromkeys(zip(self._images, self._labels, strict=True))
        return Counter(label for _, label in pairs if label)

    def cleaned(self, sizes: Sequence[tuple[int, int]], names: dict[str, str]) -> Cleaned:
        """Checks every box.

        Args:
            sizes: (n) width and height of each image, pixels; 0 where unknown, and nothing is then cut off.
            names: The clean name of each class.
        """
        image = np.array(self._images, dtype=np.int64)
        numbers = np.array(self._numbers, dtype=np.float64).reshape(-1, 4)
        size = np.array(sizes, dtype=np.float64).reshape(-1, 2)[image]
        corners = numbers
        if self._form == "sizes":
            with np.errstate(over="ignore", invalid="ignore"):
                corners = np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1)
        fates, inside, cut = judge(corners, size)
        label_of = {raw: number for number, raw in enumerate(names)}
        labels = np.array([label_of.get(raw, -1) for raw in self._labels], dtype=np.int64)
        fates[doubles(image, labels, inside) & (fates == Fate.FINE)] = Fate.DOUBLE
        findings = [*self._left_out(fates), *self._cut_off(cut, fates, corners, size)]
        findings += doubts(self._form, numbers, size, image, inside)
        kept = np.flatnonzero(fates == Fate.FINE)
        kept = kept[np.argsort(image[kept], kind="stable")]
        bounds = np.searchsorted(image[kept], np.arange(len(sizes) + 1))
        boxes = [self._boxes(kept[start:stop], inside, names) for start, stop in pairwise(bounds.tolist())]
        emptied = sorted(set(self._images) - set(image[kept].tolist()))
        return Cleaned(boxes, emptied, findings)

    def _boxes(self, rows: NDArray[np.int64], corners: NDArray[np.float64], names: dict[str, str]) -> Boxes:
        """The boxes of one image."""
        places = rows.tolist()
        found = corners[rows]
        crowd = np.array([self._crowds[row] for row in places], dtype=np.bool_)
        areas = np.array([self._areas[row] for row in places], dtype=np.float64)
        outlines = tuple(self._outlines[row] for row in places)
        unknown = np.isnan(areas)
        areas[unknown] = ((found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1]))[unknown]
        return Boxes(
            tuple(names[self._labels[row]] for row in places),
            found,
            crowd if crowd.any() else None,
            None if unknown.all() else areas,
            outlines if any(outline is not None for outline in outlines) else None,
        )

    def _left_out(self, fates: NDArray[np.int8]) -> Iterator[Finding]:
        for row in np.flatnonzero(fates != Fate.FINE).tolist():
            code, what = SAID[Fate(fates[row])]
            what = self._broken.get(row, what)
            where = str(self._places[row])
            yield Finding(code, Outcome.QUARANTINE, where, f"{where} {what}; the box is left out.")

    def _cut_off(
        self,
        cut: NDArray[np.float64],
        fates: NDArray[np.int8],
        corners: NDArray[np.float64],
        size: NDArray[np.float64],
    ) -> Iterator[Finding]:
        rows = np.flatnonzero((cut > ROUNDING) & (fates == Fate.FINE))
        if not len(rows):
            return
        worst = rows[np.argmax(cut[rows])]
        shown = ", ".join(f"{value:g}" for value in corners[worst])
        verb = "reaches" if len(rows) == 1 else "reach"
        yield Finding(
            "clipped_box",
            Outcome.NORMALISE,
            "",
            f"{plural(len(rows), 'box', 'boxes')} {verb} past the edge of the image and "
            f"{'was' if len(rows) == 1 else 'were'} cut off there; the furthest is {self._places[worst]} "
            f"({shown} in an image of {size[worst, 0]:g} x {size[worst, 1]:g}).",
        )


def _are_four(numbers: object) -> bool:
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        return False
    return (
        set(map(type, numbers)) <= {int, float} and max(numbers) < _TOO_LARGE and min(numbers) > -_TOO_LARGE
    )


def _is_positive(area: object) -> bool:
    return type(area) in (int, float) and 0 < area < 2**53  # type: ignore[operator]


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def box_losses(dataset: Dataset, max_bad: float) -> Iterator[DataError]:
    """The reason why too many boxes were left out to train on the rest, if they were.

    Args:
        dataset: With the findings of its reading.
        max_bad: Share of unusable boxes above which the work stops.
    """
    bad = [finding for finding in dataset.findings if finding.code in LOST_BOXES]
    kept = sum(len(s.annotation) for s in dataset.samples if isinstance(s.annotation, Boxes))
    if not bad or len(bad) <= max_bad * (kept + len(bad)):
        return
    causes = [f"{finding.message} [{finding.code}]" for finding in bad[:_MOST_SHOWN]]
    if len(bad) > _MOST_SHOWN:
        causes.append(f"and {len(bad) - _MOST_SHOWN:,} more")
    yield DataError(
        f"{len(bad):,} of {kept + len(bad):,} boxes cannot be used; at most {max_bad:.0%} may be left out",
        code="too_many_bad_boxes",
        causes=causes,
        instead="Repair or remove them, or allow more with --set data.max_bad=<share>.",
    )
