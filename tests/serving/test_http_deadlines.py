"""Clients that are slow, silent, too many or gone; limits are made small, and their effect is waited for."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Client, Decoding, Got, Server, closed, read, serving, until
from odd_pictures import JPEG

from pictune.serving.limits import RESERVED, ServerLimits

HOST = b"Host: localhost\r\n"
POST = b"POST /v1/predict HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\n"
LIVE = b"GET /v1/health/live HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, it is no fault of the server."""
    yield
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def numbers(server: Server) -> str:
    return server.metrics.text(classes=False).decode()


def dribble(line: socket.socket, data: bytes, *, every: float = 0.02) -> None:
    """Sends byte by byte until the server has enough of it."""
    for byte in data:
        try:
            line.sendall(bytes([byte]))
        except OSError:
            return
        time.sleep(every)


def send_without_end(line: socket.socket, size: int, *, pause: float) -> None:
    """Sends so much again and again."""
    while True:
        line.sendall(bytes(size))
        time.sleep(pause)


def ask_without_end(server: Server) -> None:
    """Asks again and again."""
    while True:
        server.ask("GET", "/v1/health/live")
        time.sleep(0.01)


# 110: slow and silent


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost: loc", b"GET / HTTP/1.1\r\n" + HOST])
def test_110_headers_that_do_not_end(data: bytes) -> None:
    with serving(header_s=0.3, idle_s=0.3) as server, server.connect() as line:
        line.sendall(data)
        answer = closed(line)
        assert answer.startswith(b"HTTP/1.1 408 ") == bool(data)
        assert (b"header_timeout" in answer) == bool(data)
        assert server.picture(JPEG).status == 200


def test_110_headers_byte_by_byte_get_no_more_time() -> None:
    with serving(header_s=0.4, idle_s=60) as server, server.connect() as line:
        sending = threading.Thread(target=dribble, args=(line, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9999))
        sending.start()
        answer = read(line)
        assert (answer.status, answer.code, answer.headers["connection"]) == (408, "header_timeout", "close")
        line.close()
        sending.join(20)
        assert not sending.is_alive()


def test_110_a_body_byte_by_byte_gets_no_more_time() -> None:
    with serving(body_s=0.4) as server, server.connect() as line:
        line.sendall(POST + b"Content-Length: 9999\r\n\r\n")
        sending = threading.Thread(target=dribble, args=(line, bytes(9999)))
        sending.start()
        answer = read(line)
        assert (answer.status, answer.code, answer.headers["connection"]) == (408, "body_timeout", "close")
        line.close()
        sending.join(20)
        assert 'path="/v1/predict",status="408"} 1.0' in numbers(server)
        assert server.shelf.asked == 0


def test_110_a_body_that_stops_in_its_middle() -> None:
    with serving(body_s=0.3) as server, server.connect() as line:
        line.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + bytes(100))
        assert read(line).code == "body_timeout"
        assert closed(line) == b""


def test_110_a_connection_is_kept_for_a_while_and_closed_when_silent() -> None:
    with serving(idle_s=0.5) as server, server.connect() as line:
        for _ in range(3):
            line.sendall(LIVE)
            answer = read(line)
            assert answer.status == 200
            assert "connection" not in answer.headers
        assert closed(line) == b""
        assert "pictune_connections 0.0" in numbers(server)


def test_110_a_request_may_take_longer_than_a_silence() -> None:
    with serving(idle_s=0.1, header_s=0.1, body_s=0.1) as server:
        server.shelf.hold.clear()
        threading.Timer(0.6, server.shelf.hold.set).start()
        assert server.picture(JPEG).status == 200


def test_110_whoever_is_refused_and_goes_on_sending_is_cut_off() -> None:
    with serving(linger_s=0.3) as server, server.connect() as line:
        line.sendall(POST + b"Content-Length: 99999999\r\n\r\n")
        assert read(line).status == 413
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_without_end(line, 1000, pause=0.02)


