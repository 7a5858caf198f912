"""One request and its answer, between a connection and the application."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, RequestResponseCycle

from pictune.serving.refusals import Refusal

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent

LOG = logging.getLogger("pictune.serving")


class Exchange(RequestResponseCycle):
    """One request and its answer.

    The body is handed on as the application asks for it. When the rest of it cannot be had, the application
    hears why where it asks, so that it answers, counts and logs this as any other refusal.
    """

    expected: int | None = 0  # bytes of the body; None when only its end will tell
    received = 0
    pieces = 0
    rest_bytes = 0  # worth reading only to keep the connection
    failure: Refusal | None = None
    _head: ASGISendEvent | None = None

    def fail(self, refusal: Refusal) -> None:
        """Notes that the rest of the request cannot be had."""
        self.failure = refusal
        self.keep_alive = False
        self.message_event.set()

    @property
    def unwanted(self) -> bool:
        """Whether so much of the body may still come that the connection is better given up."""
        if not self.more_body:
            return False
        if self.expected is None or self.waiting_for_100_continue:
            return True
        return self.expected - self.received > self.rest_bytes

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Runs the application; whatever it raises ends the connection, not the server."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            # The guard around the application has answered and logged already, unless the answer had begun.
            LOG.exception("an answer could not be completed")
        except asyncio.CancelledError:
            LOG.warning("an answer was given up because the server went down")
        if not self.response_complete and not self.disconnected:
            self.transport.abort()

    async def receive(self) -> ASGIReceiveEvent:
        """What came of the body since the last call, or that the client is gone.

        Raises:
            Refusal: When the rest will not come.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            event = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(self.conn.send(event=event))
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete or self.failure):
            # Even with the whole body there: that the client went away is heard only while reading.
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.failure is not None:
            raise self.failure
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        """Writes a part of the answer, once the client has taken what it was sent before."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            assert not self.response_started
            # Headers and body leave together: one system call, and one packet where they fit.
            self.response_started, self._head = True, message
        elif message["type"] == "http.response.body":
            assert self.response_started
            assert not self.response_complete
            output = self._started() if self._head is not None else b""
            data = b"" if self.scope["method"] == "HEAD" else message.get("body", b"")
            output += self.conn.send(event=h11.Data(data=data))
            if not message.get("more_body", False):
                output += self.conn.send(event=h11.EndOfMessage())
                self.response_complete = True
                self.message_event.set()
            if not self.transport.is_closing():  # by a deadline; uvloop would raise
                self.transport.write(output)
            if self.response_complete:
                self.on_response()

    def _started(self) -> bytes:
        """The status line and the headers."""
        assert self._head is not None
        assert self._head["type"] == "http.response.start"
        status, headers = self._head["status"], list(self._head.get("headers", []))
        self._head = None
        self.keep_alive = self.keep_alive and not self.unwanted
        if not self.keep_alive and not any(name.lower() == b"connection" for name, _ in headers):
            headers.append((b"connection", b"close"))
        return self.conn.send(
            event=h11.Response(
                status_code=status,
                headers=[*self.default_headers, *headers],
                reason=STATUS_PHRASES[status],
            )
        )
