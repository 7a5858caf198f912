"""What is in a dataset and what speaks against training on it, as one table that can be saved as JSON.

Nothing is drawn here; the report draws from the table.

Shapes: n images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.concluding import conclusions
from pictune.data.duplicates import duplicate_findings, exact_duplicates
from pictune.data.facts import Facts
from pictune.data.finding import Finding, Outcome
from pictune.data.leaks import find_leaks, leak_findings
from pictune.data.sample import Dataset
from pictune.data.splitting import class_findings, with_given_splits

Numbers = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]

_MOST_SIZES = 100
_SERIOUSNESS = (Outcome.REJECT, Outcome.QUARANTINE, Outcome.WARN, Outcome.NORMALISE)
_BINS = 20
_QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
_FAR_OUT = 3.0  # Tukey's outer fences: this many interquartile ranges beyond the quartiles
_LEAST_FOR_OUTLIERS = 20  # below this, quartiles say too little to call an image odd


def audit(dataset: Dataset, facts: Facts, clusters: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """Counts, sizes, repeats, odd images, everything noticed, and what to do about it.

    Args:
        dataset: Opened; where it has no splits yet, those that the data bring along are looked at.
        facts: What opening the files gave, in the order of the samples.
        clusters: (n) images with the same number look the same.

    Returns:
        A table of JSON's own types. ``conclusions``: what to do, the most serious first. ``counts``: images
        by class and split. ``sizes``: the frequent ones. ``findings``: all of them; ``codes``: how many of
        each. ``duplicates``, ``leaks``, ``conflicts``: sets of keys with their splits or labels.
        ``outliers``: keys with the reason. Besides ``images``, ``format``, ``task``, ``multilabel``,
        ``splits``, ``groups``, ``imbalance``, ``pixels`` (quantiles and a histogram), ``formats``, ``bytes``.
    """
    dataset = dataset if dataset.splits else with_given_splits(dataset)
    leaks = find_leaks(dataset, clusters)
    noticed = [*dataset.findings, *duplicate_findings(dataset), *leak_findings(dataset, leaks)]
    if dataset.splits:
        noticed += class_findings(dataset)
    findings = tuple(dict.fromkeys(noticed))
    exact = exact_duplicates(dataset.samples)
    split_of = {position: name for name, positions in dataset.splits.items() for position in positions}
    table: dict[str, Any] = {
        "images": len(dataset),
        "format": dataset.format,
        "task": dataset.task,
        "multilabel": dataset.multilabel,
        "splits": {name: len(positions) for name, positions in dataset.splits.items()},
        "counts": _counts(dataset),
        "groups": _groups(dataset),
        "imbalance": _imbalance(dataset),
        "sizes": _sizes(dataset),
        "pixels": _pixels(dataset),
        "formats": dict(Counter(facts.format).most_common()),
        "bytes": {"total": int(facts.bytes.sum()), **_quantiles(facts.bytes)},
        "duplicates": [
            *_sets(dataset, "file", exact, split_of),
            *_sets(dataset, "look", _near(dataset, clusters), split_of),
        ],
        "leaks": [row for leak in leaks for row in _sets(dataset, leak.kind, [leak.positions], split_of)],
        "conflicts": _conflicts(dataset, exact),
        "outliers": _outliers(dataset, facts),
        "codes": _codes(findings),
        "findings": [
            {"code": f.code, "outcome": str(f.outcome), "where": f.where, "message": f.message}
            for f in findings
        ],
    }
    return {**table, "conclusions": conclusions(table)}


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Images by class and split; without splits under the one word ``images``."""
    if not dataset.splits:
        return {name: {"images": count} for name, count in dataset.count().items()}
    of_split = {split: dataset.split(split).count() for split in dataset.splits}
    return {name: {split: of_split[split][name] for split in of_split} for name in dataset.classes}


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


def _sizes(dataset: Dataset) -> list[dict[str, int]]:
    """The sizes that occur, the most frequent first."""
    found = Counter((sample.width, sample.height) for sample in dataset.samples)
    return [{"width": w, "height": h, "count": count} for (w, h), count in found.most_common(_MOST_SIZES)]


