"""The line before a worker: who goes in when, who is asked again, and who waits for how long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from pictune.serving.capacity import Capacity
from pictune.serving.line import Item, Line
from pictune.serving.refusals import Refusal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Place:
    """A line of some items, and which of them are in the worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, window: int, count: int) -> None:
        self.clock = Clock()
        self.line = Line(window, self.clock)
        self.items = [Item(b"x", {}, loop.create_future(), 0.0) for _ in range(count)]
        for item in self.items:
            self.line.enter(item)

    def handed(self) -> list[tuple[int, int]]:
        """Numbers and positions of those that go in now."""
        return [(number, self.items.index(item)) for number, item in self.line.hand_over()]


def test_in_order_and_no_more_than_the_window(loop) -> None:
    place = Place(loop, window=3, count=5)
    assert place.handed() == [(1, 0), (2, 1), (3, 2)]
    assert place.handed() == []
    assert place.line.take_back(2) is place.items[1]
    assert place.line.take_back(2) is None
    assert place.handed() == [(4, 3)]
    assert place.line.oldest == 1
    place.line.take_back(1)
    assert place.line.oldest == 3


def test_who_leaves_never_goes_in(loop) -> None:
    place = Place(loop, window=1, count=4)
    assert place.handed() == [(1, 0)]
    place.line.leave(place.items[1])
    place.items[2].settle(Refusal(503, "timeout", ""))
    place.line.take_back(1)
    assert place.handed() == [(2, 3)]


def test_what_a_dead_worker_had_goes_in_again_first_alone_and_once(loop) -> None:
    place = Place(loop, window=3, count=5)
    place.handed()
    assert place.line.recover() == []
    assert place.line.oldest is None
    assert place.handed() == [(4, 0)]
    assert place.handed() == []
    assert place.line.recover() == [place.items[0]]
    assert place.handed() == [(5, 1)]
    place.line.take_back(5)
    assert place.handed() == [(6, 2)]
    place.line.take_back(6)
    assert place.handed() == [(7, 3), (8, 4)]


def test_a_suspect_waits_until_the_worker_is_empty_and_keeps_others_out(loop) -> None:
    place = Place(loop, window=2, count=1)
    place.handed()
    place.line.recover()
    place.items.append(Item(b"x", {}, loop.create_future(), 0.0))
    place.line.enter(place.items[1])
    assert place.handed() == [(2, 0)]
    assert place.handed() == []
    place.line.take_back(2)
    assert place.handed() == [(3, 1)]


def test_patience_is_how_long_the_last_ones_took_times_those_that_wait(loop) -> None:
    place = Place(loop, window=1, count=4)
    assert place.line.patience == 0
    place.clock.now += 50  # nobody worked in this time
    place.handed()
    place.clock.now += 2
    place.line.take_back(1)
    assert place.line.patience == pytest.approx(2 * 3)
    place.handed()
    place.clock.now += 1
    place.line.take_back(2)
    assert place.line.patience == pytest.approx((2 - 0.1) * 2)


def test_parties_take_turns_a_picture_each(loop) -> None:
    place = Place(loop, window=2, count=0)

    def enter(name: str, party: object = None) -> None:
        item = Item(name.encode(), (None, None), loop.create_future(), 0.0, party)
        place.items.append(item)
        place.line.enter(item)

    def served() -> str:
        """The next that goes in, once the oldest is answered."""
        if place.line.oldest is not None:
            place.line.take_back(place.line.oldest)
        return "".join(item.image.decode() for _, item in place.line.hand_over())

    large, other = object(), object()
    for name in "abcdef":
        enter(name, large)
    assert served() == "ab"
    enter("1")
    enter("2")
    for name in "ABC":
        enter(name, other)
    assert [served() for _ in range(2)] == ["c", "1"]
    enter("3")
    assert [served() for _ in range(9)] == ["2", "A", "d", "3", "B", "e", "C", "f", ""]


def test_a_large_request_is_served_however_many_others_come(loop) -> None:
    line, large = Line(1, Clock()), object()
    mine = [Item(b"x", (None, None), loop.create_future(), 0.0, large) for _ in range(5)]
    for item in mine:
        line.enter(item)
    served = []
    for _ in range(30):
        for _ in range(2):  # more than are served
            line.enter(Item(b"x", (None, None), loop.create_future(), 0.0))
        ((number, item),) = line.hand_over()
        line.take_back(number)
        served.append(item)
    # The first goes in when two others have come, and each waits for those that came while it did.
    assert [served.index(item) for item in mine[:4]] == [0, 3, 10, 25]


def test_whatever_happens_each_is_served_once_unless_it_left(loop) -> None:
    draw = random.Random(0)
    for _ in range(300):
        line, parties = Line(draw.randint(1, 4), Clock()), [None, None, object(), object(), object()]
        waiting: list[Item] = []
        served: list[Item] = []
        for _ in range(60):
            event = draw.random()
            if event < 0.5:
                waiting.append(Item(b"x", (None, None), loop.create_future(), 0.0, draw.choice(parties)))
                line.enter(waiting[-1])
            elif event < 0.6 and waiting:
                left = waiting.pop(draw.randrange(len(waiting)))
                left.answer.cancel()
                line.leave(left)
            elif event < 0.65:
                hopeless = line.recover()
                served += [item for item in hopeless if item in waiting]
                waiting = [item for item in waiting if item not in hopeless]
            else:
                finish(line, waiting, served)
        for _ in range(200):
            finish(line, waiting, served)
        assert waiting == []
        assert len({id(item) for item in served}) == len(served)
        assert line.clear() == []
        assert line.patience == 0


def finish(line: Line, waiting: list[Item], served: list[Item]) -> None:
    """Hands over what goes in, and answers the oldest."""
    list(line.hand_over())
    item = line.take_back(line.oldest) if line.oldest is not None else None
    if item in waiting:
        waiting.remove(item)
        served.append(item)


def test_patience_counts_only_what_is_served_before(loop) -> None:
    place = Place(loop, window=1, count=1)
    place.handed()
    place.clock.now += 1
    place.line.take_back(1)
    party = object()
    for _ in range(30):
        place.line.enter(Item(b"x", (None, None), loop.create_future(), 0.0, party))
    assert place.line.patience == pytest.approx(1)
    place.line.enter(Item(b"x", (None, None), loop.create_future(), 0.0))
    assert place.line.patience == pytest.approx(2)


def test_clear_gives_all(loop) -> None:
    place = Place(loop, window=2, count=3)
    place.handed()
    assert place.line.clear() == place.items
    assert place.handed() == []


@pytest.mark.parametrize(
    ("facts", "calls", "window"),
    [({}, 1, 2), ({"threads": 2}, 2, 4), ({"threads": 8}, 2, 16), ({"threads": 2, "max_batch": 16}, 2, 32)],
)
def test_capacity_keeps_the_worker_busy(facts, calls: int, window: int) -> None:
    capacity = Capacity(**facts)
    assert (capacity.calls, capacity.window) == (calls, window)
