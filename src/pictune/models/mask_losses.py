"""The losses of segmentation, and sums of them: how far the classes of pixels are from the true ones.

Shapes: n images of h x w pixels, k classes, at least 2. Every loss is called in one way:

    loss(logits [n, k, h, w], target [n, h, w], class_weights=[k] or None) -> scalar

A pixel has one class: probabilities are the softmax over k. One whose target is `IGNORED` is in no sum: its
logits change nothing and get no gradient. Losses of pixels (`cross_entropy`, `focal`, `ohem`) are a mean over
pixels, each counting as much as its class does; those of regions (all others) are a mean over the classes
that are there, whatever their size. Computed in float32 whatever the logits' type (float64 stays float64).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pictune.errors import RecipeError
from pictune.settings import Parts, Search, Setting, check_value, suggestion

IGNORED = 255  # target of a pixel that nobody labelled

Smoothing = Annotated[
    float,
    Setting("share of each target spread evenly over all classes", low=0, high=0.9, search=Search(0, 0.2)),
]
Gamma = Annotated[
    float,
    Setting("how strongly easy pixels are muted; 0 is cross-entropy", low=0, high=10, search=Search(0.5, 5)),
]
Keep = Annotated[
    float, Setting("share of pixels learned from, the hardest", above=0, high=1, search=Search(0.05, 1))
]
Smooth = Annotated[float, Setting("pixels added above and below the fraction", low=0, high=1000)]
WEIGHT = Setting("how much a part of a sum counts", above=0)


class Pixels(NamedTuple):
    """What losses are computed from.

    Args:
        log_p: [n, k, h, w] logarithms of the probabilities, float32 or float64.
        target: [n, h, w] int64 from 0 to k - 1; 0 where ignored.
        kept: [n, h, w] bool, False where ignored.
        weights: [k] how much each class counts.
    """

    log_p: Tensor
    target: Tensor
    kept: Tensor
    weights: Tensor

    def of_target(self) -> Tensor:
        """[n, h, w] logarithm of the probability of each pixel's own class."""
        return self.log_p.gather(1, self.target[:, None])[:, 0]

    def counts(self) -> Tensor:
        """[n, h, w] how much each pixel counts: its class's weight, 0 where ignored."""
        return self.weights[self.target] * self.kept

    def truth(self) -> Tensor:
        """[n, k, h, w] bool: which class each pixel is of; none where ignored."""
        numbers = torch.arange(self.log_p.shape[1], device=self.target.device).view(1, -1, 1, 1)
        return (self.target[:, None] == numbers) & self.kept[:, None]


