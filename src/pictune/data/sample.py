"""The nouns of data: `Sample`, its annotation, and `Dataset`.

Shapes: b boxes. A picture covers 0..width and 0..height pixels, upright; the centre of its first pixel is
(0.5, 0.5).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pictune.data.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Labels:
    """The classes of one image, by name; a single-label image has exactly one."""

    names: tuple[str, ...]

    def rows(self) -> list[Any]:
        """All of it in plain values, to tell one annotation from another."""
        return list(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The objects in one image, each with a class and a box.

    Args:
        labels: (b) the class of each box, by name.
        corners: (b, 4) float64, left, top, right, bottom in pixels of the upright picture.
        crowd: (b) whether a box stands for many objects, or one that nobody is expected to find: it is
            not learnt, and neither a hit nor a miss. None is nowhere.
        areas: (b) float64, pixels of each object where that is known better than by its box; None where
            it is not.
        outlines: (b) for each box the polygons or the run lengths that a COCO file draws it with, as they
            stand there; None for a box without. Kept for `convert`, not learnt from.
    """

    labels: tuple[str, ...]
    corners: NDArray[np.float64]
    crowd: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None
    outlines: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        assert self.corners.shape == (len(self.labels), 4), self.corners.shape

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that occur, each once."""
        return tuple(dict.fromkeys(self.labels))

    def rows(self) -> list[Any]:
        """All of it in plain values, to tell one annotation from another."""
        crowd = None if self.crowd is None else self.crowd.tolist()
        return [list(self.labels), self.corners.tolist(), crowd]


@dataclass(frozen=True, slots=True, eq=False)
class Legend:
    """What the values in mask files mean.

    Args:
        names: Class names by value: a number from 0 to 255, or, ``coloured``, red * 65536 + green * 256
            + blue.
        ignored: Values of pixels that belong to no class: not learnt, not counted.
        coloured: Whether the files show colours; otherwise grey values or places in a palette.
    """

    names: Mapping[int, str]
    ignored: frozenset[int] = frozenset()
    coloured: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """The class of every pixel of one image, in a file of its own.

    Args:
        path: The file; of the image's size.
        legend: What its values mean.
        names: The classes that occur; empty until the file was opened.
        checksum: SHA-256 of the file's bytes, hexadecimal; empty until the file was opened.
    """

    path: Path
    legend: Legend
    names: tuple[str, ...] = ()
    checksum: str = ""

    def rows(self) -> list[Any]:
        """All of it in plain values, to tell one annotation from another."""
        meanings = sorted(self.legend.names.items())
        return [self.checksum, meanings, sorted(self.legend.ignored), self.legend.coloured]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """The class of every pixel as a model answers it; in memory, without a file.

    Args:
        classes: Names by number.
        pixels: (h, w) uint8, the number of each pixel's class.
    """

    classes: tuple[str, ...]
    pixels: NDArray[np.uint8]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that occur."""
        there = set(self.pixels.reshape(-1).tolist())
        return tuple(name for number, name in enumerate(self.classes) if number in there)

    def rows(self) -> list[Any]:
        """All of it in plain values, to tell one annotation from another."""
        return [list(self.classes), self.pixels.tolist()]


Annotation = Labels | Boxes | Mask | ClassMap


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known about it.

    Args:
        key: Path relative to the dataset's root, with forward slashes: the image's identity.
        path: Where the file is.
        annotation: What a person said about it; None when nobody did.
        group: Images of one group (patient, part, scene) are never separated by a split.
        given_split: ``train``, ``val`` or ``test`` when the data say so themselves.
        width: Pixels after EXIF rotation; 0 until the file was opened.
        height: Pixels after EXIF rotation; 0 until the file was opened.
        checksum: SHA-256 of the file's bytes, hexadecimal; empty until the file was opened.
    """

    key: str
    path: Path
    annotation: Annotation | None = None
    group: str | None = None
    given_split: str | None = None
    width: int = 0
    height: int = 0
    checksum: str = ""


@dataclass(frozen=True)
class Dataset:
    """Samples, the names of their classes, and their splits. Immutable.

    Args:
        root: The folder or table the user named.
        format: Which format read it, such as ``folders``.
        task: The task its annotations ask for: ``classification``, ``detection`` or ``segmentation``.
        classes: Class names in a fixed order; names are the contract, never indices.
        samples: In a fixed order (by key).
        multilabel: Whether an image may have several labels, or none.
        splits: For each split its positions in ``samples``, ascending; empty before splitting.
        findings: What was noticed while reading.
    """

    root: Path
    format: str
    task: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    multilabel: bool = False
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, positions: Iterable[int]) -> Dataset:
        """The samples at these positions, in this order, with the splits following them."""
        chosen = list(positions)
        new_position = {old: new for new, old in enumerate(chosen)}
        splits = {
            name: tuple(sorted(new_position[i] for i in members if i in new_position))
            for name, members in self.splits.items()
        }
        return replace(self, samples=tuple(self.samples[i] for i in chosen), splits=MappingProxyType(splits))

    def split(self, name: str) -> Dataset:
        """The samples of one split.

        Raises:
            KeyError: When the dataset has no such split.
        """
        return self.select(self.splits[name])

    def count(self) -> dict[str, int]:
        """How many images carry each class, in class order."""
        counts = Counter(name for s in self.samples if s.annotation for name in s.annotation.names)
        return {name: counts[name] for name in self.classes}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over keys, contents and labels: changes when the data do, and only then."""
        rows = [
            [s.key, s.checksum, s.annotation.rows() if s.annotation else None, s.group]
            for s in sorted(self.samples, key=lambda s: s.key)
        ]
        text = json.dumps([list(self.classes), self.multilabel, rows], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()
