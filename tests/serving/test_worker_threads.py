"""A worker that gets too few threads says so before its runtime, which would wait for them, is asked."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest
from engine_place import write

from pictune.errors import ArtifactError
from pictune.serving.capacity import Capacity
from pictune.serving.supervision import Worker
from pictune.serving.worker import check_threads

FEW = """
import sys, threading
from pictune.serving import worker

begun, whole = [], threading.Thread.start

def start(thread):
    if len(begun) >= 5:
        raise RuntimeError("can't start new thread")
    begun.append(thread)
    whole(thread)

threading.Thread.start = start
worker.main(sys.argv[1:])
"""


def test_enough_threads_are_all_gone_afterwards() -> None:
    before = threading.active_count()
    check_threads(40)
    assert threading.active_count() == before


def test_too_few_threads_are_told_and_the_worker_ends(tmp_path: Path) -> None:
    write(tmp_path / "x.pictune")

    async def begun(threads: int) -> Worker:
        capacity = Capacity(threads=threads)
        return await Worker.start(
            tmp_path / "x.pictune", capacity=capacity, program=(sys.executable, "-c", FEW), limit=60
        )

    with pytest.raises(ArtifactError, match=r"gives 5 threads, and 10 are needed") as caught:
        asyncio.run(begun(4))
    assert caught.value.code == "no_threads"
    assert "--threads" in caught.value.instead


@pytest.mark.parametrize(("threads", "most"), [(1, 5), (2, 7), (5, 12), (64, 100)])
def test_what_a_worker_may_need(threads: int, most: int) -> None:
    """One session of all threads, one of half of them, two that decode, and the calls themselves."""
    assert Capacity(threads=threads).most_threads == most
