"""Batches of augmented pictures in an order that only (seed, epoch) decides.

Shapes: n pictures a batch, s the side of the square the network sees, k classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation import Lane, address

Pixels = NDArray[np.uint8]
View = Callable[[Pixels, np.random.Generator], Pixels]
Mix = Callable[[Pixels, NDArray[np.float32], np.random.Generator], tuple[Pixels, NDArray[np.float32]]]

AHEAD = 3  # batches prepared while one is trained on: enough to hide a slow picture, little memory


class Batch(NamedTuple):
    """What a step learns from.

    Args:
        images: (n, s, s, 3) uint8, RGB; or (n, ...) float32, what a part of the network made of them.
        targets: (n, k) float32; one-hot, multi-hot, or mixed.
        positions: (n) int64, where the pictures stand in the dataset.
    """

    images: NDArray[Any]
    targets: NDArray[np.float32]
    positions: NDArray[np.int64]


class Batches(Protocol):
    """Where batches come from: stored pictures, cached features, or pictures that are being drawn."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which pictures it yields."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on; the same for the same numbers, always."""


@dataclass(frozen=True)
class Loader:
    """Pictures of one split, batch by batch.

    Each picture's randomness is addressed by (seed, epoch, position), so neither the number of
    workers nor the place where a resumed epoch starts changes a single pixel.

    Args:
        pictures: (N) stored pictures, uint8 (h, w, 3) each.
        targets: (N, k) float32 targets of all stored pictures.
        positions: Which of them this loader yields.
        view: Turns a stored picture into the (s, s, 3) the network sees.
        batch_size: Pictures a batch.
        size: s.
        shuffled: A new order every epoch, without the last incomplete batch; otherwise all, in order.
        weights: How often each position is drawn relative to the others (balanced sampling).
        mix: Mixes the pictures and targets of a batch (MixUp, CutMix).
        seed: Where the order and all augmentation start.
        workers: Threads beside the caller; 0 prepares in line.
        views: How many views of each picture take turns, epoch by epoch, the same whatever the seed;
            0 draws a new one every time.
    """

    pictures: Sequence[Pixels]
    targets: NDArray[np.float32]
    positions: NDArray[np.int64]
    view: View
    batch_size: int
    size: int
    shuffled: bool = False
    weights: NDArray[np.float64] | None = None
    mix: Mix | None = None
    seed: int = 0
    workers: int = 1
    views: int = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.positions), self.batch_size)
        if self.shuffled:
            return max(whole, 1)
        return whole + (rest > 0)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The positions in the order in which an epoch visits them."""
        if not self.shuffled:
            return self.positions
        generator = address(self.seed, epoch, 0, lane=Lane.ORDER)
        if self.weights is None:
            return generator.permutation(self.positions)
        shares = self.weights / self.weights.sum()
        return generator.choice(self.positions, size=len(self.positions), replace=True, p=shares)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on."""
        order = self.order(epoch)
        rows = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self))]
        if self.workers == 0:
            yield from (self._batch(epoch, start + i, row) for i, row in enumerate(rows))
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="pictune-loader") as pool:
            waiting: deque[Future[Batch]] = deque()
            try:
                for number, row in enumerate(rows):
                    waiting.append(pool.submit(self._batch, epoch, start + number, row))
                    if len(waiting) > AHEAD + self.workers - 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _batch(self, epoch: int, number: int, positions: NDArray[np.int64]) -> Batch:
        images = np.empty((len(positions), self.size, self.size, 3), np.uint8)
        for row, position in enumerate(positions):
            # Balanced sampling may draw a picture twice: then its place in the order is its address.
            place = int(position) if self.weights is None else number * self.batch_size + row
            generator = (
                address(0, epoch % self.views, int(position), lane=Lane.VIEW)
                if self.views
                else address(self.seed, epoch, place)
            )
            images[row] = self.view(self.pictures[int(position)], generator)
        targets = self.targets[positions]
        if self.mix is not None:
            images, targets = self.mix(images, targets, address(self.seed, epoch, number, lane=Lane.BATCH))
        return Batch(images, targets, positions)


@dataclass(frozen=True)
class Growing:
    """Loaders of growing image size that take turns; an epoch has as many batches in each.

    Args:
        loaders: At least one.
        starts: The epoch from which on each of them is read; the first is 0.
    """

    loaders: Sequence[Loader]
    starts: Sequence[int]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Which pictures it yields."""
        return self.loaders[0].positions

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.loaders[0])

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on."""
        reached = sum(first <= epoch for first in self.starts)
        return self.loaders[reached - 1].batches(epoch, start=start)
