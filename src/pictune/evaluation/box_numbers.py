"""Every number of a table of boxes, with its interval.

Average precision and recall over overlaps get the percentiles of a bootstrap that draws whole images, or
whole groups (Efron 1979, Ann. Stat. 7). Where all draws agree, as for a detector without a mistake, the
bootstrap has nothing to say: then the number is taken for a share of the images or groups with such objects.
Precision, recall and F1 at the model's thresholds are shares of boxes, with Wilson intervals on effective
trials (`pictune.evaluation.intervals`).

Shapes: n images, k classes, p predicted boxes, t true boxes, r draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.errors import DataError
from pictune.evaluation import metrics
from pictune.evaluation.class_numbers import NEVER_ANSWERED, NO_CLASS
from pictune.evaluation.confusion import MOST_MISTAKES
from pictune.evaluation.intervals import Clusters, Number, share_interval, wilson
from pictune.tasks.average_precision import class_mean, recall, resampled
from pictune.tasks.matching import AREAS, MOST, Matches, Verdict, Verdicts, judge, match
from pictune.tasks.table import BoxTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ABSENT = "no object here is of this class"
NO_OBJECT = "no object here is of this size"
ONE_CLUSTER = "all these objects are in one {}: it cannot show how another would fare"
BACKGROUND = "background"

COUNTED = ("precision", "recall", "f1")
BOX_CLASS_METRICS = ("ap", "ap50", "ap75", *COUNTED)
ERRORS = ("class", "location", "both", "duplicate", "background")
_NO_WIDTH = 1e-12  # below this, an interval's width is rounding noise
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
        counts = {"tp": self.tp, "fp": self.fp, "fn": self.fn}
        return {"class": self.name, "support": self.support, **numbers, **counts}


@dataclass(frozen=True)
class BoxMeasure:
    """What was measured on one table of boxes.

    Args:
        table: What it was measured on.
        matches: Which boxes belong together, as COCO sees it; for curves.
        verdicts: What became of each box at the model's thresholds.
        confidence: Share of intervals that are to hold the truth.
        n_groups: Independent groups of images; the number of images when each stands for itself.
        metrics: Numbers of the whole table by name.
        classes: Numbers of each class, in class order.
        confusion: (k + 1, k + 1) boxes by truth (rows) and answer (columns); the last row holds predictions
            that no true box answers for, the last column true boxes that were not noticed.
        errors: False predictions by kind, the missed boxes, and those of them that no class or location
            error lies on.
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
        names = [*self.table.classes, BACKGROUND]
        return {
            "n": len(self.table),
            "n_groups": self.n_groups,
            "confidence": self.confidence,
            "metrics": {name: number.to_json() for name, number in self.metrics.items()},
            "per_class": [row.to_json() for row in self.classes],
            "confusion": {"classes": names, "counts": self.confusion.tolist()},
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
    shares = _Shares(verdicts, clusters, confidence)
    ranked, ranked_classes = _ranked(matches, clusters, resamples=resamples, confidence=confidence, seed=seed)
    by_class = ranked_classes | {name: shares.by_class(name) for name in COUNTED}
    size = len(table.classes)
    tp, fp, fn = (np.bincount(label, minlength=size).tolist() for _, label in _outcomes(verdicts))
    classes = tuple(
        BoxClassNumbers(
            name,
            tp[c] + fn[c],
            {metric: by_class[metric][c] for metric in BOX_CLASS_METRICS},
            tp[c],
            fp[c],
            fn[c],
        )
        for c, name in enumerate(table.classes)
    )
    return BoxMeasure(
        table=table,
        matches=matches,
        verdicts=verdicts,
        confidence=confidence,
        n_groups=clusters.count,
        metrics=MappingProxyType(ranked | {name: shares.micro(name) for name in COUNTED}),
        classes=classes,
        confusion=box_confusion(verdicts),
        errors=MappingProxyType(error_counts(verdicts)),
        mistakes=tuple(box_mistakes(verdicts)),
    )


def box_confusion(verdicts: Verdicts) -> Ints:
    """(k + 1, k + 1) boxes by truth (rows) and answer (columns), the last of each being background.

    Every true box and every prediction over its threshold is counted once, crowds and what falls on them
    aside: rows add up to the true boxes of a class and columns to its predictions. A class error on an object
    that something else answers for already is a prediction on background.
    """
    said, known = verdicts.said, verdicts.known
    count = len(verdicts.table.classes) + 1
    taken = np.flatnonzero(said.verdict == Verdict.HIT)
    wrong = np.flatnonzero(said.verdict == Verdict.CLASS)
    taken = np.concatenate([taken, wrong[known.partner[said.partner[wrong]] == wrong]])
    free = np.setdiff1d(np.flatnonzero(said.verdict > Verdict.IGNORED), taken)
    left = np.setdiff1d(np.flatnonzero(known.verdict != Verdict.IGNORED), said.partner[taken])
    rows = np.concatenate(
        [known.label[said.partner[taken]], np.full(len(free), count - 1), known.label[left]]
    )
    columns = np.concatenate([said.label[taken], said.label[free], np.full(len(left), count - 1)])
    return np.bincount(rows * count + columns, minlength=count * count).reshape(count, count)


def error_counts(verdicts: Verdicts) -> dict[str, int]:
    """False predictions by kind; ``missed`` true boxes, and ``unnoticed`` ones.

    Unnoticed are those of the missed that no class or location error lies on: TIDE's missed boxes.
    """
    said, known = verdicts.said.verdict, verdicts.known
    kinds = {name: int((said == Verdict[name.upper()]).sum()) for name in ERRORS}
    missed = known.verdict == Verdict.MISSED
    return kinds | {"missed": int(missed.sum()), "unnoticed": int((missed & (known.partner < 0)).sum())}


def box_mistakes(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    """The images with misses or false predictions, those with the most of both first, at most 200.

    Yields:
        Key, missed true boxes, false predictions, and how many true boxes were found.
    """
    size = len(verdicts.table)
    found, false, missed = (np.bincount(image, minlength=size) for image, _ in _outcomes(verdicts))
    wrong = np.flatnonzero(false + missed)
    for i in wrong[np.argsort(-(false + missed)[wrong], kind="stable")][:MOST_MISTAKES].tolist():
        counts = {"missed": int(missed[i]), "false": int(false[i]), "found": int(found[i])}
        yield {"key": verdicts.table.keys[i], **counts}


def _outcomes(verdicts: Verdicts) -> Iterator[tuple[Ints, Ints]]:
    """Image and class of true boxes that were found, of false predictions, and of missed true boxes."""
    said, known = verdicts.said, verdicts.known
    chosen = (
        (known, known.verdict == Verdict.FOUND),
        (said, said.verdict > Verdict.IGNORED),
        (known, known.verdict == Verdict.MISSED),
    )
    return ((judged.image[rows], judged.label[rows]) for judged, rows in chosen)


@dataclass(frozen=True)
class _Shares:
    """Precision, recall and F1 at the thresholds: shares of boxes, over images that hold several."""

    verdicts: Verdicts
    clusters: Clusters
    confidence: float

    def micro(self, name: str) -> Number:
        """Over all boxes of all images taken together."""
        size = len(self.verdicts.table)
        counts = (np.bincount(image, minlength=size)[:, None] for image, _ in _outcomes(self.verdicts))
        hits, trials = _share_of(name, *counts)
        if not trials.any():
            return Number(None, reason=NEVER_ANSWERED if name == "precision" else NO_CLASS)
        return next(self._numbers(name, hits, trials))

    def by_class(self, name: str) -> list[Number]:
        """Of every class in class order, a block of classes at a time."""
        size, classes = len(self.verdicts.table), len(self.verdicts.table.classes)
        step = max(1, _BLOCK // size)
        found: list[Number] = []
        for start in range(0, classes, step):
            width = min(step, classes - start)
            counts = []
            for image, label in _outcomes(self.verdicts):
                here = (label >= start) & (label < start + width)
                cells = np.bincount(image[here] * width + label[here] - start, minlength=size * width)
                counts.append(cells.reshape(size, width))
            hits, trials = _share_of(name, *counts)
            present = (counts[0] + counts[2]).any(axis=0)
            rows = zip(self._numbers(name, hits, trials), present, trials.any(axis=0), strict=True)
            found += [
                number if here and held else Number(None, reason=NEVER_ANSWERED if here else ABSENT)
                for number, here, held in rows
            ]
        return found

    def _numbers(self, name: str, hits: Floats, trials: Floats) -> Iterator[Number]:
        """From (n, b) hits and trials of each image."""
        share = metrics.share_of(hits, trials)
        spread = self.clusters.spread(share.influence, share.held)
        low, high = share_interval(
            share.value,
            np.maximum(share.trials, 1.0),
            spread,
            clusters=self.clusters,
            confidence=self.confidence,
        )
        for ends in zip(share.value.tolist(), low.tolist(), high.tolist(), strict=True):
            number = Number(*ends)
            yield number.carried(metrics.f1_of_jaccard) if name == "f1" else number


def _share_of(name: str, found: Ints, false: Ints, missed: Ints) -> tuple[Floats, Floats]:
    """Hits and trials of a share; of F1, those of the Jaccard index that it is a function of."""
    trials = {"precision": found + false, "recall": found + missed, "f1": found + false + missed}[name]
    return found.astype(float), trials.astype(float)


@dataclass(frozen=True)
class _Simulated:
    """Average precision and recall, whose scatter and bias a bootstrap shows."""

    matches: Matches
    clusters: Clusters
    confidence: float
    once: Mapping[str, Floats]  # (1, k) by name
    drawn: Mapping[str, Floats]  # (r, k), the same under each draw
    cluster: Ints  # (n) of each image

    def overall(self, name: str) -> Number:
        """The average over the classes with such objects."""
        value, support, spread = self._judged(name)
        known = np.flatnonzero(support)
        if len(known) < 2:
            missing = NO_OBJECT if "_" in name else NO_CLASS
            return self.of_class(name)[known[0]] if len(known) else Number(None, reason=missing)
        mean = float(value[known].mean())
        left_out = len(support) - len(known)
        note = f"over {len(known)} of {len(support)} classes" if left_out else ""
        if self.clusters.count < 2:
            return Number(mean, reason=self._alone(), note=note)
        drawn = class_mean(self.drawn[name])
        low, high = class_mean_interval(
            self._centre(name)[known],
            support[known],
            Spread(*(part[known] for part in spread)),
            float(drawn[~np.isnan(drawn)].var()),
            clusters=self.clusters,
            confidence=self.confidence,
            firmness=_FIRMNESS,
        )
        return Number(mean, min(mean, low), max(mean, high), note=note)

    def of_class(self, name: str) -> list[Number]:
        """Of every class, in class order."""
        value, support, spread = self._judged(name)
        low, high = share_interval(
            self._centre(name),
            np.maximum(support, 1.0),
            spread,
            clusters=self.clusters,
            confidence=self.confidence,
            firmness=_FIRMNESS,
        )
        rows = zip(value.tolist(), low.tolist(), high.tolist(), spread.units.tolist(), strict=True)
        return [
            Number(mean, min(mean, least), max(mean, most))
            if units > 1
            else Number(mean, reason=self._alone())
            if units
            else Number(None, reason=ABSENT)
            for mean, least, most, units in rows
        ]

    def _centre(self, name: str) -> Floats:
        """(k) the values less their bias: what images drawn from these show beyond what these show."""
        value, drawn = self.once[name][0], self.drawn[name]
        known = ~np.isnan(drawn)
        mean = np.where(known, drawn, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        return np.clip(np.nan_to_num(2 * value - mean), 0.0, 1.0)

    def _judged(self, name: str) -> tuple[Floats, Floats, Spread]:
        """(k) values, (k) true boxes, and how the values scatter."""
        table, counted = self.matches.table, self.matches.counted[name.partition("_")[2] or "all"]
        classes = len(table.classes)
        cells = table.true_label[counted] * self.clusters.count + self.cluster[table.true_image[counted]]
        pairs, held = np.unique(cells, return_counts=True)
        label = pairs // self.clusters.count
        support = np.bincount(label, weights=held, minlength=classes)
        crowding = np.bincount(label, weights=np.square(held), minlength=classes) / np.maximum(support, 1)
        drawn = self.drawn[name]
        known = ~np.isnan(drawn)
        count = np.maximum(known.sum(axis=0), 1)
        apart = np.where(known, drawn - np.where(known, drawn, 0.0).sum(axis=0) / count, 0.0)
        variance = np.square(apart).sum(axis=0) / count
        units = np.bincount(label, minlength=classes).astype(float)
        return self.once[name][0], support, Spread(variance, crowding, units)

    def _alone(self) -> str:
        return ONE_CLUSTER.format("group" if self.clusters.grouped else "image")


def _check(table: BoxTable) -> None:
    """Refuses a table that contradicts its own description."""
    said, known, images, classes = (
        len(table.image),
        len(table.true_image),
        len(table.keys),
        len(table.classes),
    )
    shapes = {"thresholds": (classes,)} | ({} if table.groups is None else {"groups": (images,)})
    shapes |= {"image": (said,), "label": (said,), "score": (said,), "box": (said, 4)}
    shapes |= {name: (known,) for name in ("true_image", "true_label", "crowd", "area")}
    shapes |= {"true_box": (known, 4)}
    causes = [
        f"{name} has shape {np.shape(getattr(table, name))}; {shape} was expected"
        for name, shape in shapes.items()
        if np.shape(getattr(table, name)) != shape
    ]
    if not images or not classes:
        causes.append(f"there are {images} images and {classes} classes; one of each is the least")
    if not causes:
        causes = [complaint for complaint, bad in _rules(table) if bad]
    if causes:
        raise DataError("the table of boxes cannot be measured", code="bad_table", causes=causes)


def _rules(table: BoxTable) -> Iterator[tuple[str, bool]]:
    for kind, image, label, box in (
        ("predictions", table.image, table.label, table.box),
        ("true boxes", table.true_image, table.true_label, table.true_box),
    ):
        yield f"the {kind} do not stand in the order of their images", bool((np.diff(image) < 0).any())
        yield f"{kind} of images that are not there", _outside(image, len(table.keys))
        yield f"{kind} of classes that are not there", _outside(label, len(table.classes))
        yield f"{kind} with sides that are not numbers", not np.isfinite(box).all()
        yield f"{kind} that end before they begin", bool((box[:, 2:] < box[:, :2]).any())
    yield "scores outside 0 to 1", not ((table.score >= 0) & (table.score <= 1)).all()
    yield "areas that are not numbers", not np.isfinite(table.area).all()
    yield "thresholds that are not numbers", not np.isfinite(table.thresholds).all()


def _outside(numbers: Ints, count: int) -> bool:
    return bool(((numbers < 0) | (numbers >= count)).any())
