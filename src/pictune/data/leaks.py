"""What stands in several splits and must not: equal files, images of one group, images that look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pictune.data.duplicates import exact_duplicates
from pictune.data.finding import Finding, Outcome
from pictune.data.sample import Dataset

Kind = Literal["file", "group", "look"]

_WORDS: dict[Kind, str] = {
    "file": "The same file stands in several splits",
    "group": "Images of one group stand in several splits",
    "look": "Images that look the same stand in several splits",
}
_SHOWN = 3  # sets named in the one sentence about look-alikes


@dataclass(frozen=True, slots=True)
class Leak:
    """A set of images that stands in more than one split.

    Args:
        kind: ``file`` for equal bytes, ``group``, or ``look``.
        positions: All images of the set, in the dataset's order.
        splits: The split of each of them.
    """

    kind: Kind
    positions: tuple[int, ...]
    splits: tuple[str, ...]


def find_leaks(dataset: Dataset, clusters: Iterable[int]) -> tuple[Leak, ...]:
    """Every leak between the dataset's splits.

    Args:
        dataset: With splits.
        clusters: (n) images with the same number look the same.
    """
    split_of = {position: name for name, positions in dataset.splits.items() for position in positions}
    by_group = defaultdict(list)
    by_cluster = defaultdict(list)
    for position, (sample, cluster) in enumerate(zip(dataset.samples, clusters, strict=True)):
        if sample.group is not None:
            by_group[sample.group].append(position)
        by_cluster[int(cluster)].append(position)
    sets: list[tuple[Kind, Sequence[int]]] = [("file", s) for s in exact_duplicates(dataset.samples)]
    sets += [("group", positions) for positions in by_group.values()]
    sets += [("look", _one_a_file(dataset, positions)) for positions in by_cluster.values()]
    leaks = []
    for kind, positions in sets:
        inside = tuple(position for position in positions if position in split_of)
        splits = tuple(split_of[position] for position in inside)
        if len(set(splits)) > 1:
            leaks.append(Leak(kind, inside, splits))
    return tuple(leaks)


def _one_a_file(dataset: Dataset, cluster: Sequence[int]) -> list[int]:
    """A cluster without repeats of equal files, which are leaks of their own kind."""
    first: dict[str, int] = {}
    for position in cluster:
        sample = dataset.samples[position]
        first.setdefault(sample.checksum or sample.key, position)
    return list(first.values())


def leak_findings(dataset: Dataset, leaks: Sequence[Leak], *, allow_leaks: bool = False) -> list[Finding]:
    """Leaks in words: equal files and groups one by one (rejected), look-alikes together (a warning)."""
    outcome = Outcome.WARN if allow_leaks else Outcome.REJECT
    findings = []
    for leak in leaks:
        if leak.kind != "look":
            message = f"{_WORDS[leak.kind]}: {_listed(dataset, leak)}."
            findings.append(Finding("leak", outcome, dataset.samples[leak.positions[0]].key, message))
    near = [leak for leak in leaks if leak.kind == "look"]
    if near:
        images = sum(len(leak.positions) for leak in near)
        shown = "; ".join(_listed(dataset, leak) for leak in near[:_SHOWN])
        message = (
            f"{_WORDS['look']}: {images:,} images in {len(near):,} set{'s'[: len(near) - 1]}, such as "
            f"{shown}. Figures on these are too good; let pictune make the splits, or remove them."
        )
        findings.append(Finding("near_leak", Outcome.WARN, "", message))
    return findings


def _listed(dataset: Dataset, leak: Leak) -> str:
    """One image of each split, by key."""
    first: dict[str, str] = {}
    for position, split in zip(leak.positions, leak.splits, strict=True):
        first.setdefault(split, dataset.samples[position].key)
    return " and ".join(f"{key} ({split})" for split, key in first.items())
