"""What a worker says, taken apart in the turn of the loop in which it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pictune.serving.frames import Frame, FrameError, take_frame

Hear = Callable[[Frame], None]


class Hearing(asyncio.Protocol):
    """The server's end of a worker's socket.

    A `StreamReader` takes another turn of the loop for each frame, while somebody waits for an answer that is
    there already.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._came = bytearray()
        self._first: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()
        self._early: list[Frame] = []  # after the first, before somebody listened
        self._hear: Hear = self._early.append
        self._over = asyncio.Event()
        self._error: Exception | None = None

    async def first(self) -> Frame | None:
        """Waits for the first frame; None when none comes any more."""
        return await self._first

    async def listen(self, hear: Hear) -> None:
        """Hands on all frames after the first, until the worker is gone.

        Args:
            hear: Takes a frame; whatever it raises ends the connection, and is raised here.

        Raises:
            FrameError: When what the worker says is no frame.
            OSError: When its socket breaks.
        """
        early, self._hear = self._early, hear
        try:
            for frame in early:
                hear(frame)
            await self._over.wait()
        finally:
            self._hear = _unheard
        if self._error is not None:
            raise self._error

    def _take(self, frame: Frame) -> None:
        if self._first.done():
            self._hear(frame)
        else:
            self._first.set_result(frame)

    # As asyncio calls it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The socket is open."""
        transport.set_write_buffer_limits(high=0)  # or uvloop would write at the end of its turn only
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._came += data
        try:
            while not self._over.is_set() and (frame := take_frame(self._came)) is not None:
                self._take(frame)
        except Exception as error:
            self._end(error)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone."""
        if exc is None and self._came:
            exc = FrameError("the connection ended within a frame")
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if not self._over.is_set():
            self._error = error
            self._over.set()
        if not self._first.done():
            self._first.set_result(None)


def _unheard(frame: Frame) -> None:
    """Nobody waits for what a worker says while it is ended."""
