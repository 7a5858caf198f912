"""The server as a process: from its start to its end."""

from __future__ import annotations

import http.client
import inspect
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from engine_place import ordinary, write

from pictune.data.headers import Limits
from pictune.errors import InputError, RunError
from pictune.exporting.artifact import Artifact
from pictune.serving.limits import ServerLimits
from pictune.serving.server import AGAIN_S, LOOPBACK, Settings, check_open
from pictune.serving.tokens import Tokens
from pictune.verbs.serve import serve

PATIENCE = 60.0
TORCHLESS = (
    "import sys\n"
    "for name in ('torch', 'torchvision', 'timm', 'accelerate'): sys.modules[name] = None\n"
    "from pictune.cli import main\n"
    "main()\n"
)


class Process:
    """A server that was started by its command."""

    def __init__(self, *words: object) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", TORCHLESS, "serve", "--port", "0", *map(str, words)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stderr is not None
        for line in self._child.stderr:
            self.lines.append(line.rstrip())

    @property
    def port(self) -> int:
        """Once it says that it is ready."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for line in list(self.lines):
                if line.startswith("Ready: "):
                    return int(line.rpartition(":")[2])
            assert self._child.poll() is None, self.lines
            time.sleep(0.01)
        raise AssertionError(self.lines)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "image/png", **headers})
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content[:1] == b"{" else {"text": content.decode()}
        finally:
            connection.close()

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def wait(self) -> int:
        code = self._child.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text()
        return [int(number) for number in listed.split()]

    def end(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait(PATIENCE)
        assert self._child.stderr is not None
        self._reader.join(PATIENCE)
        self._child.stderr.close()


@contextmanager
def started(*words: object) -> Iterator[Process]:
    process = Process(*words)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    write(tmp_path / "colours.pictune")
    return tmp_path / "colours.pictune"


def test_it_answers_without_pytorch_and_ends_with_nothing_left(colours: Path) -> None:
    with started(colours) as server:
        assert server.ask("GET", "/v1/health/ready")[0] == 200
        status, said = server.ask("POST", "/v1/predict", ordinary(1))
        assert status == 200
        assert said["model"]["id"] == Artifact.open(colours).id
        workers = server.children()
        assert workers
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert not any(Path(f"/proc/{number}").exists() for number in workers)
        assert not any("Traceback" in line for line in server.lines), server.lines


def test_an_installation_that_is_not_whole_ends_with_an_error_and_leaves_no_worker(colours: Path) -> None:
    """The workers are on their way already when it shows."""
    lacking = TORCHLESS.replace("'torch', ", "'torch', 'h11', ")
    words = [sys.executable, "-c", lacking, "serve", "--port", "0", colours]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    assert "h11" in ended.stderr


def test_two_models_by_name(colours: Path, tmp_path: Path) -> None:
    write(tmp_path / "other.pictune", lean=(9, 0, 0))
    with started(colours, f"warm={tmp_path / 'other.pictune'}") as server:
        assert server.ask("GET", "/v1/models")[1]["default"] == "colours"
        said = server.ask("POST", "/v1/models/warm/predict", ordinary(3))[1]
        assert said["prediction"]["labels"] == ["red"]
        assert said["model"]["name"] == "warm"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_was_asked_be_answered_even_with_slow_connections_open(
    colours: Path, number: signal.Signals
) -> None:
    """F9: a hundred slow connections hold nothing up; every request that was in is answered."""
    with started(colours) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for connection in slow[:50]:
            connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        for connection in slow[50:]:
            connection.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                b"Content-Length: 1000\r\n\r\nabc"
            )
        found: list[int] = []
        stop = threading.Event()

        def keep_asking(seed: int) -> None:
            while not stop.is_set():
                try:
                    found.append(server.ask("POST", "/v1/predict", ordinary(seed))[0])
                except ConnectionRefusedError:
                    return  # nothing new is taken
                except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
                    return  # it was not in yet when the server closed

        askers = [threading.Thread(target=keep_asking, args=(seed,)) for seed in range(4)]
        for asker in askers:
            asker.start()
        while len(found) < 20:
            time.sleep(0.005)
        server.send(number)
        assert server.wait() == 0
        stop.set()
        for asker in askers:
            asker.join(PATIENCE)
        assert set(found) <= {200, 503}
        assert found.count(200) >= 20
        for connection in slow:
            connection.close()


def test_a_signal_that_is_sent_twice_is_one(colours: Path) -> None:
    """`timeout` sends it to the server and to its group, and some supervisors do."""
    with started(colours) as server:
        assert server.ask("POST", "/v1/predict", ordinary(1))[0] == 200
        for _ in range(2):
            server.send(signal.SIGTERM)
            time.sleep(0.02)
        assert server.wait() == 0
        assert server.lines[-1].endswith("Stopped: everything was answered")


def test_a_second_signal_later_waits_for_no_answer(colours: Path) -> None:
    with started(colours) as server, ThreadPoolExecutor() as pool:
        assert server.ask("POST", "/v1/predict", ordinary(1))[0] == 200
        for number in server.children():
            os.kill(number, signal.SIGSTOP)
        asking = pool.submit(server.ask, "POST", "/v1/predict", ordinary(2))
        waits = 'pictune_waiting{model="colours"} 1.0'
        until(lambda: waits in server.ask("GET", "/metrics")[1]["text"])
        server.send(signal.SIGTERM)
        until(lambda: any("Shutting down" in line for line in server.lines))
        time.sleep(AGAIN_S)
        server.send(signal.SIGINT)
        assert server.wait() == 130
        assert "stopped before everything was answered" in server.lines[-1]
        with suppress(OSError, http.client.HTTPException):  # it may still hear that there is no answer
            assert asking.result()[0] >= 500


def test_a_new_file_is_taken_up_and_a_broken_one_is_not(colours: Path, tmp_path: Path) -> None:
    with started(colours) as server:
        first = server.ask("POST", "/v1/predict", ordinary(1))[1]["model"]["id"]
        colours.write_bytes(b"broken")
        server.send(signal.SIGHUP)
        until(lambda: any("stays as it is" in line for line in server.lines))
        assert server.ask("POST", "/v1/predict", ordinary(1))[1]["model"]["id"] == first
        colours.unlink()
        new = write(colours, lean=(4, 0, 0))
        server.send(signal.SIGHUP)
        until(lambda: server.ask("POST", "/v1/predict", ordinary(1))[1]["model"]["id"] == new)
        assert new != first
        server.send(signal.SIGHUP)
        until(lambda: any(f"is {new} still" in line for line in server.lines))
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert "Stopped" in server.lines[-1]


def until(reached) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_workers_that_die_again_and_again_end_the_server(colours: Path) -> None:
    """F11: three deaths within a minute, and whoever watches the server may replace it."""
    with started(colours) as server:
        assert server.port
        for _ in range(3):
            until(lambda: server.children())
            for number in server.children():
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(1.5)
        assert server.wait() == 3
        assert any("died and could not be replaced" in line for line in server.lines)


def test_new_tokens_are_printed_once_and_needed(colours: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    with started(colours, "--tokens", file) as server:
        assert server.ask("POST", "/v1/predict", ordinary(1))[0] == 401
        token = next(line.split()[1] for line in file.read_text().splitlines() if line.startswith("predict"))
        assert file.stat().st_mode & 0o777 == 0o600
        assert any(token in line for line in server.lines)
        known = {"Authorization": f"Bearer {token}"}
        assert server.ask("POST", "/v1/predict", ordinary(1), **known)[0] == 200
        assert not any(token in line for line in server.lines if "/v1/predict" in line)
        file.write_text("predict too-short\n")
        server.send(signal.SIGHUP)
        until(lambda: any("The tokens stay as they are" in line for line in server.lines))
        assert any("stay as they are" in line and "line 1" in line for line in server.lines)
        assert server.ask("POST", "/v1/predict", ordinary(1), **known)[0] == 200
        file.write_text(f"predict {token[::-1]}\n")
        server.send(signal.SIGHUP)
        until(lambda: server.ask("POST", "/v1/predict", ordinary(1), **known)[0] == 401)
        turned = {"Authorization": f"Bearer {token[::-1]}"}
        assert server.ask("POST", "/v1/predict", ordinary(1), **turned)[0] == 200
    file.write_text(f"predict {token}\n")
    with started(colours, "--tokens", file) as server:
        assert server.ask("POST", "/v1/predict", ordinary(1), **known)[0] == 200
        assert not any(token in line for line in server.lines)


def test_unless_told_otherwise_only_this_machine_may_ask() -> None:
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
    assert Settings(models={}).host == "127.0.0.1"
    assert ipaddress.ip_address(Settings(models={}).host).is_loopback
    assert all(name == "localhost" or ipaddress.ip_address(name).is_loopback for name in LOOPBACK)


def test_the_limits_are_on_by_default() -> None:
    limits = ServerLimits()
    assert limits.body_bytes == 16 * 2**20
    assert (limits.batch_images, limits.queue_images, limits.connections) == (32, 64, 256)
    assert (limits.request_s, limits.header_s, limits.header_bytes) == (30, 10, 16 * 2**10)
    assert limits.json_depth == 32
    assert Limits().max_pixels == 40_000_000
    assert Settings(models={}).limits == limits


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_beyond_this_machine_tokens_are_needed(host: str, colours: Path) -> None:
    with pytest.raises(InputError, match="there are no tokens"):
        serve(colours, host=host)
    check_open(host, Tokens([("predict", "x" * 30)]))
    check_open("127.0.0.1", None)


def test_an_address_that_is_taken_costs_nothing(colours: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(InputError, match="cannot listen"):
        serve(colours, port=taken.getsockname()[1], tokens=colours.with_name("tokens"))
    assert [path.name for path in colours.parent.iterdir()] == [colours.name]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ((), "no model was named"),
        (("a=x.pictune", "a=y.pictune"), "called a: x.pictune and y.pictune"),
        (("A b=x",), "no name"),
        (("x=",), "x= names no path"),
    ],
)
def test_names_that_are_none(models: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        serve(*models)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"threads": 0}, "threads is a number from 1 to 1024, not 0"),
        ({"batch": -1}, "batch is a number from 1 to 256, not -1"),
        ({"batch": 257}, "batch"),
    ],
)
def test_numbers_that_make_no_sense(words: dict[str, int], said: str, colours: Path) -> None:
    with pytest.raises(InputError, match=said):
        serve(colours, **words)


def test_a_mistyped_model_is_told_before_anything_is_made(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is nothing at") as caught:
        serve(colours.with_name("colors.pictune"), tokens=tmp_path / "tokens")
    assert str(colours) in caught.value.instead
    with pytest.raises(RunError, match="its folder is absent"):
        serve(colours, tokens=tmp_path / "no" / "tokens")
    assert [path.name for path in tmp_path.iterdir()] == ["colours.pictune"]
