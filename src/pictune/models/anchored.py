"""A detector with anchors over any encoder: boxes of fixed shapes at every place, each a question of its own.

Shapes: n images, a anchors on all levels together, k classes, b rows of true boxes an image, p boxes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import FeaturePyramidNetwork, box_iou

from pictune.data.truths import NOBODY
from pictune.models.box_losses import BoxLoss, ScoreLoss, paired_iou
from pictune.models.dense import named_maps
from pictune.models.detectors import CHANNELS, PRIOR, STRIDES, Branch, places_of, read_boxes

BASE = 4  # steps of its level that an anchor's side is long, before scale and ratio
SCALES = (2 ** (-1 / 3), 1.0, 2 ** (1 / 3))  # around the base: the finest level's anchors begin at 25 pixels
RATIOS = (0.5, 1.0, 2.0)  # height by width
SHAPES = len(SCALES) * len(RATIOS)
ALIKE, UNLIKE = 0.5, 0.4  # from this IoU on an anchor is its object; below that one it is background
BACKGROUND, UNDECIDED = -1, -2
CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


class AnchorOutputs(NamedTuple):
    """What a network says of every anchor.

    Args:
        scores: [n, a, k] logits.
        shifts: [n, a, 4] of middle and size, as shares of the anchor's size and as logarithms.
        anchors: [a, 4] left, top, right, bottom in pixels.
    """

    scores: Tensor
    shifts: Tensor
    anchors: Tensor

    @property
    def boxes(self) -> Tensor:
        """[n, a, 4] left, top, right, bottom in pixels."""
        return decoded(self.shifts, self.anchors.expand_as(self.shifts))


def decoded(shifts: Tensor, boxes: Tensor, coder: BoxCoder = CODER) -> Tensor:
    """Boxes after they were moved and stretched: Girshick et al. 2014, arXiv 1311.2524.

    Args:
        shifts: [..., 4] of middle x, middle y, width, height.
        boxes: [..., 4] left, top, right, bottom in pixels.
        coder: Knows the units of the shifts.

    Returns:
        [..., 4] as the boxes, in float32; never without an area as long as the boxes have one.
    """
    moved: Tensor = coder.decode_single(shifts.float().reshape(-1, 4), boxes.float().reshape(-1, 4))
    return moved.reshape(shifts.shape)


class Pyramid(nn.Module):
    """Levels of one width from an encoder's maps, and a coarser one: Lin et al. 2016, arXiv 1612.03144.

    Args:
        channels: Of the encoder's maps at strides 8, 16 and 32, the finest first.
        width: Channels of every level.
    """

    strides = (*STRIDES, STRIDES[-1] * 2)

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.levels = FeaturePyramidNetwork(list(channels), width)
        self.coarser = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [n, c, h, w] to levels [n, width, h, w], the finest first, with one more at the end."""
        levels = list(self.levels(OrderedDict(named_maps(maps))).values())
        return [*levels, self.coarser(levels[-1])]


