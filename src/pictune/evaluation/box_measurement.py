"""A measured table of boxes as reports want it: numbers, what a reader should know, and image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pictune.evaluation.box_details import precision_curves, size_groups
from pictune.evaluation.box_numbers import BoxClassNumbers, BoxMeasure, measure_boxes
from pictune.evaluation.findings import Remark
from pictune.tasks.matching import Verdict
from pictune.tasks.table import BoxTable

WORST = 24  # images listed
FEW_OBJECTS = 20  # below this, a class's numbers say little
SHARE_TOLD = 0.3  # of all errors, from which on a kind of error is worth a sentence
INTERVALS = (
    "Other images of the same kind would give slightly different numbers. Precision, recall and F1 have "
    "Wilson's interval, made wider where boxes of one image or group agree; so has average precision, "
    "whose scatter comes from drawing whole images, or groups of them, anew many times."
)
KINDS = {
    "class": "right in place but wrong in class",
    "location": "right in class but badly placed (IoU below 0.5)",
    "both": "wrong in class and badly placed",
    "duplicate": "second answers for an object that is found already",
    "background": "where no object is",
    "unnoticed": "objects that were not noticed at all",
}


@dataclass(frozen=True)
class BoxMeasurement:
    """What was measured on a table of boxes, and what is said about it.

    Args:
        measure: The numbers.
    """

    measure: BoxMeasure

    def to_json(self) -> dict[str, Any]:
        """The stable shape of report.json, in plain types; numbers are finite or None."""
        found = self.measure.to_json()
        found.pop("mistakes")
        wrong = sorted(self.images(), key=lambda row: -(row["missed"] + row["false"]))
        worst = [
            {**row, "told": f"{row['found']} found, {row['missed']} missed, {row['false']} false"}
            for row in wrong[:WORST]
        ]
        thresholds = dict(
            zip(self.measure.table.classes, self.measure.table.thresholds.tolist(), strict=True)
        )
        for row in found["per_class"]:
            row["threshold"] = thresholds[row["class"]]
        remarks = [remark.to_json() for remark in _remarks(self.measure)]
        return {
            **found,
            "counted": "objects",
            "kinds_of_error": self._kinds(),
            "sizes": size_groups(self.measure),
            "precision_recall": precision_curves(self.measure),
            "worst_images": worst,
            "thresholds": thresholds,
            "intervals": INTERVALS,
            "findings": remarks,
        }

    def _kinds(self) -> list[dict[str, Any]]:
        """Every kind of error, the most frequent first."""
        counted = [(self.measure.errors[name], name, told) for name, told in KINDS.items()]
        return [{"kind": name, "count": count, "told": told} for count, name, told in sorted(counted)[::-1]]

    def images(self) -> list[dict[str, Any]]:
        """Objects found and missed, and answers that found none, of each image; crowds aside."""
        verdicts, count = self.measure.verdicts, len(self.measure.table)
        known, said = verdicts.known, verdicts.said
        columns = {
            "found": known.image[known.verdict == Verdict.FOUND],
            "missed": known.image[known.verdict == Verdict.MISSED],
            "false": said.image[said.verdict > Verdict.IGNORED],
        }
        counts = {name: np.bincount(images, minlength=count) for name, images in columns.items()}
        return [
            {"key": key, **{name: int(column[row]) for name, column in counts.items()}}
            for row, key in enumerate(self.measure.table.keys)
        ]


def measure_box_table(table: BoxTable, resamples: int, confidence: float, seed: int) -> BoxMeasurement:
    """Measures a table of boxes; see `measure_boxes`."""
    return BoxMeasurement(measure_boxes(table, resamples=resamples, confidence=confidence, seed=seed))


def _remarks(measure: BoxMeasure) -> Iterator[Remark]:
    """What a reader should know, the most serious first."""
    silent = [row.name for row in measure.classes if row.support and not row.tp + row.fp]
    if silent:
        message = f"No box of {', '.join(silent)} was answered at all, though there are objects of it."
        yield Remark("never_answered", "serious", message)
    absent = [row.name for row in measure.classes if not row.support]
    if absent:
        yield Remark("absent_class", "warning", f"No object here is of {', '.join(absent)}.")
    errors = {name: count for name, count in measure.errors.items() if name in KINDS}
    total = sum(errors.values())
    if total:
        name = max(errors, key=lambda kind: errors[kind])
        if errors[name] >= SHARE_TOLD * total:
            message = f"Of {total:,} errors, {errors[name]:,} are {KINDS[name]}."
            yield Remark("most_errors", "note", message)
    few = [row for row in measure.classes if 0 < row.support < FEW_OBJECTS]
    if few:
        listed = ", ".join(f"{row.name} ({_objects(row)})" for row in few)
        yield Remark("few_images", "note", f"Few objects to judge by: {listed}.")


def _objects(row: BoxClassNumbers) -> str:
    return f"{row.support} object{'s' * (row.support > 1)}"