def test_110_whoever_is_refused_may_not_send_without_end() -> None:
    with serving(linger_s=60, linger_bytes=100_000) as server, server.connect() as line:
        line.sendall(POST + b"Content-Length: 99999999\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_without_end(line, 100_000, pause=0.0)


def test_110_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    row = {"labels": [], "confidences": {}, "note": "x" * 8_000_000}
    with serving(Decoding(row=row), write_s=0.3) as server:
        with server.connect() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
            until(lambda: server.shelf.asked == 1)
            until(lambda: "pictune_connections 0.0" in numbers(server))
        assert len(server.picture(JPEG).body) > 8_000_000


def test_110_two_requests_at_once_are_answered_in_turn() -> None:
    with serving() as server, server.connect() as line:
        post = POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
        line.sendall(post + LIVE + post)
        said = closed_after(line, 3)
        assert re.findall(rb'HTTP/1.1 (\d+)|"(live|prediction)"', said) == [
            (b"200", b""),
            (b"", b"prediction"),
            (b"200", b""),
            (b"", b"live"),
            (b"200", b""),
            (b"", b"prediction"),
        ]


def test_110_the_rest_of_a_large_body_that_was_refused_does_not_stop_the_reading() -> None:
    with serving(idle_s=60, body_s=60) as server, server.connect() as line:
        until(lambda: server.uvicorn.server_state.connections)
        (connection,) = server.uvicorn.server_state.connections
        head = POST.replace(b"image", b"video") + b"Content-Length: 150000\r\n\r\n"
        # So much in one piece that the reading stops until somebody wants it, which nobody does.
        connection.loop.call_soon_threadsafe(connection.data_received, head + bytes(100_000))
        assert read(line).status == 415
        line.sendall(bytes(50_000))
        until(lambda: not connection.cycle.more_body)
        line.sendall(LIVE)
        assert read(line).status == 200


def closed_after(line: socket.socket, answers: int) -> bytes:
    """What was said until so many answers were there."""
    said = b""
    while len(re.findall(rb"\r\n\r\n\{.*?\}\n(?=HTTP|\Z)", said, re.DOTALL)) < answers:
        part = line.recv(65536)
        assert part
        said += part
    return said


# 111: too many


def test_111_the_longest_silent_connection_makes_room() -> None:
    with serving(connections=4, idle_s=60) as server:
        silent = [server.connect() for _ in range(4)]
        until(lambda: "pictune_connections 4.0" in numbers(server))
        assert server.picture(JPEG).status == 200
        assert read(silent[0]).code == "too_many_connections"
        silent[3].sendall(LIVE)
        assert read(silent[3]).status == 200
        for line in silent:
            line.close()


def test_111_a_connection_with_a_request_keeps_its_place() -> None:
    with serving(connections=2, idle_s=60) as server:
        server.shelf.hold.clear()
        busy = [server.connect() for _ in range(2)]
        for line in busy:
            line.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
        until(lambda: server.shelf.waiting == 2)
        refused = server.ask("GET", "/v1/health/live")
        assert (refused.status, refused.code) == (503, "too_many_connections")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        assert "pictune_connections_refused_total 1.0" in numbers(server)
        server.shelf.hold.set()
        for line in busy:
            assert read(line).status == 200
            line.close()
        until(lambda: server.ask("GET", "/v1/health/live").status == 200)


class Process(Client):
    """A server in a process of its own."""

    def __init__(self, **settings: Any) -> None:
        script = Path(__file__).with_name("http_server.py")
        self.process = subprocess.Popen(
            [sys.executable, script, json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        super().__init__(int(self.process.stdout.readline()))

    def end(self) -> str:
        """What it said on stderr until it was asked to end."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=20)[1]


@contextlib.contextmanager
def many(server: Client, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing; as many files as that may be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    lines: list[socket.socket] = []
    try:
        for number in range(count):
            lines.append(server.connect())
            if number % 8 == 7:  # a full backlog would cost a second
                time.sleep(0.005)
        yield lines
    finally:
        for line in lines:
            line.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("descriptors", [4096, 100], ids=["room", "few files"])
def test_111_good_requests_among_1000_idle_connections(descriptors: int) -> None:
    server = Process(descriptors=descriptors, limits={"idle_s": 60})
    try:
        with many(server, 1000):
            for _ in range(5):
                assert server.picture(JPEG).status == 200
        assert server.picture(JPEG).status == 200
    finally:
        said = server.end()
    assert "Traceback" not in said
    assert server.process.returncode in {0, -signal.SIGTERM}


def test_111_without_a_file_left_it_lives_and_goes_on() -> None:
    # More connections are allowed than there are files: the limit is not the one that holds.
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
    script += "import asyncio, http_server; from pictune.serving.limits import ServerLimits; "
    script += "ServerLimits.fitted = lambda self, files: self; sys.argv = ['x', sys.argv[1]]; "
    script += "http_server.run(http_server.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps({"limits": {"idle_s": 60}})],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        server = Client(int(process.stdout.readline()))
        with many(server, 100) as lines:
            time.sleep(0.3)
            assert process.poll() is None
            ended = sum(map(_ended, lines))
            assert 60 < ended < 100, "those without a file are ended at once, the others stay"
        until(lambda: _answered(server))
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1]
    assert "Traceback" not in said


def _answered(server: Client) -> bool:
    """Whether a picture is answered; until files are free again, connections are reset."""
    with contextlib.suppress(ConnectionError):
        return server.picture(JPEG).status == 200
    return False


def _ended(line: socket.socket) -> bool:
    """Whether the server has closed a connection."""
    line.setblocking(False)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_111_connections_never_outnumber_the_files() -> None:
    for descriptors in (1, 64, 100, 256, 1024, 2**20):
        limits = ServerLimits().fitted(descriptors)
        assert 1 <= limits.backlog <= 128
        assert 1 <= limits.connections <= 256
        # Those that are open, those that are accepted at one go, and those that hear why they are refused.
        assert limits.connections + 2 * limits.backlog <= max(descriptors - RESERVED, 8)
    assert ServerLimits().fitted(2**20) == ServerLimits()


# 112: gone


@pytest.mark.parametrize("size", [len(JPEG), 500_000], ids=["small", "large"])
@pytest.mark.parametrize("way", ["close", "reset"])
def test_112_a_client_that_goes_while_it_waits(size: int, way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving() as server:
        server.shelf.hold.clear()
        line = server.connect()
        line.sendall(POST + b"Content-Length: %d\r\n\r\n" % size + JPEG + bytes(size - len(JPEG)))
        until(lambda: server.shelf.waiting == 1)
        if way == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.close()
        until(lambda: server.shelf.dropped == 1)
        until(lambda: [record for record in caplog.records if record.name == "pictune.serving.access"])
        assert server.shelf.waiting == 0
        told = [record.getMessage() for record in caplog.records if record.name.startswith("pictune")]
        assert len(told) == 1
        assert re.match(r"POST /v1/predict 499 ", told[0])
        assert 'path="/v1/predict",status="499"} 1.0' in numbers(server)
        server.shelf.hold.set()
        assert server.picture(JPEG).status == 200


def test_112_a_client_that_goes_after_a_large_body_that_came_at_one_go() -> None:
    with serving() as server:
        server.shelf.hold.clear()
        with server.connect():
            until(lambda: server.uvicorn.server_state.connections)
            (connection,) = server.uvicorn.server_state.connections
            # How much a socket gives at a time is chance; so much at once stops the reading for a while.
            whole = POST + b"Content-Length: 150000\r\n\r\n" + JPEG + bytes(150_000 - len(JPEG))
            connection.loop.call_soon_threadsafe(connection.data_received, whole)
            until(lambda: server.shelf.waiting == 1)
        until(lambda: server.shelf.dropped == 1)


def test_112_a_client_that_goes_with_several_pictures() -> None:
    images = [base64.b64encode(JPEG).decode()] * 5
    body = json.dumps({"images": images}).encode()
    with serving() as server:
        server.shelf.hold.clear()
        with server.connect() as line:
            line.sendall(
                b"POST /v1/predict HTTP/1.1\r\n"
                + HOST
                + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            until(lambda: server.shelf.waiting == 5)
        until(lambda: server.shelf.dropped == 5)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTT",
        POST + b"Content-Length: 1000\r\n\r\n" + bytes(10),
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        POST + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
    ],
    ids=["headers", "body", "chunk", "expecting"],
)
def test_112_a_client_that_goes_in_the_middle_of_its_request(data: bytes) -> None:
    with serving() as server:
        for _ in range(20):
            with server.connect() as line:
                line.sendall(data)
        until(lambda: "pictune_connections 0.0" in numbers(server))
        assert server.shelf.asked == 0
        assert server.picture(JPEG).status == 200


def test_112_a_client_that_goes_while_it_is_answered() -> None:
    row = {"labels": [], "confidences": {}, "note": "x" * 4_000_000}
    with serving(Decoding(row=row)) as server:
        for _ in range(5):
            with server.connect() as line:
                line.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
                assert line.recv(10)
        until(lambda: "pictune_connections 0.0" in numbers(server))
        assert server.picture(JPEG).status == 200


@pytest.mark.parametrize(
    "data",
    [b"NONSENSE\r\n\r\n", POST.replace(b"image", b"video") + b"Content-Length: 999999\r\n\r\nhel"],
    ids=["by the protocol", "by the application"],
)
def test_112_a_client_that_is_gone_before_it_is_refused(data: bytes) -> None:
    with serving() as server:
        for _ in range(50):
            with server.connect() as line:
                line.sendall(data)
        until(lambda: "pictune_connections 0.0" in numbers(server))
        assert server.picture(JPEG).status == 200


# The end


def test_slow_clients_do_not_hold_a_server_that_ends() -> None:
    with serving(idle_s=60, header_s=60, body_s=60, closing_s=0.3, linger_s=0.3) as server:
        lines = [server.connect() for _ in range(30)]
        for number, line in enumerate(lines):
            if number % 3:
                line.sendall(b"GET / HT" if number % 3 == 1 else POST + b"Content-Length: 99\r\n\r\nx")
        until(lambda: "pictune_connections 30.0" in numbers(server))
        server.stop()
        for number, line in enumerate(lines):
            said = closed(line)
            if number % 3 == 2:
                assert said.startswith(b"HTTP/1.1 408 ")
            line.close()


def test_a_line_that_is_said_to_be_closed_is_closed() -> None:
    with serving(idle_s=60) as server, server.connect() as line:
        server.draining = True
        line.sendall(LIVE)
        answer = read(line)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert closed(line) == b""


def test_whatever_was_begun_is_answered_at_the_end() -> None:
    with serving() as server:
        server.shelf.hold.clear()
        answers: list[Got] = []
        asking = [threading.Thread(target=lambda: answers.append(server.picture(JPEG))) for _ in range(8)]
        for thread in asking:
            thread.start()
        until(lambda: server.shelf.waiting == 8)
        server.draining = True
        server.uvicorn.should_exit = True
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask_without_end(server)
        server.shelf.hold.set()
        for thread in asking:
            thread.join(20)
        assert [answer.status for answer in answers] == [200] * 8
        assert {answer.headers["connection"] for answer in answers} == {"close"}


def test_nothing_is_left_open() -> None:
    with serving(idle_s=60) as server:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(30):
            server.picture(JPEG)
            server.raw(b"nonsense\r\n\r\n")
            server.connect().close()
        until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
