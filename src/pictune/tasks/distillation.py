"""Knowledge distillation: a smaller network imitates the answers of a larger one.

Hinton et al. 2015, arXiv 1503.02531. Both see the same augmented picture: Beyer et al. 2022, 2106.05237.

Shapes: n images, s pixels a side, k classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network whose answers are imitated.

    Args:
        network: Pixels (n, t, t, 3) in, outputs in its own order of classes out; in evaluation mode.
        image_size: t, in pixels.
        order: (k) the teacher's output for each of our classes.
        share: Of the imitation in the whole loss, above 0 and at most 1.
        temperature: Both answers are softened by it, 1 or more.
    """

    network: nn.Module
    image_size: int
    order: torch.Tensor
    share: float
    temperature: float

    def imitation(self, outputs: torch.Tensor, images: torch.Tensor, *, multilabel: bool) -> torch.Tensor:
        """How far the student's answers are from the teacher's, as a divergence times temperature squared.

        Args:
            outputs: (n, k) of the student.
            images: (n, s, s, 3) uint8, as the student sees them; resized for a teacher of another size.
            multilabel: One question a class, instead of one class an image.

        Returns:
            A scalar, 0 or more.
        """
        taught = self._answers(images) / self.temperature
        said = outputs.float() / self.temperature
        if multilabel:
            wanted = taught.sigmoid()
            surprise = F.binary_cross_entropy_with_logits(said, wanted)
            divergence = surprise - F.binary_cross_entropy_with_logits(taught, wanted)
        else:
            divergence = F.kl_div(
                said.log_softmax(1), taught.log_softmax(1), reduction="batchmean", log_target=True
            )
        return divergence * self.temperature**2

    @torch.no_grad()
    def _answers(self, images: torch.Tensor) -> torch.Tensor:
        planes = images.permute(0, 3, 1, 2)
        if planes.shape[-1] != self.image_size:
            side = (self.image_size, self.image_size)
            planes = F.interpolate(planes.float(), side, mode="bilinear", antialias=True, align_corners=False)
        answers: torch.Tensor = self.network(planes)
        return answers.float()[:, self.order]
