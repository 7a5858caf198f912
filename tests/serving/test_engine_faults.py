"""Faults of workers (RELIABILITY F11, F12, F14): whatever happens, every question is answered, and no other
process than the right ones is left.

F12, a network that raises or answers with what is no number, stands in test_engine.py beside batches.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import engine_place as place
import numpy as np
import odd_worker
import pytest

from pictune.exporting.exported import Exported
from pictune.serving import engine as engine_module
from pictune.serving.engine import Engine, Reply

pytestmark = pytest.mark.anyio
ROUNDS = 20
PICTURES = 64  # that clients ask about
PAUSE = 0.005  # seconds between a client's questions
MB = 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio", {"use_uvloop": True}  # as the server runs


@pytest.fixture
def artifact(tmp_path: Path) -> Iterator[Path]:
    """An artifact; afterwards every process that the test started must be gone."""
    path = tmp_path / "own.pictune"
    place.write(path)
    assert place.children() == {}
    yield path
    assert place.children() == {}


@pytest.fixture
def odd(tmp_path: Path) -> tuple[str, ...]:
    """The program of a worker with surprises; see odd_worker.py."""
    (tmp_path / "seen").mkdir()
    return (sys.executable, str(Path(odd_worker.__file__)), str(tmp_path / "seen"))


class Counter:
    """Whom the engine tells."""

    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.given_up: list[str] = []

    def worker_restarted(self, name: str, /) -> None:
        self.restarted.append(name)

    def give_up(self, name: str) -> None:
        self.given_up.append(name)


class Clients:
    """Clients that ask one question after the other, until the test has seen enough."""

    def __init__(self, engine: Engine, path: Path, count: int = 8) -> None:
        self.engine, self.exported = engine, Exported.open(path)
        self.answers: list[tuple[int, object]] = []
        self.enough = False
        self._tasks = [asyncio.create_task(self._ask(random.Random(number))) for number in range(count)]

    async def _ask(self, dice: random.Random) -> None:
        while not self.enough:
            number = dice.randrange(PICTURES)
            self.answers.append((number, await place.outcome(self.engine.ask(place.ordinary(number)))))
            await asyncio.sleep(dice.uniform(0, 2 * PAUSE))

    async def finish(self) -> None:
        """Lets each have its last answer."""
        self.enough = True
        await asyncio.gather(*self._tasks)

    @property
    def codes(self) -> set[str]:
        """Of the refusals."""
        return {answer.code for _, answer in self.answers if not isinstance(answer, Reply)}

    def check(self) -> None:
        """Every answer is that of its own picture."""
        right = {}
        for number, answer in self.answers:
            if isinstance(answer, Reply):
                if number not in right:
                    right[number] = place.expected(self.exported, place.ordinary(number))
                assert place.row(answer) == right[number]


@pytest.mark.slow
async def test_f11_a_worker_is_killed_under_load(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "DEATHS", ROUNDS + 1)
    counter = Counter()
    async with place.engine(artifact, watcher=counter, threads=2) as engine:
        clients = Clients(engine, artifact)
        for round_number in range(ROUNDS):
            answered = len(clients.answers)
            await place.until(lambda seen=answered: len(clients.answers) > seen + 20)
            await asyncio.sleep(random.Random(round_number).uniform(0, 0.02))
            os.kill(place.worker_of(artifact), signal.SIGKILL)
            await place.until(lambda: not engine.ready)
            await place.until(lambda: engine.ready)
        await clients.finish()
    assert counter.restarted == ["colours"] * ROUNDS
    # Each was asked again, and no worker died twice over the same.
    assert clients.codes == set()
    clients.check()


@pytest.mark.slow
async def test_f11_a_worker_hangs_under_load(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "DEATHS", 5 * ROUNDS)
    counter = Counter()
    async with place.engine(artifact, watcher=counter, threads=2, deadline=0.3) as engine:
        clients = Clients(engine, artifact)
        for round_number in range(1, ROUNDS + 1):
            answered = len(clients.answers)
            await place.until(lambda seen=answered: len(clients.answers) > seen + 20)
            os.kill(place.worker_of(artifact), signal.SIGSTOP)
            await place.until(lambda wanted=round_number: len(counter.restarted) >= wanted)
            await place.until(lambda: engine.ready)
        await clients.finish()
    assert set(counter.restarted) == {"colours"}
    assert "timeout" in clients.codes
    assert clients.codes <= {"timeout", "worker_lost"}
    clients.check()


async def test_f11_after_three_deaths_in_a_minute_the_engine_gives_up(artifact: Path) -> None:
    counter = Counter()
    async with place.engine(artifact, watcher=counter, given_up=counter.give_up) as engine:
        for wanted in (1, 2):
            os.kill(place.worker_of(artifact), signal.SIGKILL)
            await place.until(lambda wanted=wanted: len(counter.restarted) == wanted)
            await place.until(lambda: engine.ready)
        last = place.worker_of(artifact)
        with place.stopped(last):
            asking = [asyncio.create_task(place.outcome(engine.ask(place.ordinary(n)))) for n in range(8)]
            await asyncio.sleep(0)
            os.kill(last, signal.SIGKILL)
            for refusal in await asyncio.gather(*asking):
                assert (refusal.status, refusal.code, refusal.retry_after) == (503, "worker_lost", 1)
        refusal = await place.refused(engine.ask(place.ordinary(1)))
        assert (refusal.status, refusal.code) == (503, "worker_lost")
        assert counter.given_up == ["colours"]
        assert counter.restarted == ["colours"] * 2
        assert engine.description["state"] == "given_up"
        assert not engine.ready
        assert place.children() == {}


async def test_a_file_that_was_written_over_is_not_taken_up_by_a_death(artifact: Path) -> None:
    """`cp` writes into the file that the server has open; `mv` and `export` do not."""
    other = artifact.with_name("other.pictune")
    place.write(other, lean=(9, 0, 0))
    counter = Counter()
    async with place.engine(artifact, watcher=counter, given_up=counter.give_up) as engine:
        before = engine.id
        number = place.worker_of(artifact)
        artifact.write_bytes(other.read_bytes())
        os.kill(number, signal.SIGKILL)
        await place.until(lambda: counter.given_up == ["colours"])
        assert engine.id == before
        assert place.children() == {}


async def test_f11_deaths_longer_ago_are_forgiven(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "WITHIN", 0.2)
    counter = Counter()
    async with place.engine(artifact, watcher=counter, given_up=counter.give_up) as engine:
        for wanted in range(1, 5):
            os.kill(place.worker_of(artifact), signal.SIGKILL)
            await place.until(lambda wanted=wanted: len(counter.restarted) == wanted)
            await place.until(lambda: engine.ready)
        assert place.row(await engine.ask(place.ordinary(1))) == place.expected(artifact, place.ordinary(1))
    assert counter.given_up == []


async def test_f11_a_picture_that_kills_costs_no_other_its_answer(artifact: Path, odd) -> None:
    counter = Counter()
    images = [place.ordinary(1), place.picture(odd_worker.CYAN), *map(place.ordinary, range(2, 9))]
    async with place.engine(
        artifact, program=odd, threads=2, watcher=counter, given_up=counter.give_up
    ) as engine:
        answers = await asyncio.gather(*(place.outcome(engine.ask(image)) for image in images))
        assert [getattr(answer, "code", "") for answer in answers] == ["", "worker_lost", *[""] * 7]
        assert counter.restarted == ["colours"] * 2
        assert counter.given_up == []


async def test_f11_a_decoder_that_hangs_is_noticed_while_the_others_work(artifact: Path, odd) -> None:
    counter = Counter()
    async with place.engine(artifact, program=odd, threads=2, deadline=1.0, watcher=counter) as engine:
        clients = Clients(engine, artifact, count=2)
        refusal = await place.refused(engine.ask(place.picture(odd_worker.MAGENTA)))
        assert (refusal.status, refusal.code) == (503, "timeout")
        await place.until(lambda: counter.restarted == ["colours"])
        await place.until(lambda: engine.ready)
        await engine.ask(place.ordinary(1))
        await clients.finish()
    assert counter.restarted == ["colours"]
    assert clients.codes <= {"timeout"}
    clients.check()


async def test_f11_a_worker_that_talks_nonsense_is_replaced(artifact: Path, odd) -> None:
    counter = Counter()
    async with place.engine(artifact, program=odd, watcher=counter) as engine:
        refusal = await place.refused(engine.ask(place.picture(odd_worker.GREY)))
        assert (refusal.status, refusal.code) == (503, "worker_lost")
        assert counter.restarted == ["colours"] * 2
        assert place.row(await engine.ask(place.ordinary(1)))["labels"]


@pytest.mark.parametrize(
    "answer",
    [
        'Frame("row", frame.number, payload=b"{}")',
        'Frame("row", frame.number, (0.1, None), b"{}")',
        'Frame("ready", frame.number)',
        'Frame("refused", frame.number, payload=b"[]")',
        'Frame("refused", frame.number, payload=b"{")',
        'Frame("refused", frame.number, payload=b"[" * 100_000)',
        'Frame("refused", frame.number, payload=b\'{"status": "x", "retry_after": 1}\')',
    ],
)
async def test_f11_a_worker_that_gives_no_proper_answer_is_replaced(artifact: Path, answer: str) -> None:
    """A program that says it is ready and then something that workers never say; three times is too often."""
    code = f"""
