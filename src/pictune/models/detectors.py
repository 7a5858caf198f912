"""Detectors over any encoder: a feature pyramid, and a head that says at every place what object it is in.

Shapes: n images, a places on all levels together, k classes, m objects.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork, batched_nms

from pictune.data.truths import NOBODY
from pictune.models.box_losses import BoxLoss, ScoreLoss, paired_iou
from pictune.models.box_reading import BEFORE_NMS, LEAST_SCORE, MOST, OVERLAP
from pictune.models.dense import named_maps

STRIDES = (8, 16, 32)  # of the encoder's maps; one coarser level is added
CHANNELS = 128
PRIOR = 0.01  # what every place says of every class before training (Lin et al. 2017, arXiv 1708.02002)


class PlaceOutputs(NamedTuple):
    """What a network says at every place.

    Args:
        scores: [n, a, k] logits.
        sides: [n, a, 4] distances from the place to left, top, right and bottom, in pixels.
        centred: [n, a] logit of how near the middle of its object a place is.
        places: [a, 2] x and y in pixels.
        strides: [a] pixels a step of each place's level.
    """

    scores: Tensor
    sides: Tensor
    centred: Tensor
    places: Tensor
    strides: Tensor

    @property
    def boxes(self) -> Tensor:
        """[n, a, 4] left, top, right, bottom in pixels."""
        return torch.cat([self.places - self.sides[..., :2], self.places + self.sides[..., 2:]], dim=-1)


class Branch(nn.Module):
    """Convolutions that all levels share, each with normalisation of its own.

    Levels differ in their statistics: shared ones would be, in use, those of no level at all (Lyu et al.
    2022, arXiv 2212.07784).

    Args:
        width: Channels.
        depth: Convolutions.
        levels: How many levels there are.
    """

    def __init__(self, width: int, *, depth: int, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels)) for _ in range(depth)
        )

    def forward(self, found: Tensor, level: int) -> Tensor:
        """[n, c, h, w] of one level to as much."""
        for layer, norms in zip(self.layers, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList), "one a level"
            found = torch.relu(norms[level](layer(found)))
        return found


class Fcos(nn.Module):
    """Pyramid and head without anchors: Tian et al. 2019, arXiv 1904.01355; 2020, arXiv 2006.09214.

    Args:
        channels: Of the encoder's maps, the finest first.
        classes: k.
        width: Channels of pyramid and head.
        depth: Convolutions of each of the two branches.
    """

    def __init__(
        self, channels: Sequence[int], *, classes: int, width: int = CHANNELS, depth: int = 2
    ) -> None:
        super().__init__()
        self.strides = (*STRIDES, STRIDES[-1] * 2)
        self.pyramid = FeaturePyramidNetwork(list(channels), width)
        self.coarser = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.of_scores = Branch(width, depth=depth, levels=len(self.strides))
        self.of_boxes = Branch(width, depth=depth, levels=len(self.strides))
        self.scores = nn.Conv2d(width, classes, 3, padding=1)
        self.sides = nn.Conv2d(width, 4, 3, padding=1)
        self.centred = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for layer in (self.scores, self.sides, self.centred):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None, "these layers have one"
            nn.init.zeros_(layer.bias)
        assert self.scores.bias is not None
        nn.init.constant_(self.scores.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, maps: Sequence[Tensor]) -> PlaceOutputs:
        """The encoder's maps to what is said at every place of every level."""
        levels = list(self.pyramid(OrderedDict(named_maps(maps))).values())
        levels.append(self.coarser(levels[-1]))
        scores, sides, centred, places, strides = [], [], [], [], []
        for number, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            of_scores, of_boxes = self.of_scores(level, number), self.of_boxes(level, number)
            scores.append(_listed(self.scores(of_scores)))
            # Distances in steps of the level; the exponential keeps them above zero.
            steps = (self.sides(of_boxes).float() * self.scales[number]).clamp(max=8).exp()
            sides.append(_listed(steps) * stride)
            centred.append(_listed(self.centred(of_boxes))[..., 0])
            found = places_of(level.shape[2], level.shape[3], stride, device=level.device)
            places.append(found)
            strides.append(torch.full((len(found),), float(stride), device=level.device))
        return PlaceOutputs(
            torch.cat(scores, 1).float(),
            torch.cat(sides, 1),
            torch.cat(centred, 1).float(),
            torch.cat(places),
            torch.cat(strides),
        )


