"""Intervals: how far a number may lie from the truth, given that the images are a sample.

Two ideas carry almost everything. A metric that is a share of things is given a Wilson interval, and where
the things are not independent images it gets the number of independent things that would scatter as much
(its *effective* trials; Korn and Graubard 1998, Survey Methodology 24). How much it scatters is read off its
influence values: how far the metric moves when one image counts a little more. They need one pass, where a
bootstrap needs a thousand, and near 0 and 1, where a bootstrap's interval is too short, Wilson's is not.

Coverage was measured, not assumed: docs/numbers.md, section Interval coverage.

Shapes: n images, g clusters, b metrics side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Real = float | Floats

# Below this, a variance is rounding noise around zero.
_NO_VARIANCE = 1e-15
# A resampling block holds at most so many numbers (32 MB).
_BLOCK = 4_000_000


@dataclass(frozen=True, slots=True)
class Number:
    """A metric with its interval, or the reason why it has none.

    Args:
        value: The metric; None when it has no meaning here.
        low: Lower end of the interval; None when there is none.
        high: Upper end of the interval; None when there is none.
        reason: Why a value or an interval is missing.
        note: What the value covers, where that isn't everything.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    note: str = ""

    def carried(self, rising: Callable[[float], float]) -> Number:
        """The number on another scale: a rising function carries value and interval over."""
        value, low, high = (
            None if x is None else float(rising(x)) for x in (self.value, self.low, self.high)
        )
        return Number(value, low, high, reason=self.reason, note=self.note)

    def to_json(self) -> dict[str, Any]:
        """The number as it stands in report.json."""
        entry: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        remarks = {"reason": self.reason, "note": self.note}
        return entry | {name: remark for name, remark in remarks.items() if remark}


class Spread(NamedTuple):
    """How much b metrics scatter, and how few independent things they may rest on.

    Args:
        variance: (b) of the metrics, from their influence values.
        crowding: (b) design effect if all things of one cluster were copies of one another.
        units: (b) clusters that hold any thing at all.
    """

    variance: Floats
    crowding: Floats
    units: Floats


class Clusters:
    """Which images belong together; each stands for itself when there are no groups.

    Args:
        size: How many images there are.
        groups: (n) integers; images of equal number belong together.
    """

    def __init__(self, size: int, *, groups: NDArray[np.int64] | None = None) -> None:
        self.size = size
        self.grouped = groups is not None
        self.count = size
        self._order: NDArray[np.int64] | None = None
        if groups is not None:
            self._order = np.argsort(groups, kind="stable")
            self._starts = np.unique(groups[self._order], return_index=True)[1]
            self.count = len(self._starts)

    def sums(self, rows: Floats) -> Floats:
        """(n, ...) summed within clusters: (g, ...)."""
        return rows if self._order is None else np.add.reduceat(rows[self._order], self._starts, axis=0)

    def variance(self, influence: Floats) -> Floats:
        """Variance of metrics from their influence values.

        Args:
            influence: (n, ...) with mean zero; a metric's error is about the mean of its influence values.

        Returns:
            (...) the variances.
        """
        bessel = self.count / max(self.count - 1, 1) if self.grouped else 1.0
        return np.asarray(bessel * np.square(self.sums(influence)).sum(axis=0) / self.size**2)

    def spread(self, influence: Floats, trials: Floats) -> Spread:
        """The spread of b shares.

        Args:
            influence: (n, b) influence values.
            trials: (n, b) how many things of each share an image holds.
        """
        held = self.sums(trials)
        total = np.maximum(held.sum(axis=0), 1.0)
        return Spread(self.variance(influence), np.square(held).sum(axis=0) / total, (held > 0).sum(axis=0))

    def quantile(self, confidence: float, *, units: Floats | None = None) -> Floats:
        """How many standard errors an interval reaches to each side.

        Args:
            confidence: Share of intervals that are to hold the truth, such as 0.95.
            units: Clusters behind the number; all of them when None.

        Returns:
            The normal quantile, or Student's with one degree less than there are groups.
        """
        tail = (1 + confidence) / 2
        if not self.grouped:
            return np.asarray(special.ndtri(tail))
        # With a single unit the crowding leaves one trial at most; Student's quantile does not exist there.
        degrees = np.maximum(self.count if units is None else units, 2) - 1
        return np.asarray(special.stdtrit(degrees, tail))


