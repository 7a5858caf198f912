"""How answers are written, also those that an application should never make."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from pictune.serving.exchange import Exchange, written
from pictune.serving.incoming import Head

CLOSE = b"connection: close\r\n"


class Line:
    """A transport that notes what is written, and whether it was given up."""

    def __init__(self) -> None:
        self.said = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.said += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def answered(
    *parts: bytes,
    method: bytes = b"GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    version: bytes = b"1.1",
    asked: list[tuple[bytes, bytes]] | None = None,
) -> tuple[Line, Exchange]:
    """What goes over the line when an application answers with these parts."""
    line = Line()
    given = [(b"content-length", b"%d" % len(b"".join(parts)))] if headers is None else headers

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": given})
        for number, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    async def run() -> Exchange:
        transport: Any = line
        exchange = Exchange(
            {"method": method.decode()},
            Head(method, b"/", asked or [], version, 0, expects_leave=False),
            transport=transport,
            flow=FlowControl(transport),
            default_headers=[(b"date", b"today")],
            rest_bytes=100,
            answered=lambda: None,
        )
        exchange.end()
        await exchange.run(app)
        return exchange

    return line, asyncio.run(run())


def test_an_answer_in_parts_is_one_answer() -> None:
    line, exchange = answered(b"ab", b"", b"c")
    assert line.said == b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 3\r\n\r\nabc"
    assert exchange.keep_alive
    assert exchange.response_complete


def test_head_gets_the_headers_alone() -> None:
    line, _ = answered(b"abc", method=b"HEAD")
    assert line.said.endswith(b"content-length: 3\r\n\r\n")


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        (b"1.0", []),
        (b"1.0", [(b"connection", b"keep-alive")]),
        (b"1.1", [(b"connection", b"close")]),
        (b"1.1", [(b"connection", b"x, Close")]),
        (b"1.1", [(b"connection", b"keep-alive"), (b"connection", b"close")]),
    ],
)
def test_whoever_does_not_ask_again_is_told_that_the_line_ends(version: bytes, asked: Any) -> None:
    line, exchange = answered(b"abc", version=version, asked=asked)
    assert CLOSE in line.said
    assert not exchange.keep_alive


def test_an_answer_without_its_length_ends_with_the_line() -> None:
    line, exchange = answered(b"abc", headers=[])
    assert line.said.endswith(CLOSE + b"\r\nabc")
    assert not exchange.keep_alive


def test_an_application_may_end_the_line() -> None:
    line, exchange = answered(b"abc", headers=[(b"content-length", b"3"), (b"connection", b"close")])
    assert line.said.count(b"connection") == 1
    assert not exchange.keep_alive


@pytest.mark.parametrize("length", [b"2", b"4"])
def test_an_answer_of_another_length_than_it_says_is_given_up(
    length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    line, exchange = answered(b"ab", b"c", headers=[(b"content-length", length)])
    assert line.aborted
    assert not exchange.response_complete
    assert "not as long as it says" in caplog.text


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: b", b"a\nb", b"a\rb", b"a\r\n\r\nb"])
def test_no_header_is_more_than_one_line(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="more than one line"):
        written(200, [(b"x-model-id", value)])
    caplog.set_level(logging.CRITICAL)
    line, _ = answered(b"", headers=[(b"content-length", b"0"), (b"x", value)])
    assert line.aborted
    assert not line.said
