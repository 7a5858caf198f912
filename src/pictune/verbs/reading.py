"""From a path and a recipe to checked pictures: the beginning that several verbs share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.decoding import Limits
from pictune.data.duplicates import duplicate_clusters
from pictune.data.finding import Finding, Outcome
from pictune.data.formats import read_dataset
from pictune.data.grouping import group_samples
from pictune.data.ingest import Ingested, ingest
from pictune.data.sample import Dataset
from pictune.data.splitting import split_dataset
from pictune.errors import RunError
from pictune.files import cache_folder
from pictune.recipe_sections import DataSection
from pictune.recipes import Recipe
from pictune.run import Run

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def read_named(path: Path, data: DataSection, *, judging: bool = False) -> Dataset:
    """The dataset at a path, its files not yet opened.

    Args:
        path: A folder or a table.
        data: What was said about it; when judging, about the data that the model has learnt from.
        judging: Whether a model is judged on the dataset, which is then taken whole; see `read_dataset`.
    """
    return read_dataset(
        path,
        format=data.format,
        image_column=data.image_column,
        label_column=data.label_column,
        split_column=None if judging else data.split_column,
        label_separator=data.label_separator,
        group_column=data.group_by if is_column(data.group_by) else None,
        follow_outside=data.follow_outside,
        judging=judging,
        image_folder=data.image_folder,
        classes=data.classes,
        ignore=data.ignore,
    )


def splits_of(run: Run) -> dict[str, Any]:
    """A run's splits.json."""
    return _record(run, "splits.json", ("splits", "fingerprint", "findings"))


def origin_of(run: Run) -> dict[str, Any]:
    """A run's made_by.json."""
    return _record(
        run,
        "made_by.json",
        ("data", "asked", "cycles", "open", "reading", "seconds", "teacher", "threads", "weights"),
    )


def _record(run: Run, name: str, needed: Sequence[str]) -> dict[str, Any]:
    record = run.read(name)
    lacking = [key for key in needed if key not in record]
    if lacking:
        raise RunError(
            f"{name} of the run {run.name} lacks {', '.join(lacking)}",
            instead="It was changed, or another version of pictune wrote it; train again.",
        )
    return record


def limits_of(data: DataSection) -> Limits:
    """Which pictures are accepted."""
    return Limits(min_side=data.min_side, max_pixels=data.max_pixels)


def open_pictures(
    dataset: Dataset, data: DataSection, *, side: int | None, threads: int, progress: Progress | None = None
) -> Ingested:
    """Opens every picture once: checks, hashes and, where a side is given, stored pixels; then groups."""
    ingested = ingest(
        dataset,
        limits=limits_of(data),
        side=side,
        cache=cache_folder() / "pictures",
        threads=threads,
        max_bad=data.max_bad,
        value_range=data.value_range,
        progress=progress,
    )
    if data.group_by is None:
        return ingested
    by = "column" if is_column(data.group_by) else data.group_by
    return replace(ingested, dataset=group_samples(ingested.dataset, by, exif=ingested.facts.exif))


def is_column(group_by: str | None) -> bool:
    """Whether groups come from a column of the table."""
    return group_by is not None and not group_by.startswith(("re:", "exif:"))


def look_alikes(ingested: Ingested, *, near: bool) -> NDArray[np.int64]:
    """(n) a number for each picture; pictures of one number look the same."""
    checksums = [sample.checksum for sample in ingested.dataset.samples]
    if not near:
        return np.unique(np.array(checksums, dtype=str), return_inverse=True)[1].astype(np.int64)
    return duplicate_clusters(ingested.facts.hash, ingested.facts.thumbnail, checksums=checksums)


def split_pictures(ingested: Ingested, recipe: Recipe, clusters: NDArray[np.int64]) -> Dataset:
    """The dataset with its splits: those it brings along, completed; or made here."""
    split = recipe.split
    return split_dataset(
        ingested.dataset,
        clusters=clusters,
        fractions=(1 - split.val - split.test, split.val, split.test),
        seed=recipe.training.seed,
        test="absent" if split.test == 0 else "auto",
        allow_leaks=recipe.data.allow_leaks,
    )


def finding_rows(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings as plain values for JSON; `findings_of` reads them back."""
    return [
        {"code": f.code, "outcome": str(f.outcome), "where": f.where, "message": f.message} for f in findings
    ]


def findings_of(rows: Iterable[Mapping[str, str]]) -> tuple[Finding, ...]:
    """What `finding_rows` wrote."""
    return tuple(Finding(row["code"], Outcome(row["outcome"]), row["where"], row["message"]) for row in rows)
