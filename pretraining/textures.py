"""Textures as height maps: families of formulas, each class a fixed choice of a family's parameters.

Shapes: s pixels a side. A texture is float32 [s, s] with values 0 to 1; colours come later, so that none
tells a class. What a class keeps are the relations (roughness, direction, how dense, which cells); what
varies from one drawing to the next are phases, places and seeds. After "Procedural image programs for
representation learning" (Baradad et al. 2022, arXiv 2211.16412), with formulas of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Generator = np.random.Generator
# (what the class fixes, what this drawing varies, pixels a side) -> heights
Family = Callable[[Generator, Generator, int], Plane]


def stretched(values: NDArray[np.floating]) -> Plane:
    """Heights spread over 0 to 1 between their 1st and 99th percentile."""
    low, high = np.percentile(values[::2, ::2], (1, 99))
    spread: Plane = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)
    return spread


def grid(size: int) -> tuple[Plane, Plane]:
    """Across and down, x and y, of every pixel, -1 to 1."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def smooth(rng: Generator, size: int, cells: float) -> Plane:
    """Soft noise of mean 0 with so many bumps a side, about -1 to 1."""
    count = max(round(cells) + 3, 4)
    coarse = rng.random((count, count), dtype=np.float32) * 2 - 1
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def filtered(rng: Generator, size: int, shape: Callable[[Plane], Plane], stretch: float) -> Plane:
    """White noise whose spectrum is multiplied by ``shape(frequency)``; anisotropic for a stretch over 1."""
    noise = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    down = np.fft.fftfreq(size)[:, None] * size
    across = np.fft.rfftfreq(size)[None, :] * size * stretch
    frequency = np.sqrt(down**2 + across**2).astype(np.float32)
    frequency[0, 0] = 1
    return np.asarray(np.fft.irfft2(noise * shape(frequency), s=(size, size)), np.float32)


def spectrum(fixed: Generator, free: Generator, size: int) -> Plane:
    """Noise whose power falls with frequency, as in photographs of nature."""
    slope, stretch = fixed.uniform(0.5, 1.7), fixed.choice([1.0, 1.0, 2.5, 6.0])
    values = stretched(filtered(free, size, lambda f: f**-slope, float(stretch)))
    return values if fixed.random() < 0.6 else stretched(np.abs(values - 0.5))


def labyrinth(fixed: Generator, free: Generator, size: int) -> Plane:
    """Noise of one wavelength, sharpened: spots, stripes of a zebra, labyrinths."""
    centre, width = fixed.uniform(5, 22), fixed.uniform(0.08, 0.45)
    stretch, level = float(fixed.choice([1.0, 1.0, 1.6, 3.0])), fixed.uniform(-0.9, 0.9)
    gain = float(fixed.choice([1.5, 4.0, 12.0]))
    ring = filtered(free, size, lambda f: np.exp(-(((f / centre - 1) / width) ** 2)), stretch)
    return np.asarray(1 / (1 + np.exp(-gain * (ring / ring.std() - level))), np.float32)


