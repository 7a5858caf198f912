"""Two models' boxes on the same images: differences of average precision, from images drawn anew for both.

Shapes: n images, g clusters of them, k classes, r draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation.box_numbers import ABSENT
from pictune.evaluation.intervals import Clusters
from pictune.evaluation.pairing_intervals import Differences
from pictune.evaluation.pairing_pixels import DrawnClasses
from pictune.tasks.average_precision import resampled
from pictune.tasks.matching import match
from pictune.tasks.table import BoxTable

Floats = NDArray[np.float64]

AVERAGES = ("map", "map50")


def pair_boxes(
    first: BoxTable, second: BoxTable, resamples: int, confidence: float, seed: int
) -> Differences:
    """Differences of two tables of boxes.

    Args:
        first: What the first model answered.
        second: What the second model answered, about the same images.
        resamples: Sets of images drawn anew.
        confidence: Share of intervals that are to hold the truth.
        seed: Decides which are drawn.
    """
    clusters = Clusters(len(first), groups=first.groups)
    groups = np.arange(len(first)) if first.groups is None else first.groups
    cluster = np.unique(groups, return_inverse=True)[1]
    even = np.full(clusters.count, 1 / clusters.count)
    drawn = np.random.default_rng(seed).multinomial(clusters.count, even, size=resamples)
    weights = np.concatenate([np.ones((1, clusters.count), np.int64), drawn])
    had, has = (_numbers(table, weights[:, cluster]) for table in (first, second))
    size = len(first.classes)
    shown = np.zeros((clusters.count, size), np.bool_)
    counted = ~first.crowd
    shown[cluster[first.true_image[counted]], first.true_label[counted]] = True
    classes = DrawnClasses(
        weights.astype(float),
        shown.sum(axis=0).astype(float),
        confidence,
        kind="group" if clusters.grouped else "image",
        absent=ABSENT,
    )
    overall = [classes.average(name, had[name], has[name]) for name in AVERAGES]
    columns = [
        classes.differences(name, had[whole], has[whole])
        for name, whole in (("ap", "map"), ("ap50", "map50"))
    ]
    support = np.bincount(first.true_label[counted], minlength=size).tolist()
    return Differences(overall, [list(row) for row in zip(*columns, strict=True)], support)


def _numbers(table: BoxTable, weights: NDArray[np.int64]) -> dict[str, Floats]:
    """(r, k) average precision by name under (r, n) weights; NaN for a class without true boxes."""
    found = resampled(match(table, areas=("all",)), weights)
    return {"map": found.ap, "map50": found.ap50}
