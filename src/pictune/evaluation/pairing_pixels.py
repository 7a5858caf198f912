"""Two models' masks of the same images: differences of overlaps, from images drawn anew for both alike.

Shapes: n images, g clusters of them, k classes, r draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation.intervals import Clusters
from pictune.evaluation.pairing_intervals import (
    FEWEST,
    ONE_UNIT,
    Difference,
    Differences,
    Draws,
    averaged,
    drawn_intervals,
    steadied,
)
from pictune.evaluation.pixel_numbers import ABSENT
from pictune.tasks.average_precision import class_mean
from pictune.tasks.table import PixelTable

Floats = NDArray[np.float64]

AVERAGES = ("mean_iou", "dice")


def pair_pixels(
    first: PixelTable, second: PixelTable, resamples: int, confidence: float, seed: int
) -> Differences:
    """Differences of two tables of pixels.

    Args:
        first: What the first model answered.
        second: What the second model answered, about the same images.
        resamples: Sets of images drawn anew.
        confidence: Share of intervals that are to hold the truth.
        seed: Decides which are drawn.
    """
    clusters = Clusters(len(first), groups=first.groups)
    held = [_held(table, clusters) for table in (first, second)]
    even = np.full(clusters.count, 1 / clusters.count)
    drawn = np.random.default_rng(seed).multinomial(clusters.count, even, size=resamples).astype(float)
    weights = np.concatenate([np.ones((1, clusters.count)), drawn])  # the images as they are go first
    had, has = (_numbers(np.tensordot(weights, sums, axes=1)) for sums in held)
    shown, whole = held[0][..., 1] > 0, held[0][..., 1].sum(axis=1)
    kind = "group" if clusters.grouped else "image"
    classes = DrawnClasses(weights, shown.sum(axis=0).astype(float), confidence, kind=kind)
    overall = [classes.average(name, had[name], has[name]) for name in AVERAGES]
    pairs = np.array([whole.sum() ** 2 / max(np.square(whole).sum(), 1.0)])
    units = np.array([float((whole > 0).sum())])
    columns = (had["pixel_accuracy"], has["pixel_accuracy"])
    overall += classes.differences("pixel_accuracy", *columns, pairs=pairs, units=units)
    rows = classes.differences("iou", had["iou"], has["iou"])
    return Differences(overall, [[row] for row in rows], (first.true > 0).sum(axis=0).tolist())


class DrawnClasses:
    """Makes differences of numbers that were drawn.

    Args:
        weights: (r + 1, g) how often each cluster counts; once each in the first row.
        units: (k) clusters that show each class.
        confidence: Share of intervals that are to hold the truth.
        kind: What a cluster is called.
        absent: Why a class may have no value.
    """

    def __init__(
        self, weights: Floats, units: Floats, confidence: float, *, kind: str, absent: str = ABSENT
    ) -> None:
        self._weights, self._units = weights[1:], units
        self._confidence, self._kind, self._absent = confidence, kind, absent

    def differences(
        self,
        name: str,
        had: Floats,
        has: Floats,
        *,
        variance: Floats | None = None,
        pairs: Floats | None = None,
        units: Floats | None = None,
    ) -> list[Difference]:
        """From (r + 1, b) numbers of both models; a column is a class unless ``units`` says otherwise."""
        draws, found = Draws(self._weights, (has - had)[1:]), (has - had)[0]
        units = self._units if units is None else units
        pairs = units if pairs is None else pairs
        if variance is None:
            variance = draws.variance
            known = np.isfinite(found) & (units > 0)
            variance[known] = np.maximum(variance[known], steadied(variance[known], pairs[known]))
        low, high = drawn_intervals(
            found, draws, variance=variance, pairs=pairs, units=units, confidence=self._confidence
        )
        alone = np.where(units < FEWEST, ONE_UNIT.format(self._kind), "")
        reasons = np.where(np.isfinite(found), alone, self._absent).tolist()
        rows = zip(had[0], has[0], low, high, reasons, strict=True)
        return [Difference.of(name, *row) for row in rows]

    def average(self, name: str, had: Floats, has: Floats) -> Difference:
        """The average over classes, of those that have a value for the model in question."""
        moved = Draws(self._weights, (has - had)[1:])
        known = np.isfinite((has - had)[0]) & (self._units > 0)
        means = [class_mean(values)[:, None] for values in (had, has)]
        single = Draws(self._weights, (means[1] - means[0])[1:]).variance
        base = averaged(moved.variance[known], self._units[known], float(single[0])) if known.any() else None
        # A class that is in no truth, which one model answers all the same, moves the average alone.
        variance = np.maximum(single, base.variance if base else 0.0)
        units = np.array([float(self._weights.shape[1])])
        # An image that differs may do so in all its classes at once: together they tell of no more images.
        pairs = np.minimum(base.pairs if base else 1.0, units)
        return self.differences(name, *means, variance=variance, pairs=pairs, units=units)[0]


def _held(table: PixelTable, clusters: Clusters) -> Floats:
    """(g, k, 3) pixels that are right, true and answered, of every cluster."""
    counts = np.stack([table.hits, table.true, table.answered], axis=-1).astype(float)
    return clusters.sums(counts.reshape(len(table), -1)).reshape(clusters.count, len(table.classes), 3)


def _numbers(sums: Floats) -> dict[str, Floats]:
    """(r, k) IoU and Dice of classes, (r, 1) share of right pixels, from (r, k, 3) sums."""
    right, true, answered = np.moveaxis(sums, -1, 0)
    iou = _share(right, true + answered - right)
    return {
        "mean_iou": iou,
        "iou": iou,
        "dice": _share(2 * right, true + answered),
        "pixel_accuracy": _share(right.sum(1, keepdims=True), true.sum(1, keepdims=True)),
    }


def _share(part: Floats, whole: Floats) -> Floats:
    """A quotient; NaN where there is nothing to divide by."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0))
