"""The headers of GIF, BMP and WebP files."""

from __future__ import annotations

from pictune.data.headers.exif import UNKNOWN, read_exif
from pictune.data.headers.header import (
    Header,
    Limits,
    colour_profile_notes,
    exif_notes,
    refuse,
    trailing_notes,
    warn,
)

_MAX_BLOCKS = 4_000_000  # Data blocks of a GIF hold at most 255 bytes each.
_AGAIN = "Copy or download it again."


def _little(data: bytes, position: int, size: int, *, signed: bool = False) -> int:
    return int.from_bytes(data[position : position + size], "little", signed=signed)


def read_gif(data: bytes, limits: Limits) -> Header:
    """Counts the frames and keeps the first (GIF89a specification).

    Raises:
        DataError: ``truncated``, ``corrupt`` or a size out of bounds.
    """
    width, height = _little(data, 6, 2), _little(data, 8, 2)
    limits.check_size(width, height)
    frames, position, first_end = 0, 13 + _gif_colours(data, 10), 0
    while data[position : position + 1] != b";":
        kind = data[position : position + 1]
        if kind == b"!":
            position = _gif_skip_blocks(data, position + 2)
        elif kind == b",":
            width = max(width, _little(data, position + 1, 2) + _little(data, position + 5, 2))
            height = max(height, _little(data, position + 3, 2) + _little(data, position + 7, 2))
            limits.check_size(width, height)
            position = _gif_skip_blocks(data, position + 11 + _gif_colours(data, position + 9))
            frames += 1
            first_end = first_end or position
        elif not kind:
            raise refuse("truncated", "The GIF ends before its picture does.", _AGAIN)
        else:
            raise refuse("corrupt", "The GIF holds a block of no known kind.", _AGAIN)
    if not frames:
        raise refuse("corrupt", "The GIF has no picture in it.", _AGAIN)
    notes = (warn("animated", f"{frames} frames; only the first is used."),) if frames > 1 else ()
    payload = data[:first_end] + b";"
    return Header("gif", width, height, payload, notes + trailing_notes(data[position + 1 :]))


def _gif_colours(data: bytes, position: int) -> int:
    """The size in bytes of the colour table announced at a position."""
    flags = _little(data, position, 1)
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_skip_blocks(data: bytes, position: int) -> int:
    """The position after a run of data blocks."""
    for _ in range(_MAX_BLOCKS):
        if position >= len(data):
            raise refuse("truncated", "The GIF ends before its picture does.", _AGAIN)
        size = data[position]
        position += 1 + size
        if size == 0:
            return position
    raise refuse("corrupt", "The GIF has far too many data blocks.", "Save the picture again.")


def read_bmp(data: bytes, limits: Limits) -> Header:
    """Reads the size from the bitmap header.

    Raises:
        DataError: ``truncated`` or a size out of bounds.
    """
    if len(data) < 26:
        raise refuse("truncated", "The BMP ends inside its header.", _AGAIN)
    if _little(data, 14, 4) == 12:
        width, height = _little(data, 18, 2), _little(data, 20, 2)
    else:
        width, height = _little(data, 18, 4, signed=True), abs(_little(data, 22, 4, signed=True))
    limits.check_size(width, height)
    return Header("bmp", width, height, data)


def read_webp(data: bytes, limits: Limits) -> Header:
    """Reads the size, the number of frames and the metadata (WebP container specification).

    Raises:
        DataError: ``truncated``, ``corrupt`` or a size out of bounds.
    """
    stop = 8 + _little(data, 4, 4)
    size = _webp_size(data)
    limits.check_size(*size)
    if stop > len(data):
        raise refuse("truncated", "The WebP ends before its picture does.", _AGAIN)
    frames, position = 0, 12
    exif, profile = UNKNOWN, None
    while position + 8 <= stop:
        name, length = data[position : position + 4], _little(data, position + 4, 4)
        content = position + 8
        if name == b"ANMF":
            frames += 1
        elif name == b"EXIF":
            exif = read_exif(data[content : min(content + length, stop)])
        elif name == b"ICCP":
            profile = data[content : min(content + length, stop)]
        position = content + length + length % 2
    notes = (*exif_notes(exif), *colour_profile_notes(profile), *trailing_notes(data[stop + stop % 2 :]))
    if frames > 1:
        notes += (warn("animated", f"{frames} frames; only the first is used."),)
    return Header("webp", *size, payload=data[:stop], notes=notes, exif=exif)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if len(data) < 30:
        raise refuse("truncated", "The WebP ends inside its header.", _AGAIN)
    if kind == b"VP8X":
        return 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = _little(data, 21, 4)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    raise refuse("corrupt", "The WebP has no picture where it should be.", _AGAIN)
