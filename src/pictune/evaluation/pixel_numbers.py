"""The numbers of a segmenter: pixels pooled over all images, intervals from resampled images.

An image's pixels depend on one another, so images (or groups of them) are what is drawn anew: the interval
tells how far another set of as many images might be off, whatever the number of pixels. Plain percentiles of
what is drawn are too narrow for few images; they are expanded as far as Student's quantiles are farther than
normal ones (Hesterberg 2015, The American Statistician 69, arXiv 1411.5279), by the images that show a class.

Shapes: n images, g clusters, k classes, r resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pictune.evaluation.findings import Remark
from pictune.evaluation.intervals import Clusters, Number, wilson
from pictune.tasks.table import PixelTable

Floats = NDArray[np.float64]

ABSENT = "no pixel here is of this class, in truth or in the answers"
SILENT = "the model never gave this answer"
INTERVALS = (
    "Other images of the same kind would give slightly different numbers. Whole images, or groups of "
    "them, were drawn anew many times; an interval holds the middle of what came out, expanded where "
    "few images show a class. In simulations 89 to 98 of 100 such 95 % intervals held the truth, fewer "
    "where two or three images show a class."
)
FEWEST = 2  # images, or groups of them, without which nothing can be drawn anew
WORST = 24  # images listed
CLASS_NUMBERS = ("iou", "dice", "precision", "recall", "boundary_f1")
AVERAGES = {"mean_iou": "iou", "dice": "dice", "class_accuracy": "recall", "boundary_f1": "boundary_f1"}


@dataclass(frozen=True, slots=True)
class PixelClass:
    """One class's numbers.

    Args:
        name: The class.
        support: Images in which it occurs.
        pixels: Of it, over all images.
        metrics: By name, as in `CLASS_NUMBERS`.
    """

    name: str
    support: int
    pixels: int
    metrics: Mapping[str, Number]

    def to_json(self) -> dict[str, Any]:
        """The class as it stands in report.json."""
        numbers = {name: number.to_json() for name, number in self.metrics.items()}
        return {"class": self.name, "support": self.support, "pixels": self.pixels, **numbers}


@dataclass(frozen=True)
class PixelMeasurement:
    """What was measured on a table of pixels.

    Args:
        table: What it was measured on.
        confidence: Share of intervals that are to hold the truth.
        n_groups: Independent groups of images.
        metrics: Numbers of the whole table by name.
        classes: Numbers of each class, in class order.
        findings: What a reader should know, the most serious first.
    """

    table: PixelTable
    confidence: float
    n_groups: int
    metrics: Mapping[str, Number]
    classes: tuple[PixelClass, ...]
    findings: tuple[Remark, ...]

    def to_json(self) -> dict[str, Any]:
        """The stable shape of report.json, in plain types; numbers are finite or None."""
        return {
            "n": len(self.table),
            "n_groups": self.n_groups,
            "confidence": self.confidence,
            "metrics": {name: number.to_json() for name, number in self.metrics.items()},
            "per_class": [row.to_json() for row in self.classes],
            "confusion": {"classes": list(self.table.classes), "counts": self.table.confusion.tolist()},
            "worst_images": sorted(
                (row for row in self.images() if row["pixel_accuracy"] is not None),
                key=lambda row: row["pixel_accuracy"],
            )[:WORST],
            "intervals": INTERVALS,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def images(self) -> list[dict[str, Any]]:
        """Each image's share of right pixels, and its mean IoU over the classes that are there."""
        right = _share(self.table.hits.sum(1), self.table.true.sum(1))
        unions = self.table.true + self.table.answered - self.table.hits
        each = _mean(_share(self.table.hits, unions))
        return [
            {"key": key, "pixel_accuracy": _plain(share), "mean_iou": _plain(iou)}
            for key, share, iou in zip(self.table.keys, right, each, strict=True)
        ]


def measure_pixels(table: PixelTable, resamples: int, confidence: float, seed: int) -> PixelMeasurement:
    """Measures a table of pixels.

    Args:
        table: Pixels counted image by image.
        resamples: Sets of images drawn anew.
        confidence: Share of intervals that are to hold the truth.
        seed: Decides which are drawn.
    """
    clusters = Clusters(len(table), groups=table.groups)
    counts = np.stack([table.hits, table.true, table.answered], axis=-1).astype(float)  # [n, k, 3]
    whole = np.concatenate([counts, table.edges.astype(float)], axis=-1)
    held = clusters.sums(whole.reshape(len(table), -1)).reshape(clusters.count, len(table.classes), -1)
    draws = np.random.default_rng(seed).multinomial(
        clusters.count, np.full(clusters.count, 1 / clusters.count), size=resamples
    )
    summed = np.tensordot(draws.astype(float), held, axes=1)  # [r, k, 7]
    found, drawn = _numbers(held.sum(0)), _numbers(summed)
    names, there = table.classes, (held[..., 1] > 0).sum(0)
    ends = _Ends(confidence)
    classes = tuple(
        PixelClass(
            name,
            int((table.true[:, i] > 0).sum()),
            int(table.true[:, i].sum()),
            MappingProxyType(
                {
                    which: ends.number(
                        found[which][i],
                        drawn[which][:, i],
                        float(there[i]),
                        SILENT if which == "precision" else ABSENT,
                    )
                    for which in CLASS_NUMBERS
                }
            ),
        )
        for i, name in enumerate(names)
    )
    metrics = {
        name: ends.number(_mean(found[which]), _mean(drawn[which]), _joint_units(drawn[which], there), ABSENT)
        for name, which in AVERAGES.items()
    }
    metrics["pixel_accuracy"] = ends.number(
        _share(held.sum(0)[:, 0].sum(), held.sum(0)[:, 1].sum()),
        _share(summed[..., 0].sum(1), summed[..., 1].sum(1)),
        float((held[..., 1].sum(1) > 0).sum()),
        ABSENT,
    )
    return PixelMeasurement(
        table,
        confidence,
        clusters.count,
        MappingProxyType(metrics),
        classes,
        tuple(_remarks(table, classes)),
    )


