"""Features: what lies below the freeze boundary, computed once and read instead of pixels.

Shapes: N pictures of the dataset, n a batch, activations [n, ...].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pictune.data.loading import Batch, Loader
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
            features = entry.read(rows).numpy()
            # Maps are stored with their channels last, and shown to the network as it knows them.
            shown = features.transpose(0, 3, 1, 2) if features.ndim == 4 else features
            yield Batch(shown, self.source.targets[rows], rows)


def fill(
    entry: FeatureEntry,
    below: nn.Module,
    loader: Loader,
    *,
    view: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    stop: Callable[[], int],
) -> None:
    """Computes the rows of an entry that a loader names and that are not there yet.

    Args:
        entry: Gets them.
        below: Pictures [n, s, s, 3] to activations; put into evaluation mode.
        loader: Names the pictures, and how they are looked at.
        view: Which of its views.
        device: Where the network lies.
        precision: The context in which the forward pass runs.
        stop: Gives the signal that asks to stop, or 0.

    Raises:
        FeatureOverflowError: When a value does not fit the entry's type.
        MachineError: When the disk is full or may not be written.
        StoppedError: When a signal came; what was computed is kept.
    """
    if not len(entry.missing(loader.positions)):
        return
    below.eval()
    with entry.filling() as filler:
        rows = filler.missing(np.unique(loader.positions))
        plain = replace(loader, positions=rows, shuffled=False, weights=None, mix=None, batch_size=ROWS)
        for batch in plain.batches(view):
            whole = np.resize(batch.images, (ROWS, *batch.images.shape[1:]))  # the last one is filled up
            with torch.inference_mode(), precision():
                activation = below(torch.from_numpy(whole).to(device, non_blocking=True))
            values = activation[: len(batch.positions)].float().cpu()
            filler.write(batch.positions, values.permute(0, 2, 3, 1) if values.ndim == 4 else values)
            if signal := stop():
                raise StoppedError(
                    "Stopped while features were computed; those that were are kept.", signal=signal
                )
