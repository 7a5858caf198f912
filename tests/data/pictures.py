"""Builders of odd pictures, byte by byte where no library would write them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pictune.data.sample import Dataset, Labels, Sample


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """A smooth RGB picture whose four corners differ."""
    down, across = np.mgrid[0:height, 0:width]
    channels = [across * 255 // (width - 1), down * 255 // (height - 1), (across + down) * 2 % 256]
    return np.stack(channels, -1).astype(np.uint8)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(pixels: np.ndarray | Image.Image | None = None, **options) -> bytes:
    return saved(
        gradient() if pixels is None else pixels, "JPEG", **{"quality": 95, "subsampling": 0} | options
    )


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int = 16,
    height: int = 12,
    *,
    depth: int = 8,
    colour: int = 2,
    rows: bytes | None = None,
    before: bytes = b"",
) -> bytes:
    """A PNG from packed rows (without filter bytes); pseudo-random ones when none are given."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    stride = (width * channels * depth + 7) // 8
    if rows is None:
        rows = np.random.default_rng(0).integers(0, 256, stride * height, dtype=np.uint8).tobytes()
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png_header_only(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def palette() -> bytes:
    return chunk(b"PLTE", bytes(range(256)) * 3)


def inflating(size: int) -> bytes:
    """Zlib data that inflate to this many bytes."""
    stream = zlib.compressobj(9)
    piece = bytes(1_000_000)
    return b"".join(stream.compress(piece) for _ in range(size // len(piece))) + stream.flush()


def resized_jpeg_header(width: int, height: int) -> bytes:
    """A small JPEG that claims another size."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment in front."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def exif_block(orientation: int, *, order: str = "<") -> bytes:
    """An EXIF block with an orientation, camera and date."""
    texts = {0x010F: b"Maker\0", 0x0110: b"Model 7\0"}
    inner = {0x9003: b"2024:05:31 10:11:12\0", 0xA431: b"SN-12345\0"}
    outer_size = 2 + 12 * 4 + 4
    inner_at = 8 + outer_size
    data_at = inner_at + 2 + 12 * 2 + 4
    data = b""

    def text_entry(tag: int, text: bytes) -> bytes:
        nonlocal data
        entry = struct.pack(f"{order}HHII", tag, 2, len(text), data_at + len(data))
        data += text
        return entry

    outer = b"".join(text_entry(tag, text) for tag, text in texts.items())
    outer += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    outer += struct.pack(f"{order}HHII", 0x8769, 4, 1, inner_at)
    within = b"".join(text_entry(tag, text) for tag, text in inner.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    count = struct.Struct(f"{order}H")
    block = head + count.pack(4) + outer + bytes(4) + count.pack(2) + within + bytes(4) + data
    return b"Exif\0\0" + block


def many_scans(extra: int, side: int = 32) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(np.full((side, side, 3), 90, np.uint8), progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * extra + b"\xff\xd9"


def icc(description: str, *, claimed: int | None = None) -> bytes:
    """Something with the shape of an ICC profile."""
    body = bytes(32) + b"acsp" + bytes(100) + description.encode("utf-16-be")
    return struct.pack(">I", claimed or len(body) + 4) + body


def tiff16(pixels: np.ndarray) -> bytes:
    """A TIFF of whatever the array holds: uint16 grey or BGR, float32, int32."""
    ok, data = cv2.imencode(".tiff", pixels)
    assert ok
    return data.tobytes()


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, uint16 RGB."""
    ok, data = cv2.imencode(".png", pixels[..., ::-1])
    assert ok
    return data.tobytes()


def jpeg_411() -> bytes:
    """A JPEG that keeps one colour for every four pixels of a row, which Pillow cannot write."""
    ok, data = cv2.imencode(
        ".jpg", gradient(), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411]
    )
    assert ok
    place = data.tobytes().index(b"\xff\xc0")
    assert data[place + 11] == 0x41, "four luminances beside one another to a colour"
    return data.tobytes()


def zipped(name: str) -> bytes:
    """A ZIP archive that holds one file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "hello")
    return stream.getvalue()


def folder_dataset(root: Path, files: dict[str, bytes]) -> Dataset:
    """Files written below a root, and the dataset whose classes are their folders."""
    for key, content in files.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(content)
    return dataset_of(root, sorted(files))


def dataset_of(root: Path, keys: list[str]) -> Dataset:
    samples = tuple(Sample(key, root / key, Labels((key.split("/")[0],))) for key in keys)
    classes = tuple(sorted({key.split("/")[0] for key in keys}))
    return Dataset(root, "folders", "classification", classes, samples)
