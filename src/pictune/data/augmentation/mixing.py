"""Mixing: each image of a batch with another one, and their targets with them.

Legend: n images, k classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.settings import Parts, Search, Setting

Images: TypeAlias = NDArray[Any]  # [n, height, width, 3], uint8, float32 or float64
Targets: TypeAlias = NDArray[np.floating[Any]]  # [n, k], the share of each class
Mixing: TypeAlias = Callable[[Images, Targets, np.random.Generator], tuple[Images, Targets]]

MixProbability = Annotated[
    float, Setting("share of the batches that are mixed", low=0, high=1, search=Search(0.0, 1.0))
]


def none() -> Mixing:
    """Mixes nothing."""
    return _unmixed


def _unmixed(images: Images, targets: Targets, _rng: np.random.Generator) -> tuple[Images, Targets]:
    return images, targets


def mixup(
    *,
    alpha: Annotated[
        float,
        Setting(
            "evenness of the blend; small keeps one image clear", above=0, high=10, search=Search(0.1, 1)
        ),
    ] = 0.2,
    probability: MixProbability = 1.0,
) -> Mixing:
    """Blends images and targets in one proportion (Zhang et al. 2018, arXiv 1710.09412).

    The proportion is drawn once a batch, from Beta(alpha, alpha).
    """
    return partial(_blended, alpha=alpha, probability=probability)


def _blended(
    images: Images, targets: Targets, rng: np.random.Generator, *, alpha: float, probability: float
) -> tuple[Images, Targets]:
    if rng.random() >= probability:
        return images, targets
    share = rng.beta(alpha, alpha)
    partner = rng.permutation(len(images))
    blended = np.empty_like(images)
    for row, other in enumerate(partner):
        cv2.addWeighted(images[row], share, images[other], 1 - share, 0, dst=blended[row])
    return blended, _shared(targets, partner, share)


def cutmix(
    *,
    alpha: Annotated[
        float,
        Setting(
            "evenness of the areas; 1 makes every area as likely", above=0, high=10, search=Search(0.3, 2)
        ),
    ] = 1.0,
    probability: MixProbability = 1.0,
) -> Mixing:
    """Pastes a rectangle of another image and shares targets by area (Yun et al. 2019, arXiv 1905.04899)."""
    return partial(_pasted, alpha=alpha, probability=probability)


def _pasted(
    images: Images, targets: Targets, rng: np.random.Generator, *, alpha: float, probability: float
) -> tuple[Images, Targets]:
    if rng.random() >= probability:
        return images, targets
    height, width = images.shape[1:3]
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    partner = rng.permutation(len(images))
    centre_y, centre_x = rng.random(2) * (height, width)
    top, bottom = (round(np.clip(centre_y + sign * side * height / 2, 0, height)) for sign in (-1, 1))
    left, right = (round(np.clip(centre_x + sign * side * width / 2, 0, width)) for sign in (-1, 1))
    pasted = images.copy()
    pasted[:, top:bottom, left:right] = images[partner, top:bottom, left:right]
    # The rectangle was cut off at the edges: what counts is the area that was really pasted.
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return pasted, _shared(targets, partner, share)


def _shared(targets: Targets, partner: NDArray[np.int64], share: float) -> Targets:
    mixed: Targets = (share * targets + (1 - share) * targets[partner]).astype(targets.dtype)
    return mixed


MIXINGS: Parts[Mixing] = Parts("mixing", (none, mixup, cutmix))
