"""A server from its start to its end: workers, socket, signals, and the drain before it exits.

SIGTERM and SIGINT: no new picture is taken, ``ready`` says so, what is being answered is answered, exit.
Such a signal again, a second later or more: exit at once. SIGHUP: every model is taken up anew from its
place, if it proves itself, and the tokens are read anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pictune.errors import InputError, MachineError, StoppedError
from pictune.serving.capacity import Capacity
from pictune.serving.limits import ServerLimits
from pictune.serving.memory import give_back_large_blocks
from pictune.serving.metrics import Metrics
from pictune.serving.refusals import Refusal
from pictune.serving.shelf import Shelf

if TYPE_CHECKING:
    import uvicorn

    from pictune.serving.tokens import Tokens

LOG = logging.getLogger("pictune.serving")
HIGHEST_PORT = 65535
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
DRAIN_S = 22.0  # for pictures that are being answered, once the server is told to end
CLOSING_S = 5  # for their answers to be taken
AGAIN_S = 1.0  # a signal so soon after another is the same one: `timeout`, for one, sends each of them twice
LOOK_S = 0.02  # between two looks at whether all is answered


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server serves, and where.

    Args:
        models: Where the artifact of each name is; the first is the default.
        host: Address to listen at.
        port: Port to listen at; 0 is any that is free.
        tokens: Who may ask what; None only at loopback.
        hosts: Names, besides ``localhost``, by which the server may be called.
        capacity: Of each model.
        limits: Of requests.
    """

    models: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8080
    tokens: Tokens | None = None
    hosts: Sequence[str] = ()
    capacity: Capacity = field(default_factory=Capacity)
    limits: ServerLimits = field(default_factory=ServerLimits)


def serve_forever(settings: Settings, *, listening: Callable[[str], None]) -> None:
    """Serves until a signal comes; returns when everything was answered.

    Args:
        settings: What, and where.
        listening: Is told the address once pictures can be answered.

    Raises:
        InputError: When anybody in the network could ask, or the address cannot be had.
        ArtifactError: When a model cannot be served.
        MachineError: When the workers of a model die again and again.
        StoppedError: When a second signal came while answers were waited for.
    """
    from pictune.serving.loop import run  # only a server needs it, not the command line

    check_open(settings.host, settings.tokens)
    give_back_large_blocks()
    limits = settings.limits
    with _bound(settings.host, settings.port, backlog=limits.backlog) as listener:
        run(_Serving(settings, listener, listening).run())


def check_open(host: str, tokens: Tokens | None) -> None:
    """Refuses a server that anybody in the network could ask.

    Raises:
        InputError: When it listens beyond this machine and knows no tokens.
    """
    if host not in LOOPBACK and tokens is None:
        raise InputError(
            f"at {host or 'every address'} everybody in the network could ask, and there are no tokens",
            instead="Add --tokens FILE; a file that is not there yet is made, with new tokens.",
        )


def check_address(host: str, port: int) -> None:
    """Refuses an address that cannot be had, before models are made for it.

    Raises:
        InputError: When it cannot be had.
    """
    with _bound(host, port, backlog=1):
        return


