"""What is in a dataset and what speaks against training on it, as one table that can be saved as JSON.

Nothing is drawn here; the report draws from the table.

Shapes: n images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.concluding import conclusions
from pictune.data.duplicates import duplicate_findings, exact_duplicates
from pictune.data.facts import Facts
from pictune.data.finding import Finding
from pictune.data.sample import Dataset

Numbers = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]

_MOST_EXAMPLES = 10
_BINS = 20
_QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
_FAR_OUT = 3.0  # Tukey's outer fences: this many interquartile ranges beyond the quartiles
_LEAST_FOR_OUTLIERS = 20  # below this, quartiles say too little to call an image odd


def audit(dataset: Dataset, facts: Facts, clusters: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """Counts, sizes, repeats, odd images, everything noticed, and what to do about it.

    Args:
        dataset: Opened, and split where splits are to be looked at; split with ``allow_leaks`` so that
            leaks are listed and don't stop the audit.
        facts: What opening the files gave, in the order of the samples.
        clusters: (n) images with the same number look the same.

    Returns:
        A table of JSON's own types: ``images``, ``multilabel``, ``classes`` and ``splits`` with counts,
        ``groups``, ``imbalance``, ``sizes``, ``formats``, ``bytes``, ``duplicates``, ``outliers`` (keys),
        ``findings`` by code, and ``conclusions``, the most serious first.
    """
    findings = tuple(dict.fromkeys((*dataset.findings, *duplicate_findings(dataset))))
    table: dict[str, Any] = {
        "images": len(dataset),
        "format": dataset.format,
        "multilabel": dataset.multilabel,
        "classes": _classes(dataset),
        "splits": {name: len(positions) for name, positions in dataset.splits.items()},
        "groups": _groups(dataset),
        "imbalance": _imbalance(dataset),
        "sizes": _sizes(dataset),
        "formats": dict(Counter(facts.format).most_common()),
        "bytes": {"total": int(facts.bytes.sum()), **_quantiles(facts.bytes)},
        "duplicates": _duplicates(dataset, clusters),
        "outliers": _outliers(dataset, facts),
        "findings": _by_code(findings),
    }
    return {**table, "conclusions": conclusions(table)}


def _classes(dataset: Dataset) -> list[dict[str, Any]]:
    """One row a class: its images in all and in each split."""
    counts = dataset.count()
    of_split = {split: dataset.split(split).count() for split in dataset.splits}
    return [
        {
            "class": name,
            "images": counts[name],
            "share": round(counts[name] / max(1, len(dataset)), 6),
            "splits": {split: of_split[split][name] for split in of_split},
        }
        for name in dataset.classes
    ]


def _groups(dataset: Dataset) -> dict[str, int] | None:
    """How many groups there are, how large the largest is, and how many images have none."""
    sizes = Counter(sample.group for sample in dataset.samples)
    without = sizes.pop(None, 0)
    return {"count": len(sizes), "largest": max(sizes.values()), "without": without} if sizes else None


def _imbalance(dataset: Dataset) -> dict[str, Any] | None:
    """The largest and the smallest class and the ratio between them; None without labels."""
    counts = {name: count for name, count in dataset.count().items() if count}
    if not counts:
        return None
    largest = max(counts, key=lambda name: counts[name])
    smallest = min(counts, key=lambda name: counts[name])
    return {
        "largest": largest,
        "smallest": smallest,
        "images": [counts[largest], counts[smallest]],
        "ratio": round(counts[largest] / counts[smallest], 2),
    }


def _quantiles(values: Numbers) -> dict[str, float]:
    """Seven numbers that describe many; empty when there are none."""
    if len(values) == 0:
        return {}
    found = np.quantile(values, list(_QUANTILES.values()))
    return {name: round(float(value), 3) for name, value in zip(_QUANTILES, found, strict=True)}


def _sizes(dataset: Dataset) -> dict[str, Any]:
    """Width, height, shorter side and shape in quantiles, and a histogram of the shorter side in pixels."""
    width = np.array([sample.width for sample in dataset.samples], dtype=np.int64)
    height = np.array([sample.height for sample in dataset.samples], dtype=np.int64)
    shorter = np.minimum(width, height)
    counts, edges = np.histogram(shorter, bins=_BINS)
    common = Counter(zip(width.tolist(), height.tolist(), strict=True)).most_common(_MOST_EXAMPLES)
    return {
        "width": _quantiles(width),
        "height": _quantiles(height),
        "shorter_side": _quantiles(shorter),
        "aspect": _quantiles(width / np.maximum(1, height)),
        "histogram": {"edges": [round(float(edge), 3) for edge in edges], "counts": counts.tolist()},
        "common": [{"width": w, "height": h, "images": count} for (w, h), count in common],
    }


def _duplicates(dataset: Dataset, clusters: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """Sets of equal files, and sets of images that look the same but are not equal files."""
    members = defaultdict(list)
    for position, cluster in enumerate(clusters):
        members[int(cluster)].append(position)
    near = [
        positions
        for positions in members.values()
        if len({dataset.samples[p].checksum or dataset.samples[p].key for p in positions}) > 1
    ]
    return {"exact": _sets(dataset, exact_duplicates(dataset.samples)), "near": _sets(dataset, near)}


def _sets(dataset: Dataset, sets: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How many sets, how many images in them, and the largest ones by key."""
    largest = sorted(sets, key=len, reverse=True)[:_MOST_EXAMPLES]
    return {
        "sets": len(sets),
        "images": sum(map(len, sets)),
        "examples": [[dataset.samples[p].key for p in positions[:_MOST_EXAMPLES]] for positions in largest],
    }


def _outliers(dataset: Dataset, facts: Facts) -> dict[str, list[str]]:
    """Keys of images that are of one colour, or far darker, brighter or more blurred than the others.

    Far means beyond Tukey's outer fences: three interquartile ranges below the lower or above the upper
    quartile. Sharpness is compared on a log scale, because it spreads over orders of magnitude.
    """
    usual = ~facts.constant
    dark, bright = _far_out(facts.brightness, usual)
    blurred, _ = _far_out(np.log(np.maximum(facts.sharpness, 1e-3)), usual)
    flags = {"constant": facts.constant, "dark": dark, "bright": bright, "blurred": blurred}
    return {
        name: [dataset.samples[position].key for position in np.flatnonzero(flag)]
        for name, flag in flags.items()
    }


def _far_out(values: Numbers, usual: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n) which values lie far below and far above the usual ones; nowhere when these are too few."""
    if usual.sum() < _LEAST_FOR_OUTLIERS:
        return np.zeros_like(usual), np.zeros_like(usual)
    lower, upper = np.quantile(values[usual], [0.25, 0.75])
    # Where most images are equally bright the range is zero and says nothing; 1 % of the level is the least.
    fence = _FAR_OUT * max(float(upper - lower), 0.01 * abs(float(upper)), 1e-6)
    return usual & (values < lower - fence), usual & (values > upper + fence)


def _by_code(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings of one code together, the most serious and then the most frequent first."""
    together = defaultdict(list)
    for finding in findings:
        together[finding.outcome, finding.code].append(finding)
    rank = {"reject": 0, "quarantine": 1, "warn": 2, "normalise": 3}
    order = sorted(together, key=lambda kind: (rank[kind[0]], -len(together[kind]), kind[1]))
    return [
        {
            "code": code,
            "outcome": str(outcome),
            "count": len(together[outcome, code]),
            "examples": [
                {"where": finding.where, "message": finding.message}
                for finding in together[outcome, code][:_MOST_EXAMPLES]
            ],
        }
        for outcome, code in order
    ]