def gratings(fixed: Generator, free: Generator, size: int) -> Plane:
    """One to three waves at fixed angles to one another, bent a little."""
    x, y = grid(size)
    bend = fixed.uniform(0, 0.12)
    x, y = x + bend * smooth(free, size, 3), y + bend * smooth(free, size, 3)
    waves, base = int(fixed.integers(1, 4)), fixed.uniform(4, 16)
    total = np.zeros((size, size), np.float32)
    for number in range(waves):
        angle = fixed.uniform(0, np.pi)
        cycles = base * (1 if number == 0 else fixed.uniform(0.4, 1.8))
        phase = free.uniform(0, 2 * np.pi)
        total += np.sin(np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    sharpness = float(fixed.choice([1.0, 3.0, 10.0]))
    return stretched(np.tanh(sharpness * (total + fixed.uniform(-0.6, 0.6))))


def cells(fixed: Generator, free: Generator, size: int) -> Plane:
    """Cells around scattered points: their walls, their domes or their plates."""
    side, jitter = int(fixed.integers(5, 16)), fixed.uniform(0.15, 1.0)
    lattice = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5
    lattice = lattice + jitter * free.uniform(-0.6, 0.6, lattice.shape)
    points = np.clip(lattice * size / side, 0, size - 1).astype(int)
    empty = np.full((size, size), 255, np.uint8)
    empty[points[:, 1], points[:, 0]] = 0
    distance, owner = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    kind = int(fixed.integers(0, 4))
    if kind == 0:
        return stretched(distance)
    plates: Plane = free.random(int(owner.max()) + 1).astype(np.float32)[owner]
    if kind == 1:
        return plates
    walls = (
        np.abs(np.diff(owner, axis=0, prepend=owner[:1]))
        + np.abs(np.diff(owner, axis=1, prepend=owner[:, :1]))
    ) == 0
    inside = cv2.distanceTransform(walls.astype(np.uint8), cv2.DIST_L2, 3)
    width = fixed.uniform(1.0, 5.0)
    drawn = np.clip(inside / width, 0, 1).astype(np.float32)
    return drawn if kind == 2 else np.asarray(drawn * (0.4 + 0.6 * plates), np.float32)


def leaves(fixed: Generator, free: Generator, size: int) -> Plane:
    """Dead leaves: shapes of many sizes that lie on one another (Lee, Mumford and Huang 2001)."""
    kind, power = int(fixed.integers(0, 4)), fixed.uniform(1.0, 3.0)
    small, large = size * fixed.uniform(0.012, 0.04), size * fixed.uniform(0.08, 0.28)
    flat = fixed.random() < 0.5
    picture = np.full((size, size), 128, np.uint8)
    count = int(np.clip(6 * (size / (small + large)) ** 2, 80, 500))
    radii = (small**-power + free.random(count) * (large**-power - small**-power)) ** (-1 / power)
    places, heights, angles = (
        free.integers(0, size, (count, 2)),
        free.integers(0, 256, count),
        free.uniform(0, 180, count),
    )
    for radius, (x, y), height, angle in zip(radii, places.tolist(), heights.tolist(), angles, strict=True):
        if kind == 0:
            cv2.circle(picture, (x, y), int(radius) + 1, height, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.ellipse(
                picture,
                (x, y),
                (int(radius) + 1, int(radius * 0.4) + 1),
                angle,
                0,
                360,
                height,
                -1,
                cv2.LINE_AA,
            )
        else:
            corners = 4 if kind == 2 else 3
            turns = np.radians(angle) + 2 * np.pi * np.arange(corners) / corners
            ring = np.stack((x + radius * np.cos(turns), y + radius * np.sin(turns)), 1)
            cv2.fillPoly(picture, [ring.astype(np.int32)], height, cv2.LINE_AA)
    values = np.asarray(picture / np.float32(255), np.float32)
    return values if flat else stretched(values + 0.5 * smooth(free, size, 12))


def tiling(fixed: Generator, free: Generator, size: int) -> Plane:
    """Checks, bricks, dots, hexagons, weaves and scales in straight or bent rows."""
    x, y = grid(size)
    bend = fixed.choice([0.0, 0.0, 0.08])
    x, y = x + bend * smooth(free, size, 3), y + bend * smooth(free, size, 3)
    count, aspect = fixed.uniform(3, 9), fixed.uniform(0.6, 2.2)
    u, v = x * count + free.random(), y * count * aspect + free.random()
    row = np.floor(v)
    shift, kind = fixed.choice([0.0, 0.5, 0.33]), int(fixed.integers(0, 6))
    a, b = (u + shift * row) % 1 - 0.5, v % 1 - 0.5
    column = np.floor(u + shift * row)
    if kind == 0:
        values = (column + row) % 2
    elif kind == 1:
        values = np.minimum(0.5 - np.abs(a), (0.5 - np.abs(b)) / aspect) / fixed.uniform(0.04, 0.2)
    elif kind == 2:
        values = (fixed.uniform(0.2, 0.45) - np.hypot(a, b)) * 8 + 0.5
    elif kind == 3:
        values = np.where((column + row) % 2 == 0, np.cos(np.pi * a), np.cos(np.pi * b))
    elif kind == 4:
        values = np.hypot(a, b + 0.5) * 1.2
    else:
        values = (np.abs(a) + np.abs(b) < fixed.uniform(0.25, 0.5)).astype(np.float32)
    return np.asarray(np.clip(values, 0, 1), np.float32)


def hatching(fixed: Generator, free: Generator, size: int) -> Plane:
    """Many short strokes: hair, straw, scratches, grass, rain."""
    picture = np.zeros((size, size), np.uint8)
    count, length = int(fixed.integers(60, 400)), size * fixed.uniform(0.05, 0.35)
    spread, bend = fixed.uniform(0.02, np.pi / 2), fixed.uniform(0, 0.8)
    thick = int(fixed.integers(1, 4))
    start = free.uniform(-0.1, 1.1, (count, 2)) * size
    angle = free.normal(0, spread, count)
    lengths = length * free.uniform(0.6, 1.4, count)
    turned = angle + bend * free.choice([-1, 1], count)
    middle = start + 0.5 * lengths[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
    end = middle + 0.5 * lengths[:, None] * np.stack((np.cos(turned), np.sin(turned)), 1)
    lines = np.stack((start, middle, end), 1).astype(np.int32)
    for line, height in zip(lines, free.integers(60, 256, count).tolist(), strict=True):
        cv2.polylines(picture, [line], isClosed=False, color=height, thickness=thick, lineType=cv2.LINE_AA)
    return np.asarray(picture.astype(np.float32) / 255, np.float32)


def layered(fixed: Generator, free: Generator, size: int) -> Plane:
    """Noise of several octaves, folded, bent by itself or cut into bands: clouds, marble, wood, ridges."""
    cells_, gain, octaves = fixed.uniform(2, 7), fixed.uniform(0.35, 0.8), int(fixed.integers(2, 6))
    kind, warp = int(fixed.integers(0, 4)), fixed.uniform(0, 0.5)
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        layer = smooth(free, size, min(cells_ * 2**octave, size / 3))
        total += gain**octave * (1 - 2 * np.abs(layer) if kind == 1 else layer)
    if warp > 0.15:
        x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
        push = size * 0.25 * warp
        total = cv2.remap(
            total,
            x + push * total,
            y + push * smooth(free, size, 4),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    if kind == 2:
        total = np.sin(total * fixed.uniform(3, 12))
    if kind == 3:
        x, y = grid(size)
        total = np.sin(
            np.pi * fixed.uniform(2, 7) * (x if fixed.random() < 0.5 else np.hypot(x, y))
            + fixed.uniform(1, 4) * total
        )
    return stretched(total)


def network(fixed: Generator, free: Generator, size: int) -> Plane:
    """A random network of waves from place to height (Stanley 2007), one network a class."""
    x, y = grid(size)
    inputs = [
        x * 2 + free.uniform(-1, 1),
        y * 2 + free.uniform(-1, 1),
        smooth(free, size, 4),
        np.hypot(x + free.uniform(-0.5, 0.5), y),
    ]
    values = np.stack(inputs, -1).reshape(-1, 4)
    wild = fixed.uniform(0.5, 1.5)
    for width in (8, 8, 1):
        weights = fixed.normal(0, wild, (values.shape[1], width)).astype(np.float32)
        values = np.sin(values @ weights + fixed.uniform(-np.pi, np.pi, width).astype(np.float32))
    return stretched(values.reshape(size, size))


#: Families with how many classes each has.
TEXTURES: MappingProxyType[str, tuple[Family, int]] = MappingProxyType(
    {
        "spectrum": (spectrum, 20),
        "labyrinth": (labyrinth, 30),
        "gratings": (gratings, 24),
        "cells": (cells, 28),
        "leaves": (leaves, 20),
        "tiling": (tiling, 36),
        "hatching": (hatching, 24),
        "layered": (layered, 28),
        "network": (network, 30),
    }
)
