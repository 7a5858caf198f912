"""Learning-rate schedules: what share of the highest rate applies at each moment.

A schedule is a pure function of progress and of the validation scores so far. It holds no state,
so a resumed run cannot drift from an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from pictune.settings import Parts, Search, Setting

# (epochs done, with fractions; epochs in all; validation scores so far, higher is better) -> factor
Schedule = Callable[[float, int, Sequence[float]], float]

Warmup = Annotated[float, Setting("epochs of linear warm-up", low=0, search=Search(0, 5))]
Floor = Annotated[float, Setting("share of the highest rate at the end", low=0, high=1)]


def _warmed(warmup: float, after: Schedule) -> Schedule:
    """Rises linearly for ``warmup`` epochs, then follows ``after`` over the epochs that remain."""

    def factor(done: float, epochs: int, scores: Sequence[float]) -> float:
        rise = min(warmup, epochs / 2)
        if done < rise:
            return max(done / rise, 0.01)
        return after(done, epochs, scores)

    return factor


def _share(done: float, epochs: int, warmup: float) -> float:
    """How much of the time after the warm-up has passed, 0 to 1."""
    rise = min(warmup, epochs / 2)
    return min(max((done - rise) / max(epochs - rise, 1e-9), 0.0), 1.0)


def constant(*, warmup_epochs: Warmup = 0.0) -> Schedule:
    """The same rate throughout."""
    return _warmed(warmup_epochs, lambda done, epochs, scores: 1.0)


def step(
    *,
    warmup_epochs: Warmup = 0.0,
    every: Annotated[int, Setting("epochs between two falls", low=1)] = 10,
    gamma: Annotated[float, Setting("factor of each fall", above=0, high=1)] = 0.1,
) -> Schedule:
    """Falls by a factor every few epochs."""
    return _warmed(warmup_epochs, lambda done, epochs, scores: gamma ** int(done // every))


def multistep(
    *,
    warmup_epochs: Warmup = 0.0,
    milestones: Annotated[
        tuple[float, ...], Setting("shares of the whole at which the rate falls", above=0, high=1)
    ] = (
        0.6,
        0.85,
    ),
    gamma: Annotated[float, Setting("factor of each fall", above=0, high=1)] = 0.1,
) -> Schedule:
    """Falls by a factor at given shares of the whole."""
    return _warmed(
        warmup_epochs,
        lambda done, epochs, scores: gamma ** sum(done >= share * epochs for share in milestones),
    )


def cosine(*, warmup_epochs: Warmup = 1.0, final: Floor = 0.0) -> Schedule:
    """Half a cosine down to the final share (Loshchilov and Hutter 2017, arXiv 1608.03983)."""

    def factor(done: float, epochs: int, scores: Sequence[float]) -> float:
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * _share(done, epochs, warmup_epochs)))

    return _warmed(warmup_epochs, factor)


def one_cycle(
    *,
    rise: Annotated[float, Setting("share of the whole spent rising", above=0, high=0.9)] = 0.25,
    start: Annotated[float, Setting("share of the highest rate at the start", above=0, high=1)] = 0.04,
    final: Floor = 0.0,
) -> Schedule:
    """Cosine up, then cosine down (Smith 2018, arXiv 1708.07120)."""

    def factor(done: float, epochs: int, scores: Sequence[float]) -> float:
        share = min(done / epochs, 1.0)
        if share < rise:
            return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * share / rise))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise)))

    return factor


def polynomial(
    *,
    warmup_epochs: Warmup = 1.0,
    power: Annotated[float, Setting("1 falls in a straight line", above=0, high=10)] = 1.0,
    final: Floor = 0.0,
) -> Schedule:
    """Falls as a power of the time that is left."""

    def factor(done: float, epochs: int, scores: Sequence[float]) -> float:
        left: float = (1 - _share(done, epochs, warmup_epochs)) ** power
        return final + (1 - final) * left

    return _warmed(warmup_epochs, factor)


def plateau(
    *,
    warmup_epochs: Warmup = 0.0,
    patience: Annotated[int, Setting("epochs without gain before a fall", low=1)] = 5,
    gamma: Annotated[float, Setting("factor of each fall", above=0, high=1)] = 0.3,
) -> Schedule:
    """Falls when the validation score has stopped rising."""

    def factor(done: float, epochs: int, scores: Sequence[float]) -> float:
        best, waited, falls = -math.inf, 0, 0
        for score in scores:
            waited = 0 if score > best else waited + 1
            best = max(best, score)
            if waited > patience:
                falls, waited = falls + 1, 0
        return gamma**falls

    return _warmed(warmup_epochs, factor)


SCHEDULES: Parts[Schedule] = Parts(
    "schedule", (constant, step, multistep, cosine, one_cycle, polynomial, plateau)
)
