"""Thumbnails inside the page: a picture becomes the text of a data address."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8] | bytes

LONGEST_SIDE = 192  # pixels: twice the largest size on the page, for screens of double density
LARGEST_FILE = 192 * 1024  # bytes: an encoded picture above this is no thumbnail and is left out
_LOSSLESS_SIDE = 64  # pixels: below this, PNG is small enough and JPEG would smear
_COARSE_SIDE = 40  # pixels: below this, square pixels read better than a blur

# Only formats that cannot carry a script or a link; the first bytes decide, never a name.
_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture ready for an ``img`` element.

    Args:
        address: ``data:image/...;base64,...``.
        coarse: Whether it has so few pixels that they should stay square.
    """

    address: str
    coarse: bool


class Album:
    """The pictures of a page, encoded when they are first asked for and at most once.

    Args:
        pictures: For each sample's key a ``uint8`` array (height, width[, 1 or 3]), or the
            bytes of a small PNG, JPEG, GIF or WebP file.
    """

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pictures = pictures
        self._thumbnails: dict[str, Thumbnail | None] = {}

    def __call__(self, key: str) -> Thumbnail | None:
        """The picture of one sample; None when there is none or it is no picture."""
        if key not in self._thumbnails:
            picture = self._pictures.get(key)
            self._thumbnails[key] = None if picture is None else _thumbnail(picture)
        return self._thumbnails[key]


def _thumbnail(picture: Picture) -> Thumbnail | None:
    if isinstance(picture, bytes | bytearray | memoryview):
        encoded = bytes(picture)
        kind = _kind(encoded)
        if kind is None or len(encoded) > LARGEST_FILE:
            return None
        return Thumbnail(_address(encoded, kind), coarse=False)
    return _from_pixels(picture)


def _kind(encoded: bytes) -> str | None:
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "webp"
    return next((kind for signature, kind in _SIGNATURES if encoded.startswith(signature)), None)


def _from_pixels(pixels: NDArray[np.uint8]) -> Thumbnail:
    from PIL import Image

    assert pixels.dtype == np.uint8, f"a thumbnail is uint8, found {pixels.dtype}"
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    lossless = max(image.size) <= _LOSSLESS_SIDE
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82, optimize=True)
    address = _address(buffer.getvalue(), "png" if lossless else "jpeg")
    return Thumbnail(address, coarse=max(image.size) <= _COARSE_SIDE)


def _address(encoded: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"
