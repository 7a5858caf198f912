"""Shapes as sprites: families of formulas, each class a fixed choice of a family's parameters.

Shapes of arrays: s pixels a side. A sprite is float32 [s, s, 2]: how much of a pixel the shape covers, and
how high the shape stands there (for shading), both 0 to 1. A class keeps its formula; a drawing varies its
parameters a little, its pose, its thickness.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from pretraining.fractals import fractal
from pretraining.textures import Generator, Plane, smooth

Sprite = NDArray[np.float32]
# (what the class fixes, what this drawing varies, pixels a side) -> sprite
Family = Callable[[Generator, Generator, int], Sprite]

FINE = 2  # outlines are drawn this much larger and shrunk, so that their edges are soft


def pillow(coverage: Plane) -> Sprite:
    """A sprite that rises from its edge towards its middle."""
    distance = cv2.distanceTransform((coverage > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    high = float(distance.max())
    return np.stack((coverage, np.sqrt(distance / max(high, 1e-6))), -1).astype(np.float32)


def shrunk(canvas: NDArray[np.uint8], size: int) -> Plane:
    """A drawing of 0 to 255 as soft coverage of 0 to 1, [size, size]."""
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(small / np.float32(255), np.float32)


def filled(outlines: list[NDArray[np.floating]], size: int) -> Plane:
    """Coverage of closed outlines with x and y in -1 to 1; where two overlap, there is a hole."""
    canvas = np.zeros((size * FINE, size * FINE), np.uint8)
    scaled = [((line * 0.48 + 0.5) * size * FINE * 16).astype(np.int32) for line in outlines]
    cv2.fillPoly(canvas, scaled, 255, cv2.LINE_AA, shift=4)
    return shrunk(canvas, size)


def lines(paths: list[NDArray[np.floating]], size: int, thickness: float) -> Plane:
    """Coverage of open paths with x and y in -1 to 1, drawn with a pen."""
    canvas = np.zeros((size * FINE, size * FINE), np.uint8)
    scaled = [((path * 0.44 + 0.5) * size * FINE).astype(np.int32) for path in paths]
    cv2.polylines(
        canvas,
        scaled,
        isClosed=False,
        color=255,
        thickness=max(int(thickness * size * FINE), 2),
        lineType=cv2.LINE_AA,
    )
    return shrunk(canvas, size)


def bent(sprite: Sprite, free: Generator, strength: float) -> Sprite:
    """The sprite on a sheet of rubber that is pulled here and there."""
    size = len(sprite)
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    push = strength * size * free.random()
    return np.asarray(
        cv2.remap(
            sprite, x + push * smooth(free, size, 1), y + push * smooth(free, size, 1), cv2.INTER_LINEAR
        ),
        np.float32,
    )


def radial(radius: NDArray[np.floating]) -> NDArray[np.floating]:
    """An outline from radii at even angles, its largest radius 1."""
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    radius = radius / radius.max()
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)


ANGLES = np.linspace(0, 2 * np.pi, 160, endpoint=False)


def atom(fixed: Generator, free: Generator, size: int) -> Sprite:
    """A circle bent by two waves, with rings inside (VisualAtom: Takashima et al. 2023)."""
    first, second = (int(n) for n in fixed.choice(np.arange(1, 15), 2, replace=False))
    strong, weak = fixed.uniform(0.15, 0.4), fixed.uniform(0.05, 0.3)
    rings = int(fixed.integers(1, 4))
    phase = free.uniform(0, 2 * np.pi)
    wave = 1 + strong * np.sin(first * ANGLES) + weak * np.sin(second * ANGLES + phase)
    wave = np.maximum(wave * free.uniform(0.95, 1.05), 0.08)
    return pillow(filled([radial(wave) * (1 - ring / (rings + 0.4)) for ring in range(rings)], size))


def superformula(fixed: Generator, free: Generator, size: int) -> Sprite:
    """Gielis's superformula (2003): one formula for flowers, stars, shells and squares."""
    m, a = int(fixed.integers(2, 13)), fixed.uniform(0.6, 1.6)
    n1, n2, n3 = (float(n) * free.uniform(0.92, 1.08) for n in np.exp(fixed.uniform(-1.2, 2.2, 3)))
    base = np.abs(np.cos(m * ANGLES / 4) / a) ** n2 + np.abs(np.sin(m * ANGLES / 4)) ** n3
    radius = np.clip(np.maximum(base, 1e-4) ** (-1 / n1), 0.01, 20)
    radius = np.maximum(radius / np.percentile(radius, 97), 0.06)
    return pillow(filled([radial(np.minimum(radius, 1.0))], size))


