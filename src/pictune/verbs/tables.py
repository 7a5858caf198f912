"""The tables of parts that a recipe may name, handed to `read_recipe` because they stand above it."""

from __future__ import annotations

from types import MappingProxyType

from pictune.data.augmentation import AUGMENTATIONS, MIXINGS
from pictune.models.losses import LOSSES
from pictune.recipes import Tables
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.schedules import SCHEDULES
from pictune.training.techniques import TECHNIQUES

TABLES: Tables = MappingProxyType(
    {
        "technique": TECHNIQUES,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "mixing": MIXINGS,
        "augmentation": AUGMENTATIONS,
    }
)
