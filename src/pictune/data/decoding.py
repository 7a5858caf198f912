"""From the bytes of a picture to its pixels: the one way, for training, evaluation, export and server.

The header is read and every limit is checked before anything is decoded. JPEG and PNG go through
OpenCV, which is quicker; the other formats of a closed list go through Pillow. The same bytes give
the same pixels wherever they come from. No other program is ever started, and neither OpenCV's nor
Pillow's settings are touched.

What is converted, and how:

* EXIF orientation 1 to 8 is applied; width and height are those of the upright picture.
* Transparent parts are laid on white.
* 16 bits a channel become 8 by division by 257, so that 65535 is 255.
* Grey becomes three equal channels; palettes are looked up; CMYK is multiplied out.
* Of animations and documents the first picture is used.
* Colour profiles are not applied; one that is not sRGB gives a warning.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pictune.data.headers import Exif, Header, Limits, Note, read_header, refuse
from pictune.data.headers.header import normalise
from pictune.errors import DataError

__all__ = ["BACKGROUND", "DECODER", "FileState", "Limits", "Picture", "decode", "read_bytes"]

#: What transparent parts are laid on, in every channel.
BACKGROUND = 255

#: Changes when the same bytes may give other pixels; caches are keyed by it.
DECODER = f"1 opencv-{cv2.__version__} pillow-{PIL.__version__} webp-{features.version('webp')}"

# The classes are named one by one, so that Pillow's other formats, some of which start programs,
# can't be reached, whatever is registered.
_PILLOW: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "bmp": BmpImageFile,
    "gif": GifImageFile,
    "ppm": PpmImageFile,
    "tiff": TiffImageFile,
    "webp": WebPImageFile,
}

_NOTE_OF_MODE = {
    "1": normalise("one_bit", "Black and white; used as 0 and 255."),
    "L": normalise("greyscale", "Greyscale; used as three equal channels."),
    "P": normalise("palette", "Palette; looked up."),
    "CMYK": normalise("cmyk", "CMYK; converted to RGB by the plain formula, ink by ink."),
    **dict.fromkeys(("LA", "PA", "RGBA"), normalise("transparency", "Transparent parts were laid on white.")),
}
_AGAIN = "Copy or download it again."

_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture.

    Args:
        pixels: uint8 [height, width, 3], RGB, upright.
        format: ``jpeg``, ``png``, ``gif``, ``bmp``, ``webp``, ``tiff`` or ``ppm``, by content.
        notes: What was converted (``normalise``) or deserves a look (``warn``).
        exif: When and with which camera it was taken.
    """

    pixels: NDArray[np.uint8]
    format: str
    notes: tuple[Note, ...]
    exif: Exif


def decode(
    source: bytes | Path, *, limits: Limits | None = None, value_range: tuple[float, float] | None = None
) -> Picture:
    """Decodes one picture.

    Args:
        source: The file's bytes, or where it is.
        limits: What is accepted.
        value_range: The values that mean black and white in TIFFs of floats, signed or long
            integers, which have no such meaning of their own; what lies outside is clipped.

    Raises:
        DataError: When the picture cannot be used. Its ``code`` says why: ``empty``, ``not_image``,
            ``lfs_pointer``, ``unsupported_format``, ``truncated``, ``corrupt``, ``too_large``,
            ``too_small``, ``too_elongated``, ``too_many_scans``, ``metadata_bomb``, ``not_finite``,
            ``needs_range``; from a path also ``missing``, ``unreadable``, ``special_file``, ``changed``.
    """
    limits = limits or Limits()
    data = read_bytes(source, limits=limits) if isinstance(source, Path) else source
    limits.check_bytes(len(data))
    header = read_header(data, limits)
    pixels, notes = _pixels(header, value_range)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    upright = np.ascontiguousarray(_UPRIGHT[header.exif.orientation](pixels))
    return Picture(upright, header.format, (*header.notes, *notes), header.exif)


class FileState(NamedTuple):
    """What a file is and whether it is still the same.

    Programs may set the time of writing as they please, and files that are swapped keep it; which file it is
    and when the system last changed anything about it tell them apart.
    """

    kind: int
    size: int
    written_ns: int
    changed_ns: int
    number: int

    @classmethod
    def find(cls, path: Path) -> FileState | None:
        """The state of a file, links followed, without opening it; None when it cannot be found."""
        try:
            return cls.of(path.stat())
        except OSError:
            return None

    @classmethod
    def of(cls, state: os.stat_result) -> FileState:
        """The state in what the system says about a file."""
        return cls(
            stat.S_IFMT(state.st_mode), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
        )


def read_bytes(path: Path, *, limits: Limits, expected: FileState | None = None) -> bytes:
    """Reads a regular file whole; anything else is never opened.

    Args:
        path: Where the file is; symbolic links are followed.
        limits: Larger files are not read.
        expected: What the file was when it was listed.

    Raises:
        DataError: ``missing``, ``unreadable``, ``special_file``, ``too_large`` or ``changed``.
    """
    try:
        before = expected or FileState.of(path.stat())
        if not stat.S_ISREG(before.kind):
            raise refuse(
                "special_file", "This is a folder, pipe, socket or device, not a file.", "Leave it out."
            )
        limits.check_bytes(before.size)
        # Should a pipe have taken the file's place meanwhile, opening must not wait for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            if FileState.of(os.fstat(file.fileno())) != before:
                raise _changed()
            data = _read_all(file, before.size)
            if len(data) != before.size or FileState.of(os.fstat(file.fileno())) != before:
                raise _changed()
    except FileNotFoundError as error:
        raise refuse("missing", "The file is not there any more.", "Put it back, or leave it out.") from error
    except OSError as error:
        raise refuse(
            "unreadable", f"The file cannot be read: {error.strerror}.", "Check who may read it."
        ) from error
    return data


