"""Frames between the server and a worker: a JSON head and raw bytes, over a pair of unix sockets.

    4 bytes  length of the head, big-endian
    8 bytes  length of the payload, big-endian
    head     a JSON object, UTF-8
    payload  raw bytes: a picture on the way in, a JSON row on the way out

Nothing else is ever unpacked, so neither side can make the other run anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

PREFIX = struct.Struct(">IQ")
MOST_HEAD = 64 * 1024  # bytes
MOST_PAYLOAD = 1024**3  # bytes; a row with the mask of the largest picture is far below
STEP = 1024**2  # bytes at a time when a payload is thrown away
_encode = json.JSONEncoder(allow_nan=False).encode
_decode = json.JSONDecoder().decode


class FrameError(Exception):
    """What arrived is no frame; the connection cannot be used any more."""


class NoRoomError(Exception):
    """There was no memory for a payload; it was skipped, and the next frame can be read.

    Args:
        head: Of the frame.
    """

    def __init__(self, head: Mapping[str, Any]) -> None:
        self.head = head
        super().__init__("no memory for a payload")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Args:
        head: Plain values; ``kind`` says what it is about.
        payload: Raw bytes.
    """

    head: Mapping[str, Any]
    payload: bytes = field(default=b"", repr=False)

    def pack(self) -> bytes:
        """As it is sent."""
        return b"".join(self.parts())

    def parts(self) -> tuple[bytes, bytes]:
        """The same in two parts, so that a large payload need not be copied."""
        head = _encode(self.head).encode()
        assert len(head) <= MOST_HEAD, "long things are payload"
        assert len(self.payload) <= MOST_PAYLOAD
        return PREFIX.pack(len(head), len(self.payload)) + head, self.payload


def read_frame(stream: BinaryIO) -> Frame | None:
    """Waits for the next frame; None when the other side has closed between two frames.

    Raises:
        FrameError: When the other side closed within a frame, or what came is none.
        NoRoomError: When there is no memory for the payload.
    """
    prefix = stream.read(PREFIX.size)
    if not prefix:
        return None
    head_length, length = _lengths(_whole(prefix, PREFIX.size))
    head = _parse(_whole(stream.read(head_length), head_length))
    try:
        payload = stream.read(length)  # asks for all of the memory before it takes a byte
    except MemoryError:
        _skip(stream, length)
        raise NoRoomError(head) from None
    return Frame(head, _whole(payload, length))


def take_frame(came: bytearray) -> Frame | None:
    """Takes the frame at the front out of what came; None while it is not there whole.

    Raises:
        FrameError: When what came is none.
    """
    if len(came) < PREFIX.size:
        return None
    head_length, length = _lengths(came[: PREFIX.size])
    begin = PREFIX.size + head_length
    if len(came) < begin + length:
        return None
    frame = Frame(_parse(came[PREFIX.size : begin]), bytes(memoryview(came)[begin : begin + length]))
    del came[: begin + length]
    return frame


def _lengths(prefix: bytes | bytearray) -> tuple[int, int]:
    head, payload = PREFIX.unpack(prefix)
    if head > MOST_HEAD or payload > MOST_PAYLOAD:
        raise FrameError(f"a frame of {head} and {payload} bytes is too large")
    return head, payload


def _parse(data: bytes | bytearray) -> dict[str, Any]:
    try:
        head = _decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise FrameError("the head of a frame is no JSON") from None
    if not isinstance(head, dict):
        raise FrameError("the head of a frame is no object")
    return head


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise FrameError("the connection ended within a frame")
    return data


def _skip(stream: BinaryIO, length: int) -> None:
    left = length
    while left:
        left -= len(_whole(stream.read(min(STEP, left)), min(STEP, left)))
