"""Differences of two models on the same images, and how far another set of images might move them.

Both models answer the same images, so their mistakes go together and the difference is known far better than
either number. What decides is how many images they answer *differently*, and these may be few or none. Then a
variance read off the data is no guide: no image of n differing does not prove that none would. So a
difference of shares has Tango's score interval (Tango 1998, Statistics in Medicine 17, 891-908), which for
none of n reaches to about 3.84 / n on either side, and which for many is the usual one.

Whatever is no plain share of images gets the number of pairs, and the share of them that disagree, that would
scatter as much: the idea of effective trials (`pictune.evaluation.intervals`), for two models.

Where a difference has no formula, images are drawn anew, the same ones for both models. What is drawn tells
too little when a few images make all of the difference: the next set may hold none of them, or twice as many.
`drawn_intervals` reads off the draws how few they are, and widens the interval by that.

Shapes: b differences side by side, g clusters of images (each image one when there are no groups), r draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

ONE_UNIT = "one {} alone cannot show how another would fare"
FEWEST = 2  # clusters without which nothing can be said of others
_HALVINGS = 60
_BELIEF = 4.0  # images' worth of belief that a class disagrees as often as the others do
_SILENT = 1e-18  # a variance below it is rounding
_UNSEEN = 2.0  # images that might differ, added to those that do, as Bonett and Price (2012) add two
_CROWDED = 1.0  # groups' worth of belief that the images of a group disagree together


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of two models on the same images; higher is better.

    Args:
        name: The metric.
        first: What the first model reaches; None when the metric has no meaning for it.
        second: What the second model reaches.
        difference: Second less first, -1 to 1: a loss is negative. None when either is missing.
        low: Lower end of the paired interval of the difference; None when there is none.
        high: Its upper end.
        reason: Why something is missing.
        step: How far the answer to a single image moves the number; 0 where it moves by any amount.
    """

    name: str
    first: float | None
    second: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    step: float = 0.0

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @classmethod
    def of(
        cls,
        name: str,
        first: float,
        second: float,
        low: float,
        high: float,
        reason: str = "",
        step: float = 0.0,
    ) -> Difference:
        """From numbers of which any may be NaN: then it is missing.

        Args:
            name: The metric.
            first: What the first model reaches.
            second: What the second model reaches.
            low: Lower end of the interval.
            high: Its upper end.
            reason: Why something is missing, if so.
            step: As above.
        """
        had, has = (None if np.isnan(value) else float(value) for value in (first, second))
        if had is None or has is None:
            return cls(name, had, has, reason=reason, step=step)
        moved = has - had
        if np.isnan(low) or np.isnan(high):
            return cls(name, had, has, moved, reason=reason, step=step)
        # The ends may miss the value by a last digit, or by a bias that was taken off.
        ends = min(float(low), moved), max(float(high), moved)
        return cls(name, had, has, moved, *ends, reason=reason, step=step)

    def to_json(self) -> dict[str, Any]:
        """The difference in plain types."""
        names = ("first", "second", "difference", "low", "high")
        entry: dict[str, Any] = {name: getattr(self, name) for name in names}
        entry["distinguishable"] = self.distinguishable
        return entry | ({"reason": self.reason} if self.reason else {})


class Differences(NamedTuple):
    """What two tables of one kind differ by.

    Args:
        overall: Of the whole, the number that models are judged by first.
        classes: (k) lists, of each class, the same metrics in the same order.
        support: (k) how much of each class there is: images, boxes, or images that show it.
    """

    overall: list[Difference]
    classes: list[list[Difference]]
    support: list[int]


