"""The shelf: several models by name, and swaps while they answer (RELIABILITY F17, F18)."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import engine_place as place
import pytest

from pictune.errors import ArtifactError
from pictune.exporting.artifact import Artifact
from pictune.exporting.exported import Exported
from pictune.serving.engine import Engine, Reply
from pictune.serving.refusals import Refusal
from pictune.serving.shelf import Shelf

pytestmark = pytest.mark.anyio
RED, BLUE = (9, 0, 0), (0, 0, 9)
QUESTION = {"top_k": None, "threshold": None}
WHATEVER = place.ordinary(1)
PICTURES = 64  # that clients ask about
PAUSE = 0.05  # seconds between a client's questions; without it new workers would hardly get a processor


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio", {"use_uvloop": True}  # as the server runs


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Holds red.pictune and blue.pictune, which say so of any picture; afterwards no process is left."""
    place.write(tmp_path / "red.pictune", lean=RED)
    place.write(tmp_path / "blue.pictune", lean=BLUE)
    assert place.children() == {}
    yield tmp_path
    assert place.children() == {}


def put(folder: Path, name: str) -> Path:
    """Puts one of the two into the place that is served, in one step, as `pictune export` does."""
    shutil.copy(folder / f"{name}.pictune", folder / ".tmp-copy")
    return (folder / ".tmp-copy").replace(folder / "served.pictune")


class Load:
    """Clients that ask one question after the other, and what they were told."""

    def __init__(self, shelf: Shelf, name: str, *, count: int = 4) -> None:
        self.answers: list[Reply | Refusal] = []
        self.numbers: list[int] = []
        self.asking = 0
        self._enough = False
        self._tasks = [asyncio.create_task(self._ask(shelf, name, random.Random(i))) for i in range(count)]

    async def _ask(self, shelf: Shelf, name: str, dice: random.Random) -> None:
        while not self._enough:
            number = dice.randrange(PICTURES)
            self.asking += 1
            self.answers.append(await place.outcome(shelf.ask(name, place.ordinary(number), **QUESTION)))
            self.asking -= 1
            self.numbers.append(number)
            await asyncio.sleep(dice.uniform(0, 2 * PAUSE))

    async def some_more(self, count: int = 4) -> None:
        """Waits for so many more answers."""
        wanted = len(self.answers) + count
        await place.until(lambda: len(self.answers) >= wanted)

    async def finish(self) -> None:
        self._enough = True
        await asyncio.gather(*self._tasks)

    def check(self, *models: Path) -> dict[str, int]:
        """Every answer is that of the model whose id it carries; gives how many each made."""
        exported = {made.artifact.id: made for made in map(Exported.open, models)}
        right = {
            (model, number): place.expected(made, place.ordinary(number))
            for model, made in exported.items()
            for number in set(self.numbers)
        }
        counts = dict.fromkeys(exported, 0)
        for number, answer in zip(self.numbers, self.answers, strict=True):
            assert isinstance(answer, Reply), answer
            counts[answer.model] += 1
            assert place.row(answer) == right[answer.model, number]
        return counts


async def test_several_models_by_name(folder: Path) -> None:
    async with place.shelf({"red": folder / "red.pictune", "blue": folder / "blue.pictune"}) as shelf:
        assert shelf.names == ("red", "blue")
        assert shelf.ready
        for name in shelf.names:
            said = shelf.describe(name)
            assert list(said) == ["name", "id", "task", "classes", "image_size", "state", "waiting"]
            reply = await shelf.ask(name, place.ordinary(1), **QUESTION)
            assert (said["name"], said["id"]) == (name, reply.model)
            assert place.row(reply)["labels"] == [name]
        assert shelf.describe("red")["id"] != shelf.describe("blue")["id"]
        for wrong in ("green", "", "../red", str(folder / "red.pictune")):
            with pytest.raises(KeyError):
                shelf.describe(wrong)
            with pytest.raises(KeyError):
                shelf.admit(wrong, 1)
            with pytest.raises(KeyError):
                await shelf.ask(wrong, place.ordinary(1), **QUESTION)
            with pytest.raises(KeyError):
                await shelf.reload(wrong)


