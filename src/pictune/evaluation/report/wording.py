"""How numbers, names and metrics read on a page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

NOT_AVAILABLE = "n/a"

# What a file name must not smuggle into a page: control characters, which HTML and XML forbid, and the
# lone surrogates that stand for bytes of a name that is not UTF-8, which cannot be written as UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# name: (what it is called, what it means in plain words)
METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", "the share of images answered right"),
    "balanced_accuracy": (
        "Balanced accuracy",
        "recall averaged over classes, so a rare class counts as much",
    ),
    "exact_match": ("Exact match", "the share of images with every label right"),
    "macro_f1": ("Macro F1", "F1 averaged over classes, so a rare class counts as much"),
    "macro_precision": ("Macro precision", "precision averaged over classes"),
    "macro_recall": ("Macro recall", "recall averaged over classes"),
    "weighted_f1": ("Weighted F1", "F1 averaged over classes, weighted by their images"),
    "weighted_precision": ("Weighted precision", "precision averaged over classes, weighted by their images"),
    "weighted_recall": ("Weighted recall", "recall averaged over classes, weighted by their images"),
    "micro_f1": ("Micro F1", "F1 over all answers taken together"),
    "micro_precision": ("Micro precision", "precision over all answers taken together"),
    "micro_recall": ("Micro recall", "recall over all answers taken together"),
    "precision": ("Precision", "of what was given this answer, the share that deserved it"),
    "recall": ("Recall", "of what is of this class, the share that was found"),
    "f1": ("F1", "the harmonic mean of precision and recall"),
    "specificity": ("Specificity", "of the images of other classes, the share that was left alone"),
    "roc_auc": ("ROC AUC", "how often an image of the class is ranked above another one"),
    "macro_roc_auc": ("Macro ROC AUC", "how often an image of a class is ranked above another one"),
    "average_precision": ("Average precision", "precision averaged over all thresholds"),
    "macro_average_precision": (
        "Macro average precision",
        "precision over all thresholds, averaged over classes",
    ),
    "log_loss": ("Log loss", "the price of being confidently wrong; lower is better"),
    "brier": ("Brier score", "the squared error of the confidences; lower is better"),
    "ece": ("Calibration error (ECE)", "how far confidence is from being right; lower is better"),
    "hamming_loss": ("Hamming loss", "the share of wrong label decisions; lower is better"),
    "map": ("mAP", "mean average precision over overlaps from 0.50 to 0.95"),
    "map50": ("mAP 50", "mean average precision at an overlap of 0.50"),
    "map75": ("mAP 75", "mean average precision at an overlap of 0.75"),
    "mean_iou": ("Mean IoU", "overlap of answer and truth, averaged over classes"),
    "dice": ("Dice", "overlap of answer and truth, counted twice over their sizes"),
    "map_small": ("mAP, small", "of objects of less than 32 x 32 pixels"),
    "map_medium": ("mAP, medium", "of objects of 32 x 32 to 96 x 96 pixels"),
    "map_large": ("mAP, large", "of objects of more than 96 x 96 pixels"),
    "mar1": ("Recall at 1", "the share of objects found, one answer an image and class"),
    "mar10": ("Recall at 10", "the share of objects found, ten answers an image and class"),
    "mar100": ("Recall at 100", "the share of objects found, a hundred answers an image and class"),
    "ap": ("AP", "average precision over overlaps from 0.50 to 0.95"),
    "ap50": ("AP 50", "average precision at an overlap of 0.50"),
    "ap75": ("AP 75", "average precision at an overlap of 0.75"),
    "iou": ("IoU", "pixels in both answer and truth, over pixels in either"),
    "class_accuracy": (
        "Class accuracy",
        "the share of each class's pixels answered right, averaged over classes",
    ),
    "boundary_f1": ("Boundary F1", "how well edges agree, within two pixels"),
    "pixel_accuracy": ("Pixel accuracy", "the share of pixels answered right"),
}

# The first of these that was measured opens the page.
HEADLINES = ("accuracy", "map", "mean_iou", "macro_f1", "balanced_accuracy")
MULTILABEL_HEADLINES = ("macro_f1", "micro_f1", "exact_match")

# These are shares of images or pixels and read best in percent.
SHARES = ("accuracy", "balanced_accuracy", "exact_match", "pixel_accuracy")


def title_of(metric: str) -> str:
    """What a metric is called; an unknown one keeps its own name, made readable."""
    known = METRICS.get(metric)
    return known[0] if known else metric.replace("_", " ").capitalize()


def meaning_of(metric: str) -> str:
    """What a metric says, as a phrase; empty for an unknown one."""
    return METRICS.get(metric, ("", ""))[1]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """A fraction with a fixed number of decimals, so that columns line up."""
    return f"{value:.{digits}f}".replace("-", "−") if is_number(value) else NOT_AVAILABLE


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f") if is_number(value) else NOT_AVAILABLE


def short(value: Any) -> str:
    """A whole number that has little room: from a hundred thousand on with three digits and a letter."""
    if not is_number(value) or value < 100_000:
        return count(value)
    size, letter = (1e9, "G") if value >= 1e9 else (1e6, "M") if value >= 1e6 else (1e3, "k")
    return f"{value / size:.3g}\u202f{letter}"


def percent(value: Any, digits: int = 1) -> str:
    """A share as a percentage: 0.932 reads 93.2 %."""
    return f"{100 * value:.{digits}f}\u202f%" if is_number(value) else NOT_AVAILABLE


def span(measure: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of a measure, such as 0.904 – 0.953; empty when it has none."""
    low, high = measure.get("low"), measure.get("high")
    return f"{number(low, digits)} – {number(high, digits)}" if is_number(low) and is_number(high) else ""


def percent_span(measure: Mapping[str, Any]) -> str:
    """The interval of a measure in percent, such as 90.4 to 95.3 %; empty when it has none."""
    low, high = measure.get("low"), measure.get("high")
    return f"{100 * low:.1f} to {100 * high:.1f}\u202f%" if is_number(low) and is_number(high) else ""


def amount(metric: str, value: Any) -> str:
    """A metric's value as its readers write it: 93.2 % for a share, 0.871 for others."""
    return percent(value) if metric in SHARES else number(value)


def out_of(share: float) -> str:
    """A share as an amount that is easy to picture, such as about 93 in 100; never all when it is not all."""
    if share in (0, 1):
        return "all" if share else "none of the"
    for whole in (100, 1000):
        if 0 < (part := round(whole * share)) < whole:
            return f"about {part} in {count(whole)}"
    return "nearly all" if share > 0.5 else "hardly any"


def plural(amount: Any, noun: str, nouns: str = "") -> str:
    """An amount and its noun: 1 image, 2 images."""
    return f"{count(amount)} {noun if amount == 1 else nouns or noun + 's'}"


def printable(tree: Any) -> Any:
    """The same JSON with every text made fit for a page, keys included.

    Characters that HTML forbids and undecodable bytes of file names become the replacement character.
    """
    if isinstance(tree, str):
        return _UNPRINTABLE.sub("\ufffd", tree)
    if isinstance(tree, Mapping):
        return {printable(str(key)): printable(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, bytes | bytearray):
        return [printable(value) for value in tree]
    return tree
