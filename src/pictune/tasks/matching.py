"""Which predicted box belongs to which true box: the tables that every number of a detector derives from.

`match` answers as COCO does, for average precision: within an image and a class the surest prediction goes
first, and takes the true box that it overlaps most of those that nothing surer has taken. `judge` says what
became of every box once the model's thresholds have been applied.

Overlap is intersection over union; with a crowd, which stands for many objects, it is intersection over the
predicted box, and any number of predictions may fall on it (Lin et al. 2014, arXiv 1405.0312).

Shapes: n images, k classes, p predicted boxes, t true boxes, q predicted boxes that are matched, l levels of
overlap, s pairs of a predicted and a true box that overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pictune.tasks.table import BoxTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.int8]

LEVELS: Floats = np.linspace(0.5, 0.95, 10)
AREAS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
)
"""Sizes of objects in pixels, both ends included, as COCO has them."""
MOST = 100  # so many predictions of an image and class are judged, the surest ones
NEAR = 0.1  # from this overlap on a prediction is about an object, if badly placed

_ALMOST_ONE = 1 - 1e-10  # an overlap of 1 is met by what rounding leaves of it
_ANY: Floats = np.zeros(1)  # the level where pairs have been chosen by their overlap already
_BLOCK = 1_000_000  # so many pairs of boxes are compared at a time (some 60 MB)


class Outcome(IntEnum):
    """What a prediction counts as, at one level of overlap."""

    FALSE = 0
    HIT = 1
    IGNORED = 2


@dataclass(frozen=True, eq=False)
class Matches:
    """What each prediction counts as: the table that average precision is read from.

    Args:
        table: What was matched.
        levels: (l) overlaps from which on a prediction is a hit.
        rows: (q) rows of the table's predictions: class by class, the surest first.
        starts: (k + 1) where each class begins in ``rows``; the last is q.
        rank: (q) place of each among the predictions of its image and class, from 0.
        outcome: By area (l, q) int8, an `Outcome` each.
        counted: By area (t) whether a true box is one to be found: no crowd, and of this size.
    """

    table: BoxTable
    levels: Floats
    rows: Ints
    starts: Ints
    rank: Ints
    outcome: Mapping[str, Codes]
    counted: Mapping[str, Bools]


def match(
    table: BoxTable,
    *,
    areas: Sequence[str] = tuple(AREAS),
    levels: Floats = LEVELS,
    most: int | None = MOST,
) -> Matches:
    """Matches predictions with true boxes as COCO does, image by image and class by class.

    True boxes that are crowds or not of the size asked for are neither hits nor misses; what falls on them
    is ignored, and so is a prediction on nothing that isn't of the size either.

    Args:
        table: The boxes.
        areas: Sizes of objects to look at, names of `AREAS`.
        levels: (l) overlaps from which on a prediction is a hit, each in 0..1.
        most: How many predictions of an image and class are judged, the surest ones; None for all.
    """
    rows = np.lexsort((-table.score, table.label)).astype(np.int64)
    group = _image_and_class(table, table.image, table.label)[rows]
    rank = _turns(group)
    if most is not None:
        kept = rank < most
        rows, group, rank = rows[kept], group[kept], rank[kept]
    known = _image_and_class(table, table.true_image, table.true_label)
    pairs = _near(table, rows, group, known, least=min(float(levels.min()), _ALMOST_ONE))
    found = {name: _outcome(table, rows, group, pairs, levels, AREAS[name]) for name in areas}
    return Matches(
        table=table,
        levels=levels,
        rows=rows,
        starts=np.searchsorted(table.label[rows], np.arange(len(table.classes) + 1)).astype(np.int64),
        rank=rank,
        outcome=MappingProxyType({name: codes for name, (codes, _) in found.items()}),
        counted=MappingProxyType({name: counted for name, (_, counted) in found.items()}),
    )


class Verdict(IntEnum):
    """What became of a box; the kinds of error are TIDE's (Bolya et al. 2020, arXiv 2008.08115)."""

    BELOW = 0  # under its class's threshold: no answer
    HIT = 1
    IGNORED = 2  # a crowd, or a prediction on one
    DUPLICATE = 3  # on an object that a surer prediction of its class has found
    CLASS = 4  # the right place, the wrong class
    LOCATION = 5  # the right class, badly placed
    BOTH = 6  # badly placed on an object of another class
    BACKGROUND = 7  # on nothing
    FOUND = 8  # a true box, as
    MISSED = 9  # is this


