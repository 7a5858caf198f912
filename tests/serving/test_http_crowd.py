"""Good clients beside everything that a bad one can send: each of them is answered, and memory comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_server import Client, form
from odd_pictures import JPEG, REFUSED
from test_http_requests import BAD_FORMS, BAD_JSON

GOOD_CLIENTS = 8
MOST_GROWTH = 64 * 2**20
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A server in a process of its own, so that its memory can be weighed alone."""
    script = Path(__file__).with_name("http_server.py")
    started = subprocess.Popen(
        [sys.executable, script, json.dumps({"limits": {"linger_s": 0.5}})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=20)
    assert "Traceback" not in said


FREED = """
import ctypes, sys
from pathlib import Path
from pictune.serving.memory import give_back_large_blocks

given_back = give_back_large_blocks() if sys.argv[1] == "yes" else None
bytes(30 * 2**20)  # freed at once; glibc takes it as a hint that such blocks are worth keeping
large, after = bytearray(20 * 2**20), [bytearray(100_000) for _ in range(50)]
before = int(Path("/proc/self/statm").read_text().split()[1])
del large
print(given_back, (before - int(Path("/proc/self/statm").read_text().split()[1])) * 4096)
"""


@pytest.mark.parametrize("asked", ["yes", "no"])
def test_large_blocks_go_back_to_the_system(asked: str) -> None:
    done = subprocess.run([sys.executable, "-c", FREED, asked], capture_output=True, text=True, check=True)
    given_back, size = done.stdout.split()
    if given_back != "False":  # the C library knows the setting, or was not asked
        assert (int(size) > 19 * 2**20) == (asked == "yes")


def memory(process: subprocess.Popen[str]) -> int:
    """Bytes that the process has in memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def ask_until(server: Client, stopped: threading.Event, statuses: list[int]) -> None:
    """One good client: asks again and again on one connection, and notes what it gets."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        while not stopped.is_set():
            try:
                connection.request("POST", "/v1/predict", JPEG, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            except OSError:
                statuses.append(0)
                return


def bad_requests(server: Client) -> Iterator[Callable[[], int]]:
    """Every kind of request that must be refused, each as a call that gives its status."""
    for body, _ in BAD_FORMS.values():
        yield (
            lambda body=body: (
                server.ask("POST", "/v1/predict", body, content_type="multipart/form-data; boundary=x").status
            )
        )
    for body in BAD_JSON.values():
        yield (
            lambda body=body: server.ask("POST", "/v1/predict", body, content_type="application/json").status
        )
    for data, _ in REFUSED.values():
        body, content_type = form(("image", data))
        yield (
            lambda body=body, kind=content_type: (
                server.ask("POST", "/v1/predict", body, content_type=kind).status
            )
        )
    yield lambda: server.picture(bytes(24 * 2**20)).status
    for data in (
        b"NONSENSE\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 10_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n",
        HEAD + b"Content-Length: 99999999999\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + bytes(2**20) + b"\r\n") * 18,
    ):
        yield lambda data=data: server.raw(data).status


def leave_early(server: Client) -> None:
    """Clients that go in the middle of what they say."""
    for data in (b"GET / HT", HEAD + b"Content-Length: 999999\r\n\r\n" + bytes(200_000)):
        with server.connect() as line:
            line.sendall(data)


def test_97_to_114_with_good_clients_beside_them(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    server = Client(int(process.stdout.readline()))
    statuses: list[int] = []
    stopped = threading.Event()
    good = [threading.Thread(target=ask_until, args=(server, stopped, statuses)) for _ in range(GOOD_CLIENTS)]
    assert server.picture(JPEG).status == 200
    before = memory(process)
    for thread in good:
        thread.start()
    try:
        for _ in range(2):
            for ask in bad_requests(server):
                assert 400 <= ask() < 500
            leave_early(server)
    finally:
        stopped.set()
        for thread in good:
            thread.join(20)
    assert len(statuses) > 10 * GOOD_CLIENTS
    assert set(statuses) == {200}
    assert server.picture(JPEG).status == 200
    assert memory(process) - before < MOST_GROWTH
