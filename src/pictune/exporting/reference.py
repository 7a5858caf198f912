"""The reference of an artifact: drawn pictures, and what the exporting machine made of them.

No picture of the user's leaves with a model. Each later start decodes the same files and asks the network the
same canvases; a decoder, processor or runtime that answers otherwise is noticed before anybody relies on it.

Shapes: m pictures, H and W the height and width of the canvas.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.errors import ArtifactError

COUNT = 4  # pictures
MOST_VALUES = 2048  # kept of each output of a picture; larger ones are read at even steps
WIDTH, HEIGHT = 320, 240  # pixels of a drawn picture


@dataclass(frozen=True)
class Reference:
    """What normal looks like.

    Args:
        pictures: (m) files as they are decoded, JPEG and PNG.
        canvases: uint8 (m, H, W, 3) what the network sees of them.
        values: float32 (m, v) of each output by name, read at even steps.
    """

    pictures: tuple[bytes, ...]
    canvases: NDArray[np.uint8]
    values: Mapping[str, NDArray[np.float32]]

    def to_bytes(self) -> bytes:
        """As reference.npz."""
        stream = io.BytesIO()
        files = {f"picture_{i}": np.frombuffer(data, np.uint8) for i, data in enumerate(self.pictures)}
        outputs = {f"output_{name}": values for name, values in self.values.items()}
        np.savez(stream, allow_pickle=False, canvases=self.canvases, **files, **outputs)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """Reads reference.npz.

        Raises:
            ArtifactError: ``bad_content``.
        """
        try:
            _check_stored(data)
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                names = list(file)
                pictures = tuple(file[f"picture_{i}"].tobytes() for i in range(COUNT))
                canvases = file["canvases"]
                values = {n.removeprefix("output_"): file[n] for n in names if n.startswith("output_")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _unusable(str(error)) from None
        if canvases.dtype != np.uint8 or canvases.ndim != 4 or not values:
            raise _unusable("its canvases are no pictures")
        return cls(pictures, canvases, values)


def _check_stored(data: bytes) -> None:
    """Nothing in it is compressed, so that it cannot become more than it is.

    Raises:
        ValueError: When something is.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")


def _unusable(reason: str) -> ArtifactError:
    return ArtifactError(
        f"the model's reference.npz cannot be used: {reason[:120]}",
        code="bad_content",
        instead="Export it again.",
    )


def drawn_pictures() -> tuple[bytes, ...]:
    """Soft clouds of colour with hard shapes on them, always the same: two as JPEG, two as PNG."""
    generator = np.random.default_rng(20)
    files = []
    for number in range(COUNT):
        coarse = generator.integers(0, 256, (3 + number, 4 + number, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for _ in range(6):
            colour = tuple(int(c) for c in generator.integers(0, 256, 3))
            x, y, reach = (int(generator.integers(20, limit)) for limit in (WIDTH - 20, HEIGHT - 20, 60))
            if generator.random() < 0.5:
                cv2.circle(pixels, (x, y), reach, colour, -1)
            else:
                cv2.rectangle(pixels, (x - reach, y - reach), (x + reach, y + reach), colour, -1)
        suffix = ".jpg" if number % 2 == 0 else ".png"
        files.append(cv2.imencode(suffix, pixels)[1].tobytes())
    return tuple(files)


def sampled(values: NDArray[Any]) -> NDArray[np.float32]:
    """(m, ...) to (m, v): at most `MOST_VALUES` of each row, at even steps."""
    flat = values.reshape(len(values), -1)
    step = max(1, -(-flat.shape[1] // MOST_VALUES))
    return np.ascontiguousarray(flat[:, ::step], np.float32)
