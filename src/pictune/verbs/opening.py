"""A run's own pictures, opened again: the step that `evaluate` and `export` share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictune.data.ingest import Ingested
from pictune.data.sample import Dataset
from pictune.data.scanning import escape
from pictune.errors import DataError, RunError
from pictune.recipe_sections import DataSection
from pictune.recipes import Recipe
from pictune.run import Run
from pictune.verbs import reading

MOST_LISTED = 20


@dataclass(frozen=True)
class Opened:
    """A run's pictures, all splits of them.

    Args:
        run: Was trained on them.
        ingested: The pictures, stored for its model.
        kept: The run's splits.json.
    """

    run: Run
    ingested: Ingested
    kept: Mapping[str, Any]

    def rows(self, name: str) -> Sequence[int]:
        """Positions of a split's pictures.

        Raises:
            DataError: When the data are no longer what they were.
        """
        return rows_of(self.run, self.ingested.dataset, self.kept, name)


def open_run(run: Run, recipe: Recipe, *, side: int, progress: reading.Progress | None = None) -> Opened:
    """Opens the pictures that a run was trained on.

    Args:
        run: The run.
        recipe: Its recipe.
        side: Shorter side of the stored pictures, pixels.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        DataError: When they are no longer there.
    """
    kept = reading.splits_of(run)
    named = reading.read_named(home_of(run), recipe.data)
    return Opened(run, open_stored(named, recipe.data, recipe, side=side, progress=progress), kept)


def open_stored(
    named: Dataset,
    data: DataSection,
    recipe: Recipe,
    *,
    side: int,
    progress: reading.Progress | None = None,
) -> Ingested:
    """Opens the pictures of a dataset with as many threads as training has."""
    threads = recipe.training.threads or len(os.sched_getaffinity(0))
    return reading.open_pictures(named, data, side=side, threads=threads, progress=progress)


def home_of(run: Run) -> Path:
    """Where the pictures of the run's own splits are."""
    path = Path(reading.origin_of(run)["data"])
    if not path.exists():
        raise DataError(
            f"the pictures that {run.name} was trained on are no longer at {escape(str(path))}",
            code="absent",
            instead=f"Put them back, or {_on_others(run)}.",
        )
    return path


def _on_others(run: Run) -> str:
    """What can be done with a run whose pictures are not what they were."""
    return f"judge the model on other pictures: pictune evaluate {escape(str(run.path))} --data PICTURES"


def split_name(run: Run, splits: Mapping[str, Sequence[str]], split: str | None) -> str:
    """The split that was asked for; test, or val where there is none, when none was.

    Raises:
        RunError: When the run has no such split.
    """
    if split is None:
        return "test" if "test" in splits else "val"
    if split not in splits:
        raise RunError(
            f"the run {run.name} has no {split} split",
            instead=f"It has {', '.join(splits)}; choose one of them.",
        )
    return split


def rows_of(run: Run, dataset: Dataset, kept: Mapping[str, Any], name: str) -> Sequence[int]:
    """Positions of a split's pictures.

    Raises:
        DataError: When the data are no longer what they were.
    """
    keys: Sequence[str] = kept["splits"][name]
    place = {sample.key: i for i, sample in enumerate(dataset.samples)}
    gone = [key for key in keys if key not in place]
    if gone:
        raise DataError(
            f"{len(gone):,} of the {len(keys):,} pictures of {run.name}'s {name} split are gone",
            code="missing",
            causes=[
                *gone[:MOST_LISTED],
                *([f"and {len(gone) - MOST_LISTED:,} more"] if len(gone) > MOST_LISTED else []),
            ],
            instead=f"Put them back, or {_on_others(run)}.",
        )
    if dataset.fingerprint != kept["fingerprint"]:
        raise DataError(
            f"the pictures or labels have changed since {run.name} was trained",
            code="changed",
            instead=f"Train again on the new data, or {_on_others(run)}.",
        )
    return sorted(place[key] for key in keys)
