"""A worker as the server holds it: started, spoken with, ended, and never left behind as a zombie."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pictune.errors import ArtifactError, MachineError
from pictune.serving.capacity import Capacity
from pictune.serving.frames import Frame
from pictune.serving.hearing import Hearing

#: How a worker is started; -P keeps Python from loading modules that lie in the current folder.
PROGRAM: tuple[str, ...] = (sys.executable, "-P", "-m", "pictune.serving.worker")
START_LIMIT = 120.0  # seconds until a worker has loaded and checked its model

_AGAIN = "Its log, on standard error, may say more; the largest models need several GB of memory."


class Worker:
    """A process that has said that it is ready.

    Args:
        process: Runs `pictune.serving.worker`.
        hearing: Our end of its socket.
    """

    def __init__(self, process: Process, hearing: Hearing) -> None:
        self._process, self._hearing = process, hearing
        self.description: Mapping[str, Any] = {}

    @classmethod
    async def start(
        cls,
        path: Path | str,
        *,
        capacity: Capacity,
        program: Sequence[str] = PROGRAM,
        kept_open: Sequence[int] = (),
        limit: float = START_LIMIT,
    ) -> Worker:
        """Starts a worker and waits until it has loaded and checked its model.

        Args:
            path: The artifact.
            capacity: How it works.
            program: What is run; the options of `pictune.serving.worker` are added.
            kept_open: Descriptors that the process gets under the same numbers.
            limit: Seconds that it may take.

        Raises:
            ArtifactError: When the artifact cannot be used, or loading it ended or hung the process.
            MachineError: When the system gives no process or no socket.
        """
        try:
            worker = await cls._launch(path, capacity, program, kept_open)
        except OSError as error:
            raise MachineError(
                f"no worker could be started: {error.strerror}",
                instead="Are there too many processes or files?",
            ) from error
        try:
            worker.description = await worker._introduction(limit)
        except BaseException:
            await worker.end()
            raise
        return worker

    @classmethod
    async def _launch(
        cls, path: Path | str, capacity: Capacity, program: Sequence[str], kept_open: Sequence[int]
    ) -> Worker:
        ours, theirs = socket.socketpair()
        options = {
            "--socket": theirs.fileno(),
            "--artifact": os.fspath(path),
            "--threads": capacity.threads,
            "--max-batch": capacity.max_batch,
        }
        if capacity.headroom is not None:
            options["--headroom"] = capacity.headroom
        words = [str(word) for option in options.items() for word in option]
        try:
            process = await _spawned([*program, *words], (theirs.fileno(), *kept_open))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            loop = asyncio.get_running_loop()
            _, hearing = await loop.create_unix_connection(Hearing, sock=ours)
            return cls(process, hearing)
        except BaseException:
            ours.close()
            process.kill()
            await process.wait()
            raise

    async def _introduction(self, limit: float) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(limit):
                frame = await self._hearing.first()
            said = None if frame is None else json.loads(frame.payload)
        except TimeoutError:
            raise ArtifactError(
                f"the model was not ready after {limit:g} s", code="not_ready", instead=_AGAIN
            ) from None
        except ValueError:
            said = None
        if frame is None or not isinstance(said, dict):
            raise ArtifactError(
                "the process that loads the model died over it", code="worker_lost", instead=_AGAIN
            )
        if frame.kind != "ready":
            raise ArtifactError(
                str(said["message"]), code=str(said["code"]), causes=said["causes"], instead=said["instead"]
            )
        return said

    @property
    def number(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, frame: Frame) -> None:
        """Hands a frame over; a worker that is gone is noticed by `listen`."""
        if not self._hearing.transport.is_closing():  # uvloop would raise
            self._hearing.transport.writelines(frame.parts())

    async def listen(self, hear: Callable[[Frame], None]) -> None:
        """Hands on what the worker says until it is gone.

        Args:
            hear: Takes a frame; whatever it raises ends the connection, and is raised here.

        Raises:
            FrameError: When what it says is no frame.
            OSError: When it is gone within a frame.
        """
        await self._hearing.listen(hear)

    def kill(self) -> None:
        """Ends the process at once, whatever it does."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def end(self, *, grace: float = 0.0) -> None:
        """Ends the process and takes leave of it, so that nothing of it is left in the system.

        Args:
            grace: Seconds in which it may finish what it has; it is killed after that.
        """
        try:
            if grace:
                self.send(Frame("stop"))
                with suppress(TimeoutError):  # then it is killed below
                    async with asyncio.timeout(grace):
                        await self._process.wait()
        finally:
            self.kill()
            self._hearing.transport.close()
            await self._process.wait()


async def _spawned(words: Sequence[str], descriptors: Sequence[int]) -> Process:
    """A new process that gets these descriptors, in a session of its own: Ctrl-C reaches only the server.

    When this is cancelled no process is left; uvloop alone does not see to that.
    """
    spawning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words, pass_fds=descriptors, stdin=DEVNULL, stdout=DEVNULL, start_new_session=True
        )
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        process = await spawning
        process.kill()
        await process.wait()
        raise
