"""Augmentation: how pictures vary in training, and how they look when nothing varies."""

from __future__ import annotations

from pictune.data.augmentation.addressing import Lane, address
from pictune.data.augmentation.composing import COMPOSITIONS, Composition, Piece
from pictune.data.augmentation.mixing import MIXINGS, Mixing
from pictune.data.augmentation.moving import move_boxes, move_mask, restore_boxes, restore_map
from pictune.data.augmentation.pipeline import AUGMENTATIONS, Augmentation, build_augmentation
from pictune.data.augmentation.presets import DENSE_FILL, DENSE_PRESETS, PRESETS
from pictune.data.augmentation.preview import preview_grid
from pictune.data.augmentation.view import View, clean_view, warp_points

__all__ = [
    "AUGMENTATIONS",
    "COMPOSITIONS",
    "DENSE_FILL",
    "DENSE_PRESETS",
    "MIXINGS",
    "PRESETS",
    "Augmentation",
    "Composition",
    "Lane",
    "Mixing",
    "Piece",
    "View",
    "address",
    "build_augmentation",
    "clean_view",
    "move_boxes",
    "move_mask",
    "preview_grid",
    "restore_boxes",
    "restore_map",
    "warp_points",
]
