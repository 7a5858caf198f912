"""A network's answers to many pictures, one after the other, on the pictures' own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation import View
from pictune.data.loading import Batches
from pictune.tasks.task import Placed, Task

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Placing:
    """Where pictures lie on the canvas that the network sees.

    Args:
        pictures: Stored pictures, uint8 (h, w, 3) each.
        sizes: Width and height of each picture itself, pixels; stored ones may be smaller.
        view: How a stored picture becomes the canvas.
    """

    pictures: Sequence[NDArray[np.uint8]]
    sizes: Sequence[tuple[int, int]]
    view: View

    def __call__(self, position: int) -> Placed:
        """Where one picture lies."""
        tall, wide = self.pictures[position].shape[:2]
        width, height = self.sizes[position]
        matrix = self.view.matrix(wide, tall) @ np.diag((wide / width, tall / height, 1.0))
        return Placed(matrix, width, height)


def answers(
    network: nn.Module,
    task: Task,
    loader: Batches,
    placing: Callable[[int], Placed],
    *,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[NDArray[Any]]:
    """What a network says of every picture of a loader, in its order.

    Args:
        network: Put into evaluation mode, and back when the last answer was taken.
        task: Reads the outputs.
        loader: Pictures, or features if the network takes those; not shuffled.
        placing: Where a picture lies on the canvas, by its position.
        device: Where the network lies.
        precision: The context in which the forward pass runs.

    Yields:
        One array a picture, in the shape that the task gives it.
    """
    import torch

    was_training = network.training
    network.eval()
    try:
        for batch in loader.batches():
            with torch.inference_mode(), precision():
                outputs = network(torch.from_numpy(batch.images).to(device, non_blocking=True))
            with torch.inference_mode():
                read = task.read(outputs)
            for answer, position in zip(read, batch.positions.tolist(), strict=True):
                yield task.restored(answer, placing(position))
    finally:
        network.train(was_training)
