"""The bank: a few drawings of every class, from which pictures are composed; it is renewed bit by bit.

Drawing a fractal takes milliseconds, placing a drawn one takes microseconds. So each class keeps a few
drawings for a while. Which ones they are depends on the epoch alone: a resumed training finds the same.

Shapes: c classes of shapes, t of textures, v drawings of each, s pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation import Lane, address
from pretraining.shapes import SHAPES
from pretraining.textures import TEXTURES

Pixels = NDArray[np.uint8]
Table = Mapping[str, tuple[Callable[..., Any], int]]

SPRITE, TEXTURE = 96, 160  # pixels a side
RENEWAL = 16  # epochs that a drawing is used
CLASSES_SEED = 2026  # decides the classes; another one makes another data set
COLOURS = 19  # kinds of colour, see `scenes.colour_kind`
PALETTES, STEPS = 4096, 256
NOISE = 1 << 18


class Bank:
    """Drawings of all classes, palettes and noise.

    Args:
        variants: Drawings kept of each class (v).
        most: Of each family, at most so many classes; None takes all. For tests.
        seed: Decides the drawings, not the classes.

    Attributes:
        names: Of the classes, shapes first, then textures, then the families of both, then colours.
        first_colour: The number of the first colour in ``names``: those of grounds, then those of objects.
        family: (c + t) the number of each class's family in ``names``.
        sprites: (c, v, s, s, 2) uint8, coverage and height.
        textures: (t, v, s, s) uint8, height.
        palettes: (p, 256, 3) uint8, colours by height.
        means: (p, 3) float32, mean colour of each palette.
        noise: (m) float32, of a normal distribution.
    """

    def __init__(self, *, variants: int = 8, most: int | None = None, seed: int = 0) -> None:
        self.variants, self.seed = variants, seed
        self._shapes = _classes(SHAPES, most, first_family=0)
        self._textures = _classes(TEXTURES, most, first_family=len(SHAPES))
        classes, families = (*self._shapes, *self._textures), (*SHAPES, *TEXTURES)
        colours = (f"{place}-colour-{kind:02d}" for place in ("ground", "object") for kind in range(COLOURS))
        self.names = (*(name for name, *_ in classes), *families, *colours)
        self.first_colour = len(classes) + len(families)
        self.family = np.array([len(classes) + kind for _, _, kind, _ in classes])
        self.sprites = np.zeros((len(self._shapes), variants, SPRITE, SPRITE, 2), np.uint8)
        self.textures = np.zeros((len(self._textures), variants, TEXTURE, TEXTURE), np.uint8)
        self.palettes = _palettes(address(seed, 0, 0, lane=Lane.ORDER))
        self.means = self.palettes.mean(1).astype(np.float32)
        self.noise = address(seed, 0, 1, lane=Lane.ORDER).standard_normal(NOISE, dtype=np.float32)
        self._drawn = np.full((len(classes), variants), -1)

    def at(self, epoch: int) -> Bank:
        """This bank as it is in an epoch: what is too old is drawn anew."""
        slots = np.arange(self._drawn.size).reshape(self._drawn.shape)
        wanted = (epoch + slots) // RENEWAL
        for number, variant in np.argwhere(self._drawn != wanted).tolist():
            free = address(
                self.seed, int(wanted[number, variant]), int(slots[number, variant]), lane=Lane.DRAWING
            )
            self._draw(number, variant, free)
        self._drawn = wanted
        return self

    def _draw(self, number: int, variant: int, free: np.random.Generator) -> None:
        texture = number - len(self._shapes)
        _, family, kind, order = self._shapes[number] if texture < 0 else self._textures[texture]
        fixed = address(CLASSES_SEED, kind, order, lane=Lane.DRAWING)
        drawn = family(fixed, free, SPRITE if texture < 0 else TEXTURE)
        pixels = np.clip(drawn * 255 + 0.5, 0, 255).astype(np.uint8)
        if texture < 0:
            self.sprites[number, variant] = pixels
        else:
            self.textures[texture, variant] = pixels


def _classes(
    table: Table, most: int | None, *, first_family: int
) -> list[tuple[str, Callable[..., Any], int, int]]:
    """Name, formula, number of the family and number in it, of every class."""
    return [
        (f"{name}-{order:03d}", family, kind, order)
        for kind, (name, (family, count)) in enumerate(table.items(), start=first_family)
        for order in range(count if most is None else min(count, most))
    ]


def _palettes(rng: np.random.Generator) -> Pixels:
    """Random colours by height: from one quiet colour to five loud ones, soft or in steps."""
    made = np.empty((PALETTES, STEPS, 3), np.uint8)
    line = np.linspace(0, 1, STEPS)
    for row in made:
        anchors = int(rng.integers(2, 6))
        colourful, contrast = rng.uniform(0, 1), rng.uniform(0.25, 1)
        light = 0.5 + contrast * (rng.random((anchors, 1)) - 0.5) * 1.3 + rng.uniform(-0.3, 0.3)
        tint = rng.normal(0, 0.16, (1, 3)) + rng.normal(0, 0.2 * contrast, (anchors, 3))
        colours = np.clip(light + colourful * tint, 0, 1)
        places = np.sort(rng.random(anchors))
        places[0], places[-1] = 0, 1
        soft = np.stack([np.interp(line, places, colours[:, c]) for c in range(3)], -1)
        if rng.random() < 0.25:  # in steps, as printed things are
            soft = colours[np.searchsorted(places, line, side="right").clip(1, anchors) - 1]
        row[:] = np.round(soft * 255)
    return made