def _changed() -> DataError:
    return refuse(
        "changed", "The file changed while it was being read.", "Run again when nothing writes to it."
    )


def _read_all(file: io.FileIO, size: int) -> bytes:
    """At most one byte more than expected: enough to see that a file has grown."""
    parts = []
    left = size + 1
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _pixels(header: Header, value_range: tuple[float, float] | None) -> tuple[NDArray[np.uint8], list[Note]]:
    """Decodes what the header announced, and what was converted on the way."""
    try:
        if header.format == "jpeg":
            return _opencv(header, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION), []
        if header.format == "png":
            return _flatten(_opencv(header, cv2.IMREAD_UNCHANGED), header), []
        if header.format == "tiff" and (header.depth > 8 or header.range_needed):
            raw = _opencv(header, cv2.IMREAD_UNCHANGED)
            return _flatten(_rescaled(raw, value_range) if header.range_needed else raw, header), []
        return _pillow(header)
    except cv2.error as error:
        raise _corrupt(header, str(error.err)) from error


def _opencv(header: Header, flags: int) -> NDArray[Any]:
    """Decodes with OpenCV.

    Raises:
        DataError: ``corrupt``.
    """
    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(header.payload, np.uint8), flags)
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise _corrupt(header, "")
    return pixels


def _flatten(pixels: NDArray[Any], header: Header) -> NDArray[np.uint8]:
    """Grey, BGR or BGRA of 8 or 16 bits, as OpenCV gives them, as RGB on the background."""
    opaque = pixels != header.grey_key if header.grey_key is not None else None
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    if header.inverted and header.depth == 16:
        pixels = 255 - pixels
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return _on_background(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
    colour: NDArray[np.uint8] = cv2.cvtColor(
        pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB
    )
    if opaque is not None:
        colour[~opaque] = BACKGROUND
    return colour


def _on_background(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA laid on the background, rounded to the nearest."""
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = pixels[..., :3] * alpha + (255 - alpha) * np.uint16(BACKGROUND)
    return ((mixed + 127) // 255).astype(np.uint8)


def _rescaled(values: NDArray[Any], value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Values of a declared range as 0 to 255.

    Raises:
        DataError: ``not_finite`` or ``needs_range``.
    """
    if not np.isfinite(values).all():
        raise refuse(
            "not_finite", "The picture holds values that are not numbers.", "Repair or leave it out."
        )
    if value_range is None:
        raise refuse(
            "needs_range",
            f"The picture holds {values.dtype} values from {values.min():g} to {values.max():g}, "
            "and nothing says which of them are black and white.",
            "Declare the range, or save the pictures with 8 or 16 bits.",
        )
    black, white = value_range
    scaled = (values.astype(np.float64) - black) * (255 / (white - black))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _pillow(header: Header) -> tuple[NDArray[np.uint8], list[Note]]:
    """Decodes with Pillow.

    Raises:
        DataError: ``truncated``, ``corrupt`` or ``unsupported_format``.
    """
    try:
        with _PILLOW[header.format](io.BytesIO(header.payload)) as image:
            if image.size != (header.width, header.height):
                raise _corrupt(header, "its header contradicts itself")
            image.load()
            return _pillow_rgb(image, header)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # On damaged bytes Pillow's readers raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise _corrupt(header, str(error)) from error


def _pillow_rgb(image: Image.Image, header: Header) -> tuple[NDArray[np.uint8], list[Note]]:
    """A loaded Pillow image as RGB on the background, and what that took."""
    mode = image.mode
    if mode.startswith("I"):
        grey = cv2.convertScaleAbs(np.asarray(image).astype(np.uint16), alpha=1 / 257)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), [_NOTE_OF_MODE["L"]]
    if mode not in _NOTE_OF_MODE and mode not in ("RGB", "RGBX", "YCbCr"):
        raise refuse(
            "unsupported_format", f"{header.format.upper()} of kind {mode} is not read.", "Save it as PNG."
        )
    notes = [_NOTE_OF_MODE[mode]] if mode in _NOTE_OF_MODE else []
    if image.has_transparency_data:
        if mode == "P":
            notes.append(_NOTE_OF_MODE["RGBA"])
        return _on_background(np.asarray(image.convert("RGBA"))), notes
    return np.asarray(image.convert("RGB")), notes


def _corrupt(header: Header, reason: str) -> DataError:
    """The error for pixels that could not be decoded, with the decoder's own words where it has any."""
    if "truncated" in reason or "unexpected end" in reason:
        return refuse("truncated", f"The {header.format.upper()} ends before its picture does.", _AGAIN)
    words = f": {reason[:200]}" if reason else ""
    return refuse("corrupt", f"The {header.format.upper()} is damaged{words}.", _AGAIN)
