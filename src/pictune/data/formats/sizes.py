"""How large an image is, without decoding it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from pictune.data.headers import Limits, read_header
from pictune.errors import DataError

_HEAD = 65_536  # bytes; a JPEG's size and orientation nearly always stand in the first of them
_END_OF_JPEG = b"\xff\xd9"
_ANY = Limits(
    max_pixels=2**62, min_side=1, max_aspect=math.inf, max_bytes=2**62, max_scan_pixels=2**62
)  # whether an image may be used is for decoding to say


class Upright(NamedTuple):
    """Width and height in pixels after EXIF rotation, and the EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int


def upright_size(path: Path) -> Upright | None:
    """The size that decoding will give; None where the file is no image that can be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD)
            if data.startswith(b"\xff\xd8\xff"):
                try:
                    # With an end in place, the beginning of a JPEG is a whole one as far as its header goes.
                    return _upright(data + _END_OF_JPEG)
                except DataError:
                    data += file.read()
            else:
                data += file.read()
        return _upright(data)
    except (OSError, DataError):
        return None


def _upright(data: bytes) -> Upright:
    header = read_header(data, _ANY)
    turned = header.exif.orientation >= 5
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    return Upright(width, height, header.exif.orientation)