async def test_one_that_cannot_be_served_stops_all(folder: Path) -> None:
    (folder / "bad.pictune").write_text("no model")
    shelf = Shelf({"red": folder / "red.pictune", "bad": folder / "bad.pictune"}, capacity=place.Capacity())
    with pytest.raises(ArtifactError) as caught:
        await shelf.start()
    assert caught.value.code == "not_an_artifact"
    assert "bad.pictune" in caught.value.message
    assert place.children() == {}


async def test_all_that_cannot_be_served_are_told_at_once(folder: Path) -> None:
    (folder / "bad.pictune").write_text("no model")
    shelf = Shelf({"bad": folder / "bad.pictune", "gone": folder / "gone"}, capacity=place.Capacity())
    with pytest.raises(ArtifactError, match="2 models cannot be served") as caught:
        await shelf.start()
    assert [cause.rpartition("[")[2] for cause in caught.value.causes] == ["not_an_artifact]", "missing]"]


async def test_a_reload_takes_up_what_is_in_the_same_place(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path}) as shelf:
        before = shelf.describe("m")["id"]
        put(folder, "blue")
        reply = await shelf.ask("m", place.ordinary(1), **QUESTION)
        assert (reply.model, place.row(reply)["labels"]) == (before, ["red"])
        after = await shelf.reload("m")
        assert after != before
        assert shelf.describe("m")["id"] == after
        reply = await shelf.ask("m", place.ordinary(1), **QUESTION)
        assert (reply.model, place.row(reply)["labels"]) == (after, ["blue"])
        await place.until(lambda: len(place.children()) == 1)


async def test_without_a_living_worker_a_shelf_is_not_ready(folder: Path) -> None:
    async with place.shelf({"red": folder / "red.pictune", "blue": folder / "blue.pictune"}) as shelf:
        os.kill(place.worker_of(folder / "blue.pictune"), signal.SIGKILL)
        await place.until(lambda: not shelf.ready)
        assert shelf.describe("blue")["state"] == "restarting"
        assert shelf.describe("red")["state"] == "ready"
        reply = await shelf.ask("blue", place.ordinary(1), **QUESTION)
        assert place.row(reply)["labels"] == ["blue"]
        assert shelf.ready


@pytest.mark.slow
async def test_f17_broken_models_are_not_taken_up_and_no_request_fails(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path}) as shelf:
        before, worker = shelf.describe("m")["id"], place.worker_of(path)
        load = Load(shelf, "m")
        for how in [*place.BREAK, *place.BREAK]:
            code, damage = place.BREAK[how]
            put(folder, "blue")
            damage(path)
            with pytest.raises(Refusal) as caught:
                await shelf.reload("m")
            assert caught.value.status == 409
            assert caught.value.code == code or not code
            assert str(folder) not in caught.value.message
            assert shelf.describe("m")["id"] == before
            assert shelf.ready
            await load.some_more()
        assert set(place.children()) == {worker}
        await load.finish()
        put(folder, "red")
    assert load.check(folder / "red.pictune") == {before: len(load.answers)}


@pytest.mark.slow
async def test_f18_a_hundred_swaps_under_load(folder: Path) -> None:
    path = put(folder, "red")
    ids = {name: Artifact.open(folder / f"{name}.pictune").id for name in ("red", "blue")}
    inside = 0  # questions that the old model still had when the new one took over
    async with place.shelf({"m": path}, max_batch=4) as shelf:
        load = Load(shelf, "m")
        for number in range(100):
            name = ("blue", "red")[number % 2]
            put(folder, name)
            asking = [asyncio.create_task(shelf.ask("m", place.ordinary(n), **QUESTION)) for n in range(3)]
            assert await shelf.reload("m") == ids[name]
            assert shelf.ready
            inside += load.asking
            assert {reply.model for reply in await asyncio.gather(*asking)} <= set(ids.values()) - {ids[name]}
        await load.finish()
    counts = load.check(folder / "red.pictune", folder / "blue.pictune")
    assert min(counts.values()) > 50
    assert inside > 0


