"""The losses of classification: what is made small while the weights move.

Shapes: n images, k classes. Every loss is called in one way:

    loss(logits [n, k], targets [n, k], class_weights=[k] or None) -> scalar

Targets are numbers from 0 to 1: one-hot, soft (smoothed or mixed by MixUp and CutMix), or multi-hot.
A loss says which of them it `accepts`; soft targets are welcome everywhere. Computed in float32 whatever
the logits' type (float64 stays float64), because bfloat16 has three digits only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pictune.errors import RecipeError
from pictune.settings import Parts, Search, Setting

Targets = Literal["exclusive", "multilabel", "both"]
Terms = Callable[[Tensor, Tensor], Tensor]
Divisor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss, ready to be called.

    Args:
        accepts: ``exclusive`` targets (each image's sum to one), ``multilabel`` (each class is a
            question of its own), or ``both``.
        terms: Logits and targets [n, k] to the loss of every image and class [n, k].
        divisor: Targets [n, k] and class weights [k] to the number that the weighted sum of
            all terms is divided by.
    """

    accepts: Targets
    terms: Terms
    divisor: Divisor

    def __call__(self, logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            logits: [n, k] outputs of the last layer, any floating type.
            targets: [n, k] numbers from 0 to 1.
            class_weights: [k] how much each class counts, 0 or more; None counts all alike. Doubling all
                of them changes nothing, except for `soft_target`.

        Returns:
            A scalar; float32, or float64 for float64 logits.
        """
        assert logits.shape == targets.shape, f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)}"
        logits = logits if logits.dtype == torch.float64 else logits.float()
        targets = targets.to(logits.dtype)
        weights = logits.new_ones(logits.shape[1]) if class_weights is None else class_weights.to(logits)
        total = (weights * self.terms(logits, targets)).sum()
        # A batch that holds only classes of weight zero has nothing to learn from: its loss is 0, not 0 / 0.
        smallest = torch.finfo(logits.dtype).tiny
        return total / self.divisor(targets, weights).clamp_min(smallest)


def _images(targets: Tensor, weights: Tensor) -> Tensor:
    return targets.new_tensor(targets.shape[0])


def _weighted_images(targets: Tensor, weights: Tensor) -> Tensor:
    """An image counts as much as its classes do, in the shares in which it has them."""
    return (weights * targets).sum()


def _weighted_answers(targets: Tensor, weights: Tensor) -> Tensor:
    """Every image answers every class's question."""
    return targets.shape[0] * weights.sum()


def _power(base: Tensor, exponent: float) -> Tensor:
    """A base from 0 to 1 to a power; for exponents below 1 the slope at 0 is 0 instead of infinite."""
    return base.clamp_min(torch.finfo(base.dtype).tiny) ** exponent if exponent else torch.ones_like(base)


def cross_entropy(
    *,
    label_smoothing: Annotated[
        float,
        Setting(
            "share of each target spread evenly over all classes", low=0, high=0.9, search=Search(0, 0.2)
        ),
    ] = 0.0,
) -> Loss:
    """Cross-entropy over the softmax, for one class an image.

    With class weights it is a weighted mean over images. Smoothing: Szegedy et al. 2016 (arXiv 1512.00567).
    """

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        smooth = (1 - label_smoothing) * targets + label_smoothing / targets.shape[1]
        return -smooth * F.log_softmax(logits, dim=1)

    return Loss("exclusive", terms, _weighted_images)


def label_smoothed(
    *,
    label_smoothing: Annotated[
        float,
        Setting(
            "share of each target spread evenly over all classes", above=0, high=0.9, search=Search(0.02, 0.3)
        ),
    ] = 0.1,
) -> Loss:
    """Cross-entropy that never asks for certainty: targets smoothed by a tenth unless told otherwise.

    The same as `cross_entropy` with ``label_smoothing=0.1``, under the name people look for (Müller et
    al. 2019, arXiv 1906.02629).
    """
    return cross_entropy(label_smoothing=label_smoothing)


def soft_target() -> Loss:
    """Cross-entropy exactly as the targets say, a plain mean over images, for MixUp and CutMix.

    Unlike in `cross_entropy`, class weights scale the terms and the divisor stays the number of images.
    """

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        return -targets * F.log_softmax(logits, dim=1)

    return Loss("exclusive", terms, _images)


def focal(
    *,
    gamma: Annotated[
        float,
        Setting(
            "how strongly easy images are muted; 0 is cross-entropy", low=0, high=10, search=Search(0.5, 5)
        ),
    ] = 2.0,
    alpha: Annotated[
        float | None,
        Setting(
            "factor on the whole loss; empty is 1 (single classes are weighed by class weights)",
            above=0,
            high=1,
        ),
    ] = None,
) -> Loss:
    """Focal loss over the softmax: mutes what is already easy (Lin et al. 2017, arXiv 1708.02002).

    A term is ``-alpha * target * (1 - p) ** gamma * log(p)``. The paper's alpha weighs the classes; here
    class weights do so.
    """
    factor = 1.0 if alpha is None else alpha

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1)
        # 1 - p from the logarithm keeps its digits where p is close to 1.
        return -factor * targets * _power(-torch.expm1(log_p), gamma) * log_p

    return Loss("exclusive", terms, _weighted_images)


