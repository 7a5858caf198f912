"""`evaluate`: how good is a run's model on pictures it has not learnt from?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pictune.data.ingest import Ingested
from pictune.data.sample import Dataset
from pictune.errors import DataError, RunError
from pictune.evaluation.reporting import Report
from pictune.recipe import Recipe, read_recipe
from pictune.recipe_text import load_yaml
from pictune.run import Run
from pictune.tasks.model import Model
from pictune.verbs import reading
from pictune.verbs.judging import judge
from pictune.verbs.tables import TABLES


def evaluate(run: Run | Path | str, *, split: str | None = None, data: Path | str | None = None) -> Report:
    """Scores a run's model and writes a report with an interval on every number.

    Args:
        run: A run or its folder.
        split: ``test``, ``val`` or ``train``; None is test, or val where the run has no test split.
        data: Other labelled pictures to judge it on, whole; they need the same class names.

    Raises:
        RunError: When the run has no model, or no such split.
        DataError: When the pictures have changed since training, or have unknown classes.
    """
    run = run if isinstance(run, Run) else Run(run)
    model = Model.load(run.model)
    recipe = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES)
    made_by, kept = run.read("made_by.json"), run.read("splits.json")
    if data is not None:
        if split is not None:
            raise RunError("--data is judged whole", instead="Leave --split away.")
        ingested = _opened(Path(data), recipe, model)
        name, chosen = Path(data).resolve().name, ingested.dataset
        rows: Sequence[int] = range(len(chosen))
    else:
        name = _split_name(run, kept["splits"], split)
        ingested = _opened(Path(made_by["data"]), recipe, model)
        rows = _rows(run, ingested.dataset, kept["splits"][name], name)
        chosen = ingested.dataset.select(rows)
        _unchanged(run, ingested.dataset, kept["fingerprint"], name)
    assert ingested.store is not None, "evaluation stores its pictures"
    return judge(
        run,
        model,
        chosen,
        [ingested.store[i] for i in rows],
        name=name,
        evaluation=recipe.evaluation,
        seed=recipe.training.seed,
        facts={"selected_by": f"{recipe.training.select_by} on the validation split", "findings": []},
    )


def _opened(path: Path, recipe: Recipe, model: Model) -> Ingested:
    named = reading.read_named(path, recipe.data)
    threads = recipe.training.threads or len(os.sched_getaffinity(0))
    return reading.open_pictures(named, recipe.data, side=model.specification.side, threads=threads)


def _split_name(run: Run, splits: dict[str, list[str]], split: str | None) -> str:
    if split is None:
        return "test" if "test" in splits else "val"
    if split not in splits:
        raise RunError(
            f"the run {run.name} has no {split} split",
            instead=f"It has {', '.join(splits)}; choose one of them.",
        )
    return split


def _rows(run: Run, dataset: Dataset, keys: Sequence[str], name: str) -> list[int]:
    place = {sample.key: i for i, sample in enumerate(dataset.samples)}
    gone = [key for key in keys if key not in place]
    if gone:
        raise DataError(
            f"{len(gone)} of the {len(keys)} pictures of {run.name}'s {name} split are gone",
            code="missing",
            causes=gone[:20],
            instead="Put them back, or judge the model on other pictures with --data.",
        )
    return sorted(place[key] for key in keys)


def _unchanged(run: Run, dataset: Dataset, fingerprint: str, name: str) -> None:
    if replace(dataset, splits={}).fingerprint != fingerprint:
        raise DataError(
            f"the pictures or labels have changed since {run.name} was trained, and so has its {name} split",
            code="changed",
            instead="Train again on the new data, or judge the model on other pictures with --data.",
        )