@dataclass(frozen=True, slots=True)
class MaskLoss:
    """One loss, or a sum of several, ready to be called.

    Args:
        of: Computes the scalar from a batch's pixels.
    """

    of: Callable[[Pixels], Tensor]

    def __call__(self, logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
        """The loss of a batch; 0 with a gradient of 0 if all its pixels are ignored.

        Args:
            logits: [n, k, h, w] outputs of the last layer, any floating type; k at least 2.
            target: [n, h, w] class numbers from 0 to k - 1, or `IGNORED`.
            class_weights: [k] how much each class counts, 0 or more; None counts all alike. Doubling all of
                them changes nothing.

        Returns:
            A scalar; float32, or float64 for float64 logits.
        """
        assert logits.ndim == 4, f"logits {tuple(logits.shape)}"
        classes = logits.shape[1]
        assert 2 <= classes <= IGNORED, f"{classes} classes"
        assert target.shape == (len(logits), *logits.shape[2:]), f"target {tuple(target.shape)}"
        logits = logits if logits.dtype == torch.float64 else logits.float()
        kept = target != IGNORED
        weights = logits.new_ones(classes) if class_weights is None else class_weights.to(logits)
        known = target.long().masked_fill(~kept, 0)
        return self.of(Pixels(F.log_softmax(logits, dim=1), known, kept, weights))


def _mean(costs: Tensor, counts: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing counts."""
    # A batch with nothing to learn from has the loss 0, not 0 / 0.
    return (counts * costs).sum() / counts.sum().clamp_min(torch.finfo(costs.dtype).tiny)


def cross_entropy(*, label_smoothing: Smoothing = 0.0) -> MaskLoss:
    """Cross-entropy, a weighted mean over pixels.

    Smoothing: Szegedy et al. 2016 (arXiv 1512.00567).
    """

    def of(pixels: Pixels) -> Tensor:
        counts = pixels.counts()
        loss = _mean(-pixels.of_target(), counts)
        if not label_smoothing:
            return loss
        spread = -(pixels.weights.view(1, -1, 1, 1) * pixels.log_p).mean(1) * pixels.kept
        evenly = spread.sum() / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
        return (1 - label_smoothing) * loss + label_smoothing * evenly

    return MaskLoss(of)


def focal(*, gamma: Gamma = 2.0) -> MaskLoss:
    """Focal loss over the softmax: mutes pixels that are already easy (Lin et al. 2017, arXiv 1708.02002).

    A pixel's term is ``-(1 - p) ** gamma * log(p)``. Class weights stand in for the paper's alpha.
    """

    def of(pixels: Pixels) -> Tensor:
        log_p = pixels.of_target()
        # From the logarithm, 1 - p keeps its digits near 0; the floor keeps a root's slope finite there.
        muting = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny).pow(gamma)
        return _mean(-muting * log_p, pixels.counts())

    return MaskLoss(of)


def ohem(*, keep: Keep = 0.25) -> MaskLoss:
    """Cross-entropy of the hardest pixels only: online hard example mining.

    Shrivastava et al. 2016 (arXiv 1604.03540); of pixels: Wu et al. 2016 (arXiv 1605.06885). Class weights
    have no say in which pixels are chosen, at least one; they weigh those that are.
    """

    def of(pixels: Pixels) -> Tensor:
        costs, kept = -pixels.of_target().flatten(), pixels.kept.flatten()
        known = int(kept.sum())
        count = min(known, max(1, round(keep * known)))
        hardest = torch.where(kept, costs.detach(), -1.0).topk(count, sorted=False).indices
        return _mean(costs[hardest], pixels.counts().flatten()[hardest])

    return MaskLoss(of)


def _overlap(*, extra: float, missed: float, smooth: float) -> MaskLoss:
    """One minus ``common / (common + extra * (said - common) + missed * (true - common))``, soft.

    As a class that is there has at least one pixel, nothing is divided by 0 unless ``missed`` is 0.
    """

    def of(pixels: Pixels) -> Tensor:
        p, truth = pixels.log_p.exp() * pixels.kept[:, None], pixels.truth()
        common = (p * truth).sum((0, 2, 3))
        said, true = p.sum((0, 2, 3)), truth.sum((0, 2, 3)).to(p.dtype)
        whole = common + extra * (said - common) + missed * (true - common)
        # An absent class does not count, but would spoil the gradient by 0 / 0.
        share = (common + smooth) / torch.where(true > 0, whole + smooth, 1.0)
        return _mean(1 - share, pixels.weights * (true > 0))

    return MaskLoss(of)


def dice(*, smooth: Smooth = 1.0) -> MaskLoss:
    """One minus the soft Dice of each class, 0 to 1 (Milletari et al. 2016, arXiv 1606.04797).

    ``(2 * common + smooth) / (said + true + smooth)``, with plain sums below instead of the paper's squares
    (Sudre et al. 2017, arXiv 1707.03237). Pooled over the batch; classes without a pixel in it do not count.
    """
    return _overlap(extra=0.5, missed=0.5, smooth=smooth / 2)


def jaccard(*, smooth: Smooth = 1.0) -> MaskLoss:
    """One minus the soft IoU of each class, 0 to 1 (Rahman & Wang 2016, doi 10.1007/978-3-319-50835-1_22).

    ``(common + smooth) / (said + true - common + smooth)``, pooled over the batch as `dice` is.
    """
    return _overlap(extra=1.0, missed=1.0, smooth=smooth)


def tversky(
    *,
    alpha: Annotated[float, Setting("price of false pixels", low=0, high=1, search=Search(0.1, 0.9))] = 0.3,
    beta: Annotated[
        float, Setting("price of missed pixels", low=0.01, high=1, search=Search(0.1, 0.9))
    ] = 0.7,
    smooth: Smooth = 1.0,
) -> MaskLoss:
    """Dice with prices of its own for false and for missed pixels (Salehi et al. 2017, arXiv 1706.05721).

    Pooled over the batch as `dice` is; alpha and beta of 0.5 are Dice, of 1 the IoU.
    """
    return _overlap(extra=alpha, missed=beta, smooth=smooth)


def lovasz() -> MaskLoss:
    """Lovász-Softmax: the IoU itself, made continuous (Berman et al. 2018, arXiv 1705.08790).

    Where all probabilities are 0 or 1 it is one minus the IoU. Sorts all pixels once for each class there is.
    """

    def of(pixels: Pixels) -> Tensor:
        numbers = pixels.target[pixels.kept].bincount(minlength=len(pixels.weights)).nonzero()[:, 0]
        costs = [_lovasz_of(pixels, number) for number in numbers.tolist()]
        nothing = pixels.log_p[:0].sum()  # keeps a batch without pixels in the graph
        return _mean(torch.stack(costs), pixels.weights[numbers]) if costs else nothing

    return MaskLoss(of)


def _lovasz_of(pixels: Pixels, number: int) -> Tensor:
    """The loss of one class that is in the batch."""
    log_p, truth = pixels.log_p[:, number], (pixels.target == number) & pixels.kept
    errors = torch.where(truth, -torch.expm1(log_p), log_p.exp())
    # Ignored pixels go to the end, where they change no other's step.
    errors, order = torch.where(pixels.kept, errors, -1.0).flatten().sort(descending=True)
    return (errors.relu() * _iou_steps(truth.flatten()[order], errors.dtype)).sum()


def _iou_steps(truth: Tensor, kind: torch.dtype) -> Tensor:
    """[p] by how much each wrong pixel more lowers the IoU: the gradient of the Lovász extension.

    A wrong pixel of the class leaves the intersection; another joins the union. The difference of two IoUs
    loses its digits in float32, so each is written out: one over the union for a pixel of the class, the
    intersection over the product of the unions before and after for another. ``truth`` [p] says which pixels
    are of the class, the worst first; at least one is.
    """
    found = truth.cumsum(0)
    common = found[-1] - found
    union = found[-1] + (~truth).cumsum(0)
    other = common.to(kind) / (union * (union - 1)).clamp_min(1).to(kind)
    return torch.where(truth, 1 / union.to(kind), other)


def boundary() -> MaskLoss:
    """Wrong probability counts by how far outside it lies (Kervadec et al. 2019, arXiv 1812.07032).

    A pixel's term is ``distance * |p - truth|``: the paper's ``distance * p``, distances inside negative,
    plus what makes a perfect answer 0. The outline runs between pixels; distances are divided by the square
    root of the image's number of pixels, so that its size does not matter. A mean over pixels, then over the
    classes of images. A class that an image lacks, or is full of, has no outline there and does not count:
    use this in a sum, as the paper does. Distances are computed on the CPU.
    """

    def of(pixels: Pixels) -> Tensor:
        maps = zip(pixels.target.cpu().numpy(), pixels.kept.cpu().numpy(), strict=True)
        found = [_distances(target, kept, len(pixels.weights)) for target, kept in maps]
        distances = torch.from_numpy(np.stack(found)).to(pixels.log_p)
        wrong = torch.where(pixels.truth(), -torch.expm1(pixels.log_p), pixels.log_p.exp())
        known = pixels.kept.sum((1, 2)).clamp_min(1)[:, None]
        outlined = (distances > 0).any(-1).any(-1)
        return _mean((distances * wrong).sum((2, 3)) / known, pixels.weights * outlined)

    return MaskLoss(of)


def _distances(target: NDArray[np.int64], kept: NDArray[np.bool_], classes: int) -> NDArray[np.float32]:
    """[k, h, w] from each pixel to the outline of each class; 0 where ignored or without outline."""
    found = np.zeros((classes, *target.shape), np.float32)
    side = math.sqrt(max(kept.sum(), 1))
    for number in np.unique(target[kept]):
        inside = (target == number) & kept
        outside = kept & ~inside
        if outside.any():
            away = np.where(inside, _nearest(outside), _nearest(inside))
            found[number] = np.where(kept, (away - 0.5) / side, 0)
    return found


def _nearest(places: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[h, w] distance to the nearest of some pixels, in pixels, exact."""
    return np.asarray(cv2.distanceTransform((~places).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


MASK_LOSSES: Parts[MaskLoss] = Parts(
    "mask loss", (cross_entropy, focal, ohem, dice, jaccard, tversky, lovasz, boundary)
)

# ---------------------------------------------------------------- sums


def parse_sum(text: str) -> list[tuple[float, str]]:
    """The weights and names of a sum of losses, in the order in which they are written.

    Args:
        text: Such as ``dice``, ``dice+cross_entropy`` or ``0.5*dice + 2*focal``; without a weight it is 1.

    Raises:
        RecipeError: With every unknown part, impossible weight and repetition.
    """
    terms, mistakes = _read_sum(text)
    if mistakes:
        raise _refusal(text, mistakes)
    return terms


def combined(text: str, settings: Mapping[str, Any] | None = None) -> MaskLoss:
    """The weighted sum of losses that a text names.

    Args:
        text: As for `parse_sum`.
        settings: Of the parts. ``gamma`` alone will do if one part of the sum has a setting of that name;
            ``focal.gamma``, or a mapping ``gamma`` under ``focal``, always does.

    Raises:
        RecipeError: With every mistake in the text and in the settings.
    """
    terms, mistakes = _read_sum(text)
    names = [name for _, name in terms]
    given, more = _shared_out(settings or {}, names, is_whole=not mistakes)
    mistakes += more
    for name in names:
        mistakes += MASK_LOSSES[name].check(given[name], name)[1]
    if mistakes:
        raise _refusal(text, mistakes)
    losses = [(weight, MASK_LOSSES[name].make(**given[name])) for weight, name in terms]
    return MaskLoss(lambda pixels: torch.stack([weight * loss.of(pixels) for weight, loss in losses]).sum())


def _refusal(text: str, mistakes: Iterable[str]) -> RecipeError:
    return RecipeError(
        f"the mask loss {text!r} cannot be made as asked",
        causes=list(mistakes),
        instead="Write names joined by +, each with its weight before a * or without one, such as "
        f"0.5*dice+cross_entropy. There are {', '.join(MASK_LOSSES)}.",
    )


def _read_sum(text: str) -> tuple[list[tuple[float, str]], list[str]]:
    """The terms that can be understood, and what is wrong with the others."""
    terms: list[tuple[float, str]] = []
    mistakes: list[str] = []
    # The + of 1e+3 joins nothing.
    for term in re.split(r"(?<![\d.][eE])\+", text):
        factor, star, name = (part.strip() for part in term.rpartition("*"))
        weight, mistake = check_value(factor, float, WEIGHT) if star else (1.0, None)
        if mistake:
            mistakes.append(f"the weight in {term.strip()!r}: {mistake}")
        if not name:
            mistakes.append(f"a name is missing in {text!r}")
        elif name not in MASK_LOSSES:
            mistakes.append(f"there is no mask loss called {name!r}{suggestion(name, MASK_LOSSES)}")
        elif any(name == known for _, known in terms):
            mistakes.append(f"{name} is named twice; give it one weight")
        else:
            terms.append((weight, name))
    return terms, mistakes


def _shared_out(
    settings: Mapping[str, Any], names: Sequence[str], *, is_whole: bool
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Settings by the part they are meant for, and what is wrong with those meant for none or for several.

    Without the whole sum, a setting that belongs to any loss may be meant for one that is misspelt.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    known = [setting for name in names for setting in MASK_LOSSES[name].settings]
    everywhere = {setting for part in MASK_LOSSES.values() for setting in part.settings}
    mistakes = []
    flat = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    deep = [(part, inner) for part, inner in settings.items() if isinstance(inner, Mapping)]
    pairs = [(f"{part}.{key}", value) for part, inner in deep for key, value in inner.items()]
    for key, value in (*flat.items(), *pairs):
        part, dot, setting = key.rpartition(".")
        owners = [part] if dot else [name for name in names if key in MASK_LOSSES[name].settings]
        if len(owners) > 1:
            ways = " or ".join(f"{owner}.{key}" for owner in owners)
            mistakes.append(f"{key}: {' and '.join(owners)} have one each; write {ways}")
        elif not owners or owners[0] not in names:
            if is_whole or setting not in everywhere:
                near = suggestion(part, names) if dot else suggestion(key, known)
                mistakes.append(f"{key}: no part of this sum has such a setting{near}")
        elif setting in given[owners[0]]:
            mistakes.append(f"{key}: {owners[0]}.{setting} is given twice")
        else:
            given[owners[0]][setting] = value
    return given, mistakes
