"""Two models' classes on the same images: differences of shares of images, with score intervals.

An image that both models answer alike cannot move a difference, whether the answer is right or wrong; what is
counted are the others, and Tango's interval knows what few or none of them prove.

Shapes: n images, k classes, b classes of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation import metrics
from pictune.evaluation.class_numbers import ABSENT, NEVER_ANSWERED, NO_CLASS
from pictune.evaluation.intervals import Clusters
from pictune.evaluation.pairing_intervals import (
    Difference,
    Differences,
    averaged,
    effective_pairs,
    paired_share_interval,
)
from pictune.tasks.table import ClassTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_AVERAGES = {"recall": "balanced_accuracy", "f1": "macro_f1"}
_BLOCK = 4_000_000  # a block of classes holds at most so many cells (32 MB an array)


@dataclass(frozen=True, slots=True)
class _Shares:
    """A share of images for both models, class by class.

    Args:
        first: (b) NaN where it has no meaning.
        second: (b) The same of the second model.
        influence: (n, b) of each image on the difference.
        held: (n, b) how many pairs of answers an image holds; a single one moves the share by one over all.
        apart: (n, b) whether the models answer an image differently, as far as it matters here.
    """

    first: Floats
    second: Floats
    influence: Floats
    held: Floats
    apart: Bools


def _recall(truth: Bools, first: Bools, second: Bools) -> _Shares:
    """Of the images of a class, those that were found."""
    one, two = metrics.recall(truth, first), metrics.recall(truth, second)
    had, has = (np.where(truth.any(axis=0), share.value, np.nan) for share in (one, two))
    return _Shares(had, has, two.influence - one.influence, one.held, truth & (first != second))


def _precision(truth: Bools, first: Bools, second: Bools) -> _Shares:
    """Of the images given an answer, those that deserved it; which ones they are differs."""
    one, two = metrics.precision(truth, first), metrics.precision(truth, second)
    there = truth.any(axis=0)
    had, has = (np.where(there & (share.trials > 0), share.value, np.nan) for share in (one, two))
    return _Shares(had, has, two.influence - one.influence, (one.held + two.held) / 2, first != second)


def _f1(truth: Bools, first: Bools, second: Bools) -> _Shares:
    """Twice the hits, over the images of a class and those called so."""
    one, two = metrics.jaccard(truth, first), metrics.jaccard(truth, second)
    there = truth.any(axis=0)
    had, has = (np.where(there, metrics.f1_of_jaccard(share.value), np.nan) for share in (one, two))
    influence = metrics.f1_influence(two) - metrics.f1_influence(one)
    return _Shares(had, has, influence, truth + (first + second.astype(float)) / 2, first != second)


_COUNTED: Mapping[str, Callable[[Bools, Bools, Bools], _Shares]] = MappingProxyType(
    {"recall": _recall, "precision": _precision, "f1": _f1}
)


@dataclass(frozen=True, slots=True)
class _Compared:
    """b shares of both models, and what the interval of their difference rests on.

    Args:
        first: (b) NaN where it has no meaning.
        second: (b) The same of the second model.
        variance: (b) of the difference.
        pairs: (b) effective pairs, as many as there are where images stand for themselves.
        units: (b) clusters that hold any.
    """

    first: Floats
    second: Floats
    variance: Floats
    pairs: Floats
    units: Floats


class _ClassPairing:
    """Compares two tables of classes.

    Args:
        first: What the first model answered.
        second: What the second model answered, about the same images.
        confidence: Share of intervals that are to hold the truth.
    """

    def __init__(self, first: ClassTable, second: ClassTable, *, confidence: float) -> None:
        self.first, self.second, self.confidence = first, second, confidence
        self.clusters = Clusters(len(first), groups=first.groups)
        self.present: Bools = np.asarray(first.truth.any(axis=0))

    def accuracy(self) -> Difference:
        """Images whose answer is right as a whole: the plainest case, one pair of answers an image."""
        right = [
            (table.truth == table.decided).all(axis=1, keepdims=True) for table in (self.first, self.second)
        ]
        compared = self._summed(_recall(np.ones_like(right[0]), *right))
        return self._numbers(["accuracy"], [""], compared, step=1 / len(self.first))[0]

    def shares(self, name: str) -> tuple[list[Difference], Difference]:
        """One share for each class, and its average over the classes that are here."""
        step, truth = max(1, _BLOCK // len(self.first)), self.first.truth
        blocks, joint = [], np.zeros(len(truth))
        for start in range(0, len(self.present), step):
            block = slice(start, start + step)
            shares = _COUNTED[name](
                truth[:, block], self.first.decided[:, block], self.second.decided[:, block]
            )
            blocks.append(self._summed(shares))
            joint += shares.influence[:, self.present[block]].sum(axis=1)
        fields = ("first", "second", "variance", "pairs", "units")
        whole = _Compared(*(np.concatenate([getattr(block, each) for block in blocks]) for each in fields))
        missing = np.isnan(whole.first) | np.isnan(whole.second)
        reasons = np.where(missing, np.where(self.present, NEVER_ANSWERED, ABSENT), "").tolist()
        rows = self._numbers([name] * len(self.present), reasons, whole)
        return rows, self._mean(_AVERAGES.get(name, name), whole, joint)

    def _mean(self, name: str, whole: _Compared, joint: Floats) -> Difference:
        here = np.flatnonzero(self.present)
        if not len(here):
            return Difference(name, None, None, reason=NO_CLASS)
        base = averaged(
            whole.variance[here], whole.pairs[here], float(self.clusters.variance(joint / len(here)))
        )
        first, second = (
            np.nan_to_num(values[here]).mean(keepdims=True) for values in (whole.first, whole.second)
        )
        # An image with several classes may differ in all at once: together they tell of no more images.
        pairs = base.pairs if self.first.exclusive else min(base.pairs, float(self.clusters.count))
        columns = (first, second, np.array([base.variance]), np.array([pairs]))
        compared = _Compared(*columns, np.array([float(self.clusters.count)]))
        return self._numbers([name], [""], compared)[0]

    def _summed(self, shares: _Shares) -> _Compared:
        """What intervals rest on, from each image's influence."""
        clusters = self.clusters
        spread, total = clusters.spread(shares.influence, shares.held), shares.held.sum(axis=0)
        alone = np.square(shares.influence).sum(axis=0) / clusters.size**2
        effect = np.divide(spread.variance, alone, out=np.ones_like(alone), where=alone > 0)
        apart = (clusters.sums(shares.apart.astype(float)) > 0).sum(axis=0)
        # Where images stand for themselves, there is no crowding, though an image may count for F1 twice.
        crowding = spread.crowding if clusters.grouped else np.ones_like(total)
        pairs = effective_pairs(np.maximum(total, 1.0), crowding, effect, apart)
        # Groups that seem to scatter less than single images do so by luck.
        variance = np.maximum(spread.variance, alone)
        return _Compared(shares.first, shares.second, variance, pairs, spread.units)

    def _numbers(
        self, names: Sequence[str], reasons: Sequence[str], compared: _Compared, *, step: float = 0.0
    ) -> list[Difference]:
        """One difference a column."""
        moved = np.nan_to_num(compared.second - compared.first)
        apart = compared.variance * compared.pairs + np.square(moved)
        quantile = self.clusters.quantile(self.confidence, units=compared.units)
        low, high = paired_share_interval(moved, apart, compared.pairs, quantile)
        columns = (part.tolist() for part in (compared.first, compared.second, low, high))
        rows = zip(names, *columns, reasons, strict=True)
        return [
            Difference.of(name, had, has, below, above, reason, step)
            for name, had, has, below, above, reason in rows
        ]


def pair_classes(
    first: ClassTable, second: ClassTable, resamples: int, confidence: float, seed: int
) -> Differences:
    """Differences of two tables of classes; nothing is drawn, so ``resamples`` and ``seed`` change nothing.

    Args:
        first: What the first model answered.
        second: What the second model answered, about the same images.
        resamples: Of no consequence here.
        confidence: Share of intervals that are to hold the truth.
        seed: Of no consequence here.
    """
    pairing = _ClassPairing(first, second, confidence=confidence)
    found = {name: pairing.shares(name) for name in _COUNTED}
    overall = [pairing.accuracy()]
    # Where an image may have several classes, an average of recalls says nothing without one of precisions.
    overall += [found[name][1] for name in _AVERAGES if first.exclusive or name != "recall"]
    rows = zip(*(columns for columns, _ in found.values()), strict=True)
    return Differences(overall, [list(row) for row in rows], first.truth.sum(axis=0).tolist())
