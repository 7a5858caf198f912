"""The losses of detection: how far predicted boxes are from true ones, and scores from what they should be.

Shapes: m pairs of boxes or rows of scores, k classes. Boxes are left, top, right, bottom in pixels. Losses
are called in one of two ways, and leave it to the caller to weigh and to add up:

    BOX_LOSSES:   loss(predicted [m, 4], truth [m, 4]) -> [m]
    SCORE_LOSSES: loss(logits [m, k], targets [m, k] from 0 to 1) -> [m, k]

Computed in float32 whatever the type of the first argument (float64 stays float64): bfloat16 knows a
coordinate of 500 pixels to the nearest even number only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pictune.models import losses
from pictune.settings import Parts, Search, Setting

Terms = Callable[[Tensor, Tensor], Tensor]

# Pixels. Divisors are kept at this or its square, so that boxes without an area divide nothing by zero.
LEAST_SIDE = 1e-3


@dataclass(frozen=True, slots=True)
class BoxLoss:
    """One loss of boxes, ready to be called.

    Args:
        terms: Predicted and true boxes [m, 4] of one floating type to the loss of each pair [m].
    """

    terms: Terms

    def __call__(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pair; 0 for boxes that agree, as long as they have an area.

        Args:
            predicted: [m, 4] left, top, right, bottom in pixels, any floating type. A box whose right lies
                left of its left has no area, and little pulls it open again: sizes should be positive by
                the way they are made.
            truth: [m, 4] likewise.

        Returns:
            [m]; float32, or float64 for float64 predictions. Value and gradient are finite for boxes
            without an area and for identical ones, too.
        """
        return self.terms(*_precise_pairs(predicted, truth))


@dataclass(frozen=True, slots=True)
class ScoreLoss:
    """One loss of class scores, ready to be called.

    Args:
        wants_iou: Whether the target of the true class should be the IoU of the predicted box with its
            true one (`paired_iou`) instead of 1.
        terms: Logits and targets [m, k] to the loss of each [m, k].
    """

    wants_iou: bool
    terms: Terms

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of every row and class; not reduced.

        Args:
            logits: [m, k] outputs of the last layer, any floating type.
            targets: [m, k] numbers from 0 to 1. Gradients do not flow into them.

        Returns:
            [m, k]; float32, or float64 for float64 logits.
        """
        assert logits.shape == targets.shape, f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)}"
        logits = _precise(logits)
        return self.terms(logits, targets.detach().to(logits.dtype))


def weighed(loss: ScoreLoss, weights: Tensor | None) -> ScoreLoss:
    """The same loss with each class's terms times its weight [k]; itself where there are none."""
    if weights is None:
        return loss
    known = weights
    return ScoreLoss(loss.wants_iou, lambda logits, targets: loss.terms(logits, targets) * known)


