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
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from pictune.serving.connections import Connections
from pictune.serving.deadline import Deadline
from pictune.serving.exchange import Exchange, written
from pictune.serving.incoming import Head, Incoming, Sign
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import NOWHERE, Metrics
from pictune.serving.refusals import Refusal, guarded

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState

ACCESS = logging.getLogger("pictune.serving.access")
PIECES = 1024  # chunks of a body that may be as small as they like
SMALL_CHUNK = 256  # bytes that the chunks beyond those must hold on average


class DeadlineProtocol(asyncio.Protocol):
    """One connection; see the top of this file.

    Args:
        config: Of uvicorn, which knows the application.
        server_state: What all connections of the server share.
        app_state: What the application has made at its start.
        _loop: That runs the connection.
    """

    house: Connections  # of the server; set by `protocol_with`
    limits: ServerLimits

    transport: asyncio.Transport
    flow: FlowControl
    cycle: Exchange | None = None  # of the last request whose head came whole

    _flush_timer: asyncio.TimerHandle | None = None  # for the client to take what was written
    _patience = 0.0  # seconds of that
    _speaking = False  # whether something of a request's headers came
    _lingered: int | None = None  # bytes thrown away since the refusal

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app: Any = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state, self._app_state = server_state, app_state
        self._asgi = {"version": config.asgi_version, "spec_version": "2.3"}
        self._incoming = Incoming(self.limits)
        self._deadline = Deadline(self.loop)  # of the state that the connection is in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came."""
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self.transport, self.flow = transport, FlowControl(transport)
        transport.set_write_buffer_limits(high=0)  # or uvloop would write at the end of its turn only
        self._addresses = get_local_addr(transport), get_remote_addr(transport)
        self._patience = self.limits.write_s
        if self.house.enter(self):
            self._await_request()
        else:
            self.refuse(_no_room())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        self._deadline.clear()
        self._arm_flush(None)
        self.house.leave(self)
        self.server_state.connections.discard(self)
        if self.cycle is not None:
            self.cycle.disconnect()
        self.flow.resume_writing()

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._lingered is not None:
            self._lingered += len(data)
            if self._lingered > self.limits.linger_bytes:
                self.transport.abort()
            return
        if self._ended:
            return  # it has had its last word, and is being answered
        self._deadline.hold()  # most requests come whole at once
        if self._idle and not self._speaking:
            self._speaking = True
            self._deadline.set(self.limits.header_s, self._headers_late)
        try:
            self._incoming.receive(data)
            self._go_on()
        finally:
            self._deadline.release()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    @property
    def _ended(self) -> bool:
        """Whether nothing more is listened to after the request that is being answered."""
        if self.cycle is None:
            return False
        return self.cycle.failure is not None or not (self.cycle.keep_alive or self.cycle.more_body)

    def _go_on(self) -> None:
        """Takes apart what came, as far as it goes."""
        going_on = True
        while going_on:
            try:
                said = self._incoming.next()
            except Refusal as refusal:
                self._fail(refusal)
                return
            if isinstance(said, bytes):
                going_on = self._take(said)
            elif isinstance(said, Head):
                going_on = self._begin(said)
            elif said is Sign.END:
                going_on = self._end()
            else:
                # The next request waits until this one is answered, and so does more than somebody asks for.
                if said is Sign.PAUSED or (self.cycle and self.cycle.unread > HIGH_WATER_LIMIT):
                    self.flow.pause_reading()
                going_on = False

    def _begin(self, head: Head) -> bool:
        """A request's headers are there; whether it is one to go on with."""
        self._speaking = False
        self.house.busy(self)
        if refusal := head.unfit(self.limits):
            self.refuse(refusal, body=head.method != b"HEAD")
            return False
        self.cycle = self._exchange(head)
        self._deadline.set(self.limits.body_s, self._body_late)
        task = self.loop.create_task(self.cycle.run(self.app))
        task.add_done_callback(self.server_state.tasks.discard)
        self.server_state.tasks.add(task)
        return True

    def _exchange(self, head: Head) -> Exchange:
        raw_path, _, query = head.target.partition(b"?")
        server, client = self._addresses
        scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": head.version.decode("ascii"),
            "server": server,
            "client": client,
            "scheme": "http",
            "method": head.method.decode("ascii"),
            "root_path": "",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.headers,
            "state": self._app_state.copy(),
        }
        return Exchange(
            scope,
            head,
            transport=self.transport,
            flow=self.flow,
            default_headers=self.server_state.default_headers,
            rest_bytes=self.limits.rest_bytes,
            answered=self._answered,
        )

    def _take(self, data: bytes) -> bool:
        """A part of the body came; whether more is wanted."""
        exchange = self.cycle
        assert exchange is not None
        exchange.take(data)
        # Each chunk costs time, whatever it holds.
        if exchange.pieces > PIECES + exchange.received // SMALL_CHUNK:
            self._fail(Refusal(400, "chunks_too_small", "The body comes in far too many small chunks."))
            return False
        return True

    def _end(self) -> bool:
        """The body is there whole; whether another request may follow already."""
        self._deadline.clear()
        assert self.cycle is not None
        self.cycle.end()
        if self.cycle.response_complete:  # nobody wanted the body, and now it is out of the way
            self._incoming.start_next()
            self._await_request()
            return True
        return self.cycle.keep_alive

    # What cannot go on

    def _headers_late(self) -> None:
        within = f"{self.limits.header_s:g} s"
        self.refuse(Refusal(408, "header_timeout", f"The headers did not come to an end within {within}."))

    def _body_late(self) -> None:
        within = f"{self.limits.body_s:g} s"
        self._fail(Refusal(408, "body_timeout", f"The body did not come to an end within {within}."))

    def _fail(self, refusal: Refusal) -> None:
        """The request that is coming in cannot be had whole."""
        if self.cycle is None or self._idle:
            self.refuse(refusal)
        elif self.cycle.response_complete:
            self._linger()
        else:
            self._deadline.clear()
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
        self.transport.write(written(refusal.status, headers) + (said if body else b""))
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

    def _answered(self) -> None:
        """An answer was written whole."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        assert self.cycle is not None
        if not self.cycle.keep_alive and self.cycle.more_body:
            self._linger()
        elif not self.cycle.keep_alive:
            self._close()
        else:
            self.flow.resume_reading()
            if not self.cycle.more_body:
                self._incoming.start_next()
                self._await_request()
                self._go_on()

    def _await_request(self) -> None:
        self.house.silent(self)
        self._speaking = bool(self._incoming.begun)
        if self._speaking:
            self._deadline.set(self.limits.header_s, self._headers_late)
        else:
            self._deadline.set(self.limits.idle_s, self._close)

    def _linger(self) -> None:
        """Says that this was the last word, and hears the client out for a moment without listening."""
        if self.transport.is_closing() or self._lingered is not None:
            return
        if not self.house.linger(self) or not self.transport.can_write_eof():
            self._close()
            return
        self._lingered = 0
        self._deadline.set(self.limits.linger_s, self.transport.abort)
        self.flow.resume_reading()
        self.transport.write_eof()  # after what is still to be written, which ends with the deadline

    def _close(self) -> None:
        """Closes once everything was written, or when the client does not take it."""
        self._deadline.clear()
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
        if self.cycle is None or self._idle:
            self._close()
        elif self.cycle.response_complete:
            self._linger()
        else:
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._deadline.set(min(self.limits.body_s, self.limits.closing_s), self._body_late)

    # Deadlines

    def _arm_flush(self, seconds: float | None) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._flush_timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        self.flow.pause_writing()
        self._arm_flush(self._patience)

    def resume_writing(self) -> None:
        """The client has taken most of what it was sent."""
        self.flow.resume_writing()
        if not self.transport.is_closing():  # what is left must still be taken in time
            self._arm_flush(None)


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
