"""Batches of augmented pictures in an order that only (seed, epoch) decides.

Shapes: n pictures a batch, H and W the height and width of what the network sees, k classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation import Composition, Lane, Piece, address
from pictune.data.augmentation.steps import Corners, Matrix
from pictune.data.truths import Truths

Pixels = NDArray[np.uint8]
Mix = Callable[[Pixels, NDArray[np.float32], np.random.Generator], tuple[Pixels, NDArray[np.float32]]]

AHEAD = 3  # batches prepared while one is trained on: enough to hide a slow picture, little memory


class Batch(NamedTuple):
    """What a step learns from.

    Args:
        images: (n, H, W, 3) uint8, RGB; or (n, ...) float32, what a part of the network made of them.
        targets: (n, ...) what the network should answer, in the shape that its task gives it.
        positions: (n) int64, where the pictures stand in the dataset.
    """

    images: NDArray[Any]
    targets: NDArray[Any]
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


class Look(Protocol):
    """How a stored picture becomes what a network sees; an `Augmentation` is one."""

    @property
    def size(self) -> int:
        """Width of what the network sees, pixels."""

    @property
    def height(self) -> int:
        """Its height, pixels."""

    def with_matrix(
        self, pixels: Pixels, rng: np.random.Generator, *, boxes: Corners | None = None
    ) -> tuple[Pixels, Matrix]:
        """A view (H, W, 3) of a picture, and the matrix from its points to those of the view.

        Args:
            pixels: uint8 (h, w, 3).
            rng: The only source of chance.
            boxes: (b, 4) on the picture, for views that mind them; None when unknown.
        """

    def matrix(
        self, width: int, height: int, rng: np.random.Generator, *, boxes: Corners | None = None
    ) -> Matrix:
        """The same matrix, from the same generator, without looking at the pixels."""


@dataclass(frozen=True)
class Loader:
    """Pictures of one split, batch by batch.

    Each picture's randomness is addressed by (seed, epoch, position), so neither the number of
    workers nor the place where a resumed epoch starts changes a single pixel.

    Args:
        pictures: (N) stored pictures, uint8 (h, w, 3) each.
        truths: What is true of each of them.
        positions: Which of them this loader yields.
        look: Turns a stored picture into the (H, W, 3) that the network sees.
        batch_size: Pictures a batch.
        shuffled: A new order every epoch, without the last incomplete batch; otherwise all, in order.
        weights: How often each position is drawn relative to the others (balanced sampling).
        mix: Mixes the pictures and targets of a batch (MixUp, CutMix).
        compose: Makes one picture of several, with all that lies on them (mosaic, copy-paste).
        seed: Where the order and all augmentation start.
        workers: Threads beside the caller; 0 prepares in line.
        views: How many views of each picture take turns, epoch by epoch, the same whatever the seed;
            0 draws a new one every time.
    """

    pictures: Sequence[Pixels]
    truths: Truths
    positions: NDArray[np.int64]
    look: Look
    batch_size: int
    shuffled: bool = False
    weights: NDArray[np.float64] | None = None
    mix: Mix | None = None
    compose: Composition | None = None
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

    def targets_of(self, epoch: int, number: int, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The targets of batch ``number`` of an epoch, without its pictures and unmixed.

        Args:
            epoch: The epoch.
            number: Of the batch.
            positions: The batch's pictures, as `order` gives them.
        """
        assert self.compose is None, "what is composed is a new picture every time"
        if not self.truths.moves:
            return self.truths.stacked([self.truths[int(position)] for position in positions])
        targets = []
        width, height = self.look.size, self.look.height
        for row, position in enumerate(positions):
            generator = self._generator(epoch, number, row, int(position))
            tall, wide = self.pictures[int(position)].shape[:2]
            truth = self.truths[int(position)]
            matrix = self.look.matrix(wide, tall, generator, boxes=self.truths.corners(truth))
            targets.append(self.truths.moved(truth, matrix, width, height))
        return self.truths.stacked(targets)

    def _generator(self, epoch: int, number: int, row: int, position: int) -> np.random.Generator:
        if self.views:
            return address(0, epoch % self.views, position, lane=Lane.VIEW)
        # Balanced sampling may draw a picture twice: then its place in the order is its address.
        return address(self.seed, epoch, position if self.weights is None else number * self.batch_size + row)

    def _batch(self, epoch: int, number: int, positions: NDArray[np.int64]) -> Batch:
        images, targets = [], []
        for row, position in enumerate(positions.tolist()):
            generator = self._generator(epoch, number, row, position)
            pixels, truth = self.composed(epoch, number * self.batch_size + row, position)
            image, matrix = self.look.with_matrix(pixels, generator, boxes=self.truths.corners(truth))
            images.append(image)
            height, width = image.shape[:2]
            targets.append(self.truths.moved(truth, matrix, width, height))
        shown, wanted = np.stack(images), self.truths.stacked(targets)
        if self.mix is not None:
            shown, wanted = self.mix(shown, wanted, address(self.seed, epoch, number, lane=Lane.BATCH))
        return Batch(shown, wanted, positions)

    def composed(self, epoch: int, place: int, position: int) -> tuple[Pixels, NDArray[Any]]:
        """A stored picture and what is true of it, alone or joined by others of this loader.

        Args:
            epoch: The epoch.
            place: In the epoch's order; its address where a picture may be drawn twice.
            position: Which picture.
        """
        if self.compose is None:
            return self.pictures[position], self.truths[position]
        generator = address(
            self.seed, epoch, position if self.weights is None else place, lane=Lane.COMPOSITION
        )
        others = generator.choice(self.positions, self.compose.count - 1).tolist()
        piece = self.compose(_Pieces(self, [position, *others]), generator)
        return piece.pixels, self.truths.of_piece(piece)


class _Pieces(Sequence[Piece]):
    """Pictures with their truths, read only when they are asked for: most are never needed."""

    def __init__(self, loader: Loader, positions: Sequence[int]) -> None:
        self._loader, self._positions = loader, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: Any) -> Any:
        position = self._positions[number]
        return self._loader.truths.piece(self._loader.pictures[position], self._loader.truths[position])


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
