"""A detector in two stages over any encoder: where something is, and then, looking closely, what it is.

Shapes: n images, a anchors on all levels together, k classes, b rows of true boxes an image, r regions an
image, c candidates an image, p boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, roi_align

from pictune.data.truths import NOBODY
from pictune.models.anchored import (
    BACKGROUND,
    SHAPES,
    AnchorHead,
    AnchorOutputs,
    Pyramid,
    anchor_losses,
    decoded,
    match,
)
from pictune.models.box_losses import BoxLoss, ScoreLoss
from pictune.models.detectors import CHANNELS, read_boxes

OBJECT, NOTHING = 0.7, 0.3  # IoU from which on an anchor is an object, and below which it is none
ALIKE, NEAR = 0.5, 0.3  # IoU from which on a region is its object, and from which on its box learns
BEFORE_NMS, MOST = 1000, 300  # proposals a level, and an image after overlapping ones are dropped
BEFORE_NMS_TAUGHT, MOST_TAUGHT = 500, 500  # likewise in training, where only a part of them is looked at
OVERLAP = 0.7  # from this IoU on, of two proposals of one level the less sure one is dropped
LEAST = 1.0  # pixels; thinner proposals are dropped
REGIONS, SHARE = 128, 0.25  # drawn from an image's proposals in training, and how many are objects at most
CELLS = 7  # a region is seen as so many cells across and down
# Pixels. Regions up to twice as long are read from the finest level, up to four times from the next: a cell
# of the region is then at most two of the level, and one point between four of these sees enough of it.
CLOSE = 56
FINE = BoxCoder((10.0, 10.0, 5.0, 5.0))  # regions lie nearly right, so their shifts are small


class RegionOutputs(NamedTuple):
    """What a network says of anchors, and of the regions made of them.

    Args:
        first: Of the anchors, with one class: whether there is any object.
        regions: [n, r, 4] left, top, right, bottom in pixels.
        known: [n, r] whether there is a region; the others only fill up.
        scores: [n, r, k + 1] logits, background last.
        shifts: [n, r, 4] from region to object, in the units of `FINE`.
    """

    first: AnchorOutputs
    regions: Tensor
    known: Tensor
    scores: Tensor
    shifts: Tensor

    @property
    def boxes(self) -> Tensor:
        """[n, r, 4] left, top, right, bottom in pixels."""
        return decoded(self.shifts, self.regions, FINE)


class FasterRcnn(nn.Module):
    """Proposals from anchors, and a second look at each: Ren et al. 2015, arXiv 1506.01497.

    With a pyramid (Lin et al. 2016, arXiv 1612.03144) and regions read between the cells (He et al. 2017,
    arXiv 1703.06870). All classes share one box a region.

    Args:
        channels: Of the encoder's maps at strides 8, 16 and 32, the finest first.
        classes: k.
        canvas: Width and height of what the network sees, pixels; proposals are cut off there.
        width: Channels of pyramid and proposals.
        hidden: Units of each of the two layers that look at a region.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        classes: int,
        canvas: tuple[int, int],
        width: int = CHANNELS,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.canvas = canvas
        self.pyramid = Pyramid(channels, width)
        self.first = AnchorHead(width, classes=1, depth=1, strides=Pyramid.strides)
        self.look = nn.Sequential(
            nn.Linear(width * CELLS**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.scores = nn.Linear(hidden, classes + 1)
        self.shifts = nn.Linear(hidden, 4)
        for layer, spread in ((self.scores, 0.01), (self.shifts, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor], targets: Tensor | None = None) -> RegionOutputs:
        """The encoder's maps to what is said of anchors and regions.

        Args:
            maps: [n, c, h, w] each, the finest first.
            targets: [n, b, 6] class, left, top, right, bottom, crowd, in pixels; class `NOBODY` fills up. In
                training they say which proposals are looked at, as if there were no objects where they are
                None; in evaluation mode they are not used, so that no answer leans on them.
        """
        levels = self.pyramid(maps)
        first: AnchorOutputs = self.first(levels)
        regions, known = self._regions(first, [level.shape[2] * level.shape[3] for level in levels], targets)
        looks = self.look(_seen(levels, Pyramid.strides, regions))
        shape = (*known.shape, -1)
        return RegionOutputs(
            first,
            regions,
            known,
            self.scores(looks).float().reshape(shape),
            self.shifts(looks).float().reshape(shape),
        )

    @torch.no_grad()
    def _regions(
        self, first: AnchorOutputs, cells: Sequence[int], targets: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[n, r, 4] what to look at, and [n, r] whether it is real; no gradient flows through boxes."""
        before, most = (BEFORE_NMS_TAUGHT, MOST_TAUGHT) if self.training else (BEFORE_NMS, MOST)
        counts = [count * SHAPES for count in cells]
        found, size = _proposed(first, counts, self.canvas, before=before, most=most), most
        if self.training:
            if targets is None:
                targets = first.anchors.new_zeros((len(found), 0, 6))
            found = [_drawn(boxes, rows) for boxes, rows in zip(found, targets, strict=True)]
            size = REGIONS
        # What fills up is any box with an area.
        regions = first.anchors.new_tensor([0, 0, *self.canvas]).repeat(len(found), size, 1)
        known = torch.zeros(regions.shape[:2], dtype=torch.bool, device=regions.device)
        for number, boxes in enumerate(found):
            regions[number, : len(boxes)] = boxes
            known[number, : len(boxes)] = True
        return regions, known


def _proposed(
    first: AnchorOutputs, counts: list[int], canvas: tuple[int, int], *, before: int, most: int
) -> list[Tensor]:
    """Each image's surest boxes on the canvas, overlapping ones of one level dropped.

    Args:
        first: Of all levels.
        counts: Anchors of each level.
        canvas: Width and height, pixels.
        before: How many boxes of a level are looked at.
        most: How many boxes of an image are kept.

    Returns:
        [p, 4] for each image, the surest first.
    """
    limits = first.anchors.new_tensor([*canvas, *canvas])
    everything = first.boxes.clamp_min(0).minimum(limits)
    candidates, confidences, levels = [], [], []
    parts = zip(torch.split(first.scores[..., 0], counts, 1), torch.split(everything, counts, 1), strict=True)
    for number, (scores, boxes) in enumerate(parts):
        best = scores.topk(min(before, scores.shape[1]), dim=1)
        candidates.append(boxes.gather(1, best.indices[..., None].expand(-1, -1, 4)))
        confidences.append(best.values)
        levels.append(torch.full_like(best.indices[0], number))
    level, found = torch.cat(levels), []
    for boxes, scores in zip(torch.cat(candidates, 1), torch.cat(confidences, 1), strict=True):
        wide = (boxes[:, 2:] - boxes[:, :2] >= LEAST).all(1).nonzero()[:, 0]
        kept = batched_nms(boxes[wide], scores[wide], level[wide], OVERLAP)[:most]
        found.append(boxes[wide[kept]])
    return found


def _drawn(boxes: Tensor, rows: Tensor) -> Tensor:
    """[r, 4] some of an image's proposals and true boxes by chance, objects first; fewer if there are fewer.

    The true boxes are among them so that the second stage learns of every object before the first stage finds
    any. What a crowd hides is not drawn.
    """
    taught = rows[(rows[:, 0] != NOBODY) & (rows[:, 5] == 0), 1:5].to(boxes.dtype)
    boxes = torch.cat([boxes, taught])
    found = match(boxes, rows, low=ALIKE, high=ALIKE, forced=False).objects
    objects = _some(found >= 0, int(REGIONS * SHARE))
    nothing = _some(found == BACKGROUND, REGIONS - len(objects))
    return boxes[torch.cat([objects, nothing])]


def _some(wanted: Tensor, most: int) -> Tensor:
    """Where ``wanted`` [c] is true, at most so many places by chance."""
    places = wanted.nonzero()[:, 0]
    return places[torch.randperm(len(places), device=places.device)[:most]]


def _seen(levels: Sequence[Tensor], strides: Sequence[int], regions: Tensor) -> Tensor:
    """[n * r, width * 49] what the levels show in each region [n, r, 4].

    Torchvision's own choice of levels guesses their strides from their sizes, which fails on canvases that
    are no multiple of the coarsest; here they are known.
    """
    flat = regions.flatten(0, 1)
    image = torch.arange(len(regions), device=flat.device).repeat_interleave(regions.shape[1])
    rois = torch.cat([image[:, None].to(flat.dtype), flat], 1)
    sides = (flat[:, 2:] - flat[:, :2]).prod(1).sqrt()
    which = (sides / CLOSE).log2().floor().clamp(0, len(levels) - 1)
    rows = [(which == number).nonzero()[:, 0] for number in range(len(levels))]
    seen = [
        roi_align(level.float(), rois[chosen], CELLS, 1 / stride, 1, aligned=True)
        for level, stride, chosen in zip(levels, strides, rows, strict=True)
    ]
    return torch.cat(seen).index_select(0, torch.cat(rows).argsort()).flatten(1)


def faster_rcnn_losses(
    outputs: RegionOutputs, targets: Tensor, box: BoxLoss, score: ScoreLoss, box_weight: float
) -> dict[str, Tensor]:
    """``objects`` and ``proposals`` of the anchors, ``classes`` and ``boxes`` of the regions.

    ``objects`` is divided by the anchors that are an object, the others are means. As in `retinanet_losses`,
    and unlike in the paper, boxes learn from a lower IoU on than classes: what is taken for an object by
    mistake beside one is then dropped as a double of the better answer.

    Args:
        outputs: Of `FasterRcnn`; in evaluation mode all proposals count, not a part of them.
        targets: [n, b, 6] class, left, top, right, bottom, crowd, in pixels; class `NOBODY` fills up.
        box: On the decoded boxes of both stages.
        score: Of whether an anchor is an object, on all anchors but the undecided ones. The classes of the
            second stage exclude each other and have cross-entropy whatever this is.
        box_weight: How much boxes count beside classes, in both stages.
    """
    anything = torch.where(targets[..., :1] == NOBODY, targets[..., :1], 0)
    objects, proposals = anchor_losses(
        outputs.first,
        torch.cat([anything, targets[..., 1:]], -1),
        box,
        score,
        low=NOTHING,
        high=OBJECT,
    )
    classes, boxes = _region_losses(outputs, targets, box)
    return {
        "objects": objects,
        "proposals": box_weight * proposals,
        "classes": classes,
        "boxes": box_weight * boxes,
    }


def _region_losses(outputs: RegionOutputs, targets: Tensor, box: BoxLoss) -> tuple[Tensor, Tensor]:
    """Mean loss of the decided regions' classes, and mean loss of the boxes of those near an object."""
    found, near = (
        torch.stack(
            [
                match(boxes, rows, low=least, high=least, forced=False).objects
                for boxes, rows in zip(outputs.regions, targets, strict=True)
            ]
        )
        for least in (ALIKE, NEAR)
    )
    image, region = ((found >= 0) & outputs.known).nonzero(as_tuple=True)
    wanted = torch.full_like(found, outputs.scores.shape[-1] - 1)
    wanted[image, region] = targets[image, found[image, region], 0].long()
    decided = outputs.known & (found >= BACKGROUND)
    classes = F.cross_entropy(outputs.scores[decided], wanted[decided], reduction="sum")
    image, region = ((near >= 0) & outputs.known).nonzero(as_tuple=True)
    said = decoded(outputs.shifts[image, region], outputs.regions[image, region], FINE)
    truth = targets[image, near[image, region], 1:5].float()
    boxes = box(said, truth).sum()
    return classes / decided.sum().clamp_min(1), boxes / max(len(region), 1)


def plain_regions(outputs: RegionOutputs) -> tuple[Tensor, Tensor]:
    """Confidences [n, r, k] from 0 to 1, and boxes [n, r, 4], of every region."""
    return outputs.scores.softmax(-1)[..., :-1] * outputs.known[..., None], outputs.boxes


def read_regions(outputs: RegionOutputs, *, width: int, height: int) -> list[Tensor]:
    """The surest answers of each image, in the form of `read_places`."""
    return read_boxes(*plain_regions(outputs), width=width, height=height)
