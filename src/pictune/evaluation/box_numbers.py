"""Every number of a table of boxes, with its interval.

Precision, recall and F1 at the model's thresholds are shares of boxes, with Wilson intervals on effective
trials (`pictune.evaluation.intervals`). So are average precision and recall over overlaps; their variance and
bias come from a bootstrap that draws whole images, or whole groups (Efron 1979, Ann. Stat. 7). The draws'
percentiles would be no intervals: average precision takes the best precision from a recall on, which images
drawn twice push up, so that in simulations 95 % intervals of mAP held the truth 75 to 85 times of 100.

Shapes: n images, k classes, p predicted boxes, t true boxes, r draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.errors import DataError
from pictune.evaluation import metrics
from pictune.evaluation.box_counts import box_confusion, box_mistakes, error_counts, outcomes_of
from pictune.evaluation.class_numbers import NEVER_ANSWERED, NO_CLASS
from pictune.evaluation.intervals import Clusters, Number, Spread, class_mean_interval, share_interval
from pictune.tasks.average_precision import class_mean, coco_by_class
from pictune.tasks.matching import Matches, Verdicts, judge, match
from pictune.tasks.table import BoxTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ABSENT = "no object here is of this class"
NO_OBJECT = "no object here is of this size"
ONE_CLUSTER = "all these objects are in one {}: it cannot show how another would fare"
BACKGROUND = "background"
RANKED = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar1", "mar10", "mar100")
ORDERED = ("map50", "map", "map75")
COUNTED = ("precision", "recall", "f1")
BOX_CLASS_METRICS = ("ap", "ap50", "ap75", *COUNTED)
_FIRMNESS = 4.0  # as for the average precision of images: it steadies the scatter of few boxes
_BLOCK = 4_000_000  # a block of draws or classes holds at most so many numbers (32 MB)


@dataclass(frozen=True, slots=True)
class BoxClassNumbers:
    """One class's numbers.

    Args:
        name: The class.
        support: True boxes that are of it, crowds aside.
        metrics: Its metrics by name, as in `BOX_CLASS_METRICS`.
        tp: True boxes of the class that were found; as many predictions found them.
        fp: Other predictions of the class over its threshold.
        fn: True boxes of the class that were missed.
    """

    name: str
    support: int
    metrics: dict[str, Number]
    tp: int
    fp: int
    fn: int

    def to_json(self) -> dict[str, Any]:
        """The class as it stands in report.json."""
        numbers = {name: number.to_json() for name, number in self.metrics.items()}
        counts = {"support": self.support, "tp": self.tp, "fp": self.fp, "fn": self.fn}
        return {"class": self.name, **counts, **numbers}


@dataclass(frozen=True)
class BoxMeasure:
    """What was measured on one table of boxes.

    Args:
        table: What it was measured on.
        matches: Which boxes belong together, for curves.
        verdicts: What became of each box at the model's thresholds.
        confidence: Share of intervals that are to hold the truth.
        n_groups: Independent groups of images; the number of images when each stands for itself.
        metrics: Numbers of the whole table by name.
        classes: Numbers of each class, in class order.
        confusion: (k + 1, k + 1) as `box_confusion` counts it.
        errors: As `error_counts` counts them.
        mistakes: Images with misses or false predictions, those with the most first.
    """

    table: BoxTable
    matches: Matches
    verdicts: Verdicts
    confidence: float
    n_groups: int
    metrics: Mapping[str, Number]
    classes: tuple[BoxClassNumbers, ...]
    confusion: Ints
    errors: Mapping[str, int]
    mistakes: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """The stable shape of report.json, in plain types; numbers are finite or None."""
        return {
            "n": len(self.table),
            "n_groups": self.n_groups,
            "confidence": self.confidence,
            "metrics": {name: number.to_json() for name, number in self.metrics.items()},
            "per_class": [row.to_json() for row in self.classes],
            "confusion": {"classes": [*self.table.classes, BACKGROUND], "counts": self.confusion.tolist()},
            "errors": dict(self.errors),
            "mistakes": [dict(mistake) for mistake in self.mistakes],
        }


def measure_boxes(
    table: BoxTable, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> BoxMeasure:
    """Measures a table of boxes.

    Args:
        table: The boxes. Images of one group are taken to depend on one another.
        resamples: How often images are drawn for the intervals of average precision and recall.
        confidence: Share of intervals that are to hold the truth, between 0.5 and 1.
        seed: Decides the draws; the same table and seed give the same numbers.

    Raises:
        DataError: When the table contradicts its own description, with every mistake.
    """
    _check(table)
    clusters = Clusters(len(table), groups=table.groups)
    matches, verdicts = match(table), judge(table)
    outcomes = outcomes_of(verdicts)
    whole = [(image, np.zeros_like(label)) for image, label in outcomes]
    shares = Shares(clusters, confidence)
    simulated = _simulate(matches, clusters, resamples=resamples, confidence=confidence, seed=seed)
    overall = {name: simulated[name].overall(NO_OBJECT if "_" in name else NO_CLASS) for name in RANKED}
    overall |= dict(zip(ORDERED, _in_order(*(overall[name] for name in ORDERED)), strict=True))
    overall |= {name: shares.of(name, whole, classes=1, absent=NO_CLASS)[0] for name in COUNTED}
    size = len(table.classes)
    by_class = {name: simulated[f"m{name}"].by_class() for name in ("ap", "ap50", "ap75")}
    columns = zip(*(by_class[name] for name in ("ap50", "ap", "ap75")), strict=True)
    ordered = zip(*(_in_order(*row) for row in columns), strict=True)
    by_class |= dict(zip(("ap50", "ap", "ap75"), map(list, ordered), strict=True))
    by_class |= {name: shares.of(name, outcomes, classes=size, absent=ABSENT) for name in COUNTED}
    counts = np.stack([np.bincount(label, minlength=size) for _, label in outcomes], axis=1).tolist()
    classes = tuple(
        BoxClassNumbers(name, tp + fn, {metric: by_class[metric][c] for metric in by_class}, tp, fp, fn)
        for c, (name, (tp, fp, fn)) in enumerate(zip(table.classes, counts, strict=True))
    )
    return BoxMeasure(
        table=table,
        matches=matches,
        verdicts=verdicts,
        confidence=confidence,
        n_groups=clusters.count,
        metrics=MappingProxyType(overall),
        classes=classes,
        confusion=box_confusion(verdicts),
        errors=MappingProxyType(error_counts(verdicts)),
        mistakes=tuple(box_mistakes(verdicts)),
    )


def _in_order(loosest: Number, *stricter: Number) -> list[Number]:
    """Intervals of average precision that agree: at an overlap of 0.5 it is the highest, always.

    What the one interval excludes is excluded for the others, too.
    """
    if loosest.low is None or loosest.high is None:
        return [loosest, *stricter]
    most = loosest.high
    others = [
        number if number.high is None else replace(number, high=min(number.high, most)) for number in stricter
    ]
    least = max([loosest.low, *(number.low for number in others if number.low is not None)])
    return [replace(loosest, low=least), *others]


@dataclass(frozen=True)
class Shares:
    """Precision, recall and F1 at the thresholds: shares of boxes, of which an image holds several."""

    clusters: Clusters
    confidence: float

    def of(
        self, name: str, outcomes: Sequence[tuple[Ints, Ints]], *, classes: int, absent: str
    ) -> list[Number]:
        """One number a class, a block of classes at a time; ``absent`` is said of one without true boxes."""
        size = self.clusters.size
        step = max(1, _BLOCK // size)
        numbers: list[Number] = []
        for start in range(0, classes, step):
            width = min(step, classes - start)
            counts = []
            for image, label in outcomes:
                here = (label >= start) & (label < start + width)
                cells = np.bincount(image[here] * width + label[here] - start, minlength=size * width)
                counts.append(cells.reshape(size, width).astype(float))
            found, false, missed = counts
            # F1 is a function of the Jaccard index, which is a share.
            trials = {"precision": found + false, "recall": found + missed, "f1": found + false + missed}[
                name
            ]
            present = (found + missed).sum(axis=0) > 0
            rows = zip(self._numbers(name, found, trials), present, trials.sum(axis=0) > 0, strict=True)
            numbers += [
                number if here and held else Number(None, reason=NEVER_ANSWERED if here else absent)
                for number, here, held in rows
            ]
        return numbers

    def _numbers(self, name: str, hits: Floats, trials: Floats) -> list[Number]:
        """From (n, b) hits and trials of each image."""
        share = metrics.share_of(hits, trials)
        low, high = share_interval(
            share.value,
            np.maximum(share.trials, 1.0),
            self.clusters.spread(share.influence, share.held),
            clusters=self.clusters,
            confidence=self.confidence,
        )
        numbers = map(Number, share.value.tolist(), low.tolist(), high.tolist())
        return [number.carried(metrics.f1_of_jaccard) if name == "f1" else number for number in numbers]


@dataclass(frozen=True)
class _Simulated:
    """Average precision or recall of each class, and how a bootstrap scatters it.

    Args:
        value: (k) NaN for a class without such objects.
        centre: (k) the value less its bias, which is what drawing images anew adds to it once more.
        support: (k) such objects.
        spread: How the values scatter.
        mean_variance: Variance of the average over classes.
    """

    value: Floats
    centre: Floats
    support: Floats
    spread: Spread
    mean_variance: float
    clusters: Clusters
    confidence: float

    def by_class(self) -> list[Number]:
        """In class order."""
        low, high = share_interval(
            self.centre,
            np.maximum(self.support, 1.0),
            self.spread,
            clusters=self.clusters,
            confidence=self.confidence,
            firmness=_FIRMNESS,
        )
        columns = (self.value, low, high, self.spread.units)
        return [
            self._number(*row) if row[-1] else Number(None, reason=ABSENT)
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def overall(self, missing: str) -> Number:
        """The average over the classes with such objects; ``missing`` says why there may be none."""
        known = np.flatnonzero(self.support)
        if len(known) == 1:
            return self.by_class()[int(known[0])]
        if not len(known):
            return Number(None, reason=missing)
        low, high = class_mean_interval(
            self.centre[known],
            self.support[known],
            Spread(*(part[known] for part in self.spread)),
            self.mean_variance,
            clusters=self.clusters,
            confidence=self.confidence,
            firmness=_FIRMNESS,
        )
        number = self._number(float(self.value[known].mean()), low, high, self.clusters.count)
        some = len(known) < len(self.support)
        return replace(number, note=f"over {len(known)} of {len(self.support)} classes" if some else "")

    def _number(self, value: float, low: float, high: float, units: float) -> Number:
        if units < 2:
            return Number(value, reason=ONE_CLUSTER.format("group" if self.clusters.grouped else "image"))
        return Number(value, min(value, low), max(value, high))


def _simulate(
    matches: Matches, clusters: Clusters, *, resamples: int, confidence: float, seed: int
) -> dict[str, _Simulated]:
    """Average precision and recall by name, each drawn from the same images."""
    table, classes = matches.table, len(matches.table.classes)
    groups = np.arange(len(table)) if table.groups is None else table.groups
    cluster = np.unique(groups, return_inverse=True)[1]
    once = coco_by_class(matches)
    blocks = [coco_by_class(matches, weights) for weights in _draws(cluster, resamples, seed)]
    found = {}
    for name in RANKED:
        drawn = np.concatenate([block[name] for block in blocks])
        mean, variance = _moments(drawn)
        counted = matches.counted[name.partition("_")[2] or "all"]
        cells = table.true_label[counted] * clusters.count + cluster[table.true_image[counted]]
        pairs, held = np.unique(cells, return_counts=True)
        units, support, squares = (
            np.bincount(pairs // clusters.count, held**power, minlength=classes).astype(float)
            for power in range(3)
        )
        found[name] = _Simulated(
            value=once[name][0],
            centre=np.clip(np.nan_to_num(2 * once[name][0] - mean), 0.0, 1.0),
            support=support,
            spread=Spread(variance, squares / np.maximum(support, 1.0), units),
            mean_variance=float(_moments(class_mean(drawn)[:, None])[1][0]),
            clusters=clusters,
            confidence=confidence,
        )
    return found


def _moments(drawn: Floats) -> tuple[Floats, Floats]:
    """(b) means and variances of (r, b) draws; a draw without such objects, NaN, is none."""
    known = ~np.isnan(drawn)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, drawn, 0.0).sum(axis=0) / count
    return mean, np.square(np.where(known, drawn - mean, 0.0)).sum(axis=0) / count


def _draws(cluster: Ints, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each image is drawn, in blocks of resamples that fit in memory; clusters are drawn whole."""
    generator = np.random.default_rng([seed, 0])
    count = int(cluster.max()) + 1
    step = max(1, _BLOCK // len(cluster))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)[:, cluster]


def _check(table: BoxTable) -> None:
    """Refuses a table that contradicts its own description."""
    said, known = len(table.image), len(table.true_image)
    images, classes = len(table.keys), len(table.classes)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("image", "label", "score"), (said,))
    shapes |= dict.fromkeys(("true_image", "true_label", "crowd", "area"), (known,))
    shapes |= {"box": (said, 4), "true_box": (known, 4), "thresholds": (classes,)}
    if table.groups is not None:
        shapes["groups"] = (images,)
    found = ((name, np.shape(getattr(table, name)), shape) for name, shape in shapes.items())
    causes = [f"{name} has shape {has}; {shape} was expected" for name, has, shape in found if has != shape]
    if not images or not classes:
        causes.append(f"there are {images} images and {classes} classes; one of each is the least")
    if not causes:
        causes = [f"{complaint}: {bad.sum()}" for complaint, bad in _rules(table) if bad.any()]
    if causes:
        raise DataError("the table of boxes cannot be measured", code="bad_table", causes=causes)


def _rules(table: BoxTable) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Complaints, each with the rows that it is about."""
    for kind, image, label, box in (
        ("predictions", table.image, table.label, table.box),
        ("true boxes", table.true_image, table.true_label, table.true_box),
    ):
        yield f"{kind} that do not stand in the order of their images", np.diff(image) < 0
        yield f"{kind} of images that are not there", (image < 0) | (image >= len(table.keys))
        yield f"{kind} of classes that are not there", (label < 0) | (label >= len(table.classes))
        left, top, right, bottom = box.T
        yield f"{kind} with sides that are not numbers", ~np.isfinite(left + top + right + bottom)
        yield f"{kind} that end before they begin", (right < left) | (bottom < top)
    yield "scores outside 0 to 1", ~((table.score >= 0) & (table.score <= 1))
    yield "areas that are not numbers", ~np.isfinite(table.area)
    yield "thresholds that are not numbers", ~np.isfinite(table.thresholds)
