"""Features: what the network below the freeze boundary makes of pictures; computed once, or each time.

Both ways give the same numbers: pictures go through in batches of one size, and the result is rounded to
half precision.

Shapes: N pictures of the dataset, n a batch, activations [n, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pictune.data.loading import Batch, Batches, Loader
from pictune.errors import StoppedError
from pictune.training.feature_store import FeatureEntry

ROWS = 32  # pictures computed together, always, so that a row does not depend on what was missing beside it


@dataclass(frozen=True)
class FeatureLoader:
    """Batches of features in the order in which another loader would yield their pictures.

    Args:
        source: Decides order, targets and batch size; not its views.
        entries: The views that take turns, epoch by epoch; every row that the source names is there.
    """

    source: Loader
    entries: Sequence[FeatureEntry]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which pictures' features it yields."""
        return self.source.positions

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.source)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on."""
        entry, order = self.entries[epoch % len(self.entries)], self.source.order(epoch)
        for number in range(start, len(self)):
            rows = order[number * self.source.batch_size : (number + 1) * self.source.batch_size]
            targets = self.source.targets_of(epoch, number, rows)
            yield Batch(_shown(entry.read(rows).numpy()), targets, rows)


@dataclass(frozen=True)
class Pass:
    """A way through the frozen layers.

    Args:
        below: Pictures [n, s, s, 3] to activations.
        device: Where it lies.
        precision: The context in which the forward pass runs.
    """

    below: nn.Module
    device: torch.device
    precision: Callable[[], AbstractContextManager[object]]

    def __call__(self, images: NDArray[Any]) -> torch.Tensor:
        """Activations [n, ...] float32 on the CPU, of at most `ROWS` pictures; maps with channels last."""
        self.below.eval()
        whole = np.resize(images, (ROWS, *images.shape[1:]))  # fewer are filled up
        with torch.inference_mode(), self.precision():
            activation = self.below(torch.from_numpy(whole).to(self.device, non_blocking=True))
        values: torch.Tensor = activation[: len(images)].float().cpu()
        return values.permute(0, 2, 3, 1) if values.ndim == 4 else values


@dataclass(frozen=True)
class ComputedFeatures:
    """Batches of features that are computed each time, as if they had been kept.

    Args:
        source: Pictures; their views take turns.
        through: The way through the frozen layers.
    """

    source: Batches
    through: Pass

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which pictures' features it yields."""
        return self.source.positions

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.source)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on."""
        for batch in self.source.batches(epoch, start=start):
            parts = [batch.images[i : i + ROWS] for i in range(0, len(batch.images), ROWS)]
            features = torch.cat([_rounded(self.through(part)) for part in parts]).numpy()
            yield Batch(_shown(features), batch.targets, batch.positions)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """Float32 numbers with the digits that the cache keeps."""
    half = values.half()
    return half.float() if bool(half.isfinite().all()) else values.bfloat16().float()


def _shown(features: NDArray[Any]) -> NDArray[Any]:
    """Maps are kept with their channels last, and shown to the network as it knows them."""
    return features.transpose(0, 3, 1, 2) if features.ndim == 4 else features


def fill(entry: FeatureEntry, through: Pass, loader: Loader, *, view: int, stop: Callable[[], int]) -> None:
    """Computes the rows of an entry that a loader names and that are not there yet.

    Args:
        entry: Gets them.
        through: The way through the frozen layers.
        loader: Names the pictures, and how they are looked at.
        view: Which of its views.
        stop: Gives the signal that asks to stop, or 0.

    Raises:
        FeatureOverflowError: When a value does not fit the entry's type.
        MachineError: When the disk is full or may not be written.
        StoppedError: When a signal came; what was computed is kept.
    """
    if not len(entry.missing(loader.positions)):
        return
    with entry.filling() as filler:
        rows = filler.missing(np.unique(loader.positions))
        plain = replace(loader, positions=rows, shuffled=False, weights=None, mix=None, batch_size=ROWS)
        for batch in plain.batches(view):
            filler.write(batch.positions, through(batch.images))
            if signal := stop():
                raise StoppedError(
                    "Stopped while features were computed; those that were are kept.", signal=signal
                )
