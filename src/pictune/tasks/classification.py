"""Classification: one class an image, or any number of them.

Shapes: n images, k classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.sample import Annotation, Labels, Sample
from pictune.data.truths import ClassTruths
from pictune.tasks.table import ClassTable, Table
from pictune.tasks.task import TEMPERATURE, Prediction, Task, Tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pictune.models.losses import Loss
    from pictune.tasks.distillation import Teacher

FLOOR = 1e-12  # a confidence below this counts as this in log-loss, so that one image can't make it infinite


class Classification(Task):
    """Which class (or classes) an image belongs to.

    Args:
        classes: Names in the order of the network's outputs.
        multilabel: Any number of classes an image; otherwise exactly one.
        threshold: From this confidence on a multi-label class is answered.
        loss: What is minimised; None for a model that is only used.
        class_weights: (k) weight of each class in the loss, or None.
        teacher: Whose answers are imitated while learning, or None.
    """

    name = "classification"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        multilabel: bool = False,
        threshold: float = 0.5,
        loss: Loss | None = None,
        class_weights: torch.Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.multilabel = multilabel
        self._threshold = threshold
        self._loss = loss
        self._class_weights = class_weights
        self._teacher = teacher

    def truths(self, samples: Sequence[Sample], pictures: Sequence[NDArray[np.uint8]]) -> ClassTruths:
        """One-hot, or multi-hot when multi-label."""
        return ClassTruths(self.targets([sample.annotation for sample in samples]))

    def targets(self, annotations: Sequence[Annotation | None]) -> NDArray[np.float32]:
        """(n, k) one-hot, or multi-hot when multi-label; unlabelled rows are all zero."""
        column = {name: number for number, name in enumerate(self.classes)}
        targets = np.zeros((len(annotations), len(self.classes)), np.float32)
        for row, annotation in enumerate(annotations):
            for name in annotation.names if annotation else ():
                targets[row, column[name]] = 1.0
        return targets

    def amounts(self, truth: NDArray[Any]) -> NDArray[Any]:
        """(k) 1 for a class that the picture has."""
        return truth

    def losses(self, network: nn.Module, batch: Tensors) -> dict[str, torch.Tensor]:
        """The loss, called ``loss``; and with a teacher ``imitation``, each by its share."""
        assert self._loss is not None, "this task was made for using a model, not for training one"
        outputs = network(batch.images)
        loss = self._loss(outputs, batch.targets, class_weights=self._class_weights)
        if self._teacher is None:
            return {"loss": loss}
        imitation = self._teacher.imitation(outputs, batch.images, multilabel=self.multilabel)
        share = self._teacher.share
        return {"loss": (1 - share) * loss, "imitation": share * imitation}

    def weigh(self, batch: Tensors) -> float:
        """What the loss divides by: with class weights some images count more than others."""
        if self._loss is None or self._class_weights is None:
            return float(len(batch.images))
        return float(self._loss.divisor(batch.targets, self._class_weights))

    def activate(self, outputs: torch.Tensor) -> torch.Tensor:
        """Softmax, or one sigmoid a class when multi-label."""
        return outputs.float().sigmoid() if self.multilabel else outputs.float().softmax(dim=-1)

    def read(self, outputs: Any) -> list[NDArray[Any]]:
        """(k) confidences a picture, float64."""
        return list(self.activate(outputs).double().cpu().numpy())

    def plain(self, outputs: Any) -> dict[str, torch.Tensor]:
        """``confidences`` (n, k), 0 to 1."""
        return {"confidences": self.activate(outputs)}

    @property
    def exported(self) -> Mapping[str, tuple[int | None, ...]]:
        """``confidences`` of each class."""
        return {"confidences": (len(self.classes),)}

    def decode(self, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """(k) confidences a picture, float64."""
        return list(arrays["confidences"].astype(np.float64))

    def predict(self, keys: Sequence[str], answers: Iterable[NDArray[Any]]) -> list[Prediction]:
        """The likeliest class, or every class over the threshold when multi-label."""
        scores = self._scores(answers)
        decided = self._decide(scores)
        return [
            Prediction(
                key,
                Labels(tuple(self.classes[i] for i in np.flatnonzero(chosen))),
                {self.classes[i]: float(row[i]) for i in np.argsort(-row, kind="stable")},
            )
            for key, row, chosen in zip(keys, scores, decided, strict=True)
        ]

    def apart(self, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """(n) the largest difference of a confidence, as it is or softened.

        A network that is always sure shows nothing of what an export got wrong until answers change; its
        softened confidences do (the temperature of Hinton et al. 2015, arXiv 1503.02531).
        """
        one, other = first["confidences"], second["confidences"]
        plain, soft = np.abs(one - other), np.abs(self._softened(one) - self._softened(other))
        return np.asarray(np.maximum(plain, soft).max(1))

    def _softened(self, confidences: NDArray[Any]) -> NDArray[np.float64]:
        """(n, k) as they would be at `TEMPERATURE`."""
        known = np.clip(confidences.astype(np.float64), 1e-30, 1.0)
        if self.multilabel:
            rest = np.clip(1 - known, 1e-7, 1.0)  # float32 knows no confidence between this and one
            return np.asarray(1 / (1 + (rest / known) ** (1 / TEMPERATURE)))
        raised = known ** (1 / TEMPERATURE)
        return np.asarray(raised / raised.sum(1, keepdims=True))

    def agreement(self, first: NDArray[Any], second: NDArray[Any]) -> float:
        """1 where the same classes are answered, otherwise 0."""
        decided = self._decide(np.stack([first, second]).astype(np.float64))
        return float((decided[0] == decided[1]).all())

    def answering_from(self, threshold: float) -> Task:
        """Every class from this confidence on, where an image may have several."""
        if not self.multilabel:
            return super().answering_from(threshold)
        return Classification(self.classes, multilabel=True, threshold=threshold)

    def _scores(self, answers: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
        """(n, k) confidences of all pictures."""
        rows = list(answers)
        return np.stack(rows).astype(np.float64) if rows else np.zeros((0, len(self.classes)))

    def _decide(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        if self.multilabel:
            return np.asarray(scores >= self._threshold)
        decided = np.zeros(scores.shape, np.bool_)
        if len(scores):
            decided[np.arange(len(scores)), scores.argmax(axis=1)] = True
        return decided

    def score(
        self,
        keys: Sequence[str],
        answers: Iterable[NDArray[Any]],
        truths: Sequence[Annotation | None],
        groups: NDArray[np.int64] | None,
    ) -> ClassTable:
        """One row an image."""
        truth, scores = self.targets(truths) > 0, self._scores(answers)
        return ClassTable(
            tuple(keys), self.classes, truth, scores, self._decide(scores), not self.multilabel, groups
        )

    def quick(self, table: Table) -> dict[str, float]:
        """Accuracy, balanced accuracy, macro F1 (over the classes that are there) and log-loss."""
        assert isinstance(table, ClassTable), "a classifier's answers are a table of classes"
        truth, decided = table.truth, table.decided
        hits, support, answered = (truth & decided).sum(0), truth.sum(0), decided.sum(0)
        there = (support + answered) > 0
        labelled = support > 0
        chosen = np.where(truth, table.scores, 1 - table.scores if self.multilabel else 1.0)
        surprise = -np.log(np.clip(chosen, FLOOR, 1.0)).sum(1)
        return {
            "accuracy": float((truth == decided).all(1).mean()),
            "balanced_accuracy": float((hits[labelled] / support[labelled]).mean())
            if labelled.any()
            else 0.0,
            "macro_f1": float((2 * hits[there] / (support + answered)[there]).mean()) if there.any() else 0.0,
            "log_loss": float(surprise.mean() / (len(self.classes) if self.multilabel else 1)),
        }
