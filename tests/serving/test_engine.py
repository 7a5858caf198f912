"""One engine over a real artifact: answers, refusals, the queue, and what is dropped from it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import engine_place as place
import numpy as np
import odd_worker
import pytest

from pictune.errors import ArtifactError, MachineError
from pictune.exporting.exported import Exported
from pictune.serving.engine import Engine, Reply
from pictune.serving.pipeline import Sessions

pytestmark = pytest.mark.anyio
ODD = Path(odd_worker.__file__)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio", {"use_uvloop": True}  # as the server runs


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of `engine`."""
    path = tmp_path_factory.mktemp("engine") / "shared.pictune"
    place.write(path)
    return path


@pytest.fixture(scope="module")
async def engine(shared: Path, anyio_backend: str) -> AsyncIterator[Engine]:
    """One for all tests that leave it as it was."""
    async with place.engine(shared, queue=12) as made:
        yield made


@pytest.fixture
def artifact(tmp_path: Path) -> Iterator[Path]:
    """One of the test's own; afterwards every process that it started must be gone."""
    path = tmp_path / "own.pictune"
    place.write(path)
    before = place.children()
    yield path
    assert set(place.children()) == set(before)


@pytest.fixture
def odd(tmp_path: Path) -> tuple[str, ...]:
    """The program of a worker that notes in ``tmp_path / "seen"`` what it looks at."""
    (tmp_path / "seen").mkdir()
    return (sys.executable, str(ODD), str(tmp_path / "seen"))


async def test_describes_the_model(engine: Engine, shared: Path) -> None:
    assert engine.description == {
        "id": engine.id,
        "task": "classification",
        "classes": list(place.CLASSES),
        "image_size": [place.SIDE, place.SIDE],
        "state": "ready",
        "waiting": 0,
    }
    assert engine.ready
    assert len(engine.id) == 16


async def test_answers_as_the_artifact_does_in_this_process(engine: Engine, shared: Path) -> None:
    replies = await asyncio.gather(*(engine.ask(place.ordinary(number)) for number in range(12)))
    for number, reply in enumerate(replies):
        assert place.row(reply) == place.expected(shared, place.ordinary(number))
        assert reply.model == engine.id
        assert set(reply.seconds) == {"queue", "decode", "infer"}
        assert min(reply.seconds.values()) >= 0
    assert len({reply.row for reply in replies}) == 12


async def test_the_question_reaches_the_task(engine: Engine, shared: Path) -> None:
    image = place.ordinary(3)
    reply = await engine.ask(image, top_k=1)
    assert place.row(reply) == place.expected(shared, image, top_k=1)
    assert len(place.row(reply)["confidences"]) == 1
    refusal = await place.refused(engine.ask(image, threshold=0.5))
    assert (refusal.status, refusal.code) == (422, "threshold_not_used")


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not_image"),
        (place.picture((1, 2, 3), suffix=".jpg")[:300], "truncated"),
        (place.picture((1, 2, 3), size=(4, 4)), "too_small"),
        (place.picture((1, 2, 3), size=(600, 9)), "too_elongated"),
    ],
)
async def test_what_is_no_picture_is_refused_with_the_decoders_code(
    engine: Engine, image: bytes, code: str
) -> None:
    refusal = await place.refused(engine.ask(image))
    assert (refusal.status, refusal.code, refusal.retry_after) == (422, code, None)
    assert 10 < len(refusal.message) <= 200
    assert place.row(await engine.ask(place.ordinary(1)))["labels"]


async def test_a_full_queue_refuses_while_the_worker_does_nothing(engine: Engine, shared: Path) -> None:
    with place.stopped(place.worker_of(shared)):
        asking = [asyncio.create_task(engine.ask(place.ordinary(number))) for number in range(12)]
        await asyncio.sleep(0)
        assert engine.description["waiting"] == 12
        refusal = await place.refused(engine.ask(place.ordinary(12)))
        assert (refusal.status, refusal.code) == (503, "queue_full")
        assert refusal.retry_after is not None
        assert refusal.retry_after >= 1
        for count in (1, 12):
            with pytest.raises(type(refusal), match="503 queue_full"):
                engine.admit(count)
        with pytest.raises(type(refusal), match="413 too_many_images"):
            engine.admit(13)
    assert len({reply.row for reply in await asyncio.gather(*asking)}) == 12
    engine.admit(12)


