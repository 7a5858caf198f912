"""What a detector makes small: a loss of the classes at every place, and one of the boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pictune.models.box_losses import BOX_LOSSES, SCORE_LOSSES, BoxLoss, ScoreLoss
from pictune.settings import Parts, Search, Setting


@dataclass(frozen=True, slots=True)
class DetectionLoss:
    """What a detector makes small.

    Args:
        box: Of the boxes.
        score: Of the classes.
        box_weight: How much boxes count beside classes.
    """

    box: BoxLoss
    score: ScoreLoss
    box_weight: float


def detection(
    *,
    box: Annotated[str, Setting("of the boxes", choices=tuple(BOX_LOSSES))] = "giou",
    score: Annotated[str, Setting("of the classes", choices=tuple(SCORE_LOSSES))] = "focal",
    box_weight: Annotated[
        float, Setting("how much boxes count beside classes", above=0, high=100, search=Search(0.5, 5))
    ] = 2.0,
) -> DetectionLoss:
    """A loss of the classes at every place, and one of the boxes where an object is."""
    return DetectionLoss(BOX_LOSSES[box].make(), SCORE_LOSSES[score].make(), box_weight)


DETECTION_LOSSES: Parts[DetectionLoss] = Parts("loss", (detection,))
