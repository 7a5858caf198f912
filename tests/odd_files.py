"""Picture files of every kind that a model must read the same everywhere, with the toys' scenes on them.

Each kind comes in four shapes: of odd sizes, tiny, wide and tall. All is drawn from the file's number.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import toys

Pixels = NDArray[np.uint8]
SHAPES = ("odd", "tiny", "wide", "tall")
ORIENTATION = 0x0112  # the EXIF tag


def odd_scene(number: int) -> Pixels:
    """A scene (h, w, 3) of no usual size."""
    generator = np.random.default_rng([number, 7])
    shape = SHAPES[number % len(SHAPES)]
    whole = toys.scene(1000 + number)[0]
    if shape == "tiny":
        width, height = (int(side) for side in generator.integers(8, 17, 2))
        return _resized(whole, width, height)
    if shape == "odd":
        width, height = (2 * int(half) + 1 for half in generator.integers(14, 80, 2))
        return _resized(whole, width, height, cv2.INTER_CUBIC)
    thick, times = 2 * int(generator.integers(10, 32)) + 1, int(generator.integers(3, 9))
    one = _resized(whole, thick, thick)
    return np.concatenate([one] * times, axis=1 if shape == "wide" else 0)


def _resized(pixels: Pixels, width: int, height: int, way: int = cv2.INTER_AREA) -> Pixels:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=way), np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned(pixels: Pixels, number: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 1 + number % 8
    return _saved(Image.fromarray(pixels), "JPEG", exif=exif)


def _mode(mode: str, kind: str, **options: Any) -> Callable[[Pixels, int], bytes]:
    return lambda pixels, _: _saved(Image.fromarray(pixels).convert(mode), kind, **options)


def _deep(pixels: Pixels, number: int) -> bytes:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if number % 2 else pixels[..., ::-1]
    noise = np.random.default_rng(number).integers(0, 256, grey.shape, dtype=np.uint16)
    return cv2.imencode(".png", grey.astype(np.uint16) * 256 + noise)[1].tobytes()


def _clear(mode: str, kind: str, **options: Any) -> Callable[[Pixels, int], bytes]:
    """Partly transparent, more so to the right."""

    def written(pixels: Pixels, _: int) -> bytes:
        image = Image.fromarray(pixels).convert(mode)
        alpha = np.tile(np.linspace(255, 90, pixels.shape[1]), (len(pixels), 1))
        image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
        return _saved(image, kind, **options)

    return written


def _clear_palette(pixels: Pixels, number: int) -> bytes:
    image = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=40)
    return _saved(image, "PNG", transparency=number % 40)


KINDS: dict[str, tuple[str, Callable[[Pixels, int], bytes]]] = {
    "turned by EXIF": (".jpg", _turned),
    "grey": (".png", _mode("L", "PNG")),
    "CMYK": (".jpg", _mode("CMYK", "JPEG")),
    "16 bit": (".png", _deep),
    "palette": (".png", _mode("P", "PNG")),
    "transparent": (".png", _clear("RGBA", "PNG")),
    "transparent WebP": (".webp", _clear("RGBA", "WEBP", lossless=True)),
    "grey JPEG": (".jpg", _mode("L", "JPEG")),
    "transparent grey": (".png", _clear("L", "PNG")),
    "transparent palette": (".png", _clear_palette),
    "black and white": (".png", _mode("1", "PNG")),
    "progressive": (".jpg", _mode("RGB", "JPEG", progressive=True)),
    "GIF": (".gif", _mode("P", "GIF")),
    "BMP": (".bmp", _mode("RGB", "BMP")),
    "TIFF": (".tiff", _mode("RGB", "TIFF")),
}


def odd_file(number: int) -> tuple[str, bytes]:
    """The name and the bytes of one."""
    suffix, written = list(KINDS.values())[number // len(SHAPES) % len(KINDS)]
    return f"{number:03}{suffix}", written(odd_scene(number), number)


def odd_pictures(folder: Path, *, count: int) -> list[Path]:
    """A folder of them; with 60 there is every kind in every shape."""
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        name, content = odd_file(number)
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    return paths
