"""What a reader of the numbers should know, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pictune.evaluation.calibration import answers
from pictune.evaluation.class_numbers import ClassNumbers
from pictune.evaluation.confusion import ConfusedPair
from pictune.evaluation.intervals import Clusters, Number
from pictune.tasks.table import ClassTable

SEVERITIES = ("serious", "warning", "note")

FEW_IMAGES = 20  # below this, a class's numbers say little
MOST_CLASSES = 10  # so many classes are named one by one
BAD_CALIBRATION = 0.05
WIDE_ACCURACY = 0.1


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to know.

    Args:
        code: A short stable name such as ``few_images``.
        severity: ``serious``, ``warning`` or ``note``.
        message: One plain sentence.
    """

    code: str
    severity: str
    message: str

    def to_json(self) -> dict[str, str]:
        """The remark as it stands in report.json."""
        return {"code": self.code, "severity": self.severity, "message": self.message}


def remarks(
    table: ClassTable,
    *,
    numbers: Mapping[str, Number],
    classes: Sequence[ClassNumbers],
    pairs: Sequence[ConfusedPair],
    clusters: Clusters,
    confidence: float,
) -> list[Remark]:
    """Everything worth saying about a measured table, the most serious first."""
    found = [
        *_guessing(table, clusters, confidence),
        *_calibration(table, numbers["ece"]),
        *_silent_classes(classes),
        *_absent_classes(classes),
        *_small_classes(classes),
        *_small_set(table, numbers["accuracy"], clusters),
        *_most_confused(pairs, classes),
    ]
    return sorted(found, key=lambda remark: SEVERITIES.index(remark.severity))


def _guessing(table: ClassTable, clusters: Clusters, confidence: float) -> Iterator[Remark]:
    """Compares with always giving the most frequent answer, on the same images."""
    if not table.exclusive or clusters.count < 2:
        return
    support = table.truth.sum(axis=0)
    usual = int(support.argmax())
    gain = (table.truth & table.decided).any(axis=1).astype(float) - table.truth[:, usual]
    error = float(np.sqrt(clusters.variance(gain - gain.mean())))
    if support[usual] < len(table) and gain.mean() <= clusters.quantile(confidence) * error:
        yield Remark(
            "no_better_than_guessing",
            "serious",
            f"The model is not distinguishably better than always answering {table.classes[usual]}, which is "
            f"right for {support[usual]} of {len(table)} images.",
        )


def _calibration(table: ClassTable, error: Number) -> Iterator[Remark]:
    if error.low is None or error.value is None or error.low <= BAD_CALIBRATION:
        return
    given = answers(table)
    gap = float(given.confidence.mean() - given.right.mean())
    word = "overconfident" if gap > 0 else "underconfident"
    yield Remark(
        word,
        "warning",
        f"The model is {word}: its confidence averages {given.confidence.mean():.2f} where "
        f"{given.right.mean():.2f} of the answers are right (calibration error {error.value:.2f}, "
        f"at least {error.low:.2f}).",
    )


def _silent_classes(classes: Sequence[ClassNumbers]) -> Iterator[Remark]:
    silent = [row.name for row in classes if row.support and not row.tp + row.fp]
    if silent:
        yield Remark("never_answered", "warning", f"The model never answered {_listed(silent)}.")


def _absent_classes(classes: Sequence[ClassNumbers]) -> Iterator[Remark]:
    absent = [row.name for row in classes if not row.support]
    if absent:
        yield Remark(
            "absent_class",
            "warning",
            f"No image here is of class {_listed(absent)}: "
            "nothing is known about it, and averages leave it out.",
        )


def _small_classes(classes: Sequence[ClassNumbers]) -> Iterator[Remark]:
    small = sorted((row for row in classes if 0 < row.support < FEW_IMAGES), key=lambda row: row.support)
    for row in small[:MOST_CLASSES]:
        recall = row.metrics["recall"]
        yield Remark(
            "few_images",
            "warning" if row.support < FEW_IMAGES / 2 else "note",
            f"Class {row.name} has only {_images(row.support)} here: its recall could be anywhere from "
            f"{recall.low:.2f} to {recall.high:.2f}.",
        )
    rest = len(small) - MOST_CLASSES
    if rest > 0:
        yield Remark("few_images", "note", f"{rest} more classes have fewer than {FEW_IMAGES} images here.")


def _small_set(table: ClassTable, accuracy: Number, clusters: Clusters) -> Iterator[Remark]:
    if accuracy.low is None or accuracy.high is None or accuracy.high - accuracy.low <= WIDE_ACCURACY:
        return
    groups = f" in {clusters.count} groups" if clusters.grouped else ""
    yield Remark(
        "few_images_in_all",
        "note",
        f"With {_images(len(table))}{groups} the accuracy is only known to lie between "
        f"{accuracy.low:.2f} and {accuracy.high:.2f}.",
    )


def _most_confused(pairs: Sequence[ConfusedPair], classes: Sequence[ClassNumbers]) -> Iterator[Remark]:
    if pairs and pairs[0].count > 1:
        worst = pairs[0]
        support = next(row.support for row in classes if row.name == worst.truth)
        yield Remark(
            "most_confused",
            "note",
            f"Most confused: {worst.truth} read as {worst.predicted} ({worst.count} of {support}).",
        )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_CLASSES
    return ", ".join(names[:MOST_CLASSES]) + (f" and {more} more" if more > 0 else "")
