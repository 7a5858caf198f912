"""The tables of parts that a recipe may name, handed to `read_recipe` because they stand above it."""

from __future__ import annotations

from types import MappingProxyType

from pictune.data.augmentation import AUGMENTATIONS, COMPOSITIONS, MIXINGS
from pictune.models.loss_sums import LossesAndSums
from pictune.recipes import Tables
from pictune.tasks.kinds import KINDS
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.schedules import SCHEDULES
from pictune.training.techniques import TECHNIQUES

# Which task there is to learn is known when the data have been read; until then every loss may be meant.
EVERY_LOSS = {
    part.name: part.build for kind in reversed(list(KINDS.values())) for part in kind.losses.values()
}

TABLES: Tables = MappingProxyType(
    {
        "technique": TECHNIQUES,
        "loss": LossesAndSums(tuple(EVERY_LOSS.values())),
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "mixing": MIXINGS,
        "composition": COMPOSITIONS,
        "augmentation": AUGMENTATIONS,
    }
)
