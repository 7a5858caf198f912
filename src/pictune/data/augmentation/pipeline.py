"""All steps of an image in order: one warp, then colours and filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pictune.data.augmentation import colour, geometry, policies, texture
from pictune.data.augmentation.moving import around
from pictune.data.augmentation.steps import (
    Colour,
    Corners,
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
        geometry.iou_safe_crop,
        geometry.rotation,
        geometry.scale,
        geometry.scale_jitter,
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
        view: How pictures are fitted to the canvas.
    """

    steps: tuple[Step, ...]
    view: View

    @property
    def size(self) -> int:
        """Width of the canvas in pixels."""
        return self.view.canvas[0]

    @property
    def height(self) -> int:
        """Height of the canvas in pixels."""
        return self.view.canvas[1]

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """One augmented view of a picture.

        Args:
            pixels: ``uint8 [height, width, 3]``; not changed.
            rng: The image's own generator, as `address` gives it.

        Returns:
            ``uint8 [height, width, 3]`` of the canvas's size.
        """
        return self.with_matrix(pixels, rng)[0]

    def with_matrix(
        self, pixels: Pixels, rng: np.random.Generator, *, boxes: Corners | None = None
    ) -> tuple[Pixels, Matrix]:
        """One augmented view, and the matrix from points of the picture to points of the view.

        What lies on the picture moves by the same matrix: see `warp_points`, `move_boxes`, `move_mask`.

        Args:
            pixels: ``uint8 [height, width, 3]``; not changed.
            rng: The image's own generator.
            boxes: ``[b, 4]`` on the picture in pixels, for the steps that mind them; None when unknown.
        """
        height, width = pixels.shape[:2]
        chosen = self._chosen(rng)
        matrix = self._moved(chosen, width, height, rng, boxes)
        return _appearing(self.view.render(pixels, matrix), chosen, rng), matrix

    def matrix(
        self, width: int, height: int, rng: np.random.Generator, *, boxes: Corners | None = None
    ) -> Matrix:
        """The matrix that `with_matrix` gives for the same generator, without looking at pixels.

        Args:
            width: Of the picture in pixels.
            height: Of the picture in pixels.
            rng: The image's own generator, in the state in which `with_matrix` gets it.
            boxes: As in `with_matrix`.
        """
        return self._moved(self._chosen(rng), width, height, rng, boxes)

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

    def _moved(
        self,
        steps: Sequence[SingleStep],
        width: int,
        height: int,
        rng: np.random.Generator,
        boxes: Corners | None,
    ) -> Matrix:
        """All geometric steps as one matrix, from points of the picture to points of the canvas."""
        extent = self.view.extent(width, height)
        product: Matrix | None = None
        for step in steps:
            if not isinstance(step, Geometric):
                continue
            if step.guard is None or boxes is None:
                drawn = step.draw(rng, extent)
            else:
                drawn = step.guard(rng, extent, self._in_view(boxes, width, height, product))
            drawn = self.view.fitted(drawn) if step.rigid else drawn
            product = drawn if product is None else drawn @ product
        return self.view.matrix(width, height, product)

    def _in_view(self, boxes: Corners, width: int, height: int, step: Matrix | None) -> Corners:
        """[b, 4] boxes on the picture in coordinates of the view, after what was done so far."""
        across, down = self.view.extent(width, height)
        scale, start = np.array((2 * across / width, 2 * down / height)), np.array((across, down))
        corners = boxes * np.tile(scale, 2) - np.tile(start, 2)
        return corners if step is None else around(corners, step)


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
    height: int | None = None,
) -> Augmentation:
    """An augmentation from a recipe's entries.

    Args:
        steps: Such as ``{"name": "rotation", "degrees": 15, "probability": 0.5}``, in order.
        size: Width of the canvas in pixels.
        fit: How pictures are fitted to the canvas: ``crop``, ``squash`` or ``pad``; as in `clean_view`.
        crop: Which share of the fitted canvas is kept when nothing else decides.
        fill: What stands where a moved picture doesn't reach: ``reflect`` or one colour.
        interpolation: How pixels are read between pixels.
        height: Of the canvas in pixels; None for a square.

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
    view = View(size, fit=fit, crop=crop, fill=fill, interpolation=interpolation, height=height)
    return Augmentation(tuple(made), view)
