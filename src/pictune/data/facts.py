"""What one pass over all files found out about each picture, and how that is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pictune.data.finding import Finding, Outcome
from pictune.data.hashing import THUMBNAIL_SIDE, Appearance
from pictune.data.headers import Exif, Note
from pictune.data.pixels import load_arrays, save_arrays


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known about each picture, in the order of the dataset's samples.

    Args:
        hash: uint64 [n], difference hashes.
        thumbnail: uint8 [n, 16, 16], grey.
        brightness: float32 [n], mean grey level, 0 to 255.
        contrast: float32 [n], standard deviation of the grey levels.
        sharpness: float32 [n], variance of the Laplacian at a shorter side of at most 128 pixels.
        constant: bool [n], whether all pixels are of one colour.
        bytes: int64 [n], size of each file.
        format: (n) each file's format by its content.
        exif: (n) when and with which camera each was taken, as far as the file says.
    """

    hash: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    constant: NDArray[np.bool_]
    bytes: NDArray[np.int64]
    format: tuple[str, ...]
    exif: tuple[Exif, ...]

    def select(self, positions: Sequence[int]) -> Facts:
        """What is known of the pictures at these positions, in this order."""
        rows = list(positions)
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Facts(
            **arrays, format=tuple(self.format[i] for i in rows), exif=tuple(self.exif[i] for i in rows)
        )


class Opened(NamedTuple):
    """What one file gave."""

    checksum: str
    width: int
    height: int
    bytes: int
    format: str
    exif: Exif
    look: Appearance
    notes: tuple[Note, ...]
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a whole pass gave; ``positions`` are those of the usable samples, and all else follows them."""

    positions: list[int]
    checksums: list[str]
    sizes: list[tuple[int, int]]
    findings: list[Finding]
    facts: Facts


class Gathering:
    """Collects what the files gave, in arrays that are as large as they will get from the start."""

    def __init__(self, count: int) -> None:
        self._positions: list[int] = []
        self._checksums: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._formats: list[str] = []
        self._exif: list[Exif] = []
        self._findings: list[Finding] = []
        self._converted: Counter[Note] = Counter()
        self._hash = np.zeros(count, np.uint64)
        self._thumbnail = np.zeros((count, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
        self._numbers = np.zeros((count, 3), np.float32)
        self._constant = np.zeros(count, np.bool_)
        self._bytes = np.zeros(count, np.int64)

    def add(self, position: int, key: str, opened: Opened | Finding) -> None:
        """Takes what the file at a position gave; call it in the order of the files."""
        if isinstance(opened, Finding):
            self._findings.append(opened)
            return
        row, look = len(self._positions), opened.look
        self._positions.append(position)
        self._checksums.append(opened.checksum)
        self._sizes.append((opened.width, opened.height))
        self._formats.append(opened.format)
        self._exif.append(opened.exif)
        self._hash[row] = look.dhash
        self._thumbnail[row] = look.thumbnail
        self._numbers[row] = look.brightness, look.contrast, look.sharpness
        self._constant[row] = look.constant
        self._bytes[row] = opened.bytes
        for note in opened.notes:
            if note.outcome is Outcome.NORMALISE:
                self._converted[note] += 1
            else:
                self._findings.append(Finding(note.code, note.outcome, key, note.message))

    def seen(self) -> Seen:
        """Everything so far; conversions, which may concern every picture, are counted, not listed."""
        count = len(self._positions)
        converted = [
            Finding(note.code, note.outcome, "", f"{number:,} picture{'s'[: number > 1]}: {note.message}")
            for note, number in sorted(self._converted.items())
        ]
        brightness, contrast, sharpness = self._numbers[:count].T.copy()
        facts = Facts(
            hash=self._hash[:count],
            thumbnail=self._thumbnail[:count],
            brightness=brightness,
            contrast=contrast,
            sharpness=sharpness,
            constant=self._constant[:count],
            bytes=self._bytes[:count],
            format=tuple(self._formats),
            exif=tuple(self._exif),
        )
        return Seen(self._positions, self._checksums, self._sizes, [*self._findings, *converted], facts)


_ARRAYS = ("hash", "thumbnail", "brightness", "contrast", "sharpness", "constant", "bytes")


def remember(path: Path, seen: Seen) -> None:
    """Keeps the results of a pass in a file.

    Raises:
        MachineError: When the disk is full or may not be written.
    """
    text = json.dumps(
        {
            "positions": seen.positions,
            "checksums": seen.checksums,
            "sizes": seen.sizes,
            "findings": [astuple(finding) for finding in seen.findings],
            "format": seen.facts.format,
            "exif": [astuple(exif) for exif in seen.facts.exif],
        }
    )
    arrays: dict[str, NDArray[Any]] = {name: getattr(seen.facts, name) for name in _ARRAYS}
    save_arrays(path, {**arrays, "text": np.frombuffer(text.encode(), np.uint8)})


def recall(path: Path) -> Seen | None:
    """The results of an earlier pass; None when there are none, or not whole."""
    arrays = load_arrays(path, {*_ARRAYS, "text"})
    if arrays is None:
        return None
    text = json.loads(arrays.pop("text").tobytes())
    return Seen(
        positions=text["positions"],
        checksums=text["checksums"],
        sizes=[(width, height) for width, height in text["sizes"]],
        findings=[Finding(code, Outcome(outcome), *rest) for code, outcome, *rest in text["findings"]],
        facts=Facts(
            **arrays, format=tuple(text["format"]), exif=tuple(Exif(*fields) for fields in text["exif"])
        ),
    )
