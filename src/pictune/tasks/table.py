"""The tables of evaluation, from which every number is computed.

Shapes: n images, k classes, p predicted boxes, t true boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassTable:
    """What was true, what was answered and how sure the model was, image by image.

    Args:
        keys: (n) the samples' keys.
        classes: (k) class names.
        truth: (n, k) booleans; exactly one per row when ``exclusive``.
        scores: (n, k) float64 in 0..1; rows sum to one when ``exclusive``.
        decided: (n, k) booleans: the model's answer after its thresholds.
        exclusive: True when each image has exactly one class (single-label).
        groups: (n) integers: images of one group are resampled together; None when each
            image stands for itself.
    """

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    truth: NDArray[np.bool_]
    scores: NDArray[np.float64]
    decided: NDArray[np.bool_]
    exclusive: bool
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class BoxTable:
    """Predicted and true boxes; which of them belong together is for `pictune.tasks.matching` to say.

    Boxes are left, top, right, bottom in pixels of the upright picture.

    Args:
        keys: (n) the samples' keys.
        classes: (k) class names.
        image: (p) int64, the image of each prediction, ascending.
        label: (p) int64, its class.
        score: (p) float64 in 0..1.
        box: (p, 4) float64.
        true_image: (t) int64, the image of each true box, ascending.
        true_label: (t) int64, its class.
        true_box: (t, 4) float64.
        crowd: (t) booleans: neither a hit nor a miss.
        area: (t) float64, pixels of each true object.
        thresholds: (k) from which score on a prediction counts as an answer.
        groups: (n) integers: images of one group are resampled together; None when each stands for itself.
    """

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    box: NDArray[np.float64]
    true_image: NDArray[np.int64]
    true_label: NDArray[np.int64]
    true_box: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class PixelTable:
    """Pixels counted by true and answered class, image by image; ignored pixels are in none of the counts.

    Args:
        keys: (n) the samples' keys.
        classes: (k) class names.
        hits: (n, k) int64, pixels of a class that were answered so.
        true: (n, k) int64, pixels of a class.
        answered: (n, k) int64, pixels that were answered as a class.
        confusion: (k, k) int64 over all images: rows are the truth, columns the answer.
        edges: (n, k, 4) int64 for boundary F1: true edge pixels that an answered edge is near, true edge
            pixels, answered edge pixels that a true edge is near, answered edge pixels.
        groups: (n) integers: images of one group are resampled together; None when each stands for itself.
    """

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    hits: NDArray[np.int64]
    true: NDArray[np.int64]
    answered: NDArray[np.int64]
    confusion: NDArray[np.int64]
    edges: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.keys)


Table = ClassTable | BoxTable | PixelTable
