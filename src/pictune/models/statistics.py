"""Normalisation statistics: what batch normalisation holds the values of its inputs against."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pictune.models.freezing import train_mode


@torch.no_grad()
def measure_statistics(network: nn.Module, pictures: Iterable[torch.Tensor]) -> int:
    """Measures the statistics of batch normalisation anew on other pictures, in place.

    Pretrained statistics are those of the pretraining's pictures, while training normalises with those of
    its own batches: what was learnt on top of the one does not fit the other. Frozen layers keep theirs.
    After Li et al. 2018, "Adaptive batch normalization" (Pattern Recognition 80, arXiv 1603.04779).

    Args:
        network: Weights stay as they are.
        pictures: Batches [n, s, s, 3] uint8, on the network's device; each counts alike.

    Returns:
        How many layers were measured; 0 where nothing keeps statistics, and then no picture is looked at.
    """
    was_training = network.training
    train_mode(network)
    moving = [
        m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    momenta = [module.momentum for module in moving]
    network.eval()
    try:
        for module in moving:
            module.reset_running_stats()
            module.momentum = None  # the plain average of all batches
            module.train()
        for batch in pictures if moving else ():
            network(batch)
    finally:
        for module, momentum in zip(moving, momenta, strict=True):
            module.momentum = momentum
        network.train(was_training)
    return len(moving)
