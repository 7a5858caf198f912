"""Whether the model is right as often as it says: reliability bins and the calibration error.

Answers are sorted by confidence and cut into 15 bins of equal size; answers of equal confidence stay
together. The expected calibration error (Naeini et al. 2015, AAAI) is the average distance between a bin's
mean confidence and its share of right answers.

What the interval is for: the calibration error that the same recipe gives on the whole population, with
bins cut at the population's own quantiles. The value itself is the usual plug-in figure, which chance alone
pushes up: with 200 images a perfectly calibrated model shows 0.01 to 0.10. So the interval asks which true
errors make the figure seen a likely one (Neyman's inversion by simulation), and may well begin at 0.
It is stretched where needed to hold the plug-in value too.

Shapes: n answers, m bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pictune.evaluation.intervals import Clusters, Number, dot, wilson
from pictune.tasks.table import ClassTable

Floats = NDArray[np.float64]

BINS = 15
_TRIED_ERRORS = 20  # true calibration errors that the interval tries


@dataclass(frozen=True, slots=True)
class Answers:
    """Every answer with how sure it was and whether it was right.

    Args:
        confidence: (n) in 0..1.
        right: (n) 0 or 1.
        image: (n) the row of the table that each answer belongs to.
    """

    confidence: Floats
    right: Floats
    image: NDArray[np.int64]


def answers(table: ClassTable) -> Answers:
    """One answer an image; with several labels one an image and class, right when the class is there."""
    rows = np.arange(len(table))
    if table.exclusive:
        named = table.decided.argmax(axis=1)
        return Answers(table.scores[rows, named], table.truth[rows, named].astype(float), rows)
    count = len(table.classes)
    return Answers(table.scores.ravel(), table.truth.ravel().astype(float), np.repeat(rows, count))


@dataclass(frozen=True, slots=True)
class Bins:
    """Answers in groups of similar confidence.

    Args:
        count: (m) answers in each, none empty.
        confidence: (m) their mean confidence.
        right: (m) the share of right ones.
        place: (n) the bin of each answer.
    """

    count: NDArray[np.int64]
    confidence: Floats
    right: Floats
    place: NDArray[np.int64]

    @property
    def weight(self) -> Floats:
        """(m) the share of answers in each bin."""
        return np.asarray(self.count / self.count.sum())

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float(dot(np.abs(self.right - self.confidence), self.weight))


def bins_of(confidence: Floats, right: Floats) -> Bins:
    """Cuts answers into 15 bins of equal size by confidence; ties or few answers leave fewer."""
    size = len(confidence)
    ranked = np.sort(confidence)
    # The rank of the first answer with the same confidence: ties can't be torn apart by their order.
    first = np.searchsorted(ranked, confidence, "left")
    _, place = np.unique(first * min(BINS, size) // size, return_inverse=True)
    count = np.bincount(place)
    return Bins(
        count,
        np.bincount(place, weights=confidence) / count,
        np.bincount(place, weights=right) / count,
        place,
    )


def reliability(given: Answers, *, clusters: Clusters, confidence: float) -> list[dict[str, Any]]:
    """The bins as rows to draw, each with the Wilson interval of its share of right answers."""
    bins = bins_of(given.confidence, given.right)
    trials = bins.count / _design_effect(given, clusters)
    low, high = wilson(bins.right, trials, clusters.quantile(confidence))
    return [
        {
            "confidence": float(bins.confidence[i]),
            "accuracy": float(bins.right[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "count": int(bins.count[i]),
        }
        for i in range(len(bins.count))
    ]


def calibration_error(
    given: Answers,
    *,
    clusters: Clusters,
    confidence: float,
    resamples: int,
    generator: np.random.Generator,
) -> Number:
    """The expected calibration error and its interval.

    True errors of one smooth shape and growing size are tried: the shape is that of the best logistic
    recalibration of the answers. For each, the figure it would show is simulated ``resamples`` times; the
    interval holds those for which the figure seen is not extreme. Near zero the test turns one-sided, as
    nothing lies below.

    Args:
        given: The answers.
        clusters: Which images belong together.
        confidence: Share of intervals that are to hold the truth.
        resamples: Simulations for each error tried.
        generator: Source of the draws.
    """
    bins = bins_of(given.confidence, given.right)
    seen, weight = bins.error, bins.weight
    stretch = np.sqrt(_design_effect(given, clusters))
    shape = np.bincount(bins.place, weights=_recalibrated(given)) / bins.count - bins.confidence
    # Where confidence and recalibration agree throughout, a common lack of accuracy is the shape to try.
    moved = dot(np.abs(shape), weight)
    shape = shape / moved if moved > 1e-9 else -np.ones_like(shape)
    doubt = np.maximum(bins.confidence * (1 - bins.confidence), bins.right * (1 - bins.right)) / bins.count
    reach = seen + 4 * (stretch * np.sqrt(dot(doubt, weight**2)) + 1 / bins.count.sum())
    errors, lower, upper = [], [], []
    chance = 0.0
    for size in np.linspace(0, reach, _TRIED_ERRORS):
        rate = np.clip(bins.confidence + size * shape, 0, 1)
        drawn = generator.binomial(bins.count, rate, size=(resamples, len(rate))) / bins.count - rate
        shown = dot(np.abs(stretch * drawn + rate - bins.confidence), weight)
        errors.append(float(dot(np.abs(rate - bins.confidence), weight)))
        chance = chance or max(float(shown.mean()), 1e-12)
        tail = (1 - confidence) / 2 * min(1.0, errors[-1] / chance)
        ends = np.quantile(shown, [tail, tail + confidence], method="weibull")
        lower.append(ends[0])
        upper.append(ends[1])
    rising = np.maximum.accumulate(np.array([errors, lower, upper]), axis=1)
    low = float(np.interp(seen, rising[2], rising[0]))
    high = float(np.interp(seen, rising[1], rising[0]))
    return Number(seen, min(low, seen), max(high, seen))


def _recalibrated(given: Answers) -> Floats:
    """(n) confidences after the best logistic recalibration (Platt 1999), steadied by a ridge of one."""
    logit = special.logit(np.clip(given.confidence, 1e-6, 1 - 1e-6))
    design = np.stack([np.ones_like(logit), logit - logit.mean()], axis=1)
    change = np.zeros(2)
    for _ in range(15):
        rate = special.expit(logit + dot(design, change))
        slope = dot(design.T, given.right - rate) - change
        curvature = dot(design.T[:, None] * design.T, rate * (1 - rate)) + np.eye(2)
        change = change + np.clip(np.linalg.solve(curvature, slope), -2, 2)
    return np.asarray(special.expit(logit + dot(design, change)))


def _design_effect(given: Answers, clusters: Clusters) -> float:
    """How much more the mean gap scatters than it would if every answer stood for itself, at least 1."""
    gap = given.right - given.confidence
    gap = gap - gap.mean()
    alone = np.square(gap).sum() / len(gap) ** 2
    if alone < 1e-15 or len(gap) == clusters.count or clusters.count < 2:
        return 1.0
    an_image = np.bincount(given.image, weights=gap, minlength=clusters.size).astype(float)
    # The variance wants a mean over images, so the sums are put on that scale.
    together = clusters.variance(an_image) * (clusters.size / len(gap)) ** 2
    return max(1.0, float(together / alone))
