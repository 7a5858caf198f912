"""`Line`: the pictures that wait for a worker and those that are in it."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pictune.serving.refusals import Refusal

MEMORY = 0.1  # weight of the newest answer in how long one takes


@dataclass(frozen=True)
class Reply:
    """What a model answers about one picture.

    Args:
        row: One JSON object, ready to be put into a response.
        model: The id of the artifact whose worker answered.
        seconds: In the queue, in decoding and in the network: ``queue``, ``decode``, ``infer``.
    """

    row: bytes = field(repr=False)
    model: str
    seconds: Mapping[str, float]


@dataclass(slots=True, eq=False)
class Item:
    """A picture that somebody asked about.

    Args:
        image: The bytes of its file.
        question: What else goes to the worker: top_k and threshold, each None for the model's own.
        answer: Becomes a `Reply` or a `Refusal`.
        asked: When, in seconds of the line's clock.
        party: What all pictures of one request have in common; None when there is no other.
        turn: At which it is served.
        handed: When it last went to a worker.
        suspect: It was in a worker that died.
    """

    image: bytes
    question: tuple[int | None, float | None]
    answer: Future[Reply | Refusal]
    asked: float
    party: object = None
    turn: int = 0
    handed: float = 0.0
    suspect: bool = False

    def settle(self, answer: Reply | Refusal) -> None:
        """Gives the answer, unless there is one or nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Line:
    """First come, first served, a few at a time; parties take turns, a picture each.

    So a request with many pictures takes as long as it needs, and one that comes after it does not wait for
    all of them.

    Args:
        window: Pictures in the worker at a time.
        clock: Monotonic seconds.
    """

    def __init__(self, window: int, clock: Callable[[], float]) -> None:
        self._window, self._clock = window, clock
        self._waiting: deque[Item] = deque()
        self._inside: dict[int, Item] = {}
        self._numbers = 0
        self._turn = 0  # of the last picture that went into the worker
        self._last = 0.0
        self._interval = 0.0

    @property
    def oldest(self) -> int | None:
        """The number of the picture that has been in the worker for longest; it is the one worked on."""
        return next(iter(self._inside), None)

    @property
    def patience(self) -> float:
        """Seconds until a picture that came now would be answered, going by the last answers."""
        return self._interval * (self._before(self._turn) + len(self._inside))

    def enter(self, item: Item) -> None:
        """Puts a picture behind those whose turn is no later."""
        item.turn = self._turn
        if item.party is not None:
            own = (other.turn for other in self._waiting if other.party is item.party)
            item.turn = max(item.turn, max(own, default=-1) + 1)
        self._waiting.insert(self._before(item.turn), item)

    def _before(self, turn: int) -> int:
        """How many waiting pictures are served before one that comes now for that turn."""
        count = len(self._waiting)
        while count and self._waiting[count - 1].turn > turn:
            count -= 1
        return count

    def leave(self, item: Item) -> None:
        """Takes out a picture that still waits; one that is in the worker is finished for nobody."""
        if item in self._waiting:
            self._waiting.remove(item)
        item.image = b""

    def hand_over(self) -> Iterator[tuple[int, Item]]:
        """Those that may go into the worker now, with their numbers.

        A picture on which a worker may have died goes in alone: if it kills again, it kills nobody else's.
        """
        while self._waiting and len(self._inside) < self._window:
            item = self._waiting[0]
            crowded = item.suspect or any(inside.suspect for inside in self._inside.values())
            if self._inside and crowded:
                return
            self._waiting.popleft()
            if item.answer.done():
                continue
            item.handed, self._turn = self._clock(), item.turn
            if not self._inside:
                self._last = item.handed
            self._numbers += 1
            self._inside[self._numbers] = item
            yield self._numbers, item

    def take_back(self, number: int) -> Item | None:
        """The picture of that number, which the worker has finished; None when there is none."""
        item = self._inside.pop(number, None)
        if item is not None:
            now = self._clock()
            taken, self._last = now - self._last, now
            weight = MEMORY if self._interval else 1.0
            self._interval += weight * (taken - self._interval)
        return item

    def recover(self) -> list[Item]:
        """Puts what was in a dead worker back to the front, once; gives those that were there before."""
        lost = list(self._inside.values())
        self._inside.clear()
        self._waiting.extendleft(item for item in reversed(lost) if not item.suspect)
        hopeless = [item for item in lost if item.suspect]
        for item in lost:
            item.suspect = True
        return hopeless

    def clear(self) -> list[Item]:
        """Takes all out."""
        items = [*self._inside.values(), *self._waiting]
        self._inside.clear()
        self._waiting.clear()
        return items
