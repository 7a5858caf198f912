"""Frames: what is packed comes out again, on both kinds of reader, and what is no frame is an error."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictune.data.decoding import Limits
from pictune.serving.frames import (
    HEAD,
    KINDS,
    MOST_PAYLOAD,
    Frame,
    FrameError,
    read_frame,
)
from pictune.serving.hearing import Hearing

PIECE = 17  # bytes that come at a time

VALUE = st.none() | st.floats(allow_nan=False)
FRAMES = st.builds(
    Frame,
    st.sampled_from(KINDS),
    st.integers(0, 2**64 - 1),
    st.tuples(VALUE, VALUE),
    st.binary(max_size=300),
)


def read(data: bytes) -> list[Frame]:
    """All frames, as a worker reads them."""
    stream = io.BytesIO(data)
    return list(iter(lambda: read_frame(stream), None))


def receive(data: bytes) -> list[Frame]:
    """All frames, as the server reads them."""

    async def everything() -> list[Frame]:
        hearing, found = Hearing(), []
        hearing.connection_made(Mock(asyncio.Transport))
        for start in range(0, len(data), PIECE):
            hearing.data_received(data[start : start + PIECE])
        hearing.connection_lost(None)
        first = await hearing.first()
        if first is not None:
            found.append(first)
        await hearing.listen(found.append)
        return found

    return asyncio.run(everything())


both = pytest.mark.parametrize("taken", [read, receive])


@given(st.lists(FRAMES, max_size=4))
def test_what_is_packed_comes_out_again(frames: list[Frame]) -> None:
    data = b"".join(frame.pack() for frame in frames)
    assert read(data) == receive(data) == frames


@given(FRAMES, st.data())
def test_half_a_frame_is_an_error(frame: Frame, data: st.DataObject) -> None:
    packed = frame.pack()
    part = packed[: data.draw(st.integers(1, len(packed) - 1))]
    for taken in (read, receive):
        with pytest.raises(FrameError, match="ended within"):
            taken(part)


@both
@pytest.mark.parametrize("code", [len(KINDS), 255])
def test_what_is_of_no_kind_is_an_error(taken, code: int) -> None:
    with pytest.raises(FrameError, match="no kind"):
        taken(HEAD.pack(code, 0, 0.0, 0.0, 0))


@both
@pytest.mark.parametrize("length", [MOST_PAYLOAD + 1, 2**64 - 1])
def test_sizes_are_checked_before_anything_is_read(taken, length: int) -> None:
    with pytest.raises(FrameError, match="too large"):
        taken(HEAD.pack(0, 0, 0.0, 0.0, length) + b"{}")


def test_a_payload_without_room_is_skipped() -> None:
    """In a process of its own, whose memory is limited to less than the payload."""
    code = f"""
import io, resource, sys
sys.path[:0] = {sys.path!r}
from pictune.serving.frames import *
class Endless(io.RawIOBase):
    def __init__(self, parts): self.parts = parts
    def readable(self): return True
    def readinto(self, target):
        name, left = self.parts[0]
        if name is None:
            n = min(left, len(target))
        else:
            n = min(len(name) - left, len(target)); target[:n] = name[left:left+n]
        left = left - n if name is None else left + n
        self.parts[0] = (name, left)
        if left == 0 or (name is not None and left == len(name)): del self.parts[0]
        return n
size = 900 * 2**20
stream = io.BufferedReader(Endless([(HEAD.pack(0, 1, 0.0, 0.0, size), 0), (None, size),
                                    (Frame("ask", 2, payload=b"x").pack(), 0)]))
resource.setrlimit(resource.RLIMIT_AS, (700 * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
try:
    read_frame(stream)
except NoRoomError as error:
    print(error.number, read_frame(stream).number)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "1 2\n", ended.stderr


def test_a_payload_may_be_as_large_as_any_picture() -> None:
    assert Limits().max_bytes <= MOST_PAYLOAD


def frames(count: int) -> list[Frame]:
    return [Frame("row", number, payload=bytes(number)) for number in range(count)]


def test_what_comes_before_somebody_listens_is_kept_in_its_order() -> None:
    async def heard() -> list[Frame]:
        hearing, found = Hearing(), []
        hearing.connection_made(Mock(asyncio.Transport))
        for frame in frames(3):
            hearing.data_received(frame.pack())
        assert await hearing.first() == frames(1)[0]
        listening = asyncio.create_task(hearing.listen(found.append))
        await asyncio.sleep(0)
        assert found == frames(3)[1:]
        hearing.data_received(frames(5)[3].pack() + frames(5)[4].pack())
        assert found == frames(5)[1:]  # at once, not in the loop's next turn
        listening.cancel()
        await asyncio.wait({listening})
        hearing.data_received(frames(6)[5].pack())
        return found

    assert asyncio.run(heard()) == frames(5)[1:]


def test_what_cannot_be_heard_ends_the_connection_and_is_raised() -> None:
    transport = Mock(asyncio.Transport)

    async def heard() -> None:
        hearing = Hearing()
        hearing.connection_made(transport)
        hearing.data_received(frames(1)[0].pack())
        listening = asyncio.create_task(hearing.listen(lambda frame: 1 / 0))
        await asyncio.sleep(0)
        hearing.data_received(frames(2)[1].pack() * 2)
        hearing.connection_lost(None)
        await listening

    with pytest.raises(ZeroDivisionError):
        asyncio.run(heard())
    transport.abort.assert_called_once()


def test_a_worker_that_goes_without_a_word_says_nothing_first() -> None:
    async def first() -> Frame | None:
        hearing = Hearing()
        hearing.connection_made(Mock(asyncio.Transport))
        hearing.connection_lost(ConnectionResetError())
        with pytest.raises(ConnectionResetError):
            await hearing.listen(print)
        return await hearing.first()

    assert asyncio.run(first()) is None
