"""A request for predictions: from its headers to one answer a picture."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pictune.serving.bodies import Asked, BodyReader, ClientGone, HeaderPairs, Receive, media_type, read_asked
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import Metrics, classes_in
from pictune.serving.refusals import Refusal

# Bytes of a body that is taken apart in a thread, so that others are answered meanwhile; for smaller ones
# changing threads would take longer.
LARGE = 2**20


class Answer(Protocol):
    """What a model said of one picture."""

    @property
    def row(self) -> bytes:
        """One JSON object."""

    @property
    def model(self) -> str:
        """The id of the model that answered."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long it took, by stage."""


class Answering(Protocol):
    """The models, as the paths need them."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them; the first one answers where none is named."""

    @property
    def ready(self) -> bool:
        """Whether all of them can answer."""

    def describe(self, name: str) -> dict[str, Any]:
        """What there is to know of a model that exists."""

    def admit(self, name: str, count: int) -> None:
        """Raises a `Refusal` when there is no room for so many pictures."""

    async def ask(
        self, name: str, image: bytes, *, top_k: int | None, threshold: float | None, party: object
    ) -> Answer:
        """What a model says of a picture; raises a `Refusal` when it says nothing.

        All pictures of a request that has several belong to one party, which takes turns with others.
        """


class Predictor:
    """Answers requests for predictions.

    Args:
        shelf: The models.
        limits: Of bodies, pictures and time.
        metrics: Counts pictures.
    """

    def __init__(self, shelf: Answering, *, limits: ServerLimits, metrics: Metrics) -> None:
        self._shelf, self._limits, self._metrics = shelf, limits, metrics
        self._bodies = BodyReader(limits)

    async def predict(
        self, name: str, *, headers: HeaderPairs, query: bytes, receive: Receive, request_id: str
    ) -> tuple[bytes, str]:
        """What a model says of the pictures of one request.

        Args:
            name: Of a model that exists.
            headers: Of the request; names in lower case.
            query: Of its URL.
            receive: Gives its body, and then tells when the client is gone.
            request_id: Stands in the answer.

        Returns:
            One JSON object, and the id of the model that answered.

        Raises:
            Refusal: When there is no answer, or none at all of several.
            ClientGone: When nobody waits for it any more.
        """
        media = media_type(headers)
        # Whoever cannot be served hears so before a body is read for nothing.
        self._shelf.admit(name, 1)
        body = await self._bodies.read(receive)
        try:
            if len(body) > LARGE:
                asked = await asyncio.to_thread(read_asked, media, body, query, self._limits)
            else:
                asked = read_asked(media, body, query, self._limits)
            if len(asked.images) > 1:
                self._shelf.admit(name, len(asked.images))
            answers = await self._answers(receive, name, asked)
        finally:
            self._bodies.release(body)
        if not asked.several and isinstance(answers[0], Refusal):
            raise answers[0]
        return self._composed(answers, name, several=asked.several, request_id=request_id)

    async def _answers(self, receive: Receive, name: str, asked: Asked) -> list[Answer | Refusal]:
        """What is said of each picture, in their order; nothing is left running.

        Raises:
            ClientGone: When nobody waits for it any more.
        """
        if len(asked.images) == 1:  # as most are: every task more is time that all of them wait
            try:
                async with asyncio.timeout(self._limits.request_s), _WhileThere(receive):
                    return [await self._ask(name, asked.images[0], asked)]
            except TimeoutError:
                return [self._late(name)]
        tasks = [asyncio.create_task(self._ask(name, image, asked)) for image in asked.images]
        try:
            with suppress(TimeoutError):  # what was answered until then is
                async with asyncio.timeout(self._limits.request_s), _WhileThere(receive):
                    await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        faults = [task.exception() for task in tasks if not task.cancelled()]
        for fault in filter(None, faults):
            raise fault
        return [self._late(name) if task.cancelled() else task.result() for task in tasks]

    def _late(self, name: str) -> Refusal:
        """What is said of a picture that was not answered in time, counted."""
        refusal = Refusal(503, "timeout", "The answer took too long.", retry_after=1)
        self._count(name, refusal)
        return refusal

    async def _ask(self, name: str, image: bytes | Refusal, asked: Asked) -> Answer | Refusal:
        """What is said of one picture, counted."""
        answer: Answer | Refusal
        party = asked if len(asked.images) > 1 else None
        try:
            if isinstance(image, Refusal):
                raise image
            answer = await self._shelf.ask(
                name, image, top_k=asked.top_k, threshold=asked.threshold, party=party
            )
        except Refusal as refusal:
            answer = refusal
        # Nobody has to wait for the counting.
        asyncio.get_running_loop().call_soon(self._count, name, answer)
        return answer

    def _count(self, name: str, answer: Answer | Refusal) -> None:
        if isinstance(answer, Refusal):
            self._metrics.picture(name, answer.code)
        else:
            self._metrics.picture(name, "answered", answer.seconds)
            self._metrics.classes(name, classes_in(answer.row))

    def _composed(
        self, answers: Sequence[Answer | Refusal], name: str, *, several: bool, request_id: str
    ) -> tuple[bytes, str]:
        """The answers as one JSON object in a line, into which rows go as they are; and the model's id.

        Raises:
            Refusal: When the server failed for every one of several pictures, or an option makes no sense.
        """
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        whole = [refusal.status >= 500 or refusal.code == "threshold_not_used" for refusal in refusals]
        if len(refusals) == len(answers) and all(whole):
            raise refusals[0]
        model = next((answer.model for answer in answers if not isinstance(answer, Refusal)), None)
        model = model or str(self._shelf.describe(name)["id"])
        rows = [_refused(answer) if isinstance(answer, Refusal) else _row(answer) for answer in answers]
        if several:
            said = b'"predictions":[' + b",".join(rows) + b'],"errors":%d' % len(refusals)
        else:
            said = b'"prediction":' + rows[0]
        head = json.dumps({"request_id": request_id, "model": {"name": name, "id": model}}).encode()
        return head[:-1] + b"," + said + b"}\n", model


def _row(answer: Answer) -> bytes:
    """The row with the id of the model that made it: between two pictures of a request it may be swapped."""
    head = json.dumps({"model_id": answer.model}).encode()
    return head if answer.row == b"{}" else head[:-1] + b"," + answer.row[1:]


def _refused(refusal: Refusal) -> bytes:
    return json.dumps({"error": {"code": refusal.code, "message": refusal.message}}).encode()


class _WhileThere:
    """Gives up what is done within once the client is gone, as `asyncio.timeout` does once time is over.

    Args:
        receive: Tells when the client is gone.

    Raises:
        ClientGone: At the end, when it is.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        """Begins to watch the client."""
        task = asyncio.current_task()
        assert task is not None
        self._task, self._before = task, task.cancelling()
        # First things first: what is done within begins before somebody watches.
        self._begin = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._watch = asyncio.create_task(_until_gone(self._receive))
        self._watch.add_done_callback(self._noticed)

    def _noticed(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            self._gone = True
            self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stops watching."""
        self._begin.cancel()
        if self._watch is None:
            return
        self._watch.remove_done_callback(self._noticed)
        self._watch.cancel()
        if self._gone and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise ClientGone from self._watch.exception()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
