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
        handed: When it last went to a worker.
        suspect: It was in a worker that died.
    """

    image: bytes
    question: tuple[int | None, float | None]
    answer: Future[Reply | Refusal]
    asked: float
    handed: float = 0.0
    suspect: bool = False

    def settle(self, answer: Reply | Refusal) -> None:
        """Gives the answer, unless there is one or nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Line:
    """First come, first served, a few at a time.

    Args:
        window: Pictures in the worker at a time.
        clock: Monotonic seconds.
    """

    def __init__(self, window: int, clock: Callable[[], float]) -> None:
        self._window, self._clock = window, clock
        self._waiting: deque[Item] = deque()
        self._inside: dict[int, Item] = {}
        self._numbers = 0
        self._last = 0.0
        self._interval = 0.0

    @property
    def oldest(self) -> int | None:
        """The number of the picture that has been in the worker for longest; it is the one worked on."""
        return next(iter(self._inside), None)

    @property
    def patience(self) -> float:
        """Seconds until a picture that came now would be answered, going by the last answers."""
        return self._interval * (len(self._waiting) + len(self._inside))

    def enter(self, item: Item) -> None:
        """Puts a picture at the end."""
        self._waiting.append(item)

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
            item.handed = self._clock()
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
