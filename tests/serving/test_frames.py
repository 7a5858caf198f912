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
    MOST_HEAD,
    MOST_PAYLOAD,
    PREFIX,
    Frame,
    FrameError,
    read_frame,
)
from pictune.serving.hearing import Hearing

PIECE = 17  # bytes that come at a time

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FRAMES = st.builds(Frame, st.dictionaries(st.text(max_size=9), PLAIN, max_size=4), st.binary(max_size=300))


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
@pytest.mark.parametrize("head", [b"", b"no JSON", b"[1]", b'"text"', b"\xff\xfe", b"[" * 5000])
def test_a_head_that_is_no_object_is_an_error(taken, head: bytes) -> None:
    with pytest.raises(FrameError, match="the head of a frame"):
        taken(PREFIX.pack(len(head), 0) + head)


@both
@pytest.mark.parametrize("lengths", [(MOST_HEAD + 1, 0), (2, MOST_PAYLOAD + 1), (2**32 - 1, 2**64 - 1)])
def test_sizes_are_checked_before_anything_is_read(taken, lengths: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match="too large"):
        taken(PREFIX.pack(*lengths) + b"{}")


def test_numbers_that_are_none_are_not_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Frame({"seconds": float("nan")}).pack()


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
first = Frame({{"number": 1}}).pack()[len(PREFIX.pack(0, 0)):]
stream = io.BufferedReader(Endless([(PREFIX.pack(len(first), size) + first, 0), (None, size),
                                    (Frame({{"number": 2}}, b"x").pack(), 0)]))
resource.setrlimit(resource.RLIMIT_AS, (700 * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
try:
    read_frame(stream)
except NoRoomError as error:
    print(error.head["number"], read_frame(stream))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "1 Frame(head={'number': 2})\n", ended.stderr


def test_a_payload_may_be_as_large_as_any_picture() -> None:
    assert Limits().max_bytes <= MOST_PAYLOAD


def frames(count: int) -> list[Frame]:
    return [Frame({"number": number}, bytes(number)) for number in range(count)]


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
