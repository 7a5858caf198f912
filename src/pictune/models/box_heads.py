"""The heads of detectors by name: how each is built, what it minimises, and how its outputs are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from pictune.models.anchored import RetinaNet, plain_anchors, read_anchors, retinanet_losses
from pictune.models.box_losses import BoxLoss, ScoreLoss
from pictune.models.detectors import Fcos, fcos_losses, plain_places, read_places
from pictune.models.query_detectors import Kind, QueryDetector, plain_queries, query_losses, read_queries
from pictune.models.two_stage import FasterRcnn, faster_rcnn_losses, plain_regions, read_regions

OWN = frozenset({"class_weights"})


class Build(Protocol):
    """Makes what stands on an encoder's maps."""

    def __call__(self, channels: Sequence[int], *, classes: int, canvas: tuple[int, int]) -> nn.Module:
        """The module.

        Args:
            channels: Of the maps at strides 8, 16 and 32.
            classes: How many there are.
            canvas: Width and height of what the network sees, pixels.
        """


class Read(Protocol):
    """Finds the answers in a network's outputs."""

    def __call__(self, outputs: Any, *, width: int, height: int) -> list[Tensor]:
        """[m, 6] for each image: class, score, left, top, right, bottom on the canvas; the surest first."""


@dataclass(frozen=True, slots=True)
class BoxHead:
    """One head.

    Args:
        build: Makes it.
        losses: From outputs, targets [n, b, 6], the losses of boxes and of classes, and how much boxes count
            beside classes, to named losses.
        read: Finds the answers in its outputs.
        plain: Confidences [n, a, k] and boxes [n, a, 4] of its outputs, before any is dropped, for export.
        taught: Whether its ``forward`` takes the targets, too, while it learns.
        own: Settings of the loss in whose place it has losses of its own; ``class_weights`` where classes
            cannot be weighed.
    """

    build: Build
    losses: Callable[[Any, Tensor, BoxLoss, ScoreLoss, float], dict[str, Tensor]]
    read: Read
    plain: Callable[[Any], tuple[Tensor, Tensor]]
    taught: bool = False
    own: frozenset[str] = frozenset()


def _fcos(channels: Sequence[int], *, classes: int, canvas: tuple[int, int]) -> nn.Module:
    return Fcos(channels, classes=classes)


def _retinanet(channels: Sequence[int], *, classes: int, canvas: tuple[int, int]) -> nn.Module:
    return RetinaNet(channels, classes=classes)


def _queries(kind: Kind) -> BoxHead:
    build = partial(QueryDetector, kind=kind)
    return BoxHead(build, query_losses, read_queries, plain_queries, taught=True, own=OWN | {"box", "score"})


BOX_HEADS: Mapping[str, BoxHead] = MappingProxyType(
    {
        "fcos": BoxHead(_fcos, fcos_losses, read_places, plain_places),
        "retinanet": BoxHead(_retinanet, retinanet_losses, read_anchors, plain_anchors),
        "faster_rcnn": BoxHead(
            FasterRcnn, faster_rcnn_losses, read_regions, plain_regions, taught=True, own=OWN
        ),
        "rt_detr_v2": _queries("rt_detr_v2"),
        "d_fine": _queries("d_fine"),
    }
)