def dot(values: NDArray[Any], weights: Floats) -> Floats:
    """(..., n) weighted and summed: (...).

    The sum of a BLAS may end in another last digit where the arrays lie elsewhere in memory; equal tables
    must give equal reports, so this one adds up in an order of its own.
    """
    return np.asarray((values * weights).sum(axis=-1))


def wilson(share: Real, trials: Real, quantile: Real) -> tuple[Floats, Floats]:
    """The score interval of a proportion (Wilson 1927, JASA 22).

    Args:
        share: Proportion in 0..1, a number or an array.
        trials: How many independent trials it rests on, greater than zero; need not be whole.
        quantile: Standard errors to each side: 1.96 for 95 %.

    Returns:
        The lower and the upper end, within 0..1.
    """
    share, square = np.asarray(share), np.square(quantile) / trials
    centre = (share + square / 2) / (1 + square)
    arm = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    # At 0 and 1 the ends meet the share exactly; rounding must not pull them past it.
    low, high = np.minimum(centre - arm, share), np.maximum(centre + arm, share)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def effective_trials(share: Floats, trials: Floats, spread: Spread, *, firmness: Real = 0.0) -> Floats:
    """How many independent trials would scatter as much as these shares do.

    Args:
        share: (b) proportions in 0..1.
        trials: (b) how many things each rests on, greater than zero.
        spread: Their spread.
        firmness: Trials' worth of belief that the things are independent; it steadies a variance that is
            itself estimated from few images.

    Returns:
        (b) numbers greater than zero. Where the data show no spread at all the crowding decides.
    """
    binomial = share * (1 - share)
    silent = (spread.variance < _NO_VARIANCE) | (binomial < _NO_VARIANCE)
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = spread.variance * trials / binomial
    effect = np.where(silent, np.maximum(spread.crowding, 1.0), measured)
    return np.asarray(trials / ((trials * effect + firmness) / (trials + firmness)))


def share_interval(
    share: Floats,
    trials: Floats,
    spread: Spread,
    *,
    clusters: Clusters,
    confidence: float,
    independent: bool = False,
    firmness: Real = 0.0,
) -> tuple[Floats, Floats]:
    """Wilson intervals of b shares on their effective trials.

    Args:
        share: (b) proportions in 0..1.
        trials: (b) how many things each rests on, greater than zero.
        spread: Their spread.
        clusters: Which images belong together.
        confidence: Share of intervals that are to hold the truth.
        independent: Whether an image holds one thing at most, so that without groups the trials are exact.
        firmness: As for `effective_trials`.

    Returns:
        (b) lower and (b) upper ends.
    """
    effective = trials
    if clusters.grouped or not independent:
        effective = effective_trials(share, trials, spread, firmness=firmness)
    if independent:
        # Groups that seem to scatter less than single images do so by luck.
        effective = np.minimum(effective, trials)
    low, high = wilson(share, effective, clusters.quantile(confidence, units=spread.units))
    return low, high


