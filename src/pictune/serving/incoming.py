"""What a client sends, taken apart: one request after the other.

h11 reads every head, and bodies that come in chunks: leniency there is how requests are smuggled. A body that
tells its length beforehand is only counted. To have h11 look at each of its pieces as well took longer than
all else that a refusal needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import h11

from pictune.serving.limits import ServerLimits
from pictune.serving.refusals import Headers, Refusal


class Sign(Enum):
    """What there is besides heads and pieces of a body."""

    MORE = auto()  # nothing whole is there: more must come first
    END = auto()  # of the request
    PAUSED = auto()  # something of the next request is there, which waits for `Incoming.start_next`


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body.

    Args:
        method: As it was sent.
        target: Path and query, visible ASCII.
        headers: Names in lower case.
        version: Of HTTP, such as ``1.1``.
        length: Bytes of the body; None when only its end will tell.
        expects_leave: Whether the client waits for status 100 before it sends the body.
    """

    method: bytes
    target: bytes
    headers: Headers
    version: bytes
    length: int | None
    expects_leave: bool

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may ask again over the same connection."""
        wishes = [value.lower().split(b",") for name, value in self.headers if name == b"connection"]
        return self.version == b"1.1" and b"close" not in (word.strip() for wish in wishes for word in wish)

    def unfit(self, limits: ServerLimits) -> Refusal | None:
        """Why the request cannot be heard, if so."""
        if self.version not in (b"1.0", b"1.1"):
            return Refusal(505, "http_version", "This server speaks HTTP/1.1.")
        if len(self.target) > limits.url_bytes:
            return _url_too_long()
        size = len(self.target) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > limits.header_bytes or len(self.headers) > limits.header_count:
            return _headers_too_long()
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in self.headers}:
            return Refusal(
                400, "ambiguous_length", "Content-Length and Transfer-Encoding exclude each other."
            )
        return None


class Incoming:
    """Takes apart what comes over one connection.

    Args:
        limits: Of heads.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._conn = self._reader()
        self._left: int | None = None  # bytes of the body to come; None while h11 reads
        self._rest = b""  # what came and h11 is not to read
        self._heading = True  # whether a head is what comes next
        self._over = False  # whether the request was taken apart whole

    def _reader(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, self._limits.header_bytes)

    @property
    def begun(self) -> bytes:
        """What came of a head that is not whole."""
        return self._conn.trailing_data[0] + self._rest

    def receive(self, data: bytes) -> None:
        """Something came."""
        if self._heading:
            # What follows a head is not for h11, unless it comes in chunks: it need not be copied into it.
            head, end, data = data.partition(b"\r\n\r\n") if not self._rest else (b"", b"", data)
            self._conn.receive_data(head + end)
        elif self._left is None and not self._over:
            self._conn.receive_data(data)
            return
        self._rest = self._rest + data if self._rest else data

    def next(self) -> Head | bytes | Sign:
        """The next thing: a request's head, a piece of its body, or a sign.

        Raises:
            Refusal: When what came is no HTTP/1.1, or too long.
        """
        if self._over:
            return Sign.PAUSED if self._rest else Sign.MORE
        if self._left is not None:
            return self._counted(self._left)
        try:
            event = self._conn.next_event()
        except h11.RemoteProtocolError as error:
            raise self._refusal(error) from None
        if isinstance(event, h11.Request):
            return self._head(event)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            self._rest, self._over = self.begun, True
            return Sign.END
        return Sign.MORE

    def start_next(self) -> None:
        """The request was answered: what came after it is looked at."""
        self._conn, rest = self._reader(), self._rest
        self._left, self._rest = None, b""
        self._heading, self._over = True, False
        if rest:
            self.receive(rest)

    def _head(self, request: h11.Request) -> Head:
        self._heading = False
        headers = [(bytes(name).lower(), bytes(value)) for name, value in request.headers]
        fields = dict(headers)
        if b"transfer-encoding" not in fields:
            self._left, self._rest = int(fields.get(b"content-length", 0)), self.begun
        elif self._rest:
            self._conn.receive_data(self._rest)
            self._rest = b""
        return Head(
            method=request.method,
            target=request.target,
            headers=headers,
            version=request.http_version,
            length=self._left,
            expects_leave=self._conn.they_are_waiting_for_100_continue,
        )

    def _counted(self, left: int) -> bytes | Sign:
        if not left:
            self._over = True
            return Sign.END
        if not self._rest:
            return Sign.MORE
        piece, self._rest = self._rest[:left], self._rest[left:]
        self._left = left - len(piece)
        return piece

    def _refusal(self, error: h11.RemoteProtocolError) -> Refusal:
        if error.error_status_hint == 431 and self._heading:
            line = self.begun.partition(b"\n")[0]
            return _url_too_long() if len(line) > self._limits.url_bytes else _headers_too_long()
        if error.error_status_hint == 501:
            return Refusal(501, "transfer_encoding", "The only transfer encoding known is chunked.")
        return Refusal(400, "bad_request", "This is not a well-formed HTTP/1.1 request.")


def _url_too_long() -> Refusal:
    return Refusal(414, "url_too_long", "The path is longer than any path of this server.")


def _headers_too_long() -> Refusal:
    return Refusal(431, "headers_too_long", "The headers are longer or more than this server reads.")
