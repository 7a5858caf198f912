"""All steps of an image in order: one warp, then colours and filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pictune.data.augmentation import colour, geometry, policies, texture
from pictune.data.augmentation.steps import (
    Colour,
    Extent,
    Filter,
    Geometric,
    Matrix,
    Pixels,
    Policy,
    SingleStep,
    Step,
)
from pictune.data.augmentation.view import Fill, Fit, Interpolation, View
from pictune.errors import RecipeError
from pictune.settings import Parts

AUGMENTATIONS: Parts[Step] = Parts(
    "augmentation",
    (
        geometry.random_resized_crop,
        geometry.rotation,
        geometry.scale,
        geometry.translation,
        geometry.shear,
        geometry.perspective,
        geometry.horizontal_flip,
        geometry.vertical_flip,
        geometry.quarter_turns,
        colour.brightness,
        colour.contrast,
        colour.saturation,
        colour.hue,
        colour.grayscale,
        texture.blur,
        texture.sharpness,
        texture.noise,
        texture.jpeg,
        texture.posterize,
        texture.solarize,
        texture.autocontrast,
        texture.equalize,
        texture.erasing,
        policies.rand_augment,
        policies.trivial_augment,
    ),
)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What happens to every image of an epoch, each by its own chance.

    Geometric steps go first, in their order, as one warp, whatever stands between them; colour steps and
    filters follow in their order. An image that no step happens to gets exactly the clean view.

    Args:
        steps: What may happen to an image.
        view: How pictures become squares.
    """

    steps: tuple[Step, ...]
    view: View

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return self.view.size

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """One augmented view of a picture.

        Args:
            pixels: ``uint8 [height, width, 3]``; not changed.
            rng: The image's own generator, as `address` gives it.

        Returns:
            ``uint8 [size, size, 3]``.
        """
        return self.with_matrix(pixels, rng)[0]

    def with_matrix(self, pixels: Pixels, rng: np.random.Generator) -> tuple[Pixels, Matrix]:
        """One augmented view, and the matrix from points of the picture to points of the view.

        What lies on the picture moves by the same matrix: see `warp_points`.
        """
        height, width = pixels.shape[:2]
        chosen = self._chosen(rng)
        moves = _composed(chosen, self.view.extent(width, height), rng)
        matrix = self.view.matrix(width, height, moves)
        return _appearing(self.view.render(pixels, matrix), chosen, rng), matrix

    def _chosen(self, rng: np.random.Generator) -> list[SingleStep]:
        """The steps this image gets."""
        chosen: list[SingleStep] = []
        for step in self.steps:
            if rng.random() >= step.probability:
                continue
            if isinstance(step, Policy):
                chosen.extend(step.draw(rng))
            else:
                chosen.append(step)
        return chosen


def _composed(steps: Sequence[SingleStep], extent: Extent, rng: np.random.Generator) -> Matrix | None:
    """All geometric steps as one matrix; None when there are none."""
    product: Matrix | None = None
    for step in steps:
        if isinstance(step, Geometric):
            drawn = step.draw(rng, extent)
            product = drawn if product is None else drawn @ product
    return product


def _appearing(pixels: Pixels, steps: Sequence[SingleStep], rng: np.random.Generator) -> Pixels:
    """Colour steps and filters in order; colour steps wait until a filter needs them, and go as one."""
    waiting: Matrix | None = None
    mean = np.zeros(3)
    for step in steps:
        if isinstance(step, Colour):
            if waiting is None:
                waiting, mean = np.eye(4), np.array(cv2.mean(pixels)[:3])
            # The mean of changed colours is the changed mean: no pixel has to be looked at.
            waiting = step.draw(rng, waiting[:3, :3] @ mean + waiting[:3, 3]) @ waiting
        elif isinstance(step, Filter):
            pixels, waiting = step.draw(rng, _coloured(pixels, waiting)), None
    return _coloured(pixels, waiting)


def _coloured(pixels: Pixels, matrix: Matrix | None) -> Pixels:
    if matrix is None:
        return pixels
    coloured: Pixels = cv2.transform(pixels, matrix[:3])
    return coloured


def build_augmentation(
    steps: Sequence[Mapping[str, Any]],
    size: int,
    *,
    fit: Fit = "crop",
    crop: float = 1.0,
    fill: Fill = "reflect",
    interpolation: Interpolation = "linear",
) -> Augmentation:
    """An augmentation from a recipe's entries.

    Args:
        steps: Such as ``{"name": "rotation", "degrees": 15, "probability": 0.5}``, in order.
        size: Side of the square in pixels.
        fit: How pictures become squares: ``crop``, ``squash`` or ``pad``; as in `clean_view`.
        crop: Which share of the fitted square is kept when nothing else decides.
        fill: What stands where a moved picture doesn't reach: ``reflect`` or one colour.
        interpolation: How pixels are read between pixels.

    Raises:
        RecipeError: With every mistake of every step.
    """
    made: list[Step] = []
    mistakes: list[str] = []
    for number, entry in enumerate(steps):
        settings = {name: value for name, value in entry.items() if name != "name"}
        try:
            if not isinstance(entry.get("name"), str):
                raise RecipeError(f"a step needs a name, found {dict(entry)!r}")
            made.append(AUGMENTATIONS[entry["name"]].make(**settings))
        except RecipeError as error:
            mistakes += [f"step {number + 1}: {cause}" for cause in error.causes or (error.message,)]
    if mistakes:
        raise RecipeError(
            "the augmentation cannot be made as asked",
            causes=mistakes,
            instead=f"The steps are {', '.join(AUGMENTATIONS)}.",
        )
    return Augmentation(tuple(made), View(size, fit=fit, crop=crop, fill=fill, interpolation=interpolation))
