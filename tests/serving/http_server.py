"""A real server over real sockets; behind it stands a shelf that decodes pictures and says little of them.

``python http_server.py '{"limits": {}}'`` runs it as a process of its own, for what must be measured alone.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn

from pictune.data.decoding import decode
from pictune.errors import DataError
from pictune.serving.app import create_app
from pictune.serving.limits import ServerLimits
from pictune.serving.listening import configured
from pictune.serving.loop import run
from pictune.serving.memory import give_back_large_blocks
from pictune.serving.metrics import Metrics
from pictune.serving.refusals import Refusal
from pictune.serving.tokens import Tokens

CLASSES = ["cat", "<img src=x onerror=alert(1)>"]


@dataclass(frozen=True)
class Told:
    row: bytes
    model: str
    seconds: Mapping[str, float]


class Decoding:
    """A shelf whose models know nothing but the size of a picture.

    ``hold`` keeps answers back until it is set; ``fault`` is raised in place of an answer.
    """

    def __init__(self, *names: str, queue: int = 64, row: Mapping[str, Any] | None = None) -> None:
        self._names = names or ("teal-fox",)
        self.ids = {name: f"{number:016x}" for number, name in enumerate(self._names, 1)}
        self.queue, self.row = queue, dict(row or {"labels": ["cat"], "confidences": {"cat": 0.9}})
        self.ready = True
        self.fault: Exception | None = None
        self.waiting = 0
        self.asked = self.dropped = 0
        self.given: list[tuple[int | None, float | None]] = []
        self.parties: list[object] = []
        self.spared = 0  # pictures that are answered whatever ``hold`` says
        self.hold = threading.Event()
        self.hold.set()

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def describe(self, name: str) -> dict[str, Any]:
        about = {"name": name, "id": self.ids[name], "task": "naming", "classes": CLASSES}
        return {**about, "image_size": 224, "state": "ready", "waiting": self.waiting}

    def admit(self, name: str, count: int) -> None:
        if count > self.queue:
            raise Refusal(413, "too_many_images", "More pictures than there is room for.")
        if self.waiting + count > self.queue:
            raise Refusal(503, "queue_full", "Too many pictures wait.", retry_after=2)

    async def ask(
        self, name: str, image: bytes, *, top_k: int | None, threshold: float | None, party: object
    ) -> Told:
        self.admit(name, 1)
        self.parties.append(party)
        self.waiting += 1
        self.asked += 1
        self.given.append((top_k, threshold))
        try:
            spared = self.spared > 0
            self.spared -= spared
            while not (spared or self.hold.is_set()):
                await asyncio.sleep(0.005)
            if self.fault is not None:
                raise self.fault
            picture = await asyncio.to_thread(decode, image)
            height, width = picture.pixels.shape[:2]
            row = json.dumps({**self.row, "width": width, "height": height}).encode()
            return Told(row, self.ids[name], {"queue": 0.001, "decode": 0.002, "infer": 0.003})
        except DataError as error:
            raise Refusal(422, error.code, error.message) from error
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.waiting -= 1


class Got:
    """An answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        error = self.json["error"]
        assert set(error) == {"code", "message", "request_id"}
        assert error["request_id"] == self.headers["x-request-id"]
        assert len(error["message"]) <= 300
        return str(error["code"])

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


class Client:
    """Talks to a server at a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, *, timeout: float = 20, **headers: str) -> Got:
        """One request on a connection of its own; ``content_type`` is the header Content-Type, and so on."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            return Got(connection.getresponse())
        finally:
            connection.close()

    def picture(self, image: bytes, path: str = "/v1/predict", **headers: str) -> Got:
        return self.ask("POST", path, image, content_type="application/octet-stream", **headers)

    def connect(self, timeout: float = 20) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 20) -> Got:
        """Sends bytes as they are, and reads one answer."""
        with self.connect(timeout) as line:
            with suppress(OSError):  # it may be refused while it comes; the answer says why
                line.sendall(data)
            return read(line)


def read(line: socket.socket) -> Got:
    """One answer from a socket."""
    response = http.client.HTTPResponse(line)
    response.begin()
    return Got(response)


def closed(line: socket.socket) -> bytes:
    """What a connection still said before the server closed it."""
    said = b""
    while True:
        try:
            part = line.recv(65536)
        except ConnectionResetError:
            return said
        if not part:
            return said
        said += part


class Server(Client):
    """A server in a thread of this process."""

    def __init__(self, shelf: Decoding, metrics: Metrics, server: uvicorn.Server) -> None:
        self.shelf, self.metrics, self.uvicorn = shelf, metrics, server
        super().__init__(0)
        self.draining = False
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        run(self.uvicorn.serve())

    def start(self) -> None:
        self.thread.start()
        until(lambda: self.uvicorn.started)
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.shelf.hold.set()
        self.uvicorn.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def serving(
    shelf: Decoding | None = None, *, tokens: Tokens | None = None, hosts: tuple[str, ...] = (), **limits: Any
) -> Iterator[Server]:
    """A server with these limits."""
    shelf, metrics, bounds = shelf or Decoding(), Metrics(), ServerLimits(**limits)
    app = create_app(
        shelf, limits=bounds, tokens=tokens, hosts=hosts, metrics=metrics, draining=lambda: server.draining
    )
    config = configured(app, limits=bounds, metrics=metrics, host="127.0.0.1", port=0)
    server = Server(shelf, metrics, uvicorn.Server(config))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def until(reached: Callable[[], Any], *, seconds: float = 20) -> None:
    """Waits for something that is bound to happen."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def form(*fields: tuple[str, bytes], boundary: str = "XyZ", filename: str = "") -> tuple[bytes, str]:
    """A form, and its content type."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode()
        + value
        + b"\r\n"
        for name, value in fields
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


async def main() -> None:
    """Serves until it is killed; says its port."""
    settings = json.loads(sys.argv[1])
    if "descriptors" in settings:
        resource.setrlimit(resource.RLIMIT_NOFILE, (settings["descriptors"],) * 2)
    give_back_large_blocks()
    limits = ServerLimits(**settings.get("limits", {}))
    limits = limits.fitted(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    metrics = Metrics()
    app = create_app(
        Decoding(), limits=limits, tokens=None, hosts=(), metrics=metrics, draining=lambda: False
    )
    server = uvicorn.Server(configured(app, limits=limits, metrics=metrics, host="127.0.0.1", port=0))
    serving_task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await serving_task


if __name__ == "__main__":
    run(main())
