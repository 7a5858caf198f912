"""Which classes are taken for which, and which images went most wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.tasks.table import ClassTable

MOST_PAIRS = 20
MOST_KEYS = 12
MOST_MISTAKES = 200


def confusion_matrix(table: ClassTable) -> NDArray[np.int64]:
    """(k, k) images by truth (rows) and answer (columns) of a single-label table."""
    count = len(table.classes)
    cells = table.truth.argmax(axis=1) * count + table.decided.argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """Images of one class that were answered as another.

    Args:
        truth: The class they are of.
        predicted: The class they were taken for.
        count: How many.
        share: Which part of the images of ``truth`` that is.
        keys: Some of them, the surest mistakes first.
    """

    truth: str
    predicted: str
    count: int
    share: float
    keys: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The pair as it stands in report.json."""
        return {
            "truth": self.truth,
            "predicted": self.predicted,
            "count": self.count,
            "share": self.share,
            "keys": list(self.keys),
        }


def confused_pairs(table: ClassTable) -> tuple[ConfusedPair, ...]:
    """The most frequent confusions of a single-label table, at most 20, the most frequent first."""
    truth, answer = table.truth.argmax(axis=1), table.decided.argmax(axis=1)
    counts = confusion_matrix(table)
    support = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    # Stable sorting keeps ties in class order, so that the same table always gives the same list.
    cells = np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]
    surest_first = np.argsort(-table.scores[np.arange(len(table)), answer], kind="stable")

    def pair(row: int, column: int) -> ConfusedPair:
        images = surest_first[(truth[surest_first] == row) & (answer[surest_first] == column)]
        keys = tuple(table.keys[i] for i in images[:MOST_KEYS])
        count = int(counts[row, column])
        return ConfusedPair(table.classes[row], table.classes[column], count, count / int(support[row]), keys)

    places = (divmod(int(cell), len(table.classes)) for cell in cells)
    return tuple(pair(row, column) for row, column in places if counts[row, column])


def mistakes(table: ClassTable, losses: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
    """The images that were answered wrong, the costliest first, at most 200.

    Args:
        table: The table.
        losses: (n) each image's log loss.

    Yields:
        Key, truth, answer, confidence and loss; truth and answer are lists when there may be several labels,
        and the confidence is then that of the least sure single answer.
    """
    wrong = np.flatnonzero((table.truth != table.decided).any(axis=1))
    for i in wrong[np.argsort(-losses[wrong], kind="stable")][:MOST_MISTAKES]:
        truth = [name for name, there in zip(table.classes, table.truth[i], strict=True) if there]
        answer = [name for name, there in zip(table.classes, table.decided[i], strict=True) if there]
        yield {
            "key": table.keys[i],
            "truth": truth[0] if table.exclusive else truth,
            "predicted": answer[0] if table.exclusive else answer,
            "confidence": float(confidence_of(table, int(i))),
            "loss": float(losses[i]),
        }


def confidence_of(table: ClassTable, image: int) -> float:
    """How sure the model was of its answer to one image, 0..1."""
    scores, decided = table.scores[image], table.decided[image]
    if table.exclusive:
        return float(scores[decided.argmax()])
    return float(np.where(decided, scores, 1 - scores).min())
