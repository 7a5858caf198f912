"""Differences of two models on the same images, and how far another set of images might move them.

Both models answer the same images, so their mistakes go together and the difference is known far better than
either number. What decides is how many images they answer *differently*, and these may be few or none. Then a
variance read off the data is no guide: no image of n differing does not prove that none would. So a
difference of shares has Tango's score interval (Tango 1998, Statistics in Medicine 17, 891-908), which for
none of n reaches to about 3.84 / n on either side, and which for many is the usual one.

Whatever is no plain share of images gets the number of pairs, and the share of them that disagree, that would
scatter as much: the idea of effective trials (`pictune.evaluation.intervals`), for two models.

Shapes: b differences side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ONE_UNIT = "one {} alone cannot show how another would fare"
_HALVINGS = 60
_BELIEF = 4.0  # images' worth of belief that a class disagrees as often as the others do
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
        numbers = [None if np.isnan(value) else float(value) for value in (first, second)]
        if None in numbers:
            return cls(name, *numbers, reason=reason, step=step)
        moved = float(second - first)
        if np.isnan(low) or np.isnan(high):
            return cls(name, *numbers, moved, reason=reason, step=step)
        # The ends may miss the value by a last digit, or by a bias that was taken off.
        return cls(name, *numbers, moved, min(float(low), moved), max(float(high), moved), reason, step)

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
    apart = variance * pairs
    usual = float(apart @ pairs / pairs.sum())
    steadied = (pairs * apart + _BELIEF * usual) / (pairs + _BELIEF) / pairs
    alone, count = float(variance.sum()), len(pairs)
    shared = mean_variance * count**2 / alone if alone > 0 else 1.0
    return Averaged(float(steadied.sum()) / count**2 * max(shared, 0.1), count**2 / float((1 / pairs).sum()))
