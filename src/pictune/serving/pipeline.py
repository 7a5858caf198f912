"""The threads of a worker: from the bytes of pictures to rows of JSON."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.serving.capacity import DECODERS, Capacity
from pictune.serving.failing import NonFiniteError, refusal_of
from pictune.serving.frames import Frame
from pictune.serving.refusals import Refusal

if TYPE_CHECKING:
    from pictune.exporting.exported import Exported, Looked
    from pictune.exporting.runtimes import Arrays, Session

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """A picture on its way through a worker.

    Args:
        number: By which the server knows it.
        image: The bytes of its file; dropped once they are decoded.
        top_k: See `pictune.exporting.exported.Exported.row`.
        threshold: See there.
        decoded_in: Seconds that took.
    """

    number: int
    image: bytes
    top_k: int | None
    threshold: float | None
    decoded_in: float = 0.0
    looked: Looked | None = None

    @property
    def canvas(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        assert self.looked is not None
        return self.looked.canvas


class Sessions:
    """Two sessions of one network: all threads for a picture that is alone, a share of them in a crowd.

    Threads that compute one call wait for one another at the end of every layer. Where there is a picture for
    each share, shares that never wait answer more of them.

    Args:
        wide: Asks the network with all threads.
        narrow: Asks it with a share of them; called by several threads at a time.
        crowd: Pictures in the worker from which on the narrow one is asked.
    """

    def __init__(self, wide: Session, narrow: Session, *, crowd: int) -> None:
        self._wide, self._narrow, self._crowd = wide, narrow, crowd
        self._inside = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, exported: Exported, capacity: Capacity) -> Sessions:
        """Those that fit a capacity; the same twice where pictures are batched or nothing can be shared."""
        if capacity.calls == 1 or capacity.max_batch > 1:
            return cls(exported.run, exported.run, crowd=1)
        share = -(-capacity.threads // capacity.calls)
        narrow = type(exported).of(exported.artifact, threads=share)
        return cls(exported.run, narrow.run, crowd=capacity.calls)

    def enter(self) -> None:
        """One more picture is in the worker."""
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        """One of them is answered."""
        with self._lock:
            self._inside -= 1

    @property
    def alone(self) -> bool:
        """Whether there is but one picture in the worker."""
        return self._inside == 1

    def __call__(self, canvases: NDArray[np.uint8]) -> Arrays:
        """What the network gives; see `pictune.exporting.exported.Exported.run`."""
        return (self._narrow if self._inside >= self._crowd else self._wide)(canvases)


class Pipeline:
    """Decodes, asks the network and draws up answers, each at its own pace.

    A thread that opens pictures fetches them itself, and lets the next thread fetch before it begins: to be
    handed one by a thread that does nothing else takes longer.

    Args:
        exported: The model; its calls may come from several threads.
        capacity: How many threads and how large a batch.
        fetch: Waits for the next picture and gives it; None when no more will come. It is called by one
            thread at a time.
        send: Takes the answers, from any thread.
    """

    def __init__(
        self,
        exported: Exported,
        capacity: Capacity,
        *,
        fetch: Callable[[], Job | None],
        send: Callable[[Frame], None],
    ) -> None:
        self._exported, self._fetch, self._send = exported, fetch, send
        self._sessions = Sessions.of(exported, capacity)
        self._max_batch = capacity.max_batch
        self._fetching = threading.Lock()
        self._over = False  # whether the last picture was fetched
        self._decoded: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._decoders = [self._thread(self._decode, f"decode-{i}") for i in range(DECODERS)]
        self._callers = [self._thread(self._call, f"call-{i}") for i in range(capacity.calls)]

    def run(self) -> None:
        """Answers all pictures that there are to be fetched."""
        for thread in (*self._decoders, *self._callers):
            thread.start()
        for thread in self._decoders:
            thread.join()
        for _ in self._callers:
            self._decoded.put(None)
        for thread in self._callers:
            thread.join()

    def _thread(self, work: Callable[[], None], name: str) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException:
                # With one thread less the worker would fall silent; dead it is noticed and replaced.
                logger.exception("A worker's thread failed")
                os._exit(1)

        return threading.Thread(target=run, name=name, daemon=True)

    def _next(self) -> Job | None:
        with self._fetching:
            job = None if self._over else self._fetch()
            self._over = job is None
            if job is not None:
                self._sessions.enter()
            return job

    def _decode(self) -> None:
        while (job := self._next()) is not None:
            began = time.perf_counter()
            try:
                job.looked = self._exported.look(job.image)
            except Exception as error:  # whatever it is, it is this picture's own
                self._refuse(job, refusal_of(error))
                continue
            job.image = b""
            job.decoded_in = time.perf_counter() - began
            if self._sessions.alone:  # to wake another thread for it takes longer than not to be ready here
                self._answer([job])
            else:
                self._decoded.put(job)

    def _call(self) -> None:
        while jobs := self._ready():
            self._answer(jobs)

    def _ready(self) -> list[Job]:
        """Waits for a decoded picture and takes what else is ready; nothing at the end."""
        job = self._decoded.get()
        jobs = [] if job is None else [job]
        while jobs and len(jobs) < self._max_batch:
            try:
                job = self._decoded.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._decoded.put(None)  # meant for the thread; it is met again at the next turn
                break
            jobs.append(job)
        return jobs

    def _answer(self, jobs: Sequence[Job]) -> None:
        began = time.perf_counter()
        try:
            canvases = jobs[0].canvas[None] if len(jobs) == 1 else np.stack([job.canvas for job in jobs])
            arrays = self._sessions(canvases)
        except Exception as error:
            if len(jobs) == 1:
                self._refuse(jobs[0], refusal_of(error))
            else:  # one by one, so that only the culprit suffers
                for job in jobs:
                    self._answer([job])
            return
        seconds = time.perf_counter() - began
        for position, job in enumerate(jobs):
            own = {name: array[position : position + 1] for name, array in arrays.items()}
            try:
                row = self._row(job, own)
            except Exception as error:  # whatever it is, it is this picture's own
                self._refuse(job, refusal_of(error))
            else:
                self._tell(Frame("row", job.number, (job.decoded_in, seconds), row))

    def _row(self, job: Job, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        """The answer as JSON.

        Raises:
            NonFiniteError: When it holds what is no number.
            DataError: When the question does not fit the task.
        """
        assert job.looked is not None
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise NonFiniteError
        answer = self._exported.answer(arrays, job.looked)
        row = self._exported.row(answer, job.looked, top_k=job.top_k, threshold=job.threshold)
        try:
            return json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
        except ValueError:
            raise NonFiniteError from None

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        self._tell(refused_frame(job.number, refusal))

    def _tell(self, frame: Frame) -> None:
        self._sessions.leave()
        self._send(frame)


def refused_frame(number: int, refusal: Refusal) -> Frame:
    """Tells the server why a picture gets no answer."""
    said = {
        "status": refusal.status,
        "code": refusal.code,
        "message": refusal.message,
        "retry_after": refusal.retry_after,
    }
    return Frame("refused", number, payload=json.dumps(said).encode())
