"""Divides indivisible units among splits so that each class is spread as asked.

A *unit* is a set of images that nothing may separate. Units are placed one by one, those of the rarest
class first, each where it brings the shares of its classes nearest to what was asked: iterative
stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data") with
the chi-square distance for its measure, so that units of many images and many classes are weighed too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """Images that stay together.

    Args:
        key: Decides the order among equals; no two units have the same.
        counts: Images by class; an image of several classes counts in each of them.
        size: How many images it holds.
    """

    key: bytes
    counts: Mapping[str, int]
    size: int


def place(units: Sequence[Unit], shares: Mapping[str, float], *, complete: str | None = None) -> list[str]:
    """A split for each unit.

    A class of as many units as there are splits, or more, is given to every split as far as the units
    allow; a class of fewer goes to the complete split first, then to the emptiest.

    Args:
        units: In any order; the answer does not depend on it.
        shares: What part of the images each split is to get, each above 0 and together 1.
        complete: The split that must hold every class, such as ``train``; None when there is none.

    Returns:
        The names of the splits, in the order of the units.
    """
    filling = _Filling(units, shares)
    order = sorted(range(len(units)), key=lambda index: units[index].key)
    with_class = defaultdict(list)
    for index in order:
        for name in units[index].counts:
            with_class[name].append(index)
    rarest_first = sorted(with_class, key=lambda name: (len(with_class[name]), name))
    for name in rarest_first:
        _give_each_split_one(filling, name, with_class[name], complete)
    rank = {name: number for number, name in enumerate(rarest_first)}
    # Python's sort keeps the order by key among equals. Large units go first, while there is room for them.
    left = [index for index in order if index not in filling.split_of]
    left.sort(key=lambda index: (min(rank[name] for name in units[index].counts), -units[index].size))
    for index in left:
        filling.add(index, min(shares, key=lambda split: filling.cost(index, split)))
    for name in rarest_first if complete else ():
        if complete and not filling.have[complete][name]:
            filling.move(min(with_class[name], key=lambda index: units[index].size), complete)
    return [filling.split_of[index] for index in range(len(units))]


def _give_each_split_one(filling: _Filling, name: str, indices: Sequence[int], complete: str | None) -> None:
    """One unit of a class for each split that has none of it, as far as the units go."""
    by_need = sorted(filling.shares, key=lambda split: (split != complete, filling.fullness(split)))
    for split in by_need[: len(indices)]:
        free = [index for index in indices if index not in filling.split_of]
        if filling.have[split][name] or not free:
            continue
        room = max(1.0, filling.shares[split] * filling.images_with[name])
        fitting = [index for index in free if filling.units[index].counts[name] <= room]
        smallest = min(free, key=lambda index: filling.units[index].counts[name])
        filling.add(fitting[0] if fitting else free[0] if split == complete else smallest, split)


class _Filling:
    """What each split holds so far, against what it should hold."""

    def __init__(self, units: Sequence[Unit], shares: Mapping[str, float]) -> None:
        self.units = units
        self.shares = shares
        self.split_of: dict[int, str] = {}
        self.have: dict[str, Counter[str]] = {split: Counter() for split in shares}
        self.size = dict.fromkeys(shares, 0)
        self.images = sum(unit.size for unit in units)
        self.images_with: Counter[str] = Counter()
        for unit in units:
            self.images_with.update(unit.counts)

    def add(self, index: int, split: str) -> None:
        unit = self.units[index]
        self.split_of[index] = split
        self.have[split].update(unit.counts)
        self.size[split] += unit.size

    def move(self, index: int, split: str) -> None:
        unit = self.units[index]
        before = self.split_of[index]
        self.have[before].subtract(unit.counts)
        self.size[before] -= unit.size
        self.add(index, split)

    def fullness(self, split: str) -> float:
        """How much of its share of all images a split holds."""
        return self.size[split] / (self.shares[split] * self.images)

    def cost(self, index: int, split: str) -> float:
        """How far the split would move from its shares: the change of the chi-square distance."""
        unit = self.units[index]
        share = self.shares[split]
        change = _change(self.size[split], unit.size, share * self.images)
        for name, count in unit.counts.items():
            change += _change(self.have[split][name], count, share * self.images_with[name])
        return change


def _change(have: int, more: int, aim: float) -> float:
    """(have + more - aim)² / aim - (have - aim)² / aim."""
    return more * (2 * (have - aim) + more) / aim
