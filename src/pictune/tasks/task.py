"""`Task`: the questions that training and evaluation ask without knowing which task answers.

A model that was exported asks them too, where there is no PyTorch: tasks load without it, and only the
questions of training need it.

Shapes: n images, H and W the height and width of the canvas that a network sees, k classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.steps import Matrix
from pictune.data.sample import Annotation, Boxes, ClassMap, Sample
from pictune.data.truths import Truths
from pictune.errors import DataError
from pictune.tasks.table import Table

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Confidences near 0 and 1 hide what changed below them; two networks are compared at this temperature, too.
TEMPERATURE = 10.0
SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True, slots=True)
class Prediction:
    """An annotation with confidences.

    Args:
        key: Which image.
        annotation: What the model answers.
        confidences: How sure it is of each class, by name, 0 to 1, highest first.
        scores: How sure it is of each box; empty where there are none.
    """

    key: str
    annotation: Annotation
    confidences: Mapping[str, float]
    scores: tuple[float, ...] = ()

    def row(self) -> dict[str, Any]:
        """Plain values for JSON."""
        said: dict[str, Any] = {"path": self.key}
        if isinstance(self.annotation, Boxes):
            corners = self.annotation.corners.round(2).tolist()
            said["boxes"] = [
                {"class": label, "confidence": round(score, 6), **dict(zip(SIDES, box, strict=True))}
                for label, score, box in zip(self.annotation.labels, self.scores, corners, strict=True)
            ]
        elif isinstance(self.annotation, ClassMap):
            said["shares"] = {name: round(value, 6) for name, value in self.confidences.items()}
        else:
            said["labels"] = list(self.annotation.names)
            said["confidences"] = {name: round(value, 6) for name, value in self.confidences.items()}
        return said

    def sentence(self, *, shown: int = 3) -> str:
        """The answer in one line."""
        if isinstance(self.annotation, Boxes):
            counts = Counter(self.annotation.labels).most_common()
            return f"{self.key}: {', '.join(f'{count} {name}' for name, count in counts) or 'nothing'}"
        likeliest = ", ".join(f"{n} {value:.3f}" for n, value in islice(self.confidences.items(), shown))
        if isinstance(self.annotation, ClassMap):
            return f"{self.key}: {likeliest}"
        return f"{self.key}: {', '.join(self.annotation.names) or 'none'}  ({likeliest})"


@dataclass(frozen=True, slots=True)
class Tensors:
    """A batch on the device.

    Args:
        images: (n, H, W, 3) uint8.
        targets: (n, ...) as the task's truths give them.
    """

    images: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a picture lies on the canvas that a network sees.

    Args:
        matrix: 3x3, from points of the picture to points of the canvas, in pixels.
        width: Of the picture, pixels.
        height: Of the picture, pixels.
    """

    matrix: Matrix
    width: int
    height: int


class Task(ABC):
    """What an annotation means to a network, and what its outputs mean to a person."""

    name: str
    classes: tuple[str, ...]

    @abstractmethod
    def truths(self, samples: Sequence[Sample], pictures: Sequence[NDArray[np.uint8]]) -> Truths:
        """What the network should answer for these pictures.

        Args:
            samples: With their annotations; None is no annotation.
            pictures: The same pictures as they are stored, uint8 (h, w, 3).
        """

    @abstractmethod
    def amounts(self, truth: NDArray[Any]) -> NDArray[Any]:
        """(k) how much of each class there is in a truth as `truths` gives it: labels, boxes or pixels."""

    @abstractmethod
    def losses(self, network: nn.Module, batch: Tensors) -> dict[str, torch.Tensor]:
        """Named losses whose sum is minimised; goes through the network's ``forward``."""

    def weigh(self, batch: Tensors) -> float:
        """How much a batch counts beside others when their losses are averaged; as a rule, its images."""
        return float(len(batch.images))

    @abstractmethod
    def read(self, outputs: Any) -> list[NDArray[Any]]:
        """One answer a picture, on the canvas, from what the network gives."""

    @abstractmethod
    def plain(self, outputs: Any) -> dict[str, torch.Tensor]:
        """What of a network's outputs is exported, by name: (n, ...) tensors that `decode` reads.

        Raises:
            RecipeError: When the network's outputs cannot be exported.
        """

    @property
    @abstractmethod
    def exported(self) -> Mapping[str, tuple[int | None, ...]]:
        """The shapes of what `plain` names, without n; None is any length."""

    @abstractmethod
    def decode(self, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The answers that `read` gives, from what `plain` names, as NumPy's arrays."""

    def restored(self, answer: NDArray[Any], placed: Placed) -> NDArray[Any]:
        """An answer on the picture's own pixels; the same where nothing lies on the picture."""
        return answer

    @abstractmethod
    def apart(self, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """(n) how far two networks' outputs, as `plain` names them, are apart: 0 is equal, about 1 the most.

        What no answer would ever rest on does not count.
        """

    @abstractmethod
    def agreement(self, first: NDArray[Any], second: NDArray[Any]) -> float:
        """Which share of two answers for one picture, each as `restored` gives it, is the same: 0 to 1."""

    def answering_from(self, threshold: float) -> Task:
        """The same task, with answers that count from another confidence on.

        Raises:
            DataError: Where no threshold decides what is answered.
        """
        raise DataError(
            f"{self.name} answers without a threshold", code="threshold_not_used", instead="Leave it away."
        )

    @abstractmethod
    def predict(self, keys: Sequence[str], answers: Iterable[NDArray[Any]]) -> list[Prediction]:
        """Answers in words, one a picture."""

    @abstractmethod
    def score(
        self,
        keys: Sequence[str],
        answers: Iterable[NDArray[Any]],
        truths: Sequence[Annotation | None],
        groups: NDArray[np.int64] | None,
    ) -> Table:
        """The one table of answers and truths from which every number derives."""

    def thresholds_for(self, table: Table, *, goal: str) -> tuple[float, ...]:
        """From which score on an answer of each class should count; empty where nothing has to be chosen.

        Args:
            table: Of validation pictures.
            goal: ``f1``, ``precision:0.9`` or ``recall:0.9``.
        """
        return ()

    def draw(
        self, pixels: NDArray[np.uint8], answer: NDArray[Any], truth: NDArray[Any]
    ) -> NDArray[np.uint8] | None:
        """Answer and truth on a picture; None where nothing lies on the picture.

        Args:
            pixels: uint8 (h, w, 3).
            answer: As `read` and `restored` give it, on this picture.
            truth: As `truths` give it, on this picture.
        """
        return None

    def show(self, pixels: NDArray[np.uint8], answer: NDArray[Any]) -> NDArray[np.uint8] | None:
        """An answer on a picture; None where nothing lies on the picture."""
        return None

    @property
    def legend(self) -> str:
        """What `draw` shows, in words; empty where it draws nothing."""
        return ""

    @abstractmethod
    def quick(self, table: Table) -> dict[str, float]:
        """The few numbers watched while training; higher is better for all but ``log_loss``."""
