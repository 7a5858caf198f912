"""`measure`: from a table of answers to numbers with intervals, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from pictune.errors import DataError
from pictune.evaluation import metrics
from pictune.evaluation.box_measurement import measure_box_table
from pictune.evaluation.calibration import answers, reliability
from pictune.evaluation.class_numbers import ClassMeasure, ClassNumbers, overall
from pictune.evaluation.confusion import ConfusedPair, confused_pairs, confusion_matrix, mistakes
from pictune.evaluation.findings import Remark, remarks
from pictune.evaluation.intervals import Clusters, Number
from pictune.evaluation.pixel_numbers import measure_pixels
from pictune.tasks.table import BoxTable, ClassTable, PixelTable, Table

MOST_COMPLAINTS = 5


class Measured(Protocol):
    """What was measured on a table whose answers lie on the images."""

    def to_json(self) -> dict[str, Any]:
        """The stable shape of report.json, in plain types."""

    def images(self) -> list[dict[str, Any]]:
        """What there is to tell of each image, in the order of the table."""


@dataclass(frozen=True)
class Measurement:
    """What was measured on one table of classes.

    Args:
        table: What it was measured on.
        confidence: Share of intervals that are to hold the truth.
        n_groups: Independent groups of images; the number of images when each stands for itself.
        metrics: Numbers of the whole table by name.
        classes: Numbers of each class, in class order.
        confusion: Counts of truth against answer, ready for JSON.
        confused_pairs: Which classes were taken for which, the most frequent first; single-label only.
        mistakes: Images answered wrong, the costliest first.
        reliability: Bins of similar confidence, ready to be drawn.
        findings: What a reader should know, the most serious first.
    """

    table: ClassTable
    confidence: float
    n_groups: int
    metrics: Mapping[str, Number]
    classes: tuple[ClassNumbers, ...]
    confusion: Mapping[str, Any]
    confused_pairs: tuple[ConfusedPair, ...]
    mistakes: tuple[Mapping[str, Any], ...]
    reliability: tuple[Mapping[str, Any], ...]
    findings: tuple[Remark, ...]

    def to_json(self) -> dict[str, Any]:
        """The stable shape of report.json, in plain types; numbers are finite or None."""
        return {
            "n": len(self.table),
            "n_groups": self.n_groups,
            "confidence": self.confidence,
            "metrics": {name: number.to_json() for name, number in self.metrics.items()},
            "per_class": [row.to_json() for row in self.classes],
            "confusion": dict(self.confusion),
            "confused_pairs": [pair.to_json() for pair in self.confused_pairs],
            "mistakes": [dict(mistake) for mistake in self.mistakes],
            "reliability": {"bins": [dict(row) for row in self.reliability]},
            "findings": [finding.to_json() for finding in self.findings],
        }


def measure(
    table: Table, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Measurement | Measured:
    """Measures a table of answers; the kind of table decides what is measured.

    Args:
        table: The answers. Images of one group are taken to depend on one another.
        resamples: Simulations for the intervals that need them (log loss, Brier score,
            calibration error), at least 100.
        confidence: Share of intervals that are to hold the truth, between 0.5 and 1.
        seed: Decides the simulations; the same table and seed give the same numbers.

    Raises:
        DataError: When the table or an argument cannot be used, with every mistake.
    """
    causes = []
    if type(table) not in MEASURES:
        kinds = ", ".join(kind.__name__ for kind in MEASURES)
        causes.append(f"the table is of kind {type(table).__name__}; known kinds: {kinds}")
    if not 0.5 <= confidence < 1:
        causes.append(f"confidence must be at least 0.5 and below 1, found {confidence}")
    if seed < 0:
        causes.append(f"seed must not be negative, found {seed}")
    if resamples < 100:
        causes.append(f"resamples must be at least 100, found {resamples}")
    if causes:
        raise DataError("nothing can be measured so", code="bad_measure", causes=causes)
    return MEASURES[type(table)](table, resamples, confidence, seed)


def _measure_classes(table: ClassTable, resamples: int, confidence: float, seed: int) -> Measurement:
    _check(table)
    clusters = Clusters(len(table), groups=table.groups)
    measured = ClassMeasure(table, clusters=clusters, confidence=confidence)
    losses = metrics.log_losses(table)
    numbers = overall(measured, losses=losses, resamples=resamples, seed=seed)
    classes = tuple(measured.by_class())
    pairs = confused_pairs(table) if table.exclusive else ()
    return Measurement(
        table=table,
        confidence=confidence,
        n_groups=clusters.count,
        metrics=MappingProxyType(numbers),
        classes=classes,
        confusion=_confusion(table, classes),
        confused_pairs=pairs,
        mistakes=tuple(mistakes(table, losses)),
        reliability=tuple(reliability(answers(table), clusters=clusters, confidence=confidence)),
        findings=tuple(
            remarks(
                table, numbers=numbers, classes=classes, pairs=pairs, clusters=clusters, confidence=confidence
            )
        ),
    )


# What is measured on which kind of table; a new kind adds its line here.
MEASURES: Mapping[type, Callable[[Any, int, float, int], Measurement | Measured]] = MappingProxyType(
    {ClassTable: _measure_classes, BoxTable: measure_box_table, PixelTable: measure_pixels}
)


def _confusion(table: ClassTable, classes: tuple[ClassNumbers, ...]) -> dict[str, Any]:
    names = list(table.classes)
    if table.exclusive:
        return {"classes": names, "counts": confusion_matrix(table).tolist()}
    return {"classes": names, "by_class": [[[row.tn, row.fp], [row.fn, row.tp]] for row in classes]}


def _check(table: ClassTable) -> None:
    """Refuses a table that contradicts its own description."""
    shape = (len(table.keys), len(table.classes))
    causes = [
        f"{name} has shape {np.shape(rows)}; {shape} was expected: one row an image, one column a class"
        for name, rows in (("truth", table.truth), ("scores", table.scores), ("decided", table.decided))
        if np.shape(rows) != shape
    ]
    if table.groups is not None and np.shape(table.groups) != shape[:1]:
        causes.append(f"groups has shape {np.shape(table.groups)}; {shape[:1]} was expected")
    if 0 in shape:
        causes.append(f"there are {shape[0]} images and {shape[1]} classes; one of each is the least")
    if not causes:
        causes = list(_bad_rows(table))
    if causes:
        raise DataError("the table of answers cannot be measured", code="bad_table", causes=causes)


def _bad_rows(table: ClassTable) -> list[str]:
    rules = [
        ("scores outside 0 to 1", ~((table.scores >= 0) & (table.scores <= 1)).all(axis=1)),
    ]
    if table.exclusive:
        rules += [
            ("not exactly one true class", table.truth.sum(axis=1) != 1),
            ("not exactly one answer", table.decided.sum(axis=1) != 1),
            ("scores that do not sum to one", ~(np.abs(table.scores.sum(axis=1) - 1) < 1e-3)),
        ]
    found = []
    for complaint, bad in rules:
        images = [table.keys[i] for i in np.flatnonzero(bad)[:MOST_COMPLAINTS]]
        if images:
            more = f" and {bad.sum() - len(images)} more" if bad.sum() > len(images) else ""
            found.append(f"{complaint}: {', '.join(images)}{more}")
    return found