def _listed(found: Tensor) -> Tensor:
    """[n, c, h, w] to [n, h * w, c]."""
    return found.flatten(2).transpose(1, 2)


def places_of(height: int, width: int, stride: int, *, device: torch.device) -> Tensor:
    """[height * width, 2] the middles of a level's cells, x and y in pixels, row by row."""
    x = (torch.arange(width, device=device) + 0.5) * stride
    y = (torch.arange(height, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Assigned:
    """Which place answers for which object.

    Args:
        rows: [p] places that answer for one.
        objects: [p] which.
    """

    rows: Tensor
    objects: Tensor


def assign(places: Tensor, strides: Tensor, boxes: Tensor, *, radius: float = 1.5) -> Assigned:
    """Places near an object's middle answer for it, on the level that fits its size.

    A place lies in its object's box and within ``radius`` steps of its middle; a level of stride s takes
    objects whose farthest side is 4 to 8 steps away, the finest and the coarsest take what is left over; of
    several objects the smallest is answered for (Tian et al. 2020, arXiv 2006.09214).

    Args:
        places: [a, 2] x and y, pixels.
        strides: [a] of each place's level.
        boxes: [m, 4] left, top, right, bottom, pixels.
        radius: In steps of the level.
    """
    if not len(boxes):
        empty = torch.zeros(0, dtype=torch.long, device=places.device)
        return Assigned(empty, empty)
    sides = torch.cat([places[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - places[:, None]], dim=-1)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (places[:, None] - middles[None]).abs().amax(-1) < radius * strides[:, None]
    farthest = sides.amax(-1)
    low, high = 4 * strides, 8 * strides
    low = torch.where(strides == strides.min(), 0.0, low)
    high = torch.where(strides == strides.max(), math.inf, high)
    fits = (sides.amin(-1) > 0) & near & (farthest >= low[:, None]) & (farthest < high[:, None])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].expand_as(fits)
    smallest, chosen = torch.where(fits, area, math.inf).min(dim=1)
    rows = smallest.isfinite().nonzero()[:, 0]
    return Assigned(rows, chosen[rows])


def centredness(sides: Tensor) -> Tensor:
    """[p] how near its object's middle a place is, 0 to 1, from its distances [p, 4] to the sides."""
    across, down = sides[:, (0, 2)], sides[:, (1, 3)]
    shares = (across.amin(1) / across.amax(1)) * (down.amin(1) / down.amax(1))
    return shares.clamp_min(0).sqrt()


def fcos_losses(
    outputs: PlaceOutputs, targets: Tensor, box: BoxLoss, score: ScoreLoss, box_weight: float
) -> dict[str, Tensor]:
    """``classes``, ``boxes`` and ``centre``, each divided by the places that answer for an object.

    Boxes count the more the nearer a place is to the middle of its object. Places in a crowd that answer for
    no object teach nothing: what the crowd hides is unknown.

    Args:
        outputs: Of `Fcos`.
        targets: [n, b, 6] class, left, top, right, bottom, crowd, in pixels; class `NOBODY` fills up.
        box: On the boxes.
        score: On the classes of all places.
        box_weight: How much boxes count beside classes.
    """
    image, place, truth, label = _assigned(outputs, targets)
    count = max(len(place), 1)
    sides = torch.cat([outputs.places[place] - truth[:, :2], truth[:, 2:] - outputs.places[place]], dim=1)
    wanted = centredness(sides)
    weights = wanted / wanted.sum().clamp_min(1e-6)
    said = outputs.boxes[image, place]
    apart = box(said, truth)
    answers = torch.zeros_like(outputs.scores)
    sure = paired_iou(said.detach(), truth) if score.wants_iou else torch.ones_like(wanted)
    answers[image, place, label] = sure
    terms = score(outputs.scores.flatten(0, 1), answers.flatten(0, 1))
    if (targets[..., 5] > 0).any():
        known = ~_crowded(outputs.places, targets)
        known[image, place] = True
        terms = terms * known.flatten()[:, None]
    centre = F.binary_cross_entropy_with_logits(outputs.centred[image, place], wanted, reduction="sum")
    return {
        "classes": terms.sum() / count,
        "boxes": box_weight * (weights * apart).sum(),
        "centre": centre / count,
    }


def _assigned(outputs: PlaceOutputs, targets: Tensor) -> tuple[Tensor, ...]:
    """For every place that answers for an object: its image, itself, the box [p, 4] and the class."""
    found = []
    for number, rows in enumerate(targets):
        taught = rows[(rows[:, 0] != NOBODY) & (rows[:, 5] == 0)]
        assigned = assign(outputs.places, outputs.strides, taught[:, 1:5])
        objects = taught[assigned.objects]
        image = torch.full_like(assigned.rows, number)
        found.append((image, assigned.rows, objects[:, 1:5], objects[:, 0].long()))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def _crowded(places: Tensor, targets: Tensor) -> Tensor:
    """[n, a] whether a place lies in a crowd."""
    crowd = (targets[..., 5] > 0) & (targets[..., 0] != NOBODY)
    low, high = targets[:, None, :, 1:3], targets[:, None, :, 3:5]
    inside = ((places[None, :, None] >= low) & (places[None, :, None] <= high)).all(-1)
    return (inside & crowd[:, None]).any(-1)


def plain_places(outputs: PlaceOutputs) -> tuple[Tensor, Tensor]:
    """Confidences [n, a, k] from 0 to 1, and boxes [n, a, 4], of every place."""
    return (outputs.scores.sigmoid() * outputs.centred.sigmoid()[..., None]).sqrt(), outputs.boxes


def read_places(outputs: PlaceOutputs, *, width: int, height: int) -> list[Tensor]:
    """The surest answers of each image, overlapping ones of one class dropped.

    Args:
        outputs: Of a network in evaluation mode.
        width: Of the canvas, pixels; boxes are cut off there.
        height: Likewise.

    Returns:
        [m, 6] for each image: class, score, left, top, right, bottom; the surest first.
    """
    return read_boxes(*plain_places(outputs), width=width, height=height)


def read_boxes(scores: Tensor, boxes: Tensor, *, width: int, height: int) -> list[Tensor]:
    """The surest answers of each image, cut off at the canvas; what lies beyond it is dropped.

    Args:
        scores: [n, p, k] from 0 to 1.
        boxes: [n, p, 4] left, top, right, bottom in pixels.
        width: Of the canvas, pixels.
        height: Likewise.

    Returns:
        As `read_places`.
    """
    boxes = boxes.clamp_min(0).minimum(boxes.new_tensor([width, height, width, height]))
    scores = scores * (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True)
    return [surest(each, found) for each, found in zip(scores, boxes, strict=True)]


def surest(scores: Tensor, boxes: Tensor) -> Tensor:
    """The surest answers of one image, overlapping ones of one class dropped.

    Args:
        scores: [a, k] from 0 to 1.
        boxes: [a, 4] left, top, right, bottom in pixels.

    Returns:
        [m, 6] class, score, left, top, right, bottom; the surest first.
    """
    flat = scores.flatten()
    best = flat.topk(min(BEFORE_NMS, len(flat))).indices
    best = best[flat[best] > LEAST_SCORE]
    rows, labels = best // scores.shape[1], best % scores.shape[1]
    kept = batched_nms(boxes[rows].float(), flat[best].float(), labels, OVERLAP)[:MOST]
    chosen = best[kept]
    return torch.cat([labels[kept, None].float(), flat[chosen, None].float(), boxes[rows[kept]].float()], 1)
