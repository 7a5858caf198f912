"""How much classes and pictures count, so that rare classes are heard."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def class_weights(targets: NDArray[Any]) -> NDArray[np.float32]:
    """(k) weights inverse to how often each class is there, 1 on average over what is there.

    Args:
        targets: (n, k) how much of each class there is in each picture.
    """
    counts = np.maximum(targets.sum(0), 1)
    weights = targets.sum() / (len(counts) * counts)
    return np.asarray(weights, np.float32)


def draw_weights(targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n) how often each image is drawn, so that every class is seen alike; the rarest label decides."""
    weights = class_weights(targets).astype(np.float64)
    drawn = np.where(targets > 0, weights, 0).max(1)
    return np.asarray(np.where(drawn > 0, drawn, weights.min()), np.float64)