class AnchorHead(nn.Module):
    """What is said of every anchor, by convolutions that all levels share.

    Args:
        width: Channels of the levels.
        classes: k.
        depth: Convolutions of each of the two branches.
        strides: Pixels a step of each level.
    """

    def __init__(self, width: int, *, classes: int, depth: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.classes = classes
        self.strides = tuple(strides)
        self.of_scores = Branch(width, depth=depth, levels=len(self.strides))
        self.of_boxes = Branch(width, depth=depth, levels=len(self.strides))
        self.scores = nn.Conv2d(width, SHAPES * classes, 3, padding=1)
        self.shifts = nn.Conv2d(width, SHAPES * 4, 3, padding=1)
        for layer in (self.scores, self.shifts):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None, "these layers have one"
            nn.init.zeros_(layer.bias)
        assert self.scores.bias is not None
        nn.init.constant_(self.scores.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, levels: Sequence[Tensor]) -> AnchorOutputs:
        """Levels [n, width, h, w] to the answers of all, the finest level's first."""
        scores, shifts, anchors = [], [], []
        for number, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            scores.append(_listed(self.scores(self.of_scores(level, number)), self.classes))
            shifts.append(_listed(self.shifts(self.of_boxes(level, number)), 4))
            anchors.append(anchors_of(level.shape[2], level.shape[3], stride, device=level.device))
        return AnchorOutputs(torch.cat(scores, 1).float(), torch.cat(shifts, 1).float(), torch.cat(anchors))


def _listed(found: Tensor, each: int) -> Tensor:
    """[n, shapes * each, h, w] to [n, h * w * shapes, each]."""
    # `len(found)` would be a plain number, and an exported graph would hold for that batch alone.
    return found.permute(0, 2, 3, 1).reshape(found.shape[0], -1, each)


def anchors_of(height: int, width: int, stride: int, *, device: torch.device) -> Tensor:
    """A level's anchors: every scale and ratio around the middle of every cell.

    Args:
        height: Cells.
        width: Cells.
        stride: Pixels a cell.
        device: Where they are wanted.

    Returns:
        [height * width * 9, 4] left, top, right, bottom in pixels; row by row, a place's shapes together.
    """
    # All ratios of a scale have one area.
    sizes = [
        (stride * BASE * scale / math.sqrt(ratio), stride * BASE * scale * math.sqrt(ratio))
        for scale in SCALES
        for ratio in RATIOS
    ]
    half = torch.tensor(sizes, device=device) / 2
    places = places_of(height, width, stride, device=device)[:, None]
    return torch.cat([places - half, places + half], dim=-1).reshape(-1, 4)


class RetinaNet(nn.Module):
    """Pyramid and head with anchors: Lin et al. 2017, arXiv 1708.02002.

    Args:
        channels: Of the encoder's maps at strides 8, 16 and 32, the finest first.
        classes: k.
        width: Channels of pyramid and head.
        depth: Convolutions of each of the two branches.
    """

    def __init__(
        self, channels: Sequence[int], *, classes: int, width: int = CHANNELS, depth: int = 2
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels, width)
        self.head = AnchorHead(width, classes=classes, depth=depth, strides=Pyramid.strides)

    def forward(self, maps: Sequence[Tensor]) -> AnchorOutputs:
        """The encoder's maps [n, c, h, w] to what is said of every anchor of every level."""
        outputs: AnchorOutputs = self.head(self.pyramid(maps))
        return outputs


class Matched(NamedTuple):
    """Which object each box is.

    Args:
        objects: [p] row of the object that a box is, `BACKGROUND` or `UNDECIDED`.
        nearest: [p] row of the object that an undecided box would be, too; `BACKGROUND` for the others.
    """

    objects: Tensor
    nearest: Tensor


def match(boxes: Tensor, rows: Tensor, *, low: float, high: float, forced: bool) -> Matched:
    """Which object each box is, by IoU: Ren et al. 2015, arXiv 1506.01497.

    From ``high`` on a box is the object it overlaps most, below ``low`` it is background, and between the two
    it is undecided. What would be background is undecided where a crowd box holds its middle and may hide an
    object; a box that lies mostly in a crowd has its middle there, too.

    Args:
        boxes: [p, 4] left, top, right, bottom, pixels.
        rows: [b, 6] class, left, top, right, bottom, crowd; class `NOBODY` fills up.
        low: IoU.
        high: IoU, not below ``low``.
        forced: Whether the box that overlaps an object most is that object however little it does; of several
            objects that want one box the one with the largest IoU gets it.
    """
    real, crowd = rows[:, 0] != NOBODY, rows[:, 5] > 0
    taught = (real & ~crowd).nonzero()[:, 0]
    hidden = torch.where(_hidden(boxes, rows[real & crowd, 1:5]), UNDECIDED, BACKGROUND)
    if not len(taught):
        return Matched(hidden, torch.full_like(hidden, BACKGROUND))
    overlap = box_iou(rows[taught, 1:5].float(), boxes.float()).nan_to_num(0.0)
    if forced:
        firsts = torch.zeros_like(overlap).scatter(1, overlap.argmax(1, keepdim=True), 1.0)
        overlap = overlap + firsts * (overlap > 0)  # an IoU above 1 beats every other
    most, chosen = overlap.max(0)
    nearest = torch.where(most >= low, taught[chosen], BACKGROUND)
    near = torch.where(most >= high, nearest, UNDECIDED)
    return Matched(torch.where(most >= low, near, hidden), nearest)


def _hidden(boxes: Tensor, crowds: Tensor) -> Tensor:
    """[p] whether one of the crowds [c, 4] holds the middle of each box [p, 4]."""
    middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return ((middle >= crowds[:, :2]) & (middle <= crowds[:, 2:])).all(-1).any(1)


def retinanet_losses(
    outputs: AnchorOutputs, targets: Tensor, box: BoxLoss, score: ScoreLoss, box_weight: float
) -> dict[str, Tensor]:
    """``classes``, divided by the anchors that are an object, and ``boxes``, a mean.

    Unlike in the paper the boxes of undecided anchors learn, too: nothing teaches those anchors to be silent,
    and what they say is dropped as a double only if it lies where the better answer does.

    Args:
        outputs: Of `RetinaNet`.
        targets: [n, b, 6] class, left, top, right, bottom, crowd, in pixels; class `NOBODY` fills up.
        box: On decoded boxes.
        score: On all anchors but the undecided ones.
        box_weight: How much boxes count beside classes.
    """
    classes, boxes = anchor_losses(outputs, targets, box, score, low=UNLIKE, high=ALIKE)
    return {"classes": classes, "boxes": box_weight * boxes}


def anchor_losses(
    outputs: AnchorOutputs, targets: Tensor, box: BoxLoss, score: ScoreLoss, *, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The two terms of `retinanet_losses`, not weighed.

    Args:
        outputs: Of `AnchorHead`.
        targets: [n, b, 6] as there.
        box: On decoded boxes.
        score: On all anchors but the undecided ones.
        low: IoU below which an anchor is background.
        high: IoU from which on it is an object.

    Returns:
        Loss of the scores, divided by the anchors that are an object, and mean loss of the boxes.
    """
    each = [match(outputs.anchors, rows, low=low, high=high, forced=True) for rows in targets]
    found, nearest = (torch.stack(part) for part in zip(*each, strict=True))
    image, anchor = (nearest >= 0).nonzero(as_tuple=True)
    objects = targets[image, nearest[image, anchor]]
    said, truth = decoded(outputs.shifts[image, anchor], outputs.anchors[anchor]), objects[:, 1:5].float()
    sure = paired_iou(said.detach(), truth) if score.wants_iou else torch.ones_like(truth[:, 0])
    wanted = torch.zeros_like(outputs.scores)
    wanted[image, anchor, objects[:, 0].long()] = sure
    terms = score(outputs.scores.flatten(0, 1), wanted.flatten(0, 1))
    classes = (terms * (found != UNDECIDED).flatten()[:, None]).sum()
    return classes / (found >= 0).sum().clamp_min(1), box(said, truth).sum() / max(len(anchor), 1)


def plain_anchors(outputs: AnchorOutputs) -> tuple[Tensor, Tensor]:
    """Confidences [n, a, k] from 0 to 1, and boxes [n, a, 4], of every anchor."""
    return outputs.scores.sigmoid(), outputs.boxes


def read_anchors(outputs: AnchorOutputs, *, width: int, height: int) -> list[Tensor]:
    """The surest answers of each image, in the form of `read_places`."""
    return read_boxes(*plain_anchors(outputs), width=width, height=height)