def paired_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of each predicted box with the true one in the same row.

    Args:
        predicted: [m, 4] left, top, right, bottom in pixels.
        truth: [m, 4] likewise.

    Returns:
        [m] from 0 to 1; 0 where neither box has an area. Differentiable; float32 or float64 as in `BoxLoss`.
    """
    return _compare(*_precise_pairs(predicted, truth)).iou


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _precise_pairs(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    shapes = f"predicted {tuple(predicted.shape)}, truth {tuple(truth.shape)}"
    assert predicted.shape == truth.shape, shapes
    assert predicted.ndim == 2, shapes
    assert predicted.shape[1] == 4, shapes
    predicted = _precise(predicted)
    return predicted, truth.to(predicted.dtype)


class _Compared(NamedTuple):
    """What the IoU family asks about pairs of boxes.

    Args:
        size: [m, 2] width and height of the predicted boxes.
        true_size: [m, 2] of the true ones.
        around: [m, 2] of the smallest boxes around both.
        apart: [m, 2] from the true middles to the predicted ones, across and down.
        union: [m] area.
        iou: [m] intersection over union.
    """

    size: Tensor
    true_size: Tensor
    around: Tensor
    apart: Tensor
    union: Tensor
    iou: Tensor


def _compare(predicted: Tensor, truth: Tensor) -> _Compared:
    start, end = predicted[:, :2], predicted[:, 2:]
    true_start, true_end = truth[:, :2], truth[:, 2:]
    # The slope of relu at 0 is 0: what has no width gets no push through an area that is divided by next to
    # nothing.
    size, true_size = F.relu(end - start), F.relu(true_end - true_start)
    common = _area(F.relu(torch.minimum(end, true_end) - torch.maximum(start, true_start)))
    union = _area(size) + _area(true_size) - common
    return _Compared(
        size,
        true_size,
        around=F.relu(torch.maximum(end, true_end) - torch.minimum(start, true_start)),
        apart=(start + end - true_start - true_end) / 2,
        union=union,
        iou=common / union.clamp_min(LEAST_SIDE**2),
    )


def _area(size: Tensor) -> Tensor:
    """[m] from [m, 2]."""
    return size[:, 0] * size[:, 1]


def smooth_l1(
    *,
    beta: Annotated[
        float,
        Setting(
            "distance, as a share of the box's size, up to which the loss is a square; 0 is plain distance",
            low=0,
            high=1,
            search=Search(0.02, 1, log=True),
        ),
    ] = 0.1,
) -> BoxLoss:
    """Distances of the four sides as shares of the true box's size, squared when small.

    Pixels have no natural scale: five of them are nothing for a box of 500 and everything for a box of 5, and
    one `beta` could not serve both. So distances across are divided by the true width, those down by the true
    height (a side shorter than one pixel counts as one pixel). The four terms of Girshick 2015 (arXiv
    1504.08083), ``d * d / (2 * beta)`` below beta and ``d - beta / 2`` from there on, are added.
    """

    def terms(predicted: Tensor, truth: Tensor) -> Tensor:
        scale = (truth[:, 2:] - truth[:, :2]).clamp_min(1).repeat(1, 2)
        distances = (predicted - truth) / scale
        return F.smooth_l1_loss(distances, torch.zeros_like(distances), reduction="none", beta=beta).sum(1)

    return BoxLoss(terms)


def iou() -> BoxLoss:
    """One minus the IoU, 0 to 1; boxes that do not overlap learn nothing (Yu et al. 2016, arXiv 1608.01471).

    The paper takes the negative logarithm; one minus is what its successors build on.
    """
    return BoxLoss(lambda predicted, truth: 1 - _compare(predicted, truth).iou)


def giou() -> BoxLoss:
    """IoU loss plus how empty the box around both is, 0 to 2 (Rezatofighi et al. 2019, arXiv 1902.09630)."""

    def terms(predicted: Tensor, truth: Tensor) -> Tensor:
        pairs = _compare(predicted, truth)
        around = _area(pairs.around)
        return 1 - pairs.iou + (around - pairs.union) / around.clamp_min(LEAST_SIDE**2)

    return BoxLoss(terms)


def diou() -> BoxLoss:
    """IoU loss plus the distance of the middles, 0 to 2 (Zheng et al. 2020, arXiv 1911.08287).

    The squared distance is a share of the squared diagonal of the box around both.
    """
    return BoxLoss(lambda predicted, truth: _distant(_compare(predicted, truth)))


def _distant(pairs: _Compared) -> Tensor:
    diagonal = pairs.around.square().sum(1).clamp_min(LEAST_SIDE**2)
    return 1 - pairs.iou + pairs.apart.square().sum(1) / diagonal


def ciou() -> BoxLoss:
    """The `diou` loss plus the difference of the shapes, 0 to 3 (Zheng et al. 2020, arXiv 1911.08287).

    Shapes are compared by the angle whose tangent is width by height. As in the paper, the factor that
    balances the third term is a number: no gradient flows through it.
    """

    def terms(predicted: Tensor, truth: Tensor) -> Tensor:
        pairs = _compare(predicted, truth)
        angle = _shape_angle(pairs.size) - _shape_angle(pairs.true_size)
        difference = 4 / math.pi**2 * angle.square()
        with torch.no_grad():
            smallest = torch.finfo(predicted.dtype).tiny
            balance = difference / (1 - pairs.iou + difference).clamp_min(smallest)
        return _distant(pairs) + balance * difference

    return BoxLoss(terms)


def _shape_angle(size: Tensor) -> Tensor:
    size = size.clamp_min(LEAST_SIDE)
    return torch.atan2(size[:, 0], size[:, 1])


def siou(
    *,
    theta: Annotated[
        float,
        Setting(
            "how little small differences of shape count beside large ones",
            low=2,
            high=6,
            search=Search(2, 6),
        ),
    ] = 4.0,
) -> BoxLoss:
    """IoU loss plus distance, direction and shape, 0 to about 2 (Gevorgyan 2022, arXiv 2205.12740).

    The distance counts most where the line between the middles runs along an axis. The paper's angle cost,
    ``1 - 2 * sin(arcsin(x) - pi / 4) ** 2`` for an angle whose sine is x, is the sine of twice that angle,
    and is computed as such: the slope of an arc sine is infinite at 1.
    """

    def terms(predicted: Tensor, truth: Tensor) -> Tensor:
        pairs = _compare(predicted, truth)
        # The sine of twice an angle is twice its sine times its cosine.
        squared = pairs.apart.square().sum(1).clamp_min(LEAST_SIDE**2)
        slanted = 2 * _area(pairs.apart.abs()) / squared
        shares = (pairs.apart / pairs.around.clamp_min(LEAST_SIDE)).square()
        distance = -torch.expm1(-(2 - slanted)[:, None] * shares).sum(1)
        larger = torch.maximum(pairs.size, pairs.true_size).clamp_min(LEAST_SIDE)
        unlike = (pairs.size - pairs.true_size).abs() / larger
        shape = (-torch.expm1(-unlike)).pow(theta).sum(1)
        return 1 - pairs.iou + (distance + shape) / 2

    return BoxLoss(terms)


BOX_LOSSES: Parts[BoxLoss] = Parts("box loss", (smooth_l1, iou, giou, diou, ciou, siou))


def focal(
    *,
    gamma: Annotated[
        float,
        Setting(
            "how strongly easy answers are muted; 0 is cross-entropy", low=0, high=10, search=Search(0.5, 5)
        ),
    ] = 2.0,
    alpha: Annotated[
        float,
        Setting(
            "share of the weight that a yes gets; a no gets the rest",
            low=0,
            high=1,
            search=Search(0.1, 0.9),
        ),
    ] = 0.25,
) -> ScoreLoss:
    """Focal loss over the sigmoid: mutes the many easy places (Lin et al. 2017, arXiv 1708.02002).

    A target between 0 and 1 is that share of a yes and the rest of a no.
    """
    return ScoreLoss(wants_iou=False, terms=losses.binary_focal(gamma=gamma, alpha=alpha).terms)


def cross_entropy() -> ScoreLoss:
    """Cross-entropy over the sigmoid: one yes-or-no question a class."""
    return ScoreLoss(wants_iou=False, terms=losses.binary_cross_entropy().terms)


def varifocal(
    *,
    gamma: Annotated[
        float,
        Setting("how strongly easy places without object are muted", low=0, high=10, search=Search(0.5, 5)),
    ] = 2.0,
    alpha: Annotated[
        float,
        Setting("weight of places without object", above=0, high=1, search=Search(0.25, 1)),
    ] = 0.75,
) -> ScoreLoss:
    """Scores that say how good the box is, not only what is in it (Zhang et al. 2020, arXiv 2008.13367).

    The target q of the true class is the IoU of the predicted box with its true one, and its term is
    cross-entropy times q; where q is 0 the term is ``-alpha * p ** gamma * log(1 - p)``.
    """

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
        found = -targets * (targets * log_yes + (1 - targets) * log_no)
        # A power taken through the logarithm has a finite slope where the probability is 0.
        absent = -alpha * (gamma * log_yes).exp() * log_no
        return torch.where(targets > 0, found, absent)

    return ScoreLoss(wants_iou=True, terms=terms)


def hard_cross_entropy(
    *,
    ratio: Annotated[
        float,
        Setting(
            "answers of no learnt from, the hardest, for each yes", above=0, high=1000, search=Search(1, 10)
        ),
    ] = 3.0,
) -> ScoreLoss:
    """Cross-entropy that learns from the hardest places without object only, three for each with one.

    Online hard examples (Shrivastava et al. 2016, arXiv 1604.03540) in the shares of Liu et al. 2016 (arXiv
    1512.02325). Where no place has an object, as many answers of no count as the ratio says. The others cost
    nothing.
    """

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        costs = losses.binary_cross_entropy().terms(logits, targets)
        no = targets == 0
        count = min(max(int(ratio * int((~no).sum())), math.ceil(ratio)), int(no.sum()))
        hardest = torch.where(no, costs.detach(), -1.0).flatten().topk(count, sorted=False).indices
        kept = (~no).flatten().index_fill(0, hardest, value=True)
        return costs * kept.view_as(costs)

    return ScoreLoss(wants_iou=False, terms=terms)


SCORE_LOSSES: Parts[ScoreLoss] = Parts("score loss", (focal, cross_entropy, varifocal, hard_cross_entropy))
