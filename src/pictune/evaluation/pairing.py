"""`paired`: how far two models differ on the same images, whatever the task, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pictune.errors import DataError
from pictune.evaluation.pairing_boxes import pair_boxes
from pictune.evaluation.pairing_classes import pair_classes
from pictune.evaluation.pairing_intervals import Difference, Differences
from pictune.evaluation.pairing_pixels import pair_pixels
from pictune.tasks.table import BoxTable, ClassTable, PixelTable, Table

SAME = {  # what two tables of one kind must have in common: everything that is no answer
    ClassTable: ("keys", "classes", "truth", "exclusive", "groups"),
    BoxTable: ("keys", "classes", "true_image", "true_label", "true_box", "crowd", "groups"),
    PixelTable: ("keys", "classes", "true", "groups"),
}

FEWEST = 100  # sets of images drawn anew


@dataclass(frozen=True)
class Paired:
    """Differences of two models on the same images; each is the second model's number less the first's.

    Args:
        n: Images.
        confidence: Share of intervals that are to hold the truth.
        metrics: Of the whole by name, the one that models are judged by first.
        per_class: Of each class by name, in class order.
        support: How much of each class there is.
    """

    n: int
    confidence: float
    metrics: Mapping[str, Difference]
    per_class: tuple[tuple[str, Mapping[str, Difference]], ...]
    support: tuple[int, ...]

    @property
    def main(self) -> Difference:
        """The number that models are judged by."""
        return next(iter(self.metrics.values()))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = zip(self.per_class, self.support, strict=True)
        return {
            "n": self.n,
            "confidence": self.confidence,
            "metrics": {name: one.to_json() for name, one in self.metrics.items()},
            "per_class": [
                {"class": name, "support": count, **{metric: one.to_json() for metric, one in row.items()}}
                for (name, row), count in rows
            ],
        }


def paired(
    first: Table, second: Table, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Paired:
    """Compares two models on the same images.

    Args:
        first: What the first model answered.
        second: What the second model answered, about the same images with the same truths.
        resamples: Sets of images drawn anew, for differences that have no formula.
        confidence: Share of intervals that are to hold the truth, between 0.5 and 1.
        seed: Decides which images are drawn; the same tables and seed give the same numbers.

    Raises:
        DataError: ``not_paired`` when the tables tell of other images, classes or truths, or an argument
            cannot be used.
    """
    causes = list(_unlike(first, second))
    if not 0.5 <= confidence < 1:
        causes.append(f"confidence must be at least 0.5 and below 1, found {confidence}")
    if resamples < FEWEST:
        causes.append(f"resamples must be at least {FEWEST}, found {resamples}")
    if seed < 0:
        causes.append(f"seed must not be negative, found {seed}")
    if causes:
        raise DataError("the two tables cannot be compared", code="not_paired", causes=causes)
    found = PAIRINGS[type(first)](first, second, resamples, confidence, seed)
    return Paired(
        len(first),
        confidence,
        MappingProxyType({one.name: one for one in found.overall}),
        tuple(
            (name, MappingProxyType({one.name: one for one in row}))
            for name, row in zip(first.classes, found.classes, strict=True)
        ),
        tuple(found.support),
    )


def _unlike(first: Table, second: Table) -> Iterator[str]:
    if type(first) is not type(second):
        yield f"one is a {type(first).__name__}, the other a {type(second).__name__}"
        return
    if type(first) not in PAIRINGS:
        kinds = ", ".join(kind.__name__ for kind in PAIRINGS)
        yield f"the tables are of kind {type(first).__name__}; known kinds: {kinds}"
        return
    if not len(first):
        yield "they tell of no image"
    for name in SAME[type(first)]:
        if not _equal(getattr(first, name), getattr(second, name)):
            yield f"they differ in {name.replace('_', ' ')}"


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.shape(one) == np.shape(other) and np.array_equal(np.asarray(one), np.asarray(other)))


# Which function compares which kind of table; a new kind adds its line here.
PAIRINGS: Mapping[type, Callable[[Any, Any, int, float, int], Differences]] = MappingProxyType(
    {ClassTable: pair_classes, BoxTable: pair_boxes, PixelTable: pair_pixels}
)