def binary_cross_entropy(
    *,
    label_smoothing: Annotated[
        float, Setting("share of each answer moved towards one half", low=0, high=0.9, search=Search(0, 0.2))
    ] = 0.0,
) -> Loss:
    """Cross-entropy of one yes-or-no question a class; the mean over images and classes.

    For several labels an image, and for one-hot targets too (Wightman et al. 2021, arXiv 2110.00476).
    """

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        smooth = (1 - label_smoothing) * targets + label_smoothing / 2
        return -smooth * F.logsigmoid(logits) - (1 - smooth) * F.logsigmoid(-logits)

    return Loss("both", terms, _weighted_answers)


def binary_focal(
    *,
    gamma: Annotated[
        float,
        Setting(
            "how strongly easy answers are muted; 0 is cross-entropy", low=0, high=10, search=Search(0.5, 5)
        ),
    ] = 2.0,
    alpha: Annotated[
        float | None,
        Setting(
            "share of the weight that a yes gets, a no gets the rest; empty is 1 for both", low=0, high=1
        ),
    ] = None,
) -> Loss:
    """Focal loss of one yes-or-no question a class, as published (Lin et al. 2017, arXiv 1708.02002)."""
    yes, no = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        of_yes = -yes * targets * _power(torch.sigmoid(-logits), gamma) * F.logsigmoid(logits)
        of_no = -no * (1 - targets) * _power(torch.sigmoid(logits), gamma) * F.logsigmoid(-logits)
        return of_yes + of_no

    return Loss("both", terms, _weighted_answers)


def asymmetric(
    *,
    gamma_positive: Annotated[
        float,
        Setting("how strongly easy labels that are there are muted", low=0, high=10, search=Search(0, 2)),
    ] = 0.0,
    gamma_negative: Annotated[
        float,
        Setting("how strongly easy labels that are absent are muted", low=0, high=10, search=Search(1, 6)),
    ] = 4.0,
    clip: Annotated[
        float,
        Setting(
            "absent labels with a probability below this count nothing",
            low=0,
            high=0.5,
            search=Search(0, 0.2),
        ),
    ] = 0.05,
) -> Loss:
    """Asymmetric loss, for many labels of which few are there (Ridnik et al. 2021, arXiv 2009.14119)."""

    def terms(logits: Tensor, targets: Tensor) -> Tensor:
        there = -targets * _power(torch.sigmoid(-logits), gamma_positive) * F.logsigmoid(logits)
        # The clipped probability is max(p - clip, 0), and 1 minus it is min(1 - p + clip, 1).
        muting = _power((torch.sigmoid(logits) - clip).clamp_min(0), gamma_negative)
        log_absent = (torch.sigmoid(-logits) + clip).clamp_max(1).log() if clip else F.logsigmoid(-logits)
        return there - (1 - targets) * muting * log_absent

    return Loss("both", terms, _weighted_answers)


LOSSES: Parts[Loss] = Parts(
    "loss",
    (cross_entropy, label_smoothed, soft_target, focal, binary_cross_entropy, binary_focal, asymmetric),
)


def accepted_targets(name: str) -> Targets:
    """Which targets a loss takes: ``exclusive``, ``multilabel`` or ``both``.

    Raises:
        RecipeError: When there is no such loss.
    """
    return LOSSES[name].make().accepts


def choose_loss(wanted: str, *, multilabel: bool) -> str:
    """The loss for this kind of labels: ``auto`` resolved, anything else checked.

    Args:
        wanted: A name of the table, or ``auto``.
        multilabel: Whether an image may have several labels, or none.

    Raises:
        RecipeError: When there is no such loss, or it cannot learn from such labels.
    """
    if wanted == "auto":
        return "binary_cross_entropy" if multilabel else "cross_entropy"
    kind: Targets = "multilabel" if multilabel else "exclusive"
    if accepted_targets(wanted) in (kind, "both"):
        return wanted
    fitting = [name for name in LOSSES if accepted_targets(name) in (kind, "both")]
    labels = "several labels, or none" if multilabel else "exactly one label"
    raise RecipeError(
        f"the loss {wanted} cannot learn from images that have {labels}",
        instead=f"Choose one of {', '.join(fitting)}, or leave loss.name at auto.",
    )
