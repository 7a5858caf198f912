"""Looks made of a plain function, for loaders of tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Look:
    """A function of pixels and generator as a look; nothing moves.

    Args:
        change: What becomes of the pixels.
        size: Width of what the network sees.
        height: Its height.
    """

    change: Callable[[np.ndarray, np.random.Generator], np.ndarray] = lambda pixels, _: pixels
    size: int = 0
    height: int = 0

    def with_matrix(
        self, pixels: np.ndarray, rng: np.random.Generator, *, boxes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.change(pixels, rng), np.eye(3)

    def matrix(
        self, width: int, height: int, rng: np.random.Generator, *, boxes: np.ndarray | None = None
    ) -> np.ndarray:
        return np.eye(3)
