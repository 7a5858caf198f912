"""Splits that cannot leak: what belongs together stays together, and every class is spread evenly.

The indivisible *unit* of a split is a set of images joined by a group, by equal bytes or by looking the
same; `place` divides the units. Their order comes from a hash of seed and key, so neither the order of
files nor the machine matters.

Splits that the data bring along are kept as they are; only what is missing is made, out of train.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pictune.data.duplicates import duplicate_findings
from pictune.data.finding import Finding, Outcome
from pictune.data.leaks import find_leaks, leak_findings
from pictune.data.placing import Unit, place
from pictune.data.sample import SPLITS, Dataset
from pictune.errors import DataError

TestPolicy = Literal["auto", "from_train", "absent"]

IMBALANCE = 10.0  # from this ratio of the largest to the smallest class on, accuracy alone misleads
_MOST_LISTED = 50  # pairs listed one by one in a message; the rest is counted


def split_dataset(
    dataset: Dataset,
    *,
    clusters: Sequence[int] | NDArray[np.int64],
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    test: TestPolicy = "auto",
    allow_leaks: bool = False,
) -> Dataset:
    """Splits a dataset into train, val and test, or completes the splits it brings along.

    What is made is said in a finding (``split_made``, ``no_test``). With ``auto``, a test split is made
    when the data bring no val split either; when they bring train and val only, there is none, because
    an image that someone else has already trained or tuned on is no test.

    Args:
        dataset: With checksums where leaks by equal files are to be found.
        clusters: (n) any number for each image; images with the same number look the same.
        fractions: Of train, val and test; they add up to 1. A test of 0 means there is none.
        seed: Another seed gives another split.
        test: ``auto``; ``from_train`` makes a test split from train; ``absent`` makes none.
        allow_leaks: Turns the refusal of equal files or groups across given splits into a warning.

    Returns:
        The same samples with splits, and the findings.

    Raises:
        DataError: ``leak``, ``class_not_in_train``, ``no_train``, ``too_few`` or ``bad_fractions``.
    """
    _check_fractions(fractions, test)
    given = _given_splits(dataset)
    made = _missing_splits(given, fractions, test)
    as_given = replace(dataset, splits=_splits(given))
    findings = [
        *duplicate_findings(dataset),
        *leak_findings(dataset, find_leaks(as_given, clusters), allow_leaks=allow_leaks),
    ]
    split_of = list(given)
    if made:
        members = {position for position, split in enumerate(given) if split in (None, "train")}
        parts = [
            part for unit in units_of(dataset, clusters) if (part := tuple(p for p in unit if p in members))
        ]
        pool = [_unit(dataset, part, seed) for part in parts]
        placed = place(pool, _shares(made, fractions), complete="train")
        for part, split in zip(parts, placed, strict=True):
            for position in part:
                split_of[position] = split
    result = replace(dataset, splits=_splits(split_of))
    findings += _what_was_made(result, given, made, seed)
    findings += class_findings(result)
    _refuse(findings)
    return replace(result, findings=tuple(dict.fromkeys((*dataset.findings, *findings))))


def _check_fractions(fractions: Sequence[float], test: str) -> None:
    instead = "Give three numbers for train, val and test that add up to 1, such as 0.7, 0.15, 0.15."
    if len(fractions) != 3 or not all(0 <= f <= 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(
            f"the fractions {tuple(fractions)} are no way to divide a whole",
            code="bad_fractions",
            instead=instead,
        )
    if fractions[0] == 0 or fractions[1] == 0:
        raise DataError("train and val cannot be empty", code="bad_fractions", instead=instead)
    if fractions[2] == 0 and test == "from_train":
        raise DataError(
            "a test split is asked for with a fraction of 0", code="bad_fractions", instead=instead
        )


def _given_splits(dataset: Dataset) -> list[str | None]:
    """The splits that the data bring along: one for every image, or none at all."""
    given = [sample.given_split for sample in dataset.samples]
    if any(given) and not all(given):
        without = [s.key for s in dataset.samples if not s.given_split]
        raise DataError(
            f"{len(without):,} of {len(given):,} images name no split, but the others do",
            code="no_split",
            causes=without[:_MOST_LISTED],
            instead="Name the split of every image, or of none.",
        )
    if any(given) and "train" not in given:
        raise DataError(
            f"the data bring a {' and '.join(sorted(set(filter(None, given))))} split, but no train",
            code="no_train",
            instead="Add train images, or give the images without split folders.",
        )
    return given


def with_given_splits(dataset: Dataset) -> Dataset:
    """The dataset with the splits it brings along and no others, complete or not."""
    return replace(dataset, splits=_splits([sample.given_split for sample in dataset.samples]))


def _splits(split_of: Sequence[str | None]) -> Mapping[str, tuple[int, ...]]:
    """Positions by split; splits without any are left out."""
    positions = {name: tuple(p for p, split in enumerate(split_of) if split == name) for name in SPLITS}
    return MappingProxyType({name: found for name, found in positions.items() if found})


def _missing_splits(
    given: Sequence[str | None], fractions: Sequence[float], test: TestPolicy
) -> tuple[str, ...]:
    """The splits to be made, train included when anything is taken from it; empty when none is missing."""
    present = set(filter(None, given))
    if "test" in present and test != "auto":
        raise DataError(
            f"test={test!r} contradicts the data, which bring a test split",
            code="test_given",
            instead="Leave the setting out, or take the test split out of the data.",
        )
    missing = [] if "val" in present else ["val"]
    wanted = test == "from_train" or (test == "auto" and "val" not in present and fractions[2] > 0)
    if "test" not in present and wanted:
        missing.append("test")
    return ("train", *missing) if missing else ()


def _shares(made: Sequence[str], fractions: Sequence[float]) -> dict[str, float]:
    """What each made split gets of the images that are divided; adds up to 1."""
    asked = {name: fractions[SPLITS.index(name)] for name in made}
    total = sum(asked.values())
    return {name: share / total for name, share in asked.items()}


def units_of(dataset: Dataset, clusters: Iterable[int]) -> list[tuple[int, ...]]:
    """Sets of positions that no split may separate: union-find over groups, equal files and clusters."""
    parent = list(range(len(dataset.samples)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]  # halves the path, so that later walks are short
            position = parent[position]
        return position

    first: dict[tuple[str, str | int], int] = {}
    for position, (sample, cluster) in enumerate(zip(dataset.samples, clusters, strict=True)):
        ties: list[tuple[str, str | int]] = [("cluster", int(cluster))]
        if sample.group is not None:
            ties.append(("group", sample.group))
        if sample.checksum:
            ties.append(("checksum", sample.checksum))
        for tie in ties:
            parent[root(position)] = root(first.setdefault(tie, position))
    units = defaultdict(list)
    for position in range(len(parent)):
        units[root(position)].append(position)
    return [tuple(unit) for unit in units.values()]


_NO_CLASS = ""  # stands for images without any label, so that these are spread evenly too


def _unit(dataset: Dataset, part: Sequence[int], seed: int) -> Unit:
    """The unit of some positions; its key comes from the seed and its first sample's key."""
    key = min(dataset.samples[position].key for position in part)
    counts: Counter[str] = Counter()
    for position in part:
        annotation = dataset.samples[position].annotation
        counts.update(annotation.names if annotation and annotation.names else (_NO_CLASS,))
    return Unit(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest(), counts, len(part))


