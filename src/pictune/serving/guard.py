"""What stands before the application: who may speak to it from where, and what every answer has in common.

It is plain ASGI around the whole application, so that nothing is answered without it, whatever the path and
the method: not an unknown path, not DELETE, not OPTIONS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any
from urllib.parse import quote

from pictune.serving.bodies import ClientGone, too_large
from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import NOWHERE, Metrics
from pictune.serving.refusals import Refusal, guarded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("pictune.serving")
ACCESS = logging.getLogger("pictune.serving.access")
CLIENT_GONE = 499  # nobody gets this answer; it stands in the log and the numbers
MOST_SHOWN = 200  # characters of a path in the log

_HOST = r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?"
_NOT_OUR_NAME = "This server does not go by the name in the Host header; --allow-host adds one."
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(r"(?P<scheme>https?)://" + _HOST)
_PORTS = {"http": "80", "https": "443"}


class Guard:
    """The application behind its guard.

    Args:
        app: Answers.
        limits: The size of a body.
        hosts: Names, besides ``localhost``, by which the server may be called. Addresses always may be used:
            to make a browser take another site for ours, an attacker needs a name.
        metrics: Counts.
        draining: Whether the server is about to end.
    """

    def __init__(
        self,
        app: Application,
        *,
        limits: ServerLimits,
        hosts: Sequence[str],
        metrics: Metrics,
        draining: Callable[[], bool],
    ) -> None:
        self._app, self._limits, self._metrics, self._draining = app, limits, metrics, draining
        self._names = frozenset({"localhost", *(name.lower() for name in hosts)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        answer = _Answer(send, closing=self._draining)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        try:
            if refusal := self._refusal(scope["headers"]):
                await answer.refuse(refusal)
            else:
                await self._app(scope, receive, answer.send)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except ClientGone:
            answer.status = CLIENT_GONE
        except Exception:
            LOG.exception("request %s could not be answered", answer.request_id)
            await answer.refuse(internal())
        finally:
            # Once the answer has left: a loop such as uvloop sends it at the end of this turn.
            seconds = perf_counter() - started
            asyncio.get_running_loop().call_soon(self._note, scope, answer, seconds)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
        """Why a request is not let in, if so."""
        host: str | None = None
        origins = []
        length = 0
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origins.append(value.decode("latin-1").lower())
            elif name == b"content-length":
                length = int(value)
        if host is None:
            return Refusal(403, "host_not_allowed", "A request needs a Host header that names this server.")
        if not host_allowed(host, self._names):
            return Refusal(403, "host_not_allowed", _NOT_OUR_NAME)
        if not all(origin_allowed(origin, host, self._names) for origin in origins):
            return Refusal(403, "origin_not_allowed", "Pages of other sites may not ask this server.")
        return too_large(self._limits) if length > self._limits.body_bytes else None

    def _note(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        """One line in the log, without query, tokens and bodies; and the numbers."""
        status = answer.status or CLIENT_GONE
        self._metrics.request(getattr(scope.get("route"), "path", NOWHERE), scope["method"], status, seconds)
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        # What is no visible ASCII is percent-encoded in a raw path, or it would not be one.
        path = quote(raw[:MOST_SHOWN], safe="%/:@!$&'()*+,;=-._~")[:MOST_SHOWN]
        ACCESS.info(
            "%s %s %d %.1f ms %s", scope["method"][:20], path, status, seconds * 1000, answer.request_id
        )


class _Answer:
    """One answer on its way out."""

    def __init__(self, send: Send, *, closing: Callable[[], bool]) -> None:
        self._send, self._closing = send, closing
        self.request_id = secrets.token_hex(8)
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """Sends a part of it; the headers with those that all answers have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = guarded(message.get("headers", []), self.request_id)
            if self._closing():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Sends why there is no other answer, unless one has begun."""
        if self.status is not None:
            return
        body = refusal.body(self.request_id)
        await self.send(
            {"type": "http.response.start", "status": refusal.status, "headers": refusal.headers(body)}
        )
        await self.send({"type": "http.response.body", "body": body})


def internal() -> Refusal:
    """What a client hears of a fault of ours."""
    return Refusal(500, "internal", "Something went wrong in the server; its log says what.")


@lru_cache(maxsize=64)  # clients send the same one again and again
def host_allowed(host: str, names: frozenset[str]) -> bool:
    """Whether the server goes by this name.

    Args:
        host: The ``Host`` header, in lower case.
        names: That are allowed; addresses always are.
    """
    found = _AUTHORITY.fullmatch(host)
    return found is not None and (found["host"] in names or _is_address(found["host"]))


def origin_allowed(origin: str, host: str, names: frozenset[str]) -> bool:
    """Whether a page of this origin may ask.

    Args:
        origin: The ``Origin`` header, in lower case; ``null`` is refused.
        host: The ``Host`` header, in lower case. Its own pages may ask. The scheme may differ: something
            before the server may speak TLS.
        names: Whose pages may ask as well, as when something before the server changes the Host header.
    """
    page, ours = _ORIGIN.fullmatch(origin), _AUTHORITY.fullmatch(host)
    if page is None or ours is None:
        return False
    default = _PORTS[page["scheme"]]
    if (page["host"], page["port"] or default) == (ours["host"], ours["port"] or default):
        return True
    return page["host"] in names - {"localhost"}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
