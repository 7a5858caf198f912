"""`evaluate`: how good is a run's model on pictures it has not learnt from?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pictune.data.finding import Finding, Outcome
from pictune.data.grouping import group_samples
from pictune.data.ingest import Ingested
from pictune.data.sample import SPLITS, Dataset
from pictune.data.scanning import escape
from pictune.errors import RunError
from pictune.evaluation.reporting import Report
from pictune.recipe_text import load_yaml
from pictune.recipes import read_recipe
from pictune.run import Run
from pictune.tasks.model import Model
from pictune.training.machine import Machine
from pictune.verbs import reading
from pictune.verbs.asked import trained_run
from pictune.verbs.judging import judge
from pictune.verbs.opening import open_run, open_stored, split_name
from pictune.verbs.tables import TABLES


def evaluate(
    run: Run | Path | str,
    *,
    split: str | None = None,
    data: Path | str | None = None,
    progress: reading.Progress | None = None,
) -> Report:
    """Scores a run's model and writes a report with an interval on every number.

    Args:
        run: A run or its folder.
        split: ``test``, ``val`` or ``train``; None is test, or val where the run has no test split.
        data: Other labelled pictures to judge it on, whole; they need the same class names.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        RunError: When the run has no model, or no such split.
        DataError: When the pictures have changed since training, or have unknown classes.
    """
    run = trained_run(run, verb="evaluate")
    if data is not None and split is not None:
        raise RunError("--data is judged whole", instead="Leave --split away.")
    model = Model.load(run.model, device=Machine().device)
    recipe = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES)
    kept = reading.splits_of(run)
    if data is not None:
        named = reading.read_named(Path(data), recipe.data, judging=True)
        ungrouped = replace(recipe.data, group_by=None)
        ingested = open_stored(named, ungrouped, recipe, side=model.specification.side, progress=progress)
        chosen = _grouped(ingested, recipe.data.group_by)
        name = _report_name(run, Path(data), chosen.fingerprint)
        rows: Sequence[int] = range(len(chosen))
        findings = [*chosen.findings, *_known(run, chosen, kept)]
    else:
        name = split_name(run, kept["splits"], split)
        opened = open_run(run, recipe, side=model.specification.side, progress=progress)
        ingested, rows = opened.ingested, opened.rows(name)
        chosen, findings = ingested.dataset.select(rows), list(reading.findings_of(kept["findings"]))
    assert ingested.store is not None, "evaluation stores its pictures"
    return judge(
        run,
        model,
        chosen,
        [ingested.store[i] for i in rows],
        name=name,
        evaluation=recipe.evaluation,
        seed=recipe.training.seed,
        select_by=recipe.training.select_by,
        findings=findings,
    )


def _grouped(ingested: Ingested, group_by: str | None) -> Dataset:
    """Other pictures, grouped as the run's own were where the rule finds anything."""
    if group_by is None:
        return ingested.dataset
    by = "column" if reading.is_column(group_by) else group_by
    return group_samples(ingested.dataset, by, exif=ingested.facts.exif, required=False)


def _report_name(run: Run, path: Path, fingerprint: str) -> str:
    """What a report on other pictures is called; never like a split, which it is not.

    The same pictures replace their own report. Where other pictures have a report of that name, a piece of
    the fingerprint joins it, so that two folders called ``images`` do not overwrite one another's.
    """
    plain = escape(path.resolve().name) or "data"
    plain = f"{plain}-data" if plain in SPLITS else plain
    names = [plain, *(f"{plain}-{fingerprint[:length]}" for length in (8, 16))]
    return next((name for name in names if _is_free(run, name, fingerprint)), f"{plain}-{fingerprint}")


def _is_free(run: Run, name: str, fingerprint: str) -> bool:
    """Whether there is no report of this name, or one on these very pictures."""
    folder = run.path / "reports" / name
    if not (folder / "report.json").exists():
        return True
    try:
        return bool(Report.open(folder).content["dataset"]["fingerprint"] == fingerprint)
    except (RunError, KeyError, TypeError):
        return False  # whatever it is, it is not this


def _known(run: Run, dataset: Dataset, kept: Mapping[str, Any]) -> list[Finding]:
    """A warning when the run has learnt from some of these pictures, by their content."""
    learnt = set(kept.get("learnt_from", ()))
    again = sum(sample.checksum in learnt for sample in dataset.samples)
    if not again:
        return []
    message = (
        f"{again:,} of these {len(dataset):,} pictures have trained {run.name} or chosen its weights, so "
        "this is no test, and the numbers flatter it; for honest ones evaluate its test split."
    )
    return [Finding("trained_on_these", Outcome.WARN, "", message)]
