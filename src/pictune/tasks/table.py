"""The tables of evaluation: one row an image, from which every number is computed.

Shapes: n images, k classes.
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
