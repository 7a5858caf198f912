"""The nouns of a picture's header: `Limits`, `Note` and `Header`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

from pictune.data.finding import Outcome
from pictune.data.headers.exif import UNKNOWN, Exif
from pictune.errors import DataError


def refuse(code: str, message: str, instead: str = "") -> DataError:
    """The error for a picture that cannot be used; the caller raises it."""
    return DataError(message, code=code, instead=instead)


class Note(NamedTuple):
    """Something noticed about a picture that is used all the same.

    Args:
        code: A short stable name such as ``palette``.
        outcome: ``normalise`` or ``warn``.
        message: One plain sentence.
    """

    code: str
    outcome: Outcome
    message: str


def normalise(code: str, message: str) -> Note:
    """A note that the picture was converted by a documented rule."""
    return Note(code, Outcome.NORMALISE, message)


def warn(code: str, message: str) -> Note:
    """A note that the picture is used as it is and deserves a look."""
    return Note(code, Outcome.WARN, message)


@dataclass(frozen=True, slots=True)
class Limits:
    """Which pictures are accepted; everything is checked before a pixel is decoded.

    Args:
        max_pixels: Largest width times height.
        min_side: Smallest side in pixels.
        max_aspect: Largest ratio of the longer to the shorter side.
        max_bytes: Largest file.
        max_metadata: Most bytes that compressed metadata may inflate to, piece by piece.
        max_scan_pixels: Largest width times height times scans of a progressive JPEG: every scan, even
            an empty one, costs a pass over the whole picture; 10 scans are usual.
    """

    max_pixels: int = 40_000_000
    min_side: int = 8
    max_aspect: float = 50.0
    max_bytes: int = 512 * 1024**2
    max_metadata: int = 8 * 1024**2
    max_scan_pixels: int = 1_000_000_000

    def check_bytes(self, size: int) -> None:
        """Refuses a file of too many bytes.

        Raises:
            DataError: ``too_large``.
        """
        if size > self.max_bytes:
            raise refuse(
                "too_large",
                f"The file has {size:,} bytes; at most {self.max_bytes:,} are accepted.",
                "Save the picture smaller.",
            )

    def check_size(self, width: int, height: int) -> None:
        """Refuses a picture whose size is out of bounds.

        Raises:
            DataError: ``corrupt``, ``too_large``, ``too_elongated`` or ``too_small``.
        """
        size = f"{width} x {height} pixels"
        if width <= 0 or height <= 0:
            raise refuse("corrupt", f"The file says it has {size}.", "Copy it again from its source.")
        if width * height > self.max_pixels:
            raise refuse(
                "too_large",
                f"The picture has {size}; at most {self.max_pixels:,} in all are accepted.",
                "Save it smaller, or raise the limit if you trust where it comes from.",
            )
        if max(width, height) > self.max_aspect * min(width, height):
            raise refuse(
                "too_elongated",
                f"The picture has {size}; the longer side may be {self.max_aspect:g} times the shorter.",
                "Cut it into pieces.",
            )
        if min(width, height) < self.min_side:
            raise refuse(
                "too_small",
                f"The picture has {size}; each side needs at least {self.min_side}.",
                "Leave it out.",
            )


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about its picture.

    Args:
        format: ``jpeg``, ``png``, ``gif``, ``bmp``, ``webp``, ``tiff`` or ``ppm``, by content.
        width: Pixels as stored, before EXIF rotation.
        height: Pixels as stored, before EXIF rotation.
        payload: The bytes for the decoder: the first picture, without metadata where that is cheap.
        notes: What was noticed.
        exif: The few EXIF fields we use.
        depth: Bits of one channel; 32 and 64 for floats and long integers.
        grey_key: The grey level of a PNG that means transparent.
        inverted: TIFF with 16 bits whose zero is white.
        range_needed: Values have no documented black and white: floats and signed or long integers.
    """

    format: str
    width: int
    height: int
    payload: bytes
    notes: tuple[Note, ...] = ()
    exif: Exif = UNKNOWN
    depth: int = 8
    grey_key: int | None = None
    inverted: bool = False
    range_needed: bool = False


def inflate(data: bytes, limit: int) -> bytes:
    """Inflates zlib data up to a limit; broken data give what could be read.

    Raises:
        DataError: ``metadata_bomb`` when there is more.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error:
        return b""
    if len(content) > limit:
        raise refuse(
            "metadata_bomb",
            f"Compressed metadata inflate to more than {limit:,} bytes.",
            "Save the picture again without its metadata.",
        )
    return content


def colour_profile_notes(profile: bytes | None) -> tuple[Note, ...]:
    """A warning when an embedded ICC profile is broken or not sRGB; profiles are never applied.

    Most pictures are sRGB. Converting the rest would make the pixels depend on a colour engine's
    version, so the numbers in the file are used as they are and the difference is reported.
    """
    if profile is None:
        return ()
    if len(profile) < 132 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return (warn("colour_profile", "The colour profile is broken; it was ignored."),)
    if b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile:
        return ()
    return (
        warn("colour_profile", "The colour profile is not sRGB; it was ignored, colours may look duller."),
    )


def trailing_notes(rest: bytes) -> tuple[Note, ...]:
    """A warning about bytes after the end of the picture."""
    if not rest:
        return ()
    if b"PK\x03\x04" in rest:
        return (
            warn("polyglot", f"A ZIP archive is hidden behind the picture ({len(rest):,} bytes); not read."),
        )
    return (
        warn("trailing_bytes", f"{len(rest):,} bytes follow the end of the picture; they were not read."),
    )


def exif_notes(exif: Exif) -> tuple[Note, ...]:
    """Notes about broken EXIF data and about a rotation."""
    notes = []
    if exif.broken:
        notes.append(
            normalise("exif_ignored", "The EXIF data are broken; what could not be read was ignored.")
        )
    if exif.orientation != 1:
        notes.append(normalise("rotated", "Turned upright as its EXIF orientation says."))
    return tuple(notes)
