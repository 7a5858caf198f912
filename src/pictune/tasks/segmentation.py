"""Segmentation: which class every pixel of an image belongs to.

Shapes: n images, k classes, H x W pixels of the canvas, h x w pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.moving import restore_map
from pictune.data.masking import IGNORED, decode_mask
from pictune.data.sample import Annotation, ClassMap, Mask, Sample
from pictune.data.truths import MaskTruths
from pictune.tasks.drawing import beside, class_colours, draw_map, with_legend
from pictune.tasks.table import PixelTable, Table
from pictune.tasks.task import TEMPERATURE, Placed, Prediction, Task, Tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pictune.models.mask_losses import MaskLoss

EDGE = 2  # pixels: so near an answered edge must be to a true one
STRIP = 64  # rows of pixels that are counted at a time, which takes eight bytes a pixel


class Segmentation(Task):
    """Which class every pixel belongs to.

    Args:
        classes: Names in the order of the network's outputs; at most 254.
        loss: What is minimised; None for a model that is only used.
        class_weights: (k) weight of each class in the loss, or None.
    """

    name = "segmentation"

    def __init__(
        self,
        classes: Sequence[str],
        *,
        loss: MaskLoss | None = None,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self._loss, self._class_weights = loss, class_weights

    def truths(self, samples: Sequence[Sample], pictures: Sequence[NDArray[np.uint8]]) -> MaskTruths:
        """Masks at the size of the stored pictures."""
        sizes = [pictures[number].shape[1::-1] for number in range(len(samples))]
        return MaskTruths([_mask_of(sample.annotation) for sample in samples], self.classes, sizes)

    def amounts(self, truth: NDArray[Any]) -> NDArray[Any]:
        """(k) pixels, those of no class aside."""
        return np.bincount(truth[truth != IGNORED], minlength=len(self.classes))

    def losses(self, network: nn.Module, batch: Tensors) -> dict[str, torch.Tensor]:
        """The loss, called ``loss``."""
        assert self._loss is not None, "this task was made for using a model, not for training one"
        logits = network(batch.images)
        return {"loss": self._loss(logits, batch.targets.long(), class_weights=self._class_weights)}

    def read(self, outputs: Any) -> list[NDArray[Any]]:
        """(k, H, W) float32 logits a picture, on the canvas."""
        return list(outputs.float().cpu().numpy())

    def plain(self, outputs: Any) -> dict[str, torch.Tensor]:
        """``logits`` (n, k, H, W)."""
        return {"logits": outputs.float()}

    @property
    def exported(self) -> Mapping[str, tuple[int | None, ...]]:
        """``logits`` of each class at every pixel."""
        return {"logits": (len(self.classes), None, None)}

    def decode(self, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """(k, H, W) float32 logits a picture, on the canvas."""
        return list(arrays["logits"].astype(np.float32, copy=False))

    def restored(self, answer: NDArray[Any], placed: Placed) -> NDArray[Any]:
        """(h, w) uint8: the likeliest class of each of the picture's own pixels."""
        found = np.zeros((placed.height, placed.width), np.uint8)
        best = restore_map(answer[0], placed.matrix, placed.width, placed.height)
        for number, scores in enumerate(answer[1:], start=1):  # one class at a time: pictures may be large
            whole = restore_map(scores, placed.matrix, placed.width, placed.height)
            np.copyto(found, np.uint8(number), where=whole > best)
            np.maximum(best, whole, out=best)
        return found

    def apart(self, first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """(n) the largest difference of a class's confidence at a pixel, averaged over the pixels.

        Confidences are compared as they are and softened, since sure ones hide what changed.
        """
        pairs = zip(first["logits"], second["logits"], strict=True)
        return np.array(
            [
                max(float(np.abs(_shares(a / t) - _shares(b / t)).max(0).mean()) for t in (1.0, TEMPERATURE))
                for a, b in pairs
            ]
        )

    def agreement(self, first: NDArray[Any], second: NDArray[Any]) -> float:
        """The share of pixels that have the same class."""
        return float((first == second).mean())

    def predict(self, keys: Sequence[str], answers: Iterable[NDArray[Any]]) -> list[Prediction]:
        """A map of classes for each picture, and each class's share of the pixels."""
        return [self._said(key, answer) for key, answer in zip(keys, answers, strict=True)]

    def _said(self, key: str, answer: NDArray[Any]) -> Prediction:
        counts = np.zeros(len(self.classes), np.int64)
        for top in range(0, len(answer), STRIP):
            counts += np.bincount(answer[top : top + STRIP].reshape(-1), minlength=len(self.classes))
        shares = counts / answer.size
        order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i]]
        return Prediction(
            key, ClassMap(self.classes, answer), {self.classes[i]: float(shares[i]) for i in order}
        )

    def score(
        self,
        keys: Sequence[str],
        answers: Iterable[NDArray[Any]],
        truths: Sequence[Annotation | None],
        groups: NDArray[np.int64] | None,
    ) -> PixelTable:
        """Pixels counted image by image; one picture at a time is in memory."""
        classes = len(self.classes)
        counts = np.zeros((len(truths), 3, classes), np.int64)
        edges = np.zeros((len(truths), classes, 4), np.int64)
        confusion = np.zeros((classes, classes), np.int64)
        for row, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
            mask = _mask_of(truth)
            if mask is None:
                continue
            known = decode_mask(mask, classes=self.classes)
            kept = known != IGNORED
            pairs = known[kept].astype(np.int64) * classes + answer[kept]
            found = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
            confusion += found
            counts[row] = found.diagonal(), found.sum(1), found.sum(0)
            edges[row] = _edges(known, np.where(kept, answer, IGNORED).astype(np.uint8), classes)
        return PixelTable(
            keys=tuple(keys),
            classes=self.classes,
            hits=counts[:, 0],
            true=counts[:, 1],
            answered=counts[:, 2],
            confusion=confusion,
            edges=edges,
            groups=groups,
        )

    def draw(self, pixels: NDArray[np.uint8], answer: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.uint8]:
        """The picture, the truth and the answer side by side."""
        count = len(self.classes)
        return beside([pixels, draw_map(pixels, truth, count=count), draw_map(pixels, answer, count=count)])

    def show(self, pixels: NDArray[np.uint8], answer: NDArray[Any]) -> NDArray[np.uint8]:
        """The picture under the colours of its pixels' classes, with their names below."""
        palette, there = class_colours(len(self.classes)).tolist(), np.unique(answer)
        labels = [int(label) for label in there if label < len(self.classes)]
        drawn = draw_map(pixels, answer, count=len(self.classes))
        colours = [tuple(palette[label]) for label in labels]
        return with_legend(drawn, [self.classes[label] for label in labels], colours)

    @property
    def legend(self) -> str:
        """The three panels."""
        return "The picture, the truth, and the answer; grey pixels belong to no class."

    def quick(self, table: Table) -> dict[str, float]:
        """``mean_iou`` over the classes that are there, and ``pixel_accuracy``."""
        assert isinstance(table, PixelTable), "a segmenter's answers are counted pixels"
        hits, true, answered = table.hits.sum(0), table.true.sum(0), table.answered.sum(0)
        union = true + answered - hits
        there = union > 0
        iou = hits[there] / union[there]
        return {
            "mean_iou": float(iou.mean()) if there.any() else 0.0,
            "pixel_accuracy": float(hits.sum() / max(true.sum(), 1)),
        }


