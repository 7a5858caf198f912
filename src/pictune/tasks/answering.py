"""A network's answers to many pictures, as one array."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pictune.data.loading import Batches
from pictune.tasks.task import Task


def answer(
    network: nn.Module,
    task: Task,
    loader: Batches,
    *,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> NDArray[np.float64]:
    """Confidences for every picture of a loader, in its order.

    Args:
        network: Put into evaluation mode, and back.
        task: Turns outputs into confidences.
        loader: Pictures, or features if the network takes those; not shuffled.
        device: Where the network lies.
        precision: The context in which the forward pass runs.

    Returns:
        (n, k) float64.
    """
    was_training = network.training
    network.eval()
    rows = []
    with torch.inference_mode():
        for batch in loader.batches():
            with precision():
                outputs = network(torch.from_numpy(batch.images).to(device, non_blocking=True))
            rows.append(task.activate(outputs).double().cpu().numpy())
    network.train(was_training)
    return np.concatenate(rows) if rows else np.zeros((0, len(task.classes)))