import socket, sys
from pictune.serving.frames import Frame, read_frame
line = socket.socket(fileno=int(sys.argv[sys.argv.index("--socket") + 1]))
line.sendall(Frame("ready", payload=b'{{"id": "x"}}').pack())
stream = line.makefile("rb")
while frame := read_frame(stream):
    line.sendall({answer}.pack())
"""
    counter = Counter()
    async with place.engine(
        artifact, program=(sys.executable, "-c", code), watcher=counter, given_up=counter.give_up
    ) as engine:
        refusal = await place.refused(engine.ask(place.ordinary(1)))
        assert refusal.code == "worker_lost"
        refusal = await place.refused(engine.ask(place.ordinary(1)))
        assert refusal.code == "worker_lost"
        assert counter.given_up == ["colours"]


async def test_f11_a_replaced_worker_answers_with_the_same_model(artifact: Path, tmp_path: Path) -> None:
    """Though another file was put in the artifact's place, as `pictune export` does, and a broken one."""
    counter = Counter()
    async with place.engine(artifact, watcher=counter) as engine:
        model, answer = engine.id, (await engine.ask(place.ordinary(1))).row
        place.write(tmp_path / "other.pictune", lean=(9, 0, 0))
        (tmp_path / "broken").write_bytes(b"")
        for other, restarts in ((tmp_path / "other.pictune", 1), (tmp_path / "broken", 2)):
            other.replace(artifact)
            os.kill(place.worker_of(artifact), signal.SIGKILL)
            await place.until(lambda wanted=restarts: len(counter.restarted) == wanted)
            reply = await engine.ask(place.ordinary(1))
            assert (reply.model, reply.row) == (model, answer)


