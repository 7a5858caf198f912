"""The tasks by name: which class answers for each, which network it needs; a new task adds a line here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from pictune.errors import RecipeError
from pictune.models import segmenters
from pictune.models.backbones import build_network
from pictune.models.box_heads import BOX_HEADS
from pictune.models.box_losses import weighed
from pictune.models.dense import DenseNetwork, Encoder, Taught
from pictune.models.detectors import STRIDES
from pictune.models.loss_sums import LossesAndSums
from pictune.models.losses import LOSSES, choose_loss
from pictune.models.mask_losses import MASK_LOSSES, combined, parse_sum
from pictune.models.preprocess import Preprocess
from pictune.models.segmenters import DECODERS
from pictune.models.weights import Weights
from pictune.settings import Parts
from pictune.tasks.classification import Classification
from pictune.tasks.detection import Detection
from pictune.tasks.detection_losses import DETECTION_LOSSES
from pictune.tasks.distillation import Teacher
from pictune.tasks.named import TASKS
from pictune.tasks.segmentation import Segmentation
from pictune.tasks.specification import Specification
from pictune.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Rates:
    """What is left out at random while a network learns.

    Args:
        dropout: Share of the features before the last layer, 0 up to 1.
        stochastic_depth: Share of the residual branches, 0 up to 1.
    """

    dropout: float = 0.0
    stochastic_depth: float = 0.0


@dataclass(frozen=True, slots=True)
class Teaching:
    """What is minimised, and how.

    Args:
        loss: Its name in the task's table.
        settings: Its settings, checked.
        class_weights: (k) weight of each class, or None.
        teacher: Whose answers are imitated, or None.
    """

    loss: str
    settings: Mapping[str, Any]
    class_weights: torch.Tensor | None = None
    teacher: Teacher | None = None


MakeNetwork = Callable[[Specification, Rates, Weights | None], nn.Module]


@dataclass(frozen=True, slots=True)
class Kind:
    """One task.

    Args:
        task: Reads a network's outputs, for use and not for training.
        network: The whole network, preprocessing included: pixels (n, H, W, 3) uint8 in.
        taught: The task with its loss, for training.
        losses: The losses that it can learn by.
        loss: A wish, such as ``auto``, and whether a picture may have several labels, to a loss's name.
        selects: The numbers by which the best weights may be chosen, the usual one first.
        heads: What may stand on the network's maps, the usual one first; ``none`` is its own last layer.
        canvas: Longer side of what the network sees on a CPU when nobody says, pixels; 0 where that is left
            to the pictures.
        least_classes: That something can be learnt from.
        unit: What is learnt from, in the plural.
        own: A head's name to the settings of the loss in whose place it has losses of its own.
        thresholds: Whether each class gets a threshold, chosen on validation pictures for a goal.
    """

    task: Callable[[Specification], Task]
    network: MakeNetwork
    taught: Callable[[Specification, Teaching], Task]
    losses: Parts[Any]
    loss: Callable[[str, bool], str]
    selects: tuple[str, ...]
    heads: tuple[str, ...]
    canvas: int
    least_classes: int
    unit: str
    own: Callable[[str], frozenset[str]] = lambda head: frozenset()
    thresholds: bool = False

    @property
    def dense(self) -> bool:
        """Whether what is learnt lies on the picture and moves with it."""
        return self.heads != ("none",)


def _classifier(spec: Specification, rates: Rates, weights: Weights | None) -> nn.Module:
    return _whole(spec, _backbone(spec, rates, weights, outputs=len(spec.classes)))


def _taught_classification(spec: Specification, teaching: Teaching) -> Task:
    return Classification(
        spec.classes,
        multilabel=spec.multilabel,
        threshold=spec.threshold,
        loss=LOSSES[teaching.loss].make(**teaching.settings),
        class_weights=teaching.class_weights,
        teacher=teaching.teacher,
    )


def _taught_detection(spec: Specification, teaching: Teaching) -> Task:
    loss = DETECTION_LOSSES[teaching.loss].make(**teaching.settings)
    loss = replace(loss, score=weighed(loss.score, teaching.class_weights))
    return Detection(spec.classes, canvas=spec.canvas, head=spec.head, thresholds=spec.thresholds, loss=loss)


def _detection_loss(wanted: str, several: bool) -> str:  # noqa: FBT001 - as all of this kind
    name = next(iter(DETECTION_LOSSES)) if wanted == "auto" else wanted
    if name not in DETECTION_LOSSES:
        raise RecipeError(
            f"the loss {wanted} cannot learn from boxes",
            instead="Leave loss.name at auto; loss.box and loss.score choose its parts.",
        )
    return name


def _taught_segmentation(spec: Specification, teaching: Teaching) -> Task:
    loss = combined(teaching.loss, teaching.settings)
    return Segmentation(spec.classes, loss=loss, class_weights=teaching.class_weights)


def _segmentation_loss(wanted: str, several: bool) -> str:  # noqa: FBT001 - as all of this kind
    name = "cross_entropy" if wanted == "auto" else wanted
    parse_sum(name)
    return name


def _segmenter(spec: Specification, rates: Rates, weights: Weights | None) -> nn.Module:
    network = _backbone(spec, rates, weights, outputs=1)
    encoder = Encoder(network, strides=segmenters.STRIDES, image_size=spec.canvas)
    return _whole(
        spec, DenseNetwork(encoder, DECODERS[spec.head](encoder.channels, classes=len(spec.classes)))
    )


def _detector(spec: Specification, rates: Rates, weights: Weights | None) -> nn.Module:
    network = _backbone(spec, rates, weights, outputs=1)
    encoder = Encoder(network, strides=STRIDES, image_size=spec.canvas)
    head = BOX_HEADS[spec.head]
    top = head.build(encoder.channels, classes=len(spec.classes), canvas=spec.canvas)
    return _whole(spec, DenseNetwork(encoder, top), made=Taught if head.taught else nn.Sequential)


def _backbone(spec: Specification, rates: Rates, weights: Weights | None, *, outputs: int) -> nn.Module:
    return build_network(
        spec.network,
        outputs=outputs,
        image_size=max(spec.canvas),
        dropout=rates.dropout,
        stochastic_depth=rates.stochastic_depth,
        weights=weights,
    )


def _whole(
    spec: Specification, backbone: nn.Module, made: Callable[..., nn.Module] = nn.Sequential
) -> nn.Module:
    preprocess = Preprocess(mean=spec.mean, std=spec.std)
    return made(OrderedDict(preprocess=preprocess, backbone=backbone))


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "classification": Kind(
            task=TASKS["classification"],
            network=_classifier,
            taught=_taught_classification,
            losses=LOSSES,
            loss=lambda wanted, several: choose_loss(wanted, multilabel=several),
            selects=("accuracy", "balanced_accuracy", "macro_f1", "log_loss"),
            heads=("none",),
            canvas=0,
            least_classes=2,
            unit="labels",
        ),
        "detection": Kind(
            task=TASKS["detection"],
            network=_detector,
            taught=_taught_detection,
            losses=DETECTION_LOSSES,
            loss=_detection_loss,
            selects=("map", "map50"),
            heads=tuple(BOX_HEADS),
            canvas=320,
            least_classes=1,
            unit="boxes",
            thresholds=True,
            own=lambda head: BOX_HEADS[head].own,
        ),
        "segmentation": Kind(
            task=TASKS["segmentation"],
            network=_segmenter,
            taught=_taught_segmentation,
            losses=LossesAndSums([part.build for part in MASK_LOSSES.values()]),
            loss=_segmentation_loss,
            selects=("mean_iou", "pixel_accuracy"),
            heads=tuple(DECODERS),
            canvas=384,
            least_classes=2,
            unit="masks",
        ),
    }
)
