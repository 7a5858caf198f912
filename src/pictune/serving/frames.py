"""Frames between the server and a worker, over a pair of unix sockets: fixed fields, then raw bytes.

    1 byte   what it is about, a place in KINDS
    8 bytes  the number of a picture, big-endian, as all that follow
    8 bytes  a double, and
    8 bytes  another one; NaN stands for none
    8 bytes  length of the payload
    payload  a picture on the way in, JSON on the way out

Nothing else is ever unpacked, so neither side can make the other run anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import isnan, nan
from typing import BinaryIO, Literal, get_args

Kind = Literal["ask", "stop", "ready", "unusable", "row", "refused"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HEAD = struct.Struct(">BQddQ")
MOST_PAYLOAD = 1024**3  # bytes; a row with the mask of the largest picture is far below
STEP = 1024**2  # bytes at a time when a payload is thrown away

_CODES = {kind: code for code, kind in enumerate(KINDS)}


class FrameError(Exception):
    """What arrived is no frame; the connection cannot be used any more."""


class NoRoomError(Exception):
    """There was no memory for a payload; it was skipped, and the next frame can be read.

    Args:
        number: Of the picture.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__("no memory for a payload")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Args:
        kind: What it is about.
        number: Of the picture that it is about.
        values: What the kind has it say, each a float or None.
        payload: Raw bytes.
    """

    kind: Kind
    number: int = 0
    values: tuple[float | None, float | None] = (None, None)
    payload: bytes = field(default=b"", repr=False)

    def pack(self) -> bytes:
        """As it is sent."""
        return b"".join(self.parts())

    def parts(self) -> tuple[bytes, bytes]:
        """The same in two parts, so that a large payload need not be copied."""
        assert len(self.payload) <= MOST_PAYLOAD
        one, other = self.values
        one, other = nan if one is None else one, nan if other is None else other
        return HEAD.pack(_CODES[self.kind], self.number, one, other, len(self.payload)), self.payload


def read_frame(stream: BinaryIO) -> Frame | None:
    """Waits for the next frame; None when the other side has closed between two frames.

    Raises:
        FrameError: When the other side closed within a frame, or what came is none.
        NoRoomError: When there is no memory for the payload.
    """
    head = stream.read(HEAD.size)
    if not head:
        return None
    kind, number, values, length = _fields(_whole(head, HEAD.size))
    try:
        payload = stream.read(length)  # asks for all of the memory before it takes a byte
    except MemoryError:
        _skip(stream, length)
        raise NoRoomError(number) from None
    return Frame(kind, number, values, _whole(payload, length))


def take_frame(came: bytearray) -> Frame | None:
    """Takes the frame at the front out of what came; None while it is not there whole.

    Raises:
        FrameError: When what came is none.
    """
    if len(came) < HEAD.size:
        return None
    kind, number, values, length = _fields(came)
    end = HEAD.size + length
    if len(came) < end:
        return None
    payload = bytes(memoryview(came)[HEAD.size : end])
    del came[:end]
    return Frame(kind, number, values, payload)


def _fields(head: bytes | bytearray) -> tuple[Kind, int, tuple[float | None, float | None], int]:
    """What stands at the beginning: kind, number, values and length of the payload."""
    code, number, one, other, length = HEAD.unpack_from(head)
    if code >= len(KINDS):
        raise FrameError(f"there is no kind {code} of frames")
    if length > MOST_PAYLOAD:
        raise FrameError(f"a frame of {length} bytes is too large")
    return KINDS[code], number, (None if isnan(one) else one, None if isnan(other) else other), length


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise FrameError("the connection ended within a frame")
    return data


def _skip(stream: BinaryIO, length: int) -> None:
    left = length
    while left:
        left -= len(_whole(stream.read(min(STEP, left)), min(STEP, left)))
