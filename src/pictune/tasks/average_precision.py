"""Average precision and average recall as COCO defines them, read from a table of matches.

Precision is taken at 101 levels of recall, as the best that is reached at this recall or beyond, and
averaged; recall is what at most so many predictions an image and class reach (Lin et al. 2014, arXiv
1405.0312). Both are averaged over overlaps of 0.5 to 0.95 and over the classes that have true boxes.

Images may be given weights: one of weight w counts as if it were there w times. Where two predictions of one
image and class have equal scores, the copies of each stand side by side.

Shapes: n images, k classes, l levels of overlap, m predictions of one class, h hits of one class and level,
r sets of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pictune.errors import RecipeError
from pictune.tasks.matching import AREAS, LEVELS, MOST, Matches, Outcome, match
from pictune.tasks.table import BoxTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECALLS: Floats = np.linspace(0, 1, 101)
THRESHOLD = 0.5  # of a class about which nothing is known

# A block of weights holds at most so many numbers a class (32 MB).
_BLOCK = 4_000_000
# So many sets of weights at a time keep a class in the processor's cache.
_SETS = 128


@dataclass(frozen=True, eq=False)
class Precision:
    """Average precision of k classes under r sets of weights; NaN for a class without true boxes.

    Args:
        ap: (r, k) averaged over all levels of overlap.
        ap50: (r, k) at the level 0.5.
        ap75: (r, k) at the level 0.75.
        recall: (r, k) share of true boxes that are found, averaged over all levels.
    """

    ap: Floats
    ap50: Floats
    ap75: Floats
    recall: Floats

    @property
    def map(self) -> Floats:
        """(r) the average of ``ap`` over the classes that have true boxes; NaN where none has."""
        return class_mean(self.ap)

    @property
    def map50(self) -> Floats:
        """(r) the average of ``ap50``."""
        return class_mean(self.ap50)

    @property
    def map75(self) -> Floats:
        """(r) the average of ``ap75``."""
        return class_mean(self.ap75)

    @property
    def mar(self) -> Floats:
        """(r) the average of ``recall``."""
        return class_mean(self.recall)


def class_mean(values: Floats) -> Floats:
    """(r, k) averaged over the classes that have a value: (r), NaN where none has."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def precision(matches: Matches, *, area: str = "all") -> Precision:
    """Average precision of the table as it is: r = 1.

    Args:
        matches: What was matched; the levels must be those of `pictune.tasks.matching.LEVELS`.
        area: The size of objects, one that was matched.
    """
    return resampled(matches, np.ones((1, len(matches.table)), np.int64), area=area)


