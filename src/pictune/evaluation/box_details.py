"""What the numbers of a table of boxes hide: how recall depends on size, and precision on recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation.box_numbers import BoxMeasure, Shares
from pictune.evaluation.intervals import Clusters
from pictune.tasks.average_precision import precision_curve
from pictune.tasks.matching import Verdict

GROUPS, LEAST = 5, 10  # groups of objects by size at most, and objects in a group at least
CURVES = 24  # classes with a curve, those of the lowest average precision first
STEP = 5  # of the curve's 101 points every fifth is kept


def size_groups(measure: BoxMeasure) -> list[dict[str, Any]]:
    """How many of the objects of each size were found, in groups of about as many objects each.

    Args:
        measure: The measured table.

    Returns:
        One row a group, the smallest objects first: ``from`` and ``to``, the square root of a box's area in
        pixels of its picture; ``objects``; and ``recall`` with its interval. None at all where objects are
        fewer than twenty.
    """
    table, known = measure.table, measure.verdicts.known
    counted = known.verdict != Verdict.IGNORED
    corners = table.true_box[counted]
    sides = np.sqrt((corners[:, 2:] - corners[:, :2]).prod(1))
    wanted = min(GROUPS, len(sides) // LEAST)
    if wanted < 2:
        return []
    edges = np.unique(np.quantile(sides, np.linspace(0, 1, wanted + 1)))
    if len(edges) < 3:
        return []
    group = np.clip(np.searchsorted(edges, sides, "right") - 1, 0, len(edges) - 2)
    image, found = known.image[counted], known.verdict[counted] == Verdict.FOUND
    nothing = np.zeros(0, np.int64)
    outcomes = [(image[found], group[found]), (nothing, nothing), (image[~found], group[~found])]
    shares = Shares(Clusters(len(table), groups=table.groups), measure.confidence)
    numbers = shares.of("recall", outcomes, classes=len(edges) - 1, absent="")
    return [
        {
            "from": round(float(edges[row]), 1),
            "to": round(float(edges[row + 1]), 1),
            "objects": int((group == row).sum()),
            "recall": number.to_json(),
        }
        for row, number in enumerate(numbers)
    ]


def precision_curves(measure: BoxMeasure) -> list[dict[str, Any]]:
    """Precision over recall of the weakest classes, at an overlap of 0.5, with where the model works.

    Args:
        measure: The measured table.

    Returns:
        One row a class with objects: ``class``; ``points``, pairs of recall and the best precision at this
        recall or beyond; ``threshold``; and ``recall`` and ``precision`` at it, None where nothing was
        answered.
    """
    rows: list[dict[str, Any]] = []
    ranked = sorted(enumerate(measure.classes), key=lambda pair: pair[1].metrics["ap50"].value or 0.0)
    for label, numbers in ranked:
        curve = precision_curve(measure.matches, label=label)
        if curve is None or len(rows) == CURVES:
            continue
        points = np.stack([curve.recall, curve.precision], axis=1)[::STEP]
        rows.append(
            {
                "class": numbers.name,
                "points": _reached(points).round(4).tolist(),
                "threshold": float(measure.table.thresholds[label]),
                "recall": numbers.metrics["recall"].value,
                "precision": numbers.metrics["precision"].value,
            }
        )
    return rows


def _reached(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points up to the first that no threshold reaches, which closes the curve."""
    beyond = np.flatnonzero(points[:, 1] == 0)
    return points[: beyond[0] + 1] if len(beyond) else points
