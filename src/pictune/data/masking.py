"""From a mask file to the class of every pixel: the one way from such files to numbers.

What a pixel says is its grey value (of 1 to 16 bits, as stored), its place in the palette, or, where a table
of colours is at hand, its colour; transparency plays no part. Files are PNG, BMP or TIFF: JPEG and WebP
change values at edges, so that no pixel there can be trusted.

Shapes: h, w pixels of a mask.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pictune.data.decoding import read_bytes
from pictune.data.finding import Finding, Outcome
from pictune.data.headers import Header, Limits, read_header, refuse
from pictune.data.sample import Legend, Mask, Sample
from pictune.data.scanning import escape
from pictune.errors import DataError

IGNORED = 255  # the index of pixels that belong to no class
MOST_CLASSES = 254
_UNKNOWN = 254  # the index, before the check, of values that the legend does not explain
_MOST_SHOWN = 10
_COLOURS = 2**24

# Which picture a mask belongs to is known, so its own size decides nothing but its cost.
_LIMITS = Limits(min_side=1, max_aspect=math.inf)
_LOSSLESS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "bmp": BmpImageFile,
    "png": PngImageFile,
    "tiff": TiffImageFile,
}
WITHOUT_TABLE = (
    "Put a table name,r,g,b into class_dict.csv, or save the masks with class numbers as grey values."
)
_SAVE = "Save masks as PNG: grey values or a palette whose numbers are the classes."


def decode_mask(mask: Mask, *, classes: Sequence[str], limits: Limits | None = None) -> NDArray[np.uint8]:
    """The class of every pixel.

    Args:
        mask: The file and what its values mean.
        classes: Names in the order of the indices wanted; at most 254.
        limits: Which files are read.

    Returns:
        uint8 [h, w], places in ``classes``; 255 where a pixel is ignored.

    Raises:
        DataError: ``unknown_mask_value`` with the values and their share of the pixels, or why the file
            cannot be read.
    """
    values = mask_values(read_bytes(mask.path, limits=limits or _LIMITS), mask.legend, limits=limits)
    indices: NDArray[np.uint8] = np.asarray(_indices(mask.legend, tuple(classes))[values])
    unknown = values[indices == _UNKNOWN]
    if unknown.size:
        found, counts = np.unique(unknown, return_counts=True)
        shares = dict(zip(found.tolist(), (counts / values.size).tolist(), strict=True))
        raise DataError(
            f"{escape(mask.path.name)} has pixels of no known class: {values_in_words(shares, mask.legend)}",
            code="unknown_mask_value",
            instead="Name these values in the list of classes, or declare them as ignored.",
        )
    return indices


def mask_values(data: bytes, legend: Legend, *, limits: Limits | None = None) -> NDArray[Any]:
    """What stands in a mask file, not yet looked up.

    Args:
        data: The file's bytes.
        legend: Whether colours count, or grey values and places in a palette.
        limits: Which files are read.

    Returns:
        uint8 or uint16 [h, w]; for colours int32, red * 65536 + green * 256 + blue.

    Raises:
        DataError: ``lossy_mask``, ``mask_without_table``, ``unsupported_mask``, or as decoding pictures.
    """
    header = read_header(data, limits or _LIMITS)
    if header.format in ("jpeg", "webp", "gif"):
        raise refuse(
            "lossy_mask", f"The mask is {header.format.upper()}, which changes the values of pixels.", _SAVE
        )
    if header.format not in _LOSSLESS:
        raise refuse("unsupported_mask", f"The mask is {header.format.upper()}, which is not read.", _SAVE)
    try:
        with _LOSSLESS[header.format](io.BytesIO(header.payload)) as image:
            if image.size != (header.width, header.height):
                raise refuse("corrupt", "The mask's header contradicts itself.", "Save it again.")
            image.load()
            return _colours(image) if legend.coloured else _numbers(image, header)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # On damaged bytes Pillow's readers raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise refuse("corrupt", f"The mask is damaged: {str(error)[:200]}", "Save it again.") from error


def shows_colours(path: Path) -> bool:
    """Whether a mask file holds a colour for every pixel; not so for grey values and palettes.

    Raises:
        DataError: When the file cannot be read.
    """
    header = read_header(read_bytes(path, limits=_LIMITS), _LIMITS)
    if header.format not in _LOSSLESS:
        return False  # refused when its values are wanted
    with _LOSSLESS[header.format](io.BytesIO(header.payload)) as image:
        return image.mode.startswith("RGB")


def _colours(image: Image.Image) -> NDArray[np.int32]:
    if image.mode not in ("RGB", "RGBA", "P", "PA", "L", "LA", "1"):
        raise refuse("unsupported_mask", f"The mask is of kind {image.mode}.", _SAVE)
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _numbers(image: Image.Image, header: Header) -> NDArray[Any]:
    """Grey values and places in a palette as they are stored."""
    if image.mode in ("RGB", "RGBA", "RGBX"):
        raise refuse(
            "mask_without_table",
            "The mask shows colours, and nothing says which class each stands for.",
            WITHOUT_TABLE,
        )
    if image.mode not in ("1", "L", "P", "LA", "PA", "I;16", "I;16B", "I;16L", "I"):
        raise refuse("unsupported_mask", f"The mask is of kind {image.mode}.", _SAVE)
    values = np.asarray(image)
    if values.ndim == 3:  # with transparency, which says nothing about the class
        values = values[..., 0]
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if image.mode == "L" and header.format == "png" and header.depth < 8:
        # Pillow stretches grey of 2 and 4 bits to 0..255; classes are the numbers as stored.
        return values // np.uint8(255 // (2**header.depth - 1))
    if values.dtype != np.uint8:
        if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
            raise refuse("unsupported_mask", "The mask holds numbers of over 16 bits.", _SAVE)
        return values.astype(np.uint16)
    return values


@lru_cache(maxsize=4)
def _indices(legend: Legend, classes: tuple[str, ...]) -> NDArray[np.uint8]:
    """For every value its index: a place in the classes, `IGNORED` or `_UNKNOWN`."""
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"there are {len(classes)} classes; masks may have {MOST_CLASSES}",
            code="too_many_classes",
            instead="Join some of them.",
        )
    table = np.full(_COLOURS if legend.coloured else 2**16, _UNKNOWN, np.uint8)
    place = {name: number for number, name in enumerate(classes)}
    for value, name in legend.names.items():
        if name in place:
            table[value] = place[name]
    table[list(legend.ignored)] = IGNORED
    return table


def values_in_words(shares: dict[int, float], legend: Legend) -> str:
    """Values and their shares of the pixels, the commonest first, such as ``255 (12 % of the pixels)``."""
    ordered = sorted(shares, key=lambda value: (-shares[value], value))
    shown = [f"{_in_words(value, legend)} ({_percent(shares[value])})" for value in ordered[:_MOST_SHOWN]]
    more = f" and {len(ordered) - _MOST_SHOWN:,} more values" if len(ordered) > _MOST_SHOWN else ""
    return ", ".join(shown) + more


def _in_words(value: int, legend: Legend) -> str:
    if legend.coloured:
        return f"the colour {value >> 16}, {value >> 8 & 255}, {value & 255}"
    return str(value)


def _percent(share: float) -> str:
    return f"{share:.1%} of the pixels" if share >= 0.0005 else "under 0.1% of the pixels"


@dataclass(frozen=True, slots=True)
class MaskCount:
    """What one opened mask holds.

    Args:
        checksum: SHA-256 of the file's bytes.
        width: Pixels.
        height: Pixels.
        pixels: How many pixels have each value that occurs.
    """

    checksum: str
    width: int
    height: int
    pixels: dict[int, int]


def count_mask(path: Path, legend: Legend) -> MaskCount:
    """Opens a mask and counts its values.

    Raises:
        DataError: As `mask_values`, and when the file cannot be read.
    """
    data = read_bytes(path, limits=_LIMITS)
    values = mask_values(data, legend)
    height, width = values.shape
    if values.dtype == np.uint8:
        counts = np.bincount(values.reshape(-1), minlength=256)
        found = np.flatnonzero(counts)
        pixels = dict(zip(found.tolist(), counts[found].tolist(), strict=True))
    else:
        # Neighbours mostly agree, so counting runs of equal values is many times quicker than sorting all.
        flat = values.reshape(-1)
        starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        lengths = np.diff(np.concatenate([starts, [flat.size]]))
        found, number = np.unique(flat[starts], return_inverse=True)
        totals = np.bincount(number.reshape(-1), weights=lengths).astype(np.int64)
        pixels = dict(zip(found.tolist(), totals.tolist(), strict=True))
    return MaskCount(hashlib.sha256(data).hexdigest(), width, height, pixels)


def check_mask(sample: Sample, width: int, height: int) -> Finding | None:
    """Whether a sample's mask has the size of its picture; masks are never resized.

    Args:
        sample: As `read_dataset` gave it: its size is then that of the mask.
        width: Of the upright picture, pixels.
        height: Of the upright picture, pixels.

    Returns:
        A finding that leaves the sample out; None when the sizes agree, or there is no mask.

    Raises:
        DataError: When the mask has to be opened for its size, and cannot be.
    """
    mask = sample.annotation
    if not isinstance(mask, Mask):
        return None
    size = (sample.width, sample.height)
    if not sample.width:
        header = read_header(read_bytes(mask.path, limits=_LIMITS), _LIMITS)
        size = (header.width, header.height)
    if size == (width, height):
        return None
    found = f"{sample.key} has {width} x {height} pixels, but its mask has {size[0]} x {size[1]}"
    turned = size == (height, width)
    why = (
        "was the picture turned by its EXIF field, and the mask not?" if turned else "save both in one size."
    )
    return Finding("mask_size", Outcome.QUARANTINE, sample.key, f"{found}; {why}")
