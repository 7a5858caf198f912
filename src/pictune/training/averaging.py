"""The exponential moving average of a network's weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """A second copy of a network whose weights follow the first slowly.

    Early on the decay is capped at (1 + step) / (10 + step), so that the random beginning is forgotten.

    Args:
        network: The network that learns.
        decay: Share of the old average kept at each step.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        for parameter in self.network.parameters():
            parameter.requires_grad = False
        self._decay = decay

    @torch.no_grad()
    def follow(self, network: nn.Module, *, step: int) -> None:
        """Moves the average towards the network after optimizer step number ``step``."""
        decay = min(self._decay, (1 + step) / (10 + step))
        ours, theirs = list(self.network.state_dict().values()), list(network.state_dict().values())
        floating = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], 1 - decay)
        for a, b in zip(ours, theirs, strict=True):
            if not a.is_floating_point():
                a.copy_(b)