def paired_share_interval(
    difference: Floats, discordance: Floats, pairs: Floats, quantile: Floats | float
) -> tuple[Floats, Floats]:
    """The score interval of the difference of two paired proportions (Tango 1998).

    Args:
        difference: (b) second proportion less first, -1 to 1.
        discordance: (b) share of pairs that disagree, 0 to 1; at least as large as the difference.
        pairs: (b) how many there are, greater than zero; need not be whole.
        quantile: Standard errors to each side: 1.96 for 95 %.

    Returns:
        (b) lower and (b) upper ends, within -1 and 1.
    """
    found = np.clip(difference, -1.0, 1.0)
    apart = np.clip(discordance, np.abs(found), 1.0)
    gained, lost = (apart + found) / 2, (apart - found) / 2
    square = np.square(quantile) / pairs

    def excess(tried: Floats) -> Floats:
        """How far beyond the quantile the data lie from a difference that is tried; rises away from it."""
        linear = (2 - found) * tried - apart
        constant = lost * tried * (1 - tried)
        # The likeliest share of pairs that only the first gets right, were this the true difference.
        only_first = (np.sqrt(np.maximum(linear**2 + 8 * constant, 0)) - linear) / 4
        variance = np.maximum(2 * only_first + tried * (1 - tried), 0)
        return (tried - found) ** 2 - square * variance

    assert (gained >= 0).all()
    assert (lost >= 0).all()
    return _root(excess, found, -1.0), _root(excess, found, 1.0)


def _root(excess: Any, inside: Floats, end: float) -> Floats:
    """(b) where a function turns positive between points where it isn't and an end where it is."""
    near, far = np.array(inside, float), np.full(np.shape(inside), end)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        out = excess(middle) > 0
        near, far = np.where(out, near, middle), np.where(out, middle, far)
    return np.asarray(far)


def effective_pairs(pairs: Floats, crowding: Floats, effect: Floats, apart: Floats) -> Floats:
    """How many independent pairs would scatter as much as these do in their groups.

    Args:
        pairs: (b) how many there are.
        crowding: (b) design effect if a group's pairs were copies of one another.
        effect: (b) design effect that is measured; its value is of no consequence where ``apart`` is 0.
        apart: (b) groups in which any pair disagrees: where there are few, the crowding decides.

    Returns:
        (b) greater than zero, never more than there are.
    """
    # Groups that seem to scatter less than single images do so by luck.
    measured = np.where(apart > 0, np.maximum(effect, 1.0), 1.0)
    crowded = _CROWDED * np.maximum(crowding, 1.0)
    return np.asarray(pairs * (apart + _CROWDED) / (apart * measured + crowded))


@dataclass(frozen=True)
class Averaged:
    """What an average of differences over classes rests on.

    Args:
        variance: Of the average.
        pairs: Independent pairs, all classes together, that would tell as much of it.
    """

    variance: float
    pairs: float


def averaged(variance: Floats, pairs: Floats, mean_variance: float) -> Averaged:
    """How far an average over classes may be off.

    A rare class in which no image differs seems to have no variance at all. So every class's share of
    disagreement is pulled toward that of all classes, by four images' worth of belief. What the classes have
    in common (an answer that moves costs one class recall and another precision) scales the sum as it does in
    the data.

    Args:
        variance: (k) of each class's difference.
        pairs: (k) effective pairs behind each, greater than zero.
        mean_variance: Of the average, as measured.
    """
    alone, count = float(variance.sum()), len(pairs)
    shared = mean_variance * count**2 / alone if alone > 0 else 1.0
    return Averaged(
        float(steadied(variance, pairs).sum()) / count**2 * max(shared, 0.1),
        count**2 / float((1 / pairs).sum()),
    )