def _shares(logits: NDArray[Any]) -> NDArray[np.float32]:
    """(k, H, W) confidences that sum to one at every pixel."""
    raised = np.exp(logits - logits.max(0))
    return np.asarray(raised / raised.sum(0), np.float32)


def _mask_of(annotation: Annotation | None) -> Mask | None:
    if annotation is None:
        return None
    assert isinstance(annotation, Mask), "segmentation is taught by masks"
    return annotation


def _edges(known: NDArray[np.uint8], said: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """[k, 4] edge pixels of each class: true ones near an answered edge, all, answered near a true, all."""
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * EDGE + 1, 2 * EDGE + 1))
    found = np.zeros((classes, 4), np.int64)
    for number in np.union1d(np.unique(known), np.unique(said)):
        if number == IGNORED:
            continue
        true, answered = _edge(known == number), _edge(said == number)
        around_true, around_answered = cv2.dilate(true, near), cv2.dilate(answered, near)
        found[number] = (
            np.count_nonzero(true & around_answered),
            np.count_nonzero(true),
            np.count_nonzero(answered & around_true),
            np.count_nonzero(answered),
        )
    return found


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pixels of a region that have a neighbour outside it; the edge of the picture is no edge."""
    region = inside.astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge: NDArray[np.uint8] = region - cv2.erode(region, cross, borderValue=1)
    return edge