async def test_cancelled_questions_are_dropped_without_work(artifact: Path, odd, tmp_path: Path) -> None:
    async with place.engine(artifact, program=odd) as engine:
        images = [place.ordinary(number) for number in range(20)]
        with place.stopped(place.worker_of(artifact)):
            asking = [asyncio.create_task(engine.ask(image)) for image in images]
            await asyncio.sleep(0)
            for task in asking[:15]:
                task.cancel()
            await asyncio.wait(asking[:15])
            assert engine.description["waiting"] == 5
        await asyncio.gather(*asking[15:])
        looked_at = {path.name for path in (tmp_path / "seen").iterdir()}
    inside = engine_window()
    seen = [odd_worker.name_of(image) in looked_at for image in images]
    assert seen == [True] * inside + [False] * (15 - inside) + [True] * 5


def engine_window() -> int:
    """How many pictures are in a worker of one thread at a time."""
    return place.Capacity().window


async def test_in_a_batch_answers_are_those_of_one_by_one(artifact: Path) -> None:
    async with place.engine(artifact, max_batch=8) as engine:
        single = [place.row(await engine.ask(place.ordinary(number))) for number in range(8)]
        # Pictures of one call share its very duration. What is ready together is a matter of chance.
        together: list[list[Reply]] = []
        while not together or len({reply.seconds["infer"] for reply in together[-1]}) == 8:
            assert len(together) < 50
            with place.stopped(place.worker_of(artifact)):
                asking = [asyncio.create_task(engine.ask(place.ordinary(number))) for number in range(8)]
                await asyncio.sleep(0)
            together.append(await asyncio.gather(*asking))
    for one, reply in zip(single, together[-1], strict=True):
        row = place.row(reply)
        assert row["labels"] == one["labels"]
        assert row["confidences"] == pytest.approx(one["confidences"], abs=1e-4)


async def test_in_a_crowd_on_several_threads_answers_are_the_same(artifact: Path) -> None:
    async with place.engine(artifact, threads=2) as engine:
        for number in range(3):
            assert place.row(await engine.ask(place.ordinary(number))) == place.expected(
                artifact, place.ordinary(number)
            )
        replies = await asyncio.gather(*(engine.ask(place.ordinary(number)) for number in range(30)))
    for number, reply in enumerate(replies):
        assert place.row(reply) == place.expected(artifact, place.ordinary(number))


def test_who_is_alone_gets_all_threads_and_a_crowd_shares_them() -> None:
    sessions = Sessions(lambda _: {"wide": 0}, lambda _: {"narrow": 0}, crowd=2)
    asked = []
    for change in (sessions.enter, sessions.enter, sessions.enter, sessions.leave, sessions.leave):
        change()
        asked += sessions(np.zeros((1, 2, 2, 3), np.uint8))
    assert asked == ["wide", "narrow", "narrow", "narrow", "wide"]


@pytest.mark.parametrize(
    ("facts", "opened"),
    [({}, []), ({"threads": 2}, [1]), ({"threads": 5}, [3]), ({"threads": 4, "max_batch": 2}, [])],
)
def test_a_second_session_is_opened_only_where_there_is_something_to_share(
    shared: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, int], opened: list[int]
) -> None:
    exported, found = Exported.open(shared), []
    monkeypatch.setattr(Exported, "of", lambda artifact, *, threads: found.append(threads) or exported)
    Sessions.of(exported, place.Capacity(**facts))
    assert found == opened