def _pixels(dataset: Dataset) -> dict[str, Any]:
    """Width, height, shorter side and shape in quantiles, and a histogram of the shorter side in pixels."""
    width = np.array([sample.width for sample in dataset.samples], dtype=np.int64)
    height = np.array([sample.height for sample in dataset.samples], dtype=np.int64)
    shorter = np.minimum(width, height)
    counts, edges = np.histogram(shorter, bins=_BINS)
    return {
        "width": _quantiles(width),
        "height": _quantiles(height),
        "shorter_side": _quantiles(shorter),
        "aspect": _quantiles(width / np.maximum(1, height)),
        "histogram": {"edges": [round(float(edge), 3) for edge in edges], "counts": counts.tolist()},
    }


def _near(dataset: Dataset, clusters: Iterable[int]) -> list[list[int]]:
    """Sets of images that look the same and are not all one file."""
    members = defaultdict(list)
    for position, cluster in enumerate(clusters):
        members[int(cluster)].append(position)
    return [
        positions
        for positions in members.values()
        if len({dataset.samples[p].checksum or dataset.samples[p].key for p in positions}) > 1
    ]


def _sets(
    dataset: Dataset, kind: str, sets: Iterable[Sequence[int]], split_of: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The keys of each set and, where there are splits, the split of each key; the largest first."""
    return [
        {
            "kind": kind,
            "keys": [dataset.samples[position].key for position in positions],
            "splits": [split_of[position] for position in positions if position in split_of],
        }
        for positions in sorted(sets, key=len, reverse=True)
    ]


def _conflicts(dataset: Dataset, exact: Iterable[Sequence[int]]) -> list[dict[str, Any]]:
    """Equal files that carry different labels: the keys, and the labels of each."""
    rows = []
    for positions in exact:
        labels = [_labels(dataset, position) for position in positions]
        if any(names != labels[0] for names in labels):
            rows.append({"keys": [dataset.samples[p].key for p in positions], "labels": labels})
    return rows


def _labels(dataset: Dataset, position: int) -> list[str]:
    annotation = dataset.samples[position].annotation
    return list(annotation.names) if annotation else []


def _outliers(dataset: Dataset, facts: Facts) -> list[dict[str, str]]:
    """Images that are of one colour, or far darker, brighter or more blurred than the others.

    Far means beyond Tukey's outer fences: three interquartile ranges below the lower or above the upper
    quartile. Sharpness is compared on a log scale, because it spreads over orders of magnitude.
    """
    usual = ~facts.constant
    dark, bright = _far_out(facts.brightness, usual)
    blurred, _ = _far_out(np.log(np.maximum(facts.sharpness, 1e-3)), usual)
    flags = {"constant": facts.constant, "dark": dark, "bright": bright, "blurred": blurred}
    return [
        {
            "key": dataset.samples[position].key,
            "class": ", ".join(_labels(dataset, int(position))),
            "reason": reason,
        }
        for reason, flag in flags.items()
        for position in np.flatnonzero(flag)
    ]


def _far_out(values: Numbers, usual: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n) which values lie far below and far above the usual ones; nowhere when these are too few."""
    if usual.sum() < _LEAST_FOR_OUTLIERS:
        return np.zeros_like(usual), np.zeros_like(usual)
    lower, upper = np.quantile(values[usual], [0.25, 0.75])
    # Where most images are equally bright the range is zero and says nothing; 1 % of the level is the least.
    fence = _FAR_OUT * max(float(upper - lower), 0.01 * abs(float(upper)), 1e-6)
    return usual & (values < lower - fence), usual & (values > upper + fence)


def _codes(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """How many findings there are of each code, the most serious and then the most frequent first."""
    counts = Counter((finding.outcome, finding.code) for finding in findings)
    order = sorted(counts, key=lambda kind: (_SERIOUSNESS.index(kind[0]), -counts[kind], kind[1]))
    return [
        {"code": code, "outcome": str(outcome), "count": counts[outcome, code]} for outcome, code in order
    ]
