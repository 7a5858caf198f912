"""What a client sends, taken apart: one request after the other.

h11 reads heads, and bodies that come in chunks: leniency there is how requests are smuggled. A body that
tells its length beforehand is only counted. To have h11 look at each of its pieces as well took longer than
all else that a refusal needs.

Half of what remained was h11 reading the head. So the plainest heads, which are most, are read by one
pattern: those that came at once and in which every line is beyond doubt. Whatever else comes is for h11; a
test has both read the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

import h11

from pictune.serving.limits import ServerLimits
from pictune.serving.refusals import Headers, Refusal

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PLAIN = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.1((?:\r\n%b:[\t\x20-\x7e]*)+)" % (_TOKEN, _TOKEN))
_FIELD = re.compile(rb"(%b):([\t\x20-\x7e]*)" % _TOKEN)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_NEVER_PLAIN = frozenset({b"transfer-encoding", b"expect", b"upgrade"})  # they change what follows


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


def plain_head(data: bytes) -> Head | None:
    """A head in which nothing is in doubt; None when h11 has to read it.

    Args:
        data: All of it, without the empty line at its end.
    """
    found = _PLAIN.fullmatch(data)
    if found is None:
        return None
    method, target, lines = found.groups()
    headers = [(name.lower(), value.strip(b" \t")) for name, value in _FIELD.findall(lines)]
    names = [name for name, _ in headers]
    fields = dict(headers)
    length = fields.get(b"content-length", b"0")
    once = names.count(b"host") == 1 and names.count(b"content-length") <= 1
    if not once or not _NEVER_PLAIN.isdisjoint(fields) or _LENGTH.fullmatch(length) is None:
        return None
    return Head(method, target, headers, b"1.1", int(length), expects_leave=False)


class Incoming:
    """Takes apart what comes over one connection.

    Args:
        limits: Of heads.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._h11: h11.Connection | None = None  # of one request, once it is needed
        self._plain: Head | None = None  # that came and was not taken yet
        self._left: int | None = None  # bytes of the body to come; None while h11 reads
        self._rest = b""  # what came and h11 is not to read
        self._heading = True  # whether a head is what comes next
        self._over = False  # whether the request was taken apart whole

    @property
    def _conn(self) -> h11.Connection:
        if self._h11 is None:
            self._h11 = h11.Connection(h11.SERVER, self._limits.header_bytes)
        return self._h11

    @property
    def begun(self) -> bytes:
        """What came of a head that is not whole."""
        return self._rest if self._h11 is None else self._h11.trailing_data[0] + self._rest

    def receive(self, data: bytes) -> None:
        """Something came."""
        if self._heading and self._plain is None:
            # What follows a head is not for h11, unless it comes in chunks: it need not be copied into it.
            head, end, data = data.partition(b"\r\n\r\n") if not self._rest else (b"", b"", data)
            if end and self._h11 is None:
                self._plain = plain_head(head)
            if self._plain is None:
                self._conn.receive_data(head + end)
        elif self._left is None and self._plain is None and not self._over:
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
        if self._plain is not None:
            head, self._plain = self._plain, None
            self._heading, self._left = False, head.length
            return head
        return Sign.MORE if self._h11 is None else self._by_h11(self._h11)

    def start_next(self) -> None:
        """The request was answered: what came after it is looked at."""
        self._h11, rest = None, self._rest
        self._left, self._rest = None, b""
        self._heading, self._over = True, False
        if rest:
            self.receive(rest)

    def _by_h11(self, conn: h11.Connection) -> Head | bytes | Sign:
        try:
            event = conn.next_event()
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