@contextlib.contextmanager
def _bound(host: str, port: int, *, backlog: int) -> Iterator[socket.socket]:
    """A socket at the address; bound before anything is loaded, so that a wrong one costs nothing.

    Raises:
        InputError: When it cannot be had.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise InputError(
            f"there is no port {port}", instead=f"Ports are 1 to {HIGHEST_PORT}; 0 takes any that is free."
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise InputError(
            f"the server cannot listen at {host}, port {port}: {error}",
            instead="Choose another --port or --host; port 0 takes any that is free.",
        ) from error
    with listener:
        yield listener


class _Serving:
    """One server."""

    def __init__(self, settings: Settings, listener: socket.socket, listening: Callable[[str], None]) -> None:
        self._settings, self._listener, self._listening = settings, listener, listening
        self._metrics = Metrics()
        self._stopped = asyncio.Event()  # by a signal, or because workers die
        self._signal: signal.Signals | None = None
        self._signalled = 0.0
        self._given_up = ""
        self._hasty = False
        self._answered = False  # all that was asked before a signal came
        self._reloads: set[asyncio.Task[None]] = set()

    @property
    def _draining(self) -> bool:
        return self._stopped.is_set()

    async def run(self) -> None:
        """Starts, serves, drains."""
        loop = asyncio.get_running_loop()
        shelf = Shelf(
            self._settings.models,
            capacity=self._settings.capacity,
            watcher=self._metrics,
            given_up=self._give_up,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, LOG.info, "Not ready yet: there is nothing to take up anew")
        starting = asyncio.create_task(shelf.start())
        await asyncio.sleep(0)  # the workers start while this process loads what it needs
        try:
            server = self._server(shelf)
        except BaseException:
            # Left to the event loop's end, which cancels even what starts a process, it would wait for ever.
            await _abandon(starting, shelf)
            raise
        stopping = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            await _abandon(starting, shelf)
            return
        await starting
        loop.add_signal_handler(signal.SIGHUP, self._reload, shelf)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(LOOK_S / 10)
        self._listening(_address(self._listener))
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        await self._drain(shelf)
        server.config.timeout_graceful_shutdown = 0 if self._in_haste else CLOSING_S
        server.should_exit = True
        await serving
        await self._close(shelf)
        LOG.info(
            "Stopped: %s was answered", "everything" if self._answered else "not everything that was asked"
        )

    def _server(self, shelf: Shelf) -> uvicorn.Server:
        import uvicorn

        from pictune.serving.app import create_app
        from pictune.serving.listening import configured

        class Server(uvicorn.Server):
            """Leaves signals to us: uvicorn's own handlers end with the signal's exit code."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                """Captures none."""
                yield

        limits = self._settings.limits.fitted(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        app = create_app(
            shelf,
            limits=limits,
            tokens=self._settings.tokens,
            hosts=self._settings.hosts,
            metrics=self._metrics,
            draining=lambda: self._draining,
        )
        host, port = self._listener.getsockname()[:2]
        return Server(configured(app, limits=limits, metrics=self._metrics, host=host, port=port))

    def _stop(self, number: signal.Signals) -> None:
        now = asyncio.get_running_loop().time()
        if self._signal is None:
            self._signal, self._signalled = number, now
        elif now - self._signalled >= AGAIN_S:
            self._signal, self._hasty = number, True
        self._stopped.set()

    @property
    def _in_haste(self) -> bool:
        """Whether nothing more is waited for, though somebody waits for an answer."""
        return self._hasty and not self._answered

    def _give_up(self, name: str) -> None:
        self._given_up = name
        self._stopped.set()

    async def _drain(self, shelf: Shelf) -> None:
        """Waits until all is answered; nothing new is taken meanwhile."""
        LOG.info("Shutting down: no new pictures are taken")
        loop = asyncio.get_running_loop()
        end = loop.time() + DRAIN_S
        while loop.time() < end and not self._hasty:
            if not any(shelf.describe(name)["waiting"] for name in shelf.names):
                self._answered = True
                return
            await asyncio.sleep(LOOK_S)

    async def _close(self, shelf: Shelf) -> None:
        """Ends the workers.

        Raises:
            MachineError: When the server ends because they died again and again.
            StoppedError: When a second signal came before everything was answered.
        """
        for task in self._reloads:
            task.cancel()
        try:
            async with asyncio.timeout(0.0 if self._in_haste or self._given_up else CLOSING_S):
                await shelf.close()
        except TimeoutError:
            LOG.warning("Workers were ended before they had answered")
        if self._given_up:
            raise MachineError(
                f"the worker of the model {self._given_up} died and could not be replaced",
                instead="The log above says why; where it is memory, a smaller model may help.",
            )
        if self._in_haste and self._signal is not None:
            raise StoppedError("stopped before everything was answered", signal=self._signal)

    def _reload(self, shelf: Shelf) -> None:
        if self._settings.tokens is not None:
            try:
                self._settings.tokens.read_again()
                LOG.info("The tokens were read anew")
            except InputError as error:
                LOG.warning("The tokens stay as they are: %s", "; ".join((error.message, *error.causes)))
        for name in shelf.names:
            task = asyncio.create_task(self._take_up(shelf, name))
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)

    async def _take_up(self, shelf: Shelf, name: str) -> None:
        try:
            await shelf.reload(name)
        except Refusal as refusal:
            LOG.warning("Model %s stays as it is: %s [%s]", name, refusal.message, refusal.code)


async def _abandon(starting: asyncio.Task[None], shelf: Shelf) -> None:
    """Ends the workers that are being started."""
    starting.cancel()
    await asyncio.wait({starting})
    await shelf.close()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
