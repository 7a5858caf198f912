"""The four kinds of augmentation step, and what they have in common.

    Geometric   answers a 3x3 matrix: where each point of the view goes
    Colour      answers a 4x4 matrix: what becomes of a colour
    Filter      answers new pixels: everything that isn't a matrix
    Policy      answers other steps: which of them an image gets

A step is data: a probability and a plain function. Nothing is sampled but from the generator that is
handed in, so an image's randomness is decided by whoever calls. Keeping matrices as matrices is what
makes it quick: all geometric steps of an image become one warp, neighbouring colour steps one product.

Coordinates of the view: the canvas that the network will see is -1..1 in x (to the right) and in y
(downwards), whatever its width and height in pixels; the picture may reach beyond it. On a canvas that is
not a square one unit is not as long across as it is down. Scaling, shifts and flips don't mind; what turns
or slants does, and says so by ``rigid``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pictune.errors import RecipeError
from pictune.settings import Search, Setting

Pixels: TypeAlias = NDArray[np.uint8]  # [height, width, 3], RGB
Matrix: TypeAlias = NDArray[np.float64]  # 3x3 for points, 4x4 for colours (red, green, blue in 0..255, and 1)
Extent: TypeAlias = tuple[float, float]  # half the picture's width and height, in units of the view
Range: TypeAlias = tuple[float, float]  # smallest and largest
Corners: TypeAlias = NDArray[np.float64]  # [b, 4], left, top, right, bottom of b boxes

Probability = Annotated[
    float, Setting("share of the images that get this step", low=0, high=1, search=Search(0.0, 1.0))
]


@dataclass(frozen=True, slots=True)
class Geometric:
    """Moves points of the view.

    Args:
        probability: Share of the images that get it.
        draw: From a generator and the picture's extent, a 3x3 matrix from old points to new ones.
        rigid: Whether the matrix is meant for units that are as long across as down, so that on a canvas
            that is not a square it must be fitted (`View.fitted`) before it is used.
        guard: The same as ``draw`` where the boxes on the picture are known, in coordinates of the view;
            None for a step that doesn't look at them.
    """

    probability: float
    draw: Callable[[np.random.Generator, Extent], Matrix]
    rigid: bool = False
    guard: Callable[[np.random.Generator, Extent, Corners], Matrix] | None = None


@dataclass(frozen=True, slots=True)
class Colour:
    """Replaces every colour by a linear function of it.

    Args:
        probability: Share of the images that get it.
        draw: From a generator and the image's mean colour (3 values in 0..255), a 4x4 matrix.
    """

    probability: float
    draw: Callable[[np.random.Generator, NDArray[np.float64]], Matrix]


@dataclass(frozen=True, slots=True)
class Filter:
    """Makes new pixels of the same shape; never writes into the ones it is given.

    Args:
        probability: Share of the images that get it.
        draw: From a generator and the pixels, the new pixels.
    """

    probability: float
    draw: Callable[[np.random.Generator, Pixels], Pixels]


SingleStep: TypeAlias = Geometric | Colour | Filter


@dataclass(frozen=True, slots=True)
class Policy:
    """Chooses steps for each image anew.

    Args:
        probability: Share of the images that get it.
        draw: From a generator, the steps this image gets, all of them for certain.
    """

    probability: float
    draw: Callable[[np.random.Generator], Sequence[SingleStep]]


Step: TypeAlias = SingleStep | Policy


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number drawn evenly from low..high."""
    return low + (high - low) * rng.random()


def require_ascending(part: str, **ranges: Range) -> None:
    """Refuses ranges whose ends are swapped.

    Raises:
        RecipeError: Naming every range at fault.
    """
    swapped = [
        f"{part}.{name}: the smallest value comes first, found [{low:g}, {high:g}]"
        for name, (low, high) in ranges.items()
        if low > high
    ]
    if swapped:
        raise RecipeError(f"{part} cannot be made as asked", causes=swapped)