async def test_one_bad_picture_in_a_batch_costs_no_other(artifact: Path) -> None:
    images = [place.ordinary(1), place.WHITE, place.ordinary(2), place.BLACK, b"none", place.ordinary(3)]
    async with place.engine(artifact, max_batch=8) as engine:
        for _ in range(5):
            with place.stopped(place.worker_of(artifact)):
                asking = [asyncio.create_task(place.outcome(engine.ask(image))) for image in images]
                await asyncio.sleep(0)
            found = await asyncio.gather(*asking)
            codes = [getattr(answer, "code", "") for answer in found]
            assert codes == ["", "inference_failed", "", "non_finite", "not_image", ""]
            for number, answer in ((1, found[0]), (2, found[2]), (3, found[5])):
                assert place.row(answer) == place.expected(artifact, place.ordinary(number))


async def test_what_waits_too_long_is_answered_and_a_slow_worker_lives(artifact: Path, odd) -> None:
    """Pictures take long, one after the other; that is no reason to kill a worker that gets on with them."""
    async with place.engine(artifact, program=odd, deadline=1.8, queue=64) as engine:
        before = place.worker_of(artifact)
        asking = [place.outcome(engine.ask(place.picture(odd_worker.YELLOW))) for _ in range(64)]
        codes = [getattr(answer, "code", "") for answer in await asyncio.gather(*asking)]
        assert set(codes) == {"", "timeout"}
        refusal = await place.outcome(engine.ask(place.ordinary(1)))
        assert place.worker_of(artifact) == before
        assert getattr(refusal, "code", "") in {"", "timeout", "overloaded"}


async def test_a_line_that_would_take_too_long_is_not_joined(artifact: Path, odd) -> None:
    async with place.engine(artifact, program=odd, deadline=2.0, queue=200) as engine:
        slow = place.picture(odd_worker.YELLOW)
        await asyncio.gather(*(engine.ask(slow) for _ in range(4)))
        asking = [asyncio.create_task(place.outcome(engine.ask(slow))) for _ in range(190)]
        await asyncio.sleep(0)
        refusals = [task.result() for task in asking if task.done()]
        assert len(refusals) > 50
        assert {refusal.code for refusal in refusals} == {"overloaded"}
        assert all(1 <= refusal.retry_after <= 60 for refusal in refusals)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def test_closing_answers_what_is_there_and_takes_no_more(artifact: Path) -> None:
    engine = Engine(artifact, name="colours", capacity=place.Capacity())
    await engine.start()
    worker = place.worker_of(artifact)
    with place.stopped(worker):
        asking = [asyncio.create_task(engine.ask(place.ordinary(number))) for number in range(10)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        assert not engine.ready
        refusal = await place.refused(engine.ask(place.ordinary(11)))
        assert (refusal.status, refusal.code) == (503, "draining")
    assert len({reply.row for reply in await asyncio.gather(*asking)}) == 10
    await closing
    assert worker not in place.children()


@pytest.mark.parametrize("how", place.BREAK)
async def test_a_broken_artifact_is_refused_with_its_code(artifact: Path, how: str) -> None:
    code, damage = place.BREAK[how]
    damage(artifact)
    engine = Engine(artifact, name="x", capacity=place.Capacity())
    with pytest.raises(ArtifactError) as caught:
        await engine.start()
    assert caught.value.code == code or not code
    assert caught.value.message
    await engine.close()


async def test_a_worker_that_cannot_be_run_is_the_machines_fault(artifact: Path) -> None:
    engine = Engine(artifact, name="x", capacity=place.Capacity(), program=("/nowhere/python",))
    with pytest.raises(MachineError, match="no worker could be started"):
        await engine.start()


@pytest.mark.parametrize("code", ["", "raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
async def test_a_worker_that_ends_before_it_is_ready_is_told(artifact: Path, code: str) -> None:
    engine = Engine(artifact, name="x", capacity=place.Capacity(), program=(sys.executable, "-c", code))
    with pytest.raises(ArtifactError) as caught:
        await engine.start()
    assert caught.value.code == "worker_lost"


async def test_a_cancelled_start_leaves_nothing_behind(artifact: Path) -> None:
    engine = Engine(artifact, name="x", capacity=place.Capacity())
    starting = asyncio.create_task(engine.start())
    before = set(place.children())
    await place.until(lambda: set(place.children()) > before)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
