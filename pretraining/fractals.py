"""Fractals of iterated function systems: a fixed table of systems, each a class.

A system is a few contracting maps of the plane; the points that go on being mapped by one of them at random
settle on its fractal (Barnsley 1988). Which systems look good is known: the singular values of the maps,
weighted, must sum to a narrow range that depends on the number of maps (Anderson and Farrell 2022,
arXiv 2110.03091).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

POINTS, WARM_UP, ITERATIONS = 2048, 12, 26
LEAST_COVERED, MOST_COVERED = 0.1, 0.75
TRIES = 60


def system(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random iterated function system: [maps, 2, 3], each a matrix beside a shift."""
    maps = int(rng.integers(2, 6))
    wanted = rng.uniform(0.5 * (5 + maps), 0.5 * (6 + maps))
    while True:
        large = rng.uniform(0.25, 1, maps)
        small = large * rng.uniform(0.15, 1, maps)
        factor = wanted / (large + 2 * small).sum()
        if (large * factor).max() < 0.98:
            break
        maps = min(maps + 1, 8)
        wanted = rng.uniform(0.5 * (5 + maps), 0.5 * (6 + maps))
    first, second = rng.uniform(-np.pi, np.pi, (2, maps))
    stretch = np.zeros((maps, 2, 2))
    stretch[:, 0, 0], stretch[:, 1, 1] = large * factor, small * factor * rng.choice([-1, 1], maps)
    matrix = rotations(first) @ stretch @ rotations(second)
    return np.concatenate((matrix, rng.uniform(-1, 1, (maps, 2, 1))), axis=2)


def rotations(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] angles to [n, 2, 2]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack((np.stack((c, -s), -1), np.stack((s, c), -1)), 1)


def density(maps: NDArray[np.float64], rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """How many points fall on each pixel, [size, size]; the fractal fills the square."""
    weight = np.abs(np.linalg.det(maps[:, :, :2])) + 0.02
    chosen = rng.choice(len(maps), (WARM_UP + ITERATIONS, POINTS), p=weight / weight.sum())
    flat = maps.reshape(len(maps), 6).astype(np.float32)
    x, y = np.zeros(POINTS, np.float32), np.zeros(POINTS, np.float32)
    kept = np.empty((ITERATIONS, 2, POINTS), np.float32)
    for number, which in enumerate(chosen):
        a, b, dx, c, d, dy = flat[which].T
        x, y = a * x + b * y + dx, c * x + d * y + dy
        if number >= WARM_UP:
            kept[number - WARM_UP] = x, y
    points = kept.transpose(1, 0, 2).reshape(2, -1)
    low, high = np.percentile(points[:, ::7], (0.5, 99.5), axis=1)
    side = max(float((high - low).max()), 1e-6)
    place = ((points - ((low + high) / 2)[:, None]) / side * 0.94 + 0.5) * size
    inside = ((place >= 0) & (place < size)).all(0)
    column, row = place[:, inside].astype(np.int64)
    return np.bincount(row * size + column, minlength=size * size).reshape(size, size).astype(np.float32)


def rendered(maps: NDArray[np.float64], rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A sprite [size, size, 2]: small gaps between points are closed; where many points fall it is high."""
    counts = cv2.GaussianBlur(density(maps, rng, size), (0, 0), 0.6)
    coverage = np.clip(counts * 2.5, 0, 1)
    closed = cv2.morphologyEx(coverage, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    height = np.log1p(counts)
    height /= max(float(np.percentile(height, 99.5)), 1e-6)
    return np.stack((closed, np.clip(height, 0, 1)), -1).astype(np.float32)


def fractal(fixed: np.random.Generator, free: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A class's system, its maps moved a little (Kataoka et al. 2022)."""
    for _ in range(TRIES):
        maps = system(fixed)
        looks = rendered(maps, np.random.default_rng(0), 48)[..., 0]
        across, down = (looks.max(axis) > 0.5 for axis in (0, 1))
        if LEAST_COVERED < looks.mean() < MOST_COVERED and min(across.mean(), down.mean()) > 0.4:
            break
    moved = maps + free.normal(0, 0.02, maps.shape)
    return rendered(moved, free, size)
