"""What comes in is taken apart as h11 alone would, however it is cut into pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.serving.incoming import Head, Incoming, Sign
from pictune.serving.limits import ServerLimits
from pictune.serving.refusals import Refusal

LIMITS = ServerLimits()
POST = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n"
WORDS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    POST,
    b"POST /x HTTP/1.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 7, 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: keep-alive, Close\r\n",
    b"\r\n",
    b"\n",
    b" ",
    b"hello",
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
]
STARTS = [
    b"GET / HTTP/1.1",
    b"POST /a?b=c%20d HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET  / HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b"G(T / HTTP/1.1",
]
LINES = [
    b"HOST:\ta \t",
    b"Host : a",
    b"Host: \xe4",
    b"host:",
    b" folded",
    b"X-Odd!#$%&'*+.^_`|~: a\tb: c",
    b"X: \x00",
    b"X: a\nY: b",
    b": no name",
    b"no colon",
    b"Content-Length: 5",
    b"Content-Length:\t0\t",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 1_0",
    b"Content-Length: ",
    b"Content-Length: " + b"9" * 19,
    b"Content-Length: " + b"0" * 25,
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: identity",
    b"Expect: 100-continue",
    b"Upgrade: a",
    b"Connection: close",
]
HEAD = st.builds(
    lambda start, lines: [*start, *lines],
    st.sampled_from([[start, b"Host: a"] for start in STARTS] + [[STARTS[0]], [STARTS[1], b"Host: a"]]),
    st.lists(st.sampled_from(LINES) | st.binary(max_size=5), max_size=3),
)
STREAM = st.lists(st.sampled_from(WORDS) | st.binary(max_size=3), max_size=25).map(b"".join)


def by_h11(data: bytes) -> list[Any]:
    """What h11 by itself makes of all that a client sends, each request answered once it is there."""
    conn = h11.Connection(h11.SERVER, LIMITS.header_bytes)
    conn.receive_data(data)
    said: list[Any] = []
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError:
            return [*said, "refused"]
        if isinstance(event, h11.Request):
            headers = [(bytes(name).lower(), bytes(value)) for name, value in event.headers]
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
                return [*said, "refused"]
            if event.http_version not in (b"1.0", b"1.1"):
                return [*said, "refused"]
            said += [(event.method, event.target, headers, conn.they_are_waiting_for_100_continue), b""]
        elif isinstance(event, h11.Data):
            said[-1] += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            said.append("end")
            conn.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            conn.send(h11.EndOfMessage())
            if conn.our_state is not h11.DONE:
                return said
            conn.start_next_cycle()
        else:
            return said


def by_us(pieces: list[bytes]) -> list[Any]:
    """The same by what the server uses."""
    incoming = Incoming(LIMITS)
    said: list[Any] = []
    keeps_alive = True
    for piece in pieces:
        incoming.receive(piece)
        while True:
            try:
                thing = incoming.next()
            except Refusal:
                return [*said, "refused"]
            if isinstance(thing, Head):
                if thing.unfit(LIMITS):
                    return [*said, "refused"]
                said += [(thing.method, thing.target, thing.headers, thing.expects_leave), b""]
                keeps_alive = thing.keeps_alive
            elif isinstance(thing, bytes):
                assert thing
                said[-1] += thing
            elif thing is Sign.END:
                said.append("end")
                assert incoming.next() in (Sign.MORE, Sign.PAUSED)
                if not keeps_alive:
                    return said
                incoming.start_next()
            else:
                assert thing is Sign.MORE
                break
    return said


@settings(max_examples=1500, deadline=None)
@given(data=STREAM, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_whatever_comes_is_what_h11_makes_of_it(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[one:other] for one, other in pairwise(edges) if other > one]
    assert by_us(pieces) == by_h11(data)


@settings(max_examples=1500, deadline=None)
@given(lines=HEAD, rest=st.binary(max_size=9))
def test_whatever_head_comes_is_what_h11_makes_of_it(lines: list[bytes], rest: bytes) -> None:
    data = b"\r\n".join([*lines, b"", rest])
    assert by_us([data]) == by_h11(data)


@pytest.mark.parametrize("method", [b"GET", b"POST", b"BREW"])
def test_the_plainest_heads_need_no_h11(method: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = method + b" /a?b HTTP/1.1\r\nHost: a\r\nX-Y:\t z \r\nContent-Length: 2\r\n\r\nab"
    said = by_h11(data * 3)
    monkeypatch.delattr(h11, "Connection")
    assert by_us([data * 3]) == by_us([data] * 3) == said
    assert said[:3] == [
        (method, b"/a?b", [(b"host", b"a"), (b"x-y", b"z"), (b"content-length", b"2")], False),
        b"ab",
        "end",
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_requests_of_every_kind_after_one_another(size: int) -> None:
    data = (
        POST + b"Content-Length: 5\r\n\r\nhello"
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        + POST
        + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n"
        + POST
        + b"Content-Length: 0\r\nConnection: close\r\n\r\nwhat follows is not heard"
    )
    said = by_us([data[start : start + size] for start in range(0, len(data), size)])
    assert said[1::3] == [b"hello", b"", b"hello!", b""]
    assert said[2::3] == ["end"] * 4
    assert said == by_h11(data)


def test_the_length_is_told_where_it_is_known() -> None:
    lengths = []
    for header in (b"", b"Content-Length: 12\r\n", b"Transfer-Encoding: chunked\r\n"):
        incoming = Incoming(LIMITS)
        incoming.receive(POST + header + b"\r\n")
        head = incoming.next()
        assert isinstance(head, Head)
        lengths.append(head.length)
    assert lengths == [0, 12, None]


def test_a_next_request_waits_and_is_whole() -> None:
    incoming = Incoming(LIMITS)
    incoming.receive(POST + b"Content-Length: 2\r\n\r\nabGET / HTT")
    assert isinstance(incoming.next(), Head)
    assert [incoming.next() for _ in range(4)] == [b"ab", Sign.END, Sign.PAUSED, Sign.PAUSED]
    incoming.receive(b"P/1.1\r\nHost: a\r\n")
    assert incoming.next() is Sign.PAUSED
    incoming.start_next()
    assert incoming.next() is Sign.MORE
    assert incoming.begun == b"GET / HTTP/1.1\r\nHost: a\r\n"
    incoming.receive(b"\r\n")
    assert isinstance(incoming.next(), Head)
    assert incoming.next() is Sign.END
    assert incoming.next() is Sign.MORE
