"""Policies: they choose steps for each image anew, from one list of operations.

The operations are those of AutoAugment's search space as both papers use it: identity, shears, shifts,
rotation, brightness, colour, contrast, sharpness, posterize, solarize, autocontrast and equalize. Shifts
are shares of the side, so that a policy means the same at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypeAlias

import numpy as np

from pictune.data.augmentation import colour, geometry, texture
from pictune.data.augmentation.steps import Policy, Probability, SingleStep
from pictune.settings import Search, Setting

# From a strength of -1..1 to a step; operations without direction look only at its size.
Operation: TypeAlias = Callable[[float], SingleStep]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the operations go at full strength.

    Args:
        shear: Tangent of the slant.
        shift: Share of the side.
        degrees: Rotation.
        factor: Change of brightness, colour, contrast and sharpness about 1.
        bits: How many bits posterize takes away.
    """

    shear: float
    shift: float
    degrees: float
    factor: float
    bits: int


STANDARD = Reach(shear=0.3, shift=0.3, degrees=30, factor=0.9, bits=4)
WIDE = Reach(shear=0.99, shift=0.3, degrees=135, factor=0.99, bits=6)


def operations(reach: Reach) -> tuple[Operation, ...]:
    """All operations of a policy, each with even chances."""
    effects = (colour.brighten, colour.saturate, colour.spread)
    return (
        lambda s: geometry.always(geometry.zoom(1)),
        lambda s: geometry.always(geometry.slant(s * reach.shear, 0), rigid=True),
        lambda s: geometry.always(geometry.slant(0, s * reach.shear), rigid=True),
        lambda s: geometry.always(geometry.shift(2 * s * reach.shift, 0)),
        lambda s: geometry.always(geometry.shift(0, 2 * s * reach.shift)),
        lambda s: geometry.always(geometry.turn(s * reach.degrees), rigid=True),
        *(partial(_recoloured, effect=effect, reach=reach.factor) for effect in effects),
        lambda s: texture.sharpness_step(low=1 + s * reach.factor, high=1 + s * reach.factor),
        lambda s: texture.posterize(bits=8 - round(abs(s) * reach.bits), probability=1),
        lambda s: texture.solarize(threshold=256 - round(abs(s) * 256), probability=1),
        lambda s: texture.autocontrast(probability=1),
        lambda s: texture.equalize(probability=1),
    )


def _recoloured(strength: float, *, effect: colour.Effect, reach: float) -> SingleStep:
    factor = 1 + strength * reach
    return colour.colour_step(effect, low=factor, high=factor)


_OPERATIONS = {"standard": operations(STANDARD), "wide": operations(WIDE)}


def rand_augment(
    *,
    count: Annotated[
        int, Setting("operations an image gets", low=1, high=6, search=Search(choices=(1, 2, 3)))
    ] = 2,
    magnitude: Annotated[
        float, Setting("strength of every operation; 10 is full", low=0, high=10, search=Search(2, 10))
    ] = 5.0,
    probability: Probability = 1.0,
) -> Policy:
    """Applies a few operations at one strength (RandAugment; Cubuk et al. 2020, arXiv 1909.13719)."""
    return Policy(probability, partial(_rand, count=count, strength=magnitude / 10))


def _rand(rng: np.random.Generator, *, count: int, strength: float) -> tuple[SingleStep, ...]:
    table = _OPERATIONS["standard"]
    return tuple(
        table[int(rng.integers(len(table)))](strength * (1 if rng.random() < 0.5 else -1))
        for _ in range(count)
    )


def trivial_augment(
    *,
    space: Annotated[
        str,
        Setting(
            "how far operations go: wide as in the paper, or standard as in rand_augment",
            choices=tuple(_OPERATIONS),
        ),
    ] = "wide",
    probability: Probability = 1.0,
) -> Policy:
    """Applies one operation at a random strength (TrivialAugment; Müller and Hutter 2021, arXiv 2103.10158).

    Nothing to tune. The wide space turns by up to 135 degrees: choose standard where up is up.
    """
    return Policy(probability, partial(_trivial, space=space))


def _trivial(rng: np.random.Generator, *, space: str) -> tuple[SingleStep, ...]:
    table = _OPERATIONS[space]
    return (table[int(rng.integers(len(table)))](2 * rng.random() - 1),)
