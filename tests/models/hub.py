"""A stand-in for the hub, on the loopback interface: what it must say, and every way in which it can fail."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LONGEST_WAIT = 30.0  # seconds after which even a silent server lets go


@dataclass
class StandInHub:
    """Serves ``model.safetensors`` of each repository while used as a context.

    Args:
        files: Repository to content.
        status: Answer every request with this error.
        checksum: Name this as the file's checksum instead of the true one.
        size: Name this as the file's size instead of the true one, when asked for the head only.
        breaks: How many downloads are cut in the middle.
        resumes: Whether a download can be taken up in the middle.
        silent: Never answer.
    """

    files: dict[str, bytes]
    status: int | None = None
    checksum: str | None = None
    size: int | None = None
    breaks: int = 0
    resumes: bool = True
    silent: bool = False
    requests: list[str] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # so that closing waits for every answer
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, *, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                hub.callers.append(self.headers.get("User-Agent", ""))
                if hub.silent:
                    hub.closing.wait(LONGEST_WAIT)
                    return
                repository, _, rest = self.path.strip("/").partition("/resolve/")
                content = hub.files.get(repository)
                if hub.status or content is None or rest.partition("/")[2] != "model.safetensors":
                    self.refuse(hub.status or 404)
                    return
                start = 0
                if hub.resumes and (asked := self.headers.get("Range")):
                    start = int(asked.removeprefix("bytes=").split("-")[0])
                self.send_response(206 if start else 200)
                self.send_header("ETag", f'"{hub.checksum or hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                length = len(content) - start
                self.send_header("Content-Length", str(length if with_body or hub.size is None else hub.size))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if with_body:
                    self.send(content[start:])

            def send(self, content: bytes) -> None:
                if hub.breaks:
                    hub.breaks -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)

            def refuse(self, status: int) -> None:
                self.send_response(status)
                if status == 403:
                    self.send_header("X-Error-Code", "GatedRepo")
                if status == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        return Handler
