"""Steps that change colours: each answers one 4x4 matrix on (red, green, blue, 1), values 0..255.

Neighbouring colour steps are multiplied before they touch a pixel, so values are cut off at 0 and 255
once, at the end, and not after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.steps import Colour, Matrix, Probability, between
from pictune.settings import Search, Setting

Mean: TypeAlias = NDArray[np.float64]  # the image's mean colour, 3 values in 0..255
Effect: TypeAlias = Callable[[Mean, float], Matrix]

# How bright red, green and blue seem (ITU-R BT.601), and the YIQ space (luma and two axes of chroma).
_LUMA = np.array((0.299, 0.587, 0.114))
_TO_YIQ = np.array((_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)))
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_LUMA_OF_ALL = np.tile(_LUMA, (3, 1))


def brighten(_mean: Mean, factor: float) -> Matrix:
    """Every colour times the factor."""
    return np.diag((factor, factor, factor, 1.0))


def spread(mean: Mean, factor: float) -> Matrix:
    """Every colour's distance to the image's mean grey times the factor."""
    rest = (1 - factor) * float(_LUMA @ mean)
    matrix = np.diag((factor, factor, factor, 1.0))
    matrix[:3, 3] = rest
    return matrix


def saturate(_mean: Mean, factor: float) -> Matrix:
    """Every colour's distance to the grey of its own brightness times the factor; 0 is a grey image."""
    matrix = np.eye(4)
    matrix[:3, :3] = factor * np.eye(3) + (1 - factor) * _LUMA_OF_ALL
    return matrix


def rotate_hue(_mean: Mean, degrees: float) -> Matrix:
    """Chroma turned about the grey axis; brightness stays."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = np.array(((1, 0, 0), (0, cosine, -sine), (0, sine, cosine)))
    matrix = np.eye(4)
    matrix[:3, :3] = _FROM_YIQ @ turned @ _TO_YIQ
    return matrix


def colour_step(effect: Effect, *, low: float, high: float, probability: float = 1.0) -> Colour:
    """A step that applies an effect with an amount drawn evenly from low..high."""
    return Colour(probability, partial(_drawn, effect=effect, low=low, high=high))


def _drawn(rng: np.random.Generator, mean: Mean, *, effect: Effect, low: float, high: float) -> Matrix:
    return effect(mean, between(rng, low, high))


def brightness(
    *,
    strength: Annotated[
        float, Setting("largest change; 0.2 multiplies by 0.8 to 1.2", low=0, high=1, search=Search(0, 0.5))
    ] = 0.2,
    probability: Probability = 1.0,
) -> Colour:
    """Makes the image lighter or darker."""
    return colour_step(brighten, low=1 - strength, high=1 + strength, probability=probability)


def contrast(
    *,
    strength: Annotated[
        float, Setting("largest change; 0.2 multiplies by 0.8 to 1.2", low=0, high=1, search=Search(0, 0.5))
    ] = 0.2,
    probability: Probability = 1.0,
) -> Colour:
    """Moves colours away from the image's mean grey or towards it."""
    return colour_step(spread, low=1 - strength, high=1 + strength, probability=probability)


def saturation(
    *,
    strength: Annotated[
        float, Setting("largest change; 0.2 multiplies by 0.8 to 1.2", low=0, high=1, search=Search(0, 0.5))
    ] = 0.2,
    probability: Probability = 1.0,
) -> Colour:
    """Makes colours stronger or greyer."""
    return colour_step(saturate, low=1 - strength, high=1 + strength, probability=probability)


def hue(
    *,
    degrees: Annotated[
        float, Setting("largest turn of the colour circle, in degrees", low=0, high=180, search=Search(0, 30))
    ] = 10.0,
    probability: Probability = 1.0,
) -> Colour:
    """Turns all hues alike: red towards yellow or towards magenta.

    A rotation of chroma in YIQ instead of a shift of H in HSV: it is linear, so it joins the one matrix,
    and a grey pixel stays exactly grey. Brightness is kept until a colour leaves 0..255 and is cut off.
    """
    return colour_step(rotate_hue, low=-degrees, high=degrees, probability=probability)


def grayscale(*, probability: Probability = 0.1) -> Colour:
    """Removes all colour."""
    return colour_step(saturate, low=0.0, high=0.0, probability=probability)