async def test_f11_without_its_artifact_a_worker_cannot_be_replaced(tmp_path: Path) -> None:
    """A folder is not pinned: what was removed from it is gone."""
    folder = tmp_path / "folder"
    place.write(folder)
    counter = Counter()
    async with place.engine(folder, watcher=counter, given_up=counter.give_up) as engine:
        number = place.worker_of(folder)
        shutil.rmtree(folder)
        assert place.row(await engine.ask(place.ordinary(1)))["labels"]
        os.kill(number, signal.SIGKILL)
        refusal = await place.refused(engine.ask(place.ordinary(1)))
        assert refusal.code == "worker_lost"
        assert counter.given_up == ["colours"]
    assert place.children() == {}


async def test_signals_of_the_terminal_do_not_reach_a_worker(artifact: Path) -> None:
    async with place.engine(artifact) as engine:
        number = place.worker_of(artifact)
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(number, signal_number)
        assert place.row(await engine.ask(place.ordinary(1)))["labels"]
        assert place.worker_of(artifact) == number
        assert os.getsid(number) == number


@pytest.mark.parametrize("hanging", [False, True])
async def test_a_worker_dies_with_its_server(artifact: Path, hanging: bool) -> None:
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(place.__file__).parent)!r})
from pathlib import Path
import engine_place as place
async def serve():
    async with place.engine(Path({str(artifact)!r})):
        print(place.worker_of(Path({str(artifact)!r})), flush=True)
        await asyncio.sleep(3600)
asyncio.run(serve())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        number = int(await asyncio.to_thread(server.stdout.readline))
        assert place.alive(number)
        if hanging:
            os.kill(number, signal.SIGSTOP)
        server.kill()
    await place.until(lambda: not place.alive(number))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
async def test_f14_a_picture_for_which_memory_does_not_suffice(artifact: Path, suffix: str) -> None:
    large = place.picture((200, 30, 60), size=(6000, 6000), suffix=suffix)
    async with place.engine(artifact, headroom=64 * MB) as engine:
        before = place.worker_of(artifact)
        for _ in range(3):
            refusal = await place.refused(engine.ask(large))
            assert (refusal.status, refusal.code, refusal.retry_after) == (503, "out_of_memory", 1)
            reply = await engine.ask(place.ordinary(1))
            assert place.row(reply) == place.expected(artifact, place.ordinary(1))
        assert place.worker_of(artifact) == before


async def test_f14_a_file_for_which_memory_does_not_suffice(artifact: Path) -> None:
    """There is no room even for the bytes; they are skipped, and the next picture is answered."""
    async with place.engine(artifact, headroom=64 * MB) as engine:
        before = place.worker_of(artifact)
        noise = np.random.default_rng(0).integers(0, 256, (5000, 6000, 3), dtype=np.uint8)
        refusal = await place.refused(engine.ask(cv2.imencode(".bmp", noise)[1].tobytes()))
        assert (refusal.status, refusal.code) == (503, "out_of_memory")
        assert place.row(await engine.ask(place.ordinary(1)))["labels"]
        assert place.worker_of(artifact) == before


async def test_closing_a_hanging_engine_ends(artifact: Path) -> None:
    async with place.engine(artifact, deadline=0.3) as engine:
        place.stop(place.worker_of(artifact))
        asking = asyncio.create_task(place.outcome(engine.ask(place.ordinary(1))))
        await asyncio.sleep(0)
        await engine.close()
        assert (await asking).code == "timeout"


async def test_a_cancelled_close_kills_at_once(artifact: Path) -> None:
    async with place.engine(artifact) as engine:
        place.stop(place.worker_of(artifact))
        asking = asyncio.create_task(place.outcome(engine.ask(place.ordinary(1))))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        assert closing.cancelled()
        assert place.children() == {}
        asking.cancel()
