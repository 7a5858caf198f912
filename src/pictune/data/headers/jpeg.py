"""The header of a JPEG file, and a walk over its scans (ITU-T T.81, annex B)."""

from __future__ import annotations

import re

from pictune.data.headers.exif import UNKNOWN, read_exif
from pictune.data.headers.header import (
    Header,
    Limits,
    Note,
    colour_profile_notes,
    exif_notes,
    normalise,
    refuse,
    trailing_notes,
    warn,
)

_START_OF_SCAN, _END_OF_IMAGE, _FILL = 0xDA, 0xD9, 0xFF
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HUFFMAN_FRAMES = {0xC0, 0xC1, 0xC2}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
# Inside a scan an FF is followed by 00 or by a restart marker; anything else ends the scan. (`\xff+` would
# also skip fill bytes, but without a fixed beginning the search is twenty times slower.)
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_MAX_SEGMENTS = 10_000

_TRUNCATED = ("truncated", "The JPEG ends before its picture does.", "Copy or download it again.")


def read_jpeg(data: bytes, limits: Limits) -> Header:
    """Reads the segments up to the first scan, then finds the end of the last.

    Raises:
        DataError: ``truncated``, ``corrupt``, ``unsupported_format``, ``too_many_scans`` or a size
            out of bounds.
    """
    size = None
    components = 0
    exif = UNKNOWN
    profile: dict[int, bytes] = {}
    several = False
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            size, components = _frame(data[start:end], marker, limits)
        elif marker == 0xE1 and exif is UNKNOWN and data.startswith(b"Exif\0\0", start):
            exif = read_exif(data[start:end])
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", start) and end - start > 14:
            profile[data[start + 12]] = data[start + 14 : end]
        elif marker == 0xE2 and data.startswith(b"MPF\0", start):
            several = True
        scans_begin = end
    if size is None:
        raise refuse("corrupt", "The JPEG has no frame header.", "Copy it again from its source.")
    finish, damaged = _walk_scans(data, scans_begin, limits.max_scan_pixels // (size[0] * size[1]))
    notes = [*exif_notes(exif), *_component_notes(components)]
    if damaged:
        notes.append(warn("damaged", "Stray markers lie inside the picture data; parts may be wrong."))
    if several and len(data) > finish:
        notes.append(warn("several_pictures", "The file holds several pictures; only the first is used."))
    else:
        notes.extend(trailing_notes(data[finish:]))
    joined = b"".join(profile[part] for part in sorted(profile)) if profile else None
    notes.extend(colour_profile_notes(joined))
    return Header("jpeg", *size, payload=data, notes=tuple(notes), exif=exif)


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Marker, start and end of each segment's content, up to and with the first start of scan."""
    found: list[tuple[int, int, int]] = []
    position = 2
    while len(found) < _MAX_SEGMENTS:
        position = data.find(b"\xff", position)
        while 0 <= position < len(data) and data[position] == 0xFF:
            position += 1
        if not 0 <= position < len(data) - 2:
            raise refuse(*_TRUNCATED)
        marker = data[position]
        position += 1
        if marker in _WITHOUT_LENGTH or marker == 0:
            continue
        if marker == _END_OF_IMAGE:
            raise refuse("corrupt", "The JPEG ends without a picture.", "Copy it again from its source.")
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end > len(data):
            raise refuse(*_TRUNCATED)
        found.append((marker, position + 2, end))
        if marker == _START_OF_SCAN:
            return found
        position = max(end, position + 2)
    raise refuse("corrupt", "The JPEG has far too many segments.", "Save the picture again.")


def _frame(content: bytes, marker: int, limits: Limits) -> tuple[tuple[int, int], int]:
    """Size and number of components from a start-of-frame segment."""
    if len(content) < 6:
        raise refuse("corrupt", "The JPEG's frame header is cut short.", "Copy it again from its source.")
    precision, components = content[0], content[5]
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    limits.check_size(width, height)
    if marker not in _HUFFMAN_FRAMES or precision != 8 or components not in (1, 3, 4):
        coding = "Huffman" if marker in _HUFFMAN_FRAMES else "arithmetic, lossless or hierarchical"
        raise refuse(
            "unsupported_format",
            f"This JPEG uses {coding} coding, {precision} bits and {components} channels; that is not read.",
            "Save it as an ordinary 8-bit JPEG or as PNG.",
        )
    return (width, height), components


def _walk_scans(data: bytes, position: int, most_scans: int) -> tuple[int, bool]:
    """Where the picture ends and whether stray markers were met on the way."""
    scans, damaged = 1, False
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None:
            raise refuse(*_TRUNCATED)
        position = match.end()
        marker = data[position - 1]
        if marker == _FILL:
            position -= 1
            continue
        if marker == _END_OF_IMAGE:
            return position, damaged
        end = position + int.from_bytes(data[position : position + 2], "big")
        if marker not in _BETWEEN_SCANS or end > len(data):
            damaged = True
            continue
        position = max(end, position + 2)
        scans += marker == _START_OF_SCAN
        if scans > most_scans:
            raise refuse(
                "too_many_scans",
                f"The progressive JPEG has over {most_scans} scans; it is made to cost time.",
                "Save the picture again.",
            )
    raise refuse("corrupt", "The JPEG has far too many segments.", "Save the picture again.")


def _component_notes(components: int) -> list[Note]:
    if components == 1:
        return [normalise("greyscale", "Greyscale; used as three equal channels.")]
    if components == 4:
        return [normalise("cmyk", "CMYK; converted to RGB by the plain formula, ink by ink.")]
    return []
