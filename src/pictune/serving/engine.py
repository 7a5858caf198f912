"""`Engine`: the worker of one artifact, and the line before it.

Every picture that is asked about gets exactly one answer: a `Reply` or a `Refusal`. It waits here, where it
can still be dropped, and only as many as keep the worker busy are in the worker. A worker that dies is
replaced, and what it had is asked once more; one that hangs is killed, which is the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pictune.errors import ArtifactError, MachineError
from pictune.serving.capacity import Capacity
from pictune.serving.frames import Frame, FrameError
from pictune.serving.line import Item, Line, Reply
from pictune.serving.refusals import Refusal
from pictune.serving.supervision import PROGRAM, Worker

__all__ = ["Engine", "Reply", "Watcher"]

DEATHS, WITHIN = 3, 60.0  # so many in so many seconds, and the engine gives up
GRACE = 5.0  # seconds for a worker to end by itself
LONGEST_RETRY = 60  # seconds that a client is told to wait at most

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Whoever counts what happens."""

    def worker_restarted(self, name: str, /) -> None:
        """A worker of this model died or hung, and is being replaced."""


class Engine:
    """Answers with one artifact, in a process of its own.

    Args:
        path: The artifact.
        name: Of the model, for logs and metrics.
        capacity: How much is taken on at a time.
        program: How a worker is started; see `pictune.serving.supervision.Worker.start`.
        watcher: Is told of restarts.
        given_up: Is called with the name when workers die too often; the server should end then.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        capacity: Capacity,
        program: Sequence[str] = PROGRAM,
        watcher: Watcher | None = None,
        given_up: Callable[[str], None] | None = None,
    ) -> None:
        self._path, self._name, self._capacity, self._program = path, name, capacity, program
        self._watcher, self._given_up = watcher, given_up
        self.state = "starting"
        self._description: Mapping[str, Any] = {}
        self._worker: Worker | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._pinned = -1
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._deaths: deque[float] = deque()
        self._turn: tuple[int, asyncio.TimerHandle] | None = None

    async def start(self) -> None:
        """Starts the worker and waits until it is ready.

        Raises:
            ArtifactError: When the artifact cannot be used.
            MachineError: When the system gives no process.
        """
        self._loop = asyncio.get_running_loop()
        self._line = Line(self._capacity.window, self._loop.time)
        # Should a worker have to be replaced after a new file was put in this one's place, it gets the same
        # artifact as before: only a reload takes up another.
        with suppress(OSError):  # what is wrong with it the worker says better
            self._pinned = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._take_on(await self._new_worker(self._path))
        except BaseException:
            self._unpin()
            raise
        self._keeper = asyncio.create_task(self._keep())

    async def _new_worker(self, path: Path) -> Worker:
        return await Worker.start(
            path,
            capacity=self._capacity,
            program=self._program,
            kept_open=() if self._pinned < 0 else (self._pinned,),
        )

    def _take_on(self, worker: Worker) -> None:
        self._worker, self._description = worker, worker.description
        if self.state != "draining":
            self.state = "ready"
        self._pump()

    @property
    def id(self) -> str:
        """Of the artifact that answers."""
        return str(self._description["id"])

    @property
    def ready(self) -> bool:
        """Whether there is a worker that has passed its self-test, and questions are taken."""
        return self.state == "ready"

    @property
    def description(self) -> dict[str, Any]:
        """Plain values for clients: id, task, classes, image_size, state, waiting."""
        return {**self._description, "state": self.state, "waiting": self._unanswered}

    def admit(self, count: int) -> None:
        """Refuses so many more pictures if there is no room for them, or no time.

        Raises:
            Refusal: 413 too_many_images; 503 queue_full, overloaded, draining or worker_lost.
        """
        if count > self._capacity.queue:
            raise Refusal(
                413, "too_many_images", f"At most {self._capacity.queue} pictures are taken at a time."
            )
        if self.state == "draining":
            raise _draining()
        if self.state == "given_up":
            raise _worker_lost()
        wait = self._line.patience
        retry = min(LONGEST_RETRY, max(1, math.ceil(wait)))
        if self._unanswered + count > self._capacity.queue:
            raise Refusal(503, "queue_full", "Too many pictures are waiting already.", retry_after=retry)
        if wait > self._capacity.deadline:
            raise Refusal(
                503, "overloaded", "The pictures that are waiting already take too long.", retry_after=retry
            )

    async def ask(
        self,
        image: bytes,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        party: object = None,
    ) -> Reply:
        """The answer about one picture. Cancelling drops it, unless the worker has it already.

        Args:
            image: The bytes of its file.
            top_k: See `pictune.exporting.exported.Exported.row`.
            threshold: See there.
            party: The same for all pictures of one request, which takes turns with others.

        Raises:
            Refusal: 422 with the code of a `DataError`; 503 queue_full, overloaded, draining, timeout,
                out_of_memory or worker_lost; 500 inference_failed or non_finite.
        """
        self.admit(1)
        item = Item(image, (top_k, threshold), self._loop.create_future(), self._loop.time(), party)
        timer = self._loop.call_later(self._capacity.deadline, item.settle, _timeout())
        self._unanswered += 1
        self._all_answered.clear()
        self._line.enter(item)
        try:
            self._pump()
            answer = await item.answer
        finally:
            timer.cancel()
            self._line.leave(item)
            self._unanswered -= 1
            if not self._unanswered:
                self._all_answered.set()
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def _pump(self) -> None:
        """Hands the worker what it can take."""
        if self._worker is not None:
            for number, item in self._line.hand_over():
                self._worker.send(Frame("ask", number, item.question, item.image))
            self._watch()

    def _watch(self) -> None:
        """Kills the worker when it sits over one picture for too long.

        Pictures are worked on in the order in which they came; so it is the oldest one's turn, and if that
        stays the oldest, the worker hangs, however busy it looks.
        """
        oldest = self._line.oldest
        if self._turn is not None and self._turn[0] != oldest:
            self._turn[1].cancel()
            self._turn = None
        if self._turn is None and oldest is not None:
            self._turn = oldest, self._loop.call_later(self._capacity.deadline, self._end_hanging)

    def _end_hanging(self) -> None:
        logger.warning("The worker of %s hangs and is killed", self._name)
        if self._worker is not None:
            self._worker.kill()

    async def _keep(self) -> None:
        """Listens to the worker; replaces it when it dies."""
        try:
            while self._worker is not None:
                await self._listen(self._worker)
                await self._worker.end()
                self._worker = await self._replacement()
                if self._worker is not None:
                    self._take_on(self._worker)
        except Exception:
            logger.exception("The engine of %s failed", self._name)
            self._give_up()

    async def _listen(self, worker: Worker) -> None:
        """Passes on what the worker says, until it is gone."""
        try:
            await worker.listen(partial(self._pass_on, model=str(worker.description["id"])))
        except (FrameError, OSError) as error:
            logger.warning("The worker of %s broke off: %s", self._name, error)

    def _pass_on(self, frame: Frame, model: str) -> None:
        number, answer = _read_answer(frame, model)
        item = self._line.take_back(number)
        if item is not None:
            if isinstance(answer, Reply):
                seconds = {"queue": item.handed - item.asked, **answer.seconds}
                answer = Reply(answer.row, answer.model, seconds)
            item.settle(answer)
        self._pump()

    async def _replacement(self) -> Worker | None:
        """A new worker after one has died; None when they die too often."""
        self._worker = None
        if self.state == "ready":
            self.state = "restarting"
        for item in self._line.recover():
            item.settle(_worker_lost())
        self._watch()
        while not self._died_too_often():
            logger.warning("The worker of %s died and is replaced", self._name)
            if self._watcher is not None:
                self._watcher.worker_restarted(self._name)
            try:
                return await self._same_again()
            except (ArtifactError, MachineError) as error:
                logger.warning("No worker of %s can be started: %s", self._name, error.message)
        self._give_up()
        return None

    async def _same_again(self) -> Worker:
        """A worker with the artifact that the last one had.

        Raises:
            ArtifactError: When it cannot be used any more, or its file was written over in place.
            MachineError: When the system gives no process.
        """
        worker = await self._new_worker(self._pinned_path)
        if worker.description["id"] != self.id:
            await worker.end()
            raise ArtifactError("its file was written over while it was served", code="changed")
        return worker

    def _died_too_often(self) -> bool:
        """Whether one death more is one too many."""
        now = self._loop.time()
        self._deaths.append(now)
        while self._deaths[0] < now - WITHIN:
            self._deaths.popleft()
        return len(self._deaths) >= DEATHS

    def _give_up(self) -> None:
        logger.critical("The workers of %s die too often: no more are started", self._name)
        self.state = "given_up"
        for item in self._line.clear():
            item.settle(_worker_lost())
        self._watch()
        if self._given_up is not None:
            self._given_up(self._name)

    async def close(self) -> None:
        """Takes no more questions, answers all that it has, and ends the worker; at once when cancelled."""
        if self._keeper is None:
            return
        if self.state != "given_up":
            self.state = "draining"
        grace = 0.0
        try:
            await self._all_answered.wait()
            grace = GRACE
        finally:
            ending = asyncio.create_task(self._end(self._keeper, grace))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                if self._worker is not None:
                    self._worker.kill()
                await asyncio.wait({ending})
                raise

    async def _end(self, keeper: asyncio.Task[None], grace: float) -> None:
        """Ends the worker and whoever keeps it; nothing is answered any more."""
        keeper.cancel()
        await asyncio.wait({keeper})
        if self._worker is not None:
            await self._worker.end(grace=grace)
        for item in self._line.clear():
            item.settle(_draining())
        self._watch()
        self._unpin()

    @property
    def _pinned_path(self) -> Path:
        return self._path if self._pinned < 0 else Path(f"/proc/self/fd/{self._pinned}")

    def _unpin(self) -> None:
        if self._pinned >= 0:
            os.close(self._pinned)
            self._pinned = -1


def _read_answer(frame: Frame, model: str) -> tuple[int, Reply | Refusal]:
    """What a worker says about the picture of a number.

    Raises:
        FrameError: When it says what workers never say.
    """
    if frame.kind == "row":
        decode, infer = frame.values
        if decode is None or infer is None:
            raise FrameError("the worker does not say how long it took")
        return frame.number, Reply(frame.payload, model, {"decode": decode, "infer": infer})
    try:
        said = json.loads(frame.payload)
        status, retry = int(said["status"]), said["retry_after"]
        refusal = Refusal(status, str(said["code"]), str(said["message"]), retry_after=retry)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FrameError("the worker gives no proper answer") from error
    return frame.number, refusal


def _draining() -> Refusal:
    return Refusal(503, "draining", "The server is shutting down.", retry_after=1)


def _worker_lost() -> Refusal:
    return Refusal(503, "worker_lost", "The process that worked on this picture died.", retry_after=1)


def _timeout() -> Refusal:
    return Refusal(503, "timeout", "This picture was not answered in time.", retry_after=1)