async def test_other_classes_are_taken_up_and_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    place.write(folder / "violet.pictune", classes=("red", "green", "violet"))
    place.write(folder / "turned.pictune", classes=("violet", "green", "red"))
    async with place.shelf({"m": put(folder, "red")}) as shelf:
        put(folder, "violet")
        await shelf.reload("m")
        assert "Model m has other classes now: new: violet; gone: blue" in caplog.messages
        put(folder, "turned")
        await shelf.reload("m")
        assert "Model m has other classes now: another order" in caplog.messages
        caplog.clear()
        await shelf.reload("m")
        assert caplog.messages == [f"Model m is {shelf.describe('m')['id']} still"]


async def test_another_task_is_not_taken_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.shelf({"m": put(folder, "red")}) as shelf:
        before = shelf.describe("m")["id"]
        put(folder, "blue")
        told = Engine.description
        monkeypatch.setattr(
            Engine,
            "description",
            property(lambda it: told.fget(it) | ({} if it.id == before else {"task": "detection"})),
        )
        refusal = await place.refused(shelf.reload("m"))
        assert (refusal.status, refusal.code) == (409, "another_task")
        assert "is for detection, not for classification" in refusal.message
        assert shelf.describe("m")["id"] == before
        assert (await shelf.ask("m", WHATEVER, **QUESTION)).model == before
        assert len(place.children()) == 1


async def test_two_reloads_at_once_come_one_after_the_other(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path}) as shelf:
        put(folder, "blue")
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(place.children()))
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        first, second, third = await asyncio.gather(*(shelf.reload("m") for _ in range(3)))
        watching.cancel()
        assert first == second == third == shelf.describe("m")["id"]
        assert most == 2


async def test_a_swap_answers_what_the_old_model_had(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path}) as shelf:
        with place.stopped(place.worker_of(path)):
            asking = [asyncio.create_task(shelf.ask("m", place.ordinary(n), **QUESTION)) for n in range(10)]
            await asyncio.sleep(0)
            put(folder, "blue")
            await shelf.reload("m")
            new = await shelf.ask("m", place.ordinary(1), **QUESTION)
            assert place.row(new)["labels"] == ["blue"]
            assert not any(task.done() for task in asking)
        old = await asyncio.gather(*asking)
        assert {tuple(place.row(reply)["labels"]) for reply in old} == {("red",)}
        assert new.model not in {reply.model for reply in old}


async def test_closing_while_a_swap_begins(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path}) as shelf:
        reloading = asyncio.create_task(place.outcome(shelf.reload("m")))
        await place.until(lambda: len(place.children()) == 2)
        await shelf.close()
        assert (await reloading).code == "draining"
        assert place.children() == {}
        for refusal in (
            await place.refused(shelf.reload("m")),
            await place.refused(shelf.ask("m", place.ordinary(1), **QUESTION)),
        ):
            assert (refusal.status, refusal.code) == (503, "draining")
        with pytest.raises(Refusal, match="draining"):
            shelf.admit("m", 1)
        assert not shelf.ready


async def test_a_shelf_that_is_closed_in_haste_leaves_nothing_behind(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path, "n": folder / "red.pictune"}) as shelf:
        with place.stopped(place.worker_of(path)):
            asking = [asyncio.create_task(place.outcome(shelf.ask("m", WHATEVER, **QUESTION))) for _ in "ab"]
            await asyncio.sleep(0)
            put(folder, "blue")
            await shelf.reload("m")  # the old one still has to answer
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.0):
                    await shelf.close()
        assert place.children() == {}
        assert {refusal.code for refusal in await asyncio.gather(*asking)} == {"draining"}


async def test_a_cancelled_swap_changes_nothing(folder: Path) -> None:
    path = put(folder, "red")
    async with place.shelf({"m": path}) as shelf:
        before, worker = shelf.describe("m")["id"], place.worker_of(path)
        put(folder, "blue")
        reloading = asyncio.create_task(shelf.reload("m"))
        await place.until(lambda: len(place.children()) == 2)
        reloading.cancel()
        await asyncio.wait({reloading})
        assert reloading.cancelled()
        assert set(place.children()) == {worker}
        assert shelf.describe("m")["id"] == before
        assert await shelf.reload("m") != before
