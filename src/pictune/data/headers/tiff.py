"""The header of a TIFF file (TIFF 6.0)."""

from __future__ import annotations

import struct

from pictune.data.headers.exif import Entry, TagReader, exif_of
from pictune.data.headers.header import (
    Header,
    Limits,
    Note,
    colour_profile_notes,
    exif_notes,
    normalise,
    refuse,
    warn,
)

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _CHANNELS, _SAMPLE_FORMAT = 256, 257, 258, 262, 277, 339
_ICC_PROFILE, _DNG_VERSION = 34675, 50706
_UNSIGNED, _WHITE_IS_ZERO = 1, 0
# What the pixels need: layout, compression, palette, tiles, kinds of samples, JPEG and YCbCr tables.
_NEEDED = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
_NEEDED |= {322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532}
_SINGLE = {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332}
# Others, such as 12, decoders hand over without saying which value is white.
_DEPTHS = {1, 2, 4, 8, 16, 32, 64}
_MAX_PAGES = 10_000


def read_tiff(data: bytes, limits: Limits) -> Header:
    """Reads the first directory and counts the pages.

    Raises:
        DataError: ``corrupt``, ``unsupported_format`` or a size out of bounds.
    """
    try:
        reader = TagReader(data)
        entries, complete = reader.directory(reader.first)
    except ValueError as error:
        raise refuse(
            "truncated", f"The TIFF cannot be read: {error}.", "Copy or download it again."
        ) from error
    if _DNG_VERSION in entries or data[8:10] == b"CR":
        raise refuse(
            "unsupported_format", "The file is a camera's raw file, which is not read.", "Export it as JPEG."
        )
    width, height = (reader.numbers(entries.get(tag))[:1] or (0,) for tag in (_WIDTH, _HEIGHT))
    limits.check_size(width[0], height[0])
    bits = set(reader.numbers(entries.get(_BITS)) or (1,))
    formats = set(reader.numbers(entries.get(_SAMPLE_FORMAT)) or (_UNSIGNED,))
    if len(bits) > 1 or len(formats) > 1 or any(entries[tag].amount != 1 for tag in _SINGLE & entries.keys()):
        raise refuse(
            "unsupported_format", "The TIFF mixes kinds of channels.", "Save it as 8-bit PNG or TIFF."
        )
    depth = bits.pop()
    if depth not in _DEPTHS:
        raise refuse(
            "unsupported_format", f"The TIFF has {depth} bits a channel.", "Save it with 8 or 16 bits."
        )
    exif = exif_of(reader, entries, complete=complete)
    return Header(
        "tiff",
        width[0],
        height[0],
        payload=_first_page(data, reader, entries),
        notes=(
            *exif_notes(exif),
            *_depth_notes(depth, formats),
            *_page_notes(reader),
            *colour_profile_notes(reader.block(entries.get(_ICC_PROFILE))),
        ),
        exif=exif,
        depth=depth,
        inverted=reader.numbers(entries.get(_PHOTOMETRIC)) == (_WHITE_IS_ZERO,),
        range_needed=formats != {_UNSIGNED} or depth > 16,
    )


def _first_page(data: bytes, reader: TagReader, entries: dict[int, Entry]) -> bytes:
    """The file with one new directory at its end that holds only what the pixels need.

    The decoder so meets no second page, no metadata and no tag that it would warn about.
    """
    kept = [entry.raw for tag, entry in sorted(entries.items()) if tag in _NEEDED]
    padding = b"\0" * (len(data) % 2)
    start = struct.pack(f"{reader.order}I", len(data) + len(padding))
    count = struct.pack(f"{reader.order}H", len(kept))
    return b"".join([data[:4], start, data[8:], padding, count, *kept, bytes(4)])


def _depth_notes(depth: int, formats: set[int]) -> list[Note]:
    if depth == 16 and formats == {_UNSIGNED}:
        return [normalise("sixteen_bit", "16 bits a channel; divided by 257.")]
    return []


def _page_notes(reader: TagReader) -> list[Note]:
    """A warning with the number of pages when there are several; a circle of pages ends the count."""
    pages = {reader.first}
    page = reader.following(reader.first)
    while page and page not in pages and len(pages) < _MAX_PAGES:
        pages.add(page)
        page = reader.following(page)
    return [warn("several_pages", f"{len(pages)} pages; only the first is used.")] if len(pages) > 1 else []
