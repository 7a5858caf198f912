"""What stands where a training expects its loader: batches of pictures that are drawn on the spot.

Shapes: n pictures a batch, s pixels a side, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation import address
from pictune.data.loading import Batch
from pretraining.bank import Bank
from pretraining.scenes import Content, draw


@dataclass(frozen=True)
class DrawnLoader:
    """Pictures nobody has seen before, as many an epoch as one likes.

    Each picture is addressed by (seed, epoch, position), so a resumed training draws the same.

    Args:
        bank: What they are composed of.
        content: What they may show.
        images: Pictures an epoch.
        batch_size: n.
        side: s in an epoch.
        shared: Whether the targets of a picture sum to 1, as a softmax wants it; otherwise each is 0 or 1.
        seed: Where all randomness starts.
    """

    bank: Bank
    content: Content
    images: int
    batch_size: int
    side: Callable[[int], int]
    shared: bool
    seed: int = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return max(self.images // self.batch_size, 1)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The numbers of the pictures of an epoch."""
        return np.arange(len(self) * self.batch_size)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on."""
        bank, size = self.bank.at(epoch), self.side(epoch)
        for rows in self.positions.reshape(len(self), -1)[start:]:
            images = np.empty((len(rows), size, size, 3), np.uint8)
            targets = np.zeros((len(rows), len(bank.names)), np.float32)
            for row, position in enumerate(rows.tolist()):
                rng = address(self.seed, epoch, position)
                images[row], found = draw(rng, bank, size=size, content=self.content)
                for number, weight in found.items():
                    targets[row, number] = weight if self.shared else 1.0
            if self.shared:
                targets /= np.maximum(targets.sum(1, keepdims=True), 1e-6)
            yield Batch(images, targets, rows)
