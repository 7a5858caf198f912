"""The header and the chunks of a PNG file (ISO/IEC 15948)."""

from __future__ import annotations

import zlib

from pictune.data.headers.exif import read_exif
from pictune.data.headers.header import (
    Header,
    Limits,
    Note,
    colour_profile_notes,
    exif_notes,
    inflate,
    normalise,
    refuse,
    trailing_notes,
    warn,
)

_SIGNATURE_SIZE = 8
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGBA: (8, 16),
}
_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_MAX_CHUNKS = 200_000


def read_png(data: bytes, limits: Limits) -> Header:
    """Reads every chunk, checks every checksum, and keeps what the pixels need.

    Raises:
        DataError: ``truncated``, ``corrupt``, ``metadata_bomb`` or a size out of bounds.
    """
    width, height, depth, colour = _image_header(data, limits)
    kept = [data[:_SIGNATURE_SIZE]]
    first: dict[bytes, bytes] = {}
    chunks, end = _chunks(data)
    for name, start, stop in chunks:
        if name in _NEEDED:
            kept.append(data[start - 8 : stop + 4])
        if name != b"IDAT":
            content = data[start:stop]
            _check_metadata(name, content, limits)
            first.setdefault(name, content)
        else:
            first.setdefault(name, b"")
    if b"IDAT" not in first or (colour == _PALETTE and b"PLTE" not in first):
        raise refuse("corrupt", "The PNG lacks its pixels or its palette.", "Copy it again from its source.")
    exif = read_exif(first.get(b"eXIf"))
    profile = (
        inflate(first[b"iCCP"].partition(b"\0")[2][1:], limits.max_metadata) if b"iCCP" in first else None
    )
    transparency = first.get(b"tRNS")
    return Header(
        "png",
        width,
        height,
        payload=b"".join(kept),
        notes=(
            *exif_notes(exif),
            *_pixel_notes(depth, colour, transparent=transparency is not None),
            *_animation_notes(first.get(b"acTL")),
            *colour_profile_notes(profile),
            *trailing_notes(data[end:]),
        ),
        exif=exif,
        depth=depth,
        grey_key=_grey_key(depth, transparency) if colour == _GREY else None,
    )


def _image_header(data: bytes, limits: Limits) -> tuple[int, int, int, int]:
    if len(data) < 29:
        raise refuse("truncated", "The PNG ends inside its header.", "Copy or download it again.")
    if data[12:16] != b"IHDR":
        raise refuse("corrupt", "The PNG does not begin with its header.", "Copy it again from its source.")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    limits.check_size(width, height)
    depth, colour = data[24], data[25]
    if depth not in _DEPTHS.get(colour, ()):
        raise refuse("corrupt", f"The PNG claims colour type {colour} with {depth} bits.", "Save it again.")
    return width, height, depth, colour


def _chunks(data: bytes) -> tuple[list[tuple[bytes, int, int]], int]:
    """Name, start and end of each chunk's content, and where the file's last chunk ends."""
    found: list[tuple[bytes, int, int]] = []
    position = _SIGNATURE_SIZE
    while len(found) < _MAX_CHUNKS:
        start = position + 8
        stop = start + int.from_bytes(data[position : position + 4], "big")
        position = stop + 4
        if start > len(data) or position > len(data):
            raise refuse("truncated", "The PNG ends before its picture does.", "Copy or download it again.")
        name = data[start - 4 : start]
        if zlib.crc32(memoryview(data)[start - 4 : stop]) != int.from_bytes(data[stop:position], "big"):
            raise refuse("corrupt", f"The PNG's {name!r} chunk has a wrong checksum.", "Copy it again.")
        found.append((name, start, stop))
        if name == b"IEND":
            return found, position
    raise refuse("corrupt", "The PNG has far too many chunks.", "Save the picture again.")


def _check_metadata(name: bytes, content: bytes, limits: Limits) -> None:
    """Refuses compressed text that inflates without measure."""
    if name == b"zTXt":
        inflate(content.partition(b"\0")[2][1:], limits.max_metadata)
    elif name == b"iTXt":
        _, _, rest = content.partition(b"\0")
        if rest[:1] == b"\1":
            inflate(rest[2:].split(b"\0", 2)[-1], limits.max_metadata)


def _grey_key(depth: int, transparency: bytes | None) -> int | None:
    """The grey level that means transparent, on the scale of the decoded pixels."""
    if transparency is None or len(transparency) < 2:
        return None
    level = int.from_bytes(transparency[:2], "big")
    return level if depth >= 8 else level * 255 // (2**depth - 1)


def _pixel_notes(depth: int, colour: int, *, transparent: bool) -> list[Note]:
    notes = []
    if depth == 16:
        notes.append(normalise("sixteen_bit", "16 bits a channel; divided by 257."))
    if depth == 1 and colour == _GREY:
        notes.append(normalise("one_bit", "Black and white; used as 0 and 255."))
    elif colour in (_GREY, _GREY_ALPHA):
        notes.append(normalise("greyscale", "Greyscale; used as three equal channels."))
    if colour == _PALETTE:
        notes.append(normalise("palette", "Palette; looked up."))
    if transparent or colour in (_GREY_ALPHA, _RGBA):
        notes.append(normalise("transparency", "Transparent parts were laid on white."))
    return notes


def _animation_notes(control: bytes | None) -> list[Note]:
    frames = int.from_bytes(control[:4], "big") if control else 0
    return [warn("animated", f"{frames} frames; only the first is used.")] if frames > 1 else []
