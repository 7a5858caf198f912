"""How far two models' answers about the same pictures are apart: labels, boxes or masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pictune.data.sample import Boxes, ClassMap
from pictune.tasks.task import Prediction


@dataclass
class Likeness:
    """What was compared, and how far it is apart.

    Args:
        pictures: How many were compared.
        compared: How many labels, boxes, or pixels of another class than the first were compared.
        answered: How often the first model answered each class, in pictures, boxes or pixels.
        differing: Pictures whose labels, whose number and classes of boxes, or whose masks are not the same.
        confidence: The largest difference of a class's confidence or of a box's score; 0 for masks.
        coordinate: The largest difference of a box's coordinate, in pixels of the picture.
        pixels: How many pixels of masks were compared, those of the first class too.
        other_pixels: How many of them have another class.
    """

    pictures: int = 0
    compared: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)
    confidence: float = 0.0
    coordinate: float = 0.0
    pixels: int = 0
    other_pixels: int = 0

    @property
    def same(self) -> bool:
        """Whether all labels, classes of boxes and masks are the same, and something was compared at all."""
        return bool(self.compared) and not self.differing and not self.other_pixels


def likeness(first: Sequence[Prediction], second: Sequence[Prediction]) -> Likeness:
    """Compares the answers of two models, picture by picture."""
    found = Likeness()
    for one, other in zip(first, second, strict=True):
        assert one.key == other.key, "the same pictures in the same order"
        found.pictures += 1
        if isinstance(one.annotation, Boxes):
            assert isinstance(other.annotation, Boxes)
            _boxes(one, other, found)
        elif isinstance(one.annotation, ClassMap):
            assert isinstance(other.annotation, ClassMap)
            _masks(one.key, one.annotation, other.annotation, found)
        else:
            _labels(one, other, found)
    return found


def _labels(one: Prediction, other: Prediction, found: Likeness) -> None:
    names = one.annotation.names
    found.compared += len(names)
    found.answered.update(names)
    found.confidence = max(
        found.confidence, *(abs(value - other.confidences[name]) for name, value in one.confidences.items())
    )
    if names != other.annotation.names:
        found.differing.append(one.key)


def _boxes(one: Prediction, other: Prediction, found: Likeness) -> None:
    """Each box is paired with the nearest of its class: of two equally sure ones either may be first."""
    ours, theirs = one.annotation, other.annotation
    assert isinstance(ours, Boxes)
    assert isinstance(theirs, Boxes)
    found.compared += len(ours)
    found.answered.update(ours.labels)
    if sorted(ours.labels) != sorted(theirs.labels):
        found.differing.append(one.key)
        return
    left = list(range(len(theirs)))
    for label, corners, score in zip(ours.labels, ours.corners, one.scores, strict=True):
        rivals = [i for i in left if theirs.labels[i] == label]
        apart = [float(np.abs(theirs.corners[i] - corners).max()) for i in rivals]
        nearest = rivals[int(np.argmin(apart))]
        left.remove(nearest)
        found.coordinate = max(found.coordinate, min(apart))
        found.confidence = max(found.confidence, abs(score - other.scores[nearest]))


def _masks(key: str, ours: ClassMap, theirs: ClassMap, found: Likeness) -> None:
    assert ours.pixels.shape == theirs.pixels.shape
    counts = np.bincount(ours.pixels.reshape(-1), minlength=len(ours.classes)).tolist()
    found.answered.update({name: count for name, count in zip(ours.classes, counts, strict=True) if count})
    found.compared += sum(counts[1:])
    found.pixels += ours.pixels.size
    other = int(np.count_nonzero(ours.pixels != theirs.pixels))
    found.other_pixels += other
    if other:
        found.differing.append(key)
