"""HTTP/1.1 with deadlines: what uvicorn's protocol leaves open and no application can close.

A connection is, one after the other: *silent* (nothing of a request came yet), in its *headers*, in its
*body*, answered; then silent again. Each state has a deadline, and so has a client that does not take what it
is sent. Whoever is refused while it still sends hears why first: its bytes are read and thrown away
for a moment (*lingering*), since closing at once would destroy the answer on its way.

There is room for so many connections; a new one takes the place of the one that has been silent or in its
headers for longest. Only when all of them have a request is the new one refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import h11
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol

from pictune.serving.connections import Connections
from pictune.serving.exchange import Exchange
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import NOWHERE, Metrics
from pictune.serving.refusals import Refusal, guarded

ACCESS = logging.getLogger("pictune.serving.access")
PIECES = 1024  # chunks of a body that may be as small as they like
SMALL_CHUNK = 256  # bytes that the chunks beyond those must hold on average


class DeadlineProtocol(H11Protocol):
    """One connection; see the top of this file."""

    house: Connections  # of the server; set by `protocol_with`
    limits: ServerLimits
    cycle: Exchange

    _timer: asyncio.TimerHandle | None = None  # of the state that the connection is in
    _flush_timer: asyncio.TimerHandle | None = None  # for the client to take what was written
    _patience = 0.0  # seconds of that
    _speaking = False  # whether something of a request's headers came
    _lingered: int | None = None  # bytes thrown away since the refusal

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came."""
        super().connection_made(transport)
        self._patience = self.limits.write_s
        if self.house.enter(self):
            self._await_request()
        else:
            self.refuse(_no_room())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        self._arm(None)
        self._arm_flush(None)
        self.house.leave(self)
        super().connection_lost(exc)

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._lingered is not None:
            self._lingered += len(data)
            if self._lingered > self.limits.linger_bytes:
                self.transport.abort()
            return
        if self._failed or self.conn.their_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
            return  # it has had its last word, and is being answered
        if self._idle and not self._speaking:
            self._speaking = True
            self._arm(self.limits.header_s, self._headers_late)
        self.conn.receive_data(data)
        self.handle_events()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    @property
    def _failed(self) -> bool:
        return self.cycle is not None and self.cycle.failure is not None

    def handle_events(self) -> None:
        """Takes apart what came, as far as it goes."""
        going_on = True
        while going_on:
            try:
                event = self.conn.next_event()
            except h11.RemoteProtocolError as error:
                self._malformed(error)
                return
            if event is h11.PAUSED:
                self.flow.pause_reading()  # the next request waits until this one is answered
                going_on = False
            elif isinstance(event, h11.Request):
                going_on = self._begin(event)
            elif isinstance(event, h11.Data):
                going_on = self._take(event.data)
            elif isinstance(event, h11.EndOfMessage):
                going_on = self._end()
            else:
                going_on = False

    def _begin(self, request: h11.Request) -> bool:
        """A request's headers are there; whether it is one to go on with."""
        self._speaking = False
        self.house.busy(self)
        headers = [(bytes(name).lower(), bytes(value)) for name, value in request.headers]
        if refusal := _unfit(request, headers, self.limits):
            self.refuse(refusal, body=request.method != b"HEAD")
            return False
        self.cycle = self._exchange(request, headers)
        self._arm(self.limits.body_s, self._body_late)
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        return True

    def _exchange(self, request: h11.Request, headers: list[tuple[bytes, bytes]]) -> Exchange:
        raw_path, _, query = request.target.partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": request.http_version.decode("ascii"),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": request.method.decode("ascii"),
            "root_path": "",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        exchange = Exchange(
            scope=self.scope,
            conn=self.conn,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self.on_response_complete,
        )
        fields = dict(headers)
        exchange.expected = None if b"transfer-encoding" in fields else int(fields.get(b"content-length", 0))
        exchange.rest_bytes = self.limits.rest_bytes
        return exchange

    def _take(self, data: bytes | bytearray) -> bool:
        """A part of the body came; whether more is wanted."""
        exchange = self.cycle
        exchange.received += len(data)
        exchange.pieces += 1
        # Each chunk costs time, whatever it holds.
        if exchange.pieces > PIECES + exchange.received // SMALL_CHUNK:
            self._fail(Refusal(400, "chunks_too_small", "The body comes in far too many small chunks."))
            return False
        if not exchange.response_complete:
            exchange.body += data
            if len(exchange.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            exchange.message_event.set()
        return True

    def _end(self) -> bool:
        """The body is there whole; whether another request may follow already."""
        self._arm(None)
        self.cycle.more_body = False
        if self.cycle.response_complete:  # nobody wanted the body, and now it is out of the way
            self.conn.start_next_cycle()
            self._await_request()
            return True
        self.cycle.message_event.set()
        return self.conn.their_state is not h11.MUST_CLOSE

    # What cannot go on

    def _malformed(self, error: h11.RemoteProtocolError) -> None:
        """What came is not HTTP, or too long."""
        if error.error_status_hint == 431 and self._idle:
            line = self.conn.trailing_data[0].partition(b"\n")[0]
            self._fail(_url_too_long() if len(line) > self.limits.url_bytes else _headers_too_long())
        elif error.error_status_hint == 501:
            self._fail(Refusal(501, "transfer_encoding", "The only transfer encoding known is chunked."))
        else:
            self._fail(Refusal(400, "bad_request", "This is not a well-formed HTTP/1.1 request."))

    def _headers_late(self) -> None:
        within = f"{self.limits.header_s:g} s"
        self.refuse(Refusal(408, "header_timeout", f"The headers did not come to an end within {within}."))

    def _body_late(self) -> None:
        within = f"{self.limits.body_s:g} s"
        self._fail(Refusal(408, "body_timeout", f"The body did not come to an end within {within}."))

    def _fail(self, refusal: Refusal) -> None:
        """The request that is coming in cannot be had whole."""
        if self._idle:
            self.refuse(refusal)
        elif self.cycle.response_complete:
            self._linger()
        else:
            self._arm(None)
            self.cycle.fail(refusal)

    def refuse(self, refusal: Refusal, *, body: bool = True) -> None:
        """Answers where no application can, and ends the connection.

        Args:
            refusal: Why.
            body: Whether the client expects one.
        """
        if self.transport.is_closing() or self._lingered is not None:
            return
        request_id = secrets.token_hex(8)
        said = refusal.body(request_id)
        headers = guarded([*refusal.headers(said), (b"connection", b"close")], request_id)
        phrase = HTTPStatus(refusal.status).phrase.encode()
        lines = [b"HTTP/1.1 %d %s" % (refusal.status, phrase), *(b"%s: %s" % pair for pair in headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + (said if body else b""))
        self.house.metrics.request(NOWHERE, NOWHERE, refusal.status, 0.0)
        ACCESS.info("- - %d %s %s", refusal.status, refusal.code, request_id)
        self._linger()

    def evict(self) -> None:
        """Another connection needs the place of this one, which has no request."""
        if self.transport.get_write_buffer_size():
            self._close()
            # What was written in this turn of the loop leaves before the next; what is left then is dropped.
            self.loop.call_soon(self.transport.abort)
        elif self.cycle is None or self._speaking:
            self.refuse(_no_room())
        else:
            self._close()

    # What happens after an answer

    def on_response_complete(self) -> None:
        """An answer was written whole."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        over = not self.cycle.keep_alive or self.conn.our_state is not h11.DONE
        if over and self.cycle.more_body:
            self._linger()
        elif over:
            self._close()
        else:
            self.flow.resume_reading()
            if not self.cycle.more_body:
                self.conn.start_next_cycle()
                self._await_request()
                self.handle_events()

    def _await_request(self) -> None:
        self.house.silent(self)
        self._speaking = bool(self.conn.trailing_data[0])
        if self._speaking:
            self._arm(self.limits.header_s, self._headers_late)
        else:
            self._arm(self.limits.idle_s, self._close)

    def _linger(self) -> None:
        """Says that this was the last word, and hears the client out for a moment without listening."""
        if self.transport.is_closing() or self._lingered is not None:
            return
        if not self.house.linger(self) or not self.transport.can_write_eof():
            self._close()
            return
        self._lingered = 0
        self._arm(self.limits.linger_s, self.transport.abort)
        self.flow.resume_reading()
        self.transport.write_eof()  # after what is still to be written, which ends with the deadline

    def _close(self) -> None:
        """Closes once everything was written, or when the client does not take it."""
        self._arm(None)
        self.house.busy(self)
        self.transport.close()
        if self.transport.get_write_buffer_size() and self._flush_timer is None:
            self._arm_flush(self._patience)

    def shutdown(self) -> None:
        """The server goes down: no slow client may hold it."""
        self._patience = min(self._patience, self.limits.closing_s)
        if self._flush_timer is not None:
            self._arm_flush(self._patience)
        if self._lingered is not None:
            return
        if self._idle:
            self._close()
        elif self.cycle.response_complete:
            self._linger()
        else:
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._arm(min(self.limits.body_s, self.limits.closing_s), self._body_late)

    # Deadlines

    def _arm(self, seconds: float | None, late: Callable[[], Any] | None = None) -> None:
        """Sets the deadline of the state that begins, in place of that of the state that ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None or late is None else self.loop.call_later(seconds, late)

    def _arm_flush(self, seconds: float | None) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._flush_timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._arm_flush(self._patience)

    def resume_writing(self) -> None:
        """The client has taken most of what it was sent."""
        super().resume_writing()
        if not self.transport.is_closing():  # what is left must still be taken in time
            self._arm_flush(None)


def _unfit(request: h11.Request, headers: list[tuple[bytes, bytes]], limits: ServerLimits) -> Refusal | None:
    """Why a request cannot be heard, if so, from its headers alone."""
    if request.http_version not in (b"1.0", b"1.1"):
        return Refusal(505, "http_version", "This server speaks HTTP/1.1.")
    if len(request.target) > limits.url_bytes:
        return _url_too_long()
    size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > limits.header_bytes or len(headers) > limits.header_count:
        return _headers_too_long()
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
        return Refusal(400, "ambiguous_length", "Content-Length and Transfer-Encoding exclude each other.")
    return None


def _url_too_long() -> Refusal:
    return Refusal(414, "url_too_long", "The path is longer than any path of this server.")


def _headers_too_long() -> Refusal:
    return Refusal(431, "headers_too_long", "The headers are longer or more than this server reads.")


def _no_room() -> Refusal:
    return Refusal(503, "too_many_connections", "Too many connections are open; try again.", retry_after=1)


def protocol_with(limits: ServerLimits, metrics: Metrics) -> type[DeadlineProtocol]:
    """The protocol of one server.

    Args:
        limits: Sizes and deadlines.
        metrics: Counts connections, and requests that no application sees.
    """
    connections = Connections(limits, metrics)

    class Connection(DeadlineProtocol):
        house = connections

    Connection.limits = limits
    return Connection