def _what_was_made(
    dataset: Dataset, given: Sequence[str | None], made: Sequence[str], seed: int
) -> list[Finding]:
    """In words: which splits were made and from what, and whether there is a test split."""
    findings = []
    sizes = {name: len(positions) for name, positions in dataset.splits.items()}
    for name in ("train", "val", *(("test",) if "test" in made else ())):
        if not sizes.get(name):
            message = (
                f"There are too few independent images to make a {name} split; add images, "
                "or groups that are not all joined to one another."
            )
            findings.append(Finding("too_few", Outcome.REJECT, name, message))
    if made:
        names = made if not any(given) else made[1:]
        source = "all images" if not any(given) else "the given train split"
        counts = ", ".join(f"{name} {sizes.get(name, 0):,}" for name in names)
        message = f"Made from {source} with seed {seed}: {counts} images."
        findings.append(Finding("split_made", Outcome.NORMALISE, "", message))
    if "test" not in sizes and "test" not in made:
        message = (
            "There is no test split: the figures come from val, on which the model was chosen, "
            "and are a little too good."
        )
        findings.append(Finding("no_test", Outcome.WARN, "", message))
    return findings


def class_findings(dataset: Dataset) -> list[Finding]:
    """Classes that the present splits never teach (rejected), seldom teach, never validate or never test."""
    counts = {split: dataset.split(split).count() for split in dataset.splits}
    findings = []
    for name in dataset.classes:
        present = [split for split in counts if counts[split][name]]
        if present and "train" not in present:
            message = (
                f"The class {name!r} is in {' and '.join(present)} but not in train; it cannot be learnt."
            )
            findings.append(Finding("class_not_in_train", Outcome.REJECT, name, message))
        elif present == ["train"] and len(counts) > 1:
            number = counts["train"][name]
            images = "1 image" if number == 1 else f"{number:,} images"
            message = f"The class {name!r} is in train only ({images}); it is learnt but not evaluated."
            findings.append(Finding("not_evaluated", Outcome.WARN, name, message))
        elif present and "val" in counts and "val" not in present:
            message = f"The class {name!r} is not in val; its figures there are not available."
            findings.append(Finding("class_not_in_val", Outcome.WARN, name, message))
        elif present and "test" in counts and "test" not in present:
            message = f"The class {name!r} is not in test; its figures there are not available."
            findings.append(Finding("class_not_in_test", Outcome.WARN, name, message))
    return findings + _imbalance(counts.get("train", {}))


def _imbalance(counts: Mapping[str, int]) -> list[Finding]:
    """Whether one class has so many more training images than another that accuracy says little."""
    taught = {name: count for name, count in counts.items() if count}
    if not taught:
        return []
    largest, smallest = max(taught, key=lambda n: taught[n]), min(taught, key=lambda n: taught[n])
    ratio = taught[largest] / taught[smallest]
    if ratio < IMBALANCE:
        return []
    message = (
        f"In train {largest!r} has {ratio:,.0f} times as many images as {smallest!r} "
        f"({taught[largest]:,} to {taught[smallest]:,}). Judge by balanced accuracy and class by class, "
        "not by accuracy; --set training.sampling=balanced shows the network every class alike."
    )
    return [Finding("imbalance", Outcome.WARN, "", message)]


def _refuse(findings: Sequence[Finding]) -> None:
    """Raises one error with everything that rejects."""
    rejected = [finding for finding in findings if finding.outcome is Outcome.REJECT]
    if not rejected:
        return
    code = rejected[0].code
    more = len(rejected) - _MOST_LISTED
    raise DataError(
        "these splits cannot be used",
        code=code,
        causes=[
            *(finding.message for finding in rejected[:_MOST_LISTED]),
            *([f"and {more:,} more"] if more > 0 else []),
        ],
        instead="Remove one of each pair, or say --allow-leaks and mistrust the figures."
        if code == "leak"
        else "Nothing was changed. Put these right and run the command again.",
    )