def polygon(fixed: Generator, free: Generator, size: int) -> Sprite:
    """Polygons, stars, gears, some with holes or irregular corners."""
    corners, kind = int(fixed.integers(3, 10)), int(fixed.integers(0, 4))
    depth, uneven, hole = fixed.uniform(0.3, 0.75), fixed.uniform(0, 0.35), fixed.random() < 0.35
    teeth = {0: np.ones(1), 1: np.array([1, depth]), 2: np.array([1, 1, depth, depth]), 3: np.ones(1)}[kind]
    radius = np.tile(teeth, corners)
    if kind == 3:
        radius = radius * fixed.uniform(0.35, 1, len(radius))
    radius = radius * (1 + free.normal(0, 0.05, len(radius)))
    turn = 2 * np.pi * np.arange(len(radius)) / len(radius) + uneven * fixed.normal(0, 0.4, len(radius))
    ring = np.stack((radius * np.cos(turn), radius * np.sin(turn)), 1) / radius.max()
    return pillow(filled([ring, ring * fixed.uniform(0.35, 0.7)] if hole else [ring], size))


def blob(fixed: Generator, free: Generator, size: int) -> Sprite:
    """Round things with a fixed roughness, elongation and number of lobes, none like another."""
    rough, long, lobes = fixed.uniform(0.02, 0.5), fixed.uniform(0.35, 1), int(fixed.integers(2, 9))
    wave = sum(
        free.normal() * rough / (k**0.7) * np.sin(k * ANGLES + free.uniform(0, 7)) for k in range(1, lobes)
    )
    ring = radial(np.maximum(1 + np.asarray(wave), 0.1)) * np.array((1, long))
    inner = ring * fixed.uniform(0.2, 0.6) + free.uniform(-0.15, 0.15, 2)
    sprite = pillow(filled([ring], size))
    if fixed.random() < 0.5:  # a nucleus stands higher
        sprite[..., 1] = 0.5 * sprite[..., 1] + 0.5 * filled([inner], size)
    return sprite


