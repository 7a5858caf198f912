"""`Line`: the pictures that wait for a worker and those that are in it."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

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
        handed: When it last went to a worker.
        suspect: It was in a worker that died.
    """

    image: bytes
    question: tuple[int | None, float | None]
    answer: Future[Reply | Refusal]
    asked: float
    party: object = None
    handed: float = 0.0
    suspect: bool = False

    def settle(self, answer: Reply | Refusal) -> None:
        """Gives the answer, unless there is one or nobody waits for it any more."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Turns:
    """Who waits, in the order in which they are served: requests take turns, a picture each.

    One picture of each request stands in a ring, and the rest behind it. Once it is served, the next one goes
    to the end of the ring. So a request waits for one picture of each of the others, however many they have,
    and none waits for ever, however many come.
    """

    def __init__(self) -> None:
        self._ring: deque[Item] = deque()
        self._behind: dict[int, deque[Item]] = {}  # by the identity of a party that stands in the ring

    @property
    def first(self) -> Item | None:
        """Whose turn it is."""
        return self._ring[0] if self._ring else None

    @property
    def ahead(self) -> int:
        """How many are served before one that came now."""
        return len(self._ring)

    def add(self, item: Item) -> None:
        """Puts a picture at the end of the ring, or behind the others of its party."""
        behind = None if item.party is None else self._behind.get(id(item.party))
        if behind is not None:
            behind.append(item)
            return
        self._ring.append(item)
        if item.party is not None:
            self._behind[id(item.party)] = deque()

    def put_back(self, items: Sequence[Item]) -> None:
        """Puts those that were served in vain before all others; they stand for no party."""
        self._ring.extendleft(reversed(items))

    def take(self) -> Item:
        """Takes out the first."""
        item = self._ring.popleft()
        self._follow(item, len(self._ring))
        return item

    def remove(self, item: Item) -> None:
        """Takes one out wherever it stands, if it does."""
        if item in self._ring:
            place = self._ring.index(item)
            del self._ring[place]
            self._follow(item, place)
        elif item in self._behind.get(id(item.party), ()):
            self._behind[id(item.party)].remove(item)

    def clear(self) -> list[Item]:
        """Takes all out."""
        items = [*self._ring, *chain.from_iterable(self._behind.values())]
        self._ring.clear()
        self._behind.clear()
        return items

    def _follow(self, item: Item, place: int) -> None:
        """Has the next of the same party come into the ring."""
        if item.party is None or item.suspect:  # one that was put back stood for nobody
            return
        behind = self._behind[id(item.party)]
        if behind:
            self._ring.insert(place, behind.popleft())
        else:
            del self._behind[id(item.party)]


class Line:
    """First come, first served, a few at a time; requests with several pictures take turns with others.

    Args:
        window: Pictures in the worker at a time.
        clock: Monotonic seconds.
    """

    def __init__(self, window: int, clock: Callable[[], float]) -> None:
        self._window, self._clock = window, clock
        self._waiting = Turns()
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
        return self._interval * (self._waiting.ahead + len(self._inside))

    def enter(self, item: Item) -> None:
        """Has a picture wait for its turn."""
        self._waiting.add(item)

    def leave(self, item: Item) -> None:
        """Takes out a picture that still waits; one that is in the worker is finished for nobody."""
        self._waiting.remove(item)
        item.image = b""

    def hand_over(self) -> Iterator[tuple[int, Item]]:
        """Those that may go into the worker now, with their numbers.

        A picture on which a worker may have died goes in alone: if it kills again, it kills nobody else's.
        """
        while (item := self._waiting.first) is not None and len(self._inside) < self._window:
            crowded = item.suspect or any(inside.suspect for inside in self._inside.values())
            if self._inside and crowded:
                return
            self._waiting.take()
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
        self._waiting.put_back([item for item in lost if not item.suspect])
        hopeless = [item for item in lost if item.suspect]
        for item in lost:
            item.suspect = True
        return hopeless

    def clear(self) -> list[Item]:
        """Takes all out."""
        inside = list(self._inside.values())
        self._inside.clear()
        return [*inside, *self._waiting.clear()]