def class_mean_interval(
    shares: Floats,
    trials: Floats,
    spread: Spread,
    mean_variance: float,
    *,
    clusters: Clusters,
    confidence: float,
    firmness: Real = 0.0,
) -> tuple[float, float]:
    """The interval of an average over classes, each class counting as much.

    A rare class without a mistake seems to have no variance at all, and an average over such classes far too
    little. So every class's variance is taken at a share that four images' worth of belief pulls toward the
    average, and one more, spread over all classes, toward one half. What the classes have in common (a
    mistake costs one class recall and another precision) scales the sum as it does in the data.

    Args:
        shares: (k) the classes' values in 0..1.
        trials: (k) images behind each; 0 marks a class whose value is a convention, not a measurement.
        spread: Spread of the single classes.
        mean_variance: Variance of the average, from the averaged influence values.
        clusters: Which images belong together.
        confidence: Share of intervals that are to hold the truth.
        firmness: As for `effective_trials`.

    Returns:
        The lower and the upper end.
    """
    count, mean = len(shares), float(shares.mean())
    floor = 0.5 / max(trials.sum(), 1.0)
    centre = min(max(mean, floor), 1 - floor)
    measured = trials > 0
    effective = effective_trials(shares, np.where(measured, trials, 1.0), spread, firmness=firmness)
    drawn = (trials * shares + 4 * centre + 0.25 / count) / (trials + 4 + 0.5 / count)
    steadied = np.where(measured, drawn * (1 - drawn) / np.maximum(effective - 1, 1.0), 0.25)
    alone = spread.variance.sum()
    shared = mean_variance * count**2 / alone if alone > _NO_VARIANCE else 1.0
    variance = steadied.sum() / count**2 * max(shared, 0.1)
    low, high = wilson(mean, centre * (1 - centre) / variance, clusters.quantile(confidence))
    return float(low), float(high)


def bootstrap_mean(
    values: Floats, *, clusters: Clusters, confidence: float, resamples: int, generator: np.random.Generator
) -> Number:
    """A mean of non-negative, long-tailed values, with its bootstrap-t interval (Efron 1981, CJS 9).

    Whole clusters are drawn, and each drawn mean is judged by its own standard error. That is what makes the
    interval reach further up than down when a few images cost much, as they do in a log loss. It never
    reaches further than if all the cost were made of images as dear as the dearest one seen: of all values
    between 0 and a limit, those at its two ends scatter most, and their mean has a Wilson interval.

    Args:
        values: (n) one per image, none negative.
        clusters: Which images belong together.
        confidence: Share of intervals that are to hold the truth.
        resamples: How often the clusters are drawn.
        generator: Source of the draws.
    """
    mean = float(values.mean())
    if clusters.count < 2:
        return Number(mean, reason=_too_few(clusters))
    total, size = clusters.sums(values), clusters.sums(np.ones_like(values))
    terms = np.stack([total, size, total * total, total * size, size * size], axis=1)
    means, errors = _ratio(terms.sum(axis=0)[None])
    drawn = [_ratio(weights @ terms) for weights in _draws(clusters.count, resamples, generator)]
    drawn_means, drawn_errors = (np.concatenate(part) for part in zip(*drawn, strict=True))
    if errors[0] <= 0:
        return Number(mean, reason="every image has the same value, so nothing shows how far it may be off")
    tail = (1 - confidence) / 2
    # Clusters drawn without a single dear one may all be equal: then they stand very far from the mean.
    judged = (drawn_means - means[0]) / np.maximum(drawn_errors, _NO_VARIANCE * errors[0])
    few, many = np.quantile(judged, [tail, 1 - tail], method="weibull")
    costs = total * clusters.count / size.sum()  # one a cluster; their mean is the mean
    dearest = costs.max()
    least, most = dearest * np.array(wilson(mean / dearest, clusters.count, clusters.quantile(confidence)))
    low, high = max(least, mean - many * errors[0]), min(most, mean - few * errors[0])
    return Number(mean, min(mean, float(low)), max(mean, float(high)))


def _ratio(terms: Floats) -> tuple[Floats, Floats]:
    """(B) ratios and (B) their standard errors from sums of t, s, tt, ts and ss over drawn clusters."""
    total, size, square, cross, weight = terms.T
    mean = total / size
    return mean, np.sqrt(np.maximum(square - 2 * mean * cross + mean**2 * weight, 0)) / size


def _draws(count: int, resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """How often each cluster is drawn, in blocks of resamples that fit in memory."""
    step = max(1, _BLOCK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def _too_few(clusters: Clusters) -> str:
    return "one group only: it cannot show how another would fare" if clusters.grouped else "one image only"