@dataclass(frozen=True, eq=False)
class Judged:
    """What became of b boxes, in the order of their table.

    Args:
        image: (b) int64.
        label: (b) int64, the class.
        verdict: (b) int8, a `Verdict` each.
        partner: (b) int64, the row of the other kind of box that decided this, or -1.
        overlap: (b) with the partner, 0..1; 0 without.
    """

    image: Ints
    label: Ints
    verdict: Codes
    partner: Ints
    overlap: Floats


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What became of every box at the model's thresholds.

    Args:
        table: What was judged.
        iou: From which overlap on a prediction is at the right place.
        said: (p) predictions. The partner is the true box that was hit, or the one the error is about.
        known: (t) true boxes. The partner of one that was found is its hit. The partner of a missed one is
            the prediction that took it for another class, each prediction for one true box at most; without
            such, the nearest that is badly placed on it; without such, -1.
    """

    table: BoxTable
    iou: float
    said: Judged
    known: Judged


def judge(table: BoxTable, *, iou: float = 0.5) -> Verdicts:
    """Says what became of each prediction over its threshold, and of each true box.

    Hits are those of `match` with no limit on their number. Any other prediction is judged by a true box,
    crowds aside. One at the right place comes first, the nearest of them: of the same class it makes a
    duplicate (it must have been found already), of another a class error. Then one of the same class at an
    overlap of 0.1 or more (a location error), then one of another class (both). What is left is background.

    Args:
        table: The boxes.
        iou: From which overlap on a prediction is at the right place, above 0.1 and at most 1.
    """
    assert NEAR < iou <= 1, iou
    answers = np.flatnonzero(table.score >= table.thresholds[table.label])
    rows = answers[np.argsort(-table.score[answers], kind="stable")]
    pairs = _near(table, rows, table.image[rows], table.true_image, least=NEAR)
    same = table.label[rows[pairs.said]] == table.true_label[pairs.known]
    placed, crowd = pairs.overlap >= min(iou, _ALMOST_ONE), table.crowd[pairs.known]
    said, known = _blank(table, answers)
    _settle_hits(table, rows, pairs.at(same & placed), said, known)
    open_ = ~crowd & (said.verdict[rows] == Verdict.BACKGROUND)[pairs.said]
    _settle_errors(rows, pairs.at(open_), same[open_], placed[open_], said)
    wrong = ~crowd & ~same & placed & (said.verdict[rows] == Verdict.CLASS)[pairs.said]
    _settle_misses(table, rows, pairs.at(wrong), said, known)
    return Verdicts(table, iou, said, known)


class _Pairs(NamedTuple):
    """Boxes that overlap.

    Args:
        said: (s) positions among the predictions that were asked about, ascending.
        known: (s) rows of true boxes.
        overlap: (s) in 0..1.
    """

    said: Ints
    known: Ints
    overlap: Floats

    def at(self, chosen: NDArray[Any]) -> _Pairs:
        return _Pairs(self.said[chosen], self.known[chosen], self.overlap[chosen])


def _near(table: BoxTable, rows: Ints, said: Ints, known: Ints, *, least: float) -> _Pairs:
    """The pairs with at least this overlap of predictions (``rows``) and truths whose keys are equal."""
    boxes, true_boxes = _measured(table.box[rows]), _measured(table.true_box)
    found = [_Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    if not len(known):
        return found[0]
    order, first, count = _within_reach(boxes, true_boxes, said, known)
    for start, stop in _blocks(count):
        held = count[start:stop]
        position = np.repeat(np.arange(start, stop), held)
        within = np.arange(len(position)) - np.repeat(np.cumsum(held) - held, held)
        candidates = _Pairs(position, order[first[position] + within], np.zeros(0))
        found.append(_overlapping(candidates, boxes, true_boxes, table.crowd, least))
    return _Pairs(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _within_reach(boxes: Floats, true_boxes: Floats, said: Ints, known: Ints) -> tuple[Ints, Ints, Ints]:
    """An order of true boxes, and where in it each prediction's candidates begin, and how many they are.

    Candidates begin left of the prediction's right side, and not further left of it than the widest of them
    reaches; of 10,000 boxes side by side few are left.
    """
    left, width = true_boxes[0], true_boxes[2] - true_boxes[0]
    order = np.lexsort((left, known))
    keys, starts = np.unique(known[order], return_index=True)
    widest = np.maximum.reduceat(width[order], starts)
    reach = widest[np.minimum(np.searchsorted(keys, said), len(keys) - 1)]
    # A key and a place from left to right make one number to search for.
    places, span = np.sort(left), len(left) + 1
    numbers = known[order] * span + np.searchsorted(places, left[order])
    first = np.searchsorted(numbers, said * span + np.searchsorted(places, boxes[0] - reach))
    last = np.searchsorted(numbers, said * span + np.searchsorted(places, boxes[2]))
    return order, first, np.maximum(last - first, 0)


def _blocks(count: Ints) -> Iterator[tuple[int, int]]:
    """Runs of predictions with about so many pairs as fit a block, at least one prediction each."""
    before = np.concatenate([[0], np.cumsum(count)])
    start = 0
    while start < len(count):
        stop = max(start + 1, int(np.searchsorted(before, before[start] + _BLOCK, "right")) - 1)
        yield start, stop
        start = stop


def _measured(box: Floats) -> Floats:
    """(5, b) left, top, right, bottom and area."""
    left, top, right, bottom = box.T
    return np.stack([left, top, right, bottom, (right - left) * (bottom - top)])


def _overlapping(pairs: _Pairs, said: Floats, known: Floats, crowd: Bools, least: float) -> _Pairs:
    """Those pairs that overlap by ``least`` or more, from (5, q) and (5, t) measured boxes."""
    i, j = pairs.said, pairs.known
    # Most pairs lie beside or below one another, and are left out as soon as that is known.
    width = np.minimum(said[2][i], known[2][j]) - np.maximum(said[0][i], known[0][j])
    kept = np.flatnonzero(width > 0)
    i, j, width = i[kept], j[kept], width[kept]
    height = np.minimum(said[3][i], known[3][j]) - np.maximum(said[1][i], known[1][j])
    kept = np.flatnonzero(height > 0)
    i, j, inside = i[kept], j[kept], width[kept] * height[kept]
    union = np.where(crowd[j], said[4][i], said[4][i] + known[4][j] - inside)
    overlap = inside / np.maximum(union, np.finfo(np.float64).tiny)
    kept = np.flatnonzero(overlap >= least)
    return _Pairs(i[kept], j[kept], overlap[kept])


def _greedy(pairs: _Pairs, group: Ints, levels: Floats, taken: Bools, shared: Bools) -> tuple[Ints, Ints]:
    """Gives every prediction the first true box on its list that is still free, the surest prediction first.

    Predictions of different groups do not compete, so that one step serves the next prediction of every
    group, and its next candidate, at all levels.

    Args:
        pairs: In the order of each prediction's preference.
        group: (q) which predictions compete; of equal groups the surer comes first.
        levels: (l) overlap that is needed.
        taken: (t, l) true boxes that are not to be had; those given away are added.
        shared: (t) true boxes that any number of predictions may be given.

    Returns:
        (m) the predictions that have a candidate and (m, l) the true box of each, or -1.
    """
    present, slot = np.unique(pairs.said, return_inverse=True)
    turn, place = _turns(group[present])[slot], _turns(pairs.said)
    order = np.lexsort((place, turn))
    slot, known = slot[order], pairs.known[order]
    enough = pairs.overlap[order][:, None] >= np.minimum(levels, _ALMOST_ONE)
    exclusive = ~shared[known]
    changes = (np.diff(turn[order]) != 0) | (np.diff(place[order]) != 0)
    edges = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(order)]]).tolist()
    found = np.full((len(present), len(levels)), -1, np.int64)
    for start, stop in pairwise(edges):
        step = slice(start, stop)
        asking, wanted = slot[step], known[step]
        had, gone = found[asking], taken[wanted]
        won = enough[step] & ~gone & (had < 0)
        found[asking] = np.where(won, wanted[:, None], had)
        taken[wanted] = gone | (won & exclusive[step][:, None])
    return present, found


def _outcome(
    table: BoxTable, rows: Ints, group: Ints, pairs: _Pairs, levels: Floats, area: tuple[float, float]
) -> tuple[Codes, Bools]:
    """(l, q) outcomes and (t) true boxes to be found, for objects of one size."""
    low, high = area
    ignored = table.crowd | (table.area < low) | (table.area > high)
    # True boxes that count come first; of equal overlaps the last one is taken, as COCO does.
    preference = np.lexsort((-pairs.known, -pairs.overlap, ignored[pairs.known], pairs.said))
    taken = np.zeros((len(ignored), len(levels)), bool)
    present, found = _greedy(pairs.at(preference), group, levels, taken, table.crowd)
    size = _measured(table.box[rows])[4]
    outside = np.where((size < low) | (size > high), Outcome.IGNORED, Outcome.FALSE).astype(np.int8)
    outcome = np.tile(outside, (len(levels), 1))
    if len(present):
        matched = np.where(ignored[found], np.int8(Outcome.IGNORED), np.int8(Outcome.HIT))
        outcome[:, present] = np.where(found < 0, outside[present][:, None], matched).T
    return outcome, ~ignored


def _blank(table: BoxTable, answers: Ints) -> tuple[Judged, Judged]:
    """Verdicts before any pair was looked at."""
    verdict = np.full(len(table.image), Verdict.BELOW, np.int8)
    verdict[answers] = Verdict.BACKGROUND
    missed = np.where(table.crowd, Verdict.IGNORED, Verdict.MISSED).astype(np.int8)
    nobody, nothing = (np.full(len(missed), -1), np.zeros(len(missed)))
    said = Judged(table.image, table.label, verdict, np.full(len(verdict), -1), np.zeros(len(verdict)))
    return said, Judged(table.true_image, table.true_label, missed, nobody, nothing)


def _settle_hits(table: BoxTable, rows: Ints, pairs: _Pairs, said: Judged, known: Judged) -> None:
    """Writes down hits, and what falls on crowds, from the pairs of one class at the right place."""
    crowd = table.crowd[pairs.known]
    pairs = pairs.at(np.lexsort((-pairs.known, -pairs.overlap, crowd, pairs.said)))
    group = _image_and_class(table, table.image, table.label)[rows]
    taken = np.zeros((len(table.crowd), 1), bool)
    won = _won(pairs, *_greedy(pairs, group, _ANY, taken, table.crowd))
    row = rows[won.said]
    on_crowd = table.crowd[won.known]
    said.verdict[row] = np.where(on_crowd, Verdict.IGNORED, Verdict.HIT)
    said.partner[row], said.overlap[row] = won.known, won.overlap
    found = won.known[~on_crowd]
    known.verdict[found] = Verdict.FOUND
    known.partner[found], known.overlap[found] = row[~on_crowd], won.overlap[~on_crowd]


def _won(pairs: _Pairs, present: Ints, found: Ints) -> _Pairs:
    """The pairs that `_greedy` made at its only level."""
    return pairs.at(found[np.searchsorted(present, pairs.said), 0] == pairs.known)


def _settle_errors(rows: Ints, pairs: _Pairs, same: Bools, placed: Bools, said: Judged) -> None:
    """Writes down what is wrong with predictions that are about some object."""
    tier = np.where(placed, 0, np.where(same, 1, 2))
    order = np.lexsort((pairs.known, ~same, -pairs.overlap, tier, pairs.said))
    first = order[_turns(pairs.said) == 0]
    kinds = np.array([[Verdict.CLASS, Verdict.BOTH, Verdict.BOTH], [Verdict.DUPLICATE, Verdict.LOCATION, 0]])
    row = rows[pairs.said[first]]
    said.verdict[row] = kinds[same[first].astype(int), tier[first]]
    said.partner[row], said.overlap[row] = pairs.known[first], pairs.overlap[first]


def _settle_misses(table: BoxTable, rows: Ints, wrong: _Pairs, said: Judged, known: Judged) -> None:
    """Writes down which error a missed box met with; ``wrong`` are the pairs of class errors."""
    wrong = wrong.at(np.lexsort((wrong.known, -wrong.overlap, wrong.said)))
    taken = (known.verdict != Verdict.MISSED)[:, None]
    nobody = np.zeros(len(table.crowd), bool)
    won = _won(wrong, *_greedy(wrong, table.image[rows], _ANY, taken, nobody))
    row = rows[won.said]
    said.partner[row], said.overlap[row] = won.known, won.overlap
    known.partner[won.known], known.overlap[won.known] = row, won.overlap
    badly = np.flatnonzero(said.verdict == Verdict.LOCATION)
    badly = badly[np.argsort(said.overlap[badly], kind="stable")]  # the nearest is written last
    badly = badly[~taken[said.partner[badly], 0]]
    known.partner[said.partner[badly]], known.overlap[said.partner[badly]] = badly, said.overlap[badly]


def _image_and_class(table: BoxTable, image: Ints, label: Ints) -> Ints:
    """(b) one number for an image and a class."""
    return np.asarray(image * len(table.classes) + label)


def _turns(group: Ints) -> Ints:
    """(b) the place of each within its group, from 0, in the order they stand in."""
    order = np.argsort(group, kind="stable")
    turns = np.zeros(len(group), np.int64)
    turns[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    return turns