def resampled(matches: Matches, weights: NDArray[np.integer], *, area: str = "all") -> Precision:
    """Average precision under r sets of weights, such as a bootstrap draws.

    Args:
        matches: What was matched; the levels must be those of `pictune.tasks.matching.LEVELS`.
        weights: (r, n) whole numbers, none negative: how often each image counts.
        area: The size of objects, one that was matched.
    """
    sets, classes = len(weights), len(matches.table.classes)
    assert weights.shape == (sets, len(matches.table)), weights.shape
    assert len(matches.levels) == len(LEVELS), "average precision is an average over COCO's levels of overlap"
    found = np.full((4, sets, classes), np.nan)
    largest = int(max(np.diff(matches.starts).max(initial=0), len(matches.table), 1))
    step = max(1, min(_SETS, _BLOCK // largest))
    for start in range(0, sets, step):
        block = np.ascontiguousarray(weights[start : start + step].T, dtype=np.float64)
        for number in np.unique(matches.table.true_label[matches.counted[area]]).tolist():
            found[:, start : start + step, number] = _of_class(matches, area, number, block)
    return Precision(*found)


def recall(
    matches: Matches, *, area: str = "all", most: int = MOST, weights: NDArray[np.integer] | None = None
) -> Floats:
    """Average recall of k classes under r sets of weights; NaN for a class without true boxes.

    Args:
        matches: What was matched.
        area: The size of objects, one that was matched.
        most: How many predictions of an image and class count, the surest ones.
        weights: (r, n) how often each image counts; once each when None.

    Returns:
        (r, k) share of true boxes that are found, averaged over the levels of overlap.
    """
    table, counted = matches.table, matches.counted[area]
    size, classes = len(table), len(table.classes)
    count = np.ones((1, size)) if weights is None else np.asarray(weights, np.float64)
    found = np.full((len(count), classes), np.nan)
    for number in np.unique(table.true_label[counted]).tolist():
        part = slice(*matches.starts[number : number + 2])
        hits = (matches.outcome[area][:, part] == Outcome.HIT).sum(axis=0) * (matches.rank[part] < most)
        hit = np.bincount(table.image[matches.rows[part]], weights=hits, minlength=size)
        there = np.bincount(table.true_image[counted & (table.true_label == number)], minlength=size)
        # Sums of whole numbers, which come out the same in any order.
        total = count @ there.astype(np.float64)
        share = (count @ hit) / np.maximum(total * len(matches.levels), 1)
        found[:, number] = np.where(total > 0, share, np.nan)
    return found


def _of_class(matches: Matches, area: str, number: int, weights: Floats) -> Floats:
    """(4, r) the numbers of `Precision` for one class that has true boxes, from (n, r) weights."""
    table, part = matches.table, slice(*matches.starts[number : number + 2])
    truths = matches.counted[area] & (table.true_label == number)
    total = weights[table.true_image[truths]].sum(axis=0)
    share = np.maximum(total, 1.0)
    weighted = weights[table.image[matches.rows[part]]]
    levels = len(matches.levels)
    average, reached = np.zeros((levels, weights.shape[1])), np.zeros((levels, weights.shape[1]))
    before: NDArray[np.bool_] | None = None
    for level, outcome in enumerate(matches.outcome[area][:, part]):
        counted = outcome != Outcome.IGNORED
        if before is None or not np.array_equal(counted, before):
            answered, before = np.cumsum(weighted[counted], axis=0), counted
        hits = outcome == Outcome.HIT
        if hits.any():
            hit = np.cumsum(weighted[hits], axis=0)
            average[level] = _interpolated(hit / np.maximum(answered[hits[counted]], 1.0), hit / share)
            reached[level] = hit[-1] / share
    middle = int(np.argmin(np.abs(matches.levels - 0.75)))
    numbers = np.stack([average.mean(axis=0), average[0], average[middle], reached.mean(axis=0)])
    return np.where(total > 0, numbers, np.nan)


def _interpolated(precision: Floats, recall: Floats) -> Floats:
    """(r) average precision over the levels of recall, from (h, r) precision and recall at every hit.

    Precision falls from a hit to the next, so that the best beyond a recall is met at hits. Each hit answers
    for the levels of recall that it is the first to reach.
    """
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    level = (recall * (len(RECALLS) - 1) + 1e-6).astype(np.int64)
    # Whether a level is reached is decided by comparing with it, not by the rounding above.
    level -= RECALLS[level] > recall
    first_reached = np.diff(level, axis=0, prepend=-1)
    return np.asarray((best * first_reached).sum(axis=0) / len(RECALLS))


def coco_by_class(matches: Matches, weights: NDArray[np.integer] | None = None) -> dict[str, Floats]:
    """The twelve numbers of COCO, class by class, under r sets of weights.

    Args:
        matches: What was matched, over all areas.
        weights: (r, n) how often each image counts; once each when None.

    Returns:
        (r, k) by name, NaN for a class without such true boxes: ``map``, ``map50``, ``map75``; ``map`` of
        small, medium and large objects; ``mar`` with 1, 10 and 100 predictions an image and class, and of
        small, medium and large objects.
    """
    count = np.ones((1, len(matches.table)), np.int64) if weights is None else weights
    whole, *by_size = (resampled(matches, count, area=area) for area in AREAS)
    sizes = dict(zip([area for area in AREAS if area != "all"], by_size, strict=True))
    return {
        "map": whole.ap,
        "map50": whole.ap50,
        "map75": whole.ap75,
        **{f"map_{area}": found.ap for area, found in sizes.items()},
        **{f"mar{most}": recall(matches, most=most, weights=count) for most in (1, 10)},
        f"mar{MOST}": whole.recall,
        **{f"mar_{area}": found.recall for area, found in sizes.items()},
    }


def coco_numbers(matches: Matches) -> dict[str, float]:
    """The twelve numbers of COCO as `coco_by_class` names them; NaN where there is no true box to find."""
    return {name: float(class_mean(values)[0]) for name, values in coco_by_class(matches).items()}


def quick_numbers(table: BoxTable) -> dict[str, float]:
    """``map`` over IoU 0.5 to 0.95 and ``map50``, averaged over the classes that are there; 0 without any."""
    found = precision(match(table, areas=("all",)))
    numbers = {"map": float(found.map[0]), "map50": float(found.map50[0])}
    return {name: 0.0 if np.isnan(value) else value for name, value in numbers.items()}


@dataclass(frozen=True, eq=False)
class PrecisionCurve:
    """Precision of one class at the levels of recall, at an overlap of 0.5.

    Args:
        recall: (101) from 0 to 1.
        precision: (101) the best at this recall or beyond; 0 where no threshold reaches it. Its mean is the
            average precision.
        threshold: (101) the score at which this recall is reached; NaN where it isn't.
    """

    recall: Floats
    precision: Floats
    threshold: Floats


def precision_curve(matches: Matches, *, label: int) -> PrecisionCurve | None:
    """The curve of one class; None when the class has no true box.

    Args:
        matches: What was matched; its first level is the overlap.
        label: The number of the class.
    """
    score, hit, total = _ranked(matches, label)
    if not total:
        return None
    hits = np.cumsum(hit)
    reached = hits / total
    best = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(reached, RECALLS, "left")
    return PrecisionCurve(RECALLS, np.append(best, 0.0)[at], np.append(score, np.nan)[at])


def best_thresholds(table: BoxTable, *, goal: str = "f1") -> Floats:
    """The score threshold of each class that serves a goal best on these images, at an overlap of 0.5.

    The threshold lies halfway to the next lower score, so that it is not decided by a last digit.

    Args:
        table: The boxes.
        goal: ``f1``; ``precision:0.9`` for the highest recall at this precision or better; ``recall:0.9`` for
            the highest precision at this recall or better. Where no threshold reaches it, the one that comes
            nearest.

    Returns:
        (k) thresholds; 0.5 for a class without true boxes. Where no answer of a class is right, 0.5 as well,
        or its lowest score where recall is the goal.

    Raises:
        RecipeError: When the goal is none of these.
    """
    aim, least = read_goal(goal)
    matches = match(table, areas=("all",), levels=np.array([0.5]), most=None)
    found = np.full(len(table.classes), THRESHOLD)
    for label in range(len(found)):
        score, hit, total = _ranked(matches, label)
        if not total or not len(score):
            continue
        if not hit.any():
            found[label] = score[-1] if aim == "recall" else THRESHOLD
            continue
        # Equal scores stand on the same side of any threshold.
        ends = np.flatnonzero(np.append(np.diff(score) != 0, True))
        hits = np.cumsum(hit)[ends]
        best = ends[_best(aim, least, hits / (ends + 1), hits / total)]
        found[label] = _halfway(score, int(best))
    return found


def _ranked(matches: Matches, label: int) -> tuple[Floats, NDArray[np.bool_], int]:
    """(m) scores, surest first, and (m) hits of the predictions that count, and how many boxes there are."""
    part = slice(*matches.starts[label : label + 2])
    outcome = matches.outcome["all"][0, part]
    counted = outcome != Outcome.IGNORED
    total = (matches.counted["all"] & (matches.table.true_label == label)).sum()
    return matches.table.score[matches.rows[part]][counted], outcome[counted] == Outcome.HIT, int(total)


def _best(aim: str, least: float, precision: Floats, recall: Floats) -> int:
    """Which of several thresholds serves the goal; of equals, the highest."""
    if aim == "f1":
        return int(np.argmax(precision * recall / np.maximum(precision + recall, 1e-300)))
    held, sought = (precision, recall) if aim == "precision" else (recall, precision)
    enough = held >= min(least, held.max())
    return int(np.lexsort((-held, np.where(enough, -sought, 1.0)))[0])


def _halfway(score: Floats, last: int) -> float:
    if last + 1 == len(score):
        return float(score[last])
    middle = float((score[last] + score[last + 1]) / 2)
    return middle if middle > score[last + 1] else float(score[last])


def read_goal(goal: str) -> tuple[str, float]:
    """What is wanted of thresholds, and how much of it; 0 where it is simply the most.

    Raises:
        RecipeError: When it is no such goal.
    """
    aim, _, text = goal.partition(":")
    try:
        least = float(text) if text else 0.0
    except ValueError:
        least = -1.0
    if (aim in ("precision", "recall") and text and 0 < least <= 1) or goal == "f1":
        return aim, least
    raise RecipeError(
        f"no thresholds can be chosen for the goal {goal!r}",
        instead="Say f1, precision:0.9 or recall:0.9; the number lies above 0 and is at most 1.",
    )