@dataclass(frozen=True, eq=False)
class Draws:
    """b differences under r sets of images drawn anew, the same for both models.

    Args:
        weights: (r, g) how often each cluster was drawn.
        moved: (r, b) the differences; NaN where a draw has none.
    """

    weights: Floats
    moved: Floats

    @property
    def variance(self) -> Floats:
        """(b) of the differences."""
        return np.asarray(np.square(self._centred()).sum(axis=0) / self._known())

    def telling(self) -> Floats:
        """(b) how many clusters make the difference scatter, were all of these alike.

        The covariance of a cluster's weight with the difference is its influence (Efron 2014, JASA 109); the
        clusters that count are the squared sum of squares over the sum of fourth powers. Draws are few, so
        influences are noisy; what noise alone adds to the fourth powers is taken off.
        """
        clusters = self.weights.shape[1]
        influence = (self.weights - 1).T @ self._centred() / self._known()
        noise = clusters / len(self.weights)
        square = np.maximum(self.variance, _SILENT)
        peaked = clusters * (influence**4).sum(axis=0) / square**2 - 3 * noise**2 - 6 * noise
        return np.asarray(clusters / np.clip(peaked, 1.0, clusters))

    def _known(self) -> Floats:
        return np.asarray(np.maximum(np.isfinite(self.moved).sum(axis=0), 1).astype(float))

    def _centred(self) -> Floats:
        known = np.isfinite(self.moved)
        mean = np.where(known, self.moved, 0.0).sum(axis=0) / self._known()
        return np.where(known, self.moved - mean, 0.0)


def drawn_intervals(
    found: Floats, draws: Draws, *, variance: Floats, pairs: Floats, units: Floats, confidence: float
) -> tuple[Floats, Floats]:
    """Intervals of differences from draws.

    An interval is the union of two: percentiles of the draws, expanded as far as Student's quantiles are
    farther than normal ones (Hesterberg 2015, The American Statistician 69), which know which way the draws
    lean; and Student's, which knows how few images tell. Twice these, as by Satterthwaite (1946), are the
    degrees of freedom, and two images that might differ are added to them as Bonett and Price (2012, British
    Journal of Mathematical and Statistical Psychology 65) add two pairs. Where no draw differs from another
    there is nothing to draw from, and Tango's interval says what so many images without a difference prove.

    Args:
        found: (b) the differences as measured; NaN where there is none.
        draws: The same of images drawn anew.
        variance: (b) of the differences: that of the draws or more.
        pairs: (b) images, or as many as their clusters are worth, behind each.
        units: (b) clusters behind each.
        confidence: Share of intervals that are to hold the truth.

    Returns:
        (b) lower and (b) upper ends, within -1 and 1; NaN where a single cluster or none is behind it.
    """
    tail = (1 + confidence) / 2
    telling = draws.telling()
    freedom = np.clip(np.minimum(2 * telling, units - 1), 1.0, None)
    quantile = special.stdtrit(freedom, tail)
    arm = quantile * np.sqrt(variance * (1 + _UNSEEN / telling))
    low, high = np.asarray(found - arm), np.asarray(found + arm)
    part = special.ndtr(-quantile * np.sqrt((freedom + 1) / freedom))
    for number in range(len(found)):
        kept = draws.moved[np.isfinite(draws.moved[:, number]), number]
        if len(kept):
            ends = np.quantile(kept, (part[number], 1 - part[number]))
            low[number], high[number] = min(low[number], ends[0]), max(high[number], ends[1])
    silent = (variance < _SILENT) & np.isfinite(found)
    moved = np.where(silent, found, 0.0)
    none = paired_share_interval(
        moved, np.abs(moved), np.maximum(pairs, 1.0), np.asarray(special.ndtri(tail))
    )
    low, high = np.where(silent, none[0], low), np.where(silent, none[1], high)
    alone = units < FEWEST
    return (
        np.where(alone, np.nan, np.clip(low, -1.0, 1.0)),
        np.where(alone, np.nan, np.clip(high, -1.0, 1.0)),
    )


def steadied(variance: Floats, pairs: Floats) -> Floats:
    """(k) variances of classes, each pulled toward what its pairs would have if it disagreed as all do.

    Args:
        variance: (k) of each class's difference.
        pairs: (k) effective pairs behind each, greater than zero.
    """
    apart = variance * pairs
    usual = float(apart @ pairs / pairs.sum()) if len(pairs) else 0.0
    return np.asarray((pairs * apart + _BELIEF * usual) / (pairs + _BELIEF) / pairs)
