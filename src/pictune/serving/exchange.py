"""One request and its answer, between a connection and the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import FlowControl

from pictune.serving.incoming import Head
from pictune.serving.refusals import Headers, Refusal

if TYPE_CHECKING:
    from pictune.serving.guard import Application, Message, Scope

LOG = logging.getLogger("pictune.serving")


class Exchange:
    """One request and its answer.

    The body is handed on as the application asks for it. When the rest of it cannot be had, the application
    hears why where it asks, so that it answers, counts and logs this as any other refusal.

    Args:
        scope: Of the request, as ASGI has it.
        head: Of the request.
        transport: Where the answer goes.
        flow: Of that.
        default_headers: Of every answer.
        rest_bytes: Of a body that nobody reads, up to which the connection is kept.
        answered: Is called when the answer was written whole.
    """

    def __init__(
        self,
        scope: Scope,
        head: Head,
        *,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: Headers,
        rest_bytes: int,
        answered: Callable[[], None],
    ) -> None:
        self.scope, self.transport, self.flow = scope, transport, flow
        self._default_headers, self._rest_bytes, self._answered = default_headers, rest_bytes, answered
        self._expected = head.length  # bytes of the body; None when only its end will tell
        self._expects_leave = head.expects_leave
        self.keep_alive = head.keeps_alive
        self.disconnected = False
        self.failure: Refusal | None = None
        # The body
        self._body: list[bytes] = []
        self._waiting = 0  # bytes of that
        self.more_body = True
        self.received = self.pieces = 0
        self._heard = asyncio.Event()  # there is news for whoever receives
        # The answer
        self.response_complete = False
        self._started: tuple[int, Headers] | None = None  # until the first piece of the body is there
        self._owed: int | None = None  # bytes of the body that are still to be sent; None when unknown

    # From the connection

    def take(self, data: bytes) -> None:
        """A piece of the body came."""
        self.received += len(data)
        self.pieces += 1
        if not self.response_complete:
            self._body.append(data)
            self._waiting += len(data)
            self._heard.set()

    def end(self) -> None:
        """The body is there whole."""
        self.more_body = False
        self._heard.set()

    @property
    def unread(self) -> int:
        """Bytes of a body that is not there whole and that nobody has asked for yet."""
        return self._waiting if self.more_body and not self.response_complete else 0

    def disconnect(self) -> None:
        """The client is gone."""
        self.disconnected = self.disconnected or not self.response_complete
        self._heard.set()

    def fail(self, refusal: Refusal) -> None:
        """Notes that the rest of the request cannot be had."""
        self.failure = refusal
        self.keep_alive = False
        self._heard.set()

    @property
    def _unwanted(self) -> bool:
        """Whether so much of the body may still come that the connection is better given up."""
        if not self.more_body:
            return False
        if self._expected is None or self._expects_leave:
            return True
        return self._expected - self.received > self._rest_bytes

    # With the application

    async def run(self, app: Application) -> None:
        """Runs the application; whatever it raises ends the connection, not the server."""
        try:
            await app(self.scope, self._receive, self._send)
        except Exception:
            # The guard around the application has answered and logged already, unless the answer had begun.
            LOG.exception("an answer could not be completed")
        except asyncio.CancelledError:
            LOG.warning("an answer was given up because the server went down")
        if not self.response_complete and not self.disconnected:
            self.transport.abort()

    async def _receive(self) -> Message:
        """What came of the body since the last call, or that the client is gone.

        Raises:
            Refusal: When the rest will not come.
        """
        if self._expects_leave and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects_leave = False
        if not (self.disconnected or self.response_complete or self.failure):
            # Even with the whole body there: that the client went away is heard only while reading.
            self.flow.resume_reading()
            await self._heard.wait()
            self._heard.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.failure is not None:
            raise self.failure
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body, self._waiting = [], 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def _send(self, message: Message) -> None:
        """Writes a part of the answer, once the client has taken what it was sent before.

        Raises:
            ValueError: When the answer is not as long as it says.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            # Headers and body leave together: one system call, and one packet where they fit.
            self._started = message["status"], list(message["headers"])
            return
        assert not self.response_complete
        output = self._begin(*self._started) if self._started is not None else b""
        more = message.get("more_body", False)
        output += self._piece(message.get("body", b""), last=not more)
        if not self.transport.is_closing():  # by a deadline; uvloop would raise
            self.transport.write(output)
        if not more:
            self.response_complete = True
            self._heard.set()
            self._answered()

    def _begin(self, status: int, headers: Headers) -> bytes:
        """The status line and the headers."""
        self._started = None
        fields = {name.lower(): value for name, value in headers}
        length = fields.get(b"content-length")
        self._owed = None if length is None else int(length)
        # Without its length, only the end of the connection tells where an answer ends.
        stays = length is not None and fields.get(b"connection") != b"close"
        self.keep_alive = self.keep_alive and stays and not self._unwanted
        if not self.keep_alive and b"connection" not in fields:
            headers.append((b"connection", b"close"))
        return written(status, [*self._default_headers, *headers])

    def _piece(self, data: bytes, *, last: bool) -> bytes:
        """A piece of the body as it goes out: to HEAD it stays away."""
        if self._owed is not None and self.scope["method"] != "HEAD":
            self._owed -= len(data)
            if self._owed < 0 or (last and self._owed):
                raise ValueError("the answer is not as long as it says")
        return b"" if self.scope["method"] == "HEAD" else data


def written(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The status line and the headers of an answer, as they go over the line.

    Args:
        status: A known one.
        headers: All of them.

    Raises:
        ValueError: When a header would be more than one line.
    """
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header of an answer is more than one line")
    return _status_line(status) + lines + b"\r\n"


@cache
def _status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