def glyph(fixed: Generator, free: Generator, size: int) -> Sprite:
    """A written sign of two to four curved strokes, by another hand each time."""
    t = np.linspace(0, 1, 14)[:, None]
    paths = []
    for _ in range(int(fixed.integers(2, 5))):
        a, b, c, d = fixed.uniform(-1, 1, (4, 2)) + free.normal(0, 0.09, (4, 2))
        paths.append((1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d)
    points = np.concatenate(paths)
    low, high = points.min(0), points.max(0)
    scale = max(float((high - low).max()), 0.3) / 2
    moved = [(path - (low + high) / 2) / scale * 0.92 for path in paths]
    return bent(pillow(lines(moved, size, free.uniform(0.03, 0.11))), free, 0.06)


def branches(fixed: Generator, free: Generator, size: int) -> Sprite:
    """Trees, corals and roots: each branch splits at fixed angles into shorter ones."""
    angles, shrink = fixed.uniform(-1.2, 1.2, int(fixed.integers(2, 4))), fixed.uniform(0.55, 0.82)
    paths, tips = [], [(np.zeros(2), 0.0, 1.0)]
    for _ in range(5 if len(angles) == 2 else 4):
        grown = []
        for start, heading, length in tips:
            end = start + length * np.array((np.sin(heading), -np.cos(heading)))
            paths.append(np.stack((start, end)))
            grown += [
                (end, heading + a + free.normal(0, 0.1), length * shrink * free.uniform(0.85, 1.15))
                for a in angles
            ]
        tips = grown
    points = np.concatenate(paths)
    low, high = points.min(0), points.max(0)
    moved = [(path - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-3) for path in paths]
    return pillow(lines(moved, size, free.uniform(0.02, 0.045)))


def turned(points: NDArray[np.floating], free: Generator, most: float) -> NDArray[np.floating]:
    """Points in space after a turn by up to ``most`` about two random axes."""
    a, b = free.uniform(-most, most, 2)
    about_x = np.array(((1, 0, 0), (0, np.cos(a), -np.sin(a)), (0, np.sin(a), np.cos(a))))
    about_y = np.array(((np.cos(b), 0, np.sin(b)), (0, 1, 0), (-np.sin(b), 0, np.cos(b))))
    seen: NDArray[np.floating] = points @ about_x @ about_y
    return seen


def wireframe(fixed: Generator, free: Generator, size: int) -> Sprite:
    """Rods between points in space, seen from somewhere else each time."""
    corners = fixed.uniform(-1, 1, (int(fixed.integers(5, 10)), 3))
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    nearest = np.argsort(distance, axis=1)[:, 1 : int(fixed.integers(2, 4)) + 1]
    seen = turned(corners, free, 0.8)[:, :2]
    seen = (seen - (seen.min(0) + seen.max(0)) / 2) / (np.ptp(seen, axis=0).max() / 2)
    rods = [np.stack((seen[i], seen[j])) for i, near in enumerate(nearest) for j in near]
    return pillow(lines(rods, size, free.uniform(0.025, 0.07)))


def solid(fixed: Generator, free: Generator, size: int) -> Sprite:
    """A convex body with flat faces under a lamp, seen from somewhere else each time."""
    count = int(fixed.integers(5, 11))
    corners = turned(fixed.normal(0, 1, (count, 3)) * fixed.uniform(0.4, 1, 3), free, 0.9)
    corners = corners - (corners.min(0) + corners.max(0)) / 2
    corners = corners / np.ptp(corners[:, :2], axis=0).max() * 2
    hull, canvas = ConvexHull(corners), np.zeros((size * FINE, size * FINE), np.uint8)
    lamp = np.array((0.4, -0.5, 0.77))
    for face, equation in zip(hull.simplices, hull.equations, strict=True):
        if equation[2] > 0:
            place = ((corners[face, :2] * 0.48 + 0.5) * size * FINE).astype(np.int32)
            cv2.fillPoly(canvas, [place], int(40 + 215 * max(float(equation[:3] @ lamp), 0)), cv2.LINE_AA)
    height = shrunk(canvas, size)
    ring = corners[ConvexHull(corners[:, :2]).vertices, :2]
    return np.stack((filled([ring], size), height), -1).astype(np.float32)


def creature(fixed: Generator, free: Generator, size: int) -> Sprite:
    """A body with limbs of fixed lengths that bend at their joints, as hands and animals do."""
    limbs, body = int(fixed.integers(2, 8)), fixed.uniform(0.25, 0.6, 2)
    where = np.sort(fixed.uniform(0, 2 * np.pi, limbs))
    lengths, widths = fixed.uniform(0.15, 0.5, (limbs, 2)), fixed.uniform(0.08, 0.3, limbs)
    bends = fixed.normal(0, 0.5, limbs)
    parts = []
    for angle, length, width, bend in zip(where, lengths, widths, bends, strict=True):
        heading = angle + free.normal(0, 0.18)
        place = body * 0.8 * np.array((np.cos(angle), np.sin(angle)))
        for number, part in enumerate(length):
            end = place + part * free.uniform(0.8, 1.1) * np.array((np.cos(heading), np.sin(heading)))
            parts.append((place, end, width * (1 - 0.3 * number)))
            place, heading = end, heading + bend + free.normal(0, 0.3)
    points = np.array([end for _, end, _ in parts] + [-body, body])
    low, high = points.min(0) - 0.1, points.max(0) + 0.1
    scale, middle = size * FINE / float((high - low).max()), (low + high) / 2
    canvas = np.zeros((size * FINE, size * FINE), np.uint8)

    def placed(point: NDArray[np.floating]) -> tuple[int, int]:
        x, y = ((point - middle) * scale + size * FINE / 2).astype(int).tolist()
        return x, y

    axes = (int(body[0] * scale), int(body[1] * scale))
    cv2.ellipse(canvas, placed(np.zeros(2)), axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    for start, end, width in parts:
        cv2.line(canvas, placed(start), placed(end), 255, max(int(width * scale), 2), cv2.LINE_AA)
    return pillow(shrunk(canvas, size))


#: Families with how many classes each has.
SHAPES: MappingProxyType[str, tuple[Family, int]] = MappingProxyType(
    {
        "fractal": (fractal, 260),
        "atom": (atom, 60),
        "superformula": (superformula, 50),
        "polygon": (polygon, 50),
        "blob": (blob, 30),
        "glyph": (glyph, 90),
        "branches": (branches, 30),
        "wireframe": (wireframe, 50),
        "solid": (solid, 40),
        "creature": (creature, 80),
    }
)
