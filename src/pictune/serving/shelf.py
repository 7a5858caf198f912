"""`Shelf`: the engines by name. A swap is a new engine, and takes up only what is in the old one's place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pictune.errors import ArtifactError, MachineError
from pictune.serving.capacity import Capacity
from pictune.serving.engine import Engine, Reply, Watcher
from pictune.serving.failing import plain
from pictune.serving.refusals import Refusal
from pictune.serving.supervision import PROGRAM

logger = logging.getLogger(__name__)
SHOWN = 20  # classes that a line of the log names at most


class Place:
    """Where one model stands.

    Args:
        make: Gives a new engine for it, not yet started.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.make = make
        self.engine = make()
        self.swapping = asyncio.Lock()
        self.starting: asyncio.Task[None] | None = None
        self.retiring: asyncio.Task[None] | None = None


class Shelf:
    """Named models, each in a process of its own, that can be swapped while they answer.

    Args:
        models: Where the artifact of each name is; the first is the default. Nothing else is ever loaded.
        capacity: Of each model.
        program: How workers are started; see `pictune.serving.supervision.Worker.start`.
        watcher: Is told of restarts.
        given_up: Is called with a name when its workers die too often; the server should end then.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        *,
        capacity: Capacity,
        program: Sequence[str] = PROGRAM,
        watcher: Watcher | None = None,
        given_up: Callable[[str], None] | None = None,
    ) -> None:
        assert models, "a server serves something"

        def maker(name: str, path: Path) -> Callable[[], Engine]:
            return lambda: Engine(
                path, name=name, capacity=capacity, program=program, watcher=watcher, given_up=given_up
            )

        self._places = {name: Place(maker(name, path)) for name, path in models.items()}
        self._closing = False

    async def start(self) -> None:
        """Starts all models at once; if one can't be, none is.

        Raises:
            ArtifactError: When an artifact cannot be used.
            MachineError: When the system gives no process.
        """
        engines = [place.engine for place in self._places.values()]
        try:
            ended = await asyncio.gather(*(engine.start() for engine in engines), return_exceptions=True)
            _raise_all([error for error in ended if error is not None])
        except BaseException:
            await self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models; the first is the default."""
        return tuple(self._places)

    @property
    def ready(self) -> bool:
        """Whether every model has passed its self-test and has a living worker."""
        return all(place.engine.ready for place in self._places.values())

    def describe(self, name: str) -> dict[str, Any]:
        """Plain values: name, id, task, classes, image_size (width and height), state, waiting.

        Raises:
            KeyError: When there is no such model.
        """
        return {"name": name, **self._places[name].engine.description}

    def admit(self, name: str, count: int) -> None:
        """Refuses so many more pictures if there is no room for them.

        Raises:
            Refusal: 413 too_many_images; 503 queue_full, overloaded, draining or worker_lost.
            KeyError: When there is no such model.
        """
        engine = self._places[name].engine
        self._check_open()
        engine.admit(count)

    async def ask(
        self,
        name: str,
        image: bytes,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        party: object = None,
    ) -> Reply:
        """The answer of a model about one picture; see `pictune.serving.engine.Engine.ask`.

        Raises:
            Refusal: When there is none.
            KeyError: When there is no such model.
        """
        engine = self._places[name].engine
        self._check_open()
        return await engine.ask(image, top_k=top_k, threshold=threshold, party=party)

    async def reload(self, name: str) -> str:
        """Takes up what is in a model's place now; the old one answers until the new one has proved itself.

        Returns:
            The id of the new artifact, which answers from now on.

        Another task is not taken up, as whoever asks could not read its answers; other classes are, and the
        log names them.

        Raises:
            Refusal: 409 with the code of an `ArtifactError`, or ``another_task``; the old model stays.
            KeyError: When there is no such model.
        """
        place = self._places[name]
        async with place.swapping:
            if place.retiring is not None:
                await asyncio.wait({place.retiring})  # no more than two workers of a model at a time
            engine = place.make()
            await self._prove(place, engine)
            if engine.id == place.engine.id:
                logger.info("Model %s is %s still", name, engine.id)
            try:
                _check_same_task(place.engine.description, engine.description)
            except Refusal:
                await engine.close()
                raise
            old, place.engine = place.engine, engine
            place.retiring = asyncio.create_task(old.close())
            if engine.id != old.id:
                logger.info("Model %s is %s now; it was %s", name, engine.id, old.id)
                if said := _other_classes(old.description["classes"], engine.description["classes"]):
                    logger.warning("Model %s has other classes now: %s", name, said)
            return engine.id

    async def _prove(self, place: Place, engine: Engine) -> None:
        """Starts a new engine.

        Raises:
            Refusal: When it can't be.
        """
        self._check_open()
        place.starting = asyncio.create_task(engine.start())
        try:
            await place.starting
        except ArtifactError as error:
            raise Refusal(409, error.code, plain(error.message)) from error
        except MachineError as error:
            raise Refusal(409, "no_worker", plain(error.message)) from error
        except asyncio.CancelledError:
            self._check_open()
            raise
        finally:
            place.starting = None

    async def close(self) -> None:
        """Takes no more questions, answers all that it has, and ends its workers; at once when cancelled."""
        self._closing = True
        tasks = {asyncio.create_task(self._close(place)) for place in self._places.values()}
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            # By now each has begun: one that is cancelled before that would end no worker.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        for task in tasks:
            task.result()

    async def _close(self, place: Place) -> None:
        if place.starting is not None:
            place.starting.cancel()
        async with place.swapping:  # a swap that was just done is finished by its own task first
            old = () if place.retiring is None else (place.retiring,)
            try:
                await place.engine.close()
                for task in old:
                    await asyncio.wait({task})
            except asyncio.CancelledError:
                for task in old:
                    task.cancel()
                    await asyncio.wait({task})
                raise

    def _check_open(self) -> None:
        if self._closing:
            raise Refusal(503, "draining", "The server is shutting down.", retry_after=1)


def _check_same_task(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if new["task"] != old["task"]:
        message = (
            f"What is in its place now is for {new['task']}, not for {old['task']}; start another server."
        )
        raise Refusal(409, "another_task", message)


def _other_classes(old: Sequence[str], new: Sequence[str]) -> str:
    """What a log says where classes came, went or changed places; empty where they did not."""
    changes = {"new": [c for c in new if c not in old], "gone": [c for c in old if c not in new]}
    said = [f"{kind}: {', '.join(names[:SHOWN])}" for kind, names in changes.items() if names]
    return "; ".join(said) or ("another order" if list(old) != list(new) else "")


def _raise_all(errors: Sequence[BaseException]) -> None:
    """Raises what is wrong, all at once where it is the models."""
    unusable = [error for error in errors if isinstance(error, ArtifactError)]
    if len(unusable) == len(errors) > 1:
        raise ArtifactError(
            f"{len(errors)} models cannot be served",
            code=unusable[0].code,
            causes=[f"{error.message} [{error.code}]" for error in unusable],
            instead=unusable[0].instead,
        )
    for error in errors:
        raise error
