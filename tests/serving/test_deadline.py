"""Of the deadlines that were set, only the last one is ever over."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock, call

from pictune.serving.deadline import Deadline


class Clock:
    """A loop that only notes timers."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, object, Mock]] = []

    def call_later(self, seconds: float, late: object) -> Mock:
        self.timers.append((seconds, late, Mock(asyncio.TimerHandle)))
        return self.timers[-1][2]


def test_each_takes_the_place_of_the_one_before() -> None:
    clock, one, other = Clock(), Mock(), Mock()
    deadline = Deadline(clock)  # type: ignore[arg-type]
    deadline.set(1.0, one)
    deadline.set(2.0, other)
    assert [timer[:2] for timer in clock.timers] == [(1.0, one), (2.0, other)]
    assert [timer[2].mock_calls for timer in clock.timers] == [[call.cancel()], []]
    deadline.clear()
    assert clock.timers[1][2].mock_calls == [call.cancel()]
    deadline.clear()
    assert len(clock.timers) == 2


def test_while_held_they_are_only_noted() -> None:
    clock, one, other = Clock(), Mock(), Mock()
    deadline = Deadline(clock)  # type: ignore[arg-type]
    deadline.set(1.0, one)
    deadline.hold()
    deadline.set(2.0, one)
    deadline.clear()
    deadline.set(3.0, other)
    assert len(clock.timers) == 1
    assert not clock.timers[0][2].mock_calls
    deadline.release()
    assert clock.timers[0][2].mock_calls == [call.cancel()]
    assert clock.timers[1][:2] == (3.0, other)


def test_where_nothing_was_noted_the_old_one_stays() -> None:
    clock = Clock()
    deadline = Deadline(clock)  # type: ignore[arg-type]
    deadline.set(1.0, Mock())
    deadline.hold()
    deadline.release()
    assert len(clock.timers) == 1
    assert not clock.timers[0][2].mock_calls
    deadline.hold()
    deadline.clear()
    deadline.release()
    assert clock.timers[0][2].mock_calls == [call.cancel()]
    assert len(clock.timers) == 1
