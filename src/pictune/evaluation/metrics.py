"""What is counted, ranked and charged per class or per image, with the influence of every image.

An influence value says how far a metric moves when one image counts a little more; their mean is zero and
their scatter gives the metric's variance (Hampel 1974, JASA 69; for the area under the curve they are the
placement values of DeLong et al. 1988, Biometrics 44).

Shapes: n images, b classes side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pictune.tasks.table import ClassTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Real = TypeVar("Real", float, Floats)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of the images, class by class.

    Args:
        tp: (b) images of the class that were answered so.
        fp: (b) images of other classes that were answered so.
        fn: (b) images of the class that were not.
        tn: (b) images of other classes that were not.
    """

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats


def outcomes(truth: Bools, decided: Bools) -> Outcomes:
    """Counts the four outcomes.

    Args:
        truth: (n, b) whether the class is there.
        decided: (n, b) whether the answer names it.
    """
    there, named = truth.sum(axis=0, dtype=float), decided.sum(axis=0, dtype=float)
    hit = (truth & decided).sum(axis=0, dtype=float)
    return Outcomes(tp=hit, fp=named - hit, fn=there - hit, tn=len(truth) - there - named + hit)


@dataclass(frozen=True, slots=True)
class Shares:
    """b ratios of counts, each a share of trials, with influence.

    Args:
        value: (b) in 0..1; 0 where there are no trials.
        trials: (b) how many things are counted.
        influence: (n, b) of each image on each ratio.
        held: (n, b) trials that each image holds.
    """

    value: Floats
    trials: Floats
    influence: Floats
    held: Floats


def share_of(hits: Floats, trials: Floats) -> Shares:
    """Ratios of sums: hits over trials, both (n, b)."""
    total = trials.sum(axis=0)
    divisor = np.maximum(total, 1.0)
    value = hits.sum(axis=0) / divisor
    return Shares(value, total, (hits - value * trials) * (len(hits) / divisor), trials)


def precision(truth: Bools, decided: Bools) -> Shares:
    """Of the images given this answer, the share that deserved it."""
    return share_of((truth & decided).astype(float), decided.astype(float))


def recall(truth: Bools, decided: Bools) -> Shares:
    """Of the images of this class, the share that was found."""
    return share_of((truth & decided).astype(float), truth.astype(float))


def specificity(truth: Bools, decided: Bools) -> Shares:
    """Of the images of other classes, the share that was left alone."""
    return share_of((~truth & ~decided).astype(float), (~truth).astype(float))


def jaccard(truth: Bools, decided: Bools) -> Shares:
    """Of the images that are of this class or were called so, the share that is both."""
    return share_of((truth & decided).astype(float), (truth | decided).astype(float))


def f1_of_jaccard(jaccard: Real) -> Real:
    """F1 is a rising function of the Jaccard index, which is a plain share: an interval carries over."""
    return 2 * jaccard / (1 + jaccard)


def f1_influence(jaccard: Shares) -> Floats:
    """(n, b) influence on F1, by the slope of `f1_of_jaccard`."""
    return jaccard.influence * (2 / np.square(1 + jaccard.value))


class Ranked(NamedTuple):
    """How well scores rank the images of one class above the others, by one measure.

    Args:
        value: In 0..1.
        influence: (n) of each image on it.
        trials: How many independent trials a share of this value would usually need to scatter as much.
    """

    value: float
    influence: Floats
    trials: float


def ranking(truth: Bools, scores: Floats) -> tuple[Ranked, Ranked]:
    """Ranks one class against the rest; images with equal scores share a threshold.

    Args:
        truth: (n) whether the class is there; both answers occur.
        scores: (n) higher is surer.

    Returns:
        The area under the ROC curve (the probability that an image of the class is ranked above another,
        ties counting half) and the average precision (precision averaged over the thresholds at which the
        images of the class are found).
    """
    size, positives = len(truth), int(truth.sum())
    negatives = size - positives
    assert 0 < positives < size, "a ranking needs images of the class and others"
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    tied_from, tied_to = np.searchsorted(ranked, scores, "left"), np.searchsorted(ranked, scores, "right")
    below = _running_sum(truth[order])  # images of the class among the lowest
    others_below = np.arange(size + 1) - below

    # The share of images of the other kind on the wrong side of each image, ties half.
    others_beaten = (others_below[tied_from] + others_below[tied_to]) / (2 * negatives)
    beaten_by = 1 - (below[tied_from] + below[tied_to]) / (2 * positives)
    area = float(others_beaten[truth].mean())
    rarity = size / np.where(truth, positives, negatives)
    area_influence = (np.where(truth, others_beaten, beaten_by) - area) * rarity

    # Precision and the flagged share when the threshold stands at each image.
    flagged = (size - tied_from) / size
    precision = (positives - below[tied_from]) / (size - tied_from)
    average = float(precision[truth].mean())
    # An image moves the precision at every threshold at or below its own score.
    price = np.where(truth, 1 / flagged, 0.0)[order]
    gain = _running_sum(price)[tied_to] / size
    loss = _running_sum(price * precision[order])[tied_to] / size
    average_influence = (truth * (precision - average + gain) - loss) * (size / positives)
    # Near 1 the area's variance under Hanley and McNeil (1982, Radiology 143) is that of a share of so many
    # trials, about twice the images of the rarer kind; the average precision rests on the rarer kind alone.
    pairs = positives * negatives / (1 + (max(positives, negatives) - 1) / 2)
    return (
        Ranked(area, area_influence, pairs),
        Ranked(average, average_influence, min(positives, negatives)),
    )


def _running_sum(values: NDArray[np.generic]) -> Floats:
    """(n + 1) sums of the first 0, 1, ..., n values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=float)])


def log_losses(table: ClassTable) -> Floats:
    """(n) the price of each image: minus the logarithm of the probability given to the truth.

    With several labels an image's price is the average over its k yes-or-no answers. Probabilities are kept
    away from 0 by the spacing of floats at 1, as in scikit-learn.
    """
    tiny = np.finfo(np.float64).eps
    if table.exclusive:
        right = table.scores[np.arange(len(table)), table.truth.argmax(axis=1)]
        return np.asarray(-np.log(np.clip(right, tiny, 1 - tiny)))
    right = np.where(table.truth, table.scores, 1 - table.scores)
    return np.asarray(-np.log(np.clip(right, tiny, 1 - tiny)).mean(axis=1))


def brier_terms(table: ClassTable) -> Floats:
    """(n) squared distance of each image's probabilities from the truth (Brier 1950).

    Summed over classes (0..2), or halved for two classes (0..1) as is the custom; with several labels the
    average over the k yes-or-no answers (0..1).
    """
    squares = np.square(table.scores - table.truth)
    if not table.exclusive:
        return np.asarray(squares.mean(axis=1))
    return np.asarray(squares.sum(axis=1) / (2 if len(table.classes) == 2 else 1))
