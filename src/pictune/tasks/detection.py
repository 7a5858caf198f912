"""Detection: which objects are in an image, each with a class and a box.

Shapes: n images, k classes, a places, m answers an image, b true boxes an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.moving import restore_boxes
from pictune.data.sample import Annotation, Boxes, Sample
from pictune.data.truths import BoxTruths
from pictune.models.box_reading import surest_boxes
from pictune.tasks.average_precision import best_thresholds, quick_numbers
from pictune.tasks.drawing import MISSED, RIGHT, WRONG, class_colours, draw_boxes
from pictune.tasks.table import BoxTable, Table
from pictune.tasks.task import Placed, Prediction, Task, Tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pictune.models.box_heads import BoxHead
    from pictune.tasks.detection_losses import DetectionLoss

PLAUSIBLE = 0.05  # a place with a lower score is no place where two networks could disagree
SAME = 0.8  # from this IoU on two answers are the same box


class Detection(Task):
    """Which objects are in an image.

    Args:
        classes: Names in the order of the network's outputs.
        canvas: Width and height of what the network sees, pixels.
        head: What stands on the network's maps, a name in `BOX_HEADS`.
        thresholds: (k) from which score on an answer of a class counts; 0.5 where not given.
        loss: What is minimised; None for a model that is only used.
    """

    name = "detection"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        canvas: tuple[int, int],
        head: str = "fcos",
        thresholds: Sequence[float] = (),
        loss: DetectionLoss | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self._canvas, self._name = canvas, head
        self._thresholds = np.array(thresholds or [0.5] * len(self.classes))
        self._loss = loss

    @property
    def _head(self) -> BoxHead:
        """How outputs are read and taught; it needs PyTorch, which a model in use may not have."""
        from pictune.models.box_heads import BOX_HEADS

        return BOX_HEADS[self._name]

    def truths(self, samples: Sequence[Sample], pictures: Sequence[NDArray[np.uint8]]) -> BoxTruths:
        """Boxes on the stored pictures' pixels; a picture without annotation has none."""
        return BoxTruths(
            [self._rows(sample, pictures[number].shape) for number, sample in enumerate(samples)]
        )

    def _rows(self, sample: Sample, shape: tuple[int, ...]) -> NDArray[np.float32]:
        boxes = sample.annotation
        if boxes is None:
            return np.zeros((0, 6), np.float32)
        assert isinstance(boxes, Boxes), "detection is taught by boxes"
        labels = [self.classes.index(name) for name in boxes.labels]
        scale = np.array([shape[1] / sample.width, shape[0] / sample.height] * 2)
        crowd = np.zeros(len(boxes)) if boxes.crowd is None else boxes.crowd
        return np.column_stack([labels, boxes.corners * scale, crowd]).astype(np.float32).reshape(-1, 6)

    def amounts(self, truth: NDArray[Any]) -> NDArray[Any]:
        """(k) boxes, crowds aside."""
        return np.bincount(truth[truth[:, 5] == 0, 0].astype(np.int64), minlength=len(self.classes))

    def losses(self, network: nn.Module, batch: Tensors) -> dict[str, torch.Tensor]:
        """Those of the head; ``classes`` and ``boxes`` are among them."""
        assert self._loss is not None, "this task was made for using a model, not for training one"
        given = (batch.images, batch.targets) if self._head.taught else (batch.images,)
        loss = self._loss
        return self._head.losses(network(*given), batch.targets, loss.box, loss.score, loss.box_weight)

    def read(self, outputs: Any) -> list[NDArray[Any]]:
        """(m, 6) a picture: class, score, left, top, right, bottom on the canvas; the surest first."""
        width, height = self._canvas
        read = self._head.read(outputs, width=width, height=height)
        return [found.double().cpu().numpy() for found in read]

    def plain(self, outputs: Any) -> dict[str, torch.Tensor]:
        """``scores`` (n, a, k), 0 to 1, and ``boxes`` (n, a, 4) on the canvas, at every place."""
        scores, boxes = self._head.plain(outputs)
        return {"scores": scores, "boxes": boxes}

    @property
    def exported(self) -> Mapping[str, tuple[int | None, ...]]:
        """``scores`` of each class and ``boxes`` at every place."""
        return {"scores": (None, len(self.classes)), "boxes": (None, 4)}

    def decode(self, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """(m, 6) a picture, as `read` gives them."""
        pairs = zip(arrays["scores"], arrays["boxes"], strict=True)
        return [
            surest_boxes(scores, boxes, canvas=self._canvas, head=self._name).astype(np.float64)
            for scores, boxes in pairs
        ]

    def restored(self, answer: NDArray[Any], placed: Placed) -> NDArray[Any]:
        """The same boxes on the picture's own pixels."""
        corners = restore_boxes(answer[:, 2:6], placed.matrix, placed.width, placed.height)
        return np.column_stack([answer[:, :2], corners])

    def apart(self, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """(n) the difference of scores, and of boxes as shares of the canvas, where there may be an object.

        It is averaged over the places with a score of `PLAUSIBLE` in either; without one it is the largest
        difference of a score.
        """
        limits = np.array(self._canvas * 2, np.float32)
        apart = []
        for scores, others, boxes, moved in zip(
            first["scores"], second["scores"], first["boxes"], second["boxes"], strict=True
        ):
            of_scores = np.abs(scores - others).max(1)
            of_boxes = np.abs(np.clip(boxes, 0, limits) - np.clip(moved, 0, limits)) / limits
            seen = np.maximum(scores, others).max(1) >= PLAUSIBLE
            whole = np.maximum(of_scores, of_boxes.max(1))
            # A comparison with what is no number is False; such outputs must count.
            bad = ~np.isfinite(whole)
            apart.append(
                np.nan if bad.any() else float(whole[seen].mean() if seen.any() else of_scores.max(initial=0))
            )
        return np.array(apart)

    def agreement(self, first: NDArray[Any], second: NDArray[Any]) -> float:
        """The share of boxes over the thresholds that have a partner of their class in the other answer."""
        over = [
            answer[answer[:, 1] >= self._thresholds[answer[:, 0].astype(int)]] for answer in (first, second)
        ]
        if not any(len(kept) for kept in over):
            return 1.0
        truth = np.column_stack([over[1][:, :1], over[1][:, 2:6]])
        found, _ = _matched(over[0], truth, least=SAME)
        return 2 * sum(found) / sum(len(kept) for kept in over)

    def answering_from(self, threshold: float) -> Task:
        """The boxes of every class from this score on; those below 0.01 are never given."""
        thresholds = [threshold] * len(self.classes)
        return Detection(self.classes, canvas=self._canvas, head=self._name, thresholds=thresholds)

    def predict(self, keys: Sequence[str], answers: Iterable[NDArray[Any]]) -> list[Prediction]:
        """The boxes over their classes' thresholds."""
        return [self._said(key, answer) for key, answer in zip(keys, answers, strict=True)]

    def _said(self, key: str, answer: NDArray[Any]) -> Prediction:
        labels = answer[:, 0].astype(int)
        kept = answer[:, 1] >= self._thresholds[labels]
        names = tuple(self.classes[label] for label in labels[kept])
        surest: dict[str, float] = {}
        for name, score in zip(names, answer[kept, 1].tolist(), strict=True):
            surest[name] = max(score, surest.get(name, 0.0))
        return Prediction(
            key, Boxes(names, answer[kept, 2:6]), surest, scores=tuple(answer[kept, 1].tolist())
        )

    def score(
        self,
        keys: Sequence[str],
        answers: Iterable[NDArray[Any]],
        truths: Sequence[Annotation | None],
        groups: NDArray[np.int64] | None,
    ) -> BoxTable:
        """Predictions and truths, image by image."""
        given = [self._known(truth) for truth in truths]
        said = [np.asarray(answer, float).reshape(-1, 6) for answer in answers]
        whole = np.concatenate(said) if said else np.zeros((0, 6))
        known = np.concatenate(given) if given else np.zeros((0, 7))
        return BoxTable(
            keys=tuple(keys),
            classes=self.classes,
            image=np.repeat(np.arange(len(said)), [len(rows) for rows in said]),
            label=whole[:, 0].astype(np.int64),
            score=whole[:, 1],
            box=whole[:, 2:6],
            true_image=np.repeat(np.arange(len(given)), [len(rows) for rows in given]),
            true_label=known[:, 0].astype(np.int64),
            true_box=known[:, 1:5],
            crowd=known[:, 5] > 0,
            area=known[:, 6],
            thresholds=self._thresholds,
            groups=groups,
        )

    def _known(self, truth: Annotation | None) -> NDArray[np.float64]:
        """(b, 7) class, left, top, right, bottom, crowd, area."""
        if truth is None or not len(truth.names):
            return np.zeros((0, 7))
        assert isinstance(truth, Boxes), "detection is judged by boxes"
        labels = [self.classes.index(name) for name in truth.labels]
        size = truth.corners[:, 2:] - truth.corners[:, :2]
        areas = size.prod(1) if truth.areas is None else truth.areas
        crowd = np.zeros(len(truth)) if truth.crowd is None else truth.crowd
        return np.column_stack([labels, truth.corners, crowd, areas])

    def thresholds_for(self, table: Table, *, goal: str) -> tuple[float, ...]:
        """Those that serve the goal best, one a class."""
        assert isinstance(table, BoxTable), "a detector's answers are a table of boxes"
        return tuple(best_thresholds(table, goal=goal).tolist())

    def draw(self, pixels: NDArray[np.uint8], answer: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.uint8]:
        """What was found, wrongly named and missed, on the picture."""
        answer = answer[answer[:, 1] >= self._thresholds[answer[:, 0].astype(int)]]
        taught = truth[truth[:, 5] == 0]
        found, taken = _matched(answer, taught)
        hits = np.array(found, np.bool_)
        parts = (
            (RIGHT, answer[hits, 2:6], [""] * int(hits.sum())),  # only what went wrong is named
            (MISSED, taught[~taken, 1:5], [self.classes[int(i)] for i in taught[~taken, 0]]),
            (WRONG, answer[~hits, 2:6], [self.classes[int(i)] for i in answer[~hits, 0]]),
        )
        for colour, boxes, names in parts:
            pixels = draw_boxes(pixels, boxes, [colour] * len(boxes), names)
        return pixels

    def show(self, pixels: NDArray[np.uint8], answer: NDArray[Any]) -> NDArray[np.uint8]:
        """Boxes in the colours of their classes, with how sure each is."""
        answer = answer[answer[:, 1] >= self._thresholds[answer[:, 0].astype(int)]]
        palette = class_colours(len(self.classes)).tolist()
        labels = answer[:, 0].astype(int).tolist()
        names = [f"{self.classes[i]} {score:.2f}" for i, score in zip(labels, answer[:, 1], strict=True)]
        return draw_boxes(pixels, answer[:, 2:6], [tuple(palette[i]) for i in labels], names)

    @property
    def legend(self) -> str:
        """The three colours."""
        return "Green boxes are right, orange ones are false alarms or lie badly, yellow ones were missed."

    def quick(self, table: Table) -> dict[str, float]:
        """``map`` over IoU 0.5 to 0.95, and ``map50``."""
        assert isinstance(table, BoxTable), "a detector's answers are a table of boxes"
        return quick_numbers(table)


def _matched(
    answer: NDArray[Any], truth: NDArray[Any], *, least: float = 0.5
) -> tuple[list[bool], NDArray[np.bool_]]:
    """Which answers find an object of their class, by IoU, the surest first; which objects are found."""
    taken, found = np.zeros(len(truth), np.bool_), []
    for row in answer:
        low, high = np.maximum(truth[:, 1:3], row[2:4]), np.minimum(truth[:, 3:5], row[4:6])
        inside = np.clip(high - low, 0, None).prod(1)
        areas = (truth[:, 3:5] - truth[:, 1:3]).prod(1) + (row[4:6] - row[2:4]).prod()
        overlap = np.where((truth[:, 0] == row[0]) & ~taken, inside / np.maximum(areas - inside, 1e-9), 0.0)
        best = int(overlap.argmax()) if len(truth) else -1
        hit = best >= 0 and bool(overlap[best] >= least)
        found.append(hit)
        if hit:
            taken[best] = True
    return found, taken
