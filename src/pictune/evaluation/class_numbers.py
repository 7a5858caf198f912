"""Every number of a class table: class by class, averaged over classes, and over all images.

Averages over classes leave out a class that has no image here. A class that is here but was never answered
has no precision of its own, yet counts as 0 in the average, so that no model gains by keeping silent
(scikit-learn's ``zero_division=0``).

Shapes: n images, k classes, b classes of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation import metrics
from pictune.evaluation.calibration import answers, calibration_error
from pictune.evaluation.intervals import (
    Clusters,
    Number,
    Real,
    Spread,
    bootstrap_mean,
    class_mean_interval,
    dot,
    share_interval,
)
from pictune.tasks.table import ClassTable

Floats = NDArray[np.float64]

ABSENT = "no image here is of this class"
NEVER_ANSWERED = "the model never gave this answer"
EVERYWHERE = "every image here is of this class"
NO_RANKING = "needs images of this class and images without it"
NO_CLASS = "no class can be judged here"

RANKED = ("roc_auc", "average_precision")
CLASS_METRICS = ("precision", "recall", "f1", "specificity", "roc_auc", "average_precision")
_COUNTED = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
}
_BLOCK = 4_000_000  # a block of classes holds at most so many cells (32 MB an array)


@dataclass(frozen=True, slots=True)
class ClassNumbers:
    """One class's numbers.

    Args:
        name: The class.
        support: Images that are of it.
        metrics: Its metrics by name, as in `CLASS_METRICS`.
        tp: Images of the class that were answered so.
        fp: Images of other classes that were answered so.
        fn: Images of the class that were not.
        tn: Images of other classes that were not.
    """

    name: str
    support: int
    metrics: dict[str, Number]
    tp: int
    fp: int
    fn: int
    tn: int

    def to_json(self) -> dict[str, Any]:
        """The class as it stands in report.json."""
        numbers = {name: number.to_json() for name, number in self.metrics.items()}
        counts = {"tp": self.tp, "fp": self.fp, "fn": self.fn, "tn": self.tn}
        return {"class": self.name, "support": self.support, **numbers, **counts}


@dataclass(slots=True)
class _Column:
    """One metric over all classes, gathered block by block.

    Values, trials and spreads are those of all k classes in the end; ``plain`` and ``weighted`` add up the
    influence on the average over present classes and on the average weighted by support.
    """

    plain: Floats
    weighted: Floats
    values: list[Floats] = field(default_factory=list)
    trials: list[Floats] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)

    def add(self, values: Floats, trials: Floats, spread: Spread) -> None:
        self.values.append(values)
        self.trials.append(trials)
        self.spreads.append(spread)

    def add_influence(self, influence: Floats, *, present: NDArray[np.bool_], support: Floats) -> None:
        self.plain += influence[:, present].sum(axis=1)
        self.weighted += dot(influence, support)

    def joined(self) -> tuple[Floats, Floats, Spread]:
        spread = Spread(*(np.concatenate(part) for part in zip(*self.spreads, strict=True)))
        return np.concatenate(self.values), np.concatenate(self.trials), spread


class ClassMeasure:
    """Measures one table.

    Args:
        table: The table, checked.
        clusters: Which images belong together.
        confidence: Share of intervals that are to hold the truth.
    """

    def __init__(self, table: ClassTable, *, clusters: Clusters, confidence: float) -> None:
        self.table, self.clusters, self.confidence = table, clusters, confidence
        self.support = table.truth.sum(axis=0, dtype=float)
        self.present = self.support > 0
        self.counts = metrics.outcomes(table.truth, table.decided)
        names = (*_COUNTED, "jaccard", "f1", *RANKED)
        size = len(table)
        self._columns = {name: _Column(np.zeros(size), np.zeros(size)) for name in names}
        self._count_shares()
        self._rank()

    def _count_shares(self) -> None:
        """Precision, recall, specificity, Jaccard index and F1, a block of classes at a time."""
        step = max(1, _BLOCK // len(self.table))
        for start in range(0, len(self.support), step):
            block = slice(start, start + step)
            truth, decided = self.table.truth[:, block], self.table.decided[:, block]
            here = {"present": self.present[block], "support": self.support[block]}
            for name, count in _COUNTED.items():
                share = count(truth, decided)
                spread = self.clusters.spread(share.influence, share.held)
                self._columns[name].add(share.value, share.trials, spread)
                self._columns[name].add_influence(share.influence, **here)
            overlap = metrics.jaccard(truth, decided)
            influence = metrics.f1_influence(overlap)
            spread = self.clusters.spread(overlap.influence, overlap.held)
            self._columns["jaccard"].add(overlap.value, overlap.trials, spread)
            moved = spread._replace(variance=self.clusters.variance(influence))
            self._columns["f1"].add(metrics.f1_of_jaccard(overlap.value), overlap.trials, moved)
            self._columns["f1"].add_influence(influence, **here)

    def _rank(self) -> None:
        """ROC AUC and average precision of every class that has images and others beside it."""
        size = len(self.table)
        self.rankable = np.flatnonzero(self.present & (self.support < size))
        for c in self.rankable:
            truth = self.table.truth[:, c]
            ranked = metrics.ranking(truth, self.table.scores[:, c])
            rarer = (truth if 2 * truth.sum() <= size else ~truth).astype(float)[:, None]
            for name, (value, influence, trials) in zip(RANKED, ranked, strict=True):
                spread = self.clusters.spread(influence[:, None], rarer)
                self._columns[name].add(np.array([value]), np.array([trials], float), spread)
                self._columns[name].plain += influence

    def by_class(self) -> list[ClassNumbers]:
        """Every class in class order."""
        found = {name: list(self._class_column(name)) for name in CLASS_METRICS}
        counts = [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*self._counts(), strict=True)]
        return [
            ClassNumbers(name, int(self.support[i]), {m: found[m][i] for m in CLASS_METRICS}, *counts[i])
            for i, name in enumerate(self.table.classes)
        ]

    def _counts(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.counts.tp, self.counts.fp, self.counts.fn, self.counts.tn

    def _class_column(self, name: str) -> Iterator[Number]:
        """One metric for each class: a number, or why there is none."""
        if name in RANKED:
            numbers = dict(zip(self.rankable.tolist(), self._ranked(name), strict=True))
            return (numbers.get(c, Number(None, reason=NO_RANKING)) for c in range(len(self.support)))
        # The interval of F1 is that of the Jaccard index, carried over.
        values, trials, spread = self._columns["jaccard" if name == "f1" else name].joined()
        measured = trials > 0
        low, high = share_interval(
            values,
            np.maximum(trials, 1.0),
            spread,
            clusters=self.clusters,
            confidence=self.confidence,
            independent=True,
        )
        if name == "f1":
            values, low, high = (metrics.f1_of_jaccard(part) for part in (values, low, high))
        return (
            Number(float(values[c]), float(low[c]), float(high[c]))
            if measured[c] and (self.present[c] or name == "specificity")
            else Number(None, reason=self._why_not(name, c))
            for c in range(len(values))
        )

    def _why_not(self, name: str, c: int) -> str:
        if name == "specificity":
            return EVERYWHERE
        return NEVER_ANSWERED if self.present[c] else ABSENT

    def _ranked(self, name: str) -> list[Number]:
        if not len(self.rankable):
            return []
        values, trials, spread = self._columns[name].joined()
        low, high = share_interval(
            values,
            trials,
            spread,
            clusters=self.clusters,
            confidence=self.confidence,
            firmness=_firmness(name, trials),
        )
        return [Number(float(v), float(x), float(y)) for v, x, y in zip(values, low, high, strict=True)]

    def macro(self, name: str) -> Number:
        """The average over the classes that are here, each counting as much."""
        ranked = name in RANKED
        chosen = np.arange(len(self.rankable)) if ranked else np.flatnonzero(self.present)
        if not len(chosen):
            return Number(None, reason=NO_CLASS)
        values, trials, spread = self._columns[name].joined()
        spread = Spread(*(part[chosen] for part in spread))
        low, high = class_mean_interval(
            values[chosen],
            trials[chosen],
            spread,
            float(self.clusters.variance(self._columns[name].plain / len(chosen))),
            clusters=self.clusters,
            confidence=self.confidence,
            firmness=_firmness(name, trials[chosen]),
        )
        left_out = len(self.support) - len(chosen)
        note = f"over {len(chosen)} of {len(self.support)} classes" if left_out else ""
        return Number(float(values[chosen].mean()), low, high, note=note)

    def weighted(self, name: str) -> Number:
        """The average over classes, each weighted by its images."""
        labels = self.support.sum()
        if not labels:
            return Number(None, reason=NO_CLASS)
        values, _, _ = self._columns[name].joined()
        mean = float(dot(values, self.support) / labels)
        # One image moves the classes' values and the weights they get.
        weights_moved = dot(self.table.truth, values) - mean * self.table.truth.sum(axis=1)
        influence = (self._columns[name].weighted + len(self.table) * weights_moved) / labels
        # The classes' values were taken from the same images, which costs one image's worth for each.
        size = len(self.table)
        influence *= np.sqrt(size / max(size - self.present.sum(), size / 2))
        held = self.table.truth.sum(axis=1, dtype=float)
        return self._share(mean, labels, influence, held)

    def micro(self, name: str) -> Number:
        """The metric over all labels of all images taken together."""
        truth, decided = self.table.truth, self.table.decided
        hits = (truth & decided).sum(axis=1, dtype=float)
        there, named = truth.sum(axis=1, dtype=float), decided.sum(axis=1, dtype=float)
        trials = {"precision": named, "recall": there, "f1": there + named - hits}[name]
        if not trials.any():
            return Number(None, reason=NEVER_ANSWERED if name == "precision" else NO_CLASS)
        number = self.share(hits, trials)
        return number.carried(metrics.f1_of_jaccard) if name == "f1" else number

    def share(self, hits: Floats, trials: Floats, *, independent: bool = False) -> Number:
        """A ratio of sums over images: (n) hits over (n) trials."""
        share = metrics.share_of(hits[:, None], trials[:, None])
        value, total = float(share.value[0]), float(share.trials[0])
        return self._share(value, total, share.influence[:, 0], trials, independent=independent)

    def _share(
        self, value: float, trials: float, influence: Floats, held: Floats, *, independent: bool = False
    ) -> Number:
        low, high = share_interval(
            np.array([value]),
            np.array([trials]),
            self.clusters.spread(influence[:, None], held[:, None]),
            clusters=self.clusters,
            confidence=self.confidence,
            independent=independent,
        )
        return Number(value, float(low[0]), float(high[0]))


def _firmness(name: str, trials: Floats) -> Real:
    """How firmly the usual number of trials is believed in, chosen by measured coverage.

    The variance of a ranking of few images is itself hardly known, and is too small most of all when it is.
    """
    if name == "roc_auc":
        return 3 + 0.05 * trials
    return 4.0 if name == "average_precision" else 0.0


def overall(measure: ClassMeasure, *, losses: Floats, resamples: int, seed: int) -> dict[str, Number]:
    """The numbers of the whole table by name, the most important first.

    Args:
        measure: The table's measure.
        losses: (n) each image's log loss.
        resamples: For the metrics whose intervals are simulated: log loss, Brier score, calibration error.
        seed: Decides the simulations.
    """
    table, clusters, confidence = measure.table, measure.clusters, measure.confidence
    images = np.ones(len(table))
    right = (table.truth == table.decided).all(axis=1).astype(float)
    accuracy = measure.share(right, images, independent=True)
    numbers = {"accuracy": accuracy}
    if table.exclusive:
        numbers["balanced_accuracy"] = measure.macro("recall")
    else:
        wrong = (table.truth != table.decided).sum(axis=1, dtype=float)
        numbers["hamming_loss"] = measure.share(wrong, images * len(table.classes))
    for name in ("f1", "precision", "recall"):
        numbers[f"macro_{name}"] = measure.macro(name)
        # With one class an image, recall by support is accuracy itself, and so is everything micro.
        plain = table.exclusive and name == "recall"
        numbers[f"weighted_{name}"] = accuracy if plain else measure.weighted(name)
        numbers[f"micro_{name}"] = accuracy if table.exclusive else measure.micro(name)
    for name in RANKED:
        numbers[f"macro_{name}"] = measure.macro(name)
    for name, values in (("log_loss", losses), ("brier", metrics.brier_terms(table))):
        # Both see the same draws, so that one seed stands for one set of resampled tables.
        numbers[name] = bootstrap_mean(
            values,
            clusters=clusters,
            confidence=confidence,
            resamples=resamples,
            generator=np.random.default_rng([seed, 0]),
        )
    numbers["ece"] = calibration_error(
        answers(table),
        clusters=clusters,
        confidence=confidence,
        resamples=resamples,
        generator=np.random.default_rng([seed, 1]),
    )
    return numbers
