"""`Task`: the questions that training and evaluation ask without knowing which task answers.

Shapes: n images, s pixels a side, k classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pictune.data.sample import Annotation
from pictune.tasks.table import Table


@dataclass(frozen=True, slots=True)
class Prediction:
    """An annotation with confidences.

    Args:
        key: Which image.
        annotation: What the model answers.
        confidences: How sure it is of each class, by name, 0 to 1, highest first.
    """

    key: str
    annotation: Annotation
    confidences: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Tensors:
    """A batch on the device.

    Args:
        images: (n, s, s, 3) uint8.
        targets: (n, k) float32.
    """

    images: torch.Tensor
    targets: torch.Tensor


class Task(ABC):
    """What an annotation means to a network, and what its outputs mean to a person."""

    name: str
    classes: tuple[str, ...]

    @abstractmethod
    def targets(self, annotations: Sequence[Annotation | None]) -> NDArray[np.float32]:
        """(n, k) what the network should answer for these annotations."""

    @abstractmethod
    def losses(self, network: nn.Module, batch: Tensors) -> dict[str, torch.Tensor]:
        """Named losses whose sum is minimised; goes through the network's ``forward``."""

    def weigh(self, batch: Tensors) -> float:
        """How much a batch counts beside others when their losses are averaged; as a rule, its images."""
        return float(len(batch.images))

    @abstractmethod
    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Turns the network's outputs into confidences, float32 in 0..1."""

    @abstractmethod
    def predict(self, keys: Sequence[str], scores: NDArray[np.float64]) -> list[Prediction]:
        """Reads confidences as answers."""

    @abstractmethod
    def score(
        self,
        keys: Sequence[str],
        scores: NDArray[np.float64],
        truths: Sequence[Annotation | None],
        groups: NDArray[np.int64] | None,
    ) -> Table:
        """The one table of answers and truths from which every number derives."""

    @abstractmethod
    def quick(self, table: Table) -> dict[str, float]:
        """The few numbers watched while training; higher is better for all but ``log_loss``."""
