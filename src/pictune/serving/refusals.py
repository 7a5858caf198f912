"""`Refusal`: why a request gets no answer, as the client is told."""

from __future__ import annotations

import json
from collections.abc import Iterable

MOST_CHARACTERS = 300  # of a message; what a client sent is never repeated at length

Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault of ours
    """Why a request, or one picture of it, gets no answer.

    Args:
        status: The HTTP status, 400 to 599.
        code: A short stable name of the reason, such as ``queue_full``.
        message: One plain sentence; no path of the server, nothing of the client's at length.
        retry_after: Seconds after which the same request may well be answered.
        allow: The methods that the path knows, for status 405.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None, allow: str = ""
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code = status, code
        self.message = message if len(message) <= MOST_CHARACTERS else message[: MOST_CHARACTERS - 1] + "…"
        self.retry_after, self.allow = retry_after, allow

    def body(self, request_id: str) -> bytes:
        """The JSON object that the client gets, as a line."""
        said = {"code": self.code, "message": self.message, "request_id": request_id}
        return json.dumps({"error": said}).encode() + b"\n"

    def headers(self, body: bytes) -> Headers:
        """The headers that go with that body."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.allow:
            headers.append((b"allow", self.allow.encode("latin-1")))
        return headers


def guarded(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """Headers of an answer with those that every answer has; what is there already stays as it is."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    others: Iterable[tuple[bytes, bytes]] = ON_EVERY_ANSWER
    if not names.isdisjoint(_NAMES):
        others = [(name, value) for name, value in others if name not in names]
    return [*given, *others, (b"x-request-id", request_id.encode())]


#: An answer is data: nothing in it may run, be framed, be embedded by another site, or be stored.
ON_EVERY_ANSWER: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_NAMES = frozenset(name for name, _ in ON_EVERY_ANSWER)
