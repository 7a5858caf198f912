"""What a run's learning curves say about its fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FEWEST_EPOCHS = 3
RISE = 0.10  # validation loss that rose by more than this share of its best is overfitting
MATERIAL = 0.02  # nats; a smaller rise changes no confidence that anybody would notice
GAP = 0.10  # a score on training images better by more than this is overfitting
STILL_FALLING = 0.05  # a last epoch that lowers the loss by more than this share shows unfinished learning
HARDLY_FELL = 0.10  # a training loss that fell by less than this share in all learned next to nothing
GOOD_SCORE = 0.9  # unless it was good from the start

TOO_LITTLE = "too little to tell"
OVERFITTING = "overfitting"
UNDERFITTING = "underfitting"
FITS = "fits well"


def fit_verdict(epochs: Sequence[Mapping[str, Any]], *, unseen: int | None = None) -> dict[str, Any]:
    """Whether a model fits its data, from one record an epoch.

    Args:
        epochs: In order; each with ``epoch``, ``train_loss`` and ``val_loss``, and optionally one score in
            0..1, higher is better, as ``train_<metric>`` and ``val_<metric>``.
        unseen: How many validation images there are: what chance alone may do is no sign of overfitting.
            None when that is not known.

    Returns:
        ``verdict`` (fits well, overfitting, underfitting, too little to tell), a plain ``sentence``, and
        ``best_epoch``, the epoch of the lowest validation loss (None when there is none).
    """
    told = [row for row in epochs if _finite(row.get("train_loss")) and _finite(row.get("val_loss"))]
    if len(told) < FEWEST_EPOCHS:
        known = "1 epoch has" if len(told) == 1 else f"{len(told)} epochs have"
        return _answer(
            TOO_LITTLE,
            f"Only {known} both a training and a validation loss; it takes {FEWEST_EPOCHS} to see a course.",
            None,
        )
    best = min(told, key=lambda row: row["val_loss"])
    # Where the loss on unseen images still falls, training images may well be ahead: it is too early to tell.
    verdict, sentence = _rose(told, best) or _underfitting(told, best) or _apart(best, unseen) or _fits(best)
    return _answer(verdict, sentence, best["epoch"])


def _answer(verdict: str, sentence: str, best_epoch: int | None) -> dict[str, Any]:
    return {"verdict": verdict, "sentence": sentence, "best_epoch": best_epoch}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rose(told: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> tuple[str, str] | None:
    last = told[-1]
    # The last two epochs together, so that a single unlucky one does not decide.
    ended = min(row["val_loss"] for row in told[-2:])
    risen = ended - best["val_loss"]
    if risen > max(RISE * best["val_loss"], MATERIAL) and last["train_loss"] < best["train_loss"]:
        return OVERFITTING, (
            f"Overfitting: after epoch {best['epoch']} the loss on unseen images rose from "
            f"{best['val_loss']:.3g} to {last['val_loss']:.3g} while the training loss went on falling."
        )
    return None


def _apart(best: Mapping[str, Any], images: int | None) -> tuple[str, str] | None:
    for name, trained, unseen in _scores(best):
        chance = 2 * math.sqrt(trained * (1 - trained) / images) if images else 0.0
        if trained - unseen > max(GAP, chance):
            return OVERFITTING, (
                f"Overfitting: at its best epoch {best['epoch']} the model reached {name} {trained:.2f} on "
                f"training images and {unseen:.2f} on unseen ones."
            )
    return None


def _underfitting(told: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> tuple[str, str] | None:
    first, before, last = told[0], told[-2], told[-1]
    if last["val_loss"] < before["val_loss"] * (1 - STILL_FALLING) and best is last:
        return UNDERFITTING, (
            f"Underfitting: the loss on unseen images still fell in the last epoch, from "
            f"{before['val_loss']:.3g} to {last['val_loss']:.3g}; more epochs would help."
        )
    good = any(trained >= GOOD_SCORE for _, trained, _ in _scores(best))
    lowest = min(row["train_loss"] for row in told)
    if lowest > first["train_loss"] * (1 - HARDLY_FELL) and not good:
        return UNDERFITTING, (
            f"Underfitting: the training loss hardly fell, from {first['train_loss']:.3g} to {lowest:.3g}; "
            "a higher learning rate, more learning layers or a larger model would help."
        )
    return None


def _fits(best: Mapping[str, Any]) -> tuple[str, str]:
    return FITS, (
        f"Fits well: at epoch {best['epoch']} the loss on unseen images was lowest, {best['val_loss']:.3g}, "
        f"beside {best['train_loss']:.3g} on training images, and it has not risen much since."
    )


def _scores(row: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Metrics other than the loss that were followed on both sides: name, training, validation."""
    names = [
        name.removeprefix("train_") for name in row if name.startswith("train_") and name != "train_loss"
    ]
    both = [name for name in names if _finite(row[f"train_{name}"]) and _finite(row.get(f"val_{name}"))]
    return [(name, row[f"train_{name}"], row[f"val_{name}"]) for name in both]