@dataclass(frozen=True, slots=True)
class _Ends:
    """Expanded percentile intervals."""

    confidence: float

    def number(self, value: float | Floats, drawn: Floats, units: float, reason: str) -> Number:
        """A value with its interval; NaN is no value.

        Args:
            value: What was measured.
            drawn: [r] the same of images drawn anew.
            units: Images, or groups of them, behind it.
            reason: Why there is no value, if so.
        """
        if not np.isfinite(value):
            return Number(None, reason=reason)
        kept = drawn[np.isfinite(drawn)]
        if units < FEWEST or not len(kept):
            return Number(float(value), reason="one image says nothing about others")
        if kept.min() == kept.max():  # nothing scatters: what is left is how few images there are
            quantile = special.stdtrit(units - 1, (1 + self.confidence) / 2)
            low, high = wilson(float(value), units, quantile)
            return Number(float(value), min(float(low), float(value)), max(float(high), float(value)))
        reach = special.stdtrit(units - 1, (1 + self.confidence) / 2) * np.sqrt(units / (units - 1))
        tail = float(special.ndtr(-reach))
        low, high = np.quantile(kept, (tail, 1 - tail))
        return Number(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _joint_units(drawn: Floats, there: NDArray[np.int64]) -> float:
    """How many images an average over classes rests on, from each class's scatter and images.

    Satterthwaite 1946, Biometrics Bulletin 2: a class in few images counts as far as it makes the average
    scatter.
    """
    known = (there >= FEWEST) & np.isfinite(drawn).any(0)
    if not known.any():
        return float(there.max(initial=0))
    scatter = np.nanvar(drawn[:, known], axis=0)
    if not scatter.any():
        return float(there[known].max())
    return float(scatter.sum() ** 2 / (scatter**2 / (there[known] - 1)).sum()) + 1


def _numbers(sums: Floats) -> dict[str, Floats]:
    """[..., k] each, from sums [..., k, 7] of hits, true, answered and the four counts of edges."""
    hits, true, answered, near_true, edge, near_answered, answered_edge = np.moveaxis(sums, -1, 0)
    recall, precision = _share(near_true, edge), _share(near_answered, answered_edge)
    return {
        "iou": _share(hits, true + answered - hits),
        "dice": _share(2 * hits, true + answered),
        "precision": _share(hits, answered),
        "recall": _share(hits, true),
        "boundary_f1": _harmonic(precision, recall, there=edge + answered_edge > 0),
    }


def _share(part: Any, whole: Any) -> Floats:
    """A quotient; NaN where there is nothing to divide by."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    nothing = np.full(np.shape(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=nothing, where=whole > 0), np.float64)


def _harmonic(precision: Floats, recall: Floats, *, there: NDArray[np.bool_]) -> Floats:
    """Their harmonic mean; 0 where one of them has nothing to count, NaN where both have not."""
    known = np.where(np.isfinite(precision), precision, 0), np.where(np.isfinite(recall), recall, 0)
    product, total = 2 * known[0] * known[1], known[0] + known[1]
    return np.where(there, np.divide(product, total, out=np.zeros_like(total), where=total > 0), np.nan)


def _mean(values: Floats) -> Floats:
    """[...] the mean over classes [..., k], without those that have no value."""
    known = np.isfinite(values)
    return _share(np.where(known, values, 0).sum(-1), known.sum(-1))


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _remarks(table: PixelTable, classes: tuple[PixelClass, ...]) -> Iterator[Remark]:
    """What a reader should know."""
    silent = [row.name for row in classes if row.pixels and not table.answered[:, _place(table, row)].any()]
    if silent:
        yield Remark(
            "never_answered", "serious", f"No pixel was ever answered as {', '.join(silent)}, which occurs."
        )
    absent = [row.name for row in classes if not row.pixels]
    if absent:
        yield Remark("absent_class", "warning", f"No pixel here is of {', '.join(absent)}.")
    few = [row.name for row in classes if 0 < row.support < 20]
    if few:
        yield Remark(
            "few_images",
            "note",
            f"{', '.join(few)}: in fewer than 20 images each, so their intervals are wide.",
        )


def _place(table: PixelTable, row: PixelClass) -> int:
    return table.classes.index(row.name)
