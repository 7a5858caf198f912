"""Augmentation: how pictures vary in training, and how they look when nothing varies."""

from __future__ import annotations

from pictune.data.augmentation.addressing import Lane, address
from pictune.data.augmentation.mixing import MIXINGS, Mixing
from pictune.data.augmentation.pipeline import AUGMENTATIONS, Augmentation, build_augmentation
from pictune.data.augmentation.presets import DENSE_PRESETS, PRESETS
from pictune.data.augmentation.preview import preview_grid
from pictune.data.augmentation.view import View, clean_view, warp_points

__all__ = [
    "AUGMENTATIONS",
    "DENSE_PRESETS",
    "MIXINGS",
    "PRESETS",
    "Augmentation",
    "Lane",
    "Mixing",
    "View",
    "address",
    "build_augmentation",
    "clean_view",
    "preview_grid",
    "warp_points",
]
